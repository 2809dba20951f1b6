r"""The error of a linear solve.

The time average is Gaussian, mode by mode: its variance is thermal noise, averaged, and its bias what is left of the
start.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.convergence.estimates import MachineEstimator
from thermolinalg.convergence.knowledge import Eigenvalues, Knowledge, Level, as_known, check_length, level
from thermolinalg.convergence.machines import between, device_of, factored, machine_of
from thermolinalg.convergence.squared_error import SquaredError
from thermolinalg.device import Device, Program, as_program, as_start
from thermolinalg.laws import Scalar
from thermolinalg.operators import as_block
from thermolinalg.simulators import Machine, Schedule, State


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """What the error of a solve depends on: the spectrum, and how the answer lies in it.

    Attributes
    ----------
    nodes, counts : Array, shape (n,)
        Eigenvalues, and how many degrees of freedom stand for each.
    pull : Array, shape (n, k)
        Squared components of answer minus start, relative to the squared length of the answer.
    length : Array, shape (k,)
        Length of the answer.
    """

    nodes: jax.Array
    counts: jax.Array
    pull: jax.Array
    length: jax.Array

    @classmethod
    def of(cls, machine: Machine, force: jax.Array, pull: jax.Array) -> "Problem":
        """Return the problem of a factored operator, a force (d, k) and the force felt at the start."""
        k = force.shape[1]
        nodes, counts, weights = machine.operator.majorise(jnp.concatenate([force, pull], 1))
        # Squares are taken relative to the largest component, so that no square of a large number is formed.
        distances = jnp.sqrt(weights) / nodes[:, None]
        answer, rest = distances[:, :k], distances[:, k:]
        largest = jnp.max(answer, 0)
        unit = jnp.where(largest > 0, largest, 1.0)
        relative = jnp.sqrt(jnp.sum((answer / unit[None]) ** 2, 0))
        scale = jnp.where(largest > 0, unit * relative, jnp.inf)
        return cls(nodes, counts, (rest / scale[None]) ** 2, largest * relative)

    @property
    def distance(self) -> jax.Array:
        """Squared distance of the start from the answer, relative to the squared length of the answer; the largest."""
        return jnp.max(jnp.sum(self.pull, 0))

    @property
    def scatter(self) -> jax.Array:
        """The Frobenius norm of the inverse."""
        return _scatter(self.nodes, self.counts)

    def law(self, machine: Machine, schedule: Schedule) -> SquaredError:
        """Law of the squared error, in units of the squared length of the answer; zero where the answer is."""
        law = machine.law(self.nodes, schedule)
        weights = law.covariance[0, 0][:, None] * _reciprocal(self.length)[None] ** 2
        return SquaredError(weights, self.counts[:, None], self.pull * law.start[0, 0][:, None] ** 2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unaligned:
    """What is left of a :class:`Problem` where nobody knows how the answer lies in the spectrum.

    Attributes
    ----------
    nodes : Array, shape (n,)
        Eigenvalues; or, where only the extremes are known, values that stand for all between them.
    counts : Array, shape (n,), or None
        Degrees of freedom of each; None where any of them may have all.
    degrees : Array, shape ()
        Degrees of freedom in all.
    length : Array, shape (1,)
        Length of the answer, or a lower bound.
    """

    nodes: jax.Array
    counts: jax.Array | None
    degrees: jax.Array
    length: jax.Array

    @property
    def distance(self) -> jax.Array:
        """Squared distance of the start from the answer, relative to the squared length of the answer: from rest."""
        return jnp.ones((), self.nodes.dtype)

    def law(self, machine: Machine, schedule: Schedule) -> SquaredError:
        """A squared error that is larger than the true one, cumulant by cumulant, wherever the answer lies."""
        law = machine.law(self.nodes, schedule)
        weights = law.covariance[0, 0] / self.length**2
        # All that is left of the start counts for the mode that forgets slowest, and adds to the noisiest.
        remains = jnp.max(law.start[0, 0] ** 2)
        if self.counts is None:
            return SquaredError(jnp.max(weights)[None, None], self.degrees[None, None], remains[None, None])
        shifts = jnp.where(jnp.arange(weights.size) == jnp.argmax(weights), remains, 0.0)
        return SquaredError(weights[:, None], self.counts[:, None], shifts[:, None])

    @property
    def scatter(self) -> jax.Array:
        """The Frobenius norm of the inverse, or an upper bound."""
        if self.counts is None:
            return jnp.sqrt(self.degrees) / jnp.min(self.nodes)
        return _scatter(self.nodes, self.counts)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Linear(MachineEstimator):
    """Convergence of a linear solve; made by :func:`solve`.

    Attributes
    ----------
    machine : Machine
        Dynamics and temperature, on what is known of the operator.
    problem : Problem or Unaligned
    level : Level
    """

    norm: ClassVar[str] = "2-norm, relative to the length of the answer"

    machine: Machine
    problem: Problem | Unaligned
    level: Level = field(metadata={"static": True})

    def law(self, schedule: Schedule) -> SquaredError:
        return self.problem.law(self.machine, schedule)

    def longest(self, rtol: jax.Array, confidence: jax.Array) -> jax.Array:
        times = self.textbook(rtol / 15, jnp.zeros_like(rtol))
        # Not zero where the answer is, and with it the time that is needed.
        return 8 * (times.burn_in + self._averaging(rtol) / (1 - confidence)) + 1 / self.clock

    def textbook(self, rtol: jax.Array, confidence: jax.Array) -> Schedule:
        # Half of the mean square that Markov's inequality allows goes to each, noise and what is left of the start.
        level = 1 - confidence
        slowest = jnp.min(self.machine.dynamics.relaxation(self.problem.nodes))
        logarithm = jnp.log(jnp.maximum(2 * self.problem.distance / level, rtol**2) / rtol**2)
        return Schedule(logarithm / (2 * slowest), 2 * self._averaging(rtol) / level)

    def _averaging(self, rtol: jax.Array) -> jax.Array:
        """Duration of an average whose mean square error is that of the target, for long times."""
        noise = jnp.asarray(self.machine.dynamics.noise(self.machine.beta)).astype(rtol.dtype)
        return jnp.max(noise * (self.problem.scatter * _reciprocal(self.problem.length) / rtol) ** 2)


def solve(
    A: Any,
    b: ArrayLike | None = None,
    *,
    force: Scalar | None = None,
    length: Scalar | None = None,
    device: Device | None = None,
    x0: ArrayLike | None = None,
) -> Linear:
    r"""Tell how a linear solve converges, from what is known of it.

    The four levels, from little to all:

    * :class:`ConditionNumber` or :class:`Extremes` for `A`, and `force` or `length`: every mode counts as the worst.
    * :class:`Eigenvalues` for `A`, or a matrix without `b`: the noise is known, the direction of the answer is not.
    * a matrix and `b`: the exact law.

    Parameters
    ----------
    A : ConditionNumber, Extremes, Eigenvalues, array (d, d), operator, SciPy sparse matrix, lineax operator or Program
    b : array, shape (d,) or (d, k), optional
        Right-hand sides; the worst of them counts.
    force : float, > 0, optional
        Length of b, where b is not given. The answer is then taken as short as it can be, :math:`\|b\|/\lambda_\max`.
    length : float, > 0, optional
        Length of the answer, in place of `force`, where that is known.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default.
    x0 : array, optional
        Where the run starts; only with `b`. At rest in the origin by default.

    Returns
    -------
    Linear
        With ``time(rtol, confidence)``, ``error(time, confidence)``, and their textbook forms.

    Raises
    ------
    ValueError
        If what is given is too little, too much, or out of range.

    Notes
    -----
    Below the highest level the law is larger than the true one in every cumulant, whatever the answer and, below the
    whole spectrum, whatever lies between the extremes. What is certain of an estimate is therefore the tail:
    :func:`laurent_massart` and :func:`markov` are bounds at every level.

    References
    ----------
    The scaling :math:`d\kappa^2/\epsilon^2` is that of Aifer et al., *Thermodynamic linear algebra*, arXiv:2308.05660;
    constants here are derived from the law of the average.

    Examples
    --------
    >>> from thermolinalg.convergence import ConditionNumber
    >>> little = solve(ConditionNumber(100.0, dim=10), force=30.0).time(0.1)
    >>> more = solve(Eigenvalues(jnp.geomspace(0.01, 1.0, 10)), force=30.0).time(0.1)
    >>> little.level.name, more.level.name, bool(more.value < little.value)
    ('CONDITION_NUMBER', 'SPECTRUM', True)
    """
    if b is None:
        if (force is None) == (length is None):
            raise ValueError("give b, or the length of b as force, or the length of the answer as length")
        if x0 is not None:
            raise ValueError("x0 needs b: the distance to the answer is not known otherwise")
        check_length("force", force)
        check_length("length", length)
        known = as_known(A)
        return _unaligned(known, force, length, device_of(A, device))
    if force is not None or length is not None or isinstance(A, Knowledge):
        raise ValueError("b says all: leave out force and length, and give the matrix itself")
    program = as_program(A, device)
    return aligned(program, *as_run(program, b, x0))


def as_run(program: Program, b: ArrayLike, x0: ArrayLike | State | None) -> tuple[jax.Array, State | None]:
    """Right-hand sides (d, k) and start of a run, checked."""
    block = as_block(b, program.operator, "b")
    return block, as_start(x0, program.operator, block)


@jax.jit
def aligned(program: Program, force: jax.Array, start: State | None) -> Linear:
    """The convergence of a solve of which everything is known."""
    program, force, start = jax.lax.stop_gradient((program, force, start))
    machine = factored(program.machine)
    problem = Problem.of(machine, force, machine.pull(force, start)[0])
    # The Lanczos process of a right-hand side pads its nodes with some of no weight, which lie anywhere.
    live = (problem.counts > 0) | jnp.any(problem.pull > 0, 1)
    problem = replace(problem, nodes=jnp.where(live, problem.nodes, machine.operator.extremes()[2]))
    return Linear(machine, problem, Level.RIGHT_HAND_SIDE)


def _unaligned(known: Knowledge, force: Scalar | None, length: Scalar | None, device: Device) -> Linear:
    low, high = known.extremes
    answer = jnp.asarray(length).astype(low.dtype) if force is None else jnp.asarray(force).astype(low.dtype) / high
    if isinstance(known, Eigenvalues):
        nodes, counts = known.measure()
        degrees = jnp.sum(counts)
    else:
        nodes, counts = between(known), None
        degrees = jnp.asarray(known.dim, low.dtype)
    problem = Unaligned(nodes, counts, degrees, answer[None])
    return Linear(machine_of(nodes, device), problem, level(known))


def _scatter(nodes: jax.Array, counts: jax.Array) -> jax.Array:
    low = jnp.min(nodes)
    return jnp.sqrt(jnp.sum(counts * (low / nodes) ** 2)) / low


def _reciprocal(length: jax.Array) -> jax.Array:
    return jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1.0), 0.0)
