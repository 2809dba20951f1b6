"""How a mode moves: without inertia (RC cells) or with it (LC cells)."""

from dataclasses import dataclass, replace
from typing import Protocol

import jax
import jax.numpy as jnp

from thermolinalg import laws
from thermolinalg.laws import Scalar
from thermolinalg.ranges import check_positive
from thermolinalg.spectrum import Spectrum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Memory:
    r"""What a mode remembers: sums of exponentials, :math:`\rho(t) = \operatorname{Re}\sum_k a_k e^{-\mu_k t}`.

    Attributes
    ----------
    decay : Array, shape (p, \*modes)
        :math:`\mu_k`, complex where the mode rings.
    position, momentum : Array, shape (p, \*modes)
        Weights :math:`a_k` of what is left of a displacement, which is the stationary autocorrelation too, and of a
        thermal momentum, in units of the thermal displacement.
    """

    decay: jax.Array
    position: jax.Array
    momentum: jax.Array


class Dynamics(Protocol):
    """How a mode moves: its law, and the spectral densities and rates that follow from it."""

    @property
    def follows(self) -> bool:
        """Whether the mean of what is read is the answer to a steady force."""

    @property
    def components(self) -> int:
        """Components of the state of one mode."""

    def resolve(self, spectrum: Spectrum) -> "Dynamics":
        """Fix what depends on the spectrum."""

    def law(
        self, rates: jax.Array, beta: Scalar, burn_in: Scalar, duration: Scalar, samples: Scalar | None
    ) -> laws.RunLaw:
        """Law of average and end state, for modes with these eigenvalues."""

    def memory(self, rates: jax.Array) -> Memory:
        """Autocorrelation of modes with these eigenvalues, as a sum of exponentials."""

    def noise(self, beta: Scalar) -> Scalar:
        """Spectral density of the thermal force: long averages have the residual variance noise / duration."""

    def relaxation(self, rates: jax.Array) -> jax.Array:
        """Rate at which the slower part of each mode forgets its start."""

    def clock(self, maximum: jax.Array) -> jax.Array:
        """Time constants of the device in one unit of time: the rate of the mode with the largest eigenvalue."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Overdamped:
    r"""Modes without inertia: :math:`dx = -(Ax - b)\,dt + \sqrt{2/\beta}\,dW`."""

    @property
    def follows(self) -> bool:
        return True

    @property
    def components(self) -> int:
        return 1

    def resolve(self, spectrum: Spectrum) -> "Overdamped":
        return self

    def law(
        self, rates: jax.Array, beta: Scalar, burn_in: Scalar, duration: Scalar, samples: Scalar | None
    ) -> laws.RunLaw:
        return laws.overdamped(rates, beta, burn_in, duration, samples)

    def memory(self, rates: jax.Array) -> Memory:
        return Memory(rates[None], jnp.ones_like(rates)[None], jnp.zeros_like(rates)[None])

    def noise(self, beta: Scalar) -> Scalar:
        return 2 / beta

    def relaxation(self, rates: jax.Array) -> jax.Array:
        return rates

    def clock(self, maximum: jax.Array) -> jax.Array:
        return maximum


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Underdamped:
    r"""Modes with inertia: :math:`dx = p/m\,dt,\ dp = -(Ax - b + \gamma p/m)\,dt + \sqrt{2\gamma/\beta}\,dW`.

    Parameters
    ----------
    mass : float, > 0
        :math:`m`.
    friction : float, > 0, optional
        :math:`\gamma`. By default :math:`2\sqrt{m\lambda_\min}`, critical for the slowest mode: near-optimal when the
        burn-in limits the run. When thermal noise does, a quarter of it can be up to four times faster.

    Notes
    -----
    With the fastest angular frequency equal to the fastest overdamped rate, the time to a given error falls from a
    multiple of :math:`\kappa` to one of :math:`\sqrt\kappa`.
    """

    mass: Scalar = 1.0
    friction: Scalar | None = None

    def __post_init__(self) -> None:
        check_positive(mass=self.mass, friction=self.friction)

    @property
    def follows(self) -> bool:
        return True

    @property
    def components(self) -> int:
        return 2

    def resolve(self, spectrum: Spectrum) -> "Underdamped":
        if self.friction is not None:
            return self
        low = spectrum.minimum
        return replace(self, friction=2 * jnp.sqrt(jnp.asarray(self.mass).astype(low.dtype) * low))

    def law(
        self, rates: jax.Array, beta: Scalar, burn_in: Scalar, duration: Scalar, samples: Scalar | None
    ) -> laws.RunLaw:
        return laws.underdamped(rates, beta, burn_in, duration, samples, mass=self.mass, friction=self._gamma())

    def memory(self, rates: jax.Array) -> Memory:
        mass, gamma = (jnp.asarray(x).astype(rates.dtype) for x in (self.mass, self._gamma()))
        half = gamma / (2 * mass)
        square = rates / mass - half**2
        # At critical damping the two rates meet and the weights diverge. Moved apart by the fourth root of the rounding
        # error they cost half the digits, of the memory and of products of two: no other gap costs fewer.
        least = jnp.finfo(rates.dtype).eps ** 0.5 * half**2
        square = jnp.where(jnp.abs(square) < least, least, square)
        root, ringing = jnp.sqrt(jnp.abs(square)), square > 0
        # The slower of two real rates is a small difference of large numbers; their product is not.
        damped, turning = half + jnp.where(ringing, 0.0, root), jnp.where(ringing, root, 0.0)
        fast = jax.lax.complex(damped, turning)
        slow = jax.lax.complex(jnp.where(ringing, half, rates / mass / damped), -turning)
        gap = jax.lax.complex(jnp.where(ringing, 0.0, 2 * root), 2 * turning)
        kick = jnp.sqrt(rates / mass).astype(gap.dtype) / gap
        return Memory(jnp.stack([slow, fast]), jnp.stack([fast / gap, -slow / gap]), jnp.stack([kick, -kick]))

    def noise(self, beta: Scalar) -> Scalar:
        return 2 * self._gamma() / beta

    def relaxation(self, rates: jax.Array) -> jax.Array:
        half = jnp.asarray(self._gamma() / (2 * self.mass)).astype(rates.dtype)
        square = rates / jnp.asarray(self.mass).astype(rates.dtype)
        return jnp.where(square < half**2, square / (half + jnp.sqrt(jnp.maximum(half**2 - square, 0.0))), half)

    def clock(self, maximum: jax.Array) -> jax.Array:
        return jnp.sqrt(maximum / jnp.asarray(self.mass).astype(maximum.dtype))

    def _gamma(self) -> Scalar:
        if self.friction is None:
            raise ValueError("friction is not set; device.program(A) chooses it from the spectrum, or give a number")
        return self.friction


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Capacitive:
    r"""Oscillators coupled by their capacitors: :math:`dj = u\,dt,\ A\,du = -(j + \gamma u)\,dt +
    \sqrt{2\gamma/\beta}\,dW`.

    The matrix is in the place of the mass, voltages u are read, and :math:`A^{-1}/\beta` is their covariance. Inductors
    take every steady current, so the mean of the voltages is zero: such cells invert and sample, and solve nothing.

    Parameters
    ----------
    friction : float, > 0, optional
        :math:`\gamma`, the impedance of a cell over its resistance: the inverse of the quality factor of a mode with
        the eigenvalue 1. By default :math:`2\sqrt{\lambda_\max}`, critical for the slowest mode.

    Notes
    -----
    The mode with the largest eigenvalue is the slowest here, and its period the unit in which a device counts its time
    constants: for couplings whose largest eigenvalue is 1 that is :math:`\sqrt{LC}` of a cell.

    References
    ----------
    Melanson et al., *Thermodynamic computing system for AI applications*, arXiv:2312.04836.
    """

    friction: Scalar | None = None

    def __post_init__(self) -> None:
        check_positive(friction=self.friction)

    @property
    def follows(self) -> bool:
        return False

    @property
    def components(self) -> int:
        return 2

    def resolve(self, spectrum: Spectrum) -> "Capacitive":
        return self if self.friction is not None else Capacitive(2 * jnp.sqrt(spectrum.maximum))

    def law(
        self, rates: jax.Array, beta: Scalar, burn_in: Scalar, duration: Scalar, samples: Scalar | None
    ) -> laws.RunLaw:
        r"""Law of average, end voltage and end current: :math:`\bar u = (j_T - j_{t_0})/\tau` is known of the ends."""
        if samples is not None:
            raise ValueError("voltages of cells coupled by capacitors average to zero; read their covariance")
        settle, move = (self._flow(rates, beta, time) for time in (burn_in, duration))
        tau = jnp.asarray(duration).astype(rates.dtype)
        live = tau > 0
        safe = jnp.where(live, tau, 1)
        # Rows of (u, j). A duration of zero reads the voltage.
        one, none = jnp.ones_like(rates), jnp.zeros_like(rates)
        reads = (move.start[1] - jnp.stack([none, one])) / safe
        reads = jnp.where(live, reads, jnp.stack([one, none]))
        scale = jnp.where(live, 1 / safe, 0)
        rows = jnp.concatenate([reads[None], move.start])
        pushed = jnp.concatenate([scale * move.force[1:], move.force])
        kicked = jnp.concatenate([scale * move.covariance[1:], move.covariance])
        kicked = jnp.concatenate([scale * kicked[:, 1:], kicked], 1)
        spread = jnp.einsum("ij...,jk...,lk...->il...", rows, settle.covariance, rows)
        return laws.RunLaw(
            jnp.einsum("ij...,j...->i...", rows, settle.force) + pushed,
            jnp.einsum("ij...,jk...->ik...", rows, settle.start),
            spread + kicked,
        )

    def memory(self, rates: jax.Array) -> Memory:
        memory = self._mechanical(rates).memory(jnp.ones_like(rates))
        # A velocity forgets as a displacement does with the two decays exchanged.
        return Memory(memory.decay, memory.position[::-1], memory.momentum)

    def noise(self, beta: Scalar) -> Scalar:
        raise ValueError("voltages of cells coupled by capacitors average to zero; they solve no linear system")

    def relaxation(self, rates: jax.Array) -> jax.Array:
        return self._mechanical(rates).relaxation(jnp.ones_like(rates))

    def clock(self, maximum: jax.Array) -> jax.Array:
        return 1 / jnp.sqrt(maximum)

    def _mechanical(self, rates: jax.Array) -> Underdamped:
        """The same oscillators by their currents and charges: stiffness 1, and the eigenvalue as mass."""
        if self.friction is None:
            raise ValueError("friction is not set; device.program(A) chooses it from the spectrum, or give a number")
        return Underdamped(rates, jnp.asarray(self.friction).astype(rates.dtype))

    def _flow(self, rates: jax.Array, beta: Scalar, time: Scalar) -> laws.RunLaw:
        """Law of voltage and current after a time."""
        law = self._mechanical(rates).law(jnp.ones_like(rates), beta, time, 0.0, None)
        scale = jnp.stack([1 / rates, jnp.ones_like(rates)])
        start = law.start[:0:-1, ::-1] * scale[:, None] / scale[None]
        covariance = law.covariance[:0:-1, :0:-1] * scale[:, None] * scale[None]
        return laws.RunLaw(law.force[:0:-1] * scale, start, covariance)
