"""Kronecker factors of each block, from one backward pass per output column."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.operators import is_concrete
from thermolinalg.optim.capture import Slots, alone, automatic, check, pull, wrap, zero_of, zero_slots
from thermolinalg.optim.sites import Layout, Model, Site
from thermolinalg.optim.taps import SecondMoments, Sums


@partial(jax.tree_util.register_dataclass, data_fields=["a", "g"], meta_fields=[])
@dataclass(frozen=True)
class Pair:
    r"""The factors of a block :math:`A \otimes G`.

    Parameters
    ----------
    a : array (*lead, rows, rows), or (*lead, rows) where diagonal
        Second moment of the rows of the input.
    g : array (*lead, columns, columns)
        Second moment of the rows of the output columns.
    """

    a: jax.Array
    g: jax.Array

    @property
    def diagonal(self) -> bool:
        """Whether the input factor is a vector."""
        return self.a.ndim == self.g.ndim - 1

    @property
    def lead(self) -> tuple[int, ...]:
        """Stacked axes."""
        return self.g.shape[:-2]

    @property
    def rows(self) -> int:
        """Size of the input factor."""
        return self.a.shape[-1]

    @property
    def columns(self) -> int:
        """Size of the output factor."""
        return self.g.shape[-1]


def no_factors(site: Site, dtype: Any) -> Pair:
    """Zeros in the shapes of a site's factors."""
    shape = (site.rows,) if site.diagonal else (site.rows, site.rows)
    return Pair(jnp.zeros(site.lead + shape, dtype), jnp.zeros((*site.lead, site.columns, site.columns), dtype))


def factors(model: Model, params: Any, inputs: Any, columns: jax.Array, layout: Layout) -> dict[str, Pair]:
    r"""Kronecker factors of every block of the layout.

    With rows :math:`a_{ip}` of example i at use p, and the rows :math:`g_{ipc}` of output column c, expanded and
    reduced,

    .. math::
        A &= \langle a_{ip} a_{ip}^T \rangle_{ip}, \quad G = \langle \sum_{pc} g_{ipc} g_{ipc}^T \rangle_i \\
        A &= \langle \bar a_i \bar a_i^T \rangle_i, \quad
        G = \langle \sum_c (\sum_p g_{ipc})(\sum_p g_{ipc})^T \rangle_i

    Parameters
    ----------
    model : callable (params, inputs) -> outputs (n, ...)
        As it was discovered.
    params, inputs : pytrees
        Parameters, and a batch with leading axis n.
    columns : array (C, n, ...)
        Columns of a root of the Hessian of each example's loss in that example's outputs.
    layout : Layout
        From :func:`thermolinalg.optim.sites.discover`.

    Returns
    -------
    dict of Pair
        By path of the weight, in float32 or wider.

    Raises
    ------
    ValueError
        If parameters, inputs or columns do not match.

    Notes
    -----
    Exact for linear networks with a quadratic loss, *expand* where the loss is a sum over positions and *reduce* where
    outputs are averaged over positions. Columns must not share a column between positions of one example. Inside
    ``shard_map`` the factors are those of the device's own examples: average them over the mesh. If any site is
    reduced the model runs one example at a time under ``vmap``.

    References
    ----------
    Martens and Grosse, *Optimizing neural networks with Kronecker-factored approximate curvature*, arXiv:1503.05671;
    Eschenhagen et al., *Kronecker-factored approximate curvature for modern neural network architectures*,
    arXiv:2311.00636.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.layers import dense
    >>> from thermolinalg.optim.sites import discover
    >>> model, params, x = lambda p, x: dense(x, p["w"]), {"w": jnp.ones((3, 2))}, jnp.ones((5, 3))
    >>> columns = jnp.broadcast_to(jnp.eye(2)[:, None, :], (2, 5, 2))
    >>> pair = factors(model, params, x, columns, discover(model, params, x))["['w']"]
    >>> pair.a.shape, bool(jnp.all(pair.g == jnp.eye(2)))
    ((3, 3), True)
    """
    check(params, inputs, columns, layout)
    return automatic(partial(_factors, model, layout=layout), params, inputs, columns)


def _factors(model: Model, params: Any, inputs: Any, columns: jax.Array, *, layout: Layout) -> dict[str, Pair]:
    n = columns.shape[1]
    zero = zero_of((params, inputs, columns))
    pooled = [site for site in layout.sites if site.path not in layout.reduced]
    single = [site for site in layout.sites if site.path in layout.reduced]
    shared = zero_slots(pooled, zero, SecondMoments())
    if single:
        own = zero_slots(single, zero, Sums(), (n,))

        def run(shared: Slots, own: Slots) -> jax.Array:
            def one(own: Slots, x: Any) -> jax.Array:
                return model(wrap(wrap(params, layout, shared, SecondMoments()), layout, own, Sums()), alone(x))[0]

            return jax.vmap(one)(own, inputs)

        a_and_g, singles = pull(run, columns, shared, own)
    else:
        (a_and_g,) = pull(lambda s: model(wrap(params, layout, s, SecondMoments()), inputs), columns, shared)
        singles = {}
    out = {site.path: _expanded(site, a_and_g[site.path], n) for site in pooled}
    out |= {site.path: _reduced(site, *singles[site.path]) for site in single}
    return {site.path: out[site.path] for site in layout.sites}


def _expanded(site: Site, found: tuple[jax.Array, jax.Array], n: int) -> Pair:
    """Sums to means: the corner of A, or the sum of a histogram, counts the rows."""
    a, g = found[0][0], found[1][0] / n  # the columns are pooled too
    if site.diagonal:
        return Pair(a / jnp.maximum(a.sum(-1, keepdims=True), 1), g)
    a = a / jnp.maximum(a[..., -1:, -1:], 1)
    return Pair(a if site.appended else a[..., :-1, :-1], g)


def _reduced(site: Site, a: jax.Array, g: jax.Array) -> Pair:
    """Second moments over examples of the mean of a and the sum of g."""
    a = a[0] / jnp.maximum(a[0][..., -1:], 1)
    a = a if site.appended else a[..., :-1]
    n, exact = a.shape[0], jax.lax.Precision.HIGHEST
    outer = jnp.einsum("n...i,n...j->...ij", a, a, precision=exact) / n
    return Pair(outer, jnp.einsum("cn...i,cn...j->...ij", g, g, precision=exact) / n)


def inactive(found: dict[str, Pair]) -> tuple[str, ...]:
    """Paths of blocks that no gradient reaches: frozen branches.

    Parameters
    ----------
    found : dict of Pair
        Factors, known on the host.

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        If the factors are being traced.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> inactive({"['w']": Pair(jnp.eye(2), jnp.zeros((3, 3)))})
    ("['w']",)
    """
    if not all(is_concrete(pair.g) for pair in found.values()):
        raise ValueError("found must hold numbers: call inactive outside of jit")
    return tuple(path for path, pair in found.items() if not np.any(np.asarray(pair.g)))
