"""Sums over trees of parameters, in a dtype that holds them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.optim.loss_base import wide

Tree = Any


def statistics_dtype(params: Tree) -> Any:
    """The dtype of sums over parameters: at least single precision."""
    return np.result_type(np.float32, *(wide(leaf.dtype) for leaf in jax.tree.leaves(params)))


def widened(tree: Tree, dtype: Any) -> Tree:
    """The tree in one dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def like(tree: Tree, other: Tree) -> Tree:
    """The tree in the dtypes of another."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, other)


def add(x: Tree, y: Tree) -> Tree:
    """Sum of two trees."""
    return jax.tree.map(jnp.add, x, y)


def scaled(factor: jax.Array, x: Tree) -> Tree:
    """A tree times a number."""
    return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, x)


def mixed(keep: jax.Array, old: Tree, new: Tree) -> Tree:
    """A running mean: this share of the old tree, the rest of the new one, which is not looked at where all is kept."""

    def one(a: jax.Array, b: jax.Array) -> jax.Array:
        share = keep.astype(a.dtype)
        return share * a + (1 - share) * jnp.where(keep < 1, b.astype(a.dtype), jnp.zeros_like(a))

    return jax.tree.map(one, old, new)
