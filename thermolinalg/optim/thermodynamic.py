"""A thermodynamic device as a way to natural gradients, for as long as it is given."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermolinalg.device import Device
from thermolinalg.optim.books import chosen, finite
from thermolinalg.optim.gram_functions import Engine, KrylovSpace, engine_for
from thermolinalg.optim.lanes import Problem
from thermolinalg.optim.loading import load, read, relaxation_cost, resumed
from thermolinalg.optim.relaxation import relax
from thermolinalg.optim.solvers import Code, Info, code_finite, report, usable
from thermolinalg.optim.trees import statistics_dtype
from thermolinalg.ranges import check_fractions, check_not_negative, check_positive

Tree = Any


class DeviceState(NamedTuple):
    """What a device keeps from step to step.

    Attributes
    ----------
    carried : pytree like the parameters
        The state at the moment in which the next system is loaded; empty where every step starts cold.
    running : Array, bool
        Whether there is such a state.
    unrelaxed : Array
        Share of the gradient, :math:`|e^{-Ft}g|/|g|`, that a start at rest had left after the last step.
    noise : Array
        Bound of the root mean square length of the noise in `carried`.
    """

    carried: Tree
    running: jax.Array
    unrelaxed: jax.Array
    noise: jax.Array


@dataclass(frozen=True)
class Thermodynamic:
    r"""Let a device relax under the curvature of the batch, and read it after a finite time.

    .. math:: dx = -\bigl((M^\top M + \lambda I)x - g\bigr)\,dt + \sqrt{2\kappa_0}\,dW

    Parameters
    ----------
    time : float, > 0
        t of a step, in time constants of the device.
    start : float
        A cold start begins at this multiple of the gradient: with 1, a short time gives the gradient and a long one the
        natural gradient; with 0 it gives nothing at first.
    carry_state : bool
        Begin every step where the last one ended; the first begins cold.
    delay : float, >= 0
        Time for which the device goes on with the old system after it was read, while the host makes the next one.
        Needs `carry_state`.
    delay_included : bool
        Whether the delay is part of `time`, so that the new system gets ``time - delay``, or comes on top of it.
    temperature : float, >= 0
        :math:`\kappa_0`, in the units of the squared gradient times λ.
    device : Device, optional
        Its converters, chip, time constant, link and power; of its temperature and dynamics nothing is used. Without
        it numbers pass unchanged, and prices are those of ``Device()``.
    engine : Diagonalisation or KrylovSpace, optional
        How the law is computed; by default what is faster for that many rows.
    tolerance : float, in (0, 1)
        An unrelaxed share above it is reported as ``Code.UNRELAXED``.

    Raises
    ------
    ValueError
        If a number is out of range, or a delay comes without a carried state or leaves no time.

    Notes
    -----
    The state after a finite time is drawn from its exact law, see :func:`~thermolinalg.optim.relax`; nothing is
    integrated, and nothing is assumed of an equilibrium.

    A carried state makes the answer an average of natural gradients, in which the directions of each curvature forget
    at their own rates: see :func:`~thermolinalg.optim.filtered_natural_gradient`. It is then not the answer for the
    current batch alone, need not be a direction of descent, and ``residual`` says how far from it it is.

    The law is that of a device of N cells which holds the Jacobian, as in the reference. Converters round gradient and
    read-out; those of couplings, and chips, round the Jacobian itself, which then has to be formed: r backward passes
    and r times N numbers. A device that holds the r by r matrix of the rows, at equilibrium or read as a time average,
    with all that a :class:`thermolinalg.Device` models, is ``Dual(ThermodynamicSolve(plan, device=device))``.

    ``info.steps`` is the time of the device, ``info.residual`` the true relative residual of what was read (before it
    was rounded), ``info.stderr`` noise over length.

    References
    ----------
    *Thermodynamic natural gradient descent*, arXiv:2405.13817.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.optim.lanes import Problem
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line, batch = task(lambda w, x: x @ w, SquaredError(), w, x), (x, jnp.zeros((1, 1)))
    >>> problem = Problem(line, w, batch, jax.grad(line.value)(w, batch), jnp.array(4.0))
    >>> lane = Thermodynamic(time=10.0)
    >>> lane.step(problem, lane.init(w), jax.random.key(0))[0].round(4).tolist()
    [[0.5], [0.0]]
    """

    time: float
    start: float = 1.0
    carry_state: bool = False
    delay: float = 0.0
    delay_included: bool = True
    temperature: float = 0.0
    device: Device | None = None
    engine: Engine | None = None
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        check_positive(time=self.time)
        check_not_negative(delay=self.delay, temperature=self.temperature)
        check_fractions(tolerance=self.tolerance)
        if self.delay and not self.carry_state:
            raise ValueError("delay needs carry_state=True: a cold start forgets what the device did before")
        if self.delay_included and self.delay > self.time:
            raise ValueError(f"delay must be at most time where it is part of it, got {self.delay} and {self.time}")

    @property
    def loaded_time(self) -> float:
        """Time between loading a system and reading its answer."""
        return self.time - self.delay if self.delay_included else self.time

    @property
    def step_time(self) -> float:
        """Time of the device in one step, the delay included."""
        return self.loaded_time + self.delay

    def init(self, params: Tree) -> DeviceState:
        """Shape the state of a device that has not run."""
        dtype = statistics_dtype(params)
        carried = jax.tree.map(lambda p: jnp.zeros(p.shape, dtype), params) if self.carry_state else ()
        zero = jnp.zeros((), jnp.float32)
        return DeviceState(carried, jnp.zeros((), bool), zero, zero)

    def step(self, problem: Problem, state: DeviceState, key: jax.Array) -> tuple[Tree, Info, DeviceState]:
        """Load, relax, and read."""
        writing, running, reading = jax.random.split(key, 3)
        loaded = load(problem, self.device, writing)
        system, damping = loaded.system, problem.damping
        if self.device is not None and self.device.cells is not None:
            _check_cells(self.device.cells, problem.params)
        engine = engine_for(len(system.gram)) if self.engine is None else self.engine
        durations = [self.loaded_time, *([self.delay] if self.delay else [])]
        start = resumed(state.running, state.carried, self.start, loaded.gradient) if self.carry_state else None
        found = relax(
            system,
            *(damping, durations),
            start=start,
            multiple=self.start,
            temperature=self.temperature,
            key=running,
            engine=engine,
        )
        x, rounding, code = read(found.states[0], self.device, reading)
        code = jnp.maximum(code, loaded.code)
        limit = engine.tolerance(system.gram.dtype) if isinstance(engine, KrylovSpace) else 1.0
        early, rough = found.unrelaxed > self.tolerance, found.error > 1.001 * limit
        code = jnp.maximum(code, jnp.where(early, int(Code.UNRELAXED), 0).astype(jnp.int32))
        code = jnp.maximum(code, jnp.where(rough, int(Code.NOT_CONVERGED), 0).astype(jnp.int32))
        code = jnp.where(finite(x), code_finite(code, found.residual), int(Code.NOT_FINITE)).astype(jnp.int32)

        noise, later = self._noise(found.noise, state, damping, problem.params)
        length = jnp.where(found.length > 0, found.length, 1)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(problem.params))
        ledger = relaxation_cost(self.step_time, self.device, rows=len(system.gram), parameters=parameters)
        info = report(
            *(code, found.residual, self.step_time, jnp.hypot(noise, rounding) / length),
            *(ledger.total, ledger.energy),
        )
        if not self.carry_state:
            return x, info, state._replace(unrelaxed=found.unrelaxed)
        good = usable(code)
        new = DeviceState(found.states[-1], jnp.ones((), bool), found.unrelaxed, later)
        return x, info, chosen(good, new, state)

    def _noise(
        self, fresh: jax.Array, state: DeviceState, damping: jax.Array, params: Tree
    ) -> tuple[jax.Array, jax.Array]:
        """Bounds of the noise in what is read and in what is carried: nothing forgets slower than at the rate λ."""
        if not self.temperature:
            return fresh, jnp.zeros_like(fresh)
        lam = damping.astype(jnp.float32)
        noise = jnp.hypot(fresh, jnp.exp(-lam * self.loaded_time) * state.noise)
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        added = -jnp.expm1(-2 * lam * self.delay) / lam * self.temperature * count
        return noise, jnp.sqrt(added + jnp.exp(-2 * lam * self.delay) * noise**2)


def _check_cells(cells: int, params: Tree) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    if count > cells:
        raise ValueError(f"the model has {count} parameters and the device {cells} cells; use a larger device")
