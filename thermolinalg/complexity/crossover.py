"""Where one of two costs becomes the smaller one, as far as the formulas hold and no further."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
import sympy as sp
from scipy.optimize import brentq, minimize_scalar

from thermolinalg.complexity.constants import Constant, base_units, numbers
from thermolinalg.complexity.dimensions import unit_of
from thermolinalg.complexity.symbols import GLOSSARY, bit, one

_POINTS = 2000
_TIE = 1e-14  # logarithms of two costs that differ by less are equal up to rounding
_JUMP = 1e-9


class End(Enum):
    """Why a window ends where it does."""

    CROSSOVER = "both cost the same"
    JUMP = "one cost jumps past the other"
    LIMIT = "a limit of validity"
    SEARCH = "end of the search"


@dataclass(frozen=True)
class Edge:
    """One end of a window: a value of the variable, the reason, and the name of the limit if that is the reason."""

    at: float
    end: End
    name: str = ""

    def __str__(self) -> str:
        return f"{self.at:.6g} ({self.name or self.end.value})"


@dataclass(frozen=True)
class Window:
    """An interval of the variable."""

    low: Edge
    high: Edge

    def __str__(self) -> str:
        return f"from {self.low} to {self.high}"


@dataclass(frozen=True)
class Limit:
    """The formulas hold while `used` is at most `allowed`; see :func:`precision_limit` and its neighbours."""

    name: str
    used: sp.Expr
    allowed: sp.Expr


@dataclass(frozen=True)
class Windows:
    """Where the device is ahead.

    Attributes
    ----------
    variable : sympy symbol
    low, high : float
        The range that was searched: nothing is said beyond it.
    ahead : tuple of Window
        Where the device costs less and every limit holds.
    crossovers : tuple of float
        All values at which both cost the same, limits aside; jumps are not among them.
    unit : sympy expression, or None
        Of both costs; None if a symbol without an entry in the glossary kept it from being checked.
    reason : str
        The answer in words, also where there is no window.
    """

    variable: sp.Symbol
    low: float
    high: float
    ahead: tuple[Window, ...]
    crossovers: tuple[float, ...]
    unit: sp.Expr | None
    reason: str

    def __str__(self) -> str:
        unit = "units not checked" if self.unit is None else f"both in {self.unit}"
        return f"{self.variable} from {self.low:g} to {self.high:g}, {unit}: {self.reason}"


def precision_limit(condition: sp.Expr, word: sp.Expr, error: sp.Expr) -> Limit:
    r"""Return the limit that rounding of the matrix sets to the condition number, without refinement.

    .. math:: \kappa \le 2^w \epsilon

    Parameters
    ----------
    condition, error : sympy expression
        Condition number and relative error wanted.
    word : sympy expression, bit
        Of an entry on the device.

    Notes
    -----
    The worst case of a matrix that is wrong by :math:`2^{-w}` in the spectral norm, largest eigenvalue 1: the solution
    moves by up to :math:`\kappa 2^{-w}`, to first order. Not the worst case of entries that are each rounded to w bits:
    together they can be wrong by more. ``analysis/precision_floor.py`` measures 1.3 to 3.1 times the line at random
    matrices of order 16 to 256; a bound for any is d times.

    Examples
    --------
    >>> from thermolinalg.complexity.symbols import eps, kappa, w
    >>> precision_limit(kappa, w, eps).allowed
    2**w*epsilon
    """
    for name, part, unit in (("condition", condition, one), ("word", word, bit), ("error", error, one)):
        _need(name, part, unit)
    return Limit("precision", sp.sympify(condition), 2 ** sp.sympify(word) * error)


def storage_limit(stored: sp.Expr, memory: Constant) -> Limit:
    """Return the limit of a memory to the bytes that are stored.

    Parameters
    ----------
    stored : sympy expression, byte
    memory : Constant, B

    Examples
    --------
    >>> from thermolinalg.complexity.hardware import H100
    >>> from thermolinalg.complexity.symbols import n, word
    >>> storage_limit(n**2 * word, H100.memory).name
    'storage in H100 memory'
    """
    _need("stored", stored, base_units("B"))
    return Limit(f"storage in {memory.name}", sp.sympify(stored), sp.Float(float(memory.need("B")), 17))


def array_limit(side: sp.Expr, nodes: Constant) -> Limit:
    """Return the limit of one array to the order of a matrix; larger ones need tiles, which is another algorithm.

    Examples
    --------
    >>> from thermolinalg.complexity.hardware import RC_DEVICE
    >>> from thermolinalg.complexity.symbols import n
    >>> int(array_limit(n, RC_DEVICE.nodes).allowed)
    2048
    """
    _need("side", side, one)
    return Limit("one array", sp.sympify(side), sp.Float(float(nodes.need("cell")), 17))


def crossover(
    digital: sp.Expr,
    device: sp.Expr,
    variable: sp.Symbol,
    values: Mapping[sp.Symbol, Constant | float],
    low: float,
    high: float,
    limits: Sequence[Limit] = (),
) -> Windows:
    r"""Find where a device costs less than its digital baseline.

    .. math:: \text{device}(x) < \text{digital}(x), \qquad \text{used}(x) \le \text{allowed}(x)

    Parameters
    ----------
    digital, device : sympy expression, > 0
        Costs in one unit; ``sympy.Min`` joins several baselines.
    variable : sympy symbol
        Any symbol: a size, a condition number, a time constant, a link.
    values : mapping of symbols to constants or numbers
        All symbols but `variable`.
    low, high : float, 0 < low < high
        The range to search.
    limits : sequence of Limit
        Where the formulas hold.

    Returns
    -------
    Windows
        With the answer in words; that there is no crossover is an answer.

    Raises
    ------
    ValueError
        If the units differ, a symbol is left without a value, or a cost is not positive and finite.

    Notes
    -----
    Roots are bracketed on 2000 points, evenly spaced in the logarithm, and between them where the ratio of the costs
    comes nearest to one; they are refined to twelve digits. Two crossings closer than a step, without such a nearest
    point, would be missed.

    Examples
    --------
    A layer of K-FAC, inverted by a published device instead of a GPU.

    >>> from thermolinalg.complexity.symbols import B_L, F, eps, eta, kappa, n, q, tau, w
    >>> gpu = sp.Rational(14, 3) * n**3 / (eta * F)
    >>> device = 6 * n**2 * w / B_L + 2 * n * kappa * tau * sp.log(1 / eps) / q
    >>> values = {w: 16, B_L: 5e10, eta: 0.3, F: 66.9e12, eps: 2.0**-8, q: 1, tau: 1e-6, kappa: 100}
    >>> print(crossover(gpu, device, n, values, 1, 1e9).reason)
    the device costs less from 73314.6 (both cost the same) to 1e+09 (end of the search)
    """
    unit = _common_unit(digital, device)
    found = _bind(
        values,
        variable,
        low,
        high,
        (digital, device, *(side for limit in limits for side in (limit.used, limit.allowed))),
    )
    first, last = math.log(low), math.log(high)
    gap = _ratio("digital", digital, "device", device, variable, found)
    wins, roots, grid = _positive(gap, first, last, End.CROSSOVER)
    kept, closing = wins, []
    for limit in limits:
        room = _ratio(f"allowed of {limit.name}", limit.allowed, f"used of {limit.name}", limit.used, variable, found)
        holds, _, _ = _positive(room, first, last, End.LIMIT, limit.name)
        kept = _common(kept, holds)
        if not _common(wins, holds):
            closing.append(limit.name)
    return Windows(
        variable,
        float(low),
        float(high),
        tuple(kept),
        tuple(roots),
        unit,
        _words(variable, kept, wins, gap, grid, closing),
    )


def _common_unit(digital: sp.Expr, device: sp.Expr) -> sp.Expr | None:
    units = [_unit(part) for part in (digital, device)]
    if None in units:
        return None
    if units[0] != units[1]:
        raise ValueError(f"digital is in {units[0]} but device in {units[1]}; compare costs in one unit")
    return units[0]


def _unit(expression: sp.Expr) -> sp.Expr | None:
    """The unit, or None where a symbol is not in the glossary."""
    expression = sp.sympify(expression)
    return unit_of(expression) if expression.free_symbols <= set(GLOSSARY) else None


def _need(name: str, expression: sp.Expr, unit: sp.Expr) -> None:
    expression = sp.sympify(expression)
    found = _unit(expression)
    if not expression.is_number and found is not None and found != unit:
        raise ValueError(f"{name} must be in {unit}, got {expression} in {found}")


def _bind(
    values: Mapping[sp.Symbol, Constant | float],
    variable: sp.Symbol,
    low: float,
    high: float,
    expressions: Sequence[sp.Expr],
) -> dict[sp.Symbol, float]:
    """Numbers for all symbols but the variable."""
    if variable in values:
        raise ValueError(f"values has an entry for {variable}, which is the variable; leave it out")
    if not 0 < low < high < math.inf:
        raise ValueError(f"need 0 < low < high < inf for {variable}, got {low} and {high}")
    numbers({variable: low})
    numbers({variable: high})
    found = numbers(values)
    left = set().union(*(sp.sympify(part).free_symbols for part in expressions)) - {variable, *found}
    if left:
        raise ValueError(f"values has no entry for {', '.join(sorted(map(str, left)))}; give a number or a Constant")
    return found


def _ratio(
    above: str, top: sp.Expr, below: str, bottom: sp.Expr, variable: sp.Symbol, values: Mapping[sp.Symbol, float]
) -> Callable[[np.ndarray], np.ndarray]:
    """The logarithm of a ratio as a function of the logarithm of the variable."""
    parts = [
        (name, sp.lambdify(variable, sp.sympify(part).subs(values), "numpy"))
        for name, part in ((above, top), (below, bottom))
    ]

    def logarithm(u: np.ndarray) -> np.ndarray:
        x = np.exp(np.asarray(u, float))
        logs = []
        for name, function in parts:
            with np.errstate(all="ignore"):
                cost = np.broadcast_to(np.asarray(function(x), float), x.shape)
            if not np.all(bad := (cost > 0) & np.isfinite(cost)):
                at = np.ravel(x)[np.argmin(np.ravel(bad))]
                raise ValueError(f"{name} is not positive and finite at {variable} = {at:g}; narrow the range")
            logs.append(np.log(cost))
        gap = logs[0] - logs[1]
        return np.where(np.abs(gap) < _TIE, 0.0, gap)

    return logarithm


def _positive(
    function: Callable[[np.ndarray], np.ndarray], low: float, high: float, end: End, name: str = ""
) -> tuple[list[Window], list[float], np.ndarray]:
    """Where a function is positive, all its roots, and the points it was evaluated at, as logarithms."""
    grid = np.linspace(low, high, _POINTS)
    grid = np.sort(np.concatenate([grid, _nearest(function, grid)]))
    above = function(grid) > 0 if end is End.CROSSOVER else function(grid) >= 0
    edges, roots = [Edge(math.exp(low), End.SEARCH)], []
    for i in np.flatnonzero(above[1:] != above[:-1]):
        root = float(brentq(function, grid[i], grid[i + 1], xtol=1e-15, rtol=1e-14))
        smooth = end is not End.CROSSOVER or abs(float(function(np.asarray(root)))) < _JUMP
        edges.append(Edge(math.exp(root), end if smooth else End.JUMP, name))
        if smooth:
            roots.append(math.exp(root))
    edges.append(Edge(math.exp(high), End.SEARCH))
    pairs = pairwise(edges)
    return [Window(*pair) for j, pair in enumerate(pairs) if above[0] != (j % 2 == 1)], roots, grid


def _nearest(function: Callable[[np.ndarray], np.ndarray], grid: np.ndarray) -> list[float]:
    """Points between those of the grid at which a function that seems to keep its sign comes across zero."""
    gap = function(grid)
    size, sign = np.abs(gap), np.sign(gap)
    near = (size[1:-1] <= size[:-2]) & (size[1:-1] <= size[2:]) & (sign[:-2] == sign[1:-1]) & (sign[1:-1] == sign[2:])
    # Where the difference is flat there is nothing to look for.
    near &= (size[1:-1] < size[:-2]) | (size[1:-1] < size[2:])
    found = []
    for i in np.flatnonzero(near & (size[1:-1] < 1)) + 1:
        best = minimize_scalar(
            lambda u, s=sign[i]: float(s * function(np.asarray(u))),
            bounds=(grid[i - 1], grid[i + 1]),
            method="bounded",
            options={"xatol": 1e-10},
        )
        if best.fun < 0:
            found.append(float(best.x))
    return found


def _overlap(a: Window, b: Window) -> Window | None:
    low = max(a.low, b.low, key=lambda edge: edge.at)
    high = min(a.high, b.high, key=lambda edge: edge.at)
    return Window(low, high) if low.at < high.at else None


def _common(some: list[Window], others: list[Window]) -> list[Window]:
    """Where both hold."""
    return [both for a in some for b in others if (both := _overlap(a, b)) is not None]


def _words(
    variable: sp.Symbol,
    kept: list[Window],
    wins: list[Window],
    gap: Callable[[np.ndarray], np.ndarray],
    grid: np.ndarray,
    closing: list[str],
) -> str:
    if wins and wins[0].low.end is wins[0].high.end is End.SEARCH and kept:
        return f"no crossover: the device costs less throughout; valid {' and '.join(map(str, kept))}"
    if kept:
        return f"the device costs less {' and '.join(map(str, kept))}"
    if wins:
        # Each of these alone leaves nothing; if none does, all do together.
        which = f"the limits of {' and '.join(closing)}" if closing else "all limits together"
        return f"no window: the device costs less {' and '.join(map(str, wins))}, but not within {which}"
    logs = gap(grid)
    if not logs.any():
        return "no crossover: both cost the same throughout"
    best = int(np.argmax(logs))
    return (
        f"no crossover: digital costs less throughout; the device comes nearest at {variable} = "
        f"{math.exp(grid[best]):.6g}, with {math.exp(-logs[best]):.4g} times the cost"
    )
