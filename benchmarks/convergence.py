"""Estimates against the time that is needed, and refinement against averaging and conjugate gradients.

    python benchmarks/convergence.py [--smoke] [--json FILE] [--only levels|inverse|refine|matrices]

Everything is in float64, and in natural units: the largest eigenvalue of a made-up matrix is one. Refinement is in
refinement.py. Matrices of pyamg are left out where it is not installed, and the table says so.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from refinement import matrices, refinement
from solve import overdamped, underdamped
from timing import goal, run_parts, show

import thermolinalg as tla
from thermolinalg import convergence
from thermolinalg.convergence import (
    ConditionNumber,
    Eigenvalues,
    Extremes,
    four_moments,
    imhof,
    laurent_massart,
    markov,
)

RTOL, CONFIDENCE = 0.05, 0.95
DYNAMICS = {"overdamped": tla.Overdamped(), "underdamped": tla.Underdamped()}
REGIMES = {"noise": 30.0, "burn-in": 0.03}
"""Time that averaging takes, in relaxation times of the slowest mode."""

TAILS = {"default": None, "guaranteed": laurent_massart, "markov": markov, "four moments": four_moments, "imhof": imhof}

SPECTRA: dict[str, Callable[[int, float], np.ndarray]] = {
    "linear": lambda d, kappa: np.linspace(1 / kappa, 1.0, d),
    "geometric": lambda d, kappa: np.geomspace(1 / kappa, 1.0, d),
    # Two clusters, a tenth wide.
    "clustered": lambda d, kappa: np.concatenate(
        [np.linspace(1.0, 1.1, d // 2) / kappa, np.linspace(0.9, 1.0, d - d // 2)]
    ),
    "one small": lambda d, kappa: np.append(1 / kappa, np.linspace(0.5, 1.0, d - 1)),
}
SIDES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "random": lambda rates: np.random.default_rng(len(rates)).standard_normal(len(rates)),
    # Along the softest mode the answer is as long as it can be, along the stiffest as short.
    "easy": lambda rates: np.where(rates == rates.min(), 1.0, 0.0),
    "hard": lambda rates: np.where(rates == rates.max(), 1.0, 0.0),
}


# The family of problems.


@dataclass(frozen=True)
class Case:
    """A diagonal system at a temperature: what is drawn depends on the modes alone, not on their directions."""

    name: tuple[float, str, str, str]
    rates: np.ndarray
    b: np.ndarray
    beta: float

    @property
    def answer(self) -> np.ndarray:
        """The solution."""
        return self.b / self.rates

    @property
    def sharing(self) -> float:
        """How many modes share the noise of a long run."""
        square = (self.rates.min() / self.rates) ** 2
        return float(np.sum(square) ** 2 / np.sum(square**2))


def family(d: int, dynamics: str, kappas: list[float]) -> list[Case]:
    """Every condition number, spectrum, right-hand side and regime."""
    return [_case(dynamics, d, *name) for name in product(kappas, SPECTRA, SIDES, REGIMES)]


def _case(dynamics: str, d: int, kappa: float, spectrum: str, side: str, regime: str) -> Case:
    rates = SPECTRA[spectrum](d, kappa)
    b = SIDES[side](rates)
    # Overdamped, with unit friction, or at the default friction, which is critical for the slowest mode.
    slowest, friction = rates.min(), 1.0
    if dynamics == "underdamped":
        slowest = np.sqrt(rates.min())
        friction = 2 * slowest
    scatter = 2 * friction * np.sum(1 / rates**2) / (RTOL**2 * np.sum((b / rates) ** 2))
    return Case((kappa, spectrum, side, regime), rates, b, scatter * slowest / REGIMES[regime])


# What the library says.


def _known(dynamics: tla.dynamics.Dynamics, rates: jax.Array, b: jax.Array, beta: jax.Array) -> dict[str, Any]:
    """Schedules and totals at the two upper levels."""
    device = tla.Device(beta=beta, dynamics=dynamics)
    length = jnp.linalg.norm(b / rates)
    spectrum = convergence.solve(Eigenvalues(rates), length=length, device=device)
    full = convergence.solve(tla.Diagonal(rates), b, device=device)
    found = {f"right-hand side: {name}": full.time(RTOL, CONFIDENCE, tail) for name, tail in TAILS.items()}
    found |= {"right-hand side: textbook": full.textbook_time(RTOL, CONFIDENCE)}
    found |= {f"spectrum: {name}": spectrum.time(RTOL, CONFIDENCE, TAILS[name]) for name in ("default", "guaranteed")}
    found |= {"spectrum: textbook": spectrum.textbook_time(RTOL, CONFIDENCE)}
    return {name: time.value for name, time in found.items()} | {
        "schedule": found["right-hand side: default"].schedule,
        "exact schedule": found["right-hand side: imhof"].schedule,
    }


def _little(case: Case, dynamics: tla.dynamics.Dynamics) -> dict[str, float]:
    """Totals at the two lower levels; the largest eigenvalue is one, so that time constants are natural units."""
    device, low, d = tla.Device(beta=case.beta, dynamics=dynamics), float(case.rates.min()), len(case.rates)
    force, length = float(np.linalg.norm(case.b)), float(np.linalg.norm(case.answer))
    found = {
        "condition number, |b|": convergence.solve(ConditionNumber(1 / low, d), force=force, device=device),
        "extremes, |x|": convergence.solve(Extremes(low, 1.0, d), length=length, device=device),
    }
    times = {f"{name}: default": float(estimator.time(RTOL, CONFIDENCE)) for name, estimator in found.items()}
    return times | {
        f"{name}: textbook": float(estimator.textbook_time(RTOL, CONFIDENCE)) for name, estimator in found.items()
    }


# What is needed: draws by NumPy, from closed forms of its own.


def needed(cases: list[Case], law: Callable, shares: np.ndarray, guesses: np.ndarray, draws: int) -> np.ndarray:
    """Least total times at these shares of burn-in, their standard errors, and whether shorter ones would do as well.

    The same draws serve every time that is tried, so that the fraction of runs that keep the promise is smooth in it.
    Where oscillating modes pass the answer it is not monotone; the time is then the crossing next to the guess.
    """

    def kept(totals: np.ndarray, draws: int = draws) -> np.ndarray:
        laws = [law(c.rates, c.beta, s * t, (1 - s) * t) for c, s, t in zip(cases, shares, totals, strict=True)]
        unit = np.array([RTOL * np.linalg.norm(case.answer) for case in cases])
        deviation = np.sqrt([variance for variance, _ in laws]).T / unit
        bias = np.array([left * case.answer for case, (_, left) in zip(cases, laws, strict=True)]).T / unit
        count = np.zeros(len(cases))
        for z in _normals(draws, len(bias)):
            count += np.sum(z**2 @ deviation**2 + 2 * z @ (deviation * bias) <= 1 - np.sum(bias**2, 0), 0)
        return count / draws

    near = np.array([0.97, 0.985, 1.0, 1.015, 1.03, 1.06])
    factors = np.concatenate([np.geomspace(0.1, 0.95, 24), near])
    good = np.stack([kept(factor * guesses, 20_000) >= CONFIDENCE for factor in factors])
    rises = ~good[:-1] & good[1:]
    first = np.argmin(np.where(rises, np.abs(np.log(factors[1:, None])), np.inf), 0)
    # Wider than the cell that few draws point to.
    low, high = np.log(factors[first] * guesses) - 0.04, np.log(factors[first + 1] * guesses) + 0.04
    outside = ~rises.any(0) | (kept(np.exp(low)) >= CONFIDENCE) | (kept(np.exp(high)) < CONFIDENCE)
    for _ in range(11):
        middle = (low + high) / 2
        enough = kept(np.exp(middle)) >= CONFIDENCE
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    slope = (kept(np.exp(high + 0.005)) - kept(np.exp(high - 0.005))) / 0.01
    error = np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / draws) / np.maximum(slope, 1e-9)
    shorter = np.array([good[: place + 1, i].any() for i, place in enumerate(first)])
    return np.stack([np.where(outside, np.nan, np.exp((low + high) / 2)), error, shorter])


def _normals(draws: int, d: int, chunk: int = 20_000) -> Iterator[np.ndarray]:
    for seed in range(0, draws, chunk):
        yield np.random.default_rng(seed).standard_normal((min(chunk, draws - seed), d))


@jax.jit
def _kept(rates: jax.Array, b: jax.Array, device: tla.Device, plan: tla.Plan, keys: jax.Array) -> jax.Array:
    """Fraction of runs of the library that keep the promise."""
    program, answer = device.program(tla.Diagonal(rates)), b / rates
    values = jax.vmap(lambda key: tla.solve(program, b, key=key, plan=plan).value)(keys)
    return jnp.mean(jnp.linalg.norm(values - answer[None], axis=1) <= RTOL * jnp.linalg.norm(answer))


def levels(smoke: bool) -> dict[str, Any]:
    """Compare the time that each level of knowledge asks for with the least at which runs keep the promise."""
    sizes, kappas = ([4], [10.0]) if smoke else ([4, 32, 128], [1e1, 1e3, 1e5])
    draws, runs = (20_000, 500) if smoke else (400_000, 4000)
    rows: list[dict[str, Any]] = []
    for d, (name, dynamics) in product(sizes, list(DYNAMICS.items())[: 1 if smoke else None]):
        cases = family(d, name, kappas)
        stacked = [jnp.asarray([getattr(case, entry) for case in cases]) for entry in ("rates", "b", "beta")]
        told = jax.tree.map(np.asarray, jax.jit(jax.vmap(partial(_known, dynamics)))(*stacked))
        exact, schedule = told.pop("exact schedule"), told.pop("schedule")
        total = exact.burn_in + exact.duration
        law = overdamped if name == "overdamped" else underdamped
        least, error, shorter = needed(cases, law, exact.burn_in / total, total, draws)
        for i, case in enumerate(cases):
            times = _little(case, dynamics) | {entry: values[i] for entry, values in told.items()}
            kappa, spectrum, side, regime = case.name
            row = {"d": d, "dynamics": name, "kappa": kappa, "spectrum": spectrum, "b": side, "regime": regime}
            row |= {"NB": np.sqrt(case.beta) * np.linalg.norm(case.b), "least": least[i], "standard error": error[i]}
            row |= {"shorter times would do": bool(shorter[i]), "modes that share the noise": case.sharing}
            row |= {"ratios": {entry: time / least[i] for entry, time in times.items()}}
            if d == min(sizes[-1], 32) and kappa == kappas[len(kappas) // 2]:
                plan = tla.Plan(schedule.burn_in[i], schedule.duration[i])
                device, keys = tla.Device(beta=case.beta, dynamics=dynamics), jax.random.split(jax.random.key(i), runs)
                row["coverage"] = float(_kept(case.rates, case.b, device, plan, keys))
            rows.append(row)
    _show_ratios(f"Solve: asked over needed time, {len(rows)} problems, rtol {RTOL}", rows, "regime", REGIMES)
    covered, margin = [row["coverage"] for row in rows if "coverage" in row], 4 * np.sqrt(0.95 * 0.05 / runs)
    default = [row["ratios"]["right-hand side: default"] for row in rows]
    bound = [row["ratios"]["right-hand side: guaranteed"] for row in rows]
    count = sum(row["shorter times would do"] for row in rows)
    print(f"Shorter times at the same share of burn-in keep the promise too in {count} problems.\n")
    goals = {
        "problems whose needed time was not found": goal(
            int(np.isnan([row["least"] for row in rows]).sum()), at_most=0
        ),
        "standard error of a needed time, largest": goal(max(row["standard error"] for row in rows), at_most=0.005),
        "default, smallest": goal(np.nanmin(default), at_least=0.98),
        "default, largest": goal(np.nanmax(default), at_most=1.05),
        # Needed times are known to a few parts in 10^5, the width of the last bracket.
        "guaranteed, smallest": goal(np.nanmin(bound), at_least=0.9999),
        "guaranteed, largest": goal(np.nanmax(bound), at_most=1.7),
        f"coverage by runs of the library, smallest of {len(covered)}": goal(min(covered), at_least=0.95 - margin),
        "coverage by runs of the library, mean": goal(np.mean(covered), at_least=0.95 - margin / len(covered) ** 0.5),
    }
    several = [row["ratios"]["right-hand side: guaranteed"] for row in rows if row["modes that share the noise"] >= 16]
    if several:
        goals["guaranteed, largest where 16 or more modes share the noise"] = goal(np.nanmax(several), at_most=1.7)
    return {"cases": rows, "draws": draws, "goals": goals}


def _show_ratios(title: str, rows: list[dict[str, Any]], entry: str, groups: Any) -> None:
    table = []
    for name in rows[0]["ratios"]:
        line: dict[str, Any] = {"what is known: tail": name}
        for group in groups:
            found = [row["ratios"][name] for row in rows if row[entry] == group] or [np.nan]
            summary = {"least": np.nanmin(found), "median": np.nanmedian(found), "most": np.nanmax(found)}
            line |= {f"{group}: {key}": float(value) for key, value in summary.items()}
        table.append(line)
    show(title, table)


# The inverse: measured by runs of the library.

ACCURACY = 0.1


def inverse(smoke: bool) -> dict[str, Any]:
    """The same for the inverse, in the Frobenius norm."""
    # A run of an underdamped device of 32 modes takes some 16 times as long as one of four.
    sizes = {("overdamped", 4): 20_000, ("overdamped", 16): 6000, ("overdamped", 32): 3000}
    sizes |= {("underdamped", 4): 8000, ("underdamped", 16): 3000}
    if smoke:
        sizes = {("overdamped", 4): 500}
    kappas = [10.0] if smoke else [10.0, 1e3]
    # Four moments are the default here.
    tails = [name for name in TAILS if name != "four moments"][: 1 if smoke else None]
    problems = list(product(kappas, SPECTRA))
    rows = [row for (name, d), runs in sizes.items() for row in _inverses(name, d, runs, problems, tails)]
    title = f"Inverse: asked over needed time, {len(rows)} problems, rtol {ACCURACY}"
    _show_ratios(title, rows, "dynamics", dict.fromkeys(name for name, _ in sizes))
    default = [row["ratios"]["spectrum: default"] for row in rows]
    goals = {
        "default, smallest": goal(min(default), at_least=0.95),
        "default, largest": goal(max(default), at_most=1.10),
        "standard error of a needed time, largest": goal(max(row["standard error"] for row in rows), at_most=0.03),
    }
    return {"cases": rows, "runs": {f"{name}, d = {d}": runs for (name, d), runs in sizes.items()}, "goals": goals}


def _inverses(
    name: str, d: int, runs: int, problems: list[tuple[float, str]], tails: list[str]
) -> list[dict[str, Any]]:
    dynamics = DYNAMICS[name]
    device = tla.Device(dynamics=dynamics)
    stacked = jnp.asarray([SPECTRA[spectrum](d, kappa) for kappa, spectrum in problems])

    @jax.jit
    @jax.vmap
    def told(rates: jax.Array) -> tuple[dict[str, jax.Array], tla.Schedule]:
        estimator = convergence.inv(Eigenvalues(rates), device=device)
        found = {f"spectrum: {tail}": estimator.time(ACCURACY, CONFIDENCE, TAILS[tail]) for tail in tails}
        found |= {"spectrum: textbook": estimator.textbook_time(ACCURACY, CONFIDENCE)}
        return {entry: time.value for entry, time in found.items()}, found["spectrum: default"].schedule

    @jax.jit
    def squares(rates: jax.Array, plan: tla.Plan, keys: jax.Array) -> jax.Array:
        program, exact = device.program(tla.Diagonal(rates)), jnp.diag(1 / rates)

        def one(key: jax.Array) -> jax.Array:
            return jnp.sum((tla.inv(program, key=key, plan=plan).value - exact) ** 2) / jnp.sum(exact**2)

        return jax.lax.map(one, keys, batch_size=100)

    keys = jax.random.split(jax.random.key(7), runs)
    few = keys[: runs // 4]
    times, schedule = jax.tree.map(np.asarray, told(stacked))
    rows = []
    for i, (kappa, spectrum) in enumerate(problems):
        burn_in, duration = float(schedule.burn_in[i]), float(schedule.duration[i])
        # The same keys at two times: the quantile of the squared error is a power of the time in between.
        near = [squares(stacked[i], tla.Plan(burn_in * t, duration * t), few) for t in (0.9, 1.1)]
        quantiles = [np.quantile(error, CONFIDENCE) for error in near]
        power = np.log(quantiles[1] / quantiles[0]) / np.log(1.1 / 0.9)
        errors = np.asarray(squares(stacked[i], tla.Plan(burn_in, duration), keys)) / ACCURACY**2
        step = np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / runs)
        low, middle, high = np.log(np.quantile(errors, [CONFIDENCE - step, CONFIDENCE, CONFIDENCE + step]))
        least = np.exp(-middle / power) * (burn_in + duration)
        row = {"d": d, "dynamics": name, "kappa": kappa, "spectrum": spectrum, "least": least}
        row |= {"standard error": (low - high) / power / 2, "mean square over rtol^2": float(np.mean(errors))}
        smallest = float(stacked[i].min())
        rough = {
            "condition number": convergence.inv(ConditionNumber(1 / smallest, d), device=device),
            "extremes": convergence.inv(Extremes(smallest, 1.0, d), device=device),
        }
        asked = {f"{known}: default": float(found.time(ACCURACY, CONFIDENCE)) for known, found in rough.items()}
        asked |= {f"{n}: textbook": float(found.textbook_time(ACCURACY, CONFIDENCE)) for n, found in rough.items()}
        asked |= {entry: float(values[i]) for entry, values in times.items()}
        rows.append(row | {"ratios": {known: time / least for known, time in asked.items()}})
    return rows


PARTS = {"levels": levels, "inverse": inverse, "refine": refinement, "matrices": matrices}


if __name__ == "__main__":
    run_parts(PARTS, __doc__)
