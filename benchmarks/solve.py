"""Linear systems: against thermox, LAPACK and conjugate gradients, and how good planned times are.

    python benchmarks/solve.py [--smoke] [--json FILE] [--only dense|sparse|plan]

Everything is in float64. The thermox rows need the extra ``bench``; without it they are left out and the table says so.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sparse
from jax.scipy.linalg import cho_factor, cho_solve
from scipy.optimize import brentq
from scipy.sparse.linalg import cg
from timing import goal, installed, interleave, once, ratio, run_parts, show

import thermolinalg as tla

# Dense systems: one law, several ways to draw from it.

RATIOS = [("cold", "eigh"), ("cold jit", "eigh"), ("long", "cholesky"), ("long jit", "cholesky")]
RATIOS += [
    ("thermox", name) for name in ("eigh", "cold", "cold jit", "reused", "reused jit", "each of 100", "long", "lu")
]
DENSE_GOALS = [
    ("cold / eigh", 256, {"at_most": 1.3}),
    ("cold / eigh", 1024, {"at_most": 1.3}),
    ("long / cholesky", 256, {"at_most": 1.3}),
    ("long / cholesky", 1024, {"at_most": 1.3}),
    ("long jit / cholesky", 256, {"at_most": 1.3}),
    ("long jit / cholesky", 1024, {"at_most": 1.3}),
    ("thermox / cold", 256, {"at_least": 150.0}),
    ("thermox / reused", 256, {"at_least": 5000.0}),
    ("thermox / each of 100", 256, {"at_least": 5000.0}),
]


def dense(smoke: bool) -> dict[str, Any]:
    """Time draws of one solve beside thermox, eigh and direct solves; A = G G^T / (2 d), where G has shape (d, 2 d)."""
    samples = 200 if smoke else 10_000
    rounds = {64: (3, 2)} if smoke else {64: (31, 5), 256: (21, 5), 1024: (11, 2)}
    sizes = {d: _dense(d, samples, *repeats) for d, repeats in rounds.items()}
    columns = {f"d = {d}": row for d, row in sizes.items()}
    first = sizes[min(sizes)]
    absent = "" if installed("thermox") else "thermox is not installed and left out"
    rows = [{"": n} | {c: 1e3 * row["times"][n]["median_s"] for c, row in columns.items()} for n in first["times"]]
    show(f"Dense: milliseconds; {samples} samples", rows, absent)
    rows = [{"": n} | {c: row["ratios"][n] for c, row in columns.items()} for n in first["ratios"]]
    show("Dense: ratios", rows, absent)
    goals = {f"{n}, d = {d}": (sizes[d]["ratios"].get(n), g) for n, d, g in DENSE_GOALS if d in sizes}
    return {"samples": samples, "sizes": sizes, "goals": {n: goal(v, **g) for n, (v, g) in goals.items() if v}}


def _dense(d: int, samples: int, repeats: int, peer_repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((d, 2 * d))
    A, b = jnp.asarray(factor @ factor.T / (2 * d)), jnp.asarray(rng.standard_normal(d))
    # thermox has beta = 2 and averages num_samples + 1 points, of which the first is the start; so does this plan.
    sampled = tla.Plan(burn_in=0.0, duration=samples + 1.0, samples=samples + 1)
    continuous = tla.Plan(burn_in=20.0 / float(jnp.linalg.eigvalsh(A)[0]), duration=float(samples))
    device = tla.Device(beta=2.0)
    program, hasty = device.program(A), replace(device, simulator=tla.Law(long_time=True))

    def draw(A: Any, b: jax.Array, key: jax.Array, plan: tla.Plan, device: tla.Device | None) -> tla.Solution:
        return tla.solve(A, b, key=key, plan=plan, device=device)

    cold, long = partial(draw, plan=sampled, device=device), partial(draw, plan=continuous, device=hasty)
    reused = partial(draw, plan=sampled, device=None)
    calls = {
        "eigh": (jax.jit(lambda A, b, key: jnp.linalg.eigh(A)), A),
        "lu": (jax.jit(lambda A, b, key: jnp.linalg.solve(A, b)), A),
        "cholesky": (jax.jit(lambda A, b, key: cho_solve(cho_factor(A), b)), A),
        "cold": (cold, A),
        "cold jit": (jax.jit(cold), A),
        "reused": (reused, program),
        "reused jit": (jax.jit(reused), program),
        "each of 100": (jax.jit(lambda A, b, key: reused(A, jnp.tile(b[:, None], (1, 100)), key)), program),
        "long": (long, A),
        "long jit": (jax.jit(long), A),
    }
    if installed("thermox"):
        from thermox.linalg import solve

        calls["thermox"] = jax.jit(lambda A, b, key: solve(A, b, num_samples=samples, key=key)), A
    key = jax.random.key(0)
    ready = {name: partial(call, A, b, key) for name, (call, A) in calls.items()}
    times = interleave(ready, repeats, thermox=peer_repeats)
    times["each of 100"] = times["each of 100"].per(100)
    # One law: errors in units of the predicted standard error have unit mean square, those of thermox too.
    answer, stderr = jnp.linalg.solve(A, b), ready["cold"]().stderr
    readings = {"cold": ready["cold"]().value} | ({"thermox": ready["thermox"]()} if "thermox" in ready else {})
    return {
        "times": {name: timing.record() for name, timing in times.items()},
        "ratios": {f"{a} / {b}": ratio(times[a], times[b]) for a, b in RATIOS if a in times},
        "mean_square_score": {n: float(jnp.mean(((x - answer) / stderr) ** 2)) for n, x in readings.items()},
    }


# Sparse systems: one draw beside conjugate gradients to the same residual.


def sparse_systems(smoke: bool) -> dict[str, Any]:
    """Time one draw beside conjugate gradients for 2-D Laplacians, each size in a process of its own."""
    sizes = {}
    for n, repeats, steps in [(50, 2, 400)] if smoke else [(100, 9, 4000), (316, 5, 4000), (1000, 1, 4000)]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            sizes[n * n] = process.submit(_sparse, n, repeats, steps).result()
    show("Sparse: 2-D Laplacian", [{"": n} | {d: row[n] for d, row in sizes.items()} for n in sizes[min(sizes)]])
    goals = {f"draw / CG, d = {d}": goal(row["draw / CG"], at_most=3.0) for d, row in sizes.items()}
    return {"sizes": sizes, "goals": goals}


def _sparse(n: int, repeats: int, max_steps: int, rtol: float = 1e-6) -> dict[str, Any]:
    jax.config.update("jax_enable_x64", True)
    jax.block_until_ready(jnp.ones(8) + 1)
    vector, bare = 8 * n * n, memory("VmHWM")
    line = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    A = (sparse.kron(line, sparse.eye_array(n)) + sparse.kron(sparse.eye_array(n), line)).tocsr()
    b = np.random.default_rng(0).standard_normal(n * n)
    slowest = 8 * np.sin(np.pi / (2 * n + 2)) ** 2
    ticks = []

    def counted(product, block):
        jax.debug.callback(lambda: ticks.append(None))
        return product(block)

    unsurveyed = replace(tla.as_operator(A), rtol=rtol, max_steps=max_steps)
    operator = unsurveyed.factor()
    survey = once(unsurveyed.factor)[0]
    program, stored = tla.Device(simulator=tla.Law(end_state=False)).program(operator), memory("VmHWM")
    whole = tla.Device().program(operator)
    hasty = tla.Device(simulator=tla.Law(long_time=True)).program(operator)
    key, force = jax.random.key(0), jnp.asarray(b)
    plan = tla.Plan(burn_in=5 / slowest, duration=20 / slowest)
    first, reading = once(lambda: tla.solve(program, force, key=key, plan=plan))
    iterations: list[int] = []

    def conjugate_gradients() -> np.ndarray:
        iterations.clear()
        return cg(A, b, rtol=rtol, maxiter=10_000, callback=lambda _: iterations.append(1))[0]

    forget_peak()
    before = memory("VmRSS")
    calls = {"cg": conjugate_gradients, "draw": lambda: tla.solve(program, force, key=key, plan=plan)}
    times, drawn = interleave(calls, repeats), memory("VmHWM") - before
    calls = {"cg": conjugate_gradients, "draw": lambda: tla.solve(hasty, force, key=key, plan=plan)}
    # Nine systems by conjugate gradients: minutes for the largest size, which this column leaves out.
    long_times = interleave(calls, max(1, repeats // 2)) if n < 500 else None
    with_state = once(lambda: tla.solve(whole, force, key=key, plan=plan))[0]
    # Without noise, and long after the start, the mean of the law is the solution.
    counting = replace(operator, product=jax.tree_util.Partial(counted, operator.product))
    silent = tla.Device(beta=1e30, simulator=tla.Law(end_state=False)).program(counting)
    found = tla.solve(silent, force, key=key, plan=tla.Plan(burn_in=40 / slowest, duration=40 / slowest))
    jax.effects_barrier()
    value, exact = np.asarray(found.value), conjugate_gradients()
    return {
        "smallest eigenvalue": slowest,
        "condition number": (8 - slowest) / slowest,
        "CG, s": times["cg"].median,
        "survey, s": survey,
        "first draw, s": first,
        "draw, s": times["draw"].median,
        "first draw with end state, s": with_state,
        "long-time draw, s": long_times["draw"].median if long_times else None,
        "draw / CG": ratio(times["draw"], times["cg"]),
        "long-time / CG": ratio(long_times["draw"], long_times["cg"]) if long_times else None,
        "CG iterations": len(iterations),
        "products of a draw": len(ticks),
        "residual of CG": float(np.linalg.norm(b - A @ exact) / np.linalg.norm(b)),
        "residual of the mean": float(np.linalg.norm(b - A @ value) / np.linalg.norm(b)),
        "mean against CG": float(np.linalg.norm(value - exact) / np.linalg.norm(exact)),
        "mean square score of the draw": float(np.mean(((reading.value - exact) / reading.stderr) ** 2)),
        "status of the draw": tla.Status(int(reading.status)).name,
        "memory of matrix and survey, vectors": (stored - bare) / vector,
        "memory of a draw, vectors": drawn / vector,
        "memory of a draw, MB": drawn / 1e6,
    }


def memory(entry: str) -> float:
    """Bytes held now (VmRSS) or at most so far (VmHWM) by this process; not a number where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith(entry)), float("nan"))


