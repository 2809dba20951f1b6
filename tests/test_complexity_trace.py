"""Costs from traced programs against a scalar interpreter that counts each operation as it does it."""

import math
import time
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sympy as sp
from jax.extend.core import Literal

import thermolinalg as tla
from thermolinalg.complexity import rules_base, rules_linalg
from thermolinalg.complexity.rules_base import Count, UnknownPrimitiveError
from thermolinalg.complexity.rules_loops import UnknownTripCountError
from thermolinalg.complexity.rules_programs import RULES
from thermolinalg.complexity.trace import NotPolynomialError, Shaped, trace
from thermolinalg.laws import overdamped
from thermolinalg.relaxation import chi_over_z, phi1, psi, sampling_remainder

b, h, k, m, n, t = sp.symbols("b h k m n t", positive=True, integer=True)


CALLS = "jit", "pjit", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"
"""Primitives that do nothing but call a program, by their names in old and new versions of JAX."""


class Tally:
    flops = transcendentals = 0


class Tick:
    """A number that counts what is done with it."""

    def __init__(self, value):
        self.value = float(value)

    def _do(self, value):
        Tally.flops += 1
        return Tick(value)

    def __add__(self, other):
        return self._do(self.value + other.value)

    def __sub__(self, other):
        return self._do(self.value - other.value)

    def __mul__(self, other):
        return self._do(self.value * other.value)

    def __truediv__(self, other):
        return self._do(self.value / other.value)

    def __neg__(self):
        return self._do(-self.value)

    def made(self, f):
        return self._do(f(self.value))

    def root(self):
        return self.made(math.sqrt)

    def function(self, f):
        Tally.transcendentals += 1
        return Tick(f(self.value))


def power(x, y):
    """Squares and products, as a compiler spells out a small power."""
    result, square, y, flip = None, x, abs(y), y < 0
    while y:
        if y & 1:
            result = square if result is None else result * square
        y >>= 1
        if y:
            square = square * square
    return Tick(1.0) / result if flip else result


SCALAR = {
    "add": lambda x, y: x + y,
    "add_any": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "neg": lambda x: -x,
    "square": lambda x: x * x,
    "sqrt": Tick.root,
    "rsqrt": lambda x: Tick(1.0) / x.root(),
    "max": lambda x, y: x if x.value >= y.value else y,
    "exp": lambda x: x.function(math.exp),
    "log": lambda x: x.function(math.log),
    "tanh": lambda x: x.function(math.tanh),
    "abs": lambda x: x.made(abs),
    "expm1": lambda x: x.function(math.expm1),
    "erf_inv": lambda x: x.function(scipy.special.erfinv),
    "logistic": lambda x: x.function(lambda v: 1 / (1 + math.exp(-v))),
    "erf": lambda x: x.function(math.erf),
}


def fold(terms):
    """A sum from zero: one addition a term."""
    total = Tick(0.0)
    for term in terms:
        total = total + term
    return total


def cholesky(A):
    L = np.full(A.shape, None)
    for j in range(len(A)):
        for i in range(len(A)):
            L[i, j] = Tick(0.0)
    for j in range(len(A)):
        for i in range(j, len(A)):
            rest = A[i, j]
            for q in range(j):
                rest = rest - L[i, q] * L[j, q]
            L[i, j] = rest.root() if i == j else rest / L[j, j]
    return L


def triangular(A, B, *, lower, unit):
    X = B.copy()
    order = range(len(A)) if lower else range(len(A) - 1, -1, -1)
    for column in range(B.shape[1]):
        for i in order:
            for j in range(i) if lower else range(i + 1, len(A)):
                X[i, column] = X[i, column] - A[i, j] * X[j, column]
            if not unit:
                X[i, column] = X[i, column] / A[i, i]
    return X


def lu(A):
    A, pivots, order = A.copy(), [], np.arange(len(A))
    for j in range(min(A.shape)):
        pivot = j + int(np.argmax([abs(x.value) for x in A[j:, j]]))
        pivots.append(pivot)
        A[[j, pivot]], order[[j, pivot]] = A[[pivot, j]], order[[pivot, j]]
        scale = Tick(1.0) / A[j, j]
        for i in range(j + 1, len(A)):
            A[i, j] = A[i, j] * scale
            for q in range(j + 1, A.shape[1]):
                A[i, q] = A[i, q] - A[i, j] * A[j, q]
    return A, np.array(pivots, np.int32), order.astype(np.int32)


def product(eqn, A, B):
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]

    def arranged(array, contracted, batch):
        free = [axis for axis in range(array.ndim) if axis not in (*contracted, *batch)]
        moved = np.transpose(array, (*batch, *free, *contracted))
        count = prod(array.shape[axis] for axis in batch)
        return moved.reshape(count, -1, prod(array.shape[axis] for axis in contracted))

    A, B = arranged(A, left, left_batch), arranged(B, right, right_batch)
    out = [fold(x * y for x, y in zip(u, v, strict=True)) for U, V in zip(A, B, strict=True) for u in U for v in V]
    return objects(out).reshape(eqn.outvars[0].aval.shape)


