r"""Laws of a covariance read off a device, mode by mode, and what they say about its entries.

The second moment of the state, averaged over a run and divided by the temperature, estimates :math:`A^{-1}`. In the
eigenbasis its entries are uncorrelated; entry (i, j) averages :math:`y_i y_j`, whose memory is the product of those of
the two modes.
"""

import jax
import jax.numpy as jnp

from thermolinalg.dynamics import Dynamics, Memory
from thermolinalg.laws import Scalar
from thermolinalg.relaxation import phi1, psi, sampled_phi1, sampled_psi

FORGOTTEN = 1e-3
"""Correlation of the squares of two successive samples that counts as none."""


def overlap(first: Memory, second: Memory, duration: Scalar, samples: Scalar | None) -> jax.Array:
    r"""Variance of an average of the product of two stationary modes of unit variance, for every pair.

    .. math:: F_{ij} = \operatorname{Re} \sum_{kl} a_{ik} a_{jl}\,\psi((\mu_{ik} + \mu_{jl})\tau)

    Parameters
    ----------
    first, second : Memory
        Of n and of m modes.
    duration : float, >= 0
        :math:`\tau`.
    samples : int, optional
        Number of equally spaced samples; a continuous average by default.

    Returns
    -------
    Array, shape (n, m)
        The reciprocal is the number of effective samples of each entry.
    """
    kind = first.decay.dtype
    tau = jnp.asarray(duration).astype(kind)
    total = jnp.zeros((first.decay.shape[1], second.decay.shape[1]), first.decay.real.dtype)
    for a, mu in zip(first.position, first.decay, strict=True):
        for b, nu in zip(second.position, second.decay, strict=True):
            z = (mu[:, None] + nu[None]) * tau
            if samples is None:
                ratio = psi(z)
            else:
                n = jnp.asarray(samples).astype(kind)
                ratio = sampled_psi(n, z / n)
            total = total + (a[:, None] * b[None] * ratio).real
    return total


def shortfall(memory: Memory, burn_in: Scalar, duration: Scalar, samples: Scalar | None) -> jax.Array:
    r"""Fraction of its stationary variance that each mode lacks on average when the run starts at rest, shape (n,).

    .. math:: \operatorname{Re}\sum_{kl} (a_k a_l + b_k b_l)\, e^{-(\mu_k + \mu_l) t_0} \varphi_1((\mu_k + \mu_l)\tau)
    """
    t0, tau = (jnp.asarray(x).astype(memory.decay.dtype) for x in (burn_in, duration))
    rate = memory.decay[:, None] + memory.decay[None]
    weight = memory.position[:, None] * memory.position[None] + memory.momentum[:, None] * memory.momentum[None]
    if samples is None:
        left = phi1(rate * tau)
    else:
        n = jnp.asarray(samples).astype(tau.dtype)
        left = sampled_phi1(n, rate * tau / n)
    return jnp.sum(weight * jnp.exp(-rate * t0) * left, (0, 1)).real


def inverse_stderr(
    dynamics: Dynamics,
    rates: jax.Array,
    basis: jax.Array,
    burn_in: Scalar,
    duration: Scalar,
    samples: Scalar | None = None,
    replicas: int = 1,
) -> jax.Array:
    r"""Root mean square error of every entry of the inverse read as a covariance, in the original basis.

    .. math::

        E|C - A^{-1}|_{ab}^2 = \sum_{ij} \frac{F_{ij}}{\lambda_i\lambda_j}
            (U_{ai}^2 U_{bj}^2 + U_{ai} U_{bi} U_{aj} U_{bj}) + \text{bias}_{ab}^2

    Parameters
    ----------
    dynamics : Overdamped or Underdamped
    rates, basis : Array, shape (d,) and (d, d)
        Eigenvalues and eigenvectors.
    burn_in, duration, samples
        The run, from rest.
    replicas : int, >= 1
        Runs whose readings are averaged.

    Notes
    -----
    The second term, absent for complex operators, takes a matrix product for each rank of :math:`F_{ij}/\lambda_i
    \lambda_j`; eight ranks, or fewer, carry it to better than a per cent of the first. The variance is that of a
    stationary start: the true one is smaller, by the relative order :math:`e^{-2\lambda_{\min} t_0}/\lambda_{\min}
    \tau`.
    """
    memory = dynamics.memory(rates)
    gram = overlap(memory, memory, duration, samples) / (rates[:, None] * rates[None])
    square = jnp.abs(basis) ** 2
    first = square @ gram @ square.T
    bias = (basis * (shortfall(memory, burn_in, duration, samples) / rates)[None].astype(basis.dtype)) @ basis.conj().T
    if jnp.issubdtype(basis.dtype, jnp.complexfloating):
        variance = first
    else:
        second = _second_term(gram, basis, min(8, rates.size))
        eye = jnp.eye(rates.size, dtype=bool)
        variance = first + jnp.where(eye, first, jnp.minimum(second, first))
    return jnp.sqrt(variance / replicas + jnp.abs(bias) ** 2)


def independent_stderr(inverse: jax.Array, samples: Scalar) -> jax.Array:
    r"""Root mean square error of every entry of a covariance of independent samples, from the covariance itself.

    .. math:: E|C - \Sigma|_{ab}^2 = (\Sigma_{aa}\Sigma_{bb} + \Sigma_{ab}^2)/N

    without the second term for complex samples.
    """
    own = jnp.diagonal(inverse).real
    variance = own[:, None] * own[None]
    if not jnp.issubdtype(inverse.dtype, jnp.complexfloating):
        variance = variance + inverse**2
    return jnp.sqrt(variance / jnp.asarray(samples).astype(variance.dtype))


def _second_term(gram: jax.Array, basis: jax.Array, rank: int) -> jax.Array:
    r""":math:`\sum_{ij} G_{ij} U_{ai} U_{bi} U_{aj} U_{bj}`, rank by rank."""
    largest = jnp.max(jnp.diagonal(gram))
    columns = _pivoted_cholesky(gram / largest, rank)
    if rank == gram.shape[0]:
        kind, kept = basis.dtype, jnp.ones(rank, bool)
    else:
        # Ranks left out weigh more than rounding, and more than a thousandth of each mode.
        kind, own = jnp.float32, jnp.diagonal(gram) / largest
        left = own[None] - jnp.cumsum(columns**2, 0) + columns**2
        kept = jnp.max(left / own[None], 1) > 1e-3
    vectors, columns = basis.astype(kind), columns.astype(kind)

    def add(k, total):
        def added():
            return total + ((vectors * columns[k][None]) @ vectors.T) ** 2

        return jax.lax.cond(kept[k], added, lambda: total)

    total = jax.lax.fori_loop(0, rank, add, jnp.zeros(gram.shape, kind))
    return largest * total.astype(gram.dtype)


def _pivoted_cholesky(gram: jax.Array, rank: int) -> jax.Array:
    """Rows l_k with sum l_k l_k' close to a positive semi-definite matrix, largest remainder first."""

    def step(k, carry):
        rows, rest = carry
        at = jnp.argmax(rest)
        row = gram[at] - rows[:, at] @ rows
        row = row / jnp.sqrt(jnp.maximum(rest[at], jnp.finfo(gram.dtype).tiny))
        row = jnp.where(rest[at] > 0, row, 0.0)
        return rows.at[k].set(row), jnp.maximum(rest - row**2, 0.0).at[at].set(0.0)

    begin = jnp.zeros((rank, gram.shape[0]), gram.dtype), jnp.diagonal(gram)
    return jax.lax.fori_loop(0, rank, step, begin)[0]
