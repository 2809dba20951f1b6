"""The residual of a solve against thermal noise."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaincc
from jax.typing import ArrayLike

from thermolinalg.certify.answers import as_system
from thermolinalg.certify.bounds import norm_bound
from thermolinalg.certify.statistics import LEVEL
from thermolinalg.device import Program
from thermolinalg.solution import Solution


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Certificate:
    r"""Residual of a solve, and whether thermal noise alone explains it; one entry for each right-hand side.

    Attributes
    ----------
    relative_residual : Array, shape () or (k,)
        Length of b - A x over the length of b: by how much b would have to be changed, independent of the condition
        number.
    backward_error : Array, shape () or (k,)
        :math:`\|b - Ax\|/(\|A\|\|x\| + \|b\|)`: the smallest relative change of A and b of which x is the exact
        solution, with the Frobenius norm of a dense A, the largest entry of a diagonal one, and for a matrix-free one
        an estimate of the 2-norm (by eight power steps, or the survey of a program).
    statistic : Array or None
        Squared residual over its variance; chi-square of `degrees` after burn-in and a long average.
    degrees : int
        Degrees of freedom.
    p_value : Array or None
        Probability that noise alone gives a larger statistic.
    passed : Array or None
        Whether the p-value is at least 0.01.
    """

    relative_residual: jax.Array
    backward_error: jax.Array
    statistic: jax.Array | None
    degrees: int
    p_value: jax.Array | None
    passed: jax.Array | None


def certify(A: Any, b: ArrayLike, x: Solution | ArrayLike, *, noise: ArrayLike | None = None) -> Certificate:
    r"""Test the residual of a solve against thermal noise; needs no spectrum and one matrix-vector product.

    After burn-in and for long averages the residual is white whatever the spectrum,

    .. math:: \|b - A\bar x\|^2/\mathtt{noise} \sim \chi^2_d, \qquad \mathtt{noise} = 2/(\beta\tau)

    (times the friction for underdamped devices).

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        The system that was meant to be solved.
    b : array, shape (d,) or (d, k)
    x : Solution or array like `b`
        A solution brings its own noise.
    noise : float, optional
        Variance of one component of the residual, for a bare array.

    Returns
    -------
    Certificate
        Without the test, only the relative residual and the backward error, when no noise is known.

    Raises
    ------
    ValueError
        If shapes do not match or values are not finite.

    Notes
    -----
    A large statistic says that the residual is more than noise explains: the run was not burnt in, the couplings of
    the device differ from `A`, or noise is so small that the transient left by a planned run stands out. It does not
    say that the error is large. A short average has a smaller statistic than the law, never a larger one. Samples
    further apart than half a time constant inflate it.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.primitives import solve
    >>> A, b = jnp.diag(jnp.array([1.0, 2.0, 3.0])), jnp.ones(3)
    >>> bool(certify(A, b, solve(A, b, key=jax.random.key(1), rtol=0.05)).passed)
    True
    """
    operator, force, answer, shape = as_system(A, b, x)
    if isinstance(x, Solution) and noise is None:
        noise = x.stats.get("noise")
    residual = jnp.linalg.norm(force - operator.matmat(answer), axis=0)
    length = jnp.linalg.norm(force, axis=0)
    relative = residual / jnp.where(length > 0, length, 1.0)
    norm = norm_bound(A.machine.operator if isinstance(A, Program) else operator)
    scale = norm * jnp.linalg.norm(answer, axis=0) + length
    backward = (residual / jnp.where(scale > 0, scale, 1.0)).reshape(shape)
    degrees = operator.dim * operator.components
    if noise is None:
        return Certificate(relative.reshape(shape), backward, None, degrees, None, None)
    variance = jnp.asarray(noise).astype(residual.dtype)
    statistic = jnp.where(residual == 0, 0.0, residual * (residual / variance))
    p_value = gammaincc(jnp.asarray(degrees / 2, residual.dtype), statistic / 2)
    statistic, p_value = statistic.reshape(shape), p_value.reshape(shape)
    return Certificate(relative.reshape(shape), backward, statistic, degrees, p_value, p_value >= LEVEL)
