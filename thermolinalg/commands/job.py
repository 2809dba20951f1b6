"""What every command does with its problem: run it, compare with LAPACK, draw, write, and report."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import jax
import numpy as np

import thermolinalg as tla
from thermolinalg.commands.devices import facts_of
from thermolinalg.commands.session import REFERENCE_LIMIT, Operand, Session
from thermolinalg.files import write_array, write_bytes
from thermolinalg.report import attributes, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_DEVICE = tla.Status.SATURATED | tla.Status.COARSE | tla.Status.IMPRECISE
"""Flags of errors that a device makes, and that are part of every prediction."""


class Job(Protocol):
    """A problem that is read, checked and planned."""

    @property
    def session(self) -> Session:
        """Precision, clock and what is wanted."""

    @property
    def dim(self) -> int:
        """Unknowns."""

    @property
    def method(self) -> str:
        """What LAPACK does for the exact answer."""

    def run(self, key: jax.Array) -> tla.Solution:
        """Run it."""

    def exact(self) -> np.ndarray:
        """Answer of LAPACK in double precision, for the matrix as read."""

    def describe(self) -> dict[str, Any]:
        """Everything known before the run."""

    def answer(self, solution: tla.Solution, truth: np.ndarray | None) -> dict[str, Any]:
        """What the run has shown; under ``lapack`` the comparison, None where the truth is not known."""

    def draw(self, solution: tla.Solution, truth: np.ndarray, key: jax.Array) -> "Figure":
        """The figure of this verb."""


def carry_out(job: Job, seed: int, out: Path | None, plot: Path | None) -> dict[str, Any]:
    """Run a job, write its files if the answer is clean, and return all there is to say as plain numbers.

    The figure shows what an imprecise device does, so it is drawn for that answer too.
    """
    from thermolinalg.figures import png

    key = jax.random.key(seed)
    with job.session.phase("run", "Running"):
        solution = jax.block_until_ready(job.run(key))
    truth, elapsed = _reference(job)
    answer = job.answer(solution, truth)
    if answer["lapack"] is not None:
        answer["lapack"] |= {"method": job.method, "seconds": elapsed}
    rest = {"simulation_s": job.session.seconds, "status": status(solution.status), "out": None, "plot": None}
    report = plain(job.describe() | answer | rest)
    if report["status"]["flags"] & ~_DEVICE:
        return report
    picture = None
    if plot is not None:
        if truth is None:
            raise ValueError("--plot needs the answer of LAPACK, whose factorisation of A breaks down")
        with job.session.phase("plot", "Drawing"):
            picture = png(job.draw(solution, truth, jax.random.fold_in(key, 1)))
    if out is not None and not report["status"]["flags"]:
        write_array(out, np.asarray(solution.value))
        report["out"] = str(out)
    if plot is not None and picture is not None:
        write_bytes(plot, picture)
        report["plot"] = str(plot)
    return report


def _reference(job: Job) -> tuple[np.ndarray | None, float]:
    """The exact answer, where that is affordable, and the seconds it took."""
    from scipy.linalg import LinAlgError

    if job.dim > REFERENCE_LIMIT:
        return None, 0.0
    times: list[float] = []
    # The fastest of three where that is soon, since the first call also wakes up the threads of the library.
    while len(times) < 3 and sum(times) < 1.0:
        begin = perf_counter()
        try:
            truth = job.exact()
        except LinAlgError:
            return None, 0.0
        times.append(perf_counter() - begin)
    return truth, min(times)


def share(solution: tla.Solution, axis: int | None = None) -> np.ndarray | None:
    """Length of what the device shifts the answer by over that of the answer; None where it shifts nothing."""
    if "systematic" not in solution.stats:
        return None
    shift, length = (np.linalg.norm(np.asarray(x), axis=axis) for x in (solution.stats["systematic"], solution.value))
    return shift / np.where(length > 0, length, 1.0)


def told(solution: tla.Solution) -> tuple[jax.Array, ...]:
    """Value and standard error, and the part of it that the device makes, if it makes one."""
    parts = (solution.value, solution.stderr)
    return (*parts, solution.stats["systematic"]) if "systematic" in solution.stats else parts


def status(flags: Any) -> dict[str, Any]:
    """Flags as a number, as names, and as advice."""
    found = tla.Status(int(flags))
    advice = found.advice
    if tla.Status.UNRESOLVED in found:
        advice += " Stored densely, as .npy, the matrix is diagonalised instead."
    return {"flags": int(found), "names": [flag.name for flag in tla.Status if flag in found], "advice": advice}


def described(
    operand: Operand,
    problem: dict[str, Any],
    device: tla.Device,
    plan: tla.Plan | None = None,
    ledger: tla.Ledger | None = None,
    spectrum: tla.Spectrum | None = None,
) -> dict[str, Any]:
    """What is known before a run, in the parts that a report has."""
    parts: dict[str, Any] = {
        "problem": operand.facts | problem,
        "device": facts_of(device),
    }
    if spectrum is not None:
        parts["spectrum"] = attributes(spectrum, "kappa", "kappa_bound", "resolved")
    if plan is not None:
        parts["plan"] = times(plan)
    if ledger is not None:
        parts["device_s"] = attributes(ledger.seconds, "total")
    return parts


def times(plan: tla.Plan) -> dict[str, Any]:
    """A plan in natural units of time and in time constants of the device."""
    natural = {"burn_in": plan.burn_in, "duration": plan.duration, "total": plan.total}
    clocked = {name: np.asarray(plan.clock) * np.asarray(time) for name, time in natural.items()}
    promise = {"rtol": plan.rtol, "confidence": plan.confidence, "samples": plan.samples, "replicas": plan.replicas}
    return promise | {"natural": natural, "time_constants": clocked}
