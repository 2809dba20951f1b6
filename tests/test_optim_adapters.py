"""Models of flax and equinox: the same values, the factors and the Gram matrix of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from thermolinalg.optim.factors import factors
from thermolinalg.optim.gram import gram
from thermolinalg.optim.sites import discover

# Outside libraries add biases by promotion of rank and mix dtypes.
pytestmark = pytest.mark.usefixtures("_lenient")

X = jax.random.normal(jax.random.key(1), (3, 4, 4, 2), jnp.float32)
TOKENS = jnp.array([[0, 3, 3], [5, 1, 0]])


@pytest.fixture(name="_lenient", autouse=True)
def lenient():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def linen_cases():
    nn = pytest.importorskip("flax.linen")
    from thermolinalg.optim.adapters.linen import apply

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.tanh(nn.Conv(3, (2, 2), strides=2)(x))
            x = nn.LayerNorm()(x.reshape(x.shape[0], -1))
            return nn.Dense(2)(nn.RMSNorm()(nn.Dense(4)(x)))

    class Attention(nn.Module):
        @nn.compact
        def __call__(self, ids):
            x = nn.Embed(6, 4)(ids)
            return nn.MultiHeadDotProductAttention(2)(nn.LayerNorm(use_bias=False)(x))

    for module, x in ((Net(), X), (Attention(), TOKENS)):
        params = module.init(jax.random.key(0), x)["params"]
        yield apply(module), params, x, module.apply({"params": params}, x)


def nnx_cases():
    nnx = pytest.importorskip("flax.nnx")
    from thermolinalg.optim.adapters.nnx import functional

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 3, (2, 2), strides=2, rngs=rngs)
            self.norm = nnx.LayerNorm(12, rngs=rngs)
            self.one, self.two = nnx.Linear(12, 4, rngs=rngs), nnx.Linear(4, 2, use_bias=False, rngs=rngs)
            self.rms = nnx.RMSNorm(4, rngs=rngs)

        def __call__(self, x):
            x = nnx.tanh(self.conv(x))
            return self.two(self.rms(self.one(self.norm(x.reshape(x.shape[0], -1)))))

    class Attention(nnx.Module):
        def __init__(self, rngs):
            self.embed = nnx.Embed(6, 4, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs, decode=False)

        def __call__(self, ids):
            return self.attention(self.embed(ids))

    for kind, x in ((Net, X), (Attention, TOKENS)):
        module = kind(nnx.Rngs(0))
        model, params = functional(module)
        yield model, params, x, module(x)


def equinox_cases():
    eqx = pytest.importorskip("equinox")
    from thermolinalg.optim.adapters.equinox import functional

    keys = jax.random.split(jax.random.key(0), 6)

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.LayerNorm
        mlp: eqx.nn.MLP

        def __init__(self):
            self.conv = eqx.nn.Conv2d(2, 3, 2, stride=2, key=keys[0])
            self.norm = eqx.nn.LayerNorm(12)
            self.mlp = eqx.nn.MLP(12, 2, 5, 1, activation=jnp.tanh, key=keys[1])

        def __call__(self, x):
            return self.mlp(self.norm(jnp.tanh(self.conv(jnp.moveaxis(x, -1, 0))).reshape(-1)))

    class Attention(eqx.Module):
        embed: eqx.nn.Embedding
        attention: eqx.nn.MultiheadAttention
        norm: eqx.nn.RMSNorm

        def __init__(self):
            self.embed = eqx.nn.Embedding(6, 4, key=keys[2])
            self.attention = eqx.nn.MultiheadAttention(2, 4, use_output_bias=True, key=keys[3])
            self.norm = eqx.nn.RMSNorm(4, use_bias=False)

        def __call__(self, ids):
            x = jax.vmap(self.norm)(jax.vmap(self.embed)(ids))
            return self.attention(x, x, x)

    for module, x in ((Net(), X.astype(float)), (Attention(), TOKENS)):
        yield *functional(module), x, jax.vmap(module)(x)


CASES = {"linen": linen_cases, "nnx": nnx_cases, "equinox": equinox_cases}


@pytest.mark.parametrize("library", CASES)
@pytest.mark.parametrize("which", [0, 1])
def test_a_model_of_another_library_is_tapped(library, which):
    model, params, x, exact = list(CASES[library]())[which]
    params = jax.tree.map(lambda w: w + 0.1, params)
    layout = discover(model, params, x)
    assert not layout.unclaimed, layout.report()
    y = jax.jit(model)(params, x)
    assert y.shape == exact.shape
    columns = jax.random.normal(jax.random.key(2), (2, *y.shape), y.dtype)
    found = jax.jit(lambda p, x, c: gram(model, p, x, c, layout))(params, x, columns)

    @jax.jit
    def gradient(x, c):
        grad = jax.vjp(lambda p: model(p, x[None]), params)[1](c[None])[0]
        return ravel_pytree(grad)[0]

    j = jnp.stack([gradient(x[i], columns[c, i]) for i in range(len(x)) for c in range(2)])
    np.testing.assert_allclose(found, j @ j.T, rtol=0, atol=1e-5 * float(jnp.abs(found).max()))
    pairs = jax.jit(lambda p, x, c: factors(model, p, x, c, layout))(params, x, columns)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(pairs))
    assert all(
        pair.a.shape[-1] == s.rows and pair.g.shape[-1] == s.columns
        for s, pair in ((s, pairs[s.path]) for s in layout.sites)
    )
    wide = jnp.abs(found - 1.01 * j @ j.T).max()
    assert wide > 1e-5 * float(jnp.abs(found).max())


@pytest.mark.parametrize("library", CASES)
@pytest.mark.parametrize("which", [0, 1])
def test_the_values_are_those_of_the_library(library, which):
    model, params, x, exact = list(CASES[library]())[which]
    np.testing.assert_allclose(model(params, x), exact, rtol=1e-6)
