"""Training at the command line, run in this process, on tiny data."""

import json

import jax
import numpy as np
import pytest
from shell import run

from thermolinalg.commands import problems
from thermolinalg.commands.recipes import BackendName, OptimizerName, Reading, Recipe
from thermolinalg.experiments.datasets import Dataset, Examples
from thermolinalg.experiments.history import History, Measurement
from thermolinalg.figures.training import training_figure
from thermolinalg.presets import ideal, rc


@pytest.fixture(autouse=True)
def _usual_promotion():
    """As at the command line: optax.adam does not work under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True)
def _bars(monkeypatch):
    """Small bars in place of digits: which of four columns is bright."""

    def read(folder):
        draw = np.random.default_rng(0)
        labels = draw.integers(0, 4, 80).astype(np.int32)
        images = 0.1 * draw.standard_normal((80, 4, 4, 1))
        images[np.arange(80), :, labels] += 1
        examples = Examples(images.astype(np.float32), labels)
        return Dataset("digits", examples.part(slice(None, 60)), examples.part(slice(60, None)), "made up")

    monkeypatch.setitem(problems._READERS, problems.DataName.digits, read)


def test_a_comparison_is_reported_drawn_and_written(tmp_path):
    out, plot = tmp_path / "out.json", tmp_path / "curves.png"
    numbers = ("--steps", "8", "--every", "4", "--batch", "20", "--learning-rate", "0.3", "--damping", "0.2")
    outcome = run("train", "digits", "--smoke", *numbers, "--compare", "adam", "--json", out, "--plot", plot)
    assert outcome.exit_code == 0, outcome.stderr
    report = json.loads(out.read_text())
    assert report["problem"]["data"] == "digits"
    assert report["problem"]["parameters"] == 16 * 10 + 10
    assert (report["problem"]["training_examples"], report["problem"]["test_examples"]) == (60, 20)
    assert report["course"] == {"steps": 8, "batch": 20, "every": 4, "measured": 64}
    assert report["device"] is None
    first, second = report["runs"]
    settings = {"learning_rate": 0.3, "momentum": 0.9, "backend": "cholesky", "damping": 0.2}
    assert first["settings"] == settings
    assert second["settings"] == {"learning_rate": 1e-3, "momentum": 0.9}
    for history in (first, second):
        assert len(history["losses"]) == 8
        assert [m["step"] for m in history["measurements"]] == [0, 4, 8]
        assert history["measurements"][0]["train_loss"] == pytest.approx(first["measurements"][0]["train_loss"])
    assert first["measurements"][-1]["test_loss"] < 0.7 * second["measurements"][-1]["test_loss"]
    assert first["measurements"][-1]["train_score"] > 0.9
    assert {"thermolinalg", "jax", "optax", "python"} == set(report["versions"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    for text in ("kfac, cholesky", "adam", "train loss", "test accuracy", "device s, modelled", "rejected"):
        assert text in outcome.stdout
    assert f"{first['measurements'][-1]['test_loss']:.4g}" in outcome.stdout


def test_a_device_has_a_modelled_time(tmp_path):
    out = tmp_path / "out.json"
    given = ("--backend", "thermodynamic-solve", "--device", "rc", "--bits", "8", "--time", "1e4")
    course = ("--steps", "2", "--every", "1", "--batch", "20")
    outcome = run("train", "digits", "--smoke", *course, *given, "--json", out)
    assert outcome.exit_code == 0, outcome.stderr
    report = json.loads(out.read_text())
    assert report["device"]["bits"] == {"couplings": 8, "forces": 8, "readings": 8}
    assert (report["device"]["noise"], report["device"]["time"]) == (None, 1e4)
    (history,) = report["runs"]
    times = [m["device_seconds"] for m in history["measurements"]]
    # One microsecond is a time constant. Two factors, of 17 and of 10 unknowns: 10 and 17 runs a step.
    assert times[0] == 0
    assert times[2] - times[1] == pytest.approx(27 * 1e4 * 1e-6, rel=0.05)
    assert history["measurements"][2]["train_loss"] < history["measurements"][0]["train_loss"]


@pytest.mark.parametrize("backend", list(BackendName))
def test_every_backend_is_built(backend):
    task = problems.image_problem(problems.DataName.digits, problems.ModelName.mlp, None, True, jax.random.key(0)).task
    recipe = Recipe(OptimizerName.kfac, backend, Reading(rc(bits=8), None, 1e4))
    assert hasattr(recipe.build(task), "update")
    assert recipe.name == f"kfac, {backend}"


def test_noise_is_what_runs_are_planned_for():
    assert Reading(ideal(), 0.1, 1e4).inverse.rtol == 0.1
    assert Reading(ideal(), 0.1, 1e4).solve.plan is None
    plan = Reading(ideal(), None, 1e4).solve.plan
    assert plan.total == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits", "--optimizer", "ngd"), "ngd is not yet there"),
        (("digits", "--compare", "tngd"), "tngd is not yet there"),
        (("digits", "--optimizer", "adam", "--backend", "cg"), "--backend is what inverts"),
        (("digits", "--bits", "8"), "take --backend thermodynamic"),
        (("digits", "--noise", "0.1"), "take --backend thermodynamic"),
        (("digits", "--damping", "-1"), "damping must be positive"),
        (("digits", "--learning-rate", "0"), "learning_rate must be positive"),
        (("digits", "--batch", "61"), "batch must be at most the number of examples, 60"),
        (("mnist", "--data", "x"), "--data is where the files of fashion or squad lie"),
        (("fashion", "--data", "nowhere"), "apt-get install dataset-fashion-mnist"),
        (("squad", "--model", "cnn"), "--model is one of images"),
        (("squad", "--data", "nowhere"), "there is no such file"),
        (("digits", "--plot", "x.pdf"), "must end in .png"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments, words):
    outcome = run("train", *arguments, "--smoke")
    assert outcome.exit_code == 2
    assert words in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def history(device):
    rows = [Measurement(n, 1 / (n + 1), 0.5, 2 / (n + 1), 0.4, 0.1 * n, device * n, device * n) for n in range(3)]
    return History("run", "accuracy", np.ones(2), tuple(rows), 1.0, 0, 0, 0, {})


def test_modelled_time_has_a_column_where_there_is_any():
    assert len(training_figure([history(0.0)], "title").axes) == 4
    figure = training_figure([history(0.0), history(2.0)], "title")
    assert len(figure.axes) == 6
    last = figure.axes[2]
    assert "modelled" in last.get_xlabel()
    (test, training) = last.get_lines()
    assert test.get_xdata().tolist() == [0, 2, 4]
    assert test.get_ydata() == pytest.approx([2, 1, 2 / 3])
    assert training.get_ydata() == pytest.approx([1, 1 / 2, 1 / 3])
