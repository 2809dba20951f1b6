"""The law of a relaxing device in the space of rows, against matrix exponentials and small steps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from thermolinalg.optim.gram_functions import Diagonalisation, KrylovSpace, engine_for
from thermolinalg.optim.relaxation import RowSystem, relax
from thermolinalg.optim.spectral_filters import decay, gain, spread

ROWS, SIZE, DAMPING = 7, 11, 0.03
RNG = np.random.default_rng(5)
M = RNG.standard_normal((ROWS, SIZE))
M[-1] = M[0]  # an exact zero of the Gram matrix
C, D, X0 = RNG.standard_normal(ROWS), RNG.standard_normal(SIZE), RNG.standard_normal(SIZE)
F = M.T @ M + DAMPING * np.eye(SIZE)


def system(c, remainder=None, matrix=M):
    matrix = jnp.asarray(matrix, c.dtype)
    return RowSystem(lambda v: matrix @ v, lambda u: matrix.T @ u, matrix @ matrix.T, c, remainder)


def flow(x0, g, t):
    """By a matrix exponential in the space of parameters."""
    E = expm(-F * t)
    return E @ x0 + np.linalg.solve(F, (np.eye(SIZE) - E) @ g)


@partial(jax.jit, static_argnames=("engine", "temperature"))
def law(c, times, start=None, remainder=None, *, engine=None, temperature=0.0, key=None, damping=DAMPING, multiple=1.0):
    return relax(
        *(system(c, remainder), damping, [times[0], times[1]]),
        start=start,
        multiple=multiple,
        temperature=temperature,
        key=key,
        engine=engine,
    )


def relative(x, y):
    return np.linalg.norm(np.asarray(x) - y) / np.linalg.norm(y)


@pytest.mark.parametrize("engine", [Diagonalisation(), KrylovSpace(1e-12, ROWS)], ids=["eigenbasis", "krylov"])
@pytest.mark.parametrize("beside", [False, True], ids=["rows", "remainder"])
@pytest.mark.parametrize("carried", [False, True], ids=["cold", "carried"])
def test_means_are_those_of_the_matrix_exponential(engine, beside, carried):
    start, remainder = (jnp.asarray(X0) if carried else None), (jnp.asarray(D) if beside else None)
    g = M.T @ C + (D if beside else 0)
    for t in (0.0, 1e-6, 0.3, 5.0, 1e3):
        found = law(jnp.asarray(C), jnp.array([t, 0.7]), start, remainder, engine=engine, multiple=0.5)
        x0 = X0 if carried else 0.5 * g
        for state, time in zip(found.states, (t, t + 0.7), strict=True):
            # Terms as large as 1/damping cancel in the remainder's part: 33 times the roundoff of either route.
            assert relative(state, flow(x0, g, time)) < 1e-12
        x = flow(x0, g, t)
        assert float(found.residual) == pytest.approx(
            np.linalg.norm(F @ x - g) / np.linalg.norm(g), rel=1e-5, abs=1e-11
        )
        left = np.linalg.norm(expm(-F * t) @ g) / np.linalg.norm(g)
        assert float(found.unrelaxed) == pytest.approx(left, rel=1e-5, abs=1e-11)


def test_a_wrong_sign_of_the_drive_is_seen():
    """The misprint of the paper's equation 22."""
    found = law(jnp.asarray(C), jnp.array([0.3, 0.0]), jnp.asarray(X0))
    assert relative(found.states[0], flow(X0, -M.T @ C, 0.3)) > 0.1


def test_limits_of_time():
    g = M.T @ C
    short = law(jnp.asarray(C), jnp.array([1e-12, 0.0])).states[0]
    long = law(jnp.asarray(C), jnp.array([1e9, 1e20])).states
    assert relative(short, g) < 1e-10
    natural = M.T @ np.linalg.solve(M @ M.T + DAMPING * np.eye(ROWS), C)
    assert all(relative(x, natural) < 1e-12 for x in long)
    rest = law(jnp.asarray(C), jnp.array([0.0, 0.0]), multiple=0.0).states[0]
    assert not np.any(rest)


