"""Filtered natural gradient: the carried-state law, the average that it is, and its implicit twin."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm

from thermolinalg.optim.filtered import filtered_natural_gradient, spring_twin
from thermolinalg.optim.losses import SquaredError
from thermolinalg.optim.ngd import ngd
from thermolinalg.optim.task import task as make_task

DAMPING, TIME, RATE, STEPS = 0.2, 0.7, 0.3, 4


def line(params, x):
    return x @ params["w"]


@pytest.fixture(scope="module")
def problem():
    """A linear model of six parameters, and batches of four examples: every curvature is another, and singular."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((STEPS, 4, 6)), rng.standard_normal((STEPS, 4, 1))
    params = {"w": jnp.asarray(rng.standard_normal((6, 1)))}
    return make_task(line, SquaredError(), params, jnp.asarray(x[0])), params, x, y


def run(task, opt, params, x, y):
    """Parameters after every step, and the last state."""

    @jax.jit
    def step(params, state, batch):
        updates, state = opt.update(jax.grad(task.value)(params, batch), state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    state, path = opt.init(params), []
    for batch in zip(jnp.asarray(x), jnp.asarray(y), strict=True):
        params, state = step(params, state, batch)
        path.append(np.asarray(params["w"])[:, 0])
    return np.array(path), state


def recursion(params, x, y, filter_):
    """The optimizer in NumPy; a filter makes the next average of F, g and the last one."""
    w, average, path = np.asarray(params["w"])[:, 0], None, []
    for a, b in zip(x, y, strict=True):
        G, g = a.T @ a / len(a), a.T @ (a @ w - b[:, 0]) / len(a)
        average = filter_(G, g, g if average is None else average)
        w = w - RATE * average
        path.append(w)
    return np.array(path)


def exact(G, g, old):
    F = G + DAMPING * np.eye(len(g))
    E = expm(-F * TIME)
    return E @ old + np.linalg.solve(F, (np.eye(len(g)) - E) @ g)


def test_it_is_the_carried_state_law(problem):
    task, params, x, y = problem
    found, state = run(task, filtered_natural_gradient(task, RATE, damping=DAMPING, time=TIME), params, x, y)
    np.testing.assert_allclose(found, recursion(params, x, y, exact), rtol=0, atol=1e-12)
    assert int(state.stats.rejected) == 0
    # One decay for all directions is another optimizer.
    plain = recursion(
        *(params, x, y),
        lambda G, g, old: old + (1 - np.exp(-DAMPING * TIME)) * (np.linalg.solve(G + DAMPING * np.eye(6), g) - old),
    )
    assert np.abs(found - plain).max() > 1e-2


def test_spring_is_the_implicit_twin(problem):
    task, _, x, y = problem
    twin = spring_twin(DAMPING, TIME)

    def implicit(G, g, old):
        return np.linalg.solve(G + (DAMPING + 1 / TIME) * np.eye(len(g)), g + old / TIME)

    start = {"w": jnp.zeros((6, 1))}
    opt = ngd(task, RATE, damping=twin.damping, momentum=twin.momentum)
    found, _ = run(task, opt, start, x, y)
    w, average, path = np.zeros(6), np.zeros(6), []
    for a, b in zip(x, y, strict=True):
        G, g = a.T @ a / len(a), a.T @ (a @ w - b[:, 0]) / len(a)
        average = implicit(G, g, average)
        w = w - RATE * average
        path.append(w)
    np.testing.assert_allclose(found, np.array(path), rtol=0, atol=1e-12)
    assert twin.momentum == pytest.approx(1 / (1 + DAMPING * TIME))
    # To first order in the time the two are one, and not to second.
    G, g, old = np.diag([0.5, 2.0]), np.array([1.0, -1.0]), np.array([0.3, 0.4])
    gaps = []
    for t in (1e-2, 1e-3):
        F = G + DAMPING * np.eye(2)
        euler = np.linalg.solve(F + np.eye(2) / t, g + old / t)
        E = expm(-F * t)
        gaps.append(np.linalg.norm(euler - E @ old - np.linalg.solve(F, (np.eye(2) - E) @ g)))
    assert np.log10(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.02)


def test_it_averages_as_it_says():
    """Mean age, reduction of noise, and no bias, in a direction of known curvature."""
    x = jnp.array([[1.0]])
    task = make_task(lambda w, x: x @ w, SquaredError(), jnp.zeros((1, 1)), x)
    damping, t = 0.5, 0.2
    beta = np.exp(-(1 + damping) * t)
    opt = filtered_natural_gradient(task, 1.0, damping=damping, time=t, start=0.0)
    w = jnp.zeros((1, 1))

    @jax.jit
    def averages(targets):
        def step(state, target):
            batch = (x, target[None, None])
            updates, state = opt.update(jax.grad(task.value)(w, batch), state, w, batch=batch)
            return state, -updates[0, 0]

        return jax.lax.scan(step, opt.init(w), targets)[1]

    # The gradient is minus the target: a pulse shows what the average is made of.
    response = -np.asarray(averages(jnp.zeros(400).at[0].set(1.0))) * (1 + damping)
    lag = np.arange(400)
    np.testing.assert_allclose(response, (1 - beta) * beta**lag, rtol=1e-9, atol=1e-14)
    assert (response * lag).sum() == pytest.approx(beta / (1 - beta), rel=1e-9)
    assert (response**2).sum() == pytest.approx((1 - beta) / (1 + beta), rel=1e-9)
    assert response.sum() == pytest.approx(1, rel=1e-9)


def test_schedules_and_what_is_not_finite(problem):
    task, params, x, y = problem
    opt = filtered_natural_gradient(
        task, optax.constant_schedule(RATE), damping=lambda k: DAMPING, time=lambda k: TIME, weight_decay=0.1
    )
    batch = jnp.asarray(x[0]), jnp.asarray(y[0])
    grads = jax.grad(task.value)(params, batch)
    state = opt.init(params)
    update = jax.jit(lambda g, s: opt.update(g, s, params, batch=batch))
    updates, first = update(grads, state)
    plain = recursion(params, x[:1], y[:1], exact)[0] - np.asarray(params["w"])[:, 0]
    np.testing.assert_allclose(updates["w"][:, 0], plain - RATE * 0.1 * params["w"][:, 0], rtol=1e-12, atol=1e-14)
    updates, second = update({"w": grads["w"] * jnp.nan}, first)
    assert not np.any(updates["w"])
    assert int(second.stats.rejected) == 1
    np.testing.assert_array_equal(second.average["w"], first.average["w"])
    assert jax.tree.structure(second) == jax.tree.structure(state)
    assert [leaf.dtype for leaf in jax.tree.leaves(second)] == [leaf.dtype for leaf in jax.tree.leaves(state)]
    with pytest.raises(ValueError, match="time"):
        filtered_natural_gradient(task, 1.0, damping=1.0, time=0.0)
    with pytest.raises(ValueError, match="batch"):
        opt.update(grads, state, params)
    with pytest.raises(ValueError, match="damping"):
        spring_twin(-1.0, 1.0)
