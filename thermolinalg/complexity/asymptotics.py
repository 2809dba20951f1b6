"""How costs grow in several variables at once, large ones and small ones, logarithms included."""

from collections.abc import Iterable
from dataclasses import dataclass

import sympy as sp

_Power = tuple[sp.Rational, sp.Rational]
"""Exponents of a variable and of its logarithm, compared in this order."""

_Vector = tuple[_Power, ...]


@dataclass(frozen=True)
class Growth:
    """The monomials of a cost that no other one dominates; made by :func:`growth`.

    Attributes
    ----------
    terms : tuple of sympy expressions
        Without constant factors.
    large, small : tuple of symbols
        Variables that go to infinity and to zero, independently of each other.
    """

    terms: tuple[sp.Expr, ...]
    large: tuple[sp.Symbol, ...]
    small: tuple[sp.Symbol, ...] = ()

    def __str__(self) -> str:
        return f"O({' + '.join(map(sp.sstr, self.terms))})"


def leading_terms(expr: sp.Expr, large: Iterable[sp.Symbol], small: Iterable[sp.Symbol] = ()) -> tuple[sp.Expr, ...]:
    r"""Return the monomials of an expression that no other one dominates.

    .. math:: x^p \ln^q x \text{ dominates } x^{p'} \ln^{q'} x \iff (p, q) \ge (p', q')

    in the order of the dictionary, and a product dominates another one if it does so in every variable.

    Parameters
    ----------
    expr : sympy expression
        A sum of products of powers and logarithms of the variables. All symbols are taken as positive.
    large : iterable of symbols
        Those that go to infinity, independently.
    small : iterable of symbols
        Those that go to zero.

    Returns
    -------
    tuple of sympy expressions
        Without constant factors; other symbols count as constants.

    Raises
    ------
    ValueError
        If a variable stands in a sum inside a power or a logarithm, in an exponent, or in a function that has no
        order; or if the expression becomes negative.

    Notes
    -----
    This is an upper bound: negative terms are left out, and a maximum counts as a sum. It is not the shortest one:
    m n stays beside m^2 and n^2.

    Examples
    --------
    >>> n, kappa, eps = sp.symbols("n kappa epsilon", positive=True)
    >>> leading_terms(n * kappa**2 / eps**2 + n**2 * kappa + 7 * n**2, [n, kappa], [eps])
    (kappa*n**2, kappa**2*n/epsilon**2)
    >>> leading_terms(sp.sqrt(n + 1), [n])
    Traceback (most recent call last):
    ...
    ValueError: a sum inside a power: sqrt(n + 1) has no monomials; expand it, or bound it by one
    """
    large, small = _variables(large, small)
    top = _top(_vectors(expr, large, small))
    return tuple(sorted((_monomial(vector, large, small) for vector in top), key=sp.default_sort_key))


def growth(expr: sp.Expr, large: Iterable[sp.Symbol], small: Iterable[sp.Symbol] = ()) -> Growth:
    """Return how an expression grows, to be printed as O(...); see :func:`leading_terms`.

    Examples
    --------
    >>> n, kappa, eps = sp.symbols("n kappa epsilon", positive=True)
    >>> print(growth(sp.sqrt(kappa) / 2 * sp.log(2 / eps) * (2 * n**2 + 10 * n), [n, kappa], [eps]))
    O(sqrt(kappa)*n**2*log(1/epsilon))
    """
    large, small = _variables(large, small)
    return Growth(leading_terms(expr, large, small), large, small)


def dominates(upper: sp.Expr, lower: sp.Expr, large: Iterable[sp.Symbol], small: Iterable[sp.Symbol] = ()) -> bool:
    """Tell whether every leading monomial of one expression is dominated by one of another: lower = O(upper).

    Parameters
    ----------
    upper, lower : sympy expressions
    large, small : iterables of symbols
        As for :func:`leading_terms`.

    Returns
    -------
    bool
        False also where neither dominates the other, such as for m n^2 and m^2 n.

    Raises
    ------
    ValueError
        As :func:`leading_terms`.

    Notes
    -----
    Monomials are compared one with one: True is certain; False is not, since m^2 + n^2 exceeds m n.

    Examples
    --------
    >>> n, m = sp.symbols("n m", positive=True)
    >>> dominates(n**2, 100 * n * sp.log(n)**3, [n]), dominates(m * n**2, m**2 * n, [m, n])
    (True, False)
    """
    large, small = _variables(large, small)
    above, below = (_top(_vectors(expr, large, small)) for expr in (upper, lower))
    return all(any(_at_least(u, v) for u in above) for v in below)


