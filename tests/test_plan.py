import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import system

import thermolinalg as tla
from thermolinalg.testing import assert_coverage, spd_matrices

RUNS = 2000


@pytest.fixture(scope="module")
def coverage():
    """Fraction of runs within rtol, for a plan."""

    @jax.jit
    def hits(program, b, x, plan):
        keys = jax.random.split(jax.random.key(7), RUNS)
        values = jax.vmap(lambda key: tla.solve(program, b, key=key, plan=plan).value)(keys)
        error = jnp.linalg.norm(values - x[None], axis=1)
        return error <= plan.rtol * jnp.linalg.norm(x)

    return lambda program, b, x, plan: np.asarray(hits(program, b, jnp.asarray(x), plan))


@pytest.mark.parametrize("dynamics", [tla.Overdamped(), tla.Underdamped()])
@pytest.mark.parametrize(("beta", "at_most"), [(1.0, 0.975), (1e4, None)])
def test_confidence_is_kept_and_not_wasted(coverage, dynamics, beta, at_most):
    A, b, x = system(kappa=100.0)
    program = tla.Device(beta=beta, dynamics=dynamics).program(A)
    plan = tla.plan.solve(program, b, rtol=0.05, confidence=0.95)
    # Where noise dominates, 5 % more time than needed shows as a coverage of 0.96. With little noise the error is all
    # transient and the coverage jumps from 0 to 1 within a few per cent of the time: no waste can be read off it.
    assert_coverage(coverage(program, b, x, plan), 0.95, at_most=at_most)


def test_the_coverage_test_sees_a_shorter_run(coverage):
    A, b, x = system(kappa=100.0)
    program = tla.Device(beta=1.0).program(A)
    plan = tla.plan.solve(program, b, rtol=0.05)
    short = tla.Plan(plan.burn_in * 0.7, plan.duration * 0.7, rtol=0.05)
    with pytest.raises(AssertionError):
        assert_coverage(coverage(program, b, x, short), 0.95)


def test_no_other_split_keeps_the_promise_sooner():
    """Walk along the splits by hand, with the exact tail, around the plan."""
    from thermolinalg.convergence import Problem, inverted_tail
    from thermolinalg.simulators import Schedule

    A, b, _ = system(kappa=50.0)
    machine = tla.Device(beta=3.0).program(A).machine
    plan = tla.plan.solve(A, b, rtol=0.03, device=tla.Device(beta=3.0))
    problem = Problem.of(machine, b[:, None], b[:, None])

    @jax.jit
    def tail(total, share):
        error = problem.law(machine, Schedule(total * share, total * (1 - share)))
        return inverted_tail(error.over(jnp.asarray(0.03)))[0]

    shares = jnp.linspace(0.0, 0.99, 100)
    # 3 % below the plan no split reaches the confidence: the plan is within 3 % of the least time.
    assert float(jnp.min(jax.vmap(lambda share: tail(0.97 * plan.total, share))(shares))) > 0.05
    assert float(tail(plan.total, plan.burn_in / plan.total)) <= 0.05


def test_a_guaranteed_plan_is_longer_and_keeps_more(coverage):
    A, b, x = system()
    program = tla.Device().program(A)
    plain = tla.plan.solve(program, b, rtol=0.05)
    sure = tla.plan.solve(program, b, rtol=0.05, guaranteed=True)
    # One mode is the worst case: the bound (1 + 2 sqrt L + 2 L) over the quantile of chi-square with one degree, 2.72.
    assert 1.0 < float(sure.total / plain.total) < 2.75
    assert_coverage(coverage(program, b, x, sure), 0.95)


