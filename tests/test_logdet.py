"""The log determinant: its error in units of itself, its laws under change of the matrix, its faults, its slope."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import system
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit

import thermolinalg as tla
from thermolinalg.free_energy import BennettRatio, Jarzynski, Modes, ThermodynamicIntegration, acceptance_ratio
from thermolinalg.primitives.logdet import logdet
from thermolinalg.testing import SEEDS, assert_unit_variance, assert_within_stderr

KEY = jax.random.key(5)
TI, BAR = ThermodynamicIntegration(), BennettRatio()


def exact(A):
    return np.linalg.slogdet(np.asarray(A))[1]


def runs(A, n, estimator=TI, **rest):
    """Errors and standard errors of n independent estimates."""

    def one(key):
        out = logdet(A, key=key, estimator=estimator, **rest)
        return out.value, out.stderr

    values, stderrs = jax.jit(partial(jax.lax.map, one))(jax.random.split(KEY, n))
    return np.asarray(values) - exact(A), np.asarray(stderrs)


def modes(ratios):
    excess = jnp.asarray(ratios) - 1
    return Modes(excess, jnp.ones_like(excess), excess.min(), excess.max(), 1)


# The error, at the size that is promised: d = 64, condition number 100, 20,000 samples.


@pytest.fixture(scope="module")
def promised():
    return system(d=64, kappa=100.0)[0]


@pytest.fixture(scope="module", params=[(TI, 2000), (BAR, 300)], ids=["integration", "acceptance"])
def many(request, promised):
    estimator, n = request.param
    return runs(promised, n, estimator)


def assert_bias_below_a_tenth(errors):
    spread = errors.std(ddof=1)
    assert_within_stderr(np.maximum(abs(errors.mean()) - spread / 10, 0), spread / len(errors) ** 0.5, 0.0)


def test_the_promised_accuracy(many):
    errors, _ = many
    assert errors.std(ddof=1) <= 0.15
    assert_bias_below_a_tenth(errors)
    with pytest.raises(AssertionError):
        assert_bias_below_a_tenth(errors + 5 / 8 * errors.std())


def test_standard_errors_are_right(many):
    errors, stderrs = many
    assert_unit_variance(errors / stderrs)
    with pytest.raises(AssertionError):  # a mutation that forgets that ln Z holds half a log determinant
        assert_unit_variance(errors / (stderrs / 2))


def test_one_stage_of_acceptance_is_not_enough_and_says_so(promised):
    assert int(logdet(promised, key=KEY, estimator=BennettRatio(1)).status) == tla.Status.FEW_SAMPLES


def test_one_step_exponential_fails_at_that_size(promised):
    with pytest.raises(ValueError, match="infinite variance"):
        logdet(promised, key=KEY, estimator=Jarzynski())
    # With a reference that has finite variance the average still misses what dominates it, in every run.
    errors, stderrs = runs(promised, 20, Jarzynski(), reference=0.015)
    assert np.all(errors > 1)
    assert np.all(stderrs > 1e3)
    out = logdet(promised, key=KEY, estimator=Jarzynski(), reference=0.015)
    assert int(out.status) == tla.Status.FEW_SAMPLES


# Closed forms, by an independent route.


@pytest.mark.parametrize("samples", [5, 1203])
def test_thermal_error_and_quadrature_bias_are_those_of_the_formula(samples):
    rates = np.array([0.3, 0.9, 4.0, 11.0])
    for nodes in (1, 3, 5):
        out = logdet(
            tla.Diagonal(jnp.asarray(rates)), key=KEY, samples=samples, estimator=ThermodynamicIntegration(nodes)
        )
        a = np.sqrt(0.3 * 11.0)
        x, w = np.polynomial.legendre.leggauss(nodes)
        s, w = (x + 1) / 2, w / 2
        n = np.array([len(part) for part in np.array_split(np.arange(samples), nodes)])
        slope = (rates / a - 1) / (1 + s[:, None] * (rates / a - 1))
        variance = np.sum(w**2 * 2 * (slope**2).sum(1) / n)
        bias = np.sum(w @ slope) - np.sum(np.log(rates / a))
        np.testing.assert_allclose(out.stats["thermal"], np.sqrt(variance), rtol=1e-10)
        np.testing.assert_allclose(out.stats["bias"], bias, atol=1e-12)
        np.testing.assert_allclose(out.stderr, np.hypot(np.sqrt(variance), bias), rtol=1e-10)
        np.testing.assert_array_equal(np.asarray(out.stats["samples"]), n)


def test_the_bias_is_part_of_the_estimate():
    A = jnp.diag(jnp.array([1.0, 2.0, 50.0]))
    out = logdet(A, key=KEY, samples=10**7, estimator=ThermodynamicIntegration(2))
    assert_within_stderr(out.value - out.stats["bias"], out.stats["thermal"], exact(A))
    with pytest.raises(AssertionError):
        assert_within_stderr(out.value, out.stats["thermal"], exact(A))


@pytest.mark.parametrize("kappa", [1.0, 2.0, 100.0, 1e4, 1e6])
@pytest.mark.parametrize("skew", [1, 15])
def test_enough_nodes_are_chosen(kappa, skew):
    rates = np.append(np.ones(skew), kappa)
    out = logdet(tla.Diagonal(jnp.asarray(rates)), key=KEY)
    assert abs(float(out.stats["bias"])) <= 0.1 * float(out.stats["thermal"]) + 1e-12
    if kappa == 1.0:
        assert int(out.stats["nodes"]) == 1


def test_the_exponential_average_has_the_variance_of_its_closed_form():
    ratios = np.array([0.8, 0.9, 1.5])
    A = np.diag(ratios)
    errors, stderrs = runs(A, 1000, Jarzynski(), reference=1.0, samples=500)
    second = np.prod([quad(lambda x, r=r: np.exp(-(r - 0.5) * x**2), -20, 20)[0] for r in ratios])
    second *= (2 * np.pi) ** -1.5 * np.prod(ratios)
    variance = (second - 1) / 500
    np.testing.assert_allclose(stderrs, 2 * np.sqrt(variance + variance**2 / 4), rtol=1e-6)
    assert_unit_variance(errors / stderrs)
    with pytest.raises(AssertionError):  # a mutation: the work with the wrong sign
        assert_unit_variance((errors + 2 * np.log(ratios).sum()) / stderrs)


def test_acceptance_ratio_is_the_root_and_its_variance_that_over_keys():
    fall = 1.3
    keys = jax.random.split(KEY, 2000)
    z = jax.vmap(lambda key: jax.random.normal(key, (2, 400)))(keys)
    # Gaussian work of variance v: mean difference + v/2 forward and difference - v/2 in reverse.
    forward, reverse = fall + 0.5 + z[:, 0], fall - 0.5 + z[:, 1]
    x, variance, overlap = (np.asarray(y) for y in jax.jit(jax.vmap(acceptance_ratio))(forward, reverse))
    for i in range(3):
        f, r = np.asarray(forward[i]), np.asarray(reverse[i])
        root = brentq(lambda u, f=f, r=r: expit(u - f).sum() - expit(r - u).sum(), -50, 50, xtol=1e-13)
        np.testing.assert_allclose(x[i], root, rtol=1e-11)
    assert_unit_variance((x - fall) / np.sqrt(variance))
    c = quad(lambda u: stats.norm.pdf(u, 0.5) / (1 + np.exp(u)), -15, 15)[0]
    assert_within_stderr(overlap.mean(), overlap.std() / len(x) ** 0.5, c)
    assert_unit_variance((x - fall) / np.sqrt((1 / c - 2) / 400))
    with pytest.raises(AssertionError):  # a mutation: without the covariance that detailed balance takes out
        assert_unit_variance((x - fall) / np.sqrt(1 / c / 400))


def test_states_with_nothing_in_common_have_an_infinite_error():
    _, variance, overlap = acceptance_ratio(jnp.full(4, 4000.0), jnp.full(4, -4000.0))
    assert np.isinf(variance)
    assert overlap == 0


def test_stages_share_the_change_evenly():
    ratios = np.array([0.02, 1.0, 50.0])
    path = np.asarray(BAR(modes(ratios), KEY, 64).positions)
    spread = np.log((1 + path * 49) / (1 - path * 0.98))
    np.testing.assert_allclose(np.diff(spread), spread[-1] / 8)
    assert (path[0], path[-1]) == (0, 1)
    np.testing.assert_allclose(BAR(modes(np.ones(2)), KEY, 64).positions, np.linspace(0, 1, 9))


# Laws.


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([TI, BAR]), st.floats(-3, 3))
def test_a_factor_adds_its_logarithm(seed, estimator, digits):
    A, _, _ = system(d=5, kappa=10.0, seed=seed)
    c = 2.0 ** round(3 * digits)  # exact in binary, so that the spectrum scales to the last bit
    plain = logdet(A, key=KEY, estimator=estimator, samples=640, reference=0.3)
    scaled = logdet(c * A, key=KEY, estimator=estimator, samples=640, reference=0.3 * c)
    np.testing.assert_allclose(scaled.value, plain.value + 5 * np.log(c), atol=1e-9)
    np.testing.assert_allclose(scaled.stderr, plain.stderr, rtol=1e-8)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([TI, BAR]))
def test_rotation_and_relabelling_change_nothing(seed, estimator):
    A, _, _ = system(d=5, kappa=10.0, seed=seed)
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.standard_normal((5, 5)))[0], rng.permutation(5)
    turned = turn @ np.asarray(A) @ turn.T
    first = logdet(A, key=KEY, estimator=estimator, samples=640).value
    for B in ((turned + turned.T) / 2, np.asarray(A)[np.ix_(order, order)]):
        np.testing.assert_allclose(logdet(B, key=KEY, estimator=estimator, samples=640).value, first, atol=1e-9)


@pytest.mark.parametrize("estimator", [TI, BAR], ids=["integration", "acceptance"])
def test_every_operator_agrees_with_the_dense_matrix(estimator):
    A, B = (np.asarray(system(d=d, kappa=5.0, seed=d)[0]) for d in (3, 4))
    V = np.random.default_rng(0).standard_normal((12, 3))
    free = jax.tree_util.Partial(jnp.matmul, jnp.asarray(np.kron(A, B)))
    cases = [
        (tla.Kronecker((tla.Dense(jnp.asarray(A)), tla.Dense(jnp.asarray(B)))), 4 * exact(A) + 3 * exact(B)),
        (tla.LowRank(jnp.asarray(V), jnp.asarray(0.5)), exact(0.5 * np.eye(12) + V @ V.T)),
        (tla.Diagonal(jnp.arange(1.0, 13.0)), np.log(np.arange(1, 13)).sum()),
        (tla.MatrixFree(free, 12, jnp.dtype(float)), 4 * exact(A) + 3 * exact(B)),
    ]
    for operator, truth in cases:
        out = logdet(operator, key=KEY, estimator=estimator)
        assert int(out.status) == 0
        assert_within_stderr(out.value, out.stderr, truth)


@pytest.mark.parametrize("estimator", [TI, BAR], ids=["integration", "acceptance"])
@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.complex128])
def test_other_dtypes(dtype, estimator):
    A, _, _ = system(d=5, kappa=10.0, dtype=dtype)
    keys = jax.random.split(KEY, 400)
    out = jax.lax.map(lambda key: logdet(A, key=key, estimator=estimator, samples=2000), keys)
    assert out.value.dtype == out.stderr.dtype == np.finfo(dtype).dtype
    error = np.asarray(out.value, float) - exact(np.asarray(A, np.complex128))
    assert_unit_variance(error / np.asarray(out.stderr))
    if dtype == np.complex128:
        with pytest.raises(AssertionError):  # a mutation: two degrees of freedom taken for one
            assert_unit_variance(error / np.asarray(out.stderr) * np.sqrt(2))


# Matrix-free operators, known by a survey.


SIDE = 16


def product(shift, block):
    """The Laplacian of a square grid plus a shift, times a block."""
    grid = block.reshape(SIDE, SIDE, -1)
    up, down = jnp.pad(grid[1:], ((0, 1), (0, 0), (0, 0))), jnp.pad(grid[:-1], ((1, 0), (0, 0), (0, 0)))
    left, right = jnp.pad(grid[:, 1:], ((0, 0), (0, 1), (0, 0))), jnp.pad(grid[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return ((4 + shift) * grid - up - down - left - right).reshape(block.shape)


def laplacian(shift, probes=8):
    partial_product = jax.tree_util.Partial(product, shift)
    return tla.MatrixFree(partial_product, SIDE**2, jnp.dtype(float), survey_steps=32, probes=probes)


@pytest.fixture(scope="module")
def grid():
    one = 2 - 2 * np.cos(np.pi * np.arange(1, SIDE + 1) / (SIDE + 1))
    return laplacian(jnp.asarray(0.5)).factor(), 0.5 + np.add.outer(one, one).ravel()


@pytest.mark.parametrize("estimator", [TI, BAR], ids=["integration", "acceptance"])
def test_a_survey_is_close_to_the_grid_laplacian(grid, estimator):
    operator, rates = grid
    out = logdet(operator, key=KEY, samples=2000, estimator=estimator)
    assert_within_stderr(out.value, out.stderr, np.log(rates).sum())
    # The survey is most of the error. Its bound, (2/p) of the squared deviation of the logarithms:
    bound = np.sqrt(2 / 8 * np.sum((np.log(rates) - np.log(rates).mean()) ** 2))
    np.testing.assert_allclose(out.stats["survey"], bound, rtol=0.15)
    assert int(out.status) == 0


def test_the_bound_on_the_survey_holds_over_many_matrices(grid):
    # Random signs of the unknowns are as good as other probes.
    operator, rates = grid

    def flipped(signs, block):
        return signs * operator.product(signs * block)

    errors = []
    for seed in range(12):
        signs = jnp.asarray(np.random.default_rng(seed).choice([-1.0, 1.0], (256, 1)))
        turned = jax.tree_util.Partial(flipped, signs)
        turned = tla.MatrixFree(turned, SIDE**2, jnp.dtype(float), survey_steps=32, probes=4)
        out = logdet(turned, key=KEY)
        errors.append((float(out.value) - np.log(rates).sum()) / float(out.stderr))
    square = np.mean(np.square(errors))
    assert square < 3.7  # chi-squared with 12 degrees of freedom, false alarm 1e-5
    assert square > 0.05


# Faults.


@pytest.mark.parametrize(
    ("A", "rest", "message"),
    [
        (np.diag([1.0, -2.0]), {}, "A is not positive definite"),
        (np.eye(2), {"samples": 0}, "samples must be a whole number"),
        (np.eye(2), {"samples": 10.0}, "samples must be a whole number"),
        (np.eye(2), {"samples": 4, "estimator": ThermodynamicIntegration(5)}, "samples must be at least one for each"),
        (np.eye(2), {"samples": 31, "estimator": BAR}, "samples must be at least 32"),
        (np.eye(2), {"reference": 0.0}, "reference must be positive"),
        (np.eye(2), {"reference": -1.0}, "reference must be positive"),
        (np.eye(2), {"reference": np.nan}, "reference must be positive"),
        (np.diag([1.0, 9.0]), {"estimator": Jarzynski()}, "needs reference < 2, twice"),
    ],
)
def test_bad_input_is_refused_by_name(A, rest, message):
    with pytest.raises(ValueError, match=message):
        logdet(A, key=KEY, **rest)


@pytest.mark.parametrize("make", [lambda: ThermodynamicIntegration(0), lambda: BennettRatio(0)])
def test_counts_of_an_estimator_are_checked(make):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        make()


def test_under_jit_faults_are_a_status():
    run = jax.jit(lambda A, a, e: logdet(A, key=KEY, estimator=e, reference=a))
    out = run(jnp.diag(jnp.array([1.0, -2.0])), 1.0, TI)
    assert int(out.status) == tla.Status.NOT_POSITIVE_DEFINITE
    assert np.isnan(out.value)
    out = run(jnp.diag(jnp.array([1.0, 9.0])), 3.0, Jarzynski())
    assert int(out.status) == tla.Status.INFINITE_VARIANCE
    assert np.isinf(out.stderr)
    assert int(run(jnp.eye(2), -1.0, TI).status) & tla.Status.NOT_FINITE
    assert int(run(jnp.eye(2), 1.0, TI).status) == 0


# Edges, the device, and transformations.


def test_one_sample_is_enough():
    A = jnp.diag(jnp.array([1.0, 4.0]))
    errors, stderrs = runs(A, 4000, samples=1)
    assert_unit_variance(errors / stderrs, kurtosis=15.0)  # a sum of chi-squared variables; 15 is that of one
    errors, stderrs = runs(A, 4000, Jarzynski(), samples=1, reference=1.5)
    assert np.all(np.isfinite(errors))


def test_one_unknown_and_no_coupling():
    out = logdet(jnp.array([[3.0]]), key=KEY)
    np.testing.assert_allclose(out.value, np.log(3.0), rtol=1e-12)  # the reference is the answer
    for estimator in (TI, BAR, Jarzynski()):
        same = logdet(2 * jnp.eye(3), key=KEY, estimator=estimator)
        np.testing.assert_allclose(same.value, 3 * np.log(2.0), rtol=1e-12)
        np.testing.assert_allclose(same.stderr, 0, atol=1e-12)


def test_temperature_drops_out_and_friction_costs_time():
    A, _, _ = system(d=5, kappa=10.0)
    plain = logdet(A, key=KEY)
    hot = logdet(A, key=KEY, device=tla.Device(beta=1e-4))
    assert plain.value == hot.value
    assert plain.stderr == hot.stderr
    quick = logdet(A, key=KEY, device=tla.Device(simulator=tla.Law(long_time=True)))
    np.testing.assert_allclose(quick.value, plain.value, rtol=1e-12)
    heavy = logdet(A, key=KEY, device=tla.Device(dynamics=tla.Underdamped(mass=1.0, friction=100.0)))
    # Overdamped in the limit of friction, with time in units of it.
    ratio = heavy.stats["device_time"] / plain.stats["device_time"]
    np.testing.assert_allclose(ratio, 100, rtol=1e-3)


def test_samples_are_spaced_until_squares_forget():
    rates = np.array([0.2, 1.0, 3.0])
    out = logdet(np.diag(rates), key=KEY, samples=1000, estimator=ThermodynamicIntegration(4), reference=0.5)
    slowest = np.array([(0.5 + s * (rates - 0.5)).min() for s in np.asarray(out.stats["positions"])])
    np.testing.assert_allclose(np.exp(-2 * slowest * np.asarray(out.stats["spacing"])), 1e-3)
    np.testing.assert_allclose(out.stats["device_time"], 250 * np.sum(np.log(1e3) / (2 * slowest)))


@pytest.mark.parametrize("estimator", [TI, BAR], ids=["integration", "acceptance"])
def test_jit_and_vmap_give_the_same_numbers(estimator):
    run = partial(logdet, estimator=estimator, samples=640)
    matrices = jnp.stack([system(d=5, kappa=10.0 * (1 + seed), seed=seed)[0] for seed in range(2)])
    keys = jax.random.split(KEY, 2)
    batch = jax.jit(jax.vmap(lambda A, key: run(A, key=key)))(matrices, keys)
    for i in range(2):
        one = run(matrices[i], key=keys[i])
        np.testing.assert_allclose(batch.value[i], one.value, rtol=1e-9)
        np.testing.assert_allclose(batch.stderr[i], one.stderr, rtol=1e-9)
        assert batch.stats["nodes"][i] == one.stats["nodes"]
    assert one.value != run(matrices[1], key=keys[0]).value


# The slope.


def test_the_gradient_is_the_inverse():
    A, _, _ = system(d=5, kappa=10.0)
    value = jax.grad(lambda A: logdet(A, key=KEY, samples=10).value)
    inverse = np.linalg.inv(A)
    np.testing.assert_allclose(value(A), inverse, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(jax.jit(value)(A), inverse, rtol=1e-9, atol=1e-9)
    hessian = jax.hessian(lambda A: logdet(A, key=KEY, samples=10).value)(A)
    np.testing.assert_allclose(hessian, -np.einsum("jk,li->ijkl", inverse, inverse), rtol=1e-7, atol=1e-7)


def test_the_gradient_of_a_hermitian_matrix():
    A, _, _ = system(d=4, kappa=10.0, dtype=np.complex128)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4))
    change = jnp.asarray(x + x.conj().T)

    def along(t):
        return logdet(A + t.astype(complex) * change, key=KEY, samples=10).value

    truth = np.trace(np.linalg.solve(A, change)).real
    np.testing.assert_allclose(jax.jvp(along, (jnp.zeros(()),), (jnp.ones(()),))[1], truth, rtol=1e-9)
    np.testing.assert_allclose(jax.grad(along)(jnp.zeros(())), truth, rtol=1e-9)


def test_the_gradient_reaches_the_parts_of_structured_operators():
    A, B = (system(d=d, kappa=5.0, seed=d)[0] for d in (3, 4))
    V = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2)))
    values = jnp.array([1.0, 2.0, 4.0])

    def slope(operator):
        return jax.grad(lambda operator: logdet(operator, key=KEY, samples=10).value)(operator)

    left, right = slope(tla.Kronecker((tla.Dense(A), tla.Dense(B)))).factors
    np.testing.assert_allclose(left.matrix, 4 * np.linalg.inv(A), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(right.matrix, 3 * np.linalg.inv(B), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(slope(tla.Diagonal(values)).values, 1 / values, rtol=1e-12)
    low = slope(tla.LowRank(V, jnp.asarray(0.5)))
    inverse = np.linalg.inv(0.5 * np.eye(6) + V @ V.T)
    np.testing.assert_allclose(low.shift, np.trace(inverse), rtol=1e-9)
    np.testing.assert_allclose(low.columns, 2 * inverse @ V, rtol=1e-9, atol=1e-12)


def test_the_slope_of_a_matrix_free_operator_is_estimated(grid):
    _, rates = grid

    def slope(key):
        return jax.grad(lambda shift: logdet(laplacian(shift), key=key, samples=10).value)(jnp.asarray(0.5))

    found = np.asarray(jax.jit(partial(jax.lax.map, slope))(jax.random.split(KEY, 6)))
    assert len(set(found.tolist())) == 6
    # 48 probes in all; the variance of one is below twice the squared deviation of the inverse.
    spread = np.sqrt(2 * np.sum((1 / rates - np.mean(1 / rates)) ** 2) / 48)
    assert_within_stderr(found.mean(), spread, np.sum(1 / rates))
