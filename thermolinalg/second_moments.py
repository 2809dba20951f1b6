"""What a device reads of an encoded problem: a second moment, of independent samples or of correlated ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermolinalg.covariances import FORGOTTEN
from thermolinalg.draws import bartlett, white_noise
from thermolinalg.drifts import as_given
from thermolinalg.encodings import Encoded
from thermolinalg.integrator import Integrator, advance
from thermolinalg.laws import Scalar
from thermolinalg.paths import root
from thermolinalg.sde import Equation, Noise
from thermolinalg.simulators import Law, Schedule, Trajectory

_BLOCK = 512
"""Steps of a walk between two updates of the sum; a power of two."""


class _Steps(NamedTuple):
    """The parts of a run: times, and propagators in the type of the answer."""

    burn_in: Scalar
    rest: jax.Array  # from the later state of a pair to the next pair
    begin: jax.Array  # what the burn-in leaves
    early: tuple[jax.Array, jax.Array] | None  # from the earlier state of a pair to the later one, with covariance
    late: jax.Array  # what the rest leaves

    @property
    def whole(self) -> jax.Array:
        """Propagator from one sample to the next."""
        return self.late if self.early is None else self.late @ self.early[0]


def read(
    encoded: Encoded, key: jax.Array, schedule: Schedule, early: tuple[jax.Array, jax.Array] | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Run an encoded problem from rest, and read its moment.

    Parameters
    ----------
    early : tuple or None
        ``encoded.after(encoded.lag)``, if the problem has a lag.

    Returns
    -------
    Array, shape (d, d)
        The moment, not yet multiplied by the gain.
    Array, shape (d, d)
        Its root mean square error, entry by entry.
    Array, shape ()
        Largest correlation of the squares of two successive samples.
    """
    samples, duration = (jnp.asarray(x).astype(encoded.drift.dtype) for x in (schedule.samples, schedule.duration))
    spacing = duration / samples
    rest = spacing if encoded.lag is None else jnp.maximum(spacing - encoded.lag, 0)
    steps = _Steps(schedule.burn_in, rest, encoded.left(schedule.burn_in), early, encoded.left(rest))
    covariance = encoded.covariance
    length = jnp.linalg.norm(covariance)
    alike = jnp.linalg.norm(steps.whole @ covariance @ steps.whole.conj().T) / jnp.where(length > 0, length, 1)

    def averaged(run):
        if schedule.replicas == 1:
            return run(encoded, key, steps, samples)
        keys = jax.random.split(key, schedule.replicas)
        return jnp.mean(jax.lax.map(lambda key: run(encoded, key, steps, samples), keys), 0)

    def independent():
        return averaged(_independent), _independent_variance(encoded, steps, samples, schedule.replicas)

    def integrated():
        return averaged(_integrated), _variance(encoded, steps, samples, schedule.replicas)

    def walked():
        return averaged(_walked), _variance(encoded, steps, samples, schedule.replicas)

    simulator = encoded.simulator
    if isinstance(simulator, Trajectory):
        value, variance = walked()
    elif isinstance(simulator, Integrator):
        value, variance = integrated()
    elif isinstance(simulator, Law) and simulator.long_time:
        value, variance = independent()
    else:
        # The spacing of a plan may miss the mark by its own resolution.
        value, variance = jax.lax.cond(alike <= 1.5 * FORGOTTEN, independent, walked)
    if encoded.lag is not None:
        # Overlapping pairs would need a second run beside the first; where that could not be refused, nothing is read.
        value = jnp.where(spacing >= encoded.lag * (1 - 1e-6), value, jnp.nan)
    return value, jnp.sqrt(variance), alike


