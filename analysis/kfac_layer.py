"""Where do the operations of one K-FAC step of a layer go, and how much can a faster inversion gain?

python analysis/kfac_layer.py [--csv FILE] [--latex FILE] [--figure FILE] [--smoke]
"""

from typing import Any

import sympy as sp
from asking import run
from matplotlib.figure import Figure

from thermolinalg.complexity import FACTORISATION, H100, PRODUCTS, RC_DEVICE, CostModel, amdahl, numbers
from thermolinalg.complexity.models import kronecker
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import B_L, b, c_eigh, eps, k_f, k_s, kappa, m, n, phi, q, tau, w

STAGES = (
    (kronecker.GRADIENT, "every step"),
    (kronecker.STATISTICS, "every k_s steps"),
    (kronecker.DAMPED_CHOLESKY, "every k_f steps"),
    (kronecker.DAMPED_INVERSE, "or every k_f steps"),
    (kronecker.EIGENBASIS, "or every k_f steps"),
    (kronecker.APPLY, "every step"),
    (kronecker.RANK_B, "or every step"),
    (kronecker.STEP, "every step"),
)
# Leading terms of each stage as derived by hand, to compare with what the library derives.
EXPECTED = {
    kronecker.GRADIENT: 6 * b * m * n,
    kronecker.STATISTICS: 2 * b * (m**2 + n**2),
    kronecker.DAMPED_CHOLESKY: (m**3 + n**3) / 3,
    kronecker.DAMPED_INVERSE: m**3 + n**3,
    kronecker.EIGENBASIS: c_eigh * (m**3 + n**3),
    kronecker.APPLY: 2 * m**2 * n + 2 * m * n**2,
    kronecker.RANK_B: 2 * b * (m**2 + n**2 + m * n),
    kronecker.STEP: 2 * m * n,
}
DIGITAL = (
    kronecker.KFAC,
    kronecker.KFAC_INVERSE,
    kronecker.KFAC_RANK_B,
    kronecker.EKFAC,
    kronecker.SHAMPOO,
)
DEVICE = (
    ("by sampled covariances", kronecker.THERMO_COVARIANCE_FLOPS, kronecker.THERMO_COVARIANCE_SECONDS, True),
    ("by linear systems", kronecker.THERMO_SYSTEMS_FLOPS, kronecker.THERMO_SYSTEMS_SECONDS, False),
    ("by rows", kronecker.THERMO_RANK_B_FLOPS, kronecker.THERMO_RANK_B_SECONDS, False),
)
RATE = float(H100.fp32) * float(FACTORISATION)
EVERY = 10  # steps from one refresh to the next
BASE = {
    k_s: 1.0,
    k_f: float(EVERY),
    c_eigh: 14 / 3,
    kappa: 100.0,
    eps: 2.0**-8,
    phi: 0.01,
    q: 1.0,
    **numbers(RC_DEVICE.values),
}


def layer(size: int) -> dict[sp.Symbol, float]:
    return {**BASE, m: float(size), n: float(size), b: size / 4}


def highest(model: CostModel) -> sp.Expr:
    """The part of a cost that is of the highest degree in widths and batch together."""
    polynomial = sp.Poly(sp.expand(model.formula), m, n, b)
    top = polynomial.total_degree()
    terms = [
        factor * sp.prod(symbol**power for symbol, power in zip((m, n, b), powers, strict=True))
        for powers, factor in polynomial.terms()
        if sum(powers) == top
    ]
    return sp.Add(*terms)


def stages(smoke: bool) -> Table:
    size = 1024 if smoke else 4096
    total = kronecker.KFAC.at({**layer(size), k_f: 1.0})
    parts = (kronecker.GRADIENT, kronecker.STATISTICS, kronecker.DAMPED_CHOLESKY, kronecker.APPLY, kronecker.STEP)
    assert abs(sum(part.at(layer(size)) for part in parts) / total - 1) < 1e-12, "the stages make the step"
    rows = []
    for model, when in STAGES:
        assert sp.expand(highest(model) - EXPECTED[model]) == 0, f"{model.name}: leading terms"
        count = model.at(layer(size))
        rows.append((model.name, when, model.formula, highest(model), count, count / total, count / RATE * 1e3))
    return Table(
        "Where do the operations of a K-FAC step of a layer go?",
        ("stage", "when", "flops", "leading", f"n = m = {size}, b = n/4", "of K-FAC, k_f = 1", "modelled ms"),
        tuple(rows),
        (
            "multiplications and additions count one each; full products, a triangle of a factor costs half",
            f"time: H100 FP32 at {float(FACTORISATION):g} of the peak, an assumption, without traffic of memory",
            "operations of an eigenbasis have a constant that no source fixes: c_eigh = 14/3 here, 9 by symmetric QR",
            "not reproducible: costs of each task in arXiv:1503.05671, which were not found; the speed-up that "
            "arXiv:2602.02016 measured, as no model of its kernels is at hand",
        ),
    )


