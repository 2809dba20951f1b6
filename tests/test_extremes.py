"""Extreme eigenvalues from relaxation: how close, and how honest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system

import thermolinalg as tla

KEY = jax.random.key(4)


@pytest.fixture(scope="module", params=[np.float64, np.complex128])
def found(request):
    A, _, _ = system(d=12, kappa=30.0, dtype=request.param)
    return jax.vmap(lambda key: tla.extremes(A, key=key))(jax.random.split(KEY, 200))


def test_both_ends_are_found_within_their_errors(found):
    error = np.asarray(found.value) - np.array([1 / 30, 1.0])
    # Errors are generous where the estimate has settled: four of them are never exceeded.
    assert np.max(np.abs(error) / np.asarray(found.stderr)) < 4
    assert np.all(np.abs(error.mean(0)) < 0.005 * np.array([1 / 30, 1.0]))
    assert np.all(np.mean(found.stderr, 0) < 0.05 * np.array([1 / 30, 1.0]))


def test_another_spectrum_would_be_noticed(found):
    error = np.asarray(found.value) - 1.2 * np.array([1 / 30, 1.0])
    assert np.all(np.max(np.abs(error) / np.asarray(found.stderr), 0) > 4)


def test_the_condition_number_follows(found):
    kappa, stderr = np.asarray(found.stats["kappa"]), np.asarray(found.stats["kappa_stderr"])
    np.testing.assert_allclose(kappa, found.value[:, 1] / found.value[:, 0], rtol=1e-12)
    assert np.max(np.abs(kappa - 30) / stderr) < 4


def test_a_larger_amplitude_makes_the_error_smaller():
    A = jnp.diag(jnp.array([1.0, 5.0, 40.0]))
    small, large = (tla.extremes(A, key=KEY, amplitude=amplitude).stderr for amplitude in (1e2, 1e4))
    assert np.all(np.asarray(large) < 0.1 * np.asarray(small))


def test_units_of_the_matrix_carry_over():
    A, _, _ = system(d=6, kappa=10.0)
    one, other = (tla.extremes(scale * A, key=KEY) for scale in (1.0, 1e5))
    np.testing.assert_allclose(1e5 * np.asarray(one.value), other.value, rtol=1e-9)
    np.testing.assert_allclose(np.asarray(one.stats["device_time"]) / 1e5, other.stats["device_time"], rtol=1e-9)


def test_a_product_is_enough():
    A, _, _ = system(d=12, kappa=30.0)
    free = tla.MatrixFree(jax.tree_util.Partial(jnp.matmul, A), 12, A.dtype)
    np.testing.assert_allclose(tla.extremes(free, key=KEY).value, tla.extremes(A, key=KEY).value, rtol=1e-3)


def test_one_unknown_has_one_eigenvalue():
    out = tla.extremes(jnp.array([[2.0]]), key=KEY)
    assert np.all(np.abs(np.asarray(out.value) - 2) < 5 * np.asarray(out.stderr) + 0.02)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"cycles": 4}, "cycles"),
        ({"cycles": 10.5}, "cycles"),
        ({"amplitude": -1.0}, "amplitude"),
        ({"device": tla.Device(dynamics=tla.Underdamped())}, "ring"),
        ({"device": tla.Device(simulator=tla.Law(long_time=True))}, "long-time"),
    ],
)
def test_bad_input_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        tla.extremes(jnp.eye(3), key=KEY, **how)
