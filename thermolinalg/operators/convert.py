"""From what users have to an operator, with the checks that can be made before anything runs."""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.operators.base import Operator
from thermolinalg.operators.matrix_free import MatrixFree
from thermolinalg.operators.modal import Dense, Diagonal
from thermolinalg.operators.sparse import sparse_product

DENSE_LIMIT = 2048
"""Largest sparse matrix that is stored densely: below, one ``eigh`` is cheaper and sharper than a Lanczos process."""


def as_operator(A: Any, name: str = "A") -> Operator:
    """Return `A` as an operator.

    Parameters
    ----------
    A : array (d, d), Operator, SciPy sparse matrix or lineax operator
        Real symmetric or complex Hermitian.
    name : str
        What to call it in messages.

    Raises
    ------
    ValueError
        If `A` is not square, not numeric, not finite, or not symmetric beyond rounding.

    Notes
    -----
    Values are looked at only where they are known, not under ``jit``. Integers become floats of the default width. A
    sparse matrix of up to 2048 unknowns is stored densely.
    """
    if isinstance(A, Operator):
        return A
    if hasattr(A, "tocsr"):
        return _from_sparse(A, name)
    lineax = sys.modules.get("lineax")
    if lineax is not None and isinstance(A, lineax.AbstractLinearOperator):
        return _from_lineax(lineax, A, name)
    return _from_array(A, name)


def _from_array(A: ArrayLike, name: str) -> Operator:
    matrix = as_inexact(A, name)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"{name} must be a square matrix, got shape {matrix.shape}")
    found = _inspect(matrix)
    if is_concrete(found):
        finite, asymmetry = (x.item() for x in found)
        _check_values(name, matrix.dtype, finite, asymmetry)
    return Dense(matrix)


def _from_sparse(A: Any, name: str) -> Operator:
    if A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] == 0:
        raise ValueError(f"{name} must be a square matrix, got shape {A.shape}")
    if A.shape[0] <= DENSE_LIMIT:
        return _from_array(A.toarray(), name)
    csr = A.tocsr()
    csr.sum_duplicates()
    dtype = as_inexact(csr.data[:0], name).dtype
    largest = np.abs(csr.data).max(initial=0.0)
    asymmetry = np.abs((csr - csr.conj().T).data).max(initial=0.0)
    _check_values(name, dtype, bool(np.isfinite(csr.data).all()), float(asymmetry / largest) if largest else 0.0)
    return MatrixFree(sparse_product(csr, dtype), csr.shape[0], dtype)


def _from_lineax(lineax: Any, A: Any, name: str) -> Operator:
    rows, columns = A.out_size(), A.in_size()
    if rows != columns:
        raise ValueError(f"{name} must be square, got a lineax operator of shape ({rows}, {columns})")
    if isinstance(A, lineax.DiagonalLinearOperator):
        return Diagonal(lineax.diagonal(A))
    if isinstance(A, lineax.MatrixLinearOperator):
        return _from_array(A.as_matrix(), name)
    if not isinstance(A.in_structure(), jax.ShapeDtypeStruct) or A.in_structure().ndim != 1:
        raise ValueError(f"{name} must map vectors of shape (d,), got a lineax operator on {A.in_structure()}")
    if not (lineax.is_symmetric(A) or lineax.is_positive_semidefinite(A)):
        raise ValueError(f"{name} is not known to be symmetric; tag it with lineax.positive_semidefinite_tag")
    leaves, structure = jax.tree.flatten(A)
    arrays = [leaf if isinstance(leaf, jax.Array) else None for leaf in leaves]
    rest = tuple(None if isinstance(leaf, jax.Array) else leaf for leaf in leaves)
    product = jax.tree_util.Partial(_LineaxProduct(structure, rest), arrays)
    return MatrixFree(product, columns, A.in_structure().dtype)


