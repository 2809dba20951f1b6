"""Matrix exponentials: errors in units of themselves, the group law, faults, derivatives.

All exponents have four rows, and plans are arguments, so that few functions serve every test.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm, expm_frechet, solve_discrete_lyapunov

import thermolinalg as tla
from thermolinalg.testing import assert_coverage, assert_slope, assert_unit_variance, assert_within_stderr

KEY = jax.random.key(7)
RUNS = 1000
T = 0.7

many = jax.jit(jax.vmap(lambda A, t, key, plan: tla.expm(A, t, key=key, plan=plan), (None, None, 0, None)))


def exponent(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    turn = 1j if np.issubdtype(dtype, np.complexfloating) else 0
    return (0.5 * (rng.standard_normal((4, 4)) + turn * rng.standard_normal((4, 4)))).astype(dtype)


A = exponent()
# On the first block the noise of the symmetric part, in place of the exact one, would leave a bias of 0.1 or so.
NON_NORMAL = np.kron(np.diag([1.0, 0.0]), np.array([[0.2, 2.0], [0.0, 0.5]]))
NON_NORMAL = NON_NORMAL + np.kron(np.diag([0.0, 1.0]), np.array([[0.3, 1.0], [-1.0, 0.1]]))
EXPONENTS = {"real": A, "complex": exponent(np.complex128), "non-normal": NON_NORMAL}
# Pairs that are independent; that follow each other end to start; and that lie apart, but remember each other.
PLANS = {
    "independent": tla.Plan(30.0, 2e5, 4000.0),
    "chain": tla.Plan(30.0, 1000 * T, 1000.0),
    "spaced": tla.Plan(30.0, 1000.0, 1000.0),
}


def runs(A, plan, t=T):
    # Times alone and in one dtype, so that one compilation serves all plans.
    times = (jnp.asarray(x, np.float64) for x in (plan.burn_in, plan.duration, plan.samples))
    out = many(A, t, jax.random.split(KEY, RUNS), tla.Plan(*times))
    return np.asarray(out.value), np.asarray(out.stderr), int(np.bitwise_or.reduce(out.status))


def one(A, t=T, key=KEY, plan=PLANS["independent"], **rest):
    return tla.expm(A, t, key=key, plan=plan, **rest)


def shift(A, t=T):
    """The shift that is chosen by default, for times that are not very short."""
    return np.linalg.eigvalsh((A + A.conj().T) / 2)[-1] + 0.5 / t


# Errors. A mean of n independent products has a kurtosis of 3 + 12/n or less; a chain of 1000 that forgets squares at
# the rate 1/t or faster has more than 600 of them.


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", EXPONENTS)
def test_standard_errors_are_right(name, plan):
    value, stderr, status = runs(EXPONENTS[name], PLANS[plan])
    assert status == 0
    z = (value - expm(EXPONENTS[name] * T)) / stderr
    assert_unit_variance(z, kurtosis=3.03)
    with pytest.raises(AssertionError):
        assert_unit_variance(z / 1.2, kurtosis=3.03)


@pytest.mark.parametrize("name", EXPONENTS)
@pytest.mark.parametrize("mutation", ["transposed", "later", "not shifted back"])
def test_a_wrong_process_is_found_out(name, mutation):
    A, plan = EXPONENTS[name], PLANS["independent"]
    value, stderr, _ = runs(A.conj().T if mutation == "transposed" else A, plan, 1.1 * T if mutation == "later" else T)
    value = value * np.exp(-0.05 * T) if mutation == "not shifted back" else value
    with pytest.raises(AssertionError):
        assert_unit_variance((value - expm(A * T)) / stderr, kurtosis=3.03)


def test_errors_vanish_with_the_square_root_of_the_number():
    """No bias stays behind on a drift that is far from normal."""
    exact, numbers = expm(NON_NORMAL * T), np.array([250.0, 1000.0, 4000.0])
    squares = [np.sum((runs(NON_NORMAL, tla.Plan(30.0, n * T, n))[0] - exact) ** 2, (1, 2)) for n in numbers]
    rms = np.array([np.mean(s) ** 0.5 for s in squares])
    stderr = np.array([np.std(s, ddof=1) for s in squares]) / RUNS**0.5 / (2 * rms)
    assert_slope(numbers, rms, -0.5, stderr=stderr)
    assert rms[0] / rms[2] == pytest.approx(4, rel=0.1)
    with pytest.raises(AssertionError):
        assert_slope(numbers, np.hypot(rms, rms[1]), -0.5, stderr=stderr)


def walked_by_hand(covariance, samples=400, chains=1000):
    """Estimates from chains whose steps have this covariance, in plain NumPy."""
    rng = np.random.default_rng(1)
    a = shift(NON_NORMAL)
    E = expm(-(a * np.eye(4) - NON_NORMAL) * T)
    kick = np.linalg.cholesky(covariance(E, a * np.eye(4) - NON_NORMAL))
    stay = np.linalg.cholesky(solve_discrete_lyapunov(E, kick @ kick.T))
    x, moment = rng.standard_normal((chains, 4)) @ stay.T, np.zeros((chains, 4, 4))
    for _ in range(samples):
        later = x @ E.T + rng.standard_normal((chains, 4)) @ kick.T
        moment += later[:, :, None] * x[:, None, :]
        x = later
    return np.exp(a * T) * moment / samples


def test_noise_of_the_symmetric_part_is_found_out():
    stderr = runs(NON_NORMAL, tla.Plan(30.0, 400 * T, 400.0))[1][0]
    exact = expm(NON_NORMAL * T)
    right = walked_by_hand(lambda E, G: np.eye(4) - E @ E.T)
    assert_unit_variance((right - exact) / stderr, kurtosis=3.1)
    wrong = walked_by_hand(lambda E, G: np.eye(4) - expm(-(G + G.T) * T))
    with pytest.raises(AssertionError):
        assert_unit_variance((wrong - exact) / stderr, kurtosis=3.1)


def chain_square_error(G, t, samples):
    """Expectation of the squared Frobenius error of a chain that estimates e^(-Gt), summed lag by lag."""
    E = expm(-G * t)
    C = [np.eye(len(G)), E]
    while len(C) <= samples + 1:
        C.append(E @ C[-1])
    total = 0.0
    for lag in range(1 - samples, samples):
        after, before = (C[k] if k >= 0 else C[-k].conj().T for k in (lag + 1, lag - 1))
        cross = 0 if np.iscomplexobj(G) else np.trace(after @ before)
        total += (samples - abs(lag)) * (abs(np.trace(C[abs(lag)])) ** 2 + cross)
    return total / samples**2


@pytest.mark.parametrize("name", EXPONENTS)
def test_total_error_of_a_chain_is_that_of_the_formula(name):
    A = EXPONENTS[name]
    stderr = runs(A, tla.Plan(100.0, 300 * T, 300.0))[1][0]
    exact = np.exp(2 * shift(A) * T) * chain_square_error(shift(A) * np.eye(4) - A, T, 300)
    np.testing.assert_allclose(np.sum(stderr**2), exact, rtol=1e-6)


@pytest.mark.parametrize("name", EXPONENTS)
def test_error_of_independent_pairs_entry_by_entry(name):
    A = EXPONENTS[name]
    gain = np.exp(shift(A) * T)
    cross = 0 if np.iscomplexobj(A) else expm(A * T) ** 2
    stderr = runs(A, PLANS["independent"])[1][0]
    np.testing.assert_allclose(stderr, np.sqrt((gain**2 + cross) / 4000), rtol=1e-6)


def test_a_larger_shift_amplifies_the_error():
    small, large = (one(A, shift=shift(A) + extra) for extra in (0.0, 2.0))
    for out, a in ((small, shift(A)), (large, shift(A) + 2.0)):
        assert float(out.stats["amplification"]) == pytest.approx(np.exp(a * T), rel=1e-12)
        assert_within_stderr(out.value, out.stderr, expm(A * T))
    ratio = np.asarray(large.stderr) / np.asarray(small.stderr)
    assert np.all(ratio <= np.exp(2.0 * T))
    # The lagged part of the variance is at most as large as the other one.
    assert np.all(ratio >= np.exp(2.0 * T) / 2**0.5)


@pytest.mark.parametrize("name", EXPONENTS)
def test_planned_runs_keep_their_promise(name):
    A = EXPONENTS[name]
    plan, exact = tla.plan.expm(A, T, rtol=0.1, confidence=0.9), expm(A * T)
    value, _, status = runs(A, plan)
    assert status == 0
    error = np.linalg.norm(value - exact, axis=(1, 2)) / np.linalg.norm(exact)
    assert_coverage(error <= 0.1, confidence=0.9, at_most=0.97)
    with pytest.raises(AssertionError):
        assert_coverage(error <= 0.085, confidence=0.9)


def test_tolerance_and_confidence_reach_the_plan():
    drawn = tla.Device(simulator=tla.Law(long_time=True))  # the quickest to compile
    loose = tla.expm(A, T, key=KEY, rtol=0.2, confidence=0.8, device=drawn)
    plan = loose.stats["plan"]
    assert float(plan.samples) == float(tla.plan.expm(A, T, rtol=0.2, confidence=0.8).samples)
    assert float(plan.samples) < float(tla.plan.expm(A, T).samples) / 8
    clock = np.linalg.norm(shift(A) * np.eye(4) - A, 2)
    np.testing.assert_allclose(float(loose.stats["time_constants"]), clock * float(plan.total), rtol=1e-12)


# The group law, in units of the propagated error.


def product_stderr(A, s, t, samples):
    """First-order error of the product of two independent estimates, of e^(As) and e^(At)."""
    S, U, one_s, one_t = expm(A * s), expm(A * t), np.exp(shift(A, s) * s), np.exp(shift(A, t) * t)
    # Entries that share a row or a column move together: Cov(C_ab, C_cd) = (delta_ac delta_bd + C_ad C_cb) / N.
    first = one_s**2 * np.sum(U**2, 0)[None] + (S @ U) ** 2
    second = one_t**2 * np.sum(S**2, 1)[:, None] + (S @ U) ** 2
    return np.sqrt((first + second) / samples)


def test_semigroup():
    plan = PLANS["independent"]
    first, second = runs(A, plan, 0.3)[0], runs(A, plan, 0.4)[0][::-1]  # runs with other keys
    z = (first @ second - expm(A * 0.7)) / product_stderr(A, 0.3, 0.4, 4000)
    # Second order adds d gain^4 / N^2 to variances of gain^2 / N: less than a hundredth.
    assert_unit_variance(z, kurtosis=3.03)
    with pytest.raises(AssertionError):
        assert_unit_variance((first @ second - expm(A * 0.75)) / product_stderr(A, 0.3, 0.4, 4000), kurtosis=3.03)


def test_inverse():
    plan = PLANS["independent"]
    (there, _, _), (back, _, _) = runs(A, plan), runs(-A, plan)
    E, F = expm(A * T), expm(-A * T)
    first = np.exp(2 * shift(A) * T) * np.sum(F**2, 0)[None] + np.eye(4)
    second = np.exp(2 * shift(-A) * T) * np.sum(E**2, 1)[:, None] + np.eye(4)
    stderr = np.sqrt((first + second) / 4000)
    assert_unit_variance((there @ back[::-1] - np.eye(4)) / stderr, kurtosis=3.03)
    with pytest.raises(AssertionError):
        assert_unit_variance((there @ there[::-1] - np.eye(4)) / stderr, kurtosis=3.03)


def test_permutation():
    P = np.ix_([2, 0, 3, 1], [2, 0, 3, 1])
    plain, moved = one(A), one(A[P], key=jax.random.key(8))
    np.testing.assert_allclose(moved.stderr, np.asarray(plain.stderr)[P], rtol=1e-9)
    assert_within_stderr(moved.value, moved.stderr, expm(A * T)[P])


@pytest.mark.parametrize(("A", "t"), [(A, 0.0), (np.zeros((4, 4)), 1.0), (np.zeros((4, 4)), 0.0)])
def test_nothing_to_exponentiate_gives_the_identity(A, t):
    out = one(A, t)
    assert int(out.status) == 0
    assert_within_stderr(out.value, out.stderr, np.eye(4))
    gain = float(out.stats["amplification"])
    np.testing.assert_allclose(out.stderr, np.sqrt((gain**2 + np.eye(4)) / 4000), rtol=1e-9)


def test_the_very_stable_and_the_fast_growing():
    for c in (-300.0, 300.0):
        out, exact = one(A + c * np.eye(4)), np.exp(c * T) * expm(A * T)
        assert_within_stderr(out.value / exact.max(), out.stderr / exact.max(), exact / exact.max())


# Faults.


def test_pairs_that_overlap_are_refused():
    overlap = tla.Plan(1.0, 0.99 * 1000 * T, 1000.0)
    with pytest.raises(ValueError, match=r"pairs overlap: they are 0.693 apart and 0.7 long"):
        one(A, plan=overlap)
    value, _, status = runs(A, overlap)
    assert status == tla.Status.NOT_FINITE
    assert np.all(np.isnan(value))


def test_a_negative_time_under_jit_is_a_status():
    assert runs(A, PLANS["independent"], -T)[2] & tla.Status.NOT_SEMIDEFINITE


FAULTS = {
    "a negative time": ((A, -1.0), {}, "exponentiate -A"),
    "a matrix for a shift": ((A, 1.0), {"shift": 3 * np.eye(4)}, "shift must be a number"),
    "too small a shift": ((A, 1.0), {"shift": -3.0}, "too small"),
    "a continuous average": ((A, 1.0), {"plan": tla.Plan(1.0, 10.0)}, "of samples"),
    "no samples": ((A, 1.0), {"plan": tla.Plan(1.0, 10.0, 0)}, "samples must be a whole number"),
    "plan and tolerance": ((A, 1.0), {"plan": PLANS["spaced"], "rtol": 0.1}, "not both"),
    "rtol out of range": ((A, 1.0), {"rtol": 0.0}, "rtol must lie"),
    "inertia": ((A, 1.0), {"device": tla.Device(dynamics=tla.Underdamped(1.0))}, "overdamped"),
    "overflow": ((2000 * np.eye(4), T), {"plan": PLANS["independent"]}, "not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_refused_by_name(fault):
    arguments, rest, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        tla.expm(*arguments, key=KEY, **rest)


# Derivatives are those of the exponential, whatever the noise.


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_derivatives_are_those_of_the_exponential(mode):
    chain = PLANS["chain"]
    by_matrix, by_time = jax.jit(mode(lambda A, t: one(A, t, plan=chain).value, (0, 1)))(A, T)
    for i, j in np.ndindex(4, 4):
        unit = np.zeros((4, 4))
        unit[i, j] = T
        np.testing.assert_allclose(by_matrix[:, :, i, j], expm_frechet(A * T, unit, compute_expm=False), atol=1e-12)
    np.testing.assert_allclose(by_time, A @ expm(A * T), atol=1e-12)


# Transformations and dtypes.


def test_jit_gives_the_same_numbers():
    value, stderr, _ = runs(A, PLANS["spaced"])
    for i in (0, RUNS - 1):
        plain = one(A, key=jax.random.split(KEY, RUNS)[i], plan=PLANS["spaced"])
        np.testing.assert_allclose(value[i], plain.value, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(stderr[i], plain.stderr, rtol=1e-8)


def test_vmap_over_exponents():
    exponents, times = jnp.stack([A, NON_NORMAL]), jnp.array([0.5, 0.7])
    batch = jax.jit(jax.vmap(lambda A, t: one(A, t, plan=PLANS["spaced"])))(exponents, times)
    for i in range(2):
        alone = one(exponents[i], times[i], plan=PLANS["spaced"])
        np.testing.assert_allclose(batch.value[i], alone.value, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(batch.stderr[i], alone.stderr, rtol=1e-8)


def test_float32_stays_float32():
    chain, walked = PLANS["chain"], tla.Device(simulator=tla.Trajectory())
    narrow, wide = one(np.float32(A), plan=chain, device=walked), one(A, plan=chain)
    assert narrow.value.dtype == narrow.stderr.dtype == np.float32
    assert int(narrow.status) == 0
    np.testing.assert_allclose(narrow.stderr, wide.stderr, rtol=1e-4)
    assert_within_stderr(narrow.value, narrow.stderr, expm(A * T))
