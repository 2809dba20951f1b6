"""Simulations of the primitives: the program as traced against the model that was derived by hand, to the last term."""

import jax
import numpy as np
import pytest
import sympy as sp

import thermolinalg as tla
from thermolinalg import covariances, draws, relaxation
from thermolinalg.complexity import NotPolynomialError, Shaped, compiler_count, symbols, trace
from thermolinalg.complexity.models import direct, modes
from thermolinalg.complexity.models import simulation as models
from thermolinalg.complexity.symbols import canonical
from thermolinalg.laws import overdamped
from thermolinalg.primitives.inverse import _inv

d, k, N_s, n_q, J_f, J_0, J_1, J_t = sp.symbols("d k N_s n_q J_f J_0 J_1 J_t", positive=True, integer=True)
EIGH, GAMMA = symbols.c_eigh, symbols.c_gamma
KEY = jax.random.key(0)
LONG, LAW, WALK = (tla.Device(simulator=each) for each in (tla.Law(long_time=True), tla.Law(), tla.Trajectory()))
PLAN, SAMPLED = tla.Plan(3.0, 40.0), tla.Plan(3.0, 40.0, 900)
NODES = 5


def solved(device):
    return lambda A, b: tla.solve(device.program(A), b, key=KEY, plan=PLAN)


def walked(A, b, samples):
    with jax.numpy_dtype_promotion("standard"):  # a number of samples that is a value has a type of its own
        return tla.solve(WALK.program(A), b, key=KEY, plan=tla.Plan(3.0, 40.0, samples))


def inverted(device, route):
    """By the way that the run takes for sure, which is all that gets compiled where values are known."""
    return lambda A: _inv(device.program(A), KEY, SAMPLED, route)


def drawn(device, samples):
    return lambda A: tla.gaussian(device.program(A), key=KEY, samples=samples)


def determined(A):
    return tla.logdet(A, key=KEY, estimator=tla.ThermodynamicIntegration(NODES))


def balanced(A, Q):
    return tla.lyapunov(A, Q, key=KEY, plan=SAMPLED, device=LONG)


def exponentiated(A):
    return tla.expm(A, key=KEY, plan=SAMPLED, device=LONG)


SQUARE, COUNT = Shaped((d, d)), Shaped((), np.int32)
CASES = {
    # name of the model: program, shapes, steps of loops, what has numbers
    "SOLVE_LONG": (solved(LONG), [SQUARE, Shaped((d, k))], (), {}),
    "SOLVE_LAW": (solved(LAW), [SQUARE, Shaped((d, k))], (), {}),
    "SOLVE_WALK": (walked, [SQUARE, Shaped((d, k)), COUNT], (N_s,), {}),
    "SAMPLES_LONG": (drawn(LONG, 1), [SQUARE], (), {N_s: 1}),
    "SAMPLES_LONG, more": (drawn(LONG, 6), [SQUARE], (), {N_s: 6}),
    "SAMPLES_LAW": (drawn(LAW, 1), [SQUARE], (), {N_s: 1}),
    "SAMPLES_LAW, more": (drawn(LAW, 6), [SQUARE], (), {N_s: 6}),
    "INVERSE_LONG": (inverted(LONG, 0), [SQUARE], (), {}),
    "INVERSE_LAW": (inverted(LAW, 0), [SQUARE], (), {}),
    "INVERSE_WALK": (inverted(WALK, 0), [SQUARE], (sp.ceiling(N_s / 512),), {}),
    "LOGDET": (determined, [SQUARE], (n_q,), {n_q: NODES}),
    "LYAPUNOV": (balanced, [SQUARE, SQUARE], (J_f, J_f, J_0, J_1), {}),
    "EXPM": (exponentiated, [SQUARE], (J_t, J_0, J_1), {}),
}


@pytest.fixture(scope="module")
def costs():
    return {}


def traced(name, costs):
    if name not in costs:
        program, shapes, trips, given = CASES[name]
        fixed = [sp.sympify(trip).subs(given) for trip in trips]
        costs[name] = trace(program, *shapes, trips=fixed)
    return costs[name]


def apart(found, model, given):
    """What a trace has more than a model, in sizes that are whole."""
    return sp.expand(canonical(found) - model.subs({canonical(size): number for size, number in given.items()}))


@pytest.mark.parametrize("name", CASES)
def test_a_simulation_costs_what_its_model_says(name, costs):
    cost, given = traced(name, costs), CASES[name][3]
    flops, functions = (getattr(models, name.split(",")[0] + end).formula for end in ("", "_FUNCTIONS"))
    assert apart(cost.flops, flops, given) == 0
    assert apart(cost.transcendentals, functions, given) == 0
    for more in (symbols.d**2, symbols.d, 1):
        assert apart(cost.flops, flops + more, given) != 0


@pytest.mark.parametrize("name", CASES)
def test_a_polynomial_gives_what_a_trace_with_numbers_counts(name, costs):
    cost = traced(name, costs)
    program, shapes, trips, given = CASES[name]
    numbers = {d: 61, k: 3, N_s: 1200, J_f: 7, J_0: 5, J_1: 3, J_t: 2} | given
    at = [Shaped(tuple(sp.sympify(size).subs(numbers) for size in shape.shape), shape.dtype) for shape in shapes]
    found = trace(program, *at, trips=[sp.sympify(trip).subs(numbers) for trip in trips])
    assert sp.expand(cost.flops.subs(numbers) - found.flops) == 0
    assert sp.expand(cost.flops.subs(numbers | {d: 60}) - found.flops) != 0


