"""Which rows of published tables do the models give again, which not, and which can nobody check?

python analysis/published.py [--csv FILE] [--latex FILE] [--smoke]
"""

from collections.abc import Iterable
from dataclasses import dataclass

import sympy as sp
from asking import run
from ngd_table import LARGE, PUBLISHED

from thermolinalg.complexity import H200, RC_DEVICE, TPU_V3, CostModel, growth
from thermolinalg.complexity.models import direct, iterative, kronecker, thermodynamic
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import N, b, c, d, d_z, eps, k, kappa, m, n

LAPACK = "LAPACK Working Note 41"
TNGD, THERMO, KFAC = "arXiv:2405.13817", "arXiv:2308.05660, recalled", "arXiv:2502.08603"


@dataclass(frozen=True)
class Row:
    """What was published, and what comes out here.

    Attributes
    ----------
    source, says : str
    found : str
        What the models give, or that they have nothing to say.
    agrees : bool, or None
        Computed; None where there is nothing to compare with.
    why : str
        Needed unless both agree.
    """

    source: str
    says: str
    found: str
    agrees: bool | None
    why: str = ""

    def __post_init__(self) -> None:
        if not self.agrees and not self.why:
            raise ValueError(f"{self.says} of {self.source} is not reproduced; say why")

    @property
    def verdict(self) -> str:
        """Reproduced, not reproduced, or not reproducible."""
        return {True: "reproduced", False: "not reproduced", None: "not reproducible"}[self.agrees]


def number(source: str, says: str, published: float, ours: float, digits: int, why: str = "") -> Row:
    """A number that was published with so many significant digits."""
    return Row(source, says, f"{ours:.{max(digits, 3)}g}", float(f"{ours:.{digits}g}") == published, why)


def order(source: str, says: sp.Expr, model: CostModel, what: str, why: str = "") -> Row:
    """A growth that was published."""
    large, small = (d, kappa), (eps,)
    ours, theirs = growth(model.formula, large, small), growth(says, large, small)
    return Row(source, f"{what}: {theirs}", f"{ours}: {model.error}", ours.terms == theirs.terms, why)


def loops(what: str, model: CostModel, counted: sp.Expr, why: str = "") -> Row:
    """A count of operations, summed over the loops of the textbook algorithm."""
    same = sp.expand(counted - model.formula) == 0
    return Row(LAPACK, f"{what}: {model.formula}", str(sp.expand(counted)), same, why)


def routines() -> Iterable[Row]:
    """Counts of dense routines."""
    i, j = sp.symbols("i j", positive=True, integer=True)

    def total(term: sp.Expr, low: sp.Expr = sp.S.One, high: sp.Expr = n) -> sp.Expr:
        return sp.summation(term, (j, low, high))

    divided = total((n - j) + 2 * (n - j) ** 2)
    yield loops("POTRF", direct.POTRF, total(1 + (n - j) + 2 * (j - 1) * (n - j + 1)))
    yield loops("TRSV", direct.TRSV, total(1 + 2 * (j - 1)))
    yield loops("POTRS", direct.POTRS, 2 * k * total(1 + 2 * (j - 1)))
    yield loops("TRTRI", direct.TRTRI, total(1 + sp.summation(2 * i, (i, 1, n - j))))
    yield loops("GETRS", direct.GETRS, k * total(1 + 2 * (j - 1)) + k * total(2 * (j - 1)))
    square = direct.GETRF.where({m: n})
    yield loops("GETRF, one division each", square, divided, "a reciprocal for each pivot is counted besides: next row")
    yield loops("GETRF, one reciprocal a pivot", square, divided + total(sp.S.One))
    squares = sp.Poly(direct.SYTRD.formula, n).coeff_monomial(n**2)
    yield Row(
        "opcounts.txt",
        "SYTRD: total with 3 n^2",
        f"{squares} n^2",
        squares == 3,
        "its own columns for additions and multiplications add up to the other, and so does flops.h",
    )
    yield Row(
        LAPACK,
        "GEMM, SYRK, GEMV, SYMV, TRSM, POTRI, GETRI, SYTRF, SYTRI, SYTRS, GEQRF, ORGQR, GEHRD, GEBRD, SYTRD",
        "taken over as read",
        None,
        "their loops are not summed here",
    )


