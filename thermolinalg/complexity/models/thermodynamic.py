r"""How long a thermodynamic device takes for each primitive, and how many samples: overdamped and underdamped.

The matrix is scaled so that its largest eigenvalue is 1. The unit of time tau is the inverse of the fastest rate of an
overdamped device, and of the fastest angular frequency of an underdamped one, whose friction is critical for its
slowest mode. That tau does not depend on d is an assumption. Times are those of the analog evolution alone: loading,
conversion and read-out are in :mod:`thermolinalg.complexity.models.traffic`.
"""

import sympy as sp

from thermolinalg.complexity.model import CostModel, Counts, Kind, Oracle, Source, Status
from thermolinalg.complexity.symbols import d, delta, eps, hidden, kappa, phi, rank, rho, signal, tau

LAW = Source("law of the time average of an Ornstein-Uhlenbeck process, mode by mode", Status.DERIVED)
MARKOV = Source(
    "the same law with Markov's inequality, half of the mean square for noise and half for bias", LAW.status
)
CRITICAL = Source("autocorrelation of a mode, critically damped at the slowest", Status.DERIVED)
WISHART = Source("second moments of Gaussian products", Status.DERIVED)
MEASURED = Source("fit to simulated refinements, d = 256, geometric spectra", Status.DERIVED)
AIFER = Source("scaling as in arXiv:2308.05660, whose table was not seen", Status.RECALLED)

LENGTH = "2-norm of the error over that of the answer"
FROBENIUS = "Frobenius norm of the error over that of the answer"
SPECTRAL = "spectral norm of the error over that of the answer"
_RMS = "root mean square of the "
_log = sp.log(1 / eps)
_root = sp.sqrt(kappa)


def _time(
    name: str,
    cost: sp.Expr | None,
    kind: Kind,
    error: str,
    source: Source | tuple[Source, ...] = LAW,
    notes: str = "",
    valid: tuple[sp.Basic, ...] = (),
) -> CostModel:
    return CostModel(name, cost, Counts.SECONDS, kind, error, Oracle.DEVICE, source, d**2 + d, notes, valid)


def _samples(name: str, cost: sp.Expr, kind: Kind, error: str, source: Source = WISHART, notes: str = "") -> CostModel:
    return CostModel(name, cost, Counts.SAMPLES, kind, error, Oracle.DEVICE, source, d**2, notes)


def _unavailable(name: str, reason: str) -> CostModel:
    return _time(name, None, Kind.UNAVAILABLE, "not known", LAW, reason)


# Forgetting the start
SETTLE = _time("burn-in of a mean", kappa * tau * _log, Kind.BOUND, LENGTH, notes="from the origin; mean only")
SETTLE_COVARIANCE = _time(
    "burn-in of a covariance",
    kappa * tau * _log / 2,
    Kind.EXACT,
    "spectral norm of what the covariance lacks, relative to the stationary one mode by mode",
    notes="from a point",
)
SETTLE_UNDERDAMPED = _time(
    "burn-in of a mean, underdamped",
    2 * _root * tau * (_log + sp.log(2) - sp.Rational(1, 2)),
    Kind.BOUND,
    LENGTH,
    CRITICAL,
    "from the origin at rest; of (1 + u) exp(-u) <= 2 exp(-(1 + u)/2)",
)

# Linear systems
SOLVE_AVERAGE = _time(
    "average of a solve",
    2 * d * kappa**2 * tau / (signal**2 * eps**2),
    Kind.BOUND,
    _RMS + LENGTH,
    (LAW, AIFER),
    "after the burn-in; every mode as slow as the slowest, the answer as short as it can be: loose by far",
)
SOLVE_RESIDUAL_AVERAGE = _time(
    "average of a solve to a residual",
    2 * d * tau / (signal**2 * eps**2),
    Kind.BOUND,
    _RMS + "2-norm of the residual over that of the right-hand side",
    notes="after the burn-in; the condition number does not enter",
)
SOLVE = _time(
    "solve",
    kappa * tau * sp.log(2 / (delta * eps**2)) / 2 + 4 * d * kappa**2 * tau / (delta * signal**2 * eps**2),
    Kind.BOUND,
    LENGTH + ", exceeded with a probability of at most delta",
    MARKOV,
    SOLVE_AVERAGE.notes.removeprefix("after the burn-in; "),
)
SOLVE_UNDERDAMPED_AVERAGE = _time(
    "average of a solve, underdamped",
    4 * d * kappa ** sp.Rational(3, 2) * tau / (signal**2 * eps**2),
    Kind.MODEL,
    _RMS + LENGTH,
    CRITICAL,
    "after the burn-in; leading term for long times",
)
SOLVE_UNDERDAMPED = SETTLE_UNDERDAMPED + SOLVE_UNDERDAMPED_AVERAGE
SOLVE_REFINED = _time(
    "solve, refined",
    sp.Max(sp.Rational(11, 10) * kappa, sp.Rational(84, 10) * d / signal**2) * tau * _log,
    Kind.MODEL,
    LENGTH,
    MEASURED,
    "sum over all sweeps, each with the best length; sweeps, residuals and loads of right-hand sides cost extra",
)
SOLVE_UNDERDAMPED_REFINED = _unavailable(
    "solve, underdamped and refined", "the best length of a sweep was neither derived nor measured"
)

