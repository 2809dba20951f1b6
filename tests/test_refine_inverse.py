"""Refined inverses, sampled preconditioners, and diagonal scaling."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from problems import system

import thermolinalg as tla
from thermolinalg import refine
from thermolinalg.refine.inverse import extremes
from thermolinalg.testing import assert_within_stderr

KEY = jax.random.key(7)


def error(found, exact):
    return float(np.linalg.norm(np.asarray(found) - exact) / np.linalg.norm(exact))


def wishart_plan(A, count):
    """So many samples that do not know of each other."""
    slowest = 1 / float(np.linalg.eigvalsh(np.asarray(A))[0])
    return tla.Plan(20 * slowest, 20 * slowest * count, count)


@pytest.fixture(scope="module")
def wide():
    A, b, x = system(d=32, kappa=1e3)
    return A, b, x, np.linalg.inv(np.asarray(A))


@pytest.fixture(scope="module")
def newton(wide):
    """Newton-Schulz from 2 d, 6 d and 20 d independent samples, 20 runs of each."""
    A = wide[0]
    program = tla.Device().program(A)
    run = jax.jit(jax.vmap(lambda key, plan: refine.inv(program, key=key, rtol=1e-11, plan=plan), in_axes=(0, None)))
    keys = jax.random.split(KEY, 20)
    out = {}
    for ratio in (2, 6, 20):
        plan = wishart_plan(A, 32 * ratio)
        traced = tla.Plan(*(jnp.asarray(float(x)) for x in (plan.burn_in, plan.duration, plan.samples)))
        out[ratio] = jax.tree.map(np.asarray, run(keys, traced))
    return out


@pytest.mark.parametrize("ratio", [2, 6, 20])
def test_the_start_is_that_of_a_wishart_matrix(newton, ratio):
    out = newton[ratio]
    np.testing.assert_allclose(out.stats["effective_samples"], 32 * ratio, rtol=1e-6)
    root = ratio**-0.5
    np.testing.assert_allclose(out.stats["predicted"], 2 * root / (1 + root**2), rtol=1e-6)
    # Edges of a Wishart matrix lie within d^(-2/3) of the limit, and its fluctuations are of that order too.
    np.testing.assert_allclose(out.stats["initial"].mean(), out.stats["predicted"][0], atol=0.5 * 32 ** (-2 / 3))


@pytest.mark.parametrize(("ratio", "steps"), [(2, 10), (6, 7), (20, 6)])
def test_newton_schulz_takes_the_steps_of_its_theory(wide, newton, ratio, steps):
    out = newton[ratio]
    assert np.all(out.status == 0)
    # log2 of log(rtol) over log of the radius, and a step of grace for the slow start.
    expected = np.log2(np.log(1e-11) / np.log(out.stats["initial"]))
    assert np.all(out.stats["steps"] <= np.ceil(expected) + 1)
    assert np.all(out.stats["steps"] >= np.floor(expected) - 1)
    assert out.stats["steps"].max() <= steps
    np.testing.assert_array_equal(out.stats["products"], 2 * out.stats["steps"])
    size = np.linalg.norm(wide[3])
    for value, stderr in zip(out.value, out.stderr, strict=True):
        apart = np.linalg.norm(value - wide[3])
        assert apart <= 1e-11 * size
        assert apart <= 2 * 32 * stderr[0, 0]
        np.testing.assert_array_equal(value, value.T)


def test_increments_square(newton):
    history = newton[20].stats["history"][0]
    steps = int(newton[20].stats["steps"][0])
    assert np.all(np.isnan(history[steps:]))
    late = np.log(history[1:steps]) / np.log(history[: steps - 1])
    assert np.all(late[-2:] > 1.5)


def test_the_extremes_of_the_start_are_seen(wide, newton):
    A, values = wide[0], newton[2].value[0]
    C = np.asarray(tla.inv(A, key=KEY, plan=wishart_plan(A, 64)).value)
    low, high = extremes(A, jnp.asarray(C))
    exact = np.sort(np.linalg.eigvals(np.asarray(A) @ C).real)
    np.testing.assert_allclose([low, high / 1.02], exact[[0, -1]], rtol=1e-2)
    low, high = extremes(A, jnp.asarray(values))
    np.testing.assert_allclose([low, high], [1.0, 1.02], rtol=1e-6)


def test_one_unscaled_step_has_the_bias_of_theory(wide):
    """E[2C - CAC] = (1 - (d + 1)/N) A^-1, of independent samples: the law of C, by a second moment of it."""
    A, _, _, inverse = wide
    plan = wishart_plan(A, 192)
    C = jax.vmap(lambda key: tla.inv(A, key=key, plan=plan).value)(jax.random.split(KEY, 400))
    step = 2 * C - C @ A[None] @ C
    traces = np.asarray(jnp.einsum("nij,ji->n", step, A)) / 32
    mean, spread = traces.mean(), traces.std(ddof=1) / 20
    assert_within_stderr(mean, spread, 1 - 33 / 192)
    with pytest.raises(AssertionError):
        assert_within_stderr(mean, spread, 1 - 33 / 192 * 0.7)
    np.testing.assert_allclose(np.trace(inverse @ np.asarray(A)), 32)


def test_the_default_plan_and_its_numbers(wide):
    A, _, _, inverse = wide
    out = refine.inv(A, key=KEY)
    assert error(out.unwrap(), inverse) < 1e-10
    assert float(out.stats["initial"]) < 0.5
    assert int(out.stats["products"]) <= 22
    plan = out.stats["plan"]
    np.testing.assert_allclose(out.stats["device_time"], plan.total)
    rough = tla.inv(A, key=KEY, plan=plan)
    direct = float(plan.duration) * (np.linalg.norm(rough.stderr) / (1e-10 * np.linalg.norm(inverse))) ** 2
    np.testing.assert_allclose(out.stats["direct_time"], direct, rtol=1e-6)
    assert out.stats["direct_time"] > 1e8 * out.stats["device_time"]


def test_fewer_samples_than_unknowns_end_in_stagnation(wide):
    out = refine.inv(wide[0], key=KEY, plan=wishart_plan(wide[0], 16))
    assert int(out.status) & tla.Status.STAGNATED
    assert int(out.status) & tla.Status.FEW_SAMPLES
    assert np.all(np.isfinite(out.value))
    assert int(out.stats["steps"]) < 50


def test_too_few_newton_steps(wide):
    assert int(refine.inv(wide[0], key=KEY, max_steps=2).status) == tla.Status.NOT_CONVERGED


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_inverses_of_other_types(dtype):
    A, _, _ = system(d=8, kappa=30.0, dtype=dtype)
    out = refine.inv(A, key=KEY)
    assert out.value.dtype == dtype
    assert out.stderr.dtype == np.finfo(dtype).dtype
    assert int(out.status) == 0
    unit = np.finfo(dtype).eps / 2
    assert error(out.value, np.linalg.inv(np.asarray(A).astype(np.complex128))) < max(1e-10, 10 * unit * 13)


def test_inverses_under_jit_and_their_derivatives():
    A, _, _ = system(d=5, kappa=10.0)
    moved, _, _ = system(d=5, kappa=10.0, seed=1)
    run = partial(refine.inv, key=KEY)
    plain, traced = run(A), jax.jit(run)(A)
    np.testing.assert_allclose(traced.value, plain.value, rtol=1e-9)
    inverse = np.linalg.inv(np.asarray(A))
    _, forward = jax.jvp(lambda A: run(A).value, (A,), (moved,))
    np.testing.assert_allclose(forward, -inverse @ np.asarray(moved) @ inverse, rtol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rtol": 0.0}, "rtol must lie"),
        ({"rtol": 1e-16}, "below what rounding allows"),
        ({"max_steps": 0}, "max_steps must be"),
        ({"A": -np.eye(3)}, "not positive definite"),
        ({"plan": tla.Plan(1.0, np.inf)}, "duration must be finite"),
    ],
)
def test_bad_inverses_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        refine.inv(**({"A": np.eye(3), "key": KEY} | arguments))


@pytest.fixture(scope="module")
def hard():
    A, b, x = system(d=32, kappa=1e6)
    return A, b, x


def test_preconditioned_steps_depend_on_the_samples_alone(hard):
    A, b, x = hard
    counts = {}
    for ratio in (4, 10, 40):
        C = tla.inv(A, key=KEY, plan=wishart_plan(A, 32 * ratio))
        out = refine.pcg(A, b, C, rtol=1e-8)
        assert error(out.unwrap(), x) < 1e-8 * 2
        np.testing.assert_allclose(out.stats["predicted"], np.log(2 / 1e-8) / np.log(ratio**0.5), rtol=1e-6)
        counts[ratio] = int(out.stats["matvecs"])
        # Theory counts steps to a residual, and a finite matrix has fewer eigenvalues than its limit.
        assert 0.6 < counts[ratio] / float(out.stats["predicted"]) < 1.5
        assert 3 * counts[ratio] < int(out.stats["plain_cg"])
    assert counts[40] < counts[10] < counts[4]


def test_a_run_too_short_for_the_slow_modes_does_not_help(wide):
    A, b, _, _ = wide
    plan = tla.Plan(100.0, 3e3, 40)
    out = refine.pcg(A, b, tla.inv(A, key=KEY, plan=plan), rtol=1e-8)
    good = refine.pcg(A, b, tla.inv(A, key=KEY, plan=wishart_plan(A, 320)), rtol=1e-8)
    assert int(out.stats["matvecs"]) > 1.5 * int(good.stats["matvecs"])


def test_plain_conjugate_gradients_are_those_of_scipy(wide):
    A, b, x, _ = wide
    steps = []

    def far(now):
        steps.append(np.linalg.norm(now - x) > 1e-6 * np.linalg.norm(x))

    scipy.sparse.linalg.cg(np.asarray(A), np.asarray(b), rtol=1e-14, callback=far)
    floor = refine.conjugate_gradients(A, b, reference=x, rtol=1e-6)
    assert abs(int(floor.stats["matvecs"]) - (1 + sum(steps))) <= 1
    assert error(floor.unwrap(), x) <= 1e-6
    np.testing.assert_allclose(floor.stderr, np.linalg.norm(np.asarray(floor.value) - x) / 32**0.5)
    short = refine.conjugate_gradients(A, b, reference=x, rtol=1e-6, max_steps=5)
    assert int(short.stats["matvecs"]) == -1
    assert int(short.status) == tla.Status.NOT_CONVERGED


def test_columns_matrix_free_complex_and_single():
    A, _, _ = system(d=16, kappa=100.0, dtype=np.complex128)
    b = np.random.default_rng(0).standard_normal((16, 3)) * np.array([1.0, 1e-6, 0.0])
    C = np.linalg.inv(A) @ (np.eye(16) + 0.0)
    out = refine.pcg(tla.MatrixFree(lambda block: A @ block, 16, A.dtype), b, 1.5 * C, rtol=1e-9)
    exact = np.linalg.solve(A, b)
    for j in range(2):
        assert error(out.value[:, j], exact[:, j]) < 1e-9
    np.testing.assert_array_equal(out.value[:, 2], 0)
    assert out.stats["matvecs"].tolist()[2] <= 1
    assert np.isnan(out.stats["predicted"])
    single = refine.pcg(A.real.astype(np.float32) + 3 * jnp.eye(16, dtype=np.float32), b, jnp.eye(16), rtol=1e-5)
    assert single.value.dtype == np.float32
    assert int(single.status) == 0


def test_a_tolerance_below_rounding_stagnates(hard):
    A, b, _ = hard
    out = refine.pcg(A, b, jnp.linalg.inv(A), rtol=1e-16)
    assert int(out.status) == tla.Status.STAGNATED
    assert int(refine.pcg(A, b, jnp.eye(32), rtol=1e-8, max_steps=3).status) == tla.Status.NOT_CONVERGED


def test_preconditioners_that_are_none():
    A, b, _ = system(d=8, kappa=10.0)
    wrong = jnp.diag(jnp.array([-1.0] + 7 * [1.0]))
    with pytest.raises(ValueError, match="more effective samples"):
        refine.pcg(A, jnp.eye(8)[0], wrong)
    traced = jax.jit(lambda C: refine.pcg(A, jnp.eye(8)[0], C).status)(wrong)
    assert int(traced) & tla.Status.NOT_POSITIVE_DEFINITE
    with pytest.raises(ValueError, match="more effective samples"):
        refine.pcg(A, b, tla.inv(A, key=KEY, plan=wishart_plan(A, 3)), rtol=1e-12)
    with pytest.raises(ValueError, match="C must have shape"):
        refine.pcg(A, b, jnp.eye(7))
    with pytest.raises(ValueError, match="C has entries that are not finite"):
        refine.pcg(A, b, jnp.nan * A)
    with pytest.raises(ValueError, match="rtol must lie"):
        refine.pcg(A, b, A, rtol=2.0)
    with pytest.raises(ValueError, match="max_steps must be"):
        refine.pcg(A, b, A, max_steps=0)
    with pytest.raises(ValueError, match="reference must have the shape"):
        refine.conjugate_gradients(A, b, reference=jnp.ones((8, 2)))


def test_derivatives_of_a_preconditioned_solve():
    A, b, x = system(d=6, kappa=10.0)
    moved, push, _ = system(d=6, kappa=10.0, seed=1)
    C = 1.1 * jnp.linalg.inv(A)
    _, forward = jax.jvp(lambda A, b: refine.pcg(A, b, C).value, (A, b), (moved, push))
    np.testing.assert_allclose(forward, np.linalg.solve(A, np.asarray(push) - np.asarray(moved) @ x), rtol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_unit_diagonal(dtype):
    A, b, _ = system(d=6, kappa=10.0, dtype=dtype)
    units = np.array([1e-3, 1.0, 1e3, 1e6, 1.0, 2.0]).astype(np.finfo(dtype).dtype)
    A = jnp.asarray(np.asarray(A) * np.outer(units, units))
    scaled, scale = refine.unit_diagonal(A)
    assert scaled.dtype == dtype
    np.testing.assert_allclose(jnp.diagonal(scaled), 1.0, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(scaled, scaled.conj().T)
    assert np.linalg.cond(scaled) < 1e-6 * np.linalg.cond(np.asarray(A).astype(np.complex128))
    wide = np.asarray(A).astype(np.complex128)
    answer = np.asarray(scale) * np.linalg.solve(scaled, np.asarray(scale) * np.asarray(b))
    np.testing.assert_allclose(answer * units, np.linalg.solve(wide, b) * units, rtol=1e4 * np.finfo(dtype).eps)
    sparse, same = refine.unit_diagonal(scipy.sparse.csc_array(np.asarray(A)))
    assert sparse.format == "csc"
    np.testing.assert_allclose(sparse.toarray(), scaled, rtol=1e3 * np.finfo(dtype).eps)
    np.testing.assert_allclose(same, scale, rtol=1e-6)


def test_unit_diagonal_of_other_things():
    scaled, scale = refine.unit_diagonal(tla.Diagonal(jnp.array([4.0, 9.0])))
    np.testing.assert_allclose(scaled, np.eye(2))
    np.testing.assert_allclose(scale, [1 / 2, 1 / 3])
    for wrong in (np.diag([1.0, 0.0]), scipy.sparse.csr_array(np.diag([1.0, -2.0]))):
        with pytest.raises(ValueError, match="positive diagonal"):
            refine.unit_diagonal(wrong)
    with pytest.raises(ValueError, match="square"):
        refine.unit_diagonal(scipy.sparse.csr_array(np.ones((2, 3))))
    with pytest.raises(ValueError, match="not known"):
        refine.unit_diagonal(tla.MatrixFree(lambda block: block, 3, np.dtype(float)))
    assert bool(jnp.isnan(jax.jit(refine.unit_diagonal)(-jnp.eye(2))[1]).all())
