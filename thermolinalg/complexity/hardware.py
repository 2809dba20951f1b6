"""What chips and devices can do, by their makers, by papers, or by nobody yet.

Peaks are dense, of one chip. Two traps stand behind many tables: a peak for matrices with two zeros in every four
entries is twice the dense one, and a board of four chips, or a host of eight, is set against one chip.
"""

from dataclasses import dataclass, fields, replace

import sympy as sp

from thermolinalg.complexity.constants import Constant, Origin, not_found
from thermolinalg.complexity.ledger import best_case_joules
from thermolinalg.complexity.symbols import B_L, C, P_cell, V, e_bit, tau, thermal, w

DATE = "2026-11"
BOLTZMANN = 1.380649e-23
"""In J/K, exact in the units of 2019; formulas import no numerical library."""
LOCKWOOD = "glennklockwood.com/garden/processors/"
GOOGLE = "docs.cloud.google.com/tpu/docs/"
SURVEY = "brendanjameslynskey.github.io, overview of TPU generations, after the vendor's pages"


@dataclass(frozen=True)
class Chip:
    """A digital chip.

    Parameters
    ----------
    name : str
    fp64, fp32, tf32, bf16, byte : Constant, flop/s
        Dense peaks by the precision of the operands: `fp64` and `fp32` without matrix units, `tf32`, `bf16` (or FP16)
        and `byte` (FP8 or INT8) with them.
    bandwidth : Constant, B/s
        Of its memory.
    memory : Constant, B
    power : Constant, W
        The limit of the board for GPUs, the measured mean for TPUs: not like for like.

    Raises
    ------
    ValueError
        If a unit is wrong, or a peak is more than twice that of operands twice as wide: a sign of a sparse peak.

    Notes
    -----
    Halving the operands at most doubles the dense rate of matrix units, on every chip listed here. A table that is
    sparse throughout passes this test, and so does a board taken for a chip.

    Examples
    --------
    >>> float(H100.fp32) / 1e12, H100.fp32.status.value
    (66.9, 'datasheet')
    >>> import dataclasses
    >>> dataclasses.replace(H100, bf16=dataclasses.replace(H100.bf16, value=1978.9e12, high=1978.9e12))
    Traceback (most recent call last):
        ...
    ValueError: H100 bf16 peak is 4 times H100 tf32 peak, which halving the operands does not do; give the dense peak, \
not the sparse one
    """

    name: str
    fp64: Constant
    fp32: Constant
    tf32: Constant
    bf16: Constant
    byte: Constant
    bandwidth: Constant
    memory: Constant
    power: Constant

    def __post_init__(self) -> None:
        for peak in (self.fp64, self.fp32, self.tf32, self.bf16, self.byte):
            peak.need("flop/s")
        self.bandwidth.need("B/s")
        self.memory.need("B")
        self.power.need("W")
        for wide, narrow in ((self.tf32, self.bf16), (self.bf16, self.byte)):
            if wide.known and narrow.known and (ratio := float(narrow) / float(wide)) > 2.05:
                raise ValueError(
                    f"{narrow.name} is {ratio:.3g} times {wide.name}, which halving the operands does not do; give the "
                    "dense peak, not the sparse one"
                )


@dataclass(frozen=True)
class QuantumComputer:
    """A fault-tolerant quantum computer.

    Parameters
    ----------
    name : str
    toffoli : Constant, s
        Time of a Toffoli gate with one factory of magic states.
    cycle, reaction : Constant, s
        Code cycle; time to measure, decode and react.
    physical_error : Constant, 1
        Of a gate.
    toffolis_of_query : Constant, 1
        Toffoli gates of one block encoding.
    shot : Constant, s
        One circuit and its measurement, without error correction.
    power : Constant, W

    Examples
    --------
    >>> float(SURFACE_CODE.toffoli)
    0.00017
    """

    name: str
    toffoli: Constant
    cycle: Constant
    reaction: Constant
    physical_error: Constant
    toffolis_of_query: Constant
    shot: Constant
    power: Constant

    def __post_init__(self) -> None:
        for time in (self.toffoli, self.cycle, self.reaction, self.shot):
            time.need("s")
        self.physical_error.need("1")
        self.toffolis_of_query.need("1")
        self.power.need("W")


