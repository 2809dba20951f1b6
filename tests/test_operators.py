r"""Every operator against the functional calculus of the dense matrix by ``numpy.linalg.eigh``.

Tolerances are backward errors. An ``eigh`` gives the eigensystem of a matrix off by about d ``eps`` of its norm, so
f(A)v is right to d ``eps`` (max|f| + norm(A) max|f'|) norm(v) times a small constant, 4 here, for either side of the
comparison. A Lanczos process stopped at the relative residual `rtol` solves Ax = v to rtol norm(v)/lambda_min, and fits
smoother functions at least as well relative to their maximum.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from jax.tree_util import Partial

from thermolinalg import Spectrum, as_operator
from thermolinalg.operators import Dense, Diagonal, Kronecker, LowRank, MatrixFree, as_block, lanczos
from thermolinalg.operators.convert import DENSE_LIMIT
from thermolinalg.operators.sparse import sparse_product
from thermolinalg.testing import assert_within_stderr, right_hand_sides, spd_matrices

EPS = 2.0**-52


def hermitian(eigenvalues, seed=0, dtype=float):
    """Matrix with these eigenvalues in a random basis."""
    rng = np.random.default_rng(seed)
    d = len(eigenvalues)
    columns = rng.standard_normal((d, d)) + (1j * rng.standard_normal((d, d)) if dtype is complex else 0.0)
    basis = np.linalg.qr(columns)[0]
    matrix = (basis * eigenvalues) @ basis.conj().T
    return (matrix + matrix.conj().T) / 2


def normals(*shape, dtype=float, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype is complex else 0.0)


def matrix_free(matrix, **options):
    return MatrixFree(Partial(jnp.matmul, jnp.asarray(matrix)), len(matrix), jnp.asarray(matrix).dtype, **options)


def laplacian(n, m):
    """Five-point Laplacian of an n x m grid plus 1/2: eigenvalues between 0.5 and 8.5."""
    lines = [scipy.sparse.diags_array([2.0, -1.0, -1.0], offsets=[0, 1, -1], shape=(k, k)) for k in (n, m)]
    rows, columns = (scipy.sparse.eye_array(k) for k in (n, m))
    return scipy.sparse.csr_array(
        scipy.sparse.kron(lines[0], columns) + scipy.sparse.kron(rows, lines[1]) + 0.5 * scipy.sparse.eye_array(n * m)
    )


def _low_rank(columns, shift):
    return LowRank(jnp.asarray(columns), jnp.asarray(shift)), columns @ columns.conj().T + shift * np.eye(len(columns))


def _kronecker(*factors):
    operators = tuple(Diagonal(jnp.asarray(x)) if x.ndim == 1 else Dense(jnp.asarray(x)) for x in factors)
    return Kronecker(operators), functools.reduce(np.kron, [np.diag(x) if x.ndim == 1 else x for x in factors])


def _lineax():
    halves = hermitian(SPREAD) / 2
    one, other = (lineax.MatrixLinearOperator(jnp.asarray(halves), lineax.positive_semidefinite_tag) for _ in (1, 2))
    return as_operator(one + other), 2 * halves


def _sparse():
    matrix = laplacian(25, 44)
    return MatrixFree(sparse_product(matrix, np.float64), 1100, jnp.dtype("float64")), matrix.toarray()


SPREAD = np.geomspace(0.02, 1.0, 9)
BUILD = {
    "dense": lambda: (Dense(jnp.asarray(hermitian(SPREAD))), hermitian(SPREAD)),
    "dense complex": lambda: (Dense(jnp.asarray(hermitian(SPREAD, dtype=complex))), hermitian(SPREAD, dtype=complex)),
    "dense of one unknown": lambda: (Dense(jnp.array([[0.3]])), np.array([[0.3]])),
    "diagonal": lambda: (Diagonal(jnp.asarray(SPREAD[::-1])), np.diag(SPREAD[::-1])),
    "low rank": lambda: _low_rank(normals(9, 3) / 3, 0.2),
    "low rank complex": lambda: _low_rank(normals(9, 3, dtype=complex) / 3, 0.2),
    "low rank, repeated columns": lambda: _low_rank(normals(9, 2)[:, [0, 1, 0, 1]] / 3, 0.2),
    "low rank, no columns to speak of": lambda: _low_rank(np.zeros((9, 2)), 0.2),
    "kronecker": lambda: _kronecker(hermitian(SPREAD[[0, 4, 8]]), SPREAD[[1, 5]], hermitian(SPREAD[[2, 8]])),
    "kronecker complex": lambda: _kronecker(*(hermitian(SPREAD[[i, 8]], dtype=complex) for i in (1, 4))),
    "matrix-free": lambda: (matrix_free(hermitian(SPREAD)), hermitian(SPREAD)),
    "matrix-free complex": lambda: (
        matrix_free(hermitian(SPREAD, dtype=complex)),
        hermitian(SPREAD, dtype=complex),
    ),
    "matrix-free of one unknown": lambda: (matrix_free(np.array([[0.3]])), np.array([[0.3]])),
    "lineax": _lineax,
    "sparse": _sparse,
}
FREE = [name for name in BUILD if name.startswith("matrix-free") or name in ("lineax", "sparse")]
KNOWN = [name for name in BUILD if name not in FREE]
RTOL = 1e-12


@functools.cache
def case(name):
    """Factored operator, its matrix, eigenvalues and eigenvectors, and a block with a zero column."""
    operator, matrix = BUILD[name]()
    if isinstance(operator, MatrixFree):
        operator = replace(operator, rtol=RTOL, max_steps=300)
    eigenvalues, eigenvectors = np.linalg.eigh(matrix)
    vectors = normals(2, len(matrix), 3, dtype=complex if np.iscomplexobj(matrix) else float)
    vectors[:, :, 1] = 0.0
    return operator.factor(), matrix, eigenvalues, eigenvectors, vectors


def decay(rates):
    return jnp.exp(-rates)


def resolvent(rates):
    return 1 / (1 + rates)


def table(rates):
    """A 2 x 2 matrix of functions."""
    return jnp.stack([jnp.stack([resolvent(rates), decay(rates)]), jnp.stack([jnp.sqrt(rates), rates])])


@jax.jit
def evaluate(operator, vectors):
    """Everything an operator can do, compiled once for each type of operator."""
    block = vectors[0]
    return {
        "combine": operator.combine(table, vectors),
        "apply": operator.apply(decay, block),
        "vector": operator.apply(decay, block[:, 0]),
        "product": operator.matmat(block),
        "matmul": operator @ block[:, 0],
        "solve": operator.solve(block),
        "diagonal": operator.diagonal(decay),
        "magnitude": operator.magnitude(lambda rates: table(rates)[0], vectors),
        "measure": operator.measure(block),
        "extremes": operator.extremes(),
    }


@functools.cache
def results(name):
    operator, *_, vectors = case(name)
    return jax.tree.map(np.asarray, evaluate(operator, jnp.asarray(vectors)))


@functools.cache
def functions_of(name):
    """The table of functions of the dense matrix, shape (2, 2, d, d), and of its eigenvalues, (2, 2, d)."""
    _, _, eigenvalues, eigenvectors, _ = case(name)
    values = np.asarray(table(jnp.asarray(eigenvalues)))
    return (eigenvectors * values[:, :, None]) @ eigenvectors.conj().T, values


def tolerance(name):
    """Backward error of the functions of the table, for vectors of unit length; see the module docstring."""
    operator, _, eigenvalues, _, _ = case(name)
    low, high = eigenvalues.min(), eigenvalues.max()
    largest = np.sqrt(high) + high + 2  # sums of max|f| over the table
    steepest = 0.5 / np.sqrt(low) + 3.0
    rounding = 8 * len(eigenvalues) * EPS * (largest + high * steepest)
    return rounding + (RTOL * largest / low if isinstance(operator, MatrixFree) else 0.0)


def lengths(block):
    return np.linalg.norm(block, axis=-2)


def test_tolerances_are_tight():
    """An error in the tenth digit of any operator fails the tests below."""
    assert max(tolerance(name) for name in BUILD) < 1e-9


@pytest.mark.parametrize("name", BUILD)
def test_combine_applies_a_matrix_of_functions(name):
    vectors = case(name)[-1]
    exact = np.einsum("pqij,qjk->pik", functions_of(name)[0], vectors)
    outputs, converged = results(name)["combine"]
    assert converged
    assert outputs.dtype == vectors.dtype
    assert np.all(lengths(outputs - exact) <= tolerance(name) * lengths(vectors).sum(0))
    assert not np.any(outputs[:, :, 1])


@pytest.mark.parametrize("name", BUILD)
def test_apply_to_a_block_and_to_a_vector(name):
    vectors = case(name)[-1]
    exact = functions_of(name)[0][0, 1] @ vectors[0]
    assert np.all(lengths(results(name)["apply"] - exact) <= tolerance(name) * lengths(vectors[0]))
    vector = results(name)["vector"]
    assert vector.shape == exact[:, 0].shape
    assert np.linalg.norm(vector - exact[:, 0]) <= tolerance(name) * lengths(vectors[0])[0]


@pytest.mark.parametrize("name", BUILD)
def test_products(name):
    operator, matrix, eigenvalues, _, vectors = case(name)
    assert operator.shape == matrix.shape
    assert operator.dim == len(matrix)
    assert operator.dtype == matrix.dtype
    assert operator.components == (2 if np.iscomplexobj(matrix) else 1)
    exact = matrix @ vectors[0]
    limit = 4 * len(matrix) * EPS * eigenvalues.max() * lengths(vectors[0])
    assert np.all(lengths(results(name)["product"] - exact) <= limit)
    assert np.linalg.norm(results(name)["matmul"] - exact[:, 0]) <= limit[0]


def check_solution(name, answer):
    _, matrix, eigenvalues, _, vectors = case(name)
    residual = lengths(matrix @ answer - vectors[0])
    # An explicit inverse in the eigenbasis has the residual d eps kappa; conjugate gradients stop at rtol, which they
    # compare with the length of the block as a whole.
    limit = 8 * len(matrix) * EPS * eigenvalues.max() / eigenvalues.min()
    assert np.all(residual <= (limit + (RTOL if name in FREE else 0.0)) * np.linalg.norm(vectors[0]))
    assert not np.any(answer[:, 1])


@pytest.mark.parametrize("name", BUILD)
def test_solve(name):
    check_solution(name, results(name)["solve"])


@pytest.mark.parametrize("name", ["dense", "dense complex", "dense of one unknown"])
def test_solve_by_cholesky(name):
    operator, *_, vectors = case(name)
    bare = Dense(operator.matrix).triangulate()
    assert bare.eigenvalues is None
    assert bare.triangulate() is bare
    check_solution(name, np.asarray(bare.solve(jnp.asarray(vectors[0]))))


@pytest.mark.parametrize("name", KNOWN)
def test_diagonal_and_magnitude(name):
    vectors = case(name)[-1]
    functions = functions_of(name)[0]
    assert np.all(np.abs(results(name)["diagonal"] - np.diag(functions[0, 1]).real) <= tolerance(name))
    exact = np.abs(functions[0, 0] @ vectors[0] + functions[0, 1] @ vectors[1])
    difference = np.abs(results(name)["magnitude"] - exact)
    assert np.all(difference <= tolerance(name) * lengths(vectors).sum(0))


@pytest.mark.parametrize("name", FREE)
def test_diagonal_of_a_matrix_free_operator_is_its_mean(name):
    d = case(name)[0].dim
    nodes, counts, _ = results(name)["measure"]
    diagonal = results(name)["diagonal"]
    assert diagonal.shape == (d,)
    mean = np.sum(counts * np.exp(-nodes)) / case(name)[0].components / d
    np.testing.assert_allclose(diagonal, mean, rtol=4 * len(nodes) * EPS)


@pytest.mark.parametrize("name", FREE)
def test_magnitude_of_a_matrix_free_operator_is_the_root_mean_square(name):
    vectors = case(name)[-1]
    functions = functions_of(name)[0]
    exact = sum(lengths(functions[0, j] @ vectors[j]) for j in (0, 1)) / np.sqrt(vectors.shape[1])
    magnitude = results(name)["magnitude"]
    assert magnitude.shape == vectors.shape[1:]
    assert np.all(np.abs(magnitude - exact) <= 4 * tolerance(name) * lengths(vectors).sum(0))


@pytest.mark.parametrize("name", BUILD)
def test_measure_gives_quadratic_forms(name):
    """The sum of w f(nodes) is v* f(A) v for every column; the tolerance is that of f(A)v."""
    vectors = case(name)[-1]
    nodes, counts, weights = results(name)["measure"]
    assert weights.shape == (len(nodes), 3)
    assert counts.shape == nodes.shape
    assert np.all(weights >= 0)
    quadratic = np.einsum("ik,ij,jk->k", vectors[0].conj(), functions_of(name)[0][0, 0], vectors[0]).real
    found = weights.T @ (1 / (1 + nodes))
    assert np.all(np.abs(found - quadratic) <= tolerance(name) * lengths(vectors[0]) ** 2)
    assert not np.any(weights[:, 1])


@pytest.mark.parametrize("name", KNOWN)
def test_measure_gives_traces(name):
    operator, _, eigenvalues, _, _ = case(name)
    nodes, counts, _ = results(name)["measure"]
    for function in (np.exp, lambda x: 1 / x, np.ones_like):
        trace = operator.components * np.sum(function(eigenvalues))
        # Eigenvalues are right to d eps of the largest; the steepest of the functions has slope lambda_min^-2.
        limit = 8 * len(eigenvalues) ** 2 * EPS * max(1.0, eigenvalues.max() / eigenvalues.min() ** 2)
        assert abs(np.sum(counts * function(nodes)) - trace) <= limit * operator.components


@pytest.mark.parametrize("name", ["matrix-free", "matrix-free complex", "lineax"])
def test_measure_of_a_small_matrix_free_operator_knows_its_traces(name):
    """No more unknowns than steps of the survey: it is diagonalised instead."""
    operator = case(name)[0]
    _, values = functions_of(name)
    nodes, counts, _ = results(name)["measure"]
    for i, j, function in ((0, 0, resolvent), (0, 1, decay)):
        trace = np.sum(counts * np.asarray(function(jnp.asarray(nodes)))) / operator.components
        np.testing.assert_allclose(trace, values[i, j].sum(), rtol=8 * operator.dim**2 * EPS)


def test_measure_of_a_matrix_free_operator_estimates_traces():
    """Four random signs have the variance of Hutchinson's estimator: twice the squares off the diagonal, over four."""
    name = "sparse"
    operator = case(name)[0]
    functions, values = functions_of(name)
    nodes, counts, _ = results(name)["measure"]
    for i, j, function in ((0, 0, resolvent), (0, 1, decay)):
        trace = values[i, j].sum()
        beside = functions[i, j].real - np.diag(np.diag(functions[i, j].real))
        stderr = np.sqrt(2 * np.sum(beside**2) / operator.probes)
        estimate = np.sum(counts * np.asarray(function(jnp.asarray(nodes)))) / operator.components
        assert_within_stderr(estimate, stderr, trace)
        with pytest.raises(AssertionError):
            assert_within_stderr(estimate + 6 * stderr * np.sign(estimate - trace), stderr, trace)
    np.testing.assert_allclose(counts.sum(), operator.components * operator.dim, rtol=len(nodes) * EPS)


