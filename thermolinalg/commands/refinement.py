"""Linear systems by refinement as a job of the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import thermolinalg as tla
from thermolinalg.commands.linear import System, relative
from thermolinalg.commands.session import Session
from thermolinalg.refine.rates import survey_of, tolerance
from thermolinalg.report import attributes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Refine:
    """Linear systems by refinement; the plan is that of one step."""

    system: System
    plan: tla.Plan
    rtol: float
    least: float
    method = "Cholesky factorisation, solve, and two steps with residuals in extended precision"

    @classmethod
    def prepare(
        cls,
        session: Session,
        a: Path,
        b: Path | None,
        device: tla.Device,
        rtol: float | None,
        confidence: float | None,
    ) -> "Refine":
        if confidence is not None:
            raise ValueError(
                "--confidence is the promise of an average, and --refine promises none: it tests its answer; leave "
                "one of them out"
            )
        system = System.read(session, a, b, device)
        plan = session.plan(lambda: tla.refine.plan(system.program, system.force))
        survey = survey_of(system.program)
        return cls(system, plan, float(tolerance(rtol, survey)), float(survey.least_rtol()))

    @property
    def session(self) -> Session:
        return self.system.session

    @property
    def dim(self) -> int:
        return self.system.dim

    def run(self, key: jax.Array) -> tla.Solution:
        return tla.refine.solve(self.system.program, self.system.force, key=key, rtol=self.rtol, plan=self.plan)

    def exact(self) -> np.ndarray:
        from scipy.linalg import cho_factor, cho_solve

        dense = self.system.operand.exact
        wide = np.result_type(dense.dtype, np.longdouble)
        force = self.system.force.astype(wide)
        factor = cho_factor(dense)
        answer = cho_solve(factor, force.astype(dense.dtype)).astype(wide)
        for _ in range(2):
            # The error of LAPACK is a condition number times eps. Each step multiplies it by as much again, down to the
            # condition number times 5e-20.
            residual = force - _product(dense, answer)
            answer += cho_solve(factor, residual.astype(dense.dtype))
        return answer.astype(dense.dtype)

    def describe(self) -> dict[str, Any]:
        return self.system.describe(self.plan)

    def answer(self, solution: tla.Solution, truth: np.ndarray | None) -> dict[str, Any]:
        stats = solution.stats
        ledger = tla.cost_of(solution, self.system.program)
        value = np.asarray(solution.value)
        counted = ("steps", "matvecs", "plain_cg", "contraction", "predicted_contraction")
        refinement = {name: stats[name] for name in counted} | {
            "rtol": self.rtol,
            "least_rtol": self.least,
            "estimated_error": relative(np.asarray(solution.stderr), value),
            "device": self._times(stats["device_time"]),
            "direct": self._times(stats["direct_time"]),
        }
        return {
            "refinement": refinement,
            "certificate": attributes(tla.certify(self.system.program, self.system.force, solution)),
            "lapack": None if truth is None else {"relative_error": relative(value - truth, truth)},
            "device_s": attributes(ledger.seconds, "total"),
        }

    def draw(self, solution: tla.Solution, truth: np.ndarray, key: jax.Array) -> "Figure":
        from thermolinalg.figures import error_curve, refinement_curve, refinement_figure

        program, force = self.system.program, self.system.force
        average, steps = jax.random.split(key)
        direct = error_curve(program, force, tla.plan.solve(program, force), truth, key=average)
        course = refinement_curve(program, force, self.plan, truth, key=steps)
        error = float(relative(np.asarray(solution.value) - truth, truth).max())
        end = float(np.max(np.asarray(solution.stats["time_constants"]))), error
        return refinement_figure(direct, course, self.rtol, end, self.system.title, program.device.time_constant)

    def _times(self, time: Any) -> dict[str, Any]:
        """A time in natural units, in time constants of the device, and in seconds."""
        clocked = np.asarray(self.plan.clock) * np.asarray(time)
        second = self.system.program.device.time_constant
        return {"natural": time, "time_constants": clocked, "seconds": second * clocked}


def _product(matrix: np.ndarray, block: np.ndarray, rows: int = 256) -> np.ndarray:
    """Product in the precision of the block, some rows at a time so that only those are stored in it."""
    parts = [matrix[first : first + rows].astype(block.dtype) @ block for first in range(0, len(matrix), rows)]
    return np.concatenate(parts)
