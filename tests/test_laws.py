r"""The laws of a run against arithmetic with up to 200 digits, their composition, and integrated stochastic equations.

Relative errors are counted in rounding errors of the dtype, ``eps``. The continuous overdamped law adds terms of one
sign, each with up to 12 ``eps`` from the functions of :mod:`thermolinalg.relaxation` and the products around them. The
sampled one subtracts 1 from 1.5 for two samples, and less for more, which makes 45 ``eps`` = 1e-14 at most. What decays
as :math:`e^{-x}` has the relative error x ``eps`` from the rounding of x itself, a product and a sum.
"""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thermolinalg import laws
from thermolinalg.laws import RunLaw
from thermolinalg.testing import assert_unit_variance, assert_within_stderr

EPS = {np.dtype(np.float32): 2.0**-23, np.dtype(np.float64): 2.0**-52}
EPS64 = 2.0**-52
RATES = np.concatenate([[0.3, 1.0, 2.0], np.geomspace(1e-14, 1e5, 39)])
MODES = np.array([0.2, 0.7, 1.0, 2.5])

overdamped = jax.jit(laws.overdamped)
underdamped = jax.jit(laws.underdamped)
scale = jax.jit(RunLaw.scale)
from_random_start = jax.jit(RunLaw.from_random_start)


def roundings(found, exact, dtype=np.float64):
    """Error of one number in units of eps of the exact value, or of what underflows."""
    smallest = float(np.finfo(dtype).tiny) / EPS[np.dtype(dtype)]
    return float(abs(mp.mpf(float(found)) - exact) / max(abs(exact), smallest)) / EPS[np.dtype(dtype)]


# --------------------------------------------------------------------------------------------------------------------
# Overdamped
# --------------------------------------------------------------------------------------------------------------------


def reference_overdamped(rate, beta, burn_in, duration, samples):
    """Textbook form of the law at 160 digits: force, start and covariance as nested lists."""
    rate, beta, t0, tau = (mp.mpf(float(x)) for x in (rate, beta, burn_in, duration))
    s, z = 1 / (beta * rate), rate * tau
    e0, left = mp.exp(-rate * t0), mp.exp(-rate * (t0 + tau))
    if samples is None:
        g, f = (1 - mp.exp(-z)) / z, 2 * (z - 1 + mp.exp(-z)) / z**2
        rising = (mp.exp(z) - 1) / z
    else:
        n, a = mp.mpf(samples), z / samples
        q, q_n = mp.exp(-a), mp.exp(-z)
        g = (1 - q_n) / (n * (1 - q))
        f = (n * (1 + q) / (1 - q) - 2 * q * (1 - q_n) / (1 - q) ** 2) / n**2
        rising = (mp.exp(z) - 1) / (n * (mp.exp(a) - 1))
    cross = s * left * (rising / e0 - e0 * g)
    return {
        "force": [(1 - e0 * g) / rate, (1 - left) / rate],
        "start": [e0 * g, left],
        "covariance": [[s * (f - (e0 * g) ** 2), cross], [cross, s * (1 - left**2)]],
    }


def errors_overdamped(law, rates, beta, burn_in, duration, samples):
    """Errors in units of eps, per mode: force (2), start (2), covariance (average, cross, end)."""
    dtype = law.force.dtype
    rows = []
    with mp.workdps(160):
        for i, rate in enumerate(rates):
            exact = reference_overdamped(rate, beta, burn_in, duration, samples)
            pairs = [(law.force[j, i], exact["force"][j]) for j in (0, 1)]
            pairs += [(law.start[j, 0, i], exact["start"][j]) for j in (0, 1)]
            pairs += [(law.covariance[j, k, i], exact["covariance"][j][k]) for j, k in ((0, 0), (0, 1), (1, 1))]
            rows.append([roundings(found, truth, dtype) for found, truth in pairs])
    return np.array(rows).T


