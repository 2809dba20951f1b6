"""An Ornstein-Uhlenbeck process as terms of diffrax."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from thermolinalg.laws import Scalar
from thermolinalg.operators import as_inexact, is_concrete
from thermolinalg.paths import root

if TYPE_CHECKING:
    import diffrax


def as_diffrax_terms(
    process: Any,
    key: jax.Array,
    *,
    t0: Scalar,
    t1: Scalar,
    tol: Scalar | None = None,
    levy_area: type | None = None,
) -> "diffrax.MultiTerm":
    r"""Return an Ornstein-Uhlenbeck process as terms that ``diffrax.diffeqsolve`` integrates.

    .. math:: dx = -(A x - b)\,dt + D^{1/2}\,dW

    Parameters
    ----------
    process : OrnsteinUhlenbeck, or any object with these attributes
        ``drift``: A, shape (d, d), real; ``force``: b, shape (d,), or None; ``diffusion``: D, the covariance of the
        noise per unit of time, shape (d, d), symmetric positive semi-definite, of any rank.
    key : PRNG key
        Decides the Brownian path. Map over keys, with the terms made inside, for an ensemble.
    t0, t1 : float, t0 < t1
        The path is defined on this interval; integrate within it.
    tol : float, optional
        Time below which the path is smoothed: less than the smallest step. By default ``(t1 - t0) / 2**16``; larger is
        cheaper, as a draw costs ``log2((t1 - t0) / tol)`` bisections.
    levy_area : type, optional
        ``diffrax.BrownianIncrement`` by default; ``diffrax.SpaceTimeLevyArea`` for solvers like ``diffrax.ShARK``.

    Returns
    -------
    diffrax.MultiTerm
        An ``ODETerm`` and a ``ControlTerm``, for a state of shape (d,).

    Raises
    ------
    ValueError
        For shapes that do not match, values that are not finite, complex ones, a diffusion that is not symmetric
        positive semi-definite, or t0 >= t1. Under ``jit`` such a diffusion gives NaN.

    Notes
    -----
    The noise is additive, so the Ito and Stratonovich readings agree, and Euler has strong order 1. The law of a
    discretised path is not that of the process: with Euler in steps h the stationary variance of a mode of rate
    :math:`\lambda` is too large by the factor :math:`1/(1 - \lambda h/2)`, and the path explodes for
    :math:`\lambda h > 2`. The derivative with respect to the diffusion is that of its symmetric square root.

    Examples
    --------
    >>> import diffrax, jax, jax.numpy as jnp
    >>> from types import SimpleNamespace
    >>> process = SimpleNamespace(drift=jnp.eye(2), force=jnp.ones(2), diffusion=1e-6 * jnp.eye(2))
    >>> terms = as_diffrax_terms(process, jax.random.key(0), t0=0.0, t1=20.0)
    >>> path = diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, 20.0, 0.05, jnp.zeros(2))
    >>> path.ys[-1].round(1).tolist()
    [1.0, 1.0]
    """
    import diffrax

    drift, diffusion = as_inexact(process.drift, "drift"), as_inexact(process.diffusion, "diffusion")
    force = jnp.zeros(drift.shape[:1], drift.dtype) if process.force is None else as_inexact(process.force, "force")
    _check_process(drift, force, diffusion)
    if is_concrete(t0, t1) and not float(t0) < float(t1):
        raise ValueError(f"t0 must be less than t1, got {t0} and {t1}")
    dtype = np.result_type(drift.dtype, force.dtype, diffusion.dtype)
    begin, end = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
    path = diffrax.VirtualBrownianTree(
        begin,
        end,
        (end - begin) / 2**16 if tol is None else jnp.asarray(tol, dtype),
        jax.ShapeDtypeStruct(force.shape, dtype),
        key,
        diffrax.BrownianIncrement if levy_area is None else levy_area,
    )
    flow = diffrax.ODETerm(Partial(_relax, drift.astype(dtype), force.astype(dtype)))
    return diffrax.MultiTerm(flow, diffrax.ControlTerm(Partial(_spread, _square_root(diffusion.astype(dtype))), path))


def _relax(drift: jax.Array, force: jax.Array, t: Any, y: jax.Array, args: Any) -> jax.Array:
    return force.astype(y.dtype) - drift.astype(y.dtype) @ y


def _spread(factor: jax.Array, t: Any, y: jax.Array, args: Any) -> jax.Array:
    return factor.astype(y.dtype)


def _check_process(drift: jax.Array, force: jax.Array, diffusion: jax.Array) -> None:
    if drift.ndim != 2 or drift.shape[0] != drift.shape[1] or drift.shape[0] == 0:
        raise ValueError(f"drift must be a square matrix, got shape {drift.shape}")
    for name, array, shape in (("force", force, drift.shape[:1]), ("diffusion", diffusion, drift.shape)):
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape} to match the drift, got {array.shape}")
    for name, array in (("drift", drift), ("force", force), ("diffusion", diffusion)):
        if jnp.iscomplexobj(array):
            raise ValueError(
                f"{name} is complex; integrate real and imaginary parts as one real process of twice the size"
            )
        if is_concrete(array) and not np.isfinite(array).all():
            raise ValueError(f"{name} has entries that are not finite")
    if is_concrete(diffusion):
        matrix = np.asarray(diffusion, np.float64)
        limit = (1e-8 if diffusion.dtype == np.float64 else 1e-4) * np.abs(matrix).max()
        if np.abs(matrix - matrix.T).max() > limit:
            raise ValueError("diffusion is not symmetric; pass (D + D.T) / 2 if that is what you mean")
        lowest = np.linalg.eigvalsh(matrix)[0]
        if lowest < -limit:
            raise ValueError(f"diffusion is not positive semi-definite: its smallest eigenvalue is {lowest:.3g}")


def _square_root(matrix: jax.Array) -> jax.Array:
    """Symmetric square root of a positive semi-definite matrix of any rank; NaN where it has none."""
    values = jnp.linalg.eigvalsh(jax.lax.stop_gradient(matrix))
    limit = 1e-8 if matrix.dtype == np.float64 else 1e-4
    return jnp.where(values[0] < -limit * jnp.max(jnp.abs(values)), jnp.nan, root(matrix))
