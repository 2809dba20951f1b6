"""What optimizers of second order have in common around a step: schedules, checks, penalties, damping that adapts."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from thermolinalg.optim.products import ggn_product
from thermolinalg.optim.task import Task
from thermolinalg.optim.trust import LevenbergMarquardt, QuadraticModel, inner

Scalar = float | jax.Array
Scheduled = Scalar | Callable[[jax.Array], Any]
Tree = Any


def at(value: Any, count: jax.Array) -> Any:
    """A number, or a schedule at this step."""
    return value(count) if callable(value) else value


def first_damping(rule: Scheduled | LevenbergMarquardt) -> Any:
    """The damping of the first step."""
    return rule.initial if isinstance(rule, LevenbergMarquardt) else at(rule, jnp.zeros((), jnp.int32))


def damping_of(rule: Scheduled | LevenbergMarquardt, kept: jax.Array, count: jax.Array) -> jax.Array:
    """The damping of this step, in the dtype of the one that is kept."""
    return kept if isinstance(rule, LevenbergMarquardt) else jnp.asarray(at(rule, count), kept.dtype)


def finite(tree: Tree) -> jax.Array:
    """Whether every number of a tree is finite."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.asarray(True)


def sound(grads: Tree, value: jax.Array | None) -> tuple[jax.Array, Tree]:
    """Whether gradient and loss are finite, and the gradient, zero where they are not."""
    healthy = finite(grads) & (True if value is None else jnp.isfinite(value))
    return healthy, jax.tree.map(lambda g: jnp.where(healthy, g, jnp.zeros_like(g)), grads)


def chosen(which: jax.Array, new: Tree, old: Tree) -> Tree:
    """One of two trees, in the dtypes of the second."""
    return jax.tree.map(lambda a, b: jnp.where(which, a.astype(b.dtype), b), new, old)


def decay_of(rule: Scheduled, number: jax.Array, count: jax.Array, dtype: Any) -> jax.Array:
    """The decay of a running mean; the first measurements count alike, or it would be biased towards its start."""
    return jnp.minimum(1 - 1 / number.astype(dtype), jnp.asarray(at(rule, count), dtype))


def known_zero(value: Any) -> bool:
    """Whether a number is zero, known before tracing."""
    return isinstance(value, int | float) and value == 0


def numbers(**values: Any) -> dict[str, Any]:
    """Those of the values that are numbers rather than schedules or rules."""
    rules = LevenbergMarquardt | QuadraticModel
    return {name: v for name, v in values.items() if not callable(v) and not isinstance(v, rules)}


def check_update(name: str, grads: Tree, params: Tree, batch: Any, paths: Iterable[str]) -> None:
    """Raise a ``ValueError`` if an update lacks something, or trees do not match the task's."""
    if params is None:
        raise ValueError(f"{name} needs the parameters: update(grads, state, params, batch=(inputs, targets))")
    if batch is None:
        raise ValueError(
            f"{name} needs the batch that the gradient came from: update(grads, state, params, batch=(inputs, "
            "targets)); without it there is no curvature"
        )
    if jax.tree.structure(grads) != jax.tree.structure(params):  # type: ignore[operator]  # jaxlib has no stubs for it
        raise ValueError("grads and params must be trees of one structure")
    known = {keystr(path) for path, _ in tree_flatten_with_path(params)[0]}
    missing = [path for path in paths if path not in known]
    if missing:
        raise ValueError(
            f"params lacks {', '.join(missing)}, which the task found: build the task from these parameters"
        )


class Look(NamedTuple):
    """The damping of the next step, and the ratio and prediction behind it."""

    damping: jax.Array
    ratio: jax.Array
    predicted: jax.Array


class Move(NamedTuple):
    """A step: from these parameters, on this batch, with this gradient (of the penalty as well)."""

    params: Tree
    batch: Any
    grads: Tree
    step: Tree


def judge(
    rule: Scheduled | LevenbergMarquardt, task: Task, move: Move, l2: Scalar, last: Look, since: jax.Array
) -> Look:
    """Compare what a step does to the loss with its quadratic model, if a rule adapts the damping and that is due.

    `last` is what is known, with the damping of this step, and `since` counts the steps before this one.
    """
    if not isinstance(rule, LevenbergMarquardt):
        return last
    dtype, (params, batch, grads, step) = last.damping.dtype, move

    def penalised(params: Tree) -> jax.Array:
        square = inner(params, params)
        return task.value(params, batch).astype(square.dtype) + jnp.asarray(l2, square.dtype) / 2 * square

    def look() -> Look:
        bent, square = inner(step, ggn_product(task, params, batch, step)), inner(step, step)
        predicted = inner(grads, step) + (bent + jnp.asarray(l2, square.dtype) * square) / 2
        moved = jax.tree.map(lambda p, s: p + s.astype(p.dtype), params, step)
        change, predicted = (penalised(moved) - penalised(params)).astype(dtype), predicted.astype(dtype)
        return Look(rule.adapt(last.damping, change / predicted), change / predicted, predicted)

    due = (since >= 0) & (since % rule.period == rule.period - 1)
    return jax.lax.cond(due, look, lambda: last)
