"""Questions whose answer is a part of a passage, and a small change of MiniLM-L6 that learns to find it."""

import gzip
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import thermolinalg.experiments.minilm as minilm
from thermolinalg.experiments.datasets import Dataset, Examples
from thermolinalg.experiments.lora import LowRank
from thermolinalg.experiments.minilm import Tokens
from thermolinalg.experiments.problem import Problem
from thermolinalg.optim.layers import dense
from thermolinalg.optim.losses import CrossEntropy

FOLDER = Path("benchmarks/data")
FILE = "squad-v1.1-train-subset.json.gz"


class Passages(NamedTuple):
    """Inputs: a question and a passage, and which words belong to the passage, boolean (n, t)."""

    tokens: Tokens
    passage: Any


@dataclass(frozen=True)
class Question:
    """A question, its passage, and where in it the answer stands.

    Attributes
    ----------
    text, passage, answer : str
    start : int
        Of the answer, in characters.
    number : int
        Of the passage.
    """

    text: str
    passage: str
    answer: str
    start: int
    number: int


def read_questions(folder: Path = FOLDER) -> list[Question]:
    """Return the questions whose answer stands in one place of the passage only, in the order of the file.

    Raises
    ------
    ValueError
        If the file is missing or is not what it should be.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such file; it is in benchmarks/data of the source, give that folder by --data"
        )
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        passages = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
        questions = [
            Question(asked["question"], part["context"], answer["text"], answer["answer_start"], number)
            for number, part in enumerate(passages)
            for asked in part["qas"]
            for answer in asked["answers"][:1]
        ]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is damaged or not in the layout of SQuAD ({type(error).__name__})") from None
    return [question for question in questions if question.passage.count(question.answer) == 1]


def encode(tokenizer: Any, questions: list[Question], length: int) -> Examples:
    """Return questions as numbers, without those whose answer is cut off.

    Parameters
    ----------
    tokenizer : Tokenizer
        From :func:`~thermolinalg.experiments.minilm.load_tokenizer`.
    questions : list of Question
    length : int
        Words of question and passage; passages are cut there.

    Returns
    -------
    Examples
        Inputs :class:`Passages`; targets (n, 2), the first and the last word of the answer.
    """
    tokenizer.enable_truncation(length, strategy="only_second")
    found, targets = [], []
    pairs = tokenizer.encode_batch([(question.text, question.passage) for question in questions])
    for question, words in zip(questions, pairs, strict=True):
        inside = [j for j, text in enumerate(words.sequence_ids) if text == 1]
        end = question.start + len(question.answer) - 1
        span = [_word_at(words.offsets, inside, place) for place in (question.start, end)]
        if None not in span:
            padding = [0] * (length - len(words.ids))
            mask, passage = np.zeros((2, length), bool)
            mask[: len(words.ids)], passage[inside] = True, True
            found.append((words.ids + padding, words.type_ids + padding, mask, passage))
            targets.append(span)
    tokenizer.no_truncation()
    if not found:
        raise ValueError(f"no answer lies within the first {length} words of question and passage; take a longer cut")
    ids, types, mask, passage = (np.array(part) for part in zip(*found, strict=True))
    tokens = Tokens(ids.astype(np.int32), types.astype(np.int32), mask)
    return Examples(Passages(tokens, passage), np.array(targets, np.int32))


def span_logits(params: Any, inputs: Passages, base: Any, change: LowRank) -> jax.Array:
    """Return logits of the first and the last word of the answer, shape (n, 2, t); outside the passage, -1e4."""
    hidden = minilm.hidden_states(base, inputs.tokens, change, params["layers"])
    logits = jnp.swapaxes(dense(hidden, params["head"]["w"], params["head"]["b"]), 1, 2)
    return jnp.where(inputs.passage[:, None], logits, jnp.asarray(-1e4, logits.dtype))


def exact_span(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return 1 for every example whose answer is found, first and last word, else 0.

    Examples
    --------
    >>> logits = jnp.array([[[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]])
    >>> exact_span(logits, jnp.array([[2, 2]])).tolist(), exact_span(logits, jnp.array([[1, 2]])).tolist()
    ([1.0], [0.0])
    """
    return jnp.all(jnp.argmax(outputs, -1).astype(targets.dtype) == targets, -1).astype(jnp.float32)


def squad_problem(
    key: jax.Array, folder: Path | None = None, *, change: LowRank | None = None, length: int = 192, smoke: bool = False
) -> Problem:
    """Return the problem of finding answers by a low-rank change of MiniLM-L6 and a linear head.

    Parameters
    ----------
    key : PRNG key
        Of the start.
    folder : Path, optional
        Of the file of questions; ``benchmarks/data`` by default.
    change : LowRank, optional
        By default rank 2, alpha 32, on query, key, value and the output of attention.
    length : int
        Words of question and passage.
    smoke : bool
        Two layers of the model and a few passages only.

    Returns
    -------
    Problem
        The loss is the mean of the cross-entropies of the first and the last word.

    Notes
    -----
    The questions of the last eighth of the passages are for tests. Articles are not told apart, so paragraphs of one
    may fall on both sides. There is no dropout.
    """
    change = change or LowRank()
    questions, length = read_questions(folder or FOLDER), 96 if smoke else length
    if smoke:
        questions = [question for question in questions if question.number < 16]
    last = questions[-1].number
    tokenizer = minilm.load_tokenizer()
    held_back = [question.number > last * 7 // 8 for question in questions]
    sides = ([q for q, held in zip(questions, held_back, strict=True) if held is side] for side in (False, True))
    train, test = (encode(tokenizer, side, length) for side in sides)
    source = "SQuAD v1.1, a subset of its training part, Rajpurkar et al. 2016, CC BY-SA 4.0"
    data = Dataset("squad", train, test, source)
    base = minilm.load_params()
    if smoke:
        base["layers"] = jax.tree.map(lambda x: x[:2], base["layers"])
    layers, width, _ = base["layers"]["query"]["w"].shape
    first, second = jax.random.split(key)
    head = jax.random.normal(first, (width, 2), jnp.float32) / jnp.asarray(width**0.5, jnp.float32)
    params = {
        "layers": change.init(second, layers, width),
        "head": {"w": head, "b": jnp.zeros(2, jnp.float32)},
    }
    model = partial(span_logits, change=change)
    return Problem(model, CrossEntropy(), params, data, exact_span, "exact spans", (base,))


def _word_at(offsets: list[tuple[int, int]], inside: list[int], place: int) -> int | None:
    """The word of the passage that a character belongs to."""
    return next((j for j in inside if offsets[j][0] <= place < offsets[j][1]), None)
