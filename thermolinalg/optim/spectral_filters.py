r"""Functions of a relaxation rate, each with its divided difference, free of cancellation where results depend on it.

With a low-rank matrix :math:`F = M^\top M + \lambda I`, :math:`h(F) v = h(\lambda) v + M^\top D(K) M v`, where
:math:`D(s) = (h(s + \lambda) - h(\lambda))/s` and :math:`K = MM^\top`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from thermolinalg.relaxation import phi1

_TERMS = 20


@dataclass(frozen=True)
class Filter:
    r"""A function h of a rate.

    Attributes
    ----------
    value : callable
        h(s).
    slope : callable
        From s and λ to :math:`(h(s + \lambda) - h(\lambda))/s`.
    """

    value: Callable[[jax.Array], jax.Array]
    slope: Callable[[jax.Array, jax.Array], jax.Array]

    def __add__(self, other: "Filter") -> "Filter":
        return Filter(lambda s: self.value(s) + other.value(s), lambda s, lam: self.slope(s, lam) + other.slope(s, lam))

    def __mul__(self, other: "Filter") -> "Filter":
        return Filter(
            lambda s: self.value(s) * other.value(s),
            lambda s, lam: self.value(s + lam) * other.slope(s, lam) + self.slope(s, lam) * other.value(lam),
        )

    def times(self, factor: jax.Array) -> "Filter":
        """Return the function times a number."""
        return Filter(lambda s: factor * self.value(s), lambda s, lam: factor * self.slope(s, lam))


def decay(time: jax.Array) -> Filter:
    r"""Return :math:`e^{-st}`, what is left of a start."""
    return Filter(lambda s: jnp.exp(-s * time), lambda s, lam: -jnp.exp(-lam * time) * time * phi1(s * time))


def gain(time: jax.Array) -> Filter:
    r"""Return :math:`(1 - e^{-st})/s`, what a constant force has done; at most t."""
    return Filter(lambda s: time * phi1(s * time), lambda s, lam: _gain_slope(s, lam, time))


def spread(time: jax.Array) -> Filter:
    r"""Return :math:`\sqrt{(1 - e^{-2st})/s}`, the standard deviation that noise of unit temperature has built up."""
    variance = gain(2 * time)

    def slope(s: jax.Array, lam: jax.Array) -> jax.Array:
        total = jnp.sqrt(variance.value(s + lam)) + jnp.sqrt(variance.value(lam))
        return variance.slope(s, lam) / jnp.where(total > 0, total, 1)

    return Filter(lambda s: jnp.sqrt(variance.value(s)), slope)


def _gain_slope(s: jax.Array, lam: jax.Array, time: jax.Array) -> jax.Array:
    r"""The divided difference of the gain: :math:`-\int_0^t e^{-\lambda\tau}(1 - e^{-s\tau})/s\,d\tau`."""
    far, near = (s + lam) * time, lam * time
    small = far < 1
    # In closed form the difference of two numbers close to t where rates are small; there, term by term.
    x, y = jnp.where(small, far, 0), jnp.where(small, near, 0)
    power, sum_of_products, series, sign = jnp.ones_like(y), jnp.ones_like(x), jnp.zeros_like(x), 1.0
    factorial = 1.0
    for k in range(1, _TERMS):
        factorial *= k + 1
        sign = -sign
        series = series + sign / factorial * sum_of_products
        power = power * y
        sum_of_products = sum_of_products * x + power
    rate = jnp.where(small, 1, s + lam)
    closed = (jnp.exp(-near) * time * phi1(s * time) - time * phi1(near)) / rate
    return jnp.where(small, time**2 * series, closed)
