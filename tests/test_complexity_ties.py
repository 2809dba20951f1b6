"""One cost by several routes: the program as traced, the model, the count of the compiler, the ledger of a run."""

import jax
import jax.numpy as jnp
import pytest
import sympy as sp

import thermolinalg as tla
from thermolinalg import complexity
from thermolinalg.complexity import ledger as parts
from thermolinalg.complexity import symbols
from thermolinalg.complexity.models import direct, kronecker, optimizers
from thermolinalg.complexity.symbols import canonical

b, d, d_z, m, n = sp.symbols("b d d_z m n", positive=True, integer=True)
KEY = jax.random.key(0)
DECAY, DAMPING, RATE = 0.9, 0.1, 0.01


def cholesky(A):
    return jax.lax.linalg.cholesky(A, symmetrize_input=False)


def damped(A):
    return A + jnp.diag(jnp.full(A.shape[0], DAMPING, A.dtype))


def kfac_step(W, x, g, A, G):
    """One dense layer: forward, both gradients, factors, their Cholesky factors, solves from both sides, step."""
    out, down = x @ W.T, g @ W
    gradient = g.T @ x
    A = DECAY * A + (1 - DECAY) / 8.0 * (x.T @ x)
    G = DECAY * G + (1 - DECAY) / 8.0 * (g.T @ g)
    left = jax.scipy.linalg.cho_solve((cholesky(damped(G)), True), gradient)
    both = jax.scipy.linalg.cho_solve((cholesky(damped(A)), True), left.T).T
    return W - RATE * both, out, down, A, G


def kfac_shapes(m, n, b):
    return [complexity.Shaped(shape) for shape in ((m, n), (b, n), (b, m), (n, n), (m, m))]


def dual_step(W, x, seeds, roots, residual):
    """A layer of d_z outputs: Jacobian by rows with gradients of inputs, root of the loss, solve in row space."""

    def of_example(x, seeds, root):
        out, back = jax.vjp(lambda W, x: W @ x, W, x)
        rows, inputs = jax.vmap(back)(seeds)
        return out, inputs, root @ rows.reshape(W.shape[0], -1)

    out, inputs, J = jax.vmap(of_example)(x, seeds, roots)
    J = J.reshape(residual.shape[0], -1)
    z = jax.scipy.linalg.cho_solve((cholesky(damped(J @ J.T)), True), residual[:, None])[:, 0]
    gradient, step = residual @ J, z @ J
    return W - RATE * step.reshape(W.shape), gradient, out, inputs


def dual_shapes(n, d_z, b):
    shapes = (d_z, n), (b, n), (b, d_z, d_z), (b, d_z, d_z), (b * d_z,)
    return [complexity.Shaped(shape) for shape in shapes]


