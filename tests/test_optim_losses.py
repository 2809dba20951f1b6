"""Losses: values, gradients, Hessians, roots and coordinates, by automatic differentiation and in many digits."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thermolinalg.optim.losses import CrossEntropy, Custom, Logistic, Loss, Poisson, SquaredError
from thermolinalg.optim.targets import Weighted, example_mean, token_mean
from thermolinalg.testing import assert_within_stderr

N, R, K = 3, 2, 4
NOUNS = [CrossEntropy(), SquaredError(), Logistic(), Poisson()]
LOGITS = st.lists(st.floats(-50, 50), min_size=K, max_size=K)


def _softmax_textbook(z, t):
    return jax.nn.logsumexp(z, -1) - jnp.sum(t * z, -1)


# The loss of one position by its textbook formula: an independent route, good for moderate outputs.
TEXTBOOK = {
    CrossEntropy(): lambda z, t: _softmax_textbook(z, jax.nn.one_hot(t, K, dtype=z.dtype)),
    SquaredError(): lambda z, t: jnp.sum((z - t) ** 2, -1) / 2,
    Logistic(): lambda z, t: jnp.sum(jnp.log1p(jnp.exp(z)) - t * z, -1),
    Poisson(): lambda z, t: jnp.sum(jnp.exp(z) - t * z, -1),
}


def targets_of(loss, shape, seed=0):
    rng = np.random.default_rng(seed)
    if loss == CrossEntropy():
        return jnp.asarray(rng.integers(0, shape[-1], shape[:-1]))
    if loss == SquaredError():
        return jnp.asarray(rng.standard_normal(shape))
    return jnp.asarray(rng.integers(0, 2 if loss == Logistic() else 6, shape).astype(float))


def problem(loss, shape, seed=0, scale=2.0):
    z = scale * np.random.default_rng(seed + 100).standard_normal(shape)
    return jnp.asarray(z), targets_of(loss, shape, seed)


@partial(jax.jit, static_argnums=0)
def textbook(loss, z, t, w):
    """Gradient and Hessian of each example's weighted loss, by automatic differentiation of the textbook formula."""

    def one(z, t, w):
        return jnp.sum(w * TEXTBOOK[loss](z, t))

    flat = len(z), -1
    value = jax.vmap(one)(z, t, w)
    slope = jax.vmap(jax.grad(one))(z, t, w)
    bend = jax.vmap(jax.hessian(one))(z, t, w)
    size = slope.reshape(flat).shape[1]
    return value, slope, bend.reshape(len(z), size, size)


@partial(jax.jit, static_argnums=0)
def parts_of(loss, z, t, v):
    """Everything that a loss says, compiled at once."""
    columns, c = loss.root(z, t), loss.coordinates(z, t)
    return {
        "value": loss.value(z, t),
        "slope": loss.gradient(z, t),
        "columns": columns,
        "c": c,
        "square": squared(columns),
        "sum": jnp.einsum("cn,cn...->n...", c.astype(z.dtype), columns),
        "pushed": loss.root_product(z, t, c),
        "bent": loss.hessian_product(z, t, v),
        "pulled": loss.root_transpose(z, t, v),
        "differentiated": jax.grad(lambda z: jnp.sum(loss.value(z, t)))(z),
    }


def squared(columns):
    flat = columns.reshape(*columns.shape[:2], -1)
    return jnp.einsum("cni,cnj->nij", flat, flat)


@pytest.fixture(scope="module", params=NOUNS, ids=lambda loss: type(loss).__name__)
def noun(request):
    return request.param


@pytest.mark.parametrize("shape", [(N, K), (N, R, K)], ids=["flat", "sequence"])
def test_all_parts_agree_with_the_textbook(noun, shape):
    z, t = problem(noun, shape)
    v = jnp.asarray(np.random.default_rng(1).standard_normal(shape))
    value, slope, bend = textbook(noun, z, t, jnp.full(shape[:-1], 1 / np.prod(shape[1:-1])))
    parts = parts_of(noun, z, t, v)
    rows = int(np.prod(shape[1:-1])) * (K - 1 if isinstance(noun, CrossEntropy) else K)
    assert parts["columns"].shape == (rows, *shape)
    assert parts["c"].shape == (rows, N)
    expected = {
        "value": value,
        "slope": slope,
        "square": bend,
        "sum": slope,
        "pushed": slope,
        "differentiated": slope,
        "bent": np.einsum("nij,nj->ni", bend, v.reshape(N, -1)).reshape(shape),
        "pulled": np.einsum("cnk,nk->cn", parts["columns"].reshape(rows, N, -1), v.reshape(N, -1)),
    }
    for name, exact in expected.items():
        np.testing.assert_allclose(parts[name], exact, rtol=1e-12, atol=1e-12, err_msg=name)


