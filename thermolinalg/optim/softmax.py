"""Parts of a softmax to full relative precision, measured from its largest entry."""

import jax
import jax.numpy as jnp


def softmax(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Where the largest probability is, logarithms, probabilities and their complements, without cancellation."""
    top = jax.nn.one_hot(jnp.argmax(z, -1), z.shape[-1], dtype=bool)
    shifted = z - jnp.sum(jnp.where(top, z, 0), -1, keepdims=True)
    others = jnp.sum(jnp.where(top, 0, jnp.exp(shifted)), -1, keepdims=True)
    log_p = shifted - jnp.log1p(others)
    p = jnp.exp(log_p)
    return top, log_p, p, jnp.where(top, others / (1 + others), 1 - p)


def centred(top: jax.Array, p: jax.Array, v: jax.Array) -> jax.Array:
    """v less its mean under p: relative to the entry at the top, which may hold all the weight."""
    v = v - jnp.sum(jnp.where(top, v, 0), -1, keepdims=True)
    return v - jnp.sum(jnp.where(top, 0, p * v), -1, keepdims=True)


def one_hot(z: jax.Array, labels: jax.Array) -> jax.Array:
    """Labels as probabilities."""
    return jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)


def at_top(top: jax.Array, v: jax.Array) -> jax.Array:
    """The entry at the top."""
    return jnp.sum(jnp.where(top, v, 0), -1, keepdims=True)


def without_top(top: jax.Array, v: jax.Array) -> jax.Array:
    """All entries but that at the top, the last one in its place."""
    return jnp.where(top[..., :-1], v[..., -1:], v[..., :-1])
