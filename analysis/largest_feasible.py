"""What is the largest problem that a time, an energy or a memory affords, digitally and on a device?

python analysis/largest_feasible.py [--csv FILE] [--latex FILE] [--figure FILE] [--smoke]
"""

from typing import Any

import numpy as np
import sympy as sp
from asking import run
from matplotlib.figure import Figure

from thermolinalg.complexity import (
    DAC_LIKE_ADC,
    FACTORISATION,
    H100,
    RC_DEVICE,
    Feasible,
    NotFoundError,
    growth_of_problem,
    largest_feasible,
)
from thermolinalg.complexity.constants import Constant, Origin, numbers
from thermolinalg.complexity.models import direct, kronecker, traffic
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import (
    F,
    V,
    d,
    e_conv,
    entries,
    eps,
    eta,
    k,
    kappa,
    m,
    n,
    q,
    word,
)

ANSWER_BITS, CONDITION, HIGHEST = 8, 100, 1e9
POWER = sp.Symbol("P", positive=True)
POINT = {
    eps: 2.0**-ANSWER_BITS,
    kappa: CONDITION,
    q: 1,
    **RC_DEVICE.values,
    F: H100.fp32,
    eta: FACTORISATION,
    POWER: H100.power,
    word: 4,
}
SQUARE, ONE = {m: d, n: d}, sp.Integer(1)
DENSE = d ** sp.Rational(3, 2)
"""The most that absolute entries of a matrix with largest eigenvalue 1 can add up to."""

LAYER_FLOPS = (kronecker.DAMPED_CHOLESKY + kronecker.APPLY).where(SQUARE)
LAYER_DEVICE = kronecker.THERMO_SYSTEMS_SECONDS.where(SQUARE)
SOLVE_FLOPS = direct.CHOLESKY_SOLVE.where({k: ONE, n: d})
SOLVE_DEVICE = traffic.SOLVE_SECONDS.where({k: ONE})
SOLVE_JOULES = (
    traffic.SOLVE_TRANSFER_JOULES.where({k: ONE})
    + traffic.SOLVE_RESISTORS.where({entries: DENSE})
    + traffic.cells(SOLVE_DEVICE)
)
"""Cells are biased while the matrix is loaded, too."""

PROBLEMS = (("layer of K-FAC", LAYER_FLOPS, LAYER_DEVICE), ("one dense solve", SOLVE_FLOPS, SOLVE_DEVICE))


def _within(cost: sp.Expr, budget: float, unit: str, values: dict[sp.Symbol, Any]) -> Feasible:
    limit = Constant("budget", budget, unit, "chosen", "2026-11", Origin.ASSUMPTION)
    found = largest_feasible(cost, d, limit, values, 1, HIGHEST)
    if found.at is not None and found.at < HIGHEST:
        # A second route: it costs what there is.
        spent = float(cost.subs(numbers({**values, d: found.at})))
        assert abs(spent / budget - 1) < 1e-9, f"d = {found.at} costs {spent} {unit} instead of {budget}"
    return found


def _verdict(digital: Feasible, device: Feasible) -> str:
    ends = [0.0 if found.at is None else found.at for found in (digital, device)]
    if ends[0] == ends[1]:
        return "neither"
    if ends[0] > ends[1]:
        return "digital: the device loses"
    return "device, but in tiles" if ends[1] > float(RC_DEVICE.nodes) else "device"


def _reached(found: Feasible) -> Any:
    return f"none: {found.stop.value}" if found.at is None else found.at


def _budgets(smoke: bool) -> tuple[float, ...]:
    return (1.0,) if smoke else (1e-3, 1.0, 100.0)


def by_time(smoke: bool) -> Table:
    rows = []
    for name, flops, device in PROBLEMS:
        for budget in _budgets(smoke):
            found = [_within(cost, budget, "s", POINT) for cost in (flops.formula / (eta * F), device.formula)]
            rows.append((name, budget, *map(_reached, found), _verdict(*found)))
    return Table(
        "How large a problem does a time afford?",
        ("problem", "time, s", "digital d", "device d (modelled)", "further"),
        tuple(rows),
        (
            f"Digital: H100, FP32, eta = {float(FACTORISATION):g} (assumption). Device: {RC_DEVICE.link.source}; kappa "
            f"= {CONDITION}, answers of {ANSWER_BITS} bits, one right-hand side at a time.",
            "The layer of K-FAC is square: two factors damped and factorised, both inverses applied. Multiplications "
            "and additions count one each.",
            f"One array holds {float(RC_DEVICE.nodes):g} nodes at most ({RC_DEVICE.nodes.status.value}); larger "
            "problems need tiles, another algorithm that is not in this table.",
        ),
    )


