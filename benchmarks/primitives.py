"""Inverse, exponential, Lyapunov equation, log determinant and processes: against thermox and exact digital routes.

    python benchmarks/primitives.py [--smoke] [--json FILE] [--only gemm|inverse|process|exponential|lyapunov|logdet]

Everything is in float64, jitted where a peer can be, and runs as called where it is ours. The thermox rows need the
extra ``bench``; without it they are left out.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from timing import Timing, goal, installed, interleave, once, ratio, run_parts, show

import thermolinalg as tla

SIZES = {64: 7, 256: 5, 1024: 2}
"""Rounds after the first call, for each size; the slowest rows have fewer."""

PEER = 512
"""Largest size for thermox: at 1024 its diagonalisation alone may take most of a minute."""

Calls = dict[str, Callable[[], Any]]
WALK = tla.Device(simulator=tla.Trajectory())
HASTY = tla.Device(simulator=tla.Law(long_time=True))


def matrices(d: int) -> tuple[jax.Array, jax.Array]:
    """Wishart matrix G G^T / (2 d), where G has shape (d, 2 d), and the same with an antisymmetric part."""
    rng = np.random.default_rng(0)
    factor, other = rng.standard_normal((d, 2 * d)), rng.standard_normal((d, d))
    A = factor @ factor.T / (2 * d)
    return jnp.asarray(A), jnp.asarray(A + (other - other.T) / (2 * np.sqrt(d)))


def far(A: jax.Array, samples: int) -> tla.Plan:
    """Samples so far apart that they are independent: ten relaxations of the slowest mode."""
    gap = 1 + 10 / float(jnp.linalg.eigvalsh((A + A.T) / 2)[0])
    return tla.Plan(burn_in=gap, duration=samples * gap, samples=samples)


def errors(readings: Mapping[str, Any], exact: Any) -> dict[str, Any]:
    """Relative errors, and the mean square error in units of the standard error where there is one."""
    found: dict[str, Any] = {}
    for name, reading in readings.items():
        value = getattr(reading, "value", reading)
        found[name] = {"relative_error": float(np.linalg.norm(value - exact) / np.linalg.norm(exact))}
        if hasattr(reading, "stderr"):
            found[name]["mean_square_score"] = float(np.mean(np.square((value - exact) / reading.stderr)))
    return found


def ratios(times: Mapping[str, Timing], pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Median ratios of those pairs that were measured."""
    return {f"{a} / {b}": ratio(times[a], times[b]) for a, b in pairs if a in times and b in times}


def by_size(
    title: str, smoke: bool, measure: Callable[[int, int, int], dict[str, Any]], goals: list[tuple[str, int, dict]]
) -> dict[str, Any]:
    """Measure every size, print times and ratios, and hold ratios against their goals."""
    samples, rounds = (500, {32: 2}) if smoke else (10_000, SIZES)
    sizes = {d: measure(d, samples, repeats) for d, repeats in rounds.items()}
    first = sizes[min(sizes)]
    absent = "" if installed("thermox") else "thermox is not installed and left out"
    heads = {f"d = {d}": row for d, row in sizes.items()}
    rows = [{"": n} | {c: _milliseconds(row["times"].get(n)) for c, row in heads.items()} for n in first["times"]]
    show(f"{title}: milliseconds; {samples} samples", rows, absent)
    rows = [{"": n} | {c: row["ratios"].get(n) for c, row in heads.items()} for n in first["ratios"]]
    if rows:
        show(f"{title}: ratios", rows, absent)
    held = {f"{n}, d = {d}": (sizes[d]["ratios"].get(n), g) for n, d, g in goals if d in sizes}
    return {"samples": samples, "sizes": sizes, "goals": {n: goal(v, **g) for n, (v, g) in held.items() if v}}


def _milliseconds(record: Mapping[str, Any] | None) -> float | None:
    return None if record is None else 1e3 * record["median_s"]


def inverse(smoke: bool) -> dict[str, Any]:
    """Time the inverse: walked, by frequencies, from independent samples, by thermox, and digitally."""
    goals = [
        ("thermox / walk, new", 256, {"at_least": 12.0}),
        ("thermox / independent, Cholesky", 256, {"at_least": 200.0}),
        ("independent, Cholesky / jnp.linalg.inv", 256, {"at_most": 4.0}),
        ("GEMM rate of walk", 1024, {"at_least": 0.45}),
    ]
    return by_size("Inverse", smoke, _inverse, goals)


