"""Train a model on real data with one optimizer or several, and compare them."""

import json
import platform
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import thermolinalg as tla
import thermolinalg.commands.options as opt
from thermolinalg.commands.devices import Hardware, PresetName, facts_of
from thermolinalg.commands.problems import DataName, ModelName, image_problem
from thermolinalg.commands.recipes import (
    ON_DEVICE,
    RELAXING,
    BackendName,
    LaneName,
    OptimizerName,
    Reading,
    Recipe,
    Relaxation,
)
from thermolinalg.commands.running import one_line_errors
from thermolinalg.experiments.history import History
from thermolinalg.experiments.problem import Problem, shapes
from thermolinalg.experiments.training import Course
from thermolinalg.experiments.training import train as run_training
from thermolinalg.files import check_target, write_bytes
from thermolinalg.optim.fisher import Columns, exact, monte_carlo
from thermolinalg.optim.solvers import Code
from thermolinalg.report import plain

_MOST_STEPS, _MOST_COLUMNS = 1_000_000, 32


def train(
    data: Annotated[DataName, typer.Argument(metavar="DATA", help="mnist, fashion, digits or squad.")],
    model: Annotated[
        ModelName | None, typer.Option(help="Model of images.", show_default="cnn; mlp for digits")
    ] = None,
    optimizer: Annotated[OptimizerName, typer.Option(help="Optimizer.")] = OptimizerName.kfac,
    backend: Annotated[BackendName, typer.Option(help="What inverts the blocks of kfac.")] = BackendName.cholesky,
    compare: Annotated[
        list[OptimizerName] | None, typer.Option(help="Another optimizer to run, with its own usual numbers.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=_MOST_STEPS, help="Steps.", show_default="200; squad: 100")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples of a step.", show_default="64; squad: 16")] = None,
    every: Annotated[int | None, typer.Option(min=1, help="Steps between two measurements.", show_default="20")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Learning rate.", show_default="0.1; adam: 1e-3; tngd-adam: 0.01; ngd, tngd: 0.3"),
    ] = None,
    momentum: Annotated[
        float | None,
        typer.Option(help="Momentum; for adam its first decay, for ngd and tngd that of SPRING.", show_default="0.9"),
    ] = None,
    damping: Annotated[
        float | None, typer.Option(help="Damping of curvatures.", show_default="kfac: 0.03; others: 1")
    ] = None,
    lane: Annotated[
        LaneName | None, typer.Option(help="How ngd solves its system.", show_default="what suits the sizes")
    ] = None,
    relaxation: Annotated[
        float | None, typer.Option(help="Time of a step of tngd, in time constants.", show_default="50")
    ] = None,
    carry: Annotated[bool, typer.Option("--carry", help="tngd: begin a step where the last one ended.")] = False,
    delay: Annotated[
        float | None,
        typer.Option(help="tngd: part of its time spent with the old system; needs --carry.", show_default="0"),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="tngd: temperature.", show_default="0")] = None,
    device: opt.Preset = PresetName.ideal,
    bits: opt.Bits = None,
    mismatch: opt.Mismatch = None,
    chip_seed: opt.ChipSeed = None,
    beta: opt.Beta = None,
    noise: Annotated[
        float | None,
        typer.Option(
            help="Relative error that every run of the device is planned for.", show_default="no plan: --time"
        ),
    ] = None,
    time: Annotated[float, typer.Option(help="Length of every run, in time constants of the device.")] = 1e5,
    folder: Annotated[
        Path | None, typer.Option("--data", help="Folder of the files of fashion or squad.", show_default="usual place")
    ] = None,
    seed: opt.Seed = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A tiny model, a few steps: to see that all works.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves here, as .png.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write all numbers and settings here, as .json.")] = None,
) -> None:
    """Train a model on real data, with curvature from a simulated device if you like, and compare optimizers.

    Wall-clock times are those of this machine, without compiling. Times of a device are modelled.
    """
    with one_line_errors():
        for path, suffix in ((plot, ".png"), (out, ".json")):
            if path is not None:
                check_target(path, suffix)
        hardware = Hardware(device, bits, mismatch, chip_seed, beta=beta)
        reading = Reading(hardware.build(), noise, time)
        _check_used(optimizer, backend, hardware, noise)
        asked = {"time": relaxation, "delay": delay, "temperature": temperature, "carry": carry or None}
        chosen: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        _check_lane(optimizer, lane, chosen)
        numbers = (learning_rate, momentum, damping)
        relaxing = Relaxation(reading.device, **chosen)
        recipes = [Recipe(optimizer, backend, reading, *numbers, seed, lane, relaxing)]
        recipes += [Recipe(other, BackendName.cholesky, reading, seed=seed) for other in compare or []]
        start, order = jax.random.split(jax.random.key(seed))
        problem = _problem(data, model, folder, smoke, start)
        recipes = [replace(recipe, fisher=_columns(problem)) for recipe in recipes]
        course = _course(data, steps, batch, every, smoke)
        histories = [_run(problem, recipe, course, order) for recipe in recipes]
        report = _report(problem, course, recipes, histories, hardware, reading, seed)
        if plot is not None:
            from thermolinalg.figures import png
            from thermolinalg.figures.training import training_figure

            write_bytes(plot, png(training_figure(histories, _title(problem, course))))
        if out is not None:
            write_bytes(out, (json.dumps(plain(report), allow_nan=False) + "\n").encode())
    _show(problem, course, histories, report)


