"""Bounds are bounds: of the smallest eigenvalue, and of the error of an answer."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import system
from scipy.linalg import hilbert

import thermolinalg as tla
from thermolinalg.testing import spd_matrices

KEY = jax.random.key(5)


def wilkinson(n):
    """W+ of odd order, shifted until it is positive definite."""
    return np.diag(np.abs(np.arange(n) - n // 2) + 1.5) + np.eye(n, k=1) + np.eye(n, k=-1)


def laplacian(n, shift=1e-6):
    path = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    path[0, 0] = path[-1, -1] = 1
    return path + shift * np.eye(n)


ADVERSARIAL = {f"hilbert {n}": hilbert(n) for n in range(6, 11)} | {
    "wilkinson": wilkinson(21),
    "laplacian": laplacian(12),
    "identity": np.eye(5),
    "one": np.array([[3.0]]),
}


def smallest(matrix):
    with mpmath.workdps(50):
        return min(mpmath.eigsy(mpmath.matrix(np.asarray(matrix, float).tolist()), eigvals_only=True))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_smallest_eigenvalue_is_bounded_closely(name):
    matrix = ADVERSARIAL[name]
    found = tla.lowest_eigenvalue(jnp.asarray(matrix))
    truth = smallest(matrix)
    assert found.certain
    # gamma_(d+1) trace: the margin of the theorem, and what eigvalsh loses, which is less.
    margin = 4 * (len(matrix) + 4) * 2.0**-53 * np.trace(matrix)
    assert truth - margin < float(found.value) <= truth


@given(spd_matrices(dims=st.just(6), kappas=st.floats(0.0, 12.0).map(lambda digits: 10.0**digits)))
def test_the_bound_is_never_above_the_truth(matrix):
    assert float(tla.lowest_eigenvalue(jnp.asarray(matrix)).value) <= smallest(matrix)


@given(spd_matrices(dims=st.just(6), kappas=st.floats(0.0, 9.0).map(lambda digits: 10.0**digits)))
def test_the_bound_is_never_above_the_truth_in_single_precision(matrix):
    single = matrix.astype(np.float32)
    found = tla.lowest_eigenvalue(jnp.asarray(single)).value
    assert found.dtype == jnp.float32
    assert float(found) <= smallest(single)


def test_an_unvalidated_estimate_would_be_caught():
    above = sum(float(np.linalg.eigvalsh(m)[0]) > smallest(m) for m in ADVERSARIAL.values())
    assert above >= 2


def test_indefinite_matrices_get_no_positive_bound():
    for matrix in (np.array([[1.0, 2.0], [2.0, 1.0]]), np.ones((4, 4)), -np.eye(3), np.zeros((3, 3))):
        found = float(tla.lowest_eigenvalue(jnp.asarray(matrix)).value)
        assert found <= np.linalg.eigvalsh(matrix)[0] + 1e-15
        assert found <= 0


def test_complex_matrices():
    A, _, _ = system(d=8, dtype=np.complex128, kappa=1e6)
    real = np.block([[A.real, -A.imag], [A.imag, A.real]])
    truth = smallest(real)
    assert truth - 1e-13 < float(tla.lowest_eigenvalue(A).value) <= truth


def test_structured_operators():
    A, _, _ = system(d=4)
    B, _, _ = system(d=3, seed=1)
    product = tla.lowest_eigenvalue(tla.Kronecker((tla.Dense(A), tla.Dense(B))))
    truth = smallest(A) * smallest(B)
    assert product.certain
    assert float(truth) * (1 - 1e-12) < float(product.value) <= truth
    assert float(tla.lowest_eigenvalue(tla.Kronecker((tla.Dense(-A), tla.Dense(-B)))).value) == -np.inf
    diagonal = tla.lowest_eigenvalue(tla.Diagonal(jnp.array([3.0, 0.1, 2.0])))
    assert float(diagonal.value) == 0.1
    assert float(tla.lowest_eigenvalue(tla.LowRank(jnp.ones((5, 2)), jnp.array(0.25))).value) == 0.25


def test_matrix_free_operators_are_not_certain():
    matrix = jnp.asarray(laplacian(40, 1.0))
    free = tla.MatrixFree(lambda v: matrix @ v, 40, matrix.dtype, survey_steps=30)
    found = tla.lowest_eigenvalue(free)
    assert not found.certain
    assert 0 < float(found.value) <= smallest(matrix)
    small = tla.MatrixFree(lambda v: matrix @ v, 40, matrix.dtype)
    assert not tla.lowest_eigenvalue(small).certain
    assert float(tla.lowest_eigenvalue(small).value) <= smallest(matrix)


def exact_error(matrix, b, x):
    """Length of x - A^-1 b, and of A^-1 b, for the numbers as they are stored."""
    with mpmath.workdps(60):
        truth = mpmath.lu_solve(mpmath.matrix(matrix.tolist()), mpmath.matrix(b.tolist()))
        error = mpmath.norm(truth - mpmath.matrix(x.tolist()))
        return error, error / mpmath.norm(truth)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_forward_bound_is_a_bound_and_a_sharp_one(name):
    matrix = ADVERSARIAL[name]
    n = len(matrix)
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(n)
    b = matrix @ truth
    for size in (0.0, 1e-10, 1e-2, 10.0):
        x = np.linalg.solve(matrix, b) + size * rng.standard_normal(n)
        found = tla.forward_bound(jnp.asarray(matrix), jnp.asarray(b), jnp.asarray(x))
        error, relative = exact_error(matrix, b, x)
        assert bool(found.validated)
        assert error <= float(found.absolute)
        assert relative <= float(found.relative)
        # Rounding of the residual, over the smallest eigenvalue, is all that is added: none where errors are large.
        floor = 64 * n * 2.0**-53 * np.linalg.norm(matrix) * np.linalg.norm(x) / float(found.lowest.value)
        assert float(found.absolute) <= 1.01 * float(error) + floor


def test_without_the_bound_of_rounding_the_bound_would_not_hold():
    matrix, misses = hilbert(9), 0
    for seed in range(20):
        b = matrix @ np.random.default_rng(seed).standard_normal(9)
        x = np.linalg.solve(matrix, b)
        error, _ = exact_error(matrix, b, x)
        misses += np.linalg.norm(np.linalg.solve(matrix, b - matrix @ x)) < float(error)
        assert error <= float(tla.forward_bound(jnp.asarray(matrix), jnp.asarray(b), jnp.asarray(x)).absolute)
    assert misses > 0


def test_columns_jit_complex_and_zero():
    A, b, x = system(d=6, dtype=np.complex128)
    block = jnp.stack([b, 1j * b, 0 * b], 1)
    answers = jnp.stack([jnp.asarray(x), jnp.asarray(1j * x) + 0.1, 0 * b], 1)
    found = jax.jit(tla.forward_bound)(A, block, answers)
    assert found.relative.shape == found.absolute.shape == (3,)
    np.testing.assert_allclose(found.absolute[1], 0.1 * 6**0.5, rtol=1e-9)
    np.testing.assert_allclose(found.relative[1], found.absolute[1] / np.linalg.norm(x), rtol=0.2)
    # Rounding: 80 units of (|A| |x| + |b|), over the smallest eigenvalue of 1/30.
    assert float(found.absolute[0]) < 30 * 160 * 2.0**-53 * 2 * np.linalg.norm(A) * np.linalg.norm(x)
    assert found.relative[2] == found.absolute[2] == 0
    assert float(found.lowest.value) <= np.linalg.eigvalsh(A)[0]


def test_nothing_can_be_said_where_the_matrix_is_not_definite_enough():
    matrix = hilbert(9).astype(np.float32)
    found = tla.forward_bound(jnp.asarray(matrix), jnp.ones(9, jnp.float32), jnp.ones(9, jnp.float32))
    assert not bool(found.validated)
    assert np.isinf(found.absolute)
    assert np.isinf(found.relative)


@pytest.mark.parametrize(
    "make", [tla.Diagonal, lambda rates: tla.Kronecker((tla.Diagonal(rates), tla.Diagonal(rates)))]
)
def test_structured_operators_have_sharp_bounds(make):
    operator = make(jnp.geomspace(0.01, 1.0, 4))
    b = operator @ jnp.ones(operator.dim)
    off = jnp.ones(operator.dim).at[0].add(0.5)
    np.testing.assert_allclose(tla.forward_bound(operator, b, off).absolute, 0.5, rtol=1e-9)


def test_low_rank_plus_shift():
    columns = jax.random.normal(KEY, (7, 2))
    operator = tla.LowRank(columns, jnp.array(0.5))
    b = operator @ jnp.ones(7)
    found = tla.forward_bound(operator, b, jnp.ones(7) + 0.1)
    np.testing.assert_allclose(found.absolute, 0.1 * 7**0.5, rtol=1e-9)


def test_gauss_radau_bounds_from_above_and_beats_the_residual():
    matrix = laplacian(80, 0.05)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((80, 3)) * np.array([1.0, 0.0, 1e-3])
    truth = rng.standard_normal((80, 3)) * np.array([1.0, 0.0, 1.0])
    b = matrix @ truth
    ratios = []
    for steps in (40, 60):
        free = tla.MatrixFree(lambda v: jnp.asarray(matrix) @ v, 80, jnp.dtype(float), survey_steps=steps)
        found = tla.forward_bound(free, jnp.asarray(b), jnp.asarray(truth + x))
        assert not bool(found.validated)
        errors = np.linalg.norm(x, axis=0)
        assert np.all(np.asarray(found.absolute)[[0, 2]] >= errors[[0, 2]] * (1 - 1e-9))
        assert found.absolute[1] == 0
        crude = np.linalg.norm(matrix @ x, axis=0) / float(found.lowest.value)
        ratios.append((np.asarray(found.absolute)[0] / errors[0], crude[0] / errors[0]))
    (first, crude), (second, _) = ratios
    assert second <= first < crude
    assert second < 1.5


def test_bad_input():
    A, b, _ = system()
    with pytest.raises(ValueError, match="shape of b"):
        tla.forward_bound(A, b, jnp.ones((12, 2)))
    with pytest.raises(ValueError, match="not symmetric"):
        tla.lowest_eigenvalue(jnp.triu(jnp.ones((3, 3))))


def test_backward_error_against_exact_arithmetic():
    A, b, x = [[2, 1], [1, 3]], [1, 2], [Fraction(1, 4), Fraction(1, 2)]
    residual = [b[i] - sum(A[i][j] * x[j] for j in range(2)) for i in range(2)]
    norms = [float(sum(Fraction(v) ** 2 for v in part)) ** 0.5 for part in (residual, x, b, [*A[0], *A[1]])]
    found = tla.certify(jnp.array(A, float), jnp.array(b, float), jnp.array([0.25, 0.5]))
    np.testing.assert_allclose(found.backward_error, norms[0] / (norms[3] * norms[1] + norms[2]), rtol=1e-14)


def test_the_backward_error_is_attained():
    A, b, x = system(d=6)
    off = np.asarray(x) + 0.1
    found = float(tla.certify(A, b, jnp.asarray(off)).backward_error)
    residual = np.asarray(b) - np.asarray(A) @ off
    size, lengths = np.linalg.norm(A), [np.linalg.norm(v) for v in (off, np.asarray(b))]
    share = size * lengths[0] / (size * lengths[0] + lengths[1])
    moved_a = share * np.outer(residual, off) / lengths[0] ** 2
    moved_b = -(1 - share) * residual
    np.testing.assert_allclose((A + moved_a) @ off, b + moved_b, rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(moved_a) / size, found, rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(moved_b) / lengths[1], found, rtol=1e-10)


def test_the_norm_of_a_matrix_free_operator_is_estimated():
    A, b, x = system(d=10)
    free = tla.MatrixFree(lambda v: A @ v, 10, A.dtype)
    off = jnp.asarray(x) + 0.1
    residual = float(jnp.linalg.norm(b - A @ off))
    exact = residual / (1.0 * float(jnp.linalg.norm(off)) + float(jnp.linalg.norm(b)))  # the norm of A is 1
    for operator in (free, tla.Device().program(free)):
        found = float(tla.certify(operator, b, off).backward_error)
        assert exact * (1 - 1e-9) <= found < 1.3 * exact
