"""Integers that depend on sizes only, and what they say about the steps of a loop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import sympy as sp
from jax.extend.core import Literal

from thermolinalg.complexity.rules_base import dim, is_kind


class UnknownTripCountError(ValueError):
    """A loop ends by a condition on values, so its number of steps is not in the program."""


def value(var: Any, known: Mapping[Any, sp.Expr | None]) -> sp.Expr | None:
    """What is known of an integer: a literal, or what was learnt."""
    if not isinstance(var, Literal):
        return known.get(var)
    aval: Any = var.aval
    if getattr(aval, "shape", None) == () and is_kind(aval.dtype, np.integer):
        return sp.Integer(int(var.val))
    return None


_FOLLOWED: dict[str, Any] = {
    "convert_element_type": lambda a: a,
    "stop_gradient": lambda a: a,
    "copy": lambda a: a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
    "max": sp.Max,
    "min": sp.Min,
    "clamp": lambda low, a, high: sp.Max(low, sp.Min(a, high)),
}


def learn(eqn: Any, known: dict[Any, sp.Expr], sizes: Mapping[str, sp.Symbol]) -> None:
    """Follow integers that depend on sizes only through one equation."""
    name = eqn.primitive.name
    out: Any = eqn.outvars[0] if eqn.outvars else None
    if name == "dim_as_value":
        known[out] = dim(eqn.params["dim"], sizes)
    elif name == "platform_index":
        known[out] = sp.Integer(_platform(eqn.params["platforms"]))
    elif name in _FOLLOWED and getattr(out.aval, "shape", None) == () and is_kind(out.aval.dtype, np.integer):
        found = [value(var, known) for var in eqn.invars]
        if all(item is not None for item in found):
            known[out] = _FOLLOWED[name](*found)


def _platform(platforms: Any) -> int:
    """Which of these programs, each for some platforms, runs where JAX runs; the last is that for all others."""
    backend = jax.default_backend()
    here = {"gpu": ("cuda", "rocm")}.get(backend, (backend,))
    listed = [place for place, names in enumerate(platforms) if names is not None]
    found = [place for place in listed if any(name in platforms[place] for name in here)]
    return found[0] if found else len(listed)


def allowed_steps(eqn: Any, values: list[sp.Expr | None]) -> list[sp.Expr | None]:
    """Steps that each condition of a while loop, joined to others by `and`, allows; None for one on values.

    A condition that tells compares integers of which each is constant or changes by the same number in each step. With
    symbols the loop is taken to start: a count in sizes is not cut off at zero.
    """
    first, second = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    condition, body = eqn.params["cond_jaxpr"].jaxpr, eqn.params["body_jaxpr"].jaxpr
    starts = dict(zip(condition.invars, [*values[:first], *values[second:]], strict=True))
    carried = zip(condition.invars[first:], body.invars[second - first :], body.outvars, strict=True)
    body_makers = {var: each for each in body.eqns for var in each.outvars}
    changes: dict[Any, sp.Expr | None] = dict.fromkeys(condition.invars[:first], sp.S.Zero)
    changes |= {var: _change(before, after, body_makers) for var, before, after in carried}
    makers = {var: each for each in condition.eqns for var in each.outvars}
    return _limits(condition.outvars[0], makers, starts, changes)


def _change(before: Any, after: Any, makers: Mapping[Any, Any]) -> sp.Expr | None:
    """By how much a step of a loop changes an integer, if by the same in all steps."""
    if after is before:
        return sp.S.Zero
    maker = None if isinstance(after, Literal) else makers.get(after)
    if maker is None or maker.primitive.name not in ("add", "sub"):
        return None
    left, right = maker.invars
    if maker.primitive.name == "add" and right is before:
        left, right = right, left
    change = value(right, {})
    if left is not before or change is None:
        return None
    return change if maker.primitive.name == "add" else -change


def _limits(var: Any, makers: Mapping[Any, Any], starts: Any, changes: Any) -> list[sp.Expr | None]:
    maker = None if isinstance(var, Literal) else makers.get(var)
    if maker is None:
        return [None]
    name = {"lt_to": "lt", "le_to": "le"}.get(maker.primitive.name, maker.primitive.name)
    if name == "convert_element_type":
        return _limits(maker.invars[0], makers, starts, changes)
    if name == "and":
        return [limit for each in maker.invars for limit in _limits(each, makers, starts, changes)]
    if name not in ("lt", "le", "gt", "ge"):
        return [None]
    low, high = maker.invars if name in ("lt", "le") else maker.invars[::-1]
    ends = value(low, starts), value(high, starts)
    speeds = [sp.S.Zero if isinstance(side, Literal) else changes.get(side) for side in (low, high)]
    (start, end), (rise, shift) = ends, speeds
    if start is None or end is None or rise is None or shift is None:
        return [None]
    gap, speed = end - start + int(name in ("le", "ge")), rise - shift
    if not speed.is_positive:
        return [None]
    steps = gap if speed == 1 else sp.ceiling(gap / speed)
    return [sp.Max(steps, 0) if steps.is_number else steps]


def place_of(eqn: Any) -> str:
    """Line of the user's code that an equation is from."""
    frames = getattr(eqn.source_info.traceback, "frames", [])
    inside = str(Path(jax.__file__).parent)
    for frame in frames:
        if not frame.file_name.startswith(inside):
            return f"line {frame.line_num} of {Path(frame.file_name).name}"
    return "an unknown line"
