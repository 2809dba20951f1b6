"""Peak live memory of a traced program."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

import sympy as sp
from jax.extend.core import Literal

from thermolinalg.complexity.rules_base import value_of
from thermolinalg.complexity.rules_elementwise import ALIASES
from thermolinalg.complexity.rules_loops import learn
from thermolinalg.complexity.rules_programs import Part, Walk, from_one, needed, parts, whole

Terms: TypeAlias = Counter[Any]
"""Bytes as coefficients of monomials in sizes."""


def peak_bytes(jaxpr: Any, sizes: Mapping[str, sp.Symbol], rules: Mapping[str, Any]) -> sp.Expr:
    """Return the most bytes alive at one time: inputs from first to last, temporaries until their last use.

    The order is that of the trace; nothing is fused, reused in place, or given up by the caller; work space inside a
    routine is not counted. A reshaped array counts once.
    """
    state = Walk(rules, sizes)
    held = Terms()
    for var in (*jaxpr.constvars, *jaxpr.invars):
        held += _bytes(var, sizes)
    peaks = [held + extra for extra in _extras(whole(jaxpr), state)]
    return _largest([_expression(peak) for peak in peaks])


def _extras(program: Part, state: Walk) -> list[Terms]:
    """Bytes alive beyond the inputs, at the moments that no other moment outdoes."""
    equations = needed(program.jaxpr, program.wanted, state)[0]
    last = _last_uses(program.jaxpr, [eqn for eqn, _ in equations])
    owner: dict[Any, Any] = {}  # what a reshaped array shares its memory with
    left: Counter[Any] = Counter()  # names that still need an owner's memory
    size: dict[Any, Terms] = {}
    live, found, known = Terms(), [Terms()], dict(program.known)
    for moment, (eqn, wanted) in enumerate(equations):
        learn(eqn, known, state.sizes)
        if eqn.primitive.name in ALIASES and not isinstance(eqn.invars[0], Literal):
            for before, after in zip(eqn.invars, eqn.outvars, strict=False):
                owner[after] = owner.get(before, before)
                left[owner[after]] += 1
            inner = [Terms()]
        else:
            inner = _inside(eqn, wanted, known, state)
            for var in eqn.outvars:
                size[var] = _bytes(var, state.sizes)
                left[var] += 1
                live = _plus(live, size[var])
        for extra in inner:
            _keep(found, _plus(live, extra))
        for var in {*(v for v in eqn.invars if not isinstance(v, Literal)), *eqn.outvars}:
            if last.get(var, moment) == moment:
                root = owner.get(var, var)
                left[root] -= 1
                if left[root] == 0 and root in size:
                    live = _plus(live, size[root], -1)
    return found


def _inside(eqn: Any, wanted: tuple[bool, ...], known: Mapping[Any, sp.Expr], state: Walk) -> list[Terms]:
    """Bytes that the programs inside an equation add to its inputs and results."""
    name = eqn.primitive.name
    if name in state.rules:
        return [Terms()]
    results = [_bytes(var, state.sizes) for var in eqn.outvars]
    found: list[Terms] = [Terms()]
    for part in parts(eqn, wanted, known, state, counted=False):
        base = Terms()
        if name == "scan":  # slices of what is scanned over
            skip = eqn.params["num_consts"] + eqn.params["num_carry"]
            for var in part.jaxpr.invars[skip:]:
                base = _plus(base, _bytes(var, state.sizes))
        elif name in ("while", "custom_linear_solve"):
            pass
        else:  # results of a call or a branch are those of the equation
            for result in results:
                base = _plus(base, result, -1)
        for extra in _extras(part, state):
            moment = _plus(base, extra)
            _keep(found, moment)
    return found


def _last_uses(jaxpr: Any, equations: list[Any]) -> dict[Any, float]:
    last: dict[Any, float] = {}
    for moment, eqn in enumerate(equations):
        last |= {var: moment for var in eqn.invars if not isinstance(var, Literal)}
    return last | {var: float("inf") for var in (*jaxpr.outvars, *jaxpr.invars) if not isinstance(var, Literal)}


def _bytes(var: Any, sizes: Mapping[str, sp.Symbol]) -> Terms:
    total = value_of(var.aval, sizes).bytes
    return Terms({term: factor for term, factor in total.as_coefficients_dict().items() if factor != 0})


def _plus(left: Terms, right: Terms, sign: int = 1) -> Terms:
    result = Terms(left)
    for term, factor in right.items():
        result[term] += sign * factor
        if result[term] == 0:
            del result[term]
    return result


def _keep(found: list[Terms], new: Terms) -> None:
    """Add a moment, unless another is never smaller; drop those that it outdoes term by term."""
    if any(_covers(old, new) for old in found):
        return
    found[:] = [old for old in found if not _covers(new, old)]
    found.append(new)


def _expression(terms: Terms) -> sp.Expr:
    return sp.Add(*(term * factor for term, factor in terms.items()))


def _largest(peaks: list[sp.Expr]) -> sp.Expr:
    kept: list[tuple[sp.Expr, Terms]] = []
    for peak in peaks:
        new = from_one(peak)
        if not any(_covers(old, new) for _, old in kept):
            kept = [(other, old) for other, old in kept if not _covers(new, old)] + [(peak, new)]
    found = [peak for peak, _ in kept]
    return found[0] if len(found) == 1 else sp.Max(*found, evaluate=False)


def _covers(old: Terms, new: Terms) -> bool:
    return all(old[term] >= new[term] for term in {*old, *new})
