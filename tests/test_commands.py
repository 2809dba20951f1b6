"""The commands whose answer is a matrix, a number or a set of samples, run in this process."""

import json

import numpy as np
import pytest
import scipy.io
import scipy.linalg
import scipy.sparse
import scipy.stats
from shell import SMALL, run

from thermolinalg.report import show

SLANTED = np.array([[1.0, 3.0, 0.0], [0.0, 2.0, 1.0], [0.0, -1.0, 1.0]])


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
def test_moments_come_back_as_one_triangle_or_as_samples(outcomes, case):
    report, _ = outcomes(case)
    ledger, samples, number = report["device_s"], report["plan"]["samples"], 16 / 50e9
    # Moments of samples are the work of the host; of an exponential a sample is a pair of states.
    assert ledger["read"] == pytest.approx((6 if case == "inv" else (6 if case == "expm" else 3) * samples) * number)
    assert ledger["digital"] == pytest.approx(0 if case == "inv" else 2 * 9 * samples / 66.9e12)
    assert ledger["load"] == pytest.approx(9 * number if case == "lyapunov" else 0)
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


@pytest.fixture(scope="module")
def answered(folder):
    """An answer of the device in a file, and what was said of it."""
    out = folder / "x.npy"
    outcome = run("solve", folder / "A.npy", folder / "b.npy", "--rtol", "0.02", "--out", out, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    return json.loads(outcome.stdout), np.load(out)


def certified(folder, *arguments, code=0):
    words = [folder / word if str(word).endswith((".npy", ".mtx", ".npz")) else word for word in arguments]
    outcome = run("certify", *words, "--json")
    assert outcome.exit_code == code, outcome.stderr
    return json.loads(outcome.stdout)


def test_an_answer_from_a_file_is_certified_as_it_was_when_it_was_made(folder, answered):
    report, value = answered
    duration = report["plan"]["natural"]["duration"]
    found = certified(folder, "A.npy", "b.npy", "x.npy", "--duration", duration, "--beta", "1")
    force = np.array([1.0, 0.0, -2.0])
    residual = np.linalg.norm(force - SMALL @ value)
    certificate, bound = found["certificate"], found["bound"]
    assert certificate["noise"] == pytest.approx(2 / duration)
    assert certificate["statistic"] == pytest.approx(residual**2 * duration / 2)
    assert certificate["p_value"] == pytest.approx(scipy.stats.chi2(3).sf(residual**2 * duration / 2))
    assert certificate["p_value"] == pytest.approx(report["certificate"]["p_value"])
    assert certificate["relative_residual"] == pytest.approx(residual / np.linalg.norm(force))
    scale = np.linalg.norm(SMALL) * np.linalg.norm(value) + np.linalg.norm(force)
    assert certificate["backward_error"] == pytest.approx(residual / scale)
    assert certificate["passed"] is True
    exact = np.linalg.solve(SMALL, force)
    error = np.linalg.norm(value - exact)
    assert error <= bound["absolute"] < 1.001 * error
    assert error / np.linalg.norm(exact) <= bound["relative"] < 1.05 * error / np.linalg.norm(exact)
    assert bound["validated"] is True
    assert bound["lowest"]["value"] <= np.linalg.eigvalsh(SMALL)[0] < 1.001 * bound["lowest"]["value"]
    # The same noise, said outright; the same answer, from files of other kinds.
    scipy.io.mmwrite(folder / "x.mtx", value[:, None])
    scipy.sparse.save_npz(folder / "x.npz", scipy.sparse.csr_array(value[:, None]))
    for name in ("x.mtx", "x.npz"):
        again = certified(folder, "A.npy", "b.npy", name, "--noise", 2 / duration)
        assert again["certificate"]["p_value"] == pytest.approx(certificate["p_value"])
        assert again["problem"] == found["problem"] | {"answer": name}


def test_an_answer_that_noise_does_not_explain_fails(folder, answered):
    report, value = answered
    duration = report["plan"]["natural"]["duration"]
    np.save(folder / "wrong.npy", 1.2 * value)
    words = "A.npy", "b.npy", "wrong.npy"
    assert certified(folder, *words, "--duration", duration, code=1)["certificate"]["passed"] is False
    # Without a noise there is no test to fail; on a device that is hot enough it would be noise.
    assert certified(folder, *words)["certificate"]["passed"] is None
    assert certified(folder, *words, "--duration", duration, "--beta", "1e-4")["certificate"]["passed"] is True
    # One column that fails is enough.
    np.save(folder / "bb.npy", np.array([[1.0, 0.0, -2.0]] * 2).T)
    np.save(folder / "xx.npy", np.stack([value, 1.2 * value], 1))
    found = certified(folder, "A.npy", "bb.npy", "xx.npy", "--duration", duration, code=1)
    assert found["certificate"]["passed"] == [True, False]
    # All ones is another right-hand side.
    assert certified(folder, "A.npy", "x.npy", "--duration", duration, code=1)["problem"]["right_hand_side"] is None


def test_an_inverse_from_a_file_is_certified(folder):
    normal = np.random.default_rng(0).standard_normal((4000, 3))
    states = normal @ np.linalg.cholesky(np.linalg.inv(SMALL)).T
    covariance = states.T @ states / 4000
    np.save(folder / "C.npy", covariance)
    np.save(folder / "large.npy", 1.1 * covariance)
    found = certified(folder, "A.npy", "C.npy", "--inverse", "--samples", 4000)["certificate"]
    assert found["passed"] is True
    trace = np.trace(SMALL @ covariance) / 3
    assert found["trace"]["statistic"] == pytest.approx(trace)
    law = scipy.stats.chi2(12000)
    # To the accuracy of a cube root in place of the tail.
    assert found["trace"]["p_value"] == pytest.approx(2 * min(law.sf(12000 * trace), law.cdf(12000 * trace)), rel=1e-2)
    assert found["relative_residual"] == pytest.approx(np.linalg.norm(SMALL @ covariance - np.eye(3)) / 3**0.5)
    wrong = certified(folder, "A.npy", "large.npy", "--inverse", "--samples", 4000, code=1)["certificate"]
    assert wrong["passed"] is False
    # A spread that is too small for so few samples is suspicious too.
    assert not certified(folder, "A.npy", "C.npy", "--inverse", "--samples", 20, code=1)["certificate"]["passed"]
    assert certified(folder, "A.npy", "C.npy", "--inverse")["certificate"]["passed"] is None


def test_certificates_have_tables(folder, answered):
    np.save(folder / "right.npy", np.linalg.inv(SMALL))
    system = "certify", folder / "A.npy", folder / "b.npy", folder / "x.npy"
    inverse = "certify", folder / "A.npy", folder / "right.npy", "--inverse"
    expected = {
        (*system, "--noise", "1"): "passed, chi-square",
        (*system, "--noise", "1e-9"): "FAILED: the residual is more than thermal noise",
        system: "no test without --noise",
        (*inverse, "--samples", "50"): "FAILED: not an inverse with the noise of 50 samples",
        inverse: "no test without --samples",
    }
    for arguments, words in expected.items():
        outcome = run(*arguments)
        assert words in outcome.stdout
        assert outcome.exit_code == (1 if "FAILED" in words else 0)
    for words in ("validated, rounding included", "proved", "x.npy", "backward error"):
        assert words in run(*system).stdout


BAD_CERTIFICATES = {
    "noise twice": (["b.npy", "x.npy", "--noise", "1", "--duration", "1"], "not both"),
    "beta alone": (["b.npy", "x.npy", "--beta", "1"], "only together with --duration"),
    "negative noise": (["b.npy", "x.npy", "--noise", "-1"], "noise must be a positive number"),
    "samples of a solution": (["b.npy", "x.npy", "--samples", "5"], "--samples belongs to an inverse"),
    "noise of an inverse": (["A.npy", "--inverse", "--noise", "1"], "belong to a solution"),
    "samples zero": (["A.npy", "--inverse", "--samples", "0"], "samples must be positive"),
    "too many files": (["b.npy", "x.npy", "x.npy"], "got 3 files"),
    "too many inverses": (["A.npy", "A.npy", "--inverse"], "give the inverse alone"),
    "shape": (["A.npy", "x.npy"], "x must have the shape of b"),
    "length": (["b.npy", "four.npy"], "x must have shape (3,)"),
    "inverse shape": (["x.npy", "--inverse"], "C must have shape (3, 3)"),
    "missing": (["b.npy", "nowhere.npy"], "no such file"),
    "nan": (["b.npy", "nan.npy"], "not finite"),
}


@pytest.mark.parametrize("case", BAD_CERTIFICATES)
def test_what_cannot_be_certified_is_refused_in_one_line(folder, answered, monkeypatch, case):
    monkeypatch.chdir(folder)
    np.save("four.npy", np.ones(4))
    np.save("nan.npy", np.full(3, np.nan))
    arguments, reason = BAD_CERTIFICATES[case]
    outcome = run("certify", "A.npy", *arguments)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert reason in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
