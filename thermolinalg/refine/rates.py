"""How much one step of refinement gains, and how long that step should take."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.convergence.machines import factored
from thermolinalg.convergence.search import least_time
from thermolinalg.device import Device, Program, as_program
from thermolinalg.laws import Scalar
from thermolinalg.operators import as_block, is_concrete
from thermolinalg.plan import Plan
from thermolinalg.ranges import check_fractions
from thermolinalg.simulators import Machine, Schedule
from thermolinalg.spectrum import Spectrum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Survey:
    """A machine that is ready for functions of its operator, and the nodes and counts of their traces."""

    machine: Machine
    spectrum: Spectrum
    nodes: jax.Array
    counts: jax.Array

    @classmethod
    def of(cls, machine: Machine) -> "Survey":
        """Look at the spectrum of a machine."""
        machine = factored(machine)
        operator = machine.operator
        lower, low, high, upper = operator.extremes()
        nodes, counts, _ = operator.measure(jnp.zeros((operator.dim, 0), operator.dtype))
        # Gauss nodes of no weight may lie anywhere, at zero too.
        nodes = jnp.where(counts > 0, nodes, high)
        return cls(machine, Spectrum(low, high, lower, upper), nodes, counts)

    def step(self, schedule: Schedule, length: Scalar) -> tuple[jax.Array, jax.Array]:
        """What a run leaves of the residual in each mode, and the variance it adds to it, at a force of this length."""
        law = self.machine.law(self.nodes, schedule)
        left = 1 - self.nodes * law.force[0]
        return left, self.counts * self.nodes**2 * law.covariance[0, 0] / jnp.asarray(length, self.nodes.dtype) ** 2

    def left(self, schedule: Schedule) -> jax.Array:
        """Largest fraction of a residual that the mean response of a run leaves."""
        return jnp.max(jnp.where(self.counts > 0, jnp.abs(self.step(schedule, 1.0)[0]), 0.0))

    def least_rtol(self) -> jax.Array:
        """Relative error to which rounding lets any refinement in this dtype come."""
        unit = jnp.finfo(self.nodes.dtype).eps / 2
        return unit * (10 + 0.1 * self.spectrum.kappa)


def contraction(program: Program, schedule: Schedule, b: ArrayLike) -> jax.Array:
    r"""Predict the factor by which one step of plain refinement shrinks the residual.

    The root :math:`\eta` above all :math:`|b_i|` of

    .. math:: \sum_i \frac{\lambda_i^2 V_i}{\eta^2 - b_i^2} = 1, \qquad b_i = 1 - \lambda_i f_i,

    with the mean response :math:`f_i` of a mode to a unit force and the variance :math:`V_i` of its average at the
    temperature :math:`\beta\|b\|^2`.

    Parameters
    ----------
    program : Program
        What the device holds.
    schedule : Schedule
        Times of one step.
    b : array, shape (d,) or (d, k)
        Right-hand sides; only their lengths matter.

    Returns
    -------
    Array, shape () or (k,)
        Root mean square contraction of the residual per step, after many steps; infinite where b is zero.

    Notes
    -----
    Exact for plain iterative refinement by a device that holds A: the mean square of the residual in each mode obeys a
    linear recursion with this spectral radius. After burn-in :math:`\eta = \sqrt{2d/(\beta\|b\|^2\tau)}`, whatever the
    condition number. Single runs scatter by about :math:`\eta/\sqrt{2d}` and their geometric mean is somewhat smaller.
    For matrix-free operators it is as good as the survey of the spectrum.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> program = Device(beta=100.0).program(jnp.diag(jnp.array([1.0, 2.0])))
    >>> eta = contraction(program, Schedule(burn_in=20.0, duration=400.0), jnp.array([1.0, 0.0]))
    >>> round(float(eta), 3)        # sqrt(2 * 2 / (100 * 400))
    0.01
    """
    force = as_block(b, program.operator, "b")
    survey = survey_of(program)
    return predicted(survey, schedule, jnp.linalg.norm(force, axis=0)).reshape(jnp.shape(b)[1:])


@jax.jit
def survey_of(program: Program) -> Survey:
    """Look at what a program holds, as a constant."""
    return Survey.of(jax.lax.stop_gradient(program.machine))


@jax.jit
def predicted(survey: Survey, schedule: Schedule, lengths: jax.Array) -> jax.Array:
    """The contraction for forces of these lengths (k,)."""

    def one(length: jax.Array) -> jax.Array:
        left, noise = survey.step(schedule, jnp.where(length > 0, length, 1.0))
        left = jnp.where(survey.counts > 0, left**2, 0.0)
        total, slowest = jnp.sum(noise), jnp.max(left)
        # The distance of the root from the pole lies between the noise of that mode and all noise; look on a log scale.
        tiny = jnp.finfo(total.dtype).tiny
        ends = jnp.log(jnp.maximum(total * jnp.finfo(total.dtype).eps, tiny)), jnp.log(jnp.maximum(total, tiny))

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            above = jnp.sum(noise / (jnp.exp(middle) + (slowest - left))) > 1
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        distance = jax.lax.fori_loop(0, 60, halve, ends)[1]
        eta = jnp.sqrt(slowest + jnp.where(total > 0, jnp.exp(distance), 0.0))
        return jnp.where(length > 0, eta, jnp.inf)

    return jax.vmap(one)(lengths.astype(survey.nodes.dtype))


def plan(A: Any, b: ArrayLike, *, device: Device | None = None, contraction: Scalar = 0.1) -> Plan:
    r"""Plan one step of refinement: the least :math:`t_0 + \tau` that shrinks the residual by a given factor.

    .. math:: \min\ t_0 + \tau \quad\text{with}\quad \eta(t_0, \tau) \le \mathtt{contraction}

    with the root mean square :math:`\eta` of :func:`contraction`.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric, or complex Hermitian, positive definite.
    b : array, shape (d,) or (d, k)
        Right-hand sides; the plan serves the shortest that is not zero.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default.
    contraction : float, in (0, 1)
        Factor for the length of the residual in each step. The time of all steps together changes little between 0.05
        and 0.5; a smaller factor takes fewer digital products.

    Returns
    -------
    Plan
        Of one step, with zero times when b is zero.

    Raises
    ------
    ValueError
        For operands out of range, or if no finite time is enough.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> step = plan(jnp.diag(jnp.array([1.0, 10.0])), jnp.array([3.0, 5.0]))
    >>> bool(0 < step.burn_in < step.duration)
    True
    """
    check_fractions(contraction=contraction)
    program = as_program(A, device)
    force = as_block(b, program.operator, "b")
    return check_step(planned(survey_of(program), jnp.linalg.norm(force, axis=0), contraction))


def check_step(step: Plan) -> Plan:
    """Return the plan of a step; raise a ``ValueError`` if its times are known to be infinite."""
    if is_concrete(step) and not np.isfinite(step.total):
        raise ValueError("no time was found that reaches the contraction: the scale of b and beta overflows its dtype")
    return step


def tolerance(rtol: Scalar | None, survey: Survey) -> Scalar:
    """Return the relative error to refine to: 1e-10 by default, or what rounding allows with a factor of ten to spare.

    Raises
    ------
    ValueError
        If it is known to be out of range, or below what rounding allows.
    """
    if rtol is None:
        return jnp.maximum(jnp.asarray(1e-10, survey.nodes.dtype), 10 * survey.least_rtol())
    check_fractions(rtol=rtol)
    if is_concrete(rtol, survey):
        least, dtype = float(survey.least_rtol()), survey.nodes.dtype
        if not np.all(np.asarray(rtol) >= least):
            raise ValueError(
                f"rtol = {float(np.min(rtol)):.1e} is below what rounding allows: with condition number "
                f"{float(survey.spectrum.kappa):.1e} and eps = {float(jnp.finfo(dtype).eps):.1e} ({dtype.name}) the "
                f"least is {least:.1e}; raise rtol, use a wider dtype, or scale A (thermolinalg.refine.unit_diagonal)"
            )
    return rtol


@jax.jit
def planned(survey: Survey, lengths: jax.Array, contraction: Scalar) -> Plan:
    """Least time of one step, over a grid of splits into burn-in and averaging that is refined twice."""
    dtype = survey.nodes.dtype
    target = jnp.asarray(contraction).astype(dtype)
    machine, spectrum = survey.machine, survey.spectrum
    needed = jnp.any(lengths > 0)
    length = jnp.where(needed, jnp.min(jnp.where(lengths > 0, lengths, jnp.inf)), 1.0).astype(dtype)
    clock = machine.dynamics.clock(spectrum.maximum)
    low = jnp.minimum(spectrum.minimum, jnp.min(jnp.where(survey.counts > 0, survey.nodes, jnp.inf)))
    slowest = jnp.min(machine.dynamics.relaxation(jnp.stack([low, spectrum.maximum])))
    noise = jnp.asarray(machine.dynamics.noise(machine.beta)).astype(dtype)
    averaging = noise * jnp.sum(survey.counts) / length / length / target**2
    longest = 8 * (jnp.log(30 / target) / slowest + averaging)

    def shrinks(step: tuple[jax.Array, jax.Array], _: Scalar) -> jax.Array:
        left, added = step
        gap = target**2 - left**2
        good = jnp.where(survey.counts > 0, gap, 1.0) > 0
        return jnp.all(good) & (jnp.sum(added / jnp.where(good, gap, 1.0)) <= 1)

    schedule = least_time(lambda times: survey.step(times, length), longest, clock, target, shrinks)
    burn_in, duration = (jnp.where(needed, time, 0.0) for time in (schedule.burn_in, schedule.duration))
    return Plan(burn_in, duration, None, clock=clock)
