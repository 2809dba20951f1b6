"""Figures: the band of an error curve is where the errors of runs fall, and repeated errors are those of runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import thermolinalg as tla
from thermolinalg.figures import (
    check_curve,
    energy_figure,
    error_curve,
    error_figure,
    png,
    repeated_errors,
    repeated_figure,
)

RUNS = 2000
LEVELS = np.array([0.05, 0.5, 0.95])
RATES = jnp.geomspace(0.02, 1.0, 12)


def fractions_below(errors, band):
    return np.mean(np.asarray(errors)[:, :, None] <= np.asarray(band)[:, None, :], axis=1)


def assert_levels(fractions, draws=4000, sigmas=5.0):
    """Fractions of runs below quantiles that are themselves estimated from `draws`."""
    spread = np.sqrt(LEVELS * (1 - LEVELS) * (1 / RUNS + 1 / draws))
    assert np.all(np.abs(fractions - LEVELS) < sigmas * spread), fractions


def curve(matrix, dynamics, plan):
    b = jnp.ones(RATES.size)
    program = tla.Device(beta=100.0, dynamics=dynamics).program(matrix)
    return error_curve(program, b, plan, b / RATES, key=jax.random.key(5), runs=RUNS)


@pytest.fixture(scope="module")
def planned():
    matrix = jnp.diag(RATES)
    plan = tla.plan.solve(matrix, jnp.ones(RATES.size), rtol=0.05, device=tla.Device(beta=100.0))
    return curve(matrix, tla.Overdamped(), plan), plan


def at(times, drawn):
    """The band at other times than those of its grid, interpolated on logarithmic scales."""
    return np.exp(np.stack([np.interp(np.log(times), np.log(drawn.grid), np.log(edge)) for edge in drawn.band.T], -1))


def test_runs_fall_into_the_band_in_the_predicted_fractions(planned):
    drawn, _ = planned
    assert_levels(fractions_below(drawn.errors, at(drawn.times, drawn)))
    with pytest.raises(AssertionError):
        assert_levels(fractions_below(drawn.errors, 1.05 * at(drawn.times, drawn)))


@pytest.mark.parametrize(
    ("dtype", "dynamics"),
    [(complex, tla.Overdamped()), (float, tla.Underdamped(friction=0.5))],
    ids=["complex", "inertia"],
)
def test_the_band_holds_for_complex_operators_and_for_devices_with_inertia(dtype, dynamics):
    drawn = curve(jnp.diag(RATES.astype(dtype)), dynamics, tla.Plan(burn_in=100.0, duration=400.0))
    assert_levels(fractions_below(drawn.errors, at(drawn.times, drawn)))


def test_the_upper_edge_meets_rtol_at_the_planned_time(planned):
    drawn, plan = planned
    assert at(float(plan.time_constants), drawn)[2] == pytest.approx(float(plan.rtol), rel=0.03)


def test_figure_is_a_png_with_named_axes(planned):
    figure = error_figure(*planned, "title", 1e-6)
    (axes,) = figure.axes
    assert "time constants of 1 µs" in axes.get_xlabel()
    assert "Relative error" in axes.get_ylabel()
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("b", [np.zeros(2), np.ones((2, 3))])
def test_curves_need_one_right_hand_side(b):
    with pytest.raises(ValueError, match="one right-hand side"):
        check_curve(tla.Diagonal(jnp.ones(2)), b)


def test_curves_need_all_eigenvalues():
    with pytest.raises(ValueError, match="all eigenvalues"):
        check_curve(tla.MatrixFree(lambda block: block, 2, jnp.dtype(float)), np.ones(2))


def test_repeated_errors_are_those_of_the_runs():
    truth, lengths, runs = np.array([[3.0, 0.0], [0.0, 4.0]]), [1.0, 100.0], 400

    def sweep(scale, keys):
        stderr = scale / jnp.sqrt(jnp.asarray(lengths))[:, None, None] * jnp.ones((1, 2, 2))
        noise = jax.vmap(lambda key: jax.random.normal(key, (2, 2)))(keys)
        return jnp.asarray(truth)[None] + stderr * noise, stderr

    found = repeated_errors(sweep, 0.5, truth, lengths, key=jax.random.key(2), runs=runs, relative=True)
    # Four entries of 0.5 each against a norm of 5; then a tenth of that.
    np.testing.assert_allclose(found.predicted, [0.2, 0.02])
    assert found.errors.shape == (2, runs)
    squares = np.mean((found.errors / found.predicted[:, None]) ** 2, axis=1)
    # Each a mean of 4 x 400 squares of normal numbers.
    five = 5 * np.sqrt(2 / (4 * runs))
    assert np.all(np.abs(squares - 1) < five)
    assert not np.any(np.abs(1.5 * squares - 1) < five)
    (axes,) = repeated_figure(found, "title", "Samples", "Error", ("planned", 10.0), 0.05).axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()][-1] == "planned rtol, 0.05"


def test_energies_are_drawn_beside_their_density():
    energies = np.random.default_rng(0).chisquare(7, 500)
    (axes,) = energy_figure(energies, 7, "title").axes
    (line,) = axes.lines
    grid, density = line.get_xdata(), line.get_ydata()
    np.testing.assert_allclose(density, scipy.stats.chi2(7).pdf(grid), rtol=1e-10)
    assert sum(bar.get_height() * bar.get_width() for bar in axes.patches) == pytest.approx(1.0)
