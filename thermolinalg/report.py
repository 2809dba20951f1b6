"""What the command line says: plain numbers, as JSON or as tables."""

from dataclasses import fields
from math import isfinite
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

_TIMES = {"burn_in": "burn-in", "duration": "average", "total": "total"}
_COSTS = {
    "program": "write couplings",
    "load": "write operands",
    "settle": "burn-in",
    "average": "average",
    "read": "read answer",
    "convert": "converters",
    "digital": "host",
    "total": "total",
}


def plain(tree: Any) -> Any:
    """Return a tree of arrays as numbers and lists; what is not finite becomes None, which JSON has a word for."""
    if isinstance(tree, dict):
        return {name: plain(part) for name, part in tree.items()}
    if isinstance(tree, list):
        return [plain(part) for part in tree]
    if tree is None or isinstance(tree, str):
        return tree
    value = np.asarray(tree).tolist()
    if isinstance(value, list):
        return plain(value)
    return value if isfinite(value) else None


def attributes(value: Any, *more: str) -> dict[str, Any]:
    """Return the fields of a dataclass, and further attributes, by name."""
    return {name: getattr(value, name) for name in (*(part.name for part in fields(value)), *more)}


def show(report: dict[str, Any]) -> None:
    """Print a report as tables."""
    console = Console(highlight=False, markup=False)
    for columns, lines in _grids(report):
        grid = Table(*columns, box=None, header_style="bold")
        for line in lines:
            grid.add_row(*line)
        console.print(grid)
        console.print()
    for title, rows in _tables(report).items():
        table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
        table.add_column(min_width=18, no_wrap=True, style="cyan")
        table.add_column()
        for row in rows.items():
            table.add_row(*row)
        console.print(table)
        console.print()


