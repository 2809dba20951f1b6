"""Brackets of log determinants hold, and estimates are held against them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import system
from scipy.linalg import hilbert

import thermolinalg as tla
from thermolinalg.testing import assert_coverage, spd_matrices

KEY = jax.random.key(4)


def bracket(A):
    found = tla.certify_logdet(A, 0.0)
    return float(found.lower), float(found.upper)


@given(spd_matrices(dims=st.just(6), kappas=st.floats(0.0, 10.0).map(lambda digits: 10.0**digits)))
def test_the_bracket_holds(matrix):
    lower, upper = bracket(jnp.asarray(matrix))
    assert lower <= np.linalg.slogdet(matrix)[1] <= upper


@pytest.mark.parametrize("n", [6, 8, 10])
def test_hilbert_matrices(n):
    lower, upper = bracket(jnp.asarray(hilbert(n)))
    exact = np.sum([np.log(float(x)) for x in np.linalg.eigvalsh(hilbert(n).astype(np.float64))])
    assert lower <= exact <= upper


def test_the_bracket_is_the_rule_of_bai_and_golub():
    A, _, _ = system(d=7)
    low, high = float(tla.lowest_eigenvalue(A).value), min(np.linalg.norm(A), np.abs(A).sum(1).max())
    first, second = np.trace(A), np.linalg.norm(A) ** 2

    def rule(c):
        t = (c * first - second) / (c * 7 - first)
        return np.log([c, t]) @ np.linalg.solve(np.array([[c, t], [c**2, t**2]]), np.array([first, second]))

    lower, upper = bracket(A)
    np.testing.assert_allclose(lower, rule(low), rtol=1e-9)
    np.testing.assert_allclose(upper, min(rule(high), np.sum(np.log(np.diag(A)))), rtol=1e-9)


def test_a_node_inside_the_spectrum_would_not_give_a_bound():
    rates = np.array([1.0, 2.0, 9.0])

    def rule(c):
        first, second = np.sum(rates - c), np.sum((rates - c) ** 2)
        return 3 * np.log(c) + first**2 / second * np.log1p(second / first / c)

    lower, upper = bracket(jnp.diag(jnp.asarray(rates)))
    exact = np.sum(np.log(rates))
    assert lower <= exact <= upper
    assert rule(1.5) > exact
    assert rule(8.0) < exact


def test_a_multiple_of_the_identity_has_no_width():
    lower, upper = bracket(3 * jnp.eye(4))
    np.testing.assert_allclose([lower, upper], 4 * np.log(3), rtol=1e-10)


def test_structured_operators():
    A, _, _ = system(d=4)
    B, _, _ = system(d=3, seed=1)
    dense = {
        "kronecker": (tla.Kronecker((tla.Dense(A), tla.Dense(B))), np.kron(A, B)),
        "diagonal": (tla.Diagonal(jnp.array([1.0, 2.0, 0.1])), np.diag([1.0, 2.0, 0.1])),
        "low rank": (tla.LowRank(jnp.ones((5, 1)), jnp.array(0.5)), np.ones((5, 5)) + 0.5 * np.eye(5)),
        "complex": (tla.Dense(system(d=4, dtype=np.complex128)[0]), system(d=4, dtype=np.complex128)[0]),
    }
    for name, (operator, matrix) in dense.items():
        lower, upper = bracket(operator)
        exact = np.linalg.slogdet(np.asarray(matrix))[1]
        assert lower <= exact <= upper, name
        if name in ("diagonal", "low rank"):
            assert upper - lower < 1e-10, name


def test_nothing_is_known_of_a_matrix_free_trace():
    A, _, _ = system(d=4)
    found = tla.certify_logdet(tla.MatrixFree(lambda v: A @ v, 4, A.dtype), 0.0)
    assert found.lower is found.upper is found.passed is None


def test_an_indefinite_matrix_has_no_lower_bound():
    assert bracket(jnp.array([[1.0, 2.0], [2.0, 1.0]]))[0] == -np.inf


def test_estimates_pass_and_gross_errors_do_not():
    A, _, _ = system(d=6, kappa=5.0)

    def check(key):
        found = tla.logdet(A, key=key, samples=200)
        wrong = [tla.certify_logdet(A, found.value + off, stderr=found.stderr).passed for off in (-4.0, 4.0)]
        return tla.certify_logdet(A, found).passed, jnp.stack(wrong)

    good, bad = jax.jit(jax.vmap(check))(jax.random.split(KEY, 1500))
    assert_coverage(np.asarray(good), 0.99)
    assert not np.any(bad)


def test_the_margin_is_that_of_the_standard_error():
    upper = bracket(2 * jnp.eye(3))[1]
    for sigmas, passed in ((2.5, True), (2.7, False)):
        assert bool(tla.certify_logdet(2 * jnp.eye(3), upper + 0.1 * sigmas, stderr=0.1).passed) == passed
    assert not bool(tla.certify_logdet(2 * jnp.eye(3), jnp.nan).passed)


def test_single_precision_and_bad_input():
    A, _, _ = system(d=6)
    found = tla.certify_logdet(A.astype(jnp.float32), np.float32(np.linalg.slogdet(A)[1]))
    assert found.lower.dtype == jnp.float32
    assert bool(found.passed)
    with pytest.raises(ValueError, match="must be a number"):
        tla.certify_logdet(A, jnp.ones(2))
