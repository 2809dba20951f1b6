"""Prices after a run: every verb against what its run moved, counted by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermolinalg as tla

KEY, D = jax.random.key(5), 4
NUMBER = 16 / 50e9
DEVICE = tla.Device(
    beta=100.0, matrix_dac=tla.Converter(24, joules=1e-9), force_dac=tla.Converter(24, joules=1e-9), idle_power=0.1
)
MATRIX = np.diag([1.0, 2.0, 3.0, 4.0]) + 0.1
SLANTED = jnp.asarray(MATRIX + np.triu(np.full((D, D), 0.2), 1))


@pytest.fixture(scope="module")
def program():
    return DEVICE.program(jnp.asarray(MATRIX))


def busy(ledger):
    """Time constants in which the device runs."""
    return ledger.analog / DEVICE.time_constant


def operations(ledger):
    return ledger.joules.digital / tla.Host().joules


def moved(ledger):
    """Numbers that are programmed, loaded and read; operations of the host."""
    return [*(getattr(ledger, part) / NUMBER for part in ("program", "load", "read")), operations(ledger)]


@pytest.mark.parametrize("columns", [None, 3])
def test_a_solution_costs_what_its_plan_said(program, columns):
    b = jnp.ones(D) if columns is None else jnp.ones((D, columns))
    plan = tla.Plan(5.0, 100.0, 50, clock=2.0, replicas=2)
    x = tla.solve(program, b, key=KEY, plan=plan)
    count = columns or 1
    ledger = tla.cost_of(x, program, writes=0)
    assert ledger == tla.cost(plan, DEVICE, dim=D, columns=count, writes=0) == tla.cost_of(x, DEVICE, writes=0)
    assert moved(ledger) == pytest.approx([0, 2 * D * count, 2 * 50 * D * count, 2 * 50 * D * count])
    assert busy(ledger) == pytest.approx(count * 210)
    assert tla.cost_of(x, program).joules.convert == pytest.approx(2 * (D**2 + D * count) * 1e-9)


def test_a_complex_solution_has_two_numbers_in_a_cell():
    plan = tla.Plan(5.0, 100.0)
    x = tla.solve(jnp.asarray(MATRIX + 0j), jnp.ones(D, complex), key=KEY, plan=plan)
    ledger, real = tla.cost_of(x), tla.cost(plan, dim=D)
    assert moved(ledger) == pytest.approx([2 * D**2, 2 * D, 2 * D, 0])
    assert ledger.joules.analog == real.joules.analog


@pytest.mark.parametrize("samples", [None, 4000])
def test_an_inverse(program, samples):
    C = tla.inv(program, key=KEY, plan=tla.Plan(5.0, 4000.0, samples))
    wanted = [D**2, 0, *((D * (D + 1) / 2, 0) if samples is None else (D * samples, 2 * samples * D**2))]
    assert moved(tla.cost_of(C, program)) == pytest.approx(wanted)


def test_drifts_with_noise_of_their_own():
    plan = tla.Plan(5.0, 4000.0, 800, clock=1.5)
    X, E = tla.lyapunov(SLANTED, jnp.eye(D), key=KEY, plan=plan), tla.expm(-SLANTED, 0.3, key=KEY, plan=plan)
    for answer, states, noise in ((X, 1, D**2), (E, 2, 0)):
        ledger = tla.cost_of(answer)
        assert moved(ledger) == pytest.approx([D**2, noise, states * 800 * D, 2 * 800 * D**2])
        assert busy(ledger) == pytest.approx(1.5 * 4005)


def test_a_matrix_without_symmetry_may_need_its_normal_equations():
    b, plan = jnp.ones((D, 2)), tla.Plan(5.0, 100.0)
    direct, normal = (tla.solve(tla.General(A), b, key=KEY, plan=plan) for A in (SLANTED, -SLANTED))
    prices = [moved(tla.cost_of(x)) for x in (direct, normal)]
    assert prices[0] == pytest.approx([D**2, 2 * D, 2 * D, 0])
    assert prices[1] == pytest.approx([D**2, 2 * D, 2 * D, 2 * D**3 + 2 * D**2 * 2])


def test_samples_are_the_answer_and_nothing_is_added_up(program):
    plan = tla.Plan(0.0, 100.0, 70)
    for b, loaded in ((None, 0), (jnp.ones(D), D)):
        x = tla.gaussian(program, b, key=KEY, plan=plan)
        assert moved(tla.cost_of(x, program)) == pytest.approx([D**2, loaded, 70 * D, 0])


def test_a_log_determinant_writes_its_couplings_again(program):
    answer = tla.logdet(program, key=KEY, samples=400)
    nodes, samples = int(answer.stats["nodes"]), int(np.sum(answer.stats["samples"]))
    ledger = tla.cost_of(answer, program)
    assert nodes > 1
    assert moved(ledger) == pytest.approx([nodes * D**2, 0, samples * D, 2 * samples * D**2])
    top = max(np.linalg.eigvalsh(MATRIX)[-1], float(answer.stats["reference"]))
    assert busy(ledger) == pytest.approx(float(answer.stats["device_time"]) * top, rel=1e-6)
    with pytest.raises(ValueError, match="give device="):
        tla.cost_of(answer, DEVICE)


def test_refinement_pays_for_every_step_and_residual(program):
    x = tla.refine.solve(program, jnp.ones((D, 2)), key=KEY, rtol=1e-6)
    runs, products = (int(np.sum(x.stats[name])) for name in ("steps", "matvecs"))
    ledger = tla.cost_of(x, program)
    assert runs > 2
    assert moved(ledger) == pytest.approx([D**2, runs * D, runs * D, 2 * products * D**2])
    assert busy(ledger) == pytest.approx(float(np.sum(x.stats["time_constants"])), rel=1e-6)
    nothing = tla.refine.solve(program, jnp.zeros(D), key=KEY, rtol=1e-6)
    assert int(nothing.stats["steps"]) == 0
    assert moved(tla.cost_of(nothing, program))[:3] == pytest.approx([D**2, 0, 0])


def test_a_refined_inverse_and_what_it_preconditions(program):
    C = tla.refine.inv(DEVICE.program(jnp.asarray(MATRIX)), key=KEY, rtol=1e-6)
    ledger = tla.cost_of(C, program)
    assert moved(ledger) == pytest.approx([D**2, 0, D * (D + 1) / 2, float(C.stats["products"]) * 2 * D**3])
    x = tla.refine.pcg(jnp.asarray(MATRIX), jnp.ones(D), C, rtol=1e-8)
    steps = tla.cost_of(x, program)
    assert moved(steps) == pytest.approx([0, 0, 0, 4 * int(x.stats["matvecs"]) * D**2])
    assert (steps.analog, (ledger + steps).analog) == (0.0, ledger.analog)
    plain = tla.refine.conjugate_gradients(jnp.asarray(MATRIX), jnp.ones(D), reference=x.value, rtol=1e-5)
    assert operations(tla.cost_of(plain)) == pytest.approx(2 * int(plain.stats["matvecs"]) * D**2)


def test_another_run_has_another_price(program):
    """The mutation: a bill that forgot what was run would not notice."""
    x = tla.solve(program, jnp.ones(D), key=KEY, plan=tla.Plan(5.0, 100.0, 50, clock=2.0))
    other = replace(x, stats=x.stats | {"plan": tla.Plan(5.0, 101.0, 51, clock=2.0)})
    first, second = (tla.cost_of(solution, program) for solution in (x, other))
    assert abs(moved(second)[2] / moved(first)[2] - 1) > 0.01
    assert second.energy > first.energy


def test_what_tells_nothing_of_its_run_has_no_price(program):
    with pytest.raises(ValueError, match=r"thermolinalg\.cost"):
        tla.cost_of(tla.gaussian(program, key=KEY, samples=5), program)
    lost = tla.refine.conjugate_gradients(jnp.asarray(MATRIX), jnp.ones(D), reference=jnp.ones(D), rtol=1e-5)
    with pytest.raises(ValueError, match="did not reach"):
        tla.cost_of(lost)
    x = tla.solve(program, jnp.ones(D), key=KEY, plan=tla.Plan(5.0, 100.0))
    with pytest.raises(ValueError, match="batch of 3"):
        tla.cost_of(jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 3), x))
    with pytest.raises(ValueError, match="writes"):
        tla.cost_of(x, program, writes=-1)
    with pytest.raises(ValueError, match="jit"):
        jax.jit(lambda y: tla.cost_of(y, program).total)(x)
