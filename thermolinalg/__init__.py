"""Thermodynamic linear algebra: what coupled noisy oscillators compute, simulated exactly in law."""

from thermolinalg import plan as plan
from thermolinalg.certify import Certificate as Certificate
from thermolinalg.certify import certify as certify
from thermolinalg.cost import Ledger as Ledger
from thermolinalg.cost import cost as cost
from thermolinalg.device import Device as Device
from thermolinalg.device import Link as Link
from thermolinalg.device import Program as Program
from thermolinalg.drifts import General as General
from thermolinalg.dynamics import Overdamped as Overdamped
from thermolinalg.dynamics import Underdamped as Underdamped
from thermolinalg.free_energy import BennettRatio as BennettRatio
from thermolinalg.free_energy import Jarzynski as Jarzynski
from thermolinalg.free_energy import ThermodynamicIntegration as ThermodynamicIntegration
from thermolinalg.operators import Dense as Dense
from thermolinalg.operators import Diagonal as Diagonal
from thermolinalg.operators import Kronecker as Kronecker
from thermolinalg.operators import LowRank as LowRank
from thermolinalg.operators import MatrixFree as MatrixFree
from thermolinalg.operators import as_operator as as_operator
from thermolinalg.plan import Plan as Plan
from thermolinalg.primitives import expm as expm
from thermolinalg.primitives import extremes as extremes
from thermolinalg.primitives import gaussian as gaussian
from thermolinalg.primitives import inv as inv
from thermolinalg.primitives import logdet as logdet
from thermolinalg.primitives import lyapunov as lyapunov
from thermolinalg.primitives import solve as solve
from thermolinalg.process import OrnsteinUhlenbeck as OrnsteinUhlenbeck
from thermolinalg.simulators import Law as Law
from thermolinalg.simulators import Schedule as Schedule
from thermolinalg.simulators import State as State
from thermolinalg.simulators import Trajectory as Trajectory
from thermolinalg.solution import Solution as Solution
from thermolinalg.solution import SolutionError as SolutionError
from thermolinalg.solution import Status as Status
from thermolinalg.spectrum import Spectrum as Spectrum

__version__ = "0.1.0"
