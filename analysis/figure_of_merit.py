"""How much of an improvement is due to the algorithm, how much to the hardware, and which solver does nobody beat?

python analysis/figure_of_merit.py [--csv FILE] [--latex FILE] [--figure FILE] [--smoke]
"""

from typing import Any

import sympy as sp
from asking import run
from matplotlib.figure import Figure

from thermolinalg.complexity import (
    DAC_LIKE_ADC,
    FACTORISATION,
    H100,
    NO_LATENCY,
    RC_DEVICE,
    V100,
    Candidate,
    Chip,
    Costs,
    Front,
    Missing,
    NotComputableError,
    NotFoundError,
    Order,
    Roof,
    figure_of_merit,
    pareto_front,
    run_energy,
    run_time,
)
from thermolinalg.complexity.constants import numbers
from thermolinalg.complexity.models import direct, iterative, traffic
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import B_L, C, V, d, e_conv, entries, eps, k, kappa, n, q, tau

ANSWER_BITS, CONDITION, FP32 = 8, 100, 4
ONE = sp.Integer(1)
POINT = {
    eps: 2.0**-ANSWER_BITS,
    kappa: CONDITION,
    k: 1,
    q: 1,
    **RC_DEVICE.values,
}
DENSE = d ** sp.Rational(3, 2)


def _work(name: str, size: int) -> tuple[float, float]:
    """Flops and bytes of one solve."""
    at = numbers({**POINT, n: size})
    matrix = FP32 * size**2
    if name == "Cholesky":
        return direct.CHOLESKY_SOLVE.at(at), matrix
    passes = {"CG": iterative.CG_PASSES, "Richardson": iterative.RICHARDSON_PASSES_SIMPLE}[name].at(at)
    flops = {"CG": iterative.CG, "Richardson": iterative.RICHARDSON}[name].at(at)
    return flops, passes * matrix


def _roof(chip: Chip) -> Roof:
    return Roof(chip.fp32, chip.bandwidth, FACTORISATION, NO_LATENCY)


def _digital(name: str, chip: Chip, size: int) -> float | Missing:
    stored = direct.CHOLESKY_SOLVE.words({n: size, k: 1}) * FP32
    if stored > float(chip.memory):
        return Missing(f"{stored:.3g} B do not fit into {float(chip.memory):.3g} B of {chip.name}")
    try:
        return float(run_time(*_work(name, size), _roof(chip)))
    except NotFoundError as error:
        return Missing(str(error).split(";")[0])


def _device(size: int) -> float:
    return traffic.SOLVE_SECONDS.at(numbers({**POINT, d: size}))


def _cell(cost: Any) -> Any:
    return f"missing: {cost.reason}" if isinstance(cost, Missing) else cost


def splits(smoke: bool) -> Table:
    cannot = Missing("a device that relaxes cannot factorise")
    small, large = 2048, 65536
    cases = {
        f"Cholesky to CG, V100 to H100, d = {small}": _four("Cholesky", "CG", V100, H100, small),
        f"Cholesky to CG, V100 to H100, d = {large}": _four("Cholesky", "CG", V100, H100, large),
        f"Cholesky to relaxation, H100 to device, d = {small}": Costs(
            _digital("Cholesky", H100, small), _digital("Richardson", H100, small), cannot, _device(small)
        ),
        f"Cholesky to relaxation, H100 to device, d = {large}": Costs(
            _digital("Cholesky", H100, large), _digital("Richardson", H100, large), cannot, _device(large)
        ),
    }
    rows: list[tuple[Any, ...]] = []
    for name, costs in cases.items():
        for order in Order:
            try:
                merit = figure_of_merit(costs, order)
            except NotComputableError as error:
                rows.append((name, order.value, *["not computable"] * 3, str(error).removeprefix("not computable: ")))
                continue
            assert merit.algorithm * merit.hardware == merit.total, f"{name}: factors do not multiply to the total"
            factors = [float(factor) for factor in (merit.algorithm, merit.hardware, merit.total)]
            rows.append((name, order.value, *factors, "new one wins" if factors[2] > 1 else "new one loses"))
    return Table(
        "How much of a faster solve is due to the algorithm, and how much to the hardware?",
        ("change", "order", "algorithm", "hardware", "total", "verdict"),
        tuple(rows),
        (
            "Old time over new time, all modelled; factors depend on the order, their product does not. "
            "Multiplications and additions count one each.",
            f"Chips: roofline in FP32, eta = {float(FACTORISATION):g} (assumption), matrix streamed once by Cholesky "
            f"and in every pass by CG and Richardson, which stop at {ANSWER_BITS} bits; kappa = {CONDITION}. "
            "Latency is neglected, in favour of chips.",
            "Relaxation on a chip is Richardson iteration, the same descent in steps. Device: published constants, "
            f"with load; one array has {float(RC_DEVICE.nodes):g} nodes at most.",
            f"V100 peaks: {V100.fp32.status.value}, {V100.fp32.source}.",
        ),
    )


