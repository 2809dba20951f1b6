"""The exact tail of a squared error, as a reference for the approximations."""

import jax
import jax.numpy as jnp

from thermolinalg.convergence.squared_error import SquaredError
from thermolinalg.laws import Scalar

_NODES = 128
_SLANT = 0.5
"""Real over imaginary part far out on the path; below one, so that a Gaussian decays along it too."""


def imhof(error: SquaredError, confidence: Scalar) -> jax.Array:
    """Whether the error keeps to its target, by :func:`inverted_tail`: exact, and the dearest."""
    return inverted_tail(error) <= 1 - jnp.asarray(confidence).astype(error.weights.dtype)


def inverted_tail(error: SquaredError) -> jax.Array:
    r"""Probability that a squared error exceeds its target, by inversion of the characteristic function.

    .. math::

        P(Q > 1) = \frac1{2\pi i}\int \frac{e^{K(s) - s}}{s}\,ds, \qquad
        K(s) = \sum_i \frac{n_i}2 \ln\frac1{1 - 2 w_i s} + \frac{s\,b_i}{1 - 2 w_i s}

    with :math:`w_i` the weights, :math:`n_i` the counts and :math:`b_i` the shifts.

    Parameters
    ----------
    error : SquaredError

    Returns
    -------
    Array, shape (k,)

    Notes
    -----
    The path goes through the saddle point on the real axis and bends to the right, where the integrand decays
    exponentially; the trapezoidal rule with 128 nodes then has an error below 1e-9 in double precision, absolutely, and
    relatively in the upper tail. Imhof integrates along the imaginary axis, which for few degrees of freedom takes far
    more nodes. Where there is no noise the answer is zero or one.

    References
    ----------
    Imhof, *Computing the distribution of quadratic forms in normal variables*, Biometrika 48 (1961).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from jax.scipy.stats import chi2
    >>> error = SquaredError(jnp.full((1, 1), 0.2), jnp.full((1, 1), 3.0), jnp.zeros((1, 1)))
    >>> bool(jnp.abs(inverted_tail(error)[0] - chi2.sf(5.0, 3)) < 1e-5)
    True
    """
    real = error.weights.dtype
    noisy = error.cumulants[1] > jnp.finfo(real).tiny
    weights = jnp.where(noisy[None], error.weights, 1.0)
    counts, shifts = jnp.broadcast_to(error.counts, weights.shape), error.shifts
    edge = 1 / (2 * jnp.max(weights, 0))

    def slope(c):
        """Derivatives, first and second, of the exponent on the real axis; the pole at zero left out of the second."""
        rest = 1 - 2 * weights * c[None]
        first = jnp.sum(counts * weights / rest + shifts / rest**2, 0) - 1 - 1 / c
        return first, jnp.sum(2 * counts * weights**2 / rest**2 + 4 * weights * shifts / rest**3, 0)

    # In the lower tail the path passes on the other side of the pole, whose residue is one.
    lower = error.cumulants[0] > 1
    sign = jnp.where(lower, -1.0, 1.0)

    def halve(_, ends):
        low, high = ends
        middle = jnp.where(lower, jnp.sqrt(low) * jnp.sqrt(high), (low + high) / 2)
        above = slope(sign * middle * edge)[0] * sign > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    # In double precision the saddle may lie as close to the edge as 1e-15 of it.
    tiny = jnp.finfo(real).tiny ** 0.5
    begin = jnp.where(lower, tiny, 0.0), jnp.where(lower, 1 / tiny, 1.0)
    saddle = sign * jnp.maximum(jax.lax.fori_loop(0, 2 * jnp.finfo(real).nmant, halve, begin)[0], tiny) * edge
    second = slope(saddle)[1]
    width, bell = 1 / jnp.sqrt(second + 1 / saddle**2), 1 / jnp.sqrt(second)
    # Far enough for exp(-slant u), and for a Gaussian; sinh puts half of the nodes near the saddle.
    digits = -jnp.log(jnp.finfo(real).eps)
    reach = jnp.arcsinh((1.2 * digits / _SLANT + 12.0 * bell) / width)
    t = jnp.linspace(0.0, 1.0, _NODES, dtype=real)[:, None] * reach[None]
    u, du = width[None] * jnp.sinh(t), width[None] * jnp.cosh(t)
    blend = jnp.sqrt(u**2 + width[None] ** 2)
    s = jax.lax.complex(saddle[None] + _SLANT * (blend - width[None]), u)
    ds = jax.lax.complex(_SLANT * u / blend, jnp.ones_like(u)) * du.astype(s.dtype)

    def exponent(s):
        rest = 1 - 2 * weights.astype(s.dtype) * s[None]
        terms = -counts.astype(s.dtype) / 2 * jnp.log(rest) + shifts.astype(s.dtype) * s[None] / rest
        return jnp.sum(terms, 0) - s - jnp.log(s)

    values = (jnp.exp(jax.lax.map(exponent, s)) * ds).imag
    total = (jnp.sum(values, 0) - values[0] / 2) * reach / (_NODES - 1) / jnp.pi
    total = jnp.where(noisy, total, 0.0) + lower.astype(real)
    return jnp.clip(total, 0.0, 1.0)
