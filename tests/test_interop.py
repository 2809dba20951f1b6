"""Bridges: numbers are those of tla.solve, and the conventions are those of lineax, SciPy and diffrax."""

import functools
from dataclasses import replace
from types import SimpleNamespace

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse
from jax.tree_util import Partial
from problems import exact_run, system
from scipy.sparse import linalg

import thermolinalg as tla
from thermolinalg.interop import (
    SolverState,
    ThermodynamicSolver,
    as_diffrax_terms,
    as_linear_operator,
    from_linear_operator,
)
from thermolinalg.testing import assert_unit_variance, assert_within_stderr

KEY = jax.random.key(5)
PLAN = tla.Plan(200.0, 4000.0)
POSITIVE, NEGATIVE = lx.positive_semidefinite_tag, lx.negative_semidefinite_tag
EPS = 2.0**-52

A, B, X = system(d=6, kappa=10.0)
C, D, _ = system(d=6, kappa=10.0, dtype=np.complex128)
RATES = np.geomspace(0.1, 1.0, 6)


def solver(key=KEY, **settings):
    return ThermodynamicSolver(key, **(settings or {"plan": PLAN}))


def matrix(entries, tag=POSITIVE):
    return lx.MatrixLinearOperator(entries, tag)


def free(entries):
    return tla.MatrixFree(Partial(jnp.matmul, entries), len(entries), entries.dtype)


# --- lineax: values ---------------------------------------------------------------------------------------------------

VECTOR = jax.ShapeDtypeStruct((6,), np.float64)
TREE = {"a": jax.ShapeDtypeStruct((2,), np.float64), "b": jax.ShapeDtypeStruct((2, 2), np.float64)}


def cut(vector):
    return {"a": vector[:2], "b": vector[2:].reshape(2, 2)}


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def on_tree(tree):
    return cut(A @ jnp.concatenate([tree["a"], tree["b"].ravel()]))


BLOCKS = {
    "a": {"a": A[:2, :2], "b": A[:2, 2:].reshape(2, 2, 2)},
    "b": {"a": A[2:, :2].reshape(2, 2, 2), "b": A[2:, 2:].reshape(2, 2, 2, 2)},
}


# Each: the lineax operator, the vector, what tla.solve is to be given instead, and the right-hand side for that.
SYSTEMS = {
    "matrix": (matrix(A), B, A, B),
    "negative matrix": (matrix(-A, NEGATIVE), B, A, B),
    "complex matrix": (matrix(C), D, C, D),
    "diagonal": (
        lx.TaggedLinearOperator(lx.DiagonalLinearOperator(jnp.asarray(RATES)), POSITIVE),
        *(B, tla.Diagonal(jnp.asarray(RATES)), B),
    ),
    "complex diagonal": (
        lx.TaggedLinearOperator(lx.DiagonalLinearOperator(jnp.asarray(RATES + 0j)), POSITIVE),
        *(D, np.diag(RATES + 0j), D),
    ),
    "negative diagonal": (
        lx.TaggedLinearOperator(lx.DiagonalLinearOperator(jnp.asarray(-RATES)), NEGATIVE),
        *(B, tla.Diagonal(jnp.asarray(RATES)), B),
    ),
    "negative function": (lx.FunctionLinearOperator(lambda x: -(A @ x), VECTOR, NEGATIVE), B, free(A), B),
    "Jacobian, in a sum": (
        lx.TaggedLinearOperator(
            matrix(A / 2) + lx.JacobianLinearOperator(lambda x, args: jnp.sinh(A @ x / 2), jnp.zeros(6)), POSITIVE
        ),
        *(B, free(A), B),
    ),
    "function on a pytree": (lx.FunctionLinearOperator(on_tree, TREE, POSITIVE), cut(B), free(A), B),
    "diagonal on a pytree": (
        lx.TaggedLinearOperator(lx.DiagonalLinearOperator(cut(jnp.asarray(RATES))), POSITIVE),
        *(cut(B), tla.Diagonal(jnp.asarray(RATES)), B),
    ),
    "matrix of pytrees": (lx.PyTreeLinearOperator(BLOCKS, TREE, POSITIVE), cut(B), A, B),
}


