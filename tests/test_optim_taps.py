"""Factors by definition, for every operation and under every transformation; rows and gradients likewise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from thermolinalg.optim.factors import Pair, factors, inactive
from thermolinalg.optim.layers import dense
from thermolinalg.optim.rows import gradient_rows, rows
from thermolinalg.optim.sites import Layout, discover
from thermolinalg.optim.taps import cast, value

TOLERANCE = 1e-12  # sums of some hundred products of numbers of order one, in double precision, with room


def relative(found, exact):
    return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))


def same(found, exact, tolerance=TOLERANCE):
    """Whether two sets of factors agree."""
    assert found.keys() == exact.keys()
    return all(
        relative(x, y) < tolerance
        for path in exact
        for x, y in ((found[path].a, exact[path].a), (found[path].g, exact[path].g))
    )


# A recurrent network, one weight used three times, and its factors from explicit activations and Jacobians.

N, D, K, STEPS = 4, 5, 3, 3
key = jax.random.split(jax.random.key(0), 6)
PARAMS = {
    "w": jax.random.normal(key[0], (D, D)) / 2,
    "b": jax.random.normal(key[1], (D,)) / 4,
    "head": jax.random.normal(key[2], (D, K)),
}
X = jax.random.normal(key[3], (N, D))
COLUMNS = jax.random.normal(key[4], (2, N, K))


def loop(p, x):
    for _ in range(STEPS):
        x = jnp.tanh(dense(x, p["w"], p["b"]))
    return dense(x, p["head"])


def scanned(p, x):
    x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(dense(x, p["w"], p["b"])), None), x, None, length=STEPS)
    return dense(x, p["head"])


def carried_weights(p, x):
    def step(carry, _):
        x, p = carry
        return (jnp.tanh(dense(x, p["w"], p["b"])), p), None

    (x, p), _ = jax.lax.scan(step, (x, p), None, length=STEPS)
    return dense(x, p["head"])


def counted(p, x):
    x = jax.lax.fori_loop(0, STEPS, lambda _, x: jnp.tanh(dense(x, p["w"], p["b"])), x)
    return dense(x, p["head"])


def unrolled_as_one_row(p, x):
    for _ in range(STEPS):
        x = jnp.tanh(dense(x[None], p["w"], p["b"])[0])
    return dense(x, p["head"])


def conditional(p, x):
    layer = lambda x: jnp.tanh(dense(x, p["w"], p["b"]))  # noqa: E731
    for _ in range(STEPS):
        x = jax.lax.cond(x[0, 0] < 1e9, layer, lambda x: 0 * x, x)
    return dense(x, p["head"])


def inner_jit(p, x):
    layer = jax.jit(lambda p, x: jnp.tanh(dense(x, p["w"], p["b"])))
    for _ in range(STEPS):
        x = layer(p, x)
    return dense(x, p["head"])


def transposed(p, x):
    for _ in range(STEPS):
        x = jnp.tanh(dense(x.T.T, p["w"], p["b"]))
    return dense(x, p["head"])


SPELLINGS = {
    "loop": loop,
    "scan": scanned,
    "weights in the carry": carried_weights,
    "fori_loop": counted,
    "one more axis": unrolled_as_one_row,
    "cond": conditional,
    "inner jit": inner_jit,
    "transposed twice": transposed,
    "vmap": lambda p, x: jax.vmap(loop, (None, 0))(p, x),
    "vmap of scan": lambda p, x: jax.vmap(scanned, (None, 0))(p, x),
    "remat": jax.checkpoint(loop),
    "remat of jit of scan": jax.checkpoint(jax.jit(scanned)),
    "vmap of remat": lambda p, x: jax.vmap(jax.checkpoint(loop), (None, 0))(p, x),
}


def activations(p, x):
    """Inputs of the recurrent layer, (N, STEPS, D), and of the head."""
    seen = []
    for _ in range(STEPS):
        seen.append(x)
        x = jnp.tanh(x @ p["w"] + p["b"][None])
    return jnp.stack(seen, 1), x


def offset(p, shift, x):
    """The network of one example with a shift (STEPS, D) of the pre-activations."""
    for t in range(STEPS):
        x = jnp.tanh(x @ p["w"] + p["b"] + shift[t])
    return x @ p["head"]


def definition(p, x, columns, reduced=False):
    """Factors from explicit activations and Jacobians."""
    inputs, last = activations(p, x)
    inputs = jnp.concatenate([inputs, jnp.ones((N, STEPS, 1))], -1)
    zero = jnp.zeros((STEPS, D))
    jacobian = jax.vmap(lambda x: jax.jacobian(lambda s: offset(p, s, x))(zero))(x)  # (N, K, STEPS, D)
    g = jnp.einsum("nktd,cnk->cntd", jacobian, columns)
    if reduced:
        inputs, g = inputs.mean(1, keepdims=True), g.sum(2, keepdims=True)
    n, uses = inputs.shape[:2]
    head = Pair(last.T @ last / n, jnp.einsum("cni,cnj->ij", columns, columns) / n)
    a = jnp.einsum("nti,ntj->ij", inputs, inputs) / (n * uses)
    return {"['w']": Pair(a, jnp.einsum("cnti,cntj->ij", g, g) / n), "['head']": head}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("reduced", [False, True])
def test_every_spelling_of_a_network_has_the_factors_of_the_definition(name, reduced):
    model = SPELLINGS[name]
    layout = discover(model, PARAMS, X, reduced=["['w']"] if reduced else [])
    assert not layout.unclaimed
    found = jax.jit(lambda p, x, c: factors(model, p, x, c, layout))(PARAMS, X, COLUMNS)
    assert same(found, definition(PARAMS, X, COLUMNS, reduced))
    assert not same(found, definition(PARAMS, X, COLUMNS, not reduced))


def test_eager_equals_jit():
    layout = discover(scanned, PARAMS, X)
    assert same(factors(scanned, PARAMS, X, COLUMNS, layout), definition(PARAMS, X, COLUMNS))


def test_a_missing_row_is_seen():
    exact = definition(PARAMS, X, COLUMNS)
    short = definition(PARAMS, X.at[0].set(X[1]), COLUMNS)
    assert not same(short, exact, 1e-3)


def test_whole_capture_under_vmap_keeps_the_members_apart():
    ensemble = jax.tree.map(lambda w: jnp.stack([w, 0.5 * w]), PARAMS)
    for reduced in ([], ["['w']"]):
        layout = discover(loop, PARAMS, X, reduced=reduced)
        found = jax.jit(jax.vmap(lambda p, layout=layout: factors(loop, p, X, COLUMNS, layout)))(ensemble)
        for i, scale in enumerate((1.0, 0.5)):
            member = jax.tree.map(lambda w, i=i: w[i], found)
            own = jax.tree.map(lambda w, scale=scale: scale * w, PARAMS)
            assert same(member, definition(own, X, COLUMNS, bool(reduced)))


def test_capture_under_vmap_of_inputs_or_columns():
    layout = discover(loop, PARAMS, X)
    twice = jnp.stack([X, 2 * X])
    found = jax.vmap(lambda x: factors(loop, PARAMS, x, COLUMNS, layout))(twice)
    assert same(jax.tree.map(lambda w: w[1], found), definition(PARAMS, 2 * X, COLUMNS))
    found = jax.vmap(lambda c: factors(loop, PARAMS, X, c, layout))(jnp.stack([COLUMNS, 2 * COLUMNS]))
    assert same(jax.tree.map(lambda w: w[1], found), definition(PARAMS, X, 2 * COLUMNS))


def test_micro_batches_average():
    layout = discover(loop, PARAMS, X)
    parts = [factors(loop, PARAMS, X[i : i + 2], COLUMNS[:, i : i + 2], layout) for i in (0, 2)]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *parts)
    assert same(mean, definition(PARAMS, X, COLUMNS))


def test_capture_inside_a_training_loop():
    layout = discover(loop, PARAMS, X)

    def step(p, _):
        found = factors(loop, p, X, COLUMNS, layout)
        return jax.tree.map(lambda w: 0.5 * w, p), found

    _, found = jax.jit(lambda p: jax.lax.scan(step, p, None, length=2))(PARAMS)
    halved = jax.tree.map(lambda w: 0.5 * w, PARAMS)
    assert same(jax.tree.map(lambda w: w[1], found), definition(halved, X, COLUMNS))


@pytest.fixture(scope="module")
def eight():
    x = jax.random.normal(jax.random.key(5), (8, D))
    columns = jax.random.normal(jax.random.key(6), (2, 8, K))
    layouts = [discover(loop, PARAMS, x), discover(loop, PARAMS, x, reduced=["['w']"])]
    return x, columns, layouts, [factors(loop, PARAMS, x, columns, layout) for layout in layouts]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_eight_devices_give_the_factors_of_one(eight, which, kind):
    x, columns, layouts, exact = eight
    axis = getattr(jax.sharding.AxisType, kind)
    mesh = jax.make_mesh((8,), ("i",), axis_types=(axis,))
    with jax.sharding.use_mesh(mesh) if hasattr(jax.sharding, "use_mesh") else jax.set_mesh(mesh):
        x = jax.device_put(x, jax.NamedSharding(mesh, P("i")))
        columns = jax.device_put(columns, jax.NamedSharding(mesh, P(None, "i")))
        params = jax.device_put(PARAMS, jax.NamedSharding(mesh, P()))
        found = jax.jit(lambda p, x, c: factors(loop, p, x, c, layouts[which]))(params, x, columns)
    assert same(jax.device_get(found), exact[which])


@pytest.mark.parametrize("which", [0, 1])
def test_shard_map_averages_to_the_factors_of_one_device(eight, which):
    x, columns, layouts, exact = eight
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))

    def local(p, x, c):
        return jax.lax.pmean(factors(loop, p, x, c, layouts[which]), "i")

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("i"), P(None, "i")), out_specs=P())
    assert same(jax.device_get(jax.jit(mapped)(PARAMS, x, columns)), exact[which])


def test_narrow_models_have_wide_factors():
    def narrow(p, x):
        return loop(cast(p, jnp.bfloat16), x.astype(jnp.bfloat16))

    params, x, columns = jax.tree.map(lambda w: w.astype(jnp.float32), (PARAMS, X, COLUMNS))
    layout = discover(narrow, params, x)
    found = factors(narrow, params, x, columns, layout)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    exact = jax.tree.map(lambda w: w.astype(jnp.float32), definition(PARAMS, X, COLUMNS))
    assert same(found, exact, 3e-2)  # four roundings of 2^-9 in a row, in inputs and cotangents, squared
    wide = definition(jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(jnp.float64), PARAMS), X, COLUMNS)
    assert not same(found, jax.tree.map(lambda w: w.astype(jnp.float32), wide), 1e-6)


def test_slots_cast_by_tree_map_are_refused():
    def careless(p, x):
        return loop(jax.tree.map(lambda w: w.astype(jnp.bfloat16), p), x.astype(jnp.bfloat16))

    layout = discover(careless, PARAMS, X)
    with pytest.raises(ValueError, match=r"optim\.cast"):
        factors(careless, PARAMS, X, COLUMNS, layout)


def test_a_frozen_branch_is_reported():
    def frozen(p, x):
        return dense(jax.lax.stop_gradient(jnp.tanh(dense(x, p["w"], p["b"]))), p["head"])

    found = factors(frozen, PARAMS, X, COLUMNS, discover(frozen, PARAMS, X))
    assert inactive(found) == ("['w']",)
    assert inactive(factors(loop, PARAMS, X, COLUMNS, discover(loop, PARAMS, X))) == ()
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(inactive)(found)


def test_tapped_weights_leave_values_and_gradients_alone():
    layout = discover(loop, PARAMS, X)
    from thermolinalg.optim.capture import wrap, zero_of, zero_slots
    from thermolinalg.optim.taps import SecondMoments

    slots = zero_slots(layout.sites, zero_of(X), SecondMoments())

    def loss(p, tapped):
        return jnp.sum(loop(wrap(p, layout, slots, SecondMoments()) if tapped else p, X) ** 2)

    plain, tapped = (jax.grad(loss)(PARAMS, t) for t in (False, True))
    for x, y in zip(jax.tree.leaves(plain), jax.tree.leaves(tapped), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-13)


# Rows.


def once(p, x):
    return dense(jnp.tanh(dense(x, p["w"], p["b"])), p["head"])


@pytest.mark.parametrize("model", [once, lambda p, x: jax.vmap(once, (None, 0))(p, x), jax.checkpoint(once)])
@pytest.mark.parametrize("positions", [0, 3])
def test_rows_add_up_to_the_gradient(model, positions):
    x = jax.random.normal(key[5], (N, positions, D)) if positions else X
    column = jnp.sin(model(PARAMS, x))
    layout = discover(model, PARAMS, x)
    found = jax.jit(lambda p, x, c: gradient_rows(model, p, x, c, layout))(PARAMS, x, column)
    exact = jax.vjp(lambda p: model(p, x), PARAMS)[1](column)[0]
    for site in layout.sites:
        a, g = found[site.path]
        assert a.shape == (N * max(positions, 1), site.rows)
        gradient = site.leaves(jnp.einsum("ni,nj->ij", a, g))
        for path, leaf in gradient.items():
            assert relative(leaf, exact[path[2:-2]]) < TOLERANCE


def test_rows_of_every_example_and_column():
    layout = discover(once, PARAMS, X)
    found = rows(once, PARAMS, X, COLUMNS, layout)
    for i in range(N):
        for c in range(2):
            exact = jax.vjp(lambda p, i=i: once(p, X[i : i + 1]), PARAMS)[1](COLUMNS[c, i : i + 1])[0]
            for site in layout.sites:
                a, g = found[site.path]
                for path, leaf in site.leaves(jnp.outer(a[i], g[i, c])).items():
                    assert relative(leaf, exact[path[2:-2]]) < TOLERANCE


def test_a_reused_weight_has_no_rows():
    layout = discover(scanned, PARAMS, X)
    assert jnp.all(jnp.isnan(gradient_rows(scanned, PARAMS, X, COLUMNS[0], layout)["['w']"][1]))
    found = rows(scanned, PARAMS, X, COLUMNS, layout)
    assert jnp.all(jnp.isnan(found["['w']"][1]))
    assert jnp.all(jnp.isfinite(found["['head']"][1]))
    layout = discover(loop, PARAMS, X)
    once_only = gradient_rows(loop, PARAMS, X, COLUMNS[0], layout)
    assert "['w']" not in once_only
    assert set(once_only) < {site.path for site in layout.sites}
    with pytest.raises(ValueError, match="exactly once"):
        rows(loop, PARAMS, X, COLUMNS, discover(loop, PARAMS, X))


# What is refused.


def test_a_bias_with_two_weights_is_refused():
    params = {"u": PARAMS["w"], "w": PARAMS["w"], "b": PARAMS["b"]}
    with pytest.raises(ValueError, match="two blocks"):
        discover(lambda p, x: dense(dense(x, p["u"], p["b"]), p["w"], p["b"]), params, X)
    with pytest.raises(ValueError, match="two different biases"):
        discover(lambda p, x: dense(dense(x, p["w"]), p["w"], p["b"]), params, X)


def test_untagged_use_of_a_claimed_weight_is_refused():
    with pytest.raises(ValueError, match=r"optim\.value"):
        discover(lambda p, x: dense(x, p["w"]) @ p["w"], PARAMS, X)
    tied = discover(lambda p, x: dense(x, p["w"]) @ value(p["w"]).T, PARAMS, X)
    assert tied.tied == {"['w']"}


def test_leaves_in_no_block_are_listed():
    layout = discover(lambda p, x: dense(jnp.dot(x, p["w"]) + p["b"][None], p["head"]), PARAMS, X)
    assert layout.unclaimed == ("['b']", "['w']")
    assert "in no block" in layout.report()
    assert discover(lambda p, x: x @ p["w"], PARAMS, X).sites == ()


def test_shapes_that_do_not_match_are_refused():
    layout = discover(loop, PARAMS, X)
    with pytest.raises(ValueError, match="params do not match"):
        factors(loop, {**PARAMS, "w": jnp.ones((2, 2))}, X, COLUMNS, layout)
    with pytest.raises(ValueError, match="n = 3"):
        factors(loop, PARAMS, X[:3], COLUMNS, layout)
    with pytest.raises(ValueError, match="columns must have the shape"):
        factors(loop, PARAMS, X, COLUMNS[..., :1], layout)
    with pytest.raises(ValueError, match="at least one example"):
        discover(loop, PARAMS, X[:0])
    with pytest.raises(ValueError, match="reduced must name"):
        discover(loop, PARAMS, X, reduced=["['x']"])
    with pytest.raises(ValueError, match="axis of examples"):
        discover(loop, PARAMS, {"x": X, "temperature": jnp.ones(())})


def test_stacks_must_lead():
    experts = {"w": jnp.ones((D, 2, K))}
    with pytest.raises(ValueError, match="lead with the stacked axes"):
        discover(lambda p, x: jax.vmap(dense, (None, 1))(x, p["w"]).sum(0), experts, X)


def test_layouts_are_static_data():
    layout = discover(loop, PARAMS, X)
    assert hash(layout) == hash(discover(loop, PARAMS, X))
    assert layout == discover(loop, PARAMS, X)
    assert isinstance(layout, Layout)
