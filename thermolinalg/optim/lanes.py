r"""Natural gradients by different ways: what a way is given, and the way through a matrix as wide as the parameters."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thermolinalg.optim.fisher import Columns, exact
from thermolinalg.optim.products import RowSpace, row_space
from thermolinalg.optim.solvers import Cholesky, Info, Solver
from thermolinalg.optim.task import Task
from thermolinalg.optim.trees import Tree, add, like, statistics_dtype, widened

State = Any
_TOGETHER = 64


@dataclass(frozen=True)
class Problem:
    r"""One damped system, :math:`(C + \lambda I)\,x = g + h`, by what it is made of.

    Attributes
    ----------
    task, params, batch
        Where the curvature `C` is measured.
    gradient : pytree like `params`
        g: as a rule, that of the mean loss of this batch.
    damping : array ()
        :math:`\lambda`.
    extra : pytree like `params`, optional
        h: what is known not to come from the loss, as a penalty or momentum.
    fisher : callable
        Columns of the curvature, from :mod:`thermolinalg.optim`.
    key : PRNG key
        For columns that are drawn.
    """

    task: Task
    params: Tree
    batch: tuple[Any, Any]
    gradient: Tree
    damping: jax.Array
    extra: Tree | None = None
    fisher: Columns = exact
    key: jax.Array | None = None

    @property
    def dtype(self) -> Any:
        """The dtype of sums over parameters."""
        return statistics_dtype(self.params)

    def rows(self) -> RowSpace:
        """Run and linearise the model."""
        return row_space(self.task, self.params, self.batch, self.fisher, self.key)

    def target(self) -> Tree:
        """Return g + h, in the dtype of sums."""
        target = widened(self.gradient, self.dtype)
        return target if self.extra is None else add(target, widened(self.extra, self.dtype))


@runtime_checkable
class Lane(Protocol):
    """A way to a natural gradient; frozen and hashable, with a state of fixed shapes and dtypes."""

    def init(self, params: Tree) -> State:
        """Shape the state."""

    def step(self, problem: Problem, state: State, key: jax.Array) -> tuple[Tree, Info, State]:
        """Return x, like the parameters and in the dtype of sums, what the solver says, and the state."""


@dataclass(frozen=True)
class Primal:
    r"""Form the curvature, :math:`N \times N` for N parameters, and solve: for at most about a thousand of them.

    Parameters
    ----------
    solver : Solver
        Any of :mod:`thermolinalg.optim`; its state is kept from step to step.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line, batch = task(lambda w, x: x @ w, SquaredError(), w, x), (x, jnp.zeros((1, 1)))
    >>> problem = Problem(line, w, batch, jax.grad(line.value)(w, batch), jnp.array(4.0))
    >>> Primal().step(problem, Primal().init(w), jax.random.key(0))[0].round(4).tolist()
    [[0.5], [0.0]]
    """

    solver: Solver = field(default_factory=Cholesky)

    def __post_init__(self) -> None:
        check_solver(self.solver)

    def init(self, params: Tree) -> State:
        """Shape the state of the solver."""
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        return self.solver.init(jax.ShapeDtypeStruct((count, count), statistics_dtype(params)))

    def step(self, problem: Problem, state: State, key: jax.Array) -> tuple[Tree, Info, State]:
        """Measure the curvature by products with unit vectors, and solve."""
        rows = problem.rows()
        target, unravel = ravel_pytree(problem.target())

        def column(unit: jax.Array) -> jax.Array:
            product = rows.up(rows.down(like(unravel(unit), problem.params)))
            return ravel_pytree(widened(product, problem.dtype))[0]

        curvature = jax.lax.map(column, jnp.eye(len(target), dtype=problem.dtype), batch_size=_TOGETHER)
        preparing, solving = jax.random.split(key)
        state = self.solver.prepare(curvature, problem.damping, state, preparing)
        x, info, state = self.solver.apply(target, state, solving)
        return unravel(x), info, state


def check_solver(solver: Any) -> None:
    """Raise a ``ValueError`` if this is no solver of matrices."""
    if not isinstance(solver, Solver) or isinstance(solver, type):
        raise ValueError(f"solver must have init, prepare and apply, as Cholesky() has, got {solver!r}")
