"""The command line: run a verb on matrices from files, and say what it costs and how good the answer is."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import thermolinalg as tla
from thermolinalg.commands import options as opt
from thermolinalg.commands.certificates import certify_inverse, certify_solution, noise_of
from thermolinalg.commands.devices import Hardware, PresetName, listed, write_example
from thermolinalg.commands.ensembles import LogDeterminant, Samples
from thermolinalg.commands.job import Job, carry_out, status
from thermolinalg.commands.linear import Solve
from thermolinalg.commands.matrices import Exponential, Inverse, Lyapunov
from thermolinalg.commands.planning import planned
from thermolinalg.commands.refinement import Refine
from thermolinalg.commands.session import Precision, Session
from thermolinalg.commands.sweeps import Primitive, Sweep
from thermolinalg.files import check_target
from thermolinalg.plan import Budget
from thermolinalg.report import plain, show

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


_ESTIMATORS = {
    opt.EstimatorName.ti: tla.ThermodynamicIntegration,
    opt.EstimatorName.bar: tla.BennettRatio,
    opt.EstimatorName.jarzynski: tla.Jarzynski,
}


def main() -> None:
    """Run the command line."""
    app()


@app.callback()
def _options(version: opt.Version = False) -> None:
    """Thermodynamic linear algebra: what coupled noisy oscillators compute, simulated exactly in law.

    Exit codes: 0; 1 for an answer that is not to be trusted, which is not written; 2 for bad input.
    """


@app.command()
def solve(
    a: opt.Matrix,
    b: opt.RightHandSide = None,
    rtol: Annotated[
        float | None, typer.Option(help="Relative error in the 2-norm.", show_default="1e-2; 1e-10 with --refine")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Fraction of runs that keep to it.", show_default="0.95")
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Correct short runs by digital residuals, in place of one long average.")
    ] = False,
    device: opt.Preset = PresetName.ideal,
    bits: opt.Bits = None,
    mismatch: opt.Mismatch = None,
    chip_seed: opt.ChipSeed = None,
    underdamped: opt.Inertia = False,
    beta: opt.Beta = None,
    seed: opt.Seed = 0,
    dtype: opt.Dtype = Precision.float64,
    out: opt.Out = None,
    plot: opt.Curve = None,
    as_json: opt.Json = False,
) -> None:
    """Solve A x = b on a simulated device, and check the answer."""

    def prepare(session: Session, on: tla.Device) -> Job:
        if refine:
            return Refine.prepare(session, a, b, on, rtol, confidence)
        return Solve.prepare(session, a, b, on, rtol, 0.95 if confidence is None else confidence)

    hardware = Hardware(device, bits, mismatch, chip_seed, underdamped, beta)
    _run(prepare, hardware, dtype, seed, out, plot, as_json)


@app.command()
def plan(
    a: opt.Matrix,
    b: opt.RightHandSide = None,
    rtol: Annotated[
        float | None, typer.Option(help="Relative error to plan for, in the 2-norm.", show_default="1e-2")
    ] = None,
    confidence: opt.Confidence = 0.95,
    budget_seconds: opt.BudgetSeconds = None,
    budget_joules: opt.BudgetJoules = None,
    replicas: Annotated[int, typer.Option(min=1, help="Devices side by side, their readings averaged.")] = 1,
    device: opt.Preset = PresetName.ideal,
    bits: opt.Bits = None,
    mismatch: opt.Mismatch = None,
    chip_seed: opt.ChipSeed = None,
    underdamped: opt.Inertia = False,
    beta: opt.Beta = None,
    dtype: opt.Dtype = Precision.float64,
    as_json: opt.Json = False,
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
        hardware = Hardware(device, bits, mismatch, chip_seed, underdamped, beta)
        job = Solve.prepare(session, a, b, hardware.build(), rtol, confidence, budget=budget, replicas=replicas)
        parts = planned(job, budget)
        report = plain(parts | {"simulation_s": session.seconds, "status": status(job.system.program.status)})
        report["device"] |= hardware.facts
        _print(report, as_json)
    raise typer.Exit(1 if report["status"]["flags"] else 0)


@app.command()
def certify(
    a: opt.Matrix,
    files: Annotated[
        list[Path], typer.Argument(metavar="[b] x", help="Right-hand sides, all ones if not given, and the answer.")
    ],
    noise: opt.Noise = None,
    beta: opt.BetaOfNoise = None,
    duration: opt.Duration = None,
    inverse: opt.IsInverse = False,
    samples: opt.IndependentSamples = None,
    dtype: opt.Dtype = Precision.float64,
    as_json: opt.Json = False,
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
    a: opt.Matrix,
    rtol: opt.Rtol = 5e-2,
    confidence: opt.Confidence = 0.95,
    device: opt.Preset = PresetName.ideal,
    bits: opt.Bits = None,
    mismatch: opt.Mismatch = None,
    chip_seed: opt.ChipSeed = None,
    underdamped: opt.Inertia = False,
    seed: opt.Seed = 0,
    dtype: opt.Dtype = Precision.float64,
    out: opt.Out = None,
    plot: opt.Curve = None,
    as_json: opt.Json = False,
) -> None:
    """Invert A by the covariance of a simulated device. The temperature does not matter."""
    _run(
        lambda session, on: Inverse.prepare(session, a, on, rtol, confidence),
        Hardware(device, bits, mismatch, chip_seed, underdamped),
        *(dtype, seed, out, plot, as_json),
    )


@app.command()
def lyapunov(
    a: opt.Stable,
    q: opt.Diffusion = None,
    rtol: opt.Rtol = 5e-2,
    confidence: opt.Confidence = 0.95,
    device: opt.Preset = PresetName.ideal,
    bits: opt.Bits = None,
    mismatch: opt.Mismatch = None,
    chip_seed: opt.ChipSeed = None,
    seed: opt.Seed = 0,
    dtype: opt.Dtype = Precision.float64,
    out: opt.Out = None,
    plot: opt.Curve = None,
    as_json: opt.Json = False,
) -> None:
    """Solve A X + X A* = Q by the covariance of a simulated device with the noise Q."""
    _run(
        lambda session, on: Lyapunov.prepare(session, a, q, on, rtol, confidence),
        Hardware(device, bits, mismatch, chip_seed),
        *(dtype, seed, out, plot, as_json),
    )


@app.command()
def expm(
    a: opt.Square,
    time: Annotated[float, typer.Option(help="t, not negative.")] = 1.0,
    shift: Annotated[
        float | None,
        typer.Option(help="Above the largest eigenvalue of (A + A*)/2; chosen to balance noise if not given."),
    ] = None,
    rtol: opt.Rtol = 5e-2,
    confidence: opt.Confidence = 0.95,
    device: opt.Preset = PresetName.ideal,
    bits: opt.Bits = None,
    mismatch: opt.Mismatch = None,
    chip_seed: opt.ChipSeed = None,
    seed: opt.Seed = 0,
    dtype: opt.Dtype = Precision.float64,
    out: opt.Out = None,
    plot: opt.Curve = None,
    as_json: opt.Json = False,
) -> None:
    """Exponentiate A t by the lagged covariance of a simulated device."""
    _run(
        lambda session, on: Exponential.prepare(session, a, on, time, shift, rtol, confidence),
        Hardware(device, bits, mismatch, chip_seed),
        *(dtype, seed, out, plot, as_json),
    )


@app.command()
def logdet(
    a: opt.Matrix,
    samples: opt.Count = 20_000,
    estimator: Annotated[
        opt.EstimatorName,
        typer.Option(help="Thermodynamic integration, Bennett's acceptance ratio, or the equality of Jarzynski."),
    ] = opt.EstimatorName.ti,
    reference: Annotated[
        float | None, typer.Option(help="Stiffness of the uncoupled start; the geometric middle if not given.")
    ] = None,
    device: opt.Preset = PresetName.ideal,
    bits: opt.Bits = None,
    mismatch: opt.Mismatch = None,
    chip_seed: opt.ChipSeed = None,
    underdamped: opt.Inertia = False,
    seed: opt.Seed = 0,
    dtype: opt.Dtype = Precision.float64,
    out: opt.Out = None,
    plot: opt.Counts = None,
    as_json: opt.Json = False,
) -> None:
    """Estimate ln det A by the free energy of coupling a simulated device. The temperature does not matter."""
    _run(
        lambda session, on: LogDeterminant.prepare(session, a, on, _ESTIMATORS[estimator](), samples, reference),
        Hardware(device, bits, mismatch, chip_seed, underdamped),
        *(dtype, seed, out, plot, as_json),
    )


@app.command()
def sample(
    a: opt.Matrix,
    b: opt.Force = None,
    count: opt.Count = 1000,
    path: opt.AlongPath = False,
    burn_in: opt.BurnIn = None,
    spacing: opt.Spacing = None,
    device: opt.Preset = PresetName.ideal,
    bits: opt.Bits = None,
    mismatch: opt.Mismatch = None,
    chip_seed: opt.ChipSeed = None,
    underdamped: opt.Inertia = False,
    beta: opt.Beta = None,
    seed: opt.Seed = 0,
    dtype: opt.Dtype = Precision.float64,
    out: opt.Out = None,
    plot: opt.Histogram = None,
    as_json: opt.Json = False,
) -> None:
    """Sample the Gaussian law with mean A⁻¹b and covariance (βA)⁻¹, and check the samples.

    Times are in the units of the equation dx = -(Ax - b) dt + noise.
    """
    _run(
        lambda session, on: Samples.prepare(session, a, b, on, count, path, burn_in, spacing),
        Hardware(device, bits, mismatch, chip_seed, underdamped, beta),
        *(dtype, seed, out, plot, as_json),
    )


@app.command(name="device")
def describe(
    preset: opt.OnePreset = None,
    example: opt.Example = None,
    as_json: opt.Json = False,
) -> None:
    """List the devices that --device knows: their figures, where these are from, and what is assumed."""
    with _one_line_errors():
        if example is not None:
            check_target(example, ".npy")
            write_example(example)
        report = plain(listed(list(PresetName) if preset is None else [preset])) | {
            "example": None if example is None else str(example)
        }
        _print(report, as_json)


@app.command()
def sweep(
    what: opt.What,
    a: opt.MatrixOrRandom = None,
    primitive: opt.Verb = Primitive.solve,
    low: opt.First = None,
    high: opt.Last = None,
    points: opt.Points = 13,
    dim: opt.Dim = None,
    kappa: opt.Kappa = None,
    repeats: opt.Repeats = 20,
    rtol: opt.SweepRtol = None,
    device: opt.Preset = PresetName.ideal,
    bits: opt.Bits = None,
    mismatch: opt.Mismatch = None,
    chip_seed: opt.ChipSeed = None,
    underdamped: opt.Inertia = False,
    beta: opt.Beta = None,
    seed: opt.Seed = 0,
    out: opt.Table = None,
    plot: opt.Picture = None,
    as_json: opt.Json = False,
) -> None:
    """Sweep a property of device, run or matrix, and show what the error is made of.

    Each of the repeats has a random matrix, a chip and a noise of its own. The time is the same for all values, that of
    a plan for a perfect device.
    """
    with _one_line_errors():
        for path, suffix in ((out, ".csv"), (plot, ".png")):
            if path is not None:
                check_target(path, suffix)
        session = Session(Precision.float64, drawn=plot is not None, live=not as_json, seed=seed)
        hardware = Hardware(device, bits, mismatch, chip_seed, underdamped, beta)
        job = Sweep.prepare(session, what, primitive, hardware, a, dim, kappa, rtol)
        _print(job.carry_out(low, high, points, repeats, out, plot), as_json)


def _run(
    prepare: Callable[[Session, tla.Device], Job],
    hardware: Hardware,
    dtype: Precision,
    seed: int,
    out: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Prepare a job, carry it out, and print its report."""
    with _one_line_errors():
        if out is not None:
            check_target(out, ".npy")
        if plot is not None:
            check_target(plot, ".png")
        session = Session(dtype, drawn=plot is not None, live=not as_json, seed=seed)
        report = carry_out(prepare(session, hardware.build()), seed, out, plot)
        report["device"] |= hardware.facts
        _print(report, as_json)
    raise typer.Exit(1 if report["status"]["flags"] else 0)


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
