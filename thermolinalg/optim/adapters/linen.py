"""Models in flax linen, layer by layer through tagged operations."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from thermolinalg.optim.layers import conv, dense, embed, scale
from thermolinalg.optim.taps import is_tapped, value

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


@dataclass(frozen=True, eq=False)
class Apply:
    """A linen module as ``model(params, inputs)``, hashable by identity."""

    module: nn.Module
    options: Any

    def __call__(self, params: Any, inputs: Any) -> Any:
        """Outputs of the module."""
        with nn.intercept_methods(_intercept):
            return self.module.apply({"params": params}, inputs, **dict(self.options))


def apply(module: nn.Module, **options: Any) -> Apply:
    """A linen module as a model whose layers are tapped.

    Parameters
    ----------
    module : flax.linen.Module
        Dense, DenseGeneral, Conv, Embed, LayerNorm, RMSNorm and GroupNorm inside are tapped, attention through them.
    **options
        Passed to ``module.apply``: ``train=False``, ``rngs=...``.

    Returns
    -------
    callable (params, inputs) -> outputs
        `params` is the collection ``"params"``.

    Notes
    -----
    Everything else computes as it always does, and its parameters belong to no block.

    Examples
    --------
    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from thermolinalg.optim.sites import discover
    >>> module, x = nn.Dense(2), jnp.ones((5, 3), jnp.float32)
    >>> params = module.init(jax.random.key(0), x)["params"]
    >>> discover(apply(module), params, x).sites[0].bias
    "['bias']"
    """
    return Apply(module, tuple(sorted(options.items())))


def _intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Replace the computation of a known layer whose weight is tapped."""
    module, kind = context.module, type(context.module)
    if context.method_name != "__call__" or not args:
        return call(*args, **kwargs)
    leaf = module.variables.get("params", {})
    if kind in (nn.Dense, nn.DenseGeneral) and is_tapped(leaf.get("kernel")):
        return _dense(module, args[0], leaf["kernel"], leaf.get("bias"))
    if kind is nn.Conv and is_tapped(leaf.get("kernel")) and _plain(module, args[0]):
        return _conv(module, args[0], leaf["kernel"], leaf.get("bias"))
    if kind is nn.Embed and is_tapped(leaf.get("embedding")):
        return embed(args[0], leaf["embedding"].astype(module.dtype or leaf["embedding"].dtype))
    if kind in _NORMS and is_tapped(leaf.get("scale")):
        return _norm(module, args, kwargs, leaf["scale"], leaf.get("bias"))
    if kind in (*_NORMS, nn.Dense, nn.DenseGeneral, nn.Conv, nn.Embed) and any(map(is_tapped, leaf.values())):
        plain = {name: value(w) for name, w in leaf.items()}
        return module.clone(parent=None, name=None).apply({"params": plain}, *args, **kwargs)
    return call(*args, **kwargs)


def _promoted(module: Any, x: Any, w: Any, b: Any) -> tuple[Any, Any, Any]:
    """In the precision the module computes in."""
    dtype = module.dtype or jnp.promote_types(x.dtype, w.dtype)
    return x.astype(dtype), w.astype(dtype), None if b is None else b.astype(dtype)


def _dense(module: Any, x: Any, w: Any, b: Any) -> jax.Array:
    axis = getattr(module, "axis", -1)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if getattr(module, "batch_dims", ()):
        raise ValueError(f"DenseGeneral with batch_dims is not tapped: {module.name}; use optim.einsum")
    x, w, b = _promoted(module, x, w, b)
    x = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return dense(x, w, b, in_ndim=len(axes), precision=module.precision)


def _plain(module: Any, x: Any) -> bool:
    """Whether a convolution has nothing but stride, padding, dilation and groups."""
    window = len(module.kernel_size) if not isinstance(module.kernel_size, int) else 1
    dilated = module.input_dilation in (None, 1) or set(module.input_dilation) == {1}
    named = module.padding in ("SAME", "VALID") or not isinstance(module.padding, str)
    return module.mask is None and dilated and named and x.ndim in (window + 1, window + 2)


def _conv(module: Any, x: Any, w: Any, b: Any) -> jax.Array:
    padding = module.padding
    if not isinstance(padding, str):
        n = w.ndim - 2
        each = (padding,) * n if isinstance(padding, int) else padding
        padding = tuple((p, p) if isinstance(p, int) else tuple(p) for p in each)
    settings: dict[str, Any] = {
        "stride": 1 if module.strides is None else module.strides,
        "dilation": 1 if module.kernel_dilation is None else module.kernel_dilation,
    }
    return conv(*_promoted(module, x, w, b), padding=padding, groups=module.feature_group_count, **settings)


def _norm(module: Any, args: Any, kwargs: Any, s: Any, b: Any) -> jax.Array:
    bare = {"use_scale": False} | ({} if type(module) is nn.RMSNorm else {"use_bias": False})
    x = module.clone(parent=None, name=None, **bare).apply({}, *args, **kwargs)
    return scale(*_promoted(module, x, s, b))
