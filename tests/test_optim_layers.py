"""Every tagged layer: its value, its packing, and its factors against the exact Gauss-Newton block.

A tagged layer on its own is a linear network: with the identity for columns its exact block is the mean of J^T J.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import keystr, tree_flatten_with_path

from thermolinalg.optim.factors import factors
from thermolinalg.optim.layers import bias, conv, dense, einsum, embed, scale
from thermolinalg.optim.rows import gradient_rows
from thermolinalg.optim.sites import discover

TOLERANCE = 1e-12
N = 3


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def relative(found, exact):
    return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))


def flat(y):
    return y.reshape(y.shape[0], -1)


W = {"w": draw(0, 4, 2), "b": draw(1, 2)}
HEADS = {"w": draw(0, 4, 2, 3), "b": draw(1, 2, 3)}
ONE_D = {"w": draw(0, 3, 2, 4), "b": draw(1, 4)}
TWO_D = {"w": draw(0, 2, 3, 2, 4), "b": draw(1, 4)}
FIRST = {"w": draw(0, 4, 2, 2, 3), "b": draw(1, 4)}
PAIRED = {"w": draw(0, 3, 2, 4), "b": draw(1, 4)}
PADS = [(1, 0), (0, 2)]

# name: model, parameters, input, reference written with plain JAX, uses per example
LAYERS = {
    "dense": (lambda p, x: dense(x, p["w"], p["b"]), W, draw(9, N, 4), lambda p, x: x @ p["w"] + p["b"][None]),
    "dense, no bias": (lambda p, x: dense(x, p["w"]), {"w": W["w"]}, draw(9, N, 4), lambda p, x: x @ p["w"]),
    "dense, out first": (
        lambda p, x: dense(x, p["w"], p["b"], out_first=True),
        {"w": W["w"].T, "b": W["b"]},
        draw(9, N, 4),
        lambda p, x: x @ p["w"].T + p["b"][None],
    ),
    "dense, positions": (
        lambda p, x: dense(x, p["w"], p["b"]),
        W,
        draw(9, N, 5, 4),
        lambda p, x: x @ p["w"] + p["b"][None, None],
    ),
    "dense, kept pair": (
        lambda p, x: dense(x, p["w"], p["b"]),
        HEADS,
        draw(9, N, 4),
        lambda p, x: jnp.tensordot(x, p["w"], 1) + p["b"][None],
    ),
    "dense, contracted pair": (
        lambda p, x: dense(x, p["w"], p["b"], in_ndim=2),
        PAIRED,
        draw(9, N, 3, 2),
        lambda p, x: jnp.tensordot(x, p["w"], 2) + p["b"][None],
    ),
    "einsum, projection": (
        lambda p, x: einsum("btd,dhk->bthk", x, p["w"], p["b"]),
        HEADS,
        draw(9, N, 5, 4),
        lambda p, x: jnp.tensordot(x, p["w"], 1) + p["b"][None, None],
    ),
    "einsum, heads before positions": (
        lambda p, x: einsum("btd,dhk->bhtk", x, p["w"], p["b"]),
        HEADS,
        draw(9, N, 5, 4),
        lambda p, x: jnp.moveaxis(jnp.tensordot(x, p["w"], 1) + p["b"][None, None], 2, 1),
    ),
    "einsum, contracted pair": (
        lambda p, x: einsum("bthk,khd->btd", x, p["w"], p["b"]),
        PAIRED,
        draw(9, N, 5, 2, 3),
        lambda p, x: jnp.tensordot(x, p["w"], ((3, 2), (0, 1))) + p["b"][None, None],
    ),
    "einsum, experts": (
        lambda p, x: einsum("bed,edf->bef", x, p["w"], p["b"]),
        {"w": draw(0, 2, 4, 3), "b": draw(1, 2, 3)},
        draw(9, N, 2, 4),
        lambda p, x: jnp.stack([x[:, e] @ p["w"][e] + p["b"][e][None] for e in range(2)], 1),
    ),
    "vmap over experts": (
        lambda p, x: jax.vmap(dense, (1, 0, 0), 1)(x, p["w"], p["b"]),
        {"w": draw(0, 2, 4, 3), "b": draw(1, 2, 3)},
        draw(9, N, 2, 4),
        lambda p, x: jnp.stack([x[:, e] @ p["w"][e] + p["b"][e][None] for e in range(2)], 1),
    ),
    "conv": (
        lambda p, x: conv(x, p["w"], p["b"]),
        TWO_D,
        draw(9, N, 4, 5, 2),
        lambda p, x: plain_conv(x, p["w"], "SAME") + p["b"][None, None, None],
    ),
    "conv, stride and padding": (
        lambda p, x: conv(x, p["w"], p["b"], stride=(2, 1), padding=PADS, dilation=(1, 2)),
        TWO_D,
        draw(9, N, 4, 5, 2),
        lambda p, x: plain_conv(x, p["w"], PADS, stride=(2, 1), dilation=(1, 2)) + p["b"][None, None, None],
    ),
    "conv, 1-d": (
        lambda p, x: conv(x, p["w"], p["b"], padding="VALID", stride=2),
        ONE_D,
        draw(9, N, 7, 2),
        lambda p, x: plain_conv(x[:, None], p["w"][None], "VALID", stride=(1, 2))[:, 0] + p["b"][None, None],
    ),
    "conv, channels first": (
        lambda p, x: conv(x, p["w"], p["b"], channels_first=True, padding="VALID"),
        FIRST,
        draw(9, N, 2, 4, 5),
        lambda p, x: jnp.moveaxis(
            plain_conv(jnp.moveaxis(x, 1, -1), p["w"].transpose(2, 3, 1, 0), "VALID") + p["b"][None, None, None], -1, 1
        ),
    ),
    "conv, groups": (
        lambda p, x: conv(x, p["w"], p["b"], groups=2),
        {"w": draw(0, 2, 3, 2, 4), "b": draw(1, 4)},
        draw(9, N, 3, 4, 4),
        lambda p, x: (
            jnp.concatenate(
                [plain_conv(x[..., 2 * g : 2 * g + 2], p["w"][..., 2 * g : 2 * g + 2], "SAME") for g in range(2)], -1
            )
            + p["b"][None, None, None]
        ),
    ),
    "conv, groups, channels first, by vmap": (
        lambda p, x: jax.vmap(lambda x: conv(x, p["w"], p["b"], groups=2, channels_first=True))(x),
        {"w": draw(0, 4, 2, 3), "b": draw(1, 4)},
        draw(9, N, 4, 5),
        lambda p, x: jnp.stack(
            [
                jnp.concatenate(
                    [
                        plain_conv(
                            x[i, 2 * g : 2 * g + 2].T[None, None],
                            p["w"][2 * g : 2 * g + 2].transpose(2, 1, 0)[None],
                            "SAME",
                        )[0, 0].T
                        for g in range(2)
                    ]
                )
                + p["b"][:, None]
                for i in range(N)
            ]
        ),
    ),
    "bias": (lambda p, x: bias(x, p["b"]), {"b": draw(1, 4)}, draw(9, N, 4), lambda p, x: x + p["b"][None]),
    "bias, positions": (
        lambda p, x: bias(x, p["b"]),
        {"b": draw(1, 2, 3)},
        draw(9, N, 5, 2, 3),
        lambda p, x: x + p["b"][None, None],
    ),
    "scale and shift": (
        lambda p, x: scale(x, p["s"], p["b"]),
        {"s": draw(0, 4), "b": draw(1, 4)},
        draw(9, N, 5, 4),
        lambda p, x: x * p["s"][None, None] + p["b"][None, None],
    ),
    "scale": (lambda p, x: scale(x, p["s"]), {"s": draw(0, 4)}, draw(9, N, 4), lambda p, x: x * p["s"][None]),
    "scale, shift of its own": (
        lambda p, x: scale(x, p["s"], jnp.ones(4)),
        {"s": draw(0, 4)},
        draw(9, N, 4),
        lambda p, x: x * p["s"][None] + 1,
    ),
    "embedding": (
        lambda p, ids: embed(ids, p["w"]),
        {"w": draw(0, 6, 2)},
        jnp.array([[0, 3, 3], [5, 1, 0], [2, 2, 2]]),
        lambda p, ids: jax.nn.one_hot(ids, 6) @ p["w"],
    ),
}


def plain_conv(x, w, padding, stride=(1, 1), dilation=(1, 1)):
    """A convolution as a sum over explicit windows."""
    height, width = ((n - 1) * d + 1 for n, d in zip(w.shape[:2], dilation, strict=True))
    if padding == "SAME":
        pads = [(size - 1) // 2 for size in (height, width)]
        padding = [(low, size - 1 - low) for low, size in zip(pads, (height, width), strict=True)]
    if padding == "VALID":
        padding = [(0, 0), (0, 0)]
    x = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    rows, columns = (range(0, x.shape[i + 1] - (height, width)[i] + 1, stride[i]) for i in range(2))
    return jnp.stack(
        [
            jnp.stack(
                [jnp.tensordot(x[:, i : i + height : dilation[0], j : j + width : dilation[1]], w, 3) for j in columns],
                1,
            )
            for i in rows
        ],
        1,
    )


@pytest.fixture(scope="module", params=LAYERS)
def layer(request):
    model, params, x, reference = LAYERS[request.param]
    return model, params, x, reference, discover(model, params, x)


def test_the_layer_computes_what_it_says(layer):
    model, params, x, reference, _ = layer
    assert relative(model(params, x), reference(params, x)) < TOLERANCE


def test_packing_is_undone_by_unpacking(layer):
    _, params, _, _, layout = layer
    leaves = {keystr(path): leaf for path, leaf in tree_flatten_with_path(params)[0]}
    (site,) = layout.sites
    assert site.matrix(leaves).shape == (*site.lead, site.rows, site.columns)
    for path, leaf in site.leaves(site.matrix(leaves)).items():
        np.testing.assert_array_equal(leaf, leaves.pop(path))
    assert not leaves


def test_rows_of_one_column_add_up_to_the_gradient(layer):
    model, params, x, reference, layout = layer
    y = reference(params, x)
    column = draw(7, *y.shape)
    exact = jax.vjp(lambda p: reference(p, x), params)[1](column)[0]
    exact = {keystr(path): leaf for path, leaf in tree_flatten_with_path(exact)[0]}
    (site,) = layout.sites
    a, g = gradient_rows(model, params, x, column, layout)[site.path]
    found = site.leaves(jnp.einsum("n...i,n...j->...ij", a, g))
    assert found.keys() == exact.keys()
    for path, leaf in exact.items():
        assert relative(found[path], leaf) < TOLERANCE


def test_factors_are_moments_of_the_rows(layer):
    model, params, x, reference, layout = layer
    y = reference(params, x)
    columns = draw(8, 2, *y.shape)
    (site,) = layout.sites
    pair = jax.jit(lambda p, x, c: factors(model, p, x, c, layout))(params, x, columns)[site.path]
    per_column = [gradient_rows(model, params, x, c, layout)[site.path] for c in columns]
    a, g = per_column[0][0], jnp.stack([g for _, g in per_column])
    if site.path in layout.reduced:  # biases and scales: sums over an example, exact blocks
        a = jnp.ones_like(a.reshape(N, -1, *a.shape[1:])).mean(1)
        g = g.reshape(2, N, -1, *g.shape[2:]).sum(2)
    exact = jnp.einsum("n...i,n...j->...ij", a, a) / a.shape[0]
    if site.diagonal:
        exact = jnp.diagonal(exact, axis1=-2, axis2=-1)
    assert relative(pair.a, exact) < TOLERANCE
    assert relative(pair.g, jnp.einsum("cn...i,cn...j->...ij", g, g) / N) < TOLERANCE
    assert relative(pair.g * 1.001, jnp.einsum("cn...i,cn...j->...ij", g, g) / N) > 1e-4


def gauss_newton(reference, params, x, site):
    """The exact block of one site for the identity as the root, from explicit Jacobians."""
    jacobian = jax.jacobian(lambda p: reference(p, x))(params)
    named = {keystr(path): leaf for path, leaf in tree_flatten_with_path(jacobian)[0]}
    outputs = reference(params, x).size
    pack = lambda leaves: site.matrix(leaves).reshape(-1)  # noqa: E731
    sizes = {path: (site.shape if path == site.path else site.bias_shape) for path in named}
    flat = {path: leaf.reshape(outputs, *sizes[path]) for path, leaf in named.items()}
    rows = jax.vmap(pack)(flat)
    return rows.T @ rows / N


@pytest.mark.parametrize("name", ["dense", "dense, out first", "dense, kept pair", "dense, contracted pair", "bias"])
def test_blocks_of_a_linear_network_are_exact(name):
    model, params, x, reference = LAYERS[name]
    layout = discover(model, params, x)
    (site,) = layout.sites
    y = reference(params, x)
    count = y[0].size
    columns = jnp.broadcast_to(jnp.eye(count).reshape(count, 1, *y.shape[1:]), (count, *y.shape))
    pair = factors(model, params, x, columns, layout)[site.path]
    exact = gauss_newton(reference, params, x, site)
    assert relative(jnp.kron(pair.a, pair.g), exact) < TOLERANCE
    assert relative(jnp.kron(pair.g, pair.a), exact) > 1e-2 or site.rows == 1


@pytest.mark.parametrize("pooled", [False, True])
def test_expand_and_reduce_are_exact_in_their_own_settings(pooled):
    params = {"u": draw(0, 4, 3), "b": draw(1, 3), "w": draw(2, 3, 2)}

    def model(p, x):
        y = dense(dense(x, p["u"], p["b"]), p["w"])
        return y.mean(1) if pooled else y

    def plain(p, x):
        y = (x @ p["u"] + p["b"][None, None]) @ p["w"]
        return y.mean(1) if pooled else y

    x = draw(9, N, 5, 4)
    count = 2 if pooled else 10
    shape = (2,) if pooled else (5, 2)
    columns = jnp.broadcast_to(jnp.eye(count).reshape(count, 1, *shape), (count, N, *shape))
    for reduced in (False, True):
        layout = discover(model, params, x, reduced=["['u']", "['w']"] if reduced else [])
        found = factors(model, params, x, columns, layout)
        for site in layout.sites:
            exact = gauss_newton_of(plain, params, x, site)
            error = relative(jnp.kron(found[site.path].a, found[site.path].g), exact)
            assert error < TOLERANCE if reduced == pooled else error > 0.1


def gauss_newton_of(plain, params, x, site):
    """The exact block of one of several sites."""
    own = {path[2:-2]: params[path[2:-2]] for path in (site.path, site.bias) if path is not None}
    return gauss_newton(lambda p, x: plain({**params, **p}, x), own, x, site)


@pytest.mark.parametrize("positions", [0, 5])
def test_the_block_of_a_scale_is_exact(positions):
    model, params, _, _ = LAYERS["scale and shift"]
    x = draw(9, N, positions, 4) if positions else draw(9, N, 4)
    mixed = draw(3, max(positions, 1) * 4, 6)

    def head(y):
        return jnp.tanh(flat(y) @ mixed)

    def plain(p, x):
        lead = (None,) * (x.ndim - 1)
        return head(x * p["s"][lead] + p["b"][lead])

    whole = lambda p, x: head(model(p, x))  # noqa: E731
    layout = discover(whole, params, x)
    (site,) = layout.sites
    columns = jnp.broadcast_to(jnp.eye(6)[:, None], (6, N, 6))
    pair = factors(whole, params, x, columns, layout)[site.path]
    assert relative(pair.a, jnp.ones((1, 1))) == 0
    assert relative(pair.g, gauss_newton(plain, params, x, site)) < TOLERANCE


def test_stacked_layers_of_a_scan_have_factors_of_their_own():
    params = {"w": draw(0, 3, 4, 4) / 2, "b": draw(1, 3, 4)}

    def scanned(p, x):
        return jax.lax.scan(lambda x, p: (jnp.tanh(dense(x, p["w"], p["b"])), None), x, p)[0]

    def indexed(p, x):
        for i in range(3):
            x = jnp.tanh(dense(x, p["w"][i], p["b"][i]))
        return x

    def apart(p, x):
        for layer in p:
            x = jnp.tanh(dense(x, layer["w"], layer["b"]))
        return x

    x, columns = draw(9, N, 4), draw(8, 2, N, 4)
    layers = [jax.tree.map(lambda w, i=i: w[i], params) for i in range(3)]
    exact = factors(apart, layers, x, columns, discover(apart, layers, x))
    for model in (scanned, indexed):
        layout = discover(model, params, x)
        assert layout.sites[0].lead == (3,)
        pair = factors(model, params, x, columns, layout)["['w']"]
        for i in range(3):
            assert relative(pair.a[i], exact[f"[{i}]['w']"].a) < TOLERANCE
            assert relative(pair.g[i], exact[f"[{i}]['w']"].g) < TOLERANCE


def test_embedding_counts_do_not_depend_on_how_examples_are_mapped():
    model, params, ids, _ = LAYERS["embedding"]
    by_vmap = lambda p, ids: jax.vmap(lambda ids: model(p, ids))(ids)  # noqa: E731
    columns = draw(8, 2, 3, 3, 2)
    found = [factors(m, params, ids, columns, discover(m, params, ids))["['w']"] for m in (model, by_vmap)]
    np.testing.assert_allclose(found[0].a, np.bincount(ids.reshape(-1), minlength=6) / 9, rtol=1e-15)
    assert relative(found[1].a, found[0].a) < TOLERANCE
    assert relative(found[1].g, found[0].g) < TOLERANCE


@pytest.mark.parametrize(
    ("subscripts", "match"),
    [
        ("bd,df", "must read"),
        ("...d,df->...f", "every axis"),
        ("bb,bf->bf", "repeat"),
        ("bds,df->bf", "one argument only"),
    ],
)
def test_einsums_that_are_no_layers_are_refused(subscripts, match):
    with pytest.raises(ValueError, match=match):
        einsum(subscripts, jnp.ones((2, 2)), jnp.ones((2, 2)))


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="input axes"):
        dense(jnp.ones((2, 3)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="bias must have shape"):
        dense(jnp.ones((2, 3)), jnp.ones((3, 2)), jnp.ones(3))
    with pytest.raises(ValueError, match="channels do not fit"):
        conv(jnp.ones((1, 4, 4, 3)), jnp.ones((2, 2, 2, 4)))
    with pytest.raises(ValueError, match="at most one for examples"):
        conv(jnp.ones((4, 3)), jnp.ones((2, 2, 3, 4)))
    with pytest.raises(ValueError, match="stride"):
        conv(jnp.ones((1, 4, 4, 3)), jnp.ones((2, 2, 3, 4)), stride=0)
    with pytest.raises(ValueError, match="integers"):
        embed(jnp.ones(3), jnp.ones((4, 2)))
    with pytest.raises(ValueError, match="end in the axes"):
        scale(jnp.ones((2, 3)), jnp.ones(2))
    with pytest.raises(ValueError, match="two different kinds"):
        discover(lambda p, x: dense(embed(x, p["w"]), p["w"]), {"w": jnp.ones((3, 3))}, jnp.ones(2, int))
