"""Networks of capacitors, and the matrices that they realise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.operators import as_inexact, is_concrete


def maxwell_matrix(capacitances: ArrayLike) -> jax.Array:
    r"""Return the Maxwell matrix of a network of capacitors.

    .. math:: M_{ii} = C_{ii} + \sum_{j \ne i} C_{ij}, \qquad M_{ij} = -C_{ij}

    Parameters
    ----------
    capacitances : array, shape (d, d)
        :math:`C_{ii}` from cell i to ground and :math:`C_{ij} = C_{ji}` between cells, none negative; in farad or any
        other unit.

    Returns
    -------
    Array, shape (d, d)
        Charges of the cells are this matrix times their voltages, and their energy is half its quadratic form.

    Raises
    ------
    ValueError
        If the array is not square, symmetric and finite, or an entry is negative; under ``jit`` values are not looked
        at.

    Notes
    -----
    The matrix is positive definite if every cell is connected to ground, if only through others; it is singular, not
    refused, if some are not.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> maxwell_matrix(jnp.array([[1.0, 0.5], [0.5, 2.0]])).tolist()
    [[1.5, -0.5], [-0.5, 2.5]]
    """
    given = as_real_symmetric("capacitances", capacitances)
    if is_concrete(given):
        found = np.asarray(given)
        if (found < 0).any():
            i, j = np.unravel_index(np.argmin(found), found.shape)
            raise ValueError(
                f"capacitances[{i}, {j}] is {found[i, j]:.3g}; no capacitor is negative. couplings_of(matrix) turns a "
                "Maxwell matrix into capacitances"
            )
    between = given - jnp.diag(jnp.diagonal(given))
    return jnp.diag(jnp.diagonal(given) + jnp.sum(between, axis=1)) - between


def couplings_of(matrix: ArrayLike) -> jax.Array:
    r"""Return the capacitors that realise a matrix; the inverse of :func:`maxwell_matrix`.

    .. math:: C_{ij} = -M_{ij}, \qquad C_{ii} = \sum_j M_{ij}

    Parameters
    ----------
    matrix : array, shape (d, d)
        Symmetric, with no positive entry beside the diagonal and no negative row sum.

    Returns
    -------
    Array, shape (d, d)
        :math:`C_{ii}` to ground and :math:`C_{ij}` between cells. A row sum that is negative by rounding is zero.

    Raises
    ------
    ValueError
        If no capacitors realise the matrix, naming the entry or the row; under ``jit`` values are not looked at.

    Notes
    -----
    A positive definite matrix without positive entries beside the diagonal can always be scaled until its rows pass:
    with :math:`u = A^{-1} 1`, which is positive, the rows of :math:`M = \operatorname{diag}(u)\,A\,\operatorname{diag}
    (u)` sum to u, and :math:`A^{-1} = \operatorname{diag}(u)\,M^{-1}\operatorname{diag}(u)`. Positive entries beside
    the diagonal take a change of unknowns: flipping the signs of some of them, where that makes all entries negative.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> couplings_of(jnp.array([[1.5, -0.5], [-0.5, 2.5]])).tolist()
    [[1.0, 0.5], [0.5, 2.0]]
    """
    given = as_real_symmetric("matrix", matrix)
    sums = jnp.sum(given, axis=1)
    between = jnp.diag(jnp.diagonal(given)) - given
    if is_concrete(given):
        found, ground = np.asarray(between), np.asarray(sums)
        if (found < 0).any():
            i, j = np.unravel_index(np.argmin(found), found.shape)
            raise ValueError(
                f"matrix[{i}, {j}] is {-found[i, j]:.3g}, and a capacitor between two cells can only be a negative "
                "entry; flip the signs of some unknowns if that makes all entries beside the diagonal negative"
            )
        # Of the sum of d numbers rounding leaves d rounding errors of their sizes.
        least = -given.shape[0] * float(jnp.finfo(given.dtype).eps) * np.sum(np.abs(np.asarray(given)), axis=1)
        if (ground < least).any():
            row = int(np.argmin(ground - least))
            raise ValueError(
                f"row {row} of matrix sums to {ground[row]:.3g}: its diagonal is smaller than the couplings beside it, "
                "which takes a negative capacitor to ground; raise the diagonal, or scale it as the notes say"
            )
    return between + jnp.diag(jnp.maximum(sums, 0))


def as_real_symmetric(name: str, value: Any) -> jax.Array:
    """A real, symmetric, finite matrix; checked where its values are known."""
    given = as_inexact(value, name)
    if given.ndim != 2 or given.shape[0] != given.shape[1] or given.shape[0] == 0 or jnp.iscomplexobj(given):
        raise ValueError(f"{name} must be a real square matrix, got {given.dtype} of shape {given.shape}")
    if is_concrete(given):
        found = np.asarray(given)
        if not np.isfinite(found).all():
            raise ValueError(f"{name} has entries that are not finite")
        gap = np.abs(found - found.T)
        if gap.max() > 1e3 * float(jnp.finfo(given.dtype).eps) * np.abs(found).max():
            i, j = np.unravel_index(np.argmax(gap), gap.shape)
            raise ValueError(
                f"{name} is not symmetric: [{i}, {j}] is {found[i, j]:.6g} and [{j}, {i}] is {found[j, i]:.6g}"
            )
    return given
