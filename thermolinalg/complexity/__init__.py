"""What things cost as formulas: derived with symbols, apart from the numbers that the rest of the package works with.

Import it by name, ``from thermolinalg import complexity``: it loads SymPy.
"""

from thermolinalg.complexity.ledger import Formulas as Formulas
from thermolinalg.complexity.ledger import SymbolicLedger as SymbolicLedger
from thermolinalg.complexity.ledger import best_case_joules as best_case_joules
from thermolinalg.complexity.ledger import linear as linear
from thermolinalg.complexity.ledger import moments as moments
from thermolinalg.complexity.ledger import settings as settings
