"""One set of symbols for every cost: what each stands for, its unit, and the range in which it makes sense.

All are positive reals, sizes too, so that a crossover can be solved for and need not be whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import sympy as sp

second, joule, bit, byte, volt = sp.symbols("second joule bit byte volt", positive=True)
"""Base units. Watts are J/s, farads J/V^2, ohms s/F; all that is counted (operations, samples, numbers) has none."""

one = sp.Integer(1)


@dataclass(frozen=True)
class Meaning:
    """What a symbol stands for.

    Attributes
    ----------
    text : str
    unit : sympy expression
        A product of powers of base units; 1 for a pure number.
    low, high : float
        The smallest and the largest value that make sense, both included.
    """

    text: str
    unit: sp.Expr = one
    low: float = 0.0
    high: float = inf


GLOSSARY: dict[sp.Symbol, Meaning] = {}
"""Every symbol with its meaning, in the order of this file."""


def _new(name: str, text: str, unit: sp.Expr = one, low: float = 0.0, high: float = inf) -> sp.Symbol:
    symbol = sp.Symbol(name, positive=True)
    GLOSSARY[symbol] = Meaning(text, unit, low, high)
    return symbol


# Sizes
n = _new("n", "order of a square matrix, columns of a rectangular one; width of a layer", low=1)
m = _new("m", "rows of a rectangular matrix; second width of a layer", low=1)
k = _new("k", "right-hand sides; inner length of a product; reflectors", low=1)
d = _new("d", "unknowns on a device", low=1)
b = _new("b", "examples in a batch", low=1)
d_z = _new("d_z", "outputs of a model", low=1)
r = _new("r", "rows of a Jacobian, b d_z", low=1)
N = _new("N", "parameters of a model", low=1)
s = _new("s", "non-zero entries in a row", low=1)
c = _new("c", "iterations of an inner solver", low=0)
k_f = _new("k_f", "steps from one refresh of inverses or roots to the next", low=1)
k_s = _new("k_s", "steps from one update of statistics to the next", low=1)
nodes = _new("n_q", "nodes of a path from one matrix to another", low=1)
q = _new("q", "right-hand sides that relax at once", low=1)
n_s = _new("N_s", "samples of one run", low=1)
j_f = _new("J_f", "doublings of a short time until a process has forgotten its start", low=0)
j_0 = _new("J_0", "doublings of a short time that make up the burn-in", low=0)
j_1 = _new("J_1", "doublings of a short time that make up the time between samples", low=0)
j_t = _new("J_t", "doublings of a short time that make up a time lag", low=0)

# Accuracy and conditioning
kappa = _new("kappa", "condition number, largest over smallest eigenvalue, after damping", low=1)
eps = _new("epsilon", "relative error wanted, in the norm that the model names", high=1)
delta = _new("delta", "probability of a larger error", high=1)
signal = _new("S", "length of the right-hand side over that of thermal noise, sqrt(beta) |b|, largest eigenvalue 1")
rank = _new("r_eff", "effective rank of a covariance, (tr X)^2/|X|_F^2", low=1)
rho = _new("rho", "independent samples for each unknown", low=1)
phi = _new("phi", "squared correlation that a sample may keep with the one before", high=1)
norm1 = _new("nu", "1-norm of the matrix")

# Gradient descent
lipschitz = _new("G", "Lipschitz constant of the objective, objective for each unit of distance")
smooth = _new("L", "Lipschitz constant of the gradient")
convex = _new("mu", "strong convexity")
radius = _new("R", "distance from the start to the optimum")
gap = _new("g", "gap to the optimum wanted, in units of the objective; or norm of a gradient")
sigma = _new("sigma", "standard deviation of a stochastic gradient")

# Thermodynamic device
tau = _new("tau", "unit of time of a device: 1/(fastest rate), an RC, or 1/(fastest angular frequency)", second)
w = _new("w", "bits of a number sent to a device or back", bit, low=1)
B_L = _new("B_L", "rate of the link to a device", bit / second)
e_bit = _new("e_bit", "energy of one bit on the link", joule / bit)
e_conv = _new("e_conv", "energy of one conversion", joule)
P_cell = _new("P_cell", "power of one cell that runs", joule / second)
C = _new("C", "capacitance of a cell", joule / volt**2)
V = _new("V", "voltage of a cell", volt)
entries = _new("s_A", "sum of absolute entries of the matrix, largest eigenvalue 1")
thermal = _new("kT", "Boltzmann constant times temperature", joule)

# Digital device
F = _new("F", "peak rate of operations", 1 / second)
eta = _new("eta", "fraction of the peak that a kernel achieves", high=1)
B_M = _new("B_M", "memory bandwidth", bit / second)
word = _new("b_w", "bytes of a number in memory", byte, low=1)

# Quantum device
alpha = _new("alpha", "constant of the discrete adiabatic method for linear systems")
toffolis = _new("n_T", "Toffoli gates of one query", low=1)
t_toffoli = _new("t_T", "time of one Toffoli gate", second)

# Constants that no reference fixes
c_eigh = _new("c_eigh", "operations of a symmetric eigendecomposition over n^3", low=4 / 3, high=9)
c_svd = _new("c_svd", "operations of a full singular value decomposition over n^3", low=20, high=22)
c_gamma = _new("c_gamma", "operations of one draw from a gamma distribution, on average")
c_lyapunov = _new("c_lyap", "operations of a Bartels-Stewart solve over n^3", low=27, high=35)
hidden = _new("K", "constant that a statement of order leaves out: unknown until somebody gives it")


def check_values(values: Mapping[sp.Symbol, Any]) -> dict[sp.Symbol, float]:
    """Return numbers for symbols, checked against the glossary.

    Parameters
    ----------
    values : mapping of symbols to numbers
        Symbols outside of the glossary need only be finite and positive.

    Returns
    -------
    dict of symbols to floats

    Raises
    ------
    ValueError
        If a key is no symbol, or a value is not finite, not positive or out of range.

    Examples
    --------
    >>> check_values({n: 3})
    {n: 3.0}
    >>> check_values({kappa: 0.5})
    Traceback (most recent call last):
    ...
    ValueError: kappa (condition number, largest over smallest eigenvalue, after damping) must be from 1 to inf, got 0.5
    """
    checked = {}
    for symbol, value in values.items():
        if not isinstance(symbol, sp.Symbol):
            raise ValueError(f"values must have symbols for keys, such as symbols.n, got {symbol!r}")
        try:
            number = float(value)
        except TypeError:
            raise ValueError(f"{symbol} must be a number, got {value!r}") from None
        meaning = GLOSSARY.get(symbol, Meaning("no entry in the glossary"))
        if not (0 < number < inf and meaning.low <= number <= meaning.high):
            span = f"positive and at most {meaning.high:g}" if meaning.low == 0 else f"from {meaning.low:g} to"
            span = span if meaning.low == 0 else f"{span} {meaning.high:g}"
            raise ValueError(f"{symbol} ({meaning.text}) must be {span}, got {number:g}")
        checked[symbol] = number
    return checked


def canonical(expr: sp.Expr) -> sp.Expr:
    """Return an expression in the symbols of the glossary, in place of others with the same names.

    Symbols with other assumptions differ from those of the glossary although they print alike, such as sizes of a
    traced program, which are whole.

    Parameters
    ----------
    expr : sympy expression

    Returns
    -------
    sympy expression

    Raises
    ------
    ValueError
        If a name has no entry in the glossary.

    Notes
    -----
    Names are all that is compared: whether they mean the same is for the caller to know.

    Examples
    --------
    >>> size = sp.Symbol("n", positive=True, integer=True)
    >>> size == n, canonical(size) == n
    (False, True)
    """
    names = {symbol.name: symbol for symbol in GLOSSARY}
    left = sorted(symbol.name for symbol in expr.free_symbols if symbol.name not in names)
    if left:
        raise ValueError(f"{', '.join(left)} has no entry in the glossary: use the names of complexity.symbols")
    return expr.subs({symbol: names[symbol.name] for symbol in expr.free_symbols}, simultaneous=True)
