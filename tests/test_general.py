"""Systems without symmetry: the law of the run, its plan, the normal equations, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import exact_run

import thermolinalg as tla
from thermolinalg.testing import assert_coverage, assert_unit_variance, assert_within_stderr

KEY = jax.random.key(8)
RUNS = 2000


def problem(stable=True, dtype=np.float64, d=4, k=2):
    rng = np.random.default_rng(2)

    def draw(*shape):
        parts = rng.standard_normal((2, *shape))
        return parts[0] + 1j * parts[1] if np.issubdtype(dtype, np.complexfloating) else parts[0]

    A = draw(d, d)
    shift = 0.4 if stable else -0.2
    A = A - (np.linalg.eigvals(A).real.min() - shift) * np.eye(d)
    b = draw(d, k)
    return A.astype(dtype), b.astype(dtype), np.linalg.solve(A, b)


def many(A, b, **how):
    run = jax.jit(jax.vmap(lambda key: tla.solve(tla.General(A), b, key=key, **how)))
    return run(jax.random.split(KEY, RUNS))


@pytest.fixture(scope="module", params=[np.float64, np.complex128])
def dtype(request):
    return request.param


@pytest.mark.parametrize("stable", [True, False])
@pytest.mark.parametrize("plan", [tla.Plan(1.0, 3.0), tla.Plan(0.5, 3.0, 4)])
def test_errors_are_as_large_as_they_say(dtype, stable, plan):
    A, b, x = problem(stable, dtype)
    out = many(A, b, plan=plan)
    assert bool(out.stats["normal_equations"][0]) is not stable
    z = (np.asarray(out.value) - x) / np.asarray(out.stderr)
    # Circular noise where there is no bias; a bias makes squares less scattered.
    assert_unit_variance(z)
    with pytest.raises(AssertionError):
        assert_unit_variance(1.2 * z)


def test_mean_and_covariance_are_those_of_the_process():
    A, b, _ = problem()
    out = many(A, b[:, 0], plan=tla.Plan(1.0, 3.0))
    mean, covariance = (x[..., :4][:4] for x in exact_run(A, b[:, 0], 2 * np.eye(4), 1.0, 3.0))
    samples = np.asarray(out.value)
    own = np.diagonal(covariance)
    assert_within_stderr(samples.mean(0), np.sqrt(own / RUNS), mean)
    centred = samples - mean
    spread = np.sqrt((own[:, None] * own[None] + covariance**2) / RUNS)
    assert_within_stderr(centred.T @ centred / RUNS, spread, covariance)
    symmetric = exact_run((A + A.T) / 2, b[:, 0], 2 * np.eye(4), 1.0, 3.0)[1][:4, :4]
    with pytest.raises(AssertionError):
        assert_within_stderr(centred.T @ centred / RUNS, spread, symmetric)


def test_the_long_time_law_agrees_with_a_long_run():
    A, b, x = problem()
    out = many(A, b, plan=tla.Plan(100.0, 1e4), device=tla.Device(simulator=tla.Law(long_time=True)))
    exact = many(A, b, plan=tla.Plan(100.0, 1e4))
    np.testing.assert_allclose(out.stderr[0], exact.stderr[0], rtol=1e-3)
    assert_unit_variance((np.asarray(out.value) - x) / np.asarray(out.stderr))


@pytest.mark.parametrize("stable", [True, False])
def test_a_plan_keeps_its_promise(dtype, stable):
    A, b, x = problem(stable, dtype, k=1)
    plan = tla.solve(tla.General(A), b, key=KEY, rtol=0.05).stats["plan"]
    error = np.linalg.norm(np.asarray(many(A, b, plan=plan).value) - x, axis=1)[:, 0]
    assert_coverage(error <= 0.05 * np.linalg.norm(x), 0.95, at_most=0.975)


def test_derivatives_are_those_of_the_solution(dtype):
    A, b, _ = problem(dtype=dtype)
    long = tla.Plan(1e3, 1e12)

    def ours(A, b):
        return jnp.sum(jnp.abs(tla.solve(tla.General(A), b, key=KEY, plan=long).value - 1) ** 2)

    def theirs(A, b):
        return jnp.sum(jnp.abs(jnp.linalg.solve(A, b) - 1) ** 2)

    found = jax.grad(ours, (0, 1))(jnp.asarray(A), jnp.asarray(b))
    truth = jax.grad(theirs, (0, 1))(jnp.asarray(A), jnp.asarray(b))
    for one, other in zip(found, truth, strict=True):
        # The derivative is taken at the noisy answer.
        np.testing.assert_allclose(one, other, atol=1e-4 * np.max(np.abs(other)))


def test_the_condition_number_of_what_was_run_is_reported():
    for stable, exponent in ((True, 1), (False, 2)):
        A, b, _ = problem(stable)
        out = tla.solve(tla.General(A), b, key=KEY, plan=tla.Plan(1.0, 1.0))
        np.testing.assert_allclose(out.stats["kappa"], np.linalg.cond(A) ** exponent, rtol=1e-10)


def test_nothing_on_the_right_is_answered_by_nothing():
    A, b, _ = problem()
    out = tla.solve(tla.General(A), 0 * b, key=KEY)
    assert np.all(np.asarray(out.value) == 0)
    assert float(out.stats["plan"].total) == 0


def test_single_precision_stays_single():
    A, b, x = problem(dtype=np.float32)
    out = tla.solve(tla.General(A), b, key=KEY, plan=tla.Plan(10.0, 100.0))
    assert out.value.dtype == np.float32
    assert np.all(np.abs(np.asarray(out.value) - x) < 6 * np.asarray(out.stderr))


BAD = {
    "singular": (np.ones((2, 2)), {}, "singular"),
    "not square": (np.ones((2, 3)), {}, "square"),
    "not finite": (np.diag([1.0, np.nan]), {}, "not finite"),
    "inertia": (np.eye(2), {"device": tla.Device(dynamics=tla.Underdamped())}, "overdamped"),
    "a trajectory": (np.eye(2), {"device": tla.Device(simulator=tla.Trajectory())}, "no modes to walk along"),
    "a start": (np.eye(2), {"x0": np.ones(2)}, "starts at rest"),
    "tolerance": (np.eye(2), {"rtol": 2.0}, "rtol"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_refused(fault):
    A, how, message = BAD[fault]
    with pytest.raises(ValueError, match=message):
        tla.solve(tla.General(A), np.ones(2), key=KEY, **how)
