"""Symmetric operators with a functional calculus."""

from thermolinalg.operators.base import Function as Function
from thermolinalg.operators.base import Modal as Modal
from thermolinalg.operators.base import Operator as Operator
from thermolinalg.operators.base import implicit_inverse as implicit_inverse
from thermolinalg.operators.base import implicit_solve as implicit_solve
from thermolinalg.operators.convert import DENSE_LIMIT as DENSE_LIMIT
from thermolinalg.operators.convert import all_finite as all_finite
from thermolinalg.operators.convert import as_block as as_block
from thermolinalg.operators.convert import as_inexact as as_inexact
from thermolinalg.operators.convert import as_operator as as_operator
from thermolinalg.operators.convert import is_concrete as is_concrete
from thermolinalg.operators.matrix_free import MatrixFree as MatrixFree
from thermolinalg.operators.modal import Dense as Dense
from thermolinalg.operators.modal import Diagonal as Diagonal
from thermolinalg.operators.modal import Kronecker as Kronecker
from thermolinalg.operators.modal import LowRank as LowRank