def _inverse(d: int, samples: int, repeats: int) -> dict[str, Any]:
    A, _ = matrices(d)
    # thermox takes N + 1 points, a unit of time apart, of which the first is the start.
    near = tla.Plan(burn_in=0.0, duration=samples + 1.0, samples=samples + 1)
    apart, key = far(A, samples), jax.random.key(0)
    walk, law, dense = WALK.program(A), tla.Device().program(A), np.asarray(A)
    tall = jnp.asarray(np.random.default_rng(1).standard_normal((samples, d)).T)
    product = jax.jit(lambda x, y: x @ y)
    other = tall.T + 0.0
    calls: Calls = {
        "walk": lambda: tla.inv(walk, key=key, plan=near),
        "walk, new": lambda: tla.inv(A, key=key, plan=near, device=WALK),
        "by frequency": lambda: tla.inv(law, key=key, plan=near),
        "by frequency, new": lambda: tla.inv(A, key=key, plan=near),
        "independent": lambda: tla.inv(law, key=key, plan=apart),
        "independent, new": lambda: tla.inv(A, key=key, plan=apart),
        "independent, Cholesky": lambda: tla.inv(A, key=key, plan=apart, device=HASTY),
        "jnp.linalg.inv": lambda: jnp.linalg.inv(A),
        "numpy.linalg.inv": lambda: np.linalg.inv(dense),
        "scipy.linalg.inv": lambda: scipy.linalg.inv(dense),
        "product (d, N)(N, d)": lambda: product(tall, other),
    }
    if installed("thermox") and d <= PEER:
        from thermox.linalg import inv

        thermox = jax.jit(lambda A: inv(A, num_samples=samples, key=key))
        calls["thermox"] = partial(thermox, A)
    times = interleave(calls, repeats, thermox=min(3, repeats))
    ours = ["walk, new", "walk", "by frequency, new", "independent, new", "independent, Cholesky"]
    pairs = [("thermox", name) for name in ours]
    pairs += [("independent, Cholesky", "jnp.linalg.inv")]
    found = ratios(times, pairs)
    found["GEMM rate of walk"] = ratio(times["product (d, N)(N, d)"], times["walk"])
    found["GEMM rate of walk, new"] = ratio(times["product (d, N)(N, d)"], times["walk, new"])
    sampled = [name for name in calls if name.split(",")[0] in ("walk", "by frequency", "independent", "thermox")]
    return {
        "times": {name: timing.record() for name, timing in times.items()},
        "ratios": found,
        # A sample covariance counted as 2 N d^2 flops, as a plain product takes; symmetry would need N d^2.
        "gflops": {
            "product": 2e-9 * samples * d**2 / times["product (d, N)(N, d)"].median,
            "walk, at 2 N d^2": 2e-9 * samples * d**2 / times["walk"].median,
            "walk, at N d^2": 1e-9 * samples * d**2 / times["walk"].median,
        },
        "errors": errors({name: calls[name]() for name in sampled}, np.linalg.inv(dense)) if d <= PEER else {},
    }


def exponential(smoke: bool) -> dict[str, Any]:
    """Time exp(-G) for a G without symmetry: independent pairs, a chain of pairs, thermox, and digitally."""
    goals = [("thermox / independent", 256, {"at_least": 10.0}), ("thermox / chain", 256, {"at_least": 1.0})]
    return by_size("Exponential", smoke, _exponential, goals)


