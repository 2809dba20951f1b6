"""What do a step of SGD, of natural gradient and of its thermodynamic form cost in time and memory?

python analysis/ngd_table.py [--csv FILE] [--latex FILE] [--smoke]
"""

import sympy as sp
from asking import run

from thermolinalg.complexity import FACTORISATION, H100, RC_DEVICE, Constant, Growth, crossover, growth, in_bits
from thermolinalg.complexity.models import optimizers
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import B_L, F, N, b, c, d_z, eps, eta, kappa

r = b * d_z
# Orders of table 1 of arXiv:2405.13817, to compare with what is derived.
PUBLISHED = {
    "SGD": (optimizers.SGD, optimizers.SGD_CALLS, b * N, N),
    "Adam": (optimizers.ADAM, optimizers.SGD_CALLS, b * N, N),
    "NGD, explicit": (optimizers.NGD_EXPLICIT, optimizers.NGD_EXPLICIT_CALLS, N**3 + r * N**2, N**2),
    "NGD-CG": (optimizers.NGD_CG, optimizers.NGD_CG_CALLS, c * b * N, N),
    "NGD-Woodbury": (optimizers.NGD_WOODBURY, optimizers.NGD_WOODBURY_CALLS, r**2 * N + r**3, r * N + r**2),
    "TNGD, digital part": (optimizers.TNGD_FLOPS, optimizers.TNGD_CALLS, r * N, r * N + r**2),
}
LARGE = (N, b, d_z, c)
NUMBER = 4  # bytes of FP32
VALUES: dict[sp.Symbol, float] = {b: 32, c: 200, d_z: 10, kappa: 100, eps: 2.0**-8}
DEVICE: dict[sp.Symbol, Constant | float] = dict(RC_DEVICE.values)


def more(found: Growth, published: Growth) -> str:
    """What the derived cost has beyond the published order."""
    extra = [term for term in found.terms if term not in published.terms]
    return f"also {sp.Add(*extra)}" if extra else "same"


def orders(smoke: bool) -> Table:
    rows = []
    for name, (model, calls, time, memory) in PUBLISHED.items():
        found, published = model.leading(LARGE), growth(time, LARGE)
        stored, printed = growth(model.footprint().formula, LARGE), growth(memory, LARGE)
        for term in published.terms:
            # The published order is a term of the cost, at least up to a constant.
            assert term in found.terms, f"{name}: the cost grows like {term}"
        for term in printed.terms:
            assert term in stored.terms, f"{name}: the memory grows like {term}"
        rows.append((name, str(found), more(found, published), str(stored), more(stored, printed), calls.formula))
    device = optimizers.TNGD_SECONDS
    rows.append(
        (
            "TNGD, device, seconds",
            str(device.leading((N, b, d_z, kappa))),
            "table 1 writes t for kappa",
            str(growth(device.footprint().formula, (N, b, d_z))),
            "counted above",
            "none",
        )
    )
    return Table(
        "How do time and memory of a step grow, and is that what table 1 of arXiv:2405.13817 says?",
        ("method", "operations", "time in table 1", "memory", "memory in table 1", "model calls"),
        tuple(rows),
        (
            "from costs with all lower-order terms; every symbol grows independently; additions and multiplications "
            "count one each",
            "terms that are extra here are smaller than the published ones if b d_z and d_z^2 are at most N",
            "cubic to linear holds against the explicit form only: Woodbury is linear in N as well",
            "memory of TNGD is not linear: b d_z N for the Jacobian and b^2 d_z^2 for its Gram matrix, as Woodbury; "
            "NGD-CG needs a few vectors of length N",
            "t hides kappa, of the damped curvature: settling grows with kappa ln(1/epsilon)",
        ),
    )


def seconds(parameters: float) -> tuple[dict[str, float], dict[str, float]]:
    """Modelled seconds at the achieved peak, and bytes, of each method."""
    at = {symbol: float(value) for symbol, value in {**VALUES, **DEVICE}.items()} | {N: parameters}
    rate = float(H100.fp32) * float(FACTORISATION)
    times = {name: model.at(at) / rate for name, (model, *_) in PUBLISHED.items()}
    memory = {name: NUMBER * model.words(at) for name, (model, *_) in PUBLISHED.items()}
    return times, memory


