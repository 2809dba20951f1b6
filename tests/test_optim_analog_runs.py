"""Devices as solvers over many steps: what they remember, what they plan, and what they cost."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from problems import system

import thermolinalg as tla
from thermolinalg import Converter, Device, Law, Plan
from thermolinalg.optim.analog import ThermodynamicInverse, ThermodynamicSolve
from thermolinalg.optim.iterative import WarmStart
from thermolinalg.optim.solvers import usable

D, DAMPING = 6, 0.05
A, B, _ = system(D, 20.0, 0)
TRUTH = np.linalg.solve(np.asarray(A) + DAMPING * np.eye(D), np.asarray(B))
KEYS = jax.random.split(jax.random.key(7), 1000)
SAMPLED = Device(simulator=Law(long_time=True))
WISHART = ThermodynamicInverse(Plan(200.0, 1e5, samples=2000), device=SAMPLED)


@partial(jax.jit, static_argnums=0)
def twice(solver, rhs, key):
    """The first and the second answer of one preparation."""
    write, first, second = jax.random.split(key, 3)
    state = solver.prepare(A, DAMPING, solver.init(A), write)
    x, info, state = solver.apply(rhs, state, first)
    y, again, _ = solver.apply(rhs, state, second)
    return (x, info), (y, again)


# Memory and warm starts.


@partial(jax.jit, static_argnums=(0, 3))
def remembered(solver, matrices, key, count):
    keys = jax.random.split(key, count)

    def step(state, given):
        matrix, own = given
        state = solver.prepare(matrix, DAMPING, state, own)
        x, info, state = solver.apply(B, state, own)
        return state, (x, info)

    return jax.lax.scan(step, solver.init(A), (matrices, keys))[1]


def test_memory_reduces_the_variance_as_derived():
    memory, count = 0.5, 8
    solver = ThermodynamicInverse(WISHART.plan, device=SAMPLED, memory=memory)
    stack = jnp.broadcast_to(A, (count, D, D))
    x, info = jax.vmap(lambda key: remembered(solver, stack, key, count))(KEYS)
    # Weights m^(n-k) over their sum W_n = (1 - m^n)/(1 - m): sum of squares.
    n = np.arange(1, count + 1)
    factor = (1 - memory ** (2 * n)) / (1 - memory**2) / ((1 - memory**n) / (1 - memory)) ** 2
    assert abs(factor[-1] - (1 - memory) / (1 + memory)) < 0.01
    mean_square = np.mean(np.sum((np.asarray(x) - TRUTH) ** 2, 2), 0)
    stderr = np.mean(np.asarray(info.stderr, float) ** 2, 0)
    np.testing.assert_allclose(stderr / stderr[0], factor, rtol=0.03)
    # Five standard errors of a ratio of two means, which are independent or nearly so.
    square = np.sum((np.asarray(x) - TRUTH) ** 2, 2)
    room = 5 * np.sqrt(2) * np.max(square.std(0) / mean_square) / len(KEYS) ** 0.5
    assert room < 0.3
    assert np.all(np.abs(mean_square / mean_square[0] / factor - 1) < room)
    assert abs(mean_square[-1] / mean_square[0] - 1) > 2 * room  # without memory nothing would be gained


def test_memory_is_in_the_units_of_the_matrix_and_skips_failures():
    memory = ThermodynamicInverse(Plan(1e9, 1e9, samples=1e30), device=SAMPLED, memory=0.5)
    stack = jnp.stack([A, 4096.0 * A, A.at[0, 0].set(jnp.nan)])
    x, info = remembered(memory, stack, KEYS[0], 3)
    big = np.linalg.solve(4096 * np.asarray(A) + DAMPING * np.eye(D), np.asarray(B))
    np.testing.assert_allclose(x[1], (TRUTH + 2 * big) / 3, rtol=1e-9)
    np.testing.assert_allclose(x[2], x[1], rtol=1e-9)
    assert [bool(usable(code)) for code in info.code] == [True, True, False]


def test_a_warm_run_continues():
    """From the end of a run that was at the solution, no burn-in is needed; from rest it is."""
    cold, warm = (ThermodynamicSolve(Plan(0.0, 5.0), device=Device(beta=1e12), warm=w) for w in (None, WarmStart()))

    @partial(jax.jit, static_argnums=0)
    def walk(solver, key):
        def step(state, own):
            state = solver.prepare(A, DAMPING, state, own)
            x, info, state = solver.apply(B, state, own)
            return state, (x, info)

        return jax.lax.scan(step, solver.init(A), jax.random.split(key, 60))[1]

    (x, _), (y, info) = (walk(solver, KEYS[0]) for solver in (cold, warm))
    off = [np.linalg.norm(z[-1] - TRUTH) / np.linalg.norm(TRUTH) for z in (x, y)]
    assert off[0] > 0.2
    assert off[1] < 1e-4
    # The standard error knows what is left of the start.
    errors = np.linalg.norm(np.asarray(y) - TRUTH, axis=1) / np.linalg.norm(np.asarray(y), axis=1)
    np.testing.assert_allclose(np.asarray(info.stderr)[:5], errors[:5], rtol=0.05)


def test_states_are_steady_and_nothing_is_compiled_twice():
    traces = []
    unit = 2.0**-100
    for solver in (WISHART, ThermodynamicSolve(Plan(1e3, 1e3), device=Device(beta=1e6), warm=WarmStart())):
        traces.clear()

        @jax.jit
        def step(state, matrix, key, solver=solver):
            traces.append(1)
            state = solver.prepare(matrix, jnp.float32(DAMPING * unit), state, key)
            x, info, state = solver.apply(B.astype(jnp.float32), state, key)
            return x, info, state

        state = solver.init(jax.ShapeDtypeStruct((D, D), jnp.float32))
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
        for factor in (3.0, 2.0, 1.0):
            x, info, state = step(state, (factor * unit * A).astype(jnp.float32), KEYS[0])
            assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
        assert x.dtype == jnp.float32
        assert len(traces) == 1
        # Numbers of the scale 2^100, whose squares overflow in single precision.
        off = np.linalg.norm(np.asarray(x, float) * unit - TRUTH) / np.linalg.norm(TRUTH)
        assert off < 6 * float(info.stderr) + 1e-4


# Plans and prices.


def test_a_tolerance_is_kept_and_priced():
    solver = ThermodynamicSolve(rtol=0.05, device=Device(beta=1e3))
    (x, first), (_, second) = jax.vmap(lambda key: twice(solver, B, key))(KEYS[:40])
    error = np.linalg.norm(np.asarray(x) - TRUTH, axis=1) / np.linalg.norm(TRUTH)
    # Forty runs at 0.95: nine misses or more happen once in ten thousand times.
    assert np.sum(error > 0.05) < 9
    # What is planned under jit costs what the ledger says of such a plan.
    plan = Plan(0.0, float(first.steps[0]))
    whole, run = (tla.cost(plan, solver.device, dim=D, writes=n) for n in (1, 0))
    np.testing.assert_allclose([first.seconds[0], first.joules[0]], [whole.total, whole.energy], rtol=1e-4)
    np.testing.assert_allclose([second.seconds[0], second.joules[0]], [run.total, run.energy], rtol=1e-4)


def test_a_tolerance_of_an_inverse():
    solver = ThermodynamicInverse(rtol=0.1)
    (x, info), _ = twice(solver, B, KEYS[0])
    # Ten per cent of an inverse whose condition number is below 20.
    assert np.linalg.norm(x - TRUTH) / np.linalg.norm(TRUTH) < 20 * 0.1
    ledger = tla.cost_moments(Plan(0.0, float(info.steps)), dim=D)
    np.testing.assert_allclose([info.seconds, info.joules], [ledger.total, ledger.energy], rtol=1e-4)


def test_seconds_and_joules_are_those_of_the_ledger_and_are_paid_once():
    device = Device(beta=1e3, matrix_dac=Converter(bits=8), idle_power=0.5)
    solver = ThermodynamicSolve(Plan(50.0, 100.0), device=device)
    (_, first), (_, second) = twice(solver, jnp.stack([B, B], axis=1), KEYS[0])
    whole = tla.cost(solver.plan, device, dim=D, columns=2)
    run = tla.cost(solver.plan, device, dim=D, columns=2, writes=0)
    np.testing.assert_allclose([first.seconds, first.joules], [whole.total, whole.energy], rtol=1e-5)
    np.testing.assert_allclose([second.seconds, second.joules], [run.total, run.energy], rtol=1e-5)
    assert float(first.steps) == 150
    (_, first), (_, second) = twice(WISHART, B, KEYS[0])
    ledger = tla.cost_moments(WISHART.plan, SAMPLED, dim=D)
    np.testing.assert_allclose([first.seconds, first.joules], [ledger.total, ledger.energy], rtol=1e-5)
    assert float(second.seconds) == float(second.joules) == float(second.steps) == 0
