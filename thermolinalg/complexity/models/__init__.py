"""Costs of algorithms as formulas, one module for each family of them."""

from thermolinalg.complexity.models import descent as descent
from thermolinalg.complexity.models import direct as direct
from thermolinalg.complexity.models import iterative as iterative
from thermolinalg.complexity.models import kronecker as kronecker
from thermolinalg.complexity.models import optimizers as optimizers
from thermolinalg.complexity.models import quantum as quantum
from thermolinalg.complexity.models import simulation as simulation
from thermolinalg.complexity.models import thermodynamic as thermodynamic
from thermolinalg.complexity.models import traffic as traffic
