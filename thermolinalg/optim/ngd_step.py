r"""One step of natural gradient: state a damped system, take a lane through it, choose a length, keep the books."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thermolinalg.optim.books import (
    Look,
    Move,
    Scalar,
    Scheduled,
    Tree,
    at,
    check_update,
    chosen,
    damping_of,
    first_damping,
    judge,
    known_zero,
    numbers,
    sound,
)
from thermolinalg.optim.choice import choose
from thermolinalg.optim.fisher import Columns
from thermolinalg.optim.lanes import Lane, Problem, State
from thermolinalg.optim.solvers import Info, usable
from thermolinalg.optim.task import Task, as_batch
from thermolinalg.optim.trees import like, scaled, statistics_dtype, widened
from thermolinalg.optim.trust import LevenbergMarquardt, Limit, inner
from thermolinalg.ranges import check_not_negative, check_positive, check_whole


class NgdStats(NamedTuple):
    r"""What the last step did, all arrays of shape ().

    Attributes
    ----------
    learning_rate, momentum, damping
        As used.
    scale
        Factor by which a limit shortened the step, 1 for none.
    slope
        :math:`\langle x, g\rangle`: positive for a direction of descent.
    ratio, predicted
        Actual over predicted change of the loss, and the predicted one, at the last look; NaN before it.
    solve : Info
        What the solver reported.
    rejected : int
        Steps so far that were refused because loss or gradient were not finite.
    fallbacks : int
        Steps so far along the plain gradient, because the solver failed.
    seconds, joules
        Modelled time and energy of a device so far.
    """

    learning_rate: jax.Array
    momentum: jax.Array
    damping: jax.Array
    scale: jax.Array
    slope: jax.Array
    ratio: jax.Array
    predicted: jax.Array
    solve: Info
    rejected: jax.Array
    fallbacks: jax.Array
    seconds: jax.Array
    joules: jax.Array


class NgdState(NamedTuple):
    """Everything that natural gradient remembers: a pytree of arrays of fixed shapes and dtypes."""

    count: jax.Array  # type: ignore[assignment]  # the name that optax gives it
    key: jax.Array
    lane: State
    damping: jax.Array
    length: jax.Array
    last: Tree
    stats: NgdStats


@dataclass(frozen=True)
class NaturalStep:
    """Settings, checked, and the two functions of the transformation. Without a learning rate the direction is kept."""

    task: Task
    learning_rate: Scheduled | None
    damping: Scheduled | LevenbergMarquardt
    lane: Lane | None
    fisher: Columns
    momentum: Scheduled
    l2: Scalar
    weight_decay: Scheduled
    limit: Limit | None
    seed: int

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise ValueError(f"task must come from optim.task(model, loss, params, inputs), got {self.task!r}")
        if self.lane is not None and (not isinstance(self.lane, Lane) or isinstance(self.lane, type)):
            raise ValueError(f"lane must be Primal(), Dual(), Iterative() or have init and step, got {self.lane!r}")
        check_positive(**numbers(learning_rate=self.learning_rate, damping=self.damping))
        check_not_negative(**numbers(momentum=self.momentum, weight_decay=self.weight_decay), l2=self.l2)
        check_whole("seed", self.seed, 0)

    def init(self, params: Tree) -> NgdState:
        """Nothing is known yet."""
        dtype, zero = statistics_dtype(params), jnp.zeros((), jnp.float32)
        number, nan = jnp.zeros((), jnp.int32), jnp.full((), jnp.nan, dtype)
        start, still = jnp.zeros((), dtype), Info(number, zero, zero, zero, zero, zero)
        stats = NgdStats(start, start, start, start, start, nan, nan, still, number, number, zero, zero)
        last = () if known_zero(self.momentum) else jax.tree.map(jnp.zeros_like, widened(params, dtype))
        key, lane = jax.random.key_data(jax.random.key(self.seed)), () if self.lane is None else self.lane.init(params)
        state = NgdState(number, key, lane, jnp.asarray(first_damping(self.damping), dtype), start, last, stats)
        # No two leaves share a buffer, so that a user may donate the state.
        return jax.tree.map(jnp.array, state)

    def update(
        self, grads: Tree, state: NgdState, params: Tree = None, *, batch: Any = None, value: Any = None, **extra: Any
    ) -> tuple[Tree, NgdState]:
        """One step: solve, choose a length."""
        del extra
        sites = self.task.layout.sites
        check_update("ngd", grads, params, batch, (path for site in sites for path in site.paths))
        batch, count, stats, dtype = as_batch(batch), state.count, state.stats, state.damping.dtype
        key, drawing, solving = jax.random.split(jax.random.wrap_key_data(state.key), 3)
        healthy, grads = sound(grads, value)
        damping = damping_of(self.damping, state.damping, count)
        momentum = jnp.asarray(at(self.momentum, count), dtype)
        problem = Problem(
            *(self.task, params, batch, grads, damping + jnp.asarray(self.l2, dtype)),
            *(self._extra(state, params, damping * momentum), self.fisher, drawing),
        )
        found, info, after = self._solve(problem, state.lane, solving)
        if not known_zero(self.l2):
            grads = jax.tree.map(lambda g, p: g + jnp.asarray(self.l2, g.dtype) * p, grads, params)
        direction, good = self._replaced(found, info, grads, state.length)
        failed = healthy & ~good

        rate, scale = jnp.ones((), dtype), jnp.ones((), dtype)
        if self.learning_rate is not None:
            rate = jnp.asarray(at(self.learning_rate, count), dtype)
        if self.limit is not None:
            scale = self.limit(direction, grads, rate).astype(dtype)
        step = scaled(-rate * scale, direction)
        if not known_zero(self.weight_decay):
            shrink = rate * jnp.asarray(at(self.weight_decay, count), dtype)
            step = jax.tree.map(lambda s, p: s - shrink * p.astype(dtype), step, params)
        known = Look(damping, stats.ratio, stats.predicted)
        seen = judge(self.damping, self.task, Move(params, batch, grads, step), self.l2, known, count)

        updates = step if self.learning_rate is not None else jax.tree.map(jnp.negative, step)
        updates = jax.tree.map(lambda u: jnp.where(healthy, u, jnp.zeros_like(u)), updates)
        length = jnp.sqrt(inner(direction, direction)).astype(dtype)
        sums = NgdStats(
            *(rate, momentum, damping, scale, inner(direction, grads).astype(dtype), seen.ratio, seen.predicted, info),
            *(stats.rejected + jnp.where(healthy, 0, 1), stats.fallbacks + jnp.where(failed, 1, 0)),
            *(stats.seconds + info.seconds, stats.joules + info.joules),
        )
        keeping = healthy & good
        return like(updates, grads), NgdState(
            *(count + 1, jax.random.key_data(key), chosen(keeping, after, state.lane), seen.damping),
            jnp.where(keeping & (length > 0), length, state.length),
            () if known_zero(self.momentum) else chosen(healthy, direction, state.last),
            like(sums, stats),
        )

    def _solve(self, problem: Problem, state: State, key: jax.Array) -> tuple[Tree, Info, State]:
        """Take the lane; one that sizes decide on begins afresh in every step."""
        if self.lane is not None:
            return self.lane.step(problem, state, key)
        lane = choose(problem.task, problem.params, problem.batch, fisher=problem.fisher)
        x, info, _ = lane.step(problem, lane.init(problem.params), key)
        return x, info, state

    def _extra(self, state: NgdState, params: Tree, weight: jax.Array) -> Tree | None:
        """What stands beside the gradient: the penalty's, and the pull towards a share of the last direction."""
        parts = []
        if not known_zero(self.l2):
            parts.append(scaled(jnp.asarray(self.l2, weight.dtype), widened(params, weight.dtype)))
        if not known_zero(self.momentum):
            parts.append(scaled(weight, state.last))
        return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts) if parts else None

    def _replaced(self, x: Tree, info: Info, grads: Tree, length: jax.Array) -> tuple[Tree, jax.Array]:
        """The direction, or the gradient at the length of the last good one where it is none; and whether it is."""
        dtype = length.dtype
        flat, slope = ravel_pytree(x)[0], inner(x, grads)
        # Momentum may well point uphill for a while, and so may a device that remembers.
        remembering = not known_zero(self.momentum) or getattr(self.lane, "carry_state", False)
        downhill = jnp.isfinite(slope) if remembering else (slope > 0) | (inner(grads, grads) == 0)
        good = jnp.all(jnp.isfinite(flat)) & usable(info.code) & downhill
        plain = widened(grads, dtype)
        size = jnp.sqrt(inner(plain, plain)).astype(dtype)
        return chosen(good, x, scaled(length / jnp.where(size > 0, size, jnp.ones_like(size)), plain)), good
