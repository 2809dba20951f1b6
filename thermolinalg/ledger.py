"""What was spent: seconds and joules, part by part."""

from dataclasses import dataclass, fields
from math import floor, inf, log10

from thermolinalg.ranges import check_positive


@dataclass(frozen=True)
class Parts:
    """An amount for each part of a run.

    Attributes
    ----------
    program : float
        Transfer of the couplings.
    load : float
        Transfer of the right-hand sides, or of what takes their place.
    settle : float
        Burn-in.
    average : float
        Averaging.
    read : float
        Transfer of the answers.
    convert : float
        Digital-to-analog and analog-to-digital converters; of their time what adds to that of the run.
    digital : float
        Work of the host.
    """

    program: float = 0.0
    load: float = 0.0
    settle: float = 0.0
    average: float = 0.0
    read: float = 0.0
    convert: float = 0.0
    digital: float = 0.0

    @property
    def analog(self) -> float:
        """While the device relaxes."""
        return self.settle + self.average

    @property
    def total(self) -> float:
        """Of all parts."""
        return self.program + self.load + self.analog + self.read + self.convert + self.digital

    def __add__(self, other: "Parts") -> "Parts":
        if not isinstance(other, Parts):
            return NotImplemented
        return Parts(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))


@dataclass(frozen=True)
class Ledger:
    """Seconds and joules of a run; what :func:`thermolinalg.cost` returns.

    Seconds of a part are also its attributes: ``ledger.program`` is ``ledger.seconds.program``. Ledgers of runs on one
    device, one after another, add up.

    Attributes
    ----------
    seconds, joules : Parts
    idle_power : float
        Watts that are drawn all the time, in use or not; :attr:`energy` adds them to the joules of the parts.
    assumed : tuple of (str, str)
        Parts, and what the price of each rests on that is neither given nor measured.
    """

    seconds: Parts
    joules: Parts
    idle_power: float = 0.0
    assumed: tuple[tuple[str, str], ...] = ()

    @property
    def program(self) -> float:
        """Seconds of transferring the couplings."""
        return self.seconds.program

    @property
    def load(self) -> float:
        """Seconds of transferring the right-hand sides, or what takes their place."""
        return self.seconds.load

    @property
    def settle(self) -> float:
        """Seconds of burn-in."""
        return self.seconds.settle

    @property
    def average(self) -> float:
        """Seconds of averaging."""
        return self.seconds.average

    @property
    def read(self) -> float:
        """Seconds of transferring the answers."""
        return self.seconds.read

    @property
    def convert(self) -> float:
        """Seconds that converters add."""
        return self.seconds.convert

    @property
    def digital(self) -> float:
        """Seconds of the host's work."""
        return self.seconds.digital

    @property
    def analog(self) -> float:
        """Seconds in which the device relaxes."""
        return self.seconds.analog

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return self.seconds.total

    @property
    def idle(self) -> float:
        """Joules of the idle power over the whole run."""
        return self.idle_power * self.total

    @property
    def energy(self) -> float:
        """Joules of the whole run, idle power included."""
        return self.joules.total + self.idle

    def energy_per_call(self, period: float) -> float:
        """Joules of a run that is called once in a period, idle power over the whole period included.

        Parameters
        ----------
        period : float
            Seconds from one call to the next; at least those of the run.

        Raises
        ------
        ValueError
            If the period is shorter than the run.
        """
        return self.joules.total + self.idle_power * self._period(period)

    def duty(self, period: float | None = None) -> float:
        """Fraction of time in which the device relaxes: of a period between two calls, or of the run by itself.

        Raises
        ------
        ValueError
            If the period is shorter than the run.
        """
        whole = self.total if period is None else self._period(period)
        return self.analog / whole if whole else 0.0

    @property
    def break_even_duty(self) -> float:
        r"""Duty below which idling takes more energy than all else, :math:`P_\text{idle} T_\text{analog}/E`.

        E is the energy of all parts. Above ``duty()`` idling takes more even where call follows call.
        """
        if not self.joules.total:
            return inf if self.idle_power else 0.0
        return self.idle_power * self.analog / self.joules.total

    def _period(self, period: float) -> float:
        check_positive(period=period)
        # A period that was computed from the total may round below it.
        if period < self.total * (1 - 1e-12):
            raise ValueError(
                f"period must be at least the {metric(self.total, 's')} that the run takes, got "
                f"{metric(period, 's')}; call less often, or share the calls among devices"
            )
        return period

    def __add__(self, other: "Ledger") -> "Ledger":
        if not isinstance(other, Ledger):
            return NotImplemented
        if self.idle_power != other.idle_power:
            raise ValueError(
                "ledgers add up for runs on one device, one after another, and these have idle powers of "
                f"{self.idle_power:g} W and {other.idle_power:g} W; add their energies instead"
            )
        assumed = dict.fromkeys((*self.assumed, *other.assumed))
        return Ledger(self.seconds + other.seconds, self.joules + other.joules, self.idle_power, tuple(assumed))

    def __str__(self) -> str:
        """A table of the parts that take anything, and below it what is assumed."""
        names = [part.name for part in fields(Parts)]
        live = [name for name in names if getattr(self.seconds, name) or getattr(self.joules, name)]
        texts = list(dict.fromkeys(text for name, text in self.assumed if name in live))
        marks = dict(zip(texts, "abcdefghij", strict=False))
        rows = [("part", "seconds", "joules", "")]
        for name in live:
            times, energy = metric(getattr(self.seconds, name), "s"), metric(getattr(self.joules, name), "J")
            rows.append((name, times, energy, "".join(marks[text] for part, text in self.assumed if part == name)))
        if self.idle_power:
            rows.append(("idle", "", metric(self.idle, "J"), ""))
        rows.append(("total", metric(self.total, "s"), metric(self.energy, "J"), ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *(f"{mark}: assumed, {text}" for text, mark in marks.items())])


def metric(value: float, unit: str) -> str:
    """Three digits with a prefix of the metric system."""
    if not value:
        return f"0 {unit}"
    rounded = float(f"{value:.3g}")
    power = min(max(floor(log10(abs(rounded)) / 3), -6), 4)
    return f"{rounded / 1000.0**power:.3g} {'afpnµm kMGT'[power + 6].strip()}{unit}"
