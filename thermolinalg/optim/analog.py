r"""Thermodynamic devices as solvers: an inverse that is read as a covariance, or one run for every right-hand side.

Matrices of any scale are brought to that of the device by powers of two, which round nothing: couplings so that no
eigenvalue of the damped matrix is above 1, right-hand sides so that their largest entry is about 1. One unit of time is
then one time constant of the device.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermolinalg.cost import cost, cost_moments
from thermolinalg.device import Device
from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.optim.inverse_factor import product
from thermolinalg.optim.iterative import WarmStart
from thermolinalg.optim.runs import (
    Scaled,
    as_columns,
    code_of,
    given_back,
    invert,
    invert_one_by_one,
    judged,
    price,
    relative_error,
    run,
    scale,
    timed,
    write,
    written_code,
)
from thermolinalg.optim.solvers import Info, blank, code_finite, unprepared, usable
from thermolinalg.plan import Plan
from thermolinalg.ranges import check_fractions
from thermolinalg.simulators import Law


class SampledInverse(NamedTuple):
    """An inverse read from a device, its mean square error, and what is still to be reported.

    Attributes
    ----------
    scaled : Scaled
    inverse : Array, shape (d, d)
        Of the scaled matrix.
    spread : Array, shape (d, d)
        Mean square of the error of the inverse as a matrix, :math:`E (C - A^{-1})^2`.
    weight : Array
        Sum of the weights of the readings that were averaged.
    code, steps, seconds, joules : Array
        Of the last run.
    """

    scaled: Scaled
    inverse: jax.Array
    spread: jax.Array
    weight: jax.Array
    code: jax.Array
    steps: jax.Array
    seconds: jax.Array
    joules: jax.Array


@dataclass(frozen=True)
class ThermodynamicInverse:
    r"""Read the inverse as the covariance of a device once, and multiply right-hand sides by it digitally.

    .. math:: C = \beta \langle x x^\top \rangle, \qquad dx = -(M + \lambda I)x\,dt + \sqrt{2/\beta}\,dW

    Parameters
    ----------
    plan : Plan, optional
        Times of the run in time constants of the device, and its samples.
    rtol : float, in (0, 1), optional
        In place of a plan: the relative error, in the Frobenius norm, that every run is planned for from the spectrum
        of the couplings, at confidence 0.95. Planning costs more than the simulated run.
    device : Device
        Bits are those of its ``matrix_dac`` and ``adc``.
    memory : float, in [0, 1)
        Weight that a reading loses with every further one. The inverse is the mean of all readings under these weights.

    Raises
    ------
    ValueError
        If neither or both of `plan` and `rtol` are given, or a number is out of range.

    Notes
    -----
    The relative error of a reading of N independent samples is about :math:`\sqrt{(d + 1)/N}`. A continuous run of
    duration T has :math:`N \approx \lambda_\min T` for its slowest mode. Temperature does not matter; in the limit of
    many samples the inverse is exact, and for that ``samples=1e30`` will do.

    With ``memory`` m the variance falls to :math:`(1 - m)/(1 + m)` of that of one reading where the matrix stays as it
    is. Where it moves, the mean lags behind by m/(1 - m) readings: a bias that ``stderr`` does not know of. A reading
    that fails is left out of the mean, and ``code`` says so.

    The damping is added after conversion. ``stderr`` takes the errors of converters and mismatch to be independent of
    each other; those of thermal noise are exact. ``Device(simulator=Law(long_time=True))`` takes samples as
    independent, which needs one Cholesky factorisation in place of an ``eigh``; others run one after another under
    ``vmap``.

    The estimate is symmetric, and positive semi-definite but for rounding by converters.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> solver, matrix = ThermodynamicInverse(Plan(50.0, 1e5)), jnp.diag(jnp.array([1.0, 3.0]))
    >>> state = solver.prepare(matrix, 1.0, solver.init(matrix), jax.random.key(0))
    >>> x, info, state = solver.apply(jnp.ones(2), state, None)
    >>> bool(jnp.max(jnp.abs(x - jnp.array([0.5, 0.25]))) < 0.05)
    True
    """

    plan: Plan | None = None
    rtol: float | None = None
    device: Device = field(default_factory=Device)
    memory: Scalar = 0.0

    def __post_init__(self) -> None:
        _check(self.plan, self.rtol)
        if is_concrete(self.memory) and not 0 <= self.memory < 1:
            raise ValueError(f"memory must be at least 0 and below 1, got {self.memory}")

    def init(self, matrix: Any) -> SampledInverse:
        """Shape a state that remembers nothing."""
        state: SampledInverse = blank(lambda m, damping, key: self.prepare(m, damping, None, key), matrix)
        return state._replace(code=unprepared())

    def prepare(
        self, matrix: jax.Array, damping: Any, state: SampledInverse | None, key: jax.Array | None
    ) -> SampledInverse:
        """Write the couplings, run, read, and average with what was read before."""
        key = _needed(key)
        scaled, clean, shift = scale(matrix, damping)
        simulator = self.device.simulator
        batched = isinstance(simulator, Law) and simulator.long_time
        measure = invert if batched else invert_one_by_one
        new, spread, flags, times = measure(self.device, clean, shift, key, self.plan, self.rtol)
        inverse = (new + new.T) / 2
        code = written_code(flags, scaled.damped)
        code = code_finite(code, inverse, spread)
        fine = usable(code)
        weight = fine.astype(inverse.dtype)
        inverse, spread = jnp.where(fine, inverse, 0), jnp.where(fine, spread, 0)
        if state is not None:
            moved = scaled.exponent - state.scaled.exponent
            kept = jnp.where(fine, jnp.asarray(self.memory).astype(inverse.dtype), 1) * state.weight
            total = kept + weight
            unit = jnp.where(total > 0, total, 1)
            before, after = kept / unit, weight / unit
            inverse = before * jnp.ldexp(state.inverse, moved) + after * inverse
            spread = before**2 * jnp.ldexp(state.spread, 2 * moved) + after**2 * spread
            weight = total
        seconds, joules = price(
            self.plan, times, lambda plan: cost_moments(plan, self.device, dim=len(clean)), self.device
        )
        parts = (jnp.asarray(x).astype(jnp.float32) for x in (times.time_constants, seconds, joules))
        return SampledInverse(scaled, inverse, spread, weight, code, *parts)

    def apply(
        self, rhs: jax.Array, state: SampledInverse, key: jax.Array | None = None
    ) -> tuple[jax.Array, Info, SampledInverse]:
        """Multiply; the first answer after a preparation reports its time and energy."""
        del key
        force, exponents = as_columns(rhs, state.scaled)
        x = product(state.inverse, force)
        square = jnp.sum(force * product(state.spread, force), axis=0)
        error = relative_error(jnp.sqrt(jnp.maximum(square, 0)), x)
        info = judged(state.scaled, x, force, state.code, state.steps, error, state.seconds, state.joules)
        zero = jnp.zeros_like(state.steps)
        return (
            given_back(x, exponents, state.scaled, rhs),
            info,
            state._replace(steps=zero, seconds=zero, joules=zero),
        )


class Written(NamedTuple):
    """A written program in arrays, where a run may start, and what is still to be reported.

    Attributes
    ----------
    scaled : Scaled
    parts : tuple
        Of a :class:`thermolinalg.Program`, without its device.
    last : Array
        End of the last run, in the units of the answer; empty where runs start at rest.
    seconds, joules : Array
        Of writing.
    """

    scaled: Scaled
    parts: Any
    last: jax.Array
    code: jax.Array
    seconds: jax.Array
    joules: jax.Array


@dataclass(frozen=True)
class ThermodynamicSolve:
    r"""Write the couplings once, and read every answer as the time average of a run.

    .. math:: dx = -\bigl((M + \lambda I)x - b\bigr)\,dt + \sqrt{2/\beta}\,dW

    Parameters
    ----------
    plan : Plan, optional
        Times of every run in time constants of the device.
    rtol : float, in (0, 1), optional
        In place of a plan: the relative error, in the 2-norm, that every call is planned for, at confidence 0.95.
    device : Device
        Its temperature is in units in which the largest entry of a right-hand side is between 1/2 and 1. Bits are those
        of its ``matrix_dac``, ``force_dac`` and ``adc``.
    warm : WarmStart, optional
        Start where the last run ended, with momenta at zero.

    Raises
    ------
    ValueError
        If neither or both of `plan` and `rtol` are given, or a warm start is asked of a device whose end state is not
        known: of several replicas, or of ``Law(long_time=True)`` or ``Law(end_state=False)``.

    Notes
    -----
    In the limit of zero temperature and a long burn-in, ``Device(beta=1e30)`` and ``Plan(1e9, 1.0)``, the answer is
    that of a direct solver up to rounding, times the condition number.

    A warm run that is short against the slowest mode remembers earlier right-hand sides: it is then an average over
    them rather than the solution for this one, by the part that ``stderr`` counts as left of the start. An answer need
    not be a direction of descent; :class:`Guarded` looks.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> solver, matrix = ThermodynamicSolve(Plan(50.0, 100.0), device=Device(beta=1e6)), jnp.diag(jnp.array([1.0, 3.0]))
    >>> state = solver.prepare(matrix, 1.0, solver.init(matrix), jax.random.key(0))
    >>> x, info, state = solver.apply(jnp.ones(2), state, jax.random.key(1))
    >>> bool(jnp.max(jnp.abs(x - jnp.array([0.5, 0.25]))) < 0.01)
    True
    """

    plan: Plan | None = None
    rtol: float | None = None
    device: Device = field(default_factory=Device)
    warm: WarmStart | None = None

    def __post_init__(self) -> None:
        _check(self.plan, self.rtol)
        simulator = self.device.simulator
        endless = isinstance(simulator, Law) and (simulator.long_time or not simulator.end_state)
        if self.warm is not None and (endless or (self.plan is not None and self.plan.replicas > 1)):
            raise ValueError("warm needs the end state of a run, which this device or plan does not have; use Law()")

    def init(self, matrix: Any) -> Written:
        """Shape a state; the first runs start at rest."""
        state: Written = blank(lambda m, damping, key: self.prepare(m, damping, None, key), matrix)
        return state._replace(code=unprepared())

    def prepare(self, matrix: jax.Array, damping: Any, state: Written | None, key: jax.Array | None) -> Written:
        """Write the couplings."""
        key = _needed(key)
        scaled, clean, shift = scale(matrix, damping)
        parts, flags = write(self.device, clean, shift, key)
        shape = (0,) if self.warm is None else self.warm.shape(len(clean))
        last = jnp.zeros(shape, clean.dtype) if state is None else state.last
        seconds = joules = jnp.full((), jnp.nan, jnp.float32)
        if is_concrete(self.device):
            ledger = cost(Plan(0.0, 0.0), self.device, dim=len(clean), loaded=0, read=0)
            seconds, joules = (jnp.asarray(x, jnp.float32) for x in (ledger.total, ledger.energy))
        return Written(scaled, parts, last, written_code(flags, scaled.damped), seconds, joules)

    def apply(self, rhs: jax.Array, state: Written, key: jax.Array | None) -> tuple[jax.Array, Info, Written]:
        """Run once for every right-hand side."""
        key = _needed(key)
        force, exponents = as_columns(rhs, state.scaled)
        start = None
        if self.warm is not None:
            self.warm.check(rhs)
            start = jnp.ldexp(state.last.reshape(force.shape), state.scaled.exponent - exponents)
        found = run(self.device, state.parts, force, key, self.plan, self.rtol, start)
        # Where nothing is asked there is no run, and no noise.
        live = jnp.max(jnp.abs(force), axis=0, keepdims=True) > 0
        x, errors = (jnp.where(live | jnp.isnan(block), block, 0) for block in (found.value, found.stderr))
        error = relative_error(jnp.linalg.norm(errors, axis=0), x)
        times = timed(found, self.rtol, state.parts[2])
        columns, dim = force.shape[1], len(force)
        seconds, joules = price(
            self.plan, times, lambda plan: cost(plan, self.device, dim=dim, columns=columns, writes=0), self.device
        )
        code = jnp.maximum(state.code, code_of(found.status))
        spent = seconds + state.seconds, joules + state.joules
        info = judged(state.scaled, x, force, code, times.time_constants, error, *spent)
        if self.warm is not None:
            end = given_back(found.stats["state"].position, exponents, state.scaled, rhs).astype(state.last.dtype)
            state = state._replace(last=jnp.where(jnp.all(jnp.isfinite(end)) & usable(code), end, state.last))
        zero = jnp.zeros_like(state.seconds)
        return given_back(x, exponents, state.scaled, rhs), info, state._replace(seconds=zero, joules=zero)


def _check(plan: Plan | None, rtol: float | None) -> None:
    if (plan is None) == (rtol is None):
        raise ValueError("give a plan or rtol, and not both: a plan fixes the times that rtol would have chosen")
    check_fractions(rtol=rtol)


def _needed(key: jax.Array | None) -> jax.Array:
    if key is None:
        raise ValueError("key is None, and a device is noisy: give a PRNG key")
    return key
