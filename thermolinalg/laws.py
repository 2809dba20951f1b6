r"""Laws of what a device reads, mode by mode.

In the eigenbasis of a symmetric `A` the process falls apart into independent modes. A run lets each of them relax
from a given state for the burn-in, averages its position over the duration, and leaves it in an end state. Average
and end state are jointly Gaussian, and this module gives that joint law in closed form, for overdamped and
underdamped dynamics, for a continuous average and for a mean over samples.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from thermolinalg.relaxation import chi_over_z, phi1, psi, sampled_phi1, sampling_remainder

Scalar = float | jax.Array
"""A real parameter: a number, or an array of no dimensions that may be traced."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RunLaw:
    r"""Joint Gaussian law of the time average and the end state, for each mode.

    With :math:`u = (\bar y, y_T)` for overdamped and :math:`u = (\bar y, y_T, p_T)` for underdamped modes,

    .. math:: u \sim \mathcal N(\mathtt{force}\,c + \mathtt{start}\,s_0,\ \mathtt{covariance}),

    where :math:`c` is the force on the mode and :math:`s_0` its state at the start, of `s` = 1 (position) or 2
    (position, momentum) components.

    Attributes
    ----------
    force : Array, shape (1 + s, \*modes)
        Response to a unit force.
    start : Array, shape (1 + s, s, \*modes)
        What is left of the start.
    covariance : Array, shape (1 + s, 1 + s, \*modes)
        Covariance given the start.
    """

    force: jax.Array
    start: jax.Array
    covariance: jax.Array

    def from_random_start(self, covariance: jax.Array) -> "RunLaw":
        """Return the law when the start itself is Gaussian with this covariance, shape (s, s, \\*modes)."""
        spread = _product(_product(self.start, covariance), jnp.swapaxes(self.start, 0, 1))
        return RunLaw(self.force, self.start, self.covariance + spread)

    def scale(self) -> jax.Array:
        """Lower triangular factor of the covariance, of the same shape; a mode without noise gives zeros."""
        return _triangle(self.covariance)

    def end_scale(self) -> jax.Array:
        """Lower triangular factor of the covariance of the end state alone, shape (s, s, \\*modes)."""
        return _triangle(self.covariance[1:, 1:])


def overdamped(
    rates: jax.Array,
    beta: Scalar,
    burn_in: Scalar,
    duration: Scalar,
    samples: Scalar | None = None,
) -> RunLaw:
    r"""Law of a run of :math:`dy = -(\lambda y - c)\,dt + \sqrt{2/\beta}\,dW`.

    With :math:`z = \lambda\tau`, :math:`e_0 = e^{-\lambda t_0}` and the functions of :mod:`thermolinalg.relaxation`,

    .. math::

        E\bar y &= y_0 e_0 \varphi_1(z) + c\,[t_0 \varphi_1(\lambda t_0) + \tfrac12 e_0 \tau \psi(z)], \\
        \operatorname{Var}\bar y &= \tfrac1\beta [\tau \chi(z)/z + 2 t_0 \varphi_1(2\lambda t_0) \varphi_1(z)^2],

    and the same with sums in place of integrals for samples at :math:`t_0 + k\tau/N`, :math:`k < N`.

    Parameters
    ----------
    rates : Array, shape modes
        Eigenvalues :math:`\lambda \ge 0`; zero (a free mode) is allowed.
    beta : float, > 0
        Inverse temperature.
    burn_in, duration : float, >= 0
        :math:`t_0` and :math:`\tau` in natural units. A duration of zero reads the state at :math:`t_0`.
    samples : int, >= 1, optional
        Number of equally spaced samples in the window; a continuous average by default.

    Returns
    -------
    RunLaw
        Over average and end position at :math:`t_0 + \tau`.

    Notes
    -----
    Relative error of every entry of `force`, `start` and of the variances below 1e-14 in float64 for
    :math:`\lambda\tau` from 0 upwards; no subtraction of nearly equal numbers in float32 either.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> law = overdamped(jnp.array([1.0]), beta=2.0, burn_in=20.0, duration=100.0)
    >>> round(float(law.covariance[0, 0, 0]), 5)    # about 2 / (beta duration)
    0.0099
    """
    t0, tau, temperature = _scalars(rates, burn_in, duration, 1 / jnp.asarray(beta, rates.dtype))
    decayed = jnp.exp(-rates * t0)
    end = t0 + tau
    if samples is None:
        z = rates * tau
        remaining = phi1(z)
        risen = tau * psi(z) / 2
        spread = tau * chi_over_z(z)
        overlap = remaining * (2 * t0 + tau) * phi1(rates * (2 * t0 + tau))
    else:
        (n,) = _scalars(rates, samples)
        step = tau / n
        a = rates * step
        f = phi1(a)
        remaining = sampled_phi1(n, a)
        near = a < 1
        risen = jnp.where(
            near, step * (n * psi(n * a) - psi(a)) / (2 * f), (1 - remaining) / jnp.where(near, 1.0, rates)
        )
        total = n * jnp.exp(-a) * chi_over_z(n * a) - f * phi1(n * a) ** 2 + sampling_remainder(a) / n
        spread = jnp.where(n == 1, 0.0, step * jnp.maximum(total, 0.0) / f**2)
        elapsed = 2 * t0 + (n - 1) * step
        overlap = remaining * jnp.exp(-a) * elapsed * phi1(rates * elapsed)
    settled = 2 * t0 * phi1(2 * rates * t0)
    force = jnp.stack([t0 * phi1(rates * t0) + decayed * risen, end * phi1(rates * end)])
    start = jnp.stack([decayed * remaining, jnp.exp(-rates * end)])[:, None]
    variance = temperature * (spread + settled * remaining**2)
    cross = temperature * overlap
    final = temperature * 2 * end * phi1(2 * rates * end)
    covariance = jnp.stack([jnp.stack([variance, cross]), jnp.stack([cross, final])])
    return RunLaw(force, start, covariance)