def convolution(eqn, X, K):
    (stride, pads), spec = (eqn.params["window_strides"], eqn.params["padding"]), eqn.params["dimension_numbers"]
    assert eqn.params["feature_group_count"] == eqn.params["batch_group_count"] == 1
    X, K = np.transpose(X, spec.lhs_spec), np.transpose(K, spec.rhs_spec)
    spread, dilation = eqn.params["lhs_dilation"], eqn.params["rhs_dilation"]
    out_shape = [eqn.outvars[0].aval.shape[axis] for axis in spec.out_spec]
    out = np.empty(out_shape, object)
    for place in np.ndindex(*out_shape):
        total = Tick(0.0)
        for tap in np.ndindex(*K.shape[2:]):
            at = [place[2 + a] * stride[a] + tap[a] * dilation[a] - pads[a][0] for a in range(len(tap))]
            if any(x % s or not 0 <= x // s < size for x, s, size in zip(at, spread, X.shape[2:], strict=True)):
                continue
            for c in range(K.shape[1]):
                x = X[(place[0], c, *(x // s for x, s in zip(at, spread, strict=True)))]
                total = total + x * K[(place[1], c, *tap)]
        out[place] = total
    return np.transpose(out, np.argsort(spec.out_spec))


def objects(items):
    out = np.empty(len(items), object)
    out[:] = items
    return out


def counts(value):
    return isinstance(value, np.ndarray) and value.dtype == object


def ticks(array):
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    array = np.asarray(array)
    return objects([Tick(x) for x in array.ravel()]).reshape(array.shape) if array.dtype.kind == "f" else array


def plain(array):
    array = np.asarray(array)
    return np.vectorize(lambda x: x.value, otypes=[float])(array) if array.dtype == object else array


class Program:
    """A program whose equations run when their results are asked for."""

    def __init__(self, closed, inputs):
        self.jaxpr = getattr(closed, "jaxpr", closed)
        self.made = dict(zip(self.jaxpr.constvars, map(ticks, getattr(closed, "consts", ())), strict=False))
        self.inputs = dict(zip(self.jaxpr.invars, inputs, strict=True))
        self.makers = {var: eqn for eqn in self.jaxpr.eqns for var in eqn.outvars}
        self.inner = {}

    def get(self, var):
        if isinstance(var, Literal):
            return ticks(np.asarray(var.val))
        if var in self.inputs and var not in self.made:
            self.made[var] = self.inputs[var]()
        if var not in self.made:
            self.make(self.makers[var], var)
        return self.made[var]

    def run(self):
        return [self.get(var) for var in self.jaxpr.outvars]

    def make(self, eqn, var):
        name, params = eqn.primitive.name, eqn.params
        later = [lambda var=var: self.get(var) for var in eqn.invars]
        if name in CALLS:
            inner = next(params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params)
            program = self.inner.setdefault(id(eqn), Program(inner, later))
            self.made[var] = program.get(program.jaxpr.outvars[list(eqn.outvars).index(var)])
            return
        values = [get() for get in later]
        if name == "scan":
            self.scan(eqn, values, list(eqn.outvars).index(var))
            return
        made = structured(name, params, values) or primitive(eqn, values)
        self.made |= dict(zip(eqn.outvars, made, strict=True))

    def scan(self, eqn, values, place):
        """The last carry, and of the stacks only the one that is asked for."""
        params = eqn.params
        first, carried = params["num_consts"], params["num_carry"]
        order = range(params["length"])[:: -1 if params["reverse"] else 1]
        if id(eqn) not in self.inner:
            carry, steps = values[first : first + carried], []
            for step in order:
                inputs = [*values[:first], *carry, *(np.asarray(xs[step]) for xs in values[first + carried :])]
                steps.append(Program(params["jaxpr"], [lambda value=value: value for value in inputs]))
                carry = [steps[-1].get(out) for out in steps[-1].jaxpr.outvars[:carried]]
            self.inner[id(eqn)] = steps
            self.made |= dict(zip(eqn.outvars[:carried], carry, strict=True))
        if place >= carried:
            rows = [step.get(step.jaxpr.outvars[place]) for step in self.inner[id(eqn)]]
            self.made[eqn.outvars[place]] = np.stack(rows[:: -1 if params["reverse"] else 1])


def call(closed, values):
    return Program(closed, [lambda value=value: value for value in values]).run()


def structured(name, params, values):
    if name == "while":
        first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        carry = values[second:]
        while bool(call(params["cond_jaxpr"], [*values[:first], *carry])[0]):
            carry = call(params["body_jaxpr"], [*values[first:second], *carry])
        return carry
    if name == "cond":
        return call(params["branches"][int(values[0])], values[1:])
    if name == "custom_linear_solve":
        raise NotImplementedError(name)
    return None


def primitive(eqn, values):
    name, params, out = eqn.primitive.name, eqn.params, eqn.outvars[0].aval
    if not any(map(counts, values)):
        result = eqn.primitive.bind(*values, **params)
        return [ticks(array) for array in (result if eqn.primitive.multiple_results else [result])]
    if name in SCALAR:
        return [np.asarray(np.frompyfunc(SCALAR[name], len(values), 1)(*values), object).reshape(out.shape)]
    if name == "integer_pow":
        return [np.asarray(np.frompyfunc(lambda x: power(x, params["y"]), 1, 1)(values[0]), object)]
    if name in ("lt", "le", "gt", "ge", "eq", "ne"):
        return [np.asarray(eqn.primitive.bind(*(jnp.asarray(plain(value), "float32") for value in values)))]
    if name == "dot_general":
        return [product(eqn, *values)]
    if name == "conv_general_dilated":
        return [convolution(eqn, *values)]
    if name in ("reduce_sum", "reduce_max"):
        kept = [axis for axis in range(values[0].ndim) if axis not in params["axes"]]
        lanes = np.transpose(values[0], (*kept, *params["axes"])).reshape(prod(out.shape), -1)
        step = SCALAR["add" if name == "reduce_sum" else "max"]
        reduced = []
        for lane in lanes:
            total = lane[0]
            for entry in lane[1:]:
                total = step(total, entry)
            reduced.append(total)
        return [objects(reduced).reshape(out.shape)]
    if name == "cumsum":
        result = np.moveaxis(values[0].copy(), params["axis"], 0)
        for i in range(1, len(result)):
            result[i] = result[i - 1] + result[i]
        return [np.moveaxis(result, 0, params["axis"])]
    if name == "cholesky":
        return [cholesky(values[0])]
    if name == "lu":
        return lu(values[0])
    if name == "triangular_solve":
        assert params["left_side"]
        A = values[0].T if params["transpose_a"] else values[0]
        lower = params["lower"] != params["transpose_a"]
        return [triangular(A, values[1], lower=lower, unit=params["unit_diagonal"])]
    if name == "scatter-add":
        raise NotImplementedError(name)
    if name == "convert_element_type" and np.dtype(out.dtype).kind != "f":
        return [plain(values[0]).astype(out.dtype)]
    assert name in MOVES.split(), name
    # Numbers only change places: let places do so, and follow them.
    pool, places = [], []
    for value in values:
        if np.asarray(value).dtype == object:
            places.append(np.arange(np.size(value), dtype=np.int32).reshape(np.shape(value)) + len(pool))
            pool += list(np.ravel(value))
        else:
            places.append(value)
    if name in ("convert_element_type", "stop_gradient", "copy", "name"):
        return [values[0]]
    moved = np.asarray(eqn.primitive.bind(*map(jnp.asarray, places), **params))
    return [objects([pool[place] for place in moved.ravel()]).reshape(out.shape)]


MOVES = (
    "broadcast_in_dim reshape transpose squeeze slice dynamic_slice dynamic_update_slice concatenate select_n"
    " convert_element_type stop_gradient copy pad rev gather name stack"
)


def counted(function, *arrays):
    """Flops and functions that a scalar run spends; its results are those of JAX."""
    Tally.flops = Tally.transcendentals = 0
    closed = jax.make_jaxpr(function)(*arrays)
    found = call(closed, [ticks(array) for array in jax.tree.leaves(arrays)])
    spent = Tally.flops, Tally.transcendentals
    for mine, theirs in zip(found, jax.tree.leaves(function(*arrays)), strict=True):
        np.testing.assert_allclose(plain(mine).astype(float), theirs, rtol=1e-3, atol=1e-3)
    return spent


def mlp_loss(weights, x, y):
    for W in weights[:-1]:
        x = jax.nn.relu(x @ W)
    return jnp.sum((x @ weights[-1] - y) ** 2)


def conv(x, kernel, strides=(1, 1), padding="SAME"):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding)


def attention(x, Q, K, V):
    queries, keys, values = x @ Q, x @ K, x @ V
    scores = jax.nn.softmax(queries @ keys.T / 8.0, axis=-1)
    return scores @ values


def cho_solve(A, B):
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(A), True), B)


def kfac(W, inputs, grads, x):
    """Factors, damping, two Cholesky factors, and the step from both sides."""
    A = inputs.T @ inputs / 4.0 + 0.1 * jnp.eye(W.shape[0], dtype=W.dtype)
    G = grads.T @ grads / 4.0 + 0.1 * jnp.eye(W.shape[1], dtype=W.dtype)
    step = cho_solve(A, x)
    return W - 0.1 * cho_solve(G, step.T).T


def dual_ngd(W, x, y):
    """Natural gradient in the space of outputs: (J J^T + lambda) z = r, step J^T z."""
    residual, back = jax.vjp(lambda W: jnp.tanh(x @ W) @ jnp.ones(W.shape[1], W.dtype) - y, W)
    J = jax.vmap(lambda seed: back(seed)[0].ravel())(jnp.eye(x.shape[0], dtype=x.dtype))
    z = cho_solve(J @ J.T + 0.1 * jnp.eye(x.shape[0], dtype=x.dtype), residual[:, None])[:, 0]
    return W - back(z)[0]


def scanned(A, x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(A @ x) + x, x @ x), x, None, length=5)


