"""Small networks on the digits of scikit-learn, and contests between optimizers: what benchmarks of training share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from timing import once

from thermolinalg.optim.layers import dense
from thermolinalg.optim.losses import CrossEntropy, SquaredError
from thermolinalg.optim.task import Task
from thermolinalg.optim.task import task as make_task

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
