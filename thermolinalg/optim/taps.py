"""Tapped weights: statistics of a model's layers leave it as cotangents of zero-valued slots.

A :class:`Tapped` node carries a weight, two zero slots and a static tag. A tagged operation on a plain array is the
ordinary operation. On a tapped weight its backward pass returns, besides the usual cotangents, a statistic of the rows
that entered and of the cotangents that came back, as the "gradient" of the slots. All of it is values of the program,
so every transformation of JAX applies.
"""

import operator
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


class Block(NamedTuple):
    """How the weight of one operation is laid out as stacked matrices: reshape to `split`, transpose by `order`."""

    kind: str
    split: tuple[int, ...]
    order: tuple[int, ...]
    stacked: tuple[int, ...]  # axes of the weight itself that stack matrices: groups, experts of an einsum
    rows: int  # without the bias
    columns: int
    bias: tuple[int, ...] | None
    diagonal: bool = False


class Operation(Protocol):
    """A linear map of x with one weight: what it computes, and its rows. Frozen and hashable."""

    def apply(self, x: Any, w: Any, b: Any) -> jax.Array:
        """The ordinary operation."""
        ...

    def block(self, w: Any, b: Any) -> Block:
        """The layout of the weight, from shapes alone."""
        ...

    def inputs(self, x: Any, w: Any) -> jax.Array:
        """Rows of the input, (*stacked, ..., rows), or the integers that pick rows, (*stacked, ...)."""
        ...

    def outputs(self, dy: Any, x: Any, w: Any, b: Any) -> jax.Array:
        """Rows of the cotangent, (*stacked, ..., columns)."""
        ...


@dataclass(frozen=True)
class Call:
    """One use of a weight, as seen while the model is traced."""

    path: str
    bias: str | None
    shape: tuple[int, ...]
    block: Block
    uses: tuple[int, ...]  # shape of the rows without the stacked axes: examples, positions


@dataclass(eq=False)
class Notebook:
    """What one trace of a model has shown about its parameters."""

    calls: list[Call] = field(default_factory=list)
    untagged: set[str] = field(default_factory=set)
    excused: set[str] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class Marker:
    """The tag of a leaf while layers are being discovered. Static and unique, so it forces a new trace."""

    path: str
    notebook: Notebook


@jax.tree_util.register_pytree_node_class
class Tapped:
    r"""A weight, its two slots, and what they shall receive.

    Passed to a tagged operation it is tapped; anywhere else it acts as the bare array. ``w.astype(dtype)`` and, for a
    stack of layers, ``w[i]`` keep the taps. ``jax.tree.map`` would cast the slots too: use :func:`cast`.
    """

    def __init__(self, weight: Any, a: Any = None, g: Any = None, tag: Hashable = None):
        self.weight, self.a, self.g, self.tag = weight, a, g, tag

    def tree_flatten(self) -> tuple[tuple[Any, ...], Hashable]:
        return (self.weight, self.a, self.g), self.tag

    @classmethod
    def tree_unflatten(cls, tag: Hashable, children: Any) -> "Tapped":
        weight, a, g = children
        return cls(weight, a, g, tag)

    shape = property(lambda self: self.weight.shape)
    dtype = property(lambda self: self.weight.dtype)
    ndim = property(lambda self: self.weight.ndim)
    size = property(lambda self: self.weight.size)

    def astype(self, dtype: Any) -> "Tapped":
        return Tapped(self.weight.astype(dtype), self.a, self.g, self.tag)

    def __getitem__(self, index: Any) -> Any:
        if index is Ellipsis:
            return self
        number = isinstance(index, int | jax.Array) and not isinstance(index, bool)
        if not number or jnp.ndim(index) or not jnp.issubdtype(jnp.result_type(index), jnp.integer):
            return self.__jax_array__()[index]
        a, g = (None if slot is None else slot[index] for slot in (self.a, self.g))
        return Tapped(self.weight[index], a, g, self.tag)

    def __neg__(self) -> jax.Array:
        return -self.__jax_array__()

    def __jax_array__(self) -> jax.Array:
        if isinstance(self.tag, Marker):
            self.tag.notebook.untagged.add(self.tag.path)
        return self.weight

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.__jax_array__(), name)