def test_small_damping_in_single_precision():
    """In the form of rows nothing is divided by the damping, for coordinates that no zero of the Gram matrix has."""
    c = jnp.asarray(M @ (np.linalg.pinv(M) @ C), jnp.float32)
    found = law(c, jnp.array([1e8, 0.0], jnp.float32), damping=1e-6).states[0]
    exact = M.T @ (np.linalg.pinv(M @ M.T, rcond=1e-10) @ C)
    # The condition number of the rows that are not alike, times single precision.
    values = np.linalg.svd(M, compute_uv=False)
    bound = 10 * (values[0] / values[ROWS - 2]) ** 2 * 6e-8
    assert found.dtype == jnp.float32
    assert relative(found, exact) < bound


def test_a_cold_start_stays_in_the_range_and_a_carried_one_forgets_the_rest_at_the_rate_of_the_damping():
    out = np.eye(SIZE) - np.linalg.pinv(M) @ M
    cold = law(jnp.asarray(C), jnp.array([2.0, 3.0]))
    assert all(np.linalg.norm(out @ x) < 1e-13 * np.linalg.norm(x) for x in cold.states)
    carried = law(jnp.asarray(C), jnp.array([2.0, 3.0]), jnp.asarray(X0)).states[0]
    np.testing.assert_allclose(out @ carried, np.exp(-2 * DAMPING) * out @ X0, rtol=1e-11, atol=1e-13)


