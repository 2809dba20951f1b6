"""What every verb refuses on the host, before and after its run."""

import jax
import jax.numpy as jnp

from thermolinalg.device import Device
from thermolinalg.dynamics import Dynamics
from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.plan import Plan, check_plan
from thermolinalg.solution import Solution, Status


def check_choice(plan: Plan | None, rtol: Scalar | None) -> None:
    """Raise a ``ValueError`` if both a plan and a tolerance to plan for are given."""
    if plan is not None and rtol is not None:
        raise ValueError("give a plan or rtol, not both: a plan already fixes the times")


def check_samples(plan: Plan) -> Plan:
    """Return a plan whose times make sense and that has samples; a second moment is read of samples."""
    if plan.samples is None:
        raise ValueError("this reading is of samples: give the plan a number of them")
    return check_plan(plan)


def check_follows(dynamics: Dynamics, verb: str) -> None:
    """Raise a ``ValueError`` if a device with these dynamics has no mean to read."""
    if not dynamics.follows:
        raise ValueError(
            f"{verb} reads the mean under a force, which is zero on a device whose cells are coupled by capacitors; it "
            "inverts and samples, so use inv, or another device"
        )


def imprecision(device: Device, systematic: jax.Array | None, value: jax.Array, plan: Plan) -> jax.Array:
    """``Status.IMPRECISE`` if what the device shifts answers by, column by column, eats up the tolerance of a plan."""
    flag, fine = int(Status.IMPRECISE), jnp.zeros((), jnp.int32)
    if systematic is None:
        return fine
    if device.maimed:
        return fine + flag
    if plan.rtol is None:
        return fine
    shift, size = jnp.linalg.norm(systematic, axis=0), jnp.linalg.norm(value, axis=0)
    return jnp.where(jnp.all(shift <= jnp.asarray(plan.rtol).astype(size.dtype) / 3 * size), fine, flag)


def check_answer(solution: Solution, operands: str) -> Solution:
    """Return the solution unless it is known not to be finite."""
    if is_concrete(solution.status) and int(solution.status) & Status.NOT_FINITE:
        raise ValueError(f"the answer is not finite: the scale of {operands} overflows its dtype; rescale them")
    return solution
