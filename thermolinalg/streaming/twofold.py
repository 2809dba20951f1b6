"""Sums of twice the digits: what a long stream adds to a number is far below the last digit of that number."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Twofold:
    """A value and what it rounds away, both in one dtype; their exact sum is meant.

    References
    ----------
    D. Knuth, *The Art of Computer Programming* 2, section 4.2.2 (the error of a sum is itself a floating number).
    """

    value: jax.Array
    rest: jax.Array

    @staticmethod
    def of(value: jax.Array) -> "Twofold":
        """Return `value`, with nothing rounded away."""
        return Twofold(value, jnp.zeros_like(value))

    def plus(self, increment: jax.Array) -> "Twofold":
        """Return the sum with an increment."""
        small = self.rest + increment
        total = self.value + small
        seen = total - self.value
        return Twofold(total, (self.value - (total - seen)) + (small - seen))

    def minus(self, other: "Twofold") -> jax.Array:
        """Difference, with its own digits where two large numbers are close."""
        return (self.value - other.value) + (self.rest - other.rest)

    def before(self, x: jax.Array) -> jax.Array:
        """`x` minus this."""
        return (x - self.value) - self.rest
