"""The commands whose answer is a matrix, a number or a set of samples, run in this process."""

import json

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.stats
from typer.testing import CliRunner

from thermolinalg.cli import app
from thermolinalg.report import show

SMALL = np.diag([1.0, 2.0, 4.0]) + 0.1
SLANTED = np.array([[1.0, 3.0, 0.0], [0.0, 2.0, 1.0], [0.0, -1.0, 1.0]])


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("commands")
    np.save(path / "A.npy", SMALL)
    np.save(path / "G.npy", SLANTED)
    np.save(path / "b.npy", np.array([1.0, 0.0, -2.0]))
    np.save(path / "Q.npy", np.diag([1.0, 0.0, 3.0]))
    return path


CASES = {
    "inv": ["A.npy", "--rtol", "0.1"],
    "lyapunov": ["G.npy", "Q.npy", "--rtol", "0.1"],
    "expm": ["G.npy", "--time", "0.5", "--rtol", "0.1"],
    "logdet": ["A.npy", "--samples", "4000"],
    "bar": ["A.npy", "--samples", "4000", "--estimator", "bar"],
    "sample": ["A.npy", "b.npy", "--count", "2000", "--beta", "4"],
    "path": ["A.npy", "--path", "--count", "2000", "--spacing", "0.5", "--burn-in", "20"],
}
COMMANDS = {"bar": "logdet", "path": "sample"}


@pytest.fixture(scope="module")
def outcomes(folder):
    """Each case once, with its files written: report and array."""
    found = {}

    def outcome(case):
        if case not in found:
            given = [folder / word if word.endswith(".npy") else word for word in CASES[case]]
            out, plot = folder / f"out-{case}.npy", folder / f"{case}.png"
            answer = run(COMMANDS.get(case, case), *given, "--json", "--out", out, "--plot", plot)
            assert answer.exit_code == 0, answer.stderr
            assert answer.stderr == ""
            report = json.loads(answer.stdout)
            assert (report["out"], report["plot"]) == (str(out), str(plot))
            assert plot.read_bytes().startswith(b"\x89PNG")
            found[case] = report, np.load(out)
        return found[case]

    return outcome


def lyapunov(diffusion):
    """Row by row, AX + XA* = Q is (A x I + I x A) vec(X) = vec(Q)."""
    return np.linalg.solve(np.kron(SLANTED, np.eye(3)) + np.kron(np.eye(3), SLANTED), diffusion.ravel()).reshape(3, 3)


def exponential(time):
    """The power series."""
    terms = [np.eye(3)]
    for k in range(1, 40):
        terms.append(terms[-1] @ SLANTED * time / k)
    return sum(terms)


EXACT = {
    "inv": lambda: (np.linalg.inv(SMALL), np.linalg.inv(SMALL + 0.5 * np.eye(3))),
    "lyapunov": lambda: (lyapunov(np.diag([1.0, 0.0, 3.0])), lyapunov(np.eye(3))),
    "expm": lambda: (exponential(0.5), exponential(0.6)),
}
"""The answer to each case, and to another question."""


@pytest.mark.parametrize("case", EXACT)
def test_matrices_agree_with_numpy_as_well_as_was_planned(outcomes, case):
    report, value = outcomes(case)
    exact, other = EXACT[case]()
    error, wrong = (np.linalg.norm(value - answer) / np.linalg.norm(answer) for answer in (exact, other))
    lapack = report["lapack"]
    assert error <= report["plan"]["rtol"] == 0.1 < wrong
    assert lapack["relative_error"] == pytest.approx(error)
    # A plan of 95 % keeps the root mean square below rtol, and not far below.
    assert 0.03 < lapack["predicted_rms"] < 0.1
    # The mean square of nine correlated entries: a few degrees of freedom at least.
    assert 0.1 < lapack["rms_z"] < 3
    assert lapack["max_z"] >= lapack["rms_z"]
    assert report["status"]["flags"] == 0