def _independent(encoded: Encoded, key: jax.Array, steps: _Steps, samples: jax.Array) -> jax.Array:
    """Moment of independent samples, at a cost that does not depend on their number."""
    first, second = jax.random.split(key)
    before = bartlett(first, steps.begin.shape[0], samples, encoded.entries)
    count = encoded.components * samples.astype(encoded.entries)
    if steps.early is None:
        before = root(encoded.covariance) @ before
        return before @ before.conj().T / count
    if not encoded.white:
        before = root(encoded.covariance) @ before
    # Later states are what is left of the earlier ones, and noise that knows of them by the factor alone.
    propagator, covariance = steps.early
    after = propagator @ before + root(covariance) @ white_noise(second, before.shape, before.dtype)
    return after @ before.conj().T / count


def _walked(encoded: Encoded, key: jax.Array, steps: _Steps, samples: jax.Array) -> jax.Array:
    """Moment of equally spaced samples of one run, walked in exact steps."""
    dtype, size = encoded.entries, encoded.covariance.shape[0]
    scale = (1 / jnp.sqrt(jnp.asarray(encoded.components, encoded.drift.dtype))).astype(dtype)
    late, spread = steps.late.T, root(encoded.after(steps.rest)[1]).T * scale
    powers = [steps.whole]
    while 2 ** len(powers) < _BLOCK:
        powers.append(powers[-1] @ powers[-1])
    key, first = jax.random.split(key)
    state = white_noise(first, (1, size), dtype) @ (root(encoded.after(steps.burn_in)[1]).T * scale)
    if steps.early is not None:
        forth, soon = steps.early[0].T, root(steps.early[1]).T * scale

    def block(j, carry):
        state, moment = carry
        first, second = white_noise(jax.random.fold_in(key, j), (2, _BLOCK, size), dtype)
        push = second @ spread
        if steps.early is not None:
            first = first @ soon
            push = push + first @ late
        # States at the start of each step; the last push leads to the next block.
        states = _recursion(powers, jnp.concatenate([state, push[:-1]]))
        following = states[-1:] @ powers[0].T + push[-1:]
        live = (j * _BLOCK + jnp.arange(_BLOCK))[:, None] < jnp.ceil(samples).astype(int)
        seen = jnp.where(live, states, 0)
        later = seen if steps.early is None else seen @ forth + jnp.where(live, first, 0)
        return following, moment + later.T @ seen.conj()

    blocks = jnp.ceil(samples / _BLOCK).astype(int)
    moment = jax.lax.fori_loop(0, blocks, block, (state, jnp.zeros((size, size), dtype)))[1]
    return moment / samples.astype(dtype)


def _integrated(encoded: Encoded, key: jax.Array, steps: _Steps, samples: jax.Array) -> jax.Array:
    """Moment of equally spaced samples of one run, by integration of the equation."""
    simulator = encoded.simulator
    assert isinstance(simulator, Integrator)
    if not simulator.cells.linear:
        raise ValueError(
            f"a drift without symmetry is integrated for linear cells, not for {type(simulator.cells).__name__} ones"
        )
    real = encoded.drift.dtype
    equation = Equation(_relaxing, _kicked, (encoded.drift, root(encoded.diffusion)), Noise.ADDITIVE)
    longest = jnp.asarray(simulator.step).astype(real) / encoded.clock

    def moved(state, key, time):
        return advance(equation, simulator.flat, state, key, time, longest)

    def sample(j, carry):
        state, moment = carry
        first, second = jax.random.split(jax.random.fold_in(key, j))
        later = state if encoded.lag is None else moved(state, first, encoded.lag)
        return moved(later, second, steps.rest), moment + jnp.outer(later, state)

    key, begin = jax.random.split(key)
    rest = jnp.zeros(len(encoded.drift), real)
    empty = jnp.zeros_like(encoded.drift)
    count = jnp.ceil(samples).astype(jnp.int32)
    _, moment = jax.lax.fori_loop(0, count, sample, (moved(rest, begin, steps.burn_in), empty))
    return as_given(encoded.components * moment / count.astype(real), encoded.entries)


def _relaxing(t, x, args):
    return -args[0] @ x


def _kicked(t, x, args):
    return args[1]


