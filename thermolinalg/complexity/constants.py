"""Constants that say what they are: value, unit, source, date and origin."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

import sympy as sp

from thermolinalg.complexity.symbols import GLOSSARY, bit, byte, check_values, joule, one, second, volt

kelvin = sp.Symbol("kelvin", positive=True)

UNITS: Mapping[str, sp.Expr] = {
    "1": one,
    "flop": one,
    "conversion": one,
    "cell": one,
    "s": second,
    "J": joule,
    "W": joule / second,
    "K": kelvin,
    "V": volt,
    "F": joule / volt**2,
    "ohm": volt**2 * second / joule,
    "bit": bit,
    "B": byte,
}
"""The units that are understood, in base units; a prefix goes into the number, and a bit is not a byte."""


class Origin(Enum):
    """Where a number comes from."""

    DATASHEET = "datasheet"
    MEASURED = "measured"
    ASSUMPTION = "assumption"
    BOUND = "bound"
    NOT_FOUND = "not found"


class NotFoundError(ValueError):
    """A constant was used of which no value is known."""


@dataclass(frozen=True)
class Constant:
    """A number with its unit and its source.

    Parameters
    ----------
    name : str
        What it is, as errors name it.
    value : float, >= 0, or None
        In the unit; None if it was not found.
    unit : str
        A product of :data:`UNITS`, such as ``"flop/s"``, ``"J/bit"`` or ``"J/K*s"``; what follows a ``/`` is below the
        line up to the next ``*``.
    source : str
        Where it was read, or what it was taken from.
    date : str
        Of that, as YYYY-MM.
    status : Origin
    low, high : float, optional
        The value over and times one geometric standard deviation, or what the source says instead; the value itself if
        not given: no spread is known.

    Raises
    ------
    ValueError
        If a field is missing or does not fit the others.

    Notes
    -----
    ``float(constant)`` is its value, and an error that names it if it was not found: an unknown never counts as zero.

    Examples
    --------
    >>> rate = Constant("link", 5e10, "bit/s", "arXiv:2405.13817, appendix C", "2026-11", Origin.ASSUMPTION)
    >>> float(rate)
    50000000000.0
    >>> float(not_found("link energy", "J/bit", "no published host link", "2026-11"))
    Traceback (most recent call last):
        ...
    thermolinalg.complexity.constants.NotFoundError: link energy was not found (no published host link, 2026-11); put \
a Constant of your own in its place with dataclasses.replace
    """

    name: str
    value: float | None
    unit: str
    source: str
    date: str
    status: Origin
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for text in ("name", "source"):
            if not getattr(self, text).strip():
                raise ValueError(f"{text} of the constant {self.name!r} is empty; say what it is, and where it is from")
        if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", self.date):
            raise ValueError(f"date of {self.name} must be YYYY-MM, got {self.date!r}")
        base_units(self.unit)
        if (self.value is None) != (self.status is Origin.NOT_FOUND):
            raise ValueError(f"value of {self.name} is {self.value} but its status {self.status.value!r}; change one")
        if self.value is None:
            if self.low is not None or self.high is not None:
                raise ValueError(f"low and high of {self.name} need a value")
            return
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        if not (math.isfinite(high) and 0 <= low <= self.value <= high):
            raise ValueError(f"need 0 <= low <= value <= high for {self.name}, got {low}, {self.value}, {high}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    def __float__(self) -> float:
        if self.value is None:
            raise NotFoundError(
                f"{self.name} was not found ({self.source}, {self.date}); put a Constant of your own in its place with "
                "dataclasses.replace"
            )
        return float(self.value)

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return self.value is not None

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper value."""
        float(self)
        return float(self.low or 0.0), float(self.high or 0.0)

    def need(self, unit: str) -> "Constant":
        """The constant itself, if it has this unit, counts included: a flop is not a conversion here."""
        if _parts(self.unit) != _parts(unit):
            raise ValueError(f"{self.name} must be in {unit}, got {self.unit}; convert it")
        return self


def not_found(name: str, unit: str, source: str, date: str) -> Constant:
    """Return a constant without a value, whose use is refused.

    Examples
    --------
    >>> not_found("TPU v5e power", "W", "not on the vendor's page", "2026-11").known
    False
    """
    return Constant(name, None, unit, source, date, Origin.NOT_FOUND)


def in_bits(constant: Constant) -> Constant:
    """Return bytes as bits, eight to one, as the symbols for rates of links and memories want them.

    Examples
    --------
    >>> found = in_bits(Constant("bandwidth", 3.35e12, "B/s", "datasheet", "2026-11", Origin.DATASHEET))
    >>> float(found), found.unit
    (26800000000000.0, 'bit/s')
    """
    low, high = constant.need("B/s").interval
    return replace(constant, value=8 * float(constant), low=8 * low, high=8 * high, unit="bit/s")


def numbers(values: Mapping[sp.Symbol, Constant | float]) -> dict[sp.Symbol, float]:
    """Return numbers for symbols, with the unit of each constant compared with that of its symbol.

    Parameters
    ----------
    values : mapping of symbols to constants or numbers
        Numbers are in the unit of the symbol.

    Returns
    -------
    dict of symbols to floats

    Raises
    ------
    ValueError
        If a constant has another unit than its symbol or was not found, or a number is out of range.

    Examples
    --------
    >>> from thermolinalg.complexity.symbols import B_M, kappa
    >>> numbers({kappa: 100})
    {kappa: 100.0}
    >>> numbers({B_M: Constant("bandwidth", 3.35e12, "B/s", "datasheet", "2026-11", Origin.DATASHEET)})
    Traceback (most recent call last):
        ...
    ValueError: bandwidth is in B/s but B_M is in bit/second; convert it
    """
    for symbol, value in values.items():
        if isinstance(value, Constant) and symbol in GLOSSARY and base_units(value.unit) != GLOSSARY[symbol].unit:
            raise ValueError(f"{value.name} is in {value.unit} but {symbol} is in {GLOSSARY[symbol].unit}; convert it")
    return check_values(values)


def base_units(unit: str) -> sp.Expr:
    """Return a unit as a product of powers of the base units of the glossary.

    Raises
    ------
    ValueError
        If part of it is no unit that is understood.

    Notes
    -----
    Flops, conversions and cells are counts and have no unit there; :meth:`Constant.need` keeps them apart.

    Examples
    --------
    >>> base_units("ohm*F"), base_units("W"), base_units("flop/s")
    (second, joule/second, 1/second)
    """
    return sp.Mul(*(UNITS[name] ** power for name, power in _parts(unit).items()))


def _parts(unit: str) -> dict[str, int]:
    """Powers of the named units in a product."""
    powers: dict[str, int] = {}
    for sign, factor in re.findall(r"(^|[*/])([^*/]*)", unit):
        match = re.fullmatch(r"([A-Za-z]+|1)(?:\^(-?\d+))?", factor.strip())
        if match is None or match[1] not in UNITS:
            raise ValueError(f"{factor!r} in the unit {unit!r} is none of {', '.join(UNITS)}")
        if match[1] != "1":
            powers[match[1]] = powers.get(match[1], 0) + int(match[2] or 1) * (-1 if sign == "/" else 1)
    return {name: power for name, power in powers.items() if power}