# Inverses
INVERSE_SAMPLES = _samples(
    "samples of an inverse", (rank + 1) / eps**2, Kind.EXACT, _RMS + FROBENIUS, notes="independent, real, mean known"
)
INVERSE_SAMPLES_WORST = _samples(
    "samples of an inverse, any spectrum", (d + 1) / eps**2, Kind.BOUND, _RMS + FROBENIUS, notes=INVERSE_SAMPLES.notes
)
INVERSE_AVERAGE = _time(
    "average of an inverse",
    (d + 1) * kappa * tau / eps**2,
    Kind.BOUND,
    _RMS + FROBENIUS,
    notes="stationary start; products of all pairs are averaged without a break",
)
INVERSE_AVERAGE_SPECTRAL = _time(
    "average of an inverse, Frobenius error over the spectral norm",
    d * (d + 1) * kappa * tau / eps**2,
    Kind.BOUND,
    _RMS + "Frobenius norm of the error over the spectral norm of the answer",
    (LAW, AIFER),
    INVERSE_AVERAGE.notes,
)
INVERSE = _time(
    "inverse",
    kappa * tau * sp.log(2 / (delta * eps**2)) / 4 + 2 * (d + 1) * kappa * tau / (delta * eps**2),
    Kind.BOUND,
    FROBENIUS + ", exceeded with a probability of at most delta",
    MARKOV,
    "from a point; products of all pairs are averaged without a break",
)
INVERSE_UNDERDAMPED_AVERAGE = _time(
    "average of an inverse, underdamped",
    sp.Rational(5, 2) * (d + 1) * _root * tau / eps**2,
    Kind.MODEL,
    _RMS + FROBENIUS,
    CRITICAL,
    "stationary start; bound of the leading term for long times",
)
INVERSE_BY_SOLVES = _time(
    "inverse by d solves",
    d * kappa * tau * _log,
    Kind.BOUND,
    "2-norm of the error of each column over that of the column, without noise",
    notes="one column after the other; thermal noise is left out",
)
INVERSE_REFINED_SAMPLES = _samples(
    "samples of a start for Newton-Schulz",
    rho * d,
    Kind.EXACT,
    "spectral norm of I - A X near 2 sqrt(rho)/(1 + rho), whatever the condition number",
    notes="X is the scaled covariance; large d",
)
INVERSE_REFINED_SWEEPS = CostModel(
    "sweeps of Newton-Schulz after a device",
    sp.log(_log / sp.log((1 + rho) / (2 * sp.sqrt(rho))), 2),
    Counts.QUERIES,
    Kind.MODEL,
    "spectral norm of I - A X equal to epsilon",
    Oracle.ENTRIES,
    Source("residual of a Wishart start (Marchenko-Pastur edge), squared in each sweep", Status.DERIVED),
    3 * d**2,
    "a run rounds up; at least one sweep",
    (sp.Gt(rho, 1), sp.Ge(4 * rho / (1 + rho) ** 2, eps)),
)
INVERSE_REFINED_FLOPS = INVERSE_REFINED_SWEEPS.priced(
    4 * d**3 + 2 * d**2,
    Counts.FLOPS,
    name="Newton-Schulz after a device",
    kind=Kind.EXACT,
    source=Source("two products, a scaling and a difference in each sweep", Status.DERIVED),
)

