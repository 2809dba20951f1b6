"""Lyapunov equations, from the covariance of a process with any drift and diffusion."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.device import READ, Device
from thermolinalg.encodings import Encoded, stationary, written
from thermolinalg.laws import Scalar
from thermolinalg.plan import Plan
from thermolinalg.plan.samples import plan_encoded
from thermolinalg.primitives.checks import check_answer, check_choice, check_samples, imprecision
from thermolinalg.primitives.methods import drawn
from thermolinalg.second_moments import read
from thermolinalg.solution import Solution, Status


def lyapunov(
    A: Any,
    Q: ArrayLike,
    *,
    key: jax.Array,
    rtol: Scalar | None = None,
    confidence: Scalar = 0.95,
    plan: Plan | None = None,
    device: Device | None = None,
) -> Solution:
    r"""Estimate the solution of :math:`AX + XA^* = Q` by the covariance of a process.

    The device runs, from rest,

    .. math:: dx = -Ax\,dt + \mathcal N(0, Q\,dt),

    whose stationary covariance is X, and averages :math:`xx^*` over equally spaced samples.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix or lineax operator
        Stable: every eigenvalue has a positive real part. It need not be symmetric, normal or diagonalisable.
    Q : array, shape (d, d)
        Symmetric, or Hermitian, positive semi-definite, of any rank.
    key : PRNG key
        Two calls with one key return the same estimate.
    rtol : float, in (0, 1), default 5e-2
        Relative error in the Frobenius norm to plan for. Not together with `plan`.
    confidence : float, in (0, 1)
        Fraction of runs that keep to `rtol`.
    plan : Plan, optional
        With ``samples``; from ``thermolinalg.plan.lyapunov`` or by hand.
    device : Device, optional
        An overdamped device; the ideal one by default. The noise is that of `Q`, so its temperature does not matter.

    Returns
    -------
    Solution
        ``value`` and ``stderr``, shape (d, d); ``status``; ``stats`` with ``plan``, ``time_constants``, and
        ``correlation``, the largest of the squares of two successive samples.

    Raises
    ------
    ValueError
        If `A` is not square and stable, `Q` is not symmetric and positive semi-definite or does not match, or a
        tolerance or plan is out of range. Under ``jit`` the same faults set ``status``.

    Notes
    -----
    The relative error of N independent samples is :math:`\sqrt{(\operatorname{tr}X)^2 + \|X\|_F^2}/(\sqrt N
    \|X\|_F)`. Samples that are far enough apart are drawn as one Wishart matrix at a cost independent of N; others are
    walked in exact steps. The law is computed by doubling, without eigenvectors; the digital solution is a by-product.

    Derivatives are those of the equation, without noise of their own.

    References
    ----------
    Aifer et al., *Thermodynamic linear algebra*, arXiv:2308.05660.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> A = jnp.array([[1.0, 5.0], [0.0, 2.0]])
    >>> X = lyapunov(A, jnp.eye(2), key=jax.random.key(0))
    >>> exact = jnp.array([[31.0, -5.0], [-5.0, 3.0]]) / 12
    >>> bool(jnp.all(jnp.abs(X.value - exact) < 5 * X.stderr))
    True
    """
    check_choice(plan, rtol)
    encoded = stationary(A, Q, device)
    if plan is None:
        plan = plan_encoded(encoded, 5e-2 if rtol is None else rtol, confidence)
    device = Device() if device is None else device
    answer = run(encoded, written(encoded, device, key), key, check_samples(plan), device)
    return check_answer(answer, "A, Q or the plan")


@jax.jit
def run(encoded: Encoded, realised: Encoded, key: jax.Array, plan: Plan, device: Device) -> Solution:
    """Run what a device makes of an encoded problem, and read its second moment."""
    schedule = jax.lax.stop_gradient(plan.schedule)
    fixed = jax.lax.stop_gradient(realised)
    early = None if encoded.lag is None else encoded.after(encoded.lag)
    gain = fixed.gain.astype(fixed.entries)
    mean = encoded.covariance if early is None else early[0] * encoded.gain.astype(encoded.entries)
    if device.faithful:
        lead, systematic = jax.lax.stop_gradient(early), jnp.zeros(mean.shape, encoded.drift.dtype)
    else:
        lead = None if fixed.lag is None else fixed.after(fixed.lag)
        held = fixed.covariance if lead is None else lead[0] @ fixed.covariance * gain
        systematic = jnp.abs(held - jax.lax.stop_gradient(mean))
    moment, stderr, alike = read(fixed, key, schedule, lead)
    stderr, flags = jnp.hypot(fixed.gain * stderr, systematic), fixed.status
    if not device.readout.ideal:
        readout, stream = device.readout, jax.random.fold_in(key, READ)
        if fixed.lag is None:
            seen = readout.moment(moment, encoded.components, schedule, stream)
        else:
            seen = readout.lagged(moment, jnp.diagonal(fixed.covariance).real, schedule, stream)
        moment, error = seen.value, fixed.gain * seen.error
        systematic, stderr, flags = jnp.hypot(systematic, error), jnp.hypot(stderr, error), flags | seen.flags
    # Moves as the mean does when the operands move; adds nothing otherwise.
    value = gain * moment + (mean - jax.lax.stop_gradient(mean))
    finite = jnp.all(jnp.isfinite(value)) & jnp.all(jnp.isfinite(stderr))
    samples = jnp.asarray(plan.samples)
    flags = flags | jnp.where(finite, 0, int(Status.NOT_FINITE)).astype(jnp.int32)
    if not device.exact:
        flags |= imprecision(device, systematic.reshape(-1, 1), value.reshape(-1, 1), plan)
    if encoded.lag is None:
        few = (samples < value.shape[0]) & (jnp.linalg.norm(fixed.covariance) > 0)
        flags |= jnp.where(few, int(Status.FEW_SAMPLES), 0).astype(jnp.int32)
    stats = {"plan": plan, "correlation": alike, "time_constants": plan.time_constants}
    if not device.exact:
        stats["systematic"] = systematic
    if encoded.lag is not None:
        stats["amplification"] = fixed.gain
    answer = "Lyapunov solution is the covariance" if encoded.lag is None else "exponential is the autocovariance"
    method = f"The {answer} of an overdamped process, {drawn(encoded.simulator)}."
    return Solution(value, stderr, flags, stats, method)
