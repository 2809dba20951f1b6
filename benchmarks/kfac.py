"""K-FAC: steps and time to a loss with every way to invert its blocks, beside SGD and Adam, and a sweep over widths.

    OPENBLAS_NUM_THREADS=1 python benchmarks/kfac.py [--smoke] [--json FILE] [--only digits|autoencoder|width]

Everything is in float32. SGD with momentum and Adam are tuned in the same run, on other seeds than those of the tables;
the settings of K-FAC were chosen by hand on those same other seeds. Digits are those of scikit-learn, which is needed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from timing import goal, interleave, once, ratio, run_parts, show

import thermolinalg as tla
from thermolinalg.optim.analog import ThermodynamicInverse, ThermodynamicSolve
from thermolinalg.optim.eigenbases import CorrectedEigenbases, Eigenbases
from thermolinalg.optim.factors import factors
from thermolinalg.optim.fisher import monte_carlo
from thermolinalg.optim.iterative import CG, NewtonSchulz
from thermolinalg.optim.kfac import kfac
from thermolinalg.optim.kronecker import BlockSolver, Factored, Gradient
from thermolinalg.optim.layers import dense
from thermolinalg.optim.losses import CrossEntropy, SquaredError
from thermolinalg.optim.row_solves import RowSolves
from thermolinalg.optim.solvers import CholeskyInverse
from thermolinalg.optim.task import Task
from thermolinalg.optim.task import task as make_task
from thermolinalg.optim.trust import KLClip

BATCH = 256
TUNING = (0, 1, 2)
SEEDS = (10, 11, 12, 13, 14)
Optimizer = optax.GradientTransformation

# What is trained.


def network(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Dense layers with tanh between them."""
    for layer in params[:-1]:
        x = jnp.tanh(dense(x, layer["w"], layer["b"]))
    return dense(x, params[-1]["w"], params[-1]["b"])


