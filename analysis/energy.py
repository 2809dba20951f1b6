"""How many joules does one solve take on a thermodynamic device, and on a GPU?

python analysis/energy.py [--csv FILE] [--latex FILE] [--figure FILE] [--smoke]
"""

import numpy as np
import sympy as sp
from asking import run
from matplotlib.figure import Figure

from thermolinalg.complexity import (
    H100,
    RC_DEVICE,
    Constant,
    NotFoundError,
    crossover,
    joules_per_flop,
    numbers,
)
from thermolinalg.complexity.ledger import e_flop
from thermolinalg.complexity.models.direct import CHOLESKY_SOLVE, POTRF
from thermolinalg.complexity.models.thermodynamic import SETTLE
from thermolinalg.complexity.models.traffic import SOLVE_RESISTORS, SOLVE_RESISTORS_FLOOR, SOLVE_TRANSFER, cells
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import (
    B_L,
    C,
    V,
    d,
    e_bit,
    entries,
    eps,
    k,
    kappa,
    n,
    q,
    tau,
    thermal,
)

ONE = {q: 1, k: 1}
LEADING = sp.LT(sp.expand(POTRF.formula)).subs(n, d) * e_flop
WHOLE = CHOLESKY_SOLVE.formula.subs({n: d, k: 1}) * e_flop
LOAD = (SOLVE_TRANSFER.formula * B_L * e_bit).subs(ONE)
RESISTORS = SOLVE_RESISTORS.formula.subs(entries, d ** sp.Rational(3, 2))
# Cells are biased while the matrix is loaded, too.
BIAS = (cells(SOLVE_TRANSFER).formula + cells(SETTLE).formula).subs(ONE)
DEVICE = LOAD + RESISTORS + BIAS

BASE: dict[sp.Symbol, Constant | float] = {**RC_DEVICE.values, eps: 2.0**-8}
OHMS = float(RC_DEVICE.time_constant) / float(RC_DEVICE.capacitance)
CIRCUITS = ((1e-9, 1.0), (1e-9, 0.1), (1e-12, 0.1))
FP32, BF16 = (joules_per_flop(peak, H100.power) for peak in (H100.fp32, H100.bf16))


def values(farads: float, volts: float, condition: float, joules: Constant = FP32) -> dict[sp.Symbol, float]:
    return numbers({**BASE, C: farads, V: volts, tau: OHMS * farads, kappa: condition, e_flop: float(joules)})


def at(cost: sp.Expr, size: float, bound: dict[sp.Symbol, float]) -> float:
    return float(cost.subs({**bound, d: size}))


def one_solve(smoke: bool) -> Table:
    rows = []
    for size in (128, 4096) if smoke else (128, 1024, 4096, 16384):
        for farads, volts in CIRCUITS:
            bound = values(farads, volts, 100)
            digital, load, resistors, bias = (at(part, size, bound) for part in (LEADING, LOAD, RESISTORS, BIAS))
            device = load + resistors + bias
            converters = size * float(RC_DEVICE.adc_energy)
            spare = (digital - device - converters) / (size**2 + size)
            rows.append(
                (
                    str(size),
                    f"{farads:g} F, {volts:g} V",
                    digital,
                    load,
                    resistors,
                    bias,
                    converters,
                    digital / device,
                    "device" if device < digital else "digital",
                    spare if spare > 0 else "loses with free DACs",
                )
            )
    return Table(
        "How many joules does one solve take, modelled?",
        (
            "d",
            "cell",
            "H100 FP32, J",
            "link, J",
            "resistors, J",
            "bias, J",
            "ADC of answers, J",
            "digital/device",
            "less energy",
            "J per DAC to stay ahead",
        ),
        tuple(rows),
        (
            "kappa = 100, error 2^-8; Cholesky at the datasheet peak and the limit of the board: a lower bound; "
            "triangular solves are left out, which favours digital",
            f"assumed: link {float(RC_DEVICE.link_energy):g} J/bit and {float(RC_DEVICE.link):g} bit/s, "
            f"{float(RC_DEVICE.word):g} bit a number, bias {float(RC_DEVICE.cell_power):g} W a cell, {OHMS:g} ohm, "
            "sum of entries d^1.5, every node at V",
            "digital/device leaves converters and idle power out, which favours the device; ADCs are those of 16 bit",
            f"total with converters: {_refusal()}",
            f"orders above {float(RC_DEVICE.nodes):g} exceed the largest array reported",
            "idle power: not computable: no figure for the device; it decides at low duty",
        ),
    )


