"""What an optimizer asks of a solver of damped linear systems, what the solver reports, and the direct ones."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve

from thermolinalg.optim.inverse_factor import gram_of_triangle, inverse_factor, product
from thermolinalg.ranges import check_positive

State = Any
_FEW = 8


class Code(IntEnum):
    """How a solve went, the worse the larger; from ``SATURATED`` on no answer is to be used."""

    OK = 0
    LOW_PRECISION = 1
    FEW_SAMPLES = 2
    COARSE = 3
    IMPRECISE = 4
    UNRELAXED = 5
    NOT_CONVERGED = 6
    RETRIED = 7
    STALE = 8
    REFERENCE = 9
    GRADIENT = 10
    ZERO = 11
    SATURATED = 12
    NOT_POSITIVE_DEFINITE = 13
    NOT_FINITE = 14
    UNPREPARED = 15

    @property
    def advice(self) -> str:
        """One sentence: what it means and what to do."""
        return _ADVICE[self]


_ADVICE = {
    Code.OK: "Success.",
    Code.LOW_PRECISION: "The condition number is close to what the dtype resolves; raise the damping or use float64.",
    Code.FEW_SAMPLES: "The inverse was read from fewer effective samples than unknowns; lengthen the plan.",
    Code.COARSE: "A step of the converter is wider than the noise it has to average; use more bits.",
    Code.IMPRECISE: "The device shifts the answer by much of its tolerance; use more bits, calibration or damping.",
    Code.UNRELAXED: "The device was read before it had relaxed; lengthen its time, or take the early answer as it is.",
    Code.NOT_CONVERGED: "The iteration stopped before its tolerance; the answer is usable. Raise max_steps or damping.",
    Code.RETRIED: "The solve failed and was repeated with more damping; raise the damping if this happens often.",
    Code.STALE: "The solve failed and the last good preparation answered; look for the cause if this happens often.",
    Code.REFERENCE: "The solve failed and the reference solver answered; look for the cause if this happens often.",
    Code.GRADIENT: "Every solver failed; the right-hand side was returned, as long as the last accepted answer.",
    Code.ZERO: "Every solver failed and there is nothing to scale by, so the answer is zero; check the gradient.",
    Code.SATURATED: "A converter saturated; raise its full scale, or leave that out to have it chosen.",
    Code.NOT_POSITIVE_DEFINITE: "The damped matrix is not positive definite; raise the damping, or the bits.",
    Code.NOT_FINITE: "The matrix, the right-hand side or the answer is not finite; check them for NaN and overflow.",
    Code.UNPREPARED: "The solver was applied before it was prepared; call prepare first.",
}


class Info(NamedTuple):
    """What a solve reports, in arrays of shape ().

    Attributes
    ----------
    code : int32
        Of :class:`Code`.
    residual : float32
        True relative residual in the 2-norm, the largest over right-hand sides; NaN where it was not computed. Direct
        solvers look at one random combination of more than eight right-hand sides.
    steps : float32
        Iterations, or time constants of the device for each right-hand side.
    stderr : float32
        Root mean square error over the length of the answer, the largest over right-hand sides; 0 if there is no noise.
    seconds, joules : float32
        Of the device, by its cost model; NaN where it knows no numbers. Writing is paid by the first solve after it.
    """

    code: jax.Array
    residual: jax.Array
    steps: jax.Array
    stderr: jax.Array
    seconds: jax.Array
    joules: jax.Array


@runtime_checkable
class Solver(Protocol):
    r"""Answers :math:`+(M + \lambda I)^{-1} b`; what is cached between calls lives in a state of fixed structure.

    Everything works under ``jit``, ``scan`` and ``vmap`` over matrices, states and keys; solvers themselves are
    constants that are closed over. Deterministic solvers do not look at keys, and None will do.
    """

    def init(self, matrix: Any) -> State:
        """Shape a state for matrices like this array or ``ShapeDtypeStruct``, (d, d)."""

    def prepare(self, matrix: jax.Array, damping: Any, state: State, key: jax.Array | None) -> State:
        """Write, factor or invert the damped matrix."""

    def apply(self, rhs: jax.Array, state: State, key: jax.Array | None) -> tuple[jax.Array, Info, State]:
        """Solve for right-hand sides (d,) or (d, k)."""


class Prepared(NamedTuple):
    """The damped matrix, what was made of it, and how that went."""

    damped: jax.Array
    factor: Any
    code: jax.Array


@dataclass(frozen=True)
class Cholesky:
    """Factor once, and substitute for every right-hand side: the least work for few of them, and the most accurate.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> solver, matrix = Cholesky(), jnp.diag(jnp.array([1.0, 3.0]))
    >>> state = solver.prepare(matrix, 1.0, solver.init(matrix), None)
    >>> x, info, state = solver.apply(jnp.array([2.0, 2.0]), state, None)
    >>> x.round(6).tolist(), int(info.code)
    ([1.0, 0.5], 0)
    """

    def init(self, matrix: Any) -> Prepared:
        """Shape a state."""
        return _blank(self, matrix)

    def prepare(self, matrix: jax.Array, damping: Any, state: Prepared, key: jax.Array | None = None) -> Prepared:
        """Factor the damped matrix."""
        del state, key
        damped = add_damping(matrix, damping)
        factor = jnp.linalg.cholesky(damped)
        return Prepared(damped, factor, definiteness(damped, jnp.diagonal(factor)))

    def apply(self, rhs: jax.Array, state: Prepared, key: jax.Array | None = None) -> tuple[jax.Array, Info, Prepared]:
        """Substitute forwards and backwards."""
        del key
        return *answer(lambda b: cho_solve((state.factor, True), b), rhs, state.damped, state.code), state


class Inverse(NamedTuple):
    """An explicit inverse, how well it inverts, and how that went."""

    inverse: jax.Array
    residual: jax.Array
    code: jax.Array


@dataclass(frozen=True)
class CholeskyInverse:
    r"""Form :math:`L^{-\top}L^{-1}` once, and multiply: for matrices that are applied more often than refreshed.

    Notes
    -----
    Preparing costs :math:`2d^3` operations, nearly all of them in products; a product is faster than two substitutions
    where there are few columns or a graphics processor. The residual reported is that of the inverse on a random
    vector, measured when it was formed: up to :math:`\sqrt\kappa` times that of :class:`Cholesky`, or more.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> solver, matrix = CholeskyInverse(), jnp.diag(jnp.array([1.0, 3.0]))
    >>> state = solver.prepare(matrix, 1.0, solver.init(matrix), None)
    >>> solver.apply(jnp.ones(2), state, None)[0].round(6).tolist()
    [0.5, 0.25]
    """

    def init(self, matrix: Any) -> Inverse:
        """Shape a state."""
        return _blank(self, matrix)

    def prepare(self, matrix: jax.Array, damping: Any, state: Inverse, key: jax.Array | None = None) -> Inverse:
        """Invert the damped matrix."""
        del state, key
        # Only the lower triangle is read: nothing is gained by making both alike.
        _check(matrix, damping)
        system = _on_diagonal(working(matrix), damping)
        half = inverse_factor(system)
        inverse = gram_of_triangle(half)
        probe = jax.random.rademacher(jax.random.key(0), (len(system),), system.dtype)
        residual = relative_residual(system, product(inverse, probe), probe)
        return Inverse(inverse, residual, definiteness(system, jnp.diagonal(half)))

    def apply(self, rhs: jax.Array, state: Inverse, key: jax.Array | None = None) -> tuple[jax.Array, Info, Inverse]:
        """Multiply."""
        del key
        check_rhs(rhs, len(state.inverse))
        force = rhs.astype(state.inverse.dtype)
        x = product(state.inverse, force)
        return x.astype(rhs.dtype), report(code_finite(state.code, x, force), state.residual), state


@dataclass(frozen=True)
class Eigh:
    """Diagonalise once, and scale in the eigenbasis: slower than Cholesky, and definite or not is known for sure.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> solver, matrix = Eigh(), jnp.diag(jnp.array([1.0, 3.0]))
    >>> state = solver.prepare(matrix, 1.0, solver.init(matrix), None)
    >>> solver.apply(jnp.ones(2), state, None)[0].round(6).tolist()
    [0.5, 0.25]
    """

    def init(self, matrix: Any) -> Prepared:
        """Shape a state."""
        return _blank(self, matrix)

    def prepare(self, matrix: jax.Array, damping: Any, state: Prepared, key: jax.Array | None = None) -> Prepared:
        """Diagonalise the matrix, and add the damping to its eigenvalues."""
        del state, key
        damped = add_damping(matrix, damping)
        # Of the matrix itself: its small eigenvalues are not to be rounded by the damping.
        rates, basis = jnp.linalg.eigh(working(matrix))
        rates = rates + jnp.asarray(damping).astype(rates.dtype)
        return Prepared(damped, (rates, basis), definiteness(damped, rates))

    def apply(self, rhs: jax.Array, state: Prepared, key: jax.Array | None = None) -> tuple[jax.Array, Info, Prepared]:
        """Rotate, scale, and rotate back."""
        del key
        rates, basis = state.factor

        def solve(b: jax.Array) -> jax.Array:
            modes = product(basis.T, b)
            return product(basis, modes / rates.reshape((-1,) + (1,) * (b.ndim - 1)))

        return *answer(solve, rhs, state.damped, state.code), state


@dataclass(frozen=True)
class FromCallable:
    """Any function of the damped matrix and the right-hand sides that JAX can trace, as a solver.

    Parameters
    ----------
    function : callable
        Takes the damped matrix (d, d) and right-hand sides (d,) or (d, k), and returns the solution alone.

    Notes
    -----
    Nothing is cached. What the function says of its success is not asked for: the true residual is computed.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> solver, matrix = FromCallable(jnp.linalg.solve), jnp.diag(jnp.array([1.0, 3.0]))
    >>> state = solver.prepare(matrix, 1.0, solver.init(matrix), None)
    >>> solver.apply(jnp.ones(2), state, None)[0].tolist()
    [0.5, 0.25]
    """

    function: Callable[[jax.Array, jax.Array], jax.Array]

    def init(self, matrix: Any) -> Prepared:
        """Shape a state."""
        return _blank(self, matrix)

    def prepare(self, matrix: jax.Array, damping: Any, state: Prepared, key: jax.Array | None = None) -> Prepared:
        """Keep the damped matrix."""
        del state, key
        damped = add_damping(matrix, damping)
        return Prepared(damped, (), definiteness(damped, jnp.ones(())))

    def apply(self, rhs: jax.Array, state: Prepared, key: jax.Array | None = None) -> tuple[jax.Array, Info, Prepared]:
        """Call the function."""
        del key
        return *answer(lambda b: self.function(state.damped, b), rhs, state.damped, state.code), state


def usable(code: jax.Array) -> jax.Array:
    """Whether an answer with this code may be used."""
    return code < int(Code.SATURATED)


def code_finite(code: jax.Array, *arrays: jax.Array) -> jax.Array:
    """The code, or ``NOT_FINITE`` where that is the first thing to be said against the arrays."""
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(array)) for array in arrays]))
    return jnp.where(finite | ~usable(code), code, int(Code.NOT_FINITE)).astype(jnp.int32)


def working(x: Any) -> jax.Array:
    """An array in at least single precision."""
    x = jnp.asarray(x)
    return x if x.dtype in (jnp.float32, jnp.float64) else x.astype(jnp.float32)


def add_damping(matrix: jax.Array, damping: Any) -> jax.Array:
    """The damped matrix, symmetric, in at least single precision; refuse what is known to be wrong."""
    _check(matrix, damping)
    return damped(matrix, damping)


def damped(matrix: jax.Array, damping: Any) -> jax.Array:
    """The damped matrix, symmetric, in at least single precision."""
    matrix = working(matrix)
    return _on_diagonal((matrix + matrix.T) / 2, damping)


def _check(matrix: jax.Array, damping: Any) -> None:
    check_positive(damping=damping)
    if np.ndim(matrix) != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix must be square, got shape {np.shape(matrix)}; use vmap for a stack")


def _on_diagonal(matrix: jax.Array, damping: Any) -> jax.Array:
    """A matrix with a number added to its diagonal, written once: no mask is computed over and over."""
    place = jnp.arange(len(matrix))
    return matrix.at[place, place].add(jnp.asarray(damping).astype(matrix.dtype), unique_indices=True)


def definiteness(damped: jax.Array, pivots: jax.Array) -> jax.Array:
    """The code of a matrix from its pivots, not finite or positive where there is none, or its eigenvalues."""
    finite = jnp.all(jnp.isfinite(damped))
    definite = jnp.all(jnp.isfinite(pivots) & (pivots > 0))
    fault = jnp.where(finite, int(Code.NOT_POSITIVE_DEFINITE), int(Code.NOT_FINITE))
    return jnp.where(definite & finite, int(Code.OK), fault).astype(jnp.int32)


def relative_residual(matrix: jax.Array, x: jax.Array, rhs: jax.Array) -> jax.Array:
    r""":math:`\max_k |b_k - M x_k|/|b_k|` over the columns k, in units in which squares do not overflow.

    The numerator alone where a right-hand side is zero.
    """
    x, rhs = (block.reshape(len(matrix), -1) for block in (x, rhs))
    largest = jnp.max(jnp.abs(rhs), axis=0, keepdims=True)
    unit = jnp.where(largest > 0, largest, 1)
    length = jnp.linalg.norm(rhs / unit, axis=0)
    left = jnp.linalg.norm((rhs - product(matrix, x)) / unit, axis=0)
    return jnp.max(left / jnp.where(length > 0, length, 1)).astype(jnp.float32)


def report(code: Any, residual: Any, steps: Any = 0, stderr: Any = 0, seconds: Any = 0, joules: Any = 0) -> Info:
    """Numbers as what a solve reports."""
    numbers = (jnp.asarray(x).astype(jnp.float32) for x in (residual, steps, stderr, seconds, joules))
    return Info(jnp.asarray(code).astype(jnp.int32), *numbers)


def check_rhs(rhs: jax.Array, dim: int) -> None:
    """Raise a ``ValueError`` if right-hand sides do not fit."""
    if np.ndim(rhs) not in (1, 2) or np.shape(rhs)[0] != dim:
        raise ValueError(f"rhs must have shape ({dim},) or ({dim}, k), got {np.shape(rhs)}")


def answer(
    solve: Callable[[jax.Array], jax.Array], rhs: jax.Array, damped: jax.Array, code: jax.Array
) -> tuple[jax.Array, Info]:
    """Solve in the dtype of the matrix, and judge what comes out."""
    check_rhs(rhs, len(damped))
    force = rhs.astype(damped.dtype)
    x = solve(force)
    return x.astype(rhs.dtype), report(code_finite(code, x, force), relative_residual(damped, *_probe(x, force)))


def _probe(x: jax.Array, force: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One random combination in the place of many columns: their residuals would cost as much as solving."""
    if x.ndim == 1 or x.shape[1] <= _FEW:
        return x, force
    signs = jax.random.rademacher(jax.random.key(0), (x.shape[1],), x.dtype)
    return product(x, signs), product(force, signs)


def blank(prepare: Callable[..., State], matrix: Any) -> State:
    """Zeros in the shapes of what a function of a matrix, a damping and a key prepares."""
    shape = jax.ShapeDtypeStruct(np.shape(matrix), matrix.dtype)
    damping = jax.ShapeDtypeStruct((), jnp.float32)
    found = jax.eval_shape(prepare, shape, damping, jax.eval_shape(lambda: jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)


def unprepared() -> jax.Array:
    """The code of a state that was only shaped."""
    return jnp.asarray(int(Code.UNPREPARED), jnp.int32)


def _blank(solver: Any, matrix: Any) -> Any:
    """A state of a direct solver that knows of no matrix."""
    state = blank(lambda m, damping, key: solver.prepare(m, damping, None, key), matrix)
    return state._replace(code=unprepared())
