"""Lyapunov equations: errors in units of themselves, laws under change of the equation, faults, derivatives.

All problems have four unknowns, and plans are arguments, so that few functions serve every test.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import expm, solve_continuous_lyapunov

import thermolinalg as tla
from thermolinalg.testing import (
    SEEDS,
    assert_coverage,
    assert_unit_variance,
    assert_within_stderr,
    stable_drifts,
)

KEY = jax.random.key(3)
RUNS = 1000
# Without the choice between drawing and walking: the quickest to compile.
DRAWN = tla.Device(simulator=tla.Law(long_time=True))
WALKED = tla.Device(simulator=tla.Trajectory())
INDEPENDENT = tla.Plan(10.0, 1e5, 3000.0)
WALK = tla.Plan(30.0, 300.0, 600.0)
LONG = tla.Plan(1e3, 3e6, 3000.0)

many = jax.jit(jax.vmap(lambda A, Q, key, plan: tla.lyapunov(A, Q, key=key, plan=plan), (None, None, 0, None)))


def problem(dtype=np.float64, seed=0):
    """A drift far from normal whose slowest rate is 0.3, and noise in three directions of four."""
    rng = np.random.default_rng(seed)
    turn = 1j if np.issubdtype(dtype, np.complexfloating) else 0
    A, G = (rng.standard_normal(shape) + turn * rng.standard_normal(shape) for shape in ((4, 4), (4, 3)))
    A = A + (0.3 - np.linalg.eigvals(A).real.min()) * np.eye(4)
    Q = G @ G.conj().T
    return A.astype(dtype), Q.astype(dtype), solve_continuous_lyapunov(A, Q)


A, Q, X = problem()
PROBLEMS = {"real": (A, Q, X), "complex": problem(np.complex128)}


def runs(A, Q, plan):
    # Times alone and in one dtype, so that one compilation serves all plans.
    times = (jnp.asarray(x, np.float64) for x in (plan.burn_in, plan.duration, plan.samples))
    out = many(A, Q, jax.random.split(KEY, RUNS), tla.Plan(*times))
    return np.asarray(out.value), np.asarray(out.stderr), int(np.bitwise_or.reduce(out.status))


def z_scores(A, Q, X, plan):
    value, stderr, _ = runs(A, Q, plan)
    return (value - X) / stderr


def one(A, Q, key=KEY, plan=INDEPENDENT):
    return tla.lyapunov(A, Q, key=key, plan=plan)


# Errors. A mean square over n independent samples has a kurtosis of 3 + 12/n; WALK has more than 60 of them, as it
# lasts 90 relaxation times of the slowest mode or more.


@pytest.mark.parametrize("plan", [INDEPENDENT, WALK], ids=["independent", "walked"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_standard_errors_are_right(name, plan):
    value, stderr, status = runs(*PROBLEMS[name][:2], plan)
    assert status == 0
    z = (value - PROBLEMS[name][2]) / stderr
    assert_unit_variance(z, kurtosis=3.2)
    with pytest.raises(AssertionError):
        assert_unit_variance(z / 1.2, kurtosis=3.2)
    np.testing.assert_array_equal(value, np.swapaxes(value, 1, 2).conj())


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("mutation", ["drift transposed", "noise of the wrong size", "noise in other directions"])
def test_a_wrong_process_is_found_out(name, mutation):
    A, Q, X = PROBLEMS[name]
    wrong = {
        "drift transposed": (A.conj().T, Q),
        "noise of the wrong size": (A, 1.05 * Q),
        "noise in other directions": (A, np.diag(np.diag(Q))),
    }[mutation]
    with pytest.raises(AssertionError):
        assert_unit_variance(z_scores(*wrong, X, INDEPENDENT), kurtosis=3.2)


@pytest.mark.parametrize("name", PROBLEMS)
def test_from_rest_the_standard_error_is_an_upper_bound(name):
    # A run this short has about five independent samples, hence the kurtosis. What starts at rest varies less.
    short = tla.Plan(0.0, 30.0, 60.0)
    z = z_scores(*PROBLEMS[name], short)
    spread = np.sqrt(np.mean(np.abs(z) ** 2, 0))
    assert_unit_variance(z / np.minimum(spread, 1), kurtosis=6.0)
    assert np.all(spread > 0.7)
    with pytest.raises(AssertionError):
        assert_unit_variance(1.4 * z / np.minimum(1.4 * spread, 1), kurtosis=6.0)


def total_square_error(A, Q, spacing, samples):
    """Expectation of the squared Frobenius error from a stationary start, summed lag by lag."""
    R, E, total = solve_continuous_lyapunov(A, Q), expm(-A * spacing), 0.0
    for lag in range(samples):
        cross = 0 if np.iscomplexobj(A) else np.trace(R @ R)
        total += (samples - lag) * (1 if lag == 0 else 2) * (abs(np.trace(R)) ** 2 + cross)
        R = E @ R
    return total / samples**2


@pytest.mark.parametrize("name", PROBLEMS)
def test_total_error_is_that_of_the_formula(name):
    A, Q, _ = PROBLEMS[name]
    _, stderr, _ = runs(A, Q, WALK)
    # What is left of the start after the burn-in, e^(-18) of the stationary covariance, and the sum's cutoff, 1e-7.
    np.testing.assert_allclose(np.sum(stderr[0] ** 2), total_square_error(A, Q, 0.5, 600), rtol=1e-6)
    plan = replace(INDEPENDENT, duration=60.0 * 3000)
    np.testing.assert_allclose(np.sum(runs(A, Q, plan)[1][0] ** 2), total_square_error(A, Q, 60.0, 3000), rtol=1e-6)


def test_correlation_is_that_of_the_squares():
    E = expm(-0.5 * A)
    found = one(A, Q, plan=WALK).stats["correlation"]
    np.testing.assert_allclose(found, np.linalg.norm(E @ X @ E.T) / np.linalg.norm(X), rtol=1e-10)


@pytest.mark.parametrize("name", PROBLEMS)
def test_planned_runs_keep_their_promise(name):
    A, Q, X = PROBLEMS[name]
    plan = tla.plan.lyapunov(A, Q, rtol=0.1, confidence=0.9)
    value, _, status = runs(A, Q, plan)
    assert status == 0
    error = np.linalg.norm(value - X, axis=(1, 2)) / np.linalg.norm(X)
    assert_coverage(error <= 0.1, confidence=0.9, at_most=0.97)
    with pytest.raises(AssertionError):
        assert_coverage(error <= 0.085, confidence=0.9)
    # Samples are as far apart as promised, and no more than a quarter further.
    spacing = float(plan.duration / plan.samples)
    left = [np.linalg.norm(expm(-A * s) @ X @ expm(-A * s).conj().T) for s in (spacing, 0.8 * spacing)]
    assert left[0] <= 1e-3 * np.trace(X).real
    assert left[1] > 1e-4 * np.linalg.norm(X)


def test_tolerance_and_confidence_reach_the_plan():
    plain = tla.lyapunov(A, Q, key=KEY, rtol=0.05, confidence=0.95, device=DRAWN)
    loose = tla.lyapunov(A, Q, key=KEY, rtol=0.2, confidence=0.8, device=DRAWN)
    assert float(plain.stats["plan"].samples) == float(tla.plan.lyapunov(A, Q).samples)
    assert float(loose.stats["plan"].samples) == float(tla.plan.lyapunov(A, Q, rtol=0.2, confidence=0.8).samples)
    assert float(loose.stats["plan"].samples) < float(plain.stats["plan"].samples) / 8
    total = float(plain.stats["plan"].total) * np.linalg.norm(A, 2)
    np.testing.assert_allclose(float(plain.stats["time_constants"]), total, rtol=1e-12)


# Change of the equation.

DRIFTS = stable_drifts(st.just(4), kappas=st.floats(1, 10), couplings=st.floats(0, 3))
POWERS = st.integers(-20, 20).map(lambda k: 2.0**k)


def noise(seed):
    G = np.random.default_rng(seed).standard_normal((4, 4))
    return G @ G.T


def scaled(plan, c):
    return replace(plan, burn_in=c * plan.burn_in, duration=c * plan.duration)


# Powers of two are not rounded. Elsewhere a square root of what is close to singular would show half of the digits.


@given(DRIFTS, SEEDS, POWERS)
def test_a_unit_of_time_changes_nothing(A, seed, c):
    Q = noise(seed)
    for plan in (INDEPENDENT, tla.Plan(2.0, 64.0, 64.0)):
        plain, fast = one(A, Q, plan=plan), one(c * A, c * Q, plan=scaled(plan, 1 / c))
        np.testing.assert_allclose(fast.value, plain.value, rtol=1e-9, atol=1e-12 * np.abs(plain.value).max())
        np.testing.assert_allclose(fast.stderr, plain.stderr, rtol=1e-9)


@given(DRIFTS, SEEDS, POWERS)
def test_noise_scales_the_answer(A, seed, c):
    Q = noise(seed)
    for plan in (INDEPENDENT, tla.Plan(2.0, 64.0, 64.0)):
        plain, loud = one(A, Q, plan=plan), one(A, c * Q, plan=plan)
        np.testing.assert_allclose(loud.value, c * plain.value, rtol=1e-9, atol=1e-12 * c * np.abs(plain.value).max())
        np.testing.assert_allclose(loud.stderr, c * plain.stderr, rtol=1e-9)


@given(DRIFTS, SEEDS)
def test_orthogonal_similarity(A, seed):
    Q, U = noise(seed), np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((4, 4)))[0]
    turned = one(U @ A @ U.T, U @ Q @ U.T, plan=LONG)
    exact = U @ solve_continuous_lyapunov(A, Q) @ U.T
    assert_within_stderr(turned.value, turned.stderr, exact)
    with pytest.raises(AssertionError):
        assert_within_stderr(turned.value, turned.stderr, 1.5 * exact)


@given(DRIFTS, SEEDS, st.permutations(range(4)))
def test_permutation(A, seed, order):
    Q, P = noise(seed), np.ix_(order, order)
    plain, moved = one(A, Q, plan=LONG), one(A[P], Q[P], jax.random.key(4), LONG)
    np.testing.assert_allclose(moved.stderr, np.asarray(plain.stderr)[P], rtol=1e-6)
    apart = np.hypot(np.asarray(plain.stderr)[P], moved.stderr)
    assert_within_stderr(moved.value, apart, np.asarray(plain.value)[P])


@given(DRIFTS)
def test_without_noise_there_is_nothing(A):
    for out in (one(A, np.zeros((4, 4))), tla.lyapunov(A, np.zeros((4, 4)), key=KEY, device=DRAWN)):
        assert np.all(np.asarray(out.value) == 0)
        assert np.all(np.asarray(out.stderr) == 0)
        assert int(out.status) == 0


def test_one_direction_of_noise_is_enough():
    Q = np.outer(np.arange(4.0), np.arange(4.0))
    out = one(A, Q)
    assert_within_stderr(out.value, out.stderr, solve_continuous_lyapunov(A, Q))
    assert int(out.status) == 0


def test_a_walk_is_a_walk_on_either_simulator():
    out = tla.lyapunov(A, Q, key=KEY, plan=WALK, device=WALKED)
    np.testing.assert_allclose(out.value, one(A, Q, plan=WALK).value, rtol=1e-9, atol=1e-12)


# Faults.


def test_under_jit_faults_are_a_status():
    assert runs(-A, Q, INDEPENDENT)[2] == tla.Status.UNSTABLE | tla.Status.NOT_FINITE
    assert runs(A, np.diag([1.0, 1.0, 1.0, -1.0]), INDEPENDENT)[2] & tla.Status.NOT_SEMIDEFINITE
    assert runs(A, Q, replace(WALK, samples=3.0))[2] == tla.Status.FEW_SAMPLES
    assert runs(A, Q, replace(WALK, samples=4.0))[2] == 0


def test_few_samples_are_a_status_outside_of_jit_too():
    with pytest.raises(tla.SolutionError, match="samples"):
        one(A, Q, plan=replace(WALK, samples=3.0)).unwrap()


FAULTS = {
    "unstable": ((-A, Q), {}, "A is not stable"),
    "indefinite": ((A, np.diag([1.0, 1.0, 1.0, -0.5])), {}, "eigenvalue -0.5, "),
    "asymmetric": ((A, Q + np.eye(4, k=1)), {}, "Q is not symmetric"),
    "another shape": ((A, np.eye(3)), {}, "Q must have the shape of A"),
    "a continuous average": ((A, Q), {"plan": tla.Plan(1.0, 10.0)}, "of samples"),
    "no samples": ((A, Q), {"plan": tla.Plan(1.0, 10.0, 0)}, "samples must be a whole number"),
    "a negative time": ((A, Q), {"plan": tla.Plan(-1.0, 10.0, 10)}, "burn_in must be finite"),
    "plan and tolerance": ((A, Q), {"plan": WALK, "rtol": 0.1}, "not both"),
    "rtol out of range": ((A, Q), {"rtol": 1.5}, "rtol must lie"),
    "confidence out of range": ((A, Q), {"confidence": 0.0}, "confidence must lie"),
    "inertia": ((A, Q), {"device": tla.Device(dynamics=tla.Underdamped(1.0))}, "overdamped"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_refused_by_name(fault):
    arguments, rest, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        tla.lyapunov(*arguments, key=KEY, **rest)


# Derivatives are those of the equation, whatever the noise.


def symmetric(Q):
    return (Q + Q.T) / 2


@pytest.fixture(scope="module")
def slopes():
    """Derivatives of SciPy's solution by central differences, whose error is 1e-12 + 1e-16/1e-6 relative."""

    def difference(f, matrix):
        h, found = 1e-6, np.zeros((4, 4, 4, 4))
        for i, j in np.ndindex(4, 4):
            step = np.zeros((4, 4))
            step[i, j] = h
            found[:, :, i, j] = (f(matrix + step) - f(matrix - step)) / (2 * h)
        return found

    return (
        difference(lambda B: solve_continuous_lyapunov(B, Q), A),
        difference(lambda P: solve_continuous_lyapunov(A, symmetric(P)), Q),
    )


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_derivatives_are_those_of_the_equation(mode, slopes):
    found = jax.jit(mode(lambda A, Q: one(A, Q, plan=WALK).value, (0, 1)))(A, Q)
    for slope, exact in zip(found, slopes, strict=True):
        np.testing.assert_allclose(slope, exact, rtol=1e-6, atol=1e-7 * np.abs(exact).max())


