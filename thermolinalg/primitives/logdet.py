"""Log determinants, from the free energy that couples the oscillators."""

from dataclasses import replace
from functools import partial
from math import log
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.covariances import FORGOTTEN
from thermolinalg.device import Device, Program, as_program
from thermolinalg.dynamics import Dynamics
from thermolinalg.free_energy import Estimator, Modes, ThermodynamicIntegration
from thermolinalg.integrator import Integrator
from thermolinalg.laws import Scalar
from thermolinalg.operators import (
    Dense,
    Diagonal,
    Kronecker,
    LowRank,
    MatrixFree,
    Modal,
    Operator,
    implicit_solve,
)
from thermolinalg.primitives.checks import check_answer
from thermolinalg.ranges import check_positive, check_whole
from thermolinalg.simulators import Machine, Schedule
from thermolinalg.solution import Solution, Status
from thermolinalg.spectrum import Spectrum


def logdet(
    A: Any,
    *,
    key: jax.Array,
    samples: int = 20_000,
    estimator: Estimator | None = None,
    reference: Scalar | None = None,
    device: Device | None = None,
) -> Solution:
    r"""Estimate the log determinant of `A` by the free energy that couples the oscillators.

    The device samples the stationary law of :math:`H(s) = aI + s(A - aI)` at some s, from which

    .. math:: \ln\det A = d\ln a + \beta\int_0^1 \langle x^\top (A - aI) x\rangle_s\,ds

    is estimated; for complex unknowns, with two real degrees of freedom each, the integral is halved.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric, or complex Hermitian, positive definite.
    key : PRNG key
        Two calls with one key return the same estimate.
    samples : int, >= 1
        Samples in all, split evenly over the nodes of the path, or over both ends of each of its stages.
    estimator : Estimator, optional
        :class:`ThermodynamicIntegration` by default; or :class:`BennettRatio`, :class:`Jarzynski`, or your own.
    reference : float, > 0, optional
        The stiffness a of the uncoupled start; by default :math:`\sqrt{\lambda_\min\lambda_\max}`.
    device : Device, optional
        The ideal overdamped device by default. Not together with a program. The temperature drops out.

    Returns
    -------
    Solution
        ``value`` and ``stderr``, real, shape (); ``status``; ``stats`` with the ``reference``, the ``positions`` on the
        path, the ``samples`` taken at each (0: not used) and the ``spacing`` in time between them, the number of
        ``nodes``, the ``device_time`` in all, and what the standard error is made of: ``thermal``, ``bias`` of the
        estimator as predicted (of the quadrature, for thermodynamic integration) and ``survey``.

    Raises
    ------
    ValueError
        If `A` is not square, finite, symmetric and positive definite to working precision, `samples` is not a whole
        number or too small for the estimator, `reference` is not positive, or the estimator has infinite variance with
        it. Under ``jit`` values cannot be looked at: faults in them set ``status``.

    Notes
    -----
    Samples are taken as independent: between two the device has to relax for ``spacing``, :math:`\ln(10^3)/(2\mu)` with
    :math:`\mu` the relaxation rate of the slowest mode of H(s), after which the squares of an overdamped device have a
    correlation of :math:`10^{-3}`. Times are in the units of the equation of motion. The changes of s, each of which
    needs a burn-in, and correlations left over are not counted.

    ``stderr`` is the root mean square error: thermal noise, predicted bias, and the survey. The error grows as
    :math:`\sqrt{d/\mathtt{samples}}`; a digital Cholesky factorisation gives the exact answer for less than this
    simulation costs.

    A matrix-free operator is known by its survey alone, stochastic Lanczos quadrature with few probes. The error of
    that is the same for every key, and does not fall with `samples`: ``survey`` bounds its standard deviation over the
    random probes by that of the worst eigenvectors, :math:`(2/p)(\operatorname{tr}F^2 - (\operatorname{tr}F)^2/d)` in
    the square for p probes and :math:`F = \ln A`. Often it is the largest part; raise ``probes`` of the operator. It
    is an artefact of the simulation, not of a device.

    Couplings that the device realises otherwise than they were given add what they shift to ``stderr``, as
    ``systematic``. Energies are those of states before the read-out: converters and amplifiers make no error here.

    Derivatives with respect to `A` are the exact :math:`\operatorname{tr}(A^{-1}dA)`, without noise, except for
    matrix-free operators beyond the size of their survey, where the trace is estimated with ``probes`` random signs.
    A dense `A` is symmetric, and so is its gradient. The standard error is treated as constant.

    References
    ----------
    Aifer et al., *Thermodynamic linear algebra*, arXiv:2308.05660.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> A = jnp.array([[3.0, 1.0], [1.0, 2.0]])
    >>> f = logdet(A, key=jax.random.key(0))
    >>> bool(abs(f.value - jnp.log(5.0)) < 4 * f.stderr)
    True
    >>> slope = jax.grad(lambda A: logdet(A, key=jax.random.key(0)).value)(A)
    >>> bool(jnp.allclose(slope, jnp.linalg.inv(A), atol=1e-5))
    True
    """
    check_whole("samples", samples, 1)
    check_positive(reference=reference)
    estimator = ThermodynamicIntegration() if estimator is None else estimator
    program = as_program(A, device, key)
    operator = program.machine.operator.factor()
    lower, low, high, upper = operator.extremes()
    start = jnp.asarray(jnp.sqrt(low) * jnp.sqrt(high) if reference is None else reference, low.dtype)
    # What was not positive definite under jit has a status, and would fail here only by the way.
    estimator.check(low, high, start, int(samples))
    dynamics = program.machine.dynamics.resolve(Spectrum(low, high, lower, upper))
    operands = operator, program.operator, dynamics, start, program.status, key
    simulator = program.device.simulator if isinstance(program.device.simulator, Integrator) else None
    if simulator is not None and not (isinstance(estimator, ThermodynamicIntegration) and isinstance(operator, Dense)):
        raise ValueError("an Integrator couples a dense matrix step by step along a path: use ThermodynamicIntegration")
    answer = _logdet(*operands, simulator, program.machine.beta, estimator, int(samples))
    if not program.device.faithful:
        answer = _shifted(answer, operator, program)
    return check_answer(answer, "A or the reference")


