r"""Filtered natural gradient: an average of natural gradients in which every direction forgets at a rate of its own."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from thermolinalg.laws import Scalar
from thermolinalg.optim.books import Scheduled, at, check_update, chosen, finite, numbers, sound
from thermolinalg.optim.fisher import Columns, exact
from thermolinalg.optim.gram_functions import Engine
from thermolinalg.optim.lanes import Problem
from thermolinalg.optim.loading import load, resumed
from thermolinalg.optim.relaxation import relax
from thermolinalg.optim.task import Task, as_batch
from thermolinalg.optim.trees import like, scaled, statistics_dtype
from thermolinalg.optim.trust import Limit, inner
from thermolinalg.ranges import check_not_negative, check_positive, check_whole

Tree = Any


class FilterStats(NamedTuple):
    r"""What the last step did.

    Attributes
    ----------
    learning_rate, damping, time
        As used.
    scale
        Factor by which a limit shortened the step, 1 for none.
    slope
        :math:`\langle y, g\rangle`; an average may point uphill.
    kept
        :math:`|e^{-Ft}g|/|g|`: how much of the average is not of the last batch, over the directions of its gradient.
    residual
        :math:`|Fy - g|/|g|`.
    error
        Bound of the relative error of the spectral functions; 0 for an eigenbasis.
    rejected : int
        Steps so far that were refused because something was not finite.
    """

    learning_rate: jax.Array
    damping: jax.Array
    time: jax.Array
    scale: jax.Array
    slope: jax.Array
    kept: jax.Array
    residual: jax.Array
    error: jax.Array
    rejected: jax.Array


class FilterState(NamedTuple):
    """Count, PRNG key data, the average like the parameters, whether it has begun, and :class:`FilterStats`."""

    count: jax.Array  # type: ignore[assignment]
    key: jax.Array
    average: Tree
    begun: jax.Array
    stats: FilterStats


class Spring(NamedTuple):
    """Damping and momentum of ``ngd``."""

    damping: Scalar
    momentum: Scalar


def spring_twin(damping: Scalar, time: Scalar) -> Spring:
    r"""Return the damping and momentum with which ``ngd`` is the implicit Euler method for filtered natural gradient.

    .. math:: \lambda' = \lambda + \frac1t, \qquad \mu = \frac{1}{1 + \lambda t}

    Parameters
    ----------
    damping : float, > 0
    time : float, > 0
        As for :func:`filtered_natural_gradient`.

    Returns
    -------
    Spring

    Raises
    ------
    ValueError
        If a number is not positive.

    Notes
    -----
    One implicit Euler step of length t of the same flow, :math:`(G + \lambda + 1/t)\,y = g + y_\text{old}/t`, keeps
    :math:`1/(1 + st)` of a direction of rate s in place of :math:`e^{-st}`: alike where st is small, and slower to
    forget where it is large. It takes one linear solve in place of functions of the curvature, and is the digital
    method to compare with.

    Examples
    --------
    >>> twin = spring_twin(0.01, 5.0)
    >>> round(twin.damping, 3), round(twin.momentum, 3)
    (0.21, 0.952)
    """
    check_positive(damping=damping, time=time)
    return Spring(damping + 1 / time, 1 / (1 + damping * time))


def filtered_natural_gradient(
    task: Task,
    learning_rate: Scheduled,
    *,
    damping: Scheduled,
    time: Scheduled,
    start: float = 1.0,
    fisher: Columns = exact,
    weight_decay: Scheduled = 0.0,
    limit: Limit | None = None,
    engine: Engine | None = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Step along a moving average of natural gradients whose memory depends on the curvature.

    .. math:: y_k = E_k\, y_{k-1} + (I - E_k)\, F_k^{-1} g_k, \qquad E_k = e^{-F_k t}, \qquad
        F_k = M_k^\top M_k + \lambda I, \qquad \theta \leftarrow \theta - \alpha y_k

    Parameters
    ----------
    task : Task
    learning_rate : float, > 0, or schedule
    damping : float, > 0, or schedule
        λ, which is also the rate at which directions without curvature forget.
    time : float, > 0, or schedule
        t, in units of reciprocal curvature.
    start : float
        :math:`y_0` is that multiple of the first gradient.
    fisher : callable
        Which curvature: ``exact``, ``monte_carlo``, ``propagation``, ``empirical`` of :mod:`thermolinalg.optim`.
    weight_decay : float, >= 0, or schedule
        Decoupled: shrinks parameters by :math:`\alpha w \theta`.
    limit : KLClip, NormConstraint or callable
        Shortens steps.
    engine : Diagonalisation or KrylovSpace, optional
        How functions of the curvature are applied.
    seed : int
        Of all random numbers.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, batch=(inputs, targets))``, optionally with ``value``, the loss.

    Raises
    ------
    ValueError
        If a number is out of range; and, from ``update``, if ``batch`` or ``params`` is missing.

    Notes
    -----
    It is the digital twin of a thermodynamic device that keeps its state from batch to batch,
    ``ngd(..., lane=Thermodynamic(t, carry_state=True))``. The device integrates :math:`\dot y = g_k - F_k y` for a time
    t. Over it :math:`F_k` is constant, so that :math:`\frac{d}{d\tau} e^{F\tau} y = e^{F\tau} g`, and hence
    :math:`y(t) = e^{-Ft}y(0) + F^{-1}(I - e^{-Ft})g`, which is the line above.

    A direction of curvature σ, as long as it stays an eigenvector, obeys

    .. math:: y_k = \beta y_{k-1} + (1 - \beta)\,\frac{g_k}{\sigma + \lambda}, \qquad \beta = e^{-(\sigma + \lambda)t}

    an exponential moving average. Its mean age is :math:`\beta/(1 - \beta)` steps, it multiplies the variance of
    independent gradient noise by :math:`(1 - \beta)/(1 + \beta)`, and it returns a gradient that does not change
    without bias. Stiff directions forget at once and flat ones remember: for small t the first line is
    :math:`y \leftarrow (1 - \lambda t)y + t(g - Gy)`, a heavy ball with friction that grows with the curvature. Euler
    steps of length h in place of the flow have :math:`\beta = (1 - h s)^{t/h}`, and :func:`spring_twin` the implicit
    one.

    Not guaranteed: that the average points downhill. ``state.stats.slope`` says whether it does.

    Examples
    --------
    A long time makes it natural gradient descent, which solves linear regression in one step.

    >>> import jax, jax.numpy as jnp, optax
    >>> from thermolinalg import optim
    >>> params = {"w": jnp.zeros((3, 2))}
    >>> x = jax.random.normal(jax.random.key(0), (32, 3))
    >>> batch = (x, x @ jnp.ones((3, 2)))
    >>> task = optim.task(lambda params, x: x @ params["w"], optim.SquaredError(), params, x)
    >>> opt = optim.filtered_natural_gradient(task, 1.0, damping=1e-6, time=1e3)
    >>> updates, state = opt.update(jax.grad(task.value)(params, batch), opt.init(params), params, batch=batch)
    >>> bool(task.value(optax.apply_updates(params, updates), batch) < 1e-6)
    True
    """
    rule = _Rule(task, learning_rate, damping, time, start, fisher, weight_decay, limit, engine, seed)
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


