"""The compiler's own count of operations, and its repair."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np
import sympy as sp

from thermolinalg.complexity.rules_arrays import positions
from thermolinalg.complexity.rules_base import weighted
from thermolinalg.complexity.rules_linalg import (
    cholesky,
    hessenberg,
    householder_factor,
    householder_product,
    lu,
    triangular_solve,
    tridiagonal,
)
from thermolinalg.complexity.trace import Shaped


@dataclass(frozen=True)
class CompilerCount:
    """Operations of a compiled program on a CPU.

    Attributes
    ----------
    reported : float
        Flops by the compiler; a sentinel below zero stands as it is.
    repaired : float
        With its gaps closed: LAPACK, and every step of a loop.
    routines : mapping from str to float
        Flops of the LAPACK routines that were added, loops included.
    loops : tuple of int
        Steps of the loops of known length.
    excluded : tuple of str
        What `repaired` leaves out or counts once, by name. Empty if it is complete.
    unexplained : float
        Reported less what an own count of the program's text finds under the compiler's rules.
    """

    reported: float
    repaired: float
    routines: Mapping[str, float]
    loops: tuple[int, ...]
    excluded: tuple[str, ...]
    unexplained: float


def compiler_count(function: Callable[..., Any], *arguments: Any) -> CompilerCount:
    r"""Return how many operations XLA counts in a function compiled for the CPU, with the gaps of that count closed.

    XLA counts no operation of a LAPACK routine and one step of every loop. Both stand in the text of the compiled
    program, so

    .. math:: \mathrm{repaired} = \max(\mathrm{reported}, 0) + \mathrm{text}_{\text{all}} - \mathrm{text}_{\text{XLA}},

    where :math:`\mathrm{text}` is a count of that text, with and without them.

    Parameters
    ----------
    function : callable
        Any function that JAX can compile.
    *arguments : Shaped with numbers for sizes, array, or trees of these

    Returns
    -------
    CompilerCount

    Raises
    ------
    ValueError
        If JAX runs on something else than a CPU, where routines have other names, or if a size is a symbol.

    Notes
    -----
    A multiplication and an addition count one each. XLA counts masks, comparisons and selections too, which
    :func:`trace` keeps apart: the two differ by those, of lower order. Roots and elementary functions are no flops to
    XLA. What it hoists out of a loop, it runs once. Iterative routines (eigenvalues, singular values, Schur) have no
    exact count and are excluded by name. The dearest branch of a conditional counts.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> found = compiler_count(lambda A, b: jnp.linalg.cholesky(A) @ b, Shaped((6, 6)), Shaped((6,)))
    >>> found.routines, found.excluded
    ({'potrf': 91.0}, ())
    """
    if jax.default_backend() != "cpu":
        raise ValueError(f"the compiler's count is repaired for a CPU only, and JAX runs on {jax.default_backend()}")
    leaves, tree = jax.tree.flatten(arguments)
    specs = [_spec(leaf) for leaf in leaves]
    compiled = jax.jit(lambda *inputs: function(*jax.tree.unflatten(tree, inputs))).lower(*specs).compile()
    analysis: Any = compiled.cost_analysis()
    reported = float((analysis[0] if isinstance(analysis, list) else analysis or {}).get("flops", 0.0))
    program = _Program(compiled.as_text() or "")
    once, full = program.flops(steps=False), program.flops(steps=True)
    routines = {name: float(flops) for name, flops in sorted(full.routines.items())}
    repaired = max(reported, 0.0) + full.plain - once.plain + sum(routines.values())
    unexplained = max(reported, 0.0) - once.plain
    return CompilerCount(reported, repaired, routines, full.loops, full.excluded, unexplained)


def _spec(leaf: Any) -> Any:
    if not isinstance(leaf, Shaped):
        return leaf
    if any(sp.sympify(size).free_symbols for size in leaf.shape):
        raise ValueError(f"the compiler takes numbers for sizes, got {leaf.shape}; trace takes symbols")
    return jax.ShapeDtypeStruct(tuple(int(size) for size in leaf.shape), leaf.dtype)


class _Sum(NamedTuple):
    """Flops of a computation."""

    plain: float = 0.0
    routines: Mapping[str, float] = {}
    loops: tuple[int, ...] = ()
    excluded: tuple[str, ...] = ()
    single: tuple[str, ...] = ()  # counted by XLA alone: a gap only inside a loop

    def __add__(self, other: "_Sum") -> "_Sum":  # type: ignore[override]
        names = {*self.routines, *other.routines}
        routines = {name: self.routines.get(name, 0.0) + other.routines.get(name, 0.0) for name in names}
        excluded = tuple(dict.fromkeys((*self.excluded, *other.excluded)))
        single = tuple(dict.fromkeys((*self.single, *other.single)))
        return _Sum(self.plain + other.plain, routines, self.loops + other.loops, excluded, single)

    def times(self, steps: int) -> "_Sum":
        routines = {name: steps * flops for name, flops in self.routines.items()}
        return self._replace(plain=steps * self.plain, routines=routines)


class _Instruction(NamedTuple):
    name: str
    shape: tuple[int, ...]
    opcode: str
    operands: tuple[str, ...]
    text: str


_LINE = re.compile(r"^\s+(?:ROOT )?%(?P<name>\S+) = (?P<type>\(.*?\)|\S+) (?P<opcode>[\w-]+)\((?P<rest>.*)$")
_HEADER = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>\S+) \(.*\{$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ROUTINE = re.compile(r'custom_call_target="(?:lapack_([sdcz])(\w+?)_ffi|([^"]+))"')
_CONSTRAINTS = re.compile(r"operand_layout_constraints=\{(.*?\})\}")
_TYPES = {"s": np.float32, "d": np.float64, "c": np.complex64, "z": np.complex128}

_COUNTED = (
    "add subtract multiply divide maximum minimum compare select and or xor not negate abs sign floor ceil clamp"
    " round-nearest-afz round-nearest-even remainder shift-left shift-right-logical shift-right-arithmetic is-finite"
)
_FLOPS = frozenset(_COUNTED.split())
"""Opcodes that count one flop an entry to XLA."""

_LEFT_TO_XLA = frozenset(
    ["reduce-window", "select-and-scatter", "scatter", "sort", "fft", "triangular-solve", "cholesky"],
)
"""Opcodes that XLA counts by rules not repeated here."""


class _Program:
    """The text of a compiled program, as instructions by computation."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[_Instruction]] = {}
        self.entry = current = ""
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = header["name"]
                self.computations[current] = []
                self.entry = current if header["entry"] else self.entry
            elif found := _LINE.match(re.sub(r"/\*.*?\*/", "", line)):
                first = _SHAPE.search(found["type"])
                shape = _dims(first[2]) if first else ()
                operands = tuple(re.findall(r"%([\w.\-]+)", found["rest"].split(")")[0]))
                each = _Instruction(found["name"], shape, found["opcode"], operands, found["rest"])
                self.computations[current].append(each)

    def flops(self, *, steps: bool) -> _Sum:
        """Flops of the program: with all `steps` of loops, or with one of each."""
        return self._sum(self.entry, steps)

    def _sum(self, computation: str, steps: bool) -> _Sum:
        instructions = self.computations[computation]
        shapes = {each.name: each.shape for each in instructions}
        total = _Sum()
        for each in instructions:
            total += self._flops(each, shapes, steps)
        return total

    def _called(self, each: _Instruction, key: str, steps: bool) -> _Sum:
        named = re.search(rf"\b{key}=%([\w.\-]+)", each.text)
        return self._sum(named[1], steps) if named else _Sum()

    def _flops(self, each: _Instruction, shapes: Mapping[str, tuple[int, ...]], steps: bool) -> _Sum:
        entries = prod(each.shape)
        if each.opcode in _FLOPS:
            return _Sum(float(entries))
        if each.opcode == "fusion":
            return self._called(each, "calls", steps)
        if each.opcode in ("call", "map"):
            return self._called(each, "to_apply", steps).times(entries if each.opcode == "map" else 1)
        if each.opcode == "reduce":
            return self._called(each, "to_apply", steps).times(prod(shapes[each.operands[0]]) - entries)
        if each.opcode == "dot":
            axes = _dims(_attribute(r"lhs_contracting_dims=\{([\d,]*)\}", each.text))
            return _Sum(2.0 * entries * prod(shapes[each.operands[0]][axis] for axis in axes))
        if each.opcode == "convolution":
            return _Sum(_convolution(each, shapes))
        if each.opcode == "while":
            return self._loop(each, steps)
        if each.opcode == "conditional":
            branches = _attribute(r"(branch_computations=\{.*?\}|true_computation=.*)", each.text)
            names = re.findall(r"%([\w.\-]+)", branches)
            return max(
                (self._sum(name, steps) for name in names if name in self.computations), key=lambda sums: sums.plain
            )
        if each.opcode in _LEFT_TO_XLA:
            return _Sum(single=(each.opcode,))
        return _routine(each) if each.opcode == "custom-call" else _Sum()

    def _loop(self, each: _Instruction, steps: bool) -> _Sum:
        body, condition = self._called(each, "body", steps), self._called(each, "condition", steps)
        known = _TRIPS.search(each.text)
        if known is None:
            return body + condition + _Sum(excluded=(f"steps of the loop {each.name}, counted once",))
        count = int(known[1])
        inner = body.times(count) + condition.times(count + 1) if steps else body + condition
        once = tuple(f"steps of {opcode} in the loop {each.name}, counted once" for opcode in inner.single)
        return inner._replace(loops=(count, *inner.loops), excluded=(*inner.excluded, *once), single=())


