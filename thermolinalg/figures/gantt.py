"""Gantt charts: which resource does what, and when."""

from typing import TYPE_CHECKING

from thermolinalg.figures.axes import finish
from thermolinalg.timeline import Span, Timeline, time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = ("#9ecae1", "#fdae6b", "#74c476", "#bcbddc", "#fcbba1", "#c7e9b4", "#d9d9d9", "#dfc27d")
_BAR = 0.7
_EDGE = 0.03
"""Inches of the narrowest bar with an edge."""

_LETTER = 0.62 * 7 / 72
"""Inches of a letter in a bar: seven points high, and about this much of it wide."""


def gantt_figure(timeline: Timeline, title: str) -> "Figure":
    """Draw a timeline, with one lane for each resource."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, max(3.0, 1.2 + 0.45 * len(timeline.resources))), layout="constrained")
    axes = figure.subplots()
    draw_gantt(axes, timeline)
    finish(axes, title)
    axes.grid(visible=False, axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    return figure


def draw_gantt(axes: "Axes", timeline: Timeline, width: float = 6.0) -> None:
    """Draw the bars of a timeline, coloured by kind of work, with a dark line under those of the critical path.

    Bars carry their names where these fit, on axes that are `width` inches wide.
    """
    scale, unit = time_unit(timeline.makespan)
    inches = width / (timeline.makespan or 1.0)
    lanes = {resource: lane for lane, resource in enumerate(timeline.resources)}
    colors = {kind: _COLORS[number % len(_COLORS)] for number, kind in enumerate(timeline.kinds)}
    bars: dict[tuple[str, str], list[Span]] = {}
    for span in timeline.spans:
        bars.setdefault((span.task.kind, span.task.resource), []).append(span)
    named = set()
    for (kind, resource), spans in bars.items():
        # White edges tell neighbours apart, and would leave nothing of bars as thin as they are.
        edges = ["white" if (span.end - span.start) * inches > _EDGE else colors[kind] for span in spans]
        axes.broken_barh(
            [(span.start / scale, (span.end - span.start) / scale) for span in spans],
            (lanes[resource] - _BAR / 2, _BAR),
            facecolors=colors[kind],
            edgecolors=edges,
            lw=0.6,
            label=f"_{kind}" if kind in named else kind,
        )
        named.add(kind)
    paths: dict[str, list[Span]] = {}
    for name in timeline.critical_path:
        paths.setdefault(timeline[name].task.resource, []).append(timeline[name])
    for number, (resource, spans) in enumerate(paths.items()):
        under = [(span.start / scale, (span.end - span.start) / scale) for span in spans]
        label = "_critical path" if number else "critical path"
        axes.broken_barh(under, (lanes[resource] + _BAR / 2 + 0.04, 0.05), facecolors="0.2", label=label)
    axes.set(xlim=(0, timeline.makespan / scale or 1.0), ylim=(len(lanes) - 0.5, -0.5), xlabel=f"Time ({unit})")
    axes.set_yticks(range(len(lanes)), [f"{name}\n{busy:.0%} busy" for name, busy in timeline.utilisation.items()])
    for span in timeline.spans:
        if (span.end - span.start) * inches > _LETTER * (len(span.task.name) + 1):
            place = (span.start + span.end) / 2 / scale, lanes[span.task.resource]
            axes.text(*place, span.task.name, ha="center", va="center", fontsize=7, clip_on=True)
