"""From what width on does a thermodynamic device precondition a square layer faster than a GPU?

python analysis/kfac_crossover.py [--csv FILE] [--latex FILE] [--figure FILE] [--smoke]
"""

import math
from collections.abc import Mapping

import numpy as np
import sympy as sp
from asking import run
from matplotlib.figure import Figure

from thermolinalg.complexity import (
    FACTORISATION,
    H100,
    PRODUCTS,
    RC_DEVICE,
    Constant,
    Spread,
    closed_form,
    crossover,
    crossover_elasticity,
    crossover_quantiles,
)
from thermolinalg.complexity.models.direct import CHOLESKY_INVERSE
from thermolinalg.complexity.models.iterative import NEWTON_SCHULZ, NEWTON_SCHULZ_SWEEPS
from thermolinalg.complexity.models.kronecker import (
    APPLY,
    DAMPED_CHOLESKY,
    RANK_B,
    THERMO_RANK_B_SECONDS,
    THERMO_SYSTEMS_SECONDS,
)
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import B_L, F, b, eps, eta, kappa, m, n, q, tau, w

BASE: dict[sp.Symbol, Constant | float] = {F: H100.fp32, eta: FACTORISATION, eps: 2.0**-8, q: 1}
LINKS = ((5e10, 16), (1e12, 16), (1e12, 8), (8e12, 8))
TIMES = (1e-6, 1e-7, 1e-8)
CONDITIONS = (10, 100, 1000)
LOW, HIGH = 10.0, 1e7

FACTORS = DAMPED_CHOLESKY.formula.subs(m, n)
PRODUCT = APPLY.formula.subs(m, n)
DIGITAL = (FACTORS + PRODUCT) / (eta * F)
DEVICE = THERMO_SYSTEMS_SECONDS.formula.subs(m, n)
ROWS = (FACTORS + RANK_B.formula.subs(m, n)) / (eta * F)
DEVICE_ROWS = THERMO_RANK_B_SECONDS.formula.subs(m, n) + 2 * b * n**2 / (eta * F)


def faster(peak: float, efficiency: float) -> sp.Float:
    """Another rate over that of FP32 factorisations."""
    return sp.Float(peak * efficiency / (float(H100.fp32) * float(FACTORISATION)))


def newton_schulz(condition: float) -> sp.Expr:
    """Seconds of both inverses by whole sweeps of products in BF16, and of the products with them."""
    sweeps = math.ceil(NEWTON_SCHULZ_SWEEPS.at({kappa: condition, eps: BASE[eps]}))
    sweep = sp.simplify(NEWTON_SCHULZ.formula / NEWTON_SCHULZ_SWEEPS.formula)
    return (2 * sweeps * sweep + PRODUCT) / (faster(float(H100.bf16), float(PRODUCTS)) * eta * F)


def width(digital: sp.Expr, device: sp.Expr, values: Mapping[sp.Symbol, Constant | float]) -> float | None:
    """The width from which the device is ahead, if there is one."""
    found = crossover(digital, device, n, {**BASE, **values}, LOW, HIGH)
    return found.crossovers[-1] if found.ahead and found.crossovers else None


def whole(number: float | None) -> str:
    return f"none to {HIGH:g}" if number is None else f"{number:.0f}"


def main_table(smoke: bool) -> Table:
    roots = closed_form(DIGITAL, DEVICE, n)
    rows = []
    for rate, bits in LINKS[: 1 if smoke else None]:
        cells = []
        # Without settling, transfers alone remain.
        link_width = width(DIGITAL, DEVICE.subs(tau, 0), {B_L: rate, w: bits})
        for time in TIMES:
            found = []
            for condition in CONDITIONS:
                values = {B_L: rate, w: bits, tau: time, kappa: condition}
                at = width(DIGITAL, DEVICE, values)
                bound = {symbol: float(value) for symbol, value in {**BASE, **values}.items()}
                exact = max(float(root.subs(bound)) for root in roots)
                assert at is not None, "there is a crossover"
                assert abs(at / exact - 1) < 1e-6, "search and closed form agree"
                found.append(at)
            cells.append(" / ".join(map(whole, found)))
        rows.append((f"{rate / 1e9:g} Gb/s, {bits} bit", whole(link_width), *cells))
    published = width(DIGITAL, DEVICE, {**RC_DEVICE.values, kappa: 10})
    array = float(RC_DEVICE.nodes)
    verdict = "fits one array" if published is not None and published <= array else "loses at every width that fits"
    return Table(
        "From what width on is a device ahead of H100 FP32 in preconditioning a square layer, modelled?",
        ("link", "no settling", *(f"tau = {time * 1e9:g} ns" for time in TIMES)),
        tuple(rows),
        (
            f"each cell: widths for kappa = {' / '.join(map(str, CONDITIONS))}; error 2^-8, one column at a time",
            "flops: additions and multiplications count one each; Cholesky of both factors, four triangular solves",
            "search and closed form agree to 1e-6 in every cell; lower-order terms are counted",
            f"with published constants and kappa = 10 the device needs a width of {whole(published)}; the largest "
            f"array reported has {array:g} nodes: the device {verdict}",
            "precision: kappa above 2^w epsilon is out of reach without refinement, see precision_floor.py",
        ),
    )


