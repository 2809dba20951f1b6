"""Counting rules of factorisations and triangular solves, as LAPACK spends them."""

import sympy as sp

from thermolinalg.complexity.rules_base import Count, Equation, Rule, Value, product, weighted

c_eigh, c_svd, c_eig, c_schur = sp.symbols("c_eigh c_svd c_eig c_schur", positive=True)
"""Operations of an iterative decomposition, by its larger size times the square of the smaller."""

_HALF, _THIRD, _SIXTH = sp.Rational(1, 2), sp.Rational(1, 3), sp.Rational(1, 6)


def cholesky(n: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Multiplications (with divisions and roots) and additions of a Cholesky factor; so for the functions below."""
    return n * (n**2 * _SIXTH + n * _HALF + _THIRD), n * (n**2 - 1) * _SIXTH


def lu(m: sp.Expr, n: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    k = sp.Min(m, n)
    updates = m * n * k - (m + n) * k * (k + 1) * _HALF + k * (k + 1) * (2 * k + 1) * _SIXTH
    return updates + m * k - k * (k + 1) * _HALF + k, updates


def triangular_solve(n: sp.Expr, columns: sp.Expr, *, unit: bool = False) -> tuple[sp.Expr, sp.Expr]:
    return columns * n * (n + (-1 if unit else 1)) * _HALF, columns * n * (n - 1) * _HALF


def householder_factor(m: sp.Expr, n: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    tall = (
        n * (n * (_HALF - n * _THIRD + m) + m + sp.Rational(23, 6)),
        n * (n * (_HALF - n * _THIRD + m) + sp.Rational(5, 6)),
    )
    wide = (
        m * (m * (-_HALF - m * _THIRD + n) + 2 * n + sp.Rational(23, 6)),
        m * (m * (-_HALF - m * _THIRD + n) + n + sp.Rational(5, 6)),
    )
    return _either(m, n, tall[0], wide[0]), _either(m, n, tall[1], wide[1])


def householder_product(m: sp.Expr, n: sp.Expr, k: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    shared = sp.Rational(2, 3) * k - (m + n)
    return (
        k * (2 * m * n + 2 * n - sp.Rational(5, 3) + k * (shared - 1)),
        k * (2 * m * n + n - m + _THIRD + k * shared),
    )


def hessenberg(n: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    return (
        n * (n * (sp.Rational(5, 3) * n + _HALF) - sp.Rational(7, 6)) - 13,
        n * (n * (sp.Rational(5, 3) * n - 1) - sp.Rational(2, 3)) - 8,
    )


def tridiagonal(n: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    return (
        n * (n * (sp.Rational(2, 3) * n + sp.Rational(5, 2)) - _SIXTH) - 15,
        n * (n * (sp.Rational(2, 3) * n + 1) - sp.Rational(8, 3)) - 4,
    )


def _either(m: sp.Expr, n: sp.Expr, tall: sp.Expr, wide: sp.Expr) -> sp.Expr:
    order = sp.Ge(m, n)
    if m == n or order == sp.true:
        return tall
    return wide if order == sp.false else sp.Piecewise((tall, order), (wide, True))


def _matrix(value: Value) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Matrices in the batch, rows, columns."""
    return product(value.shape[:-2]), value.shape[-2], value.shape[-1]


def _cholesky(equation: Equation) -> Count:
    batch, n, _ = _matrix(equation.inputs[0])
    return weighted(equation.inputs[0].dtype, *cholesky(n)) * batch


def _lu(equation: Equation) -> Count:
    batch, m, n = _matrix(equation.inputs[0])
    k = sp.Min(m, n)
    searched = Count(comparisons=m * k - k * (k + 1) * _HALF)  # for the pivots
    return (weighted(equation.inputs[0].dtype, *lu(m, n)) + searched) * batch


def _triangular_solve(equation: Equation) -> Count:
    (batch, n, _), right = _matrix(equation.inputs[0]), equation.inputs[1]
    columns = right.shape[-1 if equation.params["left_side"] else -2]
    unit = bool(equation.params["unit_diagonal"])
    return weighted(right.dtype, *triangular_solve(n, columns, unit=unit)) * batch


def _qr(equation: Equation) -> Count:
    batch, m, n = _matrix(equation.inputs[0])
    formed = m if equation.params.get("full_matrices") else sp.Min(m, n)
    dtype = equation.inputs[0].dtype
    factor = weighted(dtype, *householder_factor(m, n))
    return (factor + weighted(dtype, *householder_product(m, formed, sp.Min(m, n)))) * batch


def _householder_factor(equation: Equation) -> Count:
    batch, m, n = _matrix(equation.inputs[0])
    return weighted(equation.inputs[0].dtype, *householder_factor(m, n)) * batch


def _householder_product(equation: Equation) -> Count:
    batch, m, n = _matrix(equation.inputs[0])
    reflectors = equation.inputs[1].shape[-1]
    return weighted(equation.inputs[0].dtype, *householder_product(m, n, reflectors)) * batch


def _hessenberg(equation: Equation) -> Count:
    batch, n, _ = _matrix(equation.inputs[0])
    return weighted(equation.inputs[0].dtype, *hessenberg(n)) * batch


def _tridiagonal(equation: Equation) -> Count:
    batch, n, _ = _matrix(equation.inputs[0])
    return weighted(equation.inputs[0].dtype, *tridiagonal(n)) * batch


def _tridiagonal_solve(equation: Equation) -> Count:
    """Elimination without pivots, and substitution back."""
    diagonal, right = equation.inputs[1], equation.inputs[-1]
    batch, n = product(diagonal.shape[:-1]), diagonal.shape[-1]
    columns = right.shape[-1]
    multiplications = 2 * (n - 1) + columns * (3 * n - 2)
    return weighted(right.dtype, multiplications, (n - 1) + columns * 2 * (n - 1)) * batch


def _iterative(constant: sp.Symbol) -> Rule:
    def rule(equation: Equation) -> Count:
        batch, m, n = _matrix(equation.inputs[0])
        work = n**3 if m == n else sp.Max(m, n) * sp.Min(m, n) ** 2
        return Count(flops=constant * batch * work)

    return rule


LINALG: dict[str, Rule] = {
    "cholesky": _cholesky,
    "lu": _lu,
    "triangular_solve": _triangular_solve,
    "qr": _qr,
    "geqrf": _householder_factor,
    "householder_product": _householder_product,
    "hessenberg": _hessenberg,
    "tridiagonal": _tridiagonal,
    "tridiagonal_solve": _tridiagonal_solve,
    "eigh": _iterative(c_eigh),
    "svd": _iterative(c_svd),
    "eig": _iterative(c_eig),
    "schur": _iterative(c_schur),
    "lu_pivots_to_permutation": lambda equation: Count(),
}
"""Rules of factorisations and solves."""

LINALG_NOTES = {
    "eigh": "a model, c_eigh n^3: 4/3 without vectors, about 4.7 by divide and conquer, 9 by the symmetric QR algorithm"
    " (recalled from Golub and Van Loan; assumption)",
    "svd": "a model, c_svd max(m,n) min(m,n)^2: 20 to 22 with vectors (recalled; assumption)",
    "eig": "a model, c_eig n^3: no figure adopted",
    "schur": "a model, c_schur n^3: about 25 (recalled from Golub and Van Loan; assumption)",
    "tridiagonal_solve": "a model, elimination without pivots",
    "qr": "LAPACK Working Note 41, unblocked",
    "cholesky": "LAPACK Working Note 41",
    "lu": "LAPACK Working Note 41",
    "geqrf": "LAPACK Working Note 41, unblocked",
    "householder_product": "LAPACK Working Note 41, unblocked",
    "hessenberg": "LAPACK Working Note 41, unblocked",
    "tridiagonal": "LAPACK Working Note 41, unblocked",
}
"""Where the counts are from, and which of them are models."""
