"""Linear systems to the precision of the digital residual, from runs of an analog device."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.device import Device, Program, as_couplings, as_program
from thermolinalg.drifts import General
from thermolinalg.laws import Scalar
from thermolinalg.operators import Operator, as_block
from thermolinalg.plan import Plan, check_plan
from thermolinalg.primitives.checks import check_answer
from thermolinalg.refine.implicit import follow
from thermolinalg.refine.preconditioned import plain_search, reached
from thermolinalg.refine.rates import Survey, check_step, planned, predicted, survey_of, tolerance
from thermolinalg.refine.updates import Iterate, Update, flexible_cg
from thermolinalg.solution import Solution, Status

MARGIN = 1.25
"""How much larger than the device says the error may be: what it says is blurred by its noise."""

PATIENCE = 10
"""Steps in which the residual has to fall by a factor of two."""


def solve(
    A: Any,
    b: ArrayLike,
    *,
    key: jax.Array,
    rtol: Scalar | None = None,
    plan: Plan | None = None,
    device: Device | None = None,
    program: Program | None = None,
    update: Update = flexible_cg,
    max_steps: int = 100,
) -> Solution:
    r"""Solve :math:`Ax = b` to many digits: short noisy runs of a device, corrected by exact digital residuals.

    .. math:: r_k = b - Ax_k, \qquad c_k = \frac{\|r_k\|}{\|b\|}\,
        \mathtt{device}\Bigl(\|b\|\,\frac{r_k}{\|r_k\|}\Bigr) \approx A^{-1}r_k, \qquad
        x_{k+1} = \mathtt{update}(x_k, c_k)

    Every residual is scaled to the full range of the device, so each step gains the same factor. The error falls
    exponentially with the time of the device; that of an average falls as the root.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric, or complex Hermitian, positive definite. What the digital residual is taken with.
    b : array, shape (d,) or (d, k)
        Right-hand sides. Each column is refined on its own, by runs of its own.
    key : PRNG key
        Two calls with one key return the same answer.
    rtol : float, in (0, 1)
        Relative error in the 2-norm, as the device measures it. By default 1e-10, or ten times the least that the dtype
        allows if that is more.
    plan : Plan, optional
        Times of one step; by default ``thermolinalg.refine.plan(A, b)``, which gains a digit in each.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default. Not together with a program.
    program : Program, optional
        What the device really holds, if that is not A to the last digit.
    update : callable
        :func:`flexible_cg`, whose error in the A-norm never grows; :func:`richardson`, which adds each correction as it
        is; or a function of an :class:`Iterate`, a correction and the product with A, to the next iterate.
    max_steps : int, >= 2
        Most runs of the device.

    Returns
    -------
    Solution
        ``value`` in the shape of `b`; ``stderr``, one number for each column, the error as the last run of the device
        shows it. ``stats``, those of columns in the shape () or (k,):

        - ``steps``, runs of the device, and ``matvecs``, digital products with A;
        - ``residuals``, shape (max_steps + 1,) or (max_steps + 1, k): relative residuals that each run was given, NaN
          after the last, which is recomputed from the answer;
        - ``contraction``, the geometric mean of what one update made of the residual, and ``predicted_contraction``,
          that of :func:`contraction` for plain refinement by a device that holds A;
        - ``plan``; ``device_time``, of all steps, in natural units, and ``time_constants`` of the device;
        - ``direct_time``, the time in which one average would get to `rtol` with the same noise, after burn-in:
          :math:`2\|A^{-1}\|_F^2/(\beta\,\mathtt{rtol}^2\|x\|^2)`, times the friction of an underdamped device;
        - ``plain_cg``, products with A that plain conjugate gradients need to come as close to this answer, with no
          device at all; -1 if not reached in 10 d + 100;
        - ``spectrum``.

    Raises
    ------
    ValueError
        If an operand is out of range as for :func:`thermolinalg.solve`, `A` is not symmetric, `max_steps` is less than
        2, or `rtol` is below what rounding allows: about (10 + 0.1 kappa) eps / 2. Under ``jit`` the latter sets
        ``Status.LOW_PRECISION``.

    Notes
    -----
    The last run is the test: its correction is an estimate of the error, :math:`A^{-1}r`, and is not added. It is
    divided by the least mean response of the device, :math:`1 - \max|b_i|`, so that lack of burn-in does not hide an
    error. The residual behind it agrees with that of the answer, which is computed afresh. `rtol` is a test and not a
    bound: noise blurs it by the contraction, for which a quarter is left, and a device that does not hold A by its
    mismatch.

    A column that has not halved its residual in 10 steps stops with ``Status.STAGNATED``, with ``Status.NOT_CONVERGED``
    one that uses up `max_steps`. Flexible conjugate gradients converge with any device that responds to every mode;
    plain refinement only if the spectral radius of :math:`1 - A_\mathrm{dev}^{-1}A` and the contraction are
    below 1.

    A digital conjugate-gradient solve needs no device: ``plain_cg`` beside ``matvecs`` tells what the device saves, and
    ``device_time`` what that costs. Shorter steps take less time of the device and more products, with digital gradient
    descent as the limit.

    The spectrum is needed to plan, to judge `rtol` and for ``direct_time``, also where the simulator does without.

    Derivatives with respect to `A` and `b` are those of the exact answer, :math:`dx = A^{-1}(db - dA\,x)`, by a digital
    factorisation (conjugate gradients to the ``rtol`` of a matrix-free operator). The standard error is constant.

    References
    ----------
    Wilkinson, *Rounding Errors in Algebraic Processes* (1963); Notay, *Flexible conjugate gradients*, SIAM J. Sci.
    Comput. 22 (2000).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> A, b = jnp.array([[3.0, 2.0], [2.0, 4.0]]), jnp.array([1.0, 2.0])
    >>> x = solve(A, b, key=jax.random.key(0), rtol=1e-5)
    >>> bool(jnp.max(jnp.abs(x.value - jnp.array([0.0, 0.5]))) < 1e-5), int(x.status)
    (True, 0)
    """
    if isinstance(A, General) or isinstance(getattr(program, "operator", None), General):
        raise ValueError(
            "refinement needs a symmetric positive definite A, not a General matrix: solve its normal equations A* A x "
            "= A* b, or add up corrections of thermolinalg.solve(General(A), residual) yourself"
        )
    if max_steps < 2:
        raise ValueError(f"max_steps must be at least 2, one run to correct and one to test; got {max_steps}")
    if program is not None and device is not None and device is not program.device:
        raise ValueError("the program brings its own device; leave out the argument device")
    if program is None:
        program = as_program(A, device)
        operator = program.operator
    else:
        operator = as_couplings(A)
        if program.operator.dim != operator.dim or program.operator.dtype != operator.dtype:
            raise ValueError(
                f"the program must match A, of {operator.dim} unknowns in {operator.dtype}; it holds "
                f"{program.operator.dim} in {program.operator.dtype}"
            )
    force = as_block(b, operator, "b")
    program = program if plan is None else program.side_by_side(plan.replicas)
    survey = survey_of(program)
    rtol = tolerance(rtol, survey)
    if plan is None:
        plan = check_step(planned(survey, jnp.linalg.norm(jax.lax.stop_gradient(force), axis=0), 0.1))
    answer = _solve(operator, program, survey, force, key, rtol, check_plan(plan), jnp.shape(b), update, max_steps)
    return check_answer(answer, "A, b or the plan")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Course:
    """State of a refinement; all but the iterate, the step and `read` have an entry for each column."""

    iterate: Iterate
    step: jax.Array
    read: jax.Array
    live: jax.Array
    flags: jax.Array
    steps: jax.Array
    updates: jax.Array
    confirmed: jax.Array
    error: jax.Array
    mark: jax.Array
    waited: jax.Array
    history: jax.Array


def _course(
    operator: Operator,
    program: Program,
    plan: Plan,
    force: jax.Array,
    key: jax.Array,
    rtol: jax.Array,
    response: jax.Array,
    update: Update,
    max_steps: int,
) -> _Course:
    """Refine until every column is done, stuck or out of steps."""
    length = jnp.linalg.norm(force, axis=0)
    divisor = jnp.where(length > 0, length, 1.0)
    k, real = force.shape[1], length.dtype
    failed = int(Status.STAGNATED)

    def body(course: _Course) -> _Course:
        now, live = course.iterate, course.live
        size = jnp.linalg.norm(now.residual, axis=0)
        scale = jnp.where(size > 0, size, 1.0) / divisor
        # A residual of zero is left to the test, which it passes.
        push = jnp.where(live[None], now.residual / scale[None].astype(force.dtype), 0.0)
        reading = program.run(push, jax.random.fold_in(key, course.step), plan.schedule)
        correction = reading.average * jnp.where(size > 0, scale, 0.0)[None].astype(force.dtype)
        error = jnp.linalg.norm(correction, axis=0) / response
        finite = jnp.isfinite(error)
        near = finite & (MARGIN * error <= rtol * jnp.linalg.norm(now.value, axis=0))
        done, confirm = live & near & now.exact, live & near & ~now.exact
        waited = jnp.where(size <= course.mark / 2, 0, course.waited + 1)
        stuck = live & ~done & (waited >= PATIENCE)
        broken = live & ~finite
        out = live & ~done & ~stuck & ~broken & (course.step >= max_steps - 1)
        on = live & ~done & ~stuck & ~broken & ~out
        moved = on & ~confirm
        after = jax.lax.cond(
            jnp.any(moved), lambda now, c: update(now, c, operator.matmat), lambda now, _: now, now, correction
        )
        sound = jnp.isfinite(jnp.linalg.norm(after.residual, axis=0)) & jnp.all(jnp.isfinite(after.value), axis=0)
        burst = moved & ~sound
        iterate = _where(moved & sound, after, now)
        true = jax.lax.cond(
            jnp.any(on & confirm), lambda x: force - operator.matmat(x), lambda x: iterate.residual, iterate.value
        )
        iterate = replace(
            iterate,
            residual=jnp.where((on & confirm)[None], true, iterate.residual),
            exact=iterate.exact | (on & confirm),
        )
        # An updated residual that is right after all needs no further run: what it was given told the error.
        drift = jnp.linalg.norm(true - now.residual, axis=0)
        confirmed = on & confirm & (drift <= 0.1 * size)
        flags = course.flags | jnp.where(out, int(Status.NOT_CONVERGED), 0) | jnp.where(stuck | burst, failed, 0)
        flags |= jnp.where(broken, jnp.where(course.step == 0, int(Status.NOT_FINITE), failed), 0)
        return _Course(
            iterate,
            course.step + 1,
            course.read & reading.converged,
            on & ~burst & ~confirmed,
            flags,
            course.steps + live.astype(jnp.int32),
            course.updates + (moved & sound).astype(jnp.int32),
            course.confirmed + (on & confirm).astype(jnp.int32),
            jnp.where(live, error, course.error),
            jnp.where(size <= course.mark / 2, size, course.mark),
            jnp.where(live, waited, course.waited),
            course.history.at[course.step].set(jnp.where(live, size / divisor, jnp.nan)),
        )

    count = jnp.zeros(k, jnp.int32)
    begin = _Course(
        iterate=Iterate.start(force),
        step=jnp.array(0),
        read=jnp.array(True),
        live=length > 0,
        flags=count,
        steps=count,
        updates=count,
        confirmed=count,
        error=jnp.zeros(k, real),
        mark=jnp.full(k, jnp.inf, real),
        waited=count,
        history=jnp.full((max_steps + 1, k), jnp.nan, real),
    )
    return jax.lax.while_loop(lambda course: jnp.any(course.live), body, begin)


def _where(columns: jax.Array, new: Iterate, old: Iterate) -> Iterate:
    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(columns if a.ndim == 1 else columns[None], a, b)

    return jax.tree.map(choose, new, old)


@partial(jax.jit, static_argnums=(7, 8, 9))
def _solve(
    operator: Operator,
    program: Program,
    survey: Survey,
    force: jax.Array,
    key: jax.Array,
    rtol: Scalar,
    plan: Plan,
    shape: tuple[int, ...],
    update: Update,
    max_steps: int,
) -> Solution:
    plain, push = jax.lax.stop_gradient((operator, force))
    fixed, plan, rtol = jax.lax.stop_gradient((program, plan, rtol))
    length = jnp.linalg.norm(push, axis=0)
    tolerance = jnp.asarray(rtol).astype(length.dtype)
    products = _products(plain, push, update)
    response = jnp.maximum(1 - survey.left(plan.schedule), jnp.finfo(length.dtype).eps)
    course = _course(plain, fixed, plan, push, key, tolerance, response, update, max_steps)
    x = course.iterate.value
    # The residual of the answer itself: for the record, and for derivatives to flow through.
    residual = force - operator.matmat(x)
    value = follow(operator, x, residual)
    last = jnp.linalg.norm(jax.lax.stop_gradient(residual), axis=0) / jnp.where(length > 0, length, 1.0)
    end = jnp.maximum(course.steps - 1, 0)
    history = course.history.at[end, jnp.arange(end.size)].set(last)
    mean = jnp.where(last > 0, last, jnp.finfo(last.dtype).tiny) ** (
        1 / jnp.maximum(course.updates, 1).astype(last.dtype)
    )
    machine, size = survey.machine, jnp.linalg.norm(x, axis=0)
    noise = jnp.asarray(machine.dynamics.noise(machine.beta)).astype(length.dtype)
    scatter = jnp.sqrt(jnp.sum(survey.counts / survey.nodes / survey.nodes))
    direct = noise * (scatter / (tolerance * jnp.where(size > 0, size, jnp.inf))) ** 2
    time = course.steps.astype(length.dtype) * jnp.asarray(plan.total).astype(length.dtype)
    flags = fixed.status | jnp.bitwise_or.reduce(course.flags)
    flags |= jnp.where(jnp.any(tolerance < survey.least_rtol()), int(Status.LOW_PRECISION), 0)
    flags |= jnp.where(course.read, 0, int(Status.NOT_CONVERGED))
    flags |= jnp.where(jnp.all(jnp.isfinite(x)), 0, int(Status.NOT_FINITE))
    columns = shape[1:]
    each = {
        "steps": course.steps,
        "matvecs": course.updates * products + course.confirmed + (~course.iterate.exact).astype(jnp.int32),
        "contraction": jnp.where(course.updates > 0, mean, jnp.nan),
        "predicted_contraction": predicted(survey, plan.schedule, length),
        "device_time": time,
        "time_constants": jnp.asarray(plan.clock).astype(length.dtype) * time,
        "direct_time": direct,
        "plain_cg": reached(plain_search(plain, push, x, tolerance, 10 * operator.dim + 100)),
    }
    stats = {name: entry.reshape(columns) for name, entry in each.items()}
    stats |= {"residuals": history.reshape(-1, *columns), "plan": plan, "spectrum": survey.spectrum}
    stderr = jnp.broadcast_to((course.error / operator.dim**0.5)[None], push.shape)
    method = "The solution is refined: short runs of the device propose corrections to exact digital residuals."
    return Solution(value.reshape(shape), stderr.reshape(shape), flags.astype(jnp.int32), stats, method)


def _products(operator: Operator, force: jax.Array, update: Update) -> int:
    """Products with A that one update takes, counted while it is traced."""
    count = 0

    def product(block: jax.Array) -> jax.Array:
        nonlocal count
        count += 1
        return operator.matmat(block)

    jax.eval_shape(lambda block: update(Iterate.start(block), block, product), force)
    return count
