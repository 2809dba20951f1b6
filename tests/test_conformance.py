"""Every verb under every transformation, dtype and fault: one table for all."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from problems import system

import thermolinalg as tla

KEY = jax.random.key(11)
PLAN = tla.Plan(10.0, 40.0)
GOOD = np.diag([1.0, 2.0, 3.0])
SIMULATORS = {
    "law": tla.Law(),
    "no end state": tla.Law(end_state=False),
    "long time": tla.Law(long_time=True),
    "trajectory": tla.Trajectory(5),
}


def solve(A, b, key=KEY, simulator=SIMULATORS["law"], **rest):
    return tla.solve(A, b, key=key, **({"plan": PLAN} | rest), device=tla.Device(simulator=simulator))


def inv(A, b, key, plan, **device):
    return tla.inv(A, key=key, plan=plan, device=tla.Device(**device))


def lyapunov(A, b, key, plan, **device):
    return tla.lyapunov(A, jnp.eye(len(b), dtype=A.dtype), key=key, plan=plan, device=tla.Device(**device))


def expm(A, b, key, plan, **device):
    return tla.expm(-A, 0.5, key=key, plan=plan, device=tla.Device(**device))


def logdet(A, b, key, estimator):
    return tla.logdet(A, key=key, samples=400, estimator=estimator)


def inverse(A, b):
    return np.linalg.inv(A)


def slogdet(A, b):
    return np.linalg.slogdet(A)[1]


def decay(A, b):
    return scipy.linalg.expm(-0.5 * A)


def edges(A, b):
    return np.linalg.eigvalsh(A)[[0, -1]]


LONG, WALK = tla.Law(long_time=True), tla.Trajectory(100)
FAR, NEAR = tla.Plan(60.0, 6e4, 500), tla.Plan(60.0, 3e2, 300)
VERBS = {name: (partial(solve, simulator=simulator), np.linalg.solve) for name, simulator in SIMULATORS.items()} | {
    "planned": (partial(solve, plan=None, rtol=0.1), np.linalg.solve),
    "general": (lambda A, b, key: tla.solve(tla.General(A), b, key=key, plan=PLAN), np.linalg.solve),
    "inv": (partial(inv, plan=FAR), inverse),
    "inv, correlated": (partial(inv, plan=tla.Plan(60.0, 900.0)), inverse),
    "inv, long time": (partial(inv, plan=FAR, simulator=LONG), inverse),
    "inv, trajectory": (partial(inv, plan=NEAR, simulator=WALK), inverse),
    "inv, planned": (lambda A, b, key: tla.inv(A, key=key, rtol=0.2), inverse),
    "lyapunov": (partial(lyapunov, plan=FAR), lambda A, b: np.linalg.inv(A) / 2),
    "lyapunov, walked": (partial(lyapunov, plan=NEAR), lambda A, b: np.linalg.inv(A) / 2),
    "expm": (partial(expm, plan=FAR), decay),
    "expm, chain": (partial(expm, plan=tla.Plan(60.0, 150.0, 300)), decay),
    "logdet": (partial(logdet, estimator=None), slogdet),
    "logdet, ratio": (partial(logdet, estimator=tla.BennettRatio(4)), slogdet),
    "gaussian": (lambda A, b, key: tla.gaussian(A, b, key=key, samples=3), None),
    "gaussian, path": (lambda A, b, key: tla.gaussian(A, b, key=key, plan=tla.Plan(60.0, 9.0, 3)), None),
    "extremes": (lambda A, b, key: tla.extremes(A, key=key, cycles=16), edges),
}


@pytest.fixture(scope="module", params=VERBS)
def verb(request):
    return VERBS[request.param][0]


@pytest.fixture(scope="module", params=VERBS)
def verb_and_answer(request):
    return VERBS[request.param]


def test_jit_gives_the_same_numbers(verb):
    A, b, _ = system(d=5)
    plain, traced = verb(A, b, key=KEY), jax.jit(verb)(A, b, key=KEY)
    np.testing.assert_allclose(traced.value, plain.value, rtol=1e-8, atol=1e-8 * np.max(np.abs(plain.value)))
    np.testing.assert_allclose(traced.stderr, plain.stderr, rtol=1e-7, atol=1e-12)
    assert int(traced.status) == int(plain.status) == 0


def test_vmap_over_matrices_sides_and_keys(verb):
    systems = [system(d=5, seed=seed) for seed in range(2)]
    A, b = (jnp.stack(parts) for parts in list(zip(*systems, strict=True))[:2])
    keys = jax.random.split(KEY, 2)
    batch = jax.vmap(lambda A, b, key: verb(A, b, key=key))(A, b, keys)
    for i in range(2):
        one = verb(A[i], b[i], key=keys[i]).value
        np.testing.assert_allclose(batch.value[i], one, rtol=1e-7, atol=1e-8 * np.max(np.abs(one)))


def test_keys_decide_and_nothing_else(verb):
    A, b, _ = system(d=5)
    one, again, other = (verb(A, b, key=jax.random.key(seed)).value for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.any(np.asarray(one) == np.asarray(other))


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_the_dtype_of_the_input_is_that_of_the_answer(verb_and_answer, dtype):
    verb, exact = verb_and_answer
    A, b, _ = system(d=5, kappa=5.0, dtype=dtype)
    out = verb(A, b, key=KEY)
    real = exact in (slogdet, edges)
    assert out.value.dtype == (np.finfo(dtype).dtype if real else dtype)
    assert out.stderr.dtype == np.finfo(dtype).dtype
    assert out.stderr.shape == out.value.shape
    assert int(out.status) == 0
    if exact is not None:
        assert np.all(np.abs(np.asarray(out.value) - exact(np.asarray(A), np.asarray(b))) < 8 * np.asarray(out.stderr))


ONE_OF_EACH = ["law", "general", "inv", "lyapunov", "expm", "logdet", "gaussian"]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_derivatives_agree_forward_and_backward(name):
    A, b, _ = system(d=3, kappa=5.0)
    moved, _, _ = system(d=3, kappa=5.0, seed=1)
    verb = VERBS[name][0]

    def read(A):
        value = verb(A, b, key=KEY).value
        return jnp.sum(value * (1 + jnp.arange(value.size, dtype=value.dtype).reshape(value.shape)))

    _, forward = jax.jvp(read, (A,), (moved,))
    backward = jnp.sum(jax.grad(read)(A) * moved)
    assert abs(float(forward)) > 1e-6
    np.testing.assert_allclose(forward, backward, rtol=1e-8)


def test_extremes_are_constant_under_differentiation():
    assert np.all(jax.grad(lambda A: tla.extremes(A, key=KEY, cycles=8).value[0])(system(d=3)[0]) == 0)


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "extremes"])
@pytest.mark.parametrize(
    ("A", "message"),
    [
        (np.ones((3, 2)), "square"),
        (np.ones(3), "square"),
        (np.diag([1.0, np.nan, 1.0]), "not finite"),
        (GOOD.astype(np.float16), "float16"),
    ],
)
def test_no_verb_takes_what_is_no_matrix(name, A, message):
    with pytest.raises(ValueError, match=message):
        VERBS[name][0](A, np.ones(3), key=KEY)


FLAWS = {
    "law": ([1.0, -2.0, 3.0], tla.Status.NOT_POSITIVE_DEFINITE),
    "inv": ([1.0, -2.0, 3.0], tla.Status.NOT_POSITIVE_DEFINITE),
    "gaussian": ([1.0, -2.0, 3.0], tla.Status.NOT_POSITIVE_DEFINITE),
    "logdet": ([1.0, -2.0, 3.0], tla.Status.NOT_POSITIVE_DEFINITE),
    "extremes": ([1.0, -2.0, 3.0], tla.Status.NOT_POSITIVE_DEFINITE),
    "lyapunov": ([1.0, -2.0, 3.0], tla.Status.UNSTABLE),
    "general": ([1.0, 0.0, 3.0], tla.Status.NOT_FINITE),
}


@pytest.mark.parametrize("name", FLAWS)
def test_under_jit_every_verb_says_so(name):
    values, flag = FLAWS[name]
    verb = VERBS[name][0]
    status = jax.jit(lambda A: verb(A, jnp.ones(3), key=KEY).status)(jnp.diag(jnp.array(values)))
    assert int(status) & flag
    with pytest.raises(ValueError, match=r"definite|stable|singular"):
        verb(np.diag(values), np.ones(3), key=KEY)


@pytest.mark.parametrize("A", [[[2, 1], [1, 2]], np.array([[2, 1], [1, 2]], np.int32)])
def test_integers_become_floats_of_the_default_width(A):
    out = solve(np.asarray(A), np.array([1, 2]))
    assert out.value.dtype == np.float64


def test_float32_is_accurate_to_its_rounding():
    A, b, _ = system(kappa=1e3)
    wide = solve(A, b)
    narrow = solve(A.astype(np.float32), b.astype(np.float32), simulator=tla.Law())
    # Functions of a matrix move with it by the condition number times the rounding error.
    np.testing.assert_allclose(narrow.stderr, wide.stderr, rtol=1e3 * 2**-23)


def test_one_unknown(verb_and_answer):
    verb, exact = verb_and_answer
    A, b = np.array([[2.0]]), np.array([3.0])
    out = verb(jnp.asarray(A), jnp.asarray(b), key=KEY)
    assert np.all(np.isfinite(out.value))
    if exact is not None:
        assert out.value.shape == np.shape(exact(A, b))
        assert np.all(np.abs(out.value - exact(A, b)) <= 8 * np.asarray(out.stderr) + 1e-14)


def test_nothing_on_the_right_is_answered_by_nothing():
    A, _, _ = system(d=5)
    hasty = tla.Device(simulator=tla.Law(long_time=True))
    for x0, device in ((None, None), (jnp.ones(5), None), (None, hasty)):
        out = tla.solve(A, jnp.zeros(5), key=KEY, x0=x0, device=device)
        assert np.all(np.asarray(out.value) == 0)
        assert np.all(np.asarray(out.stderr) == 0)
        assert int(out.status) == 0


def test_a_zero_column_among_others():
    A, b, x = system(d=5)
    out = tla.solve(A, jnp.stack([b, 0 * b], 1), key=KEY, rtol=0.1)
    assert np.all(np.isfinite(out.value))
    assert np.linalg.norm(out.value[:, 0] - x) < 0.3 * np.linalg.norm(x)


FAULTS = {
    "not square": (np.ones((3, 2)), np.ones(3), "square"),
    "not a matrix": (np.ones(3), np.ones(3), "square"),
    "empty": (np.ones((0, 0)), np.ones(0), "square"),
    "not finite": (np.diag([1.0, np.nan, 1.0]), np.ones(3), "not finite"),
    "infinite": (np.diag([1.0, np.inf, 1.0]), np.ones(3), "not finite"),
    "asymmetric": (GOOD + np.triu(np.ones((3, 3)), 1), np.ones(3), "not symmetric"),
    "indefinite": (np.diag([1.0, -2.0, 3.0]), np.ones(3), "not positive definite"),
    "singular": (np.ones((3, 3)), np.ones(3), "not positive definite"),
    "zero": (np.zeros((3, 3)), np.ones(3), "not positive definite"),
    "b too long": (GOOD, np.ones(4), "b must have shape"),
    "b of three dimensions": (GOOD, np.ones((3, 1, 1)), "b must have shape"),
    "b not finite": (GOOD, np.array([1.0, np.nan, 1.0]), "b has entries"),
    "b complex": (GOOD, 1j * np.ones(3), "complex"),
    "text": (np.array([["a"]]), np.ones(1), "numeric"),
    "half precision": (GOOD.astype(np.float16), np.ones(3), "float16"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("simulator", ["law", "long time"])
def test_bad_input_is_refused_by_name(fault, simulator):
    A, b, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        solve(A, b, simulator=SIMULATORS[simulator])


def test_a_start_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="x0 must have shape"):
        solve(GOOD, np.ones(3), x0=np.ones(4))


def test_plan_and_tolerance_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        solve(GOOD, np.ones(3), rtol=0.1)


def test_an_answer_that_overflows_is_refused():
    with pytest.raises(ValueError, match="overflows"):
        solve(1e-300 * np.eye(3), 1e200 * np.ones(3), plan=tla.Plan(1e302, 1e302))


def test_under_jit_the_long_time_law_says_so():
    bad = jnp.diag(jnp.array([1.0, -2.0, 3.0]))
    status = jax.jit(lambda A: solve(A, jnp.ones(3), simulator=SIMULATORS["long time"]).status)(bad)
    assert int(status) & tla.Status.NOT_POSITIVE_DEFINITE


def test_low_precision_is_a_status():
    A, b, _ = system(kappa=3e4)
    assert int(solve(A.astype(np.float32), b.astype(np.float32)).status) == tla.Status.LOW_PRECISION
    assert int(solve(A, b).status) == 0


def test_what_lanczos_cannot_see_is_a_status():
    A, b, _ = system(d=300, kappa=1e6)
    free = tla.MatrixFree(jax.tree_util.Partial(jnp.matmul, A), 300, A.dtype, max_steps=20)
    status = int(solve(free, b, plan=tla.Plan(1e6, 1e6)).status)
    assert status == tla.Status.UNRESOLVED | tla.Status.NOT_CONVERGED