def underdamped(
    rates: jax.Array,
    beta: Scalar,
    burn_in: Scalar,
    duration: Scalar,
    samples: Scalar | None = None,
    *,
    mass: Scalar,
    friction: Scalar,
) -> RunLaw:
    r"""Law of a run of :math:`dy = p/m\,dt,\ dp = -(\lambda y - c + \gamma p/m)\,dt + \sqrt{2\gamma/\beta}\,dW`.

    Parameters
    ----------
    rates : Array, shape modes
        Eigenvalues :math:`\lambda \ge 0`.
    beta : float, > 0
        Inverse temperature.
    burn_in, duration : float, >= 0
        :math:`t_0` and :math:`\tau`.
    samples : int, >= 1, optional
        Number of equally spaced samples; a continuous average by default.
    mass, friction : float, > 0
        :math:`m` and :math:`\gamma`.

    Returns
    -------
    RunLaw
        Over average, end position and end momentum.

    Notes
    -----
    The closed form in the two complex rates of a mode cancels at short times and breaks down at critical damping,
    which is where a well chosen friction puts the slowest mode. Here the affine Gaussian map of a short step is summed
    as a Taylor series and composed with itself by doubling. Every term that is added to a covariance is positive
    semi-definite, and the propagator is carried as its difference from the identity, so slow modes keep their digits.
    Times a phase :math:`\omega\tau` the rounding of the input itself shows in what oscillates.
    """
    t0, tau, m, gamma = _scalars(rates, burn_in, duration, mass, friction)
    (temperature,) = _scalars(rates, 1 / jnp.asarray(beta, rates.dtype))
    settle = _relax(rates, temperature, t0, m, gamma, average=False)
    if samples is None:
        window = _relax(rates, temperature, tau, m, gamma, average=True)
    else:
        (n,) = _scalars(rates, samples)
        step = _relax(rates, temperature, tau / n, m, gamma, average=False)
        window = _power(_compose(step, _sample(rates, 1 / n)), jnp.asarray(samples))
    total = _compose(window, settle)
    start = total.change[:, 1:] + jnp.concatenate([jnp.zeros((1, 2)), jnp.eye(2)]).astype(rates.dtype).reshape(
        (3, 2) + (1,) * rates.ndim
    )
    return RunLaw(total.force, start, total.covariance)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Step:
    """Affine Gaussian map of (average, position, momentum): ``u -> (1 + change) u + force c + noise``."""

    change: jax.Array
    force: jax.Array
    covariance: jax.Array


