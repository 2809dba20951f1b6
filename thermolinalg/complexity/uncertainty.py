"""What is left of a number whose inputs are known within bounds only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import product

import numpy as np
import sympy as sp
from mpmath import iv

from thermolinalg.complexity.constants import Constant
from thermolinalg.complexity.symbols import GLOSSARY, Meaning

Known = Constant | float
_BOXES = 512
_CORNERS = 12
_TAIL = 1.6448536269514722  # of the normal distribution, 5 % on each side


class Evidence(Enum):
    """How sure an interval is."""

    PROVED = "monotone in each variable: values at two corners"
    SAMPLED = "smallest and largest of samples: not a bound"


@dataclass(frozen=True)
class Interval:
    """Smallest and largest value, and how sure that is."""

    low: float
    high: float
    evidence: Evidence


@dataclass(frozen=True)
class Spread:
    """A number known up to a factor: log-normal.

    Parameters
    ----------
    median : float, > 0
    factor : float, >= 1
        One geometric standard deviation.
    at_most : float
        Larger draws are set to this.

    Examples
    --------
    >>> Spread(0.3, 1.35, at_most=1.0).median
    0.3
    """

    median: float
    factor: float
    at_most: float = math.inf

    def __post_init__(self) -> None:
        if not (0 < self.median <= self.at_most and 1 <= self.factor < math.inf):
            raise ValueError(
                f"need 0 < median <= at_most and 1 <= factor < inf, got {self.median}, {self.at_most}, {self.factor}"
            )


@dataclass(frozen=True)
class Quantiles:
    """The quantiles of 5, 50 and 95 %; `draws` is 0 if they follow from a formula."""

    low: float
    median: float
    high: float
    draws: int


def spread(constant: Constant) -> Spread:
    r"""Return a constant as a log-normal number: its value times or over :math:`\sqrt{\text{high}/\text{low}}`.

    Raises
    ------
    ValueError
        If the lower end is zero, or the constant was not found.

    Examples
    --------
    >>> from thermolinalg.complexity.hardware import FACTORISATION
    >>> round(spread(FACTORISATION).factor, 6)
    1.35
    """
    low, high = constant.interval
    if not low > 0:
        raise ValueError(f"{constant.name} has the lower end {low}; a factor needs a positive one")
    return Spread(float(constant), math.sqrt(high / low))


def trend(expression: sp.Expr, symbol: sp.Symbol, box: Mapping[sp.Symbol, tuple[float, float]]) -> int | None:
    """Return the proved direction of an expression in one symbol over a whole box.

    Parameters
    ----------
    expression : sympy expression
    symbol : sympy symbol
    box : mapping of symbols to pairs of positive floats

    Returns
    -------
    1, -1 or 0 for rising, falling and constant, or None if nothing was proved

    Notes
    -----
    The derivative is enclosed by interval arithmetic, rounded outwards, on up to 512 parts of the box. None does not
    say that the expression is not monotone.

    Examples
    --------
    >>> x, y = sp.symbols("x y", positive=True)
    >>> box = {x: (1.0, 2.0), y: (1.0, 2.0)}
    >>> trend(x / y, y, box), trend(x + 1 / x, x, box), trend((x - 1.5) ** 2, x, box)
    (-1, 1, None)
    """
    expression = sp.sympify(expression)
    if symbol not in expression.free_symbols:
        return 0
    factor, rest = expression.as_coeff_Mul()
    if factor != 1:
        inner = trend(rest, symbol, box)
        return None if inner is None else inner * int(sp.sign(factor))
    if isinstance(expression, sp.Add | sp.Max | sp.Min):
        found = {trend(part, symbol, box) for part in expression.args} - {0}
        if len(found) == 1 and None not in found:
            return found.pop()
    if expression.has(sp.Max, sp.Min, sp.Piecewise, sp.ceiling, sp.floor, sp.Abs):
        return None
    slope = sp.diff(expression, symbol)
    if slope.is_nonnegative:
        return 1
    if slope.is_nonpositive:
        return -1
    return _sign(slope, dict(box)) if slope.free_symbols else None


def interval(
    expression: sp.Expr, box: Mapping[sp.Symbol, tuple[float, float] | Constant], *, draws: int = 4096, seed: int = 0
) -> Interval:
    """Return what values an expression takes while its symbols stay in a box.

    Parameters
    ----------
    expression : sympy expression
    box : mapping of symbols to pairs of positive floats or to constants
        Lower and upper value; of a constant, its interval.
    draws, seed : int
        For expressions that were not proved monotone.

    Returns
    -------
    Interval
        Labelled by its evidence.

    Raises
    ------
    ValueError
        If a symbol has no bounds, they are not positive and in order, or the expression is not finite there.

    Notes
    -----
    Proved: the two corners, up to rounding of one evaluation. Otherwise the corners and log-normal draws within the box
    are evaluated, which may miss the extremes.

    Examples
    --------
    >>> x, y = sp.symbols("x y", positive=True)
    >>> interval(x**2 / y, {x: (1, 2), y: (1, 4)})
    Interval(low=0.25, high=4.0, evidence=<Evidence.PROVED: 'monotone in each variable: values at two corners'>)
    >>> interval((x - 1.5) ** 2, {x: (1, 2)}).evidence.name
    'SAMPLED'
    """
    expression = sp.sympify(expression)
    names = sorted(expression.free_symbols, key=str)
    ends = {symbol: _ends(symbol, box) for symbol in names}
    function = sp.lambdify(names, expression, "numpy")
    directions = [trend(expression, symbol, ends) for symbol in names]
    if None not in directions:
        low, high = (
            float(
                function(
                    *(ends[symbol][at if sign == 1 else 1 - at] for symbol, sign in zip(names, directions, strict=True))
                )
            )
            for at in (0, 1)
        )
        return _finite(Interval(min(low, high), max(low, high), Evidence.PROVED), expression)
    logs = np.log([ends[symbol] for symbol in names])
    middle, half = logs.mean(1), (logs[:, 1] - logs[:, 0]) / 2
    normal = np.clip(np.random.default_rng(seed).standard_normal((draws, len(names))) / _TAIL, -1, 1)
    corners = (
        np.array(list(product((-1, 1), repeat=len(names)))) if len(names) <= _CORNERS else np.empty((0, len(names)))
    )
    with np.errstate(all="ignore"):
        found = np.asarray(function(*np.exp(middle + half * np.vstack([normal, corners])).T), float)
    return _finite(Interval(float(found.min()), float(found.max()), Evidence.SAMPLED), expression)


def product_quantiles(expression: sp.Expr, values: Mapping[sp.Symbol, Spread | Known]) -> Quantiles:
    r"""Return the distribution of a product of powers of independent log-normal numbers.

    .. math:: y = c \prod_i x_i^{p_i} \quad\Rightarrow\quad \sigma_{\ln y}^2 = \sum_i p_i^2 \sigma_{\ln x_i}^2

    Parameters
    ----------
    expression : sympy expression
        One product of powers.
    values : mapping of symbols to spreads, constants or numbers

    Raises
    ------
    ValueError
        If the expression is no such product, a symbol has no value, or a spread is cut off.

    Notes
    -----
    Nothing is cut to the ranges of the glossary here; :func:`sampled_quantiles` does so.

    Examples
    --------
    >>> x, y = sp.symbols("x y", positive=True)
    >>> found = product_quantiles(x / y, {x: Spread(2.0, 1.5), y: 1.0})
    >>> round(found.median, 6), round(found.high, 3)
    (2.0, 3.896)
    """
    expression = sp.sympify(expression)
    spreads = {symbol: _spread(symbol, values) for symbol in expression.free_symbols}
    variance, median = 0.0, 1.0
    for base, power in expression.as_powers_dict().items():
        if not power.is_number or not (base.is_number or base in spreads):
            raise ValueError(f"{expression} is not one product of powers: {base}**{power}; sample it")
        if base.is_number:
            median *= float(base**power)
            continue
        if spreads[base].at_most < math.inf:
            raise ValueError(f"{base} is cut off at {spreads[base].at_most:g}, which leaves no formula; sample it")
        median *= spreads[base].median ** float(power)
        variance += (float(power) * math.log(spreads[base].factor)) ** 2
    if not median > 0:
        raise ValueError(f"{expression} has the median {median:g}; it must be positive")
    factor = math.exp(_TAIL * math.sqrt(variance))
    return Quantiles(median / factor, median, median * factor, 0)


def sampled_quantiles(
    expression: sp.Expr, values: Mapping[sp.Symbol, Spread | Known], *, draws: int = 10_000, seed: int = 0
) -> Quantiles:
    """Return the distribution of an expression of independent log-normal numbers, by sampling.

    Raises
    ------
    ValueError
        If a symbol has no value.

    Examples
    --------
    >>> x = sp.symbols("x", positive=True)
    >>> round(sampled_quantiles(x + 1, {x: Spread(1.0, 1.1)}).median, 1)
    2.0
    """
    expression = sp.sympify(expression)
    names = sorted(expression.free_symbols, key=str)
    drawn = draw({symbol: _spread(symbol, values) for symbol in names}, draws, seed)
    function = sp.lambdify(names, expression, "numpy")
    found = np.broadcast_to(np.asarray(function(*(drawn[symbol] for symbol in names)), float), draws)
    low, middle, high = map(float, np.quantile(found, [0.05, 0.5, 0.95]))
    return Quantiles(low, middle, high, draws)


def draw(values: Mapping[sp.Symbol, Spread | Known], draws: int, seed: int) -> dict[sp.Symbol, np.ndarray]:
    """Return independent draws for every symbol, cut to the range of the glossary; a number is the same in all of them.

    Examples
    --------
    >>> draw({sp.Symbol("x"): 2.0}, 3, 0)
    {x: array([2., 2., 2.])}
    """
    random, found = np.random.default_rng(seed), {}
    for symbol in sorted(values, key=str):
        known = _spread(symbol, values)
        factors = np.exp(math.log(known.factor) * random.standard_normal(draws))
        meaning = GLOSSARY.get(symbol, Meaning("no entry in the glossary"))
        found[symbol] = np.clip(known.median * factors, meaning.low, min(known.at_most, meaning.high))
    return found


def _spread(symbol: sp.Symbol, values: Mapping[sp.Symbol, Spread | Known]) -> Spread:
    if symbol not in values:
        raise ValueError(f"values has no entry for {symbol}; give a Spread, a Constant or a number")
    known = values[symbol]
    if isinstance(known, Constant):
        return spread(known)
    return known if isinstance(known, Spread) else Spread(float(known), 1.0)


def _ends(symbol: sp.Symbol, box: Mapping[sp.Symbol, tuple[float, float] | Constant]) -> tuple[float, float]:
    if symbol not in box:
        raise ValueError(f"box has no entry for {symbol}; give a lower and an upper value")
    found = box[symbol]
    low, high = map(float, found.interval if isinstance(found, Constant) else found)
    if not 0 < low <= high < math.inf:
        raise ValueError(f"box needs 0 < low <= high < inf for {symbol}, got {low:g} and {high:g}")
    return low, high


def _finite(found: Interval, expression: sp.Expr) -> Interval:
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        raise ValueError(f"{expression} is not finite in the box; make the box smaller")
    return found


class _UndecidedError(Exception):
    """Nothing is known about an expression on a box."""


def _sign(slope: sp.Expr, box: dict[sp.Symbol, tuple[float, float]]) -> int | None:
    """The one sign of an expression over a box that is cut into parts as needed."""
    parts, signs = [{symbol: box[symbol] for symbol in slope.free_symbols}], set()
    for _ in range(_BOXES):
        if not parts:
            break
        part = parts.pop()
        try:
            found = _enclose(slope, part)
        except _UndecidedError:
            return None
        if found.a >= 0 or found.b <= 0:
            signs.add(1 if found.a >= 0 else -1)
            if len(signs) == 2:
                return None
            continue
        widest = max(part, key=lambda symbol: part[symbol][1] / part[symbol][0])
        low, high = part[widest]
        middle = math.sqrt(low) * math.sqrt(high)
        if not low < middle < high:
            return None
        parts += [part | {widest: (low, middle)}, part | {widest: (middle, high)}]
    return signs.pop() if not parts and signs else None


def _enclose(node: sp.Expr, box: Mapping[sp.Symbol, tuple[float, float]]) -> iv.mpf:
    """An interval that holds all values of an expression over a box."""
    if isinstance(node, sp.Symbol):
        return iv.mpf(list(box[node]))
    if isinstance(node, sp.Rational):
        return iv.mpf(int(node.p)) / iv.mpf(int(node.q))
    if isinstance(node, sp.Float):
        return iv.mpf(float(node))
    if isinstance(node, sp.Add):
        return sum((_enclose(part, box) for part in node.args), iv.mpf(0))
    if isinstance(node, sp.Mul):
        return math.prod((_enclose(part, box) for part in node.args), start=iv.mpf(1))
    if isinstance(node, sp.Pow) and node.exp.is_Integer:
        base = _enclose(node.base, box)
        if node.exp < 0 and base.a <= 0 <= base.b:
            raise _UndecidedError
        return base ** int(node.exp)
    if isinstance(node, sp.Pow | sp.log):
        base = _enclose(node.args[0], box)
        if not base.a > 0:
            raise _UndecidedError
        return iv.log(base) if isinstance(node, sp.log) else iv.exp(_enclose(node.exp, box) * iv.log(base))
    if isinstance(node, sp.exp):
        return iv.exp(_enclose(node.args[0], box))
    raise _UndecidedError
