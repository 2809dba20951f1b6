"""Error at a time, time for an error: what every primitive can say of its convergence."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.convergence.inversion import imhof
from thermolinalg.convergence.knowledge import Level
from thermolinalg.convergence.search import bisect, least_error, least_time, quantile
from thermolinalg.convergence.squared_error import SquaredError, Tail
from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.ranges import check_count, check_fractions, check_positive, check_whole
from thermolinalg.simulators import Machine, Schedule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimate:
    """A time or an error, and what it rests on.

    Attributes
    ----------
    value : Array, shape ()
        Total time in natural units (in time constants, if only the condition number is known), or error.
    schedule : Schedule
        Burn-in and averaging that it stands for.
    clock : Array, shape ()
        Time constants of the device in one unit of time.
    level : Level
        How much was known.
    norm : str
        The norm that the error is measured in, and relative to what.
    method : str
        The tail that was used, or ``textbook``.
    """

    value: jax.Array
    schedule: Schedule
    clock: jax.Array
    level: Level = field(metadata={"static": True})
    norm: str = field(metadata={"static": True})
    method: str = field(metadata={"static": True})

    def __float__(self) -> float:
        return float(self.value)


class Estimator(ABC):
    """The convergence of one primitive on one device, for what is known of its problem.

    Attributes
    ----------
    norm : str
        The norm of its errors, and what they are relative to.
    level : Level
        How much is known.
    """

    norm: ClassVar[str]
    level: Level

    @property
    @abstractmethod
    def clock(self) -> jax.Array:
        """Time constants of the device in one unit of time."""

    @abstractmethod
    def law(self, schedule: Schedule) -> SquaredError:
        """Law of the squared error of a run, in units of the squared norm of the answer."""

    @abstractmethod
    def longest(self, rtol: jax.Array, confidence: jax.Array) -> jax.Array:
        """A time that is surely enough, within a factor of a few."""

    @abstractmethod
    def textbook(self, rtol: jax.Array, confidence: jax.Array) -> Schedule:
        """Times by textbook bounds: a logarithm of burn-in, and Markov's inequality for the average."""

    def sharpest(self) -> Tail:
        """The tail that is used unless another is asked for."""
        return imhof

    def time(
        self,
        rtol: Scalar,
        confidence: Scalar = 0.95,
        tail: Tail | None = None,
        *,
        samples: Scalar | None = None,
        replicas: int = 1,
    ) -> Estimate:
        r"""Least total time with which :math:`P(\text{error} \le \mathtt{rtol}) \ge` `confidence`.

        Parameters
        ----------
        rtol : float, > 0
            Error, in the norm that the result names.
        confidence : float, in (0, 1)
            Fraction of runs that keep to it.
        tail : Tail, optional
            How sharp: :func:`imhof`, :func:`four_moments`, :func:`laurent_massart` (guaranteed) or :func:`markov`. By
            default the sharpest that is worth it: exact for a solve, four moments for covariances, of whose law no more
            is known.
        samples : int, optional
            Number of equally spaced samples in place of a continuous reading.
        replicas : int, >= 1
            Independent runs, side by side, whose readings are averaged.

        Raises
        ------
        ValueError
            If a number is out of range, or no finite time is enough.
        """
        check_positive(rtol=rtol)
        check_count(samples=samples)
        check_fractions(confidence=confidence)
        check_whole("replicas", replicas, 1)
        tail = self.sharpest() if tail is None else tail
        schedule = _time(self, rtol, confidence, tail, samples, replicas)
        return self._estimate(schedule.burn_in + schedule.duration, schedule, tail.__name__)

    def error(
        self,
        time: Scalar,
        confidence: Scalar = 0.95,
        tail: Tail | None = None,
        *,
        samples: Scalar | None = None,
        replicas: int = 1,
    ) -> Estimate:
        """Least error that a fraction `confidence` of runs of this total time keeps to, over the split of the time."""
        check_positive(time=time)
        check_count(samples=samples)
        check_fractions(confidence=confidence)
        check_whole("replicas", replicas, 1)
        tail = self.sharpest() if tail is None else tail
        value, schedule = _error(self, time, confidence, tail, samples, replicas)
        return self._estimate(value, schedule, tail.__name__)

    def error_of(self, schedule: Schedule, confidence: Scalar = 0.95, tail: Tail | None = None) -> Estimate:
        """Error that a fraction `confidence` of runs with these times keeps to."""
        check_fractions(confidence=confidence)
        tail = self.sharpest() if tail is None else tail
        return self._estimate(_error_of(self, schedule, confidence, tail), schedule, tail.__name__)

    def textbook_time(self, rtol: Scalar, confidence: Scalar = 0.95) -> Estimate:
        """As :meth:`time`, by textbook bounds: closed forms that show how time grows, and are loose."""
        check_positive(rtol=rtol)
        check_fractions(confidence=confidence)
        schedule = _textbook(self, rtol, confidence)
        return self._estimate(schedule.burn_in + schedule.duration, schedule, "textbook")

    def textbook_error(self, time: Scalar, confidence: Scalar = 0.95) -> Estimate:
        """As :meth:`error`, by textbook bounds: the error for which they ask for this time."""
        check_positive(time=time)
        check_fractions(confidence=confidence)
        value = _textbook_error(self, time, confidence)
        return self._estimate(value, _textbook(self, value, confidence), "textbook")

    def _estimate(self, value: jax.Array, schedule: Schedule, method: str) -> Estimate:
        if is_concrete(value) and not np.isfinite(value):
            raise ValueError(
                "no finite time is enough: there are too few samples, or the scale of the operands and beta overflows "
                "the dtype"
            )
        return Estimate(value, schedule, self.clock, self.level, self.norm, method)


