"""Operators to SciPy and from SciPy."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from scipy.sparse import linalg

from thermolinalg.operators import MatrixFree, Operator, as_inexact, as_operator, is_concrete


class _OnHost(linalg.LinearOperator):
    """One of our operators, as SciPy sees it; symmetric or Hermitian, so that it is its own adjoint."""

    def __init__(self, operator: Operator):
        self.operator = operator
        super().__init__(np.dtype(operator.dtype), operator.shape)

    def _matmat(self, block: np.ndarray) -> np.ndarray:
        if np.iscomplexobj(block) and self.operator.components == 1:
            return self._matmat(block.real) + 1j * self._matmat(block.imag)
        return np.array(_multiply(self.operator, jnp.asarray(block, self.operator.dtype)))

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self._matmat(vector.reshape(-1, 1))[:, 0]

    def _adjoint(self) -> "_OnHost":
        return self


@jax.jit
def _multiply(operator: Operator, block: jax.Array) -> jax.Array:
    return operator.matmat(block)


def as_linear_operator(A: Any) -> linalg.LinearOperator:
    """Return an operator as one of SciPy, for its Krylov methods, eigensolvers and preconditioners.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix or lineax operator
        Real symmetric or complex Hermitian; see :func:`thermolinalg.as_operator`.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
        With ``matvec``, ``matmat`` and their adjoints, which are the same; NumPy in, NumPy out. What is multiplied is
        cast to the type of the operator; a complex vector on a real operator is multiplied part by part.

    Raises
    ------
    ValueError
        If `A` is no operator, or its values are not known because this is called under ``jit``.

    Notes
    -----
    SciPy asks for one product at a time and waits for it, so a device in JAX is used at the speed of its round trips.
    Derivatives end here.

    Examples
    --------
    >>> import jax.numpy as jnp, scipy.sparse.linalg
    >>> A = as_linear_operator(jnp.diag(jnp.array([1.0, 2.0])))
    >>> scipy.sparse.linalg.cg(A, np.array([3.0, 4.0]))[0].round(5).tolist()
    [3.0, 2.0]
    """
    operator = as_operator(A)
    if not is_concrete(operator):
        raise ValueError(
            "A has no values yet: SciPy runs on the host, so call as_linear_operator outside of jit and vmap"
        )
    return _OnHost(operator)


@dataclass(frozen=True, eq=False)
class _HostProduct:
    """Product of a SciPy operator with a block; equal where the SciPy operator is the same object."""

    linear: linalg.LinearOperator
    dtype: np.dtype

    def __call__(self, block: jax.Array) -> jax.Array:
        result = jax.ShapeDtypeStruct(block.shape, self.dtype)
        return jax.pure_callback(self.multiply, result, block, vmap_method="sequential")

    def multiply(self, block: Any) -> np.ndarray:
        return np.asarray(self.linear.matmat(np.asarray(block)), self.dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _HostProduct) and other.linear is self.linear and other.dtype == self.dtype

    def __hash__(self) -> int:
        return hash((id(self.linear), self.dtype))


def from_linear_operator(L: Any, name: str = "L") -> Operator:
    """Return a SciPy operator as a matrix-free one, whose products are computed by SciPy on the host.

    Parameters
    ----------
    L : scipy.sparse.linalg.LinearOperator, or what ``aslinearoperator`` accepts
        Real symmetric or complex Hermitian, shape (d, d).
    name : str
        What to call it in messages.

    Returns
    -------
    MatrixFree
        For :func:`thermolinalg.solve` and the like; accuracy and steps are set with ``dataclasses.replace``. What came
        from :func:`as_linear_operator` is handed back as it was.

    Raises
    ------
    ValueError
        If `L` is no operator, not square, not of a floating or complex type, or a random vector shows that its product
        is not finite or that it is not symmetric. One vector is tried, at the price of two products.

    Notes
    -----
    Works under ``jit``, and under ``vmap`` one member after the other. The entries are hidden from JAX: there is no
    derivative with respect to them, while that of a solution with respect to the right-hand side is there. The product
    must not depend on anything that changes between calls. A product that itself runs JAX on the same processor may
    wait for itself; give such an operator to :mod:`thermolinalg` directly. Every product waits for the host.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, thermolinalg as tla
    >>> weights = np.array([1.0, 2.0])
    >>> L = linalg.LinearOperator((2, 2), matvec=lambda x: weights * x.ravel(), dtype=np.float64)
    >>> x = tla.solve(from_linear_operator(L), jnp.ones(2), key=jax.random.key(0), rtol=0.05)
    >>> bool(jnp.all(jnp.abs(x.value - jnp.array([1.0, 0.5])) < 4 * x.stderr))
    True
    """
    if isinstance(L, _OnHost):
        return L.operator
    try:
        linear = linalg.aslinearoperator(L)
    except TypeError as error:
        raise ValueError(
            f"{name} must be a SciPy LinearOperator or convertible to one, got {type(L).__name__}"
        ) from error
    rows, columns = linear.shape
    if rows != columns or rows == 0:
        raise ValueError(f"{name} must be square, got a SciPy operator of shape ({rows}, {columns})")
    try:
        dtype = as_inexact(np.zeros(0, np.float64 if linear.dtype is None else linear.dtype), name).dtype
    except TypeError as error:
        raise ValueError(f"{name} must be numeric, got dtype {linear.dtype}") from error
    product = _HostProduct(linear, dtype)
    _check_symmetry(product, rows, name)
    return MatrixFree(Partial(product), rows, dtype)


def _check_symmetry(product: _HostProduct, size: int, name: str) -> None:
    """Compare <u, L v> with <L u, v> for random vectors, at the tolerance of stored matrices."""
    rng = np.random.default_rng(0)
    pair = rng.standard_normal((2, size, 2)) @ np.array([1.0, 1j])
    pair = (pair if np.issubdtype(product.dtype, np.complexfloating) else pair.real).astype(product.dtype)
    images = np.stack([product.multiply(vector[:, None])[:, 0] for vector in pair])
    if not np.isfinite(images).all():
        raise ValueError(f"{name} gives products that are not finite; look for NaN, infinity or overflow in its making")
    left, right = np.vdot(pair[0], images[1]), np.vdot(images[0], pair[1])
    lengths = np.linalg.norm(pair, axis=1)[::-1] * np.linalg.norm(images, axis=1)
    limit = 1e-8 if jnp.finfo(product.dtype).eps < 1e-12 else 1e-4
    if abs(left - right) > limit * lengths.max():
        raise ValueError(
            f"{name} is not symmetric: <u, L v> and <L u, v> differ by {abs(left - right) / lengths.max():.1e} of "
            f"their bound for random u and v (at most {limit:.0e} passes); solve the normal equations instead"
        )
