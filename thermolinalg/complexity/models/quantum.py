"""Gradients and linear systems on a quantum computer: queries, shots, and the input and output that they leave out.

Where only an order is known its constant is the symbol K: a model of that kind gives no number until somebody does.
"""

import sympy as sp

from thermolinalg.complexity.model import CostModel, Counts, Kind, Oracle, Source, Status
from thermolinalg.complexity.symbols import (
    alpha,
    d,
    eps,
    gap,
    hidden,
    kappa,
    lipschitz,
    n,
    radius,
    s,
    t_toffoli,
    toffolis,
)

SHIFT = Source("parameter-shift rule; shots as restated in arXiv:2305.13362", Status.READ)
JORDAN = Source("S. Jordan 2005, by way of arXiv:1711.00465", Status.READ)
GILYEN = Source("Gilyen, Arunachalam and Wiebe, arXiv:1711.00465, restated in arXiv:2407.03833", Status.READ)
GARG = Source("abstract of arXiv:2010.01801", Status.READ)
HARROW = Source("Harrow, Hassidim and Lloyd, arXiv:0811.3171", Status.RECALLED)
AMBAINIS = Source("A. Ambainis, arXiv:1010.4458", Status.RECALLED)
CHILDS = Source("Childs, Kothari and Somma, arXiv:1511.02306", Status.RECALLED)
COSTA = Source("Costa et al., arXiv:2111.08152; constants by way of arXiv:2312.07690", Status.RECALLED)
READOUT = Source("standard error of a mean", Status.DERIVED)

_log = sp.log(1 / eps)
_ORDER = "order only, logarithms of other variables left out"
_GRADIENT_ERROR = "error of every component of the gradient at most epsilon, in units of the objective"
_STATE_ERROR = "distance of the state at most epsilon; a state, not numbers: read-out is extra"


def _queries(
    name: str,
    cost: sp.Expr | None,
    oracle: Oracle,
    error: str,
    source: Source,
    notes: str = _ORDER,
    kind: Kind = Kind.MODEL,
) -> CostModel:
    return CostModel(name, cost, Counts.QUERIES, kind, error, oracle, source, None, notes)


def _shots(name: str, cost: sp.Expr, error: str, source: Source = READOUT, notes: str = "") -> CostModel:
    return CostModel(name, cost, Counts.SHOTS, Kind.BOUND, error, Oracle.CIRCUIT, source, None, notes)


# Gradients
SHIFT_CIRCUITS = _queries(
    "parameter shift, circuits",
    2 * d,
    Oracle.CIRCUIT,
    "exact, with infinitely many shots",
    SHIFT,
    "d parameters whose generators have two eigenvalues each",
    Kind.EXACT,
)
SHIFT_SHOTS = _shots(
    "parameter shift, shots",
    2 * d / eps**2,
    "standard error of every component at most epsilon",
    SHIFT,
    "outcomes from -1 to 1; barren plateaus, which ask for a smaller epsilon, are left out",
)
JORDAN_QUERIES = _queries(
    "Jordan", hidden, Oracle.PHASE, "nearly linear objectives only", JORDAN, "queries do not grow with d; order only"
)
GILYEN_QUERIES = _queries(
    "Gilyen, Arunachalam and Wiebe", hidden * sp.sqrt(d) / eps, Oracle.PHASE, _GRADIENT_ERROR, GILYEN
)
GILYEN_FLOOR = _queries(
    "least queries of a gradient",
    hidden * sp.sqrt(d) / eps,
    Oracle.PHASE,
    _GRADIENT_ERROR,
    GILYEN,
    "general smooth objectives; order only",
    Kind.FLOOR,
)
ANALYTIC_QUERIES = _queries(
    "gradient of an analytic objective",
    hidden / eps,
    Oracle.PHASE,
    _GRADIENT_ERROR,
    Source("arXiv:2407.03833", Status.READ),
    "complex-valued phase oracles; order only",
)
NONSMOOTH_FLOOR = _queries(
    "least quantum queries, convex and Lipschitz",
    hidden * (lipschitz * radius / gap) ** 2,
    Oracle.GRADIENT,
    "gap of the objective to its optimum at most g",
    GARG,
    "worst case over the class, black box, first order, any dimension; a family with G R/g queries exists; order only",
    Kind.FLOOR,
)

# Linear systems
HHL = _queries("HHL", hidden * s**2 * kappa**2 * sp.log(n) / eps, Oracle.BLOCK_ENCODING, _STATE_ERROR, HARROW)
VARIABLE_TIME = _queries(
    "variable-time amplification", hidden * kappa / eps**3, Oracle.BLOCK_ENCODING, _STATE_ERROR, AMBAINIS
)
CHEBYSHEV_COMBINATION = _queries(
    "linear combination of unitaries",
    hidden * s * kappa * _log,
    Oracle.BLOCK_ENCODING,
    _STATE_ERROR,
    CHILDS,
    "polylogarithmic in 1/epsilon, here to the first power; order only",
)
ADIABATIC = _queries(
    "discrete adiabatic",
    alpha * kappa + hidden * kappa * _log,
    Oracle.BLOCK_ENCODING,
    _STATE_ERROR,
    COSTA,
    "alpha 2305 proven, about 1.84 measured on random matrices; the constant K of the second term was not found",
)
ADIABATIC_EXPLICIT = _queries(
    "randomised adiabatic with explicit constants",
    None,
    Oracle.BLOCK_ENCODING,
    _STATE_ERROR,
    Source("abstract of arXiv:2305.11352", Status.READ),
    "the abstract says that a closed bound exists; its number was not found",
    Kind.UNAVAILABLE,
)

# What queries leave out
PREPARATION = CostModel(
    "preparation of a right-hand side",
    hidden * n,
    Counts.QUERIES,
    Kind.MODEL,
    "exact",
    Oracle.ENTRIES,
    Source("every entry is touched unless it has a structure", Status.RECALLED),
    n,
    "or memory that answers in superposition, with as many active parts (arXiv:2305.10310); order only",
)
READ_OBSERVABLE = _shots(
    "read-out of an observable", 1 / eps**2, "standard error at most epsilon", notes="outcomes from -1 to 1"
)
READ_OBSERVABLE_AMPLIFIED = _queries(
    "read-out by amplitude estimation", hidden / eps, Oracle.BLOCK_ENCODING, "standard error at most epsilon", READOUT
)
READ_VECTOR = _shots(
    "read-out of a vector",
    n / eps**2,
    "2-norm of the error at most epsilon for a vector of length 1, up to signs",
    notes="signs need more",
)

SOLVE_OBSERVABLE = ADIABATIC.priced(
    toffolis * t_toffoli / eps**2,
    Counts.SECONDS,
    name="discrete adiabatic, one observable",
    kind=Kind.MODEL,
    source=READOUT,
)
"""Seconds with input for free: every shot solves anew, one Toffoli after the other."""

SOLVE_VECTOR = ADIABATIC.priced(
    toffolis * t_toffoli * n / eps**2,
    Counts.SECONDS,
    name="discrete adiabatic, whole vector",
    kind=Kind.MODEL,
    source=READOUT,
)
