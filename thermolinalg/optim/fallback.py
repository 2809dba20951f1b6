"""What to do when a solve fails: more damping, the last good preparation, a reference, and the gradient itself."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from thermolinalg.optim.solvers import (
    Code,
    Info,
    Solver,
    State,
    damped,
    relative_residual,
    report,
    usable,
    working,
)
from thermolinalg.ranges import check_positive, check_whole


class Counts(NamedTuple):
    """How many solves ended where: each is counted once."""

    sound: jax.Array
    retried: jax.Array
    stale: jax.Array
    reference: jax.Array
    gradient: jax.Array
    zero: jax.Array


class Ladder(NamedTuple):
    """What a guarded solver knows.

    Attributes
    ----------
    matrix, damping : Array
        As last prepared.
    current, good : pytree
        State of the solver: as last prepared, and after the last answer that was accepted.
    age : int32
        Preparations since the good one; -1 if there is none.
    length : Array
        Length of the last accepted answer.
    counts : Counts
    """

    matrix: jax.Array
    damping: jax.Array
    current: State
    good: State
    age: jax.Array
    length: jax.Array
    counts: Counts


class _Try(NamedTuple):
    """An answer, what the solver says, its state, and whether the answer is accepted."""

    x: jax.Array
    info: Info
    state: State
    accepted: jax.Array


@dataclass(frozen=True)
class Guarded:
    r"""Never an answer that is not finite, and never a substitute in silence.

    An answer is accepted if it is finite, its code is usable, its residual is at most `residual_limit`, and it is a
    direction of descent, :math:`\langle x, b\rangle > 0`. If it is not, these are tried in turn:

    1. the same matrix, prepared again with the damping times `retry_damping`;
    2. the last good preparation, if it is not older than `max_staleness`;
    3. the reference solver, if there is one;
    4. the right-hand side, as long as the last accepted answer;
    5. zero.

    Parameters
    ----------
    solver : Solver
    reference : Solver, optional
        Such as :class:`Cholesky`; prepared only when it is needed.
    retry_damping : float, > 0
        Factor on the damping.
    residual_limit : float, > 0
        Largest relative residual, of the system that was solved. At 1 an answer is as far off as none at all; readings
        of a noisy inverse may be beyond that and still point downhill.
    max_staleness : int, >= 0
        Preparations after it for which a good one may serve; with 0 only answers of the same preparation are repeated.

    Notes
    -----
    ``info.code`` says which step answered, ``state.counts`` how often each did, and ``info.residual`` is that of the
    system that was asked for. Steps, seconds and joules are those of all attempts. The stale preparation is not
    tested by its residual, since it is one of another matrix.

    A preparation starts from the last good state, never from one that failed. After a retry the stronger damping stays
    until the next preparation. Steps 1 to 3 are branches: they cost nothing when they are not taken, except under
    ``vmap``, where all are. States hold the matrix and twice the state of the solver.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.solvers import Cholesky
    >>> solver, matrix = Guarded(Cholesky()), jnp.diag(jnp.array([-2.0, 1.0]))
    >>> state = solver.prepare(matrix, 1.0, solver.init(matrix), None)
    >>> x, info, state = solver.apply(jnp.ones(2), state, None)
    >>> Code(int(info.code)).name, int(state.counts.retried), round(float(x[0]), 4)
    ('RETRIED', 1, 0.125)
    """

    solver: Solver
    reference: Solver | None = None
    retry_damping: float = 10.0
    residual_limit: float = 1.0
    max_staleness: int = 10

    def __post_init__(self) -> None:
        check_positive(retry_damping=self.retry_damping, residual_limit=self.residual_limit)
        check_whole("max_staleness", self.max_staleness, 0)

    def init(self, matrix: Any) -> Ladder:
        """Shape a state that has nothing good yet."""
        shape = jnp.zeros(matrix.shape, matrix.dtype)
        kind, zero, inner = working(shape).dtype, jnp.zeros((), jnp.int32), self.solver.init(matrix)
        scalar = jnp.zeros((), kind)
        return Ladder(shape, scalar, inner, inner, jnp.asarray(-1, jnp.int32), scalar, Counts(*[zero] * 6))

    def prepare(self, matrix: jax.Array, damping: Any, state: Ladder, key: jax.Array | None = None) -> Ladder:
        """Prepare from the last good state."""
        current = self.solver.prepare(matrix, damping, state.good, key)
        damping = jnp.asarray(damping).astype(state.damping.dtype)
        age = jnp.where(state.age >= 0, state.age + 1, state.age)
        return state._replace(matrix=matrix, damping=damping, current=current, age=age)

    def apply(self, rhs: jax.Array, state: Ladder, key: jax.Array | None = None) -> tuple[jax.Array, Info, Ladder]:
        """Solve, and go down the ladder as far as it takes."""

        def stream(level: int) -> jax.Array | None:
            return None if key is None else jax.random.fold_in(key, level)

        found = self._attempt(self.solver, rhs, state.current, stream(0))
        level, always = jnp.zeros((), jnp.int32), jnp.ones((), bool)

        def retry(tried: _Try) -> _Try:
            damping = self.retry_damping * state.damping
            again = self.solver.prepare(state.matrix, damping, state.good, stream(1))
            return _after(tried, self._attempt(self.solver, rhs, again, stream(2)))

        found, level = _unless(found, level, 1, retry, always)

        def reuse(tried: _Try) -> _Try:
            x, info, kept = self.solver.apply(rhs, state.good, stream(3))
            return _after(tried, _Try(x, info, kept, usable(info.code) & _downhill(x, rhs)))

        recent = (state.age >= 0) & (state.age <= self.max_staleness)
        found, level = _unless(found, level, 2, reuse, recent)
        if self.reference is not None:

            def refer(tried: _Try) -> _Try:
                return self._refer(tried, rhs, state, stream(4))

            found, level = _unless(found, level, 3, refer, always)

        x, last = self._last_resort(rhs, found, state.length)
        level = jnp.where(found.accepted, level, last)
        trusted = found.accepted & (level != 2) & (level != 3)
        good, current = (
            jax.tree.map(lambda new, old: jnp.where(trusted, new, old), found.state, kept)
            for kept in (state.good, state.current)
        )
        length = jnp.where(found.accepted, _length(x).astype(state.length.dtype), state.length)
        counts = Counts(*(count + (level == i).astype(jnp.int32) for i, count in enumerate(state.counts)))
        age = jnp.where(trusted, 0, state.age)
        system = damped(state.matrix, state.damping)
        left = relative_residual(system, x.astype(system.dtype), rhs.astype(system.dtype))
        code = jnp.where(level == 0, found.info.code, int(Code.RETRIED) - 1 + level)
        info = found.info._replace(code=code.astype(jnp.int32), residual=left)
        return x, info, state._replace(current=current, good=good, age=age, length=length, counts=counts)

    def _attempt(self, solver: Solver, rhs: jax.Array, prepared: State, key: jax.Array | None) -> _Try:
        """Apply, and judge."""
        x, info, after = solver.apply(rhs, prepared, key)
        # A residual that is not known says nothing; an answer that is not finite is caught below.
        accepted = usable(info.code) & ~(info.residual > self.residual_limit) & _downhill(x, rhs)
        return _Try(x, info, after, accepted)

    def _refer(self, tried: _Try, rhs: jax.Array, state: Ladder, key: jax.Array | None) -> _Try:
        """Ask the reference; the state of the solver is left alone."""
        assert self.reference is not None
        blank = self.reference.init(state.matrix)
        prepared = self.reference.prepare(state.matrix, state.damping, blank, key)
        return _after(tried, self._attempt(self.reference, rhs, prepared, key)._replace(state=tried.state))

    def _last_resort(self, rhs: jax.Array, found: _Try, length: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The answer where there is one, else the right-hand side rescaled, else zero; and which of the two."""
        finite = jnp.all(jnp.isfinite(rhs))
        force = jnp.where(finite, working(rhs), 0)
        unit = jnp.max(jnp.abs(force))
        direction = force / jnp.where(unit > 0, unit, 1)
        size = jnp.linalg.norm(direction)
        plain = direction * (length.astype(direction.dtype) / jnp.where(size > 0, size, 1))
        level = jnp.where((length > 0) & (size > 0), 4, 5).astype(jnp.int32)
        return jnp.where(found.accepted, found.x, plain.astype(found.x.dtype)), level


