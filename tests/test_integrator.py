"""Readings by integration: against the laws, and against independent solvers where there is no law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system
from scipy.integrate import solve_ivp
from scipy.linalg import expm, solve_continuous_lyapunov
from scipy.optimize import lsq_linear
from scipy.stats import sem

import thermolinalg as tla
from thermolinalg import cells
from thermolinalg.sde import EulerMaruyama
from thermolinalg.testing import assert_within_stderr

A, B, X = system(d=4, kappa=8.0)
INVERSE = np.linalg.inv(A)
CAPACITIVE = jnp.array([[1.0, -0.3, -0.2, 0.0], [-0.3, 0.9, 0.0, -0.1], [-0.2, 0.0, 0.7, 0.0], [0.0, -0.1, 0.0, 0.5]])
RUNS = 300
KEYS = jax.random.split(jax.random.key(3), RUNS)
DYNAMICS = {"RC": tla.Overdamped(), "LC": tla.Underdamped(friction=0.9)}


def device(dynamics=None, beta=50.0, **kind):
    return tla.Device(beta=beta, dynamics=dynamics or tla.Overdamped(), simulator=tla.Integrator(**kind))


def over_keys(verb):
    return jax.jit(jax.vmap(verb))(KEYS)


def assert_mean(draws, exact):
    draws = np.asarray(draws)
    assert_within_stderr(draws.mean(0) - exact, sem(draws, 0), 0.0, degrees=len(draws) - 1)


def mean_square(solution, exact):
    """Mean over the entries of the squares in standard errors, one for each key."""
    z = (np.asarray(solution.value) - exact) / np.asarray(solution.stderr)
    return (z**2).reshape(RUNS, -1).mean(1)


# Linear cells


@pytest.mark.parametrize("samples", [None, 40.0])
@pytest.mark.parametrize("kind", DYNAMICS)
def test_averages_have_the_law(kind, samples):
    plan = tla.Plan(2.0, 20.0, samples)
    stepped, exact = device(DYNAMICS[kind]), tla.Device(beta=50.0, dynamics=DYNAMICS[kind])
    found = over_keys(lambda key: tla.solve(A, B, key=key, plan=plan, device=stepped))
    drawn = over_keys(lambda key: tla.solve(A, B, key=key, plan=plan, device=exact))
    # Two independent sets of runs with one mean and one covariance.
    error = np.hypot(sem(found.value, 0), sem(drawn.value, 0))
    assert_within_stderr(np.mean(found.value, 0) - np.mean(drawn.value, 0), error, 0.0, degrees=RUNS - 1)
    assert_mean(mean_square(found, X), mean_square(drawn, X).mean())


@pytest.mark.parametrize("samples", [None, 60.0])
@pytest.mark.parametrize("kind", ["RC", "LC", "capacitors"])
def test_covariances_have_the_law(kind, samples):
    plan = tla.Plan(8.0, 60.0, samples)
    dynamics, matrix = (tla.Capacitive(0.8), CAPACITIVE) if kind == "capacitors" else (DYNAMICS[kind], A)
    exact = np.linalg.inv(matrix)
    found = over_keys(lambda key: tla.inv(matrix, key=key, plan=plan, device=device(dynamics)))
    # The burn-in leaves less than e^-2 of one part in ten of a variance; the scheme errs by the square of its step.
    error = np.maximum(np.abs(np.mean(found.value, 0) - exact) - 4e-3 * np.abs(exact).max(), 0)
    assert_within_stderr(error, sem(found.value, 0), 0.0, degrees=RUNS - 1)
    assert_mean(mean_square(found, exact), 1.0)


def test_explicit_steps_have_their_bias():
    """Euler-Maruyama settles at A^-1 (I - hA/2)^-1; a test that could not tell would pass the exact inverse too."""
    plan, step = tla.Plan(20.0, 100.0), 0.8
    euler = device(step=step, scheme=EulerMaruyama())
    found = np.asarray(over_keys(lambda key: tla.inv(A, key=key, plan=plan, device=euler)).value)
    length = step / float(jnp.linalg.eigvalsh(A)[-1])
    biased = INVERSE @ np.linalg.inv(np.eye(4) - length / 2 * np.asarray(A))
    trace = np.trace(found, axis1=1, axis2=2)
    assert_mean(trace, np.trace(biased))
    with pytest.raises(AssertionError):
        assert_mean(trace, np.trace(INVERSE))


def test_other_problems_have_their_laws():
    rng = np.random.default_rng(5)
    drift = jnp.asarray(1.5 * np.eye(3) + rng.standard_normal((3, 3)) / 3)
    right, force = jnp.eye(3), jnp.ones(3)
    settled, later = solve_continuous_lyapunov(drift, right), expm(-0.5 * np.asarray(drift))
    each = device()
    verbs = [
        (lambda key: tla.lyapunov(drift, right, key=key, device=each, plan=tla.Plan(5.0, 60.0, 30.0)), settled),
        (lambda key: tla.expm(-drift, 0.5, key=key, device=each, plan=tla.Plan(5.0, 45.0, 30.0)), later),
        (
            lambda key: tla.solve(tla.General(drift), force, key=key, device=each, plan=tla.Plan(5.0, 20.0)),
            np.linalg.solve(drift, force),
        ),
        (lambda key: tla.logdet(A, key=key, device=each, samples=60), np.linalg.slogdet(A)[1]),
    ]
    for verb, exact in verbs:
        found = over_keys(verb)
        assert_mean(found.value, exact)
        assert_mean(mean_square(found, exact), 1.0)


def test_paths_are_those_of_the_process():
    plan = tla.Plan(80.0, 9.0, 3)
    found = np.asarray(over_keys(lambda key: tla.gaussian(A, B, key=key, plan=plan, device=device())).value)
    assert_mean(found[:, -1], X)
    spread = found - X
    assert_mean(50.0 * spread[:, -1, :, None] * spread[:, -1, None, :], INVERSE)
    # Neighbours on the path are 3 apart.
    assert_mean(50.0 * spread[:, 2, :, None] * spread[:, 1, None, :], expm(-3.0 * np.asarray(A)) @ INVERSE)


def test_relaxation_tells_the_extremes():
    found = tla.extremes(A, key=KEYS[0], device=device(beta=1.0), cycles=24)
    exact = np.linalg.eigvalsh(A)[[0, -1]]
    # A power method from inside; its standard error is a generous one.
    assert np.all(np.abs(found.value - exact) < 5 * np.asarray(found.stderr) + 2e-3 * exact)
    cold = tla.extremes(A, key=KEYS[0], device=device(cells=cells.Saturating(1e-3)), cycles=24)
    assert abs(float(cold.value[1]) - exact[1]) > 0.1


def test_a_run_goes_on_where_it_ended():
    first = tla.solve(A, B, key=KEYS[0], plan=tla.Plan(150.0, 1.0), device=device(DYNAMICS["LC"], beta=1e14))
    again = tla.solve(
        A, B, key=KEYS[1], plan=tla.Plan(0.0, 1.0), device=device(DYNAMICS["LC"], beta=1e14), x0=first.stats["state"]
    )
    np.testing.assert_allclose(first.stats["state"].position, X, atol=1e-4)
    np.testing.assert_allclose(again.value, X, atol=1e-4)


# Other cells


def test_saturating_cells_solve_within_their_limits():
    limit = 1.5 * float(np.abs(X).max())
    each = device(beta=20.0, cells=cells.Saturating(limit))
    found = over_keys(lambda key: tla.solve(A, B, key=key, plan=tla.Plan(150.0, 40.0), device=each))
    # The mean of what they show is the solution, whatever the noise.
    assert_mean(found.value, X)
    stuck = tla.solve(
        A, B, key=KEYS[0], plan=tla.Plan(200.0, 1.0), device=device(cells=cells.Saturating(0.5 * limit / 1.5))
    )
    assert float(jnp.max(jnp.abs(stuck.value))) == pytest.approx(limit / 3, rel=1e-3)


def test_the_error_of_other_cells_is_that_of_batches():
    each, (fast, push, exact) = device(cells=cells.Saturating(50.0)), system(d=4, kappa=1.2)
    found = over_keys(lambda key: tla.solve(fast, push, key=key, plan=tla.Plan(30.0, 900.0), device=each))
    assert not np.any(found.status)
    # Student's law with 15 to 30 degrees has the mean square 1.07 to 1.15; the batches are 10 times
    # as long as the memory, and miss a twentieth of it.
    assert 0.95 < mean_square(found, exact).mean() < 1.4
    short = tla.solve(A, B, key=KEYS[0], plan=tla.Plan(60.0, 60.0), device=each)
    assert int(short.status) & tla.Status.FEW_SAMPLES


# Steps of Euler do not move the resting point; those of BAOAB do, by the square of their length, 0.05.
@pytest.mark.parametrize(("kind", "slack"), [("RC", 1e-6), ("LC", 0.05**2)])
def test_clamped_cells_solve_a_quadratic_program(kind, slack):
    low, high = -0.5 * np.ones(4), np.array([0.5, 0.8, 2.0, 3.0])
    each = device(DYNAMICS[kind], beta=1e16, cells=cells.Clamped(jnp.asarray(low), jnp.asarray(high)))
    found = tla.solve(A, B, key=KEYS[0], plan=tla.Plan(150.0, 1.0), device=each)
    root = np.linalg.cholesky(A)
    exact = lsq_linear(root.T, np.linalg.solve(root, B), bounds=(low, high), tol=1e-14).x
    np.testing.assert_allclose(found.value, exact, atol=slack * np.abs(exact).max())
    inside = (exact > low + 1e-3) & (exact < high - 1e-3)
    assert 0 < inside.sum() < 4


def test_coloured_noise_cools_fast_modes():
    memory = 1.5
    each = device(cells=cells.Coloured(memory))
    found = over_keys(lambda key: tla.inv(A, key=key, plan=tla.Plan(25.0, 60.0), device=each)).value
    exact = INVERSE @ np.linalg.inv(np.eye(4) + memory * np.asarray(A))
    error = np.maximum(np.abs(np.mean(found, 0) - exact) - 4e-3 * np.abs(exact).max(), 0)
    assert_within_stderr(error, sem(found, 0), 0.0, degrees=RUNS - 1)
    with pytest.raises(AssertionError):
        assert_mean(found, INVERSE)


def test_drifting_couplings_follow_their_equation():
    rate, plan = 0.02, tla.Plan(3.0, 10.0)
    each = device(beta=1e16, cells=cells.Drifting(rate), step=0.02)
    found = tla.solve(A, B, key=KEYS[0], plan=plan, device=each)
    flow = solve_ivp(
        lambda t, y: np.concatenate([B - (1 + rate * t) * np.asarray(A) @ y[:4], y[:4] * (t >= 3.0)]),
        *((0.0, 13.0), np.zeros(8)),
        max_step=0.01,
        rtol=1e-9,
    )
    # Steps of h = 0.02 time constants: errors of the order of h^2.
    np.testing.assert_allclose(found.value, flow.y[4:, -1] / 10.0, rtol=2e-3)


# Keys and refusals


def test_one_key_is_one_run():
    plan = tla.Plan(1.0, 5.0)
    first = tla.solve(A, B, key=KEYS[0], plan=plan, device=device())
    again = jax.jit(lambda key: tla.solve(A, B, key=key, plan=plan, device=device()))(KEYS[0])
    np.testing.assert_allclose(first.value, again.value, rtol=1e-12)


def test_single_precision_stays():
    found = tla.solve(
        A.astype(jnp.float32), B.astype(jnp.float32), key=KEYS[0], plan=tla.Plan(1.0, 5.0), device=device()
    )
    assert found.value.dtype == jnp.float32
    assert bool(jnp.all(jnp.isfinite(found.value)))


def test_derivatives_are_those_of_linear_cells():
    plan = tla.Plan(60.0, 10.0)

    def first(b, each):
        return tla.solve(A, b, key=KEYS[0], plan=plan, device=each).value[0]

    np.testing.assert_allclose(jax.grad(first)(B, device()), INVERSE[0], rtol=1e-2)
    with pytest.raises(ValueError, match="no derivative for Saturating"):
        jax.grad(first)(B, device(cells=cells.Saturating(9.0)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tla.Integrator(step=2.0), "not below 2.0"),
        (lambda: tla.Integrator(step=0.0), "step must be positive"),
        (lambda: cells.Saturating(0.0), "limit"),
        (lambda: cells.Clamped(1.0, 1.0), "high must be above low"),
        (lambda: cells.Coloured(-1.0), "time"),
        (lambda: cells.Drifting(float("nan")), "rate"),
    ],
)
def test_settings_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda d: d.program(A.astype(complex)), "real matrices only"),
        (lambda d: tla.reduction.end_points(A, B, key=KEYS[0], plan=tla.Plan(1.0, 1.0), device=d), "drawn from a law"),
        (lambda d: tla.gaussian(A, key=KEYS[0], device=d), "give a plan with samples"),
        (lambda d: tla.logdet(A, key=KEYS[0], device=d, estimator=tla.BennettRatio()), "ThermodynamicIntegration"),
    ],
)
def test_what_an_integrator_cannot_do_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run(device())


def test_cells_are_refused_where_they_have_no_model():
    plan = tla.Plan(1.0, 1.0)
    with pytest.raises(ValueError, match="overdamped cells"):
        tla.solve(A, B, key=KEYS[0], plan=plan, device=device(tla.Underdamped(), cells=cells.Coloured(1.0)))
    with pytest.raises(ValueError, match="linear cells"):
        tla.lyapunov(
            A, jnp.eye(4), key=KEYS[0], plan=tla.Plan(1.0, 4.0, 2.0), device=device(cells=cells.Saturating(1.0))
        )
