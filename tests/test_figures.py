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
    refinement_curve,
    refinement_figure,
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


@pytest.fixture(scope="module")
def refining():
    """A device, a right-hand side, its answer, and the plan of one step."""
    b = jnp.ones(RATES.size)
    program = tla.Device(beta=100.0).program(jnp.diag(RATES))
    return program, b, b / RATES, tla.refine.plan(program, b)


@pytest.fixture(scope="module")
def course(refining):
    program, b, truth, plan = refining
    return refinement_curve(program, b, plan, truth, key=jax.random.key(6), runs=400)


def test_the_steps_drawn_are_those_of_a_refinement(refining):
    program, b, truth, plan = refining
    keys = jax.random.split(jax.random.key(5), 3)
    x = tla.refine.solve(program, b, key=keys[0], rtol=1e-9, plan=plan)
    error = np.linalg.norm(x.value - truth) / np.linalg.norm(truth)
    courses = [refinement_curve(program, b, plan, truth, key=key, runs=1).errors[:, 0] for key in keys]
    nearest = [np.min(np.abs(np.asarray(errors) / error - 1)) for errors in courses]
    # An error of 1e-9 is known to rounding, 1e-16 times a condition number of 50, over itself.
    assert nearest[0] < 1e-5 < min(nearest[1:])


def test_refinement_falls_as_predicted_down_to_the_floor(course, refining):
    plan = refining[3]
    eta, floor, steps = float(course.contraction), float(course.floor), np.arange(1, course.times.size + 1)
    assert eta == pytest.approx(0.1, rel=1e-4)
    assert floor == pytest.approx(2**-53 * (10 + 0.1 * 50))
    np.testing.assert_allclose(course.times, float(plan.time_constants) * steps)
    root = np.sqrt(np.mean(np.asarray(course.errors) ** 2, axis=1))
    # Flexible steps gain more than plain ones, but not twice as many digits: noise sets the pace of both.
    falling = eta**steps > 10 * floor
    assert np.all(root[falling] < eta ** steps[falling])
    assert np.all(root[falling] > eta ** (2 * steps[falling]))
    assert np.all(np.asarray(course.errors)[-4:] < floor)


def test_refinement_is_drawn_beside_the_average_on_one_scale(course, planned):
    drawn, _ = planned
    figure = refinement_figure(drawn, course, 1e-10, (3e3, 5e-11), "title", 1e-6)
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert "time constants of 1 µs" in axes.get_xlabel()
    assert axes.get_ylabel() == "Relative error, 2-norm"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "averaging: predicted, 5–95 % of runs",
        "averaging: predicted median",
        "averaging: measured, 2000 runs each",
        "plain refinement: predicted, 0.1 a step",
        "refinement: measured, 400 runs each",
        "this answer, 5e-11",
        "rtol, 1e-10",
        "rounding floor, least rtol 1.7e-15",
    ]
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["this answer, 5e-11"].get_xydata(), [[3e3, 5e-11]])
    measured = lines["refinement: measured, 400 runs each"]
    np.testing.assert_allclose(measured.get_xdata()[::400], course.times)
    np.testing.assert_allclose(measured.get_ydata(), np.asarray(course.errors).ravel())
    predicted = lines["plain refinement: predicted, 0.1 a step"].get_ydata()
    np.testing.assert_allclose(predicted[1:] / predicted[:-1], course.contraction, rtol=1e-6)
    assert np.min(predicted) > float(course.floor) > 0.1 * np.min(predicted)
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
