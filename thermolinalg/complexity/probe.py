"""What the processor at hand reaches, measured in about a second."""

import os
import platform
import time
from collections.abc import Callable
from datetime import date
from statistics import median

import numpy as np

from thermolinalg.complexity.constants import Constant, Origin, not_found
from thermolinalg.complexity.hardware import Chip


def probe_cpu(seconds: float = 1.0) -> Chip:
    """Measure products of matrices and copies of memory on this processor.

    Parameters
    ----------
    seconds : float, > 0
        Spent in all, about; at least three runs of each kernel are made.

    Returns
    -------
    Chip
        With status measured: the median of the runs, fastest and slowest run as interval.

    Raises
    ------
    ValueError
        If `seconds` is not positive.

    Notes
    -----
    Products reach near the peak, so the rates are *achieved* ones: use them with a fraction of 1. They hold for the
    threads that NumPy was given, on a machine that does nothing else. A copy counts as one read and one write.
    Power is not measured, and stays not found.

    Examples
    --------
    >>> cpu = probe_cpu(0.05)
    >>> cpu.fp64.status.value, cpu.power.known
    ('measured', False)
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    today = date.today().strftime("%Y-%m")
    source = f"this machine, {platform.machine()}, {os.cpu_count()} processors; NumPy {np.__version__}"
    random = np.random.default_rng(0)
    size, megabytes = 512, 64

    def measured(name: str, unit: str, work: float, action: Callable[[], object]) -> Constant:
        low, middle, high = _rates(work, action, seconds / 3)
        return Constant(f"CPU {name}", middle, unit, source, today, Origin.MEASURED, low, high)

    def product(dtype: type) -> Callable[[], object]:
        left: np.ndarray = random.standard_normal((size, size)).astype(dtype)
        out = np.empty_like(left)
        return lambda: np.matmul(left, left, out=out)

    origin = np.ones(megabytes * 2**17)
    target = np.empty_like(origin)

    def absent(name: str, unit: str) -> Constant:
        return not_found(f"CPU {name}", unit, "not measured", today)

    try:
        memory = Constant(
            "CPU memory",
            float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
            "B",
            source,
            today,
            Origin.MEASURED,
        )
    except (AttributeError, ValueError, OSError):
        memory = absent("memory", "B")
    return Chip(
        "CPU",
        fp64=measured("fp64 rate", "flop/s", 2.0 * size**3, product(np.float64)),
        fp32=measured("fp32 rate", "flop/s", 2.0 * size**3, product(np.float32)),
        tf32=absent("tf32 rate", "flop/s"),
        bf16=absent("bf16 rate", "flop/s"),
        byte=absent("byte rate", "flop/s"),
        bandwidth=measured("bandwidth", "B/s", 2.0 * origin.nbytes, lambda: np.copyto(target, origin)),
        memory=memory,
        power=absent("power", "W"),
    )


def _rates(work: float, action: Callable[[], object], seconds: float) -> tuple[float, float, float]:
    """Slowest, median and fastest work per second, after one run that is not counted."""
    action()
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while len(rates) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        action()
        rates.append(work / (time.perf_counter() - start))
    return min(rates), median(rates), max(rates)
