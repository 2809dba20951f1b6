import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system
from scipy import stats

import thermolinalg as tla

KEY = jax.random.key(2)


def statistics(device, plan, actual=None, n=2000):
    A, b, _ = system(d=16, kappa=20.0)
    program = device.program(A if actual is None else actual)

    def run(key):
        x = tla.solve(program, b, key=key, plan=plan)
        return tla.certify(A, b, x).statistic

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(KEY, n)))


@pytest.mark.parametrize("dynamics", [tla.Overdamped(), tla.Underdamped(friction=0.5)])
def test_the_residual_of_a_long_run_is_chi_square(dynamics):
    found = statistics(tla.Device(beta=10.0, dynamics=dynamics), tla.Plan(300.0, 3e4))
    assert stats.kstest(found, stats.chi2(16).cdf).pvalue > 1e-3
    assert stats.kstest(1.1 * found, stats.chi2(16).cdf).pvalue < 1e-3


@pytest.mark.parametrize(
    ("plan", "wrong"),
    [
        (tla.Plan(0.0, 100.0), None),
        (tla.Plan(300.0, 3e4), 1.01),
    ],
    ids=["no burn-in", "couplings off by one per cent"],
)
def test_what_the_certificate_detects(plan, wrong):
    A, _, _ = system(d=16, kappa=20.0)
    found = statistics(tla.Device(beta=1e3), plan, None if wrong is None else wrong * A, n=200)
    assert np.mean(stats.chi2(16).sf(found) < 0.01) > 0.95


def test_a_healthy_run_passes_as_often_as_it_should():
    found = statistics(tla.Device(), tla.Plan(300.0, 3e4))
    # 2000 runs at level 0.01: 20 alarms, give or take 4.5; the limits are 4.5 of these standard errors.
    assert 1 <= np.sum(stats.chi2(16).sf(found) < 0.01) <= 40


def test_a_bare_answer_gets_its_residual_and_with_noise_the_test():
    A, b, x = system()
    plain = tla.certify(A, b, x)
    assert plain.statistic is None
    assert float(plain.relative_residual) < 1e-14
    off = x + 0.01
    residual = np.linalg.norm(b - A @ off)
    tested = tla.certify(A, b, off, noise=1e-4)
    np.testing.assert_allclose(tested.statistic, residual**2 / 1e-4)
    np.testing.assert_allclose(tested.relative_residual, residual / np.linalg.norm(b))
    np.testing.assert_allclose(tested.p_value, stats.chi2(12).sf(residual**2 / 1e-4), rtol=1e-8, atol=1e-12)


def test_columns_and_complex_systems():
    A, b, _ = system(d=8, dtype=np.complex128)
    block = jnp.stack([b, 2j * b, 0 * b], 1)
    certificate = tla.certify(A, block, tla.solve(A, block, key=KEY, plan=tla.Plan(300.0, 1e4)))
    assert certificate.degrees == 16
    assert certificate.passed.shape == (3,)
    assert np.all(certificate.p_value > 1e-4)


def test_zero_is_certified():
    A, _, _ = system()
    x = tla.solve(A, jnp.zeros(12), key=KEY)
    certificate = tla.certify(A, jnp.zeros(12), x)
    assert bool(certificate.passed)
    assert float(certificate.relative_residual) == 0.0


def test_shapes_must_agree():
    A, b, _ = system()
    with pytest.raises(ValueError, match="x must have"):
        tla.certify(A, b, jnp.ones(5))
    with pytest.raises(ValueError, match="shape of b"):
        tla.certify(A, b, jnp.ones((12, 2)))