# Independent samples, and what is read of them
SAMPLE = _time(
    "a sample",
    kappa * tau * sp.log(1 / phi) / 2,
    Kind.EXACT,
    "squared correlation of the slowest mode with the sample before equal to phi",
)
SAMPLE_UNDERDAMPED = _time(
    "a sample, underdamped",
    _root * tau * (sp.log(4 / phi) - 1),
    Kind.BOUND,
    "squared correlation of every position with that of the sample before at most phi",
    CRITICAL,
    SETTLE_UNDERDAMPED.notes.removeprefix("from the origin at rest; "),
)
SAMPLE_DIVERGENCE = _time(
    "a sample, by its divergence",
    kappa * tau * sp.log(d / (4 * eps)) / 4,
    Kind.MODEL,
    "Kullback-Leibler divergence from the stationary law, in nats, epsilon",
    notes="from the mean; all modes as slow as the slowest, leading term for small epsilon",
    valid=(sp.Gt(d, 4 * eps),),
)
LYAPUNOV_SAMPLES = _samples(
    "samples of a Lyapunov solution",
    (d + 1) / eps**2,
    Kind.BOUND,
    _RMS + FROBENIUS,
    notes="independent; the noise is the right-hand side, positive semidefinite; kappa of the symmetric part",
)
EXPM_SAMPLES = _samples(
    "samples of an exponential",
    (d + 1) / eps**2,
    Kind.BOUND,
    _RMS + "Frobenius norm of the error over sqrt(d) and the gain of the shift",
    notes="independent pairs; the lag between two states of a pair is extra; kappa of the symmetric part, shifted",
)
LOGDET_SAMPLES = _samples(
    "samples of a log determinant",
    2 * d * (_root - 2 + 1 / _root) / eps**2,
    Kind.MODEL,
    _RMS + "absolute error of the logarithm of the determinant",
    notes="thermodynamic integration on a line from sqrt(lambda_min lambda_max), all modes as far from it as the "
    "farthest; bias of the quadrature left out",
)


def _spaced(samples: CostModel, one: CostModel, name: str) -> CostModel:
    # Samples that keep a little correlation count as independent: a model, whatever the kinds of both.
    return samples.priced(one.formula, Counts.SECONDS, name=name, kind=Kind.MODEL, source=LAW)


INVERSE_SAMPLED = _spaced(INVERSE_SAMPLES_WORST, SAMPLE, "inverse from samples")
INVERSE_SAMPLED_UNDERDAMPED = _spaced(INVERSE_SAMPLES_WORST, SAMPLE_UNDERDAMPED, "inverse from samples, underdamped")
INVERSE_REFINED = _spaced(INVERSE_REFINED_SAMPLES, SAMPLE, "start for Newton-Schulz")
INVERSE_UNDERDAMPED_REFINED = _spaced(
    INVERSE_REFINED_SAMPLES, SAMPLE_UNDERDAMPED, "start for Newton-Schulz, underdamped"
)
LYAPUNOV = _spaced(LYAPUNOV_SAMPLES, SAMPLE, "Lyapunov solution")
EXPM = _spaced(EXPM_SAMPLES, SAMPLE, "exponential")
LOGDET = _spaced(LOGDET_SAMPLES, SAMPLE, "log determinant")
LOGDET_UNDERDAMPED = _spaced(LOGDET_SAMPLES, SAMPLE_UNDERDAMPED, "log determinant, underdamped")

_ONE_FORM = "its encoding has a general drift, which positions and momenta do not have"
LYAPUNOV_UNDERDAMPED = _unavailable("Lyapunov solution, underdamped", _ONE_FORM)
EXPM_UNDERDAMPED = _unavailable("exponential, underdamped", _ONE_FORM)
LYAPUNOV_REFINED = _unavailable("Lyapunov solution, refined", "not derived")
EXPM_REFINED = _unavailable("exponential, refined", "no refinement of an exponential is known")
LOGDET_REFINED = _unavailable("log determinant, refined", "no refinement of a log determinant is known")


# As published
_UNSEEN = "order only; which norm the paper uses was not seen, so that no theorem can be claimed"


def _published(name: str, cost: sp.Expr) -> CostModel:
    return _time(f"{name}, as published", hidden * tau * cost / eps**2, Kind.MODEL, "not known", AIFER, _UNSEEN)


PUBLISHED_SOLVE = _published("solve", d * kappa**2)
PUBLISHED_INVERSE = _published("inverse", d**2 * kappa)
PUBLISHED_LYAPUNOV = _published("Lyapunov solution", d**2 * kappa)
PUBLISHED_LOGDET = _published("log determinant", d * kappa * sp.log(kappa) ** 3)
