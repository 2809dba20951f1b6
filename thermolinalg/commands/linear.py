"""Linear systems as a job of the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import thermolinalg as tla
from thermolinalg.commands.job import described
from thermolinalg.commands.session import Operand, Session
from thermolinalg.operators import as_block
from thermolinalg.report import attributes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Solve:
    """Linear systems."""

    session: Session
    operand: Operand
    given: str | None
    force: np.ndarray
    program: tla.Program
    plan: tla.Plan
    method = "Cholesky factorisation and solve"

    @classmethod
    def prepare(
        cls, session: Session, a: Path, b: Path | None, device: tla.Device, rtol: float, confidence: float
    ) -> "Solve":
        from thermolinalg.figures import check_curve

        operand = session.read(a)
        operator = tla.as_operator(operand.matrix)
        force = session.read_force(b, operator.dim)
        as_block(force, operator, "b")
        if session.drawn:
            check_curve(operator, force)
        session.check_drawable(operator.dim)
        program = session.program(operand, operator, device)
        plan = session.plan(lambda: tla.plan.solve(program, force, rtol=rtol, confidence=confidence))
        return cls(session, operand, None if b is None else b.name, force, program, plan)

    @property
    def dim(self) -> int:
        return self.program.operator.dim

    def run(self, key: jax.Array) -> tla.Solution:
        return tla.solve(self.program, self.force, key=key, plan=self.plan)

    def exact(self) -> np.ndarray:
        from scipy.linalg import cho_factor, cho_solve

        dense = self.operand.exact
        return cho_solve(cho_factor(dense), self.force.astype(dense.dtype))

    def describe(self) -> dict[str, Any]:
        columns = self.force[0].size
        ledger = tla.cost(self.plan, self.program.device, dim=self.dim, columns=columns)
        problem = {"right_hand_side": self.given, "columns": columns}
        return described(self.operand, problem, self.program.device, self.plan, ledger, self.program.spectrum)

    def answer(self, solution: tla.Solution, truth: np.ndarray | None) -> dict[str, Any]:
        lapack = None
        if truth is not None:
            length = np.linalg.norm(truth, axis=0)
            scale = np.where(length > 0, length, 1.0)
            lapack = {
                "relative_error": np.linalg.norm(np.asarray(solution.value) - truth, axis=0) / scale,
                "predicted_rms": np.linalg.norm(np.asarray(solution.stderr), axis=0) / scale,
            }
        return {"certificate": attributes(tla.certify(self.program, self.force, solution)), "lapack": lapack}

    def draw(self, solution: tla.Solution, truth: np.ndarray, key: jax.Array) -> "Figure":
        from thermolinalg.figures import error_curve, error_figure

        curve = error_curve(self.program, self.force, self.plan, truth, key=key)
        assert self.program.spectrum is not None  # the exact law cannot do without
        kappa = float(self.program.spectrum.kappa)
        title = f"{self.operand.name}: {self.dim} unknowns, condition number {kappa:.3g}"
        return error_figure(curve, self.plan, title, self.program.device.time_constant)
