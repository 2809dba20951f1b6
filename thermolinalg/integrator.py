"""Readings by integration of the equation, for cells that no closed form describes, and as a check of those it does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermolinalg import covariances
from thermolinalg.cells import Linear
from thermolinalg.dynamics import Capacitive, Underdamped
from thermolinalg.laws import Scalar
from thermolinalg.operators import Modal, Operator
from thermolinalg.ranges import check_positive
from thermolinalg.sde import (
    BAOAB,
    AdditiveRungeKutta,
    Equation,
    EulerMaruyama,
    LangevinEquation,
    Noise,
    PhaseState,
    accumulate,
)
from thermolinalg.simulators import Law, Machine, Reading, Schedule, State
from thermolinalg.streaming import BatchMeans


class Clockwork(NamedTuple):
    """Equal steps that fill a run after its burn-in."""

    steps: jax.Array
    step: jax.Array
    every: jax.Array  # steps from one sample to the next

    @staticmethod
    def of(schedule: Schedule, longest: jax.Array) -> "Clockwork":
        """Steps no longer than this."""
        duration = jnp.asarray(schedule.duration).astype(longest.dtype)
        if schedule.samples is None:
            return Clockwork(*_filled(duration, longest), jnp.ones((), jnp.int32))
        samples = jnp.ceil(jnp.asarray(schedule.samples).astype(longest.dtype))
        every = jnp.maximum(jnp.ceil(duration / samples / longest), 1)
        steps = jnp.where(duration > 0, samples * every, 0)
        return Clockwork(steps.astype(jnp.int32), _length(duration, steps, longest), every.astype(jnp.int32))

    @property
    def seen(self) -> jax.Array:
        """Number of states that are averaged; one for a run of no time."""
        return jnp.maximum(self.steps // self.every, 1)


def advance(equation: Any, scheme: Any, state: Any, key: jax.Array, time: Scalar, longest: jax.Array) -> Any:
    """The state after a time, by equal steps that are no longer than `longest`."""
    steps, step = _filled(jnp.asarray(time).astype(longest.dtype), longest)
    return accumulate(equation, scheme, state, key, step=step, steps=steps, observe=_unobserved, carry=0.0)[0]


def _filled(time: jax.Array, longest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Number and length of the fewest steps that fill a time."""
    steps = jnp.ceil(time / longest)
    return steps.astype(jnp.int32), _length(time, steps, longest)