def by_energy(smoke: bool) -> Table:
    flops, rows = SOLVE_FLOPS.formula / (eta * F) * POWER, []
    cases = [
        ("published energies, 1 V", {e_conv: RC_DEVICE.dac_energy}),
        (f"{DAC_LIKE_ADC.name}, 1 V", {e_conv: DAC_LIKE_ADC}),
        (f"{DAC_LIKE_ADC.name}, 0.1 V", {e_conv: DAC_LIKE_ADC, V: 0.1}),
    ]
    for budget in _budgets(smoke):
        digital = _within(flops, budget, "J", POINT)
        for name, values in cases:
            try:
                found = _within(SOLVE_JOULES.formula, budget, "J", POINT | values)
            except NotFoundError as error:
                rows.append(
                    (budget, _reached(digital), name, f"not computable: {error.args[0].split(';')[0]}", "unknown")
                )
            else:
                rows.append((budget, _reached(digital), name, _reached(found), _verdict(digital, found)))
    return Table(
        "How large a dense solve does an energy afford?",
        ("energy, J", "digital d", "device", "device d (modelled)", "further"),
        tuple(rows),
        (
            f"Digital: {float(H100.power):g} W throughout. Device: link at {float(RC_DEVICE.link_energy):g} J/bit "
            f"({RC_DEVICE.link_energy.source}), converters, resistors with s_A = d^1.5 (its upper bound), "
            f"{float(RC_DEVICE.cell_power):g} W a cell, also while it is loaded; 0.1 V is assumed. Standby power is "
            "left out, in favour of the device.",
            f"ADC: {float(RC_DEVICE.adc_energy):.3g} J ({RC_DEVICE.adc_energy.status.value}).",
        ),
    )


def by_memory() -> Table:
    rows = []
    for name, model in (("layer of K-FAC", kronecker.DAMPED_CHOLESKY.where(SQUARE)), ("one dense solve", SOLVE_FLOPS)):
        digital = _within(model.footprint().formula, float(H100.memory), "B", POINT)
        rows.append((name, _reached(digital), float(RC_DEVICE.nodes), digital.at / float(RC_DEVICE.nodes)))
    return Table(
        "How large a problem fits?",
        ("problem", "digital d", "device d, one array", "digital over device"),
        tuple(rows),
        (
            f"Digital: {float(H100.memory):.3g} B of H100, FP32. Device: {RC_DEVICE.nodes.source}.",
            "Memory binds before time does wherever its d is below that of the tables above.",
        ),
    )


def by_speed() -> Table:
    rows = []
    costs = ((3, "one dense solve, digital", SOLVE_FLOPS.formula / (eta * F)), (2, "its load on a device", None))
    load = traffic.SOLVE_TRANSFER.where({k: ONE}).formula
    for power, name, cost in costs:
        cost = load if cost is None else cost
        for factor in (10.0, 60.0, 1000.0):
            before, after = (_within(cost, budget, "s", POINT).at for budget in (1.0, factor))
            law = float(growth_of_problem(factor, power))
            assert abs(after / before / law - 1) < 0.01, f"{name}: {after / before} instead of {law}"
            rows.append((name, power, factor, law, after / before))
    return Table(
        "By how much does a speed-up enlarge the problem of the same time?",
        ("problem", "power p", "speed-up S", "S^(1/p)", "by the full formula"),
        tuple(rows),
        ("Full formula: largest problem of S seconds over that of one second, with all terms of lower order.",),
    )


def tables(smoke: bool) -> list[Table]:
    return [by_time(smoke), by_energy(smoke), by_memory(), by_speed()]


def figure(smoke: bool) -> Figure:
    budgets = np.geomspace(1e-4, 1e4, 4 if smoke else 40)
    found = Figure(figsize=(9, 4), layout="constrained")
    for axes, (name, flops, device) in zip(found.subplots(1, 2, sharey=True), PROBLEMS, strict=True):
        for label, cost in (("digital", flops.formula / (eta * F)), ("device, modelled", device.formula)):
            ends = [_within(cost, float(budget), "s", POINT).at for budget in budgets]
            axes.loglog(budgets, [np.nan if end is None else end for end in ends], label=label)
        axes.axhline(float(RC_DEVICE.nodes), color="black", ls=":", label="one array")
        axes.set(title=name, xlabel="time, s")
    found.axes[0].set_ylabel("largest order d")
    found.axes[0].legend(fontsize="small")
    return found


if __name__ == "__main__":
    run(__doc__, tables, figure)
