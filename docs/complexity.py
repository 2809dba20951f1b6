"""Make the page on complexity of its template and of the scripts in analysis: ``python docs/complexity.py``.

Lines of the template such as ``{{ table energy 0 }}`` and ``{{ figure energy What it shows }}`` stand for tables and
the figure of a script. Measured times are on no page: they differ from machine to machine.
"""

import importlib
import re
import sys
from functools import cache
from pathlib import Path

import matplotlib

from thermolinalg.complexity.report import Table

HERE = Path(__file__).parent
TEMPLATE, PAGE, IMAGES = HERE / "complexity.md.in", HERE / "pages" / "complexity.md", HERE / "pages" / "images"
SCRIPTS = HERE.parent / "analysis"
MARK = re.compile(r"^\{\{ (table|figure) (\w+) (.+) \}\}$", re.MULTILINE)


@cache
def tables(script: str) -> list[Table]:
    """All tables of a script, at full size."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    return importlib.import_module(script).tables(False)


def page() -> str:
    """Return the page, with tables as they come out now."""

    def put(mark: re.Match[str]) -> str:
        kind, script, rest = mark.groups()
        if kind == "figure":
            return f"![{rest}](images/complexity-{script}.png)"
        return tables(script)[int(rest)].markdown()

    head = f"<!-- Made by docs/{Path(__file__).name}; edit docs/{TEMPLATE.name}, or the scripts in analysis. -->\n\n"
    return head + MARK.sub(put, TEMPLATE.read_text())


def figures() -> None:
    """Draw the figures of the page."""
    for kind, script, _ in MARK.findall(TEMPLATE.read_text()):
        if kind == "figure":
            found = importlib.import_module(script).figure(False)
            found.savefig(IMAGES / f"complexity-{script}.png", dpi=110)


if __name__ == "__main__":
    matplotlib.use("agg")
    PAGE.write_text(page())
    figures()
