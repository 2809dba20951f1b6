"""Inverses, from the covariance of a relaxing process."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg import plan as planning
from thermolinalg.device import Device, Program, as_program
from thermolinalg.laws import Scalar
from thermolinalg.operators import DENSE_LIMIT, Dense, Modal, Operator, implicit_inverse, is_concrete
from thermolinalg.plan import Plan, check_plan
from thermolinalg.primitives.checks import check_answer, check_choice, imprecision
from thermolinalg.primitives.methods import process
from thermolinalg.primitives.overlap import Overlap
from thermolinalg.simulators import Reading, Schedule
from thermolinalg.solution import Solution, Status


def inv(
    A: Any,
    *,
    key: jax.Array,
    rtol: Scalar | None = None,
    confidence: Scalar = 0.95,
    plan: Plan | None = None,
    device: Device | None = None,
) -> Solution:
    r"""Estimate :math:`A^{-1}` by the covariance of a relaxing process.

    The device runs, without a force and from rest,

    .. math:: dx = -Ax\,dt + \sqrt{2/\beta}\,dW,

    whose stationary covariance is :math:`A^{-1}/\beta`, and averages :math:`\beta x x^\top` over a duration. The mean
    is known to be zero and is never subtracted.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric, or complex Hermitian, positive definite.
    key : PRNG key
        Two calls with one key return the same estimate.
    rtol : float, in (0, 1), default 5e-2
        Relative error in the Frobenius norm to plan for. Not together with `plan`.
    confidence : float, in (0, 1)
        Fraction of runs that keep to `rtol`.
    plan : Plan, optional
        Times of the run, from ``thermolinalg.plan.inv`` or by hand. With ``samples`` the covariance of that many
        equally spaced samples is read, else a continuous average.
    device : Device, optional
        The ideal overdamped device by default. Not together with a program.

    Returns
    -------
    Solution
        ``value`` and ``stderr``, shape (d, d); ``status``; ``stats`` with ``plan``, ``time_constants``, ``spectrum``,
        ``effective_samples``: independent samples that would be as good for the average entry, ``overlap``, what
        :func:`thermolinalg.certify_inv` needs to know of them, and ``systematic``, the part of the error that
        converters and chip make, if there are any.

    Raises
    ------
    ValueError
        If `A` is not square, finite, symmetric and positive definite to working precision, has no matrix of moderate
        size, or a tolerance or plan is out of range. Under ``jit`` the same faults set ``status``. Fewer effective
        samples than unknowns set ``Status.FEW_SAMPLES``.

    Notes
    -----
    The estimate is symmetric and positive semi-definite. Neither temperature nor scale matters for its relative error,
    which is :math:`\sqrt{(\operatorname{tr}A^{-1})^2 + \|A^{-1}\|_F^2}/(\sqrt N \|A^{-1}\|_F)` for N independent
    samples, and :math:`\sqrt{d/N}` in the spectral norm after whitening.

    How it is drawn: samples so far apart that they are independent, as a Wishart matrix at a cost independent of N;
    correlated ones frequency by frequency, a law whose mean is exact and whose mean square error is right within 2 %,
    if the slowest mode has 20 effective samples; otherwise, and always with ``Trajectory``, by walking in exact
    steps. ``Law(long_time=True)`` takes ``plan.samples`` as independent and needs one Cholesky factorisation in place
    of an ``eigh``. A digital inverse costs as much as any of these and is exact to rounding.

    ``stderr`` is the root mean square error of each entry in closed form. Its variance is that of a stationary start,
    an upper bound that is tight once the run is longer than the slowest relaxation.

    Derivatives are those of the implicit function, :math:`dC = -C\,dA\,C`, without noise of their own.

    References
    ----------
    Aifer et al., *Thermodynamic linear algebra*, arXiv:2308.05660.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> A = jnp.array([[3.0, 2.0], [2.0, 4.0]])
    >>> C = inv(A, key=jax.random.key(0), rtol=0.1)
    >>> exact = jnp.array([[0.5, -0.25], [-0.25, 0.375]])
    >>> bool(jnp.all(jnp.abs(C.value - exact) < 5 * C.stderr))
    True
    """
    check_choice(plan, rtol)
    program = _with_modes(as_program(A, device, key), key)
    if plan is None:
        plan = planning.inv(program, rtol=5e-2 if rtol is None else rtol, confidence=confidence)
    check_plan(plan)
    route = None
    if is_concrete(program.machine, plan.schedule):
        with jax.ensure_compile_time_eval():
            route = int(program.device.simulator.route(program.machine, plan.schedule))
    return check_answer(_inv(program, key, plan, route), "A or the plan")


def _with_modes(program: Program, key: jax.Array) -> Program:
    """The program with a dense operator in place of one that has no basis of eigenvectors."""
    operator = program.operator
    if isinstance(operator, Modal):
        return program
    if operator.dim > DENSE_LIMIT:
        raise ValueError(
            f"the inverse of {operator.dim} unknowns would be a dense matrix; solve for the columns that are needed, "
            f"or pass A as a dense array (at most {DENSE_LIMIT} unknowns are made dense here)"
        )
    return program.device.program(_dense(operator), key=key)


def _dense(operator: Operator) -> Dense:
    matrix = operator.matmat(jnp.eye(operator.dim, dtype=operator.dtype))
    return Dense((matrix + matrix.conj().T) / 2)


@partial(jax.jit, static_argnums=3)
def _inv(program: Program, key: jax.Array, plan: Plan, route: int | None) -> Solution:
    fixed, schedule = jax.lax.stop_gradient((program, plan.schedule))
    machine = fixed.machine
    reading = _average(fixed, key, schedule, route)
    value = implicit_inverse(program.operator, reading.average)
    finite = jnp.all(jnp.isfinite(value)) & jnp.all(jnp.isfinite(reading.stderr))
    operator = machine.operator
    if fixed.spectrum is None:
        samples = schedule.replicas * jnp.asarray(schedule.samples).astype(reading.stderr.dtype)
        overlap = Overlap.independent(samples, operator.dim)
    else:
        assert isinstance(operator, Modal)
        overlap = Overlap.of(machine, operator.rates, schedule)
    effective = operator.dim**2 / overlap.total
    flags = fixed.status | reading.flags | jnp.where(finite, 0, int(Status.NOT_FINITE)).astype(jnp.int32)
    if reading.systematic is not None:
        whole = reading.systematic.reshape(-1, 1), value.reshape(-1, 1)
        flags |= imprecision(fixed.device, *whole, plan)
    # The mean of ratios that are all one is one up to rounding.
    few = effective / value.shape[0] < 1 - 1e-3
    flags |= jnp.where(few, int(Status.FEW_SAMPLES), 0).astype(jnp.int32)
    stats = {
        "plan": plan,
        "effective_samples": effective,
        "overlap": overlap,
        "time_constants": plan.time_constants,
        "spectrum": fixed.spectrum,
    }
    if reading.systematic is not None:
        stats["systematic"] = reading.systematic
    method = f"The inverse is the covariance of {process(fixed.device)}."
    return Solution(value, reading.stderr, flags, stats, method)


def _average(program: Program, key: jax.Array, schedule: Schedule, route: int | None) -> Reading:
    """Readings of all replicas, averaged."""
    if schedule.replicas == 1:
        return program.covariance(key, schedule, route)
    keys = jax.random.split(key, schedule.replicas)
    first = program.covariance(keys[0], schedule, route)

    def add(total, key):
        return total + program.covariance(key, schedule, route).average, None

    total, _ = jax.lax.scan(add, first.average, keys[1:])
    return replace(first, average=total / schedule.replicas)
