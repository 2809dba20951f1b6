"""How a verb got its answer, in words for :meth:`thermolinalg.Solution.explain`."""

from thermolinalg.device import Device
from thermolinalg.dynamics import Overdamped
from thermolinalg.integrator import Integrator
from thermolinalg.simulators import Law, Simulator


def drawn(simulator: Simulator) -> str:
    """How a reading is obtained."""
    if isinstance(simulator, Law):
        return "drawn from its long-time law" if simulator.long_time else "drawn from its law"
    if isinstance(simulator, Integrator):
        return f"integrated step by step with {type(simulator.cells).__name__.lower()} cells"
    return "walked in exact steps"


def process(device: Device) -> str:
    """What the device runs, and how that is simulated."""
    kind = "an overdamped" if isinstance(device.dynamics, Overdamped) else "an underdamped"
    return f"{kind} process, {drawn(device.simulator)}"
