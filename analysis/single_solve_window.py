"""For which condition numbers does a device solve one dense system faster than both CG and Cholesky?

python analysis/single_solve_window.py [--csv FILE] [--latex FILE] [--figure FILE] [--smoke]
"""

from dataclasses import replace
from itertools import chain

import numpy as np
import sympy as sp
from asking import run
from matplotlib.figure import Figure

from thermolinalg.complexity import (
    FACTORISATION,
    H100,
    RC_DEVICE,
    AnalogDevice,
    Windows,
    array_limit,
    crossover,
    in_bits,
    precision_limit,
)
from thermolinalg.complexity.constants import Constant, Origin, numbers
from thermolinalg.complexity.models import direct, iterative, traffic
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import B_L, B_M, F, d, eps, eta, k, kappa, n, q, tau, w

ANSWER_BITS, HIGHEST = 8, 1e10
ONE = sp.Integer(1)
CG = iterative.CG_SECONDS_AT_BANDWIDTH.formula.subs(n, d)
CHOLESKY = direct.CHOLESKY_SOLVE.where({k: ONE, n: d}).formula / (eta * F)
DEVICE = traffic.SOLVE_SECONDS.where({k: ONE, q: ONE}).formula
DIGITAL = sp.Min(CG, CHOLESKY)
PRECISION = precision_limit(kappa, w, eps)


def _better(constant: Constant, factor: float) -> Constant:
    return replace(
        constant,
        value=float(constant) * factor,
        low=None,
        high=None,
        status=Origin.ASSUMPTION,
        source=f"assumed: {factor:g} times {constant.source}",
    )


def settings() -> list[AnalogDevice]:
    """The published device, and better ones that nobody has built."""
    faster = [(1, 1), (0.1, 1), (0.1, 20), (0.01, 20), (0.01, 160)]
    return [
        replace(RC_DEVICE, time_constant=_better(RC_DEVICE.time_constant, rc), link=_better(RC_DEVICE.link, link))
        if (rc, link) != (1, 1)
        else RC_DEVICE
        for rc, link in faster
    ]


def values_of(device: AnalogDevice) -> dict[sp.Symbol, Constant | float]:
    return {
        **device.values,
        eps: 2.0**-ANSWER_BITS,
        F: H100.fp32,
        eta: FACTORISATION,
        B_M: in_bits(H100.bandwidth),
    }


def windows(device: AnalogDevice, size: float, limited: bool = False) -> Windows:
    limits = (PRECISION, array_limit(d, device.nodes)) if limited else ()
    found = crossover(DIGITAL, DEVICE, kappa, {**values_of(device), d: size}, 1, HIGHEST, limits)
    # A second route: both costs, evaluated inside of each window.
    given = numbers({**values_of(device), d: size})
    for window in found.ahead:
        middle = {**given, kappa: float(np.sqrt(window.low.at * window.high.at))}
        assert float(DEVICE.subs(middle)) < float(DIGITAL.subs(middle)), f"{window} at d = {size}: the device is slower"
    return found


def _ranges(found: Windows) -> str:
    return " and ".join(f"{each.low.at:.3g} to {each.high.at:.3g}" for each in found.ahead) or "none"


def _name(device: AnalogDevice) -> str:
    status = "published" if device is RC_DEVICE else "assumed"
    return f"{float(device.time_constant):g} s, {float(device.link):.3g} bit/s ({status})"