def steps(smoke: bool) -> Table:
    rows = []
    for parameters in (1e6,) if smoke else (1e5, 1e6, 1e7):
        times, memory = seconds(parameters)
        at = {symbol: float(value) for symbol, value in {**VALUES, **DEVICE}.items()} | {N: parameters}
        transfer, settle = optimizers.TNGD_TRANSFER.at(at), optimizers.TNGD_SETTLE.at(at)
        digital = times.pop("TNGD, digital part")
        times["TNGD"] = digital + transfer + settle
        memory["TNGD"] = memory.pop("TNGD, digital part")
        assert abs(optimizers.TNGD_SECONDS.at(at) - transfer - settle) < 1e-12 * transfer, "two parts make the whole"
        for name, time in times.items():
            fits = memory[name] <= float(H100.memory)
            ratio = time / times["TNGD"]
            if not fits:
                verdict = "does not fit the memory of one H100"
            elif name == "TNGD":
                verdict = f"transfer {transfer:.2g} s, settling {settle:.2g} s"
            else:
                verdict = "TNGD loses" if ratio < 1 else "TNGD is faster"
            rows.append((f"{parameters:g}", name, time, memory[name], memory[name] / memory["NGD-CG"], ratio, verdict))
    given = ", ".join(f"{symbol} = {value:g}" for symbol, value in VALUES.items())
    return Table(
        "How long does a step take, modelled, and how many bytes does it hold?",
        ("N", "method", "seconds", "bytes", "bytes over NGD-CG", "seconds over TNGD", "verdict"),
        tuple(rows),
        (
            f"{given}; b and c of figure 2 there, the rest chosen; H100 FP32 at {float(FACTORISATION):g} of the peak, "
            f"numbers of {NUMBER} bytes; traffic of digital memory is left out, which favours the digital methods",
            f"device: {float(RC_DEVICE.link):g} bit/s, {float(RC_DEVICE.word):g} bit, "
            f"{float(RC_DEVICE.time_constant):g} s, as published",
            "not reproduced: measured run times of that paper, whose baseline ran on a CPU of 64 cores that is not "
            "among the chips here, and its accuracy by step; iterations are no model of either",
            "not computable: how many steps each method needs; a step is no run",
        ),
    )


def needed(smoke: bool) -> Table:
    rate = eta * F
    base: dict[sp.Symbol, Constant | float] = {
        **{x: y for x, y in VALUES.items() if x is not c},
        **DEVICE,
        F: H100.fp32,
        eta: FACTORISATION,
        N: 1e6,
    }
    device = optimizers.TNGD_FLOPS.formula / rate + optimizers.TNGD_SECONDS.formula
    iterations = crossover(optimizers.NGD_CG.formula / rate, device, c, base, 1, 1e9)
    link = crossover(
        optimizers.NGD_WOODBURY.formula / rate, device, B_L, {x: y for x, y in base.items() if x is not B_L}, 1e8, 1e18
    )
    passes = float(in_bits(H100.bandwidth)) / float(RC_DEVICE.link)
    assert len(iterations.crossovers) == 1, "one number of iterations"
    first = iterations.crossovers[0]
    costs = [float(x.subs({y: float(z) for y, z in base.items()}).subs(c, first)) for x in
             (optimizers.NGD_CG.formula / rate, device)]  # fmt: skip
    assert abs(costs[0] / costs[1] - 1) < 1e-6, "both cost the same there"
    return Table(
        "What would have to change for TNGD to be the faster one, modelled?",
        ("input", "as it is", "needed", "beats"),
        (
            ("iterations c of NGD-CG", VALUES[c], first, "NGD-CG"),
            ("link, bit/s", float(RC_DEVICE.link), link.crossovers[0] if link.crossovers else link.reason, "Woodbury"),
            ("passes over the curvature", VALUES[c], passes, "a method that streams it"),
        ),
        (
            f"N = 1e6, else as above; against NGD-CG: {iterations.reason}",
            f"against Woodbury: {link.reason}",
            "passes: bandwidth of the memory over that of the link, without settling",
        ),
    )


def tables(smoke: bool) -> list[Table]:
    return [orders(smoke), steps(smoke), needed(smoke)]


if __name__ == "__main__":
    run(__doc__ or "", tables)
