"""What a counting rule sees and what it returns: an equation of a traced program, and a count of operations."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import sympy as sp

CONVENTION = (
    "Additions, subtractions, multiplications, divisions and square roots of reals count one flop each: a fused "
    "multiply-add is two, a complex multiplication six."
)
"""How flops are counted, everywhere in this package."""

Rule: TypeAlias = "Callable[[Equation], Count]"


class UnknownPrimitiveError(ValueError):
    """A traced program holds a primitive, or a use of one, that no rule counts."""


@dataclass(frozen=True)
class Count:
    """Operations by kind; kinds are never mixed.

    Attributes
    ----------
    flops : expression
        Arithmetic on floating-point numbers.
    transcendentals : expression
        Elementary and special functions, one each.
    comparisons : expression
        Orderings and tests, maxima and minima included.
    integers : expression
        Arithmetic and logic on integers and booleans.
    """

    flops: sp.Expr = sp.S.Zero
    transcendentals: sp.Expr = sp.S.Zero
    comparisons: sp.Expr = sp.S.Zero
    integers: sp.Expr = sp.S.Zero

    def __add__(self, other: "Count") -> "Count":
        return Count(*(getattr(self, kind) + getattr(other, kind) for kind in KINDS))

    def __mul__(self, times: Any) -> "Count":
        return Count(*(getattr(self, kind) * times for kind in KINDS))

    def expand(self) -> "Count":
        return Count(*(sp.expand(getattr(self, kind)) for kind in KINDS))

    @property
    def empty(self) -> bool:
        return all(getattr(self, kind) == 0 for kind in KINDS)


KINDS = tuple(field.name for field in fields(Count))


class Value(NamedTuple):
    """Shape, in numbers and symbols, and type of an operand or a result."""

    shape: tuple[sp.Expr, ...]
    dtype: Any

    @property
    def size(self) -> sp.Expr:
        return product(self.shape)

    @property
    def bytes(self) -> sp.Expr:
        return self.size * itemsize(self.dtype)

    @property
    def complex(self) -> bool:
        return is_kind(self.dtype, np.complexfloating)

    @property
    def inexact(self) -> bool:
        return is_kind(self.dtype, np.inexact)


class Equation(NamedTuple):
    """One equation of a traced program.

    Attributes
    ----------
    name : str
        Of the primitive.
    inputs, outputs : tuple of Value
    params : mapping
        As JAX holds them: pass sizes found in there through `dim`.
    sizes : mapping from str to Symbol
        What symbolic sizes stand for.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    params: Mapping[str, Any]
    sizes: Mapping[str, sp.Symbol]

    def dim(self, size: Any) -> sp.Expr:
        """A size that stands in the parameters."""
        return dim(size, self.sizes)


def product(factors: Any) -> sp.Expr:
    return _product(tuple(factors))


@lru_cache(maxsize=4096)
def _product(factors: tuple[sp.Expr, ...]) -> sp.Expr:
    return sp.expand(sp.Mul(*factors))


def is_kind(dtype: Any, kind: Any) -> bool:
    return bool(jax.numpy.issubdtype(dtype, kind))


def itemsize(dtype: Any) -> int:
    """Bytes of an entry; a key has those of the words that it is made of."""
    return int(dtype.itemsize)


def dim(size: Any, sizes: Mapping[str, sp.Symbol]) -> sp.Expr:
    """A size of JAX, a number or a polynomial in symbolic sizes, as an expression."""
    if isinstance(size, int | np.integer):
        return sp.Integer(int(size))
    return _parsed(str(size), tuple(sizes.items()))


_FUNCTIONS = {
    "floordiv": lambda a, b: sp.floor(a / b),
    "mod": sp.Mod,
    "max": sp.Max,
    "min": sp.Min,
}


@lru_cache(maxsize=4096)
def _parsed(text: str, sizes: tuple[tuple[str, sp.Symbol], ...]) -> sp.Expr:
    known = dict(sizes) | _FUNCTIONS
    strange = set(re.findall(r"[A-Za-z_]\w*", text)) - set(known)
    if strange:
        raise UnknownPrimitiveError(f"a size is {text}, which holds {', '.join(sorted(strange))}: no rule reads that")
    return sp.sympify(text.replace("^", "**"), locals=known)


def value_of(aval: Any, sizes: Mapping[str, sp.Symbol]) -> Value:
    return Value(tuple(dim(size, sizes) for size in getattr(aval, "shape", ())), getattr(aval, "dtype", np.dtype(bool)))


def arithmetic(dtype: Any, times: Any, real: int = 1, imaginary: int | None = None) -> Count:
    """So many operations each, of flops (`imaginary` of them if complex) or integer operations, by the type."""
    if is_kind(dtype, np.complexfloating):
        return Count(flops=times * sp.Integer(2 * real if imaginary is None else imaginary))
    return Count(flops=times * sp.Integer(real)) if is_kind(dtype, np.inexact) else Count(integers=times * real)


def weighted(dtype: Any, multiplications: Any, additions: Any) -> Count:
    """Multiplications (divisions and roots too) and additions as flops: six and two each if complex."""
    if is_kind(dtype, np.complexfloating):
        return Count(flops=6 * multiplications + 2 * additions)
    total = sp.sympify(multiplications + additions)
    return Count(flops=total) if is_kind(dtype, np.inexact) else Count(integers=total)
