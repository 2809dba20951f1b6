r"""Langevin dynamics with inertia: positions and momenta, any friction matrix, any temperature from zero upwards."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.operators import is_concrete

Force = Callable[[Any, Any, Any], Any]
"""From time, position and arguments to a force, in the shape of the position."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PhaseState:
    """A point of phase space: position and momentum, shape (d,) each. The momentum is at rest by default."""

    position: jax.Array
    momentum: jax.Array = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.momentum is None and hasattr(self.position, "dtype"):
            object.__setattr__(self, "momentum", jnp.zeros_like(self.position))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LangevinEquation:
    r"""Langevin dynamics in a potential U, given by its force :math:`f = -\nabla U`.

    .. math:: dx = M^{-1}p\,dt, \qquad
        dp = f(t, x, \theta)\,dt - \Gamma M^{-1}p\,dt + \sqrt{2T}\,\Gamma_s^{1/2}\,dW, \qquad
        \Gamma_s = (\Gamma + \Gamma^\top)/2

    Its stationary law has the density :math:`\exp[-(U(x) + p^\top M^{-1} p/2)/T]`, whatever the friction is, if the
    friction reaches every mode and the force does not depend on time.

    Parameters
    ----------
    force : callable
        ``force(t, x, args)``, of the shape and type of x. Pass the same function object again, and values through
        `args`, and nothing is compiled twice.
    args : pytree
        Parameters of the force.
    mass : float, array (d,) or array (d, d)
        M: a number, a diagonal, or a symmetric positive definite matrix.
    friction : float, array (d,) or array (d, d)
        :math:`\Gamma`: a number, a diagonal, or any matrix whose symmetric part is positive semi-definite; singular and
        not symmetric ones too. In units of mass over time.
    temperature : float, >= 0
        T, in units of energy (Boltzmann's constant is 1). At zero the flow is deterministic.

    Raises
    ------
    ValueError
        If a shape is wrong, a value is not finite, `mass` is not symmetric positive definite, the symmetric part of
        `friction` has a negative eigenvalue beyond rounding, or `temperature` is negative. Under ``jit`` values are not
        looked at; there an indefinite mass or friction and a negative temperature give NaN.

    Notes
    -----
    Numbers, in the type of the state, are all that is needed of the dimension: it is that of the state. Integrate with
    :class:`BAOAB`, :class:`OBABO` or :class:`UBU`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.sde import integrate, brownian_path
    >>> from thermolinalg.sde.splittings import BAOAB
    >>> well = LangevinEquation(lambda t, x, k: -k * x, 4.0, friction=0.5, temperature=0.1)
    >>> path = brownian_path(jax.random.key(0), 20_000, 3, 0.2)
    >>> states = integrate(well, BAOAB(), PhaseState(jnp.zeros(3)), path)
    >>> bool(jnp.abs(jnp.var(states.position[1000:]) - 0.1 / 4.0) < 0.003)
    True
    """

    force: Force = field(metadata={"static": True})
    args: Any = None
    mass: ArrayLike = 1.0
    friction: ArrayLike = 1.0
    temperature: ArrayLike = 1.0

    def __post_init__(self) -> None:
        for name in ("mass", "friction"):
            if isinstance(getattr(self, name), list | tuple):
                object.__setattr__(self, name, jnp.asarray(getattr(self, name)))
        given = {"mass": self.mass, "friction": self.friction, "temperature": self.temperature}
        if not all(isinstance(x, int | float | np.ndarray | np.generic | jax.Array) for x in given.values()):
            return  # a tree of something else, inside a transformation
        for name, value in given.items():
            _check_shape(name, jnp.shape(value))
            if is_concrete(value):
                _check_values(name, np.asarray(value))

    def check_state(self, start: Any) -> int:
        """Return the dimension of a state, and see that everything fits it.

        Raises
        ------
        ValueError
            If `start` is no :class:`PhaseState` of two vectors of one shape, or mass, friction or force are of another.
        """
        if not isinstance(start, PhaseState):
            raise ValueError(f"start must be a PhaseState(position, momentum), got {type(start).__name__}")
        shape = jnp.shape(start.position)
        if len(shape) != 1 or jnp.shape(start.momentum) != shape:
            raise ValueError(
                f"start must hold two vectors of one shape (d,), got position {shape} and momentum "
                f"{jnp.shape(start.momentum)}; use jax.vmap for several runs"
            )
        for name in ("mass", "friction"):
            found = jnp.shape(getattr(self, name))
            if found not in ((), shape, 2 * shape):
                raise ValueError(f"{name} must be a number or have shape {shape} or {2 * shape}, received {found}")
        state = jax.eval_shape(jnp.asarray, start.position)
        given = jax.eval_shape(self.force, jax.ShapeDtypeStruct((), state.dtype), state, self.args)
        if not isinstance(given, jax.ShapeDtypeStruct) or (given.shape, given.dtype) != (shape, state.dtype):
            raise ValueError(f"force must return {state.dtype} of shape {shape}, received {given}")
        return shape[0]


def _check_shape(name, shape):
    if len(shape) > (0 if name == "temperature" else 2) or (len(shape) == 2 and shape[0] != shape[1]) or 0 in shape:
        fits = "a single number" if name == "temperature" else "a number, a diagonal (d,) or a square matrix (d, d)"
        raise ValueError(f"{name} must be {fits}, got shape {shape}")


def _check_values(name, value):
    if np.iscomplexobj(value) or not np.isfinite(value).all():
        raise ValueError(f"{name} must be real and finite, got {value}")
    if value.ndim < 2:
        if value.min() < 0 or (name == "mass" and value.min() == 0):
            sign = "positive" if name == "mass" else "not negative"
            raise ValueError(f"{name} must be {sign}, got {value.min()}")
        return
    limit = 1e-4 if value.dtype == np.float32 else 1e-8
    if name == "mass" and np.abs(value - value.T).max() > limit * np.abs(value).max():
        raise ValueError("mass must be symmetric; pass (M + M.T) / 2 if that is what you mean")
    values = np.linalg.eigvalsh((value + value.T).astype(np.float64) / 2)
    if name == "mass" and values[0] <= 0:
        raise ValueError(f"mass must be positive definite, its smallest eigenvalue is {values[0]:.3g}")
    if values[0] < -limit * np.abs(value).max():
        raise ValueError(
            f"friction must have a positive semi-definite symmetric part, its smallest eigenvalue is {values[0]:.3g}: "
            "it would drive the motion, at no temperature"
        )
