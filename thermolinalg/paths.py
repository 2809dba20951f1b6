"""Paths of a linear process on a grid of times: drawing them, and their density.

Two forms. With the transition of each step, a path is a recursion of matrix products. Where drift and diffusion share
an orthogonal basis, every mode is a scalar recursion, whatever the steps. Both take the symmetric square root of the
same covariances, so one key gives one path, up to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.transition import Transition, transition

Coefficients = tuple[jax.Array, jax.Array, jax.Array]
"""Drift, force and diffusion."""

_CHUNK = 64
"""Steps handled at a time where each has a matrix of its own."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Modes:
    """Common eigenbasis (d, d) of drift and diffusion, and the eigenvalues (d,) of both."""

    basis: jax.Array
    rates: jax.Array
    strengths: jax.Array

    def steps(self, force: jax.Array, intervals: jax.Array) -> Coefficients:
        """Excess of the propagator over 1, shift and variance of each mode (last axis) in each interval."""
        t = intervals[:, None]
        z = t * self.rates[None]
        excess = jnp.expm1(-z)
        kept = t * jnp.where(z == 0, 1, -excess / jnp.where(z == 0, 1, z))
        return excess, (force @ self.basis)[None] * kept, self.strengths[None] * kept * (2 + excess) / 2


def _after(process: Coefficients, interval: jax.Array) -> Transition:
    return transition(*process, interval)


