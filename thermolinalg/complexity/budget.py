"""What a budget buys, and what a speed-up of one part is worth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import numpy as np
import sympy as sp
from scipy.optimize import brentq

from thermolinalg.complexity.constants import Constant, base_units, numbers
from thermolinalg.complexity.dimensions import unit_of
from thermolinalg.complexity.symbols import GLOSSARY

_POINTS = 400
Quantity: TypeAlias = sp.Expr | float


class Stop(Enum):
    """What ends a search for the largest problem."""

    BUDGET = "the budget is spent"
    NOTHING = "the smallest problem exceeds the budget"
    SEARCH = "end of the search: larger problems may fit"


@dataclass(frozen=True)
class Feasible:
    """The largest problem within a budget, and what ended the search; `at` is None if none fits."""

    at: float | None
    stop: Stop


def largest_feasible(
    cost: sp.Expr,
    variable: sp.Symbol,
    budget: Constant | float,
    values: Mapping[sp.Symbol, Constant | float],
    low: float,
    high: float,
) -> Feasible:
    r"""Return the largest problem whose cost stays within a budget.

    .. math:: \max \{x \in [\text{low}, \text{high}] : \text{cost}(x) \le \text{budget}\}

    Parameters
    ----------
    cost : sympy expression, > 0
        Increasing in `variable`.
    variable : sympy symbol
    budget : Constant or float, > 0
        In the unit of the cost.
    values : mapping of symbols to constants or numbers
    low, high : float, 0 < low < high
        The range to search.

    Raises
    ------
    ValueError
        If the unit of the budget differs, a symbol has no value, or the cost falls somewhere in the range.

    Examples
    --------
    >>> from thermolinalg.complexity.symbols import F, eta, n
    >>> cost = sp.Rational(14, 3) * n**3 / (eta * F)
    >>> round(largest_feasible(cost, n, 1.0, {eta: 0.3, F: 66.9e12}, 1, 1e9).at, 1)
    16262.2
    """
    cost = sp.sympify(cost)
    known = cost.free_symbols <= set(GLOSSARY)
    if known and isinstance(budget, Constant) and (unit := unit_of(cost)) != base_units(budget.unit):
        raise ValueError(f"{budget.name} is in {budget.unit} but the cost is in {unit}; convert one")
    limit = float(budget)
    if not (0 < limit < math.inf and 0 < low < high < math.inf):
        raise ValueError(f"need 0 < budget < inf and 0 < low < high < inf, got {limit}, {low} and {high}")
    numbers({variable: low})
    found = cost.subs(numbers({symbol: value for symbol, value in values.items() if symbol != variable}))
    if left := found.free_symbols - {variable}:
        raise ValueError(f"values has no entry for {', '.join(sorted(map(str, left)))}")
    function = sp.lambdify(variable, found, "numpy")
    grid = np.geomspace(low, high, _POINTS)
    costs = np.broadcast_to(np.asarray(function(grid), float), grid.shape)
    if not np.all(np.isfinite(costs)) or np.any(np.diff(costs) < -1e-12 * np.abs(costs[1:])):
        raise ValueError(f"the cost falls or is not finite between {low:g} and {high:g}; narrow the range")
    if costs[0] > limit:
        return Feasible(None, Stop.NOTHING)
    if costs[-1] <= limit:
        return Feasible(float(high), Stop.SEARCH)
    at = int(np.argmax(costs > limit))
    left, right = np.log(grid[at - 1 : at + 1])

    def excess(u: float) -> float:
        return float(function(math.exp(u))) / limit - 1

    # At the point before, the cost may equal the budget up to rounding.
    root = left if excess(left) >= 0 else brentq(excess, left, right, xtol=1e-15, rtol=1e-14)
    return Feasible(math.exp(root), Stop.BUDGET)


def amdahl(fraction: Quantity, speedup: Quantity) -> sp.Expr:
    r"""Return the speed-up of the whole at fixed size, when one part becomes faster.

    .. math:: \frac{1}{(1 - f) + f/s}

    Parameters
    ----------
    fraction : float or sympy expression, in [0, 1]
        Of the time, before, in the part.
    speedup : float or sympy expression, > 0
        Of the part; ``sympy.oo`` gives the ceiling.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> amdahl(sp.Rational(1, 3), sp.oo)
    3/2
    """
    fraction, speedup = _part(fraction, speedup)
    return 1 / ((1 - fraction) + fraction / speedup)


def gustafson(fraction: Quantity, speedup: Quantity) -> sp.Expr:
    r"""Return by how much the work grows at fixed time, :math:`(1 - f) + f s`, with f the fraction of the time after.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> gustafson(sp.Rational(1, 2), 9)
    5
    """
    fraction, speedup = _part(fraction, speedup)
    return (1 - fraction) + fraction * speedup


def growth_of_problem(speedup: Quantity, power: Quantity) -> sp.Expr:
    r"""Return by how much a problem of cost :math:`n^p` grows within the same budget: :math:`S^{1/p}`.

    Examples
    --------
    >>> round(float(growth_of_problem(60, 3)), 1), round(float(growth_of_problem(60, 2)), 1)
    (3.9, 7.7)
    """
    return sp.sympify(speedup) ** (1 / sp.sympify(power))


def growth_of_spending(speedup: Quantity, elasticity: Quantity) -> sp.Expr:
    r"""Return how spending scales if demand falls with the price to the power -e: :math:`S^{e-1}`.

    Examples
    --------
    >>> growth_of_spending(4, 2), growth_of_spending(4, 1)
    (4, 1)
    """
    return sp.sympify(speedup) ** (sp.sympify(elasticity) - 1)


def _part(fraction: Quantity, speedup: Quantity) -> tuple[sp.Expr, sp.Expr]:
    found, factor = sp.sympify(fraction), sp.sympify(speedup)
    if found.is_number and not 0 <= found <= 1:
        raise ValueError(f"fraction must be from 0 to 1, got {fraction}")
    if factor.is_number and not factor > 0:
        raise ValueError(f"speedup must be positive, got {speedup}")
    return found, factor
