"""Prices before a run: every part against numbers worked out by hand, and against published and derived tables."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thermolinalg as tla
from thermolinalg.hybrid import Round
from thermolinalg.ledger import Ledger, Parts, metric
from thermolinalg.power import best_case_joules, cell_watts

PARTS = ("program", "load", "settle", "average", "read", "convert", "digital")
LINK = tla.Link(bits=8, rate=1e9, joules=2e-12)
MATRIX, FORCE, ADC = (tla.Converter(8, rate=rate, joules=e) for rate, e in ((1e6, 1e-9), (2e6, 3e-9), (5e6, 7e-9)))
FULL = tla.Device(
    time_constant=2e-6, link=LINK, cell_power=1e-3, matrix_dac=MATRIX, force_dac=FORCE, adc=ADC, idle_power=0.5
)
"""A device on which every part costs something."""
HOST = tla.Host(rate=1e9, joules=1e-10)


def test_every_part_by_hand():
    """100 unknowns, 4 right-hand sides, 3 replicas: replicas take transfers, conversions and energy, and no time."""
    plan = tla.Plan(10.0, 90.0, clock=3.0, replicas=3)
    ledger = tla.cost(plan, FULL, dim=100, columns=4, flops=5000.0, host=HOST)
    seconds = {
        "program": 3 * 80_000e-9,
        "load": 3 * 3200e-9,
        "settle": 4 * 3 * 2e-6 * 10,
        "average": 4 * 3 * 2e-6 * 90,
        "read": 3 * 3200e-9,
        "convert": 100e-6 + 4 * 0.5e-6 + 4 * 0.2e-6,
        "digital": (5000 + 3 * 400) * 1e-9,
    }
    joules = {
        "program": 3 * 80_000 * 2e-12,
        "load": 3 * 3200 * 2e-12,
        "settle": 3 * 100 * 1e-3 * 240e-6,
        "average": 3 * 100 * 1e-3 * 2160e-6,
        "read": 3 * 3200 * 2e-12,
        "convert": 3 * (10_000 * 1e-9 + 400 * 3e-9 + 400 * 7e-9),
        "digital": 6200 * 1e-10,
    }
    for name in PARTS:
        assert getattr(ledger.seconds, name) == getattr(ledger, name) == pytest.approx(seconds[name], rel=1e-13), name
        assert getattr(ledger.joules, name) == pytest.approx(joules[name], rel=1e-13), name
    assert ledger.total == ledger.seconds.total == pytest.approx(sum(seconds.values()), rel=1e-13)
    assert ledger.analog == pytest.approx(2400e-6, rel=1e-13)
    assert ledger.idle == pytest.approx(3 * 0.5 * sum(seconds.values()), rel=1e-13)
    assert ledger.energy == pytest.approx(sum(joules.values()) + ledger.idle, rel=1e-13)


def test_the_ledger_adds_up():
    device = tla.Device(time_constant=2e-6, link=tla.Link(bits=8, rate=1e9))
    ledger = tla.cost(tla.Plan(10.0, 90.0, clock=3.0), device, dim=100, columns=4)
    assert ledger.program == pytest.approx(100**2 * 8 / 1e9)
    assert ledger.load == ledger.read == pytest.approx(400 * 8 / 1e9)
    assert (ledger.settle, ledger.average) == pytest.approx((4 * 2e-6 * 30, 4 * 2e-6 * 270))
    assert ledger.total == pytest.approx(ledger.program + ledger.load + ledger.analog + ledger.read)
    # One column four times, with couplings that stay, is all four at once.
    first, more = (tla.cost(tla.Plan(10.0, 90.0, clock=3.0), device, dim=100, writes=n) for n in (1, 0))
    summed = first + more + more + more
    for amounts, whole in ((summed.seconds, ledger.seconds), (summed.joules, ledger.joules)):
        np.testing.assert_allclose([getattr(amounts, n) for n in PARTS], [getattr(whole, n) for n in PARTS], rtol=1e-14)
    assert summed.assumed == ledger.assumed
    with pytest.raises(ValueError, match=r"idle powers of 0 W and 0.5 W"):
        first + tla.cost(tla.Plan(0.0, 1.0), FULL, dim=3)
    with pytest.raises(TypeError):
        first + 1.0


def test_published_loading_time():
    """1000 x 1000 couplings of 16 bits at 50 Gb/s take 0.32 ms: the timing model of arXiv:2405.13817."""
    assert tla.cost(tla.Plan(0.0, 1.0), dim=1000).program == pytest.approx(3.2e-4)
    assert tla.cost(tla.Plan(0.0, 1.0), tla.presets.rc(), dim=1000).program == pytest.approx(3.2e-4)


def test_device_time_does_not_depend_on_the_units_of_the_matrix():
    A, b = jnp.diag(jnp.array([1.0, 2.0, 5.0])), jnp.ones(3)
    times = [
        tla.cost(tla.plan.solve(c * A, b, rtol=0.1, device=tla.Device(beta=c)), dim=3).analog for c in (1e-3, 1.0, 1e3)
    ]
    np.testing.assert_allclose(times, times[0], rtol=1e-5)


def test_replicas_share_the_link():
    one, three = (tla.cost(tla.Plan(5.0, 95.0, replicas=n), dim=100) for n in (1, 3))
    assert (three.analog, three.program) == (one.analog, 3 * one.program)
    assert three.total == pytest.approx(one.total + 2 * (one.program + one.load + one.read) + three.digital)
    assert three.joules.analog == pytest.approx(3 * one.joules.analog)


def test_complex_entries_are_two_numbers_of_one_cell():
    one, two = (tla.cost(tla.Plan(5.0, 95.0), FULL, dim=10, components=n) for n in (1, 2))
    for name in ("program", "load", "read", "convert"):
        assert getattr(two.seconds, name) == pytest.approx(2 * getattr(one.seconds, name))
        assert getattr(two.joules, name) == pytest.approx(2 * getattr(one.joules, name))
    assert two.joules.analog == one.joules.analog


def test_samples_are_converted_while_the_device_runs():
    """1000 samples in 100 us are ten in a microsecond; a converter of half that rate takes as long again."""
    plan = tla.Plan(0.0, 100.0, 1000)
    fast, slow = (
        tla.cost(plan, tla.Device(adc=tla.Converter(8, rate=rate, joules=1e-9)), dim=10, columns=2)
        for rate in (1e7, 5e6)
    )
    assert (fast.convert, slow.convert) == pytest.approx((0.0, 200e-6))
    assert fast.joules.convert == slow.joules.convert == pytest.approx(20_000e-9)
    # All of them cross the link, and are added up by the host.
    assert fast.read == pytest.approx(20_000 * 16 / 50e9)
    assert fast.digital == pytest.approx(20_000 / 66.9e12)
    continuous = tla.cost(replace(plan, samples=None), tla.Device(adc=tla.Converter(8, rate=1e7)), dim=10, columns=2)
    assert (continuous.convert, continuous.digital) == (pytest.approx(0.2e-6), 0.0)
    assert continuous.read == pytest.approx(20 * 16 / 50e9)


def test_moments_of_samples_are_the_work_of_the_host():
    number, link = 16 / 50e9, 16 * 5e-12
    read, sampled = (tla.cost_moments(tla.Plan(1.0, 1e4, n), tla.Device(adc=ADC), dim=20) for n in (None, 500))
    assert (read.read, read.load, read.digital) == (pytest.approx(210 * number), 0.0, 0.0)
    assert read.joules.convert == pytest.approx(210 * 7e-9)
    assert sampled.read == pytest.approx(500 * 20 * number)
    assert sampled.joules.read == pytest.approx(500 * 20 * link)
    assert sampled.joules.convert == pytest.approx(500 * 20 * 7e-9)
    assert sampled.joules.digital == pytest.approx(2 * 500 * 20**2 * 1.05e-11)
    pairs = tla.cost_moments(tla.Plan(1.0, 1e4, 500), dim=20, states=2, loaded=400)
    assert (pairs.read, pairs.load) == pytest.approx((2 * sampled.read, 400 * number))
    assert pairs.joules.digital == pytest.approx(sampled.joules.digital)
    lagged = tla.cost_moments(tla.Plan(1.0, 1e4), dim=20, states=2)
    assert lagged.read == pytest.approx(400 * number)
    complex_ = tla.cost_moments(tla.Plan(1.0, 1e4, 500), dim=20, components=2, flops=100.0)
    assert complex_.joules.digital == pytest.approx(4 * sampled.joules.digital + 100 * 1.05e-11)


def test_more_of_anything_never_costs_less():
    usual = {"dim": 20, "columns": 2, "writes": 1, "loaded": 40, "read": 40, "flops": 1e3}
    base = tla.cost(tla.Plan(5.0, 50.0), FULL, **usual)
    for name in usual:
        more = tla.cost(tla.Plan(5.0, 50.0), FULL, **usual | {name: 2 * usual[name]})
        assert more.total > base.total, name
        assert more.energy > base.energy, name
    for plan in (tla.Plan(10.0, 50.0), tla.Plan(5.0, 100.0), tla.Plan(5.0, 50.0, clock=2.0)):
        more = tla.cost(plan, FULL, **usual)
        assert (more.total > base.total, more.energy > base.energy) == (True, True)


@pytest.mark.parametrize(
    ("bits", "rate", "joules"),
    [
        *((6, 1e8, 3.0e-15), (8, 1e8, 4.8e-14), (10, 1e8, 7.6e-13), (12, 1e6, 1.2e-11), (14, 1e8, 1.9e-10)),
        *((16, 1.7e8, 3.1e-9), (8, 1e9, 6.4e-13)),
    ],
)
def test_best_conversions_are_those_of_the_survey(bits, rate, joules):
    """To the two digits of the table."""
    assert best_case_joules(bits, rate) == pytest.approx(joules, rel=0.03)
    ledger = tla.cost(tla.Plan(0.0, 1.0), tla.Device(adc=tla.Converter(bits, rate=rate)), dim=50)
    assert ledger.joules.convert == pytest.approx(50 * joules, rel=0.03)


def test_two_bits_more_cost_sixteen_times_as_much():
    assert best_case_joules(10, 1e8) / best_case_joules(8, 1e8) == pytest.approx(10**1.204, rel=1e-12)
    # The envelope is flat up to 10**((302.74 - 180.14) / (6.461 log10 e)) = 1.74e8 conversions a second.
    assert best_case_joules(8, 1.7e8) == best_case_joules(8, 1.0)
    assert best_case_joules(8, 1.8e8) > best_case_joules(8, 1.7e8)


TABLE = [  # unknowns, seconds of a time constant; digital, load, bias, digital / device
    (128, 1e-9, "7.3e-6", "1.3e-6", "7e-8", "5.2"),
    (128, 1e-6, "7.3e-6", "1.3e-6", "7e-6", None),
    (1024, 1e-9, "3.7e-3", "8.4e-5", "3.4e-5", "32"),
    (1024, 1e-6, "3.7e-3", "8.4e-5", "9e-5", None),
    (4096, 1e-9, "0.24", "1.3e-3", "2.2e-3", "68"),
]
"""A condition number of 100 and 8 bits of the answer; a bias of 0.1 mW in every cell, drawn during transfers too."""


def tabled(row, joules=5e-12):
    """Largest deviation from a row of the table, in units of what its digits and the vectors left out account for."""
    dim, time_constant, *wanted = row
    device = tla.Device(
        time_constant=time_constant, cell_power=1e-30, idle_power=1e-4 * dim, link=tla.Link(joules=joules)
    )
    ledger = tla.cost(tla.Plan(100 * np.log(2**8), 0.0), device, dim=dim)
    host = tla.Host().joules * dim**3 / 3
    found = (host, ledger.joules.program + ledger.joules.load + ledger.joules.read, ledger.idle, host / ledger.energy)
    worst = 0.0
    for value, text in zip(found, wanted, strict=True):
        if text is not None:
            digits = len(text.split("e")[0].replace(".", "").lstrip("0"))
            number = float(text)
            half = 0.5 * 10.0 ** (np.floor(np.log10(number)) - digits + 1)
            # 2 d numbers beside d^2, a digit of the energy of an operation, and the resistors, which have no price.
            worst = max(worst, abs(value - number) / (half + number * (2 / dim + 0.01)))
    return worst


@pytest.mark.parametrize("row", TABLE)
def test_energies_of_one_solve(row):
    assert tabled(row) < 1
    assert tabled(row, joules=6e-12) > 2


def test_idling_dominates_below_the_break_even_duty():
    """4.5 W against 77 W of cells that run: 5.8 %."""
    device = tla.Device(cell_power=0.077, idle_power=4.5, link=tla.Link(rate=1e15, joules=0.0))
    ledger = tla.cost(tla.Plan(10.0, 90.0), device, dim=1000)
    duty = ledger.break_even_duty
    assert duty == pytest.approx(4.5 / 77)
    for period, idles in ((0.9 * ledger.analog / duty, False), (1.1 * ledger.analog / duty, True)):
        assert (ledger.idle_power * period > ledger.joules.total) is idles
        assert (ledger.duty(period) < duty) is idles
    even = ledger.energy_per_call(ledger.analog / duty)
    assert even == pytest.approx(2 * ledger.joules.total)
    assert ledger.energy_per_call(ledger.total) == pytest.approx(ledger.energy)
    assert ledger.duty() == pytest.approx(ledger.analog / ledger.total)
    free, nothing = tla.cost(tla.Plan(1.0, 1.0), dim=3), Ledger(Parts(), Parts())
    assert (free.break_even_duty, free.idle, nothing.duty()) == (0.0, 0.0, 0.0)
    assert Ledger(Parts(settle=1.0), Parts(), idle_power=1.0).break_even_duty == np.inf


def test_a_budget_of_energy_is_spent_on_cells():
    joules, device = 3e-5, tla.Device(cell_power=2e-4)
    limit = tla.plan.Budget(joules=joules).limit(device, dim=10, replicas=2)
    ledger = tla.cost(tla.Plan(0.0, limit / device.time_constant, replicas=2), device, dim=10)
    assert ledger.joules.analog == pytest.approx(joules, rel=1e-12)
    assert cell_watts(device, 10, 2) == pytest.approx(4e-3)


def test_a_round_takes_all_that_the_ledger_has():
    ledger = tla.cost(tla.Plan(10.0, 90.0), FULL, dim=30, flops=1e4, host=HOST)
    work = Round.of(ledger, 1e-4)
    assert work.host == pytest.approx(1e-4 + 1e-5)
    assert work.relax == pytest.approx(ledger.analog + ledger.convert)
    assert work.total == pytest.approx(1e-4 + ledger.total)


def test_a_ledger_is_a_table_that_owns_up():
    lines = str(tla.cost(tla.Plan(5.0, 95.0, 10), tla.presets.rc(), dim=10)).splitlines()
    assert [line.split()[0] for line in lines[:9]] == ["part", *PARTS, "total"]
    notes = " ".join(lines[9:])
    for word in ("5 pJ per bit", "100 µW", "best energy ever published", "1e+08 conversions", "H100"):
        assert word in notes
    # What is given is not assumed.
    shown = str(tla.cost(tla.Plan(5.0, 95.0, 10), FULL, dim=10, host=HOST))
    assert "assumed" not in shown
    assert "idle" in shown
    assert [metric(x, "s") for x in (0.0, 1.0, 999.6, 1e-6, 3.2e-4, 1e-15)] == [
        "0 s",
        "1 s",
        "1 ks",
        "1 µs",
        "320 µs",
        "1 fs",
    ]


BAD = {
    "no unknowns": (lambda: tla.cost(tla.Plan(0.0, 1.0), dim=0), "dim"),
    "no columns": (lambda: tla.cost(tla.Plan(0.0, 1.0), dim=3, columns=0), "columns"),
    "negative writes": (lambda: tla.cost(tla.Plan(0.0, 1.0), dim=3, writes=-1), "writes"),
    "negative read": (lambda: tla.cost(tla.Plan(0.0, 1.0), dim=3, read=-1), "read"),
    "negative load": (lambda: tla.cost(tla.Plan(0.0, 1.0), dim=3, loaded=-1), "loaded"),
    "nan operations": (lambda: tla.cost(tla.Plan(0.0, 1.0), dim=3, flops=float("nan")), "flops"),
    "three components": (lambda: tla.cost(tla.Plan(0.0, 1.0), dim=3, components=3), "components"),
    "endless plan": (lambda: tla.cost(tla.Plan(0.0, float("inf")), dim=3), "duration"),
    "half a sample": (lambda: tla.cost_moments(tla.Plan(0.0, 1.0, 0.5), dim=3), "samples"),
    "three states": (lambda: tla.cost_moments(tla.Plan(0.0, 1.0), dim=3, states=3), "states"),
    "moments of nothing": (lambda: tla.cost_moments(tla.Plan(0.0, 1.0), dim=0), "dim"),
    "negative work": (lambda: tla.cost_moments(tla.Plan(0.0, 1.0, 5), dim=3, flops=-1.0), "flops"),
    "traced": (lambda: jax.jit(lambda t: tla.cost(tla.Plan(0.0, t), dim=3).total)(1.0), "jit"),
    "short period": (lambda: tla.cost(tla.Plan(0.0, 1.0), dim=3).energy_per_call(1e-9), "period must be at least"),
    "short duty": (lambda: tla.cost(tla.Plan(0.0, 1.0), dim=3).duty(1e-9), "period must be at least"),
    "no period": (lambda: tla.cost(tla.Plan(0.0, 1.0), dim=3).duty(0.0), "period must be positive"),
    "slow host": (lambda: tla.Host(rate=0.0), "rate"),
    "generous host": (lambda: tla.Host(joules=-1.0), "joules"),
    "no link": (lambda: tla.Link(rate=0.0), "rate"),
    "no bits": (lambda: tla.Link(bits=0), "bits"),
    "generous link": (lambda: tla.Link(joules=-1.0), "joules"),
    "still converter": (lambda: tla.Converter(rate=0.0), "rate"),
    "generous converter": (lambda: tla.Converter(joules=-1e-12), "joules"),
    "no cells": (lambda: tla.Device(cell_power=0.0), "cell_power"),
    "generous idling": (lambda: tla.Device(idle_power=-1.0), "idle_power"),
    "no conversions": (lambda: best_case_joules(8, 0.0), "rate"),
    "half a bit": (lambda: best_case_joules(0.5, 1e6), "bits"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_price_is_refused(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
