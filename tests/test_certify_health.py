"""The health check: planted faults are found and named, and healthy devices are left alone."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system
from scipy import stats

import thermolinalg as tla
from thermolinalg.testing import assert_coverage

KEY = jax.random.key(8)
DYNAMICS = {"overdamped": tla.Overdamped(), "underdamped": tla.Underdamped(friction=0.5)}
A, B, _ = system(d=8, kappa=10.0)
BURNT, LAZY, SHORT = tla.Plan(100.0, 200.0), tla.Plan(0.0, 200.0), tla.Plan(100.0, 10.0)


def hot(program, factor):
    """A device that is colder by this factor than its program says."""
    return replace(program, machine=replace(program.machine, beta=program.machine.beta * factor))


@pytest.fixture(scope="module")
def checks():
    """Health of many runs of one device, compiled once for each kind."""

    def batch(program, burn_in, duration, keys):
        plan = tla.Plan(burn_in, duration)
        return jax.vmap(lambda key: tla.health(program, A, B, key=key, plan=plan, runs=16))(keys)

    compiled = jax.jit(batch)

    def check(program, plan, n=1500):
        return jax.device_get(compiled(program, plan.burn_in, plan.duration, jax.random.split(KEY, n)))

    return check


@pytest.fixture(scope="module")
def many():
    """Health over forty keys, from so many runs that the temperature is known well."""

    def batch(program, keys):
        return jax.vmap(lambda key: tla.health(program, A, B, key=key, plan=BURNT, runs=512))(keys)

    compiled = jax.jit(batch)
    return lambda program: jax.device_get(compiled(program, jax.random.split(KEY, 40)))


@pytest.fixture(scope="module", params=DYNAMICS)
def device(request):
    return tla.Device(beta=1e3, dynamics=DYNAMICS[request.param])


@pytest.mark.parametrize("plan", [BURNT, SHORT], ids=["long", "short"])
def test_the_laws_are_exact_for_runs_of_any_length(checks, device, plan):
    found = checks(device.program(A), plan)
    noise = found.noise.statistic * 15 * 8
    assert stats.kstest(noise, stats.chi2(15 * 8).cdf).pvalue > 1e-3
    assert stats.kstest(1.05 * noise, stats.chi2(15 * 8).cdf).pvalue < 1e-3
    for part in (found.bias, found.settled):
        law = stats.f(8, 15 * 8)
        assert stats.kstest(part.statistic, law.cdf).pvalue > 1e-3
        assert stats.kstest(1.15 * part.statistic, law.cdf).pvalue < 1e-3
        np.testing.assert_allclose(part.p_value, law.sf(part.statistic), rtol=1e-6, atol=1e-12)
    two_sided = 2 * np.minimum(stats.chi2(120).cdf(noise), stats.chi2(120).sf(noise))
    np.testing.assert_allclose(found.noise.p_value, np.minimum(two_sided, 1), rtol=1e-6, atol=1e-12)
    assert_coverage(np.asarray(found.passed), 0.99)


def test_no_burn_in_is_found_and_nothing_else_is_blamed(checks, device):
    found = checks(device.program(A), LAZY, n=200)
    assert not np.any(found.settled.passed)
    # The bias knows what the burn-in leaves; a hundred alarms at 1/300 are next to impossible.
    assert np.mean(found.bias.passed) > 0.95
    assert np.mean(found.noise.passed) > 0.95


def test_couplings_off_by_one_per_cent_are_found(checks, device):
    found = checks(device.program(1.01 * A), BURNT, n=200)
    assert np.mean(found.bias.passed) < 0.01
    assert np.mean(found.settled.passed) > 0.95
    assert np.mean(found.noise.passed) > 0.9


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_wrong_temperature_is_found_from_either_side(many, factor):
    # 4088 degrees: the noise is known to 2.2 %, so that 20 % are seven standard deviations or more.
    found = many(hot(tla.Device(beta=1e3).program(A), factor))
    assert not np.any(found.noise.passed)
    # F ratios do not care about the temperature: at 1/300 each, four alarms in forty have a probability of 1e-5.
    assert np.sum(~found.bias.passed) < 4
    assert np.sum(~found.settled.passed) < 4


def test_verdicts():
    device = tla.Device(beta=1e3)
    program = device.program(A)

    def verdict(program, plan=BURNT):
        return tla.health(program, A, B, key=KEY, plan=plan, runs=512).verdict

    assert verdict(program) == "healthy"
    assert verdict(program, LAZY) == "burn-in too short"
    assert verdict(device.program(1.02 * A)) == "couplings differ from A"
    assert "temperature is not beta: the noise has 0.8" in verdict(hot(program, 1.2))
    both = verdict(device.program(1.02 * A), LAZY)
    assert "burn-in" in both
    assert "couplings" in both
    with pytest.raises(ValueError, match="outside of jit"):
        jax.vmap(lambda key: tla.health(program, A, B, key=key, plan=BURNT))(jax.random.split(KEY, 2)).verdict  # noqa: B018


def test_samples_complex_columns_and_other_simulators():
    C, c, _ = system(d=5, dtype=np.complex128)
    block = jnp.stack([c, 1j * c], 1)
    plan = tla.Plan(300.0, 300.0, 100)
    for simulator in (tla.Law(end_state=False), tla.Trajectory(10)):
        program = tla.Device(beta=1e3, simulator=simulator).program(C)
        found = tla.health(program, C, block, key=KEY, plan=plan, runs=8)
        assert int(found.noise.degrees) == 2 * 5 * 2 * 7
        assert min(float(part.p_value) for part in (found.noise, found.bias, found.settled)) > 1e-3
        assert not tla.health(program, 1.05 * C, block, key=KEY, plan=plan, runs=8).passed


def test_devices_without_eigenvectors_agree_with_dense_ones():
    columns = jax.random.normal(KEY, (5, 1))
    dense = columns @ columns.T + 0.5 * jnp.eye(5)
    free = tla.MatrixFree(lambda v: dense @ v, 5, dense.dtype, rtol=1e-10)
    for operator in (tla.LowRank(columns, jnp.array(0.5)), free):
        program = tla.Device(beta=1e3).program(operator)
        assert bool(tla.health(program, dense, jnp.ones(5), key=KEY, plan=BURNT, runs=4).passed)


def test_single_precision():
    program = tla.Device(beta=1e3).program(A.astype(jnp.float32))
    found = tla.health(program, A.astype(jnp.float32), B.astype(jnp.float32), key=KEY, plan=BURNT)
    assert found.noise.statistic.dtype == jnp.float32
    assert bool(found.passed)


def test_bad_input():
    program = tla.Device().program(A)
    with pytest.raises(ValueError, match="program must be"):
        tla.health(A, A, B, key=KEY, plan=BURNT)
    with pytest.raises(ValueError, match="at least 2"):
        tla.health(program, A, B, key=KEY, plan=BURNT, runs=1)
    with pytest.raises(ValueError, match="even"):
        tla.health(program, A, B, key=KEY, plan=tla.Plan(1.0, 1.0, 3))
    with pytest.raises(ValueError, match="long-time"):
        tla.health(tla.Device(simulator=tla.Law(long_time=True)).program(A), A, B, key=KEY, plan=BURNT)
    with pytest.raises(ValueError, match="unknowns"):
        tla.health(program, jnp.eye(3), jnp.ones(3), key=KEY, plan=BURNT)
