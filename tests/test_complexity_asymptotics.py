"""Leading terms in several variables: against numbers that grow, against limits, and what is refused."""

import itertools

import numpy as np
import pytest
import sympy as sp

from thermolinalg.complexity import dominates, growth, leading_terms
from thermolinalg.complexity.symbols import b, eps, kappa, m, n

K_FAC = 2 * b * m**2 + 2 * b * n**2 + m**3 / 3 + n**3 / 3 + 2 * m**2 * n + 2 * m * n**2 + 15 * m**2 / 2 + 2 * m * n
CASES = {
    "layer": (K_FAC, [m, n, b], [], {m**3, n**3, m**2 * n, m * n**2, b * m**2, b * n**2}),
    "mixed": (
        n * kappa**2 / eps**2 + n**2 * kappa + n**2,
        [n, kappa],
        [eps],
        {kappa * n**2, kappa**2 * n / eps**2},
    ),
    "cg": (sp.sqrt(kappa) / 2 * sp.log(2 / eps) * (2 * n**2 + 10 * n), [n, kappa], [eps], None),
    "logarithms": (
        n**2 * sp.log(n * kappa) + n**2 * kappa + n * sp.log(n) ** 3,
        [n, kappa],
        [],
        {kappa * n**2, n**2 * sp.log(n)},
    ),
    "powers of logarithms": (n * sp.log(2 / eps) ** 2 + sp.log(1 / eps) ** 3 + n * sp.log(n), [n], [eps], None),
    "quotients": (n**2 / sp.log(n) + n**2 / sp.sqrt(n) + n * kappa, [n, kappa], [], {n**2 / sp.log(n), n * kappa}),
    "maximum": (n * sp.Max(n - 1, sp.log(kappa / eps)), [n, kappa], [eps], None),
    "constants": (m * n**3 + m**2 * n, [n], [], {n**3}),
    "falling": (n + n / kappa + 1 / kappa, [n, kappa], [], {n}),
}


def along(expr, large, small, exponents, t):
    """An expression where variables go out as powers of t, from 2."""
    values = {x: 2 * t**p for x, p in zip((*large, *small), exponents, strict=True)}
    values |= {x: 1 / values[x] for x in small}
    others = dict.fromkeys(expr.free_symbols - set(values), 1.0)
    return float(expr.subs(values | others).evalf())


def ratios(expr, terms, large, small, starts=(0.0, 0.31, 1.0)):
    """The expression over its leading terms, far out along many directions, at two distances."""
    total = sp.Add(*terms)
    for exponents in itertools.product(starts, repeat=len(large) + len(small)):
        if not any(exponents):
            continue
        ends = ([along(x, large, small, exponents, t) for x in (expr, total)] for t in (1e20, 1e40))
        yield tuple(x / y for x, y in ends)


@pytest.mark.parametrize("case", CASES)
def test_leading_terms(case):
    expr, large, small, wanted = CASES[case]
    found = leading_terms(expr, large, small)
    if wanted is not None:
        assert set(found) == wanted
    # Along every direction, edges included, the expression stays within a constant of its leading terms.
    for near, far in ratios(expr, found, large, small, (0.01, 0.31, 1.0)):
        assert 1e-3 < far < 1e2, (near, far)
        assert far < 2 * near


@pytest.mark.parametrize("case", ["layer", "mixed", "logarithms", "quotients"])
def test_each_leading_term_is_needed(case):
    """Without any one of them the expression outgrows the rest along some direction."""
    expr, large, small, _ = CASES[case]
    found = leading_terms(expr, large, small)
    for left_out in found:
        rest = [term for term in found if term != left_out]
        starts = (0.0, 0.31, 1.0) if case != "layer" else (1e-9, 0.5, 1.0)
        grows = [far / near for near, far in ratios(expr, rest, large, small, starts)]
        # m^2 n lies between m^3 and n^3: it stays as a monomial, though the others together bound it.
        if not any(left_out == x for x in (m**2 * n, m * n**2)):
            assert max(grows) > 1.5, left_out


def test_printing():
    expr, large, small, _ = CASES["cg"]
    assert str(growth(expr, large, small)) == "O(sqrt(kappa)*n**2*log(1/epsilon))"
    assert str(growth(sp.Integer(7), [n])) == "O(1)"


def test_against_limits():
    """Second route, one variable: sympy's limits of the ratio are positive and finite."""
    for expr in (3 * n**2 + n * sp.log(n) ** 4, n**3 / 3 - n**2 / 2 + n / 6, sp.sqrt(n) * sp.log(5 * n) + 9):
        (term,) = leading_terms(expr, [n])
        assert sp.limit(expr / term, n, sp.oo) in (3, sp.Rational(1, 3), 1)


def test_dominates():
    rng = np.random.default_rng(0)
    powers = [sp.Integer(0), sp.Rational(1, 2), sp.Integer(1), sp.Integer(2)]
    for _ in range(60):
        u, v = ([tuple(rng.choice(4, 2)) for _ in range(3)] for _ in range(2))
        upper, lower = (sp.Add(*(n ** powers[p] * kappa ** powers[q] for p, q in w)) for w in (u, v))
        expected = all(any(p >= x and q >= y for p, q in u) for x, y in v)
        assert dominates(upper, lower, [n, kappa]) == expected
    assert dominates(n, 1e9 * sp.log(n) ** 50, [n])
    assert not dominates(sp.log(1 / eps), eps ** sp.Rational(-1, 100), [], [eps])


@pytest.mark.parametrize(
    ("expr", "reason"),
    [
        (sp.sqrt(n + 1), r"a sum inside a power: sqrt\(n \+ 1\)"),
        (sp.log(n + kappa), r"a sum inside a logarithm: log\(kappa \+ n\)"),
        (n * sp.log(2 * n) ** sp.Rational(1, 2), "a sum inside a power"),
        (1 / (n + kappa), "a sum inside a power"),
        (2**n, "a variable in an exponent"),
        (n**kappa, "a variable in an exponent"),
        (sp.Min(n, kappa), "no order for Min"),
        (sp.ceiling(n), "no order for ceiling"),
        (sp.log(sp.log(n)), r"no order for log: log\(log\(n\)\)"),
        (n - n**2, "becomes negative"),
        (n**2 - sp.log(kappa) * n**2, "becomes negative"),
        (sp.Integer(0), "nothing grows"),
        (-n, "nothing grows"),
    ],
)
def test_refused(expr, reason):
    with pytest.raises(ValueError, match=reason):
        leading_terms(expr, [n, kappa])


def test_a_loss_that_does_not_win_leaves_an_upper_bound():
    assert leading_terms(m * n**2 - n**3 / 3 + n, [m, n]) == (m * n**2,)
    assert leading_terms((n + 1) ** 2 - n**2, [n]) == (n,)


@pytest.mark.parametrize(
    ("large", "small", "reason"),
    [([n], [n], "both large and small"), ([], [], "at least one"), ([n, n], [], "once"), (["n"], [], "symbols")],
)
def test_refused_variables(large, small, reason):
    with pytest.raises(ValueError, match=reason):
        growth(n, large, small)
