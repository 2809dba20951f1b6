"""Matrix exponentials, from the lagged covariance of a process."""

from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.device import Device
from thermolinalg.encodings import exponential, written
from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.plan import Plan
from thermolinalg.plan.samples import plan_encoded
from thermolinalg.primitives.checks import check_answer, check_choice, check_samples
from thermolinalg.primitives.lyapunov import run
from thermolinalg.solution import Solution


def expm(
    A: Any,
    t: Scalar = 1.0,
    *,
    key: jax.Array,
    rtol: Scalar | None = None,
    confidence: Scalar = 0.95,
    shift: Scalar | None = None,
    plan: Plan | None = None,
    device: Device | None = None,
) -> Solution:
    r"""Estimate :math:`e^{At}` by the lagged covariance of a process.

    With a shift a that makes :math:`G = aI - A` positive, the device runs, from rest,

    .. math:: dx = -Gx\,dt + \mathcal N(0, (G + G^*)\,dt),

    whose stationary covariance is the identity, and averages :math:`x(s + t)\,x(s)^*` over equally spaced s. That
    estimates :math:`e^{-Gt} = e^{-at} e^{At}`.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix or lineax operator
        Any square matrix, real or complex.
    t : float, >= 0
        Time.
    key : PRNG key
        Two calls with one key return the same estimate.
    rtol : float, in (0, 1), default 5e-2
        Relative error in the Frobenius norm to plan for. Not together with `plan`.
    confidence : float, in (0, 1)
        Fraction of runs that keep to `rtol`.
    shift : float, optional
        a, above the largest eigenvalue :math:`\mu` of :math:`(A + A^*)/2`; by default :math:`\mu + 1/(2t)`, which
        balances noise against relaxation.
    plan : Plan, optional
        With ``samples`` pairs, ``duration / samples`` >= t apart; from ``thermolinalg.plan.expm`` or by hand. With
        equality each state is the later one of a pair and the earlier one of the next.
    device : Device, optional
        An overdamped device; the ideal one by default. The noise is that of G, so its temperature does not matter.

    Returns
    -------
    Solution
        ``value`` and ``stderr``, shape (d, d); ``status``; ``stats`` with ``plan``, ``time_constants``, ``correlation``
        (the largest of the squares of two successive samples) and ``amplification``, :math:`e^{at}`.

    Raises
    ------
    ValueError
        If `A` is not square and finite, `t` is negative, `shift` is too small or not a number, the pairs of a plan
        overlap, or a tolerance is out of range. Under ``jit`` the same faults set ``status`` or give NaN.

    Notes
    -----
    What is read has an error of about :math:`1/\sqrt N` in every entry, whatever the entry is; the factor
    :math:`e^{at}` amplifies it, as ``stderr`` says. The relative error is therefore :math:`d\,e^{at}/(\sqrt N
    \|e^{At}\|_F)`: fair where all of :math:`e^{At}` is large, hopeless for entries far below the largest.

    Independent pairs are drawn at a cost independent of their number, others walked in exact steps. Nothing is
    diagonalised. Derivatives are those of the exponential, without noise of their own.

    References
    ----------
    Duffield et al., *Thermodynamic matrix exponentials and thermodynamic parallelism*, arXiv:2311.12759.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> A = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> E = expm(A, jnp.pi / 2, key=jax.random.key(0))
    >>> bool(jnp.all(jnp.abs(E.value - A) < 5 * E.stderr))
    True
    """
    check_choice(plan, rtol)
    encoded = exponential(A, t, shift, device)
    if plan is None:
        plan = plan_encoded(encoded, 5e-2 if rtol is None else rtol, confidence)
    spacing = check_samples(plan).duration / jnp.asarray(plan.samples)
    if is_concrete(spacing, t) and float(spacing) < float(t) * (1 - 1e-6):
        raise ValueError(
            f"pairs overlap: they are {float(spacing):.3g} apart and {float(t):.3g} long; lengthen the plan"
        )
    device = Device() if device is None else device
    return check_answer(run(encoded, written(encoded, device, key), key, plan, device), "A, t or the plan")
