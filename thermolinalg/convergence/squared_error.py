r"""The law of a squared error, and its tail.

Errors here are sums of squares of independent Gaussians, weighted noncentral chi-squares,

.. math:: Q = \sum_i w_i (z_i + \delta_i)^2, \qquad z_i \sim \mathcal N(0, 1),

with :math:`w_i` the variance and :math:`\sqrt{w_i}\,\delta_i` the bias of component i. A *tail* is a function that says
whether Q, in units of the target, stays below one in a fraction `confidence` of runs. From sharp to crude:

================================  ===========================================================================
:func:`imhof`                     exact, by inversion of the characteristic function
:func:`four_moments`              a chi-square with the same four moments; right within half a per cent of time
:func:`laurent_massart`           an upper bound, exponential in the tail
:func:`markov`                    an upper bound from the mean alone
================================  ===========================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaincc, gammaln
from jax.scipy.stats import norm

from thermolinalg.laws import Scalar


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SquaredError:
    r"""Law of a squared error in units of a target, :math:`Q = \|\text{error}\|^2/\mathtt{target}^2`.

    Attributes
    ----------
    weights : Array, shape (n, k)
        Variances :math:`w_i`, for k errors side by side.
    counts : Array, shape (n, 1) or (n, k)
        Degrees of freedom that have this variance; not necessarily whole.
    shifts : Array, shape (n, k)
        Squared biases :math:`w_i \delta_i^2`, summed over those degrees of freedom.
    """

    weights: jax.Array
    counts: jax.Array
    shifts: jax.Array

    @property
    def cumulants(self) -> jax.Array:
        r""":math:`c_j = \sum_i w_i^j (n_i + j\delta_i^2)`, shape (4, k); the mean is :math:`c_1`, the variance
        :math:`2c_2`."""
        w, n, b = self.weights, self.counts, self.shifts
        return jnp.stack([jnp.sum(w ** (j - 1) * (n * w + j * b), 0) for j in (1, 2, 3, 4)])

    @property
    def largest(self) -> jax.Array:
        r""":math:`\max_i w_i`, shape (k,)."""
        return jnp.max(self.weights, 0)

    def over(self, scale: jax.Array) -> "SquaredError":
        """The same error in units of a target `scale` times as large, shape (k,) or ()."""
        unit = jnp.broadcast_to(1 / scale / scale, self.weights.shape[1:])[None]
        return replace(self, weights=self.weights * unit, shifts=self.shifts * unit)

    def shifted(self, square: Scalar) -> "SquaredError":
        """The error with one more bias, of this square in units of the target, in a component without noise."""
        nothing = jnp.zeros((1, *self.weights.shape[1:]), self.weights.dtype)
        more = jnp.broadcast_to(jnp.asarray(square).astype(nothing.dtype), nothing.shape)
        return SquaredError(
            jnp.concatenate([self.weights, nothing]),
            jnp.concatenate([self.counts, jnp.zeros_like(self.counts[:1])]),
            jnp.concatenate([self.shifts, more]),
        )

    def averaged(self, runs: Scalar) -> "SquaredError":
        """The error of the mean of independent runs: their noise averages out, their bias does not."""
        return replace(self, weights=self.weights / jnp.asarray(runs).astype(self.weights.dtype))

    def exceedance(self) -> jax.Array:
        r"""Probability that the error exceeds the target, by a chi-square that matches four moments.

        Notes
        -----
        Not a bound, and meant for the upper tail: the time at which it takes a value of 0.05 or so is right within half
        a per cent, but at 0.95 it may be off by several hundredths.

        References
        ----------
        Liu, Tang and Zhang, *A new chi-square approximation to the distribution of non-negative definite quadratic
        forms in non-central normal variables*, Computational Statistics & Data Analysis 53 (2009).
        """
        return self._unless_certain(chi_square_tail)

    def exceedance_fast(self) -> jax.Array:
        """As :meth:`exceedance`, within a few thousandths and without special functions; good enough to search with."""
        return self._unless_certain(sankaran_tail)

    def bound(self, confidence: Scalar) -> jax.Array:
        r"""Upper bound on the quantile of Q: :math:`c_1 + 2\sqrt{Lc_2} + 2 w_\max L`, :math:`L = -\ln(1 -
        \mathtt{confidence})`.

        References
        ----------
        Laurent and Massart, *Adaptive estimation of a quadratic functional by model selection*, Annals of Statistics 28
        (2000); noncentral form.
        """
        cumulants = self.cumulants
        level = -jnp.log1p(-jnp.asarray(confidence).astype(cumulants.dtype))
        return cumulants[0] + 2 * jnp.sqrt(level * cumulants[1]) + 2 * self.largest * level

    def _unless_certain(self, tail: Callable[..., jax.Array]) -> jax.Array:
        cumulants = self.cumulants
        certain = cumulants[1] <= jnp.finfo(cumulants.dtype).tiny
        surely = (cumulants[0] > 1).astype(cumulants.dtype)
        return jnp.where(certain, surely, tail(*_match(jnp.where(certain[None], 1.0, cumulants))))


Tail = Callable[[SquaredError, Scalar], jax.Array]
"""From a squared error (k of them) and a confidence to whether each keeps to its target that often, shape (k,)."""


def four_moments(error: SquaredError, confidence: Scalar) -> jax.Array:
    """Whether the error keeps to its target, by :meth:`SquaredError.exceedance`: close at 0.9 and above, no bound."""
    return error.exceedance() <= _level(error, confidence)


def laurent_massart(error: SquaredError, confidence: Scalar) -> jax.Array:
    """Whether the error surely keeps to its target, by :meth:`SquaredError.bound`: a guarantee."""
    return error.bound(confidence) <= 1


def markov(error: SquaredError, confidence: Scalar) -> jax.Array:
    """Whether the error surely keeps to its target, by its mean: a guarantee that takes three to ten times too long."""
    return error.cumulants[0] <= _level(error, confidence)


def nearly(error: SquaredError, confidence: Scalar) -> jax.Array:
    """As :func:`four_moments`, a few thousandths off; to search with."""
    return error.exceedance_fast() <= _level(error, confidence)


def _level(error: SquaredError, confidence: Scalar) -> jax.Array:
    return 1 - jnp.asarray(confidence).astype(error.weights.dtype)


def _match(cumulants: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Quantile, degrees of freedom and noncentrality of the matching chi-square."""
    c1, c2, c3, c4 = cumulants
    skewness, kurtosis = c3 / c2**1.5, c4 / c2**2
    excess = skewness**2 - kurtosis
    shifted = excess > 0
    scale = 1 / (skewness - jnp.where(shifted, jnp.sqrt(jnp.where(shifted, excess, 1.0)), 0.0))
    noncentrality = jnp.where(shifted, jnp.maximum(skewness * scale**3 - scale**2, 0.0), 0.0)
    degrees = scale**2 - 2 * noncentrality
    u = (1 - c1) / jnp.sqrt(c2) * scale + degrees + noncentrality
    return jnp.maximum(u, 0.0), degrees, noncentrality


