"""Questions about answers, plans and devices that no single run answers."""

from pathlib import Path
from typing import Annotated

import typer

import thermolinalg.commands.options as opt
from thermolinalg.commands.certificates import certify_inverse, certify_solution, noise_of
from thermolinalg.commands.devices import Hardware, PresetName, listed, write_example
from thermolinalg.commands.job import status
from thermolinalg.commands.linear import Solve
from thermolinalg.commands.planning import planned
from thermolinalg.commands.running import one_line_errors, print_report
from thermolinalg.commands.session import Precision, Session
from thermolinalg.commands.sweeps import Primitive, Sweep
from thermolinalg.files import check_target
from thermolinalg.plan import Budget
from thermolinalg.report import plain


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
    with one_line_errors():
        limited = budget_seconds is not None or budget_joules is not None
        budget = Budget(budget_seconds, budget_joules) if limited else None
        session = Session(dtype, drawn=False, live=not as_json)
        hardware = Hardware(device, bits, mismatch, chip_seed, underdamped, beta)
        job = Solve.prepare(session, a, b, hardware.build(), rtol, confidence, budget=budget, replicas=replicas)
        parts = planned(job, budget)
        report = plain(parts | {"simulation_s": session.seconds, "status": status(job.system.program.status)})
        report["device"] |= hardware.facts
        print_report(report, as_json)
    raise typer.Exit(1 if report["status"]["flags"] else 0)


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
    with one_line_errors():
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
        print_report(report, as_json)
    # The verdict is one, or one for each column, or none.
    passed = report["certificate"]["passed"]
    raise typer.Exit(1 if passed is False or (isinstance(passed, list) and not all(passed)) else 0)


def describe(
    preset: opt.OnePreset = None,
    example: opt.Example = None,
    as_json: opt.Json = False,
) -> None:
    """List the devices that --device knows: their figures, where these are from, and what is assumed."""
    with one_line_errors():
        if example is not None:
            check_target(example, ".npy")
            write_example(example)
        report = plain(listed(list(PresetName) if preset is None else [preset])) | {
            "example": None if example is None else str(example)
        }
        print_report(report, as_json)


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
    with one_line_errors():
        for path, suffix in ((out, ".csv"), (plot, ".png")):
            if path is not None:
                check_target(path, suffix)
        session = Session(Precision.float64, drawn=plot is not None, live=not as_json, seed=seed)
        hardware = Hardware(device, bits, mismatch, chip_seed, underdamped, beta)
        job = Sweep.prepare(session, what, primitive, hardware, a, dim, kappa, rtol)
        print_report(job.carry_out(low, high, points, repeats, out, plot), as_json)
