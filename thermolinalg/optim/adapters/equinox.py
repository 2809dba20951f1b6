"""Models in equinox, layer by layer through tagged operations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thermolinalg.optim.layers import conv, dense, embed, scale
from thermolinalg.optim.taps import is_tapped, value


class _Linear(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x: jax.Array, *, key: Any = None) -> jax.Array:
        layer = self.layer
        x = x[None] if layer.in_features == "scalar" else x
        y = dense(x, layer.weight, layer.bias, out_first=True)
        return y[0] if layer.out_features == "scalar" else y


class _Conv(eqx.Module):
    layer: eqx.nn.Conv

    def __call__(self, x: jax.Array, *, key: Any = None) -> jax.Array:
        layer = self.layer
        return conv(
            x,
            layer.weight,
            layer.bias,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            channels_first=True,
        )


class _Embedding(eqx.Module):
    layer: eqx.nn.Embedding

    def __call__(self, x: jax.Array, *, key: Any = None) -> jax.Array:
        return embed(x, self.layer.weight)


class _Norm(eqx.Module):
    layer: Any

    def __call__(self, x: jax.Array, *, key: Any = None) -> jax.Array:
        neutral = {is_w: (jnp.ones if is_w else jnp.zeros) for is_w in (True, False)}
        layer = self.layer
        names = [name for name in ("weight", "bias") if is_tapped(getattr(layer, name))]
        bare = eqx.tree_at(
            lambda norm: [getattr(norm, name) for name in names],
            layer,
            [neutral[name == "weight"](getattr(layer, name).shape, getattr(layer, name).dtype) for name in names],
            is_leaf=is_tapped,
        )
        return scale(bare(x), layer.weight, layer.bias if "bias" in names else None)


_TAGGED: dict[Any, Any] = {
    eqx.nn.Linear: _Linear,
    eqx.nn.Embedding: _Embedding,
    eqx.nn.LayerNorm: _Norm,
    eqx.nn.RMSNorm: _Norm,
}
_OTHERS = (eqx.nn.GRUCell, eqx.nn.LSTMCell, eqx.nn.GroupNorm, eqx.nn.ConvTranspose, eqx.nn.PReLU, eqx.nn.BatchNorm)
_KNOWN = (*_TAGGED, eqx.nn.Conv, *_OTHERS)


def _tagged(module: Any) -> Any:
    """The same module with its tapped layers replaced."""

    def one(node: Any) -> Any:
        if isinstance(node, eqx.nn.Conv) and is_tapped(node.weight) and node.padding_mode == "ZEROS":
            return _Conv(node)
        if type(node) in _TAGGED and is_tapped(node.weight):
            return _TAGGED[type(node)](node)
        if isinstance(node, _KNOWN):  # a layer without an operation of its own computes as it does
            return jax.tree.map(value, node, is_leaf=is_tapped)
        return node

    return jax.tree.map(one, module, is_leaf=lambda node: isinstance(node, _KNOWN) or is_tapped(node))


@dataclass(frozen=True, eq=False)
class Apply:
    """An equinox module as ``model(params, inputs)``, hashable by identity."""

    static: Any
    call: Callable[[Any, Any], jax.Array]

    def __call__(self, params: Any, inputs: Any) -> jax.Array:
        """Outputs of the module."""
        return self.call(_tagged(eqx.combine(params, self.static, is_leaf=is_tapped)), inputs)


def _each(module: Any, inputs: Any) -> jax.Array:
    """The module on every example."""
    return jax.vmap(module)(inputs)


def functional(module: Any, call: Callable[[Any, Any], jax.Array] = _each) -> tuple[Apply, Any]:
    """An equinox module as a model whose layers are tapped, and its parameters.

    Parameters
    ----------
    module : equinox.Module
        Linear, Conv, Embedding, LayerNorm and RMSNorm inside are tapped, MLP and attention through them.
    call : callable (module, inputs) -> outputs
        How it is run on a batch; by default by ``jax.vmap`` over examples.

    Returns
    -------
    model, params
        ``model(params, inputs)`` is ``call(module, inputs)``; `params` are the module's floating-point arrays, as
        ``equinox.partition`` gives them.

    Notes
    -----
    Everything else computes as it always does, and its parameters belong to no block.

    Examples
    --------
    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> from thermolinalg.optim.sites import discover
    >>> model, params = functional(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
    >>> discover(model, params, jnp.ones((5, 3))).sites[0].bias
    '.bias'
    """
    params, static = eqx.partition(module, eqx.is_inexact_array)
    return Apply(static, call), params
