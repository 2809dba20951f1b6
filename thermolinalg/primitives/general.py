"""Linear systems without symmetry: the process itself where it is stable, the normal equations where it is not."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg import plan as planning
from thermolinalg.convergence import SquaredError, four_moments
from thermolinalg.convergence.search import bisect
from thermolinalg.device import READ, Device, refuse_dead
from thermolinalg.drifts import General, as_drift, as_real, settling_time
from thermolinalg.dynamics import Overdamped
from thermolinalg.integrator import Integrator
from thermolinalg.laws import Scalar
from thermolinalg.operators import Dense, as_block, is_concrete
from thermolinalg.paths import root
from thermolinalg.plan import Plan, check_plan
from thermolinalg.primitives.checks import check_answer, imprecision
from thermolinalg.primitives.methods import drawn
from thermolinalg.ranges import check_fractions
from thermolinalg.simulators import Law, Machine, State
from thermolinalg.solution import Solution, Status
from thermolinalg.transition import average, lyapunov, stable


def solve_general(
    A: General,
    b: ArrayLike,
    *,
    key: jax.Array,
    rtol: Scalar | None,
    confidence: Scalar,
    plan: Plan | None,
    device: Device | None,
    x0: ArrayLike | State | None,
) -> Solution:
    """Solve as :func:`thermolinalg.solve` does, for a matrix without symmetry."""
    matrix = as_drift(A)
    device = Device() if device is None else device
    if not isinstance(device.dynamics, Overdamped):
        raise ValueError("a matrix without symmetry needs an overdamped device; leave out dynamics=Underdamped(...)")
    if not isinstance(device.simulator, Law | Integrator):
        raise ValueError("a matrix without symmetry has no modes to walk along; use Law() or an Integrator")
    refuse_dead(device)
    if x0 is not None:
        raise ValueError("a run on a matrix without symmetry starts at rest in the origin; solve for the rest of b")
    operator = Dense(matrix)
    force = as_block(b, operator, "b")
    values = np.linalg.svd(matrix, compute_uv=False) if is_concrete(matrix) else None
    if values is not None and not values[-1] > len(values) * np.finfo(values.dtype).eps * values[0]:
        raise ValueError(
            f"A is singular to working precision: its singular values run from {values[-1]:.3g} to {values[0]:.3g}"
        )
    tolerances = (1e-2 if rtol is None else rtol, confidence)
    if plan is None:
        check_fractions(rtol=tolerances[0], confidence=confidence)
    else:
        check_plan(plan)
    solution = check_answer(_solve(matrix, force, key, plan, device, *tolerances), "A, b or the plan")
    shape, stats = jnp.shape(b), dict(solution.stats)
    if "systematic" in stats:
        stats["systematic"] = stats["systematic"].reshape(shape)
    value, stderr = solution.value.reshape(shape), solution.stderr.reshape(shape)
    return replace(solution, value=value, stderr=stderr, stats=stats)


@jax.jit
def _solve(
    matrix: jax.Array,
    force: jax.Array,
    key: jax.Array,
    plan: Plan | None,
    device: Device,
    rtol: Scalar,
    confidence: Scalar,
) -> Solution:
    A, b = jax.lax.stop_gradient((matrix, force))
    direct = stable(as_real(A))
    if plan is not None:
        # Runs that start alike and differ in their noise only: their average is one run of a colder device.
        device = replace(device, beta=plan.replicas * device.beta)
    operands = A, b, key, plan, device, rtol, confidence
    found = jax.lax.cond(direct, lambda: _direct(*operands), lambda: _normal(*operands))
    answer, stderr, times, kappa, status, systematic = found
    value = _implicit(A, answer, force - matrix @ answer)
    finite = jnp.all(jnp.isfinite(value)) & jnp.all(jnp.isfinite(stderr))
    flags = status | jnp.where(finite, 0, int(Status.NOT_FINITE)).astype(jnp.int32)
    stats = {"plan": times, "time_constants": times.time_constants, "kappa": kappa, "normal_equations": ~direct}
    if not device.exact:
        flags |= imprecision(device, systematic, answer, times)
        stats["systematic"] = systematic
    method = (
        "The solution is the time average of an overdamped process without symmetry, or on the normal equations, "
        f"{drawn(device.simulator)}."
    )
    return Solution(value, stderr, flags, stats, method)


def _direct(A, b, key, plan, device, rtol, confidence):
    """The time average of the process itself. Real and imaginary parts are cells of their own."""
    asked, k = as_real(A), b.shape[1]
    wanted = jnp.concatenate([b.real, b.imag]) if jnp.iscomplexobj(b) else b
    n, dtype = asked.shape[0], asked.dtype
    (drift, written), (force, loaded) = device.write(asked, False, 0, key), device.load(wanted, key)
    # The simulator works out the law of the device, and needs what the device relaxes to.
    goal = jnp.linalg.solve(drift, force)
    systematic = jnp.zeros_like(goal) if device.exact else goal - jnp.linalg.solve(asked, wanted)
    sizes = jnp.linalg.svd(drift, compute_uv=False)
    noise = 2 / jnp.asarray(device.beta).astype(dtype)
    if plan is None:
        plan = _plan(drift, goal, sizes, noise, *(jnp.asarray(x).astype(dtype) for x in (rtol, confidence)))
    xi = jax.random.normal(key, (n, k), dtype)
    duration = jnp.asarray(plan.duration).astype(dtype)
    simulator = device.simulator
    if isinstance(simulator, Law) and simulator.long_time:
        scale = jnp.sqrt(noise / jnp.where(duration > 0, duration, jnp.inf))
        inverse = jnp.linalg.solve(drift, jnp.eye(n, dtype=dtype))
        mean, spread = goal, scale * inverse @ xi
        variance, left = scale**2 * jnp.sum(inverse**2, 1, keepdims=True), jnp.zeros_like(goal)
    else:
        law = average(drift, jnp.zeros(n, dtype), noise * jnp.eye(n, dtype=dtype), plan.burn_in, duration, plan.samples)
        covariance, left = law.covariance[n:, n:], law.propagator[n:, :n] @ goal
        mean, spread = goal - left, root(covariance) @ xi
        variance = jnp.diagonal(covariance)[:, None]
    answer, square = mean + spread, variance + left**2
    flags = written | loaded | jnp.where(stable(drift), 0, int(Status.UNSTABLE))
    if isinstance(simulator, Integrator):
        longest = jnp.asarray(simulator.step).astype(dtype) / sizes[0]
        machine = Machine(Dense(drift), device.dynamics, device.beta)
        answer, scatter, _, flag = simulator.integrate(machine, force, key, plan.schedule, None, longest)
        square, flags = square if simulator.cells.linear else scatter**2, flags | flag
    if not device.readout.ideal:
        settled = lyapunov(drift, noise * jnp.eye(n, dtype=dtype))
        spread = jnp.sqrt(jnp.diagonal(settled))[:, None]
        seen = device.readout.average(answer, spread, plan.schedule, jax.random.fold_in(key, READ))
        answer, systematic, flags = seen.value, jnp.hypot(systematic, seen.error), flags | seen.flags
    square = square + systematic**2
    if jnp.iscomplexobj(b):
        d = b.shape[0]
        answer, square = jax.lax.complex(answer[:d], answer[d:]), square[:d] + square[d:]
        systematic = jnp.hypot(systematic[:d], systematic[d:])
    kappa = sizes[0] / sizes[-1]
    status = jnp.where(kappa * jnp.finfo(dtype).eps > 1e-3, int(Status.LOW_PRECISION), 0).astype(jnp.int32)
    return answer, jnp.sqrt(square), plan, kappa, status | flags, jnp.abs(systematic)


def _plan(drift, goal, sizes, noise, rtol, confidence):
    """A burn-in that leaves a tenth of the tolerance, and the averaging that the law of long averages asks for."""
    length = jnp.linalg.norm(goal, axis=0)
    live = length > 0
    relative = jnp.where(live, 1 / jnp.where(live, length, 1), 0)
    columns = goal * relative[None]
    burn_in = settling_time(drift, columns, 0.1 * rtol / goal.shape[1] ** 0.5)
    weights = noise * (relative[None] / sizes[:, None] / rtol) ** 2

    noise_alone = SquaredError(weights, jnp.ones_like(weights), jnp.zeros_like(weights))

    def keeps(duration):
        error = noise_alone.over(jnp.sqrt(duration)).shifted(0.01 * live.astype(relative.dtype))
        return jnp.all(four_moments(error, confidence))

    most = 10 * jnp.max(jnp.sum(weights, 0)) / (1 - confidence)
    duration = 1.005 * bisect(keeps, 1e-9 * most, most, 50)
    needed = jnp.any(live)
    burn_in, duration = (jnp.where(needed, time, 0.0) for time in (burn_in, duration))
    return Plan(burn_in, duration, None, rtol, confidence, sizes[0])


def _normal(A, b, key, plan, device, rtol, confidence):
    """The normal equations, on an operator that is positive definite whatever A is."""
    squared = A.conj().T @ A
    operator = Dense((squared + squared.conj().T) / 2)
    program = device.program(operator, key=key)
    force = A.conj().T @ b
    if plan is None:
        found = planning.solve(program, force, rtol=rtol, confidence=confidence)
        rtol, confidence = (jnp.asarray(x).astype(jnp.finfo(A.dtype).dtype) for x in (rtol, confidence))
        plan = Plan(found.burn_in, found.duration, None, rtol, confidence, found.clock)
    reading = program.run(force, key, plan.schedule)
    sizes = jnp.linalg.svd(A, compute_uv=False)
    status, kappa = program.status | reading.flags, (sizes[0] / sizes[-1]) ** 2
    systematic = jnp.zeros_like(reading.stderr) if reading.systematic is None else reading.systematic
    return reading.average, reading.stderr, plan, kappa, status, systematic


@jax.custom_jvp
def _implicit(A: jax.Array, value: jax.Array, residual: jax.Array) -> jax.Array:
    """Return `value`, which moves by the answer to the residual when that does."""
    return value


@_implicit.defjvp
def _implicit_jvp(primals, tangents):
    A, value, _ = primals
    moved = jax.lax.custom_linear_solve(
        lambda x: A @ x,
        tangents[2],
        lambda _, right: jnp.linalg.solve(A, right),
        lambda _, right: jnp.linalg.solve(A.T, right),
    )
    return value, moved
