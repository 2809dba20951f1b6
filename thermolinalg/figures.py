"""Figures: errors against device time, measured and predicted, and the energies of samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.convergence import Problem
from thermolinalg.device import Program
from thermolinalg.operators import Modal, Operator, as_block
from thermolinalg.plan import Plan
from thermolinalg.simulators import Machine, Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEVELS = (0.05, 0.5, 0.95)
_DRAWS = 4000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ErrorCurve:
    """Relative error of a solve against device time.

    Attributes
    ----------
    times : Array, shape (m,)
        Total times of the measured runs, in time constants of the device.
    errors : Array, shape (m, runs)
        Relative errors in the 2-norm of independent runs.
    grid : Array, shape (n,)
        Total times of the prediction.
    band : Array, shape (n, 3)
        5 %, 50 % and 95 % quantiles of the relative error, from its law.
    """

    times: jax.Array
    errors: jax.Array
    grid: jax.Array
    band: jax.Array


def error_curve(
    program: Program, b: ArrayLike, plan: Plan, truth: ArrayLike, *, key: jax.Array, runs: int = 8
) -> ErrorCurve:
    """Run a plan at a hundredth to ten times its length, and predict what comes out.

    Parameters
    ----------
    program : Program
        Of an operator whose eigenvalues are all known.
    b : array, shape (d,)
        One right-hand side, not zero.
    plan : Plan
        Burn-in and duration are scaled together.
    truth : array, shape (d,)
        The exact solution.
    key : PRNG key
    runs : int
        Independent runs at each time.

    Raises
    ------
    ValueError
        If there is no such prediction; see :func:`check_curve`.

    Notes
    -----
    The prediction runs nothing: the squared error is a sum of independent squares, one for each eigenvalue, with
    weights and biases in closed form, and quantiles are taken over 4000 draws of that sum. The match of four moments
    that plans are made with has the same upper quantile, and a lower one that can be a tenth too large.
    """
    force = as_block(b, program.operator, "b")
    check_curve(program.operator, force)
    exact = as_block(truth, program.operator, "truth")
    measured, predicted = jax.random.split(key)
    real = jnp.finfo(exact.dtype).dtype
    marks, grid = (jnp.logspace(*span, dtype=real) for span in ((-2.0, 1.0, 13), (-2.1, 1.1, 97)))
    keys = jax.random.split(measured, marks.size)
    errors = _measure(program, jnp.tile(force, (1, runs)), exact, keys, _scaled(plan, marks))
    problem = Problem.of(program.machine, force, force)
    band = _band(program.machine, problem, predicted, _scaled(plan, grid))
    total = jnp.asarray(plan.time_constants)
    return ErrorCurve(total * marks, errors, total * grid, band)


def check_curve(operator: Operator, b: ArrayLike) -> None:
    """Check that the error of a solve has a prediction to draw.

    Raises
    ------
    ValueError
        If not all eigenvalues of the operator are known, or `b` is zero or more than one column.
    """
    if not isinstance(operator, Modal):
        raise ValueError(
            f"an error curve needs all eigenvalues, which a {type(operator).__name__} operator does not have; "
            "store the matrix densely"
        )
    block = as_block(b, operator, "b")
    if block.shape[1] != 1 or not jnp.any(block != 0):
        raise ValueError(f"an error curve needs one right-hand side that is not zero, got shape {jnp.shape(b)}")


def error_figure(curve: ErrorCurve, plan: Plan, title: str, time_constant: float) -> "Figure":
    """Draw an error curve; `time_constant` is that of the device, in seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    low, median, high = curve.band.T
    axes.fill_between(curve.grid, low, high, color="#9ecae1", alpha=0.6, lw=0, label="predicted, 5–95 % of runs")
    axes.plot(curve.grid, median, color="#2171b5", lw=1.5, label="predicted median")
    runs = curve.errors.shape[1]
    times = jnp.repeat(curve.times, runs)
    axes.plot(
        times,
        curve.errors.ravel(),
        "o",
        ms=3.5,
        mew=0,
        color="#d94801",
        alpha=0.75,
        label=f"measured, {runs} runs each",
    )
    planned = float(plan.time_constants)
    axes.axvline(planned, color="0.25", lw=1, ls="--", label=f"planned time, {planned:.3g}")
    if plan.rtol is not None:
        axes.axhline(float(plan.rtol), color="0.25", lw=1, ls=":", label=f"planned rtol, {float(plan.rtol):.3g}")
    axes.set(xscale="log", yscale="log", xlim=(curve.grid[0], curve.grid[-1]))
    axes.set_xlabel(f"Device time, burn-in and average (time constants of {time_constant * 1e6:g} µs)")
    axes.set_ylabel("Relative error, 2-norm")
    _finish(axes, title)
    return figure


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RepeatedErrors:
    """Errors of runs of several lengths.

    Attributes
    ----------
    ends : Array, shape (m,)
        Where on the axis of lengths they stand.
    errors : Array, shape (m, runs)
        Errors in the Frobenius norm of independent runs.
    predicted : Array, shape (m,)
        Root mean square error, from the standard errors that the runs state.
    """

    ends: jax.Array
    errors: jax.Array
    predicted: jax.Array


