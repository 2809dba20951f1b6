"""Plans the other way round: budgets, few samples, replicas; and plans for operators that are only surveyed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system

import thermolinalg as tla
from thermolinalg.plan import Budget
from thermolinalg.testing import assert_coverage


@pytest.fixture(scope="module")
def problem():
    A, b, x = system(d=6, kappa=20.0)
    return tla.Device(beta=4.0).program(A), b, np.asarray(x)


def grid(shift):
    """A five-point Laplacian of 196 unknowns plus a shift, as an array."""
    line = 2 * np.eye(14) - np.eye(14, k=1) - np.eye(14, k=-1)
    return np.kron(line, np.eye(14)) + np.kron(np.eye(14), line) + shift * np.eye(196)


def test_a_budget_is_the_inverse_of_an_error(problem):
    program, b, _ = problem
    plan = tla.plan.solve(program, b, rtol=0.02, confidence=0.9)
    seconds = float(plan.time_constants) * program.device.time_constant
    back = tla.plan.solve(program, b, budget=Budget(seconds=seconds), confidence=0.9)
    np.testing.assert_allclose(back.rtol, 0.02, rtol=0.01)
    np.testing.assert_allclose(back.total, plan.total, rtol=1e-6)
    # Energy is paid for every cell of every replica.
    joules = seconds * 6 * program.device.cell_power
    paid = tla.plan.solve(program, b, budget=Budget(joules=joules), confidence=0.9)
    np.testing.assert_allclose(paid.total, plan.total, rtol=1e-6)
    halves = tla.plan.solve(program, b, budget=Budget(joules=joules), confidence=0.9, replicas=2)
    np.testing.assert_allclose(halves.work, plan.total, rtol=1e-6)
    tight = tla.plan.solve(program, b, budget=Budget(seconds=1.0, joules=joules), confidence=0.9)
    np.testing.assert_allclose(tight.total, plan.total, rtol=1e-6)


@pytest.mark.parametrize("verb", ["inv", "lyapunov", "expm"])
def test_a_budget_for_the_readings_of_a_matrix(verb):
    A = jnp.asarray(np.diag([0.5, 1.0, 2.0]))
    operands = (A, jnp.eye(3)) if verb == "lyapunov" else (-A if verb == "expm" else A,)
    plan = getattr(tla.plan, verb)
    asked = plan(*operands, rtol=0.1)
    seconds = float(asked.time_constants) * tla.Device().time_constant
    back = plan(*operands, budget=Budget(seconds=seconds))
    np.testing.assert_allclose(back.rtol, 0.1, rtol=0.01)
    sure = plan(*operands, rtol=0.1, guaranteed=True)
    assert float(sure.total) > float(asked.total)
    four = plan(*operands, rtol=0.1, replicas=4)
    assert float(four.total) < 0.4 * float(asked.total)


def test_what_the_best_error_of_a_budget_promises_is_kept(problem):
    program, b, x = problem
    plan = tla.plan.solve(program, b, budget=Budget(seconds=1e-4), confidence=0.9)

    @jax.jit
    def runs(plan, keys):
        return jax.vmap(lambda key: tla.solve(program, b, key=key, plan=plan).value)(keys)

    values = np.asarray(runs(plan, jax.random.split(jax.random.key(1), 2000)))
    errors = np.linalg.norm(values - x, axis=1) / np.linalg.norm(x)
    assert_coverage(errors <= float(plan.rtol), 0.9, at_most=0.94)
    with pytest.raises(AssertionError):
        assert_coverage(errors <= 0.9 * float(plan.rtol), 0.9)


def test_few_samples_take_longer_and_keep_the_promise(problem):
    program, b, x = problem
    free = tla.plan.solve(program, b, rtol=0.05)
    times = [float(tla.plan.solve(program, b, rtol=0.05, samples=n).total) for n in (60, 200, 5000)]
    assert times == sorted(times, reverse=True)
    # Samples a tenth of a time constant apart are as good as an average.
    np.testing.assert_allclose(times[-1], free.total, rtol=2e-3)
    plan = tla.plan.solve(program, b, rtol=0.05, samples=60)
    np.testing.assert_allclose(plan.spacing, plan.duration / 60)

    @jax.jit
    def runs(plan, keys):
        return jax.vmap(lambda key: tla.solve(program, b, key=key, plan=plan).value)(keys)

    values = np.asarray(runs(plan, jax.random.split(jax.random.key(1), 2000)))
    assert_coverage(np.linalg.norm(values - x, axis=1) <= 0.05 * np.linalg.norm(x), 0.95)


def test_too_few_samples_are_refused(problem):
    program, b, _ = problem
    with pytest.raises(ValueError, match="too few samples"):
        tla.plan.solve(program, b, rtol=1e-3, samples=5)


def test_plans_are_made_under_jit(problem):
    program, b, _ = problem

    @jax.jit
    def plans(program, b, seconds):
        best = tla.plan.solve(program, b, budget=Budget(seconds=seconds, joules=1.0))
        return best, tla.plan.inv(program, rtol=0.1), tla.plan.solve(program, b, rtol=0.1, samples=100, replicas=2)

    best, inverse, sampled = plans(program, b, 1e-3)
    np.testing.assert_allclose(best.rtol, tla.plan.solve(program, b, budget=Budget(seconds=1e-3)).rtol, rtol=1e-6)
    np.testing.assert_allclose(inverse.total, tla.plan.inv(program, rtol=0.1).total, rtol=1e-6)
    assert sampled.replicas == 2
    assert float(sampled.duration) > 0


class TestMatrixFree:
    def operator(self, matrix, **more):
        array = jnp.asarray(matrix)
        return tla.MatrixFree(jax.tree_util.Partial(jnp.matmul, array), len(matrix), jnp.dtype(float), **more)

    @pytest.mark.parametrize("shift", [0.5, 0.05])
    def test_a_plan_from_intervals_is_long_enough(self, shift):
        matrix = grid(shift)
        b = np.random.default_rng(0).standard_normal(196)
        exact = tla.plan.solve(matrix, b, rtol=0.05)
        found = tla.plan.solve(self.operator(matrix), b, rtol=0.05)
        assert bool(found.resolved)
        assert 1.0 <= float(found.total / exact.total) < 1.6

    def test_one_slow_mode_that_few_probes_may_miss(self):
        """The trace of the inverse square is one mode: probes see it with a scatter of order one."""
        rates = np.append(0.01, np.linspace(0.5, 1.0, 195))
        basis, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((196, 196)))
        matrix = (basis * rates) @ basis.T
        matrix = (matrix + matrix.T) / 2
        # Lanczos finds the mode in a few steps; a plan for other modes must not forget its noise.
        b = basis[:, 1]
        exact = tla.plan.solve(matrix, b, rtol=0.05)
        found = tla.plan.solve(self.operator(matrix), b, rtol=0.05)
        assert bool(found.resolved)
        assert 1.0 <= float(found.total / exact.total) < 4.0

    def test_what_is_not_resolved_is_not_promised(self):
        matrix, b = grid(1e-5), np.ones(196)
        found = tla.plan.solve(self.operator(matrix, survey_steps=8), b, rtol=0.05)
        assert not bool(found.resolved)
        x = tla.solve(self.operator(matrix, survey_steps=8), b, key=jax.random.key(0), plan=found)
        assert tla.Status.UNRESOLVED in tla.Status(int(x.status))
        with pytest.raises(tla.SolutionError, match="not resolved"):
            x.unwrap()


def test_budgets_out_of_range_are_refused():
    for wrong, match in [
        (lambda: Budget(), "seconds or joules"),
        (lambda: Budget(seconds=0.0), "seconds"),
        (lambda: Budget(joules=float("inf")), "joules"),
        (lambda: tla.plan.solve(jnp.eye(2), jnp.ones(2), rtol=0.1, budget=Budget(seconds=1.0)), "not both"),
        (lambda: tla.Device(cell_power=0.0), "cell_power"),
    ]:
        with pytest.raises(ValueError, match=match):
            wrong()
