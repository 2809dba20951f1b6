"""What is to be certified: a system, and an answer to it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.device import as_couplings
from thermolinalg.operators import Operator, as_block, as_inexact, is_concrete
from thermolinalg.solution import Solution


def as_system(A: Any, b: ArrayLike, x: Solution | ArrayLike) -> tuple[Operator, jax.Array, jax.Array, tuple[int, ...]]:
    """Return the operator, right-hand sides and answers as blocks (d, k), and the shape of one number for each."""
    operator = as_couplings(A)
    force = as_block(b, operator, "b")
    value = x.value if isinstance(x, Solution) else as_inexact(x, "x")
    answer = as_block(value, operator, "x")
    if answer.shape != force.shape:
        raise ValueError(f"x must have the shape of b, got {jnp.shape(value)} and {jnp.shape(b)}")
    return operator, force, answer, jnp.shape(b)[1:]


def as_matrix(X: Solution | ArrayLike, name: str, d: int, dtype: jnp.dtype) -> jax.Array:
    """Return an answer that is a square matrix of size d, in this dtype."""
    value = X.value if isinstance(X, Solution) else as_inexact(X, name)
    if value.shape != (d, d):
        raise ValueError(f"{name} must have shape ({d}, {d}) to match A, got {value.shape}")
    if is_concrete(value) and not np.all(np.isfinite(np.asarray(value))):
        raise ValueError(f"{name} has entries that are not finite; look for NaN, infinity or overflow in its making")
    if jnp.iscomplexobj(value) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} is complex and A is real; pass A.astype(complex)")
    return value.astype(dtype)


def check_samples(samples: Any) -> None:
    """Raise a ``ValueError`` if a number of samples is known not to be positive."""
    if is_concrete(samples) and not np.all(np.asarray(samples) > 0):
        raise ValueError(f"samples must be positive, got {samples}")
