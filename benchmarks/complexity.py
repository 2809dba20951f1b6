"""Do times grow as the cost models say, and how long does it take to trace a cost?

    python benchmarks/complexity.py [--smoke] [--json FILE] [--only kernels|device|tracing]

Wall times of the primitives and of dense linear algebra, against the exponents of their models over the same sizes;
modelled times of planned runs, against those of the device models; seconds of a trace. Everything is in float64.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp
from scipy import stats
from timing import Timing, goal, interleave, once, run_parts, show

import thermolinalg as tla
from thermolinalg import complexity
from thermolinalg.complexity import CostModel, Shaped, symbols, trace
from thermolinalg.complexity.models import direct, simulation, thermodynamic
from thermolinalg.convergence import Scaling, fit_exponents

KEY, CONFIDENCE = jax.random.key(0), 0.95
PLAN, SAMPLED = tla.Plan(5.0, 100.0), tla.Plan(5.0, 100.0, 200)
LONG, LAW = tla.Device(simulator=tla.Law(long_time=True)), tla.Device()
VALUES = {
    symbols.k: 1,
    symbols.n_s: 64,
    symbols.nodes: 8,
    **dict.fromkeys((symbols.j_f, symbols.j_0, symbols.j_1, symbols.j_t), 8),
    symbols.c_eigh: sp.Rational(14, 3),
    symbols.c_gamma: 30,
}
"""Numbers that the models need besides the size; the constant of eigh is that of divide and conquer, recalled."""


def _answer(solution: tla.Solution) -> tuple[jax.Array, jax.Array, jax.Array]:
    return solution.value, solution.stderr, solution.status


def _square(model: CostModel) -> CostModel:
    return (
        model.where({symbols.m: symbols.n, symbols.k: symbols.n}) if symbols.m in model.formula.free_symbols else model
    )


KERNELS: dict[str, tuple[Callable[..., Any], CostModel]] = {
    "matrix product": (lambda A, b: A @ A, _square(direct.GEMM)),
    "Cholesky": (lambda A, b: jnp.linalg.cholesky(A), direct.POTRF),
    "LU": (lambda A, b: jax.lax.linalg.lu(A)[0], direct.GETRF.where({symbols.m: symbols.n})),
    "QR": (lambda A, b: jnp.linalg.qr(A)[0], _square(direct.GEQRF) + _square(direct.ORGQR)),
    "eigh": (lambda A, b: jnp.linalg.eigh(A)[1], direct.SYEVD),
    "solve, long-time law": (
        lambda A, b: _answer(tla.solve(LONG.program(A), b, key=KEY, plan=PLAN)),
        simulation.SOLVE_LONG,
    ),
    "solve": (lambda A, b: _answer(tla.solve(LAW.program(A), b, key=KEY, plan=PLAN)), simulation.SOLVE_LAW),
    "samples, long-time law": (
        lambda A, b: _answer(tla.gaussian(A, key=KEY, samples=64, device=LONG)),
        simulation.SAMPLES_LONG,
    ),
    "inv, long-time law": (
        lambda A, b: _answer(tla.inv(LONG.program(A), key=KEY, plan=SAMPLED)),
        simulation.INVERSE_LONG,
    ),
    "logdet": (
        lambda A, b: _answer(tla.logdet(A, key=KEY, estimator=tla.ThermodynamicIntegration(8))),
        simulation.LOGDET,
    ),
    "lyapunov": (
        lambda A, b: _answer(tla.lyapunov(A, A, key=KEY, plan=SAMPLED, device=LONG)),
        simulation.LYAPUNOV,
    ),
    "expm": (lambda A, b: _answer(tla.expm(-A, key=KEY, plan=SAMPLED, device=LONG)), simulation.EXPM),
}
SMOKE = ("Cholesky", "solve, long-time law")
SLOW = ("lyapunov", "expm")
"""Kernels of hundreds of matrix products, which are timed less often."""


def kernels(smoke: bool) -> dict[str, Any]:
    """Exponents of wall times, and of the operations of the models over the same sizes."""
    orders, repeats = ([16, 24], 2) if smoke else ([64, 96, 144, 216, 324], 11)
    calls, fewer = {}, {}
    for order in orders:
        factor = np.random.default_rng(order).standard_normal((order, 2 * order))
        A, b = jnp.asarray(factor @ factor.T / (2 * order)), jnp.ones(order)
        for name in SMOKE if smoke else KERNELS:
            compiled = jax.jit(KERNELS[name][0]).lower(A, b).compile()
            calls[f"{name}, {order}"] = lambda compiled=compiled, A=A, b=b: compiled(A, b)
            if name in SLOW:
                fewer[f"{name}, {order}"] = 3
    times = interleave(calls, repeats, **fewer)
    rows, results, goals = [], {}, {}
    for name in SMOKE if smoke else KERNELS:
        timings = [times[f"{name}, {order}"] for order in orders]
        flops = [KERNELS[name][1].at(VALUES | {symbols.d: order, symbols.n: order}) for order in orders]
        fit, model = (fit_exponents(y, dim=orders) for y in ([each.median for each in timings], flops))
        rates = [count / each.median / 1e9 for count, each in zip(flops, timings, strict=True)]
        rows.append(
            {"kernel": name, "measured": _told(fit), "model": model.exponents["dim"]}
            | {"ms, greatest": 1e3 * timings[-1].median, "Gflop/s, least": rates[0], "greatest": rates[-1]}
        )
        results[name] = {"orders": orders, "times": [each.record() for each in timings], "flops": flops}
        # Fixed costs flatten what is measured; a rate that falls with the size would make it steeper.
        goals[f"{name}, over the model"] = goal(fit.exponents["dim"] - model.exponents["dim"], at_most=0.25)
    show(f"Exponents of d, from {orders[0]} to {orders[-1]}", rows, complexity.rules_base.CONVENTION)
    return results | {"goals": {} if smoke else goals}


def _told(fit: Scaling) -> str:
    return f"{fit.exponents['dim']:.2f} ± {fit.stderr['dim']:.2f}"


# Modelled times of a device


def _spectrum(size: int, condition: float) -> jax.Array:
    """One fast mode, all others as slow as the slowest: the worst that a model allows."""
    return jnp.diag(jnp.concatenate([jnp.ones(1), jnp.full(size - 1, 1 / condition)]))


def _solved(size: int, condition: float, error: float) -> tla.Ledger:
    A, b = _spectrum(size, condition), jnp.zeros(size).at[0].set(1.0)  # the shortest answer
    return tla.cost(tla.plan.solve(A, b, rtol=error, confidence=CONFIDENCE), dim=size)


def _inverted(size: int, condition: float, error: float) -> tla.Ledger:
    plan = tla.plan.inv(_spectrum(size, condition), rtol=error, confidence=CONFIDENCE)
    return tla.cost_moments(plan, dim=size)


RUNS = {
    "solve": (_solved, thermodynamic.SOLVE_AVERAGE, lambda size: size - 1),
    "inv": (_inverted, thermodynamic.INVERSE_AVERAGE, lambda size: size * (size - 1) / 2),
}


def device(smoke: bool) -> dict[str, Any]:
    """Exponents of the seconds that the ledger prices for the average, and of the models."""
    grid = list(
        product((8, 16), (10.0, 40.0), (0.1, 0.03)) if smoke else product((8, 16, 32), (10, 40, 160), (0.1, 0.01))
    )
    columns = dict(zip(("d", "kappa", "epsilon"), zip(*grid, strict=True), strict=True))
    rows, results, goals = [], {}, {}
    for name, (run, model, degrees) in RUNS.items():
        seconds = [float(run(*point).seconds.average) for point in grid]
        named = [dict(zip((symbols.d, symbols.kappa, symbols.eps), point, strict=True)) for point in grid]
        unit = tla.Device().time_constant
        # With a confidence the time is the mean square times a quantile of the chi-squared law over its mean.
        bound = [
            model.at(values | {symbols.tau: unit, symbols.signal: 1.0})
            * float(stats.chi2.ppf(CONFIDENCE, degrees(point[0])) / degrees(point[0]))
            for values, point in zip(named, grid, strict=True)
        ]
        fit, wanted = fit_exponents(seconds, **columns), fit_exponents(bound, **columns)
        for variable in columns:
            found, asked = fit.exponents[variable], wanted.exponents[variable]
            rows.append({"run": name, "exponent of": variable, "ledger": found, "model": asked})
            goals[f"{name}, {variable}: off by"] = goal(abs(found - asked), at_most=0.1)
        results[name] = {"grid": grid, "seconds": seconds, "model": bound}
    show("Modelled seconds of the average in the ledger of a planned run", rows)
    return results | {"goals": goals}


# Tracing


def block(x: jax.Array, weights: tuple[jax.Array, ...]) -> jax.Array:
    """A layer of a transformer: attention and two dense layers, both with normalisation and residual."""
    Q, K, V, out, U, D = weights
    y = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    queries, keys, values = (jnp.einsum("btd,dhc->bthc", y, W) for W in (Q, K, V))
    scores = jax.nn.softmax(jnp.einsum("bthc,bshc->bhts", queries, keys) / 8.0, axis=-1)
    x = x + jnp.einsum("bthc,hcd->btd", jnp.einsum("bhts,bshc->bthc", scores, values), out)
    return x + jax.nn.gelu(x @ U) @ D


def transformer(layers: list[tuple[jax.Array, ...]], x: jax.Array) -> jax.Array:
    """Sum of what the last layer says."""
    for weights in layers:
        x = block(x, weights)
    return jnp.sum(x)


def tracing(smoke: bool) -> dict[str, Any]:
    """Wall seconds of a trace, symbols, polynomial and check with numbers included."""
    b, c, d, h, t = sp.symbols("b c d h t", positive=True, integer=True)
    weights = [Shaped(shape) for shape in (*[(d, h, c)] * 3, (h, c, d), (d, 4 * d), (4 * d, d))]
    layers, x = [tuple(weights)] * (1 if smoke else 12), Shaped((b, t, d))
    traces = {
        f"transformer, {len(layers)} layers": lambda: trace(transformer, layers, x),
        f"its gradient, {len(layers)} layers": lambda: trace(jax.grad(transformer), layers, x),
        "solve": lambda: trace(lambda A, y: _answer(tla.solve(A, y, key=KEY, plan=PLAN)), Shaped((d, d)), Shaped((d,))),
    }
    rows, results, goals = [], {}, {}
    for name, call in traces.items():
        seconds, found = once(call)
        timing = Timing(seconds, [once(call)[0] for _ in range(1 if smoke else 2)])
        rows.append({"program": name, "first, s": timing.first, "again, s": timing.median, "sizes": found.method})
        results[name] = timing.record()
        goals[f"{name}, first, s"] = goal(seconds, at_most=5.0)
    show("Seconds of a trace", rows)
    return results | {"goals": {} if smoke else goals}


PARTS = {"kernels": kernels, "device": device, "tracing": tracing}

if __name__ == "__main__":
    run_parts(PARTS, __doc__)
