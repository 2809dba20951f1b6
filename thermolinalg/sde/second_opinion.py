"""The same equation by diffrax: other schemes, adaptive steps, and a check on ours."""

from math import ceil
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.ranges import check_positive
from thermolinalg.sde.equations import Calculus, Equation, Noise, noises

if TYPE_CHECKING:
    import diffrax


def diffrax_solve(
    equation: Equation,
    solver: "diffrax.AbstractSolver",
    start: ArrayLike,
    *,
    t1: Scalar,
    t0: Scalar = 0.0,
    key: jax.Array,
    dt0: Scalar,
    controller: "diffrax.AbstractStepSizeController | None" = None,
    tolerance: Scalar | None = None,
    ts: ArrayLike | None = None,
    max_steps: int | None = None,
) -> "diffrax.Solution":
    """Integrate an equation with a solver of diffrax, on its own Brownian path.

    Parameters
    ----------
    equation : Equation
    solver : diffrax.AbstractSolver
        In the calculus of the equation: ``diffrax.Euler`` and ``diffrax.ItoMilstein`` are Ito solvers, most others
        Stratonovich ones. For additive noise either serves.
    start : array, shape (d,)
    t1 : float
        Time at the end.
    t0 : float, < t1
        Time at the start.
    key : PRNG key
        Decides the Brownian path; its numbers are not those of :func:`thermolinalg.sde.brownian_path`.
    dt0 : float, > 0
        Length of a step, or of the first one if the steps adapt.
    controller : diffrax.AbstractStepSizeController, optional
        Adapts the steps, for a solver with an error estimate. By default all are alike.
    tolerance : float, optional
        Time below which the path is smoothed. By default half of `dt0`, and a 64th of it if the steps adapt.
    ts : array, optional
        Times at which to return the state; by default the end.
    max_steps : int, optional
        By default what fixed steps take, or 64 times that, and at least 4096, if the steps adapt.

    Returns
    -------
    diffrax.Solution
        With the states in ``ys``, leading axis the times.

    Raises
    ------
    ValueError
        If the solver does not fit calculus or noise of the equation, or shapes or times are wrong.

    Notes
    -----
    The tree gives random access to the path, which adaptive steps need, for a bisection in every step. Adaptive steps
    of a Stratonovich solver are safe; with an Ito solver they may converge to another process unless noise commutes.

    Examples
    --------
    >>> import diffrax, jax, jax.numpy as jnp
    >>> from thermolinalg.sde import Calculus, Equation, Noise
    >>> flow = Equation(lambda t, x, _: 0 * x, lambda t, x, _: x, None, Noise.COMMUTATIVE, Calculus.STRATONOVICH)
    >>> controller = diffrax.PIDController(rtol=1e-2, atol=1e-3)
    >>> found = diffrax_solve(flow, diffrax.SPaRK(), jnp.ones(1), t1=1.0, key=jax.random.key(0), dt0=0.1,
    ...                       controller=controller)
    >>> bool(found.ys[-1, 0] > 0)  # it is exp(W)
    True
    """
    import diffrax
    import lineax

    check_positive(dt0=dt0, tolerance=tolerance)
    if is_concrete(t0, t1) and not float(t0) < float(t1):
        raise ValueError(f"t0 must be less than t1, got {t0} and {t1}")
    state = jnp.asarray(start)
    columns = noises(equation, state)
    inner = solver.solver if isinstance(solver, diffrax.AbstractWrappedSolver) else solver
    _check_solver(equation, inner, diffrax)
    kind = state.dtype
    begin, end, first = (jnp.asarray(x).astype(kind) for x in (t0, t1, dt0))
    smooth = first / (2 if controller is None else 64) if tolerance is None else jnp.asarray(tolerance).astype(kind)
    shape = jax.ShapeDtypeStruct((columns,), kind)
    path = diffrax.VirtualBrownianTree(begin, end, smooth, shape, key, _area(inner, diffrax))
    if max_steps is None and is_concrete(t0, t1, dt0):
        needed = ceil((float(t1) - float(t0)) / float(dt0)) + 2
        max_steps = needed if controller is None else max(4096, 64 * needed)

    def spread(t, x, args):
        found = equation.diffusion(t, x, args)
        return lineax.DiagonalLinearOperator(found) if found.ndim == 1 else found

    return diffrax.diffeqsolve(
        diffrax.MultiTerm(diffrax.ODETerm(Partial(equation.drift)), diffrax.ControlTerm(Partial(spread), path)),
        solver,
        begin,
        end,
        first,
        state,
        equation.args,
        saveat=diffrax.SaveAt(t1=True) if ts is None else diffrax.SaveAt(ts=jnp.asarray(ts).astype(kind)),
        stepsize_controller=diffrax.ConstantStepSize() if controller is None else controller,
        max_steps=4096 if max_steps is None else max_steps,
    )


def _check_solver(equation: Equation, solver: Any, diffrax: Any) -> None:
    name = type(solver).__name__
    ito = isinstance(solver, diffrax.AbstractItoSolver)
    if not ito and not isinstance(solver, diffrax.AbstractStratonovichSolver):
        raise ValueError(f"{name} is no solver of stochastic equations; take diffrax.Euler, Heun, SPaRK, SRA1, ...")
    if equation.noise is Noise.ADDITIVE:
        return
    fits = Calculus.ITO if ito else Calculus.STRATONOVICH
    if equation.calculus is not fits:
        convert = "to_ito" if ito else "to_stratonovich"
        raise ValueError(
            f"{name} reads {fits.value} equations, got a {equation.calculus.value} one; convert it with "
            f"{convert}(equation)"
        )
    tableau = getattr(solver, "tableau", None)
    if isinstance(tableau, diffrax.StochasticButcherTableau) and tableau.is_additive_noise():
        raise ValueError(f"{name} needs additive noise, got an equation with {equation.noise.value} noise; take SPaRK")


def _area(solver: Any, diffrax: Any) -> type:
    """The increments that a solver reads: with the areas it needs, and no more."""
    least = getattr(solver, "minimal_levy_area", diffrax.BrownianIncrement)
    kinds = (diffrax.BrownianIncrement, diffrax.SpaceTimeLevyArea, diffrax.SpaceTimeTimeLevyArea)
    return next(kind for kind in kinds if issubclass(kind, least))
