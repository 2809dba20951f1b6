"""Inverses of positive definite matrices by halves: products nearly all the way, which every machine does best."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

_LEAF = 320


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """A product in the full precision of its dtype, on every machine."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def inverse_factor(matrix: jax.Array) -> jax.Array:
    r"""Return the inverse of the lower Cholesky factor.

    .. math:: M = L L^\top, \qquad L = \begin{pmatrix} L_1 & 0 \\ K & L_2 \end{pmatrix} \;\Rightarrow\;
        L^{-1} = \begin{pmatrix} L_1^{-1} & 0 \\ -L_2^{-1} K L_1^{-1} & L_2^{-1} \end{pmatrix}, \quad
        K = M_{21} L_1^{-\top}, \quad L_2 L_2^\top = M_{22} - K K^\top

    Parameters
    ----------
    matrix : array (d, d)
        Symmetric and positive definite.

    Returns
    -------
    array (d, d)
        Lower triangular; NaN where the matrix is not positive definite.

    Notes
    -----
    :math:`\tfrac43 d^3` operations, products all but those of the leaves. A half is multiplied by the inverse of the
    other half's factor rather than solved with: the error grows with :math:`\sqrt\kappa`, that of the factor.

    References
    ----------
    Demmel, Higham and Schreiber, *Stability of block LU factorization*, Numer. Linear Algebra Appl. 2, 1995.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> inverse_factor(jnp.diag(jnp.array([4.0, 16.0]))).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    size = len(matrix)
    if size <= _LEAF:
        return solve_triangular(jnp.linalg.cholesky(matrix), jnp.eye(size, dtype=matrix.dtype), lower=True)
    half = size // 2
    first = inverse_factor(matrix[:half, :half])
    corner = product(matrix[half:, :half], first.T)
    second = inverse_factor(matrix[half:, half:] - product(corner, corner.T))
    below = -product(second, product(corner, first))
    return jnp.block([[first, jnp.zeros((half, size - half), matrix.dtype)], [below, second]])


def gram_of_triangle(lower: jax.Array) -> jax.Array:
    r"""Return :math:`T^\top T` of a lower triangle, without the products by its zeros.

    Parameters
    ----------
    lower : array (d, d)

    Returns
    -------
    array (d, d)
        Symmetric.

    Notes
    -----
    :math:`\tfrac23 d^3` operations.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> gram_of_triangle(jnp.array([[1.0, 0.0], [2.0, 3.0]])).tolist()
    [[5.0, 6.0], [6.0, 9.0]]
    """
    size = len(lower)
    if size <= _LEAF:
        return product(lower.T, lower)
    half = size // 2
    first, below, second = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    side = product(second.T, below)
    return jnp.block([[gram_of_triangle(first) + product(below.T, below), side.T], [side, gram_of_triangle(second)]])
