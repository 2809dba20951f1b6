"""Seconds and joules of a kernel on a chip: the slower of arithmetic and memory."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import sympy as sp

from thermolinalg.complexity.constants import Constant, Origin

Quantity: TypeAlias = sp.Expr | float
Parameter: TypeAlias = Constant | sp.Expr


class Binding(Enum):
    """What a kernel waits for."""

    COMPUTE = "compute"
    MEMORY = "memory"
    LATENCY = "latency"


@dataclass(frozen=True)
class Roof:
    r"""A chip as one kernel sees it.

    .. math:: T = \max\left(\frac{\text{flops}}{\eta F}, \frac{\text{bytes}}{B}\right) + t_0

    Parameters
    ----------
    peak : Constant or sympy expression, flop/s
        :math:`F`. One addition or one multiplication is one flop.
    bandwidth : Constant or sympy expression, B/s
        :math:`B`.
    efficiency : Constant or sympy expression, in (0, 1]
        :math:`\eta` of this kernel on this chip.
    latency : Constant or sympy expression, s
        :math:`t_0`; :data:`thermolinalg.complexity.NO_LATENCY` says that it is neglected.

    Raises
    ------
    ValueError
        If a constant has another unit, or `efficiency` is outside (0, 1]. Expressions are not checked here.

    Examples
    --------
    >>> from thermolinalg.complexity.hardware import FACTORISATION, H100, NO_LATENCY
    >>> roof = Roof(H100.fp32, H100.bandwidth, FACTORISATION, NO_LATENCY)
    >>> round(run_time(4096**3 / 3, 4 * 4096**2, roof), 5)
    0.00114
    """

    peak: Parameter
    bandwidth: Parameter
    efficiency: Parameter
    latency: Parameter

    def __post_init__(self) -> None:
        for name, unit in (("peak", "flop/s"), ("bandwidth", "B/s"), ("efficiency", "1"), ("latency", "s")):
            found = getattr(self, name)
            if isinstance(found, Constant):
                found.need(unit)
            elif not isinstance(found, sp.Expr):
                raise ValueError(f"{name} must be a Constant in {unit} or a sympy expression, got {found!r}")
        if isinstance(self.efficiency, Constant) and not 0 < float(self.efficiency) <= 1:
            raise ValueError(f"efficiency must be in (0, 1], got {float(self.efficiency)} of {self.efficiency.name}")

    @property
    def ridge(self) -> Quantity:
        """Flops per byte above which arithmetic binds."""
        return _plain(_value(self.efficiency) * _value(self.peak) / _value(self.bandwidth))


def run_time(flops: Quantity, traffic: Quantity, roof: Roof) -> Quantity:
    r"""Return the time of a kernel.

    .. math:: T = \max\left(\frac{\text{flops}}{\eta F}, \frac{\text{bytes}}{B}\right) + t_0

    Parameters
    ----------
    flops : float or sympy expression, >= 0
    traffic : float or sympy expression, >= 0
        Bytes from and to memory.
    roof : Roof

    Returns
    -------
    float, or a sympy expression if symbols are left

    Raises
    ------
    ValueError
        If a count is negative, or a constant of the roof was not found.

    Notes
    -----
    Arithmetic and traffic overlap perfectly: a bound from below, if `flops` and `traffic` are exact.

    Examples
    --------
    >>> from thermolinalg.complexity.hardware import H100, NO_LATENCY, PRODUCTS
    >>> n = sp.symbols("n", positive=True)
    >>> roof = Roof(H100.fp32, H100.bandwidth, sp.symbols("eta", positive=True), NO_LATENCY)
    >>> run_time(2 * n**2, 4 * n**2, roof).free_symbols == {n, roof.efficiency}
    True
    """
    compute, memory, latency = _times(flops, traffic, roof)
    return _plain(sp.Max(compute, memory) + latency)


def binding(flops: float, traffic: float, roof: Roof) -> Binding:
    """Return what takes longest: arithmetic, memory, or the fixed latency.

    Raises
    ------
    ValueError
        If symbols are left: which roof binds depends on them.

    Examples
    --------
    A product of a matrix and a vector is bound by memory.

    >>> from thermolinalg.complexity.hardware import H100, NO_LATENCY, PRODUCTS
    >>> binding(2 * 4096**2, 4 * 4096**2, Roof(H100.fp32, H100.bandwidth, PRODUCTS, NO_LATENCY)).value
    'memory'
    """
    times = _times(flops, traffic, roof)
    if left := set().union(*(time.free_symbols for time in times)):
        raise ValueError(f"which roof binds depends on {', '.join(sorted(map(str, left)))}; give numbers for them")
    found = dict(zip(Binding, map(float, times), strict=True))
    return max(found, key=lambda kind: found[kind])


def run_energy(flops: Quantity, traffic: Quantity, roof: Roof, power: Parameter) -> Quantity:
    """Return the energy of a kernel, at this power for as long as it runs.

    Raises
    ------
    ValueError
        If `power` is not in watts, or was not found.

    Examples
    --------
    >>> from thermolinalg.complexity.hardware import FACTORISATION, H100, NO_LATENCY
    >>> roof = Roof(H100.fp32, H100.bandwidth, FACTORISATION, NO_LATENCY)
    >>> round(run_energy(4096**3 / 3, 4 * 4096**2, roof, H100.power), 3)
    0.799
    """
    if isinstance(power, Constant):
        power.need("W")
    return _plain(_value(power) * run_time(flops, traffic, roof))


def joules_per_flop(peak: Constant, power: Constant) -> Constant:
    """Return the energy of one operation at the peak: less than any kernel takes, if the power is right.

    Examples
    --------
    >>> from thermolinalg.complexity.hardware import H100
    >>> f"{float(joules_per_flop(H100.fp32, H100.power)):.3g}"
    '1.05e-11'
    """
    value = float(power.need("W")) / float(peak.need("flop/s"))
    (least, most), (slow, fast) = power.interval, peak.interval
    source = (
        f"{power.name} ({power.source}) over {peak.name} ({peak.source}); an addition or multiplication is one flop"
    )
    date, name = min(power.date, peak.date), f"{peak.name}, joules per flop"
    return Constant(name, value, "J/flop", source, date, Origin.BOUND, least / fast, most / slow)


def _value(parameter: Parameter) -> sp.Expr:
    return sp.Float(float(parameter), 17) if isinstance(parameter, Constant) else parameter


def _plain(expression: sp.Expr) -> Quantity:
    return expression if expression.free_symbols else float(expression)


def _times(flops: Quantity, traffic: Quantity, roof: Roof) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    for name, count in (("flops", flops), ("traffic", traffic)):
        if sp.sympify(count).is_negative:
            raise ValueError(f"{name} must not be negative, got {count}")
    compute = flops / (_value(roof.efficiency) * _value(roof.peak))
    return sp.sympify(compute), sp.sympify(traffic / _value(roof.bandwidth)), _value(roof.latency)
