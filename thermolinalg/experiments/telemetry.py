"""What an optimizer tells of itself, wherever in its state it keeps it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermolinalg.optim.solvers import Info


class Telemetry(NamedTuple):
    """Counts and modelled costs so far, and how the last step's solves went; zeros where nothing is told.

    Attributes
    ----------
    rejected : array (), int
        Steps that were refused.
    fallbacks : array (), int
        Blocks that went along the plain gradient.
    seconds, joules : arrays ()
        Modelled time and energy of a device.
    code : array (), int
        The worst :class:`~thermolinalg.optim.solvers.Code` of the last step.
    """

    rejected: jax.Array
    fallbacks: jax.Array
    seconds: jax.Array
    joules: jax.Array
    code: jax.Array


def telemetry(state: Any) -> Telemetry:
    """Return what every ``stats`` in a state tells, joined.

    Examples
    --------
    >>> import optax
    >>> telemetry(optax.adam(1e-3).init({"w": jnp.zeros(2)})).rejected.item()
    0
    """
    found = list(_stats(state))

    def total(name: str, dtype: Any) -> jax.Array:
        return sum((jnp.asarray(getattr(s, name, 0), dtype) for s in found), jnp.zeros((), dtype))

    code = jnp.zeros((), jnp.int32)
    for info in jax.tree.leaves(found, is_leaf=lambda leaf: isinstance(leaf, Info)):
        if isinstance(info, Info):
            code = jnp.maximum(code, jnp.max(info.code).astype(jnp.int32))
    return Telemetry(
        total("rejected", jnp.int32),
        total("fallbacks", jnp.int32),
        total("seconds", jnp.float32),
        total("joules", jnp.float32),
        code,
    )


def _stats(state: Any) -> Iterator[Any]:
    """Every attribute ``stats`` in nested tuples."""
    if not isinstance(state, tuple):
        return
    if hasattr(state, "stats"):
        yield state.stats
        return
    for part in state:
        yield from _stats(part)
