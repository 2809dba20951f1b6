"""What it costs to simulate each primitive on a digital computer, as the programs of this package do.

Derived by hand from the algorithms, to the last term; the tests hold each model against the traced program. Real
arithmetic, a dense matrix, overdamped dynamics, one run of an ideal device with a given plan; the answer, its standard
error, its status and its statistics. What a device takes for the same is in
:mod:`thermolinalg.complexity.models.thermodynamic`.

Absolute values, signs and roundings of floating-point numbers count one flop each; comparisons, random bits and
arithmetic on integers are not counted. An eigendecomposition counts c_eigh d^3, and a gamma variable c_gamma: both
iterate, and no polynomial is exact.
"""

from dataclasses import replace

import sympy as sp

from thermolinalg.complexity.model import CostModel, Counts, Kind, Oracle, Source, Status
from thermolinalg.complexity.models.direct import POTRF, POTRS, TRSM
from thermolinalg.complexity.models.modes import (
    COVARIANCE,
    FACTOR_1,
    FACTOR_2,
    FORCE,
    SAMPLE_OVERLAP,
    SAMPLED_COVARIANCE,
    SAMPLED_START,
    SHORTFALL,
    START,
    Work,
    bartlett,
    law,
    normals,
    products,
)
from thermolinalg.complexity.symbols import c_eigh, c_gamma, d, j_0, j_1, j_f, j_t, k, n, n_s, nodes

STEPS = Source("operations of the programs, by hand", Status.DERIVED)
EXACT_LAW = "drawn from the exact law, but for rounding"
LONG_LAW = "drawn from the law for long times"

PROBES = 8
"""Right-hand sides of noise alone, from which the long-time law takes its standard error."""
RANKS = 8
"""Ranks that carry the standard error of an inverse."""
BLOCK = 512
"""Steps of a walk between two updates of the sum."""
SERIES = 15
"""Terms that the series of a short time adds up."""
HORNER = 16
"""Terms of the series of a propagator alone."""


def _cholesky() -> Work:
    return Work(POTRF.formula.subs(n, d))


def _substituted(columns: sp.Expr | int) -> Work:
    """Both triangular systems."""
    return Work(POTRS.where({k: columns, n: d}).formula)


def _half_substituted(columns: sp.Expr | int) -> Work:
    """One triangular system."""
    return Work(TRSM.where({k: columns, n: d}).formula)


_EIGH = Work(c_eigh * d**3)
_SYMMETRISED = Work(2 * d**2)
_JUDGED = Work(5)
"""Whether eigenvalues are positive, and well apart from zero: a root and three products, and another product."""
_TIME_CONSTANTS = Work(2)
_NOISE = Work(2)
"""Density of the thermal force over a duration."""
_HYPOT = Work(7)


def _turned(columns: sp.Expr | int) -> Work:
    """Columns into the eigenbasis, or out of it."""
    return products(d, d, columns)


def _mixed(outputs: int, inputs: int, columns: sp.Expr | int) -> Work:
    """Coefficients times modes, summed over the inputs."""
    return Work((2 * inputs - 1) * outputs * columns * d)


def _linear_error(covariance: Work, start: Work) -> Work:
    """Thermal variance on the diagonal, and what is left of the start, for k columns."""
    noise = covariance + Work(3 * d**2 - d) + Work(2 * d)
    left = start + Work(2 * d) + _turned(k) + _mixed(1, 1, k) + _turned(k) + Work(d * k)
    return noise + left + _HYPOT * (d * k)


def _pair(
    name: str, work: Work, error: str, notes: str = "", valid: tuple[sp.Basic, ...] = ()
) -> tuple[CostModel, ...]:
    """The operations, and the values of elementary functions."""
    exact = sp.sympify(work.flops).free_symbols <= {d, k, n_s, nodes, j_f, j_0, j_1, j_t}
    kind = Kind.EXACT if exact else Kind.MODEL
    flops, functions = (sp.expand(count) for count in (work.flops, work.functions))
    first = CostModel(f"simulated {name}", flops, Counts.FLOPS, kind, error, Oracle.ENTRIES, STEPS, None, notes, valid)
    title = f"functions of a simulated {name}"
    return first, replace(first, name=title, cost=functions, counts=Counts.FUNCTIONS, kind=Kind.EXACT)


