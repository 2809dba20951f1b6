"""What does a solve cost by plain averaging, by refinement, and by conjugate gradients?

python analysis/refinement.py [--csv FILE] [--latex FILE] [--figure FILE] [--smoke]
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp
from asking import run
from matplotlib.figure import Figure

import thermolinalg as tla
from thermolinalg.complexity import (
    FACTORISATION,
    H100,
    NO_LATENCY,
    PRODUCTS,
    RC_DEVICE,
    Constant,
    Roof,
    numbers,
    precision_limit,
    run_time,
)
from thermolinalg.complexity.models import direct, iterative, thermodynamic, traffic
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import B_L, C, V, d, delta, eps, k, kappa, n, q, signal, tau, thermal, w

jax.config.update("jax_enable_x64", True)

SIZE, MISS = 1024, 0.05
BEST, PLANNED = math.exp(-1 / 2), 0.1
"""What a sweep leaves of the error: least time in all where noise binds (of T/ln(1/r) with r^2 ~ 1/T); the package."""

DEVICE: dict[sp.Symbol, Constant | float] = {**RC_DEVICE.values, k: 1, q: 1}
NOTES = (
    f"All times are modelled: {RC_DEVICE.name}, {float(RC_DEVICE.time_constant):g} s, {float(RC_DEVICE.link):g} bit/s, "
    f"{float(RC_DEVICE.word):g} bit; {H100.name}, its latency neglected, matrix streamed from memory; FP64 where kappa "
    "times the rounding of FP32 is over the error.",
    f"d = {SIZE}, one right-hand side; S: length of the right-hand side over that of thermal noise. Plain: loose upper "
    f"bound, exceeded with a probability of at most {MISS:g}. Refined: fit to simulated "
    f"sweeps of the best length, each taken to leave {BEST:.2g} of the error, with traffic and digital residuals.",
    "Multiplications and additions count one each. Errors: 2-norm for the device, energy norm for CG. That the time "
    "constant does not grow with d is an assumption, and so is an array of this size.",
)


def signal_of_circuit(size: int) -> float:
    """Length of a right-hand side of so many volts over that of thermal noise: sqrt(d C V^2/kT)."""
    return float(sp.sqrt(size * C * V**2 / thermal).subs(numbers(RC_DEVICE.values)))


def values(condition: float, error: float, strength: float) -> dict[sp.Symbol, float]:
    """Numbers for every symbol of the models."""
    return numbers({**DEVICE, n: SIZE, d: SIZE, kappa: condition, eps: error, delta: MISS, signal: strength})


def too_short(condition: float, error: float) -> str:
    """A refusal where the words of the device do not hold the matrix well enough, else nothing."""
    allowed = _allowed(float(RC_DEVICE.word), error)
    return "" if condition <= allowed else f"not computable: kappa over {allowed:.3g}, what words allow"


def _allowed(digits: float, error: float) -> float:
    return float(precision_limit(kappa, w, eps).allowed.subs({w: digits, eps: error}))


def arithmetic(condition: float, error: float) -> tuple[int, Constant]:
    """Bytes of a number and peak of the cheapest arithmetic that is exact enough."""
    return (4, H100.fp32) if condition <= _allowed(24, error) else (8, H100.fp64)


def stream(flops: float, passes: float, condition: float, error: float) -> float:
    """Seconds of products with a matrix that comes from memory each time."""
    size, peak = arithmetic(condition, error)
    return run_time(flops, passes * size * SIZE**2, Roof(peak, H100.bandwidth, PRODUCTS, NO_LATENCY))


def plain(condition: float, error: float, strength: float) -> float | str:
    """Seconds of one run, loads and read-out included."""
    at = values(condition, error, strength)
    return too_short(condition, error) or thermodynamic.SOLVE.at(at) + traffic.SOLVE_TRANSFER.at(at)


def sweeps(error: float, left: float) -> int:
    """Sweeps until the error is small enough, each of which leaves a part of it."""
    return max(1, math.ceil(math.log(error) / math.log(left) - 1e-9))


def refined(condition: float, error: float, strength: float) -> float | str:
    """Seconds of all sweeps: analog, one load of the matrix, vectors of every sweep, residuals on the chip."""
    at, count = values(condition, error, strength), sweeps(error, BEST)
    moved = traffic.SOLVE_TRANSFER.at(at) + (count - 1) * float((2 * d * w / B_L).subs(at))
    residuals = count * stream(direct.SYMV.at(at), 1, condition, error)
    return too_short(condition, BEST) or thermodynamic.SOLVE_REFINED.at(at) + moved + residuals


def gradients(condition: float, error: float) -> tuple[int, float]:
    """Passes of CG, at most, and their seconds."""
    at = values(condition, error, 1.0)
    passes = math.ceil(iterative.CG_PASSES.at(at))
    each = iterative.CG.at(at) / iterative.CG_PASSES.at(at)
    return passes, stream(passes * each, passes, condition, error)


def cholesky(condition: float, error: float) -> float:
    """Seconds of a factorisation with both substitutions; the matrix moves three times."""
    size, peak = arithmetic(condition, error)
    roof = Roof(peak, H100.bandwidth, FACTORISATION, NO_LATENCY)
    return run_time(direct.CHOLESKY_SOLVE.at({n: SIZE, k: 1}), 3 * size * SIZE**2, roof)


def verdict(**times: float | str) -> str:
    """The least of those that exist, and by how much the best device loses or wins."""
    known = {name: time for name, time in times.items() if not isinstance(time, str)}
    device = [time for name, time in known.items() if name in ("plain", "refined")]
    digital = min(time for name, time in known.items() if name not in ("plain", "refined"))
    best = min(known, key=lambda name: known[name])
    if not device:
        return f"{best}; no run of the device reaches it"
    factor = min(device) / digital
    return f"{best}; device {'loses' if factor > 1 else 'wins'}, {max(factor, 1 / factor):.2g} times"


def modelled(smoke: bool) -> Table:
    """Seconds over condition number, accuracy and strength of the signal."""
    conditions, errors = ((10.0, 1e3), (1e-2,)) if smoke else ((10.0, 1e2, 1e3), (1e-2, 2.0**-8, 1e-6))
    rows = []
    for strength in (math.sqrt(SIZE), 1e3 * math.sqrt(SIZE), signal_of_circuit(SIZE)):
        for condition in conditions:
            for error in errors:
                one, many = plain(condition, error, strength), refined(condition, error, strength)
                (passes, time), factored = gradients(condition, error), cholesky(condition, error)
                result = verdict(plain=one, refined=many, CG=time, Cholesky=factored)
                count = sweeps(error, BEST)
                rows.append((strength, condition, error, one, count, many, passes, time, factored, result))
    columns = "S", "kappa", "error", "plain, s", "sweeps", "refined, s", "CG passes", "CG, s", "Cholesky, s", "fastest"
    return Table(
        "What does a solve cost by plain averaging, by refinement, and by conjugate gradients?",
        columns,
        tuple(rows),
        NOTES,
    )


def counted(smoke: bool) -> Table:
    """Runs of the package: products with A, and time constants of the simulated device, against the models."""
    size, error, key = (16, 1e-3, jax.random.key(0)) if smoke else (32, 1e-4, jax.random.key(0))
    rows = []
    for condition in (10.0,) if smoke else (10.0, 100.0):
        basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))
        A = jnp.asarray((basis * np.geomspace(1 / condition, 1.0, size)) @ basis.T)
        A, b = (A + A.T) / 2, jnp.ones(size)
        at = {d: size, n: size, kappa: condition, eps: error, tau: 1.0, signal: math.sqrt(size), delta: MISS}
        parts = thermodynamic.SETTLE, thermodynamic.SOLVE_RESIDUAL_AVERAGE
        sweep = parts[0] + parts[1]
        burn_in, average = (part.at(at | {eps: PLANNED}) for part in parts)
        step = tla.Plan(burn_in, average) if smoke else None  # planned as a rule, which takes long to compile
        found = tla.refine.solve(A, b, key=key, rtol=error, plan=step)
        assert int(found.status) == 0, "the refinement of the package did not converge"
        relaxed, runs = float(np.sum(found.stats["device_time"])), int(np.max(found.stats["steps"]))
        direct_time = float(np.sum(found.stats["direct_time"]))
        passes = int(np.max(found.stats["plain_cg"]))
        bound = math.ceil(iterative.CG_PASSES.at(at))
        assert direct_time <= thermodynamic.SOLVE.at(at), "a plan is longer than its upper bound"
        rows += [
            (condition, "plain, tau", direct_time, thermodynamic.SOLVE.at(at), "upper bound"),
            (condition, "a sweep, tau", relaxed / runs, sweep.at(at | {eps: PLANNED}), f"upper bounds to {PLANNED:g}"),
            (condition, "sweeps", runs, sweeps(error, PLANNED), f"{PLANNED:g} of the error left by each"),
            (condition, "refined, tau", relaxed, thermodynamic.SOLVE_REFINED.at(at), "sweeps of the best length"),
            (condition, "CG, products with A", passes, bound, "upper bound, another norm"),
        ]
    return Table(
        "Do runs of the package cost what the models say?",
        ("kappa", "what", "counted in simulation", "model", "the model is"),
        tuple(rows),
        (
            f"d = {size}, error {error:g}, geometric spectrum, beta = 1; the device is simulated, none was measured. "
            "Plain: root mean square after the burn-in, and its bound. CG: as close as the refinement came.",
        ),
    )


def tables(smoke: bool) -> list[Table]:
    """Modelled seconds, and counts of runs."""
    return [modelled(smoke), counted(smoke)]


def figure(smoke: bool) -> Figure:
    """Seconds over the accuracy, for the condition number 100."""
    errors = np.geomspace(0.1, 1e-6, 6 if smoke else 40)
    drawing = Figure(figsize=(6, 4), layout="constrained")
    axes = drawing.subplots()
    for label, time in {
        "plain, circuit": lambda error: plain(100.0, error, signal_of_circuit(SIZE)),
        "refined, circuit": lambda error: refined(100.0, error, signal_of_circuit(SIZE)),
        "plain, S = sqrt(d)": lambda error: plain(100.0, error, math.sqrt(SIZE)),
        "refined, S = sqrt(d)": lambda error: refined(100.0, error, math.sqrt(SIZE)),
        "CG": lambda error: gradients(100.0, error)[1],
        "Cholesky": lambda error: cholesky(100.0, error),
    }.items():
        points = [(error, found) for error in errors if not isinstance(found := time(error), str)]
        axes.loglog(*zip(*points, strict=True), label=label, linestyle="--" if "sqrt" in label else "-")
    axes.set(xlabel="relative error", ylabel="modelled time, s", title=f"d = {SIZE}, kappa = 100")
    axes.legend()
    return drawing


if __name__ == "__main__":
    run(__doc__, tables, figure)
