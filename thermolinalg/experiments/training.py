"""One loop that trains any problem with any optimizer, and watches both."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from thermolinalg.experiments.history import History, Measurement
from thermolinalg.experiments.problem import Problem, stack
from thermolinalg.experiments.telemetry import Telemetry, telemetry
from thermolinalg.optim.solvers import Code
from thermolinalg.optim.task import Task
from thermolinalg.ranges import check_whole

Optimizer = Callable[[Task], optax.GradientTransformation]
Watch = Callable[[int, float], None]


@dataclass(frozen=True)
class Course:
    """How long a run is, and how often it is measured.

    Attributes
    ----------
    steps : int, >= 1
    batch : int, >= 1
        Examples of one step.
    every : int, >= 1
        Steps between two measurements.
    measured : int, >= 1
        Examples, at most, that a measurement looks at on either side of the split: the first ones.
    """

    steps: int = 200
    batch: int = 64
    every: int = 20
    measured: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "every", "measured"):
            check_whole(name, getattr(self, name), 1)


def train(
    problem: Problem,
    optimizer: Optimizer,
    course: Course,
    *,
    key: jax.Array,
    name: str = "",
    watch: Watch | None = None,
) -> tuple[Any, History]:
    """Train a problem.

    Parameters
    ----------
    problem : Problem
    optimizer : callable
        From a task to an optax transformation: ``lambda task: kfac(task, ...)``, ``lambda task: optax.adam(1e-3)``.
        What takes extra arguments receives ``batch`` and ``value``.
    course : Course
    key : PRNG key
        Of the order of the examples.
    name : str
        What to call the run.
    watch : callable, optional
        Called with the number of steps taken and the last loss, after every measurement.

    Returns
    -------
    params : pytree
        Where training ended.
    history : History

    Raises
    ------
    ValueError
        If a batch is larger than the set.

    Notes
    -----
    Examples come in a fresh order in every pass; what is left over at its end waits for another one. A step is compiled
    once. Times of steps are wall-clock times of this machine; times of a device are modelled, and are never added to
    them. A loss that is not finite stops nothing: it is counted.

    Examples
    --------
    >>> from thermolinalg.experiments import datasets, models, problem
    >>> from thermolinalg.optim.losses import SquaredError
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> pairs = datasets.Examples(x, 2 * x)
    >>> line = datasets.Dataset("line", pairs, pairs, "made up")
    >>> start = models.init_mlp(jax.random.key(0), (1, 1))
    >>> fit = problem.Problem(models.mlp, SquaredError(), start, line, lambda y, t: abs(y - t)[:, 0], "error")
    >>> params, history = train(fit, lambda task: optax.sgd(0.5), Course(60, 16), key=jax.random.key(1))
    >>> bool(history.last.test_loss < 1e-6)
    True
    """
    examples = problem.data.train
    if course.batch > len(examples):
        raise ValueError(
            f"batch must be at most the number of examples, {len(examples)}, got {course.batch}; take a smaller batch"
        )
    task = problem.task
    # Copied, since steps overwrite both, and two leaves may be one array.
    params, state = jax.tree.map(
        lambda x: jnp.array(x, copy=True), (problem.params, optimizer(task).init(problem.params))
    )
    arrays = jax.tree.map(jnp.asarray, (examples.inputs, examples.targets))
    order = _order(key, len(examples), course.batch)
    begin = perf_counter()
    step = _compile(problem, task, optimizer, params, state, arrays, course.batch)
    compiling = perf_counter() - begin
    measure = _measure(problem, task, course)

    wall, taken, losses, codes = 0.0, 0, [], Counter[str]()
    told = telemetry(state)
    measurements = [_measurement(0, measure(params), wall, told)]
    while taken < course.steps:
        count = min(course.every, course.steps - taken)
        found, batches = [], [next(order) for _ in range(count)]
        begin = perf_counter()
        for where in batches:
            params, state, loss, told = step(params, state, where, arrays, problem.constants)
            found.append((loss, told.code))
        jax.block_until_ready((params, state))
        wall += perf_counter() - begin
        taken += count
        losses += [float(loss) for loss, _ in found]
        codes.update(Code(int(code)).name for _, code in found if int(code))
        measurements.append(_measurement(taken, measure(params), wall, told))
        if watch is not None:
            watch(taken, losses[-1])
    history = History(
        *(name, problem.score_name, np.array(losses), tuple(measurements), compiling),
        *(int(told.rejected), int(told.fallbacks), int(np.sum(~np.isfinite(losses))), dict(codes)),
    )
    return params, history


def _order(key: jax.Array, count: int, batch: int) -> Iterator[np.ndarray]:
    """Numbers of the examples of one batch after another."""
    epoch = 0
    while True:
        mixed = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), count), np.int32)
        yield from mixed[: count // batch * batch].reshape(-1, batch)
        epoch += 1


def _compile(
    problem: Problem, task: Task, optimizer: Optimizer, params: Any, state: Any, arrays: Any, batch: int
) -> Callable[..., Any]:
    """One step, compiled."""

    def step(params: Any, state: Any, where: jax.Array, arrays: Any, constants: Any) -> tuple[Any, Any, Any, Telemetry]:
        # Bound here, constants are arguments of the compiled step and no part of its code.
        bound = replace(task, model=problem.bound(*constants))
        inputs, targets = jax.tree.map(lambda x: x[where], arrays)
        loss, grads = bound.value_and_gradient(params, (inputs, targets))
        transform = optax.with_extra_args_support(optimizer(bound))
        updates, state = transform.update(grads, state, params, batch=(inputs, targets), value=loss)
        return optax.apply_updates(params, updates), state, loss, telemetry(state)

    where = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, where, arrays, problem.constants).compile()


def _measure(problem: Problem, task: Task, course: Course) -> Callable[[Any], tuple[float, ...]]:
    """Losses and scores of parameters: training examples first, then the others."""
    parts = []
    for examples in (problem.data.train, problem.data.test):
        some = examples.part(slice(None, course.measured))
        stacked, counts = stack(some, min(course.batch, len(some)))
        parts.append(jax.tree.map(jnp.asarray, (stacked.inputs, stacked.targets, counts)))

    @jax.jit
    def means(params: Any, part: Any, constants: Any) -> jax.Array:
        model = problem.bound(*constants)

        def one(batch: Any) -> jax.Array:
            inputs, targets, counts = batch
            outputs = model(params, inputs)
            values = jnp.stack([task.loss.value(outputs, targets), problem.score(outputs, targets)]).astype(jnp.float32)
            return jnp.sum(values * counts[None], 1)

        return jnp.sum(jax.lax.map(one, part), 0) / jnp.sum(part[2])

    return lambda params: tuple(float(x) for part in parts for x in means(params, part, problem.constants))


def _measurement(step: int, means: tuple[float, ...], wall: float, told: Telemetry) -> Measurement:
    train_loss, train_score, test_loss, test_score = means
    costs = (float(told.seconds), float(told.joules))
    return Measurement(step, train_loss, train_score, test_loss, test_score, wall, *costs)
