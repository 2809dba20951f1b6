r"""Natural gradients by conjugate gradients on the parameters themselves: no matrix is formed."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from thermolinalg.optim.blocks import from_blocks, to_blocks
from thermolinalg.optim.conjugate import cg
from thermolinalg.optim.diagonal_ngd import squared_columns
from thermolinalg.optim.factors import factors
from thermolinalg.optim.fisher import exact
from thermolinalg.optim.kronecker import BlockSolver, Factored, Gradient
from thermolinalg.optim.lanes import Problem, State
from thermolinalg.optim.products import ggn_operator
from thermolinalg.optim.solvers import Info
from thermolinalg.optim.trees import Tree, add, like, scaled, statistics_dtype, widened
from thermolinalg.ranges import check_fractions, check_whole

Preconditioner = Callable[[Problem], Callable[[Tree], Tree]]
"""From a problem to an approximate inverse of its damped curvature, symmetric and positive definite."""


@dataclass(frozen=True)
class Iterative:
    r"""Conjugate gradients: about two gradients for each step, and memory for a few.

    Parameters
    ----------
    rtol : float, in (0, 1)
        Relative residual in the 2-norm.
    max_steps : int, >= 1
    precondition : callable, optional
        :func:`diagonal`, :class:`Kronecker`, or any function from a :class:`Problem` to an approximate inverse.
    warm : bool
        Start from the last answer, which saves steps where the system moves slowly, and keeps one more copy of the
        parameters in single precision or wider.

    Notes
    -----
    Few steps and no convergence still give a direction of descent: ``NOT_CONVERGED`` is no failure. The number of steps
    grows as the root of the condition number, that is, of the reciprocal of the damping.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line, batch = task(lambda w, x: x @ w, SquaredError(), w, x), (x, jnp.zeros((1, 1)))
    >>> problem = Problem(line, w, batch, jax.grad(line.value)(w, batch), jnp.array(4.0))
    >>> Iterative().step(problem, (), jax.random.key(0))[0].round(4).tolist()
    [[0.5], [0.0]]
    """

    rtol: float = 1e-4
    max_steps: int = 100
    precondition: Preconditioner | None = None
    warm: bool = False

    def __post_init__(self) -> None:
        check_fractions(rtol=self.rtol)
        check_whole("max_steps", self.max_steps, 1)

    def init(self, params: Tree) -> State:
        """Zero, if the last answer is kept."""
        return jax.tree.map(jnp.zeros_like, widened(params, statistics_dtype(params))) if self.warm else ()

    def step(self, problem: Problem, state: State, key: jax.Array) -> tuple[Tree, Info, State]:
        """Iterate."""
        del key
        product = damped_product(problem)
        improve = None if self.precondition is None else self.precondition(problem)
        start = state if self.warm else None
        x, info = cg(
            *(product, problem.target()), start=start, rtol=self.rtol, max_steps=self.max_steps, precondition=improve
        )
        return x, info, x if self.warm else state


def damped_product(problem: Problem) -> Callable[[Tree], Tree]:
    r"""Return :math:`v \mapsto (C + \lambda I)v`, on trees in the dtype of sums."""
    if problem.fisher is exact:
        product = ggn_operator(problem.task, problem.params, problem.batch)
    else:
        rows = problem.rows()
        product = lambda v: rows.up(rows.down(v))  # noqa: E731
    return lambda v: add(widened(product(like(v, problem.params)), problem.dtype), scaled(problem.damping, v))


def diagonal(problem: Problem) -> Callable[[Tree], Tree]:
    """Divide by the diagonal of the damped curvature: one backward pass of a single example for each row, once.

    Examples
    --------
    >>> Iterative(precondition=diagonal).precondition is diagonal
    True
    """
    params = widened(problem.params, problem.dtype)
    found = squared_columns(problem.task, problem.params, problem.batch[0], problem.rows().columns(), problem.params)
    whole = jax.tree.map(lambda d, p: d.astype(p.dtype) + problem.damping.astype(p.dtype), found, params)
    return lambda r: jax.tree.map(jnp.divide, r, whole)


@dataclass(frozen=True)
class Kronecker:
    r"""Precondition as K-FAC does, with the factors of this batch; parameters in no tagged layer by the damping alone.

    Parameters
    ----------
    blocks : BlockSolver
        How blocks are inverted; it has to be symmetric, which noisy solvers are not.

    Examples
    --------
    >>> Iterative(precondition=Kronecker()).precondition == Kronecker()
    True
    """

    blocks: BlockSolver = field(default_factory=Factored)

    def __call__(self, problem: Problem) -> Callable[[Tree], Tree]:
        """Measure, damp and invert the factors."""
        task, sites = problem.task, problem.task.layout.sites
        if not sites:
            raise ValueError("task has no tagged layer to make factors of; use precondition=diagonal")
        key = jax.random.key(0)
        pairs = factors(task.model, problem.params, problem.batch[0], problem.rows().columns(), task.layout)
        pairs = widened(pairs, problem.dtype)
        state = self.blocks.prepare(pairs, problem.damping, self.blocks.init(pairs), key)

        def improve(r: Tree) -> Tree:
            found, _, _ = self.blocks.apply(Gradient(to_blocks(sites, r, problem.dtype), dict), state, key)
            return from_blocks(sites, found, scaled(1 / problem.damping, r))

        return improve
