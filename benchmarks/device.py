"""What the device layer costs beside the ideal device, and which remedy helps against which fault.

    python benchmarks/device.py [--smoke] [--json FILE] [--only overhead|mitigation]

Everything is in float64.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import goal, interleave, ratio, run_parts, show

import thermolinalg as tla
from thermolinalg.mitigation import calibrate, pool, rounding_margin

KEY = jax.random.key(0)


def matrix(d: int, kappa: float | None = None, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Wishart matrix G G^T / (2 d), or one with a geometric spectrum up to 1, and a right-hand side."""
    rng = np.random.default_rng(seed)
    if kappa is None:
        factor = rng.standard_normal((d, 2 * d))
        A = factor @ factor.T / (2 * d)
    else:
        basis, _ = np.linalg.qr(rng.standard_normal((d, d)))
        A = (basis * np.geomspace(1 / kappa, 1, d)) @ basis.T
    return jnp.asarray((A + A.T) / 2), jnp.asarray(rng.standard_normal(d))


def overhead(smoke: bool) -> dict[str, Any]:
    """Time of a device with converters, read noise and a chip, over that of the ideal one."""
    d, rounds = (32, 3) if smoke else (1024, 41)
    A, b = matrix(d)
    converters = {"matrix_dac": tla.Converter(12), "force_dac": tla.Converter(12), "adc": tla.Converter(12)}
    chip = tla.Chip(jax.random.key(1), mismatch=1e-3)
    devices = {
        "ideal": tla.Device(beta=100.0),
        "force and read-out": tla.Device(beta=100.0, force_dac=tla.Converter(12), adc=tla.Converter(12)),
        "all": tla.Device(beta=100.0, **converters, read_noise=tla.ReadNoise(1e-6), chip=chip),
    }
    programs = {name: device.program(A) for name, device in devices.items()}
    plan = tla.plan.solve(programs["ideal"], b)
    again = {
        name: lambda program=program: tla.solve(program, b, key=KEY, plan=plan) for name, program in programs.items()
    }
    whole = {
        name: lambda device=device: tla.solve(A, b, key=KEY, plan=plan, device=device)
        for name, device in devices.items()
    }
    results, rows = {}, []
    for title, calls, number in (("program written once", again, rounds), ("written each time", whole, rounds // 4)):
        times = interleave(calls, max(number, 1))
        over = {name: ratio(times[name], times["ideal"]) for name in calls if name != "ideal"}
        results[title] = {"times": {name: time.record() for name, time in times.items()}, "over ideal": over}
        rows += [
            {"solve": title, "device": name, "ms": 1e3 * time.median, "over ideal": over.get(name, 1.0)}
            for name, time in times.items()
        ]
    show(f"The device layer over the ideal device, d = {d}", rows)
    held = {
        f"{name}, {title}": goal(value, at_most=1.10)
        for title, found in results.items()
        for name, value in found["over ideal"].items()
    }
    return results | {"goals": {} if smoke else held}


def mitigation(smoke: bool) -> dict[str, Any]:
    """Relative error of solutions and inverses, by fault and by remedy; medians over chips and matrices."""
    d, kappa, members, repeats = (6, 5.0, 4, 2) if smoke else (16, 20.0, 64, 9)
    faults = {
        "6 bits": {"matrix_dac": tla.Converter(6)},
        "8 bits": {"matrix_dac": tla.Converter(8)},
        "10 bits": {"matrix_dac": tla.Converter(10)},
        "mismatch 1 %": {"mismatch": 0.01},
        "mismatch 0.1 %": {"mismatch": 0.001},
        "read-out off by 3 %": {"adc": tla.Converter(14, gain=0.03, offset=0.01)},
        "all of 10 bits, 0.1 %, 3 %": {
            "matrix_dac": tla.Converter(10), "force_dac": tla.Converter(10),
            "adc": tla.Converter(10, gain=0.03, offset=0.01), "mismatch": 0.001,
        },
    }  # fmt: skip
    plan = tla.Plan(40.0 * kappa, 1e6)
    rows, results = [], {}
    for fault, parts in faults.items():
        errors: dict[str, list[float]] = {}
        for repeat in range(repeats):
            A, b = matrix(d, kappa, repeat)
            found = remedies(A, b, dict(parts), jax.random.fold_in(KEY, repeat), members, plan)
            for name, value in found.items():
                errors.setdefault(name, []).append(value)
        median = {name: float(np.median(value)) for name, value in errors.items()}
        results[fault] = median
        rows.append({"fault": fault} | median)
    margins = {f"{bits} bits": float(rounding_margin(matrix(d, kappa)[0], tla.Converter(bits))) for bits in (6, 8, 10)}
    show(f"Relative error of x, d = {d}, kappa = {kappa:g}, {members} members, medians of {repeats}", rows)
    return {"errors": results, "margins": margins, "d": d, "kappa": kappa, "members": members, "goals": {}}


def remedies(
    A: jax.Array, b: jax.Array, parts: dict[str, Any], key: jax.Array, members: int, plan: tla.Plan
) -> dict[str, float]:
    """Error of one device, and of every remedy on it."""
    exact = jnp.linalg.solve(A, b)
    mismatch = parts.pop("mismatch", 0.0)
    device = tla.Device(beta=1e6, chip=tla.Chip(key, mismatch) if mismatch else None, **parts)

    def error(x: jax.Array) -> float:
        return float(jnp.linalg.norm(x - exact) / jnp.linalg.norm(exact))

    found = {"none": error(tla.solve(A, b, key=key, plan=plan, device=device).value)}
    several = pooled(A, b, key, plan, device, members)
    found["several roundings and chips"] = error(several)
    better = device if device.adc is None else calibrate(device, key=key)
    found["calibration"] = error(tla.solve(A, b, key=key, plan=plan, device=better).value)
    refined = tla.refine.solve(A, b, key=key, device=device, rtol=1e-10)
    found["refinement to 1e-10"] = error(refined.value)
    found["its runs"] = float(refined.stats["steps"])
    return found


@partial(jax.jit, static_argnums=5)
def pooled(A: jax.Array, b: jax.Array, key: jax.Array, plan: tla.Plan, device: tla.Device, members: int) -> jax.Array:
    """Mean over members that round at random, each on a chip of its own."""
    dac = None if device.matrix_dac is None else replace(device.matrix_dac, stochastic=True)

    def one(key: jax.Array) -> tla.Solution:
        chip = None if device.chip is None else replace(device.chip, key=jax.random.fold_in(key, 1))
        return tla.solve(A, b, key=key, plan=plan, device=replace(device, matrix_dac=dac, chip=chip))

    return pool(one, key=key, members=members).value


PARTS = {"overhead": overhead, "mitigation": mitigation}

if __name__ == "__main__":
    run_parts(PARTS, __doc__)
