"""What goes into a thermodynamic device and comes out: numbers, seconds on the link, joules.

One run loads its matrix anew; a matrix that stays costs nothing the second time. Numbers of a linear solve are those of
k right-hand sides, q of which relax at once in q arrays, each with a copy of the matrix.
"""

import sympy as sp

from thermolinalg.complexity.model import CostModel, Counts, Kind, Oracle, Source, Status
from thermolinalg.complexity.models.thermodynamic import LENGTH, SETTLE
from thermolinalg.complexity.symbols import (
    B_L,
    C,
    P_cell,
    V,
    d,
    e_bit,
    e_conv,
    entries,
    eps,
    k,
    kappa,
    nodes,
    q,
    thermal,
    w,
)

COUNTED = Source("numbers that one run writes and reads", Status.DERIVED)
TNGD = Source("timing model arranged from arXiv:2405.13817, appendix C", Status.READ)
CIRCUIT = Source("resistors at a voltage V each for the time of a burn-in", Status.DERIVED)
NOISE = Source("the same with V^2 = (kT/C)/epsilon^2, the least that stands out of thermal noise", Status.DERIVED)

_NONE = "none by itself: w bits for each number"


def _numbers(name: str, cost: sp.Expr, notes: str = "") -> CostModel:
    return CostModel(name, cost, Counts.CONVERSIONS, Kind.EXACT, _NONE, Oracle.DEVICE, COUNTED, d**2, notes)


SOLVE_CONVERSIONS = _numbers(
    "conversions of a solve", q * d**2 + 2 * k * d, "couplings in q arrays, each loaded; forces; answers"
)
INVERSE_CONVERSIONS = _numbers(
    "conversions of an inverse", d**2 + d * (d + 1) / 2, "products are averaged on the device, which few can"
)
SAMPLE_CONVERSIONS = _numbers("conversions of k samples", d**2 + k * d, "also of an inverse read from k samples")
LYAPUNOV_CONVERSIONS = _numbers("conversions of a Lyapunov solution", 2 * d**2 + k * d, "drift, noise, k samples")
EXPM_CONVERSIONS = _numbers("conversions of an exponential", d**2 + 2 * k * d, "drift, which sets the noise; k pairs")
LOGDET_CONVERSIONS = _numbers(
    "conversions of a log determinant", nodes * d**2 + k * d, "couplings at each node of the path; k samples in all"
)

ACCUMULATION = CostModel(
    "digital accumulation of second moments",
    2 * k * d**2,
    Counts.FLOPS,
    Kind.EXACT,
    "exact but for rounding",
    Oracle.ENTRIES,
    Source("a product and a sum for each entry of k outer products; half by symmetry", Status.DERIVED),
    d**2,
)


def _seconds(numbers: CostModel, name: str) -> CostModel:
    return numbers.priced(w / B_L, Counts.SECONDS, name=name, kind=Kind.MODEL, source=TNGD)


def _joules(numbers: CostModel, name: str) -> CostModel:
    source = Source("one conversion and w bits on the link for each number", Status.DERIVED)
    return numbers.priced(e_conv + w * e_bit, Counts.JOULES, name=name, kind=Kind.MODEL, source=source)


SOLVE_TRANSFER = _seconds(SOLVE_CONVERSIONS, "transfer of a solve")
INVERSE_TRANSFER = _seconds(INVERSE_CONVERSIONS, "transfer of an inverse")
SAMPLE_TRANSFER = _seconds(SAMPLE_CONVERSIONS, "transfer of k samples")
LYAPUNOV_TRANSFER = _seconds(LYAPUNOV_CONVERSIONS, "transfer of a Lyapunov solution")
EXPM_TRANSFER = _seconds(EXPM_CONVERSIONS, "transfer of an exponential")
LOGDET_TRANSFER = _seconds(LOGDET_CONVERSIONS, "transfer of a log determinant")

SOLVE_TRANSFER_JOULES = _joules(SOLVE_CONVERSIONS, "transfer of a solve")
INVERSE_TRANSFER_JOULES = _joules(INVERSE_CONVERSIONS, "transfer of an inverse")
SAMPLE_TRANSFER_JOULES = _joules(SAMPLE_CONVERSIONS, "transfer of k samples")
LYAPUNOV_TRANSFER_JOULES = _joules(LYAPUNOV_CONVERSIONS, "transfer of a Lyapunov solution")
EXPM_TRANSFER_JOULES = _joules(EXPM_CONVERSIONS, "transfer of an exponential")
LOGDET_TRANSFER_JOULES = _joules(LOGDET_CONVERSIONS, "transfer of a log determinant")

SOLVE_SECONDS = SOLVE_TRANSFER + SETTLE.repeated(k / q).named("settling of k right-hand sides, q at once")
"""A whole solve without noise: what a crossover compares with digital seconds."""

SOLVE_RESISTORS = CostModel(
    "resistors of a solve",
    entries * C * V**2 * kappa * sp.log(1 / eps),
    Counts.JOULES,
    Kind.MODEL,
    LENGTH,
    Oracle.DEVICE,
    CIRCUIT,
    d**2,
    "RC cancels; every node at V, which is pessimistic; tr A <= s_A <= d^1.5",
)
SOLVE_RESISTORS_FLOOR = CostModel(
    "resistors of a solve at the level of thermal noise",
    entries * thermal * kappa * sp.log(1 / eps) / eps**2,
    Counts.JOULES,
    Kind.MODEL,
    LENGTH,
    Oracle.DEVICE,
    (CIRCUIT, NOISE),
    d**2,
    "what no choice of C and V goes below in this model",
)
SOLVE_RESISTORS_UNDERDAMPED = CostModel(
    "resistors of a solve, underdamped",
    None,
    Counts.JOULES,
    Kind.UNAVAILABLE,
    LENGTH,
    Oracle.DEVICE,
    CIRCUIT,
    notes="what inductors give back was not derived",
)
CURRENT_FLOOR = CostModel(
    "any current to a relative precision",
    2 * thermal / eps**2,
    Counts.JOULES,
    Kind.FLOOR,
    "standard deviation over mean at most epsilon",
    Oracle.DEVICE,
    Source("thermodynamic uncertainty relation, Var/mean^2 >= 2/Sigma", Status.READ),
)
BIT_FLOOR = CostModel(
    "erasure of a bit",
    thermal * sp.log(2),
    Counts.JOULES,
    Kind.FLOOR,
    "certain",
    Oracle.DEVICE,
    Source("Landauer's bound", Status.DERIVED),
)


def cells(model: CostModel) -> CostModel:
    r"""Return the joules of d cells that run for the time of a model.

    .. math:: E = d\,P_\mathrm{cell}\,T

    Parameters
    ----------
    model : CostModel
        In seconds of analog evolution.

    Returns
    -------
    CostModel
        In joules; the idle power of all else is extra.

    Raises
    ------
    ValueError
        If the model counts something else, or its cost is not available.

    Examples
    --------
    >>> cells(SETTLE).cost
    P_cell*d*kappa*tau*log(1/epsilon)
    """
    if model.counts is not Counts.SECONDS:
        raise ValueError(f"{model.name} counts {model.counts.value}: give a model of seconds")
    source = Source("power of a cell times cells times time", Status.DERIVED)
    return model.priced(d * P_cell, Counts.JOULES, name=f"cells of {model.name}", kind=Kind.MODEL, source=source)
