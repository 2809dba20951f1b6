"""Whether couplings have a stationary law: are they positive definite, as far as the numbers tell?"""

import jax
import jax.numpy as jnp

from thermolinalg.operators import Dense, Operator
from thermolinalg.solution import Status
from thermolinalg.spectrum import Spectrum


@jax.jit
def judge(operator: Operator) -> tuple[jax.Array, Spectrum | None]:
    """Flags that concern the operator, and its spectrum where that is known."""
    if isinstance(operator, Dense) and operator.eigenvalues is None and operator.triangle is not None:
        definite = jnp.all(jnp.isfinite(jnp.diagonal(operator.triangle)))
        return jnp.where(definite, 0, int(Status.NOT_POSITIVE_DEFINITE)).astype(jnp.int32), None
    lower, low, high, upper = operator.factor().extremes()
    spectrum = Spectrum(low, high, lower, upper)
    eps = jnp.finfo(operator.dtype).eps
    # Rounding moves eigenvalues by a modest multiple of eps times the norm, and that multiple grows slower than d.
    definite = low > 4 * jnp.sqrt(jnp.asarray(operator.dim, low.dtype)) * eps * high
    flags = jnp.where(definite, 0, int(Status.NOT_POSITIVE_DEFINITE))
    flags |= jnp.where(definite & (low < 1e3 * eps * high), int(Status.LOW_PRECISION), 0)
    flags |= jnp.where(definite & ~spectrum.resolved, int(Status.UNRESOLVED), 0)
    return flags.astype(jnp.int32), spectrum


def refuse(operator: Operator, spectrum: Spectrum | None, status: jax.Array, what: str) -> None:
    """Raise a ``ValueError`` if the operator, which `what` names, is not positive definite."""
    if not int(status) & Status.NOT_POSITIVE_DEFINITE:
        return
    if spectrum is None:
        found = "its Cholesky factorisation breaks down"
    else:
        low, high = float(spectrum.minimum), float(spectrum.maximum)
        found = f"eigenvalues run from {low:.3g} to {high:.3g}"
        if low > 0:
            found += f", condition number {high / low:.1e}"
    raise ValueError(
        f"{what} is not positive definite to working precision: {found}, at rounding error "
        f"{float(jnp.finfo(operator.dtype).eps):.1e} ({jnp.dtype(operator.dtype).name}). The process has no stationary "
        "law; add a shift, or use a wider dtype"
    )
