"""Iterative solvers for a symmetric positive definite matrix: passes, operations and traffic.

Passes are real numbers here; a run rounds up. Rounding errors, which can delay conjugate gradients, are left out.
"""

import sympy as sp

from thermolinalg.complexity.model import CostModel, Counts, Kind, Oracle, Source, Status
from thermolinalg.complexity.symbols import B_M, c, eps, kappa, n, s, w

LECTURE = Source("lecture notes of J. Romberg and M. Davenport, after J. Shewchuk", Status.READ)
DERIVED = Source("largest factor by which a step shrinks an eigenvector of the error", Status.DERIVED)
COUNTED = Source("operations of one pass of the textbook loop", Status.DERIVED)
RECALLED = Source("Y. Saad, Iterative Methods for Sparse Linear Systems", Status.RECALLED)

_ENERGY_NORM = "energy norm of the error at most epsilon times that of the start"
_TWO_NORM = "2-norm of the error at most epsilon times that of the start"
_log = sp.log(1 / eps)


def _passes(
    name: str, cost: sp.Expr, error: str, source: Source, memory: sp.Expr, notes: str = "", *valid: sp.Basic
) -> CostModel:
    return CostModel(name, cost, Counts.QUERIES, Kind.BOUND, error, Oracle.PRODUCTS, source, memory, notes, valid)


def _dense(passes: CostModel, each: sp.Expr, name: str, source: Source = COUNTED) -> CostModel:
    return passes.priced(each, Counts.FLOPS, name=name, kind=Kind.EXACT, source=source, oracle=Oracle.ENTRIES)


STEEPEST_DESCENT_PASSES = _passes("passes of steepest descent", kappa * _log / 2, _ENERGY_NORM, LECTURE, 3 * n)
RICHARDSON_PASSES = _passes(
    "passes of Richardson",
    _log / sp.log((kappa + 1) / (kappa - 1)),
    _TWO_NORM,
    DERIVED,
    3 * n,
    "step 2/(lambda_min + lambda_max): both ends of the spectrum are known",
    sp.Gt(kappa, 1),
)
RICHARDSON_PASSES_SIMPLE = _passes(
    "passes of Richardson, simple bound", kappa * _log / 2, _TWO_NORM, DERIVED, 3 * n, RICHARDSON_PASSES.notes
)
CG_PASSES = _passes("passes of CG", sp.sqrt(kappa) / 2 * sp.log(2 / eps), _ENERGY_NORM, LECTURE, 4 * n)
CHEBYSHEV_PASSES = _passes(
    "passes of Chebyshev",
    sp.sqrt(kappa) / 2 * sp.log(2 / eps),
    _TWO_NORM,
    RECALLED,
    4 * n,
    "no inner products; both ends of the spectrum are known",
)

STEEPEST_DESCENT = _dense(STEEPEST_DESCENT_PASSES, 2 * n**2 + 8 * n, "steepest descent, dense")
RICHARDSON = _dense(RICHARDSON_PASSES_SIMPLE, 2 * n**2 + 3 * n, "Richardson, dense")
CG = _dense(CG_PASSES, 2 * n**2 + 10 * n, "CG, dense")
CG_SPARSE = _dense(CG_PASSES, 2 * s * n + 10 * n, "CG, s entries in a row")
CHEBYSHEV = _dense(CHEBYSHEV_PASSES, 2 * n**2 + 6 * n, "Chebyshev, dense", RECALLED)

CG_SECONDS_AT_BANDWIDTH = CG_PASSES.priced(
    n**2 * w / B_M,
    Counts.SECONDS,
    name="CG, dense, matrix streamed in every pass",
    kind=Kind.MODEL,
    source=Source("one read of all entries for each pass; vectors and latency are left out", Status.DERIVED),
    oracle=Oracle.ENTRIES,
)

GMRES = CostModel(
    "GMRES, c steps, dense",
    2 * c * n**2 + 2 * c**2 * n,
    Counts.FLOPS,
    Kind.MODEL,
    "depends on the problem: no bound by the condition number alone",
    Oracle.ENTRIES,
    RECALLED,
    n**2 + c * n,
    "modified Gram-Schmidt; terms of lower order are left out",
)

NEWTON_SCHULZ_SWEEPS = CostModel(
    "sweeps of Newton-Schulz",
    sp.log(_log / sp.log((kappa + 1) / (kappa - 1)), 2),
    Counts.QUERIES,
    Kind.EXACT,
    "spectral norm of I - A X equal to epsilon: every sweep squares it; a run rounds up",
    Oracle.ENTRIES,
    Source("the residual (kappa - 1)/(kappa + 1) of the start, squared until it is epsilon", Status.DERIVED),
    3 * n**2,
    "start 2 I/(lambda_min + lambda_max); one sweep more from I/lambda_max; at least one sweep",
    (sp.Ge(((kappa - 1) / (kappa + 1)) ** 2, eps),),
)
NEWTON_SCHULZ = _dense(NEWTON_SCHULZ_SWEEPS, 4 * n**3 + 2 * n**2, "Newton-Schulz inverse")
