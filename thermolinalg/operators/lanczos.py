r"""The Lanczos process, and functions of an operator by two passes of it.

The first pass makes a tridiagonal matrix and keeps three vectors; the second repeats the recurrence, whose coefficients
are now known, and adds up the answer. Memory is a few vectors whatever the number of steps. The recurrence needs no
reorthogonalisation: what rounding loses delays convergence and does not spoil the answer.
"""

from dataclasses import dataclass, replace

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

    def nodes(self) -> jax.Array:
        """Ritz values, shape (m, c); what lies past ``steps`` is padding of no weight."""
        return self._on_host(_nodes, jax.ShapeDtypeStruct((len(self.diagonal), 1), self.diagonal.dtype))

    def coordinates(self, values: jax.Array) -> jax.Array:
        """Coordinates (m, p, c) in the Lanczos basis of functions with values (p, m, c) at the Ritz values."""
        shape = jax.ShapeDtypeStruct((values.shape[1], values.shape[0], 1), self.diagonal.dtype)
        return self._on_host(_coordinates, shape, values * self.norms[None, None])

    def quadrature(self, floor: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Gauss nodes and weights, shape (m, c): sums for quadratic forms with the start vectors.

        With a positive `floor`, a lower bound of the spectrum, one node of each process that has not ended lies there
        (Gauss-Radau). Forms with functions like inverse powers, whose derivatives alternate in sign, are then bounded
        from above; those of Gauss are bounds from below.

        References
        ----------
        Golub and Meurant, *Matrices, moments and quadrature with applications*, Princeton (2010).
        """
        shape = jax.ShapeDtypeStruct((len(self.diagonal), 1), self.diagonal.dtype)
        diagonal = self.diagonal if floor is None else self._prescribed(floor)
        nodes, weights = replace(self, diagonal=diagonal)._on_host(_quadrature, (shape, shape))
        return nodes, weights * self.norms[None] ** 2

    def _prescribed(self, floor: jax.Array) -> jax.Array:
        """The diagonal whose last entry is such that `floor` is an eigenvalue."""
        floor = jnp.asarray(floor).astype(self.diagonal.dtype)

        def pivots(carry, row):
            pivot, last = carry
            entry, side = row
            pivot = entry - floor - jnp.where(pivot == 0, 0.0, last**2 / jnp.where(pivot == 0, 1.0, pivot))
            return (pivot, side), pivot

        nothing = jnp.zeros_like(self.norms)
        _, found = jax.lax.scan(pivots, (nothing, nothing), (self.diagonal[:-1], self.offdiagonal[:-1]))
        going = jnp.all(self.offdiagonal[:-1] > 0, 0) & (self.steps == len(self.diagonal))
        last = floor + self.offdiagonal[-2] ** 2 / jnp.where(going, found[-1], 1.0)
        return self.diagonal.at[-1].set(jnp.where(going & (floor > 0), last, self.diagonal[-1]))

    def _on_host(self, function, shapes, *tables):
        """Call a function of single columns (..., 1) on the host, one after another.

        JAX copies large operands of a callback on the threads that run the devices. Where all of those wait in a
        collective for this very callback, the copy never starts; small operands are copied at once.
        """

        def call(columns):
            diagonal, offdiagonal, *rest = columns
            return jax.pure_callback(
                function, shapes, diagonal, offdiagonal, self.steps, *rest, vmap_method="sequential"
            )

        columns = [jnp.moveaxis(x, -1, 0)[..., None] for x in (self.diagonal, self.offdiagonal, *tables)]
        return jax.tree.map(lambda x: jnp.moveaxis(x[..., 0], 0, -1), jax.lax.map(call, columns))


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
    real = jnp.finfo(vectors.dtype).dtype
    value, slope = jax.jvp(function, (jnp.zeros(1, real),), (jnp.ones(1, real),))
    reach = jnp.abs(value[..., 0]) / jnp.abs(slope[..., 0])
    reach = jnp.where(jnp.isfinite(reach) | jnp.isposinf(reach), reach, 0.0).min(0) / 2
    shift = jnp.broadcast_to(jnp.minimum(reach, jnp.finfo(real).max ** 0.25)[:, None], (q, k))
    outputs = value.shape[0]

    def each(carry, inputs):
        """Add what one of the q vectors contributes; its k columns go through one process."""
        total, converged = carry
        j, block, shift = inputs
        process = tridiagonalise(matmat, block, shift, rtol, max_steps)
        values = function(process.nodes().reshape(-1))[:, j].reshape(outputs, max_steps, k)
        weights = process.coordinates(values).astype(block.dtype)

        def step(i, carry):
            previous, current, beta, total = carry
            w = matmat(current) - _scaled(previous, beta) - _scaled(current, process.diagonal[i])
            following = process.offdiagonal[i]
            total = total + weights[i][:, None] * current[None]
            return current, _scaled(w, _reciprocal(following)), following, total

        start = _scaled(block, _reciprocal(process.norms))
        begin = (jnp.zeros_like(block), start, jnp.zeros(k, real), total)
        total = jax.lax.fori_loop(0, process.steps, step, begin)[-1]
        return (total, converged & jnp.all(process.residual <= rtol)), None

    begin = jnp.zeros((outputs, d, k), vectors.dtype), jnp.array(True)
    return jax.lax.scan(each, begin, (jnp.arange(q), vectors, shift))[0]


def _scaled(block, factors):
    """Multiply each column by its factor."""
    return block * factors[None].astype(block.dtype)


def _reciprocal(x):
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1.0), 0.0)


# On the host, in float64: tridiagonal problems, up to where the process of each column ended.


def _columns(diagonal, offdiagonal, steps):
    """Column number, size, diagonal and off-diagonal of each process; a start vector of zero has none."""
    for column in np.flatnonzero((diagonal[0] != 0) | (offdiagonal[0] != 0)):
        stops = np.flatnonzero(offdiagonal[:steps, column] == 0)
        size = int(stops[0]) + 1 if stops.size else int(steps)
        if size:
            main, side = diagonal[:size, column], offdiagonal[: size - 1, column]
            yield column, size, main.astype(np.float64), side.astype(np.float64)


def _padding(diagonal, offdiagonal):
    """Nodes of no weight where functions of the operator are finite."""
    empty = (diagonal[0] == 0) & (offdiagonal[0] == 0)
    return np.broadcast_to(np.where(empty, 1, diagonal[0])[None], diagonal.shape).copy()


def _nodes(diagonal, offdiagonal, steps):
    from scipy.linalg import eigvalsh_tridiagonal

    diagonal, offdiagonal = np.asarray(diagonal), np.asarray(offdiagonal)
    nodes = _padding(diagonal, offdiagonal)
    for column, size, main, side in _columns(diagonal, offdiagonal, steps):
        nodes[:size, column] = eigvalsh_tridiagonal(main, side)
    return nodes


def _quadrature(diagonal, offdiagonal, steps):
    from scipy.linalg import eigh_tridiagonal

    diagonal, offdiagonal = np.asarray(diagonal), np.asarray(offdiagonal)
    nodes, weights = _padding(diagonal, offdiagonal), np.zeros_like(diagonal)
    for column, size, main, side in _columns(diagonal, offdiagonal, steps):
        nodes[:size, column], vectors = eigh_tridiagonal(main, side)
        weights[:size, column] = vectors[0] ** 2
    return nodes, weights


def _coordinates(diagonal, offdiagonal, steps, values):
    from scipy.linalg import eigh_tridiagonal

    values = np.asarray(values)
    coordinates = np.zeros((values.shape[1], values.shape[0], values.shape[2]), values.dtype)
    for column, size, main, side in _columns(np.asarray(diagonal), np.asarray(offdiagonal), steps):
        vectors = eigh_tridiagonal(main, side)[1]
        coordinates[:size, :, column] = vectors @ (values[:, :size, column] * vectors[0]).T
    return coordinates
