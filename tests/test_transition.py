r"""Transitions, stationary laws and time averages of linear processes, against extended precision and SciPy.

The reference is the same integral in 60 digits. Errors are relative to the largest entry. Rounding `A` moves what is
left of its modes by `eps` :math:`\|A\| t`, so that much is unavoidable where slow and fast modes mix. Drifts whose
structure protects them (Jordan blocks, graded triangles) are held to 1e-12 however stiff they are.
"""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from problems import exact_run, system
from scipy.linalg import expm, solve_continuous_lyapunov

from thermolinalg import laws
from thermolinalg.process import OrnsteinUhlenbeck
from thermolinalg.transition import lyapunov, power, propagator, stable, transition

EPS = {np.float64: 2.0**-52, np.float32: 2.0**-23}
RNG = np.random.default_rng(0)
SQUARE = RNG.standard_normal((6, 6))
BASIS = np.linalg.qr(RNG.standard_normal((6, 6)))[0]
STIFF = np.diag(np.geomspace(1, 1e5, 6))

move = jax.jit(transition)
solve = jax.jit(lyapunov)


def reference(drift, diffusion, time):
    """Propagator and covariance in 60 digits, as mpmath matrices."""
    n = len(drift)
    A, D, t = mp.matrix(drift.tolist()), mp.matrix(diffusion.tolist()), mp.mpf(float(time))
    k = max(0, int(mp.ceil(mp.log(mp.mnorm(A, 1) * t * 4 + mp.mpf("1e-30"), 2))))
    h = t / 2**k
    E, P, X = mp.eye(n), mp.eye(n), D * h
    Q = X.copy()
    for j in range(1, 40):
        P = -(A * P) * h / j
        X = -(A * X + X * A.T) * h / (j + 1)
        E, Q = E + P, Q + X
    for _ in range(k):
        Q, E = Q + E * Q * E.T, E * E
    return E, Q


def error(found, exact):
    """Largest error relative to the largest entry, of a matrix against an mpmath one."""
    n = len(found)
    worst = max(abs(mp.mpf(float(found[i, j])) - exact[i, j]) for i in range(n) for j in range(n))
    return float(worst / max(abs(x) for x in exact))


