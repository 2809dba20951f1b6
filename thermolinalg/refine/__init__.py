"""Refinement: answers to many digits, from short runs of a noisy device and exact digital residuals."""

from thermolinalg.refine.inverse import inv as inv
from thermolinalg.refine.preconditioned import conjugate_gradients as conjugate_gradients
from thermolinalg.refine.preconditioned import pcg as pcg
from thermolinalg.refine.rates import contraction as contraction
from thermolinalg.refine.rates import plan as plan
from thermolinalg.refine.scaling import unit_diagonal as unit_diagonal
from thermolinalg.refine.systems import solve as solve
from thermolinalg.refine.updates import Iterate as Iterate
from thermolinalg.refine.updates import Update as Update
from thermolinalg.refine.updates import flexible_cg as flexible_cg
from thermolinalg.refine.updates import richardson as richardson
