"""Refined systems: many digits from a noisy device, and what each digit costs."""

import gzip
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from problems import exact_run, system

import thermolinalg as tla
from thermolinalg import refine
from thermolinalg.testing import assert_within_stderr

KEY = jax.random.key(5)
DATA = Path(__file__).parent / "data"


def device(b, signal=100.0, **settings):
    """A device whose dynamic range, sqrt(beta) |b|, is `signal`."""
    return tla.Device(beta=signal**2 / float(np.sum(np.abs(b) ** 2)), **settings)


def error(x, exact):
    return float(np.linalg.norm(np.asarray(x) - exact) / np.linalg.norm(exact))


def long_double(A, b):
    """A reference to more digits than float64 has: LAPACK, corrected by residuals in extended precision."""
    factor, wide = scipy.linalg.cho_factor(A), A.astype(np.longdouble)
    x = np.zeros(b.shape, np.longdouble)
    for _ in range(12):
        x = x + scipy.linalg.cho_solve(factor, (b - wide @ x).astype(float))
    return x


def modes(program, schedule, signal):
    """Mean response and variance at unit force, mode by mode, by a matrix exponential: nothing shared."""
    left, noise = [], []
    for rate in np.asarray(program.machine.operator.rates):
        drift, diffusion = np.array([[rate]]), np.array([[2 / signal**2]])
        mean, spread = exact_run(drift, np.ones(1), diffusion, schedule.burn_in, schedule.duration)
        left.append(1 - rate * mean[0])
        noise.append(rate**2 * spread[0, 0])
    return np.array(left), np.array(noise)


STEPS = {"burn-in": (4.0, 20.0), "noise": (60.0, 8.0), "both": (10.0, 15.0), "useless": (0.5, 0.5)}


@pytest.fixture(scope="module")
def small():
    A, b, x = system(d=8, kappa=20.0)
    return A, b, x, device(b, 3.0).program(A)


@pytest.mark.parametrize("name", STEPS)
def test_the_contraction_is_the_spectral_radius_of_the_recursion(small, name):
    _, b, _, program = small
    schedule = tla.Schedule(*STEPS[name])
    left, noise = modes(program, schedule, 3.0)
    recursion = np.diag(left**2) + noise[:, None]
    radius = np.max(np.abs(np.linalg.eigvals(recursion))) ** 0.5
    np.testing.assert_allclose(refine.contraction(program, schedule, b), radius, rtol=1e-9)


@pytest.fixture(scope="module")
def corrections(small):
    """Squared relative residuals after each of three plain steps of 2000 runs."""
    A, b, _, program = small

    @jax.jit
    @jax.vmap
    def run(key, times):
        plan = tla.Plan(*times)
        out = refine.solve(A, b, key=key, rtol=1e-14, plan=plan, program=program, update=refine.richardson, max_steps=4)
        return out.stats["residuals"][1:4] ** 2

    keys = jax.random.split(KEY, 2000)
    return {
        name: np.asarray(run(keys, tuple(jnp.full(2000, t) for t in times)))
        for name, times in STEPS.items()
        if name != "useless"
    }


@pytest.mark.parametrize("name", ["burn-in", "noise", "both"])
def test_residuals_shrink_as_the_recursion_says(small, corrections, name):
    _, b, _, program = small
    left, noise = modes(program, tla.Schedule(*STEPS[name]), 3.0)
    power = np.abs(np.asarray(program.machine.operator.to_modes(b[:, None])))[:, 0] ** 2
    power = power / power.sum()
    squares, expected = corrections[name], []
    for _ in range(3):
        power = left**2 * power + noise * power.sum()
        expected.append(power.sum())
    mean, spread = squares.mean(0), squares.std(0, ddof=1) / len(squares) ** 0.5
    assert_within_stderr(mean, spread, expected)
    # A prediction that forgets a tenth of the noise fails.
    with pytest.raises(AssertionError):
        assert_within_stderr(mean, spread, np.array(expected) * (1 - 0.3 * noise.sum() / expected[0]))


def test_contraction_after_burn_in_depends_on_range_and_duration_alone():
    eta = []
    for kappa in (1.0, 1e2, 1e4):
        A, b, _ = system(d=8, kappa=kappa)
        eta.append(refine.contraction(device(b, 50.0).program(A), tla.Schedule(1e7, 1e7), b))
    np.testing.assert_allclose(eta, np.sqrt(2 * 8 / (50.0**2 * 1e7)), rtol=2e-3)


