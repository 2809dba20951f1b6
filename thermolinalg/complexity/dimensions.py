"""Dimensional analysis: the unit of an expression, or the reason why it has none."""

import sympy as sp

from thermolinalg.complexity.symbols import GLOSSARY, one

_EXTREME = (sp.Max, sp.Min)
_ROUNDED = (sp.ceiling, sp.floor, sp.Abs)
_PURE = (sp.log, sp.exp)


def unit_of(expr: sp.Expr) -> sp.Expr:
    r"""Return the unit of an expression in symbols of the glossary.

    .. math:: [xy] = [x][y], \qquad [x^p] = [x]^p, \qquad [x + y] = [x] = [y]

    Parameters
    ----------
    expr : sympy expression

    Returns
    -------
    sympy expression
        A product of powers of base units; 1 for a pure number.

    Raises
    ------
    ValueError
        If a symbol has no entry in the glossary, terms of a sum differ in unit, or an exponent or an argument of a
        function has one.

    Notes
    -----
    Counts (operations, samples, numbers, queries) have no unit here; :class:`Counts` keeps those apart.

    Examples
    --------
    >>> from thermolinalg.complexity.symbols import B_L, d, kappa, tau, w
    >>> unit_of(d**2 * w / B_L + kappa * tau)
    second
    """
    expr = sp.sympify(expr)
    if expr.is_number:
        return one
    if isinstance(expr, sp.Symbol):
        if expr not in GLOSSARY:
            raise ValueError(f"{expr} has no entry in the glossary: use a symbol of complexity.symbols")
        return GLOSSARY[expr].unit
    if isinstance(expr, (sp.Add, *_EXTREME)):
        units = {unit_of(part) for part in expr.args}
        if len(units) > 1:
            raise ValueError(f"terms of different units, {', '.join(sorted(map(str, units)))}, in {expr}")
        return units.pop()
    if isinstance(expr, sp.Mul):
        return sp.Mul(*map(unit_of, expr.args))
    if isinstance(expr, sp.Pow):
        _check_pure(expr.exp, expr)
        base = unit_of(expr.base)
        if base != one and not expr.exp.is_number:
            raise ValueError(f"a quantity in {base} to a power that is not a number, in {expr}")
        return base**expr.exp
    if isinstance(expr, _ROUNDED):
        return unit_of(expr.args[0])
    if isinstance(expr, _PURE):
        _check_pure(expr.args[0], expr)
        return one
    raise ValueError(f"no rule for the unit of {expr.func.__name__}, in {expr}")


def _check_pure(part: sp.Expr, whole: sp.Expr) -> None:
    unit = unit_of(part)
    if unit != one:
        raise ValueError(f"{part} must be a pure number but is in {unit}, in {whole}")
