"""How averages, moments and states are read: noise of the amplifiers first, then a conversion to numbers."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermolinalg.converters import Converter, ReadNoise
from thermolinalg.draws import bartlett, white_noise
from thermolinalg.laws import Scalar
from thermolinalg.paths import root
from thermolinalg.relaxation import psi, sampled_psi
from thermolinalg.simulators import Schedule
from thermolinalg.solution import Status


class Seen(NamedTuple):
    """What is read: numbers, their root mean square error beyond that of the run, and flags."""

    value: jax.Array
    error: jax.Array
    flags: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ReadOut:
    """The way from voltages to numbers; without parts, numbers are the voltages.

    A continuous average is formed before the converter, and converted once. Samples are converted one by one, and
    averaged as numbers: thermal noise spreads them over levels, so that rounding errors average out too.
    """

    adc: Converter | None = None
    noise: ReadNoise | None = None

    @property
    def ideal(self) -> bool:
        """Whether it changes nothing."""
        return self.adc is None and self.noise is None

    def average(self, average: jax.Array, spread: jax.Array, schedule: Schedule, key: jax.Array) -> Seen:
        """Read a time average.

        Parameters
        ----------
        average : array, shape (d, k)
        spread : array, shape (d, 1)
            Standard deviation of a real component of one sample.
        """
        first, second = jax.random.split(key)
        real = spread.dtype
        noise = self._averaged_noise(schedule, real)
        value = average + jnp.sqrt(noise).astype(average.dtype) * white_noise(first, average.shape, average.dtype)
        components = 2 if jnp.iscomplexobj(average) else 1
        square = jnp.broadcast_to(components * noise, average.shape)
        if self.adc is None:
            return Seen(value, jnp.sqrt(square), jnp.zeros((), jnp.int32))
        if schedule.samples is None:
            found = self.adc.convert(value, second, axis=0)
            square = square + components * self.adc.variance(found.scale) + self._error(value, found.scale) ** 2
            return Seen(found.value, jnp.sqrt(square), found.flags)
        samples = jnp.asarray(schedule.samples).astype(real)
        one = jnp.sqrt(spread**2 + self._sample_noise(real))
        reach = jnp.abs(average) + _reach(samples) * one
        largest = jnp.max(reach, 0, keepdims=True)
        scale = self.adc.scale(largest)
        step = self.adc.step(scale)
        rounding = self.adc.variance(scale) / samples
        # Noise of half a step makes the mean of the rounded samples that of the samples, to 0.3 % of a step.
        dithered = jnp.broadcast_to(one > step / 2, average.shape) | self.adc.stochastic
        noisy = self.adc.distort(value, scale)
        noisy = noisy + jnp.sqrt(rounding).astype(value.dtype) * white_noise(second, value.shape, value.dtype)
        rounded = replace(self.adc, full_scale=scale).convert(value, second, axis=0).value
        flags = jnp.where(self.adc.saturates(largest, scale), int(Status.SATURATED), 0)
        flags |= jnp.where(jnp.all(dithered), 0, int(Status.COARSE))
        square = square + components * jnp.where(dithered, rounding, self.adc.variance(scale))
        square = square + self._error(value, scale) ** 2
        # No mean of numbers is beyond what a number can be.
        value = _clip(jnp.where(dithered, noisy, rounded), scale)
        return Seen(value, jnp.sqrt(square), flags.astype(jnp.int32))

    def moment(self, moment: jax.Array, beta: Scalar, schedule: Schedule, key: jax.Array) -> Seen:
        r"""Read a second moment of zero mean, (d, d), given times beta.

        With e the errors of the N samples x, what is read is the mean of :math:`(x + e)(x + e)^*`, drawn given that of
        :math:`xx^*`, less the known :math:`E\,ee^*`.
        """
        first, second, third = jax.random.split(key, 3)
        real = jnp.finfo(moment.dtype).dtype
        components = 2 if jnp.iscomplexobj(moment) else 1
        warm = jnp.asarray(beta).astype(real)
        own = jnp.maximum(jnp.diagonal(moment).real, 0)
        samples, power, scale, flags = self._per_sample(own / warm, schedule)
        power = warm * power
        size = moment.shape[0]
        error = jnp.sqrt(power / (components * samples)).astype(moment.dtype) * white_noise(
            first, moment.shape, moment.dtype
        )
        factor = root(moment) + error
        rest = bartlett(second, size, jnp.maximum(samples - size, 0), moment.dtype)
        eye = jnp.eye(size, dtype=moment.dtype)
        noise = (power / (components * samples)).astype(moment.dtype) * (rest @ rest.conj().T)
        # Fewer errors that are independent than unknowns are drawn as that many.
        drawn = jnp.maximum(samples, size) / samples
        value = factor @ factor.conj().T + noise - (drawn * power).astype(moment.dtype) * eye
        value = jnp.where(power > 0, value, moment)
        square = (power * (own[:, None] + own[None]) + drawn * power**2) / samples
        if components == 1:
            square = square * (1 + jnp.eye(size, dtype=real))
        if self.adc is None:
            return Seen(value, jnp.sqrt(square), flags)
        if schedule.samples is None:
            # Products were averaged as voltages, and every entry is converted once, in a range of its own kind.
            found = replace(self.adc, full_scale=None).convert(value, third, symmetric=True)
            square = square + components * self.adc.variance(found.scale) + self._error(value, found.scale) ** 2
            return Seen(found.value, jnp.sqrt(square), flags)
        value, error = self._distorted(value, components, warm * scale**2)
        return Seen(value, jnp.sqrt(square + error**2), flags)

    def lagged(self, moment: jax.Array, own: jax.Array, schedule: Schedule, key: jax.Array) -> Seen:
        """Read the mean of the products of later and earlier samples, of variances (d,): their errors do not meet."""
        components = 2 if jnp.iscomplexobj(moment) else 1
        samples, power, scale, flags = self._per_sample(own / components, schedule)
        power = components * power
        square = (power * (own[:, None] + own[None]) + power**2) / samples
        noise = white_noise(key, moment.shape, moment.dtype) * jnp.sqrt(square / components).astype(moment.dtype)
        value = moment + noise
        if self.adc is None:
            return Seen(value, jnp.sqrt(square), flags)
        value, error = self._distorted(value, components, components * scale**2)
        return Seen(value, jnp.sqrt(square + error**2), flags)

    def states(self, block: jax.Array, key: jax.Array) -> Seen:
        """Read states one by one, (d, n)."""
        first, second = jax.random.split(key)
        components = 2 if jnp.iscomplexobj(block) else 1
        noise = self._sample_noise(jnp.finfo(block.dtype).dtype)
        value = block + jnp.sqrt(noise).astype(block.dtype) * white_noise(first, block.shape, block.dtype)
        if self.adc is None:
            error = jnp.broadcast_to(jnp.sqrt(components * noise), value.shape)
            return Seen(value, error, jnp.zeros((), jnp.int32))
        found = self.adc.convert(value, second)
        square = components * (noise + self.adc.variance(found.scale)) + self._error(value, found.scale) ** 2
        return Seen(found.value, jnp.sqrt(jnp.broadcast_to(square, value.shape)), found.flags)

    def _sample_noise(self, real: jnp.dtype) -> jax.Array:
        return jnp.asarray(0.0 if self.noise is None else self.noise.variance).astype(real)

    def _averaged_noise(self, schedule: Schedule, real: jnp.dtype) -> jax.Array:
        """Variance of the average of the noise of the amplifiers."""
        if self.noise is None:
            return jnp.zeros((), real)
        bandwidth, duration = (jnp.asarray(x).astype(real) for x in (self.noise.bandwidth, schedule.duration))
        z = bandwidth * duration
        if schedule.samples is None:
            return self._sample_noise(real) * psi(z)
        samples = jnp.asarray(schedule.samples).astype(real)
        return self._sample_noise(real) * sampled_psi(samples, z / samples)

    def _error(self, value: jax.Array, scale: jax.Array) -> jax.Array:
        """What gain and offset add."""
        assert self.adc is not None
        gain, offset = (jnp.asarray(x).astype(scale.dtype) for x in (self.adc.gain, self.adc.offset))
        if not jnp.iscomplexobj(value):
            return jnp.abs(gain * value + offset * scale)
        return jnp.hypot(gain * value.real + offset * scale, gain * value.imag + offset * scale)

    def _distorted(self, value: jax.Array, components: int, square: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A second moment with what gain and offset make of it, and their error; full scales have this square."""
        assert self.adc is not None
        gain, offset = (jnp.asarray(x).astype(square.dtype) for x in (self.adc.gain, self.adc.offset))
        # Twice the gain and its square, without the difference of large numbers.
        grown, shift = gain * (2 + gain), offset**2 * square
        error = jnp.abs(grown) * jnp.abs(value) + shift
        return (1 + grown).astype(value.dtype) * value + shift.astype(value.dtype), error

    def _per_sample(self, own: jax.Array, schedule: Schedule) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Independent errors, mean square of each, full scale, and flags, for samples of variances (d,)."""
        real = own.dtype
        noise, flags, scale = self._sample_noise(real), jnp.zeros((), jnp.int32), jnp.zeros((), real)
        averaged = self._averaged_noise(schedule, real)
        live = jnp.where(noise > 0, noise, 1)
        if schedule.samples is None:
            # Noise of a bandwidth has so many independent values in a time.
            return jnp.where(noise > 0, live / jnp.where(noise > 0, averaged, 1), 1), noise, scale, flags
        samples = jnp.asarray(schedule.samples).astype(real)
        rounding = jnp.zeros((), real)
        if self.adc is not None:
            spread = jnp.sqrt(own + noise)
            reach = _reach(samples * own.size) * jnp.max(spread)
            scale = self.adc.scale(reach)
            rounding = self.adc.variance(scale)
            coarse = (jnp.min(spread) < self.adc.step(scale) / 2) & (not self.adc.stochastic)
            flags = jnp.where(self.adc.saturates(reach, scale), int(Status.SATURATED), 0)
            flags = (flags | jnp.where(coarse, int(Status.COARSE), 0)).astype(jnp.int32)
        # Rounding errors do not know of each other; the noise of samples that are close does.
        power, mean = noise + rounding, averaged + rounding / samples
        return jnp.where(power > 0, power / jnp.where(power > 0, mean, 1), samples), power, scale, flags


def _reach(samples: jax.Array) -> jax.Array:
    """Largest of so many standard normal numbers, about."""
    return jnp.sqrt(2 * jnp.log(2 * samples))


def _clip(value: jax.Array, scale: jax.Array) -> jax.Array:
    """The value with each component between plus and minus a full scale."""
    if not jnp.iscomplexobj(value):
        return jnp.clip(value, -scale, scale)
    return jax.lax.complex(jnp.clip(value.real, -scale, scale), jnp.clip(value.imag, -scale, scale))
