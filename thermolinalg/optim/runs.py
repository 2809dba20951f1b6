"""Runs of a device for a solver: scaled, written, read, and priced."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from thermolinalg import primitives
from thermolinalg.covariances import overlap, shortfall
from thermolinalg.device import Device, Program
from thermolinalg.laws import Scalar
from thermolinalg.ledger import Ledger
from thermolinalg.operators import is_concrete
from thermolinalg.optim.inverse_factor import product
from thermolinalg.optim.scales import bound_exponent, column_exponents
from thermolinalg.optim.solvers import (
    Code,
    Info,
    add_damping,
    check_rhs,
    code_finite,
    relative_residual,
    report,
    working,
)
from thermolinalg.plan import Plan
from thermolinalg.simulators import Machine
from thermolinalg.solution import Solution, Status

_CODES = {
    Status.LOW_PRECISION: Code.LOW_PRECISION,
    Status.FEW_SAMPLES: Code.FEW_SAMPLES,
    Status.COARSE: Code.COARSE,
    Status.IMPRECISE: Code.IMPRECISE,
    Status.UNRESOLVED: Code.IMPRECISE,
    Status.NOT_CONVERGED: Code.NOT_CONVERGED,
    Status.SATURATED: Code.SATURATED,
    Status.UNSTABLE: Code.NOT_POSITIVE_DEFINITE,
    Status.NOT_POSITIVE_DEFINITE: Code.NOT_POSITIVE_DEFINITE,
    Status.NOT_FINITE: Code.NOT_FINITE,
}


def code_of(status: jax.Array) -> jax.Array:
    """The worst :class:`Code` that flags of :class:`thermolinalg.Status` amount to; unknown flags are failures.

    Couplings that are not positive definite come before the answers that they make, which are not finite.
    """
    known, code = 0, jnp.zeros((), jnp.int32)
    unstable = status & int(Status.NOT_POSITIVE_DEFINITE | Status.UNSTABLE) != 0
    for flag, found in _CODES.items():
        known |= int(flag)
        code = jnp.maximum(code, jnp.where(status & int(flag) != 0, int(found), 0).astype(jnp.int32))
    code = jnp.where(unstable, int(Code.NOT_POSITIVE_DEFINITE), code)
    return jnp.maximum(code, jnp.where(status & ~known != 0, int(Code.NOT_FINITE), 0)).astype(jnp.int32)


def written_code(flags: jax.Array, damped: jax.Array) -> jax.Array:
    """The code of couplings; not finite ones are not definite either, which is the lesser thing to say."""
    return jnp.where(jnp.all(jnp.isfinite(damped)), code_of(flags), int(Code.NOT_FINITE)).astype(jnp.int32)


class Scaled(NamedTuple):
    """A damped matrix over :math:`2^e`, and e."""

    damped: jax.Array
    exponent: jax.Array


def scale(matrix: jax.Array, damping: Any) -> tuple[Scaled, jax.Array, jax.Array]:
    """The damped matrix, and matrix and damping by themselves, at the scale of the device."""
    damped = add_damping(matrix, damping)
    exponent = bound_exponent(damped)
    clean, shift = working(matrix), jnp.asarray(damping).astype(damped.dtype)
    clean = jnp.ldexp((clean + clean.T) / 2, -exponent)
    return Scaled(jnp.ldexp(damped, -exponent), exponent), clean, jnp.ldexp(shift, -exponent)


def as_columns(rhs: jax.Array, scaled: Scaled) -> tuple[jax.Array, jax.Array]:
    """Right-hand sides as columns (d, k) at the scale of the device, and their exponents (1, k)."""
    check_rhs(rhs, len(scaled.damped))
    block = rhs.astype(scaled.damped.dtype).reshape(len(rhs), -1)
    exponents = column_exponents(block)
    return jnp.ldexp(block, -exponents), exponents


def given_back(x: jax.Array, exponents: jax.Array, scaled: Scaled, rhs: jax.Array) -> jax.Array:
    """Answers in the units, the shape and the dtype of right-hand sides."""
    return jnp.ldexp(x, exponents - scaled.exponent).reshape(rhs.shape).astype(rhs.dtype)


def relative_error(errors: jax.Array, x: jax.Array) -> jax.Array:
    """The largest of errors over the lengths of columns."""
    length = jnp.linalg.norm(x, axis=0)
    return jnp.max(errors / jnp.where(length > 0, length, 1))


def judged(scaled: Scaled, x: jax.Array, force: jax.Array, code: jax.Array, *numbers: Scalar) -> Info:
    return report(code_finite(code, x, force), relative_residual(scaled.damped, x, force), *numbers)


def timed(found: Solution, rtol: Scalar | None, dynamics: Any) -> Plan:
    """The plan of a run; what was planned from the spectrum gets the clock of the scale of the device."""
    plan: Plan = found.stats["plan"]
    if rtol is None:
        return plan
    return replace(plan, clock=dynamics.clock(jnp.ones((), jnp.asarray(plan.burn_in).dtype)))


def price(
    plan: Plan | None, times: Plan, ledger: Callable[[Plan], Ledger], device: Device
) -> tuple[jax.Array, jax.Array]:
    """Seconds and joules: of a plan that is known, or of continuous times that are not, in which both are linear."""
    if not is_concrete(device, plan):
        return jnp.full((), jnp.nan, jnp.float32), jnp.full((), jnp.nan, jnp.float32)
    if plan is not None:
        known = ledger(plan)
        return jnp.asarray(known.total, jnp.float32), jnp.asarray(known.energy, jnp.float32)
    none, one = ledger(Plan(0.0, 0.0)), ledger(Plan(0.0, 1.0))
    length = jnp.asarray(times.time_constants).astype(jnp.float32)
    return none.total + (one.total - none.total) * length, none.energy + (one.energy - none.energy) * length


@jax.jit
def write(device: Device, matrix: jax.Array, damping: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
    """What is in a program beside its device, as arrays of fixed dtypes, and its flags."""
    program = device.program(matrix, key=key, damping=damping)
    machine = program.machine
    parts = program.operator, machine.operator, machine.dynamics, program.status, program.spectrum, program.off
    parts = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), parts)
    return parts, jnp.asarray(program.status).astype(jnp.int32)


@jax.jit
def run(
    device: Device,
    parts: Any,
    force: jax.Array,
    key: jax.Array,
    plan: Plan | None,
    rtol: Scalar | None,
    start: jax.Array | None,
) -> Solution:
    operator, realised, dynamics, status, spectrum, off = parts
    program = Program(operator, Machine(realised, dynamics, device.beta), device, status, spectrum, off)
    return primitives.solve(program, force, key=key, plan=plan, rtol=rtol, x0=start)


@jax.jit
def invert(
    device: Device, matrix: jax.Array, damping: jax.Array, key: jax.Array, plan: Plan | None, rtol: Scalar | None
) -> tuple[jax.Array, jax.Array, jax.Array, Plan]:
    """The inverse, its mean square error as a matrix, flags, and the times it took."""
    writing, running = jax.random.split(key)
    program = device.program(matrix, key=writing, damping=damping)
    found = primitives.inv(program, key=running, plan=plan, rtol=rtol)
    times = timed(found, rtol, program.machine.dynamics)
    spread = _spread(program.machine, found)
    if "systematic" in found.stats:
        spread = spread + jnp.diag(jnp.sum(found.stats["systematic"] ** 2, 0)).astype(spread.dtype)
    strong = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), times)
    return found.value, spread, found.status.astype(jnp.int32), strong


invert_one_by_one = sequential_vmap(invert)
"""Which of several ways a covariance is drawn is a branch, and under ``vmap`` all of them would be taken."""


def _spread(machine: Machine, found: Solution) -> jax.Array:
    r"""Mean square of the thermal error of the inverse as a matrix.

    In the eigenbasis, with the variances F of products of modes: :math:`\sum_j (1 + \delta_{jk})
    F_{jk}/\lambda_j\lambda_k` plus the square of what a start at rest leaves out.
    """
    plan: Plan = found.stats["plan"]
    operator = machine.operator
    if found.stats["spectrum"] is None:
        inverse, samples = found.value, jnp.asarray(plan.samples).astype(found.value.dtype) * plan.replicas
        return (inverse * jnp.trace(inverse) + product(inverse, inverse)) / samples
    rates, basis = operator.rates, operator.basis  # type: ignore[attr-defined]
    memory = machine.dynamics.memory(rates)
    gram = overlap(memory, memory, plan.duration, plan.samples) / (rates[:, None] * rates[None])
    left = shortfall(memory, plan.burn_in, plan.duration, plan.samples) / rates
    modes = (jnp.sum(gram, 0) + jnp.diagonal(gram)) / plan.replicas + left**2
    return product(basis * modes.astype(basis.dtype)[None], basis.T)