@dataclass(frozen=True)
class AnalogDevice:
    """A device of coupled nodes that relaxes to its answer.

    Parameters
    ----------
    name : str
    time_constant : Constant, s
        Of a node, for a matrix scaled to a largest eigenvalue of 1. That it does not grow with the size is assumed.
    capacitance : Constant, F
    voltage : Constant, V
        Every node is taken at this voltage, which is pessimistic.
    temperature : Constant, K
    cell_power : Constant, W
        Bias of a node.
    nodes : Constant, cell
        Side of the largest array.
    link : Constant, bit/s
        Between host and device.
    word : Constant, bit
        Sent for one number.
    link_energy : Constant, J/bit
    adc_energy, dac_energy : Constant, J/conversion

    Examples
    --------
    >>> float(RC_DEVICE.time_constant), float(RC_DEVICE.link)
    (1e-06, 50000000000.0)
    """

    name: str
    time_constant: Constant
    capacitance: Constant
    voltage: Constant
    temperature: Constant
    cell_power: Constant
    nodes: Constant
    link: Constant
    word: Constant
    link_energy: Constant
    adc_energy: Constant
    dac_energy: Constant

    def __post_init__(self) -> None:
        units = ("s", "F", "V", "K", "W", "cell", "bit/s", "bit", "J/bit", "J/conversion", "J/conversion")
        for field, unit in zip(fields(self)[1:], units, strict=True):
            getattr(self, field.name).need(unit)

    @property
    def values(self) -> dict[sp.Symbol, Constant]:
        r"""What the device puts in place of symbols, for :func:`thermolinalg.complexity.crossover` and its neighbours.

        .. math:: \tau, \quad w, \quad B_L, \quad C, \quad V, \quad P_\mathrm{cell}, \quad e_\mathrm{bit}, \quad
            kT = k_B\,T

        Notes
        -----
        A constant that was not found is left out, so that a cost without it can be had; one with it is refused for
        want of that symbol. The energy of a conversion is for the caller to choose: it differs between DAC and ADC.

        Examples
        --------
        >>> from thermolinalg.complexity.models.traffic import SOLVE_SECONDS
        >>> from thermolinalg.complexity.symbols import d, eps, k, kappa, q
        >>> round(SOLVE_SECONDS.at({**RC_DEVICE.values, d: 1000, kappa: 100, eps: 1e-2, k: 1, q: 1}), 6)
        0.000781
        """
        found = {
            tau: self.time_constant,
            w: self.word,
            B_L: self.link,
            C: self.capacitance,
            V: self.voltage,
            P_cell: self.cell_power,
            e_bit: self.link_energy,
        }
        if self.temperature.known:
            value, low, high = (BOLTZMANN * x for x in (float(self.temperature), *self.temperature.interval))
            found[thermal] = replace(self.temperature, name="thermal energy", value=value, low=low, high=high, unit="J")
        return {symbol: constant for symbol, constant in found.items() if constant.known}


def _sheet(name: str, value: float, unit: str, source: str) -> Constant:
    return Constant(name, value, unit, source, DATE, Origin.DATASHEET)


def _assumed(name: str, value: float, unit: str, source: str, factor: float = 1.0) -> Constant:
    return Constant(name, value, unit, source, DATE, Origin.ASSUMPTION, value / factor, value * factor)


def _peaks(chip: str, source: str, **peaks: float | None) -> dict[str, Constant]:
    """The peaks of a chip in flop/s; None where none was found."""
    return {
        kind: not_found(f"{chip} {kind} peak", "flop/s", f"none taken up from {source}", DATE)
        if peak is None
        else _sheet(f"{chip} {kind} peak", peak, "flop/s", source)
        for kind, peak in peaks.items()
    }


