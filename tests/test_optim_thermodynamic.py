"""The thermodynamic lane: limits, carried states and delays, noise, converters, prices, statuses."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from thermolinalg.converters import Converter
from thermolinalg.device import Device
from thermolinalg.optim.dual import Dual
from thermolinalg.optim.gram_functions import KrylovSpace
from thermolinalg.optim.lanes import Problem
from thermolinalg.optim.layers import dense
from thermolinalg.optim.loading import relaxation_cost
from thermolinalg.optim.losses import CrossEntropy, SquaredError
from thermolinalg.optim.ngd import ngd
from thermolinalg.optim.products import dense_ggn
from thermolinalg.optim.solvers import Code
from thermolinalg.optim.task import task as make_task
from thermolinalg.optim.thermodynamic import Thermodynamic
from thermolinalg.optim.trust import inner

KEY = jax.random.key(4)


def network(params, x):
    return dense(jnp.tanh(dense(x, params["w"], params["b"])), params["v"])


@pytest.fixture(scope="module")
def classifier():
    k = jax.random.split(KEY, 3)
    params = {"w": jax.random.normal(k[0], (5, 4)) / 2, "b": jnp.zeros(4), "v": jax.random.normal(k[1], (4, 3)) / 2}
    x = jax.random.normal(k[2], (6, 5))
    task, batch = make_task(network, CrossEntropy(), params, x), (x, jnp.argmax(x[:, :3], 1))
    return task, params, batch, jax.grad(task.value)(params, batch)


@pytest.fixture(scope="module")
def line():
    """Linear models whose curvature is known, one for each step."""
    rng = np.random.default_rng(1)
    x, y, w = rng.standard_normal((3, 4, 6)), rng.standard_normal((3, 4, 1)), rng.standard_normal((6, 1))
    return make_task(lambda w, x: x @ w, SquaredError(), jnp.asarray(w), jnp.asarray(x[0])), x, y, w


@partial(jax.jit, static_argnums=(0, 1))
def go(lane, task, params, batch, grads, state, damping, key):
    return lane.step(Problem(task, params, batch, grads, damping), state, key)


def step(lane, classifier, damping, state=None, key=KEY, gradient=None):
    task, params, batch, grads = classifier
    grads = grads if gradient is None else gradient
    return go(
        lane, task, params, batch, grads, lane.init(params) if state is None else state, jnp.asarray(damping), key
    )


def flat(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def relative(x, y):
    return np.linalg.norm(flat(x) - flat(y)) / np.linalg.norm(flat(y))


@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_a_long_time_is_the_dual_and_none_is_the_gradient(classifier, damping):
    exact = step(Dual(), classifier, damping)[0]
    for engine in (None, KrylovSpace(1e-12, 18)):
        x, info, _ = step(Thermodynamic(1e6, engine=engine), classifier, damping)
        assert relative(x, exact) < 1e-9
        assert int(info.code) == Code.OK
        assert float(info.residual) < 1e-9
    x, info, _ = step(Thermodynamic(1e-9), classifier, damping)
    assert relative(x, classifier[3]) < 1e-8
    assert int(info.code) == Code.UNRELAXED
    assert relative(x, exact) > 0.1


def test_a_gradient_from_elsewhere(classifier):
    grads = jax.tree.map(lambda g: 0.3 * jnp.sign(g), classifier[3])
    exact = step(Dual(), classifier, 0.1, gradient=grads)[0]
    assert relative(step(Thermodynamic(1e4), classifier, 0.1, gradient=grads)[0], exact) < 1e-10
    assert relative(step(Thermodynamic(1e4), classifier, 0.1)[0], exact) > 0.1


def test_longer_is_closer(classifier):
    exact = step(Dual(), classifier, 0.01)[0]
    found = [step(Thermodynamic(t), classifier, 0.01) for t in (5.0, 10.0, 20.0, 50.0)]
    gaps = [relative(x, exact) for x, _, _ in found]
    left = [float(state.unrelaxed) for _, _, state in found]
    assert gaps == sorted(gaps, reverse=True)
    assert left == sorted(left, reverse=True)
    codes = [int(info.code) == Code.UNRELAXED for _, info, _ in found]
    assert codes == [share > 0.1 for share in left]


@pytest.mark.parametrize("included", [True, False], ids=["included", "on top"])
def test_carried_state_and_delay(line, included):
    """Against the formula of the delay with matrix exponentials, over curvatures that change."""
    task, xs, ys, w = line
    lam, t, delay = 0.1, 0.8, 0.3
    lane = Thermodynamic(t, carry_state=True, delay=delay, delay_included=included)
    state, average, old = lane.init(jnp.asarray(w)), None, None
    fresh = t - delay if included else t
    for x, y in zip(xs, ys, strict=True):
        batch = jnp.asarray(x), jnp.asarray(y)
        small = task, jnp.asarray(w), batch, jax.grad(task.value)(jnp.asarray(w), batch)
        found, info, state = step(lane, small, lam, state)
        F, g = x.T @ x / 4 + lam * np.eye(6), (x.T @ (x @ w - y) / 4)[:, 0]

        def relaxed(F, g, start, time):
            E = expm(-F * time)
            return E @ start + np.linalg.solve(F, (np.eye(6) - E) @ g)

        average = g if old is None else relaxed(*old, average, delay)
        average = relaxed(F, g, average, fresh)
        np.testing.assert_allclose(found[:, 0], average, rtol=0, atol=1e-12)
        assert float(info.steps) == pytest.approx(fresh + delay)
        old = F, g
    # The other reading of the delay is another result.
    wrong = relaxed(F, g, average, 1e-2)
    assert np.abs(found[:, 0] - wrong).max() > 1e-4


def test_noise_is_as_large_as_is_said(classifier):
    """Root mean square of the noise against trace of its covariance, and `stderr`; warmer is noisier."""
    task, params, batch, grads = classifier
    lam, t, kappa = 0.3, 2.0, 1e-3
    lane = Thermodynamic(t, temperature=kappa)
    quiet = flat(step(Thermodynamic(t), classifier, lam)[0])

    @jax.jit
    @jax.vmap
    def draw(key):
        x, info, _ = lane.step(Problem(task, params, batch, grads, jnp.asarray(lam)), lane.init(params), key)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(x)]), info.stderr

    x, stderr = draw(jax.random.split(KEY, 2000))
    rates = np.linalg.eigvalsh(np.asarray(dense_ggn(task, params, batch))) + lam
    variances = kappa * -np.expm1(-2 * rates * t) / rates
    squares = np.sum((np.asarray(x) - quiet) ** 2, 1)
    error = np.sqrt(2 * np.sum(variances**2) / 2000)
    assert abs(squares.mean() - variances.sum()) < 4 * error
    assert abs(squares.mean() - 1.2 * variances.sum()) > 4 * error
    told = (np.asarray(stderr) * np.linalg.norm(x, axis=1)) ** 2
    assert abs(told.mean() - variances.sum()) < 4 * error


def test_carried_noise_stays_below_its_bound(classifier):
    lane = Thermodynamic(1.0, carry_state=True, delay=0.5, temperature=1e-3)
    state, bounds = None, []
    for k in range(4):
        _, _, state = step(lane, classifier, 0.5, state, jax.random.fold_in(KEY, k))
        bounds.append(float(state.noise))
    count = flat(classifier[1]).size
    assert bounds[0] < bounds[1] < bounds[3]
    assert bounds[3] < np.sqrt(1e-3 / 0.5 * count) * 1.1


def test_more_bits_are_better(line):
    """Of couplings, right-hand side and read-out, one by one, by seven bits."""
    task, x, y, w = line
    batch = jnp.asarray(x[0]), jnp.asarray(y[0])
    small = task, jnp.asarray(w), batch, jax.grad(task.value)(jnp.asarray(w), batch)
    exact = step(Thermodynamic(50.0, device=Device()), small, 0.05)[0]
    for name in ("matrix_dac", "force_dac", "adc"):
        gaps = []
        for bits in (5, 12):
            device = replace(Device(), **{name: Converter(bits=bits)})
            x, info, _ = step(Thermodynamic(50.0, device=device), small, 0.05)
            gaps.append(relative(x, exact))
            assert int(info.code) == Code.OK
        assert 32 * gaps[1] < gaps[0], name


def test_prices():
    """The example of the paper: b = 32, 20 outputs, 1e5 parameters."""
    ledger = relaxation_cost(50.0, rows=640, parameters=100_000)
    numbers = 640 * (640 + 2 * 100_000)
    assert ledger.program == pytest.approx(numbers * 16 / 50e9)
    assert ledger.load == pytest.approx(32e-6)
    assert ledger.read == pytest.approx(32e-6)
    assert ledger.analog == pytest.approx(50e-6)
    assert ledger.total == pytest.approx(41.2e-3, rel=2e-3)
    dear = relaxation_cost(50.0, Device(matrix_dac=Converter()), rows=640, parameters=100_000)
    assert dear.total > ledger.total
    assert dear.joules.convert > 0


def test_a_step_is_priced(classifier):
    _, info, _ = step(Thermodynamic(7.0), classifier, 0.1)
    rows = classifier[0].loss.root(jnp.zeros((6, 3)), classifier[2][1]).shape[0] * 6
    ledger = relaxation_cost(7.0, rows=rows, parameters=flat(classifier[1]).size)
    assert float(info.seconds) == pytest.approx(ledger.total)
    assert float(info.joules) == pytest.approx(ledger.energy)


def test_what_is_not_finite_is_not_carried(classifier):
    lane = Thermodynamic(1.0, carry_state=True)
    _, _, state = step(lane, classifier, 0.1)
    broken = jax.tree.map(lambda g: g * jnp.nan, classifier[3])
    _, info, after = step(lane, classifier, 0.1, state, gradient=broken)
    assert int(info.code) == Code.NOT_FINITE
    np.testing.assert_array_equal(flat(after.carried), flat(state.carried))


def test_bad_input_is_refused(classifier):
    for options, match in [
        ({"time": 0.0}, "time"),
        ({"time": 1.0, "delay": 0.5}, "carry_state"),
        ({"time": 1.0, "delay": 2.0, "carry_state": True}, "delay must be"),
        ({"time": 1.0, "temperature": -1.0}, "temperature"),
        ({"time": 1.0, "tolerance": 2.0}, "tolerance"),
    ]:
        with pytest.raises(ValueError, match=match):
            Thermodynamic(**options)
    with pytest.raises(ValueError, match="cells"):
        step(Thermodynamic(1.0, device=Device(cells=3)), classifier, 0.1)


def test_a_state_that_points_uphill_is_kept(classifier):
    """After the gradient has turned round, what is carried still points along the old one, and that is no failure."""
    task, params, batch, grads = classifier
    optimizer = ngd(task, 0.1, damping=1.0, lane=Thermodynamic(0.3, carry_state=True))
    update = jax.jit(lambda g, s: optimizer.update(g, s, params, batch=batch))
    _, state = update(grads, optimizer.init(params))
    turned = jax.tree.map(jnp.negative, grads)
    updates, state = update(turned, state)
    assert float(inner(updates, turned)) > 0
    assert int(state.stats.fallbacks) == 0
    # One that remembers nothing follows the gradient.
    cold = ngd(task, 0.1, damping=1.0, lane=Thermodynamic(0.3))
    updates, _ = cold.update(turned, cold.init(params), params, batch=batch)
    assert float(inner(updates, turned)) < 0