@functools.cache
def answers(name):
    operator, vector, ours, force = SYSTEMS[name]
    return lx.linear_solve(operator, vector, solver()), tla.solve(ours, force, key=KEY, plan=PLAN)


@pytest.mark.parametrize("name", SYSTEMS)
def test_numbers_are_those_of_solve(name):
    vector = SYSTEMS[name][1]
    found, expected = answers(name)
    value = -expected.value if name.startswith("negative") else expected.value
    # Both make the same steps; rounding is magnified by the condition number at most.
    limit = 100 * 10.0 * EPS * np.abs(value).max()
    np.testing.assert_allclose(flat(found.value), value, rtol=0, atol=limit)
    np.testing.assert_allclose(flat(found.stats["stderr"]), expected.stderr, rtol=1000 * EPS)
    assert found.result == lx.RESULTS.successful
    assert int(found.stats["status"]) == 0
    assert jax.tree.structure(found.value) == jax.tree.structure(vector)
    for leaf, given in zip(jax.tree.leaves(found.value), jax.tree.leaves(vector), strict=True):
        assert (leaf.shape, leaf.dtype) == (given.shape, given.dtype)


@pytest.mark.parametrize("name", SYSTEMS)
def test_answers_are_close_to_those_of_numpy(name):
    operator, vector, *_ = SYSTEMS[name]
    exact = np.linalg.solve(np.asarray(operator.as_matrix()), flat(vector))
    value, stderr = (flat(answers(name)[0].value), flat(answers(name)[0].stats["stderr"]))
    # The squared modulus of a complex entry is exponential: looser than the Gaussian that is assumed here.
    assert_within_stderr(np.real(value), stderr, np.real(exact))
    with pytest.raises(AssertionError):
        assert_within_stderr(-np.real(value), stderr, np.real(exact))


def test_standard_errors_are_right_over_keys():
    keys = jax.random.split(KEY, 2000)
    runs = jax.vmap(lambda key: lx.linear_solve(matrix(A), B, solver(key)))(keys)
    z = (np.asarray(runs.value) - X) / np.asarray(runs.stats["stderr"])
    assert_unit_variance(z)
    with pytest.raises(AssertionError):
        assert_unit_variance(1.2 * z)


def test_a_planned_solve_is_that_of_solve():
    found = lx.linear_solve(matrix(A), B, ThermodynamicSolver(KEY, rtol=0.03, confidence=0.9))
    expected = tla.solve(A, B, key=KEY, rtol=0.03, confidence=0.9)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-10)
    np.testing.assert_allclose(found.stats["plan"].total, expected.stats["plan"].total, rtol=1e-10)
    np.testing.assert_allclose(found.stats["time_constants"], expected.stats["time_constants"], rtol=1e-10)


def test_the_device_is_the_one_that_is_given():
    cold = tla.Device(beta=1e6)
    found = lx.linear_solve(matrix(A), B, ThermodynamicSolver(KEY, plan=PLAN, device=cold))
    np.testing.assert_array_equal(found.value, tla.solve(A, B, key=KEY, plan=PLAN, device=cold).value)
    assert ThermodynamicSolver(KEY, device=cold).device == cold


def test_float32_stays_float32():
    narrow = matrix(A.astype(np.float32))
    found = lx.linear_solve(narrow, B.astype(np.float32), solver())
    assert found.value.dtype == found.stats["stderr"].dtype == np.float32
    assert_within_stderr(found.value, found.stats["stderr"], X)