RUNS = [
    (2.0, 1.5 / 1.3, 8 / 1.3, None),
    (1.0, 0.0, 3.7, None),
    (1e4, 20.0, 0.01, None),
    (0.3, 1e-6, 1e3, None),
    (2.0, 1.1, 6.1, 2),
    (2.0, 0.0, 6.1, 2),
    (1.0, 0.7, 300.0, 1000),
    (1.0, 0.3, 1e6, 7),
    (1.0, 0.0, 300.0, 10**6),
    (0.1, 1e-9, 1e-3, 10**6),
]


def check_overdamped(law, rates, beta, burn_in, duration, samples):
    force0, force1, start0, start1, average, cross, end = errors_overdamped(
        law, rates, beta, burn_in, duration, samples
    )
    limit = 12 if samples is None else 45
    assert max(force0.max(), force1.max(), average.max(), end.max()) < limit
    rates = rates.astype(np.float64)
    assert np.all(start0 < 8 + rates * burn_in)
    assert np.all(start1 < 8 + rates * (burn_in + duration))
    # The last sample lies one spacing before the end: the covariance with the end decays as exp(-rate * spacing).
    assert np.all(cross < limit + (0.0 if samples is None else rates * duration / samples))


@pytest.mark.parametrize("run", RUNS)
def test_overdamped_law(run):
    check_overdamped(overdamped(jnp.asarray(RATES), *run), RATES, *run)


@pytest.mark.parametrize("run", RUNS)
def test_overdamped_law_in_float32(run):
    """Single precision loses no digits either: same number of roundings, of the inputs as rounded to float32."""
    rates = RATES.astype(np.float32)
    beta, burn_in, duration = (float(np.float32(x)) for x in run[:3])
    law = overdamped(jnp.asarray(rates), beta, burn_in, duration, run[3])
    assert law.covariance.dtype == jnp.float32
    check_overdamped(law, rates, beta, burn_in, duration, run[3])


@pytest.mark.parametrize("burn_in", [0.0, 1e-6, 1.1])
def test_one_sample_reads_the_state_after_the_burn_in(burn_in):
    beta, duration = 2.0, 6.1
    law = overdamped(jnp.asarray(RATES), beta, burn_in, duration, 1)
    read = overdamped(jnp.asarray(RATES), beta, burn_in, 0.0)
    for found, exact in ((law.force[0], read.force[1]), (law.start[0], read.start[1])):
        np.testing.assert_allclose(found, exact, rtol=45 * EPS64, atol=1e-292)
    # The sum over pairs minus what the start leaves cancels for a single sample: a few roundings of one spacing remain.
    floor = 16 * EPS64 * duration / beta
    exact = np.asarray(read.covariance[1, 1])
    assert np.all(np.abs(law.covariance[0, 0] - exact) <= 45 * EPS64 * exact + floor)


def test_reference_values():
    law = overdamped(jnp.asarray(MODES), 2.0, 1.5 / 1.3, 8 / 1.3)
    printed = np.array([1.20443, 0.248235, 0.134842, 0.0243074])
    last_digit = np.array([1e-5, 1e-6, 1e-6, 1e-7])
    assert np.all(np.abs(law.covariance[0, 0] - printed) <= last_digit)


def test_free_mode_spreads_like_a_random_walk():
    """At rate zero the law is that of Brownian motion with drift."""
    beta, t0, tau, n = 2.0, 1.1, 6.0, 5
    continuous = overdamped(jnp.zeros(1), beta, t0, tau)
    np.testing.assert_allclose(continuous.force[:, 0], [t0 + tau / 2, t0 + tau], rtol=4 * EPS64)
    expected = 2 / beta * np.array([[t0 + tau / 3, t0 + tau / 2], [t0 + tau / 2, t0 + tau]])
    np.testing.assert_allclose(continuous.covariance[..., 0], expected, rtol=8 * EPS64)
    sampled = overdamped(jnp.zeros(1), beta, t0, tau, n)
    times = t0 + tau / n * np.arange(n)
    np.testing.assert_allclose(sampled.force[:, 0], [times.mean(), t0 + tau], rtol=8 * EPS64)
    variance = 2 / beta * np.minimum(times[:, None], times).mean()
    expected = np.array([[variance, 2 / beta * times.mean()], [2 / beta * times.mean(), 2 / beta * (t0 + tau)]])
    np.testing.assert_allclose(sampled.covariance[..., 0], expected, rtol=45 * EPS64)


