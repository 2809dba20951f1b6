import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system

import thermolinalg as tla
from thermolinalg.simulators import white_noise

KEY = jax.random.key(4)


def test_friction_is_critical_for_the_slowest_mode_unless_given():
    A, _, _ = system(kappa=25.0)
    chosen = tla.Device(dynamics=tla.Underdamped(mass=4.0)).program(A).machine.dynamics
    np.testing.assert_allclose(chosen.friction, 2 * np.sqrt(4.0 / 25.0), rtol=1e-12)
    given = tla.Device(dynamics=tla.Underdamped(friction=0.3)).program(A).machine.dynamics
    assert given.friction == 0.3


def test_relaxation_is_the_slower_of_the_two_rates():
    rates = np.array([1e-8, 0.01, 0.0625, 1.0, 50.0])
    exact = [np.roots([2.0, 0.7, rate]).real.max() for rate in rates]
    found = tla.Underdamped(mass=2.0, friction=0.7).relaxation(jnp.asarray(rates))
    # numpy's roots of 2 mu^2 - 0.7 mu + rate lose eps / (8 rate m / gamma^2) of the slow one.
    np.testing.assert_allclose(found, -np.array(exact), rtol=1e-7)


def test_friction_without_a_spectrum_has_to_be_given():
    A, b, _ = system()
    device = tla.Device(dynamics=tla.Underdamped(), simulator=tla.Law(long_time=True))
    with pytest.raises(ValueError, match="friction"):
        tla.solve(A, b, key=KEY, plan=tla.Plan(1.0, 1.0), device=device)


def test_a_program_is_factored_once():
    A, b, _ = system()
    program = tla.Device().program(A)
    traced = jax.make_jaxpr(lambda b: tla.solve(program, b, key=KEY, plan=tla.Plan(1.0, 1.0)).value)(b)
    assert "eigh" not in str(traced)


def test_trajectory_needs_eigenvectors():
    low_rank = tla.LowRank(jnp.ones((5, 1)), 1.0)
    with pytest.raises(ValueError, match="LowRank operator"):
        tla.Device(simulator=tla.Trajectory()).program(low_rank)


def test_a_trajectory_without_steps_is_refused():
    with pytest.raises(ValueError, match="steps"):
        tla.Trajectory(steps=0)


@pytest.mark.parametrize("bad", [{"beta": 0.0}, {"beta": -1.0}, {"beta": float("nan")}, {"time_constant": 0.0}])
def test_a_device_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        tla.Device(**bad)


@pytest.mark.parametrize("bad", [{"mass": 0.0}, {"friction": -0.1}])
def test_dynamics_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        tla.Underdamped(**bad)


def test_a_program_brings_its_own_device():
    program = tla.Device().program(jnp.eye(2))
    with pytest.raises(ValueError, match="its own device"):
        tla.solve(program, jnp.ones(2), key=KEY, device=tla.Device())


def test_complex_noise_has_one_temperature_for_each_part():
    noise = np.asarray(white_noise(KEY, (20_000,), jnp.dtype(complex)))
    for part in (noise.real, noise.imag):
        assert abs(part.var() - 1) < 5 * np.sqrt(2 / 20_000)
    assert abs(np.mean(noise.real * noise.imag)) < 5 / np.sqrt(20_000)