def _exponential(d: int, samples: int, repeats: int) -> dict[str, Any]:
    _, G = matrices(d)
    chain, apart, key = tla.Plan(0.0, float(samples), samples), far(G, samples), jax.random.key(0)
    dense, exponent = np.asarray(-G), jax.jit(jax.scipy.linalg.expm)
    calls: Calls = {
        # Without a shift this is the process that thermox runs.
        "independent": lambda: tla.expm(-G, shift=0.0, key=key, plan=apart),
        "chain": lambda: tla.expm(-G, shift=0.0, key=key, plan=chain, device=WALK),
        "jax.scipy.linalg.expm": lambda: exponent(-G),
        "scipy.linalg.expm": lambda: scipy.linalg.expm(dense),
    }
    if installed("thermox") and d <= PEER:
        from thermox.linalg import expm, expnegm

        negative = jax.jit(lambda G: expnegm(G, num_samples=samples, key=key))
        calls["thermox"] = partial(negative, G)
        if samples > 1000:
            positive = jax.jit(lambda A: expm(A, num_samples=samples, key=key, alpha=0.0))
            calls["thermox.linalg.expm"] = partial(positive, -G)
    fewer = {"thermox": min(3, repeats), "thermox.linalg.expm": 1} | ({"chain": 1} if d > PEER else {})
    times = interleave(calls, repeats, **fewer)
    pairs = [("thermox", "independent"), ("thermox", "chain"), ("independent", "jax.scipy.linalg.expm")]
    sampled = {name: calls[name]() for name in ("independent", "chain", "thermox") if name in calls and d <= PEER}
    return {
        "times": {name: timing.record() for name, timing in times.items() if name != "thermox.linalg.expm"},
        "thermox_expm": times["thermox.linalg.expm"].record() if "thermox.linalg.expm" in times else None,
        "ratios": ratios(times, pairs),
        "errors": errors(sampled, scipy.linalg.expm(dense)),
    }


def lyapunov(smoke: bool) -> dict[str, Any]:
    """Time the equation A X + X A^T = Q: independent samples, a walk, and SciPy."""
    return by_size("Lyapunov equation", smoke, _lyapunov, [])


def _lyapunov(d: int, samples: int, repeats: int) -> dict[str, Any]:
    Q, G = matrices(d)
    near, apart, key = tla.Plan(0.0, float(samples), samples), far(G, samples), jax.random.key(0)
    drift, noise = np.asarray(G), np.asarray(Q)
    calls: Calls = {
        "independent": lambda: tla.lyapunov(G, Q, key=key, plan=apart),
        "walk": lambda: tla.lyapunov(G, Q, key=key, plan=near, device=WALK),
        "scipy": lambda: scipy.linalg.solve_continuous_lyapunov(drift, noise),
    }
    times = interleave(calls, repeats, **({} if d <= PEER else {"walk": 1, "scipy": 1}))
    sampled = {name: calls[name]() for name in ("independent", "walk") if d <= PEER}
    return {
        "times": {name: timing.record() for name, timing in times.items()},
        "ratios": ratios(times, [("independent", "scipy"), ("walk", "scipy")]),
        "errors": errors(sampled, calls["scipy"]()) if sampled else {},
    }


def logdet(smoke: bool) -> dict[str, Any]:
    """Time the log determinant: thermodynamic integration, acceptance ratio, and a factorisation."""
    return by_size("Log determinant", smoke, _logdet, [])


def _logdet(d: int, samples: int, repeats: int) -> dict[str, Any]:
    A, _ = matrices(d)
    key, dense, program, exact = jax.random.key(0), np.asarray(A), tla.Device().program(A), jax.jit(jnp.linalg.slogdet)
    calls: Calls = {
        "integration": lambda: tla.logdet(program, key=key, samples=samples),
        "integration, new": lambda: tla.logdet(A, key=key, samples=samples),
        "Bennett": lambda: tla.logdet(program, key=key, samples=samples, estimator=tla.BennettRatio()),
        "Bennett, new": lambda: tla.logdet(A, key=key, samples=samples, estimator=tla.BennettRatio()),
        "jnp.linalg.slogdet": lambda: exact(A),
        "numpy.linalg.slogdet": lambda: np.linalg.slogdet(dense),
    }
    times = interleave(calls, repeats)
    names = ["integration", "integration, new", "Bennett", "Bennett, new"]
    return {
        "times": {name: timing.record() for name, timing in times.items()},
        "ratios": ratios(times, [(name, "jnp.linalg.slogdet") for name in names]),
        "errors": errors({name: calls[name]() for name in names[::2]}, np.linalg.slogdet(dense)[1]),
    }