def baselines(smoke: bool) -> Table:
    cases = ((1e12, 8, 1e-6), (1e12, 8, 1e-8), (5e10, 16, 1e-6))
    tf32 = FACTORS / (eta * F) + PRODUCT / (faster(float(H100.tf32), float(PRODUCTS)) * eta * F)
    lanes = (
        ("FP32 Cholesky and solves", lambda condition: DIGITAL),
        ("FP32 Cholesky, TF32 products", lambda condition: tf32),
        ("BF16 Newton-Schulz and products", newton_schulz),
    )
    rows = []
    for name, digital in lanes:
        cells = []
        for rate, bits, time in cases[: 1 if smoke else None]:
            values = {B_L: rate, w: bits, tau: time}
            cells.append(" / ".join(whole(width(digital(x), DEVICE, {**values, kappa: x})) for x in CONDITIONS))
        rows.append((name, *cells))
    columns = [f"{r / 1e9:g} Gb/s, {x} bit, {t * 1e9:g} ns" for r, x, t in cases]
    return Table(
        "How far do stronger digital baselines push the crossover, modelled?",
        ("baseline", *columns[: 1 if smoke else None]),
        tuple(rows),
        (
            f"widths for kappa = {' / '.join(map(str, CONDITIONS))}; achieved fractions of the peak are assumptions",
            "TF32 products use inverses whose formation is not charged, which favours the digital side; with it, "
            f"{sp.Poly(CHOLESKY_INVERSE.formula, n).LC()} n^3 in place of 1/3 n^3 for each factor",
            "BF16 Newton-Schulz below the rounding of BF16 is not refined; randomised factors, quadratic in the width "
            "(arXiv:2206.15397): not computable: no formula with constants in the library",
        ),
    )


def sensitivities(smoke: bool) -> Table:
    symbols = (kappa, tau, F, w, B_L, q)
    rows = []
    for time in (1e-6, 1e-8):
        values = {**BASE, kappa: 100, tau: time, w: 16, B_L: 5e10}
        at = width(DIGITAL, DEVICE, values)
        assert at is not None
        found = [crossover_elasticity(DIGITAL, DEVICE, n, symbol, values, at) for symbol in symbols]
        # A width has no unit: the exponents of all rates together cancel those of all times.
        assert abs(found[1] - found[2] - found[4]) < 1e-6, "the exponents of times and rates cancel"
        rows.append((f"{time * 1e9:g} ns", *(f"{x:+.2f}" for x in found)))
    return Table(
        "By how many percent does the crossover move for one percent of each input?",
        ("tau", *map(str, symbols)),
        tuple(rows),
        ("kappa = 100, 50 Gb/s, 16 bit; the achieved fraction acts like F",),
    )


def quantiles(smoke: bool) -> Table:
    values: dict[sp.Symbol, Spread | Constant | float] = {
        **BASE,
        eta: Spread(float(FACTORISATION), 1.35, at_most=1.0),
        B_L: Spread(5e10, 2.7),
        kappa: Spread(100, 4.5),
        tau: Spread(1e-7, 4.5),
        w: 16,
    }
    found = crossover_quantiles(DIGITAL, DEVICE, n, values, LOW, HIGH, draws=400 if smoke else 4000)
    return Table(
        "How well is the crossover known, modelled?",
        ("5 %", "50 %", "95 %", "draws"),
        ((whole(found.low), whole(found.median), whole(found.high), str(found.draws)),),
        (
            "log-normal: fraction of the peak 0.3 x/ 1.35 (at most 1), link 50 Gb/s x/ 2.7, kappa 100 x/ 4.5, tau "
            "100 ns x/ 4.5; spreads are assumptions; draws of kappa below 1, about one in a thousand, are kept",
        ),
    )


def by_rows(smoke: bool) -> Table:
    rows = []
    for time in (1e-6, 1e-8)[: 1 if smoke else None]:
        cells = []
        for rate, bits in ((5e10, 16), (1e12, 16), (8e12, 8)):
            values = {B_L: rate, w: bits, tau: time, b: 256}
            found = [width(ROWS, DEVICE_ROWS, {**values, kappa: condition}) for condition in CONDITIONS]
            cells.append(" / ".join(map(whole, found)))
        rows.append((f"{time * 1e9:g} ns", *cells))
    return Table(
        "Where is the crossover if both sides solve for the rows of the batch only, modelled?",
        ("tau", "50 Gb/s, 16 bit", "1000 Gb/s, 16 bit", "8000 Gb/s, 8 bit"),
        tuple(rows),
        ("b = 256 examples, both sides gain; pays for b below n only",),
    )


def tables(smoke: bool) -> list[Table]:
    return [main_table(smoke), baselines(smoke), sensitivities(smoke), quantiles(smoke), by_rows(smoke)]


def figure(smoke: bool) -> Figure:
    """Modelled seconds over the width, with published constants and a faster device."""
    sizes = np.geomspace(100, 1e6, 20 if smoke else 200)
    chart = Figure(figsize=(6, 4), layout="constrained")
    axes = chart.subplots()
    lanes: list[tuple[str, sp.Expr, dict[sp.Symbol, float]]] = [("H100 FP32", DIGITAL, {})]
    lanes += [
        (f"device, {t * 1e9:g} ns, {r / 1e9:g} Gb/s", DEVICE, {tau: t, B_L: r, w: 16, kappa: 100})
        for t, r in ((1e-6, 5e10), (1e-8, 1e12))
    ]
    for name, cost, values in lanes:
        bound = cost.subs({symbol: float(value) for symbol, value in {**BASE, **values}.items()})
        axes.loglog(sizes, sp.lambdify(n, bound, "numpy")(sizes), label=name)
    axes.axvline(float(RC_DEVICE.nodes), color="0.6", linestyle=":", label="largest array reported")
    axes.set(xlabel="width n", ylabel="modelled seconds", title="preconditioning a square layer, kappa = 100")
    axes.legend()
    return chart


if __name__ == "__main__":
    run(__doc__ or "", tables, figure)
