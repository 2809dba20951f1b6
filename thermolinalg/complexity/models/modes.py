"""Work of the laws that the simulation draws from, mode by mode: overdamped, real, of one run.

Each count follows the formulas of the laws as they are evaluated: Horner's rule for a series, both sides of a choice.
Nothing is fitted to a traced program; the tests hold the two against each other.
"""

from dataclasses import dataclass, field

import sympy as sp

from thermolinalg.complexity.symbols import c_gamma, d


@dataclass(frozen=True)
class Work:
    """Operations, and values of elementary and special functions, which are no operations.

    Attributes
    ----------
    flops, functions : expression or int
    """

    flops: sp.Expr | int = 0
    functions: sp.Expr | int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.functions + other.functions)

    def __mul__(self, times: sp.Expr | int) -> "Work":
        return Work(self.flops * times, self.functions * times)


@dataclass(frozen=True, eq=False)
class Piece:
    """A quantity of a law: its work for each mode and once in all, and the quantities that it is made from."""

    each: Work = field(default_factory=Work)
    once: Work = field(default_factory=Work)
    needs: tuple["Piece", ...] = ()


def law(*wanted: Piece) -> Work:
    """Work of some quantities of one law and of all that they need, each once."""
    found: dict[Piece, None] = {}
    left = list(wanted)
    while left:
        piece = left.pop()
        if piece not in found:
            found[piece] = None
            left += piece.needs
    total = Work()
    for piece in found:
        total += piece.each * d + piece.once
    return total


def _series(terms: int) -> Work:
    return Work(2 * terms)


def normals(count: sp.Expr | int) -> Work:
    """Normal numbers by inversion: to the unit interval (1), to (-1, 1) by a factor and a shift (2), and scaled (1)."""
    return Work(4 * count + 1, count)


def products(rows: sp.Expr | int, inner: sp.Expr | int, columns: sp.Expr | int) -> Work:
    """A product of two matrices."""
    return Work(2 * rows * inner * columns)


# Elementary functions of a relaxing mode. Each compares |z| with 1 and computes the series and the closed form.
_SPLIT = Work(1)
PHI1 = _SPLIT + _series(20) + Work(3, 1)
"""Mean of a decay over a window: -expm1(-z)/z."""
PSI = _SPLIT + _series(20) + Work(5, 1)
"""Variance of a stationary average: 2/z (1 + expm1(-z)/z)."""
CHI = _SPLIT + _series(27) + Work(8, 2)
"""Variance of an average from a point: (2 + (4 expm1(-z) - expm1(-2z))/z)/z/z."""
REMAINDER = _SPLIT + _series(9) + Work(4, 1) + Work(9, 2)
"""What separates sums from integrals: the series in z^2 times 2 exp(-z), and (-expm1(-2z) - 2z exp(-z))/z/z/z."""
SAMPLED_PHI1 = PHI1 * 2 + Work(2)
"""phi1(n a)/phi1(a)."""
SAMPLED_PSI = PSI + REMAINDER + PHI1 + Work(8, 1)
"""(exp(-a) psi(n a) + a remainder(a)/n)/phi1(a)^2."""

# A continuous average. Names are those of the closed forms.
_TEMPERATURE, _END = Piece(once=Work(1)), Piece(once=Work(1))
_DECAYED = Piece(Work(2, 1))
_REACH = Piece(Work(1))
_REMAINING = Piece(PHI1, needs=(_REACH,))
_RISEN = Piece(PSI + Work(2), needs=(_REACH,))
_SPREAD = Piece(CHI + Work(1), needs=(_REACH,))
_OVERLAP = Piece(PHI1 + Work(3), Work(4), needs=(_REMAINING,))
_SETTLED = Piece(PHI1 + Work(3), Work(1))
_VARIANCES = PHI1 + Work(4 + 1 + 3)  # of the average, of both together, of the end
FORCE = Piece(PHI1 * 2 + Work(6), needs=(_DECAYED, _RISEN, _END))
"""Responses of average and end to a force."""
START = Piece(Work(3, 1), needs=(_DECAYED, _REMAINING, _END))
"""What average and end keep of the start."""
COVARIANCE = Piece(_VARIANCES, Work(2), needs=(_TEMPERATURE, _END, _REMAINING, _SPREAD, _OVERLAP, _SETTLED))
"""Variances and covariance of average and end."""

# A mean over samples.
_STEP = Piece(once=Work(1))
_SPACING = Piece(Work(1), needs=(_STEP,))
_ONE = Piece(PHI1, needs=(_SPACING,))
_KEPT = Piece(SAMPLED_PHI1, needs=(_SPACING,))
_SCATTER = Piece(CHI + PHI1 + REMAINDER + Work(10, 1) + Work(3), needs=(_ONE,))
_ELAPSED = Piece(once=Work(4), needs=(_STEP,))
_SHARED = Piece(PHI1 + Work(5, 1), needs=(_KEPT, _ELAPSED))
SAMPLED_START = Piece(Work(3, 1), needs=(_DECAYED, _KEPT, _END))
"""What a mean over samples, and the end, keep of the start."""
SAMPLED_COVARIANCE = Piece(_VARIANCES, Work(2), needs=(_TEMPERATURE, _END, _SCATTER, _SHARED, _SETTLED))
"""Variances and covariance of a mean over samples and the end."""

FACTOR_2 = Work(8) * d
"""Cholesky factors of the covariances of two numbers, mode by mode: two roots, a quotient, and differences from 0."""
FACTOR_1 = Work(2) * d
"""Roots of variances, less a sum over nothing."""

# Second moments, which are read from samples.
SAMPLE_OVERLAP = (SAMPLED_PSI + Work(6)) * d**2
"""Variance of the average of a product of two modes, for every pair: the argument takes three, weights three."""
SHORTFALL = (SAMPLED_PHI1 + Work(10, 1)) * d
"""What the variance of each mode lacks: the argument takes three, weights three, the decay and the sum four."""


def bartlett() -> Work:
    """Triangular factor of a sum of outer products: normals below a diagonal of roots of gamma variables."""
    return normals(d**2) + Work(d**2 + 4 * d + c_gamma * d)
