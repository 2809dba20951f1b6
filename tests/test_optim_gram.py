"""The Gram matrix from rows against J J^T, for every route."""

import jax
import jax.numpy as jnp
import pytest

from thermolinalg.optim.gram import gram
from thermolinalg.optim.layers import bias, conv, dense, einsum, embed, scale
from thermolinalg.optim.sites import discover
from thermolinalg.optim.taps import value

TOLERANCE = 1e-12
N, C = 3, 2


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def explicit(model, params, x, columns):
    """J J^T from one backward pass per example and column."""

    @jax.jit
    def one(x, c):
        grad = jax.vjp(lambda p: model(p, x[None]), params)[1](c[None])[0]
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(grad)])

    j = jnp.concatenate([jnp.stack([one(x[i], columns[c, i]) for c in range(C)]) for i in range(N)])
    return j @ j.T


def relative(found, exact):
    return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))


def norm(x):
    return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))


MLP = {"u": draw(0, 4, 5), "c": draw(1, 5), "w": draw(2, 5, 3), "s": draw(3, 5), "t": draw(4, 5), "free": draw(5, 3)}
SQUARE = {"w": draw(0, 4, 4) / 2, "b": draw(1, 4)}


def network(p, x):
    x = scale(norm(jnp.tanh(dense(x, p["u"], p["c"]))), p["s"], p["t"])
    return dense(x, p["w"]) * p["free"].reshape((1,) * (x.ndim - 1) + (-1,))


def scanned(p, x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(dense(x, p["w"], p["b"])), None), x, None, length=3)[0]


def stacked(p, x):
    return jax.lax.scan(lambda x, p: (jnp.tanh(dense(x, p["w"], p["b"])), None), x, p)[0]


def repeated(p, x):
    return jnp.tanh(dense(jnp.tanh(dense(x, p["w"], p["b"])), p["w"], p["b"]))


def tied(p, x):
    return dense(jnp.tanh(embed(x, p["w"])), p["v"]) @ value(p["w"]).T


MODELS = {
    "used once": (network, MLP, draw(9, N, 4)),
    "positions": (network, MLP, draw(9, N, 6, 4)),
    "two positions": (network, MLP, draw(9, N, 2, 4)),
    "vmap over examples": (lambda p, x: jax.vmap(network, (None, 0))(p, x), MLP, draw(9, N, 2, 4)),
    "loop": (scanned, SQUARE, draw(9, N, 4)),
    "unrolled": (repeated, SQUARE, draw(9, N, 4)),
    "stack": (stacked, {"w": draw(0, 3, 4, 4) / 2, "b": draw(1, 3, 4)}, draw(9, N, 4)),
    "experts": (
        lambda p, x: einsum("bed,edf->bef", x, p["w"], p["b"]),
        {"w": draw(0, 2, 4, 3), "b": draw(1, 2, 3)},
        draw(9, N, 2, 4),
    ),
    "conv": (
        lambda p, x: bias(conv(x, p["w"], stride=2), p["b"]),
        {"w": draw(0, 3, 3, 2, 3), "b": draw(1, 3)},
        draw(9, N, 4, 4, 2),
    ),
    "groups": (lambda p, x: conv(x, p["w"], groups=2, stride=3), {"w": draw(0, 3, 2, 4)}, draw(9, N, 6, 4)),
    "embedding": (lambda p, x: embed(x, p["w"]), {"w": draw(0, 30, 2)}, jnp.array([[0, 3, 3], [5, 1, 0], [2, 2, 2]])),
    "tied": (tied, {"w": draw(0, 6, 2), "v": draw(1, 2, 2)}, jnp.array([[0, 3], [5, 1], [2, 2]])),
    "nothing tagged": (lambda p, x: jnp.tanh(x @ p["w"]), {"w": draw(0, 4, 4)}, draw(9, N, 4)),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    model, params, x = MODELS[request.param]
    columns = draw(8, C, *model(params, x).shape)
    return model, params, x, columns, explicit(model, params, x, columns)


def test_gram_matrix_is_that_of_the_gradients(case):
    model, params, x, columns, exact = case
    layout = discover(model, params, x)
    found = jax.jit(lambda p, x, c: gram(model, p, x, c, layout))(params, x, columns)
    assert found.shape == (N * C, N * C)
    assert found.dtype == jnp.float64
    assert relative(found, exact) < TOLERANCE
    assert relative(found.T, found) < TOLERANCE
    swapped = jax.tree.map(lambda leaf: leaf[::-1], x)
    assert relative(explicit(model, params, swapped, columns), exact) > 1e-3


def test_members_of_an_ensemble_stay_apart():
    ensemble = jax.tree.map(lambda w: jnp.stack([w, 0.5 * w]), SQUARE)
    x, columns = draw(9, N, 4), draw(8, C, N, 4)
    for model in (scanned, lambda p, x: dense(x, p["w"], p["b"])):
        layout = discover(model, SQUARE, x)
        found = jax.jit(jax.vmap(lambda p, layout=layout, model=model: gram(model, p, x, columns, layout)))(ensemble)
        for i in range(2):
            own = jax.tree.map(lambda w, i=i: w[i], ensemble)
            assert relative(found[i], explicit(model, own, x, columns)) < TOLERANCE


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_mesh_of_eight_devices_gives_the_matrix_of_one(kind):
    mesh = jax.make_mesh((8,), ("i",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    x, columns = draw(9, 8, 4), draw(8, C, 8, 4)
    layout = discover(scanned, SQUARE, x)
    exact = gram(scanned, SQUARE, x, columns, layout)
    split = jax.sharding.PartitionSpec("i")
    across = jax.sharding.PartitionSpec(None, "i")
    with jax.sharding.use_mesh(mesh) if hasattr(jax.sharding, "use_mesh") else jax.set_mesh(mesh):
        x = jax.device_put(x, jax.NamedSharding(mesh, split))
        columns = jax.device_put(columns, jax.NamedSharding(mesh, across))
        params = jax.device_put(SQUARE, jax.NamedSharding(mesh, jax.sharding.PartitionSpec()))
        found = jax.jit(lambda p, x, c: gram(scanned, p, x, c, layout))(params, x, columns)
    assert relative(jax.device_get(found), exact) < TOLERANCE


def test_no_jacobian_of_a_weight_used_once_is_formed():
    params = {"w": draw(0, 200, 300)}
    model = lambda p, x: dense(x, p["w"])  # noqa: E731
    x, columns = draw(9, 4, 200), draw(8, 3, 4, 300)
    layout = discover(model, params, x)
    compiled = jax.jit(lambda p, x, c: gram(model, p, x, c, layout)).lower(params, x, columns).compile()
    jacobian = 12 * 200 * 300 * 8
    assert compiled.memory_analysis().temp_size_in_bytes < jacobian / 4