def counter_loop(A, x):
    return jax.lax.while_loop(lambda s: s[0] < 9, lambda s: (s[0] + 2, A @ s[1]), (0, x))[1]


KEY = jax.random.key(0)
LONG = tla.Device(simulator=tla.Law(long_time=True))


def relaxing(x):
    return tuple(f(x * x) for f in (phi1, psi, chi_over_z, sampling_remainder))


def law_of_a_run(x, samples=None):
    law = overdamped(x * x + 0.5, 2.0, 1.0, 3.0, samples)
    return law.force, law.start, law.covariance, law.scale()


def simulated_solve(A, y):
    solution = tla.solve(LONG.program(A), y, key=KEY, plan=tla.Plan(3.0, 40.0))
    return solution.value, solution.stderr


def running(x):
    return jnp.cumsum(x, axis=0) + x**3 - x**-2


SIZES = {b: 3, h: 2, k: 2, m: 4, n: 5, t: 6}
CASES = {
    "chain": (lambda A, B, C: A @ B @ C, [(m, n), (n, k), (k, b)]),
    "batched": (lambda A, B: jnp.einsum("bij,bjk->bik", A, B), [(b, m, n), (b, n, k)]),
    "mlp": (lambda U, V, x, y: mlp_loss([U, V], x, y), [(m, n), (n, k), (b, m), (b, k)]),
    "mlp gradient": (jax.grad(lambda W, x, y: mlp_loss(W, x, y)), [[(m, n), (n, n), (n, k)], (b, m), (b, k)]),
    "value and gradient": (jax.value_and_grad(lambda W, x, y: mlp_loss(W, x, y)), [[(m, n), (n, k)], (b, m), (b, k)]),
    "remat": (jax.grad(jax.checkpoint(lambda W, x, y: mlp_loss(W, x, y))), [[(m, n), (n, k)], (b, m), (b, k)]),
    "conv": (conv, [(b, h, m + 1, n), (k, h, 3, 3)]),
    "conv valid": (lambda x, K: conv(x, K, padding="VALID"), [(b, h, t, n), (k, h, 3, 2)]),
    "conv gradient": (
        jax.grad(lambda x, K: jnp.sum(conv(x, K) ** 2), argnums=(0, 1)),
        [(b, h, m + 1, n), (k, h, 3, 3)],
    ),
    "scan": (scanned, [(n, n), (n,)]),
    "scan gradient": (jax.grad(lambda A, x: jnp.sum(scanned(A, x)[1])), [(n, n), (n,)]),
    "counter": (counter_loop, [(n, n), (n,)]),
    "loop over a size": (lambda A, x: jax.lax.fori_loop(0, A.shape[0], lambda i, x: A @ x, x), [(n, n), (n,)]),
    "cholesky": (jnp.linalg.cholesky, [(n, n)]),
    "cho_solve": (cho_solve, [(n, n), (n, b)]),
    "lu": (jax.lax.linalg.lu, [(n, n)]),
    "tall lu": (jax.lax.linalg.lu, [(n + 2, n)]),
    "wide lu": (jax.lax.linalg.lu, [(n, n + 2)]),
    "attention": (attention, [(t, m), (m, n), (m, n), (m, k)]),
    "kfac": (kfac, [(m, n), (b, m), (b, n), (m, n)]),
    "dual ngd": (dual_ngd, [(m, n), (b, m), (b,)]),
    "running": (running, [(n, m)]),
    "relaxation": (relaxing, [(n,)]),
    "law of a run": (law_of_a_run, [(n,)]),
    "law of samples": (lambda x: law_of_a_run(x, 7), [(n,)]),
    "simulated solve": (simulated_solve, [(n, n), (n, k)]),
    "simulated samples": (lambda A: tla.gaussian(LONG.program(A), key=KEY, samples=3).value, [(n, n)]),
}


