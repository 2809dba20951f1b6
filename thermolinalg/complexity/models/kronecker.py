"""One step of an optimizer that sees the curvature of each layer as a product of two factors: K-FAC and its relatives.

All costs are those of one dense layer, m by n, used once, with a batch of b; lower-order terms of the step included.
Statistics come every k_s steps, inverses or roots every k_f steps. Spectra of factors are reported to decay so fast
that a randomised form is quadratic in the width, digitally (arXiv:2206.15397, read): say so beside every cubic cost.
"""

from typing import Any

import sympy as sp

from thermolinalg.complexity.model import CostModel, Counts, Kind, Oracle, Source, Status
from thermolinalg.complexity.models.direct import CHOLESKY_INVERSE, POTRF, SYEVD
from thermolinalg.complexity.symbols import B_L, b, eps, hidden, k_f, k_s, kappa, m, n, phi, q, tau, w

DERIVED = Source("operations of the textbook step", Status.DERIVED)
GROSSE = Source("method of arXiv:1503.05671", Status.READ)
GEORGE = Source("method of arXiv:1806.03884", Status.RECALLED)
GUPTA = Source("method of arXiv:1802.09568", Status.RECALLED)
THERMO = Source("re-derived; arXiv:2502.08603 was seen in summaries only", Status.DERIVED)

_STEP = "one step of the method, exact but for rounding"
_FACTORS = m**2 + n**2


def _both(formula: sp.Expr) -> sp.Expr:
    return formula + formula.subs(n, m)


def _layer(name: str, cost: sp.Expr, memory: sp.Expr, **changes: Any) -> CostModel:
    given: dict[str, Any] = {"kind": Kind.EXACT, "error": _STEP, "source": DERIVED, "notes": ""} | changes
    return CostModel(name, cost, Counts.FLOPS, oracle=Oracle.DIFFERENTIABLE, memory=memory, **given)


def _device(name: str, cost: sp.Expr, error: str, notes: str) -> CostModel:
    return CostModel(name, cost, Counts.SECONDS, Kind.MODEL, error, Oracle.DEVICE, THERMO, _FACTORS, notes)


GRADIENT = _layer(
    "gradient of a layer", 6 * b * m * n, m * n + b * (m + n), notes="4 b m n for the first layer of a net"
)
STATISTICS = _layer(
    "factors of a layer",
    (2 * b + 3) * _FACTORS,
    _FACTORS + b * (m + n),
    notes="full products, and a running mean; a triangle is half as much",
)
DAMPED_CHOLESKY = _layer("damped Cholesky of both factors", _both(POTRF.formula + n), _FACTORS)
DAMPED_INVERSE = _layer("damped inverse of both factors", _both(CHOLESKY_INVERSE.formula + n), _FACTORS)
EIGENBASIS = _layer(
    "eigenbasis of both factors", _both(SYEVD.formula), 2 * _FACTORS, kind=Kind.MODEL, source=SYEVD.sources
)
APPLY = _layer(
    "both inverses applied to a gradient",
    2 * m**2 * n + 2 * m * n**2,
    _FACTORS + 2 * m * n,
    notes="by triangular solves or by products with inverses; in every step",
)
STEP = _layer("step of a layer", 2 * m * n, 2 * m * n, notes="a scaling and a difference")
RANK_B = _layer(
    "both inverses applied to b pairs of rows",
    2 * b * _FACTORS + 2 * b * m * n,
    _FACTORS + b * (m + n) + m * n,
    notes="the gradient is a mean of b outer products: solves with their rows, then outer products; pays for b < n",
)

_BASE = GRADIENT + STATISTICS.repeated(1 / k_s)

KFAC = (_BASE + DAMPED_CHOLESKY.repeated(1 / k_f) + APPLY + STEP).named("K-FAC")
KFAC_INVERSE = (_BASE + DAMPED_INVERSE.repeated(1 / k_f) + APPLY + STEP).named("K-FAC with inverses")
KFAC_RANK_B = (_BASE + DAMPED_CHOLESKY.repeated(1 / k_f) + RANK_B + STEP).named("K-FAC by rows")

