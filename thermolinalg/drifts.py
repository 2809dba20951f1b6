"""Matrices without symmetry, as drifts of a process: what users bring, and how long such a process remembers."""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.laws import Scalar
from thermolinalg.operators import Operator, all_finite, as_inexact, is_concrete
from thermolinalg.transition import norm_bound, transition


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class General:
    """A square matrix that need not be symmetric.

    Wrapping says so, also under ``jit``, where values cannot be looked at: ``solve(General(A), b)``.

    Parameters
    ----------
    matrix : array, shape (d, d)
        Real or complex.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, thermolinalg as tla
    >>> A = tla.General(jnp.array([[1.0, 5.0], [0.0, 2.0]]))
    >>> x = tla.solve(A, jnp.array([6.0, 2.0]), key=jax.random.key(0), rtol=0.05)
    >>> bool(jnp.all(jnp.abs(x.value - jnp.array([1.0, 1.0])) < 5 * x.stderr))
    True
    """

    matrix: jax.Array


def as_drift(A: Any, name: str = "A") -> jax.Array:
    """Return `A` as a square matrix, of floating or complex numbers.

    Parameters
    ----------
    A : array (d, d), General, Operator, SciPy sparse matrix or lineax operator

    Raises
    ------
    ValueError
        If `A` is not square, not numeric or not finite.
    """
    lineax = sys.modules.get("lineax")
    if isinstance(A, General):
        A = A.matrix
    elif isinstance(A, Operator):
        A = A.matmat(jnp.eye(A.dim, dtype=A.dtype))
    elif hasattr(A, "tocsr"):
        A = A.toarray()
    elif lineax is not None and isinstance(A, lineax.AbstractLinearOperator):
        A = A.as_matrix()
    matrix = as_inexact(A, name)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"{name} must be a square matrix, got shape {matrix.shape}")
    if is_concrete(matrix) and not all_finite(matrix):
        raise ValueError(f"{name} has entries that are not finite; look for NaN, infinity or overflow in its making")
    return matrix


def as_real(matrix: jax.Array) -> jax.Array:
    r"""A complex matrix as a real one of twice the size that acts on real and imaginary parts; a real one as it is.

    .. math:: M \mapsto \begin{pmatrix} \Re M & -\Im M \\ \Im M & \Re M \end{pmatrix}

    A complex cell is two real ones: Products, inverses, exponentials and Lyapunov solutions go along.
    """
    if not jnp.issubdtype(matrix.dtype, jnp.complexfloating):
        return matrix
    return jnp.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])


def as_given(matrix: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The inverse of :func:`as_real`, for a matrix of this dtype; block errors are averaged."""
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return matrix
    d = matrix.shape[0] // 2
    real, imaginary = matrix[:d, :d] + matrix[d:, d:], matrix[d:, :d] - matrix[:d, d:]
    return jax.lax.complex(real / 2, imaginary / 2)


def settling_time(drift: jax.Array, block: jax.Array, fraction: Scalar) -> jax.Array:
    r"""A time after which :math:`\|e^{-At}V\|_F \le \mathtt{fraction}\,\|V\|_F`, at most a quarter longer than needed.

    Times up to :math:`1/\|A\|` are found to a factor of two only.

    Parameters
    ----------
    drift : Array, shape (d, d)
        Real; the time is infinite if it is not stable.
    block : Array, shape (d, k)
        :math:`V`.
    fraction : float, in (0, 1)
    """
    norm = norm_bound(drift)
    unit = 0.25 / jnp.where(norm > 0, norm, 1)
    # The whole map, whose diagonal keeps all its digits: rounding must not make a free mode settle.
    first = transition(drift, jnp.zeros_like(drift[0]), jnp.zeros_like(drift), unit).propagator
    goal = jnp.asarray(fraction).astype(drift.dtype) * jnp.linalg.norm(block)

    def left(power):
        return ~(jnp.linalg.norm(power @ block) <= goal)

    def double(carry):
        powers, doublings = carry
        return jnp.concatenate([powers[1:], (powers[-1] @ powers[-1])[None]]), doublings + 1

    # Of the powers 2^k only the last four are kept: they place the time to an eighth.
    powers = jnp.repeat(first[None], 4, 0)
    limit = jnp.finfo(drift.dtype).nmant + 8

    def unsettled(carry):
        return left(carry[0][-1]) & (carry[1] < limit)

    powers, doublings = jax.lax.while_loop(unsettled, double, (powers, jnp.array(0)))
    found, time = powers[2], jnp.asarray(0.5, drift.dtype)
    for k, length in ((1, 0.25), (0, 0.125)):
        further = found @ powers[k]
        still = left(further)
        found, time = jnp.where(still, further, found), jnp.where(still, time + length, time)
    time = jnp.where(doublings >= 3, time + 0.125, 1.0)
    reached = ~left(powers[-1])
    total = unit * jnp.exp2(doublings.astype(drift.dtype)) * time
    return jnp.where(reached, jnp.where(goal > 0, total, 0.0), jnp.inf)
