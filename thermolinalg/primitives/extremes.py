"""Extreme eigenvalues, from how a displacement relaxes."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.device import Device, Program, as_program
from thermolinalg.draws import white_noise
from thermolinalg.dynamics import Overdamped
from thermolinalg.integrator import Integrator
from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.ranges import check_positive
from thermolinalg.simulators import Law, Schedule, State
from thermolinalg.solution import Solution, Status


def extremes(
    A: Any, *, key: jax.Array, cycles: int = 32, amplitude: Scalar = 1e3, device: Device | None = None
) -> Solution:
    r"""Estimate the smallest and the largest eigenvalue by the relaxation of the slowest and of the fastest mode.

    The device starts at a displacement x, relaxes for a time u, and shows

    .. math:: x' = e^{-Au}x + \text{noise}, \qquad \hat\lambda = -\frac1u \ln\frac{x^* x'}{x^* x} .

    What is left, x', is mostly slow modes, and what is gone, x - x', mostly fast ones. Each is scaled up to full
    amplitude and loaded again, with a time u that follows the estimate: :math:`1/\hat\lambda` for the slow mode, a
    third of it for the fast one.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric, or complex Hermitian, positive definite.
    key : PRNG key
    cycles : int, >= 8
        Times that each displacement is loaded. The last quarter of the estimates is averaged.
    amplitude : float, > 0
        Length of a displacement, in units of the thermal motion of a mode of average stiffness.
    device : Device, optional
        An overdamped device; the ideal one by default. Not together with a program.

    Returns
    -------
    Solution
        ``value`` and ``stderr``, shape (2,): smallest and largest; ``status``; ``stats`` with ``kappa``,
        ``kappa_stderr``, and ``device_time``, the time of all relaxations in natural units.

    Raises
    ------
    ValueError
        If `A` is not square, finite, symmetric and positive definite to working precision, `cycles` or `amplitude` is
        out of range, or the device has inertia.

    Notes
    -----
    A power method, with its limits: the estimates approach the extremes from inside, the slow one by a factor
    :math:`e^{-(\lambda_2 - \lambda_1)/\lambda_1}` in each cycle, the fast one by about
    :math:`\lambda_{d-1}/\lambda_d`, slower than any rate where the gap closes. ``stderr`` is thermal scatter and what
    the estimate still moved in the last half of the cycles: generous where it has settled, and no bound on what more
    cycles would find. A plan from an estimate of the smallest eigenvalue needs a margin.

    Couplings that the device realises otherwise than they were given add to ``stderr``, to first order. Starts and
    states pass no converters here, and amplifiers add no noise.

    The estimates are constants under differentiation.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> found = extremes(jnp.diag(jnp.array([1.0, 2.0, 3.0, 8.0])), key=jax.random.key(0))
    >>> bool(jnp.all(jnp.abs(found.value - jnp.array([1.0, 8.0])) < 5 * found.stderr))
    True
    """
    if not is_concrete(cycles) or int(cycles) != cycles or cycles < 8:
        raise ValueError(f"cycles must be a whole number of at least 8, got {cycles}")
    check_positive(amplitude=amplitude)
    program = as_program(A, device, key)
    if not isinstance(program.machine.dynamics, Overdamped):
        raise ValueError("modes of a device with inertia ring instead of relaxing; leave out dynamics=Underdamped(...)")
    if program.spectrum is None:
        raise ValueError("the long-time law has no relaxation; write the program to a device with Law()")
    return _extremes(program, key, amplitude, int(cycles))


@partial(jax.jit, static_argnums=3)
def _extremes(program: Program, key: jax.Array, amplitude: Scalar, cycles: int) -> Solution:
    machine = jax.lax.stop_gradient(program.machine)
    operator, real = machine.operator, jnp.finfo(program.operator.dtype).dtype
    stepwise = program.device.simulator
    simulator = stepwise if isinstance(stepwise, Integrator) else Law(end_state=False)
    first, slow_key, fast_key = jax.random.split(key, 3)
    start = white_noise(first, (operator.dim, 1), operator.dtype)
    typical = _overlap(start, operator.matmat(start)) / _overlap(start, start)
    thermal = jnp.sqrt(operator.components / (jnp.asarray(machine.beta).astype(real) * typical))
    full = jnp.asarray(amplitude).astype(real) * thermal

    def scaled(block):
        return block * (full / jnp.sqrt(_overlap(block, block))).astype(block.dtype)

    def follow(key, fraction, keep):
        """Estimates and times of all cycles, for the mode that `keep` favours."""

        def cycle(carry, key):
            x, rate = carry
            wait = fraction / rate
            reading = simulator.run(machine, jnp.zeros_like(x), key, Schedule(wait, jnp.zeros_like(wait)), State(x))
            left = _overlap(x, reading.average) / full**2
            # Noise may leave nothing, or more than there was.
            rate = -jnp.log(jnp.clip(left, 1e-3, 1 - 1e-6)) / wait
            return (scaled(keep(x, reading.average)), rate), (rate, wait, reading.converged)

        (x, _), seen = jax.lax.scan(cycle, (scaled(start), typical), jax.random.split(key, cycles))
        return x, *seen

    low, slow, waits, fine = follow(slow_key, 1.0, lambda before, after: after)
    high, fast, more_waits, also = follow(fast_key, 1 / 3, lambda before, after: before - after)
    values, errors = zip(*(_settled(rates) for rates in (slow, fast)), strict=True)
    value, stderr = jnp.stack(values), jnp.stack(errors)
    if not program.device.faithful:
        # To first order an eigenvalue moves by its vector's share of what the couplings are off.
        asked = jax.lax.stop_gradient(program.operator)
        moved = [_overlap(x, operator.matmat(x) - asked.matmat(x)) / full**2 for x in (low, high)]
        stderr = jnp.hypot(stderr, jnp.stack(moved))
    fault = jnp.where(jnp.all(fine & also), int(Status.NOT_FINITE), int(Status.NOT_CONVERGED))
    good = jnp.all(fine & also) & jnp.all(jnp.isfinite(value))
    kappa = value[1] / value[0]
    stats = {
        "kappa": kappa,
        "kappa_stderr": kappa * jnp.hypot(*(stderr / value)),
        "device_time": jnp.sum(waits) + jnp.sum(more_waits),
    }
    # Lanczos surveys do not matter here, so neither does what they leave unresolved.
    flags = program.status & ~int(Status.UNRESOLVED) | jnp.where(good, 0, fault).astype(jnp.int32)
    method = "The extreme eigenvalues are rates at which states of an overdamped process relax, drawn from its law."
    return Solution(value, stderr, flags, stats, method)


def _overlap(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum(x.conj() * y).real


def _settled(rates: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean of the last quarter, with its scatter and what it has moved over the last half."""
    quarter = rates.size // 4
    before, middle, last = (rates[rates.size - k * quarter :][:quarter] for k in (3, 2, 1))
    mean = jnp.mean(last)
    scatter = jnp.sum((last - mean) ** 2) / (quarter - 1) / quarter
    moved = (mean - jnp.mean(middle)) ** 2 + (mean - jnp.mean(before)) ** 2
    return mean, jnp.sqrt(scatter + moved)