@jax.jit
def _shifted(answer: Solution, operator: Operator, program: Program) -> Solution:
    """The answer with what it is off because the device has other couplings."""
    systematic = jnp.abs(_digital(operator) - _digital(jax.lax.stop_gradient(program.operator).factor()))
    stats = answer.stats | {"systematic": systematic}
    status = answer.status | (int(Status.IMPRECISE) if program.device.maimed else 0)
    return replace(answer, stderr=jnp.hypot(answer.stderr, systematic), stats=stats, status=status)


def _digital(operator: Operator) -> jax.Array:
    rates, counts, _ = operator.measure(jnp.zeros((operator.dim, 1), operator.dtype))
    return jnp.sum(counts * jnp.log(rates)) / operator.components


@partial(jax.jit, static_argnums=9)
def _logdet(
    operator: Operator,
    couplings: Operator,
    dynamics: Dynamics,
    reference: jax.Array,
    flags: jax.Array,
    key: jax.Array,
    simulator: Integrator | None,
    beta: Scalar,
    estimator: Estimator,
    samples: int,
) -> Solution:
    fixed, a = jax.lax.stop_gradient((operator, reference))
    d, components = operator.dim, operator.components
    rates, counts, _ = fixed.measure(jnp.zeros((d, 1), operator.dtype))
    _, low, high, _ = fixed.extremes()
    whole = components if isinstance(operator, Modal) else None
    modes = Modes((rates - a) / a, counts, (low - a) / a, (high - a) / a, whole)
    draw, signs = jax.random.split(key)
    estimate = jax.lax.stop_gradient(estimator(modes, draw, samples))
    if simulator is not None:
        assert isinstance(estimator, ThermodynamicIntegration)
        assert isinstance(fixed, Dense)
        path = estimator.rule(modes, samples)
        difference = _integrated(fixed, a, dynamics, beta, path, draw, simulator)
        estimate = replace(estimate, difference=jax.lax.stop_gradient(difference))
    value = d * jnp.log(a) + estimate.difference / components
    thermal, bias = jnp.sqrt(estimate.variance) / components, estimate.bias / components
    survey = _survey_error(fixed, modes)
    slowest = dynamics.relaxation(a * (1 + estimate.positions * jnp.minimum(modes.low, modes.high)))
    spacing = jnp.where(estimate.samples > 0, log(1 / FORGOTTEN) / (2 * slowest), 0)
    stats = {
        "reference": a,
        "positions": estimate.positions,
        "samples": estimate.samples,
        "nodes": jnp.sum(estimate.samples > 0),
        "spacing": spacing,
        "device_time": jnp.sum(estimate.samples.astype(spacing.dtype) * spacing),
        "thermal": thermal,
        "bias": bias,
        "survey": survey,
    }
    stderr = jnp.sqrt(thermal**2 + bias**2 + survey**2)
    known = (flags & int(Status.NOT_POSITIVE_DEFINITE)) != 0
    status = flags | estimate.status | jnp.where(known | jnp.isfinite(value), 0, int(Status.NOT_FINITE))
    fault = jnp.where(a > 0, 0, int(Status.NOT_FINITE))
    value = jnp.where(known, jnp.nan, _implicit(fixed, couplings, signs, value))
    name = type(estimator).__name__
    method = (
        f"The log determinant is a free-energy difference, estimated by {name} from energies drawn from their laws."
    )
    return Solution(value, stderr, (status | fault).astype(jnp.int32), stats, method)


