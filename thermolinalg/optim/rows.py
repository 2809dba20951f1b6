"""Rows whose outer products are gradients, for weights that are used once at each position."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.optim.capture import (
    Slots,
    automatic,
    check,
    per_example,
    pull,
    split,
    unit_rows,
    uses_of,
    wrap,
    zero_of,
    zero_slots,
)
from thermolinalg.optim.sites import Layout, Model
from thermolinalg.optim.taps import AllRows


def rows(
    model: Model, params: Any, inputs: Any, columns: jax.Array, layout: Layout
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Rows of every example and column, for weights used once per example.

    Parameters
    ----------
    model, params, inputs, columns, layout
        As for :func:`factors`.

    Returns
    -------
    dict of (a, g)
        `a` (n, *lead, rows), unit rows for embeddings, and `g` (n, C, *lead, columns): the gradient of example i and
        column c is the outer product of the two. Biases and scales have `a` = 1 and `g` summed over their uses.

    Raises
    ------
    ValueError
        If a weight is used at several positions of an example.

    Notes
    -----
    The rows of a weight that is used several times through a loop would be summed; `g` of such a weight is NaN.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.layers import dense
    >>> from thermolinalg.optim.sites import discover
    >>> model, params, x = lambda p, x: dense(x, p["w"]), {"w": jnp.ones((3, 2))}, jnp.ones((5, 3))
    >>> a, g = rows(model, params, x, jnp.ones((4, 5, 2)), discover(model, params, x))["['w']"]
    >>> a.shape, g.shape
    ((5, 3), (5, 4, 2))
    """
    check(params, inputs, columns, layout)
    uses = uses_of(model, params, inputs, layout, 1)
    for site in layout.sites:
        if site.kind not in ("bias", "scale") and uses.get(site.path) != 1:
            raise ValueError(f"{site.path} is not used exactly once per example; use gradient_rows or gram")
    found, _ = automatic(partial(per_example, model, layout=layout, uses=uses), params, inputs, columns)
    out = {}
    for site in layout.sites:
        if site.path in found.sums:
            g = found.sums[site.path]
            out[site.path] = (jnp.ones((g.shape[0], *site.lead, 1), g.dtype), g)
        else:
            a, g, once = split(site, *found.rows[site.path])
            out[site.path] = (unit_rows(site, a)[..., 0, :], jnp.where(once, g, jnp.nan)[..., 0, :])
    return out


def gradient_rows(
    model: Model, params: Any, inputs: Any, column: jax.Array, layout: Layout
) -> dict[str, tuple[jax.Array, jax.Array]]:
    r"""Rows whose outer products add up to a gradient, :math:`\sum_N a g^T`.

    Parameters
    ----------
    model, params, inputs, layout
        As for :func:`factors`.
    column : array (n, ...)
        Gradient of the summed loss in the outputs.

    Returns
    -------
    dict of (a, g)
        `a` (N, *lead, rows), unit rows for embeddings, and `g` (N, *lead, columns), with N the uses over all examples
        and positions. A weight that the model calls several times has no such rows and is left out.

    Raises
    ------
    ValueError
        If parameters, inputs or column do not match.

    Notes
    -----
    Models written batch first run as they are; where the uses of some weight do not grow with the batch (the model maps
    single examples by ``vmap``) each example is run on its own. A weight used several times through a loop, which no
    trace shows, is detected by the count of its rows: its `g` is NaN.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.layers import dense
    >>> from thermolinalg.optim.sites import discover
    >>> model, params, x = lambda p, x: dense(x, p["w"]), {"w": jnp.ones((3, 2))}, jnp.ones((5, 3))
    >>> a, g = gradient_rows(model, params, x, jnp.ones((5, 2)), discover(model, params, x))["['w']"]
    >>> (a.T @ g).tolist()
    [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]
    """
    check(params, inputs, column[None], layout)
    n = column.shape[0]
    one, many = (uses_of(model, params, inputs, layout, count) for count in (1, n))
    layout = replace(layout, sites=tuple(site for site in layout.sites if site.path in one))
    batched = all(many.get(path) == n * count for path, count in one.items())
    run = partial(_gradient_rows, model, layout=layout, uses=many if batched else one, batched=batched)
    out = {}
    found = automatic(run, params, inputs, column)
    for site in layout.sites:
        a, g, once = split(site, *found[site.path])
        a, g = (jnp.moveaxis(part, -2, 0) for part in (unit_rows(site, a), jnp.where(once, g, jnp.nan)))
        out[site.path] = (a, g)
    return out


def _gradient_rows(
    model: Model, params: Any, inputs: Any, column: jax.Array, *, layout: Layout, uses: dict[str, int], batched: bool
) -> Slots:
    """Rows of all examples, (*lead, uses, d), side by side."""
    if batched:
        slots = zero_slots(layout.sites, zero_of((params, inputs, column)), AllRows(), uses=uses)
        (found,) = pull(lambda s: model(wrap(params, layout, s, AllRows()), inputs), column[None], slots)
        return {path: (a[0], g[0]) for path, (a, g) in found.items()}
    captured, _ = per_example(model, params, inputs, column[None], layout=layout, uses=uses, summed=False)

    def joined(part: jax.Array) -> jax.Array:
        moved = jnp.moveaxis(part, 0, -3)
        return moved.reshape(*moved.shape[:-3], -1, moved.shape[-1])

    return {path: (joined(a), joined(g[:, 0])) for path, (a, g) in captured.rows.items()}
