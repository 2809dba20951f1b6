"""Samples of a Gaussian law given by its precision matrix: the states of a relaxing process themselves."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike

from thermolinalg.device import Device, Program, as_program
from thermolinalg.draws import white_noise
from thermolinalg.integrator import Integrator
from thermolinalg.operators import Dense, Modal, as_block, implicit_solve, is_concrete
from thermolinalg.plan import Plan, check_plan
from thermolinalg.primitives.checks import check_answer, check_follows
from thermolinalg.primitives.methods import process
from thermolinalg.simulators import Law, Schedule, State
from thermolinalg.solution import Solution, Status


def gaussian(
    A: Any,
    b: ArrayLike | None = None,
    *,
    key: jax.Array,
    samples: int = 1,
    plan: Plan | None = None,
    device: Device | None = None,
) -> Solution:
    r"""Sample the normal law :math:`\mathcal N(A^{-1}b, (\beta A)^{-1})`.

    It is the stationary law of

    .. math:: dx = -(Ax - b)\,dt + \sqrt{2/\beta}\,dW,

    and the states of the device are its samples.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric, or complex Hermitian, positive definite: the precision matrix, up to beta.
    b : array, shape (d,), optional
        Precision times mean; zero by default.
    key : PRNG key
        Two calls with one key return the same samples.
    samples : int, >= 1
        Number of independent samples. Not together with `plan`.
    plan : Plan, optional
        Read ``plan.samples`` states of one run from rest, ``duration / samples`` apart after the burn-in: a path, whose
        points are correlated.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default. Not together with a program.

    Returns
    -------
    Solution
        ``value``, shape (samples, d); ``stderr`` alike, what the start leaves of a path in the mean of its first sample
        (zero for independent samples, which have relaxed for ever), and what converters and chip shift; ``status``;
        ``stats`` with ``mean``, shape (d,), and ``plan``.

    Raises
    ------
    ValueError
        If `A` is not square, finite, symmetric and positive definite to working precision, `b` does not match it, or
        the number of samples is not a whole positive number known when the program is traced.

    Notes
    -----
    A complex sample has real and imaginary parts with the precision of `A` each: every degree of freedom has the same
    temperature.

    The samples depend on `A` and `b` through :math:`dx = A^{-1}(db - \tfrac12 dA\,(x + \bar x))`, with
    :math:`\bar x` the mean: a reparametrisation, under which the average of any function has the right derivative.

    A path on an operator with eigenvectors costs one product for all its points; on a matrix-free operator, one Lanczos
    process for each.

    References
    ----------
    Aifer et al., *Thermodynamic Bayesian inference*, arXiv:2410.01793.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> A = jnp.array([[3.0, 2.0], [2.0, 4.0]])
    >>> x = gaussian(A, key=jax.random.key(0), samples=10_000)
    >>> covariance = x.value.T @ x.value / 10_000
    >>> bool(jnp.allclose(covariance, jnp.array([[0.5, -0.25], [-0.25, 0.375]]), atol=0.05))
    True
    """
    program = as_program(A, device, key)
    count: Any = samples
    if plan is None and isinstance(program.device.simulator, Integrator):
        raise ValueError("an Integrator walks along one run: give a plan with samples, or use Law()")
    if plan is not None:
        if samples != 1:
            raise ValueError("give a plan or samples, not both: a plan brings its own number")
        check_plan(plan)
        if plan.replicas > 1:
            raise ValueError("a path is one run: the plan must have one replica; call again with another key for more")
        if plan.samples is None:
            raise ValueError("a path is read at samples: give the plan a number of them")
        if program.spectrum is None:
            raise ValueError("a path has no long-time law; write the program to a device with Law()")
        count = plan.samples
    if not is_concrete(count) or int(count) != count or count < 1:
        raise ValueError(f"samples must be a whole number of at least 1, known before tracing, got {count}")
    d = program.operator.dim
    force = jnp.zeros((d, 1), program.operator.dtype) if b is None else as_block(b, program.operator, "b")
    if b is not None:
        check_follows(program.machine.dynamics, "a sample with a mean")
    if force.shape[1] != 1:
        raise ValueError(f"b must be a vector, got {force.shape[1]} columns; map over the columns with jax.vmap")
    return check_answer(_gaussian(program, force, key, plan, int(count)), "A or b")


@partial(jax.jit, static_argnums=4)
def _gaussian(program: Program, force: jax.Array, key: jax.Array, plan: Plan | None, samples: int) -> Solution:
    fixed, asked = jax.lax.stop_gradient((program, force))
    operator = fixed.machine.operator
    push, flags = fixed.device.load(asked, key)
    if plan is None:
        mean, block, converged = _independent(fixed, push, key, samples)
        stderr = jnp.zeros(block.shape, jnp.finfo(operator.dtype).dtype)
    else:
        schedule = jax.lax.stop_gradient(plan.schedule)
        mean = operator.solve(push)
        block, converged = _path(fixed, push, key, schedule, samples)
        first = Schedule(schedule.burn_in, 0.0)
        left = operator.magnitude(lambda rates: -fixed.machine.law(rates, first).start[0, :1] / rates[None], push[None])
        stderr = jnp.broadcast_to(left, block.shape)
    if not fixed.device.exact:
        block, error, read = fixed.states(block, mean, asked, push, key)
        stderr, flags = jnp.hypot(stderr, error), flags | read
    # Zero on average; derivatives go through it.
    residual = force - program.operator.matmat((block + mean) / 2)
    value = _implicit(fixed, block, residual)
    finite = jnp.all(jnp.isfinite(value))
    fault = jnp.where(converged, int(Status.NOT_FINITE), int(Status.NOT_CONVERGED))
    flags = fixed.status | flags | (int(Status.IMPRECISE) if fixed.device.maimed else 0)
    flags |= jnp.where(converged & finite, 0, fault).astype(jnp.int32)
    kind = "independent states" if plan is None else "states on the path"
    method = f"The samples are {kind} of {process(fixed.device)}."
    return Solution(value.T, stderr.T, flags, {"mean": mean[:, 0], "plan": plan}, method)


def _independent(
    program: Program, force: jax.Array, key: jax.Array, samples: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean (d, 1), samples (d, n), and whether they are converged."""
    operator = program.machine.operator
    noise = white_noise(key, (operator.dim, samples), operator.dtype)
    cold = 1 / jnp.sqrt(jnp.asarray(program.machine.beta).astype(jnp.finfo(operator.dtype).dtype))
    if isinstance(operator, Dense) and operator.triangle is not None:
        spread, converged = solve_triangular(operator.triangle, noise, lower=True, trans="C"), jnp.array(True)
    else:
        (spread,), converged = operator.combine(lambda rates: (1 / jnp.sqrt(rates))[None, None], noise[None])
    mean = operator.solve(force)
    return mean, mean + cold.astype(operator.dtype) * spread, converged


