"""Natural gradient as an optimizer: exact cases, the rule against a plain recursion, optax's contract, failures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimizer_contract as contract
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec

from thermolinalg.optim.dual import Dual
from thermolinalg.optim.lanes import Primal
from thermolinalg.optim.layers import dense
from thermolinalg.optim.losses import CrossEntropy, Custom, SquaredError
from thermolinalg.optim.matrix_free import Iterative
from thermolinalg.optim.ngd import ngd, scale_by_ngd
from thermolinalg.optim.products import dense_ggn
from thermolinalg.optim.solvers import Cholesky
from thermolinalg.optim.task import task as make_task
from thermolinalg.optim.trust import KLClip, LevenbergMarquardt, NormConstraint

KEY = jax.random.key(5)


def network(params, x):
    return dense(jnp.tanh(dense(x, params["u"], params["a"])), params["v"], params["b"])


@pytest.fixture(scope="module")
def classifier():
    """A small classifier, its parameters and a batch of 16."""
    k = jax.random.split(KEY, 4)
    params = {
        "u": jax.random.normal(k[0], (6, 5)) / 2,
        "a": jnp.zeros(5),
        "v": jax.random.normal(k[1], (5, 4)) / 2,
        "b": jnp.zeros(4),
    }
    x = jax.random.normal(k[2], (16, 6))
    labels = jnp.argmax(x[:, :4] + 0.1 * jax.random.normal(k[3], (16, 4)), 1)
    return make_task(network, CrossEntropy(), params, x), params, (x, labels)


def train(task, optimizer, params, batch, steps):
    state, step = optimizer.init(params), contract.stepper(task, optimizer, batch)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def one_step(task, optimizer, params, batch):
    @jax.jit
    def step(params):
        grads = jax.grad(task.value)(params, batch)
        return grads, *optimizer.update(grads, optimizer.init(params), params, batch=batch)

    return step(params)


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


@pytest.mark.parametrize("lane", [None, Dual(), Iterative(1e-10)], ids=["chosen", "dual", "iterative"])
def test_linear_least_squares_take_one_step(lane):
    x = jax.random.normal(KEY, (20, 3))
    w = jnp.zeros((3, 2))
    batch, task = (x, x @ jnp.ones((3, 2))), make_task(lambda w, x: x @ w, SquaredError(), w, x)
    _, step, _ = one_step(task, ngd(task, 1.0, damping=1e-10, lane=lane), w, batch)
    # The damping pulls by itself over the smallest eigenvalue, about a third; the rows have 1e-16 over the damping.
    np.testing.assert_allclose(step, 1.0, atol=1e-5)
    _, half, _ = one_step(task, ngd(task, 0.5, damping=1e-10, lane=lane), w, batch)
    np.testing.assert_allclose(half, 0.5, atol=1e-5)


def test_rosenbrock_ends_in_two_steps():
    start, end, task, batch = contract.problem("rosenbrock", "float64")
    optimizer = ngd(task, 1.0, damping=1e-12)
    once, _ = train(task, optimizer, start, batch, 1)
    twice, _ = train(task, optimizer, start, batch, 2)
    assert np.linalg.norm(once - end) > 0.1
    np.testing.assert_allclose(twice, end, atol=1e-7)


def test_spring_at_full_momentum_is_an_implicit_euler_step(classifier):
    """x' = x + (g - C x') / damping, checked as it stands: nothing is solved here."""
    task, params, batch = classifier
    optimizer, damping = scale_by_ngd(task, damping=0.3, momentum=1.0, lane=Dual()), 0.3
    state = optimizer.init(params)
    old = jax.tree.map(lambda p: 0.1 + p**2, params)
    update = jax.jit(lambda g, s: optimizer.update(g, s, params, batch=batch))
    grads, curvature = jax.jit(lambda p: (jax.grad(task.value)(p, batch), dense_ggn(task, p, batch)))(params)
    x, after = update(grads, state._replace(last=old))
    g, new, before, curvature = flat(grads), flat(x), flat(old), np.asarray(curvature)
    np.testing.assert_allclose(new, before + (g - curvature @ new) / damping, rtol=1e-10, atol=1e-12)
    assert np.linalg.norm(new - before - (g - curvature @ before) / damping) > 0.1  # explicit Euler it is not
    np.testing.assert_array_equal(flat(after.last), new)


SETTINGS = {"damping": 0.2, "momentum": 0.8, "l2": 0.05, "weight_decay": 0.03}


def recursion(task, params, batch, steps, *, damping, momentum, l2, weight_decay):
    """The rule in NumPy, with a dense matrix."""
    theta, unravel = ravel_pytree(params)
    theta, x = np.asarray(theta), np.zeros(theta.size)
    measure = jax.jit(lambda p: (dense_ggn(task, p, batch), jax.grad(task.value)(p, batch)))
    for k in range(steps):
        curvature, grads = measure(unravel(jnp.asarray(theta)))
        lam, rate = damping * 0.9**k, 0.3 / (k + 1)
        whole = np.asarray(curvature) + (lam + l2) * np.eye(theta.size)
        x = np.linalg.solve(whole, flat(grads) + l2 * theta + lam * momentum * x)
        theta = theta - rate * (x + weight_decay * theta)
    return theta


@pytest.mark.parametrize("lane", [Primal(), Dual(), Iterative(1e-12, 200, warm=True)], ids=["primal", "dual", "cg"])
def test_steps_follow_the_recursion(classifier, lane):
    task, params, batch = classifier
    numbers = SETTINGS | {"damping": lambda k: 0.2 * 0.9 ** k.astype(float)}
    optimizer = ngd(task, lambda k: 0.3 / (k.astype(float) + 1), lane=lane, **numbers)
    found, state = train(task, optimizer, params, batch, 4)
    expected = recursion(task, params, batch, 4, **SETTINGS)
    np.testing.assert_allclose(flat(found), expected, rtol=1e-8, atol=1e-9)
    assert state.count == 4
    if isinstance(lane, Dual):
        for name in SETTINGS:
            other = recursion(task, params, batch, 4, **SETTINGS | {name: 1.01 * SETTINGS[name]})
            assert np.abs(flat(found) - other).max() > 1e-6


def test_damping_follows_the_quadratic_model():
    """A linear model's loss is its quadratic model, penalty and all."""
    x = jax.random.normal(KEY, (20, 3))
    w = jnp.ones((3, 2))
    batch, task = (x, jnp.zeros((20, 2))), make_task(lambda w, x: x @ w, SquaredError(), w, x)
    optimizer = ngd(task, 0.7, damping=LevenbergMarquardt(0.1, period=1), l2=0.3)
    value = lambda w: task.value(w, batch) + 0.15 * jnp.sum(w**2)  # noqa: E731
    moved, state = train(task, optimizer, w, batch, 1)
    np.testing.assert_allclose(state.stats.predicted, value(moved) - value(w), rtol=1e-10)
    np.testing.assert_allclose(state.stats.ratio, 1.0, rtol=1e-10)
    np.testing.assert_allclose(state.damping, 0.1 * 0.9**5)