def test_leaves_of_two_widths_meet_in_the_wider():
    def product(tree):
        out = A @ jnp.concatenate([tree["a"].astype(np.float64), tree["b"].ravel()])
        return {"a": out[:2].astype(np.float32), "b": out[2:].reshape(2, 2)}

    mixed = {"a": jax.ShapeDtypeStruct((2,), np.float32), "b": TREE["b"]}
    vector = {"a": B[:2].astype(np.float32), "b": B[2:].reshape(2, 2)}
    with jax.numpy_dtype_promotion("standard"):  # lineax itself promotes
        found = lx.linear_solve(lx.FunctionLinearOperator(product, mixed, POSITIVE), vector, solver())
    assert (found.value["a"].dtype, found.value["b"].dtype) == (np.float32, np.float64)
    assert_within_stderr(flat(found.value), flat(found.stats["stderr"]), X)


# --- lineax: conventions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["negative matrix", "complex matrix", "function on a pytree"])
def test_a_state_is_written_once_and_used_again(name):
    operator, vector, *_ = SYSTEMS[name]
    state = solver().init(operator, {})
    again = lx.linear_solve(operator, vector, solver(), state=state)
    np.testing.assert_allclose(flat(again.value), flat(answers(name)[0].value), rtol=1e-9)
    assert state.negative == name.startswith("negative")


def test_a_state_can_be_made_by_hand():
    """Here the program is that of another matrix, so that one sees which was used."""
    state = SolverState(tla.Device().program(2 * A))
    found = lx.linear_solve(matrix(A), B, solver(), state=state)
    np.testing.assert_array_equal(found.value, tla.solve(2 * A, B, key=KEY, plan=PLAN).value)


def test_the_conjugate_and_the_transpose_of_a_state():
    made = solver().init(matrix(C), {})
    exact = np.linalg.solve(np.asarray(C).conj(), np.asarray(D))
    for turn, operator in ((solver().conj, matrix(C.conj())), (solver().transpose, matrix(C.T))):
        state, options = turn(made, {})
        assert options == {}
        value, result, stats = solver().compute(state, D, {})
        assert result == lx.RESULTS.successful
        for part in (np.real, np.imag):
            assert_within_stderr(part(value), stats["stderr"], part(exact))
            with pytest.raises(AssertionError):
                assert_within_stderr(part(solver().compute(made, D, {})[0]), stats["stderr"], part(exact))
        fresh = solver().compute(solver().init(operator, {}), D, {})[2]
        np.testing.assert_allclose(stats["stderr"], fresh["stderr"], rtol=1e-9)
        back, _ = turn(state, {})
        np.testing.assert_array_equal(solver().compute(back, D, {})[0], solver().compute(made, D, {})[0])
    both, _ = solver().transpose(solver().conj(made, {})[0], {})
    np.testing.assert_array_equal(solver().compute(both, D, {})[0], solver().compute(made, D, {})[0])


def test_a_real_state_is_its_own_conjugate_and_transpose():
    state = solver().init(matrix(-A, NEGATIVE), {})
    for turned, _ in (solver().conj(state, {}), solver().transpose(state, {})):
        assert eqx.tree_equal(turned, state)


def test_a_definite_operator_has_full_rank():
    assert solver().assume_full_rank()
    assert not solver().allow_dependent_columns(matrix(A))
    assert not solver().allow_dependent_rows(matrix(A))


def test_a_new_key_does_not_compile_again():
    traces = []

    @eqx.filter_jit
    def run(some_solver):
        traces.append(1)
        return lx.linear_solve(matrix(A), B, some_solver).value

    one, other = run(solver(jax.random.key(0))), run(solver(jax.random.key(1)))
    assert not np.any(np.asarray(one) == np.asarray(other))
    assert len(traces) == 1
    run(solver(plan=tla.Plan(200.0, 4001.0)))  # a Python number is part of the program
    assert len(traces) == 2


def test_keys_of_the_old_style():
    assert np.isfinite(lx.linear_solve(matrix(A), B, solver(jax.random.PRNGKey(0))).value).all()


