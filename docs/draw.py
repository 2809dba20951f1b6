"""Draw figures of the documentation: ``python docs/draw.py``. Pages name the commands that drew the others."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import thermolinalg as tla
from thermolinalg import convergence
from thermolinalg.convergence import ConditionNumber, Eigenvalues, Extremes, laurent_massart
from thermolinalg.figures.gantt import gantt_figure
from thermolinalg.hybrid import Round, pipeline

IMAGES = Path(__file__).parent / "pages" / "images"


def levels() -> None:
    """Error that 95 % of runs keep to, against device time, as each level of knowledge predicts it, and as measured."""
    from matplotlib.figure import Figure

    d, kappa = 64, 100.0
    rates = jnp.geomspace(1 / kappa, 1.0, d)
    b = jnp.asarray(np.random.default_rng(0).standard_normal(d))
    x = np.asarray(b / rates)
    device = tla.Device(beta=100 / float(jnp.sum(b**2)))
    length, force = float(np.linalg.norm(x)), float(jnp.linalg.norm(b))
    program = device.program(tla.Diagonal(rates))
    full = convergence.solve(program, b)
    known = [
        ("condition number, length of b", convergence.solve(ConditionNumber(kappa, d), force=force, device=device)),
        (
            "extremes, length of the answer",
            convergence.solve(Extremes(1 / kappa, 1.0, d), length=length, device=device),
        ),
        ("whole spectrum, length of the answer", convergence.solve(Eigenvalues(rates), length=length, device=device)),
        ("spectrum and right-hand side", full),
    ]
    times = np.geomspace(1e2, 1e8, 25)
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for place, (label, estimator) in enumerate(known):
        axes.loglog(times, [float(estimator.error(t)) for t in times], color=f"C{place}", label=label)
        bound = [float(estimator.textbook_error(t)) for t in times]
        axes.loglog(times, bound, color=f"C{place}", linestyle=":", linewidth=1)
    axes.loglog(
        times,
        [float(full.error(t, 0.95, laurent_massart)) for t in times],
        *("C3--",),
        linewidth=1,
        label="the same, guaranteed",
    )

    @jax.jit
    def runs(plan, keys):
        return jax.vmap(lambda key: tla.solve(program, b, key=key, plan=plan).value)(keys)

    measured = []
    for t in times[::3]:
        split = full.error(t).schedule
        values = np.asarray(runs(tla.Plan(split.burn_in, split.duration), jax.random.split(jax.random.key(0), 4000)))
        measured.append(np.quantile(np.linalg.norm(values - x, axis=1), 0.95) / length)
    axes.loglog(times[::3], measured, "ko", markersize=5, label="measured: 95 % of 4000 runs")
    axes.set(
        xlabel="device time, in time constants",
        ylabel="relative error, 2-norm, at confidence 0.95",
        ylim=(3e-5, 30),
    )
    axes.set_title(
        f"{d} unknowns, condition number {kappa:.0f}, signal-to-noise number 10; dotted: textbook", fontsize=10
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(IMAGES / "levels.png", dpi=130)


def gantt() -> None:
    """A host, a link and two devices over six rounds; the example of the page on them."""
    ledger = tla.cost(tla.Plan(burn_in=10.0, duration=40.0), tla.Device(time_constant=1e-6), dim=300)
    run = pipeline(Round.of(ledger, host_seconds=60e-6), 6, devices=2, staleness=1)
    gantt_figure(run.timeline, "Two devices, answers one round old").savefig(IMAGES / "gantt.png", dpi=130)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    matplotlib.use("agg")
    IMAGES.mkdir(exist_ok=True)
    levels()
    gantt()
