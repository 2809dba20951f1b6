r"""The diagonal of the curvature, as an optimizer: for parameters that belong to no tagged layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path

from thermolinalg.optim.books import Scheduled, at, decay_of, finite, numbers
from thermolinalg.optim.fisher import Columns, monte_carlo
from thermolinalg.optim.loss_base import wide
from thermolinalg.optim.sites import examples_in
from thermolinalg.optim.task import Task, as_batch
from thermolinalg.optim.trees import mixed
from thermolinalg.ranges import check_not_negative, check_positive


class DiagonalState(NamedTuple):
    """Running mean of the diagonal, the number of its measurements, and the random key."""

    curvature: Any
    measured: jax.Array
    key: jax.Array


def diagonal_ngd(
    task: Task,
    learning_rate: Scheduled,
    *,
    damping: Scheduled,
    fisher: Columns = monte_carlo,
    decay: Scheduled = 0.95,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Divide every coordinate of the gradient by its own curvature.

    .. math:: \theta \leftarrow \theta - \alpha \frac{g}{D + \lambda}, \qquad
        D = \frac1n \sum_{i,c} \left( \frac{\partial\, v_{ic}^\top f(x_i)}{\partial \theta} \right)^2

    with the running mean of `D`, and the columns :math:`v_{ic}` of a root of the output Hessian.

    Parameters
    ----------
    task : Task
    learning_rate : float, > 0, or schedule
    damping : float, > 0, or schedule
    fisher : callable
        Which curvature, as for :func:`~thermolinalg.optim.kfac`.
    decay : float in [0, 1), or schedule
    seed : int

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, batch=(inputs, targets))``. As ``rest=`` of K-FAC it takes care of what no layer
        claims; it then gets all parameters as ``whole``.

    Raises
    ------
    ValueError
        If a number is out of range; from ``update``, if ``batch`` or ``params`` is missing.

    Notes
    -----
    One backward pass for each example and column, one after another: meant for few parameters, such as gains. What
    couples coordinates is lost.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg import optim
    >>> params, x = {"gain": jnp.array([4.0, 1.0])}, jnp.ones((8, 2))
    >>> task = optim.task(lambda p, x: x * p["gain"][None], optim.SquaredError(), params, x)
    >>> batch, opt = (x, jnp.zeros((8, 2))), optim.diagonal_ngd(task, 1.0, damping=1e-8, fisher=optim.exact)
    >>> updates, _ = opt.update(jax.grad(task.value)(params, batch), opt.init(params), params, batch=batch)
    >>> updates["gain"].round(4).tolist()
    [-4.0, -1.0]
    """
    check_positive(**numbers(learning_rate=learning_rate, damping=damping))
    check_not_negative(**numbers(decay=decay))

    def init(params: Any) -> DiagonalState:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide(leaf.dtype)), params)
        return DiagonalState(zeros, jnp.zeros((), jnp.int32), jax.random.key_data(jax.random.key(seed)))

    def update(
        grads: Any, state: DiagonalState, params: Any = None, *, batch: Any = None, whole: Any = None, **extra: Any
    ) -> tuple[Any, DiagonalState]:
        del extra
        whole = params if whole is None else whole
        if whole is None or batch is None:
            raise ValueError(
                "diagonal_ngd needs parameters and batch: update(grads, state, params, batch=(inputs, targets))"
            )
        key, drawing = jax.random.split(jax.random.wrap_key_data(state.key))
        inputs, targets = as_batch(batch)
        columns = fisher(task.loss, task.outputs(whole, inputs), targets, drawing)
        new = squared_columns(task, whole, inputs, columns, params)
        usable = finite((new, grads))
        number = state.measured + 1
        keep = jnp.where(usable, decay_of(decay, number, state.measured, jnp.float32), 1)
        curvature = mixed(keep, state.curvature, new)
        rate, shift = (jnp.asarray(at(value, state.measured), jnp.float32) for value in (learning_rate, damping))

        def step(g: jax.Array, d: jax.Array) -> jax.Array:
            moved = -rate.astype(d.dtype) * g.astype(d.dtype) / (d + shift.astype(d.dtype))
            return jnp.where(usable, moved, jnp.zeros_like(moved)).astype(g.dtype)

        measured = jnp.where(usable, number, state.measured)
        return jax.tree.map(step, grads, curvature), DiagonalState(curvature, measured, jax.random.key_data(key))

    return optax.GradientTransformationExtraArgs(init, update)


def squared_columns(task: Task, params: Any, inputs: Any, columns: jax.Array, only: Any) -> Any:
    """The diagonal of the curvature that output columns make, for the leaves of `only`, a tree with some of `params`.

    One example after another, so that gradients of one example are all that is held.
    """
    n = examples_in(inputs)
    chosen = {keystr(path): leaf for path, leaf in tree_flatten_with_path(only)[0]}

    def with_leaves(leaves: dict[str, jax.Array]) -> Any:
        return tree_map_with_path(lambda path, leaf: leaves.get(keystr(path), leaf), params)

    def add(total: dict[str, jax.Array], example: tuple[Any, jax.Array]) -> tuple[dict[str, jax.Array], None]:
        one, own = jax.tree.map(lambda leaf: leaf[None], example[0]), example[1][:, None]
        _, pull = jax.vjp(lambda leaves: task.outputs(with_leaves(leaves), one), chosen)
        each = jax.vmap(lambda column: pull(column)[0])(own)
        return {path: sums + jnp.sum(each[path].astype(sums.dtype) ** 2, 0) for path, sums in total.items()}, None

    zero = {path: jnp.zeros(leaf.shape, wide(leaf.dtype)) for path, leaf in chosen.items()}
    total, _ = jax.lax.scan(add, zero, (inputs, jnp.moveaxis(columns, 1, 0)))
    return tree_map_with_path(lambda path, leaf: total[keystr(path)] / n, only)
