"""Up to which condition number can a device with words of w bits solve at all, and which windows survive that?

python analysis/precision_floor.py [--csv FILE] [--latex FILE] [--figure FILE] [--smoke]
"""

import math

import numpy as np
import sympy as sp
from asking import run
from matplotlib.figure import Figure

from thermolinalg.complexity import (
    FACTORISATION,
    H100,
    RC_DEVICE,
    Constant,
    Windows,
    crossover,
    in_bits,
    precision_limit,
)
from thermolinalg.complexity.models.direct import POTRF
from thermolinalg.complexity.models.iterative import CG_SECONDS_AT_BANDWIDTH
from thermolinalg.complexity.models.traffic import SOLVE_SECONDS
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import B_L, B_M, F, d, eps, eta, k, kappa, n, q, tau, w

LIMIT = precision_limit(kappa, w, eps)
ANSWER = 2.0**-8
BITS = (8, 12, 16, 24)
HIGH = 1e9

CHOLESKY = POTRF.formula.subs(n, d) / (eta * F)
CG = CG_SECONDS_AT_BANDWIDTH.formula.subs(n, d)
DEVICE = SOLVE_SECONDS.formula.subs({k: 1, q: 1})
BASE: dict[sp.Symbol, Constant | float] = {
    F: H100.fp32,
    eta: FACTORISATION,
    B_M: in_bits(H100.bandwidth),
    eps: ANSWER,
    w: RC_DEVICE.word,
}


def contraction(condition: float, bits: int) -> float:
    """The largest relative error of one solve with a matrix that is wrong by 2^-w; infinite if it may be singular."""
    wrong = condition * 2.0**-bits
    return wrong / (1 - wrong) if wrong < 1 else math.inf


def sweeps(condition: float, bits: int) -> str:
    """Solves until the error is small enough, with digital residuals in between."""
    factor = contraction(condition, bits)
    if factor >= 1:
        return "never"
    return str(max(1, math.ceil(math.log(1 / ANSWER) / math.log(1 / factor) - 1e-12)))


def reach(smoke: bool) -> Table:
    conditions = (10, 100, 1000)
    rows = []
    for bits in BITS:
        allowed = float(LIMIT.allowed.subs({w: bits, eps: ANSWER}))
        # A diagonal matrix whose smallest entry is wrong by 2^-w: as bad as it gets, and just as far off as said.
        for condition in conditions:
            step = 2.0**-bits
            if condition * step < 1:
                error = abs((1 / condition) / (1 / condition - step) - 1)
                assert abs(error / contraction(condition, bits) - 1) < 1e-9, "the bound is attained"
        rows.append((str(bits), LIMIT.allowed.subs(w, bits), allowed, *(sweeps(x, bits) for x in conditions)))
    return Table(
        "Up to which condition number does a word of w bits give an answer?",
        ("w", "largest kappa", "at 2^-8", *(f"sweeps, kappa {x}" for x in conditions)),
        tuple(rows),
        (
            "worst case of a matrix that is wrong by 2^-w in the spectral norm, largest eigenvalue 1; first order, no "
            "refinement; rounding each entry can do worse, see the next table",
            "sweeps: solves with digital residuals until the error is 2^-8, noise left out; 1 is no refinement; never: "
            "no number of them is certain to suffice, and the device loses whatever its speed",
            "each sweep after the first loads one right-hand side, and one product with the matrix is done digitally",
        ),
    )


def rounded(smoke: bool) -> Table:
    rows = []
    random = np.random.default_rng(0)
    condition, bits = 100.0, 16
    for size in (16, 64) if smoke else (16, 64, 256):
        worst = []
        for _ in range(3):
            basis = np.linalg.qr(random.standard_normal((size, size)))[0]
            matrix = (basis * np.geomspace(1 / condition, 1, size)) @ basis.T
            step = 2 * np.abs(matrix).max() / 2**bits  # one bit is the sign
            stored = step * np.round(matrix / step)
            wrong = np.linalg.norm(stored - matrix, 2)
            error = np.linalg.norm(np.linalg.solve(stored, matrix) - np.eye(size), 2)
            assert error <= condition * wrong / (1 - condition * wrong) * (1 + 1e-9), "the bound holds"
            worst.append((wrong, error))
        wrong, error = np.max(worst, axis=0)
        line = contraction(condition, bits)
        said = "holds" if error <= line else f"too optimistic, {error / line:.2g} times"
        rows.append((str(size), line, wrong * 2.0**bits, error, said))
    return Table(
        "How far is the solution off when the entries of a matrix are rounded to 16 bits?",
        ("d", "error by the line", "error of matrix over 2^-w", "measured error", "the line"),
        tuple(rows),
        (
            "computed in float64, kappa = 100, eigenvalues in geometric progression, random eigenvectors, "
            "worst of 3; measured for the worst right-hand side",
            "full scale is the largest entry, so that the step shrinks with the order here; entries of arbitrary signs "
            "and sizes may be wrong by up to d 2^-w in the spectral norm, beyond what the line assumes",
        ),
    )