_V100 = "NVIDIA V100 SXM2, recalled: to be verified; PCIe board 14.13 and 7.07 TF, 897 GB/s"
V100 = Chip(
    "V100",
    _assumed("V100 fp64 peak", 7.8e12, "flop/s", _V100),
    _assumed("V100 fp32 peak", 15.7e12, "flop/s", _V100),
    not_found("V100 tf32 peak", "flop/s", "the chip has no such units", DATE),
    _sheet("V100 bf16 peak", 125e12, "flop/s", "developer.nvidia.com/programming-tensor-cores-cuda-9-0; FP16"),
    not_found("V100 byte peak", "flop/s", "the chip has no such units", DATE),
    _sheet("V100 bandwidth", 900e9, "B/s", "NVIDIA V100 SXM2"),
    _sheet("V100 memory", 16e9, "B", "techrival.com, after NVIDIA's announcement; a board of 32 GB came later"),
    _sheet("V100 power", 300, "W", "NVIDIA V100 SXM2, limit of the board"),
)
"""Its `bf16` is FP16, all that its matrix units take."""

A100 = Chip(
    "A100",
    **_peaks("A100", LOCKWOOD + "A100, SXM 80 GB", fp64=9.7e12, fp32=19.5e12, tf32=156e12, bf16=312e12, byte=None),
    bandwidth=_sheet("A100 bandwidth", 2039e9, "B/s", LOCKWOOD + "A100, SXM 80 GB; 40 GB: 1555 GB/s"),
    memory=_sheet("A100 memory", 80e9, "B", LOCKWOOD + "A100"),
    power=_sheet("A100 power", 400, "W", LOCKWOOD + "A100, limit of the board"),
)

_HOPPER = LOCKWOOD + "h100, SXM5 and H200, dense; FP8 for one byte; 55 to 59 TF a chip were reached in HPL"
H100 = Chip(
    "H100",
    **_peaks("H100", _HOPPER, fp64=33.5e12, fp32=66.9e12, tf32=494.7e12, bf16=989.4e12, byte=1978.9e12),
    bandwidth=_sheet("H100 bandwidth", 3.35e12, "B/s", LOCKWOOD + "h100, SXM5"),
    memory=_sheet("H100 memory", 80e9, "B", LOCKWOOD + "h100, SXM5"),
    power=_sheet("H100 power", 700, "W", LOCKWOOD + "h100, limit of the board"),
)

H200 = Chip(
    "H200",
    **_peaks("H200", _HOPPER, fp64=33.5e12, fp32=66.9e12, tf32=494.7e12, bf16=989.4e12, byte=1978.9e12),
    bandwidth=_sheet("H200 bandwidth", 4.8e12, "B/s", "NVIDIA H200 SXM, two pages"),
    memory=_sheet("H200 memory", 141e9, "B", "NVIDIA H200 SXM, two pages"),
    power=_sheet("H200 power", 700, "W", "NVIDIA H200 SXM, limit of the board"),
)


def _tpu(
    name: str, page: str, bf16: float, byte: float | None, bandwidth: float, memory: float, power: Constant
) -> Chip:
    return Chip(
        name,
        **_peaks(name, GOOGLE + page, fp64=None, fp32=None, tf32=None, bf16=bf16, byte=byte),
        bandwidth=_sheet(f"{name} bandwidth", bandwidth, "B/s", GOOGLE + page),
        memory=_sheet(f"{name} memory", memory * 2**30, "B", SURVEY),
        power=power,
    )


def _watts(name: str, page: str, least: float, mean: float, most: float) -> Constant:
    source = GOOGLE + page + ", mean; smallest and largest as bounds"
    return Constant(f"{name} power", mean, "W", source, DATE, Origin.MEASURED, least, most)


TPU_V3 = _tpu("TPU v3", "v3", 123e12, None, 900e9, 32, _watts("TPU v3", "v3", 123, 220, 262))
"""One chip: the 420 TF that some pages give are of a board of four. Cholesky has no routine of its own on TPUs."""

