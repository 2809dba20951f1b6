"""Bridges to lineax, SciPy and diffrax; loads lineax, and is therefore not part of ``import thermolinalg``."""

from thermolinalg.interop.host import as_linear_operator as as_linear_operator
from thermolinalg.interop.host import from_linear_operator as from_linear_operator
from thermolinalg.interop.lineax_solver import SolverState as SolverState
from thermolinalg.interop.lineax_solver import ThermodynamicSolver as ThermodynamicSolver
from thermolinalg.interop.terms import as_diffrax_terms as as_diffrax_terms