def _untapped(name: str, swapped: bool) -> Callable[..., Any]:
    """An operator of the bare array."""
    function = getattr(operator, name)
    return lambda self, other: (
        function(other, self.__jax_array__()) if swapped else function(self.__jax_array__(), other)
    )


for _name in ("add", "sub", "mul", "truediv", "matmul", "pow"):
    setattr(Tapped, f"__{_name}__", _untapped(_name, False))
    setattr(Tapped, f"__r{_name}__", _untapped(_name, True))


def is_tapped(node: Any) -> bool:
    """Whether a node of a tree is a tapped weight."""
    return isinstance(node, Tapped)


def value(w: Any) -> Any:
    """The bare array of a weight, for a use that shall carry no statistics.

    Parameters
    ----------
    w : array or Tapped
        A parameter.

    Returns
    -------
    array
        `w` itself where it is not tapped.

    Notes
    -----
    For weights that are used twice in different ways, such as an embedding tied to the output projection: the tagged
    use alone makes the factors of K-FAC. The Gram matrix counts both.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> value(jnp.ones(2)).shape
    (2,)
    """
    if not is_tapped(w):
        return w
    if isinstance(w.tag, Marker):
        w.tag.notebook.excused.add(w.tag.path)
    return w.weight


def cast(params: Any, dtype: Any) -> Any:
    """The parameters in another precision, with their taps kept in their own.

    Parameters
    ----------
    params : pytree
        Parameters, tapped or not; leaves that are not floating point stay.
    dtype : dtype
        Of the weights the model shall compute with.

    Returns
    -------
    pytree
        Of the same structure.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> cast({"w": jnp.ones((2, 2))}, jnp.bfloat16)["w"].dtype
    dtype(bfloat16)
    """

    def one(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, params, is_leaf=is_tapped)


@cache
def _pooling(statistic: Callable[..., jax.Array], stacked: int) -> Callable[..., jax.Array]:
    """A statistic over all axes of the rows behind the stacked ones, that under vmap asks the slot what to do."""

    @jax.custom_batching.custom_vmap
    def run(rows: jax.Array, slot: jax.Array) -> jax.Array:
        return statistic(rows, slot, stacked)

    @run.def_vmap
    def _(size: int, batched: Any, rows: jax.Array, slot: jax.Array) -> tuple[jax.Array, bool]:
        del size
        if batched[0] and batched[1]:  # one statistic for each member
            return _pooling(statistic, stacked + 1)(rows, slot), True
        if batched[0]:  # one slot for all members: they are further rows
            return run(jnp.moveaxis(rows, 0, stacked), slot), False
        return run(rows, slot[0]), False

    return run


def _moment(rows: jax.Array, slot: jax.Array, stacked: int) -> jax.Array:
    """Sum of z z^T over the rows; narrow numbers multiply exactly and accumulate in the precision of the slot."""
    pooled, kept = tuple(range(stacked, rows.ndim - 1)), tuple(range(stacked))
    numbers = (((pooled, pooled), (kept, kept)), lax.Precision.HIGHEST)
    return lax.dot_general(rows, rows, *numbers, preferred_element_type=slot.dtype).astype(slot.dtype)


def _histogram(ids: jax.Array, slot: jax.Array, stacked: int) -> jax.Array:
    """How often each row was picked."""
    if stacked:
        return jax.vmap(partial(_histogram, stacked=stacked - 1))(ids, slot)
    return jnp.zeros_like(slot).at[ids.reshape(-1)].add(jnp.ones((), slot.dtype))


class Statistic(Hashable, Protocol):
    """What slots receive. Frozen and hashable; the slot says how the batches of vmap are treated."""

    def of_rows(self, rows: jax.Array, slot: jax.Array, stacked: int) -> jax.Array:
        """From rows, (*stacked, ..., d)."""
        ...

    def of_ids(self, ids: jax.Array, slot: jax.Array, stacked: int) -> jax.Array:
        """From the numbers of unit rows, (*stacked, ...)."""
        ...


@dataclass(frozen=True)
class SecondMoments:
    """Sum of the outer products of the rows, (*stacked, d, d): every use counts on its own."""

    def of_rows(self, rows: jax.Array, slot: jax.Array, stacked: int) -> jax.Array:
        return _pooling(_moment, stacked)(rows, slot)

    def of_ids(self, ids: jax.Array, slot: jax.Array, stacked: int) -> jax.Array:
        return _pooling(_histogram, stacked)(ids, slot)