@pytest.mark.parametrize("name", BUILD)
def test_extremes(name):
    _, _, eigenvalues, _, _ = case(name)
    lower, low, high, upper = results(name)["extremes"]
    slack = 8 * len(eigenvalues) * EPS * eigenvalues.max()
    assert lower - slack <= eigenvalues.min() <= low + slack
    assert high - slack <= eigenvalues.max() <= upper + slack
    if name in KNOWN:
        assert lower == low
        assert high == upper
        np.testing.assert_allclose([low, high], eigenvalues[[0, -1]], rtol=0, atol=slack)


@pytest.mark.parametrize("name", ["dense", "diagonal", "low rank", "kronecker complex", "matrix-free"])
def test_compiled_and_eager_agree(name):
    operator, *_, vectors = case(name)
    block = jnp.asarray(vectors[0])
    eager = np.asarray(operator.apply(decay, block))
    assert np.all(lengths(eager - results(name)["apply"]) <= tolerance(name) * lengths(vectors[0]))


NOT_FACTORED = {
    Dense: {"eigenvalues": None, "eigenvectors": None},
    LowRank: {"basis": None, "gains": None},
    Kronecker: {},
    MatrixFree: {"nodes": None, "counts": None, "bounds": None},
}


@pytest.mark.parametrize("name", ["dense complex", "low rank", "kronecker", "matrix-free"])
def test_single_precision(name):
    """The same in float32: the type is kept, and the rounding error takes the place of that of float64."""
    operator, *_, vectors = case(name)
    narrow = {np.dtype(float): np.float32, np.dtype(complex): np.complex64}

    def rounded(x):
        return jnp.asarray(x).astype(narrow[np.dtype(x.dtype)]) if np.dtype(x.dtype) in narrow else x

    single = jax.tree.map(rounded, replace(operator, **NOT_FACTORED[type(operator)]))
    if isinstance(single, MatrixFree):
        single = replace(single, entries=jnp.dtype("float32"), rtol=1e-6)
    block = rounded(vectors[0])
    found = single.factor().apply(decay, block)
    assert found.dtype == block.dtype
    exact = functions_of(name)[0][0, 1] @ vectors[0]
    limit = tolerance(name) * 2.0**29 + (1e-6 if isinstance(operator, MatrixFree) else 0.0)
    assert np.all(lengths(np.asarray(found) - exact) <= limit * lengths(vectors[0]))


