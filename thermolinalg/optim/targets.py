"""What a loss is measured against: targets, and how much each position of an example counts."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weighted:
    r"""Targets with a weight for every position.

    .. math:: \ell_i = \sum_p w_{ip}\,\ell(z_{ip}, t_{ip})

    Parameters
    ----------
    targets : array or pytree
        Targets of the loss, examples first.
    weights : array, >= 0
        As the outputs without their last axis: (n,) for outputs (n, k), (n, R) for outputs (n, R, k). What stands at a
        position of weight zero, targets and outputs, is never looked at.

    Notes
    -----
    Without weights the positions of an example are averaged: w = 1/R. :func:`example_mean` and :func:`token_mean` make
    weights from masks. Curvature is weighted as the loss is.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> z, t = jnp.array([[1.0], [2.0]]), jnp.zeros((2, 1))
    >>> SquaredError().value(z, Weighted(t, jnp.array([1.0, 0.5]))).tolist()
    [0.5, 1.0]
    """

    targets: Any
    weights: jax.Array


def example_mean(targets: Any, mask: ArrayLike) -> Weighted:
    r"""Average over the positions of each example that a mask keeps: :math:`w_{ip} = m_{ip} / \sum_q m_{iq}`.

    Parameters
    ----------
    targets : array
        Targets of the loss; anything where the mask is zero.
    mask : array, shape (n, R)
        Nonzero or True where a position counts. An example of which none counts has loss zero.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> example_mean(jnp.zeros((2, 2), int), jnp.array([[1.0, 1.0], [1.0, 0.0]])).weights.tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    kept = _kept(mask)
    axes = tuple(range(1, kept.ndim))
    return Weighted(targets, kept / jnp.maximum(jnp.sum(kept, axes, keepdims=True), 1))


def token_mean(targets: Any, mask: ArrayLike) -> Weighted:
    r"""Average over all positions of the batch that a mask keeps: :math:`w_{ip} = n\,m_{ip} / \sum_{jq} m_{jq}`.

    Parameters
    ----------
    targets : array
        Targets of the loss; anything where the mask is zero.
    mask : array, shape (n, R) or (n,)
        Nonzero or True where a position counts.

    Notes
    -----
    The weights couple the examples of a batch: those of a part of the batch are not a part of the weights, so
    micro-batches need one call for the whole batch before it is split.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> token_mean(jnp.zeros((2, 2), int), jnp.array([[1, 1], [0, 0]])).weights.tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    kept = _kept(mask)
    return Weighted(targets, kept * (len(kept) / jnp.maximum(jnp.sum(kept), 1)))


def _kept(mask: ArrayLike) -> jax.Array:
    """A mask as numbers, 1 where a position counts."""
    kept = jnp.asarray(mask) != 0
    if kept.ndim == 0:
        raise ValueError("mask must have the examples along its first axis, got a scalar")
    return kept.astype(jnp.result_type(float))
