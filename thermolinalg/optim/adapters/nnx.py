"""Models in flax nnx, layer by layer through tagged operations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from thermolinalg.optim.layers import conv, dense, embed, scale
from thermolinalg.optim.taps import is_tapped


def _own(variable: Any) -> Any:
    """The value of a variable, tapped or not."""
    return None if variable is None else variable[...]


def _promoted(layer: Any, x: Any, w: Any, b: Any) -> tuple[Any, Any, Any]:
    """In the precision the layer computes in."""
    dtype = layer.dtype or jnp.promote_types(x.dtype, w.dtype)
    return x.astype(dtype), w.astype(dtype), None if b is None else b.astype(dtype)


class _Linear(nnx.Linear):
    def __call__(self, inputs: Any, *_: Any, **__: Any) -> jax.Array:
        return dense(*_promoted(self, inputs, _own(self.kernel), _own(self.bias)), precision=self.precision)


class _LinearGeneral(nnx.LinearGeneral):
    def __call__(self, inputs: Any, *_: Any, **__: Any) -> jax.Array:
        axes = (self.axis,) if isinstance(self.axis, int) else tuple(self.axis)
        x, w, b = _promoted(self, inputs, _own(self.kernel), _own(self.bias))
        x = jnp.moveaxis(x, axes, range(-len(axes), 0))
        return dense(x, w, b, in_ndim=len(axes), precision=self.precision)


class _Conv(nnx.Conv):
    def __call__(self, inputs: Any, *_: Any, **__: Any) -> jax.Array:
        return conv(
            *_promoted(self, inputs, _own(self.kernel), _own(self.bias)),
            stride=1 if self.strides is None else self.strides,
            padding=_padding(self),
            dilation=1 if self.kernel_dilation is None else self.kernel_dilation,
            groups=self.feature_group_count,
        )


def _padding(layer: Any) -> Any:
    """The padding as pairs."""
    if isinstance(layer.padding, str):
        return layer.padding
    n = _own(layer.kernel).ndim - 2
    each = (layer.padding,) * n if isinstance(layer.padding, int) else layer.padding
    return tuple((p, p) if isinstance(p, int) else tuple(p) for p in each)


class _Embed(nnx.Embed):
    def __call__(self, inputs: Any, *_: Any, **__: Any) -> jax.Array:
        table = _own(self.embedding)
        return embed(inputs, table.astype(self.dtype or table.dtype))


def _normalised(layer: Any, kind: Any, x: Any, *rest: Any, **options: Any) -> jax.Array:
    """A norm, and its scale and shift as an operation of their own."""
    s, b = _own(layer.scale), _own(getattr(layer, "bias", None))
    layer.scale = None
    if b is not None:
        layer.bias = None
    try:
        x = kind.__call__(layer, x, *rest, **options)
    finally:
        layer.scale = nnx.Param(s)
        if b is not None:
            layer.bias = nnx.Param(b)
    return scale(*_promoted(layer, x, s, b))


class _LayerNorm(nnx.LayerNorm):
    def __call__(self, x: Any, *rest: Any, **options: Any) -> jax.Array:
        return _normalised(self, nnx.LayerNorm, x, *rest, **options)


class _RMSNorm(nnx.RMSNorm):
    def __call__(self, x: Any, *rest: Any, **options: Any) -> jax.Array:
        return _normalised(self, nnx.RMSNorm, x, *rest, **options)


_TAGGED: dict[type, tuple[type, str]] = {
    nnx.Linear: (_Linear, "kernel"),
    nnx.LinearGeneral: (_LinearGeneral, "kernel"),
    nnx.Conv: (_Conv, "kernel"),
    nnx.Embed: (_Embed, "embedding"),
    nnx.LayerNorm: (_LayerNorm, "scale"),
    nnx.RMSNorm: (_RMSNorm, "scale"),
}


def _supported(layer: Any) -> bool:
    """Whether the layer has nothing the operations lack."""
    if type(layer) is nnx.Conv:
        named = layer.padding in ("SAME", "VALID") or not isinstance(layer.padding, str)
        return layer.mask is None and layer.input_dilation in (None, 1) and named
    return not getattr(layer, "batch_axis", None)


@dataclass(frozen=True, eq=False)
class Apply:
    """An nnx module as ``model(params, inputs)``, hashable by identity."""

    graph: Any
    rest: Any
    call: Callable[[Any, Any], jax.Array]

    def __call__(self, params: Any, inputs: Any) -> jax.Array:
        """Outputs of the module."""
        module = nnx.merge(self.graph, params, self.rest)
        for _, layer in nnx.iter_graph(module):
            new, name = _TAGGED.get(type(layer), (None, ""))
            if new is not None and _supported(layer) and is_tapped(_own(getattr(layer, name))):
                object.__setattr__(layer, "__class__", new)  # this module lives for this call only
        return self.call(module, inputs)


def _call(module: Any, inputs: Any) -> jax.Array:
    """The module on a batch."""
    return module(inputs)


def functional(module: Any, call: Callable[[Any, Any], jax.Array] = _call) -> tuple[Apply, Any]:
    """An nnx module as a model whose layers are tapped, and its parameters.

    Parameters
    ----------
    module : flax.nnx.Module
        Linear, LinearGeneral, Conv, Embed, LayerNorm and RMSNorm inside are tapped, attention through them.
    call : callable (module, inputs) -> outputs
        How it is run on a batch.

    Returns
    -------
    model, params
        ``model(params, inputs)`` is ``call(module, inputs)``; `params` are the state of its ``nnx.Param``, as
        ``nnx.split`` gives it. Other state stays as it is now.

    Notes
    -----
    Everything else computes as it always does, and its parameters belong to no block.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from thermolinalg.optim.sites import discover
    >>> model, params = functional(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    >>> discover(model, params, jnp.ones((5, 3), jnp.float32)).sites[0].kind
    'dense'
    """
    graph, params, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
    return Apply(graph, rest, call), params
