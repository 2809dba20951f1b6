"""Devices by name do what they are named after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system

import thermolinalg as tla
from thermolinalg.capacitances import maxwell_matrix
from thermolinalg.circuits import RC
from thermolinalg.testing import assert_within_stderr

KEY = jax.random.key(25)
A, B, X = system(d=6, kappa=10.0)
PLAN = tla.Plan(200.0, 1e4)
WEIGHTS = np.triu(np.random.default_rng(0).uniform(0.2, 1.0, (8, 8)))
CAPACITORS = maxwell_matrix((WEIGHTS + WEIGHTS.T) / 2)


def test_the_ideal_one_is_that_of_no_argument():
    assert tla.presets.ideal().exact
    one = tla.solve(A, B, key=KEY, plan=PLAN, device=tla.presets.ideal())
    np.testing.assert_array_equal(one.value, tla.solve(A, B, key=KEY, plan=PLAN).value)
    np.testing.assert_array_equal(one.stderr, tla.solve(A, B, key=KEY, plan=PLAN).stderr)
    assert tla.presets.ideal(beta=7.0).beta == 7.0
    assert tla.presets.ideal().time_constant == pytest.approx(tla.presets.rc().time_constant, rel=1e-15)


def test_the_published_figures_of_the_rc_device():
    device = tla.presets.rc()
    cell = RC()
    assert device.time_constant == pytest.approx(cell.resistance * cell.capacitance, rel=1e-15) == pytest.approx(1e-6)
    assert (device.link.bits, device.link.rate, device.beta) == (16, 50e9, 100.0)
    assert device.matrix_dac.bits == device.force_dac.bits == device.adc.bits == 16
    assert device.read_noise is None
    assert device.chip is None
    assert isinstance(device.dynamics, tla.Overdamped)
    assert device.dynamics.follows


@pytest.mark.parametrize("bits", [6, 16])
def test_the_rc_device_solves_within_the_error_it_states(bits):
    # Wider than six standard errors of an ideal device where there are few bits.
    out = tla.solve(A, B, key=KEY, plan=PLAN, device=tla.presets.rc(bits=bits))
    z = np.abs(np.asarray(out.value) - X) / np.asarray(out.stderr)
    assert np.all(z < 6)
    ideal = tla.solve(A, B, key=KEY, plan=PLAN, device=tla.presets.ideal(beta=100.0))
    lost = np.linalg.norm(out.stderr) / np.linalg.norm(ideal.stderr)
    assert (lost > 3) if bits == 6 else (lost < 1.1)


def test_a_chip_goes_where_it_is_given():
    chip = tla.Chip(KEY, 0.01)
    for device in (tla.presets.rc(chip=chip), tla.presets.lc8(chip=chip)):
        assert device.chip is chip
    out = tla.solve(A, B, key=KEY, plan=PLAN, device=tla.presets.rc(chip=chip))
    assert np.linalg.norm(out.stats["systematic"]) > 1e-3 * np.linalg.norm(X)


def test_bits_of_a_preset_may_be_traced():
    errors = jax.jit(
        jax.vmap(
            lambda bits: jnp.linalg.norm(
                tla.solve(A, B, key=KEY, plan=PLAN, device=tla.presets.rc(bits=bits, beta=1e8)).stderr
            )
        )
    )(jnp.array([4, 8, 12]))
    assert np.all(np.diff(errors) < 0)


def test_the_unit_of_eight_cells_inverts_what_capacitors_realise():
    device = tla.presets.lc8()
    assert device.cells == 8
    out = tla.inv(CAPACITORS, key=KEY, rtol=0.2, device=device)
    assert not int(out.status)
    assert_within_stderr(out.value, out.stderr, np.linalg.inv(CAPACITORS))
    with pytest.raises(AssertionError):
        assert_within_stderr(1.5 * out.value, out.stderr, np.linalg.inv(CAPACITORS))
    samples = tla.gaussian(CAPACITORS, key=KEY, samples=20_000, device=device).value
    moment, exact = np.asarray(samples).T @ np.asarray(samples) / 20_000, np.linalg.inv(CAPACITORS)
    # Twelve bits are off by less than the noise of so many samples.
    stderr = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / 20_000)
    assert_within_stderr(moment, stderr, exact)


def test_the_quality_factor_is_one_over_the_friction():
    assert tla.presets.lc8(quality=4.0).dynamics.friction == 0.25
    critical = tla.presets.lc8().program(CAPACITORS).machine.dynamics.friction
    realised = tla.presets.lc8().program(CAPACITORS).spectrum.maximum
    np.testing.assert_allclose(critical, 2 * np.sqrt(realised), rtol=1e-12)


def test_the_unit_of_eight_cells_refuses_the_rest():
    device = tla.presets.lc8()
    with pytest.raises(ValueError, match="9 unknowns and the device 8 cells"):
        device.program(np.eye(9))
    with pytest.raises(ValueError, match="mean under a force"):
        tla.solve(CAPACITORS, np.ones(8), key=KEY, plan=PLAN, device=device)
    with pytest.raises(ValueError, match="capacitor"):
        device.program(np.eye(3) + 0.1)


@pytest.mark.parametrize("bad", [{"bits": 0}, {"beta": -1.0}, {"quality": 0.0}])
def test_figures_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        tla.presets.lc8(**bad)
