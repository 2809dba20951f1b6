"""Training at the command line, run in this process, on tiny data."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shell import run

import thermolinalg as tla
from thermolinalg.commands import problems
from thermolinalg.commands.recipes import BackendName, LaneName, OptimizerName, Reading, Recipe
from thermolinalg.commands.training import _columns
from thermolinalg.experiments import models
from thermolinalg.experiments.datasets import Dataset, Examples
from thermolinalg.experiments.history import History, Measurement
from thermolinalg.figures.training import training_figure
from thermolinalg.optim.fisher import exact, monte_carlo
from thermolinalg.optim.loading import relaxation_cost
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
    numbers = ("--steps", "12", "--every", "4", "--batch", "20", "--learning-rate", "0.3", "--damping", "0.2")
    outcome = run("train", "digits", "--smoke", *numbers, "--compare", "adam", "--json", out, "--plot", plot)
    assert outcome.exit_code == 0, outcome.stderr
    report = json.loads(out.read_text())
    assert report["problem"]["data"] == "digits"
    assert report["problem"]["parameters"] == 16 * 10 + 10
    assert (report["problem"]["training_examples"], report["problem"]["test_examples"]) == (60, 20)
    assert report["course"] == {"steps": 12, "batch": 20, "every": 4, "measured": 64}
    assert report["device"] is None
    first, second = report["runs"]
    settings = {"learning_rate": 0.3, "momentum": 0.9, "backend": "cholesky", "damping": 0.2}
    assert first["settings"] == settings
    assert second["settings"] == {"learning_rate": 1e-3, "momentum": 0.9}
    for history in (first, second):
        assert len(history["losses"]) == 12
        assert [m["step"] for m in history["measurements"]] == [0, 4, 8, 12]
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


COURSE = ("--smoke", "--steps", "3", "--every", "3", "--batch", "20")


def runs_of(out, *given):
    outcome = run("train", "digits", *COURSE, *given, "--json", out)
    assert outcome.exit_code == 0, outcome.stderr
    return json.loads(out.read_text()), outcome


def test_thermodynamic_natural_gradient_is_told_its_settings_and_has_a_modelled_time(tmp_path):
    given = ("--optimizer", "tngd", "--relaxation", "5", "--carry", "--delay", "0.5", "--temperature", "1e-4")
    report, outcome = runs_of(tmp_path / "out.json", *given, "--damping", "0.01", "--bits", "8", "--compare", "ngd")
    thermal, exact = report["runs"]
    expected = {"relaxation": 5.0, "carry": True, "delay": 0.5, "temperature": 1e-4}
    assert expected.items() <= thermal["settings"].items()
    assert (exact["settings"]["lane"], exact["settings"]["columns"]) == ("by sizes", "exact")
    assert report["device"]["bits"] == {"couplings": 8, "forces": 8, "readings": 8}
    assert "noise" not in report["device"]
    converter = tla.Converter(8)
    device = tla.Device(matrix_dac=converter, force_dac=converter, adc=converter)
    # The Hessian of ten outputs has rank nine.
    ledger = relaxation_cost(5.0, device, rows=20 * 9, parameters=16 * 10 + 10)
    assert thermal["measurements"][-1]["device_seconds"] == pytest.approx(3 * ledger.total, rel=1e-5)
    assert exact["measurements"][-1]["device_seconds"] == 0
    assert "UNRELAXED in 3 of 3 steps" in outcome.stdout


def test_a_long_relaxation_is_natural_gradient_and_a_short_one_is_not(tmp_path):
    def end(*given):
        numbers = ("--learning-rate", "0.3", "--damping", "0.1", "--momentum", "0")
        history = runs_of(tmp_path / "out.json", *given, *numbers)[0]["runs"][0]
        return history["measurements"][-1]["train_loss"]

    exact = end("--optimizer", "ngd", "--lane", "dual")
    assert end("--optimizer", "ngd", "--lane", "primal") == pytest.approx(exact, rel=1e-4)
    # Of the slowest part of the gradient e^-20 is left.
    assert end("--optimizer", "tngd", "--relaxation", "200") == pytest.approx(exact, rel=1e-4)
    assert abs(end("--optimizer", "tngd", "--relaxation", "0.01") - exact) > 1e-2 * exact


def test_columns_of_many_outputs_are_drawn():
    narrow = problems.image_problem(problems.DataName.digits, problems.ModelName.mlp, None, True, jax.random.key(0))
    wide = replace(narrow, model=lambda params, inputs: jnp.tile(models.mlp(params, inputs), 4))
    assert (_columns(narrow), _columns(wide)) == (exact, monte_carlo)


@pytest.mark.parametrize("optimizer", list(OptimizerName))
def test_every_optimizer_is_built(optimizer):
    task = problems.image_problem(problems.DataName.digits, problems.ModelName.mlp, None, True, jax.random.key(0)).task
    recipe = Recipe(optimizer, BackendName.cholesky, Reading(ideal(), None, 1e4), lane=LaneName.cg)
    assert hasattr(recipe.build(task), "update")
    assert recipe.on_device == ("tngd" in optimizer)


def test_noise_is_what_runs_are_planned_for():
    assert Reading(ideal(), 0.1, 1e4).inverse.rtol == 0.1
    assert Reading(ideal(), 0.1, 1e4).solve.plan is None
    plan = Reading(ideal(), None, 1e4).solve.plan
    assert plan.total == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits", "--lane", "cg"), "--lane is how ngd solves"),
        (("digits", "--optimizer", "ngd", "--carry"), "are those of tngd"),
        (("digits", "--optimizer", "adam", "--temperature", "0"), "are those of tngd"),
        (("digits", "--optimizer", "adam", "--damping", "1"), "--damping is added to a curvature"),
        (("digits", "--optimizer", "tngd", "--delay", "1"), "delay needs carry_state"),
        (("digits", "--optimizer", "tngd", "--relaxation", "0"), "time must be positive"),
        (("digits", "--optimizer", "tngd", "--beta", "2"), "take --temperature and --relaxation"),
        (("digits", "--optimizer", "tngd", "--noise", "0.1"), "take --temperature and --relaxation"),
        (("digits", "--optimizer", "tngd-adam", "--backend", "cg"), "--backend is what inverts"),
        (("digits", "--optimizer", "tngd", "--device", "lc8"), "the device 8 cells"),
        (("digits", "--optimizer", "ngd", "--bits", "8"), "or --optimizer tngd"),
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
