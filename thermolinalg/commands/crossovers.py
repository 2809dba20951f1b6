"""Where a device overtakes a digital method, asked from the command line."""

import json
from io import BytesIO
from typing import Any

import thermolinalg.commands.options as opt
from thermolinalg.commands.options import AnalogName, ChipName, CircuitName, DigitalName
from thermolinalg.commands.running import one_line_errors
from thermolinalg.files import check_target, write_bytes
from thermolinalg.report import plain


def crossover(
    digital: opt.Against = [DigitalName.cholesky],  # noqa: B006
    on: opt.Chip = ChipName.h100,
    analog: opt.Analog = AnalogName.solve,
    device: opt.Circuit = CircuitName.rc,
    variable: opt.Variable = "n",
    at: opt.Known = None,
    low: opt.Lowest = None,
    high: opt.Highest = None,
    list_all: opt.Listed = False,
    csv: opt.Comma = None,
    latex: opt.Latex = None,
    figure: opt.Drawing = None,
    as_json: opt.Json = False,
) -> None:
    """Say where a device takes less time than a digital method, by formulas, and run nothing.

    The answer may be that there is no crossover. Windows are given without and with the limits of precision, array and
    memory; beside them stand the numbers that they are made of, and how much each of these matters.
    """
    # SymPy takes long to load, and no other command needs it.
    from thermolinalg.commands.contests import Contest
    from thermolinalg.commands.methods import listed

    with one_line_errors():
        for path, suffix in ((csv, ".csv"), (latex, ".tex"), (figure, ".png")):
            if path is not None:
                check_target(path, suffix)
        if list_all:
            contest, tables = None, listed()
        else:
            contest = Contest.prepare(digital, on, analog, device, variable, at or [], low, high)
            tables = [contest.answer(), contest.basis()]
        if figure is not None:
            if contest is None:
                raise ValueError("--list compares nothing, so that there is no figure; leave out --list or --figure")
            picture = BytesIO()
            contest.draw().savefig(picture, format="png", dpi=130)
            write_bytes(figure, picture.getvalue())
        if csv is not None:
            write_bytes(csv, "\r\n".join(table.csv() for table in tables).encode())
        if latex is not None:
            write_bytes(latex, ("\n\n".join(table.latex() for table in tables) + "\n").encode())
        if as_json:
            found: dict[str, Any] = {"tables": [_object(table) for table in tables]}
            if contest is not None:
                windows = contest.windows(*contest.limits)
                found = {
                    "question": contest.question,
                    "crossovers": list(contest.windows().crossovers),
                    "windows": [[window.low.at, window.high.at] for window in windows.ahead],
                    "reason": windows.reason,
                    **found,
                }
            print(json.dumps(plain(found), allow_nan=False))
        else:
            print("\n\n".join(table.text() for table in tables))


def _object(table: Any) -> dict[str, Any]:
    rows = [[cell if isinstance(cell, (int, float)) else str(cell) for cell in row] for row in table.rows]
    return {"question": table.question, "columns": list(table.columns), "rows": rows, "notes": list(table.notes)}
