r"""Draws of a sample covariance: independent samples at once, correlated ones by frequency or by walking.

Every function returns the sum over samples, in the eigenbasis, so that the caller knows what it divides by.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp

from thermolinalg.dynamics import Memory
from thermolinalg.laws import RunLaw, Scalar

BLOCK = 512
"""Steps of a walk between two updates of the sum: enough for a matrix product at full speed, few enough for a cache."""


def white_noise(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Standard normal numbers; real and imaginary parts each, for every degree of freedom has the same temperature."""
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return jax.random.normal(key, shape, dtype)
    real, imaginary = jax.random.normal(key, (2, *shape), jnp.finfo(dtype).dtype)
    return jax.lax.complex(real, imaginary)


def bartlett(key: jax.Array, size: int, degrees: Scalar, dtype: jnp.dtype) -> jax.Array:
    r"""Lower triangular T with :math:`TT^* \sim` the sum of `degrees` outer products of white noise.

    Parameters
    ----------
    size : int
        d.
    degrees : int >= 0
        Number of vectors, any; from d - 1 downwards T has as many columns that are not zero.

    Notes
    -----
    The cost is d^2 normals and d chi-squares, whatever `degrees` is.

    References
    ----------
    Bartlett, *On the theory of statistical regression*, Proc. Royal Soc. Edinburgh 53 (1933).
    """
    real = jnp.finfo(dtype).dtype
    components = 2 if jnp.issubdtype(dtype, jnp.complexfloating) else 1
    normals, squares = jax.random.split(key)
    left = components / 2 * (jnp.asarray(degrees).astype(real) - jax.lax.iota(real, size))
    length = jnp.sqrt(2 * jax.random.gamma(squares, jnp.maximum(left, 0.5), dtype=real))
    below = jnp.tril(white_noise(normals, (size, size), dtype), -1)
    return jnp.where(left[None] > 0, below + jnp.diag(length).astype(dtype), 0)


def independent(key: jax.Array, rates: jax.Array, samples: Scalar, dtype: jnp.dtype) -> jax.Array:
    """Sum over independent samples of modes of variance 1/rate, shape (d, d)."""
    factor = bartlett(key, rates.size, samples, dtype) / jnp.sqrt(rates)[:, None].astype(dtype)
    return factor @ factor.conj().T


def correlated(
    key: jax.Array,
    rates: jax.Array,
    memory: Memory,
    duration: Scalar,
    samples: Scalar,
    dtype: jnp.dtype,
    growth: float = 0.5,
) -> jax.Array:
    r"""Sum over equally spaced samples of modes of variance 1/rate, frequency by frequency.

    A stationary run of N samples is close to N independent vectors, one for each frequency, whose variances are the
    power spectrum. Frequencies are gathered in bins that grow geometrically; a bin of n vectors with one spectrum is
    a Wishart draw, or n vectors where n < d.

    Parameters
    ----------
    growth : float
        Width of a bin relative to its distance from zero.

    Notes
    -----
    Bins of modes with inertia are narrower: at most half of the narrowest line, up to the last.

    The mean is exact, and the sum positive semi-definite. The mean square error of the covariance is right within 2 %
    when the slowest mode has 20 effective samples or more; below that the ends of the run, which the frequencies do not
    see, matter. The cost grows with the logarithm of the number of samples.
    """
    size, real = rates.size, rates.dtype
    n = jnp.asarray(samples).astype(real)
    step = memory.decay * (jnp.asarray(duration).astype(real) / n).astype(memory.decay.dtype)
    # A mode that rings has a line of its own width, which a bin must not smear: low frequencies one by one, then bins
    # of a part of the narrowest line, until the last line is behind.
    ringing = jnp.iscomplexobj(memory.decay)
    edges, points = [0], 1 if ringing else 9
    while int(growth * edges[-1]) < size:
        edges.append(edges[-1] + (1 if ringing else max(1, int(growth * edges[-1]))))
    index = jnp.asarray(duration).astype(real) / jnp.pi
    narrow = 0.5 * jnp.min(memory.decay.real) * index
    behind = 2 * jnp.max(jnp.abs(memory.decay.imag)) * index
    begins, ends = (jnp.asarray(x, real) for x in (edges[:-1], edges[1:]))

    def spectrum(begin, count, points=9):
        """Mean power of each mode over the frequencies number begin .. begin + count - 1."""
        index = jnp.floor(begin + count * (jnp.arange(points, dtype=real) + 0.5) / points)
        sine = jnp.sin(jnp.pi * jnp.floor((index + 1) / 2) / n)[:, None].astype(step.dtype)
        power = 0.0
        for a, z in zip(memory.position, step[:, None], strict=True):
            line = -jnp.expm1(-2 * z) / (jnp.expm1(-z) ** 2 + 4 * jnp.exp(-z) * sine**2)
            power = power + (a[None] * line).real
        return jnp.mean(jnp.maximum(power, 0.0), 0)

    def following(begin):
        count = growth * begin
        if ringing:
            count = jnp.where(begin < behind, jnp.minimum(count, jnp.maximum(narrow, 1.0)), count)
        count = jnp.minimum(jnp.floor(count), n - begin)
        return begin + count, count

    counts = jnp.clip(n - begins, 0, ends - begins)
    low = jax.lax.map(lambda bin: spectrum(bin[0], bin[1], points), (begins, counts))

    def add(carry):
        begin, total = carry
        end, count = following(begin)
        return end, total + count * spectrum(begin, count)

    last = jnp.minimum(jnp.asarray(edges[-1], real), n)
    _, total = jax.lax.while_loop(lambda carry: carry[0] < n, add, (last, counts @ low))
    scale = n / total / rates

    widths = [end - begin for begin, end in pairwise(edges)]
    bins = jnp.repeat(jnp.arange(len(widths)), jnp.asarray(widths), total_repeat_length=edges[-1])
    live = jnp.arange(edges[-1], dtype=real)[:, None] < n
    amplitude = jnp.where(live, jnp.sqrt(low * scale[None])[bins], 0.0)
    first, rest = jax.random.split(key)
    vectors = amplitude.astype(dtype) * white_noise(first, amplitude.shape, dtype)

    def draw(carry):
        begin, j, moment = carry
        end, count = following(begin)
        factor = jnp.sqrt(spectrum(begin, count) * scale)[:, None].astype(dtype)
        factor = factor * bartlett(jax.random.fold_in(rest, j), size, count, dtype)
        return end, j + 1, moment + factor @ factor.conj().T

    return jax.lax.while_loop(lambda carry: carry[0] < n, draw, (last, 0, vectors.T @ vectors.conj()))[2]


