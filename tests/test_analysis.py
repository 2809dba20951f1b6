"""Tables, the command line that scripts share, and every script of the analysis on few points."""

import ast
import csv
import importlib
import io
import math
import sys
from pathlib import Path

import pytest
import sympy as sp

from thermolinalg.complexity.report import Table

FOLDER = Path(__file__).parent.parent / "analysis"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "asking")
DRAWN = [name for name in SCRIPTS if "def figure(" in (FOLDER / f"{name}.py").read_text()]


@pytest.fixture(autouse=True)
def scripts_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture(scope="module")
def tables_of():
    """Tables of a script on few points, made once."""
    made = {}

    def tables(name):
        if name not in made:
            made[name] = importlib.import_module(name).tables(True)
        return made[name]

    return tables


def body(latex):
    """Rows of a tabular, columns first."""
    return [line for line in latex.splitlines() if line.endswith(r"\\") and not line.startswith("%")]


def faults(table):
    """What is wrong with a table in any of its forms."""
    found = []
    if not table.text().splitlines()[0].endswith("?"):
        found.append("the first line is no question")
    rows = list(csv.reader(io.StringIO(table.csv(), newline="")))
    if rows[0] != list(table.columns) or len(rows) != len(table.rows) + 1:
        found.append("CSV has other rows")
    for row, cells in zip(rows[1:], table.rows, strict=False):
        for written, cell in zip(row, cells, strict=True):
            if isinstance(cell, (int, float)) and not isinstance(cell, bool):
                # Three digits: at most half a unit of the third, of a number that begins with 1.
                if float(written) != pytest.approx(cell, rel=5.001e-3):
                    found.append(f"{written} instead of {cell}")
            elif isinstance(cell, str) and written != cell:
                found.append(f"{written!r} instead of {cell!r}")
            elif not written.strip():
                found.append("a blank cell")
    if len(body(table.latex())) != len(table.rows) + 1:
        found.append("LaTeX has other rows")
    if len(table.markdown().split("\n\n")[1].splitlines()) != len(table.rows) + 2:
        found.append("Markdown has other rows")
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_answers_its_questions(name, tables_of):
    tables = tables_of(name)
    assert tables
    for table in tables:
        assert faults(table) == [], table.question


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_has_the_shape_of_all(name):
    source = (FOLDER / f"{name}.py").read_text()
    assert f"python analysis/{name}.py" in ast.get_docstring(ast.parse(source))
    assert 'if __name__ == "__main__":\n    run(__doc__' in source
    assert "pyplot" not in source
    assert len(source.splitlines()) <= 400


@pytest.mark.parametrize("name", DRAWN)
def test_figure_is_drawn(name, tmp_path):
    drawn = importlib.import_module(name).figure(True)
    assert any(axes.has_data() for axes in drawn.axes)
    drawn.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


TABLE = Table(
    "Which?",
    ("a, b", "formula", "number"),
    (
        ('x "y"', sp.Symbol("n") ** 2 / 3, 12345.678),
        ("100 %_#\\ | é", sp.Rational(1, 3), math.inf),
        ("two\nlines", 1, 7),
    ),
    ("a note",),
)


def test_faults_are_seen():
    assert faults(TABLE) == []

    class Wrong(Table):
        def csv(self):
            return super().csv().replace("1.23e+04", "1.25e+04")

        def latex(self):
            return super().latex().replace("\\\\\n\\hline\n\\end", "\n\\hline\n\\end")

    wrong = Wrong(TABLE.question, TABLE.columns, TABLE.rows)
    assert faults(wrong) == ["1.25e+04 instead of 12345.678", "LaTeX has other rows"]


def test_csv_is_quoted_and_ends_lines_as_it_should():
    assert TABLE.csv().startswith('"a, b",formula,number\r\n"x ""y""",n**2/3,1.23e+04\r\n')
    assert TABLE.csv().endswith('"two\nlines",1,7\r\n')


def test_text_is_aligned():
    table = Table("Which?", ("name", "x"), (("a", 1.0), ("long name", 1e9)))
    assert table.text() == "Which?\nname           x\n---------  -----\na              1\nlong name  1e+09"