@pytest.mark.parametrize(
    "settings",
    [{}, {"dynamics": tla.Underdamped()}, {"dynamics": tla.Underdamped(mass=2.0, friction=5.0)}],
    ids=["overdamped", "critical", "friction"],
)
def test_a_plan_is_the_shortest_that_contracts_enough(settings):
    A, b, _ = system(d=8, kappa=50.0)
    program = device(b, 3.0, **settings).program(A)
    plan = refine.plan(program, b, contraction=0.2)
    np.testing.assert_allclose(refine.contraction(program, plan.schedule, b), 0.2, rtol=1e-4)
    for share in np.linspace(0.02, 0.98, 25):
        total = 0.99 * float(plan.total)
        other = tla.Schedule(share * total, (1 - share) * total)
        assert refine.contraction(program, other, b) > 0.2
    assert refine.plan(program, 0.0 * b).total == 0.0


def test_a_plan_serves_the_shortest_column():
    A, b, _ = system(d=8, kappa=50.0)
    both, weak = jnp.stack([b, 0.1 * b, 0.0 * b], 1), refine.plan(A, 0.1 * b)
    np.testing.assert_allclose(refine.plan(A, both).total, weak.total, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_gain_over_averaging(seed):
    A, b, _ = system(d=64, kappa=1e3, seed=seed)
    A, b = np.asarray(A), np.asarray(b)
    x = long_double(A, b)
    out = refine.solve(A, b, key=jax.random.key(seed), rtol=1e-10, device=device(b))
    assert error(out.unwrap(), x) <= 1e-10
    assert int(out.stats["matvecs"]) <= 25 < int(out.stats["plain_cg"])
    assert out.stats["direct_time"] >= 1e8 * out.stats["device_time"]
    # The direct time, from numbers of NumPy's own.
    size = float(np.linalg.norm(x))
    direct = 2 * np.linalg.norm(np.linalg.inv(A)) ** 2 / (1e-10 * size) ** 2 / (1e4 / np.sum(b**2))
    np.testing.assert_allclose(out.stats["direct_time"], direct, rtol=1e-6)
    np.testing.assert_allclose(out.stats["device_time"], int(out.stats["steps"]) * float(out.stats["plan"].total))
    clock = out.stats["plan"].clock
    np.testing.assert_allclose(out.stats["time_constants"], clock * out.stats["device_time"])


def test_the_history_is_that_of_true_residuals():
    A, b, _ = system(d=16, kappa=100.0)
    out = refine.solve(A, b, key=KEY, rtol=1e-9, device=device(b))
    runs, history = int(out.stats["steps"]), np.asarray(out.stats["residuals"])
    assert history.shape == (101,)
    assert history[0] == 1.0
    assert np.all(np.isfinite(history[:runs]))
    assert np.all(np.isnan(history[runs:]))
    true = np.linalg.norm(np.asarray(b - A @ out.value)) / np.linalg.norm(b)
    np.testing.assert_allclose(history[runs - 1], true, rtol=1e-12)
    # The last run tests, and one product confirms the residual that it was given: all others took one product, too.
    assert int(out.stats["matvecs"]) == runs
    moves = runs - 1
    np.testing.assert_allclose(out.stats["contraction"], history[runs - 1] ** (1 / moves), rtol=1e-9)


@pytest.fixture(scope="module")
def many():
    A, b, x = system(d=16, kappa=30.0)
    held = device(b, 30.0)

    @jax.jit
    @jax.vmap
    def run(key):
        out = refine.solve(A, b, key=key, rtol=1e-8, device=held)
        return out.value, out.stderr[0], out.status

    values, stderr, status = run(jax.random.split(KEY, 400))
    errors = np.linalg.norm(np.asarray(values) - x, axis=1)
    return errors, np.asarray(stderr) * 16**0.5, np.asarray(status), np.linalg.norm(x)


def test_the_device_measures_the_error(many):
    errors, shown, status, size = many
    assert np.all(status == 0)
    # The last run is independent of the error that it measures, and adds noise of a tenth of it at most; its mean
    # response is within a tenth of one. The ratio is then within 1.1 / 0.9 but for noise, five sigma of 0.1.
    ratio = errors / shown
    assert 0.6 < ratio.min() < ratio.max() < 1.7
    assert 0.85 < np.sqrt(np.mean(ratio**2)) < 1.15
    assert np.mean(errors <= 1e-8 * size) > 0.95


def test_an_error_bar_of_half_the_size_would_be_seen(many):
    ratio = 2 * many[0] / many[1]
    assert not 0.85 < np.sqrt(np.mean(ratio**2)) < 1.15


@given(seed=st.integers(0, 2**32 - 1), kappa=st.floats(1.0, 1e4), steps=st.integers(1, 6))
def test_a_useless_device_never_increases_the_error(seed, kappa, steps):
    A, b, x = (np.asarray(part) for part in system(d=5, kappa=kappa, seed=seed % 1000))
    rng = np.random.default_rng(seed)
    iterate, product = refine.Iterate.start(jnp.asarray(b)[:, None]), partial(jnp.matmul, jnp.asarray(A))
    before, first = x @ A @ x, x @ A @ x
    for _ in range(steps):
        correction = rng.standard_normal((5, 1)) * 10.0 ** rng.integers(-200, 200)
        iterate = refine.flexible_cg(iterate, jnp.asarray(correction), product)
        left = np.asarray(iterate.value)[:, 0] - x
        after = left @ A @ left
        assert after <= before + 1e-11 * first
        before = after


def test_plain_steps_of_a_useless_device_do_increase_it():
    A, b, x = system(d=5, kappa=10.0)
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((5, 1))) * 1e3
    iterate = refine.richardson(refine.Iterate.start(b[:, None]), noise, partial(jnp.matmul, A))
    assert error(iterate.value[:, 0], x) > 1


