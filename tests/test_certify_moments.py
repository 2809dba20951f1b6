"""Certificates of inverses and Lyapunov solutions: the laws of their statistics, and what they find."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system
from scipy import stats

import thermolinalg as tla
from thermolinalg.primitives.overlap import Overlap
from thermolinalg.testing import assert_coverage, assert_unit_variance

KEY = jax.random.key(21)
DRIFT = np.diag([1.0, 1.5, 2.0, 0.7]) + np.triu(np.random.default_rng(3).standard_normal((4, 4)), 1)
RIGHT = np.diag([1.0, 2.0, 0.5, 1.0])


def wishart(d, samples, n, complex_=False, seed=0):
    """Covariances of white samples, shape (n, d, d), by NumPy."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, d, samples))
    if complex_:
        z = (z + 1j * rng.standard_normal(z.shape)) / np.sqrt(2)
    return z @ np.swapaxes(z.conj(), 1, 2) / samples


def coloured(d, samples, n, dtype):
    """A matrix, and estimates of its inverse from independent samples."""
    A, _, _ = system(d=d, dtype=dtype)
    root = np.linalg.cholesky(np.linalg.inv(A))
    return A, root @ wishart(d, samples, n, dtype is np.complex128) @ root.conj().T


@pytest.fixture(scope="module", params=[np.float64, np.complex128])
def independent(request):
    """Certificates of many inverses from 60 independent samples."""
    A, estimates = coloured(6, 60, 3000, request.param)
    certify = jax.jit(lambda C: jax.lax.map(lambda C: tla.certify_inv(A, C, samples=60), C))
    return request.param, A, estimates, jax.device_get(certify(jnp.asarray(estimates)))


def test_the_trace_is_chi_square(independent):
    dtype, _, _, found = independent
    degrees = 60 * 6 * (2 if dtype is np.complex128 else 1)
    np.testing.assert_allclose(found.trace.degrees, degrees)
    scaled = found.trace.statistic * degrees
    assert stats.kstest(scaled, stats.chi2(degrees).cdf).pvalue > 1e-3
    assert stats.kstest(1.01 * scaled, stats.chi2(degrees).cdf).pvalue < 1e-3
    law = stats.chi2(degrees)
    two_sided = np.minimum(2 * np.minimum(law.cdf(scaled), law.sf(scaled)), 1)
    np.testing.assert_allclose(found.trace.p_value, two_sided, rtol=1e-6, atol=1e-12)


def test_mean_and_variance_of_the_spread_are_exact(independent):
    _, A, estimates, found = independent
    root = np.linalg.cholesky(A)
    whitened = np.swapaxes(root.conj(), 0, 1) @ estimates @ root
    raw = np.linalg.norm(whitened - np.eye(6), axis=(1, 2)) ** 2
    ratio = found.spread.statistic
    np.testing.assert_allclose(ratio / raw, ratio[0] / raw[0], rtol=1e-9)
    spread = np.sqrt(2 / found.spread.degrees[0])
    kurtosis = stats.kurtosis(ratio, fisher=False)
    assert abs(np.mean(ratio) - 1) < 4.5 * spread / np.sqrt(3000)
    assert_unit_variance((ratio - 1) / spread, kurtosis=kurtosis)
    with pytest.raises(AssertionError):
        # Leaving out how entries of one row move together.
        assert_unit_variance((ratio - 1) / spread * 1.2, kurtosis=kurtosis)


def test_the_stated_rate_of_false_alarms(independent):
    assert_coverage(np.asarray(independent[3].passed), 0.985)


def test_the_residual_without_samples(independent):
    _, A, estimates, _ = independent
    found = tla.certify_inv(A, jnp.asarray(estimates[0]))
    np.testing.assert_allclose(
        found.relative_residual, np.linalg.norm(np.eye(6) - np.asarray(A) @ estimates[0]) / 6**0.5
    )
    assert found.trace is found.spread is found.passed is None


@pytest.fixture(scope="module")
def runs():
    """Certificates of inverses of one device against a matrix, over keys."""
    A, _, _ = system(d=6, kappa=10.0)
    batch = jax.jit(
        lambda actual, meant, plan, keys: jax.vmap(
            lambda key: tla.certify_inv(meant, tla.inv(actual, key=key, plan=plan))
        )(keys)
    )

    def certify(actual=1.0, plan=None, n=400):
        plan = tla.Plan(60.0, 1500.0) if plan is None else plan
        return jax.device_get(batch(actual * A, A, plan, jax.random.split(KEY, n)))

    return certify


def test_correlated_runs_keep_the_rate(runs):
    found = runs()
    assert_coverage(np.asarray(found.passed), 0.96)
    for part in (found.trace, found.spread):
        degrees = float(part.degrees[0])
        assert abs(np.mean(part.statistic) - 1) < 0.02 + 4.5 * np.sqrt(2 / degrees / 400)
        # The allowance for the law of the draws makes the stated variance a little large; 400 runs know it to 7 %.
        assert 0.65 < np.var(part.statistic) * degrees / 2 < 1.35


def test_planted_faults_of_an_inverse_are_found(runs):
    assert np.mean(runs(actual=1.2).trace.passed) < 0.05


