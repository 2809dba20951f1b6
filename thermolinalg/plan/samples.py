"""How many independent samples to take, and how far apart, of a process with any drift."""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.convergence.samples import encoded_samples
from thermolinalg.device import Device
from thermolinalg.encodings import Encoded, exponential, stationary
from thermolinalg.laws import Scalar
from thermolinalg.plan.budget import Budget, choose
from thermolinalg.plan.times import Plan, check_found
from thermolinalg.ranges import check_fractions


def lyapunov(
    A: Any,
    Q: ArrayLike,
    *,
    rtol: Scalar | None = None,
    budget: Budget | None = None,
    confidence: Scalar = 0.95,
    device: Device | None = None,
    guaranteed: bool = False,
    replicas: int = 1,
) -> Plan:
    r"""Plan a Lyapunov solution: independent samples with :math:`P(\|S - \Sigma\|_F \le \mathtt{rtol}\,\|\Sigma\|_F)
    \ge` `confidence`.

    Parameters
    ----------
    A, Q
        As for :func:`thermolinalg.lyapunov`.
    rtol : float, in (0, 1), default 5e-2
        Relative error in the Frobenius norm.
    budget : Budget, optional
        In place of `rtol`: the plan of the least error within this time and energy; its ``rtol`` says which.
    confidence : float, in (0, 1)
        Fraction of runs that keep to it.
    device : Device, optional
        An overdamped device; the ideal one by default.
    guaranteed : bool
        Use a rigorous upper bound on the tail of a sum of squares of Gaussians in place of the four-moment match.
    replicas : int, >= 1
        Devices that run side by side, their readings averaged.

    Returns
    -------
    Plan
        With ``samples`` so far apart that each has forgotten the one before; three times closer ones would need a third
        less time, and a walk to simulate.

    Raises
    ------
    ValueError
        For operands or tolerances out of range, or an unstable drift.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> plan = lyapunov(jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.eye(2), rtol=0.1)
    >>> bool(plan.samples > 100)
    True
    """
    return plan_encoded(stationary(A, Q, device), rtol, confidence, device, budget, guaranteed, replicas)


def expm(
    A: Any,
    t: Scalar = 1.0,
    *,
    rtol: Scalar | None = None,
    budget: Budget | None = None,
    confidence: Scalar = 0.95,
    shift: Scalar | None = None,
    device: Device | None = None,
    guaranteed: bool = False,
    replicas: int = 1,
) -> Plan:
    r"""Plan an exponential: independent pairs with :math:`P(\|C - e^{At}\|_F \le \mathtt{rtol}\,\|e^{At}\|_F) \ge`
    `confidence`.

    Parameters
    ----------
    A, t, shift
        As for :func:`thermolinalg.expm`.
    rtol : float, in (0, 1), default 5e-2
        Relative error in the Frobenius norm.
    budget : Budget, optional
        In place of `rtol`: the plan of the least error within this time and energy; its ``rtol`` says which.
    confidence : float, in (0, 1)
        Fraction of runs that keep to it.
    device : Device, optional
        An overdamped device; the ideal one by default.
    guaranteed : bool
        Use a rigorous upper bound on the tail of a sum of squares of Gaussians in place of the four-moment match.
    replicas : int, >= 1
        Devices that run side by side, their readings averaged.

    Returns
    -------
    Plan
        With ``samples`` pairs, each of them independent of the one before.

    Raises
    ------
    ValueError
        For operands or tolerances out of range.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> plan = expm(-jnp.eye(2), 0.5, rtol=0.1)
    >>> bool(plan.samples > 100)
    True
    """
    return plan_encoded(exponential(A, t, shift, device), rtol, confidence, device, budget, guaranteed, replicas)


def plan_encoded(
    encoded: Encoded,
    rtol: Scalar | None,
    confidence: Scalar,
    device: Device | None = None,
    budget: Budget | None = None,
    guaranteed: bool = False,
    replicas: int = 1,
) -> Plan:
    """Plan the reading of a problem that is encoded already."""
    goal = 5e-2 if rtol is None and budget is None else rtol
    check_fractions(rtol=goal, confidence=confidence)
    estimator = encoded_samples(encoded)
    found, goal = choose(
        *(estimator, Device() if device is None else device, encoded.covariance.shape[0]),
        rtol=goal,
        budget=budget,
        confidence=confidence,
        guaranteed=guaranteed,
        samples=None,
        replicas=replicas,
    )
    live = jnp.any(encoded.stationary != 0)
    samples = jnp.where(live, jnp.ceil(found.schedule.duration / estimator.spacing), 1.0)
    times = jnp.where(live, found.schedule.burn_in, 0.0), jnp.where(live, samples * estimator.spacing, 0.0)
    return check_found(Plan(*times, samples, goal, confidence, encoded.clock, replicas=replicas))