def window(size: int, rate: float, time: float, *, held: bool) -> Windows:
    limits = (LIMIT,) if held else ()
    values: dict[sp.Symbol, Constant | float] = {**BASE, d: size, B_L: rate, tau: time}
    return crossover(sp.Min(CHOLESKY, CG), DEVICE, kappa, values, 1.0, HIGH, limits)


def _span(found: Windows) -> str:
    return " and ".join(f"{x.low.at:.2g} to {x.high.at:.2g}" for x in found.ahead) or "none"


def survivors(smoke: bool) -> Table:
    sizes = (1024, 4096) if smoke else (1024, 4096, 16384, 65536)
    cases = ((1e-6, 5e10), (1e-7, 5e10), (1e-7, 1e12), (1e-8, 1e12), (1e-8, 8e12))
    rows, before, after = [], 0, 0
    for time, rate in cases[3:4] if smoke else cases:
        for size in sizes:
            free, held = (window(size, rate, time, held=x) for x in (False, True))
            for edge in (x for part in free.ahead for x in (part.low.at, part.high.at) if 1 < x < HIGH / 2):
                bound = {symbol: float(value) for symbol, value in BASE.items()}
                bound |= {d: size, B_L: rate, tau: time, kappa: edge}
                costs = [float(cost.subs(bound)) for cost in (CHOLESKY, CG, DEVICE)]
                assert abs(min(costs[:2]) / costs[2] - 1) < 1e-6, "both cost the same at the edge"
            before, after = before + bool(free.ahead), after + bool(held.ahead)
            rows.append((f"{time * 1e9:g} ns, {rate / 1e9:g} Gb/s", str(size), _span(free), _span(held)))
    return Table(
        "For which condition numbers does a device beat CG and Cholesky, modelled, and what does precision leave?",
        ("tau, link", "d", "kappa, faster than both", "and within kappa <= 2^w epsilon"),
        tuple(rows),
        (
            f"H100 FP32, error 2^-8, words of {float(RC_DEVICE.word):g} bit, also in CG; kappa to {HIGH:g}",
            f"{before} of {len(rows)} cases have a window, {after} keep part of it; in all others the device loses",
            "with words of 8 bit the line is at kappa = 1: nothing is left",
            f"orders above {float(RC_DEVICE.nodes):g} exceed the largest array reported",
        ),
    )


def tables(smoke: bool) -> list[Table]:
    return [reach(smoke), rounded(smoke), survivors(smoke)]


def figure(smoke: bool) -> Figure:
    """Modelled seconds over the condition number, and the line beyond which words are too short."""
    conditions = np.geomspace(1, 1e6, 20 if smoke else 300)
    size, rate, time = 16384, 1e12, 1e-7
    bound = {symbol: float(value) for symbol, value in BASE.items()} | {d: size, B_L: rate, tau: time}
    chart = Figure(figsize=(6, 4), layout="constrained")
    axes = chart.subplots()
    for name, cost in (("Cholesky, H100", CHOLESKY), ("CG, H100", CG), ("device", DEVICE)):
        seconds = sp.lambdify(kappa, cost.subs(bound), "numpy")(conditions)
        axes.loglog(conditions, np.broadcast_to(seconds, conditions.shape), label=name)
    for bits in (12, 16):
        edge = float(LIMIT.allowed.subs({w: bits, eps: ANSWER}))
        axes.axvline(edge, color="0.4", linestyle=":")
        axes.annotate(f"{bits} bit", (edge, 0.02), xycoords=("data", "axes fraction"), rotation=90)
    axes.set(xlabel="condition number", ylabel="modelled seconds", title=f"d = {size}, 100 ns, 1 Tb/s, error 2^-8")
    axes.legend()
    return chart


if __name__ == "__main__":
    run(__doc__ or "", tables, figure)
