"""Bounds that hold whatever the answer is: of the smallest eigenvalue, of the norm, and of the error of a solution."""

from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.certify.answers import as_system
from thermolinalg.device import as_realised
from thermolinalg.operators import Dense, Diagonal, Kronecker, LowRank, MatrixFree, Operator
from thermolinalg.operators.lanczos import tridiagonalise
from thermolinalg.solution import Solution

_POWER_STEPS = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowerBound:
    """Lower bound of the smallest eigenvalue.

    Attributes
    ----------
    value : Array, shape ()
        Minus infinity where nothing is known.
    certain : bool
        Whether it is proved, rounding included. Otherwise it holds with probability 0.99 over the start vector of a
        Lanczos process, or to the accuracy of a product whose rounding is not known.
    """

    value: jax.Array
    certain: bool = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ForwardBound:
    """Upper bound of the error of a solution in the 2-norm; one entry for each right-hand side.

    Attributes
    ----------
    relative, absolute : Array, shape () or (k,)
        Error over the length of the true solution, and error; infinite where nothing can be bounded.
    lowest : LowerBound
        The lower bound of the smallest eigenvalue that was used.
    validated : Array, shape ()
        Whether that bound is proved and positive, and so the error bound.
    """

    relative: jax.Array
    absolute: jax.Array
    lowest: LowerBound
    validated: jax.Array


def lowest_eigenvalue(A: Any) -> LowerBound:
    r"""Bound the smallest eigenvalue from below, rounding errors included.

    For a dense matrix the estimate of ``eigvalsh`` is not trusted but validated: if the Cholesky factorisation of
    :math:`B = A - \sigma I` runs to its end in floating point, then

    .. math:: \lambda_\min(A) \ge \sigma - \frac{\gamma}{1 - \gamma}\operatorname{tr} B - \dots,
        \qquad \gamma = \frac{(d + 1)u}{1 - (d + 1)u},

    with u the unit roundoff, and the dots the rounding of B itself.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        Symmetric or complex Hermitian. It need not be positive definite.

    Returns
    -------
    LowerBound
        Proved for dense matrices (of their symmetric part, if they are symmetric to rounding only), diagonal ones,
        low rank plus shift (the shift) and Kronecker products (the product of the bounds of factors that are positive).
        For a matrix-free operator the bound of Kuczynski and Wozniakowski, 0 where it is not positive.

    Raises
    ------
    ValueError
        If `A` is not square, finite and symmetric.

    Notes
    -----
    The bound is about 1e-16 d times the trace below the smallest eigenvalue in float64. A positive value proves that
    the matrix is positive definite. Assumed are IEEE arithmetic in the dtype, products in full precision (no TF32) and
    no underflow. One ``eigvalsh`` and four Cholesky factorisations.

    References
    ----------
    S. M. Rump, *Verification of positive definiteness*, BIT Numerical Mathematics 46 (2006).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> bound = lowest_eigenvalue(jnp.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> bound.certain, 0.999 < float(bound.value) < 1.0
    (True, True)
    """
    return _lowest(as_realised(A))