def test_a_missing_burn_in_hides_in_the_spread_of_one_run(runs):
    # What the documentation says it cannot find.
    lazy = runs(plan=tla.Plan(0.0, 20.0))
    assert np.mean(lazy.trace.passed) > 0.9
    assert np.mean(lazy.trace.statistic) < 1


def test_a_number_of_samples_off_by_ten_is_found_from_either_side():
    A, estimates = coloured(6, 600, 40, np.float64)
    for samples in (60, 6000):
        found = jax.vmap(lambda C, n=samples: tla.certify_inv(A, C, samples=n).spread.passed)(jnp.asarray(estimates))
        assert np.mean(found) < 0.1


def test_the_overlap_of_independent_samples():
    A, _, _ = system(d=5)
    C = tla.inv(A, key=KEY, plan=tla.Plan(500.0, 5e5, 500))
    expected = Overlap.independent(jnp.asarray(500.0), 5)
    for found, sum_ in zip(jax.tree.leaves(C.stats["overlap"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, sum_, rtol=5e-3)
    long = tla.inv(A, key=KEY, plan=tla.Plan(500.0, 5e5, 500), device=tla.Device(simulator=tla.Law(long_time=True)))
    assert bool(tla.certify_inv(A, long).passed)


def test_single_precision_and_operators():
    A, _, _ = system(d=5)
    C = tla.inv(A.astype(jnp.float32), key=KEY, plan=tla.Plan(500.0, 5e5, 500))
    found = tla.certify_inv(A.astype(jnp.float32), C)
    assert found.spread.p_value.dtype == jnp.float32
    assert bool(found.passed)
    free = tla.MatrixFree(lambda v: A @ v, 5, A.dtype)
    np.testing.assert_allclose(
        tla.certify_inv(free, C.value.astype(float), samples=500).spread.statistic, found.spread.statistic, rtol=1e-4
    )


@pytest.fixture(scope="module")
def lyapunov():
    batch = jax.jit(
        lambda actual, right, keys: jax.vmap(
            lambda key: tla.certify_lyapunov(
                DRIFT, RIGHT, tla.lyapunov(actual, right, key=key, plan=tla.Plan(100.0, 2e4, 400))
            )
        )(keys)
    )
    return lambda scale=1.0, right=RIGHT, n=2000: jax.device_get(
        batch(scale * jnp.asarray(DRIFT), jnp.asarray(right), jax.random.split(KEY, n))
    )


def test_the_statistics_of_a_lyapunov_residual_are_standardised(lyapunov):
    found = lyapunov()
    z = np.column_stack([found.trace.statistic, found.probes.statistic])
    # Studentised with a variance from the same 400 samples: a few per cent.
    assert np.all(np.abs(np.var(z, axis=0) - 1) < 4.5 * np.sqrt(2 / 2000) + 0.05)
    assert np.all(np.abs(np.mean(z, axis=0)) < 4.5 / np.sqrt(2000) + 0.1)
    assert_coverage(np.asarray(found.passed), 0.98)


def test_planted_faults_of_a_lyapunov_solution_are_found(lyapunov):
    assert np.mean(lyapunov(scale=2.0, n=2000).passed) < 0.05
    assert np.mean(lyapunov(right=0.4 * RIGHT, n=2000).passed) < 0.05


def test_the_residual_of_a_bare_lyapunov_solution():
    X = np.diag([1.0, 2.0, 3.0, 4.0])
    found = tla.certify_lyapunov(DRIFT, RIGHT, X)
    residual = DRIFT @ X + X @ DRIFT.T - RIGHT
    np.testing.assert_allclose(found.relative_residual, np.linalg.norm(residual) / np.linalg.norm(RIGHT))
    assert found.passed is None
    tested = tla.certify_lyapunov(DRIFT, RIGHT, X, samples=100)
    moved = (DRIFT + DRIFT.T) @ X
    mean = np.trace(RIGHT)
    variance = 2 / 100 * (np.trace(moved @ moved) - mean**2 / 100) / 1.01
    np.testing.assert_allclose(tested.trace.statistic, np.trace(residual) / np.sqrt(variance))
    assert not bool(tested.passed)


def test_complex_lyapunov():
    drift = DRIFT + 0.5j * np.diag([1.0, -1.0, 2.0, 0.0])
    X = tla.lyapunov(drift, RIGHT, key=KEY, plan=tla.Plan(100.0, 2e4, 400))
    assert bool(tla.certify_lyapunov(drift, RIGHT, X).passed)
    assert not bool(tla.certify_lyapunov(drift, 1.4 * RIGHT, X).passed)


def test_bad_input():
    A, _, _ = system(d=4)
    with pytest.raises(ValueError, match="C must have shape"):
        tla.certify_inv(A, jnp.eye(3))
    with pytest.raises(ValueError, match="not finite"):
        tla.certify_inv(A, jnp.full((4, 4), jnp.nan))
    with pytest.raises(ValueError, match="complex and A is real"):
        tla.certify_inv(A, jnp.eye(4, dtype=complex))
    with pytest.raises(ValueError, match="samples must be positive"):
        tla.certify_inv(A, jnp.eye(4), samples=0)
    with pytest.raises(ValueError, match="shape of A"):
        tla.certify_lyapunov(A, jnp.eye(3), jnp.eye(4))
    with pytest.raises(ValueError, match="X must have shape"):
        tla.certify_lyapunov(A, jnp.eye(4), jnp.eye(3))
