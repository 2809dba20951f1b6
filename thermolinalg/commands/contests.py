"""A digital method against a method of a device: where one overtakes the other, and what that rests on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from thermolinalg.commands.methods import ANALOG, CHOSEN, CIRCUITS, DIGITAL, MACHINES
from thermolinalg.commands.options import AnalogName, ChipName, CircuitName, DigitalName
from thermolinalg.complexity import (
    FACTORISATION,
    AnalogDevice,
    Chip,
    Constant,
    Counts,
    Limit,
    Windows,
    array_limit,
    crossover,
    crossover_elasticity,
    in_bits,
    numbers,
    precision_limit,
    storage_limit,
)
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import B_M, GLOSSARY, F, eps, eta, kappa, n, w, word

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIASES = {"rtol": eps, "d": n}
"""Other names of symbols: what other commands call the error, and models of devices the order."""


@dataclass(frozen=True)
class Contest:
    """Two methods, their machines, what varies and what is known.

    Raises
    ------
    ValueError
        If the methods do not solve the same problem, or a number is missing, unknown or out of range.
    """

    digital: tuple[DigitalName, ...]
    chip: Chip
    analog: AnalogName
    device: AnalogDevice
    variable: sp.Symbol
    given: dict[sp.Symbol, float]
    low: float
    high: float

    @classmethod
    def prepare(
        cls,
        digital: Sequence[DigitalName],
        on: ChipName,
        analog: AnalogName,
        circuit: CircuitName,
        variable: str,
        at: Sequence[str],
        low: float | None,
        high: float | None,
    ) -> "Contest":
        for name in digital:
            if DIGITAL[name].problem != ANALOG[analog].problem:
                raise ValueError(
                    f"--digital {name} gives {DIGITAL[name].problem} and --analog {analog} {ANALOG[analog].problem}; "
                    "compare methods with the same answer, see --list"
                )
        symbol = symbol_of(variable)
        given = dict(_given(text) for text in at)
        if symbol in given:
            raise ValueError(f"--at gives {symbol} a value, and --variable lets it vary; leave one of them out")
        contest = cls(tuple(digital), MACHINES[on], analog, CIRCUITS[circuit], symbol, given, 1.0, 1e9)
        first, last = _range(symbol, contest.constants.get(symbol))
        contest = replace(contest, low=first if low is None else low, high=last if high is None else high)
        parts = (contest.digital_seconds, contest.device_seconds)
        parts += tuple(side for limit in contest.limits for side in (limit.used, limit.allowed))
        used = set().union(*(part.free_symbols for part in parts))
        for each in (symbol, *given):
            if each not in used:
                raise ValueError(f"{each} is in none of these costs; they have {', '.join(sorted(map(str, used)))}")
        for each in sorted(used - {symbol}, key=str):
            contest.value(each)
        return contest

    @property
    def digital_seconds(self) -> sp.Expr:
        """The cheapest of the digital methods."""
        return sp.Min(*(DIGITAL[name].seconds for name in self.digital))

    @property
    def device_seconds(self) -> sp.Expr:
        """What the device takes."""
        return ANALOG[self.analog].seconds

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Where the formulas hold."""
        stored = sp.Max(*(DIGITAL[name].stored for name in self.digital))
        return (
            precision_limit(kappa, w, eps),
            array_limit(n, self.device.nodes),
            replace(storage_limit(n**2 * word, self.chip.memory), used=stored),
        )

    @property
    def constants(self) -> dict[sp.Symbol, Constant]:
        """What the machines put in place of symbols, known or not."""
        bandwidth = self.chip.bandwidth
        rates = {F: self.chip.fp32, eta: FACTORISATION, B_M: in_bits(bandwidth) if bandwidth.known else bandwidth}
        return {**rates, **self.device.values}

    def value(self, symbol: sp.Symbol) -> float:
        """The number for a symbol: as given, of a machine, or chosen."""
        constant = self.constants.get(symbol)
        if symbol in self.given:
            return self.given[symbol]
        if symbol in CHOSEN:
            return CHOSEN[symbol][0]
        if constant is None:
            raise ValueError(f"{symbol} ({GLOSSARY[symbol].text}) has no value; give --at {symbol}=VALUE")
        if not constant.known:
            raise ValueError(f"{constant.name} was not found ({constant.source}); give --at {symbol}=VALUE")
        return float(constant)

    @cached_property
    def values(self) -> dict[sp.Symbol, float]:
        """Numbers for all symbols of the costs and the limits but the variable."""
        parts = [self.digital_seconds, self.device_seconds]
        parts += [side for limit in self.limits for side in (limit.used, limit.allowed)]
        used = set().union(*(part.free_symbols for part in parts)) - {self.variable}
        return numbers({symbol: self.value(symbol) for symbol in sorted(used, key=str)})

    def windows(self, *limits: Limit) -> Windows:
        """Where the device takes less time."""
        sides = (self.digital_seconds, self.device_seconds)
        return crossover(*sides, self.variable, self.values, self.low, self.high, limits)

    @property
    def question(self) -> str:
        """What is asked."""
        return (
            f"For which {self.variable} does {self.analog} on the {self.device.name} take less time than "
            f"{' and '.join(self.digital)} on {self.chip.name}?"
        )

    def answer(self) -> Table:
        """Windows without and with the limits, and where each limit holds."""
        rows: list[tuple[Any, ...]] = []
        for label, found in (("costs alone", self.windows()), ("with all limits", self.windows(*self.limits))):
            rows += [(label, x.low.at, x.high.at, f"{_edge(x.low)}; {_edge(x.high)}") for x in found.ahead]
            if not found.ahead:
                rows.append((label, "nowhere", "nowhere", found.reason))
        for limit in self.limits:
            # A device that is twice as cheap everywhere is ahead where the limit holds.
            two, one = sp.Integer(2), sp.Integer(1)
            holds = crossover(two, one, self.variable, self.values, self.low, self.high, (limit,)).ahead
            text = f"{limit.used} <= {limit.allowed if limit.allowed.free_symbols else f'{float(limit.allowed):.4g}'}"
            rows += [(f"limit: {limit.name}", x.low.at, x.high.at, text) for x in holds]
            if not holds:
                rows.append((f"limit: {limit.name}", "nowhere", "nowhere", text))
        return Table(
            self.question,
            ("counted", f"{self.variable} from", f"{self.variable} to", "why"),
            tuple(rows),
            (
                *(f"{name}: {DIGITAL[name].text}: {DIGITAL[name].seconds} s" for name in self.digital),
                f"{self.analog}: {ANALOG[self.analog].text}: {self.device_seconds} s",
                f"Flops: {Counts.FLOPS.convention}. Times of the device are modelled; latency of the chip and standby "
                "are left out. That the time constant does not grow with n is an assumption.",
            ),
        )

    def basis(self) -> Table:
        """The numbers, where they are from, and what they do to the first crossover."""
        crossovers, rows = self.windows().crossovers, []
        sides = (self.digital_seconds, self.device_seconds)
        for symbol, number in self.values.items():
            status, source = self._origin(symbol)
            moves: Any = "no crossover"
            if crossovers:
                moves = crossover_elasticity(*sides, self.variable, symbol, self.values, crossovers[0]) + 0.0
            rows.append((str(symbol), GLOSSARY[symbol].text, number, str(GLOSSARY[symbol].unit), status, source, moves))
        moved = f"{self.variable} = {crossovers[0]:.6g}" if crossovers else "a crossover"
        return Table(
            f"What is the answer made of, and by how many percent does one percent more of each move {moved}?",
            ("symbol", "meaning", "value", "unit", "status", "source", "moves by, %"),
            tuple(rows),
        )

    def _origin(self, symbol: sp.Symbol) -> tuple[str, str]:
        if symbol in self.given:
            return "given", "--at"
        if symbol in CHOSEN:
            return "chosen", CHOSEN[symbol][1]
        constant = self.constants[symbol]
        return constant.status.value, f"{constant.source}, {constant.date}"

    def draw(self) -> "Figure":
        """Both costs over what varies; where the device is ahead within all limits is shaded."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes, at = figure.subplots(), np.geomspace(self.low, self.high, 300)
        names = [*self.digital, f"{self.analog}, {self.device.name} (modelled)"]
        costs = [*(DIGITAL[name].seconds for name in self.digital), self.device_seconds]
        for name, cost in zip(names, costs, strict=True):
            heights = sp.lambdify(self.variable, cost.subs(self.values), "numpy")(at)
            axes.loglog(at, np.broadcast_to(heights, at.shape), label=name)
        for each in self.windows().crossovers:
            axes.axvline(each, color="0.5", linestyle=":")
        for window in self.windows(*self.limits).ahead:
            axes.axvspan(window.low.at, window.high.at, color="0.9", label="device ahead, within limits")
        axes.set(xlabel=f"{self.variable}: {GLOSSARY[self.variable].text}", ylabel="seconds")
        axes.set_title(self.question, fontsize="small", wrap=True)
        axes.legend(fontsize="small")
        return figure


def symbol_of(name: str) -> sp.Symbol:
    """The symbol with this name; a ValueError if there is none."""
    known = {str(symbol): symbol for symbol in GLOSSARY} | ALIASES
    if name not in known:
        raise ValueError(f"{name!r} is no symbol of the costs; --list names them all, and rtol is epsilon")
    return known[name]


def _given(text: str) -> tuple[sp.Symbol, float]:
    name, equals, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        equals = ""
    if not equals:
        raise ValueError(f"--at must be NAME=VALUE with a number, such as kappa=100, got {text!r}")
    symbol = symbol_of(name.strip())
    return symbol, numbers({symbol: value})[symbol]


def _range(symbol: sp.Symbol, constant: Constant | None) -> tuple[float, float]:
    """Where to search unless told: around a constant, else from the least that makes sense."""
    least, most = GLOSSARY[symbol].low, GLOSSARY[symbol].high
    if constant is not None and constant.known:
        return max(float(constant) / 1e6, least), min(float(constant) * 1e6, most)
    return (1e-12, most) if most <= 1 else (max(least, 1.0), min(1e9, most))


def _edge(edge: Any) -> str:
    return edge.name or edge.end.value
