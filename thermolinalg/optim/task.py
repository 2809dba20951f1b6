"""What is to be trained: a model, a loss and the layers that are known, in one static noun."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.optim.loss_base import Loss, check_outputs
from thermolinalg.optim.sites import Layout, discover


@dataclass(frozen=True)
class Task:
    r"""A model, a loss, and where the model's weights are used.

    .. math:: L(\theta) = \frac1n \sum_{i=1}^n \ell_i(f(\theta, x_i), t_i)

    Attributes
    ----------
    model : callable
        (params, inputs) -> outputs, examples along the first axis of both.
    loss : Loss
        Of each example; see :class:`~thermolinalg.optim.losses.CrossEntropy` and others.
    layout : Layout
        From :func:`task`.

    Notes
    -----
    Static and hashable: close over it, or pass it as a static argument. A batch is a pair (inputs, targets). The loss
    is a mean over examples; what positions inside an example count is told by the targets
    (:class:`~thermolinalg.optim.targets.Weighted`). Terms that depend on parameters only, such as weight decay, are no
    part of it.
    """

    model: Callable[[Any, Any], jax.Array]
    loss: Loss
    layout: Layout

    def outputs(self, params: Any, inputs: Any) -> jax.Array:
        """Return the outputs of the model, shape (n, ...)."""
        outputs = self.model(params, inputs)
        check_outputs(outputs)
        return outputs

    def value(self, params: Any, batch: tuple[Any, Any]) -> jax.Array:
        """Return the mean loss of a batch, shape ()."""
        inputs, targets = as_batch(batch)
        return jnp.mean(self.loss.value(self.outputs(params, inputs), targets))

    def value_and_gradient(self, params: Any, batch: tuple[Any, Any]) -> tuple[jax.Array, Any]:
        """Return the mean loss of a batch and its gradient, like the parameters."""
        return jax.value_and_grad(self.value)(params, batch)


def task(
    model: Callable[[Any, Any], jax.Array], loss: Loss, params: Any, inputs: Any, *, reduced: Iterable[str] = ()
) -> Task:
    """Return a task, after a look at the model.

    Parameters
    ----------
    model : callable
        (params, inputs) -> outputs. It is traced, not run.
    loss : Loss
        ``CrossEntropy()``, ``SquaredError()``, ``Logistic()``, ``Poisson()``, or ``Custom(function)``.
    params : pytree
        Parameters, or their shapes: real floating-point leaves.
    inputs : pytree
        A batch, or its shapes, examples along the first axis.
    reduced : iterable of str
        Paths of weights whose uses inside an example are averaged for K-FAC; see
        :func:`~thermolinalg.optim.sites.discover`.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        If `loss` is no loss, a parameter is not a real floating-point array, or the outputs are not one such array
        whose first axis is that of the inputs.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> params, x, t = {"w": jnp.ones((2, 1))}, jnp.ones((4, 2)), jnp.zeros((4, 1))
    >>> line = task(lambda p, x: x @ p["w"], SquaredError(), params, x)
    >>> line.value(params, (x, t)).item()
    2.0
    """
    if not callable(model):
        raise ValueError(f"model must be callable with (params, inputs), got {type(model).__name__}")
    if not isinstance(loss, Loss):
        hint = "; wrap a function of the outputs and targets of one example: Custom(function)" if callable(loss) else ""
        raise ValueError(f"loss must be a Loss such as CrossEntropy(), got {loss!r}{hint}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"params must be real floating-point arrays, got {dtype} at {jax.tree_util.keystr(path)}; close over "
                "what is not trained"
            )
    outputs = jax.eval_shape(model, params, inputs)
    if not isinstance(outputs, jax.ShapeDtypeStruct):
        raise ValueError(f"model must return one array, got {jax.tree.structure(outputs)}")
    check_outputs(outputs)
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(inputs) if jnp.ndim(leaf)}
    if outputs.shape[0] not in lengths:
        raise ValueError(
            f"outputs of shape {outputs.shape} must have the examples along the first axis, as the inputs have "
            f"(lengths {sorted(lengths)})"
        )
    return Task(model, loss, discover(model, params, inputs, reduced=tuple(reduced)))


def as_batch(batch: Any) -> tuple[Any, Any]:
    """A batch as (inputs, targets)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(f"batch must be a pair (inputs, targets), got {type(batch).__name__}")
    return batch[0], batch[1]