def wrong(A, size, seed=0):
    """The matrix with entries off by a relative error."""
    noise = np.random.default_rng(seed).standard_normal(A.shape)
    return A * (1 + size * (noise + noise.T) / 2**0.5)


@pytest.mark.parametrize("update", [refine.flexible_cg, refine.richardson])
def test_a_device_that_is_a_thousandth_off(update):
    A, b, _ = system(d=16, kappa=100.0)
    x = long_double(np.asarray(A), np.asarray(b))
    program = device(b).program(wrong(A, 1e-3))
    direct = error(program.respond(b[:, None], tla.Schedule(1e4, 1e4))[:, 0], x)
    out = refine.solve(A, b, key=KEY, rtol=1e-10, program=program, update=update)
    assert error(out.unwrap(), x) <= 1.2e-10
    assert direct > 1e-4


def test_a_device_that_holds_something_else_stagnates():
    A, b, _ = system(d=16, kappa=100.0)
    program = device(b).program(0.1 * A[::-1, ::-1])
    out = refine.solve(A, b, key=KEY, rtol=1e-8, program=program, update=refine.richardson)
    assert int(out.status) == tla.Status.STAGNATED
    assert "check that the device holds A" in tla.Status.STAGNATED.advice
    assert int(out.stats["steps"]) < 20
    assert np.all(np.isfinite(out.value))
    # Flexible steps make something even of that one.
    other = refine.solve(A, b, key=KEY, rtol=1e-8, program=program)
    assert float(out.stats["residuals"][1]) > 1 > np.nanmin(other.stats["residuals"])


def test_too_few_steps_are_reported():
    A, b, _ = system(d=16, kappa=100.0)
    out = refine.solve(A, b, key=KEY, rtol=1e-10, device=device(b), max_steps=3)
    assert int(out.status) == tla.Status.NOT_CONVERGED
    assert int(out.stats["steps"]) == 3
    assert int(out.stats["matvecs"]) == 3  # two updates, and the true residual at the end
    assert int(out.stats["plain_cg"]) == -1  # the answer is nothing to come close to


def test_columns_are_refined_on_their_own():
    A, _, _ = system(d=16, kappa=30.0)
    b = np.random.default_rng(1).standard_normal((16, 3)) * [1.0, 1e-3, 0.0]
    out = refine.solve(A, b, key=KEY, rtol=1e-10, device=tla.Device(beta=1e6))
    x = np.linalg.solve(A, b)
    for j in range(2):
        assert error(out.value[:, j], x[:, j]) < 1.5e-10
    assert out.value.shape == out.stderr.shape == (16, 3)
    np.testing.assert_array_equal(out.value[:, 2], 0.0)
    np.testing.assert_array_equal(out.stderr[:, 2], 0.0)
    assert int(out.status) == 0
    assert out.stats["residuals"].shape == (101, 3)
    for name in ("steps", "matvecs", "device_time", "plain_cg", "direct_time"):
        assert out.stats[name].shape == (3,)
        assert float(out.stats[name][2]) == 0
    assert float(out.stats["residuals"][0, 2]) == 0.0


