"""The ledger of a run as formulas: seconds and joules of every part, in symbols."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import sympy as sp

d, k, w, m = sp.symbols("d k w m", positive=True, integer=True)
"""Unknowns, right-hand sides, writes of the couplings, real components of an entry."""

N, R = sp.symbols("N R", positive=True, integer=True)
"""Samples, replicas."""

t0, tau, clock, second = sp.symbols("t_0 tau c t_c", nonnegative=True)
"""Burn-in and duration in natural time, time constants in that, seconds in those."""

bits, link_rate, e_bit = sp.symbols("n_bits r e_bit", positive=True)
"""Bits of a number, bits per second, joules of a bit."""

f_matrix, f_force, f_read = sp.symbols("f_matrix f_force f_read", positive=True)
"""Conversions per second of one converter of couplings, of right-hand sides, of the read-out."""

e_matrix, e_force, e_read = sp.symbols("e_matrix e_force e_read", nonnegative=True)
"""Joules of one conversion."""

P_cell, P_idle = sp.symbols("P_cell P_idle", nonnegative=True)
"""Watts of a cell that runs, and of the whole device all the time."""

work, r_host, e_flop = sp.symbols("n_flops r_host e_flop", nonnegative=True)
"""Further operations of the host, its operations per second, joules of one."""


class Formulas(NamedTuple):
    """A formula for each part of a run, under the names of :class:`thermolinalg.ledger.Parts`."""

    program: sp.Expr
    load: sp.Expr
    settle: sp.Expr
    average: sp.Expr
    read: sp.Expr
    convert: sp.Expr
    digital: sp.Expr

    @property
    def total(self) -> sp.Expr:
        """The sum of all parts."""
        return sp.Add(*self)

    def at(self, values: Mapping[sp.Symbol, Any]) -> dict[str, float]:
        """Each part with numbers in place of symbols, such as those of :func:`settings`.

        Raises
        ------
        ValueError
            If a symbol is left without a number.
        """
        found = {name: part.subs(values) for name, part in self._asdict().items()}
        left = {symbol for part in found.values() for symbol in part.free_symbols}
        if left:
            raise ValueError(f"give a number for each of {', '.join(sorted(map(str, left)))}")
        return {name: float(part) for name, part in found.items()}


@dataclass(frozen=True)
class SymbolicLedger:
    """Seconds and joules of a run in symbols; the twin of :class:`thermolinalg.Ledger`.

    Attributes
    ----------
    seconds, joules : Formulas
    """

    seconds: Formulas
    joules: Formulas

    @property
    def idle(self) -> sp.Expr:
        """Joules of the idle power over the whole run."""
        return R * P_idle * self.seconds.total

    @property
    def energy(self) -> sp.Expr:
        """Joules of the whole run, idle power included."""
        return self.joules.total + self.idle

    @property
    def break_even_duty(self) -> sp.Expr:
        """Duty below which idling takes more energy than all else."""
        return R * P_idle * (self.seconds.settle + self.seconds.average) / self.joules.total


def linear(*, sampled: bool = False) -> SymbolicLedger:
    """Return the ledger of a linear system of k right-hand sides.

    Parameters
    ----------
    sampled : bool
        Whether N samples are read in place of a continuous average.

    Examples
    --------
    >>> linear().seconds.program
    R*d**2*m*n_bits*w/r
    >>> linear(sampled=True).seconds.digital
    (N*R*d*k*m + n_flops)/r_host
    """
    numbers = m * d * k
    read = N * numbers if sampled else numbers
    # The host adds up samples and replicas; one number that is the answer already is added to nothing.
    added = R * read if sampled else sp.Piecewise((R * read, R > 1), (0, True))
    return _ledger(numbers, read, added + work, columns=k, sampled=sampled)


def moments(*, sampled: bool = False, states: int = 1, noise: bool = False) -> SymbolicLedger:
    """Return the ledger of an inverse, a Lyapunov equation or an exponential: of a run whose second moments are read.

    Parameters
    ----------
    sampled : bool
        Whether N samples are read in place of a continuous average.
    states : int, 1 or 2
        States that are read for one sample: 2 for products of two times.
    noise : bool
        Whether a covariance of the noise is written too.

    Raises
    ------
    ValueError
        If `states` is neither 1 nor 2.

    Examples
    --------
    >>> moments(sampled=True).seconds.read
    N*R*d*m*n_bits/r
    >>> moments().seconds.read
    R*d*m*n_bits*(d + 1)/(2*r)
    """
    if states not in (1, 2):
        raise ValueError(f"states must be 1 or 2, got {states}")
    if sampled:
        read, done = states * m * N * d, 2 * m**2 * R * N * d**2
    else:
        read = m * (d**2 if states == 2 else d * (d + 1) / 2)
        done = sp.Piecewise((R * read, R > 1), (0, True))
    return _ledger(m * d**2 if noise else sp.Integer(0), read, done + work, columns=sp.Integer(1), sampled=sampled)


def best_case_joules(resolution: Any, rate: Any) -> sp.Expr:
    """Return the energy of one conversion by the best converters published, of so many bits and conversions per second.

    Examples
    --------
    >>> f"{float(best_case_joules(8, 1e8)):.2g}"
    '4.8e-14'
    """
    distortion = sp.Rational(602, 100) * resolution + sp.Rational(176, 100)
    merit = sp.Min(sp.Rational(18014, 100), sp.Rational(30274, 100) - sp.Rational(6461, 1000) * sp.log(rate))
    return sp.Integer(10) ** ((distortion - merit) / 10) / 2


def settings(device: Any, host: Any) -> dict[sp.Symbol, Any]:
    """Return the numbers of a device and a host for the symbols: a device without a converter has one in no time."""
    parts = (device.matrix_dac, f_matrix, e_matrix), (device.force_dac, f_force, e_force), (device.adc, f_read, e_read)
    values: dict[sp.Symbol, Any] = {
        second: device.time_constant,
        bits: device.link.bits,
        link_rate: device.link.rate,
        e_bit: device.link.joules,
        P_cell: device.cell_power,
        P_idle: device.idle_power,
        r_host: host.rate,
        e_flop: host.joules,
    }
    for converter, rate, joules in parts:
        if converter is None:
            values |= {rate: sp.oo, joules: 0}
            continue
        given = converter.joules
        best = best_case_joules(converter.bits, converter.rate)
        values |= {rate: converter.rate, joules: best if given is None else given}
    return values


def _ledger(loaded: sp.Expr, read: sp.Expr, flops: sp.Expr, *, columns: sp.Expr, sampled: bool) -> SymbolicLedger:
    """The ledger of a run by the numbers that one replica moves, and the operations of the host."""
    couplings = m * w * d**2
    transfer, bit = R * bits / link_rate, R * bits * e_bit
    settle, average = (columns * second * clock * time for time in (t0, tau))
    # A cell has converters of its own. Samples are converted while it runs, as far as converters keep up.
    lag = read / (d * f_read)
    lag = sp.Max(lag - average, 0) if sampled else lag
    seconds = Formulas(
        transfer * couplings,
        transfer * loaded,
        settle,
        average,
        transfer * read,
        couplings / (d * f_matrix) + loaded / (d * f_force) + lag,
        flops / r_host,
    )
    watts = R * d * P_cell
    joules = Formulas(
        bit * couplings,
        bit * loaded,
        watts * settle,
        watts * average,
        bit * read,
        R * (couplings * e_matrix + loaded * e_force + read * e_read),
        flops * e_flop,
    )
    return SymbolicLedger(seconds, joules)