def _refusal() -> str:
    try:
        return f"{float(RC_DEVICE.dac_energy):g} J for each DAC"
    except NotFoundError as error:
        return f"not computable: {error.args[0].split(';')[0]}"


def break_even(smoke: bool) -> Table:
    cases = [(*circuit, 100) for circuit in CIRCUITS] + [(1e-9, 0.1, 10), (1e-9, 0.1, 1000)]
    rows = []
    for farads, volts, condition in cases[: 2 if smoke else None]:
        found = []
        for digital, joules in ((LEADING, FP32), (WHOLE, FP32), (LEADING, BF16), (WHOLE, BF16)):
            windows = crossover(digital, DEVICE, d, values(farads, volts, condition, joules), 1, 1e6)
            assert len(windows.crossovers) == 1, "one break-even"
            size = windows.crossovers[0]
            bound = values(farads, volts, condition, joules)
            sides = [at(side, size, bound) for side in (digital, DEVICE)]
            assert abs(sides[0] / sides[1] - 1) < 1e-6, "both cost the same at the break-even"
            assert at(digital, 2 * size, bound) > at(DEVICE, 2 * size, bound), "the device wins above it"
            found.append(f"{size:.0f}")
        rows.append((f"{farads:g} F, {volts:g} V", condition, *found))
    return Table(
        "From what order on does the device take less energy for a solve, modelled?",
        ("cell", "kappa", "FP32", "FP32, whole solve", "BF16", "BF16, whole solve"),
        tuple(rows),
        (
            "first and third column: n^3/3 of Cholesky alone; second and fourth: all operations of factor and solves",
            f"one operation: {float(FP32):.3g} J in FP32, {float(BF16):.3g} J in BF16, which is not known to suffice "
            "for a Cholesky factor; below these orders the device loses",
            f"orders above {float(RC_DEVICE.nodes):g} exceed the largest array reported: there the comparison is of a "
            "device that nobody has described",
        ),
    )


def floors(smoke: bool) -> Table:
    rows = []
    for size in (4096,) if smoke else (128, 1024, 4096):
        floor = SOLVE_RESISTORS_FLOOR.formula.subs(entries, d ** sp.Rational(3, 2))
        bound = values(1e-9, 1.0, 100)
        least, digital = at(floor, size, bound), at(LEADING, size, bound)
        # The floor is the energy of resistors at the voltage at which noise is as large as the error.
        volts = float(np.sqrt(bound[thermal] / 1e-9)) / bound[eps]
        same = at(RESISTORS, size, {**bound, V: volts})
        assert abs(least / same - 1) < 1e-9, "floor and resistors agree at the voltage of noise"
        rows.append((str(size), least, digital, digital / least))
    return Table(
        "How far above the floor of thermal noise is digital arithmetic, modelled?",
        ("d", "floor, J", "H100 FP32, J", "ratio"),
        tuple(rows),
        ("the floor holds for this circuit; links, converters and bias are far above it: it predicts no device",),
    )


def tables(smoke: bool) -> list[Table]:
    return [one_solve(smoke), break_even(smoke), floors(smoke)]


def figure(smoke: bool) -> Figure:
    """Modelled joules over the order of the matrix."""
    sizes = np.geomspace(16, 16384, 12 if smoke else 100)
    chart = Figure(figsize=(6, 4), layout="constrained")
    axes = chart.subplots()
    for joules, name in ((FP32, "H100 FP32 peak"), (BF16, "H100 BF16 peak")):
        axes.loglog(sizes, sp.lambdify(d, LEADING.subs(e_flop, float(joules)), "numpy")(sizes), label=name)
    for farads, volts in CIRCUITS:
        bound = DEVICE.subs(values(farads, volts, 100))
        axes.loglog(sizes, sp.lambdify(d, bound, "numpy")(sizes), "--", label=f"device, {farads:g} F, {volts:g} V")
    axes.set(xlabel="order d", ylabel="modelled joules of a solve", title="kappa = 100, no converters, no idle power")
    axes.legend()
    return chart


if __name__ == "__main__":
    run(__doc__ or "", tables, figure)
