"""Operators known only by what they do to a vector."""

from dataclasses import dataclass, field, replace
from math import log, sqrt

import jax
import jax.numpy as jnp
from jax.experimental.shard_alike import shard_alike

from thermolinalg.operators.base import Function, Matmat, Operator
from thermolinalg.operators.lanczos import Tridiagonal, combine, tridiagonalise


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MatrixFree(Operator):
    r"""A symmetric operator given by its product with a block of vectors; functions of it by Lanczos.

    Parameters
    ----------
    product : callable
        From a block (d, k) to the operator times the block. A pytree (such as ``jax.tree_util.Partial``) may carry
        arrays.
    size : int
        d.
    dtype : dtype
        Type of the entries.
    rtol : float
        Accuracy of functions of the operator, as the relative residual of a system solved in the same number of steps.
    max_steps : int
        Most Lanczos steps of one function; memory does not grow with it.
    survey_steps, probes : int
        Steps and random start vectors of the survey of the spectrum that :meth:`factor` makes. The vectors are the same
        in every call, so that two surveys of one operator agree. An operator of no more unknowns than that is
        diagonalised instead.

    Notes
    -----
    The smallest Ritz value is never below the smallest eigenvalue: it is optimistic, by a factor of 100 and more for
    ill-conditioned operators. :meth:`extremes` therefore adds the bounds of Kuczynski and Wozniakowski, which hold with
    probability 0.99 over the start vector. :meth:`diagonal` knows the trace only, and spreads it evenly.

    References
    ----------
    Kuczynski and Wozniakowski, *Estimating the largest eigenvalue by the power and Lanczos algorithms with a random
    start*, SIAM J. Matrix Anal. Appl. 13 (1992).
    """

    product: Matmat
    size: int = field(metadata={"static": True})
    entries: jnp.dtype = field(metadata={"static": True})
    rtol: float = field(default=1e-6, metadata={"static": True})
    max_steps: int = field(default=1000, metadata={"static": True})
    survey_steps: int = field(default=128, metadata={"static": True})
    probes: int = field(default=4, metadata={"static": True})
    nodes: jax.Array | None = None
    counts: jax.Array | None = None
    bounds: tuple[jax.Array, ...] | None = None
    above: tuple[jax.Array, jax.Array] | None = None

    def __post_init__(self) -> None:
        if callable(self.product) and jax.tree_util.all_leaves([self.product]):
            object.__setattr__(self, "product", jax.tree_util.Partial(self.product))

    @property
    def dim(self) -> int:
        return self.size

    @property
    def dtype(self) -> jnp.dtype:
        return jnp.dtype(self.entries)

    @property
    def opaque(self) -> bool:
        return True

    def matmat(self, block: jax.Array) -> jax.Array:
        return self.product(block)

    def factor(self) -> "MatrixFree":
        if self.nodes is not None:
            return self
        nodes, counts, bounds, above = _survey(self)
        return replace(self, nodes=nodes, counts=counts, bounds=bounds, above=above)

    def ready(self) -> "MatrixFree":
        return self

    def combine(self, function: Function, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        return combine(self.product, function, vectors, self.rtol, min(self.max_steps, 20 * self.size + 20))

    def diagonal(self, function: Function) -> jax.Array:
        nodes, counts, _ = self._surveyed()
        return jnp.full(self.size, jnp.sum(counts * function(nodes)) / (self.size * self.components))

    def magnitude(self, function: Function, vectors: jax.Array) -> jax.Array:
        total = jnp.zeros(vectors.shape[2], jnp.finfo(self.dtype).dtype)
        for j, block in enumerate(vectors):
            nodes, weights = self._quadrature(block)
            values = function(nodes.ravel())[j].reshape(nodes.shape)
            total = total + jnp.sqrt(jnp.sum(weights * values**2, 0) / self.size)
        # One number for all entries of a column, but spread over devices as the vectors are.
        return shard_alike(vectors[0], jnp.broadcast_to(total[None], vectors.shape[1:]))[1]

    def solve(self, block: jax.Array) -> jax.Array:
        def one(column: jax.Array) -> jax.Array:
            def product(v: jax.Array) -> jax.Array:
                return self.product(v[:, None])[:, 0]

            answer, _ = jax.scipy.sparse.linalg.cg(product, column, tol=self.rtol, maxiter=self.max_steps)
            # The residual that the method updates drifts from the true one by rounding; a factor 10 is for that.
            left = jnp.linalg.norm(column - product(answer)) <= 10 * self.rtol * jnp.linalg.norm(column)
            return jnp.where(left, answer, jnp.nan)

        return jax.vmap(one, in_axes=1, out_axes=1)(block)

    def extremes(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        return self._surveyed()[2]

    def measure(self, block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        surveyed, counts, _ = self._surveyed()
        return self._joined(surveyed, counts, block, None)

    def majorise(self, block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        # Where the smallest eigenvalue is not resolved nothing bounds from above, and this is `measure`.
        floor = self._surveyed()[2][0]
        assert self.above is not None  # factor() made it beside the survey
        return self._joined(*self.above, block, floor)

    def _joined(self, surveyed, counts, block, floor):
        """Nodes that count, then nodes of the columns of a block."""
        k = block.shape[1]
        if k == 0:
            return surveyed, counts, jnp.zeros((surveyed.size, 0), surveyed.dtype)
        nodes, weights = self._quadrature(block, floor)
        own = weights[:, :, None] * jnp.eye(k, dtype=weights.dtype)[None]
        nothing = jnp.zeros((surveyed.size, k), weights.dtype)
        counts = jnp.concatenate([counts, jnp.zeros(nodes.size, counts.dtype)])
        return jnp.concatenate([surveyed, nodes.ravel()]), counts, jnp.concatenate([nothing, own.reshape(-1, k)])

    def _quadrature(self, block: jax.Array, floor: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Gauss nodes and weights, shape (m, k), of each column; with a node at `floor` if that is positive."""
        steps = min(self.survey_steps, self.size)
        no_shift = jnp.zeros(block.shape[1], jnp.finfo(self.dtype).dtype)
        return tridiagonalise(self.product, block, no_shift, 0.0, steps).quadrature(floor)

    def _surveyed(self):
        if self.nodes is None or self.counts is None or self.bounds is None:
            raise ValueError("the operator is not factored yet; call factor() once and keep what it returns")
        return self.nodes, self.counts, self.bounds


@jax.jit
def _survey(
    operator: MatrixFree,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...], tuple[jax.Array, jax.Array]]:
    d, steps = operator.size, min(operator.survey_steps, operator.size)
    real = jnp.finfo(operator.dtype).dtype
    if d <= steps:
        rates = jnp.linalg.eigvalsh(operator.product(jnp.eye(d, dtype=operator.dtype)))
        counts = jnp.full_like(rates, operator.components)
        return rates, counts, (rates[0], rates[0], rates[-1], rates[-1]), (rates, counts)
    signs = jax.random.rademacher(jax.random.key(0), (d, operator.probes), real).astype(operator.dtype)
    process: Tridiagonal = tridiagonalise(operator.product, signs, jnp.zeros(operator.probes, real), 0.0, steps)
    nodes, weights = process.quadrature()
    share = operator.components / operator.probes
    low, high = jnp.min(nodes), jnp.max(nodes)
    slack = min(0.5, (log(1.648 * sqrt(d) / 0.01) / (2 * steps - 1)) ** 2)
    below = jnp.maximum(low - slack * high, 0.0)
    above = high / (1 - slack)
    careful, shares = process.quadrature(below)
    # A trace by few random probes may be too small; by how much, at probability 0.99, is said for the inverse square.
    power = jnp.where(shares > 0, low / careful, 0.0) ** 2
    scatter = jnp.sqrt(2 / operator.probes * share * jnp.sum(shares * power**2)) / (share * jnp.sum(shares * power))
    shares = shares * jnp.where(below > 0, 1 + 2.33 * scatter / operator.components**0.5, 1.0)
    return nodes.ravel(), share * weights.ravel(), (below, low, high, above), (careful.ravel(), share * shares.ravel())
