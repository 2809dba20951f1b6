"""A limit on time or energy, and the plan that makes the best of it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from thermolinalg.convergence import Estimate, Estimator, laurent_massart
from thermolinalg.device import Device
from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.power import cell_watts
from thermolinalg.ranges import check_positive


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Budget:
    """What a run may take: burn-in and averaging of one right-hand side, transfers not included.

    Parameters
    ----------
    seconds : float, > 0, optional
        Of device time.
    joules : float, > 0, optional
        Drawn by all cells of all replicas while they run.

    Examples
    --------
    >>> from thermolinalg.device import Device
    >>> Budget(seconds=1e-3, joules=1e-4).limit(Device(), dim=10, replicas=1)     # 10 cells of 0.1 mW
    0.001
    """

    seconds: Scalar | None = None
    joules: Scalar | None = None

    def __post_init__(self) -> None:
        if self.seconds is None and self.joules is None:
            raise ValueError("a budget needs seconds or joules")
        check_positive(seconds=self.seconds, joules=self.joules)

    def limit(self, device: Device, dim: int, replicas: int) -> Scalar:
        """Seconds that one of the replicas may run."""
        if self.joules is None:
            assert self.seconds is not None
            return self.seconds
        paid = self.joules / cell_watts(device, dim, replicas)
        if self.seconds is None:
            return paid
        return min(self.seconds, paid) if is_concrete(self.seconds, paid) else jnp.minimum(self.seconds, paid)


def choose(
    estimator: Estimator,
    device: Device,
    dim: int,
    *,
    rtol: Scalar | None,
    budget: Budget | None,
    confidence: Scalar,
    guaranteed: bool,
    samples: Scalar | None,
    replicas: int,
) -> tuple[Estimate, Scalar | jax.Array]:
    """Times of the run for an error, or the best that a budget buys; and the error."""
    if rtol is not None and budget is not None:
        raise ValueError("give rtol or a budget, not both: the one is what the other buys")
    tail = laurent_massart if guaranteed else None
    if budget is None:
        assert rtol is not None
        return estimator.time(rtol, confidence, tail, samples=samples, replicas=replicas), rtol
    total = budget.limit(device, dim, replicas) / device.time_constant / estimator.clock
    found = estimator.error(total, confidence, tail, samples=samples, replicas=replicas)
    return found, found.value
