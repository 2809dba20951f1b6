"""Cost of any JAX function as a polynomial in its sizes, from the program that JAX traces."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import comb
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import sympy as sp
from jax import export

from thermolinalg.complexity.memory import peak_bytes
from thermolinalg.complexity.rules_base import CONVENTION, KINDS, Count, Rule
from thermolinalg.complexity.rules_programs import RULES, Walk, total, walk, whole


class NotPolynomialError(ValueError):
    """A cost found at several sizes is no polynomial of low degree."""


@dataclass(frozen=True)
class Shaped:
    """An array by its shape, in numbers and SymPy symbols, and its type.

    Attributes
    ----------
    shape : tuple of int or expression
        Polynomials in symbols that stand for integers of one or more.
    dtype : data type, default float32
    """

    shape: tuple[Any, ...]
    dtype: Any = np.float32


@dataclass(frozen=True)
class Traced:
    """Cost of a function, in its sizes.

    Attributes
    ----------
    count : Count
        All operations.
    bytes : expression
        Read and written if every equation takes its operands from memory and returns its results to it: an upper bound
        for a compiler that fuses.
    peak : expression
        Most bytes alive at one time, in the order of the trace; work space inside routines is not counted.
    by_primitive : mapping from str to Count
        Shares of the primitives; ``cond`` holds branches of which none is always the dearest.
    notes : mapping from str to str
        Of what is a model or a bound, and why. All else is exact.
    method : str
        How sizes became symbols.
    """

    count: Count
    bytes: sp.Expr
    peak: sp.Expr
    by_primitive: Mapping[str, Count] = field(repr=False)
    notes: Mapping[str, str]
    method: str

    @property
    def flops(self) -> sp.Expr:
        """Arithmetic on floating-point numbers."""
        return self.count.flops

    @property
    def transcendentals(self) -> sp.Expr:
        """Evaluations of elementary and special functions."""
        return self.count.transcendentals

    def __str__(self) -> str:
        lines = [f"{kind}: {getattr(self.count, kind)}" for kind in KINDS]
        lines += [f"bytes moved, unfused: {self.bytes}", f"peak bytes: {self.peak}"]
        lines += [f"{name}: {note}" for name, note in self.notes.items()]
        return "\n".join([*lines, f"sizes: {self.method}", CONVENTION])


def trace(
    function: Callable[..., Any],
    *arguments: Any,
    rules: Mapping[str, Rule] | None = None,
    trips: Sequence[Any] = (),
) -> Traced:
    r"""Return what a JAX function costs, as formulas in the sizes of its arguments.

    The program that JAX traces is walked: each primitive by its rule, an inner program as often as it runs,

    .. math:: \mathrm{flops}(p) = \sum_{e \in p} \mathrm{flops}(e) + \sum_{q \subset p} \mathrm{trips}(q)\,
        \mathrm{flops}(q),

    a branch by the dearest of its programs.

    Parameters
    ----------
    function : callable
        Any function that JAX can trace.
    *arguments : Shaped, array, or trees of these
        Those with symbols in their shape make the sizes; arrays count as their shapes.
    rules : mapping from str to callable, optional
        Further rules by name of primitive, or others in place of those in ``RULES``: ``rule(equation)`` returns a
        :class:`Count`.
    trips : sequence of int or expression
        Steps of the loops that end by a condition on values, in the order of the program. One with a limit on its steps
        besides takes that as an upper bound if nothing is given.

    Returns
    -------
    Traced

    Raises
    ------
    UnknownPrimitiveError
        If no rule counts a primitive: nothing counts as zero by default.
    UnknownTripCountError
        If a loop ends by a condition on values and nothing is said about its steps.
    ValueError
        If `trips` has entries that no loop takes, or a size is no integer polynomial.
    NotPolynomialError
        If symbolic shapes fail and costs at several sizes are no polynomial.

    Notes
    -----
    Shapes are symbols of ``jax.export`` where the function allows, held against one trace with numbers. Where it does
    not (it compares sizes, or makes lists of them), or JAX does other things with symbols than with numbers (as
    ``jax.numpy.arange`` does), it is traced at several sizes, from 24 up, and the polynomial through these costs, exact
    in rationals, is verified at three further sizes: that is strong evidence and no proof, and small sizes may cost
    otherwise. `method` says which. What XLA fuses, hoists or drops later is not seen here. Multiplications by zeros, as
    with masks or with triangles, are counted. Work of which no result is used is not, and of programs for several
    platforms the one that JAX runs on counts.

    Examples
    --------
    >>> import jax.numpy as jnp, sympy as sp
    >>> m, n, b = sp.symbols("m n b", positive=True, integer=True)
    >>> trace(lambda A, B: A @ B, Shaped((m, n)), Shaped((n, b))).flops
    2*b*m*n
    >>> cost = trace(jnp.linalg.cholesky, Shaped((n, n)))
    >>> cost.flops, cost.by_primitive["cholesky"].flops
    (n**3/3 + 5*n**2/2 + n/6, n**3/3 + n**2/2 + n/6)
    """
    leaves, tree = jax.tree.flatten(arguments)
    symbols = _symbols(leaves)
    table = {**RULES, **(rules or {})}

    def program(sizes: Mapping[sp.Symbol, Any]) -> Any:
        specs = [_spec(leaf, sizes) for leaf in leaves]
        return jax.make_jaxpr(lambda *inputs: function(*jax.tree.unflatten(tree, inputs)))(*specs).jaxpr

    if not symbols:
        return _cost(program({}), {}, table, trips, "numbers")
    names = [f"size{place}" for place in range(len(symbols))]
    scope = export.symbolic_shape(", ".join(names))
    try:
        jaxpr = program(dict(zip(symbols, scope, strict=True)))
    except Exception as refusal:  # whatever the function does with a size that is no number
        return _interpolated(program, symbols, table, trips, f"{type(refusal).__name__} with symbols")
    cost = _cost(jaxpr, dict(zip(names, symbols, strict=True)), table, trips, "symbols of jax.export")
    if _holds(cost, program, symbols, table, trips):
        return cost
    return _interpolated(program, symbols, table, trips, "other operations with symbols")


def _symbols(leaves: list[Any]) -> list[sp.Symbol]:
    shapes = [sp.sympify(size) for leaf in leaves if isinstance(leaf, Shaped) for size in leaf.shape]
    for size in shapes:
        symbols = size.free_symbols
        whole_numbers = size.is_polynomial(*symbols) and all(
            factor.is_Integer for factor in (sp.Poly(size, *symbols).coeffs() if symbols else [size])
        )
        if not whole_numbers:
            raise ValueError(f"a size of Shaped is {size}; give an integer, a symbol, or sums and products of these")
    return sorted(set().union(*(size.free_symbols for size in shapes)), key=lambda symbol: symbol.name)


def _spec(leaf: Any, sizes: Mapping[sp.Symbol, Any]) -> Any:
    """A leaf as JAX takes it, with symbols replaced by sizes."""
    if not isinstance(leaf, Shaped):
        return leaf
    return jax.ShapeDtypeStruct(tuple(_evaluated(sp.sympify(size), sizes) for size in leaf.shape), leaf.dtype)


def _evaluated(size: sp.Expr, sizes: Mapping[sp.Symbol, Any]) -> Any:
    if not size.free_symbols:
        return int(size)
    result: Any = 0
    variables = sorted(size.free_symbols, key=lambda symbol: symbol.name)
    for powers, factor in sp.Poly(size, *variables).terms():
        term: Any = int(factor)
        for variable, power in zip(variables, powers, strict=True):
            for _ in range(power):
                term = term * sizes[variable]
        result = result + term
    return result


def _cost(
    jaxpr: Any, sizes: Mapping[str, sp.Symbol], rules: Mapping[str, Rule], trips: Sequence[Any], how: str
) -> Traced:
    state = Walk(rules, sizes, iter(trips))
    tally = walk(whole(jaxpr), state)
    if left := list(state.trips):
        raise ValueError(f"trips has {len(trips)} entries for {len(trips) - len(left)} loops that end by values")
    shares = tally.totals()
    return Traced(
        total(shares.values()).expand(),
        sp.expand(sp.Add(*tally.bytes)),
        peak_bytes(jaxpr, sizes, rules),
        MappingProxyType(shares),
        MappingProxyType(state.notes),
        how,
    )


_DEGREES = range(3, 7)
_FIRST = 24


def _at(trips: Sequence[Any], sizes: Mapping[sp.Symbol, int]) -> list[sp.Expr]:
    return [sp.sympify(trip).subs(sizes) for trip in trips]


def _holds(
    cost: Traced,
    program: Callable[[Any], Any],
    symbols: list[sp.Symbol],
    rules: Mapping[str, Rule],
    trips: Sequence[Any],
) -> bool:
    """Whether formulas are those of numbers at one place: JAX traces some functions otherwise if sizes are symbols."""
    sizes = {symbol: _FIRST + 9 * place for place, symbol in enumerate(symbols)}
    try:
        jaxpr = program(sizes)
    except Exception:  # these numbers are none that the function takes
        return True
    found = _cost(jaxpr, {}, rules, _at(trips, sizes), "numbers")
    pairs = (cost.flops, found.flops), (cost.transcendentals, found.transcendentals)
    gaps = (sp.expand(ours.subs(sizes) - theirs) for ours, theirs in pairs)
    return all(gap == 0 or gap.equals(0) for gap in gaps)  # logarithms may look different and be equal


def _interpolated(
    program: Callable[[Any], Any], symbols: list[sp.Symbol], rules: Mapping[str, Rule], trips: Sequence[Any], why: str
) -> Traced:
    """The polynomials through costs at sizes on a lattice, verified at three sizes off it."""
    bases = [_FIRST + 9 * place for place in range(len(symbols))]
    seen: dict[tuple[int, ...], Traced] = {}

    def at(offset: tuple[int, ...]) -> Traced:
        if offset not in seen:
            sizes = {symbol: base + step for symbol, base, step in zip(symbols, bases, offset, strict=True)}
            seen[offset] = _cost(program(sizes), {}, rules, _at(trips, sizes), "numbers")
        return seen[offset]

    wrong = ""
    for degree in _DEGREES:
        lattice = [offset for offset in product(range(degree + 1), repeat=len(symbols)) if sum(offset) <= degree]
        columns = {offset: _columns(at(offset)) for offset in lattice}
        names = sorted(set().union(*columns.values()))
        fitted = {name: _newton(lattice, columns, name, symbols, bases) for name in names}
        held = [
            tuple(degree + 1 + (7 * far + 3 * place) % 11 + 5 * far for place in range(len(symbols)))
            for far in range(3)
        ]
        checks = {
            offset: {symbol: base + step for symbol, base, step in zip(symbols, bases, offset, strict=True)}
            for offset in held
        }
        found = {offset: _columns(at(offset)) for offset in held}
        wrong = next(
            (
                " ".join(name)
                for offset, sizes in checks.items()
                for name in sorted({*names, *found[offset]}, key=lambda name: (name[1] == "bytes", name))
                if sp.expand(fitted.get(name, sp.S.Zero).subs(sizes) - found[offset].get(name, sp.S.Zero)) != 0
            ),
            "",
        )
        if not wrong:
            last = at(held[-1])
            how = f"polynomials of degree {degree} through {len(lattice)} traces, verified at 3 more; {why}"
            return _assembled(fitted, last.notes, how)
    raise NotPolynomialError(
        f"{wrong} is no polynomial of degree {_DEGREES[-1]} in {', '.join(map(str, symbols))}: trace the parts of the "
        "function alone, or give numbers for some sizes"
    )


def _columns(cost: Traced) -> dict[tuple[str, str], sp.Expr]:
    rows = {("moved", "bytes"): cost.bytes, ("peak", "bytes"): cost.peak}
    return rows | {(name, kind): getattr(count, kind) for name, count in cost.by_primitive.items() for kind in KINDS}


def _newton(lattice: Any, columns: Any, name: Any, symbols: list[sp.Symbol], bases: list[int]) -> sp.Expr:
    r"""Forward differences: p(x) = sum_a Delta^a p(base) prod_i binomial(x_i - base_i, a_i)."""
    values = {offset: column.get(name, sp.S.Zero) for offset, column in columns.items()}
    terms = []
    for orders in lattice:
        difference = sp.Add(
            *(
                values[lower] * (-1) ** (sum(orders) - sum(lower)) * _choices(orders, lower)
                for lower in product(*(range(order + 1) for order in orders))
            )
        )
        if difference != 0:
            basis = [
                sp.ff(x - base, order) / sp.factorial(order)
                for x, base, order in zip(symbols, bases, orders, strict=True)
            ]
            terms.append(difference * sp.Mul(*basis))
    return sp.expand(sp.Add(*terms), func=True)


def _choices(orders: tuple[int, ...], lower: tuple[int, ...]) -> int:
    result = 1
    for order, low in zip(orders, lower, strict=True):
        result *= comb(order, low)
    return result


def _assembled(fitted: Mapping[tuple[str, str], sp.Expr], notes: Mapping[str, str], how: str) -> Traced:
    names = {name for name, kind in fitted if kind != "bytes"}
    shares = {name: Count(*(fitted[name, kind] for kind in KINDS)) for name in sorted(names)}
    count = total(shares.values()).expand()
    return Traced(
        count,
        fitted["moved", "bytes"],
        fitted["peak", "bytes"],
        MappingProxyType(shares),
        MappingProxyType(dict(notes)),
        how,
    )
