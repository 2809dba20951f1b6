"""The read-out: noise of amplifiers, dither, and Sheppard's correction, against samples converted one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import thermolinalg as tla
from thermolinalg.readout import ReadOut
from thermolinalg.testing import assert_unit_variance, assert_within_stderr

KEY = jax.random.key(22)
NOISE = tla.ReadNoise(density=0.03, bandwidth=40.0)
COLUMNS = 20_000


def quantised(x, bits, scale, gain=0.0, offset=0.0):
    """Nearest of equally spaced levels, in NumPy."""
    step = 2 * scale / (2**bits - 2)
    return np.clip(step * np.round(((1 + gain) * x + offset * scale) / step), -scale, scale)


def averaged(readout, average, spread, schedule):
    """Readings of one average for many columns."""
    block = jnp.full((1, COLUMNS), average)
    return readout.average(block, jnp.full((1, 1), spread), schedule, KEY)


@pytest.mark.parametrize("duration", [0.01, 0.1, 2.0])
def test_noise_of_a_continuous_average_is_the_integral_of_its_autocorrelation(duration):
    seen = averaged(ReadOut(noise=NOISE), 0.7, 0.0, tla.Schedule(1.0, duration))
    exact = quad(lambda t: 2 * (duration - t) / duration**2 * 0.6 * np.exp(-40 * t), 0, duration, epsabs=1e-14)[0]
    np.testing.assert_allclose(seen.error, np.sqrt(exact), rtol=1e-10)
    z = (np.asarray(seen.value)[0] - 0.7) / np.sqrt(exact)
    assert_unit_variance(z)
    with pytest.raises(AssertionError):
        assert_unit_variance(z * np.sqrt(exact / (0.03 / duration)) if duration < 1 else 1.1 * z)


def test_noise_of_a_long_average_is_its_density_over_the_time():
    for duration in (1e2, 1e4):
        error = averaged(ReadOut(noise=NOISE), 0.0, 0.0, tla.Schedule(1.0, duration)).error
        # 1 - psi(z) z / 2 = 1 / z at z = 40 duration.
        np.testing.assert_allclose(error**2, 0.03 / duration * (1 - 1 / (40 * duration)), rtol=1e-9)


@pytest.mark.parametrize(("samples", "duration"), [(1, 1.0), (4, 0.02), (30, 0.5), (30, 50.0)])
def test_noise_of_a_sampled_average_is_the_sum_of_its_autocorrelation(samples, duration):
    seen = averaged(ReadOut(noise=NOISE), 0.7, 0.0, tla.Schedule(1.0, duration, samples))
    k = np.arange(samples) * duration / samples
    exact = 0.6 * np.mean(np.exp(-40 * np.abs(k[:, None] - k)))
    np.testing.assert_allclose(seen.error, np.sqrt(exact), rtol=1e-10)
    z = (np.asarray(seen.value)[0] - 0.7) / np.sqrt(exact)
    assert_unit_variance(z)
    with pytest.raises(AssertionError):
        assert_unit_variance(1.1 * z)


def test_a_continuous_average_is_converted_once():
    converter = tla.Converter(5, full_scale=2.0, gain=0.01, offset=0.02)
    block = jnp.asarray(np.random.default_rng(0).uniform(-1.5, 1.5, (3, 4)))
    seen = ReadOut(converter).average(block, jnp.zeros((3, 1)), tla.Schedule(1.0, 10.0), KEY)
    np.testing.assert_array_equal(seen.value, converter.convert(block).value)
    np.testing.assert_allclose(seen.value, quantised(np.asarray(block), 5, 2.0, 0.01, 0.02), rtol=1e-14, atol=1e-15)
    step = 4 / 30
    exact = np.hypot(step / np.sqrt(12), 0.01 * np.asarray(block) + 0.04)
    np.testing.assert_allclose(seen.error, exact, rtol=1e-12)
    assert not int(seen.flags)
    beyond = ReadOut(converter).average(2 * block, jnp.zeros((3, 1)), tla.Schedule(1.0, 10.0), KEY)
    assert int(beyond.flags) == tla.Status.SATURATED
    assert np.all(np.abs(beyond.value) <= 2)


SAMPLES = 40


def paths(rng, runs, mean, spread, correlation=0.0):
    """Stationary samples of one mode, run by run: each the last one, shrunk, and fresh noise."""
    x = np.empty((SAMPLES, runs))
    x[0] = rng.standard_normal(runs)
    for k in range(1, SAMPLES):
        x[k] = correlation * x[k - 1] + np.sqrt(1 - correlation**2) * rng.standard_normal(runs)
    return mean + spread * x


@pytest.mark.parametrize("mean", [0.0, 0.31, 0.5])
@pytest.mark.parametrize(("steps", "correlation"), [(0.6, 0.0), (2.0, 0.0), (2.0, 0.8)])
def test_rounding_errors_of_dithered_samples_average_out(mean, steps, correlation):
    # In units of a step. Chosen so that the range does not matter: both converters have it fixed.
    bits, scale = 8, 127.0
    x = paths(np.random.default_rng(3), COLUMNS, mean, steps, correlation)
    found = quantised(x, bits, scale).mean(0) - x.mean(0)
    seen = ReadOut(tla.Converter(bits, scale)).average(
        jnp.asarray(x.mean(0)[None]), jnp.full((1, 1), steps), tla.Schedule(1.0, 1e3, SAMPLES), KEY
    )
    drawn = np.asarray(seen.value)[0] - x.mean(0)
    assert int(seen.flags) == 0
    for error in (found, drawn):
        # Dither of half a step leaves a bias of 0.3 % of it, here of 6 % of the error; and as much of the variance.
        assert abs(np.mean(error)) < 0.003 + 6 * np.std(error) / np.sqrt(COLUMNS)
        np.testing.assert_allclose(np.mean(error**2), (1 / 12) / SAMPLES, rtol=6 * np.sqrt(2 / COLUMNS) + 0.01)
    np.testing.assert_allclose(seen.error, np.sqrt(1 / 12 / SAMPLES), rtol=1e-12)
    with pytest.raises(AssertionError):  # one conversion of the average
        np.testing.assert_allclose(np.mean((np.round(x.mean(0)) - x.mean(0)) ** 2), 1 / 12 / SAMPLES, rtol=0.1)


@pytest.mark.parametrize("mean", [0.2, 0.4])
def test_without_dither_rounding_stays_and_the_reading_is_called_coarse(mean):
    x = paths(np.random.default_rng(4), COLUMNS, mean, 0.02)
    found = quantised(x, 8, 127.0).mean(0)
    seen = ReadOut(tla.Converter(8, 127.0)).average(
        jnp.asarray(x.mean(0)[None]), jnp.full((1, 1), 0.02), tla.Schedule(1.0, 1e3, SAMPLES), KEY
    )
    assert int(seen.flags) == tla.Status.COARSE
    np.testing.assert_allclose(np.asarray(seen.value)[0], found, atol=1e-12)
    np.testing.assert_allclose(seen.error, 12**-0.5, rtol=1e-12)


@pytest.mark.parametrize(
    ("spread", "noise", "stochastic", "coarse"),
    [
        (0.51, None, False, False),
        (0.49, None, False, True),
        (0.0, tla.ReadNoise(0.03, 40.0), False, False),
        (0.0, tla.ReadNoise(0.001, 40.0), False, True),
        (0.0, None, True, False),
    ],
)
def test_half_a_step_of_noise_from_anywhere_is_dither(spread, noise, stochastic, coarse):
    readout = ReadOut(tla.Converter(8, 127.0, stochastic=stochastic), noise)
    seen = averaged(readout, 0.3, spread, tla.Schedule(1.0, 1e3, SAMPLES))
    assert int(seen.flags) == (tla.Status.COARSE if coarse else 0)
    # A continuous average has no samples to dither.
    assert not int(averaged(readout, 0.3, spread, tla.Schedule(1.0, 1e3)).flags)


def test_samples_beyond_the_full_scale_saturate():
    for scale, flag in ((8.0, 0), (2.0, int(tla.Status.SATURATED))):
        seen = averaged(ReadOut(tla.Converter(10, scale)), 1.0, 1.0, tla.Schedule(1.0, 1e3, SAMPLES))
        assert int(seen.flags) == flag
    far = averaged(ReadOut(tla.Converter(10, 2.0)), 5.0, 1.0, tla.Schedule(1.0, 1e3, SAMPLES))
    assert np.all(far.value <= 2)


def test_gain_and_offset_shift_sampled_averages_too():
    seen = averaged(ReadOut(tla.Converter(12, 8.0, gain=0.02, offset=0.01)), 1.5, 1.0, tla.Schedule(1.0, 1e3, SAMPLES))
    assert abs(np.mean(seen.value) - (1.02 * 1.5 + 0.08)) < 1e-4
    np.testing.assert_allclose(seen.error, 0.02 * 1.5 + 0.08, rtol=1e-3)


RUNS, DIM = 4000, 3
FACTOR = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.5, 0.2, 1.3]])
MOMENT = FACTOR @ FACTOR.T


def cells(rng, complex_):
    """Samples (runs, n, d) of cells, two components each if complex, and the factor that makes noise of its size."""
    white = rng.standard_normal((RUNS, SAMPLES, DIM, 2 if complex_ else 1))
    x = np.einsum("ij,rnjc->rnic", FACTOR, white)
    return x[..., 0] + 1j * x[..., 1] if complex_ else x[..., 0]


def converted(x, *args):
    return quantised(x.real, *args) + 1j * quantised(x.imag, *args) if np.iscomplexobj(x) else quantised(x, *args)


def products(x, y, components):
    return np.einsum("rni,rnj->rij", x, y.conj()) / (components * x.shape[1])


@pytest.fixture(scope="module", params=[False, True], ids=["real", "complex"])
def second_moments(request):
    """Samples, their second moments, and what the read-out makes of these: value, claimed error, flags."""
    components = 2 if request.param else 1
    x = cells(np.random.default_rng(5), request.param)
    exact = products(x, x, components)

    own = jnp.asarray(components * np.diag(MOMENT))

    @jax.jit
    def read(readout, schedule, lagged=None):
        def one(moment, key):
            if lagged is None:
                return readout.moment(moment, 1.0, schedule, key)
            return readout.lagged(moment, own, schedule, key)

        return jax.vmap(one)(jnp.asarray(exact if lagged is None else lagged), jax.random.split(KEY, RUNS))

    return x, exact, components, read


@pytest.mark.parametrize("bits", [4, 6])
def test_second_moments_of_converted_samples_lose_a_known_amount(second_moments, bits):
    x, exact, components, read = second_moments
    scale, step = 8.0, 16 / (2**bits - 2)
    numbers = products(converted(x, bits, scale), converted(x, bits, scale), components)
    found = numbers - step**2 / 12 * np.eye(DIM) - exact
    seen = read(ReadOut(tla.Converter(bits, scale)), tla.Schedule(1.0, 1e3, SAMPLES))
    assert not np.any(seen.flags)
    drawn = np.asarray(seen.value) - exact
    np.testing.assert_allclose(seen.value, np.swapaxes(np.asarray(seen.value).conj(), 1, 2), atol=1e-14)
    for error in (found, drawn):
        assert_within_stderr(error.mean(0), error.std(0) / np.sqrt(RUNS), 0.0, degrees=RUNS - 1)
        ratio = np.mean(np.abs(error) ** 2, 0) / np.mean(np.asarray(seen.error) ** 2, 0)
        # Fourth moments of the differences: of 4000 runs to 6 sqrt(4 / 4000), and kurtosis of Gaussian products.
        np.testing.assert_allclose(ratio, 1, atol=0.2)
    ratio = np.mean(np.abs(found) ** 2, 0) / np.mean(np.abs(drawn) ** 2, 0)
    np.testing.assert_allclose(ratio, 1, atol=0.2)
    error = numbers - exact
    with pytest.raises(AssertionError):  # without Sheppard's correction
        assert_within_stderr(error.mean(0), error.std(0) / np.sqrt(RUNS), 0.0, degrees=RUNS - 1)


@pytest.mark.parametrize("spacing", [1.0, 0.01])
def test_second_moments_of_noisy_samples_lose_the_variance_of_the_noise(second_moments, spacing):
    x, exact, components, read = second_moments
    noise = tla.ReadNoise(0.01, 40.0)
    rng, rho = np.random.default_rng(6), np.exp(-40 * spacing)
    white = rng.standard_normal((SAMPLES, RUNS, DIM, 2))
    e = np.empty_like(white)
    e[0] = white[0]
    for k in range(1, SAMPLES):
        e[k] = rho * e[k - 1] + np.sqrt(1 - rho**2) * white[k]
    e = np.sqrt(0.2) * np.swapaxes(e[..., 0] + 1j * e[..., 1] if components == 2 else e[..., 0], 0, 1)
    found = products(x + e, x + e, components) - 0.2 * np.eye(DIM) - exact
    seen = read(ReadOut(noise=noise), tla.Schedule(1.0, SAMPLES * spacing, SAMPLES))
    drawn = np.asarray(seen.value) - exact
    for error in (found, drawn):
        assert_within_stderr(error.mean(0), error.std(0) / np.sqrt(RUNS), 0.0, degrees=RUNS - 1)
    ratio = np.mean(np.asarray(seen.error) ** 2, 0) / np.mean(np.abs(found) ** 2, 0)
    # Samples here are independent, which the noise of close samples is not: the claim is that of slow samples.
    assert np.all(ratio > 0.8)
    np.testing.assert_allclose(np.mean(np.asarray(seen.error) ** 2, 0) / np.mean(np.abs(drawn) ** 2, 0), 1, atol=0.2)
    if spacing == 1.0:
        np.testing.assert_allclose(ratio, 1, atol=0.2)
    error = found + 0.2 * np.eye(DIM)
    with pytest.raises(AssertionError):
        assert_within_stderr(error.mean(0), error.std(0) / np.sqrt(RUNS), 0.0, degrees=RUNS - 1)


def test_errors_of_earlier_and_later_samples_do_not_meet(second_moments):
    x, _, components, read = second_moments
    bits, scale, step = 5, 8.0, 16 / 30
    # Later samples are what is left of the earlier ones, and noise that keeps the variance.
    y = 0.6 * x + 0.8 * cells(np.random.default_rng(9), components == 2)
    plain = products(y, x, 1)
    found = products(converted(y, bits, scale), converted(x, bits, scale), 1) - plain
    seen = read(ReadOut(tla.Converter(bits, scale)), tla.Schedule(1.0, 1e3, SAMPLES), plain)
    drawn = np.asarray(seen.value) - plain
    for error in (found, drawn):
        assert_within_stderr(error.mean(0), error.std(0) / np.sqrt(RUNS), 0.0, degrees=RUNS - 1)
        ratio = np.mean(np.abs(error) ** 2, 0) / np.mean(np.asarray(seen.error) ** 2, 0)
        np.testing.assert_allclose(ratio, 1, atol=0.2)
    error = found + step**2 / 12
    with pytest.raises(AssertionError):
        assert_within_stderr(error.mean(0), error.std(0) / np.sqrt(RUNS), 0.0, degrees=RUNS - 1)


def test_moments_know_coarse_and_saturated(second_moments):
    _, exact, _, read = second_moments
    schedule = tla.Schedule(1.0, 1e3, SAMPLES)
    for converter, flag in (
        (tla.Converter(4, 8.0), 0),
        (tla.Converter(2, 8.0), tla.Status.COARSE),
        (tla.Converter(10, 1.0), tla.Status.SATURATED),
        (tla.Converter(1), tla.Status.COARSE),
        (tla.Converter(2, 8.0, stochastic=True), 0),
    ):
        for moment in (None, exact):
            assert set(np.unique(read(ReadOut(converter), schedule, moment).flags)) == {int(flag)}


def test_gain_and_offset_of_second_moments(second_moments):
    x, exact, components, read = second_moments
    scale = 8.0
    numbers = converted(x, 16, scale, 0.02, 0.05)
    found = products(numbers, numbers, components)
    seen = read(ReadOut(tla.Converter(16, scale, gain=0.02, offset=0.05)), tla.Schedule(1.0, 1e3, SAMPLES))
    # The mean over runs of what gain and offset do; x has no mean, but 40 samples of it have.
    gap = found - np.asarray(seen.value)
    assert_within_stderr(gap.mean(0), gap.std(0) / np.sqrt(RUNS), 0.0, degrees=RUNS - 1)
    claimed = np.sqrt(np.mean(np.asarray(seen.error) ** 2, 0))
    # 0.4 times the mean of 40 samples in the runs, twice: 0.002 times the sizes of the cells.
    assert np.all(claimed > np.abs(np.mean(found - exact, 0)) - 0.02)
    assert np.all(claimed < 1.5 * np.abs(np.mean(found - exact, 0)) + 0.05)


def test_a_continuous_moment_is_converted_entry_by_entry(second_moments):
    _, exact, _, read = second_moments
    converter = tla.Converter(6, full_scale=1e-3, gain=0.01, offset=0.02)
    seen = read(ReadOut(converter), tla.Schedule(1.0, 1e3))
    free = tla.Converter(6, gain=0.01, offset=0.02)
    convert = jax.vmap(lambda block: free.convert(block, symmetric=True).value)
    np.testing.assert_allclose(
        seen.value, convert(jnp.asarray((exact + np.swapaxes(exact.conj(), 1, 2)) / 2)), atol=1e-12
    )
    assert np.all(seen.error > 0.01 * np.abs(exact))
    noisy = read(ReadOut(noise=tla.ReadNoise(0.01, 40.0)), tla.Schedule(1.0, 50.0))
    error = np.asarray(noisy.value) - exact
    assert_within_stderr(error.mean(0), error.std(0) / np.sqrt(RUNS), 0.0, degrees=RUNS - 1)
    np.testing.assert_allclose(np.mean(np.abs(error) ** 2, 0) / np.mean(np.asarray(noisy.error) ** 2, 0), 1, atol=0.2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_states_are_read_one_by_one(dtype):
    rng = np.random.default_rng(7)
    block = rng.standard_normal((4, 3000)) + (1j * rng.standard_normal((4, 3000)) if "c" in np.dtype(dtype).kind else 0)
    components = 2 if np.iscomplexobj(block) else 1
    readout = ReadOut(tla.Converter(7, 8.0), tla.ReadNoise(jnp.asarray(0.001), jnp.asarray(40.0)))
    seen = readout.states(jnp.asarray(block.astype(dtype)), KEY)
    assert seen.value.dtype == dtype
    step = 16 / 126
    np.testing.assert_allclose(seen.error, np.sqrt(components * (0.02 + step**2 / 12)), rtol=1e-5)
    z = np.abs(np.asarray(seen.value) - block) / np.asarray(seen.error)
    assert_unit_variance(z.ravel(), kurtosis=3 if components == 1 else 2)
    with pytest.raises(AssertionError):
        assert_unit_variance(1.1 * z.ravel())


@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.complex128])
@pytest.mark.parametrize("samples", [None, 20])
def test_every_dtype_passes_every_way(dtype, samples):
    readout = ReadOut(
        tla.Converter(jnp.asarray(8), jnp.asarray(8.0), gain=jnp.asarray(0.01), offset=jnp.asarray(0.01)),
        tla.ReadNoise(jnp.asarray(1e-3), jnp.asarray(40.0)),
    )
    real = np.finfo(dtype).dtype
    schedule = tla.Schedule(jnp.asarray(1.0, real), jnp.asarray(40.0, real), samples)
    moment = jnp.asarray(MOMENT.astype(dtype))
    own = jnp.asarray(np.diag(MOMENT).astype(real))

    @jax.jit
    def read(readout, schedule):
        later = [] if samples is None else [readout.lagged(moment, own, schedule, KEY)]
        one = readout.average(moment, own[:, None], schedule, KEY)
        return [one, readout.moment(moment, 1.0, schedule, KEY), *later]

    for seen in read(readout, schedule):
        assert seen.value.dtype == dtype
        assert seen.error.dtype == real
        assert seen.flags.dtype == np.int32
        assert np.all(np.isfinite(seen.value))
        assert np.all(seen.error > 0)


@pytest.mark.parametrize("samples", [None, 20])
def test_the_error_of_an_average_grows_with_noise_and_falls_with_bits(samples):
    @jax.jit
    def square(bits, density):
        readout = ReadOut(tla.Converter(bits, 8.0), tla.ReadNoise(density, 40.0))
        block = jnp.asarray(np.random.default_rng(8).uniform(-1, 1, (1, COLUMNS)))
        seen = readout.average(block, jnp.ones((1, 1)), tla.Schedule(1.0, 10.0, samples), KEY)
        return jnp.mean((seen.value - block) ** 2), jnp.mean(seen.error**2)

    found = np.array([[square(bits, density) for bits in (5, 6, 7, 8)] for density in (0.0, 1e-4, 1e-3)])
    np.testing.assert_allclose(found[..., 0] / found[..., 1], 1, atol=6 * np.sqrt(2 / COLUMNS))
    assert np.all(np.diff(found[..., 0], axis=0) > 0)
    assert np.all(np.diff(found[..., 0], axis=1) < 0)
    np.testing.assert_allclose(found[0, :-1, 1] / found[0, 1:, 1], [(62 / 30) ** 2, (126 / 62) ** 2, (254 / 126) ** 2])
