"""Covariance between a state and an earlier one, for a few lags, in one pass."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.ranges import check_whole
from thermolinalg.streaming.moments import as_rows, as_vector, check_alike, real_dtype, shares, weights
from thermolinalg.streaming.twofold import Twofold


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LaggedMoments:
    r"""Running covariances between the states of a stream and those `lags` steps before.

    .. math:: C_k = E\,(x_{t+k} - \mu)(x_t - \mu)^\top

    Begin with :meth:`empty`; the last :math:`\max k` states wait in a ring buffer for their partners.

    Attributes
    ----------
    lags : tuple of int, static
        The lags k >= 0, without repetition.
    known : bool, static
        Whether the mean was given.
    pairs : Array of int32, shape (L,)
        Pairs seen of each lag.
    late, early : Twofold, shape (L, d)
        Means over the later and the earlier members of the pairs, or the mean that was given.
    scatter : Twofold, shape (L, d, d)
        Sums of the outer products of deviations.
    recent : Array, shape (max lag, d)
        Ring buffer.
    seen : Array of int32, shape ()
        States that have gone through it.

    Notes
    -----
    Memory is 2 L d^2 + (max lag) d numbers, time L d^2 a step. Each lag is centred by the means of its own pairs and
    divided by their number less one: lag 0 is the covariance of :class:`Moments`. As there, an estimated mean makes
    :math:`C_k` too small by about the covariance of that mean, whatever k is, and a given one does not. The standard
    error of an entry falls as :math:`\sqrt{\tau/n}` and does not fall with k: far lags are noise. Sums keep twice the
    digits of the dtype.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> noise = jax.random.normal(jax.random.key(0), (20_000, 1))
    >>> step = lambda x, z: (0.5 * x + z, x)
    >>> _, path = jax.lax.scan(step, jnp.zeros(1, noise.dtype), noise)
    >>> state = LaggedMoments.empty(1, (0, 1, 2), dtype=path.dtype).extend(path)
    >>> bool(jnp.allclose(state.autocorrelation[:, 0], jnp.array([1, 0.5, 0.25]), atol=0.05))
    True
    """

    lags: tuple[int, ...] = field(metadata={"static": True})
    known: bool = field(metadata={"static": True})
    pairs: jax.Array
    late: Twofold
    early: Twofold
    scatter: Twofold
    recent: jax.Array
    seen: jax.Array

    @staticmethod
    def empty(
        dim: int, lags: tuple[int, ...], *, mean: ArrayLike | None = None, dtype: jnp.dtype | None = None
    ) -> "LaggedMoments":
        """Return the state before the first vector.

        Parameters
        ----------
        dim : int, >= 1
            d.
        lags : tuple of int, >= 0
            The lags, all different.
        mean : array, shape (d,), optional
            The true mean, if it is known; it is then never estimated.
        dtype : real floating dtype, optional
            That of `mean`, or the default one.

        Raises
        ------
        ValueError
            If a size or lag is not a whole number, lags repeat, or `mean` does not match.
        """
        check_whole("dim", dim, 1)
        chosen = tuple(lags)
        for lag in chosen:
            check_whole("lags", lag, 0)
        if len(set(chosen)) != len(chosen) or not chosen:
            raise ValueError(f"lags must be different from each other, and at least one, got {lags}")
        kind = real_dtype(dtype, mean)
        centre = jnp.zeros(dim, kind) if mean is None else as_vector(mean, "mean", dim, kind)
        middle = Twofold.of(jnp.broadcast_to(centre[None], (len(chosen), dim)))
        scatter = Twofold.of(jnp.zeros((len(chosen), dim, dim), kind))
        recent = jnp.zeros((max(1, *chosen, 1), dim), kind)
        pairs, seen = jnp.zeros(len(chosen), jnp.int32), jnp.zeros((), jnp.int32)
        return LaggedMoments(chosen, mean is not None, pairs, middle, middle, scatter, recent, seen)

    @property
    def dim(self) -> int:
        """Number of components, d."""
        return self.recent.shape[-1]

    @property
    def covariances(self) -> jax.Array:
        """The covariances (L, d, d), entry [l, i, j] between component i and an earlier j; NaN for too few pairs."""
        degrees = (self.pairs - (0 if self.known else 1))[..., None, None]
        total = self.scatter.value
        return jnp.where(degrees > 0, total / jnp.maximum(degrees, 1).astype(total.dtype), jnp.nan)

    @property
    def autocorrelation(self) -> jax.Array:
        """Autocorrelation (L, d) of each component; lag 0 has to be among the lags.

        Raises
        ------
        ValueError
            If it is not.
        """
        if 0 not in self.lags:
            raise ValueError(f"lags must contain 0 for the variance to divide by, got {self.lags}")
        own = jnp.diagonal(self.covariances, axis1=-2, axis2=-1)
        at = self.lags.index(0)
        return own / own[..., at : at + 1, :]

    @property
    def autocorrelation_time(self) -> jax.Array:
        r"""Integrated autocorrelation time (d,) in steps, by the initial positive sequence.

        .. math:: \tau = 1 + 2\sum_{k \ge 1} \rho_k = -1 + 2\sum_m (\rho_{2m} + \rho_{2m+1}),

        summed up to the first m whose term is not positive. n correlated states are worth :math:`n/\tau` independent
        ones.

        Raises
        ------
        ValueError
            If the lags are not 0, 1, 2, ..., with an even number of them, in some order.

        Notes
        -----
        Terms are positive, for the true correlations, where the chain is reversible (overdamped dynamics in
        equilibrium, not positions that ring). NaN where every term is positive: the lags do not reach far enough;
        about :math:`10\tau` do. The relative standard error is about :math:`\sqrt{2(2W+1)/n}` for a sum that ends at
        lag W. The end is random, and where noise keeps terms positive it comes too late: the estimate is on the safe
        side, by half of its standard error or so.

        References
        ----------
        C. Geyer, *Practical Markov chain Monte Carlo*, Statist. Sci. 7 (1992).
        """
        n = len(self.lags)
        if sorted(self.lags) != list(range(n)) or n % 2:
            raise ValueError(f"lags must be 0, 1, 2, ... with an even number of them, got {self.lags}")
        rho = jnp.take(self.autocorrelation, jnp.argsort(jnp.asarray(self.lags)), axis=-2)
        terms = rho[..., 0::2, :] + rho[..., 1::2, :]
        live = jnp.cumprod((terms > 0).astype(jnp.int32), axis=-2) == 1
        tau = -1 + 2 * jnp.sum(jnp.where(live, terms, 0), axis=-2)
        return jnp.where(live[..., -1, :] | jnp.any(jnp.isnan(terms), axis=-2), jnp.nan, tau)

    @property
    def effective_size(self) -> jax.Array:
        """Number of independent states (d,) that would give a mean as sure; NaN where the time is."""
        tau = self.autocorrelation_time
        return self.pairs[..., self.lags.index(0), None].astype(tau.dtype) / tau

    def add(self, x: ArrayLike) -> "LaggedMoments":
        """Return the state after one more vector, shape (d,)."""
        vector = as_vector(x, "x", self.dim, self.recent.dtype)
        lags = jnp.asarray(self.lags, jnp.int32)
        room = self.recent.shape[0]
        waiting = self.recent[(self.seen - lags) % room]
        partner = jnp.where((lags == 0)[:, None], vector[None], waiting)
        live = (self.seen >= lags).astype(jnp.int32)
        n = self.pairs + live
        share = (live.astype(vector.dtype) / jnp.maximum(n, 1).astype(vector.dtype))[:, None]
        after = jnp.where(live[:, None] == 1, self.late.before(vector[None]), 0)
        before = jnp.where(live[:, None] == 1, self.early.before(partner), 0)
        outer = after[:, :, None] * before[:, None, :]
        recent = self.recent.at[self.seen % room].set(vector)
        state = replace(self, pairs=n, recent=recent, seen=self.seen + 1)
        if self.known:
            return replace(state, scatter=self.scatter.plus(outer))
        late, early = self.late.plus(share * after), self.early.plus(share * before)
        return replace(state, late=late, early=early, scatter=self.scatter.plus((1 - share)[:, :, None] * outer))

    def extend(self, xs: ArrayLike) -> "LaggedMoments":
        """Return the state after a block of consecutive vectors, shape (n, d)."""
        rows = as_rows(xs, self.dim, self.recent.dtype)
        return jax.lax.scan(lambda state, x: (state.add(x), None), self, rows)[0]

    def merge(self, other: "LaggedMoments") -> "LaggedMoments":
        """Return the state that has seen the pairs of both.

        The streams count as separate: no pair has one member in each. What is added to the result goes on with `other`.

        Raises
        ------
        ValueError
            If sizes or lags differ, or only one of the means was given. Two different given means make the answer NaN.
        """
        for name in ("dim", "lags", "known"):
            check_alike(self, other, getattr(self, name) == getattr(other, name), name)
        after, before = other.late.minus(self.late), other.early.minus(self.early)
        total = self.scatter.plus(other.scatter.rest).plus(other.scatter.value)
        state = replace(self, pairs=self.pairs + other.pairs, recent=other.recent, seen=other.seen)
        if self.known:
            agreed = jnp.all(after == 0)
            return replace(state, scatter=jax.tree.map(lambda x: jnp.where(agreed, x, jnp.nan), total))
        share = shares(self.pairs, other.pairs, after.dtype)
        weight = weights(self.pairs, share)[:, None, None]
        scatter = total.plus(weight * after[:, :, None] * before[:, None, :])
        late, early = self.late.plus(share[:, None] * after), self.early.plus(share[:, None] * before)
        return replace(state, late=late, early=early, scatter=scatter)
