"""Error over what a sweep varies, measured and predicted."""

from typing import TYPE_CHECKING, Any

import numpy as np

from thermolinalg.figures.axes import draw_systematic, finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sweep_figure(rows: list[dict[str, Any]], title: str, across: str, logarithmic: bool) -> "Figure":
    """Draw medians and 90 % ranges of relative errors beside the predicted root mean square.

    Parameters
    ----------
    rows : list of dict
        With ``value``, ``median``, ``low``, ``high``, ``predicted_rms`` and ``systematic``; what is not finite is left
        out.
    title, across : str
    logarithmic : bool
        Whether values stand on a logarithmic axis; errors always do.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    table = {name: np.array([row[name] for row in rows], float) for name in rows[0] if name != "flags"}
    for name in table.keys() - {"value"}:
        table[name] = np.where(np.isfinite(table[name]) & (table[name] > 0), table[name], np.nan)
    values, median = table["value"], table["median"]
    axes.plot(values, table["predicted_rms"], color="#2171b5", lw=1.5, label="predicted root mean square")
    if np.isfinite(table["systematic"]).any():
        draw_systematic(axes, values, table["systematic"], "")
    reach = np.stack([median - table["low"], table["high"] - median])
    label = "measured, median and 5–95 % of runs"
    axes.errorbar(values, median, np.nan_to_num(reach), fmt="o", ms=4, lw=1, color="#d94801", label=label)
    axes.set(xscale="log" if logarithmic else "linear", yscale="log", xlabel=across, ylabel="Relative error")
    finish(axes, title)
    return figure