def test_limits_shorten_steps(classifier):
    task, params, batch = classifier
    grads, free, _ = one_step(task, ngd(task, 0.5, damping=1e-2), params, batch)
    _, short, state = one_step(task, ngd(task, 0.5, damping=1e-2, limit=NormConstraint(0.1)), params, batch)
    np.testing.assert_allclose(np.linalg.norm(flat(short)), 0.1)
    np.testing.assert_allclose(flat(short), state.stats.scale * flat(free))
    _, short, state = one_step(task, ngd(task, 0.5, damping=1e-2, limit=KLClip(1e-3)), params, batch)
    np.testing.assert_allclose(flat(short) @ flat(grads), -(0.5 * state.stats.scale * state.stats.slope))
    np.testing.assert_allclose((0.5 * state.stats.scale) ** 2 * state.stats.slope, 1e-3)


def test_a_chain_takes_the_natural_gradient(classifier):
    task, params, batch = classifier
    _, steps, _ = one_step(task, ngd(task, 0.1, damping=1e-2), params, batch)
    _, natural, _ = one_step(task, scale_by_ngd(task, damping=1e-2), params, batch)
    np.testing.assert_allclose(flat(natural), -10 * flat(steps), rtol=1e-12)
    chained = optax.chain(scale_by_ngd(task, damping=1e-2), optax.adam(1e-3, b1=0.0, b2=0.0))
    with jax.numpy_dtype_promotion("standard"):  # optax corrects the bias by whole powers
        grads, signs, _ = one_step(task, chained, params, batch)
    np.testing.assert_allclose(flat(signs), -1e-3 * np.sign(flat(natural)), rtol=1e-3)
    assert flat(signs) @ flat(grads) < 0


def test_a_gradient_that_is_not_finite_is_refused_and_counted(classifier):
    task, params, batch = classifier
    optimizer = ngd(task, 0.2, damping=0.1, momentum=0.5, lane=Iterative(1e-8, warm=True))
    update = jax.jit(optimizer.update)
    grads = jax.grad(task.value)(params, batch)
    _, state = update(grads, optimizer.init(params), params, batch=batch, value=jnp.asarray(1.0))
    broken = grads | {"b": grads["b"].at[0].set(jnp.nan)}
    for given, value in [(broken, 1.0), (grads, np.inf)]:
        updates, after = update(given, state, params, batch=batch, value=jnp.asarray(value))
        assert not np.any(flat(updates))
        assert after.stats.rejected == state.stats.rejected + 1
        assert after.stats.fallbacks == 0
        for kept in ("last", "lane", "length"):
            np.testing.assert_array_equal(flat(getattr(after, kept)), flat(getattr(state, kept)))
        expected, _ = update(grads, state, params, batch=batch, value=jnp.asarray(1.0))
        resumed, _ = update(grads, after, params, batch=batch, value=jnp.asarray(1.0))
        np.testing.assert_array_equal(flat(resumed), flat(expected))


