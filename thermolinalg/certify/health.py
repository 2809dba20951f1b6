"""Whether a device does what its program says."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.certify.statistics import LEVEL, Check, two_sided_gamma, upper_f
from thermolinalg.device import Program, as_couplings
from thermolinalg.operators import Operator, as_block, is_concrete
from thermolinalg.plan import Plan
from thermolinalg.simulators import Schedule, State


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Health:
    """Three tests of a device; together they fail a healthy one in at most one of a hundred checks.

    Attributes
    ----------
    noise : Check
        Scatter of the residual over runs against the stated temperature: chi-square, two-sided.
    bias : Check
        Mean residual, less what burn-in leaves of it, against that scatter: F. Large if the couplings differ from A.
    settled : Check
        Mean difference of the two halves of a run against its scatter: F. Large if the burn-in is too short.
    """

    noise: Check
    bias: Check
    settled: Check

    @property
    def passed(self) -> jax.Array:
        """Whether all three passed."""
        return self.noise.passed & self.bias.passed & self.settled.passed

    @property
    def verdict(self) -> str:
        """A sentence; outside of ``jit`` and for a single check only.

        Raises
        ------
        ValueError
            Under a transformation, or for a batch.
        """
        if not is_concrete(self) or np.ndim(self.passed) != 0:
            raise ValueError("a verdict is a sentence about one check outside of jit; look at the three tests instead")
        found = []
        if not self.settled.passed:
            found.append("burn-in too short")
        if not self.bias.passed:
            found.append("couplings differ from A")
        if not self.noise.passed:
            much = float(self.noise.statistic)
            found.append(f"temperature is not beta: the noise has {much:.2f} times the variance it should have")
        return "; ".join(found) if found else "healthy"


def health(program: Program, A: Any, b: ArrayLike, *, key: jax.Array, plan: Plan, runs: int = 32) -> Health:
    r"""Run a device several times and test its noise, its couplings and its burn-in apart from each other.

    Each run is read in two consecutive halves. With :math:`w_k` the residual of run k, whitened by the law of the
    device, and :math:`\bar w` the mean over n runs,

    .. math::

        \sum_k \|w_k - \bar w\|^2 \sim \chi^2_{(n-1)d}, \qquad
        n\|\bar w - \mu\|^2 / s^2 \sim d\,F_{d,(n-1)d},

    with :math:`\mu` what the burn-in leaves and :math:`s^2` the first sum over its degrees; and the same ratio, without
    :math:`\mu`, for the differences of the halves.

    Parameters
    ----------
    program : Program
        The device to test, ``device.program(...)``. Its temperature should be that of ``program.device``.
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        The couplings it should have.
    b : array, shape (d,) or (d, k)
        A force: the longer, the smaller the faults of the couplings that show. Columns are pooled.
    key : PRNG key
    plan : Plan
        Times of one run; the number of samples, if any, must be even.
    runs : int, >= 2
        Number of independent runs.

    Returns
    -------
    Health
        Three tests, each at the level 0.01/3, and a ``verdict``.

    Raises
    ------
    ValueError
        If shapes do not match, there are fewer than two runs, the number of samples is odd, or the program is for the
        long-time law, which has no burn-in.

    Notes
    -----
    The laws are exact for runs of any length and any dynamics where the device has the couplings it was given: the
    variance of every mode is that of a finite run from rest, not the white limit, so a healthy device is not blamed for
    short averages. They are functions of the operator, computed without an eigendecomposition where it has none; then
    the accuracy is the operator's `rtol`.

    Couplings that are off by a fraction :math:`\delta` move the mean residual by about :math:`\delta\|b\|`, which shows
    once it exceeds the noise :math:`\sqrt{2/(\beta\tau n)}` by a few times :math:`(2d)^{1/4}`. They also change the
    scatter, by about :math:`2\delta`. A relative error r of the temperature shows if r exceeds about :math:`3
    \sqrt{2/((n-1)d)}`. What cannot be seen: errors below these, couplings wrong only where b does not reach, and start
    states other than rest.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.device import Device
    >>> A, b, plan = jnp.diag(jnp.array([1.0, 2.0, 4.0])), jnp.ones(3), Plan(20.0, 100.0)
    >>> device = Device(beta=1e3)
    >>> health(device.program(A), A, b, key=jax.random.key(0), plan=plan).verdict
    'healthy'
    >>> health(device.program(1.05 * A), A, b, key=jax.random.key(0), plan=plan).verdict
    'couplings differ from A'
    >>> health(device.program(A), A, b, key=jax.random.key(0), plan=Plan(0.0, 100.0)).verdict
    'burn-in too short'
    """
    if not isinstance(program, Program):
        raise ValueError(f"program must be a Program, got {type(program).__name__}; write it with device.program(A)")
    if not isinstance(runs, int) or runs < 2:
        raise ValueError(f"runs must be a whole number of at least 2, got {runs}")
    if program.spectrum is None:
        raise ValueError("the long-time law has no burn-in to test; write the program to a device with Law()")
    if plan.samples is not None and is_concrete(plan.samples) and np.any(np.asarray(plan.samples) % 2 != 0):
        raise ValueError(f"samples must be even, so that a run has two halves, got {plan.samples}")
    operator = as_couplings(A)
    force = as_block(b, operator, "b")
    if program.operator.dim != operator.dim or program.operator.dtype != operator.dtype:
        raise ValueError(
            f"program has {program.operator.dim} unknowns of type {program.operator.dtype}, and A {operator.dim} of "
            f"type {operator.dtype}; pass the matrix that the device was meant to have"
        )
    return _health(program, operator, force, key, plan.schedule, runs)


@partial(jax.jit, static_argnums=5)
def _health(
    program: Program, operator: Operator, force: jax.Array, key: jax.Array, schedule: Schedule, runs: int
) -> Health:
    d, k = force.shape
    real = jnp.finfo(operator.dtype).dtype
    repeated = jnp.repeat(force, runs, axis=1)
    half = jnp.asarray(schedule.duration).astype(real) / 2
    samples = None if schedule.samples is None else jnp.asarray(schedule.samples) // 2
    parts = [Schedule(schedule.burn_in, half, samples), Schedule(jnp.zeros_like(half), half, samples)]
    first_key, second_key = jax.random.split(key)
    first = _with_end(program).run(repeated, first_key, parts[0])
    second = _with_end(program).run(repeated, second_key, parts[1], _as_state(first.state))
    residual = repeated - operator.matmat((first.average + second.average) / 2)
    difference = operator.matmat(second.average - first.average)

    # What the program says, whatever the device does.
    stated = replace(program.machine, beta=program.device.beta)
    late = Schedule(jnp.asarray(schedule.burn_in).astype(real) + half, half, samples)

    def variances(rates: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of the residual, and of the difference of the halves, which is what their sum leaves of twice both."""
        whole, early, later = (stated.law(rates, part).covariance[0, 0] for part in (schedule, parts[0], late))
        apart = 2 * (early + later) - 4 * whole
        return whole * rates**2, jnp.maximum(apart, 8 * jnp.finfo(real).eps * (early + later)) * rates**2

    def whitening(rates: jax.Array) -> jax.Array:
        scale = [1 / jnp.sqrt(variance) for variance in variances(rates)]
        zero = jnp.zeros_like(rates)
        remains = 1 - rates * stated.law(rates, schedule).force[0]
        rows = [scale[0], zero, zero], [zero, scale[1], zero], [zero, zero, remains * scale[0]]
        return jnp.stack([jnp.stack(row) for row in rows])

    inputs = jnp.stack([residual, difference, repeated])
    (white, apart, transient), converged = program.machine.operator.combine(whitening, inputs)
    blocks = [jnp.where(converged, block, jnp.nan).reshape(d, k, runs) for block in (white, apart, transient)]
    scatter, mean = _split(blocks[0] - blocks[2])
    degrees, against = operator.components * d * k, operator.components * d * k * (runs - 1)
    level = LEVEL / 3
    noise = scatter / against
    shape = jnp.asarray(against / 2, real)
    tests = [Check(noise, jnp.asarray(against), two_sided_gamma(shape, noise), level)]
    for spread, square in ((scatter, mean), _split(blocks[1])):
        # With next to no noise at all, neither is there anything to compare with.
        ratio = (square / degrees) / (spread / against)
        tests.append(Check(ratio, jnp.asarray(degrees), upper_f(ratio, degrees, against), level))
    return Health(*tests)


def _with_end(program: Program) -> Program:
    """The program on a simulator that draws the end state, from which the second half continues."""
    simulator = program.device.simulator
    if not getattr(simulator, "end_state", True):
        return replace(program, device=replace(program.device, simulator=replace(simulator, end_state=True)))  # type: ignore[type-var]
    return program


def _as_state(state: State | None) -> State:
    assert state is not None  # the simulator draws it
    return state


def _split(block: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sum of squares about the mean over runs, and of the mean times the number of runs."""
    mean = jnp.mean(block, axis=2, keepdims=True)
    return jnp.sum(jnp.abs(block - mean) ** 2), block.shape[2] * jnp.sum(jnp.abs(mean) ** 2)
