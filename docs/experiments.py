"""Make the page on experiments of its template and of the numbers in docs/experiments: ``python docs/experiments.py``.

The numbers are made by ``python benchmarks/experiments.py --only PART --json docs/experiments/PART.json``. Lines of the
template such as ``{{ table time }}`` and ``{{ figure time What it shows }}`` stand for the table and the figure of a
part, ``{{ facts time }}`` for its sizes, and ``{{ value time test_loss 3 t = 50 }}`` for one number.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np

from thermolinalg.figures.axes import finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HERE = Path(__file__).parent
TEMPLATE, PAGE, IMAGES = HERE / "experiments.md.in", HERE / "pages" / "experiments.md", HERE / "pages" / "images"
NUMBERS = HERE / "experiments"
MARK = re.compile(r"\{\{ (table|figure|facts|value) (\w+)(?: (.+?))? \}\}")
REACHED = 0.9
COLORS = (
    *("#d94801", "#2171b5", "#238b45", "#6a51a3", "#000000", "#e7298a"),
    *("#a6761d", "#17becf", "#969696", "#7fbc41", "#fdae61"),
)
CURVES = {
    "headline": ("step", "wall_seconds", "device_seconds"),
    "time": ("step",),
    "delay": ("step",),
    "noise": ("step",),
    "squad": ("step", "wall_seconds"),
}
UNITS = {
    "step": "steps",
    "wall_seconds": "seconds on the machine that simulated, without compiling",
    "device_seconds": "seconds of the device, modelled",
}


@cache
def part(name: str) -> dict[str, Any]:
    """Numbers of one part."""
    return json.loads((NUMBERS / f"{name}.json").read_text())[name]


def curves(run: dict[str, Any], column: str) -> np.ndarray:
    """One row for each seed; NaN where a loss was not finite."""
    return np.array(run[column], float)


def ends(run: dict[str, Any], column: str) -> np.ndarray:
    """Last value of every seed."""
    return curves(run, column)[:, -1]


def spread(values: np.ndarray, digits: int) -> str:
    """Mean and standard deviation over seeds."""
    if not np.all(np.isfinite(values)):
        return "diverged"
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def steps_to(run: dict[str, Any]) -> str:
    """Steps, in the median over seeds, until the training accuracy is first measured to be high."""
    steps, scores = curves(run, "step")[0], curves(run, "train_score")
    found = [next((n for n, s in zip(steps, row, strict=True) if s >= REACHED), np.inf) for row in scores]
    return f"{np.median(found):.0f}" if np.isfinite(np.median(found)) else "not reached"


def table(name: str) -> str:
    """The table of one part, in Markdown."""
    found = part(name)
    text = name == "squad"
    score = ("exact spans",) if text else (f"steps to {REACHED:.0%} training accuracy", "test accuracy")
    heads = ("run", "settings", "training loss", "test loss", *score, "ms a step", "device, modelled, ms")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for label, run in found["runs"].items():
        device = 1e3 * np.mean(ends(run, "device_seconds")) / found["steps"]
        cells = [label, run["settings"]]
        cells += [spread(ends(run, column), 3) for column in ("train_loss", "test_loss")]
        cells += [] if text else [steps_to(run)]
        cells += [spread(ends(run, "test_score"), 3)]
        wall = 1e3 * np.mean(ends(run, "wall_seconds")) / found["steps"]
        cells += [f"{wall:,.0f}" if wall > 100 else f"{wall:.3g}"]
        lines.append("| " + " | ".join([*cells, f"{device:.3g}" if device else "-"]) + " |")
    return "\n".join(lines)


def facts(name: str) -> str:
    """Sizes of one part."""
    found = part(name)
    sizes = f"{found['parameters']:,} parameters, {found['training_examples']:,} examples to train and "
    sizes += f"{found['test_examples']:,} to test, batches of {found['batch']}, {found['steps']} steps"
    seeds = len(found["seeds"])
    return sizes + (", one seed" if seeds == 1 else f", {seeds} seeds")


def value(name: str, rest: str) -> str:
    """One number, at the end or after some steps: ``value headline train_loss 4 NGD, tuned @ 31``."""
    column, digits, label = rest.split(" ", 2)
    label, _, step = label.partition(" @ ")
    run = part(name)["runs"][label]
    place = run["step"][0].index(float(step)) if step else -1
    return f"{np.mean(curves(run, column)[:, place]):.{digits}f}"


def page() -> str:
    """Return the page, with the numbers that are there now."""

    def put(mark: re.Match[str]) -> str:
        kind, name, rest = mark.groups()
        if kind == "figure":
            return f"![{rest}](images/experiments-{name}.png)"
        return {"table": table, "facts": facts}[kind](name) if kind != "value" else value(name, rest)

    head = (
        f"<!-- Made by docs/{Path(__file__).name}; edit docs/{TEMPLATE.name}, or run benchmarks/experiments.py. -->\n\n"
    )
    return head + MARK.sub(put, TEMPLATE.read_text())


def draw(name: str) -> None:
    """Losses of one part, training and test; bands go from the lowest to the highest seed."""
    from matplotlib.figure import Figure

    across = CURVES[name]
    figure = Figure(figsize=(9.6, 0.8 + 3.2 * len(across)), layout="constrained")
    grid = figure.subplots(len(across), 2, squeeze=False)
    for row, quantity in zip(grid, across, strict=True):
        for axes, kind in zip(row, ("training", "test"), strict=True):
            _curves(axes, name, quantity, f"{kind.removesuffix('ing')}_loss")
            axes.set(xlabel=UNITS[quantity], ylabel=f"{kind} loss", yscale="log")
            finish(axes, "")
            axes.get_legend().remove()
    lines, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    figure.savefig(IMAGES / f"experiments-{name}.png", dpi=110)


def _curves(axes: "Axes", name: str, quantity: str, column: str) -> None:
    for number, (label, run) in enumerate(part(name)["runs"].items()):
        times, values = np.mean(curves(run, quantity), 0), curves(run, column)
        if quantity == "device_seconds" and not np.any(times):
            continue
        color = COLORS[number % len(COLORS)]
        axes.plot(times, np.exp(np.mean(np.log(values), 0)), color=color, lw=1.4, label=label)
        axes.fill_between(times, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)


def drawn() -> list[str]:
    """Parts whose figure the page shows."""
    return [name for kind, name, _ in MARK.findall(TEMPLATE.read_text()) if kind == "figure"]


if __name__ == "__main__":
    matplotlib.use("agg")
    PAGE.write_text(page())
    for shown in drawn():
        draw(shown)