# The first fits in the room there is at first, the second does not.
@pytest.mark.parametrize(("t", "fewest", "most"), [(1e-2, 5, 48), (20.0, 49, 139)], ids=["short", "long"])
def test_engines_agree_on_many_rows(t, fewest, most):
    rng = np.random.default_rng(2)
    wide = rng.standard_normal((160, 200)) * np.geomspace(1, 1e-3, 200)
    gram, c = jnp.asarray(wide @ wide.T), jnp.asarray(rng.standard_normal((160, 2)))
    lam = 1e-2

    def function(s):
        one, two = gain(jnp.asarray(t)), decay(jnp.asarray(t))
        return jnp.stack([jnp.stack([one.value(s + lam), two.slope(s, jnp.asarray(lam))])])

    shift = jnp.asarray(lam + 1 / t)
    exact = Diagonalisation().apply(gram, c, function, shift).values[0]
    found = KrylovSpace(1e-11, 140).apply(gram, c, function, shift)
    assert relative(found.values[0], np.asarray(exact)) < 1e-8
    assert float(found.error) <= 1e-11
    assert fewest <= int(found.steps) <= most
    # Stopped early, the bound says so, and holds: of both columns, over the largest gain of each.
    crude = KrylovSpace(1e-11, max(2, int(found.steps) // 8)).apply(gram, c, function, shift)
    largest = (1 - np.exp(-lam * t)) / lam * np.linalg.norm(c[:, 0]) + t * np.linalg.norm(c[:, 1])
    off = np.linalg.norm(np.asarray(crude.values[0] - exact))
    assert float(crude.error) > 1e-6
    assert 1e-6 * largest * float(crude.error) < off < largest * float(crude.error)


def test_the_engine_is_chosen_by_rows():
    assert engine_for(128) == Diagonalisation()
    assert engine_for(129) == KrylovSpace()


def test_divided_differences_keep_their_precision():
    """Against 50 digits; where rates and times are small the closed forms are differences of equal numbers."""
    import mpmath

    mpmath.mp.dps = 50

    def precise(h, s, lam):
        s, lam = mpmath.mpf(float(s)), mpmath.mpf(float(lam))
        return float((h(s + lam) - h(lam)) / s)

    s, lam = jnp.array([1e-9, 1e-4, 0.3, 7.0, 900.0]), jnp.array(0.02)
    for t in (1e-3, 0.9, 40.0):
        time, exact = jnp.asarray(t), mpmath.mpf(t)
        pairs = [
            (decay(time), lambda r, e=exact: mpmath.exp(-r * e)),
            (gain(time), lambda r, e=exact: (1 - mpmath.exp(-r * e)) / r),
            (spread(time), lambda r, e=exact: mpmath.sqrt((1 - mpmath.exp(-2 * r * e)) / r)),
        ]
        for found, h in pairs:
            np.testing.assert_allclose(found.slope(s, lam), [precise(h, x, lam) for x in s], rtol=3e-14)
    both, h = gain(jnp.array(2.0)) * decay(jnp.array(3.0)), lambda r: (1 - mpmath.exp(-2 * r)) / r * mpmath.exp(-3 * r)
    np.testing.assert_allclose(both.slope(s, lam), [precise(h, x, lam) for x in s], rtol=3e-14)


def test_noise_has_the_law_of_one_path():
    """Covariance of two readings; a hotter device is seen."""
    kappa, first, second, count = 0.3, 0.4, 0.6, 40_000
    draw = jax.jit(
        jax.vmap(lambda key: relax(system(jnp.asarray(C)), DAMPING, [first, second], temperature=kappa, key=key).states)
    )
    a, b = (np.asarray(x) for x in draw(jax.random.split(jax.random.key(3), count)))
    g = M.T @ C

    def covariance(t):
        return kappa * np.linalg.solve(F, np.eye(SIZE) - expm(-2 * F * t))

    early, late = covariance(first), covariance(first + second)
    a, b = a - flow(g, g, first), b - flow(g, g, first + second)
    cross = expm(-F * second) @ early

    def deviations(found, law, left, right):
        """In standard errors, by Isserlis' theorem."""
        return np.abs(found - law) / np.sqrt((np.outer(np.diag(left), np.diag(right)) + law**2) / count)

    # 121 entries each: beyond 5 standard errors once in ten thousand such tests.
    assert deviations(a.T @ a / count, early, early, early).max() < 5
    assert deviations(b.T @ b / count, late, late, late).max() < 5
    assert deviations(b.T @ a / count, cross, late, early).max() < 5
    assert deviations(a.T @ a / count, 1.1 * early, early, early).max() > 5


def test_small_steps_reach_the_law():
    """Euler-Maruyama with the drift of the equation, against the law with the filter of Euler steps and without it."""
    kappa, t, steps, count = 0.05, 0.5, 100, 4000
    h = t / steps
    A, g = jnp.asarray(F), jnp.asarray(M.T @ C)

    def path(sign, key):
        def step(x, z):
            return x - h * (A @ x - sign * g) + jnp.sqrt(2 * kappa * h) * z, None

        return jax.lax.scan(step, g, jax.random.normal(key, (steps, SIZE)))[0]

    keys = jax.random.split(jax.random.key(8), count)
    ends = np.asarray(jax.jit(jax.vmap(partial(path, 1.0)))(keys))
    biased = np.asarray(jax.jit(jax.vmap(partial(path, -1.0)))(keys))
    euler = np.linalg.matrix_power(np.eye(SIZE) - h * F, steps)
    x = np.linalg.solve(F, g)
    mean, error = ends.mean(0), ends.std(0) / np.sqrt(count)
    filtered = euler @ (g - x) + x
    exact = np.asarray(law(jnp.asarray(C), jnp.array([t, 0.0])).states[0])
    assert np.max(np.abs(mean - filtered) / error) < 5
    # One step off by (hs)^2/2 at most, the decay of which the next ones make: e^-1 h max(s)/2 of the start altogether.
    slack = h * np.linalg.eigvalsh(F)[-1] / (2 * np.e) * np.linalg.norm(g - x)
    assert np.linalg.norm(exact - filtered) < slack
    assert np.all(np.abs(mean - exact) < 5 * error + slack)
    assert np.max(np.abs(biased.mean(0) - filtered) / error) > 50


def test_bad_input_is_refused():
    bare = system(jnp.asarray(C))
    with pytest.raises(ValueError, match="damping"):
        relax(bare, 0.0, [1.0])
    with pytest.raises(ValueError, match="durations"):
        relax(bare, 1.0, [-1.0])
    with pytest.raises(ValueError, match="durations is empty"):
        relax(bare, 1.0, [])
    with pytest.raises(ValueError, match="key"):
        relax(bare, 1.0, [1.0], temperature=1.0)
    with pytest.raises(ValueError, match="max_steps"):
        KrylovSpace(max_steps=1)