def _columns(problem: Problem) -> Columns:
    """All columns of the curvature of an example, or where they are too many, one that is drawn."""
    inputs = shapes(problem.data.train.part(slice(None, 1)).inputs)
    outputs = jax.eval_shape(problem.task.outputs, shapes(problem.params), inputs)
    return exact if outputs.size <= _MOST_COLUMNS else monte_carlo


def _check_used(optimizer: OptimizerName, backend: BackendName, hardware: Hardware, noise: float | None) -> None:
    """Refuse what would be ignored."""
    if optimizer is not OptimizerName.kfac and backend is not BackendName.cholesky:
        raise ValueError(f"--backend is what inverts the blocks of kfac, and {optimizer} has none; leave it out")
    if optimizer in RELAXING:
        if hardware.beta is not None or noise is not None:
            raise ValueError(f"--beta and --noise are not of {optimizer}; take --temperature and --relaxation")
        return
    analog = optimizer is OptimizerName.kfac and backend in ON_DEVICE
    if not analog and (hardware != Hardware() or noise is not None):
        raise ValueError(
            "--device, --bits, --mismatch, --beta and --noise are those of a device; take --backend thermodynamic or "
            "thermodynamic-solve, or --optimizer tngd, or leave them out"
        )


def _check_lane(optimizer: OptimizerName, lane: LaneName | None, chosen: dict[str, Any]) -> None:
    """Refuse what would be ignored."""
    if lane is not None and optimizer is not OptimizerName.ngd:
        raise ValueError(f"--lane is how ngd solves its system, and {optimizer} has none; leave it out")
    if chosen and optimizer not in RELAXING:
        raise ValueError(
            f"--relaxation, --carry, --delay and --temperature are those of tngd and tngd-adam, and not of {optimizer};"
            " leave them out"
        )


def _problem(data: DataName, model: ModelName | None, folder: Path | None, smoke: bool, key: jax.Array) -> Problem:
    if data is not DataName.squad:
        usual = ModelName.mlp if data is DataName.digits else ModelName.cnn
        return image_problem(data, model or usual, folder, smoke, key)
    if model is not None:
        raise ValueError("--model is one of images; squad trains low-rank changes of MiniLM-L6")
    from thermolinalg.experiments.squad import squad_problem

    return squad_problem(key, folder, smoke=smoke)


