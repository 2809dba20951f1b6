"""Symmetric diagonal scaling, which costs nothing and often lowers the condition number."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.operators import Dense, Diagonal, as_operator, is_concrete


def unit_diagonal(A: Any) -> tuple[Any, jax.Array]:
    r"""Scale a positive definite matrix to a diagonal of ones.

    .. math:: \tilde A = SAS, \qquad S = \operatorname{diag}(A)^{-1/2}, \qquad A^{-1}b = S\tilde A^{-1}Sb

    Parameters
    ----------
    A : array (d, d), SciPy sparse matrix, dense or diagonal operator
        Real symmetric or complex Hermitian, with a positive diagonal.

    Returns
    -------
    matrix
        A sparse matrix for a sparse matrix, an array otherwise.
    Array, shape (d,)
        The diagonal of S, real.

    Raises
    ------
    ValueError
        If an entry of the diagonal is not positive: no positive definite matrix has one. Under ``jit`` the scale is
        NaN.

    Notes
    -----
    Among all diagonal scalings the condition number is within a factor of d of the least. It removes what different
    units of the unknowns do, no more.

    References
    ----------
    van der Sluis, *Condition numbers and equilibration of matrices*, Numer. Math. 14 (1969).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> scaled, scale = unit_diagonal(jnp.array([[4.0, 1.0], [1.0, 100.0]]))
    >>> [[round(x, 3) for x in row] for row in scaled.tolist()], [round(x, 3) for x in scale.tolist()]
    ([[1.0, 0.05], [0.05, 1.0]], [0.5, 0.1])
    """
    if hasattr(A, "tocsr"):
        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(f"A must be a square matrix, got shape {A.shape}")
        diagonal = np.real(A.diagonal())
        _check(diagonal)
        scale = 1 / np.sqrt(diagonal)
        entries = A.tocoo(copy=True)
        entries.data = entries.data * (scale[entries.row] * scale[entries.col])
        return entries.asformat(A.format), jnp.asarray(scale)
    operator = as_operator(A)
    if not isinstance(operator, Dense | Diagonal):
        raise ValueError(f"the diagonal of a {type(operator).__name__} operator is not known; pass an array")
    matrix = operator.matrix if isinstance(operator, Dense) else jnp.diag(operator.values)
    diagonal = jnp.diagonal(matrix).real
    if is_concrete(diagonal):
        _check(np.asarray(diagonal))
    scale = 1 / jnp.sqrt(diagonal)
    return matrix * jnp.outer(scale, scale).astype(matrix.dtype), scale


def _check(diagonal: np.ndarray) -> None:
    wrong = np.flatnonzero(~(diagonal > 0))
    if wrong.size:
        raise ValueError(
            f"A must have a positive diagonal, as every positive definite matrix does; entry {wrong[0]} is "
            f"{diagonal[wrong[0]]:.3g} ({wrong.size} of {diagonal.size} are not positive)"
        )