def whole_steps(smoke: bool) -> Table:
    rows: list[tuple[Any, ...]] = []
    for size in (1024,) if smoke else (512, 2048, 16384):
        at = layer(size)
        best = min(model.at(at) for model in DIGITAL) / RATE
        for model in DIGITAL:
            time = model.at(at) / RATE
            rows.append((str(size), model.name, time, "none", time, time / best, "digital"))
        for name, flops, seconds, refreshed in DEVICE:
            host = flops.at(at) / RATE
            # Covariances are sampled when factors are refreshed, linear systems are solved in every step.
            device = seconds.at(at) / (EVERY if refreshed else 1)
            ratio = (host + device) / best
            verdict = "device is ahead" if ratio < 1 else "device loses"
            rows.append((str(size), f"thermodynamic, {name}", host, device, host + device, ratio, verdict))
    return Table(
        "How long does a step of a layer take, modelled, digitally and with a device?",
        ("n = m", "method", "digital, s", "device, s", "both, s", "over best digital", "verdict"),
        tuple(rows),
        (
            f"b = n/4, statistics in every step, refresh every {EVERY} steps, kappa = 100, error 2^-8, one column at a "
            "time; not the same steps: the methods precondition differently and to different accuracy",
            f"device: tau = {BASE[tau]:g} s, {BASE[B_L]:g} bit/s, {BASE[w]:g} bit, factors loaded anew where used",
            f"orders above {float(RC_DEVICE.nodes):g} exceed the largest array reported; total of arXiv:2502.08603: "
            "not computable: its order hides a constant, the accuracy and the load",
        ),
    )


def ceilings(smoke: bool) -> Table:
    speed = float(H100.tf32) * float(PRODUCTS) / RATE
    rows, rare = [], []
    for rho in (1.0, speed):
        for every in (1, 10, 100):
            cells = []
            for ratio, gradient in ((sp.Integer(0), False), (sp.Rational(1, 4), True), (sp.Integer(1), True)):
                rest = kronecker.APPLY.formula + kronecker.STATISTICS.formula
                rest += kronecker.GRADIENT.formula if gradient else 0
                inverse, others = (
                    sp.Poly(sp.expand(cost.subs({m: n, b: ratio * n}, simultaneous=True)), n).coeff_monomial(n**3)
                    for cost in (kronecker.DAMPED_INVERSE.formula, rest)
                )
                share = inverse * rho / every / (inverse * rho / every + others)
                found = float(amdahl(sp.Float(share), sp.oo))
                by_hand = 1 + 2 * rho / (every * (4 + (10 if gradient else 4) * float(ratio)))
                assert abs(found / by_hand - 1) < 1e-9, "Amdahl's law and the formula by hand agree"
                cells.append(f"{found:.3f}")
                if every == EVERY:
                    rare.append(found)
            rows.append((f"{rho:.3g}", str(every), *cells))
    return Table(
        "How much faster can a step become if inversion costs nothing at all?",
        ("product rate over inversion rate", "k_f", "b << n", "b = n/4, with gradient", "b = n, with gradient"),
        tuple(rows),
        (
            f"ceilings for any device, wide square layers, both inverses formed; {speed:.3g} is TF32 products at "
            f"{float(PRODUCTS):g} of the peak against FP32 factorisations at {float(FACTORISATION):g}",
            f"with a refresh every {EVERY} steps a device that only inverts gains at most a factor {max(rare):.3g}, "
            "against products in TF32, and less as refreshes become rarer; with the gradient counted less still",
        ),
    )


def tables(smoke: bool) -> list[Table]:
    return [stages(smoke), whole_steps(smoke), ceilings(smoke)]


def figure(smoke: bool) -> Figure:
    """Shares of the operations of a step over the refresh interval."""
    size, intervals = 4096, (1, 10, 100)
    parts = (kronecker.GRADIENT, kronecker.STATISTICS, kronecker.APPLY, kronecker.DAMPED_INVERSE)
    chart = Figure(figsize=(6, 4), layout="constrained")
    axes = chart.subplots()
    bottoms = [0.0] * len(intervals)
    counts = [
        [part.at(layer(size)) / (every if part is kronecker.DAMPED_INVERSE else 1) for part in parts]
        for every in intervals
    ]
    for j, part in enumerate(parts):
        heights = [row[j] / sum(row) for row in counts]
        axes.bar([str(x) for x in intervals], heights, bottom=bottoms, label=part.name)
        bottoms = [x + y for x, y in zip(bottoms, heights, strict=True)]
    axes.set(xlabel="steps between refreshes", ylabel="share of the operations", title=f"n = m = {size}, b = n/4")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.5))
    return chart


if __name__ == "__main__":
    run(__doc__ or "", tables, figure)
