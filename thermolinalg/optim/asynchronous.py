"""A host that measures the next curvature while the device still relaxes under the last one."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.device import Device
from thermolinalg.hybrid import Pipeline, Round, pipeline
from thermolinalg.laws import Scalar
from thermolinalg.optim.fisher import Columns, exact
from thermolinalg.optim.gram_functions import Engine
from thermolinalg.optim.lanes import Problem
from thermolinalg.optim.loading import load, resumed
from thermolinalg.optim.relaxation import relax
from thermolinalg.optim.task import Task
from thermolinalg.optim.trees import statistics_dtype
from thermolinalg.ranges import check_positive

Tree = Any


@dataclass(frozen=True)
class Overlap:
    """When a device that never stops is loaded and read; what :func:`overlap` returns.

    Attributes
    ----------
    pipeline : Pipeline
        The clock: its ``timeline``, ``round_seconds``, ``limit`` and staleness ``used``.
    loaded : tuple of float
        For each round, time between loading its system and reading the answer, in time constants.
    delays : tuple of float
        Time for which the device went on with the system of the round before, between that reading and the load of
        this round's; 0 for the first.
    """

    pipeline: Pipeline
    loaded: tuple[float, ...]
    delays: tuple[float, ...]

    @property
    def round_seconds(self) -> float:
        """Seconds per round in the steady state."""
        return self.pipeline.round_seconds

    @property
    def analog_time(self) -> tuple[float, ...]:
        """Time constants for which the device relaxed in each round, the delay included."""
        return tuple(t + d for t, d in zip(self.loaded, self.delays, strict=True))

    @property
    def hidden(self) -> float:
        """Share of the work of the host and the link under which the device relaxed, in the last round."""
        r, unit = self.pipeline.round, self.pipeline.timeline
        last = len(self.loaded) - 1
        if not last or not r.total - r.relax:
            return 0.0
        gap = unit[f"relax {last}"].start - unit[f"relax {last - 1}"].end
        return gap / (r.total - r.relax)


def overlap(
    round: Round, rounds: int, device: Device | None = None, *, staleness: int = 0, buffers: int = 0
) -> Overlap:
    r"""Lay out rounds of a host and one device whose state goes on relaxing in between.

    .. math:: t_d = \frac{\text{start of relax } k - \text{end of relax } k - 1}{t_c}

    Parameters
    ----------
    round : Round
        Seconds of the parts, as from :func:`~thermolinalg.optim.relaxation_cost` by ``Round.of``. ``relax`` is the
        time between loading and reading.
    rounds : int, >= 1
    device : Device, optional
        For its time constant.
    staleness, buffers : int, >= 0
        As for :func:`thermolinalg.hybrid.pipeline`: how many rounds the host runs ahead of the answers, and how many
        systems the device holds besides the one it works on.

    Returns
    -------
    Overlap

    Raises
    ------
    ValueError
        As from :func:`~thermolinalg.hybrid.pipeline`.

    Notes
    -----
    The arrays of the device switch to the new system at the end of the load. At a staleness of 0 the delay is what
    host and link take in a round: the analog time of it comes for nothing. A total analog time t therefore needs
    ``relax`` of :math:`t\,t_c` less that delay, and at least the time to read. With more staleness the delay shrinks,
    and it is the gradient that is late.

    Examples
    --------
    >>> run = overlap(Round(host=40e-6, load=10e-6, relax=45e-6, read=5e-6), 10)
    >>> round(run.delays[-1]), round(run.analog_time[-1]), f"{run.round_seconds * 1e6:.0f} us"
    (55, 100, '100 us')
    """
    unit = float((Device() if device is None else device).time_constant)
    laid = pipeline(round, rounds, staleness=staleness, buffers=buffers)
    spans = [laid.timeline[f"relax {k}"] for k in range(rounds)]
    delays = [0.0, *((after.start - before.end) / unit for before, after in pairwise(spans))]
    return Overlap(laid, tuple((span.end - span.start) / unit for span in spans), tuple(max(d, 0.0) for d in delays))


@dataclass(frozen=True)
class Descent:
    """What :func:`descend` returns.

    Attributes
    ----------
    params : pytree
        After all rounds.
    losses : tuple of float
        Of each round's batch, at the parameters that its system was measured at.
    seconds : tuple of float
        On the clock, when each round's answer was in.
    state : pytree
        Of the device when the answer of the last round was read.
    """

    params: Tree
    losses: tuple[float, ...]
    seconds: tuple[float, ...]
    state: Tree


def descend(
    task: Task,
    params: Tree,
    batches: Iterable[tuple[Any, Any]],
    schedule: Overlap,
    *,
    learning_rate: float,
    damping: float,
    start: float = 1.0,
    temperature: Scalar = 0.0,
    fisher: Columns = exact,
    engine: Engine | None = None,
    key: jax.Array | None = None,
) -> Descent:
    r"""Train on a clock: every system is measured, loaded and read when the schedule says so.

    .. math:: y_k = e^{-F_k t}\bigl[e^{-F_{k-1} t_d} y_{k-1} + (1 - e^{-F_{k-1} t_d})F_{k-1}^{-1} g_{k-1}\bigr]
        + (1 - e^{-F_k t}) F_k^{-1} g_k

    Parameters
    ----------
    task : Task
    params : pytree
    batches : iterable of (inputs, targets)
        One for each round; what is left over is not looked at.
    schedule : Overlap
    learning_rate, damping : float, > 0
    start : float
        The first round begins at that multiple of its gradient.
    temperature, fisher, engine
        As for :class:`~thermolinalg.optim.Thermodynamic`.
    key : PRNG key, optional
        For noise and drawn columns.

    Returns
    -------
    Descent

    Raises
    ------
    ValueError
        If a number is out of range, or batches run out.

    Notes
    -----
    Round k is measured at the parameters that the newest answer made which was in at the time:
    ``schedule.pipeline.used[k]`` answers are missing. Answers are applied in order. With constant delays and no
    staleness it is ``ngd`` with ``Thermodynamic(t, carry_state=True, delay=t_d, delay_included=False)``.

    A loop on the host, one compiled function for all rounds: it is meant to study schedules.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line, batch = task(lambda w, x: x @ w, SquaredError(), w, x), (x, jnp.zeros((1, 1)))
    >>> run = overlap(Round(host=1e-6, load=1e-6, relax=5e-6, read=1e-6), 8)
    >>> found = descend(line, w, [batch] * 8, run, learning_rate=0.5, damping=0.1)
    >>> found.losses[-1] < 1e-2 * found.losses[0]
    True
    """
    check_positive(learning_rate=learning_rate, damping=damping)
    dtype = statistics_dtype(params)
    key = jax.random.key(0) if key is None else key

    @jax.jit
    def measured(at: Tree, batch: Any, state: Tree, begun: jax.Array, times: jax.Array, key: jax.Array) -> Any:
        drawing, loading, running = jax.random.split(key, 3)
        loss, gradient = task.value_and_gradient(at, batch)
        problem = Problem(task, at, batch, gradient, jnp.asarray(damping, dtype), None, fisher, drawing)
        loaded = load(problem, None, loading)
        found = relax(
            loaded.system,
            *(damping, [times[0], times[1]]),
            start=resumed(begun, state, start, gradient),
            temperature=temperature,
            key=running,
            engine=engine,
        )
        return loss, *found.states

    @jax.jit
    def moved(at: Tree, x: Tree) -> Tree:
        rate = jnp.asarray(learning_rate, dtype)
        return jax.tree.map(lambda p, s: p - (rate * s).astype(p.dtype), at, x)

    made, source = [params], iter(batches)
    carried = jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params)
    losses, read = [], carried
    lags = schedule.pipeline.used
    after = (*schedule.delays[1:], 0.0)
    for k, (loaded, delay) in enumerate(zip(schedule.loaded, after, strict=True)):
        batch = next(source, None)
        if batch is None:
            raise ValueError(f"batches ran out after {k} of {len(lags)} rounds")
        times = jnp.asarray([loaded, delay], dtype)
        at = made[k - lags[k]]
        loss, read, carried = measured(at, batch, carried, jnp.asarray(k > 0), times, jax.random.fold_in(key, k))
        made.append(moved(made[k], read))
        losses.append(loss)
    seconds = tuple(schedule.pipeline.timeline[f"read {k}"].end for k in range(len(lags)))
    return Descent(made[-1], tuple(float(loss) for loss in losses), seconds, read)