@pytest.mark.parametrize("name", ["dense", "diagonal", "low rank", "kronecker", "matrix-free", "lineax"])
def test_vmap_over_vectors(name):
    operator, *_, vectors = case(name)
    mapped = jax.jit(jax.vmap(lambda v: operator.apply(decay, v), in_axes=1, out_axes=1))(jnp.asarray(vectors[0]))
    assert np.all(lengths(np.asarray(mapped) - results(name)["apply"]) <= tolerance(name) * lengths(vectors[0]))


def test_vmap_over_operators():
    matrices = np.stack([hermitian(SPREAD, seed=seed) for seed in (0, 1, 2)])
    vector = normals(9)
    found = jax.vmap(lambda m: Dense(m).factor().apply(decay, jnp.asarray(vector)))(jnp.asarray(matrices))
    for matrix, row in zip(matrices, np.asarray(found), strict=True):
        eigenvalues, basis = np.linalg.eigh(matrix)
        exact = basis @ (np.exp(-eigenvalues) * (basis.T @ vector))
        assert np.linalg.norm(row - exact) <= tolerance("dense") * np.linalg.norm(vector)


def test_factoring_twice_changes_nothing():
    for name in BUILD:
        operator = case(name)[0]
        again = operator.factor()
        for a, b in zip(jax.tree.leaves(operator), jax.tree.leaves(again), strict=True):
            assert a is b


