"""A statistic, its law under the assumption that all is well, and the verdict."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, gammainc, gammaincc
from jax.scipy.stats import norm

LEVEL = 0.01
"""Rate at which a family of tests fails although nothing is wrong."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Check:
    """One test of a certificate.

    Attributes
    ----------
    statistic : Array
        Near one where nothing is wrong.
    degrees : Array
        Degrees of freedom of its law.
    p_value : Array
        Probability of a value that is less likely, if nothing is wrong.
    level : float
        The test fails below this p-value: 0.01 over the number of tests that are made together.
    """

    statistic: jax.Array
    degrees: jax.Array
    p_value: jax.Array
    level: float = field(default=LEVEL, metadata={"static": True})

    @property
    def passed(self) -> jax.Array:
        """Whether the p-value is at least the level; False if it is not a number."""
        return self.p_value >= self.level


def two_sided_gamma(shape: jax.Array, ratio: jax.Array) -> jax.Array:
    """Two-sided p-value of a gamma variable of this shape over its mean, equal tails.

    Notes
    -----
    Beyond a shape of 1000 by the cube root of Wilson and Hilferty, where the series of the exact tail get long; there
    the tails agree to a per cent down to 1e-6.
    """
    few = shape < 1e3
    small = jnp.where(few, shape, 1.0)
    value = jnp.maximum(ratio, 0)
    scaled = jnp.where(few, small * value, 1.0)
    # Both tails by themselves: one minus the other would end at the rounding error.
    exact = jnp.minimum(gammainc(small, scaled), gammaincc(small, scaled))
    spread = 1 / (9 * jnp.where(few, 1.0, shape))
    z = (jnp.cbrt(value) - (1 - spread)) / jnp.sqrt(spread)
    return jnp.minimum(2 * jnp.where(few, exact, norm.cdf(-jnp.abs(z))), 1.0)


def two_sided_skewed(z: jax.Array, skewness: jax.Array) -> jax.Array:
    """Two-sided p-value of a standardised variable with this skewness: a shifted gamma law, normal where it is zero."""
    # A skewness below 0.01 moves no tail of interest, and the shape of its gamma law overflows.
    straight = jnp.abs(skewness) < 1e-2
    skew = jnp.where(straight, 1.0, skewness)
    shape = 4 / skew**2
    bent = two_sided_gamma(shape, 1 + z * jnp.sign(skew) / jnp.sqrt(shape))
    return jnp.where(straight, 2 * norm.cdf(-jnp.abs(z)), bent)


def upper_f(ratio: jax.Array, degrees: int, against: int) -> jax.Array:
    """Probability that a ratio of two mean squares with these degrees of freedom is larger."""
    x = against / (against + degrees * ratio)
    first, second = (jnp.asarray(n / 2, ratio.dtype) for n in (against, degrees))
    return betainc(first, second, x)