class MachineEstimator(Estimator):
    """The convergence of a reading of modes with known rates."""

    machine: Machine

    @property
    def clock(self) -> jax.Array:
        return self.machine.dynamics.clock(self.machine.operator.extremes()[2])


@partial(jax.jit, static_argnames=("tail", "replicas"))
def _time(
    estimator: Estimator, rtol: Scalar, confidence: Scalar, tail: Tail, samples: Scalar | None, replicas: int
) -> Schedule:
    clock = estimator.clock
    goal, level = (jnp.asarray(x).astype(clock.dtype) for x in (rtol, confidence))

    def error(schedule: Schedule) -> SquaredError:
        return estimator.law(schedule).averaged(replicas).over(goal)

    return least_time(error, estimator.longest(goal, level), clock, level, tail, samples)


@partial(jax.jit, static_argnames=("tail", "replicas"))
def _error(
    estimator: Estimator, time: Scalar, confidence: Scalar, tail: Tail, samples: Scalar | None, replicas: int
) -> tuple[jax.Array, Schedule]:
    clock = estimator.clock

    def error(schedule: Schedule) -> SquaredError:
        return estimator.law(schedule).averaged(replicas)

    return least_error(error, jnp.asarray(time).astype(clock.dtype), clock, confidence, tail, samples)


@partial(jax.jit, static_argnames="tail")
def _error_of(estimator: Estimator, schedule: Schedule, confidence: Scalar, tail: Tail) -> jax.Array:
    return quantile(estimator.law(schedule), confidence, tail)


@jax.jit
def _textbook(estimator: Estimator, rtol: Scalar, confidence: Scalar) -> Schedule:
    return estimator.textbook(*(jnp.asarray(x).astype(estimator.clock.dtype) for x in (rtol, confidence)))


@jax.jit
def _textbook_error(estimator: Estimator, time: Scalar, confidence: Scalar) -> jax.Array:
    total = jnp.asarray(time).astype(estimator.clock.dtype)

    def enough(rtol):
        schedule = _textbook(estimator, rtol, confidence)
        return schedule.burn_in + schedule.duration <= total

    tiny = jnp.asarray(1e-18, total.dtype)
    return bisect(enough, tiny, 1 / tiny, 60)
