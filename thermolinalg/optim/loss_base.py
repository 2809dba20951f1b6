"""What a loss is to an optimizer: values, gradients and roots of curvature in the outputs, for each example."""

from abc import ABC, abstractmethod
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.operators import is_concrete
from thermolinalg.optim.targets import Weighted


class Loss(ABC):
    r"""A loss for each example, as a weighted sum over its positions.

    .. math:: \ell_i = \sum_p w_{ip}\,\ell(z_{ip}, t_{ip}), \qquad S_i S_i^\top = \nabla^2_{z_i}\ell_i,
        \qquad S_i c_i = \nabla_{z_i}\ell_i

    Outputs have shape (n, k), or (n, R, k) with R positions for each of n examples (axes between the first and the last
    are positions), or (n,) for one number each. Weights are 1/R, unless the targets are :class:`Weighted`. There are
    C = R m columns, position after position, with m the rank of the Hessian of a position: k, and k - 1 for a softmax.

    Notes
    -----
    Arithmetic is in at least float32. What is like the outputs (columns, gradients) has their dtype, what is not
    (values, coordinates) is in the wider one. Targets that make no sense are refused where they are known; under
    ``jit`` they make everything of their example NaN.
    """

    def value(self, outputs: jax.Array, targets: Any) -> jax.Array:
        """Return the loss of each example, shape (n,)."""
        z, t, w = self._frame(outputs, targets)
        return jnp.sum(w * self._terms(z, t), axis=1)

    def gradient(self, outputs: jax.Array, targets: Any) -> jax.Array:
        """Return the gradient of each example's loss in its outputs, like the outputs."""
        z, t, w = self._frame(outputs, targets)
        return (w[..., None] * self._slope(z, t)).reshape(outputs.shape).astype(outputs.dtype)

    def hessian_product(self, outputs: jax.Array, targets: Any, v: jax.Array) -> jax.Array:
        """Return each example's output Hessian times v, like the outputs."""
        z, t, w = self._frame(outputs, targets)
        product = self._bend(z, t, v.reshape(z.shape).astype(z.dtype))
        return (w[..., None] * product).reshape(outputs.shape).astype(outputs.dtype)

    def root(self, outputs: jax.Array, targets: Any) -> jax.Array:
        """Return the columns of S, shape (C, *outputs.shape): the sum of their outer products is the Hessian."""
        z, _, _ = self._frame(outputs, targets)
        rows, examples = z.shape[1] * self._rank(z.shape[2]), len(z)

        def column(unit: jax.Array) -> jax.Array:
            return self.root_product(outputs, targets, jnp.broadcast_to(unit[:, None], (rows, examples)))

        return jax.vmap(column)(jnp.eye(rows, dtype=z.dtype))

    def root_product(self, outputs: jax.Array, targets: Any, u: jax.Array) -> jax.Array:
        """Return S u, like the outputs, for u of shape (C, n); no column is formed."""
        z, t, w = self._frame(outputs, targets)
        coefficients = jnp.sqrt(w)[..., None] * u.T.reshape(*z.shape[:2], -1).astype(z.dtype)
        return self._push(z, t, coefficients).reshape(outputs.shape).astype(outputs.dtype)

    def root_transpose(self, outputs: jax.Array, targets: Any, v: jax.Array) -> jax.Array:
        """Return S^T v, shape (C, n), for v like the outputs; no column is formed."""
        z, t, w = self._frame(outputs, targets)
        found = self._pull(z, t, v.reshape(z.shape).astype(z.dtype))
        return (jnp.sqrt(w)[..., None] * found).reshape(len(z), -1).T

    def coordinates(self, outputs: jax.Array, targets: Any) -> jax.Array:
        """Return c, shape (C, n), with S c = the gradient of each example's loss in its outputs."""
        z, t, w = self._frame(outputs, targets)
        return (jnp.sqrt(w)[..., None] * self._residual(z, t)).reshape(len(z), -1).T

    def weights(self, outputs: jax.Array, targets: Any) -> jax.Array:
        """Return how much each position counts: (n,) or (n, R)."""
        _, _, w = self._frame(outputs, targets)
        return w.reshape(self._positions(outputs))

    def sample(self, key: jax.Array, outputs: jax.Array) -> Any:
        """Draw targets from the model's own likelihood, independent for all positions.

        Raises
        ------
        ValueError
            If the loss is not known to be the logarithm of a likelihood.
        """
        raise ValueError(f"{type(self).__name__} has no likelihood to draw targets from; use the exact columns")

    # What a loss says of one position: z (n, R, k) and t as _targets leaves them. No weights.

    @abstractmethod
    def _targets(self, outputs: jax.Array, targets: Any) -> tuple[jax.Array, jax.Array]:
        """Targets, shape (n, R) or (n, R, k), and which positions (n, R) have one that makes sense."""

    @abstractmethod
    def _terms(self, z: jax.Array, t: Any) -> jax.Array:
        """The loss, shape (n, R)."""

    @abstractmethod
    def _slope(self, z: jax.Array, t: Any) -> jax.Array:
        """Its gradient."""

    @abstractmethod
    def _bend(self, z: jax.Array, t: Any, v: jax.Array) -> jax.Array:
        """Its Hessian times v."""

    @abstractmethod
    def _push(self, z: jax.Array, t: Any, u: jax.Array) -> jax.Array:
        """The root times u."""

    @abstractmethod
    def _pull(self, z: jax.Array, t: Any, v: jax.Array) -> jax.Array:
        """The root transposed times v."""

    @abstractmethod
    def _residual(self, z: jax.Array, t: Any) -> jax.Array:
        """Coordinates."""

    def _positions(self, outputs: jax.Array) -> tuple[int, ...]:
        """Shape of the weights."""
        return outputs.shape[:-1] or outputs.shape

    def _rank(self, outputs: int) -> int:
        """Columns of the root of a position."""
        return outputs

    def _frame(self, outputs: jax.Array, targets: Any) -> tuple[jax.Array, Any, jax.Array]:
        """Outputs (n, R, k), targets and weights (n, R): NaN where a target makes no sense, blank without weight."""
        check_outputs(outputs)
        positions = self._positions(outputs)
        flat = (positions[0], prod(positions[1:]))
        z = outputs.reshape(*flat, -1).astype(wide(outputs.dtype))
        t, valid = self._targets(outputs, targets.targets if isinstance(targets, Weighted) else targets)
        w = given_weights(targets, positions, z.dtype)
        if w is None:
            w = jnp.full(flat, 1 / flat[1], z.dtype)
        else:
            w = w.reshape(flat)
            counts = w != 0
            z = jnp.where(counts[..., None], z, 0)
            t = jnp.where(counts if t.ndim == 2 else counts[..., None], t, 0)
            valid = (valid | ~counts) & (w >= 0) & (w < jnp.inf)
        if is_concrete(valid) and not bool(jnp.all(valid)):
            example, position = (int(i) for i in jnp.argwhere(~valid)[0])
            raise ValueError(
                f"targets must suit {self} and weights not be negative: example {example}, position {position} does "
                "not keep to it; give positions that do not count the weight zero"
            )
        # A factor, and not a choice: the derivative of a choice is zero on the other side.
        fault = jnp.where(valid, 1, jnp.nan).astype(z.dtype)
        return z * fault[..., None], t, w * fault


def given_weights(targets: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array | None:
    """Weights that came with the targets, of the right shape."""
    if not isinstance(targets, Weighted):
        return None
    if jnp.shape(targets.weights) != shape:
        raise ValueError(f"weights must have shape {shape}, got {jnp.shape(targets.weights)}")
    return jnp.asarray(targets.weights).astype(dtype)


def wide(dtype: Any) -> jnp.dtype:
    """The dtype in which statistics of arrays of this one are made: at least float32."""
    return jnp.dtype(dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)


def check_outputs(outputs: Any) -> None:
    """Refuse outputs that are not real numbers with the examples along the first axis."""
    if not jnp.issubdtype(outputs.dtype, jnp.floating) or outputs.ndim == 0 or outputs.size == 0:
        raise ValueError(
            "outputs must be a real floating-point array with at least one example along its first axis, got "
            f"{outputs.dtype} of shape {outputs.shape}"
        )
