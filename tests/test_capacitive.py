"""Cells coupled by capacitors: their law, what they invert and sample, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from problems import exact_run

import thermolinalg as tla
from thermolinalg.capacitances import maxwell_matrix
from thermolinalg.circuits import LC
from thermolinalg.covariances import shortfall
from thermolinalg.testing import assert_coverage, assert_unit_variance, assert_within_stderr

KEY = jax.random.key(24)
M = maxwell_matrix(np.array([[0.2, 0.5, 0.0, 0.1], [0.5, 0.1, 0.3, 0.0], [0.0, 0.3, 0.0, 0.6], [0.1, 0.0, 0.6, 0.9]]))
RATES, BASIS = np.linalg.eigh(M)
BETA, FRICTION = 3.0, 0.7
CELLS = LC.realising(1e-6, FRICTION, BETA, capacitance=1e-9)
DRIFT, DIFFUSION = (np.asarray(x) for x in CELLS.capacitive(M))
DYNAMICS = tla.Capacitive(FRICTION)
DEVICE = tla.Device(beta=BETA, dynamics=DYNAMICS)


def spread(values):
    """The matrix with these eigenvalues."""
    return (BASIS * np.asarray(values)) @ BASIS.T


@pytest.mark.parametrize("burn_in", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("duration", [0.05, 1.0, 2.0])
def test_the_law_is_that_of_the_circuit(burn_in, duration):
    law = DYNAMICS.law(jnp.asarray(RATES), BETA, burn_in, duration, None)
    d, push = len(RATES), np.arange(1.0, len(RATES) + 1)
    mean, covariance = exact_run(
        DRIFT, np.concatenate([np.zeros(d), np.linalg.solve(M, push)]), DIFFUSION, burn_in, duration
    )
    # There: averages of currents and voltages, then both at the end. Here: average voltage, end voltage, end current.
    places = [slice(d, 2 * d), slice(3 * d, 4 * d), slice(2 * d, 3 * d)]
    size = np.max(np.abs(covariance))
    for i in range(3):
        np.testing.assert_allclose(spread(law.force[i]) @ push, mean[places[i]], rtol=1e-10, atol=1e-11)
        for j in range(3):
            np.testing.assert_allclose(
                spread(law.covariance[i, j]), covariance[places[i], places[j]], atol=1e-12 * max(size, 1)
            )


def test_the_law_agrees_with_the_process_of_the_circuit():
    process = tla.OrnsteinUhlenbeck(DRIFT, np.zeros(8), DIFFUSION)
    np.testing.assert_allclose(process.stationary().covariance[4:, 4:], np.linalg.inv(M) / BETA, atol=1e-12)
    for burn_in, duration in ((0.0, 0.05), (0.4, 3.0), (40.0, 200.0)):
        law = DYNAMICS.law(jnp.asarray(RATES), BETA, burn_in, duration, None)
        there = np.asarray(process.average(burn_in, duration).covariance)[4:, 4:]
        np.testing.assert_allclose(spread(law.covariance[0, 0]), there, atol=1e-12)
    for time in (0.2, 5.0):
        law = DYNAMICS.law(jnp.asarray(RATES), BETA, 0.0, time, None)
        there = np.asarray(process.covariance(time))
        np.testing.assert_allclose(spread(law.covariance[1, 1]), there[4:, 4:], atol=1e-12)
        np.testing.assert_allclose(spread(law.covariance[2, 2]), there[:4, :4], atol=1e-12)
        np.testing.assert_allclose(spread(law.covariance[1, 2]), there[4:, :4], atol=1e-12)
        flow = scipy.linalg.expm(-DRIFT * time)
        blocks = [[flow[4:, 4:], flow[4:, :4]], [flow[:4, 4:], flow[:4, :4]]]
        for i in range(2):
            for j in range(2):
                np.testing.assert_allclose(spread(law.start[1 + i, j]), blocks[i][j], atol=1e-12)


def test_an_average_over_no_time_is_the_voltage():
    law = DYNAMICS.law(jnp.asarray(RATES), BETA, 2.0, 0.0, None)
    np.testing.assert_allclose(law.covariance[0, 0], law.covariance[1, 1], rtol=1e-12)
    np.testing.assert_allclose(law.force[0], law.force[1], rtol=1e-12)
    with pytest.raises(ValueError, match="average to zero"):
        DYNAMICS.law(jnp.asarray(RATES), BETA, 2.0, 1.0, 5)
    with pytest.raises(ValueError, match="average to zero"):
        DYNAMICS.noise(BETA)


@pytest.mark.parametrize("friction", [0.2, 0.7, 6.0])
def test_memory_is_the_autocorrelation_of_the_voltage(friction):
    drift, diffusion = (np.asarray(x) for x in LC.realising(1e-6, friction, BETA, capacitance=1e-9).capacitive(M))
    memory = tla.Capacitive(friction).memory(jnp.asarray(RATES))
    stationary = scipy.linalg.solve_continuous_lyapunov(drift, diffusion)
    for time in (0.0, 0.4, 3.0, 20.0):
        decay = np.exp(-np.asarray(memory.decay) * time)
        flow = scipy.linalg.expm(-drift * time)
        found = np.sum(np.asarray(memory.position) * decay, 0).real
        # Modes have the variance 1/(beta rate).
        np.testing.assert_allclose(spread(found / RATES / BETA), (flow @ stationary)[4:, 4:], atol=1e-12)
        # A thermal current, in units of the thermal voltage; of its sign nothing depends.
        kicked = np.sum(np.asarray(memory.momentum) * decay, 0).real
        np.testing.assert_allclose(spread(kicked * np.sqrt(1 / RATES)), -flow[4:, :4], atol=1e-12)


@pytest.mark.parametrize("samples", [None, 7])
@pytest.mark.parametrize("burn_in", [0.0, 1.5])
def test_what_a_start_at_rest_lacks_of_the_variance(samples, burn_in):
    found = shortfall(DYNAMICS.memory(jnp.asarray(RATES)), burn_in, 4.0, samples)
    stationary = scipy.linalg.solve_continuous_lyapunov(DRIFT, DIFFUSION)
    if samples is None:
        nodes, weights = np.polynomial.legendre.leggauss(60)
        times, weights = burn_in + 2 * (nodes + 1), weights / 2
    else:
        times, weights = burn_in + 4.0 * np.arange(samples) / samples, np.full(samples, 1 / samples)
    flows = [scipy.linalg.expm(-DRIFT * time) for time in times]
    lacks = sum(weight * (flow @ stationary @ flow.T) for weight, flow in zip(weights, flows, strict=True))
    np.testing.assert_allclose(spread(np.asarray(found) / RATES / BETA), lacks[4:, 4:], atol=1e-12)


def test_friction_is_critical_for_the_slowest_mode_unless_given():
    chosen = tla.Device(dynamics=tla.Capacitive()).program(M).machine.dynamics
    np.testing.assert_allclose(chosen.friction, 2 * np.sqrt(RATES[-1]), rtol=1e-12)
    roots = np.roots([RATES[-1], float(chosen.friction), 1.0])
    np.testing.assert_allclose(roots, -1 / np.sqrt(RATES[-1]), rtol=1e-6)
    assert DEVICE.program(M).machine.dynamics.friction == FRICTION
    with pytest.raises(ValueError, match="friction is not set"):
        tla.Capacitive().relaxation(jnp.asarray(RATES))
    with pytest.raises(ValueError, match="friction"):
        tla.Capacitive(0.0)


@pytest.mark.parametrize("friction", [0.2, 6.0])
def test_relaxation_is_the_slower_of_the_two_rates(friction):
    exact = [np.roots([rate, friction, 1.0]).real.max() for rate in RATES]
    np.testing.assert_allclose(tla.Capacitive(friction).relaxation(jnp.asarray(RATES)), -np.array(exact), rtol=1e-9)


INDEPENDENT, NEAR = tla.Plan(300.0, 2e5, 400), tla.Plan(300.0, 400.0, 300)
ROUTES = {
    "independent": (INDEPENDENT, tla.Law()),
    "correlated": (NEAR, tla.Law()),
    "continuous": (tla.Plan(300.0, 400.0), tla.Law()),
    "walked": (NEAR, tla.Trajectory(300)),
}


@pytest.mark.parametrize("route", ROUTES)
def test_the_inverse_is_read_with_the_error_that_is_stated(route):
    plan, simulator = ROUTES[route]
    program = tla.Device(beta=BETA, dynamics=DYNAMICS, simulator=simulator).program(M)
    keys = jax.random.split(KEY, 150 if route == "walked" else 600)
    out = jax.jit(jax.vmap(lambda key: tla.inv(program, key=key, plan=plan)))(keys)
    assert not np.any(out.status)
    z = (np.asarray(out.value) - np.linalg.inv(M)) / np.asarray(out.stderr)
    # Squares of Gaussian numbers, hundreds of them: kurtosis 3 + 12/N.
    assert_unit_variance(z, kurtosis=3.3)
    with pytest.raises(AssertionError):
        assert_unit_variance(1.6 * z, kurtosis=3.3)
    assert_within_stderr(
        np.mean(out.value, 0), np.std(out.value, 0) / np.sqrt(len(keys)), np.linalg.inv(M), degrees=len(keys) - 1
    )


def test_a_plan_keeps_its_promise():
    plan = tla.plan.inv(DEVICE.program(M), rtol=0.2, confidence=0.9)
    program, keys = DEVICE.program(M), jax.random.split(KEY, 1000)
    value = np.asarray(jax.jit(jax.vmap(lambda key: tla.inv(program, key=key, plan=plan).value))(keys))
    exact = np.linalg.inv(M)
    error = np.linalg.norm(value - exact, axis=(1, 2)) / np.linalg.norm(exact)
    assert_coverage(error <= 0.2, 0.9)
    with pytest.raises(AssertionError):
        assert_coverage(error <= 0.1, 0.9)


def test_voltages_are_samples_of_the_normal_law():
    out = tla.gaussian(M, key=KEY, samples=20_000, device=DEVICE)
    moment = np.asarray(out.value).T @ np.asarray(out.value) / 20_000
    exact = np.linalg.inv(M) / BETA
    own = np.diag(exact)
    assert_within_stderr(moment, np.sqrt((np.outer(own, own) + exact**2) / 20_000), exact)
    with pytest.raises(AssertionError):
        assert_within_stderr(1.05 * moment, np.sqrt((np.outer(own, own) + exact**2) / 20_000), exact)


def test_a_path_remembers_as_the_circuit_does():
    spacing, keys = 0.8, jax.random.split(KEY, 4000)
    program = DEVICE.program(M)
    plan = tla.Plan(200.0, 2 * spacing, 2)
    path = np.asarray(jax.jit(jax.vmap(lambda key: tla.gaussian(program, key=key, plan=plan).value))(keys))
    found = np.einsum("rni,rnj->ij", path[:, 1:], path[:, :1]) / len(keys)
    stationary = scipy.linalg.solve_continuous_lyapunov(DRIFT, DIFFUSION)
    exact = (scipy.linalg.expm(-DRIFT * spacing) @ stationary)[4:, 4:]
    own = np.diag(np.linalg.inv(M)) / BETA
    stderr = np.sqrt((np.outer(own, own) + exact * exact.T) / len(keys))
    assert_within_stderr(found, stderr, exact)
    with pytest.raises(AssertionError):
        assert_within_stderr(found, stderr, exact.T @ scipy.linalg.expm(-0.1 * np.eye(4)) * 0.8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tla.solve(M, np.ones(4), key=KEY, plan=INDEPENDENT, device=DEVICE), "solve"),
        (
            lambda: tla.reduction.end_points(M, np.ones(4), key=KEY, plan=tla.Plan(1.0, 1.0), device=DEVICE),
            "time average",
        ),
        (lambda: tla.gaussian(M, np.ones(4), key=KEY, device=DEVICE), "a sample with a mean"),
        (lambda: tla.extremes(M, key=KEY, device=DEVICE), "inertia"),
        (lambda: tla.lyapunov(M, np.eye(4), key=KEY, plan=INDEPENDENT, device=DEVICE), "overdamped"),
        (lambda: tla.solve(tla.General(M), np.ones(4), key=KEY, device=DEVICE), "overdamped"),
        (lambda: DEVICE.program(np.array([[1.0, 0.1], [0.1, 1.0]])), "capacitor"),
        (lambda: DEVICE.program(np.array([[1.0, -0.9], [-0.9, 0.85]])), "row 1"),
        (lambda: DEVICE.program(np.eye(2) + 0.1j * np.array([[0, 1], [-1, 0]])), "real"),
    ],
)
def test_what_capacitors_cannot_do_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_under_jit_and_in_float32():
    program = tla.Device(beta=BETA, dynamics=tla.Capacitive(jnp.asarray(FRICTION)))
    out = jax.jit(lambda A: tla.inv(A, key=KEY, plan=INDEPENDENT, device=program))(M.astype(np.float32))
    assert out.value.dtype == np.float32
    assert not int(out.status)
    assert_within_stderr(out.value, out.stderr, np.linalg.inv(M))


def test_a_chip_of_capacitors_states_what_it_is_off():
    keys = jax.random.split(KEY, 800)

    @jax.jit
    @jax.vmap
    def many(key):
        device = tla.Device(beta=BETA, dynamics=DYNAMICS, chip=tla.Chip(key, 0.02))
        out = tla.inv(M, key=key, plan=tla.Plan(300.0, 2e6, 4000), device=device)
        ideal = tla.inv(M, key=key, plan=tla.Plan(300.0, 2e6, 4000), device=DEVICE)
        return out.value, out.stderr, ideal.stderr

    value, stderr, ideal = (np.asarray(x) for x in many(keys))
    z = (value - np.linalg.inv(M)) / stderr
    # Second order in mismatch times condition number, on what is a half first order.
    mean = np.mean(z**2)
    assert abs(mean - 1) < 0.15
    assert np.mean(((value - np.linalg.inv(M)) / ideal) ** 2) > 1.4
