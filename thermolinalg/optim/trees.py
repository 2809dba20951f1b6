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
