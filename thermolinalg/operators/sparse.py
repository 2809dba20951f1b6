"""Products with a sparse matrix that compile to plain gathers."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseProduct:
    """Multiply blocks by a sparse matrix stored row by row in slots of equal number.

    ``values`` and ``columns`` have shape (slots, d): entry s of row i is ``values[s, i]`` in column ``columns[s,
    i]``. Rows with fewer entries are padded with zeros. Gathers of whole slots are several times faster than scatters
    on a CPU.
    """

    values: jax.Array
    columns: jax.Array

    def __call__(self, block: jax.Array) -> jax.Array:
        total = jnp.zeros_like(block)
        for values, columns in zip(self.values, self.columns, strict=True):
            total = total + values[:, None] * jnp.take(block, columns, axis=0, mode="clip")
        return total


def sparse_product(matrix: Any, dtype: Any) -> SparseProduct:
    """Store a SciPy sparse matrix as a :class:`SparseProduct`."""
    csr = matrix.tocsr()
    lengths = np.diff(csr.indptr)
    slots = max(int(lengths.max(initial=0)), 1)
    rows = np.repeat(np.arange(csr.shape[0]), lengths)
    place = np.arange(csr.nnz) - csr.indptr[rows]
    values = np.zeros((slots, csr.shape[0]), dtype)
    columns = np.zeros((slots, csr.shape[0]), np.int32)
    values[place, rows] = csr.data
    columns[place, rows] = csr.indices
    return SparseProduct(jnp.asarray(values), jnp.asarray(columns))