def shaped(shapes, sizes=None):
    """Symbolic arguments, or random arrays of these sizes (positive definite where square)."""
    rng = np.random.default_rng(3)

    def one(shape):
        if sizes is None:
            return Shaped(shape)
        numbers = tuple(int(sp.sympify(size).subs(sizes)) for size in shape)
        array = rng.normal(size=numbers) * 0.4 + 0.2
        if len(shape) == 2 and shape[0] == shape[1]:
            array = array @ array.T + np.eye(numbers[0])
        return jnp.asarray(array, jnp.float32)

    return [[one(shape) for shape in each] if isinstance(each, list) else one(each) for each in shapes]


@pytest.mark.parametrize("name", CASES)
def test_polynomials_are_what_a_scalar_run_spends(name):
    function, shapes = CASES[name]
    cost = trace(function, *shaped(shapes))
    for sizes in (SIZES, SIZES | {b: 2, n: 7, m: 3}):
        found = counted(function, *shaped(shapes, sizes))
        assert (cost.flops.subs(sizes), cost.transcendentals.subs(sizes)) == found
    wrong = {"dot_general": lambda equation: RULES["dot_general"](equation) * sp.Rational(1, 2)}
    if "dot_general" in cost.by_primitive:
        assert trace(function, *shaped(shapes), rules=wrong).flops.subs(sizes) != found[0]


