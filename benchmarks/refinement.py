"""Refinement against averaging and conjugate gradients: the parts of convergence.py that need references of their own.

References come from LAPACK, corrected by residuals in extended precision; conjugate gradients that are not the
library's run until their error, not an estimate of it, is small enough.
"""

import gzip
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.io
import scipy.linalg
import scipy.sparse as sparse
from timing import goal, show

import thermolinalg as tla
from thermolinalg import refine

DATA = Path(__file__).parents[1] / "tests" / "data"
MOST = 3000
"""Unknowns of the largest matrix: the device is simulated from a full eigendecomposition."""

LIMIT = 20_000
"""Most steps of conjugate gradients."""


def reference(A: Any, b: np.ndarray) -> np.ndarray:
    """The answer to more digits than float64 has: LAPACK, corrected by residuals in extended precision."""
    rows, x = sparse.csr_array(A), np.zeros(len(b), np.longdouble)
    entries, factor = rows.data.astype(np.longdouble), scipy.linalg.cho_factor(rows.toarray())
    for _ in range(8):
        image = np.add.reduceat(entries * x[rows.indices], rows.indptr[:-1])
        x = x + scipy.linalg.cho_solve(factor, (b - image).astype(float))
    return x


def distance(x: Any, exact: np.ndarray) -> float:
    """Relative error in the 2-norm."""
    return float(np.linalg.norm(np.asarray(x) - exact) / np.linalg.norm(exact))


def conjugate_gradients(A: Any, b: np.ndarray, exact: np.ndarray, goals: list[float]) -> list[int | None]:
    """Products with A until the error is below each of these goals, from the largest to the smallest."""
    x, r, found = np.zeros_like(b), b, []
    p, square = r, r @ r
    for count in range(1, LIMIT + 1):
        q = A @ p
        step = square / (p @ q)
        x, r = x + step * p, r - step * q
        while len(found) < len(goals) and distance(x, exact) <= goals[len(found)]:
            found.append(count)
        if len(found) == len(goals):
            break
        before, square = square, r @ r
        p = r + square / before * p
    return found + [None] * (len(goals) - len(found))


def geometric(d: int, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """A matrix with a geometric spectrum from 1/kappa to 1 in random directions, and a random right-hand side."""
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.standard_normal((d, d)))[0]
    A = (vectors * np.geomspace(1 / kappa, 1.0, d)) @ vectors.T
    return (A + A.T) / 2, rng.standard_normal(d)


def device_for(b: np.ndarray, signal: float) -> tla.Device:
    """A device on which b stands `signal` times above the noise."""
    return tla.Device(beta=signal**2 / float(b @ b))


def refinement(smoke: bool) -> dict[str, Any]:
    """Refine made-up systems, matrices and preconditioners, and count what it takes."""
    d, kappas = (24, [1e2]) if smoke else (256, [1e2, 1e3, 1e5])
    signals, seeds = ([100.0], 1) if smoke else ([10.0, 100.0], 5)
    found: dict[str, Any] = {"d": d, "seeds": seeds, "systems": [], "contraction": []}
    for kappa in kappas:
        A, b = geometric(d, kappa)
        exact = reference(A, b)
        for signal in signals:
            found["systems"] += _systems(A, b, exact, kappa, signal, seeds)
            found["contraction"].append(_contraction(A, b, kappa, signal, seeds))
    show(f"Refinement, d = {d}: times in units of 1/lambda_max, medians of {seeds}", found["systems"])
    show("Contraction of the residual in a step of plain refinement", found["contraction"])
    if not smoke:
        found["steps"] = _lengths(d, 1e3, seeds)
        show("The length of a step: NB 100, rtol 1e-8", found["steps"])
    found["inverse"] = [_inverse(16 if smoke else 128, kappa) for kappa in kappas]
    show("Inverse by Newton-Schulz from a sampled one, rtol 1e-10", found["inverse"])
    found["preconditioned"] = _preconditioned(d, 1e2 if smoke else 1e6, smoke)
    show("Conjugate gradients with a sampled inverse, rtol 1e-10", found["preconditioned"])
    chosen = [row for row in found["systems"] if row["kappa"] == 1e3 and row["NB"] == 100 and row["rtol"] == 1e-10]
    goals = {"error over rtol, largest": goal(max(row["error / rtol"] for row in found["systems"]), at_most=1.0)}
    for row in chosen:
        goals["direct / device time; kappa 1e3, NB 100, 1e-10"] = goal(row["direct / device"], at_least=1e8)
        goals["products; kappa 1e3, NB 100, 1e-10"] = goal(row["products, most"], at_most=25)
    return found | {"goals": goals}


