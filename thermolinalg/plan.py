"""How long to run: the least total time that reaches an accuracy with a given confidence."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.convergence import Problem, squared_error
from thermolinalg.device import Device, Program, as_program, as_start
from thermolinalg.laws import Scalar
from thermolinalg.operators import as_block, is_concrete
from thermolinalg.simulators import Machine, Schedule, State
from thermolinalg.spectrum import Spectrum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """Times of one run, and what they promise.

    Attributes
    ----------
    burn_in : float, >= 0
        Time before the read-out begins, in the natural units of the equation.
    duration : float, >= 0
        Time over which the state is averaged.
    samples : int, optional
        Number of equally spaced samples in the duration; a continuous average by default.
    rtol, confidence : float, optional
        The promise: relative error in the 2-norm at most `rtol`, in a fraction `confidence` of runs.
    clock : float
        Device time constants in one natural unit of time.
    long_time_error : float, optional
        Largest relative deviation of the long-time law from the exact one: variance of a mode, or bias left out.
    """

    burn_in: Scalar
    duration: Scalar
    samples: Scalar | None = None
    rtol: Scalar | None = None
    confidence: Scalar | None = None
    clock: Scalar = 1.0
    long_time_error: Scalar | None = None

    @property
    def total(self) -> Scalar:
        """Burn-in plus duration."""
        return self.burn_in + self.duration

    @property
    def time_constants(self) -> Scalar:
        """Total time in time constants of the device."""
        return self.clock * self.total

    @property
    def long_time(self) -> jax.Array | bool:
        """Whether ``Law(long_time=True)`` is within 1 % of the exact law; False if the plan was not derived."""
        return False if self.long_time_error is None else self.long_time_error <= 0.01

    @property
    def schedule(self) -> Schedule:
        """The times alone."""
        return Schedule(self.burn_in, self.duration, self.samples)


def check_plan(plan: Plan) -> Plan:
    """Return the plan if its times make sense.

    Raises
    ------
    ValueError
        If a time is negative or not finite, or there is no sample.
    """
    if not is_concrete(plan):
        return plan
    for name in ("burn_in", "duration"):
        value = np.asarray(getattr(plan, name))
        if not (np.all(np.isfinite(value)) and np.all(value >= 0)):
            raise ValueError(f"{name} must be finite and not negative, got {getattr(plan, name)}")
    if plan.samples is not None and not np.all(np.asarray(plan.samples) >= 1):
        raise ValueError(f"samples must be at least 1, got {plan.samples}")
    return plan


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
    for name, value in (("rtol", rtol), ("confidence", confidence)):
        if is_concrete(value) and not np.all((np.asarray(value) > 0) & (np.asarray(value) < 1)):
            raise ValueError(f"{name} must lie between 0 and 1, got {value}")
    program = as_program(A, device)
    force = as_block(b, program.operator, "b")
    start = as_start(x0, program.operator, force)
    plan = _plan(program, force, start, rtol, confidence, guaranteed)
    if is_concrete(plan) and not np.isfinite(plan.total):
        raise ValueError(
            f"no time was found that reaches rtol = {rtol}: the scale of A, b and beta overflows its dtype"
        )
    return plan


@partial(jax.jit, static_argnums=5)
def _plan(
    program: Program, force: jax.Array, start: State | None, rtol: Scalar, confidence: Scalar, guaranteed: bool
) -> Plan:
    program, force, start = jax.lax.stop_gradient((program, force, start))
    machine = _factored(program.machine)
    problem = Problem.of(machine, force, machine.pull(force, start)[0])
    schedule, clock = _search(machine, problem, rtol, confidence, guaranteed)
    deviation = _long_time_error(machine, problem, schedule)
    return Plan(schedule.burn_in, schedule.duration, None, rtol, confidence, clock, deviation)


def _factored(machine: Machine) -> Machine:
    """The machine with all that functions of its operator need, also when its simulator does without."""
    operator = machine.operator.factor()
    lower, low, high, upper = operator.extremes()
    return replace(machine, operator=operator, dynamics=machine.dynamics.resolve(Spectrum(low, high, lower, upper)))


def _search(
    machine: Machine, problem: Problem, rtol: Scalar, confidence: Scalar, guaranteed: bool
) -> tuple[Schedule, jax.Array]:
    """Least total time over the split, found on a grid of splits that is refined twice."""
    dtype = problem.length.dtype
    rtol, confidence = (jnp.asarray(x).astype(dtype) for x in (rtol, confidence))
    _, low, high, _ = machine.operator.extremes()
    clock = machine.dynamics.clock(high)

    def schedule(total, logit):
        duration = jnp.minimum(jnp.maximum(total * jax.nn.sigmoid(-logit), 0.1 / clock), total)
        return Schedule(total - duration, duration)

    def keeps(total, logit, accurate=False):
        error = squared_error(machine, problem, schedule(total, logit), rtol)
        if guaranteed:
            return jnp.all(error.bound(confidence) <= 1)
        return jnp.all((error.exceedance() if accurate else error.exceedance_fast()) <= 1 - confidence)

    def least(logit, shortest, longest, halvings, accurate):
        """Bisect the logarithm of the total time; the upper end always keeps the promise, or is infinite."""

        def halve(_, ends):
            middle = jnp.sqrt(ends[0]) * jnp.sqrt(ends[1])
            good = keeps(middle, logit, accurate)
            return jnp.where(good, ends[0], middle), jnp.where(good, middle, ends[1])

        found = jax.lax.fori_loop(0, halvings, halve, (shortest, longest))[1]
        return jnp.where(found < longest, found, jnp.inf)

    # The Lanczos process of a right-hand side may see smaller eigenvalues than the survey of the operator.
    low = jnp.minimum(low, jnp.min(jnp.where(problem.nodes > 0, problem.nodes, low)))
    slowest = jnp.min(machine.dynamics.relaxation(jnp.stack([low, high])))
    noise = jnp.asarray(machine.dynamics.noise(machine.beta)).astype(dtype)
    scatter = jnp.sqrt(jnp.sum(problem.counts / (problem.nodes / low) ** 2)) / low
    spread = scatter / jnp.where(problem.length > 0, problem.length, jnp.inf) / rtol
    averaging = jnp.max(noise * spread**2) / (1 - confidence)
    longest = 8 * (jnp.log(30 * (1 + jnp.sqrt(jnp.max(jnp.sum(problem.pull, 0)))) / rtol) / slowest + averaging)

    def refine(level, found):
        """Look for a shorter time on a finer grid of splits; a split that takes longer than the best is dropped."""
        best, total = found
        shortest, halvings = jnp.where(level == 0, 1e-9, 0.5) * total, jnp.where(level == 0, 18, 9)
        grid = best + jnp.linspace(-14.0, 14.0, 15, dtype=dtype) / 7.0**level
        times = jax.lax.map(lambda logit: least(logit, shortest, 1.01 * total, halvings, False), grid)
        return grid[jnp.argmin(times)], jnp.min(times)

    best, total = jax.lax.fori_loop(0, 3, refine, (jnp.zeros((), dtype), longest))
    total = least(best, total / 2, total * 2, 16, True)
    # The four-moment match is optimistic by up to half a per cent of the time; it is added back here.
    total = total if guaranteed else 1.005 * total
    needed = jnp.any(problem.length > 0)
    run = schedule(jnp.where(needed, total, 0.0), best)
    return Schedule(run.burn_in, jnp.where(needed, run.duration, 0.0)), clock


def _long_time_error(machine: Machine, problem: Problem, schedule: Schedule) -> jax.Array:
    duration = jnp.where(jnp.asarray(schedule.duration) > 0, schedule.duration, 1.0)
    noise = jnp.asarray(machine.dynamics.noise(machine.beta)).astype(duration.dtype)
    exact = machine.law(problem.nodes, schedule).covariance[0, 0]
    deviation = jnp.max(jnp.abs(noise / duration / problem.nodes / problem.nodes / exact - 1))
    error = squared_error(machine, problem, schedule, 1.0)
    scatter = squared_error(machine, replace(problem, pull=jnp.zeros_like(problem.pull)), schedule, 1.0)
    bias = error.cumulants[0] / jnp.where(scatter.cumulants[0] > 0, scatter.cumulants[0], 1.0) - 1
    return jnp.where(jnp.asarray(schedule.duration) > 0, jnp.maximum(deviation, jnp.max(bias)), jnp.inf)
