"""Functions of a Gram matrix times vectors: by its eigenbasis, or by Krylov spaces where it is large."""

from collections.abc import Callable
from dataclasses import dataclass
from math import e
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from thermolinalg.optim.inverse_factor import product
from thermolinalg.ranges import check_fractions, check_whole

Functions = Callable[[jax.Array], jax.Array]
"""From eigenvalues (m,) to values (p, k, m): p sums over functions of k vectors."""


class Applied(NamedTuple):
    """Sums of functions times vectors.

    Attributes
    ----------
    values : Array, shape (p, r)
    error : Array
        Bound of the relative error, see :class:`KrylovSpace`; 0 where nothing but rounding is lost.
    steps : Array, int32
        Products with the matrix.
    """

    values: jax.Array
    error: jax.Array
    steps: jax.Array


class Engine(Protocol):
    """Applies functions of a positive semi-definite matrix."""

    def apply(self, matrix: jax.Array, columns: jax.Array, function: Functions, shift: jax.Array) -> Applied:
        r"""Return :math:`y_p = \\sum_k f_{pk}(K) v_k` for columns v (r, k)."""


@dataclass(frozen=True)
class Diagonalisation:
    """Diagonalise; best for up to a few hundred rows, and for long times."""

    def apply(self, matrix: jax.Array, columns: jax.Array, function: Functions, shift: jax.Array) -> Applied:
        """Rotate, scale, add up, and rotate back."""
        del shift
        rates, basis = jnp.linalg.eigh(matrix)
        values = function(jnp.maximum(rates, 0))
        modes = jnp.einsum("pkm,mk->mp", values, product(basis.T, columns), precision=jax.lax.Precision.HIGHEST)
        zero = jnp.zeros((), jnp.float32)
        return Applied(product(basis, modes).T, zero, jnp.zeros((), jnp.int32))


@dataclass(frozen=True)
class KrylovSpace:
    r"""Project on the Krylov space of every vector, with full reorthogonalisation.

    .. math:: f(K) v \approx |v|\, V_m f(T_m) e_1

    Parameters
    ----------
    rtol : float, in (0, 1), optional
        Where to stop; by default 8 units of roundoff, and not below 1e-10.
    max_steps : int, >= 2
        Most products with the matrix; a basis of so many vectors is kept.

    Notes
    -----
    With the shift :math:`\sigma = \lambda + 1/t`, let :math:`\rho` be the relative residual of
    :math:`(K + \sigma) x = v`, which the recurrence gives for nothing. The flow :math:`e^{-(K + \lambda)\tau}v` of the
    projection leaves the true one at the rate :math:`\beta_m |[e^{-(T_m + \lambda)\tau} e_1]_m|`, whose integral up to
    t is at most :math:`e\rho`: entries of that vector keep one sign. Hence

    .. math:: |y - y_m| \le e\,\rho\,\frac{1 - e^{-\lambda t}}{\lambda}\,|v|, \qquad
        y = \int_0^t e^{-(K + \lambda)\tau} v\,d\tau

    and ``error`` is :math:`e\rho` of the worst vector. Steps grow like the root of :math:`\sigma_{\max} t`, no more
    than that of :math:`\sigma_{\max}/\lambda`: a short time is cheap.
    """

    rtol: float | None = None
    max_steps: int = 96

    def __post_init__(self) -> None:
        check_fractions(rtol=self.rtol)
        check_whole("max_steps", self.max_steps, 2)

    def tolerance(self, dtype: jnp.dtype) -> float:
        """Where to stop, for this dtype."""
        return max(8 * float(jnp.finfo(dtype).eps), 1e-10) if self.rtol is None else self.rtol

    def apply(self, matrix: jax.Array, columns: jax.Array, function: Functions, shift: jax.Array) -> Applied:
        """Build bases, apply the functions to the projections, and add up."""
        most = min(self.max_steps, len(matrix))
        found = _lanczos(matrix, columns.T, shift, self.tolerance(matrix.dtype) / e, most)
        side = jax.vmap(lambda entries: jnp.diag(entries[:-1], 1))(found.offdiagonal)
        projected = jax.vmap(jnp.diag)(found.diagonal) + side + jnp.swapaxes(side, 1, 2)
        nodes, vectors = jnp.linalg.eigh(projected)
        # Padding is a block of zeros that nothing couples to the first vector.
        values = jnp.stack([function(jnp.maximum(nodes[k], 0))[:, k] for k in range(len(nodes))])
        first = vectors[:, 0] * found.norms[:, None]
        exact = jax.lax.Precision.HIGHEST
        weights = jnp.einsum("kji,kpi->pkj", vectors, values * first[:, None], precision=exact)
        total = jnp.einsum("pkj,kjr->pr", weights, found.basis, precision=exact)
        return Applied(total, (e * jnp.max(found.residual)).astype(jnp.float32), found.steps)


