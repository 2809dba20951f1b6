"""Constants, chips, rooflines, intervals: sources complete, units compared, tables of the literature reproduced."""

import dataclasses
import math

import numpy as np
import pytest
import sympy as sp

from thermolinalg.complexity import (
    A100,
    CHIPS,
    FACTORISATION,
    H100,
    H200,
    JOSEPHSON_TIME,
    MECHANICAL_TIME,
    NO_LATENCY,
    PRODUCTS,
    RC_DEVICE,
    RLC_TIME,
    SURFACE_CODE,
    TPU_V3,
    TPU_V4,
    TPU_V5E,
    TPU_V5P,
    V100,
    Binding,
    Chip,
    Constant,
    Evidence,
    NotFoundError,
    Origin,
    Roof,
    Spread,
    base_units,
    binding,
    in_bits,
    interval,
    joules_per_flop,
    not_found,
    numbers,
    probe_cpu,
    product_quantiles,
    run_energy,
    run_time,
    sampled_quantiles,
    spread,
    trend,
)
from thermolinalg.complexity.symbols import B_L, B_M, F, eta, kappa, n, tau

THINGS = [*CHIPS, SURFACE_CODE, RC_DEVICE]
SINGLE = [JOSEPHSON_TIME, MECHANICAL_TIME, RLC_TIME, FACTORISATION, PRODUCTS, NO_LATENCY]


def constants_of(thing):
    return [found for field in dataclasses.fields(thing) if isinstance(found := getattr(thing, field.name), Constant)]


ALL = [constant for thing in THINGS for constant in constants_of(thing)] + SINGLE


def incomplete(constants):
    """Names of constants that lack a field."""
    return [
        found.name
        for found in constants
        if not (
            found.name and found.unit and found.source and found.date == "2026-11" and isinstance(found.status, Origin)
        )
        or (found.known and not 0 <= found.low <= found.value <= found.high)
        or (found.known == (found.status is Origin.NOT_FOUND))
    ]


def test_every_constant_has_every_field():
    assert len(ALL) > 80
    assert incomplete(ALL) == []


def test_the_check_of_fields_sees_a_missing_one():
    broken = dataclasses.replace(H100.power)
    object.__setattr__(broken, "source", "")
    assert incomplete([H100.power, broken]) == ["H100 power"]


def test_names_tell_constants_apart():
    assert len({found.name for found in ALL}) == len(ALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": " "}, "source"),
        ({"name": ""}, "name"),
        ({"date": "2026"}, "YYYY-MM"),
        ({"date": "2026-13"}, "YYYY-MM"),
        ({"unit": "flops"}, "'flops' in the unit"),
        ({"unit": "flop//s"}, "'' in the unit"),
        ({"value": None}, "status"),
        ({"status": Origin.NOT_FOUND}, "status"),
        ({"value": 800.0}, "low <= value <= high"),
        ({"low": -1.0}, "low <= value"),
        ({"high": math.inf}, "low <= value"),
        ({"value": math.nan}, "low <= value"),
    ],
)
def test_a_constant_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(H100.power, **change)


def test_what_was_not_found_stays_so():
    for unknown in (TPU_V5E.power, TPU_V5P.power, TPU_V3.fp32, RC_DEVICE.dac_energy, SURFACE_CODE.power):
        assert not unknown.known
        with pytest.raises(NotFoundError, match=unknown.name):
            float(unknown)
        with pytest.raises(NotFoundError):
            _ = unknown.interval
    with pytest.raises(NotFoundError, match="TPU v5e power"):
        joules_per_flop(TPU_V5E.bf16, TPU_V5E.power)
    with pytest.raises(ValueError, match="need a value"):
        dataclasses.replace(TPU_V5E.power, low=1.0)


def test_a_user_can_put_a_constant_of_their_own():
    mine = Constant("my meter", 150.0, "W", "clamp at the wall", "2026-11", Origin.MEASURED, 140.0, 160.0)
    chip = dataclasses.replace(TPU_V5E, power=mine)
    assert float(joules_per_flop(chip.bf16, chip.power)) == pytest.approx(150 / 197e12)
    with pytest.raises(ValueError, match="must be in W, got J"):
        dataclasses.replace(TPU_V5E, power=dataclasses.replace(mine, unit="J"))


