r"""Elementary functions of a relaxing mode, free of cancellation.

A mode that relaxes at rate :math:`\lambda` has the autocorrelation :math:`e^{-\lambda t}`. Every law of a
time average is built from a handful of integrals of that exponential; they are collected here in forms that keep full
relative precision for every argument, zero included, in float32 as in float64. A mode that rings has a complex rate,
with the same integrals.
"""

from math import factorial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

_PHI = tuple((-1.0) ** k / factorial(k + 1) for k in range(20))
_PSI = tuple(2.0 * (-1) ** k / factorial(k + 2) for k in range(20))
_CHI = tuple((4 * (-1) ** k - (-2) ** k) / factorial(k) for k in range(3, 30))
_SHC = tuple(1.0 / factorial(2 * k + 3) for k in range(9))


def _series(z, coefficients):
    """Evaluate ``sum_k coefficients[k] z**k`` by Horner's rule."""
    total = jnp.zeros_like(z)
    for coefficient in reversed(coefficients):
        total = total * z + coefficient
    return total


def _split(z):
    """Return the mask ``|z| < 1`` and two copies of `z`, each safe for the branch that uses it."""
    small = jnp.abs(z) < 1.0
    return small, jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)


def phi1(z: ArrayLike) -> jax.Array:
    r"""Mean of the decay over a window: :math:`\varphi_1(z) = (1 - e^{-z})/z`, with :math:`\varphi_1(0) = 1`."""
    small, near, far = _split(jnp.asarray(z))
    return jnp.where(small, _series(near, _PHI), -jnp.expm1(-far) / far)


def psi(z: ArrayLike) -> jax.Array:
    r"""Variance ratio of a stationary average: :math:`\psi(z) = 2(z - 1 + e^{-z})/z^2`, with :math:`\psi(0) = 1`."""
    small, near, far = _split(jnp.asarray(z))
    return jnp.where(small, _series(near, _PSI), 2 / far * (1 + jnp.expm1(-far) / far))


def chi_over_z(z: ArrayLike) -> jax.Array:
    r"""Variance ratio of an average that starts from a point, per unit of `z`.

    .. math:: \chi(z)/z = \bigl(\psi(z) - \varphi_1(z)^2\bigr)/z = (2z - 3 + 4e^{-z} - e^{-2z})/z^3 \to 2/3 .
    """
    small, near, far = _split(jnp.asarray(z))
    direct = (2 + (4 * jnp.expm1(-far) - jnp.expm1(-2 * far)) / far) / far / far
    return jnp.where(small, _series(near, _CHI), direct)


def sampling_remainder(a: ArrayLike) -> jax.Array:
    r"""What separates sums from integrals: :math:`(1 - e^{-2a} - 2a e^{-a})/a^3`, with the limit 1/3 at 0."""
    small, near, far = _split(jnp.asarray(a))
    series = 2 * jnp.exp(-near) * _series(near**2, _SHC)
    return jnp.where(small, series, (-jnp.expm1(-2 * far) - 2 * far * jnp.exp(-far)) / far / far / far)


def sampled_psi(n: ArrayLike, a: ArrayLike) -> jax.Array:
    r"""Variance ratio of a mean over `n` stationary samples of spacing `a`.

    .. math:: F(n, a) = \frac1{n^2} \sum_{k,l < n} e^{-a|k-l|} .
    """
    a = jnp.asarray(a)
    return (jnp.exp(-a) * psi(n * a) + a * sampling_remainder(a) / n) / phi1(a) ** 2


def sampled_phi1(n: ArrayLike, a: ArrayLike) -> jax.Array:
    r"""Mean of the decay over `n` samples: :math:`\frac1n \sum_{k < n} e^{-ak} = \varphi_1(na)/\varphi_1(a)`."""
    a = jnp.asarray(a)
    return phi1(n * a) / phi1(a)