def test_closed_forms():
    S = Shaped
    assert trace(lambda A, B: A @ B, S((m, n)), S((n, b))).flops == 2 * b * m * n
    factor = trace(jax.lax.linalg.cholesky, S((n, n))).by_primitive["cholesky"].flops
    assert factor == n**3 / 3 + n**2 / 2 + n / 6
    # A figure of the literature counts the masks of JAX, on integers, as flops too.
    cost = trace(jnp.linalg.cholesky, S((n, n))).count
    assert sp.expand(cost.flops + cost.integers - (n**3 / 3 + sp.Rational(7, 2) * n**2 + n / 6)) == 0
    assert trace(jax.lax.linalg.lu, S((n, n))).flops == 2 * n**3 / 3 - n**2 / 2 + 5 * n / 6
    assert (
        trace(lambda A, X: X @ (2 * jnp.eye(A.shape[0], dtype=A.dtype) - A @ X), S((n, n)), S((n, n))).flops.coeff(n, 3)
        == 4
    )
    for function, leading in ((jnp.linalg.inv, sp.Rational(8, 3)), (jnp.linalg.qr, sp.Rational(8, 3))):
        assert trace(function, S((n, n))).flops.coeff(n, 3) == leading
    batched = trace(jax.vmap(jax.lax.linalg.cholesky), S((b, n, n))).by_primitive["cholesky"].flops
    assert batched == sp.expand(b * (n**3 / 3 + n**2 / 2 + n / 6))


@pytest.mark.parametrize(("m_", "n_"), [(9, 4), (6, 6), (4, 9)])
def test_lapack_counts_are_the_published_sums(m_, n_):
    """Totals of LAPACK Working Note 41, as printed there, against the rules' multiplications plus additions."""
    R = sp.Rational
    order, columns, reflectors = sp.Integer(n_), sp.Integer(m_), sp.Integer(min(m_, n_))
    assert sum(rules_linalg.cholesky(order)) == R(n_**3, 3) + R(n_**2, 2) + R(n_, 6)
    assert sum(rules_linalg.triangular_solve(order, columns)) == m_ * n_**2
    assert sum(rules_linalg.hessenberg(order)) == R(10 * n_**3, 3) - R(n_**2, 2) - R(11 * n_, 6) - 21
    assert sum(rules_linalg.tridiagonal(order)) == R(4 * n_**3, 3) + R(7 * n_**2, 2) - R(17 * n_, 6) - 19
    if m_ >= n_:  # a wide matrix takes the sums of a tall one in other roles; the scalar run below counts it
        found = sum(rules_linalg.lu(sp.Integer(m_), order))
        assert found == m_ * n_**2 - R(n_**3, 3) - R(n_**2, 2) + R(5 * n_, 6)
        found = sum(rules_linalg.householder_factor(sp.Integer(m_), order))
        assert found == 2 * m_ * n_**2 - R(2 * n_**3, 3) + m_ * n_ + n_**2 + R(14 * n_, 3)
        q = int(reflectors)
        found = sum(rules_linalg.householder_product(sp.Integer(m_), order, reflectors))
        expected = 4 * m_ * n_ * q - 2 * (m_ + n_) * q**2 + R(4 * q**3, 3) + 3 * n_ * q - m_ * q - q**2 - R(4 * q, 3)
        assert found == expected


def test_complex_arithmetic_costs_more():
    real = trace(lambda A, B: A @ B, Shaped((n, n)), Shaped((n, n))).flops
    assert trace(lambda A, B: A @ B, *[Shaped((n, n), np.complex64)] * 2).flops == 4 * real
    factor = trace(jax.lax.linalg.cholesky, Shaped((n, n), np.complex64)).by_primitive["cholesky"].flops
    assert factor == sp.expand(6 * (n**3 / 6 + n**2 / 2 + n / 3) + 2 * (n**3 - n) / 6)


