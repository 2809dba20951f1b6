"""Plans and runs under a change of units, of coordinates, of columns and of keys: what must not matter does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thermolinalg as tla
from thermolinalg.testing import KAPPAS, SEEDS, adversarial_matrices, right_hand_sides, spd_matrices

D = 3
MATRICES = st.one_of(spd_matrices(st.just(D), KAPPAS), adversarial_matrices(st.just(D), worst=1e5))
POWERS = st.integers(-40, 40).map(lambda n: 2.0**n)
# Splits of the time between burn-in and averaging that are all but equally good may change places.
SEARCH = 5e-3
# Scales are powers of two: what is left is the rounding of their logarithms in the search.
ROUNDING = 1e-6


@st.composite
def systems(draw):
    A = draw(MATRICES)
    return A, draw(right_hand_sides(A)), 10.0 ** draw(st.floats(0.0, 6.0))


@jax.jit
def both_ways(A, b, beta, guaranteed):
    device = tla.Device(beta=beta)
    plain, sure = (tla.plan.solve(A, b, rtol=0.05, confidence=0.9, device=device, guaranteed=g) for g in (False, True))
    return jnp.where(guaranteed, sure.total, plain.total), jnp.where(guaranteed, sure.clock, plain.clock)


def total(A, b, beta, guaranteed=False):
    time, clock = both_ways(jnp.asarray(A), jnp.asarray(b), beta, guaranteed)
    return float(time), float(clock)


@given(system=systems(), scale=POWERS, guaranteed=st.booleans())
def test_times_scale_with_the_inverse_of_the_matrix(system, scale, guaranteed):
    A, b, beta = system
    (one, clock), (other, faster) = total(A, b, beta, guaranteed), total(scale * A, b, scale * beta, guaranteed)
    np.testing.assert_allclose(scale * other, one, rtol=ROUNDING)
    np.testing.assert_allclose(faster, scale * clock, rtol=ROUNDING)


def test_what_matters_shows():
    A, b = np.diag([0.01, 0.1, 1.0]), 0.03 * np.ones(3)
    one = total(A, b, 1.0)[0]
    # Here noise dominates, so that half the signal takes four times as long.
    assert total(A, b / 2, 1.0)[0] == pytest.approx(4 * one, rel=0.05)
    # Here the transient dominates: a stiffer matrix relaxes sooner.
    quiet = total(A, b, 1e12)[0]
    assert total(2 * A, b, 1e12)[0] == pytest.approx(quiet / 2, rel=0.05)
    assert quiet < 0.01 * one


@given(system=systems(), scale=POWERS, guaranteed=st.booleans())
def test_only_the_signal_to_noise_number_matters(system, scale, guaranteed):
    A, b, beta = system
    one, other = total(A, b, beta, guaranteed)[0], total(A, scale * b, beta / scale**2, guaranteed)[0]
    np.testing.assert_allclose(other, one, rtol=ROUNDING)


@given(system=systems(), seed=SEEDS, guaranteed=st.booleans())
def test_plans_know_no_coordinates(system, seed, guaranteed):
    A, b, beta = system
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.standard_normal((D, D)))[0], rng.permutation(D)
    turned = turn @ A @ turn.T
    one = total(A, b, beta, guaranteed)[0]
    np.testing.assert_allclose(total((turned + turned.T) / 2, turn @ b, beta, guaranteed)[0], one, rtol=SEARCH)
    np.testing.assert_allclose(total(A[np.ix_(order, order)], b[order], beta, guaranteed)[0], one, rtol=SEARCH)


@given(system=systems(), other=SEEDS, guaranteed=st.booleans())
def test_a_block_takes_as_long_as_its_hardest_column(system, other, guaranteed):
    A, b, beta = system
    block = np.stack([b, np.random.default_rng(other).standard_normal(D)], 1)
    alone = max(total(A, column, beta, guaranteed)[0] for column in block.T)
    together = total(A, block, beta, guaranteed)[0]
    # A plan for both is as long as the longer one up to the search, and longer only if they need different splits.
    assert together >= (1 - SEARCH) * alone
    assert together <= sum(total(A, column, beta, guaranteed)[0] for column in block.T)
    assert total(A, np.stack([b, b], 1), beta, guaranteed)[0] == pytest.approx(total(A, b, beta, guaranteed)[0], SEARCH)


@given(system=systems(), order=st.permutations(range(6)))
@settings(max_examples=10)
def test_runs_do_not_depend_on_the_order_of_keys(system, order):
    A, b, beta = system
    program = tla.Device(beta=beta).program(jnp.asarray(A))
    keys, order = jax.random.split(jax.random.key(0), 6), np.array(order)
    values, shuffled = (np.asarray(solve(program, jnp.asarray(b), some)) for some in (keys, keys[order]))
    np.testing.assert_allclose(shuffled, values[order], rtol=1e-12)
    assert len({tuple(value) for value in values}) == 6


@jax.jit
def solve(program, b, keys):
    return jax.vmap(lambda key: tla.solve(program, b, key=key, plan=tla.Plan(10.0, 100.0)).value)(keys)
