"""Paths and densities of Ornstein-Uhlenbeck processes: against SciPy, and against their laws over many keys."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from thermolinalg.paths import distinct
from thermolinalg.process import OrnsteinUhlenbeck
from thermolinalg.testing import assert_within_stderr
from thermolinalg.transition import transition

SKEW, FORCE = np.array([[1.0, 5.0], [0.0, 2.0]]), np.array([1.0, -1.0])
NORMAL = np.array([[2.0, 0.5], [0.5, 1.0]])
EVEN, UNEVEN = np.arange(6) * 0.5, np.array([0.0, 0.5, 0.6, 1.0, 1.5, 3.0])
X0 = np.array([1.0, 2.0])
PROCESSES = {"general": OrnsteinUhlenbeck(SKEW, FORCE, np.eye(2)), "by modes": OrnsteinUhlenbeck(NORMAL, FORCE)}


def test_which_processes_have_modes():
    assert PROCESSES["general"].modes is None
    assert PROCESSES["by modes"].modes is not None
    assert OrnsteinUhlenbeck(np.diag([1.0, 2.0]), diffusion=np.diag([1.0, 0.0])).modes is not None
    assert OrnsteinUhlenbeck(NORMAL, diffusion=np.diag([1.0, 2.0])).modes is None
    assert OrnsteinUhlenbeck(NORMAL, diffusion=NORMAL).modes is not None


@pytest.mark.parametrize("ts", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("name", PROCESSES)
def test_density_against_scipy(name, ts):
    process = PROCESSES[name]
    xs = np.asarray(process.sample(jax.random.key(0), ts, X0))
    exact = 0.0
    for k, gap in enumerate(np.diff(ts)):
        step = process.transition(gap)
        mean = np.asarray(step.propagator @ xs[k] + step.shift)
        exact += multivariate_normal.logpdf(xs[k + 1], mean, np.asarray(step.covariance))
    np.testing.assert_allclose(process.log_prob(ts, xs), exact, rtol=1e-8)
    np.testing.assert_allclose(replace(process, modes=None).log_prob(ts, xs), exact, rtol=1e-8)


@pytest.mark.parametrize("name", PROCESSES)
def test_one_key_is_one_path(name):
    """Eager or jitted, times known or traced, by modes or by matrices."""
    process, key = PROCESSES[name], jax.random.key(1)
    path = process.sample(key, UNEVEN, X0)
    np.testing.assert_array_equal(path[0], X0)
    traced = jax.jit(lambda process, ts: (process.sample(key, ts, X0), process.log_prob(ts, path)))
    other, density = traced(process, jnp.asarray(UNEVEN))
    np.testing.assert_allclose(other, path, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(density, process.log_prob(UNEVEN, path), rtol=1e-12)
    np.testing.assert_allclose(replace(process, modes=None).sample(key, UNEVEN, X0), path, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(process.sample(key, UNEVEN + 7, X0), path, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("ts", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("name", PROCESSES)
def test_sample_has_the_law_of_the_transition(name, ts):
    """Mean and second moments at the end, over 4000 keys; the noise of the symmetric part of the drift must fail."""
    process, n = PROCESSES[name], 4000
    keys = jax.random.split(jax.random.key(2), n)
    ends = np.asarray(jax.jit(jax.vmap(lambda key: process.sample(key, ts, X0)[-1]))(keys))
    exact = np.asarray(process.covariance(ts[-1]))
    mean = np.asarray(process.mean(ts[-1], X0))
    assert_within_stderr(ends.mean(0), np.sqrt(np.diag(exact) / n), mean)

    def check(covariance):
        off = ends - mean
        spread = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / n)
        assert_within_stderr(off.T @ off / n, spread, covariance)

    check(exact)
    drift = process.drift
    if name == "general":
        half = transition((drift + drift.T) / 2, process.force, process.diffusion, ts[-1]).covariance
        with pytest.raises(AssertionError):
            check(np.asarray(half))


def test_samples_at_lag_one():
    """E[(x_2 - m_2)(x_1 - m_1)^T] = E(t_2 - t_1) Q(t_1), which marginals cannot see."""
    process, n, ts = PROCESSES["general"], 4000, np.array([0.0, 0.5, 0.8])
    paths = jax.jit(jax.vmap(lambda key: process.sample(key, ts, X0)))(jax.random.split(jax.random.key(3), n))
    first, second = (np.asarray(paths[:, k]) - np.asarray(process.mean(ts[k], X0)) for k in (1, 2))
    Q1, Q2 = (np.asarray(process.covariance(ts[k])) for k in (1, 2))
    exact = np.asarray(process.transition(ts[2] - ts[1]).propagator) @ Q1
    stderr = np.sqrt((np.outer(np.diag(Q2), np.diag(Q1)) + exact**2) / n)
    assert_within_stderr(second.T @ first / n, stderr, exact)
    with pytest.raises(AssertionError):
        assert_within_stderr(second.T @ first / n, stderr, Q1)


def test_special_paths():
    key = jax.random.key(4)
    motion = OrnsteinUhlenbeck(np.zeros((1, 1)), diffusion=[[1.0]])
    path = motion.sample(key, UNEVEN, [0.0])
    exact = np.cumsum(np.sqrt(np.diff(UNEVEN)) * np.asarray(jax.random.normal(key, (5, 1)))[:, 0])
    np.testing.assert_allclose(path[1:, 0], exact, rtol=1e-13, atol=1e-14)
    still = OrnsteinUhlenbeck(SKEW, FORCE, np.zeros((2, 2)))
    np.testing.assert_allclose(still.sample(key, EVEN, X0)[-1], still.mean(EVEN[-1], X0), rtol=1e-13)
    assert PROCESSES["general"].sample(key, [3.0], X0).shape == (1, 2)
    assert float(PROCESSES["general"].log_prob([3.0], X0[None])) == 0


def test_intervals_that_rounding_cannot_tell_apart_are_one():
    assert len(distinct(np.linspace(0, 1000, 10001), 2.0**-52)[0]) == 1
    ts = np.arange(100, dtype=np.float32) * np.float32(0.1)
    assert len(distinct(ts, 2.0**-23)[0]) == 1
    gaps, index = distinct(UNEVEN, 2.0**-52)
    np.testing.assert_allclose(gaps[index], np.diff(UNEVEN), rtol=1e-14)
    assert len(gaps) == 4


@pytest.mark.parametrize("name", PROCESSES)
def test_derivatives_against_differences(name):
    """Central differences of step 1e-5 are right to about 1e-10; the modes are no variables of their own."""
    process, key, h = PROCESSES[name], jax.random.key(5), 1e-5
    xs = process.sample(key, UNEVEN, X0)

    def read(process):
        return process.log_prob(UNEVEN, xs) + jnp.sum(process.sample(key, UNEVEN, X0)[-1])

    slope = jax.jit(jax.grad(read))(process)
    assert slope.modes is None or not slope.modes.rates.any()
    for name, direction in (("drift", NORMAL), ("force", X0), ("diffusion", NORMAL)):

        def at(x, name=name, direction=direction):
            values = {"drift": process.drift, "force": process.force, "diffusion": process.diffusion}
            return float(read(OrnsteinUhlenbeck(**(values | {name: values[name] + x * direction}))))

        difference = (at(h) - at(-h)) / (2 * h)
        np.testing.assert_allclose(np.sum(getattr(slope, name) * direction), difference, rtol=1e-7)


def test_single_precision():
    for process in PROCESSES.values():
        narrow = OrnsteinUhlenbeck(*(jnp.asarray(x, jnp.float32) for x in process._coefficients()))
        ts = EVEN.astype(np.float32)
        path = narrow.sample(jax.random.key(6), ts, X0)
        found = narrow.log_prob(ts, path)
        assert path.dtype == found.dtype == jnp.float32
        # Whitening magnifies the rounding of states of size 4 by the inverse of the least standard deviation, about 3.
        np.testing.assert_allclose(found, process.log_prob(EVEN, np.asarray(path, float)), atol=2.0**-23 * 4 * 3 * 20)


BAD = {
    "drift must be a square": lambda: OrnsteinUhlenbeck(np.ones((2, 3))),
    "drift is complex": lambda: OrnsteinUhlenbeck(1j * np.eye(2)),
    "drift has entries that are not finite": lambda: OrnsteinUhlenbeck([[np.nan]]),
    "force must have shape": lambda: OrnsteinUhlenbeck(np.eye(2), np.ones(3)),
    "diffusion is not symmetric": lambda: OrnsteinUhlenbeck(np.eye(2), diffusion=SKEW),
    "smallest eigenvalue is -1": lambda: OrnsteinUhlenbeck(np.eye(2), diffusion=np.array([[1.0, 2.0], [2.0, 1.0]])),
    "t must be finite and not negative": lambda: PROCESSES["general"].transition(-1.0),
    "t must be a single time": lambda: PROCESSES["general"].transition(EVEN),
    "burn_in must be finite": lambda: PROCESSES["general"].average(-1.0, 1.0),
    "samples must be at least 1": lambda: PROCESSES["general"].average(1.0, 1.0, samples=0),
    "x0 must be real": lambda: PROCESSES["general"].sample(jax.random.key(0), EVEN, np.ones(3)),
    "strictly increasing; sort": lambda: PROCESSES["general"].sample(jax.random.key(0), EVEN[::-1], X0),
    "merge repeated": lambda: PROCESSES["general"].sample(jax.random.key(0), [0.0, 1.0, 1.0], X0),
    "ts must be a vector": lambda: PROCESSES["general"].log_prob(1.0, X0),
    "xs must have shape": lambda: PROCESSES["general"].log_prob(EVEN, X0[None]),
    "rank 1 in 2": lambda: OrnsteinUhlenbeck(np.eye(2), diffusion=np.diag([1.0, 0.0])).log_prob(EVEN[:2], np.eye(2)),
    "rank 1": lambda: OrnsteinUhlenbeck(SKEW, diffusion=np.diag([1.0, 0.0])).log_prob(EVEN[:2], np.eye(2)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_a_step_back_under_jit_is_not_a_number():
    bad = jax.jit(lambda ts: PROCESSES["general"].sample(jax.random.key(0), ts, X0))(jnp.array([0.0, 1.0, 0.5]))
    assert np.isnan(bad[-1]).all()
