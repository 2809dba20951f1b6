r"""Brownian motion on a uniform grid: increments, space-time areas, and the same path on a coarser grid.

Noise is drawn in blocks of a fixed number of steps, each from a key of its own. So the first steps of a path do not
depend on how many follow, and a long run that draws block by block sees the same numbers as a stored path.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.laws import Scalar
from thermolinalg.ranges import check_positive, check_whole

BLOCK = 128
"""Steps drawn at a time."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BrownianPath:
    r"""A path of Brownian motion, as an integrator reads it.

    Attributes
    ----------
    increments : Array, shape (n, m)
        :math:`W_{t+h} - W_t` of each step: independent, of variance h.
    areas : Array, shape (n, m), or None
        :math:`H = \frac1h \int_0^h (W_{t+r} - W_t - \frac rh (W_{t+h} - W_t))\,dr` of each step: of variance h/12 and
        independent of the increments.
    step : Array, shape ()
        h.
    """

    increments: jax.Array
    areas: jax.Array | None
    step: jax.Array

    @property
    def steps(self) -> int:
        """Number of steps, n."""
        return self.increments.shape[0]

    @property
    def duration(self) -> jax.Array:
        """Time the path covers, n h."""
        return self.steps * self.step

    def coarsen(self, factor: int) -> "BrownianPath":
        r"""Return the same path on steps `factor` times as long.

        .. math:: W = \sum_i W_i, \qquad
            H = \frac1f \sum_i \Bigl[H_i + \sum_{j<i} W_j + \tfrac12 W_i\Bigr] - \tfrac12 W

        Parameters
        ----------
        factor : int, >= 1
            A divisor f of the number of steps.

        Raises
        ------
        ValueError
            If `factor` does not divide the number of steps.
        """
        check_whole("factor", factor, 1)
        if self.steps % factor:
            raise ValueError(f"factor must divide the number of steps, {self.steps}, got {factor}")
        fine = self.increments.reshape(-1, factor, *self.increments.shape[1:])
        total = jnp.sum(fine, 1)
        if self.areas is None:
            return BrownianPath(total, None, self.step * factor)
        # The sum over steps of W at their middles, about the mean of W at the ends: weights without cancellation.
        weights = (factor - 1 - 2 * np.arange(factor)) / 2
        tilt = jnp.einsum("nfm,f->nm", fine, jnp.asarray(weights, fine.dtype))
        areas = (jnp.sum(self.areas.reshape(fine.shape), 1) + tilt) / factor
        return BrownianPath(total, areas, self.step * factor)

    def without_areas(self) -> "BrownianPath":
        """Return the path without its areas."""
        return replace(self, areas=None)


def brownian_path(
    key: jax.Array, steps: int, noises: int, step: Scalar, *, areas: bool = False, dtype: jnp.dtype | None = None
) -> BrownianPath:
    """Draw a path of Brownian motion.

    Parameters
    ----------
    key : PRNG key
    steps : int, >= 1
        Number of steps.
    noises : int, >= 1
        Number of independent motions.
    step : float, > 0
        Length of a step in units of time.
    areas : bool
        Whether to draw space-time areas as well. The increments are the same with and without.
    dtype : optional
        Type of the numbers; by default that of `step` if it is an array, else the default of JAX.

    Returns
    -------
    BrownianPath

    Raises
    ------
    ValueError
        If a count is not a whole number of at least 1, or `step` is not positive.

    Notes
    -----
    A path of fewer steps from the same key is the beginning of the longer one.

    Examples
    --------
    >>> import jax
    >>> path = brownian_path(jax.random.key(0), 8, 2, 0.25, areas=True)
    >>> path.increments.shape, path.coarsen(4).increments.shape
    ((8, 2), (2, 2))
    """
    check_whole("steps", steps, 1)
    check_whole("noises", noises, 1)
    check_positive(step=step)
    kind = jnp.dtype(dtype) if dtype is not None else _type(step)
    return _path(key, jnp.asarray(step, kind), int(steps), int(noises), bool(areas))


def block(key: jax.Array, index: Scalar, noises: int, step: jax.Array, areas: bool) -> BrownianPath:
    """Return the steps from `index` times BLOCK to the next multiple of the path of this key."""
    own, other = jax.random.split(jax.random.fold_in(key, index))
    scale = jnp.sqrt(step)
    increments = scale * jax.random.normal(own, (BLOCK, noises), step.dtype)
    if not areas:
        return BrownianPath(increments, None, step)
    return BrownianPath(increments, scale * 12**-0.5 * jax.random.normal(other, (BLOCK, noises), step.dtype), step)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _path(key, step, steps, noises, areas):
    count = -(-steps // BLOCK)
    blocks = jax.vmap(lambda index: block(key, index, noises, step, areas))(jnp.arange(count))
    increments, areas = jax.tree.map(lambda x: x.reshape(-1, noises)[:steps], (blocks.increments, blocks.areas))
    return BrownianPath(increments, areas, step)


def _type(step):
    kind = step.dtype if isinstance(step, jax.Array | np.ndarray | np.generic) else jnp.result_type(float)
    return jnp.dtype(kind) if jnp.issubdtype(kind, jnp.floating) else jnp.dtype(jnp.result_type(float))
