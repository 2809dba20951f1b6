"""One backward pass through a tapped model: slots in, statistics out."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.tree_util import keystr, tree_flatten_with_path

from thermolinalg.optim.sites import Layout, Model, Site, examples_in, notes
from thermolinalg.optim.taps import AllRows, SecondMoments, Statistic, Sums, Tapped, is_tapped, wide

Slots = dict[str, tuple[jax.Array, jax.Array]]
"""Slots of each site, or what they have received, by path of the weight."""


class Captured(NamedTuple):
    """What one example after another has shown."""

    rows: Slots
    """(n, *lead, uses, d) and (n, C, *lead, uses, columns), with the counter."""
    sums: dict[str, jax.Array]
    """(n, C, *lead, columns) of biases and scales."""


def alone(example: Any) -> Any:
    """One example as a batch of one."""
    return jax.tree.map(lambda leaf: leaf[None], example)


def zero_of(values: Any) -> jax.Array:
    """A zero that depends in name on every number: an enclosing vmap batches it, a shard_map lets it vary."""
    total = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(values):
        if jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool:
            empty = jax.lax.slice_in_dim(leaf, 0, 0) if leaf.ndim else jnp.where(False, leaf, jnp.zeros_like(leaf))
            total = total + jnp.sum(empty).astype(jnp.float32)
    return total


def zero_slots(
    sites: Iterable[Site],
    zero: jax.Array,
    statistic: Statistic,
    batch: tuple[int, ...] = (),
    uses: dict[str, int] | None = None,
) -> Slots:
    """Zero slots for one statistic, with further leading axes `batch`."""
    out: Slots = {}
    a: tuple[int, ...]
    g: tuple[int, ...]
    for site in sites:
        dtype = wide(site.dtype)
        width = site.rows + (not site.appended)  # the counter is always there
        if isinstance(statistic, SecondMoments):
            a, g = (site.rows,) if site.diagonal else (width, width), (site.columns, site.columns)
        elif isinstance(statistic, Sums):
            a, g = (width,), (site.columns,)
        else:
            several = (uses or {})[site.path]
            a, g = (several, 2 if site.diagonal else width), (several, site.columns)
        empty = [jnp.zeros((*batch, *site.lead, *shape), dtype) + zero.astype(dtype) for shape in (a, g)]
        out[site.path] = (empty[0], empty[1])
    return out


def wrap(params: Any, layout: Layout, slots: Slots, statistic: Statistic) -> Any:
    """The parameters with their slots; biases are marked as part of a block."""
    biases = {site.bias for site in layout.sites if site.path in slots}
    leaves, _ = tree_flatten_with_path(params, is_leaf=is_tapped)
    tree = jax.tree.structure(params, is_leaf=is_tapped)

    def one(path: str, leaf: Any) -> Any:
        if path in slots:
            return Tapped(leaf, *slots[path], tag=statistic)
        return Tapped(leaf, tag=statistic) if path in biases else leaf

    return jax.tree.unflatten(tree, [one(keystr(path), leaf) for path, leaf in leaves])


def pull(run: Callable[..., jax.Array], columns: jax.Array, *slots: Any) -> tuple[Any, ...]:
    """Cotangents of the slots for each column, with a leading axis of columns."""
    y, pullback = jax.vjp(run, *slots)
    if y.shape != columns.shape[1:]:
        raise ValueError(f"columns must have the shape (C, *outputs.shape) with outputs {y.shape}, got {columns.shape}")
    return jax.vmap(pullback)(columns.astype(y.dtype))


def per_example(
    model: Model,
    params: Any,
    inputs: Any,
    columns: jax.Array,
    *,
    layout: Layout,
    uses: dict[str, int],
    leaves: tuple[str, ...] = (),
    summed: bool = True,
) -> tuple[Captured, dict[str, jax.Array]]:
    """Rows of the sites in `uses`, sums of biases and scales, and gradients (n, C, *shape) of some leaves."""
    inside = [site for site in layout.sites if summed and site.kind in ("bias", "scale") and site.path not in leaves]
    listed = [site for site in layout.sites if site.path in uses and site not in inside]
    flat, tree = tree_flatten_with_path(params)[0], jax.tree.structure(params)
    bare = {keystr(path): leaf for path, leaf in flat if keystr(path) in leaves}

    def one(x: Any, c: jax.Array) -> Any:
        x, zero = alone(x), zero_of((params, x, c))

        def run(each: Slots, sums: Slots, bare: dict[str, jax.Array]) -> jax.Array:
            own = jax.tree.unflatten(tree, [bare.get(keystr(path), leaf) for path, leaf in flat])
            return model(wrap(wrap(own, layout, each, AllRows()), layout, sums, Sums()), x)

        each = zero_slots(listed, zero, AllRows(), uses=uses)
        found, sums, grads = pull(run, c[:, None], each, zero_slots(inside, zero, Sums()), bare)
        found = {path: (a[0], g) for path, (a, g) in found.items()}
        return Captured(found, {path: g for path, (_, g) in sums.items()}), grads

    return jax.vmap(one)(inputs, jnp.moveaxis(columns, 1, 0))


def split(site: Site, a: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows without the counter, and whether each was used once."""
    once = jnp.all(a[..., -1] == 1)
    return (a if site.appended else a[..., :-1]), g, once


def unit_rows(site: Site, a: jax.Array) -> jax.Array:
    """Rows in full: those of an embedding are known by their number."""
    return jax.nn.one_hot(a[..., 0].astype(jnp.int32), site.rows, dtype=a.dtype) if site.diagonal else a


def uses_of(model: Model, params: Any, inputs: Any, layout: Layout, examples: int) -> dict[str, int]:
    """Rows of each site that the trace of a batch shows to be used once."""
    calls: dict[str, list[int]] = {}
    for call in notes(model, params, inputs, examples).calls:
        size = 1
        for n in call.uses:
            size *= n
        calls.setdefault(call.path, []).append(size)
    return {site.path: calls[site.path][0] for site in layout.sites if len(calls.get(site.path, ())) == 1}


def check(params: Any, inputs: Any, columns: jax.Array, layout: Layout) -> None:
    """Parameters, inputs and columns must belong together."""
    shapes = {keystr(path): jnp.shape(leaf) for path, leaf in tree_flatten_with_path(params)[0]}
    for site in layout.sites:
        for path, wanted in ((site.path, site.shape), (site.bias, site.bias_shape)):
            if path is not None and shapes.get(path) != wanted:
                found = shapes.get(path, "no such leaf")
                raise ValueError(f"params do not match the layout: {path} should have shape {wanted}, got {found}")
    n = examples_in(inputs)
    if columns.ndim < 2 or columns.shape[1] != n:
        raise ValueError(f"columns must have the shape (C, n, ...) with n = {n} examples, got {columns.shape}")


def automatic(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run with automatic axes where the mesh has explicit ones: no sharding is ambiguous then."""
    mesh = jax.sharding.get_abstract_mesh()
    if jax.sharding.AxisType.Explicit not in mesh.axis_types:
        return function(*arguments)
    return jax.sharding.auto_axes(function, out_sharding=PartitionSpec())(*arguments)
