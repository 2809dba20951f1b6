"""How long to run for the solution of a linear system."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.convergence.linear import Linear, Problem, aligned
from thermolinalg.device import Device, as_program, as_start
from thermolinalg.laws import Scalar
from thermolinalg.operators import as_block
from thermolinalg.plan.budget import Budget, choose
from thermolinalg.plan.times import Plan, check_found
from thermolinalg.ranges import check_fractions
from thermolinalg.simulators import Schedule, State


def solve(
    A: Any,
    b: ArrayLike,
    *,
    rtol: Scalar | None = None,
    budget: Budget | None = None,
    confidence: Scalar = 0.95,
    device: Device | None = None,
    guaranteed: bool = False,
    samples: Scalar | None = None,
    replicas: int = 1,
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
    rtol : float, in (0, 1), default 1e-2
        Relative error in the 2-norm.
    budget : Budget, optional
        In place of `rtol`: the plan of the least error within this time and energy; its ``rtol`` says which.
    confidence : float, in (0, 1)
        Fraction of runs that keep to it.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default.
    guaranteed : bool
        Use a rigorous upper bound on the tail of the error (Laurent-Massart) in place of its numerical inversion. The
        averaging then takes up to 2.7 times longer at confidence 0.95, more at lower ones: that much for one slow mode,
        less the more modes share the error.
    samples : int, optional
        Read so many equally spaced samples in place of a continuous average, as where each costs a conversion.
    replicas : int, >= 1
        Devices that run side by side, their readings averaged. Noise falls with their number; the burn-in stays.
    x0 : array or State, optional
        Where the run starts; at rest in the origin by default.

    Returns
    -------
    Plan
        With zero times when b is zero: the start is the answer then.

    Raises
    ------
    ValueError
        For operands or tolerances out of range; see :func:`thermolinalg.solve`. If no time is enough, as with too few
        samples.

    Notes
    -----
    The law of the error is exact for operators that are diagonalised; the split of the time between burn-in and
    averaging is searched. The cost of a search is some 1500 evaluations of the law of all modes. The duration is at
    least a tenth of a time constant of the device: an average over less is a snapshot.

    For matrix-free operators the spectrum and the right-hand side enter through quadratures of ``survey_steps`` nodes.
    If the smallest eigenvalue is resolved, they have a node at its lower bound, which makes them upper bounds, and what
    few probes may have missed is added; both hold with probability 0.99 over the random vectors of the survey, and cost
    some ten per cent of time, more where one slow mode has most of the noise. If it is not resolved, quadratures are
    optimistic, ``plan.resolved`` is False, and the promise is one for the part of the spectrum that was seen.

    Samples that are half a time constant of the fastest mode apart lose 2 % against a continuous average, at most.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> A, b = jnp.diag(jnp.array([1.0, 10.0])), jnp.array([3.0, 5.0])
    >>> plan = solve(A, b, rtol=0.05)
    >>> bool(plan.duration > plan.burn_in)
    True
    >>> bool(solve(A, b, budget=Budget(seconds=1e-3)).rtol < 0.2)
    True
    """
    goal = 1e-2 if rtol is None and budget is None else rtol
    check_fractions(rtol=goal, confidence=confidence)
    program = as_program(A, device)
    force = as_block(b, program.operator, "b")
    estimator = aligned(program, force, as_start(x0, program.operator, force))
    found, goal = choose(
        *(estimator, program.device, program.operator.dim),
        rtol=goal,
        budget=budget,
        confidence=confidence,
        guaranteed=guaranteed,
        samples=samples,
        replicas=replicas,
    )
    return check_found(_plan(estimator, found.schedule, goal, confidence, replicas))


@jax.jit
def _long_time_error(estimator: Linear, schedule: Schedule) -> jax.Array:
    machine, problem = estimator.machine, estimator.problem
    assert isinstance(problem, Problem)
    duration = jnp.where(jnp.asarray(schedule.duration) > 0, schedule.duration, 1.0)
    noise = jnp.asarray(machine.dynamics.noise(machine.beta)).astype(duration.dtype)
    exact = machine.law(problem.nodes, schedule).covariance[0, 0]
    deviation = jnp.max(jnp.abs(noise / duration / problem.nodes / problem.nodes / exact - 1))
    error = estimator.law(schedule).cumulants[0]
    scatter = replace(problem, pull=jnp.zeros_like(problem.pull)).law(machine, schedule).cumulants[0]
    bias = error / jnp.where(scatter > 0, scatter, 1.0) - 1
    return jnp.where(jnp.asarray(schedule.duration) > 0, jnp.maximum(deviation, jnp.max(bias)), jnp.inf)


def _plan(estimator: Linear, schedule: Schedule, rtol: Scalar, confidence: Scalar, replicas: int) -> Plan:
    needed = jnp.any(estimator.problem.length > 0)
    burn_in, duration = (jnp.where(needed, time, 0.0) for time in (schedule.burn_in, schedule.duration))
    schedule = Schedule(burn_in, duration, schedule.samples)
    deviation = _long_time_error(estimator, schedule) if schedule.samples is None else None
    resolved = estimator.machine.operator.extremes()[0] > 0
    parts = schedule.burn_in, schedule.duration, schedule.samples
    return Plan(*parts, rtol, confidence, estimator.clock, deviation, resolved, replicas)