def process(smoke: bool) -> dict[str, Any]:
    """Time paths and densities at d = 64: a symmetric drift at even and uneven times, and a general one."""
    d, n, repeats = (16, 200, 2) if smoke else (64, 10_000, 7)
    rng = np.random.default_rng(2)
    grids = {"even": 0.1 * np.arange(n), "uneven": np.cumsum(rng.uniform(0.05, 0.15, n))}
    drifts = dict(zip(("symmetric", "general"), matrices(d), strict=True))
    # A general drift needs a transition for each distinct interval, which is another question.
    pairs = [("symmetric", "even"), ("symmetric", "uneven"), ("general", "even")]
    chosen = pairs[::2] if smoke else pairs
    cases = {f"{kind}, {grid}": _process(drifts[kind], grids[grid], repeats) for kind, grid in chosen}
    rows = [{"": n} | {c: 1e3 * row["times"][n]["median_s"] for c, row in cases.items()} for n in _names(cases)]
    show(f"Process: milliseconds; d = {d}, {n} times", rows)
    rows = [{"": n} | {c: row["ratios"][n] for c, row in cases.items()} for n in next(iter(cases.values()))["ratios"]]
    if rows:
        show("Process: ratios", rows)
    name, held = "thermox log_prob, prepared / log_prob", {}
    if not smoke and rows:
        held = {f"{name}; {case}": goal(row["ratios"][name], at_least=10.0) for case, row in cases.items()}
    return {"d": d, "times": n, "cases": cases, "goals": held}


def _names(cases: Mapping[str, Any]) -> list[str]:
    return list(next(iter(cases.values()))["times"])


def _process(A: jax.Array, ts: np.ndarray, repeats: int) -> dict[str, Any]:
    key, x0, b, D = jax.random.key(0), jnp.ones(len(A)), jnp.zeros(len(A)), 2 * jnp.eye(len(A))
    ours = tla.OrnsteinUhlenbeck(A)
    first, path = once(lambda: ours.sample(key, ts, x0))
    calls: Calls = {
        "sample": lambda: ours.sample(key, ts, x0),
        "sample, new": lambda: tla.OrnsteinUhlenbeck(A).sample(key, ts, x0),
        "log_prob": lambda: ours.log_prob(ts, path),
        "log_prob, new": lambda: tla.OrnsteinUhlenbeck(A).log_prob(ts, path),
    }
    pairs, agreement = [], None
    if installed("thermox"):
        import thermox

        times, prepared = jnp.asarray(ts), jax.jit(thermox.utils.preprocess)(A, D)
        sample = jax.jit(lambda A, D: thermox.sample(key, times, x0, A, b, D))
        density = jax.jit(lambda A, D: thermox.log_prob(times, path, A, b, D))
        calls["thermox sample"] = partial(sample, A, D)
        calls["thermox sample, prepared"] = partial(sample, *prepared)
        calls["thermox log_prob"] = partial(density, A, D)
        calls["thermox log_prob, prepared"] = partial(density, *prepared)
        agreement = abs(float(density(*prepared)) / float(ours.log_prob(ts, path)) - 1)
        pairs = [(f"thermox {verb}, prepared", verb) for verb in ("sample", "log_prob")]
        pairs += [(f"thermox {verb}", f"{verb}, new") for verb in ("sample", "log_prob")]
    # Where every step has a transition of its own, a call takes seconds.
    timings = interleave(calls, 1 if first > 8 else repeats)
    return {
        "times": {name: timing.record() for name, timing in timings.items()},
        "ratios": ratios(timings, pairs),
        "log_prob_differs_by": agreement,
    }


def gemm(smoke: bool) -> dict[str, Any]:
    """Rate of a square matrix product in float64 on this machine, in units of 10^9 flops a second."""
    d = 256 if smoke else 1024
    X = jnp.asarray(np.random.default_rng(0).standard_normal((d, d)))
    product = jax.jit(lambda X: X @ X)
    times = interleave({"product": lambda: product(X)}, 11)
    rate = 2e-9 * d**3 / times["product"].median
    show("Matrix product", [{"d": d, "milliseconds": 1e3 * times["product"].median, "Gflop/s": rate}])
    return {"d": d, "gflops": rate, "times": times["product"].record(), "goals": {}}


PARTS = {
    "gemm": gemm,
    "inverse": inverse,
    "process": process,
    "exponential": exponential,
    "lyapunov": lyapunov,
    "logdet": logdet,
}


if __name__ == "__main__":
    run_parts(PARTS, __doc__)
