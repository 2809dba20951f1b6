"""Power laws: the exponent of an error against time, with its standard error."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from thermolinalg.convergence import fit_exponents
from thermolinalg.testing.assertions import FALSE_ALARM


class ConvergenceSlope(NamedTuple):
    """Exponent of a power law, its standard error, and the degrees of freedom of that."""

    slope: float
    stderr: float
    degrees: float


def fit_slope(x: ArrayLike, y: ArrayLike, stderr: ArrayLike | None = None) -> ConvergenceSlope:
    r"""Fit the exponent of a power law by least squares in logarithms, with the weights :math:`(y/\mathtt{stderr})^2`.

    Parameters
    ----------
    x, y : array, shape (n,), > 0
    stderr : array, optional
        Standard error of each `y`, small against it. By default all are alike and taken from the scatter about the
        line, with n - 2 degrees of freedom.

    Raises
    ------
    ValueError
        If there are fewer than three points, a value is not positive, or all `x` are equal.

    Examples
    --------
    >>> round(fit_slope([1.0, 2.0, 4.0], [5.0, 10.0, 20.0]).slope, 6)
    1.0
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3 or not (x.min() > 0 and y.min() > 0 and np.ptp(x) > 0):
        raise ValueError(f"x and y must be positive vectors of one length, at least 3, got shapes {x.shape}, {y.shape}")
    law = fit_exponents(y, stderr=stderr, x=x)
    return ConvergenceSlope(law.exponents["x"], law.stderr["x"], law.degrees)


def assert_slope(
    x: ArrayLike, y: ArrayLike, expected: float, *, stderr: ArrayLike | None = None, false_alarm: float = FALSE_ALARM
) -> None:
    r"""Assert that `y` follows a power law in `x` with the expected exponent.

    .. math:: |s - \mathtt{expected}| \le q\,\sigma_s, \qquad 2P(t_\nu > q) = \mathtt{false\_alarm}

    Parameters
    ----------
    x, y, stderr
        As in :func:`fit_slope`.
    expected : float
        Exponent, such as -1/2 for the error of a long average; before the asymptotic regime, that of the exact law over
        the same `x`.
    false_alarm : float
        Probability that right code fails.

    Raises
    ------
    AssertionError
        If the slope is off, or known to no better than 1/4, which would hardly tell -1/2 from 0 and from -1.

    Examples
    --------
    >>> x = np.geomspace(1.0, 100.0, 8)
    >>> assert_slope(x, 3 / np.sqrt(x), expected=-0.5, stderr=0.05 / np.sqrt(x))
    >>> assert_slope(x, 3 / x, expected=-0.5, stderr=0.05 / x)
    Traceback (most recent call last):
    ...
    AssertionError: slope -1.000 +- 0.004 (limit 0.019) instead of -0.5
    """
    fit = fit_slope(x, y, stderr)
    limit = stats.t.isf(false_alarm / 2, fit.degrees) * fit.stderr
    found = f"slope {fit.slope:.3f} +- {fit.stderr:.3f} (limit {limit:.3f})"
    if not limit <= 0.25:
        raise AssertionError(f"{found} tells nothing: take more points, more runs or a wider range")
    if abs(fit.slope - expected) > limit:
        raise AssertionError(f"{found} instead of {expected}")
