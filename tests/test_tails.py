"""The exact tail of a squared error, against SciPy where there is a closed form and against the others where not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from thermolinalg.convergence import SquaredError, four_moments, imhof, inverted_tail, laurent_massart, markov
from thermolinalg.convergence.search import quantile


def law(weights, counts=None, shifts=None):
    w = np.atleast_1d(np.asarray(weights, float))
    counts = np.ones_like(w) if counts is None else np.broadcast_to(np.asarray(counts, float), w.shape)
    shifts = np.zeros_like(w) if shifts is None else np.broadcast_to(np.asarray(shifts, float), w.shape)
    return SquaredError(*(jnp.asarray(x)[:, None] for x in (w, counts, shifts)))


tail = jax.jit(inverted_tail)


@pytest.mark.parametrize("degrees", [0.3, 1, 2, 3, 10, 100, 5000])
@pytest.mark.parametrize("probability", [1 - 1e-9, 0.9, 0.5, 0.05, 1e-3, 1e-9])
def test_chi_square(degrees, probability):
    target = stats.chi2.isf(probability, degrees)
    # SciPy's quantile is right to some 1e-12 of the tail far out.
    np.testing.assert_allclose(tail(law(1 / target, degrees))[0], probability, rtol=1e-10)


@pytest.mark.parametrize(("degrees", "noncentrality"), [(1, 1), (1, 100), (3, 1e4), (50, 10), (2, 1e6)])
@pytest.mark.parametrize("probability", [0.999, 0.5, 0.05, 1e-6])
def test_noncentral_chi_square(degrees, noncentrality, probability):
    target = stats.ncx2.isf(probability, degrees, noncentrality)
    np.testing.assert_allclose(
        tail(law(1 / target, degrees, noncentrality / target))[0], probability, rtol=1e-9 + 1e-15 * noncentrality
    )


def test_nearly_no_noise_is_a_normal_law_to_first_order():
    for bias in (0.5, 0.9999, 1.0001, 2.0):
        expected = stats.ncx2.sf(1e8, 1, bias * 1e8)
        np.testing.assert_allclose(tail(law(1e-8, 1, bias))[0], expected, rtol=1e-9, atol=1e-15)


def test_unequal_weights_against_two_exponentials():
    """Pairs of equal weights are exponentials, whose sum has a tail in closed form."""
    a, b = 0.3, 0.05
    expected = (a * np.exp(-1 / (2 * a)) - b * np.exp(-1 / (2 * b))) / (a - b)
    np.testing.assert_allclose(tail(law([a, b], 2))[0], expected, rtol=1e-12)
    assert abs(float(tail(law([1.01 * a, b], 2))[0]) - expected) > 1e-3


def test_single_precision_is_enough_to_plan_with():
    narrow = jax.tree.map(lambda x: x.astype(jnp.float32), law(1 / stats.chi2.isf(0.05, 4), 4))
    assert tail(narrow).dtype == jnp.float32
    np.testing.assert_allclose(tail(narrow)[0], 0.05, rtol=1e-4)


@given(
    digits=st.floats(0.0, 6.0),
    n=st.integers(1, 12),
    bias=st.floats(0.0, 5.0),
    confidence=st.sampled_from([0.5, 0.9, 0.99, 0.999]),
)
def test_bounds_are_bounds_and_the_match_is_close(digits, n, bias, confidence):
    """One shape for all examples: weights that are zero count for nothing."""
    weights = np.zeros(12)
    weights[:n] = np.geomspace(10.0**-digits, 1.0, n) if n > 1 else 1.0
    error = law(weights, weights > 0, np.r_[bias, np.zeros(11)] * (weights > 0))
    found = {rule: float(_quantile(error, confidence, rule)) for rule in (imhof, four_moments, laurent_massart, markov)}
    exact = found[imhof]
    scaled = tail(error.over(jnp.asarray(exact)))
    np.testing.assert_allclose(scaled[0], 1 - confidence, rtol=1e-6)
    assert found[laurent_massart] >= exact * (1 - 1e-9)
    assert found[markov] >= exact * (1 - 1e-9)
    # Published for the upper tail; at the median the match may be off by more.
    if confidence >= 0.9:
        assert abs(found[four_moments] / exact - 1) < 0.02


_quantile = jax.jit(quantile, static_argnames="tail")
