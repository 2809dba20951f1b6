"""How every command ends: its report is printed, what went wrong is said in one line, and the exit code tells."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

import thermolinalg as tla
from thermolinalg.commands.devices import Hardware
from thermolinalg.commands.job import Job, carry_out
from thermolinalg.commands.session import Precision, Session
from thermolinalg.files import check_target
from thermolinalg.report import show


def run_job(
    prepare: Callable[[Session, tla.Device], Job],
    hardware: Hardware,
    dtype: Precision,
    seed: int,
    out: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Prepare a job, carry it out, and print its report."""
    with one_line_errors():
        if out is not None:
            check_target(out, ".npy")
        if plot is not None:
            check_target(plot, ".png")
        session = Session(dtype, drawn=plot is not None, live=not as_json, seed=seed)
        report = carry_out(prepare(session, hardware.build()), seed, out, plot)
        report["device"] |= hardware.facts
        print_report(report, as_json)
    raise typer.Exit(1 if report["status"]["flags"] else 0)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Say what is wrong with the input in one line, and exit with 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        print("thermolinalg:", " ".join(str(error).split()), file=sys.stderr)
        raise typer.Exit(2) from None


def print_report(report: dict[str, Any], as_json: bool) -> None:
    """Print a report as one JSON object or as tables."""
    if as_json:
        print(json.dumps(report, allow_nan=False))
    else:
        show(report)