TPU_V4 = _tpu("TPU v4", "v4", 275e12, 275e12, 1200e9, 32, _watts("TPU v4", "v4", 90, 170, 192))
TPU_V5E = _tpu("TPU v5e", "v5e", 197e12, 393e12, 819e9, 16, not_found("TPU v5e power", "W", GOOGLE + "v5e", DATE))
TPU_V5P = _tpu(
    "TPU v5p", "v5p-training", 459e12, None, 2765e9, 95, not_found("TPU v5p power", "W", GOOGLE + "v5p-training", DATE)
)

CHIPS = (V100, A100, H100, H200, TPU_V3, TPU_V4, TPU_V5E, TPU_V5P)
"""All digital chips."""

_WEBBER = "Webber et al., AVS Quantum Sci. 4, 013801"
SURFACE_CODE = QuantumComputer(
    "surface code",
    toffoli=_assumed("Toffoli time", 170e-6, "s", "arXiv:2011.04149, recalled: to be verified; one factory"),
    cycle=_assumed("code cycle", 1e-6, "s", _WEBBER),
    reaction=_assumed("reaction time", 10e-6, "s", _WEBBER),
    physical_error=_assumed("physical error", 1e-3, "1", _WEBBER),
    toffolis_of_query=_assumed("Toffolis of a query", 1e3, "1", "chosen in favour of the quantum computer"),
    shot=_assumed("time of a shot", 1e-6, "s", "chosen in favour of the quantum computer"),
    power=not_found("power of a quantum computer", "W", "no published figure", DATE),
)

_TNGD = "arXiv:2405.13817, appendix C"
RC_DEVICE = AnalogDevice(
    "RC device",
    time_constant=_assumed("time constant", 1e-6, "s", _TNGD + ", 1 kohm and 1 nF"),
    capacitance=_assumed("capacitance", 1e-9, "F", _TNGD),
    voltage=_assumed("voltage", 1.0, "V", "chosen; energy grows as its square"),
    temperature=_assumed("temperature", 300.0, "K", "chosen"),
    cell_power=_assumed("cell power", 1e-4, "W", "chosen; no published figure"),
    nodes=Constant("nodes", 2048, "cell", "2018 review of crossbars, second hand; 8 are built: arXiv:2312.04836", DATE,
                   Origin.BOUND, 8, 2048),
    link=_assumed("link", 5e10, "bit/s", _TNGD),
    word=_assumed("word", 16, "bit", _TNGD),
    link_energy=_assumed("link energy", 5e-12, "J/bit", "chosen; that of a real host link was not found"),
    adc_energy=Constant("ADC energy, 16 bit", float(best_case_joules(16, 1e8)), "J/conversion",
                        "best published, model.yaml of github.com/Accelergy-Project/accelergy-adc-plug-in", DATE,
                        Origin.BOUND),
    dac_energy=not_found("DAC energy", "J/conversion", "no survey of DAC energies", DATE),
)  # fmt: skip
"""The device of a published timing model, with what the model leaves open as assumptions."""

DAC_LIKE_ADC = replace(
    RC_DEVICE.adc_energy,
    name="DAC as dear as the ADC",
    status=Origin.ASSUMPTION,
    source="assumed: no survey of DAC energies",
)
"""What may be put in place of the energy of a DAC, which was not found."""

_WHITELAM = "arXiv:2410.12211, order of magnitude"
RLC_TIME = _assumed("time constant, RLC", 1e-6, "s", _WHITELAM)
MECHANICAL_TIME = _assumed("time constant, mechanical", 1e-3, "s", _WHITELAM)
JOSEPHSON_TIME = _assumed("time constant, Josephson", 1e-9, "s", _WHITELAM)

FACTORISATION = _assumed("fraction of the peak, FP32 factorisations", 0.3, "1", "chosen; none was measured", 1.35)
PRODUCTS = _assumed("fraction of the peak, large TF32 and BF16 products", 0.6, "1", "chosen; none was measured", 1.35)
"""Achieved fractions are assumptions, one for each kernel and chip; on TPUs factorisations reach far less."""

NO_LATENCY = _assumed("latency", 0.0, "s", "neglected")