def _course(data: DataName, steps: int | None, batch: int | None, every: int | None, smoke: bool) -> Course:
    text = data is DataName.squad
    if smoke:
        usual = Course(2, 2, 1, 2) if text else Course(6, 16, 3, 64)
    else:
        usual = Course(100, 16, 20, 96) if text else Course()
    given = (steps or usual.steps, batch or usual.batch, every or min(usual.every, steps or usual.steps))
    return Course(*given, usual.measured)


def _run(problem: Problem, recipe: Recipe, course: Course, key: jax.Array) -> History:
    """Train, with a bar where there is a terminal."""
    console = Console(stderr=True)
    bar = Progress(*Progress.get_default_columns(), "{task.fields[loss]}", console=console, transient=True)
    with bar if console.is_terminal else nullcontext():
        job = bar.add_task(recipe.name, total=course.steps, loss="compiling")

        def watch(step: int, loss: float) -> None:
            bar.update(job, completed=step, loss=f"loss {loss:.4g}")

        return run_training(problem, recipe.build, course, key=key, name=recipe.name, watch=watch)[1]


def _report(
    problem: Problem,
    course: Course,
    recipes: list[Recipe],
    histories: list[History],
    hardware: Hardware,
    reading: Reading,
    seed: int,
) -> dict[str, Any]:
    import optax

    used = facts_of(reading.device) | hardware.facts
    if any(recipe.on_device and recipe.optimizer not in RELAXING for recipe in recipes):
        used |= {"noise": reading.noise, "time": reading.time}
    return {
        "problem": {
            "data": problem.data.name,
            "source": problem.data.source,
            "training_examples": len(problem.data.train),
            "test_examples": len(problem.data.test),
            "parameters": problem.size,
        },
        "course": asdict(course),
        "seed": seed,
        "device": used if any(recipe.on_device for recipe in recipes) else None,
        "runs": [
            {"settings": recipe.facts} | history.as_dict() for recipe, history in zip(recipes, histories, strict=True)
        ],
        "versions": {
            "thermolinalg": tla.__version__,
            "jax": jax.__version__,
            "optax": optax.__version__,
            "python": platform.python_version(),
        },
        "backend": jax.default_backend(),
    }


def _title(problem: Problem, course: Course) -> str:
    return f"{problem.data.name}, {problem.size:,} parameters, batches of {course.batch}"


def _show(problem: Problem, course: Course, histories: list[History], report: dict[str, Any]) -> None:
    """Tables of how the runs ended, and in words what went wrong."""
    console = Console(highlight=False, markup=False)
    score = problem.score_name
    style: dict[str, Any] = {"title_justify": "left", "box": None, "header_style": "bold"}
    heads = ("optimizer", "steps", "train loss", "test loss", f"train {score}", f"test {score}")
    results = Table(*heads, title=_title(problem, course), **style)
    counted = (
        "optimizer",
        "wall s",
        "compiling s",
        "device s, modelled",
        "device J, modelled",
        "rejected",
        "fallbacks",
    )
    costs = Table(*counted, title="Costs of the steps", **style)
    for history in histories:
        end = history.last
        means = (end.train_loss, end.test_loss, end.train_score, end.test_score)
        device = ("-", "-") if end.device_seconds == 0 else (f"{end.device_seconds:.3g}", f"{end.joules:.3g}")
        results.add_row(history.name, str(end.step), *(f"{mean:.4g}" for mean in means))
        times = (f"{end.wall_seconds:.2f}", f"{history.compile_seconds:.2f}", *device)
        costs.add_row(history.name, *times, str(history.rejected), str(history.fallbacks))
    console.print(results)
    console.print()
    console.print(costs)
    for history in histories:
        if history.not_finite:
            console.print(f"\n{history.name}: the loss of {history.not_finite} steps was not finite.")
        for name, count in history.codes.items():
            console.print(f"\n{history.name}: {name} in {count} of {history.last.step} steps. {Code[name].advice}")