# The parts, each beside its formula


def of_a_run(samples, *quantities):
    def function(rates, beta, burn_in, duration):
        law = overdamped(rates, beta, burn_in, duration, samples)
        return [getattr(law, quantity) for quantity in quantities]

    return function, [(d,), (), (), ()]


def of_modes(function):
    return lambda rates: function(tla.Overdamped().memory(rates))


PARTS = {
    "phi1": (relaxation.phi1, [(d,)], modes.PHI1 * symbols.d),
    "psi": (relaxation.psi, [(d,)], modes.PSI * symbols.d),
    "chi": (relaxation.chi_over_z, [(d,)], modes.CHI * symbols.d),
    "remainder": (relaxation.sampling_remainder, [(d,)], modes.REMAINDER * symbols.d),
    "sampled phi1": (lambda a: relaxation.sampled_phi1(7.0, a), [(d,)], modes.SAMPLED_PHI1 * symbols.d),
    "sampled psi": (lambda a: relaxation.sampled_psi(7.0, a), [(d,)], modes.SAMPLED_PSI * symbols.d),
    "response": (*of_a_run(None, "force"), modes.law(modes.FORCE)),
    "start": (*of_a_run(None, "start"), modes.law(modes.START)),
    "covariance": (*of_a_run(None, "covariance"), modes.law(modes.COVARIANCE)),
    "law": (
        *of_a_run(None, "force", "start", "covariance"),
        modes.law(modes.FORCE, modes.START, modes.COVARIANCE),
    ),
    "sampled start": (*of_a_run(7, "start"), modes.law(modes.SAMPLED_START)),
    "sampled covariance": (*of_a_run(7, "covariance"), modes.law(modes.SAMPLED_COVARIANCE)),
    "overlap": (of_modes(lambda each: covariances.overlap(each, each, 9.0, 7)), [(d,)], modes.SAMPLE_OVERLAP),
    "shortfall": (of_modes(lambda each: covariances.shortfall(each, 2.0, 9.0, 7)), [(d,)], modes.SHORTFALL),
    "Bartlett": (lambda x: draws.bartlett(KEY, x.shape[0], 7, x.dtype), [(d,)], modes.bartlett()),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_law_costs_what_its_formula_says(name):
    program, shapes, work = PARTS[name]
    cost = trace(program, *map(Shaped, shapes))
    assert canonical(cost.flops) == sp.expand(work.flops)
    assert canonical(cost.transcendentals) == sp.expand(work.functions)
    assert canonical(cost.flops) != sp.expand((work * 2).flops)


# What has no polynomial, and what the compiler leaves out


def test_draws_by_frequency_have_no_polynomial():
    """Their bins grow with the logarithm of the number of unknowns: a size that is a number has a count."""
    steps = {"trips": (3, 3)}
    counts = [trace(inverted(LAW, 1), Shaped((size, size)), **steps).flops for size in (24, 48)]
    assert 2 < float((counts[1] / counts[0]).subs({EIGH: 9, GAMMA: 30})) < 8
    with pytest.raises(NotPolynomialError):
        trace(inverted(LAW, 1), SQUARE, **steps)


EXCLUDED = {
    "SOLVE_LONG": (),
    "SOLVE_LAW": ("syevd",),
    "SAMPLES_LONG": (),
    "SAMPLES_LAW": ("syevd",),
    "INVERSE_LONG": ("loop",),
    "LOGDET": ("syevd", "loop"),
    "LYAPUNOV": ("syevd", "loop"),
}
ORDER, COLUMNS = 12, 2


@pytest.mark.parametrize("name", EXCLUDED)
def test_the_compiler_counts_a_simulation_or_names_what_it_leaves_out(name):
    """Eigenvalues iterate, gamma variables are drawn by rejection, and doublings go on until nothing is left."""
    program, shapes, _, given = CASES[name]
    numbers = {d: ORDER, k: COLUMNS} | given
    at = [Shaped(tuple(sp.sympify(size).subs(numbers) for size in shape.shape), shape.dtype) for shape in shapes]
    count = compiler_count(program, *at)
    left = [word for word in ("syevd", "loop") if any(word in each for each in count.excluded)]
    assert tuple(left) == EXCLUDED[name]
    assert all("syevd" in each or "loop" in each for each in count.excluded)
    if not count.excluded:
        columns = {"SOLVE_LONG": 2 * (COLUMNS + models.PROBES), "SAMPLES_LONG": 1 + 2}[name]
        order = {symbols.n: ORDER, symbols.k: columns}
        assert count.routines == {"potrf": direct.POTRF.at(order), "trsm": direct.TRSM.at(order)}
        # Random bits, their transform to normal numbers, and masks are flops to the compiler.
        values = {symbols.d: ORDER, symbols.k: COLUMNS, symbols.n_s: 1}
        assert count.repaired > getattr(models, name).at(values)