def distinct(times: np.ndarray, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct intervals between sorted times, and which of them each interval is.

    Intervals are one if they agree to 1e-12, or as far as `rounding` of the times can tell.
    """
    gaps = np.diff(np.asarray(times, np.float64))
    if len(gaps) == 0:
        return np.zeros(0), np.zeros(0, np.int32)
    slack = 1e-12 * gaps.min() + 4 * rounding * np.abs(times).max()
    if np.ptp(gaps) <= slack:
        return gaps.mean(keepdims=True), np.zeros(len(gaps), np.int32)
    order = np.argsort(gaps)
    ranked = gaps[order]
    group = np.cumsum(np.diff(ranked, prepend=ranked[0]) > slack)
    count = np.bincount(group)
    starts = np.cumsum(count) - count
    if np.any(ranked[starts + count - 1] - ranked[starts] > slack):
        return gaps, np.arange(len(gaps), dtype=np.int32)
    index = np.empty(len(gaps), np.int32)
    index[order] = group
    return np.bincount(group, ranked) / count, index


@jax.custom_jvp
def root(covariance: jax.Array) -> jax.Array:
    """Symmetric square root of a positive semi-definite matrix, which may be singular."""
    values, vectors = jnp.linalg.eigh(covariance)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))[None].astype(vectors.dtype)) @ vectors.conj().T


@root.defjvp
def _root_jvp(primals, tangents):
    # From R dR + dR R = dQ, which has no trouble with equal eigenvalues; where Q stays zero so does R.
    values, vectors = jnp.linalg.eigh(primals[0])
    scale = jnp.sqrt(jnp.maximum(values, 0))
    total = scale[:, None] + scale[None]
    floor = jnp.sqrt(jnp.finfo(total.dtype).eps) * jnp.max(scale)
    moved = vectors.conj().T @ tangents[0] @ vectors
    moved = jnp.where(total > floor, moved / jnp.where(total > floor, total, 1), 0)
    return (vectors * scale[None].astype(vectors.dtype)) @ vectors.conj().T, vectors @ moved @ vectors.conj().T


def common_modes(drift: jax.Array, diffusion: jax.Array) -> Modes | None:
    """Return the eigenbasis of the drift if that is symmetric and the diffusion is diagonal in it; values known."""
    A, D = np.asarray(drift), np.asarray(diffusion)
    slack = 8 * len(A) * np.finfo(A.dtype).eps
    if (A != A.T).any() or np.abs(A @ D - D @ A).max() > slack * np.abs(A).max() * np.abs(D).max():
        return None
    rates, basis = jnp.linalg.eigh(drift)
    if is_diagonal(D) and np.ptp(np.diagonal(D)) == 0:
        return Modes(basis, rates, jnp.maximum(jnp.diagonal(diffusion), 0))
    rotated = basis.T @ diffusion @ basis
    strengths = jnp.diagonal(rotated)
    if np.abs(rotated - jnp.diag(strengths)).max() > slack * np.abs(D).max():
        return None
    # What is rounding must not count as noise: the path would seem to have a density.
    return Modes(basis, rates, jnp.where(strengths > slack * np.abs(D).max(), strengths, 0))


def is_diagonal(matrix: np.ndarray) -> bool:
    """Whether everything off the diagonal is zero."""
    return np.count_nonzero(matrix - np.diag(np.diagonal(matrix))) == 0


def _by_modes(fast: Callable, general: Callable) -> Callable:
    """Compute by the modes, differentiate by the matrices: the modes are no variables of their own."""

    @jax.custom_jvp
    def either(process, modes, *rest):
        return fast(process, modes, *rest)

    @either.defjvp
    def either_jvp(primals, tangents):
        return jax.jvp(lambda process, modes, *rest: general(process, *rest), primals, tangents)

    return either


@jax.jit
def draw(
    process: Coefficients,
    modes: Modes | None,
    noise: jax.Array,
    x0: jax.Array,
    intervals: jax.Array,
    index: jax.Array | None,
) -> jax.Array:
    """Return the path (n + 1, d) that starts at `x0`, from white noise (n, d).

    `index` says which of the intervals each step is. Where it is None, each step has its own.
    """
    if noise.shape[0] == 0:
        return x0[None]
    if modes is None:
        return _draw_matrices(process, noise, x0, intervals, index)
    return _by_modes(_draw_modes, _draw_matrices)(process, modes, noise, x0, intervals, index)


@jax.jit
def log_density(
    process: Coefficients, modes: Modes | None, xs: jax.Array, intervals: jax.Array, index: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Return the log density of a path (n + 1, d) given its first state, and the least rank of a step's covariance."""
    if xs.shape[0] == 1:
        return jnp.zeros((), xs.dtype), jnp.array(xs.shape[1], jnp.int32)
    if modes is None:
        return _density_matrices(process, xs, intervals, index)
    return _by_modes(_density_modes, _density_matrices)(process, modes, xs, intervals, index)


def _draw_matrices(process, noise, x0, intervals, index):
    def prepare(interval):
        step = _after(process, interval)
        return step.propagator, step.shift, root(step.covariance)

    known = None if index is None else jax.lax.map(prepare, intervals)
    if known is not None and intervals.shape[0] == 1:
        # One product for all pushes; the walk itself is no slower than doubling the stride, which multiplies twice.
        propagator, shift, factor = (x[0] for x in known)

        def advance(x, push):
            x = propagator @ x + push
            return x, x

        _, path = jax.lax.scan(advance, x0, noise @ factor + shift[None])
        return jnp.concatenate([x0[None], path])

    def move(x, inputs):
        which, xi = inputs
        propagator, shift, factor = prepare(which) if known is None else (a[which] for a in known)
        x = propagator @ x + shift + factor @ xi
        return x, x

    _, path = jax.lax.scan(move, x0, (intervals if index is None else index, noise))
    return jnp.concatenate([x0[None], path])


def _draw_modes(process, modes, noise, x0, intervals, index):
    excess, shift, variance = modes.steps(process[1], intervals)
    pushes = (noise @ modes.basis) * jnp.sqrt(variance) + shift
    decay = jnp.broadcast_to(1 + excess, pushes.shape)
    start = x0 @ modes.basis
    path = decayed_sums(decay, pushes.at[0].add(decay[0] * start))
    return jnp.concatenate([x0[None], path @ modes.basis.T])


def decayed_sums(decay: jax.Array, pushes: jax.Array) -> jax.Array:
    """Return all y of ``y[k] = decay[k] y[k - 1] + pushes[k]``, from zero: blocks side by side, then their ends."""
    n, d = pushes.shape
    length = max(1, round(n**0.5))
    blocks = -(-n // length)
    padded = [jnp.pad(x, ((0, blocks * length - n), (0, 0))) for x in (decay, pushes)]
    decay, pushes = (jnp.swapaxes(x.reshape(blocks, length, d), 0, 1) for x in padded)

    def inside(carry, inputs):
        y, left = carry
        a, w = inputs
        carry = a * y + w, a * left
        return carry, carry

    (ends, lefts), (local, left) = jax.lax.scan(
        inside, (jnp.zeros_like(pushes[0]), jnp.ones_like(decay[0])), (decay, pushes)
    )

    def across(y, inputs):
        end, left = inputs
        return end + left * y, y

    _, before = jax.lax.scan(across, jnp.zeros_like(ends[0]), (ends, lefts))
    return jnp.swapaxes(local + left * before[None], 0, 1).reshape(-1, d)[:n]


def _density_matrices(process, xs, intervals, index):
    if index is not None and intervals.shape[0] == 1:
        step = _after(process, intervals[0])
        whiten, logdet, rank = _factor(step.covariance)
        scores = whiten(_residuals(step, xs[:-1], xs[1:]).T)
        return _normal(jnp.sum(scores**2), scores.size, logdet * scores.shape[1]), rank

    known = None if index is None else jax.lax.map(lambda interval: _after(process, interval), intervals)

    def one(inputs):
        which, before, after = inputs
        step = _after(process, which) if known is None else jax.tree.map(lambda a: a[which], known)
        whiten, logdet, rank = _factor(step.covariance)
        scores = whiten(_residuals(step, before[None], after[None]).T)
        return _normal(jnp.sum(scores**2), scores.size, logdet), rank

    steps = (intervals if index is None else index, xs[:-1], xs[1:])
    terms, ranks = jax.lax.map(one, steps, batch_size=_CHUNK)
    return jnp.sum(terms), jnp.min(ranks)


def _density_modes(process, modes, xs, intervals, index):
    excess, shift, variance = modes.steps(process[1], intervals)
    y = xs @ modes.basis
    # What is left of a step that hardly decays is the increment, not the difference of two states.
    off = (y[1:] - y[:-1]) - excess * y[:-1] - shift
    live = variance > 0
    safe = jnp.where(live, variance, 1)
    logdet = jnp.sum(jnp.broadcast_to(jnp.log(safe), off.shape))
    value = _normal(jnp.sum(off**2 / safe), off.size, logdet)
    rank = jnp.min(jnp.sum(live.astype(jnp.int32), 1))
    return jnp.where(rank == xs.shape[1], value, jnp.nan), rank


def _residuals(step, before, after):
    """What states `after` (n, d) differ by from their means given the states `before`."""
    carried = before @ step.propagator.T
    diagonal = jnp.diagonal(step.propagator)[None]
    near = step.excess[None] > -0.5
    direct = after - carried
    careful = (after - before) - (carried - diagonal * before) - step.excess[None] * before
    return jnp.where(near, careful, direct) - step.shift[None]


def _normal(square, count, logdet):
    return -(square + logdet + count * jnp.log(2 * jnp.pi).astype(square.dtype)) / 2


def _factor(covariance):
    """How to whiten residuals (d, n) of this covariance, its log-determinant, and its rank; NaN if that is not full."""
    d, eps = covariance.shape[0], jnp.finfo(covariance.dtype).eps
    scale = jnp.sqrt(jnp.diagonal(covariance))
    live = scale > 0
    scale = jnp.where(live, scale, 1)
    # Entries of a covariance may differ by many orders, as positions and momenta do after a short time.
    correlation = covariance / scale[:, None] / scale[None]
    triangle = jnp.linalg.cholesky(correlation)
    rank = jnp.sum((jnp.linalg.eigvalsh(correlation) > 8 * d * eps).astype(jnp.int32))
    triangle = jnp.where(rank == d, triangle, jnp.nan)
    logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(triangle)) + jnp.log(scale))

    def whiten(block):
        return jax.scipy.linalg.solve_triangular(triangle, block / scale[:, None], lower=True)

    return whiten, logdet, rank
