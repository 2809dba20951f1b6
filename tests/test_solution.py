import jax
import jax.numpy as jnp
import pytest

import thermolinalg as tla


def solution(flags):
    return tla.Solution(jnp.ones(2), jnp.ones(2), jnp.asarray(flags, jnp.int32))


def test_unwrap_returns_a_clean_value():
    assert solution(0).unwrap().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("flag", [flag for flag in tla.Status if flag])
def test_unwrap_raises_with_the_advice_of_the_flag(flag):
    with pytest.raises(tla.SolutionError) as raised:
        solution(int(flag)).unwrap()
    assert str(raised.value) == flag.advice != tla.Status.OK.advice


def test_unwrap_of_a_batch_collects_every_flag():
    with pytest.raises(tla.SolutionError) as raised:
        solution([0, int(tla.Status.NOT_CONVERGED), int(tla.Status.UNRESOLVED)]).unwrap()
    assert "max_steps" in str(raised.value)
    assert "survey_steps" in str(raised.value)


def test_a_solution_passes_through_jit():
    out = jax.jit(lambda s: s)(solution(4))
    assert int(out.status) == tla.Status.UNRESOLVED
