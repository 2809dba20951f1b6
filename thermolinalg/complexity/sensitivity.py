"""How a crossover moves with what it depends on, and how well it is known."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import sympy as sp

from thermolinalg.complexity.constants import Constant, numbers
from thermolinalg.complexity.crossover import crossover
from thermolinalg.complexity.symbols import GLOSSARY
from thermolinalg.complexity.uncertainty import Spread, draw

Known = Constant | float
_STEPS = 400
_HALVINGS = 60


@dataclass(frozen=True)
class CrossoverQuantiles:
    """The distribution of a crossover.

    Attributes
    ----------
    low, median, high : float
        Quantiles of 5, 50 and 95 %. 0 and infinity stand for below and beyond the range that was searched.
    below, beyond : float
        Shares of the draws whose crossover is not in the range.
    draws : int
    """

    low: float
    median: float
    high: float
    below: float
    beyond: float
    draws: int


def elasticity(expression: sp.Expr, symbol: sp.Symbol, values: Mapping[sp.Symbol, Known]) -> float:
    r"""Return by how many percent an expression grows when one symbol grows by one percent.

    .. math:: \frac{\partial \ln f}{\partial \ln x}

    Raises
    ------
    ValueError
        If a symbol has no value, or the expression is zero there.

    Examples
    --------
    >>> from thermolinalg.complexity.symbols import kappa, n
    >>> elasticity(n**3 * sp.sqrt(kappa), kappa, {n: 10, kappa: 100})
    0.5
    """
    found = numbers(values)
    at = sp.sympify(expression).subs(found)
    slope = (sp.diff(expression, symbol) * symbol).subs(found)
    if left := at.free_symbols | slope.free_symbols:
        raise ValueError(f"values has no entry for {', '.join(sorted(map(str, left)))}")
    if at == 0:
        raise ValueError(f"{expression} is zero there and has no elasticity")
    return float(slope / at)


def crossover_elasticity(
    digital: sp.Expr,
    device: sp.Expr,
    variable: sp.Symbol,
    symbol: sp.Symbol,
    values: Mapping[sp.Symbol, Known],
    at: float,
) -> float:
    r"""Return by how many percent a crossover moves when one symbol grows by one percent.

    .. math:: \frac{d \ln x^*}{d \ln p} = -\frac{\partial g/\partial \ln p}{\partial g/\partial \ln x},
        \qquad g = \ln \text{digital} - \ln \text{device}

    Parameters
    ----------
    digital, device : sympy expression
    variable, symbol : sympy symbol
        What crosses over, and what it depends on.
    values : mapping of symbols to constants or numbers
    at : float
        The crossover, as of :func:`thermolinalg.complexity.crossover`.

    Raises
    ------
    ValueError
        If the costs differ there, or touch without crossing.

    Examples
    --------
    >>> from thermolinalg.complexity.symbols import kappa, n, tau
    >>> crossover_elasticity(n**3, n * kappa, n, kappa, {kappa: 100}, 10.0)
    0.5
    """
    point = {**values, variable: at}
    costs = [float(sp.sympify(cost).subs(numbers(point))) for cost in (digital, device)]
    if abs(costs[0] - costs[1]) > 1e-6 * abs(costs[0]):
        raise ValueError(f"{variable} = {at:g} is no crossover: the costs are {costs[0]:g} and {costs[1]:g}")
    steep = elasticity(digital, variable, point) - elasticity(device, variable, point)
    if abs(steep) < 1e-9:
        raise ValueError(f"the costs touch at {variable} = {at:g} without crossing")
    return -(elasticity(digital, symbol, point) - elasticity(device, symbol, point)) / steep


def closed_form(digital: sp.Expr, device: sp.Expr, variable: sp.Symbol) -> tuple[sp.Expr, ...]:
    """Return the crossovers as formulas, where the difference is at most quadratic in the variable.

    Parameters
    ----------
    digital, device : sympy expression
    variable : sympy symbol

    Returns
    -------
    tuple of sympy expressions
        Every root that is not known to be negative or complex; ``sympy.limit`` gives their limits.

    Raises
    ------
    ValueError
        If there is no such formula; :func:`thermolinalg.complexity.crossover` finds numbers.

    Examples
    --------
    >>> from thermolinalg.complexity.symbols import kappa, n
    >>> closed_form(n**3, n * kappa, n)
    (sqrt(kappa),)
    """
    top, _ = sp.fraction(sp.together(digital - device))
    try:
        polynomial = sp.Poly(sp.expand(top), variable)
    except sp.PolynomialError:
        raise ValueError(f"the difference is no polynomial in {variable}; find numbers with crossover") from None
    coefficients = polynomial.all_coeffs()
    while coefficients and coefficients[-1] == 0:
        coefficients.pop()
    if not 2 <= len(coefficients) <= 3:
        raise ValueError(
            f"the difference has degree {len(coefficients) - 1} in {variable} besides roots at zero; find numbers with "
            "crossover"
        )
    if len(coefficients) == 2:
        root = sp.simplify(-coefficients[1] / coefficients[0])
        return () if _sign(root) == -1 else (root,)
    a, b, c = coefficients
    # Divided first, what is under the root shows its sign; product and sum of the roots show theirs.
    half, rest = sp.together(b / (2 * a)), sp.together(c / a)
    root = sp.sqrt(half**2 - rest)
    if _sign(rest) == 1 and _sign(half) == 1:
        return ()
    roots = (-half + root,) if _sign(rest) == -1 else (-half + root, -half - root)
    return tuple(map(sp.simplify, roots))


def crossover_quantiles(
    digital: sp.Expr,
    device: sp.Expr,
    variable: sp.Symbol,
    values: Mapping[sp.Symbol, Spread | Known],
    low: float,
    high: float,
    *,
    draws: int = 4000,
    seed: int = 0,
) -> CrossoverQuantiles:
    """Return how well a crossover is known when its inputs are known up to factors.

    Parameters
    ----------
    digital, device, variable, low, high
        As of :func:`thermolinalg.complexity.crossover`.
    values : mapping of symbols to spreads, constants or numbers
        Independent and log-normal; a constant by its interval.
    draws, seed : int

    Returns
    -------
    CrossoverQuantiles

    Raises
    ------
    ValueError
        If the medians do not give exactly one crossover in the range.

    Notes
    -----
    In each draw the first crossing of the direction of the median counts, bracketed on 400 points. Draws in which one
    side is ahead throughout count as below or beyond the range, so that no quantile is taken of the others alone.

    Examples
    --------
    >>> from thermolinalg.complexity.symbols import kappa, n
    >>> found = crossover_quantiles(n**3, n * kappa, n, {kappa: Spread(100, 2.0)}, 1, 1e6)
    >>> round(found.median), found.beyond
    (10, 0.0)
    """
    medians = {symbol: known.median if isinstance(known, Spread) else known for symbol, known in values.items()}
    windows = crossover(digital, device, variable, medians, low, high)
    if len(windows.crossovers) != 1:
        raise ValueError(
            f"the medians give {len(windows.crossovers)} crossovers, not one; choose another range: {windows}"
        )
    # The device is ahead above the crossover, or below it.
    sign = 1.0 if windows.ahead[-1].high.at > windows.crossovers[0] * (1 + 1e-9) else -1.0
    drawn = draw(values, draws, seed)
    names = sorted(drawn, key=str)
    costs = [sp.lambdify([variable, *names], cost, "numpy") for cost in (digital, device)]

    inputs = [drawn[name] for name in names]

    def gap(u: np.ndarray) -> np.ndarray:
        above, below = (np.broadcast_to(function(np.exp(u), *inputs), u.shape) for function in costs)
        return sign * (np.log(above) - np.log(below))

    grid = np.linspace(math.log(low), math.log(high), _STEPS)
    bottom, top = np.full(draws, -np.inf), np.full(draws, np.inf)
    previous = gap(np.full(draws, grid[0])) > 0
    start, open_ = previous.copy(), np.ones(draws, bool)
    for left, right in pairwise(grid):
        now = gap(np.full(draws, right)) > 0
        new = open_ & now & ~previous
        bottom[new], top[new] = left, right
        open_ &= ~new
        previous = now
    crossed = ~open_
    for _ in range(_HALVINGS):
        middle = np.where(crossed, (np.where(crossed, bottom, 0) + np.where(crossed, top, 0)) / 2, 0)
        ahead = gap(np.where(crossed, middle, grid[0])) > 0
        top, bottom = np.where(crossed & ahead, middle, top), np.where(crossed & ~ahead, middle, bottom)
    below, beyond = open_ & start, open_ & ~start
    found = np.where(crossed, np.exp(np.where(crossed, top, 0)), np.where(below, 0.0, np.inf))
    lower, half, upper = map(float, np.quantile(found, [0.05, 0.5, 0.95], method="inverted_cdf"))
    return CrossoverQuantiles(lower, half, upper, float(below.mean()), float(beyond.mean()), draws)


def _sign(expression: sp.Expr) -> int | None:
    """The sign of an expression where the ranges of the glossary prove it."""
    exchange = {}
    for symbol in expression.free_symbols & set(GLOSSARY):
        if GLOSSARY[symbol].high <= 1:
            exchange[symbol] = 1 / (1 + sp.Dummy(positive=True))
    found = sp.expand_log(expression.subs(exchange), force=True)
    return 1 if found.is_positive else -1 if found.is_negative else None
