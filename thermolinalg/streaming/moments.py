"""Mean and covariance in one pass."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.operators import as_inexact
from thermolinalg.ranges import check_whole
from thermolinalg.streaming.twofold import Twofold


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    r"""Running mean and covariance of the vectors seen so far.

    .. math:: m_n = m_{n-1} + \tfrac1n (x_n - m_{n-1}), \qquad
        S_n = S_{n-1} + \tfrac{n-1}{n} (x_n - m_{n-1})(x_n - m_{n-1})^\top

    Begin with :meth:`empty`. Every method returns a new state of the same shapes, so that a state can be the carry of
    ``lax.scan``, under ``jit`` and ``vmap`` too.

    Attributes
    ----------
    count : Array of int32, shape ()
        Vectors seen; at most 2^31 - 1.
    centre : Twofold, shape (d,)
        The mean, or the mean that was given.
    scatter : Twofold, shape (d, d)
        Sum of the outer products of deviations.
    known : bool, static
        Whether the mean was given.

    Notes
    -----
    Memory is 2 d^2 numbers. Sums are kept with twice the digits of the dtype: the rounding error of mean and covariance
    is that of the deviations, does not grow with the length of the stream, and does not depend on how large the mean
    is. Where states come in blocks, :meth:`extend` is many times faster than one :meth:`add` for each.

    For independent vectors both estimates are unbiased. For correlated ones with the integrated autocorrelation time
    :math:`\tau` (1 for independent ones), their variance is about :math:`\tau` times that of n independent ones, with
    the :math:`\tau` of the products for the covariance; a covariance about the estimated mean is too small by about
    the covariance of that mean, :math:`\tau\Sigma/n`. One about a given mean has no such bias.

    References
    ----------
    T. Chan, G. Golub, R. LeVeque, *Algorithms for computing the sample variance*, Am. Stat. 37 (1983).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> xs = jax.random.normal(jax.random.key(0), (1000, 2)) + 5
    >>> state, _ = jax.lax.scan(lambda state, x: (state.add(x), None), Moments.empty(2, dtype=xs.dtype), xs)
    >>> bool(jnp.allclose(state.covariance, jnp.cov(xs.T), atol=1e-5))
    True
    >>> nothing = Moments.empty(2, dtype=xs.dtype)
    >>> both = nothing.extend(xs[:300]).merge(nothing.extend(xs[300:]))
    >>> bool(jnp.allclose(both.mean, state.mean))
    True
    """

    count: jax.Array
    centre: Twofold
    scatter: Twofold
    known: bool = field(metadata={"static": True})

    @staticmethod
    def empty(dim: int, *, mean: ArrayLike | None = None, dtype: jnp.dtype | None = None) -> "Moments":
        """Return the state before the first vector.

        Parameters
        ----------
        dim : int, >= 1
            d.
        mean : array, shape (d,), optional
            The true mean, if it is known; it is then taken as it is and never estimated.
        dtype : real floating dtype, optional
            That of `mean`, or the default one.

        Raises
        ------
        ValueError
            If `dim` is not a whole number, `dtype` is not real and floating, or `mean` does not match.
        """
        check_whole("dim", dim, 1)
        kind = real_dtype(dtype, mean)
        centre = jnp.zeros(dim, kind) if mean is None else as_vector(mean, "mean", dim, kind)
        nothing = Twofold.of(jnp.zeros((dim, dim), kind))
        return Moments(jnp.zeros((), jnp.int32), Twofold.of(centre), nothing, mean is not None)

    @property
    def dim(self) -> int:
        """Number of components, d."""
        return self.centre.value.shape[-1]

    @property
    def mean(self) -> jax.Array:
        """Mean (d,), or the given one; NaN before the first vector."""
        seen = self.count > (-1 if self.known else 0)
        return jnp.where(seen[..., None], self.centre.value, jnp.nan)

    @property
    def covariance(self) -> jax.Array:
        """Covariance (d, d): the scatter over n - 1, or over n where the mean was given; NaN for too few vectors."""
        degrees = (self.count - (0 if self.known else 1))[..., None, None]
        total = self.scatter.value
        return jnp.where(degrees > 0, total / jnp.maximum(degrees, 1).astype(total.dtype), jnp.nan)

    def add(self, x: ArrayLike) -> "Moments":
        """Return the state after one more vector, shape (d,)."""
        vector = as_vector(x, "x", self.dim, self.centre.value.dtype)
        n = self.count + 1
        share = 1 / n.astype(vector.dtype)
        away = self.centre.before(vector)
        outer = away[:, None] * away[None]
        if self.known:
            return replace(self, count=n, scatter=self.scatter.plus(outer))
        return Moments(n, self.centre.plus(share * away), self.scatter.plus((1 - share) * outer), False)

    def extend(self, xs: ArrayLike) -> "Moments":
        """Return the state after a block of vectors, shape (n, d), by one matrix product."""
        block = as_rows(xs, self.dim, self.centre.value.dtype)
        if block.shape[0] == 0:
            return self
        near = self.centre if self.known else Twofold.of(block[0])
        away = (block - near.value[None]) - near.rest[None]
        shift = jnp.zeros_like(near.value) if self.known else jnp.mean(away, axis=0)
        left = away - shift[None]
        scatter = Twofold.of(jnp.matmul(left.T, left, precision="highest"))
        count = jnp.asarray(block.shape[0], jnp.int32)
        return self.merge(Moments(count, near.plus(shift), scatter, self.known))

    def merge(self, other: "Moments") -> "Moments":
        """Return the state that has seen what both have; the order does not matter but for rounding.

        Raises
        ------
        ValueError
            If the sizes differ or only one of the means was given. Two different given means make the answer NaN.
        """
        check_alike(self, other, self.dim == other.dim, "dim")
        check_alike(self, other, self.known == other.known, "known")
        n = self.count + other.count
        gap = other.centre.minus(self.centre)
        total = self.scatter.plus(other.scatter.rest).plus(other.scatter.value)
        if self.known:
            agreed = jnp.all(gap == 0)
            return Moments(n, self.centre, jax.tree.map(lambda x: jnp.where(agreed, x, jnp.nan), total), True)
        share = shares(self.count, other.count, gap.dtype)
        between = weights(self.count, share) * gap[:, None] * gap[None]
        return Moments(n, self.centre.plus(share * gap), total.plus(between), False)


def shares(ours: jax.Array, theirs: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Fraction of a merged count that is theirs; 0 if there is nothing at all."""
    return theirs.astype(dtype) / jnp.maximum(ours + theirs, 1).astype(dtype)


