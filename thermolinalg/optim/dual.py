r"""Natural gradients through a matrix as wide as the batch has rows, one for each example and column."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_flatten_with_path

from thermolinalg.optim.gram import gram
from thermolinalg.optim.lanes import Problem, State, check_solver
from thermolinalg.optim.products import RowSpace
from thermolinalg.optim.solvers import Cholesky, Info, Solver
from thermolinalg.optim.task import Task
from thermolinalg.optim.trees import Tree, add, like, scaled, statistics_dtype, widened
from thermolinalg.optim.trust import inner
from thermolinalg.ranges import check_whole

_TOGETHER = 16
_MOST = 2**26
_SLACK = 32.0


@dataclass(frozen=True)
class Dual:
    r"""Solve among rows: r equations for r = examples times columns, whatever the number of parameters.

    .. math:: x = \tfrac1\lambda e + M^\top (M M^\top + \lambda I)^{-1}\left(c - \tfrac1\lambda M e\right),
        \qquad C = M^\top M, \quad g + h = M^\top c + e

    Parameters
    ----------
    solver : Solver
        Any of :mod:`thermolinalg.optim`, on the symmetric matrix :math:`M M^\top`.
    rows : int, >= 1, optional
        r, if it is the same in all steps: the state of the solver is then kept (its last answer, its last good
        preparation, the charge of a device). Without it every step begins afresh.

    Notes
    -----
    The gradient of the loss of the batch has e = 0, and then nothing is divided by the damping and nothing cancels: a
    difference of the order of rounding is not looked at. A gradient that came from elsewhere (clipped, accumulated over
    other batches) is noticed, and its e taken care of: exact as well, with a rounding error that grows as the
    reciprocal of the damping. Where matrices are multiplied in less than the precision of their dtype, compute the
    gradient under ``jax.default_matmul_precision("highest")``, or that difference is not of the order of rounding.

    Layers that are tagged cost :func:`~thermolinalg.optim.gram`; others their Jacobian, or, where that would not fit in
    memory, one product for each row.

    References
    ----------
    Goldshlager, Abrahamsen and Lin, *A Kaczmarz-inspired approach to accelerate the optimization of neural network
    wavefunctions*, arXiv:2401.10190.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line, batch = task(lambda w, x: x @ w, SquaredError(), w, x), (x, jnp.zeros((1, 1)))
    >>> problem = Problem(line, w, batch, jax.grad(line.value)(w, batch), jnp.array(4.0))
    >>> Dual().step(problem, (), jax.random.key(0))[0].round(4).tolist()
    [[0.5], [0.0]]
    """

    solver: Solver = field(default_factory=Cholesky)
    rows: int | None = None

    def __post_init__(self) -> None:
        check_solver(self.solver)
        if self.rows is not None:
            check_whole("rows", self.rows, 1)

    def init(self, params: Tree) -> State:
        """Shape the state of the solver, if it is kept."""
        if self.rows is None:
            return ()
        return self.solver.init(jax.ShapeDtypeStruct((self.rows, self.rows), statistics_dtype(params)))

    def step(self, problem: Problem, state: State, key: jax.Array) -> tuple[Tree, Info, State]:
        """Measure the matrix of all rows, and solve."""
        space, dtype, damping = problem.rows(), problem.dtype, problem.damping
        matrix = row_matrix(problem, space).astype(dtype)
        if self.rows not in (None, len(matrix)):
            raise ValueError(f"the state is for {self.rows} rows, and this batch has {len(matrix)}; set Dual(rows=...)")
        c = known_coordinates(space, dtype)
        e, below = remainder(problem, space, c, matrix)
        rhs = (c - below / damping.astype(dtype)).T.reshape(-1)
        preparing, solving = jax.random.split(key)
        before = self.solver.init(matrix) if self.rows is None else state
        prepared = self.solver.prepare(matrix, damping, before, preparing)
        u, info, after = self.solver.apply(rhs, prepared, solving)
        x = widened(space.up(u.reshape(c.shape[::-1]).T), dtype)
        return add(x, scaled(1 / damping, e)), info, state if self.rows is None else after


def known_coordinates(space: RowSpace, dtype: Any) -> jax.Array:
    """c, or zeros for a loss that has none: nothing is known of its gradient, and all of it goes the longer way."""
    c = space.coordinates.astype(dtype)
    return jnp.where(jnp.all(jnp.isfinite(c)), c, jnp.zeros_like(c))


def remainder(problem: Problem, space: RowSpace, c: jax.Array, matrix: jax.Array) -> tuple[Tree, jax.Array]:
    """What of the target, e, is no combination of rows with the known coordinates, and M e, shape (C, n)."""
    own = widened(space.up(c), problem.dtype)
    gap = jax.tree.map(jnp.subtract, widened(problem.gradient, problem.dtype), own)
    narrow = [leaf.dtype for leaf in (space.outputs, *jax.tree.leaves((problem.params, problem.gradient)))]
    rounding = _SLACK * max(float(jnp.finfo(dtype).eps) for dtype in narrow)
    # No sum of these rows is longer than this, nor are its terms.
    size = jnp.sqrt(jnp.trace(matrix)) * jnp.linalg.norm(c)
    outside = ~(jnp.sqrt(inner(gap, gap)) <= rounding * size)
    e = jax.tree.map(lambda leaf: jnp.where(outside, leaf, jnp.zeros_like(leaf)), gap)
    e = e if problem.extra is None else add(e, widened(problem.extra, problem.dtype))

    def down() -> jax.Array:
        return space.down(like(e, problem.params)).astype(problem.dtype)

    # What is rounding is not looked at: the gradient of the loss of the batch has no more than that.
    return e, jax.lax.cond(outside, down, lambda: jnp.zeros_like(c)) if problem.extra is None else down()


def row_matrix(problem: Problem, space: RowSpace) -> jax.Array:
    r"""Return :math:`M M^\top`, shape (n C, n C), with row i C + c for example i and column c."""
    task, n = problem.task, len(space.outputs)
    columns = space.columns()
    if columns.shape[0] * n * loose(task, problem.params) <= _MOST:
        return gram(task.model, problem.params, problem.batch[0], columns, task.layout) / n
    shape = (n, columns.shape[0])

    def row(k: jax.Array) -> jax.Array:
        unit = (jnp.arange(n * columns.shape[0], dtype=k.dtype) == k).astype(space.coordinates.dtype)
        return space.down(space.up(unit.reshape(shape).T)).T.reshape(-1)

    return jax.lax.map(row, jnp.arange(n * columns.shape[0], dtype=jnp.int32), batch_size=_TOGETHER)


def loose(task: Task, params: Tree) -> int:
    """Number of parameters whose Jacobian has to be formed: those in no tagged layer, or tied."""
    layout = task.layout
    bare = {*layout.unclaimed, *layout.tied}
    return sum(leaf.size for path, leaf in tree_flatten_with_path(params)[0] if keystr(path) in bare)