DRIFTS = {
    "random": (SQUARE + 3 * np.eye(6), (1e-3, 1.0, 10.0), 1e-12),
    "unstable": (SQUARE - np.eye(6), (1.0, 5.0), 1e-12),
    "Jordan block": (np.eye(8) + np.eye(8, k=1), (1.0, 30.0), 1e-12),
    "strong Jordan block": (np.eye(8) + 100 * np.eye(8, k=1), (1e-4, 0.1, 1.0, 30.0), 1e-12),
    "diagonal, from 1e-8 to 1e5": (np.diag(np.geomspace(1e-8, 1e5, 6)), (1.0, 1e8), 1e-12),
    "stiff, non-normal 1e5": (STIFF + 1e5 * np.triu(RNG.standard_normal((6, 6)), 1), (1e-5, 1e-2), 1e-12),
    "nilpotent": (np.eye(4, k=1), (1e-3, 1.0, 1e3), 1e-12),
    # From here on what rounding A does is larger: 8 eps |A| t = 2e-12 and 2e-10.
    "slow and fast mixed, t = 1e3": (BASIS @ STIFF @ BASIS.T / 1e5, (1e3,), 2e-12),
    "slow and fast mixed, t = 1e5": (BASIS @ STIFF @ BASIS.T / 1e5, (1e5,), 2e-10),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_transition_in_extended_precision(name):
    drift, times, tolerance = DRIFTS[name]
    n = len(drift)
    noise = np.diag(np.arange(n) + 0.0)  # one direction has none
    with mp.workdps(60):
        for t in times:
            found = move(jnp.asarray(drift), jnp.zeros(n), jnp.asarray(noise), t)
            E, Q = reference(drift, noise, t)
            assert error(found.propagator, E) < tolerance
            assert error(found.covariance, Q) < tolerance
            assert np.array_equal(found.covariance, found.covariance.T)
            spread = np.linalg.eigvalsh(found.covariance)
            assert spread[0] >= -8 * n * EPS[np.float64] * spread[-1]


@pytest.mark.parametrize("name", ["random", "Jordan block", "strong Jordan block"])
def test_transition_in_single_precision(name):
    drift, times, _ = DRIFTS[name]
    n = len(drift)
    with mp.workdps(60):
        for t in times:
            found = move(jnp.asarray(drift, jnp.float32), jnp.zeros(n, jnp.float32), jnp.eye(n, dtype=jnp.float32), t)
            assert found.covariance.dtype == jnp.float32
            E, Q = reference(drift.astype(np.float32), np.eye(n), np.float32(t))
            # Rounding of what decays as exp(-At) grows with the norm of A times t.
            limit = 8 * EPS[np.float32] * (1 + np.linalg.norm(drift, 2) * t)
            assert error(found.propagator, E) < limit
            assert error(found.covariance, Q) < limit


def test_the_symmetric_part_of_the_drift_does_not_do():
    """The mutation: a covariance from the symmetric part alone, right for normal drifts, fails for this one."""
    drift = np.array([[1.0, 5.0], [0.0, 2.0]])
    with mp.workdps(60):
        exact = reference(drift, np.eye(2), 1.0)[1]
    half = move(jnp.asarray((drift + drift.T) / 2), jnp.zeros(2), jnp.eye(2), 1.0).covariance
    assert error(half, exact) > 0.1
    assert error(move(jnp.asarray(drift), jnp.zeros(2), jnp.eye(2), 1.0).covariance, exact) < 1e-14


def test_shift_needs_no_inverse():
    """Against the exponential of the affine system; the drift is singular."""
    drift, force, t = np.diag([0.0, 1.0, 2.0]) + np.eye(3, k=1), np.array([1.0, -2.0, 0.5]), 1.7
    flow = expm(t * np.block([[-drift, force[:, None]], [np.zeros((1, 4))]]))
    found = move(jnp.asarray(drift), jnp.asarray(force), jnp.eye(3), t)
    np.testing.assert_allclose(found.shift, flow[:3, 3], rtol=1e-13)
    np.testing.assert_allclose(found.propagator, flow[:3, :3], rtol=1e-13, atol=1e-14)


def test_closed_forms():
    t = 2.5
    wiener = OrnsteinUhlenbeck([[0.0, -1.0], [0.0, 0.0]], diffusion=np.diag([0.0, 1.0])).covariance(t)
    np.testing.assert_allclose(wiener, [[t**3 / 3, t**2 / 2], [t**2 / 2, t]], rtol=4e-16)
    motion = OrnsteinUhlenbeck(np.zeros((2, 2)), [1.0, 2.0], [[2.0, 1.0], [1.0, 2.0]])
    np.testing.assert_array_equal(motion.covariance(t), t * motion.diffusion)
    np.testing.assert_array_equal(motion.mean(t, [1.0, 1.0]), [1 + t, 1 + 2 * t])
    still = motion.transition(0.0)
    np.testing.assert_array_equal(still.propagator, np.eye(2))
    assert not still.shift.any()
    assert not still.covariance.any()


@pytest.mark.parametrize("name", ["random", "Jordan block", "strong Jordan block", "stiff, non-normal 1e5"])
def test_twins(name):
    """Chapman-Kolmogorov, and dQ/dt = D - A Q - Q A^T = E D E^T."""
    drift, times, _ = DRIFTS[name]
    process = OrnsteinUhlenbeck(drift, np.ones(len(drift)))
    for t in times[:2]:
        both, first, second = (process.transition(x * t) for x in (1.0, 0.3, 0.7))
        joined = first.then(second)
        for found, exact in zip(jax.tree.leaves(joined), jax.tree.leaves(both), strict=True):
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10 * np.abs(exact).max())
        left = 2 * np.eye(len(drift)) - drift @ both.covariance - both.covariance @ drift.T
        right = 2 * both.propagator @ both.propagator.T
        scale = np.abs(drift).max() * np.abs(both.covariance).max() + np.abs(right).max() + 2
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-10 * scale)


