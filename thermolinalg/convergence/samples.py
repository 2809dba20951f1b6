"""The error of a second moment that is read of independent samples."""

from dataclasses import dataclass, field
from math import log
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.convergence.estimates import Estimator
from thermolinalg.convergence.knowledge import Eigenvalues, Knowledge, Level, level
from thermolinalg.convergence.squared_error import SquaredError, Tail, four_moments
from thermolinalg.covariances import FORGOTTEN
from thermolinalg.drifts import settling_time
from thermolinalg.encodings import Encoded, exponential, shift_margin, stationary
from thermolinalg.laws import Scalar
from thermolinalg.simulators import Schedule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Samples:
    r"""What the error of a moment of independent samples depends on.

    Attributes
    ----------
    weights, counts : Array, shape (n,)
        Variances of entries in one sample, relative to the squared norm of the answer, and how many have them.
    crowding : Array, shape ()
        What entries that share a factor add to the second cumulant of the squared error, times the cube of the number
        of samples.
    """

    weights: jax.Array
    counts: jax.Array
    crowding: jax.Array

    @classmethod
    def covariance(cls, values: jax.Array, components: int) -> "Samples":
        """Of the covariance itself, from its eigenvalues; every pair of eigenvectors has an entry of its own."""
        live = jnp.max(values) > 0
        sizes = jnp.where(live, values / jnp.where(live, jnp.max(values), 1.0), 1.0)
        square = jnp.sum(sizes**2)
        pairs = jnp.outer(sizes, sizes).ravel() / square
        crowding = 4 / components * jnp.sum(sizes) ** 2 / square
        if components == 2:
            return cls(pairs, jnp.ones_like(pairs), crowding)
        weights = 2 * jnp.append(pairs, sizes**2 / square)
        return cls(weights, jnp.full_like(weights, 0.5), crowding)

    @classmethod
    def spread(cls, left: jax.Array, counts: jax.Array) -> "Samples":
        """As :meth:`lagged`, for a symmetric propagator with these eigenvalues and numbers of them."""
        d, square = jnp.sum(counts), jnp.sum(counts * left**2)
        weights = jnp.append(jnp.ones_like(left[:1]), 1 + left**2) / square
        return cls(weights, jnp.append(d**2 - d, counts), 2 * d**3 / square**2)

    @classmethod
    def lagged(cls, propagator: jax.Array, components: int) -> "Samples":
        """Of the covariance of white states with what the propagator makes of them."""
        lag = jnp.abs(propagator) ** 2
        square, d = jnp.sum(lag), lag.shape[0]
        weights = (1 + lag if components == 1 else jnp.full_like(lag, 0.5)).ravel() / square
        return cls(weights, jnp.full_like(weights, components), 2 / components * d**3 / square**2)

    def law(self, samples: jax.Array) -> SquaredError:
        """Law of the squared error of this many samples, in units of the squared norm of the answer."""
        spread = jnp.sum(self.counts * self.weights**2)
        # Fewer degrees of freedom, each with more variance: the mean stays, the second cumulant grows.
        mean = jnp.sum(self.counts * self.weights)
        # Never below one degree of freedom in all: the law would say that hardly any run has an error.
        growth = jnp.minimum(1 + self.crowding / spread / samples, jnp.maximum(mean**2 / spread, 1.0))
        weights, counts = self.weights * growth / samples, self.counts / growth
        return SquaredError(weights[:, None], counts[:, None], jnp.zeros_like(weights)[:, None])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sampled(Estimator):
    """Convergence of a moment read of independent samples; made by :func:`lyapunov` and :func:`expm`.

    Attributes
    ----------
    samples : Samples
    pace : Array, shape ()
        Rate at which a state forgets: the distance of two states falls by ``exp(-pace * time)``, or faster.
    lag : Array, shape ()
        Time between the two states of a pair, zero without.
    fastest : Array, shape ()
        Rate of the fastest mode.
    level : Level
    """

    norm: ClassVar[str] = "Frobenius norm, relative to that of the answer"

    samples: Samples
    pace: jax.Array
    lag: jax.Array
    fastest: jax.Array
    level: Level = field(metadata={"static": True})

    @property
    def clock(self) -> jax.Array:
        return self.fastest

    def sharpest(self) -> Tail:
        return four_moments

    @property
    def spacing(self) -> jax.Array:
        """Time from one sample to the next, which has forgotten it."""
        return jnp.asarray(self.lag + log(1 / FORGOTTEN) / (2 * self.pace))

    def law(self, schedule: Schedule) -> SquaredError:
        duration = jnp.asarray(schedule.duration).astype(self.pace.dtype)
        count = jnp.maximum(duration / self.spacing, 1e-6)
        # Only the first sample remembers the start, and lacks as much of its covariance.
        left = jnp.exp(-2 * self.pace * jnp.asarray(schedule.burn_in).astype(duration.dtype)) / jnp.maximum(count, 1.0)
        return self.samples.law(count).shifted(left**2)

    def longest(self, rtol: jax.Array, confidence: jax.Array) -> jax.Array:
        times = self.textbook(rtol, confidence)
        return 8 * jnp.asarray(times.burn_in + times.duration)

    def textbook(self, rtol: jax.Array, confidence: jax.Array) -> Schedule:
        goal = rtol**2 * (1 - confidence) / 2
        count = jnp.sum(self.samples.counts * self.samples.weights) / goal
        return Schedule(jnp.log(1 / goal) / (4 * self.pace), count * self.spacing)