# Transformations and dtypes.


def test_jit_gives_the_same_numbers():
    value, stderr, _ = runs(A, Q, WALK)
    for i in (0, RUNS - 1):
        plain = one(A, Q, jax.random.split(KEY, RUNS)[i], WALK)
        np.testing.assert_allclose(value[i], plain.value, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(stderr[i], plain.stderr, rtol=1e-8)


def test_vmap_over_equations():
    problems = [problem(seed=seed) for seed in (0, 1)]
    drifts, sides = (jnp.stack([p[i] for p in problems]) for i in range(2))
    # One of them remembers for longer than the samples are apart, and is walked; the other is drawn at once.
    plans = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(y) for y in x]), WALK, replace(INDEPENDENT, samples=600.0))
    batch = jax.jit(jax.vmap(lambda A, Q, plan: one(A, Q, plan=plan)))(drifts, sides, plans)
    for i in range(2):
        plan = jax.tree.map(lambda x, i=i: x[i], plans)
        alone = one(drifts[i], sides[i], plan=plan)
        # Noise in three directions only: the square root has half of the digits in the fourth.
        np.testing.assert_allclose(batch.value[i], alone.value, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(batch.stderr[i], alone.stderr, rtol=1e-8)


def test_float32_stays_float32():
    narrow = tla.lyapunov(np.float32(A), np.float32(Q), key=KEY, plan=INDEPENDENT, device=DRAWN)
    wide = one(A, Q)
    assert narrow.value.dtype == narrow.stderr.dtype == np.float32
    assert int(narrow.status) == 0
    # The condition of the equation, below 1e3 here, times the rounding error.
    np.testing.assert_allclose(narrow.stderr, wide.stderr, rtol=1e3 * 2**-23)
    assert_within_stderr(narrow.value, narrow.stderr, X)


def test_the_tail_of_an_entry_is_light_enough_for_the_assertions():
    z = z_scores(A, Q, X, INDEPENDENT)
    # The skewness of a mean of 3000 squares is sqrt(8/3000); a sample of 2000 adds sqrt(6/2000) of its own.
    assert np.abs(stats.skew(z)).max() < (8 / 3000) ** 0.5 + 5 * (6 / RUNS) ** 0.5