@pytest.mark.parametrize("name", ["dense", "low rank", "kronecker", "matrix-free", "sparse"])
def test_an_operator_that_is_not_factored_says_so(name):
    with pytest.raises(ValueError, match="not factored yet"):
        BUILD[name]()[0].extremes()


SIX = st.just(6)


class TestAwkwardSpectra:
    """Clusters, outliers and condition numbers up to 1e4, in six unknowns so that one compilation serves all."""

    apply = staticmethod(jax.jit(lambda operator, block: operator.factor().combine(self_table, block[None])))
    survey = staticmethod(jax.jit(lambda operator: operator.factor().extremes()))

    @pytest.mark.parametrize("build", [lambda A: Dense(jnp.asarray(A)), lambda A: matrix_free(A, rtol=RTOL)])
    def test_inverse_and_root(self, build):
        @given(st.data())
        def check(data):
            A = data.draw(spd_matrices(SIX))
            b = data.draw(right_hand_sides(A))
            eigenvalues, basis = np.linalg.eigh(A)
            kappa = eigenvalues[-1] / eigenvalues[0]
            outputs, converged = self.apply(build(A), jnp.asarray(b)[:, None])
            assert converged
            for found, values in zip(outputs[:, :, 0], (1 / eigenvalues, np.sqrt(eigenvalues)), strict=True):
                exact = basis @ (values * (basis.T @ b))
                # 4 d eps on either side, and the residual of Lanczos, times max|f'| |A| = kappa max|f|.
                limit = (8 * 6 * EPS + RTOL) * kappa * values.max()
                assert np.linalg.norm(found - exact) <= limit

        check()

    @given(spd_matrices(SIX))
    def test_bounds_enclose_the_spectrum(self, A):
        eigenvalues = np.linalg.eigvalsh(A)
        slack = 8 * 6 * EPS
        for operator in (Dense(jnp.asarray(A)), matrix_free(A)):
            lower, low, high, upper = (float(x) for x in self.survey(operator))
            assert lower - slack <= eigenvalues[0] <= low + slack
            assert high - slack <= eigenvalues[-1] <= upper + slack