@pytest.mark.parametrize("case", ["inv", "lyapunov", "expm"])
def test_a_matrix_is_read_back_whole(outcomes, case):
    report, _ = outcomes(case)
    ledger, number = report["device_s"], 16 / 50e9
    assert ledger["read"] == pytest.approx(9 * number)
    assert ledger["load"] == pytest.approx(0 if case == "inv" else 9 * number)
    assert ledger["settle"] + ledger["average"] == pytest.approx(1e-6 * report["plan"]["time_constants"]["total"])


@pytest.mark.parametrize("case", ["logdet", "bar"])
def test_log_determinant_agrees_with_numpy(outcomes, case):
    report, value = outcomes(case)
    exact, estimate = np.linalg.slogdet(SMALL)[1], report["estimate"]
    assert value.shape == ()
    assert estimate["value"] == pytest.approx(float(value))
    assert report["lapack"]["value"] == pytest.approx(exact)
    assert report["lapack"]["z"] == pytest.approx((value - exact) / estimate["stderr"])
    assert abs(report["lapack"]["z"]) < 4
    # No estimate from 4000 samples is far better than sqrt(sum_i 2 ln(r_i)^2 / n), with r_i against the middle.
    rates = np.linalg.eigvalsh(SMALL)
    least = np.sqrt(2 * np.sum(np.log(rates / np.sqrt(rates[0] * rates[-1])) ** 2) / 4000)
    assert 0.8 * least < estimate["stderr"] < 4 * least


def test_estimators_are_different_ones(outcomes):
    (integrated, _), (ratio, _) = outcomes("logdet"), outcomes("bar")
    assert integrated["problem"]["estimator"] == "ThermodynamicIntegration"
    assert ratio["problem"]["estimator"] == "BennettRatio"
    assert integrated["estimate"]["value"] != ratio["estimate"]["value"]


def test_samples_follow_their_law(outcomes):
    report, value = outcomes("sample")
    check, exact = report["check"], np.linalg.inv(SMALL)
    assert value.shape == (2000, 3)
    away = value - exact @ np.array([1.0, 0.0, -2.0])
    statistic = 4 * np.einsum("ni,ij,nj->", away, SMALL, away)
    assert check["energy"]["degrees"] == 6000
    assert check["energy"]["per_degree"] == pytest.approx(statistic / 6000)
    two_sided = 2 * min(scipy.stats.chi2(6000).sf(statistic), scipy.stats.chi2(6000).cdf(statistic))
    assert check["energy"]["p_value"] == pytest.approx(two_sided)
    middle = away.mean(0)
    assert check["mean"]["statistic"] == pytest.approx(2000 * 4 * middle @ SMALL @ middle)
    assert check["passed"] is True
    found = away.T @ away / 2000
    error = np.linalg.norm(found - exact / 4) / np.linalg.norm(exact / 4)
    assert report["lapack"]["relative_error"] == pytest.approx(error)
    spread = np.sqrt((np.trace(exact) ** 2 + np.linalg.norm(exact) ** 2) / 2000) / np.linalg.norm(exact)
    assert report["lapack"]["predicted_rms"] == pytest.approx(spread)


def test_states_of_a_path_count_for_fewer(outcomes):
    report, value = outcomes("path")
    energy = report["check"]["energy"]
    # Squares of a mode are correlated by exp(-2 lambda t), so that n of them are worth n tanh(lambda t).
    worth = np.tanh(0.5 * np.linalg.eigvalsh(SMALL))
    assert energy["degrees"] == pytest.approx(2000 * 9 / np.sum(1 / worth), rel=5e-3)
    assert energy["per_degree"] == pytest.approx(np.einsum("ni,ij,nj->", value, SMALL, value) / 6000)
    assert report["check"]["mean"] is None
    assert report["check"]["passed"] is True
    assert report["plan"]["natural"]["duration"] == pytest.approx(1000)


