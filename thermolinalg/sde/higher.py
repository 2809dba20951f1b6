"""Schemes of higher order, which read the space-time areas too: one for paths, one for means."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from thermolinalg.sde.equations import Noise, push
from thermolinalg.sde.scheme import Order, VectorScheme


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AdditiveRungeKutta(VectorScheme):
    r"""The scheme SRA1 of Roessler, for additive noise.

    .. math:: y = x + \tfrac34 h f(t, x) + \tfrac32\, g(t + h)\,(\tfrac12 \Delta W + H), \qquad
        x' = x + h\,[\tfrac13 f(t, x) + \tfrac23 f(t + \tfrac34 h, y)] + g(t + h) \Delta W
        + [g(t) - g(t + h)]\,(\tfrac12 \Delta W + H)

    Strong and weak order: 3/2 and 2. A relaxing mode needs :math:`h \lambda < 2`.

    Notes
    -----
    Two drifts a step, as :class:`Heun`, for half an order more in every path: the choice for additive noise.

    References
    ----------
    Roessler, *Runge-Kutta methods for the strong approximation of solutions of stochastic differential equations*, SIAM
    J. Numer. Anal. 48 (2010).
    """

    areas: ClassVar = True
    orders: ClassVar = {Noise.ADDITIVE: Order(1.5, 2.0)}

    def step(self, equation, prepared, t, state, step, increment, area):
        """Return the state a step later."""
        assert area is not None
        mean = increment / 2 + area  # of W over the step, from its beginning
        before, after = (equation.diffusion(s, state, equation.args) for s in (t, t + step))
        first = equation.drift(t, state, equation.args)
        between = state + 0.75 * step * first + 1.5 * push(after, mean)
        second = equation.drift(t + 0.75 * step, between, equation.args)
        return state + step * (first + 2 * second) / 3 + push(after, increment) + push(before - after, mean)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WeakSecondOrder(VectorScheme):
    r"""The explicit scheme of Platen of weak order 2, for Ito equations with any noise.

    .. math:: x' = x &+ \tfrac h2 [f(x) + f(y)] + \tfrac14 \sum_j \Bigl\{ [g_j(r_j^+) + g_j(r_j^-) + 2 g_j] \Delta W_j
        + \sum_{i \ne j} [g_j(u_i^+) + g_j(u_i^-) - 2 g_j] \Delta W_j \\
        &+ \tfrac1{\sqrt h} [g_j(r_j^+) - g_j(r_j^-)] (\Delta W_j^2 - h)
        + \tfrac1{\sqrt h} \sum_{i \ne j} [g_j(u_i^+) - g_j(u_i^-)] (\Delta W_i \Delta W_j + V_{ij}) \Bigr\}

    with :math:`y = x + hf + g\Delta W`, :math:`r_j^\pm = x + hf \pm \sqrt h\,g_j`, :math:`u_j^\pm = x \pm \sqrt h\,g_j`
    and :math:`V_{ij} = -V_{ji} = \pm h` with equal probability.

    Strong and weak order: additive and commutative noise 1 and 2, general noise 1/2 and 2. A relaxing mode needs
    :math:`h \lambda < 2`.

    Notes
    -----
    The signs of V are products of the signs of the space-time areas of i and j: pairwise uncorrelated, which is all
    that weak order 2 asks. Without derivatives; 4m + 1 diffusions of shape (d, m) a step, three where the noise is
    diagonal and commutative, two where it is additive.

    References
    ----------
    Kloeden and Platen, *Numerical Solution of Stochastic Differential Equations*, 1992, section 15.1.
    """

    areas: ClassVar = True
    orders: ClassVar = {
        Noise.ADDITIVE: Order(1.0, 2.0),
        Noise.COMMUTATIVE: Order(1.0, 2.0),
        Noise.GENERAL: Order(0.5, 2.0),
    }

    def step(self, equation, prepared, t, state, step, increment, area):
        """Return the state a step later."""

        def diffusion(t, x):
            return equation.diffusion(t, x, equation.args)

        later, root = t + step, jnp.sqrt(step)
        drift, g = equation.drift(t, state, equation.args), diffusion(t, state)
        ahead = state + step * drift
        moved = state + step * (drift + equation.drift(later, ahead + push(g, increment), equation.args)) / 2
        if equation.noise is Noise.ADDITIVE:
            return moved + push(g + diffusion(later, state), increment) / 2
        if g.ndim == 1 and equation.noise is Noise.COMMUTATIVE:
            # Entry i depends on component i alone: no noise acts on the column of another, and one shift serves all.
            up, down = diffusion(later, ahead + root * g), diffusion(later, ahead - root * g)
            return moved + ((up + down + 2 * g) * increment + (up - down) * (increment**2 - step) / root) / 4

        def matrices(t, points):
            found = jax.vmap(lambda x: diffusion(t, x))(points)
            return found if found.ndim == 3 else jax.vmap(jnp.diag)(found)

        g = g if g.ndim == 2 else jnp.diag(g)
        ways = root * g.T
        up, down = (jnp.einsum("jij->ij", matrices(later, ahead[None] + s * ways)) for s in (1, -1))
        own = (up + down + 2 * g) @ increment + (up - down) @ (increment**2 - step) / root
        plus, minus = matrices(t, state[None] + ways), matrices(t, state[None] - ways)
        others = 1 - jnp.eye(len(increment), dtype=step.dtype)
        products = increment[:, None] * increment[None] + step * _signs(area)
        bend = jnp.einsum("rij,rj->i", plus + minus - 2 * g[None], others * increment[None])
        turn = jnp.einsum("rij,rj->i", plus - minus, others * products) / root
        return moved + (own + bend + turn) / 4


def _signs(area):
    """Antisymmetric signs (m, m), pairwise uncorrelated above the diagonal."""
    sign = jnp.where(area < 0, -1, 1).astype(area.dtype)
    order = jnp.arange(len(area))
    return sign[:, None] * sign[None] * jnp.sign(order[None] - order[:, None]).astype(area.dtype)
