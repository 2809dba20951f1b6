"""What is known of a problem before it is run."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.device import as_realised
from thermolinalg.laws import Scalar
from thermolinalg.operators import as_inexact, is_concrete


class Level(IntEnum):
    """How much an estimate knows: each level contains those below it."""

    CONDITION_NUMBER = 1
    EXTREMES = 2
    SPECTRUM = 3
    RIGHT_HAND_SIDE = 4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ConditionNumber:
    r"""Nothing but :math:`\kappa = \lambda_\max/\lambda_\min`.

    The matrix is scaled so that its largest eigenvalue is one; times come in time constants of the device.

    Parameters
    ----------
    kappa : float, >= 1
    dim : int, >= 1
        Number of unknowns; a complex one counts as two.
    """

    kappa: Scalar
    dim: int = field(metadata={"static": True})

    def __post_init__(self) -> None:
        _check_dim(self.dim)
        if is_concrete(self.kappa) and not np.all(np.asarray(self.kappa) >= 1):
            raise ValueError(f"kappa must be at least 1, got {self.kappa}")

    @property
    def extremes(self) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest eigenvalue."""
        kappa = jnp.asarray(self.kappa, float)
        return 1 / kappa, jnp.ones_like(kappa)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Extremes:
    """The extreme eigenvalues, or bounds on them.

    Parameters
    ----------
    minimum, maximum : float, > 0
    dim : int, >= 1
        Number of unknowns; a complex one counts as two.
    """

    minimum: Scalar
    maximum: Scalar
    dim: int = field(metadata={"static": True})

    def __post_init__(self) -> None:
        _check_dim(self.dim)
        if is_concrete(self.minimum, self.maximum) and not 0 < float(self.minimum) <= float(self.maximum) < np.inf:
            raise ValueError(
                f"minimum and maximum must be positive and in this order, got {self.minimum} and {self.maximum}"
            )

    @property
    def extremes(self) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest eigenvalue."""
        return jnp.asarray(self.minimum, float), jnp.asarray(self.maximum, float)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Eigenvalues:
    """The whole spectrum.

    Parameters
    ----------
    rates : array, shape (n,), > 0
        Eigenvalues.
    counts : array, shape (n,), optional
        How many unknowns each stands for; one by default. A complex one counts as two.
    """

    rates: jax.Array
    counts: jax.Array | None = None

    def __post_init__(self) -> None:
        if is_concrete(self.rates) and not (np.ndim(self.rates) == 1 and np.all(np.asarray(self.rates) > 0)):
            raise ValueError(f"rates must be a vector of positive numbers, got {self.rates}")

    @classmethod
    def of(cls, A: Any) -> "Eigenvalues":
        """Return the spectrum of an array, operator, sparse matrix or program; a survey if it is matrix-free."""
        operator = as_realised(A).factor()
        rates, counts, _ = operator.measure(jnp.zeros((operator.dim, 0), operator.dtype))
        return cls(rates, counts)

    @property
    def extremes(self) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest eigenvalue."""
        return jnp.min(self.rates), jnp.max(self.rates)

    def measure(self) -> tuple[jax.Array, jax.Array]:
        """Eigenvalues and counts, as arrays."""
        rates = as_inexact(self.rates, "rates")
        return rates, jnp.ones_like(rates) if self.counts is None else jnp.asarray(self.counts, rates.dtype)


Knowledge = ConditionNumber | Extremes | Eigenvalues
"""What may be known of a spectrum."""


def level(known: Knowledge) -> Level:
    """The level of what is known."""
    if isinstance(known, Eigenvalues):
        return Level.SPECTRUM
    return Level.CONDITION_NUMBER if isinstance(known, ConditionNumber) else Level.EXTREMES


def as_known(A: Any) -> Knowledge:
    """Return what is known as it is, and of anything else the whole spectrum."""
    return A if isinstance(A, Knowledge) else Eigenvalues.of(A)


def check_length(name: str, value: ArrayLike | None) -> None:
    """Raise a ``ValueError`` if a length is known not to be a positive number."""
    if value is not None and is_concrete(value) and not (np.ndim(value) == 0 and 0 < float(np.asarray(value)) < np.inf):
        raise ValueError(f"{name} must be a positive number, got {value}")


def _check_dim(dim: int) -> None:
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise ValueError(f"dim must be a whole number of at least 1, got {dim!r}")
