"""Inverses, Lyapunov equations and exponentials as jobs of the command line: the answer is a matrix."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import thermolinalg as tla
from thermolinalg.commands.job import described, share, told
from thermolinalg.commands.session import Operand, Session
from thermolinalg.drifts import as_drift

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SCALES = (0.1, 10**-0.5, 1.0, 10**0.5, 10.0)
"""Lengths of the runs of a figure, against the planned one."""


@dataclass(frozen=True)
class Inverse:
    """Inverses."""

    session: Session
    operand: Operand
    program: tla.Program
    plan: tla.Plan
    method = "Cholesky factorisation and solve for all columns"

    @classmethod
    def prepare(cls, session: Session, a: Path, device: tla.Device, rtol: float, confidence: float) -> "Inverse":
        operand = session.read(a)
        operator = tla.as_operator(operand.dense)
        session.check_drawable(operator.dim)
        program = session.program(operand, operator, device)
        return cls(
            session, operand, program, session.plan(lambda: tla.plan.inv(program, rtol=rtol, confidence=confidence))
        )

    @property
    def dim(self) -> int:
        return self.program.operator.dim

    def run(self, key: jax.Array) -> tla.Solution:
        return tla.inv(self.program, key=key, plan=self.plan)

    def exact(self) -> np.ndarray:
        return inverse(self.operand.exact)

    def describe(self) -> dict[str, Any]:
        components = self.program.operator.components
        ledger = tla.cost_moments(self.plan, self.program.device, dim=self.dim, components=components)
        return described(self.operand, {}, self.program.device, self.plan, ledger, self.program.spectrum)

    def answer(self, solution: tla.Solution, truth: np.ndarray | None) -> dict[str, Any]:
        return {"systematic": share(solution), "lapack": _matrix_errors(solution, truth)}

    def draw(self, solution: tla.Solution, truth: np.ndarray, key: jax.Array) -> "Figure":
        def estimate(program: tla.Program, key: jax.Array, scale: jax.Array) -> tla.Solution:
            plan = replace(self.plan, burn_in=scale * self.plan.burn_in, duration=scale * self.plan.duration)
            return tla.inv(program, key=key, plan=plan)

        title = f"Inverse of {self.operand.name}: {self.dim} unknowns"
        second = self.program.device.time_constant
        return _matrix_figure(estimate, self.program, truth, self.plan, 0.0, title, second, key)


@dataclass(frozen=True)
class _Drift:
    """A matrix that need not be symmetric, and the process it drives."""

    session: Session
    operand: Operand
    drift: jax.Array
    plan: tla.Plan
    device: tla.Device

    @property
    def dim(self) -> int:
        return self.drift.shape[0]

    def answer(self, solution: tla.Solution, truth: np.ndarray | None) -> dict[str, Any]:
        return {"systematic": share(solution), "lapack": _matrix_errors(solution, truth)}

    def _described(self, problem: dict[str, Any], noise: bool, states: int) -> dict[str, Any]:
        """With or without a covariance of the noise to write, and so many states that are read for one sample."""
        # Real and imaginary parts of a drift are cells of their own.
        dim = (2 if np.iscomplexobj(self.drift) else 1) * self.dim
        ledger = tla.cost_moments(self.plan, self.device, dim=dim, loaded=dim**2 if noise else 0, states=states)
        return described(self.operand, problem, self.device, self.plan, ledger)

    def _scaled(self, scale: jax.Array) -> tla.Plan:
        """The plan with another number of samples, as far apart as before."""
        planned = jnp.asarray(self.plan.samples)
        samples = jnp.maximum(jnp.round(scale.astype(planned.dtype) * planned), 1)
        return replace(self.plan, samples=samples, duration=self.plan.duration * (samples / planned))


@dataclass(frozen=True)
class Lyapunov(_Drift):
    """Lyapunov equations."""

    given: str | None
    diffusion: np.ndarray
    method = "Bartels-Stewart: Schur form and back substitution"

    @classmethod
    def prepare(
        cls, session: Session, a: Path, q: Path | None, device: tla.Device, rtol: float, confidence: float
    ) -> "Lyapunov":
        operand = session.read(a)
        drift = as_drift(operand.dense)
        session.check_drawable(drift.shape[0])
        right = session.dtype.cast(np.eye(drift.shape[0])) if q is None else session.read(q).dense
        plan = session.plan(lambda: tla.plan.lyapunov(drift, right, rtol=rtol, confidence=confidence, device=device))
        return cls(session, operand, drift, plan, _unscaled(device), None if q is None else q.name, right)

    def run(self, key: jax.Array) -> tla.Solution:
        return tla.lyapunov(self.drift, self.diffusion, key=key, plan=self.plan, device=self.device)

    def exact(self) -> np.ndarray:
        from scipy.linalg import solve_continuous_lyapunov

        return solve_continuous_lyapunov(self.operand.exact, Operand("Q", self.diffusion).exact)

    def describe(self) -> dict[str, Any]:
        return self._described({"diffusion": self.given}, noise=True, states=1)

    def draw(self, solution: tla.Solution, truth: np.ndarray, key: jax.Array) -> "Figure":
        def estimate(operands: tuple[jax.Array, jax.Array], key: jax.Array, scale: jax.Array) -> tla.Solution:
            return tla.lyapunov(*operands, key=key, plan=self._scaled(scale), device=self.device)

        title = f"Lyapunov equation of {self.operand.name}: {self.dim} unknowns"
        fixed, second = float(self.plan.burn_in), self.device.time_constant
        operands = self.drift, jnp.asarray(self.diffusion)
        return _matrix_figure(estimate, operands, truth, self.plan, fixed, title, second, key)


@dataclass(frozen=True)
class Exponential(_Drift):
    """Matrix exponentials."""

    time: float
    shift: float | None
    method = "Padé approximation, scaling and squaring"

    @classmethod
    def prepare(
        cls,
        session: Session,
        a: Path,
        device: tla.Device,
        time: float,
        shift: float | None,
        rtol: float,
        confidence: float,
    ) -> "Exponential":
        operand = session.read(a)
        drift = as_drift(operand.dense)
        session.check_drawable(drift.shape[0])

        def plan() -> tla.Plan:
            return tla.plan.expm(drift, time, shift=shift, device=device, rtol=rtol, confidence=confidence)

        return cls(session, operand, drift, session.plan(plan), _unscaled(device), time, shift)

    def run(self, key: jax.Array) -> tla.Solution:
        return tla.expm(self.drift, self.time, shift=self.shift, key=key, plan=self.plan, device=self.device)

    def exact(self) -> np.ndarray:
        from scipy.linalg import expm

        return expm(self.time * self.operand.exact)

    def describe(self) -> dict[str, Any]:
        return self._described({"time": self.time, "shift": self.shift}, noise=False, states=2)

    def draw(self, solution: tla.Solution, truth: np.ndarray, key: jax.Array) -> "Figure":
        def estimate(drift: jax.Array, key: jax.Array, scale: jax.Array) -> tla.Solution:
            plan = self._scaled(scale)
            return tla.expm(drift, self.time, shift=self.shift, key=key, plan=plan, device=self.device)

        title = f"Exponential of {self.time:g} times {self.operand.name}: {self.dim} unknowns"
        fixed, second = float(self.plan.burn_in), self.device.time_constant
        return _matrix_figure(estimate, self.drift, truth, self.plan, fixed, title, second, key)


def _unscaled(device: tla.Device) -> tla.Device:
    """The device at the temperature at which the noise is that of the problem."""
    return replace(device, beta=1.0)


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Inverse of a positive definite matrix by LAPACK."""
    from scipy.linalg import cho_factor, cho_solve

    return cho_solve(cho_factor(matrix), np.eye(matrix.shape[0], dtype=matrix.dtype))