def iterations() -> Iterable[Row]:
    """Passes of iterative solvers."""
    at = {kappa: 100, eps: 1e-6}
    notes = "lecture notes of Romberg and Davenport"
    yield number(notes, "steepest descent, kappa 100, 1e-6: 691", 691, iterative.STEEPEST_DESCENT_PASSES.at(at), 3)
    yield number(notes, "CG, kappa 100, 1e-6: 73", 73, iterative.CG_PASSES.at(at), 2)


def natural_gradients() -> Iterable[Row]:
    """Table 1 and appendix C of the paper on thermodynamic natural gradients."""
    many = sp.Symbol("t", positive=True)
    for name, (model, calls, time, memory) in PUBLISHED.items():
        stored = growth(model.footprint().formula, LARGE)
        for what, found, said in (
            ("time", model.leading(LARGE), growth(time, LARGE)),
            ("memory", stored, growth(memory, LARGE)),
        ):
            same = found.terms == said.terms
            # Otherwise a term that was left out may still be smaller, for a model with parameters enough.
            wide = [growth(sp.Add(*each.terms).subs(N, many * b * d_z**2), (many, b, d_z, c)) for each in (found, said)]
            extra = [str(term) for term in found.terms if term not in said.terms]
            why = "" if same else f"left out there: {', '.join(extra)}, smaller for N of b d_z^2 or more"
            agrees = same or wide[0].terms == wide[1].terms
            yield Row(f"{TNGD}, table 1", f"{name}, {what}: {said}", str(found), agrees, why)
        yield Row(f"{TNGD}, table 1", f"{name}: calls", str(calls.formula), None, "taken over as read")
    product = 1e3 * float(RC_DEVICE.capacitance)
    yield number(f"{TNGD}, appendix C", "1 kohm and 1 nF: 1 us", float(RC_DEVICE.time_constant), product, 1)
    measured = "measured on a CPU of 64 cores that is not among the chips here"
    yield Row(TNGD, "figure 2: run times", "nothing", None, measured)
    yield Row(TNGD, "t from 0.1 to 50 tau", "kappa tau ln(1/epsilon)", None, "kappa of these curvatures is not given")


def primitives() -> Iterable[Row]:
    """Complexities of thermodynamic primitives."""
    t = thermodynamic
    unseen = "which norm the paper uses was not seen"
    yield order(THERMO, d * kappa**2 / eps**2, t.SOLVE_AVERAGE, "solve")
    yield order(THERMO, d**2 * kappa / eps**2, t.INVERSE_AVERAGE_SPECTRAL, "inverse")
    yield order(THERMO, d**2 * kappa / eps**2, t.INVERSE_AVERAGE, "inverse", f"another norm; {unseen}")
    yield order(THERMO, d**2 * kappa / eps**2, t.LYAPUNOV, "Lyapunov", f"another norm; {unseen}")
    logdet = "thermodynamic integration here, another estimator or another spectrum there"
    yield order(THERMO, d * kappa * sp.log(kappa) ** 3 / eps**2, t.LOGDET, "log determinant", logdet)
    gain = growth(sp.simplify(t.SOLVE_AVERAGE.formula / t.SOLVE_UNDERDAMPED_AVERAGE.formula), (kappa,))
    yield Row(THERMO, "underdamped: sqrt(kappa) less", str(gain), gain.terms == (sp.sqrt(kappa),))
    yield Row("arXiv:2308.05660", "its table, verbatim", "nothing", None, "not found; the rows above are recalled")
    yield Row("arXiv:2311.12759", "exponential: constants", "nothing", None, "not found; the abstract gives the order")
    yield Row("arXiv:2601.04358", "bounds on energy, delay and deficiency", "nothing", None, "not modelled here")
    yield Row("arXiv:2312.07788", "speed limits", "nothing", None, "not modelled here")
    yield Row(
        "arXiv:2005.04530", "settling does not grow with the size", "assumed", None, "no model of a crossbar here"
    )


