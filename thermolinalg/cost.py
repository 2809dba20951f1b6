"""What a plan costs on a device and its host, in seconds and joules."""

from dataclasses import dataclass

from thermolinalg.converters import Converter
from thermolinalg.device import Device, Link
from thermolinalg.ledger import Ledger, Parts, metric
from thermolinalg.operators import is_concrete
from thermolinalg.plan import Plan, check_plan
from thermolinalg.power import cell_watts, conversion_joules
from thermolinalg.ranges import check_count, check_not_negative, check_positive, check_whole


@dataclass(frozen=True)
class Host:
    """The digital computer beside the device.

    Attributes
    ----------
    rate : float, > 0
        Floating-point operations per second.
    joules : float, >= 0
        Of one operation.

    Notes
    -----
    The defaults are the datasheet of an H100 SXM in single precision, 66.9 Tflop/s at 700 W: the best it can do, which
    work of low arithmetic intensity does not reach.
    """

    rate: float = 66.9e12
    joules: float = 1.05e-11

    def __post_init__(self) -> None:
        check_positive(rate=self.rate)
        check_not_negative(joules=self.joules)


def cost(
    plan: Plan,
    device: Device | None = None,
    *,
    dim: int,
    columns: int = 1,
    writes: int = 1,
    loaded: float | None = None,
    read: float | None = None,
    flops: float = 0.0,
    components: int = 1,
    host: Host | None = None,
) -> Ledger:
    r"""Price a run before anything runs.

    .. math:: T = \frac{n_\text{bits}(w d^2 + n_\text{in} + n_\text{out})}{r} + k\,t_c\,(t_0 + \tau)
        + T_\text{convert} + \frac{n_\text{flops}}{r_\text{host}}

    .. math:: E = n_\text{bits}(w d^2 + n_\text{in} + n_\text{out})\,e_\text{bit} + d\,P_\text{cell}\,k\,t_c\,(t_0 +
        \tau) + E_\text{convert} + n_\text{flops}\,e_\text{flop} + P_\text{idle}\,T

    Parameters
    ----------
    plan : Plan
        Times; its ``clock`` turns them into time constants of the device. Its ``replicas`` multiply transfers,
        conversions and energy.
    device : Device, optional
        For its time constant, link, converters and power.
    dim, columns : int, >= 1
        Unknowns d, one cell each, and right-hand sides k, run one after another.
    writes : int, >= 0
        How often the couplings are written, w; 0 where they stay as they are.
    loaded, read : float, >= 0, optional
        Numbers that go to the device beside the couplings, and that come back, of one replica. By default those of a
        linear system: dk go in, and dk come back, or all samples of them if the plan is read at samples, and the host
        adds up what is not the answer already.
    flops : float, >= 0
        Further operations of the host; all of them if `read` is given.
    components : int, 1 or 2
        Real parts of an entry: 2 where couplings and operands are complex.
    host : Host, optional

    Returns
    -------
    Ledger
        Seconds and joules of every part, which print as a table.

    Raises
    ------
    ValueError
        If a size or count is out of range, or a time of the plan is not known, not finite or negative.

    Notes
    -----
    One physical array holds the whole matrix. Nothing overlaps but sampling: see :func:`thermolinalg.hybrid.pipeline`
    for what overlap saves. Replicas run at the same time and share the link.

    A continuous average is formed by the device: each number of the answer is converted and transferred once. Samples
    are converted while the device runs, transferred, and averaged by the host; a converter that is slower than the
    spacing adds the time that it lags behind. Each cell has a converter of every kind, of which a device without
    converters has none. The host's moves of data, calibration, and what the host draws while it waits are not priced.
    What the prices rest on is listed below the table.

    Examples
    --------
    >>> ledger = cost(Plan(burn_in=5.0, duration=95.0), dim=1000)
    >>> round(ledger.program * 1e6), round(ledger.analog * 1e6)     # microseconds
    (320, 100)
    >>> print(ledger)
    part     seconds   joules
    program  320 µs    80 µJ    a
    load     320 ns    80 nJ    a
    settle   5 µs      500 nJ   b
    average  95 µs     9.5 µJ   b
    read     320 ns    80 nJ    a
    total    421 µs    90.2 µJ
    a: assumed, 5 pJ per bit on the link
    b: assumed, 100 µW for each cell that runs
    """
    device = Device() if device is None else device
    host = Host() if host is None else host
    check_whole("dim", dim, 1)
    check_whole("columns", columns, 1)
    check_whole("writes", writes, 0)
    check_whole("components", components, 1)
    if components > 2:
        raise ValueError(f"components must be 1, or 2 for complex entries, got {components}")
    check_not_negative(loaded=loaded, read=read, flops=flops)
    if not is_concrete(plan, device):
        raise ValueError("a price needs numbers, which there are none of inside jit, vmap or grad")
    check_plan(plan)
    sampled, answer = plan.samples is not None, dim * columns
    states = float(plan.samples) if plan.samples is not None else 1.0
    if read is None:
        read = states * answer
        flops += components * plan.replicas * read if sampled or plan.replicas > 1 else 0
    couplings = float(components * writes * dim**2)
    entered, left = (components * float(n) for n in (answer if loaded is None else loaded, read))
    run = columns * float(device.time_constant) * float(plan.clock)
    average, link = run * float(plan.duration), device.link
    # Each cell has its own converters, so that as many numbers are converted at once as there are cells.
    lag = _seconds(device.adc, left / dim)
    lag = max(lag - average, 0.0) if sampled else lag
    seconds = Parts(
        program=plan.replicas * couplings * link.bits / link.rate,
        load=plan.replicas * entered * link.bits / link.rate,
        settle=run * float(plan.burn_in),
        average=average,
        read=plan.replicas * left * link.bits / link.rate,
        convert=_seconds(device.matrix_dac, couplings / dim) + _seconds(device.force_dac, entered / dim) + lag,
        digital=float(flops) / host.rate,
    )
    watts, bit = float(cell_watts(device, dim, plan.replicas)), plan.replicas * link.bits * link.joules
    converted = _joules(device.matrix_dac, couplings) + _joules(device.force_dac, entered) + _joules(device.adc, left)
    joules = Parts(
        program=couplings * bit,
        load=entered * bit,
        settle=watts * seconds.settle,
        average=watts * seconds.average,
        read=left * bit,
        convert=plan.replicas * converted,
        digital=float(flops) * host.joules,
    )
    return Ledger(seconds, joules, plan.replicas * float(device.idle_power), _assumed(device, host))


