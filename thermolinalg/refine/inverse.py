"""Inverses to many digits: the Newton-Schulz iteration from a sampled inverse."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg import primitives
from thermolinalg.device import Device, as_program
from thermolinalg.laws import Scalar
from thermolinalg.operators import Dense, Operator, implicit_inverse
from thermolinalg.plan import Plan
from thermolinalg.primitives.checks import check_answer
from thermolinalg.refine.rates import Survey, survey_of, tolerance
from thermolinalg.solution import Solution, Status

LOOKS = 30
"""Lanczos steps that look for the extremes of AC."""

PATIENCE = 25
"""Steps in which the increment has to halve: a start with spectral radius 1 - 1e-6 takes 20 to get going."""


def inv(
    A: Any,
    *,
    key: jax.Array,
    rtol: Scalar | None = None,
    plan: Plan | None = None,
    device: Device | None = None,
    max_steps: int = 50,
) -> Solution:
    r"""Invert to many digits: one noisy inverse from the device, then Newton-Schulz steps.

    .. math:: X_0 = sC, \qquad X_{k+1} = X_k(2I - AX_k), \qquad I - AX_{k+1} = (I - AX_k)^2

    with the scale :math:`s = 2/(\lambda_\min + \lambda_\max)` from the measured extremes of AC.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric, or complex Hermitian, positive definite; of moderate size, as for :func:`thermolinalg.inv`.
    key : PRNG key
        Two calls with one key return the same answer.
    rtol : float, in (0, 1)
        Relative error in the Frobenius norm. By default 1e-10, or ten times the least that the dtype allows if that is
        more.
    plan : Plan, optional
        Times of the run for C. By default the slowest mode relaxes 20 d times, which starts the iteration at a spectral
        radius of about 0.4 or less.
    device : Device, optional
        The ideal overdamped device by default. Not together with a program.
    max_steps : int, >= 1
        Most Newton-Schulz steps.

    Returns
    -------
    Solution
        ``value``, shape (d, d), symmetric; ``stderr``, the estimate below over d, for every entry. ``stats``:

        - ``steps`` and ``products``, of two d x d matrices, two in each step;
        - ``history``, shape (max_steps,): relative increments :math:`\|X_{k+1} - X_k\|_F/\|X_{k+1}\|_F`, NaN after the
          last;
        - ``initial``, the spectral radius of :math:`I - AX_0` by the measured extremes, and ``predicted``,
          :math:`2\sqrt r/(1 + r)` with r = d/N for N effective samples;
        - ``plan``, ``device_time``, ``time_constants``, ``effective_samples``, ``spectrum``;
        - ``direct_time``, the duration in which averaging alone would get to `rtol`.

    Raises
    ------
    ValueError
        As :func:`thermolinalg.inv`, and if `rtol` is below what rounding allows, about (10 + 0.1 kappa) eps / 2. Under
        ``jit`` the latter sets ``Status.LOW_PRECISION``.

    Notes
    -----
    A digital inverse is cheaper: a LAPACK inverse costs about 3 products of matrices, this takes 12 to 22. It is worth
    it only where such a product is the one thing that is fast.

    The error of the new iterate is estimated by the last increment times :math:`\|I - AX_k\|_F`, or by 1 where that
    norm is not below 1, plus a rounding error of :math:`0.05\kappa\,\mathtt{eps}`; the iteration stops when that
    is below `rtol`. The measured extremes come from a few Lanczos steps in the inner product of A, from within; the
    largest is raised by 2 %. An increment that doubles or is not finite, or has not halved in 25 steps, ends the
    iteration with ``Status.STAGNATED``. That is how a C with fewer effective samples than unknowns ends, whose AC is
    singular.

    Derivatives are those of the inverse, :math:`dX = -X\,dA\,X`.

    References
    ----------
    Higham, *Functions of Matrices* (2008), section 7.3; Schulz, *Iterative Berechnung der reziproken Matrix*, ZAMM 13
    (1933).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> A = jnp.array([[3.0, 2.0], [2.0, 4.0]])
    >>> X = inv(A, key=jax.random.key(0), rtol=1e-5)
    >>> bool(jnp.max(jnp.abs(X.value - jnp.array([[0.5, -0.25], [-0.25, 0.375]]))) < 1e-5), int(X.status)
    (True, 0)
    """
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    program = as_program(A, device)
    survey = survey_of(program)
    rtol = tolerance(rtol, survey)
    rough = primitives.inv(program, key=key, plan=_rough(survey, program.operator.dim) if plan is None else plan)
    answer = _inv(program.operator, rough, rough.stats["plan"], rtol, survey.least_rtol(), max_steps)
    return check_answer(answer, "A or the plan")


def _rough(survey: Survey, dim: int) -> Plan:
    """Twenty effective samples of the slowest mode for each unknown."""
    machine, spectrum = survey.machine, survey.spectrum
    slowest = jnp.min(machine.dynamics.relaxation(jnp.stack([spectrum.minimum, spectrum.maximum])))
    return Plan(5 / slowest, 20 * dim / slowest, None, clock=machine.dynamics.clock(spectrum.maximum))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Newton:
    """State of the iteration; `mark` is the increment to be halved, `waited` the steps since the last time."""

    value: jax.Array
    step: jax.Array
    error: jax.Array
    increment: jax.Array
    mark: jax.Array
    waited: jax.Array
    live: jax.Array
    stuck: jax.Array
    history: jax.Array


@partial(jax.jit, static_argnums=5)
def _inv(operator: Operator, rough: Solution, plan: Plan, rtol: Scalar, least: jax.Array, max_steps: int) -> Solution:
    matrix = _matrix(jax.lax.stop_gradient(operator))
    C, spread = jax.lax.stop_gradient((rough.value, rough.stderr))
    d, real = operator.dim, spread.dtype
    tolerance = jnp.asarray(rtol).astype(real)
    low, high = extremes(matrix, C)
    rounding = least.astype(real) - 5 * jnp.finfo(real).eps  # what depends on the condition number

    def body(now: _Newton) -> _Newton:
        left = jnp.eye(d, dtype=matrix.dtype) - matrix @ now.value
        change = now.value @ left
        value = now.value + (change + change.conj().T) / 2
        increment = jnp.linalg.norm(change) / jnp.linalg.norm(value)
        # With that norm below one X is not singular. A singular C settles too, at an inverse on its own range.
        rest = jnp.linalg.norm(left)
        error = jnp.where(rest < 1, increment * rest + rounding, 1.0)
        halved = increment <= now.mark / 2
        waited = jnp.where(halved, 0, now.waited + 1)
        # The first increments of a rough start may grow a little; a divergent one doubles.
        bad = ~jnp.isfinite(increment) | (increment > 2 * now.increment) | (waited >= PATIENCE)
        return _Newton(
            jnp.where(bad, now.value, value),
            now.step + 1,
            jnp.where(bad, now.error, error),
            increment,
            jnp.where(halved, increment, now.mark),
            waited,
            ~bad & (error > tolerance),
            bad,
            now.history.at[now.step].set(increment),
        )

    infinite = jnp.full((), jnp.inf, real)
    begin = _Newton(
        value=C * (2 / (low + high)).astype(C.dtype),
        step=jnp.array(0),
        error=jnp.ones((), real),
        increment=infinite,
        mark=infinite,
        waited=jnp.array(0),
        live=jnp.array(True),
        stuck=jnp.array(False),
        history=jnp.full(max_steps, jnp.nan, real),
    )
    end = jax.lax.while_loop(lambda now: now.live & (now.step < max_steps), body, begin)
    size = jnp.linalg.norm(end.value)
    stderr = jnp.full((d, d), end.error * size / d)
    few = int(Status.FEW_SAMPLES)
    # Few samples are no fault of an answer that has converged in spite of them.
    flags = rough.status & ~few
    flags |= jnp.where(end.stuck, int(Status.STAGNATED) | (rough.status & few), 0)
    flags |= jnp.where(end.live, int(Status.NOT_CONVERGED), 0)
    flags |= jnp.where(tolerance < least, int(Status.LOW_PRECISION), 0)
    flags |= jnp.where(jnp.all(jnp.isfinite(end.value)), 0, int(Status.NOT_FINITE))
    ratio = d / rough.stats["effective_samples"].astype(real)
    direct = jnp.asarray(plan.duration).astype(real) * (jnp.linalg.norm(spread) / (size * tolerance)) ** 2
    stats = {
        "steps": end.step,
        "products": 2 * end.step,
        "history": end.history,
        "initial": (high - low) / (high + low),
        "predicted": 2 * jnp.sqrt(ratio) / (1 + ratio),
        "device_time": jnp.asarray(plan.total),
        "direct_time": direct,
        **{name: rough.stats[name] for name in ("plan", "time_constants", "effective_samples", "spectrum")},
    }
    method = "The inverse is a covariance of the device, made exact by Newton-Schulz steps."
    return Solution(implicit_inverse(operator, end.value), stderr, flags.astype(jnp.int32), stats, method)


def extremes(matrix: jax.Array, C: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Extremes of the spectrum of C times the matrix, from within by Lanczos steps; the upper one raised by 2 %."""
    d = matrix.shape[0]
    steps = min(d, LOOKS)
    real = jnp.finfo(matrix.dtype).dtype
    # Any start that does not favour a mode serves; with a fixed one the answer depends on the operands alone.
    start = jax.random.normal(jax.random.key(0), (d,), matrix.dtype)

    def normalised(v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        image = matrix @ v
        length = jnp.sqrt(jnp.maximum(jnp.vdot(v, image).real, 0.0))
        inverse = jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1.0), 0.0).astype(v.dtype)
        return v * inverse, image * inverse, length

    def step(j, carry):
        basis, images, small = carry
        w = C @ images[j]
        # Twice is enough for orthogonality to rounding.
        first = images.conj() @ w
        w = w - first @ basis
        again = images.conj() @ w
        w = w - again @ basis
        small = small.at[:, j].set(first + again)
        v, image, length = normalised(w)
        tiny = length <= 1e-6 * jnp.linalg.norm(first)
        v, image = jnp.where(tiny, 0.0, v), jnp.where(tiny, 0.0, image)
        return basis.at[j + 1].set(v), images.at[j + 1].set(image), small

    v, image, _ = normalised(start)
    basis = jnp.zeros((steps + 1, d), matrix.dtype)
    begin = basis.at[0].set(v), basis.at[0].set(image), jnp.zeros((steps + 1, steps), matrix.dtype)
    images, small = jax.lax.fori_loop(0, steps, step, begin)[1:]
    seen = jnp.linalg.norm(images[:steps], axis=1) > 0
    # Column j holds what lies on vectors up to j; the rest follows by symmetry.
    upper = jnp.triu(small[:steps])
    projected = upper + jnp.triu(upper, 1).conj().T
    # Rows of an invariant subspace that was found early are filled with a value from within.
    mean = jnp.sum(jnp.where(seen, jnp.diagonal(projected).real, 0.0)) / jnp.sum(seen.astype(real))
    projected = jnp.where(seen[:, None] & seen[None], projected, jnp.diag(jnp.where(seen, 0.0, mean)).astype(C.dtype))
    values = jnp.linalg.eigvalsh(projected).astype(real)
    return jnp.maximum(values[0], 0.0), 1.02 * values[-1]


def _matrix(operator: Operator) -> jax.Array:
    if isinstance(operator, Dense):
        return operator.matrix
    matrix = operator.matmat(jnp.eye(operator.dim, dtype=operator.dtype))
    return (matrix + matrix.conj().T) / 2
