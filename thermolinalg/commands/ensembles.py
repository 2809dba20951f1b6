"""Log determinants and samples as jobs of the command line: what is read is an ensemble of states."""

from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import thermolinalg as tla
from thermolinalg.commands.job import described, times, told
from thermolinalg.commands.matrices import inverse
from thermolinalg.commands.session import Operand, Precision, Session
from thermolinalg.covariances import FORGOTTEN, overlap
from thermolinalg.free_energy import Estimator
from thermolinalg.operators import as_block
from thermolinalg.report import attributes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LogDeterminant:
    """Log determinants."""

    session: Session
    operand: Operand
    program: tla.Program
    estimator: Estimator
    samples: int
    reference: float | None
    method = "Cholesky factorisation"

    @classmethod
    def prepare(
        cls,
        session: Session,
        a: Path,
        device: tla.Device,
        estimator: Estimator,
        samples: int,
        reference: float | None,
    ) -> "LogDeterminant":
        operand = session.read(a)
        operator = tla.as_operator(operand.matrix)
        session.check_drawable(operator.dim)
        program = session.program(operand, operator, device)
        return cls(session, operand, program, estimator, samples, reference)

    @property
    def dim(self) -> int:
        return self.program.operator.dim

    def run(self, key: jax.Array) -> tla.Solution:
        return self._estimate(key, self.samples)

    def exact(self) -> np.ndarray:
        from scipy.linalg import cholesky

        return np.asarray(2 * np.sum(np.log(np.diagonal(cholesky(self.operand.exact)).real)))

    def describe(self) -> dict[str, Any]:
        problem = {"samples": self.samples, "estimator": type(self.estimator).__name__}
        return described(self.operand, problem, self.program.device, spectrum=self.program.spectrum)

    def answer(self, solution: tla.Solution, truth: np.ndarray | None) -> dict[str, Any]:
        stats, spectrum = solution.stats, self.program.spectrum
        assert spectrum is not None
        samples = int(np.sum(stats["samples"]))
        fastest = self.program.machine.dynamics.clock(jnp.maximum(spectrum.maximum, stats["reference"]))
        plan = tla.Plan(0.0, stats["device_time"], samples, clock=fastest)
        names = ["reference", "nodes", "thermal", "bias", "survey"]
        names += [name for name in ("systematic",) if name in stats]
        value, stderr = float(solution.value), float(solution.stderr)
        lapack = None
        if truth is not None:
            error = value - float(truth)
            lapack = {"value": float(truth), "error": error, "z": error / stderr if stderr > 0 else None}
        estimate = {"value": value, "stderr": stderr} | {name: stats[name] for name in names}
        prices = attributes(tla.cost_of(solution, self.program).seconds, "total")
        return {"estimate": estimate, "lapack": lapack, "plan": times(plan), "device_s": prices}

    def draw(self, solution: tla.Solution, truth: np.ndarray, key: jax.Array) -> "Figure":
        from thermolinalg.figures import repeated_errors, repeated_figure

        counts = sorted({max(round(scale * self.samples), min(self.samples, 128)) for scale in (0.01, 0.1, 1.0)})

        def sweep(_: tuple[()], keys: jax.Array) -> tuple[jax.Array, ...]:
            solutions = [self._estimate(key, n) for key, n in zip(keys, counts, strict=True)]
            return tuple(jnp.stack(parts) for parts in zip(*map(told, solutions), strict=True))

        runs = repeated_errors(sweep, (), truth, counts, key=key)
        title = f"Log determinant of {self.operand.name}: {self.dim} unknowns"
        return repeated_figure(runs, title, "Samples", "Error", ("given number", self.samples), None)

    def _estimate(self, key: jax.Array, samples: int) -> tla.Solution:
        return tla.logdet(self.program, key=key, samples=samples, estimator=self.estimator, reference=self.reference)


