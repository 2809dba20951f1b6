"""Solvers of damped systems: against LAPACK over condition numbers, honest about residuals, steady in their states."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import system

from thermolinalg.optim.conjugate import cg
from thermolinalg.optim.iterative import CG, NewtonSchulz, WarmStart, jacobi
from thermolinalg.optim.scales import bound_exponent, column_exponents
from thermolinalg.optim.solvers import (
    Cholesky,
    CholeskyInverse,
    Code,
    Eigh,
    FromCallable,
    Info,
    Solver,
    usable,
)

D = 12
DAMPING = 1e-9
EPS = np.finfo(np.float64).eps
DIRECT = [Cholesky(), CholeskyInverse(), Eigh(), FromCallable(jnp.linalg.solve)]
ITERATIVE = [CG(rtol=1e-13, max_steps=5000), NewtonSchulz(rtol=1e-8)]
ALL = DIRECT + ITERATIVE
names = [type(solver).__name__ for solver in ALL]


@partial(jax.jit, static_argnums=0)
def once(solver, matrix, damping, rhs):
    return solver.apply(rhs, solver.prepare(matrix, damping, solver.init(matrix), None), None)[:2]


def exact(matrix, damping, rhs):
    matrix = np.asarray(matrix, np.float64)
    return np.linalg.solve(matrix + damping * np.eye(len(matrix)), np.asarray(rhs, np.float64))


def off(x, truth):
    return np.linalg.norm(np.asarray(x, np.float64) - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("solver", DIRECT, ids=names[: len(DIRECT)])
@settings(max_examples=12)
@given(kappa=st.floats(1.0, 1e8), seed=st.integers(0, 99), scale=st.sampled_from([1e-20, 1.0, 1e20]))
def test_direct_solvers_are_as_good_as_the_condition_number_allows(solver, kappa, seed, scale):
    A, b, _ = system(D, kappa, seed)
    x, info = once(solver, scale * A, scale * DAMPING, b)
    truth = exact(A, DAMPING, b) / scale
    assert off(x, truth) < 10 * D * kappa * EPS  # Higham: a modest multiple of d kappa eps, for both routes
    assert int(info.code) == Code.OK
    # The mutation: a damping that is off by more than the tolerance does not pass.
    wrong = exact(A, DAMPING + 20 * D * kappa * EPS, b) / scale
    assert off(wrong, truth) > 10 * D * kappa * EPS


@pytest.mark.parametrize("solver", ITERATIVE, ids=names[len(DIRECT) :])
@pytest.mark.parametrize("kappa", [1.0, 1e2, 1e4])
def test_iterations_keep_to_their_tolerance(solver, kappa):
    A, b, _ = system(D, kappa, 3)
    x, info = once(solver, A, 1e-6, b)
    truth = exact(A, 1e-6, b)
    # |x - x*| <= kappa |r| / |b| |x*| for CG, and |I - XM|_F |x*| for an inverse.
    bound = 2 * kappa * 1e-13 if isinstance(solver, CG) else D**0.5 * 1e-8
    assert off(x, truth) < bound + 10 * D * kappa * EPS
    assert int(info.code) in (Code.OK, Code.NOT_CONVERGED)
    assert int(info.steps) > 0


@pytest.mark.parametrize("solver", ALL, ids=names)
def test_residuals_are_those_of_the_answer(solver):
    A, b, _ = system(D, 1e3, 1)
    rhs = jnp.stack([b, 3 * b[::-1], 0 * b], axis=1).astype(jnp.float32)
    x, info = once(solver, A.astype(jnp.float32), 0.01, rhs)
    matrix = np.asarray(A.astype(jnp.float32), np.float64) + np.float32(0.01) * np.eye(D)
    left = np.linalg.norm(np.asarray(rhs, float) - matrix @ np.asarray(x, float), axis=0)
    found = np.max(left[:2] / np.linalg.norm(np.asarray(rhs, float), axis=0)[:2])
    room = 4 * np.finfo(np.float32).eps * D * np.linalg.norm(np.asarray(x)) / np.linalg.norm(np.asarray(b))
    assert abs(float(info.residual) - found) < room
    assert np.all(np.asarray(x)[:, 2] == 0)
    assert x.dtype == jnp.float32
    assert all(part.dtype == (jnp.int32 if i == 0 else jnp.float32) for i, part in enumerate(info))
    # The mutation: the answer of a system with ten times the damping has another residual.
    wrong, _ = once(solver, A.astype(jnp.float32), 0.1, rhs)
    left = np.linalg.norm(np.asarray(rhs, float) - matrix @ np.asarray(wrong, float), axis=0)
    assert np.max(left[:2] / np.linalg.norm(np.asarray(rhs, float), axis=0)[:2]) > found + room


@pytest.mark.parametrize("solver", ALL, ids=names)
def test_damping_is_a_multiple_of_the_identity(solver):
    A, b, _ = system(D, 10.0, 2)
    x, _ = once(solver, A, 0.5, b)
    y, _ = once(solver, A + 0.25 * jnp.eye(D), 0.25, b)
    assert off(x, np.asarray(y)) < 1e-7


@pytest.mark.parametrize("solver", ALL, ids=names)
def test_stacks_are_solved_as_one_by_one(solver):
    stack, rhs = zip(*[system(D, 50.0, seed)[:2] for seed in range(3)], strict=True)
    together, info = jax.vmap(lambda m, b: once(solver, m, 0.1, b))(jnp.stack(stack), jnp.stack(rhs))
    for x, m, b in zip(together, stack, rhs, strict=True):
        assert off(x, exact(m, 0.1, b)) < 1e-7
    assert info.code.shape == (3,)


@pytest.mark.parametrize("solver", ALL, ids=names)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_states_have_one_shape_and_dtype(solver, dtype):
    A, b, _ = system(D, 10.0, 4)
    A, b = A.astype(dtype), b.astype(dtype)
    traces = []

    @jax.jit
    def walk(state, matrix):
        traces.append(1)

        def step(state, damping):
            state = solver.prepare(matrix, damping, state, None)
            x, info, state = solver.apply(b, state, None)
            return state, (x, info)

        return jax.lax.scan(step, state, jnp.array([0.1, 1.0], jnp.float32))

    start = solver.init(jax.ShapeDtypeStruct((D, D), dtype))
    state, _ = walk(start, A)
    state, (x, _info) = walk(state, 2 * A)
    assert len(traces) == 1
    assert jax.tree.map(lambda y: (y.shape, y.dtype), state) == jax.tree.map(lambda y: (y.shape, y.dtype), start)
    assert x.dtype == dtype
    assert off(x[1], exact(2 * A, 1.0, b)) < (1e-7 if dtype == jnp.float64 else 1e-4)


@pytest.mark.parametrize("solver", ALL, ids=names)
def test_what_is_wrong_is_said(solver):
    A, b, _ = system(D, 10.0, 5)
    assert isinstance(solver, Solver)
    for damping in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="damping must be positive"):
            solver.prepare(A, damping, solver.init(A), None)
    with pytest.raises(ValueError, match="matrix must be square"):
        solver.prepare(A[:3], 1.0, solver.init(A), None)
    with pytest.raises(ValueError, match="rhs must have shape"):
        once(solver, A, 1.0, b[:3])
    assert int(once(solver, A.at[0, 0].set(jnp.nan), 1.0, b)[1].code) == Code.NOT_FINITE
    assert int(once(solver, A, 1.0, b.at[0].set(jnp.inf))[1].code) == Code.NOT_FINITE
    unprepared = solver.apply(b, solver.init(A), None)[1]
    assert int(unprepared.code) >= Code.NOT_FINITE
    assert not bool(usable(unprepared.code))


@pytest.mark.parametrize("solver", [Cholesky(), CholeskyInverse(), Eigh(), CG(), NewtonSchulz()])
def test_an_indefinite_matrix_is_no_success(solver):
    A, b, _ = system(D, 10.0, 6)
    info = once(solver, A - 0.6 * jnp.eye(D), 0.1, b)[1]
    assert int(info.code) == Code.NOT_POSITIVE_DEFINITE
    assert int(once(solver, A, 0.1, b)[1].code) == Code.OK


def test_every_code_has_advice_and_no_failure_is_usable():
    assert all(code.advice.endswith(".") for code in Code)
    good = [code for code in Code if bool(usable(jnp.asarray(int(code))))]
    assert good == [code for code in Code if code < Code.SATURATED]
    assert Info._fields == ("code", "residual", "steps", "stderr", "seconds", "joules")


def test_half_precision_is_solved_in_single():
    A, b, _ = system(D, 10.0, 7)
    x, info = once(Cholesky(), A.astype(jnp.bfloat16), 0.5, b.astype(jnp.bfloat16))
    truth = exact(A.astype(jnp.bfloat16), 0.5, b.astype(jnp.bfloat16))
    assert x.dtype == jnp.bfloat16
    assert off(x, truth) < 2.0**-8
    assert float(info.residual) < 2.0**-8


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e34])
def test_single_precision_gradients_of_any_scale(scale):
    """Squares of 1e-30 vanish in single precision and those of 1e34 overflow."""
    A, b, _ = system(D, 10.0, 8)
    A, b = A.astype(jnp.float32), (b * scale).astype(jnp.float32)
    for solver in (Cholesky(), CG(rtol=1e-5), CholeskyInverse()):
        x, info = once(solver, A, 1.0, b)
        assert off(x, exact(A, 1.0, b)) < 1e-4
        assert float(info.residual) < 1e-4
        assert int(info.code) == Code.OK


# Conjugate gradients.


def test_a_large_system_in_single_precision_does_not_break_down():
    n = 20_000
    rng = np.random.default_rng(0)
    diagonal = jnp.asarray(np.geomspace(0.01, 1, n), jnp.float32)
    b = rng.standard_normal(n).astype(np.float32)
    b[rng.random(n) < 0.25] = 0  # dead units
    x, info = jax.jit(lambda b: cg(lambda v: diagonal * v, b, rtol=1e-4))(jnp.asarray(b))
    left = np.linalg.norm(b - np.asarray(diagonal, float) * np.asarray(x, float)) / np.linalg.norm(b.astype(float))
    assert int(info.code) == Code.OK
    assert 20 < int(info.steps) < 80  # about sqrt(kappa)/2 ln(2/rtol) = 50
    assert left < 2e-4
    assert abs(float(info.residual) - left) < 1e-6
    assert np.all(np.asarray(x)[b == 0] == 0)


def test_parameters_of_a_model_are_solved_for_as_they_are():
    rng = np.random.default_rng(1)
    M, b, truth = system(9, 20.0, 1)
    order = rng.permutation(9)

    def tree(v):
        return {"w": v[:6].reshape(2, 3).astype(jnp.float32), "b": (v[6:8], v[8])}

    def flat(t):
        return jnp.concatenate([t["w"].reshape(-1).astype(jnp.float64), t["b"][0], t["b"][1].reshape(1)])

    x, info = cg(lambda t: tree(M @ flat(t)), tree(b), rtol=1e-4, precondition=lambda r: r)
    assert jax.tree.map(lambda y: (y.shape, y.dtype), x) == jax.tree.map(lambda y: (y.shape, y.dtype), tree(b))
    # A residual of 2e-4 times the condition number.
    assert off(flat(x), truth) < 2e-4 * 20
    assert off(flat(x)[order], truth) > 0.1
    assert int(info.code) == Code.OK


def test_an_indefinite_operator_leaves_the_last_good_answer():
    diagonal = jnp.array([1.0, 2.0, -0.5])
    x, info = cg(lambda v: diagonal * v, jnp.array([1.0, 1.0, 1e-3]))
    assert int(info.code) == Code.NOT_POSITIVE_DEFINITE
    assert bool(jnp.all(jnp.isfinite(x)))
    assert float(jnp.linalg.norm(x)) > 0
    assert np.isclose(float(info.residual), np.linalg.norm([1, 1, 1e-3] - np.asarray(diagonal * x)) / np.sqrt(2))
    spoiled, info = cg(lambda v: jnp.where(jnp.arange(3) == 1, jnp.nan, 1.0) * v, jnp.ones(3))
    assert int(info.code) == Code.NOT_FINITE
    assert bool(jnp.all(spoiled == 0))


def test_an_operator_that_breaks_late_leaves_what_was_found_before():
    A, b, _ = system(D, 100.0, 9)

    def matvec(v):
        # Search directions get shorter than this, the answer does not.
        return jnp.where(jnp.linalg.norm(v) < 0.3 * largest, jnp.nan, 1.0) * (A @ v)

    largest = float(jnp.linalg.norm(b)) / float(2.0 ** jnp.frexp(jnp.max(jnp.abs(b)))[1])
    x, info = cg(matvec, b)
    assert int(info.code) == Code.NOT_FINITE
    assert int(info.steps) > 1
    before, _ = cg(lambda v: A @ v, b, max_steps=int(info.steps) - 1)
    assert bool(jnp.all(x == before))
    assert float(jnp.linalg.norm(before)) > 0


def test_few_steps_are_said_not_to_have_converged_and_point_downhill():
    A, b, _ = system(D, 1e4, 10)
    x, info = cg(lambda v: A @ v, b, max_steps=2)
    assert int(info.code) == Code.NOT_CONVERGED
    assert int(info.steps) == 2
    assert float(b @ x) > 0
    assert np.isclose(float(info.residual), float(jnp.linalg.norm(b - A @ x) / jnp.linalg.norm(b)))


def test_a_good_start_saves_steps_and_a_bad_one_is_forgotten():
    A, b, truth = system(D, 30.0, 11)
    cold = cg(lambda v: A @ v, b)[1]
    near, warm = cg(lambda v: A @ v, b, start=jnp.asarray(truth) * (1 + 1e-6))
    assert int(warm.steps) == 0
    assert off(near, truth) < 2e-6
    for start in (1e6 * jnp.ones(D), jnp.full(D, jnp.nan)):
        x, info = cg(lambda v: A @ v, b, start=start)
        assert int(info.steps) == int(cold.steps)
        assert off(x, truth) < 30 * 2e-5


def test_a_preconditioner_saves_steps():
    A, b, _ = system(D, 3.0, 12)
    scales = jnp.asarray(np.geomspace(1, 1e3, D))
    bad = scales[:, None] * A * scales[None]
    plain, better = (CG(rtol=1e-8, max_steps=500, precondition=p) for p in (None, jacobi))
    (_x, slow), (y, fast) = (once(solver, bad, 1e-6, b) for solver in (plain, better))
    assert int(fast.steps) < int(slow.steps)
    assert off(y, exact(bad, 1e-6, b)) < 1e-3


def test_a_warm_start_is_kept_in_the_state():
    A, b, _ = system(D, 30.0, 13)
    block = jnp.stack([b, b[::-1]], axis=1)
    for warm, rhs in ((WarmStart(), b), (WarmStart(columns=2), block)):
        solver = CG(warm=warm)
        state = solver.prepare(A, 0.01, solver.init(A), None)
        _x, first, state = solver.apply(rhs, state, None)
        state = solver.prepare(A * (1 + 1e-4), 0.01, state, None)
        y, second, state = solver.apply(rhs, state, None)
        assert int(second.steps) < int(first.steps)
        assert off(y, exact(A * (1 + 1e-4), 0.01, rhs)) < 30 * 2e-5
        with pytest.raises(ValueError, match="WarmStart"):
            solver.apply(jnp.ones((D, 5)), state, None)


# Newton-Schulz.


@pytest.mark.parametrize("kappa", [10.0, 1e3, 1e6])
def test_steps_from_the_cold_are_logarithmic_in_the_condition_number(kappa):
    A, b, _ = system(D, kappa, 14)
    info = once(NewtonSchulz(rtol=1e-6), A, 1e-9, b)[1]
    # (1 - 1/(kappa s))^(2^k) < 1e-6 with s the room in the bound, at most 2 sqrt(d).
    assert np.log2(kappa) - 1 < int(info.steps) < np.log2(kappa * 2 * D**0.5) + np.log2(np.log(1e6)) + 2
    assert int(info.code) == Code.OK


def test_the_last_inverse_is_a_start_where_it_is_near():
    A, b, _ = system(D, 100.0, 15)
    solver = NewtonSchulz(rtol=1e-8)
    state = solver.prepare(A, 0.01, solver.init(A), None)
    cold = solver.apply(b, state, None)[1]
    near = solver.prepare(1.001 * A, 0.01, state, None)
    x, warm, _ = solver.apply(b, near, None)
    assert int(warm.steps) <= 3 < int(cold.steps)
    assert off(x, exact(1.001 * A, 0.01, b)) < 1e-7
    # The inverse of another matrix is no start: |I - AX| is far above 1.
    far = solver.prepare(1e4 * A[::-1, ::-1], 0.01, state, None)
    y, again, _ = solver.apply(b, far, None)
    assert int(again.code) == Code.OK
    assert int(again.steps) > 3
    assert off(y, exact(1e4 * A[::-1, ::-1], 0.01, b)) < 1e-7


def test_steps_of_a_preparation_are_reported_once():
    A, b, _ = system(D, 10.0, 16)
    solver = NewtonSchulz()
    x, first, state = solver.apply(b, solver.prepare(A, 0.1, solver.init(A), None), None)
    y, second, _ = solver.apply(b, state, None)
    assert int(first.steps) > 0
    assert int(second.steps) == 0
    assert bool(jnp.all(x == y))


# Scales.


@given(exponent=st.integers(-120, 120), seed=st.integers(0, 20))
def test_the_bound_is_above_every_eigenvalue_and_not_by_much(exponent, seed):
    A, _, _ = system(D, 10.0, seed)
    e = int(bound_exponent(jnp.ldexp(A, exponent).astype(jnp.float32)))
    largest = np.max(np.linalg.eigvalsh(np.asarray(A)))
    assert largest * 2.0**exponent <= 2.0**e * (1 + 1e-6)
    assert 2.0**e < 2 * D**0.5 * largest * 2.0**exponent * (1 + 1e-6)


def test_nothing_has_the_scale_one():
    assert int(bound_exponent(jnp.zeros((3, 3)))) == 0
    block = jnp.array([[0.0, 3.0, jnp.nan, 4.0], [0.0, -1.0, 1.0, 0.0]])
    assert column_exponents(block).tolist() == [[0, 2, 0, 3]]
    assert int(bound_exponent(jnp.diag(jnp.array([4.0, 1.0])))) == 2