def _variables(
    large: Iterable[sp.Symbol], small: Iterable[sp.Symbol]
) -> tuple[tuple[sp.Symbol, ...], tuple[sp.Symbol, ...]]:
    large, small = tuple(large), tuple(small)
    for symbol in (*large, *small):
        if not isinstance(symbol, sp.Symbol):
            raise ValueError(f"large and small must hold symbols, got {symbol!r}")
    both = sorted(map(str, set(large) & set(small)))
    if both:
        raise ValueError(f"{', '.join(both)} cannot be both large and small")
    if len(set(large)) + len(set(small)) < len(large) + len(small):
        raise ValueError("large and small must name each symbol once")
    if not large and not small:
        raise ValueError("give at least one variable in large or small")
    return large, small


def _vectors(expr: sp.Expr, large: tuple[sp.Symbol, ...], small: tuple[sp.Symbol, ...]) -> dict[_Vector, int]:
    """Exponents of each monomial, with its sign: all variables large, small ones by their reciprocals."""
    axes = [sp.Dummy(symbol.name, positive=True) for symbol in (*large, *small)]
    names = dict(zip(axes, (*large, *small), strict=True))
    upside = [*axes[: len(large)], *(1 / axis for axis in axes[len(large) :])]
    found = sp.sympify(expr).subs(dict(zip((*large, *small), upside, strict=True)), simultaneous=True)
    found = found.replace(sp.Max, lambda *parts: sp.Add(*map(_gains, parts)))
    found = sp.expand(sp.expand_log(sp.expand(found), force=True))
    vectors: dict[_Vector, sp.Expr] = {}
    for term in sp.Add.make_args(found):
        if term == 0:
            continue
        rest, vector = sp.Integer(1), dict.fromkeys(axes, (sp.Integer(0), sp.Integer(0)))
        for base, power in term.as_powers_dict().items():
            inner = base.args[0] if isinstance(base, sp.log) else base
            if inner in vector and power.is_Number:
                p, q = vector[inner]
                exponent = sp.nsimplify(power)
                vector[inner] = (p, q + exponent) if isinstance(base, sp.log) else (p + exponent, q)
            elif (base**power).free_symbols & set(axes):
                _refuse(base, power, names)
            else:
                rest *= base**power
        key = tuple(vector[axis] for axis in axes)
        vectors[key] = vectors.get(key, sp.Integer(0)) + rest
    return {key: _sign(rest) for key, rest in vectors.items() if rest != 0}


def _gains(part: sp.Expr) -> sp.Expr:
    """What adds to a part of a maximum: variables are large, so that their logarithms are positive."""
    terms = sp.Add.make_args(sp.expand(sp.expand_log(sp.expand(part), force=True)))
    return sp.Add(*(term for term in terms if not term.as_coeff_Mul()[0].is_negative))


def _sign(rest: sp.Expr) -> int:
    """Sign of a constant factor; positive unless it is known to be negative."""
    return -1 if sp.sympify(rest).is_negative else 1


def _refuse(base: sp.Expr, power: sp.Expr, names: dict[sp.Symbol, sp.Symbol]) -> None:
    shown = (base**power).subs(names)
    inner = base.args[0] if isinstance(base, sp.log) else base
    place = "a logarithm" if isinstance(base, sp.log) else "a power"
    if not power.is_Number:
        reason = f"a variable in an exponent: {shown} is not a monomial"
    elif isinstance(inner, sp.Add):
        reason = f"a sum inside {place}: {shown} has no monomials; expand it, or bound it by one"
    else:
        reason = f"no order for {inner.func.__name__}: {shown} is not a monomial"
    raise ValueError(reason)


def _top(vectors: dict[_Vector, int]) -> list[_Vector]:
    gains = [vector for vector, sign in vectors.items() if sign > 0]
    if not gains:
        raise ValueError("nothing grows: the expression is zero or negative")
    top = [v for v in gains if not any(u != v and _at_least(u, v) for u in gains)]
    # A loss that dominates a leading gain wins in the end. One that does not leaves an upper bound.
    if any(_at_least(loss, v) for loss, sign in vectors.items() if sign < 0 for v in top):
        raise ValueError("the expression becomes negative: a cost cannot")
    return top


def _at_least(u: _Vector, v: _Vector) -> bool:
    return all(a >= b for a, b in zip(u, v, strict=True))


def _monomial(vector: _Vector, large: tuple[sp.Symbol, ...], small: tuple[sp.Symbol, ...]) -> sp.Expr:
    up = [*large, *(1 / symbol for symbol in small)]
    # Unevaluated, since the logarithm of 1/x would turn into that of x with a sign.
    logs = [sp.log(x, evaluate=False) for x in up]
    return sp.Mul(*(x**p * log**q for x, log, (p, q) in zip(up, logs, vector, strict=True)))