# Every figure a second time, as the reference prints it, in TF, GB/s and W.
SHEET = {
    "V100": (7.8, 15.7, None, 125, None, 900, 300),
    "A100": (9.7, 19.5, 156, 312, None, 2039, 400),
    "H100": (33.5, 66.9, 494.7, 989.4, 1978.9, 3350, 700),
    "H200": (33.5, 66.9, 494.7, 989.4, 1978.9, 4800, 700),
    "TPU v3": (None, None, None, 123, None, 900, 220),
    "TPU v4": (None, None, None, 275, 275, 1200, 170),
    "TPU v5e": (None, None, None, 197, 393, 819, None),
    "TPU v5p": (None, None, None, 459, None, 2765, None),
}


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_chips_carry_the_figures_of_their_sheets(chip):
    found = (chip.fp64, chip.fp32, chip.tf32, chip.bf16, chip.byte, chip.bandwidth, chip.power)
    for constant, printed, scale in zip(found, SHEET[chip.name], [1e12] * 5 + [1e9, 1], strict=True):
        assert constant.known == (printed is not None)
        if printed is not None:
            assert float(constant) == pytest.approx(printed * scale, rel=1e-12)


@pytest.mark.parametrize("chip", [A100, H100, H200], ids=lambda chip: chip.name)
def test_a_sparse_peak_is_refused(chip):
    for kind in ("bf16", "byte"):
        peak = getattr(chip, kind)
        if not peak.known:
            continue
        sparse = dataclasses.replace(peak, value=2 * float(peak), low=None, high=None)
        with pytest.raises(ValueError, match=r"dense peak, not the sparse one"):
            dataclasses.replace(chip, **{kind: sparse})


def test_a_board_is_not_a_chip():
    # Some pages give 420 TF for TPU v3: four chips, less rounding. Per chip V100 and TPU v3 are level.
    assert 4 * float(TPU_V3.bf16) > 420e12 > 3 * float(TPU_V3.bf16)
    assert 4 * float(TPU_V3.bf16) / float(V100.bf16) == pytest.approx(3.9, abs=0.05)
    assert float(TPU_V3.bf16) / float(V100.bf16) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("peak", "power", "printed"),
    [
        (H100.fp32, H100.power, 1.05e-11),
        (H100.bf16, H100.power, 7.1e-13),
        (A100.bf16, A100.power, 1.3e-12),
        (TPU_V4.bf16, TPU_V4.power, 6.2e-13),
        (TPU_V3.bf16, TPU_V3.power, 1.8e-12),
    ],
)
def test_joules_per_flop_at_the_peak(peak, power, printed):
    found = joules_per_flop(peak, power)
    digits = 10.0 ** math.floor(math.log10(printed)) * (0.005 if printed == 1.05e-11 else 0.05)
    assert abs(float(found) - printed) <= digits
    assert found.status is Origin.BOUND
    assert found.low <= found.value <= found.high
    assert found.low == pytest.approx(power.low / peak.high)


def test_joules_per_flop_keep_both_spreads():
    peak = dataclasses.replace(TPU_V4.bf16, low=200e12, high=300e12)
    found = joules_per_flop(peak, TPU_V4.power)
    assert found.interval == (pytest.approx(90 / 300e12), pytest.approx(192 / 200e12))


def test_units_are_products_of_base_units():
    assert base_units("W*s") == base_units("J") == base_units("F*V^2")
    assert base_units("ohm*F") == base_units("s") == base_units("conversion*s")
    assert base_units("bit/s") != base_units("B/s")
    with pytest.raises(ValueError, match="must be in flop/s, got conversion/s"):
        dataclasses.replace(H100.fp32, unit="conversion/s").need("flop/s")


def test_bytes_become_bits():
    found = in_bits(H100.bandwidth)
    assert float(found) == 8 * 3.35e12
    assert numbers({B_M: found}) == {B_M: 2.68e13}
    with pytest.raises(ValueError, match="must be in B/s"):
        in_bits(found)


def test_numbers_compare_units_and_ranges():
    assert numbers({tau: RC_DEVICE.time_constant, F: H100.fp32, kappa: 10}) == {tau: 1e-6, F: 66.9e12, kappa: 10.0}
    with pytest.raises(ValueError, match="is in W but tau is in second"):
        numbers({tau: H100.power})
    with pytest.raises(ValueError, match="kappa"):
        numbers({kappa: 0.5})


