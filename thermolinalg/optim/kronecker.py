r"""Blocks of a Kronecker-factored curvature: how they are damped, prepared and applied to a gradient.

A block of the curvature is approximated by :math:`A \otimes G`, and what an optimizer wants of it is
:math:`(A \otimes G + \lambda I)^{-1}` applied to a gradient of the shape of the block's matrix. Everything here takes
all blocks at once, as dictionaries from the path of a weight.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from thermolinalg.optim.factors import Pair
from thermolinalg.optim.solvers import CholeskyInverse, Code, Info, Solver, report

State = Any
Blocks = dict[str, jax.Array]
Rows = dict[str, tuple[jax.Array, jax.Array]]


@dataclass(frozen=True)
class Gradient:
    """The gradient of every block as a matrix, and the rows it is the sum of outer products of, on demand.

    Attributes
    ----------
    matrices : dict of arrays (*lead, rows, columns)
    rows : callable
        Returns a dict of pairs (N, *lead, rows) and (N, *lead, columns) whose outer products sum to the matrices.
    """

    matrices: Blocks
    rows: Callable[[], Rows]


@runtime_checkable
class BlockSolver(Protocol):
    """What K-FAC asks of whatever inverts its blocks.

    ``init`` shapes the state, ``observe`` sees the rows of the curvature whenever factors are measured, ``prepare``
    does all that is done once per refresh, ``apply`` preconditions one gradient. States are pytrees of arrays whose
    shapes and dtypes never change.
    """

    def init(self, factors: dict[str, Pair]) -> State:
        """Shape the state."""

    def observe(self, rows: Callable[[], Rows], decay: jax.Array, state: State) -> State:
        """See the rows of the curvature of one batch."""

    def prepare(self, factors: dict[str, Pair], damping: jax.Array, state: State, key: jax.Array) -> State:
        """Do what can be done before a gradient is known."""

    def apply(self, gradient: Gradient, state: State, key: jax.Array) -> tuple[Blocks, dict[str, Info], State]:
        """Precondition a gradient."""


class Damped(NamedTuple):
    """A Kronecker pair and what is added to the diagonal of each factor."""

    a: jax.Array
    g: jax.Array
    left: jax.Array
    right: jax.Array


def factored_damping(pair: Pair, damping: jax.Array) -> Damped:
    r"""Split the damping of a Kronecker product over its factors.

    .. math:: A + \pi\sqrt\lambda I, \quad G + \frac{\sqrt\lambda}{\pi} I, \qquad
        \pi^2 = \frac{\operatorname{tr} A / d_A}{\operatorname{tr} G / d_G}

    Parameters
    ----------
    pair : Pair
        Factors without leading axes; the first may be a diagonal.
    damping : array (), > 0

    Returns
    -------
    Damped
        The factors with what has to be added to their diagonals. Only the product matters: a scalar moved from one
        factor to the other changes nothing.

    Notes
    -----
    The product dominates :math:`A \otimes G + \lambda I`, by two cross terms: it damps more than was asked for; use
    :class:`~thermolinalg.optim.Eigenbases` for the exact one. A factor of size one takes no damping, the other takes
    all. If a factor is zero, so much is added to the other that the product is :math:`\lambda I` to rounding.

    References
    ----------
    Martens and Grosse, *Optimizing neural networks with Kronecker-factored approximate curvature*, arXiv:1503.05671.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> d = factored_damping(Pair(4.0 * jnp.eye(3), jnp.eye(2)), jnp.asarray(0.01))
    >>> round(float(d.left), 6), round(float(d.right), 6)
    (0.2, 0.05)
    """
    a, g = pair.a, pair.g
    trace_a = jnp.sum(a) if pair.diagonal else jnp.trace(a)
    trace_g = jnp.trace(g)
    damping = jnp.asarray(damping, g.dtype)
    root, tiny = jnp.sqrt(damping), jnp.finfo(g.dtype).eps
    # Logarithms: a ratio of traces may leave the range of float32 where its root does not.
    mean = [jnp.log(jnp.where(t > 0, t, jnp.ones_like(t)) / d) for t, d in ((trace_a, len(a)), (trace_g, len(g)))]
    pi = jnp.exp((mean[0] - mean[1]) / 2)
    # A factor of size one, or zero, takes none: next to this much, the other counts for nothing if it is zero.
    alone_a, alone_g = jnp.maximum(root, trace_a / tiny), jnp.maximum(root, trace_g / tiny)
    right = jnp.where(trace_a > 0, root / pi, alone_g)
    left = jnp.where(trace_g > 0, jnp.where(trace_a > 0, root * pi, damping / right), alone_a)
    right = jnp.where(trace_g > 0, right, damping / left)
    if len(a) == 1:
        left, right = jnp.where(trace_a > 0, 0, left), jnp.where(trace_a > 0, damping / trace_a, right)
    elif len(g) == 1:
        left, right = jnp.where(trace_g > 0, damping / trace_g, left), jnp.where(trace_g > 0, 0, right)
    return Damped(a, g, left, right)


@dataclass(frozen=True)
class Factored:
    r"""Damp both factors of a block, and invert each by a solver.

    .. math:: V \mapsto (A + \pi\sqrt\lambda I)^{-1} V (G + \sqrt\lambda/\pi\, I)^{-1}

    Parameters
    ----------
    solver : Solver
        For factors of either side: explicit inverses by default, since they are applied more often than refreshed. A
        diagonal factor (embeddings) needs none.

    Notes
    -----
    The cost of one application is :math:`2 d_A d_G (d_A + d_G)` with an explicit inverse. See
    :func:`factored_damping` for what the damping means.
    """

    solver: Solver = field(default_factory=CholeskyInverse)

    def init(self, factors: dict[str, Pair]) -> State:
        """Shape the state of the solver of every factor."""
        return {path: self._init(pair) for path, pair in factors.items()}

    def observe(self, rows: Callable[[], Rows], decay: jax.Array, state: State) -> State:
        """Factors are all this needs to know."""
        del rows, decay
        return state

    def prepare(self, factors: dict[str, Pair], damping: jax.Array, state: State, key: jax.Array) -> State:
        """Damp and hand every factor to the solver."""
        return {
            path: over_lead(self._prepare, len(pair.lead))(pair, state[path], member_keys(key, i, pair.lead), damping)
            for i, (path, pair) in enumerate(factors.items())
        }

    def apply(self, gradient: Gradient, state: State, key: jax.Array) -> tuple[Blocks, dict[str, Info], State]:
        """Solve for the columns of every gradient, then for its rows."""
        return apply_each(self.solve_pair, gradient.matrices, state, key)

    def solve_pair(self, matrix: jax.Array, state: State, key: jax.Array) -> tuple[jax.Array, Info, State]:
        """Both sides of one block without leading axes."""
        first, second = jax.random.split(key)
        half, left, a = self.solve_side(matrix, state["a"], first)
        full, right, g = self.solve_side(half.T, state["g"], second)
        return full.T, worst([left, right]), {"a": a, "g": g}

    def solve_side(self, rhs: jax.Array, state: State, key: jax.Array) -> tuple[jax.Array, Info, State]:
        """One factor's inverse applied to columns."""
        if isinstance(state, Reciprocal):
            return state.value[:, None] * rhs, report(Code.OK, jnp.nan), state
        return self.solver.apply(rhs, state, key)

    def _init(self, pair: Pair) -> State:
        sides = []
        for matrix, size in ((pair.a, pair.rows), (pair.g, pair.columns)):
            shape = jax.ShapeDtypeStruct((size, size), matrix.dtype)
            small = size == 1 or (matrix is pair.a and pair.diagonal)
            one = Reciprocal(jnp.ones((size,), matrix.dtype)) if small else self.solver.init(shape)
            sides.append(jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, pair.lead + jnp.shape(leaf)), one))
        return {"a": sides[0], "g": sides[1]}

    def _prepare(self, pair: Pair, state: State, key: jax.Array, damping: jax.Array) -> State:
        first, second = jax.random.split(key)
        damped = factored_damping(pair, damping)
        return {
            "a": self._prepare_side(damped.a, damped.left, state["a"], first),
            "g": self._prepare_side(damped.g, damped.right, state["g"], second),
        }

    def _prepare_side(self, matrix: jax.Array, damping: jax.Array, state: State, key: jax.Array) -> State:
        if isinstance(state, Reciprocal):
            return Reciprocal(1 / (matrix.reshape(-1) + damping))
        return self.solver.prepare(matrix, damping, state, key)