def test_vmap_over_vectors_operators_and_keys():
    batch = jnp.stack([B, 2 * B])
    found = jax.vmap(lambda b: lx.linear_solve(matrix(A), b, solver()).value)(batch)
    for b, row in zip(batch, found, strict=True):
        np.testing.assert_allclose(row, lx.linear_solve(matrix(A), b, solver()).value, rtol=1e-9)

    scales = jnp.array([1.0, 3.0])
    found = jax.vmap(lambda s: lx.linear_solve(matrix(s * A), B, solver()).value)(scales)
    for s, row in zip(scales, found, strict=True):
        np.testing.assert_allclose(row, lx.linear_solve(matrix(s * A), B, solver()).value, rtol=1e-9)


# --- lineax: derivatives ----------------------------------------------------------------------------------------------


COLD = ThermodynamicSolver(KEY, plan=PLAN, device=tla.Device(beta=1e6))
PHASES = np.exp(1j * np.arange(6.0))


def noise():
    """Six times the root mean square length of the error of a long run: 2/(beta tau rate**2) a mode, or twice."""
    return 6 * np.sqrt(2 * np.sum(2 / (1e6 * 4000 * np.linalg.eigvalsh(A) ** 2)))


def test_derivatives_are_further_solves_with_the_same_key():
    """Second route: the implicit function, with numbers of tla.solve for x and the adjoint; then NumPy's."""
    weights, tangent = jnp.asarray(np.linspace(-1, 1, 6)), jnp.asarray(np.cos(np.arange(6.0)))

    def value(A, b):
        return lx.linear_solve(matrix(A), b, COLD).value

    def run(b):
        return tla.solve(A, b, key=KEY, plan=PLAN, device=COLD.device).value

    x, adjoint = run(B), run(weights)
    by_matrix, by_vector = jax.grad(lambda A, b: weights @ value(A, b), (0, 1))(A, B)
    np.testing.assert_allclose(by_vector, adjoint, rtol=1e-9)
    np.testing.assert_allclose(by_matrix, -np.outer(adjoint, x), rtol=1e-8)
    _, moved = jax.jvp(lambda b: value(A, b), (B,), (tangent,))
    np.testing.assert_allclose(moved, run(tangent), rtol=1e-9)

    exact = np.linalg.solve(A, weights)
    limit = noise()
    assert np.linalg.norm(by_vector - exact) < limit
    assert np.linalg.norm(by_matrix + np.outer(exact, X)) < limit * (np.linalg.norm(X) + np.linalg.norm(exact) + limit)
    assert np.linalg.norm(by_vector - X) > limit
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(by_matrix, -np.outer(x, adjoint), rtol=1e-8)  # that of the transpose


def test_reverse_derivatives_of_complex_systems():
    _, pull = jax.vjp(lambda b: lx.linear_solve(matrix(C), b, COLD).value, D)
    (back,) = pull(jnp.asarray(PHASES))
    np.testing.assert_allclose(
        back, tla.solve(C, PHASES.conj(), key=KEY, plan=PLAN, device=COLD.device).value.conj(), rtol=1e-9
    )
    exact = np.linalg.solve(np.asarray(C).T, PHASES)
    assert np.linalg.norm(back - exact) < noise()
    assert np.linalg.norm(back - exact.conj()) > noise()


# --- lineax: faults ---------------------------------------------------------------------------------------------------

