"""Where the parameters of a model are used: one site for each block of its curvature."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from thermolinalg.optim.taps import Call, Marker, Notebook, Tapped

Model = Callable[[Any, Any], jax.Array]


@dataclass(frozen=True)
class Site:
    r"""A weight, with the bias that belongs to it, as stacked matrices (\*lead, rows, columns).

    The block of the Gauss-Newton matrix is approximated by :math:`A \otimes G` in row-major order of the matrix.
    """

    path: str
    """Leaf of the weight."""
    kind: str
    """Dense, conv, embedding, bias or scale: for reports."""
    bias: str | None
    """Leaf that joins the block as its last row (as further columns for a scale)."""
    lead: tuple[int, ...]
    """Stacked axes: layers of a scan, experts, groups."""
    rows: int
    """Of the matrix, the bias among them."""
    columns: int
    """Of the matrix."""
    diagonal: bool = False
    """Whether the input factor is a vector: embeddings."""
    split: tuple[int, ...] = ()
    """Shape of the weight, with every axis of the matrices apart."""
    order: tuple[int, ...] = ()
    """Axes of `split` in the order lead, rows, columns."""
    shape: tuple[int, ...] = ()
    """Of the weight."""
    bias_shape: tuple[int, ...] | None = None
    """Of the bias."""
    dtype: str = "float32"
    """Of the weight."""
    bias_dtype: str = "float32"
    """Of the bias."""
    stacked: int = 0
    """How many axes of `lead` belong to the operation itself: experts of an einsum, groups."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Leaves of the block."""
        return (self.path,) if self.bias is None else (self.path, self.bias)

    @property
    def _wide(self) -> bool:
        """Whether the bias joins as columns."""
        return self.kind == "scale"

    @property
    def appended(self) -> bool:
        """Whether the last row of the matrix is that of a 1 in the input."""
        return self.kind in ("bias", "scale") or self.bias is not None

    def matrix(self, leaves: dict[str, jax.Array]) -> jax.Array:
        """Pack leaves with the shapes of the parameters, (*lead, rows, columns), in the order of the factors."""
        weight = leaves[self.path].reshape(self.split).transpose(self.order)
        if self.bias is None:
            return weight.reshape(*self.lead, self.rows, self.columns)
        dtype = max(weight.dtype, leaves[self.bias].dtype, key=lambda kind: jnp.finfo(kind).bits)
        rows, columns = (1, self.columns // 2) if self._wide else (self.rows - 1, self.columns)
        parts = [weight.reshape(*self.lead, rows, columns), leaves[self.bias].reshape(*self.lead, 1, columns)]
        return jnp.concatenate([part.astype(dtype) for part in parts], -1 if self._wide else -2)

    def leaves(self, matrix: jax.Array) -> dict[str, jax.Array]:
        """Unpack matrices into leaves with the shapes and dtypes of the parameters."""
        out = {}
        if self.bias is not None and self.bias_shape is not None:
            cut = self.columns // 2 if self._wide else self.rows - 1
            matrix, rest = jnp.split(matrix, [cut], -1 if self._wide else -2)
            out[self.bias] = rest.reshape(self.bias_shape).astype(self.bias_dtype)
        ordered = matrix.reshape([self.split[i] for i in self.order])
        out[self.path] = ordered.transpose(np.argsort(self.order).tolist()).reshape(self.shape).astype(self.dtype)
        return out


@dataclass(frozen=True)
class Layout:
    """The blocks of a model's curvature, and what belongs to none."""

    sites: tuple[Site, ...]
    unclaimed: tuple[str, ...] = ()
    """Leaves that no tagged operation has used."""
    reduced: frozenset[str] = frozenset()
    """Sites whose uses inside an example are averaged (reduce); all others count each use on its own (expand)."""
    tied: frozenset[str] = frozenset()
    """Sites with a leaf that is also used outside, through ``value``: their rows are not all of the gradient."""

    def report(self) -> str:
        """A table of the blocks and of the leaves in none.

        Returns
        -------
        str
            One line for each block: leaves, kind, number and size of the matrices, how its uses are counted.

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> from thermolinalg.optim.layers import dense
        >>> layout = discover(lambda p, x: dense(x, p["w"]), {"w": jnp.ones((3, 2))}, jnp.ones((5, 3)))
        >>> print(layout.report())
        block   kind   matrix  uses
        ['w']   dense  3 x 2   expand
        """
        lines = [("block", "kind", "matrix", "uses")]
        for site in self.sites:
            name = site.path if site.bias is None else f"{site.path} + {site.bias}"
            size = " x ".join(map(str, (*site.lead, site.rows, site.columns)))
            how = "reduce" if site.path in self.reduced else "expand"
            lines.append((name, site.kind, size, how + (", tied" if site.path in self.tied else "")))
        lines += [(path, "in no block", "", "") for path in self.unclaimed]
        width = [max(len(line[i]) for line in lines) for i in range(4)]
        width[0] = max(width[0], 6)
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, width, strict=True)).rstrip() for line in lines)


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is an array of floating-point numbers."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def examples_in(inputs: Any) -> int:
    """Number of examples: the leading axis of every leaf of the inputs."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(inputs)}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(f"every array of inputs must lead with the axis of examples, got leading axes {sorted(sizes)}")
    (n,) = sizes.pop()
    if n == 0:
        raise ValueError("inputs must hold at least one example, got none")
    return n


def notes(model: Model, params: Any, inputs: Any, examples: int) -> Notebook:
    """Trace the model once, on shapes alone, with marked leaves."""
    examples_in(inputs)
    leaves, _ = tree_flatten_with_path(params)
    notebook = Notebook()

    def abstract(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((examples, *jnp.shape(leaf)[1:]), jnp.result_type(leaf))

    marked = [Tapped(w, tag=Marker(keystr(p), notebook)) if is_floating(w) else w for p, w in leaves]
    try:
        jax.eval_shape(model, jax.tree.unflatten(jax.tree.structure(params), marked), jax.tree.map(abstract, inputs))
    except TypeError as error:
        error.add_note("If a parameter enters a function that takes plain arrays only, pass optim.value(parameter).")
        raise
    return notebook


def discover(model: Model, params: Any, inputs: Any, *, reduced: Iterable[str] = ()) -> Layout:
    """Trace a model once and say which of its parameters are used where.

    Parameters
    ----------
    model : callable (params, inputs) -> outputs (n, ...)
        Written with the operations of :mod:`thermolinalg.optim.layers`, or wrapped by one of the adapters.
    params : pytree
        Its parameters.
    inputs : pytree of arrays (n, ...)
        A batch; only shapes matter, and one example is traced.
    reduced : paths
        Sites whose uses inside an example are averaged. Scales and biases always are: their blocks are then exact.

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        If a parameter is used by two kinds of layer, a bias with two weights, a weight both inside and outside of
        tagged operations, a stack of weights by another axis than the first, or `reduced` names no site.

    Notes
    -----
    A model in which examples interact (batch normalisation) has no factors per example; what is reported then belongs
    to one example at a time.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.layers import dense
    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    >>> layout = discover(lambda p, x: dense(x, p["w"], p["b"]), params, jnp.ones((5, 3)))
    >>> layout.sites[0].rows, layout.sites[0].columns
    (4, 2)
    """
    notebook = notes(model, params, inputs, 1)
    leaves = {keystr(path): leaf for path, leaf in tree_flatten_with_path(params)[0] if is_floating(leaf)}
    calls: dict[str, Call] = {}
    for call in notebook.calls:
        known = calls.setdefault(call.path, call)
        if known.block.kind != call.block.kind or (known.block.split, known.block.order) != (
            call.block.split,
            call.block.order,
        ):
            raise ValueError(
                f"{call.path} is used by two different kinds of layer ({known.block.kind} and {call.block.kind}); "
                "pass optim.value(weight) to the use that shall carry no statistics"
            )
        if known.bias != call.bias:
            raise ValueError(f"{call.path} is used with two different biases, {known.bias} and {call.bias}")
    sites = tuple(_site(call, leaves) for call in calls.values())
    owners: dict[str, str] = {}
    for site in sites:
        for path in site.paths:
            if path in owners:
                raise ValueError(
                    f"{path} belongs to two blocks, {owners[path]} and {site.path}; untie it, or pass "
                    "optim.value(leaf) to one of the uses"
                )
            owners[path] = site.path
    if mixed := sorted(notebook.untagged & owners.keys()):
        raise ValueError(
            f"{mixed[0]} is used both in a tagged operation and outside; if that is meant, pass optim.value(weight) "
            "to the use outside, which then carries no statistics"
        )
    names = {site.path for site in sites if not site.diagonal}
    if unknown := sorted(set(reduced) - names):
        raise ValueError(f"reduced must name weights of the layout that are not embeddings, got {unknown[0]}")
    averaged = frozenset(reduced) | {site.path for site in sites if site.kind in ("bias", "scale")}
    tied = frozenset(owners[path] for path in notebook.excused & owners.keys())
    return Layout(sites, tuple(path for path in leaves if path not in owners), averaged, tied)


def _site(call: Call, leaves: dict[str, Any]) -> Site:
    """The site of a weight, stacked axes found from the shapes of leaf and use."""
    block, leaf = call.block, leaves[call.path]
    outer = tuple(leaf.shape[: leaf.ndim - len(call.shape)])
    if outer + call.shape != tuple(leaf.shape):
        raise ValueError(
            f"stacked weights must lead with the stacked axes: {call.path} has shape {leaf.shape}, "
            f"and is used with shape {call.shape}"
        )
    bias = leaves[call.bias] if call.bias is not None else None
    if bias is not None and block.bias is not None and tuple(bias.shape) != outer + block.bias:
        raise ValueError(
            f"the bias {call.bias} must be stacked like {call.path}: {outer + block.bias}, got shape {bias.shape}"
        )
    rows = block.rows + int(block.kind in ("bias", "scale") or bias is not None)
    columns = block.columns if bias is not None or block.kind != "scale" else math.prod(block.split)
    return Site(
        path=call.path,
        kind=block.kind,
        bias=call.bias,
        lead=outer + block.stacked,
        rows=rows,
        columns=columns,
        diagonal=block.diagonal,
        split=outer + block.split,
        order=(*range(len(outer)), *(len(outer) + i for i in block.order)),
        shape=tuple(leaf.shape),
        bias_shape=None if bias is None else tuple(bias.shape),
        dtype=str(leaf.dtype),
        bias_dtype="float32" if bias is None else str(bias.dtype),
        stacked=len(block.stacked),
    )
