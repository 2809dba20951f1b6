"""Pooling and calibration: slopes against the closed form of what is left, and failures that are detected."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system

import thermolinalg as tla
from thermolinalg.mitigation import calibrate, pool, rounding_bias, rounding_margin
from thermolinalg.testing import assert_within_stderr

A, B, X = system(d=6, kappa=6.0)
INVERSE = np.linalg.inv(A)
KEY = jax.random.key(11)
PLAN = tla.Plan(100.0, 1e13, 1e11)  # far more samples than matter: what is left is rounding


@partial(jax.jit, static_argnums=(2, 3))
def pooled(bits, key, members, stochastic=True):
    device = tla.Device(matrix_dac=tla.Converter(bits, stochastic=stochastic))
    return pool(lambda key: tla.inv(A, key=key, plan=PLAN, device=device), key=key, members=members)


@pytest.fixture(scope="module")
def pools():
    return {bits: pooled(bits, KEY, 4000) for bits in (6, 7)}


@pytest.mark.parametrize("bits", [6, 7])
def test_what_is_left_is_of_second_order(pools, bits):
    found, bias = pools[bits], np.asarray(rounding_bias(A, tla.Converter(bits)))
    error = np.asarray(found.value) - INVERSE
    # The third order is smaller than the second by the margin.
    slack = np.abs(bias).max() / float(rounding_margin(A, tla.Converter(bits)))
    left = np.maximum(np.abs(error - bias) - slack, 0)
    assert_within_stderr(left, np.asarray(found.stderr), 0.0, degrees=3999)
    assert int(found.status) == 0


def test_inverses_come_out_too_large(pools):
    """Jensen's inequality, by more than the noise of the mean."""
    error = np.asarray(pools[6].value) - INVERSE
    assert np.trace(error) > 3 * np.sum(np.diagonal(pools[6].stderr))


def test_the_bias_is_that_of_all_roundings():
    """Against the mean over every rounding of a matrix of two unknowns."""
    matrix, converter = jnp.array([[1.0, 0.31], [0.31, 0.7]]), tla.Converter(9, full_scale=1.0)
    step = 2 / (2**9 - 2)
    base = np.floor(np.asarray(matrix) / step)
    part = np.asarray(matrix) / step - base
    mean = np.zeros((2, 2))
    for up in np.ndindex(2, 2, 2):
        chance = np.prod([p if u else 1 - p for u, p in zip(up, (part[0, 0], part[0, 1], part[1, 1]), strict=True)])
        moved = step * (base + np.array([[up[0], up[1]], [up[1], up[2]]]))
        mean += chance * np.linalg.inv(moved)
    exact = mean - np.linalg.inv(matrix)
    np.testing.assert_allclose(rounding_bias(matrix, converter), exact, rtol=0.02, atol=1e-3 * np.abs(exact).max())


def test_one_rounding_is_of_first_order(pools):
    """A pool of nearest roundings is no pool: its error is that of one, and far above what random ones leave."""
    same = pooled(6, KEY, 4, False)
    error = np.linalg.norm(np.asarray(same.value) - INVERSE)
    assert error > 3 * np.linalg.norm(np.asarray(pools[6].value) - INVERSE)


def test_the_standard_error_is_that_of_the_mean():
    values = [pooled(7, key, 40) for key in jax.random.split(KEY, 12)]
    z = np.stack([(v.value - INVERSE - rounding_bias(A, tla.Converter(7))) / v.stderr for v in values])
    # Mean square of Student's law with 39 degrees; entries of one pool share their roundings, hence the wide margin.
    assert 0.6 < np.mean(z**2) < 1.6


def test_failures_are_detected():
    ill, _, _ = system(d=6, kappa=60.0, seed=1)
    few = tla.Converter(3, stochastic=True)
    assert float(rounding_margin(ill, few)) < 1 < float(rounding_margin(ill, tla.Converter(10)))
    device = tla.Device(matrix_dac=few)
    found = pool(lambda key: tla.inv(ill, key=key, plan=PLAN, device=device), key=KEY, members=50)
    assert int(found.stats["failed"]) > 0
    assert int(found.status) & tla.Status.NOT_POSITIVE_DEFINITE


def test_chips_average_out():
    plan = tla.Plan(100.0, 1e12)

    def one(key):
        chip = tla.Chip(jax.random.fold_in(key, 1), mismatch=0.01)
        return tla.solve(A, B, key=key, plan=plan, device=tla.Device(beta=1e6, chip=chip))

    found = pool(one, key=KEY, members=400)
    error = np.asarray(found.value) - X
    # A mismatch of 1 % has a second-order bias of kappa squared parts in 10^4, and a margin.
    slack = 36 * 1e-4 * np.linalg.norm(X) / np.sqrt(6)
    assert_within_stderr(np.maximum(np.abs(error) - slack, 0), np.asarray(found.stderr), 0.0, degrees=399)
    assert np.linalg.norm(error) < np.linalg.norm(found.stats["scatter"]) / 5


def test_calibration_removes_gain_and_offset():
    adc = tla.Converter(16, gain=0.03, offset=-0.02)
    device = tla.Device(beta=1e6, adc=adc, force_dac=tla.Converter(16, gain=-0.01))
    better = calibrate(device, key=KEY)
    # The gains of both converters together.
    assert (1 + float(better.adc.gain)) * 0.99 == pytest.approx(1.0, abs=1e-3)
    assert abs(float(better.adc.offset)) < 1e-3
    before, after = (
        np.linalg.norm(tla.solve(A, B, key=KEY, plan=tla.Plan(60.0, 1e4), device=each).value - X) / np.linalg.norm(X)
        for each in (device, better)
    )
    assert before > 0.01 > 5 * after


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="members"):
        pool(lambda key: tla.inv(A, key=key), key=KEY, members=1)
    with pytest.raises(ValueError, match="dense real"):
        rounding_bias(tla.Diagonal(jnp.ones(3)), tla.Converter(4))
    with pytest.raises(ValueError, match="dense real"):
        rounding_margin(A.astype(complex), tla.Converter(4))
    with pytest.raises(ValueError, match="no adc"):
        calibrate(tla.Device(), key=KEY)
    with pytest.raises(ValueError, match="runs"):
        calibrate(tla.Device(adc=tla.Converter(8)), key=KEY, runs=0)
