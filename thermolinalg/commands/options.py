"""Arguments and options that verbs have in common."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from thermolinalg import __version__
from thermolinalg.commands.devices import PresetName
from thermolinalg.commands.session import Precision
from thermolinalg.commands.sweeps import Primitive, Quantity


class EstimatorName(StrEnum):
    """How a free-energy difference is read."""

    ti = "ti"
    bar = "bar"
    jarzynski = "jarzynski"


class DigitalName(StrEnum):
    """Digital methods whose cost is known as a formula."""

    cholesky = "cholesky"
    lu = "lu"
    cg = "cg"
    cholesky_inverse = "cholesky-inverse"
    newton_schulz = "newton-schulz"
    cholesky_samples = "cholesky-samples"
    kfac = "kfac"
    kfac_rows = "kfac-rows"


class AnalogName(StrEnum):
    """Methods of a device whose cost is known as a formula."""

    solve = "solve"
    average = "average"
    inverse = "inverse"
    inverse_samples = "inverse-samples"
    samples = "samples"
    kfac = "kfac"
    kfac_rows = "kfac-rows"


class ChipName(StrEnum):
    """Digital chips with published figures."""

    v100 = "V100"
    a100 = "A100"
    h100 = "H100"
    h200 = "H200"
    tpu_v3 = "TPUv3"
    tpu_v4 = "TPUv4"
    tpu_v5e = "TPUv5e"
    tpu_v5p = "TPUv5p"


class CircuitName(StrEnum):
    """Devices by what they are made of: their time constant; the rest is that of the published model."""

    rc = "RC"
    rlc = "RLC"
    mechanical = "mechanical"
    josephson = "Josephson"


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]

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
Dtype = Annotated[Precision, typer.Option(help="Type to compute in.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the noise.")]
Out = Annotated[Path | None, typer.Option(help="Write the answer here, as .npy.")]
Curve = Annotated[Path | None, typer.Option("--plot", help="Draw error against device time here, as .png.")]
Counts = Annotated[Path | None, typer.Option("--plot", help="Draw error against number of samples here, as .png.")]
Histogram = Annotated[Path | None, typer.Option("--plot", help="Draw energies of the samples here, as .png.")]
Count = Annotated[int, typer.Option(min=1, help="Number of samples.")]

Preset = Annotated[PresetName, typer.Option("--device", help="Device to run on; `thermolinalg device` lists them.")]
Bits = Annotated[
    int | None, typer.Option(help="Bits of its converters.", show_default="those of the device; ideal: none")
]
Mismatch = Annotated[
    float | None, typer.Option(help="Relative standard deviation of its couplings.", show_default="none")
]
ChipSeed = Annotated[
    int | None, typer.Option(min=0, max=2**32 - 1, help="Which chip of that mismatch it is.", show_default="0")
]
Inertia = Annotated[bool, typer.Option("--underdamped", help="The ideal device with inertia: LC cells in place of RC.")]
Beta = Annotated[
    float | None, typer.Option(help="Inverse temperature of the device.", show_default="that of the device; ideal: 1")
]

BudgetSeconds = Annotated[
    float | None, typer.Option(help="Least error within this time of the device, in place of --rtol.")
]
BudgetJoules = Annotated[
    float | None, typer.Option(help="Least error within this energy of the cells, in place of --rtol.")
]

Noise = Annotated[float | None, typer.Option(help="Variance of one component of b - A x.")]
BetaOfNoise = Annotated[float | None, typer.Option(help="Inverse temperature of the device.", show_default="1")]
Duration = Annotated[
    float | None, typer.Option(help="Time of the average, in units of the equation; the noise is 2 / (beta duration).")
]
IsInverse = Annotated[
    bool, typer.Option("--inverse", help="The answer is an inverse of A that was read as a covariance.")
]
IndependentSamples = Annotated[float | None, typer.Option(help="Number of independent samples behind an inverse.")]

AlongPath = Annotated[
    bool, typer.Option("--path", help="Read the states of one run, which are correlated; else independent samples.")
]
BurnIn = Annotated[
    float | None, typer.Option(help="Time before the first state of a path; ten times the slowest if not given.")
]
Spacing = Annotated[
    float | None, typer.Option(help="Time between states of a path; that of the slowest mode if not given.")
]

OnePreset = Annotated[PresetName | None, typer.Argument(metavar="[PRESET]", help="All of them if not given.")]
Example = Annotated[Path | None, typer.Option(help="Write a matrix of 8 unknowns that every device can hold, as .npy.")]

What = Annotated[
    Quantity,
    typer.Argument(metavar="WHAT", help="bits, noise (1/beta), mismatch, time (in time constants) or kappa."),
]
MatrixOrRandom = Annotated[
    Path | None, typer.Argument(metavar="[A]", help="Symmetric positive definite matrix; random if not given.")
]
Verb = Annotated[Primitive, typer.Option(help="solve (with all ones) or inv.")]
First = Annotated[float | None, typer.Option("--from", help="First value.", show_default="depends on WHAT")]
Last = Annotated[float | None, typer.Option("--to", help="Last value.", show_default="depends on WHAT")]
Points = Annotated[int, typer.Option(min=2, max=1000, help="Number of values.")]
Dim = Annotated[
    int | None, typer.Option(min=2, max=512, help="Unknowns of random matrices.", show_default="32, or what fits")
]
Kappa = Annotated[float | None, typer.Option(help="Their condition number.", show_default="10")]
Repeats = Annotated[
    int, typer.Option(min=1, max=10_000, help="Runs at each value, each with a chip and a random matrix of its own.")
]
SweepRtol = Annotated[
    float | None, typer.Option(help="Error for which the time is planned.", show_default="1e-3; inv: 1e-2")
]
Table = Annotated[Path | None, typer.Option(help="Write the table here, as .csv.")]
Picture = Annotated[Path | None, typer.Option(help="Draw it here, as .png.")]

Against = Annotated[
    list[DigitalName], typer.Option("--digital", help="Digital method; of several, the cheapest counts.")
]
Chip = Annotated[ChipName, typer.Option("--on", case_sensitive=False, help="Chip that it runs on, in FP32.")]
Analog = Annotated[AnalogName, typer.Option("--analog", help="Method of the device.")]
Circuit = Annotated[CircuitName, typer.Option("--device", case_sensitive=False, help="The device.")]
Variable = Annotated[str, typer.Option(help="What varies: any symbol that --list names.")]
Lowest = Annotated[float | None, typer.Option("--from", help="Where to begin.", show_default="depends on what varies")]
Highest = Annotated[float | None, typer.Option("--to", help="Where to end.", show_default="depends on what varies")]
Known = Annotated[
    list[str] | None,
    typer.Option("--at", metavar="NAME=VALUE", help="A number for a symbol, in place of its constant if it has one."),
]
Listed = Annotated[bool, typer.Option("--list", help="List methods, machines and symbols, and compare nothing.")]
Comma = Annotated[Path | None, typer.Option("--csv", help="Write the tables here, as .csv.")]
Latex = Annotated[Path | None, typer.Option("--latex", help="Write the tables here, as .tex.")]
Drawing = Annotated[Path | None, typer.Option("--figure", help="Draw both costs here, as .png.")]