def self_table(rates):
    return jnp.stack([1 / rates, jnp.sqrt(rates)])[:, None]


class TestLanczos:
    d, kappa = 40, 1e3
    matrix = hermitian(np.geomspace(1 / kappa, 1.0, d))

    def run(self, block, rtol, steps):
        product = Partial(jnp.matmul, jnp.asarray(self.matrix))
        outputs, converged = lanczos.combine(product, self_table, jnp.asarray(block)[None], rtol, steps)
        return np.asarray(outputs), bool(converged)

    def exact(self, block):
        eigenvalues, basis = np.linalg.eigh(self.matrix)
        values = (1 / eigenvalues, np.sqrt(eigenvalues))
        return np.stack([basis @ (v[:, None] * (basis.T @ block)) for v in values]), values

    @pytest.mark.parametrize("rtol", [1e-12, 0.0])
    def test_stays_correct_long_after_orthogonality_is_lost(self, rtol):
        """200 steps in 40 dimensions: copies of Ritz values appear, and the answer is that of a stable solver."""
        block = normals(self.d, 3)
        outputs, converged = self.run(block, rtol, 5 * self.d)
        assert converged == (rtol > 0)
        exact, values = self.exact(block)
        for found, truth, value in zip(outputs, exact, values, strict=True):
            limit = (rtol + 8 * self.d * EPS) * self.kappa * value.max()
            assert np.all(lengths(found - truth) <= limit * lengths(block))

    def test_a_process_cut_short_says_so(self):
        block = normals(self.d, 1)
        outputs, converged = self.run(block, 1e-12, 10)
        assert not converged
        assert np.all(np.isfinite(outputs))
        short = matrix_free(self.matrix, max_steps=10)
        assert np.all(np.isnan(short.apply(decay_fast, jnp.asarray(block))))

    def test_stops_at_an_invariant_subspace(self):
        """A start in the span of two eigenvectors ends after two steps, with the answer exact to rounding."""
        eigenvalues, basis = np.linalg.eigh(self.matrix)
        block = (basis[:, [3]] + basis[:, [30]]) / np.sqrt(2)
        outputs, converged = self.run(block, 1e-10, 5 * self.d)
        assert converged
        exact, _ = self.exact(block)
        assert lengths(outputs[0] - exact[0])[0] <= 1e-10 * self.kappa + 8 * self.d * EPS * self.kappa**2
        product = Partial(jnp.matmul, jnp.asarray(self.matrix))
        process = lanczos.tridiagonalise(product, jnp.asarray(block), jnp.zeros(1), 1e-10, 5 * self.d)
        assert int(process.steps) == 2
        nodes, weights = process.quadrature()
        # Two roundings of the norm per step, as the residual of the invariant subspace.
        np.testing.assert_allclose(np.sort(nodes[:2, 0]), eigenvalues[[3, 30]], rtol=0, atol=8 * self.d * EPS)
        np.testing.assert_allclose(weights[:2, 0], 0.5, rtol=0, atol=8 * self.d * EPS / 0.1)

    def test_residual_is_that_of_the_system(self):
        """The number by which the process stops is the true residual of (A + shift) x = v after as many steps."""
        vector, shift, steps = normals(self.d), 0.01, 12
        product = Partial(jnp.matmul, jnp.asarray(self.matrix))
        process = lanczos.tridiagonalise(product, jnp.asarray(vector)[:, None], jnp.full(1, shift), 0.0, steps)
        krylov = [vector / np.linalg.norm(vector)]
        for _ in range(steps - 1):
            w = self.matrix @ krylov[-1]
            for _ in (0, 1):
                w -= sum(q * (q @ w) for q in krylov)
            krylov.append(w / np.linalg.norm(w))
        basis = np.stack(krylov, 1)
        shifted = self.matrix + shift * np.eye(self.d)
        x = basis @ np.linalg.solve(basis.T @ shifted @ basis, basis.T @ vector)
        exact = np.linalg.norm(shifted @ x - vector) / np.linalg.norm(vector)
        # Twelve steps keep orthogonality to a few roundings times the growth of the residual polynomial, below 1e3.
        np.testing.assert_allclose(process.residual[0], exact, rtol=1e3 * self.d * EPS)