@dataclass(frozen=True)
class _LineaxProduct:
    """Product with a lineax operator, whose leaves need not all be arrays."""

    structure: Any
    rest: tuple[Any, ...]

    def __call__(self, arrays: list[jax.Array | None], block: jax.Array) -> jax.Array:
        leaves = [other if array is None else array for array, other in zip(arrays, self.rest, strict=True)]
        return jax.vmap(jax.tree.unflatten(self.structure, leaves).mv, in_axes=1, out_axes=1)(block)


def _check_values(name: str, dtype: Any, finite: bool, asymmetry: float) -> None:
    if not finite:
        raise ValueError(f"{name} has entries that are not finite; look for NaN, infinity or overflow in its making")
    limit = 1e-8 if jnp.finfo(dtype).eps < 1e-12 else 1e-4
    if asymmetry > limit:
        raise ValueError(
            f"{name} is not symmetric: entries differ from their transposes by {asymmetry:.1e} of the largest entry "
            f"(at most {limit:.0e} passes as rounding); pass (A + A.T) / 2 if that is what you "
            f"mean, or General({name}) to a verb that takes matrices without symmetry"
        )


@jax.jit
def _inspect(matrix):
    """Whether all is finite, and the largest deviation from symmetry relative to the largest entry."""
    largest = jnp.max(jnp.abs(matrix))
    deviation = jnp.max(jnp.abs(matrix - matrix.conj().T))
    return jnp.all(jnp.isfinite(matrix)), jnp.where(largest > 0, deviation / jnp.where(largest > 0, largest, 1), 0)


def all_finite(block: jax.Array) -> bool:
    """Whether a block is finite; a single process need not hold all of it."""
    if block.is_fully_addressable:
        return bool(np.isfinite(block).all())
    with jax.ensure_compile_time_eval():
        return bool(jnp.all(jnp.isfinite(block)))


def as_inexact(x: Any, name: str) -> jax.Array:
    """Return `x` as a floating or complex array: its own type, or the default one for integers."""
    try:
        array = jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numeric, got {type(x).__name__}: {error}") from None
    if is_concrete(array):
        _check_sharding(array.sharding, name)
    if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == jnp.bool_:
        return array.astype(jnp.zeros(()).dtype)
    if jnp.finfo(array.dtype).bits < 32:
        raise ValueError(f"{name} has dtype {array.dtype}; 16-bit floats cannot hold the laws, pass float32 or float64")
    return array


def _check_sharding(sharding: jax.sharding.Sharding, name: str) -> None:
    if not isinstance(sharding, jax.sharding.NamedSharding) or not any(sharding.spec):
        return
    if jax.sharding.AxisType.Explicit in sharding.mesh.axis_types:
        raise ValueError(
            f"{name} is spread over explicit axes of a mesh, {sharding.spec}, where JAX leaves the sharding of every "
            "intermediate result to the code; make the mesh with axis_types=(jax.sharding.AxisType.Auto,) * axes"
        )


def as_block(b: Any, operator: Operator, name: str) -> jax.Array:
    """Return `b` as a block of columns, shape (d, k), in the type of the operator.

    Raises
    ------
    ValueError
        If its length does not match, it is not finite, or it is complex and the operator is not.
    """
    block = as_inexact(b, name)
    if block.ndim not in (1, 2) or block.shape[0] != operator.dim:
        raise ValueError(
            f"{name} must have shape ({operator.dim},) or ({operator.dim}, k) to match the operator, got {block.shape}"
        )
    if is_concrete(block) and not all_finite(block):
        raise ValueError(f"{name} has entries that are not finite; look for NaN, infinity or overflow in its making")
    if jnp.issubdtype(block.dtype, jnp.complexfloating) and operator.components == 1:
        raise ValueError(f"{name} is complex and A is real; pass A.astype(complex) to solve for both parts at once")
    return block.astype(operator.dtype).reshape(block.shape[0], -1)


def is_concrete(*trees: Any) -> bool:
    """Whether all arrays in the trees have values now, which they do not inside a transformation."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))