def lyapunov(A: Any, Q: ArrayLike | None = None) -> Sampled:
    r"""Tell how a Lyapunov solution read of independent samples converges.

    Parameters
    ----------
    A : array (d, d) with `Q`, or ConditionNumber or Extremes without
        Extremes are those of the symmetric part :math:`(A + A^*)/2`, whose smallest eigenvalue bounds how fast the
        process forgets.
    Q : array, shape (d, d), optional

    Returns
    -------
    Sampled
        With ``time(rtol, confidence)``, ``error(time, confidence)``, and their textbook forms. Samples follow each
        other so slowly that they are independent.

    Raises
    ------
    ValueError
        If the operands do not make sense, or `Q` is missing.

    Notes
    -----
    N samples have the relative error :math:`\sqrt{(r + 1)/N}`, with :math:`r = (\operatorname{tr}X)^2/\|X\|_F^2 \le d`
    the effective rank of the solution.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.convergence import Extremes
    >>> exact = lyapunov(jnp.array([[1.0, 0.5], [0.0, 2.0]]), jnp.eye(2)).time(0.1)
    >>> rough = lyapunov(Extremes(0.9, 2.1, 2)).time(0.1)
    >>> bool(rough.value > exact.value)
    True
    """
    if isinstance(A, Knowledge):
        if Q is not None or isinstance(A, Eigenvalues):
            raise ValueError("the solution depends on A and Q together: give both as matrices, or extremes alone")
        d, (low, high) = A.dim, A.extremes
        # One eigenvalue of the solution for each variance, all for the mean and for what entries share.
        samples = Samples(
            jnp.full(1, 2.0, low.dtype), jnp.full(1, (d + 1) / 2, low.dtype), 4.0 * d * jnp.ones_like(low)
        )
        return Sampled(samples, low, jnp.zeros_like(low), high, level(A))
    if Q is None:
        raise ValueError("give Q: the error is relative to the solution, which depends on it")
    return encoded_samples(stationary(A, Q, None))


def expm(A: Any, t: Scalar = 1.0, *, shift: Scalar | None = None) -> Sampled:
    r"""Tell how an exponential read of independent pairs converges.

    Parameters
    ----------
    A : array (d, d), or Eigenvalues, Extremes or ConditionNumber of a symmetric -A
        What is known of a spectrum is that of the decay :math:`-A`, which is positive definite then.
    t : float, >= 0
    shift : float, optional
        As for :func:`thermolinalg.expm`; only with a matrix.

    Returns
    -------
    Sampled
        With ``time(rtol, confidence)``, ``error(time, confidence)``, and their textbook forms.

    Raises
    ------
    ValueError
        If the operands do not make sense.

    Notes
    -----
    The noise of the pairs is amplified by the gain :math:`e^{at}` of the shift a, and the answer is as small as
    :math:`e^{-\lambda t}`; the error is relative to the answer.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.convergence import Extremes
    >>> exact = expm(-jnp.diag(jnp.array([1.0, 2.0]))).time(0.1)
    >>> rough = expm(Extremes(1.0, 2.0, 2)).time(0.1)
    >>> bool(rough.value >= 0.99 * exact.value)
    True
    """
    if not isinstance(A, Knowledge):
        return encoded_samples(exponential(A, t, shift, None))
    if shift is not None:
        raise ValueError("shift is chosen from the spectrum; leave it out, or give the matrix itself")
    low, high = A.extremes
    lag = jnp.asarray(t).astype(low.dtype)
    margin = shift_margin(lag, high)
    if isinstance(A, Eigenvalues):
        rates, counts = A.measure()
        left = jnp.exp(-(rates - low + margin) * lag)
        samples = Samples.spread(left, counts)
    else:
        # The answer is no smaller than with all eigenvalues but one at the largest.
        ends = jnp.stack([jnp.exp(-margin * lag), jnp.exp(-(high - low + margin) * lag)])
        counts = jnp.array([1.0, A.dim - 1.0], low.dtype)
        samples = Samples.spread(ends, counts) if A.dim > 1 else Samples.spread(ends[:1], counts[:1])
    return Sampled(samples, margin, lag, high - low + margin, level(A))


@jax.jit
def encoded_samples(encoded: Encoded) -> Sampled:
    """The convergence of an encoded problem: of its own covariance, or a lagged one."""
    encoded = jax.lax.stop_gradient(encoded)
    dtype = encoded.drift.dtype
    if encoded.lag is None:
        values, vectors = jnp.linalg.eigh(encoded.stationary)
        values = jnp.maximum(values, 0.0)
        # Half of the eigenvalues of the real form of a complex matrix are those of the matrix.
        samples = Samples.covariance(values[:: encoded.components], encoded.components)
        spread, lag = vectors * jnp.sqrt(values)[None], jnp.zeros((), dtype)
        known = Level.RIGHT_HAND_SIDE
    else:
        samples = Samples.lagged(encoded.after(encoded.lag)[0], encoded.components)
        spread, lag = jnp.eye(encoded.drift.shape[0], dtype=dtype), encoded.lag
        known = Level.SPECTRUM
    # As slow as a process that forgets at a constant rate and has forgotten as much by the time a sample is taken.
    settled = settling_time(encoded.drift, spread, jnp.sqrt(jnp.asarray(FORGOTTEN, dtype)))
    # Where nothing moves, nothing has to be forgotten.
    settled = jnp.where(settled > 0, settled, 1 / encoded.clock)
    return Sampled(samples, log(1 / FORGOTTEN) / (2 * settled), lag, encoded.clock, known)