# Models, with what the programs above do besides: they add a whole matrix to damp a diagonal, and form both triangles.
KFAC = kronecker.KFAC.where({symbols.k_s: 1, symbols.k_f: 1}).formula + sum(s**2 - s for s in (symbols.m, symbols.n))
ROWS, PARAMETERS = symbols.b * symbols.d_z, symbols.n * symbols.d_z
DUAL = optimizers.NGD_WOODBURY.where({symbols.N: PARAMETERS}).formula + (ROWS**2 - ROWS) * PARAMETERS + ROWS**2 - ROWS
ONE_MORE = {"K-FAC": 2 * symbols.b * symbols.m * symbols.n, "dual NGD": 2 * ROWS * PARAMETERS}
STEPS = {
    "K-FAC": (kfac_step, kfac_shapes, (m, n, b), KFAC, symbols.m**2 + symbols.n**2),
    "dual NGD": (dual_step, dual_shapes, (n, d_z, b), DUAL, ROWS**2),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_traced_step_is_the_model(name):
    step, shapes, sizes, model, _ = STEPS[name]
    traced = canonical(complexity.trace(step, *shapes(*sizes)).flops)
    assert sp.expand(traced - model) == 0
    assert sp.expand(traced - model - ONE_MORE[name]) != 0


def test_inverses_in_place_of_factors_are_another_model():
    step, shapes, sizes, _, _ = STEPS["K-FAC"]
    traced = canonical(complexity.trace(step, *shapes(*sizes)).flops)
    other = kronecker.KFAC_INVERSE.where({symbols.k_s: 1, symbols.k_f: 1}).formula
    assert sp.LC(sp.Poly(sp.expand(other - traced), symbols.n)) == sp.Rational(2, 3)


@pytest.mark.parametrize("name", STEPS)
def test_the_compiler_counts_what_the_model_says(name):
    """XLA counts masks and comparisons of factored matrices too, at most six for each of their entries."""
    step, shapes, sizes, model, masked = STEPS[name]
    numbers = dict(zip(sizes, (64, 20, 24), strict=True))
    count = complexity.compiler_count(step, *shapes(*numbers.values())).repaired

    def over(formula):
        values = {canonical(symbol): value for symbol, value in numbers.items()}
        return 0 <= count - float(formula.subs(values)) <= 6 * float(masked.subs(values))

    assert over(model)
    assert not over(model + ONE_MORE[name])
    assert not over(model - ONE_MORE[name])


def long_solve(A, y):
    device = tla.Device(simulator=tla.Law(long_time=True))
    return tla.solve(device.program(A), y, key=KEY, plan=tla.Plan(5.0, 100.0)).value


def test_a_solve_of_the_library_has_the_cost_of_its_parts():
    """Cholesky, substitutions for the answer and eight probes of its error, six operations for each noise, and five."""
    probes, each = 8, 6
    columns = {symbols.k: 1 + probes}
    cost = complexity.trace(long_solve, complexity.Shaped((d, d)), complexity.Shaped((d,)))
    model = (direct.POTRF + direct.POTRS.where(columns)).formula.subs(symbols.n, symbols.d)
    model += each * (1 + probes) * symbols.d + 5
    assert sp.expand(cost.flops) == d**3 / 3 + sp.Rational(37, 2) * d**2 + sp.Rational(325, 6) * d + 5
    assert sp.expand(canonical(cost.flops) - model) == 0
    assert sp.expand(canonical(cost.transcendentals) - (1 + probes) * symbols.d) == 0  # one quantile for each normal
    without = (direct.POTRF + direct.POTRS.where({symbols.k: 1})).formula.subs(symbols.n, symbols.d)
    assert sp.expand(canonical(cost.flops) - without).coeff(symbols.d, 2) == 2 * probes
    # Sizes that were numbers from the start say the same.
    at = complexity.trace(long_solve, complexity.Shaped((23, 23)), complexity.Shaped((23,)))
    assert cost.flops.subs(d, 23) == at.flops != cost.flops.subs(d, 24)


DEVICE = tla.Device(
    beta=1e4,
    time_constant=3e-7,
    link=tla.Link(12, 7e8, 3e-12),
    matrix_dac=tla.Converter(24, rate=3e6, joules=1e-12),
    force_dac=tla.Converter(24, rate=7e6, joules=2e-12),
    adc=tla.Converter(24, rate=2e6, joules=3e-12),
    cell_power=3e-3,
    idle_power=0.7,
)
HOST, DIM, COLUMNS = tla.Host(3e11, 2e-10), 6, 3
MATRIX = jnp.diag(jnp.arange(1.0, DIM + 1)) + 0.1
RUNS = {
    "solve": (lambda A: tla.solve(A, jnp.ones((DIM, COLUMNS)), key=KEY, rtol=0.05), False, complexity.linear),
    "sampled solve": (
        lambda A: tla.solve(A, jnp.ones((DIM, COLUMNS)), key=KEY, plan=tla.Plan(3.0, 40.0, 50, replicas=2)),
        True,
        complexity.linear,
    ),
    "inverse": (lambda A: tla.inv(A, key=KEY, rtol=0.2), False, complexity.moments),
    "sampled inverse": (
        lambda A: tla.inv(A, key=KEY, plan=tla.Plan(3.0, 400.0, 200)),
        True,
        complexity.moments,
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_the_ledger_of_a_run_is_that_of_the_formulas(name):
    run, sampled, formulas = RUNS[name]
    program = DEVICE.program(MATRIX)
    solution = run(program)
    plan = solution.stats["plan"]
    assert (plan.samples is not None) == sampled
    ledger, twin = tla.cost_of(solution, program, writes=1, host=HOST), formulas(sampled=sampled)
    numbers = complexity.settings(DEVICE, HOST) | {
        parts.d: DIM,
        parts.k: COLUMNS,
        parts.w: 1,
        parts.m: 1,
        parts.work: 0,
        parts.t0: float(plan.burn_in),
        parts.tau: float(plan.duration),
        parts.clock: float(plan.clock),
        parts.R: plan.replicas,
        parts.N: 1 if plan.samples is None else float(plan.samples),
    }

    def gap(values):
        found = ((ledger.seconds, twin.seconds), (ledger.joules, twin.joules))
        pairs = [(getattr(a, key), value) for a, b in found for key, value in b.at(values).items()]
        pairs.append((ledger.energy, float(twin.energy.subs(values))))
        return max(abs(a - b) / max(abs(a), abs(b), 1e-300) for a, b in pairs)

    # About twenty roundings of double precision in each part.
    assert gap(numbers) < 20 * 2.0**-52
    # A converter that keeps up with the samples costs no time.
    seen = {parts.d, parts.tau, parts.t0, parts.w, parts.e_bit, parts.P_cell} | (set() if sampled else {parts.f_read})
    for symbol in seen:
        assert gap(numbers | {symbol: 2 * numbers[symbol]}) > 1e-3, symbol
