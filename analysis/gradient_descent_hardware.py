"""Which claims about gradient descent on GPU, TPU, quantum and thermodynamic hardware hold?

python analysis/gradient_descent_hardware.py [--csv FILE] [--latex FILE] [--smoke]
"""

from dataclasses import dataclass

import sympy as sp
from asking import run

from thermolinalg.complexity import (
    A100,
    CHIPS,
    H100,
    NO_LATENCY,
    PRODUCTS,
    RC_DEVICE,
    SURFACE_CODE,
    TPU_V3,
    V100,
    Chip,
    Missing,
    NotComputableError,
    Roof,
    growth,
    joules_per_flop,
    numbers,
    ratio,
    run_time,
    storage_limit,
)
from thermolinalg.complexity.models import descent, kronecker, optimizers, quantum
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import B_M, F, N, b, d, d_z, eps, gap, hidden, kappa, n, sigma, tau, word

CONDITION = 100.0


@dataclass(frozen=True)
class Claim:
    """A claim against the models.

    Attributes
    ----------
    claim : str
    fact : bool
        Whether what it says literally is so.
    conclusion : bool
        Whether what it is said for is so too, with all counted that the models know.
    everywhere : bool
        Whether it needs no condition that it leaves out.
    evidence : str
        What was computed.
    """

    claim: str
    fact: bool
    conclusion: bool
    everywhere: bool
    evidence: str

    @property
    def verdict(self) -> str:
        """Right, narrow, misleading or wrong, by the first test that fails."""
        if not self.fact:
            return "wrong"
        if not self.conclusion:
            return "misleading"
        return "right" if self.everywhere else "narrow"


def quantum_claims() -> list[Claim]:
    """Of gradients on a quantum computer."""
    reverse = descent.GRADIENT.formula / descent.EVALUATION.formula
    floor, jordan = quantum.GILYEN_FLOOR.formula, quantum.JORDAN_QUERIES.formula
    shift, shots = quantum.SHIFT_CIRCUITS.formula, quantum.SHIFT_SHOTS.formula
    classical, least = descent.NONSMOOTH.formula, quantum.NONSMOOTH_FLOOR.formula
    step = descent.NONSMOOTH.formula * descent.GRADIENT.formula
    spread = sp.Symbol("delta", positive=True)
    readout = quantum.READ_VECTOR.formula
    return [
        Claim(
            "a quantum gradient takes O(1) queries, a classical one O(d)",
            d not in jordan.free_symbols,
            d not in floor.free_symbols and N in reverse.free_symbols,
            False,
            f"nearly linear: {jordan} queries; general smooth: at least {floor}; reverse mode: {reverse} evaluations",
        ),
        Claim(
            "the parameter-shift rule needs two circuits per parameter",
            sp.simplify(shift / d) == 2,
            True,
            True,
            f"{shift} circuits, for generators with two eigenvalues",
        ),
        Claim(
            "... which matches the O(d) of classical gradients",
            sp.degree(shift, d) == 1,
            eps not in shots.free_symbols and N in reverse.free_symbols,
            False,
            f"{shots} shots; classical {reverse} evaluations, whatever d",
        ),
        Claim(
            "there is no quantum speed-up for non-smooth convex descent",
            not sp.simplify(classical / least).has(gap),
            True,
            "worst case" not in quantum.NONSMOOTH_FLOOR.notes,
            f"least over classical queries: {sp.simplify(least / classical)}; {quantum.NONSMOOTH_FLOOR.notes}",
        ),
        Claim(
            "O(T d delta^-2) is slower unless delta^-2 << 1",
            bool(sp.minimum(spread**-2, spread, sp.Interval.Lopen(0, 1)) < 1),
            False,
            False,
            f"delta^-2 is at least {sp.minimum(spread**-2, spread, sp.Interval.Lopen(0, 1))} for delta in (0, 1]",
        ),
        Claim(
            "classical non-smooth descent costs O(T d), T = O(eps^-2)",
            sp.degree(step, N) == 1 and not sp.simplify(step * gap**2).has(gap),
            True,
            b not in step.free_symbols,
            f"{step} flops: the batch is left out",
        ),
        Claim(
            "HHL inverts matrices exponentially fast",
            n not in quantum.HHL.formula.subs(sp.log(n), 1).free_symbols,
            n not in readout.free_symbols,
            False,
            f"{quantum.HHL.formula} queries for a state; {readout} runs to read it out",
        ),
    ]