@pytest.mark.parametrize("samples", [None, 5])
def test_derivatives_at_rate_zero(samples):
    r"""The first order in the rate: :math:`-E t^2/2` for the mean and :math:`-2(E t)^2/\beta` for the variance."""
    beta, t0, tau = 2.0, 1.1, 6.0
    slope = jax.jacfwd(lambda rate: overdamped(rate[None], beta, t0, tau, samples))(jnp.zeros(()))
    end = t0 + tau
    if samples is None:
        first, second = t0 + tau / 2, (end**3 - t0**3) / (3 * tau)
    else:
        times = t0 + tau / samples * np.arange(samples)
        first, second = times.mean(), (times**2).mean()
    np.testing.assert_allclose(slope.force[:, 0], [-second / 2, -(end**2) / 2], rtol=45 * EPS64)
    np.testing.assert_allclose(slope.start[:, 0, 0], [-first, -end], rtol=45 * EPS64)
    expected = -2 / beta * np.array([[first**2, first * end], [first * end, end**2]])
    np.testing.assert_allclose(slope.covariance[..., 0], expected, rtol=45 * EPS64)


def test_derivatives_at_rate_zero_are_finite_for_underdamped_modes():
    run = {"beta": 2.0, "burn_in": 1.1, "duration": 6.0, "mass": 1.0, "friction": 0.7}
    slope = jax.jacfwd(lambda rate: underdamped(rate[None], **run))(jnp.zeros(()))
    step = 1e-5
    ahead, here = (underdamped(jnp.array([rate]), **run) for rate in (step, 0.0))
    for s, a, h in zip(*(jax.tree.leaves(x) for x in (slope, ahead, here)), strict=True):
        # The difference quotient is off by step/2 times the second derivative, of the order of the fourth power of 7.1.
        assert np.all(np.isfinite(s))
        np.testing.assert_allclose(s, (a - h) / step, atol=step * 7.1**4)


# --------------------------------------------------------------------------------------------------------------------
# Underdamped
# --------------------------------------------------------------------------------------------------------------------


def reference_underdamped(rate, beta, burn_in, duration, samples, mass, friction):
    """Closed form in the two complex rates of a mode at 200 digits; 1e-60 off when they coincide."""
    lam, beta, t0, tau, m, gamma = (mp.mpf(float(x)) for x in (rate, beta, burn_in, duration, mass, friction))
    lam = lam or mp.mpf(10) ** -60
    s, alpha = 1 / (beta * lam), gamma / (2 * m)
    omega = mp.sqrt(mp.mpc(lam / m - alpha**2))
    if abs(omega) < mp.mpf(10) ** -60 * alpha:
        omega = mp.mpf(10) ** -60 * alpha
    mu1, mu2 = alpha - 1j * omega, alpha + 1j * omega

    def stationary(mu):
        z = mu * tau
        if samples is None:
            return 2 * (z - 1 + mp.exp(-z)) / z**2
        q = mp.exp(-z / samples)
        return (samples * (1 + q) / (1 - q) - 2 * q * (1 - mp.exp(-z)) / (1 - q) ** 2) / mp.mpf(samples) ** 2

    def remaining(mu):
        z = mu * tau
        mean = (1 - mp.exp(-z)) / (z if samples is None else samples * (1 - mp.exp(-z / samples)))
        return mp.exp(-mu * t0) * mean

    def of_start(f1, f2):
        """Response to the position and to the momentum at the start."""
        return (mu2 * f1 - mu1 * f2) / (mu2 - mu1), (f1 - f2) / (mu2 - mu1) / m

    g1, g2 = of_start(remaining(mu1), remaining(mu2))
    e1, e2 = mp.exp(-mu1 * (t0 + tau)), mp.exp(-mu2 * (t0 + tau))
    h1, h2 = of_start(e1, e2)
    k1, k2 = -lam * (e1 - e2) / (mu2 - mu1), (mu2 * e2 - mu1 * e1) / (mu2 - mu1)
    v = s * (mu2 * stationary(mu1) - mu1 * stationary(mu2)) / (mu2 - mu1)
    return {
        "force": [mp.re((1 - g1) / lam), mp.re((1 - h1) / lam)],
        "start": [[mp.re(g1), mp.re(g2)], [mp.re(h1), mp.re(h2)], [mp.re(k1), mp.re(k2)]],
        "variance": [
            mp.re(v - s * g1**2 - m / beta * g2**2),
            mp.re(s - s * h1**2 - m / beta * h2**2),
            mp.re(m / beta - s * k1**2 - m / beta * k2**2),
        ],
    }


