"""The error of a log determinant."""

from dataclasses import dataclass, field
from math import log
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from thermolinalg.convergence.estimates import MachineEstimator
from thermolinalg.convergence.knowledge import Eigenvalues, Knowledge, Level, level
from thermolinalg.convergence.machines import device_of, factored, machine_of
from thermolinalg.convergence.squared_error import SquaredError
from thermolinalg.covariances import FORGOTTEN
from thermolinalg.device import Device, as_program
from thermolinalg.free_energy import Modes, ThermodynamicIntegration
from thermolinalg.laws import Scalar
from thermolinalg.simulators import Machine, Schedule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LogDeterminant(MachineEstimator):
    """Convergence of a log determinant by thermodynamic integration; made by :func:`logdet`.

    Attributes
    ----------
    machine : Machine
        Dynamics, on what is known of the operator.
    modes : Modes
        The spectrum against the stiffness of the start.
    reference : Array, shape ()
        That stiffness.
    level : Level
    """

    norm: ClassVar[str] = "absolute error of the logarithm of the determinant"

    machine: Machine
    modes: Modes
    reference: jax.Array
    level: Level = field(metadata={"static": True})

    def law(self, schedule: Schedule) -> SquaredError:
        estimator, real = ThermodynamicIntegration(), self.reference.dtype
        duration = jnp.asarray(schedule.duration).astype(real)
        slowest = self._spacing(jnp.linspace(0.0, 1.0, 2, dtype=real))
        *_, positions, shares = estimator.predict(self.modes, jnp.maximum(duration / jnp.max(slowest), 1.0))
        samples = jnp.maximum(duration / jnp.sum(shares * self._spacing(positions)), 1e-6)
        if self.level >= Level.SPECTRUM:
            variance, bias, *_ = estimator.predict(self.modes, samples)
            square = bias**2
        else:
            # The noise of a mode and the bias of its quadrature grow with its distance from the reference.
            ends = [Modes(x[None], jnp.sum(self.modes.counts)[None], x, x) for x in (self.modes.low, self.modes.high)]
            found = [estimator.predict(end, samples)[:2] for end in ends]
            variance = jnp.maximum(found[0][0], found[1][0])
            square = jnp.maximum(found[0][1] ** 2, found[1][1] ** 2)
        components = self.machine.operator.components
        weights, shifts = variance / components**2, square / components**2
        return SquaredError(weights[None, None], jnp.ones((1, 1), real), shifts[None, None])

    def longest(self, rtol: jax.Array, confidence: jax.Array) -> jax.Array:
        return 100 * jnp.asarray(self.textbook(rtol, confidence).duration)

    def textbook(self, rtol: jax.Array, confidence: jax.Array) -> Schedule:
        # Every mode as far from the reference as the farthest: the integral of the squared slope is (r - 1)^2/r.
        reach = jnp.max(self.modes.excess**2 / (1 + self.modes.excess))
        components = self.machine.operator.components
        samples = 2 * jnp.sum(self.modes.counts) / components**2 * reach / rtol**2 / (1 - confidence)
        spacing = jnp.max(self._spacing(jnp.linspace(0.0, 1.0, 2, dtype=rtol.dtype)))
        return Schedule(jnp.zeros_like(samples), samples * spacing)

    def _spacing(self, positions: jax.Array) -> jax.Array:
        """Time from one sample to the next, which has forgotten it, along the path."""
        stiffness = self.reference * (1 + positions * jnp.minimum(self.modes.low, self.modes.high))
        return jnp.asarray(log(1 / FORGOTTEN) / (2 * self.machine.dynamics.relaxation(stiffness)))


def logdet(A: Any, *, reference: Scalar | None = None, device: Device | None = None) -> LogDeterminant:
    r"""Tell how a log determinant by thermodynamic integration converges, from what is known of the matrix.

    Parameters
    ----------
    A : ConditionNumber, Extremes, Eigenvalues, array (d, d), operator, SciPy sparse matrix, lineax operator or Program
    reference : float, > 0, optional
        Stiffness of the start; the geometric middle of the spectrum by default.
    device : Device, optional
        The ideal overdamped device by default. Its temperature does not matter here.

    Returns
    -------
    LogDeterminant
        With ``time(atol, confidence)``, ``error(time, confidence)``, and their textbook forms; the error is absolute.

    Notes
    -----
    The time grows as :math:`d/\epsilon^2` times the relaxation time of the softest mode on the path.

    Examples
    --------
    >>> known = Eigenvalues(jnp.geomspace(0.1, 1.0, 8))
    >>> bool(logdet(known).time(0.1).value < logdet(known).time(0.05).value)
    True
    """
    if isinstance(A, Knowledge):
        known = level(A)
        low, high = A.extremes
        if isinstance(A, Eigenvalues):
            rates, counts = A.measure()
        else:
            rates, counts = jnp.stack([low, high]), jnp.array([1.0, A.dim - 1.0], low.dtype)
        machine = machine_of(rates, device_of(A, device))
    else:
        known = Level.SPECTRUM
        machine = factored(jax.lax.stop_gradient(as_program(A, device).machine))
        operator = machine.operator
        rates, counts, _ = operator.measure(jnp.zeros((operator.dim, 0), operator.dtype))
        _, low, high, _ = operator.extremes()
    a = jnp.sqrt(low) * jnp.sqrt(high) if reference is None else jnp.asarray(reference).astype(low.dtype)
    modes = Modes((rates - a) / a, counts, (low - a) / a, (high - a) / a)
    return LogDeterminant(machine, modes, a, known)