def cost_moments(
    plan: Plan,
    device: Device | None = None,
    *,
    dim: int,
    states: int = 1,
    loaded: float = 0.0,
    writes: int = 1,
    flops: float = 0.0,
    components: int = 1,
    host: Host | None = None,
) -> Ledger:
    r"""Price a run whose second moments are read, as those of inverses, Lyapunov equations and exponentials are.

    Parameters
    ----------
    plan, device, dim, writes, components, host
        As for :func:`cost`.
    states : int, 1 or 2
        States that are read for one sample: 2 where products of two times are averaged, for an exponential.
    loaded : float, >= 0
        Numbers that go to the device beside the couplings: the :math:`d^2` of the noise of a Lyapunov equation, say.
    flops : float, >= 0
        Operations of the host beside averaging.

    Returns
    -------
    Ledger

    Raises
    ------
    ValueError
        As :func:`cost`.

    Notes
    -----
    From N samples all :math:`Nd` numbers are converted and transferred, and the host does :math:`Nd^2` multiply-adds,
    two operations each. Products that are averaged continuously are averaged by the device: what comes back are
    the :math:`d(d + 1)/2` entries of a symmetric matrix, or the :math:`d^2` of another.

    Examples
    --------
    >>> sampled, continuous = (cost_moments(Plan(0.0, 1e5, n), dim=100) for n in (10**5, None))
    >>> f"{sampled.read / continuous.read:.0f} times as much is read"
    '1980 times as much is read'
    """
    check_whole("states", states, 1)
    check_whole("dim", dim, 1)
    if states > 2:
        raise ValueError(f"states must be 1 or 2, got {states}")
    check_count(samples=plan.samples)
    read: float = dim * (dim + 1) // 2 if states == 1 else dim**2
    work = float(components * plan.replicas * read if plan.replicas > 1 else 0)
    if plan.samples is not None and is_concrete(plan):
        samples = float(plan.samples)
        read, work = states * samples * dim, 2.0 * components**2 * plan.replicas * samples * dim**2
    check_not_negative(flops=flops)
    return cost(
        *(plan, device),
        dim=dim,
        writes=writes,
        loaded=loaded,
        read=read,
        flops=flops + work,
        components=components,
        host=host,
    )


def _seconds(converter: Converter | None, numbers: float) -> float:
    return 0.0 if converter is None else numbers / float(converter.rate)


def _joules(converter: Converter | None, numbers: float) -> float:
    return 0.0 if converter is None else numbers * conversion_joules(converter)


def _assumed(device: Device, host: Host) -> tuple[tuple[str, str], ...]:
    """Parts and what their prices assume: every figure that was left as it is by default, and has no better source."""
    found: list[tuple[str, str]] = []
    if device.link.joules == Link.joules:
        found += [(part, f"{metric(Link.joules, 'J')} per bit on the link") for part in ("program", "load", "read")]
    if device.cell_power == Device.cell_power:
        found += [(part, f"{metric(Device.cell_power, 'W')} for each cell that runs") for part in ("settle", "average")]
    converters = [part for part in (device.matrix_dac, device.force_dac, device.adc) if part is not None]
    if any(part.joules is None for part in converters):
        found.append(("convert", "conversions at the best energy ever published for their bits and rate, DAC like ADC"))
    if any(float(part.rate) == Converter.rate for part in converters):
        found.append(
            ("convert", f"{Converter.rate:g} conversions per second by a converter, one of each kind per cell")
        )
    if host == Host():
        found.append(("digital", "a host at the peak of its datasheet (H100, FP32)"))
    return tuple(found)