def test_the_check_sees_a_path_that_has_not_settled(folder):
    # All 50 states within a tenth of the fastest relaxation from rest: colder than the law.
    outcome = run(
        "sample", folder / "A.npy", "--path", "--count", "50", "--burn-in", "0", "--spacing", "5e-4", "--json"
    )
    check = json.loads(outcome.stdout)["check"]
    assert check["energy"]["per_degree"] < 0.5
    assert check["passed"] is False
    assert run("sample", folder / "A.npy", "--path", "--count", "50").stdout.count("passed") == 1


@pytest.mark.parametrize("case", CASES)
def test_every_report_has_tables(outcomes, capsys, case):
    show(outcomes(case)[0])
    printed = capsys.readouterr().out
    for word in ("Problem", "Plan", "Modelled device time", "Answer", "LAPACK", "clean"):
        assert word in printed


def test_a_device_with_inertia_inverts_faster(folder):
    plain, inert = (
        json.loads(run("inv", folder / "A.npy", "--rtol", "0.2", "--json", *more).stdout)
        for more in ([], ["--underdamped"])
    )
    assert inert["device"]["dynamics"] == "underdamped"
    assert inert["plan"] != plain["plan"]
    assert inert["lapack"]["relative_error"] < 0.2


def test_float32_stays_float32(folder):
    out = folder / "single.npy"
    assert run("sample", folder / "A.npy", "--dtype", "float32", "--out", out).exit_code == 0
    assert np.load(out).dtype == np.float32


BAD = {
    "inv of an asymmetric matrix": (["inv", "G.npy"], "not symmetric"),
    "lyapunov unstable": (["lyapunov", "minus.npy"], "not stable"),
    "lyapunov indefinite": (["lyapunov", "G.npy", "minus.npy"], "not positive semi-definite"),
    "lyapunov shape": (["lyapunov", "G.npy", "two.npy"], "must have the shape of A"),
    "lyapunov not square": (["lyapunov", "wide.npy"], "square"),
    "lyapunov number": (["lyapunov", "number.npy"], "square"),
    "expm negative time": (["expm", "G.npy", "--time", "-1"], "t must not be negative"),
    "expm small shift": (["expm", "G.npy", "--shift", "0"], "too small"),
    "expm large sparse": (["expm", "large.npz"], "dense"),
    "inv large sparse": (["inv", "large.npz"], "dense"),
    "inv rtol": (["inv", "A.npy", "--rtol", "2"], "rtol must lie between 0 and 1"),
    "logdet reference": (["logdet", "A.npy", "--reference", "-1"], "reference must be positive"),
    "logdet few": (["logdet", "A.npy", "--samples", "3", "--estimator", "bar"], "samples must be at least"),
    "jarzynski": (["logdet", "A.npy", "--estimator", "jarzynski", "--reference", "10"], "variance"),
    "sample spacing": (["sample", "A.npy", "--spacing", "1"], "--path"),
    "sample burn-in": (["sample", "A.npy", "--path", "--burn-in", "-1"], "burn_in must be finite"),
    "sample columns": (["sample", "A.npy", "two.npy"], "must have shape"),
    "out": (["sample", "A.npy", "--out", "x.txt"], "must end in .npy"),
    "plot": (["logdet", "A.npy", "--plot", "x.pdf"], "must end in .png"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(folder, monkeypatch, case):
    monkeypatch.chdir(folder)
    np.save("minus.npy", -np.eye(3))
    np.save("two.npy", np.ones((2, 2)))
    np.save("wide.npy", np.ones((2, 3)))
    np.save("number.npy", np.ones(()))
    scipy.sparse.save_npz("large.npz", scipy.sparse.eye_array(3000, format="csr"))
    arguments, reason = BAD[case]
    outcome = run(*arguments)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert reason in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_too_few_samples_are_an_answer_that_is_not_written(folder):
    out = folder / "rough.npy"
    np.save(folder / "eye.npy", np.eye(12))
    outcome = run("lyapunov", folder / "eye.npy", "--rtol", "0.99", "--confidence", "0.01", "--out", out)
    assert outcome.exit_code == 1
    assert "FEW_SAMPLES" in outcome.stdout
    assert not out.exists()
