"""Solvers that iterate: conjugate gradients and Newton-Schulz."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from thermolinalg.optim.conjugate import cg
from thermolinalg.optim.inverse_factor import product
from thermolinalg.optim.scales import bound_exponent
from thermolinalg.optim.solvers import (
    Code,
    Info,
    add_damping,
    answer,
    blank,
    check_rhs,
    definiteness,
    unprepared,
)
from thermolinalg.ranges import check_fractions, check_whole


@dataclass(frozen=True)
class WarmStart:
    """Start from the last answer.

    Parameters
    ----------
    columns : int, optional
        Number k of right-hand sides (d, k) whose answers are kept; None for a single one of shape (d,).
    """

    columns: int | None = None

    def shape(self, dim: int) -> tuple[int, ...]:
        """Shape of what is kept."""
        return (dim,) if self.columns is None else (dim, self.columns)

    def check(self, rhs: jax.Array) -> None:
        """Raise a ``ValueError`` if right-hand sides are not those that a start is kept for."""
        if rhs.shape != self.shape(len(rhs)):
            raise ValueError(
                f"the warm start is for right-hand sides of shape {self.shape(len(rhs))}, got {rhs.shape}; "
                "set WarmStart(columns=...)"
            )


class Iterated(NamedTuple):
    """The damped matrix, its code, and the last answer where one is kept, else nothing."""

    damped: jax.Array
    code: jax.Array
    last: jax.Array


@dataclass(frozen=True)
class CG:
    """Conjugate gradients with the matrix at hand, every right-hand side by itself.

    Parameters
    ----------
    rtol : float, in (0, 1)
        Relative residual in the 2-norm.
    max_steps : int, >= 1
    precondition : callable, optional
        Of the damped matrix and a residual (d,), linear in that; :func:`jacobi` divides by the diagonal.
    warm : WarmStart, optional
        Start from the last answer, which saves steps where the system moves slowly.

    Notes
    -----
    Few steps and no convergence still give a useful direction: ``NOT_CONVERGED`` is no failure.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> solver, matrix = CG(), jnp.diag(jnp.array([1.0, 3.0]))
    >>> state = solver.prepare(matrix, 1.0, solver.init(matrix), None)
    >>> x, info, state = solver.apply(jnp.ones(2), state, None)
    >>> x.round(5).tolist(), int(info.steps)
    ([0.5, 0.25], 2)
    """

    rtol: float = 1e-5
    max_steps: int = 1000
    precondition: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    warm: WarmStart | None = None

    def __post_init__(self) -> None:
        check_fractions(rtol=self.rtol)
        check_whole("max_steps", self.max_steps, 1)

    def init(self, matrix: Any) -> Iterated:
        """Shape a state."""
        state: Iterated = blank(lambda m, damping, key: self.prepare(m, damping, None, key), matrix)
        return state._replace(code=unprepared())

    def prepare(
        self, matrix: jax.Array, damping: Any, state: Iterated | None, key: jax.Array | None = None
    ) -> Iterated:
        """Keep the damped matrix."""
        del key
        damped = add_damping(matrix, damping)
        shape = (0,) if self.warm is None else self.warm.shape(len(damped))
        last = jnp.zeros(shape, damped.dtype) if state is None else state.last
        return Iterated(damped, definiteness(damped, jnp.diagonal(damped)), last)

    def apply(self, rhs: jax.Array, state: Iterated, key: jax.Array | None = None) -> tuple[jax.Array, Info, Iterated]:
        """Iterate."""
        del key
        damped, precondition = state.damped, self.precondition
        check_rhs(rhs, len(damped))
        if self.warm is not None:
            self.warm.check(rhs)

        def one(b: jax.Array, start: jax.Array | None) -> tuple[jax.Array, Info]:
            return cg(
                lambda v: product(damped, v),
                b,
                start=start,
                rtol=self.rtol,
                max_steps=self.max_steps,
                precondition=None if precondition is None else lambda r: precondition(damped, r),
            )

        force = rhs.astype(damped.dtype)
        start = None if self.warm is None else state.last
        if rhs.ndim == 1:
            x, info = one(force, start)
        else:
            inner = 1 if start is not None else None
            x, each = jax.vmap(one, in_axes=(1, inner), out_axes=(1, 0))(force, start)
            info = Info(*(jnp.max(part) for part in each))
        info = info._replace(code=jnp.maximum(info.code, state.code))
        if self.warm is not None:
            state = state._replace(last=jnp.where(jnp.all(jnp.isfinite(x)), x, state.last))
        return x.astype(rhs.dtype), info, state


def jacobi(damped: jax.Array, residual: jax.Array) -> jax.Array:
    """The residual divided by the diagonal."""
    return residual / jnp.diagonal(damped)


_Carry = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


class Inverted(NamedTuple):
    """The damped matrix, its inverse, how that went, and in how many steps, still to be reported."""

    damped: jax.Array
    inverse: jax.Array
    code: jax.Array
    steps: jax.Array


@dataclass(frozen=True)
class NewtonSchulz:
    r"""Invert by products alone, from the last inverse where that is near enough.

    .. math:: X \leftarrow X + X(I - MX), \qquad I - MX \leftarrow (I - MX)^2

    Parameters
    ----------
    rtol : float, in (0, 1)
        On :math:`\|I - MX\|_F/\sqrt d`.
    max_steps : int, >= 1
        Each has two products of matrices; from a cold start it takes about :math:`\log_2\kappa + 5`.

    Notes
    -----
    It contracts where :math:`\|I - MX\|_F < 1`, which is checked of the last inverse; if not, it starts from the
    identity over a bound on the largest eigenvalue, from which it converges for every positive definite matrix. It
    stops at the rounding floor, or when it diverges, and keeps the best iterate.

    References
    ----------
    Schulz, *Iterative Berechnung der reziproken Matrix*, ZAMM 13 (1933).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> solver, matrix = NewtonSchulz(), jnp.diag(jnp.array([1.0, 3.0]))
    >>> state = solver.prepare(matrix, 1.0, solver.init(matrix), None)
    >>> solver.apply(jnp.ones(2), state, None)[0].round(4).tolist()
    [0.5, 0.25]
    """

    rtol: float = 1e-5
    max_steps: int = 60

    def __post_init__(self) -> None:
        check_fractions(rtol=self.rtol)
        check_whole("max_steps", self.max_steps, 1)

    def init(self, matrix: Any) -> Inverted:
        """Shape a state; there is no inverse to start from yet."""
        state: Inverted = blank(lambda m, damping, key: self.prepare(m, damping, None, key), matrix)
        return state._replace(code=unprepared())

    def prepare(
        self, matrix: jax.Array, damping: Any, state: Inverted | None, key: jax.Array | None = None
    ) -> Inverted:
        """Iterate."""
        del key
        damped = add_damping(matrix, damping)
        exponent = bound_exponent(damped)
        scaled, eye = jnp.ldexp(damped, -exponent), jnp.eye(len(damped), dtype=damped.dtype)

        def rest(inverse: jax.Array) -> tuple[jax.Array, jax.Array]:
            left = eye - product(scaled, inverse)
            return left, jnp.linalg.norm(left)

        begin = eye
        if state is not None:
            warm = jnp.ldexp(state.inverse, exponent)
            begin = jnp.where(rest(warm)[1] < 1, warm, eye)
        left, size = rest(begin)
        goal = self.rtol * len(damped) ** 0.5

        def running(carry: _Carry) -> jax.Array:
            _, _, size, step, stuck = carry
            return (size > goal) & (step < self.max_steps) & ~stuck

        def advance(carry: _Carry) -> _Carry:
            inverse, left, size, step, _ = carry
            new = inverse + product(inverse, left)
            new = (new + new.T) / 2
            new_left, new_size = rest(new)
            # Near 1 rounding hides the first steps of slow modes; below, growth is the floor.
            stuck = ~(new_size <= 1.5 * size) | ((size < 0.5) & ~(new_size < size))
            pairs = (inverse, new), (left, new_left), (size, new_size)
            inverse, left, size = (jnp.where(stuck, *pair) for pair in pairs)
            return inverse, left, size, step + 1, stuck

        start = (begin, left, size, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
        inverse, _, size, steps, _ = jax.lax.while_loop(running, advance, start)
        missed = jnp.where(size < 1, int(Code.NOT_CONVERGED), int(Code.NOT_POSITIVE_DEFINITE))
        missed = jnp.where((size >= 1) & (steps >= self.max_steps), int(Code.NOT_CONVERGED), missed)
        code = jnp.where(size <= goal, int(Code.OK), missed)
        code = jnp.where(jnp.isfinite(size), code, int(Code.NOT_FINITE)).astype(jnp.int32)
        # What is not finite would spoil the next start.
        inverse = jnp.where(jnp.isfinite(size), jnp.ldexp(inverse, -exponent), 0)
        return Inverted(damped, inverse, code, steps.astype(jnp.float32))

    def apply(self, rhs: jax.Array, state: Inverted, key: jax.Array | None = None) -> tuple[jax.Array, Info, Inverted]:
        """Multiply; the first answer after a preparation reports its steps."""
        del key
        x, info = answer(lambda b: product(state.inverse, b), rhs, state.damped, state.code)
        return x, info._replace(steps=state.steps), state._replace(steps=jnp.zeros_like(state.steps))