def chip_claims() -> list[Claim]:
    """Of GPUs and TPUs."""
    compute, memory = (float(ratio(*pair)) for pair in _pairs(TPU_V3, V100))
    board = 4 * compute
    gpus = [chip for chip in CHIPS if chip.name.startswith(("V", "A", "H"))]
    energies = {chip.name: float(joules_per_flop(chip.bf16, chip.power)) for chip in CHIPS if chip.power.known}
    best = {kind: [name for name in energies if name.startswith("TPU") == kind] for kind in (True, False)}
    loses = [(t, g) for t in best[True] for g in best[False] if energies[t] > energies[g]]
    wins = [(t, g) for t in best[True] for g in best[False] if energies[t] < energies[g]]
    try:
        speed_up, refused = str(ratio(Missing("out of memory"), 1.5)), False
    except NotComputableError as refusal:
        speed_up, refused = str(refusal), True
    few, many = sp.Integer(16), sp.Integer(128)
    variance = sigma**2 / b
    noise = 1 - variance.subs(b, many) / variance.subs(b, few)
    return [
        Claim(
            "TPU v3 is 2.2 to 2.7 times faster than V100",
            board >= 2.2 or 2.2 <= compute <= 2.7,
            2.2 <= compute <= 2.7,
            False,
            f"modelled, one chip: peaks {compute:.2f}, bandwidths {memory:.2f}; a board of four: peaks {board:.2f}",
        ),
        Claim("a GPU that runs out of memory against 1.5 min on a TPU: 7 times", not refused, False, False, speed_up),
        Claim(
            "GPUs have a bandwidth of 900 GB/s or more",
            all(float(chip.bandwidth) >= 900e9 for chip in gpus),
            True,
            True,
            ", ".join(f"{chip.name} {float(chip.bandwidth) / 1e9:.0f}" for chip in gpus) + " GB/s",
        ),
        Claim(
            "TPUs take less energy than GPUs",
            bool(wins),
            bool(wins),
            not loses,
            "J/flop at the peaks of BF16, not like for like: "
            + ", ".join(f"{name} {1e12 * energy:.2g}e-12" for name, energy in energies.items()),
        ),
        Claim(
            "large batches cut the variance of gradients by 87 %, thanks to the chip",
            abs(float(noise) - 0.87) < 0.01,
            not variance.free_symbols.isdisjoint({F, B_M}),
            False,
            f"1 - {few}/{many} = {noise}: the batch sizes alone, on any chip",
        ),
    ]


def _pairs(new: Chip, old: Chip) -> tuple[tuple[float, float], ...]:
    return (float(new.bf16), float(old.bf16)), (float(new.bandwidth), float(old.bandwidth))


def curvature_claims() -> list[Claim]:
    """Of natural gradients, digital and thermodynamic."""
    lanes = {"explicit": optimizers.NGD_EXPLICIT, "CG": optimizers.NGD_CG, "Woodbury": optimizers.NGD_WOODBURY}
    powers = {name: sp.degree(sp.expand(model.formula), N) for name, model in lanes.items()}
    thermo, plain = growth(optimizers.TNGD_FLOPS.formula, [N, b, d_z]), growth(optimizers.SGD.formula, [N, b, d_z])
    at = numbers(
        {**RC_DEVICE.values, b: 32, d_z: 20, N: 1e5},
    )
    moved, relaxed = optimizers.TNGD_TRANSFER.at(at), 50 * at[tau]
    published = kronecker.THERMO_PUBLISHED.formula
    return [
        Claim(
            "natural gradients cost O(N^3) on digital hardware",
            powers["explicit"] == 3,
            True,
            min(powers.values()) == 3,
            "powers of N: " + ", ".join(f"{name} {power}" for name, power in powers.items()),
        ),
        Claim(
            "thermodynamic natural gradients are linear in N, like SGD",
            sp.degree(sp.expand(optimizers.TNGD_FLOPS.formula), N) == 1,
            thermo.terms == plain.terms
            and powers["Woodbury"] > 1
            and kappa not in optimizers.TNGD_SETTLE.formula.free_symbols,
            False,
            f"digital part {thermo} against {plain}; settling {optimizers.TNGD_SETTLE.formula}; Woodbury is linear too",
        ),
        Claim(
            "thermodynamic K-FAC runs in O(n^2 kappa^2) for each layer",
            published.subs(n, 2 * n) == 4 * published,
            True,
            eps in published.free_symbols and sp.degree(kronecker.THERMO_COVARIANCE_FLOPS.formula.subs(eps, 1), n) == 2,
            f"published {published}, second hand, without the error; loads and the digital product come on top",
        ),
        Claim(
            "conversion and transfer are the slowest link of the hybrid loop",
            moved > relaxed,
            True,
            True,
            f"modelled: transfer {moved:.3g} s, a run of 50 tau {relaxed:.3g} s; {moved / relaxed:.3g} times as long",
        ),
    ]