class Broken(Cholesky):
    """A solver that fails, from the second solve on where a state is kept."""

    def apply(self, rhs, state, key=None):
        x, info, state = super().apply(rhs, state, key)
        return jnp.full_like(x, jnp.nan), info, state


def test_a_solver_that_fails_does_not_lose_the_run(classifier):
    task, params, batch = classifier
    good, bad = (ngd(task, 0.2, damping=0.1, lane=lane) for lane in (Dual(), Dual(Broken())))
    grads = jax.grad(task.value)(params, batch)
    _, state = jax.jit(lambda: good.update(grads, good.init(params), params, batch=batch))()
    updates, after = jax.jit(lambda state: bad.update(grads, state, params, batch=batch))(state)
    assert after.stats.fallbacks == 1
    assert after.stats.rejected == 0
    assert after.length == state.length
    unit = flat(grads) / np.linalg.norm(flat(grads))
    np.testing.assert_allclose(flat(updates), -0.2 * state.length * unit, rtol=1e-10)


def test_a_loss_that_is_not_convex_is_refused_or_counted():
    concave = Custom(lambda z, t: -jnp.sum((z - t) ** 2))
    w, x = jnp.ones((3, 1)), jax.random.normal(KEY, (4, 3))
    batch, task = (x, jnp.zeros((4, 1))), make_task(lambda w, x: x @ w, concave, w, x)
    optimizer = ngd(task, 0.1, damping=1e-3)
    grads = jax.grad(task.value)(w, batch)
    with pytest.raises(ValueError, match="without a usable output Hessian"):
        optimizer.update(grads, optimizer.init(w), w, batch=batch)
    _, updates, state = one_step(task, optimizer, w, batch)
    assert state.stats.fallbacks == 1
    assert np.all(np.isfinite(updates))


def test_one_device_and_eight_train_alike(classifier):
    task, params, batch = classifier
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    optimizer = ngd(task, 0.2, damping=0.1, momentum=0.5)
    alone, _ = train(task, optimizer, params, batch, 3)
    several, _ = train(task, optimizer, everywhere, spread, 3)
    np.testing.assert_allclose(flat(alone), flat(several), rtol=1e-9, atol=1e-11)


def test_the_state_may_be_donated(classifier):
    task, params, batch = classifier
    optimizer = ngd(task, 0.2, damping=0.1, momentum=0.5)
    grads = jax.grad(task.value)(params, batch)
    step = jax.jit(lambda s: optimizer.update(grads, s, params, batch=batch)[1], donate_argnums=0)
    assert step(step(optimizer.init(params))).count == 2


def test_bad_input_is_refused_by_name(classifier):
    task, params, batch = classifier
    optimizer = ngd(task, 0.1, damping=0.1)
    grads, state = jax.tree.map(jnp.ones_like, params), optimizer.init(params)
    for arguments, match in [
        ((grads, state, params), "ngd needs the batch"),
        ((grads, state, None, batch), "ngd needs the parameters"),
        ((grads["u"], state, params, batch), "trees of one structure"),
        ((grads | {"c": grads["b"]}, state, params | {"c": grads["b"]}, (batch[0],)), "must be a pair"),
        (({"u": grads["u"]}, state, {"u": params["u"]}, batch), "params lacks"),
    ]:
        with pytest.raises(ValueError, match=match):
            optimizer.update(*arguments[:3], batch=arguments[3] if len(arguments) > 3 else None)
    for settings, match in [
        ({"damping": 0.0}, "damping must be positive"),
        ({"damping": -1.0}, "damping must be positive"),
        ({"damping": 0.1, "momentum": -0.1}, "momentum must be finite and not negative"),
        ({"damping": 0.1, "l2": -0.1}, "l2 must be finite and not negative"),
        ({"damping": 0.1, "weight_decay": -0.1}, "weight_decay must be finite"),
        ({"damping": 0.1, "lane": Dual}, "lane must be"),
        ({"damping": 0.1, "lane": Cholesky()}, "lane must be"),
        ({"damping": 0.1, "seed": -1}, "seed must be a whole number"),
    ]:
        with pytest.raises(ValueError, match=match):
            ngd(task, 0.1, **settings)
    with pytest.raises(ValueError, match="learning_rate must be positive"):
        ngd(task, 0.0, damping=0.1)
    with pytest.raises(ValueError, match="task must come from"):
        ngd(network, 0.1, damping=0.1)
    with pytest.raises(ValueError, match="has to know the step"):
        scale_by_ngd(task, damping=LevenbergMarquardt(0.1))
