"""Bridges and smoothers against brute-force conditioning of the joint law of all times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermolinalg.process import OrnsteinUhlenbeck
from thermolinalg.testing import assert_within_stderr
from thermolinalg.transition import Gaussian

SEEN, ASKED = np.array([0.4, 1.0, 2.5]), np.array([0.7, 0.0, 3.0, 1.0, 0.7])
VALUES = np.random.default_rng(0).standard_normal((3, 3))
NON_NORMAL = np.array([[1.0, 5.0, 0.0], [0.0, 2.0, 1.0], [-0.5, 0.0, 1.5]])
NOISE = np.array([[0.3, 0.1], [0.1, 0.2]])
UNDERDAMPED = OrnsteinUhlenbeck([[0.0, -1.0], [2.0, 0.5]], [0.0, 1.0], np.diag([0.0, 1.0]))
POINT = np.array([1.0, -1.0])

CASES = {
    "non-normal, exact, stationary": (OrnsteinUhlenbeck(NON_NORMAL, np.ones(3)), None, None),
    "non-normal, noisy, stationary": (OrnsteinUhlenbeck(NON_NORMAL, np.ones(3)), 0.3, None),
    "underdamped, exact, point": (UNDERDAMPED, None, POINT),
    "underdamped, noisy, Gaussian": (UNDERDAMPED, NOISE, Gaussian(jnp.asarray(POINT), jnp.asarray(NOISE))),
    "unstable, noisy, point": (OrnsteinUhlenbeck([[-0.3, 1.0], [0.0, 0.5]]), 0.1, POINT),
}


def joint(process, start, times):
    """Mean and covariance of the states at all times, stacked."""
    means, blocks = [], [[None] * len(times) for _ in times]
    for i, s in enumerate(times):
        step = process.transition(s)
        means.append(step.propagator @ start.mean + step.shift)
        here = step.propagator @ start.covariance @ step.propagator.T + step.covariance
        for j, t in enumerate(times):
            if t >= s:
                blocks[j][i] = process.transition(t - s).propagator @ here
                blocks[i][j] = blocks[j][i].T
    return np.concatenate(means), np.block(blocks)


def brute(process, noise, start):
    """Mean and covariance of the states asked for, given those seen, by one large Gaussian."""
    d, n = process.dim, len(SEEN) * process.dim
    if start is None:
        start = process.stationary()
    elif not isinstance(start, Gaussian):
        start = Gaussian(jnp.asarray(start), jnp.zeros((d, d)))
    mean, C = joint(process, start, [*SEEN, *ASKED])
    error = np.zeros((d, d)) if noise is None else noise * (np.eye(d) if np.ndim(noise) == 0 else 1)
    gain = np.linalg.solve(C[:n, :n] + np.kron(np.eye(len(SEEN)), error), C[:n, n:]).T
    return mean[n:] + gain @ (VALUES[:, :d].ravel() - mean[:n]), C[n:, n:] - gain @ C[:n, n:]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    process, noise, start = CASES[request.param]
    exact = brute(process, noise, start)
    return process.condition(SEEN, VALUES[:, : process.dim], noise, start), exact


def test_marginals(case):
    """Brute force loses about the condition of the joint covariance, some 1e4, of the 16 digits."""
    given, (mean, covariance) = case
    d = given.values.shape[1]
    np.testing.assert_allclose(given.mean(ASKED).ravel(), mean, rtol=0, atol=1e-11 * np.abs(mean).max())
    found = given.covariance(ASKED)
    for k in range(len(ASKED)):
        block = covariance[k * d : (k + 1) * d, k * d : (k + 1) * d]
        np.testing.assert_allclose(found[k], block, rtol=0, atol=1e-11 * np.abs(covariance).max())
    assert np.linalg.eigvalsh(found).min() > -1e-14 * np.abs(found).max()


def test_draws_are_joint(case):
    """Second moments between all the times asked for, over 4000 keys; marginals drawn one by one must fail."""
    given, (mean, covariance) = case
    n = 4000
    draws = jax.jit(jax.vmap(lambda key: given.sample(key, ASKED)))(jax.random.split(jax.random.key(0), n))
    off = np.asarray(draws).reshape(n, -1) - mean
    variances = np.maximum(np.diag(covariance), 0)
    # What is seen exactly keeps the rounding of brute force, for which the law allows nothing.
    stderr = np.sqrt((np.outer(variances, variances) + covariance**2) / n) + 1e-10

    assert_within_stderr(off.T @ off / n, stderr, covariance)
    d = given.values.shape[1]
    alone = covariance * np.kron(np.eye(len(ASKED)), np.ones((d, d)))
    with pytest.raises(AssertionError):
        assert_within_stderr(off.T @ off / n, stderr, alone)


def test_brownian_bridge():
    motion = OrnsteinUhlenbeck(np.zeros((1, 1)), diffusion=[[2.0]])
    bridge, ts = motion.condition([2.0], [[3.0]], start=[1.0]), np.linspace(0.0, 2.0, 9)
    np.testing.assert_allclose(bridge.mean(ts)[:, 0], 1 + ts, rtol=1e-14)
    np.testing.assert_allclose(bridge.covariance(ts)[:, 0, 0], 2 * ts * (2 - ts) / 2, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(bridge.sample(jax.random.key(0), ts)[jnp.array([0, -1]), 0], [1.0, 3.0])


def test_derivative_against_a_difference():
    def read(x):
        process = OrnsteinUhlenbeck(jnp.asarray(NON_NORMAL) + x * jnp.eye(3), jnp.ones(3))
        given = process.condition(SEEN, VALUES, noise=0.3)
        return jnp.sum(given.mean(ASKED)) + jnp.sum(given.covariance(ASKED))

    h, run = 1e-5, jax.jit(read)
    np.testing.assert_allclose(jax.jit(jax.grad(read))(0.0), (run(h) - run(-h)) / (2 * h), rtol=1e-7)


BAD = {
    "times must be finite": lambda: UNDERDAMPED.condition([1.0, 0.5], VALUES[:2, :2]),
    "times must be a vector": lambda: UNDERDAMPED.condition(1.0, VALUES[0, :2]),
    "values must have shape": lambda: UNDERDAMPED.condition([1.0], VALUES),
    "values has entries": lambda: UNDERDAMPED.condition([1.0], [[np.nan, 0.0]]),
    "noise must be positive definite": lambda: UNDERDAMPED.condition([1.0], [[1.0, 0.0]], noise=0.0),
    "noise must be a variance": lambda: UNDERDAMPED.condition([1.0], [[1.0, 0.0]], noise=np.ones(2)),
    "no stationary law": lambda: OrnsteinUhlenbeck(np.zeros((1, 1))).condition([1.0], [[1.0]]),
    "start must be real": lambda: UNDERDAMPED.condition([1.0], [[1.0, 0.0]], start=[1.0]),
    "ts must be finite": lambda: UNDERDAMPED.condition([1.0], [[1.0, 0.0]]).mean([-1.0]),
    "ts must be a vector": lambda: UNDERDAMPED.condition([1.0], [[1.0, 0.0]]).mean(1.0),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
