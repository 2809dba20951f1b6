"""The verbs: each takes a problem to a simulated device and checks the answer."""

from typing import Annotated

import typer

import thermolinalg as tla
import thermolinalg.commands.options as opt
from thermolinalg.commands.devices import Hardware, PresetName
from thermolinalg.commands.ensembles import LogDeterminant, Samples
from thermolinalg.commands.job import Job
from thermolinalg.commands.linear import Solve
from thermolinalg.commands.matrices import Exponential, Inverse, Lyapunov
from thermolinalg.commands.refinement import Refine
from thermolinalg.commands.running import run_job
from thermolinalg.commands.session import Precision, Session

_ESTIMATORS = {
    opt.EstimatorName.ti: tla.ThermodynamicIntegration,
    opt.EstimatorName.bar: tla.BennettRatio,
    opt.EstimatorName.jarzynski: tla.Jarzynski,
}


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
    run_job(prepare, hardware, dtype, seed, out, plot, as_json)


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
    run_job(
        lambda session, on: Inverse.prepare(session, a, on, rtol, confidence),
        Hardware(device, bits, mismatch, chip_seed, underdamped),
        *(dtype, seed, out, plot, as_json),
    )


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
    run_job(
        lambda session, on: Lyapunov.prepare(session, a, q, on, rtol, confidence),
        Hardware(device, bits, mismatch, chip_seed),
        *(dtype, seed, out, plot, as_json),
    )


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
    run_job(
        lambda session, on: Exponential.prepare(session, a, on, time, shift, rtol, confidence),
        Hardware(device, bits, mismatch, chip_seed),
        *(dtype, seed, out, plot, as_json),
    )


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
    run_job(
        lambda session, on: LogDeterminant.prepare(session, a, on, _ESTIMATORS[estimator](), samples, reference),
        Hardware(device, bits, mismatch, chip_seed, underdamped),
        *(dtype, seed, out, plot, as_json),
    )


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
    run_job(
        lambda session, on: Samples.prepare(session, a, b, on, count, path, burn_in, spacing),
        Hardware(device, bits, mismatch, chip_seed, underdamped, beta),
        *(dtype, seed, out, plot, as_json),
    )
