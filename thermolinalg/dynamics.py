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
        """Time constants of the device in one unit of time: the rate of its fastest mode."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Overdamped:
    r"""Modes without inertia: :math:`dx = -(Ax - b)\,dt + \sqrt{2/\beta}\,dW`."""

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