def _length(time: jax.Array, steps: jax.Array, longest: jax.Array) -> jax.Array:
    """Length of so many steps in a time; of none, any will do."""
    return jnp.where(steps > 0, time / jnp.maximum(steps, 1), longest)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Integrator:
    """Integrate the stochastic differential equation of the device, step by step.

    Parameters
    ----------
    step : float, > 0
        Length of a step times the rate, or the angular frequency, of the fastest mode.
    scheme : Scheme, optional
        From :mod:`thermolinalg.sde`. By default one of weak order 2: ``AdditiveRungeKutta``, or ``BAOAB`` for devices
        with inertia; ``EulerMaruyama`` for clamped cells, whose resting points it does not move.
    cells : Linear, Saturating, Clamped, Coloured or Drifting
        What the cells are like, from :mod:`thermolinalg.cells`.

    Raises
    ------
    ValueError
        If the step is not below the stability limit of the scheme.

    Notes
    -----
    The cost is that of two products with the matrix for each step. Standard errors of linear cells are those of the
    law; errors of the scheme, of the order of the square of `step`, come on top. For other cells the standard error of
    an average is estimated from the scatter of batches: it knows neither what is left of the start, nor what such cells
    do to the mean. ``FEW_SAMPLES`` says that the run is too short for that. Standard errors of covariances are those of
    linear cells. Real matrices only; derivatives of linear cells only.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.device import Device
    >>> from thermolinalg.cells import Clamped
    >>> device = Device(beta=1e8, simulator=Integrator(cells=Clamped(low=0.0, high=1.0)))
    >>> program = device.program(jnp.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> reading = program.run(jnp.array([[3.0], [-1.0]]), jax.random.key(0), Schedule(20.0, 1.0))
    >>> (reading.average.round(2) + 0.0).ravel().tolist()    # the unconstrained solution is (2.33, -1.67)
    [1.0, 0.0]
    """

    step: Scalar = 0.05
    scheme: Any = None
    cells: Linear = field(default_factory=Linear)

    def __post_init__(self) -> None:
        check_positive(step=self.step)
        limit = 2.0 if self.scheme is None else getattr(self.scheme, "limit", 2.0)
        if isinstance(self.step, int | float) and self.step >= limit:
            raise ValueError(
                f"step = {self.step} is not below {limit}, beyond which the scheme is unstable; it counts in "
                "relaxation times of the fastest mode"
            )

    def prepare(self, operator: Operator) -> Operator:
        if operator.components == 2:
            raise ValueError(
                "an Integrator runs real matrices only; pass real and imaginary parts as twice the unknowns"
            )
        return operator.factor()

    def run(self, machine, force, key, schedule, start):
        average, scatter, state, flags = self.integrate(machine, force, key, schedule, start, self.longest(machine))
        pull, momentum = machine.pull(force, start)
        stderr = machine.stderr(pull, schedule, momentum) if self.cells.linear else scatter
        return Reading(average, stderr, state, jnp.array(True), flags=flags)

    def integrate(
        self,
        machine: Machine,
        force: jax.Array,
        key: jax.Array,
        schedule: Schedule,
        start: State | None,
        longest: jax.Array,
    ) -> tuple[jax.Array, jax.Array, State, jax.Array]:
        """Average, its scatter (zero for linear cells), end state and flags, by steps no longer than `longest`.

        The operator is only multiplied with, and need not be symmetric.
        """
        positions = jnp.zeros_like(force) if start is None else start.position
        momenta = jnp.zeros_like(force) if start is None or start.momentum is None else start.momentum
        keys = jax.random.split(key, force.shape[1])

        def column(force, position, momentum, key):
            return self._average(machine, force, PhaseState(position, momentum), key, schedule, longest)

        average, scatter, end, flags = jax.vmap(column, (1, 1, 1, 0), (1, 1, 1, 0))(force, positions, momenta, keys)
        inert = machine.dynamics.components == 2
        state = State(end.position, end.momentum if inert else None)
        return average, scatter, state, jnp.bitwise_or.reduce(flags)

    def respond(self, machine, force, schedule):
        if not self.cells.linear:
            raise ValueError(f"there is no derivative for {type(self.cells).__name__} cells; differentiate linear ones")
        return Law().respond(machine, force, schedule)

    def route(self, machine, schedule):
        return jnp.array(0)

    def covariance(self, machine, key, schedule, route):
        operator = machine.operator
        if not isinstance(operator, Modal):
            raise ValueError(
                f"a covariance is read of all entries; pass the {type(operator).__name__} operator as an array"
            )
        rest = jnp.zeros(operator.dim, operator.dtype)
        problem = self._problem(machine, rest, PhaseState(rest, rest))
        found = problem.walked(key, schedule, self.longest(machine), lambda x: jnp.outer(x, x), None)
        value = jnp.asarray(machine.beta).astype(operator.dtype) * found.total / found.number
        times = schedule.burn_in, schedule.duration, schedule.samples
        stderr = covariances.inverse_stderr(machine.dynamics, operator.rates, operator.basis, *times, schedule.replicas)
        return Reading((value + value.T) / 2, stderr, None, jnp.array(True))

    @property
    def flat(self) -> Any:
        """The scheme for cells without inertia."""
        # A scheme that looks ahead looks beyond a box, and comes to rest beside the point where Euler's does.
        usual = AdditiveRungeKutta() if self.cells.smooth else EulerMaruyama()
        return usual if self.scheme is None else self.scheme

    def longest(self, machine: Machine) -> jax.Array:
        """Length of a step, in natural units of time."""
        ends = jnp.stack(machine.operator.extremes()[1:3])
        return jnp.asarray(self.step).astype(ends.dtype) / jnp.max(machine.dynamics.clock(ends))

    def _problem(self, machine: Machine, force: jax.Array, start: PhaseState) -> "_Problem":
        cells, beta = self.cells, jnp.asarray(machine.beta).astype(force.dtype)
        position, momentum = start.position, start.momentum
        args = machine.operator, force, cells
        dynamics = machine.dynamics
        if isinstance(dynamics, Underdamped | Capacitive):
            if cells.correlation_time is not None:
                raise ValueError("coloured noise is a model of overdamped cells; leave out the inertia")
            scheme = BAOAB() if self.scheme is None else self.scheme
            friction = jnp.asarray(dynamics.friction).astype(force.dtype)
            if isinstance(dynamics, Underdamped):
                mass = jnp.asarray(dynamics.mass).astype(force.dtype)
                equation = LangevinEquation(_push, args, mass, friction, 1 / beta)
                return _Problem(equation, scheme, PhaseState(position, momentum), cells, _position)
            matrix = machine.operator.matmat(jnp.eye(force.size, dtype=force.dtype))
            if not cells.linear:
                raise ValueError("cells coupled by capacitors are modelled as linear ones")
            equation = LangevinEquation(_spring, force, matrix, friction, 1 / beta)
            # Read is the velocity; a state of the device is (voltage, current).
            begin = PhaseState(momentum, matrix @ position)
            return _Problem(equation, scheme, begin, cells, partial(_velocity, machine.operator))
        scheme, scale = self.flat, jnp.sqrt(2 / beta)
        if cells.correlation_time is None:
            flat = Equation(_push, _white, (*args, scale), Noise.ADDITIVE)
            return _Problem(flat, scheme, position, cells, _same)
        memory = jnp.asarray(cells.correlation_time).astype(force.dtype)
        wide = Equation(_coloured, _hidden, (*args, scale, memory), Noise.ADDITIVE)
        return _Problem(wide, scheme, jnp.concatenate([position, jnp.zeros_like(position)]), cells, _half)

    def _average(self, machine, force, start, key, schedule, longest):
        """Average, its standard error from batches, the end state and flags, for one force (d,)."""
        problem = self._problem(machine, force, start)
        batches = None if self.cells.linear else BatchMeans.empty(force.size, batches=32, dtype=force.dtype)
        found = problem.walked(key, schedule, longest, lambda x: x, batches)
        total = found.total
        if schedule.samples is None:
            # Both ends count half.
            total = total + (problem.shown(found.state) - found.begun) / 2
        average, end = total / found.number, problem.ended(found.state, machine)
        if found.batches is None:
            return average, jnp.zeros_like(average), end, jnp.zeros((), jnp.int32)
        return average, found.batches.stderr, end, found.batches.status


