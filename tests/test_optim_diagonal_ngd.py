"""The diagonal of the curvature against its definition, alone and beside K-FAC."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thermolinalg.optim.diagonal_ngd import diagonal_ngd, squared_columns
from thermolinalg.optim.fisher import exact
from thermolinalg.optim.kfac import kfac
from thermolinalg.optim.layers import dense
from thermolinalg.optim.losses import CrossEntropy
from thermolinalg.optim.products import dense_ggn
from thermolinalg.optim.task import task as make_task

KEY = jax.random.key(5)


def model(params, x):
    return dense(jnp.tanh(x * params["gain"][None]), params["w"])


@pytest.fixture(scope="module")
def problem():
    k = jax.random.split(KEY, 3)
    params = {"gain": jax.random.normal(k[0], (4,)), "w": jax.random.normal(k[1], (4, 3))}
    x = jax.random.normal(k[2], (16, 4))
    return make_task(model, CrossEntropy(), params, x), params, (x, jnp.arange(16) % 3)


def measured(task, params, batch):
    columns = exact(task.loss, task.outputs(params, batch[0]), batch[1])
    return squared_columns(task, params, batch[0], columns, params)


def test_it_is_the_diagonal_of_the_gauss_newton_matrix(problem):
    task, params, batch = problem
    found = measured(task, params, batch)
    flat, _ = jax.flatten_util.ravel_pytree(found)
    ggn = dense_ggn(task, params, batch)
    np.testing.assert_allclose(flat, jnp.diag(ggn), rtol=1e-10)
    assert float(jnp.max(jnp.abs(ggn - jnp.diag(flat)))) > 1e-3


def test_a_step_divides_by_it(problem):
    task, params, batch = problem
    grads = jax.grad(task.value)(params, batch)
    optimizer = diagonal_ngd(task, 0.5, damping=0.25, fisher=exact)
    updates, _ = jax.jit(lambda g, s: optimizer.update(g, s, params, batch=batch))(grads, optimizer.init(params))
    curvature = measured(task, params, batch)
    for path in params:
        np.testing.assert_allclose(updates[path], -0.5 * grads[path] / (curvature[path] + 0.25), rtol=1e-10)


def test_it_takes_what_no_layer_claims(problem):
    task, params, batch = problem
    grads = jax.grad(task.value)(params, batch)
    optimizer = kfac(task, 0.3, damping=0.1, fisher=exact, rest=diagonal_ngd(task, 0.5, damping=0.25, fisher=exact))
    state = optimizer.init(params)
    update = jax.jit(lambda g, s: optimizer.update(g, s, params, batch=batch))
    updates, state = update(grads, state)
    alone = diagonal_ngd(task, 0.5, damping=0.25, fisher=exact)
    expected, _ = alone.update(grads, alone.init(params), params, batch=batch)
    np.testing.assert_allclose(updates["gain"], expected["gain"], rtol=1e-10)
    assert float(jnp.linalg.norm(updates["w"] - expected["w"])) > 1e-3
    # A gradient that is not finite moves neither parameters nor the running mean.
    broken = grads | {"gain": grads["gain"].at[0].set(jnp.nan)}
    updates, after = update(broken, state)
    assert not np.any(updates["gain"])
    for x, y in zip(jax.tree.leaves(state.rest), jax.tree.leaves(after.rest), strict=True):
        if jnp.issubdtype(x.dtype, jnp.floating):
            np.testing.assert_array_equal(x, y)


def test_it_trains(problem):
    task, params, batch = problem
    optimizer = diagonal_ngd(task, lambda k: jnp.asarray(0.5), damping=0.1)
    state, start = optimizer.init(params), task.value(params, batch)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(task.value)(params, batch), state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    for _ in range(30):
        params, state = step(params, state)
    assert task.value(params, batch) < 0.7 * start


def test_bad_input_is_refused(problem):
    task, params, _ = problem
    with pytest.raises(ValueError, match="damping must be positive"):
        diagonal_ngd(task, 0.1, damping=0.0)
    optimizer = diagonal_ngd(task, 0.1, damping=0.1)
    with pytest.raises(ValueError, match="diagonal_ngd needs parameters and batch"):
        optimizer.update(params, optimizer.init(params), params)
