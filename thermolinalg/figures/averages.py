"""Error of an average against device time, measured and predicted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.device import Program
from thermolinalg.figures.axes import draw_runs, draw_systematic, finish
from thermolinalg.operators import Modal, Operator, as_block
from thermolinalg.plan import Plan
from thermolinalg.simulators import Schedule

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
    systematic : Array, shape (m,), optional
        Root mean square of the part that the device makes, of one that makes any.
    """

    times: jax.Array
    errors: jax.Array
    grid: jax.Array
    band: jax.Array
    systematic: jax.Array | None = None


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
        If there is no such prediction; see :func:`check_curve`. Nor is there one for dead nodes.

    Notes
    -----
    The prediction runs nothing: the squared error is a sum of independent squares, one for each eigenvalue, with
    weights and biases in closed form, and quantiles are taken over 4000 draws of that sum, the same at every time.
    What couplings and forces are off is part of the biases, exactly; rounding at the read-out counts as noise.
    """
    force = as_block(b, program.operator, "b")
    check_curve(program.operator, force)
    exact = as_block(truth, program.operator, "truth")
    if program.device.maimed:
        raise ValueError("an error curve predicts no dead nodes; leave them out of the matrix")
    measured, predicted = jax.random.split(key)
    real = jnp.finfo(exact.dtype).dtype
    marks, grid = (jnp.logspace(*span, dtype=real) for span in ((-2.0, 1.0, 13), (-2.1, 1.1, 97)))
    keys = jax.random.split(measured, marks.size)
    errors, systematic = _measure(program, jnp.tile(force, (1, runs)), exact, keys, _scaled(plan, marks))
    band = _band(program, force, exact, predicted, _scaled(plan, grid))
    total = jnp.asarray(plan.time_constants)
    return ErrorCurve(total * marks, errors, total * grid, band, systematic)


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
    draw_average(axes, curve, "")
    planned = float(plan.time_constants)
    axes.axvline(planned, color="0.25", lw=1, ls="--", label=f"planned time, {planned:.3g}")
    if plan.rtol is not None:
        axes.axhline(float(plan.rtol), color="0.25", lw=1, ls=":", label=f"planned rtol, {float(plan.rtol):.3g}")
    axes.set(xscale="log", yscale="log", xlim=(curve.grid[0], curve.grid[-1]))
    axes.set_xlabel(f"Device time, burn-in and average (time constants of {time_constant * 1e6:g} µs)")
    axes.set_ylabel("Relative error, 2-norm")
    finish(axes, title)
    return figure


def draw_average(axes: "Axes", curve: ErrorCurve, what: str) -> None:
    """Band and runs of an error curve; labels begin with what they are of."""
    low, median, high = curve.band.T
    axes.fill_between(curve.grid, low, high, color="#9ecae1", alpha=0.6, lw=0, label=f"{what}predicted, 5–95 % of runs")
    axes.plot(curve.grid, median, color="#2171b5", lw=1.5, label=f"{what}predicted median")
    draw_systematic(axes, curve.times, curve.systematic, what)
    draw_runs(axes, curve.times, curve.errors, what, "#d94801", "o")


def _scaled(plan: Plan, scales: jax.Array) -> Schedule:
    """Schedules of all lengths, as one with leaves of shape (m,)."""
    return Schedule(plan.burn_in * scales, plan.duration * scales)


@jax.jit
def _measure(
    program: Program, force: jax.Array, truth: jax.Array, keys: jax.Array, schedules: Schedule
) -> tuple[jax.Array, jax.Array | None]:
    length = jnp.linalg.norm(truth)

    def run(case: tuple[jax.Array, Schedule]) -> tuple[jax.Array, jax.Array | None]:
        reading = program.run(force, *case)
        errors = jnp.linalg.norm(reading.average - truth, axis=0) / length
        if reading.systematic is None:
            return errors, None
        return errors, jnp.linalg.norm(reading.systematic) / (length * jnp.asarray(errors.size, length.dtype) ** 0.5)

    return jax.lax.map(run, (keys, schedules))


@jax.jit
def _band(program: Program, force: jax.Array, truth: jax.Array, key: jax.Array, schedules: Schedule) -> jax.Array:
    """Quantiles over draws of the error, mode by mode; the same draws at every time make the curves smooth."""
    device, operator = program.device, program.machine.operator.factor()
    assert isinstance(operator, Modal)  # check_curve() made sure
    rates, components, length = operator.rates, operator.components, jnp.linalg.norm(truth)
    noise = jax.random.normal(key, (components, _DRAWS, rates.size), rates.dtype)
    squares, first = jnp.sum(noise**2, 0), noise[0]
    push, _ = device.load(force, key)
    goal = operator.to_modes(push)[:, 0] / rates.astype(push.dtype)
    # What a device with other couplings and another force says after a time without end is not the truth.
    wrong = jnp.zeros_like(goal) if device.exact else goal - operator.to_modes(truth)[:, 0]
    answer = operator.from_modes(goal[:, None])

    def rounding(schedule: Schedule) -> jax.Array:
        if device.readout.ideal:
            return jnp.zeros((), rates.dtype)
        seen = device.readout.average(answer, jnp.zeros((len(answer), 1), rates.dtype), schedule, key)
        return jnp.mean(seen.error**2) / components

    def quantiles(schedule: Schedule) -> jax.Array:
        law = program.machine.law(rates, schedule)
        scatter = jnp.sqrt(law.covariance[0, 0] + rounding(schedule)) / length
        bias = jnp.abs(wrong - law.start[0, 0].astype(goal.dtype) * goal) / length
        errors = squares @ scatter**2 + first @ (2 * scatter * bias) + jnp.sum(bias**2)
        return jnp.quantile(jnp.sqrt(jnp.maximum(errors, 0.0)), jnp.asarray(_LEVELS, errors.dtype))

    return jax.lax.map(quantiles, schedules)
