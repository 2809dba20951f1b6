"""Tests of answers that are covariances: inverses and Lyapunov solutions."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.certify.answers import as_matrix, check_samples
from thermolinalg.certify.statistics import LEVEL, Check, two_sided_gamma, two_sided_skewed
from thermolinalg.device import as_couplings
from thermolinalg.drifts import as_drift
from thermolinalg.primitives.overlap import Overlap
from thermolinalg.solution import Solution

_PROBES = 3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InverseCertificate:
    r"""Residual of an inverse, and whether the spread of a covariance explains it.

    Attributes
    ----------
    relative_residual : Array, shape ()
        :math:`\|I - AC\|_F/\sqrt d`.
    trace : Check or None
        :math:`\operatorname{tr}(AC)/d`: wrong if the scale of the noise or of the couplings is.
    spread : Check or None
        :math:`\|A^{1/2}CA^{1/2} - I\|_F^2` over its mean: wrong if anything else is, or the number of samples.
    passed : Array or None
        Whether both passed, each at the level 0.005.
    """

    relative_residual: jax.Array
    trace: Check | None
    spread: Check | None
    passed: jax.Array | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LyapunovCertificate:
    r"""Residual :math:`R = AX + XA^* - Q`, and whether the spread of a covariance explains it.

    Attributes
    ----------
    relative_residual : Array, shape ()
        :math:`\|R\|_F/\|Q\|_F`.
    trace : Check or None
        Trace of R in standard deviations.
    probes : Check or None
        Three quadratic forms :math:`z^*Rz` with fixed vectors of signs, in standard deviations; shape (3,).
    passed : Array or None
        Whether all passed, each at the level 0.0025.
    """

    relative_residual: jax.Array
    trace: Check | None
    probes: Check | None
    passed: jax.Array | None


def certify_inv(A: Any, C: Solution | ArrayLike, *, samples: ArrayLike | None = None) -> InverseCertificate:
    r"""Test an inverse that was read as a covariance, from the product AC alone.

    For N independent samples the whitened estimate :math:`W = A^{1/2}CA^{1/2}` is a Wishart matrix over N, so

    .. math::

        N\operatorname{tr}(AC) \sim \chi^2_{Nd}, \qquad
        \|W - I\|_F^2 = \operatorname{tr}\bigl((AC - I)^2\bigr),
        \qquad E\|W - I\|_F^2 = d(d + 1)/N

    (twice the degrees, and :math:`d^2/N`, for complex operators).

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        The matrix that was meant to be inverted.
    C : Solution or array, shape (d, d)
        A solution of :func:`thermolinalg.inv` brings the overlap of its samples.
    samples : float, optional
        Number of independent samples behind a bare array.

    Returns
    -------
    InverseCertificate
        Without the tests, only the relative residual, when no number of samples is known.

    Raises
    ------
    ValueError
        If shapes do not match, values are not finite, or the number of samples is not positive.

    Notes
    -----
    Both tests are two-sided. Their laws are gamma laws with the right mean and variance. Mean and variance of the
    trace are exact for a stationary start, the law of the trace exact for independent samples. The variance of the
    spread is

    .. math:: \frac{4d(d + 1)}{N^2} + \frac{4d(2d^2 + 5d + 5)}{N^3}, \qquad \frac{2d^2}{N^2} + \frac{2d(2d^2 + 1)}{N^3}

    for real and complex independent samples. For correlated ones 1/N gives way to the variances :math:`F_{ij}` of the
    entries, and in the second term to :math:`c\,F_{ii}F_{ij}F_{ik}` with c from 1 to 5/2 the more they are correlated;
    2 % of the mean, the accuracy of the law they are drawn from, is added to the standard deviation. About one
    right answer in a hundred fails (0.7 to 1.4 % were measured).

    What neither test sees: errors that keep both the trace and the length of W - I, such as a turn of W; and
    a missing burn-in, which moves the trace by less than its own spread unless there are far fewer effective samples
    than unknowns.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.primitives import inv
    >>> A = jnp.array([[3.0, 2.0], [2.0, 4.0]])
    >>> C = inv(A, key=jax.random.key(0), rtol=0.1)
    >>> bool(certify_inv(A, C).passed), bool(certify_inv(1.5 * A, C).passed)
    (True, False)
    """
    operator = as_couplings(A)
    d, components = operator.dim, operator.components
    value = as_matrix(C, "C", d, operator.dtype)
    product = operator.matmat(value)
    deviation = product - jnp.eye(d, dtype=product.dtype)
    relative = jnp.linalg.norm(deviation) / d**0.5
    if isinstance(C, Solution) and samples is None:
        overlap = C.stats.get("overlap")
    elif samples is None:
        overlap = None
    else:
        check_samples(samples)
        overlap = Overlap.independent(jnp.asarray(samples).astype(relative.dtype), d)
    if overlap is None:
        return InverseCertificate(relative, None, None, None)
    # tr((AC - I)^2), which no square root is needed for, and no small difference of large numbers.
    spread = jnp.sum(deviation * deviation.T).real
    trace = 1 + jnp.trace(deviation).real / d
    level = LEVEL / 2
    shape = components * d**2 / (2 * overlap.diagonal)
    first = Check(trace, 2 * shape, two_sided_gamma(shape, trace), level)
    if components == 1:
        mean = overlap.total + overlap.diagonal
        square = 4 * (overlap.squares + overlap.diagonal_squares)
        crowd = 8 * overlap.crowding * overlap.triples * (1 + 2.5 / d + 2.5 / d**2)
    else:
        mean, square = overlap.total, 2 * overlap.squares
        crowd = 4 * overlap.crowding * overlap.triples * (1 + 0.5 / d**2)
    allowance = jnp.where(overlap.crowding > 1.01, 0.02 * mean, 0.0)
    shape = mean**2 / (square + crowd + allowance**2)
    second = Check(spread / mean, 2 * shape, two_sided_gamma(shape, spread / mean), level)
    return InverseCertificate(relative, first, second, first.passed & second.passed)


def certify_lyapunov(
    A: Any, Q: ArrayLike, X: Solution | ArrayLike, *, samples: ArrayLike | None = None
) -> LyapunovCertificate:
    r"""Test a Lyapunov solution that was read as a covariance, from its residual alone.

    A quadratic form in the residual is linear in X,

    .. math:: \operatorname{tr}(HR) = \operatorname{tr}(GX) - \operatorname{tr}(HQ), \qquad G = HA + A^*H,

    and for N independent samples has the cumulants :math:`\kappa_j = (j-1)!\,(2/N)^{j-1}\operatorname{tr}(GX)^j`
    (N twice as large if complex).

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix or lineax operator
        The drift that was meant.
    Q : array, shape (d, d)
        The right-hand side.
    X : Solution or array, shape (d, d)
        A solution of :func:`thermolinalg.lyapunov` brings the number of its samples and their correlation.
    samples : float, optional
        Number of independent samples behind a bare array.

    Returns
    -------
    LyapunovCertificate
        Without the tests, only the relative residual, when no number of samples is known.

    Raises
    ------
    ValueError
        If shapes do not match, values are not finite, or the number of samples is not positive.

    Notes
    -----
    Tested are H = I and three fixed :math:`H = zz^*`, each two-sided at a quarter of 0.01, by gamma laws with three
    right cumulants. Those are taken from X itself, without the part that the noise of X adds on average: fair for
    samples well beyond d. Correlated samples count as :math:`N(1 - q)/(1 + q)`, with q the correlation
    of their squares; that is a bound, so that fewer alarms are raised, of either kind.

    Four numbers are tested out of d (d + 1)/2: an error that is orthogonal to all of them passes.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.primitives import lyapunov
    >>> A, Q = jnp.array([[1.0, 5.0], [0.0, 2.0]]), jnp.eye(2)
    >>> X = lyapunov(A, Q, key=jax.random.key(0))
    >>> bool(certify_lyapunov(A, Q, X).passed), bool(certify_lyapunov(1.5 * A, Q, X).passed)
    (True, False)
    """
    drift, right = as_drift(A), as_drift(Q, "Q")
    if right.shape != drift.shape:
        raise ValueError(f"Q must have the shape of A, {drift.shape}, got {right.shape}")
    # NumPy's rule: JAX would not let a real drift meet a complex right-hand side where promotion is strict.
    dtype = np.promote_types(drift.dtype, right.dtype)
    drift, right = drift.astype(dtype), right.astype(dtype)
    d = drift.shape[0]
    value = as_matrix(X, "X", d, dtype)
    moved = drift @ value
    residual = moved + moved.conj().T - right
    length = jnp.linalg.norm(right)
    relative = jnp.linalg.norm(residual) / jnp.where(length > 0, length, 1.0)
    count = samples
    if isinstance(X, Solution) and samples is None and "plan" in X.stats:
        count = X.stats["plan"].samples
        count = None if count is None else X.stats["plan"].replicas * count
    if count is None:
        return LyapunovCertificate(relative, None, None, None)
    check_samples(count)
    number = jnp.asarray(count).astype(relative.dtype)
    if isinstance(X, Solution) and samples is None and "correlation" in X.stats:
        alike = jnp.clip(jnp.asarray(X.stats["correlation"]).astype(number.dtype), 0.0, 1 - 1e-6)
        # Below a hundredth the samples were drawn as independent, or may as well have been.
        number = number * jnp.where(alike < 1e-2, 1.0, (1 - alike) / (1 + alike))
    signs = jax.random.rademacher(jax.random.key(0), (d, _PROBES), relative.dtype).astype(dtype)
    components = 2 if jnp.issubdtype(dtype, jnp.complexfloating) else 1

    def check(weight: jax.Array, level: float) -> Check:
        moving = weight @ drift
        form = (moving + moving.conj().T) @ value
        square = form @ form
        # The known mean in place of the one found, in the part that noise adds to the second cumulant.
        mean = jnp.sum(weight * right.T).real
        second = (jnp.trace(square).real - mean**2 / number) / (1 + (1 / number if components == 1 else 0))
        second = jnp.maximum(second, jnp.trace(square).real / (1 + d)) * (2 / components) / number
        third = 2 * (2 / components / number) ** 2 * jnp.sum(square * form.T).real
        deviation = jnp.sum(weight * residual.T).real
        known = second > 0
        scale = jnp.sqrt(jnp.where(known, second, 1.0))
        z = jnp.where(known, deviation / scale, jnp.where(deviation == 0, 0.0, jnp.inf))
        return Check(z, number, two_sided_skewed(z, third / scale**3), level)

    level = LEVEL / (1 + _PROBES)
    trace = check(jnp.eye(d, dtype=dtype), level)
    probes = jax.vmap(lambda z: check(jnp.outer(z, z.conj()), level), in_axes=1)(signs)
    return LyapunovCertificate(relative, trace, probes, trace.passed & jnp.all(probes.passed))
