r"""Property-based accuracy tests: awkward problems, and assertions in units of standard error.

A typed tolerance either hides a bias or fails at random. Each assertion here is a hypothesis test instead: it knows the
law of its statistic when the code under test is right, and fails beyond the quantile of a stated probability of a false
alarm. Put a mutation beside each, a biased copy that must fail: a test that cannot fail is not one.

The strategies need ``hypothesis`` (``pip install thermolinalg[test]``). They draw a kind, a size and a seed, and leave
the numbers to NumPy, so that failing examples shrink to small matrices in the coordinate basis.
"""

from collections.abc import Callable, Mapping
from math import inf, log
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]
Ints = st.SearchStrategy[int]
Floats = st.SearchStrategy[float]
Spectra = Mapping[str, Callable[[int, float], Array]]
Drifts = Mapping[str, Callable[[np.random.Generator, Array, float], Array]]

FALSE_ALARM = 1e-6
"""Probability that an assertion fails although the code under test is right."""


SPECTRA: Spectra = {
    "linear": lambda d, kappa: np.linspace(1 / kappa, 1.0, d),
    "geometric": lambda d, kappa: np.geomspace(1 / kappa, 1.0, d),
    "clustered": lambda d, kappa: np.sort(np.resize([1.0, 1 / kappa, kappa**-0.5], d)),
    "one small": lambda d, kappa: np.append(1 / kappa, np.ones(d - 1)),
    "one large": lambda d, kappa: np.append(np.full(d - 1, 1 / kappa), 1.0),
}
"""From (d >= 2, kappa) to d eigenvalues in ascending order from 1/kappa to 1; extend it with your own."""


def _normal(rng: np.random.Generator, rates: Array, coupling: float) -> Array:
    """Pairs of modes that turn into each other at the rate `coupling`, in a random orthogonal basis."""
    drift = np.diag(rates)
    for i in range(0, len(rates) - 1, 2):
        drift[i : i + 2, i : i + 2] = [[rates[i], coupling], [-coupling, rates[i]]]
    basis = _orthogonal(rng, len(rates))
    return basis @ drift @ basis.T


def _non_normal(rng: np.random.Generator, rates: Array, coupling: float) -> Array:
    """Triangular, strong above the diagonal; then relabelled with random signs."""
    return _relabelled(rng, np.diag(rates) + coupling * np.triu(rng.standard_normal((len(rates), len(rates))), 1))


def _jordan(rng: np.random.Generator, rates: Array, coupling: float) -> Array:
    """One Jordan block at the smallest rate; then relabelled with random signs."""
    return _relabelled(rng, rates[0] * np.eye(len(rates)) + coupling * np.eye(len(rates), k=1))


DRIFTS: Drifts = {"normal": _normal, "non-normal": _non_normal, "jordan": _jordan}
"""From (generator, rates, coupling) to a drift matrix; extend it with your own."""

DIMS = st.integers(1, 8)
KAPPAS = st.floats(0.0, 4.0).map(lambda digits: 10.0**digits)
COUPLINGS = st.floats(0.0, 10.0)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def spectra(draw: st.DrawFn, dims: Ints = DIMS, kappas: Floats = KAPPAS, kinds: Spectra = SPECTRA) -> Array:
    r"""Draw a positive spectrum in ascending order; its largest eigenvalue is 1.

    Parameters
    ----------
    dims : strategy for int, >= 1
        Number of eigenvalues. A single one is 1, whatever the condition number.
    kappas : strategy for float, >= 1
        Condition number :math:`\lambda_\max/\lambda_\min`.
    kinds : mapping from names to callables
        Shapes to choose from, as in :data:`SPECTRA`. Scale the result with ``.map(lambda rates: 3.0 * rates)``.

    Examples
    --------
    >>> from hypothesis import given
    >>> check = given(spectra(st.just(5), st.just(100.0)))
    >>> check(lambda rates: np.testing.assert_allclose(rates[[0, -1]], [0.01, 1.0]))()
    """
    d, kappa, kind = draw(dims), draw(kappas), draw(st.sampled_from(list(kinds)))
    return kinds[kind](d, kappa) if d > 1 else np.ones(1)


