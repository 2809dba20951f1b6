"""What all figures have in common."""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_runs(axes: "Axes", ends: ArrayLike, errors: ArrayLike, what: str, color: str, marker: str) -> None:
    """Errors of runs, shape (m, runs), at their ends (m,)."""
    count = np.shape(errors)[1]
    label = f"{what}measured, {count} runs each"
    ends, errors = np.repeat(ends, count), np.ravel(errors)
    axes.plot(ends, errors, marker, ms=3.5, mew=0, alpha=0.75, color=color, label=label)


def draw_systematic(axes: "Axes", ends: ArrayLike, errors: ArrayLike | None, what: str) -> None:
    """What a device adds to errors at their ends (m,), however long it runs; of a device that adds nothing, nothing."""
    if errors is not None:
        label = f"{what}predicted part of converters and mismatch"
        axes.plot(ends, errors, color="#6a51a3", lw=1.2, ls="-.", label=label)


def finish(axes: "Axes", title: str) -> None:
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