def test_the_device_is_the_published_one():
    r_times_c = 1e3 * 1e-9
    assert float(RC_DEVICE.time_constant) == pytest.approx(r_times_c)
    assert float(RC_DEVICE.capacitance) * 1e3 == pytest.approx(r_times_c)
    assert (float(RC_DEVICE.link), float(RC_DEVICE.word)) == (5e10, 16)
    # Programming b d_z (b d_z + 2N) resistors takes 41 ms, a vector 32 us.
    b, d_z, parameters = 32, 20, 100_000
    second_each = float(RC_DEVICE.word) / float(RC_DEVICE.link)
    assert b * d_z * (b * d_z + 2 * parameters) * second_each == pytest.approx(41e-3, abs=0.5e-3)
    assert parameters * second_each == pytest.approx(32e-6)
    # The best converter takes 3.1 nJ for 16 bits.
    assert float(RC_DEVICE.adc_energy) == pytest.approx(3.1e-9, abs=0.05e-9)


ROOF = Roof(H100.fp32, H100.bandwidth, FACTORISATION, NO_LATENCY)


def test_a_kernel_takes_the_longer_of_two_times():
    rates = 0.3 * 66.9e12, 3.35e12
    for flops, traffic in [(1e9, 1e9), (1e12, 1e9), (1.0, 0.0), (0.0, 7.0)]:
        assert run_time(flops, traffic, ROOF) == pytest.approx(max(flops / rates[0], traffic / rates[1]), rel=1e-13)
    assert binding(1e12, 1e9, ROOF) is Binding.COMPUTE
    assert binding(1e9, 1e9, ROOF) is Binding.MEMORY
    slow = dataclasses.replace(ROOF, latency=dataclasses.replace(NO_LATENCY, value=1.0, high=1.0))
    assert binding(1e12, 1e9, slow) is Binding.LATENCY
    assert run_time(1e12, 1e9, slow) == pytest.approx(1 + 1e12 / rates[0])


def test_the_ridge_is_where_both_roofs_meet():
    assert run_time(ROOF.ridge * 1e9, 0.0, ROOF) == pytest.approx(run_time(0.0, 1e9, ROOF), rel=1e-13)
    assert binding(1.001 * ROOF.ridge, 1.0, ROOF) is Binding.COMPUTE
    assert binding(0.999 * ROOF.ridge, 1.0, ROOF) is Binding.MEMORY


def test_forty_columns_reach_the_compute_roof():
    # 2 n^2 k flops for 4 n^2 bytes, at the full peak.
    full = Constant("all of the peak", 1.0, "1", "chosen", "2026-11", Origin.ASSUMPTION)
    assert dataclasses.replace(ROOF, efficiency=full).ridge * 4 / 2 == pytest.approx(40, abs=0.1)


def test_symbols_go_in_and_come_out():
    roof = Roof(F, B_M, eta, NO_LATENCY)
    time = run_time(n**3 / 3, 4 * n**2, roof)
    for size in (16, 4096):
        values = {n: size, F: 66.9e12, B_M: 3.35e12, eta: 0.3}
        assert float(time.subs(values)) == pytest.approx(run_time(size**3 / 3, 4 * size**2, ROOF), rel=1e-13)
    assert run_energy(n**3, n, ROOF, H100.power).subs(n, 100) == pytest.approx(run_energy(1e6, 100.0, ROOF, H100.power))
    with pytest.raises(ValueError, match="depends on n; give numbers"):
        binding(n**3, n, ROOF)


def test_energy_is_power_for_as_long_as_it_runs():
    assert run_energy(1e12, 0.0, ROOF, H100.power) == pytest.approx(
        1e12 * float(joules_per_flop(H100.fp32, H100.power)) / 0.3
    )
    with pytest.raises(ValueError, match="must be in W"):
        run_energy(1.0, 1.0, ROOF, H100.bandwidth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bandwidth": in_bits(H100.bandwidth)}, "must be in B/s, got bit/s"),
        ({"peak": H100.bandwidth}, "must be in flop/s"),
        ({"latency": H100.power}, "must be in s"),
        ({"peak": 66.9e12}, "peak must be a Constant"),
        ({"efficiency": dataclasses.replace(FACTORISATION, value=1.2, high=1.3)}, r"in \(0, 1\]"),
        ({"efficiency": NO_LATENCY}, "must be in 1"),
    ],
)
def test_inputs_of_the_roofline_have_their_units(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ROOF, **change)


