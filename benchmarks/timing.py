"""Interleaved timings and the record that belongs beside them, for all benchmarks.

The callables take turns within one process, so that a busy machine slows all of them alike, and ratios are formed
within a round before their median is taken. Absolute times are worth less than ratios.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "thermolinalg", "thermox")


@dataclass
class Timing:
    """Seconds of the first call, which compiles, and of the calls after it."""

    first: float
    warm: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the warm calls; of the first call when there are no others."""
        return float(np.median(self.warm or [self.first]))

    def per(self, number: int) -> "Timing":
        """Time of each when one call does a number of things."""
        return Timing(self.first / number, [time / number for time in self.warm])

    def record(self) -> dict[str, Any]:
        """Numbers for the JSON file."""
        return {"first_s": self.first, "median_s": self.median, "repeats": len(self.warm)}


def once(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, until its result is there, and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - start, result


def interleave(calls: Mapping[str, Callable[[], Any]], repeats: int, **fewer: int) -> dict[str, Timing]:
    """Call each once, then all of them in turn.

    Parameters
    ----------
    calls : mapping from names to callables
    repeats : int
        Rounds after the first call.
    **fewer : int
        Rounds for callables that take long, by name.
    """
    timings = {name: Timing(once(call)[0]) for name, call in calls.items()}
    for turn in range(repeats):
        for name, call in calls.items():
            if turn < fewer.get(name, repeats):
                timings[name].warm.append(once(call)[0])
    return timings


def ratio(slow: Timing, quick: Timing) -> float:
    """Median over the rounds of one time over the other."""
    pairs = list(zip(slow.warm, quick.warm, strict=False))
    return float(np.median([a / b for a, b in pairs])) if pairs else slow.median / quick.median


def environment() -> dict[str, Any]:
    """What the numbers depend on: machine, threads, versions, device and default type."""
    devices = jax.devices()
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "lapack_threads": os.environ.get("OPENBLAS_NUM_THREADS", "default"),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "device": f"{devices[0].platform}: {devices[0].device_kind}",
        "devices": len(devices),
        "dtype": str(jax.numpy.zeros(()).dtype),
        **{name: installed(name) for name in PACKAGES},
    }


def installed(package: str) -> str | None:
    """Version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(path: str | Path, results: Mapping[str, Any]) -> None:
    """Write results and the environment as JSON."""
    record = {"environment": environment(), **results}
    Path(path).write_text(json.dumps(record, indent=1, default=float) + "\n")


def show(title: str, rows: Iterable[Mapping[str, Any]], note: str = "") -> None:
    """Print rows as a table; the keys of the first row are the heads of the columns."""
    rows = list(rows)
    table = Table(title=title, title_justify="left", caption=note or None, caption_justify="left")
    for name in rows[0]:
        table.add_column(str(name), justify="right")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console(width=160 if not os.isatty(1) else None).print(table)


def run_parts(parts: Mapping[str, Callable[[bool], Mapping[str, Any]]], description: str | None) -> None:
    """Run the parts of a benchmark that the command line asks for, print their goals, and write the numbers."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, for a quick check")
    parser.add_argument("--json", metavar="FILE", help="where to write the numbers")
    parser.add_argument("--only", choices=parts, help="one part of all")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    # A quick check is all compilation.
    jax.config.update("jax_disable_most_optimizations", arguments.smoke)
    results = {}
    for name, part in parts.items():
        if arguments.only in (None, name):
            results[name] = part(arguments.smoke)
            if arguments.json:
                write(arguments.json, {"smoke": arguments.smoke, **results})
    goals = [{"goal": f"{part}: {n}"} | row for part, found in results.items() for n, row in found["goals"].items()]
    if goals:
        show("Goals", goals)


def goal(value: float, *, at_most: float | None = None, at_least: float | None = None) -> dict[str, Any]:
    """A measured figure beside its goal, and whether it is met."""
    met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    wanted = f"<= {at_most:g}" if at_least is None else f">= {at_least:g}"
    return {"measured": value, "wanted": wanted, "met": "yes" if met else "NO"}


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
