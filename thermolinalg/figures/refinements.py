"""Error of a refinement against device time, beside that of an average."""

from dataclasses import dataclass
from functools import partial
from math import ceil, log
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.device import Program
from thermolinalg.figures.averages import ErrorCurve, draw_average
from thermolinalg.figures.axes import draw_runs, finish
from thermolinalg.operators import as_block
from thermolinalg.plan import Plan
from thermolinalg.refine import Iterate, flexible_cg
from thermolinalg.refine.rates import predicted, survey_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RefinementCurve:
    """Relative error of a refinement after each of its steps.

    Attributes
    ----------
    times : Array, shape (m,)
        Total times of one to m steps, in time constants of the device.
    errors : Array, shape (m, runs)
        Relative errors in the 2-norm of independent refinements.
    contraction : Array, shape ()
        Predicted factor of one step of plain refinement.
    floor : Array, shape ()
        Relative error to which rounding lets it come.
    """

    times: jax.Array
    errors: jax.Array
    contraction: jax.Array
    floor: jax.Array


def refinement_curve(
    program: Program, b: ArrayLike, plan: Plan, truth: ArrayLike, *, key: jax.Array, runs: int = 8
) -> RefinementCurve:
    """Refine by flexible steps, and compare the answer after each of them with the truth.

    Parameters
    ----------
    program : Program
    b : array, shape (d,)
        One right-hand side, not zero.
    plan : Plan
        Of one step, with a predicted contraction below one.
    truth : array, shape (d,)
        The exact solution, to better than the rounding floor.
    key : PRNG key
    runs : int
        Independent refinements.

    Notes
    -----
    The steps are those of :func:`thermolinalg.refine.solve`, which stops when its test passes; here they go on until
    four steps after plain refinement is predicted to be at the rounding floor.
    """
    force = as_block(b, program.operator, "b")
    exact = as_block(truth, program.operator, "truth")
    survey = survey_of(program)
    contraction = predicted(survey, plan.schedule, jnp.linalg.norm(force, axis=0))[0]
    floor = survey.least_rtol()
    steps = ceil(log(float(floor)) / log(float(contraction))) + 4
    errors = _refine(program, jnp.tile(force, (1, runs)), exact, key, plan, steps)
    total = jnp.asarray(plan.time_constants)
    times = total * jnp.arange(1, steps + 1, dtype=total.dtype)
    return RefinementCurve(times, errors, contraction, floor)


def refinement_figure(
    average: ErrorCurve,
    course: RefinementCurve,
    rtol: float,
    end: tuple[float, float],
    title: str,
    time_constant: float,
) -> "Figure":
    """Draw a refinement beside averaging, on the same axes; `end` is the time and the error of the answer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    axes = figure.subplots()
    draw_average(axes, average, "averaging: ")
    factor = float(course.contraction)
    steps = np.arange(1, course.times.size + 1)
    line = factor**steps
    above = line > float(course.floor)
    label = f"plain refinement: predicted, {factor:.2g} a step"
    axes.plot(course.times[above], line[above], color="#238b45", lw=1.5, label=label)
    draw_runs(axes, course.times, course.errors, "refinement: ", "#54278f", "s")
    axes.plot(*end, "*", ms=11, mew=0.8, mec="white", color="black", label=f"this answer, {end[1]:.2g}")
    axes.axhline(rtol, color="0.25", lw=1, ls=":", label=f"rtol, {rtol:.3g}")
    floor = float(course.floor)
    axes.axhline(floor, color="0.25", lw=1, ls="-.", label=f"rounding floor, least rtol {floor:.2g}")
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel(f"Device time, all runs (time constants of {time_constant * 1e6:g} µs)")
    axes.set_ylabel("Relative error, 2-norm")
    finish(axes, title)
    return figure


@partial(jax.jit, static_argnums=5)
def _refine(program: Program, force: jax.Array, truth: jax.Array, key: jax.Array, plan: Plan, steps: int) -> jax.Array:
    length = jnp.linalg.norm(force, axis=0)

    def step(now: Iterate, k: jax.Array) -> tuple[Iterate, jax.Array]:
        size = jnp.linalg.norm(now.residual, axis=0)
        scale = (jnp.where(size > 0, size, length) / length)[None].astype(force.dtype)
        reading = program.run(now.residual / scale, jax.random.fold_in(key, k), plan.schedule)
        now = flexible_cg(now, reading.average * scale, program.operator.matmat)
        return now, jnp.linalg.norm(now.value - truth, axis=0) / jnp.linalg.norm(truth, axis=0)

    return jax.lax.scan(step, Iterate.start(force), jnp.arange(steps))[1]
