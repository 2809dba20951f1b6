"""Dense linear algebra by factorisation: exact counts of the routines of LAPACK, and what is built of them.

Counts are in real arithmetic, for the textbook form of each routine; blocked codes do the same operations in another
order.
"""

from dataclasses import replace
from typing import Any

import sympy as sp

from thermolinalg.complexity.model import CostModel, Counts, Kind, Oracle, Source, Status
from thermolinalg.complexity.symbols import c_eigh, c_lyapunov, c_svd, k, m, n, norm1

LAPACK = Source("LAPACK Working Note 41, by way of opcounts.txt of mrocklin/opcounts and flops.h of MAGMA", Status.READ)
DERIVED = Source("sum over the loops of the textbook algorithm", Status.DERIVED)
RECALLED = Source("Golub and Van Loan, Matrix Computations", Status.RECALLED)
BACKWARD_STABLE = "relative error of about kappa times the rounding unit"
ROUNDING = "exact but for rounding"

_R = sp.Rational


def _routine(
    name: str,
    cost: sp.Expr,
    memory: sp.Expr,
    *,
    error: str = BACKWARD_STABLE,
    source: Source | tuple[Source, ...] = LAPACK,
    kind: Kind = Kind.EXACT,
    **rest: Any,
) -> CostModel:
    return CostModel(name, cost, Counts.FLOPS, kind, error, Oracle.ENTRIES, source, memory, **rest)


GEMM = _routine("GEMM", 2 * m * k * n, m * k + k * n + m * n, error=ROUNDING, notes="product of m x k and k x n")
SYRK = _routine("SYRK", k * n * (n + 1), n * k + n**2, error=ROUNDING, notes="one triangle; n x k times its transpose")
GEMV = _routine("GEMV", 2 * m * n, m * n + m + n, error=ROUNDING, notes="adds to a vector that is there")
SYMV = _routine("SYMV", 2 * n**2, n**2 + 2 * n, error=ROUNDING)

TRSV = _routine("TRSV", n**2, n**2 + n, source=(LAPACK, DERIVED))
TRSM = _routine("TRSM", k * n**2, n**2 + n * k, source=(LAPACK, DERIVED), notes="k right-hand sides, from the left")
TRTRI = _routine("TRTRI", n**3 / 3 + 2 * n / 3, n**2)

POTRF = _routine(
    "POTRF", n**3 / 3 + n**2 / 2 + n / 6, n**2, source=(LAPACK, DERIVED), notes="Cholesky; includes n roots"
)
POTRS = _routine("POTRS", 2 * k * n**2, n**2 + n * k, source=(LAPACK, DERIVED), notes="k right-hand sides")
POTRI = _routine("POTRI", 2 * n**3 / 3 + n**2 / 2 + 5 * n / 6, n**2, notes="inverse from the Cholesky factor")

GETRF = _routine(
    "GETRF",
    m * n**2 - n**3 / 3 - n**2 / 2 + 5 * n / 6,
    m * n,
    source=(LAPACK, DERIVED),
    notes="LU; one reciprocal for each pivot, comparisons not counted",
    valid=(sp.Ge(m, n),),
)
GETRS = _routine("GETRS", k * (2 * n**2 - n), n**2 + n * k, source=(LAPACK, DERIVED), notes="k right-hand sides")
GETRI = _routine("GETRI", 4 * n**3 / 3 - n**2 + 5 * n / 3, n**2, notes="inverse from the LU factors")

SYTRF = _routine("SYTRF", n**3 / 3 + n**2 / 2 + 19 * n / 6, n**2, notes="symmetric indefinite, pivoted")
SYTRI = _routine("SYTRI", 2 * n**3 / 3 + n / 3, n**2)
SYTRS = _routine("SYTRS", 2 * k * n**2, n**2 + n * k, notes="k right-hand sides")

GEQRF = _routine(
    "GEQRF", 2 * m * n**2 - 2 * n**3 / 3 + m * n + n**2 + 14 * n / 3, m * n, valid=(sp.Ge(m, n),), notes="QR"
)
ORGQR = _routine(
    "ORGQR",
    4 * m * n * k - 2 * (m + n) * k**2 + 4 * k**3 / 3 + 3 * n * k - m * k - k**2 - 4 * k / 3,
    m * n,
    valid=(sp.Ge(m, n), sp.Ge(n, k)),
    notes="forms Q, m x n, of k reflectors",
)
GEHRD = _routine("GEHRD", 10 * n**3 / 3 - n**2 / 2 - 11 * n / 6 - 21, n**2, valid=(sp.Ge(n, 3),), notes="Hessenberg")
GEBRD = _routine(
    "GEBRD",
    4 * m * n**2 - 4 * n**3 / 3 + 3 * n**2 - m * n + 25 * n / 3,
    m * n,
    valid=(sp.Ge(m, n),),
    notes="bidiagonal form",
)
SYTRD = _routine(
    "SYTRD",
    4 * n**3 / 3 + 7 * n**2 / 2 - 17 * n / 6 - 19,
    n**2,
    valid=(sp.Ge(n, 3),),
    notes="tridiagonal form; opcounts.txt prints 3 n^2 as its total, but its columns, and flops.h, add up to 7 n^2/2",
)

SYEVD = _routine(
    "SYEVD",
    c_eigh * n**3,
    2 * n**2,
    kind=Kind.MODEL,
    source=RECALLED,
    notes="c_eigh about 14/3 by divide and conquer, 9 by symmetric QR, 4/3 for eigenvalues alone",
)
GESDD = _routine("GESDD", c_svd * n**3, 3 * n**2, kind=Kind.MODEL, source=RECALLED, notes="square, all vectors")
BARTELS_STEWART = _routine(
    "Bartels-Stewart",
    c_lyapunov * n**3,
    4 * n**2,
    kind=Kind.MODEL,
    source=RECALLED,
    notes="Lyapunov equation: real Schur form, about 25 n^3, substitution and transforms",
)
EXPM = _routine(
    "expm",
    2 * (6 + sp.Max(0, sp.ceiling(sp.log(norm1 / _R(537, 100), 2)))) * n**3 + 8 * n**3 / 3,
    6 * n**2,
    kind=Kind.MODEL,
    source=RECALLED,
    error="about the rounding unit for normal matrices",
    notes="Pade 13 with scaling and squaring; terms of order n^2 are left out",
)

# The second routine works on the factor that the first one left in the place of the matrix.
CHOLESKY_SOLVE = replace(POTRF + POTRS, memory=POTRS.memory)
LU_SOLVE = replace(GETRF.where({m: n}) + GETRS, memory=GETRS.memory)
CHOLESKY_INVERSE = replace(POTRF + POTRI, memory=POTRI.memory)
LU_INVERSE = replace(GETRF.where({m: n}) + GETRI, memory=GETRI.memory)
CHOLESKY_LOGDET = _routine(
    "log determinant",
    n**3 / 3 + n**2 / 2 + n / 6 + 2 * n,
    n**2,
    source=DERIVED,
    notes="POTRF, then n logarithms that count one each, n - 1 additions and a doubling",
)
CHOLESKY_SAMPLE = _routine(
    "Gaussian samples",
    n**3 / 3 + n**2 / 2 + n / 6 + k * (n**2 + n),
    n**2 + n * k,
    source=DERIVED,
    error="independent, law exact but for rounding",
    notes="k draws from N(x, A^-1), x known; POTRF, one TRSV and a sum for each draw; random bits are not counted",
)