@given(
    A=spd_matrices(dims=st.just(6), kappas=st.sampled_from([1.0, 30.0, 1e3])), signal=st.sampled_from([3.0, 30.0, 1e3])
)
def test_plans_keep_their_promise_for_all_kinds_of_spectra(coverage, A, signal):
    b = jnp.asarray(signal * np.linspace(-1, 1, 6))
    program = tla.Device().program(jnp.asarray(A))
    plan = tla.plan.solve(program, b, rtol=0.05)
    assert_coverage(coverage(program, b, np.linalg.solve(A, b), plan), 0.95)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_times_scale_with_the_inverse_of_the_matrix(scale):
    A, b, _ = system()
    reference = tla.plan.solve(A, b, rtol=0.05)
    plan = tla.plan.solve(scale * A, b, rtol=0.05, device=tla.Device(beta=scale))
    # x shrinks by the scale and so does the thermal spread; the search grid is the same up to rounding.
    np.testing.assert_allclose(
        [plan.burn_in, plan.duration], np.array([reference.burn_in, reference.duration]) / scale, 1e-6
    )
    np.testing.assert_allclose(plan.time_constants, reference.time_constants, 1e-6)


def test_only_the_signal_to_noise_number_matters():
    A, b, _ = system()
    one = tla.plan.solve(A, 10 * b, rtol=0.05, device=tla.Device(beta=1.0))
    other = tla.plan.solve(A, b, rtol=0.05, device=tla.Device(beta=100.0))
    np.testing.assert_allclose(one.total, other.total, 1e-6)


def test_a_plan_serves_every_column():
    A, b, _ = system()
    both = jnp.stack([b, 0.1 * b], 1)
    worst = max(float(tla.plan.solve(A, column, rtol=0.1).total) for column in both.T)
    np.testing.assert_allclose(tla.plan.solve(A, both, rtol=0.1).total, worst, rtol=2e-3)


def test_a_good_start_shortens_the_burn_in():
    A, b, x = system(kappa=1e3)
    device = tla.Device(beta=1e6)
    cold = tla.plan.solve(A, b, rtol=1e-2, device=device)
    warm = tla.plan.solve(A, b, rtol=1e-2, device=device, x0=0.95 * x)
    assert float(warm.total) < 0.6 * float(cold.total)


def test_nothing_to_do_takes_no_time():
    plan = tla.plan.solve(jnp.eye(3), jnp.zeros(3))
    assert (float(plan.burn_in), float(plan.duration)) == (0.0, 0.0)


def test_the_plan_knows_when_the_long_time_law_holds():
    A, b, _ = system(kappa=3.0)
    short, long = (tla.plan.solve(A, b, rtol=rtol) for rtol in (0.2, 1e-3))
    assert not short.long_time
    assert long.long_time
    assert not tla.Plan(1.0, 2.0).long_time


def test_underdamped_dynamics_is_faster_for_ill_conditioned_systems():
    A, b, _ = system(kappa=1e3)
    over, under = (
        tla.plan.solve(A, b, rtol=1e-2, device=tla.Device(beta=1e4, dynamics=dynamics)).time_constants
        for dynamics in (tla.Overdamped(), tla.Underdamped())
    )
    # Measured elsewhere: 17 to 20 at this condition number for white right-hand sides.
    assert 8 < float(over / under) < 30


def test_plans_are_made_under_jit_in_float32():
    A, b, _ = system()
    wide = tla.plan.solve(A, b, rtol=0.05)
    narrow = jax.jit(lambda A, b: tla.plan.solve(A, b, rtol=0.05))(A.astype(jnp.float32), b.astype(jnp.float32))
    assert narrow.duration.dtype == jnp.float32
    np.testing.assert_allclose(narrow.total, wide.total, rtol=1e-2)


@pytest.mark.parametrize(
    "bad", [{"rtol": 0.0}, {"rtol": -1.0}, {"rtol": 1.0}, {"rtol": float("nan")}, {"confidence": 1.0}]
)
def test_promises_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        tla.plan.solve(jnp.eye(2), jnp.ones(2), **bad)


@pytest.mark.parametrize("plan", [tla.Plan(-1.0, 1.0), tla.Plan(0.0, float("inf")), tla.Plan(0.0, 1.0, samples=0)])
def test_impossible_times_are_refused(plan):
    with pytest.raises(ValueError, match=r"burn_in|duration|samples"):
        tla.solve(jnp.eye(2), jnp.ones(2), key=jax.random.key(0), plan=plan)