EKFAC_BASIS = _layer(
    "gradient into an eigenbasis and back",
    4 * m**2 * n + 4 * m * n**2 + m * n,
    2 * _FACTORS + 2 * m * n,
    source=(GEORGE, DERIVED),
    notes="one division for each entry in between",
)
EKFAC_SCALES = _layer(
    "second moments in an eigenbasis",
    2 * b * _FACTORS + b * (m + n) + 2 * b * m * n + 3 * m * n,
    2 * _FACTORS + m * n + b * (m + n),
    source=(GEORGE, DERIVED),
    notes="rows of b pairs are turned and squared, outer products summed, a running mean",
)
EKFAC = (_BASE + EIGENBASIS.repeated(1 / k_f) + EKFAC_BASIS + EKFAC_SCALES + STEP).named("EKFAC")

SHAMPOO_STATISTICS = _layer(
    "factors of Shampoo", 2 * m**2 * n + 2 * m * n**2 + _FACTORS, _FACTORS + m * n, source=(GUPTA, DERIVED)
)
SHAMPOO_ROOTS = _layer(
    "inverse fourth roots of both factors",
    _both(SYEVD.formula + 2 * n**3 + n**2 + 4 * n),
    3 * _FACTORS,
    kind=Kind.MODEL,
    source=(GUPTA, *SYEVD.sources),
    notes="by eigenvectors: damping, two roots and a reciprocal of each eigenvalue, a scaling and a product",
)
SHAMPOO = (GRADIENT + SHAMPOO_STATISTICS.repeated(1 / k_s) + SHAMPOO_ROOTS.repeated(1 / k_f) + APPLY + STEP).named(
    "Shampoo"
)

# On a thermodynamic device
_UPDATE = "root mean square error of the step in the norm of the curvature, over its length"
_SAMPLES_N, _SAMPLES_M = 2 * (n + 1) / eps**2, 2 * (m + 1) / eps**2

THERMO_COVARIANCE_SECONDS = _device(
    "K-FAC from sampled covariances, device",
    (_FACTORS + n * _SAMPLES_N + m * _SAMPLES_M) * w / B_L
    + (_SAMPLES_N + _SAMPLES_M) * kappa * tau * sp.log(1 / phi) / 2,
    _UPDATE,
    "method 1, each refresh: factors in, samples out; one array, both factors with the same kappa",
)
THERMO_COVARIANCE_FLOPS = (
    _BASE
    + _layer(
        "covariances of samples",
        2 * n**2 * _SAMPLES_N + 2 * m**2 * _SAMPLES_M + n + m,
        _FACTORS,
        kind=Kind.BOUND,
        source=THERMO,
        error=_UPDATE,
        notes="outer products summed digitally: more than the inverses that they replace",
    ).repeated(1 / k_f)
    + APPLY
    + STEP
).named("K-FAC from sampled covariances, digital part")
THERMO_SYSTEMS_SECONDS = _device(
    "K-FAC by linear systems, device",
    (_FACTORS + 4 * m * n) * w / B_L + (m + n) * kappa * tau * sp.log(1 / eps) / q,
    "2-norm of the error of each solve over its answer, without noise",
    "method 2, every step: factors in, m + n right-hand sides in and out, q at once; a broadcast loads q arrays",
)
THERMO_SYSTEMS_FLOPS = (_BASE + STEP).named("K-FAC by linear systems, digital part")
THERMO_RANK_B_SECONDS = _device(
    "K-FAC by rows, device",
    (_FACTORS + 2 * b * (m + n)) * w / B_L + 2 * b * kappa * tau * sp.log(1 / eps) / q,
    THERMO_SYSTEMS_SECONDS.error,
    "every step: factors in, rows of b pairs in and out, q at once; a broadcast loads q arrays",
)
THERMO_RANK_B_FLOPS = (
    _BASE + _layer("outer products of solved rows", 2 * b * m * n, b * (m + n) + m * n, source=THERMO) + STEP
).named("K-FAC by rows, digital part")

THERMO_PUBLISHED = CostModel(
    "thermodynamic K-FAC, as published",
    hidden * n**2 * kappa**2 * tau,
    Counts.SECONDS,
    Kind.MODEL,
    "not shown: hides the accuracy, the load of n^2 numbers and the n^3 of a digital product",
    Oracle.DEVICE,
    Source("summaries of arXiv:2502.08603, second hand", Status.RECALLED),
    notes="order only, square layer",
)
