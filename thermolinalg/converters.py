"""Converters between numbers and voltages: what a finite number of bits does to what is written and read."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermolinalg.laws import Scalar
from thermolinalg.ranges import check_count, check_finite, check_not_negative, check_positive
from thermolinalg.solution import Status


class Conversion(NamedTuple):
    """What left a converter.

    Attributes
    ----------
    value : Array
    scale : Array
        The full scale; with as many dimensions as the value, so that the two combine.
    saturated : Array of bool, shape ()
        Whether anything was beyond it.
    """

    value: jax.Array
    scale: jax.Array
    saturated: jax.Array

    @property
    def flags(self) -> jax.Array:
        """The same as a flag of :class:`thermolinalg.Status`."""
        return jnp.where(self.saturated, int(Status.SATURATED), 0).astype(jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Converter:
    r"""A digital-to-analog or analog-to-digital converter.

    .. math:: x \mapsto Q\bigl((1 + \mathtt{gain})\,x + \mathtt{offset}\,s\bigr), \qquad
        Q(x) = q\,\operatorname{round}(x/q), \quad q = \frac{2s}{2^{\mathtt{bits}} - 2},

    with the full scale s: levels are equally spaced from -s to s, and zero is one of them. One bit has two levels, -s
    and s.

    Parameters
    ----------
    bits : int, >= 1
        Resolution.
    full_scale : float, > 0, optional
        s, in the units of what is converted; beyond it the converter saturates. By default it is chosen for every block
        that is converted at once: the least power of two that nothing exceeds, as an amplifier with switched gain does.
    stochastic : bool
        Round up with the probability that makes the mean exact, in place of to the nearest level.
    gain, offset : float
        Errors: of the slope, relative, and of the zero, in full scales.
    rate : float, > 0
        Conversions per second, for prices; an assumption.
    joules : float, >= 0, optional
        Of one conversion, for prices; by default the best case, :func:`thermolinalg.power.best_case_joules`.

    Notes
    -----
    Nearest rounding is monotone, and converting twice is converting once (without errors of gain and offset). Its error
    is at most half a step, of mean square q^2/12 where the signal spreads over several levels. Stochastic rounding has
    no error on average, and a mean square of up to q^2/4, q^2/6 on average.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> Converter(bits=3).convert(jnp.array([0.1, 0.3, -0.9])).value.round(3).tolist()
    [0.0, 0.333, -1.0]
    """

    bits: Scalar = 16
    full_scale: Scalar | None = None
    stochastic: bool = field(default=False, metadata={"static": True})
    gain: Scalar = 0.0
    offset: Scalar = 0.0
    rate: Scalar = 1e8
    joules: Scalar | None = None

    def __post_init__(self) -> None:
        check_count(bits=self.bits)
        check_positive(full_scale=self.full_scale)
        check_finite(gain=self.gain, offset=self.offset)
        check_positive(rate=self.rate)
        check_not_negative(joules=self.joules)

    def scale(self, largest: jax.Array) -> jax.Array:
        """Full scale for blocks whose largest magnitudes are these; zero for nothing but zeros."""
        if self.full_scale is not None:
            return jnp.broadcast_to(jnp.asarray(self.full_scale).astype(largest.dtype), largest.shape)
        # The range is chosen by what the converter sees.
        gain, offset = (jnp.asarray(x).astype(largest.dtype) for x in (self.gain, self.offset))
        seen = jnp.abs(1 + gain) * largest
        # Exact powers: exp2 of a large exponent rounds.
        mantissa, exponent = jnp.frexp(seen)
        power = jnp.ldexp(jnp.ones_like(seen), jnp.where(mantissa == 0.5, exponent - 1, exponent))
        power = jnp.where(seen > 0, power, 0)
        return jnp.where(seen + jnp.abs(offset) * power > power, 2 * power, power)

    def saturates(self, largest: jax.Array, scale: jax.Array) -> jax.Array:
        """Whether magnitudes up to these are beyond a full scale."""
        gain, offset = (jnp.asarray(x).astype(scale.dtype) for x in (self.gain, self.offset))
        seen = jnp.abs(1 + gain) * largest + jnp.abs(offset) * scale
        return jnp.any(seen > scale * (1 + 4 * jnp.finfo(scale.dtype).eps))

    def step(self, scale: jax.Array) -> jax.Array:
        """Distance of two levels at a full scale."""
        return scale / self._steps(scale.dtype)

    def variance(self, scale: jax.Array) -> jax.Array:
        """Mean square of the rounding error, where the signal spreads over several levels."""
        return self.step(scale) ** 2 / (6 if self.stochastic else 12)

    def distort(self, block: jax.Array, scale: jax.Array) -> jax.Array:
        """Apply the errors of gain and offset, to each part of a complex number."""
        if jnp.iscomplexobj(block):
            return jax.lax.complex(self.distort(block.real, scale), self.distort(block.imag, scale))
        gain, offset = (jnp.asarray(x).astype(scale.dtype) for x in (self.gain, self.offset))
        return (1 + gain) * block + offset * scale

    def convert(
        self, block: jax.Array, key: jax.Array | None = None, *, symmetric: bool = False, axis: int | None = None
    ) -> Conversion:
        """Convert a block of numbers.

        Parameters
        ----------
        block : array
            Real or complex; real and imaginary parts are converted one by one.
        key : PRNG key, optional
            For stochastic rounding.
        symmetric : bool
            A square block of which only the lower triangle is converted: entries (i, j) and (j, i) are one component.
        axis : int, optional
            Choose the full scale along this axis alone, for each of the others by itself; for the whole block at once
            by default.

        Raises
        ------
        ValueError
            If the rounding is stochastic and there is no key.
        """
        if self.stochastic and key is None:
            raise ValueError("stochastic rounding needs a key: device.program(A, key=...)")
        if not jnp.issubdtype(block.dtype, jnp.complexfloating):
            return self._convert(block, self._range(jnp.abs(block), axis), key, 1 if symmetric else 0)
        scale = self._range(jnp.maximum(jnp.abs(block.real), jnp.abs(block.imag)), axis)
        first, second = (None, None) if key is None else jax.random.split(key)
        real = self._convert(block.real, scale, first, 1 if symmetric else 0)
        imaginary = self._convert(block.imag, scale, second, -1 if symmetric else 0)
        value = jax.lax.complex(real.value, imaginary.value)
        return Conversion(value, scale, real.saturated | imaginary.saturated)

    def _steps(self, dtype: jnp.dtype) -> jax.Array:
        """Steps from zero to the full scale."""
        bits = jnp.asarray(self.bits).astype(jnp.int32)
        return jnp.where(bits > 1, jnp.ldexp(jnp.ones((), dtype), bits - 1) - 1, 0.5)

    def _range(self, sizes: jax.Array, axis: int | None) -> jax.Array:
        return self.scale(jax.lax.stop_gradient(jnp.max(sizes, axis=axis, keepdims=True, initial=0.0)))

    def _convert(self, block: jax.Array, scale: jax.Array, key: jax.Array | None, mirror: int) -> Conversion:
        seen, most = self.distort(block, scale), self._steps(scale.dtype)
        # In steps, less half a one for one bit, which has levels off the grid. Products, so that the ends are exact.
        shift = jnp.where(most > 0.5, 0, most)
        position = seen / jnp.where(scale > 0, scale, 1) * most - shift
        if self.stochastic:
            assert key is not None
            level = jnp.floor(position + jax.random.uniform(key, block.shape, block.dtype))
        else:
            # To even, which is odd in x but for one bit, where zero has to go somewhere.
            level = jnp.round(position)
        value = jnp.where(scale > 0, scale * (jnp.clip(level + shift, -most, most) / most), seen)
        if mirror:
            # The imaginary part of a Hermitian matrix changes sign, and has no diagonal.
            value = jnp.tril(value, min(mirror, 0)) + mirror * jnp.tril(value, -1).T
        beyond = jnp.any(jnp.abs(seen) > scale * (1 + 4 * jnp.finfo(scale.dtype).eps))
        return Conversion(value, scale, beyond)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ReadNoise:
    r"""Band-limited white noise of the amplifiers before the read-out.

    Its autocorrelation is :math:`\tfrac{1}{2} S\omega\, e^{-\omega|t|}`, so that an average over a time much longer
    than :math:`1/\omega` has the variance :math:`S/\tau`.

    Parameters
    ----------
    density : float, >= 0
        S, square of the units of x times natural time.
    bandwidth : float, > 0
        :math:`\omega`, in radians per natural time.

    Notes
    -----
    The amplifiers are fast against the device: they add noise and do not delay what they amplify.
    """

    density: Scalar = 0.0
    bandwidth: Scalar = 100.0

    def __post_init__(self) -> None:
        check_not_negative(density=self.density)
        check_positive(bandwidth=self.bandwidth)

    @property
    def variance(self) -> Scalar:
        """Variance of one sample."""
        return self.density * self.bandwidth / 2
