"""Encodings: that the process has the law whose second moment is the answer, in 50 digits and against SciPy."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from scipy.linalg import expm, solve_continuous_lyapunov

import thermolinalg as tla
from thermolinalg.encodings import exponential, stationary

RNG = np.random.default_rng(0)
SQUARE = RNG.standard_normal((4, 4))
TURNED = SQUARE + 1j * RNG.standard_normal((4, 4))
ONE = np.outer(np.arange(4.0), np.arange(4.0))


def precise_lyapunov(A, Q):
    """Solve AX + XA^* = Q for its d^2 entries in 50 digits."""
    d = len(A)
    with mp.workdps(50):
        M = mp.matrix(d * d, d * d)
        for i in range(d):
            for j in range(d):
                for k in range(d):
                    M[i * d + j, k * d + j] += mp.mpmathify(A[i, k].item())
                    M[i * d + j, i * d + k] += mp.conj(mp.mpmathify(A[j, k].item()))
        x = mp.lu_solve(M, mp.matrix([mp.mpmathify(q.item()) for q in Q.ravel()]))
        return np.array([complex(v) for v in x]).reshape(d, d)


STABLE = {
    "random": (SQUARE + 3 * np.eye(4), SQUARE @ SQUARE.T),
    "complex": (TURNED + 4 * np.eye(4), TURNED @ TURNED.conj().T),
    "one direction of noise": (SQUARE + 3 * np.eye(4), ONE),
    "complex, one direction of noise": (TURNED + 4 * np.eye(4), np.outer(TURNED[0], TURNED[0].conj())),
    "Jordan block": (np.eye(8) + np.eye(8, k=1), np.eye(8)),
    "non-normal, 1e5": (np.diag(np.geomspace(1, 10, 4)) + 1e5 * np.triu(np.ones((4, 4)), 1), np.eye(4)),
    "stiff": (np.diag([1e-4, 1.0, 1e2, 1e4]), np.ones((4, 4))),
}


@pytest.mark.parametrize("name", STABLE)
def test_stationary_covariance_solves_the_equation(name):
    A, Q = STABLE[name]
    encoded = stationary(A, Q, None)
    exact = precise_lyapunov(A, Q)
    found = np.asarray(encoded.covariance)
    assert int(encoded.status) == 0
    assert found.dtype == A.dtype
    # Doubling adds positive terms only: some hundred rounding errors of the largest entry.
    np.testing.assert_allclose(found, exact, atol=1e-12 * np.abs(exact).max(), rtol=0)
    assert np.linalg.eigvalsh(found)[0] >= -1e-14 * np.linalg.norm(found)
    np.testing.assert_allclose(float(encoded.clock), np.linalg.norm(A, 2), rtol=1e-12)
    if name != "non-normal, 1e5":  # where SciPy has eight digits
        scipy = solve_continuous_lyapunov(A, Q)
        np.testing.assert_allclose(found, scipy, atol=1e-10 * np.abs(exact).max(), rtol=0)


@pytest.mark.parametrize("name", ["random", "complex"])
def test_a_complex_cell_is_two_real_ones(name):
    A, Q = STABLE[name]
    encoded = stationary(A, Q, None)
    assert encoded.components == (2 if np.iscomplexobj(A) else 1)
    residual = encoded.drift @ encoded.stationary + encoded.stationary @ encoded.drift.T - encoded.diffusion
    assert np.abs(residual).max() < 1e-12 * np.abs(encoded.diffusion).max()
    assert encoded.lag is None
    assert float(encoded.gain) == 1
    propagator, covariance = encoded.after(0.4)
    X, E = precise_lyapunov(A, Q), expm(-0.4 * A)
    np.testing.assert_allclose(propagator, E, atol=1e-13)
    np.testing.assert_allclose(covariance, X - E @ X @ E.conj().T, atol=1e-12 * np.abs(X).max())


@pytest.mark.parametrize(
    ("drift", "right", "dtype"),
    [
        (np.float64, np.complex128, np.complex128),
        (np.complex128, np.float64, np.complex128),
        (np.float32, np.float64, np.float64),
        (np.float32, np.float32, np.float32),
    ],
)
def test_mixed_dtypes_take_the_wider(drift, right, dtype):
    A = np.array([[1.0, 2.0], [0.0, 1.0]])
    found = stationary(A.astype(drift), np.eye(2).astype(right), None).covariance
    assert found.dtype == dtype
    np.testing.assert_allclose(found, solve_continuous_lyapunov(A, np.eye(2)), rtol=1e-6, atol=1e-6)


# Exponentials.

EXPONENTS = {
    "random": (SQUARE, 0.7),
    "complex": (TURNED, 0.7),
    "growing": (SQUARE + 5 * np.eye(4), 2.0),
    "very stable": (SQUARE - 300 * np.eye(4), 0.1),
    "non-normal": (np.diag([0.2, 0.5, 0.1, 0.3]) + 2 * np.triu(np.ones((4, 4)), 1), 1.0),
    "nilpotent": (np.eye(4, k=1), 1.0),
    "rotation": (np.kron(np.eye(2), np.array([[0.0, 1.0], [-1.0, 0.0]])), 3.0),
    "short": (SQUARE, 1e-6),
}


@pytest.mark.parametrize("name", EXPONENTS)
def test_lagged_covariance_is_the_exponential(name):
    A, t = EXPONENTS[name]
    d, components = len(A), 2 if np.iscomplexobj(A) else 1
    encoded = exponential(A, t, None, None)
    assert int(encoded.status) == 0
    # SciPy squares what decays and loses digits; a multiple of the identity is better left out.
    mean = np.trace(A) / d
    exact = np.exp(mean * t) * expm((A - mean * np.eye(d)) * t)
    found = float(encoded.gain) * np.asarray(encoded.after(encoded.lag)[0])
    np.testing.assert_allclose(found, exact, atol=1e-12 * np.abs(exact).max(), rtol=0)
    np.testing.assert_array_equal(encoded.covariance, np.eye(d))
    G, D = np.asarray(encoded.drift), np.asarray(encoded.diffusion)
    np.testing.assert_allclose(components * solve_continuous_lyapunov(G, D), np.eye(len(G)), atol=1e-12)
    assert np.linalg.eigvalsh(D)[0] > 0


def top(A):
    return np.linalg.eigvalsh((A + A.conj().T) / 2)[-1]


def shift_of(encoded, A):
    return float(np.asarray(encoded.drift)[0, 0] + A[0, 0].real)


@pytest.mark.parametrize("name", EXPONENTS)
def test_default_shift_balances_noise_and_relaxation(name):
    A, t = EXPONENTS[name]
    encoded = exponential(A, t, None, None)
    pace = np.linalg.norm(A) * (2**0.5 if np.iscomplexobj(A) else 1)
    shift = top(A) + min(0.5 / t, 10 * pace)
    assert shift_of(encoded, A) == pytest.approx(shift, rel=1e-12)
    assert float(encoded.gain) == pytest.approx(np.exp(shift * t), rel=1e-12)


def test_a_very_stable_exponent_is_shifted_up_not_down():
    A, t = EXPONENTS["very stable"]
    assert shift_of(exponential(A, t, None, None), A) < 0


def test_a_shift_by_hand_is_kept():
    A, t = EXPONENTS["random"]
    encoded = exponential(A, t, top(A) + 0.3, None)
    assert shift_of(encoded, A) == pytest.approx(top(A) + 0.3, rel=1e-12)
    np.testing.assert_allclose(float(encoded.gain) * np.asarray(encoded.after(t)[0]), expm(A * t), atol=1e-12)


@pytest.mark.parametrize(("A", "t"), [(SQUARE, 0.0), (np.zeros((4, 4)), 1.0), (np.zeros((4, 4)), 0.0)])
def test_nothing_to_exponentiate_gives_the_identity(A, t):
    encoded = exponential(A, t, None, None)
    assert int(encoded.status) == 0
    assert np.linalg.eigvalsh(encoded.diffusion)[0] > 0
    np.testing.assert_allclose(float(encoded.gain) * np.asarray(encoded.after(encoded.lag)[0]), np.eye(4), atol=1e-14)


# Faults.

GOOD = np.array([[1.0, 2.0], [0.0, 1.0]])
EXPONENTIAL_FAULTS = {
    "shift at the limit": ((GOOD, 1.0, 2.0), r"shift = 2.0 is too small.*exceeds 2, the largest"),
    "shift below": ((GOOD, 1.0, -5.0), "too small"),
    "a matrix for a shift": ((GOOD, 1.0, 3 * np.eye(2)), r"shift must be a number, got shape \(2, 2\)"),
    "a vector of times": ((GOOD, np.ones(2), None), "t must be a number"),
    "an infinite shift": ((GOOD, 1.0, np.inf), "shift must be finite"),
    "a complex shift": ((GOOD, 1.0, 3 + 1j), "shift must be real"),
    "no time": ((GOOD, np.nan, None), "t must be finite"),
    "a complex time": ((GOOD, 1j, None), "t must be real"),
    "a negative time": ((GOOD, -1.0, None), "exponentiate -A instead"),
    "not square": ((np.ones((2, 3)), 1.0, None), "A must be a square"),
}


@pytest.mark.parametrize("fault", EXPONENTIAL_FAULTS)
def test_bad_exponents_are_refused_by_name(fault):
    arguments, message = EXPONENTIAL_FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        exponential(*arguments, None)


STATIONARY_FAULTS = {
    "unstable": ((-GOOD, np.eye(2)), "real part -1, "),
    "marginal": ((np.array([[0.0, 1.0], [-1.0, 0.0]]), np.eye(2)), "A is not stable"),
    "indefinite": ((GOOD, np.diag([1.0, -2.0])), "eigenvalue -2, "),
    "asymmetric": ((GOOD, np.eye(2) + 0.25 * np.eye(2, k=1)), r"Q is not symmetric.*by up to 2.5e-01"),
    "symmetric, but not Hermitian": ((GOOD + 0j, np.eye(2) + 1j * np.ones((2, 2))), "Q is not symmetric"),
    "another shape": ((GOOD, np.eye(3)), r"shape of A, \(2, 2\), got \(3, 3\)"),
    "a vector": ((GOOD, np.ones(2)), "Q must be a square"),
    "not finite": ((GOOD, np.nan * np.eye(2)), "Q has entries"),
}


@pytest.mark.parametrize("fault", STATIONARY_FAULTS)
def test_bad_equations_are_refused_by_name(fault):
    arguments, message = STATIONARY_FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        stationary(*arguments, None)


def test_rounding_is_no_fault():
    thin = np.outer([1.0, 1 / 3], [1.0, 1 / 3])
    assert int(stationary(GOOD, thin - 1e-12 * np.eye(2) + 1e-12 * np.eye(2, k=1), None).status) == 0


def test_devices_with_inertia_are_refused():
    heavy = tla.Device(dynamics=tla.Underdamped(1.0))
    with pytest.raises(ValueError, match="overdamped"):
        stationary(GOOD, np.eye(2), heavy)
    with pytest.raises(ValueError, match="overdamped"):
        exponential(GOOD, 1.0, None, heavy)


def test_under_jit_faults_are_a_status():
    def status(A, Q):
        return stationary(A, Q, None).status

    traced = jax.jit(status)
    assert int(traced(GOOD, np.eye(2))) == 0
    assert int(traced(-GOOD, np.eye(2))) == tla.Status.UNSTABLE
    assert int(traced(GOOD, np.diag([1.0, -2.0]))) == tla.Status.NOT_SEMIDEFINITE

    powers = jax.jit(lambda t, shift: exponential(jnp.asarray(GOOD), t, shift, None).status)
    assert int(powers(1.0, 2.5)) == 0
    assert int(powers(1.0, 1.5)) == tla.Status.NOT_SEMIDEFINITE
    assert int(powers(-1.0, 2.5)) == tla.Status.NOT_SEMIDEFINITE