def test_latex_is_escaped():
    rows = body(TABLE.latex())
    assert rows[1] == r'x "y" & $\frac{n^{2}}{3}$ & $1.23 \times 10^{4}$ \\'
    assert rows[2] == r"100 \%\_\#\textbackslash{} \textbar{} é & $0.333$ & $\infty$ \\"
    assert TABLE.latex().splitlines()[0] == "% Which?"
    assert TABLE.latex().splitlines()[-1] == "% a note"


def test_markdown_keeps_one_line_for_each_row():
    assert r"| 100 %_#\ \| é | 0.333 | inf |" in TABLE.markdown()
    assert "| two lines | 1 | 7 |" in TABLE.markdown()


def test_truth_is_written_in_words():
    assert Table("Which?", ("a",), ((True,), (False,))).text().splitlines()[3:] == ["yes", "no"]


def test_a_table_may_be_empty():
    table = Table("Which?", ("a", "b"), ())
    assert faults(table) == []
    assert table.text() == "Which?\na  b\n-  -"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"question": "no question"}, "question mark"),
        ({"question": "two\nlines?"}, "one line"),
        ({"columns": ()}, "columns is empty"),
        ({"rows": ((1, 2),)}, "row 1 has 2 cells and there are 1 columns"),
        ({"rows": ((1,), (None,))}, "row 2 has None under 'a'"),
        ({"rows": (("",),)}, "say in words"),
        ({"rows": ((math.nan,),)}, "row 1 has nan"),
        ({"rows": ((sp.nan,),)}, "row 1 has nan"),
    ],
)
def test_bad_tables_are_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        Table(**({"question": "Which?", "columns": ("a",), "rows": ((1,),)} | change))


def run(monkeypatch, tables, *options, figure=None):
    shell = importlib.import_module("asking")
    monkeypatch.setattr(sys, "argv", ["script", *map(str, options)])
    shell.run("What?", tables, figure)


def test_command_line_prints_and_writes(monkeypatch, tmp_path, capsys):
    from matplotlib.figure import Figure

    seen = []

    def tables(smoke):
        seen.append(smoke)
        return [TABLE, TABLE]

    def figure(smoke):
        seen.append(smoke)
        return Figure()

    files = {
        option: tmp_path / f"a.{end}" for option, end in (("--csv", "csv"), ("--latex", "tex"), ("--figure", "png"))
    }
    run(monkeypatch, tables, "--smoke", *(part for pair in files.items() for part in pair), figure=figure)
    assert seen == [True, True]
    assert capsys.readouterr().out == f"{TABLE.text()}\n\n{TABLE.text()}\n"
    assert files["--csv"].read_bytes().decode() == f"{TABLE.csv()}\r\n{TABLE.csv()}"
    assert files["--latex"].read_text() == f"{TABLE.latex()}\n\n{TABLE.latex()}\n"
    assert files["--figure"].stat().st_size > 0


def test_a_failed_check_ends_with_one(monkeypatch):
    def tables(smoke):
        raise AssertionError("two routes disagree")

    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, tables)
    # A text as the code of an exit is printed, and the status is 1.
    assert stop.value.code == "a check failed: two routes disagree"


def test_a_figure_that_there_is_not_is_refused(monkeypatch, tmp_path):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, lambda smoke: [TABLE], "--figure", tmp_path / "a.png")
    assert stop.value.code == 2
    assert not list(tmp_path.iterdir())


def test_largest_problems_are_those_of_arithmetic():
    from thermolinalg.complexity.constants import numbers

    script = importlib.import_module("largest_feasible")
    table = script.by_time(False)
    reached = {(row[0], row[1]): row[2:4] for row in table.rows}
    # 14/3 n^3 flops at 0.3 of 66.9e12 flop/s; 6 n^2 words of 16 bits at 50 Gb/s and 2 n settlings of 100 us ln 256.
    for budget, digital, device in ((1.0, 16262, 900), (100.0, 75483, 79286)):
        found = reached["layer of K-FAC", budget]
        assert found[0] == pytest.approx(digital, abs=1)
        assert found[1] == pytest.approx(device, abs=1)
    assert "none" in reached["layer of K-FAC", 1e-3][1]
    assert numbers(script.POINT)[script.POWER] == 700