# Linear systems: k right-hand sides
_columns = k + PROBES
SOLVE_LONG, SOLVE_LONG_FUNCTIONS = _pair(
    "solve, long-time law",
    _cholesky()
    + Work(1 + 2 + 1)  # temperature; variance and deviation of the noise
    + normals(d * _columns)
    + Work(2 * d * _columns)  # scaled, and added to the right-hand sides
    + _substituted(_columns)
    + Work((3 * PROBES - 1) * d + 3 * d)  # squares of absolute values, summed; the root of their mean
    + _NOISE
    + _TIME_CONSTANTS,
    LONG_LAW,
    "one Cholesky factor; k answers and eight solutions for noise",
)
SOLVE_LAW, SOLVE_LAW_FUNCTIONS = _pair(
    "solve",
    _EIGH
    + _JUDGED
    + Work(1)  # temperature
    + normals(2 * d * k)
    + law(FORCE, COVARIANCE)
    + FACTOR_2
    + _turned(3 * k)
    + _mixed(2, 3, k)
    + _turned(2 * k)
    + _linear_error(law(COVARIANCE), law(START))
    + _NOISE
    + _TIME_CONSTANTS,
    EXACT_LAW,
    "average and end state from their joint law; burn-in and duration do not enter",
)
_ADVANCE = normals(2 * d * k) + FACTOR_2 + _mixed(2, 1, k) + _mixed(2, 1, k) + _mixed(2, 2, k) + Work(4 * d * k)
"""One step of all modes: force, state and noise to average and end."""
SOLVE_WALK, SOLVE_WALK_FUNCTIONS = _pair(
    "solve, walked",
    _EIGH
    + _JUDGED
    + Work(1 + 1)  # temperature; time of a step
    + _turned(k)
    + law(FORCE, START, COVARIANCE) * 2  # of the burn-in and of a step
    + _ADVANCE
    + (_ADVANCE + Work(d * k)) * n_s
    + Work(d * k)
    + _turned(k) * 2  # average and end
    + _linear_error(law(SAMPLED_COVARIANCE), law(SAMPLED_START))
    + _NOISE
    + _TIME_CONSTANTS,
    EXACT_LAW,
    "one step for each sample; factors of the noise are computed in every step",
)

# Samples: without a mean
SAMPLES_LONG, SAMPLES_LONG_FUNCTIONS = _pair(
    "Gaussian samples, long-time law",
    _cholesky() + normals(d * n_s) + Work(2) + _half_substituted(n_s) + _substituted(1) + Work(2 * d * n_s),
    EXACT_LAW,
    "one Cholesky factor; a mean of zero is solved for all the same",
)
SAMPLES_LAW, SAMPLES_LAW_FUNCTIONS = _pair(
    "Gaussian samples",
    _EIGH
    + _JUDGED
    + normals(d * n_s)
    + Work(2 + 2 * d)  # temperature; deviations of the modes
    + _turned(n_s)
    + _mixed(1, 1, n_s)
    + _turned(n_s)
    + _turned(1) * 2  # the mean
    + Work(d)
    + Work(2 * d * n_s),
    EXACT_LAW,
    "a mean of zero is solved for all the same",
)

