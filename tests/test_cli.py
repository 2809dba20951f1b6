"""The command line, run in this process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from shell import SMALL, run, run_json

import thermolinalg as tla
from thermolinalg.files import read_matrix

AIRFOIL = Path(__file__).parent / "data" / "airfoil.mtx.gz"


def sparse_file(folder, shift):
    """A chain of 2100 unknowns: too large to be stored densely."""
    chain = scipy.sparse.diags_array([-1.0, 2.0 + shift, -1.0], offsets=[-1, 0, 1], shape=(2100, 2100))
    scipy.io.mmwrite(folder / "chain.mtx", chain)
    return folder / "chain.mtx"


def test_solve_agrees_with_lapack_within_rtol(tmp_path):
    report = run_json("solve", AIRFOIL, "--rtol", "1e-2", "--out", tmp_path / "x.npy")
    exact = np.linalg.solve(read_matrix(AIRFOIL).toarray(), np.ones(260))
    value = np.load(tmp_path / "x.npy")
    error = np.linalg.norm(value - exact) / np.linalg.norm(exact)
    assert error <= 1e-2
    assert report["lapack"]["relative_error"] == pytest.approx(error)
    assert 0.1 < error / report["lapack"]["predicted_rms"] < 4
    assert report["certificate"]["passed"] is True
    assert report["status"] == {"flags": 0, "names": [], "advice": "Success."}
    assert report["problem"] == {
        "matrix": "airfoil.mtx.gz",
        "right_hand_side": None,
        "unknowns": 260,
        "nonzeros": 1682,
        "columns": 1,
        "dtype": "float64",
    }
    assert report["spectrum"]["kappa"] == pytest.approx(74.92, rel=1e-3)
    assert report["spectrum"]["resolved"] is True
    assert report["out"] == str(tmp_path / "x.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_tables_and_plot(tmp_path):
    outcome = run("solve", AIRFOIL, "--plot", tmp_path / "error.png")
    assert outcome.exit_code == 0
    assert outcome.stderr == ""
    for words in ("all ones (no b given)", "Spectrum", "Modelled device time", "clean", "passed", "against LAPACK"):
        assert words in outcome.stdout
    assert (tmp_path / "error.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["error.png"]


def test_a_seed_repeats_and_another_does_not(small, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_json("solve", small, "--seed", seed, "--out", tmp_path / f"{name}.npy")
    first, again, other = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)


def test_plan_says_what_solve_uses(small):
    planned, solved = run_json("plan", small), run_json("solve", small)
    for part in ("problem", "spectrum", "device", "plan", "device_s"):
        assert planned[part] == solved[part]
    assert "certificate" not in planned
    times, device_s = planned["plan"]["time_constants"], planned["device_s"]
    assert device_s["settle"] + device_s["average"] == pytest.approx(1e-6 * times["total"])
    parts = ("program", "load", "settle", "average", "read")
    assert device_s["total"] == pytest.approx(sum(device_s[part] for part in parts))
    tables = run("plan", small)
    assert tables.exit_code == 0
    assert "Answer" not in tables.stdout
    assert f"{times['total']:.4g} time constants" in tables.stdout


def test_underdamped_device_is_another_device(small):
    report = run_json("solve", small, "--underdamped")
    assert report["device"]["dynamics"] == "underdamped"
    assert report["lapack"]["relative_error"] <= 1e-2
    assert report["plan"] != run_json("plan", small)["plan"]


def test_a_colder_device_needs_less_time(small):
    warm, cold = (run_json("plan", small, "--beta", beta)["plan"] for beta in (1.0, 1e4))
    assert cold["natural"]["total"] < 0.1 * warm["natural"]["total"]


def test_float32(small, tmp_path):
    report = run_json("solve", small, "--dtype", "float32", "--out", tmp_path / "x.npy")
    assert report["problem"]["dtype"] == "float32"
    assert report["lapack"]["relative_error"] <= 1e-2
    assert np.load(tmp_path / "x.npy").dtype == np.float32


def test_several_columns(small, tmp_path):
    block = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
    np.save(tmp_path / "b.npy", block)
    report = run_json("solve", small, tmp_path / "b.npy", "--out", tmp_path / "x.npy")
    assert report["problem"]["columns"] == 2
    assert report["problem"]["right_hand_side"] == "b.npy"
    exact = np.linalg.solve(SMALL, block)
    errors = np.linalg.norm(np.load(tmp_path / "x.npy") - exact, axis=0) / np.linalg.norm(exact, axis=0)
    assert np.all(errors <= 1e-2)
    assert report["lapack"]["relative_error"] == pytest.approx(errors)
    assert "b.npy, 2 columns" in run("solve", small, tmp_path / "b.npy").stdout


def test_zero_is_answered_by_zero(small, tmp_path):
    np.save(tmp_path / "b.npy", np.zeros(3))
    report = run_json("solve", small, tmp_path / "b.npy", "--out", tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.zeros(3))
    assert report["plan"]["natural"]["total"] == 0
    assert report["certificate"]["relative_residual"] == 0
    assert run("solve", small, tmp_path / "b.npy").exit_code == 0
    assert run_json("plan", small, tmp_path / "b.npy")["ladder"] is None


def test_large_sparse_matrix_has_an_interval(tmp_path):
    report = run_json("solve", sparse_file(tmp_path, 0.2))
    assert report["lapack"]["relative_error"] <= 1e-2
    spectrum = report["spectrum"]
    assert 0 < spectrum["lower"] <= 0.2 <= spectrum["minimum"]
    assert spectrum["maximum"] <= 4.2 <= spectrum["upper"]


def test_untrusted_answer_is_not_written(tmp_path):
    out = tmp_path / "x.npy"
    outcome = run("solve", sparse_file(tmp_path, 1e-3), "--out", out)
    assert outcome.exit_code == 1
    assert "UNRESOLVED" in outcome.stdout
    assert "No file is written" in outcome.stdout
    assert not out.exists()
    planned = run("plan", tmp_path / "chain.mtx", "--json")
    assert planned.exit_code == 1
    assert json.loads(planned.stdout)["status"]["names"] == ["UNRESOLVED"]
    assert json.loads(planned.stdout)["ladder"] is None


def pattern(path):
    scipy.io.mmwrite(path, scipy.sparse.coo_array(SMALL), field="pattern")


ROTATION = np.array([[0.0, 1.0], [-1.0, 0.0]])
BAD_MATRICES = {
    "missing": ("A.mtx", lambda path: None, "no such file"),
    "garbage": ("A.mtx", lambda path: path.write_bytes(b"\x00\x01garbage\n\n"), "cannot be read"),
    "garbage array": ("A.npy", lambda path: path.write_bytes(b"garbage"), "cannot be read"),
    "pattern": ("A.mtx", pattern, "positions and no values"),
    "not square": ("A.npy", lambda path: np.save(path, np.ones((2, 3))), "square"),
    "a vector": ("A.npy", lambda path: np.save(path, np.ones(3)), "square"),
    "a number": ("A.npy", lambda path: np.save(path, np.ones(())), "square"),
    "asymmetric": ("A.npy", lambda path: np.save(path, np.eye(2) + ROTATION), "not symmetric"),
    "indefinite": ("A.npy", lambda path: np.save(path, np.diag([1.0, -1.0])), "not positive definite"),
    "singular": ("A.npy", lambda path: np.save(path, np.ones((2, 2))), "not positive definite"),
    "zero": ("A.npy", lambda path: np.save(path, np.zeros((2, 2))), "not positive definite"),
    "nan": ("A.npy", lambda path: np.save(path, np.diag([1.0, np.nan])), "not finite"),
    "large asymmetric": ("A.mtx", lambda path: scipy.io.mmwrite(path, ring(1.0)), "not symmetric"),
    "large indefinite": ("A.mtx", lambda path: scipy.io.mmwrite(path, ring(-1.0, shift=1.0)), "not positive definite"),
    "large nan": ("A.mtx", lambda path: scipy.io.mmwrite(path, ring(np.nan)), "not finite"),
}


def ring(corner, shift=3.0):
    return scipy.sparse.diags_array([-1.0, shift, corner], offsets=[-1, 0, 1], shape=(2100, 2100)).tocoo()


def assert_refused(outcome, reason):
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert reason in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


@pytest.mark.parametrize("case", BAD_MATRICES)
def test_bad_matrices_are_refused_in_one_line(tmp_path, case):
    name, write, reason = BAD_MATRICES[case]
    write(tmp_path / name)
    assert_refused(run("solve", tmp_path / name, "--out", tmp_path / "x.npy", "--json"), reason)
    assert not (tmp_path / "x.npy").exists()


BAD_VECTORS = {
    "wrong length": (np.ones(4), "must have shape (3,) or (3, k)"),
    "a number": (np.ones(()), "must have shape (3,) or (3, k)"),
    "nan": (np.array([1.0, np.nan, 0.0]), "not finite"),
    "complex": (np.ones(3) * 1j, "is complex and A is real"),
    "text": (np.array(["one", "two", "three"]), "not numbers"),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_bad_right_hand_sides_are_refused_in_one_line(small, tmp_path, case):
    vector, reason = BAD_VECTORS[case]
    np.save(tmp_path / "b.npy", vector)
    assert_refused(run("solve", small, tmp_path / "b.npy", "--out", tmp_path / "x.npy"), reason)
    assert not (tmp_path / "x.npy").exists()


BAD_OPTIONS = {
    "rtol zero": (["--rtol", "0"], "rtol must lie between 0 and 1"),
    "rtol negative": (["--rtol", "-1"], "rtol must lie between 0 and 1"),
    "rtol nan": (["--rtol", "nan"], "rtol must lie between 0 and 1"),
    "confidence": (["--confidence", "1"], "confidence must lie between 0 and 1"),
    "beta": (["--beta", "0"], "beta must be positive"),
    "out": (["--out", "x.txt"], "x.txt: the name of this file must end in .npy"),
    "plot": (["--plot", "nowhere/error.png"], "nowhere/error.png: cannot be written"),
    "refine below rounding": (["--refine", "--rtol", "1e-16"], "below what rounding allows"),
    "refine rtol": (["--refine", "--rtol", "2"], "rtol must lie between 0 and 1"),
    "refine confidence": (["--refine", "--confidence", "0.9"], "--confidence is the promise of an average"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_refused_in_one_line(small, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    options, reason = BAD_OPTIONS[case]
    assert_refused(run("solve", small, *options), reason)


def test_float32_overflow_is_refused(tmp_path):
    np.save(tmp_path / "A.npy", np.diag([1.0, 1e300]))
    assert_refused(run("solve", tmp_path / "A.npy", "--dtype", "float32"), "not finite")


def test_curves_that_cannot_be_drawn_are_refused_before_anything_runs(small, tmp_path):
    png = tmp_path / "error.png"
    np.save(tmp_path / "zero.npy", np.zeros(3))
    np.save(tmp_path / "two.npy", np.ones((3, 2)))
    assert_refused(run("solve", small, tmp_path / "zero.npy", "--plot", png), "not zero")
    assert_refused(run("solve", small, tmp_path / "two.npy", "--plot", png), "one right-hand side")
    assert_refused(run("solve", sparse_file(tmp_path, 0.2), "--plot", png), "all eigenvalues")
    assert not png.exists()


def test_help_says_what_is_solved_without_a_right_hand_side():
    assert "all ones if not given" in " ".join(run("solve", "--help").stdout.split())


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-W", "error", "-m", "thermolinalg", "--version"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == tla.__version__
    assert outcome.stderr == ""