def test_the_comparison_sees_a_root_that_is_wrong(noun):
    z, t = problem(noun, (N, K))
    bend = textbook(noun, z, t, jnp.ones(N))[2]
    biased = parts_of(noun, z, t, z)["columns"] * (1 + 1e-6)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(squared(biased), bend, rtol=1e-12, atol=1e-12)


def test_one_number_for_each_example():
    for loss in (SquaredError(), Logistic(), Poisson()):
        z, t = problem(loss, (N, 1))
        np.testing.assert_array_equal(loss.value(z[:, 0], t[:, 0]), loss.value(z, t))
        assert loss.root(z[:, 0], t[:, 0]).shape == (1, N)
        np.testing.assert_array_equal(loss.coordinates(z[:, 0], t[:, 0]), loss.coordinates(z, t))


def test_axes_between_the_first_and_the_last_are_positions(noun):
    z, t = problem(noun, (N, R, 2, K))
    deep, flat = parts_of(noun, z, t, z), parts_of(noun, *(x.reshape(N, 2 * R, *x.shape[3:]) for x in (z, t, z)))
    for name in ("value", "c", "square"):
        np.testing.assert_array_equal(deep[name], flat[name])


# Extremes: many digits decide.


def exact_softmax(z, y):
    with mpmath.workdps(120):
        e = [mpmath.exp(mpmath.mpf(float(x))) for x in z]
        total = mpmath.fsum(e)
        p = [x / total for x in e]
        slope = [float(p[j] - (j == y)) for j in range(len(p))]
        bend = np.array([[float(p[i] * ((i == j) - p[j])) for j in range(len(p))] for i in range(len(p))])
        return float(-mpmath.log(p[y])), np.array(slope), bend


@given(LOGITS, st.integers(0, K - 1), st.sampled_from([np.float32, np.float64]))
def test_softmax_keeps_its_digits(logits, label, dtype):
    z = jnp.asarray(logits, dtype)[None]
    t = jnp.array([label])
    value, slope, bend = exact_softmax(z[0], label)
    eps, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).tiny)
    parts = parts_of(CrossEntropy(), z, t, z)
    assert parts["columns"].dtype == parts["c"].dtype == dtype
    # exp turns the rounding of an exponent of 100 into 100 eps, in every entry and down to where numbers underflow.
    close = {"rtol": 800 * eps, "atol": tiny**0.9}
    np.testing.assert_allclose(parts["value"][0], value, **close)
    np.testing.assert_allclose(parts["slope"][0], slope, **close)
    columns, c = (np.asarray(parts[name], np.float64)[:, 0] for name in ("columns", "c"))
    np.testing.assert_allclose(columns.T @ columns, bend, rtol=1600 * eps, atol=tiny**0.88)
    np.testing.assert_allclose(columns.T @ c, slope, rtol=0, atol=1600 * eps * np.abs(slope).max() + tiny**0.88)
    assert np.isfinite(np.sum(np.square(parts["c"])))


def test_a_textbook_complement_loses_the_digits_that_are_kept_here():
    z, t = jnp.array([[60.0, 0.0, 0.0, 0.0]]), jnp.array([0])
    exact = exact_softmax(z[0], 0)[1]
    assert np.abs(CrossEntropy().gradient(z, t)[0, 0] / exact[0] - 1) < 1e-12
    assert jax.nn.softmax(z)[0, 0] - 1 == 0.0


@given(st.floats(-50, 50), st.sampled_from([0.0, 1.0, 0.25]), st.sampled_from([np.float32, np.float64]))
def test_logistic_keeps_its_digits(logit, target, dtype):
    z, t = jnp.asarray([[logit]], dtype), jnp.asarray([[target]], dtype)
    with mpmath.workdps(60):
        e = mpmath.exp(mpmath.mpf(float(z[0, 0])))
        p, q = e / (1 + e), 1 / (1 + e)
        slope, bend = float((1 - target) * p - target * q), float(p * q)
        value = float((1 - target) * mpmath.log(1 + e) + target * mpmath.log(1 + 1 / e))
    parts, eps = parts_of(Logistic(), z, t, z), float(jnp.finfo(dtype).eps)
    # Two terms of opposite sign make the slope, each good to 50 eps of itself.
    np.testing.assert_allclose(parts["value"], value, rtol=400 * eps)
    np.testing.assert_allclose(parts["slope"], slope, rtol=400 * eps, atol=400 * eps * target * (1 - target))
    np.testing.assert_allclose(parts["square"], bend, rtol=400 * eps)
    np.testing.assert_allclose(parts["pushed"], parts["slope"], rtol=8 * eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [200.0, 1e4])
