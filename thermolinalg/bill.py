"""What a run did cost, from what its solution tells of it."""

from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from thermolinalg.cost import Host, cost, cost_moments
from thermolinalg.device import Device, Program
from thermolinalg.ledger import Ledger
from thermolinalg.operators import is_concrete
from thermolinalg.plan import Plan
from thermolinalg.ranges import check_whole
from thermolinalg.solution import Solution


def cost_of(
    solution: Solution, device: Device | Program | None = None, *, writes: int = 1, host: Host | None = None
) -> Ledger:
    r"""Price a run that is done, by the plan, the steps and the shapes in its solution.

    Parameters
    ----------
    solution : Solution
        Of a verb of this package, as it came, outside of ``jit`` and ``vmap``.
    device : Device or Program, optional
        What it ran on; an ideal device by default. The log determinant needs the program.
    writes : int, >= 0
        How often the couplings were written; 0 if they were there from an earlier run. A log determinant writes them
        at every further node of its path.
    host : Host, optional

    Returns
    -------
    Ledger

    Raises
    ------
    ValueError
        If the solution does not tell what its run took, as those of :func:`thermolinalg.extremes` and of independent
        samples, or is a batch.

    Notes
    -----
    Digital work is counted for dense matrices: :math:`2d^2` operations for a product with A, in a residual of
    refinement, in a step of conjugate gradients (and as many for its preconditioner), and for the energy of a
    sample; :math:`2d^3` for a product of two matrices, in a Newton-Schulz step, and for normal equations; four times as
    many for complex ones. Vector updates, surveys of the spectrum, what only this simulation does, and plain conjugate
    gradients run for comparison are not counted. The preconditioner of :func:`thermolinalg.refine.pcg` was sampled by
    a run of its own, whose ledger adds to that of the solution.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.primitives import solve
    >>> program = Device(beta=1e6).program(jnp.diag(jnp.array([1.0, 2.0])))
    >>> x = solve(program, jnp.ones(2), key=jax.random.key(0), rtol=0.01)
    >>> ledger = cost_of(x, program)
    >>> ledger == cost(x.stats["plan"], program.device, dim=2)
    True
    """
    check_whole("writes", writes, 0)
    if not is_concrete(solution, device):
        raise ValueError("a price needs numbers, which there are none of inside jit, vmap or grad")
    if np.ndim(solution.status):
        raise ValueError(f"solution is a batch of {np.size(solution.status)}; price one of them at a time")
    own = Device() if device is None else device.device if isinstance(device, Program) else device
    stats, shape = solution.stats, np.shape(solution.value)
    components = 2 if np.iscomplexobj(solution.value) else 1
    if "nodes" in stats:
        return _log_determinant(stats, device, writes, host)
    dim, columns, product = shape[0], prod(shape[1:]), 2.0 * components**2
    shared: dict[str, Any] = {"dim": dim, "writes": writes, "components": components, "host": host}
    if "matvecs" in stats:
        if np.any(np.asarray(stats["matvecs"]) < 0):
            raise ValueError("solution does not tell how many products it took: it did not reach its reference")
        return _refined(stats, own, float(np.sum(stats["matvecs"])) * product * dim**2, shared)
    if stats.get("plan") is None:
        raise ValueError(
            "solution does not tell what its run took; give the times of the run as a plan to thermolinalg.cost"
        )
    plan: Plan = stats["plan"]
    if "products" in stats:
        return cost_moments(plan, own, flops=float(stats["products"]) * product * dim**3, **shared)
    if "effective_samples" in stats:
        return cost_moments(plan, own, **shared)
    if "mean" in stats:
        loaded = shape[1] if np.any(np.asarray(stats["mean"])) else 0
        return cost(plan, own, **shared | {"dim": shape[1]}, loaded=loaded, read=shape[0] * shape[1])
    # Real and imaginary parts of a drift without symmetry are cells of their own.
    embedded: dict[str, Any] = {"dim": components * dim, "writes": writes, "host": host}
    if "correlation" in stats:
        exponential = "amplification" in stats
        noise = 0 if exponential else (components * dim) ** 2
        return cost_moments(plan, own, states=2 if exponential else 1, loaded=noise, **embedded)
    if "normal_equations" in stats:
        flops = product * dim**2 * (dim + columns) if stats["normal_equations"] else 0.0
        return cost(plan, own, columns=columns, flops=flops, **embedded)
    return cost(plan, own, columns=columns, **shared)


def _refined(stats: dict[str, Any], device: Device, flops: float, shared: dict[str, Any]) -> Ledger:
    """Runs of one column each, or none at all, and products with A."""
    if "steps" not in stats:
        # Conjugate gradients: a step has a product with A, and one with the preconditioner.
        twice = 2 if "predicted" in stats else 1
        return cost(Plan(0.0, 0.0), device, loaded=0, read=0, flops=twice * flops, **shared | {"writes": 0})
    runs = int(np.sum(stats["steps"]))
    if not runs:
        return cost(Plan(0.0, 0.0), device, loaded=0, read=0, flops=flops, **shared)
    return cost(stats["plan"], device, columns=runs, flops=flops, **shared)


def _log_determinant(stats: dict[str, Any], program: Device | Program | None, writes: int, host: Host | None) -> Ledger:
    """States at the nodes of a path, couplings written anew at each, and the energy of every state."""
    if not isinstance(program, Program) or program.spectrum is None:
        raise ValueError("the price of a log determinant depends on the couplings; give device=device.program(A)")
    components, dim, samples = program.operator.components, program.operator.dim, int(np.sum(stats["samples"]))
    fastest = program.machine.dynamics.clock(jnp.maximum(program.spectrum.maximum, stats["reference"]))
    return cost(
        Plan(0.0, stats["device_time"], samples, clock=fastest),
        program.device,
        dim=dim,
        writes=writes + int(stats["nodes"]) - 1,
        loaded=0,
        read=samples * dim,
        flops=2.0 * components**2 * samples * dim**2,
        components=components,
        host=host,
    )
