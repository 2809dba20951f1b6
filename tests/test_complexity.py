"""The ledger in symbols against the ledger in numbers, which share no code."""

import ast
from pathlib import Path

import pytest
import sympy as sp

import thermolinalg as tla
from thermolinalg import complexity
from thermolinalg.complexity import ledger as symbols

CONVERTERS = {
    "matrix_dac": tla.Converter(6, rate=3e6),
    "force_dac": tla.Converter(10, rate=7e8),
    "adc": tla.Converter(12, rate=2e6, joules=3e-12),
}
DEVICES = {
    "ideal": tla.Device(),
    "rc": tla.presets.rc(bits=9),
    "mixed": tla.Device(
        time_constant=3e-7, link=tla.Link(12, 7e8, 3e-12), cell_power=3e-3, idle_power=0.7, **CONVERTERS
    ),
    "slow": tla.Device(time_constant=1e-8, adc=tla.Converter(5, rate=1e4), idle_power=1.0),
}
HOST = tla.Host(3e11, 2e-10)
PLANS = {"continuous": tla.Plan(3.0, 40.0, clock=1.7), "sampled": tla.Plan(0.3, 40.0, 900, clock=0.6, replicas=3)}
PLANS["replicas"] = tla.Plan(3.0, 0.0, replicas=2)
SIZES = {"dim": 17, "writes": 2, "components": 2, "flops": 12345.0}
VERBS = {
    "solve": (
        lambda plan, device: tla.cost(plan, device, columns=5, host=HOST, **SIZES),
        lambda sampled: complexity.linear(sampled=sampled),
    ),
    "inverse": (
        lambda plan, device: tla.cost_moments(plan, device, host=HOST, **SIZES),
        lambda sampled: complexity.moments(sampled=sampled),
    ),
    "lyapunov": (
        lambda plan, device: tla.cost_moments(plan, device, loaded=17**2, host=HOST, **SIZES),
        lambda sampled: complexity.moments(sampled=sampled, noise=True),
    ),
    "exponential": (
        lambda plan, device: tla.cost_moments(plan, device, states=2, host=HOST, **SIZES),
        lambda sampled: complexity.moments(sampled=sampled, states=2),
    ),
}


def values(plan, device):
    sizes = {symbols.d: 17, symbols.k: 5, symbols.w: 2, symbols.m: 2, symbols.work: 12345.0}
    times = {symbols.t0: plan.burn_in, symbols.tau: plan.duration, symbols.clock: plan.clock}
    counts = {symbols.R: plan.replicas} | ({} if plan.samples is None else {symbols.N: plan.samples})
    return complexity.settings(device, HOST) | sizes | times | counts


def gap(ledger, twin, numbers):
    """Largest relative difference of any part, in seconds or joules, or of the whole."""
    pairs = []
    for found, formulas in ((ledger.seconds, twin.seconds), (ledger.joules, twin.joules)):
        pairs += [(getattr(found, name), value) for name, value in formulas.at(numbers).items()]
    whole = [(ledger.total, twin.seconds.total), (ledger.energy, twin.energy), (ledger.idle, twin.idle)]
    whole.append((ledger.break_even_duty, twin.break_even_duty))
    pairs += [(found, float(formula.subs(numbers))) for found, formula in whole]
    return max(abs(found - value) / max(abs(value), 1e-300) for found, value in pairs)


# About twenty roundings of double precision in each part; exponents of ten in the energy of a conversion lose a digit.
ROUNDING = 1e-13


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("verb", VERBS)
def test_formulas_and_numbers_agree(verb, device):
    price, twin = VERBS[verb]
    for plan in PLANS.values():
        formulas = twin(plan.samples is not None)
        ledger, numbers = price(plan, DEVICES[device]), values(plan, DEVICES[device])
        assert gap(ledger, formulas, numbers) < ROUNDING
        # Another size, temperature of prices, or device is another ledger.
        for symbol in (symbols.d, symbols.e_bit, symbols.second, symbols.R, symbols.w):
            assert gap(ledger, formulas, numbers | {symbol: 2 * numbers[symbol]}) > 1e-6, symbol


def test_the_formula_of_another_verb_does_not_fit():
    plan, device = PLANS["sampled"], DEVICES["mixed"]
    for verb, (price, _) in VERBS.items():
        ledger, numbers = price(plan, device), values(plan, device)
        others = [gap(ledger, twin(True), numbers) for name, (_, twin) in VERBS.items() if name != verb]
        assert min(others) > 1e-6, verb


def test_a_converter_that_lags_is_seen():
    """In both branches of the larger of the two."""
    ledger, numbers = VERBS["solve"][0](PLANS["sampled"], DEVICES["slow"]), values(PLANS["sampled"], DEVICES["slow"])
    assert ledger.convert == pytest.approx(5 * (2 * 900 / 1e4 - 1e-8 * 0.6 * 40), rel=1e-12)
    quick = complexity.linear(sampled=True).seconds.at(numbers | {symbols.f_read: 1e15})
    assert quick["convert"] == 0.0


def test_growth_can_be_read_off():
    """Reading an inverse as samples costs the host d^2 for each, where a continuous reading costs it nothing."""
    digital = complexity.moments(sampled=True).seconds.digital
    assert sp.degree(sp.expand(digital * symbols.r_host), symbols.d) == 2
    once = {symbols.R: 1, symbols.work: 0}
    assert complexity.moments().seconds.digital.subs(once) == 0
    assert sp.simplify(sp.diff(complexity.linear().seconds.average, symbols.k, 2)) == 0


def test_what_has_no_number_is_named():
    with pytest.raises(ValueError, match="N, R"):
        complexity.linear(sampled=True).seconds.at(values(PLANS["continuous"], DEVICES["rc"]) | {symbols.R: symbols.R})
    with pytest.raises(ValueError, match="states"):
        complexity.moments(states=3)


FORMULAS = ("symbols", "dimensions", "asymptotics", "model", "ledger", "constants", "hardware", "roofline", "merit")


def test_formulas_share_nothing_with_numbers():
    package = Path(complexity.__file__).parent
    # Tracing needs JAX; crossovers and intervals are searched with numbers. Formulas need neither.
    formulas = [*package.glob("models/*.py"), *(package / f"{name}.py" for name in FORMULAS)]
    for path in [*package.rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert all(not n.startswith("thermolinalg") or n.startswith("thermolinalg.complexity") for n in names)
            if path in formulas:
                assert not {"jax", "numpy", "scipy"} & {name.split(".")[0] for name in names}
