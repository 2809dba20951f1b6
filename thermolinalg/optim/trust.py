r"""How far to go along a preconditioned gradient: damping that adapts, steps from a quadratic model, and limits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.optim.loss_base import wide
from thermolinalg.ranges import check_fractions, check_order, check_positive, check_whole

Tree = Any


@dataclass(frozen=True)
class LevenbergMarquardt:
    r"""Adapt the damping to how well a quadratic model predicts the loss.

    .. math:: \rho = \frac{\ell(\theta + \delta) - \ell(\theta)}{g^\top\delta + \tfrac12 \delta^\top C \delta}

    Above `high` the damping is multiplied by `factor`, below `low` divided by it; a change that is not finite counts as
    a failure. The predicted change does not include the damping.

    Parameters
    ----------
    initial : float, > 0
        Damping of the first steps.
    factor : float, between 0 and 1
    period : int, >= 1
        Steps between two looks; each costs one evaluation of the loss and one curvature-vector product.
    low, high : float, between 0 and 1
    least, most : float, > 0
        The damping stays between them.

    References
    ----------
    Martens and Grosse, arXiv:1503.05671, section 6.5.
    """

    initial: float | jax.Array
    factor: float | jax.Array = 0.9**5
    period: int = 5
    low: float | jax.Array = 0.25
    high: float | jax.Array = 0.75
    least: float | jax.Array = 1e-8
    most: float | jax.Array = 1e8

    def __post_init__(self) -> None:
        check_positive(initial=self.initial, least=self.least, most=self.most)
        check_fractions(factor=self.factor, low=self.low, high=self.high)
        check_order(low=self.low, high=self.high)
        check_order(least=self.least, most=self.most)
        check_whole("period", self.period, 1)

    def adapt(self, damping: jax.Array, ratio: jax.Array) -> jax.Array:
        """Return the damping after a step whose loss changed by this share of the prediction."""
        ratio = jnp.where(jnp.isfinite(ratio), ratio, -jnp.inf)
        factor = jnp.asarray(self.factor, damping.dtype)
        change = jnp.where(ratio > self.high, factor, jnp.where(ratio < self.low, 1 / factor, jnp.ones_like(factor)))
        return jnp.clip(damping * change, jnp.asarray(self.least, damping.dtype), jnp.asarray(self.most, damping.dtype))


@dataclass(frozen=True)
class QuadraticModel:
    r"""Choose learning rate and momentum as the minimum of the quadratic model.

    .. math:: \min_{\alpha, \mu}\; g^\top\delta + \tfrac12 \delta^\top (C + \lambda I) \delta, \qquad
        \delta = -\alpha P + \mu\, \delta_\text{old}

    with the exact curvature `C` of the batch, by two curvature-vector products.

    Parameters
    ----------
    largest : float, > 0
        Both numbers are clipped to this magnitude.

    Notes
    -----
    Unreliable for small batches, whose curvature is not that of the loss.
    """

    largest: float | jax.Array = 10.0

    def __post_init__(self) -> None:
        check_positive(largest=self.largest)


class ModelStep(NamedTuple):
    """Coefficients along both directions, and the change of the loss that the model without damping predicts."""

    coefficients: jax.Array
    predicted: jax.Array


def minimise_model(
    product: Callable[[Tree], Tree], grads: Tree, step: Tree, last: Tree, damping: jax.Array, largest: jax.Array
) -> ModelStep:
    r"""Minimise the quadratic model over the span of two directions.

    .. math:: w = -(B + \lambda D)^{+} s, \qquad B_{ij} = d_i^\top C d_j, \; D_{ij} = d_i^\top d_j, \; s_i = g^\top d_i

    Parameters
    ----------
    product : callable
        The curvature-vector product.
    grads, step, last : pytrees
        The gradient, a direction and the last update; zero for none.
    damping : array (), >= 0
    largest : array (), > 0
        Limit of both coefficients.

    Returns
    -------
    ModelStep
        Coefficients (2,) and predicted change.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> found = minimise_model(lambda v: 2 * v, jnp.array([2.0]), jnp.array([-1.0]), jnp.zeros(1), 0.0, 10.0)
    >>> found.coefficients[0].item(), float(found.predicted)
    (1.0, -1.0)
    """
    bent = [product(step), product(last)]
    plain = [step, last]
    curvature = jnp.stack([jnp.stack([inner(d, c) for c in bent]) for d in plain])
    curvature = (curvature + curvature.T) / 2
    metric = jnp.stack([jnp.stack([inner(d, e) for e in plain]) for d in plain])
    slope = jnp.stack([inner(grads, d) for d in plain])
    damping, largest = (jnp.asarray(x, metric.dtype) for x in (damping, largest))
    damped = curvature + damping * metric
    # Lengths of the directions may differ by many orders: scale them away before the rank is judged.
    diagonal = jnp.diagonal(damped)
    lengths = jnp.sqrt(jnp.where(diagonal > 0, diagonal, jnp.ones_like(diagonal)))
    scaled = damped / (lengths[:, None] * lengths[None, :])
    weights = -(jnp.linalg.pinv(scaled, hermitian=True) @ (slope / lengths)) / lengths
    weights = jnp.clip(weights, -largest, largest)
    return ModelStep(weights, slope @ weights + weights @ curvature @ weights / 2)


class Limit(Protocol):
    """Shortens a direction: returns a factor between 0 and 1."""

    def __call__(self, step: Tree, grads: Tree, rate: jax.Array) -> jax.Array:
        """Factor for a step of this learning rate along this direction."""


@dataclass(frozen=True)
class KLClip:
    r"""Bound the Kullback-Leibler divergence that a step causes, to second order.

    .. math:: \nu = \min\left(1, \sqrt{\frac{c}{\alpha^2 \sum_l \langle P_l, g_l \rangle}}\right)

    Parameters
    ----------
    bound : float, > 0
        `c`: about twice the divergence allowed, since :math:`\langle P, g\rangle \approx P^\top F P`.
    """

    bound: float | jax.Array = 1e-3

    def __post_init__(self) -> None:
        check_positive(bound=self.bound)

    def __call__(self, step: Tree, grads: Tree, rate: jax.Array) -> jax.Array:
        """Return the factor of the bound."""
        return _at_most(self.bound, rate, jnp.abs(inner(step, grads)))


@dataclass(frozen=True)
class NormConstraint:
    r"""Bound the Euclidean length of a step.

    .. math:: \nu = \min\left(1, \frac{c}{\alpha \lVert P \rVert}\right)

    Parameters
    ----------
    bound : float, > 0
    """

    bound: float | jax.Array

    def __post_init__(self) -> None:
        check_positive(bound=self.bound)

    def __call__(self, step: Tree, grads: Tree, rate: jax.Array) -> jax.Array:
        """Return the factor of the bound."""
        del grads
        return _at_most(jnp.asarray(self.bound) ** 2, rate, inner(step, step))


def graft(step: jax.Array, length: jax.Array) -> jax.Array:
    """Give a direction the length of another step; a zero direction stays zero."""
    own = jnp.sqrt(jnp.sum(step**2))
    return step * jnp.where(own > 0, length / jnp.where(own > 0, own, jnp.ones_like(own)), jnp.zeros_like(own))


def inner(x: Tree, y: Tree) -> jax.Array:
    """Inner product of two pytrees, in at least single precision."""
    pairs = list(zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))
    dtype = np.result_type(np.float32, *(wide(leaf.dtype) for pair in pairs for leaf in pair))
    return sum((jnp.sum(a.astype(dtype) * b.astype(dtype)) for a, b in pairs), jnp.zeros((), dtype))


def _at_most(bound: Any, rate: Any, size: jax.Array) -> jax.Array:
    """The factor that brings the square of a step, at this rate, down to the bound."""
    bound, size = jnp.asarray(bound, size.dtype), jnp.asarray(rate, size.dtype) ** 2 * size
    over = size > bound
    return jnp.where(over, jnp.sqrt(bound / jnp.where(over, size, jnp.ones_like(size))), jnp.ones_like(size))