def _systems(
    A: np.ndarray, b: np.ndarray, exact: np.ndarray, kappa: float, signal: float, seeds: int
) -> list[dict[str, Any]]:
    device, rows, rtols = device_for(b, signal), [], [1e-3, 1e-8, 1e-10]
    program, rates, other = device.program(jnp.asarray(A)), np.linalg.eigvalsh(A), _mismatched(A, device)
    for rtol, plain in zip(rtols, conjugate_gradients(A, b, exact, rtols), strict=True):
        runs = [refine.solve(A, b, key=jax.random.key(s), rtol=rtol, program=program) for s in range(seeds)]
        # The duration whose mean square error is rtol^2, after a burn-in that leaves rtol of the start.
        scatter = 2 * np.sum(1 / rates**2) / (signal**2 / (b @ b) * float(exact @ exact))
        direct = scatter / rtol**2 + np.log(1 / rtol) / rates[0]
        time = float(np.median([run.stats["device_time"] for run in runs]))
        row = {"kappa": kappa, "NB": signal, "rtol": rtol, "direct time": direct, "device time": time}
        row |= {
            "direct / device": direct / time,
            "products": int(np.median([run.stats["matvecs"] for run in runs])),
            "products, most": int(max(run.stats["matvecs"] for run in runs)),
            "plain CG": plain,
            "error / rtol": max(distance(run.value, exact) for run in runs) / rtol,
        }
        rows.append(row | _with_mismatch(A, b, exact, rtol, other, seeds))
    return rows


def _mismatched(A: np.ndarray, device: tla.Device) -> tla.Program | None:
    """What the device holds if every entry is off by 0.1 %; None if that is not positive definite."""
    off = np.triu(1e-3 * np.random.default_rng(1).standard_normal(A.shape))
    held = A * (1 + off + np.triu(off, 1).T)
    return device.program(jnp.asarray(held)) if np.linalg.eigvalsh(held)[0] > 0 else None


def _with_mismatch(
    A: np.ndarray, b: np.ndarray, exact: np.ndarray, rtol: float, other: tla.Program | None, seeds: int
) -> dict[str, Any]:
    if other is None:
        return {"0.1 % off: products": "unstable", "0.1 % off: error / rtol": None}
    runs = [refine.solve(A, b, key=jax.random.key(s), rtol=rtol, program=other) for s in range(seeds)]
    done = all(int(run.status) == 0 for run in runs)
    return {
        "0.1 % off: products": int(np.median([run.stats["matvecs"] for run in runs])) if done else "stagnates",
        "0.1 % off: error / rtol": max(distance(run.value, exact) for run in runs) / rtol,
    }


def _contraction(A: np.ndarray, b: np.ndarray, kappa: float, signal: float, seeds: int) -> dict[str, Any]:
    program = device_for(b, signal).program(jnp.asarray(A))
    found: dict[str, Any] = {"kappa": kappa, "NB": signal}
    for update in (refine.richardson, refine.flexible_cg):
        keys = [jax.random.key(100 + seed) for seed in range(4 * seeds)]
        runs = [refine.solve(A, b, key=key, rtol=1e-10, program=program, update=update) for key in keys]
        found["predicted"] = float(runs[0].stats["predicted_contraction"])
        name = update.__name__.replace("_", " ")
        if update is refine.richardson:
            # The prediction is for the mean square of plain steps.
            steps = [np.asarray(run.stats["residuals"][1:] / run.stats["residuals"][:-1]) for run in runs]
            found[f"{name}, root mean square"] = float(np.sqrt(np.nanmean(np.square(steps))))
        found[f"{name}, geometric mean"] = float(np.median([run.stats["contraction"] for run in runs]))
        found[f"{name}, products"] = int(np.median([run.stats["matvecs"] for run in runs]))
    return found


def _lengths(d: int, kappa: float, seeds: int) -> list[dict[str, Any]]:
    A, b = geometric(d, kappa)
    program, rows = device_for(b, 100.0).program(jnp.asarray(A)), []
    for contraction in (0.01, 0.1, 0.3, 0.6, 0.9):
        plan = refine.plan(program, b, contraction=contraction)
        runs = [
            refine.solve(A, b, key=jax.random.key(s), rtol=1e-8, program=program, plan=plan, max_steps=1000)
            for s in range(seeds)
        ]
        row = {"kappa": kappa, "contraction asked": contraction}
        row |= {"device time": float(np.median([run.stats["device_time"] for run in runs]))}
        row |= {"products": int(np.median([run.stats["matvecs"] for run in runs]))}
        rows.append(row | {"plain CG": int(runs[0].stats["plain_cg"])})
    return rows


def _inverse(d: int, kappa: float) -> dict[str, Any]:
    A, _ = geometric(d, kappa)
    out = refine.inv(A, key=jax.random.key(0))
    exact = np.stack([reference(A, column) for column in np.eye(d)], 1)
    wanted = ("initial", "predicted")
    return {
        "d": d,
        "kappa": kappa,
        "steps": int(out.stats["steps"]),
        "products of matrices": int(out.stats["products"]),
        **{f"spectral radius, {name}": float(out.stats[name]) for name in wanted},
        "error": distance(out.value, exact),
        "error of LAPACK": distance(scipy.linalg.inv(A), exact),
        "device time": float(out.stats["device_time"]),
        "direct / device": float(out.stats["direct_time"] / out.stats["device_time"]),
        "status": tla.Status(int(out.status)).name or "none",
    }