def errors_underdamped(law, rates, **run):
    """Errors in units of eps, per mode: force (2), variances (3), and the largest of what is left of the start."""
    time, mass, friction = run["burn_in"] + run["duration"], run["mass"], run["friction"]
    rows = []
    with mp.workdps(200):
        for i, rate in enumerate(rates):
            exact = reference_underdamped(rate, **run)
            row = [roundings(law.force[j, i], exact["force"][j]) for j in (0, 1)]
            row += [roundings(law.covariance[j, j, i], exact["variance"][j]) for j in (0, 1, 2)]
            # What oscillates passes through zero, so it is compared in its natural size: how far unit momentum gets.
            reach = min(time / mass, 2 / friction, 1 / np.sqrt(rate * mass) if rate else np.inf)
            size = [[1, reach], [1, reach], [rate * mass * reach or 1, 1]]
            left = [
                abs(float(law.start[j, k, i]) - exact["start"][j][k]) / size[j][k] for j in range(3) for k in (0, 1)
            ]
            rows.append([*row, float(max(left)) / EPS64])
    return np.array(rows).T


def phases(rates, *, burn_in, duration, mass, **_):
    return np.sqrt(rates / mass) * (burn_in + duration)


def doublings(rates, *, burn_in, duration, mass, friction, **_):
    return np.log2(8 * (np.sqrt(rates.max() / mass) + friction / mass) * (burn_in + duration))


RATES_U = np.concatenate([[0.0, 0.3, 1.0], np.geomspace(1e-14, 1e5, 17)])
NEAR_CRITICAL = 1 + np.array([0.0, 1e-15, -1e-15, 1e-10, -1e-10, 1e-6, -1e-6, 1e-3, -1e-3, 0.2, -0.2])
RUNS_U = [
    (RATES_U, {"beta": 2.0, "burn_in": 1.1, "duration": 6.1, "samples": None, "mass": 1.0, "friction": 1.0}),
    (RATES_U, {"beta": 1.0, "burn_in": 0.0, "duration": 6.1, "samples": None, "mass": 2.0, "friction": 0.1}),
    (RATES_U, {"beta": 1.0, "burn_in": 0.3, "duration": 4.0, "samples": None, "mass": 0.01, "friction": 3.0}),
    (NEAR_CRITICAL, {"beta": 1.0, "burn_in": 0.5, "duration": 3.0, "samples": None, "mass": 1.0, "friction": 2.0}),
    (RATES_U, {"beta": 2.0, "burn_in": 1.1, "duration": 6.1, "samples": 9, "mass": 1.0, "friction": 1.0}),
    (RATES_U, {"beta": 1.0, "burn_in": 0.3, "duration": 4.0, "samples": 1, "mass": 1.0, "friction": 0.02}),
    (RATES_U, {"beta": 1.0, "burn_in": 0.0, "duration": 4.0, "samples": 10**6, "mass": 1.0, "friction": 0.2}),
    (NEAR_CRITICAL, {"beta": 1.0, "burn_in": 0.5, "duration": 3.0, "samples": 9, "mass": 1.0, "friction": 2.0}),
]