@dataclass(frozen=True, eq=False)
class Problem:
    """Data, a network by its widths, and the loss of all data that counts as trained."""

    task: Task
    sizes: tuple[int, ...]
    inputs: jax.Array
    targets: jax.Array
    target_loss: float
    most: int

    def start(self, seed: Any) -> list[dict[str, jax.Array]]:
        """Random weights of variance one over the inputs of a layer."""
        return start(self.sizes, seed)

    def batches(self, seed: int) -> np.ndarray:
        """Indices of all batches of a run: each pass over the data in an order of its own."""
        rng = np.random.default_rng(seed)
        passes = [self._one_pass(rng) for _ in range(self.most * BATCH // len(self.inputs) + 2)]
        return np.concatenate(passes)[: self.most]

    def _one_pass(self, rng: np.random.Generator) -> np.ndarray:
        count = len(self.inputs) // BATCH
        return rng.permutation(len(self.inputs))[: count * BATCH].reshape(count, BATCH)

    def whole(self, params: Any) -> jax.Array:
        """Loss of all data."""
        return self.task.value(params, (self.inputs, self.targets))

    def step(self, optimizer: Optimizer, params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        """One step of any optimizer."""
        grads = jax.grad(self.task.value)(params, batch)
        extra = {"batch": batch} if isinstance(optimizer, optax.GradientTransformationExtraArgs) else {}
        updates, state = optimizer.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state


def start(sizes: tuple[int, ...], seed: Any) -> list[dict[str, jax.Array]]:
    """Random weights of variance one over the inputs of a layer, and no biases."""
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    return [
        {"w": jax.random.normal(key, (m, n), jnp.float32) / m**0.5, "b": jnp.zeros(n, jnp.float32)}
        for key, m, n in zip(keys, sizes, sizes[1:], strict=False)
    ]


def classify(widths: tuple[int, ...], target_loss: float, most: int) -> Problem:
    """Tell digits from centred images."""
    images, labels = load_digits(return_X_y=True)
    inputs = images / 16
    inputs = jnp.asarray(inputs - inputs.mean(0), jnp.float32)
    sizes = (64, *widths, 10)
    task = make_task(network, CrossEntropy(), start(sizes, 0), inputs[:BATCH])
    return Problem(task, sizes, inputs, jnp.asarray(labels, jnp.int32), target_loss, most)


def encode(widths: tuple[int, ...], target_loss: float, most: int) -> Problem:
    """Give images back through a narrow layer."""
    inputs = jnp.asarray(load_digits().data / 16, jnp.float32)
    inputs = inputs - jnp.mean(inputs, 0, keepdims=True)
    sizes = (64, *widths, 64)
    task = make_task(network, SquaredError(), start(sizes, 0), inputs[:BATCH])
    return Problem(task, sizes, inputs, inputs, target_loss, most)


# How it is trained.


class Trial(NamedTuple):
    """Steps until the loss was reached, none if it was not; seconds for that, and the last state."""

    steps: int | None
    seconds: float
    loss: float
    state: Any


@dataclass(frozen=True, eq=False)
class Trainer:
    """A compiled step of one optimizer on one problem, and how long compiling took."""

    problem: Problem
    optimizer: Optimizer
    step: Callable[..., Any]
    compile_seconds: float

    def trial(self, seed: int, whole: Callable[..., Any]) -> Trial:
        """Train until the loss of all data is reached; only steps are on the clock."""
        problem, params = self.problem, self.problem.start(seed)
        state, seconds, loss = jax.block_until_ready(self.optimizer.init(params)), 0.0, np.inf
        for count, rows in enumerate(problem.batches(seed), 1):
            batch = jax.block_until_ready((problem.inputs[rows], problem.targets[rows]))
            took, (params, state) = once(partial(self.step, params, state, batch))
            seconds, loss = seconds + took, float(whole(params))
            if loss < problem.target_loss:
                return Trial(count, seconds, loss, state)
        return Trial(None, seconds, loss, state)


def compiled(problem: Problem, optimizer: Optimizer) -> Trainer:
    """Compile a step ahead of time, and run it once."""
    params = problem.start(0)
    state, batch = optimizer.init(params), (problem.inputs[:BATCH], problem.targets[:BATCH])
    seconds, step = once(
        lambda: jax.jit(partial(problem.step, optimizer), donate_argnums=(0, 1)).lower(params, state, batch).compile()
    )
    jax.block_until_ready(step(params, state, batch))
    return Trainer(problem, optimizer, step, seconds)


def tuned(
    problem: Problem, family: Callable[[Any], Optimizer], rates: Iterable[float]
) -> tuple[float, dict[float, int | None]]:
    """The learning rate of the fewest steps in the median over the seeds for tuning, and the steps of all rates."""
    rows = jnp.asarray(np.stack([problem.batches(seed) for seed in TUNING]))

    @jax.jit
    def losses(rate: jax.Array) -> jax.Array:
        def run(seed_rows: tuple[jax.Array, jax.Array]) -> jax.Array:
            seed, rows = seed_rows
            optimizer, params = family(rate), problem.start(seed)

            def advance(carry: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
                params, state = problem.step(optimizer, *carry, (problem.inputs[rows], problem.targets[rows]))
                return (params, state), problem.whole(params)

            return jax.lax.scan(advance, (params, optimizer.init(params)), rows)[1]

        return jax.lax.map(run, (jnp.asarray(TUNING), rows))

    found = {}
    for rate in rates:
        reached = np.asarray(losses(jnp.float32(rate))) < problem.target_loss
        found[rate] = _median([int(np.argmax(row)) + 1 if row.any() else None for row in reached])
    return min(found, key=lambda rate: found[rate] or np.inf), found


def _median(steps: list[int | None]) -> float | None:
    """Median where runs that did not arrive count as the longest; None where that is one of them."""
    middle = float(np.median([np.inf if number is None else number for number in steps]))
    return middle if np.isfinite(middle) else None


def contest(problem: Problem, optimizers: Mapping[str, Optimizer], seeds: Iterable[int]) -> dict[str, dict[str, Any]]:
    """Train with every optimizer, one seed after another, so that all see the machine in the same mood."""
    trainers = {name: compiled(problem, optimizer) for name, optimizer in optimizers.items()}
    whole = jax.jit(problem.whole)
    trials: dict[str, list[Trial]] = {name: [] for name in trainers}
    for seed in seeds:
        for name, trainer in trainers.items():
            trials[name].append(trainer.trial(seed, whole))
    return {name: _summary(trainers[name].compile_seconds, runs) for name, runs in trials.items()}


def _summary(compile_seconds: float, runs: list[Trial]) -> dict[str, Any]:
    steps, stats = [run.steps for run in runs], [getattr(run.state, "stats", None) for run in runs]
    device = [float(s.seconds) for s in stats if s is not None]
    joules = [float(s.joules) for s in stats if s is not None]
    return {
        "steps": _median(steps),
        "of each seed": steps,
        "seconds": float(np.median([run.seconds if run.steps else np.inf for run in runs])),
        "seconds of each seed": [run.seconds for run in runs],
        "ms per step": 1e3 * float(np.median([run.seconds / (run.steps or 1) for run in runs])),
        "compile, s": compile_seconds,
        "largest last loss": max(run.loss for run in runs),
        "fallbacks": sum(int(s.fallbacks) for s in stats if s is not None),
        "device seconds, modelled": float(np.median(device)) if any(device) else None,
        "device joules, modelled": float(np.median(joules)) if any(joules) else None,
    }


def first_order(problem: Problem, smoke: bool) -> tuple[dict[str, Optimizer], dict[str, Any]]:
    """SGD with momentum and Adam at their best learning rates, and what was tried."""
    families: dict[str, tuple[Callable[[Any], Optimizer], list[float]]] = {
        "SGD, momentum 0.9": (lambda rate: optax.sgd(rate, 0.9), [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]),
        "SGD, momentum 0.95": (lambda rate: optax.sgd(rate, 0.95), [0.02, 0.05, 0.1, 0.2, 0.3, 0.5]),
        "Adam": (optax.adam, [1e-3, 2e-3, 3e-3, 5e-3, 7e-3, 1e-2, 1.5e-2, 2e-2]),
    }
    best, tried = {}, {}
    for name, (family, rates) in families.items():
        rate, tried[name] = tuned(problem, family, rates[2:4] if smoke else rates)
        best[f"{name}, rate {rate:g}"] = family(rate)
    return best, tried


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
    goals = {f"K-FAC / SGD, n = {n}": goal(sizes[n]["over SGD"]["K-FAC"], at_most=8.0) for n in (1024,) if n in sizes}
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