def engine_for(rows: int) -> Engine:
    """Return what is faster for this many rows: the eigenbasis up to 128, else Krylov spaces."""
    return Diagonalisation() if rows <= 128 else KrylovSpace()


class _Lanczos(NamedTuple):
    """Tables (k, m), bases (k, m, r), lengths and residuals (k,), and the number of steps."""

    diagonal: jax.Array
    offdiagonal: jax.Array
    basis: jax.Array
    norms: jax.Array
    residual: jax.Array
    steps: jax.Array


def _lanczos(matrix: jax.Array, start: jax.Array, shift: jax.Array, rtol: float, most: int) -> _Lanczos:
    """Run the Lanczos process on k vectors (k, r) at once."""
    k, r = start.shape
    dtype = matrix.dtype
    norms = jnp.linalg.norm(start, axis=1)
    table, nothing = jnp.zeros((k, most), dtype), jnp.zeros(k, dtype)
    begin = (
        *(jnp.zeros((), jnp.int32), start * _reciprocal(norms)[:, None], jnp.zeros_like(start), nothing),
        *(jnp.ones(k, dtype), table, table, jnp.zeros((k, most, r), dtype), (norms > 0).astype(dtype), nothing),
    )

    def unfinished(carry: tuple[jax.Array, ...]) -> jax.Array:
        return (carry[0] < most) & jnp.any(carry[8] > rtol)

    def step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        j, q, previous, beta, pivot, diagonal, offdiagonal, basis, residual, scale = carry
        basis = jax.lax.dynamic_update_slice_in_dim(basis, q[:, None], j, 1)
        w = product(q, matrix)
        alpha = jnp.sum(q * w, 1)
        w = w - alpha[:, None] * q - beta[:, None] * previous
        inside = jnp.einsum("kmr,kr->km", basis, w, precision=jax.lax.Precision.HIGHEST)
        w = w - jnp.einsum("kmr,km->kr", basis, inside, precision=jax.lax.Precision.HIGHEST)
        following = jnp.linalg.norm(w, axis=1)
        scale = jnp.maximum(scale, jnp.abs(alpha) + following)
        following = jnp.where(following > 10 * jnp.finfo(dtype).eps * scale, following, 0)
        pivot = alpha + shift - jnp.where(j == 0, 0, beta**2 / pivot)
        pivot = jnp.where(pivot == 0, 1, pivot)
        residual = residual * following / jnp.abs(pivot)
        diagonal = jax.lax.dynamic_update_slice_in_dim(diagonal, alpha[:, None], j, 1)
        offdiagonal = jax.lax.dynamic_update_slice_in_dim(offdiagonal, following[:, None], j, 1)
        ahead = w * _reciprocal(following)[:, None]
        return j + 1, ahead, q, following, pivot, diagonal, offdiagonal, basis, residual, scale

    steps, _, _, _, _, diagonal, offdiagonal, basis, residual, _ = jax.lax.while_loop(unfinished, step, begin)
    # The last off-diagonal leads out of the space.
    kept = jnp.arange(most, dtype=jnp.int32)[None] + 1 < steps
    return _Lanczos(diagonal, jnp.where(kept, offdiagonal, 0), basis, norms, residual, steps)


def _reciprocal(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)