@pytest.mark.parametrize(("rates", "run"), RUNS_U)
def test_underdamped_law(rates, run):
    """Below 1e-14 at moderate phase; beyond, rounding grows with the phase.

    A doubling adds three roundings to a law, and doubles the error of what oscillates. With k doublings to the fastest
    mode and a first step of at least an eighth of a time constant that makes 3 k + 24 phase roundings.
    """
    errors = errors_underdamped(underdamped(jnp.asarray(rates), **run), rates, **run)
    phase = phases(rates, **run)
    assert errors[:5, phase < 5].max() < 45
    assert np.all(errors < 3 * doublings(rates, **run) + 24 * phase)


@pytest.mark.parametrize("samples", [None, 9])
def test_underdamped_law_in_float32(samples):
    """The same number of roundings in single precision, of the inputs as rounded to float32."""
    rates = RATES_U.astype(np.float32)
    run = {"beta": 2.0, "burn_in": 1.125, "duration": 6.25, "samples": samples, "mass": 1.5, "friction": 0.75}
    law, exact = underdamped(jnp.asarray(rates), **run), underdamped(jnp.asarray(rates, np.float64), **run)
    assert law.covariance.dtype == jnp.float32
    limit = EPS[law.force.dtype] * (3 * doublings(rates, **run) + 24 * phases(rates, **run)).astype(np.float64)
    law, exact = jax.tree.map(np.asarray, (law, exact))
    assert np.all(np.abs(law.force[:2] - exact.force[:2]) <= limit * exact.force[:2])
    for j in range(3):
        assert np.all(np.abs(law.covariance[j, j] - exact.covariance[j, j]) <= limit * exact.covariance[j, j])


def test_closed_form_would_fail_at_critical_damping():
    """Why the law is not computed in closed form: in float64 that breaks down where the friction is chosen best."""
    rates, run = NEAR_CRITICAL, RUNS_U[3][1]
    closed = []
    for rate in rates:
        with mp.workprec(53):
            closed.append(float(reference_underdamped(rate, **run)["variance"][0]))
    exact = np.asarray(underdamped(jnp.asarray(rates), **run).covariance[0, 0])
    assert np.abs(np.array(closed) / exact - 1).max() > 1e4 * 45 * EPS64


def test_underdamped_law_with_all_correlations():
    """All entries of the joint law against the exponential of the augmented generator (Van Loan) at 80 digits."""
    beta, t0, tau, m, gamma = 2.0, 1.1, 6.1, 1.3, 0.7
    rates = np.array([1e-8, 0.1, gamma**2 / (4 * m), 1.0, 9.0])
    law = underdamped(jnp.asarray(rates), beta, t0, tau, mass=m, friction=gamma)
    phase = np.sqrt(rates / m) * (t0 + tau)
    for i, rate in enumerate(rates):
        with mp.workdps(80):
            settle, settled = augmented(rate, beta, t0, 0.0, m, gamma)
            window, noise = augmented(rate, beta, tau, 1.0, m, gamma)
            change = window * settle
            start = change[:3, 1:3]
            covariance = window[:3, :3] * settled * window[:3, :3].T + noise
            exact = RunLaw(*(np.array(x.tolist(), float) for x in (change[:3, 3], start, covariance)))
        limit = EPS64 * (45 + 24 * phase[i])
        size = np.sqrt(np.diag(exact.covariance))
        assert np.all(np.abs(law.covariance[..., i] - exact.covariance) <= limit * np.outer(size, size))
        np.testing.assert_allclose(law.force[:, i], exact.force[:, 0], rtol=limit, atol=limit)
        np.testing.assert_allclose(law.start[..., i], exact.start, rtol=limit, atol=limit)


def augmented(rate, beta, time, weight, mass, friction):
    """Propagator of (average, position, momentum, force) and covariance of the first three over a time."""
    rate, beta, time, mass, friction = (mp.mpf(float(x)) for x in (rate, beta, time, mass, friction))
    generator = mp.zeros(4)
    generator[0, 1], generator[1, 2] = weight / time, 1 / mass
    generator[2, 1], generator[2, 2], generator[2, 3] = -rate, -friction / mass, 1
    blocks = mp.zeros(8)
    blocks[:4, :4], blocks[4:, 4:] = -generator * time, generator.T * time
    blocks[2, 6] = 2 * friction / beta * time
    exponential = mp.expm(blocks)
    propagator = exponential[4:, 4:].T
    return propagator, (propagator * exponential[:4, 4:])[:3, :3]


