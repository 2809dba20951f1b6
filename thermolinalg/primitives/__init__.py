"""The primitives: each encodes a problem as a process, runs it, and decodes a statistic."""

from thermolinalg.primitives.expm import expm as expm
from thermolinalg.primitives.extremes import extremes as extremes
from thermolinalg.primitives.gaussian import gaussian as gaussian
from thermolinalg.primitives.inverse import inv as inv
from thermolinalg.primitives.logdet import logdet as logdet
from thermolinalg.primitives.lyapunov import lyapunov as lyapunov
from thermolinalg.primitives.solve import solve as solve
