"""What a scheme is: one step of an equation, for a given increment of the noise."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax

from thermolinalg.sde.equations import Calculus, Equation, Noise, noises


class Order(NamedTuple):
    r"""Powers of the step with which errors fall, per unit of time: of a path, and of a mean over paths.

    Strong: :math:`E|x_h - x| = O(h^{\mathtt{strong}})`. Weak: :math:`E\varphi(x_h) - E\varphi(x) =
    O(h^{\mathtt{weak}})` for smooth functions. Both for smooth coefficients.
    """

    strong: float
    weak: float


class Scheme(Protocol):
    """One step of an integrator. Schemes are frozen dataclasses registered as pytrees."""

    @property
    def areas(self) -> bool:
        """Whether it reads the space-time areas of the path."""

    @property
    def limit(self) -> float:
        """Largest step times the rate of a relaxing mode, ``dx = -rate x dt``, for which the mode does not grow."""

    def check(self, equation: Equation) -> None:
        """Raise a ``ValueError`` that says why the equation does not fit, and what to do."""

    def noises(self, equation: Equation, start: Any) -> int:
        """Return the number of columns of the Brownian path that it reads."""

    def prepare(self, equation: Equation, step: jax.Array) -> Any:
        """Return what is to be computed once for a length of the step, such as a matrix exponential, or None."""

    def step(
        self,
        equation: Equation,
        prepared: Any,
        t: jax.Array,
        state: Any,
        step: jax.Array,
        increment: jax.Array,
        area: jax.Array | None,
    ) -> Any:
        """Return the state a step later; `area` is None unless the scheme reads areas."""


class VectorScheme:
    """What schemes for states of one vector, shape (d,), have in common.

    Attributes
    ----------
    calculus : Calculus
        In which it reads an equation. Additive noise is the same in both.
    orders : mapping from Noise to Order
        The noise it is made for, and what it reaches there.
    """

    areas: ClassVar[bool] = False
    limit: ClassVar[float] = 2.0
    calculus: ClassVar[Calculus] = Calculus.ITO
    orders: ClassVar[Mapping[Noise, Order]] = {}

    def check(self, equation: Equation) -> None:
        """Raise a ``ValueError`` if noise or calculus of the equation are not what the scheme is made for."""
        name = type(self).__name__
        if equation.noise not in self.orders:
            fits = " or ".join(kind.value for kind in self.orders)
            raise ValueError(
                f"{name} needs {fits} noise, got an equation with {equation.noise.value} noise; take a scheme for it "
                "(EulerMaruyama or WeakSecondOrder; Heun in Stratonovich calculus), or say noise=... if it has less"
            )
        if equation.calculus is not self.calculus and equation.noise is not Noise.ADDITIVE:
            convert = "to_ito" if self.calculus is Calculus.ITO else "to_stratonovich"
            raise ValueError(
                f"{name} reads {self.calculus.value} equations, got a {equation.calculus.value} one; convert it with "
                f"{convert}(equation)"
            )

    def noises(self, equation: Equation, start: Any) -> int:
        """Return the number of noises of the equation."""
        return noises(equation, start)

    def prepare(self, equation: Equation, step: jax.Array) -> Any:
        """Nothing to prepare."""
        return None
