"""What every verb refuses on the host, before and after its run."""

from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.plan import Plan, check_plan
from thermolinalg.solution import Solution, Status


def check_choice(plan: Plan | None, rtol: Scalar | None) -> None:
    """Raise a ``ValueError`` if both a plan and a tolerance to plan for are given."""
    if plan is not None and rtol is not None:
        raise ValueError("give a plan or rtol, not both: a plan already fixes the times")


def check_samples(plan: Plan) -> Plan:
    """Return a plan whose times make sense and that has samples; a second moment is read of samples."""
    if plan.samples is None:
        raise ValueError("this reading is of samples: give the plan a number of them")
    return check_plan(plan)


def check_answer(solution: Solution, operands: str) -> Solution:
    """Return the solution unless it is known not to be finite."""
    if is_concrete(solution.status) and int(solution.status) & Status.NOT_FINITE:
        raise ValueError(f"the answer is not finite: the scale of {operands} overflows its dtype; rescale them")
    return solution
