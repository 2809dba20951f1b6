"""Assertions in units of standard error: each is a hypothesis test with a stated probability of a false alarm."""

from math import inf, log

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FALSE_ALARM = 1e-6
"""Probability that an assertion fails although the code under test is right."""


def assert_within_stderr(
    value: ArrayLike, stderr: ArrayLike, exact: ArrayLike, *, degrees: float = inf, false_alarm: float = FALSE_ALARM
) -> None:
    r"""Assert that Gaussian estimates deviate from the truth by no more than their standard errors explain.

    .. math:: \max_i |\mathtt{value}_i - \mathtt{exact}_i| / \mathtt{stderr}_i \le q,
        \qquad 2 n P(t_\nu > q) = \mathtt{false\_alarm}

    with n the number of entries and :math:`t_\nu` Student's law, the normal law by default: 4.9 standard errors for one
    entry and 6.1 for a thousand, however they are correlated. An entry without error and standard error passes.

    Parameters
    ----------
    value, stderr, exact : array
        Estimate (real or complex), its standard error, and the truth.
    degrees : float, default inf
        Degrees of freedom of `stderr`: n - 1 if it was estimated from n runs, infinite if it is known.
    false_alarm : float
        Probability that right code fails.

    Raises
    ------
    AssertionError
        If an entry is too far off, anything is NaN, or a standard error is negative or infinite (an excuse for all).

    Examples
    --------
    >>> assert_within_stderr(value=[1.02, 0.97], stderr=0.01, exact=1.0)
    >>> assert_within_stderr(value=[1.02, 0.94], stderr=0.01, exact=1.0)
    Traceback (most recent call last):
    ...
    AssertionError: entry (1,) is 6.0 standard errors off (limit 5.0 for 2 entries): 0.94 instead of 1.0, stderr 0.01
    """
    found, error, truth = np.broadcast_arrays(*(np.asarray(x) for x in (value, stderr, exact)))
    if found.size == 0:
        raise ValueError("nothing to compare: value, stderr and exact have no entries")
    limit = stats.t.isf(false_alarm / (2 * found.size), degrees)
    deviation = np.abs(found - truth)
    z = np.divide(deviation, error, out=np.where(deviation == 0, 0.0, inf), where=error != 0)
    z = np.where(np.isfinite(error) & (error >= 0), z, np.nan)
    at = _worst(z)
    if not z[at] <= limit:
        raise AssertionError(
            f"entry {at} is {z[at]:.1f} standard errors off (limit {limit:.1f} for {found.size} entries): "
            f"{found[at]} instead of {truth[at]}, stderr {error[at]}"
        )


def assert_unit_variance(z: ArrayLike, *, kurtosis: float = 3.0, false_alarm: float = FALSE_ALARM) -> None:
    r"""Assert that z-scores have unit mean square over independent runs: that standard errors are right.

    .. math:: \nu\,\overline{z^2} \sim \chi^2_\nu, \qquad \nu = \frac{2n}{\mathtt{kurtosis} - 1}

    for n runs, with equal tails that sum to `false_alarm` over all entries. The mean square is about zero, so a bias
    counts too; 20 % too much of it show in about 2000 runs.

    Parameters
    ----------
    z : array, shape (n, \*entries)
        (value - truth) / stderr, runs along the first axis. Flatten entries that are independent of each other: they
        count as runs.
    kurtosis : float, default 3
        :math:`E|z|^4`: 3 for real Gaussian estimates and 2 for complex ones with circular noise, where the law is
        exact. Otherwise it matches mean and variance only.
    false_alarm : float
        Probability that right code fails.

    Raises
    ------
    AssertionError
        If the mean square of an entry is too small, too large or not a number.

    Examples
    --------
    >>> z = np.random.default_rng(0).standard_normal(4000)
    >>> assert_unit_variance(z)
    >>> assert_unit_variance(1.1 * z)
    Traceback (most recent call last):
    ...
    AssertionError: entry () has mean square 1.206 over 4000 runs, not within (0.894, 1.113)
    """
    scores = np.abs(np.asarray(z)) ** 2
    if scores.ndim == 0 or scores.size == 0:
        raise ValueError(f"z must have at least one run along its first axis, got shape {scores.shape}")
    n, square = len(scores), np.mean(scores, axis=0)
    degrees, tail = 2 * n / (kurtosis - 1), false_alarm / (2 * square.size)
    low, high = stats.chi2.ppf(tail, degrees) / degrees, stats.chi2.isf(tail, degrees) / degrees
    at = _worst(np.maximum(square - high, low - square))
    if not low <= square[at] <= high:
        raise AssertionError(
            f"entry {at} has mean square {square[at]:.3f} over {n} runs, not within ({low:.3f}, {high:.3f})"
        )


def assert_coverage(
    hits: ArrayLike, confidence: float, *, at_most: float | None = None, false_alarm: float = FALSE_ALARM
) -> None:
    r"""Assert that independent runs keep a promise in at least a fraction `confidence` of cases.

    .. math:: P(\mathrm{Bin}(n, \mathtt{confidence}) \le k) \ge \mathtt{false\_alarm}, \qquad
        P(\mathrm{Bin}(n, \mathtt{at\_most}) \ge k) \ge \mathtt{false\_alarm}

    for k hits in n runs. Telling 0.90 from a promised 0.95 at 1e-6 takes about 1000 runs.

    Parameters
    ----------
    hits : array of bool
        Whether each run kept the promise.
    confidence : float, in (0, 1)
        Fraction that was promised.
    at_most : float, in (confidence, 1), optional
        Fraction above which the promise is wasteful.
    false_alarm : float
        Probability that right code fails, for each of the two.

    Raises
    ------
    AssertionError
        If the observed fraction is significantly below `confidence` or above `at_most`.
    ValueError
        If `hits` is not boolean (a NaN would be a hit), or the runs are too few for the test ever to fail.

    Examples
    --------
    >>> assert_coverage(np.arange(1000) < 940, confidence=0.95)
    >>> assert_coverage(np.arange(1000) < 900, confidence=0.95)
    Traceback (most recent call last):
    ...
    AssertionError: 900 of 1000 runs keep the promise: significantly below 0.95 (probability 8.4e-11)
    """
    kept = np.asarray(hits)
    if kept.dtype != np.bool_:
        raise ValueError(f"hits must be boolean, got {kept.dtype}; compare first, so that NaN counts as a miss")
    n, k = kept.size, int(np.count_nonzero(kept))
    sides = [("below", confidence, 1 - confidence, stats.binom.cdf(k, n, confidence))]
    if at_most is not None:
        sides.append(("above", at_most, at_most, stats.binom.sf(k - 1, n, at_most)))
    for side, fraction, extreme, probability in sides:
        if n * log(extreme) > log(false_alarm):
            raise ValueError(f"{n} runs are too few: the test against {fraction} could never fail at {false_alarm}")
        if not probability >= false_alarm:
            found = f"{k} of {n} runs keep the promise"
            raise AssertionError(f"{found}: significantly {side} {fraction} (probability {probability:.1e})")


def _worst(badness: NDArray[np.float64]) -> tuple[int, ...]:
    """Index of the largest entry; NaN is worse than anything."""
    flat = int(np.argmax(np.where(np.isnan(badness), inf, badness)))
    return tuple(int(i) for i in np.unravel_index(flat, np.shape(badness)))