def decay_fast(rates):
    return jnp.exp(-1e4 * rates)


class TestSpectrum:
    @pytest.mark.parametrize("name", KNOWN)
    def test_known_eigenvalues_are_resolved(self, name):
        _, matrix, eigenvalues, _, _ = case(name)
        spectrum = Spectrum.of(BUILD[name]()[0])
        assert spectrum.resolved
        assert spectrum.lower == spectrum.minimum
        assert spectrum.upper == spectrum.maximum
        kappa = eigenvalues[-1] / eigenvalues[0]
        np.testing.assert_allclose(spectrum.kappa, kappa, rtol=16 * len(matrix) * EPS * kappa)
        assert spectrum.kappa_bound == spectrum.kappa

    def test_interval_of_a_well_conditioned_sparse_matrix(self):
        eigenvalues = case("sparse")[2]
        spectrum = Spectrum.of(case("sparse")[0])
        assert spectrum.resolved
        # Both eigensolvers are right to a modest multiple of d eps times the norm.
        slack = 8 * len(eigenvalues) * EPS * eigenvalues[-1]
        assert 0 < spectrum.lower <= eigenvalues[0] + slack
        assert eigenvalues[0] <= spectrum.minimum + slack
        assert spectrum.maximum - slack <= eigenvalues[-1] <= spectrum.upper + slack
        kappa = eigenvalues[-1] / eigenvalues[0]
        assert spectrum.kappa <= kappa * (1 + 2 * slack / eigenvalues[0])
        assert kappa <= spectrum.kappa_bound * (1 + 2 * slack / eigenvalues[0])

    def test_too_short_a_survey_is_unresolved(self):
        """64 steps at a condition number of 1e5: the estimate is optimistic, and the interval says how far."""
        values = np.geomspace(1e-5, 1.0, 2000)
        operator = MatrixFree(Partial(_scale_rows, jnp.asarray(values)), 2000, jnp.dtype("float64"), survey_steps=64)
        spectrum = Spectrum.of(operator)
        assert not spectrum.resolved
        assert 0 <= spectrum.lower <= values[0]
        assert spectrum.minimum > 5 * values[0]
        assert spectrum.maximum <= values[-1] * (1 + 16 * EPS)
        assert spectrum.upper >= values[-1]
        assert spectrum.kappa_bound == np.inf

    def test_more_steps_resolve_it(self):
        values = np.geomspace(1e-2, 1.0, 2000)
        few, many = (
            Spectrum.of(
                MatrixFree(Partial(_scale_rows, jnp.asarray(values)), 2000, jnp.dtype("float64"), survey_steps=n)
            )
            for n in (16, 128)
        )
        assert not few.resolved
        assert many.resolved
        assert few.lower <= many.lower <= values[0] <= many.minimum <= few.minimum


