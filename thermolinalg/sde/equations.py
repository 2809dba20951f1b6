r"""Stochastic differential equations: a drift, a diffusion, and the calculus in which they are meant.

The two calculi describe one process by different drifts, which :func:`to_ito` and :func:`to_stratonovich` convert.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp

Coefficient = Callable[[jax.Array, Any, Any], Any]
"""From time, state and arguments to a drift or a diffusion."""


class Noise(Enum):
    """How the diffusion depends on the state, which decides what order a scheme can reach.

    With the columns :math:`g_j` of the diffusion and :math:`L_j = g_j\\cdot\\nabla`: additive noise does not depend on
    the state; commutative noise has :math:`L_i g_j = L_j g_i`; general noise is any.
    """

    ADDITIVE = "additive"
    COMMUTATIVE = "commutative"
    GENERAL = "general"


class Calculus(Enum):
    """Where in a short step the diffusion is taken: at its beginning (Ito) or in its middle (Stratonovich)."""

    ITO = "Ito"
    STRATONOVICH = "Stratonovich"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Equation:
    r"""A stochastic differential equation.

    .. math:: dx = f(t, x, \theta)\,dt + g(t, x, \theta)\,dW

    Attributes
    ----------
    drift : callable
        ``drift(t, x, args)``, in the shape of x.
    diffusion : callable
        ``diffusion(t, x, args)``, shape (d,) for independent noise on every component, or (d, m) for m noises.
    args : pytree
        Parameters of both, which may be differentiated.
    noise : Noise
        What is known of the diffusion; it is not checked. A diffusion of shape (d,) whose entry i depends on component
        i alone is commutative.
    calculus : Calculus

    Notes
    -----
    Coefficients are identified by the functions themselves: pass the same function objects again, and values through
    `args`, and nothing is compiled twice. States are real.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> growth = Equation(lambda t, x, a: a[0] * x, lambda t, x, a: a[1] * x, (0.05, 0.2), Noise.COMMUTATIVE)
    >>> drift = to_stratonovich(growth).drift(0.0, jnp.ones(1), growth.args)
    >>> bool(jnp.isclose(drift[0], 0.05 - 0.2**2 / 2))
    True
    """

    drift: Coefficient = field(metadata={"static": True})
    diffusion: Coefficient = field(metadata={"static": True})
    args: Any = None
    noise: Noise = field(default=Noise.GENERAL, metadata={"static": True})
    calculus: Calculus = field(default=Calculus.ITO, metadata={"static": True})


def to_ito(equation: Equation) -> Equation:
    r"""Return the same process as an Ito equation.

    .. math:: f_I = f_S + \tfrac12 \sum_j (Dg_j) g_j

    Parameters
    ----------
    equation : Equation
        In either calculus; an Ito equation is returned as it is.

    Notes
    -----
    The correction takes one directional derivative of the diffusion for diagonal commutative noise, m of them
    otherwise, and none for additive noise, whose drift is the same in both.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> still = Equation(lambda t, x, a: 0 * x, lambda t, x, a: x, None, Noise.COMMUTATIVE, Calculus.STRATONOVICH)
    >>> float(to_ito(still).drift(0.0, jnp.ones(1), None)[0])
    0.5
    """
    return _convert(equation, Calculus.ITO, 0.5)


def to_stratonovich(equation: Equation) -> Equation:
    r"""Return the same process as a Stratonovich equation.

    .. math:: f_S = f_I - \tfrac12 \sum_j (Dg_j) g_j

    Parameters
    ----------
    equation : Equation
        In either calculus; a Stratonovich equation is returned as it is.

    Notes
    -----
    See :func:`to_ito`, of which this is the inverse: going there and back returns the first drift itself.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> ito = Equation(lambda t, x, a: x, lambda t, x, a: x, None, Noise.COMMUTATIVE)
    >>> float(to_stratonovich(ito).drift(0.0, jnp.ones(1), None)[0])
    0.5
    """
    return _convert(equation, Calculus.STRATONOVICH, -0.5)


@dataclass(frozen=True)
class _Corrected:
    """A drift and a multiple of the correction; equal for equal parts, so that converting again compiles nothing."""

    drift: Coefficient
    diffusion: Coefficient
    noise: Noise
    factor: float

    def __call__(self, t, x, args):
        extra = correction(lambda y: self.diffusion(t, y, args), x, self.noise)
        return jax.tree.map(lambda f, c: f + self.factor * c, self.drift(t, x, args), extra)


def _convert(equation, calculus, factor):
    if equation.calculus is calculus:
        return equation
    drift = equation.drift
    if isinstance(drift, _Corrected) and drift.diffusion is equation.diffusion and drift.factor == -factor:
        drift = drift.drift
    elif equation.noise is not Noise.ADDITIVE:
        drift = _Corrected(drift, equation.diffusion, equation.noise, factor)
    return replace(equation, drift=drift, calculus=calculus)


def correction(diffusion: Callable[[jax.Array], jax.Array], x: jax.Array, noise: Noise) -> jax.Array:
    r"""Return :math:`\sum_j (Dg_j) g_j` at `x`, shape (d,), for a diffusion of the state alone."""
    g = diffusion(x)
    if noise is Noise.ADDITIVE:
        return jnp.zeros_like(x)
    if g.ndim == 1 and noise is Noise.COMMUTATIVE:
        # Where a column moves another, commuting demands that it vanish: one direction serves all components.
        return jax.jvp(diffusion, (x,), (g,))[1]
    if g.ndim == 1:
        moves = jax.vmap(lambda way: jax.jvp(diffusion, (x,), (way,))[1])(jnp.diag(g))
        return jnp.diagonal(moves)
    moves = jax.vmap(lambda way: jax.jvp(diffusion, (x,), (way,))[1])(g.T)
    return jnp.einsum("jij->i", moves)


def push(diffusion: jax.Array, increment: jax.Array) -> jax.Array:
    """Return what the noise of a step adds to the state: the diffusion, (d,) or (d, m), times an increment."""
    return diffusion * increment if diffusion.ndim == 1 else diffusion @ increment


def noises(equation: Equation, start: Any, t0: Any = 0.0) -> int:
    """Return the number of noises of an equation, and see that its parts have shapes that fit a state (d,).

    Raises
    ------
    ValueError
        If the state is not one vector, or drift or diffusion return something of another shape.
    """
    leaves = jax.tree.leaves(start)
    if len(leaves) != 1 or jnp.ndim(leaves[0]) != 1:
        shapes = [jnp.shape(leaf) for leaf in leaves]
        raise ValueError(f"start must be one vector of shape (d,), got shapes {shapes}; use jax.vmap for several runs")
    state = jax.eval_shape(lambda x: x, start)
    time = jax.ShapeDtypeStruct((), state.dtype)
    drift = _shape(equation.drift, "drift", time, state, equation.args)
    diffusion = _shape(equation.diffusion, "diffusion", time, state, equation.args)
    if drift.shape != state.shape:
        raise ValueError(f"drift must return the shape of the state, expected {state.shape}, received {drift.shape}")
    if diffusion.ndim not in (1, 2) or diffusion.shape[0] != state.shape[0]:
        d = state.shape[0]
        raise ValueError(f"diffusion must return shape ({d},) or ({d}, m), received {diffusion.shape}")
    for name, found in (("drift", drift), ("diffusion", diffusion)):
        if found.dtype != state.dtype:
            raise ValueError(
                f"{name} must return the type of the state, expected {state.dtype}, received {found.dtype}"
            )
    return diffusion.shape[-1]


def _shape(function, name, *arguments):
    found = jax.eval_shape(function, *arguments)
    if not isinstance(found, jax.ShapeDtypeStruct):
        raise ValueError(f"{name} must return one array, received {type(found).__name__}")
    return found
