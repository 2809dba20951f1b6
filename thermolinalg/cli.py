"""The command line: run a verb on matrices from files, and say what it costs and how good the answer is."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import thermolinalg as tla
from thermolinalg.commands.certificates import certify_inverse, certify_solution, noise_of
from thermolinalg.commands.ensembles import LogDeterminant, Samples
from thermolinalg.commands.job import Job, carry_out, status
from thermolinalg.commands.linear import Solve
from thermolinalg.commands.matrices import Exponential, Inverse, Lyapunov
from thermolinalg.commands.planning import planned
from thermolinalg.commands.refinement import Refine
from thermolinalg.commands.session import Precision, Session
from thermolinalg.files import check_target
from thermolinalg.plan import Budget
from thermolinalg.report import plain, show

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


class EstimatorName(StrEnum):
    """How a free-energy difference is read."""

    ti = "ti"
    bar = "bar"
    jarzynski = "jarzynski"


_ESTIMATORS = {
    EstimatorName.ti: tla.ThermodynamicIntegration,
    EstimatorName.bar: tla.BennettRatio,
    EstimatorName.jarzynski: tla.Jarzynski,
}

Matrix = Annotated[
    Path, typer.Argument(metavar="A", help="Symmetric positive definite matrix: .mtx, .mtx.gz, .npy or .npz.")
]
Stable = Annotated[
    Path,
    typer.Argument(
        metavar="A", help="Square matrix, all eigenvalues with positive real part: .mtx, .mtx.gz, .npy or .npz."
    ),
]
Square = Annotated[Path, typer.Argument(metavar="A", help="Any square matrix: .mtx, .mtx.gz, .npy or .npz.")]
RightHandSide = Annotated[
    Path | None, typer.Argument(metavar="b", help="Right-hand sides, one in each column; all ones if not given.")
]
Force = Annotated[Path | None, typer.Argument(metavar="b", help="A times the mean, a vector; zero if not given.")]
Diffusion = Annotated[
    Path | None, typer.Argument(metavar="Q", help="Symmetric, positive semi-definite; the identity if not given.")
]
Rtol = Annotated[float, typer.Option(help="Relative error to plan for: 2-norm of a vector, Frobenius of a matrix.")]
Confidence = Annotated[float, typer.Option(help="Fraction of runs that keep to it.")]
Inertia = Annotated[bool, typer.Option("--underdamped", help="A device with inertia: LC cells in place of RC.")]
Beta = Annotated[float, typer.Option(help="Inverse temperature of the device.")]
Dtype = Annotated[Precision, typer.Option(help="Type to compute in.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the noise.")]
Out = Annotated[Path | None, typer.Option(help="Write the answer here, as .npy.")]
Curve = Annotated[Path | None, typer.Option("--plot", help="Draw error against device time here, as .png.")]
Counts = Annotated[Path | None, typer.Option("--plot", help="Draw error against number of samples here, as .png.")]
Histogram = Annotated[Path | None, typer.Option("--plot", help="Draw energies of the samples here, as .png.")]
Count = Annotated[int, typer.Option(min=1, help="Number of samples.")]


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
    """Thermodynamic linear algebra: what coupled noisy oscillators compute, simulated exactly in law.

    Exit codes: 0; 1 for an answer that is not to be trusted, which is not written; 2 for bad input.
    """


@app.command()
def solve(
    a: Matrix,
    b: RightHandSide = None,
    rtol: Annotated[
        float | None, typer.Option(help="Relative error in the 2-norm.", show_default="1e-2; 1e-10 with --refine")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Fraction of runs that keep to it.", show_default="0.95")
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Correct short runs by digital residuals, in place of one long average.")
    ] = False,
    underdamped: Inertia = False,
    beta: Beta = 1.0,
    seed: Seed = 0,
    dtype: Dtype = Precision.float64,
    out: Out = None,
    plot: Curve = None,
    as_json: Json = False,
) -> None:
    """Solve A x = b on a simulated device, and check the answer."""

    def prepare(session: Session) -> Job:
        device = _device(underdamped, beta)
        if refine:
            return Refine.prepare(session, a, b, device, rtol, confidence)
        return Solve.prepare(session, a, b, device, rtol, 0.95 if confidence is None else confidence)

    _run(prepare, dtype, seed, out, plot, as_json)


@app.command()
def plan(
    a: Matrix,
    b: RightHandSide = None,
    rtol: Annotated[
        float | None, typer.Option(help="Relative error to plan for, in the 2-norm.", show_default="1e-2")
    ] = None,
    confidence: Confidence = 0.95,
    budget_seconds: Annotated[
        float | None, typer.Option(help="Least error within this time of the device, in place of --rtol.")
    ] = None,
    budget_joules: Annotated[
        float | None, typer.Option(help="Least error within this energy of the cells, in place of --rtol.")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Devices side by side, their readings averaged.")] = 1,
    underdamped: Inertia = False,
    beta: Beta = 1.0,
    dtype: Dtype = Precision.float64,
    as_json: Json = False,
) -> None:
    """Say how long a device would take to solve A x = b, and run nothing.

    A budget is for one right-hand side, without transfers. Of dense matrices also said is how long a plan would be
    that knew less.

    Exit codes: 0; 1 for a plan that is not to be trusted; 2 for bad input.
    """
    with _one_line_errors():
        limited = budget_seconds is not None or budget_joules is not None
        budget = Budget(budget_seconds, budget_joules) if limited else None
        session = Session(dtype, drawn=False, live=not as_json)
        device = _device(underdamped, beta)
        job = Solve.prepare(session, a, b, device, rtol, confidence, budget=budget, replicas=replicas)
        parts = planned(job, budget)
        report = plain(parts | {"simulation_s": session.seconds, "status": status(job.system.program.status)})
        _print(report, as_json)
    raise typer.Exit(1 if report["status"]["flags"] else 0)


@app.command()
def certify(
    a: Matrix,
    files: Annotated[
        list[Path], typer.Argument(metavar="[b] x", help="Right-hand sides, all ones if not given, and the answer.")
    ],
    noise: Annotated[float | None, typer.Option(help="Variance of one component of b - A x.")] = None,
    beta: Annotated[float | None, typer.Option(help="Inverse temperature of the device.", show_default="1")] = None,
    duration: Annotated[
        float | None,
        typer.Option(help="Time of the average, in units of the equation; the noise is 2 / (beta duration)."),
    ] = None,
    inverse: Annotated[
        bool, typer.Option("--inverse", help="The answer is an inverse of A that was read as a covariance.")
    ] = False,
    samples: Annotated[float | None, typer.Option(help="Number of independent samples behind an inverse.")] = None,
    dtype: Dtype = Precision.float64,
    as_json: Json = False,
) -> None:
    """Certify an answer to A x = b from its residual; how it was obtained does not matter.

    The residual is tested against thermal noise where that is given. The noise of an underdamped device is larger by
    its friction: give --noise.

    Exit codes: 0; 1 if the test fails; 2 for bad input.
    """
    with _one_line_errors():
        session = Session(dtype, drawn=False, live=not as_json)
        if len(files) > (1 if inverse else 2):
            raise ValueError(f"got {len(files)} files beside A; give {'the inverse alone' if inverse else '[b] x'}")
        variance = noise_of(noise, beta, duration)
        if inverse and variance is not None:
            raise ValueError("--noise, --beta and --duration belong to a solution; an inverse has --samples")
        if samples is not None and not inverse:
            raise ValueError("--samples belongs to an inverse; give --inverse too, or leave it out")
        if inverse:
            report = certify_inverse(session, a, files[0], samples)
        else:
            report = certify_solution(session, a, files[0] if len(files) == 2 else None, files[-1], variance)
        _print(report, as_json)
    # The verdict is one, or one for each column, or none.
    passed = report["certificate"]["passed"]
    raise typer.Exit(1 if passed is False or (isinstance(passed, list) and not all(passed)) else 0)


@app.command()
def inv(
    a: Matrix,
    rtol: Rtol = 5e-2,
    confidence: Confidence = 0.95,
    underdamped: Inertia = False,
    seed: Seed = 0,
    dtype: Dtype = Precision.float64,
    out: Out = None,
    plot: Curve = None,
    as_json: Json = False,
) -> None:
    """Invert A by the covariance of a simulated device. The temperature does not matter."""
    _run(
        lambda session: Inverse.prepare(session, a, _device(underdamped), rtol, confidence),
        *(dtype, seed, out, plot, as_json),
    )


@app.command()
def lyapunov(
    a: Stable,
    q: Diffusion = None,
    rtol: Rtol = 5e-2,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    dtype: Dtype = Precision.float64,
    out: Out = None,
    plot: Curve = None,
    as_json: Json = False,
) -> None:
    """Solve A X + X A* = Q by the covariance of a simulated device with the noise Q."""
    _run(
        lambda session: Lyapunov.prepare(session, a, q, rtol, confidence),
        *(dtype, seed, out, plot, as_json),
    )


@app.command()
def expm(
    a: Square,
    time: Annotated[float, typer.Option(help="t, not negative.")] = 1.0,
    shift: Annotated[
        float | None,
        typer.Option(help="Above the largest eigenvalue of (A + A*)/2; chosen to balance noise if not given."),
    ] = None,
    rtol: Rtol = 5e-2,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    dtype: Dtype = Precision.float64,
    out: Out = None,
    plot: Curve = None,
    as_json: Json = False,
) -> None:
    """Exponentiate A t by the lagged covariance of a simulated device."""
    _run(
        lambda session: Exponential.prepare(session, a, time, shift, rtol, confidence),
        *(dtype, seed, out, plot, as_json),
    )


@app.command()
def logdet(
    a: Matrix,
    samples: Count = 20_000,
    estimator: Annotated[
        EstimatorName,
        typer.Option(help="Thermodynamic integration, Bennett's acceptance ratio, or the equality of Jarzynski."),
    ] = EstimatorName.ti,
    reference: Annotated[
        float | None, typer.Option(help="Stiffness of the uncoupled start; the geometric middle if not given.")
    ] = None,
    underdamped: Inertia = False,
    seed: Seed = 0,
    dtype: Dtype = Precision.float64,
    out: Out = None,
    plot: Counts = None,
    as_json: Json = False,
) -> None:
    """Estimate ln det A by the free energy of coupling a simulated device. The temperature does not matter."""
    _run(
        lambda session: LogDeterminant.prepare(
            session, a, _device(underdamped), _ESTIMATORS[estimator](), samples, reference
        ),
        *(dtype, seed, out, plot, as_json),
    )


@app.command()
def sample(
    a: Matrix,
    b: Force = None,
    count: Count = 1000,
    path: Annotated[
        bool, typer.Option("--path", help="Read the states of one run, which are correlated; else independent samples.")
    ] = False,
    burn_in: Annotated[
        float | None, typer.Option(help="Time before the first state of a path; ten times the slowest if not given.")
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(help="Time between states of a path; that of the slowest mode if not given.")
    ] = None,
    underdamped: Inertia = False,
    beta: Beta = 1.0,
    seed: Seed = 0,
    dtype: Dtype = Precision.float64,
    out: Out = None,
    plot: Histogram = None,
    as_json: Json = False,
) -> None:
    """Sample the Gaussian law with mean A⁻¹b and covariance (βA)⁻¹, and check the samples.

    Times are in the units of the equation dx = -(Ax - b) dt + noise.
    """
    _run(
        lambda session: Samples.prepare(session, a, b, _device(underdamped, beta), count, path, burn_in, spacing),
        *(dtype, seed, out, plot, as_json),
    )


def _run(
    prepare: Callable[[Session], Job], dtype: Precision, seed: int, out: Path | None, plot: Path | None, as_json: bool
) -> None:
    """Prepare a job, carry it out, and print its report."""
    with _one_line_errors():
        if out is not None:
            check_target(out, ".npy")
        if plot is not None:
            check_target(plot, ".png")
        report = carry_out(prepare(Session(dtype, drawn=plot is not None, live=not as_json)), seed, out, plot)
        _print(report, as_json)
    raise typer.Exit(1 if report["status"]["flags"] else 0)


def _device(underdamped: bool, beta: float = 1.0) -> tla.Device:
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