def repeated_errors(
    sweep: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
    operands: Any,
    truth: ArrayLike,
    ends: Sequence[float],
    *,
    key: jax.Array,
    runs: int = 6,
    relative: bool = False,
) -> RepeatedErrors:
    """Run a verb at several lengths, and compare what comes out with the truth.

    Parameters
    ----------
    sweep : callable
        From operands, and one key for each of m lengths, to values, shape (m, ...), and their standard errors; traced.
    operands : tree of arrays
    truth : array, in the shape of a value
        The exact answer; not zero if `relative`.
    ends : sequence of m
        Where on the axis the lengths stand.
    key : PRNG key
    runs : int
        Independent runs of each length.
    relative : bool
        Whether to divide by the norm of the truth.
    """
    exact = np.asarray(truth).reshape(-1)
    keys = jax.random.split(key, (runs, len(ends)))
    found = jax.jit(lambda operands, keys: jax.lax.map(lambda k: sweep(operands, k), keys))(operands, keys)
    values, stderr = (np.asarray(x).reshape(runs, len(ends), -1) for x in found)
    scale = np.linalg.norm(exact) if relative else 1.0
    errors = np.linalg.norm(values - exact[None, None], axis=2).T / scale
    # Some estimators read their standard error off the samples, so that it scatters too.
    predicted = np.sqrt(np.mean(np.sum(stderr**2, axis=2), axis=0)) / scale
    return RepeatedErrors(jnp.asarray(ends), jnp.asarray(errors), jnp.asarray(predicted))


def repeated_figure(
    runs: RepeatedErrors, title: str, across: str, up: str, planned: tuple[str, float], rtol: float | None
) -> "Figure":
    """Draw repeated errors, with the length that was `planned` and what was to be reached by then."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(runs.ends, runs.predicted, color="#2171b5", lw=1.5, label="predicted root mean square")
    count = runs.errors.shape[1]
    label = f"measured, {count} runs each"
    axes.plot(
        np.repeat(runs.ends, count), runs.errors.ravel(), "o", ms=3.5, mew=0, color="#d94801", alpha=0.75, label=label
    )
    name, length = planned
    axes.axvline(length, color="0.25", lw=1, ls="--", label=f"{name}, {length:.3g}")
    if rtol is not None:
        axes.axhline(rtol, color="0.25", lw=1, ls=":", label=f"planned rtol, {rtol:.3g}")
    axes.set(xscale="log", yscale="log", xlabel=across, ylabel=up)
    _finish(axes, title)
    return figure


def energy_figure(energies: ArrayLike, degrees: int, title: str) -> "Figure":
    """Draw how often samples have which energy, beside the chi-square law with these degrees of freedom."""
    from matplotlib.figure import Figure
    from scipy.special import chdtri, gammaln

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    found = np.asarray(energies)
    bins = min(max(round(found.size**0.5), 5), 60)
    axes.hist(found, bins=bins, density=True, color="#fdae6b", label=f"measured, {found.size} samples")
    low, high = chdtri(degrees, 0.9995), chdtri(degrees, 0.0005)
    grid = np.linspace(min(low, found.min()), max(high, found.max()), 400)[1:]
    density = np.exp((degrees / 2 - 1) * np.log(grid / 2) - grid / 2 - gammaln(degrees / 2)) / 2
    axes.plot(grid, density, color="#2171b5", lw=1.5, label=f"predicted, chi-square on {degrees} degrees")
    axes.set(
        xlabel=r"Twice the energy of a sample over its temperature, $\beta\,(x - \mu)^* A\,(x - \mu)$", ylabel="Density"
    )
    _finish(axes, title)
    return figure


def _finish(axes: "Axes", title: str) -> None:
    """What all figures have in common."""
    axes.set_title(title, loc="left", fontsize="medium")
    axes.grid(which="major", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(facecolor="white", framealpha=0.9, edgecolor="none", fontsize="small")


def png(figure: "Figure") -> bytes:
    """Return a figure as the content of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def _scaled(plan: Plan, scales: jax.Array) -> Schedule:
    """Schedules of all lengths, as one with leaves of shape (m,)."""
    return Schedule(plan.burn_in * scales, plan.duration * scales)


@jax.jit
def _measure(program: Program, force: jax.Array, truth: jax.Array, keys: jax.Array, schedules: Schedule) -> jax.Array:
    def run(case: tuple[jax.Array, Schedule]) -> jax.Array:
        average = program.run(force, *case).average
        return jnp.linalg.norm(average - truth, axis=0) / jnp.linalg.norm(truth)

    return jax.lax.map(run, (keys, schedules))


@jax.jit
def _band(machine: Machine, problem: Problem, key: jax.Array, schedules: Schedule) -> jax.Array:
    """Quantiles over draws of the error, mode by mode; the same draws at every time make the curves smooth."""
    shape = (machine.operator.components, _DRAWS, problem.nodes.size)
    noise = jax.random.normal(key, shape, problem.nodes.dtype)
    squares, first = jnp.sum(noise**2, 0), noise[0]

    def quantiles(schedule: Schedule) -> jax.Array:
        law = machine.law(problem.nodes, schedule)
        scatter = jnp.sqrt(law.covariance[0, 0]) / problem.length[0]
        bias = jnp.sqrt(problem.pull[:, 0]) * law.start[0, 0]
        errors = squares @ scatter**2 + first @ (2 * scatter * bias) + jnp.sum(bias**2)
        return jnp.quantile(jnp.sqrt(jnp.maximum(errors, 0.0)), jnp.asarray(_LEVELS, errors.dtype))

    return jax.lax.map(quantiles, schedules)
