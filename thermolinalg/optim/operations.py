"""What the tagged operations compute, which rows they have, and how their weights are laid out."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from thermolinalg.optim.taps import Block


def _shape(b: Any) -> tuple[int, ...] | None:
    """Shape of a bias, if there is one."""
    return None if b is None else tuple(b.shape)


def _check_bias(b: Any, wanted: tuple[int, ...]) -> None:
    """A bias must have the axes of the weight that are kept."""
    if b is not None and tuple(b.shape) != wanted:
        raise ValueError(f"the bias must have shape {wanted}, the kept axes of the weight, got {tuple(b.shape)}")


@dataclass(frozen=True)
class Contraction:
    """An einsum of an input with one weight; each argument is the string of its axes."""

    x: str
    w: str
    y: str
    precision: Any = None

    @property
    def axes(self) -> tuple[str, str, str]:
        """Axes of the weight: stacked (also in input and output), contracted (in the order of the input), kept."""
        stacked = "".join(c for c in self.y if c in self.w and c in self.x)
        summed = "".join(c for c in self.x if c in self.w and c not in self.y)
        return stacked, summed, "".join(c for c in self.y if c in self.w and c not in self.x)

    def apply(self, x: Any, w: Any, b: Any) -> jax.Array:
        y = jnp.einsum(f"{self.x},{self.w}->{self.y}", x, w, precision=self.precision)
        if b is None:
            return y
        stacked, _, kept = self.axes
        at = [self.y.index(c) for c in stacked + kept]
        _check_bias(b, tuple(y.shape[i] for i in at))
        ordered = jnp.transpose(b, sorted(range(len(at)), key=at.__getitem__))
        return y + ordered.reshape([n if i in at else 1 for i, n in enumerate(y.shape)])

    def block(self, w: Any, b: Any) -> Block:
        stacked, summed, kept = self.axes
        size = dict(zip(self.w, w.shape, strict=True))
        order = tuple(self.w.index(c) for c in stacked + summed + kept)
        rows, columns = math.prod(size[c] for c in summed), math.prod(size[c] for c in kept)
        return Block("dense", tuple(w.shape), order, tuple(size[c] for c in stacked), rows, columns, _shape(b))

    def _rows(self, x: Any, axes: str, last: str) -> jax.Array:
        stacked = self.axes[0]
        uses = "".join(c for c in self.y if c not in self.w)
        x = jnp.transpose(x, [axes.index(c) for c in stacked + uses + last])
        return x.reshape(*x.shape[: x.ndim - len(last)], -1)

    def inputs(self, x: Any, w: Any) -> jax.Array:
        return self._rows(x, self.x, self.axes[1])

    def outputs(self, dy: Any, x: Any, w: Any, b: Any) -> jax.Array:
        return self._rows(dy, self.y, self.axes[2])


@dataclass(frozen=True)
class Convolution:
    """A convolution in any number of dimensions."""

    stride: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    channels_first: bool

    def _geometry(self) -> tuple[dict[str, Any], tuple[str, str, str]]:
        spatial = "DHW"[-len(self.stride) :]
        names = ("NC" + spatial, "OI" + spatial) if self.channels_first else ("N" + spatial + "C", spatial + "IO")
        settings = {"window_strides": self.stride, "padding": self.padding, "rhs_dilation": self.dilation}
        return settings, (names[0], names[1], names[0])

    def _batched(self, x: Any) -> Any:
        return x if x.ndim == len(self.stride) + 2 else x[None]

    def apply(self, x: Any, w: Any, b: Any) -> jax.Array:
        settings, names = self._geometry()
        y = lax.conv_general_dilated(
            self._batched(x), w, dimension_numbers=names, feature_group_count=self.groups, **settings
        )
        if b is not None:
            out = w.shape[0] if self.channels_first else w.shape[-1]
            _check_bias(b, (out, *(1,) * len(self.stride)) if self.channels_first and b.ndim > 1 else (out,))
            y = y + b.reshape([-1 if i == names[2].index("C") else 1 for i in range(y.ndim)])
        return y if x.ndim == y.ndim else y[0]

    def block(self, w: Any, b: Any) -> Block:
        n, groups = len(self.stride), self.groups
        if self.channels_first:
            out, inner, window = w.shape[0], w.shape[1], w.shape[2:]
            split = (groups, out // groups, inner, *window)
            order = (0, *range(3, n + 3), 2, 1)
        else:
            window, inner, out = w.shape[:n], w.shape[n], w.shape[n + 1]
            split = (*window, inner, groups, out // groups)
            order = (n + 1, *range(n + 1), n + 2)
        if groups == 1:  # one matrix, no stack
            split = tuple(s for i, s in enumerate(split) if i != order[0])
            order = tuple(i - (i > order[0]) for i in order[1:])
        stacked = () if groups == 1 else (groups,)
        return Block("conv", tuple(split), order, stacked, math.prod(window) * inner, out // groups, _shape(b))

    def inputs(self, x: Any, w: Any) -> jax.Array:
        """Patches in the order window, channel."""
        window = w.shape[2:] if self.channels_first else w.shape[:-2]
        plain = jnp.moveaxis(self._batched(x), 1, -1) if self.channels_first else self._batched(x)
        spatial = "DHW"[-len(self.stride) :]
        patches = lax.conv_general_dilated_patches(
            plain,
            window,
            self.stride,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
            precision=lax.Precision.HIGHEST,
        )
        patches = patches.reshape(*patches.shape[:-1], self.groups, -1, math.prod(window))
        patches = jnp.moveaxis(jnp.swapaxes(patches, -1, -2), -3, 0)
        patches = patches.reshape(*patches.shape[:-2], -1)
        return patches[0] if self.groups == 1 else patches

    def outputs(self, dy: Any, x: Any, w: Any, b: Any) -> jax.Array:
        dy = self._batched(dy)
        dy = jnp.moveaxis(dy, 1, -1) if self.channels_first else dy
        if self.groups == 1:
            return dy
        return jnp.moveaxis(dy.reshape(*dy.shape[:-1], self.groups, -1), -2, 0)


@dataclass(frozen=True)
class Lookup:
    """Rows of a table, by number."""

    def apply(self, x: Any, w: Any, b: Any) -> jax.Array:
        return jnp.take(w, x, axis=0, mode="clip")

    def block(self, w: Any, b: Any) -> Block:
        order = tuple(range(w.ndim))
        return Block("embedding", tuple(w.shape), order, (), w.shape[0], math.prod(w.shape[1:]), None, True)

    def inputs(self, x: Any, w: Any) -> jax.Array:
        return jnp.clip(x, 0, w.shape[0] - 1)

    def outputs(self, dy: Any, x: Any, w: Any, b: Any) -> jax.Array:
        return dy.reshape(*x.shape, -1)


@dataclass(frozen=True)
class Shift:
    """x + b, the weight being b."""

    def apply(self, x: Any, w: Any, b: Any) -> jax.Array:
        return x + w.reshape((1,) * (x.ndim - w.ndim) + w.shape)

    def block(self, w: Any, b: Any) -> Block:
        return Block("bias", tuple(w.shape), tuple(range(w.ndim)), (), 0, w.size, None)

    def inputs(self, x: Any, w: Any) -> jax.Array:
        return x.reshape(*x.shape[: x.ndim - w.ndim], -1)[..., :0]

    def outputs(self, dy: Any, x: Any, w: Any, b: Any) -> jax.Array:
        return dy.reshape(*dy.shape[: dy.ndim - w.ndim], -1)


@dataclass(frozen=True)
class Scaling:
    """x s + b entry by entry; the rows of the cotangent are (x dy, dy)."""

    def apply(self, x: Any, w: Any, b: Any) -> jax.Array:
        y = x * w.reshape((1,) * (x.ndim - w.ndim) + w.shape)
        _check_bias(b, tuple(w.shape))
        return y if b is None else Shift().apply(y, b, None)

    def block(self, w: Any, b: Any) -> Block:
        order = tuple(range(w.ndim))
        return Block("scale", tuple(w.shape), order, (), 0, w.size * (1 if b is None else 2), _shape(b))

    def inputs(self, x: Any, w: Any) -> jax.Array:
        return Shift().inputs(x, w)

    def outputs(self, dy: Any, x: Any, w: Any, b: Any) -> jax.Array:
        parts = [x.astype(dy.dtype) * dy] if b is None else [x.astype(dy.dtype) * dy, dy]
        return jnp.concatenate([Shift().outputs(part, x, w, None) for part in parts], -1)