def test_scripts_agree_on_the_energy_of_a_solve():
    from thermolinalg.complexity import DAC_LIKE_ADC, numbers
    from thermolinalg.complexity.symbols import d, e_conv, k

    merit, feasible, energy = map(importlib.import_module, ("figure_of_merit", "largest_feasible", "energy"))
    size, price = 512, float(DAC_LIKE_ADC)
    found = merit._joules(size, {e_conv: DAC_LIKE_ADC})
    # d^2 + 2 d numbers: 16 bits each at 5 pJ and one conversion; d^1.5 C V^2 kappa ln 256; 0.1 mW a cell all along.
    moved, settling = size**2 + 2 * size, 100 * math.log(256)
    seconds = moved * 16 / 5e10 + settling * 1e-6
    expected = moved * (16 * 5e-12 + price) + size**1.5 * 1e-9 * settling + size * 1e-4 * seconds
    assert found == pytest.approx(expected, rel=1e-9)
    assert feasible.SOLVE_JOULES.at(numbers({**feasible.POINT, e_conv: price, d: size, k: 1})) == pytest.approx(found)
    bound = energy.values(1e-9, 1.0, 100)
    assert energy.at(energy.DEVICE, size, bound) + moved * price == pytest.approx(found)


def test_windows_are_those_of_arithmetic():
    script = importlib.import_module("single_solve_window")
    device = script.settings()[2]
    (window,) = script.windows(device, 16384).ahead
    # Roots of the two quadratics in sqrt(kappa), and of the line, solved apart from the package.
    load, log, size = (16384**2 + 2 * 16384) * 16 / 1e12, math.log(256), 16384
    one, pass_ = 1e-7 * log, math.log(512) / 2 * size**2 * 16 / 26.8e12
    low = ((pass_ - math.sqrt(pass_**2 - 4 * one * load)) / (2 * one)) ** 2
    high = ((size**3 / 3 + size**2 / 2 + size / 6 + 2 * size**2) / (0.3 * 66.9e12) - load) / one
    assert window.low.at == pytest.approx(low, rel=1e-9)
    assert window.high.at == pytest.approx(high, rel=1e-9)


def test_a_wrong_window_is_noticed(monkeypatch):
    script = importlib.import_module("single_solve_window")
    # The window is found with one formula and evaluated with another: exchanged costs must be seen.
    true = script.crossover
    monkeypatch.setattr(script, "crossover", lambda digital, device, *rest: true(device, digital, *rest))
    with pytest.raises(AssertionError, match="the device is slower"):
        script.windows(script.settings()[0], 1024)


def test_merits_multiply_and_missing_runs_are_refused():
    script = importlib.import_module("figure_of_merit")
    rows = script.splits(True).rows
    for row in rows:
        if isinstance(row[2], float):
            assert row[2] * row[3] == pytest.approx(row[4], rel=1e-12)
    refused = [row[5] for row in rows if row[2] == "not computable"]
    assert any("V100" in reason for reason in refused)
    assert any("cannot factorise" in reason for reason in refused)


def test_duels_are_those_of_arithmetic(monkeypatch):
    script = importlib.import_module("primitives")
    rows = {row[0]: row for row in script.duel(True).rows}
    size, kappa = 2048, 100
    flops = size**3 / 3 + size**2 / 2 + size / 6 + 2 * size**2
    noise = 2 * size * kappa**2 * 1e-6 / (size * 1e-9 / (1.380649e-23 * 300)) * 2.0**16
    device = (size**2 + 2 * size) * 16 / 5e10 + kappa * 1e-6 * math.log(256) + noise
    assert rows["solve"][1] == pytest.approx(flops / (0.3 * 66.9e12), rel=1e-12)
    assert rows["solve"][2] == pytest.approx(device, rel=1e-9)
    samples = (size + 1) * 2.0**16
    device = samples * (kappa * 1e-6 * math.log(100) / 2 + size * 16 / 5e10 + 2 * size**2 / (0.3 * 66.9e12))
    assert rows["inverse, from samples"][2] == pytest.approx(device + size**2 * 16 / 5e10, rel=1e-9)
    assert all(row[3].startswith("device loses") for row in rows.values())

    # A window that contradicts the two costs is noticed.
    true = script.crossover
    monkeypatch.setattr(script, "crossover", lambda digital, device, *rest: true(device, digital, *rest))
    with pytest.raises(AssertionError, match="disagree"):
        script.duel(True)


