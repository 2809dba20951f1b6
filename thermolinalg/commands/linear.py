"""Linear systems as a job of the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import thermolinalg as tla
from thermolinalg.commands.job import described, share
from thermolinalg.commands.session import Operand, Session
from thermolinalg.operators import as_block
from thermolinalg.plan import Budget
from thermolinalg.primitives.checks import check_follows
from thermolinalg.report import attributes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class System:
    """A linear system whose matrix is written to a device."""

    session: Session
    operand: Operand
    given: str | None
    force: np.ndarray
    program: tla.Program

    @classmethod
    def read(cls, session: Session, a: Path, b: Path | None, device: tla.Device) -> "System":
        from thermolinalg.figures import check_curve

        check_follows(device.dynamics, "solve")
        operand = session.read(a)
        operator = tla.as_operator(operand.matrix)
        force = session.read_force(b, operator.dim)
        as_block(force, operator, "b")
        if session.drawn:
            check_curve(operator, force)
        session.check_drawable(operator.dim)
        return cls(session, operand, None if b is None else b.name, force, session.program(operand, operator, device))

    @property
    def dim(self) -> int:
        return self.program.operator.dim

    @property
    def columns(self) -> int:
        return int(self.force[0].size)

    @property
    def title(self) -> str:
        """Of a figure."""
        assert self.program.spectrum is not None  # the exact law cannot do without
        kappa = float(self.program.spectrum.kappa)
        return f"{self.operand.name}: {self.dim} unknowns, condition number {kappa:.3g}"

    def price(self, plan: tla.Plan) -> tla.Ledger:
        """What a run of this plan costs."""
        components = self.program.operator.components
        return tla.cost(plan, self.program.device, dim=self.dim, columns=self.columns, components=components)

    def describe(self, plan: tla.Plan) -> dict[str, Any]:
        """What is known before a run of this plan."""
        ledger = self.price(plan)
        problem = {"right_hand_side": self.given, "columns": self.columns}
        return described(self.operand, problem, self.program.device, plan, ledger, self.program.spectrum)


@dataclass(frozen=True)
class Solve:
    """Linear systems by averaging."""

    system: System
    plan: tla.Plan
    method = "Cholesky factorisation and solve"

    @classmethod
    def prepare(
        cls,
        session: Session,
        a: Path,
        b: Path | None,
        device: tla.Device,
        rtol: float | None,
        confidence: float,
        budget: Budget | None = None,
        replicas: int = 1,
    ) -> "Solve":
        system = System.read(session, a, b, device)

        def plan() -> tla.Plan:
            return tla.plan.solve(
                *(system.program, system.force), rtol=rtol, budget=budget, confidence=confidence, replicas=replicas
            )

        return cls(system, session.plan(plan))

    @property
    def session(self) -> Session:
        return self.system.session

    @property
    def dim(self) -> int:
        return self.system.dim

    def run(self, key: jax.Array) -> tla.Solution:
        return tla.solve(self.system.program, self.system.force, key=key, plan=self.plan)

    def exact(self) -> np.ndarray:
        from scipy.linalg import cho_factor, cho_solve

        dense = self.system.operand.exact
        return cho_solve(cho_factor(dense), self.system.force.astype(dense.dtype))

    def describe(self) -> dict[str, Any]:
        return self.system.describe(self.plan)

    def answer(self, solution: tla.Solution, truth: np.ndarray | None) -> dict[str, Any]:
        lapack = None
        if truth is not None:
            error, stderr = np.asarray(solution.value) - truth, np.asarray(solution.stderr)
            lapack = {"relative_error": relative(error, truth), "predicted_rms": relative(stderr, truth)}
        certificate = tla.certify(self.system.program, self.system.force, solution)
        parts = {"certificate": attributes(certificate), "systematic": share(solution, axis=0)}
        return parts | {"lapack": lapack}

    def draw(self, solution: tla.Solution, truth: np.ndarray, key: jax.Array) -> "Figure":
        from thermolinalg.figures import error_curve, error_figure

        system = self.system
        curve = error_curve(system.program, system.force, self.plan, truth, key=key)
        return error_figure(curve, self.plan, system.title, system.program.device.time_constant)


def relative(block: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Length of each column over that of the answer, or as it is where the answer is zero."""
    length = np.linalg.norm(answer, axis=0)
    return np.linalg.norm(block, axis=0) / np.where(length > 0, length, 1.0)