class Reciprocal(NamedTuple):
    """The inverse of a diagonal factor."""

    value: jax.Array


def over_lead(function: Callable[..., Any], axes: int) -> Callable[..., Any]:
    """Map a function of a block, its state and a key over the leading axes of a stack, one member after another.

    Not at once by ``vmap``: two batched factorisations of LAPACK that run side by side on a processor of few cores wait
    for each other for ever (seen with jaxlib 0.10.2).
    """
    for _ in range(axes):
        inner = function

        def mapped(first: Any, second: Any, key: jax.Array, *shared: Any, inner: Callable[..., Any] = inner) -> Any:
            return jax.lax.map(lambda each: inner(*each, *shared), (first, second, key))

        function = mapped
    return function


def member_keys(key: jax.Array, index: int, lead: tuple[int, ...]) -> jax.Array:
    """One key for a block, or one for each of its members."""
    own = jax.random.fold_in(key, index)
    return jax.random.split(own, lead) if lead else own


def apply_each(
    solve: Callable[[jax.Array, State, jax.Array], tuple[jax.Array, Info, State]],
    matrices: Blocks,
    state: State,
    key: jax.Array,
) -> tuple[Blocks, dict[str, Info], State]:
    """Apply the solver of one block to all, members of a stack side by side."""
    values, infos, states = {}, {}, {}
    for i, (path, matrix) in enumerate(matrices.items()):
        lead = matrix.shape[:-2]
        run = over_lead(solve, len(lead))
        values[path], info, states[path] = run(matrix, state[path], member_keys(key, i, lead))
        infos[path] = worst([info])
    return values, infos, states