# Inverses, from samples
_EFFECTIVE = Work(1 + 1)
_REPLICAS = Work(1)
INVERSE_LONG, INVERSE_LONG_FUNCTIONS = _pair(
    "inverse, long-time law",
    _cholesky()
    + bartlett()
    + _half_substituted(d)
    + Work(1 + d**2)
    + products(d, d, d)
    + Work(5 * d**2)  # standard error: two products of entries, their sum, a quotient and a root
    + _REPLICAS
    + Work(1 + 1 + 1 + 2 + 2 + 3)  # sums over the overlap of independent samples
    + _EFFECTIVE
    + _TIME_CONSTANTS,
    LONG_LAW,
    "independent samples, any number of them",
)
_PIVOTED = (products(1, RANKS, d) + Work(4 * d + 1)) * RANKS
"""Rows of a pivoted factor: products with those before, a difference, a root, a quotient, and the remainder."""
_KEPT = Work(d + (5 * RANKS - 1) * d + RANKS * d)
"""What ranks add, summed up, and what is left over for each mode."""
_SECOND = Work(2 * d**2) + _PIVOTED + _KEPT + (Work(3 * d**2) + products(d, d, d)) * RANKS
"""The second term of the standard error, rank by rank, scaled before and after."""
_INVERSE_ERROR = (
    SAMPLE_OVERLAP
    + Work(2 * d**2)  # over the rates
    + Work(2 * d**2)  # squares of eigenvectors
    + products(d, d, d) * 2
    + SHORTFALL
    + Work(d + d**2)
    + products(d, d, d)
    + _SECOND
    + Work(d**2 + 5 * d**2)
)
_OVERLAP_SUMS = SAMPLE_OVERLAP + Work(2 * d + d**2 + d + 2 + (d - 1) + (d**2 - 1) + (2 * d - 1) + (2 * d**2 - 1))
_TRIPLES = Work(d**2 - d + 2 * d + d - 1)
_AS_INVERSE = Work(1 + d**2) + products(d, d, d) * 2 + _INVERSE_ERROR + Work(2 * d**2)
"""A second moment of modes, turned into the inverse and made symmetric, with its standard error."""
_MOMENTS = _EIGH + _JUDGED + _AS_INVERSE + _OVERLAP_SUMS + _TRIPLES + _EFFECTIVE + _TIME_CONSTANTS
INVERSE_LAW, INVERSE_LAW_FUNCTIONS = _pair(
    "inverse",
    _MOMENTS
    + Work(1)  # whole samples
    + bartlett()
    + Work(d + d**2)  # deviations of the modes
    + products(d, d, d),
    EXACT_LAW,
    "samples so far apart that they are independent, any number of them. Others are drawn frequency by frequency, "
    "whose bins are no polynomial of d, or walked",
    (sp.Gt(d, RANKS),),
)
_BLOCKS = sp.ceiling(n_s / BLOCK)
INVERSE_WALK, INVERSE_WALK_FUNCTIONS = _pair(
    "inverse, walked",
    _MOMENTS
    + Work(1)  # time of a step
    + law(COVARIANCE)  # of the burn-in
    + law(START, COVARIANCE)  # of a step
    + FACTOR_1 * 2
    + normals(d)
    + Work(d)
    + (normals(BLOCK * d) + Work(3 * BLOCK * d) + products(d, BLOCK, d) + Work(d**2)) * _BLOCKS
    + Work(2 * d**2),  # both triangles, and the temperature
    EXACT_LAW,
    "one step for each sample, in whole blocks",
    (sp.Gt(d, RANKS), sp.Lt(d, 256)),
)

# Log determinants, by integration over a path
_NODE = Work(3 * d + 4 * d + 2 * d + 1 + 3 * d + 4 + 2 * d)
"""Slopes, means of energies, their sum, its variance, and the integral."""
LOGDET, LOGDET_FUNCTIONS = _pair(
    "log determinant",
    _EIGH
    + _JUDGED
    + Work(3 + 2 * d + 4)  # reference; excesses of modes and extremes over it
    + (_NODE + Work(c_gamma * d)) * nodes
    + Work(3 * d - 1, d)  # bias
    + Work(3, 1)  # the value
    + Work(3 + 6)  # parts of the error, and their root
    + Work(7 * nodes - 1),  # spacing of samples, and the time that they take
    EXACT_LAW,
    "thermodynamic integration over n_q nodes, any number of samples",
)