def test_nothing_overflows_far_beyond(dtype, size):
    z = jnp.asarray([[size, -size], [-size, size]], dtype)
    for loss, t in ((CrossEntropy(), jnp.array([1, 1])), (Logistic(), jnp.ones((2, 2), dtype))):
        parts = parts_of(loss, z, t, z)
        assert np.isfinite(np.sum(np.square(parts["c"]), dtype=dtype))
        np.testing.assert_allclose(parts["pushed"], parts["slope"], atol=1e-6)
        assert all(np.all(np.isfinite(part)) for part in parts.values())


def test_masked_logits_of_minus_infinity():
    z = jnp.array([[0.0, -jnp.inf, 1.0, 0.5]])
    with_mask = parts_of(CrossEntropy(), z, jnp.array([2]), jnp.ones_like(z))
    far = parts_of(CrossEntropy(), z.at[0, 1].set(-1e3), jnp.array([2]), jnp.ones_like(z))
    np.testing.assert_allclose(with_mask["slope"], far["slope"], rtol=1e-15)
    assert with_mask["slope"][0, 1] == 0
    assert np.all(np.isfinite(with_mask["columns"]))


# Targets: probabilities, weights, masks, nonsense.


def test_probabilities_as_targets():
    z, labels = problem(CrossEntropy(), (N, R, K))
    sure = jax.nn.one_hot(labels, K, dtype=z.dtype)
    smooth = 0.9 * sure + 0.1 / K
    loss = CrossEntropy()
    by_label, by_share, smoothed = (parts_of(loss, z, t, z) for t in (labels, sure, smooth))
    for name, exact in by_label.items():
        np.testing.assert_allclose(by_share[name], exact, rtol=1e-13, atol=1e-15, err_msg=name)
    np.testing.assert_allclose(smoothed["value"], jnp.mean(_softmax_textbook(z, smooth), 1), rtol=1e-13)
    for name in ("pushed", "sum", "slope"):
        np.testing.assert_allclose(smoothed[name], (jax.nn.softmax(z) - smooth) / R, rtol=1e-12, atol=1e-14)


def test_weights_weigh_curvature_as_the_loss(noun):
    z, t = problem(noun, (N, R, K))
    w = jnp.asarray(np.random.default_rng(5).uniform(0, 2, (N, R)))
    value, slope, bend = textbook(noun, z, t, w)
    weighted = Weighted(t, w)
    parts = parts_of(noun, z, weighted, z)
    for name, exact in {"value": value, "square": bend, "sum": slope, "pushed": slope}.items():
        np.testing.assert_allclose(parts[name], exact, rtol=1e-12, atol=1e-13, err_msg=name)
    np.testing.assert_array_equal(noun.weights(z, weighted), w)


def test_what_has_no_weight_is_never_looked_at(noun):
    z, t = problem(noun, (N, R, K))
    mask = jnp.array([[1, 1], [1, 0], [0, 0]])
    dirty = z.at[1, 1].set(jnp.nan).at[2].set(jnp.inf)
    bad = t.at[2].set(-7) if noun == CrossEntropy() else t.at[2].set(jnp.nan)
    for weigh in (example_mean, token_mean):
        kept = parts_of(noun, jnp.where(mask[..., None] != 0, z, 0.0), weigh(t, mask), jnp.ones_like(z))
        found = parts_of(noun, dirty, weigh(bad, mask), jnp.ones_like(z))
        for name, exact in kept.items():
            np.testing.assert_array_equal(found[name], exact, err_msg=name)
            assert np.all(np.isfinite(exact)), name


