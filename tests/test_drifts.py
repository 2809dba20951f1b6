"""Drifts: what users bring, complex numbers as pairs of real ones, and how long a process remembers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from scipy.linalg import expm, solve_continuous_lyapunov
from scipy.sparse import csr_array

import thermolinalg as tla
from thermolinalg.drifts import as_drift, as_given, as_real, settling_time
from thermolinalg.testing import SEEDS

settle = jax.jit(settling_time)


def complex_square(seed, d=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((d, d)) + 1j * rng.standard_normal((d, d))


def real(matrix):
    return np.asarray(as_real(jnp.asarray(matrix)))


def given_back(matrix):
    return np.asarray(as_given(jnp.asarray(matrix), jnp.dtype(np.complex128)))


# Complex matrices as real ones of twice the size.


@given(SEEDS)
def test_a_round_trip_changes_nothing(seed):
    matrix = complex_square(seed)
    np.testing.assert_array_equal(given_back(real(matrix)), matrix)


def test_real_matrices_pass_as_they_are():
    matrix = jnp.arange(4.0).reshape(2, 2)
    assert as_real(matrix) is matrix
    assert as_given(matrix, matrix.dtype) is matrix


@given(SEEDS)
def test_matrix_functions_go_along(seed):
    A, B = complex_square(seed), complex_square(seed + 1)
    A = A + (1 - np.linalg.eigvals(A).real.min()) * np.eye(3)
    Q = B @ B.conj().T
    for found, exact in (
        (real(A) @ real(B), A @ B),
        (np.linalg.inv(real(A)), np.linalg.inv(A)),
        (expm(-real(A)), expm(-A)),
        (solve_continuous_lyapunov(real(A), real(Q)), solve_continuous_lyapunov(A, Q)),
        (real(A).T, A.conj().T),
    ):
        # Every eigenvalue of A is at least 1; sensitivity to rounding is cubic at worst in what is off the diagonal.
        tolerance = 100 * 2.0**-52 * (1 + np.linalg.norm(A)) ** 3
        np.testing.assert_allclose(given_back(found), exact, atol=tolerance * np.abs(exact).max())
        np.testing.assert_allclose(found, real(exact), atol=tolerance * np.abs(exact).max())


def test_plain_transposition_does_not_go_along():
    A = complex_square(0)
    assert np.abs(given_back(real(A).T) - A.T).max() > 0.1


def test_errors_of_the_two_copies_are_averaged():
    noise = np.zeros((6, 6))
    noise[0, 0], noise[4, 0] = 1.0, 1.0  # real part of entry (0, 0) once, imaginary part of (1, 0) once
    found = given_back(real(complex_square(0)) + noise) - complex_square(0)
    np.testing.assert_allclose(found[:2, 0], [0.5, 0.5j], atol=1e-15)
    np.testing.assert_allclose(found[:, 1:], 0, atol=1e-15)


# How long a process remembers.

RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.standard_normal((4, 4)))[0]
DRIFTS = {
    "normal": BASIS @ np.diag([0.1, 0.5, 2.0, 8.0]) @ BASIS.T,
    "stiff": BASIS @ np.diag([1e-4, 0.5, 2.0, 8.0]) @ BASIS.T,
    "non-normal": np.diag([0.3, 0.4, 1.0, 2.0]) + 20 * np.triu(np.ones((4, 4)), 1),
    "Jordan block": 0.5 * np.eye(4) + np.eye(4, k=1),
    "complex pairs": BASIS @ np.kron(np.diag([0.2, 1.0]), np.array([[1.0, 9.0], [-9.0, 1.0]])) @ BASIS.T,
}
BLOCKS = {"everything": np.eye(4), "one direction of many": np.outer(RNG.standard_normal(4), [1.0, 2.0, 0.0, 0.0])}


def left(drift, block, time):
    return np.linalg.norm(expm(-drift * time) @ block) / np.linalg.norm(block)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("drift", DRIFTS)
def test_settled_at_the_time_and_not_long_before(drift, block):
    A, V = DRIFTS[drift], BLOCKS[block]
    for fraction in (0.2, 0.03, 1e-4, 1e-8):
        time = float(settle(A, V, fraction))
        # Rounding the drift moves what is left by eps |A| t, at most 1e-9 here.
        assert left(A, V, time) <= fraction * (1 + 1e-9)
        assert left(A, V, 0.8 * time * (1 - 1e-9)) > fraction


def test_short_times_are_found_to_a_factor_of_two():
    for fraction in (0.95, 0.75, 0.5, 0.3):
        needed = -np.log(fraction)
        assert needed <= float(settle(np.eye(4), np.eye(4), fraction)) <= max(0.25, 2 * needed)


def test_time_is_in_units_of_the_drift():
    A, V = DRIFTS["non-normal"], np.eye(4)
    np.testing.assert_allclose(settle(1024 * A, V, 0.01) * 1024, settle(A, V, 0.01), rtol=1e-12)


def test_nothing_has_settled_already():
    assert float(settle(np.eye(4), np.zeros((4, 4)), 0.1)) == 0
    assert float(settle(-np.eye(4), np.zeros((4, 4)), 0.1)) == 0


UNSTABLE = {
    "grows": -np.eye(4),
    "one mode grows": np.diag([1.0, 2.0, 3.0, -1e-3]),
    "turns for ever": np.kron(np.eye(2), np.array([[0.0, 1.0], [-1.0, 0.0]])),
    "stands still": np.zeros((4, 4)),
    "nilpotent": np.eye(4, k=1),
}


@pytest.mark.parametrize("name", UNSTABLE)
def test_what_is_not_stable_never_settles(name):
    assert float(settle(UNSTABLE[name], np.eye(4), 0.1)) == np.inf


def test_what_is_not_excited_need_not_settle():
    time = float(settle(UNSTABLE["one mode grows"], np.diag([1.0, 1.0, 1.0, 0.0]), 0.1))
    assert -np.log(0.1) / 2 < time < 1.25 * -np.log(0.1)


def test_settling_time_under_vmap_and_in_float32():
    drifts, V = np.stack([DRIFTS["normal"], DRIFTS["Jordan block"], -np.eye(4)]), np.eye(4)
    alone = [float(settle(A, V, 0.01)) for A in drifts]
    np.testing.assert_allclose(jax.vmap(settle, (0, None, None))(drifts, V, 0.01), alone, rtol=1e-12)
    narrow = settle(np.float32(drifts[0]), np.float32(V), 0.01)
    assert narrow.dtype == np.float32
    assert float(narrow) == pytest.approx(alone[0], rel=1e-6)


# What users bring.

MATRIX = np.array([[1.0, 5.0], [0.0, 2.0]])


def lineax_operator(matrix):
    return pytest.importorskip("lineax").MatrixLinearOperator(jnp.asarray(matrix))


@pytest.mark.parametrize(
    "wrap",
    [np.asarray, jnp.asarray, np.ndarray.tolist, tla.General, csr_array, lineax_operator],
)
def test_drifts_of_every_kind(wrap):
    found = as_drift(wrap(MATRIX))
    assert isinstance(found, jax.Array)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, MATRIX)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_dtypes_stay(dtype):
    assert as_drift(MATRIX.astype(dtype)).dtype == dtype


def test_integers_become_floats():
    assert as_drift(np.array([[1, 2], [3, 4]])).dtype == np.float64


def test_operators_become_matrices():
    product = jax.tree_util.Partial(jnp.matmul, jnp.diag(jnp.array([1.0, 2.0])))
    for operator in (tla.Diagonal(jnp.array([1.0, 2.0])), tla.MatrixFree(product, 2, jnp.float64)):
        np.testing.assert_allclose(as_drift(operator), np.diag([1.0, 2.0]), atol=1e-15)


def test_drifts_pass_under_jit():
    np.testing.assert_array_equal(jax.jit(lambda A: as_drift(tla.General(A)))(MATRIX), MATRIX)


FAULTS = {
    "not square": (np.ones((2, 3)), "square"),
    "a vector": (np.ones(3), "square"),
    "a stack": (np.ones((2, 3, 3)), "square"),
    "empty": (np.ones((0, 0)), "square"),
    "NaN": (np.array([[1.0, np.nan], [0.0, 1.0]]), "not finite"),
    "infinity": (np.diag([1.0, np.inf]), "not finite"),
    "text": (np.array([["a"]]), "numeric"),
    "half precision": (np.eye(2, dtype=np.float16), "float16"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("wrap", [lambda A: A, tla.General])
def test_bad_drifts_are_refused_by_name(fault, wrap):
    matrix, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        as_drift(wrap(matrix))
    with pytest.raises(ValueError, match=r"^G "):
        as_drift(wrap(matrix), "G")
