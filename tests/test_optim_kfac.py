"""K-FAC as an optimizer: exact cases, the rule against a plain recursion, refusals, failures, sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from thermolinalg.optim.eigenbases import CorrectedEigenbases, Eigenbases
from thermolinalg.optim.factors import factors
from thermolinalg.optim.fisher import empirical, exact, monte_carlo
from thermolinalg.optim.kfac import kfac
from thermolinalg.optim.kronecker import Factored
from thermolinalg.optim.layers import dense
from thermolinalg.optim.losses import CrossEntropy, SquaredError
from thermolinalg.optim.products import dense_ggn
from thermolinalg.optim.row_solves import RowSolves
from thermolinalg.optim.rows import rows
from thermolinalg.optim.solvers import CholeskyInverse
from thermolinalg.optim.task import task as make_task
from thermolinalg.optim.trust import KLClip, LevenbergMarquardt, NormConstraint, QuadraticModel, inner

KEY = jax.random.key(11)
SIZES = (6, 5, 4)


def network(params, x):
    x = jnp.tanh(dense(x, params["first"]["w"], params["first"]["b"]))
    return dense(x, params["second"]["w"], params["second"]["b"])


def linear(params, x):
    return dense(x, params["w"], params["b"])


@pytest.fixture(scope="module")
def classifier():
    """A small classifier, its parameters and a batch of 24."""
    k = jax.random.split(KEY, 4)
    params = {
        "first": {"w": jax.random.normal(k[0], (6, 5)) / 2, "b": jnp.zeros(5)},
        "second": {"w": jax.random.normal(k[1], (5, 4)) / 2, "b": jnp.zeros(4)},
    }
    x = jax.random.normal(k[2], (24, 6))
    labels = jnp.argmax(x[:, :4] + 0.1 * jax.random.normal(k[3], (24, 4)), 1)
    return make_task(network, CrossEntropy(), params, x), params, (x, labels)


@pytest.fixture(scope="module")
def regression():
    """A linear model with two outputs, and data without noise."""
    params = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
    x = jax.random.normal(KEY, (32, 3))
    return make_task(linear, SquaredError(), params, x), params, (x, x @ jnp.ones((3, 2)) + 1)


def stepper(task, optimizer):
    @jax.jit
    def step(params, state, batch):
        loss, grads = task.value_and_gradient(params, batch)
        updates, state = optimizer.update(grads, state, params, batch=batch, value=loss)
        return optax.apply_updates(params, updates), state, loss

    return step


def train(task, optimizer, params, batch, steps):
    state, losses, step = optimizer.init(params), [], stepper(task, optimizer)
    for _ in range(steps):
        params, state, loss = step(params, state, batch)
        losses.append(float(loss))
    return params, state, losses


@pytest.mark.parametrize("blocks", [Factored(), RowSolves(), Eigenbases()], ids=["factored", "rows", "eigen"])
def test_linear_regression_takes_one_step(regression, blocks):
    task, params, batch = regression
    optimizer = kfac(task, 1.0, damping=1e-10, fisher=exact, blocks=blocks, momentum=0.0)
    found, _, _ = train(task, optimizer, params, batch, 1)
    # Pi damping adds a relative error of about twice the root of the damping.
    np.testing.assert_allclose(found["w"], np.ones((3, 2)), atol=1e-4)
    np.testing.assert_allclose(found["b"], np.ones(2), atol=1e-4)


def test_a_step_is_the_damped_newton_step_of_a_linear_model(regression):
    """With exact damping the one block of a linear model is its whole Gauss-Newton matrix."""
    task, params, batch = regression
    optimizer = kfac(task, 1.0, damping=0.3, fisher=exact, blocks=Eigenbases(), momentum=0.0)
    grads = jax.grad(task.value)(params, batch)
    updates, _ = optimizer.update(grads, optimizer.init(params), params, batch=batch)
    flat, unravel = jax.flatten_util.ravel_pytree(grads)
    ggn = dense_ggn(task, params, batch)
    expected = unravel(-jnp.linalg.solve(ggn + 0.3 * jnp.eye(flat.size), flat))
    for path in ("w", "b"):
        np.testing.assert_allclose(updates[path], expected[path], rtol=1e-9)


def recursion(task, params, batch, steps, *, rate, damping, momentum, decay, inverse_period):
    """K-FAC spelled out in NumPy: exact curvature, factored damping."""
    path = {"['first']['w']": "first", "['second']['w']": "second"}
    mean, velocity, inverses, out = None, None, None, []
    for k in range(steps):
        grads = jax.grad(task.value)(params, batch)
        columns = exact(task.loss, task.outputs(params, batch[0]), batch[1])
        new = factors(task.model, params, batch[0], columns, task.layout)
        rho = min(1 - 1 / (k + 1), decay)
        mean = new if mean is None else jax.tree.map(lambda m, n, rho=rho: rho * m + (1 - rho) * n, mean, new)
        if k % inverse_period == 0:
            inverses = {}
            for name, pair in mean.items():
                a, g = np.asarray(pair.a), np.asarray(pair.g)
                pi = np.sqrt((np.trace(a) / len(a)) / (np.trace(g) / len(g)))
                root = np.sqrt(damping)
                inverses[name] = (
                    np.linalg.inv(a + root * pi * np.eye(len(a))),
                    np.linalg.inv(g + root / pi * np.eye(len(g))),
                )
        direction = {}
        for name, layer in path.items():
            v = inverses[name][0] @ np.vstack([grads[layer]["w"], grads[layer]["b"]]) @ inverses[name][1]
            direction[layer] = {"w": v[:-1], "b": v[-1]}
        velocity = direction if velocity is None else jax.tree.map(lambda v, d: momentum * v + d, velocity, direction)
        params = jax.tree.map(lambda p, v: p - rate * v, params, velocity)
        out.append(params)
    return out


def test_steps_follow_the_recursion(classifier):
    task, params, batch = classifier
    settings = {"damping": 0.1, "momentum": 0.7, "decay": 0.6, "inverse_period": 3}
    expected = recursion(task, params, batch, 7, rate=0.2, **settings)
    found, state, _ = train(task, kfac(task, 0.2, fisher=exact, **settings), params, batch, 7)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected[-1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10)
    # Another momentum gives another path: the comparison is able to fail.
    other = recursion(task, params, batch, 7, rate=0.2, **settings | {"momentum": 0.69})
    assert (
        max(
            float(jnp.max(jnp.abs(x - y)))
            for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(other[-1]), strict=True)
        )
        > 1e-4
    )
    assert state.count == 7
    assert state.measured == 7


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"blocks": RowSolves()},
        {"blocks": Eigenbases()},
        {"blocks": CorrectedEigenbases()},
        {"fisher": empirical},
        {"factor_period": 3, "inverse_period": 6},
        {"limit": KLClip(1e-2)},
        {"limit": NormConstraint(0.5)},
        {"grafting": optax.sgd(0.5)},
        {"l2": 1e-3, "weight_decay": 1e-3},
        {"burn_in": 3},
        {"learning_rate": QuadraticModel(), "damping": LevenbergMarquardt(1.0, period=2)},
        {"learning_rate": lambda k: 0.3 * 0.99 ** k.astype(float), "damping": lambda k: 0.1 * 0.99 ** k.astype(float)},
    ],
    ids=lambda settings: "-".join(settings) or "default",
)
def test_every_setting_trains(classifier, settings):
    task, params, batch = classifier
    rate = settings.get("learning_rate", 0.3)
    options = {"damping": 0.05, "fisher": monte_carlo} | {k: v for k, v in settings.items() if k != "learning_rate"}
    _, state, losses = train(task, kfac(task, rate, **options), params, batch, 25)
    assert losses[-1] < 0.5 * losses[0]
    assert state.stats.rejected == 0
    assert state.stats.slope > 0


def test_row_solves_equal_whole_blocks(classifier):
    task, params, batch = classifier
    whole = train(task, kfac(task, 0.2, damping=0.1, fisher=exact), params, batch, 4)
    rows = train(task, kfac(task, 0.2, damping=0.1, fisher=exact, blocks=RowSolves()), params, batch, 4)
    for x, y in zip(jax.tree.leaves(whole[0]), jax.tree.leaves(rows[0]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-7, atol=1e-9)


def test_burn_in_moves_nothing_but_factors(classifier):
    task, params, batch = classifier
    found, state, _ = train(task, kfac(task, 0.3, damping=0.1, burn_in=3), params, batch, 3)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(x, y)
    assert state.measured == 3


def test_the_quadratic_model_predicts_the_loss_of_a_linear_model(regression):
    task, params, batch = regression
    optimizer = kfac(task, QuadraticModel(), damping=LevenbergMarquardt(0.1, period=1), fisher=exact)
    step, state = stepper(task, optimizer), optimizer.init(params)
    for _ in range(3):
        before = task.value(params, batch)
        params, state, _ = step(params, state, batch)
        change = task.value(params, batch) - before
        np.testing.assert_allclose(state.stats.predicted, change, rtol=1e-4)
        np.testing.assert_allclose(state.stats.ratio, 1.0, rtol=1e-4)
    assert state.damping < 0.1


def test_the_clip_bounds_the_divergence(classifier):
    task, params, batch = classifier
    optimizer = kfac(task, 0.5, damping=1e-3, fisher=exact, limit=KLClip(1e-4), momentum=0.0)
    grads = jax.grad(task.value)(params, batch)
    updates, state = optimizer.update(grads, optimizer.init(params), params, batch=batch)
    assert state.stats.scale < 1

    def divergence(updates):
        moved = optax.apply_updates(params, updates)
        p, q = (jax.nn.log_softmax(network(x, batch[0])) for x in (params, moved))
        return jnp.mean(jnp.sum(jnp.exp(p) * (p - q), 1))

    # <P, g> is P^T F P up to the damping, and the divergence half of that: of the order of the bound over two.
    assert divergence(updates) < 1e-4
    free = kfac(task, 0.5, damping=1e-3, fisher=exact, momentum=0.0)
    assert divergence(free.update(grads, free.init(params), params, batch=batch)[0]) > 1e-4


def test_a_gradient_that_is_not_finite_is_refused_and_counted(classifier):
    task, params, batch = classifier
    optimizer = kfac(task, 0.2, damping=0.1, fisher=exact)
    update = jax.jit(optimizer.update)
    grads = jax.grad(task.value)(params, batch)
    state = update(grads, optimizer.init(params), params, batch=batch)[1]
    broken = jax.tree.map(lambda g: g.at[(0,) * g.ndim].set(jnp.nan), grads)
    updates, after = update(broken, state, params, batch=batch)
    assert all(not np.any(u) for u in jax.tree.leaves(updates))
    assert after.stats.rejected == 1
    for x, y in zip(
        jax.tree.leaves((state.factors, state.last)), jax.tree.leaves((after.factors, after.last)), strict=True
    ):
        np.testing.assert_array_equal(x, y)
    # A loss that is not finite refuses as well, and the next good step is what it would have been.
    rejected = update(grads, after, params, batch=batch, value=jnp.asarray(jnp.inf))[1]
    assert rejected.stats.rejected == 2
    resumed, good = update(grads, rejected, params, batch=batch)
    assert good.stats.rejected == 2
    expected = update(grads, state._replace(count=rejected.count, key=rejected.key), params, batch=batch)[0]
    for x, y in zip(jax.tree.leaves(resumed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


class Broken(CholeskyInverse):
    """A solver whose answers are NaN, infinite, or point uphill."""

    def __init__(self, value):
        object.__setattr__(self, "value", value)

    def apply(self, rhs, state, key=None):
        x, info, state = super().apply(rhs, state, key)
        return self.value * x, info, state


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, 0.0])
def test_a_back_end_that_fails_does_not_lose_the_run(classifier, value):
    task, params, batch = classifier
    good = kfac(task, 0.2, damping=0.1, fisher=exact)
    state = good.update(jax.grad(task.value)(params, batch), good.init(params), params, batch=batch)[1]
    bad = kfac(task, 0.2, damping=0.1, fisher=exact, blocks=Factored(Broken(value)))
    grads = jax.grad(task.value)(params, batch)
    updates, after = bad.update(grads, state, params, batch=batch)
    assert after.stats.fallbacks == 2
    assert after.stats.rejected == 0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((updates, after.last)))
    for path, length in state.lengths.items():
        assert after.lengths[path] == length
    assert inner(updates, grads) < 0


def test_factors_measured_elsewhere_are_taken(classifier):
    task, params, batch = classifier
    optimizer = kfac(task, 0.2, damping=0.1, fisher=exact)
    grads = jax.grad(task.value)(params, batch)
    halves = [(batch[0][i::2], batch[1][i::2]) for i in (0, 1)]
    measured = [
        factors(task.model, params, x, exact(task.loss, task.outputs(params, x), y), task.layout) for x, y in halves
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *measured)
    own, _ = optimizer.update(grads, optimizer.init(params), params, batch=batch)
    given, _ = optimizer.update(grads, optimizer.init(params), params, batch=halves[0], factors=mean)
    for x, y in zip(jax.tree.leaves(own), jax.tree.leaves(given), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9)


def test_parameters_of_no_layer_go_where_they_are_sent():
    def model(params, x):
        return dense(x, params["w"]) * params["gain"][None]

    params = {"w": jnp.ones((3, 2)), "gain": jnp.ones(2)}
    x = jax.random.normal(KEY, (16, 3))
    task, batch = make_task(model, SquaredError(), params, x), (x, jnp.zeros((16, 2)))
    with pytest.raises(ValueError, match=r"no tagged layer uses the parameters \['gain'\]"):
        kfac(task, 0.1, damping=0.1)
    optimizer = kfac(task, 0.1, damping=0.1, fisher=exact, rest=optax.sgd(0.05))
    grads = jax.grad(task.value)(params, batch)
    updates, _ = optimizer.update(grads, optimizer.init(params), params, batch=batch)
    np.testing.assert_allclose(updates["gain"], -0.05 * grads["gain"], rtol=1e-12)
    assert float(jnp.linalg.norm(updates["w"] + 0.05 * grads["w"])) > 1e-3


@pytest.mark.parametrize("broken", ["gradient", "factors"])
def test_a_refused_first_step_is_made_up_for_by_the_next(classifier, broken):
    task, params, batch = classifier
    optimizer = kfac(task, 0.2, damping=0.01, fisher=exact, factor_period=3, inverse_period=5)
    start, grads = optimizer.init(params), jax.grad(task.value)(params, batch)
    bad = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), {"gradient": grads, "factors": start.factors}[broken])
    if broken == "gradient":
        updates, after = optimizer.update(bad, start, params, batch=batch)
    else:
        updates, after = optimizer.update(grads, start, params, batch=batch, factors=bad)
    assert (after.stats.rejected, after.measured, after.accepted) == (1, 0, 0)
    assert not any(np.any(u) for u in jax.tree.leaves(updates))
    resumed, state = optimizer.update(grads, after, params, batch=batch)
    assert (state.stats.rejected, state.measured, state.stats.fallbacks) == (1, 1, 0)
    expected = optimizer.update(grads, start, params, batch=batch)[0]
    for x, y in zip(jax.tree.leaves(resumed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_bad_input_is_refused_by_name(classifier, regression):
    task, params, batch = classifier
    optimizer = kfac(task, 0.1, damping=0.1)
    grads, state = jax.tree.map(jnp.ones_like, params), optimizer.init(params)
    with pytest.raises(ValueError, match="kfac needs the batch"):
        optimizer.update(grads, state, params)
    with pytest.raises(ValueError, match="kfac needs the parameters"):
        optimizer.update(grads, state, batch=batch)
    with pytest.raises(ValueError, match="trees of one structure"):
        optimizer.update(grads["first"], state, params, batch=batch)
    with pytest.raises(ValueError, match="params lacks"):
        optimizer.update(regression[1], state, regression[1], batch=batch)
    for settings, match in [
        ({"damping": 0.0}, "damping must be positive"),
        ({"damping": -1.0}, "damping must be positive"),
        ({"damping": 0.1, "inverse_period": 0}, "inverse_period must be a whole number"),
        ({"damping": 0.1, "momentum": -0.1}, "momentum must be finite and not negative"),
        ({"damping": 0.1, "blocks": CholeskyInverse()}, "blocks must have init"),
    ]:
        with pytest.raises(ValueError, match=match):
            kfac(task, 0.1, **settings)
    untagged = make_task(lambda p, x: x @ p["w"], SquaredError(), {"w": jnp.ones((3, 2))}, jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="no tagged layer"):
        kfac(untagged, 0.1, damping=0.1)


def test_one_device_and_eight_train_alike(classifier):
    task, params, batch = classifier
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    optimizer = kfac(task, 0.2, damping=0.1, fisher=exact)
    alone, _, _ = train(task, optimizer, params, batch, 4)
    several, _, _ = train(task, optimizer, everywhere, spread, 4)
    for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(several), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10)


def test_corrected_eigenbases_see_rows_in_their_present_bases(classifier):
    """Measured right after a refresh: with equal periods too the curvature is not just the product."""
    task, params, batch = classifier
    grads = jax.grad(task.value)(params, batch)
    corrected = kfac(task, 0.2, damping=0.1, fisher=exact, blocks=CorrectedEigenbases(), inverse_period=1, decay=0.0)
    product = kfac(task, 0.2, damping=0.1, fisher=exact, blocks=Eigenbases(), inverse_period=1, decay=0.0)
    state = corrected.update(grads, corrected.init(params), params, batch=batch)[1]
    plain = product.update(grads, product.init(params), params, batch=batch)[1]
    found = rows(task.model, params, batch[0], exact(task.loss, task.outputs(params, batch[0]), batch[1]), task.layout)
    for path, (a, g) in found.items():
        each = jnp.einsum("ni,ncj->ncij", a, g)
        basis = state.blocks[path]
        turned = jnp.einsum("ip,ncij,jq->ncpq", basis.p, each, basis.q)
        np.testing.assert_allclose(basis.curvature, jnp.sum(turned**2, (0, 1)) / len(a), rtol=1e-8, atol=1e-12)
        assert float(jnp.linalg.norm(basis.curvature - plain.blocks[path].curvature)) > 1e-3


def test_rows_that_are_not_finite_do_not_stay_in_corrected_eigenbases(classifier):
    task, params, (x, labels) = classifier
    optimizer = kfac(task, 0.2, damping=0.1, fisher=exact, blocks=CorrectedEigenbases())
    grads = jax.grad(task.value)(params, (x, labels))
    state = optimizer.update(grads, optimizer.init(params), params, batch=(x, labels))[1]
    nan = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), grads)
    after = optimizer.update(nan, state, params, batch=(jnp.full_like(x, jnp.nan), labels))[1]
    for path, basis in state.blocks.items():
        np.testing.assert_array_equal(after.blocks[path].curvature, basis.curvature)