def sankaran_tail(x: jax.Array, degrees: jax.Array, noncentrality: jax.Array) -> jax.Array:
    r"""Tail :math:`P(\chi'^2 > x)` of a noncentral chi-square by a power transformation to a normal law.

    References
    ----------
    Sankaran, *Approximations to the non-central chi-square distribution*, Biometrika 50 (1963).
    """
    mean = degrees + noncentrality
    spread = degrees + 2 * noncentrality
    h = 1 - 2 / 3 * mean * (degrees + 3 * noncentrality) / spread**2
    p = spread / mean**2
    m = (h - 1) * (1 - 3 * h)
    centre = 1 + h * p * (h - 1 - (2 - h) * m * p / 2)
    tail = norm.sf(((x / mean) ** h - centre) / (h * jnp.sqrt(2 * p) * (1 + m * p / 2)))
    # Far below one degree of freedom the centre is negative, and the normal law no guide at zero.
    return jnp.where(x > 0, tail, 1.0)


def chi_square_tail(x: jax.Array, degrees: jax.Array, noncentrality: jax.Array) -> jax.Array:
    r"""Tail :math:`P(\chi'^2 > x)` of a noncentral chi-square as a Poisson mixture of central ones.

    Notes
    -----
    The sum has 256 terms, spread over eight standard deviations of the Poisson law when that is wider: an integral of a
    smooth function then, on equidistant nodes. Beyond a mean of 5000 the power transformation is exact to 1e-5.
    """
    half = noncentrality / 2
    width = jnp.sqrt(half)
    step = jnp.maximum(1.0, width / 16)
    first = jnp.maximum(jnp.floor(half - 8 * width - 8), 0.0)
    j = first[None] + step[None] * jnp.arange(256, dtype=x.dtype).reshape((256,) + (1,) * x.ndim)
    log_weight = j * jnp.log(jnp.maximum(half, jnp.finfo(x.dtype).tiny))[None] - half[None] - gammaln(j + 1)
    modest = degrees + noncentrality < 5000
    small = jnp.where(modest, x / 2, 1.0)[None]
    tails = gammaincc(jnp.where(modest, degrees / 2, 1.0)[None] + jnp.where(modest[None], j, 0.0), small)
    mixture = jnp.sum(step[None] * jnp.exp(log_weight) * tails, 0)
    return jnp.where(modest, mixture, sankaran_tail(x, degrees, noncentrality))
