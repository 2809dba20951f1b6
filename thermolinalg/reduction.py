r"""Variance reduction that a real read-out could use: more weight for the ends of a run.

What else there is needs no code of its own. A *warm start* (``x0``) shortens the burn-in, by :math:`\ln(\rho)/
\lambda_\min` for a start whose distance is smaller by a factor :math:`\rho`; ``plan.solve`` counts on it. *Replicas*
(``plan.solve(..., replicas=R)``) divide the noise by R and leave the burn-in. *Antithetic noise*, a second run with the
opposite kicks, cancels the noise of a linear device exactly: what is left is the noiseless gradient flow, which a
digital computer integrates without the device. No device can invert its own thermal noise, so it is not offered.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.convergence import Problem
from thermolinalg.device import Device, Program, as_program, as_start
from thermolinalg.draws import white_noise
from thermolinalg.integrator import Integrator
from thermolinalg.laws import Scalar
from thermolinalg.operators import as_block, is_concrete
from thermolinalg.plan import Plan, check_plan
from thermolinalg.primitives.checks import check_follows, imprecision
from thermolinalg.simulators import Machine, Reading, Schedule, State
from thermolinalg.solution import Solution, Status


def end_points(
    A: Any,
    b: ArrayLike,
    *,
    key: jax.Array,
    plan: Plan,
    device: Device | None = None,
    weight: Scalar | None = None,
    x0: ArrayLike | None = None,
) -> Solution:
    r"""Solve :math:`Ax = b` by a time average in which the first and the last state count for more.

    .. math:: \hat x = \frac{w\,x(t_0) + \int_{t_0}^{t_0 + \tau} x\,dt + w\,x(t_0 + \tau)}{\tau + 2w}

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric, or complex Hermitian, positive definite.
    b : array, shape (d,) or (d, k)
        Right-hand sides.
    key : PRNG key
        Two calls with one key return the same estimate.
    plan : Plan
        Times of the run; a continuous average of one replica.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default. Not together with a program.
    weight : float, >= 0, optional
        w, a time. By default the one with the least predicted mean square error.
    x0 : array, optional
        Where the run starts; at rest in the origin by default.

    Returns
    -------
    Solution
        ``value`` and ``stderr`` in the shape of `b`; ``stats`` with ``plan``, ``weight`` and ``gain``: the mean square
        error of the plain average over that of this one, as predicted.

    Raises
    ------
    ValueError
        As :func:`thermolinalg.solve`; if the plan has samples or replicas, or `weight` is negative.

    Notes
    -----
    For one stationary overdamped mode the best weight is :math:`1/\lambda`, and the variance :math:`2s/(\lambda\tau +
    2)` in place of :math:`s\,\psi(\lambda\tau)`: a gain of :math:`1 + 1/\lambda\tau`. No other linear estimate from the
    path has less. With many modes one weight cannot serve all, and it is the slow ones that have the noise: some per
    cent are left in practice, fewer the longer the run, at the price of two more readings. Before the burn-in is over
    there is nothing to gain. The value is drawn from its exact law.

    Derivatives do not flow through it.

    References
    ----------
    Grenander, *Stochastic processes and statistical inference*, Arkiv för Matematik 1 (1950), for the best linear
    estimate of a mean.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> A, b = jnp.diag(jnp.array([1.0, 2.0])), jnp.ones(2)
    >>> x = end_points(A, b, key=jax.random.key(0), plan=Plan(10.0, 20.0))
    >>> round(float(x.stats["gain"]), 2)
    1.04
    """
    if plan.samples is not None or plan.replicas > 1:
        raise ValueError("the ends have a weight of their own beside a continuous average: plan no samples or replicas")
    if weight is not None and is_concrete(weight) and not 0 <= float(weight) < float("inf"):
        raise ValueError(f"weight must be a time that is not negative, got {weight}")
    program = as_program(A, device, key)
    check_follows(program.machine.dynamics, "a time average")
    if isinstance(program.device.simulator, Integrator):
        raise ValueError("the weights of the ends are drawn from a law, which an Integrator does without; use Law()")
    force = as_block(b, program.operator, "b")
    start = as_start(x0, program.operator, force)
    return _end_points(program, force, key, check_plan(plan), weight, start, jnp.shape(b))


@partial(jax.jit, static_argnums=6)
def _end_points(
    program: Program,
    force: jax.Array,
    key: jax.Array,
    plan: Plan,
    weight: Scalar | None,
    start: State | None,
    shape: tuple[int, ...],
) -> Solution:
    program, force, start = jax.lax.stop_gradient((program, force, start))
    machine, schedule = program.machine, plan.schedule
    operator = machine.operator
    push, loaded = program.device.load(force, key)
    pull = machine.pull(push, start)[0]
    problem = Problem.of(machine, force, pull)

    def mean_square(w: jax.Array) -> jax.Array:
        _, left, variance = _law(machine, problem.nodes, schedule, w)
        noise = jnp.sum(problem.counts * variance)
        return jnp.max(noise + jnp.sum(problem.pull * left[:, None] ** 2, 0) * problem.length**2)

    slowest = jnp.min(machine.dynamics.relaxation(jnp.stack(operator.extremes()[1:3])))
    if weight is None:
        grid = jnp.append(jnp.zeros(1, slowest.dtype), jnp.geomspace(1e-3, 3.0, 200).astype(slowest.dtype) / slowest)
        chosen = grid[jnp.argmin(jax.lax.map(mean_square, grid))]
    else:
        chosen = jnp.asarray(weight).astype(slowest.dtype)

    def coefficients(rates: jax.Array) -> jax.Array:
        response, _, variance = _law(machine, rates, schedule, chosen)
        return jnp.stack([response, jnp.sqrt(variance)])[None]

    noise = white_noise(key, force.shape, force.dtype)
    (value,), converged = operator.combine(coefficients, jnp.stack([pull, noise]))
    if start is not None:
        value = value + start.position
    thermal = operator.diagonal(lambda rates: _law(machine, rates, schedule, chosen)[2])
    left = operator.magnitude(lambda rates: (_law(machine, rates, schedule, chosen)[1] / rates)[None], pull[None])
    stderr = jnp.hypot(jnp.sqrt(operator.components * thermal)[:, None], left)
    reading = Reading(value, stderr, None, converged, flags=loaded)
    if not program.device.exact:
        reading = program.read(reading, force, push, key, schedule)
    value, stderr = reading.average, reading.stderr
    finite = jnp.all(jnp.isfinite(value)) & jnp.all(jnp.isfinite(stderr))
    fault = jnp.where(converged, int(Status.NOT_FINITE), int(Status.NOT_CONVERGED))
    flags = program.status | reading.flags | jnp.where(converged & finite, 0, fault).astype(jnp.int32)
    gain = mean_square(jnp.zeros_like(chosen)) / mean_square(chosen)
    stats = {"plan": plan, "weight": chosen, "gain": gain, "time_constants": plan.time_constants}
    flags |= imprecision(program.device, reading.systematic, value, plan)
    method = "The solution is a time average in which the first and the last state count for more."
    return Solution(value.reshape(shape), stderr.reshape(shape), flags, stats, method)


def _law(
    machine: Machine, rates: jax.Array, schedule: Schedule, weight: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean response to a unit force from rest, fraction left of the start, and variance, for each mode."""
    settle = machine.law(rates, Schedule(schedule.burn_in, 0.0))
    move = machine.law(rates, Schedule(0.0, schedule.duration))
    tau = jnp.asarray(schedule.duration).astype(rates.dtype)
    whole = tau + 2 * weight
    # A state reads as itself at the start, as an average, and as what is left of it at the end.
    reads = (tau * move.start[0] + weight * move.start[1]) / whole
    reads = reads.at[0].add(weight / whole)
    share = jnp.stack([tau, weight]) / whole
    fresh = jnp.einsum("i,ijn,j->n", share, move.covariance[:2, :2], share)
    variance = jnp.einsum("in,ijn,jn->n", reads, settle.covariance[1:, 1:], reads) + fresh
    response = jnp.sum(reads * settle.force[1:], 0) + share @ move.force[:2]
    return response, jnp.sum(reads * settle.start[1:, 0], 0), variance