def weights(ours: jax.Array, share: jax.Array) -> jax.Array:
    """Weight of the squared gap between two means in the scatter about the common one."""
    return ours.astype(share.dtype) * share


def real_dtype(dtype: jnp.dtype | None, like: ArrayLike | None = None) -> jnp.dtype:
    """Return the dtype to work in: the given one, that of an array, or the default."""
    if dtype is None:
        dtype = jnp.zeros(()).dtype if like is None else as_inexact(like, "mean").dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be real and floating, got {dtype}; see real and imaginary parts as 2 d numbers")
    return jnp.dtype(dtype)


def as_vector(x: ArrayLike, name: str, dim: int, dtype: jnp.dtype) -> jax.Array:
    """Return `x` as an array (d,) of this dtype, or refuse it by name."""
    vector = as_inexact(x, name)
    if vector.shape != (dim,) or jnp.iscomplexobj(vector):
        raise ValueError(f"{name} must be real of shape ({dim},), got {vector.dtype} of shape {vector.shape}")
    return vector.astype(dtype)


def as_rows(xs: ArrayLike, dim: int, dtype: jnp.dtype) -> jax.Array:
    """Return `xs` as an array (n, d) of this dtype, or refuse it."""
    block = as_inexact(xs, "xs")
    if block.ndim != 2 or block.shape[1] != dim or jnp.iscomplexobj(block):
        raise ValueError(f"xs must be real of shape (n, {dim}), got {block.dtype} of shape {block.shape}")
    return block.astype(dtype)


def check_alike(ours: object, theirs: object, alike: bool, name: str) -> None:
    """Raise a ``ValueError`` if two states cannot be merged because of what `name` is in each."""
    if not alike:
        found = f"{getattr(ours, name)} and {getattr(theirs, name)}"
        raise ValueError(f"other must have the same {name} to be merged, got {found}; begin both from one empty state")
