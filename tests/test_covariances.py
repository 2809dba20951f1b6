"""Laws of a covariance: against sums over the autocovariance by matrix exponentials, where nothing is diagonalised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system
from scipy.linalg import expm

import thermolinalg as tla
from thermolinalg.covariances import independent_stderr, inverse_stderr, overlap, shortfall

RATES = np.array([0.2, 0.7, 1.0, 2.5])
TAU = 8 / 1.3
# Critical for the rate 1.0, and a little off; ringing; damped so strongly that the two decays differ ten thousandfold.
DYNAMICS = {
    "overdamped": tla.Overdamped(),
    "critical": tla.Underdamped(1.0, 2.0),
    "nearly critical": tla.Underdamped(1.0, 2.0 * (1 + 1e-4)),
    "ringing": tla.Underdamped(0.5, 0.3),
    "strongly damped": tla.Underdamped(2.0, 130.0),
}
# At critical damping half the digits are left, by the way the two decays are kept apart.
ACCURACY = 2 * np.finfo(float).eps ** 0.5


@pytest.fixture(params=DYNAMICS)
def dynamics(request):
    return DYNAMICS[request.param]


def response(dynamics, rate, time):
    """What is left of a unit displacement and of a thermal momentum, in thermal displacements, by an exponential."""
    if isinstance(dynamics, tla.Overdamped):
        return np.exp(-rate * time), 0.0
    mass, friction = float(dynamics.mass), float(dynamics.friction)
    flow = expm(np.array([[0.0, 1 / mass], [-rate, -friction / mass]]) * time)
    return flow[0, 0], flow[0, 1] * np.sqrt(mass * rate)


def responses(dynamics, rates, times):
    """Displacement and momentum parts, each of shape (times, rates)."""
    return np.moveaxis(np.array([[response(dynamics, rate, t) for rate in rates] for t in times]), 2, 0)


def gauss(duration, panels=12, order=16):
    """Nodes and weights of a composite Gauss-Legendre rule, denser near zero, on (0, duration)."""
    edges = duration * np.append(0.0, np.geomspace(1e-4, 1.0, panels))
    x, w = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (x + 1)).ravel(), (half * w).ravel()


# Memory


@pytest.mark.parametrize("time", [0.0, 1e-3, 0.5, 3.0, 40.0])
def test_memory_is_the_response_of_one_mode(dynamics, time):
    memory = dynamics.memory(jnp.asarray(RATES))
    decay = np.exp(-np.asarray(memory.decay) * time)
    found = [np.sum(np.asarray(part) * decay, 0).real for part in (memory.position, memory.momentum)]
    expected = responses(dynamics, RATES, [time])[:, 0]
    np.testing.assert_allclose(found, expected, atol=ACCURACY)


def test_a_slow_mode_is_resolved_however_strong_the_damping():
    # The slow decay is a small difference of large numbers; the product of both decays is rate/mass.
    memory = tla.Underdamped(1.0, 1e6).memory(jnp.array([1e-2]))
    slow, fast = np.asarray(memory.decay)[:, 0].real
    np.testing.assert_allclose([slow, fast], [1e-8 * (1 + 1e-14), 1e6 * (1 - 1e-14)], rtol=4e-16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_near_critical_damping_costs_half_the_digits(dtype):
    eps = np.finfo(dtype).eps
    off = np.concatenate([[0.0], np.geomspace(1e-9, 0.3, 30)])
    rates = np.concatenate([1 - off, 1 + off]).astype(dtype)
    times = np.array([0.0, 0.3, 1.0, 3.0])
    memory = tla.Underdamped(1.0, 2.0).memory(jnp.asarray(rates))
    assert memory.decay.real.dtype == dtype
    expected = responses(DYNAMICS["critical"], rates.astype(float), times)
    # Rounding of the weights themselves counts, so the sum is formed in the dtype as well.
    decay = jnp.exp(-memory.decay[None] * jnp.asarray(times, dtype)[:, None, None].astype(memory.decay.dtype))
    for part, exact in zip((memory.position, memory.momentum), expected, strict=True):
        found = jnp.sum(part[None] * decay, 1).real
        assert np.max(np.abs(np.asarray(found) - exact)) < 3 * eps**0.5


# Variance of an average, and what is missing from its mean


@pytest.mark.parametrize("duration", [0.05, TAU, 300.0])
def test_overlap_of_a_continuous_average_is_an_integral(dynamics, duration):
    some, others = RATES, RATES[1:3]
    found = overlap(*(dynamics.memory(jnp.asarray(r)) for r in (some, others)), duration, None)
    times, weights = gauss(duration, panels=40)
    rho = responses(dynamics, some, times)[0]
    kernel = weights * 2 * (duration - times) / duration**2
    np.testing.assert_allclose(found, np.einsum("t,ti,tj->ij", kernel, rho, rho[:, 1:3]), rtol=1e-9, atol=ACCURACY)


@pytest.mark.parametrize(("duration", "samples"), [(TAU, 1), (TAU, 20), (0.05, 7), (300.0, 60)])
def test_overlap_and_shortfall_of_samples_are_double_sums(dynamics, duration, samples):
    memory = dynamics.memory(jnp.asarray(RATES))
    lags = np.arange(samples) * duration / samples
    rho, kick = responses(dynamics, RATES, lags)
    pairs = np.abs(np.arange(samples)[:, None] - np.arange(samples))
    expected = np.einsum("kli,klj->ij", rho[pairs], rho[pairs]) / samples**2
    np.testing.assert_allclose(overlap(memory, memory, duration, samples), expected, atol=ACCURACY)
    late, late_kick = responses(dynamics, RATES, 0.6 + lags)
    for t0, left in ((0.0, rho**2 + kick**2), (0.6, late**2 + late_kick**2)):
        np.testing.assert_allclose(shortfall(memory, t0, duration, samples), left.mean(0), atol=ACCURACY)


def test_shortfall_of_a_continuous_average_is_an_integral(dynamics):
    times, weights = gauss(TAU, panels=40)
    left = np.sum(responses(dynamics, RATES, 0.6 + times) ** 2, 0)
    found = shortfall(dynamics.memory(jnp.asarray(RATES)), 0.6, TAU, None)
    np.testing.assert_allclose(found, weights @ left / TAU, rtol=1e-9, atol=ACCURACY)


def test_many_close_samples_are_a_continuous_average(dynamics):
    memory = dynamics.memory(jnp.asarray(RATES))
    continuous, coarse, fine = (overlap(memory, memory, TAU, n) for n in (None, 3000, 30000))
    # Right-continuous sums are off by the order of the spacing squared in the kernel, and of the spacing at lag zero.
    errors = [np.max(np.abs(x - continuous)) for x in (coarse, fine)]
    assert errors[1] < max(errors[0] / 9, ACCURACY)


def test_the_overlap_counts_samples_that_are_far_apart(dynamics):
    memory = dynamics.memory(jnp.asarray(RATES))
    np.testing.assert_allclose(1 / np.mean(overlap(memory, memory, 1e8, 50)), 50.0, rtol=1e-9)
    np.testing.assert_allclose(1 / np.mean(overlap(memory, memory, 1e-9, 50)), 1.0, rtol=1e-6)


# Root mean square error of every entry


def summed_error(A, duration, samples, t0):
    """The same by Isserlis' theorem over pairs of samples, from the autocovariance exp(-At)/A of real coordinates."""
    A = np.asarray(A)
    d, complex_ = len(A), np.iscomplexobj(A)
    real = np.block([[A.real, -A.imag], [A.imag, A.real]]) if complex_ else A
    # C_ab = sum_cd w_abcd M_cd with real M, times 1 or i.
    eye = np.eye(len(real))
    x, y = eye[:d], eye[d:]

    def pick(first, second):
        return np.einsum("ac,bd->abcd", first, second)

    parts = [(pick(x, x) + pick(y, y)) / 2, (pick(y, x) - pick(x, y)) / 2] if complex_ else [pick(x, x)]
    inverse, lags = np.linalg.inv(real), np.arange(samples) * duration / samples
    weight = np.where(lags > 0, 2.0, 1.0) * (samples - np.arange(samples)) / samples**2
    variance, bias = 0.0, 0.0
    for t, w in zip(lags, weight, strict=True):
        R = expm(-real * t) @ inverse
        for part in parts:
            once = np.einsum("abcd,ce,df->abef", part, R, R, optimize=True)
            variance = variance + w * np.einsum("abef,abef->ab", once, part + np.swapaxes(part, 2, 3))
        remains = expm(-2 * real * (t0 + t)) @ inverse / samples
        bias = bias + remains[:d, :d] + (1j * remains[d:, :d] if complex_ else 0)
    return np.sqrt(variance + np.abs(bias) ** 2)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("burn_in", [0.3, 200.0])
