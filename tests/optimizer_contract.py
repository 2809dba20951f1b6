"""What optax asks of every optimizer that it lists, for optimizers that need a task: shared by their tests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from thermolinalg.optim.layers import bias
from thermolinalg.optim.losses import SquaredError
from thermolinalg.optim.task import task as make_task

ONE = jnp.zeros((1, 1))


def _parabola(dtype):
    start, end = jnp.array([-1.0, 10.0, 1.0], dtype), jnp.array([1.0, -1.0, 1.0], dtype)
    return start, end, lambda p, x: bias(jnp.zeros((1, 3), dtype), p) - end[None]


def _rosenbrock(dtype):
    def residuals(p, x):
        y = bias(jnp.zeros((1, 2), dtype), p)
        return jnp.stack([1 - y[:, 0], 10 * (y[:, 1] - y[:, 0] ** 2)], 1)

    return jnp.zeros(2, dtype), jnp.ones(2, dtype), residuals


def _matrix_parabola(dtype):
    end = jnp.array([[3.0, -2.0], [1.0, 4.0]], dtype)
    return jnp.zeros((2, 2), dtype), end, lambda p, x: bias(jnp.zeros((1, 2, 2), dtype), p) - end[None]


def _mixed(dtype):
    ends = jnp.array([1.0, -1.0, 2.0], dtype), jnp.array([[1.0, 0.0], [-1.0, 1.0]], dtype)

    def residuals(p, x):
        parts = [bias(jnp.zeros((1, *e.shape), dtype), q) - e[None] for q, e in zip(p, ends, strict=True)]
        return jnp.concatenate([part.reshape(1, -1) for part in parts], 1)

    return jax.tree.map(jnp.zeros_like, ends), ends, residuals


TARGETS = {"parabola": _parabola, "rosenbrock": _rosenbrock, "matrix": _matrix_parabola, "mixed": _mixed}


def problem(name, dtype="float32"):
    """A start, the solution, a task whose loss is half the sum of squares, and its batch."""
    start, end, residuals = TARGETS[name](dtype)
    inputs = jnp.zeros((1, 1), dtype)
    task = make_task(residuals, SquaredError(), start, inputs)
    return start, end, task, (inputs, jnp.zeros(task.outputs(start, inputs).shape, dtype))


def stepper(task, optimizer, batch, **extra):
    """One jitted step of an optimizer."""

    @jax.jit
    def step(params, state):
        value, grads = task.value_and_gradient(params, batch)
        updates, state = optimizer.update(grads, state, params, batch=batch, value=value, **extra)
        return optax.apply_updates(params, updates), state

    return step


def close(x, y, **tolerance):
    """Two trees of numbers agree."""
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), **tolerance)


def accepts_other_arguments_and_compiles_once(make):
    start, _, task, batch = problem("rosenbrock")
    optimizer = make(task)
    step = stepper(task, optimizer, batch, an_argument_of_another_transformation=1)
    params, state = step(start, optimizer.init(start))
    step(params, state)
    assert step._cache_size() == 1


def minimises(make, name, steps=1500):
    start, end, task, batch = problem(name)
    optimizer = make(task)
    state = optax.tree.map_params(optimizer, lambda leaf: leaf, optimizer.init(start))
    step = stepper(task, optimizer, batch)
    (params, _), _ = jax.lax.scan(lambda carry, _: (step(*carry), None), (start, state), length=steps)
    close(params, end, rtol=3e-2, atol=3e-2)


def injects_its_numbers(factory, numbers, static):
    """``optax.inject_hyperparams`` changes nothing; what is no number is static."""
    start, _, task, batch = problem("mixed")
    plain = factory(task=task, **numbers)
    injected = optax.inject_hyperparams(factory, static_args=static)(task=task, **numbers)
    grads = jax.grad(task.value)(start, batch)
    updates, state = jax.jit(lambda g, s: plain.update(g, s, start, batch=batch))(grads, jax.jit(plain.init)(start))
    other, held = jax.jit(lambda g, s: injected.update(g, s, start, batch=batch))(grads, jax.jit(injected.init)(start))
    close(updates, other, rtol=1e-5)
    close(state, held.inner_state, rtol=1e-5, atol=1e-5)


def chains(make):
    """Behind another transformation the arguments still arrive."""
    start, _, task, batch = problem("parabola")
    optimizer = optax.chain(make(task), optax.scale(0.5))
    grads = jax.grad(task.value)(start, batch)
    halved, _ = optimizer.update(grads, optimizer.init(start), start, batch=batch)
    whole, _ = make(task).update(grads, make(task).init(start), start, batch=batch)
    close(halved, 0.5 * whole, rtol=1e-6)


def keeps_dtypes(make, dtype):
    start, _, task, batch = problem("mixed", dtype)
    optimizer = make(task)
    grads = jax.grad(task.value)(start, batch)
    updates, _ = jax.jit(lambda g, s: optimizer.update(g, s, start, batch=batch))(grads, jax.jit(optimizer.init)(start))
    assert [u.dtype for u in jax.tree.leaves(updates)] == [p.dtype for p in jax.tree.leaves(start)]
    assert all(bool(jnp.all(jnp.isfinite(u))) for u in jax.tree.leaves(updates))


def accumulates(make):
    start, _, task, batch = problem("parabola")
    optimizer = optax.MultiSteps(make(task), every_k_schedule=4)
    grads = jax.grad(task.value)(start, batch)
    with jax.numpy_dtype_promotion("standard"):  # optax divides by its counter
        updates, _ = jax.jit(lambda g, s: optimizer.update(g, s, start, batch=batch))(grads, optimizer.init(start))
    close(updates, jax.tree.map(jnp.zeros_like, start))


def keeps_its_state_stable(make, dtype):
    """Shapes and dtypes of the state survive a branch that may or may not update."""
    start, _, task, batch = problem("parabola", dtype)
    optimizer = make(task)

    @jax.jit
    def step(params, state, go):
        value, grads = task.value_and_gradient(params, batch)
        confused = value.astype(jnp.bfloat16 if dtype == "float16" else jnp.float16)
        updates, state = jax.lax.cond(
            go,
            lambda: optimizer.update(grads, state, params, batch=batch, value=confused),
            lambda: (params, state),
        )
        return optax.apply_updates(params, updates), state

    state = optimizer.init(start)
    for go in (True, False):
        params, new = step(start, state, go)
        assert params.dtype == start.dtype
        jax.tree.map(lambda a, b: None if (a.shape, a.dtype) == (b.shape, b.dtype) else refuse(a, b), state, new)


def refuse(a, b):
    raise AssertionError(f"the state changed from {a.dtype}{a.shape} to {b.dtype}{b.shape}")


def takes_schedules(make_with_rate):
    start, _, task, batch = problem("parabola")
    ends = []
    for rate in (1e-3, optax.constant_schedule(1e-3)):
        optimizer = make_with_rate(task, rate)
        params, state, step = start, optimizer.init(start), stepper(task, optimizer, batch)
        for _ in range(10):
            params, state = step(params, state)
        ends.append(params)
    close(*ends, rtol=1e-6)
