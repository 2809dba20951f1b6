"""Linear systems, from the time average of a relaxing process."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg import plan as planning
from thermolinalg.device import Device, Program, as_program, as_start
from thermolinalg.drifts import General
from thermolinalg.laws import Scalar
from thermolinalg.operators import as_block, implicit_solve
from thermolinalg.plan import Plan, check_plan
from thermolinalg.primitives.checks import check_answer, check_choice, check_follows, imprecision
from thermolinalg.primitives.general import solve_general
from thermolinalg.primitives.methods import process
from thermolinalg.simulators import Schedule, State
from thermolinalg.solution import Solution, Status


def solve(
    A: Any,
    b: ArrayLike,
    *,
    key: jax.Array,
    rtol: Scalar | None = None,
    confidence: Scalar = 0.95,
    plan: Plan | None = None,
    device: Device | None = None,
    x0: ArrayLike | State | None = None,
) -> Solution:
    r"""Estimate the solution of :math:`Ax = b` by the time average of a relaxing process.

    The device runs

    .. math:: dx = -(Ax - b)\,dt + \sqrt{2/\beta}\,dW,

    whose stationary mean is :math:`A^{-1}b`, for a burn-in, and averages the state over a duration.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator, Program or General
        Symmetric, or complex Hermitian, positive definite. A program (``device.program(A)``) is factored once for many
        calls. Wrap a matrix that is not symmetric: ``General(A)`` runs on the device as it is if it is stable (every
        eigenvalue has a positive real part), and through the normal equations :math:`A^*Ax = A^*b` if it is not, with
        the condition number squared.
    b : array, shape (d,) or (d, k)
        Right-hand sides. Each column is a run of its own, with independent noise.
    key : PRNG key
        Two calls with one key return the same estimate.
    rtol : float, in (0, 1), default 1e-2
        Relative error in the 2-norm to plan for. Not together with `plan`.
    confidence : float, in (0, 1)
        Fraction of runs that keep to `rtol`.
    plan : Plan, optional
        Times of the run, from ``thermolinalg.plan.solve`` or by hand.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default. Not together with a program.
    x0 : array or State, optional
        Where the run starts. ``stats["state"]`` of an earlier solution continues that run.

    Returns
    -------
    Solution
        ``value`` and ``stderr`` in the shape of `b`; ``status``; ``stats`` with ``plan``, ``state`` (at the end;
        None with replicas), ``noise`` (variance of the residual of a long average, for
        :func:`thermolinalg.certify`), ``time_constants`` of the device, ``spectrum`` where it is known, and
        ``systematic``, the part of the error that converters and chip make, if there are any. For a general matrix
        ``kappa``, the condition number of the system that was run, and ``normal_equations`` take its place.

    Raises
    ------
    ValueError
        If `A` is not square, finite, symmetric and positive definite to working precision, `b` or `x0` does not match
        it or is not finite, or a tolerance or plan is out of range. Under ``jit`` values cannot be looked at: the
        same faults set ``status``.

    Notes
    -----
    The value is Gaussian with a law known in closed form, from which it is drawn: at the cost of one ``eigh`` for a
    dense operator, once, and of two matrix-vector products for each further right-hand side. The time needed grows as
    :math:`\kappa^2 d/(\beta\|b\|^2\epsilon^2)` at worst, and noise never helps: the noiseless flow :math:`\dot x = b
    - Ax` has no error but the transient, and a digital Cholesky or conjugate-gradient solve is exact to rounding at
    the same cost as this simulation.

    ``stderr`` is the root mean square error over keys, transient included. It is one number for all entries where only
    traces are known (matrix-free operators). A right-hand side of zero is answered by zero without a run when planned.

    Derivatives with respect to `A` and `b` are those of the implicit function, :math:`dx = f(A)(db - dA\,x)`, with
    :math:`f(A) \to A^{-1}` the mean response of the device in the same time; they carry no noise of their own. The
    standard error is treated as constant.

    References
    ----------
    Aifer et al., *Thermodynamic linear algebra*, arXiv:2308.05660.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> A, b = jnp.array([[3.0, 2.0], [2.0, 4.0]]), jnp.array([1.0, 2.0])
    >>> x = solve(A, b, key=jax.random.key(0), rtol=0.05)
    >>> exact = jnp.array([0.0, 0.5])
    >>> bool(jnp.all(jnp.abs(x.value - exact) < 4 * x.stderr))
    True
    """
    check_choice(plan, rtol)
    if isinstance(A, General):
        return solve_general(A, b, key=key, rtol=rtol, confidence=confidence, plan=plan, device=device, x0=x0)
    program = as_program(A, device, key)
    check_follows(program.machine.dynamics, "solve")
    force = as_block(b, program.operator, "b")
    start = as_start(x0, program.operator, force)
    if plan is None:
        if start is not None:
            live = jnp.any(force != 0, axis=0, keepdims=True)
            start = jax.tree.map(lambda x: jnp.where(live, x, 0), start)
        plan = planning.solve(program, force, rtol=1e-2 if rtol is None else rtol, confidence=confidence, x0=start)
    return check_answer(_solve(program, force, key, check_plan(plan), start, jnp.shape(b)), "A, b or the plan")


@partial(jax.jit, static_argnums=5)
def _solve(
    program: Program, force: jax.Array, key: jax.Array, plan: Plan, start: State | None, shape: tuple[int, ...]
) -> Solution:
    fixed, push, begin = jax.lax.stop_gradient((program, force, start))
    schedule = jax.lax.stop_gradient(plan.schedule)
    several = fixed.side_by_side(plan.replicas)
    reading = several.run(push, key, schedule, begin)
    residual = force - program.operator.matmat(reading.average)
    value = _implicit(fixed, schedule, reading.average, residual)
    finite = jnp.all(jnp.isfinite(value)) & jnp.all(jnp.isfinite(reading.stderr))
    fault = jnp.where(reading.converged, int(Status.NOT_FINITE), int(Status.NOT_CONVERGED))
    flags = fixed.status | reading.flags | jnp.where(reading.converged & finite, 0, fault).astype(jnp.int32)
    flags |= imprecision(fixed.device, reading.systematic, reading.average, plan)
    duration = jnp.asarray(schedule.duration)
    stats = {
        "plan": plan,
        "state": None if plan.replicas > 1 else jax.tree.map(lambda block: block.reshape(shape), reading.state),
        "noise": fixed.machine.dynamics.noise(several.machine.beta) / jnp.where(duration > 0, duration, jnp.inf),
        "time_constants": plan.time_constants,
        "spectrum": fixed.spectrum,
    }
    if reading.systematic is not None:
        stats["systematic"] = reading.systematic.reshape(shape)
    method = f"The solution is the time average of {process(fixed.device)}."
    return Solution(value.reshape(shape), reading.stderr.reshape(shape), flags, stats, method)


@jax.custom_jvp
def _implicit(program: Program, schedule: Schedule, value: jax.Array, residual: jax.Array) -> jax.Array:
    """Return `value`, which moves by the mean response of the device to the residual when that does."""
    return value


@_implicit.defjvp
def _implicit_jvp(primals, tangents):
    program, schedule, value, _ = primals
    operator = program.machine.operator
    return value, implicit_solve(operator, tangents[3], lambda force: program.respond(force, schedule))