# --------------------------------------------------------------------------------------------------------------------
# What both have in common
# --------------------------------------------------------------------------------------------------------------------

INERTIA = {"mass": 1.3, "friction": 0.7}
KINDS = {"overdamped": overdamped, "underdamped": partial(underdamped, **INERTIA)}


def product(a, b):
    return np.einsum("ik...,kj...->ij...", a, b)


def assert_same_law(found, expected, limit):
    """Compare two laws in natural units: spread for covariances, one for what is left of the start."""
    size = np.sqrt(np.einsum("ii...->i...", np.asarray(expected.covariance)))
    difference = np.abs(np.asarray(found.covariance) - np.asarray(expected.covariance))
    assert np.all(difference <= limit * size[:, None] * size[None])
    np.testing.assert_allclose(found.force, expected.force, rtol=limit, atol=limit)
    np.testing.assert_allclose(found.start, expected.start, rtol=limit, atol=limit)


def joined(first, second, weight):
    """Law of one run followed by another, whose average counts with `weight` in that of both."""
    s = first.start.shape[1]
    carry = np.zeros_like(first.covariance)
    carry[0, 0] = 1 - weight
    carry[:, 1:] += second.start
    carry[0, 1:] *= weight
    counts = np.append(weight, np.ones(s))[:, None]
    noise = second.covariance * (counts[:, None] * counts[None])
    return RunLaw(
        product(carry, first.force[:, None])[:, 0] + counts * second.force,
        product(carry, first.start),
        product(product(carry, first.covariance), np.swapaxes(carry, 0, 1)) + noise,
    )


