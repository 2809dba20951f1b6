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
        Transfer of the right-hand sides, or of what takes their place.
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


def cost(
    plan: Plan,
    device: Device | None = None,
    *,
    dim: int,
    columns: int = 1,
    loaded: int | None = None,
    read: int | None = None,
) -> Ledger:
    r"""Price a run before anything runs.

    .. math:: T = \frac{n_\text{bits}(d^2 + n_\text{in})}{r} + k\,t_c\,(t_0 + \tau)
        + \frac{n_\text{bits}\,n_\text{out}}{r}

    Parameters
    ----------
    plan : Plan
        Times; its ``clock`` turns them into time constants of the device, its ``replicas`` multiply the transfers.
    device : Device, optional
        For its time constant and link.
    dim, columns : int, >= 1
        Unknowns d and right-hand sides k, run one after another.
    loaded, read : int, >= 0, optional
        Numbers that go to the device beside the couplings, and that come back; by default the dk of a linear system
        both. An inverse loads none and reads d squared.

    Returns
    -------
    Ledger

    Raises
    ------
    ValueError
        If `dim` or `columns` is not positive, or `loaded` or `read` is negative.

    Notes
    -----
    One physical array holds the whole matrix. Replicas run at the same time, and share the link. Energy, converters and
    idle time are not priced.

    Examples
    --------
    >>> ledger = cost(Plan(burn_in=5.0, duration=95.0), dim=1000)
    >>> round(ledger.program * 1e6), round(ledger.analog * 1e6)     # microseconds
    (320, 100)
    """
    if dim < 1 or columns < 1:
        raise ValueError(f"dim and columns must be at least 1, got {dim} and {columns}")
    counts = [dim * columns if given is None else given for given in (loaded, read)]
    if min(counts) < 0:
        raise ValueError(f"loaded and read must not be negative, got {loaded} and {read}")
    device = Device() if device is None else device
    number = plan.replicas * device.link.bits / device.link.rate
    second = columns * device.time_constant * float(plan.clock)
    return Ledger(
        program=number * dim**2,
        load=number * counts[0],
        settle=second * float(plan.burn_in),
        average=second * float(plan.duration),
        read=number * counts[1],
    )
