"""What a planned solve promises, on random problems: spectra of every kind, easy and hard sides, both dynamics.

- Of the runs of ``plan.solve`` at least a fraction ``confidence`` ends within ``rtol``, and a plan 5 % shorter would
  not do. The exact law of a run, derived here a second time in NumPy, says so to half a per cent.
- A guaranteed plan keeps to it with certainty, and at most the slack of its bound for one mode is wasted.
- The runs follow that law: they cover as often as it says, and errors in units of ``stderr`` have unit mean square.
- Matrices beyond the precision of their dtype are refused or flagged.

Condition numbers go to 1e8, confidences are 0.5, 0.9 and 0.99. Beside each promise stands a variant that breaks it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import expm

import thermolinalg as tla
from thermolinalg.testing import (
    ADVERSARIAL,
    KAPPAS_WIDE,
    adversarial_matrices,
    assert_coverage,
    assert_unit_variance,
    assert_within_stderr,
    right_hand_sides,
    spd_matrices,
)

RUNS = 4000
DRAWS = 200_000
MASS = 2.0
Z = np.random.default_rng(1).standard_normal((DRAWS, 12))
SIZES = st.sampled_from([1, 3, 12])
CONFIDENCES = st.sampled_from([0.5, 0.9, 0.99])
TOLERANCES = st.sampled_from([0.3, 0.05, 0.01])
# The signal-to-noise number beta |b|^2: from runs that average noise away to runs that wait for the transient.
SIGNALS = st.floats(-2.0, 10.0).map(lambda digits: 10.0**digits)
# Friction in units of that which is critical for the slowest mode; a quarter is best where noise dominates.
DYNAMICS = {"overdamped": None, "critical": 1.0, "light": 0.25}


class Problem(NamedTuple):
    """A system, a device to solve it on, and what to plan for."""

    A: np.ndarray
    b: np.ndarray
    beta: float
    dynamics: str
    rtol: float
    confidence: float

    @property
    def x(self):
        return np.linalg.solve(self.A, self.b)

    @property
    def friction(self):
        factor = DYNAMICS[self.dynamics]
        return None if factor is None else factor * 2 * (MASS * np.linalg.eigvalsh(self.A)[0]) ** 0.5

    def program(self):
        dynamics = tla.Overdamped() if self.friction is None else tla.Underdamped(MASS, self.friction)
        return tla.Device(beta=self.beta, dynamics=dynamics).program(jnp.asarray(self.A))

    def plan(self, program, guaranteed=False):
        return tla.plan.solve(
            program, jnp.asarray(self.b), rtol=self.rtol, confidence=self.confidence, guaranteed=guaranteed
        )


MATRICES = spd_matrices(SIZES, KAPPAS_WIDE)


@st.composite
def problems(draw, matrices=MATRICES):
    A = draw(matrices)
    b = draw(right_hand_sides(A))
    return Problem(A, b, draw(SIGNALS), draw(st.sampled_from(list(DYNAMICS))), draw(TOLERANCES), draw(CONFIDENCES))


# The law of a run, a second time: every mode by itself, from the matrix of its motion.


def mode_law(rate, beta, friction, burn_in, duration):
    """Response of the average to a displaced start, and its variance after a start that is known."""
    if friction is None:
        M, thermal = np.array([[rate]]), np.array([1 / (beta * rate)])
    else:
        M = np.array([[0.0, -1 / MASS], [rate, friction / MASS]])
        thermal = np.array([1 / (beta * rate), MASS / beta])
    eye, inverse, left = np.eye(len(M)), np.linalg.inv(M), expm(-M * duration)
    response = (inverse @ (eye - left) @ expm(-M * burn_in))[0] / duration
    stationary = 2 / duration**2 * (duration * inverse - inverse @ inverse @ (eye - left))[0, 0] * thermal[0]
    return response[0], max(stationary - response**2 @ thermal, 0.0)


def exact_hits(problem, plan, shrink=1.0, tighten=1.0):
    """Whether runs end within the tolerance, drawn from the exact law; times may be shrunk, the tolerance tightened."""
    rates, basis = np.linalg.eigh(problem.A)
    x = basis.T @ problem.x
    times = shrink * float(plan.burn_in), shrink * float(plan.duration)
    bias, variance = np.array([mode_law(rate, problem.beta, problem.friction, *times) for rate in rates]).T
    error = Z[:, : len(rates)] * np.sqrt(variance) - bias * x
    return np.sum(error**2, 1) <= (tighten * problem.rtol * np.linalg.norm(x)) ** 2


@pytest.fixture(scope="module")
def runs():
    """Errors and standard errors of many runs; compiled once for every size and kind of dynamics."""

    @jax.jit
    def many(program, b, burn_in, duration):
        def one(key):
            out = tla.solve(program, b, key=key, plan=tla.Plan(burn_in, duration))
            return out.value, out.stderr

        return jax.vmap(one)(jax.random.split(jax.random.key(7), RUNS))

    def call(problem, program, plan, shrink=1.0):
        times = (shrink * jnp.asarray(time) for time in (plan.burn_in, plan.duration))
        value, stderr = (np.asarray(x) for x in many(program, jnp.asarray(problem.b), *times))
        return value - problem.x, stderr

    return call


def covered(problem, error):
    return np.linalg.norm(error, axis=1) <= problem.rtol * np.linalg.norm(problem.x)


@given(problem=problems())
def test_a_plan_keeps_its_promise_and_a_shorter_one_would_not(problem):
    program = problem.program()
    plan = problem.plan(program)
    assert_coverage(exact_hits(problem, plan), problem.confidence)
    # The misses of a plan 5 % shorter, split alike, exceed what is allowed.
    assert_coverage(~exact_hits(problem, plan, shrink=0.95), 1 - problem.confidence)


@given(problem=problems())
def test_a_guaranteed_plan_keeps_more_and_wastes_no_more_than_its_bound(problem):
    program = problem.program()
    plan = problem.plan(program, guaranteed=True)
    # A bound leaves no room for the error of an approximation: all that is left is that of the draws.
    assert_coverage(exact_hits(problem, plan), problem.confidence)
    # The bound of Laurent and Massart over the quantile of chi-square, for one mode, where it is loosest.
    level = -np.log1p(-problem.confidence)
    slack = (1 + 2 * level**0.5 + 2 * level) / stats.chi2.ppf(problem.confidence, 1)
    assert_coverage(~exact_hits(problem, plan, tighten=0.97 * slack**-0.5), 1 - problem.confidence)


@given(problem=problems())
def test_runs_follow_the_law(runs, problem):
    program = problem.program()
    plan = problem.plan(program)
    error, stderr = runs(problem, program, plan)
    hits = covered(problem, error)
    assert_coverage(hits, problem.confidence)
    expected = np.mean(exact_hits(problem, plan))
    # Ten hits more or less: a fraction close to 1 is known no better.
    spread = max(expected * (1 - expected), 10 / RUNS) * (1 / RUNS + 1 / DRAWS)
    assert_within_stderr(np.mean(hits), spread**0.5, expected)
    assert_unit_variance(error / stderr)
    # Mutations: a standard error 20 % too large, and too small.
    for factor in (1.2, 0.8):
        with pytest.raises(AssertionError):
            assert_unit_variance(error / (factor * stderr))


PLAIN = Problem(np.diag([0.01, 0.1, 1.0]), np.ones(3), 1.0, "overdamped", 0.05, 0.9)


def test_the_law_and_the_runs_see_a_shorter_run(runs):
    program = PLAIN.program()
    plan = PLAIN.plan(program)
    with pytest.raises(AssertionError, match=r"below 0\.9"):
        assert_coverage(exact_hits(PLAIN, plan, shrink=0.95), 0.9)
    with pytest.raises(AssertionError, match=r"below 0\.9"):
        assert_coverage(covered(PLAIN, runs(PLAIN, program, plan, shrink=0.8)[0]), 0.9)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_the_law_sees_another_temperature(factor):
    plan = PLAIN.plan(PLAIN.program())
    hits = exact_hits(PLAIN._replace(beta=factor * PLAIN.beta), plan)
    with pytest.raises(AssertionError):
        assert_coverage(hits if factor < 1 else ~hits, 0.9 if factor < 1 else 0.1)


# Matrices that are known to break solvers


@given(problem=problems(matrices=adversarial_matrices(st.just(8), worst=1e11)))
@settings(max_examples=40)
def test_plans_hold_on_adversarial_matrices(runs, problem):
    program = problem.program()
    assert not int(program.status)
    plan = problem.plan(program)
    assert_coverage(exact_hits(problem, plan), problem.confidence)
    assert_coverage(~exact_hits(problem, plan, shrink=0.95), 1 - problem.confidence)
    error, stderr = runs(problem, program, plan)
    assert_coverage(covered(problem, error), problem.confidence)
    assert_unit_variance(error / stderr)


# Beyond the precision of the dtype


def refused_or_flagged(A):
    """Whether the library says that it does not know the smallest eigenvalue, at once or with the answer."""
    try:
        out = tla.solve(A, jnp.ones(len(A), A.dtype), key=jax.random.key(0), plan=tla.Plan(1.0, 1.0))
    except ValueError as error:
        return "working precision" in str(error)
    return bool(int(out.status) & tla.Status.LOW_PRECISION)


@given(A=spd_matrices(st.just(8), st.floats(13.0, 20.0).map(lambda digits: 10.0**digits)))
def test_nothing_beyond_float64_goes_through_silently(A):
    assert refused_or_flagged(jnp.asarray(A))


@given(A=spd_matrices(st.just(8), st.floats(4.5, 12.0).map(lambda digits: 10.0**digits)))
def test_nothing_beyond_float32_goes_through_silently(A):
    assert refused_or_flagged(jnp.asarray(A, jnp.float32))


@given(A=spd_matrices(st.just(8), KAPPAS_WIDE))
def test_what_float64_resolves_goes_through(A):
    assert not refused_or_flagged(jnp.asarray(A))


@pytest.mark.parametrize("d", [10, 11, 12, 16])
def test_hilbert_matrices_from_ten_unknowns_are_too_much(d):
    assert refused_or_flagged(jnp.asarray(ADVERSARIAL["hilbert"](d)))
    assert not refused_or_flagged(jnp.asarray(ADVERSARIAL["hilbert"](9)))
