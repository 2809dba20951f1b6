r"""A linear process given what was seen of it at some times: filtering forward, smoothing backward.

Going back from a later state, an earlier one is Gaussian and affine in it,

.. math:: x_k \mid x_{k+1} \sim \mathcal N\bigl(m_k + G (x_{k+1} - E m_k - c),\
    (I - G E) P_k (I - G E)^\top + G Q G^\top\bigr), \qquad G = P_k E^\top (E P_k E^\top + Q)^{-1},

with the filtered law :math:`(m_k, P_k)` of what was seen up to then. Marginals and joint draws follow by composition,
and every covariance is a sum of positive semi-definite terms.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.laws import Scalar
from thermolinalg.operators import as_inexact, is_concrete
from thermolinalg.paths import root
from thermolinalg.transition import Gaussian, Transition


class Process(Protocol):
    """What conditioning needs to know of a process."""

    def transition(self, t: Scalar) -> Transition:
        """The map of the time t."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ConditionedProcess:
    r"""A process given observations; what :meth:`OrnsteinUhlenbeck.condition` returns.

    Attributes
    ----------
    process : OrnsteinUhlenbeck
    start : Gaussian
        Law of the state at time 0, before anything is seen.
    times : Array, shape (n,)
        When it was seen, in ascending order.
    values : Array, shape (n, d)
        What was seen.
    noise : Array, shape (d, d), or None
        Covariance of the error of each observation; None: there is none.

    Notes
    -----
    Cost: one transition and one small ``eigh`` for each time, seen or asked for. Times asked for may come in any order
    and may repeat.

    Examples
    --------
    The bridge of Brownian motion from 0 to 1 in unit time:

    >>> import jax.numpy as jnp
    >>> from thermolinalg.process import OrnsteinUhlenbeck
    >>> motion = OrnsteinUhlenbeck(jnp.zeros((1, 1)), diffusion=jnp.ones((1, 1)))
    >>> bridge = motion.condition([1.0], [[1.0]], start=[0.0])
    >>> bool(jnp.allclose(bridge.mean([0.25]), 0.25)), bool(jnp.allclose(bridge.covariance([0.25]), 0.1875))
    (True, True)
    """

    process: Process
    start: Gaussian
    times: jax.Array
    values: jax.Array
    noise: jax.Array | None = None

    def mean(self, ts: ArrayLike) -> jax.Array:
        """Mean at the times `ts`, shape (T,) >= 0, given all observations; shape (T, d)."""
        return _marginals(self, self._asked(ts))[0]

    def covariance(self, ts: ArrayLike) -> jax.Array:
        """Covariance at each of the times `ts`, shape (T,) >= 0; shape (T, d, d)."""
        return _marginals(self, self._asked(ts))[1]

    def sample(self, key: jax.Array, ts: ArrayLike) -> jax.Array:
        """Draw the states at the times `ts`, shape (T,) >= 0, jointly; shape (T, d)."""
        return _joint(self, key, self._asked(ts))

    def _asked(self, ts: ArrayLike) -> jax.Array:
        times = as_inexact(ts, "ts").astype(self.times.dtype)
        if times.ndim != 1:
            raise ValueError(f"ts must be a vector of times, got shape {times.shape}")
        if is_concrete(times) and not (np.isfinite(times).all() and (np.asarray(times) >= 0).all()):
            raise ValueError("ts must be finite and not negative: the process starts at time 0")
        return times


def condition(
    process: Process,
    dim: int,
    dtype: jnp.dtype,
    start: Gaussian,
    times: ArrayLike,
    values: ArrayLike,
    noise: ArrayLike | None,
) -> ConditionedProcess:
    """Check the observations of a process with `dim` components and put them beside it."""
    when, what = as_inexact(times, "times").astype(dtype), as_inexact(values, "values").astype(dtype)
    if when.ndim != 1 or when.shape[0] == 0:
        raise ValueError(f"times must be a vector with at least one entry, got shape {when.shape}")
    if what.shape != (when.shape[0], dim):
        raise ValueError(f"values must have shape ({when.shape[0]}, {dim}), a state for each time, got {what.shape}")
    if is_concrete(when, what):
        known = np.asarray(when)
        if not (np.isfinite(known).all() and known[0] >= 0 and (np.diff(known) > 0).all()):
            raise ValueError("times must be finite, not negative and strictly increasing; sort them and merge repeats")
        if not np.isfinite(what).all():
            raise ValueError("values has entries that are not finite; leave out what was not seen")
    return ConditionedProcess(process, start, when, what, None if noise is None else _as_noise(noise, dim, dtype))


