"""The error of an inverse, read as a covariance."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from thermolinalg.convergence.estimates import MachineEstimator
from thermolinalg.convergence.knowledge import Eigenvalues, Knowledge, Level, level
from thermolinalg.convergence.machines import between, device_of, factored, machine_of
from thermolinalg.convergence.squared_error import SquaredError, Tail, four_moments
from thermolinalg.covariances import overlap, shortfall
from thermolinalg.device import Device, Program, as_program
from thermolinalg.simulators import Machine, Schedule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Covariance:
    r"""What the error of an inverse depends on: the spectrum alone.

    Attributes
    ----------
    nodes, counts : Array, shape (n,)
        Eigenvalues, and how many modes stand for each.
    crowding : Array, shape ()
        What entries that share a mode add to the variance of the squared error, times the duration cubed.
    """

    nodes: jax.Array
    counts: jax.Array
    crowding: jax.Array

    @classmethod
    def of(cls, machine: Machine, bins: int = 64) -> "Covariance":
        """Return the problem of a factored operator; more than `bins` eigenvalues are gathered in as many bins."""
        nodes, counts, _ = machine.operator.majorise(jnp.zeros((machine.operator.dim, 0), machine.operator.dtype))
        counts = counts / machine.operator.components
        if nodes.size > bins:
            low, high = jnp.log(jnp.min(nodes)), jnp.log(jnp.max(nodes))
            width = jnp.where(high > low, (high - low) / (bins - 1), 1.0)
            place = jnp.round((jnp.log(nodes) - low) / width).astype(jnp.int32)
            total = jnp.zeros(bins, nodes.dtype)
            inverse = total.at[place].add(counts / nodes)
            counts = total.at[place].add(counts)
            nodes = jnp.where(counts > 0, counts / jnp.where(counts > 0, inverse, 1.0), jnp.max(nodes))
        return cls.spread(machine, nodes, counts)

    @classmethod
    def spread(cls, machine: Machine, nodes: jax.Array, counts: jax.Array) -> "Covariance":
        """Return the problem of a device whose modes have these rates."""
        memory = machine.dynamics.memory(nodes)
        speeds = jnp.abs(memory.decay)
        omega = jnp.exp(jnp.linspace(jnp.log(1e-3 * jnp.min(speeds)), jnp.log(1e2 * jnp.max(speeds)), 128))
        decay, weight = memory.decay[None], memory.position[None]
        line = weight * decay / (decay**2 + omega[:, None, None].astype(decay.dtype) ** 2)
        power = 2 * jnp.sum(line.real, 1) / nodes[None]
        density = jnp.sum(counts[None] * power**2, 1) * jnp.sum(counts[None] * power, 1) ** 2
        crowding = 4 / machine.operator.components * jnp.trapezoid(density * omega, jnp.log(omega)) / jnp.pi
        return cls(nodes, counts, crowding)

    def law(self, machine: Machine, schedule: Schedule) -> SquaredError:
        """Law of the squared error of the inverse, in units of its squared Frobenius norm.

        Notes
        -----
        Entries of the covariance count as Gaussian, which holds for many effective samples; that entries which share a
        mode are large together is added to the variance, and to the higher moments in proportion.
        """
        memory = machine.dynamics.memory(self.nodes)
        times = schedule.duration, schedule.samples
        target = jnp.sum(self.counts / self.nodes**2)
        gram = overlap(memory, memory, *times) / (self.nodes[:, None] * self.nodes[None]) / target
        bias = shortfall(memory, schedule.burn_in, *times) ** 2 / self.nodes**2 / target
        components = machine.operator.components
        weights, pairs = 2 / components * gram, self.counts[:, None] * self.counts[None]
        own, lone = jnp.diagonal(weights), jnp.zeros_like(self.counts)
        if components == 1:
            # Entries above the diagonal repeat those below.
            pairs, lone = pairs / 2, self.counts / 2
        # A run shorter than the slowest relaxation is one sample, and no shorter one is worse.
        one = 1 / jnp.min(machine.dynamics.relaxation(self.nodes))
        duration = jnp.maximum(jnp.asarray(schedule.duration).astype(self.nodes.dtype), one)
        spread = jnp.sum(pairs * weights**2) + jnp.sum(own * (lone * own + 2 * self.counts * bias))
        mean = jnp.sum(pairs * weights) + jnp.sum(lone * own)
        # Never below one degree of freedom in all: the law would say that hardly any run has an error.
        growth = jnp.minimum(1 + self.crowding / target**2 / duration**3 / spread, jnp.maximum(mean**2 / spread, 1.0))
        # Fewer degrees of freedom, each with more variance: the mean stays, the second cumulant grows.
        weights, counts = jnp.append(weights.ravel(), own) * growth, jnp.append(pairs.ravel(), lone) / growth
        shifts = jnp.append(jnp.zeros(pairs.size, bias.dtype), self.counts * bias)
        return SquaredError(weights[:, None], counts[:, None], shifts[:, None])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Inverse(MachineEstimator):
    """Convergence of an inverse; made by :func:`inv`.

    Attributes
    ----------
    machine : Machine
        Dynamics, on what is known of the operator.
    problem : Covariance
        With all modes at the smallest eigenvalue where only the extremes are known.
    level : Level
    """

    norm: ClassVar[str] = "Frobenius norm, relative to that of the inverse"

    machine: Machine
    problem: Covariance
    level: Level = field(metadata={"static": True})

    def sharpest(self) -> Tail:
        return four_moments

    def law(self, schedule: Schedule) -> SquaredError:
        law = self.problem.law(self.machine, schedule)
        if self.level >= Level.SPECTRUM:
            return law
        # One mode may have all of the error, which gives an entry the largest variance, or all modes may share it,
        # which gives the largest mean. A chi-square with both has larger cumulants than any spectrum.
        mean = jnp.sum(law.counts * law.weights, 0, keepdims=True)
        largest = jnp.minimum(law.weights[-1:] * jnp.sum(self.problem.counts), mean)
        return SquaredError(largest, mean / largest, jnp.sum(law.shifts, 0, keepdims=True))

    def longest(self, rtol: jax.Array, confidence: jax.Array) -> jax.Array:
        # The error of a long run falls as one over its duration, and its mean bounds its quantiles.
        slowest = jnp.min(self.machine.dynamics.relaxation(self.problem.nodes))
        long = 1e4 / slowest
        scatter = self.law(Schedule(long, long)).cumulants[0, 0] * long / rtol**2
        return 8 * (jnp.log(30 / rtol) / slowest + scatter / (1 - confidence))

    def textbook(self, rtol: jax.Array, confidence: jax.Array) -> Schedule:
        # Half of the mean square that Markov's inequality allows goes to each, noise and what is left of the start.
        goal = rtol**2 * (1 - confidence) / 2
        nodes, counts = self.problem.nodes, self.problem.counts
        slowest = jnp.min(self.machine.dynamics.relaxation(nodes))
        trace, square = jnp.sum(counts / nodes), jnp.sum(counts / nodes**2)
        crowd = trace**2 / square + (1 if self.machine.operator.components == 1 else 0)
        # What a mode lacks falls twice as fast as its mean.
        return Schedule(jnp.log(1 / goal) / (4 * slowest), crowd / slowest / goal)


def inv(A: Any, *, device: Device | None = None) -> Inverse:
    r"""Tell how the inverse read as a covariance converges, from what is known of the matrix.

    Parameters
    ----------
    A : ConditionNumber, Extremes, Eigenvalues, array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Of anything but the first two the whole spectrum is taken; there is no right-hand side to know.
    device : Device, optional
        The ideal overdamped device by default. Its temperature does not matter here.

    Returns
    -------
    Inverse
        With ``time(rtol, confidence)``, ``error(time, confidence)``, and their textbook forms.

    Notes
    -----
    The relative error in the Frobenius norm needs a time of :math:`(d + 1)\kappa/(\lambda_\max\epsilon^2)` at worst.
    Relative to the spectral norm it would be d times as much. From the extremes alone the estimate takes all
    eigenvalues as small as the smallest.

    Examples
    --------
    >>> from thermolinalg.convergence import Eigenvalues, Extremes
    >>> rough, sharp = Extremes(0.01, 1.0, 8), Eigenvalues(jnp.geomspace(0.01, 1.0, 8))
    >>> rough, sharp = (inv(known).time(0.1) for known in (rough, sharp))
    >>> bool(rough.value > sharp.value)
    True
    """
    if isinstance(A, Knowledge):
        return _known(A, device_of(A, device))
    return described(as_program(A, device))


@jax.jit
def described(program: Program) -> Inverse:
    """The convergence of an inverse of which the spectrum is known."""
    machine = factored(jax.lax.stop_gradient(program.machine))
    return Inverse(machine, Covariance.of(machine), Level.SPECTRUM)


def _known(known: Knowledge, device: Device) -> Inverse:
    if isinstance(known, Eigenvalues):
        nodes, counts = known.measure()
        machine = machine_of(nodes, device)
    else:
        machine = machine_of(between(known), device)
        nodes = known.extremes[0][None]
        counts = jnp.full_like(nodes, known.dim)
    return Inverse(machine, Covariance.spread(machine, nodes, counts), level(known))
