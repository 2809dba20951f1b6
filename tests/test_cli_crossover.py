"""``thermolinalg crossover``, run in this process."""

import csv
import json
import math

import pytest
import sympy as sp
from shell import run, run_json

from thermolinalg.commands import contests, methods
from thermolinalg.commands.options import AnalogName, ChipName, CircuitName, DigitalName
from thermolinalg.complexity import Limit, crossover
from thermolinalg.complexity.symbols import GLOSSARY, kappa

AT = ("--at", "kappa=100", "--at", "rtol=0.00390625")


def asked(*arguments):
    return run_json("crossover", *arguments)


def test_crossover_is_that_of_arithmetic():
    report = asked(*AT)
    (size,) = report["crossovers"]
    gpu = (size**3 / 3 + size**2 / 2 + size / 6 + 2 * size**2) / (0.3 * 66.9e12)
    device = (size**2 + 2 * size) * 16 / 5e10 + 100e-6 * math.log(256)
    assert gpu == pytest.approx(device, rel=1e-9)
    assert report["windows"] == []
    # Words and memory would do at this size: the reason names what does not.
    assert report["reason"].endswith("but not within the limits of one array")


def test_a_faster_link_moves_it_as_the_elasticity_says():
    (before,), (after,) = (asked(*AT, "--at", f"B_L={rate}")["crossovers"] for rate in (5e10, 5.05e10))
    rows = {row[0]: row for row in asked(*AT)["tables"][1]["rows"]}
    percent = rows["B_L"][-1]
    assert math.log(after / before) / math.log(1.01) == pytest.approx(percent, rel=0.02)
    # The other rate of the problem moves it the other way.
    assert rows["F"][-1] * percent < 0


def test_window_of_two_baselines_is_that_of_the_analysis():
    given = ("--at", "n=16384", "--at", "rtol=0.00390625", "--at", "tau=1e-7", "--at", "B_L=1e12")
    report = asked("--digital", "cholesky", "--digital", "cg", "--variable", "kappa", *given)
    assert report["crossovers"] == pytest.approx([75.28, 1.2404e5], rel=1e-3)
    assert report["windows"] == []  # no array holds it
    held = {row[0]: row[1:3] for row in report["tables"][0]["rows"]}
    assert held["limit: precision"] == pytest.approx([1, 256])
    assert held["limit: one array"] == ["nowhere", "nowhere"]


def test_a_window_within_all_limits():
    given = ("--at", "n=1024", "--at", "rtol=0.00390625", "--at", "tau=1e-8", "--at", "B_L=8e12")
    report = asked("--digital", "cholesky", "--digital", "cg", "--variable", "kappa", *given)
    ((low, high),) = report["windows"]
    assert (low, high) == pytest.approx((1.2345, 256), rel=1e-2)


def test_limits_that_only_together_leave_nothing_are_said_so():
    size = sp.Symbol("x", positive=True)
    apart = (Limit("first", size, sp.Integer(10)), Limit("second", sp.Integer(20), size))
    found = crossover(sp.Integer(2), sp.Integer(1), size, {}, 1, 100, apart)
    assert found.ahead == ()
    assert found.reason.endswith("not within all limits together")
    alone = crossover(sp.Integer(2), sp.Integer(1), size, {}, 1, 5, apart)
    assert alone.reason.endswith("not within the limits of second")


def test_no_crossover_is_an_answer():
    report = asked("--digital", "cg", "--at", "kappa=1", "--at", "rtol=0.5", "--at", "B_L=1e9", "--to", "1e6")
    assert report["crossovers"] == []
    assert "no crossover: digital costs less throughout" in report["reason"]
    assert {row[-1] for row in report["tables"][1]["rows"]} == {"no crossover"}


def test_layer_is_that_of_the_closed_form():
    (size,) = asked("--digital", "kfac", "--analog", "kfac", *AT)["crossovers"]
    a, b, c = 14 / (3 * 0.3 * 66.9e12), 6 * 16 / 5e10, 2 * 100 * 1e-6 * math.log(256)
    assert size == pytest.approx((b + math.sqrt(b**2 + 4 * a * c)) / (2 * a), rel=1e-4)  # but for n^2 on the chip


