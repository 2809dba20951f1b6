"""The extremes of a spectrum, and how well they are known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.operators import as_operator


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Spectrum:
    """Smallest and largest eigenvalue of a symmetric operator, each with a bound.

    Attributes
    ----------
    minimum, maximum : Array, shape ()
        Best estimates: exact up to rounding for an operator that was diagonalised, Ritz values otherwise.
    lower, upper : Array, shape ()
        Bounds: `lower` is not above the smallest eigenvalue, `upper` not below the largest.

    Notes
    -----
    For a matrix-free operator the bounds hold with probability 0.99 over the start vector of the Lanczos process, and
    the estimate of the minimum is always too large. When the lower bound is not positive the process was too short to
    see the smallest eigenvalue at all: ``resolved`` is False and no time planned from ``minimum`` is safe.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> spectrum = Spectrum.of(jnp.diag(jnp.array([1.0, 2.0, 4.0])))
    >>> float(spectrum.kappa), bool(spectrum.resolved)
    (4.0, True)
    """

    minimum: jax.Array
    maximum: jax.Array
    lower: jax.Array
    upper: jax.Array

    @classmethod
    def of(cls, A: Any) -> "Spectrum":
        """Return the spectrum of an array, operator, SciPy sparse matrix or lineax operator."""
        lower, minimum, maximum, upper = as_operator(A).factor().extremes()
        return cls(minimum, maximum, lower, upper)

    @property
    def kappa(self) -> jax.Array:
        """Condition number, from the estimates."""
        return self.maximum / self.minimum

    @property
    def kappa_bound(self) -> jax.Array:
        """Upper bound on the condition number; infinite when unresolved."""
        return jnp.where(self.resolved, self.upper / jnp.where(self.resolved, self.lower, 1.0), jnp.inf)

    @property
    def resolved(self) -> jax.Array:
        """Whether the lower bound is positive."""
        return self.lower > 0

    def explain(self, detail: int = 1) -> str:
        """One sentence, or with more detail the bounds too; outside of ``jit`` only."""

        def told(x: jax.Array, worst: Callable[..., np.ndarray]) -> str:
            return f"{float(worst(np.asarray(x))):.3g}"

        low, high = told(self.minimum, np.min), told(self.maximum, np.max)
        said = f"The eigenvalues run from {low} to {high}, condition number {told(self.kappa, np.max)}."
        if detail == 1:
            return said
        if not np.all(np.asarray(self.resolved)):
            return f"{said} The smallest is an estimate that may be far too large."
        exact = np.array_equal(np.asarray(self.lower), np.asarray(self.minimum))
        bounds = f"between {told(self.lower, np.min)} and {told(self.upper, np.max)} with probability 0.99"
        return f"{said} They are {'exact up to rounding' if exact else bounds}."