def test_counts_are_not_negative():
    with pytest.raises(ValueError, match="traffic must not be negative"):
        run_time(1.0, -1.0, ROOF)
    with pytest.raises(NotFoundError, match="TPU v3 fp32 peak"):
        run_time(1.0, 1.0, dataclasses.replace(ROOF, peak=TPU_V3.fp32))


def test_the_probe_measures_this_machine():
    cpu = probe_cpu(0.1)
    assert isinstance(cpu, Chip)
    for rate in (cpu.fp32, cpu.fp64, cpu.bandwidth):
        assert rate.status is Origin.MEASURED
        assert 1e6 < rate.low <= rate.value <= rate.high < 1e16
    roof = Roof(cpu.fp64, cpu.bandwidth, Constant("measured", 1.0, "1", "here", "2026-11", Origin.MEASURED), NO_LATENCY)
    assert run_time(2e6, 24e4, roof) > 0
    with pytest.raises(NotFoundError, match="CPU power"):
        run_energy(1.0, 1.0, roof, cpu.power)
    with pytest.raises(ValueError, match="seconds must be positive"):
        probe_cpu(0)


X, Y, Z = sp.symbols("x y z", positive=True)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (X**2 / Y, (1, -1)),
        (X / (X + Y), (1, -1)),
        (sp.log(1 + X) * sp.exp(-Y), (1, -1)),
        (sp.Max(X, Y**2) + X, (1, 1)),
        (3 * sp.Min(X, 1 / Y), (1, -1)),
        (-2 * sp.Max(X, Y), (-1, -1)),
        (X - X * Y / 100, (1, -1)),
        (X * Y + 1 / X, (None, 1)),
        (sp.Integer(7), (0, 0)),
    ],
)
def test_trends_are_proved_or_left_open(expression, expected):
    box = {X: (0.5, 4.0), Y: (0.5, 4.0)}
    assert (trend(expression, X, box), trend(expression, Y, box)) == expected


def test_a_trend_is_right_where_it_is_claimed():
    random = np.random.default_rng(1)
    box = {X: (0.3, 5.0), Y: (0.3, 5.0)}
    claimed = 0
    for _ in range(40):
        a, b, c = (sp.Rational(int(v), 3) for v in random.integers(-6, 7, 3))
        expression = X**a * Y + b * X + c * sp.log(X) + Y
        found = trend(expression, X, box)
        slope = sp.lambdify([X, Y], sp.diff(expression, X), "numpy")
        points = np.exp(random.uniform(math.log(0.3), math.log(5.0), (2, 400)))
        slopes = np.broadcast_to(slope(*points), 400)
        if found is not None:
            claimed += 1
            assert np.all(found * slopes >= -1e-12) if found else np.all(slopes == 0)
    assert claimed >= 15


def test_proved_intervals_are_the_extremes():
    box = {X: (1.0, 3.0), Y: (2.0, 5.0)}
    found = interval(X / (X + Y), box)
    assert found.evidence is Evidence.PROVED
    assert (found.low, found.high) == (pytest.approx(1 / 6), pytest.approx(3 / 5))
    grid = np.meshgrid(np.linspace(1, 3, 101), np.linspace(2, 5, 101))
    values = grid[0] / sum(grid)
    assert values.min() == pytest.approx(found.low)
    assert values.max() == pytest.approx(found.high)


def test_wider_in_wider_out():
    expression = sp.sqrt(X) / Y + sp.log(1 + X * Y / (1 + Y))
    previous = None
    for half in (0.0, 0.1, 0.4, 1.0, 2.0):
        found = interval(
            expression, {X: (math.exp(-half), math.exp(half)), Y: (3 * math.exp(-half), 3 * math.exp(half))}
        )
        if previous is not None and found.evidence is previous.evidence is Evidence.PROVED:
            assert found.low <= previous.low <= previous.high <= found.high
        previous = found
    narrow, wide = (interval(X**2 / Y, {X: (1, 1 + by), Y: (2, 2 + by)}) for by in (1, 2))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_what_is_not_monotone_is_sampled_and_says_so():
    found = interval((X - 2) ** 2 + Y, {X: (1, 4), Y: (1, 2)})
    assert found.evidence is Evidence.SAMPLED
    # True range 1 to 6: corners give the top exactly, draws come near the bottom.
    assert found.high == pytest.approx(6)
    assert 1 <= found.low < 1.05


