"""Stochastic differential equations: fixed steps beside diffrax, and beside a bare scan.

    python benchmarks/sde.py [--smoke] [--json FILE] [--only speed|orders]

An Ornstein-Uhlenbeck process by Euler-Maruyama. Everything is in float64, draws of the noise are included, and the
compilation is not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from timing import goal, installed, interleave, ratio, run_parts, show

from thermolinalg import sde

STEP = 0.01
PEERS = ("scan", "diffrax, tree", "diffrax, stored noise")


def relax(t: Any, x: jax.Array, A: jax.Array) -> jax.Array:
    """The drift."""
    return -A @ x


def shake(t: Any, x: jax.Array, A: jax.Array) -> jax.Array:
    """The diffusion, which is the same for every component."""
    return jnp.full_like(x, 2**0.5)


# Speed: the same scheme, the same number of steps.


def speed(smoke: bool) -> dict[str, Any]:
    """Time a path of Euler-Maruyama, all states kept, and its sums, none kept."""
    steps = 500 if smoke else 20_000
    sizes = {d: _speed(d, steps, 2 if smoke else 9, 1 if smoke else 3) for d in ((10,) if smoke else (10, 100))}
    columns = {f"d = {d}": row for d, row in sizes.items()}
    names = list(sizes[min(sizes)]["times"])
    rows = [{"": n} | {c: 1e3 * row["times"][n]["median_s"] for c, row in columns.items()} for n in names]
    show(f"Speed: milliseconds for {steps} steps", rows)
    rows = [{"over ours": n} | {c: row["ratios"][n] for c, row in columns.items()} for n in PEERS]
    show("Speed: ratios", rows)
    least = {10: 10.0, 100: 5.0}
    goals = {f"diffrax tree / ours, d = {d}": goal(r["ratios"][PEERS[1]], at_least=least[d]) for d, r in sizes.items()}
    variances = {f"variance of the path, d = {d}": goal(r["variance"], at_most=1.5) for d, r in sizes.items()}
    return {"steps": steps, "diffrax": installed("diffrax"), "sizes": sizes, "goals": goals | variances}


def _speed(d: int, steps: int, repeats: int, peer_repeats: int) -> dict[str, Any]:
    G = np.random.default_rng(0).standard_normal((d, 2 * d))
    A = jnp.asarray(G @ G.T / (2 * d))
    start, key = jnp.zeros(d), jax.random.key(0)
    equation = sde.Equation(relax, shake, A, sde.Noise.ADDITIVE)

    def ours() -> jax.Array:
        return sde.integrate(equation, sde.EulerMaruyama(), start, sde.brownian_path(key, steps, d, STEP))

    def sums() -> Any:
        return sde.accumulate(
            equation, sde.EulerMaruyama(), start, key, step=STEP, steps=steps, observe=_add, carry=start
        )

    calls: dict[str, Callable[[], Any]] = {
        "integrate, noise drawn": ours,
        "accumulate": sums,
        "scan": lambda: _scan(A, start, key, steps),
        "diffrax, tree": lambda: _diffrax(A, start, key, steps, True),
        "diffrax, stored noise": lambda: _diffrax(A, start, key, steps, False),
    }
    times = interleave(calls, repeats, **{"diffrax, tree": peer_repeats, "diffrax, stored noise": peer_repeats})
    return {
        "times": {name: timing.record() for name, timing in times.items()},
        "ratios": {name: ratio(times[name], times["integrate, noise drawn"]) for name in PEERS},
        # A sign of life: in units of what it must be in the long run.
        "variance": float(jnp.mean(ours()[steps // 2 :] ** 2) / jnp.mean(jnp.diagonal(jnp.linalg.inv(A)))),
    }


def _add(total: jax.Array, t: jax.Array, x: jax.Array) -> jax.Array:
    return total + x


@jax.jit
def _walk(A: jax.Array, start: jax.Array, noise: jax.Array) -> jax.Array:
    def move(x: jax.Array, push: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = x - STEP * (A @ x) + push
        return x, x

    return jax.lax.scan(move, start, noise)[1]


def _scan(A: jax.Array, start: jax.Array, key: jax.Array, steps: int) -> jax.Array:
    """What one would write by hand: all noise first, then a scan."""
    return _walk(A, start, (2 * STEP) ** 0.5 * jax.random.normal(key, (steps, len(start))))


@partial(jax.jit, static_argnums=(3, 4))
def _diffrax(A: jax.Array, start: jax.Array, key: jax.Array, steps: int, tree: bool) -> jax.Array:
    shape = jax.ShapeDtypeStruct(start.shape, start.dtype)
    end = steps * STEP
    path: Any
    if tree:
        path = diffrax.VirtualBrownianTree(0.0, end, STEP / 2, shape, key)
    else:
        path = diffrax.UnsafeBrownianPath(shape, key)
    terms = diffrax.MultiTerm(diffrax.ODETerm(relax), diffrax.ControlTerm(_diagonal, path))
    found = diffrax.diffeqsolve(
        terms,
        diffrax.Euler(),
        0.0,
        end,
        STEP,
        start,
        A,
        saveat=diffrax.SaveAt(steps=True),
        max_steps=steps + 1,
        adjoint=diffrax.DirectAdjoint(),  # the path without random access allows no other, and both shall be alike
    )
    return found.ys


def _diagonal(t: Any, x: jax.Array, A: jax.Array) -> Any:
    return lineax.DiagonalLinearOperator(shake(t, x, A))


# Orders: what the page of the documentation states.


def orders(smoke: bool) -> dict[str, Any]:
    """Measure strong and weak order of every scheme on equations with known solutions or a finer reference."""
    paths = 200 if smoke else 20_000
    rows = [_order(name, paths, *case) for name, case in _cases().items()]
    show(f"Orders: {paths} paths, measured (stated)", rows)
    return {"cases": rows, "paths": paths, "goals": {}}


def _cases() -> dict[str, tuple]:
    def arc(x: jax.Array) -> jax.Array:
        return jnp.sqrt(x**2 + 1)

    ito = sde.Equation(lambda t, x, _: x / 2 + arc(x), lambda t, x, _: arc(x), None, sde.Noise.COMMUTATIVE)
    wave = sde.Equation(
        lambda t, x, _: 1.5 * jnp.sin(4 * x), lambda t, x, _: jnp.ones_like(x), None, sde.Noise.ADDITIVE
    )
    solved = sde.to_stratonovich(ito)
    exact = lambda t, w: jnp.sinh(t + w)  # noqa: E731
    zero, fine = jnp.zeros(1), sde.AdditiveRungeKutta()
    return {
        "EulerMaruyama, additive": (wave, sde.EulerMaruyama(), zero + 1, None, fine),
        "EulerMaruyama, commutative": (ito, sde.EulerMaruyama(), zero, exact, None),
        "Milstein, commutative": (ito, sde.Milstein(), zero, exact, None),
        "StratonovichMilstein, commutative": (solved, sde.StratonovichMilstein(), zero, exact, None),
        "Heun, commutative": (solved, sde.Heun(), zero, exact, None),
        "Heun, additive": (wave, sde.Heun(), zero + 1, None, fine),
        "AdditiveRungeKutta, additive": (wave, fine, zero + 1, None, fine),
        "WeakSecondOrder, commutative": (ito, sde.WeakSecondOrder(), zero, exact, None),
        "ExponentialEuler, additive": (wave, sde.ExponentialEuler(jnp.eye(1)), zero + 1, None, fine),
    }


def _order(name: str, paths: int, equation: Any, scheme: Any, start: Any, exact: Any, reference: Any) -> dict[str, Any]:
    found = sde.convergence_order(
        equation,
        scheme,
        start,
        exact,
        duration=0.5,
        key=jax.random.key(0),
        steps=(8, 16, 32, 64),
        paths=paths,
        functions=jnp.arcsinh,
        reference=reference,
        finer=8,
    )
    stated = scheme.orders[equation.noise]

    def told(law: sde.PowerLaw, order: float) -> str:
        return (f"{law.slope:.2f} +- {law.stderr:.2f}" if np.isfinite(law.slope) else "not resolved") + f" ({order:g})"

    return {"scheme": name, "strong": told(found.strong, stated.strong), "weak": told(found.weak, stated.weak)}


PARTS = {"speed": speed, "orders": orders}


if __name__ == "__main__":
    run_parts(PARTS, __doc__)
