"""The least time that keeps a promise, and the least error within a time, over the split of burn-in and averaging."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from thermolinalg.convergence.inversion import imhof
from thermolinalg.convergence.squared_error import SquaredError, Tail, four_moments, nearly
from thermolinalg.laws import Scalar
from thermolinalg.simulators import Schedule

Outcome = TypeVar("Outcome")


def least_time(
    outcome: Callable[[Schedule], Outcome],
    longest: jax.Array,
    clock: jax.Array,
    confidence: Scalar,
    tail: Callable[[Outcome, Scalar], jax.Array],
    samples: Scalar | None = None,
) -> Schedule:
    """Least total time over the split of burn-in and averaging, found on a grid of splits that is refined twice.

    Parameters
    ----------
    outcome : callable
        From the times of a run to what comes of it: the law of its squared error in units of the target, mostly.
    longest : Array, shape ()
        A time that is surely enough, within a factor of a few.
    clock : Array, shape ()
        Time constants of the device in a unit of time; no average is shorter than a tenth of one.
    confidence : float, in (0, 1)
    tail : callable
        From an outcome and a confidence to whether the outcome is good enough; a Tail for squared errors.
    samples : int, optional
        Number of equally spaced samples in place of a continuous average. The time is infinite where they are too few.
    """
    confidence = jnp.asarray(confidence).astype(longest.dtype)
    rough = _rough(tail)

    def keeps(total, logit, tail):
        return jnp.all(tail(outcome(_split(total, logit, clock, samples)), confidence))

    def least(logit, shortest, longest, halvings, tail):
        """The upper end always keeps the promise, or is infinite."""
        found = bisect(lambda total: keeps(total, logit, tail), shortest, longest, halvings)
        return jnp.where(found < longest, found, jnp.inf)

    def refine(level, found):
        """Look for a shorter time on a finer grid of splits; a split that takes longer than the best is dropped."""
        best, total = found
        shortest, halvings = jnp.where(level == 0, 1e-9, 0.5) * total, jnp.where(level == 0, 18, 9)
        times = jax.lax.map(lambda logit: least(logit, shortest, 1.01 * total, halvings, rough), _grid(best, level))
        return _grid(best, level)[jnp.argmin(times)], jnp.min(times)

    best, total = jax.lax.fori_loop(0, 3, refine, (jnp.zeros((), longest.dtype), longest))
    # A rough tail may have taken a time for long enough that is not, most of all where hardly anything is asked.
    longer = jnp.where(keeps(total * 2, best, tail), total * 2, longest)
    total = least(best, total / 2, longer, 16, tail)
    # The four-moment match is optimistic by up to half a per cent of the time; it is added back here.
    return _split(1.005 * total if tail is four_moments else total, best, clock, samples)


def least_error(
    error: Callable[[Schedule], SquaredError],
    total: jax.Array,
    clock: jax.Array,
    confidence: Scalar,
    tail: Tail,
    samples: Scalar | None = None,
) -> tuple[jax.Array, Schedule]:
    """Least error that is kept to with a confidence in a total time, over the split, and the split.

    The error of the run is taken in units of the answer, and so is what is returned; infinite if nothing helps.
    """
    dtype = total.dtype
    confidence = jnp.asarray(confidence).astype(dtype)

    def level(logit, tail, halvings):
        return quantile(error(_split(total, logit, clock, samples)), confidence, tail, halvings)

    def refine(depth, best):
        errors = jax.lax.map(lambda logit: level(logit, _rough(tail), 20), _grid(best, depth))
        return _grid(best, depth)[jnp.argmin(errors)]

    best = jax.lax.fori_loop(0, 3, refine, jnp.zeros((), dtype))
    found = level(best, tail, 40)
    # As much more error as half a per cent less time brings where noise dominates.
    return 1.0025 * found if tail is four_moments else found, _split(total, best, clock, samples)


def quantile(error: SquaredError, confidence: Scalar, tail: Tail, halvings: int = 40) -> jax.Array:
    """The largest of the errors that are kept to with a confidence, in units of the target; shape ()."""
    mean = jnp.sqrt(error.cumulants[0])
    level = 1 - jnp.asarray(confidence).astype(mean.dtype)
    # Markov's inequality above. Below: a single degree of freedom has the density 1/sqrt(2 pi) at most.
    high = 1.001 * mean / jnp.sqrt(level) + jnp.finfo(mean.dtype).tiny
    low = 1e-3 * mean * (1 - level) ** 2 + jnp.finfo(mean.dtype).tiny

    return jnp.max(bisect(lambda target: tail(error.over(target), confidence), low, 10 * high, halvings))


def bisect(good: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array, halvings: Scalar) -> jax.Array:
    """Bisect the logarithm of positive numbers between one too small and one that is `good`; return the latter."""

    def halve(_, ends):
        middle = jnp.sqrt(ends[0]) * jnp.sqrt(ends[1])
        enough = good(middle)
        return jnp.where(enough, ends[0], middle), jnp.where(enough, middle, ends[1])

    return jax.lax.fori_loop(0, halvings, halve, (low, high))[1]


def _rough(tail: Any) -> Any:
    """A cheap tail that ranks splits as this one does."""
    return nearly if tail is four_moments or tail is imhof else tail


def _grid(best: jax.Array, level: jax.Array) -> jax.Array:
    return best + jnp.linspace(-14.0, 14.0, 15, dtype=best.dtype) / 7.0 ** jnp.asarray(level).astype(best.dtype)


def _split(total: jax.Array, logit: jax.Array, clock: jax.Array, samples: Scalar | None) -> Schedule:
    duration = jnp.minimum(jnp.maximum(total * jax.nn.sigmoid(-logit), 0.1 / clock), total)
    return Schedule(total - duration, duration, samples)
