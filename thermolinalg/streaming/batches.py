"""Standard error of a mean from one pass over a correlated stream of unknown length."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.ranges import check_whole
from thermolinalg.solution import Status
from thermolinalg.streaming.moments import as_rows, as_vector, check_alike, real_dtype, shares, weights
from thermolinalg.streaming.twofold import Twofold

_LONG = 10
"""A batch of so many autocorrelation times is taken as independent of the next: 5 % of the variance are missed."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BatchMeans:
    r"""Running mean with its standard error, from the scatter of the means of consecutive batches.

    .. math:: \sigma^2 = \frac{\ell}{f-1} \sum_{j=1}^{f} (\bar x_j - \bar{\bar x})^2, \qquad
        \mathtt{stderr} = \sigma/\sqrt n, \qquad \tau = \sigma^2/\operatorname{Var} x

    with f full batches of length :math:`\ell`. When all B places are taken, neighbours are joined and :math:`\ell`
    doubles, so that a stream of any length ends with B/2 to B - 1 full batches. Begin with :meth:`empty`.

    Attributes
    ----------
    count : Array of int32, shape ()
        Vectors seen, n; at most 2^31 - 1.
    centre, scatter : Twofold, shape (d,)
        Mean of all vectors, and sum of the squares of their deviations.
    batches : Twofold, shape (B, d)
        Means of the full batches, then of the one that is being filled, then zeros.
    length, full, partial : Array of int32, shape ()
        Vectors in a full batch, number of full batches, and vectors in the next one.

    Notes
    -----
    Memory is (2 B + 4) d numbers. The variance of the mean has a relative standard error of about
    :math:`\sqrt{2/(f-1)}`, however long the stream is: (value - truth) / stderr follows Student's law with `degrees` =
    f - 1. It is too small by the fraction :math:`\tau/(2\ell)` or so for correlations that decay exponentially;
    `status` says ``FEW_SAMPLES`` where that is estimated to be more than 5 %, or there are fewer than B/2 batches. A
    stream that has not yet seen all there is (a second well) cannot know it, nor can this estimate.

    References
    ----------
    C. Alexopoulos, A. Seila, in J. Banks (ed.), *Handbook of Simulation* (1998), chapter 7.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> noise = jax.random.normal(jax.random.key(0), (20_000, 1))
    >>> step = lambda x, z: (0.8 * x + z, x)
    >>> _, path = jax.lax.scan(step, jnp.zeros(1, noise.dtype), noise)
    >>> state = BatchMeans.empty(1, dtype=path.dtype).extend(path)
    >>> bool(jnp.all(jnp.abs(state.mean) < 4 * state.stderr))
    True
    >>> bool(jnp.all(jnp.abs(state.autocorrelation_time - 9) < 6))    # (1 + 0.8) / (1 - 0.8)
    True
    """

    count: jax.Array
    centre: Twofold
    scatter: Twofold
    batches: Twofold
    length: jax.Array
    full: jax.Array
    partial: jax.Array

    @staticmethod
    def empty(dim: int, *, batches: int = 64, dtype: jnp.dtype | None = None) -> "BatchMeans":
        """Return the state before the first vector.

        Parameters
        ----------
        dim : int, >= 1
            d.
        batches : int, even, >= 4
            B. More make the standard error surer and need a longer stream.
        dtype : real floating dtype, optional
            The default one if left out.

        Raises
        ------
        ValueError
            If a size is not a whole number in its range, or `dtype` is not real and floating.
        """
        check_whole("dim", dim, 1)
        check_whole("batches", batches, 4)
        if batches % 2:
            raise ValueError(f"batches must be even, for they are joined in pairs, got {batches}")
        kind = real_dtype(dtype)
        nothing, zero = Twofold.of(jnp.zeros(dim, kind)), jnp.zeros((), jnp.int32)
        places = Twofold.of(jnp.zeros((batches, dim), kind))
        return BatchMeans(zero, nothing, nothing, places, jnp.ones((), jnp.int32), zero, zero)

    @property
    def dim(self) -> int:
        """Number of components, d."""
        return self.centre.value.shape[-1]

    @property
    def places(self) -> int:
        """Most batches there can be, B."""
        return self.batches.value.shape[-2]

    @property
    def mean(self) -> jax.Array:
        """Mean (d,) of everything seen; NaN before the first vector."""
        return jnp.where(self.count[..., None] > 0, self.centre.value, jnp.nan)

    @property
    def degrees(self) -> jax.Array:
        """Degrees of freedom of the standard error: full batches less one, int32 of shape ()."""
        return self.full - 1

    @property
    def long_run_variance(self) -> jax.Array:
        """Variance (d,) of the mean times the length of a long stream; NaN with fewer than two full batches."""
        full, degrees, length = (x[..., None].astype(self._dtype) for x in (self.full, self.degrees, self.length))
        shape = self.batches.value.shape
        live = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 2) < self.full[..., None, None]
        centre = jax.tree.map(lambda x: x[..., None, :], self.centre)
        means = jnp.where(live, self.batches.minus(centre), 0)
        middle = jnp.sum(means, axis=-2) / jnp.maximum(full, 1)
        square = jnp.sum(jnp.where(live, (means - middle[..., None, :]) ** 2, 0), axis=-2)
        return jnp.where(degrees > 0, length * square / jnp.maximum(degrees, 1), jnp.nan)

    @property
    def stderr(self) -> jax.Array:
        """Standard error (d,) of the mean; NaN with fewer than two full batches."""
        return jnp.sqrt(self.long_run_variance / self._n)

    @property
    def variance(self) -> jax.Array:
        """Variance (d,) of a single vector, with what the estimated mean takes away put back."""
        return (self.scatter.value + self.long_run_variance) / self._n

    @property
    def autocorrelation_time(self) -> jax.Array:
        """Integrated autocorrelation time (d,) in steps; (1 + rho) / (1 - rho) for AR(1). NaN where nothing varies."""
        return self.long_run_variance / self.variance

    @property
    def effective_size(self) -> jax.Array:
        """Number of independent vectors (d,) that would give a mean as sure; NaN where nothing varies."""
        return self._n / self.autocorrelation_time

    @property
    def status(self) -> jax.Array:
        """Flags of :class:`thermolinalg.solution.Status`, int32 of shape (): FEW_SAMPLES, NOT_FINITE."""
        single = self.length[..., None].astype(self._dtype) * self.variance
        long = jnp.all(_LONG * self.long_run_variance <= single, axis=-1)
        enough = long & (self.full >= self.places // 2)
        finite = jnp.all(jnp.isfinite(self.centre.value), axis=-1)
        flags = jnp.where(enough, 0, int(Status.FEW_SAMPLES)) | jnp.where(finite, 0, int(Status.NOT_FINITE))
        return flags.astype(jnp.int32)

    @property
    def _dtype(self) -> jnp.dtype:
        return self.centre.value.dtype

    @property
    def _n(self) -> jax.Array:
        return jnp.maximum(self.count, 1)[..., None].astype(self._dtype)

    def add(self, x: ArrayLike) -> "BatchMeans":
        """Return the state after one more vector, shape (d,)."""
        vector = as_vector(x, "x", self.dim, self.centre.value.dtype)
        n, held = self.count + 1, self.partial + 1
        share = 1 / n.astype(vector.dtype)
        away = self.centre.before(vector)
        slot = jax.tree.map(lambda x: x[self.full], self.batches)
        slot = slot.plus(slot.before(vector) / held.astype(vector.dtype))
        done = held == self.length
        after = BatchMeans(
            n,
            self.centre.plus(share * away),
            self.scatter.plus((1 - share) * away**2),
            jax.tree.map(lambda x, new: x.at[self.full].set(new), self.batches, slot),
            self.length,
            self.full + done.astype(jnp.int32),
            jnp.where(done, 0, held),
        )
        return jax.lax.cond(after.full == self.places, _join, lambda state: state, after)

    def extend(self, xs: ArrayLike) -> "BatchMeans":
        """Return the state after a block of consecutive vectors, shape (n, d)."""
        rows = as_rows(xs, self.dim, self.centre.value.dtype)
        return jax.lax.scan(lambda state, x: (state.add(x), None), self, rows)[0]

    def merge(self, other: "BatchMeans") -> "BatchMeans":
        """Return the state that has seen what both have.

        Batches are made equally long first. Of two unfinished batches the longer one goes on; the other counts in mean
        and variance, and is left out of the standard error.

        Raises
        ------
        ValueError
            If sizes or numbers of batches differ.
        """
        for name in ("dim", "places"):
            check_alike(self, other, getattr(self, name) == getattr(other, name), name)
        length = jnp.maximum(self.length, other.length)
        ours, theirs = _stretch(self, length), _stretch(other, length)
        crowded = (ours.full + theirs.full >= self.places).astype(jnp.int32)
        ours, theirs = _stretch(ours, length << crowded), _stretch(theirs, length << crowded)
        full = ours.full + theirs.full
        longer = ours.partial >= theirs.partial
        at = jnp.arange(self.places, dtype=jnp.int32)[:, None]

        def beside(mine, others):
            rest = jnp.where(at < full, 0, mine[ours.full][None])
            behind = jnp.roll(others, ours.full, axis=0)
            unfinished = jnp.where(longer, rest, behind)
            joined = jnp.where(at < ours.full, mine, jnp.where(at < full, behind, unfinished))
            return jnp.where(at <= full, joined, 0)

        gap = other.centre.minus(self.centre)
        share = shares(self.count, other.count, gap.dtype)
        total = self.scatter.plus(other.scatter.rest).plus(other.scatter.value)
        return BatchMeans(
            self.count + other.count,
            self.centre.plus(share * gap),
            total.plus(weights(self.count, share) * gap**2),
            jax.tree.map(beside, ours.batches, theirs.batches),
            ours.length,
            full,
            jnp.maximum(ours.partial, theirs.partial),
        )


def _join(state: BatchMeans) -> BatchMeans:
    """Join neighbouring batches, weighted by what they hold, into half as many of twice the length."""
    at = jnp.arange(state.places, dtype=jnp.int32)
    held = jnp.where(at < state.full, state.length, jnp.where(at == state.full, state.partial, 0))
    first, second = (jax.tree.map(lambda x, i=i: x[i::2], state.batches) for i in (0, 1))
    gap = second.minus(first)
    joined = first.plus(shares(held[0::2], held[1::2], gap.dtype)[:, None] * gap)
    places = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x)]), joined)
    partial = state.partial + jnp.where(state.full % 2 == 1, state.length, 0)
    return replace(state, batches=places, length=2 * state.length, full=state.full // 2, partial=partial)


def _stretch(state: BatchMeans, length: jax.Array) -> BatchMeans:
    """Join batches until they have this length, their own times a power of two."""
    return jax.lax.while_loop(lambda state: state.length < length, _join, state)