def _preconditioned(d: int, kappa: float, smoke: bool) -> list[dict[str, Any]]:
    A, b = geometric(d, kappa)
    exact, rows, rtol = reference(A, b), [], 1e-10
    (plain,) = conjugate_gradients(A, b, exact, [rtol])
    for samples in (4, 10) if smoke else (2, 4, 10, 40):
        # Ten relaxations of the slowest mode apart, so that samples are independent.
        gap = 10 * kappa
        plan = tla.Plan(burn_in=gap, duration=samples * d * gap, samples=samples * d)
        C = tla.inv(A, key=jax.random.key(0), plan=plan)
        out = refine.pcg(A, b, C, rtol=rtol)
        row = {"d": d, "kappa": kappa, "samples / d": samples, "products": int(out.stats["matvecs"])}
        row |= {"predicted": float(out.stats["predicted"]), "plain CG": plain}
        rows.append(row | {"error / rtol": distance(out.value, exact) / rtol, "device time": plan.total})
    return rows


def matrices(smoke: bool) -> dict[str, Any]:
    """Refine matrices of real problems, scaled to a unit diagonal."""
    rows, skipped = [], {}
    for name, A in _shipped() if smoke else _collection():
        if isinstance(A, str):
            skipped[name] = A
        else:
            rows.append(_matrix(name, A))
            if smoke:
                break
    note = "; ".join(f"{name}: {why}" for name, why in skipped.items())
    show("Matrices, scaled to a unit diagonal: NB 100, rtol 1e-10", rows, note and f"Left out: {note}.")
    goals = {f"error, {row['matrix']}": goal(row["error"], at_most=1e-10) for row in rows}
    if not smoke and find_spec("pyamg"):
        largest = max(row["kappa scaled"] for row in rows if row["error"] <= 1e-10)
        goals["largest condition number"] = goal(largest, at_least=5e5)
    return {"matrices": rows, "skipped": skipped, "goals": goals}


def _matrix(name: str, A: Any) -> dict[str, Any]:
    A = sparse.csr_array((A + A.T) / 2)
    before = np.linalg.eigvalsh(A.toarray())
    scaled, _ = refine.unit_diagonal(A)
    scaled = sparse.csr_array(scaled)
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    exact = reference(scaled, b)
    program = device_for(b, 100.0).program(jnp.asarray(scaled.toarray()))
    out = refine.solve(program, b, key=jax.random.key(0))
    (plain,) = conjugate_gradients(scaled, b, exact, [1e-10])
    low, high = (float(getattr(out.stats["spectrum"], end)) for end in ("minimum", "maximum"))
    return {
        "matrix": name,
        "d": A.shape[0],
        "kappa": before[-1] / before[0],
        "kappa scaled": high / low,
        "error": distance(out.value, exact),
        "products": int(out.stats["matvecs"]),
        "plain CG": plain,
        # In units of 1/lambda_max, as in the other tables.
        "device time": float(out.stats["device_time"]) * high,
        "direct / device": float(out.stats["direct_time"] / out.stats["device_time"]),
        "status": tla.Status(int(out.status)).name or "none",
    }


def _shipped() -> Iterator[tuple[str, Any]]:
    for name in ("airfoil", "bar"):
        with gzip.open(DATA / f"{name}.mtx.gz") as file:
            yield name, sparse.csr_array(scipy.io.mmread(file))


def _collection() -> Iterator[tuple[str, Any]]:
    """Matrices, or the reason why one is left out."""
    yield from _shipped()
    if not find_spec("pyamg"):
        yield "examples of pyamg", "not installed"
        return
    from pyamg import gallery

    shipped = ("airfoil", "bar")
    for name in ("knot", "unit_cube", "unit_square", "local_disc_galerkin_diffusion", "recirc_flow", "helmholtz_2D"):
        A = sparse.csr_array(gallery.load_example(name)["A"])
        if name not in shipped:
            yield name, _reason(A) or A
    yield "poisson, 40 x 40", gallery.poisson((40, 40), format="csr")
    yield (
        "diffusion, anisotropic 1e-4, 30 x 30",
        gallery.stencil_grid(
            gallery.diffusion_stencil_2d(epsilon=1e-4, theta=np.pi / 6, type="FE"), (30, 30), format="csr"
        ),
    )
    yield "elasticity, Poisson ratio 0.4999, 24 x 24", gallery.linear_elasticity((24, 24), nu=0.4999)[0].tocsr()
    yield "poisson, 1500", gallery.poisson((1500,), format="csr")


def _reason(A: Any) -> str | None:
    """Why a matrix is no symmetric positive definite one, or too large."""
    if A.shape[0] > MOST:
        return f"{A.shape[0]} unknowns"
    if abs(A - A.conj().T).max() > 1e-10 * abs(A).max():
        return "not Hermitian"
    rates = np.linalg.eigvalsh(A.toarray())
    return None if rates[0] > 1e-12 * rates[-1] else "not positive definite to working precision"
