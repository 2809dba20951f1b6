"""Tables that begin with the question they answer, as text, CSV, LaTeX and Markdown."""

import csv
import io
import math
import numbers
from dataclasses import dataclass
from typing import Any

import sympy as sp

_LATEX = {character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


@dataclass(frozen=True)
class Table:
    """A question and the rows that answer it.

    Parameters
    ----------
    question : str
        One line that ends with a question mark.
    columns : tuple of str
        With units, where a column has one.
    rows : tuple of tuples
        Numbers are written with three significant digits, SymPy expressions as formulas, all else as it prints. What
        is not known says so in words.
    notes : tuple of str
        Conventions and assumptions; written below the table.

    Raises
    ------
    ValueError
        If the question is none, a row has more or fewer cells than there are columns, or a cell is blank, None or not
        a number.

    Notes
    -----
    Rounding is for reading: take numbers for further computation from `rows`.

    Examples
    --------
    >>> n = sp.Symbol("n")
    >>> table = Table("What does it cost?", ("step", "flops", "at n = 1000"), (("Cholesky", n**3 / 3, 1000**3 / 3),))
    >>> print(table.text())
    What does it cost?
    step      flops   at n = 1000
    --------  ------  -----------
    Cholesky  n**3/3     3.33e+08
    >>> Table("What does it cost?", ("step", "flops"), (("QR",),))
    Traceback (most recent call last):
    ...
    ValueError: row 1 has 1 cell and there are 2 columns; give one cell for each column
    """

    question: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.question.endswith("?") or "\n" in self.question:
            raise ValueError(f"question must be one line that ends with a question mark, got {self.question!r}")
        if not self.columns:
            raise ValueError("columns is empty; name at least one")
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
                raise ValueError(
                    f"row {number} has {cells} and there are {len(self.columns)} columns; give one cell for each column"
                )
            for column, cell in zip(self.columns, row, strict=True):
                _check(number, column, cell)

    def text(self) -> str:
        """Return the table as plain text: the question, aligned columns, and the notes."""
        body = self._cells()
        right = [all(map(_is_number, column)) for column in zip(*self.rows, strict=True)] or [False] * len(self.columns)
        lines = [self.columns, None, *body]
        widths = [max(map(len, column)) for column in zip(self.columns, *body, strict=True)]
        shown = [
            "  ".join(
                "-" * width if line is None else line[i].rjust(width) if right[i] else line[i].ljust(width)
                for i, width in enumerate(widths)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.question, *shown, *self.notes])

    def csv(self) -> str:
        """Return columns and rows by RFC 4180; the question and the notes are left out."""
        file = io.StringIO()
        csv.writer(file).writerows([self.columns, *self._cells()])
        return file.getvalue()

    def latex(self) -> str:
        """Return a LaTeX tabular that needs no package; the question and the notes are comments."""
        lines = [f"% {self.question}", rf"\begin{{tabular}}{{{'l' * len(self.columns)}}}", r"\hline"]
        lines += [_latex_row(map(_escaped, self.columns)), r"\hline"]
        lines += [_latex_row(map(_latex_cell, row)) for row in self.rows]
        lines += [r"\hline", r"\end{tabular}"]
        return "\n".join([*lines, *(f"% {line}" for note in self.notes for line in note.splitlines())])

    def markdown(self) -> str:
        """Return the table in Markdown, the question in bold, formulas as code, the notes as paragraphs below."""
        rows = [map(_marked, self.columns), ("---",) * len(self.columns), *(map(_markdown_cell, r) for r in self.rows)]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        notes = [part for note in self.notes for part in ("", _marked(note))]
        return "\n".join([f"**{_marked(self.question)}**", "", *lines, *notes])

    def _cells(self) -> list[tuple[str, ...]]:
        return [tuple(map(_shown, row)) for row in self.rows]


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (numbers.Real, sp.Number)) and not isinstance(cell, bool)


def _check(number: int, column: str, cell: Any) -> None:
    bad = math.isnan(float(cell)) if _is_number(cell) else cell is None or not str(cell).strip()
    if bad:
        raise ValueError(f"row {number} has {cell!r} under {column!r}; say in words why there is no figure")


def _shown(cell: Any) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{float(cell):.3g}" if _is_number(cell) else str(cell)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _marked(text: str) -> str:
    """Text that Markdown leaves as it is: stars are no emphasis, a bar ends no cell."""
    return "".join(rf"\{character}" if character in "*|`<" else character for character in _plain(text))


def _markdown_cell(cell: Any) -> str:
    if isinstance(cell, sp.Basic) and not _is_number(cell):
        return f"`{_plain(str(cell))}`".replace("|", r"\|")
    return _marked(_shown(cell))


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _plain(text))


def _latex_cell(cell: Any) -> str:
    if isinstance(cell, sp.Basic) and not _is_number(cell):
        return f"${sp.latex(cell)}$"
    if not _is_number(cell):
        return _escaped(_shown(cell))
    if math.isinf(float(cell)):
        return r"$\infty$" if cell > 0 else r"$-\infty$"
    digits, _, power = _shown(cell).partition("e")
    return rf"${digits} \times 10^{{{int(power)}}}$" if power else f"${digits}$"


def _latex_row(cells: Any) -> str:
    return " & ".join(cells) + r" \\"
