"""Devices of which only the spectrum matters."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.convergence.knowledge import ConditionNumber, Extremes
from thermolinalg.device import Device, Program, as_program
from thermolinalg.operators import Diagonal
from thermolinalg.simulators import Machine
from thermolinalg.spectrum import Spectrum

_BETWEEN = 65


def factored(machine: Machine) -> Machine:
    """The machine with all that functions of its operator need, also when its simulator does without."""
    operator = machine.operator.factor()
    lower, low, high, upper = operator.extremes()
    return replace(machine, operator=operator, dynamics=machine.dynamics.resolve(Spectrum(low, high, lower, upper)))


def machine_of(rates: jax.Array, device: Device) -> Machine:
    """A machine with modes at these rates."""
    return factored(Machine(Diagonal(rates), device.dynamics, device.beta))


def between(known: ConditionNumber | Extremes) -> jax.Array:
    """Eigenvalues that stand for all between the extremes."""
    low, high = known.extremes
    steps = jnp.linspace(0.0, 1.0, _BETWEEN, dtype=low.dtype)
    # Exact at the ends, where powers are not.
    inner = low * (high / low) ** steps
    return inner.at[0].set(low).at[-1].set(high)


def device_of(A: Any, device: Device | None) -> Device:
    """The device of a program, or the one given, or the ideal one."""
    if isinstance(A, Program):
        return as_program(A, device).device
    return Device() if device is None else device