@pytest.mark.parametrize("digital", DigitalName)
def test_every_digital_method_meets_one_of_a_device(digital):
    partners = [name for name in AnalogName if methods.ANALOG[name].problem == methods.DIGITAL[digital].problem]
    assert partners
    assert methods.DIGITAL[digital].stored is not None


@pytest.mark.parametrize("analog", AnalogName)
def test_every_method_of_a_device_is_compared(analog):
    problem = methods.ANALOG[analog].problem
    digital = next(name for name in DigitalName if methods.DIGITAL[name].problem == problem)
    given = ["kappa=100", "rtol=0.01", *(["b=64"] if "rows" in analog else [])]
    if "rows" in analog:
        digital = DigitalName.kfac_rows
    contest = contests.Contest.prepare([digital], ChipName.h100, analog, CircuitName.rc, "n", given, None, 1e8)
    contest.answer()
    contest.basis()


def test_files_are_written(tmp_path):
    names = {"--csv": "a.csv", "--latex": "a.tex", "--figure": "a.png"}
    files = {option: tmp_path / name for option, name in names.items()}
    outcome = run("crossover", *AT, *(part for pair in files.items() for part in pair))
    assert outcome.exit_code == 0, outcome.stderr
    assert outcome.stdout.splitlines()[0].endswith("?")
    assert "multiplications and additions count one each" in outcome.stdout
    rows = list(csv.reader(files["--csv"].read_text().splitlines()))
    assert rows[0] == ["counted", "n from", "n to", "why"]
    assert files["--latex"].read_text().count(r"\begin{tabular}") == 2
    assert files["--figure"].read_bytes().startswith(b"\x89PNG")


def test_list_names_everything():
    outcome = run("crossover", "--list")
    assert outcome.exit_code == 0
    for name in (*DigitalName, *AnalogName, *ChipName, *CircuitName, "kappa", "B_L"):
        assert str(name) in outcome.stdout
    tables = json.loads(run("crossover", "--list", "--json").stdout)["tables"]
    assert len(tables) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--at", "kappa=100"], "epsilon (relative error wanted, in the norm that the model names) has no value; give"),
        ([*AT, "--digital", "cholesky-inverse"], "gives an inverse and --analog solve linear systems"),
        ([*AT, "--on", "TPUv3"], "TPU v3 fp32 peak was not found"),
        ([*AT, "--at", "kapa=3"], "'kapa' is no symbol"),
        ([*AT, "--at", "kappa"], "--at must be NAME=VALUE"),
        ([*AT, "--at", "N=3"], "N is in none of these costs"),
        (["--at", "kappa=0.5", "--at", "rtol=0.1"], "kappa (condition number"),
        ([*AT, "--variable", "kappa"], "leave one of them out"),
        ([*AT, "--variable", "N"], "N is in none of these costs"),
        ([*AT, "--from", "10", "--to", "1"], "need 0 < low < high"),
        ([*AT, "--csv", "table.txt"], "must end in .csv"),
        (["--list", "--figure", "a.png"], "there is no figure"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, words):
    outcome = run("crossover", *arguments)
    assert outcome.exit_code == 2
    assert words in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert outcome.stdout == ""


def test_a_peak_that_was_not_found_can_be_given():
    report = asked(*AT, "--on", "TPUv3", "--at", "F=1e13")
    origin = {row[0]: row[4] for row in report["tables"][1]["rows"]}
    assert (origin["F"], origin["eta"], origin["q"], origin["B_L"]) == ("given", "assumption", "chosen", "assumption")


def test_search_begins_where_numbers_make_sense():
    for symbol in (kappa, *methods.CHOSEN):
        low, high = contests._range(symbol, None)
        assert max(GLOSSARY[symbol].low, 0) <= low < high <= GLOSSARY[symbol].high