def _recursion(powers: list[jax.Array], pushes: jax.Array) -> jax.Array:
    """States of x_k = E x_(k-1) + push_k, by matrix products: every other one first, with E^2, then those between."""
    if len(pushes) == 1:
        return pushes
    even, odd = pushes[0::2], pushes[1::2]
    later = _recursion(powers[1:], even @ powers[0].T + odd)
    between = jnp.concatenate([even[:1], later[:-1] @ powers[0].T + even[1:]])
    return jnp.stack([between, later], 1).reshape(pushes.shape)


def _independent_variance(encoded: Encoded, steps: _Steps, samples: jax.Array, replicas: int) -> jax.Array:
    """Mean square error of each entry of a moment of independent samples."""
    covariance, begun = encoded.covariance, steps.begin
    missing = begun @ covariance @ begun.conj().T
    if steps.early is not None:
        propagator = steps.early[0]
        missing = propagator @ missing
        cross = (propagator @ covariance) ** 2
    else:
        cross = covariance**2
    own = jnp.diagonal(covariance).real
    variance = own[:, None] * own[None]
    if encoded.components == 1:
        variance = variance + cross
    # Only the first sample remembers the start.
    return variance / samples / replicas + (jnp.abs(missing) / samples) ** 2


def _variance(encoded: Encoded, steps: _Steps, samples: jax.Array, replicas: int) -> jax.Array:
    r"""Mean square error of each entry of a moment of correlated samples, by its sum over lags.

    .. math::

        \operatorname{Var} S_{ab} = \frac1{N^2} \sum_{|u|<N} (N - |u|)
            [R_{aa}(u\Delta) R_{bb}(u\Delta) + R_{ab}(u\Delta + t) R_{ba}(u\Delta - t)]
    """
    covariance, begun, step, rest = encoded.covariance, steps.begin, steps.whole, steps.late
    forth = jnp.eye(len(step), dtype=step.dtype) if steps.early is None else steps.early[0]
    cutoff = 1e-7 * jnp.linalg.norm(covariance)
    # R(u), and where they differ from it R(u + t) and R(u - t), side by side: one product with the step moves them on.
    apart = [] if steps.early is None or encoded.components == 2 else [step @ forth @ covariance, rest @ covariance]
    width = covariance.shape[0]

    def add(carry):
        u, lags, total = carry
        same = lags[:, :width]
        own = jnp.diagonal(same)
        entries = (own[:, None] * own.conj()[None]).real
        if encoded.components == 1:
            late, early = (lags[:, width : 2 * width], lags[:, 2 * width :]) if apart else (same, same)
            entries = entries + late * early.T
        return u + 1, step @ lags, total + 2 * (samples - u) / samples**2 * entries

    def more(carry):
        return (carry[0] < samples) & (jnp.linalg.norm(carry[1][:, :width]) > cutoff)

    own = jnp.diagonal(covariance).real
    total = own[:, None] * own[None]
    if encoded.components == 1:
        total = total + (forth @ covariance) ** 2
    begin = jnp.ones_like(samples), jnp.concatenate([step @ covariance, *apart], 1), total / samples
    total = jax.lax.while_loop(more, add, begin)[-1]
    bias = _summed(step, begun @ covariance @ begun.conj().T, jnp.ceil(samples))
    return jnp.maximum(total, 0) / replicas + jnp.abs(forth @ bias / samples.astype(bias.dtype)) ** 2


def _summed(step: jax.Array, first: jax.Array, count: jax.Array) -> jax.Array:
    r""":math:`\sum_{u<n} E^u M E^{u*}` for n >= 1, by doubling along the binary digits of n."""
    n = jnp.minimum(count, 2.0**30).astype(jnp.int32)
    digits = 31 - jax.lax.clz(n)

    def odd(carry):
        power, total = carry
        return power @ step, first + step @ total @ step.conj().T

    def digit(j, carry):
        power, total = carry
        doubled = power @ power, total + power @ total @ power.conj().T
        return jax.lax.cond((n >> (digits - 1 - j)) & 1 == 1, odd, lambda carry: carry, doubled)

    return jax.lax.fori_loop(0, digits, digit, (step, first))[1]
