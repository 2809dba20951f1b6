"""Explicit schemes that read increments alone: Euler-Maruyama, Heun, and the two of Milstein."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from thermolinalg.sde.equations import Calculus, Noise, correction, push
from thermolinalg.sde.scheme import Order, VectorScheme


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EulerMaruyama(VectorScheme):
    r"""The Euler-Maruyama scheme, for Ito equations with any noise.

    .. math:: x' = x + h f(t, x) + g(t, x) \Delta W

    Strong and weak order: additive noise 1 and 1, commutative and general noise 1/2 and 1. A relaxing mode needs
    :math:`h \lambda < 2`, and its stationary variance is then too large by the factor :math:`2/(2 - h\lambda)`.

    References
    ----------
    Kloeden and Platen, *Numerical Solution of Stochastic Differential Equations*, 1992, section 10.2.
    """

    orders: ClassVar = {
        Noise.ADDITIVE: Order(1.0, 1.0),
        Noise.COMMUTATIVE: Order(0.5, 1.0),
        Noise.GENERAL: Order(0.5, 1.0),
    }

    def step(self, equation, prepared, t, state, step, increment, area):
        """Return the state a step later."""
        return _euler(equation, t, state, step, increment)[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Heun(VectorScheme):
    r"""The stochastic Heun scheme, for Stratonovich equations with any noise.

    .. math:: y = x + h f(t, x) + g(t, x)\Delta W, \qquad
        x' = x + \tfrac h2 [f(t, x) + f(t + h, y)] + \tfrac12 [g(t, x) + g(t + h, y)] \Delta W

    Strong and weak order: additive noise 1 and 2, commutative noise 1 and 1, general noise 1/2 and 1. A relaxing mode
    needs :math:`h \lambda < 2`.

    References
    ----------
    Ruemelin, *Numerical treatment of stochastic differential equations*, SIAM J. Numer. Anal. 19 (1982).
    """

    calculus: ClassVar = Calculus.STRATONOVICH
    orders: ClassVar = {
        Noise.ADDITIVE: Order(1.0, 2.0),
        Noise.COMMUTATIVE: Order(1.0, 1.0),
        Noise.GENERAL: Order(0.5, 1.0),
    }

    def step(self, equation, prepared, t, state, step, increment, area):
        """Return the state a step later."""

        def move(t, x):
            drift, diffusion = equation.drift(t, x, equation.args), equation.diffusion(t, x, equation.args)
            return step * drift + push(diffusion, increment)

        first = move(t, state)
        return state + (first + move(t + step, state + first)) / 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Milstein(VectorScheme):
    r"""The scheme of Milstein, for Ito equations with commutative noise.

    .. math:: x' = x + h f + g \Delta W + \tfrac12 \sum_{ij} (Dg_j) g_i\, (\Delta W_i \Delta W_j - h \delta_{ij})

    Strong and weak order: additive and commutative noise 1 and 1. A relaxing mode needs :math:`h \lambda < 2`.

    Notes
    -----
    The derivatives are directional ones: one for a diffusion of shape (d,), m + 1 for (d, m). General noise would need
    the areas that two noises span; it is refused.

    References
    ----------
    Kloeden and Platen, *Numerical Solution of Stochastic Differential Equations*, 1992, section 10.3.
    """

    orders: ClassVar = {Noise.ADDITIVE: Order(1.0, 1.0), Noise.COMMUTATIVE: Order(1.0, 1.0)}

    def step(self, equation, prepared, t, state, step, increment, area):
        """Return the state a step later."""
        moved, g, diffusion = _euler(equation, t, state, step, increment)
        if equation.noise is Noise.ADDITIVE:
            return moved
        if g.ndim == 1:
            return moved + jax.jvp(diffusion, (state,), (g,))[1] * (increment**2 - step) / 2
        turn = jax.jvp(diffusion, (state,), (push(g, increment),))[1]
        return moved + (push(turn, increment) - step * correction(diffusion, state, equation.noise)) / 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StratonovichMilstein(VectorScheme):
    r"""The scheme of Milstein, for Stratonovich equations with commutative noise.

    .. math:: x' = x + h f + g \Delta W + \tfrac12 \sum_{ij} (Dg_j) g_i\, \Delta W_i \Delta W_j

    Strong and weak order: additive and commutative noise 1 and 1. A relaxing mode needs :math:`h \lambda < 2`. One
    directional derivative a step, however many noises.

    References
    ----------
    Kloeden and Platen, *Numerical Solution of Stochastic Differential Equations*, 1992, section 10.3.
    """

    calculus: ClassVar = Calculus.STRATONOVICH
    orders: ClassVar = {Noise.ADDITIVE: Order(1.0, 1.0), Noise.COMMUTATIVE: Order(1.0, 1.0)}

    def step(self, equation, prepared, t, state, step, increment, area):
        """Return the state a step later."""
        moved, g, diffusion = _euler(equation, t, state, step, increment)
        if equation.noise is Noise.ADDITIVE:
            return moved
        return moved + push(jax.jvp(diffusion, (state,), (push(g, increment),))[1], increment) / 2


def _euler(equation, t, state, step, increment):
    """The step of Euler and Maruyama, and the diffusion as an array and as a function of the state."""

    def diffusion(x):
        return equation.diffusion(t, x, equation.args)

    g = diffusion(state)
    return state + step * equation.drift(t, state, equation.args) + push(g, increment), g, diffusion