@dataclass(frozen=True)
class Sums:
    """Sum of the rows, (*stacked, d)."""

    def of_rows(self, rows: jax.Array, slot: jax.Array, stacked: int) -> jax.Array:
        return rows.astype(slot.dtype).sum(tuple(range(stacked, rows.ndim - 1)))

    def of_ids(self, ids: jax.Array, slot: jax.Array, stacked: int) -> jax.Array:
        return _histogram(ids, slot, stacked)


@dataclass(frozen=True)
class AllRows:
    """The rows themselves, (*stacked, uses, d); of unit rows the number and a 1."""

    def of_rows(self, rows: jax.Array, slot: jax.Array, stacked: int) -> jax.Array:
        del stacked
        return rows.astype(slot.dtype).reshape(slot.shape)

    def of_ids(self, ids: jax.Array, slot: jax.Array, stacked: int) -> jax.Array:
        del stacked
        ids = ids.reshape(slot.shape[:-1]).astype(slot.dtype)
        return jnp.stack([ids, jnp.ones_like(ids)], -1)


def wide(dtype: Any) -> Any:
    """The dtype of statistics: float32 or wider."""
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def with_one(rows: jax.Array) -> jax.Array:
    """The rows with a 1 behind them: the coordinate of the bias, and the counter of the rows."""
    return jnp.concatenate([rows, jnp.ones((*rows.shape[:-1], 1), rows.dtype)], -1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _tapped(operation: Operation, statistic: Statistic, x: Any, w: Any, b: Any, a: Any, g: Any) -> jax.Array:
    """The ordinary operation; its backward pass fills the slots."""
    return operation.apply(x, w, b)


def _forward(operation: Operation, statistic: Statistic, x: Any, w: Any, b: Any, a: Any, g: Any) -> Any:
    return operation.apply(x, w, b), (x, w, b, a, g)


def _backward(operation: Operation, statistic: Statistic, saved: Any, dy: jax.Array) -> Any:
    x, w, b, a, g = saved
    _, pullback = jax.vjp(operation.apply, x, w, b)
    block = operation.block(w, b)
    stacked, rows = len(block.stacked), operation.inputs(x, w)
    a = statistic.of_ids(rows, a, stacked) if block.diagonal else statistic.of_rows(with_one(rows), a, stacked)
    return *pullback(dy), a, statistic.of_rows(operation.outputs(dy, x, w, b), g, stacked)


_tapped.defvjp(_forward, _backward)


def tap(operation: Operation, x: ArrayLike, w: Any, b: Any = None) -> jax.Array:
    """Run a tagged operation: the ordinary one on plain arrays, one that fills the slots of a tapped weight.

    Parameters
    ----------
    operation : Operation
        What is computed, and which rows it has.
    x : array
        Input.
    w, b : array or Tapped
        Weight and bias; `b` may be None.

    Returns
    -------
    array
        The output of the operation.

    Raises
    ------
    ValueError
        If the slots are not in float32 or wider: the parameters were cast with ``jax.tree.map``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.layers import Shift
    >>> tap(Shift(), jnp.ones((2, 3)), jnp.ones(3)).shape
    (2, 3)
    """
    x = jnp.asarray(x)
    if not is_tapped(w):
        return operation.apply(x, w, b.__jax_array__() if is_tapped(b) else b)
    if isinstance(w.tag, Marker):
        return _noted(w.tag, operation, x, w, b)
    if jnp.finfo(w.g.dtype).bits < 32:
        raise ValueError(f"the slots of a tapped weight are in {w.g.dtype}; cast params with optim.cast, not tree.map")
    return _tapped(operation, w.tag, x, w.weight, b.weight if is_tapped(b) else b, w.a, w.g)


def _noted(marker: Marker, operation: Operation, x: jax.Array, w: Tapped, b: Any) -> jax.Array:
    """The ordinary operation, with a note of what it was."""
    path = b.tag.path if is_tapped(b) else None
    bare = b.weight if is_tapped(b) else b
    y = operation.apply(x, w.weight, bare)
    block = operation.block(w.weight, bare)
    rows = jax.eval_shape(operation.inputs, x, w.weight)
    uses = rows.shape[len(block.stacked) :] if block.diagonal else rows.shape[len(block.stacked) : -1]
    marker.notebook.calls.append(Call(marker.path, path, w.shape, block, uses))
    return y
