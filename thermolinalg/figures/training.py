"""How runs of several optimizers went: loss and score against steps, time on this machine, and modelled time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thermolinalg.experiments.history import History
from thermolinalg.figures.axes import finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = ("#d94801", "#2171b5", "#238b45", "#6a51a3", "#636363", "#08519c", "#a50f15", "#006d2c")


def training_figure(histories: Sequence[History], title: str) -> "Figure":
    """Draw test results as lines, training results as dashes.

    Parameters
    ----------
    histories : sequence of History
        With one kind of score.
    title : str

    Notes
    -----
    Times of a device have columns of their own, since they are modelled; there is none where no run has any.
    """
    from matplotlib.figure import Figure

    across = [("step", "Steps"), ("wall_seconds", "Seconds on this machine, without compiling")]
    if any(_has_device(history) for history in histories):
        across.append(("device_seconds", "Seconds of the device, modelled"))
    score = histories[0].score_name
    figure = Figure(figsize=(4.4 * len(across), 6.4), layout="constrained")
    rows = (("loss", "Loss"), ("score", score[0].upper() + score[1:]))
    for axes_of_row, (kind, label) in zip(figure.subplots(2, len(across)), rows, strict=True):
        for axes, (quantity, unit) in zip(axes_of_row, across, strict=True):
            for number, history in enumerate(histories):
                if quantity == "device_seconds" and not _has_device(history):
                    continue
                times, color = history.column(quantity), _COLORS[number % len(_COLORS)]
                axes.plot(times, history.column(f"test_{kind}"), color=color, lw=1.5, label=f"{history.name}, test")
                axes.plot(times, history.column(f"train_{kind}"), color=color, lw=1, ls="--", label="training")
            axes.set(xlabel=unit, ylabel=label)
            if kind == "loss" and all(np.all(history.column("train_loss") > 0) for history in histories):
                axes.set_yscale("log")
            finish(axes, title if axes is axes_of_row[0] and kind == "loss" else "")
    return figure


def _has_device(history: History) -> bool:
    return bool(np.any(history.column("device_seconds") > 0))