def test_stderr_is_right_entry_by_entry(dtype, burn_in):
    A, _, _ = system(d=6, kappa=20.0, dtype=dtype)
    rates, basis = np.linalg.eigh(A)
    found = inverse_stderr(tla.Overdamped(), jnp.asarray(rates), jnp.asarray(basis), burn_in, 30.0, 25)
    expected = summed_error(A, 30.0, 25, burn_in)
    # Six modes have at most six ranks, so the second term is complete.
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    stationary = summed_error(A, 30.0, 25, 1e3)
    assert (np.max(found / stationary) > 1.05) == (burn_in < 1)  # so that leaving out the bias would show


def test_the_reference_value_of_four_modes():
    # E||M - Sigma||_F^2 of the second moment M at beta = 2; five digits are known.
    beta = 2.0
    stderr = inverse_stderr(tla.Overdamped(), jnp.asarray(RATES), jnp.eye(4), 1e4, TAU)
    np.testing.assert_allclose(jnp.sum(stderr**2) / beta**2, 8.59638, atol=5e-6)


@pytest.mark.parametrize("name", ["overdamped", "ringing", "critical"])
@pytest.mark.parametrize(("kappa", "duration"), [(1e4, 1e6), (1e4, 1e3), (30.0, 1e3)])
def test_eight_ranks_carry_the_second_term(name, kappa, duration):
    dynamics = DYNAMICS[name]
    A, _, _ = system(d=24, kappa=kappa)
    rates, basis = jnp.linalg.eigh(A)
    memory = dynamics.memory(rates)
    gram = np.asarray(overlap(memory, memory, duration, None) / (rates[:, None] * rates[None]))
    products = np.einsum("ai,bi->abi", basis, basis)
    first, second = (basis**2) @ gram @ (basis**2).T, np.einsum("abi,ij,abj->ab", products, gram, products)
    found = inverse_stderr(dynamics, rates, basis, 1e12, duration) ** 2
    assert np.max(np.abs(found - first - second) / first) < 0.01
    np.testing.assert_allclose(np.diagonal(found), 2 * np.diagonal(first), rtol=1e-12)
    assert np.max(second / first) > 0.1  # so that leaving it out would show


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_samples_far_apart_are_independent(dtype):
    A, _, _ = system(d=6, kappa=20.0, dtype=dtype)
    rates, basis = jnp.linalg.eigh(A)
    inverse = jnp.linalg.inv(A)
    closed = independent_stderr((inverse + inverse.conj().T) / 2, 25)
    found = inverse_stderr(tla.Overdamped(), rates, basis, 1e5, 1e5, 25)
    np.testing.assert_allclose(found, closed, rtol=1e-9)


