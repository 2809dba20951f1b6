"""The inverse: its error in units of itself, its plan, its laws under change of the matrix, its faults, its slope."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import system
from scipy.stats import sem

import thermolinalg as tla
from thermolinalg.covariances import overlap
from thermolinalg.testing import (
    SPECTRA,
    assert_coverage,
    assert_unit_variance,
    assert_within_stderr,
    spd_matrices,
)

KEY = jax.random.key(3)
D, KAPPA, RUNS = 8, 20.0, 500
DTYPES = [np.float64, np.complex128]

# Independent samples, correlated ones by frequency, and too few for that.
PLANS = {
    "independent": tla.Plan(200.0, 400 * 200.0, 400),
    "by frequency": tla.Plan(100.0, 3000.0, 1000),
    "walked": tla.Plan(100.0, 250.0, 100),
}


@partial(jax.jit, static_argnums=2)
def runs(program, plan, n):
    """Values, standard errors, statuses and effective samples of n independent runs."""

    def one(key):
        out = tla.inv(program, key=key, plan=plan)
        return out.value, out.stderr, out.status, out.stats["effective_samples"]

    return jax.lax.map(one, jax.random.split(KEY, n))


def assert_mean(draws, exact, slack=0.0):
    """Means over runs are those expected, up to a relative slack, in standard errors from the scatter."""
    error = np.abs(draws.mean(0) - exact)
    assert_within_stderr(np.maximum(error - slack * np.abs(exact), 0.0), sem(draws, 0), 0.0, degrees=len(draws) - 1)


def kurtosis(program, plan):
    """Largest E z^4 of an entry: a sum of products of normal numbers, as many as the slowest mode has samples."""
    memory = program.machine.dynamics.memory(jnp.linalg.eigvalsh(program.operator.matrix))
    return 3 + 12 * float(jnp.max(overlap(memory, memory, plan.duration, plan.samples)))


def check(program, plan, slack=0.02):
    """The errors of many runs are what their standard errors say, entry by entry and in the Frobenius norm."""
    value, stderr, status, _ = (np.asarray(x) for x in runs(program, plan, RUNS))
    A = np.asarray(program.operator.matrix)
    assert np.all(status == 0)
    assert stderr.dtype == np.finfo(A.dtype).dtype
    np.testing.assert_allclose(value, np.swapaxes(value, 1, 2).conj(), rtol=1e-12)
    eigenvalues = np.linalg.eigvalsh(value)
    assert np.all(eigenvalues > -1e-12 * eigenvalues[:, -1:])
    error = value - np.linalg.inv(A)
    width = kurtosis(program, plan)
    assert_unit_variance(error / stderr, kurtosis=width)
    ratio = np.sum(np.abs(error) ** 2, (1, 2)) / np.sum(stderr**2, (1, 2))
    assert_mean(ratio, 1.0, slack)
    assert_mean(np.mean(np.abs(error / stderr) ** 2, (1, 2)), 1.0, slack)
    for factor in (1.2, 0.8):  # as with a wrong temperature
        with pytest.raises(AssertionError):
            assert_unit_variance((factor * value - np.linalg.inv(A)) / stderr, kurtosis=width)


# Standard errors are right


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PLANS)
def test_errors_of_samples_are_what_stderr_says(name, dtype):
    A, _, _ = system(d=D, kappa=KAPPA, dtype=dtype)
    check(tla.Device().program(A), PLANS[name])


def test_errors_of_a_continuous_average_are_what_stderr_says():
    A, _, _ = system(d=D, kappa=KAPPA)
    check(tla.Device().program(A), tla.Plan(100.0, 3000.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_errors_of_a_trajectory_are_what_stderr_says(dtype):
    A, _, _ = system(d=D, kappa=KAPPA, dtype=dtype)
    check(tla.Device(beta=3.0, simulator=tla.Trajectory()).program(A), tla.Plan(100.0, 1000.0, 500), slack=0.03)


@pytest.mark.parametrize("name", ["by frequency", "walked"])
def test_errors_with_inertia_are_what_stderr_says(name):
    A, _, _ = system(d=D, kappa=KAPPA)
    check(tla.Device(beta=3.0, dynamics=tla.Underdamped(mass=2.0)).program(A), PLANS[name], slack=0.03)


@pytest.mark.parametrize("dtype", DTYPES)
def test_errors_of_the_long_time_law_are_what_stderr_says(dtype):
    A, _, _ = system(d=D, kappa=KAPPA, dtype=dtype)
    # The standard error is that of the estimate itself, whose square is large by the order of 1/samples.
    check(tla.Device(simulator=tla.Law(long_time=True)).program(A), tla.Plan(0.0, 1e6, 400), slack=0.05)


def simulated(rates, spacing, samples, n):
    """Known-mean and centred covariance of n stationary runs of independent modes, step by step."""
    rng = np.random.default_rng(0)
    decay = np.exp(-rates * spacing)
    x = rng.standard_normal((n, len(rates))) / np.sqrt(rates)
    total, square = np.zeros_like(x), np.zeros((n, len(rates), len(rates)))
    for _ in range(samples):
        total += x
        square += x[:, :, None] * x[:, None]
        x = decay * x + np.sqrt((1 - decay**2) / rates) * rng.standard_normal(x.shape)
    mean = total / samples
    return square / samples, square / samples - mean[:, :, None] * mean[:, None]


def test_a_simulation_step_by_step_has_the_same_errors_and_a_subtracted_mean_is_biased():
    rates, plan, n = np.array([0.1, 0.5, 2.0]), tla.Plan(200.0, 400.0, 400), 2000
    out = tla.inv(tla.Diagonal(jnp.asarray(rates)), key=KEY, plan=plan)
    known, centred = simulated(rates, 1.0, 400, n)
    exact, stderr = np.diag(1 / rates), np.asarray(out.stderr)
    assert_within_stderr(known.mean(0), stderr / n**0.5, exact)
    assert_unit_variance((known - exact) / stderr, kurtosis=3 + 12 / 40)
    with pytest.raises(AssertionError, match=r"entry \(0, 0\)"):  # the slow mode loses two of its forty samples
        assert_within_stderr(centred.mean(0), stderr / n**0.5, exact)


def test_a_short_run_from_rest_is_low_by_what_stderr_says():
    A, _, _ = system(d=D, kappa=KAPPA)
    # One sample, taken before the slow modes have warmed up: the bias carries most of the error.
    value, stderr, _, _ = (np.asarray(x) for x in runs(tla.Device().program(A), tla.Plan(0.5, 1.0, 1), RUNS))
    rates, basis = np.linalg.eigh(A)
    assert_mean(value, (basis * (-np.expm1(-rates) / rates)) @ basis.T)
    square = np.sum((value - np.linalg.inv(A)) ** 2, (1, 2))
    # An upper bound: the variance is that of a stationary start.
    assert np.mean(square) + 5 * sem(square) < np.sum(stderr[0] ** 2)


@pytest.mark.parametrize("name", PLANS)
def test_temperature_does_not_matter(name):
    A, _, _ = system(d=D, kappa=KAPPA)
    cold, hot = (runs(tla.Device(beta=beta).program(A), PLANS[name], RUNS) for beta in (1e3, 1e-2))
    np.testing.assert_allclose(cold[0], hot[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(cold[1], hot[1], rtol=1e-12)


def test_effective_samples_are_samples_when_these_are_far_apart():
    A, _, _ = system(d=D, kappa=KAPPA)
    program = tla.Device().program(A)
    effective = {name: float(runs(program, plan, RUNS)[3][0]) for name, plan in PLANS.items()}
    np.testing.assert_allclose(effective["independent"], 400.0, rtol=1e-6)
    # Most pairs of modes forget within the 2.5 or 3 units of time between samples, the slowest need ten.
    for name in ("by frequency", "walked"):
        assert 0.1 < effective[name] / PLANS[name].samples < 0.9


# Every class of operator


def operands():
    A = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]])
    B = np.array([[1.0, 0.3], [0.3, 0.5]])
    V = np.array([[1.0], [2.0], [0.5], [0.0]])
    return {
        "list": (A.tolist(), A),
        "dense": (tla.Dense(jnp.asarray(A)), A),
        "diagonal": (tla.Diagonal(jnp.array([1.0, 0.2, 3.0])), np.diag([1.0, 0.2, 3.0])),
        "kronecker": (tla.Kronecker((tla.Dense(jnp.asarray(A)), tla.Dense(jnp.asarray(B)))), np.kron(A, B)),
        "low rank": (tla.LowRank(jnp.asarray(V), jnp.asarray(0.5)), 0.5 * np.eye(4) + V @ V.T),
        "matrix free": (tla.MatrixFree(lambda block: jnp.asarray(A) @ block, 3, jnp.float64), A),
        "sparse": (scipy.sparse.csr_array(A), A),
        "program": (tla.Device(beta=2.0).program(A), A),
        "program, low rank": (tla.Device().program(tla.LowRank(jnp.asarray(V), jnp.asarray(0.5))), None),
    }


@pytest.mark.parametrize("name", operands())
def test_every_class_of_operator(name):
    operand, matrix = operands()[name]
    matrix = operands()["low rank"][1] if matrix is None else matrix
    out = tla.inv(operand, key=KEY, plan=tla.Plan(50.0, 1e6, 10_000))
    assert_within_stderr(out.value, out.stderr, np.linalg.inv(matrix))
    # A covariance of ten thousand samples to some per cent, and not an exact inverse.
    assert 1e-3 < np.max(np.asarray(out.stderr)) / np.linalg.norm(np.linalg.inv(matrix)) < 0.05
    assert out.unwrap() is out.value


# Plans


@pytest.fixture(scope="module")
def planned():
    """Hits of many runs, and plans, for spectra of several kinds in one compilation."""
    found = {}
    for kind in ("geometric", "one small", "identity"):
        rates = np.ones(24) if kind == "identity" else SPECTRA[kind](24, 50.0)
        basis = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))[0]
        program = tla.Device().program(jnp.asarray((basis * rates) @ basis.T + 0.0))
        found[kind] = program, tla.plan.inv(program, rtol=0.1)
    return found


def hits(program, plan, n=1000):
    truth = np.linalg.inv(np.asarray(program.operator.matrix))
    return np.linalg.norm(np.asarray(runs(program, plan, n)[0]) - truth, axis=(1, 2)) <= 0.1 * np.linalg.norm(truth)


@pytest.mark.parametrize("kind", ["geometric", "one small", "identity"])
def test_a_plan_keeps_its_promise_and_wastes_little(planned, kind):
    program, plan = planned[kind]
    assert_coverage(hits(program, plan), 0.95, at_most=0.985)
    if kind == "geometric":
        with pytest.raises(AssertionError):
            assert_coverage(hits(program, tla.Plan(plan.burn_in, 0.8 * plan.duration)), 0.95)
        with pytest.raises(AssertionError):
            assert_coverage(hits(program, tla.Plan(plan.burn_in, 2.0 * plan.duration)), 0.95, at_most=0.985)


def test_the_plan_is_made_by_default(planned):
    program, plan = planned["geometric"]
    one = tla.inv(program, key=KEY, rtol=0.1)
    other = tla.inv(program, key=KEY, plan=plan)
    np.testing.assert_array_equal(one.value, other.value)
    np.testing.assert_allclose(one.stats["time_constants"], plan.time_constants)
    assert one.stats["plan"].rtol == 0.1


def test_what_is_guaranteed_takes_longer(planned):
    program, plan = planned["geometric"]
    assert 1.05 < float(tla.plan.inv(program, rtol=0.1, guaranteed=True).total / plan.total) < 3
    assert float(tla.plan.inv(program, rtol=0.05).total / plan.total) > 3.5
    assert float(tla.plan.inv(program, rtol=0.1, confidence=0.5).total / plan.total) < 0.95


def test_inertia_saves_time_on_the_device():
    A, _, _ = system(d=D, kappa=1e3)
    slow, fast = (
        tla.plan.inv(A, rtol=0.1, device=tla.Device(dynamics=x)) for x in (tla.Overdamped(), tla.Underdamped())
    )
    # By the order of the square root of the condition number, 32.
    assert float(fast.time_constants) < float(slow.time_constants) / 8


# Statuses and faults


def test_too_few_samples_are_flagged():
    A, _, _ = system(d=D, kappa=KAPPA)
    for samples, flagged in ((D - 1, True), (D, False)):
        out = tla.inv(A, key=KEY, plan=tla.Plan(200.0, 200.0 * samples, samples))
        assert bool(int(out.status) & tla.Status.FEW_SAMPLES) == flagged
        assert np.linalg.matrix_rank(out.value, tol=1e-10) == samples
    with pytest.raises(tla.SolutionError, match="run longer"):
        tla.inv(A, key=KEY, plan=tla.Plan(200.0, 200.0, 1)).unwrap()


def test_an_indefinite_matrix_is_flagged_under_jit():
    status = jax.jit(lambda A: tla.inv(A, key=KEY, plan=tla.Plan(1.0, 1.0, 2)).status)
    for A, flagged in ((np.diag([1.0, -2.0, 3.0]), True), (np.diag([1.0, 2.0, 3.0]), False)):
        assert bool(int(status(A)) & tla.Status.NOT_POSITIVE_DEFINITE) == flagged


HASTY = tla.Device(simulator=tla.Law(long_time=True))
GOOD = np.diag([1.0, 2.0, 3.0])
FAULTS = {
    "not square": (np.ones((3, 2)), {}, "square"),
    "not symmetric": (GOOD + np.triu(np.ones((3, 3)), 1), {}, "not symmetric"),
    "indefinite": (np.diag([1.0, -2.0, 3.0]), {}, "not positive definite"),
    "not finite": (np.diag([1.0, np.nan, 3.0]), {}, "not finite"),
    "plan and tolerance": (GOOD, {"plan": tla.Plan(1.0, 1.0), "rtol": 0.1}, "not both"),
    "long time, no samples": (GOOD, {"plan": tla.Plan(1.0, 1.0), "device": HASTY}, "samples"),
    "no sample": (GOOD, {"plan": tla.Plan(1.0, 1.0, 0)}, "samples must be a whole number"),
    "negative time": (GOOD, {"plan": tla.Plan(-1.0, 1.0)}, "burn_in"),
    "too accurate": (GOOD, {"rtol": 0.0}, "rtol"),
    "too confident": (GOOD, {"confidence": 1.0}, "confidence"),
    "too large": (tla.MatrixFree(lambda block: block, 5000, jnp.float64), {}, "columns that are needed"),
    "program and device": (tla.Device().program(GOOD), {"device": tla.Device()}, "leave out"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_input_is_refused_with_advice(name):
    A, rest, message = FAULTS[name]
    with pytest.raises(ValueError, match=message):
        tla.inv(A, key=KEY, **rest)


def test_overflow_is_not_returned_as_an_answer():
    tiny = np.eye(3, dtype=np.float32) * np.float32(1e-30)
    with pytest.raises(ValueError, match="not finite"):
        tla.inv(tiny, key=KEY, plan=tla.Plan(1e38, 1e38, 20))


# Transformations


@jax.jit
def drawn(A, key=KEY, plan=PLANS["independent"]):
    return tla.inv(A, key=key, plan=plan)


def test_jit_gives_the_same_numbers():
    A, _, _ = system(d=4)
    plain, traced = tla.inv(A, key=KEY, plan=PLANS["independent"]), drawn(A)
    np.testing.assert_allclose(traced.value, plain.value, rtol=1e-9)
    np.testing.assert_allclose(traced.stderr, plain.stderr, rtol=1e-9)
    again, other = drawn(A), drawn(A, jax.random.key(4))
    np.testing.assert_array_equal(again.value, traced.value)
    assert not np.any(np.asarray(other.value) == np.asarray(traced.value))


def test_vmap_over_matrices_and_keys():
    As, keys = jnp.stack([system(d=4, seed=seed)[0] for seed in range(2)]), jax.random.split(KEY, 2)
    plan = tla.Plan(50.0, 250.0, 100)
    batch = jax.vmap(drawn, (0, 0, None))(As, keys, plan)
    for i in range(2):
        np.testing.assert_allclose(batch.value[i], drawn(As[i], keys[i], plan).value, rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision(dtype):
    A, _, _ = system(d=4, kappa=5.0, dtype=dtype)
    out = drawn(A, KEY, tla.Plan(50.0, 1e6, 10_000))
    assert out.value.dtype == dtype
    assert out.stderr.dtype == np.float32
    assert int(out.status) == 0
    assert_within_stderr(out.value, out.stderr, np.linalg.inv(np.asarray(A, np.result_type(dtype, np.float64))))


@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_are_those_of_an_inverse(dtype):
    A, _, _ = system(d=4, dtype=dtype)
    rng = np.random.default_rng(2)
    W, T = (
        x + (1j * rng.standard_normal((4, 4)) if dtype == np.complex128 else 0) for x in rng.standard_normal((2, 4, 4))
    )
    T = jnp.asarray(T + T.conj().T)

    def weighed(A):
        return jnp.sum(jnp.asarray(W) * drawn(A).value).real

    C = np.asarray(drawn(A).value)
    value, moved = jax.jvp(lambda A: drawn(A).value, (A,), (T,))
    np.testing.assert_array_equal(value, C)
    np.testing.assert_allclose(moved, -C @ np.asarray(T) @ C, rtol=1e-10, atol=1e-12)
    slope = np.asarray(jax.grad(weighed)(A))
    np.testing.assert_allclose(slope, -(C.T @ W @ C.T), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.sum(slope * np.asarray(T)).real, np.sum(W * np.asarray(moved)).real, rtol=1e-10)


# Laws under change of the matrix


@settings(max_examples=12)
@given(spd_matrices(st.just(4)), st.integers(-8, 8), st.sampled_from(sorted(PLANS)))
def test_scale_of_the_matrix_is_a_scale_of_time(A, power, name):
    # A power of two, so that the eigenvectors stay the same to the last bit.
    c, plan = 2.0**power, PLANS[name]
    one, other = drawn(A, KEY, plan), drawn(c * A, KEY, tla.Plan(plan.burn_in / c, plan.duration / c, plan.samples))
    largest = float(jnp.max(jnp.abs(one.value)))
    np.testing.assert_allclose(c * other.value, one.value, atol=1e-9 * largest)
    np.testing.assert_allclose(c * other.stderr, one.stderr, rtol=1e-9)
    assert np.min(np.linalg.eigvalsh(one.value)) > -1e-12 * largest


@settings(max_examples=12)
@given(spd_matrices(st.just(4), st.just(30.0)), st.permutations(range(4)), st.integers(0, 100))
def test_a_change_of_basis_moves_the_standard_error_along(A, order, seed):
    plan, order = PLANS["by frequency"], np.array(order)
    plain = np.asarray(drawn(A, KEY, plan).stderr)
    moved = np.asarray(drawn(A[np.ix_(order, order)], KEY, plan).stderr)
    np.testing.assert_allclose(moved, plain[np.ix_(order, order)], rtol=1e-7)
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((4, 4)))[0]
    turned = Q @ A @ Q.T
    turned = np.asarray(drawn((turned + turned.T) / 2, KEY, plan).stderr)
    # The mean square error in the Frobenius norm is that of the spectrum.
    np.testing.assert_allclose(np.linalg.norm(turned), np.linalg.norm(plain), rtol=1e-9)


def test_a_diagonal_matrix_stays_one_in_law():
    values = jnp.array([0.1, 3.0, 0.5, 1.0])
    order = np.array([2, 0, 3, 1])
    plain, moved = (
        np.asarray(tla.inv(tla.Diagonal(v), key=KEY, plan=PLANS["by frequency"]).stderr)
        for v in (values, values[order])
    )
    np.testing.assert_allclose(moved, plain[np.ix_(order, order)], rtol=1e-12)