def forward_bound(A: Any, b: ArrayLike, x: Solution | ArrayLike) -> ForwardBound:
    r"""Bound the error of a solution without knowing the solution.

    With :math:`r = b - Ax`, any approximate correction :math:`\tilde e \approx A^{-1}r` and a lower bound
    :math:`\lambda` of the smallest eigenvalue,

    .. math:: \|x - x^*\| \le \|\tilde e\| + \|r - A\tilde e\|/\lambda, \qquad
        \|x^*\| \ge \max(\|x\| - \|x - x^*\|,\ \|b\|/\|A\|).

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix, lineax operator or Program
        The system that was meant to be solved.
    b : array, shape (d,) or (d, k)
    x : Solution or array like `b`

    Returns
    -------
    ForwardBound

    Raises
    ------
    ValueError
        If shapes do not match or values are not finite.

    Notes
    -----
    With a factorisation at hand :math:`\tilde e` is a digital solve and the bound is sharp to the digits that the
    condition number leaves; it costs more than solving the system digitally, which it does on the way. For matrix-free
    operators :math:`\|A^{-1}r\|` is bounded from above by a Gauss-Radau rule with a node at :math:`\lambda` on
    ``survey_steps`` Lanczos steps, much sharper than :math:`\|r\|/\lambda`; it holds with the probability of
    :math:`\lambda`, and nothing is validated.

    The bound is about this answer, not about the law it is drawn from: it knows nothing of probabilities.

    References
    ----------
    Golub and Meurant, *Matrices, Moments and Quadrature with Applications*, Princeton (2010).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> A, b = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([3.0, 3.0])
    >>> bound = forward_bound(A, b, jnp.array([1.0, 1.01]))
    >>> bool(bound.validated), round(float(bound.absolute), 4)
    (True, 0.01)
    """
    operator, force, answer, shape = as_system(A, b, x)
    lowest = _lowest(operator)
    real, low = lowest.value.dtype, lowest.value
    positive = low > 0
    safe = jnp.where(positive, low, 1.0)
    norm = norm_bound(operator)
    lengths = [jnp.linalg.norm(block, axis=0) for block in (force, answer)]
    slack = jnp.asarray(_gamma(operator, 4), real)
    residual = force - operator.matmat(answer)
    # What rounding may hide of the residual.
    hidden = slack * (norm * lengths[1] + lengths[0])
    absolute = (jnp.linalg.norm(residual, axis=0) + hidden) / safe
    if isinstance(operator, MatrixFree):
        absolute = jnp.minimum(absolute, _radau(operator, residual, safe) + hidden / safe)
    else:
        correction = operator.ready().solve(residual)
        length = jnp.linalg.norm(correction, axis=0)
        left = jnp.linalg.norm(residual - operator.matmat(correction), axis=0) + slack * norm * length
        sharp = length + (left + hidden) / safe
        absolute = jnp.where(jnp.isfinite(sharp), jnp.minimum(absolute, sharp), absolute)
    # The lengths themselves are rounded.
    absolute = jnp.where(positive, absolute * (1 + 2 * slack), jnp.inf)
    least = jnp.maximum((1 - slack) * lengths[1] - absolute, (1 - slack) * lengths[0] / jnp.where(norm > 0, norm, 1.0))
    known = (least > 0) & jnp.isfinite(absolute)
    relative = jnp.where(known, absolute / jnp.where(known, least, 1.0), jnp.inf)
    # Nothing but zero is right where the right-hand side is zero.
    relative = jnp.where((lengths[0] == 0) & (lengths[1] == 0) & positive, 0.0, relative)
    validated = positive & jnp.array(lowest.certain)
    return ForwardBound(relative.reshape(shape), absolute.reshape(shape), lowest, validated)


def norm_bound(operator: Operator) -> jax.Array:
    """Upper bound of the norm that takes no spectrum: Frobenius for a matrix, the largest entry of a diagonal, sums and
    products of such. For a matrix-free operator, where nothing bounds it, the estimate of a few power steps from below.
    """
    if isinstance(operator, Dense):
        return jnp.linalg.norm(operator.matrix)
    if isinstance(operator, Diagonal):
        return jnp.max(jnp.abs(operator.values))
    if isinstance(operator, LowRank):
        shift = jnp.asarray(operator.shift, jnp.finfo(operator.dtype).dtype)
        return jnp.abs(shift) + jnp.linalg.norm(operator.columns) ** 2
    if isinstance(operator, Kronecker):
        return reduce(jnp.multiply, [norm_bound(factor) for factor in operator.factors])
    if isinstance(operator, MatrixFree) and operator.bounds is not None:
        return operator.bounds[2]
    return _power(operator)


def _power(operator: Operator) -> jax.Array:
    real = jnp.finfo(operator.dtype).dtype
    start = jax.random.rademacher(jax.random.key(0), (operator.dim, 1), real).astype(operator.dtype)

    def step(_, carry):
        vector, length = carry
        scale = jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0).astype(vector.dtype)
        vector = operator.matmat(vector * scale)
        return vector, jnp.linalg.norm(vector)

    return jax.lax.fori_loop(0, _POWER_STEPS, step, (start, jnp.linalg.norm(start)))[1]