class _Walk(NamedTuple):
    """What is seen of a run: the sum over its states of what is measured, their number, its ends, and batches."""

    total: jax.Array
    number: jax.Array
    begun: jax.Array
    state: Any
    batches: BatchMeans | None


class _Problem(NamedTuple):
    """What is integrated, by which scheme, from where, and what is seen of it."""

    equation: Any
    scheme: Any
    start: Any
    cells: Linear
    seen: Any

    def shown(self, state: Any) -> jax.Array:
        """What the reader sees of a state."""
        return self.cells.output(self.seen(state))

    def walked(
        self,
        key: jax.Array,
        schedule: Schedule,
        longest: jax.Array,
        measure: Callable[[jax.Array], jax.Array],
        batches: BatchMeans | None,
    ) -> _Walk:
        """Let it settle, and add up over a run what is measured of states that are shown, the first among them."""
        first, second = jax.random.split(key)
        scheme, clockwork = _Confined(self.scheme, self.cells), Clockwork.of(schedule, longest)
        state = advance(self.equation, scheme, self.start, first, schedule.burn_in, longest)
        begun = self.shown(state)

        def observe(carry, t, state):
            count, total, batches = carry
            taken = ((count + 1) % clockwork.every == 0) & (count + 1 < clockwork.steps)
            x = self.shown(state)
            batches = None if batches is None else batches.add(x)
            return count + 1, total + jnp.where(taken, measure(x), 0), batches

        times = {"step": clockwork.step, "steps": clockwork.steps, "t0": schedule.burn_in}
        carry = jnp.zeros((), jnp.int32), measure(begun), batches
        state, (_, total, batches) = accumulate(
            self.equation, scheme, state, second, **times, observe=observe, carry=carry
        )
        return _Walk(total, clockwork.seen.astype(begun.dtype), begun, state, batches)

    def ended(self, state: Any, machine: Machine) -> PhaseState:
        """The state as the device has it."""
        if isinstance(machine.dynamics, Capacitive):
            return PhaseState(self.seen(state), state.position)
        if isinstance(state, PhaseState):
            return state
        return PhaseState(self.seen(state))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Confined:
    """A scheme for cells that cannot leave a box."""

    scheme: Any
    cells: Linear

    @property
    def areas(self) -> bool:
        return self.scheme.areas

    @property
    def limit(self) -> float:
        return self.scheme.limit

    def check(self, equation: Any) -> None:
        self.scheme.check(equation)

    def noises(self, equation: Any, start: Any) -> int:
        return self.scheme.noises(equation, start)

    def prepare(self, equation: Any, step: jax.Array) -> Any:
        return self.scheme.prepare(equation, step)

    def step(self, equation, prepared, t, state, step, increment, area):
        after = self.scheme.step(equation, prepared, t, state, step, increment, area)
        if isinstance(after, PhaseState):
            inside = self.cells.confine(after.position)
            return PhaseState(inside, jnp.where(inside == after.position, after.momentum, 0))
        return self.cells.confine(after)


def _push(t, x, args):
    operator, force, cells = args[:3]
    coupled = operator.matmat(cells.output(x)[:, None])[:, 0]
    return force - jnp.asarray(cells.gain(t)).astype(x.dtype) * coupled


def _white(t, x, args):
    return jnp.full_like(x, args[3])


def _coloured(t, state, args):
    x, noise = jnp.split(state, 2)
    return jnp.concatenate([_push(t, x, args) + noise, -noise / args[4]])


def _hidden(t, state, args):
    half = jnp.zeros(state.size // 2, state.dtype)
    return jnp.concatenate([half, jnp.full_like(half, args[3] / args[4])])


def _spring(t, x, force):
    return force - x


def _position(state):
    return state.position


def _velocity(operator, state):
    return operator.solve(state.momentum[:, None])[:, 0]


def _same(state):
    return state


def _half(state):
    return jnp.split(state, 2)[0]


def _unobserved(carry, t, state):
    return carry
