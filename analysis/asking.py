"""Command line that every question shares: print the tables, write them to files, draw the figure."""

import argparse
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from thermolinalg.complexity.report import Table


def run(
    description: str, tables: Callable[[bool], list[Table]], figure: Callable[[bool], Figure] | None = None
) -> None:
    """Print the tables of a question, and write what the options ask for.

    Parameters
    ----------
    description : str
        Shown by ``--help``.
    tables : function of a bool to a list of tables
        The bool is True under ``--smoke``: fewer points, the same questions.
    figure : function of a bool to a figure, or None

    Raises
    ------
    SystemExit
        With 1 if a check inside fails, with 2 if an option is wrong.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the tables as CSV, a blank line between two")
    parser.add_argument("--latex", type=Path, metavar="FILE", help="write the tables for LaTeX")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the figure, in the format of the suffix")
    parser.add_argument("--smoke", action="store_true", help="few points, to see that all of it runs")
    options = parser.parse_args()
    if options.figure and figure is None:
        parser.error("there is no figure for this question; leave out --figure")
    try:
        found = tables(options.smoke)
        print("\n\n".join(table.text() for table in found))
        if options.csv:
            options.csv.write_bytes("\r\n".join(table.csv() for table in found).encode())
        if options.latex:
            options.latex.write_text("\n\n".join(table.latex() for table in found) + "\n")
        if options.figure and figure is not None:
            figure(options.smoke).savefig(options.figure, bbox_inches="tight")
    except AssertionError as error:
        raise SystemExit(f"a check failed: {error}") from error
