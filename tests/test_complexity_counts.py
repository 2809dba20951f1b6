"""Formulas of operations against programs whose operations are counted one by one."""

import math

import numpy as np
import pytest
import sympy as sp

from thermolinalg.complexity import symbols as sy
from thermolinalg.complexity.models import direct, iterative, kronecker, optimizers

SIZES = range(1, 41)


class Counted:
    """A number that counts what is done with it."""

    done = 0

    def __init__(self, value):
        self.value = value

    def _do(self, other, operation):
        Counted.done += 1
        return Counted(operation(self.value, other.value if isinstance(other, Counted) else other))

    def __add__(self, other):
        return self._do(other, lambda x, y: x + y)

    def __sub__(self, other):
        return self._do(other, lambda x, y: x - y)

    def __mul__(self, other):
        return self._do(other, lambda x, y: x * y)

    def __truediv__(self, other):
        return self._do(other, lambda x, y: x / y)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other):
        return self._do(other, lambda x, y: y - x)

    def __rtruediv__(self, other):
        return self._do(other, lambda x, y: y / x)

    def __neg__(self):
        return Counted(-self.value)

    def root(self):
        return self._do(0, lambda x, _: math.sqrt(x))


def counted(array):
    return [[Counted(float(x)) for x in row] for row in np.atleast_2d(array)]


def values(rows):
    return np.array([[x.value if isinstance(x, Counted) else x for x in row] for row in rows])


