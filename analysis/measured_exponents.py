"""Do measured wall times, and the times of planned runs, grow as the models say?

python analysis/measured_exponents.py [--csv FILE] [--latex FILE] [--figure FILE] [--smoke]
"""

import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import sympy as sp
from asking import run
from matplotlib.figure import Figure
from scipy import stats

import thermolinalg as tla
from thermolinalg.complexity import Shaped, growth, trace
from thermolinalg.complexity.models import thermodynamic
from thermolinalg.complexity.report import Table
from thermolinalg.complexity.symbols import GLOSSARY, c_eigh, canonical, d, eps, kappa, signal, tau
from thermolinalg.convergence import fit_exponents

jax.config.update("jax_enable_x64", True)

KEY, PLAN, NUMBER = jax.random.key(0), tla.Plan(5.0, 100.0, 200), jnp.float64
CONFIDENCE = 0.95
CLOSE = 0.1
"""How far an exponent may be from that of the model over the same sizes."""


def _solve(law: tla.Law, plan: tla.Plan) -> Callable[..., jax.Array]:
    device = tla.Device(simulator=law)
    return lambda A, y: tla.solve(device.program(A), y, key=KEY, plan=plan).value


def _inverse(A: jax.Array) -> jax.Array:
    return tla.inv(tla.Device(simulator=tla.Law(long_time=True)).program(A), key=KEY, plan=PLAN).value


KERNELS = {
    "solve, long-time law": (_solve(tla.Law(long_time=True), tla.Plan(5.0, 100.0)), 1),
    "solve, exact law": (_solve(tla.Law(), tla.Plan(5.0, 100.0)), 1),
    "inv, long-time law": (_inverse, 0),
    "eigh, of JAX": (lambda A: jnp.linalg.eigh(A)[1], 0),
}


def sizes(smoke: bool) -> list[int]:
    """Orders of the matrices."""
    return [32, 64, 128] if smoke else [128, 256, 512]


def kernels(smoke: bool) -> list[str]:
    """Those that are timed: under smoke the one that compiles fast."""
    return [name for name in KERNELS if not smoke or name == "eigh, of JAX"]


@cache
def measured(name: str, orders: tuple[int, ...], repeats: int) -> tuple[float, ...]:
    """Least wall time of some runs for each size, compiled before."""
    function, vectors = KERNELS[name]
    program, found = jax.jit(function), []
    for order in orders:
        basis = np.random.default_rng(order).standard_normal((order, order))
        inputs = jnp.asarray(basis @ basis.T / order + np.eye(order)), *(jnp.ones(order),) * vectors
        compiled = program.lower(*inputs).compile()
        least = np.inf
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(compiled(*inputs))
            least = min(least, time.perf_counter() - start)
        found.append(least)
    return tuple(found)


def polynomial(name: str) -> sp.Expr:
    """Operations of the traced program in d, with the middle of the range for a constant that none fixes."""
    function, vectors = KERNELS[name]
    whole = sp.Symbol("d", positive=True, integer=True)
    flops = trace(function, Shaped((whole, whole), NUMBER), *(Shaped((whole,), NUMBER),) * vectors).flops
    names = {symbol.name: symbol for symbol in flops.free_symbols - {whole}}
    meaning = GLOSSARY[c_eigh]
    values = {names["c_eigh"]: (meaning.low + meaning.high) / 2} if "c_eigh" in names else {}
    left = {symbol: 1 for symbol in names.values() if symbol not in values}
    return canonical(flops.subs({**values, **left}))


def walls(smoke: bool) -> Table:
    """Exponents of wall times."""
    orders, rows = sizes(smoke), []
    for name in kernels(smoke):
        seconds = measured(name, tuple(orders), 3 if smoke else 8)
        flops = polynomial(name)
        counts = [float(flops.subs(d, order)) for order in orders]
        fit, model = fit_exponents(seconds, dim=orders), fit_exponents(counts, dim=orders)
        found, wanted = fit.exponents["dim"], model.exponents["dim"]
        rises = "grows slower: rate rises with size" if found < wanted else "grows faster: rate falls with size"
        verdict = "agrees" if abs(found - wanted) <= CLOSE else rises
        if (spread := 2 * fit.stderr["dim"]) > abs(found - wanted) > CLOSE:
            verdict = f"not resolved: two standard errors are {spread:.2g}"
        leading = growth(flops, [d])
        rates = [count / second / 1e9 for count, second in zip(counts, seconds, strict=True)]
        rows.append((name, found, fit.stderr["dim"], wanted, str(leading), rates[0], rates[-1], verdict))
    columns = (
        "kernel",
        "measured",
        "standard error",
        "polynomial",
        "leading",
        "Gflop/s, least d",
        "greatest d",
        "verdict",
    )
    notes = (
        f"d = {orders[0]} to {orders[-1]}, double precision, {jax.default_backend()} of this machine, which others may "
        "use too: least of some runs. Exponents of d, by least squares in logarithms.",
        "Polynomial: traced operations over the same sizes; additions and multiplications count one each. The constant "
        "of eigh is taken in the middle of its range, generators of random numbers at one operation for each draw.",
    )
    return Table("Do measured wall times grow as the models say?", columns, tuple(rows), notes)


