"""Devices as solvers: their error follows its law, their limits are direct solves, their scales do not matter."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system

import thermolinalg as tla
from thermolinalg import Chip, Converter, Device, Law, Plan, ReadNoise, Status
from thermolinalg.optim.analog import ThermodynamicInverse, ThermodynamicSolve
from thermolinalg.optim.iterative import WarmStart
from thermolinalg.optim.runs import code_of
from thermolinalg.optim.solvers import Code, Solver, usable
from thermolinalg.testing import assert_unit_variance

D, DAMPING = 6, 0.05
A, B, _ = system(D, 20.0, 0)
TRUTH = np.linalg.solve(np.asarray(A) + DAMPING * np.eye(D), np.asarray(B))
KEYS = jax.random.split(jax.random.key(7), 1000)
SAMPLED = Device(simulator=Law(long_time=True))


@partial(jax.jit, static_argnums=0)
def once(solver, matrix, damping, rhs, key):
    write, run = jax.random.split(key)
    return solver.apply(rhs, solver.prepare(matrix, damping, solver.init(matrix), write), run)[:2]


def many(solver, matrix=A, damping=DAMPING, rhs=B, keys=KEYS):
    return jax.vmap(lambda key: once(solver, matrix, damping, rhs, key))(keys)


def scores(x, info, truth=TRUTH):
    """Squared error over its expectation, run by run."""
    x = np.asarray(x)
    return np.sum((x - truth) ** 2, 1) / (np.asarray(info.stderr, float) * np.linalg.norm(x, axis=1)) ** 2


def assert_law(square):
    """Mean of i.i.d. squared scores is one; five standard errors, and a few per cent for the normalisation."""
    mean, error = square.mean(), square.std() / len(square) ** 0.5
    assert abs(mean - 1) < 5 * error + 0.05, (mean, error)


SOLVE = ThermodynamicSolve(Plan(200.0, 2000.0), device=Device(beta=100.0))
WISHART = ThermodynamicInverse(Plan(200.0, 1e5, samples=2000), device=SAMPLED)
CONTINUOUS = ThermodynamicInverse(Plan(200.0, 1e5))
INVERSES = pytest.mark.parametrize("solver", [WISHART, CONTINUOUS], ids=["independent", "continuous"])


# The law of the error.


@INVERSES
def test_the_error_of_an_inverse_follows_its_standard_error(solver):
    keys = KEYS if solver is WISHART else KEYS[:300]
    x, info = many(solver, keys=keys)
    square = scores(x, info)
    assert_law(square)
    assert np.all(np.asarray(info.code) == 0)
    with pytest.raises(AssertionError):  # an answer for another damping
        assert_law(scores(x * 1.2, info))


def test_the_error_of_a_solve_follows_its_standard_error():
    x, info = many(SOLVE)
    assert_law(scores(x, info))
    # Gaussian entries: the sharper test, coordinate by coordinate, with the law from elsewhere.
    program = tla.Device(beta=100.0).program(jnp.asarray(np.asarray(A)) * 2.0 ** -_exponent(), damping=_shifted())
    stderr = tla.solve(program, B / 2.0 ** _column(), key=KEYS[0], plan=SOLVE.plan).stderr
    unit = 2.0 ** (_column() - _exponent())
    assert_unit_variance((np.asarray(x) - TRUTH) / (np.asarray(stderr) * unit))
    with pytest.raises(AssertionError):
        assert_unit_variance(1.2 * (np.asarray(x) - TRUTH) / (np.asarray(stderr) * unit))


def _exponent():
    largest = np.linalg.norm(np.asarray(A) + DAMPING * np.eye(D))
    rows = np.max(np.sum(np.abs(np.asarray(A) + DAMPING * np.eye(D)), 0))
    return int(np.ceil(np.log2(min(largest, rows))))


def _shifted():
    return DAMPING * 2.0 ** -_exponent()


def _column():
    return int(np.frexp(np.max(np.abs(np.asarray(B))))[1])


def test_the_error_of_independent_samples_is_the_textbook_one():
    """E|Cb - A^-1 b|^2 = (b C b tr C + |C b|^2)/N for a Wishart covariance."""
    C = np.linalg.inv(np.asarray(A) + DAMPING * np.eye(D))
    b = np.asarray(B)
    expected = np.sqrt((b @ C @ b * np.trace(C) + np.sum((C @ b) ** 2)) / 2000) / np.linalg.norm(C @ b)
    x, info = many(WISHART)
    assert abs(np.median(np.asarray(info.stderr)) / expected - 1) < 0.02
    found = np.sqrt(np.mean(np.sum((np.asarray(x) - C @ b) ** 2, 1))) / np.linalg.norm(C @ b)
    assert abs(found / expected - 1) < 5 / np.sqrt(2 * len(KEYS)) * 2


# Limits and scales.


def test_without_noise_a_device_is_a_direct_solver():
    cold = ThermodynamicSolve(Plan(1e9, 1.0), device=Device(beta=1e30))
    endless = ThermodynamicInverse(Plan(1e9, 1e9, samples=1e30), device=SAMPLED)
    for solver in (cold, endless):
        for kappa in (1.0, 1e2, 1e5):
            M, b, _ = system(D, kappa, 1)
            x, info = once(solver, M, 1e-6, b, KEYS[0])
            truth = np.linalg.solve(np.asarray(M) + 1e-6 * np.eye(D), np.asarray(b))
            off = np.linalg.norm(x - truth) / np.linalg.norm(truth)
            assert off < 100 * D * kappa * np.finfo(float).eps + 1e-14 * kappa**0.5
            assert int(info.code) == Code.OK
            left = np.linalg.norm(b - (M + 1e-6 * jnp.eye(D)) @ x) / np.linalg.norm(b)
            assert abs(float(info.residual) - left) < 1e-6 * left + 1e-14 * kappa


@pytest.mark.parametrize("solver", [SOLVE, WISHART], ids=["solve", "inverse"])
def test_powers_of_two_change_nothing_but_the_units(solver):
    x, info = once(solver, A, DAMPING, B, KEYS[0])
    y, other = once(solver, A * 2.0**60, DAMPING * 2.0**60, B * 2.0**-70, KEYS[0])
    assert bool(jnp.all(y == x * 2.0**-130))
    assert float(info.residual) == float(other.residual)
    assert float(info.stderr) == float(other.stderr)


def test_columns_are_runs_of_their_own_and_zero_is_answered_by_zero():
    block = jnp.stack([B, 1e-6 * B, jnp.zeros(D)], axis=1)
    for solver in (SOLVE, WISHART):
        x, info = once(solver, A, DAMPING, block, KEYS[3])
        assert x.shape == (D, 3)
        assert bool(jnp.all(x[:, 2] == 0))
        for column, scale in ((0, 1.0), (1, 1e-6)):
            error = np.linalg.norm(x[:, column] - scale * TRUTH) / np.linalg.norm(scale * TRUTH)
            assert error < 6 * float(info.stderr)


def test_the_damping_is_not_rounded():
    """A damping far below a step of the converter still makes the couplings of a singular matrix definite."""
    device = Device(beta=1e30, matrix_dac=Converter(bits=4))
    solver = ThermodynamicSolve(Plan(1e9, 1.0), device=device)
    M = jnp.diag(jnp.array([1.0, 0.5, 0.0, 0.0, 0.0, 0.0]))
    x, info = once(solver, M, 1e-3, jnp.ones(D), KEYS[0])
    assert int(info.code) == Code.OK
    np.testing.assert_allclose(x[2:], 1e3, rtol=1e-9)
    wrong, _ = once(solver, M + 1e-3 * jnp.eye(D), 1e-9, jnp.ones(D), KEYS[0])
    assert float(wrong[2]) > 2e3


# Converters and noise.


@jax.jit
@partial(jax.vmap, in_axes=(None, None, None, None, 0))
def sweep(beta, bits, matrix, rhs, key):
    matrix_dac, force_dac, adc = (Converter(bits=number) for number in bits)
    device = Device(beta=beta, matrix_dac=matrix_dac, force_dac=force_dac, adc=adc)
    solver = ThermodynamicSolve(Plan(1e6, 1e3), device=device)
    write, run = jax.random.split(key)
    return solver.apply(rhs, solver.prepare(matrix, DAMPING, solver.init(matrix), write), run)[0]


def median_error(beta, bits):
    found = []
    for seed in range(3):
        M, b, _ = system(D, 20.0, seed)
        truth = np.linalg.solve(np.asarray(M) + DAMPING * np.eye(D), np.asarray(b))
        x = np.asarray(sweep(beta, jnp.asarray(bits), M, b, KEYS[:10]))
        found.append(np.linalg.norm(x - truth, axis=1) / np.linalg.norm(truth))
    return np.median(np.concatenate(found))


def test_more_bits_and_less_noise_are_better():
    for place in range(3):
        error = [median_error(1e30, [n if i == place else 30 for i in range(3)]) for n in (5, 8, 11, 14)]
        assert all(better < worse for worse, better in itertools.pairwise(error)), (place, error)
        # Eight times finer steps, eight times less error, all three times within a factor of three.
        assert 512 / 3 < error[0] / error[-1] < 3 * 512
    error = [median_error(beta, [30, 30, 30]) for beta in (1e2, 1e4, 1e6)]
    np.testing.assert_allclose(np.diff(np.log10(error)), -1, atol=0.15)


def test_bits_of_an_inverse():
    def error(device):
        solver = ThermodynamicInverse(Plan(1e6, 1e9, samples=1e10), device=device)
        x, info = once(solver, A, DAMPING, B, KEYS[0])
        return np.linalg.norm(x - TRUTH) / np.linalg.norm(TRUTH), info

    coarse, fine = (error(Device(simulator=Law(long_time=True), matrix_dac=Converter(bits=n))) for n in (6, 14))
    assert fine[0] < coarse[0] / 30
    # The standard error counts what converters do.
    assert coarse[0] / 6 < float(coarse[1].stderr) < 30 * coarse[0]


# What fails, and how it is told.


def test_every_status_has_a_code():
    for status in Status:
        if status:
            code = int(code_of(jnp.asarray(int(status), jnp.int32)))
            assert code > 0
            fatal = Status.NOT_POSITIVE_DEFINITE | Status.NOT_FINITE | Status.SATURATED | Status.UNSTABLE
            if status in fatal:
                assert not bool(usable(jnp.asarray(code)))
    both = int(Status.NOT_FINITE | Status.COARSE)
    assert int(code_of(jnp.asarray(both, jnp.int32))) == Code.NOT_FINITE
    assert int(code_of(jnp.asarray(0, jnp.int32))) == Code.OK
    assert int(code_of(jnp.asarray(1 << 20, jnp.int32))) == Code.NOT_FINITE


@pytest.mark.parametrize("solver", [SOLVE, WISHART], ids=["solve", "inverse"])
def test_faults_are_codes(solver):
    assert isinstance(solver, Solver)
    _, info = once(solver, A - 0.5 * jnp.eye(D), DAMPING, B, KEYS[0])
    assert int(info.code) == Code.NOT_POSITIVE_DEFINITE
    _, info = once(solver, A.at[1, 1].set(jnp.nan), DAMPING, B, KEYS[0])
    assert not bool(usable(info.code))
    _, info = once(solver, A, DAMPING, B.at[0].set(jnp.nan), KEYS[0])
    assert int(info.code) == Code.NOT_FINITE
    # Outside of jit too, where primitives would raise.
    state = solver.prepare(A - 0.5 * jnp.eye(D), DAMPING, solver.init(A), KEYS[0])
    assert int(solver.apply(B, state, KEYS[0])[1].code) == Code.NOT_POSITIVE_DEFINITE
    assert int(solver.apply(B, solver.init(A), KEYS[0])[1].code) >= Code.NOT_FINITE


def test_saturation_and_dead_nodes_are_told():
    tight = Device(beta=1e6, adc=Converter(bits=8, full_scale=0.01))
    _, info = once(ThermodynamicSolve(Plan(1e3, 1e3), device=tight), A, DAMPING, B, KEYS[0])
    assert int(info.code) == Code.SATURATED
    maimed = Device(beta=1e6, chip=Chip(jax.random.key(0), dead=(2,)))
    # The key of a chip makes its solver one that cannot be hashed: closed over, it need not be.
    solver = ThermodynamicSolve(Plan(1e3, 1e3), device=maimed)
    x, info = jax.jit(lambda b: solver.apply(b, solver.prepare(A, DAMPING, None, KEYS[0]), KEYS[0])[:2])(B)
    assert int(info.code) == Code.IMPRECISE
    assert float(x[2]) == 0
    assert float(info.residual) > 0.1
    few = ThermodynamicInverse(Plan(1.0, 1e3, samples=3), device=SAMPLED)
    assert int(once(few, A, DAMPING, B, KEYS[0])[1].code) == Code.FEW_SAMPLES


def test_read_noise_counts():
    noisy = Device(beta=1e30, read_noise=ReadNoise(density=0.1))
    solver = ThermodynamicSolve(Plan(1e6, 1e3), device=noisy)
    x, info = many(solver, keys=KEYS[:300])
    assert_law(scores(x, info))


def test_arguments_are_checked():
    for kind in (ThermodynamicInverse, ThermodynamicSolve):
        with pytest.raises(ValueError, match="give a plan or rtol"):
            kind()
        with pytest.raises(ValueError, match="give a plan or rtol"):
            kind(Plan(1.0, 1.0), rtol=0.1)
        with pytest.raises(ValueError, match="rtol must lie"):
            kind(rtol=2.0)
        with pytest.raises(ValueError, match="damping must be positive"):
            kind(rtol=0.1).prepare(A, -1.0, None, KEYS[0])
        with pytest.raises(ValueError, match="key is None"):
            kind(Plan(1.0, 1.0)).prepare(A, 1.0, None, None)
    with pytest.raises(ValueError, match="memory"):
        ThermodynamicInverse(rtol=0.1, memory=1.0)
    with pytest.raises(ValueError, match="warm needs the end state"):
        ThermodynamicSolve(rtol=0.1, warm=WarmStart(), device=SAMPLED)
    assert hash(WISHART) != hash(CONTINUOUS)