@dataclass(frozen=True)
class Samples:
    """Samples of a Gaussian law."""

    session: Session
    operand: Operand
    given: str | None
    force: np.ndarray
    program: tla.Program
    plan: tla.Plan
    path: bool
    method = "Cholesky factorisation and inverse"

    @classmethod
    def prepare(
        cls,
        session: Session,
        a: Path,
        b: Path | None,
        device: tla.Device,
        count: int,
        path: bool,
        burn_in: float | None,
        spacing: float | None,
    ) -> "Samples":
        if not path and (burn_in is not None or spacing is not None):
            raise ValueError("--burn-in and --spacing are times of a path; give --path too, or leave them out")
        operand = session.read(a)
        operator = tla.as_operator(operand.matrix)
        force = session.dtype.cast(np.zeros(operator.dim)) if b is None else session.read_force(b, operator.dim)
        if as_block(force, operator, "b").shape[1] != 1:
            raise ValueError(f"b must be one vector, got shape {force.shape}")
        session.check_drawable(operator.dim)
        program = session.program(operand, operator, device)
        spectrum, dynamics = program.spectrum, program.machine.dynamics
        assert spectrum is not None  # the exact law cannot do without
        slowest = float(jnp.min(dynamics.relaxation(jnp.stack([spectrum.minimum, spectrum.maximum]))))
        alone = log(1 / FORGOTTEN) / (2 * slowest)
        wait = spacing if spacing is not None else 1 / slowest if path else alone
        settle = burn_in if burn_in is not None else 3 * alone if path else 0.0
        clock = dynamics.clock(spectrum.maximum)
        plan = session.plan(lambda: tla.Plan(settle, count * wait, count, clock=clock))
        return cls(session, operand, None if b is None else b.name, force, program, plan, path)

    @property
    def dim(self) -> int:
        return self.program.operator.dim

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(np.asarray(self.plan.samples))

    def run(self, key: jax.Array) -> tla.Solution:
        if self.path:
            return tla.gaussian(self.program, self.force, key=key, plan=self.plan)
        return tla.gaussian(self.program, self.force, key=key, samples=self.count)

    def exact(self) -> np.ndarray:
        return inverse(self.operand.exact) / float(self.program.device.beta)

    def describe(self) -> dict[str, Any]:
        loaded = 0 if self.given is None else self.dim
        ledger = tla.cost(
            *(self.plan, self.program.device),
            dim=self.dim,
            loaded=loaded,
            read=self.count * self.dim,
            components=self.program.operator.components,
        )
        problem = {"right_hand_side": self.given, "samples": self.count, "path": self.path}
        return described(self.operand, problem, self.program.device, self.plan, ledger, self.program.spectrum)

    def answer(self, solution: tla.Solution, truth: np.ndarray | None) -> dict[str, Any]:
        shared = self._shared(truth)
        parts = {"check": self._check(solution, truth, shared), "systematic": None, "lapack": None}
        if truth is None or shared is None:
            return parts
        away, components = self._away(solution, truth), self.program.operator.components
        rates = np.linalg.eigvalsh(self.operand.exact) * float(self.program.device.beta)
        variance = shared / rates[:, None] / rates[None]
        # For real samples an entry on the diagonal has twice the variance.
        spread = np.sqrt(np.sum(variance) + (np.trace(variance) if components == 1 else 0.0))
        found, length = away.T @ away.conj() / self.count / components, np.linalg.norm(truth)
        shift = np.linalg.norm(self._shift(solution, truth))
        errors = {
            "relative_error": np.linalg.norm(found - truth) / length,
            "predicted_rms": np.hypot(spread, shift) / length,
        }
        systematic = None if self.program.device.exact else shift / length
        return parts | {"systematic": systematic, "lapack": errors}

    def draw(self, solution: tla.Solution, truth: np.ndarray, key: jax.Array) -> "Figure":
        from thermolinalg.figures import energy_figure

        what = "along a path" if self.path else "independent"
        title = f"{self.count} samples, {what}, of the Gaussian law of {self.operand.name}: {self.dim} unknowns"
        energies = self._energies(self._away(solution, truth))
        return energy_figure(energies, self.dim * self.program.operator.components, title)

    def _away(self, solution: tla.Solution, truth: np.ndarray | None) -> np.ndarray:
        """Samples without their exact mean, shape (n, d)."""
        force = self.force.reshape(-1)
        mean = solution.stats["mean"] if truth is None else float(self.program.device.beta) * (truth @ force)
        return Precision.float64.cast(np.asarray(solution.value)) - np.asarray(mean)[None]

    def _shift(self, solution: tla.Solution, truth: np.ndarray) -> np.ndarray:
        """What couplings as they are written and a converter make of the covariance, less what it is to be, (d, d)."""
        device, operator = self.program.device, self.program.machine.operator
        if device.exact:
            return np.zeros((self.dim, self.dim))
        held = np.asarray(operator.solve(jnp.eye(self.dim, dtype=operator.dtype))) / float(device.beta)
        if device.adc is not None:
            states = np.asarray(solution.value)
            largest = max(np.max(np.abs(states.real)), np.max(np.abs(states.imag)))
            held = held + np.eye(self.dim) * float(device.adc.variance(device.adc.scale(jnp.asarray(largest))))
        return held - truth

    def _energies(self, away: np.ndarray) -> np.ndarray:
        """Twice the energy of each sample over the temperature: chi-square, with the degrees of freedom of a state."""
        return float(self.program.device.beta) * np.sum(away.T.conj() * (self.operand.double @ away.T), 0).real

    def _shared(self, truth: np.ndarray | None) -> np.ndarray | None:
        """What an average over all samples leaves of the variance of products of two modes, shape (d, d)."""
        if not self.path:
            return np.full((self.dim, self.dim), 1 / self.count) if truth is not None else None
        if truth is None:
            return None
        memory = self.program.machine.dynamics.memory(jnp.asarray(np.linalg.eigvalsh(self.operand.exact)))
        return np.asarray(overlap(memory, memory, self.plan.duration, self.count))

    def _check(self, solution: tla.Solution, truth: np.ndarray | None, shared: np.ndarray | None) -> dict[str, Any]:
        """Whether samples have the energy, and independent ones the mean, of the law they are to follow."""
        from scipy.special import chdtr, chdtrc

        away, each = self._away(solution, truth), self.dim * self.program.operator.components
        energies, mean = self._energies(away), None
        degrees = None if self.path else self.count * each
        if self.path and shared is not None:
            # A chi-square with the mean and the variance of the energy of a path, whose samples are correlated.
            degrees = each * self.dim / np.trace(shared)
        energy = {"per_degree": np.mean(energies) / each, "degrees": degrees, "p_value": None}
        if degrees is not None:
            statistic = degrees * energy["per_degree"]
            energy["p_value"] = 2 * min(chdtr(degrees, statistic), chdtrc(degrees, statistic))
        if not self.path:
            statistic = self.count * self._energies(np.mean(away, 0)[None])[0]
            mean = {"statistic": statistic, "degrees": each, "p_value": chdtrc(each, statistic)}
        values = [part["p_value"] for part in (energy, mean) if part is not None]
        known = None not in values
        return {"energy": energy, "mean": mean, "passed": min(values) >= 0.01 / len(values) if known else None}