# --------------------------------------------------------------------------------------------------------------------
# Stationary law
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "Jordan block", "strong Jordan block", "slow and fast mixed, t = 1e3"])
def test_stationary_covariance_against_scipy(name):
    """Second route: Bartels-Stewart. The residual of ours is held to rounding, whatever the condition."""
    drift = DRIFTS[name][0]
    n = len(drift)
    found = np.asarray(solve(jnp.asarray(drift), jnp.eye(n)))
    residual = drift @ found + found @ drift.T - np.eye(n)
    assert np.abs(residual).max() < 1e-13 * np.abs(drift).max() * np.abs(found).max()
    exact = solve_continuous_lyapunov(drift, np.eye(n))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10 * np.abs(exact).max())
    assert np.linalg.eigvalsh(found)[0] > -1e-14 * np.abs(found).max()


def test_stationary_law():
    A, b, x = system(d=5)
    law = OrnsteinUhlenbeck(A, b).stationary()
    np.testing.assert_allclose(law.mean, x, rtol=1e-12)
    np.testing.assert_allclose(law.covariance, np.linalg.inv(A), rtol=0, atol=1e-12 * 30)
    step = OrnsteinUhlenbeck(A, b).transition(0.7)
    for found, exact in zip(jax.tree.leaves(step.push(law)), jax.tree.leaves(law), strict=True):
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12 * 30)


STABILITY = [
    ([[1.0, 5.0], [0.0, 2.0]], True),
    ([[1e-9, 0.0], [0.0, 1.0]], True),
    ([[0.0, -1.0], [1.0, 0.1]], True),
    ([[0.0, -1.0], [1.0, 0.0]], False),
    ([[0.0, 0.0], [0.0, 0.0]], False),
    ([[1.0, 0.0], [0.0, 0.0]], False),
    ([[1.0, 5.0], [0.0, -1e-3]], False),
]


def test_stable():
    drifts = jnp.array([drift for drift, _ in STABILITY])
    assert jax.jit(jax.vmap(stable))(drifts).tolist() == [answer for _, answer in STABILITY]
    assert bool(OrnsteinUhlenbeck(drifts[0]).stable)


def test_no_stationary_law():
    for drift, named in ((STABILITY[6][0], "-0.001"), (STABILITY[5][0], "0")):
        with pytest.raises(ValueError, match=f"real part {named}"):
            OrnsteinUhlenbeck(drift).stationary()
        law = jax.jit(lambda A: OrnsteinUhlenbeck(A).stationary())(jnp.asarray(drift))
        assert np.isnan(law.mean).all()
        assert np.isnan(law.covariance).all()


# --------------------------------------------------------------------------------------------------------------------
# Time averages
# --------------------------------------------------------------------------------------------------------------------


def test_average_against_a_block_exponential():
    drift, force = np.array([[1.0, 5.0, 0.0], [0.0, 2.0, 1.0], [-1.0, 0.0, 1.5]]), np.array([1.0, 2.0, -1.0])
    noise = np.diag([1.0, 0.5, 0.0])
    law = OrnsteinUhlenbeck(drift, force, noise).average(0.4, 3.0)
    mean, covariance = exact_run(drift, force, noise, 0.4, 3.0)
    np.testing.assert_allclose(law.mean, mean[:3], rtol=1e-12)
    np.testing.assert_allclose(law.covariance, covariance[:3, :3], rtol=0, atol=1e-12 * covariance[:3, :3].max())


def test_average_against_the_identity():
    """x(t) - x0 = b t - A (integral of x) + noise: the covariance from a point, for an unstable drift too."""
    drift, T = np.array([[1.0, 2.0], [0.5, -0.3]]), 2.0
    process = OrnsteinUhlenbeck(drift, diffusion=np.diag([1.0, 2.0]))
    step, D = process.transition(T), process.diffusion
    inverse = np.linalg.inv(drift)
    P = inverse @ (np.eye(2) - step.propagator) @ D
    exact = inverse @ (D * T + step.covariance - P - P.T) @ inverse.T / T**2
    np.testing.assert_allclose(process.average(0.0, T).covariance, exact, rtol=1e-12)


@pytest.mark.parametrize("samples", [None, 7, 1000])
def test_average_of_a_symmetric_drift_is_that_of_its_modes(samples):
    rates, x0 = jnp.array([1e-3, 0.3, 1.0, 20.0]), jnp.array([1.0, -2.0, 0.5, 3.0])
    law = OrnsteinUhlenbeck(jnp.diag(rates), jnp.ones(4)).average(0.5, 4.0, x0, samples)
    modes = laws.overdamped(rates, 1.0, 0.5, 4.0, samples)
    np.testing.assert_allclose(law.mean, modes.force[0] + modes.start[0, 0] * x0, rtol=1e-12)
    np.testing.assert_allclose(law.covariance, np.diag(modes.covariance[0, 0]), rtol=1e-12, atol=1e-18)


