"""Errors of repeated runs of any verb against their length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.figures.axes import draw_runs, draw_systematic, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    systematic : Array, shape (m,), optional
        The part of it that the device makes, of one that makes any.
    """

    ends: jax.Array
    errors: jax.Array
    predicted: jax.Array
    systematic: jax.Array | None = None


def repeated_errors(
    sweep: Callable[[Any, jax.Array], tuple[jax.Array, ...]],
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
        From operands, and one key for each of m lengths, to values, shape (m, ...), and their standard errors; third
        may be the parts of these that the device makes. Traced.
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
    values, *stated = (np.asarray(x).reshape(runs, len(ends), -1) for x in found)
    scale = np.linalg.norm(exact) if relative else 1.0
    errors = np.linalg.norm(values - exact[None, None], axis=2).T / scale
    # Some estimators read their standard error off the samples, so that it scatters too.
    predicted = [jnp.asarray(np.sqrt(np.mean(np.sum(part**2, axis=2), axis=0)) / scale) for part in stated]
    return RepeatedErrors(jnp.asarray(ends), jnp.asarray(errors), *predicted)


def repeated_figure(
    runs: RepeatedErrors, title: str, across: str, up: str, planned: tuple[str, float], rtol: float | None
) -> "Figure":
    """Draw repeated errors, with the length that was `planned` and what was to be reached by then."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(runs.ends, runs.predicted, color="#2171b5", lw=1.5, label="predicted root mean square")
    draw_systematic(axes, runs.ends, runs.systematic, "")
    draw_runs(axes, runs.ends, runs.errors, "", "#d94801", "o")
    name, length = planned
    axes.axvline(length, color="0.25", lw=1, ls="--", label=f"{name}, {length:.3g}")
    if rtol is not None:
        axes.axhline(rtol, color="0.25", lw=1, ls=":", label=f"planned rtol, {rtol:.3g}")
    axes.set(xscale="log", yscale="log", xlabel=across, ylabel=up)
    finish(axes, title)
    return figure
