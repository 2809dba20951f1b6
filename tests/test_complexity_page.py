"""The page on complexity is what its scripts say now."""

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@pytest.fixture(scope="module")
def maker():
    found = importlib.util.spec_from_file_location("page_on_complexity", DOCS / "complexity.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(maker):
    return maker.page()


def differences(old, new):
    """Lines that differ by more than the last of three digits, which may depend on the machine."""
    found = [] if len(old.splitlines()) == len(new.splitlines()) else ["one page has more lines"]
    for one, other in zip(old.splitlines(), new.splitlines(), strict=False):
        pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=False)
        close = all(float(a) == pytest.approx(float(b), rel=0.0101) for a, b in pairs)
        if one != other and not (close and NUMBER.sub("#", one) == NUMBER.sub("#", other)):
            found.append(f"{one} | {other}")
    return found


def test_page_is_up_to_date(maker, made):
    assert differences(maker.PAGE.read_text(), made) == [], "run python docs/complexity.py"


def test_an_old_page_is_noticed(made):
    table = next(line for line in made.splitlines() if "device loses, 13.3 times" in line)
    for wrong in (table.replace("13.3", "13.6"), table.replace("loses", "wins"), f"{table}\n{table}"):
        assert differences(made.replace(table, wrong), made)
    assert not differences(made.replace(table, table.replace("13.3", "13.4")), made)


def test_every_mark_is_replaced_and_every_script_has_its_place(maker, made):
    assert "{{" not in made
    shown = {script for _, script, _ in maker.MARK.findall(maker.TEMPLATE.read_text())}
    # Measured times are on no page.
    assert shown == {path.stem for path in maker.SCRIPTS.glob("*.py")} - {"asking", "measured_exponents"}


def test_figures_are_there(made):
    names = re.findall(r"\]\((images/[\w.-]+)\)", made)
    assert len(names) == len(set(names)) >= 8
    assert all((DOCS / "pages" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_prose_says_what_tables_say(maker):
    """Numbers in the text of the template, each from the table that it reads."""
    rows = {row[0]: row for row in maker.tables("kfac_crossover")[0].rows}
    assert 7500 < float(rows["50 Gb/s, 16 bit"][1]) < 8500  # no settling: about 8000
    duels = maker.tables("primitives")[2].rows
    assert all(row[3].startswith("device loses") for row in duels)
    assert all(row[5] is False for row in duels)
    free = maker.tables("single_solve_window")[0].rows[0]
    assert free[1:4] == ("none",) * 3  # published constants, up to d = 16384
    assert free[4] != "none"
    energy = {(row[0], row[1]): row for row in maker.tables("energy")[1].rows}
    assert 2000 < float(energy["1e-09 F, 1 V", 100][2]) < 4000
    assert 200 < float(energy["1e-09 F, 0.1 V", 100][2]) < 300
    assert all(row[-1].split(";")[0] in ("CG", "Cholesky") for row in maker.tables("refinement")[0].rows)
    budgets = {row[:2]: row for row in maker.tables("largest_feasible")[0].rows}
    assert budgets["layer of K-FAC", 100.0][4].startswith("device")
    assert 35 < budgets["layer of K-FAC", 100.0][3] / 2048 < 45
    shares = {row[0]: row[5] for row in maker.tables("kfac_layer")[0].rows}
    assert shares["damped Cholesky of both factors"] < shares["both inverses applied to a gradient"]
    places = {row[0]: row[4] for row in maker.tables("figure_of_merit")[2].rows}
    assert places["device, published"].startswith("not computable")
    assert places["device, also 10 ns, 1 Tb/s and C/100"] == "nobody beats it"
