r"""Losses, convex in the outputs, with exact roots of their output Hessians.

A loss knows, for each example, its gradient g and Hessian H in the outputs, a root :math:`SS^\top = H`, and coordinates
c with :math:`Sc = g`. Everything is evaluated from logits, so that probabilities of :math:`e^{-100}` and :math:`1 -
e^{-100}` keep their digits.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.operators import is_concrete
from thermolinalg.optim.loss_base import Loss as Loss
from thermolinalg.optim.loss_base import check_outputs, given_weights, wide
from thermolinalg.optim.softmax import at_top, centred, one_hot, softmax, without_top
from thermolinalg.optim.targets import Weighted


@dataclass(frozen=True)
class CrossEntropy(Loss):
    r"""Cross-entropy of a softmax, from logits.

    .. math:: \ell = -\sum_j t_j \log p_j, \qquad H = \mathrm{diag}(p) - pp^\top, \qquad
        S = \mathrm{diag}(\sqrt p)\,Q, \qquad c = Q^\top (p - t)/\sqrt p

    with the k - 1 columns of Q an orthonormal basis of what is orthogonal to :math:`\sqrt p`, from one reflection.

    Targets are labels, whole numbers from 0 to k - 1 in the shape of the outputs without their last axis, or
    probabilities in the shape of the outputs, which sum to 1.

    Notes
    -----
    The length of c is the root of :math:`1/p_y - 1`, inherent in a confident wrong answer, and is
    cut where its square would overflow (:math:`p_y < 10^{-35}` in float32), with S moved accordingly.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> loss = CrossEntropy()
    >>> z, labels = jnp.zeros((1, 2)), jnp.array([1])
    >>> round(loss.value(z, labels).item(), 3), loss.gradient(z, labels).tolist()
    (0.693, [[0.5, -0.5]])
    """

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        check_outputs(outputs)
        return jax.random.categorical(key, outputs.astype(wide(outputs.dtype)), axis=-1)

    def _positions(self, outputs: jax.Array) -> tuple[int, ...]:
        if outputs.ndim < 2 or outputs.shape[-1] < 2:
            raise ValueError(f"outputs must be (n, k) or (n, R, k) with k >= 2 logits, got {outputs.shape}")
        return outputs.shape[:-1]

    def _targets(self, outputs, targets):
        t, k = jnp.asarray(targets), outputs.shape[-1]
        flat = (len(outputs), prod(outputs.shape[1:-1]))
        if jnp.issubdtype(t.dtype, jnp.integer) and t.shape == outputs.shape[:-1]:
            return t.reshape(flat), ((t >= 0) & (t < k)).reshape(flat)
        if not jnp.issubdtype(t.dtype, jnp.floating) or t.shape != outputs.shape:
            raise ValueError(
                f"targets must be whole numbers of shape {outputs.shape[:-1]} or probabilities of shape "
                f"{outputs.shape}, got {t.dtype} of shape {t.shape}"
            )
        # Probabilities that were rounded to their own dtype need not sum to 1 any closer than this.
        slack = max(k * float(jnp.finfo(t.dtype).eps), 1e-5)
        t = t.reshape(*flat, k).astype(wide(outputs.dtype))
        return t, jnp.all(t >= 0, -1) & (jnp.abs(jnp.sum(t, -1) - 1) <= slack)

    def _terms(self, z, t):
        _, log_p, _, _ = softmax(z)
        share = one_hot(z, t) if t.ndim < z.ndim else t
        return -jnp.sum(jnp.where(share > 0, share * log_p, 0), -1)

    def _slope(self, z, t):
        top, log_p, _, rest = softmax(z)
        share = one_hot(z, t) if t.ndim < z.ndim else t
        return jnp.where(top, (1 - share) - rest, jnp.exp(log_p) - share)

    def _bend(self, z, t, v):
        top, _, p, _ = softmax(z)
        return p * centred(top, p, v)

    # The reflection takes the coordinate of the largest probability to the root of p, so that nothing cancels. That
    # coordinate has no column of its own; the one of the last coordinate stands in its place.

    def _rank(self, outputs):
        return outputs - 1

    def _push(self, z, t, u):
        top, log_p, _, _ = softmax(z)
        root = _root_of(log_p)
        moved = jnp.sum(jnp.where(top[..., :-1], u, 0), -1, keepdims=True)
        spread = jnp.concatenate([jnp.where(top[..., :-1], 0, u), jnp.where(top[..., -1:], 0, moved)], -1)
        along = jnp.sum(root * spread, -1, keepdims=True)
        return root * jnp.where(top, -along, spread - root * (along / (1 + at_top(top, root))))

    def _pull(self, z, t, v):
        top, log_p, p, _ = softmax(z)
        root = _root_of(log_p)
        apart = v - at_top(top, v)
        mean = jnp.sum(jnp.where(top, 0, p * apart), -1, keepdims=True)
        return without_top(top, root * (apart - mean / (1 + at_top(top, root))))

    def _residual(self, z, t):
        top, log_p, _, _ = softmax(z)
        root = _root_of(log_p)
        c = self._slope(z, t) / root
        return without_top(top, c - root * (at_top(top, c) / (1 + at_top(top, root))))


class _Elementwise(Loss):
    """A loss that is a sum over outputs; a concrete one says what one output contributes."""

    def _targets(self, outputs, targets):
        t = jnp.asarray(targets)
        if t.shape != outputs.shape:
            raise ValueError(f"targets must have the shape of the outputs, {outputs.shape}, got {t.shape}")
        positions = self._positions(outputs)
        t = t.astype(wide(outputs.dtype)).reshape(positions[0], prod(positions[1:]), -1)
        return t, jnp.all(self._sensible(t), -1)

    @abstractmethod
    def _sensible(self, t: jax.Array) -> jax.Array:
        """Which targets are possible."""

    @abstractmethod
    def _root(self, z: jax.Array) -> jax.Array:
        """Root of the second derivative, and not so small that a square of its reciprocal would overflow."""

    def _bend(self, z, t, v):
        return self._root(z) ** 2 * v

    def _push(self, z, t, u):
        return self._root(z) * u

    def _pull(self, z, t, v):
        return self._root(z) * v

    def _residual(self, z, t):
        return self._slope(z, t) / self._root(z)


@dataclass(frozen=True)
class SquaredError(_Elementwise):
    r"""Half the squared distance: a Gaussian of unit variance.

    .. math:: \ell = \tfrac12\|z - t\|^2, \qquad H = S = I, \qquad c = z - t

    Targets have the shape of the outputs.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> SquaredError().value(jnp.array([[3.0, 1.0]]), jnp.array([[1.0, 1.0]])).tolist()
    [2.0]
    """

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        check_outputs(outputs)
        z = outputs.astype(wide(outputs.dtype))
        return z + jax.random.normal(key, z.shape, z.dtype)

    def _sensible(self, t):
        return jnp.isfinite(t)

    def _terms(self, z, t):
        return jnp.sum((z - t) ** 2, -1) / 2

    def _slope(self, z, t):
        return z - t

    def _root(self, z):
        return jnp.ones_like(z)


@dataclass(frozen=True)
class Logistic(_Elementwise):
    r"""Cross-entropy of independent Bernoulli variables, from logits.

    .. math:: \ell = \sum_j \log(1 + e^{z_j}) - t_j z_j, \qquad H = \mathrm{diag}(p(1-p)), \qquad
        c = (p - t)/\sqrt{p(1-p)}

    Targets have the shape of the outputs and lie in [0, 1].

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> Logistic().gradient(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 1.0]])).tolist()
    [[0.5, -0.5]]
    """

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        check_outputs(outputs)
        z = outputs.astype(wide(outputs.dtype))
        return jax.random.bernoulli(key, jax.nn.sigmoid(z)).astype(z.dtype)

    def _sensible(self, t):
        return (t >= 0) & (t <= 1)

    def _terms(self, z, t):
        return jnp.sum(t * jax.nn.softplus(-z) + (1 - t) * jax.nn.softplus(z), -1)

    def _slope(self, z, t):
        return (1 - t) * jax.nn.sigmoid(z) - t * jax.nn.sigmoid(-z)

    def _root(self, z):
        return _root_of(jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z))


@dataclass(frozen=True)
class Poisson(_Elementwise):
    r"""Negative log-likelihood of counts whose logarithmic rates are the outputs, up to a constant.

    .. math:: \ell = \sum_j e^{z_j} - t_j z_j, \qquad H = \mathrm{diag}(e^z), \qquad c = e^{z/2} - t e^{-z/2}

    Targets have the shape of the outputs and are not negative. The constant left out is :math:`\log t!`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> Poisson().gradient(jnp.array([[0.0]]), jnp.array([[3.0]])).tolist()
    [[-2.0]]
    """

    def sample(self, key: jax.Array, outputs: jax.Array) -> jax.Array:
        check_outputs(outputs)
        z = outputs.astype(wide(outputs.dtype))
        return jax.random.poisson(key, jnp.exp(z)).astype(z.dtype)

    def _sensible(self, t):
        return (t >= 0) & (t < jnp.inf)

    def _terms(self, z, t):
        return jnp.sum(jnp.exp(z) - t * z, -1)

    def _slope(self, z, t):
        return jnp.exp(z) - t

    def _root(self, z):
        return _root_of(z)


@dataclass(frozen=True)
class Custom(Loss):
    r"""Any loss that is convex in the outputs, by automatic differentiation.

    .. math:: H = \nabla^2_z \ell, \qquad S = H^{1/2}, \qquad c = H^{+1/2} \nabla_z \ell

    with the symmetric root and its pseudo-inverse, from one eigendecomposition of k x k for each example.

    Parameters
    ----------
    function : callable
        From the outputs of one example and its targets (any pytree) to a scalar, twice differentiable. All outputs of
        an example count as one position, so weights have shape (n,).
    name : str
        What to call it in messages.

    Notes
    -----
    Where H is indefinite there is no root, and where the gradient does not lie in the range of H (as for a loss that is
    linear somewhere) there are no coordinates: refused with concrete numbers, NaN under ``jit``. Values, gradients and
    products with H exist all the same. Rounding hides eigenvalues below k eps times the largest; a loss with a noun of
    its own is better off with that.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> cosh = Custom(lambda z, t: jnp.sum(jnp.log(jnp.cosh(z - t))), "log cosh")
    >>> round(cosh.coordinates(jnp.array([[0.5]]), jnp.array([[0.0]])).item(), 3)
    0.521
    """

    function: Callable[[Any, Any], jax.Array]
    name: str = field(default="custom", compare=False)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"function must be callable with (outputs, targets) of one example, got {self.function!r}")
        try:
            signature(self.function).bind(None, None)
        except TypeError as error:
            raise ValueError("function must take two arguments, outputs and targets of one example") from error
        except ValueError:
            pass  # some built-in functions have no signature to look at

    def _positions(self, outputs):
        return outputs.shape[:1]

    def _frame(self, outputs, targets):
        check_outputs(outputs)
        n = len(outputs)
        t = jax.tree.map(jnp.asarray, targets.targets if isinstance(targets, Weighted) else targets)
        shapes = [leaf.shape for leaf in jax.tree.leaves(t)]
        if not all(shape and shape[0] == n for shape in shapes):
            raise ValueError(f"targets must have the {n} examples along their first axis, got {shapes}")
        w = given_weights(targets, (n,), wide(outputs.dtype))
        w = jnp.ones(n, wide(outputs.dtype)) if w is None else jnp.where((w >= 0) & (w < jnp.inf), w, jnp.nan)
        if is_concrete(w) and bool(jnp.any(jnp.isnan(w))):
            raise ValueError("weights must be finite and not negative")
        return outputs.reshape(n, 1, -1).astype(w.dtype), _Examples(t, outputs.shape[1:]), w[:, None]

    def _targets(self, outputs, targets):
        raise NotImplementedError("a custom loss takes its targets as they are")

    def _each(self, z: jax.Array, t: "_Examples", transform: Callable[..., Any], *more: jax.Array) -> Any:
        """Apply a transformed loss of one example, as a function of its flat outputs, to all."""

        def one(flat: jax.Array, target: Any, *rest: jax.Array) -> Any:
            def loss(flat: jax.Array) -> jax.Array:
                value = self.function(flat.reshape(t.shape), target)
                if jnp.shape(value):
                    raise ValueError(f"function must return a scalar for one example, got shape {jnp.shape(value)}")
                return value

            return transform(loss)(flat, *rest)

        return jax.vmap(one)(z[:, 0], t.targets, *(x[:, 0] for x in more))

    def _terms(self, z, t):
        return self._each(z, t, lambda loss: loss)[:, None].astype(z.dtype)

    def _slope(self, z, t):
        return self._each(z, t, jax.grad)[:, None]

    def _bend(self, z, t, v):
        return self._each(z, t, lambda loss: lambda x, u: jax.jvp(jax.grad(loss), (x,), (u,))[1], v)[:, None]

    def _push(self, z, t, u):
        values, vectors = self._modes(z, t)
        return _apply(vectors, jnp.sqrt(values), u)

    _pull = _push  # the root is symmetric

    def _residual(self, z, t):
        values, vectors = self._modes(z, t)
        slope = self._slope(z, t)
        eps, largest = float(jnp.finfo(z.dtype).eps), jnp.max(values, -1, keepdims=True)
        seen = values > z.shape[-1] * eps * largest
        c = _apply(vectors, jnp.where(seen, 1 / jnp.sqrt(jnp.where(seen, values, 1)), 0), slope)
        left = jnp.linalg.norm(_apply(vectors, jnp.sqrt(values), c) - slope, axis=-1, keepdims=True)
        within = left <= eps**0.5 * jnp.linalg.norm(slope, axis=-1, keepdims=True) + 100 * eps * largest
        if is_concrete(within) and not bool(jnp.all(within | jnp.isnan(left))):
            raise ValueError(
                f"loss {self.name!r} has no coordinates: the gradient of example {int(jnp.argmin(within))} is not in "
                "the range of its output Hessian; use a form that needs the gradient only"
            )
        return jnp.where(within, c, jnp.nan)

    def _modes(self, z: jax.Array, t: "_Examples") -> tuple[jax.Array, jax.Array]:
        """Eigenvalues (n, 1, k) and eigenvectors (n, k, k) of the output Hessians; NaN where these are indefinite."""
        values, vectors = jnp.linalg.eigh(self._each(z, t, jax.hessian))
        lowest, scale = values[:, :1], jnp.max(jnp.abs(values), -1, keepdims=True)
        usable = lowest >= -100 * z.shape[-1] * float(jnp.finfo(z.dtype).eps) * scale
        if is_concrete(usable) and not bool(jnp.all(usable)):
            worst = int(jnp.argmin(usable[:, 0]))
            raise ValueError(
                f"loss {self.name!r} is without a usable output Hessian: for example {worst} its smallest eigenvalue "
                f"is {float(lowest[worst, 0]):.3g}; it must be convex in the outputs"
            )
        return jnp.where(usable, jnp.maximum(values, 0), jnp.nan)[:, None], vectors


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Examples:
    """Targets of a custom loss, and the shape its function wants the outputs of one example in."""

    targets: Any
    shape: tuple[int, ...] = field(metadata={"static": True})


def _apply(vectors: jax.Array, spectrum: jax.Array, u: jax.Array) -> jax.Array:
    """A function of symmetric matrices, by modes (n, k, k) and spectrum (n, 1, k), times u (n, 1, k)."""
    precise = jax.lax.Precision.HIGHEST
    inside = jnp.einsum("nik,npi->npk", vectors, u, precision=precise)
    return jnp.einsum("nik,npk->npi", vectors, spectrum * inside, precision=precise)


def _root_of(log: jax.Array) -> jax.Array:
    """Root of a number known by its logarithm, not below where the square of its reciprocal nears overflow."""
    return jnp.maximum(jnp.exp(log / 2), float(jnp.finfo(log.dtype).tiny) ** 0.45)
