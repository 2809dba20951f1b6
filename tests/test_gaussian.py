"""Samples of a Gaussian law: their mean and covariance, in units of standard error, and the paths they lie on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from problems import system

import thermolinalg as tla
from thermolinalg.testing import assert_unit_variance, assert_within_stderr

KEY = jax.random.key(3)
COUNT = 4000


def assert_gaussian(samples, mean, covariance, effective=COUNT):
    """Mean and second moments of samples, each in units of its own standard error."""
    samples, mean, covariance = (np.asarray(x) for x in (samples, mean, covariance))
    own = np.diagonal(covariance).real
    assert_within_stderr(samples.mean(0), np.sqrt(own / effective), mean)
    centred = samples - mean
    second = centred.T @ centred.conj() / len(samples)
    spread = own[:, None] * own[None] + (0 if np.iscomplexobj(samples) else covariance**2)
    assert_within_stderr(second, np.sqrt(spread / effective), covariance)


OPERATORS = {
    "dense": jnp.asarray,
    "program": lambda A: tla.Device().program(A),
    "sparse": lambda A: scipy.sparse.csr_array(np.asarray(A)),
    "free": lambda A: tla.MatrixFree(jax.tree_util.Partial(jnp.matmul, A), len(A), A.dtype),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_independent_samples_have_the_law(kind):
    A, b, x = system(d=5, kappa=10.0)
    out = tla.gaussian(OPERATORS[kind](A), b, key=KEY, samples=COUNT)
    assert_gaussian(out.value, x, np.linalg.inv(A))
    np.testing.assert_allclose(out.stats["mean"], x, rtol=1e-5)
    assert np.all(np.asarray(out.stderr) == 0)
    assert int(out.status) == 0


def test_structured_operators_have_the_law():
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((5, 2))
    low_rank = tla.LowRank(jnp.asarray(columns), jnp.asarray(0.5))
    product = tla.Kronecker((tla.Dense(system(d=2)[0]), tla.Diagonal(jnp.array([1.0, 3.0]))))
    for operator in (low_rank, product, tla.Diagonal(jnp.array([0.5, 2.0]))):
        matrix = np.asarray(operator.matmat(jnp.eye(operator.dim)))
        out = tla.gaussian(operator, key=KEY, samples=COUNT)
        assert_gaussian(out.value, np.zeros(len(matrix)), np.linalg.inv(matrix))


def test_temperature_scales_the_covariance_and_the_cholesky_factor_serves():
    A, b, x = system(d=5, kappa=10.0)
    device = tla.Device(beta=4.0, simulator=tla.Law(long_time=True))
    out = tla.gaussian(A, b, key=KEY, samples=COUNT, device=device)
    assert_gaussian(out.value, x, np.linalg.inv(A) / 4)


def test_complex_samples_have_the_precision_of_each_part():
    A, b, x = system(d=4, kappa=10.0, dtype=np.complex128)
    out = tla.gaussian(A, b, key=KEY, samples=COUNT)
    assert_gaussian(out.value, x, 2 * np.linalg.inv(A))


def test_a_wrong_temperature_is_seen():
    A, b, x = system(d=5, kappa=10.0)
    out = tla.gaussian(A, b, key=KEY, samples=COUNT, device=tla.Device(beta=1.2))
    with pytest.raises(AssertionError, match="standard errors off"):
        assert_gaussian(out.value, x, np.linalg.inv(A))


@pytest.mark.parametrize("dynamics", [tla.Overdamped(), tla.Underdamped(mass=0.5, friction=0.7)])
def test_a_path_has_the_law_of_the_run_at_every_sample(dynamics):
    A, b, _ = system(d=3, kappa=4.0)
    plan, keys = tla.Plan(0.4, 1.5, 3), jax.random.split(KEY, COUNT)
    program = tla.Device(dynamics=dynamics).program(A)
    paths = jax.jit(jax.vmap(lambda key: tla.gaussian(program, b, key=key, plan=plan).value))(keys)
    rates, modes = np.linalg.eigh(A)
    for k, time in enumerate((0.4, 0.9, 1.4)):
        law = program.machine.law(jnp.asarray(rates), tla.Schedule(time, 0.0))
        mean = modes @ (np.asarray(law.force[0]) * (modes.T @ b))
        assert_gaussian(paths[:, k], mean, (modes * np.asarray(law.covariance[0, 0])) @ modes.T)


def test_neighbours_on_a_path_are_correlated_as_they_should_be():
    A, _, _ = system(d=3, kappa=4.0)
    plan, keys = tla.Plan(40.0, 1.0, 2), jax.random.split(KEY, COUNT)
    paths = jax.jit(jax.vmap(lambda key: tla.gaussian(A, key=key, plan=plan).value))(keys)
    rates, modes = np.linalg.eigh(A)
    lagged = (modes * (np.exp(-0.5 * rates) / rates)) @ modes.T
    own = np.diagonal(np.linalg.inv(A))
    found = np.asarray(paths[:, 1]).T @ np.asarray(paths[:, 0]) / COUNT
    stderr = np.sqrt((own[:, None] * own[None] + lagged**2) / COUNT)
    assert_within_stderr(found, stderr, lagged)
    with pytest.raises(AssertionError):
        assert_within_stderr(np.asarray(paths[:, 0]).T @ np.asarray(paths[:, 0]) / COUNT, stderr, lagged)


def test_a_path_without_eigenvectors_has_the_same_law():
    A, b, _ = system(d=3, kappa=4.0)
    plan, keys = tla.Plan(0.4, 1.0, 2), jax.random.split(KEY, COUNT)
    columns = jnp.asarray(np.linalg.cholesky(A - 0.2 * np.eye(3)))
    operator = tla.LowRank(columns, jnp.asarray(0.2))
    paths = jax.jit(jax.vmap(lambda key: tla.gaussian(operator, b, key=key, plan=plan).value))(keys)
    rates, modes = np.linalg.eigh(A)
    mean = modes @ (-np.expm1(-0.9 * rates) / rates * (modes.T @ b))
    assert_gaussian(paths[:, 1], mean, (modes * (-np.expm1(-1.8 * rates) / rates)) @ modes.T)


def test_stderr_is_what_the_start_leaves_in_the_mean():
    A, b, x = system(d=3, kappa=4.0)
    out = tla.gaussian(A, b, key=KEY, plan=tla.Plan(0.4, 1.5, 3))
    rates, modes = np.linalg.eigh(A)
    left = modes @ (np.exp(-0.4 * rates) * (modes.T @ x))
    np.testing.assert_allclose(out.stderr, np.broadcast_to(np.abs(left), (3, 3)), rtol=1e-9)


def test_derivatives_of_averages_are_those_of_the_law():
    A, b, _ = system(d=3, kappa=4.0)

    def energy(A, b, key):
        x = tla.gaussian(A, b, key=key).value[0]
        return jnp.sum(x**2)

    def exact(A, b):
        inverse = jnp.linalg.inv(A)
        return jnp.trace(inverse) + jnp.sum((inverse @ b) ** 2)

    draws = jax.jit(jax.vmap(jax.grad(energy, (0, 1)), (None, None, 0)))(A, b, jax.random.split(KEY, COUNT))
    for found, truth in zip(draws, jax.grad(exact, (0, 1))(A, b), strict=True):
        spread = np.asarray(found).std(0, ddof=1) / np.sqrt(COUNT)
        assert_within_stderr(np.asarray(found).mean(0), spread, truth, degrees=COUNT - 1)
        with pytest.raises(AssertionError):
            assert_within_stderr(np.asarray(found).mean(0), spread, 2 * truth, degrees=COUNT - 1)


def test_a_chi_square_of_the_samples():
    A, b, x = system(d=5, kappa=100.0)
    out = tla.gaussian(A, b, key=KEY, samples=COUNT)
    whitened = (np.asarray(out.value) - x) @ np.linalg.cholesky(np.asarray(A))
    assert_unit_variance(whitened)


BAD = {
    "no sample": ({"samples": 0}, "samples"),
    "half a sample": ({"samples": 1.5}, "samples"),
    "plan and samples": ({"samples": 2, "plan": tla.Plan(1.0, 1.0, 2)}, "not both"),
    "a plan without samples": ({"plan": tla.Plan(1.0, 1.0)}, "number of them"),
    "two right-hand sides": ({"b": np.ones((3, 2))}, "vector"),
    "b too long": ({"b": np.ones(4)}, "b must have shape"),
    "a path in the long-time law": (
        {"plan": tla.Plan(1.0, 1.0, 2), "device": tla.Device(simulator=tla.Law(long_time=True))},
        "long-time law",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_refused(fault):
    arguments, message = BAD[fault]
    with pytest.raises(ValueError, match=message):
        tla.gaussian(jnp.eye(3), key=KEY, **arguments)


def test_under_jit_an_indefinite_precision_is_a_status():
    status = jax.jit(lambda A: tla.gaussian(A, key=KEY).status)(jnp.diag(jnp.array([1.0, -1.0])))
    assert int(status) & tla.Status.NOT_POSITIVE_DEFINITE
