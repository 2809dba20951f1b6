r"""Free-energy differences: how a log determinant is read from the samples of a device.

The oscillators start uncoupled, with one stiffness a, and are coupled along the path :math:`H(s) = aI + s(A - aI)`.
The normalisation of the stationary law at each s is :math:`Z_s \propto |H(s)|^{-1/2}`, so that

.. math:: \ln\det A = d\ln a + 2\,\Delta f, \qquad \Delta f = -\ln(Z_1/Z_0).

All three estimators read nothing but the energy :math:`\tfrac\beta2 x^*(A - aI)x` of samples x, from which the
temperature drops out. H(s) has the eigenvectors of A, so energies are drawn from their laws, as sums of independent
chi-squared variables, and no vector is ever formed.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.acceptance import acceptance_ratio
from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.ranges import check_whole
from thermolinalg.solution import Status

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of quadrature nodes to choose from."""

_BLOCK = 2**16
"""Random numbers drawn at once."""

_OVERLAP = 20.0
"""Effective samples that two neighbouring stages must share for the error of their difference to be known."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Modes:
    r"""The spectrum of A against the stiffness a of the start.

    Attributes
    ----------
    excess : Array, shape (n,)
        :math:`r_i - 1`, where :math:`r_i = \lambda_i/a`.
    counts : Array, shape (n,), >= 0
        Real degrees of freedom of each eigenvalue; a matrix-free survey gives fractions.
    low, high : Array, shape ()
        Smallest and largest excess.
    degrees : int or None
        The count of every mode where all have the same whole one.
    """

    excess: jax.Array
    counts: jax.Array
    low: jax.Array
    high: jax.Array
    degrees: int | None = field(default=None, metadata={"static": True})

    @property
    def logarithms(self) -> jax.Array:
        r""":math:`\ln r_i`, shape (n,)."""
        return jnp.log1p(self.excess)

    def slope(self, s: jax.Array) -> jax.Array:
        r""":math:`d \ln k_i/ds` with :math:`k_i = 1 + s(r_i - 1)`: relative change of the stiffness along the path."""
        return self.excess / (1 + s * self.excess)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimate:
    r"""What an estimator returns.

    Attributes
    ----------
    difference : Array, shape ()
        Estimate of :math:`2\Delta f = \sum_i n_i \ln r_i`, with n the counts.
    variance, bias : Array, shape ()
        Its thermal variance, and the systematic error that can be predicted.
    positions, samples : Array, shape (p,)
        Where on the path samples are taken, and how many; positions without samples are padding.
    status : Array
        Flags of :class:`thermolinalg.Status`.
    """

    difference: jax.Array
    variance: jax.Array
    bias: jax.Array
    positions: jax.Array
    samples: jax.Array
    status: jax.Array


class Estimator(Protocol):
    """From modes, a key and a number of samples to a free-energy difference."""

    def check(self, low: Scalar, high: Scalar, reference: Scalar, samples: int) -> None:
        """Raise a ``ValueError`` if extreme eigenvalues and reference, where known, or samples do not serve."""

    def __call__(self, modes: Modes, key: jax.Array, samples: int) -> Estimate:
        """Draw and estimate."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ThermodynamicIntegration:
    r"""Average the slope of the energy at Gauss-Legendre nodes, and integrate.

    .. math:: 2\Delta f = \beta\int_0^1 \langle x^*(A - aI)x\rangle_s\,ds \approx \sum_k w_k \bar y_k

    Parameters
    ----------
    nodes : int, >= 1, optional
        By default the fewest of 1, 2, 3, 4, 6, 8, 12, ..., 128 that keep the bias of the quadrature below a tenth of
        the thermal standard deviation, but no more than there are samples.

    Notes
    -----
    With :math:`D_{ki} = (r_i - 1)/(1 + s_k(r_i - 1))` and :math:`n_k` samples at node k the variance is
    :math:`\sum_k w_k^2 (2/n_k)\sum_i D_{ki}^2`. The bias of one mode is at most about
    :math:`2\pi((\sqrt r + 1)/(\sqrt r - 1))^{-(2K+1)}` for K nodes, with r the larger of :math:`r_i` and
    :math:`1/r_i`. 128 nodes are enough up to r of about 1000, condition number 1e6; beyond, the bias is part of
    the standard error like everywhere. The average over the samples of a node is drawn at once: the cost does not
    depend on their number.
    """

    nodes: int | None = field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.nodes is not None:
            check_whole("nodes", self.nodes, 1)

    def check(self, low: Scalar, high: Scalar, reference: Scalar, samples: int) -> None:
        if self.nodes is not None and samples < self.nodes:
            raise ValueError(
                f"samples must be at least one for each of the {self.nodes} quadrature nodes, got {samples}; take more "
                "samples or fewer nodes"
            )

    def __call__(self, modes: Modes, key: jax.Array, samples: int) -> Estimate:
        real = modes.excess.dtype
        count, positions, weights, share = self.rule(modes, samples)
        present = modes.counts > 0

        def node(k, carry):
            total, variance, integral = carry
            n, slope = share[k].astype(real), modes.slope(positions[k])
            shape = jnp.where(present, modes.counts * n / 2, 1)
            mean = jnp.where(present, jax.random.gamma(jax.random.fold_in(key, k), shape, dtype=real) * 2 / n, 0)
            total = total + weights[k] * jnp.sum(slope * mean)
            variance = variance + weights[k] ** 2 * 2 * jnp.sum(modes.counts * slope**2) / n
            return total, variance, integral + weights[k] * slope

        zero = jnp.zeros((), real)
        total, variance, integral = jax.lax.fori_loop(0, count, node, (zero, zero, jnp.zeros_like(modes.excess)))
        bias = jnp.sum(modes.counts * (integral - modes.logarithms))
        return Estimate(total, variance, bias, positions, share, jnp.array(0, jnp.int32))

    def rule(self, modes: Modes, samples: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Number of nodes, and their positions, weights and samples, padded."""
        sizes = tuple(size for size in _SIZES if size <= samples) if self.nodes is None else (self.nodes,)
        count, positions, weights = self._rule(modes, samples, sizes)
        index = jnp.arange(positions.size, dtype=count.dtype)
        share = jnp.where(index < count, samples // count + (index < samples % count).astype(count.dtype), 0)
        return count, positions, weights, share

    def predict(self, modes: Modes, samples: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Variance and bias that this many samples will have, and positions and their shares of the samples.

        As the estimate itself says, but without drawing anything; `samples` need not be whole or known.
        """
        count, positions, weights = self._rule(modes, samples, _SIZES if self.nodes is None else (self.nodes,))
        used = jnp.arange(positions.size, dtype=count.dtype) < count
        shares = jnp.where(used, 1 / count.astype(positions.dtype), 0.0)

        def node(k, carry):
            variance, integral = carry
            slope = modes.slope(positions[k])
            variance = variance + weights[k] ** 2 * 2 * jnp.sum(modes.counts * slope**2) / (shares[k] * samples)
            return variance, integral + weights[k] * slope

        begin = jnp.zeros_like(samples), jnp.zeros_like(modes.excess)
        variance, integral = jax.lax.fori_loop(0, count, node, begin)
        return variance, jnp.sum(modes.counts * (integral - modes.logarithms)), positions, shares

    def _rule(self, modes: Modes, samples: Scalar, sizes: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Number of nodes, and their positions and weights, padded."""
        table = [jnp.asarray(x) for x in _rules(sizes)]
        row = _row(modes, samples, sizes) if self.nodes is None else jnp.array(0)
        count = jnp.asarray(np.array(sizes, np.int32))[row]
        positions, weights = (x[row].astype(modes.excess.dtype) for x in table)
        return count, positions, weights


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BennettRatio:
    r"""Add up stages, each by the acceptance ratio of Bennett.

    With reduced work :math:`w = \beta(U_1 - U_0)` of n forward samples of the one end of a stage and n reverse samples
    of the other, its :math:`\Delta f` solves

    .. math:: \sum_{\rm fwd}\sigma(\Delta f - w) = \sum_{\rm rev}\sigma(w - \Delta f),
        \qquad \sigma(x) = 1/(1 + e^{-x}).

    Parameters
    ----------
    stages : int, >= 1
        Their ends lie so that the stiffest and the softest mode together change by the same factor in each.

    Notes
    -----
    There is no quadrature bias. The variance of a stage is that of the two sums over the square of their slope: at
    the solution both means are C, the slope of each side adds up to C too by detailed balance, and hence
    :math:`\operatorname{Var}\Delta f \to (1/C - 2)/n`. Here the scatter of the summands and their slope are
    estimated from the samples. The bias is of the order of the variance. The ends of a stage must overlap: nC below 20
    in any sets ``FEW_SAMPLES``. The cost is one random number for each sample and eigenvalue.

    References
    ----------
    Bennett, *Efficient estimation of free energy differences from Monte Carlo data*, J. Comput. Phys. 22 (1976).
    """

    stages: int = field(default=8, metadata={"static": True})

    def __post_init__(self) -> None:
        check_whole("stages", self.stages, 1)

    def check(self, low: Scalar, high: Scalar, reference: Scalar, samples: int) -> None:
        if samples < 4 * self.stages:
            raise ValueError(
                f"samples must be at least {4 * self.stages}, two for each end of {self.stages} stages, got {samples}; "
                "take more samples or fewer stages"
            )

    def __call__(self, modes: Modes, key: jax.Array, samples: int) -> Estimate:
        n, path = samples // (2 * self.stages), _path(modes, self.stages)

        def stage(inputs):
            key, begin, end = inputs
            forward, reverse = jax.random.split(key)
            rise = (end - begin) * modes.slope(begin) / 2
            fall = (end - begin) * modes.slope(end) / 2
            return acceptance_ratio(_energies(modes, forward, rise, n), _energies(modes, reverse, fall, n))

        keys = jax.random.split(key, self.stages)
        differences, variances, overlaps = jax.lax.map(stage, (keys, path[:-1], path[1:]))
        taken = np.full(self.stages + 1, 2 * n, np.int32)
        taken[[0, -1]] = n
        thin = jnp.any(n * overlaps < _OVERLAP)
        status = jnp.where(thin, int(Status.FEW_SAMPLES), 0).astype(jnp.int32)
        total, variance = 2 * jnp.sum(differences), 4 * jnp.sum(variances)
        return Estimate(total, variance, jnp.zeros_like(total), path, jnp.asarray(taken), status)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Jarzynski:
    r"""Average the exponential of the work of coupling all oscillators at once.

    .. math:: e^{-\Delta f} = \langle e^{-w}\rangle_0, \qquad
        w = \tfrac12\sum_i (r_i - 1)\chi^2_{n_i}, \qquad
        \frac{\langle e^{-2w}\rangle}{\langle e^{-w}\rangle^2} = \prod_i\Bigl(\frac{r_i}{\sqrt{2r_i - 1}}\Bigr)^{n_i}

    Notes
    -----
    The variance is infinite as soon as one :math:`r_i \le \tfrac12`: the reference must be below twice the smallest
    eigenvalue. Where it is finite it grows exponentially with the number of unknowns. The standard error is the
    closed form to second order in V = (product - 1)/n, bias :math:`V/2` of the logarithm included; from V = 1/20 on
    it is no more than a warning, and ``FEW_SAMPLES`` is set.

    References
    ----------
    Jarzynski, *Nonequilibrium equality for free energy differences*, Phys. Rev. Lett. 78 (1997).
    """

    def check(self, low: Scalar, high: Scalar, reference: Scalar, samples: int) -> None:
        if is_concrete(low, reference) and not float(low) > float(reference) / 2:
            raise ValueError(
                f"the one-step exponential average has infinite variance at reference = {float(reference):.3g}; it "
                f"needs reference < {2 * float(low):.3g}, twice the smallest eigenvalue. Give such a reference, or use "
                "BennettRatio or ThermodynamicIntegration"
            )

    def __call__(self, modes: Modes, key: jax.Array, samples: int) -> Estimate:
        work = _energies(modes, key, modes.excess / 2, samples)
        difference = -2 * (jax.nn.logsumexp(-work) - jnp.log(jnp.asarray(samples, work.dtype)))
        finite = modes.low > -0.5
        present = (modes.counts > 0) & finite
        # r/sqrt(2r - 1) is sqrt(1 + (r-1)^2/(2r-1)), which does not cancel at r = 1.
        gain = jnp.where(present, modes.excess**2 / jnp.where(present, 1 + 2 * modes.excess, 1), 0)
        second = jnp.sum(modes.counts * jnp.log1p(gain)) / 2
        spread = jnp.expm1(second) / samples
        variance = 4 * jnp.where(finite, spread, jnp.inf)
        flag = jnp.where(finite, jnp.where(spread < 1 / _OVERLAP, 0, int(Status.FEW_SAMPLES)), 0)
        flag = jnp.where(finite, flag, int(Status.INFINITE_VARIANCE)).astype(jnp.int32)
        start, taken = jnp.zeros(1, work.dtype), jnp.full(1, samples, jnp.int32)
        return Estimate(difference, variance, variance / 4, start, taken, flag)


@cache
def _rules(sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Positions and weights on (0, 1), one row for each size, padded by nodes of no weight."""
    positions, weights = np.full((len(sizes), max(sizes)), 0.5), np.zeros((len(sizes), max(sizes)))
    for row, size in enumerate(sizes):
        x, w = np.polynomial.legendre.leggauss(size)
        positions[row, :size], weights[row, :size] = (1 + x) / 2, w / 2
    return positions, weights


def _row(modes: Modes, samples: Scalar, sizes: tuple[int, ...]) -> jax.Array:
    """Row of the fewest nodes whose bias is bounded by a tenth of the standard deviation."""
    real = modes.excess.dtype
    positions, weights = (jnp.asarray(x[0], real) for x in _rules((8,)))
    slopes = jax.vmap(modes.slope)(positions)
    variance = jnp.sum(weights**2 * 16 / samples * jnp.sum(modes.counts[None] * slopes**2, 1))
    each = 0.1 * jnp.sqrt(variance) / jnp.sum(modes.counts)
    widest = jnp.maximum(1 + modes.high, 1 / (1 + modes.low))
    needed = (jnp.log(2 * jnp.pi / each) / (2 * jnp.arctanh(1 / jnp.sqrt(widest))) - 1) / 2
    # Not a number: all modes are equal to the reference, or not positive.
    needed = jnp.ceil(jnp.nan_to_num(needed, nan=1.0, posinf=1e6, neginf=1.0)).astype(jnp.int32)
    return jnp.minimum(jnp.searchsorted(jnp.asarray(np.array(sizes, np.int32)), needed), len(sizes) - 1)


def _path(modes: Modes, stages: int) -> jax.Array:
    r"""Ends of the stages on [0, 1]: equal steps of :math:`\ln(k_\max/k_\min)`, which falls or rises at either end."""
    t = jnp.asarray(np.linspace(0, 1, stages + 1), modes.excess.dtype)
    high, low = jnp.maximum(modes.high, 0), jnp.minimum(modes.low, 0)
    width = jnp.log1p(high) - jnp.log1p(low)
    gained = jnp.expm1(t * width)
    scale = high - (1 + gained) * low
    tiny = jnp.sqrt(jnp.finfo(t.dtype).eps)
    inside = jnp.where(scale > tiny, gained / jnp.where(scale > tiny, scale, 1), t)
    return jnp.clip(inside.at[-1].set(1), 0, 1)


def _energies(modes: Modes, key: jax.Array, weights: jax.Array, n: int) -> jax.Array:
    r"""Draw n sums :math:`\sum_i w_i \chi^2_{n_i}`, block by block."""
    degrees, d, real = modes.degrees, weights.size, weights.dtype
    size = min(n, max(1, _BLOCK // (d * (degrees or 1))))

    def block(key):
        if degrees is not None:
            squares = jnp.sum(jax.random.normal(key, (degrees, size, d), real) ** 2, 0)
        else:
            present = modes.counts > 0
            shape = jnp.broadcast_to(jnp.where(present, modes.counts / 2, 1)[None], (size, d))
            squares = jnp.where(present[None], 2 * jax.random.gamma(key, shape, dtype=real), 0)
        return squares @ weights

    return jax.lax.map(block, jax.random.split(key, -(-n // size))).ravel()[:n]