def forget_peak() -> None:
    """Let the largest memory so far be that of now, so that compilation does not count."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5")


# Plans: planned time over the least time, by an independent route through the characteristic function.


def plans(smoke: bool) -> dict[str, Any]:
    """Compare planned times with the least ones, and count how often planned runs keep the promise."""
    kappas = [10.0] if smoke else [10.0**k for k in range(7)]
    cases = [(tla.Overdamped(), kappa) for kappa in kappas]
    cases += [(tla.Underdamped(), kappa) for kappa in kappas if kappa <= 1e4 and not smoke]
    draws, signals = (2000, [10.0]) if smoke else (20_000, [10.0, 1000.0])
    rows = [_plan(dynamics, kappa, signal, draws) for dynamics, kappa in cases for signal in signals]
    show("Plans: d = 64, rtol 0.01, confidence 0.95", rows)
    ratios, margin = [row["planned / least"] for row in rows], 3 * np.sqrt(0.95 * 0.05 / draws)
    goals = {
        "planned / least, largest": goal(max(ratios), at_most=1.05),
        "planned / least, smallest": goal(min(ratios), at_least=0.995),
        "coverage, smallest": goal(min(row["coverage"] for row in rows), at_least=0.95 - margin),
    }
    return {"cases": rows, "draws": draws, "goals": goals}


def _plan(dynamics: tla.dynamics.Dynamics, kappa: float, signal: float, draws: int) -> dict[str, Any]:
    d, rtol, confidence = 64, 1e-2, 0.95
    rates = np.geomspace(1 / kappa, 1.0, d)
    b = np.random.default_rng(int(kappa)).standard_normal(d)
    beta = (signal / np.linalg.norm(b)) ** 2
    program = tla.Device(beta=beta, dynamics=dynamics).program(tla.Diagonal(jnp.asarray(rates)))
    plan = tla.plan.solve(program, b, rtol=rtol, confidence=confidence)
    seconds, plan = once(lambda: tla.plan.solve(program, b, rtol=rtol, confidence=confidence))
    bound = tla.plan.solve(program, b, rtol=rtol, confidence=confidence, guaranteed=True)
    answer = b / rates
    law = overdamped if isinstance(dynamics, tla.Overdamped) else underdamped

    def excess(total: float, logit: float) -> float:
        duration = min(max(total / (1 + np.exp(logit)), 0.1), total)
        variance, left = law(rates, beta, total - duration, duration)
        unit = (rtol * np.linalg.norm(answer)) ** 2
        return exceedance(variance / unit, (left * answer) ** 2 / unit) - (1 - confidence)

    planned = float(plan.total)
    least = least_total(excess, planned)
    values = _values(program, b, jax.random.split(jax.random.key(1), draws), plan)
    errors = np.linalg.norm(np.asarray(values) - answer, axis=1) / np.linalg.norm(answer)
    return {
        "dynamics": type(dynamics).__name__,
        "kappa": kappa,
        "NB": signal,
        "burn-in": float(plan.burn_in),
        "duration": float(plan.duration),
        "least": least,
        "planned / least": planned / least,
        "guaranteed / least": float(bound.total) / least,
        "coverage": float(np.mean(errors <= rtol)),
        "planning, s": seconds,
    }


@jax.jit
def _values(program: tla.Program, b: jax.Array, keys: jax.Array, plan: tla.Plan) -> jax.Array:
    return jax.vmap(lambda key: tla.solve(program, b, key=key, plan=plan).value)(keys)


def least_total(excess: Callable[[float, float], float], around: float) -> float:
    """Least total time over the splits, sought from half to 1.15 times a guess."""
    totals = around * np.geomspace(0.5, 1.15, 29)

    def first(logit: float) -> float:
        good = np.array([excess(total, logit) <= 0 for total in totals])
        if good[0] or not good.any():
            return totals[0] if good[0] else np.inf
        crossing = int(np.argmax(good))
        return brentq(excess, totals[crossing - 1], totals[crossing], args=(logit,), xtol=1e-6 * around)

    best, width, found = 0.0, 14.0, []
    for points in (57, 9, 9):
        grid = best + np.linspace(-width, width, points)
        found = [first(logit) for logit in grid]
        best, width = grid[int(np.argmin(found))], 2 * width / (points - 1)
    return min(found)


def exceedance(variance: np.ndarray, square: np.ndarray) -> float:
    """P(sum (m_i + s_i z_i)^2 > 1) from variances s^2 and squares m^2: characteristic function, trapezoid rule."""
    mean = np.sum(variance + square)
    deviation = np.sqrt(np.sum(2 * variance**2 + 4 * variance * square))
    reach = abs(1 - mean) + 12 * deviation + 60 * np.max(variance)
    if deviation < 1e-9:
        return float(mean > 1)
    step = np.pi / reach

    def log_transform(u: np.ndarray) -> np.ndarray:
        factor = 1 - 2j * u[:, None] * variance
        return np.sum(-np.log(factor) / 2 + 1j * u[:, None] * square / factor, 1) - 1j * u

    count = 64
    while log_transform(np.array([count * step])).real[0] > -23 and count < 2**17:
        count *= 2
    k = np.arange(count) + 0.5
    return 0.5 + float(np.sum(np.exp(log_transform(k * step)).imag / k) / np.pi)


def overdamped(rates: np.ndarray, beta: float, burn_in: float, duration: float) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the average of each mode, and the part of its start that is left in it."""
    z, decay = rates * duration, np.exp(-rates * burn_in)
    mean, spread = -np.expm1(-z) / z, 2 * (z + np.expm1(-z)) / z**2
    series = 2 * z / 3 - z**2 / 2 + 7 * z**3 / 30 - z**4 / 12
    fresh = np.where(z < 1e-3, series, spread - mean**2)
    return (fresh - np.expm1(-2 * rates * burn_in) * mean**2) / (beta * rates), decay * mean


