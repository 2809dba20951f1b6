"""Converters: levels, ranges, rounding, and the errors of gain and offset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import thermolinalg as tla
from thermolinalg.testing import assert_within_stderr

KEY = jax.random.key(20)
BLOCK = np.random.default_rng(0).standard_normal((6, 5))
SQUARE = np.random.default_rng(1).standard_normal((5, 5))
REALS = st.floats(-1e6, 1e6).map(lambda x: x if abs(x) > 1e-6 else 0.0)


def levels(bits, scale):
    """All levels of a converter, by counting them."""
    return (
        np.array([-scale, scale])
        if bits == 1
        else 2 * scale * np.arange(1 - 2 ** (bits - 1), 2 ** (bits - 1)) / (2**bits - 2)
    )


@jax.jit
def traced(block, bits, full_scale, gain, offset):
    found = tla.Converter(bits, full_scale, gain=gain, offset=offset).convert(block)
    return found.value, found.saturated


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 12])
@pytest.mark.parametrize("scale", [1.0, 0.7, 3.0])
def test_every_number_goes_to_the_nearest_of_equally_spaced_levels(bits, scale):
    found = tla.Converter(bits, scale).convert(jnp.asarray(BLOCK)).value
    every = levels(bits, scale)
    # Four roundings on either side.
    nearest = every[np.argmin(np.abs(BLOCK[..., None] - every), -1)]
    np.testing.assert_allclose(found, nearest, rtol=8 * 2.0**-53)
    assert len(every) == (2 if bits == 1 else 2**bits - 1)


def test_zero_is_a_level_of_two_bits_and_more():
    assert float(tla.Converter(2).convert(jnp.array([0.0, 0.3, 1.0])).value[0]) == 0
    assert abs(float(tla.Converter(1, 1.0).convert(jnp.array([0.0])).value[0])) == 1


def test_many_bits_change_nothing_beyond_rounding():
    found = tla.Converter(52).convert(jnp.asarray(BLOCK))
    # Half a step of 2 s / 2^52, and the rounding of two operations.
    np.testing.assert_allclose(found.value, BLOCK, rtol=2e-16, atol=2.0**-52 * float(found.scale.max()))
    assert not found.saturated
    coarse = tla.Converter(40).convert(jnp.asarray(BLOCK)).value
    assert np.max(np.abs(coarse - BLOCK)) > 2.0**-44


@given(st.lists(REALS, min_size=4, max_size=4), st.integers(1, 30))
def test_converting_twice_is_converting_once(numbers, bits):
    once = traced(jnp.asarray(numbers), bits, 7.0, 0.0, 0.0)[0]
    np.testing.assert_array_equal(traced(once, bits, 7.0, 0.0, 0.0)[0], once)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 11])
def test_converting_twice_is_converting_once_when_the_range_is_chosen(bits):
    blocks = jnp.asarray(np.random.default_rng(bits).standard_normal((50, 3)))
    convert = jax.vmap(lambda block: tla.Converter(bits).convert(block).value)
    once = convert(blocks)
    np.testing.assert_array_equal(convert(once), once)
    crooked = jax.vmap(lambda block: tla.Converter(bits, gain=0.3).convert(block).value)
    if bits > 1:
        assert np.any(crooked(crooked(blocks)) != crooked(blocks))


@given(st.lists(REALS, min_size=4, max_size=4), st.integers(1, 16), st.floats(1e-3, 1e6), st.floats(-0.5, 0.5))
def test_order_is_kept(numbers, bits, scale, offset):
    found = np.asarray(traced(jnp.sort(jnp.asarray(numbers)), bits, scale, 0.1, offset)[0])
    assert np.all(np.diff(found) >= 0)


@given(st.lists(REALS, min_size=4, max_size=4), st.integers(2, 16), st.floats(1e-3, 1e6))
def test_beyond_the_full_scale_it_saturates_and_says_so(numbers, bits, scale):
    block = np.asarray(numbers)
    found, saturated = traced(jnp.asarray(block), bits, scale, 0.0, 0.0)
    assert bool(saturated) == bool(np.any(np.abs(block) > scale * (1 + 1e-15)))
    assert np.all(np.abs(found) <= scale)
    step = 2 * scale / (2**bits - 2)
    inside = np.abs(block) <= scale
    assert np.all(np.abs(found - block)[inside] <= step / 2 * (1 + 1e-12))
    np.testing.assert_allclose(found[~inside], np.sign(block[~inside]) * scale, rtol=1e-15)


@pytest.mark.parametrize("largest", [1e-30, 0.3, 0.5, 1.0, 1.5, 2.0, 3e40])
def test_a_chosen_range_is_the_least_power_of_two_that_nothing_exceeds(largest):
    found = tla.Converter(10).convert(jnp.array([largest, -largest / 3]))
    scale = float(found.scale[0])
    assert scale == 2.0 ** np.ceil(np.log2(largest))
    assert not found.saturated
    # Scaled by a power of two, all scales.
    other = tla.Converter(10).convert(4 * jnp.array([largest, -largest / 3])).value
    np.testing.assert_array_equal(other, 4 * found.value)


def test_nothing_is_converted_to_nothing():
    for bits, stochastic in ((1, False), (8, False), (8, True)):
        converter = tla.Converter(bits, stochastic=stochastic, offset=0.01)
        assert np.all(converter.convert(jnp.zeros((3, 2)), KEY).value == 0)


def test_ranges_are_chosen_column_by_column_along_an_axis():
    block = jnp.array([[1.0, 100.0], [0.3, -3.0]])
    found = tla.Converter(8).convert(block, axis=0)
    assert found.scale.tolist() == [[1.0, 128.0]]
    for k in range(2):
        np.testing.assert_array_equal(found.value[:, k], tla.Converter(8).convert(block[:, k]).value)
    assert tla.Converter(8).convert(block).scale.tolist() == [[128.0]]


def test_gain_and_offset_are_errors_of_slope_and_zero():
    found = tla.Converter(40, 4.0, gain=0.02, offset=-0.01).convert(jnp.asarray(BLOCK)).value
    np.testing.assert_allclose(found, 1.02 * BLOCK - 0.04, atol=8 * 2.0**-40)
    chosen = tla.Converter(40, gain=0.02, offset=-0.01).convert(jnp.array([0.99, 0.5]))
    assert float(chosen.scale[0]) == 2.0  # 1.02 * 0.99 and an offset are beyond 1
    assert not chosen.saturated
    np.testing.assert_allclose(chosen.value, [1.02 * 0.99 - 0.02, 0.51 - 0.02], atol=4 * 2.0**-40)


def test_an_offset_that_leaves_no_room_saturates():
    found = tla.Converter(8, offset=0.9).convert(jnp.array([1.0, -1.0]))
    assert bool(found.saturated)
    assert np.all(np.abs(found.value) <= float(found.scale[0]))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_stochastic_rounding_has_no_error_on_average_and_nearest_has(bits):
    numbers, keys = jnp.array([-0.83, -0.1, 0.0, 0.21, 0.77, 1.0]), jax.random.split(KEY, 20_000)
    converter = tla.Converter(bits, 1.0, stochastic=True)
    found = np.asarray(jax.vmap(lambda key: converter.convert(numbers, key).value)(keys))
    step = 2.0 if bits == 1 else 2 / (2**bits - 2)
    assert np.all(np.min(np.abs(found[..., None] - levels(bits, 1.0)), -1) < 1e-12)
    # Between two levels, at a fraction f of the step, the variance is f (1 - f) steps squared.
    fraction = np.mod((np.asarray(numbers) + 1) / step, 1)
    fraction = np.where(fraction > 1 - 1e-9, 0, fraction)
    spread = step * np.sqrt(fraction * (1 - fraction))
    assert_within_stderr(found.mean(0), np.maximum(spread, 1e-14) / np.sqrt(len(keys)), numbers)
    nearest = tla.Converter(bits, 1.0).convert(numbers).value
    with pytest.raises(AssertionError):
        assert_within_stderr(nearest, np.maximum(spread, 1e-14) / np.sqrt(len(keys)), numbers)


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_mean_square_error_of_a_spread_signal_is_that_of_the_rounding(stochastic):
    numbers = np.random.default_rng(2).uniform(-1, 1, 40_000)
    converter = tla.Converter(6, 1.0, stochastic=stochastic)
    square = (np.asarray(converter.convert(jnp.asarray(numbers), KEY).value) - numbers) ** 2
    claimed = float(converter.variance(jnp.ones(())))
    assert_within_stderr(square.mean(), square.std() / np.sqrt(square.size), claimed, degrees=square.size - 1)
    with pytest.raises(AssertionError):
        assert_within_stderr(square.mean(), square.std() / np.sqrt(square.size), 1.1 * claimed)


@pytest.mark.parametrize("bits", [1, 2, 7])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.03])
def test_symmetric_and_hermitian_blocks_stay_so(bits, stochastic, offset):
    converter = tla.Converter(bits, stochastic=stochastic, offset=offset)
    real = jnp.asarray(SQUARE + SQUARE.T)
    found = converter.convert(real, KEY, symmetric=True).value
    np.testing.assert_array_equal(found, found.T)
    antisymmetric = 3 * (SQUARE - SQUARE.T)
    hermitian = converter.convert(jnp.asarray(SQUARE + SQUARE.T + 1j * antisymmetric), KEY, symmetric=True).value
    np.testing.assert_array_equal(hermitian, hermitian.conj().T)
    assert np.any(hermitian.imag != 0)
    if stochastic and bits > 1:
        loose = converter.convert(real, KEY).value
        assert np.any(loose != loose.T)


def test_stochastic_rounding_of_a_hermitian_block_has_no_error_on_average():
    block = jnp.asarray(SQUARE + SQUARE.T + 1j * (SQUARE - SQUARE.T))
    converter, keys = tla.Converter(4, stochastic=True), jax.random.split(KEY, 10_000)
    found = np.asarray(jax.vmap(lambda key: converter.convert(block, key, symmetric=True).value)(keys))
    for part, exact in ((found.real, block.real), (found.imag, block.imag)):
        assert_within_stderr(part.mean(0), part.std(0) / 100, exact, degrees=9999)
    with pytest.raises(AssertionError):
        assert_within_stderr(found.real.mean(0), found.real.std(0) / 100, tla.Converter(4).convert(block.real).value)


def test_parts_of_a_complex_block_are_converted_one_by_one_in_one_range():
    block = jnp.asarray(BLOCK[:, :2] + 3j * BLOCK[:, 2:4])
    found = tla.Converter(9).convert(block)
    scale = float(found.scale.max())
    for part, exact in ((found.value.real, block.real), (found.value.imag, block.imag)):
        np.testing.assert_array_equal(part, tla.Converter(9, scale).convert(exact).value)
    assert scale == 2.0 ** np.ceil(np.log2(np.max(np.abs([block.real, block.imag]))))


def test_bits_may_be_traced_and_mapped_over():
    bits = jnp.arange(1, 17)
    errors = jax.vmap(lambda b: jnp.sum((tla.Converter(b).convert(jnp.asarray(BLOCK)).value - BLOCK) ** 2))(bits)
    alone = [float(jnp.sum((tla.Converter(b).convert(jnp.asarray(BLOCK)).value - BLOCK) ** 2)) for b in range(1, 17)]
    np.testing.assert_allclose(errors, alone, rtol=1e-12)
    # A quarter of the error with each bit; 30 numbers scatter about that.
    assert np.all(np.diff(np.log(errors)) < 0)
    np.testing.assert_allclose(np.mean(np.diff(np.log2(errors))[2:]), -2, atol=0.3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_the_dtype_stays(dtype):
    block = jnp.asarray(BLOCK.astype(dtype))
    for converter in (tla.Converter(8), tla.Converter(jnp.asarray(8), jnp.asarray(4.0), gain=jnp.asarray(0.1))):
        assert converter.convert(block).value.dtype == dtype
    np.testing.assert_allclose(tla.Converter(30).convert(block).value, block, atol=1e-6)


def test_derivatives_do_not_see_steps():
    slope = jax.grad(lambda x: jnp.sum(tla.Converter(4).convert(x).value))(jnp.asarray(BLOCK))
    assert np.all(slope == 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"bits": 0},
        {"bits": 2.5},
        {"bits": float("nan")},
        {"full_scale": 0.0},
        {"full_scale": -1.0},
        {"gain": float("inf")},
        {"offset": float("nan")},
    ],
)
def test_a_converter_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        tla.Converter(**bad)


def test_stochastic_rounding_without_a_key_is_refused():
    with pytest.raises(ValueError, match="key"):
        tla.Converter(stochastic=True).convert(jnp.ones(2))


@pytest.mark.parametrize("bad", [{"density": -1.0}, {"bandwidth": 0.0}, {"bandwidth": float("inf")}])
def test_read_noise_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        tla.ReadNoise(**bad)


def test_a_sample_of_read_noise_has_the_variance_of_its_autocorrelation_at_zero():
    assert tla.ReadNoise(density=2e-4, bandwidth=50.0).variance == pytest.approx(2e-4 * 50 / 2, rel=1e-15)