times = st.floats(0.01, 5.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampled", [False, True])
def test_a_run_continues_from_where_it_ended(kind, sampled):
    """[t0, t1] and then [0, t2] from the end state is [t0, t1 + t2], average and end state together."""

    @given(st.floats(0.0, 3.0), times, times, st.integers(1, 40), st.integers(1, 40))
    def check(burn_in, duration, more, n, more_n):
        law = partial(KINDS[kind], jnp.asarray(MODES), 2.0)
        if sampled:
            more = duration * more_n / n
            counts, weight = (n, more_n, n + more_n), more_n / (n + more_n)
        else:
            counts, weight = (None, None, None), more / (duration + more)
        first, second = law(burn_in, duration, counts[0]), law(0.0, more, counts[1])
        first, second = jax.tree.map(np.asarray, (first, second))
        whole = law(burn_in, duration + more, counts[2])
        # Modes of at most 2.5 for as long as 8 + 5 * 40 units of time.
        phase = np.sqrt(MODES.max() / INERTIA["mass"]) * (burn_in + duration + more)
        assert_same_law(whole, joined(first, second, weight), EPS64 * (3 * 45 + 3 * 24 * phase))

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_modes_of_any_shape(kind):
    flat, square = (KINDS[kind](jnp.asarray(MODES).reshape(shape), 2.0, 1.1, 6.1) for shape in (4, (2, 2)))
    for a, b in zip(jax.tree.leaves(flat), jax.tree.leaves(square), strict=True):
        np.testing.assert_array_equal(a.reshape(b.shape), b)


@pytest.mark.parametrize("kind", KINDS)
def test_random_start_is_a_longer_burn_in(kind):
    law = partial(KINDS[kind], jnp.asarray(MODES), 2.0)
    earlier = law(0.8, 0.0)
    later = from_random_start(law(0.4, 6.0), earlier.covariance[1:, 1:])
    whole = law(1.2, 6.0)
    size = np.sqrt(np.einsum("ii...->i...", np.asarray(whole.covariance)))
    limit = EPS64 * (45 + 24 * np.sqrt(MODES.max()) * 7.2)
    assert np.all(np.abs(later.covariance - whole.covariance) <= limit * size[:, None] * size[None])


def test_stationary_start():
    """From the stationary law the end state keeps it, and the average has the variance s psi(z) of theory."""
    beta, t0, tau = 2.0, 1.1, 6.1
    s = 1 / (beta * MODES)
    law = from_random_start(overdamped(jnp.asarray(MODES), beta, t0, tau), jnp.asarray(s)[None, None])
    z = MODES * tau
    np.testing.assert_allclose(law.covariance[0, 0], s * 2 * (z - 1 + np.exp(-z)) / z**2, rtol=45 * EPS64)
    np.testing.assert_allclose(law.covariance[1, 1], s, rtol=12 * EPS64)
    m, gamma = INERTIA["mass"], INERTIA["friction"]
    start = np.zeros((2, 2, MODES.size))
    start[0, 0], start[1, 1] = s, m / beta
    law = from_random_start(underdamped(jnp.asarray(MODES), beta, t0, tau, **INERTIA), jnp.asarray(start))
    omega = np.sqrt((MODES / m - (gamma / (2 * m)) ** 2).astype(complex))
    mu1, mu2 = gamma / (2 * m) - 1j * omega, gamma / (2 * m) + 1j * omega

    def psi(z):
        return 2 * (z - 1 + np.exp(-z)) / z**2

    exact = (s * (mu2 * psi(mu1 * tau) - mu1 * psi(mu2 * tau)) / (mu2 - mu1)).real
    limit = EPS64 * (45 + 24 * np.sqrt(MODES / m) * (t0 + tau))
    assert np.all(np.abs(law.covariance[0, 0] - exact) <= limit * exact)
    size = np.sqrt(start[[0, 1], [0, 1]])
    assert np.all(np.abs(law.covariance[1:, 1:] - start) <= limit * size[:, None] * size[None])


@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_zero_duration_reads_the_state(kind, samples):
    law = KINDS[kind](jnp.asarray(RATES_U), 2.0, 1.1, 0.0, samples)
    limit = EPS64 * (45 + 24 * np.sqrt(RATES_U) * 1.1)
    size = np.sqrt(np.asarray(law.covariance[1, 1]))
    for row in (0, 1):
        assert np.all(np.abs(law.covariance[0, row] - size**2) <= limit * size**2)
    np.testing.assert_allclose(law.force[0], law.force[1], rtol=45 * EPS64)
    np.testing.assert_allclose(law.start[0], law.start[1], rtol=45 * EPS64)
    nothing = KINDS[kind](jnp.asarray(RATES_U), 2.0, 0.0, 0.0, samples)
    assert not np.any(nothing.force)
    assert not np.any(nothing.covariance)
    identity = np.eye(nothing.start.shape[1])
    np.testing.assert_array_equal(nothing.start[1:], np.broadcast_to(identity[..., None], nothing.start[1:].shape))
    np.testing.assert_array_equal(nothing.start[0], nothing.start[1])


@pytest.mark.parametrize(
    "run", [(0.0, 3.0, None), (1.1, 6.1, 4), (1.1, 0.0, None), (0.0, 0.0, None), (0.0, 1e-9, None)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_scale_is_a_root_of_the_covariance(kind, run):
    law = KINDS[kind](jnp.asarray(RATES_U), 2.0, *run)
    root, covariance = np.asarray(scale(law)), np.asarray(law.covariance)
    for i, j in zip(*np.triu_indices(len(root), 1), strict=True):
        assert not np.any(root[i, j])
    assert np.all(np.isfinite(root))
    size = np.sqrt(np.einsum("ii...->i...", covariance))
    # Cholesky is backward stable: n + 1 roundings of sqrt(C_ii C_jj). Where the covariance is singular to rounding, its
    # own error, 45 + 24 phase, makes the pivot; it is not negative by more than that, and a negative one is cut off.
    limit = EPS64 * (45 + 24 * np.sqrt(RATES_U) * (run[0] + run[1]))
    difference = np.abs(product(root, np.swapaxes(root, 0, 1)) - covariance)
    assert np.all(difference <= limit * size[:, None] * size[None])


def test_mode_without_noise_has_scale_zero():
    law = overdamped(jnp.asarray(MODES), jnp.inf, 1.0, 2.0)
    assert not np.any(scale(law))


# --------------------------------------------------------------------------------------------------------------------
# Against the stochastic equations themselves
# --------------------------------------------------------------------------------------------------------------------

PATHS, PUSH = 16384, 1.0


@partial(jax.jit, static_argnames=("velocity", "settle", "steps"))
def integrate(velocity, start, noise, settle, steps, h, key):
    """Heun's scheme with additive noise in the last component; mean position over the last steps by trapezoids."""

    def step(state, key):
        kick = jnp.zeros_like(state).at[-1].set(noise * jnp.sqrt(h) * jax.random.normal(key, state.shape[1:]))
        slope = velocity(state)
        following = state + h / 2 * (slope + velocity(state + h * slope + kick)) + kick
        return following, (state[0] + following[0]) / 2

    def averaged(carry, key):
        state, middle = step(carry[0], key)
        return (state, carry[1] + middle), None

    first, second = jax.random.split(key)
    state = jax.lax.scan(lambda x, k: (step(x, k)[0], None), start, jax.random.split(first, settle))[0]
    carry = (state, jnp.zeros_like(state[0]))
    return jax.lax.scan(averaged, carry, jax.random.split(second, steps))[0][1] / steps


def first_order(state):
    return (PUSH - MODES[:, None] * state[0])[None]


def second_order(state):
    y, p = state
    force = -MODES[:, None] * y + PUSH - INERTIA["friction"] / INERTIA["mass"] * p
    return jnp.stack([p / INERTIA["mass"], force])


@pytest.mark.parametrize(
    ("kind", "velocity", "start", "density"),
    [("overdamped", first_order, (0.4,), 1.0), ("underdamped", second_order, (0.4, -0.7), INERTIA["friction"])],
)
def test_law_of_the_integrated_equation(kind, velocity, start, density):
    r"""Mean and variance of the time average over 16384 paths of four modes.

    With :math:`a = |\mu| h \le 0.05` for the fastest rate, Heun's scheme has the relative errors :math:`a^2/6` in the
    mean and :math:`a^2/4 = 6\cdot 10^{-4}` in the variance, and the trapezoids leave out :math:`a^2/12`: together a
    seventh of the standard error of the variance, :math:`\sqrt{2/(4\cdot 16384)}`, for the fastest of four modes.
    """
    beta, h, settle, steps = 2.0, 0.02, 58, 308
    begin = jnp.broadcast_to(jnp.asarray(start)[:, None, None], (len(start), MODES.size, PATHS))
    noise = np.sqrt(2 * density / beta)
    averages = np.asarray(integrate(velocity, begin, noise, settle, steps, h, jax.random.key(7)))
    law = jax.tree.map(np.asarray, KINDS[kind](jnp.asarray(MODES), beta, settle * h, steps * h))
    mean = law.force[0] * PUSH + product(law.start, np.asarray(start)[:, None, None])[0, 0]
    spread = np.sqrt(law.covariance[0, 0])
    assert_within_stderr(averages.mean(1), spread / np.sqrt(PATHS), mean)
    z = ((averages - mean[:, None]) / spread[:, None]).ravel()
    assert_unit_variance(z)
    # Mutations: a temperature 5 % off, an average that starts 5 % off.
    for beta_off in (0.95 * beta, 1.05 * beta):
        other = KINDS[kind](jnp.asarray(MODES), beta_off, settle * h, steps * h)
        with pytest.raises(AssertionError):
            assert_unit_variance(z * np.repeat(spread / np.sqrt(np.asarray(other.covariance[0, 0])), PATHS))
    with pytest.raises(AssertionError):
        assert_within_stderr(averages.mean(1), spread / np.sqrt(PATHS), 0.95 * mean)
