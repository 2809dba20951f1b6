"""How long to run for an inverse."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.convergence import Covariance
from thermolinalg.device import Device, Program, as_program
from thermolinalg.laws import Scalar
from thermolinalg.plan.search import factored, least_time
from thermolinalg.plan.times import Plan, check_found, check_fractions
from thermolinalg.simulators import Schedule


def inv(
    A: Any,
    *,
    rtol: Scalar = 5e-2,
    confidence: Scalar = 0.95,
    device: Device | None = None,
    guaranteed: bool = False,
) -> Plan:
    r"""Plan an inverse: the least :math:`t_0 + \tau` with :math:`P(\|C - A^{-1}\|_F \le \mathtt{rtol}\,\|A^{-1}\|_F)
    \ge` `confidence`.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric positive definite.
    rtol : float, in (0, 1)
        Relative error in the Frobenius norm.
    confidence : float, in (0, 1)
        Fraction of runs that keep to it.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default. Its temperature does not matter here.
    guaranteed : bool
        Use a rigorous upper bound on the tail of a sum of squares of Gaussians in place of the four-moment match.

    Returns
    -------
    Plan
        For a continuous reading from rest.

    Raises
    ------
    ValueError
        For operands or tolerances out of range.

    Notes
    -----
    The time grows as :math:`\kappa\,(\operatorname{tr}A^{-1})^2/(\|A^{-1}\|_F^2\,\mathtt{rtol}^2)`, in time constants
    of the device. Mean and variance of the squared error are exact in the limit of many effective samples; more than 64
    eigenvalues are gathered in 64 bins, which moves the time by less than a per cent.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> plan = inv(jnp.diag(jnp.array([1.0, 10.0])), rtol=0.1)
    >>> bool(plan.duration > plan.burn_in)
    True
    """
    check_fractions(rtol=rtol, confidence=confidence)
    return check_found(_plan_inv(as_program(A, device), rtol, confidence, guaranteed))


@partial(jax.jit, static_argnums=3)
def _plan_inv(program: Program, rtol: Scalar, confidence: Scalar, guaranteed: bool) -> Plan:
    machine = factored(jax.lax.stop_gradient(program.machine))
    problem = Covariance.of(machine)
    dtype = problem.nodes.dtype
    slowest = jnp.min(machine.dynamics.relaxation(problem.nodes))
    # The error of a long run falls as one over its duration, and its mean bounds its quantiles.
    long = 1e4 / slowest
    scatter = problem.error(machine, Schedule(long, long), rtol).cumulants[0, 0] * long
    tail = 1 - jnp.asarray(confidence).astype(dtype)
    longest = 8 * (jnp.log(30 / jnp.asarray(rtol).astype(dtype)) / slowest + scatter / tail)
    law = partial(problem.error, machine, rtol=rtol)
    schedule, clock = least_time(machine, law, longest, confidence, guaranteed)
    return Plan(schedule.burn_in, schedule.duration, None, rtol, confidence, clock)
