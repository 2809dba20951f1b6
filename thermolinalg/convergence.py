r"""How large the error of a run is, and with what probability.

The time average is Gaussian, so the squared error of a solve is a weighted noncentral chi-square,

.. math:: \|\bar x - x^*\|^2 = \sum_i w_i (z_i + \delta_i)^2, \qquad z_i \sim \mathcal N(0, 1),

with :math:`w_i` the variance and :math:`\sqrt{w_i}\,\delta_i` the bias of mode i. Its cumulants are sums over the
spectrum, and its tail follows from the first four of them.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaincc, gammaln
from jax.scipy.stats import norm

from thermolinalg.covariances import overlap, shortfall
from thermolinalg.laws import Scalar
from thermolinalg.simulators import Machine, Schedule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """What the error of a solve depends on: the spectrum, and how the answer lies in it.

    Attributes
    ----------
    nodes, counts : Array, shape (n,)
        Eigenvalues, and how many degrees of freedom stand for each.
    pull : Array, shape (n, k)
        Squared components of answer minus start, relative to the squared length of the answer.
    length : Array, shape (k,)
        Length of the answer.
    """

    nodes: jax.Array
    counts: jax.Array
    pull: jax.Array
    length: jax.Array

    @classmethod
    def of(cls, machine: Machine, force: jax.Array, pull: jax.Array) -> "Problem":
        """Return the problem of a factored operator, a force (d, k) and the force felt at the start."""
        k = force.shape[1]
        nodes, counts, weights = machine.operator.measure(jnp.concatenate([force, pull], 1))
        # Squares are taken relative to the largest component, so that no square of a large number is formed.
        distances = jnp.sqrt(weights) / nodes[:, None]
        answer, rest = distances[:, :k], distances[:, k:]
        largest = jnp.max(answer, 0)
        unit = jnp.where(largest > 0, largest, 1.0)
        relative = jnp.sqrt(jnp.sum((answer / unit[None]) ** 2, 0))
        scale = jnp.where(largest > 0, unit * relative, jnp.inf)
        return cls(nodes, counts, (rest / scale[None]) ** 2, largest * relative)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SquaredError:
    r"""Law of a squared error in units of a target, :math:`Q = \|\bar x - x^*\|^2/\mathtt{target}^2`.

    Attributes
    ----------
    cumulants : Array, shape (4, k)
        :math:`c_j = \sum_i w_i^j (1 + j\delta_i^2)`; the mean is :math:`c_1`, the variance :math:`2 c_2`.
    largest : Array, shape (k,)
        :math:`\max_i w_i`.
    """

    cumulants: jax.Array
    largest: jax.Array

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
        return jnp.where(self._certain(), self._surely(), chi_square_tail(*self._match()))

    def exceedance_fast(self) -> jax.Array:
        """As :meth:`exceedance`, within a few thousandths and without special functions; good enough to search with."""
        return jnp.where(self._certain(), self._surely(), sankaran_tail(*self._match()))

    def bound(self, confidence: Scalar) -> jax.Array:
        r"""Upper bound on the quantile of Q: :math:`c_1 + 2\sqrt{Lc_2} + 2 w_\max L`, :math:`L = -\ln(1 -
        \mathtt{confidence})`.

        References
        ----------
        Laurent and Massart, *Adaptive estimation of a quadratic functional by model selection*, Annals of Statistics 28
        (2000); noncentral form.
        """
        level = -jnp.log1p(-jnp.asarray(confidence).astype(self.cumulants.dtype))
        return self.cumulants[0] + 2 * jnp.sqrt(level * self.cumulants[1]) + 2 * self.largest * level

    def _certain(self):
        return self.cumulants[1] <= jnp.finfo(self.cumulants.dtype).tiny

    def _surely(self):
        return (self.cumulants[0] > 1).astype(self.cumulants.dtype)

    def _match(self):
        """Quantile, degrees of freedom and noncentrality of the matching chi-square."""
        c1, c2, c3, c4 = jnp.where(self._certain()[None], 1.0, self.cumulants)
        skewness, kurtosis = c3 / c2**1.5, c4 / c2**2
        excess = skewness**2 - kurtosis
        shifted = excess > 0
        scale = 1 / (skewness - jnp.where(shifted, jnp.sqrt(jnp.where(shifted, excess, 1.0)), 0.0))
        noncentrality = jnp.where(shifted, jnp.maximum(skewness * scale**3 - scale**2, 0.0), 0.0)
        degrees = scale**2 - 2 * noncentrality
        u = (1 - c1) / jnp.sqrt(c2) * scale + degrees + noncentrality
        return jnp.maximum(u, 0.0), degrees, noncentrality


def squared_error(machine: Machine, problem: Problem, schedule: Schedule, rtol: Scalar) -> SquaredError:
    r"""Law of the squared error of a solve, in units of ``(rtol * length of the answer)**2``, in the 2-norm.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.device import Device
    >>> machine = Device().program(jnp.eye(3)).machine
    >>> force = jnp.full((3, 1), 10.0)
    >>> error = squared_error(machine, Problem.of(machine, force, force), Schedule(10.0, 200.0), rtol=0.01)
    >>> bool(jnp.abs(error.cumulants[0, 0] - 1.0) < 0.02)        # 2 * 3 / 200 = (0.01 * length)**2
    True
    """
    target = jnp.asarray(rtol).astype(problem.length.dtype) * problem.length
    live = target > 0
    safe = jnp.where(live, target, 1.0)
    unit = jnp.where(live, 1 / safe / safe, 0.0)
    law = machine.law(problem.nodes, schedule)
    weights = law.covariance[0, 0][:, None] * unit[None]
    bias = problem.pull * (law.start[0, 0] / jnp.asarray(rtol).astype(target.dtype))[:, None] ** 2
    counts = problem.counts[:, None]
    cumulants = [jnp.sum(weights ** (j - 1) * (counts * weights + j * bias), 0) for j in (1, 2, 3, 4)]
    return SquaredError(jnp.stack(cumulants), jnp.max(weights, 0))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Covariance:
    r"""What the error of an inverse depends on: the spectrum alone.

    Attributes
    ----------
    nodes, counts : Array, shape (n,)
        Eigenvalues, and how many modes stand for each.
    crowding : Array, shape ()
        What entries that share a mode add to the variance of the squared error, times the duration cubed.
    """

    nodes: jax.Array
    counts: jax.Array
    crowding: jax.Array

    @classmethod
    def of(cls, machine: Machine, bins: int = 64) -> "Covariance":
        """Return the problem of a factored operator; more than `bins` eigenvalues are gathered in as many bins."""
        nodes, counts, _ = machine.operator.measure(jnp.zeros((machine.operator.dim, 0), machine.operator.dtype))
        counts = counts / machine.operator.components
        if nodes.size > bins:
            low, high = jnp.log(jnp.min(nodes)), jnp.log(jnp.max(nodes))
            width = jnp.where(high > low, (high - low) / (bins - 1), 1.0)
            place = jnp.round((jnp.log(nodes) - low) / width).astype(jnp.int32)
            total = jnp.zeros(bins, nodes.dtype)
            inverse = total.at[place].add(counts / nodes)
            counts = total.at[place].add(counts)
            nodes = jnp.where(counts > 0, counts / jnp.where(counts > 0, inverse, 1.0), jnp.max(nodes))
        memory = machine.dynamics.memory(nodes)
        speeds = jnp.abs(memory.decay)
        omega = jnp.exp(jnp.linspace(jnp.log(1e-3 * jnp.min(speeds)), jnp.log(1e2 * jnp.max(speeds)), 128))
        decay, weight = memory.decay[None], memory.position[None]
        line = weight * decay / (decay**2 + omega[:, None, None].astype(decay.dtype) ** 2)
        power = 2 * jnp.sum(line.real, 1) / nodes[None]
        density = jnp.sum(counts[None] * power**2, 1) * jnp.sum(counts[None] * power, 1) ** 2
        crowding = 4 / machine.operator.components * jnp.trapezoid(density * omega, jnp.log(omega)) / jnp.pi
        return cls(nodes, counts, crowding)

    def error(self, machine: Machine, schedule: Schedule, rtol: Scalar) -> SquaredError:
        r"""Law of the squared error of the inverse, in units of ``(rtol * norm of the inverse)**2``, Frobenius norm.

        Notes
        -----
        Entries of the covariance count as Gaussian, which holds for many effective samples; that entries which share a
        mode are large together is added to the variance, and to the higher moments in proportion.
        """
        memory = machine.dynamics.memory(self.nodes)
        times = schedule.duration, schedule.samples
        target = jnp.asarray(rtol).astype(self.nodes.dtype) ** 2 * jnp.sum(self.counts / self.nodes**2)
        gram = overlap(memory, memory, *times) / (self.nodes[:, None] * self.nodes[None]) / target
        bias = shortfall(memory, schedule.burn_in, *times) ** 2 / self.nodes**2 / target
        components = machine.operator.components
        weights, pairs = 2 / components * gram, self.counts[:, None] * self.counts[None]
        own = jnp.diagonal(weights)
        cumulants = []
        for j in (1, 2, 3, 4):
            central = jnp.sum(pairs * weights**j)
            if components == 1:
                central = (central + jnp.sum(self.counts * own**j)) / 2
            cumulants.append(central + jnp.sum(j * self.counts * bias * own ** (j - 1)))
        # A run shorter than the slowest relaxation is one sample, and no shorter one is worse.
        one = 1 / jnp.min(machine.dynamics.relaxation(self.nodes))
        duration = jnp.maximum(jnp.asarray(schedule.duration).astype(self.nodes.dtype), one)
        extra = self.crowding / target**2 / duration**3 / cumulants[1]
        growth = 1 + extra
        scaled = [cumulants[j] * growth**j for j in range(4)]
        return SquaredError(jnp.stack(scaled)[:, None], (jnp.max(own) * growth)[None])


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
