"""The page on experiments is what its numbers say."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def maker():
    found = importlib.util.spec_from_file_location("page_on_experiments", DOCS / "experiments.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_page_is_up_to_date(maker):
    made = maker.page()
    assert "{{" not in made
    assert maker.PAGE.read_text() == made, "run python docs/experiments.py"


def test_other_numbers_make_another_page(maker, monkeypatch):
    changed = {"runs": {label: dict(run) for label, run in maker.part("time")["runs"].items()}}
    run = changed["runs"]["t = 50"]
    run["test_loss"] = [[*curve[:-1], curve[-1] + 0.01] for curve in run["test_loss"]]
    before = maker.table("time")
    monkeypatch.setattr(maker, "part", lambda name: {"steps": 620, "seeds": [0, 1, 2]} | changed)
    assert maker.table("time") != before


def test_all_parts_are_shown_and_all_figures_are_there(maker):
    marks = maker.MARK.findall(maker.TEMPLATE.read_text())
    assert {name for kind, name, _ in marks if kind == "table"} == {path.stem for path in maker.NUMBERS.glob("*.json")}
    names = re.findall(r"\]\((images/[\w.-]+)\)", maker.PAGE.read_text())
    assert len(names) == len(maker.drawn()) >= 4
    assert all((DOCS / "pages" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_numbers_are_of_full_runs(maker):
    for path in maker.NUMBERS.glob("*.json"):
        found = maker.part(path.stem)
        for label, run in found["runs"].items():
            assert np.all(maker.ends(run, "step") == found["steps"]), label
            assert run["rejected"] == [0] * len(found["seeds"]), label


def test_prose_says_what_tables_say(maker):
    def end(part, label, column="train_loss"):
        return np.mean(maker.ends(maker.part(part)["runs"][label], column))

    # Longer is better, and 50 is near to exact.
    losses = [end("time", label) for label in ("t = 5", "t = 10", "t = 20", "t = 50", "exact NGD")]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < 1.15 * losses[4]
    # It is the carried state and not the delay.
    carried = [end("delay", f"t = 5, carried, delay {delay:g}") for delay in (0, 0.2, 1)]
    assert max(carried) < 0.6 * end("delay", "exact NGD")
    assert max(carried) < 1.05 * min(carried)
    assert end("delay", "SPRING, its implicit twin") < 1.15 * carried[0]
    # Behind Adam in the end; tuned, ahead in training, and not in tests.
    for column, sign in (("train_loss", 1), ("test_loss", 1), ("train_score", -1), ("test_score", -1)):
        ends = [end("headline", f"{name}, as published", column) for name in ("TNGD", "Adam")]
        assert sign * ends[0] > sign * ends[1]
    assert end("headline", "TNGD, as published") > end("headline", "Adam, tuned")
    rivals = ("Adam, tuned", "Adam, tuned, falling rate")
    assert end("headline", "NGD, tuned") < 0.6 * min(end("headline", label) for label in rivals)
    assert end("headline", "NGD, tuned", "test_loss") > end("headline", rivals[1], "test_loss")
    scores = [maker.ends(maker.part("headline")["runs"][label], "test_score") for label in ("NGD, tuned", rivals[1])]
    assert abs(np.mean(scores[0]) - np.mean(scores[1])) < np.hypot(*(np.std(score, ddof=1) for score in scores))
    assert end("headline", "TNGD-Adam, tuned") > 0.9 * end("headline", "Adam, tuned")
    assert end("headline", "NGD, tuned", "wall_seconds") > 2 * end("headline", "Adam, tuned", "wall_seconds")
    # Noise that a short time forgives.
    assert end("noise", "t = 1, κ₀ = 0.01") == pytest.approx(end("noise", "t = 1, κ₀ = 0"), rel=0.02)
    assert end("noise", "t = 50, κ₀ = 0.01") > 1.5 * end("noise", "t = 50, κ₀ = 0")
    assert end("noise", "t = 50, κ₀ = 0.001") > 1.03 * end("noise", "t = 50, κ₀ = 0")
