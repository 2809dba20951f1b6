r"""The device, and how a program on it is run and read.

Couplings are written once, ``program = device.program(A)``; then ``program.run(force, ...)`` lets the process

.. math:: dx = -(A x - b)\,dt + \sqrt{2/\beta}\,dW

relax for the burn-in, averages it over the duration, and returns the reading. What is written and read passes
converters, and a chip holds couplings as accurately as its components are: all that is optional, and absent by default.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.capacitances import couplings_of
from thermolinalg.chips import Chip
from thermolinalg.converters import Converter, ReadNoise
from thermolinalg.definiteness import judge, refuse
from thermolinalg.dynamics import Capacitive, Dynamics, Overdamped
from thermolinalg.laws import Scalar
from thermolinalg.operators import Dense, Kronecker, Operator, as_block, as_inexact, as_operator, is_concrete
from thermolinalg.ranges import check_not_negative, check_positive, check_whole
from thermolinalg.readout import ReadOut
from thermolinalg.simulators import Law, Machine, Reading, Schedule, Simulator, State
from thermolinalg.spectrum import Spectrum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Link:
    """Digital link between host and device.

    Attributes
    ----------
    bits : int
        Bits of one number.
    rate : float
        Bits per second.
    joules : float
        Of one bit. The default, 5 pJ, is an assumption: no figure of such a link was found.

    References
    ----------
    16 bits and 50 Gb/s are those of the timing model in the appendix of *Thermodynamic natural gradient descent*,
    arXiv:2405.13817.
    """

    bits: int = 16
    rate: float = 50e9
    joules: float = 5e-12

    def __post_init__(self) -> None:
        check_positive(bits=self.bits, rate=self.rate)
        check_not_negative(joules=self.joules)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Device:
    """A thermodynamic computer.

    Parameters
    ----------
    beta : float, > 0
        Inverse temperature, in the units of the equation. Only beta times the squared length of b matters for accuracy.
    dynamics : Overdamped, Underdamped or Capacitive
        How its modes move.
    simulator : Law, Trajectory or Integrator
        How its readings are obtained here.
    time_constant : float, > 0
        Seconds in one time constant of the device, the time in which its fastest mode relaxes (1 us for 1 kOhm and 1
        nF).
    link : Link
        How numbers get in and out.
    cell_power : float, > 0
        Watts that one cell draws while it runs. The default, 0.1 mW of bias, is an assumption, not a measurement.
    matrix_dac, force_dac, adc : Converter, optional
        For couplings, right-hand sides and read-out; by default all numbers pass unchanged.
    read_noise : ReadNoise, optional
        Of the amplifiers before the read-out.
    chip : Chip, optional
        Mismatch of its components, and dead nodes; a perfect one by default.
    cells : int, >= 1, optional
        Largest number of unknowns it holds; any by default.
    idle_power : float, >= 0
        Watts that the whole device draws all the time, in use or not.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> program = Device(beta=1e4).program(jnp.diag(jnp.array([1.0, 2.0])))
    >>> reading = program.run(jnp.ones((2, 1)), jax.random.key(0), Schedule(burn_in=20.0, duration=100.0))
    >>> reading.average.round(1).ravel().tolist()
    [1.0, 0.5]
    """

    beta: Scalar = 1.0
    dynamics: Dynamics = field(default_factory=Overdamped)
    simulator: Simulator = field(default_factory=Law)
    time_constant: float = 1e-6
    link: Link = field(default_factory=Link)
    cell_power: float = 1e-4
    matrix_dac: Converter | None = None
    force_dac: Converter | None = None
    adc: Converter | None = None
    read_noise: ReadNoise | None = None
    chip: Chip | None = None
    cells: int | None = field(default=None, metadata={"static": True})
    idle_power: float = 0.0

    def __post_init__(self) -> None:
        check_positive(beta=self.beta, time_constant=self.time_constant, cell_power=self.cell_power)
        check_not_negative(idle_power=self.idle_power)
        if self.cells is not None:
            check_whole("cells", self.cells, 1)

    @property
    def faithful(self) -> bool:
        """Whether couplings are realised exactly as they are given."""
        return self.matrix_dac is None and self.chip is None

    @property
    def exact(self) -> bool:
        """Whether numbers get in and out unchanged too, so that nothing but the law of the run makes an error."""
        return self.faithful and self.force_dac is None and self.readout.ideal

    @property
    def maimed(self) -> bool:
        """Whether nodes of its chip are dead."""
        return self.chip is not None and bool(self.chip.dead)

    @property
    def readout(self) -> ReadOut:
        """The way from voltages to numbers."""
        return ReadOut(self.adc, self.read_noise)

    def write(
        self, block: jax.Array, symmetric: bool, array: int, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """What becomes of a block of couplings, and flags; see :meth:`thermolinalg.chips.Chip.couple`."""
        flags = jnp.zeros((), jnp.int32)
        if self.matrix_dac is not None:
            own = None if key is None else jax.random.fold_in(key, _WRITE + array)
            converted = self.matrix_dac.convert(block, own, symmetric=symmetric)
            block, flags = converted.value, converted.flags
        return block if self.chip is None else self.chip.couple(block, symmetric=symmetric, array=array), flags

    def load(self, force: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What becomes of a force (d, k), every column in a range of its own, and flags."""
        flags = jnp.zeros((), jnp.int32)
        if self.force_dac is not None:
            converted = self.force_dac.convert(force, jax.random.fold_in(key, _LOAD), axis=0)
            force, flags = converted.value, converted.flags
        return (force if self.chip is None else self.chip.silence(force)), flags

    def program(self, A: Any, *, key: jax.Array | None = None, damping: Scalar | None = None) -> "Program":
        """Write the couplings.

        Parameters
        ----------
        A : array (d, d), operator, SciPy sparse matrix or lineax operator
            Symmetric positive definite; semi-definite will do with a damping.
        key : PRNG key, optional
            For a `matrix_dac` that rounds at random.
        damping : float, >= 0, optional
            A multiple of the identity that is added after conversion, by every cell itself: it keeps couplings positive
            definite that rounding moves.

        Raises
        ------
        ValueError
            If `A` is not square, finite, symmetric, or what the device makes of it is not positive definite to working
            precision; if it does not fit on the device, or a setting of the device is out of range.
        """
        asked = as_operator(A)
        if self.cells is not None and asked.dim > self.cells:
            raise ValueError(f"A has {asked.dim} unknowns and the device {self.cells} cells; use a larger device")
        if isinstance(self.dynamics, Capacitive) and is_concrete(asked):
            couplings_of(asked.matmat(jnp.eye(asked.dim, dtype=asked.dtype)))  # raises if no capacitors do
        constant = asked if is_concrete(asked) else jax.lax.stop_gradient(asked)
        written, flags = (constant, 0) if self.faithful else _write(self, constant, key)
        if damping is not None:
            check_not_negative(damping=damping)
            asked, written = asked.damped(damping), written.damped(jax.lax.stop_gradient(damping))
        operator = self.simulator.prepare(written)
        status, spectrum = judge(operator)
        dynamics = self.dynamics if spectrum is None else self.dynamics.resolve(spectrum)
        if is_concrete(status):
            refuse(operator, spectrum, status, "A" if self.faithful else "what the device makes of A")
        off = None
        if isinstance(written, Dense) and isinstance(asked, Dense) and not self.faithful:
            # Half the size will do for an error, and is read in half the time.
            half = jnp.complex64 if jnp.iscomplexobj(written.matrix) else jnp.float32
            off = (written.matrix - jax.lax.stop_gradient(asked.matrix)).astype(half)
        return Program(asked, Machine(operator, dynamics, self.beta), self, status | flags, spectrum, off)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Program:
    """A device whose couplings are written; what ``device.program(A)`` returns.

    Attributes
    ----------
    operator : Operator
        The couplings as they were given; derivatives flow through them.
    machine : Machine
        Operator, dynamics and temperature as realised; constant under differentiation.
    device : Device
        The device it was written to.
    status : Array
        Flags of :class:`thermolinalg.Status` that concern the operator.
    spectrum : Spectrum or None
        Of the couplings as realised; None when the simulator needs no eigenvalues.
    off : Array, shape (d, d), or None
        What dense couplings as realised exceed those given by, in single precision.
    """

    operator: Operator
    machine: Machine
    device: Device
    status: jax.Array
    spectrum: Spectrum | None
    off: jax.Array | None = None

    def side_by_side(self, replicas: int) -> "Program":
        """The program on several devices whose averages are averaged: in law one device that is as much colder.

        That holds for runs that start alike on equal chips, and counts the errors of converters as those of one device.
        The end state is that of the colder device, and no replica's.
        """
        return replace(self, machine=replace(self.machine, beta=replicas * self.machine.beta))

    def run(self, force: jax.Array, key: jax.Array, schedule: Schedule, start: State | None = None) -> Reading:
        """Apply a force (d, k), run, and read; column by column with independent noise."""
        device = self.device
        if device.exact:
            return device.simulator.run(self.machine, force, key, schedule, start)
        push, flags = device.load(force, key)
        reading = device.simulator.run(self.machine, push, key, schedule, start)
        return self.read(replace(reading, flags=reading.flags | flags), force, push, key, schedule)

    def read(self, reading: Reading, force: jax.Array, push: jax.Array, key: jax.Array, schedule: Schedule) -> Reading:
        """The reading as it gets out, with what converters and chip add to its error."""
        device, average, flags = self.device, self._living(reading.average), reading.flags
        error = jnp.zeros(average.shape, reading.stderr.dtype)
        if not device.readout.ideal:
            spread = self._spread() if schedule.samples is not None else jnp.zeros((len(average), 1), error.dtype)
            seen = device.readout.average(average, spread, schedule, jax.random.fold_in(key, READ))
            # A time of zero is no run: nothing is read.
            ran = jnp.asarray(schedule.burn_in + schedule.duration) > 0
            average, error = jnp.where(ran, seen.value, average), jnp.where(ran, seen.error, 0)
            flags = flags | jnp.where(ran, seen.flags, 0)
        if not device.faithful or device.force_dac is not None:
            answer = self.respond(push, schedule) if device.maimed else average
            error = jnp.hypot(error, jnp.abs(self._shift(answer, force, push)))
        stderr = jnp.hypot(reading.stderr, error)
        return replace(reading, average=average, stderr=stderr, systematic=error, flags=flags)

    def covariance(self, key: jax.Array, schedule: Schedule, route: int | None) -> Reading:
        """Run without a force, and read the second moment times beta, shape (d, d)."""
        device, machine = self.device, self.machine
        reading = device.simulator.covariance(machine, key, schedule, route)
        if device.faithful and device.readout.ideal:
            return reading
        value, flags, error = reading.average, reading.flags, jnp.zeros_like(reading.stderr)
        if not device.readout.ideal:
            seen = device.readout.moment(value, machine.beta, schedule, jax.random.fold_in(key, READ))
            value, error, flags = seen.value, seen.error, flags | seen.flags
        if not device.faithful:
            eye = jnp.eye(self.operator.dim, dtype=value.dtype)
            inverse, asked = machine.operator.solve(eye), jax.lax.stop_gradient(self.operator)
            if device.maimed:
                value = self._living(self._living(value).T).T
                shift = asked.ready().solve(eye) - self._living(self._living(inverse).T).T
            else:
                # The inverse of A to second order in what A is off, and as symmetric as it is.
                shift = inverse @ (asked.matmat(inverse) - eye)
                shift = (shift + shift.conj().T) / 2
            error = jnp.hypot(error, jnp.abs(shift))
        return replace(reading, average=value, stderr=jnp.hypot(reading.stderr, error), systematic=error, flags=flags)

    def states(
        self, block: jax.Array, mean: jax.Array, force: jax.Array, push: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """States (d, n) as they get out, what is off in their mean (d, 1) and in the reading, and flags."""
        device, flags, block = self.device, jnp.zeros((), jnp.int32), self._living(block)
        error = jnp.zeros(block.shape, jnp.finfo(block.dtype).dtype)
        if not device.faithful or device.force_dac is not None:
            error = error + jnp.abs(self._shift(mean, force, push))
        if not device.readout.ideal:
            seen = device.readout.states(block, jax.random.fold_in(key, READ))
            block, error, flags = seen.value, jnp.hypot(error, seen.error), seen.flags
        return block, error, flags

    def respond(self, force: jax.Array, schedule: Schedule) -> jax.Array:
        """Mean of the average over infinitely many runs from rest: linear in the force."""
        return self.device.simulator.respond(self.machine, force, schedule)

    def _shift(self, answer: jax.Array, force: jax.Array, push: jax.Array) -> jax.Array:
        """What the answer is off because the device has other couplings and feels another force, to first order.

        Dead nodes are no small change; with them it is the difference from the answer of a device that works.
        """
        operator, asked = self.machine.operator, jax.lax.stop_gradient(self.operator)
        if self.device.maimed:
            return asked.ready().solve(force - asked.matmat(self._living(answer)))
        if self.device.faithful:
            return operator.solve(push - force)
        if self.off is not None:
            return operator.solve(push - force - (self.off @ answer.astype(self.off.dtype)).astype(answer.dtype))
        # With the answer y, the couplings S and A as realised and as asked: S^-1 (push - force - (S - A) y).
        return operator.solve(push - force + asked.matmat(answer)) - answer

    def _living(self, block: jax.Array) -> jax.Array:
        """The block (d, k) with zeros where nodes are dead."""
        return block if self.device.chip is None else self.device.chip.silence(block)

    def _spread(self) -> jax.Array:
        """Standard deviation (d, 1) of a real component of the state."""
        variance = self.machine.operator.factor().diagonal(lambda rates: 1 / rates)
        return jnp.sqrt(variance / jnp.asarray(self.machine.beta).astype(variance.dtype))[:, None]


READ, _LOAD, _WRITE = 0x4EAD, 0x10AD, 0x3417E
"""Streams of noise of the converters beside that of the run."""


def as_program(A: Any, device: Device | None, key: jax.Array | None = None) -> Program:
    """Return `A` if it is a program already, else write it to the device (the ideal one by default)."""
    if not isinstance(A, Program):
        return (Device() if device is None else device).program(A, key=key)
    if device is not None and device is not A.device:
        raise ValueError("A is a program, which brings its own device; leave out the argument device")
    return A


def as_couplings(A: Any) -> Operator:
    """Return the operator that a program was given, or anything else as an operator."""
    return A.operator if isinstance(A, Program) else as_operator(A)


def as_realised(A: Any) -> Operator:
    """Return the operator that a program was given, with all that was computed of it, or anything else as one."""
    if not isinstance(A, Program):
        return as_operator(A)
    return A.machine.operator if A.device.faithful else A.operator


def refuse_dead(device: Device) -> None:
    """Raise a ``ValueError`` if nodes are dead, where couplings have no symmetry."""
    if device.maimed:
        raise ValueError("dead nodes are known of symmetric couplings only; leave the nodes out of the matrix")


def as_start(x0: ArrayLike | State | None, operator: Operator, force: jax.Array) -> State | None:
    """Return the start of a run as a state of blocks like the force (d, k)."""
    if x0 is None:
        return None
    given = x0 if isinstance(x0, State) else State(as_inexact(x0, "x0"))

    def block(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(as_block(x, operator, "x0"), force.shape)

    return State(block(given.position), None if given.momentum is None else block(given.momentum))


@jax.jit
def _write(device: Device, operator: Operator, key: jax.Array | None) -> tuple[Operator, jax.Array]:
    """What the device makes of couplings, and flags."""
    if device.maimed and isinstance(operator, Kronecker):
        raise ValueError("dead nodes of a Kronecker operator are not those of one array; write its factors one by one")
    flags = jnp.zeros((), jnp.int32)

    def write(block: jax.Array, symmetric: bool, array: int) -> jax.Array:
        nonlocal flags
        found, flag = device.write(block, symmetric, array, key)
        flags = flags | flag
        return found

    return operator.rewritten(write), flags
