"""The least total time that keeps a promise, over the split of burn-in and averaging."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from thermolinalg.convergence import SquaredError
from thermolinalg.laws import Scalar
from thermolinalg.simulators import Machine, Schedule
from thermolinalg.spectrum import Spectrum


def factored(machine: Machine) -> Machine:
    """The machine with all that functions of its operator need, also when its simulator does without."""
    operator = machine.operator.factor()
    lower, low, high, upper = operator.extremes()
    return replace(machine, operator=operator, dynamics=machine.dynamics.resolve(Spectrum(low, high, lower, upper)))


def least_time(
    machine: Machine,
    error: Callable[[Schedule], SquaredError],
    longest: jax.Array,
    confidence: Scalar,
    guaranteed: bool,
) -> tuple[Schedule, jax.Array]:
    """Least total time over the split of burn-in and averaging, found on a grid of splits that is refined twice."""
    dtype = longest.dtype
    confidence = jnp.asarray(confidence).astype(dtype)
    _, _, high, _ = machine.operator.extremes()
    clock = machine.dynamics.clock(high)

    def schedule(total, logit):
        duration = jnp.minimum(jnp.maximum(total * jax.nn.sigmoid(-logit), 0.1 / clock), total)
        return Schedule(total - duration, duration)

    def keeps(total, logit, accurate=False):
        law = error(schedule(total, logit))
        if guaranteed:
            return jnp.all(law.bound(confidence) <= 1)
        return jnp.all((law.exceedance() if accurate else law.exceedance_fast()) <= 1 - confidence)

    def least(logit, shortest, longest, halvings, accurate):
        """The upper end always keeps the promise, or is infinite."""
        found = bisect(lambda total: keeps(total, logit, accurate), shortest, longest, halvings)
        return jnp.where(found < longest, found, jnp.inf)

    def refine(level, found):
        """Look for a shorter time on a finer grid of splits; a split that takes longer than the best is dropped."""
        best, total = found
        shortest, halvings = jnp.where(level == 0, 1e-9, 0.5) * total, jnp.where(level == 0, 18, 9)
        grid = best + jnp.linspace(-14.0, 14.0, 15, dtype=dtype) / 7.0**level
        times = jax.lax.map(lambda logit: least(logit, shortest, 1.01 * total, halvings, False), grid)
        return grid[jnp.argmin(times)], jnp.min(times)

    best, total = jax.lax.fori_loop(0, 3, refine, (jnp.zeros((), dtype), longest))
    total = least(best, total / 2, total * 2, 16, True)
    # The four-moment match is optimistic by up to half a per cent of the time; it is added back here.
    return schedule(total if guaranteed else 1.005 * total, best), clock


def bisect(good: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array, halvings: Scalar) -> jax.Array:
    """Bisect the logarithm of a positive number between one too small and one that is `good`; return the latter."""

    def halve(_, ends):
        middle = jnp.sqrt(ends[0]) * jnp.sqrt(ends[1])
        enough = good(middle)
        return jnp.where(enough, ends[0], middle), jnp.where(enough, middle, ends[1])

    return jax.lax.fori_loop(0, halvings, halve, (low, high))[1]
