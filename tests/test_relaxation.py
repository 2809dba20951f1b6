"""The functions of a relaxing mode against 120-digit arithmetic, in both precisions, with their derivatives at zero."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from thermolinalg import relaxation

EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}
ARGUMENTS = np.unique(
    np.concatenate([[0.0], np.geomspace(1e-14, 1e5, 58), [0.5, 1 - 2.0**-30, 1.0, 1 + 2.0**-30, 2.0, 30.0, 700.0]])
)
SAMPLES = (1, 2, 3, 50, 10**6)


def phi1(z):
    return -mp.expm1(-z) / z if z else mp.mpf(1)


def psi(z):
    return 2 * (z - 1 + mp.exp(-z)) / z**2 if z else mp.mpf(1)


def chi_over_z(z):
    return (2 * z - 3 + 4 * mp.exp(-z) - mp.exp(-2 * z)) / z**3 if z else mp.mpf(2) / 3


def sampling_remainder(a):
    return (1 - mp.exp(-2 * a) - 2 * a * mp.exp(-a)) / a**3 if a else mp.mpf(1) / 3


def sampled_phi1(n, a):
    return (1 - mp.exp(-n * a)) / (n * (1 - mp.exp(-a))) if a else mp.mpf(1)


def sampled_psi(n, a):
    if not a:
        return mp.mpf(1)
    q = mp.exp(-a)
    return (n * (1 + q) / (1 - q) - 2 * q * (1 - q**n) / (1 - q) ** 2) / mp.mpf(n) ** 2


ONE = {"phi1": phi1, "psi": psi, "chi_over_z": chi_over_z, "sampling_remainder": sampling_remainder}
TWO = {"sampled_phi1": sampled_phi1, "sampled_psi": sampled_psi}


def error(found, reference, *arguments):
    """Relative errors against the reference, in rounding errors of the type of the result."""
    found = np.asarray(found)
    tiny = float(np.finfo(found.dtype).tiny)
    with mp.workdps(130):
        exact = [reference(*(mp.mpf(float(x)) for x in row)) for row in np.broadcast(*arguments)]
        errors = [abs(mp.mpf(float(f)) - e) / max(abs(e), tiny) for f, e in zip(found, exact, strict=True)]
        return np.array([float(e) for e in errors]) / EPS[found.dtype.type]


# The worst case is chi/z just above 1, where the direct form takes over: terms of absolute sum 5.4 leave 0.34, so that
# 16 half roundings add up. The sampled functions are products and quotients of such values, with no further
# subtraction: two factors of psi or phi1 squared, five half roundings each. 1e-14 in float64 is 45 of these units.
LIMIT = 8.0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ONE)
def test_functions_of_one_argument(name, dtype):
    z = ARGUMENTS.astype(dtype)
    found = getattr(relaxation, name)(jnp.asarray(z))
    assert found.dtype == dtype
    assert error(found, ONE[name], z).max() < LIMIT


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("n", SAMPLES)
def test_functions_of_the_number_of_samples(name, n, dtype):
    a = ARGUMENTS.astype(dtype)
    found = getattr(relaxation, name)(jnp.asarray(n, dtype), jnp.asarray(a))
    assert found.dtype == dtype
    assert error(found, TWO[name], np.full_like(a, n), a).max() < LIMIT


def test_the_textbook_forms_would_fail():
    """The bounds above are not loose: the plain formula loses digits by cancellation."""
    z = ARGUMENTS[(ARGUMENTS > 0) & (ARGUMENTS < 1)]
    naive = (2 * z - 3 + 4 * np.exp(-z) - np.exp(-2 * z)) / z**3
    assert error(naive, chi_over_z, z).max() > 1e6


def test_sampled_functions_are_the_sums_that_they_stand_for():
    n, a = 7, 0.3
    k = np.arange(n)
    np.testing.assert_allclose(relaxation.sampled_phi1(n, a), np.exp(-a * k).mean(), rtol=8 * EPS[np.float64])
    pairs = np.exp(-a * np.abs(k[:, None] - k))
    np.testing.assert_allclose(relaxation.sampled_psi(n, a), pairs.mean(), rtol=8 * EPS[np.float64])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("name", "slope"), [("phi1", -1 / 2), ("psi", -1 / 3), ("chi_over_z", -1 / 2), ("sampling_remainder", -1 / 3)]
)
def test_slope_at_zero(name, slope, dtype):
    found = jax.grad(getattr(relaxation, name))(jnp.zeros((), dtype))
    assert found.dtype == dtype
    assert abs(float(found) - slope) <= 2 * EPS[dtype]


@pytest.mark.parametrize("n", SAMPLES)
def test_slope_at_zero_of_the_sampled_functions(n):
    count, zero = jnp.asarray(float(n)), jnp.zeros(())
    slope = jax.grad(relaxation.sampled_phi1, 1)(count, zero)
    assert abs(float(slope) + (n - 1) / 2) <= 4 * EPS[np.float64] * n
    # -sum |k - l| / n^2
    slope = jax.grad(relaxation.sampled_psi, 1)(count, zero)
    assert abs(float(slope) + (n - 1 / n) / 3) <= 8 * EPS[np.float64] * n


@pytest.mark.parametrize("name", ONE)
def test_slope_elsewhere(name):
    """Derivatives against 120 digits.

    The quotient rule of phi1 subtracts two numbers of size 1/z, which costs 1/z roundings at small z. Just above 1 the
    derivative of chi/z has terms of absolute sum 16 and value 0.26: 62 half roundings.
    """
    z = ARGUMENTS[ARGUMENTS > 1e-4]
    found = jax.vmap(jax.grad(getattr(relaxation, name)))(jnp.asarray(z))
    with mp.workdps(120):
        exact = np.array([float(mp.diff(ONE[name], mp.mpf(float(x)), h=mp.mpf(10) ** -30)) for x in z])
    assert np.all(np.abs(found - exact) <= 32 * EPS[np.float64] * np.maximum(1, 1 / z) * np.abs(exact))


def test_nan_stays_nan():
    for name in ONE:
        assert np.isnan(getattr(relaxation, name)(jnp.asarray(jnp.nan)))