def test_constants_bring_their_intervals():
    found = interval(1 / (eta * F), {eta: FACTORISATION, F: H100.fp32})
    assert found.low == pytest.approx(1 / (0.3 * 1.35 * 66.9e12))
    assert found.high == pytest.approx(1.35 / (0.3 * 66.9e12))
    with pytest.raises(ValueError, match="no entry for F"):
        interval(1 / (eta * F), {eta: FACTORISATION})
    with pytest.raises(ValueError, match="not finite in the box"):
        interval(sp.log(X - 2) + Y, {X: (1, 3), Y: (1, 2)})
    with pytest.raises(ValueError, match="low <= high"):
        interval(X, {X: (2, 1)})


def test_the_closed_form_of_a_product_agrees_with_sampling():
    values = {X: Spread(2.0, 1.5), Y: Spread(5.0, 2.0), Z: 3.0}
    expression = 4 * X**2 * sp.sqrt(Z) / Y
    exact, draws = product_quantiles(expression, values), 40_000
    sampled = sampled_quantiles(expression, values, draws=draws)
    assert exact.median == pytest.approx(4 * 4 * math.sqrt(3) / 5)
    sigma = math.hypot(2 * math.log(1.5), math.log(2.0))
    assert math.log(exact.high / exact.median) == pytest.approx(1.6448536269514722 * sigma)
    # Standard error of a quantile: sqrt(p (1 - p)/N) over the density; 0.103 and 0.399 are those of the normal law.
    for share, density, a, b in (
        (0.05, 0.1031, exact.low, sampled.low),
        (0.5, 0.3989, exact.median, sampled.median),
        (0.95, 0.1031, exact.high, sampled.high),
    ):
        assert abs(math.log(b / a)) < 4 * sigma * math.sqrt(share * (1 - share) / draws) / density


def test_the_interval_covers_as_often_as_it_says():
    values = {X: Spread(2.0, 1.5), Y: Spread(5.0, 2.0)}
    found = product_quantiles(X / Y, values)
    random, draws = np.random.default_rng(5), 20_000
    x, y = 2 * 1.5 ** random.standard_normal(draws), 5 * 2.0 ** random.standard_normal(draws)
    covered = np.mean((x / y > found.low) & (x / y < found.high))
    assert abs(covered - 0.9) < 4 * math.sqrt(0.09 / draws)
    # A factor that is taken for two standard deviations would cover less.
    narrow = product_quantiles(X / Y, {X: Spread(2.0, math.sqrt(1.5)), Y: Spread(5.0, math.sqrt(2.0))})
    assert np.mean((x / y > narrow.low) & (x / y < narrow.high)) < 0.65


def test_draws_stay_in_the_range_of_their_symbol():
    found = sampled_quantiles(eta, {eta: Spread(0.9, 2.0)})
    assert (found.high, found.low < 0.4) == (1.0, True)
    assert sampled_quantiles(kappa, {kappa: Spread(1.5, 3.0)}).low == 1.0
    assert sampled_quantiles(X, {X: Spread(0.9, 2.0)}).high > 2


def test_sums_and_cut_numbers_have_no_closed_form():
    with pytest.raises(ValueError, match="not one product"):
        product_quantiles(X + Y, {X: 1.0, Y: 2.0})
    with pytest.raises(ValueError, match="cut off"):
        product_quantiles(X, {X: Spread(0.3, 1.35, at_most=1.0)})
    with pytest.raises(ValueError, match="no entry for y"):
        sampled_quantiles(X + Y, {X: 1.0})
    with pytest.raises(ValueError, match="factor"):
        Spread(1.0, 0.5)
    with pytest.raises(ValueError, match="positive one"):
        spread(NO_LATENCY)


def test_an_unknown_makes_the_interval_unknown():
    nothing = not_found("a rate", "bit/s", "nowhere", "2026-11")
    with pytest.raises(NotFoundError, match="a rate"):
        interval(1 / B_L, {B_L: nothing})
