"""Refinement and budgets at the command line, run in this process."""

import mpmath
import numpy as np
import pytest
import scipy.linalg
from shell import SMALL, run, run_json

from thermolinalg.commands.linear import System
from thermolinalg.commands.refinement import Refine
from thermolinalg.commands.session import Operand
from thermolinalg.convergence import ConditionNumber
from thermolinalg.convergence import solve as convergence_of


def exactly(matrix, vector):
    """The solution in fifty digits, rounded once."""
    with mpmath.workdps(50):
        found = mpmath.lu_solve(mpmath.matrix(matrix.tolist()), mpmath.matrix(vector.tolist()))
        return np.array([complex(x) if np.iscomplexobj(matrix) else float(x) for x in found])


def distance(value, exact):
    return np.linalg.norm(value - exact) / np.linalg.norm(exact)


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """Report, answer and figure of one refinement."""
    folder = tmp_path_factory.mktemp("refined")
    np.save(folder / "A.npy", SMALL)
    out, plot = folder / "x.npy", folder / "error.png"
    report = run_json("solve", folder / "A.npy", "--refine", "--out", out, "--plot", plot)
    return report, np.load(out), plot.read_bytes()


def test_refinement_is_as_exact_as_it_says(refined):
    report, value, picture = refined
    error = distance(value, exactly(SMALL, np.ones(3)))
    course = report["refinement"]
    assert course["rtol"] == 1e-10
    assert error < 1e-10 < distance(value, exactly(SMALL + 1e-9 * np.eye(3), np.ones(3)))
    assert report["lapack"]["relative_error"] == pytest.approx(error, rel=1e-3, abs=3e-16)
    assert course["estimated_error"] <= 1e-10
    # The last run measures what is left with an error of about a tenth of it in each of three modes.
    assert 0.3 < course["estimated_error"] / error < 3
    assert report["status"]["flags"] == 0
    assert report["certificate"]["passed"] is None
    assert report["certificate"]["backward_error"] < 1e-10
    assert picture.startswith(b"\x89PNG")


def test_refinement_reports_what_it_took(refined):
    report, value, _ = refined
    course, step = report["refinement"], report["plan"]
    assert set(course) == {
        *("steps", "matvecs", "plain_cg", "contraction", "predicted_contraction", "rtol", "least_rtol"),
        *("estimated_error", "device", "direct"),
    }
    assert step["rtol"] is None
    assert course["predicted_contraction"] == pytest.approx(0.1, rel=1e-4)
    # A digit in each step, one for the first and one for the test more or less.
    assert 8 <= course["steps"] <= 14
    assert course["steps"] - 2 <= course["matvecs"] <= course["steps"] + 2
    # Three eigenvalues, three steps of conjugate gradients.
    assert 3 <= course["plain_cg"] <= 5
    assert course["device"]["natural"] == pytest.approx(course["steps"] * step["natural"]["total"])
    assert course["device"]["time_constants"] == pytest.approx(course["steps"] * step["time_constants"]["total"])
    ledger = report["device_s"]
    assert ledger["settle"] + ledger["average"] == pytest.approx(course["device"]["seconds"])
    assert course["device"]["seconds"] == pytest.approx(1e-6 * course["device"]["time_constants"])
    assert ledger["load"] == ledger["read"] == pytest.approx(course["steps"] * 3 * 16 / 50e9)
    noise = np.linalg.norm(np.linalg.inv(SMALL)) / np.linalg.norm(value) / 1e-10
    assert course["direct"]["natural"] == pytest.approx(2 * noise**2)
    assert course["least_rtol"] == pytest.approx(2**-53 * (10 + 0.1 * np.linalg.cond(SMALL)))


def test_refinement_has_tables(small, tmp_path):
    outcome = run("solve", small, "--refine", "--rtol", "1e-6")
    assert outcome.exit_code == 0
    for words in ("Plan of one step", "a refined LAPACK solution", "plain conjugate gradients", "by averaging"):
        assert words in outcome.stdout
    assert "at most 1e-06" in outcome.stdout
    assert "chi-square" not in outcome.stdout
    np.save(tmp_path / "b.npy", np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]]))
    outcome = run("solve", small, tmp_path / "b.npy", "--refine")
    assert outcome.exit_code == 0
    assert "0 to " in outcome.stdout