def _triangle(covariance: jax.Array) -> jax.Array:
    """Cholesky factor (n, n, *modes) of small covariances, mode by mode."""
    size = covariance.shape[0]
    rows: list[list[jax.Array]] = []
    zero = jnp.zeros_like(covariance[0, 0])
    for i in range(size):
        row = [zero] * size
        for j in range(i + 1):
            above = row if i == j else rows[j]
            rest = covariance[i, j] - sum((row[k] * above[k] for k in range(j)), zero)
            pivot = jnp.sqrt(jnp.maximum(rest, 0.0)) if i == j else above[j]
            row[j] = pivot if i == j else jnp.where(pivot > 0, rest / jnp.where(pivot > 0, pivot, 1.0), 0.0)
        rows.append(row)
    return jnp.stack([jnp.stack(row) for row in rows])


def _product(a, b):
    """Multiply (i, k, *modes) by (k, j, *modes), mode by mode, without a tiny matrix product for each."""
    return (a[:, :, None] * b[None]).sum(1)


def _compose(second: _Step, first: _Step) -> _Step:
    moved = first.covariance + _product(second.change, first.covariance)
    moved = moved + _product(moved, jnp.swapaxes(second.change, 0, 1))
    return _Step(
        second.change + first.change + _product(second.change, first.change),
        second.force + first.force + _product(second.change, first.force[:, None])[:, 0],
        second.covariance + (moved + jnp.swapaxes(moved, 0, 1)) / 2,
    )


def _sample(rates: jax.Array, weight: Scalar) -> _Step:
    """The map that adds ``weight`` times the position to the average."""
    change = jnp.zeros((3, 3, *rates.shape), rates.dtype).at[0, 1].set(weight)
    return _Step(change, jnp.zeros_like(change[0]), jnp.zeros_like(change))


def _relax(
    rates: jax.Array, temperature: jax.Array, time: jax.Array, mass: jax.Array, friction: jax.Array, *, average: bool
) -> _Step:
    """The map of a relaxation over `time`; the average gains the mean position over it if `average`."""
    speed = (jnp.sqrt(rates / mass) + friction / mass) * time
    halvings = jnp.maximum(jnp.ceil(jnp.log2(jnp.maximum(jnp.max(speed), 1e-30) * 4)), 0).astype(jnp.int32)
    h = jnp.exp2(-halvings.astype(rates.dtype))
    entries = {(0, 1): h if average else 0.0, (1, 2): h * time / mass, (2, 1): -h * time * rates}
    entries[2, 2] = -h * time * friction / mass
    generator = jnp.zeros((3, 3, *rates.shape), rates.dtype)
    for where, value in entries.items():
        generator = generator.at[where].set(value)
    identity = jnp.broadcast_to(jnp.eye(3, dtype=rates.dtype).reshape((3, 3) + (1,) * rates.ndim), generator.shape)
    kick = jnp.zeros_like(generator[0]).at[2].set(h * time)
    noise = jnp.zeros_like(generator).at[2, 2].set(2 * friction * temperature * h * time)

    def term(j, carry):
        step, power, push, spread = carry
        step = _Step(step.change + power, step.force + push, step.covariance + spread)
        grown = _product(generator, spread)
        power = _product(generator, power) / (j + 1)
        push = _product(generator, push[:, None])[:, 0] / (j + 1)
        return step, power, push, (grown + jnp.swapaxes(grown, 0, 1)) / (j + 1)

    nothing = _Step(jnp.zeros_like(generator), jnp.zeros_like(kick), jnp.zeros_like(noise))
    carry = (nothing, _product(generator, identity), kick, noise)
    step = jax.lax.fori_loop(1, 20, term, carry)[0]
    return jax.lax.fori_loop(0, halvings, lambda _, step: _compose(step, step), step)


def _power(step: _Step, n: jax.Array) -> _Step:
    """Compose `step` with itself, `n` times in all."""

    def body(carry):
        result, base, n = carry
        odd = n % 2 == 1
        result = jax.tree.map(lambda new, old: jnp.where(odd, new, old), _compose(base, result), result)
        return result, _compose(base, base), n // 2

    nothing = jax.tree.map(jnp.zeros_like, step)
    return jax.lax.while_loop(lambda carry: carry[2] > 0, body, (nothing, step, n))[0]


def _scalars(rates, *values):
    """Cast scalar parameters to the dtype of the modes."""
    return tuple(jnp.asarray(value).astype(rates.dtype) for value in values)