def test_what_masks_mean():
    z, t = problem(SquaredError(), (N, R, K))
    mask = jnp.array([[1, 1], [1, 0], [0, 0]])
    each = jnp.sum((z - t) ** 2, -1) / 2
    loss = SquaredError()
    np.testing.assert_allclose(loss.value(z, t), each.mean(1), rtol=1e-14)
    by_example = jnp.array([each[0].mean(), each[1, 0], 0.0])
    np.testing.assert_allclose(loss.value(z, example_mean(t, mask)), by_example, rtol=1e-14)
    by_token = (each[0].sum() + each[1, 0]) / 3
    np.testing.assert_allclose(loss.value(z, token_mean(t, mask)).mean(), by_token, rtol=1e-14)


def test_nonsense_is_refused_where_it_is_seen_and_poisons_under_jit():
    cases = [
        (CrossEntropy(), jnp.array([0, K, 1])),
        (CrossEntropy(), jnp.array([0, -1, 1])),
        (CrossEntropy(), jnp.full((N, K), 1 / K).at[1].set(1.0)),
        (Logistic(), jnp.zeros((N, K)).at[1, 0].set(2.0)),
        (Poisson(), jnp.zeros((N, K)).at[1, 0].set(-1.0)),
        (SquaredError(), jnp.zeros((N, K)).at[1, 0].set(jnp.nan)),
        (SquaredError(), Weighted(jnp.zeros((N, K)), jnp.array([1.0, -1.0, 1.0]))),
    ]
    z = jnp.zeros((N, K))
    for loss, t in cases:
        with pytest.raises(ValueError, match="example 1"):
            loss.value(z, t)
        np.testing.assert_array_equal(jnp.isnan(jax.jit(loss.value)(z, t)), [False, True, False])
        slope = jax.jit(jax.grad(lambda z, t, loss=loss: loss.value(z, t)[1]))(z, t)
        assert bool(jnp.all(jnp.isnan(slope[1])))
        assert bool(jnp.all(jnp.isnan(jax.jit(loss.coordinates)(z, t)[:, 1])))


def test_wrong_shapes_are_refused():
    z = jnp.zeros((N, K))
    for loss, outputs, t, words in [
        (CrossEntropy(), z, jnp.zeros((N, 1), int), "whole numbers of shape"),
        (CrossEntropy(), z, jnp.zeros(N), "whole numbers of shape"),
        (CrossEntropy(), z[:, 0], jnp.zeros(N, int), "logits"),
        (SquaredError(), z, jnp.zeros(N), "shape of the outputs"),
        (SquaredError(), z.astype(int), z, "floating-point"),
        (SquaredError(), z[:0], z[:0], "at least one example"),
        (SquaredError(), z, Weighted(z, jnp.ones((N, K))), "weights must have shape"),
    ]:
        with pytest.raises(ValueError, match=words):
            loss.value(outputs, t)
    with pytest.raises(ValueError, match="scalar"):
        token_mean(z, 1.0)


# Custom losses.

HEAVY = Custom(lambda z, t: jnp.sum(jnp.log(jnp.cosh(z - t))) + jnp.sum(z - t) ** 2, "log cosh")


@pytest.mark.parametrize("shape", [(N, K), (N, R, K), (N,)])
def test_custom_losses(shape):
    rng = np.random.default_rng(2)
    z, t = (jnp.asarray(rng.standard_normal(shape)) for _ in range(2))
    bend = jax.jit(jax.vmap(jax.hessian(HEAVY.function)))(z, t).reshape(N, z[0].size, z[0].size)
    slope = jax.jit(jax.vmap(jax.grad(HEAVY.function)))(z, t)
    parts = parts_of(HEAVY, z, t, z)
    product = np.einsum("nij,nj->ni", bend, z.reshape(N, -1)).reshape(shape)
    expected = {"square": bend, "sum": slope, "pushed": slope, "slope": slope, "differentiated": slope, "bent": product}
    expected["pulled"] = np.einsum("cnk,nk->cn", parts["columns"].reshape(-1, N, z[0].size), z.reshape(N, -1))
    for name, exact in expected.items():
        np.testing.assert_allclose(parts[name], exact, rtol=1e-11, atol=1e-12, err_msg=name)
    weighted = HEAVY.value(z, Weighted(t, jnp.array([1.0, 2.0, 0.5])))
    np.testing.assert_allclose(weighted, HEAVY.value(z, t) * jnp.array([1.0, 2.0, 0.5]), rtol=1e-14)


