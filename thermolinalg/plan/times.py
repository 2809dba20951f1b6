"""Times of a run, and what they promise."""

from dataclasses import dataclass, field

import jax
import numpy as np

from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.ranges import check_count, check_whole
from thermolinalg.simulators import Schedule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """Times of one run, and what they promise.

    Attributes
    ----------
    burn_in : float, >= 0
        Time before the read-out begins, in the natural units of the equation.
    duration : float, >= 0
        Time over which the state is averaged.
    samples : int, optional
        Number of equally spaced samples in the duration; a continuous average by default.
    rtol, confidence : float, optional
        The promise: relative error in the 2-norm at most `rtol`, in a fraction `confidence` of runs.
    clock : float
        Device time constants in one natural unit of time.
    long_time_error : float, optional
        Largest relative deviation of the long-time law from the exact one: variance of a mode, or bias left out.
    resolved : bool, optional
        Whether the smallest eigenvalue is known. If it is not, which happens to matrix-free operators, the promise is
        one for the part of the spectrum that was seen, and may fail.
    replicas : int, >= 1
        Independent runs of these times, side by side, whose readings are averaged.
    """

    burn_in: Scalar
    duration: Scalar
    samples: Scalar | None = None
    rtol: Scalar | None = None
    confidence: Scalar | None = None
    clock: Scalar = 1.0
    long_time_error: Scalar | None = None
    resolved: Scalar | None = None
    replicas: int = field(default=1, metadata={"static": True})

    def __post_init__(self) -> None:
        check_whole("replicas", self.replicas, 1)

    @property
    def total(self) -> Scalar:
        """Burn-in plus duration."""
        return self.burn_in + self.duration

    @property
    def time_constants(self) -> Scalar:
        """Total time in time constants of the device."""
        return self.clock * self.total

    @property
    def work(self) -> Scalar:
        """Total time of all replicas together, which is what energy is paid for."""
        return self.replicas * self.total

    @property
    def spacing(self) -> Scalar | None:
        """Time from one sample to the next; None for a continuous reading."""
        return None if self.samples is None else self.duration / self.samples

    @property
    def long_time(self) -> jax.Array | bool:
        """Whether ``Law(long_time=True)`` is within 1 % of the exact law; False if the plan was not derived."""
        return False if self.long_time_error is None else self.long_time_error <= 0.01

    @property
    def schedule(self) -> Schedule:
        """The times alone."""
        return Schedule(self.burn_in, self.duration, self.samples, self.replicas)


def check_plan(plan: Plan) -> Plan:
    """Return the plan if its times make sense.

    Raises
    ------
    ValueError
        If a time is negative or not finite, or the number of samples is not a whole one.
    """
    if not is_concrete(plan):
        return plan
    for name in ("burn_in", "duration"):
        value = np.asarray(getattr(plan, name))
        if not (np.all(np.isfinite(value)) and np.all(value >= 0)):
            raise ValueError(f"{name} must be finite and not negative, got {getattr(plan, name)}")
    check_count(samples=plan.samples)
    return plan


def check_found(plan: Plan) -> Plan:
    """Return the plan; raise a ``ValueError`` if its times are known to be infinite."""
    if is_concrete(plan) and not np.isfinite(plan.total):
        raise ValueError(
            f"no time was found that reaches rtol = {plan.rtol}: the scale of the operands and beta overflows its dtype"
        )
    return plan
