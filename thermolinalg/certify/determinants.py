"""A bracket for the log determinant that takes a trace, a norm and bounds of the spectrum."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.certify.bounds import lowest_eigenvalue, norm_bound
from thermolinalg.device import as_realised
from thermolinalg.operators import Dense, Diagonal, Kronecker, LowRank, Operator, as_inexact
from thermolinalg.solution import Solution

_QUANTILE = 2.5758293035489004
"""Of the normal law, at 0.995."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeterminantCertificate:
    """Bracket of a log determinant, and whether an estimate meets it.

    Attributes
    ----------
    lower, upper : Array, shape (), or None
        The bracket; None for a matrix-free operator, whose trace is not known.
    passed : Array or None
        Whether the estimate is within 2.58 standard errors of the bracket.
    """

    lower: jax.Array | None
    upper: jax.Array | None
    passed: jax.Array | None


def certify_logdet(A: Any, L: Solution | ArrayLike, *, stderr: ArrayLike | None = None) -> DeterminantCertificate:
    r"""Check a log determinant against a bracket that needs no factorisation of it.

    With :math:`\alpha \le \lambda \le \beta` for all eigenvalues and the moments :math:`\mu_k = \operatorname{tr}(A -
    cI)^k` about c, the Gauss-Radau rules with one node fixed at :math:`c = \alpha` or :math:`c = \beta`,

    .. math:: \ln\det A \gtrless d\ln c + \frac{\mu_1^2}{\mu_2}\ln\frac{t}{c}, \qquad t = c + \mu_2/\mu_1,

    are a lower and an upper bound. Hadamard's inequality, :math:`\ln\det A \le \sum_i \ln a_{ii}`, is another.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric positive definite.
    L : Solution or float
        A solution of :func:`thermolinalg.logdet` brings its standard error.
    stderr : float, optional
        Standard error of a bare number, 0 by default.

    Returns
    -------
    DeterminantCertificate

    Raises
    ------
    ValueError
        If `A` is not square, finite and symmetric, or `L` is not a number.

    Notes
    -----
    The truth lies in the bracket, so that a Gaussian estimate with the right standard error fails in less than one of a
    hundred runs, and far less often if the bracket is wide: for a condition number of 100 it can be as wide as d/2. The
    check finds gross errors: of scale, of sign, of a factor of two.

    :math:`\alpha` is the validated bound of :func:`lowest_eigenvalue`; where it is not positive the lower bound is
    minus infinity. Brackets of the factors of a Kronecker product add up; low rank plus shift takes that of the small
    matrix; a diagonal has no width. Rounding of the moments is not bounded, but allowed for by :math:`100\,d` units.

    References
    ----------
    Bai and Golub, *Bounds for the trace of the inverse and the determinant of symmetric positive definite matrices*,
    Annals of Numerical Mathematics 4 (1997).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.primitives import logdet
    >>> A = jnp.array([[3.0, 1.0], [1.0, 2.0]])
    >>> certificate = certify_logdet(A, logdet(A, key=jax.random.key(0)))
    >>> bool(certificate.passed), bool(certificate.lower <= jnp.log(5.0)), bool(jnp.log(5.0) <= certificate.upper)
    (True, True, True)
    """
    operator = as_realised(A)
    real = jnp.finfo(operator.dtype).dtype
    value = (L.value if isinstance(L, Solution) else as_inexact(L, "L")).astype(real)
    if value.ndim != 0:
        raise ValueError(f"L must be a number, got shape {value.shape}; map over a batch with jax.vmap")
    if isinstance(L, Solution) and stderr is None:
        stderr = L.stderr
    error = jnp.asarray(0.0 if stderr is None else stderr).astype(real)
    bracket = _bracket(operator)
    if bracket is None:
        return DeterminantCertificate(None, None, None)
    lower, upper = bracket
    slack = _QUANTILE * error
    return DeterminantCertificate(lower, upper, (value >= lower - slack) & (value <= upper + slack))


def _bracket(operator: Operator) -> tuple[jax.Array, jax.Array] | None:
    if isinstance(operator, Dense):
        return _dense(operator)
    if isinstance(operator, Diagonal):
        return _widened(jnp.sum(jnp.log(operator.values)), jnp.sum(jnp.abs(jnp.log(operator.values))), operator)
    if isinstance(operator, Kronecker):
        parts = [(_bracket(factor), operator.dim // factor.dim) for factor in operator.factors]
        known = [(part[0] * times, part[1] * times) for part, times in parts if part is not None]
        lowers, uppers = zip(*known, strict=True)
        return jnp.sum(jnp.stack(lowers)), jnp.sum(jnp.stack(uppers))
    if isinstance(operator, LowRank) and operator.columns.shape[1] <= operator.dim:
        rank, columns = operator.columns.shape[1], operator.columns
        shift = jnp.asarray(operator.shift, jnp.finfo(operator.dtype).dtype)
        small = columns.conj().T @ columns + shift.astype(columns.dtype) * jnp.eye(rank, dtype=columns.dtype)
        low, high = _dense(Dense(small), shift)
        rest = (operator.dim - rank) * jnp.log(shift)
        return low + rest, high + rest
    return None


def _dense(operator: Dense, floor: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    matrix, d = operator.matrix, operator.dim
    own = jnp.diagonal(matrix).real
    low = lowest_eigenvalue(operator).value
    low = low if floor is None else jnp.maximum(low, floor)
    # Gershgorin may beat the Frobenius norm, and the other way round.
    high = jnp.minimum(norm_bound(operator), jnp.max(jnp.sum(jnp.abs(matrix), 1)))
    high = high * (1 + 4 * d * float(jnp.finfo(own.dtype).eps))
    positive = low > 0

    def rule(c: jax.Array) -> jax.Array:
        first = jnp.sum(own - c)
        second = jnp.sum(jnp.abs(matrix - c.astype(matrix.dtype) * jnp.eye(d, dtype=matrix.dtype)) ** 2)
        # A multiple of the identity has no other node.
        apart = (first != 0) & (second > 0)
        step = second / jnp.where(apart, first, 1.0)
        weight = jnp.where(apart, first**2 / jnp.where(apart, second, 1.0), 0.0)
        return d * jnp.log(c) + weight * jnp.log1p(jnp.where(apart, jnp.maximum(step / c, -1.0), 0.0))

    size = d * (1 + jnp.abs(jnp.log(high)) + jnp.where(positive, jnp.abs(jnp.log(jnp.where(positive, low, 1))), 0.0))
    lower = jnp.where(positive, rule(jnp.where(positive, low, 1.0)), -jnp.inf)
    radau, hadamard = rule(high), jnp.sum(jnp.log(jnp.where(own > 0, own, 1.0)))
    upper = jnp.where(jnp.isfinite(radau), jnp.minimum(radau, hadamard), hadamard)
    return _widened(lower, size, operator)[0], _widened(upper, size, operator)[1]


def _widened(value: jax.Array, size: jax.Array, operator: Operator) -> tuple[jax.Array, jax.Array]:
    """A value with room for rounding in sums of this size."""
    room = 100 * float(jnp.finfo(operator.dtype).eps) * size
    return value - room, value + room