def walk(key: jax.Array, settle: RunLaw, move: RunLaw, samples: Scalar, dtype: jnp.dtype) -> jax.Array:
    """Sum over the samples of a run from rest, in exact steps.

    Parameters
    ----------
    settle, move : RunLaw
        Of the burn-in, and of the step from one sample to the next.
    samples : int, >= 1
        Any number; the cost grows in proportion.

    Notes
    -----
    The kicks are drawn in single precision, whose normal law has the right variance to 1e-7, also for a state of double
    precision: they take half of the time of a walk.
    """
    start, kick, first = move.start[1:].astype(dtype), move.end_scale().astype(dtype), settle.end_scale().astype(dtype)
    components, _, size = start.shape
    n = jnp.asarray(samples)
    key, begin = jax.random.split(key)
    state = (first * white_noise(begin, (1, components, size), dtype)).sum(1)
    single = jnp.complex64 if jnp.issubdtype(dtype, jnp.complexfloating) else jnp.float32

    def advance(state, noise):
        return (start * state[None]).sum(1) + (kick * noise[None]).sum(1), state[0]

    def block(number, carry):
        state, moment = carry
        noise = white_noise(jax.random.fold_in(key, number), (BLOCK, components, size), single).astype(dtype)
        state, seen = jax.lax.scan(advance, state, noise)
        live = (number * BLOCK + jnp.arange(BLOCK))[:, None] < n
        # Samples along rows: products over columns run at half the speed.
        rows = jax.lax.optimization_barrier(jnp.where(live, seen, 0).T)
        return state, [total + rows[i:j] @ rows[:j].conj().T for total, (i, j) in zip(moment, parts, strict=True)]

    blocks = (n + BLOCK - 1) // BLOCK
    # The lower triangle in strips: what lies above the diagonal would be computed twice.
    strips = max(1, min(4, size // 128))
    parts = list(pairwise(size * k // strips for k in range(strips + 1)))
    begun = [jnp.zeros((j - i, j), dtype) for i, j in parts]
    moment = jax.lax.fori_loop(0, blocks, block, (state, begun))[1]
    lower = jnp.concatenate([jnp.pad(part, ((0, 0), (0, size - part.shape[1]))) for part in moment])
    return jnp.tril(lower) + jnp.tril(lower, -1).conj().T