def test_scan_is_linear_in_its_trips():
    def run(steps):
        return trace(lambda A, x: jax.lax.scan(lambda x, _: (A @ x, None), x, None, length=steps), *square()).flops

    assert run(10) == 10 * run(1)
    assert trace(
        lambda A, xs: jax.lax.scan(lambda c, x: (A @ c + x, None), xs[0], xs), Shaped((n, n)), Shaped((t, n))
    ).flops == (sp.expand(t * (2 * n**2 + n)))


def square():
    return Shaped((n, n)), Shaped((n,))


def until_small(A, x):
    return jax.lax.while_loop(lambda x: x @ x > 1.0, lambda x: A @ x, x)


def test_a_loop_that_ends_by_values_is_refused_by_its_line_or_counted_as_told():
    with pytest.raises(UnknownTripCountError, match=r"line \d+ of test_complexity_trace.py"):
        trace(until_small, *square())
    K = sp.Symbol("K", positive=True)
    cost = trace(until_small, *square(), trips=(K,))
    assert cost.flops == sp.expand(K * 2 * n**2 + (K + 1) * 2 * n)
    assert cost.notes["while"] == "steps as given"
    with pytest.raises(ValueError, match="trips has 2 entries for 1 loops"):
        trace(until_small, *square(), trips=(K, K))


def test_a_limit_on_steps_is_a_bound_and_says_so():
    def limited(A, x):
        return jax.lax.while_loop(lambda s: (s[0] < 7) & (s[1] @ s[1] > 0), lambda s: (s[0] + 1, A @ s[1]), (0, x))

    cost = trace(limited, *square())
    assert "upper bound" in cost.notes["while"]
    assert cost.flops == sp.expand(7 * 2 * n**2 + 8 * 2 * n)
    # One step of a loop of conjugate gradients is a product and five sums over vectors.
    cg = trace(lambda A, x: jax.scipy.sparse.linalg.cg(lambda y: A @ y, x, maxiter=10)[0], *square())
    assert cg.flops.coeff(n, 2) == 2 * 10 + 2
    assert cg.flops.coeff(n, 1) == 10 * 10 + 5


def test_a_branch_counts_by_its_dearest_and_says_so():
    cheap, dear = (lambda A: A[0]), (lambda A: A @ A[0])
    cost = trace(lambda A, x: jax.lax.cond(x[0] > 0, cheap, dear, A), *square())
    assert cost.flops == 2 * n**2
    assert "dearest" in cost.notes["cond"]
    other = trace(
        lambda A, x, y: jax.lax.cond(x[0] > 0, lambda A, y: A @ A[0], lambda A, y: A[0] * (y @ y), A, y),
        *square(),
        Shaped((m,)),
    )
    assert other.flops == sp.Max(2 * n**2, n + 2 * m)


def test_an_unknown_primitive_is_refused_until_a_rule_is_given():
    def collective(x):
        return jax.vmap(lambda y: jax.lax.reduce(y, np.float32(0), lambda u, v: u * v + u, (0,)))(x)

    with pytest.raises(UnknownPrimitiveError, match=r"'reduce'.*rules="):
        trace(collective, Shaped((m, n)))
    rules = {"reduce": lambda equation: Count(flops=2 * equation.inputs[0].size)}
    assert trace(collective, Shaped((m, n)), rules=rules).flops == 2 * m * n


def test_work_that_is_not_used_does_not_count():
    assert trace(lambda A, x: (A @ A, A @ x)[1], *square()).flops == 2 * n**2
    assert trace(lambda A, x: jax.jit(lambda A, x: (A @ A, A @ x))(A, x)[1], *square()).flops == 2 * n**2


def test_an_array_without_entries_takes_no_work():
    """A numeric size makes JAX slice where a symbol makes it give up early; the compiler drops both."""
    for size in (n, 7):
        cost = trace(lambda A, x: jnp.concatenate([x, (A @ x)[:0]]) + 1.0, Shaped((size, size)), Shaped((size,)))
        assert cost.flops == size
        cost = trace(lambda A, x: jnp.concatenate([x, (A @ x)[:1]]), Shaped((size, size)), Shaped((size,)))
        assert cost.flops == 2 * size**2


def test_of_programs_for_platforms_the_one_that_runs_counts():
    """The diagonal of a matrix is a product with a mask somewhere else."""
    cost = trace(jnp.diagonal, Shaped((n, n)))
    assert cost.flops == 0
    assert "platform" in cost.notes["platform_index"]
    backend = jax.default_backend()

    def other(A, **here):
        return jax.lax.platform_dependent(A, default=lambda A: A + A, **here)

    assert trace(other, Shaped((n, n))).flops == n**2
    assert trace(lambda A: other(A, **{backend: lambda A: A @ A}), Shaped((n, n))).flops == 2 * n**3
    assert trace(lambda A: other(A, mosaic=lambda A: A @ A), Shaped((n, n))).flops == n**2
    assert trace(lambda A: other(A, mosaic=lambda A: A @ (A @ A)), Shaped((n, n))).peak.coeff(n, 2) == 8


