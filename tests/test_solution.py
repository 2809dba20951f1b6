import jax
import jax.numpy as jnp
import numpy as np
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


@pytest.fixture(scope="module")
def solved():
    return tla.solve(jnp.diag(jnp.array([1.0, 2.0])), jnp.ones(2), key=jax.random.key(0), rtol=0.1, confidence=0.9)


def test_an_explanation_has_the_numbers(solved):
    short, middle, long = (solved.explain(detail) for detail in (1, 2, 3))
    assert middle.startswith(short)
    assert long.startswith(middle)
    assert "time average of an overdamped process, drawn from its law" in short
    assert f"{float(solved.stats['time_constants']):.3g} time constants" in short
    error = np.linalg.norm(solved.stderr)
    assert f"is {error:.3g}, " in short
    assert f"{100 * error / np.linalg.norm(solved.value):.3g} % of the answer" in short
    assert "Status: success." in short
    assert "at most 0.1 in a fraction 0.9 of runs" in middle
    assert "from 1 to 2, condition number 2" in middle
    assert "Assumed" in long
    assert "Not guaranteed" in long
    assert f"stats['noise']: {float(solved.stats['noise']):.3g} (variance" in long


def test_an_explanation_says_what_a_status_means():
    found = solution(int(tla.Status.UNRESOLVED | tla.Status.LOW_PRECISION))
    assert "Status: UNRESOLVED, LOW_PRECISION." in found.explain()
    assert tla.Status.LOW_PRECISION.advice in found.explain(2)


def test_every_verb_says_how(solved):
    A, key = jnp.diag(jnp.array([1.0, 2.0])), jax.random.key(0)
    answers = {
        "inverse": tla.inv(A, key=key, plan=tla.Plan(10.0, 1e3, 20), device=tla.Device(simulator=tla.Trajectory(5))),
        "Lyapunov": tla.lyapunov(A, A, key=key, plan=tla.Plan(10.0, 1e3, 20)),
        "exponential": tla.expm(-A, 0.5, key=key, plan=tla.Plan(10.0, 1e3, 20)),
        "log determinant": tla.logdet(A, key=key, samples=100),
        "samples": tla.gaussian(A, key=key, samples=2),
        "eigenvalues": tla.extremes(A, key=key, cycles=8),
        "without symmetry": tla.solve(tla.General(A), jnp.ones(2), key=key, plan=tla.Plan(10.0, 10.0)),
    }
    for word, answer in answers.items():
        assert word in answer.explain(1).splitlines()[0]
        for name, value in answer.stats.items():
            if value is not None and name not in ("plan", "spectrum"):
                assert f"stats[{name!r}]" in answer.explain(3)
    assert "walked in exact steps" in answers["inverse"].method
    unresolved = tla.Spectrum(jnp.array(1.0), jnp.array(2.0), jnp.array(0.0), jnp.array(2.0))
    assert "estimate" in unresolved.explain(2)
    bounded = tla.Spectrum(jnp.array(1.0), jnp.array(2.0), jnp.array(0.5), jnp.array(3.0))
    assert "between 0.5 and 3 with probability 0.99" in bounded.explain(2)


def test_a_batch_is_summarised():
    A = jnp.diag(jnp.array([1.0, 2.0]))
    plans = jnp.array([10.0, 20.0])
    batch = jax.vmap(lambda t: tla.solve(A, jnp.ones(2), key=jax.random.key(0), plan=tla.Plan(10.0, t)))(plans)
    text = batch.explain(3)
    assert "took 20 to 30 time constants" in text
    assert "over 10 to 20 natural units" in text


def test_strange_entries_do_no_harm():
    class Broken:
        def explain(self, detail):
            raise RuntimeError

    odd = {"broken": Broken(), "text": "abc", "none": None, "list": [], "nest": {"a": 1.0, "b": jnp.ones(3)}, "plan": 7}
    odd |= {
        "flag": jnp.array([True, False]),
        "wave": jnp.array([3 + 4j]),
        "nan": jnp.array(jnp.nan),
        "empty": jnp.ones(0),
    }
    text = tla.Solution(jnp.ones(2), jnp.full(2, jnp.inf), jnp.array(0), odd).explain(3)
    assert "stats['broken']: of type Broken." in text
    assert "stats['text']: of type str." in text
    assert "stats['nest']: 2 arrays." in text
    assert "stats['flag']: in part." in text
    assert "stats['wave']: magnitudes 5." in text
    assert "standard error is not finite" in text
    assert "not recorded" in text


@pytest.mark.parametrize("detail", [0, 4, 1.5, True, "2"])
def test_other_levels_are_refused(solved, detail):
    with pytest.raises(ValueError, match="1, 2 or 3"):
        solved.explain(detail)


def test_there_is_no_explanation_inside_jit(solved):
    with pytest.raises(ValueError, match="jit"):
        jax.jit(lambda s: len(s.explain()))(solved)


def test_refinements_and_replicas_explain_themselves():
    A, b = jnp.diag(jnp.array([1.0, 2.0])), jnp.ones(2)
    refined = tla.refine.solve(A, b, key=jax.random.key(0), rtol=1e-6)
    assert "refined" in refined.explain()
    assert "plain conjugate gradients need" in refined.explain(3)
    averaged = tla.solve(A, b, key=jax.random.key(0), plan=tla.Plan(10.0, 100.0, replicas=3))
    assert "3 such runs" in averaged.explain(2)
    assert "such runs" not in averaged.explain(1)
