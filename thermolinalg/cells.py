r"""Cells that do not obey the linear equation: what an integrator can run, and no closed form describes.

All of them move by the force :math:`b - s(t)\,A\,y(x)`, where y is what a cell shows to the others and to the reader.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.laws import Scalar
from thermolinalg.ranges import check_finite, check_order, check_positive


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Linear:
    """Cells as the equation has them."""

    @property
    def linear(self) -> bool:
        """Whether the laws of the library hold for them."""
        return type(self) is Linear

    @property
    def correlation_time(self) -> Scalar | None:
        """Time over which their noise is correlated; None for white noise."""
        return None

    @property
    def smooth(self) -> bool:
        """Whether their state moves smoothly, so that schemes of higher order keep it."""
        return True

    def output(self, x: jax.Array) -> jax.Array:
        """What cells in this state show."""
        return x

    def gain(self, t: jax.Array) -> Scalar:
        """Factor of all couplings at a time."""
        return 1.0

    def confine(self, x: jax.Array) -> jax.Array:
        """The nearest state that they can be in."""
        return x


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Saturating(Linear):
    r"""Amplifiers that saturate: :math:`y = L\tanh(x/L)`.

    Parameters
    ----------
    limit : float, > 0
        L, the largest output.

    Notes
    -----
    Outputs relax to the solution of :math:`Ay = b` all the same, and so does their mean with noise, if every entry of
    the solution is smaller than L. If one is not, the cell drifts away, and its output sticks at the limit. Covariances
    of outputs are smaller than :math:`A^{-1}/\beta`.
    """

    limit: Scalar

    def __post_init__(self) -> None:
        check_positive(limit=self.limit)

    def output(self, x: jax.Array) -> jax.Array:
        limit = jnp.asarray(self.limit).astype(x.dtype)
        return limit * jnp.tanh(x / limit)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clamped(Linear):
    r"""Coordinates that diodes keep in a box: :math:`l \le x \le h`.

    Without noise they settle at the solution of the quadratic program

    .. math:: \min_x \tfrac12 x^\top Ax - b^\top x \quad\text{with}\quad l \le x \le h.

    Parameters
    ----------
    low, high : float or array (d,)
        Ends of the box.

    Notes
    -----
    Ideal diodes: a step that leaves the box ends on its surface, and a momentum into it is lost. Steps of Euler and
    Maruyama, the default for them, come to rest at the solution exactly; schemes that look ahead of a step beside it.
    With noise the law is the normal one restricted to the box, whose mean is not the solution; steps are right to order
    1/2 of their length.
    """

    low: Any
    high: Any

    def __post_init__(self) -> None:
        check_finite(low=self.low, high=self.high)
        check_order(low=self.low, high=self.high)

    @property
    def smooth(self) -> bool:
        return False

    def confine(self, x: jax.Array) -> jax.Array:
        return jnp.clip(x, jnp.asarray(self.low).astype(x.dtype), jnp.asarray(self.high).astype(x.dtype))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Coloured(Linear):
    r"""Noise with a memory: :math:`dx = -(Ax - b)\,dt + \eta\,dt`, :math:`\tau_c\,d\eta = -\eta\,dt +
    \sqrt{2/\beta}\,dW`.

    Parameters
    ----------
    time : float, > 0
        :math:`\tau_c`.

    Notes
    -----
    The mean stays, and the covariance becomes :math:`A^{-1}(I + \tau_c A)^{-1}/\beta`: fast modes are colder.
    """

    time: Scalar

    def __post_init__(self) -> None:
        check_positive(time=self.time)

    @property
    def correlation_time(self) -> Scalar | None:
        return self.time


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Drifting(Linear):
    """Couplings that change during a run: A times 1 + rate t, as when the chip warms up.

    Parameters
    ----------
    rate : float
        Relative change in a natural unit of time, from the start of the run. A run that is long enough for them to
        change sign has no law.
    """

    rate: Scalar

    def __post_init__(self) -> None:
        check_finite(rate=self.rate)

    def gain(self, t: jax.Array) -> Scalar:
        return 1 + jnp.asarray(self.rate).astype(t.dtype) * t
