"""A scheme for stiff linear parts: the linear part and its noise are exact."""

from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.operators import is_concrete
from thermolinalg.paths import root
from thermolinalg.sde.equations import Equation, Noise, noises
from thermolinalg.sde.scheme import Order, VectorScheme
from thermolinalg.transition import transition


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ExponentialEuler(VectorScheme):
    r"""The exponential Euler scheme, for additive noise and a drift with a stiff linear part, :math:`f = -Ax + \dots`.

    .. math:: x' = x + \Phi f(t, x) + \tfrac1h \Phi g \Delta W + R z, \qquad \Phi = \int_0^h e^{-As} ds, \quad
        RR^\top = \int_0^h e^{-As} gg^\top e^{-A^\top s} ds - \tfrac1h \Phi gg^\top \Phi^\top

    with :math:`z = \sqrt{12/h}\,H` standard normal. The first noise is what the increment tells about the noise of the
    step, the second what it does not: together they have its exact law. Where the drift is :math:`b - Ax`, so has the
    whole path, whatever the step.

    Strong and weak order: 1 and 1, with an error that does not contain `A`. No limit from `A`.

    Attributes
    ----------
    A : Array, shape (d, d)
        The linear part, with the sign of a rate: stable if its eigenvalues have positive real parts. The drift of the
        equation is the whole one, this part included.

    Notes
    -----
    The diffusion must depend on neither the state nor the time; two times are compared where values are known. A matrix
    exponential of size 2d and an ``eigh`` once per call, three products a step. It reads max(d, m) columns of the path.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.sde import Equation, brownian_path, integrate
    >>> A = jnp.array([[1.0, 0.0], [0.0, 1e6]])
    >>> stiff = Equation(lambda t, x, A: jnp.sin(x[::-1]) - A @ x, lambda t, x, A: jnp.ones_like(x), A, Noise.ADDITIVE)
    >>> path = brownian_path(jax.random.key(0), 100, 2, 0.1, areas=True)
    >>> bool(jnp.all(jnp.abs(integrate(stiff, ExponentialEuler(A), jnp.zeros(2), path)) < 10))
    True
    """

    A: jax.Array

    areas: ClassVar = True
    limit: ClassVar = inf
    orders: ClassVar = {Noise.ADDITIVE: Order(1.0, 1.0)}

    def noises(self, equation: Equation, start: Any) -> int:
        """Return the number of columns of the path: the larger of the numbers of noises and components."""
        columns = noises(equation, start)
        d = jnp.shape(start)[0]
        if jnp.shape(self.A) != (d, d) or jnp.asarray(self.A).dtype != jnp.asarray(start).dtype:
            found = f"{jnp.shape(self.A)} of {jnp.asarray(self.A).dtype}"
            raise ValueError(f"A must have shape {(d, d)} in the type of start, received {found}")
        early, late = (self._diffusion(equation, t) for t in (0.0, 1.0))
        if is_concrete(early) and is_concrete(late) and (np.asarray(early) != np.asarray(late)).any():
            raise ValueError("ExponentialEuler needs a diffusion that does not depend on time; use AdditiveRungeKutta")
        return max(columns, d)

    def prepare(self, equation: Equation, step: jax.Array) -> Any:
        """Return the integrated propagator, it applied to the diffusion per time, and the root of the rest."""
        d = len(self.A)
        g = self._diffusion(equation, 0.0)
        g = jnp.diag(g) if g.ndim == 1 else g
        zero = jnp.zeros_like(self.A)
        # Beside x a block c that stays and pushes: dx = (c - A x) dt, so that what c has done after h is the integral.
        drift = jnp.block([[self.A, -jnp.eye(d, dtype=zero.dtype)], [zero, zero]])
        exact = transition(drift, jnp.zeros_like(drift[0]), jnp.block([[g @ g.T, zero], [zero, zero]]), step)
        kept = exact.propagator[:d, d:]
        told = kept @ g / step
        return kept, told, root(exact.covariance[:d, :d] - step * told @ told.T) * jnp.sqrt(12 / step)

    def step(self, equation, prepared, t, state, step, increment, area):
        """Return the state a step later."""
        assert area is not None
        kept, told, rest = prepared
        moved = state + kept @ equation.drift(t, state, equation.args)
        return moved + told @ increment[: told.shape[1]] + rest @ area[: len(state)]

    def _diffusion(self, equation, t):
        return equation.diffusion(jnp.asarray(t, self.A.dtype), jnp.zeros_like(self.A[0]), equation.args)