def _as_noise(noise: ArrayLike, dim: int, dtype: jnp.dtype) -> jax.Array:
    spread = as_inexact(noise, "noise").astype(dtype)
    if spread.ndim == 0:
        spread = spread * jnp.eye(dim, dtype=dtype)
    if spread.shape != (dim, dim):
        raise ValueError(f"noise must be a variance or a covariance of shape ({dim}, {dim}), got shape {spread.shape}")
    if is_concrete(spread):
        known = np.asarray(spread, np.float64)
        if not np.isfinite(known).all() or np.abs(known - known.T).max() > 1e-4 * np.abs(known).max():
            raise ValueError("noise must be finite and symmetric")
        low = np.linalg.eigvalsh(known)[0]
        if not low > 0:
            raise ValueError(f"noise must be positive definite, its smallest eigenvalue is {low:.3g}; None means exact")
    return spread


@jax.jit
def _marginals(given: ConditionedProcess, ts: jax.Array) -> tuple[jax.Array, jax.Array]:
    last, back, places = _backward(given, ts)

    def step(law, map):
        law = map.push(law)
        return law, law

    _, laws = jax.lax.scan(step, last, back, reverse=True)
    laws = jax.tree.map(lambda many, end: jnp.concatenate([many, end[None]])[places], laws, last)
    return laws.mean, laws.covariance


@jax.jit
def _joint(given: ConditionedProcess, key: jax.Array, ts: jax.Array) -> jax.Array:
    last, back, places = _backward(given, ts)
    noise = jax.random.normal(key, (back.shift.shape[0] + 1, last.mean.shape[0]), last.mean.dtype)
    factors = jax.lax.map(root, back.covariance)
    end = last.mean + root(last.covariance) @ noise[-1]

    def step(x, inputs):
        map, factor, xi = inputs
        x = map.propagator @ x + map.shift + factor @ xi
        return x, x

    _, path = jax.lax.scan(step, end, (back, factors, noise[:-1]), reverse=True)
    return jnp.concatenate([path, end[None]])[places]


def _backward(given, ts):
    """Law of the last state, the maps from each state to the one before it, and where the times asked for are."""
    seen = given.times.shape[0]
    everything = jnp.concatenate([jnp.zeros(1, ts.dtype), given.times, ts])
    order = jnp.argsort(everything, stable=True)
    intervals = jnp.diff(everything[order])
    observed = (order >= 1) & (order <= seen)
    values = given.values[jnp.clip(order - 1, 0, seen - 1)]

    def forward(law, inputs):
        interval, value, is_seen = inputs
        step = given.process.transition(interval)
        ahead = step.push(law)
        back = _reverse(law, step, ahead)
        update = _update(ahead, value, given.noise)
        law = jax.tree.map(lambda new, old: jnp.where(is_seen, new, old), update, ahead)
        return law, back

    last, back = jax.lax.scan(forward, given.start, (intervals, values[1:], observed[1:]))
    return last, back, jnp.argsort(order)[1 + seen :]


def _reverse(law: Gaussian, step: Transition, ahead: Gaussian) -> Transition:
    """The map from the state after a step to the one before it."""
    gain = _solve(ahead.covariance, step.propagator @ law.covariance).T
    keep = jnp.eye(gain.shape[0], dtype=gain.dtype) - gain @ step.propagator
    spread = keep @ law.covariance @ keep.T + gain @ step.covariance @ gain.T
    return Transition(gain, law.mean - gain @ ahead.mean, (spread + spread.T) / 2, jnp.diagonal(gain) - 1)


def _update(law: Gaussian, value: jax.Array, noise: jax.Array | None) -> Gaussian:
    """The law after a look at the state."""
    if noise is None:
        return Gaussian(value, jnp.zeros_like(law.covariance))
    gain = jax.scipy.linalg.solve(law.covariance + noise, law.covariance, assume_a="pos").T
    keep = jnp.eye(gain.shape[0], dtype=gain.dtype) - gain
    spread = keep @ law.covariance @ keep.T + gain @ noise @ gain.T
    return Gaussian(law.mean + gain @ (value - law.mean), (spread + spread.T) / 2)


def _solve(covariance: jax.Array, block: jax.Array) -> jax.Array:
    """Apply the inverse of a covariance, on its range where it is singular."""
    variances = jnp.diagonal(covariance)
    scale = jnp.sqrt(jnp.where(variances > 0, variances, 1))
    correlation = covariance / scale[:, None] / scale[None]

    def solve(_, right):
        values, vectors = jnp.linalg.eigh(correlation)
        live = values > 8 * scale.shape[0] * jnp.finfo(scale.dtype).eps
        return vectors @ (jnp.where(live, 1 / jnp.where(live, values, 1), 0)[:, None] * (vectors.T @ right))

    answer = jax.lax.custom_linear_solve(
        lambda x: correlation @ x,
        block / scale[:, None],
        solve,
        symmetric=True,
    )
    return answer / scale[:, None]