def _tables(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Titles, and under each the rows of its table; a verb has those parts that make sense for it."""
    if "presets" in report:
        return _presets(report)
    if "sweep" in report:
        return _sweep(report)
    tables = {"Problem": _problem(report["problem"])}
    if "spectrum" in report:
        tables["Spectrum"] = _spectrum(report["spectrum"])
    if "plan" in report:
        title = "Plan of one step" if "refinement" in report else "Plan"
        tables[title] = _budget(report.get("budget")) | _plan(report["plan"], report["device"])
    if report.get("ladder") is not None:
        tables["Time constants by what is known"] = _ladder(report["ladder"])
    if "device_s" in report:
        costs = {label: seconds(report["device_s"][name]) for name, label in _COSTS.items()}
        if "energy_j" in report:
            costs["energy of the cells"] = f"{report['energy_j']:.3g} J"
        tables["Modelled device time"] = costs
    if "status" not in report:
        return tables | {"Certificate": certified(report)}
    status = report["status"]
    warning = f"{', '.join(status['names'])}: {status['advice']}" if status["flags"] else None
    if "lapack" not in report:
        return tables if warning is None else tables | {"Warning": {"status": warning}}
    kept = "No file is written." if report["plot"] is None else "The answer is not written."
    verdict = "clean" if warning is None else f"{warning} {kept}"
    written = {name: report[name] for name in ("out", "plot") if report[name] is not None}
    return tables | {"Answer": {"status": verdict, **_answer(report), **written}}


def _grids(report: dict[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """Tables with columns: their heads, and their lines."""
    if "presets" in report:
        heads = ["device", "dynamics", "cells", "time constant", "bits", "beta"]
        return [(heads, [_preset(name, device) for name, device in report["presets"].items()])]
    if "sweep" not in report:
        return []
    heads = [report["sweep"]["what"], "median error", "5 %", "95 %", "predicted rms", "systematic", "flags"]
    names = ("value", "median", "low", "high", "predicted_rms", "systematic")
    lines = [[*(_short(row[name]) for name in names), ", ".join(row["flags"])] for row in report["rows"]]
    return [(heads, lines)]


def _preset(name: str, device: dict[str, Any]) -> list[str]:
    bits = {f"{bits:g}" for bits in device["bits"].values() if bits is not None}
    cells = "any number" if device["cells"] is None else str(device["cells"])
    clock = seconds(device["time_constant_s"])
    return [name, device["dynamics"], cells, clock, ", ".join(bits) or "exact", f"{device['beta']:g}"]


def _presets(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    tables = {
        name: {
            "what": device["what"],
            "source": device["source"] or "none: it is the equation",
            "assumed": device["assumed"],
        }
        for name, device in report["presets"].items()
    }
    return tables if report["example"] is None else tables | {"Example": {"written to": report["example"]}}


def _sweep(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    found, device = report["sweep"], report["device"]
    kappa = "" if found["kappa"] is None else f", condition number {found['kappa']:.4g}"
    if found["what"] == "kappa":
        kappa = kappa.replace(", ", ", planned for ")
    rows = {
        "verb": f"{found['primitive']}, {found['repeats']} runs at each value",
        "matrix": f"{found['matrix']}, {found['unknowns']} unknowns{kappa}",
    }
    # Every run has a chip of its own.
    rows |= _plan(report["plan"], device | {"chip_seed": None}) | {"limits": "; ".join(report["limits"])}
    rows |= {name: report[name] for name in ("out", "plot") if report[name] is not None}
    took = seconds(sum(report["simulation_s"].values()))
    return {"Sweep": rows | {"time of simulation": f"{took}, compilation included"}}


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _problem(problem: dict[str, Any]) -> dict[str, str]:
    rows = {name: str(problem[name]) for name in ("matrix", "unknowns", "nonzeros")}
    if "columns" in problem:
        columns = "" if problem["columns"] == 1 else f", {problem['columns']} columns"
        given = problem["right_hand_side"]
        rows["right-hand side"] = "all ones (no b given)" if given is None else given + columns
    elif "right_hand_side" in problem:
        rows["right-hand side"] = problem["right_hand_side"] or "zero (no b given)"
    if "diffusion" in problem:
        rows["Q"] = problem["diffusion"] or "the identity (no Q given)"
    if "shift" in problem:
        rows |= {"time": f"{problem['time']:.6g}"}
        rows |= {"shift": "chosen" if problem["shift"] is None else f"{problem['shift']:.6g}"}
    if "estimator" in problem:
        rows["estimator"] = problem["estimator"]
    if "answer" in problem:
        rows["answer"] = problem["answer"]
    if "path" in problem:
        rows["samples"] = f"{problem['samples']}, {'along a path' if problem['path'] else 'independent'}"
    return rows | {"dtype": problem["dtype"]}


def _spectrum(spectrum: dict[str, Any]) -> dict[str, str]:
    rows = {
        "smallest": f"{spectrum['minimum']:.6g}",
        "largest": f"{spectrum['maximum']:.6g}",
        "condition number": f"{spectrum['kappa']:.4g}",
    }
    if spectrum["lower"] == spectrum["minimum"]:
        return rows | {"resolved": "yes, all eigenvalues are known"}
    resolved = f"yes, condition number at most {spectrum['kappa_bound']:.4g}" if spectrum["resolved"] else "NO"
    interval = f"{spectrum['lower']:.6g} to {spectrum['upper']:.6g} with probability 0.99"
    return rows | {"interval": interval, "resolved": resolved}


def _plan(plan: dict[str, Any], device: dict[str, Any]) -> dict[str, str]:
    time_constant, rows = seconds(device["time_constant_s"]), dict[str, str]()
    if plan["rtol"] is not None:
        often = f"{100 * plan['confidence']:.4g} % of runs"
        rows["promise"] = f"relative error at most {plan['rtol']:.3g} in {often}"
    beta = "swept" if device["beta"] is None else f"{device['beta']:.3g}"
    rows["device"] = f"{_named(device)}, beta {beta}, time constant {time_constant}"
    rows |= _imperfections(device)
    if plan["samples"] is not None:
        rows["samples"] = f"{plan['samples']:.0f}"
    if plan["replicas"] > 1:
        rows["replicas"] = f"{plan['replicas']}, side by side; times are those of each"
    return rows | {
        label: f"{plan['natural'][name]:.4g} natural units = {plan['time_constants'][name]:.4g} time constants"
        for name, label in _TIMES.items()
    }


def _named(device: dict[str, Any]) -> str:
    """Preset and dynamics."""
    return ", ".join(device[name] for name in ("preset", "dynamics") if name in device)


def _imperfections(device: dict[str, Any]) -> dict[str, str]:
    """Rows of what a device does not do exactly."""
    rows, given = dict[str, str](), {name: bits for name, bits in device["bits"].items() if bits is not None}
    if given:
        rows["converters"] = ", ".join(f"{bits:g} bits for {name}" for name, bits in given.items())
    if device["mismatch"] is not None:
        chip = f", chip {device['chip_seed']}" if device.get("chip_seed") is not None else ""
        rows["mismatch"] = f"{device['mismatch']:.3g}{chip}"
    return rows


def _budget(budget: dict[str, Any] | None) -> dict[str, str]:
    given = {name: value for name, value in (budget or {}).items() if value is not None}
    return {"budget": " and ".join(f"{value:.4g} {name}" for name, value in given.items())} if given else {}


def _ladder(ladder: list[dict[str, Any]]) -> dict[str, str]:
    return {step["known"]: f"{step['time_constants']:.4g} = {step['ratio']:.4g} × plan" for step in ladder}


def _answer(report: dict[str, Any]) -> dict[str, str]:
    lapack, rows = report["lapack"], dict[str, str]()
    if "certificate" in report:
        rows |= certificate(report["certificate"])
    if "check" in report:
        rows |= _check(report["check"])
    if "estimate" in report:
        estimate = report["estimate"]
        rows["log determinant"] = f"{estimate['value']:.6g} ± {estimate['stderr']:.2g}"
        named = [name for name in ("thermal", "bias", "survey", "systematic") if name in estimate]
        parts = ", ".join(f"{name} {abs(estimate[name]):.2g}" for name in named)
        rows["standard error"] = parts
    if lapack is None:
        rows["relative error"] = "not known, LAPACK was not asked or broke down"
    elif "value" in lapack:
        rows["LAPACK"] = f"{lapack['value']:.10g} in double precision"
        scaled = "" if lapack["z"] is None else f", {lapack['z']:.2g} standard errors"
        rows["error"] = f"{lapack['error']:.2g}{scaled}"
    else:
        against = "a refined LAPACK solution" if "refinement" in report else "LAPACK in double precision"
        covariance = "of the covariance, " if "check" in report else ""
        rows["relative error"] = f"{covariance}{span(lapack['relative_error'])} against {against}"
        if report["plan"]["rtol"] is not None:
            rows["planned error"] = f"at most {report['plan']['rtol']:.3g}"
        if "predicted_rms" in lapack:
            rows["predicted error"] = f"{span(lapack['predicted_rms'])} root mean square"
        if lapack.get("rms_z") is not None:
            entries = f"{lapack['rms_z']:.3g} standard errors root mean square, at most {lapack['max_z']:.3g}"
            rows["errors of entries"] = entries
    if report.get("systematic") is not None:
        rows["systematic part"] = f"{span(report['systematic'])} predicted, of converters and mismatch"
    if "refinement" in report:
        rows |= _refinement(report["refinement"])
    if lapack is not None:
        rows["time of LAPACK"] = f"{seconds(lapack['seconds'])}, {lapack['method']}"
    return rows | {"time of simulation": f"{seconds(sum(report['simulation_s'].values()))}, compilation included"}


def _refinement(course: dict[str, Any]) -> dict[str, str]:
    device, direct = course["device"], course["direct"]
    error = f"{span(course['estimated_error'])} by the last run of the device"
    floor = f"at most {course['rtol']:.3g}; rounding allows {course['least_rtol']:.2g}"
    # Minus one stands for a count that was not reached.
    plain_cg = [count for count in np.atleast_1d(course["plain_cg"]) if count >= 0]
    needed = f": {span(plain_cg)}" if plain_cg else " do not get there"
    return {
        "wanted error": floor,
        "estimated error": error,
        "runs of the device": f"{span(course['steps'])}, the last one a test",
        "contraction": f"{span(course['contraction'])} a step, {span(course['predicted_contraction'])} predicted for "
        "plain refinement",
        "digital products": f"{span(course['matvecs'])} with A; plain conjugate gradients, without a device" + needed,
        "device time": f"{span(device['time_constants'])} time constants = {_spell(device['seconds'])}",
        "by averaging": f"{span(direct['time_constants'])} time constants = {_spell(direct['seconds'])} after "
        "burn-in, to the wanted error, on a perfect device",
    }


def certified(report: dict[str, Any]) -> dict[str, str]:
    """Rows about an answer from a file."""
    found = report["certificate"]
    rows = certificate(found) if "bound" in report else _inverse(found)
    if "bound" in report:
        bound, lowest = report["bound"], report["bound"]["lowest"]
        below = "none was found" if lowest["value"] is None else f"{lowest['value']:.6g}"
        sure = "proved" if lowest["certain"] else "not proved"
        rows["smallest eigenvalue"] = f"lower bound {below}, {sure}"
        sure = "validated, rounding included" if bound["validated"] else "not validated"
        rows["relative error"] = f"at most {span(bound['relative'])}, {sure}"
        rows["error"] = f"at most {span(bound['absolute'])}"
    return rows | {"time": f"{seconds(sum(report['seconds'].values()))}, compilation included"}


def certificate(found: dict[str, Any]) -> dict[str, str]:
    """Rows about the residual of a solution."""
    rows = {
        "relative residual": span(found["relative_residual"]),
        "backward error": span(found["backward_error"]),
    }
    if found["passed"] is not None:
        verdict = "passed" if np.all(found["passed"]) else "FAILED: the residual is more than thermal noise"
        rows["certificate"] = (
            f"{verdict}, chi-square {span(found['statistic'])} on {found['degrees']} degrees, "
            f"p {span(found['p_value'])}"
        )
    elif "noise" in found:
        rows["certificate"] = "no test without --noise, or --duration and --beta"
    return rows


def _inverse(found: dict[str, Any]) -> dict[str, str]:
    rows = {"relative residual": span(found["relative_residual"])}
    if found["passed"] is None:
        return rows | {"certificate": "no test without --samples"}
    verdict = "passed, as" if found["passed"] else "FAILED: not"
    rows["certificate"] = f"{verdict} an inverse with the noise of {found['samples']:g} samples"
    names = {"trace": "tr(AC)/d", "spread": "|W - I|² over its mean"}
    return rows | {
        label: f"{found[name]['statistic']:.6g}, p {found[name]['p_value']:.4g}, "
        f"{'passed' if found[name]['passed'] else 'failed'} at {found[name]['level']:g}"
        for name, label in names.items()
    }


def _check(check: dict[str, Any]) -> dict[str, str]:
    energy, mean = check["energy"], check["mean"]
    verdicts = {True: "passed", False: "FAILED: these are not samples of the law", None: "not known"}
    rows = {"check": verdicts[check["passed"]]}
    how = "" if energy["p_value"] is None else f", p {energy['p_value']:.4g} on {energy['degrees']:.6g} degrees"
    rows["energy"] = f"{energy['per_degree']:.4g} of that of the law{how}"
    if mean is not None:
        statistic = f"chi-square {mean['statistic']:.4g} on {mean['degrees']} degrees"
        rows["mean"] = f"{statistic}, p {mean['p_value']:.4g}"
    return rows


def span(value: Any) -> str:
    """One number, or the least and the largest of several, of those that are known.

    Examples
    --------
    >>> span(0.5), span([1.0, None, 4.0]), span(None)
    ('0.5', '1 to 4', 'unknown')
    """
    known = [number for number in np.ravel(np.asarray(value, object)) if number is not None]
    if not known:
        return "unknown"
    low, high = f"{min(known):.4g}", f"{max(known):.4g}"
    return low if low == high else f"{low} to {high}"


def _spell(times: Any) -> str:
    """Times with units that suit them, the least and the largest."""
    known = np.ravel(np.asarray(times, float))
    low, high = seconds(float(np.min(known))), seconds(float(np.max(known)))
    return low if low == high else f"{low} to {high}"


def seconds(time: float) -> str:
    """A time with a unit that suits it.

    Examples
    --------
    >>> seconds(0.00025), seconds(0.0), seconds(7200.0)
    ('250 µs', '0 s', '7.2e+03 s')
    """
    unit, name = next(((u, n) for u, n in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")) if time >= u), (1e-9, "ns"))
    return f"{time / unit:.3g} {name}" if time else "0 s"
