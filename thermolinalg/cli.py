"""The command line: plan or run a solve from files, and say what it costs and how good it is."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

import thermolinalg as tla
from thermolinalg.files import check_target, read_matrix, read_vectors, write_array, write_bytes
from thermolinalg.report import attributes, plain, show

REFERENCE_LIMIT = 4096
"""Largest number of unknowns for which LAPACK is asked for the exact answer."""

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


class Precision(StrEnum):
    """Floating point type of the simulation."""

    float64 = "float64"
    float32 = "float32"


Matrix = Annotated[
    Path, typer.Argument(metavar="A", help="Symmetric positive definite matrix: .mtx, .mtx.gz, .npy or .npz.")
]
RightHandSide = Annotated[
    Path | None, typer.Argument(metavar="b", help="Right-hand sides, one in each column; all ones if not given.")
]
Rtol = Annotated[float, typer.Option(help="Relative error in the 2-norm to plan for.")]
Confidence = Annotated[float, typer.Option(help="Fraction of runs that keep to it.")]
Inertia = Annotated[bool, typer.Option("--underdamped", help="A device with inertia: LC cells in place of RC.")]
Beta = Annotated[float, typer.Option(help="Inverse temperature of the device.")]
Dtype = Annotated[Precision, typer.Option(help="Type to compute in.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the noise.")]
Out = Annotated[Path | None, typer.Option(help="Write the solution here, as .npy.")]
Plot = Annotated[Path | None, typer.Option(help="Draw error against device time here, as .png.")]


def main() -> None:
    """Run the command line."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(tla.__version__)
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]


@app.callback()
def _options(version: Version = False) -> None:
    """Thermodynamic linear algebra: what coupled noisy oscillators compute, simulated exactly in law."""