@st.composite
def spd_matrices(draw: st.DrawFn, dims: Ints = DIMS, kappas: Floats = KAPPAS, kinds: Spectra = SPECTRA) -> Array:
    r"""Draw a symmetric positive definite matrix :math:`U \Lambda U^\top`, with :math:`\Lambda` from :func:`spectra`.

    The parameters are those of :func:`spectra`; :math:`U` is the identity or uniformly random. The matrix is symmetric
    to the last bit, and its eigenvalues are right to about d rounding errors of the largest.

    Examples
    --------
    >>> from hypothesis import given
    >>> check = given(spd_matrices(st.just(4), st.just(100.0)))
    >>> check(lambda A: np.testing.assert_allclose(np.linalg.cond(A), 100.0))()
    """
    eigenvalues = draw(spectra(dims, kappas, kinds))
    if not draw(st.booleans()):
        return np.diag(eigenvalues)
    basis = _orthogonal(np.random.default_rng(draw(SEEDS)), len(eigenvalues))
    matrix = (basis * eigenvalues) @ basis.T
    return (matrix + matrix.T) / 2


@st.composite
def stable_drifts(
    draw: st.DrawFn, dims: Ints = DIMS, kappas: Floats = KAPPAS, couplings: Floats = COUPLINGS, kinds: Drifts = DRIFTS
) -> Array:
    r"""Draw a drift matrix, in general not symmetric, whose eigenvalues have real parts in :math:`[1/\kappa, 1]`.

    Parameters
    ----------
    dims, kappas
        As in :func:`spectra`, for the real parts.
    couplings : strategy for float, >= 0
        Size of what is off the diagonal: imaginary parts of a normal drift, departure from normality of the others.
    kinds : mapping from names to callables
        Drifts to choose from, as in :data:`DRIFTS`. Those that are not normal are triangular up to a signed permutation
        and so stable exactly; rounding would move the eigenvalues of a d x d Jordan block by its d-th root.

    Examples
    --------
    >>> from hypothesis import given
    >>> check = given(stable_drifts(kappas=st.just(10.0), kinds={"normal": DRIFTS["normal"]}))
    >>> check(lambda A: np.testing.assert_array_less(0.099, np.linalg.eigvals(A).real))()
    """
    rates, coupling, kind = draw(spectra(dims, kappas)), draw(couplings), draw(st.sampled_from(list(kinds)))
    return kinds[kind](np.random.default_rng(draw(SEEDS)), rates, coupling)


@st.composite
def right_hand_sides(draw: st.DrawFn, matrix: ArrayLike) -> Array:
    """Draw a right-hand side of unit length for a symmetric matrix.

    Parameters
    ----------
    matrix : array, shape (d, d)
        The vector lies along its easiest mode (largest eigenvalue), its hardest, or a random mixture.

    Examples
    --------
    >>> from hypothesis import given
    >>> check = given(right_hand_sides(np.diag([1.0, 2.0])))
    >>> check(lambda b: np.testing.assert_allclose(np.linalg.norm(b), 1.0))()
    """
    modes = np.linalg.eigh(np.asarray(matrix, np.float64))[1]
    mode = draw(st.sampled_from((-1, 0, None)))
    vector = np.random.default_rng(draw(SEEDS)).standard_normal(len(modes)) if mode is None else modes[:, mode]
    return vector / np.linalg.norm(vector)


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
    w = np.ones_like(y) if stderr is None else (y / np.asarray(stderr, float)) ** 2
    u, v = (t - np.average(t, weights=w) for t in (np.log(x), np.log(y)))
    precision = np.sum(w * u**2)
    slope = np.sum(w * u * v) / precision
    degrees = inf if stderr is not None else len(u) - 2
    scatter = 1.0 if stderr is not None else np.sum((v - slope * u) ** 2) / degrees
    return ConvergenceSlope(float(slope), float(np.sqrt(scatter / precision)), degrees)


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


def _worst(badness: Array) -> tuple[int, ...]:
    """Index of the largest entry; NaN is worse than anything."""
    flat = int(np.argmax(np.where(np.isnan(badness), inf, badness)))
    return tuple(int(i) for i in np.unravel_index(flat, np.shape(badness)))


def _orthogonal(rng: np.random.Generator, d: int) -> Array:
    """Uniformly random orthogonal matrix."""
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)


def _relabelled(rng: np.random.Generator, matrix: Array) -> Array:
    """Permute the coordinates and flip some signs: a change of basis that does not round."""
    signs, order = rng.choice([-1.0, 1.0], len(matrix)), rng.permutation(len(matrix))
    return (signs[:, None] * matrix * signs)[np.ix_(order, order)]