def tables(smoke: bool) -> list[Table]:
    sizes = (16384,) if smoke else (1024, 4096, 16384, 65536)
    columns = ("tau, link", *(f"d = {size}" for size in sizes))
    devices = settings()
    free = [[windows(device, size) for size in sizes] for device in devices]
    limited = [[windows(device, size, True) for size in sizes] for device in devices]
    pairs = list(zip(chain(*free), chain(*limited), strict=True))
    # Rounding of the matrix and the array can only take away.
    assert all(len(kept.ahead) <= len(every.ahead) for every, kept in pairs), "limits have added a window"
    line = float(PRECISION.allowed.subs(numbers(values_of(RC_DEVICE))))
    total = sum(bool(every.ahead) for every, _ in pairs)
    lost = sum(bool(every.ahead) and not kept.ahead for every, kept in pairs)
    imprecise = sum(bool(every.ahead) and all(each.low.at >= line for each in every.ahead) for every, _ in pairs)
    common = (
        f"Digital: one H100, FP32; CG streams {float(RC_DEVICE.word):g}-bit entries in every pass, Cholesky at eta = "
        f"{float(FACTORISATION):g} (assumption). Answers of {ANSWER_BITS} bits. One load, one right-hand side. Device "
        "times are modelled.",
        f"kappa searched from 1 to {HIGHEST:g}; an upper end of {HIGHEST:g} is the end of the search. Multiplications "
        "and additions count one each.",
    )
    first = Table(
        "For which condition numbers is the device faster than both CG and Cholesky, precision and arrays aside?",
        columns,
        tuple((_name(device), *map(_ranges, row)) for device, row in zip(devices, free, strict=True)),
        (*common, f"The published device wins at {sum(bool(a.ahead) for a in free[0])} of {len(sizes)} sizes."),
    )
    second = Table(
        "What is left of these windows within the precision of the matrix and the size of one array?",
        columns,
        tuple((_name(device), *map(_ranges, row)) for device, row in zip(devices, limited, strict=True)),
        (
            f"Without refinement kappa <= 2^w epsilon = {line:g}, in the worst case; one array has at most "
            f"{float(RC_DEVICE.nodes):g} nodes ({RC_DEVICE.nodes.status.value}).",
            f"{lost} of {total} windows are lost, {imprecise} of them to the precision alone; the others need "
            "larger arrays.",
        ),
    )
    return [first, second, _thresholds(devices)]


def _thresholds(devices: list[AnalogDevice]) -> Table:
    log, log2 = sp.log(1 / eps), sp.log(2 / eps)
    passes = B_M / B_L
    # Transfer and settling each alone against CG; the window closes where these two bounds meet.
    size_cg = 2 * B_M / log2 * sp.sqrt(tau * log / (B_L * w))
    size_cholesky = 3 * eta * F * w / B_L
    rows = []
    for device in devices:
        given = numbers(values_of(device))
        below = windows_against_cg(device, 0.9 * float(size_cg.subs(given)))
        assert not below.ahead, "a window against CG below the size at which its bounds meet"
        assert windows_against_cg(device, 3 * float(size_cg.subs(given))).ahead, "no window against CG far above"
        rows.append((_name(device), *(float(each.subs(given)) for each in (passes, size_cg, size_cholesky))))
    return Table(
        "How many passes of CG pay for the link, and below which sizes is there no window?",
        ("tau, link", "passes of CG", "no window against CG below d =", "none against Cholesky below d ="),
        (("formula", passes, size_cg, size_cholesky), *rows),
        ("Necessary, not sufficient: each bound counts either the transfer or the settling, and not the other.",),
    )


def windows_against_cg(device: AnalogDevice, size: float) -> Windows:
    return crossover(CG, DEVICE, kappa, {**values_of(device), d: size}, 1, HIGHEST)


def figure(smoke: bool) -> Figure:
    sizes = np.geomspace(256, 2**17, 5 if smoke else 24)
    found = Figure(figsize=(7, 5), layout="constrained")
    axes = found.subplots()
    for number, device in enumerate(settings()):
        ends = [(size, each.low.at, each.high.at) for size in sizes for each in windows(device, size).ahead]
        if ends:
            at, low, high = zip(*ends, strict=True)
            axes.fill_between(at, low, high, alpha=0.3, color=f"C{number}", label=_name(device))
    axes.axhline(float(PRECISION.allowed.subs(numbers(values_of(RC_DEVICE)))), color="black", ls="--")
    axes.axvline(float(RC_DEVICE.nodes), color="black", ls=":")
    axes.set(xscale="log", yscale="log", xlabel="order d", ylabel="condition number", xlim=(sizes[0], sizes[-1]))
    axes.set_title("Device ahead (modelled); valid below the dashed line and left of the dotted one", fontsize="small")
    axes.legend(fontsize="x-small")
    return found


if __name__ == "__main__":
    run(__doc__, tables, figure)
