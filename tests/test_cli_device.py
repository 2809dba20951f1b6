"""Devices on the command line: presets, bits and mismatch, and sweeps over what limits them."""

import csv
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from shell import run, run_json

import thermolinalg as tla
from thermolinalg import presets
from thermolinalg.capacitances import couplings_of, maxwell_matrix
from thermolinalg.commands.devices import Hardware, PresetName
from thermolinalg.figures import error_curve, sweep_figure

HEADER = ["value", "median", "low", "high", "rms", "predicted_rms", "systematic", "start", "failed", "flags"]


def refused(*arguments):
    """The one line with which a command refuses."""
    outcome = run(*arguments)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A file with the Maxwell matrix of eight cells."""
    numbers = np.random.default_rng(8).uniform(0.5, 1.5, (8, 8))
    path = tmp_path_factory.mktemp("network") / "A8.mtx"
    scipy.io.mmwrite(path, np.asarray(maxwell_matrix(jnp.asarray((numbers + numbers.T) / 2))))
    return path


@pytest.fixture(scope="module")
def inverted(network):
    """An inversion on the unit of eight cells, with its files."""
    out, plot = network.with_name("C.npy"), network.with_name("error.png")
    report = run_json("inv", network, "--device", "lc8", "--out", out, "--plot", plot)
    return report, np.load(out), plot.read_bytes()


def test_the_unit_of_eight_cells_inverts_and_draws_its_error(network, inverted):
    report, value, picture = inverted
    exact = np.linalg.inv(scipy.io.mmread(network))
    error = np.linalg.norm(value - exact) / np.linalg.norm(exact)
    assert report["lapack"]["relative_error"] == pytest.approx(error)
    assert error <= 0.05
    assert picture.startswith(b"\x89PNG")
    assert report["device"] == {
        "preset": "lc8",
        "dynamics": "capacitive",
        "beta": 1.0,
        "time_constant_s": 1e-6,
        "cells": 8,
        "bits": {"couplings": 12, "forces": None, "readings": 12},
        "mismatch": None,
        "chip_seed": None,
    }
    # The systematic part is what 12 bits do to the couplings: found once more by rounding the matrix here.
    matrix = scipy.io.mmread(network)
    scale = 2.0 ** np.ceil(np.log2(np.abs(matrix).max()))
    step = 2 * scale / (2**12 - 2)
    shift = np.linalg.norm(np.linalg.inv(step * np.round(matrix / step)) - exact) / np.linalg.norm(exact)
    # The read-out rounds each of 36 entries too, by half a step at most.
    assert abs(report["systematic"] - shift) < 8 * 0.5 * step / scale + 0.02 * shift


def test_an_imprecise_answer_is_drawn_but_not_written(small, tmp_path):
    out, plot = tmp_path / "x.npy", tmp_path / "error.png"
    options = ["--device", "rc", "--bits", 5, "--mismatch", "1e-4", "--chip-seed", 7]
    outcome = run("solve", small, *options, "--out", out, "--plot", plot)
    assert outcome.exit_code == 1
    said = " ".join(outcome.stdout.split())
    for words in ("rc, overdamped, beta 100", "5 bits for couplings", "0.0001, chip 7", "IMPRECISE", "systematic part"):
        assert words in said
    assert "The answer is not written." in said
    assert str(plot) in said
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert not out.exists()


def test_a_perfect_device_has_no_part_in_the_error(small):
    outcome = run("solve", small)
    assert "ideal, overdamped, beta 1" in outcome.stdout
    assert "systematic part" not in outcome.stdout
    assert "bits" not in outcome.stdout


def test_a_chip_is_fixed_by_its_seed_and_not_by_the_noise(small, tmp_path):
    def value(*options):
        # At this temperature no noise is to be seen.
        run_json("solve", small, "--beta", "1e12", "--mismatch", "1e-3", "--out", tmp_path / "x.npy", *options)
        return np.load(tmp_path / "x.npy")

    first, noise, other = value(), value("--seed", 1), value("--chip-seed", 1)
    between = np.linalg.norm(other - first)
    assert 1e-4 < between < 1e-2
    assert 0 < np.linalg.norm(noise - first) < 0.01 * between


@pytest.mark.parametrize("verb", ["expm", "logdet", "sample"])
def test_every_verb_runs_on_the_device(verb, small):
    options = ["--bits", 10, "--mismatch", "1e-3", "--device", "rc"]
    outcome = run(verb, small, *options, "--json")
    assert outcome.exit_code in (0, 1), outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["device"]["bits"]["couplings"] == 10
    assert (report["device"]["mismatch"], report["device"]["preset"]) == (1e-3, "rc")
    found = report["estimate"]["systematic"] if verb == "logdet" else report["systematic"]
    assert 1e-4 < found < 3e-2
    wrong = report["lapack"]["error"] if verb == "logdet" else report["lapack"]["relative_error"]
    predicted = report["estimate"]["stderr"] if verb == "logdet" else report["lapack"]["predicted_rms"]
    assert found <= predicted
    assert abs(wrong) < 4 * predicted


def test_options_make_the_devices_that_they_say():
    assert Hardware().build() == presets.ideal()
    assert Hardware(PresetName.rc, bits=8).build() == presets.rc(bits=8)
    assert Hardware(PresetName.lc8, beta=2.0).build() == presets.lc8(beta=2.0)
    coarse = Hardware(bits=6).build()
    assert coarse.matrix_dac == coarse.force_dac == coarse.adc == tla.Converter(6)
    assert isinstance(Hardware(underdamped=True).build().dynamics, tla.Underdamped)
    chip = Hardware(mismatch=0.1, chip_seed=3).build().chip
    assert (chip.key, chip.mismatch) == (jax.random.key(3), 0.1)


REFUSALS = {
    "no bits": (["inv", "A", "--bits", "0"], "bits must be a whole number of at least 1, got 0"),
    "mismatch": (["inv", "A", "--mismatch", "-1"], "mismatch must be finite and not negative, got -1.0"),
    "chip alone": (["inv", "A", "--chip-seed", "1"], "give --mismatch too"),
    "inertia twice": (["inv", "A", "--device", "lc8", "--underdamped"], "lc8 brings its own dynamics"),
    "inertia of resistors": (["solve", "A", "--device", "rc", "--underdamped"], "rc brings its own dynamics"),
    "capacitors": (["inv", "A", "--device", "lc8"], "a capacitor between two cells can only be a negative entry"),
    "a mean": (["solve", "A", "--device", "lc8"], "solve reads the mean under a force"),
    "a plan": (["plan", "A", "--device", "lc8"], "solve reads the mean under a force"),
    "slanted": (["lyapunov", "A", "--device", "lc8"], "needs an overdamped device"),
    "kappa": (["sweep", "bits", "--kappa", "0.5"], "kappa must be at least 1, got 0.5"),
    "swept bits": (["sweep", "bits", "--bits", "8"], "--bits is what this sweep varies"),
    "swept noise": (["sweep", "noise", "--beta", "8"], "--beta is what this sweep varies"),
    "bits from 0": (["sweep", "bits", "--from", "0", "--dim", "3"], "bits must be at least 1, got --from 0"),
    "half a bit": (["sweep", "bits", "--from", "1.5", "--dim", "3"], "bits must be whole numbers"),
    "no mismatch": (["sweep", "mismatch", "--from", "-1", "--dim", "3"], "mismatch must be positive"),
    "backwards": (["sweep", "kappa", "--from", "9", "--to", "3", "--dim", "3"], "--from must be less than --to"),
    "temperature": (["sweep", "noise", "--primitive", "inv"], "does not depend on the temperature"),
    "two sizes": (["sweep", "bits", "A", "--dim", "4"], "A brings its own size"),
    "steady currents": (["sweep", "bits", "--device", "lc8"], "solve reads the mean under a force"),
    "cells": (["sweep", "bits", "--device", "lc8", "--primitive", "inv", "--dim", "9"], "the device 8 cells"),
    "table": (["sweep", "bits", "--out", "x.txt"], "must end in .csv"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_no_device_does_is_refused_in_one_line(small, case):
    words, reason = REFUSALS[case]
    assert reason in refused(*(small if word == "A" else word for word in words))


@pytest.mark.parametrize("words", [["inv", "A", "--device", "qpu"], ["sweep", "weather"]])
def test_unknown_names_are_refused(small, words):
    outcome = run(*(small if word == "A" else word for word in words))
    assert outcome.exit_code == 2
    assert "Traceback" not in outcome.stderr
    assert words[-1] in outcome.stderr


def test_presets_are_listed_with_their_sources(tmp_path):
    report = run_json("device")
    assert list(report["presets"]) == ["ideal", "rc", "lc8"]
    rc, lc8 = report["presets"]["rc"], report["presets"]["lc8"]
    assert (rc["beta"], rc["bits"]["readings"], rc["cells"], rc["dynamics"]) == (100.0, 16, None, "overdamped")
    assert (lc8["cells"], lc8["dynamics"]) == (8, "capacitive")
    assert "arXiv:2405.13817" in rc["source"]
    assert "arXiv:2312.04836" in lc8["source"]
    assert "assumption" in lc8["assumed"]
    assert ">>>" not in json.dumps(report)
    table = run("device", "lc8", "--example", tmp_path / "A8.npy").stdout
    for words in ("capacitive", "1 µs", "Melanson", "A8.npy"):
        assert words in table
    assert "Donatella" not in table
    example = np.load(tmp_path / "A8.npy")
    couplings_of(example)
    assert np.linalg.eigvalsh(example)[0] > 0


SWEEP = ["sweep", "bits", "--dim", 8, "--from", 6, "--to", 20, "--points", 15, "--repeats", 64]


@pytest.fixture(scope="module")
def bits(tmp_path_factory):
    """A sweep over bits: its report, and the folder of its files."""
    folder = tmp_path_factory.mktemp("sweep")
    return run_json(*SWEEP, "--out", folder / "bits.csv", "--plot", folder / "bits.png"), folder


def column(report, name):
    return np.array([row[name] for row in report["rows"]], float)


def assert_halves(values, errors, floor, repeats):
    """Errors without their floor fall by two a bit, in standard errors of means of that many squares."""
    inner = errors > 3 * floor
    assert inner.sum() >= 6
    square = np.log2(errors[inner] ** 2 - floor**2) / 2
    # One slow mode may carry all of an error, so that a square scatters by no less than that of a normal number; and
    # by more, as matrices are all unlike.
    spread = np.sqrt(2 / repeats) / 2 / np.log(2) * 1.5
    centred = values[inner] - values[inner].mean()
    slope, sigma = centred @ square / (centred @ centred), spread / np.sqrt(centred @ centred)
    assert abs(slope + 1) < 4 * sigma, (slope, sigma)


def test_errors_halve_with_every_bit_down_to_the_thermal_floor(bits):
    report, _ = bits
    values, rms, predicted = (column(report, name) for name in ("value", "rms", "predicted_rms"))
    np.testing.assert_array_equal(values, np.arange(6, 21))
    floor = predicted[-1]
    assert_halves(values, rms, floor, 64)
    with pytest.raises(AssertionError):
        assert_halves(values, rms * np.sqrt(2.0) ** (values - 6), floor, 64)
    # The floor is what a plan of 1e-3 at 95 % leaves of noise, and no bits are to be seen in it.
    assert 3e-4 < floor < 1e-3
    assert np.all(column(report, "systematic")[-3:] < 0.1 * floor)
    ratio = (rms / predicted)[2:]
    assert np.all(np.abs(ratio**2 - 1) < 5 * np.sqrt(2 / 64) * 1.5)
    assert "converters" in report["limits"][0]
    assert "thermal noise" in report["limits"][1]
    assert report["rows"][-1]["flags"] == []
    assert "IMPRECISE" in report["rows"][0]["flags"]


def test_tables_come_back_from_their_file(bits):
    report, folder = bits
    with (folder / "bits.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == HEADER
    assert len(rows) == 15
    for found, row in zip(rows, report["rows"], strict=True):
        assert [float(number) for number in found[:-1]] == [row[name] for name in HEADER[:-1]]
        assert found[-1].split("|") == (row["flags"] or [""])
    assert (folder / "bits.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == ["bits.csv", "bits.png"]


def test_a_seed_repeats_a_sweep_and_another_does_not(bits):
    again = run_json(*SWEEP)
    assert again["rows"] == bits[0]["rows"]
    other = run_json(*SWEEP, "--seed", 1)
    assert np.all(column(other, "rms") != column(again, "rms"))


def test_ranges_are_quantiles_around_the_median(bits):
    low, median, high = (column(bits[0], name) for name in ("low", "median", "high"))
    assert np.all(low < median)
    assert np.all(median < high)


SMALLER = ["--dim", 8, "--points", 4, "--repeats", 64]


def test_noise_is_followed_down_to_what_is_left_of_the_start():
    report = run_json("sweep", "noise", "--from", "1e-10", "--to", "1", *SMALLER)
    values, rms, predicted = (column(report, name) for name in ("value", "rms", "predicted_rms"))
    assert np.all(np.abs((rms / predicted) ** 2 - 1) < 5 * np.sqrt(2 / 64) * 1.5)
    # Noise enters the mean square error linearly, and what is left of the start stays.
    left = column(report, "start")
    thermal = predicted**2 - left**2
    np.testing.assert_allclose(thermal[-1] / thermal[-2], values[-1] / values[-2], rtol=0.02)
    assert [limit.partition(",")[0].split()[-1] for limit in report["limits"]] == ["start", "noise"]


def test_mismatch_and_conditioning_move_answers_in_proportion():
    report = run_json("sweep", "mismatch", "--from", "1e-4", "--to", "1e-2", *SMALLER)
    shift, values = column(report, "systematic"), column(report, "value")
    np.testing.assert_allclose(shift / values, (shift / values)[0], rtol=0.05)
    report = run_json("sweep", "kappa", "--from", 2, "--to", 200, "--mismatch", "1e-4", *SMALLER)
    shift = column(report, "systematic")
    assert np.all(np.diff(shift) > 0)
    assert shift[-1] > 10 * shift[0]


def test_time_buys_accuracy_down_to_the_floor_of_the_device(small, tmp_path):
    command = ["sweep", "time", small, "--mismatch", "1e-3", "--repeats", 64, "--points", 5]
    report = run_json(*command)
    assert report["sweep"]["matrix"] == "A.npy"
    rms, predicted, shift = (column(report, name) for name in ("rms", "predicted_rms", "systematic"))
    assert np.all(np.abs((rms / predicted) ** 2 - 1) < 5 * np.sqrt(2 / 64) * 1.5)
    assert predicted[0] > 4 * shift[0]
    assert predicted[-1] < 1.2 * shift[-1]
    assert ["thermal noise" in report["limits"][0], "mismatch" in report["limits"][1]] == [True, True]
    table = run(*command)
    assert table.exit_code == 0
    for words in ("median error", "systematic", "limits", "A.npy, 3 unknowns"):
        assert words in table.stdout


def test_sweeps_of_inverses_on_networks_of_capacitors():
    report = run_json(
        *("sweep", "bits", "--primitive", "inv", "--device", "lc8", "--from", 5, "--to", 13, "--points", 3),
        *("--repeats", 32, "--dim", 4, "--rtol", "0.1"),
    )
    rms, predicted = column(report, "rms"), column(report, "predicted_rms")
    assert np.all(np.abs((rms / predicted) ** 2 - 1)[1:] < 5 * np.sqrt(2 / 32))
    assert rms[0] > 2 * rms[1]
    assert ["converters" in report["limits"][0], "thermal noise" in report["limits"][1]] == [True, True]


def test_too_few_bits_leave_no_answer():
    report = run_json("sweep", "bits", "--from", 1, "--to", 3, "--kappa", 100, *SMALLER)
    assert column(report, "failed")[0] > 0.5
    assert report["rows"][0]["median"] is None
    assert "not positive definite" in report["limits"][0]


def test_figures_of_sweeps_leave_out_what_is_not_finite():
    row = dict.fromkeys(HEADER[:-1], 0.1) | {"flags": []}
    rows = [row | {"value": 1.0, "median": np.inf, "high": np.inf}, row | {"value": 2.0, "low": 0.05, "high": 0.3}]
    (axes,) = sweep_figure(rows, "title", "Bits", logarithmic=False).axes
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel()) == ("linear", "log", "Bits")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "predicted root mean square"
    (bars,) = axes.containers
    np.testing.assert_array_equal(bars.lines[0].get_ydata(), [np.nan, 0.1])


BASIS = np.linalg.qr(np.random.default_rng(4).normal(size=(6, 6)))[0]
MATRIX = (BASIS * np.geomspace(0.1, 1.0, 6)) @ BASIS.T
LEVELS = np.array([[0.05], [0.5], [0.95]])


def curve_of(device, runs):
    """An error curve on a device, and its band at the times of the runs."""
    program, b = device.program((MATRIX + MATRIX.T) / 2), jnp.ones(6)
    plan = tla.Plan(burn_in=100.0, duration=300.0)
    found = error_curve(program, b, plan, np.linalg.solve(MATRIX, np.ones(6)), key=jax.random.key(0), runs=runs)
    edges = [np.interp(np.log(found.times), np.log(found.grid), np.log(edge)) for edge in found.band.T]
    return found, np.exp(np.stack(edges))


def fractions(errors, band):
    return np.mean(np.asarray(errors)[None] <= band[:, :, None], axis=2)


def test_the_band_of_a_device_with_wrong_couplings_is_where_its_runs_are():
    converter, runs = tla.Converter(9), 2000
    perfect = tla.Device(beta=1e4)
    device = replace(perfect, matrix_dac=converter, force_dac=converter, chip=tla.Chip(jax.random.key(2), 3e-3))
    found, band = curve_of(device, runs)
    # Of quantiles over 4000 draws.
    five = 5 * np.sqrt(LEVELS * (1 - LEVELS) * (1 / runs + 1 / 4000))
    assert np.all(np.abs(fractions(found.errors, band) - LEVELS) < five)
    # The band of a device without such errors goes on falling, and misses them.
    _, pretence = curve_of(perfect, 1)
    missed = np.abs(fractions(found.errors, pretence) - LEVELS) > five
    assert np.all(missed[:, -4:])
    assert pretence[2, -1] < 0.5 * found.systematic[-1] < band[0, -1]


def test_the_band_of_a_coarse_read_out_levels_off_where_its_runs_do():
    found, band = curve_of(tla.Device(beta=1e6, adc=tla.Converter(6)), 64)
    truth = np.linalg.solve(MATRIX, np.ones(6))
    step = 2 * 2.0 ** np.ceil(np.log2(np.abs(truth).max())) / (2**6 - 2)
    # All runs round alike, each entry by half a step at most: a band that takes that as noise is as far off at most.
    half = 0.5 * np.sqrt(6) * step / np.linalg.norm(truth)
    last = np.median(np.asarray(found.errors)[-1])
    assert abs(band[1, -1] - last) < half
    assert band[1, -1] == pytest.approx(step * np.sqrt(6 / 12) / np.linalg.norm(truth), rel=0.15)
    np.testing.assert_allclose(found.systematic[-1], step * np.sqrt(6 / 12) / np.linalg.norm(truth), rtol=1e-6)


def test_dead_nodes_have_no_error_curve():
    with pytest.raises(ValueError, match="dead nodes"):
        curve_of(tla.Device(chip=tla.Chip(jax.random.key(0), dead=(1,))), 1)
