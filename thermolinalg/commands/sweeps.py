"""Sweeps: the error of a verb over bits, noise, mismatch, time or condition number, and what it is made of."""

import csv
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from io import StringIO
from math import inf
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import thermolinalg as tla
from thermolinalg.commands.devices import Hardware, facts_of
from thermolinalg.commands.job import times
from thermolinalg.commands.session import Operand, Session
from thermolinalg.files import write_bytes
from thermolinalg.primitives.checks import check_follows
from thermolinalg.report import plain


class Quantity(StrEnum):
    """What a sweep varies."""

    bits = "bits"
    noise = "noise"
    mismatch = "mismatch"
    time = "time"
    kappa = "kappa"


class Primitive(StrEnum):
    """What a sweep computes."""

    solve = "solve"
    inv = "inv"


_RANGES = {
    Quantity.bits: (4.0, 16.0),
    Quantity.noise: (1e-6, 1.0),
    Quantity.mismatch: (1e-5, 1e-1),
    Quantity.kappa: (2.0, 1e3),
}
_RTOL = {Primitive.solve: 1e-3, Primitive.inv: 1e-2}
_LABELS = {
    Quantity.bits: "Bits of the converters",
    Quantity.noise: "Thermal noise, 1/beta",
    Quantity.mismatch: "Mismatch, relative standard deviation of a coupling",
    Quantity.time: "Device time (time constants)",
    Quantity.kappa: "Condition number",
}
COLUMNS = ("value", "median", "low", "high", "rms", "predicted_rms", "systematic", "start", "failed", "flags")
"""Of the table: the value, median, 5 % and 95 % quantile and root mean square of the relative error; what was predicted
of it, and of that the parts of device and start, root mean square; the fraction of runs without an answer; flags."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that is checked and planned.

    Attributes
    ----------
    session : Session
    what : Quantity
    primitive : Primitive
    hardware : Hardware
        As it was asked for.
    device : Device
        The same with the part that the sweep varies.
    plan : Plan
        For a perfect device with these dynamics and this temperature.
    given : Array, shape (d, d), or None
        The matrix; None for random ones.
    name : str
        Of the matrix.
    dim : int
    kappa : float
        Condition number of random matrices.
    """

    session: Session
    what: Quantity
    primitive: Primitive
    hardware: Hardware
    device: tla.Device
    plan: tla.Plan
    given: jax.Array | None
    name: str
    dim: int
    kappa: float

    @classmethod
    def prepare(
        cls,
        session: Session,
        what: Quantity,
        primitive: Primitive,
        hardware: Hardware,
        a: Path | None,
        dim: int | None,
        kappa: float | None,
        rtol: float | None,
    ) -> "Sweep":
        jax.config.update("jax_enable_x64", True)
        swept = {"bits": hardware.bits, "mismatch": hardware.mismatch, "noise": hardware.beta, "kappa": kappa}
        if swept.get(what) is not None:
            option = "beta" if what is Quantity.noise else str(what)
            raise ValueError(f"--{option} is what this sweep varies; leave it out, and give --from and --to")
        if what is Quantity.noise and primitive is Primitive.inv:
            raise ValueError("an inverse is read from the noise itself: its error does not depend on the temperature")
        if a is not None and (what is Quantity.kappa or kappa is not None or dim is not None):
            raise ValueError("A brings its own size and condition number; leave out A, or kappa and --dim")
        if kappa is not None and not 1 <= kappa < inf:
            raise ValueError(f"kappa must be at least 1, got {kappa}")
        # Any value will do for now: what is swept has to be there.
        present = hardware
        if what is Quantity.bits:
            present = replace(hardware, bits=1)
        elif what is Quantity.mismatch:
            present = replace(hardware, mismatch=0.0)
        device = present.build()
        if primitive is Primitive.solve:
            check_follows(device.dynamics, "solve")
        perfect = replace(device, matrix_dac=None, force_dac=None, adc=None, chip=None)
        given, name, condition = None, "random", 10.0 if kappa is None else kappa
        if a is not None:
            operand = session.read(a)
            given, name = jnp.asarray(operand.dense), operand.name
            size = given.shape[0]
        else:
            size = dim if dim is not None else min(32, device.cells or 32)
        first = given if given is not None else _matrices(_key(session, 0), condition, 1, size, _capacitive(device))[0]
        program = session.program(Operand(name, np.asarray(first)), tla.as_operator(first), perfect)
        goal = _RTOL[primitive] if rtol is None else rtol

        def plan() -> tla.Plan:
            if primitive is Primitive.inv:
                return tla.plan.inv(program, rtol=goal)
            return tla.plan.solve(program, jnp.ones(size), rtol=goal)

        return cls(session, what, primitive, hardware, device, session.plan(plan), given, name, size, condition)

    def carry_out(
        self, low: float | None, high: float | None, points: int, repeats: int, out: Path | None, plot: Path | None
    ) -> dict[str, Any]:
        """Run at every value, write the files, and return all there is to say."""
        values, rows = self._values(low, high, points), []
        for number, value in enumerate(values, 1):
            with self.session.phase("sweep", f"Point {number} of {len(values)}: {self.what} {value:.4g}"):
                rows.append(self._row(number, float(value), repeats))
        limits = [self._limit(rows[0]), self._limit(rows[-1])]
        settings = {"what": str(self.what), "primitive": str(self.primitive), "repeats": repeats}
        matrix = {"matrix": self.name, "unknowns": self.dim, "kappa": self.kappa if self.given is None else None}
        report = {
            "sweep": settings | matrix,
            "device": self._fixed() | self.hardware.facts,
            "plan": times(self.plan),
            "rows": rows,
            "limits": limits,
            "simulation_s": self.session.seconds,
            "out": None if out is None else str(out),
            "plot": None if plot is None else str(plot),
        }
        if plot is not None:
            from thermolinalg.figures import png, sweep_figure

            with self.session.phase("plot", "Drawing"):
                figure = sweep_figure(rows, self._title(repeats), _LABELS[self.what], self.what is not Quantity.bits)
                write_bytes(plot, png(figure))
        if out is not None:
            write_bytes(out, as_csv(rows))
        return plain(report)

    def _values(self, low: float | None, high: float | None, points: int) -> np.ndarray:
        total = float(self.plan.time_constants)
        first, last = (0.01 * total, 10 * total) if self.what is Quantity.time else _RANGES[self.what]
        first, last = first if low is None else low, last if high is None else high
        least = 1.0 if self.what in (Quantity.bits, Quantity.kappa) else 0.0
        for name, value in (("--from", first), ("--to", last)):
            if not least <= value < inf or value == 0:
                at_least = "positive" if least == 0 else "at least 1"
                raise ValueError(f"{self.what} must be {at_least}, got {name} {value:g}")
        if first >= last:
            raise ValueError(f"--from must be less than --to, got {first:g} and {last:g}")
        if self.what is not Quantity.bits:
            return np.geomspace(first, last, points)
        if first != round(first) or last != round(last):
            raise ValueError(f"bits must be whole numbers, got {first:g} to {last:g}")
        return np.unique(np.round(np.linspace(first, last, points)))

    def _fixed(self) -> dict[str, Any]:
        """What a report says of the device, without what is swept."""
        facts = facts_of(self.device)
        if self.what is Quantity.bits:
            facts["bits"] = dict.fromkeys(facts["bits"])
        elif self.what is Quantity.mismatch:
            facts["mismatch"] = None
        elif self.what is Quantity.noise:
            facts["beta"] = None
        return facts

    def _turned(self, value: float) -> tla.Device:
        """The device at one value of the sweep."""
        device = self.device
        if self.what is Quantity.bits:
            parts = {name: getattr(device, name) for name in ("matrix_dac", "force_dac", "adc")}
            fine = {name: replace(part, bits=value) for name, part in parts.items() if part is not None}
            return replace(device, **fine)
        if self.what is Quantity.noise:
            return replace(device, beta=1 / value)
        if self.what is Quantity.mismatch:
            assert device.chip is not None  # prepare() made sure
            return replace(device, chip=replace(device.chip, mismatch=value))
        return device

    def _row(self, number: int, value: float, repeats: int) -> dict[str, Any]:
        """Errors at one value."""
        scale = value / float(self.plan.time_constants) if self.what is Quantity.time else 1.0
        plan = replace(self.plan, burn_in=scale * self.plan.burn_in, duration=scale * self.plan.duration)
        if self.given is None:
            kappa = value if self.what is Quantity.kappa else self.kappa
            matrices = _matrices(_key(self.session, 0), kappa, repeats, self.dim, _capacitive(self.device))
        else:
            matrices = jnp.broadcast_to(self.given, (repeats, *self.given.shape))
        chips = jax.random.split(jax.random.key(self.hardware.chip_seed or 0), repeats)
        keys = jax.random.split(_key(self.session, number), repeats)
        errors, predicted, systematic, start, status = (
            np.asarray(part) for part in _runs(self.primitive, self._turned(value), plan, matrices, chips, keys)
        )
        good = np.isfinite(errors)
        low, median, high = np.quantile(errors, [0.05, 0.5, 0.95], method="nearest")

        def root(parts: np.ndarray) -> float:
            return float(np.sqrt(np.mean(parts[good] ** 2))) if good.any() else inf

        flags = tla.Status(int(np.bitwise_or.reduce(status)))
        names = [flag.name for flag in tla.Status if flag and flag in flags]
        found = (value, median, low, high, root(errors), root(predicted), root(systematic), root(start))
        return dict(zip(COLUMNS, (*map(float, found), float(np.mean(~good)), names), strict=True))

    def _limit(self, row: dict[str, Any]) -> str:
        """What most of the predicted mean square error comes from."""
        where = f"at {self.what} {row['value']:.4g}"
        if row["failed"] > 0.5:
            return f"{where} what the device makes of A is not positive definite"
        whole = row["predicted_rms"] ** 2
        device, start = row["systematic"] ** 2 / whole, row["start"] ** 2 / whole
        makers = [] if self.device.exact else self._makers()
        shares = {" and ".join(makers) or "the device": device, "the start": start, "thermal noise": 1 - device - start}
        name, share = max(shares.items(), key=lambda item: item[1])
        return f"{where} {name}, {100 * share:.0f} % of the mean square error"

    def _makers(self) -> list[str]:
        parts = (self.device.matrix_dac, self.device.force_dac, self.device.adc)
        converters = ["converters"] if any(part is not None for part in parts) else []
        return converters + (["mismatch"] if self.device.chip is not None else [])

    def _title(self, repeats: int) -> str:
        matrix = f"{self.name}: {self.dim} unknowns"
        if self.given is None:
            known = "" if self.what is Quantity.kappa else f", condition number {self.kappa:g}"
            matrix = f"random matrices of {self.dim} unknowns{known}"
        return f"{self.primitive} on {self.hardware.preset}, {matrix}, {repeats} runs each"


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """The table as a file; flags are joined by bars."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(["|".join(row[name]) if name == "flags" else repr(row[name]) for name in COLUMNS])
    return text.getvalue().encode()


def _key(session: Session, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(session.seed), stream)


def _capacitive(device: tla.Device) -> bool:
    return isinstance(device.dynamics, tla.Capacitive)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _matrices(key: jax.Array, kappa: float, count: int, dim: int, capacitive: bool) -> jax.Array:
    """Random matrices with eigenvalues from 1/kappa to 1, shape (count, d, d).

    Those for capacitors are Maxwell matrices of random capacitances between all cells, and the same to ground for each;
    others have eigenvalues in geometric progression, and random eigenvectors.
    """
    low, eye = 1 / jnp.asarray(kappa, float), jnp.eye(dim)

    def network(key: jax.Array) -> jax.Array:
        between = jnp.triu(jax.random.uniform(key, (dim, dim), minval=0.5), 1)
        between = between + between.T
        laplacian = jnp.diag(jnp.sum(between, axis=1)) - between
        return low * eye + (1 - low) * laplacian / jnp.linalg.eigvalsh(laplacian)[-1]

    def rotated(key: jax.Array) -> jax.Array:
        basis, triangle = jnp.linalg.qr(jax.random.normal(key, (dim, dim)))
        # With these signs the basis is uniformly distributed.
        basis = basis * jnp.sign(jnp.diagonal(triangle))[None]
        rates = low ** jnp.linspace(0.0, 1.0, dim)
        matrix = (basis * rates[None]) @ basis.T
        return (matrix + matrix.T) / 2

    return jax.lax.map(network if capacitive else rotated, jax.random.split(key, count))


@partial(jax.jit, static_argnums=0)
def _runs(
    primitive: Primitive,
    device: tla.Device,
    plan: tla.Plan,
    matrices: jax.Array,
    chips: jax.Array,
    keys: jax.Array,
) -> tuple[jax.Array, ...]:
    """Relative error of each run, what was predicted of it, the parts of device and start in that, and flags."""
    dim = matrices.shape[-1]
    force = jnp.ones((dim, 1), matrices.dtype)

    def run(case: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        matrix, chip, key = case
        own = device if device.chip is None else replace(device, chip=replace(device.chip, key=chip))
        program = own.program(matrix, key=key)
        start = jnp.zeros((), matrix.dtype)
        if primitive is Primitive.solve:
            solution, truth = tla.solve(program, force, key=key, plan=plan), jnp.linalg.solve(matrix, force)
            push, _ = own.load(force, key)
            start = jnp.linalg.norm(program.respond(push, plan.schedule) - program.machine.operator.solve(push))
        else:
            solution, truth = tla.inv(program, key=key, plan=plan), jnp.linalg.inv(matrix)
        systematic = solution.stats.get("systematic", jnp.zeros_like(solution.stderr))
        length = jnp.linalg.norm(truth)
        error = jnp.linalg.norm(solution.value - truth) / length
        lost = solution.status & int(tla.Status.NOT_POSITIVE_DEFINITE | tla.Status.NOT_FINITE)
        parts = [jnp.linalg.norm(solution.stderr), jnp.linalg.norm(systematic), start]
        return jnp.where(lost == 0, error, jnp.inf), *(part / length for part in parts), solution.status

    # One after another: of the ways to draw a covariance only the one that is needed runs.
    return jax.lax.map(run, (matrices, chips, keys))