@dataclass(frozen=True)
class _Rule:
    """Settings, checked, and the two functions of the transformation."""

    task: Task
    learning_rate: Scheduled
    damping: Scheduled
    time: Scheduled
    start: float
    fisher: Columns
    weight_decay: Scheduled
    limit: Limit | None
    engine: Engine | None
    seed: int

    def __post_init__(self) -> None:
        check_positive(**numbers(learning_rate=self.learning_rate, damping=self.damping, time=self.time))
        check_not_negative(**numbers(weight_decay=self.weight_decay))
        check_whole("seed", self.seed, 0)

    def init(self, params: Tree) -> FilterState:
        """Nothing is averaged yet."""
        dtype = statistics_dtype(params)
        number, zero = jnp.zeros((), jnp.int32), jnp.zeros((), dtype)
        state = FilterState(
            *(number, jax.random.key_data(jax.random.key(self.seed))),
            jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params),
            *(jnp.zeros((), bool), FilterStats._make([*[zero] * 8, number])),
        )
        # No two leaves share a buffer, so that a user may donate the state.
        return jax.tree.map(jnp.array, state)

    def update(
        self,
        grads: Tree,
        state: FilterState,
        params: Tree = None,
        *,
        batch: Any = None,
        value: Any = None,
        **extra: Any,
    ) -> tuple[Tree, FilterState]:
        """Relax for a while under the curvature of the batch, and step."""
        del extra
        sites = self.task.layout.sites
        check_update("filtered_natural_gradient", grads, params, batch, (p for site in sites for p in site.paths))
        batch, count, dtype = as_batch(batch), state.count, state.stats.damping.dtype
        key, drawing, loading = jax.random.split(jax.random.wrap_key_data(state.key), 3)
        healthy, grads = sound(grads, value)
        rate, damping, time, decay = (
            jnp.asarray(at(x, count), dtype) for x in (self.learning_rate, self.damping, self.time, self.weight_decay)
        )
        problem = Problem(self.task, params, batch, grads, damping, None, self.fisher, drawing)
        loaded = load(problem, None, loading)
        before = resumed(state.begun, state.average, self.start, grads)
        found = relax(loaded.system, damping, [time], start=before, engine=self.engine)
        (average,) = found.states
        healthy = healthy & finite(average)
        average = chosen(healthy, average, state.average)
        scale = jnp.ones((), dtype) if self.limit is None else self.limit(average, grads, rate).astype(dtype)
        step = scaled(-rate * scale, average)
        step = jax.tree.map(lambda s, p: s - rate * decay * p.astype(dtype), step, params)
        updates = jax.tree.map(lambda s: jnp.where(healthy, s, jnp.zeros_like(s)), step)
        known = (rate, damping, time, scale, inner(average, grads), found.unrelaxed, found.residual, found.error)
        rejected = state.stats.rejected + jnp.where(healthy, 0, 1)
        stats = FilterStats._make([*(x.astype(dtype) for x in known), rejected])
        begun = state.begun | healthy
        return like(updates, grads), FilterState(
            count + 1, jax.random.key_data(key), average, begun, like(stats, state.stats)
        )