def dot(xs, ys):
    """Sum of products, as many additions as it takes."""
    terms = [x * y for x, y in zip(xs, ys, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def cholesky(a):
    size = len(a)
    low = [[0.0] * size for _ in range(size)]
    for j in range(size):
        pivot = a[j][j]
        for p in range(j):
            pivot = pivot - low[j][p] * low[j][p]
        low[j][j] = pivot.root()
        for i in range(j + 1, size):
            entry = a[i][j]
            for p in range(j):
                entry = entry - low[i][p] * low[j][p]
            low[i][j] = entry / low[j][j]
    return low


def lu(a):
    """No pivoting; one reciprocal for each pivot."""
    rows, size = len(a), len(a[0])
    a = [row[:] for row in a]
    for j in range(size):
        inverse = 1.0 / a[j][j]
        for i in range(j + 1, rows):
            a[i][j] = a[i][j] * inverse
            for p in range(j + 1, size):
                a[i][p] = a[i][p] - a[i][j] * a[j][p]
    return a


def forward(low, rhs, unit=False):
    found = []
    for i, value in enumerate(rhs):
        for p in range(i):
            value = value - low[i][p] * found[p]
        found.append(value if unit else value / low[i][i])
    return found


def backward(up, rhs):
    flipped = [row[::-1] for row in up[::-1]]
    return forward(flipped, rhs[::-1])[::-1]


def transpose(a):
    return [list(column) for column in zip(*a, strict=True)]


def triangular_inverse(low):
    """By columns, below the diagonal; one reciprocal for each entry of the diagonal."""
    size = len(low)
    out = [[0.0] * size for _ in range(size)]
    ones = [1.0 / low[i][i] for i in range(size)]
    for j in range(size):
        out[j][j] = ones[j]
        for i in range(j + 1, size):
            out[i][j] = -dot(low[i][j:i], [out[p][j] for p in range(j, i)]) * ones[i]
    return out


def gram_of_triangle(low):
    """One triangle of low^T low, zeros left out."""
    columns = transpose(low)
    return [[dot(columns[i][i:], columns[j][i:]) for j in range(i + 1)] for i in range(len(low))]


def product(a, x):
    columns = transpose(x)
    return [[dot(row, column) for column in columns] for row in a]


def work(program, *operands):
    Counted.done = 0
    found = program(*operands)
    return Counted.done, found


def spd(size, seed=0, condition=20.0):
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    return (q * np.geomspace(1 / condition, 1.0, size)) @ q.T


def lower(size, seed=0):
    return counted(np.linalg.cholesky(spd(size, seed)))


def expected(model, **sizes):
    return model.at({getattr(sy, name): size for name, size in sizes.items()})


@pytest.mark.parametrize("size", SIZES)
def test_cholesky(size):
    a = spd(size)
    done, found = work(cholesky, counted(a))
    assert done == expected(direct.POTRF, n=size)
    np.testing.assert_allclose(values(found), np.linalg.cholesky(a), atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_lu_of_tall_matrices(size):
    for rows in (size, size + 3):
        a = np.vstack([spd(size), np.ones((rows - size, size))]) if rows > size else spd(size)
        done, found = work(lu, counted(a))
        assert done == expected(direct.GETRF, m=rows, n=size)
        found = values(found)
        unit = np.tril(found, -1) + np.eye(rows, size)
        np.testing.assert_allclose(unit @ np.triu(found[:size]), a, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
def test_substitution(size):
    low, rhs = lower(size), counted(np.ones(size))[0]
    assert work(forward, low, rhs)[0] == expected(direct.TRSV, n=size)
    assert work(lambda: [forward(low, rhs) for _ in range(3)])[0] == expected(direct.TRSM, n=size, k=3)
    done, found = work(lambda: backward(transpose(low), forward(low, rhs)))
    assert done == expected(direct.POTRS, n=size, k=1)
    np.testing.assert_allclose(spd(size) @ values([found])[0], np.ones(size), atol=1e-10)
    done, _ = work(lambda: backward(transpose(low), forward(low, rhs, unit=True)))
    assert done == expected(direct.GETRS, n=size, k=1)


@pytest.mark.parametrize("size", SIZES)
def test_inverses(size):
    a, low = spd(size), lower(size)
    done, inverse = work(triangular_inverse, low)
    assert done == expected(direct.TRTRI, n=size)
    more, found = work(gram_of_triangle, inverse)
    assert done + more == expected(direct.POTRI, n=size)
    assert done + more + work(cholesky, counted(a))[0] == expected(direct.CHOLESKY_INVERSE, n=size)
    full = np.array([[found[max(i, j)][min(i, j)].value for j in range(size)] for i in range(size)])
    np.testing.assert_allclose(full @ a, np.eye(size), atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_products(size):
    left, right = counted(np.ones((4, size))), counted(np.ones((size, 3)))
    start = [[Counted(0.0)] * 3 for _ in range(4)]

    def add(total, found):
        return [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(total, found, strict=True)]

    # Adding to what is there makes up for the sum that a product of two vectors saves.
    assert work(lambda: add(start, product(left, right)))[0] == expected(direct.GEMM, m=4, k=size, n=3)
    triangle = [[dot(left[i], left[j]) + 0.0 for j in range(i + 1)] for i in range(4)]
    done, _ = work(lambda: [[Counted(0.0) + dot(left[i], left[j]) for j in range(i + 1)] for i in range(4)])
    assert len(triangle) == 4
    assert done == expected(direct.SYRK, n=4, k=size)


def test_the_counter_sees_another_formula():
    done = [work(cholesky, counted(spd(size)))[0] for size in SIZES]
    for wrong in (sy.n**2 / 2 + sy.n / 3, -(sy.n**2), sy.n / 6):
        formula = direct.POTRF.cost + wrong - sy.n / 6
        same = [formula.subs(sy.n, size) == found for size, found in zip(SIZES, done, strict=True)]
        assert (wrong == sy.n / 6) == all(same)
    # A textbook loop that divides by the pivot in place of its reciprocal saves n operations.
    assert direct.GETRF.cost.subs(sy.m, sy.n).coeff(sy.n) == sp.Rational(5, 6)


@pytest.mark.parametrize(
    ("model", "leading"),
    [
        (direct.CHOLESKY_SOLVE.where({sy.k: 1}), sp.Rational(1, 3)),
        (direct.LU_SOLVE.where({sy.k: 1}), sp.Rational(2, 3)),
        (direct.CHOLESKY_INVERSE, 1),
        (direct.LU_INVERSE, 2),
        (direct.GEQRF.where({sy.m: sy.n}), sp.Rational(4, 3)),
        (direct.ORGQR.where({sy.m: sy.n, sy.k: sy.n}), sp.Rational(4, 3)),
        (direct.GEHRD, sp.Rational(10, 3)),
        (direct.GEBRD.where({sy.m: sy.n}), sp.Rational(8, 3)),
        (direct.SYTRD, sp.Rational(4, 3)),
        (direct.SYTRF, sp.Rational(1, 3)),
        (direct.SYTRI, sp.Rational(2, 3)),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_square_limits(model, leading):
    assert sp.limit(model.cost / sy.n**3, sy.n, sp.oo) == leading


# Passes of iterative solvers


def vector(size):
    return counted(np.linspace(1.0, 2.0, size))[0]


def times(a, x):
    """Product with a matrix by 2 n^2 operations: sums start from zero."""
    return [0.0 + dot(row, x) for row in a]


def inner(x, y):
    return 0.0 + dot(x, y)


def plus(x, scale, y):
    return [p + scale * q for p, q in zip(x, y, strict=True)]


def steepest_pass(a, x, r):
    product = times(a, r)
    scale = inner(r, r) / inner(r, product)
    return plus(x, scale, r), plus(r, -scale, product)


def richardson_pass(a, x, rhs, scale):
    residual = [p - q for p, q in zip(rhs, times(a, x), strict=True)]
    return plus(x, scale, residual)


def cg_pass(a, x, r, p, square):
    product = times(a, p)
    scale = square / inner(p, product)
    x, r = plus(x, scale, p), plus(r, -scale, product)
    new = inner(r, r)
    return x, r, plus(r, new / square, p), new


@pytest.mark.parametrize("size", [3, 8])
def test_passes(size):
    a, x, r = counted(spd(size)), vector(size), vector(size)
    per_pass = {
        iterative.STEEPEST_DESCENT: lambda: steepest_pass(a, x, r),
        iterative.RICHARDSON: lambda: richardson_pass(a, x, r, 0.1),
        iterative.CG: lambda: cg_pass(a, x, r, r, Counted(1.0)),
    }
    passes = {
        iterative.STEEPEST_DESCENT: iterative.STEEPEST_DESCENT_PASSES,
        iterative.RICHARDSON: iterative.RICHARDSON_PASSES_SIMPLE,
        iterative.CG: iterative.CG_PASSES,
    }
    for model, program in per_pass.items():
        formula = sp.simplify(model.cost / passes[model].cost)
        scalars = work(program)[0] - float(formula.subs(sy.n, size))
        # Two quotients of scalars at most are left out of the formula.
        assert 0 <= scalars <= 2, model.name


def test_sweep_of_newton_schulz():
    size = 6
    a, x = counted(spd(size)), counted(np.eye(size))

    def sweep():
        ax = [[0.0 + dot(row, column) for column in transpose(x)] for row in a]
        xax = [[0.0 + dot(row, column) for column in transpose(ax)] for row in x]
        return [[2.0 * p - q for p, q in zip(*rows, strict=True)] for rows in zip(x, xax, strict=True)]

    formula = sp.simplify(iterative.NEWTON_SCHULZ.cost / iterative.NEWTON_SCHULZ_SWEEPS.cost)
    assert work(sweep)[0] == formula.subs(sy.n, size)


# Optimizers


def test_adam():
    size = 7
    parameters, gradient, first, second = (vector(size) for _ in range(4))
    b1, b2, rate, small, c1, c2 = (Counted(x) for x in (0.9, 0.99, 1e-3, 1e-8, 0.1, 0.01))
    rest1, rest2 = Counted(0.1), Counted(0.01)

    def step():
        out = []
        for p, g, v1, v2 in zip(parameters, gradient, first, second, strict=True):
            v1 = b1 * v1 + rest1 * g
            v2 = b2 * v2 + rest2 * g * g
            out.append(p - rate * (v1 / c1) / ((v2 / c2).root() + small))
        return out

    assert work(step)[0] == (optimizers.ADAM.cost - 6 * sy.b * sy.N).subs(sy.N, size)


@pytest.mark.parametrize(("rows", "columns", "batch"), [(2, 3, 2), (4, 4, 3), (5, 2, 1)])
def test_layer(rows, columns, batch):
    """Factors, both applications of the inverses, and the step of one layer."""
    sizes = {sy.m: rows, sy.n: columns, sy.b: batch}
    inputs, outputs = counted(np.ones((batch, columns))), counted(np.ones((batch, rows)))
    low_a, low_g, gradient = lower(columns), lower(rows), counted(np.ones((rows, columns)))
    old = {columns: counted(np.eye(columns)), rows: counted(np.eye(rows))}
    keep, fresh = Counted(0.9), Counted(0.1)

    def factors():
        for x in (inputs, outputs):
            columns_of = transpose(x)
            size = len(columns_of)
            found = [[0.0 + dot(p, q) for q in columns_of] for p in columns_of]
            [[keep * old[size][i][j] + fresh * found[i][j] for j in range(size)] for i in range(size)]

    def solve(low, rhs):
        return backward(transpose(low), forward(low, rhs))

    def apply():
        half = [solve(low_a, row) for row in gradient]
        return [solve(low_g, column) for column in transpose(half)]

    def by_rows():
        pairs = [(solve(low_a, x), solve(low_g, y)) for x, y in zip(inputs, outputs, strict=True)]
        return [
            [0.0 + dot([y[i] for _, y in pairs], [x[j] for x, _ in pairs]) for j in range(columns)] for i in range(rows)
        ]

    assert work(factors)[0] == kronecker.STATISTICS.at(sizes)
    done, solved = work(apply)
    assert done == kronecker.APPLY.at(sizes)
    assert work(by_rows)[0] == kronecker.RANK_B.at(sizes)
    # The shortcut is the same step where the gradient is a sum of outer products.
    summed = np.ones((rows, columns)) * batch
    np.testing.assert_allclose(values(by_rows()), values(transpose(solved)) / 1.0 * summed, rtol=1e-12)
    for size in (rows, columns):
        assert work(lambda size=size: [Counted(1.0) + Counted(1.0) for _ in range(size)])[0] == size
    chol = sum(work(cholesky, counted(spd(size)))[0] + size for size in (rows, columns))
    assert chol == kronecker.DAMPED_CHOLESKY.at(sizes)


@pytest.mark.parametrize(("batch", "outputs", "parameters"), [(1, 1, 3), (2, 2, 9)])
def test_natural_gradient_in_row_space(batch, outputs, parameters):
    """Everything after the Jacobian and the root of the Hessian."""
    rows = batch * outputs
    jacobian = counted(np.random.default_rng(0).standard_normal((rows, parameters)))
    rhs, theta, rate, damping = vector(rows), vector(parameters), Counted(0.1), Counted(1.0)

    def step():
        gram = [[0.0 + dot(jacobian[i], jacobian[j]) for j in range(i + 1)] for i in range(rows)]
        for i in range(rows):
            gram[i][i] = gram[i][i] + damping
        full = [[gram[max(i, j)][min(i, j)] for j in range(rows)] for i in range(rows)]
        low = cholesky(full)
        solved = backward(transpose(low), forward(low, rhs))
        found = times(transpose(jacobian), solved)
        return [p - rate * x for p, x in zip(theta, found, strict=True)]

    sizes = {sy.b: batch, sy.d_z: outputs, sy.N: parameters}
    before = optimizers.JACOBIAN.at(sizes) + 2 * batch * outputs**2 * parameters
    # The other product with the Jacobian makes the right-hand side.
    product = 2 * rows * parameters
    assert work(step)[0] + product == optimizers.NGD_WOODBURY.at(sizes) - before


@pytest.mark.parametrize(("rows", "columns", "batch"), [(2, 3, 2), (4, 4, 3)])
def test_layer_in_eigenbases_and_with_roots(rows, columns, batch):
    sizes = {sy.m: rows, sy.n: columns, sy.b: batch}
    left, right = counted(np.eye(rows)), counted(np.eye(columns))
    gradient, scales = counted(np.ones((rows, columns))), counted(np.ones((rows, columns)))
    keep, fresh = Counted(0.9), Counted(0.1)

    def full(a, x):
        return [[0.0 + dot(row, column) for column in transpose(x)] for row in a]

    def there_and_back():
        turned = full(full(left, gradient), right)
        turned = [[x / y for x, y in zip(*pair, strict=True)] for pair in zip(turned, scales, strict=True)]
        return full(full(left, turned), right)

    def second_moments():
        inputs, outputs = (counted(np.ones((batch, size))) for size in (columns, rows))
        inputs, outputs = full(inputs, right), full(outputs, left)
        inputs, outputs = ([[x * x for x in row] for row in pairs] for pairs in (inputs, outputs))
        found = full(transpose(outputs), inputs)
        return [[keep * x + fresh * y for x, y in zip(*pair, strict=True)] for pair in zip(scales, found, strict=True)]

    assert work(there_and_back)[0] == kronecker.EKFAC_BASIS.at(sizes)
    assert work(second_moments)[0] == kronecker.EKFAC_SCALES.at(sizes)

    def shampoo():
        """Sums of products are added to what is there."""
        found = full(gradient, transpose(gradient)), full(transpose(gradient), gradient)
        return [[x + y for x, y in zip(*pair, strict=True)] for a in found for pair in zip(a, a, strict=True)]

    def roots():
        out = []
        for size in (rows, columns):
            vectors, rates, damping = counted(np.eye(size)), vector(size), Counted(0.1)
            scaling = [1.0 / (rate + damping).root().root() for rate in rates]
            scaled = [[x * y for x, y in zip(row, scaling, strict=True)] for row in vectors]
            out.append(full(scaled, transpose(vectors)))
        return out

    assert work(shampoo)[0] == kronecker.SHAMPOO_STATISTICS.at(sizes)
    given = sizes | {sy.c_eigh: 9}
    assert work(roots)[0] == kronecker.SHAMPOO_ROOTS.at(given) - kronecker.EIGENBASIS.at(given)


def test_natural_gradient_with_all_of_the_curvature():
    batch, outputs, parameters = 2, 2, 5
    rows = batch * outputs
    jacobian = counted(np.random.default_rng(0).standard_normal((rows, parameters)))
    rhs, theta, rate, damping = vector(rows), vector(parameters), Counted(0.1), Counted(1.0)

    def step():
        columns = transpose(jacobian)
        gram = [[0.0 + dot(columns[i], columns[j]) for j in range(i + 1)] for i in range(parameters)]
        for i in range(parameters):
            gram[i][i] = gram[i][i] + damping
        low = cholesky(gram)
        solved = backward(transpose(low), forward(low, times(columns, rhs)))
        return [p - rate * x for p, x in zip(theta, solved, strict=True)]

    sizes = {sy.b: batch, sy.d_z: outputs, sy.N: parameters}
    before = optimizers.JACOBIAN.at(sizes) + 2 * batch * outputs**2 * parameters
    assert work(step)[0] == optimizers.NGD_EXPLICIT.at(sizes) - before
    # The thermodynamic form leaves the solve to the device, and all that is made for it but the Jacobian.
    done, _ = work(lambda: [p - rate * x for p, x in zip(theta, times(transpose(jacobian), rhs), strict=True)])
    assert done == optimizers.TNGD_FLOPS.at(sizes) - optimizers.JACOBIAN.at(sizes)
