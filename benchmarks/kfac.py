"""K-FAC: steps and time to a loss with every way to invert its blocks, beside SGD and Adam, and a sweep over widths.

    OPENBLAS_NUM_THREADS=1 python benchmarks/kfac.py [--smoke] [--json FILE] [--only digits|autoencoder|width]

Everything is in float32. SGD with momentum and Adam are tuned in the same run, on other seeds than those of the tables;
the settings of K-FAC were chosen by hand on those same other seeds. Digits are those of scikit-learn, which is needed.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import goal, interleave, ratio, run_parts, show
from training import BATCH, SEEDS, Optimizer, Trainer, classify, compiled, contest, encode, first_order

import thermolinalg as tla
from thermolinalg.optim.analog import ThermodynamicInverse, ThermodynamicSolve
from thermolinalg.optim.eigenbases import CorrectedEigenbases, Eigenbases
from thermolinalg.optim.factors import factors
from thermolinalg.optim.fisher import monte_carlo
from thermolinalg.optim.iterative import CG, NewtonSchulz
from thermolinalg.optim.kfac import kfac
from thermolinalg.optim.kronecker import BlockSolver, Factored, Gradient
from thermolinalg.optim.row_solves import RowSolves
from thermolinalg.optim.solvers import CholeskyInverse
from thermolinalg.optim.task import Task
from thermolinalg.optim.trust import KLClip

# Digits: K-FAC with every way to invert.

PERIODS = {"factor_period": 10, "inverse_period": 10}
DIGITS = {"learning_rate": 0.3, "momentum": 0.7, "damping": 0.05, "limit": KLClip(0.3), **PERIODS}
# Exact damping damps less; EKFAC has to measure between refreshes.
OWN = {"eigenbases": {"damping": 0.1}, "EKFAC": {"damping": 0.1, "factor_period": 2}}


def back_ends() -> dict[str, BlockSolver]:
    """Every way to invert a block; devices read to some ten per cent."""
    ideal = tla.Device(simulator=tla.Law(long_time=True))
    eight = tla.Converter(8)
    coarse = tla.Device(matrix_dac=eight, adc=eight, simulator=tla.Law(long_time=True))
    sampled, averaged = tla.Plan(300.0, 1e6, samples=25_000), tla.Plan(300.0, 3000.0)
    forced = tla.Device(beta=1e4)
    forced_coarse = tla.Device(beta=1e4, matrix_dac=eight, force_dac=eight, adc=eight)
    return {
        "Cholesky inverse": Factored(CholeskyInverse()),
        "rows": RowSolves(),
        "eigenbases": Eigenbases(),
        "EKFAC": CorrectedEigenbases(),
        "conjugate gradients": Factored(CG(rtol=1e-2, max_steps=50)),
        "Newton-Schulz": Factored(NewtonSchulz(rtol=1e-3)),
        "device, inverse": Factored(ThermodynamicInverse(sampled, device=ideal)),
        "device, inverse, 8 bits": Factored(ThermodynamicInverse(sampled, device=coarse)),
        "device, solve": Factored(ThermodynamicSolve(averaged, device=forced)),
        "device, solve, 8 bits": Factored(ThermodynamicSolve(averaged, device=forced_coarse)),
    }


def digits(smoke: bool) -> dict[str, Any]:
    """Steps and seconds to a cross-entropy of 0.01 on all digits."""
    problem = classify((16,), 1.0, 6) if smoke else classify((256, 256), 0.01, 150)
    seeds = SEEDS[:1] if smoke else SEEDS
    known, tried = first_order(problem, smoke)
    solvers = back_ends()
    settings = {name: DIGITS | OWN.get(name, {}) for name in solvers}
    ours = {f"K-FAC, {name}": kfac(problem.task, blocks=blocks, **settings[name]) for name, blocks in solvers.items()}
    found = contest(problem, known | ours, seeds)
    best = min(known, key=lambda name: found[name]["seconds"])
    exact, coarse = (found[f"K-FAC, {name}"] for name in ("Cholesky inverse", "device, inverse, 8 bits"))
    pairs = zip(exact["seconds of each seed"], found[best]["seconds of each seed"], strict=True)
    _show(f"Digits: {'-'.join(map(str, problem.sizes))}, batch {BATCH}, to a cross-entropy of 0.01", found, seeds)
    return {
        "settings": {name: _plain(own) for name, own in settings.items()},
        "tuning": tried,
        "runs": found,
        "best first-order": best,
        "goals": {
            "steps of K-FAC": goal(exact["steps"] or np.inf, at_most=40),
            f"seconds of K-FAC over {best}": goal(float(np.median([a / b for a, b in pairs])), at_most=1.0),
            "steps with 8 bits over exact": goal((coarse["steps"] or np.inf) / (exact["steps"] or np.inf), at_most=1.3),
            "compile time of a step, s": goal(exact["compile, s"], at_most=5.0),
        },
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, int | float) else str(value) for name, value in settings.items()}


def _show(title: str, found: dict[str, dict[str, Any]], seeds: Iterable[int]) -> None:
    columns = ("steps", "seconds", "ms per step", "compile, s", "fallbacks", "device seconds, modelled")
    rows = [{"": name} | {column: row[column] for column in columns} for name, row in found.items()]
    show(
        title, rows, f"medians of {len(list(seeds))} seeds; compilation apart; device seconds are those of a cost model"
    )


# Autoencoder.

ENCODER = {"learning_rate": 0.3, "momentum": 0.7, "damping": 0.1, "factor_period": 5, "inverse_period": 5}


def autoencoder(smoke: bool) -> dict[str, Any]:
    """Steps and seconds to an error per image, half the squared distance."""
    problem = encode((8,), 2.0, 6) if smoke else encode((128, 32, 128), 0.2, 300)
    seeds = SEEDS[:1] if smoke else SEEDS
    known, tried = first_order(problem, smoke)
    found = contest(problem, known | {"K-FAC": kfac(problem.task, **ENCODER)}, seeds)
    best = min(known, key=lambda name: found[name]["seconds"])
    ours = found["K-FAC"]
    _show(f"Autoencoder: {'-'.join(map(str, problem.sizes))}, to {problem.target_loss:g} per image", found, seeds)
    return {
        "settings": _plain(ENCODER),
        "tuning": tried,
        "runs": found,
        "best first-order": best,
        "goals": {"steps of K-FAC": goal(ours["steps"] or np.inf, at_most=80)},
    }


# Widths: where a step spends its time.


def widths(smoke: bool) -> dict[str, Any]:
    """Milliseconds of a step, in the mean over five with one refresh, and of its parts."""
    repeats = {16: 1} if smoke else {128: 21, 256: 15, 512: 9, 1024: 5, 2048: 2}
    sizes = {n: _width(n, count) for n, count in repeats.items()}
    columns = {f"n = {n}": row for n, row in sizes.items()}
    first = sizes[min(sizes)]
    for what in ("step, ms", "part, ms", "share", "over SGD"):
        rows = [{what: name} | {c: row[what][name] for c, row in columns.items()} for name in first[what]]
        show(f"Widths: 64-n-n-10, batch {BATCH}: {what}", rows)
    goals = {
        f"K-FAC by rows / SGD, n = {n}": goal(sizes[n]["over SGD"]["K-FAC, rows"], at_most=8.0)
        for n in (1024,)
        if n in sizes
    }
    return {"sizes": sizes, "goals": goals}


def _width(n: int, repeats: int) -> dict[str, Any]:
    problem = classify((n, n), 0.0, 5)
    task, params = problem.task, problem.start(0)
    batch = problem.inputs[:BATCH], problem.targets[:BATCH]
    often = partial(kfac, task, 1e-3, damping=0.1, inverse_period=5)
    optimizers: dict[str, Optimizer] = {
        "SGD": optax.sgd(1e-3, 0.9),
        "Adam": optax.adam(1e-3),
        "K-FAC": often(),
        "K-FAC, factors every 5": often(factor_period=5),
        "K-FAC, rows": often(blocks=RowSolves()),
    }
    calls: dict[str, Callable[[], Any]] = {
        name: _five(compiled(problem, optimizer), params, batch) for name, optimizer in optimizers.items()
    }
    steps = {name: timing.per(5) for name, timing in interleave(calls, repeats).items()}

    blocks, key = Factored(), jax.random.key(0)
    capture = jax.jit(partial(_capture, task))
    pairs = capture(params, batch, key)
    state = blocks.init(pairs)
    prepare = jax.jit(lambda pairs, state: blocks.prepare(pairs, jnp.float32(0.1), state, key))
    ready = prepare(pairs, state)
    matrices = {path: jnp.ones((*p.lead, p.rows, p.columns), jnp.float32) for path, p in pairs.items()}
    apply = jax.jit(lambda matrices, state: blocks.apply(Gradient(matrices, dict), state, key)[0])
    gradient = jax.jit(jax.grad(task.value))
    parts = interleave(
        {
            "gradient": partial(gradient, params, batch),
            "capture": partial(capture, params, batch, key),
            "inversion": partial(prepare, pairs, state),
            "application": partial(apply, matrices, ready),
        },
        repeats,
    )
    parts["inversion"] = parts["inversion"].per(5)
    total = sum(timing.median for timing in parts.values())
    return {
        "step, ms": {name: 1e3 * timing.median for name, timing in steps.items()},
        "part, ms": {name: 1e3 * timing.median for name, timing in parts.items()},
        "share": {name: timing.median / total for name, timing in parts.items()},
        "over SGD": {name: ratio(timing, steps["SGD"]) for name, timing in steps.items()},
    }


def _capture(task: Task, params: Any, batch: Any, key: jax.Array) -> Any:
    """Factors of a batch, from targets that are drawn."""
    inputs, targets = batch
    columns = monte_carlo(task.loss, task.outputs(params, inputs), targets, key)
    return factors(task.model, params, inputs, columns, task.layout)


def _five(trainer: Trainer, params: Any, batch: Any) -> Callable[[], Any]:
    """Five steps, one of which refreshes, from wherever the last five ended."""
    held = jax.tree.map(jnp.copy, params), trainer.optimizer.init(params)

    def call() -> Any:
        nonlocal held
        for _ in range(5):
            held = trainer.step(*held, batch)
        return held

    return call


PARTS = {"digits": digits, "autoencoder": autoencoder, "width": widths}


if __name__ == "__main__":
    run_parts(PARTS, __doc__)
