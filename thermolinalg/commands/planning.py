"""What a plan asks for, what it pays, and what would be asked for if less were known."""

from typing import Any

import numpy as np

from thermolinalg.commands.linear import Solve
from thermolinalg.convergence import Eigenvalues, Extremes, solve
from thermolinalg.operators import Modal
from thermolinalg.plan import Budget


def planned(job: Solve, budget: Budget | None) -> dict[str, Any]:
    """Everything about a plan that is worth telling."""
    parts, energy = job.describe(), job.system.price(job.plan).joules.analog
    with job.session.phase("ladder", "Planning with less"):
        limits = None if budget is None else {"seconds": budget.seconds, "joules": budget.joules}
        return parts | {"budget": limits, "energy_j": energy, "ladder": ladder(job)}


def ladder(job: Solve) -> list[dict[str, Any]] | None:
    """Total times by what is known of the problem, and against the plan.

    None where the spectrum is not known or the answer is zero. Extremes are not told apart from the condition number:
    what they say more is the unit of time, and these are times in time constants.
    """
    plan, program = job.plan, job.system.program
    operator = program.machine.operator
    lengths = np.linalg.norm(job.system.force.reshape(job.dim, -1), axis=0)
    if not isinstance(operator, Modal) or not np.any(lengths > 0):
        return None
    # All eigenvalues are known here, and the plan is one that was searched.
    assert program.spectrum is not None
    assert plan.rtol is not None
    assert plan.confidence is not None
    goal, replicas = (float(plan.rtol), float(plan.confidence)), plan.replicas
    force = float(np.min(lengths[lengths > 0]))
    bounds = Extremes(program.spectrum.minimum, program.spectrum.maximum, job.dim)
    little, more = (solve(known, force=force, device=program.device) for known in (bounds, Eigenvalues.of(operator)))
    everything = solve(program, job.system.force)

    def textbook(estimator: Any) -> Any:
        # Replicas divide the noise, and with it the time that averages it away.
        times = estimator.textbook_time(*goal).schedule
        return times.burn_in + times.duration / replicas

    totals = {
        "spectrum and b": plan.total,
        "spectrum, length of b": more.time(*goal, replicas=replicas).value,
        "condition number, length of b": little.time(*goal, replicas=replicas).value,
        "spectrum and b, textbook": textbook(everything),
        "condition number, length of b, textbook": textbook(little),
    }
    clock = float(plan.clock)
    return [
        {"known": known, "time_constants": clock * float(total), "ratio": float(total) / float(plan.total)}
        for known, total in totals.items()
    ]
