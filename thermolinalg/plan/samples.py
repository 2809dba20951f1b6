"""How many independent samples to take, and how far apart, of a process with any drift."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.convergence import SquaredError
from thermolinalg.covariances import FORGOTTEN
from thermolinalg.device import Device
from thermolinalg.drifts import settling_time
from thermolinalg.encodings import Encoded, exponential, stationary
from thermolinalg.laws import Scalar
from thermolinalg.plan.search import bisect
from thermolinalg.plan.times import Plan, check_found, check_fractions


def lyapunov(
    A: Any, Q: ArrayLike, *, rtol: Scalar = 5e-2, confidence: Scalar = 0.95, device: Device | None = None
) -> Plan:
    r"""Plan a Lyapunov solution: independent samples with :math:`P(\|S - \Sigma\|_F \le \mathtt{rtol}\,\|\Sigma\|_F)
    \ge` `confidence`.

    Parameters
    ----------
    A, Q
        As for :func:`thermolinalg.lyapunov`.
    rtol, confidence : float, in (0, 1)
        Relative error in the Frobenius norm, and the fraction of runs that keep to it.
    device : Device, optional
        An overdamped device; the ideal one by default.

    Returns
    -------
    Plan
        With ``samples`` so far apart that each has forgotten the one before; three times closer ones would need a third
        less time, and a walk to simulate.

    Raises
    ------
    ValueError
        For operands or tolerances out of range, or an unstable drift.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> plan = lyapunov(jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.eye(2), rtol=0.1)
    >>> bool(plan.samples > 100)
    True
    """
    return plan_encoded(stationary(A, Q, device), rtol, confidence)


def expm(
    A: Any,
    t: Scalar = 1.0,
    *,
    rtol: Scalar = 5e-2,
    confidence: Scalar = 0.95,
    shift: Scalar | None = None,
    device: Device | None = None,
) -> Plan:
    r"""Plan an exponential: independent pairs with :math:`P(\|C - e^{At}\|_F \le \mathtt{rtol}\,\|e^{At}\|_F) \ge`
    `confidence`.

    Parameters
    ----------
    A, t, shift
        As for :func:`thermolinalg.expm`.
    rtol, confidence : float, in (0, 1)
        Relative error in the Frobenius norm, and the fraction of runs that keep to it.
    device : Device, optional
        An overdamped device; the ideal one by default.

    Returns
    -------
    Plan
        With ``samples`` pairs, each of them independent of the one before.

    Raises
    ------
    ValueError
        For operands or tolerances out of range.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> plan = expm(-jnp.eye(2), 0.5, rtol=0.1)
    >>> bool(plan.samples > 100)
    True
    """
    return plan_encoded(exponential(A, t, shift, device), rtol, confidence)


def plan_encoded(encoded: Encoded, rtol: Scalar, confidence: Scalar) -> Plan:
    """Plan the reading of a problem that is encoded already."""
    check_fractions(rtol=rtol, confidence=confidence)
    return check_found((_lyapunov if encoded.lag is None else _expm)(encoded, rtol, confidence))


@jax.jit
def _lyapunov(encoded: Encoded, rtol: Scalar, confidence: Scalar) -> Plan:
    encoded = jax.lax.stop_gradient(encoded)
    values, vectors = jnp.linalg.eigh(encoded.stationary)
    values = jnp.maximum(values, 0.0)
    spread = vectors * jnp.sqrt(values)[None]
    # Half of the eigenvalues of the real form of a complex matrix are those of the matrix.
    sizes = values[:: encoded.components]
    live = jnp.max(sizes) > 0
    sizes = jnp.where(live, sizes / jnp.where(live, jnp.max(sizes), 1.0), 1.0)
    sums = [jnp.sum(sizes**j) for j in range(9)]
    real = encoded.components == 1
    target = jnp.asarray(rtol).astype(sizes.dtype) ** 2 * sums[2]

    def cumulants(n):
        """Of the squared error of n independent samples: every pair of eigenvectors has an entry of its own."""
        total = []
        for j in (1, 2, 3, 4):
            pairs = (sums[j] ** 2 + sums[2 * j]) / 2 if real else sums[j] ** 2
            total.append(((2 if real else 1) / n / target) ** j * pairs)
        return _crowded(total, (4 if real else 2) * sums[2] * sums[1] ** 2 / n**3 / target**2)

    return _plan(encoded, cumulants, spread, jnp.sqrt(sums[2]) / sums[1], live, rtol, confidence)


@jax.jit
def _expm(encoded: Encoded, rtol: Scalar, confidence: Scalar) -> Plan:
    encoded = jax.lax.stop_gradient(encoded)
    assert encoded.lag is not None
    lag = jnp.abs(encoded.after(encoded.lag)[0]) ** 2
    d, length = lag.shape[0], jnp.sum(lag)
    target = jnp.asarray(rtol).astype(lag.dtype) ** 2 * length
    components = encoded.components

    def cumulants(n):
        entry = (1 + lag) / n / target if components == 1 else 1 / n / target / 2
        pairs = jnp.ones_like(lag) if components == 1 else 2 * jnp.ones_like(lag)
        return _crowded([jnp.sum(pairs * entry**j) for j in (1, 2, 3, 4)], 2 / components * d**3 / n**3 / target**2)

    eye = jnp.eye(encoded.drift.shape[0], dtype=encoded.drift.dtype)
    return _plan(encoded, cumulants, eye, jnp.asarray(1 / d, lag.dtype), jnp.array(True), rtol, confidence)


def _crowded(cumulants: list[jax.Array], extra: jax.Array) -> jax.Array:
    """Add to the variance, and in proportion to higher moments, that entries which share a factor move together."""
    growth = 1 + extra / cumulants[1]
    return jnp.stack([c * growth**j for j, c in enumerate(cumulants)])


def _plan(
    encoded: Encoded,
    cumulants: Callable[[jax.Array], jax.Array],
    spread: jax.Array,
    ratio: jax.Array,
    live: jax.Array,
    rtol: Scalar,
    confidence: Scalar,
) -> Plan:
    dtype = encoded.drift.dtype
    level = 1 - jnp.asarray(confidence).astype(dtype)
    # The burn-in leaves a hundredth of the squared error to what is left of the start.
    left = 0.1 * jnp.asarray(rtol).astype(dtype)

    def keeps(samples):
        mean, *rest = cumulants(samples)
        law = SquaredError(
            jnp.stack([mean + left**2 / jnp.asarray(rtol).astype(dtype) ** 2, *rest])[:, None], mean[None]
        )
        return law.exceedance()[0] <= level

    most = 1e3 * cumulants(jnp.ones((), dtype))[0] / level + 1e3
    samples = jnp.ceil(1.005 * bisect(keeps, jnp.ones((), dtype), most, 40))
    # A covariance is moved by the propagator on both sides, so half the logarithm is enough for it.
    burn_in = settling_time(encoded.drift, spread, jnp.sqrt(left * ratio))
    spacing = settling_time(encoded.drift, spread, jnp.sqrt(jnp.asarray(FORGOTTEN, dtype)))
    spacing = spacing if encoded.lag is None else spacing + encoded.lag
    times = jnp.where(live, burn_in, 0.0), jnp.where(live, samples * spacing, 0.0)
    return Plan(*times, jnp.where(live, samples, 1.0), rtol, confidence, encoded.clock)