def test_a_custom_softmax_agrees_with_the_noun():
    custom = Custom(lambda z, t: jax.nn.logsumexp(z) - z[t], "softmax")
    z, t = problem(CrossEntropy(), (N, K))
    noun = CrossEntropy()
    ours, theirs = (parts_of(loss, z, t, z) for loss in (noun, custom))
    for name in ("value", "slope", "square", "sum", "bent"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-11, atol=1e-13, err_msg=name)
    # Both are the shortest.
    np.testing.assert_allclose(*(np.linalg.norm(parts["c"], axis=0) for parts in (ours, theirs)), rtol=1e-10)


def test_a_loss_without_a_usable_hessian():
    z, t = jnp.array([[1.0, 2.0], [0.0, 0.5]]), jnp.zeros((2, 2))
    saddle = Custom(lambda z, t: z[0] ** 2 - z[0] * z[1] ** 2, "saddle")
    with pytest.raises(ValueError, match="'saddle' is without a usable output Hessian: for example 0"):
        saddle.root(z, t)
    columns = jax.jit(saddle.root)(z, t)
    assert bool(jnp.all(jnp.isnan(columns[:, 0])))
    assert bool(jnp.all(jnp.isfinite(saddle.hessian_product(z, t, z))))
    absolute = Custom(lambda z, t: jnp.sum(jnp.abs(z - t)), "absolute")
    with pytest.raises(ValueError, match="no coordinates"):
        absolute.coordinates(z, t)
    assert bool(jnp.all(jnp.isnan(jax.jit(absolute.coordinates)(z, t)[:, 0])))
    with pytest.raises(ValueError, match="no likelihood"):
        absolute.sample(jax.random.key(0), z)


def test_custom_losses_that_are_none():
    with pytest.raises(ValueError, match="two arguments"):
        Custom(lambda z: z)
    with pytest.raises(ValueError, match="callable"):
        Custom(3)
    z = jnp.zeros((2, 2))
    with pytest.raises(ValueError, match="scalar"):
        Custom(lambda z, t: z - t).value(z, z)
    with pytest.raises(ValueError, match="examples along their first axis"):
        Custom(lambda z, t: jnp.sum(z)).value(z, jnp.zeros(3))
    with pytest.raises(ValueError, match="weights"):
        HEAVY.value(z, Weighted(z, jnp.array([1.0, -1.0])))


# Likelihoods, dtypes, transformations.


def test_samples_come_from_the_model(noun):
    draws = 4000
    z = jnp.broadcast_to(jnp.asarray([0.3, -0.7, 1.0, 0.0]), (draws, K))
    t = noun.sample(jax.random.key(3), z)
    drawn = jax.nn.one_hot(t, K, dtype=z.dtype) if noun == CrossEntropy() else t
    mean = {CrossEntropy(): jax.nn.softmax, Logistic(): jax.nn.sigmoid, Poisson(): jnp.exp}.get(noun, lambda z: z)(z[0])
    bend = textbook(noun, z[:1], targets_of(noun, (1, K)), jnp.ones(1))[2][0]
    # In natural parameters the Hessian is the variance of the targets.
    stderr = jnp.sqrt(jnp.diag(bend) / draws)
    assert_within_stderr(drawn.mean(0), stderr, mean)
    with pytest.raises(AssertionError):
        assert_within_stderr(drawn.mean(0) + 7 * stderr, stderr, mean)
    assert bool(jnp.all(jnp.isfinite(noun.value(z, t))))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes(noun, dtype):
    z, t = problem(noun, (N, K))
    z = z.astype(dtype)
    wide = np.float64 if dtype == "float64" else np.float32
    found = jax.eval_shape(partial(parts_of, noun), z, t, z)
    assert found["value"].dtype == found["c"].dtype == found["pulled"].dtype == wide
    assert found["columns"].dtype == found["slope"].dtype == found["bent"].dtype == found["pushed"].dtype == z.dtype
    assert found["differentiated"].dtype == z.dtype


def test_under_vmap_and_jit(noun):
    z, t = problem(noun, (N, R, K))
    together = noun.coordinates(z, t)
    apart = jax.jit(jax.vmap(lambda z, t: noun.coordinates(z[None], t[None])[:, 0], out_axes=1))(z, t)
    np.testing.assert_allclose(apart, together, rtol=1e-13, atol=1e-14)


def test_losses_are_static():
    assert hash(CrossEntropy()) == hash(CrossEntropy())
    assert Custom(jnp.dot) == Custom(jnp.dot)
    assert all(isinstance(loss, Loss) for loss in (*NOUNS, HEAVY))