def _unless(found: _Try, level: jax.Array, number: int, otherwise: Any, able: jax.Array) -> tuple[_Try, jax.Array]:
    """Take a step of the ladder unless an answer was accepted before."""
    needed = ~found.accepted & able
    return lax.cond(needed, otherwise, lambda tried: tried, found), jnp.where(needed, number, level)


def _after(before: _Try, now: _Try) -> _Try:
    """The later attempt, at the price of both."""
    old, new = before.info, now.info
    spent = (old.steps + new.steps, old.seconds + new.seconds, old.joules + new.joules)
    return now._replace(info=report(new.code, new.residual, spent[0], new.stderr, *spent[1:]))


def _downhill(x: jax.Array, rhs: jax.Array) -> jax.Array:
    """Whether an answer is finite and along the right-hand side; zero for zero will do."""
    x, rhs = working(x), working(rhs)
    far, near = jnp.max(jnp.abs(x)), jnp.max(jnp.abs(rhs))
    along = jnp.vdot(x / jnp.where(far > 0, far, 1), rhs / jnp.where(near > 0, near, 1))
    return jnp.isfinite(far) & jnp.isfinite(near) & ((along > 0) | (near == 0))


def _length(x: jax.Array) -> jax.Array:
    """The 2-norm of all entries, of numbers whose squares may overflow."""
    x = working(x)
    largest = jnp.max(jnp.abs(x))
    unit = jnp.where(largest > 0, largest, 1)
    return unit * jnp.linalg.norm(x / unit)
