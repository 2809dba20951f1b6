r"""What a scheme does to an equation: its exact law where that is linear, and its orders where it is not.

One step of a linear equation with additive noise is an affine map of state and noise. Its weak error is then a number
without sampling noise. Elsewhere both orders are measured, with error bars.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thermolinalg.laws import Scalar
from thermolinalg.ranges import check_positive, check_whole
from thermolinalg.sde.brownian import BrownianPath, brownian_path
from thermolinalg.sde.engine import integrate
from thermolinalg.sde.equations import Equation
from thermolinalg.sde.scheme import Scheme
from thermolinalg.transition import Transition


def linear_step(scheme: Scheme, equation: Equation, step: Scalar, dim: int | Any) -> Transition:
    r"""Return the map that one step of a scheme makes of a linear equation with additive noise.

    .. math:: x' = F x + c + \mathcal N(0, Q), \qquad Q = h\,G_W G_W^\top + \tfrac{h}{12} G_H G_H^\top

    Parameters
    ----------
    scheme : Scheme
    equation : Equation
        Linear, with additive noise, at time 0; of any other, this is the linearisation at zero.
    step : float, > 0
        h, in units of time.
    dim : int, or a state
        Number of unknowns of a state of shape (d,), or any state, whose leaves are then stacked.

    Returns
    -------
    Transition
        ``propagator`` F, ``shift`` c and ``covariance`` Q. Its powers are many steps;
        ``lyapunov`` and repeated doubling give stationary laws.

    Notes
    -----
    The map is read off the implementation, by forward derivatives with respect to the state, the increment and the
    area.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.sde import EulerMaruyama, Equation, Noise
    >>> relaxation = Equation(lambda t, x, _: -x, lambda t, x, _: 2**0.5 * jnp.ones_like(x), None, Noise.ADDITIVE)
    >>> step = linear_step(EulerMaruyama(), relaxation, 0.1, 1)
    >>> variance = step.covariance[0, 0] / (1 - step.propagator[0, 0] ** 2)  # 2 / (2 - h) instead of 1
    >>> bool(jnp.isclose(variance, 2 / 1.9))
    True
    """
    scheme.check(equation)
    check_positive(step=step)
    start = jnp.zeros(dim) if isinstance(dim, int | np.integer) else jax.tree.map(jnp.zeros_like, dim)
    excess, zeros = _excess(scheme, equation, step, start)
    by_state, by_increment, *by_area = jax.jacfwd(excess, tuple(range(len(zeros))))(*zeros)
    h = jnp.asarray(step).astype(zeros[0].dtype)
    covariance = h * by_increment @ by_increment.T
    for part in by_area:
        covariance += h / 12 * part @ part.T
    eye = jnp.eye(len(zeros[0]), dtype=zeros[0].dtype)
    return Transition(eye + by_state, excess(*zeros), covariance, jnp.diagonal(by_state))


def check_step(scheme: Scheme, equation: Equation, step: Scalar, state: Any) -> None:
    """Raise a ``ValueError`` if a scheme is unstable at this step where the equation itself is stable.

    Parameters
    ----------
    scheme : Scheme
    equation : Equation
    step : float, > 0
    state : array, shape (d,)
        Where to linearise the drift; any state if it is linear.

    Raises
    ------
    ValueError
        With the growth of a step, and a step that all rates allow.

    Notes
    -----
    The noise is left out, so this is stability of the mean. Values must be known: it runs outside of ``jit`` only.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.sde import EulerMaruyama, Equation, Noise
    >>> fast = Equation(lambda t, x, _: -100 * x, lambda t, x, _: jnp.ones_like(x), None, Noise.ADDITIVE)
    >>> check_step(EulerMaruyama(), fast, 0.019, jnp.ones(1))
    >>> check_step(EulerMaruyama(), fast, 0.021, jnp.ones(1))
    Traceback (most recent call last):
    ...
    ValueError: step 0.021 is too long for EulerMaruyama: an error grows by the factor 1.1 a step; take less than 0.02
    """
    scheme.check(equation)
    check_positive(step=step)
    excess, zeros = _excess(scheme, equation, step, state)
    at = ravel_pytree(state)[0]
    change = np.asarray(jax.jacfwd(excess)(at, *zeros[1:]))
    growth = float(np.abs(np.linalg.eigvals(np.eye(len(change)) + change)).max())
    slack = 1 + 8 * len(change) * float(np.finfo(change.dtype).eps)
    if growth <= slack:
        return
    flow = jax.jacfwd(lambda x: equation.drift(jnp.zeros((), x.dtype), x, equation.args))(at)
    rates = -np.linalg.eigvals(np.asarray(flow))
    if rates.real.min() >= 0:
        # A rate that turns allows less: |1 - h rate| < 1 for Euler, which is enough for the other schemes as well.
        longest = scheme.limit * float(np.min(rates.real / np.maximum(np.abs(rates) ** 2, np.finfo(float).tiny)))
        raise ValueError(
            f"step {float(step):.4g} is too long for {type(scheme).__name__}: an error grows by the factor "
            f"{growth:.3g} a step; take less than {longest:.4g}"
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PowerLaw:
    """Errors that fall as a power of the step.

    Attributes
    ----------
    slope, stderr : float
        The fitted power and its standard error, from the scatter over paths; NaN if fewer than three errors are known
        to better than a third.
    errors, stderrs : array, shape (levels,)
        The error at each step, and its standard error.
    """

    slope: float
    stderr: float
    errors: np.ndarray
    stderrs: np.ndarray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ConvergenceOrder:
    """Measured orders of a scheme.

    Attributes
    ----------
    steps : array, shape (levels,)
        Lengths of the steps, in units of time.
    strong : PowerLaw
        Of the root mean square error of the final state.
    weak : PowerLaw
        Of the norm of the error of the mean of the functions.
    paths : int
    scheme : str
    """

    steps: np.ndarray
    strong: PowerLaw
    weak: PowerLaw
    paths: int = field(metadata={"static": True})
    scheme: str = field(metadata={"static": True})

    def explain(self) -> str:
        """Return the orders and a table of the errors behind them."""
        lines = [f"{self.scheme}, {self.paths} paths"]
        for name, law in (("strong", self.strong), ("weak", self.weak)):
            known = f"{law.slope:.3f} +- {law.stderr:.3f}"
            lines.append(f"{name} order " + (known if np.isfinite(law.slope) else "not resolved: take more paths"))
            for h, error, stderr in zip(self.steps, law.errors, law.stderrs, strict=True):
                lines.append(f"  step {h:.4g}: error {error:.3g} +- {stderr:.1g}")
        return "\n".join(lines)


def convergence_order(
    equation: Equation,
    scheme: Scheme,
    start: jax.Array,
    exact: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    *,
    duration: Scalar,
    key: jax.Array,
    steps: tuple[int, ...] = (8, 16, 32, 64, 128),
    paths: int = 1000,
    functions: Callable[[jax.Array], jax.Array] | None = None,
    reference: Scheme | None = None,
    finer: int = 16,
) -> ConvergenceOrder:
    r"""Measure the strong and the weak order of a scheme on an equation.

    .. math:: e_s(h) = \bigl(E|x_h - x|^2\bigr)^{1/2}, \qquad e_w(h) = \bigl|E[\varphi(x_h) - \varphi(x)]\bigr|

    at the end of the run, with every path of the noise shared by all step lengths and by the solution x.

    Parameters
    ----------
    equation : Equation
    scheme : Scheme
    start : array, shape (d,)
    exact : callable, optional
        ``exact(t, w)``: the solution at time t, for equations where it is a function of the noise w = W(t), shape (m,).
    duration : float, > 0
        Length of the run, in units of time.
    key : PRNG key
    steps : tuple of at least three int
        Numbers of steps. Each divides the largest.
    paths : int
    functions : callable, optional
        :math:`\varphi`, from a state to an array; by default the state and its squares.
    reference : Scheme, optional
        What solves the equation where there is no `exact`; by default the scheme itself.
    finer : int
        How many times finer the grid of the reference is than the finest measured one.

    Returns
    -------
    ConvergenceOrder

    Raises
    ------
    ValueError
        If there are fewer than three distinct numbers of steps, one does not divide the largest, or the equation does
        not fit.

    Notes
    -----
    Slopes are weighted least squares in logarithms. Levels share their paths, so their errors are correlated; the
    standard error accounts for that, to first order in what each path contributes. It says nothing of steps too long
    for the power law to hold. A scheme that is its own reference may converge to the wrong limit, and its slope is too
    large by a few hundredths; an `exact` solution or another scheme has neither fault. Runs on the host.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.sde import EulerMaruyama, Equation, Noise
    >>> growth = Equation(lambda t, x, _: 0.5 * x, lambda t, x, _: x, None, Noise.COMMUTATIVE)
    >>> order = convergence_order(growth, EulerMaruyama(), jnp.ones(1), lambda t, w: jnp.exp(w), duration=0.5,
    ...                           key=jax.random.key(0))
    >>> bool(abs(order.strong.slope - 0.5) < 0.1)
    True
    """
    check_positive(duration=duration)
    check_whole("paths", paths, 2)
    check_whole("finer", finer, 1)
    counts = tuple(sorted(set(steps)))
    for count in counts:
        check_whole("steps", count, 1)
    if len(counts) < 3 or any(counts[-1] % count for count in counts):
        raise ValueError(f"steps must be at least three numbers, each of which divides the largest, got {steps}")
    solver = None if exact is not None else (scheme if reference is None else reference)
    for user in (scheme, solver):
        if user is not None:
            user.check(equation)
    finest = counts[-1] * (1 if solver is None else finer)
    begin = jnp.asarray(start)
    square, weak = _errors(
        equation, scheme, solver, begin, duration, key, exact, functions or _moments, counts, finest, paths
    )
    lengths = float(duration) / np.asarray(counts, float)
    square, weak = np.asarray(square, float), np.asarray(weak, float)
    mean_square, mean = square.mean(0), weak.mean(0)
    norm_square = np.sum(mean**2, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        strong_law = _fit(lengths, np.sqrt(mean_square), (square / mean_square - 1) / 2)
        pulls = np.einsum("lf,plf->pl", mean, weak - mean) / norm_square
        weak_law = _fit(lengths, np.sqrt(norm_square), pulls)
    return ConvergenceOrder(lengths, strong_law, weak_law, paths, type(scheme).__name__)


def _moments(state):
    return jnp.concatenate([state, state**2])


@partial(jax.jit, static_argnums=(6, 7, 8, 9, 10))
def _errors(equation, scheme, solver, start, duration, key, exact, functions, counts, finest, paths):
    """Squared errors (paths, levels) of the final states, and errors of the functions (paths, levels, functions)."""
    users = [scheme] if solver is None else [scheme, solver]
    columns, areas = max(user.noises(equation, start) for user in users), any(user.areas for user in users)
    length = jnp.asarray(duration).astype(start.dtype)

    def one(key):
        path = brownian_path(key, finest, columns, length / finest, areas=areas)
        if solver is None:
            own = path.increments[:, : scheme.noises(equation, start)]
            truth = exact(length, jnp.sum(own, 0))
        else:
            truth = _end(equation, solver, start, path)
        ends = [_end(equation, scheme, start, path.coarsen(finest // count)) for count in counts]
        of_truth = jnp.ravel(functions(truth))
        return (
            jnp.stack([jnp.sum((end - truth) ** 2) for end in ends]),
            jnp.stack([jnp.ravel(functions(end)) - of_truth for end in ends]),
        )

    batch = min(paths, max(1, 2**20 // (finest * columns)))
    return jax.lax.map(one, jax.random.split(key, paths), batch_size=batch)


def _end(equation, scheme, start, path):
    columns = scheme.noises(equation, start)
    areas = path.areas[:, :columns] if scheme.areas else None
    return integrate(
        equation, scheme, start, BrownianPath(path.increments[:, :columns], areas, path.step), every=path.steps
    )[-1]


def _fit(lengths, errors, pulls):
    """Weighted slope of the logarithms, from what each path (first axis) adds to the logarithm of each error."""
    covariance = np.cov(pulls.T) / len(pulls)
    spread = np.sqrt(np.diagonal(covariance))
    known = np.isfinite(errors) & (errors > 0) & (spread < 1 / 3)
    if known.sum() < 3:
        return PowerLaw(np.nan, np.nan, errors, errors * spread)
    x, y = np.log(lengths[known]), np.log(errors[known])
    weights = 1 / np.maximum(spread[known], 1e-12) ** 2
    offset = x - np.average(x, weights=weights)
    coefficients = weights * offset / np.sum(weights * offset**2)
    stderr = np.sqrt(coefficients @ covariance[np.ix_(known, known)] @ coefficients)
    return PowerLaw(float(coefficients @ y), float(stderr), errors, errors * spread)


def _excess(scheme, equation, step, start):
    """What a step adds to the stacked state, as a function of state, increment and perhaps area; zeros for them."""
    vector, unravel = ravel_pytree(start)
    columns = scheme.noises(equation, start)
    h = jnp.asarray(step).astype(vector.dtype)
    prepared = scheme.prepare(equation, h)

    def excess(x, increment, area=None):
        new = scheme.step(equation, prepared, jnp.zeros((), x.dtype), unravel(x), h, increment, area)
        return ravel_pytree(new)[0] - x

    noise = jnp.zeros(columns, vector.dtype)
    return excess, (jnp.zeros_like(vector), noise, *([noise] if scheme.areas else []))
