"""A host and a device that never stops: the clock, and what it does to the optimizer's result."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import expm

from thermolinalg.device import Device
from thermolinalg.hybrid import Round
from thermolinalg.optim.asynchronous import descend, overlap
from thermolinalg.optim.lanes import Problem
from thermolinalg.optim.loading import relaxation_cost
from thermolinalg.optim.losses import SquaredError
from thermolinalg.optim.task import task as make_task
from thermolinalg.optim.thermodynamic import Thermodynamic

RATE, DAMPING, ROUNDS = 0.3, 0.1, 5
ROUND = Round(host=0.25e-6, load=0.1e-6, relax=0.6e-6, read=0.05e-6)


@pytest.fixture(scope="module")
def line():
    rng = np.random.default_rng(3)
    x, y, w = rng.standard_normal((ROUNDS, 4, 6)), rng.standard_normal((ROUNDS, 4, 1)), rng.standard_normal((6, 1))
    return make_task(lambda w, x: x @ w, SquaredError(), jnp.asarray(w), jnp.asarray(x[0])), x, y, w


def simulate(line, delays, loaded, lags):
    """Parameters after the last round, in NumPy."""
    _, xs, ys, w = line
    made, y, old = [w[:, 0]], None, None

    def relaxed(F, g, start, time):
        E = expm(-F * time)
        return E @ start + np.linalg.solve(F, (np.eye(6) - E) @ g)

    for k, (x, target) in enumerate(zip(xs, ys, strict=True)):
        at = made[k - lags[k]]
        F, g = x.T @ x / 4 + DAMPING * np.eye(6), x.T @ (x @ at - target[:, 0]) / 4
        y = g if old is None else relaxed(*old, y, delays[k])
        y, old = relaxed(F, g, y, loaded[k]), (F, g)
        made.append(made[k] - RATE * y)
    return made[-1]


def batches(line):
    return list(zip(jnp.asarray(line[1]), jnp.asarray(line[2]), strict=True))


def test_the_clock():
    run = overlap(ROUND, 8)
    assert run.delays[0] == 0
    np.testing.assert_allclose(run.delays[1:], 0.4, rtol=1e-9)
    np.testing.assert_allclose(run.loaded, 0.6, rtol=1e-9)
    assert run.round_seconds == pytest.approx(ROUND.total)
    assert run.hidden == pytest.approx(1)
    # Without overlap host and link would come on top of the same analog time.
    apart = run.analog_time[-1] * 1e-6 + ROUND.total - ROUND.relax
    assert run.round_seconds == pytest.approx(apart / 1.4)
    ahead = overlap(ROUND, 8, staleness=1, buffers=1)
    assert set(ahead.pipeline.used[2:]) == {1}
    assert ahead.round_seconds < run.round_seconds
    assert ahead.delays[-1] < run.delays[-1]
    slow = overlap(ROUND, 8, Device(time_constant=1e-7))
    np.testing.assert_allclose(slow.delays[1:], 4.0, rtol=1e-9)


def test_rounds_of_a_priced_device():
    ledger = relaxation_cost(2.0, rows=8, parameters=100)
    run = overlap(Round.of(ledger, 5e-6), 6)
    host_and_link = 5e-6 + ledger.program + ledger.load + ledger.read
    assert run.delays[-1] == pytest.approx(host_and_link / 1e-6)
    assert run.analog_time[-1] == pytest.approx(2.0 + host_and_link / 1e-6)


@pytest.mark.parametrize("staleness", [0, 1])
def test_descent_follows_the_law_of_the_delay(line, staleness):
    run = overlap(ROUND, ROUNDS, staleness=staleness)
    task, _, _, w = line
    found = descend(task, jnp.asarray(w), batches(line), run, learning_rate=RATE, damping=DAMPING)
    exact = simulate(line, run.delays, run.loaded, run.pipeline.used)
    np.testing.assert_allclose(found.params[:, 0], exact, rtol=0, atol=1e-12)
    # As if the device had been held in between.
    held = simulate(line, [0.0] * ROUNDS, run.loaded, run.pipeline.used)
    assert np.abs(found.params[:, 0] - held).max() > 1e-2
    if staleness:
        fresh = simulate(line, run.delays, run.loaded, [0] * ROUNDS)
        assert np.abs(found.params[:, 0] - fresh).max() > 1e-2
    assert found.seconds[-1] == pytest.approx(run.pipeline.timeline.makespan)
    assert len(found.losses) == ROUNDS


def test_it_is_the_lane_with_a_delay(line):
    task, _, _, w = line
    run = overlap(ROUND, ROUNDS)
    found = descend(task, jnp.asarray(w), batches(line), run, learning_rate=RATE, damping=DAMPING)
    lane = Thermodynamic(run.loaded[1], carry_state=True, delay=run.delays[1], delay_included=False)
    params = jnp.asarray(w)
    state = lane.init(params)

    @jax.jit
    def step(params, state, batch):
        g = jax.grad(task.value)(params, batch)
        x, _, state = lane.step(Problem(task, params, batch, g, jnp.asarray(DAMPING)), state, jax.random.key(0))
        return optax.apply_updates(params, -RATE * x), state

    for batch in batches(line):
        params, state = step(params, state, batch)
    np.testing.assert_allclose(found.params, params, rtol=0, atol=1e-12)


def test_bad_input_is_refused(line):
    task, _, _, w = line
    run = overlap(ROUND, ROUNDS)
    with pytest.raises(ValueError, match="batches ran out after 0 of 5"):
        descend(task, jnp.asarray(w), [], run, learning_rate=RATE, damping=DAMPING)
    with pytest.raises(ValueError, match="damping"):
        descend(task, jnp.asarray(w), [], run, learning_rate=RATE, damping=0.0)
    with pytest.raises(ValueError, match="rounds"):
        overlap(ROUND, 0)
