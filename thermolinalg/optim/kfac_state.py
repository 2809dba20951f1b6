"""What K-FAC remembers between steps, and what it tells of the last one."""

from typing import Any, NamedTuple

import jax

from thermolinalg.optim.factors import Pair
from thermolinalg.optim.kronecker import State
from thermolinalg.optim.solvers import Info


class KfacStats(NamedTuple):
    r"""What the last step did, all arrays.

    Attributes
    ----------
    learning_rate, momentum, damping : arrays ()
        As used.
    scale : array ()
        Factor by which a limit shortened the step, 1 for none.
    slope : array ()
        :math:`\langle P, g\rangle` over all blocks: positive for a descent direction.
    ratio, predicted : arrays ()
        Actual over predicted change of the loss, and the predicted one, at the last look; NaN before it.
    solves : dict of Info
        What the solvers reported, by block.
    condition : dict of arrays ()
        Upper bounds of the condition numbers of damped blocks, at the last refresh.
    rejected : array (), int
        Steps so far that were refused because loss, gradient, or all factors so far were not finite.
    fallbacks : array (), int
        Blocks so far that went along the plain gradient, because their solver failed or pointed uphill.
    seconds, joules : arrays ()
        Modelled time and energy of a device so far.
    """

    learning_rate: jax.Array
    momentum: jax.Array
    damping: jax.Array
    scale: jax.Array
    slope: jax.Array
    ratio: jax.Array
    predicted: jax.Array
    solves: dict[str, Info]
    condition: dict[str, jax.Array]
    rejected: jax.Array
    fallbacks: jax.Array
    seconds: jax.Array
    joules: jax.Array


class KfacState(NamedTuple):
    """Everything that K-FAC remembers: a pytree of arrays of fixed shapes and dtypes."""

    count: jax.Array  # type: ignore[assignment]  # the name that optax gives it
    measured: jax.Array
    key: jax.Array
    factors: dict[str, Pair]
    blocks: State
    damping: jax.Array
    lengths: dict[str, jax.Array]
    last: Any
    rest: Any
    graft: Any
    stats: KfacStats

    @property
    def accepted(self) -> jax.Array:
        """Steps that were not refused: what periods count by, so that a refused step is made up for by the next."""
        return self.count - self.stats.rejected
