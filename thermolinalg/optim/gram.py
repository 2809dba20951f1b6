"""The Gram matrix of all gradients, J J^T, from the rows of the layers."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import keystr, tree_flatten_with_path

from thermolinalg.optim.capture import Captured, automatic, check, per_example, split, unit_rows, uses_of
from thermolinalg.optim.sites import Layout, Model, Site, is_floating
from thermolinalg.optim.taps import wide

EXACT = lax.Precision.HIGHEST


def gram(model: Model, params: Any, inputs: Any, columns: jax.Array, layout: Layout) -> jax.Array:
    r"""Inner products of the gradients of all examples and columns.

    .. math:: K_{(ic)(je)} = \sum_{\text{blocks}} \sum_{pq} (a_{ip} \cdot a_{jq}) (g_{icp} \cdot g_{jeq})

    Parameters
    ----------
    model, params, inputs, columns, layout
        As for :func:`thermolinalg.optim.factors.factors`; any columns (C, n, ...) will do.

    Returns
    -------
    array (n C, n C)
        Row i C + c belongs to example i and column c. In the dtype of the statistics, float32 or wider.

    Raises
    ------
    ValueError
        If parameters, inputs or columns do not match.

    Notes
    -----
    A weight used once costs :math:`O(r^2 d_{out})` operations and :math:`O(b d_{in} + r d_{out})` numbers, with
    r = n C, instead of :math:`O(r^2 d_{in} d_{out})` and :math:`O(r d_{in} d_{out})`. One used at several positions
    goes by pairs of positions or by per-example gradients, whichever needs fewer operations. A weight that a trace
    shows used several times, one tied through ``value``, and leaves in no block go by per-example gradients. A weight
    reused by a loop is noticed by the count of its rows; then the matrix is built from products J (J^T e), under a
    ``cond``: slower, and right. An enclosing ``vmap`` computes both branches.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.layers import dense
    >>> from thermolinalg.optim.sites import discover
    >>> model, params, x = lambda p, x: dense(x, p["w"]), {"w": jnp.ones((3, 2))}, jnp.ones((2, 3))
    >>> columns = jnp.broadcast_to(jnp.eye(2)[:, None, :], (2, 2, 2))
    >>> gram(model, params, x, columns, discover(model, params, x))[0].tolist()
    [3.0, 0.0, 3.0, 0.0]
    """
    check(params, inputs, columns, layout)
    uses = uses_of(model, params, inputs, layout, 1)
    uses = {path: count for path, count in uses.items() if path not in layout.tied}
    return automatic(partial(_gram, model, layout=layout, uses=uses), params, inputs, columns)


def _gram(
    model: Model, params: Any, inputs: Any, columns: jax.Array, *, layout: Layout, uses: dict[str, int]
) -> jax.Array:
    summed = [s for s in layout.sites if s.kind in ("bias", "scale") and s.path not in layout.tied]
    listed = [s for s in layout.sites if s.path in uses and s not in summed]
    covered = {path for site in (*summed, *listed) for path in (site.path, site.bias)}
    every = tuple(keystr(path) for path, leaf in tree_flatten_with_path(params)[0] if is_floating(leaf))
    rest = tuple(path for path in every if path not in covered)
    capture = partial(per_example, model, params, inputs, columns, layout=layout)
    found, gradients = capture(uses=uses, leaves=rest)
    total = _of_gradients([*gradients.values(), *found.sums.values()], columns)
    if not listed:
        return total

    def from_rows(found: Captured) -> jax.Array:
        return sum((_block(site, *split(site, *found.rows[site.path])[:2]) for site in listed), total)

    def from_products(found: Captured) -> jax.Array:
        leaves = tuple(path for site in listed for path in (site.path, site.bias) if path is not None)
        return total + _by_products(model, params, inputs, columns, leaves)

    once = jnp.all(jnp.stack([split(site, *found.rows[site.path])[2] for site in listed]))
    return lax.cond(once, from_rows, from_products, found)


def _by_products(model: Model, params: Any, inputs: Any, columns: jax.Array, leaves: tuple[str, ...]) -> jax.Array:
    """The share of some leaves, row by row as J (J^T e): slower than rows, in the memory of one gradient."""
    flat, tree = tree_flatten_with_path(params)[0], jax.tree.structure(params)
    bare = {keystr(path): leaf for path, leaf in flat if keystr(path) in leaves}

    def run(bare: dict[str, jax.Array]) -> jax.Array:
        return model(jax.tree.unflatten(tree, [bare.get(keystr(path), leaf) for path, leaf in flat]), inputs)

    y, push = jax.linearize(run, bare)
    pull = jax.linear_transpose(push, bare)
    c, n = columns.shape[:2]
    narrow = columns.astype(y.dtype).reshape(c, n, -1)

    def row(k: jax.Array) -> jax.Array:
        one = jnp.where((jnp.arange(n, dtype=k.dtype) == k // c)[:, None], narrow[k % c], 0)
        (gradient,) = pull(one.reshape(y.shape))
        moved = push(gradient).reshape(n, -1)
        return jnp.einsum("cnk,nk->nc", narrow, moved, precision=EXACT).reshape(-1)

    return lax.map(row, jnp.arange(n * c, dtype=jnp.int32)).astype(wide(columns.dtype))


def _of_gradients(parts: list[jax.Array], columns: jax.Array) -> jax.Array:
    """Gram matrix of gradients (n, C, ...), leaf by leaf."""
    r = columns.shape[0] * columns.shape[1]
    flat = [part.reshape(r, -1).astype(wide(columns.dtype)) for part in parts]
    return sum((jnp.matmul(j, j.T, precision=EXACT) for j in flat), jnp.zeros((r, r), wide(columns.dtype)))


def _block(site: Site, a: jax.Array, g: jax.Array) -> jax.Array:
    """The share of one block, by the cheaper of two routes."""
    n, c, stack = *g.shape[:2], math.prod(site.lead)
    a, g = a.reshape(n, stack, *a.shape[-2:]), g.reshape(n * c, stack, *g.shape[-2:])
    uses, rows, columns, r = a.shape[-2], site.rows, site.columns, n * c
    pairs = uses * (uses + 1) // 2
    by_pairs = pairs * 2 * (n * n * (1 if site.diagonal else rows) + r * r * columns + r * r)
    by_gradients = 2 * r * uses * rows * columns + 2 * r * r * rows * columns
    if uses > 1 and by_gradients < by_pairs:
        full = unit_rows(site, a)
        j = jnp.einsum("nlpi,nclpj->nclij", full, g.reshape(n, c, *g.shape[1:]), precision=EXACT).reshape(r, -1)
        return jnp.matmul(j, j.T, precision=EXACT)

    def inner(p: jax.Array, q: jax.Array) -> jax.Array:
        """(a_p . a_q)(g_p . g_q) for all pairs of examples and columns; p and q number stack and use."""
        left, right = (a[:, k // uses, k % uses] for k in (p, q))
        alike = (left == right.T).astype(g.dtype) if site.diagonal else jnp.matmul(left, right.T, precision=EXACT)
        near = jnp.matmul(g[:, p // uses, p % uses], g[:, q // uses, q % uses].T, precision=EXACT)
        return (near.reshape(n, c, n, c) * alike[:, None, :, None]).reshape(r, r)

    if stack * uses == 1:
        return inner(0, 0)  # type: ignore[arg-type]

    first, second = np.tril_indices(uses)
    start = np.arange(stack)[:, None] * uses
    order = tuple(jnp.asarray((start + use[None]).reshape(-1), jnp.int32) for use in (first, second))

    def add(total: jax.Array, pair: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        k = inner(*pair)
        return total + jnp.where(pair[0] == pair[1], k, k + k.T), None

    return lax.scan(add, jnp.zeros((r, r), g.dtype), order)[0]
