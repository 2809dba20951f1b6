"""Functions of a Gram matrix times vectors: by its eigenbasis, or by Krylov spaces where it is large."""

from collections.abc import Callable
from dataclasses import dataclass
from math import e
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from thermolinalg.optim.inverse_factor import product
from thermolinalg.ranges import check_fractions, check_whole

Functions = Callable[[jax.Array], jax.Array]
"""From eigenvalues (m,) to values (p, k, m): p sums over functions of k vectors."""

_FEW = 48
"""Steps that there is room for at first."""


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
        rtol, most = self.tolerance(matrix.dtype) / e, min(self.max_steps, len(matrix))
        found = _extended(_started(columns.T, min(_FEW, most)), matrix, shift, rtol)
        if most <= _FEW:
            return _applied(found, function)
        # Room for more is paid in every step, and by the eigenvectors of the projection.
        return jax.lax.cond(
            jnp.all(found.residual <= rtol),
            lambda: _applied(found, function),
            lambda: _applied(_extended(_roomier(found, most), matrix, shift, rtol), function),
        )


def engine_for(rows: int) -> Engine:
    """Return what is faster for this many rows: the eigenbasis up to 128, else Krylov spaces."""
    return Diagonalisation() if rows <= 128 else KrylovSpace()


class _Lanczos(NamedTuple):
    """Where the process stands for k vectors of r numbers, with room for m steps."""

    steps: jax.Array
    ahead: jax.Array
    previous: jax.Array
    beta: jax.Array
    pivot: jax.Array
    diagonal: jax.Array
    offdiagonal: jax.Array
    basis: jax.Array
    residual: jax.Array
    scale: jax.Array
    norms: jax.Array


def _started(start: jax.Array, room: int) -> _Lanczos:
    """Nothing done yet for vectors (k, r)."""
    k, r = start.shape
    norms = jnp.linalg.norm(start, axis=1)
    table, nothing = jnp.zeros((k, room), start.dtype), jnp.zeros(k, start.dtype)
    return _Lanczos(
        *(jnp.zeros((), jnp.int32), start * _reciprocal(norms)[:, None], jnp.zeros_like(start), nothing),
        *(jnp.ones(k, start.dtype), table, table, jnp.zeros((k, room, r), start.dtype)),
        *((norms > 0).astype(start.dtype), nothing, norms),
    )


def _roomier(at: _Lanczos, room: int) -> _Lanczos:
    """The same, with room for more steps."""
    more = [(0, 0), (0, room - at.diagonal.shape[1])]
    tables = {name: jnp.pad(getattr(at, name), more) for name in ("diagonal", "offdiagonal")}
    return at._replace(**tables, basis=jnp.pad(at.basis, [*more, (0, 0)]))


def _extended(at: _Lanczos, matrix: jax.Array, shift: jax.Array, rtol: float) -> _Lanczos:
    """Go on until all residuals are small, or there is no more room."""
    room, eps = at.diagonal.shape[1], jnp.finfo(matrix.dtype).eps

    def unfinished(at: _Lanczos) -> jax.Array:
        return (at.steps < room) & jnp.any(at.residual > rtol)

    def step(at: _Lanczos) -> _Lanczos:
        j, q, beta = at.steps, at.ahead, at.beta
        basis = jax.lax.dynamic_update_slice_in_dim(at.basis, q[:, None], j, 1)
        w = product(q, matrix)
        alpha = jnp.sum(q * w, 1)
        w = w - alpha[:, None] * q - beta[:, None] * at.previous
        inside = jnp.einsum("kmr,kr->km", basis, w, precision=jax.lax.Precision.HIGHEST)
        w = w - jnp.einsum("kmr,km->kr", basis, inside, precision=jax.lax.Precision.HIGHEST)
        following = jnp.linalg.norm(w, axis=1)
        scale = jnp.maximum(at.scale, jnp.abs(alpha) + following)
        following = jnp.where(following > 10 * eps * scale, following, 0)
        pivot = alpha + shift - jnp.where(j == 0, 0, beta**2 / at.pivot)
        pivot = jnp.where(pivot == 0, 1, pivot)
        return _Lanczos(
            *(j + 1, w * _reciprocal(following)[:, None], q, following, pivot),
            jax.lax.dynamic_update_slice_in_dim(at.diagonal, alpha[:, None], j, 1),
            jax.lax.dynamic_update_slice_in_dim(at.offdiagonal, following[:, None], j, 1),
            *(basis, at.residual * following / jnp.abs(pivot), scale, at.norms),
        )

    return jax.lax.while_loop(unfinished, step, at)


def _applied(found: _Lanczos, function: Functions) -> Applied:
    """Functions of the projections, added up."""
    # The last off-diagonal leads out of the space.
    kept = jnp.arange(found.diagonal.shape[1], dtype=jnp.int32)[None] + 1 < found.steps
    side = jax.vmap(lambda entries: jnp.diag(entries[:-1], 1))(jnp.where(kept, found.offdiagonal, 0))
    nodes, vectors = jnp.linalg.eigh(jax.vmap(jnp.diag)(found.diagonal) + side + jnp.swapaxes(side, 1, 2))
    # Padding is a block of zeros that nothing couples to the first vector.
    values = jnp.stack([function(jnp.maximum(nodes[k], 0))[:, k] for k in range(len(nodes))])
    first = vectors[:, 0] * found.norms[:, None]
    exact = jax.lax.Precision.HIGHEST
    weights = jnp.einsum("kji,kpi->pkj", vectors, values * first[:, None], precision=exact)
    total = jnp.einsum("pkj,kjr->pr", weights, found.basis, precision=exact)
    return Applied(total, (e * jnp.max(found.residual)).astype(jnp.float32), found.steps)


def _reciprocal(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)