def test_symbols_that_make_other_operations_are_found_out():
    """With a symbol a range is multiplied by its step and shifted by its start."""
    cost = trace(lambda x: x - jnp.arange(x.shape[0], dtype=x.dtype), Shaped((n,)))
    assert cost.flops == n
    assert "other operations with symbols" in cost.method


def branching(A):
    return A @ A if A.shape[0] >= 8 else A


def test_sizes_that_must_be_numbers_are_interpolated_and_verified():
    cost = trace(branching, Shaped((n, n)))
    assert cost.flops == 2 * n**3
    assert "traces, verified" in cost.method
    direct = trace(lambda A: A @ A, Shaped((n, n)))
    assert (direct.flops, direct.bytes, direct.peak) == (cost.flops, cost.bytes, cost.peak)
    assert direct.method == "symbols of jax.export"

    def several(A, x):
        np.zeros(A.shape[0])  # a size as a number
        return jnp.linalg.solve(A, x)

    both = trace(several, Shaped((m, m)), Shaped((m, b))), trace(jnp.linalg.solve, Shaped((m, m)), Shaped((m, b)))
    assert "verified" in both[0].method
    assert both[0].flops == both[1].flops
    assert both[0].count == both[1].count


def test_costs_that_are_no_polynomials_are_refused():
    def digits(x):
        for _ in range(int(x.shape[0]).bit_length() + int(x.shape[0]) % 3):
            x = x * 2.0
        return x

    with pytest.raises(NotPolynomialError, match="mul flops is no polynomial"):
        trace(digits, Shaped((n,)))


def test_sorts_transforms_and_random_numbers_say_that_they_are_models():
    cost = trace(jnp.sort, Shaped((n,)))
    spent = 0

    def merge(items):
        nonlocal spent
        if len(items) < 2:
            return items
        left, right, out = merge(items[: len(items) // 2]), merge(items[len(items) // 2 :]), []
        while left and right:
            spent += 1
            out.append((left if left[0] <= right[0] else right).pop(0))
        return out + left + right

    merge(list(np.random.default_rng(0).random(37)))
    assert 0.5 * cost.count.comparisons.subs(n, 37) < spent <= cost.count.comparisons.subs(n, 37)
    fft = trace(jnp.fft.fft, Shaped((n,), np.complex64))
    assert float(fft.flops.subs(n, 8)) == pytest.approx(5 * 8 * 3)
    normal = trace(lambda key: jax.random.normal(key, (7,)), jax.random.key(0))
    for each, name in ((cost, "sort"), (fft, "fft"), (normal, "random_bits")):
        assert any(word in each.notes[name] for word in ("model", "bound"))


def flat(closed, rename=None):
    """Equations of a program without its calls, with names of their own."""
    jaxpr = getattr(closed, "jaxpr", closed)
    names = {} if rename is None else rename
    name = lambda var: var if isinstance(var, Literal) else names.setdefault(var, object())  # noqa: E731
    rows = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in CALLS:
            inner = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params)
            inner = getattr(inner, "jaxpr", inner)
            local = dict(zip(inner.invars, map(name, eqn.invars), strict=True))
            inside, results = flat(inner, local)
            rows += inside
            names |= dict(zip(eqn.outvars, results, strict=True))
        else:
            rows.append((eqn, [name(var) for var in eqn.invars], [name(var) for var in eqn.outvars]))
    return rows, [name(var) for var in jaxpr.outvars]


def brute_peak(function, *arrays):
    """Peak by definition: at each equation, all that is made by then and still wanted."""
    closed = jax.make_jaxpr(function)(*arrays)
    names = {}
    inputs = [names.setdefault(var, object()) for var in closed.jaxpr.invars]
    rows, results = flat(closed, names)
    bytes_of = dict(zip(inputs, (var.aval.size * var.aval.dtype.itemsize for var in closed.jaxpr.invars), strict=True))
    made, last = {}, {}
    for moment, (eqn, ins, outs) in enumerate(rows):
        last |= {x: moment for x in ins if not isinstance(x, Literal)}
        for x, var in zip(outs, eqn.outvars, strict=True):
            made[x] = moment
            bytes_of[x] = var.aval.size * var.aval.dtype.itemsize
    held = sum(bytes_of[x] for x in inputs)
    keep = {x for x in results if x not in inputs}
    peaks = [
        sum(bytes_of[x] for x in made if made[x] <= now and (x in keep or last.get(x, made[x]) >= now))
        for now in range(len(rows))
    ]
    return held + max(peaks)


@pytest.mark.parametrize("name", ["chain", "mlp gradient", "attention", "cho_solve", "kfac"])
def test_peak_memory_is_that_of_all_that_lives(name):
    function, shapes = CASES[name]
    cost = trace(function, *shaped(shapes))
    for sizes in (SIZES, {b: 9, h: 2, k: 5, m: 11, n: 6, t: 8}):
        arrays = shaped(shapes, sizes)
        assert not any(eqn.primitive.name == "reshape" for eqn, _, _ in flat(jax.make_jaxpr(function)(*arrays))[0])
        assert cost.peak.subs(sizes) <= brute_peak(function, *arrays)
        if name != "mlp gradient":  # which holds equations of no use
            assert cost.peak.subs(sizes) == brute_peak(function, *arrays)


def test_peak_memory_of_simple_programs():
    cost = trace(lambda x: jnp.tanh(jnp.sin(jnp.cos(x))), Shaped((n,)))
    assert cost.peak == 3 * 4 * n  # the input, and an operand and a result
    assert cost.bytes == 6 * 4 * n
    assert trace(lambda x: x.reshape(-1), Shaped((m, n))).peak == 4 * m * n
    assert trace(lambda x: jnp.tanh(x).reshape(-1), Shaped((m, n))).peak == 8 * m * n
    scan = trace(lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(c), c), x, None, length=10), Shaped((n,)))
    assert scan.peak == 4 * n * (1 + 1 + 10 + 1)  # input, carry, stack, and the next carry


