"""Blocks of a Kronecker-factored curvature: damping, preparation, application, what becomes of failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermolinalg.optim.distributed import Distributed, deal
from thermolinalg.optim.eigenbases import CorrectedEigenbases, Eigenbases
from thermolinalg.optim.factors import Pair
from thermolinalg.optim.kronecker import Factored, Gradient, condition_bound, factored_damping, replace_failed
from thermolinalg.optim.row_solves import RowSolves
from thermolinalg.optim.solvers import Cholesky, Code, Eigh

KEY = jax.random.key(7)
DAMPING = 0.05


def spd(key, *shape):
    root = jax.random.normal(key, (*shape, 2 * shape[-1]))
    return root @ jnp.swapaxes(root, -1, -2) / (2 * shape[-1])


@pytest.fixture(scope="module")
def blocks():
    """A plain block, one of rank below its size, an embedding, a bias and a stack of two."""
    k = jax.random.split(KEY, 9)
    low = jax.random.normal(k[2], (6, 2))
    pairs = {
        "plain": Pair(spd(k[0], 5), spd(k[1], 4)),
        "low": Pair(low @ low.T, spd(k[3], 3)),
        "embedding": Pair(jnp.array([0.5, 0.0, 0.3, 0.2]), spd(k[4], 3)),
        "bias": Pair(jnp.ones((1, 1)), spd(k[5], 4)),
        "stack": Pair(spd(k[6], 2, 3), spd(k[7], 2, 4)),
    }
    gradients = {
        path: jax.random.normal(jax.random.fold_in(k[8], i), (*pair.lead, pair.rows, pair.columns))
        for i, (path, pair) in enumerate(pairs.items())
    }
    return pairs, gradients


def full(pair):
    return pair.a if pair.a.ndim == pair.g.ndim else jnp.diag(pair.a)


def members(pairs, gradients):
    """Every block as dense factors and a gradient, stacks taken apart."""
    for path, pair in pairs.items():
        a, g, v = full(pair), pair.g, gradients[path]
        for index in np.ndindex(*pair.lead):
            yield path, index, a[index], g[index], v[index]


def kron_solve(a, g, v):
    return np.linalg.solve(np.kron(a, g), np.asarray(v).reshape(-1)).reshape(v.shape)


def run(solver, pairs, gradients, rows=dict):
    state = solver.init(pairs)
    state = solver.prepare(pairs, jnp.asarray(DAMPING), state, KEY)
    return solver.apply(Gradient(gradients, rows), state, KEY)


def pi_damped(a, g):
    """The damped factors by their definition, in NumPy."""
    a, g = np.asarray(a), np.asarray(g)
    if len(a) == 1:
        return a, g + DAMPING / a[0, 0] * np.eye(len(g))
    pi = np.sqrt((np.trace(a) / len(a)) / (np.trace(g) / len(g)))
    return a + pi * np.sqrt(DAMPING) * np.eye(len(a)), g + np.sqrt(DAMPING) / pi * np.eye(len(g))


@pytest.mark.parametrize(
    "solver", [Factored(), Factored(Cholesky()), Factored(Eigh())], ids=["inverse", "factor", "eigh"]
)
def test_factored_blocks_are_kronecker_solves(blocks, solver):
    values, infos, _ = run(solver, *blocks)
    for path, index, a, g, v in members(*blocks):
        np.testing.assert_allclose(values[path][index], kron_solve(*pi_damped(a, g), v), rtol=1e-9, atol=1e-10)
    assert all(info.code == Code.OK for info in infos.values())


def test_eigenbases_damp_the_product_itself(blocks):
    values, _, _ = run(Eigenbases(), *blocks)
    for path, index, a, g, v in members(*blocks):
        dense = np.kron(a, g) + DAMPING * np.eye(v.size)
        np.testing.assert_allclose(
            values[path][index].reshape(-1), np.linalg.solve(dense, np.asarray(v).reshape(-1)), rtol=1e-9, atol=1e-10
        )


def test_factored_damping_dominates_the_exact_one(blocks):
    pair = blocks[0]["plain"]
    damped = np.kron(*pi_damped(pair.a, pair.g)) - np.kron(pair.a, pair.g) - DAMPING * np.eye(20)
    assert np.linalg.eigvalsh(damped)[0] > 0


def test_how_a_scalar_is_split_does_not_matter(blocks):
    pairs, gradients = blocks
    moved = {path: Pair(100 * pair.a, pair.g / 100) for path, pair in pairs.items()}
    one, other = run(Factored(), pairs, gradients)[0], run(Factored(), moved, gradients)[0]
    for path in pairs:
        np.testing.assert_allclose(one[path], other[path], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_zero_factor_leaves_damping_alone(dtype):
    pair = Pair(jnp.eye(3, dtype=dtype), jnp.zeros((2, 2), dtype))
    gradient = {"w": jnp.ones((3, 2), dtype)}
    values, _, _ = run(Factored(), {"w": pair}, gradient)
    np.testing.assert_allclose(values["w"], gradient["w"] / DAMPING, rtol=1e-6)
    other = Pair(jnp.zeros((3, 3), dtype), jnp.eye(2, dtype=dtype))
    values, _, _ = run(Factored(), {"w": other}, gradient)
    np.testing.assert_allclose(values["w"], gradient["w"] / DAMPING, rtol=1e-6)
    nothing = factored_damping(jax.tree.map(jnp.zeros_like, pair), jnp.asarray(DAMPING))
    np.testing.assert_allclose([nothing.left * nothing.right], [DAMPING], rtol=1e-6)


def test_traces_at_the_ends_of_float32_do_not_overflow():
    pair = Pair(1e30 * jnp.eye(2, dtype=jnp.float32), 1e-30 * jnp.eye(2, dtype=jnp.float32))
    damped = factored_damping(pair, jnp.asarray(1.0))
    np.testing.assert_allclose([damped.left, damped.right], [1e30, 1e-30], rtol=1e-4)


@pytest.fixture(scope="module")
def rows(blocks):
    """Rows whose outer products are the gradients of some blocks."""
    pairs, _ = blocks
    found = {}
    for i, path in enumerate(("plain", "stack")):
        pair, key = pairs[path], jax.random.fold_in(KEY, i)
        first, second = jax.random.split(key)
        found[path] = (
            jax.random.normal(first, (1, *pair.lead, pair.rows)),
            jax.random.normal(second, (1, *pair.lead, pair.columns)),
        )
    return found


def test_solved_rows_give_the_solved_gradient(blocks, rows):
    pairs, gradients = blocks
    sums = {path: jnp.einsum("n...i,n...j->...ij", *rows[path]) for path in rows}
    gradients = gradients | sums
    by_rows, _, _ = run(RowSolves(), pairs, gradients, lambda: rows)
    whole, _, _ = run(Factored(), pairs, gradients)
    for path in pairs:
        np.testing.assert_allclose(by_rows[path], whole[path], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("spoil", [lambda v: 0.5 * v, lambda v: v + 0.1, lambda v: jnp.full_like(v, 0.0)])
def test_rows_of_another_gradient_are_not_used(blocks, rows, spoil):
    pairs, gradients = blocks
    sums = {path: spoil(jnp.einsum("n...i,n...j->...ij", *rows[path])) for path in rows}
    gradients = gradients | sums
    by_rows, _, _ = run(RowSolves(), pairs, gradients, lambda: rows)
    whole, _, _ = run(Factored(), pairs, gradients)
    for path in pairs:
        np.testing.assert_allclose(by_rows[path], whole[path], rtol=1e-8, atol=1e-9)


def test_rows_that_are_nan_are_not_used(blocks, rows):
    pairs, gradients = blocks
    broken = {path: (a, jnp.full_like(g, jnp.nan)) for path, (a, g) in rows.items()}
    by_rows, _, _ = run(RowSolves(), pairs, gradients, lambda: broken)
    assert all(jnp.all(jnp.isfinite(value)) for value in by_rows.values())


def test_corrected_eigenbases_hold_the_diagonal_of_the_fisher_matrix():
    pair = Pair(spd(jax.random.fold_in(KEY, 1), 3), spd(jax.random.fold_in(KEY, 2), 2))
    a = jax.random.normal(jax.random.fold_in(KEY, 3), (7, 3))
    g = jax.random.normal(jax.random.fold_in(KEY, 4), (7, 2, 2))
    solver = CorrectedEigenbases()
    state = solver.prepare({"w": pair}, jnp.asarray(DAMPING), solver.init({"w": pair}), KEY)
    state = solver.observe(lambda: {"w": (a, g)}, jnp.asarray(0.0), state)
    each = jnp.einsum("ni,ncj->ncij", a, g).reshape(-1, 6)
    fisher = each.T @ each / 7
    basis = jnp.kron(state["w"].p, state["w"].q)
    np.testing.assert_allclose(state["w"].curvature.reshape(-1), jnp.diag(basis.T @ fisher @ basis), rtol=1e-10)
    v = jnp.ones((3, 2))
    value, _, _ = solver.apply(Gradient({"w": v}, dict), state, KEY)
    diagonal = jnp.diag(basis.T @ fisher @ basis) + DAMPING
    np.testing.assert_allclose(value["w"].reshape(-1), basis @ ((basis.T @ v.reshape(-1)) / diagonal), rtol=1e-9)
    # Off the diagonal of that basis something is left: K-FAC's product is another matrix.
    assert jnp.linalg.norm(fisher - basis @ jnp.diag(diagonal - DAMPING) @ basis.T) > 1e-3


def test_condition_bound_is_a_bound(blocks):
    for _, _, a, g, _ in members(*blocks):
        damped = np.kron(*pi_damped(a, g))
        assert float(condition_bound(Pair(a, g), jnp.asarray(DAMPING))) >= np.linalg.cond(damped) * (1 - 1e-6)


def test_what_failed_goes_along_the_gradient_at_the_last_good_length():
    gradient = {name: jnp.array([[3.0, 4.0]]) for name in ("good", "uphill", "nan")}
    found = {"good": gradient["good"] / 5, "uphill": -gradient["uphill"], "nan": jnp.full((1, 2), jnp.nan)}
    lengths = dict.fromkeys(gradient, jnp.asarray(2.0, jnp.float32))
    values, kept, failed = replace_failed(found, gradient, lengths, jnp.asarray(True))
    assert failed == 2
    np.testing.assert_allclose(values["good"], [[0.6, 0.8]])
    for name in ("uphill", "nan"):
        np.testing.assert_allclose(values[name], [[1.2, 1.6]], rtol=1e-6)
        assert kept[name] == 2
    assert kept["good"] == pytest.approx(1.0)


def test_blocks_are_dealt_within_grahams_bound():
    work = {str(i): float(w) for i, w in enumerate(np.random.default_rng(0).integers(1, 100, 40))}
    for devices in (1, 3, 8):
        owner = deal(work, devices)
        load = np.bincount(list(owner.values()), [work[path] for path in owner], devices)
        assert load.max() <= 4 / 3 * max(sum(work.values()) / devices, max(work.values())) + 1e-9


def test_distributed_inverses_are_those_of_one_device(blocks):
    pairs, gradients = blocks
    mesh = jax.make_mesh((8,), ("data",))
    several = Distributed(Factored(), mesh, "data")
    values, _, _ = jax.jit(lambda p, v: run(several, p, v))(pairs, gradients)
    alone, _, _ = run(Factored(), pairs, gradients)
    for path in pairs:
        np.testing.assert_allclose(values[path], alone[path], rtol=1e-9, atol=1e-12)


def test_an_axis_the_mesh_lacks_is_refused():
    with pytest.raises(ValueError, match="axis must be one of the mesh's"):
        Distributed(Factored(), jax.make_mesh((8,), ("data",)), "model")
