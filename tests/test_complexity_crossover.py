"""Crossovers, budgets and figures of merit: tables of the literature by two routes, limits, and honest refusals."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp

from thermolinalg.complexity import (
    FACTORISATION,
    H100,
    RC_DEVICE,
    SURFACE_CODE,
    TPU_V5E,
    Candidate,
    Constant,
    Costs,
    End,
    Limit,
    Missing,
    NotComputableError,
    NotFoundError,
    Order,
    Origin,
    Spread,
    Stop,
    amdahl,
    array_limit,
    closed_form,
    crossover,
    crossover_elasticity,
    crossover_quantiles,
    elasticity,
    figure_of_merit,
    growth_of_problem,
    growth_of_spending,
    gustafson,
    in_bits,
    largest_feasible,
    pareto_front,
    precision_limit,
    ratio,
    storage_limit,
)
from thermolinalg.complexity.symbols import (
    B_L,
    B_M,
    C,
    F,
    P_cell,
    V,
    b,
    d,
    e_bit,
    entries,
    eps,
    eta,
    kappa,
    n,
    q,
    t_toffoli,
    tau,
    toffolis,
    w,
    word,
)

SETTLE = kappa * tau * sp.log(1 / eps)
DIGITAL = sp.Rational(14, 3) * n**3 / (eta * F)
DEVICE = 6 * n**2 * w / B_L + 2 * n * SETTLE / q
H100_FP32 = {eta: 0.3, F: 66.9e12, eps: 2.0**-8, q: 1}
PUBLISHED = {**H100_FP32, w: 16, B_L: 5e10, tau: 1e-6, kappa: 100}


def by_hand(values):
    """The crossover of a K-FAC layer from the formula of a quadratic equation, in plain Python."""
    a = 14 / (3 * values[eta] * values[F])
    load = 6 * values[w] / values[B_L]
    settle = 2 * values[kappa] * values[tau] * math.log(1 / values[eps]) / values[q]
    return (load + math.sqrt(load**2 + 4 * a * settle)) / (2 * a)


# Section by link, word and time constant: kappa 10, 100, 1000.
LAYER = {
    (5e10, 16, 1e-6): (26355, 73315, 222563),
    (5e10, 16, 1e-7): (12175, 26355, 73315),
    (5e10, 16, 1e-8): (8799, 12175, 26355),
    (1e12, 16, 1e-6): (22047, 69269, 218602),
    (1e12, 16, 1e-7): (7116, 22047, 69269),
    (1e12, 16, 1e-8): (2400, 7116, 22047),
    (1e12, 8, 1e-6): (21943, 69166, 218498),
    (1e12, 8, 1e-7): (7010, 21943, 69166),
    (1e12, 8, 1e-8): (2290, 7010, 21943),
    (8e12, 8, 1e-6): (21852, 69076, 218408),
    (8e12, 8, 1e-7): (6919, 21852, 69076),
    (8e12, 8, 1e-8): (2197, 6919, 21852),
}


@pytest.mark.parametrize("setting", LAYER, ids=str)
def test_crossovers_of_a_layer(setting):
    for condition, printed in zip((10, 100, 1000), LAYER[setting], strict=True):
        values = PUBLISHED | dict(zip((B_L, w, tau), setting, strict=True)) | {kappa: condition}
        found = crossover(DIGITAL, DEVICE, n, values, 1, 1e9)
        (root,) = found.crossovers
        assert abs(root - printed) <= 0.5
        assert root == pytest.approx(by_hand(values), rel=1e-12)
        times = [float(side.subs(values).subs(n, root)) for side in (DIGITAL, DEVICE)]
        assert abs(times[0] / times[1] - 1) < 1e-9
        (window,) = found.ahead
        assert (window.low.end, window.high.end, window.high.at) == (End.CROSSOVER, End.SEARCH, pytest.approx(1e9))


def test_the_example_of_the_reference():
    (root,) = crossover(DIGITAL, DEVICE, n, PUBLISHED, 1, 1e9).crossovers
    assert round(root, 1) == 73314.6


def test_a_wrong_constant_is_seen():
    wrong = sp.Rational(1, 3) * n**3 / (eta * F)  # Cholesky without the products that apply it
    (root,) = crossover(wrong, DEVICE, n, PUBLISHED, 1, 1e9).crossovers
    assert abs(root / by_hand(PUBLISHED) - 1) > 0.5


# Stronger baselines: kappa 10, 100, 1000 with 1 Tb/s, 8 bit and 1 us; with 10 ns; with 50 Gb/s, 16 bit and 1 us.
STRONGER = {
    "TF32 products": ((49252, 154630, 487870), (5415, 15934, 49252), (73454, 176040, 508348)),
    "BF16 Newton-Schulz": ((39007, 93261, 256729), (4206, 9497, 25802), (53745, 100874, 262349)),
}


@pytest.mark.parametrize("baseline", STRONGER)
def test_stronger_baselines_move_the_crossover(baseline):
    settings = (1e12, 8, 1e-6), (1e12, 8, 1e-8), (5e10, 16, 1e-6)
    for setting, row in zip(settings, STRONGER[baseline], strict=True):
        for condition, sweeps, printed in zip((10, 100, 1000), (5, 9, 12), row, strict=True):
            values = PUBLISHED | dict(zip((B_L, w, tau), setting, strict=True)) | {kappa: condition}
            if baseline == "TF32 products":
                digital = 2 * n**3 / 3 / (eta * F) + 4 * n**3 / (0.6 * F * float(H100.tf32) / 66.9e12)
            else:
                digital = (8 * sweeps + 4) * n**3 / (0.6 * F * float(H100.bf16) / 66.9e12)
            (root,) = crossover(digital, DEVICE, n, values, 1, 1e9).crossovers
            assert abs(root - printed) <= 0.5


RANK = {
    (5e10, 16, 1e-6): (20293, 28557, 50907),
    (1e12, 16, 1e-6): (9320, 20265, 43863),
    (5e10, 16, 1e-8): (18296, 18513, 20293),
    (1e12, 16, 1e-8): (1944, 4258, 9320),
    (8e12, 8, 1e-8): (1657, 3966, 9024),
}


@pytest.mark.parametrize("setting", RANK, ids=str)
def test_crossovers_of_the_rank_b_form(setting):
    digital = (2 * n**3 / 3 + 6 * b * n**2) / (eta * F)
    device = 2 * n**2 * w / B_L + 4 * b * n * w / B_L + 2 * b * SETTLE / q + 2 * b * n**2 / (eta * F)
    for condition, printed in zip((10, 100, 1000), RANK[setting], strict=True):
        values = PUBLISHED | dict(zip((B_L, w, tau), setting, strict=True)) | {kappa: condition, b: 256}
        (root,) = crossover(digital, device, n, values, 1, 1e9).crossovers
        assert abs(root - printed) <= 0.5
        # The difference is a cubic polynomial: its roots by NumPy are another route.
        rate = 0.3 * 66.9e12
        load = values[w] / values[B_L]
        settle = condition * values[tau] * math.log(256)
        roots = np.roots([2 / 3 / rate, 4 * 256 / rate - 2 * load, -4 * 256 * load, -2 * 256 * settle])
        (expected,) = (r.real for r in roots if abs(r.imag) < 1e-9 and r.real > 0)
        assert root == pytest.approx(expected, rel=1e-9)


CG = (sp.sqrt(kappa) / 2) * sp.log(2 / eps) * d**2 * w / B_M
CHOLESKY = d**3 / (3 * eta * F)
ANALOG = (d**2 + 2 * d) * w / B_L + SETTLE
H100_CG = H100_FP32 | {w: 16, B_M: in_bits(H100.bandwidth)}

# Range of kappa in which the device beats both, or None.
WINDOWS = {
    (1e-6, 5e10): (None, None, None, (4e4, 6e5)),
    (1e-7, 5e10): (None, None, None, (3e4, 6e6)),
    (1e-7, 1e12): (None, (110, 1.6e3), (75, 1.2e5), (74, 8e6)),
    (1e-8, 1e12): (None, (76, 1.6e4), (74, 1.2e6), (74, 8e7)),
    (1e-8, 8e12): ((1.2, 280), (1.2, 2e4), (1.2, 1.3e6), (1.2, 8e7)),
}


@pytest.mark.parametrize("setting", WINDOWS, ids=str)
def test_windows_of_one_solve(setting):
    best = sp.Min(CG, CHOLESKY)
    for size, printed in zip((1024, 4096, 16384, 65536), WINDOWS[setting], strict=True):
        values = H100_CG | dict(zip((tau, B_L), setting, strict=True)) | {d: size}
        found = crossover(best, ANALOG, kappa, values, 1, 1e10)
        if printed is None:
            assert found.ahead == ()
            assert "digital costs less throughout" in found.reason
            continue
        (window,) = found.ahead
        for edge, expected in zip((window.low, window.high), printed, strict=True):
            assert edge.end is End.CROSSOVER
            # Half a unit of the last printed digit.
            assert abs(edge.at - expected) <= 0.501 * 10 ** (math.floor(math.log10(expected)) - (expected not in
                                                           (4e4, 6e5, 3e4, 6e6, 8e6, 8e7, 2e4)))  # fmt: skip


def test_a_window_against_conjugate_gradients_alone():
    values = H100_CG | {tau: 1e-7, B_L: 5e10, d: 16384}
    (window,) = crossover(CG, ANALOG, kappa, values, 1, 1e10).ahead
    assert (round(window.low.at, -4), round(window.high.at, -5)) == (5e4, 4e5)
    assert crossover(CHOLESKY, ANALOG, kappa, values, 1, 1e10).ahead == ()
    # Load and settling must each be less than CG from d* = 2 (B_M/ln(2/eps)) sqrt(tau ln(1/eps)/(B_L w)), 7 150, on. Of
    # their sum this takes twice d*: the discriminant of a quadratic in sqrt(kappa).
    smallest = 2 * 2.68e13 / math.log(512) * math.sqrt(1e-7 * math.log(256) / (5e10 * 16))
    assert abs(smallest - 7150) < 10
    for factor, ahead in ((0.98, False), (1.02, True)):
        found = crossover(CG, ANALOG, kappa, values | {d: factor * 2 * smallest}, 1, 1e10)
        assert bool(found.ahead) == ahead


def test_the_precision_line_removes_the_window():
    values = H100_CG | {tau: 1e-7, B_L: 1e12, d: 16384}
    line = precision_limit(kappa, w, eps)
    free = crossover(sp.Min(CG, CHOLESKY), ANALOG, kappa, values, 1, 1e10)
    (cut,) = crossover(sp.Min(CG, CHOLESKY), ANALOG, kappa, values, 1, 1e10, [line]).ahead
    assert cut.low == free.ahead[0].low
    assert (cut.high.end, cut.high.name, cut.high.at) == (End.LIMIT, "precision", pytest.approx(256, rel=1e-12))
    # A limit that is just met holds: kappa = 2^16 2^-8.
    sized = {symbol: value for symbol, value in values.items() if symbol is not d} | {kappa: 256}
    assert crossover(sp.Min(CG, CHOLESKY), ANALOG, d, sized, 1, 1e5, [line]).ahead
    assert not crossover(sp.Min(CG, CHOLESKY), ANALOG, d, sized | {kappa: 256.001}, 1, 1e5, [line]).ahead
    # Cells of 8 bits leave kappa = 1 and nothing else.
    none = crossover(sp.Min(CG, CHOLESKY), ANALOG, kappa, values | {w: 8}, 1, 1e10, [line])
    assert none.ahead == ()
    assert "not within the limits of precision" in none.reason
    assert none.crossovers != ()


def test_a_quantum_solver_crosses_where_nothing_can_be_stored():
    # One observable: 1.84 kappa ln(1/eps) queries, read out 1/eps^2 times.
    step = SURFACE_CODE.toffoli
    queries = sp.Rational(184, 100) * kappa * sp.log(1 / eps)
    quantum = queries * toffolis * t_toffoli / eps**2
    values = {kappa: 100, eps: 1e-2, toffolis: SURFACE_CODE.toffolis_of_query, t_toffoli: step}
    assert float(quantum.subs(values | {toffolis: 1e3, t_toffoli: float(step)})) == pytest.approx(1.4e6, rel=0.05)
    digital = values | {w: 32, B_M: in_bits(H100.bandwidth), word: 4}
    (root,) = crossover(CG, quantum, d, digital, 1, 1e12).crossovers
    assert root == pytest.approx(2e8, rel=0.1)
    limited = crossover(CG, quantum, d, digital, 1, 1e12, [storage_limit(d**2 * word, H100.memory)])
    assert limited.ahead == ()
    assert "not within the limits of storage in H100 memory" in limited.reason


def test_storage_and_one_array_limit_the_size():
    limits = [storage_limit(2 * n**2 * word, H100.memory), array_limit(n, RC_DEVICE.nodes)]
    fast = PUBLISHED | {tau: 1e-9, B_L: 8e12, kappa: 10, word: 4}
    (stored,) = crossover(DIGITAL, DEVICE, n, fast, 1, 1e9, limits[:1]).ahead
    assert stored.high.name == "storage in H100 memory"
    assert stored.high.at == pytest.approx(1e5, rel=1e-12)  # sqrt(80e9/8)
    (one,) = crossover(DIGITAL, DEVICE, n, fast, 1, 1e9, limits).ahead
    assert (one.high.name, one.high.at) == ("one array", pytest.approx(2048))
    # At published constants no array is large enough.
    found = crossover(DIGITAL, DEVICE, n, PUBLISHED | {word: 4}, 1, 1e9, limits)
    assert found.ahead == ()
    assert found.crossovers == (pytest.approx(by_hand(PUBLISHED)),)
    assert str(Limit("any", n, kappa)) == str(Limit("any", n, kappa))


@pytest.mark.parametrize("variable", [kappa, tau, B_L], ids=str)
def test_any_variable_can_cross(variable):
    values = PUBLISHED | {tau: 1e-7, kappa: 50}
    size = by_hand(values)
    start = values.pop(variable)
    low = max(1, start / 1e3) if variable is kappa else start / 1e3
    found = crossover(DIGITAL, DEVICE, variable, values | {n: size}, low, start * 1e3)
    (root,) = found.crossovers
    assert root == pytest.approx(start, rel=1e-10)
    # Slower devices lose, faster links win.
    (window,) = found.ahead
    edge = window.low if variable is B_L else window.high
    assert edge.end is End.CROSSOVER


def test_the_search_is_not_extrapolated():
    found = crossover(DIGITAL, DEVICE, n, PUBLISHED, 1, 1e4)
    assert (found.ahead, found.crossovers, found.high) == ((), (), 1e4)
    assert "no crossover: digital costs less throughout; the device comes nearest at n = 10000" in found.reason
    ahead = crossover(DIGITAL, DEVICE, n, PUBLISHED, 1e5, 1e6)
    (window,) = ahead.ahead
    assert window.low.end is window.high.end is End.SEARCH
    assert "no crossover: the device costs less throughout; valid from 100000 (end of the search)" in str(ahead)
    assert ahead.crossovers == ()
    assert "both cost the same throughout" in crossover(DIGITAL, DIGITAL + 0 * n, n, PUBLISHED, 1, 10).reason


def test_windows_are_what_evaluation_says():
    x, random = sp.Symbol("x", positive=True), np.random.default_rng(17)
    several = 0
    for case in range(30):
        powers, scales = random.integers(-4, 7, (2, 3)), np.exp(random.normal(0, 4, (2, 3)))
        terms = [
            sum(sp.Float(float(c)) * x ** sp.Rational(int(p), 2) for c, p in zip(*row, strict=True))
            for row in zip(scales, powers, strict=True)
        ]
        if case % 2:  # crosses again and again
            terms[1] = terms[0] * sp.exp(
                sp.sin(float(random.uniform(0.5, 4)) * sp.log(x) + float(random.uniform(0, 6)))
            )
        top = float(np.exp(random.uniform(0, 14)))
        found = crossover(*terms, x, {}, 1, 1e6, [Limit("size", x, sp.Float(top))])
        several += len(found.crossovers) > 1
        digital, device = (sp.lambdify(x, term, "numpy") for term in terms)
        for at in np.exp(random.uniform(0, math.log(1e6), 200)):
            inside = any(window.low.at < at < window.high.at for window in found.ahead)
            edges = [edge.at for window in found.ahead for edge in (window.low, window.high)]
            if not any(abs(edge / at - 1) < 1e-9 for edge in edges):
                assert inside == bool(device(at) < digital(at) and at <= top)
        for root in found.crossovers:
            assert digital(root) == pytest.approx(device(root), rel=1e-9)
    assert several >= 10


def test_a_window_narrower_than_a_step_is_found():
    # Ahead for ln n within 1e-4 of ln 1000 only; a step of the search is 1e-2.
    u = sp.log(n / 1000)
    found = crossover(sp.Integer(1) + 0 * n, 1 + u**2 - sp.Float(1e-8), n, {}, 1, 1e9)
    assert len(found.crossovers) == 2
    for root, sign in zip(found.crossovers, (-1, 1), strict=True):
        assert math.log(root / 1000) == pytest.approx(sign * 1e-4, rel=1e-4)
    assert crossover(sp.Integer(1), 1 + u**2 + sp.Float(1e-8), n, {}, 1, 1e9).crossovers == ()


def test_a_jump_is_not_called_a_crossover():
    found = crossover(sp.ceiling(n / 10), sp.Rational(3, 2), n, {}, 1, 100)
    (window,) = found.ahead
    assert window.low.end is End.JUMP
    assert found.crossovers == ()
    assert window.low.at == pytest.approx(10, rel=1e-9)


def test_seconds_are_not_compared_with_joules():
    energy = entries * C * V**2 * kappa * sp.log(1 / eps)
    values = {**PUBLISHED, entries: 1e3, C: 1e-9, V: 1}
    for pair in ((DIGITAL, energy), (energy, DEVICE)):
        with pytest.raises(ValueError, match="in one unit"):
            crossover(*pair, n, values, 1, 1e9)
    assert str(crossover(DIGITAL, DEVICE, n, PUBLISHED, 1, 10).unit) == "second"
    # A link in bits with a bandwidth in bytes, a forgotten time constant, a sum of seconds and numbers.
    for wrong in (n**2 * word / B_L, DEVICE / tau, DEVICE + n):
        with pytest.raises(ValueError, match=r"in one unit|different units"):
            crossover(DIGITAL, wrong, n, {**PUBLISHED, word: 4}, 1, 10)
    with pytest.raises(ValueError, match="is in B/s but B_M is in bit/second"):
        crossover(CG, ANALOG, d, {**PUBLISHED, B_M: H100.bandwidth}, 1, 10)
    foreign = sp.Symbol("x", positive=True)
    assert crossover(foreign**2, foreign * 3, foreign, {}, 1, 10).unit is None
    assert "units not checked" in str(crossover(foreign**2, foreign * 3, foreign, {}, 1, 10))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: precision_limit(kappa, eps, w), "word must be in bit"),
        (lambda: storage_limit(n**2 * w, H100.memory), "stored must be in byte"),
        (lambda: storage_limit(n**2 * word, H100.bandwidth), "must be in B, got B/s"),
        (lambda: array_limit(n * tau, RC_DEVICE.nodes), "side must be in 1"),
    ],
)
def test_limits_have_their_units(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("change", "low", "high", "message"),
    [
        ({tau: None}, 1, 1e9, "no entry for tau"),
        ({n: 5}, 1, 1e9, "which is the variable"),
        ({}, 0, 10, "0 < low < high"),
        ({}, 10, 10, "0 < low < high"),
        ({}, 0.5, 10, "n .*must be"),
        ({kappa: 0.1}, 1, 10, "kappa"),
        ({F: -1}, 1, 10, "F"),
    ],
)
def test_bad_input_is_refused_by_name(change, low, high, message):
    values = {symbol: value for symbol, value in (PUBLISHED | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        crossover(DIGITAL, DEVICE, n, values, low, high)


def test_a_cost_must_be_positive_and_known():
    with pytest.raises(ValueError, match="device is not positive and finite at n"):
        crossover(n, n - 5, n, {}, 1, 10)
    with pytest.raises(NotFoundError, match="TPU v5e fp32 peak"):
        crossover(DIGITAL, DEVICE, n, {**PUBLISHED, F: TPU_V5E.fp32}, 1, 10)


def test_limits_of_the_closed_form():
    (root,) = closed_form(DIGITAL, DEVICE, n)
    assert float(root.subs(PUBLISHED)) == pytest.approx(by_hand(PUBLISHED), rel=1e-12)
    n_io = 9 * F * eta * w / (7 * B_L)
    n_rc = sp.sqrt(3 * F * eta * SETTLE / (7 * q))
    for found, expected in ((sp.limit(root, tau, 0), n_io), (sp.limit(root, B_L, sp.oo), n_rc)):
        assert float((found / expected).subs(PUBLISHED)) == pytest.approx(1, abs=1e-14)
    assert sp.simplify(sp.limit(root, tau, 0) - n_io) == 0
    assert sp.simplify(sp.expand_log(sp.limit(root, B_L, sp.oo) ** 2 - n_rc**2, force=True)) == 0
    assert float(n_io.subs(PUBLISHED)) == pytest.approx(8257, abs=0.6)
    # The numbers of the search go to the same places.
    for change, expected in (({tau: 1e-18}, n_io), ({B_L: 1e30}, n_rc)):
        (at,) = crossover(DIGITAL, DEVICE, n, PUBLISHED | change, 1, 1e9).crossovers
        assert at == pytest.approx(float(expected.subs(PUBLISHED)), rel=1e-6)


def test_closed_forms_of_low_degree_only():
    (root,) = closed_form(kappa * n, sp.Integer(6), n)
    assert root == 6 / kappa
    assert closed_form(n + kappa, sp.Integer(0), n) == ()
    assert set(closed_form(n**2 + 6, 5 * n, n)) == {2, 3}
    with pytest.raises(ValueError, match="degree 3"):
        closed_form(n**4, n + kappa * n**2 + n**4 + n**3 + 1, n)
    with pytest.raises(ValueError, match="no polynomial"):
        closed_form(n**2, sp.log(n), n)


@pytest.mark.parametrize(
    ("time", "printed"),
    [(1e-6, (0.47, 0.47, 0.53, 0.06, -0.06, -0.47)), (1e-8, (0.24, 0.24, 0.76, 0.51, -0.51, -0.24))],
)
def test_elasticities_by_two_routes(time, printed):
    values = PUBLISHED | {tau: time}
    (root,) = closed_form(DIGITAL, DEVICE, n)
    (at,) = crossover(DIGITAL, DEVICE, n, values, 1, 1e9).crossovers
    for symbol, expected in zip((kappa, tau, F, w, B_L, q), printed, strict=True):
        found = crossover_elasticity(DIGITAL, DEVICE, n, symbol, values, at)
        assert found == pytest.approx(elasticity(root, symbol, values), rel=1e-9)
        assert abs(found - expected) <= 0.0051
        ends = [by_hand(values | {symbol: values[symbol] * factor}) for factor in (1 - 1e-5, 1 + 1e-5)]
        assert found == pytest.approx(math.log(ends[1] / ends[0]) / 2e-5, rel=1e-6)
    with pytest.raises(ValueError, match="is no crossover"):
        crossover_elasticity(DIGITAL, DEVICE, n, tau, values, 2 * at)


def test_touching_costs_have_no_elasticity():
    with pytest.raises(ValueError, match="touch"):
        crossover_elasticity(n**2 + 25, 10 * n, n, n, {}, 5.0)


SPREADS = {
    **H100_FP32,
    w: 16,
    eta: Spread(0.3, 1.35, at_most=1.0),
    B_L: Spread(5e10, 2.7),
    kappa: Spread(100, 4.5),
    tau: Spread(1e-7, 4.5),
}


def test_the_distribution_of_a_crossover():
    draws = 10_000
    found = crossover_quantiles(DIGITAL, DEVICE, n, SPREADS, 1, 1e9, draws=draws)
    assert (found.below, found.beyond) == (0, 0)
    for quantile, printed in zip((found.low, found.median, found.high), (8000, 31600, 140_000), strict=True):
        assert abs(math.log(quantile / printed)) < 0.06
    # The same law by the closed form, from draws of its own.
    random = np.random.default_rng(11)
    z = random.standard_normal((4, draws))
    rate = np.minimum(0.3 * 1.35 ** z[0], 1) * 66.9e12
    load, settle = 96 / (5e10 * 2.7 ** z[1]), 2 * 1e-5 * 4.5 ** (z[2] + z[3]) * math.log(256)
    a = 14 / 3 / rate
    direct = (load + np.sqrt(load**2 + 4 * a * settle)) / (2 * a)
    assert abs(np.mean((direct > found.low) & (direct < found.high)) - 0.9) < 4 * math.sqrt(2 * 0.09 / draws)
    # Half the spread covers far less.
    narrow = {k: Spread(v.median, math.sqrt(v.factor)) if isinstance(v, Spread) else v for k, v in SPREADS.items()}
    half = crossover_quantiles(DIGITAL, DEVICE, n, narrow, 1, 1e9, draws=2000)
    assert np.mean((direct > half.low) & (direct < half.high)) < 0.75


def test_draws_without_a_crossover_are_counted():
    found = crossover_quantiles(DIGITAL, DEVICE, n, SPREADS, 1, 5e4, draws=4000)
    assert found.beyond == pytest.approx(0.32, abs=0.06)
    assert found.high == math.inf
    assert found.median < 5e4
    with pytest.raises(ValueError, match="0 crossovers, not one"):
        crossover_quantiles(DIGITAL, DEVICE, n, SPREADS, 1, 1e3)
    # In the other direction: the device is ahead below a condition number.
    law = {k: v for k, v in SPREADS.items() if k is not kappa} | {n: 3e4}
    down = crossover_quantiles(DIGITAL, DEVICE, kappa, law, 1, 1e9, draws=4000)
    assert down.below > 0.01
    assert down.low < down.median < down.high
    assert down.beyond == 0


def test_constants_are_drawn_from_their_intervals():
    found = crossover_quantiles(DIGITAL, DEVICE, n, {**PUBLISHED, eta: FACTORISATION, F: H100.fp32}, 1, 1e9, draws=2000)
    (root,) = closed_form(DIGITAL, DEVICE, n)
    share = elasticity(root, eta, PUBLISHED)
    assert math.log(found.high / found.low) == pytest.approx(2 * 1.645 * share * math.log(1.35), rel=0.1)


BUDGETS = {1e-3: (1626, None), 1.0: (16262, 900), 100.0: (75483, 79286)}


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_largest_feasible_layer(budget):
    digital, device = BUDGETS[budget]
    found = largest_feasible(DIGITAL, n, budget, PUBLISHED, 1, 1e9)
    assert abs(found.at - digital) <= 0.5
    assert found.at == pytest.approx((3 * 0.3 * 66.9e12 * budget / 14) ** (1 / 3), rel=1e-12)
    analog = largest_feasible(DEVICE, n, budget, PUBLISHED, 1, 1e9)
    if device is None:
        assert (analog.at, analog.stop) == (None, Stop.NOTHING)
    else:
        assert abs(analog.at - device) <= 0.5
        assert float(DEVICE.subs(PUBLISHED).subs(n, analog.at)) == pytest.approx(budget, rel=1e-9)


def test_a_budget_has_an_end_of_search_and_a_unit():
    assert round(largest_feasible(DIGITAL, n, 1.0, PUBLISHED, 1, 1e9).at, 1) == 16262.2
    found = largest_feasible(DIGITAL, n, 1e3, PUBLISHED, 1, 100)
    assert (found.at, found.stop) == (100, Stop.SEARCH)
    joule = Constant("battery", 1.0, "J", "label", "2026-11", Origin.DATASHEET)
    with pytest.raises(ValueError, match="battery is in J but the cost is in second"):
        largest_feasible(DIGITAL, n, joule, PUBLISHED, 1, 1e9)
    same = dataclasses.replace(joule, name="a second", unit="s")
    assert largest_feasible(DIGITAL, n, same, PUBLISHED, 1, 1e9).at == pytest.approx(16262.2, abs=0.05)
    with pytest.raises(ValueError, match="the cost falls"):
        largest_feasible(1 / n, n, 1.0, {}, 1, 10)
    with pytest.raises(ValueError, match="no entry for F, eta"):
        largest_feasible(DIGITAL, n, 1.0, {}, 1, 10)


def test_a_speed_up_buys_less_size_for_steeper_costs():
    for power, printed in ((3, 3.9), (2, 7.7)):
        factor = float(growth_of_problem(60, power))
        assert round(factor, 1) == printed
        at = [largest_feasible(n**power, n, budget, {}, 1, 1e6).at for budget in (1e4, 60e4)]
        assert at[1] / at[0] == pytest.approx(factor, rel=1e-9)
    assert float(growth_of_spending(60, 1.5)) > 1 > float(growth_of_spending(60, 0.5))


@pytest.mark.parametrize(
    ("rho", "batch", "gradient", "printed"),
    [
        (1, 0, 4, (1.50, 1.05, 1.005)),
        (1, 0.25, 10, (1.31, 1.03, 1.00)),
        (1, 1, 10, (1.14, 1.01, 1.00)),
        (15, 0, 4, (8.5, 1.75, 1.075)),
        (15, 0.25, 10, (5.6, 1.46, 1.05)),
        (15, 1, 10, (3.1, 1.21, 1.02)),
    ],
)
def test_the_ceiling_of_offloading_the_inversion(rho, batch, gradient, printed):
    for every, expected in zip((1, 10, 100), printed, strict=True):
        inversion, rest = 2 * rho / every, 4 + gradient * batch
        ceiling = amdahl(inversion / (inversion + rest), sp.oo)
        assert float(ceiling) == pytest.approx(1 + 2 * rho / (every * (4 + gradient * batch)), rel=1e-12)
        assert abs(float(ceiling) - expected) <= (0.0051 if expected < 5 else 0.051) * (10 if expected == 3.1 else 1)
        # No finite speed-up reaches it.
        assert amdahl(inversion / (inversion + rest), 1e3) < ceiling


def test_laws_of_part_and_whole():
    f, s = sp.symbols("f s", positive=True)
    assert amdahl(f, s).subs({f: 0, s: 7}) == 1 == gustafson(f, s).subs({f: 0, s: 7})
    assert amdahl(sp.Rational(1, 4), 1) == 1
    assert sp.simplify(sp.limit(amdahl(f, s), s, sp.oo) - 1 / (1 - f)) == 0
    # The fraction before and the one after are two: f' = (f/s)/((1 - f) + f/s) joins both laws.
    before = (f * s) / ((1 - f) + f * s)
    assert sp.simplify(amdahl(before, s) - gustafson(f, s)) == 0
    for bad in ((1.5, 2), (-0.1, 2), (0.5, 0)):
        with pytest.raises(ValueError, match="must be"):
            amdahl(*bad)


# Digital energy at the peak against loads, resistors and bias, by capacitance and voltage, with the link's limit.
BREAK_EVEN = {(1e-9, 1.0): (2970, 19800), (1e-9, 0.1): (210, 1340), (1e-12, 0.1): (26, 400)}


@pytest.mark.parametrize("part", BREAK_EVEN, ids=str)
def test_break_even_of_energy(part):
    capacitance, volts = part
    e_flop = 700 / 66.9e12
    link = (d**2 + 2 * d) * w
    run = kappa * tau * sp.log(1 / eps) + link / B_L
    device = link * e_bit + d ** sp.Rational(3, 2) * C * V**2 * kappa * sp.log(1 / eps) + d * P_cell * run
    values = {
        **PUBLISHED,
        C: capacitance,
        V: volts,
        tau: 1e3 * capacitance,
        e_bit: RC_DEVICE.link_energy,
        P_cell: RC_DEVICE.cell_power,
    }
    joule = sp.Symbol("e", positive=True)
    for price, printed in zip((e_flop, e_flop / 14.8), BREAK_EVEN[part], strict=True):
        found = crossover(joule * d**3 / 3, device, d, {**values, joule: price}, 1, 1e6)
        (root,) = found.crossovers
        assert found.unit is None
        assert root == pytest.approx(printed, rel=0.03)


def test_factors_multiply_to_the_total():
    random = np.random.default_rng(3)
    for _ in range(20):
        old, algorithm, hardware, new = (float(v) for v in np.exp(random.normal(0, 8, 4)))
        costs = Costs(old, algorithm, hardware, new)
        merits = [figure_of_merit(costs, order) for order in Order]
        for merit, between in zip(merits, (algorithm, hardware), strict=True):
            assert merit.algorithm * merit.hardware == merit.total
            assert Fraction(int(merit.total.p), int(merit.total.q)) == Fraction(old) / Fraction(new)
            factors = {Fraction(old) / Fraction(between), Fraction(between) / Fraction(new)}
            assert {Fraction(int(x.p), int(x.q)) for x in (merit.algorithm, merit.hardware)} == factors
        assert merits[0].total == merits[1].total
        assert merits[0].algorithm != merits[1].algorithm


def test_swapped_factors_are_seen():
    merit = figure_of_merit(Costs(12, 6, 4, 1), Order.ALGORITHM_FIRST)
    assert (merit.algorithm, merit.hardware, merit.total) == (2, 6, 12)
    other = figure_of_merit(Costs(12, 6, 4, 1), Order.HARDWARE_FIRST)
    assert (other.algorithm, other.hardware, other.total) == (4, 3, 12)


def test_a_fast_transform_against_a_dense_one():
    # On a chip with bandwidth only: dense streams 8 n^2 bytes, fast 16 n; on another with twice the bandwidth.
    size = 2**20
    dense, fast = 8 * size**2, 16 * size
    merit = figure_of_merit(Costs(dense, fast, sp.Rational(dense, 2), sp.Rational(fast, 2)), Order.ALGORITHM_FIRST)
    assert (merit.algorithm, merit.hardware, merit.total) == (size // 2, 2, size)
    symbolic = figure_of_merit(Costs(8 * n**2, 16 * n, 4 * n**2, 8 * n), Order.HARDWARE_FIRST)
    assert (symbolic.algorithm, symbolic.hardware) == (n / 2, 2)


def test_a_run_that_failed_has_no_ratio():
    memory = Missing("out of memory")
    with pytest.raises(NotComputableError, match=r"not computable: the old cost is missing \(out of memory\)"):
        ratio(memory, 1.5)
    with pytest.raises(NotComputableError, match="new cost"):
        ratio(1.5, memory)
    partly = Costs(12, 6, memory, 1)
    assert figure_of_merit(partly, Order.ALGORITHM_FIRST).total == 12
    with pytest.raises(NotComputableError, match="new_hardware"):
        figure_of_merit(partly, Order.HARDWARE_FIRST)
    for nothing in (0, 0.0, -1.0, math.inf, math.nan):
        with pytest.raises(NotComputableError, match="not positive and finite"):
            ratio(nothing, 1.0)


def test_the_front_is_what_nobody_beats():
    random = np.random.default_rng(7)
    candidates = [Candidate(str(i), *map(float, row)) for i, row in enumerate(random.integers(0, 6, (60, 3)))]
    front = pareto_front(candidates)

    def beats(x, y):
        pairs = [(getattr(x, name), getattr(y, name)) for name in ("seconds", "joules", "error")]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    assert {found.name for found in front.best} == {
        x.name for x in candidates if not any(beats(y, x) for y in candidates)
    }
    table = {candidate.name: candidate for candidate in candidates}
    assert set(front.beaten) == set(table) - {found.name for found in front.best}
    assert all(beats(table[by], table[name]) for name, by in front.beaten.items())
    twins = [Candidate("a", 1.0, 1.0, 1.0), Candidate("b", 1.0, 1.0, 1.0)]
    assert len(pareto_front(twins).best) == 2


def test_unknown_figures_do_not_win():
    unknown = Candidate("unknown", 0.0, Missing("power not found"), 0.0)
    front = pareto_front([unknown, Candidate("known", 1.0, 1.0, 1.0)])
    assert [found.name for found in front.best] == ["known"]
    assert front.left_out == {"unknown": "joules: power not found"}
    with pytest.raises(ValueError, match="two candidates"):
        pareto_front([unknown, unknown])
    with pytest.raises(ValueError, match="error of x"):
        pareto_front([Candidate("x", 1.0, 1.0, math.nan)])