def underdamped(rates: np.ndarray, beta: float, burn_in: float, duration: float) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`overdamped`, for unit mass and the default friction, from the two complex rates of each mode."""
    friction = 2 * np.sqrt(rates.min())
    stiffness = rates * (1 + 1e-8)  # keeps off critical damping, where the two rates meet
    root = np.sqrt(friction**2 / 4 - stiffness.astype(complex))
    fast, slow = friction / 2 + root, stiffness / (friction / 2 + root)
    gap = fast - slow

    def both(f):
        return ((fast * f(slow) - slow * f(fast)) / gap).real, ((f(slow) - f(fast)) / gap).real

    stay, kick = both(lambda mu: np.exp(-mu * burn_in))
    back = (fast * slow * (np.exp(-fast * burn_in) - np.exp(-slow * burn_in)) / gap).real
    slide = ((fast * np.exp(-fast * burn_in) - slow * np.exp(-slow * burn_in)) / gap).real
    seen, pushed = both(lambda mu: -np.expm1(-mu * duration) / (mu * duration))
    stationary = both(lambda mu: 2 * (mu * duration + np.expm1(-mu * duration)) / (mu * duration) ** 2)[0]
    left, moved = seen * stay + pushed * back, seen * kick + pushed * slide
    return np.maximum(stationary - left**2 - stiffness * moved**2, 0.0) / (beta * stiffness), left


PARTS = {"dense": dense, "sparse": sparse_systems, "plan": plans}


if __name__ == "__main__":
    run_parts(PARTS, __doc__)