@app.command()
def solve(
    a: Matrix,
    b: RightHandSide = None,
    rtol: Rtol = 1e-2,
    confidence: Confidence = 0.95,
    underdamped: Inertia = False,
    beta: Beta = 1.0,
    seed: Seed = 0,
    dtype: Dtype = Precision.float64,
    out: Out = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Solve A x = b on a simulated device, and check the answer.

    Exit codes: 0; 1 for an answer that is not to be trusted, which is not written; 2 for bad input.
    """
    with _one_line_errors():
        if out is not None:
            check_target(out, ".npy")
        if plot is not None:
            check_target(plot, ".png")
        job = _Job.prepare(
            a, b, _device(beta, underdamped), rtol, confidence, dtype, drawn=plot is not None, live=not as_json
        )
        solution = job.run(seed)
        truth, lapack_s = job.reference()
        report = job.report() | job.answer(solution, truth, lapack_s) | {"out": None, "plot": None}
        clean = not report["status"]["flags"]
        if clean:
            picture = None if plot is None else job.picture(truth, seed)
            if out is not None:
                write_array(out, np.asarray(solution.value))
                report["out"] = str(out)
            if plot is not None and picture is not None:
                write_bytes(plot, picture)
                report["plot"] = str(plot)
        _print(report, as_json)
    raise typer.Exit(0 if clean else 1)


@app.command()
def plan(
    a: Matrix,
    b: RightHandSide = None,
    rtol: Rtol = 1e-2,
    confidence: Confidence = 0.95,
    underdamped: Inertia = False,
    beta: Beta = 1.0,
    dtype: Dtype = Precision.float64,
    as_json: Json = False,
) -> None:
    """Say how long a device would take to solve A x = b, and run nothing.

    Exit codes: 0; 1 for a plan that is not to be trusted; 2 for bad input.
    """
    with _one_line_errors():
        report = _Job.prepare(a, b, _device(beta, underdamped), rtol, confidence, dtype, live=not as_json).report()
        _print(report, as_json)
    raise typer.Exit(1 if report["status"]["flags"] else 0)


def _device(beta: float, underdamped: bool) -> tla.Device:
    return tla.Device(beta=beta, dynamics=tla.Underdamped() if underdamped else tla.Overdamped())


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        print("thermolinalg:", " ".join(str(error).split()), file=sys.stderr)
        raise typer.Exit(2) from None


def _print(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, allow_nan=False))
    else:
        show(report)


@dataclass(frozen=True)
class _Clock:
    """Shows on a terminal what is going on, and keeps the time that it took."""

    live: bool
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        console = Console(stderr=True)
        begin = perf_counter()
        with console.status(text) if self.live and console.is_terminal else nullcontext():
            yield
        self.seconds[name] = perf_counter() - begin


@dataclass(frozen=True)
class _Job:
    """A problem that is read, programmed and planned."""

    names: dict[str, str | None]
    matrix: Any
    force: np.ndarray
    program: tla.Program
    plan: tla.Plan
    clock: _Clock

    @classmethod
    def prepare(
        cls,
        a: Path,
        b: Path | None,
        device: tla.Device,
        rtol: float,
        confidence: float,
        dtype: Precision,
        *,
        drawn: bool = False,
        live: bool,
    ) -> "_Job":
        """Read the files, check them, write the couplings, and plan."""
        import jax

        from thermolinalg.figures import check_curve
        from thermolinalg.operators import as_block
        from thermolinalg.plan import check_plan

        jax.config.update("jax_enable_x64", True)
        matrix = read_matrix(a)
        given = None if b is None else read_vectors(b)
        operator = tla.as_operator(_cast(matrix, dtype))
        force = _cast(np.ones(operator.dim) if given is None else given, dtype)
        as_block(force, operator, "b")
        if drawn:
            check_curve(operator, force)
            if operator.dim > REFERENCE_LIMIT:
                raise ValueError(f"--plot needs the answer of LAPACK, which is asked up to {REFERENCE_LIMIT} unknowns")
        clock = _Clock(live)
        with clock.phase("program", f"Finding the spectrum of {a.name}"):
            program = jax.block_until_ready(device.program(operator))
        with clock.phase("plan", "Planning"):
            plan = check_plan(tla.plan.solve(program, force, rtol=rtol, confidence=confidence))
        names = {"matrix": a.name, "right_hand_side": None if b is None else b.name}
        return cls(names, matrix, force, program, plan, clock)

    @property
    def spectrum(self) -> tla.Spectrum:
        """Extremes of the spectrum, which the program has found already."""
        assert self.program.spectrum is not None  # the exact law cannot do without
        return self.program.spectrum

    def run(self, seed: int) -> tla.Solution:
        """Run the plan."""
        import jax

        with self.clock.phase("run", "Running"):
            return jax.block_until_ready(tla.solve(self.program, self.force, key=jax.random.key(seed), plan=self.plan))

    def reference(self) -> tuple[np.ndarray | None, float]:
        """Answer of LAPACK in double precision, where that is affordable, for the matrix as read; and its seconds."""
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        if self.force.shape[0] > REFERENCE_LIMIT:
            return None, 0.0
        dense = _cast(self.matrix if isinstance(self.matrix, np.ndarray) else self.matrix.toarray(), Precision.float64)
        force, times = self.force.astype(dense.dtype), []
        # The fastest of three, since the first call also wakes up the threads of the library.
        for _ in range(3):
            begin = perf_counter()
            try:
                answer = cho_solve(cho_factor(dense), force)
            except LinAlgError:
                return None, 0.0
            times.append(perf_counter() - begin)
        return answer, min(times)

    def picture(self, truth: np.ndarray | None, seed: int) -> bytes:
        """Error against device time, as a PNG file."""
        import jax

        from thermolinalg.figures import error_curve, error_figure, png

        if truth is None:
            raise ValueError("--plot needs the answer of LAPACK, whose Cholesky factorisation of A breaks down")
        with self.clock.phase("plot", "Drawing"):
            key = jax.random.fold_in(jax.random.key(seed), 1)
            curve = error_curve(self.program, self.force, self.plan, truth, key=key)
            kappa = float(self.spectrum.kappa)
            title = f"{self.names['matrix']}: {self.program.operator.dim} unknowns, condition number {kappa:.3g}"
            return png(error_figure(curve, self.plan, title, self.program.device.time_constant))

    def report(self) -> dict[str, Any]:
        """Everything known before the run, as plain numbers."""
        operator, device, plan = self.program.operator, self.program.device, self.plan
        nonzeros = np.count_nonzero(self.matrix) if isinstance(self.matrix, np.ndarray) else self.matrix.count_nonzero()
        columns = self.force[0].size
        times = {"burn_in": plan.burn_in, "duration": plan.duration, "total": plan.total}
        clocked = {name: np.asarray(plan.clock) * np.asarray(time) for name, time in times.items()}
        numbers = {
            "problem": self.names
            | {"unknowns": operator.dim, "nonzeros": nonzeros, "columns": columns, "dtype": operator.dtype.name},
            "spectrum": attributes(self.spectrum, "kappa", "kappa_bound", "resolved"),
            "device": {
                "dynamics": type(device.dynamics).__name__.lower(),
                "beta": device.beta,
                "time_constant_s": device.time_constant,
            },
            "plan": {"rtol": plan.rtol, "confidence": plan.confidence, "natural": times, "time_constants": clocked},
            "device_s": attributes(tla.cost(plan, device, dim=operator.dim, columns=columns), "total"),
            "simulation_s": self.clock.seconds,
            "status": _status(self.program.status),
        }
        return plain(numbers)

    def answer(self, solution: tla.Solution, truth: np.ndarray | None, lapack_s: float) -> dict[str, Any]:
        """What the run has shown, as plain numbers."""
        lapack = None
        if truth is not None:
            length = np.linalg.norm(truth, axis=0)
            scale = np.where(length > 0, length, 1.0)
            lapack = {
                "relative_error": np.linalg.norm(np.asarray(solution.value) - truth, axis=0) / scale,
                "predicted_rms": np.linalg.norm(np.asarray(solution.stderr), axis=0) / scale,
                "seconds": lapack_s,
            }
        certificate = attributes(tla.certify(self.program, self.force, solution))
        return plain({"status": _status(solution.status), "certificate": certificate, "lapack": lapack})


def _cast(array: Any, dtype: Precision) -> Any:
    """Return numbers in the wanted precision, complex if they are."""
    kind = np.dtype(dtype.value)
    # What overflows here is refused by the check for finite entries that every operand passes.
    with np.errstate(over="ignore"):
        return array.astype(np.result_type(kind, np.complex64) if array.dtype.kind == "c" else kind)


def _status(flags: Any) -> dict[str, Any]:
    status = tla.Status(int(flags))
    advice = status.advice
    if tla.Status.UNRESOLVED in status:
        advice += " Stored densely, as .npy, the matrix is diagonalised instead."
    return {"flags": int(status), "names": [flag.name for flag in tla.Status if flag in status], "advice": advice}