def slow(size: int, condition: float) -> jax.Array:
    """One fast mode, all others as slow as the slowest: the worst that an upper bound allows."""
    return jnp.diag(jnp.concatenate([jnp.ones(1), jnp.full(size - 1, 1 / condition)]))


def spread(size: int, condition: float) -> jax.Array:
    """A geometric spectrum."""
    return jnp.diag(jnp.geomspace(1.0, 1 / condition, size))


def _solved(A: jax.Array, error: float) -> tla.Plan:
    return tla.plan.solve(A, jnp.zeros(len(A)).at[0].set(1.0), rtol=error, confidence=CONFIDENCE)  # the shortest answer


def _inverted(A: jax.Array, error: float) -> tla.Plan:
    return tla.plan.inv(A, rtol=error, confidence=CONFIDENCE)


def quantile(degrees: float) -> float:
    """A squared error of so many equal parts that is kept to with the confidence of the plans, over its mean."""
    return float(stats.chi2.ppf(CONFIDENCE, degrees) / degrees)


PLANS = {
    "inv, all modes slow": (slow, _inverted, thermodynamic.INVERSE_AVERAGE, lambda size: size * (size - 1) / 2),
    "inv, geometric spectrum": (spread, _inverted, thermodynamic.INVERSE_AVERAGE, None),
    "solve, all modes slow": (slow, _solved, thermodynamic.SOLVE_AVERAGE, lambda size: size - 1),
    "solve, geometric spectrum": (spread, _solved, thermodynamic.SOLVE_AVERAGE, None),
}


def _grid(smoke: bool) -> list[tuple[int, float, float]]:
    return list(product((8,) if smoke else (8, 32), (10.0, 40.0) if smoke else (10.0, 40.0, 160.0), (0.1, 0.01)))


def planned(smoke: bool) -> Table:
    """Exponents of modelled device times."""
    grid, rows = _grid(smoke), []
    columns = list(zip(*grid, strict=True))
    for name, (spectrum, plan, model, degrees) in PLANS.items():
        if smoke and plan is _solved:
            continue
        times = [float(plan(spectrum(size, condition), error).duration) for size, condition, error in grid]
        bound = [model.at({d: s, kappa: c, eps: e, tau: 1.0, signal: 1.0}) for s, c, e in grid]
        if degrees is not None:
            bound = [b * quantile(degrees(s)) for b, (s, _, _) in zip(bound, grid, strict=True)]
        named: dict[str, Sequence[float]] = dict(zip(("d", "kappa", "epsilon"), columns, strict=True))
        named = {x: values for x, values in named.items() if len(set(values)) > 1}
        fit, wanted = fit_exponents(times, **named), fit_exponents(bound, **named)
        apart = {x: fit.exponents[x] - wanted.exponents[x] for x in named}
        most = max(t / b for t, b in zip(times, bound, strict=True))
        far = ", ".join(f"{x} {apart[x]:+.2f}" for x in named if abs(apart[x]) > CLOSE)
        verdict = f"a bound, not the law: {far}" if far else "agrees"
        leading = str(model.leading([d, kappa], [eps]))
        law = "root mean square" if degrees is None else "with its quantile"
        rows.append(
            (
                name,
                *(fit.exponents.get(x, "not varied") for x in ("d", "kappa", "epsilon")),
                leading,
                law,
                fit.misfit,
                most,
                verdict,
            )
        )
    head = "plan", "d", "kappa", "epsilon", "leading terms", "model", "misfit", "most over model", "verdict"
    notes = (
        f"Durations are modelled: plans of the package to a confidence of {CONFIDENCE:g}, in time constants of an "
        "ideal device at beta = 1, fitted as powers; the burn-in is left out.",
        "Where all modes but one are alike, the squared error is chi-squared, and the model times its quantile over "
        "its mean is the law; the quantile falls with d. Misfit: what the power law leaves, in logarithms.",
    )
    return Table("Do the times of planned runs grow as the models say?", head, tuple(rows), notes)


def tables(smoke: bool) -> list[Table]:
    """Wall times of this machine, and modelled times of a device."""
    return [walls(smoke), planned(smoke)]


def figure(smoke: bool) -> Figure:
    """Wall times over the size."""
    drawing = Figure(figsize=(6, 4), layout="constrained")
    axes = drawing.subplots()
    for name in kernels(smoke):
        orders = sizes(smoke)
        axes.loglog(orders, measured(name, tuple(orders), 3 if smoke else 8), marker="o", label=name)
    axes.set(xlabel="d", ylabel="measured wall time, s")
    axes.legend()
    return drawing


if __name__ == "__main__":
    run(__doc__, tables, figure)