def _lowest(operator: Operator) -> LowerBound:
    if isinstance(operator, Dense):
        return LowerBound(_validated(operator), True)
    if isinstance(operator, Diagonal):
        return LowerBound(jnp.min(operator.values), True)
    if isinstance(operator, LowRank):
        return LowerBound(jnp.asarray(operator.shift, jnp.finfo(operator.dtype).dtype), True)
    if isinstance(operator, Kronecker):
        parts = [_lowest(factor) for factor in operator.factors]
        values = jnp.stack([part.value for part in parts])
        # Each product rounds once.
        product = jnp.prod(values) * (1 - len(parts) * float(jnp.finfo(values.dtype).eps))
        positive = jnp.all(values > 0)
        return LowerBound(jnp.where(positive, product, -jnp.inf), all(part.certain for part in parts))
    if isinstance(operator, MatrixFree) and operator.dim <= operator.survey_steps:
        # The product may round as it likes.
        matrix = operator.matmat(jnp.eye(operator.dim, dtype=operator.dtype))
        return LowerBound(_validated(Dense(matrix)), False)
    return LowerBound(operator.factor().extremes()[0], False)


def _gamma(operator: Operator, factor: int = 1) -> float:
    """Bound of the relative rounding error of an inner product; complex ones take more operations."""
    unit = float(jnp.finfo(operator.dtype).eps) / 2
    work = factor * operator.components * (operator.dim + 4) * unit
    return work / (1 - work) if work < 0.5 else 1.0


@jax.jit
def _validated(operator: Dense) -> jax.Array:
    r"""Largest of a few :math:`\sigma` for which a factorisation succeeds, less what rounding may hide.

    A factorisation that ends has :math:`R^*R = B + E` with :math:`|E_{ij}| \le \gamma (|R|^*|R|)_{ij}`. Columns of R
    have squared lengths of at most :math:`B_{ii}/(1 - \gamma)`, so that the norm of E is at most :math:`\gamma/(1 -
    \gamma) \operatorname{tr} B`; and :math:`R^*R` has no negative eigenvalue.
    """
    matrix = (operator.matrix + operator.matrix.conj().T) / 2
    d, real = matrix.shape[0], jnp.finfo(matrix.dtype).dtype
    unit = float(jnp.finfo(real).eps) / 2
    gamma = _gamma(operator)
    if gamma >= 0.25:
        return jnp.asarray(-jnp.inf, real)
    own = jnp.diagonal(matrix).real
    size = jnp.linalg.norm(matrix)
    estimate = jnp.min(jnp.linalg.eigvalsh(matrix) if operator.eigenvalues is None else operator.eigenvalues)
    grain = gamma / (1 - gamma) * jnp.sum(jnp.abs(own - estimate)) + 2 * unit * size
    tries = estimate - grain * jnp.asarray([0.03, 0.3, 1.0, 10.0], real)

    def attempt(sigma):
        shifted = matrix - sigma.astype(matrix.dtype) * jnp.eye(d, dtype=matrix.dtype)
        triangle = jnp.linalg.cholesky(shifted, symmetrize_input=False)
        left = jnp.diagonal(shifted).real
        lost = gamma / (1 - gamma) * jnp.sum(left) + unit * (jnp.max(jnp.abs(left)) + size)
        # The margin is rounded too.
        bound = sigma - (1 + 4 * gamma) * lost - 4 * unit * jnp.abs(sigma)
        return jnp.where(jnp.all(jnp.isfinite(triangle)) & jnp.all(left > 0), bound, -jnp.inf)

    return jnp.max(jax.vmap(attempt)(tries))


def _radau(operator: MatrixFree, block: jax.Array, node: jax.Array) -> jax.Array:
    r"""Upper bound of :math:`\|A^{-1}v\|` for each column v of a block, if no eigenvalue lies below the node."""
    start = jnp.zeros(block.shape[1], node.dtype)
    process = tridiagonalise(operator.product, block, start, 0.0, min(operator.survey_steps, operator.size))
    nodes, weights = process.quadrature(node)
    found = jnp.sqrt(jnp.sum(weights / nodes**2, 0))
    # A rule that has weight below the node says that the node is none of a lower bound.
    sound = jnp.all((weights == 0) | (nodes >= node * (1 - 1e-3)), 0)
    return jnp.where(sound, found, jnp.inf)
