"""Fixed-step integration: one loop over the steps, for any scheme.

Either the noise is a path drawn beforehand, and the states are kept, or it is drawn in blocks as the run goes on, and
only what an observer makes of the states is kept.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.ranges import check_positive, check_whole
from thermolinalg.sde.brownian import BLOCK, BrownianPath, block
from thermolinalg.sde.scheme import Scheme

Carry = TypeVar("Carry")


def integrate(
    equation: Any, scheme: Scheme, start: Any, path: BrownianPath, *, t0: Scalar = 0.0, every: int = 1
) -> Any:
    """Integrate an equation along a Brownian path, and return the states.

    Parameters
    ----------
    equation : Equation, or LangevinEquation for its schemes
    scheme : Scheme
    start : array, shape (d,), or what else the scheme calls a state
    path : BrownianPath
        Increments, and areas if the scheme reads them, in the type of `start`.
    t0 : float
        Time at the start.
    every : int, >= 1
        Keep every so many-th state. Steps after the last one kept are not run.

    Returns
    -------
    Array, shape (n // every + 1, d)
        The states, the start among them; a pytree with this leading axis where the state is one.

    Raises
    ------
    ValueError
        If the equation does not fit the scheme, or shapes or types of start, drift, diffusion and path do not agree.

    Notes
    -----
    Derivatives of all orders, forward and reverse, with respect to `start`, the arguments of the equation, and the
    path. Reverse ones store every step.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.sde import EulerMaruyama, Equation, Noise, brownian_path
    >>> relaxation = Equation(lambda t, x, rate: -rate * x, lambda t, x, rate: jnp.ones_like(x), 2.0, Noise.ADDITIVE)
    >>> path = brownian_path(jax.random.key(0), 100, 3, 0.01)
    >>> integrate(relaxation, EulerMaruyama(), jnp.zeros(3), path, every=10).shape
    (11, 3)
    """
    check_whole("every", every, 1)
    state = _as_state(start)
    _check_path(path, _needed(equation, scheme, state), scheme, _type(state))
    return _integrate(equation, scheme, state, path, t0, int(every))


def accumulate(
    equation: Any,
    scheme: Scheme,
    start: Any,
    key: jax.Array,
    *,
    step: Scalar,
    steps: Scalar,
    observe: Callable[[Carry, jax.Array, Any], Carry],
    carry: Carry,
    t0: Scalar = 0.0,
) -> tuple[Any, Carry]:
    """Integrate an equation for any number of steps, and keep what an observer makes of the states.

    Parameters
    ----------
    equation : Equation, or LangevinEquation for its schemes
    scheme : Scheme
    start : array, shape (d,), or what else the scheme calls a state
    key : PRNG key
        The noise is that of ``brownian_path(key, ...)``, drawn in blocks on the way.
    step : float, > 0
        Length of a step in units of time.
    steps : int, >= 0
        Number of steps; may be known at run time only.
    observe : callable
        ``carry = observe(carry, t, state)``, after each step. Pass the same function object again, and nothing is
        compiled twice.
    carry : pytree
        What the observer starts from.
    t0 : float
        Time at the start.

    Returns
    -------
    state
        At the end.
    carry
        What the observer made of the states.

    Raises
    ------
    ValueError
        As :func:`integrate`, and if `step` or `steps` are out of range.

    Notes
    -----
    Memory does not grow with the number of steps. The number of steps being open, derivatives are forward ones; for
    reverse ones use :func:`integrate`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.sde import EulerMaruyama, Equation, Noise
    >>> relaxation = Equation(lambda t, x, rate: -rate * x, lambda t, x, rate: jnp.ones_like(x), 2.0, Noise.ADDITIVE)
    >>> state, total = accumulate(relaxation, EulerMaruyama(), jnp.zeros(3), jax.random.key(0), step=0.01, steps=10_000,
    ...                           observe=lambda total, t, x: total + x**2, carry=jnp.zeros(3))
    >>> bool(jnp.all(jnp.abs(total / 10_000 - 0.25) < 0.2))  # the stationary variance
    True
    """
    state = _as_state(start)
    columns = _needed(equation, scheme, state)
    check_positive(step=step)
    if is_concrete(steps) and (int(steps) != steps or steps < 0):
        raise ValueError(f"steps must be a whole number of at least 0, got {steps}")
    carry = jax.tree.map(jnp.asarray, carry)
    length = jnp.asarray(step).astype(_type(state))
    return _accumulate(equation, scheme, state, key, length, jnp.asarray(steps), t0, carry, observe, columns)


@partial(jax.jit, static_argnums=5)
def _integrate(equation, scheme, start, path, t0, every):
    advance = _stepper(equation, scheme, path.step, t0)
    kept = path.steps // every
    increments, areas = (
        None if noise is None else noise[: kept * every].reshape(kept, every, *noise.shape[1:])
        for noise in (path.increments, path.areas)
    )

    def stretch(state, inputs):
        first, *noise = inputs
        if every == 1:
            state = advance(state, (first, *(None if x is None else x[0] for x in noise)))
        else:
            state, _ = jax.lax.scan(lambda s, x: (advance(s, x), None), state, (first + jnp.arange(every), *noise))
        return state, state

    _, states = jax.lax.scan(stretch, start, (every * jnp.arange(kept), increments, areas))
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, states)


@partial(jax.jit, static_argnums=(8, 9))
def _accumulate(equation, scheme, start, key, step, steps, t0, carry, observe, columns):
    advance = _stepper(equation, scheme, step, t0)
    begin = jnp.asarray(t0).astype(step.dtype)

    def stretch(index, loop):
        noise = block(key, index, columns, step, scheme.areas)
        first = index * BLOCK

        def one(i, loop):
            state, carry = loop
            state = advance(state, (first + i, noise.increments[i], None if noise.areas is None else noise.areas[i]))
            return state, observe(carry, begin + (first + i + 1).astype(step.dtype) * step, state)

        return jax.lax.fori_loop(0, jnp.minimum(BLOCK, steps - first), one, loop)

    return jax.lax.fori_loop(0, (steps + (BLOCK - 1)) // BLOCK, stretch, (start, carry))


def _stepper(equation, scheme, step, t0):
    """One step, from the state and (number of the step, increment, area)."""
    prepared = scheme.prepare(equation, step)
    begin = jnp.asarray(t0).astype(step.dtype)

    def advance(state, inputs):
        index, increment, area = inputs
        # A product, not a sum of steps: the time of a late step has one rounding error.
        t = begin + index.astype(step.dtype) * step
        return scheme.step(equation, prepared, t, state, step, increment, area if scheme.areas else None)

    return advance


def _as_state(start):
    state = jax.tree.map(jnp.asarray, start)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state)}
    if len(kinds) != 1 or not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise ValueError(f"start must hold real floating-point numbers of one type, got {sorted(map(str, kinds))}")
    return state


def _type(state):
    return jax.tree.leaves(state)[0].dtype


def _needed(equation, scheme, state):
    scheme.check(equation)
    return scheme.noises(equation, state)


def _check_path(path, columns, scheme, kind):
    if path.increments.ndim != 2 or path.increments.shape[1] != columns:
        found = path.increments.shape
        raise ValueError(f"path must have increments of shape (n, {columns}) for this equation, received {found}")
    if scheme.areas and path.areas is None:
        raise ValueError(f"{type(scheme).__name__} reads areas, which path has not; draw it with areas=True")
    if path.increments.dtype != kind or jnp.asarray(path.step).dtype != kind:
        raise ValueError(f"path and start must have one type, got {path.increments.dtype} and {kind}; use dtype=")