def test_refinement_in_float32_asks_for_what_that_allows(small, tmp_path):
    report = run_json("solve", small, "--refine", "--dtype", "float32", "--out", tmp_path / "x.npy")
    rtol, single = 10 * 2**-24 * (10 + 0.1 * np.linalg.cond(SMALL)), SMALL.astype(np.float32).astype(float)
    value, exact = np.load(tmp_path / "x.npy"), exactly(single, np.ones(3))
    assert value.dtype == np.float32
    assert report["refinement"]["rtol"] == pytest.approx(rtol, rel=1e-5)
    assert report["lapack"]["relative_error"] == pytest.approx(distance(value, exact), rel=1e-6)
    assert distance(value, exact) < rtol < distance(exactly(1.001 * single, np.ones(3)), exact)


@pytest.mark.parametrize("phase", [1.0, 1j], ids=["real", "complex"])
def test_the_solution_of_lapack_is_refined_to_the_last_digit(phase):
    matrix = scipy.linalg.hilbert(4) * np.outer(phase ** np.arange(4), np.conj(phase) ** np.arange(4))
    force = np.ones(4)
    job = Refine(System(None, Operand("A", matrix), None, force, None), None, 1e-10, 1e-15)
    exact = exactly(matrix, force.astype(matrix.dtype))
    plain = scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix), force)
    assert distance(job.exact(), exact) < 3e-16 < 1e-14 < distance(plain, exact)


def test_a_budget_buys_the_error_that_takes_this_time(small):
    limited = run_json("plan", small, "--budget-seconds", "1e-2")
    plan = limited["plan"]
    assert limited["budget"] == {"seconds": 1e-2, "joules": None}
    assert plan["time_constants"]["total"] == pytest.approx(1e4)
    again = run_json("plan", small, "--rtol", plan["rtol"])["plan"]
    assert again["time_constants"]["total"] == pytest.approx(1e4, rel=1e-2)
    # Three cells of 0.1 mW each, on two devices.
    paid = run_json("plan", small, "--budget-joules", "3e-6", "--replicas", "2")
    assert paid["plan"]["time_constants"]["total"] == pytest.approx(5e3)
    assert paid["plan"]["replicas"] == 2
    assert paid["energy_j"] == pytest.approx(3e-6)
    printed = run("plan", small, "--budget-joules", "3e-6", "--replicas", "2").stdout
    for words in ("3e-06 joules", "2, side by side", "energy of the cells", "Time constants by what is known"):
        assert words in printed


def test_the_less_is_known_the_longer_the_plan(small):
    plan, shared = (run_json("plan", small, *more) for more in ([], ["--replicas", "2"]))
    steps = {step["known"]: step for step in plan["ladder"]}
    total = plan["plan"]["time_constants"]["total"]
    for step in steps.values():
        assert step["ratio"] == pytest.approx(step["time_constants"] / total)
    everything, spectrum, little, textbook, least = (step["ratio"] for step in steps.values())
    assert everything == 1 < spectrum < little < least
    assert 1 < textbook < least
    low, high = np.linalg.eigvalsh(SMALL)[[0, -1]]
    # Time in units in which the largest eigenvalue is one; the signal-to-noise number has to stay what it was.
    scaled = convergence_of(ConditionNumber(high / low, 3), force=float(np.sqrt(3 / high))).time(1e-2)
    assert steps["condition number, length of b"]["time_constants"] == pytest.approx(float(scaled), rel=1e-6)
    inverse = np.linalg.inv(SMALL)
    burn_in = high * np.log(2 / 0.05 / 1e-4) / (2 * low)
    noise = np.linalg.norm(inverse) / np.linalg.norm(inverse @ np.ones(3)) / 1e-2
    average = high * 2 * 2 * noise**2 / 0.05
    for report, replicas in ((plan, 1), (shared, 2)):
        found = {step["known"]: step["time_constants"] for step in report["ladder"]}
        assert found["spectrum and b, textbook"] == pytest.approx(burn_in + average / replicas)


BAD_BUDGETS = {
    "both": (["--rtol", "0.1", "--budget-seconds", "1"], "give rtol or a budget, not both"),
    "no time": (["--budget-seconds", "0"], "seconds must be positive"),
    "no energy": (["--budget-joules", "nan"], "joules must be positive"),
}


@pytest.mark.parametrize("case", BAD_BUDGETS)
def test_bad_budgets_are_refused_in_one_line(small, case):
    options, reason = BAD_BUDGETS[case]
    outcome = run("plan", small, *options)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert reason in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
