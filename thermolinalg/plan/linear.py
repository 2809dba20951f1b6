"""How long to run for the solution of a linear system."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.convergence import Problem, squared_error
from thermolinalg.device import Device, Program, as_program, as_start
from thermolinalg.laws import Scalar
from thermolinalg.operators import as_block
from thermolinalg.plan.search import factored, least_time
from thermolinalg.plan.times import Plan, check_found, check_fractions
from thermolinalg.simulators import Machine, Schedule, State


def solve(
    A: Any,
    b: ArrayLike,
    *,
    rtol: Scalar = 1e-2,
    confidence: Scalar = 0.95,
    device: Device | None = None,
    guaranteed: bool = False,
    x0: ArrayLike | State | None = None,
) -> Plan:
    r"""Plan a linear solve: the least :math:`t_0 + \tau` with :math:`P(\|\bar x - x^*\| \le \mathtt{rtol}\,\|x^*\|)
    \ge` `confidence`.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric positive definite.
    b : array, shape (d,) or (d, k)
        Right-hand sides; the plan serves all of them.
    rtol : float, in (0, 1)
        Relative error in the 2-norm.
    confidence : float, in (0, 1)
        Fraction of runs that keep to it.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default.
    guaranteed : bool
        Use a rigorous upper bound on the tail of the error (Laurent-Massart) in place of the four-moment match. The
        averaging then takes up to 2.7 times longer: that much for one slow mode, less the more modes share the error.
    x0 : array or State, optional
        Where the run starts; at rest in the origin by default.

    Returns
    -------
    Plan
        With zero times when b is zero: the start is the answer then.

    Raises
    ------
    ValueError
        For operands or tolerances out of range; see :func:`thermolinalg.solve`.

    Notes
    -----
    The law of the error is exact for operators that are diagonalised; the split of the time between burn-in and
    averaging is searched. The cost of a search is some 1500 evaluations of the law of all modes. The duration is at
    least a tenth of a time constant of the device: an average over less is a snapshot. For matrix-free operators the
    spectrum and the right-hand side enter through Gauss quadratures of ``survey_steps`` nodes, which are optimistic
    when the smallest eigenvalue is unresolved (``Spectrum.of(A).resolved``).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> plan = solve(jnp.diag(jnp.array([1.0, 10.0])), jnp.array([3.0, 5.0]), rtol=0.05)
    >>> bool(plan.duration > plan.burn_in)
    True
    """
    check_fractions(rtol=rtol, confidence=confidence)
    program = as_program(A, device)
    force = as_block(b, program.operator, "b")
    start = as_start(x0, program.operator, force)
    plan = _plan(program, force, start, rtol, confidence, guaranteed)
    return check_found(plan)


@partial(jax.jit, static_argnums=5)
def _plan(
    program: Program, force: jax.Array, start: State | None, rtol: Scalar, confidence: Scalar, guaranteed: bool
) -> Plan:
    program, force, start = jax.lax.stop_gradient((program, force, start))
    machine = factored(program.machine)
    problem = Problem.of(machine, force, machine.pull(force, start)[0])
    longest = _longest(machine, problem, rtol, confidence)
    law = partial(squared_error, machine, problem, rtol=rtol)
    schedule, clock = least_time(machine, law, longest, confidence, guaranteed)
    needed = jnp.any(problem.length > 0)
    schedule = jax.tree.map(lambda time: jnp.where(needed, time, 0.0), schedule)
    deviation = _long_time_error(machine, problem, schedule)
    return Plan(schedule.burn_in, schedule.duration, None, rtol, confidence, clock, deviation)


def _longest(machine: Machine, problem: Problem, rtol: Scalar, confidence: Scalar) -> jax.Array:
    """A time that is surely enough for a linear solve."""
    dtype = problem.length.dtype
    rtol, confidence = (jnp.asarray(x).astype(dtype) for x in (rtol, confidence))
    _, low, high, _ = machine.operator.extremes()
    # The Lanczos process of a right-hand side may see smaller eigenvalues than the survey of the operator.
    low = jnp.minimum(low, jnp.min(jnp.where(problem.nodes > 0, problem.nodes, low)))
    slowest = jnp.min(machine.dynamics.relaxation(jnp.stack([low, high])))
    noise = jnp.asarray(machine.dynamics.noise(machine.beta)).astype(dtype)
    scatter = jnp.sqrt(jnp.sum(problem.counts / (problem.nodes / low) ** 2)) / low
    spread = scatter / jnp.where(problem.length > 0, problem.length, jnp.inf) / rtol
    averaging = jnp.max(noise * spread**2) / (1 - confidence)
    return 8 * (jnp.log(30 * (1 + jnp.sqrt(jnp.max(jnp.sum(problem.pull, 0)))) / rtol) / slowest + averaging)


def _long_time_error(machine: Machine, problem: Problem, schedule: Schedule) -> jax.Array:
    duration = jnp.where(jnp.asarray(schedule.duration) > 0, schedule.duration, 1.0)
    noise = jnp.asarray(machine.dynamics.noise(machine.beta)).astype(duration.dtype)
    exact = machine.law(problem.nodes, schedule).covariance[0, 0]
    deviation = jnp.max(jnp.abs(noise / duration / problem.nodes / problem.nodes / exact - 1))
    error = squared_error(machine, problem, schedule, 1.0)
    scatter = squared_error(machine, replace(problem, pull=jnp.zeros_like(problem.pull)), schedule, 1.0)
    bias = error.cumulants[0] / jnp.where(scatter.cumulants[0] > 0, scatter.cumulants[0], 1.0) - 1
    return jnp.where(jnp.asarray(schedule.duration) > 0, jnp.maximum(deviation, jnp.max(bias)), jnp.inf)
