"""How much better, thanks to what, and which candidates nobody beats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import sympy as sp

Cost: TypeAlias = sp.Expr | float


class NotComputableError(ValueError):
    """A ratio was asked for of which one side does not exist."""


@dataclass(frozen=True)
class Missing:
    """A run that gave no cost, and why: out of memory, no such algorithm on that hardware.

    Examples
    --------
    >>> ratio(Missing("out of memory"), 1.5)
    Traceback (most recent call last):
        ...
    thermolinalg.complexity.merit.NotComputableError: not computable: the old cost is missing (out of memory)
    """

    reason: str


@dataclass(frozen=True)
class Costs:
    """The four costs of an old and a new algorithm on old and on new hardware, in one unit.

    Parameters
    ----------
    old : float, sympy expression or Missing
        Old algorithm, old hardware.
    new_algorithm : float, sympy expression or Missing
        New algorithm, old hardware.
    new_hardware : float, sympy expression or Missing
        Old algorithm, new hardware.
    new : float, sympy expression or Missing
        New algorithm, new hardware.
    """

    old: Cost | Missing
    new_algorithm: Cost | Missing
    new_hardware: Cost | Missing
    new: Cost | Missing


class Order(Enum):
    """Which change is made first; the factors depend on it, their product does not."""

    ALGORITHM_FIRST = "algorithm first, then hardware"
    HARDWARE_FIRST = "hardware first, then algorithm"


@dataclass(frozen=True)
class Merit:
    """A total factor of improvement as a product of two."""

    total: sp.Expr
    algorithm: sp.Expr
    hardware: sp.Expr
    order: Order


def ratio(old: Cost | Missing, new: Cost | Missing) -> sp.Expr:
    """Return the old cost over the new one.

    Raises
    ------
    NotComputableError
        If one of them is missing, or is a number that is not positive and finite. It is a ValueError.

    Examples
    --------
    >>> ratio(6, 2)
    3
    """
    return _cost("old", old) / _cost("new", new)


def figure_of_merit(costs: Costs, order: Order) -> Merit:
    r"""Return a total improvement, split into factors of algorithm and hardware.

    .. math:: \frac{c_{00}}{c_{11}} = \frac{c_{00}}{c_{10}} \cdot \frac{c_{10}}{c_{11}}

    Parameters
    ----------
    costs : Costs
        :math:`c_{ah}`, with a = 1 for the new algorithm and h = 1 for the new hardware.
    order : Order
        With the hardware first the cost between is :math:`c_{01}`.

    Returns
    -------
    Merit
        Exact where the costs are; floats are taken at their value.

    Raises
    ------
    NotComputableError
        If a cost that the order needs is missing.

    Notes
    -----
    The other order gives other factors with the same product: state which, or print both.

    Examples
    --------
    A Fourier transform of a million points, dense (8 real flops for each complex one) or fast, in flops over the peaks
    of two chips. Time grows by :math:`n^2` for one and by :math:`n \log n` for the other, so the algorithm wins:

    >>> n = 2**20
    >>> dense, fast = 8 * n**2, 5 * n * 20
    >>> slow_chip, quick_chip = 15_700, 66_900  # flops per nanosecond, FP32
    >>> four = [sp.Rational(work, chip) for chip in (slow_chip, quick_chip) for work in (dense, fast)]
    >>> merit = figure_of_merit(Costs(four[0], four[1], four[2], four[3]), Order.ALGORITHM_FIRST)
    >>> round(float(merit.algorithm)), round(float(merit.hardware), 2), merit.algorithm * merit.hardware == merit.total
    (83886, 4.26, True)
    """
    old, new = _cost("old", costs.old), _cost("new", costs.new)
    if order is Order.ALGORITHM_FIRST:
        between = _cost("new_algorithm", costs.new_algorithm)
        algorithm, hardware = old / between, between / new
    else:
        between = _cost("new_hardware", costs.new_hardware)
        hardware, algorithm = old / between, between / new
    return Merit(old / new, algorithm, hardware, order)


@dataclass(frozen=True)
class Candidate:
    """A way to do something, by time, energy and error.

    Parameters
    ----------
    name : str
    seconds, joules, error : float, >= 0, or Missing
    """

    name: str
    seconds: float | Missing
    joules: float | Missing
    error: float | Missing


@dataclass(frozen=True)
class Front:
    """Which candidates nobody beats.

    Attributes
    ----------
    best : tuple of Candidate
        No other is as good in all three and better in one.
    beaten : mapping of names to names
        Each of the others, with one of the front that beats it.
    left_out : mapping of names to reasons
        Those with a figure missing: neither good nor bad.
    """

    best: tuple[Candidate, ...]
    beaten: Mapping[str, str]
    left_out: Mapping[str, str]


def pareto_front(candidates: Sequence[Candidate]) -> Front:
    """Return the candidates that no other beats in time, energy and error together.

    Raises
    ------
    ValueError
        If two names are equal, or a figure is negative or not a number.

    Examples
    --------
    >>> front = pareto_front(
    ...     [
    ...         Candidate("fast", 1.0, 9.0, 1e-3),
    ...         Candidate("frugal", 2.0, 1.0, 1e-3),
    ...         Candidate("worse", 3.0, 2.0, 1e-3),
    ...         Candidate("unknown", 0.1, Missing("power not found"), 1e-3),
    ...     ]
    ... )
    >>> [candidate.name for candidate in front.best], front.beaten
    (['fast', 'frugal'], {'worse': 'frugal'})
    >>> front.left_out
    {'unknown': 'joules: power not found'}
    """
    points: dict[str, tuple[float, ...]] = {}
    left_out: dict[str, str] = {}
    for candidate in candidates:
        if candidate.name in points or candidate.name in left_out:
            raise ValueError(f"two candidates are called {candidate.name!r}; rename one")
        figures = {name: getattr(candidate, name) for name in ("seconds", "joules", "error")}
        missing = [f"{name}: {found.reason}" for name, found in figures.items() if isinstance(found, Missing)]
        if missing:
            left_out[candidate.name] = "; ".join(missing)
            continue
        for name, found in figures.items():
            if not 0 <= found < math.inf:
                raise ValueError(f"{name} of {candidate.name} must be at least 0 and finite, got {found}")
        points[candidate.name] = tuple(map(float, figures.values()))
    names = [name for name in points if not any(_beats(other, points[name]) for other in points.values())]
    beaten = {
        name: next(other for other in names if _beats(points[other], point))
        for name, point in points.items()
        if name not in names
    }
    return Front(tuple(found for found in candidates if found.name in names), beaten, left_out)


def _beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _cost(name: str, cost: Cost | Missing) -> sp.Expr:
    if isinstance(cost, Missing):
        raise NotComputableError(f"not computable: the {name} cost is missing ({cost.reason})")
    found = sp.Rational(cost) if isinstance(cost, float) and math.isfinite(cost) else sp.sympify(cost)
    if found.is_number and not (found.is_positive and found.is_finite):
        raise NotComputableError(f"not computable: the {name} cost is {cost}, not positive and finite")
    return found
