"""Powers of two that bring numbers to the range of a device or of a dtype, and round nothing."""

import jax
import jax.numpy as jnp


def bound_exponent(matrix: jax.Array) -> jax.Array:
    r"""Least e with :math:`2^e` above a bound on the magnitude of every eigenvalue of a symmetric matrix; 0 for zero.

    The bound is the smaller of the largest absolute row sum and the Frobenius norm.
    """
    largest = jnp.max(jnp.abs(matrix))
    unit = jnp.where(largest > 0, largest, 1)
    inside = matrix / unit
    bound = jnp.minimum(jnp.max(jnp.sum(jnp.abs(inside), 0)), jnp.linalg.norm(inside))
    # In two factors: their product may overflow where its exponent does not.
    (first, low), (second, high) = jnp.frexp(bound), jnp.frexp(unit)
    mantissa, extra = jnp.frexp(first * second)
    total = low + high + extra - (mantissa == 0.5).astype(low.dtype)
    return jnp.where((largest > 0) & jnp.isfinite(largest), total, 0)


def column_exponents(block: jax.Array) -> jax.Array:
    """Exponents (1, k) of the largest entries of columns; 0 for zero and for what is not finite."""
    largest = jnp.max(jnp.abs(block), axis=0, keepdims=True)
    return jnp.where((largest > 0) & jnp.isfinite(largest), jnp.frexp(largest)[1], 0)
