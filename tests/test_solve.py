"""The solve primitive: law against trajectory against closed form, honest errors, symmetries, derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import exact_run, system

import thermolinalg as tla
from thermolinalg.testing import (
    assert_slope,
    assert_unit_variance,
    assert_within_stderr,
    right_hand_sides,
    spd_matrices,
)

KEY = jax.random.key(0)
MASS, FRICTION = 1.5, 0.7
BURN_IN, DURATION = 4.0, 11.0


def reference(A, b, beta, underdamped):
    """Mean and covariance of average, end position (and end momentum), by block exponentials."""
    A, b = np.asarray(A), np.asarray(b)
    d = len(b)
    if not underdamped:
        return exact_run(A, b, 2 / beta * np.eye(d), BURN_IN, DURATION)
    drift = np.block([[np.zeros((d, d)), -np.eye(d) / MASS], [A, FRICTION / MASS * np.eye(d)]])
    noise = np.zeros((2 * d, 2 * d))
    noise[d:, d:] = 2 * FRICTION / beta * np.eye(d)
    mean, covariance = exact_run(drift, np.r_[np.zeros(d), b], noise, BURN_IN, DURATION)
    keep = np.r_[0:d, 2 * d : 4 * d]
    return mean[keep], covariance[np.ix_(keep, keep)]


def dynamics(underdamped):
    return tla.Underdamped(MASS, FRICTION) if underdamped else tla.Overdamped()


@partial(jax.jit, static_argnums=4)
def many(program, b, plan, keys, with_state=False, x0=None):
    """Runs with independent keys, as one array (runs, d) or (runs, components, d)."""

    def run(key):
        x = tla.solve(program, b, key=key, plan=plan, x0=x0)
        return jnp.stack([x.value, *jax.tree.leaves(x.stats["state"])]) if with_state else x.value

    return jax.vmap(run)(keys)


@pytest.mark.parametrize("underdamped", [False, True])
@pytest.mark.parametrize("simulator", [tla.Law(), tla.Trajectory(steps=7)])
def test_readings_follow_the_closed_form(simulator, underdamped):
    """Mean and covariance of average and end state, in units of their standard errors, against block exponentials."""
    A, b, _ = system(d=4, kappa=20.0)
    beta, n = 3.0, 20_000
    program = tla.Device(beta=beta, dynamics=dynamics(underdamped), simulator=simulator).program(A)
    runs = np.asarray(many(program, b, tla.Plan(BURN_IN, DURATION), jax.random.split(KEY, n), True)).reshape(n, -1)
    mean, covariance = reference(A, b, beta, underdamped)
    variance = np.diag(covariance)
    assert_within_stderr(runs.mean(0), np.sqrt(variance / n), mean)
    centred = runs - mean
    found = centred.T @ centred / n
    spread = np.sqrt((covariance**2 + np.outer(variance, variance)) / n)
    assert_within_stderr(found, spread, covariance)
    for wrong in (1.05 * covariance, covariance - 0.3 * np.triu(covariance, 1)):
        with pytest.raises(AssertionError):
            assert_within_stderr(found, spread, wrong)


@pytest.mark.parametrize("underdamped", [False, True])
def test_a_sampled_run_is_the_mean_of_points_on_the_trajectory(underdamped):
    A, b, _ = system(d=4, kappa=20.0)
    n, plan = 4000, tla.Plan(0.5, DURATION, samples=6)
    law, trajectory = (
        np.asarray(many(tla.Device(3.0, dynamics(underdamped), sim).program(A), b, plan, jax.random.split(KEY, n)))
        for sim in (tla.Law(), tla.Trajectory())
    )
    error = np.sqrt((law.var(0) + trajectory.var(0)) / n)
    assert_within_stderr(law.mean(0), error, trajectory.mean(0))
    ratio = law.var(0) / trajectory.var(0)
    assert_within_stderr(ratio, 2 / np.sqrt(n), 1.0)
    with pytest.raises(AssertionError):
        assert_within_stderr(1.3 * ratio, 2 / np.sqrt(n), 1.0)


@pytest.mark.parametrize("underdamped", [False, True])
@pytest.mark.parametrize("warm", [False, True])
def test_stderr_is_honest_transient_included(underdamped, warm):
    """Unit mean square of (value - truth) / stderr over keys, for runs too short to have settled."""
    A, b, x = system(kappa=100.0)
    program = tla.Device(beta=2.0, dynamics=dynamics(underdamped)).program(A)
    start = tla.State(jnp.asarray(0.5 * x), jnp.ones(12) if underdamped else None) if warm else None
    plan = tla.Plan(3.0, 10.0)
    stderr = np.asarray(tla.solve(program, b, key=KEY, plan=plan, x0=start).stderr)
    values = np.asarray(many(program, b, plan, jax.random.split(KEY, 4000), x0=start))
    # With a transient z is Gaussian around another mean, and the mean square varies less than a chi-square does.
    assert_unit_variance((values - x) / stderr)
    with pytest.raises(AssertionError):
        assert_unit_variance((values - x) / (0.9 * stderr))


def test_stderr_of_the_long_time_law_is_honest_although_it_is_estimated():
    A, b, x = system(kappa=10.0)
    program = tla.Device(simulator=tla.Law(long_time=True)).program(A)
    runs = jax.vmap(lambda key: tla.solve(program, b, key=key, plan=tla.Plan(100.0, 1e4)))(jax.random.split(KEY, 8000))
    z = (np.asarray(runs.value) - x) / np.asarray(runs.stderr)
    # z is sqrt(6/8) times Student's t of 8 degrees, whose mean square is 8/6 and whose kurtosis is 4.5.
    assert_unit_variance(z, kurtosis=4.5)
    with pytest.raises(AssertionError):
        assert_unit_variance(1.15 * z, kurtosis=4.5)
    exact = np.sqrt(2 / 1e4 * np.diag(np.linalg.matrix_power(np.linalg.inv(A), 2)))
    assert_unit_variance((np.asarray(runs.value) - x) / exact)


def test_long_time_and_exact_law_agree_on_a_plan_that_says_so():
    A, b, _ = system(kappa=5.0)
    plan = tla.plan.solve(A, b, rtol=5e-3)
    assert plan.long_time
    short, long = (
        np.asarray(many(tla.Device(simulator=sim).program(A), b, plan, jax.random.split(KEY, 8000))).std(0)
        for sim in (tla.Law(), tla.Law(long_time=True))
    )
    # 1 % of variance is 0.5 % of a standard deviation, itself known to 1/sqrt(2 n) from each side.
    assert_within_stderr(long / short, np.hypot(0.005, 1 / np.sqrt(8000)), 1.0)


def test_complex_hermitian_systems():
    A, b, x = system(d=6, kappa=20.0, dtype=np.complex128)
    program = tla.Device().program(A)
    plan = tla.plan.solve(program, b, rtol=0.05)
    runs = jax.vmap(lambda key: tla.solve(program, b, key=key, plan=plan))(jax.random.split(KEY, 4000))
    values, stderr = np.asarray(runs.value), np.asarray(runs.stderr)
    assert values.dtype == np.complex128
    assert stderr.dtype == np.float64
    assert_unit_variance((values - x) / stderr, kurtosis=2.2)
    embedded = np.block([[A.real, -A.imag], [A.imag, A.real]])
    twin = tla.plan.solve(embedded, np.r_[b.real, b.imag], rtol=0.05)
    np.testing.assert_allclose(plan.total, twin.total, rtol=1e-6)


def test_every_operator_gives_one_law():
    """With one key and white noise in the original basis the draw does not depend on how the operator is stored."""
    rng = np.random.default_rng(3)
    left, right = (g @ g.T / 5 + np.eye(n) for n in (3, 4) for g in [rng.standard_normal((n, 5))])
    columns = rng.standard_normal((12, 2))
    stored = [
        (np.kron(left, right), tla.Kronecker((tla.Dense(jnp.asarray(left)), tla.Dense(jnp.asarray(right))))),
        (np.diag(np.arange(1.0, 13)), tla.Diagonal(jnp.arange(1.0, 13))),
        (0.5 * np.eye(12) + columns @ columns.T, tla.LowRank(jnp.asarray(columns), 0.5)),
    ]
    b = jnp.asarray(rng.standard_normal(12))
    for matrix, operator in stored:
        matrix = jnp.asarray(matrix)
        free = tla.MatrixFree(jax.tree_util.Partial(jnp.matmul, matrix), 12, jnp.dtype(float), rtol=1e-13)
        dense, *others = (tla.solve(A, b, key=KEY, plan=tla.Plan(1.0, 5.0)) for A in (matrix, operator, free))
        for other in others:
            np.testing.assert_allclose(other.value, dense.value, rtol=1e-9, atol=1e-11)
            state, twin = other.stats["state"].position, dense.stats["state"].position
            np.testing.assert_allclose(state, twin, rtol=1e-9, atol=1e-11)


def test_matrix_free_stderr_is_right_on_average_over_entries():
    A, b, x = system(d=40, kappa=10.0)
    free = tla.MatrixFree(jax.tree_util.Partial(jnp.matmul, A), 40, A.dtype, probes=32)
    program = tla.Device().program(free)
    plan = tla.Plan(30.0, 300.0)
    stderr = np.asarray(tla.solve(program, b, key=KEY, plan=plan).stderr)
    assert np.ptp(stderr) == 0
    values = np.asarray(many(tla.Device().program(A), b, plan, jax.random.split(KEY, 2000)))
    square = np.mean(((values - x) / stderr) ** 2)
    # 32 probes estimate the trace of v(A) to a relative sqrt(2 tr v^2 / 32) / tr v.
    v = 2 / 300 / np.linalg.eigvalsh(A) ** 2
    assert abs(square - 1) < 4 * np.sqrt(2 * np.sum(v**2) / 32) / np.sum(v)


def test_error_falls_as_the_square_root_of_time():
    A, b, x = system(kappa=10.0)
    program = tla.Device().program(A)
    times = np.geomspace(1e3, 1e5, 6)
    batches = jax.random.split(KEY, (6, 400))
    values = [np.asarray(many(program, b, tla.Plan(100.0, t), keys)) for t, keys in zip(times, batches, strict=True)]
    error = np.array([np.sqrt(np.mean((v - x) ** 2)) for v in values])
    # One mode alone would give the rms of 400 runs this spread; sharing it between modes gives less.
    assert_slope(times, error, -0.5, stderr=error / np.sqrt(2 * 400))


def test_the_average_does_not_depend_on_whether_the_end_state_is_drawn():
    """Law of the average alone: mean and covariance are the first block of the joint law."""
    A, b, _ = system(d=4, kappa=20.0)
    n, device = 20_000, tla.Device(beta=3.0, simulator=tla.Law(end_state=False))
    program = device.program(A)
    assert tla.solve(program, b, key=KEY, plan=tla.Plan(1.0, 1.0)).stats["state"] is None
    runs = np.asarray(many(program, b, tla.Plan(BURN_IN, DURATION), jax.random.split(KEY, n)))
    mean, covariance = (part[:4] for part in reference(A, b, 3.0, False))
    covariance = covariance[:, :4]
    assert_within_stderr(runs.mean(0), np.sqrt(np.diag(covariance) / n), mean)
    spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / n)
    found = (runs - mean).T @ (runs - mean) / n
    assert_within_stderr(found, spread, covariance)
    with pytest.raises(AssertionError):
        assert_within_stderr(found, spread, 0.94 * covariance)


def test_a_run_continues_where_it_ended():
    """Average over [t0, t0 + tau] from two halves: same law as in one go."""
    A, b, _ = system(d=4, kappa=20.0)
    program = tla.Device(beta=3.0).program(A)

    @jax.jit
    def halves(key):
        first, second = jax.random.split(key)
        a = tla.solve(program, b, key=first, plan=tla.Plan(BURN_IN, DURATION / 2))
        c = tla.solve(program, b, key=second, plan=tla.Plan(0.0, DURATION / 2), x0=a.stats["state"])
        return jnp.concatenate([(a.value + c.value) / 2, c.stats["state"].position])

    n = 20_000
    runs = np.asarray(jax.vmap(halves)(jax.random.split(KEY, n)))
    mean, covariance = reference(A, b, 3.0, False)
    assert_within_stderr(runs.mean(0), np.sqrt(np.diag(covariance) / n), mean)
    spread = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / n)
    found = (runs - mean).T @ (runs - mean) / n
    assert_within_stderr(found, spread, covariance)
    with pytest.raises(AssertionError):
        assert_within_stderr(found, spread, 0.94 * covariance)


# --- symmetries of the law


@given(A=spd_matrices(dims=st.just(5)), data=st.data(), scale=st.sampled_from([1e-8, 0.3, 1e8]))
def test_scaling_the_system_leaves_the_answer(A, data, scale):
    """solve(cA, cb) at beta/c and times/c is solve(A, b) at beta, draw by draw."""
    b = jnp.asarray(data.draw(right_hand_sides(A)))
    A = jnp.asarray(A)
    one = tla.solve(A, b, key=KEY, plan=tla.Plan(5.0, 50.0), device=tla.Device(beta=1.0))
    plan = tla.Plan(5.0 / scale, 50.0 / scale)
    other = tla.solve(scale * A, scale * b, key=KEY, plan=plan, device=tla.Device(beta=1.0 / scale))
    np.testing.assert_allclose(other.value, one.value, rtol=1e-9, atol=1e-9 * float(jnp.abs(one.value).max()))
    np.testing.assert_allclose(other.stderr, one.stderr, rtol=1e-9)


def test_rotation_and_permutation_of_the_system_rotate_the_law():
    A, b, _ = system(d=5)
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((5, 5)))[0]
    permutation = np.eye(5)[[3, 0, 4, 1, 2]]
    n, plan = 20_000, tla.Plan(2.0, 30.0)
    keys = jax.random.split(KEY, n)
    plain = np.asarray(many(tla.Device().program(A), b, plan, keys))
    for turn in (rotation, permutation):
        turned = np.asarray(many(tla.Device().program(turn @ A @ turn.T), jnp.asarray(turn @ b), plan, keys))
        back = turned @ turn
        assert_within_stderr(back.mean(0), plain.std(0) * np.sqrt(2 / n), plain.mean(0))
        variance = np.outer(plain.var(0), plain.var(0))
        assert_within_stderr(np.cov(back.T), np.sqrt(2 * (np.cov(plain.T) ** 2 + variance) / n), np.cov(plain.T))


def test_without_noise_the_average_is_linear_in_the_force():
    A, b, _ = system()
    device, plan = tla.Device(beta=1e30), tla.Plan(1.0, 3.0)
    one, two, both = (tla.solve(A, f, key=KEY, plan=plan, device=device).value for f in (b, jnp.ones(12), 2 * b - 1.0))
    np.testing.assert_allclose(both, 2 * one - two, atol=1e-11)


@given(A=spd_matrices(dims=st.sampled_from([1, 3, 8])), data=st.data())
def test_without_noise_a_planned_answer_is_within_the_tolerance(A, data):
    b = data.draw(right_hand_sides(A))
    x = tla.solve(A, b, key=KEY, rtol=1e-4, device=tla.Device(beta=1e30))
    exact = np.linalg.solve(A, b)
    assert np.linalg.norm(x.unwrap() - exact) <= 1e-4 * np.linalg.norm(exact)


# --- derivatives and transformations


@pytest.mark.parametrize("simulator", [tla.Law(), tla.Law(long_time=True), tla.Trajectory(10)])
def test_derivatives_are_those_of_the_implicit_function(simulator):
    A, b, _ = system(d=5, kappa=4.0)
    device, plan = tla.Device(beta=1e28, simulator=simulator), tla.Plan(200.0, 10.0)

    def loss(solver, A, b):
        return jnp.sum(jnp.sin(solver(A, b)))

    def ours(A, b):
        return tla.solve(A, b, key=KEY, plan=plan, device=device).value

    for mode in (jax.grad, jax.jacfwd):
        got = mode(partial(loss, ours), argnums=(0, 1))(A, b)
        exact = mode(partial(loss, jnp.linalg.solve), argnums=(0, 1))(A, b)
        for a, e in zip(got, exact, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)


def test_derivatives_through_lanczos():
    A, b, _ = system(d=6, kappa=4.0)

    def loss(A, b):
        free = tla.MatrixFree(jax.tree_util.Partial(jnp.matmul, A), 6, A.dtype, rtol=1e-13)
        return jnp.sum(tla.solve(free, b, key=KEY, plan=tla.Plan(200.0, 10.0), device=tla.Device(beta=1e28)).value ** 2)

    got = jax.grad(loss, argnums=(0, 1))(A, b)
    exact = jax.grad(lambda A, b: jnp.sum(jnp.linalg.solve(A, b) ** 2), argnums=(0, 1))(A, b)
    for a, e in zip(got, exact, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-8, atol=1e-8)


def test_noise_of_one_run_does_not_enter_the_derivative_of_its_force():
    A, b, _ = system(d=5, kappa=4.0)
    slopes = [
        jax.jacfwd(lambda b, key=key: tla.solve(A, b, key=key, plan=tla.Plan(1.0, 2.0)).value)(b)
        for key in jax.random.split(KEY, 2)
    ]
    np.testing.assert_array_equal(*slopes)


def test_columns_are_independent_runs():
    A, b, _ = system()
    block = jnp.stack([b, b], 1)
    x = tla.solve(A, block, key=KEY, plan=tla.Plan(5.0, 50.0))
    assert x.value.shape == x.stderr.shape == (12, 2)
    noise = np.asarray(x.value[:, 0] - x.value[:, 1])
    assert_within_stderr(noise, np.sqrt(2) * np.asarray(x.stderr[:, 0]), 0.0)
    assert np.all(noise != 0)


def test_sharded_operands_give_the_numbers_of_one_device():
    A, b, _ = system(d=16)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("rows",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
    spread = jax.device_put(A, rows), jax.device_put(b, rows)
    for simulator in (tla.Law(), tla.Law(long_time=True), tla.Trajectory(10)):
        device, plan = tla.Device(simulator=simulator), tla.Plan(5.0, 20.0)
        one, many_ = (tla.solve(*pair, key=KEY, plan=plan, device=device) for pair in ((A, b), spread))
        np.testing.assert_allclose(many_.value, one.value, rtol=1e-10)
        np.testing.assert_allclose(many_.stderr, one.stderr, rtol=1e-10)


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from primitives(getattr(inner, "jaxpr", inner))


def test_no_direct_solver_stands_in_the_exact_law():
    A, b, _ = system()

    def used(simulator):
        device = tla.Device(simulator=simulator)
        return set(
            primitives(jax.make_jaxpr(lambda A, b: tla.solve(A, b, key=KEY, rtol=0.1, device=device).value)(A, b).jaxpr)
        )

    direct = {"lu", "lu_pivots_to_permutation", "cholesky", "triangular_solve", "custom_linear_solve"}
    assert "eigh" in used(tla.Law())
    assert used(tla.Law()) & direct == set()
    assert used(tla.Trajectory()) & direct == set()
    # The long-time draw is a Cholesky solve and says so: the test can see one.
    long = jax.make_jaxpr(
        lambda A, b: (
            tla.solve(
                A, b, key=KEY, plan=tla.Plan(1.0, 1.0), device=tla.Device(simulator=tla.Law(long_time=True))
            ).value
        )
    )(A, b)
    assert {"cholesky", "triangular_solve"} <= set(primitives(long.jaxpr))
