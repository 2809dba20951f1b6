r"""What every symmetric operator can do.

The law of what a device reads is a function of the operator applied to a vector: answer = f(A) b + v(A)^(1/2) noise.
One method, :meth:`Operator.combine`, carries all of it; how it is done (one ``eigh``, two small ones, or a Lanczos
process) is the business of the five implementations.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import jax
import jax.numpy as jnp

Function = Callable[[jax.Array], jax.Array]
"""From eigenvalues to values."""

Matmat = Callable[[jax.Array], jax.Array]
"""From a block of vectors, shape (d, k), to another."""

Write = Callable[[jax.Array, bool, int], jax.Array]
"""From numbers to couplings; told whether entries (i, j) and (j, i) are one component, and which array it is."""


class Operator(ABC):
    """Symmetric, or complex Hermitian, linear operator with a functional calculus.

    Every method works on blocks of column vectors, shape (d, k); ``apply`` and ``@`` accept single vectors too.
    """

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of unknowns, d."""

    @property
    @abstractmethod
    def dtype(self) -> jnp.dtype:
        """Type of the entries."""

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix, (d, d)."""
        return self.dim, self.dim

    @property
    def components(self) -> int:
        """Real degrees of freedom of one unknown: 1, or 2 for a complex operator."""
        return 2 if jnp.issubdtype(self.dtype, jnp.complexfloating) else 1

    @property
    def opaque(self) -> bool:
        """Whether JAX may be unable to transpose the product, so that its symmetry has to be taken for granted."""
        return False

    @abstractmethod
    def matmat(self, block: jax.Array) -> jax.Array:
        """Multiply a block of vectors, shape (d, k)."""

    @abstractmethod
    def factor(self) -> "Operator":
        """Return the same operator with everything that functions of it need computed once."""

    def ready(self) -> "Operator":
        """Return the same operator with everything that :meth:`solve` needs computed once, by the cheapest method."""
        return self.factor()

    def rewritten(self, write: Write) -> "Operator":
        """Return the operator whose couplings are what `write` makes of those of this one.

        Raises
        ------
        ValueError
            If it has no couplings to write.
        """
        raise ValueError(
            f"a {type(self).__name__} operator has no couplings that converters or a chip could change; pass A as an "
            "array, or use a device without them"
        )

    def damped(self, damping: jax.Array | float) -> "Operator":
        """Return the operator plus a multiple of the identity, factored anew.

        Raises
        ------
        ValueError
            If the sum is not of the same kind.
        """
        raise ValueError(f"a {type(self).__name__} operator cannot be damped as it is; add the damping before")

    @abstractmethod
    def combine(self, function: Function, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        r"""Apply a matrix of functions: output i is :math:`\sum_j f_{ij}(A) v_j`.

        Parameters
        ----------
        function : callable
            From eigenvalues, shape (n,), to :math:`f_{ij}`, shape (p, q, n).
        vectors : Array, shape (q, d, k)

        Returns
        -------
        Array, shape (p, d, k)
            The outputs.
        Array, shape ()
            Whether they are converged; an operator with known eigenvectors always is.
        """

    @abstractmethod
    def diagonal(self, function: Function) -> jax.Array:
        """Diagonal of `function` of the operator, shape (d,)."""

    @abstractmethod
    def magnitude(self, function: Function, vectors: jax.Array) -> jax.Array:
        r"""Absolute values, shape (d, k), of :math:`\sum_j f_j(A) v_j`; the function returns shape (q, n)."""

    @abstractmethod
    def solve(self, block: jax.Array) -> jax.Array:
        r"""Apply :math:`A^{-1}` to a block, shape (d, k), by the cheapest method at hand; NaN if it fails."""

    @abstractmethod
    def extremes(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Lower bound and estimate of the smallest eigenvalue, estimate and upper bound of the largest."""

    @abstractmethod
    def measure(self, block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        r"""Nodes (n,), counts (n,) and weights (n, k) that turn functions of the operator into sums.

        .. math:: \mathtt{components}\,\operatorname{tr} f(A) = \sum_i n_i f(\lambda_i), \qquad
            v_j^* f(A) v_j = \sum_i w_{ij} f(\lambda_i)
        """

    def majorise(self, block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """As :meth:`measure`, but no function like an inverse power has a sum that is too small, if that can be had."""
        return self.measure(block)

    def apply(self, function: Function, vector: jax.Array) -> jax.Array:
        """Apply a scalar function of the operator to a vector (d,) or a block (d, k); NaN if not converged.

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> from thermolinalg.operators import Dense
        >>> A = Dense(jnp.array([[2.0, 1.0], [1.0, 2.0]])).factor()
        >>> A.apply(lambda rates: 1 / rates, jnp.array([3.0, 3.0])).round(5).tolist()
        [1.0, 1.0]
        """
        block = vector if vector.ndim == 2 else vector[:, None]
        outputs, converged = self.combine(lambda rates: function(rates)[None, None], block[None])
        return jnp.where(converged, outputs[0], jnp.nan).reshape(vector.shape)

    def __matmul__(self, vector: jax.Array) -> jax.Array:
        block = vector if vector.ndim == 2 else vector[:, None]
        return self.matmat(block).reshape(vector.shape)


class Modal(Operator):
    """An operator whose eigenvectors are at hand once it is factored."""

    @property
    @abstractmethod
    def rates(self) -> jax.Array:
        """All d eigenvalues."""

    @abstractmethod
    def to_modes(self, block: jax.Array) -> jax.Array:
        """Coordinates of a block in the eigenbasis."""

    @abstractmethod
    def from_modes(self, block: jax.Array) -> jax.Array:
        """The block with these coordinates in the eigenbasis."""

    @property
    def basis(self) -> jax.Array:
        """The eigenvectors as columns, shape (d, d)."""
        return self.from_modes(jnp.eye(self.dim, dtype=self.dtype))

    def combine(self, function: Function, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        q, d, k = vectors.shape
        # With the columns leading, they stay on their devices if they are spread over several.
        modes = self.to_modes(jnp.moveaxis(vectors, 0, 2).reshape(d, k * q)).reshape(d, k, q)
        mixed = mix(function(self.rates), jnp.moveaxis(modes, 2, 1))
        p = mixed.shape[1]
        outputs = self.from_modes(jnp.moveaxis(mixed, 1, 2).reshape(d, k * p)).reshape(d, k, p)
        outputs = jnp.moveaxis(outputs, 2, 0)
        return outputs, jnp.array(True)

    def magnitude(self, function: Function, vectors: jax.Array) -> jax.Array:
        return jnp.abs(self.combine(lambda rates: function(rates)[None], vectors)[0][0])

    def solve(self, block: jax.Array) -> jax.Array:
        return self.from_modes(self.to_modes(block) / self.rates[:, None].astype(block.dtype))

    def extremes(self) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        low, high = jnp.min(self.rates), jnp.max(self.rates)
        return low, low, high, high

    def measure(self, block: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        return self.rates, jnp.full_like(self.rates, self.components), jnp.abs(self.to_modes(block)) ** 2


def implicit_solve(operator: Operator, block: jax.Array, solve: Matmat) -> jax.Array:
    """Return ``solve(block)``, which JAX differentiates as a solve with the operator, whatever computes it."""

    def forward(_, right):
        return solve(right)

    def transposed(_, right):
        return solve(right.conj()).conj()  # the transpose of a Hermitian matrix is its conjugate

    if operator.opaque and operator.components == 1:
        return jax.lax.custom_linear_solve(operator.matmat, block, forward, symmetric=True)
    return jax.lax.custom_linear_solve(operator.matmat, block, forward, transposed)


@jax.custom_jvp
def implicit_inverse(operator: Operator, value: jax.Array) -> jax.Array:
    """Return `value`, which moves as the inverse does when the operator moves."""
    return value


@implicit_inverse.defjvp
def _implicit_inverse_jvp(primals, tangents):
    operator, value = primals
    moved = jax.jvp(lambda op: op.matmat(value), (operator,), (tangents[0],))[1]
    return value, -value @ moved


def mix(coefficients: jax.Array, modes: jax.Array) -> jax.Array:
    """Contract coefficients (p, q, n) with modes (n, q, k) to (n, p, k), mode by mode."""
    coefficients = jnp.moveaxis(coefficients, 2, 0).astype(modes.dtype)
    return (coefficients[:, :, :, None] * modes[:, None, :, :]).sum(2)