def _integrated(
    operator: Dense,
    reference: jax.Array,
    dynamics: Dynamics,
    beta: Scalar,
    path: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    key: jax.Array,
    simulator: Integrator,
) -> jax.Array:
    r"""The integral of :math:`\beta\operatorname{tr}(A - aI)\langle xx^\top\rangle_s` along the path, integrated."""
    count, positions, weights, shares = path
    a, eye = reference, jnp.eye(operator.dim, dtype=operator.dtype)

    def node(k, total):
        rates = a + positions[k] * (operator.rates - a)
        matrix = a * eye + positions[k] * (operator.matrix - a * eye)
        held = Dense(matrix, rates, operator.basis)
        slowest = jnp.min(dynamics.relaxation(rates))
        apart = log(1 / FORGOTTEN) / (2 * slowest)
        samples = shares[k].astype(rates.dtype)
        schedule = Schedule(2 * apart, samples * apart, samples)
        machine = Machine(held, dynamics, beta)
        reading = simulator.covariance(machine, jax.random.fold_in(key, k), schedule, None)
        return total + weights[k] * jnp.sum((operator.matrix - a * eye) * reading.average)

    return jax.lax.fori_loop(0, count, node, jnp.zeros_like(a))


def _survey_error(operator: Operator, modes: Modes) -> jax.Array:
    """Bound on the standard deviation of the trace of the logarithm over the probes of a survey."""
    if not isinstance(operator, MatrixFree) or operator.dim <= operator.survey_steps:
        return jnp.zeros_like(modes.low)
    weights = modes.counts / operator.components
    mean = jnp.sum(weights * modes.logarithms) / operator.dim
    return jnp.sqrt(2 / operator.probes * jnp.sum(weights * (modes.logarithms - mean) ** 2))


@jax.custom_jvp
def _implicit(operator: Operator, couplings: Operator, key: jax.Array, value: jax.Array) -> jax.Array:
    """Return `value`, which moves by the trace of the inverse times the change of the couplings."""
    return value


@_implicit.defjvp
def _implicit_jvp(primals, tangents):
    operator, couplings, key, value = primals
    return value, _trace(operator, couplings, tangents[1], key).astype(value.dtype)


def _trace(operator: Operator, couplings: Operator, moved: Any, key: jax.Array) -> jax.Array:
    r""":math:`\operatorname{tr}(A^{-1}dA)`; linear in what the couplings move by."""
    if isinstance(operator, Kronecker) and isinstance(couplings, Kronecker):
        parts = zip(operator.factors, couplings.factors, moved.factors, strict=True)
        traces = [_trace(*part, key) * (operator.dim / part[0].dim) for part in parts]
        return jnp.sum(jnp.stack(traces))
    if isinstance(couplings, LowRank):
        # V changes on both sides, by one solve of its width; the shift needs the trace of the inverse only.
        inverse = implicit_solve(couplings, couplings.columns, operator.solve)
        rates, counts, _ = operator.measure(jnp.zeros_like(couplings.columns[:, :1]))
        shift = jnp.sum(counts / rates) / operator.components * moved.shift
        return shift + 2 * jnp.sum((inverse.conj() * moved.columns).real)
    d, dtype = operator.dim, operator.dtype
    if isinstance(couplings, Diagonal):
        probes, count = jnp.ones((d, 1), dtype), 1
    elif isinstance(operator, MatrixFree) and d > operator.survey_steps:
        real, count = jnp.finfo(dtype).dtype, operator.probes
        probes = jax.random.rademacher(key, (d, count), real).astype(dtype)
    else:
        probes, count = jnp.eye(d, dtype=dtype), 1
    change = jax.jvp(lambda x: x.matmat(probes), (couplings,), (moved,))[1]
    return jnp.sum((probes.conj() * implicit_solve(couplings, change, operator.solve)).real) / count