def layers() -> Iterable[Row]:
    """Optimizers that work by layers."""
    roots, applied = (growth(x.formula, (m, n)) for x in (kronecker.SHAMPOO_ROOTS, kronecker.APPLY))
    expected = [set(growth(x, (m, n)).terms) for x in (m**3 + n**3, m**2 * n + m * n**2)]
    same = [set(roots.terms), set(applied.terms)] == expected
    yield Row("arXiv:1802.09568, recalled", "roots m^3 + n^3, apply m^2 n + m n^2", f"{roots}; {applied}", same)
    order_ = str(growth(kronecker.THERMO_SYSTEMS_SECONDS.formula.subs(m, n), (n, kappa)))
    summaries = "only summaries were seen: accuracy, load and the digital product are hidden in it"
    yield Row(KFAC, "a layer: O(n^2 kappa^2)", f"by linear systems {order_}", None, summaries)
    yield Row(KFAC, "tables, measured factors, constants of its hardware", "nothing", None, "not found")
    yield Row("arXiv:1503.05671", "costs of each task", "nothing", None, "table not found")
    yield Row("arXiv:2206.15397", "quadratic in the width", "nothing", None, "no formula with constants")
    yield Row("arXiv:2602.02016", "steps up to 4.83 times faster", "nothing", None, "measured; no model of its kernels")


def joules() -> Iterable[Row]:
    """Energies."""
    pbit = "arXiv:2608.01615, second hand"
    yield number(pbit, "153.6 pJ a write, 7.09 fJ a sample: 21700 times", 21700, 153.6e-12 / 7.09e-15, 3)
    for source, says, why in (
        (pbit, "7.09 fJ, 1.69 pJ, 153.6 pJ", "simulated by the vendor, before silicon"),
        ("Accelergy, model.yaml", "best converters of the Murmann survey", "its envelope is taken over; data not seen"),
        ("Horowitz, second hand", "0.9 pJ and 3.7 pJ, 45 nm", "single operations; a chip at its peak is priced here"),
        ("arXiv:2312.08595", "4.7e15 operations a joule, 200 times today", "an estimate; no model of CMOS here"),
        ("ferrotherm", "4.5 W idle, below 5.5 % duty", "measured; no idle power of the device is known"),
    ):
        yield Row(source, says, "nothing", None, why)


def machines() -> Iterable[Row]:
    """Speeds of chips, benchmarks, quantum computers."""
    for source, says, peak, chip, why in (
        ("a page on H200", "1.97e15 flop/s, dense", 1.97e15, H200, "the sparse peak: two zeros in every four"),
        ("statistics sites", "TPU v3, 420 TF a chip", 420e12, TPU_V3, "a board of four chips"),
    ):
        times = peak / float(chip.bf16)
        yield Row(source, says, f"{times:.2g} times {chip.bf16.name}", abs(times - 1) < 0.1, why)
    for source, says, why in (
        ("slides by D. Kothe, second hand", "50 from hardware, 60 and more by algorithms", "measured by others"),
        ("public articles", "40 against 15 min, 3.8 against 1.7 ms on GPU and TPU", "no source found"),
        ("HPL on H100", "55 to 59 TF", "measured in FP64; fractions of FP32 peaks are assumed here"),
        ("arXiv:2410.12211", "time constants of 1 us, ms and ns", "orders of magnitude, taken over"),
        ("2018 review, second hand", "arrays of 1024 to 2048 a side", "taken over"),
        ("arXiv:0811.3171, 1010.4458, 1511.02306", "orders of quantum solvers", "recalled; no derivation here"),
        ("arXiv:2111.08152", "alpha 2305 proven, 1.84 measured", "second hand; the second constant was not found"),
        ("arXiv:2305.11352", "explicit constants", "the number was not found"),
        ("arXiv:2011.04149", "170 us a Toffoli; 100 days, 14 s", "recalled and second hand; no model of factories"),
        ("Webber et al.", "317e6 qubits for an hour, 13e6 for a day", "no model of error correction"),
        ("arXiv:1405.4980", "rates of descent", "recalled; no derivation here"),
    ):
        yield Row(source, says, "nothing", None, why)


def rows() -> list[Row]:
    """All of them."""
    parts = (routines, iterations, natural_gradients, primitives, layers, joules, machines)
    return [row for part in parts for row in part()]


def tables(smoke: bool) -> list[Table]:
    found = rows()
    verdicts = [row.verdict for row in found]
    return [
        Table(
            "Which rows of published tables do the models give again?",
            ("source", "published", "found here", "verdict", "why"),
            tuple((r.source, r.says, r.found, r.verdict, r.why or "agrees") for r in found),
            (
                "Reproduced: computed here, and equal in all digits or terms that were published. Not reproduced: "
                "computed, and different. Not reproducible: nothing to compute with, or taken over as it was read.",
                "; ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)),
                "Multiplications and additions count one each. Claims in words are judged in "
                "gradient_descent_hardware.py.",
            ),
        )
    ]


if __name__ == "__main__":
    run(__doc__, tables)
