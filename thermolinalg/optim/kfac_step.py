r"""One step of K-FAC: measure factors, refresh inverses, precondition, choose a length, keep the books."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_map_with_path

from thermolinalg.optim.blocks import from_blocks, to_blocks
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
    decay_of,
    finite,
    first_damping,
    judge,
    known_zero,
    numbers,
    sound,
)
from thermolinalg.optim.factors import Pair, no_factors
from thermolinalg.optim.factors import factors as measure_factors
from thermolinalg.optim.fisher import Columns
from thermolinalg.optim.kfac_state import KfacState, KfacStats
from thermolinalg.optim.kronecker import BlockSolver, Gradient, State, condition_bound, replace_failed
from thermolinalg.optim.products import ggn_product
from thermolinalg.optim.rows import gradient_rows
from thermolinalg.optim.rows import rows as measure_rows
from thermolinalg.optim.sites import Site
from thermolinalg.optim.task import Task, as_batch
from thermolinalg.optim.trees import mixed, statistics_dtype
from thermolinalg.optim.trust import LevenbergMarquardt, Limit, QuadraticModel, graft, inner, minimise_model
from thermolinalg.ranges import check_not_negative, check_positive, check_whole


class Taken(NamedTuple):
    """Learning rate and momentum of a step, and the factor by which a limit shortened it."""

    rate: jax.Array
    momentum: jax.Array
    scale: jax.Array


@dataclass(frozen=True)
class Step:
    """Settings, checked, and the two functions of the transformation."""

    task: Task
    learning_rate: Scheduled | QuadraticModel
    damping: Scheduled | LevenbergMarquardt
    blocks: BlockSolver
    fisher: Columns
    momentum: Scheduled
    decay: Scheduled
    factor_period: int
    inverse_period: int
    burn_in: int
    l2: Scalar
    weight_decay: Scheduled
    limit: Limit | None
    grafting: optax.GradientTransformation | None
    rest: optax.GradientTransformationExtraArgs | None
    seed: int

    def __post_init__(self) -> None:
        layout = self.task.layout
        if not layout.sites:
            raise ValueError(
                "task has no tagged layer, so there is no block to factor: call optim.dense, optim.conv, ... in the "
                "model, wrap it with an adapter, or use optim.ngd, which needs none"
            )
        if layout.unclaimed and self.rest is None:
            raise ValueError(
                f"no tagged layer uses the parameters {', '.join(layout.unclaimed)}: tag their layers, or say what "
                "happens to them by rest=, for example rest=optax.adam(1e-3)"
            )
        if not isinstance(self.blocks, BlockSolver):
            raise ValueError(f"blocks must have init, observe, prepare and apply, got {type(self.blocks).__name__}")
        check_positive(**numbers(learning_rate=self.learning_rate, damping=self.damping))
        check_not_negative(**numbers(momentum=self.momentum, decay=self.decay, weight_decay=self.weight_decay))
        check_not_negative(l2=self.l2)
        for name, least in {"factor_period": 1, "inverse_period": 1, "burn_in": 0}.items():
            check_whole(name, getattr(self, name), least)

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.task.layout.sites

    def init(self, params: Tree) -> KfacState:
        """Zero factors, zero momentum."""
        factors = {site.path: no_factors(site, statistics_dtype(params)) for site in self.sites}
        blocks = self.blocks.init(factors)
        gradient = Gradient(
            {path: jnp.zeros((*p.lead, p.rows, p.columns), p.g.dtype) for path, p in factors.items()}, dict
        )
        # Shapes only: what solvers report belongs to the state from the first step on.
        solves = jax.eval_shape(lambda state: self.blocks.apply(gradient, state, jax.random.key(0))[1], blocks)
        zero, nan = jnp.zeros((), jnp.float32), jnp.full((), jnp.nan, jnp.float32)
        dtype = statistics_dtype(params)
        number, each = jnp.zeros((), jnp.int32), dict.fromkeys(factors, nan)
        none, unknown = jnp.zeros((), dtype), jnp.full((), jnp.nan, dtype)
        solves = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), solves)
        stats = KfacStats(none, none, none, none, none, unknown, unknown, solves, each, number, number, zero, zero)
        state = KfacState(
            number,
            number,
            jax.random.key_data(jax.random.key(self.seed)),
            factors,
            blocks,
            jnp.asarray(first_damping(self.damping), dtype),
            dict.fromkeys(factors, zero),
            jax.tree.map(jnp.zeros_like, params),
            None if self.rest is None else self._masked.init(params),
            None if self.grafting is None else self.grafting.init(params),
            stats,
        )
        # No two leaves share a buffer, so that a user may donate the state.
        return jax.tree.map(jnp.array, state)

    def update(
        self,
        grads: Tree,
        state: KfacState,
        params: Tree = None,
        *,
        batch: Any = None,
        value: Any = None,
        factors: dict[str, Pair] | None = None,
        **extra: Any,
    ) -> tuple[Tree, KfacState]:
        """One step: measure, refresh, precondition, choose a length."""
        check_update("kfac", grads, params, batch, (path for site in self.sites for path in site.paths))
        batch = as_batch(batch)
        count = state.count
        key, *keys = jax.random.split(jax.random.wrap_key_data(state.key), 5)
        healthy, grads = sound(grads, value)
        if not known_zero(self.l2):
            grads = jax.tree.map(lambda g, p: g + jnp.asarray(self.l2, g.dtype) * p, grads, params)
        damping = damping_of(self.damping, state.damping, count)

        averages, measured = self._measure(state, params, batch, factors, healthy, keys[0])
        # Without any curvature yet, all that is left of a block is its damping, and its step would be enormous.
        healthy = healthy & (measured > 0)
        since = state.accepted - self.burn_in
        due = healthy & (since >= 0) & (since % self.inverse_period == 0)
        blocks, condition = self._refresh(state, averages, damping + jnp.asarray(self.l2, damping.dtype), due, keys[1])
        blocks = self._observe(state, blocks, params, batch, measured, keys[0])
        matrices = self._matrices(grads)
        gradient = Gradient(matrices, lambda: self._gradient_rows(params, batch))
        found, solves, blocks = self.blocks.apply(gradient, blocks, keys[2])
        found, lengths, fallbacks = replace_failed(found, matrices, state.lengths, healthy)
        direction = self._tree(found, grads)
        grafted = state.graft
        if self.grafting is not None:
            direction, grafted = self._graft(direction, grads, state.graft, params)

        product = lambda v: ggn_product(self.task, params, batch, v)  # noqa: E731
        step, last, taken = self._length(direction, grads, state, product, damping, count)
        if not known_zero(self.weight_decay):
            shrink = taken.rate * jnp.asarray(at(self.weight_decay, count), damping.dtype)
            step = jax.tree.map(lambda s, p: s - shrink.astype(p.dtype) * p, step, params)
        known, move = Look(damping, state.stats.ratio, state.stats.predicted), Move(params, batch, grads, step)
        seen = judge(self.damping, self.task, move, self.l2, known, since)

        going = healthy & (since >= 0)
        updates, rest = self._rest(step, grads, state.rest, params, batch, healthy, extra)
        updates = jax.tree.map(lambda u, g: jnp.where(going, u, jnp.zeros_like(u)).astype(g.dtype), updates, grads)
        stats = state.stats
        stats = KfacStats(
            *(taken.rate, taken.momentum, damping, taken.scale),
            inner(direction, grads).astype(damping.dtype),
            *(seen.ratio, seen.predicted, solves, condition),
            stats.rejected + jnp.where(healthy, 0, 1),
            stats.fallbacks + jnp.where(healthy, fallbacks, 0),
            stats.seconds + sum(info.seconds for info in solves.values()),
            stats.joules + sum(info.joules for info in solves.values()),
        )
        return updates, KfacState(
            *(count + 1, measured, jax.random.key_data(key), averages, blocks),
            *(seen.damping, lengths, chosen(going, last, state.last), rest),
            grafted if self.grafting is None else chosen(going, grafted, state.graft),
            stats,
        )

    def _measure(
        self,
        state: KfacState,
        params: Tree,
        batch: Any,
        given: dict[str, Pair] | None,
        healthy: jax.Array,
        key: jax.Array,
    ) -> tuple[dict[str, Pair], jax.Array]:
        """Running means of the factors, and the number of measurements."""

        def look() -> tuple[dict[str, Pair], jax.Array]:
            new = given
            if new is None:
                columns = self._columns(params, batch, key)
                new = measure_factors(self.task.model, params, batch[0], columns, self.task.layout)
            usable = healthy & finite(new)
            number = state.measured + 1
            decay = jnp.where(usable, self._decay(state, number), 1)
            return mixed(decay, state.factors, new), jnp.where(usable, number, state.measured)

        return self._when_due(state, look, (state.factors, state.measured))

    def _observe(
        self, state: KfacState, blocks: State, params: Tree, batch: Any, measured: jax.Array, key: jax.Array
    ) -> State:
        """Show blocks the rows behind a measurement, after a refresh, which may have changed what they look at."""

        def look() -> State:
            rows = lambda: measure_rows(  # noqa: E731
                self.task.model, params, batch[0], self._columns(params, batch, key), self.task.layout
            )
            decay = jnp.where(measured > state.measured, self._decay(state, measured), 1)
            return self.blocks.observe(rows, decay, blocks)

        return self._when_due(state, look, blocks)

    def _columns(self, params: Tree, batch: Any, key: jax.Array) -> jax.Array:
        inputs, targets = batch
        return self.fisher(self.task.loss, self.task.outputs(params, inputs), targets, key)

    def _decay(self, state: KfacState, number: jax.Array) -> jax.Array:
        return decay_of(self.decay, number, state.count, state.damping.dtype)

    def _when_due(self, state: KfacState, look: Callable[[], Any], otherwise: Any) -> Any:
        """What a measurement finds, in the steps that have one."""
        if self.factor_period == 1:
            # No branch: the compiler then shares the forward pass with that of the gradient.
            return look()
        return jax.lax.cond(state.accepted % self.factor_period == 0, look, lambda: otherwise)

    def _refresh(
        self, state: KfacState, factors: dict[str, Pair], damping: jax.Array, due: jax.Array, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Prepare the solvers of all blocks if that is due, and bound the conditions of what they were given."""
        blocks = state.blocks

        def prepare() -> tuple[State, dict[str, jax.Array]]:
            ready = self.blocks.prepare(factors, damping, blocks, key)
            bounds = {path: condition_bound(pair, damping) for path, pair in factors.items()}
            return jax.tree.map(lambda new, old: new.astype(old.dtype), ready, blocks), bounds

        return jax.lax.cond(due, prepare, lambda: (blocks, state.stats.condition))

    def _matrices(self, tree: Tree) -> dict[str, jax.Array]:
        return to_blocks(self.sites, tree, statistics_dtype(tree))

    def _gradient_rows(self, params: Tree, batch: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
        inputs, targets = batch
        outputs = self.task.outputs(params, inputs)
        slope = jax.grad(lambda z: jnp.mean(self.task.loss.value(z, targets)))(outputs)
        return gradient_rows(self.task.model, params, inputs, slope, self.task.layout)

    def _tree(self, matrices: dict[str, jax.Array], other: Tree) -> Tree:
        """Blocks as a tree of parameters; what belongs to none is zero."""
        return from_blocks(self.sites, matrices, jax.tree.map(jnp.zeros_like, other))

    def _graft(self, direction: Tree, grads: Tree, state: Any, params: Tree) -> tuple[Tree, Any]:
        """Directions of the blocks with the lengths of another optimizer's steps."""
        assert self.grafting is not None
        other, state = self.grafting.update(grads, state, params)
        lengths = {path: jnp.sqrt(jnp.sum(m**2)) for path, m in self._matrices(other).items()}
        grafted = {path: graft(m, lengths[path]) for path, m in self._matrices(direction).items()}
        return self._tree(grafted, grads), state

    def _length(
        self,
        direction: Tree,
        grads: Tree,
        state: KfacState,
        product: Callable[[Tree], Tree],
        damping: jax.Array,
        count: jax.Array,
    ) -> tuple[Tree, Tree, Taken]:
        """The step, what momentum remembers of it, and the numbers used."""
        dtype = damping.dtype
        one = jnp.ones((), dtype)
        if isinstance(self.learning_rate, QuadraticModel):
            down = jax.tree.map(jnp.negative, direction)
            whole = damping + jnp.asarray(self.l2, dtype)
            found = minimise_model(
                product, grads, down, state.last, whole, jnp.asarray(self.learning_rate.largest, dtype)
            )
            rate, momentum = found.coefficients.astype(dtype)
            step = jax.tree.map(lambda d, o: rate.astype(d.dtype) * d + momentum.astype(d.dtype) * o, down, state.last)
            scale = one if self.limit is None else self.limit(step, grads, one).astype(dtype)
            step = jax.tree.map(lambda s: scale.astype(s.dtype) * s, step)
            return step, step, Taken(rate, momentum, scale)
        rate = jnp.asarray(at(self.learning_rate, count), dtype)
        momentum = jnp.asarray(at(self.momentum, count), dtype)
        scale = one if self.limit is None else self.limit(direction, grads, rate).astype(dtype)
        velocity = jax.tree.map(
            lambda v, d: momentum.astype(v.dtype) * v + scale.astype(d.dtype) * d, state.last, direction
        )
        return jax.tree.map(lambda v: -rate.astype(v.dtype) * v, velocity), velocity, Taken(rate, momentum, scale)

    def _rest(
        self, step: Tree, grads: Tree, state: Any, params: Tree, batch: Any, healthy: jax.Array, extra: dict[str, Any]
    ) -> tuple[Tree, Any]:
        """Updates of all parameters, those of no block by the optimizer given for them."""
        if self.rest is None:
            return step, state
        other, new = self._masked.update(grads, state, params, batch=batch, whole=params, **extra)
        unclaimed = self.task.layout.unclaimed
        updates = tree_map_with_path(lambda path, s, o: o if keystr(path) in unclaimed else s, step, other)
        return updates, jax.tree.map(lambda a, b: jnp.where(healthy, a, b), new, state)

    @property
    def _masked(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer of the rest, which sees nothing else."""
        assert self.rest is not None
        unclaimed = self.task.layout.unclaimed
        mask = lambda tree: tree_map_with_path(lambda path, _: keystr(path) in unclaimed, tree)  # noqa: E731
        return optax.masked(optax.with_extra_args_support(self.rest), mask)
