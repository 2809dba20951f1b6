r"""The device, and how a program on it is run and read.

Couplings are written once, ``program = device.program(A)``; then ``program.run(force, ...)`` lets the process

.. math:: dx = -(A x - b)\,dt + \sqrt{2/\beta}\,dW

relax for the burn-in, averages it over the duration, and returns the reading.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.dynamics import Dynamics, Overdamped
from thermolinalg.laws import Scalar
from thermolinalg.operators import Dense, Operator, as_block, as_inexact, as_operator, is_concrete
from thermolinalg.ranges import check_positive
from thermolinalg.simulators import Law, Machine, Reading, Schedule, Simulator, State
from thermolinalg.solution import Status
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

    References
    ----------
    The defaults, 16 bits and 50 Gb/s, are those of the timing model in the appendix of *Thermodynamic natural gradient
    descent*, arXiv:2405.13817.
    """

    bits: int = 16
    rate: float = 50e9


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Device:
    """A thermodynamic computer.

    Parameters
    ----------
    beta : float, > 0
        Inverse temperature, in the units of the equation. Only beta times the squared length of b matters for accuracy.
    dynamics : Overdamped or Underdamped
        How its modes move.
    simulator : Law or Trajectory
        How its readings are obtained here.
    time_constant : float, > 0
        Seconds in one time constant of the device, the time in which its fastest mode relaxes (1 us for 1 kOhm and 1
        nF).
    link : Link
        How numbers get in and out.
    cell_power : float, > 0
        Watts that one cell draws while it runs. The default, 0.1 mW of bias, is an assumption, not a measurement.

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

    def __post_init__(self) -> None:
        check_positive(beta=self.beta, time_constant=self.time_constant, cell_power=self.cell_power)

    def program(self, A: Any) -> "Program":
        """Write the couplings.

        Parameters
        ----------
        A : array (d, d), operator, SciPy sparse matrix or lineax operator
            Symmetric positive definite.

        Raises
        ------
        ValueError
            If `A` is not square, finite, symmetric and positive definite to working precision, or a setting of the
            device is out of range.
        """
        couplings = as_operator(A)
        constant = couplings if is_concrete(couplings) else jax.lax.stop_gradient(couplings)
        operator = self.simulator.prepare(constant)
        status, spectrum = _judge(operator)
        dynamics = self.dynamics if spectrum is None else self.dynamics.resolve(spectrum)
        if is_concrete(status):
            _refuse(operator, spectrum, status)
        return Program(couplings, Machine(operator, dynamics, self.beta), self, status, spectrum)


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
        None when the simulator needs no eigenvalues.
    """

    operator: Operator
    machine: Machine
    device: Device
    status: jax.Array
    spectrum: Spectrum | None

    def side_by_side(self, replicas: int) -> "Program":
        """The program on several devices whose averages are averaged: in law one device that is as much colder.

        That holds for runs that start alike. The end state is that of the colder device, and no replica's.
        """
        return replace(self, machine=replace(self.machine, beta=replicas * self.machine.beta))

    def run(self, force: jax.Array, key: jax.Array, schedule: Schedule, start: State | None = None) -> Reading:
        """Apply a force (d, k), run, and read; column by column with independent noise."""
        return self.device.simulator.run(self.machine, force, key, schedule, start)

    def respond(self, force: jax.Array, schedule: Schedule) -> jax.Array:
        """Mean of the average over infinitely many runs from rest: linear in the force."""
        return self.device.simulator.respond(self.machine, force, schedule)


def as_program(A: Any, device: Device | None) -> Program:
    """Return `A` if it is a program already, else write it to the device (the ideal one by default)."""
    if not isinstance(A, Program):
        return (Device() if device is None else device).program(A)
    if device is not None and device is not A.device:
        raise ValueError("A is a program, which brings its own device; leave out the argument device")
    return A


def as_couplings(A: Any) -> Operator:
    """Return the operator that a program was given, or anything else as an operator."""
    return A.operator if isinstance(A, Program) else as_operator(A)


def as_realised(A: Any) -> Operator:
    """Return the operator of a program with all that it had computed, or anything else as an operator."""
    return A.machine.operator if isinstance(A, Program) else as_operator(A)


def as_start(x0: ArrayLike | State | None, operator: Operator, force: jax.Array) -> State | None:
    """Return the start of a run as a state of blocks like the force (d, k)."""
    if x0 is None:
        return None
    given = x0 if isinstance(x0, State) else State(as_inexact(x0, "x0"))

    def block(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(as_block(x, operator, "x0"), force.shape)

    return State(block(given.position), None if given.momentum is None else block(given.momentum))


@jax.jit
def _judge(operator: Operator) -> tuple[jax.Array, Spectrum | None]:
    """Flags that concern the operator, and its spectrum where that is known."""
    if isinstance(operator, Dense) and operator.eigenvalues is None and operator.triangle is not None:
        definite = jnp.all(jnp.isfinite(jnp.diagonal(operator.triangle)))
        return jnp.where(definite, 0, int(Status.NOT_POSITIVE_DEFINITE)).astype(jnp.int32), None
    lower, low, high, upper = operator.factor().extremes()
    spectrum = Spectrum(low, high, lower, upper)
    eps = jnp.finfo(operator.dtype).eps
    # Rounding moves eigenvalues by a modest multiple of eps times the norm, and that multiple grows slower than d.
    definite = low > 4 * operator.dim**0.5 * eps * high
    flags = jnp.where(definite, 0, int(Status.NOT_POSITIVE_DEFINITE))
    flags |= jnp.where(definite & (low < 1e3 * eps * high), int(Status.LOW_PRECISION), 0)
    flags |= jnp.where(definite & ~spectrum.resolved, int(Status.UNRESOLVED), 0)
    return flags.astype(jnp.int32), spectrum


def _refuse(operator: Operator, spectrum: Spectrum | None, status: jax.Array) -> None:
    """Raise if the operator is not positive definite."""
    if not int(status) & Status.NOT_POSITIVE_DEFINITE:
        return
    if spectrum is None:
        found = "its Cholesky factorisation breaks down"
    else:
        low, high = float(spectrum.minimum), float(spectrum.maximum)
        found = f"eigenvalues run from {low:.3g} to {high:.3g}"
        if low > 0:
            found += f", condition number {high / low:.1e}"
    raise ValueError(
        f"A is not positive definite to working precision: {found}, at rounding error "
        f"{float(jnp.finfo(operator.dtype).eps):.1e} ({jnp.dtype(operator.dtype).name}). The process has no stationary "
        "law; add a shift, or use a wider dtype"
    )
