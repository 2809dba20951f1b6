"""What a plan costs on a device, in seconds."""

from dataclasses import dataclass

from thermolinalg.device import Device
from thermolinalg.plan import Plan


@dataclass(frozen=True)
class Ledger:
    """Seconds spent on each part of a run.

    Attributes
    ----------
    program : float
        Transfer of the couplings, d squared numbers.
    load : float
        Transfer of the right-hand sides.
    settle : float
        Burn-in.
    average : float
        Averaging.
    read : float
        Transfer of the answers.
    """

    program: float
    load: float
    settle: float
    average: float
    read: float

    @property
    def analog(self) -> float:
        """Time in which the device relaxes."""
        return self.settle + self.average

    @property
    def total(self) -> float:
        """Time of the whole run."""
        return self.program + self.load + self.analog + self.read


def cost(plan: Plan, device: Device | None = None, *, dim: int, columns: int = 1) -> Ledger:
    r"""Price a solve before anything runs.

    .. math:: T = \frac{n_\text{bits}(d^2 + dk)}{r} + k\,t_c\,(t_0 + \tau) + \frac{n_\text{bits}\,dk}{r}

    Parameters
    ----------
    plan : Plan
        Times; its ``clock`` turns them into time constants of the device.
    device : Device, optional
        For its time constant and link.
    dim, columns : int, >= 1
        Unknowns d and right-hand sides k, run one after another.

    Returns
    -------
    Ledger

    Raises
    ------
    ValueError
        If `dim` or `columns` is not positive.

    Notes
    -----
    One physical array holds the whole matrix. Energy, converters and idle time are not priced.

    Examples
    --------
    >>> ledger = cost(Plan(burn_in=5.0, duration=95.0), dim=1000)
    >>> round(ledger.program * 1e6), round(ledger.analog * 1e6)     # microseconds
    (320, 100)
    """
    if dim < 1 or columns < 1:
        raise ValueError(f"dim and columns must be at least 1, got {dim} and {columns}")
    device = Device() if device is None else device
    number = device.link.bits / device.link.rate
    second = columns * device.time_constant * float(plan.clock)
    return Ledger(
        program=number * dim**2,
        load=number * dim * columns,
        settle=second * float(plan.burn_in),
        average=second * float(plan.duration),
        read=number * dim * columns,
    )