def test_nothing_asked_nothing_run():
    out = refine.solve(jnp.eye(3), jnp.zeros(3), key=KEY)
    np.testing.assert_array_equal(out.unwrap(), 0.0)
    assert int(out.stats["steps"]) == int(out.stats["matvecs"]) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_other_types(dtype):
    A, b, _ = system(d=16, kappa=100.0, dtype=dtype)
    out = refine.solve(A, b, key=KEY, device=device(b))
    real = np.finfo(dtype).dtype
    assert out.value.dtype == dtype
    assert out.stderr.dtype == real
    assert int(out.status) == 0
    unit = np.finfo(real).eps / 2
    least = max(1e-10, 10 * unit * (10 + 0.1 * float(out.stats["spectrum"].kappa)))
    # A system that is rounded to float32 has moved by its own condition number; compare with the one that was given.
    wide = np.linalg.solve(np.asarray(A).astype(np.complex128), np.asarray(b).astype(np.complex128))
    assert error(out.value, wide) < 1.3 * least


def test_the_least_tolerance_is_near_the_floor_of_rounding():
    A, b, _ = system(d=16, kappa=1e4)
    x = long_double(np.asarray(A), np.asarray(b))
    out = refine.solve(A, b, key=KEY, rtol=5e-13, device=device(b), update=refine.richardson)
    assert error(out.unwrap(), x) < 6e-13
    with pytest.raises(ValueError, match=r"1\.1e-13.*unit_diagonal"):
        refine.solve(A, b, key=KEY, rtol=1e-13, device=device(b))
    traced = jax.jit(lambda A, b: refine.solve(A, b, key=KEY, rtol=1e-13, plan=tla.Plan(1e5, 1e5)).status)(A, b)
    assert int(traced) & tla.Status.LOW_PRECISION


@pytest.mark.parametrize("name", ["airfoil", "bar"])
def test_finite_elements(name):
    with gzip.open(DATA / f"{name}.mtx.gz") as file:
        A = scipy.io.mmread(file).tocsr()
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    x = long_double(A.toarray(), b)
    scaled, scale = refine.unit_diagonal(A)
    push = np.asarray(scale) * b
    out = refine.solve(scaled, push, key=KEY, rtol=2e-11, device=device(push))
    assert error(scale * out.unwrap(), x) < 1e-10
    assert int(out.stats["matvecs"]) <= 25


def laplacian(d, shift):
    def product(block):
        above = jnp.concatenate([block[1:], jnp.zeros_like(block[:1])])
        below = jnp.concatenate([jnp.zeros_like(block[:1]), block[:-1]])
        return (2 + shift) * block - above - below

    dense = (2 + shift) * np.eye(d) - np.eye(d, k=1) - np.eye(d, k=-1)
    return tla.MatrixFree(product, d, np.dtype(float), survey_steps=48), dense


def test_matrix_free():
    A, dense = laplacian(200, 0.1)
    b = np.random.default_rng(0).standard_normal(200)
    x = long_double(dense, b)
    out = refine.solve(A, b, key=KEY, rtol=1e-10, device=device(b))
    assert error(out.value, x) < 1.1e-10
    assert int(out.status) & ~tla.Status.UNRESOLVED == 0
    # The survey knows the traces behind the contraction.
    program, plan = device(b).program(jnp.asarray(dense)), out.stats["plan"]
    exact = refine.contraction(program, plan.schedule, b)
    np.testing.assert_allclose(out.stats["predicted_contraction"], exact, rtol=0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"dynamics": tla.Underdamped()},
        {"simulator": tla.Law(long_time=True)},
        {"simulator": tla.Law(end_state=False)},
        {"simulator": tla.Trajectory(3)},
    ],
    ids=["underdamped", "long time", "no end", "trajectory"],
)
def test_other_devices(settings):
    A, b, x = system(d=8, kappa=30.0)
    out = refine.solve(A, b, key=KEY, rtol=1e-9, device=device(b, 30.0, **settings))
    assert error(out.unwrap(), x) < 1.5e-9


