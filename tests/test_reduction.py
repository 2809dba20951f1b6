"""Variance reduction: each with the gain that is stated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system

import thermolinalg as tla
from thermolinalg import reduction
from thermolinalg.testing import assert_coverage, assert_unit_variance, assert_within_stderr


@jax.jit
def weighted(program, b, plan, weight, keys):
    def run(key):
        x = reduction.end_points(program, b, key=key, plan=plan, weight=weight)
        return x.value, x.stderr

    return jax.vmap(run)(keys)


@pytest.mark.parametrize("dynamics", [tla.Overdamped(), tla.Underdamped(friction=0.7)])
def test_the_value_has_the_law_that_stderr_says(dynamics):
    A, b, x = system(d=4, kappa=10.0)
    program = tla.Device(beta=3.0, dynamics=dynamics).program(A)
    values, stderr = weighted(program, b, tla.Plan(5.0, 40.0), 4.0, jax.random.split(jax.random.key(0), 4000))
    z = (np.asarray(values) - x) / np.asarray(stderr)
    assert_unit_variance(z)
    with pytest.raises(AssertionError):
        assert_unit_variance(1.1 * z)


def test_the_same_estimate_from_two_runs_that_continue_each_other():
    """The ends of a run are at hand: put the estimate together by hand, and compare mean squares."""
    A, b, x = system(d=4, kappa=10.0)
    program, weight, tau = tla.Device(beta=3.0).program(A), 4.0, 40.0

    @jax.jit
    @jax.vmap
    def by_hand(key):
        first, second = jax.random.split(key)
        begun = tla.solve(program, b, key=first, plan=tla.Plan(5.0, 1e-9)).stats["state"]
        run = tla.solve(program, b, key=second, plan=tla.Plan(0.0, tau), x0=begun)
        ends = begun.position + run.stats["state"].position
        return (weight * ends + tau * run.value) / (tau + 2 * weight)

    values = np.asarray(by_hand(jax.random.split(jax.random.key(1), 4000)))
    _, stderr = weighted(program, b, tla.Plan(5.0, tau), weight, jax.random.split(jax.random.key(0), 4000))
    z = (values - x) / np.asarray(stderr)[:1]
    assert_unit_variance(z)


def test_one_mode_gains_what_theory_says():
    rate, tau = 0.5, 20.0
    program = tla.Device(beta=2.0).program(jnp.array([[rate]]))
    found = reduction.end_points(program, jnp.zeros(1), key=jax.random.key(0), plan=tla.Plan(1e3, tau))
    z, s = rate * tau, 1 / (2.0 * rate)
    # The weight is searched on a grid of 4 %, around a flat minimum.
    np.testing.assert_allclose(found.stats["weight"], 1 / rate, rtol=0.05)
    np.testing.assert_allclose(found.stderr, np.sqrt(2 * s / (z + 2)), rtol=1e-3)
    plain = 2 * (z - 1 + np.exp(-z)) / z**2
    np.testing.assert_allclose(found.stats["gain"], plain * (z + 2) / 2, rtol=1e-3)


def test_replicas_gain_in_noise_and_not_in_burn_in():
    A, b, x = system(d=4, kappa=10.0)
    program = tla.Device(beta=1.0).program(A)
    one = tla.plan.solve(program, b, rtol=0.05)
    four = tla.plan.solve(program, b, rtol=0.05, replicas=4)
    assert float(four.total) < float(one.total) < float(four.work) < 1.5 * float(one.total)

    @jax.jit
    def runs(keys):
        return jax.vmap(lambda key: (lambda s: (s.value, s.stderr))(tla.solve(program, b, key=key, plan=four)))(keys)

    values, stderr = runs(jax.random.split(jax.random.key(2), 4000))
    assert_unit_variance((np.asarray(values) - x) / np.asarray(stderr))
    errors = np.linalg.norm(np.asarray(values) - x, axis=1) / np.linalg.norm(x)
    assert_coverage(errors <= 0.05, 0.95, at_most=0.975)


def test_replicas_of_one_plan_are_as_good_as_separate_runs():
    A, b, x = system(d=4, kappa=10.0)
    program, plan = tla.Device().program(A), tla.Plan(20.0, 50.0)

    @jax.jit
    @jax.vmap
    def mean(key):
        runs = jax.vmap(lambda key: tla.solve(program, b, key=key, plan=plan).value)(jax.random.split(key, 3))
        return jnp.mean(runs, 0)

    together = tla.solve(program, b, key=jax.random.key(0), plan=tla.Plan(20.0, 50.0, replicas=3))
    values = np.asarray(mean(jax.random.split(jax.random.key(3), 3000)))
    assert_unit_variance((values - x) / np.asarray(together.stderr)[None])
    assert together.stats["state"] is None


@pytest.mark.parametrize("plan", [tla.Plan(20.0, 200.0, replicas=3), tla.Plan(20.0, 400.0, samples=20, replicas=3)])
def test_replicas_of_matrix_readings(plan):
    A = jnp.array([[1.0, 0.3], [0.3, 0.5]])
    exact = jnp.linalg.inv(A)
    program = tla.Device().program(A)
    keys = jax.random.split(jax.random.key(4), 3000)

    def check(verb, truth):
        values, stderr = jax.jit(jax.vmap(lambda key: (lambda s: (s.value, s.stderr))(verb(key))))(keys)
        z = np.asarray((values - truth[None]) / stderr).reshape(len(keys), -1)
        assert_within_stderr(z.mean(0), 1 / np.sqrt(len(keys)), 0.0)
        # Few samples: more kurtosis than a Gaussian has.
        assert_unit_variance(z, kurtosis=6.0)

    check(lambda key: tla.inv(program, key=key, plan=plan), exact)
    if plan.samples is not None:
        check(lambda key: tla.lyapunov(A, 2 * jnp.eye(2), key=key, plan=plan), exact)


def test_a_warm_start_saves_the_logarithm_of_the_distance():
    A = tla.Diagonal(jnp.geomspace(1e-3, 1.0, 8))
    b = jnp.ones(8)
    x = b / A.values
    device = tla.Device(beta=1e9)
    cold = tla.plan.solve(A, b, rtol=1e-3, device=device)
    warm = tla.plan.solve(A, b, rtol=1e-3, device=device, x0=0.9 * x)
    np.testing.assert_allclose((cold.total - warm.total) * 1e-3, np.log(10.0), rtol=0.02)


def test_antithetic_noise_is_the_noiseless_flow():
    """Two runs with opposite kicks: their mean is the mean response, with nothing left of the temperature."""
    A, b, _ = system(d=4, kappa=10.0)
    machine = tla.Device(beta=3.0).program(A).machine
    law = machine.law(machine.operator.rates, tla.Schedule(1.0, 2.0))
    push = machine.operator.to_modes(b[:, None])[:, 0]
    kick = law.scale()[0, 0] * jax.random.normal(jax.random.key(0), (4,))
    one, other = law.force[0] * push + kick, law.force[0] * push - kick
    flow = tla.Device(beta=1e30).program(A).respond(b[:, None], tla.Schedule(1.0, 2.0))[:, 0]
    np.testing.assert_allclose(machine.operator.from_modes(((one + other) / 2)[:, None])[:, 0], flow, rtol=1e-12)


def test_what_does_not_make_sense_is_refused():
    A, b, _ = system(d=4)
    key = jax.random.key(0)
    for plan in (tla.Plan(1.0, 2.0, samples=3), tla.Plan(1.0, 2.0, replicas=2)):
        with pytest.raises(ValueError, match="continuous"):
            reduction.end_points(A, b, key=key, plan=plan)
    with pytest.raises(ValueError, match="weight"):
        reduction.end_points(A, b, key=key, plan=tla.Plan(1.0, 2.0), weight=-1.0)
    with pytest.raises(ValueError, match="replicas"):
        tla.Plan(1.0, 2.0, replicas=0)
    with pytest.raises(ValueError, match="one replica"):
        tla.gaussian(A, key=key, plan=tla.Plan(1.0, 2.0, samples=3, replicas=2))