def test_one_mode_many_times_is_one_mode():
    # A rank above the first is a division by zero here.
    found = inverse_stderr(tla.Overdamped(), jnp.full(3, 2.0), jnp.eye(3), 50.0, 10.0)
    ratio = overlap(*(tla.Overdamped().memory(jnp.array([2.0])),) * 2, 10.0, None)[0, 0]
    np.testing.assert_allclose(found**2, (np.ones((3, 3)) + np.eye(3)) * ratio / 4, rtol=1e-12)


def test_scale_of_time_does_not_matter(dynamics):
    c = 7.0
    if isinstance(dynamics, tla.Overdamped):
        other, times = dynamics, (0.3 / c, TAU / c)
    else:
        # With rates times c, time in units of sqrt(c) and friction with it.
        other, times = tla.Underdamped(dynamics.mass, dynamics.friction * c**0.5), (0.3 / c**0.5, TAU / c**0.5)
    basis = jnp.linalg.qr(jnp.arange(16.0).reshape(4, 4) ** 2 + 5 * jnp.eye(4))[0]
    slow = inverse_stderr(dynamics, jnp.asarray(RATES), basis, 0.3, TAU)
    fast = inverse_stderr(other, c * jnp.asarray(RATES), basis, *times)
    np.testing.assert_allclose(fast, slow / c, rtol=ACCURACY, atol=ACCURACY)


def test_float32_is_accurate_to_its_rounding_and_jit_gives_the_same_numbers():
    rates, basis = jnp.asarray(RATES), jnp.eye(4)

    def error(rates, basis):
        return inverse_stderr(tla.Underdamped(1.0, 1.3), rates, basis, 0.3, TAU)

    wide, narrow = error(rates, basis), jax.jit(error)(rates.astype(np.float32), basis.astype(np.float32))
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, wide, rtol=1e-5)


def test_critical_damping_in_float32_keeps_half_the_digits_of_products():
    # The default friction is critical for the slowest mode, so this is the rule and not the exception.
    rates, found = np.array([1.0, 1.001, 1.01, 3.0]), []
    for dtype in (np.float32, np.float64):
        memory = tla.Underdamped(1.0, 2.0).memory(jnp.asarray(rates, dtype))
        found.append(overlap(memory, memory, TAU, None))
    np.testing.assert_allclose(found[0], found[1], rtol=3 * np.finfo(np.float32).eps ** 0.5)
