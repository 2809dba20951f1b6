import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system
from scipy import stats

import thermolinalg as tla
from thermolinalg.convergence import Problem, SquaredError, chi_square_tail, inverted_tail, sankaran_tail
from thermolinalg.simulators import Schedule
from thermolinalg.testing import assert_coverage, assert_within_stderr

CASES = [(1.0, 0.0), (3.0, 0.5), (16.0, 4.0), (2.0, 300.0), (700.0, 10.0), (1.5, 4000.0)]


@pytest.mark.parametrize(("degrees", "noncentrality"), CASES)
def test_mixture_is_the_noncentral_chi_square(degrees, noncentrality):
    law = stats.ncx2(degrees, noncentrality) if noncentrality else stats.chi2(degrees)
    tails = np.array([0.9, 0.5, 0.1, 0.05, 1e-3])
    got = chi_square_tail(*jnp.broadcast_arrays(jnp.asarray(law.isf(tails)), degrees, noncentrality))
    # The 256 Poisson terms reach eight standard deviations: what is cut off is below 1e-13.
    np.testing.assert_allclose(got, tails, rtol=1e-9)


def test_beyond_the_mixture_the_power_transformation_takes_over_without_a_step():
    law = stats.ncx2(2.0, 4998.1)
    x = jnp.full(1, law.isf(0.05))
    near, beyond = (chi_square_tail(x + shift, jnp.full(1, 2.0), jnp.full(1, 4997.9 + shift)) for shift in (0.0, 0.2))
    assert abs(float(near[0] - beyond[0])) < 1e-4


def test_the_fast_tail_is_good_to_a_few_thousandths():
    for degrees, noncentrality in CASES:
        law = stats.ncx2(degrees, noncentrality) if noncentrality else stats.chi2(degrees)
        got = sankaran_tail(jnp.asarray(law.isf(0.05)), jnp.asarray(degrees), jnp.asarray(noncentrality))
        assert abs(float(got) - 0.05) < 5e-3


def weighted_chi_square(weights, shifts, n=200_000):
    rng = np.random.default_rng(1)
    return (weights * (rng.standard_normal((n, len(weights))) + shifts) ** 2).sum(1)


def error_of(weights, shifts, target):
    w = np.asarray(weights) / target
    biases = w * np.asarray(shifts) ** 2
    return SquaredError(*(jnp.asarray(x)[:, None] for x in (w, np.ones_like(w), biases)))


QUADRATICS = [
    (np.geomspace(1, 1e-4, 16), np.zeros(16)),
    (np.geomspace(1, 1e-4, 16), np.r_[3.0, np.zeros(15)]),
    (np.ones(40), np.full(40, 0.3)),
    (np.array([1.0]), np.array([0.0])),
    (np.array([1e-6, 1e-8]), np.array([1e3, 0.0])),
]


@pytest.mark.parametrize(("weights", "shifts"), QUADRATICS)
def test_four_moments_give_the_tail(weights, shifts):
    draws = weighted_chi_square(weights, shifts)
    target = np.quantile(draws, 0.95)
    tail = float(error_of(weights, shifts, target).exceedance()[0])
    # Published accuracy of the match, plus four standard errors of the empirical quantile's level.
    assert abs(tail - 0.05) < 2.5e-3 + 4 * np.sqrt(0.05 * 0.95 / len(draws))
    wrong = float(error_of(1.05 * weights, shifts, target).exceedance()[0])
    assert not abs(wrong - 0.05) < 2.5e-3 + 4 * np.sqrt(0.05 * 0.95 / len(draws))


@pytest.mark.parametrize(("weights", "shifts"), QUADRATICS)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_bound_is_a_bound(weights, shifts, confidence):
    draws = weighted_chi_square(weights, shifts)
    bound = float(error_of(weights, shifts, 1.0).bound(confidence)[0])
    assert_coverage(draws <= bound, confidence)


def test_no_noise_leaves_certainty():
    for c1, expected in ((0.5, 0.0), (2.0, 1.0)):
        law = SquaredError(jnp.zeros((1, 1)), jnp.ones((1, 1)), jnp.full((1, 1), c1))
        assert float(law.exceedance()[0]) == expected == float(law.exceedance_fast()[0]) == float(inverted_tail(law)[0])


@pytest.mark.parametrize("dynamics", [tla.Overdamped(), tla.Underdamped()])
def test_the_law_of_the_error_is_that_of_simulated_errors(dynamics):
    A, b, x = system()
    program = tla.Device(beta=50.0, dynamics=dynamics).program(A)
    plan = tla.Plan(20.0, 60.0)
    force = b[:, None]
    problem = Problem.of(program.machine, force, force)
    error = problem.law(program.machine, Schedule(20.0, 60.0)).over(jnp.asarray(0.1))
    keys = jax.random.split(jax.random.key(3), 4000)
    values = np.asarray(jax.vmap(lambda key: tla.solve(program, b, key=key, plan=plan).value)(keys))
    ratio = np.sum((values - x) ** 2, 1) / np.sum((0.1 * x) ** 2)
    mean, variance = float(error.cumulants[0, 0]), 2 * float(error.cumulants[1, 0])
    assert_within_stderr(ratio.mean(), np.sqrt(variance / len(ratio)), mean)
    with pytest.raises(AssertionError):
        assert_within_stderr(ratio.mean(), np.sqrt(variance / len(ratio)), 1.1 * mean)
    spread = np.sqrt((np.mean((ratio - mean) ** 4) - variance**2) / len(ratio))
    assert_within_stderr(np.mean((ratio - mean) ** 2), spread, variance)
