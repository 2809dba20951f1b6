"""How long to run for an inverse."""

from typing import Any

from thermolinalg.convergence.moments import described
from thermolinalg.device import Device, as_program
from thermolinalg.laws import Scalar
from thermolinalg.plan.budget import Budget, choose
from thermolinalg.plan.times import Plan, check_found
from thermolinalg.ranges import check_fractions


def inv(
    A: Any,
    *,
    rtol: Scalar | None = None,
    budget: Budget | None = None,
    confidence: Scalar = 0.95,
    device: Device | None = None,
    guaranteed: bool = False,
    samples: Scalar | None = None,
    replicas: int = 1,
) -> Plan:
    r"""Plan an inverse: the least :math:`t_0 + \tau` with :math:`P(\|C - A^{-1}\|_F \le \mathtt{rtol}\,\|A^{-1}\|_F)
    \ge` `confidence`.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric positive definite.
    rtol : float, in (0, 1), default 5e-2
        Relative error in the Frobenius norm.
    budget : Budget, optional
        In place of `rtol`: the plan of the least error within this time and energy; its ``rtol`` says which.
    confidence : float, in (0, 1)
        Fraction of runs that keep to it.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default. Its temperature does not matter here.
    guaranteed : bool
        Use a rigorous upper bound on the tail of a sum of squares of Gaussians in place of the four-moment match.
    samples : int, optional
        Read so many equally spaced samples in place of a continuous reading.
    replicas : int, >= 1
        Devices that run side by side, their readings averaged.

    Returns
    -------
    Plan
        For a run from rest.

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
    goal = 5e-2 if rtol is None and budget is None else rtol
    check_fractions(rtol=goal, confidence=confidence)
    program = as_program(A, device)
    estimator = described(program)
    found, goal = choose(
        *(estimator, program.device, program.operator.dim),
        rtol=goal,
        budget=budget,
        confidence=confidence,
        guaranteed=guaranteed,
        samples=samples,
        replicas=replicas,
    )
    times, resolved = found.schedule, estimator.machine.operator.extremes()[0] > 0
    parts = times.burn_in, times.duration, times.samples, goal, confidence, found.clock
    return check_found(Plan(*parts, resolved=resolved, replicas=replicas))
