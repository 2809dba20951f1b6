"""What a certificate promises: healthy runs pass at the stated rate, planted faults are seen.

Systems, dynamics and faults are random; the temperature is such that the power against each fault follows from a
chi-square law in closed form.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import thermolinalg as tla
from thermolinalg.testing import SEEDS, adversarial_matrices, assert_coverage, right_hand_sides, spd_matrices

RUNS, D = 4000, 8
Z = np.random.default_rng(2).standard_normal((100_000, D))
# Squared length, in units of its variance, that a fault adds to the residual; and what chi-square passes.
SEEN, PASSES = 100.0, stats.chi2.isf(0.01, D)


class Run:
    """A random system on a device, long enough for the residual to be white: 20 relaxations of the slowest mode."""

    def __init__(self, A, b, inertia):
        self.A, self.b, rates = A, b, np.linalg.eigvalsh(A)
        # The default friction as a number, so that one compilation serves all.
        self.friction = 2 * rates[0] ** 0.5 if inertia else 1.0
        self.dynamics = tla.Underdamped(1.0, self.friction) if inertia else tla.Overdamped()
        self.slowest = rates[0] ** 0.5 if inertia else rates[0]
        self.x = np.linalg.solve(A, b)

    def beta(self, extra, relaxations):
        """Inverse temperature at which a squared residual `extra` is SEEN times its variance."""
        return SEEN * 2 * self.friction * self.slowest / relaxations / extra


@st.composite
def systems(draw, kappa=1e4):
    A = draw(st.one_of(spd_matrices(st.just(D), st.floats(1.0, kappa)), adversarial_matrices(st.just(D), worst=kappa)))
    return Run(A, draw(right_hand_sides(A)), draw(st.booleans()))


@pytest.fixture(scope="module")
def judge():
    """p-values and verdicts of many runs on a device, judged by the system that was meant to be solved."""

    @jax.jit
    def many(program, meant, b, burn_in, duration, noise):
        def one(key):
            out = tla.solve(program, b, key=key, plan=tla.Plan(burn_in, duration))
            plain = tla.certify(meant, b, out)
            # The same answer from a device whose noise is believed to be another.
            return plain.p_value, plain.passed, tla.certify(meant, b, out.value, noise=noise).passed

        return jax.vmap(one)(jax.random.split(jax.random.key(3), RUNS))

    def call(run, beta, burn_in, relaxations, couplings=None, hotter=1.0):
        program = tla.Device(beta=beta / hotter, dynamics=run.dynamics).program(
            jnp.asarray(run.A if couplings is None else couplings)
        )
        times = burn_in / run.slowest, relaxations / run.slowest
        noise = 2 * run.friction / beta / times[1]
        return [np.asarray(x) for x in many(program, jnp.asarray(run.A), jnp.asarray(run.b), *times, noise)]

    return call


@given(run=systems(), signal=st.floats(-3.0, 3.0))
def test_healthy_runs_pass_at_the_stated_rate(judge, run, signal):
    p_value, passed, again = judge(run, 10.0**signal, 30.0, 1000.0)
    assert_coverage(passed, 0.99)
    np.testing.assert_array_equal(passed, again)
    # An average over 1000 relaxations of the slowest mode is at most a per mille less noisy than the law says.
    for level in (0.1, 0.5):
        assert_coverage(p_value >= level, 1 - level, at_most=stats.chi2.cdf(stats.chi2.isf(level, D) / 0.998, D))


@given(run=systems())
def test_a_start_that_is_not_burnt_in_is_seen(judge, run):
    relaxations = 100.0
    duration = relaxations / run.slowest
    # The average of what is left of the start is friction x / duration, whatever the mode.
    beta = run.beta(np.sum((run.friction * run.x / duration) ** 2), relaxations)
    power = stats.ncx2.sf(PASSES, D, 0.9 * SEEN)
    assert_coverage(~judge(run, beta, 0.0, relaxations)[1], power - 1e-4)
    # The mutation: with a burn-in the same runs pass.
    assert_coverage(judge(run, beta, 30.0, relaxations)[1], 0.99)


@given(run=systems(kappa=30.0), seed=SEEDS)
def test_couplings_off_by_one_per_cent_are_seen(judge, run, seed):
    off = 1 + 0.01 * np.random.default_rng(seed).choice([-1.0, 1.0], D)
    actual = run.A * np.outer(off, off)
    extra = run.b - run.A @ np.linalg.solve(actual, run.b)
    passed = judge(run, run.beta(extra @ extra, 1000.0), 50.0, 1000.0, couplings=actual)[1]
    # The noise is that of the wrong couplings, too: white, then mapped by A times their inverse.
    residual = extra / np.linalg.norm(extra) * SEEN**0.5 + Z @ np.linalg.solve(actual, run.A)
    power = np.mean(np.sum(residual**2, 1) > PASSES)
    assert power > 0.99
    assert_coverage(~passed, min(power, 0.999) - 0.002)


@given(run=systems(), hotter=st.floats(3.0, 30.0))
def test_a_device_hotter_than_believed_is_seen(judge, run, hotter):
    _, aware, unaware = judge(run, 1.0, 50.0, 1000.0, hotter=hotter)
    power = stats.chi2.sf(PASSES / hotter, D)
    assert_coverage(~unaware, 0.997 * power, at_most=min(1.003 * power, 1 - 1e-3) if power < 0.99 else None)
    assert_coverage(aware, 0.99)
