"""Draws of a covariance: moments of the Wishart law in closed form, and the laws of correlated samples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import sem

import thermolinalg as tla
from thermolinalg.covariances import overlap, shortfall
from thermolinalg.draws import bartlett, correlated, independent, walk
from thermolinalg.testing import assert_unit_variance, assert_within_stderr

KEY = jax.random.key(7)
BLOCK = 64  # of a walk here, so that a few hundred samples are several blocks and a bit


@pytest.fixture(scope="module", autouse=True)
def _short_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thermolinalg.draws.BLOCK", BLOCK)
        yield


DTYPES = [np.float64, np.complex128]


def components(dtype):
    return 2 if np.issubdtype(dtype, np.complexfloating) else 1


@partial(jax.jit, static_argnums=(1, 3, 4))
def wisharts(key, size, degrees, dtype, n):
    factors = jax.vmap(lambda k: bartlett(k, size, degrees, dtype))(jax.random.split(key, n))
    return factors @ jnp.swapaxes(factors, 1, 2).conj()


def assert_mean(draws, exact, slack=0.0):
    """Means over draws are those expected, up to a relative slack, in standard errors from the scatter."""
    error = np.abs(draws.mean(0) - exact)
    assert_within_stderr(np.maximum(error - slack * np.abs(exact), 0.0), sem(draws, 0), 0.0, degrees=len(draws) - 1)


# Wishart matrices


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("degrees", [0, 1, 2, 4, 6, 1000])
def test_wishart_moments(degrees, dtype):
    n, d, c = 4000, 4, components(dtype)
    draws = np.asarray(wisharts(KEY, d, degrees, dtype, n))
    mean, variance = c * degrees * np.eye(d), degrees * (np.ones((d, d)) + np.eye(d)) if c == 1 else 4.0 * degrees
    if degrees == 0:
        assert np.all(draws == 0)
        return
    scatter = np.sqrt(np.broadcast_to(variance, (d, d)))
    # Each entry is a sum over independent vectors of products of two normals, whose excess kurtosis is at most 12.
    kurtosis = 3 + 12 / degrees
    assert_within_stderr(draws.mean(0), scatter / n**0.5, mean)
    assert_unit_variance((draws - mean) / scatter, kurtosis=kurtosis)
    if degrees < 100:
        wrong = np.asarray(wisharts(KEY, d, degrees + 1, dtype, n))
        with pytest.raises(AssertionError):
            assert_within_stderr(wrong.mean(0), scatter / n**0.5, mean)
    with pytest.raises(AssertionError):  # as with real numbers for complex ones
        assert_unit_variance((draws - mean) / (scatter * 2**0.5), kurtosis=kurtosis)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("degrees", [1, 2, 4, 6])
def test_wishart_entries_belong_together(degrees, dtype):
    d, c = 4, components(dtype)
    draws = np.asarray(wisharts(KEY, d, degrees, dtype, 4000))
    eigenvalues = np.linalg.eigvalsh(draws)
    # E tr W^2, over the joint law of all entries.
    square = degrees * d * (degrees + d + 1) if c == 1 else 4 * degrees * d * (degrees + d)
    assert_mean(np.sum(eigenvalues**2, 1), square)
    rank = np.sum(eigenvalues > 1e-12 * eigenvalues[:, -1:], 1)
    assert np.all(rank == min(d, degrees))
    if degrees >= d:
        # Chi-squares with one degree of freedom fewer from column to column, one after the other.
        log = digamma(c / 2 * (degrees - np.arange(d))) + np.log(2)
        assert_mean(np.log(eigenvalues).sum(1), log.sum())
        with pytest.raises(AssertionError):
            assert_mean(np.log(eigenvalues).sum(1), d * (digamma(c / 2 * degrees) + np.log(2)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_independent_samples_have_the_variance_of_each_mode(dtype):
    rates, n = jnp.array([0.1, 1.0, 30.0]), 2000
    draws = jax.jit(jax.vmap(lambda k: independent(k, rates, 50, dtype)))(jax.random.split(KEY, n))
    whitened = np.asarray(draws) * np.sqrt(np.outer(rates, rates)) / (50 * components(dtype))
    assert_mean(whitened, np.eye(3))
    spread = np.ones((3, 3)) + (np.eye(3) if components(dtype) == 1 else 0)
    assert_unit_variance((whitened - np.eye(3)) / np.sqrt(spread / 50), kurtosis=3 + 12 / 50)


def test_single_precision_stays():
    rates, dtype = jnp.ones(3, np.float32), np.complex64
    memory = tla.Overdamped().memory(rates)
    settle, move = (tla.Overdamped().law(rates, 1.0, t, s, None) for t, s in ((5.0, 0.0), (0.0, 0.1)))
    for draw in (
        bartlett(KEY, 3, 5, dtype),
        independent(KEY, rates, 5, dtype),
        correlated(KEY, rates, memory, 100.0, 500, dtype),
        walk(KEY, settle, move, 5, dtype),
    ):
        assert draw.dtype == dtype
        assert np.all(np.isfinite(draw))


# Correlated samples, by frequency


@partial(jax.jit, static_argnums=(2, 5, 6))
def by_frequency(key, rates, dynamics, duration, samples, n, growth=0.5):
    memory = dynamics.memory(rates)

    def one(k):
        whitened = correlated(k, rates, memory, duration, samples, rates.dtype, growth)
        return whitened * jnp.sqrt(rates[:, None] * rates[None]) / samples

    return jax.lax.map(one, jax.random.split(key, n), batch_size=50)


STEEP = np.geomspace(1 / 50, 1.0, 24)
CASES = {
    "overdamped": (tla.Overdamped(), 1000.0, 2000),
    "underdamped": (tla.Underdamped(1.0, 0.2), 1000.0, 2000),
}


def closed_form(dynamics, rates, duration, samples):
    memory = dynamics.memory(jnp.asarray(rates))
    gram = np.asarray(overlap(memory, memory, duration, samples))
    return gram, gram * (1 + np.eye(len(gram)))


@pytest.mark.parametrize("name", CASES)
def test_the_square_error_by_frequency_is_right_within_two_per_cent(name):
    dynamics, duration, samples = CASES[name]
    gram, variance = closed_form(dynamics, STEEP, duration, samples)
    assert np.max(gram) < 1.05 / 20  # twenty effective samples of the slowest mode, where the promise begins
    hold = np.asarray(by_frequency(KEY, jnp.asarray(STEEP), dynamics, duration, samples, 2000))
    assert_mean(hold, np.eye(24))
    square = np.sum((hold - np.eye(24)) ** 2 / np.sqrt(STEEP[:, None] * STEEP) ** 2, (1, 2))
    expected = np.sum(variance / np.outer(STEEP, STEEP))
    assert_mean(square / expected, 1.0, slack=0.02)
    with pytest.raises(AssertionError):  # as for a sixth fewer samples
        assert_mean(square / (1.2 * expected), 1.0, slack=0.02)
    assert np.min(np.linalg.eigvalsh(hold)) > -1e-12


def test_coarse_bins_smear_the_spectrum_too_much():
    dynamics, duration, samples = CASES["overdamped"]
    variance = closed_form(dynamics, STEEP, duration, samples)[1]
    for growth, fails in ((0.5, False), (8.0, True)):
        hold = np.asarray(by_frequency(KEY, jnp.asarray(STEEP), dynamics, duration, samples, 500, growth))
        # The mean over all entries resolves more than the Frobenius norm, which a few slow modes dominate.
        ratio = np.mean((hold - np.eye(24)) ** 2 / variance, (1, 2))
        if fails:
            with pytest.raises(AssertionError):
                assert_mean(ratio, 1.0, slack=0.02)
        else:
            assert_mean(ratio, 1.0, slack=0.02)


@pytest.mark.parametrize("samples", [1, 2, 3, 17, 1000, 10**6, 10**8])
def test_any_number_of_samples(samples):
    rates = jnp.array([0.05, 0.3, 1.0, 2.0])
    hold = np.asarray(by_frequency(KEY, rates, tla.Overdamped(), 0.1 * samples, samples, 400))
    assert_mean(hold, np.eye(4))
    eigenvalues = np.linalg.eigvalsh(hold)
    assert np.all(eigenvalues > -1e-12 * eigenvalues[:, -1:])
    assert np.all(np.sum(eigenvalues > 1e-10 * eigenvalues[:, -1:], 1) <= samples)


# Correlated samples, one after the other


@partial(jax.jit, static_argnums=(2, 6, 7))
def by_walking(key, rates, dynamics, burn_in, duration, samples, n, dtype=np.float64):
    settle = dynamics.law(rates, 1.0, burn_in, 0.0, None)
    move = dynamics.law(rates, 1.0, 0.0, duration / samples, None)

    def one(k):
        scale = jnp.sqrt(rates[:, None] * rates[None]) / (components(dtype) * jnp.asarray(samples, rates.dtype))
        return walk(k, settle, move, samples, dtype) * scale.astype(dtype)

    return jax.lax.map(one, jax.random.split(key, n), batch_size=25)


WALKED = np.array([0.1, 0.4, 1.0, 3.0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dynamics", [tla.Overdamped(), tla.Underdamped(1.0, 0.5)], ids=["overdamped", "underdamped"])
@pytest.mark.parametrize("samples", [1, 500])
def test_a_walk_has_the_law_in_closed_form(samples, dynamics, dtype):
    # Not a multiple of the block, so that what is beyond the last sample would show.
    assert samples % BLOCK
    duration, n = 0.2 * samples, 500
    hold = np.asarray(by_walking(KEY, jnp.asarray(WALKED), dynamics, 200.0, duration, samples, n, dtype))
    gram, variance = closed_form(dynamics, WALKED, duration, samples)
    variance = variance if dtype == np.float64 else gram
    kurtosis = 3 + 12 * np.max(gram)
    assert_within_stderr(hold.mean(0), np.sqrt(variance / n), np.eye(4))
    z = (hold - np.eye(4)) / np.sqrt(variance)
    assert_unit_variance(z, kurtosis=kurtosis)
    with pytest.raises(AssertionError):  # as if samples were independent, or all alike
        assert_unit_variance(z * np.sqrt(gram * (samples if samples > 1 else 4)), kurtosis=kurtosis)


@pytest.mark.parametrize("dynamics", [tla.Overdamped(), tla.Underdamped(1.0, 0.5)], ids=["overdamped", "underdamped"])
def test_a_walk_starts_from_rest(dynamics):
    rates = jnp.asarray(WALKED)
    assert np.all(np.asarray(by_walking(KEY, rates, dynamics, 0.0, 1.0, 1, 500)) == 0)
    hold = np.asarray(by_walking(KEY, rates, dynamics, 0.3, 1.0, 10, 500))
    missing = np.asarray(shortfall(dynamics.memory(rates), 0.3, 1.0, 10))
    assert_mean(hold, np.diag(1 - missing))
    with pytest.raises(AssertionError):
        assert_mean(hold, np.eye(4))


def test_keys_decide():
    rates = jnp.asarray(WALKED)
    draws = [np.asarray(by_walking(jax.random.key(k), rates, tla.Overdamped(), 0.3, 1.0, 10, 500)) for k in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.any(draws[0] == draws[2])
