r"""Products with curvature matrices that are never formed.

With J the Jacobian of all outputs and :math:`H = SS^\top` the output Hessian of the n examples,

.. math:: \mathrm{GGN} = \frac1n J^\top H J = M^\top M, \qquad M = \frac{1}{\sqrt n} S^\top J, \qquad
    \nabla L = M^\top c
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thermolinalg.optim.fisher import Columns, empirical, exact
from thermolinalg.optim.loss_base import wide
from thermolinalg.optim.task import Task, as_batch

_EXACT = jax.lax.Precision.HIGHEST


def ggn_operator(task: Task, params: Any, batch: tuple[Any, Any]) -> Callable[[Any], Any]:
    r"""Return the map :math:`v \mapsto \mathrm{GGN}\,v`, with the model run and linearised once.

    .. math:: \mathrm{GGN}\,v = \frac1n J^\top H J v

    Parameters
    ----------
    task : Task
    params : pytree
        Where the model is linearised.
    batch : (inputs, targets)

    Returns
    -------
    callable
        From a pytree like `params` to another. It keeps what the linearisation needs, and lives inside one trace.

    Notes
    -----
    The GGN is positive semi-definite for losses convex in the outputs, equals the Fisher information for all losses
    here but :class:`Custom`, and the Hessian for models linear in their parameters. One product costs about as much as
    one gradient.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line = task(lambda w, x: x @ w, SquaredError(), w, x)
    >>> ggn_operator(line, w, (x, jnp.zeros((1, 1))))(w).tolist()
    [[4.0], [0.0]]
    """
    inputs, targets = as_batch(batch)
    outputs, push, pull = _linearised(task, params, inputs)

    def product(v: Any) -> Any:
        return pull(task.loss.hessian_product(outputs, targets, push(v)) / len(outputs))

    return product


def ggn_product(task: Task, params: Any, batch: tuple[Any, Any], v: Any) -> Any:
    """Return the GGN times v, a pytree like the parameters; for many v see :func:`ggn_operator`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line = task(lambda w, x: x @ w, SquaredError(), w, x)
    >>> ggn_product(line, w, (x, jnp.zeros((1, 1))), w).tolist()
    [[4.0], [0.0]]
    """
    return ggn_operator(task, params, batch)(v)


def fisher_product(task: Task, params: Any, inputs: Any, columns: jax.Array, v: Any) -> Any:
    r"""Return the product of v with the curvature that given output columns make.

    .. math:: \frac1n \sum_{i,c} J_i^\top v_{ci} v_{ci}^\top J_i\,v

    Parameters
    ----------
    task, params, inputs
        As for :func:`ggn_operator`; the loss is not used.
    columns : Array, shape (C, \\*outputs.shape)
        From :mod:`~thermolinalg.optim.fisher`: drawn columns give the Monte Carlo Fisher, empirical ones the empirical.
    v : pytree like `params`

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line = task(lambda w, x: x @ w, SquaredError(), w, x)
    >>> fisher_product(line, w, x, jnp.full((1, 1, 1), 3.0), w).tolist()
    [[36.0], [0.0]]
    """
    outputs, push, pull = _linearised(task, params, inputs)
    if columns.shape[1:] != outputs.shape:
        raise ValueError(f"columns must have shape (C, *{outputs.shape}), got {columns.shape}")
    axes = tuple(range(2, columns.ndim))
    columns = columns.astype(outputs.dtype)
    inside = jnp.sum(columns * push(v)[None], axes, keepdims=True) / len(outputs)
    return pull(jnp.sum(columns * inside, 0))


def hessian_product(task: Task, params: Any, batch: tuple[Any, Any], v: Any) -> Any:
    """Return the Hessian of the mean loss times v; it need not be positive, as the GGN is.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line = task(lambda w, x: x @ w, SquaredError(), w, x)
    >>> hessian_product(line, w, (x, jnp.zeros((1, 1))), w).tolist()
    [[4.0], [0.0]]
    """
    return jax.jvp(jax.grad(lambda p: task.value(p, batch)), (params,), (v,))[1]


@dataclass(frozen=True)
class RowSpace:
    r"""The maps between parameters and rows, one row for each column of the root and each example.

    .. math:: M = \frac{1}{\sqrt n} S^\top J, \qquad M^\top M = \mathrm{GGN}, \qquad M^\top c = \nabla L

    so that :math:`(\mathrm{GGN} + \lambda)^{-1}\nabla L = M^\top (MM^\top + \lambda)^{-1} c`, which nothing cancels in.

    Attributes
    ----------
    outputs : Array, shape (n, ...)
        What the model says.
    coordinates : Array, shape (C, n)
        c; zero for drawn columns, of whose rows the gradient is no combination.

    Notes
    -----
    From :func:`row_space`. It holds a linearised model and lives inside one trace.
    """

    outputs: jax.Array
    coordinates: jax.Array
    _root: Callable[[jax.Array], jax.Array]
    _transpose: Callable[[jax.Array], jax.Array]
    _columns: Callable[[], jax.Array]
    _push: Callable[[Any], jax.Array]
    _pull: Callable[[jax.Array], Any]

    def columns(self) -> jax.Array:
        """Return the columns of S, shape (C, n, ...), like the outputs."""
        return self._columns()

    def down(self, v: Any) -> jax.Array:
        """Return M v, shape (C, n), for v like the parameters: one forward-mode product."""
        return self._transpose(self._push(v)) / len(self.outputs) ** 0.5

    def up(self, u: jax.Array) -> Any:
        """Return M^T u, like the parameters, for u of shape (C, n): one backward pass."""
        return self._pull(self._root(jnp.reshape(u, self.coordinates.shape) / len(self.outputs) ** 0.5))


def row_space(task: Task, params: Any, batch: tuple[Any, Any], fisher: Columns = exact, key: Any = None) -> RowSpace:
    """Return the maps between parameters and rows, with the model run and linearised once.

    Parameters
    ----------
    task : Task
    params : pytree
        Where the model is linearised.
    batch : (inputs, targets)
    fisher : callable
        Which curvature: ``exact``, ``monte_carlo``, ``propagation``, ``empirical`` of :mod:`thermolinalg.optim`.
    key : PRNG key
        For drawn columns.

    Returns
    -------
    RowSpace

    Raises
    ------
    ValueError
        If the loss has no root or no coordinates, as far as that is seen (NaN under ``jit``).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line = task(lambda w, x: x @ w, SquaredError(), w, x)
    >>> rows = row_space(line, w, (x, jnp.zeros((1, 1))))
    >>> rows.down(w).tolist(), rows.up(rows.coordinates).tolist()
    ([[2.0]], [[4.0], [0.0]])
    """
    inputs, targets = as_batch(batch)
    loss, (outputs, push, pull) = task.loss, _linearised(task, params, inputs)
    if fisher is exact:
        c = loss.coordinates(outputs, targets) / len(outputs) ** 0.5
        root = lambda u: loss.root_product(outputs, targets, u)  # noqa: E731
        transpose = lambda v: loss.root_transpose(outputs, targets, v)  # noqa: E731
        return RowSpace(outputs, c, root, transpose, lambda: loss.root(outputs, targets), push, pull)
    columns = fisher(loss, outputs, targets, key)
    flat = columns.reshape(*columns.shape[:2], -1).astype(wide(columns.dtype))
    # The gradient is the mean of the empirical columns, and no combination of columns that were drawn.
    c = jnp.full(flat.shape[:2], len(outputs) ** -0.5 if fisher is empirical else 0.0, flat.dtype)

    def combine(u: jax.Array) -> jax.Array:
        return jnp.einsum("cnk,cn->nk", flat, u.astype(flat.dtype), precision=_EXACT).reshape(outputs.shape)

    def project(v: jax.Array) -> jax.Array:
        return jnp.einsum("cnk,nk->cn", flat, v.reshape(flat.shape[1:]).astype(flat.dtype), precision=_EXACT)

    return RowSpace(outputs, c, lambda u: combine(u).astype(outputs.dtype), project, lambda: columns, push, pull)


def dense_ggn(task: Task, params: Any, batch: tuple[Any, Any]) -> jax.Array:
    """Return the GGN as a matrix, shape (N, N), in the order of ``ravel_pytree``; for small models.

    Notes
    -----
    It is made as a square, from C n backward passes, so that rounding leaves it symmetric.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.ones((2, 1)), jnp.array([[2.0, 0.0]])
    >>> line = task(lambda w, x: x @ w, SquaredError(), w, x)
    >>> dense_ggn(line, w, (x, jnp.zeros((1, 1)))).tolist()
    [[4.0, 0.0], [0.0, 0.0]]
    """
    inputs, targets = as_batch(batch)
    outputs, _, pull = _linearised(task, params, inputs)
    columns = task.loss.root(outputs, targets) / len(outputs) ** 0.5

    def row(example: jax.Array, column: jax.Array) -> jax.Array:
        seed = jnp.zeros_like(outputs).at[example].set(column[example])
        return ravel_pytree(pull(seed))[0]

    examples = jnp.arange(len(outputs))
    M = jax.vmap(lambda column: jax.vmap(lambda i: row(i, column))(examples))(columns)
    M = M.reshape(-1, M.shape[-1])
    return jnp.matmul(M.T, M, precision=_EXACT)


def _linearised(task: Task, params: Any, inputs: Any) -> tuple[jax.Array, Callable, Callable]:
    """Outputs, J and J^T, from one run of the model."""
    outputs, push = jax.linearize(lambda p: task.outputs(p, inputs), params)
    pull = jax.linear_transpose(push, params)
    return outputs, push, lambda u: pull(u)[0]