def _attribute(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _convolution(each: _Instruction, shapes: Mapping[str, tuple[int, ...]]) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.text)
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", _attribute(r"window=\{(.*?)\}", each.text)))
    if labels is None:
        return 0.0
    left, right, out = shapes[each.operands[0]], shapes[each.operands[1]], each.shape
    terms = out[labels[3].index("b")] * out[labels[3].index("f")] * right[labels[2].index("i")]
    for axis in range(len(left) - 2):
        strides, spreads, dilations = (
            int(window.get(key, "x".join("1" * len(left))).split("x")[axis])
            for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(window["pad"].split("x")[axis].split("_")[0]) if "pad" in window else 0
        sizes = [
            shape[label.index(str(axis))] for shape, label in zip((left, right, out), labels.groups(), strict=True)
        ]
        entries, taps, outputs = map(sp.Integer, sizes)
        terms *= int(positions(entries, taps, outputs, strides, sp.Integer(low), spreads, dilations))
    return 2.0 * terms


def _routine(each: _Instruction) -> _Sum:
    """Flops of a LAPACK routine, from the shapes of its operands."""
    found = _ROUTINE.search(each.text)
    if found is None or found[1] is None:
        return _Sum(excluded=(f"the call of {found[3] if found else each.name}",))
    letter, name = found[1], found[2]
    constraints = _CONSTRAINTS.search(each.text)
    shapes = [_dims(dims) for _, dims in _SHAPE.findall(constraints[1])] if constraints else []
    batch, (m, n) = prod(shapes[0][:-2]), map(sp.Integer, shapes[0][-2:])
    if name == "potrf":
        pair = cholesky(n)
    elif name == "getrf":
        pair = lu(m, n)
    elif name == "trsm":
        right = shapes[1][-2 if "side = 82" in each.text else -1]
        pair = triangular_solve(n, sp.Integer(right), unit="diag = 85" in each.text)
    elif name == "geqrf":
        pair = householder_factor(m, n)
    elif name in ("orgqr", "ungqr"):
        pair = householder_product(m, n, sp.Integer(shapes[1][-1]))
    elif name == "gehrd":
        pair = hessenberg(n)
    elif name in ("sytrd", "hetrd"):
        pair = tridiagonal(n)
    else:
        return _Sum(excluded=(f"the LAPACK routine {name}, which iterates",))
    return _Sum(routines={name: float(batch * weighted(_TYPES[letter], *pair).flops)})
