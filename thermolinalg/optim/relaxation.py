r"""The exact law of a device that relaxes under a curvature of low rank, without time steps.

With the curvature :math:`F = M^\top M + \lambda I`, the gradient g and the temperature :math:`\kappa_0`, the state
moves by

.. math:: dx = -(F x - g)\,dt + \sqrt{2\kappa_0}\,dW

and every function of F acts through the Gram matrix :math:`K = MM^\top` of the rows:

.. math:: h(F) v = h(\lambda) v + M^\top \frac{h(K + \lambda) - h(\lambda)}{K} M v, \qquad
    h(F) M^\top c = M^\top h(K + \lambda) c

Directions that no row reaches, the exact zeros of K, decay at the rate :math:`\lambda` and are never excited.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermolinalg.laws import Scalar
from thermolinalg.optim.gram_functions import Engine, engine_for
from thermolinalg.optim.inverse_factor import product
from thermolinalg.optim.spectral_filters import Filter, decay, gain, spread
from thermolinalg.optim.trust import inner
from thermolinalg.ranges import check_not_negative, check_positive

Tree = Any


@dataclass(frozen=True)
class RowSystem:
    r"""What a device is loaded with, seen from the rows: M, its Gram matrix, and the gradient :math:`g = M^\top c + d`.

    Attributes
    ----------
    down : callable
        From a pytree like the parameters to M v, shape (r,).
    up : callable
        From u, shape (r,), to the pytree M^T u.
    gram : Array, shape (r, r)
        K.
    coordinates : Array, shape (r,)
        c.
    remainder : pytree, optional
        d, what the gradient has beside the rows; None for nothing.
    remainder_rows : Array, shape (r,), optional
        M d, where that is known.

    Notes
    -----
    d passes through 1/λ, as in every form of the step that starts from the gradient; c does not.
    """

    down: Callable[[Tree], jax.Array]
    up: Callable[[jax.Array], Tree]
    gram: jax.Array
    coordinates: jax.Array
    remainder: Tree | None = None
    remainder_rows: jax.Array | None = None


class Relaxed(NamedTuple):
    """States of the device, and how good they are.

    Attributes
    ----------
    states : tuple of pytrees
        After each duration, in the dtype of the Gram matrix.
    residual : Array
        True relative residual :math:`|Fx - g|/|g|` of the first state, noise included.
    unrelaxed : Array
        :math:`|e^{-Ft}g|/|g|`: the residual that a start at rest would have after the first duration.
    noise : Array
        Root mean square length of the noise that the first duration adds, estimated from the draw; 0 without noise.
    length : Array
        Of the first state.
    error : Array
        Bound of the relative error of the engine.
    steps : Array
        Steps of the engine.
    """

    states: tuple[Tree, ...]
    residual: jax.Array
    unrelaxed: jax.Array
    noise: jax.Array
    length: jax.Array
    error: jax.Array
    steps: jax.Array


def relax(
    system: RowSystem,
    damping: Scalar,
    durations: Sequence[Scalar],
    *,
    start: Tree | None = None,
    multiple: Scalar = 1.0,
    temperature: Scalar = 0.0,
    key: jax.Array | None = None,
    engine: Engine | None = None,
) -> Relaxed:
    r"""Draw the state of a device after some time, exactly.

    .. math:: x(t) = e^{-Ft} x_0 + \frac{1 - e^{-Ft}}{F} g + n, \qquad
        n \sim \mathcal N\Bigl(0,\; \kappa_0 \frac{1 - e^{-2Ft}}{F}\Bigr)

    Parameters
    ----------
    system : RowSystem
    damping : float, > 0
        λ.
    durations : sequence of float, >= 0
        Times between one reading and the next, the first counted from the start.
    start : pytree, optional
        :math:`x_0`, a state carried from elsewhere.
    multiple : float
        Without `start`, :math:`x_0` is that multiple of g: with 1 the answer runs from the gradient, at t = 0, to the
        natural gradient; 0 starts at rest.
    temperature : float, >= 0
        :math:`\kappa_0`. Noise needs a `key`, and one more product with M for each reading.
    engine : Diagonalisation or KrylovSpace, optional
        By default the faster one for that many rows.

    Returns
    -------
    Relaxed

    Raises
    ------
    ValueError
        If a number is out of range, no duration is given, or a temperature comes without a key.

    Notes
    -----
    It costs :math:`O(r^2 k)` beside the Gram matrix, one product with M for a carried start, and one with its transpose
    for each reading. Noise of several readings has the joint law of one path. What is below the roundoff of K relative
    to its largest eigenvalue is not resolved, whatever the damping.

    References
    ----------
    *Thermodynamic natural gradient descent*, arXiv:2405.13817.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> M = jnp.array([[2.0, 0.0]])
    >>> system = RowSystem(lambda v: M @ v, lambda u: M.T @ u, M @ M.T, jnp.array([1.0]))
    >>> [round(x, 4) for x in relax(system, 1.0, [0.0]).states[0].tolist()]
    [2.0, 0.0]
    >>> [round(x, 4) for x in relax(system, 1.0, [1e6]).states[0].tolist()]
    [0.4, 0.0]
    """
    check_positive(damping=damping)
    check_not_negative(temperature=temperature, **{f"durations[{i}]": t for i, t in enumerate(durations)})
    if not durations:
        raise ValueError("durations is empty; give the time of at least one reading")
    noisy = not (isinstance(temperature, int | float) and temperature == 0)
    dtype = system.gram.dtype
    lam, multiple = (jnp.asarray(x).astype(dtype) for x in (damping, multiple))
    spans = [jnp.asarray(t).astype(dtype) for t in durations]
    ends = list(accumulate(spans))
    left = decay(ends[0])
    driven = [gain(t) if start is not None else gain(t) + decay(t).times(multiple) for t in ends]

    # Filters of every vector for the answers: readings, what is left of the gradient, and noise by itself.
    terms = [_Term(None, system.coordinates.astype(dtype).reshape(-1), [*driven, left, None])]
    beside = None
    if start is not None:
        terms.append(_term(system, start, [*(decay(t) for t in ends), None, None]))
    if system.remainder is not None:
        beside = _term(system, system.remainder, [*driven, left, None], system.remainder_rows)
        terms.append(beside)
    if noisy:
        if key is None:
            raise ValueError("a device with a temperature is noisy: give a PRNG key")
        size = jnp.sqrt(jnp.asarray(temperature).astype(dtype))
        for i, z in enumerate(_draws(system, key, len(spans))):
            fresh = spread(spans[i]).times(size)
            later = [fresh * decay(ends[j] - ends[i]) for j in range(i + 1, len(spans))]
            terms.append(_term(system, z, [*[None] * i, fresh, *later, None, fresh if i == 0 else None]))

    def function(s: jax.Array) -> jax.Array:
        return jnp.stack([jnp.stack([term.inside(j, s, lam) for term in terms]) for j in range(len(spans) + 2)])

    engine = engine_for(len(system.gram)) if engine is None else engine
    # Where no time passes nothing is to be resolved, and any shift will do.
    shift = lam + 1 / jnp.maximum(ends[-1], jnp.finfo(dtype).tiny ** 0.25)
    found = engine.apply(system.gram, jnp.stack([term.rows for term in terms], 1), function, shift)
    answers = [_answer(terms, j, lam, u) for j, u in enumerate(found.values)]

    gradient = _Answer(terms[0].rows, *((None, jnp.zeros_like(terms[0].rows)) if beside is None else beside[:2]))
    size_of = partial(_length, system.gram)
    scale = size_of(gradient)
    scale = jnp.where(scale > 0, scale, 1)
    numbers = (
        *(size_of(_misfit(system.gram, answers[0], gradient, lam)) / scale, size_of(answers[-2]) / scale),
        *(size_of(answers[-1]), size_of(answers[0]), found.error, found.steps),
    )
    states = tuple(_add(system.up(x.rows), x.outer, dtype) for x in answers[: len(spans)])
    return Relaxed(states, *(jnp.asarray(x).astype(jnp.float32) for x in numbers))


class _Term(NamedTuple):
    """A vector v as a pytree, M v, and its filters; without a pytree the vector is M^T of the rows."""

    outer: Tree | None
    rows: jax.Array
    filters: list[Filter | None]

    def inside(self, j: int, s: jax.Array, lam: jax.Array) -> jax.Array:
        """What answer j takes of the rows."""
        h = self.filters[j]
        if h is None:
            return jnp.zeros_like(s)
        return h.value(s + lam) if self.outer is None else h.slope(s, lam)


class _Answer(NamedTuple):
    """The vector M^T u + p: u, p as a pytree or None, and M p."""

    rows: jax.Array
    outer: Tree | None
    seen: jax.Array


def _term(system: RowSystem, v: Tree, filters: list[Filter | None], rows: jax.Array | None = None) -> _Term:
    dtype = system.gram.dtype
    if rows is None:
        rows = system.down(jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), v, _shape(system)))
    return _Term(jax.tree.map(lambda leaf: leaf.astype(dtype), v), rows.astype(dtype).reshape(-1), filters)


def _answer(terms: list[_Term], j: int, lam: jax.Array, u: jax.Array) -> _Answer:
    """Answer j, whose rows are known."""
    outer, seen = None, jnp.zeros_like(u)
    for term in terms[1:]:
        h = term.filters[j]
        if h is not None:
            factor = h.value(lam)
            part = jax.tree.map(lambda leaf, factor=factor: factor * leaf, term.outer)
            outer = part if outer is None else jax.tree.map(jnp.add, outer, part)
            seen = seen + factor * term.rows
    return _Answer(u, outer, seen)


def _misfit(gram: jax.Array, x: _Answer, gradient: _Answer, lam: jax.Array) -> _Answer:
    """F x - g."""
    rows = x.seen + product(gram, x.rows) + lam * x.rows - gradient.rows
    outer = None if x.outer is None else jax.tree.map(lambda leaf: lam * leaf, x.outer)
    if gradient.outer is not None:
        outer = jax.tree.map(lambda p, d: p - d, outer, gradient.outer)
    return _Answer(rows, outer, lam * x.seen - gradient.seen)


def _length(gram: jax.Array, x: _Answer) -> jax.Array:
    """Length of M^T u + p, without M^T."""
    square = x.rows @ product(gram, x.rows) + 2 * (x.rows @ x.seen)
    if x.outer is not None:
        square = square + inner(x.outer, x.outer).astype(square.dtype)
    return jnp.sqrt(jnp.maximum(square, 0))


def _add(x: Tree, outer: Tree | None, dtype: jnp.dtype) -> Tree:
    x = jax.tree.map(lambda leaf: leaf.astype(dtype), x)
    return x if outer is None else jax.tree.map(jnp.add, x, outer)


def _shape(system: RowSystem) -> Tree:
    """Shapes and dtypes of the parameters."""
    return jax.eval_shape(system.up, system.coordinates)


def _draws(system: RowSystem, key: jax.Array, count: int) -> list[Tree]:
    """Standard normal pytrees like the parameters, in the dtype of the Gram matrix."""
    shapes = _shape(system)
    leaves = jax.tree.leaves(shapes)
    keys = jax.random.split(key, (count, len(leaves)))
    dtype = system.gram.dtype
    return [
        jax.tree.unflatten(
            jax.tree.structure(shapes),
            [jax.random.normal(k, x.shape, dtype) for k, x in zip(row, leaves, strict=True)],
        )
        for row in keys
    ]