def test_published_rows_are_computed(monkeypatch):
    script = importlib.import_module("published")
    found = script.rows()
    verdicts = {(row.source, row.says): row.verdict for row in found}
    assert len(verdicts) >= len(found) - 1  # one order is compared in two norms
    assert verdicts["LAPACK Working Note 41", "POTRF: n**3/3 + n**2/2 + n/6"] == "reproduced"
    assert verdicts["opcounts.txt", "SYTRD: total with 3 n^2"] == "not reproduced"
    assert verdicts["lecture notes of Romberg and Davenport", "CG, kappa 100, 1e-6: 73"] == "reproduced"
    assert verdicts["arXiv:2405.13817", "figure 2: run times"] == "not reproducible"
    # Every table or paper that costs are compared with has a row.
    named = " ".join(row.source for row in found)
    papers = "2405.13817 2308.05660 2311.12759 2502.08603 1503.05671 1802.09568 2206.15397 2602.02016 2608.01615 "
    papers += "2601.04358 2312.07788 2005.04530 2410.12211 2111.08152 2305.11352 2011.04149 1405.4980 2312.08595"
    assert [paper for paper in papers.split() if paper not in named] == []


def test_a_wrong_model_is_not_reproduced(monkeypatch):
    script = importlib.import_module("published")
    from dataclasses import replace

    wrong = replace(script.direct.POTRF, cost=script.direct.POTRF.formula + script.n)
    monkeypatch.setattr(script.direct, "POTRF", wrong)
    cg = script.iterative.CG_PASSES
    monkeypatch.setattr(script.iterative, "CG_PASSES", replace(cg, cost=cg.formula * 1.02))
    with pytest.raises(ValueError, match=r"POTRF.* is not reproduced; say why"):
        list(script.routines())
    with pytest.raises(ValueError, match=r"CG.* is not reproduced; say why"):
        list(script.iterations())


def test_a_device_has_values_for_its_symbols():
    from dataclasses import replace

    from thermolinalg.complexity import RC_DEVICE, not_found, numbers
    from thermolinalg.complexity.symbols import e_bit, thermal

    found = numbers(RC_DEVICE.values)
    assert found[thermal] == pytest.approx(1.380649e-23 * 300, rel=1e-12)
    assert len(found) == 8
    # What was not found is left out, not zero.
    without = replace(RC_DEVICE, link_energy=not_found("link energy", "J/bit", "nowhere", "2026-11"))
    assert set(RC_DEVICE.values) - set(without.values) == {e_bit}


def test_markdown_keeps_formulas():
    n = sp.Symbol("n")
    table = Table("Which?", ("a*b", "c"), ((n**2 / 3, "O(n**2) <= 3 | 4"),), ("*note*",))
    assert r"| a\*b | c |" in table.markdown()
    assert r"| `n**2/3` | O(n\*\*2) \<= 3 \| 4 |" in table.markdown()
    assert table.markdown().endswith(r"\*note\*")


def test_what_a_device_leaves_to_others_is_never_none_without_a_model():
    script = importlib.import_module("primitives")
    hosts = {row[0]: row[5] for row in script.asymptotics().rows}
    assert hosts["log determinant"] == "not computable: no model"
    assert hosts["solve"] == "none"
    times = [row[2] for row in script.dynamics().rows if row[3] == "unavailable"]
    assert times
    assert all(time.startswith("not available: ") for time in times)
