"""The primitives: each encodes a problem as a process, runs it, and decodes a statistic."""

from thermolinalg.primitives.solve import solve as solve