def test_jit_vmap_and_keys():
    systems = [system(d=8, kappa=30.0, seed=seed) for seed in range(2)]
    A, b = (jnp.stack(parts) for parts in list(zip(*systems, strict=True))[:2])
    keys = jax.random.split(KEY, 2)

    @jax.jit
    def run(A, b, key):
        return refine.solve(A, b, key=key, rtol=1e-9)

    batch = jax.jit(jax.vmap(run))(A, b, keys)
    for i in range(2):
        one, plain = run(A[i], b[i], keys[i]), refine.solve(A[i], b[i], key=keys[i], rtol=1e-9)
        # The device measures its error within some tens of per cent.
        assert np.linalg.norm(batch.value[i] - systems[i][2]) < 2e-9 * np.linalg.norm(systems[i][2])
        np.testing.assert_allclose(one.value, plain.value, rtol=1e-11)
        assert int(batch.stats["steps"][i]) == int(one.stats["steps"]) == int(plain.stats["steps"])
    assert not np.any(run(A[0], b[0], keys[1]).value == batch.value[0])


def test_derivatives_are_those_of_the_exact_answer():
    A, b, x = system(d=6, kappa=10.0)
    moved, push, _ = system(d=6, kappa=10.0, seed=1)

    def read(A, b):
        return refine.solve(A, b, key=KEY, rtol=1e-9, plan=tla.Plan(20.0, 50.0)).value

    _, forward = jax.jvp(read, (A, b), (moved, push))
    np.testing.assert_allclose(forward, np.linalg.solve(A, np.asarray(push) - np.asarray(moved) @ x), rtol=1e-7)
    weights = jnp.arange(6.0)
    grad = jax.grad(lambda A, b: weights @ read(A, b), (0, 1))(A, b)
    backward = jnp.sum(grad[0] * moved) + grad[1] @ push
    np.testing.assert_allclose(backward, weights @ forward, rtol=1e-9)
    # A device short of burn-in differentiates as well: its mean response plays no part.
    short = partial(refine.solve, key=KEY, rtol=1e-9, plan=tla.Plan(1.0, 3.0))
    np.testing.assert_allclose(jax.jvp(lambda b: short(A, b).value, (b,), (push,))[1], np.linalg.solve(A, push))


def test_a_rule_of_ones_own():
    A, b, x = system(d=16, kappa=10.0)

    def half(iterate, correction, product):
        return refine.richardson(iterate, correction / 2, product)

    def twice(iterate, correction, product):
        iterate = refine.flexible_cg(iterate, correction, product)
        return refine.flexible_cg(iterate, iterate.residual, product)

    slow, quick = (refine.solve(A, b, key=KEY, rtol=1e-6, device=device(b), update=rule) for rule in (half, twice))
    for out in (slow, quick):
        assert error(out.unwrap(), x) < 1.5e-6
    np.testing.assert_allclose(slow.stats["contraction"], 0.5, atol=0.05)
    # Two products in each update, and one for the true residual: the last run only tests.
    assert int(quick.stats["matvecs"]) == 2 * (int(quick.stats["steps"]) - 1) + 1


BAD = {
    "rtol": ({"rtol": 1.5}, "rtol must lie between 0 and 1"),
    "max_steps": ({"max_steps": 1}, "max_steps must be at least 2"),
    "program": ({"program": tla.Device().program(jnp.eye(4))}, "program must match A"),
    "device": ({"program": tla.Device().program(jnp.eye(3)), "device": tla.Device()}, "leave out the argument device"),
    "plan": ({"plan": tla.Plan(-1.0, 1.0)}, "burn_in must be finite"),
    "b": ({"b": np.ones(4)}, "b must have shape"),
    "general": ({"A": tla.General(np.eye(3))}, "normal equations"),
    "indefinite": ({"A": -np.eye(3)}, "not positive definite"),
    "asymmetric": ({"A": np.eye(3) + np.eye(3, k=1)}, "not symmetric"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        refine.solve(**({"A": np.eye(3), "b": np.ones(3), "key": KEY} | arguments))
    with pytest.raises(ValueError, match="contraction must lie"):
        refine.plan(np.eye(3), np.ones(3), contraction=1.0)


def test_an_indefinite_matrix_is_flagged_under_jit():
    out = jax.jit(lambda A: refine.solve(A, jnp.ones(3), key=KEY, plan=tla.Plan(1.0, 5.0)))(-jnp.eye(3))
    assert int(out.status) & tla.Status.NOT_POSITIVE_DEFINITE
