"""What is trained in an experiment: a model, its loss, its data, and where it starts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.experiments.datasets import Dataset, Examples
from thermolinalg.optim.loss_base import Loss
from thermolinalg.optim.task import Task
from thermolinalg.optim.task import task as find_task

Score = Callable[[jax.Array, Any], jax.Array]


@dataclass(frozen=True)
class Problem:
    """A model, a loss, data and a start.

    Attributes
    ----------
    model : callable
        (params, inputs, \\*constants) -> outputs (n, ...).
    loss : Loss
    params : pytree of arrays
        Where training starts.
    data : Dataset
    score : callable
        (outputs, targets) -> what to report beside the loss, one number for each example.
    score_name : str
    constants : tuple of pytrees
        Arrays that the model needs and nobody trains. They reach compiled code as arguments, so that the compiler
        neither copies nor folds them.
    """

    model: Callable[..., jax.Array]
    loss: Loss
    params: Any
    data: Dataset
    score: Score
    score_name: str = "accuracy"
    constants: tuple[Any, ...] = ()

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def task(self) -> Task:
        """The task, its model bound to the constants."""
        inputs = shapes(self.data.train.part(slice(None, 2)).inputs)
        return find_task(self.bound(*self.constants), self.loss, shapes(self.params), inputs)

    def bound(self, *constants: Any) -> Callable[[Any, Any], jax.Array]:
        """Return the model as a function of parameters and inputs, for these constants."""
        return lambda params, inputs: self.model(params, inputs, *constants)


def shapes(tree: Any) -> Any:
    """Shapes and dtypes in place of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)


def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return 1 for every example whose largest output is that of its label, else 0.

    Examples
    --------
    >>> accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])).tolist()
    [1.0, 0.0]
    """
    return (jnp.argmax(outputs, -1).astype(targets.dtype) == targets).astype(jnp.float32)


def pixel_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the mean square error of reconstructed pixels, from logits.

    Examples
    --------
    >>> pixel_error(jnp.zeros((1, 2)), jnp.array([[0.5, 1.5]])).tolist()
    [0.5]
    """
    return jnp.mean((jax.nn.sigmoid(outputs) - targets) ** 2, -1)


def stack(examples: Examples, size: int) -> tuple[Examples, np.ndarray]:
    """Cut examples into batches of one size, repeating the first to fill the last one; and what each counts."""
    count = len(examples)
    batches = -(-count // size)
    numbers = np.arange(batches * size)
    counts = (numbers < count).astype(np.float32).reshape(batches, size)
    filled = examples.part(np.where(numbers < count, numbers, 0))
    cut = partial(jax.tree.map, lambda x: x.reshape(batches, size, *x.shape[1:]))
    return Examples(cut(filled.inputs), cut(filled.targets)), counts
