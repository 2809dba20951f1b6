"""Operators that are diagonalised once: dense, diagonal, low rank plus shift, Kronecker product."""

from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import cast

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from thermolinalg.operators.base import Function, Matmat, Modal, Operator, Write, mix

# Operands are checked to be symmetric; symmetrising them again would read the matrix once more.
_eigh = jax.jit(partial(jnp.linalg.eigh, symmetrize_input=False))
_cholesky = jax.jit(partial(jnp.linalg.cholesky, symmetrize_input=False))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dense(Modal):
    """A symmetric matrix; functions of it cost one ``eigh``, once.

    Parameters
    ----------
    matrix : Array, shape (d, d)
        Real symmetric or complex Hermitian. The lower triangle is what the factorisations read.
    """

    matrix: jax.Array
    eigenvalues: jax.Array | None = None
    eigenvectors: jax.Array | None = None
    triangle: jax.Array | None = field(default=None, repr=False)

    @property
    def dim(self) -> int:
        return self.matrix.shape[-1]

    @property
    def dtype(self) -> jnp.dtype:
        return self.matrix.dtype

    @property
    def rates(self) -> jax.Array:
        if self.eigenvalues is None:
            raise ValueError("the operator is not factored yet; call factor() once and keep what it returns")
        return self.eigenvalues

    @property
    def basis(self) -> jax.Array:
        if self.eigenvectors is None:
            raise ValueError("the operator is not factored yet; call factor() once and keep what it returns")
        return self.eigenvectors

    def factor(self) -> "Dense":
        if self.eigenvalues is not None:
            return self
        eigenvalues, eigenvectors = _eigh(self.matrix)
        return replace(self, eigenvalues=eigenvalues, eigenvectors=eigenvectors)

    def triangulate(self) -> "Dense":
        """Return the operator with its Cholesky factor, all that :meth:`solve` needs; not finite if not definite."""
        return self if self.triangle is not None else replace(self, triangle=_cholesky(self.matrix))

    def ready(self) -> "Dense":
        return self if self.eigenvalues is not None else self.triangulate()

    def rewritten(self, write: Write) -> "Dense":
        return Dense(write(self.matrix, True, 0))

    def damped(self, damping: jax.Array | float) -> "Dense":
        return Dense(self.matrix + jnp.asarray(damping).astype(self.dtype) * jnp.eye(self.dim, dtype=self.dtype))

    def matmat(self, block: jax.Array) -> jax.Array:
        return self.matrix @ block

    def to_modes(self, block: jax.Array) -> jax.Array:
        return (block.T @ self.basis.conj()).T  # row by row, which is twice as fast for few columns

    def from_modes(self, block: jax.Array) -> jax.Array:
        return self.basis @ block

    def diagonal(self, function: Function) -> jax.Array:
        # Summed as it is multiplied; a product with the squares would write all of them first.
        return jnp.sum((self.basis * self.basis.conj()).real * function(self.rates)[None], 1)

    def solve(self, block: jax.Array) -> jax.Array:
        return super().solve(block) if self.triangle is None else cho_solve((self.triangle, True), block)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Diagonal(Modal):
    """A diagonal matrix, given by its diagonal, shape (d,)."""

    values: jax.Array

    @property
    def dim(self) -> int:
        return self.values.shape[-1]

    @property
    def dtype(self) -> jnp.dtype:
        return self.values.dtype

    @property
    def rates(self) -> jax.Array:
        return self.values

    def factor(self) -> "Diagonal":
        return self

    def rewritten(self, write: Write) -> "Diagonal":
        return Diagonal(write(self.values, False, 0))

    def damped(self, damping: jax.Array | float) -> "Diagonal":
        return Diagonal(self.values + jnp.asarray(damping).astype(self.dtype))

    def matmat(self, block: jax.Array) -> jax.Array:
        return self.values[:, None] * block

    def to_modes(self, block: jax.Array) -> jax.Array:
        return block

    def from_modes(self, block: jax.Array) -> jax.Array:
        return block

    def diagonal(self, function: Function) -> jax.Array:
        return function(self.values)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Kronecker(Modal):
    r"""The Kronecker product :math:`A_1 \otimes A_2 \otimes \cdots`, ordered as in ``numpy.kron``.

    Parameters
    ----------
    factors : tuple of Dense or Diagonal
        One ``eigh`` for each factor, never one of the product.
    """

    factors: tuple[Modal, ...]

    @property
    def dim(self) -> int:
        return reduce(lambda size, factor: size * factor.dim, self.factors, 1)

    @property
    def dtype(self) -> jnp.dtype:
        return self.factors[0].dtype

    @property
    def rates(self) -> jax.Array:
        return reduce(lambda left, right: jnp.outer(left, right).ravel(), [factor.rates for factor in self.factors])

    def factor(self) -> "Kronecker":
        return Kronecker(tuple(cast(Modal, factor.factor()) for factor in self.factors))

    def __post_init__(self) -> None:
        types = {jnp.dtype(factor.dtype) for factor in self.factors if isinstance(factor, Modal)}
        if len(types) > 1:
            raise ValueError(f"the factors of a Kronecker product must have one dtype, got {sorted(map(str, types))}")

    def rewritten(self, write: Write) -> "Kronecker":
        def written(array: int, factor: Modal) -> Modal:
            return cast(Modal, factor.rewritten(lambda block, symmetric, _: write(block, symmetric, array)))

        return Kronecker(tuple(written(array, factor) for array, factor in enumerate(self.factors)))

    def matmat(self, block: jax.Array) -> jax.Array:
        return self._each(block, [factor.matmat for factor in self.factors])

    def to_modes(self, block: jax.Array) -> jax.Array:
        return self._each(block, [factor.to_modes for factor in self.factors])

    def from_modes(self, block: jax.Array) -> jax.Array:
        return self._each(block, [factor.from_modes for factor in self.factors])

    def diagonal(self, function: Function) -> jax.Array:
        def squared(factor: Modal) -> Matmat:
            weights = jnp.abs(factor.basis) ** 2
            return lambda block: weights @ block

        values = function(self.rates)[:, None]
        return self._each(values, [squared(factor) for factor in self.factors])[:, 0]

    def _each(self, block, maps):
        """Apply one map to each axis of the block seen as a tensor."""
        k = block.shape[1]
        tensor = block.reshape(*(factor.dim for factor in self.factors), k)
        for axis, transform in enumerate(maps):
            moved = jnp.moveaxis(tensor, axis, 0)
            tensor = jnp.moveaxis(transform(moved.reshape(moved.shape[0], -1)).reshape(moved.shape), 0, axis)
        return tensor.reshape(-1, k)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank(Operator):
    r"""Low rank plus shift, :math:`A = \sigma I + V V^*`; functions of it cost one ``eigh`` of size r.

    Parameters
    ----------
    columns : Array, shape (d, r)
        :math:`V`, with r much smaller than d.
    shift : float, > 0
        :math:`\sigma`.
    """

    columns: jax.Array
    shift: jax.Array
    basis: jax.Array | None = None
    gains: jax.Array | None = None

    @property
    def dim(self) -> int:
        return self.columns.shape[0]

    @property
    def dtype(self) -> jnp.dtype:
        return self.columns.dtype

    @property
    def rates(self) -> jax.Array:
        """The r eigenvalues on the range of `columns`, then the shift, which stands for the d - r others."""
        return jnp.append(self._factors()[1] + self._shift(), self._shift())

    def factor(self) -> "LowRank":
        if self.basis is not None:
            return self
        gains, rotation = _eigh(self.columns.conj().T @ self.columns)
        floor = self.columns.shape[0] * jnp.finfo(gains.dtype).eps * jnp.max(gains)
        inside = gains > floor
        scale = jnp.where(inside, 1 / jnp.sqrt(jnp.where(inside, gains, 1.0)), 0.0)
        basis = (self.columns @ rotation) * scale[None].astype(self.dtype)
        return replace(self, basis=basis, gains=jnp.where(inside, gains, 0.0))

    def rewritten(self, write: Write) -> "LowRank":
        # The shift is a component of every cell, not a coupling.
        return LowRank(write(self.columns, False, 0), self.shift)

    def damped(self, damping: jax.Array | float) -> "LowRank":
        return replace(self, shift=self._shift() + jnp.asarray(damping).astype(self._shift().dtype))

    def matmat(self, block: jax.Array) -> jax.Array:
        return self._shift().astype(self.dtype) * block + self.columns @ (self.columns.conj().T @ block)

    def combine(self, function: Function, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        inside, outside = self._split(function)
        basis = self._factors()[0]
        mixed = mix(inside, jnp.einsum("dr,qdk->rqk", basis.conj(), vectors))
        correction = jnp.einsum("dr,rpk->pdk", basis, mixed)
        return jnp.einsum("pq,qdk->pdk", outside.astype(vectors.dtype), vectors) + correction, jnp.array(True)

    def magnitude(self, function: Function, vectors: jax.Array) -> jax.Array:
        return jnp.abs(self.combine(lambda rates: function(rates)[None], vectors)[0][0])

    def diagonal(self, function: Function) -> jax.Array:
        inside, outside = self._split(lambda rates: function(rates)[None, None])
        return outside[0, 0] + jnp.abs(self._factors()[0]) ** 2 @ inside[0, 0]

    def solve(self, block: jax.Array) -> jax.Array:
        return self.apply(lambda rates: 1 / rates, block)

    def extremes(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        spread, high = self.rates[:-1], jnp.max(self.rates)
        full = jnp.sum(self._factors()[1] > 0) >= self.dim
        low = jnp.where(full, jnp.min(spread, initial=jnp.inf), self._shift())
        return low, low, high, high

    def measure(self, block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        basis, gains = self._factors()
        spread = (gains > 0).astype(gains.dtype)
        counts = self.components * jnp.append(spread, self.dim - jnp.sum(spread))
        modes = basis.conj().T @ block
        rest = jnp.sum(jnp.abs(block - basis @ modes) ** 2, 0, keepdims=True)
        return self.rates, counts, jnp.concatenate([jnp.abs(modes) ** 2, rest])

    def _split(self, function):
        """Values of the function on the range relative to its value at the shift, and that value."""
        values = function(self.rates)
        return values[..., :-1] - values[..., -1:], values[..., -1]

    def _shift(self) -> jax.Array:
        return jnp.asarray(self.shift, jnp.finfo(self.dtype).dtype)

    def _factors(self) -> tuple[jax.Array, jax.Array]:
        if self.basis is None or self.gains is None:
            raise ValueError("the operator is not factored yet; call factor() once and keep what it returns")
        return self.basis, self.gains