def _scale_rows(values, block):
    return values[:, None] * block


class TestConversion:
    def test_operators_pass_through(self):
        operator = Diagonal(jnp.ones(2))
        assert as_operator(operator) is operator

    @pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, lambda m: m.tolist(), scipy.sparse.csr_array])
    def test_arrays_and_small_sparse_matrices_are_dense(self, kind):
        matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
        operator = as_operator(kind(matrix))
        assert isinstance(operator, Dense)
        np.testing.assert_array_equal(operator.matrix, matrix)
        assert operator.dtype == jnp.float64

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
    def test_types_are_kept(self, dtype):
        assert as_operator(np.eye(2, dtype=dtype)).dtype == dtype

    def test_integers_become_floats(self):
        assert as_operator(np.eye(2, dtype=int)).dtype == jnp.float64
        assert as_operator(scipy.sparse.eye_array(2, dtype=np.int8)).dtype == jnp.float64

    @pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
    def test_large_sparse_matrices_stay_sparse(self, layout):
        n = DENSE_LIMIT + 1
        matrix = scipy.sparse.diags_array([2.5, -1.0, -1.0], offsets=[0, 1, -1], shape=(n, n)).asformat(layout)
        operator = as_operator(matrix)
        assert isinstance(operator, MatrixFree)
        block = normals(n, 2)
        # Three products and two sums for each entry.
        difference = np.abs(np.asarray(operator.matmat(jnp.asarray(block))) - matrix @ block)
        assert np.all(difference <= 4 * EPS * (abs(matrix) @ np.abs(block)))

    def test_duplicate_entries_of_a_sparse_matrix_add_up(self):
        n = DENSE_LIMIT + 1
        index = np.append(np.arange(n), 0)
        operator = as_operator(scipy.sparse.coo_array((np.ones(n + 1), (index, index))))
        np.testing.assert_array_equal(operator @ jnp.ones(n), np.append(2.0, np.ones(n - 1)))

    def test_lineax_operators(self):
        matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
        assert isinstance(as_operator(lineax.MatrixLinearOperator(jnp.asarray(matrix))), Dense)
        diagonal = as_operator(lineax.DiagonalLinearOperator(jnp.ones(2)))
        assert isinstance(diagonal, Diagonal)
        structure = jax.ShapeDtypeStruct((2,), jnp.float64)
        product = Partial(jnp.matmul, jnp.asarray(matrix))
        free = as_operator(lineax.FunctionLinearOperator(product, structure, lineax.positive_semidefinite_tag))
        assert isinstance(free, MatrixFree)
        np.testing.assert_array_equal(free @ jnp.ones(2), [3.0, 4.0])

    @pytest.mark.parametrize(
        ("matrix", "message"),
        [
            (np.ones((2, 3)), r"K must be a square matrix, got shape \(2, 3\)"),
            (np.ones(4), r"K must be a square matrix, got shape \(4,\)"),
            (np.zeros((0, 0)), r"K must be a square matrix, got shape \(0, 0\)"),
            (np.ones((2, 2, 2)), "K must be a square matrix"),
            (np.diag([1.0, np.nan]), "K has entries that are not finite"),
            (np.diag([1.0, np.inf]), "K has entries that are not finite"),
            (np.array([[1.0, 0.1], [0.0, 1.0]]), r"K is not symmetric: .* by 1\.0e-01 of the largest entry"),
            (np.array([[1.0, 0.1j], [0.1j, 1.0]]), r"K is not symmetric: .* by 2\.0e-01"),
            (np.array([[1.0, 1e-6], [0.0, 1.0]]), "K is not symmetric"),
            (np.array([[1.0, 1e-3], [0.0, 1.0]], np.float32), "K is not symmetric"),
            ("matrix", "K must be numeric, got str"),
            (np.array([["a", "b"], ["b", "a"]]), "K must be numeric, got ndarray"),
            (object(), "K must be numeric, got object"),
            (np.eye(2, dtype=np.float16), "K has dtype float16"),
            (jnp.eye(2, dtype=jnp.bfloat16), "K has dtype bfloat16"),
            (scipy.sparse.csr_array(np.ones((2, 3))), r"K must be a square matrix, got shape \(2, 3\)"),
            (scipy.sparse.csr_array(np.diag([1.0, np.nan])), "K has entries that are not finite"),
            (
                lineax.FunctionLinearOperator(jnp.sin, jax.ShapeDtypeStruct((2,), jnp.float64)),
                "K is not known to be symmetric; tag it",
            ),
            (lineax.MatrixLinearOperator(jnp.ones((2, 3))), "K must be square, got a lineax operator"),
        ],
    )
    def test_refusals_name_the_argument(self, matrix, message):
        with pytest.raises(ValueError, match=message):
            as_operator(matrix, "K")

    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [((0, 0), np.inf, "K has entries that are not finite"), ((0, 1), 1.0, "K is not symm")],
    )
    def test_refusals_of_large_sparse_matrices(self, place, value, message):
        matrix = scipy.sparse.eye_array(DENSE_LIMIT + 1, format="lil")
        matrix[place] = value
        with pytest.raises(ValueError, match=message):
            as_operator(matrix, "K")

    def test_rounding_passes_as_symmetric(self):
        assert isinstance(as_operator(np.array([[1.0, 1e-9], [0.0, 1.0]])), Dense)
        assert isinstance(as_operator(np.array([[1.0, 1e-5], [0.0, 1.0]], np.float32)), Dense)

    def test_values_are_not_looked_at_under_jit(self):
        assert np.isnan(jax.jit(lambda m: as_operator(m).matrix)(jnp.full((2, 2), jnp.nan))).all()

    def test_blocks(self):
        operator = Diagonal(jnp.ones(3))
        assert as_block(np.ones(3), operator, "b").shape == (3, 1)
        assert as_block(np.ones((3, 2), int), operator, "b").dtype == jnp.float64
        assert as_block(np.ones(3), Diagonal(jnp.ones(3, jnp.complex128)), "b").dtype == jnp.complex128

    @pytest.mark.parametrize(
        ("block", "message"),
        [
            (np.ones(2), r"b must have shape \(3,\) or \(3, k\) to match the operator, got \(2,\)"),
            (np.ones((3, 1, 1)), r"b must have shape .* got \(3, 1, 1\)"),
            (np.array([1.0, np.nan, 0.0]), "b has entries that are not finite"),
            (np.ones(3, complex), "b is complex and A is real"),
            ("abc", "b must be numeric"),
        ],
    )
    def test_blocks_that_are_refused(self, block, message):
        with pytest.raises(ValueError, match=message):
            as_block(block, Diagonal(jnp.ones(3)), "b")
