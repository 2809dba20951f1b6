"""How fast the state of a device forgets its start: the convergence of samples."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from thermolinalg.convergence.estimates import MachineEstimator
from thermolinalg.convergence.knowledge import Eigenvalues, Level, as_known, level
from thermolinalg.convergence.machines import between, device_of, machine_of
from thermolinalg.convergence.squared_error import SquaredError
from thermolinalg.covariances import shortfall
from thermolinalg.device import Device
from thermolinalg.laws import Scalar
from thermolinalg.simulators import Machine, Schedule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixing(MachineEstimator):
    """Convergence of the law of a state to the stationary one, from a point; made by :func:`gaussian`.

    Attributes
    ----------
    machine : Machine
        Dynamics, on what is known of the operator.
    rates, counts : Array, shape (n,)
        Eigenvalues, and how many unknowns each stands for.
    level : Level
    """

    norm: ClassVar[str] = "spectral norm of the covariance, relative to the stationary one mode by mode"

    machine: Machine
    rates: jax.Array
    counts: jax.Array
    level: Level = field(metadata={"static": True})

    def law(self, schedule: Schedule) -> SquaredError:
        # No noise in a covariance: what is left of the start is certain. All of the time is burn-in.
        elapsed = jnp.asarray(schedule.burn_in).astype(self.rates.dtype)
        elapsed = elapsed + jnp.asarray(schedule.duration).astype(self.rates.dtype)
        left = jnp.max(self._missing(elapsed)) ** 2
        nothing = jnp.zeros((1, 1), left.dtype)
        return SquaredError(nothing, nothing + 1, nothing + left)

    def longest(self, rtol: jax.Array, confidence: jax.Array) -> jax.Array:
        times = self.textbook(rtol, confidence)
        return 8 * times.burn_in + 1 / jnp.min(self.machine.dynamics.relaxation(self.rates))

    def textbook(self, rtol: jax.Array, confidence: jax.Array) -> Schedule:
        slowest = jnp.min(self.machine.dynamics.relaxation(self.rates))
        return Schedule(jnp.maximum(jnp.log(1 / rtol), 0.0) / (2 * slowest), jnp.zeros_like(rtol))

    def divergence(self, time: Scalar) -> jax.Array:
        r"""Kullback-Leibler divergence, in nats, of the state after a time in the well of the stationary mean.

        .. math:: \tfrac12\sum_i [\varrho_i - 1 - \ln\varrho_i], \qquad \varrho_i = 1 - e^{-2\lambda_i t}

        for a start at the mean; overdamped.
        """
        left = self._missing(jnp.asarray(time).astype(self.rates.dtype))
        return jnp.sum(self.counts * (-left - jnp.log1p(-left))) / 2

    def _missing(self, elapsed: jax.Array) -> jax.Array:
        """Fraction of its stationary variance that each mode lacks."""
        memory = self.machine.dynamics.memory(self.rates)
        return jnp.abs(shortfall(memory, elapsed, jnp.zeros_like(elapsed), None))


def gaussian(A: Any, *, device: Device | None = None) -> Mixing:
    r"""Tell how fast samples of the device become those of the stationary law, from what is known of the matrix.

    Parameters
    ----------
    A : ConditionNumber, Extremes, Eigenvalues, array (d, d), operator, SciPy sparse matrix, lineax operator or Program
    device : Device, optional
        The ideal overdamped device by default.

    Returns
    -------
    Mixing
        With ``time(rtol)``, ``error(time)``, which are certain, so that ``confidence`` does not matter, their textbook
        forms, and ``divergence(time)``.

    Notes
    -----
    The covariance of an overdamped device lacks :math:`e^{-2\lambda_\min t}` in the spectral norm, exactly; the
    divergence falls as :math:`\tfrac14\sum_i e^{-4\lambda_i t}`, so it needs :math:`\ln(d)/(4\lambda_\min)` more.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> samples = gaussian(jnp.diag(jnp.array([1.0, 10.0])))
    >>> round(float(samples.error(time=2.0).value), 3)
    0.018
    """
    known = as_known(A)
    if isinstance(known, Eigenvalues):
        rates, counts = known.measure()
    else:
        rates = between(known)
        counts = jnp.full_like(rates, known.dim / rates.size)
    return Mixing(machine_of(rates, device_of(A, device)), rates, counts, level(known))