def claims() -> Table:
    """All verdicts, and what no model can say."""
    rows = [(test.claim, test.verdict, test.evidence) for test in quantum_claims() + chip_claims() + curvature_claims()]
    open_ = {
        "GPUs are 10 to 100 times faster than CPUs": "no kernel, size or precision is given, and no CPU is in the list",
        "sharp minima come 3 to 5 times more often with TPUs": "no source found; no constant of a chip sets the noise",
        "a quantum natural gradient is O(d) faster": "no model of its metric, which takes O(d^2) circuits",
    }
    rows += [(claim, "not computable", reason) for claim, reason in open_.items()]
    notes = (
        "right: as said. narrow: under a condition that is left out. misleading: true, but not what it is said for. "
        "wrong: not so, or not defined. Each follows from tests of the models, by the first that fails.",
        f"One addition or multiplication is one flop. {hidden}: constants that statements of order leave out.",
    )
    question = "Which claims about gradient descent on GPU, TPU, quantum and thermodynamic hardware hold?"
    return Table(question, ("claim", "verdict", "evidence"), tuple(rows), notes)


def chip_step(chip: Chip, size: float, batch: int) -> float | str:
    """Modelled seconds of one gradient of dense layers, or why there are none."""
    at = {N: size, b: batch, word: 2}
    stored = descent.GRADIENT.footprint()
    if stored.at(at) > float(storage_limit(stored.formula, chip.memory).allowed):
        return "not computable: out of memory"
    roof = Roof(chip.bf16, chip.bandwidth, PRODUCTS, NO_LATENCY)
    return run_time(descent.GRADIENT.at(at), stored.at(at), roof)


def device_step(size: float, batch: int, outputs: int, error: float) -> float:
    """Modelled seconds of the loads and the settling of one natural gradient."""
    sizes = {b: batch, d_z: outputs, N: size, kappa: CONDITION, eps: error}
    return optimizers.TNGD_SECONDS.at(numbers({**RC_DEVICE.values, **sizes}))


def steps(smoke: bool) -> Table:
    """Seconds of a gradient, each where it can be had."""
    batch, error, outputs = 32, 2.0**-8, 20
    sizes = (1e5, 1e11) if smoke else (1e5, 1e7, 1e9, 1e11)
    chips = [(chip.name, *(chip_step(chip, size, batch) for size in sizes)) for chip in (V100, A100, H100, TPU_V3)]
    shots = [quantum.SHIFT_SHOTS.at({d: size, eps: error}) * float(SURFACE_CODE.shot) for size in sizes]
    device, verdicts = [], []
    for place, size in enumerate(sizes, 1):
        seconds = device_step(size, batch, outputs, error)
        fits = batch * outputs + size <= float(RC_DEVICE.nodes)
        device.append(seconds if fits else f"{seconds:.3g}, no array holds it")
        known = [time for row in chips if not isinstance(time := row[place], str)]
        if not known:
            verdicts.append("not computable: no chip holds it")
            continue
        factor = seconds / min(known)
        verdicts.append(f"{'loses' if factor > 1 else 'wins'}, {max(factor, 1 / factor):.2g} times")
    rows = [*chips, ("parameter shift, a shot at a time", *shots), ("natural gradient on a device", *device)]
    rows += [("device against the fastest chip", *verdicts)]
    notes = (
        f"All times are modelled. Chips: 6 b N flops at the BF16 peak times {float(PRODUCTS):g}, an assumption; "
        f"latency and activations left out. b = {batch}, error {error:.3g}, d_z = {outputs}, kappa = {CONDITION:g}.",
        f"Parameter shift: N parameters of a circuit, {float(SURFACE_CODE.shot):g} s a shot, without error correction.",
        "Device: loads of Jacobian and settling only, without the digital Jacobian, and a natural gradient in place of "
        "a gradient: fewer steps may do, which no model here says.",
    )
    question = "What does one step of gradient descent take on each of them, in seconds?"
    return Table(question, ("on", *(f"N = {size:g}" for size in sizes)), tuple(rows), notes)


def tables(smoke: bool) -> list[Table]:
    """Verdicts and modelled seconds."""
    return [claims(), steps(smoke)]


if __name__ == "__main__":
    run(__doc__, tables)
