"""How many gradients descent needs: smooth, strongly convex, non-smooth and stochastic objectives.

The gap is that of the objective unless a model names another one. Upper bounds hold for every objective of the class;
where an order is all that is known, its constant is the symbol K, which nobody has given yet.
"""

import sympy as sp

from thermolinalg.complexity.model import CostModel, Counts, Kind, Oracle, Source, Status
from thermolinalg.complexity.symbols import N, b, convex, eps, gap, hidden, kappa, lipschitz, radius, sigma, smooth

BUBECK = Source("S. Bubeck, arXiv:1405.4980", Status.RECALLED)
GARG = Source("abstract of arXiv:2010.01801", Status.READ)
CHEAP = Source("cheap-gradient principle, in words in arXiv:2305.13362; operations of dense layers", Status.READ)

_GAP = "gap of the objective to its optimum at most g"
_RELATIVE = "gap of the objective to its optimum at most epsilon times that of the start"


def _gradients(
    name: str,
    cost: sp.Expr,
    error: str = _GAP,
    kind: Kind = Kind.BOUND,
    oracle: Oracle = Oracle.GRADIENT,
    source: Source = BUBECK,
    notes: str = "",
) -> CostModel:
    return CostModel(name, cost, Counts.QUERIES, kind, error, oracle, source, 2 * N, notes)


NONSMOOTH = _gradients(
    "gradient descent, convex and Lipschitz",
    (lipschitz * radius / gap) ** 2,
    source=GARG,
    notes="averaged iterates; no first-order method does better than a constant, whatever the dimension",
)
SMOOTH = _gradients("gradient descent, convex and smooth", smooth * radius**2 / (2 * gap))
NESTEROV = _gradients("Nesterov, convex and smooth", sp.sqrt(2 * smooth * radius**2 / gap))
STRONGLY_CONVEX = _gradients(
    "gradient descent, strongly convex and smooth", kappa * sp.log(1 / eps), _RELATIVE, notes="kappa = L/mu; step 1/L"
)
ACCELERATED = _gradients(
    "accelerated, strongly convex and smooth",
    hidden * sp.sqrt(kappa) * sp.log(1 / eps),
    _RELATIVE,
    Kind.MODEL,
    notes="order only; kappa = L/mu",
)
STOCHASTIC = _gradients(
    "stochastic, strongly convex",
    hidden * sigma**2 / (convex * gap),
    "mean " + _GAP,
    Kind.MODEL,
    Oracle.STOCHASTIC,
    notes="order only; noise dominates",
)
NONCONVEX = _gradients(
    "gradient descent, non-convex and smooth",
    hidden / gap**2,
    "norm of a gradient at most g",
    Kind.MODEL,
    notes="order only; no statement about the objective",
)
STOCHASTIC_NONCONVEX = _gradients(
    "stochastic, non-convex and smooth",
    hidden / gap**4,
    "mean norm of a gradient at most g",
    Kind.MODEL,
    Oracle.STOCHASTIC,
    notes=NONCONVEX.notes,
)

EVALUATION = CostModel(
    "forward pass of dense layers",
    2 * b * N,
    Counts.FLOPS,
    Kind.MODEL,
    "exact but for rounding",
    Oracle.DIFFERENTIABLE,
    CHEAP,
    N,
    "one product and one sum for each parameter and example; activations left out, also of the memory",
)
GRADIENT = CostModel(
    "gradient of dense layers",
    6 * b * N,
    Counts.FLOPS,
    Kind.MODEL,
    "exact but for rounding",
    Oracle.DIFFERENTIABLE,
    CHEAP,
    2 * N,
    "three times the forward pass, whatever N; the first layer needs no gradient of its input, 4 b N; activations left "
    "out, also of the memory",
)
