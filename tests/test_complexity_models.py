"""Formulas of cost against operations that are counted, errors that are computed, and figures that are published."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.optimize import brentq

from thermolinalg import complexity
from thermolinalg.complexity import CostModel, Counts, Kind, Oracle, Source, Status, dominates, unit_of
from thermolinalg.complexity import symbols as sy
from thermolinalg.complexity.models import (
    descent,
    direct,
    iterative,
    kronecker,
    optimizers,
    quantum,
    simulation,
    thermodynamic,
    traffic,
)

MODULES = (descent, direct, iterative, kronecker, optimizers, quantum, simulation, thermodynamic, traffic)
MODELS = {
    f"{module.__name__.rsplit('.', 1)[1]}.{name}": model
    for module in MODULES
    for name, model in vars(module).items()
    if isinstance(model, CostModel) and not name.startswith("_")
}
KNOWN = {name: model for name, model in MODELS.items() if model.kind is not Kind.UNAVAILABLE}
SIZES = (sy.n, sy.m, sy.k, sy.d, sy.b, sy.d_z, sy.N, sy.s, sy.c, sy.rho)


def numbers(model, seed=0, **given):
    """A value inside of the range for each symbol of a model."""
    rng = np.random.default_rng(seed)
    found = {}
    for symbol in model.formula.free_symbols.union(*(x.free_symbols for x in model.valid)):
        meaning = sy.GLOSSARY[symbol]
        low = max(meaning.low, 1e-3)
        found[symbol] = float(np.exp(rng.uniform(math.log(low), math.log(min(meaning.high, 100 * low)))))
    found |= {
        symbol: x
        for symbol, x in ((sy.kappa, 50.0), (sy.rho, 20.0), (sy.n, 30.0), (sy.m, 40.0), (sy.k, 3.0), (sy.d, 20.0))
        if symbol in found
    }
    return found | {symbol: x for symbol, x in ((sy.eps, 0.01), (sy.phi, 0.01)) if symbol in found} | given


# All models


@pytest.mark.parametrize("name", MODELS)
def test_each_model_says_what_it_is(name):
    model = MODELS[name]
    assert model.error
    assert all(source.text for source in model.sources)
    assert all(isinstance(oracle, Oracle) for oracle in model.oracles)
    assert model.counts.convention in str(model)
    assert model.kind.value in str(model)
    if name in KNOWN:
        assert unit_of(model.cost) == model.counts.unit
        assert model.cost.free_symbols <= set(sy.GLOSSARY)
        assert model.at(numbers(model)) > 0
        left = sorted(map(str, model.cost.free_symbols))
        if left:
            with pytest.raises(ValueError, match=left[0]):
                model.at({})
    else:
        for use in (lambda: model.at({}), lambda: model.leading([sy.n]), lambda: model + model):
            with pytest.raises(ValueError, match=f"{model.name}: the cost is not available: {model.notes}"):
                use()


@pytest.mark.parametrize("name", KNOWN)
def test_costs_grow_with_the_problem(name):
    """More unknowns, worse conditioning and less error never cost less."""
    model = KNOWN[name]
    start = numbers(model)
    for symbol in (*SIZES, sy.kappa, sy.radius, sy.lipschitz, sy.smooth, sy.sigma):
        if symbol in start:
            larger = {symbol: 2 * start[symbol]}
            if symbol is sy.n and sy.m in start:
                larger[sy.m] = 2 * start[sy.m]
            # More samples to start from save sweeps of refinement.
            falls = symbol is sy.rho and "SWEEPS" in name + "SWEEPS" * ("FLOPS" in name)
            assert (model.at(start | larger) >= model.at(start)) != falls, symbol
    for symbol in (sy.eps, sy.gap, sy.delta, sy.phi, sy.B_L, sy.B_M):
        if symbol in start:
            assert model.at(start | {symbol: start[symbol] / 2}) >= model.at(start), symbol


@pytest.mark.parametrize("name", KNOWN)
def test_growth_of_each_model_against_numbers(name):
    """Far out along a random direction the formula is within a constant of its leading terms."""
    model = KNOWN[name]
    large = [x for x in (*SIZES, sy.kappa) if x in model.cost.free_symbols and x is not sy.rho]
    small = [x for x in (sy.eps, sy.delta, sy.phi, sy.gap) if x in model.cost.free_symbols]
    if not large + small:
        assert name in CONSTANT
        return
    if name.split(".")[1] in REFUSED:
        with pytest.raises(ValueError, match=r"inside a|no order for"):
            model.leading(large, small)
        return
    terms = sp.Add(*model.leading(large, small).terms)
    rng = np.random.default_rng(1)
    for _ in range(4):
        powers = {x: rng.uniform(0.2, 1.0) for x in (*large, *small)}
        if {sy.m, sy.n} <= set(powers):
            powers |= {sy.m: powers[sy.m] + powers[sy.n]}
        if {sy.k, sy.n, sy.m} <= set(powers):
            powers |= {sy.k: powers[sy.n] / 2}
        ratios = []
        for t in (1e15, 1e30):
            out = {x: sp.Float(t) ** (p if x in large else -p) for x, p in powers.items()}
            rest = dict.fromkeys(model.cost.free_symbols - set(out), 1)
            ratios.append(float((model.cost / terms).subs(out | rest).evalf()))
        assert 1e-3 < ratios[1] < 1e3
        assert 0.4 < ratios[1] / ratios[0] < 2.5


CONSTANT = {"optimizers.SGD_CALLS", "quantum.JORDAN_QUERIES", "traffic.BIT_FLOOR"}
"""Costs that do not grow with anything."""

REFUSED = {
    *("RICHARDSON_PASSES", "NEWTON_SCHULZ_SWEEPS", "NEWTON_SCHULZ"),
    *("INVERSE_REFINED_SWEEPS", "INVERSE_REFINED_FLOPS"),
}
"""Logarithms of logarithms or of sums: no monomials."""


def test_statements_of_order_give_no_number():
    for name in ("GILYEN_QUERIES", "HHL", "ADIABATIC", "JORDAN_QUERIES", "PREPARATION", "NONSMOOTH_FLOOR"):
        model = getattr(quantum, name)
        known = {x: y for x, y in numbers(model).items() if x is not sy.hidden}
        with pytest.raises(ValueError, match="a number for each of K"):
            model.at(known)
        assert model.at(known | {sy.hidden: 2.0}) > 0


# What models refuse


def made(cost, counts=Counts.SECONDS, kind=Kind.MODEL, **rest):
    return CostModel("made", cost, counts, kind, "none", Oracle.ENTRIES, Source("test", Status.DERIVED), **rest)


def test_units_are_checked():
    made(sy.n**2 * sy.w / sy.B_L + sy.kappa * sy.tau)
    made(sy.n**3 / (sy.eta * sy.F))
    made(sy.entries * sy.C * sy.V**2, Counts.JOULES)
    made(sy.P_cell * sy.tau, Counts.JOULES)
    for wrong in (sy.n**2 / sy.B_L, sy.kappa, sy.n**2 * sy.w * sy.B_L, sy.tau**2, sy.C * sy.V**2):
        with pytest.raises(ValueError, match="must be in second but is in"):
            made(wrong)
    for wrong in (sy.tau + sy.kappa, sp.Max(sy.tau, sy.n), sp.log(sy.tau) * sy.tau, sy.tau**sy.n):
        with pytest.raises(ValueError, match="in "):
            made(wrong)
    with pytest.raises(ValueError, match="no entry in the glossary"):
        made(sp.Symbol("x") * sy.tau)
    with pytest.raises(ValueError, match="no rule for the unit of sin"):
        made(sp.sin(sy.n) * sy.tau)
    with pytest.raises(ValueError, match="memory must be in 1"):
        made(sy.tau, memory=sy.w)


def test_cost_and_kind_agree():
    for cost, kind in ((None, Kind.MODEL), (sy.tau, Kind.UNAVAILABLE)):
        with pytest.raises(ValueError, match="UNAVAILABLE"):
            made(cost, kind=kind)
    with pytest.raises(ValueError, match="the memory is not known"):
        made(sy.tau).words({})
    with pytest.raises(ValueError, match="the memory is not known"):
        made(sy.tau).footprint()


def test_sums():
    solve = direct.POTRF + direct.POTRS
    assert solve.kind is Kind.EXACT
    assert (direct.POTRF + iterative.CG).kind is Kind.BOUND
    assert (iterative.CG + direct.SYEVD).kind is Kind.MODEL
    assert traffic.SOLVE_SECONDS.kind is Kind.MODEL
    assert set(traffic.SOLVE_SECONDS.sources) == {*traffic.SOLVE_TRANSFER.sources, *traffic.SETTLE.sources}
    with pytest.raises(ValueError, match="flops cannot be added to seconds"):
        direct.POTRF + traffic.SOLVE_SECONDS
    with pytest.raises(ValueError, match="queries to different oracles"):
        iterative.CG_PASSES + descent.SMOOTH
    with pytest.raises(ValueError, match="an upper and a lower bound"):
        made(sy.n, Counts.FLOPS, Kind.BOUND) + made(sy.n, Counts.FLOPS, Kind.FLOOR)
    with pytest.raises(ValueError, match="a constant of its own"):
        quantum.HHL + quantum.VARIABLE_TIME
    with pytest.raises(TypeError):
        direct.POTRF + 3


def test_prices():
    price, source = 1 / (sy.eta * sy.F), Source("peak", Status.READ)
    seconds = direct.POTRF.priced(price, Counts.SECONDS, name="Cholesky on a chip", kind=Kind.MODEL, source=source)
    assert seconds.cost == direct.POTRF.cost / (sy.eta * sy.F)
    assert seconds.sources[-1] is source
    for wrong in (sy.eta, sy.F, sy.tau**2):
        with pytest.raises(ValueError, match="must be in second"):
            direct.POTRF.priced(wrong, Counts.SECONDS, name="wrong", kind=Kind.MODEL, source=source)
    with pytest.raises(ValueError, match="give a model of seconds"):
        traffic.cells(direct.POTRF)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({sy.n: 3}, "give a number for each of m"),
        ({sy.n: 3, sy.m: 2}, "the formula holds for m >= n only"),
        ({sy.n: 0.5, sy.m: 2}, "n .* must be from 1 to inf"),
        ({sy.n: math.nan, sy.m: 2}, "n .* must be"),
        ({sy.n: math.inf, sy.m: 2}, "n .* must be"),
        ({sy.n: "many", sy.m: 2}, "could not convert|must be a number"),
        ({sy.n: [1], sy.m: 2}, "n must be a number"),
        ({"n": 2, sy.m: 2}, "symbols for keys"),
        ({sy.n: 2, sy.m: 2, sy.eps: 2.0}, "epsilon .* positive and at most 1"),
    ],
)
def test_numbers_that_make_no_sense(values, reason):
    with pytest.raises(ValueError, match=reason):
        direct.GETRF.at(values)


def test_other_symbols_and_repetitions():
    assert direct.POTRF.where({sy.n: sy.m}).at({sy.m: 10}) == direct.POTRF.at({sy.n: 10})
    assert direct.GETRF.where({sy.m: sy.n}).valid == ()
    with pytest.raises(ValueError, match="does not hold"):
        direct.GETRF.where({sy.m: 2, sy.n: 3})
    assert direct.POTRF.repeated(sy.k).cost == sy.k * direct.POTRF.cost
    with pytest.raises(ValueError, match="times must be positive"):
        direct.POTRF.repeated(0)
    assert direct.POTRF.footprint().at({sy.n: 10, sy.word: 8}) == 800
    assert direct.POTRF.words({sy.n: 10}) == 100


def test_symbols_are_one_set():
    names = [symbol.name for symbol in sy.GLOSSARY]
    assert len(names) == len(set(names))
    assert all(symbol.is_positive and meaning.text for symbol, meaning in sy.GLOSSARY.items())
    assert all(meaning.low < meaning.high for meaning in sy.GLOSSARY.values())


def test_symbols_of_others_become_those_of_the_glossary():
    size, ratio = sp.symbols("n kappa", integer=True, positive=True)
    assert sy.canonical(size**3 / 3 + ratio) == sy.n**3 / 3 + sy.kappa
    with pytest.raises(ValueError, match="x has no entry"):
        sy.canonical(size + sp.Symbol("x"))


def test_formulas_share_no_code_with_the_numerics():
    folder = Path(complexity.__file__).parent
    own = [
        "symbols",
        "dimensions",
        "asymptotics",
        "model",
        *(f"models/{path.stem}" for path in folder.glob("models/*.py")),
    ]
    for name in own:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                allowed = (
                    "sympy",
                    "collections.abc",
                    "dataclasses",
                    "enum",
                    "typing",
                    "math",
                    "thermolinalg.complexity",
                )
                assert module.startswith(allowed), (name, module)


# Iterative solvers


def spectrum(condition, size=60):
    return np.geomspace(1 / condition, 1.0, size)


def cg_passes(rates, rhs, eps):
    """Passes until the energy norm of the error has fallen by eps, from the origin; diagonal matrix."""
    x, r = np.zeros_like(rhs), rhs.copy()
    p, start = r.copy(), float(rhs @ (rhs / rates))
    for count in range(10_000):
        error = x - rhs / rates
        if error @ (rates * error) <= eps**2 * start:
            return count
        step = (r @ r) / (p @ (rates * p))
        x, new = x + step * p, r - step * rates * p
        p, r = new + (new @ new) / (r @ r) * p, new
    raise AssertionError


@pytest.mark.parametrize("condition", [10.0, 100.0, 1000.0])
@pytest.mark.parametrize("eps", [1e-2, 1e-6])
def test_passes_of_conjugate_gradients(condition, eps):
    bound = iterative.CG_PASSES.at({sy.kappa: condition, sy.eps: eps})
    rhs = np.random.default_rng(0).standard_normal(60)
    needed = cg_passes(spectrum(condition), rhs, eps)
    assert needed <= math.ceil(bound)
    if (condition, eps) == (100.0, 1e-2):
        assert needed > 0.3 * bound


@pytest.mark.parametrize("condition", [10.0, 100.0])
def test_passes_of_steepest_descent_and_richardson(condition):
    eps = 1e-6
    at = {sy.kappa: condition, sy.eps: eps}
    rates = np.array([1 / condition, 1.0])
    # The worst start: components as the inverse eigenvalues.
    x, count = 1 / rates, 0
    start = x @ (rates * x)
    while x @ (rates * x) > eps**2 * start:
        r = rates * x
        x, count = x - (r @ r) / (r @ (rates * r)) * r, count + 1
    bound = iterative.STEEPEST_DESCENT_PASSES.at(at)
    assert 0.95 * bound < count <= math.ceil(bound)
    factor = np.max(np.abs(1 - 2 / rates.sum() * rates))
    needed = math.log(1 / eps) / -math.log(factor)
    assert iterative.RICHARDSON_PASSES.at(at) == pytest.approx(needed, rel=1e-12)
    assert needed <= iterative.RICHARDSON_PASSES_SIMPLE.at(at) < 1.01 * needed + 1
    with pytest.raises(ValueError, match="holds for kappa > 1"):
        iterative.RICHARDSON_PASSES.at(at | {sy.kappa: 1.0})


def test_published_counts():
    at = {sy.kappa: 100, sy.eps: 1e-6}
    assert math.ceil(iterative.STEEPEST_DESCENT_PASSES.at(at)) == 691
    assert math.ceil(iterative.CG_PASSES.at(at)) == 73


@pytest.mark.parametrize(("condition", "published"), [(10, 5), (100, 9), (1000, 12), (10_000, 15)])
def test_sweeps_of_newton_schulz(condition, published):
    eps = 2.0**-8
    residual, count = (condition - 1) / (condition + 1), 0
    while residual > eps:
        residual, count = residual**2, count + 1
    found = iterative.NEWTON_SCHULZ_SWEEPS.at({sy.kappa: condition, sy.eps: eps})
    assert math.ceil(found) == count == published


def test_better_methods_dominate_less():
    for better, worse in ((iterative.CG, iterative.RICHARDSON), (descent.NESTEROV, descent.SMOOTH)):
        large, small = ([sy.kappa, sy.n], [sy.eps]) if better is iterative.CG else ([sy.smooth, sy.radius], [sy.gap])
        assert dominates(worse.cost, better.cost, large, small)
        assert not dominates(better.cost, worse.cost, large, small)


@pytest.mark.parametrize("steps", [10, 1000])
def test_gradient_descent_on_smooth_objectives(steps):
    """Quadratic with a spectrum down to zero: the gap after the number of steps is within the bound."""
    rates = np.geomspace(1e-6, 1.0, 200)
    start = np.sqrt(1 / rates.size) * np.ones_like(rates)
    gap = 0.5 * float(np.sum(rates * (start * (1 - rates) ** steps) ** 2))
    assert descent.SMOOTH.at({sy.smooth: 1, sy.radius: 1, sy.gap: gap}) >= steps
    rates = np.geomspace(1e-2, 1.0, 30)
    left = np.sum(rates * (1 - rates) ** (2 * steps)) / np.sum(rates)
    assert descent.STRONGLY_CONVEX.at({sy.kappa: 100, sy.eps: max(left, 1e-300)}) >= steps


def test_subgradients():
    """|x| in one dimension, fixed step, averaged iterates."""
    gap = 0.05
    steps = round(descent.NONSMOOTH.at({sy.lipschitz: 1, sy.radius: 1, sy.gap: gap}))
    x, visited = 1.0, []
    for _ in range(steps):
        visited.append(x)
        x -= gap * math.copysign(1.0, x)
    assert abs(np.mean(visited)) <= np.mean(np.abs(visited)) <= gap * 1.0001 + 1 / steps / gap


# Published figures of whole systems


def test_transfer_of_tngd():
    at = {sy.b: 32, sy.d_z: 20, sy.N: 1e5, sy.w: 16, sy.B_L: 5e10}
    assert optimizers.TNGD_SETTLE.words(at) == pytest.approx(1.28e8, rel=5e-3)
    assert optimizers.TNGD_TRANSFER.at(at) == pytest.approx(41e-3 + 2 * 32e-6, rel=5e-3)
    calls = [optimizers.SGD_CALLS, optimizers.NGD_EXPLICIT_CALLS, optimizers.NGD_CG_CALLS, optimizers.TNGD_CALLS]
    assert [model.at(at | {sy.c: 200}) for model in calls] == [1, 640, 400, 640]


@pytest.mark.parametrize(
    ("model", "terms"),
    [
        (optimizers.SGD, {sy.b * sy.N}),
        (optimizers.ADAM, {sy.b * sy.N}),
        (optimizers.NGD_EXPLICIT, {sy.N**3, sy.b * sy.d_z * sy.N**2, sy.b * sy.d_z**2 * sy.N}),
        (optimizers.NGD_CG, {sy.c * sy.b * sy.N, sy.c * sy.b * sy.d_z**2}),
        (optimizers.NGD_WOODBURY, {sy.b**2 * sy.d_z**2 * sy.N, sy.b**3 * sy.d_z**3}),
        (optimizers.TNGD_FLOPS, {sy.b * sy.d_z * sy.N}),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_orders_of_table_1(model, terms):
    """As published, and the product with the Hessian of the loss beside them."""
    assert set(model.leading([sy.b, sy.d_z, sy.N, sy.c]).terms) == terms


def crossing(digital, device, values, low=2.0, high=1e9):
    return brentq(lambda x: digital.at(values | {sy.n: x, sy.m: x}) - device.at(values | {sy.n: x, sy.m: x}), low, high)


CHIP = {sy.eta: 0.3, sy.F: 66.9e12, sy.w: 16, sy.B_L: 5e10, sy.eps: 2.0**-8, sy.q: 1, sy.tau: 1e-6, sy.kappa: 100}


def on_chip(model):
    price = 1 / (sy.eta * sy.F)
    source = Source("peak", Status.READ)
    return model.priced(price, Counts.SECONDS, name="chip", kind=Kind.MODEL, source=source)


@pytest.mark.parametrize(
    ("condition", "tau", "link", "published"),
    [(10, 1e-6, 5e10, 26355), (100, 1e-6, 5e10, 73315), (1000, 1e-8, 1e12, 22047), (100, 1e-7, 5e10, 26355)],
)
def test_crossover_of_a_layer(condition, tau, link, published):
    digital = on_chip(kronecker.DAMPED_CHOLESKY + kronecker.APPLY)
    values = CHIP | {sy.kappa: condition, sy.tau: tau, sy.B_L: link}
    # The published roots leave out lower-order terms, of relative size 3/n or less.
    assert crossing(digital, kronecker.THERMO_SYSTEMS_SECONDS, values) == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize(("condition", "published"), [(10, 20293), (100, 28557), (1000, 50907)])
def test_crossover_by_rows(condition, published):
    digital = on_chip(kronecker.DAMPED_CHOLESKY + kronecker.RANK_B)
    outer = on_chip(kronecker.THERMO_RANK_B_FLOPS).where({sy.k_s: 1})
    # Of the digital part the device saves all but the outer products.
    rest = on_chip(kronecker.GRADIENT + kronecker.STATISTICS + kronecker.STEP)
    values = CHIP | {sy.kappa: condition, sy.b: 256}
    device = kronecker.THERMO_RANK_B_SECONDS + outer
    assert crossing(digital + rest, device, values) == pytest.approx(published, rel=2e-3)


def test_ceiling_of_offloaded_inversion():
    """Amdahl: 1 + 2/(4 + 10 b/n) for free inverses, rates equal, refreshed in every step."""
    digital = kronecker.KFAC_INVERSE.where({sy.k_s: 1, sy.k_f: 1, sy.m: sy.n})
    free = digital.cost - kronecker.DAMPED_INVERSE.cost.subs(sy.m, sy.n)
    for share, ceiling in ((sp.Rational(1, 4), 1.31), (1, 1.14)):
        ratio = sp.limit((digital.cost / free).subs(sy.b, share * sy.n), sy.n, sp.oo)
        assert float(ratio) == pytest.approx(ceiling, abs=0.005)


def test_quantum_figures():
    at = {
        sy.kappa: 100,
        sy.eps: 1e-2,
        sy.alpha: 1.84,
        sy.hidden: 1 / math.log(2),
        sy.toffolis: 1e3,
        sy.t_toffoli: 170e-6,
    }
    assert quantum.SOLVE_OBSERVABLE.at(at) == pytest.approx(1.4e6, rel=0.04)
    assert quantum.SOLVE_VECTOR.at(at | {sy.n: 1e6}) == pytest.approx(1e6 * quantum.SOLVE_OBSERVABLE.at(at), rel=1e-12)
    assert quantum.SHIFT_SHOTS.at({sy.d: 1e6, sy.eps: 1e-2}) == pytest.approx(2e10, rel=1e-12)


def test_shots_of_the_parameter_shift():
    """Half the difference of two means of outcomes of variance one, the worst there is."""
    eps, shots = 0.1, quantum.SHIFT_SHOTS.at({sy.d: 1, sy.eps: 0.1}) / 2
    outcomes = np.random.default_rng(0).choice([-1.0, 1.0], (2, 20_000, round(shots)))
    error = float(np.std((outcomes[0].mean(1) - outcomes[1].mean(1)) / 2))
    assert error == pytest.approx(eps / math.sqrt(2), rel=0.03)


def test_energy_of_a_solve():
    """Resistors of the table of energies: d = 4096, 1 nF, 1 V; and the floor by thermal noise."""
    at = {sy.entries: 4096**1.5, sy.C: 1e-9, sy.V: 1.0, sy.kappa: 100, sy.eps: 2.0**-8, sy.thermal: 4.14e-21}
    assert traffic.SOLVE_RESISTORS.at(at) == pytest.approx(0.15, rel=0.05)
    assert traffic.SOLVE_RESISTORS_FLOOR.at(at) == pytest.approx(3.9e-8, rel=0.05)
    assert traffic.CURRENT_FLOOR.at({sy.eps: 0.01, sy.thermal: 4.14e-21}) == pytest.approx(8.3e-17, rel=0.01)
    assert traffic.BIT_FLOOR.at({sy.thermal: 4.14e-21}) == pytest.approx(2.87e-21, rel=0.01)
