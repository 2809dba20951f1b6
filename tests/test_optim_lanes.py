"""Every lane gives the natural gradient: against a dense solve with an explicit Jacobian, in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import thermolinalg as tla
from thermolinalg.optim import dual
from thermolinalg.optim.analog import ThermodynamicSolve
from thermolinalg.optim.choice import choose
from thermolinalg.optim.dual import Dual
from thermolinalg.optim.fallback import Guarded
from thermolinalg.optim.fisher import Propagation, empirical, exact, monte_carlo
from thermolinalg.optim.iterative import CG
from thermolinalg.optim.iterative import WarmStart as Warm
from thermolinalg.optim.lanes import Lane, Primal, Problem
from thermolinalg.optim.layers import dense
from thermolinalg.optim.losses import CrossEntropy, Custom, SquaredError
from thermolinalg.optim.matrix_free import Iterative, Kronecker, diagonal
from thermolinalg.optim.solvers import Code, Eigh
from thermolinalg.optim.task import task as make_task

KEY = jax.random.key(3)
N = 8


def affine(x, w, b):
    return x @ w + b[None]


def network(layer):
    return lambda p, x: layer(jnp.tanh(layer(x, p["u"], p["a"])), p["v"], p["b"])


@pytest.fixture(scope="module")
def setting():
    """Parameters, the two spellings of a classifier as tasks, and a batch."""
    k = jax.random.split(KEY, 4)
    params = {
        "u": jax.random.normal(k[0], (6, 5)) / 2,
        "a": jnp.full(5, 0.1),
        "v": jax.random.normal(k[1], (5, 4)),
        "b": jnp.zeros(4),
    }
    x, labels = jax.random.normal(k[2], (N, 6)), jax.random.randint(k[3], (N,), 0, 4)
    tasks = {
        name: make_task(network(layer), CrossEntropy(), params, x)
        for name, layer in {"tagged": dense, "untagged": affine}.items()
    }
    return tasks, params, (x, labels)


@partial(jax.jit, static_argnames=("task", "fisher"))
def curvature(task, params, batch, fisher=exact, key=None):
    """The mean over examples of J^T v v^T J, from an explicit Jacobian."""
    z = task.outputs(params, batch[0])
    flat, unravel = ravel_pytree(params)
    J = jax.jacobian(lambda f: task.outputs(unravel(f), batch[0]).reshape(len(z), -1))(flat)
    columns = fisher(task.loss, z, batch[1], key).reshape(-1, *J.shape[:2])
    rows = jnp.einsum("cnk,nkp->cnp", columns, J).reshape(-1, flat.size)
    return rows.T @ rows / len(z)


@partial(jax.jit, static_argnames="task")
def gradient(task, params, batch):
    return jax.grad(task.value)(params, batch)


def expected(matrix, damping, target):
    flat = np.asarray(ravel_pytree(target)[0])
    return np.linalg.solve(np.asarray(matrix) + damping * np.eye(flat.size), flat)


def eager(lane, task, params, batch, damping, gradient, extra=None, fisher=exact, state=None):
    problem = Problem(task, params, batch, gradient, jnp.asarray(damping), extra, fisher, KEY)
    return lane.step(problem, lane.init(params) if state is None else state, KEY)


compiled = jax.jit(eager, static_argnames=("lane", "task", "fisher"))


def run(lane, task, params, batch, damping, gradient, **more):
    return compiled(lane, task, params, batch, jnp.asarray(damping), gradient, **more)


def error(x, truth):
    return np.linalg.norm(np.asarray(ravel_pytree(x)[0]) - truth) / np.linalg.norm(truth)


LANES = {
    "primal": Primal(),
    "dual": Dual(),
    "products": Dual(),
    "iterative": Iterative(1e-11, 500),
    "diagonal": Iterative(1e-11, 500, diagonal),
    "kronecker": Iterative(1e-11, 500, Kronecker()),
}


@pytest.mark.parametrize("name", LANES)
@pytest.mark.parametrize("spelling", ["tagged", "untagged"])
def test_every_lane_solves_the_damped_system(setting, name, spelling, monkeypatch):
    tasks, params, batch = setting
    task, lane = tasks[spelling], LANES[name]
    if (name, spelling) == ("kronecker", "untagged"):
        with pytest.raises(ValueError, match="no tagged layer"):
            run(lane, task, params, batch, 1.0, params)
        return
    if name == "products":
        monkeypatch.setattr(dual, "_MOST", -1)
        lane = Dual(rows=None, solver=Eigh())  # not the one that was compiled without products
    grads = gradient(task, params, batch)
    extra = jax.tree.map(lambda p: p**2 - 0.1, params)

    matrix = curvature(task, params, batch)
    for damping in (1e-3, 1.0):
        for g, h in [(grads, jax.tree.map(jnp.zeros_like, extra)), (grads, extra), (extra, grads)]:
            truth = expected(matrix, damping, jax.tree.map(jnp.add, g, h))
            x, info, _ = run(lane, task, params, batch, damping, g, extra=h)
            # CG stops at a residual of 1e-11; the error is at most the condition number, below 1e4, times that.
            assert error(x, truth) < 1e-7
            assert info.code == Code.OK
            assert error(x, expected(matrix, 1.01 * damping, jax.tree.map(jnp.add, g, h))) > 1e-6


@pytest.mark.parametrize("fisher", [empirical, monte_carlo, Propagation(2)], ids=["empirical", "drawn", "propagated"])
def test_every_lane_solves_with_other_curvatures(setting, fisher):
    tasks, params, batch = setting
    task = tasks["tagged"]
    grads = gradient(task, params, batch)
    truth = expected(curvature(task, params, batch, fisher, KEY), 0.01, grads)
    for lane in (Primal(), Dual(), Iterative(1e-11, 500)):
        x = run(lane, task, params, batch, 0.01, grads, fisher=fisher)[0]
        assert error(x, truth) < 1e-7
    assert error(x, expected(curvature(task, params, batch), 0.01, grads)) > 1e-3


def test_a_gradient_from_elsewhere_is_noticed(setting, monkeypatch):
    tasks, params, batch = setting
    task = tasks["untagged"]
    grads = gradient(task, params, batch)
    matrix = curvature(task, params, batch)
    for change in (lambda g: 0.99 * g, lambda g: g + 1e-6, jnp.ones_like):
        given = jax.tree.map(change, grads)
        x = run(Dual(), task, params, batch, 1e-2, given)[0]
        assert error(x, expected(matrix, 1e-2, given)) < 1e-10
    monkeypatch.setattr(dual, "_SLACK", 1e20)
    x = run(Dual(Eigh()), task, params, batch, 1e-2, given)[0]
    assert error(x, expected(matrix, 1e-2, given)) > 0.1


def test_small_damping_costs_no_digits_in_row_space(setting):
    """Float32 against float64, at a damping of 1e-4."""
    k, labels = jax.random.split(KEY, 3), setting[2][1]
    # Wide enough for the rows to be independent: what is left is the noise of float32 itself.
    shapes = {"u": (20, 30), "a": (30,), "v": (30, 4), "b": (4,)}
    narrow = {name: jax.random.normal(k[0], s, jnp.float32) / s[0] ** 0.5 for name, s in shapes.items()}
    few = jax.random.normal(k[1], (N, 20), jnp.float32)
    # What float32 has rounded is the problem; the reference takes the same numbers.
    params, x = jax.tree.map(lambda p: p.astype(jnp.float64), (narrow, few))
    short, batch = (few, labels), (x, labels)
    task = make_task(network(dense), CrossEntropy(), params, x)
    truth = expected(curvature(task, params, batch), 1e-4, gradient(task, params, batch))
    task = make_task(network(dense), CrossEntropy(), narrow, few)
    grads = gradient(task, narrow, short)
    x = run(Dual(), task, narrow, short, np.float32(1e-4), grads)[0]
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(x))
    rows = error(x, truth)
    # The same columns under another name: nothing is known of coordinates, and the parameter form it is.
    anonymous = lambda *arguments: exact(*arguments)  # noqa: E731
    parameters = error(run(Dual(), task, narrow, short, np.float32(1e-4), grads, fisher=anonymous)[0], truth)
    assert rows < 1e-6
    assert parameters > 3 * rows


def test_a_natural_gradient_stays_in_the_range_of_the_curvature(setting):
    tasks, params, batch = setting
    task = tasks["untagged"]
    values, vectors = np.linalg.eigh(curvature(task, params, batch))
    null = vectors[:, values < 1e-12 * values[-1]]
    assert null.shape[1] >= 10
    grads = gradient(task, params, batch)
    inside = np.asarray(ravel_pytree(run(Dual(), task, params, batch, 1e-6, grads)[0])[0])
    assert np.linalg.norm(null.T @ inside) < 1e-9 * np.linalg.norm(inside)
    outside = np.asarray(ravel_pytree(run(Dual(), task, params, batch, 1e-6, params)[0])[0])
    assert np.linalg.norm(null.T @ outside) > 0.1 * np.linalg.norm(outside)


SOLVERS = {
    "eigenvalues": (Eigh(), 1e-10),
    "iterated": (CG(1e-12, warm=Warm()), 1e-9),
    "guarded": (Guarded(Eigh()), 1e-10),
    "device": (ThermodynamicSolve(plan=tla.Plan(50.0, 1e4)), 0.3),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_any_solver_serves_among_rows_and_its_state_is_kept(setting, name):
    tasks, params, batch = setting
    task, (solver, tolerance) = tasks["tagged"], SOLVERS[name]
    grads = gradient(task, params, batch)
    r = N * task.loss.coordinates(task.outputs(params, batch[0]), batch[1]).shape[0]
    lane = Dual(solver, rows=r)
    step = lambda g, state: run(lane, task, params, batch, 0.1, g, state=state)  # noqa: E731
    before = lane.init(params)
    x, info, state = step(grads, before)
    again, later, _ = step(grads, state)
    truth = expected(curvature(task, params, batch), 0.1, grads)
    assert error(x, truth) < tolerance
    assert error(again, truth) < tolerance
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), before) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    if name == "iterated":
        assert later.steps < info.steps
    with pytest.raises(ValueError, match="the state is for 5 rows"):
        run(Dual(rows=5), task, params, batch, 0.1, grads)


def test_a_warm_start_saves_steps(setting):
    tasks, params, batch = setting
    task, lane = tasks["untagged"], Iterative(1e-8, 500, warm=True)
    grads = gradient(task, params, batch)
    step = lambda g, state: run(lane, task, params, batch, 0.1, g, state=state)  # noqa: E731
    _, first, state = step(grads, lane.init(params))
    _, second, _ = step(jax.tree.map(lambda g: 1.000001 * g, grads), state)
    assert second.steps < first.steps / 2
    _, short, _ = run(Iterative(1e-8, 2), task, params, batch, 0.1, grads)
    assert short.code == Code.NOT_CONVERGED


def test_members_of_an_ensemble_stay_apart(setting):
    tasks, params, batch = setting
    task = tasks["tagged"]
    ensemble = jax.tree.map(lambda w: jnp.stack([w, 0.5 * w]), params)

    def one(params):
        return eager(Dual(), task, params, batch, 0.1, gradient(task, params, batch))[0]

    found = jax.jit(jax.vmap(one))(ensemble)
    for i in range(2):
        own = jax.tree.map(lambda w, i=i: w[i], ensemble)
        truth = expected(curvature(task, own, batch), 0.1, gradient(task, own, batch))
        assert error(jax.tree.map(lambda w, i=i: w[i], found), truth) < 1e-10


def test_examples_that_repeat_and_a_batch_of_one(setting):
    tasks, params, (x, labels) = setting
    task = tasks["tagged"]
    for few in ((x[:1], labels[:1]), (jnp.repeat(x[:1], 3, 0), labels[:3])):
        grads = gradient(task, params, few)
        found, info, _ = run(Dual(), task, params, few, 1e-6, grads)
        # The damped matrix has a condition number of 1e6 or so.
        assert error(found, expected(curvature(task, params, few), 1e-6, grads)) < 1e-8
        assert info.code == Code.OK


def test_a_loss_without_coordinates_goes_the_longer_way():
    """Linear in one of two outputs: the gradient is not in the range of the output Hessian."""
    half = Custom(lambda z, t: z[0] + (z[1] - t) ** 2 / 2)
    w, x = jax.random.normal(KEY, (3, 2)), jax.random.normal(jax.random.key(1), (4, 3))
    batch = (x, jnp.ones(4))
    task = make_task(lambda w, x: x @ w, half, w, x)
    grads = gradient(task, w, batch)
    found = run(Dual(), task, w, batch, 0.1, grads)[0]
    assert error(found, expected(curvature(task, w, batch), 0.1, grads)) < 1e-10
    with pytest.raises(ValueError, match="has no coordinates"):
        eager(Dual(), task, w, batch, 0.1, grads)


def test_sizes_choose_the_lane():
    def lane(shape, n, layer=lambda w, x: x @ w, fisher=exact):
        w, x = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((n, shape[0]), jnp.float32)
        t = jax.ShapeDtypeStruct((n, shape[1]), jnp.float32)
        return type(choose(make_task(layer, SquaredError(), w, x), w, (x, t), fisher=fisher))

    assert lane((3, 2), 8) is Primal
    assert lane((3, 2), 2) is Dual
    assert lane((300, 20), 50) is Dual
    assert lane((300, 20), 500) is Iterative
    assert lane((300, 20), 500, fisher=monte_carlo) is Dual
    assert lane((3000, 100), 20) is Iterative
    assert lane((3000, 100), 20, lambda w, x: dense(x, w)) is Dual


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="solver must have init"):
        Dual(Eigh)
    with pytest.raises(ValueError, match="rows must be a whole number"):
        Dual(rows=0)
    with pytest.raises(ValueError, match="rtol must lie between"):
        Iterative(rtol=0.0)
    with pytest.raises(ValueError, match="max_steps must be a whole number"):
        Iterative(max_steps=0)
    assert all(isinstance(lane, Lane) for lane in LANES.values())
