"""How does each primitive grow, digitally and on a thermodynamic device, and who is ahead at one size?

python analysis/primitives.py [--csv FILE] [--latex FILE] [--figure FILE] [--smoke]
"""

from dataclasses import dataclass

import numpy as np
import sympy as sp
from asking import run
from matplotlib.figure import Figure

from thermolinalg.complexity import FACTORISATION, H100, RC_DEVICE, array_limit, crossover, growth, in_bits
from thermolinalg.complexity.constants import numbers
from thermolinalg.complexity.model import CostModel, Kind
from thermolinalg.complexity.models import direct, iterative, thermodynamic, traffic
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import (
    B_M,
    GLOSSARY,
    C,
    F,
    V,
    c_lyapunov,
    d,
    eps,
    eta,
    k,
    kappa,
    n,
    nodes,
    norm1,
    phi,
    q,
    signal,
    thermal,
)

ANSWER_BITS = 8
SIZE, CONDITION, DRAWS, PATH = int(float(RC_DEVICE.nodes)), 100, 1000, 16
POINT = {
    kappa: CONDITION,
    eps: 2.0**-ANSWER_BITS,
    phi: 0.01,
    q: 1,
    nodes: PATH,
    norm1: 1,
    c_lyapunov: GLOSSARY[c_lyapunov].low,
    **RC_DEVICE.values,
    F: H100.fp32,
    eta: FACTORISATION,
    B_M: in_bits(H100.bandwidth),
}
ONE_ARRAY = (array_limit(d, RC_DEVICE.nodes),)
LARGE, SMALL = (d, kappa, signal), (eps,)
THERMAL_SIGNAL = sp.sqrt(d * C * V**2 / thermal)
"""Every component of the right-hand side at the voltage of a node."""


@dataclass(frozen=True)
class Route:
    """A primitive by a digital routine, and by a device that loads, runs, and leaves operations to the host."""

    name: str
    digital: CostModel
    device: CostModel
    transfer: CostModel
    host: CostModel | None = None
    samples: sp.Expr | None = None
    """In place of k in transfer and host."""

    def put(self, model: CostModel) -> CostModel:
        return model if self.samples is None else model.where({k: self.samples})

    @property
    def digital_seconds(self) -> sp.Expr:
        found = self.digital.formula.subs(n, d)
        return found if self.digital is iterative.CG_SECONDS_AT_BANDWIDTH else found / (eta * F)

    @property
    def device_seconds(self) -> sp.Expr:
        total = self.device.formula + self.put(self.transfer).formula
        if self.host is not None:
            total += self.put(self.host).formula / (eta * F)
        return total.subs(signal, THERMAL_SIGNAL)


def routes() -> list[Route]:
    t, host = thermodynamic, traffic.ACCUMULATION
    solve = t.SETTLE + t.SOLVE_AVERAGE
    one, worst = sp.Integer(1), t.INVERSE_SAMPLES_WORST.formula
    return [
        Route("solve", direct.CHOLESKY_SOLVE.where({k: one}), solve, traffic.SOLVE_TRANSFER, None, one),
        Route("solve, by CG", iterative.CG_SECONDS_AT_BANDWIDTH, solve, traffic.SOLVE_TRANSFER, None, one),
        Route("inverse, by d solves", direct.CHOLESKY_INVERSE, t.INVERSE_BY_SOLVES, traffic.SOLVE_TRANSFER, None, d),
        Route(
            "inverse, from samples", direct.CHOLESKY_INVERSE, t.INVERSE_SAMPLED, traffic.SAMPLE_TRANSFER, host, worst
        ),
        Route(
            f"{DRAWS} samples",
            direct.CHOLESKY_SAMPLE.where({k: sp.Integer(DRAWS)}),
            t.SAMPLE.repeated(DRAWS),
            traffic.SAMPLE_TRANSFER,
            None,
            sp.Integer(DRAWS),
        ),
        Route(
            "Lyapunov",
            direct.BARTELS_STEWART,
            t.LYAPUNOV,
            traffic.LYAPUNOV_TRANSFER,
            host,
            t.LYAPUNOV_SAMPLES.formula,
        ),
        Route("exponential", direct.EXPM, t.EXPM, traffic.EXPM_TRANSFER, host, t.EXPM_SAMPLES.formula),
        Route(
            "log determinant",
            direct.CHOLESKY_LOGDET,
            t.LOGDET,
            traffic.LOGDET_TRANSFER,
            None,
            t.LOGDET_SAMPLES.formula,
        ),
    ]


def _growth(expr: sp.Expr) -> str:
    try:
        return str(growth(expr, LARGE, SMALL))
    except ValueError as error:
        return f"not computable: {error}"


def _left(route: Route) -> str:
    return "not computable: no model" if route.device is thermodynamic.LOGDET else "none"


def asymptotics() -> Table:
    rows = tuple(
        (
            route.name,
            f"{route.digital.name.split(', matrix')[0]}: {_growth(route.digital.formula.subs(n, d))}",
            route.digital.counts.value,
            _growth(route.device.formula),
            _growth(route.put(route.transfer).formula),
            _left(route) if route.host is None else _growth(route.put(route.host).formula),
            route.device.kind.value,
        )
        for route in routes()
    )
    columns = ("primitive", "digital", "counted in", "device runs, s", "link, s", "host, flops", "kind of the device's")
    return Table(
        "How do digital and thermodynamic costs of each primitive grow?",
        columns,
        rows,
        (
            "d: order; kappa: condition number; epsilon: relative error, in norms that differ between rows; S: length "
            "of the right-hand side over thermal noise.",
            "Multiplications and additions count one each. All else counts as a constant: tau, on the assumption that "
            "it does not grow with d; the rate of the link; correlation left between samples.",
            "Digital routines are accurate to rounding; only CG, in seconds of memory traffic, stops at epsilon.",
            "The link and the host are part of what a device costs: a table without these columns hides d^2 and more.",
        ),
    )