def worst(infos: list[Info]) -> Info:
    """Join what solvers report: the largest code, residual, steps and error; the sum of time and energy."""
    flat = [jnp.concatenate([jnp.ravel(part) for part in parts]) for parts in zip(*infos, strict=True)]
    code, residual, steps, stderr, seconds, joules = flat
    # A residual nobody computed is NaN, and says nothing about the others.
    known = jnp.where(jnp.all(jnp.isnan(residual)), jnp.nan, jnp.max(jnp.nan_to_num(residual, nan=0.0)))
    return Info(jnp.max(code), known, jnp.max(steps), jnp.max(stderr), jnp.sum(seconds), jnp.sum(joules))


def replace_failed(
    found: dict[str, jax.Array], gradient: dict[str, jax.Array], lengths: dict[str, jax.Array], healthy: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array], jax.Array]:
    """Put the gradient, at the length of the last good direction, in the place of what failed or points uphill."""
    values, kept, failed = {}, {}, jnp.zeros((), jnp.int32)
    for path, value in found.items():
        plain = gradient[path]
        size = jnp.sqrt(jnp.sum(plain**2))
        still = size == 0
        good = jnp.all(jnp.isfinite(value)) & ((jnp.sum(value * plain) > 0) | still)
        scale = lengths[path].astype(plain.dtype) / jnp.where(still, jnp.ones_like(size), size)
        values[path] = jnp.where(good, value, scale * plain)
        length = jnp.sqrt(jnp.sum(jnp.where(good, value, jnp.zeros_like(value)) ** 2)).astype(jnp.float32)
        kept[path] = jnp.where(good & ~still & healthy, length, lengths[path])
        failed = failed + jnp.where(good, 0, 1).astype(jnp.int32)
    return values, kept, failed


def condition_bound(pair: Pair, damping: jax.Array) -> jax.Array:
    """No damped block is worse conditioned than this: norms of the factors beside what is added to them."""

    def one(pair: Pair, damping: jax.Array, unused: jax.Array) -> jax.Array:
        del unused
        damped = factored_damping(pair, damping)
        bound = jnp.ones((), pair.g.dtype)
        for matrix, added in ((damped.a, damped.left), (damped.g, damped.right)):
            if matrix.size > 1:
                norm = jnp.max(matrix) if matrix.ndim == 1 else jnp.sqrt(jnp.sum(matrix**2))
                bound = bound * (1 + norm / added)
        return bound

    each = jnp.broadcast_to(jnp.asarray(damping, pair.g.dtype), pair.lead)
    found = over_lead(one, len(pair.lead))(pair, each, each)
    return jnp.max(found).astype(jnp.float32)