def _four(old: str, new: str, before: Chip, after: Chip, size: int) -> Costs:
    cells = [_digital(name, chip, size) for chip in (before, after) for name in (old, new)]
    return Costs(cells[0], cells[1], cells[2], cells[3])


def _joules(size: int, values: dict[sp.Symbol, Any]) -> float | Missing:
    # Cells are biased while the matrix is loaded, too.
    model = (
        traffic.SOLVE_TRANSFER_JOULES
        + traffic.SOLVE_RESISTORS.where({entries: DENSE})
        + traffic.cells(traffic.SOLVE_SECONDS)
    )
    try:
        return model.at(numbers({**POINT, **values, d: size}))
    except NotFoundError as error:
        return Missing(str(error).split(";")[0])


def candidates(size: int) -> list[Candidate]:
    rounding = 2.0**-24 * CONDITION
    # Worst case: rounding of the matrix moves the answer by kappa 2^-w, apart from what settling leaves.
    coarse = 2.0**-ANSWER_BITS + CONDITION * 2.0 ** -float(RC_DEVICE.word)
    found = []
    for name, error in (("Cholesky", rounding), ("CG", 2.0**-ANSWER_BITS + rounding)):
        flops, moved = _work(name, size)
        energy = float(run_energy(flops, moved, _roof(H100), H100.power))
        found.append(Candidate(f"{name}, H100", _digital(name, H100, size), energy, error))
    seconds = _device(size)
    fast = {tau: 0.01 * float(RC_DEVICE.time_constant), B_L: 20 * float(RC_DEVICE.link)}
    frugal = {e_conv: DAC_LIKE_ADC, V: 0.1 * float(RC_DEVICE.voltage)}
    faster = traffic.SOLVE_SECONDS.at(numbers({**POINT, **fast, d: size}))
    return [
        *found,
        Candidate("device, published", seconds, _joules(size, {e_conv: RC_DEVICE.dac_energy}), coarse),
        Candidate("device, DAC as ADC", seconds, _joules(size, {e_conv: DAC_LIKE_ADC}), coarse),
        Candidate("device, DAC as ADC, 0.1 V", seconds, _joules(size, frugal), coarse),
        Candidate(
            "device, also 10 ns, 1 Tb/s and C/100",
            faster,
            _joules(size, frugal | fast | {C: 0.01 * float(RC_DEVICE.capacitance)}),
            coarse,
        ),
    ]


def _place(name: str, front: Front) -> str:
    if name in front.left_out:
        return f"not computable: {front.left_out[name]}"
    return f"beaten by {front.beaten[name]}" if name in front.beaten else "nobody beats it"


def fronts(smoke: bool) -> list[Table]:
    found = []
    for size in (1024,) if smoke else (128, 1024, int(float(RC_DEVICE.nodes))):
        front = pareto_front(candidates(size))
        rows = tuple(
            (each.name, _cell(each.seconds), _cell(each.joules), each.error, _place(each.name, front))
            for each in candidates(size)
        )
        # A second route: compare all with all.
        for each in front.best:
            for other in candidates(size):
                mine, theirs = ((x.seconds, x.joules, x.error) for x in (each, other))
                if mine != theirs and other.name not in front.left_out:
                    assert any(a < b for a, b in zip(mine, theirs, strict=True)), f"{other.name} beats {each.name}"
        found.append(
            Table(
                f"Which solver of one system with d = {size} does no other beat in time, energy and error together?",
                ("solver", "s (modelled)", "J (modelled)", "relative error", "verdict"),
                rows,
                (
                    f"kappa = {CONDITION}. Errors: kappa times the rounding unit of FP32; 2^-{ANSWER_BITS} more where "
                    "iteration or settling stops early; kappa 2^-w more for a matrix of w bits, in the worst case. "
                    "CG: in the energy norm.",
                    f"Chip: {float(H100.power):g} W throughout, latency neglected, in its favour. Device: s_A = d^1.5 "
                    "(its upper bound), standby power left out, in its favour; 0.1 V, 10 ns, 1 Tb/s and C/100 are "
                    "assumed: nobody has built them.",
                ),
            )
        )
    return found


def tables(smoke: bool) -> list[Table]:
    return [splits(smoke), *fronts(smoke)]


def figure(smoke: bool) -> Figure:
    found = Figure(figsize=(7, 5), layout="constrained")
    axes = found.subplots()
    size = int(float(RC_DEVICE.nodes))
    for each in candidates(size):
        if not isinstance(each.joules, Missing) and not isinstance(each.seconds, Missing):
            axes.loglog(each.seconds, each.joules, "o", label=f"{each.name}: {each.error:.2g}")
    axes.set(xlabel="seconds (modelled)", ylabel="joules (modelled)", title=f"One solve, d = {size}; relative error")
    axes.legend(fontsize="small")
    return found


if __name__ == "__main__":
    run(__doc__, tables, figure)