def _status(model: CostModel) -> str:
    return "; ".join(dict.fromkeys(source.status.value for source in model.sources))


def dynamics() -> Table:
    t = thermodynamic
    groups = {
        "solve": (t.SOLVE, t.SOLVE_UNDERDAMPED, t.SOLVE_REFINED, t.SOLVE_UNDERDAMPED_REFINED, t.PUBLISHED_SOLVE),
        "inverse": (
            *(t.INVERSE, t.INVERSE_UNDERDAMPED_AVERAGE, t.INVERSE_SAMPLED, t.INVERSE_BY_SOLVES, t.INVERSE_REFINED),
            *(t.INVERSE_UNDERDAMPED_REFINED, t.PUBLISHED_INVERSE),
        ),
        "sample": (t.SAMPLE, t.SAMPLE_UNDERDAMPED, t.SAMPLE_DIVERGENCE),
        "Lyapunov": (t.LYAPUNOV, t.LYAPUNOV_UNDERDAMPED, t.LYAPUNOV_REFINED, t.PUBLISHED_LYAPUNOV),
        "exponential": (t.EXPM, t.EXPM_UNDERDAMPED, t.EXPM_REFINED),
        "log determinant": (t.LOGDET, t.LOGDET_UNDERDAMPED, t.LOGDET_REFINED, t.PUBLISHED_LOGDET),
    }
    rows = tuple(
        (
            name,
            model.name,
            f"not available: {model.notes}" if model.kind is Kind.UNAVAILABLE else _growth(model.formula),
            model.kind.value,
            "nobody" if model.kind is Kind.UNAVAILABLE else _status(model),
        )
        for name, models in groups.items()
        for model in models
    )
    return Table(
        "What do inertia and refinement change in the time that a device runs?",
        ("primitive", "how", "time, s", "kind", "derived or read by"),
        rows,
        ("Refined ones need sweeps on the host, which are not in the time; norms differ: see the models.",),
    )


def duel(smoke: bool) -> Table:
    rows = []
    for route in routes():
        sides = [sp.lambdify(d, side.subs(numbers(POINT))) for side in (route.digital_seconds, route.device_seconds)]
        digital, device = (float(side(float(SIZE))) for side in sides)
        found = crossover(route.digital_seconds, route.device_seconds, d, POINT, 1, 1e4 if smoke else 1e9)
        array = crossover(route.digital_seconds, route.device_seconds, d, POINT, 1, found.high, ONE_ARRAY)
        ahead = " and ".join(map(str, found.ahead)) or "nowhere"
        inside = any(window.low.at < SIZE < window.high.at for window in found.ahead)
        assert inside == (device < digital), f"{route.name}: window and costs at d = {SIZE} disagree"
        factor = digital / device
        verdict = f"device wins, {factor:.3g} times" if factor > 1 else f"device loses, {1 / factor:.3g} times"
        rows.append((route.name, digital, device, verdict, ahead, bool(array.ahead)))
    return Table(
        f"Who is ahead at d = {SIZE}, kappa = {CONDITION}, with a published device against one H100 in FP32?",
        ("primitive", "digital, s", "device, s (modelled)", "verdict", "device ahead for d", "in one array"),
        tuple(rows),
        (
            f"Device: {RC_DEVICE.time_constant.source}; {float(RC_DEVICE.word):g} bit over {float(RC_DEVICE.link):.3g} "
            f"bit/s; answers of {ANSWER_BITS} bits; one array has at most {float(RC_DEVICE.nodes):g} nodes "
            f"({RC_DEVICE.nodes.status.value}): the size of this table. Larger windows need tiles, another algorithm.",
            f"Searched from d = 1 to {found.high:g}. Digital: flops over eta F, all of it modelled too; eta = "
            f"{float(FACTORISATION):g} is an assumption. Lyapunov and exponential at their smallest constants, in "
            "favour of digital.",
            f"Log determinant: an absolute error of 2^-{ANSWER_BITS}, which is far more than others ask for; {PATH} "
            "nodes; work of the host and bias of the quadrature left out, in favour of the device.",
            f"Samples keep a squared correlation of {POINT[phi]}.",
        ),
    )


def tables(smoke: bool) -> list[Table]:
    return [asymptotics(), dynamics(), duel(smoke)]


def figure(smoke: bool) -> Figure:
    sizes = np.geomspace(10, 1e6, 5 if smoke else 60)
    values, found = numbers(POINT), Figure(figsize=(9, 6), layout="constrained")
    for axes, route in zip(found.subplots(2, 4, sharex=True).flat, routes(), strict=True):
        for label, side in (("digital", route.digital_seconds), ("device, modelled", route.device_seconds)):
            heights = np.broadcast_to(sp.lambdify(d, side.subs(values))(sizes), sizes.shape)
            axes.loglog(sizes, heights, label=label)
        axes.set_title(route.name, fontsize="small")
    found.axes[0].legend(fontsize="x-small")
    found.supxlabel("order d")
    found.supylabel("seconds")
    return found


if __name__ == "__main__":
    run(__doc__, tables, figure)