def block(x, weights):
    Q, K, V, out, U, D = weights
    y = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    queries, keys, values = (jnp.einsum("btd,dhc->bthc", y, W) for W in (Q, K, V))
    scores = jax.nn.softmax(jnp.einsum("bthc,bshc->bhts", queries, keys) / 8.0, axis=-1)
    x = x + jnp.einsum("bthc,hcd->btd", jnp.einsum("bhts,bshc->bthc", scores, values), out)
    return x + jax.nn.gelu(x @ U) @ D


def transformer(x, layers):
    for weights in layers:
        x = block(x, weights)
    return x


def test_a_transformer_of_twelve_layers_is_traced_in_seconds():
    d, c = sp.symbols("d c", positive=True, integer=True)
    weights = [
        Shaped((d, h, c)),
        Shaped((d, h, c)),
        Shaped((d, h, c)),
        Shaped((h, c, d)),
        Shaped((d, 4 * d)),
        Shaped((4 * d, d)),
    ]
    x = Shaped((b, t, d))
    start = time.process_time()
    cost = trace(transformer, x, [weights] * 12)
    took = time.process_time() - start
    products = cost.by_primitive["dot_general"].flops
    assert products == sp.expand(12 * (8 * b * t * d * h * c + 4 * b * h * t**2 * c + 16 * b * t * d**2))
    start = time.process_time()
    backward = trace(jax.grad(lambda layers, x: jnp.sum(transformer(x, layers))), [weights] * 12, x)
    took_back = time.process_time() - start
    print(f"forward {took:.2f} s, gradient {took_back:.2f} s")
    # The last product of each layer is not recomputed, and the first layer's input needs no gradient.
    assert 2 < (backward.by_primitive["dot_general"].flops / products).subs({b: 8, t: 128, d: 512, h: 8, c: 64}) <= 3
    assert took < 5


@pytest.mark.parametrize("law", [tla.Law(long_time=True), tla.Law()], ids=["long time", "exact"])
def test_primitives_of_the_library_have_polynomials(law):
    device = tla.Device(simulator=law)
    key = jax.random.key(0)
    d = sp.Symbol("d", positive=True, integer=True)

    def solve(A, y):
        return tla.solve(device.program(A), y, key=key, plan=tla.Plan(3.0, 40.0))

    cost = trace(solve, Shaped((d, d)), Shaped((d,)))
    print(cost)
    leading = sp.Rational(1, 3) if law.long_time else rules_linalg.c_eigh
    assert cost.flops.coeff(d, 3) == leading
    # A trace at a size of its own is what the polynomial says.
    number = trace(solve, Shaped((29, 29)), Shaped((29,)))
    assert sp.expand(cost.flops.subs(d, 29) - number.flops) == 0
    if law.long_time:
        inverse = trace(lambda A: tla.inv(device.program(A), key=key, plan=tla.Plan(3.0, 40.0, 900)), Shaped((d, d)))
        print(inverse)
        assert inverse.flops.coeff(d, 3) == sp.Rational(10, 3)
        assert "c_gamma" in str(inverse.flops)


def test_the_convention_is_in_every_print():
    text = str(trace(lambda A: A @ A, Shaped((n, n))))
    assert rules_base.CONVENTION in text
    assert "flops: 2*n**3" in text


@pytest.mark.parametrize("size", [n / 2, sp.sqrt(n), sp.Rational(1, 2)])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(ValueError, match="a size of Shaped"):
        trace(jnp.sin, Shaped((size,)))