INDEFINITE = matrix(jnp.diag(jnp.array([1.0, -2.0, 3.0])))
FAULTS = {
    "untagged": (lx.MatrixLinearOperator(A), {}, "tagged neither"),
    "only symmetric": (matrix(A, lx.symmetric_tag), {}, "tagged neither"),
    "untagged diagonal": (lx.DiagonalLinearOperator(jnp.ones(3)), {}, "TaggedLinearOperator"),
    "not square": (lx.MatrixLinearOperator(jnp.ones((3, 2))), {}, "square"),
    "wrong tag": (matrix(-A), {}, "not positive definite"),
    "wrong negative tag": (matrix(A, NEGATIVE), {}, "not positive definite"),
    "indefinite": (INDEFINITE, {}, "not positive definite"),
    "asymmetric": (matrix(A + jnp.triu(A)), {}, "the operator is not symmetric"),
    "options": (matrix(A), {"y0": B}, "takes no options"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_operators_are_refused(fault):
    operator, options, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        solver().init(operator, options)


def test_vectors_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="structures do not match"):
        lx.linear_solve(matrix(A), jnp.ones(5), solver())
    with pytest.raises(ValueError, match="b must have shape"):
        solver().compute(solver().init(matrix(A), {}), jnp.ones(5), {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": 0}, "PRNG key"),
        ({"key": jax.random.split(KEY, 2)}, "one PRNG key"),
        ({"key": KEY, "rtol": 1.5}, "rtol must lie"),
        ({"key": KEY, "confidence": 0.0}, "confidence must lie"),
        ({"key": KEY, "rtol": 0.1, "plan": PLAN}, "not both"),
        ({"key": KEY, "plan": tla.Plan(-1.0, 1.0)}, "burn_in"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ThermodynamicSolver(**arguments)


def test_under_jit_faults_are_results_of_lineax():
    found = lx.linear_solve(INDEFINITE, jnp.ones(3), solver(), throw=False)
    assert found.result == lx.RESULTS.singular
    assert int(found.stats["status"]) & tla.Status.NOT_POSITIVE_DEFINITE
    with pytest.raises(RuntimeError, match="positive definiteness"):
        lx.linear_solve(INDEFINITE, jnp.ones(3), solver())
    found = lx.linear_solve(matrix(jnp.eye(3)), jnp.array([1.0, jnp.nan, 1.0]), solver(), throw=False)
    assert found.result == lx.RESULTS.nonfinite_input


def test_a_lanczos_process_that_stops_early_is_a_result():
    hard, b, _ = system(d=300, kappa=1e4)
    program = tla.Device().program(replace(free(hard), max_steps=10))
    found = lx.linear_solve(matrix(hard), b, solver(plan=tla.Plan(1e5, 1e5)), state=SolverState(program), throw=False)
    assert found.result == lx.RESULTS.max_steps_reached


def test_a_usable_answer_with_a_warning_is_a_success():
    hard, b, _ = system(d=6, kappa=3e4, dtype=np.float32)
    found = lx.linear_solve(matrix(hard), b, solver())
    assert found.result == lx.RESULTS.successful
    assert int(found.stats["status"]) == tla.Status.LOW_PRECISION


# --- SciPy ------------------------------------------------------------------------------------------------------------

N = np.asarray(A)
LINE = scipy.sparse.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(40, 40)).tocsc()
PRODUCT = linalg.LinearOperator((6, 6), matvec=lambda x: N @ x, dtype=np.float64)
OURS = {
    "array": (A, N),
    "complex": (C, np.asarray(C)),
    "float32": (A.astype(np.float32), N.astype(np.float32)),
    "kronecker": (
        tla.Kronecker((tla.Dense(A[:2, :2]), tla.Diagonal(jnp.arange(1.0, 4.0)))),
        np.kron(N[:2, :2], np.diag([1.0, 2.0, 3.0])),
    ),
    "low rank": (tla.LowRank(A[:, :2], 0.5), N[:, :2] @ N[:, :2].T + 0.5 * np.eye(6)),
    "sparse": (LINE, LINE.toarray()),
    "lineax": (matrix(A), N),
}


@pytest.mark.parametrize("name", OURS)
def test_products_in_scipy_are_those_of_numpy(name):
    operator, entries = OURS[name]
    L = as_linear_operator(operator)
    rng = np.random.default_rng(0)
    block = rng.standard_normal((len(entries), 3)) + (1j * rng.standard_normal((len(entries), 3)))
    block = block if np.iscomplexobj(entries) else block.real
    limit = 8 * len(entries) * np.finfo(entries.dtype).eps * np.abs(entries).max() * np.abs(block).max()
    assert (L.dtype, L.shape) == (entries.dtype, entries.shape)
    for found, exact in (
        (L.matmat(block), entries @ block),
        (L.matvec(block[:, 0]), entries @ block[:, 0]),
        (L @ block[:, 0], entries @ block[:, 0]),
        (L.rmatvec(block[:, 0]), entries.conj().T @ block[:, 0]),
        (L.rmatmat(block), entries.conj().T @ block),
        (L.T.matvec(block[:, 0]), entries.T @ block[:, 0]),
    ):
        assert isinstance(found, np.ndarray)
        assert found.shape == exact.shape
        assert np.abs(found - exact).max() <= limit


def test_a_complex_vector_on_a_real_operator():
    vector = np.arange(6) + 1j
    np.testing.assert_allclose(as_linear_operator(A) @ vector, N @ vector, rtol=100 * EPS)


def test_scipy_solves_and_finds_eigenvalues_with_it():
    L = as_linear_operator(A)
    found, info = linalg.cg(L, np.asarray(B), rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(found, X, rtol=0, atol=1e-12 * 10 * np.linalg.norm(X))
    np.testing.assert_allclose(linalg.eigsh(L, 2, return_eigenvectors=False), np.linalg.eigvalsh(N)[-2:], rtol=1e-10)


@pytest.fixture(scope="module")
def hosted():
    return from_linear_operator(PRODUCT)


def test_numbers_through_the_host_are_those_of_jax(hosted):
    def run(operator, b):
        return tla.solve(operator, b, key=KEY, plan=PLAN)

    expected = run(free(A), B)
    # Lanczos magnifies the rounding of the product by the condition number.
    limit = 1000 * 10.0 * EPS * np.abs(expected.value).max()
    found = jax.jit(run)(hosted, B)
    batch = jax.vmap(lambda b: run(hosted, b).value)(jnp.stack([B, B]))
    for value in (found.value, *batch):
        np.testing.assert_allclose(value, expected.value, rtol=0, atol=limit)
    assert_within_stderr(found.value, found.stderr, X)
    with pytest.raises(AssertionError):
        assert_within_stderr(2 * found.value, found.stderr, X)


def test_the_right_hand_side_has_a_derivative_and_the_entries_have_none(hosted):
    gradient = jax.grad(lambda b: jnp.sum(tla.solve(hosted, b, key=KEY, plan=PLAN).value))(B)
    # What the start leaves is exp(-0.1 * 200) / (0.1 * 4000) of the slowest mode; Lanczos stops at 1e-6.
    exact = np.linalg.solve(N, np.ones(6))
    assert np.linalg.norm(gradient - exact) < 10.0 * 1e-6 * np.linalg.norm(exact)
    with pytest.raises(ValueError, match="callbacks"):
        jax.grad(lambda b: jnp.sum(hosted @ b))(B)


def test_the_same_scipy_operator_does_not_compile_again():
    traces = []

    @jax.jit
    def run(operator):
        traces.append(1)
        return operator @ B

    for _ in range(2):
        run(from_linear_operator(PRODUCT))
    assert len(traces) == 1
    run(from_linear_operator(linalg.LinearOperator((6, 6), matvec=lambda x: 2 * (N @ x), dtype=np.float64)))
    assert len(traces) == 2


def test_a_factorisation_of_scipy_is_an_operator():
    """The inverse as the operator: the answer is the product with the matrix."""
    complete, incomplete = (
        linalg.LinearOperator(LINE.shape, matvec=factors.solve, dtype=LINE.dtype)
        for factors in (linalg.splu(LINE), linalg.spilu(LINE, drop_tol=0.0))  # nothing is dropped of a tridiagonal one
    )
    b = np.cos(np.arange(40))
    x = tla.solve(from_linear_operator(complete), jnp.asarray(b), key=KEY, plan=tla.Plan(100.0, 1e4))
    assert_within_stderr(x.value, x.stderr, LINE @ b)
    with pytest.raises(AssertionError):
        assert_within_stderr(x.value, x.stderr, complete @ b)
    # The condition number is 9 at most.
    np.testing.assert_allclose(from_linear_operator(incomplete) @ jnp.asarray(b), complete @ b, rtol=0, atol=1e3 * EPS)


def test_what_scipy_wraps_is_accepted():
    integers = np.array([[2, 1], [1, 2]])
    for given in (LINE, linalg.aslinearoperator(LINE), linalg.aslinearoperator(LINE.toarray())):
        operator = from_linear_operator(given)
        np.testing.assert_allclose(operator @ jnp.ones(40), LINE @ np.ones(40), rtol=10 * EPS, atol=10 * EPS)
    assert from_linear_operator(integers).dtype == np.float64
    assert from_linear_operator(np.asarray(C)).dtype == np.complex128
    assert from_linear_operator(N.astype(np.float32)).dtype == np.float32


def test_there_and_back_is_the_operator_itself():
    operator = tla.as_operator(A)
    assert from_linear_operator(as_linear_operator(operator)) is operator


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (linalg.aslinearoperator(np.ones((3, 2))), "square"),
        (linalg.aslinearoperator(N + np.triu(N)), "not symmetric"),
        (linalg.aslinearoperator(1j * N), "not symmetric"),
        (linalg.aslinearoperator(np.diag([1.0, np.nan])), "not finite"),
        (linalg.aslinearoperator(np.eye(2, dtype=np.float16)), "float16"),
        ("text", "LinearOperator"),
    ],
)
def test_bad_scipy_operators_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        from_linear_operator(given)


def test_under_jit_there_is_no_way_to_scipy():
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda A: as_linear_operator(tla.Dense(A)) and 0)(A)


# --- diffrax ----------------------------------------------------------------------------------------------------------

PATHS, TIME, STEP = 4000, 2.0, 0.05
START = np.ones(3)
PROCESS = SimpleNamespace(
    drift=np.array([[1.0, -2.0, 0.0], [0.5, 1.5, 0.3], [0.0, 1.0, 0.8]]),  # not normal
    force=np.array([1.0, 0.0, -1.0]),
    diffusion=np.outer([1.0, 0.5, 0.0], [1.0, 0.5, 0.0]),  # of rank one
)


def ensemble(scheme, levy_area=None, process=PROCESS):
    def run(key):
        terms = as_diffrax_terms(process, key, t0=0.0, t1=TIME, tol=STEP / 2, levy_area=levy_area)
        return diffrax.diffeqsolve(terms, scheme, 0.0, TIME, STEP, jnp.asarray(START)).ys[-1]

    return np.asarray(jax.jit(jax.vmap(run))(jax.random.split(KEY, PATHS)))


def assert_law(paths, mean, covariance):
    """Mean and covariance of Gaussian paths, each within its standard error."""
    variances = np.diag(covariance)
    assert_within_stderr(paths.mean(0), np.sqrt(variances / PATHS), mean)
    stderr = np.sqrt((np.outer(variances, variances) + covariance**2) / PATHS)
    assert_within_stderr(np.cov(paths.T), stderr, covariance)


def euler_law(process=PROCESS):
    """Moments of the Euler chain itself, by recursion in NumPy."""
    mean, covariance = START, np.zeros((3, 3))
    step = np.eye(3) - STEP * process.drift
    for _ in range(round(TIME / STEP)):
        mean, covariance = step @ mean + STEP * process.force, step @ covariance @ step.T + STEP * process.diffusion
    return mean, covariance


def exact_law(process=PROCESS):
    """The state at the end, from the start: the run from rest with the force that the start amounts to, moved there."""
    mean, covariance = exact_run(process.drift, process.force - process.drift @ START, process.diffusion, 0.0, TIME)
    return START + mean[3:], covariance[3:, 3:]


@pytest.fixture(scope="module")
def by_euler():
    return ensemble(diffrax.Euler())


def test_euler_paths_have_the_law_of_the_euler_chain(by_euler):
    assert_law(by_euler, *euler_law())


def test_the_euler_bias_is_seen(by_euler):
    with pytest.raises(AssertionError):
        assert_law(by_euler, *exact_law())


def test_a_scheme_of_higher_order_has_the_law_of_the_process():
    # Its bias is of second order in h, where that of Euler, which is seen above, is of first.
    paths = ensemble(diffrax.ShARK(), diffrax.SpaceTimeLevyArea)
    mean, covariance = exact_law()
    assert_law(paths, mean, covariance)
    with pytest.raises(AssertionError):
        assert_law(paths, mean, 1.25 * covariance)
    with pytest.raises(AssertionError):
        assert_law(paths, exact_law(SimpleNamespace(**(vars(PROCESS) | {"force": np.zeros(3)})))[0], covariance)


def one_path(drift, force, diffusion):
    process = SimpleNamespace(drift=drift, force=force, diffusion=diffusion)
    terms = as_diffrax_terms(process, KEY, t0=0.0, t1=1.0, tol=0.01)
    begin, end, step = jnp.array([0.0, 1.0, 0.1], drift.dtype)
    return diffrax.diffeqsolve(terms, diffrax.Euler(), begin, end, step, jnp.ones(2, drift.dtype)).ys[-1]


def fields(drift, force, diffusion):
    """Vector fields of the two terms at a point, without integrating."""
    process = SimpleNamespace(drift=drift, force=force, diffusion=diffusion)
    terms = as_diffrax_terms(process, KEY, t0=0.0, t1=1.0).terms
    return tuple(term.vf(0.0, jnp.array([1.0, 2.0]), None) for term in terms)


def test_fields_are_the_force_felt_and_a_root_of_the_diffusion():
    drift, diffusion = np.array([[1.0, 2.0], [-3.0, 0.5]]), np.array([[4.0, 2.0], [2.0, 1.0]])
    for force in (np.array([5.0, 7.0]), None):
        felt, factor = fields(drift, force, diffusion)
        np.testing.assert_allclose(felt, (0 if force is None else force) - drift @ [1.0, 2.0], rtol=10 * EPS)
        np.testing.assert_allclose(factor @ factor.T, diffusion, rtol=0, atol=1e-8)  # the root of an EPS next to 5


def test_terms_in_float32():
    end = one_path(jnp.eye(2, dtype=np.float32), None, jnp.eye(2, dtype=np.float32))
    assert end.dtype == np.float32
    assert np.isfinite(end).all()


def test_derivatives_also_where_eigenvalues_coincide():
    weights, direction = jnp.array([1.0, -2.0]), jnp.array([[0.3, 0.7], [0.7, -0.2]])

    @jax.jit
    def loss(x):
        felt, factor = fields(jnp.eye(2) * (1 + x), jnp.ones(2) * x, 2 * jnp.eye(2) + x * direction)
        return weights @ (felt + factor @ jnp.array([0.4, 1.3]))

    # Central differences: error h**2 of the third derivative and rounding EPS/h of the value, both about 1e-10.
    h = 1e-5
    np.testing.assert_allclose(jax.grad(loss)(0.0), (loss(h) - loss(-h)) / (2 * h), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drift": np.ones((2, 3))}, "drift must be a square"),
        ({"force": np.ones(2)}, "force must have shape"),
        ({"diffusion": np.ones(3)}, "diffusion must have shape"),
        ({"diffusion": np.triu(np.ones((3, 3)))}, "diffusion is not symmetric"),
        ({"diffusion": np.diag([1.0, 1.0, -1.0])}, "positive semi-definite"),
        ({"drift": np.diag([1.0, np.inf, 1.0])}, "drift has entries"),
        ({"drift": 1j * np.eye(3)}, "drift is complex"),
    ],
)
def test_bad_processes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        as_diffrax_terms(SimpleNamespace(**(vars(PROCESS) | change)), KEY, t0=0.0, t1=1.0)


def test_time_runs_forward():
    with pytest.raises(ValueError, match="t0 must be less"):
        as_diffrax_terms(PROCESS, KEY, t0=1.0, t1=1.0)


def test_under_jit_a_diffusion_that_is_none_gives_nan():
    factor = jax.jit(lambda D: fields(jnp.eye(2), None, D)[1])(jnp.diag(jnp.array([1.0, -1.0])))
    assert np.isnan(factor).any()
