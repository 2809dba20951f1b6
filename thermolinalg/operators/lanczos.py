r"""The Lanczos process, and functions of an operator by two passes of it.

The first pass makes a tridiagonal matrix and keeps three vectors; the second repeats the recurrence, whose coefficients
are now known, and adds up the answer. Memory is a few vectors whatever the number of steps. The recurrence needs no
reorthogonalisation: what rounding loses delays convergence and does not spoil the answer.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.operators.base import Function, Matmat


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tridiagonal:
    """What a Lanczos process on c start vectors leaves: diagonals and off-diagonals, shape (m, c).

    ``steps`` is the number of steps made, ``norms`` (c,) the lengths of the start vectors, ``residual`` (c,) what
    is left of the system solved by these steps, relative to the right-hand side.
    """

    diagonal: jax.Array
    offdiagonal: jax.Array
    norms: jax.Array
    steps: jax.Array
    residual: jax.Array

    def eigh(self) -> tuple[jax.Array, jax.Array]:
        """Ritz values (m, c) and eigenvectors (m, m, c); what lies past ``steps`` is padding of no weight."""
        m, c = self.diagonal.shape
        dtype = self.diagonal.dtype
        shapes = jax.ShapeDtypeStruct((m, c), dtype), jax.ShapeDtypeStruct((m, m, c), dtype)
        return jax.pure_callback(
            _eigh_tridiagonal, shapes, self.diagonal, self.offdiagonal, self.steps, vmap_method="sequential"
        )


def tridiagonalise(matmat: Matmat, block: jax.Array, shift: jax.Array, rtol: float, max_steps: int) -> Tridiagonal:
    r"""Run the Lanczos process on every column of a block until systems with the operator are solved to `rtol`.

    Parameters
    ----------
    matmat : callable
        From a block (d, c) to the block times the operator.
    block : Array, shape (d, c)
        Start vectors; zero columns are allowed.
    shift : Array, shape (c,), >= 0
        The process stops when the residual of :math:`(A + \sigma_j) x = v_j`, known from the recurrence without
        forming x, is below `rtol` for every column.
    rtol : float
        Relative residual; 0 makes all the steps.
    max_steps : int
        Most steps made.
    """
    real = jnp.finfo(block.dtype).dtype
    norms = jnp.linalg.norm(block, axis=0)
    q = _scaled(block, _reciprocal(norms))
    columns = block.shape[1]
    table = jnp.zeros((max_steps, columns), real)
    nothing, one = jnp.zeros(columns, real), jnp.ones(columns, real)
    alive = (norms > 0).astype(real)
    carry = (jnp.array(0), jnp.zeros_like(q), q, nothing, one, table, table, alive, nothing)

    def unfinished(carry):
        return (carry[0] < max_steps) & jnp.any(carry[-2] > rtol)

    def step(carry):
        j, previous, q, beta, pivot, diagonal, offdiagonal, residual, scale = carry
        w = matmat(q) - _scaled(previous, beta)
        alpha = jnp.sum(q.conj() * w, 0).real
        w = w - _scaled(q, alpha)
        following = jnp.linalg.norm(w, axis=0)
        scale = jnp.maximum(scale, jnp.abs(alpha) + following)
        following = jnp.where(following > 10 * jnp.finfo(real).eps * scale, following, 0.0)
        pivot = alpha + shift - jnp.where(j == 0, 0.0, beta**2 / pivot)
        residual = residual * following / jnp.where(pivot == 0, 1.0, jnp.abs(pivot))
        pivot = jnp.where(pivot == 0, 1.0, pivot)
        diagonal = diagonal.at[j].set(alpha)
        offdiagonal = offdiagonal.at[j].set(following)
        return j + 1, q, _scaled(w, _reciprocal(following)), following, pivot, diagonal, offdiagonal, residual, scale

    steps, *_, diagonal, offdiagonal, residual, _ = jax.lax.while_loop(unfinished, step, carry)
    return Tridiagonal(diagonal, offdiagonal, norms, steps, residual)


def combine(
    matmat: Matmat, function: Function, vectors: jax.Array, rtol: float, max_steps: int
) -> tuple[jax.Array, jax.Array]:
    r"""Apply a matrix of functions, as :meth:`Operator.combine`, and say whether the process converged.

    Notes
    -----
    How far the process must go depends on how close to the spectrum the functions have their scale of variation
    :math:`f(0)/|f'(0)|`; for the mean after a time T this is 2/T, for the inverse 0. The residual of the system that is
    shifted by half of it is what has to fall below `rtol`.
    """
    q, d, k = vectors.shape
    block = jnp.moveaxis(vectors, 0, 1).reshape(d, q * k)
    real = jnp.finfo(block.dtype).dtype
    value, slope = jax.jvp(function, (jnp.zeros(1, real),), (jnp.ones(1, real),))
    reach = jnp.abs(value[..., 0]) / jnp.abs(slope[..., 0])
    reach = jnp.where(jnp.isfinite(reach) | jnp.isposinf(reach), reach, 0.0).min(0) / 2
    shift = jnp.repeat(jnp.minimum(reach, jnp.finfo(real).max ** 0.25), k)
    process = tridiagonalise(matmat, block, shift, rtol, max_steps)
    nodes, ritz = process.eigh()
    coefficients = function(nodes.reshape(-1)).reshape((-1, q, max_steps, q, k))
    own = jnp.einsum("pjmjk->pjmk", coefficients)
    ritz = ritz.reshape(max_steps, max_steps, q, k)
    first = ritz[0].transpose(1, 0, 2) * process.norms.reshape(q, 1, k)
    weights = jnp.einsum("nmjk,pjmk->npjk", ritz, own * first[None]).astype(block.dtype)

    def step(j, carry):
        previous, current, beta, total = carry
        part = jnp.einsum("pqk,dqk->pdk", weights[j], current.reshape(d, q, k))
        w = matmat(current) - _scaled(previous, beta) - _scaled(current, process.diagonal[j])
        following = process.offdiagonal[j]
        return current, _scaled(w, _reciprocal(following)), following, total + part

    start = _scaled(block, _reciprocal(process.norms))
    total = jnp.zeros((weights.shape[1], d, k), block.dtype)
    carry = (jnp.zeros_like(block), start, jnp.zeros(q * k, real), total)
    total = jax.lax.fori_loop(0, process.steps, step, carry)[-1]
    return total, jnp.all(process.residual <= rtol)


def _scaled(block, factors):
    """Multiply each column by its factor."""
    return block * factors[None].astype(block.dtype)


def _reciprocal(x):
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1.0), 0.0)


def _eigh_tridiagonal(diagonal, offdiagonal, steps):
    """Diagonalise each column on the host, in float64; padding repeats the first diagonal entry."""
    from scipy.linalg import eigh_tridiagonal

    diagonal, offdiagonal, n = np.asarray(diagonal), np.asarray(offdiagonal), int(steps)
    m, c = diagonal.shape
    # A start vector of zero has no weight anywhere; its nodes are put where functions of the operator are finite.
    empty = (diagonal[0] == 0) & (offdiagonal[0] == 0)
    nodes = np.broadcast_to(np.where(empty, 1, diagonal[0])[None], (m, c)).copy()
    vectors = np.zeros((m, m, c), diagonal.dtype)
    for column in range(c):
        stops = np.flatnonzero(offdiagonal[:n, column] == 0)
        size = int(stops[0]) + 1 if stops.size else n
        if size == 0 or empty[column]:
            continue
        main = diagonal[:size, column].astype(np.float64)
        nodes[:size, column], vectors[:size, :size, column] = eigh_tridiagonal(
            main, offdiagonal[: size - 1, column].astype(np.float64)
        )
    return nodes, vectors