def test_average_over_samples_is_a_sum_over_the_path():
    """Brute force from the covariance of all samples; one sample more is the mutation."""
    process = OrnsteinUhlenbeck([[1.0, 3.0], [0.0, 0.5]], [1.0, 0.0])
    x0, n, h = jnp.array([1.0, 1.0]), 5, 0.4
    steps = [process.transition(0.3 + k * h) for k in range(n + 1)]

    def brute(n):
        means = [s.propagator @ x0 + s.shift for s in steps[:n]]
        total = sum(s.covariance for s in steps[:n])
        for k in range(n):
            for j in range(k + 1, n):
                cross = process.transition((j - k) * h).propagator @ steps[k].covariance
                total = total + cross + cross.T
        return sum(means) / n, total / n**2

    law = process.average(0.3, n * h, x0, samples=n)
    np.testing.assert_allclose(law.mean, brute(n)[0], rtol=1e-13)
    np.testing.assert_allclose(law.covariance, brute(n)[1], rtol=1e-13)
    assert np.abs(law.covariance / brute(n + 1)[1] - 1).max() > 1e-2


def test_average_over_no_time_is_the_state():
    process = OrnsteinUhlenbeck([[1.0, 3.0], [0.0, 0.5]], [1.0, 0.0])
    law = process.average(0.3, 0.0, [1.0, 2.0])
    np.testing.assert_allclose(law.mean, process.mean(0.3, [1.0, 2.0]), rtol=1e-15)
    np.testing.assert_allclose(law.covariance, process.covariance(0.3), rtol=1e-15)


def test_power():
    step = OrnsteinUhlenbeck([[1.0, 3.0], [0.0, 0.5]], [1.0, 0.0]).transition(0.1)
    many = step
    for _ in range(12):
        many = many.then(step)
    for found, exact in zip(jax.tree.leaves(power(step, jnp.array(13))), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-14, atol=1e-15)


# --------------------------------------------------------------------------------------------------------------------
# Derivatives
# --------------------------------------------------------------------------------------------------------------------

READINGS = {
    "transition": lambda p, t: p.transition(t).covariance[0, 1] + p.transition(t).propagator[0, 1],
    "stationary": lambda p, t: p.stationary().covariance[0, 1] * t + p.stationary().mean[0],
    "average": lambda p, t: p.average(0.1, t, jnp.ones(2)).covariance[0, 0],
    "samples": lambda p, t: p.average(0.1, t, jnp.ones(2), samples=6).mean[0],
}


def test_derivatives_against_differences():
    """Central differences of step h = 1e-5 are right to h^2 and eps / h: about 1e-10."""
    drift, direction = jnp.array([[1.0, 3.0], [0.2, 1.5]]), jnp.array([[0.3, -0.2], [1.0, 0.5]])

    def read(x):
        process = OrnsteinUhlenbeck(drift + x * direction, jnp.array([1.0, x]), (1 + x) * jnp.eye(2))
        return jnp.stack([reading(process, 0.8 + x) for reading in READINGS.values()])

    h = 1e-5
    low, high = jax.jit(jax.vmap(read))(jnp.array([-h, h]))
    difference = (high - low) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.jacrev(read))(0.0), difference, rtol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(read))(0.0), difference, rtol=1e-7)


@pytest.mark.parametrize("name", ["random", "Jordan block", "unstable"])
def test_the_propagator_alone_is_that_of_the_map(name):
    drift, times, _ = DRIFTS[name]
    for time in times:
        alone = np.asarray(propagator(jnp.asarray(drift), time))
        whole = np.asarray(move(jnp.asarray(drift), jnp.zeros(len(drift)), jnp.eye(len(drift)), time).propagator)
        # Squaring doubles the relative error in each of log2(4 norm t) steps.
        slack = 100 * EPS[np.float64] * (1 + np.linalg.norm(drift) * time)
        np.testing.assert_allclose(alone, whole, atol=slack * np.abs(whole).max())
    assert np.all(np.isnan(propagator(jnp.asarray(drift), -1.0)))
