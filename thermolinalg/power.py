"""What the parts of a device draw: its cells, and its converters."""

from math import log

from thermolinalg.converters import Converter
from thermolinalg.device import Device
from thermolinalg.laws import Scalar
from thermolinalg.ranges import check_count, check_positive


def cell_watts(device: Device, dim: int, replicas: int = 1) -> Scalar:
    """Watts that the cells of all replicas draw while they run."""
    return device.cell_power * dim * replicas


def conversion_joules(converter: Converter) -> float:
    """Joules of one conversion: as given, else the best case."""
    if converter.joules is not None:
        return float(converter.joules)
    return best_case_joules(float(converter.bits), float(converter.rate))


def best_case_joules(bits: float, rate: float) -> float:
    r"""Energy of one conversion by the most efficient converters that were ever published.

    .. math:: E = \tfrac12\, 10^{(\mathrm{SNDR} - \mathrm{FOM})/10}, \qquad
        \mathrm{SNDR} = 6.02\,n + 1.76, \qquad \mathrm{FOM} = \min(180.14,\; 302.74 - 6.461 \ln f).

    Parameters
    ----------
    bits : float, >= 1
        n; taken as effective bits.
    rate : float, > 0
        f, conversions per second.

    Returns
    -------
    float
        Joules.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    An envelope of analog-to-digital converters: a best case, and no typical one. Every bit costs four times as much. No
    survey of digital-to-analog converters was found; they are taken alike.

    References
    ----------
    B. Murmann, *ADC performance survey*; the envelope is the one that the ADC plug-in of Accelergy fits to it.

    Examples
    --------
    >>> [f"{best_case_joules(bits, 1e8):.1e}" for bits in (8, 12, 16)]
    ['4.8e-14', '1.2e-11', '3.1e-09']
    """
    check_count(bits=bits)
    check_positive(rate=rate)
    merit = min(180.14, 302.74 - 6.461 * log(rate))
    return 10 ** ((6.02 * bits + 1.76 - merit) / 10) / 2
