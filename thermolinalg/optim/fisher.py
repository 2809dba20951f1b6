r"""Columns of output curvature: exact, drawn, or empirical.

A column estimator is a callable (loss, outputs, targets, key) -> columns of shape (C, \*outputs.shape). The sum over
columns of v v^T is, example by example, the output Hessian or an unbiased estimate of it. Each column costs one
backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.optim.loss_base import Loss
from thermolinalg.optim.targets import Weighted
from thermolinalg.ranges import check_whole

Columns = Callable[[Loss, jax.Array, Any, jax.Array], jax.Array]
"""What makes columns."""


def exact(loss: Loss, outputs: jax.Array, targets: Any, key: jax.Array | None = None) -> jax.Array:
    r"""Return the columns of the root of the output Hessian, one for each position and output.

    .. math:: \sum_c v_c v_c^\top = H_i

    Parameters
    ----------
    loss : Loss
    outputs : Array, shape (n, ...)
        What the model says.
    targets : Any
        As the loss takes them.
    key : PRNG key
        Not used.

    Returns
    -------
    Array, shape (C, \*outputs.shape)

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> exact(SquaredError(), jnp.zeros((1, 2)), jnp.zeros((1, 2))).tolist()
    [[[1.0, 0.0]], [[0.0, 1.0]]]
    """
    return loss.root(outputs, targets)


@dataclass(frozen=True)
class MonteCarlo:
    r"""Scores of targets that are drawn from the model.

    .. math:: v = \frac{1}{\sqrt m}\,\nabla_z \ell(z, t), \qquad t \sim p(t | z), \qquad E[v v^\top] = H / m

    Parameters
    ----------
    draws : int, >= 1
        m, the number of columns.

    Notes
    -----
    Unbiased for losses that are the negative logarithm of a likelihood in its natural parameters; the relative error
    falls as one over the root of `draws` and of the number of examples. Positions of one example draw independently, so
    that their cross terms average out. A weight scales the score by its root, as it does the Hessian.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.optim.losses import CrossEntropy
    >>> z = jnp.zeros((1, 2))
    >>> v = MonteCarlo(8)(CrossEntropy(), z, jnp.array([0]), jax.random.key(0))
    >>> jnp.allclose(jnp.einsum("cni,cnj->nij", v, v), jnp.array([[0.25, -0.25], [-0.25, 0.25]])[None]).item()
    True
    """

    draws: int = 1

    def __post_init__(self) -> None:
        check_whole("draws", self.draws, 1)

    def __call__(self, loss: Loss, outputs: jax.Array, targets: Any, key: jax.Array) -> jax.Array:
        weights = jnp.sqrt(loss.weights(outputs, targets) / self.draws)

        def column(key: jax.Array) -> jax.Array:
            return loss.gradient(outputs, Weighted(loss.sample(key, outputs), weights))

        return jax.vmap(column)(jax.random.split(key, self.draws))


@dataclass(frozen=True)
class Propagation:
    r"""Columns of the exact root combined with random signs.

    .. math:: v = \frac{1}{\sqrt m}\,S\epsilon, \qquad \epsilon_j = \pm 1, \qquad E[v v^\top] = H / m

    Parameters
    ----------
    draws : int, >= 1
        m, the number of columns.

    Notes
    -----
    Unbiased for every loss with a root. The signs of all positions and outputs are independent: with one sign for all
    positions of an example their cross terms would stay.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> z = jnp.zeros((1, 1))
    >>> jnp.abs(Propagation(4)(SquaredError(), z, z, jax.random.key(0))).ravel().tolist()
    [0.5, 0.5, 0.5, 0.5]
    """

    draws: int = 1

    def __post_init__(self) -> None:
        check_whole("draws", self.draws, 1)

    def __call__(self, loss: Loss, outputs: jax.Array, targets: Any, key: jax.Array) -> jax.Array:
        rows = jax.eval_shape(loss.root_transpose, outputs, targets, outputs)
        signs = jax.random.rademacher(key, (self.draws, *rows.shape), rows.dtype) / self.draws**0.5
        return jax.vmap(lambda u: loss.root_product(outputs, targets, u))(signs)


monte_carlo = MonteCarlo()
"""One drawn target for each position: one backward pass."""

propagation = Propagation()
"""One combination of all columns: one backward pass."""


def empirical(loss: Loss, outputs: jax.Array, targets: Any, key: jax.Array | None = None) -> jax.Array:
    r"""Return the gradient in the outputs at the targets of the data, as the only column.

    .. math:: v_i = \nabla_{z_i} \ell_i, \qquad \frac1n \sum_i J_i^\top v_i v_i^\top J_i
        = \frac1n \sum_i \nabla\ell_i \nabla\ell_i^\top

    Parameters
    ----------
    loss, outputs, targets, key
        As for :func:`exact`.

    Returns
    -------
    Array, shape (1, \*outputs.shape)

    Notes
    -----
    Not an estimate of the GGN: it shrinks with the loss, so that at fixed damping steps grow near convergence. An
    example with a weight enters with its square, and its positions with their cross terms: it is the second moment of
    gradients as they are.

    References
    ----------
    Kunstner, Balles and Hennig, *Limitations of the empirical Fisher approximation*, arXiv:1905.12558.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> empirical(SquaredError(), jnp.array([[2.0]]), jnp.array([[0.5]])).tolist()
    [[[1.5]]]
    """
    return loss.gradient(outputs, targets)[None]
