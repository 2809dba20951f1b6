"""One step of an optimizer that sees the whole curvature, or none: SGD, Adam, natural gradient in all its lanes.

The model has dense layers and b d_z rows in its Jacobian. Table 1 of arXiv:2405.13817 gives the orders; the constants
here are derived. A table that shows the thermodynamic form as linear in N must show b d_z, the condition number and the
Woodbury form beside it, which is linear in N as well.
"""

import sympy as sp

from thermolinalg.complexity.model import CostModel, Counts, Kind, Oracle, Source, Status
from thermolinalg.complexity.models.descent import GRADIENT
from thermolinalg.complexity.models.direct import POTRF, POTRS, SYRK
from thermolinalg.complexity.symbols import B_L, N, b, c, d_z, eps, k, kappa, n, tau, w

TABLE = Source("orders of table 1 of arXiv:2405.13817", Status.READ)
APPENDIX = Source("timing of arXiv:2405.13817, appendix C", Status.READ)
DERIVED = Source("operations of the textbook step", Status.DERIVED)

_ROWS = b * d_z
_STEP = "one step of the method, exact but for rounding"


def _step(name: str, cost: sp.Expr, memory: sp.Expr, error: str = _STEP, notes: str = "") -> CostModel:
    return CostModel(
        name, cost, Counts.FLOPS, Kind.MODEL, error, Oracle.DIFFERENTIABLE, (TABLE, DERIVED), memory, notes
    )


def _calls(name: str, cost: sp.Expr) -> CostModel:
    return CostModel(name, cost, Counts.QUERIES, Kind.EXACT, _STEP, Oracle.DIFFERENTIABLE, TABLE)


_GRADIENT = GRADIENT.formula
JACOBIAN = _step(
    "Jacobian of dense layers",
    2 * b * N + 4 * _ROWS * N,
    _ROWS * N,
    "exact but for rounding",
    "one forward pass, a backward pass for each output",
)
_ROOTED = JACOBIAN.formula + 2 * b * d_z**2 * N
"""The Jacobian times a root of the Hessian of the loss."""

SGD = _step("SGD", _GRADIENT + 2 * N, 2 * N, notes="no momentum")
ADAM = _step("Adam", _GRADIENT + 14 * N, 4 * N, notes="with both corrections of the bias")
NGD_EXPLICIT = _step(
    "NGD, explicit",
    _ROOTED
    + SYRK.formula.subs({k: _ROWS, n: N}, simultaneous=True)
    + N
    + POTRF.formula.subs(n, N)
    + POTRS.formula.subs({k: 1, n: N}, simultaneous=True)
    + 2 * _ROWS * N
    + 2 * N,
    N**2 + _ROWS * N + 2 * N,
    notes="Jacobian, one triangle of the curvature, damping, Cholesky, one solve, step",
)
NGD_CG = _step(
    "NGD-CG",
    _GRADIENT + c * (8 * b * N + 2 * b * d_z**2 + 10 * N) + 2 * N,
    5 * N,
    "c iterations: relative error in the energy norm 2((sqrt(kappa) - 1)/(sqrt(kappa) + 1))^c at most",
    "a product with the curvature is a forward-mode and a reverse-mode pass, 4 b N each; damping is counted with CG",
)
NGD_WOODBURY = _step(
    "NGD-Woodbury",
    _ROOTED
    + SYRK.formula.subs({k: N, n: _ROWS}, simultaneous=True)
    + _ROWS
    + POTRF.formula.subs(n, _ROWS)
    + POTRS.formula.subs({k: 1, n: _ROWS}, simultaneous=True)
    + 4 * _ROWS * N
    + 2 * N,
    _ROWS * N + _ROWS**2 + 2 * N,
    notes="row space: Jacobian, one triangle of its Gram matrix, damping, Cholesky, one solve, two products, step",
)
TNGD_FLOPS = _step(
    "TNGD, digital part",
    JACOBIAN.formula + 2 * _ROWS * N + 2 * N,
    _ROWS * N + _ROWS**2 + 2 * N,
    "see the device part",
    "Jacobian, gradient of it, step; the Hessian of the loss, b d_z^2 numbers, is left out",
)

TNGD_CONVERSIONS = CostModel(
    "numbers of TNGD",
    _ROWS * (_ROWS + 2 * N) + 2 * N,
    Counts.CONVERSIONS,
    Kind.EXACT,
    "none by itself: w bits for each number",
    Oracle.DEVICE,
    APPENDIX,
    _ROWS * (_ROWS + 2 * N),
    "three arrays of resistors, one vector in, one out",
)
TNGD_TRANSFER = TNGD_CONVERSIONS.priced(
    w / B_L, Counts.SECONDS, name="transfer of TNGD", kind=Kind.MODEL, source=APPENDIX
)
TNGD_SETTLE = CostModel(
    "settling of TNGD",
    kappa * tau * sp.log(1 / eps),
    Counts.SECONDS,
    Kind.BOUND,
    "2-norm of the error of the step over its length, without noise",
    Oracle.DEVICE,
    Source("slowest mode of the damped curvature", Status.DERIVED),
    TNGD_CONVERSIONS.memory,
    "kappa = (lambda_max + damping)/(lambda_min + damping); the paper stops after 0.1 to 50 tau and leans on damping",
)
TNGD_SECONDS = TNGD_TRANSFER + TNGD_SETTLE

SGD_CALLS = _calls("model calls of SGD and Adam", sp.Integer(1))
NGD_EXPLICIT_CALLS = _calls("model calls of NGD, explicit", _ROWS)
NGD_CG_CALLS = _calls("model calls of NGD-CG", 2 * c)
NGD_WOODBURY_CALLS = _calls("model calls of NGD-Woodbury", _ROWS)
TNGD_CALLS = _calls("model calls of TNGD", _ROWS)
