"""Numbers out of range, refused by name where they are known."""

from itertools import pairwise
from typing import Any

import jax
import numpy as np

from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete


def check_positive(**values: Scalar | None) -> None:
    """Raise a ``ValueError`` that names the first value known not to be positive and finite."""
    for name, value in _known(values):
        if not np.all((np.asarray(value) > 0) & np.isfinite(np.asarray(value))):
            raise ValueError(f"{name} must be positive and finite, got {value}")


def check_not_negative(**values: Scalar | None) -> None:
    """Raise a ``ValueError`` that names the first value known to be negative or not finite."""
    for name, value in _known(values):
        if not np.all((np.asarray(value) >= 0) & np.isfinite(np.asarray(value))):
            raise ValueError(f"{name} must be finite and not negative, got {value}")


def check_finite(**values: Scalar | None) -> None:
    """Raise a ``ValueError`` that names the first value known not to be finite."""
    for name, value in _known(values):
        if not np.all(np.isfinite(np.asarray(value))):
            raise ValueError(f"{name} must be finite, got {value}")


def check_fractions(**values: Scalar | None) -> None:
    """Raise a ``ValueError`` that names the first value known not to lie between 0 and 1."""
    for name, value in _known(values):
        if not np.all((np.asarray(value) > 0) & (np.asarray(value) < 1)):
            raise ValueError(f"{name} must lie between 0 and 1, got {value}")


def check_order(**values: Any) -> None:
    """Raise a ``ValueError`` that names the first value known not to be below the one after it."""
    for (lower, low), (upper, high) in pairwise(_known(values)):
        if not np.all(np.asarray(low) < np.asarray(high)):
            raise ValueError(f"{upper} must be above {lower}, got {low} and {high}")


def check_whole(name: str, value: int, least: int) -> None:
    """Raise a ``ValueError`` if a count is not a whole number, known before tracing, of at least this size."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, known before tracing, got {value!r}")


def check_count(**values: Scalar | None) -> None:
    """Raise a ``ValueError`` that names the first value known not to be a whole number of at least 1."""
    for name, value in _known(values):
        found = np.asarray(value)
        if not np.all((found >= 1) & (found == np.round(found)) & np.isfinite(found)):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value}")


def _known(values: dict[str, Any]) -> list[tuple[str, Any]]:
    """The values that are numbers now. JAX and its users rebuild pytrees with other things in place of leaves."""
    return [
        (name, value)
        for name, value in values.items()
        if isinstance(value, int | float | np.ndarray | np.generic | jax.Array)
        and not isinstance(value, bool)
        and is_concrete(value)
    ]