def _matrix_errors(solution: tla.Solution, truth: np.ndarray | None) -> dict[str, Any] | None:
    """Relative error in the Frobenius norm, measured and predicted, and errors of entries in standard errors."""
    if truth is None:
        return None
    error, stderr = np.abs(np.asarray(solution.value) - truth), np.asarray(solution.stderr)
    length = np.linalg.norm(truth)
    scale = length if length > 0 else 1.0
    # An entry without a standard error is exact to rounding.
    z = error[stderr > 0] / stderr[stderr > 0]
    return {
        "relative_error": np.linalg.norm(error) / scale,
        "predicted_rms": np.linalg.norm(stderr) / scale,
        "rms_z": np.sqrt(np.mean(z**2)) if z.size else None,
        "max_z": np.max(z) if z.size else None,
    }


def _matrix_figure(
    estimate: Callable[[Any, jax.Array, jax.Array], tla.Solution],
    operands: Any,
    truth: np.ndarray,
    plan: tla.Plan,
    fixed: float,
    title: str,
    time_constant: float,
    key: jax.Array,
) -> "Figure":
    """Relative error against device time; `fixed` is the part of the time that all lengths share."""
    from thermolinalg.figures import repeated_errors, repeated_figure

    if not np.any(truth):
        raise ValueError("--plot shows relative errors, and the exact answer is zero")
    clock, real = float(plan.clock), jnp.asarray(plan.duration).dtype
    ends = [clock * (fixed + scale * (float(plan.total) - fixed)) for scale in _SCALES]

    def sweep(operands: Any, keys: jax.Array) -> tuple[jax.Array, ...]:
        def run(case: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
            return told(estimate(operands, *case))

        return jax.lax.map(run, (keys, jnp.asarray(_SCALES, real)))

    runs = repeated_errors(sweep, operands, truth, ends, key=key, relative=True)
    across = f"Device time (time constants of {time_constant * 1e6:g} µs)"
    planned = "planned time", float(plan.time_constants)
    rtol = None if plan.rtol is None else float(plan.rtol)
    return repeated_figure(runs, title, across, "Relative error, Frobenius norm", planned, rtol)