# Any drift: Lyapunov equations and exponentials, without eigenvectors
_NORM = Work(3 * d**2 - 2 * d)
"""Sums over rows and columns of absolute values."""
_FROBENIUS = Work(2 * d**2)
_SCALED = _NORM + Work(6, 3)
"""How often to halve a time: a logarithm to the base 2, and the power of 2."""
_TERM = products(d, d, d) * 2 + products(d, d, 1) + Work(5 * d**2 + 2 * d)
"""A term of change, shift and spread: two products of matrices and one with a vector, sums, and quotients."""
_SHORT = Work(2 * d**2 + d + d**2) + _TERM * SERIES + Work(d)
_DOUBLING = products(d, d, d) * 3 + products(d, d, 1) + Work(5 * d**2 + 5 * d)
"""A map after itself: moved covariance, what tells slow modes, the product, and the shift."""
_SQUARES = Work(2 * d**2 - 1)
_FORGOTTEN = _NORM + Work(1) + _SHORT + _DOUBLING * j_f + _SQUARES * (j_f + 1) + _SQUARES


def _propagator(doublings: sp.Expr) -> Work:
    return _SCALED + Work(2 * d**2) + (products(d, d, d) + Work(2 * d**2)) * HORNER + products(d, d, d) * doublings


_ROOT = _SYMMETRISED + _EIGH + Work(d + d**2) + products(d, d, d)
"""Symmetric square root."""
_CONGRUENT = products(d, d, d) * 2
_VARIANCE = _CONGRUENT + Work(10 * d**2)
"""Of each entry of a moment: products of variances, squares, and what is left of the start."""
_ANSWER = Work(d**2) + (Work(1) + _HYPOT + Work(3)) * d**2 + _TIME_CONSTANTS
"""Root of the variance, standard error with what is systematic, and the value, which moves with the operands."""
LYAPUNOV, LYAPUNOV_FUNCTIONS = _pair(
    "Lyapunov equation",
    Work(3 * d**2)
    + _SYMMETRISED
    + _EIGH
    + Work(1)  # whether the right-hand side is positive semi-definite
    + _FORGOTTEN  # whether the drift is stable
    + _SYMMETRISED * 2
    + _FORGOTTEN  # the solution
    + Work(d**2 + 1)  # the mean; time between samples
    + _propagator(j_0)
    + _propagator(j_1)
    + Work(d**2)
    + _FROBENIUS
    + _CONGRUENT
    + _FROBENIUS
    + Work(1)  # how alike samples are
    + bartlett()
    + Work(1 + d**2)
    + _ROOT
    + products(d, d, d) * 2
    + Work(d**2)
    + _VARIANCE
    + _ANSWER
    + Work(d**2)
    + _FROBENIUS,  # whether there is anything to sample
    LONG_LAW,
    "independent samples, any number of them; the digital solution is among the work",
)
EXPM, EXPM_FUNCTIONS = _pair(
    "exponential",
    Work(2 * d**2)
    + _SYMMETRISED
    + _EIGH
    + _FROBENIUS
    + Work(3 + 2 * d**2 + 2 * d**2 + 1 + d**2, 1)  # shift, drift, diffusion, gain, covariance
    + _SCALED
    + _SHORT
    + _DOUBLING * j_t
    + Work(d**2)
    + Work(d**2 + 2)  # the mean; time between pairs
    + _propagator(j_0)
    + _propagator(j_1)
    + Work(d**2)
    + _FROBENIUS
    + products(d, d, d) * 2
    + _CONGRUENT
    + _FROBENIUS
    + Work(1)  # how alike pairs are
    + bartlett()
    + Work(1)
    + products(d, d, d)
    + _ROOT
    + normals(d**2)
    + products(d, d, d)
    + Work(d**2)
    + products(d, d, d)
    + Work(d**2)
    + _VARIANCE
    + products(d, d, d) * 2
    + Work(1)  # whether pairs overlap
    + _ANSWER,
    LONG_LAW,
    "independent pairs, any number of them; the digital exponential is among the work",
)
