r"""How a reading of the device is obtained on a digital computer.

:class:`Law` draws it from its exact law and costs the same however long the run; :class:`Trajectory` walks there in
exact steps. Both are given the force b and never the answer.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from thermolinalg import covariances, draws
from thermolinalg.draws import white_noise
from thermolinalg.dynamics import Dynamics
from thermolinalg.laws import RunLaw, Scalar
from thermolinalg.operators import Dense, MatrixFree, Modal, Operator


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """State of the device: positions, and momenta when it has inertia; shape (d,) or (d, k)."""

    position: jax.Array
    momentum: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Schedule:
    """Burn-in, duration and number of samples (None: a continuous average) of one run, and how many run side by side.

    A simulator runs once; those who ask for several runs average their readings.
    """

    burn_in: Scalar
    duration: Scalar
    samples: Scalar | None = None
    replicas: int = field(default=1, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reading:
    """What one run shows: the time average, its root mean square error, the end state, and whether it is converged.

    `systematic` is the part of the error that the device makes apart from the law of the run, None where it makes none;
    `flags` are those of :class:`thermolinalg.Status`.
    """

    average: jax.Array
    stderr: jax.Array
    state: State | None
    converged: jax.Array
    systematic: jax.Array | None = None
    flags: int | jax.Array = 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Machine:
    """What a simulator needs to know of a programmed device."""

    operator: Operator
    dynamics: Dynamics
    beta: Scalar

    def law(self, rates: jax.Array, schedule: Schedule) -> RunLaw:
        """Law of one run, for modes with these eigenvalues."""
        return self.dynamics.law(rates, self.beta, schedule.burn_in, schedule.duration, schedule.samples)

    def stderr(self, pull: jax.Array, schedule: Schedule, momentum: jax.Array | None = None) -> jax.Array:
        """Root mean square error of the average, entry by entry: thermal variance and what is left of the start."""
        variance = self.operator.diagonal(lambda rates: self.law(rates, schedule).covariance[0, 0])
        noise = jnp.sqrt(self.operator.components * variance)

        def remains(rates: jax.Array) -> jax.Array:
            start = self.law(rates, schedule).start[0]
            return jnp.stack([-start[0] / rates, *start[1 : len(vectors)]])

        vectors = jnp.stack([pull] if momentum is None else [pull, momentum])
        left = self.operator.magnitude(remains, vectors)
        return jnp.hypot(jnp.broadcast_to(noise[:, None], left.shape), left)

    def pull(self, force: jax.Array, start: State | None) -> tuple[jax.Array, jax.Array | None]:
        """Force felt at the start, and the momentum there if it is not zero."""
        if start is None:
            return force, None
        return force - self.operator.matmat(start.position), start.momentum


class Simulator(Protocol):
    """From a programmed device, a force (d, k) and a schedule to a reading."""

    def prepare(self, operator: Operator) -> Operator:
        """Compute once what every run on this operator needs."""

    def run(
        self, machine: Machine, force: jax.Array, key: jax.Array, schedule: Schedule, start: State | None
    ) -> Reading:
        """Run once and read."""

    def respond(self, machine: Machine, force: jax.Array, schedule: Schedule) -> jax.Array:
        """Mean of the reading for a start at rest: linear in the force, and free of noise."""

    def route(self, machine: Machine, schedule: Schedule) -> jax.Array:
        """Which of its ways to a covariance serves this run, as a number."""

    def covariance(self, machine: Machine, key: jax.Array, schedule: Schedule, route: int | None) -> Reading:
        """Run once from rest without a force, and read the second moment times beta, shape (d, d).

        A route that is known is the only one that gets compiled.
        """


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Law:
    r"""Draw the reading from its exact law.

    The average is :math:`f(A)b + v(A)^{1/2}\xi`, with functions of the operator known in closed form. One ``eigh`` of a
    dense operator serves any number of draws; the cost does not depend on burn-in, duration or number of samples.

    Parameters
    ----------
    long_time : bool
        Draw :math:`A^{-1}(b + \sqrt{\mathtt{noise}/\tau}\,\xi)` instead, the law for :math:`\lambda_\min\tau \gg 1`
        after burn-in, by one Cholesky solve (or conjugate gradients) and no ``eigh``. The plan says when that law is
        within 1 % (``plan.long_time``). The run has no end state, and the standard error is itself estimated, from
        eight more right-hand sides.
    end_state : bool
        Draw the end state too, so that the run can be continued. Without it a matrix-free draw is a third shorter.
    """

    long_time: bool = field(default=False, metadata={"static": True})
    end_state: bool = field(default=True, metadata={"static": True})

    def prepare(self, operator: Operator) -> Operator:
        if self.long_time and isinstance(operator, Dense):
            return operator.triangulate()
        return operator if self.long_time else operator.factor()

    def run(self, machine, force, key, schedule, start):
        return (self._long if self.long_time else self._exact)(machine, force, key, schedule, start)

    def respond(self, machine, force, schedule):
        if self.long_time:
            return machine.operator.solve(force)
        return machine.operator.apply(lambda rates: machine.law(rates, schedule).force[0], force)

    def route(self, machine, schedule):
        return jnp.array(0) if self.long_time else _route(machine, schedule)

    def covariance(self, machine, key, schedule, route):
        operator, samples = machine.operator, schedule.samples
        if self.long_time:
            if samples is None:
                raise ValueError("the long-time law of a covariance is that of independent samples; plan some samples")
            factor = draws.bartlett(key, operator.dim, samples, operator.dtype)
            factor = solve_triangular(operator.triangle, factor, lower=True, trans="C")
            count = operator.components * jnp.asarray(samples).astype(factor.dtype)
            value = factor @ (factor.conj().T / count)
            stderr = covariances.independent_stderr(value, samples * schedule.replicas)
            return Reading(value, stderr, None, jnp.array(True))
        rates, dtype = operator.rates, operator.dtype
        memory, whole = machine.dynamics.memory(rates), _samples(machine, schedule)

        def walked():
            moment = draws.walk(key, *_steps(machine, rates, schedule, whole), whole.astype(int), dtype)
            return moment * jnp.asarray(machine.beta).astype(dtype)

        routes = [
            lambda: draws.independent(key, rates, whole, dtype),
            lambda: draws.correlated(key, rates, memory, schedule.duration, whole, dtype),
            walked,
        ]
        moment = jax.lax.switch(_route(machine, schedule), routes) if route is None else routes[route]()
        return _as_inverse(machine, operator.basis, moment, whole, schedule)

    def _exact(self, machine, force, key, schedule, start):
        pull, momentum = machine.pull(force, start)
        moving = [] if momentum is None else [momentum]
        read = 1 + machine.dynamics.components if self.end_state else 1
        noise = white_noise(key, (read, *force.shape), force.dtype)

        def coefficients(rates):
            law = machine.law(rates, schedule)
            parts = [law.force[:, None], law.start[:, 1 : 1 + len(moving)], law.scale()[:, :read]]
            return jnp.concatenate(parts, 1)[:read]

        vectors = jnp.concatenate([jnp.stack([pull, *moving]), noise])
        (average, *end), converged = machine.operator.combine(coefficients, vectors)
        if start is not None:
            average, end[:1] = average + start.position, [position + start.position for position in end[:1]]
        return Reading(average, machine.stderr(pull, schedule, momentum), State(*end) if end else None, converged)

    def _long(self, machine, force, key, schedule, start):
        k, probes = force.shape[1], 8
        duration = jnp.asarray(schedule.duration)
        # No time is planned where the answer is zero; infinite noise would hide it.
        variance = machine.dynamics.noise(machine.beta) / jnp.where(duration > 0, duration, jnp.inf)
        noise = white_noise(key, (force.shape[0], k + probes), force.dtype) * jnp.sqrt(variance).astype(force.dtype)
        answers = machine.operator.solve(jnp.concatenate([force, jnp.zeros_like(noise[:, k:])], 1) + noise)
        # The mean of 1/chi^2_n is 1/(n - 2), so this divisor gives (value - truth)/stderr unit mean square.
        degrees = probes * machine.operator.components
        square = jnp.sum(jnp.abs(answers[:, k:]) ** 2, 1, keepdims=True)
        spread = jnp.sqrt(square * machine.operator.components / (degrees - 2))
        average = answers[:, :k]
        converged = jnp.all(jnp.isfinite(answers)) if isinstance(machine.operator, MatrixFree) else jnp.array(True)
        return Reading(average, jnp.broadcast_to(spread, average.shape), None, converged)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    r"""Walk along the trajectory in exact steps, and average what is seen on the way.

    A sampled run makes one step for each sample. A continuous one makes `steps` steps, each of which draws the time
    average over the step and the state at its end from their joint law, so that the result does not depend on `steps`.

    Parameters
    ----------
    steps : int, >= 1
        Number of steps of a continuous run.

    Notes
    -----
    A second route to the law that :class:`Law` draws from, at the cost of the number of steps. It needs all
    eigenvectors: dense, diagonal and Kronecker operators only.
    """

    steps: int = field(default=1000, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def prepare(self, operator: Operator) -> Operator:
        if not isinstance(operator, Modal):
            raise ValueError(
                f"Trajectory needs all eigenvectors, which a {type(operator).__name__} operator does not have; "
                "use Law()"
            )
        return operator.factor()

    def run(self, machine, force, key, schedule, start):
        operator = machine.operator
        assert isinstance(operator, Modal)  # prepare() made sure
        pull, momentum = machine.pull(force, start)
        rates, push = operator.rates, operator.to_modes(pull)
        state = jnp.zeros((machine.dynamics.components, *push.shape), push.dtype)
        if momentum is not None:
            state = state.at[1].set(operator.to_modes(momentum))
        sampled = schedule.samples is not None
        steps = jnp.asarray(schedule.samples if sampled else self.steps)
        settle = machine.law(rates, Schedule(schedule.burn_in, 0.0))
        move = machine.law(rates, Schedule(0.0, jnp.asarray(schedule.duration) / steps))

        def advance(law, state, key):
            noise = white_noise(key, (1 + state.shape[0], *push.shape), push.dtype)
            return _affine(law.force[:, None], push[None]) + _affine(law.start, state) + _affine(law.scale(), noise)

        def step(j, carry):
            total, state = carry
            seen = advance(move, state, jax.random.fold_in(key, j))
            return total + (state[0] if sampled else seen[0]), seen[1:]

        key, first = jax.random.split(key)
        state = advance(settle, state, first)[1:]
        total, state = jax.lax.fori_loop(0, steps, step, (jnp.zeros_like(push), state))
        average, position, *rest = (operator.from_modes(x) for x in (total / steps.astype(total.dtype), *state))
        if start is not None:
            average, position = average + start.position, position + start.position
        end = State(position, rest[0] if rest else None)
        return Reading(average, machine.stderr(pull, schedule, momentum), end, jnp.array(True))

    def respond(self, machine, force, schedule):
        return Law().respond(machine, force, schedule)

    def route(self, machine, schedule):
        return jnp.array(0)

    def covariance(self, machine, key, schedule, route):
        operator = machine.operator
        samples = jnp.asarray(self.steps if schedule.samples is None else schedule.samples)
        steps = _steps(machine, operator.rates, schedule, samples)
        moment = draws.walk(key, *steps, samples, operator.dtype) * jnp.asarray(machine.beta).astype(operator.dtype)
        seen = replace(schedule, samples=samples)
        return _as_inverse(machine, operator.basis, moment, samples, seen)


def _affine(coefficients: jax.Array, block: jax.Array) -> jax.Array:
    """Contract coefficients (p, q, n) with modes (q, n, k)."""
    return (coefficients[..., None].astype(block.dtype) * block[None]).sum(1)


def _samples(machine: Machine, schedule: Schedule) -> jax.Array:
    """Number of samples; of a continuous reading, so many that they are as good."""
    operator = machine.operator
    assert isinstance(operator, Modal)  # prepare() and the verb made sure
    rates = operator.rates
    if schedule.samples is not None:
        return jnp.ceil(jnp.asarray(schedule.samples).astype(rates.dtype))
    fastest = jnp.max(jnp.abs(machine.dynamics.memory(rates).decay))
    return jnp.ceil(20 * jnp.asarray(schedule.duration).astype(rates.dtype) * fastest + 1)


@jax.jit
def _route(machine: Machine, schedule: Schedule) -> jax.Array:
    """0 for samples that are independent, 1 for those to be drawn by frequency, 2 for a walk."""
    operator = machine.operator
    assert isinstance(operator, Modal)  # prepare() and the verb made sure
    rates = operator.rates
    memory, duration = machine.dynamics.memory(rates), jnp.asarray(schedule.duration).astype(rates.dtype)
    overlap = covariances.overlap(memory, memory, duration, schedule.samples)
    fewest = 1 / jnp.max(jnp.diagonal(overlap))
    spacing = duration / _samples(machine, schedule)
    alike = jnp.exp(-2 * jnp.min(machine.dynamics.relaxation(rates)) * spacing)
    # What has no law is not worth a walk.
    at_once = (alike < covariances.FORGOTTEN) | ~jnp.all(rates > 0)
    return jnp.where(at_once, 0, jnp.where(fewest >= 20, 1, 2))


def _steps(machine: Machine, rates: jax.Array, schedule: Schedule, samples: jax.Array) -> tuple[RunLaw, RunLaw]:
    """Laws of the burn-in and of the step from one sample to the next."""
    step = jnp.asarray(schedule.duration).astype(rates.dtype) / samples.astype(rates.dtype)
    return machine.law(rates, Schedule(schedule.burn_in, 0.0)), machine.law(rates, Schedule(0.0, step))


def _as_inverse(
    machine: Machine, basis: jax.Array, moment: jax.Array, samples: jax.Array, schedule: Schedule
) -> Reading:
    """The second moment, summed over samples in the eigenbasis, as an estimate of the inverse."""
    operator = machine.operator
    assert isinstance(operator, Modal)  # prepare() and the verb made sure
    count = operator.components * samples.astype(operator.dtype)
    value = basis @ ((moment / count) @ basis.conj().T)
    times = schedule.burn_in, schedule.duration, schedule.samples
    stderr = covariances.inverse_stderr(machine.dynamics, operator.rates, basis, *times, schedule.replicas)
    return Reading((value + value.conj().T) / 2, stderr, None, jnp.array(True))
