"""Failing solves: finite answers, honest codes and counters, and nothing left over for the next healthy step."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system

from thermolinalg import Converter, Device, Plan
from thermolinalg.optim.analog import ThermodynamicSolve
from thermolinalg.optim.fallback import Guarded
from thermolinalg.optim.iterative import NewtonSchulz
from thermolinalg.optim.solvers import Cholesky, CholeskyInverse, Code, FromCallable, Solver

D, DAMPING = 6, 0.1
A, B, _ = system(D, 20.0, 0)
BROKEN = A.at[2, 2].set(jnp.nan)
KEY = jax.random.key(0)


def exact(matrix, damping, rhs=B):
    return np.linalg.solve(np.asarray(matrix) + damping * np.eye(D), np.asarray(rhs))


@partial(jax.jit, static_argnums=0)
def step(solver, state, matrix, damping, rhs):
    return solver.apply(rhs, solver.prepare(matrix, damping, state, KEY), KEY)


def counts(state):
    return [int(count) for count in state.counts]


def walk(solver, given):
    """Codes and answers of one step after another."""
    state, seen = solver.init(A), []
    for matrix, damping, rhs in given:
        x, info, state = step(solver, state, matrix, damping, rhs)
        seen.append((np.asarray(x), Code(int(info.code)), info))
    return seen, state


def test_a_sound_solver_is_left_alone():
    guarded = Guarded(Cholesky(), CholeskyInverse())
    assert isinstance(guarded, Solver)
    seen, state = walk(guarded, [(A, DAMPING, B), (2 * A, DAMPING, B)])
    plain, info, _ = step(Cholesky(), Cholesky().init(A), 2 * A, DAMPING, B)
    assert np.array_equal(seen[1][0], plain)
    assert seen[1][1] == Code.OK
    assert abs(float(seen[1][2].residual) - float(info.residual)) < 1e-14
    assert counts(state) == [2, 0, 0, 0, 0, 0]


def test_an_indefinite_matrix_is_retried_with_more_damping():
    shifted = A - 0.5 * jnp.eye(D)
    seen, state = walk(Guarded(Cholesky()), [(shifted, DAMPING, B), (A, DAMPING, B)])
    (x, code, info), (y, after, _) = seen
    assert code == Code.RETRIED
    np.testing.assert_allclose(x, exact(shifted, 10 * DAMPING), rtol=1e-10)
    # The residual is that of the system that was asked for, which x does not solve.
    left = np.asarray(B) - (np.asarray(shifted) + DAMPING * np.eye(D)) @ x
    assert np.isclose(float(info.residual), np.linalg.norm(left) / np.linalg.norm(B), rtol=1e-5)
    assert after == Code.OK
    np.testing.assert_allclose(y, exact(A, DAMPING), rtol=1e-10)
    assert counts(state) == [1, 1, 0, 0, 0, 0]


def test_a_matrix_that_is_not_finite_is_answered_by_the_last_good_one():
    rhs = B[::-1]
    guarded = Guarded(Cholesky(), max_staleness=2)
    given = [(A, DAMPING, B), *[(BROKEN, DAMPING, rhs)] * 3, (A, DAMPING, B)]
    seen, state = walk(guarded, given)
    assert [code for _, code, _ in seen] == [Code.OK, Code.STALE, Code.STALE, Code.GRADIENT, Code.OK]
    np.testing.assert_allclose(seen[1][0], exact(A, DAMPING, rhs), rtol=1e-10)
    # Too old: the gradient, as long as the last accepted answer.
    x = seen[3][0]
    np.testing.assert_allclose(x / np.linalg.norm(x), np.asarray(rhs) / np.linalg.norm(rhs), rtol=1e-12)
    assert np.isclose(np.linalg.norm(x), np.linalg.norm(seen[2][0]))
    np.testing.assert_allclose(seen[4][0], exact(A, DAMPING), rtol=1e-10)
    assert counts(state) == [2, 0, 2, 0, 1, 0]
    assert all(np.all(np.isfinite(x)) for x, _, _ in seen)


def test_without_anything_good_the_answer_is_zero():
    seen, state = walk(Guarded(Cholesky()), [(BROKEN, DAMPING, B), (A, DAMPING, B)])
    assert [code for _, code, _ in seen] == [Code.ZERO, Code.OK]
    assert np.all(seen[0][0] == 0)
    np.testing.assert_allclose(seen[1][0], exact(A, DAMPING), rtol=1e-10)
    assert counts(state) == [1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_is_answered_by_zero(bad):
    guarded = Guarded(Cholesky(), CholeskyInverse())
    seen, _ = walk(guarded, [(A, DAMPING, B), (A, DAMPING, B.at[0].set(bad)), (A, DAMPING, B)])
    assert [code for _, code, _ in seen] == [Code.OK, Code.ZERO, Code.OK]
    assert np.all(seen[1][0] == 0)
    assert np.array_equal(seen[0][0], seen[2][0])


def test_a_reference_is_asked_before_the_gradient():
    def wrong(matrix, rhs):
        return -jnp.linalg.solve(matrix, rhs)

    seen, state = walk(Guarded(FromCallable(wrong), Cholesky()), [(A, DAMPING, B)] * 2)
    assert [code for _, code, _ in seen] == [Code.REFERENCE] * 2
    np.testing.assert_allclose(seen[1][0], exact(A, DAMPING), rtol=1e-10)
    assert float(seen[1][2].residual) < 1e-13
    assert counts(state) == [0, 0, 0, 2, 0, 0]
    # Without it, and without a reference either, an answer uphill is not passed on.
    x = walk(Guarded(FromCallable(wrong)), [(A, DAMPING, B)])[0][0]
    assert x[1] == Code.ZERO


def test_the_residual_limit_decides():
    def half(matrix, rhs):
        return 0.5 * jnp.linalg.solve(matrix, rhs)

    for limit, code in ((0.6, Code.OK), (0.4, Code.REFERENCE)):
        seen, _ = walk(Guarded(FromCallable(half), Cholesky(), residual_limit=limit), [(A, DAMPING, B)])
        assert seen[0][1] == code


def test_a_device_that_saturates_or_holds_no_definite_couplings():
    cold = {"beta": 1e12, "adc": Converter(bits=12, full_scale=0.01)}
    tight = ThermodynamicSolve(Plan(1e5, 10.0), device=Device(**cold))
    seen, state = walk(Guarded(tight, Cholesky()), [(A, DAMPING, B)])
    assert seen[0][1] == Code.REFERENCE
    np.testing.assert_allclose(seen[0][0], exact(A, DAMPING), rtol=1e-10)
    assert counts(state) == [0, 0, 0, 1, 0, 0]
    # All attempts are paid for: the first, the retry with its writing, and nothing for the digital reference.
    state = tight.prepare(A, DAMPING, tight.init(A), KEY)
    once = float(tight.apply(B, state, KEY)[1].seconds)
    assert np.isclose(float(seen[0][2].seconds), 2 * once, rtol=1e-5)
    fine = ThermodynamicSolve(Plan(1e5, 10.0), device=Device(beta=1e12))
    seen, _ = walk(Guarded(fine), [(A - 0.5 * jnp.eye(D), DAMPING, B), (A, DAMPING, B)])
    assert [code for _, code, _ in seen] == [Code.RETRIED, Code.OK]
    np.testing.assert_allclose(seen[1][0], exact(A, DAMPING), rtol=1e-4)


def test_what_failed_is_no_start_for_what_comes_next():
    """Newton-Schulz from the last inverse: a broken one in between costs no step afterwards."""
    guarded = Guarded(NewtonSchulz(rtol=1e-8))
    seen, _ = walk(guarded, [(A, DAMPING, B), (BROKEN, DAMPING, B), (1.001 * A, DAMPING, B)])
    assert [code for _, code, _ in seen] == [Code.OK, Code.STALE, Code.OK]
    assert float(seen[2][2].steps) <= 3 < float(seen[0][2].steps)


def test_a_block_of_right_hand_sides_and_zero():
    block = jnp.stack([B, B[::-1]], axis=1).astype(jnp.float32)
    guarded = Guarded(Cholesky())
    matrix = A.astype(jnp.float32)
    state = guarded.init(matrix)
    x, info, state = step(guarded, state, matrix, DAMPING, block)
    assert x.shape == (D, 2)
    assert x.dtype == jnp.float32
    y, again, state = step(guarded, state, matrix, DAMPING, jnp.zeros_like(block))
    assert int(info.code) == int(again.code) == Code.OK
    assert np.all(np.asarray(y) == 0)
    assert counts(state) == [2, 0, 0, 0, 0, 0]


@dataclass(frozen=True)
class Flaky:
    """A solver whose answers fail with a given probability."""

    share: float = 0.5

    def init(self, matrix: Any):
        return Cholesky().init(matrix)

    def prepare(self, matrix, damping, state, key):
        return Cholesky().prepare(matrix, damping, state, key)

    def apply(self, rhs, state, key):
        x, info, state = Cholesky().apply(rhs, state, key)
        return jnp.where(jax.random.bernoulli(key, self.share), jnp.nan, x), info, state


def test_counters_add_up_in_a_scan_over_a_stack():
    """A retry draws anew: half of the steps are sound, a quarter is saved by it, the rest by what is behind."""
    guarded, steps, members = Guarded(Flaky(), Cholesky()), 100, 3
    stack = jnp.stack([A, 2 * A, 3 * A])

    @jax.jit
    def run(key):
        def one(state, own):
            def member(state, matrix, key):
                return guarded.apply(B, guarded.prepare(matrix, DAMPING, state, key), key)

            x, info, state = jax.vmap(member)(state, stack, jax.random.split(own, members))
            return state, (x, info.code)

        start = jax.vmap(guarded.init)(stack)
        return jax.lax.scan(one, start, jax.random.split(key, steps))

    state, (x, code) = run(KEY)
    assert bool(jnp.all(jnp.isfinite(x)))
    total = np.sum([np.asarray(count) for count in state.counts], 1)
    assert total.sum() == steps * members
    # Binomial with 300 draws: five standard deviations are 43 and 38.
    assert abs(total[0] - 150) < 43
    assert abs(total[1] - 75) < 38
    assert total[4] == total[5] == 0
    assert [int(np.sum(np.asarray(code) == found)) for found in (Code.RETRIED, Code.STALE, Code.REFERENCE)] == [
        *total[1:4]
    ]
    # The mutation: the same solver by itself is not finite half of the time.
    bare = jax.vmap(lambda key: Flaky().apply(B, Cholesky().prepare(A, DAMPING, None), key)[0])
    assert 0.2 < float(jnp.mean(jnp.isnan(bare(jax.random.split(KEY, 60))))) < 0.8


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="retry_damping"):
        Guarded(Cholesky(), retry_damping=0.0)
    with pytest.raises(ValueError, match="residual_limit"):
        Guarded(Cholesky(), residual_limit=-1.0)
    with pytest.raises(ValueError, match="max_staleness"):
        Guarded(Cholesky(), max_staleness=-1)
    with pytest.raises(ValueError, match="damping must be positive"):
        Guarded(Cholesky()).prepare(A, 0.0, Guarded(Cholesky()).init(A))
