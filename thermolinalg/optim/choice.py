"""Which way to a natural gradient is the shortest, by the sizes of the problem."""

from typing import Any

import jax

from thermolinalg.optim.dual import Dual, loose
from thermolinalg.optim.fisher import Columns, exact
from thermolinalg.optim.lanes import Lane, Primal
from thermolinalg.optim.matrix_free import Iterative
from thermolinalg.optim.task import Task

_DENSE, _ROWS, _JACOBIAN = 1000, 4096, 2**26


def choose(task: Task, params: Any, batch: tuple[Any, Any], *, fisher: Columns = exact) -> Lane:
    """Return the lane that suits the sizes of a problem.

    Parameters
    ----------
    task : Task
    params : pytree
        Parameters, or their shapes.
    batch : (inputs, targets)
        A batch, or its shapes.
    fisher : callable
        Columns of the curvature.

    Returns
    -------
    Primal, Dual or Iterative
        With N parameters and r rows (examples times columns): ``Primal()`` for N up to r and 1000; else ``Dual()`` for
        r up to 4096, unless the Jacobian of what is in no tagged layer had more than 2^26 entries; else
        ``Iterative()``.

    Notes
    -----
    Sizes alone decide, so the answer is known before tracing and is the same in every step. Small damping speaks for
    the first two, whose cost does not depend on it.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((200, 10)), jnp.ones((8, 200))
    >>> choose(task(lambda w, x: x @ w, SquaredError(), w, x), w, (x, jnp.ones((8, 10))))
    Dual(solver=Cholesky(), rows=None)
    """
    count = sum(leaf.size for leaf in jax.tree.leaves(params))

    def columns(params: Any, batch: tuple[Any, Any]) -> jax.Array:
        return fisher(task.loss, task.outputs(params, batch[0]), batch[1], jax.random.key(0))

    shape = jax.eval_shape(columns, params, tuple(batch)).shape
    rows = shape[0] * shape[1]
    if count <= min(rows, _DENSE):
        return Primal()
    if rows <= _ROWS and rows * loose(task, params) <= _JACOBIAN:
        return Dual()
    return Iterative()