def _path(
    program: Program, force: jax.Array, key: jax.Array, schedule: Schedule, samples: int
) -> tuple[jax.Array, jax.Array]:
    """States (d, n) along one run from rest, and whether they are converged."""
    machine, operator = program.machine, program.machine.operator
    step = jnp.asarray(schedule.duration).astype(jnp.finfo(operator.dtype).dtype) / samples
    components = machine.dynamics.components
    keys = jax.random.split(key, samples)
    stepwise = program.device.simulator if isinstance(program.device.simulator, Integrator) else Law()
    if not isinstance(operator, Modal) or isinstance(stepwise, Integrator):
        rest = [jnp.zeros_like(force)] * components

        def run(state, inputs):
            wait, key = inputs
            reading = stepwise.run(machine, force, key, Schedule(wait, 0.0), state)
            return reading.state, (reading.state.position[:, 0], reading.converged)

        waits = jnp.full(samples, step).at[0].set(jnp.asarray(schedule.burn_in).astype(step.dtype))
        _, (block, converged) = jax.lax.scan(run, State(*rest), (waits, keys))
        return block.T, jnp.all(converged)
    push = operator.to_modes(force)[:, 0]
    laws = [machine.law(operator.rates, Schedule(wait, 0.0)) for wait in (schedule.burn_in, step)]
    settle, move = ((law.force[1:], law.start[1:], law.end_scale()) for law in laws)

    def advance(law, state, noise):
        force, start, scale = (x.astype(state.dtype) for x in law)
        return force * push[None] + (start * state[None]).sum(1) + (scale * noise[None]).sum(1)

    noise = jax.vmap(lambda key: white_noise(key, (components, operator.dim), operator.dtype))(keys)
    first = advance(settle, jnp.zeros((components, operator.dim), operator.dtype), noise[0])

    def walk(state, noise):
        following = advance(move, state, noise)
        return following, following[0]

    _, later = jax.lax.scan(walk, first, noise[1:])
    return operator.from_modes(jnp.concatenate([first[:1], later]).T), jnp.array(True)


@jax.custom_jvp
def _implicit(program: Program, value: jax.Array, residual: jax.Array) -> jax.Array:
    """Return `value`, which moves by the answer to the residual when that does."""
    return value


@_implicit.defjvp
def _implicit_jvp(primals, tangents):
    program, value, _ = primals
    operator = program.machine.operator
    return value, implicit_solve(operator, tangents[2], operator.solve)
