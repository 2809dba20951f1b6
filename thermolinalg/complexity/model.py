"""A cost as a formula that says what it counts, how sure it is, what accuracy it buys, and where it comes from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import sympy as sp

from thermolinalg.complexity.asymptotics import Growth, growth
from thermolinalg.complexity.dimensions import unit_of
from thermolinalg.complexity.symbols import byte, check_values, hidden, joule, one, second, word


class Counts(Enum):
    """What a cost counts. Costs that count different things are never added."""

    FLOPS = "flops"
    FUNCTIONS = "functions"
    BYTES = "bytes"
    SECONDS = "seconds"
    JOULES = "joules"
    CONVERSIONS = "conversions"
    SAMPLES = "samples"
    QUERIES = "queries"
    SHOTS = "shots"

    @property
    def convention(self) -> str:
        """How it is counted."""
        return _CONVENTIONS[self]

    @property
    def unit(self) -> sp.Expr:
        """Its unit; 1 for a pure number."""
        return {Counts.BYTES: byte, Counts.SECONDS: second, Counts.JOULES: joule}.get(self, one)


_CONVENTIONS = {
    Counts.FLOPS: "multiplications and additions count one each, and so do divisions and roots",
    Counts.FUNCTIONS: "values of elementary and special functions, one each; flops are counted apart",
    Counts.BYTES: "bytes, read and written",
    Counts.SECONDS: "seconds",
    Counts.JOULES: "joules",
    Counts.CONVERSIONS: "numbers that are converted between digital and analog, either way",
    Counts.SAMPLES: "independent states of a device, all components of one together",
    Counts.QUERIES: "calls of the oracle",
    Counts.SHOTS: "runs of a quantum circuit, each measured once",
}


class Kind(Enum):
    """How sure a cost is."""

    EXACT = "exact"
    BOUND = "upper bound"
    FLOOR = "lower bound"
    MODEL = "model"
    UNAVAILABLE = "unavailable"


class Oracle(Enum):
    """How a method gets at its problem. Queries to different oracles are never added."""

    ENTRIES = "all entries are in memory"
    PRODUCTS = "products of the matrix with a vector"
    DEVICE = "a device with the matrix as its couplings"
    GRADIENT = "the gradient at a point, exactly"
    STOCHASTIC = "an unbiased gradient at a point, with noise"
    DIFFERENTIABLE = "the program of the model, and with it derivatives"
    CIRCUIT = "runs of a parametrised circuit, measured"
    PHASE = "a coherent oracle whose phase is the value at a superposition of points"
    BLOCK_ENCODING = "a unitary that holds the matrix in a block, and its inverse"


class Status(Enum):
    """How far a source can be relied upon."""

    READ = "read in the source"
    DERIVED = "derived here, and tested"
    RECALLED = "recalled, verify"


@dataclass(frozen=True)
class Source:
    """Where a formula comes from."""

    text: str
    status: Status

    def __str__(self) -> str:
        return f"{self.text} ({self.status.value})"


@dataclass(frozen=True)
class CostModel:
    r"""What something costs, as a formula.

    .. math:: \text{cost}(n, \kappa, \epsilon, \dots) = \text{leading terms} + \text{lower-order terms}

    Parameters
    ----------
    name : str
    cost : sympy expression, or None
        In symbols of the glossary; None if and only if the kind is UNAVAILABLE.
    counts : Counts
    kind : Kind
    error : str
        What accuracy it buys, in which norm.
    oracle : Oracle or tuple of Oracles
    source : Source or tuple of Sources
    memory : sympy expression, or None
        Numbers that are stored at a time, at most; None if that is not known.
    notes : str
        Assumptions, and what is left out.
    valid : tuple of sympy relations
        Without them the formula does not hold.

    Raises
    ------
    ValueError
        If the unit of the formula is not that of what it counts, or the formula and the kind disagree.

    Notes
    -----
    A cost that nobody knows has the kind UNAVAILABLE and refuses to be a number; it is never zero.

    Examples
    --------
    >>> from thermolinalg.complexity.models.direct import POTRF
    >>> from thermolinalg.complexity.symbols import n
    >>> POTRF.cost
    n**3/3 + n**2/2 + n/6
    >>> POTRF.at({n: 100})
    338350.0
    >>> print(POTRF.leading([n]))
    O(n**3)
    """

    name: str
    cost: sp.Expr | None
    counts: Counts
    kind: Kind
    error: str
    oracle: Oracle | tuple[Oracle, ...]
    source: Source | tuple[Source, ...]
    memory: sp.Expr | None = None
    notes: str = ""
    valid: tuple[sp.Basic, ...] = ()

    def __post_init__(self) -> None:
        if (self.cost is None) != (self.kind is Kind.UNAVAILABLE):
            raise ValueError(f"{self.name}: give a cost, or say that it is UNAVAILABLE and leave cost as None")
        for label, expr, unit in (("cost", self.cost, self.counts.unit), ("memory", self.memory, one)):
            if expr is None:
                continue
            object.__setattr__(self, label, sp.sympify(expr))
            found = unit_of(expr)
            if found != unit:
                raise ValueError(f"{self.name}: {label} must be in {unit} but is in {found}: {expr}")
        for label in ("oracle", "source"):
            found = getattr(self, label)
            object.__setattr__(self, label, found if isinstance(found, tuple) else (found,))

    def __str__(self) -> str:
        tail = f"{self.counts.value} ({self.counts.convention}); {self.kind.value}"
        return f"{self.name}: {'not known' if self.cost is None else self.cost} {tail}"

    def __repr__(self) -> str:
        return f"<{self}>"

    @property
    def sources(self) -> tuple[Source, ...]:
        """Where the formula comes from."""
        return _joined(self.source, ())

    @property
    def oracles(self) -> tuple[Oracle, ...]:
        """How the method gets at its problem."""
        return _joined(self.oracle, ())

    @property
    def formula(self) -> sp.Expr:
        """The cost; a ValueError where nobody knows it."""
        if self.cost is None:
            raise ValueError(f"{self.name}: the cost is not available: {self.notes or 'no reason given'}")
        return self.cost

    def at(self, values: Mapping[sp.Symbol, Any]) -> float:
        """Return the cost with numbers in place of symbols.

        Parameters
        ----------
        values : mapping of symbols to numbers
            One for each symbol of the formula, and any others.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If a symbol has no number, a number is out of range, the formula does not hold there, or there is none.
        """
        return self._number(self.formula, values)

    def words(self, values: Mapping[sp.Symbol, Any]) -> float:
        """Return how many numbers are stored at a time; a ValueError where that is not known."""
        if self.memory is None:
            raise ValueError(f"{self.name}: the memory is not known")
        return self._number(self.memory, values)

    def leading(self, large: Iterable[sp.Symbol], small: Iterable[sp.Symbol] = ()) -> Growth:
        """Return how the cost grows; see :func:`thermolinalg.complexity.growth`."""
        return growth(self.formula, large, small)

    def footprint(self) -> "CostModel":
        """Return the memory as a cost in bytes, for numbers of so many bytes each."""
        if self.memory is None:
            raise ValueError(f"{self.name}: the memory is not known")
        return replace(self, name=f"memory of {self.name}", cost=self.memory * word, counts=Counts.BYTES)

    def where(self, replacements: Mapping[sp.Symbol, Any]) -> "CostModel":
        """Return the same model with expressions in place of symbols, such as {n: m} for another layer."""

        def exchange(expr: sp.Basic | None) -> Any:
            return None if expr is None else expr.subs(replacements, simultaneous=True)

        valid = tuple(map(exchange, self.valid))
        if sp.false in valid:
            raise ValueError(f"{self.name}: the formula does not hold for {dict(replacements)}")
        valid = tuple(relation for relation in valid if relation != sp.true)
        return replace(self, cost=exchange(self.cost), memory=exchange(self.memory), valid=valid)

    def named(self, name: str) -> "CostModel":
        """Return the same model under another name."""
        return replace(self, name=name)

    def repeated(self, times: Any) -> "CostModel":
        """Return the model of as many repetitions, one after the other; `times` is a pure number, symbolic or not."""
        times = sp.sympify(times)
        if not times.is_positive:
            raise ValueError(f"times must be positive, and symbols declared so, got {times}")
        return replace(self, name=f"{times} times {self.name}", cost=self.formula * times)

    def priced(
        self, price: sp.Expr, counts: Counts, *, name: str, kind: Kind, source: Source, oracle: Oracle | None = None
    ) -> "CostModel":
        """Return the cost in another currency, such as operations for each query or seconds for each operation.

        Parameters
        ----------
        price : sympy expression
            What each of those costs that this model counts.
        counts : Counts
        name : str
        kind : Kind
            How sure the price is; the weaker of both counts.
        source : Source
            Of the price.
        oracle : Oracle, optional
            What the price takes for given; that of this model by default.

        Raises
        ------
        ValueError
            If the units do not fit, or an upper bound meets a lower one.
        """
        return replace(
            self,
            name=name,
            cost=self.formula * price,
            counts=counts,
            kind=_weaker(self.kind, kind, name),
            source=_joined(self.source, source),
            oracle=oracle or self.oracle,
        )

    def __add__(self, other: "CostModel") -> "CostModel":
        if not isinstance(other, CostModel):
            return NotImplemented
        name = f"{self.name} + {other.name}"
        if self.counts is not other.counts:
            raise ValueError(f"{name}: {self.counts.value} cannot be added to {other.counts.value}; price one first")
        if self.counts is Counts.QUERIES and self.oracle != other.oracle:
            raise ValueError(f"{name}: queries to different oracles cannot be added; price them first")
        first, second = self.formula, other.formula
        if hidden in first.free_symbols & second.free_symbols:
            raise ValueError(
                f"{name}: each leaves out a constant of its own, so that one symbol {hidden} cannot be both"
            )
        memory = None if self.memory is None or other.memory is None else self.memory + other.memory
        return CostModel(
            name,
            first + second,
            self.counts,
            _weaker(self.kind, other.kind, name),
            _sentences(self.error, other.error),
            _joined(self.oracle, other.oracle),
            _joined(self.source, other.source),
            memory,
            _sentences(self.notes, other.notes),
            (*self.valid, *(relation for relation in other.valid if relation not in self.valid)),
        )

    def _number(self, expr: sp.Expr, values: Mapping[sp.Symbol, Any]) -> float:
        # Whole numbers stay exact, and with them whole counts.
        checked = {x: sp.Integer(y) if y.is_integer() else sp.Float(y) for x, y in check_values(values).items()}
        needed = expr.free_symbols.union(*(relation.free_symbols for relation in self.valid))
        left = sorted(str(symbol) for symbol in needed - set(checked))
        if left:
            raise ValueError(f"{self.name}: give a number for each of {', '.join(left)}")
        for relation in self.valid:
            if relation.subs(checked) != sp.true:
                raise ValueError(f"{self.name}: the formula holds for {relation} only")
        number = float(expr.subs(checked))
        if not 0 <= number < sp.oo:
            raise ValueError(f"{self.name}: the formula gives {number:g}, outside of its range: {expr}")
        return number


def _weaker(a: Kind, b: Kind, name: str) -> Kind:
    if {a, b} == {Kind.BOUND, Kind.FLOOR}:
        raise ValueError(f"{name}: an upper and a lower bound together bound nothing")
    for kind in (Kind.UNAVAILABLE, Kind.MODEL, Kind.FLOOR, Kind.BOUND):
        if kind in (a, b):
            return kind
    return Kind.EXACT


def _joined(a: Any, b: Any) -> tuple[Any, ...]:
    """What either has, each once."""
    first, second = (found if isinstance(found, tuple) else (found,) for found in (a, b))
    return (*first, *(each for each in second if each not in first))


def _sentences(a: str, b: str) -> str:
    return a if b in ("", a) else f"{a}; {b}".removeprefix("; ")
