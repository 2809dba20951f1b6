"""How programs nest: calls, loops, branches; and the walk that adds up their equations."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sympy as sp
from jax.extend.core import Literal

from thermolinalg.complexity.rules_arrays import ARRAY_NOTES, ARRAYS
from thermolinalg.complexity.rules_base import (
    KINDS,
    Count,
    Equation,
    Rule,
    UnknownPrimitiveError,
    dim,
    value_of,
)
from thermolinalg.complexity.rules_elementwise import ALIASES, ELEMENTWISE, SLICES
from thermolinalg.complexity.rules_linalg import LINALG, LINALG_NOTES
from thermolinalg.complexity.rules_loops import UnknownTripCountError, allowed_steps, learn, place_of, value

RULES: Mapping[str, Rule] = {**ELEMENTWISE, **ARRAYS, **LINALG}
"""The counting rule of every primitive that is known."""

NOTES: Mapping[str, str] = {
    **ARRAY_NOTES,
    **LINALG_NOTES,
    "platform_index": "of programs for several platforms the one that runs on this",
}
"""Source of a count that is not a definition, or how it is a model or a bound."""

_CALLERS = "jit pjit closed_call core_call call checkpoint remat remat2 custom_jvp_call custom_vjp_call"
_CALLS = frozenset(_CALLERS.split())


class Part(NamedTuple):
    """A program inside an equation, how often it runs, what is known of its inputs, and which results are used."""

    jaxpr: Any
    times: sp.Expr
    known: dict[Any, sp.Expr]
    wanted: tuple[bool, ...]


@dataclass
class Walk:
    """What a walk over a program carries along.

    Attributes
    ----------
    rules : mapping from str to Rule
    sizes : mapping from str to Symbol
    trips : iterator of expressions
        Steps of the loops whose own program does not tell.
    notes : dict from str to str
        Filled on the way.
    used : dict
        Of each program and its wanted results: the equations and inputs that these use.
    """

    rules: Mapping[str, Rule]
    sizes: Mapping[str, sp.Symbol]
    trips: Iterator[sp.Expr] = field(default_factory=lambda: iter(()))
    notes: dict[str, str] = field(default_factory=dict)
    used: dict[Any, Any] = field(default_factory=dict)


@dataclass
class Tally:
    """Counts of every primitive, and bytes read and written."""

    counts: dict[str, list[Count]] = field(default_factory=dict)
    bytes: list[sp.Expr] = field(default_factory=list)

    def add(self, name: str, count: Count) -> None:
        if not count.empty:
            self.counts.setdefault(name, []).append(count)

    def merge(self, other: "Tally", times: sp.Expr) -> None:
        for name, count in other.totals().items():
            self.add(name, count * times)
        self.bytes.append(sp.Add(*other.bytes) * times)

    def totals(self) -> dict[str, Count]:
        return {name: total(counts).expand() for name, counts in self.counts.items()}


def total(counts: Any) -> Count:
    counts = list(counts)
    return Count(*(sp.Add(*(getattr(count, kind) for count in counts)) for kind in KINDS))


def walk(program: Part, state: Walk) -> Tally:
    """Add up a program: every equation that its results need by its rule, inner programs as often as they run."""
    tally, known = Tally(), dict(program.known)
    for eqn, wanted in needed(program.jaxpr, program.wanted, state)[0]:
        name = eqn.primitive.name
        learn(eqn, known, state.sizes)
        if name in state.rules:
            equation = as_equation(eqn, state.sizes)
            tally.add(name, state.rules[name](equation))
            if name in NOTES:
                state.notes[name] = NOTES[name]
            if name not in ALIASES:
                tally.bytes.append(traffic(eqn, equation))
        elif name == "cond":
            branches = [walk(part, state) for part in parts(eqn, wanted, known, state)]
            tally.merge(dearest(branches, state) if len(branches) > 1 else branches[0], sp.S.One)
        else:
            for part in parts(eqn, wanted, known, state):
                tally.merge(walk(part, state), part.times)
    return tally


def as_equation(eqn: Any, sizes: Mapping[str, sp.Symbol]) -> Equation:
    inputs = tuple(value_of(var.aval, sizes) for var in eqn.invars)
    return Equation(
        eqn.primitive.name, inputs, tuple(value_of(var.aval, sizes) for var in eqn.outvars), eqn.params, sizes
    )


def traffic(eqn: Any, equation: Equation) -> sp.Expr:
    """Bytes of operands and results, as if all went through memory; a slice reads what it takes."""
    if equation.name in SLICES:
        return 2 * equation.outputs[0].bytes
    read = [value.bytes for var, value in zip(eqn.invars, equation.inputs, strict=True) if not isinstance(var, Literal)]
    return sp.Add(*read, *(value.bytes for value in equation.outputs))


def whole(jaxpr: Any) -> Part:
    """A program of which nothing is known and every result is wanted."""
    return Part(jaxpr, sp.S.One, {}, (True,) * len(jaxpr.outvars))


def needed(
    jaxpr: Any, wanted: tuple[bool, ...], state: Walk
) -> tuple[list[tuple[Any, tuple[bool, ...]]], tuple[bool, ...]]:
    """Equations that the wanted results need, each with those of its results that are used; and the inputs needed."""
    key = jaxpr, wanted
    if key not in state.used:
        used = {var for var, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted and not _nothing(var)}
        kept = []
        for eqn in reversed(jaxpr.eqns):
            results = tuple(var in used for var in eqn.outvars)
            if not any(results) and not eqn.effects:
                continue
            kept.append((eqn, results))
            takes = [True] * len(eqn.invars)
            inner = _called(eqn) if eqn.primitive.name not in state.rules else None
            if inner is not None:
                takes = list(needed(inner, results, state)[1])
            used |= {var for var, is_taken in zip(eqn.invars, takes, strict=True) if is_taken and not _nothing(var)}
        state.used[key] = kept[::-1], tuple(var in used for var in jaxpr.invars)
    return state.used[key]


def parts(
    eqn: Any, wanted: tuple[bool, ...], known: Mapping[Any, sp.Expr], state: Walk, *, counted: bool = True
) -> list[Part]:
    """The programs inside an equation; without trip counts where they are not `counted`."""
    name, params = eqn.primitive.name, eqn.params
    values = [value(var, known) for var in eqn.invars]
    if (inner := _called(eqn)) is not None:
        return [_part(inner, sp.S.One, values, wanted)]
    if name == "scan":
        carried = params["num_carry"]
        body_wants = (True,) * carried + wanted[carried:]
        return [_part(params["jaxpr"], dim(params["length"], state.sizes), values[: params["num_consts"]], body_wants)]
    if name == "cond":
        index, branches = values[0], params["branches"]
        taken = branches if index is None or not index.is_Integer else [branches[int(index)]]
        return [_part(branch, sp.S.One, values[1:], wanted) for branch in taken]
    if name == "custom_linear_solve":
        return [_part(params["jaxprs"].solve, sp.S.One, [])]
    if name == "while":
        trips = _trips(eqn, values, state) if counted else sp.S.One
        first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        return [
            _part(params["body_jaxpr"], trips, values[first:second]),
            _part(params["cond_jaxpr"], trips + 1, values[:first]),
        ]
    raise UnknownPrimitiveError(
        f"no rule counts the primitive {name!r}: pass rules={{{name!r}: rule}}, with rule(equation) returning a Count"
    )


def _called(eqn: Any) -> Any:
    """The program that an equation does nothing but call."""
    if eqn.primitive.name not in _CALLS:
        return None
    closed = next((eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params), None)
    return getattr(closed, "jaxpr", closed)


def _nothing(var: Any) -> bool:
    """Whether nothing is computed for it: a literal, or an array without entries."""
    return isinstance(var, Literal) or any(
        isinstance(size, int) and size == 0 for size in getattr(var.aval, "shape", ())
    )


def _trips(eqn: Any, values: list[sp.Expr | None], state: Walk) -> sp.Expr:
    """Steps of a while loop: by its counter, as given, or the limit of its counter if a value may end it sooner."""
    found = allowed_steps(eqn, values)
    if len(found) == 1 and found[0] is not None:
        return found[0]
    given = next(state.trips, None)
    if given is not None:
        state.notes["while"] = "steps as given"
        return sp.sympify(given)
    told = [limit for limit in found if limit is not None]
    if not told:
        raise UnknownTripCountError(
            f"the while loop at {place_of(eqn)} ends by a condition on values: pass its number of steps in `trips`, "
            "one for each such loop in the order of the program"
        )
    state.notes["while"] = "an upper bound, the limit on steps of a loop that a value may end sooner"
    return sp.Min(*told)


def _part(closed: Any, times: sp.Expr, values: list[sp.Expr | None], wanted: tuple[bool, ...] | None = None) -> Part:
    jaxpr = getattr(closed, "jaxpr", closed)
    pairs = zip(jaxpr.invars, values, strict=False)
    known = {var: found for var, found in pairs if found is not None}
    return Part(jaxpr, times, known, (True,) * len(jaxpr.outvars) if wanted is None else wanted)


def dearest(tallies: list[Tally], state: Walk) -> Tally:
    """The branch that costs at least as much as every other in all respects, or the maximum in each of them."""
    sums = [(tally, total(tally.totals().values()).expand(), sp.expand(sp.Add(*tally.bytes))) for tally in tallies]
    state.notes["cond"] = "an upper bound, the dearest branch"
    for tally, count, moved in sums:
        rivals = [(count, moved, other, far) for _, other, far in sums]
        if all(never_less(a, b) and never_less(x, y) for a, x, b, y in rivals):
            return tally
    worst = Count(*(sp.Max(*(getattr(count, kind) for _, count, _ in sums)) for kind in KINDS))
    return Tally({"cond": [worst]}, [sp.Max(*(moved for _, _, moved in sums))])


def never_less(left: Any, right: Any) -> bool:
    """Whether one cost is at least another at all sizes of one or more, as far as signs of coefficients can tell."""
    if isinstance(left, Count):
        return all(never_less(getattr(left, kind), getattr(right, kind)) for kind in KINDS)
    return all(factor >= 0 for factor in from_one(left - right).values())


def from_one(cost: sp.Expr) -> Counter[sp.Expr]:
    """Coefficients of a cost in sizes less one: where none is negative, nor is the cost at any size."""
    moved = sp.expand(
        sp.expand(cost).xreplace({symbol: symbol + 1 for symbol in cost.free_symbols if symbol.is_integer})
    )
    return Counter(moved.as_coefficients_dict())
