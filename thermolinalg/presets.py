"""Devices by name, each with the source of its figures."""

from thermolinalg.chips import Chip
from thermolinalg.circuits import RC
from thermolinalg.converters import Converter
from thermolinalg.device import Device, Link
from thermolinalg.dynamics import Capacitive
from thermolinalg.laws import Scalar
from thermolinalg.ranges import check_positive


def ideal(beta: Scalar = 1.0) -> Device:
    """Return the device that does what its equation says, and nothing else.

    Parameters
    ----------
    beta : float, > 0
        Inverse temperature.

    Notes
    -----
    Its time constant and link, which no answer depends on, are those of :func:`rc`.

    Examples
    --------
    >>> ideal().exact
    True
    """
    return Device(beta=beta)


def rc(bits: Scalar = 16, beta: Scalar = 100.0, chip: Chip | None = None) -> Device:
    """Return the resistor-capacitor device of a published timing model.

    Parameters
    ----------
    bits : int, >= 1
        Of all converters.
    beta : float, > 0
        Inverse temperature of the injected noise; 100 is the noise variance 0.01 below which the authors saw no effect.
    chip : Chip, optional
        Mismatch and faults; none by default.

    Notes
    -----
    1 kOhm and 1 nF make a time constant of 1 us; numbers of 16 bits come and go at 50 Gb/s. Published are these; that
    the converters have the bits of the link is our reading. The power of a cell, 0.1 mW, is an assumption.

    References
    ----------
    Donatella et al., *Thermodynamic natural gradient descent*, arXiv:2405.13817, appendix.

    Examples
    --------
    >>> device = rc(bits=8)
    >>> round(1e6 * device.time_constant, 6), device.adc.bits
    (1.0, 8)
    """
    converter = Converter(bits)
    return Device(
        beta=beta,
        time_constant=float(RC().time_constant),
        link=Link(bits=16, rate=50e9),
        matrix_dac=converter,
        force_dac=converter,
        adc=converter,
        chip=chip,
    )


def lc8(bits: Scalar = 12, beta: Scalar = 1.0, quality: Scalar | None = None, chip: Chip | None = None) -> Device:
    """Return the unit of eight oscillators, coupled all to all by switched capacitors.

    Parameters
    ----------
    bits : int, >= 1
        Of the capacitors and of the read-out.
    beta : float, > 0
        Inverse temperature of the injected noise.
    quality : float, > 0, optional
        Quality factor of a cell; by default the one that is critical for the slowest mode.
    chip : Chip, optional
        Mismatch and faults; none by default.

    Notes
    -----
    It inverts and samples matrices of up to eight unknowns that capacitors can realise: no positive entry beside the
    diagonal, no row with a negative sum. It does not solve linear systems: inductors take steady currents.

    Published are the number of cells, their circuit and how they are coupled. Values of its parts, its noise and its
    converters were not found: `bits`, `beta` and `quality` are assumptions, as is the time constant of 1 us, the order
    of magnitude that arXiv:2410.12211 quotes for such devices.

    References
    ----------
    Melanson et al., *Thermodynamic computing system for AI applications*, arXiv:2312.04836.

    Examples
    --------
    >>> lc8().cells
    8
    """
    check_positive(quality=quality)
    converter = Converter(bits)
    return Device(
        beta=beta,
        dynamics=Capacitive(None if quality is None else 1 / quality),
        time_constant=1e-6,
        matrix_dac=converter,
        adc=converter,
        chip=chip,
        cells=8,
    )
