"""Methods and machines that the command line compares, with their seconds as formulas of one size, n."""

from dataclasses import dataclass, replace

import sympy as sp

from thermolinalg.commands.options import AnalogName, ChipName, CircuitName, DigitalName
from thermolinalg.complexity import (
    CHIPS,
    JOSEPHSON_TIME,
    MECHANICAL_TIME,
    RC_DEVICE,
    RLC_TIME,
    Constant,
    CostModel,
)
from thermolinalg.complexity.models import direct, iterative, kronecker, thermodynamic, traffic
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import GLOSSARY, C, F, V, d, eta, k, m, n, phi, q, signal, thermal, word


@dataclass(frozen=True)
class Method:
    """A way to solve a problem.

    Attributes
    ----------
    problem : str
        What comes out; methods are compared if that is the same.
    text : str
        What it does.
    seconds : sympy expression
        One size, n.
    stored : sympy expression, or None
        Bytes on the chip.
    """

    problem: str
    text: str
    seconds: sp.Expr
    stored: sp.Expr | None = None


def _square(expr: sp.Expr) -> sp.Expr:
    return expr.subs({m: n, d: n})


def _computed(problem: str, text: str, *models: CostModel) -> Method:
    total = models[0] if len(models) == 1 else models[0] + models[1]
    return Method(problem, text, _square(total.formula) / (eta * F), _square(models[0].footprint().formula))


def _run(problem: str, text: str, seconds: sp.Expr, host: sp.Expr = sp.S.Zero) -> Method:
    # Every component of a right-hand side is at the voltage of a node.
    return Method(problem, text, _square(seconds.subs(signal, sp.sqrt(d * C * V**2 / thermal)) + host / (eta * F)))


_SYSTEM, _INVERSE, _SAMPLES, _LAYER = "linear systems", "an inverse", "Gaussian samples", "a square layer of K-FAC"
_WORST = thermodynamic.INVERSE_SAMPLES_WORST.formula

DIGITAL = {
    DigitalName.cholesky: _computed(_SYSTEM, "Cholesky factor, k right-hand sides", direct.CHOLESKY_SOLVE),
    DigitalName.lu: _computed(_SYSTEM, "LU factors, k right-hand sides", direct.LU_SOLVE),
    DigitalName.cg: Method(
        _SYSTEM,
        "conjugate gradients, matrix streamed in words of w bits in every pass, k times",
        k * iterative.CG_SECONDS_AT_BANDWIDTH.formula,
        n**2 * word,
    ),
    DigitalName.cholesky_inverse: _computed(_INVERSE, "inverse from the Cholesky factor", direct.CHOLESKY_INVERSE),
    DigitalName.newton_schulz: _computed(_INVERSE, "sweeps of Newton-Schulz, unrounded", iterative.NEWTON_SCHULZ),
    DigitalName.cholesky_samples: _computed(_SAMPLES, "Cholesky factor, k draws", direct.CHOLESKY_SAMPLE),
    DigitalName.kfac: _computed(
        _LAYER, "two Cholesky factors, gradient between triangular solves", kronecker.DAMPED_CHOLESKY, kronecker.APPLY
    ),
    DigitalName.kfac_rows: _computed(
        _LAYER, "two Cholesky factors, solves for b pairs of rows", kronecker.DAMPED_CHOLESKY, kronecker.RANK_B
    ),
}
ANALOG = {
    AnalogName.solve: _run(_SYSTEM, "load, settle k right-hand sides, read; no noise", traffic.SOLVE_SECONDS.formula),
    AnalogName.average: _run(
        _SYSTEM,
        "the same, and an average over thermal noise",
        traffic.SOLVE_SECONDS.formula + k / q * thermodynamic.SOLVE_AVERAGE.formula,
    ),
    AnalogName.inverse: _run(_INVERSE, "n solves, q at once; no noise", traffic.SOLVE_SECONDS.formula.subs(k, d)),
    AnalogName.inverse_samples: _run(
        _INVERSE,
        "samples, and their covariance on the chip",
        thermodynamic.INVERSE_SAMPLED.formula + traffic.SAMPLE_TRANSFER.formula.subs(k, _WORST),
        traffic.ACCUMULATION.formula.subs(k, _WORST),
    ),
    AnalogName.samples: _run(_SAMPLES, "k samples", k * thermodynamic.SAMPLE.formula + traffic.SAMPLE_TRANSFER.formula),
    AnalogName.kfac: _run(_LAYER, "2 n linear systems, q at once; no noise", kronecker.THERMO_SYSTEMS_SECONDS.formula),
    AnalogName.kfac_rows: _run(
        _LAYER,
        "2 b linear systems, q at once, outer products on the chip; no noise",
        kronecker.THERMO_RANK_B_SECONDS.formula,
        kronecker.RANK_B.formula.coeff(m * n) * m * n,
    ),
}
MACHINES = dict(zip(ChipName, CHIPS, strict=True))
CIRCUITS = {
    CircuitName.rc: RC_DEVICE,
    CircuitName.rlc: replace(RC_DEVICE, name="RLC device", time_constant=RLC_TIME),
    CircuitName.mechanical: replace(RC_DEVICE, name="mechanical device", time_constant=MECHANICAL_TIME),
    CircuitName.josephson: replace(RC_DEVICE, name="Josephson device", time_constant=JOSEPHSON_TIME),
}
CHOSEN = {k: (1.0, "one right-hand side"), q: (1.0, "one at a time"), word: (4.0, "bytes of FP32"), phi: (0.01, "rule")}
"""Numbers that hold unless others are given."""


def listed() -> list[Table]:
    """Methods, machines and symbols, each as a table."""
    methods = [("--digital", str(name), method) for name, method in DIGITAL.items()]
    methods += [("--analog", str(name), method) for name, method in ANALOG.items()]
    chips = [(name, _known(chip.fp32), _known(chip.bandwidth), _known(chip.memory)) for name, chip in MACHINES.items()]
    devices = [(name, *map(_known, (x.time_constant, x.link, x.word, x.nodes))) for name, x in CIRCUITS.items()]
    costs = [method.seconds for method in (*DIGITAL.values(), *ANALOG.values())]
    used = set().union({word}, *(cost.free_symbols for cost in costs))
    symbols = [(str(x), about.text, str(about.unit)) for x, about in GLOSSARY.items() if x in used]
    return [
        Table(
            "Which methods are there?",
            ("option", "name", "gives", "how", "seconds"),
            tuple((option, name, x.problem, x.text, x.seconds) for option, name, x in methods),
        ),
        Table("Which chips?", ("--on", "FP32, flop/s", "memory, B/s", "memory, B"), tuple(chips)),
        Table("Which devices?", ("--device", "time constant, s", "link, bit/s", "word, bit", "nodes"), tuple(devices)),
        Table("Which symbols vary, or are given with --at?", ("name", "meaning", "unit"), tuple(symbols)),
    ]


def _known(constant: Constant) -> float | str:
    return float(constant) if constant.known else "not found"
