"""What planned second moments promise: inverses, Lyapunov solutions and exponentials, on random problems.

Each plan keeps to its tolerance in the promised fraction of runs, and one shorter by the waste that is allowed would
not; the answers come from SciPy. Standard errors are those of the runs, entry by entry.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

import thermolinalg as tla
from thermolinalg.testing import (
    SEEDS,
    adversarial_matrices,
    assert_coverage,
    assert_unit_variance,
    spd_matrices,
    stable_drifts,
)

RUNS = 1000
KEYS = jax.random.split(jax.random.key(5), RUNS)
SIZES = st.sampled_from([1, 4])
CONFIDENCES = st.sampled_from([0.5, 0.9, 0.99])
# Entries of a covariance are close to Gaussian for hundreds of effective samples.
TOLERANCES = st.sampled_from([0.1, 0.03])
WASTE = 1.15


def inverses(program, plan):
    def one(key):
        out = tla.inv(program, key=key, plan=plan)
        return out.value, out.stderr

    # Not compiled as a whole: where the program is known, only its way to a covariance gets compiled.
    return jax.vmap(one)(KEYS[:500])


@jax.jit
def lyapunovs(A, Q, plan):
    def one(key):
        out = tla.lyapunov(A, Q, key=key, plan=plan, device=DRAWN)
        return out.value, out.stderr

    return jax.vmap(one)(KEYS)


@jax.jit
def exponentials(A, t, plan):
    def one(key):
        out = tla.expm(A, t, key=key, plan=plan, device=DRAWN)
        return out.value, out.stderr

    return jax.vmap(one)(KEYS)


# Planned samples are independent; without the choice between drawing and walking less gets compiled.
DRAWN = tla.Device(simulator=tla.Law(long_time=True))


def bare(plan, share=1.0):
    """The times of a plan, or a share of the averaging; without its promise, so that one compilation serves all."""
    samples = None if plan.samples is None else jnp.floor(share * jnp.asarray(plan.samples, float))
    return tla.Plan(jnp.asarray(plan.burn_in), jnp.asarray(share * plan.duration), samples)


def covered(value, exact, rtol):
    return np.linalg.norm(value - exact, axis=(1, 2)) <= rtol * np.linalg.norm(exact)


def check(draw, plan, exact, rtol, confidence):
    """Draws with a plan, and with a fraction of its time, keep and break the promise; return the former."""
    value, stderr = (np.asarray(x) for x in draw(bare(plan)))
    assert_coverage(covered(value, exact, rtol), confidence)
    if confidence <= 0.9:  # more than a thousand runs would be needed to see that misses are too few
        shorter = np.asarray(draw(bare(plan, 1 / WASTE))[0])
        assert_coverage(~covered(shorter, exact, rtol), 1 - confidence)
    return value, stderr


@given(A=spd_matrices(st.just(4)), inertia=st.booleans(), rtol=TOLERANCES, confidence=CONFIDENCES)
@settings(max_examples=15)
def test_planned_inverses(A, inertia, rtol, confidence):
    friction = 2 * np.linalg.eigvalsh(A)[0] ** 0.5
    device = tla.Device(dynamics=tla.Underdamped(1.0, friction) if inertia else tla.Overdamped())
    program = device.program(jnp.asarray(A))
    plan = tla.plan.inv(program, rtol=rtol, confidence=confidence)
    value, stderr = check(lambda plan: inverses(program, plan), plan, np.linalg.inv(A), rtol, confidence)
    assert_inverse_errors(value, stderr, A)
    for factor in (1.3, 0.7):
        with pytest.raises(AssertionError):
            assert_inverse_errors(value, factor * stderr, A)


def assert_inverse_errors(value, stderr, A):
    # Hundreds of effective samples: a kurtosis of 3 + 12/100 at most. Draws by frequency are right within 2 %.
    assert_unit_variance((value - np.linalg.inv(A)) / stderr, kurtosis=3.2)


def test_errors_of_inverses_with_inertia():
    A = np.diag([0.01, 0.34, 0.67, 1.0])
    program = tla.Device(dynamics=tla.Underdamped(1.0, 0.2)).program(jnp.asarray(A))
    plan = tla.plan.inv(program, rtol=0.1, confidence=0.5)
    assert_inverse_errors(*(np.asarray(x) for x in inverses(program, bare(plan))), A)


@given(A=adversarial_matrices(st.just(4), worst=1e5), confidence=CONFIDENCES)
@settings(max_examples=12)
def test_planned_inverses_of_adversarial_matrices(A, confidence):
    program = tla.Device(dynamics=tla.Overdamped()).program(jnp.asarray(A))
    plan = tla.plan.inv(program, rtol=0.1, confidence=confidence)
    check(lambda plan: inverses(program, plan), plan, np.linalg.inv(A), 0.1, confidence)


@given(A=spd_matrices(st.just(4), st.floats(1.0, 1e3)), confidence=CONFIDENCES)
@settings(max_examples=15)
def test_guaranteed_inverses(A, confidence):
    program = tla.Device().program(jnp.asarray(A))
    plan = tla.plan.inv(program, rtol=0.1, confidence=confidence, guaranteed=True)
    value, _ = inverses(program, bare(plan))
    assert_coverage(covered(np.asarray(value), np.linalg.inv(A), 0.1), confidence)


@given(
    A=stable_drifts(SIZES, st.floats(1.0, 100.0), st.floats(0.0, 3.0)),
    seed=SEEDS,
    rank=st.integers(1, 4),
    rtol=TOLERANCES,
    confidence=CONFIDENCES,
)
def test_planned_lyapunov_solutions(A, seed, rank, rtol, confidence):
    G = np.random.default_rng(seed).standard_normal((len(A), rank))
    Q = G @ G.T
    plan = tla.plan.lyapunov(A, Q, rtol=rtol, confidence=confidence)
    exact = scipy.linalg.solve_continuous_lyapunov(A, Q)
    value, stderr = check(lambda plan: lyapunovs(A, Q, plan), plan, exact, rtol, confidence)
    # Products of Gaussian samples, at least a hundred: a kurtosis of 3 + 12/100.
    assert_unit_variance((value - exact) / stderr, kurtosis=3.12)
    with pytest.raises(AssertionError):
        assert_unit_variance((value - exact) / (1.3 * stderr), kurtosis=3.12)


@given(
    A=stable_drifts(SIZES, st.floats(1.0, 100.0), st.floats(0.0, 3.0)),
    t=st.floats(0.05, 1.5),
    sign=st.sampled_from([-1.0, 1.0]),
    rtol=TOLERANCES,
    confidence=CONFIDENCES,
)
def test_planned_exponentials(A, t, sign, rtol, confidence):
    A = sign * A
    plan = tla.plan.expm(A, t, rtol=rtol, confidence=confidence)
    exact = scipy.linalg.expm(A * t)
    value, stderr = check(lambda plan: exponentials(A, t, plan), plan, exact, rtol, confidence)
    assert_unit_variance((value - exact) / stderr, kurtosis=3.12)
    with pytest.raises(AssertionError):
        assert_unit_variance((value - exact) / (1.3 * stderr), kurtosis=3.12)
