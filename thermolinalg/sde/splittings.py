r"""Langevin integrators that are made of exact flows: drift (A), kick (B), friction with noise (O), and A with O (U).

Friction and noise are exact whatever the step is; only their interplay with the force is approximated.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from thermolinalg.paths import root
from thermolinalg.relaxation import phi1
from thermolinalg.sde.langevin import LangevinEquation, PhaseState
from thermolinalg.transition import transition


class _Friction(NamedTuple):
    r"""The O step :math:`p \mapsto Ep + Cz`; each a number, a diagonal or a matrix."""

    decay: jax.Array
    noise: jax.Array


class _Glide(NamedTuple):
    """The U step of independent components: what decays, how far a momentum carries, and the joint noise."""

    decay: jax.Array
    reach: jax.Array
    momentum: jax.Array
    along: jax.Array
    across: jax.Array


class _Flow(NamedTuple):
    """The U step as a map (2d, 2d) of position and momentum, with the root of the covariance of its noise."""

    propagator: jax.Array
    noise: jax.Array


class _Splitting:
    """What the splittings have in common."""

    areas: ClassVar[bool] = False
    limit: ClassVar[float] = 2.0
    normals: ClassVar[int] = 1

    def check(self, equation: Any) -> None:
        """Raise a ``ValueError`` if the equation is not a Langevin equation."""
        if not isinstance(equation, LangevinEquation):
            raise ValueError(
                f"{type(self).__name__} needs a LangevinEquation, got {type(equation).__name__}; use EulerMaruyama or "
                "another general scheme for that"
            )

    def noises(self, equation: LangevinEquation, start: Any) -> int:
        """Return the number of columns of the Brownian path that it reads: d for each independent noise."""
        return self.normals * equation.check_state(start)

    def _draws(self, step, increment):
        return jnp.split(increment / jnp.sqrt(step), self.normals)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BAOAB(_Splitting):
    r"""The splitting BAOAB: exact positions in a quadratic potential.

    .. math:: B_{h/2}\,A_{h/2}\,O_h\,A_{h/2}\,B_{h/2}, \quad A_t: x \mathrel{+}= tM^{-1}p, \quad
        B_t: p \mathrel{+}= tf(x), \quad O_t: p \mapsto Ep + Cz,

    with :math:`E = e^{-\Gamma M^{-1}t}`, :math:`CC^\top = T(M - EME^\top)` and standard normal z, for

    .. math:: dx = M^{-1}p\,dt, \quad dp = f\,dt - \Gamma M^{-1}p\,dt + \sqrt{2T}\,\Gamma_s^{1/2}\,dW.

    Notes
    -----
    Weak order 2. Stable for :math:`h^2\lambda_{\max}(M^{-1}K) < 4` in the potential :math:`x^\top Kx/2`, where the
    stationary covariances are :math:`TK^{-1}` of positions, exactly, and :math:`T(M - h^2K/4)` of momenta: measure
    temperature by positions. Two forces a step. E and C are computed once; no exponential of a matrix where mass and
    friction are numbers or diagonals.

    References
    ----------
    B. Leimkuhler, C. Matthews, *Rational construction of stochastic numerical methods for molecular sampling*, Appl.
    Math. Res. Express (2013).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.sde import accumulate
    >>> from thermolinalg.sde.langevin import LangevinEquation, PhaseState
    >>> K = jnp.array([[2.0, 1.0], [1.0, 2.0]])
    >>> chain = LangevinEquation(lambda t, x, K: -K @ x, K, friction=jnp.array([[1.0, 0.5], [-0.5, 0.0]]))
    >>> start, square = PhaseState(jnp.zeros(2)), lambda x: x[:, None] * x[None]
    >>> _, total = accumulate(chain, BAOAB(), start, jax.random.key(0), step=0.5, steps=40_000,
    ...                       observe=lambda total, t, z: total + square(z.position), carry=jnp.zeros((2, 2)))
    >>> bool(jnp.allclose(total / 40_000, jnp.linalg.inv(K), atol=0.05))
    True
    """

    def prepare(self, equation: LangevinEquation, step: jax.Array) -> Any:
        """Return the friction of a whole step, and what divides by the mass."""
        return _friction(equation, step), _mass(equation, step)

    def step(self, equation, prepared, t, state, step, increment, area):
        """Return the state a step later."""
        friction, mass = prepared
        (z,) = self._draws(step, increment)
        half, args = step / 2, equation.args
        p = state.momentum + half * equation.force(t, state.position, args)
        x = state.position + half * _divide(mass, p)
        p = _rub(friction, p, z)
        x = x + half * _divide(mass, p)
        return PhaseState(x, p + half * equation.force(t + step, x, args))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OBABO(_Splitting):
    r"""The splitting OBABO: exact momenta in a quadratic potential.

    .. math:: O_{h/2}\,B_{h/2}\,A_h\,B_{h/2}\,O_{h/2},

    the velocity Verlet step between two halves of the friction, with A, B, O and the equation of :class:`BAOAB`.

    Notes
    -----
    Weak order 2. Stable for :math:`h^2\lambda_{\max}(M^{-1}K) < 4` in the potential :math:`x^\top Kx/2`, where the
    stationary covariances are :math:`T(K - h^2KM^{-1}K/4)^{-1}` of positions and :math:`TM`, exactly, of momenta. Two
    forces and two independent noises a step.

    References
    ----------
    G. Bussi, M. Parrinello, *Accurate sampling using Langevin dynamics*, Phys. Rev. E 75 (2007).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.sde import brownian_path, integrate
    >>> from thermolinalg.sde.langevin import LangevinEquation, PhaseState
    >>> well = LangevinEquation(lambda t, x, _: -x, temperature=0.0)
    >>> path = brownian_path(jax.random.key(0), 400, 2 * 1, 0.05)
    >>> states = integrate(well, OBABO(), PhaseState(jnp.ones(1)), path)
    >>> bool(jnp.abs(states.position[-1, 0]) < 1e-3)    # without temperature it comes to rest
    True
    """

    normals: ClassVar[int] = 2

    def prepare(self, equation: LangevinEquation, step: jax.Array) -> Any:
        """Return the friction of half a step, and what divides by the mass."""
        return _friction(equation, step / 2), _mass(equation, step)

    def step(self, equation, prepared, t, state, step, increment, area):
        """Return the state a step later."""
        friction, mass = prepared
        first, second = self._draws(step, increment)
        half, args = step / 2, equation.args
        p = _rub(friction, state.momentum, first) + half * equation.force(t, state.position, args)
        x = state.position + step * _divide(mass, p)
        p = p + half * equation.force(t + step, x, args)
        return PhaseState(x, _rub(friction, p, second))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UBU(_Splitting):
    r"""The splitting UBU: exact without force, and one force a step.

    .. math:: U_{h/2}\,B_h\,U_{h/2},

    with U the exact flow of drift, friction and noise together, whose noise of position and momentum is jointly
    Gaussian, and the equation of :class:`BAOAB`.

    Notes
    -----
    Weak order 2. Stable for :math:`h^2\lambda_{\max}(M^{-1}K) < 4` in the potential :math:`x^\top Kx/2`, where the
    stationary covariances of positions and momenta are off by :math:`O(h^2)`, and correlated by as much. Four
    independent noises a step. The force is taken at the middle of the step.

    References
    ----------
    J. Sanz-Serna, K. Zygalakis, *Wasserstein distance estimates for the distributions of numerical approximations to
    ergodic stochastic differential equations*, J. Mach. Learn. Res. 22 (2021).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.sde import brownian_path, integrate
    >>> from thermolinalg.sde.langevin import LangevinEquation, PhaseState
    >>> free = LangevinEquation(lambda t, x, _: jnp.zeros_like(x), friction=2.0, temperature=0.0)
    >>> path = brownian_path(jax.random.key(0), 10, 4 * 1, 1.0)
    >>> states = integrate(free, UBU(), PhaseState(jnp.zeros(1), jnp.ones(1)), path)
    >>> bool(jnp.allclose(states.position[-1], (1 - jnp.exp(-20.0)) / 2))    # p / friction
    True
    """

    normals: ClassVar[int] = 4

    def prepare(self, equation: LangevinEquation, step: jax.Array) -> Any:
        """Return the flow without force of half a step."""
        return _unforced(equation, step / 2)

    def step(self, equation, prepared, t, state, step, increment, area):
        """Return the state a step later."""
        z = self._draws(step, increment)
        x, p = _coast(prepared, state.position, state.momentum, z[0], z[1])
        p = p + step * equation.force(t + step / 2, x, equation.args)
        return PhaseState(*_coast(prepared, x, p, z[2], z[3]))


def _friction(equation: LangevinEquation, time: jax.Array) -> _Friction:
    """The O step of a time."""
    mass, friction, spread = _coefficients(equation, time)
    if mass.ndim < 2 and friction.ndim < 2:
        z = friction / mass * time
        return _Friction(jnp.exp(-z), spread * jnp.sqrt(-jnp.expm1(-2 * z) * mass))
    rate, noise = _as_matrices(mass, friction)[1:]
    flow = transition(rate, jnp.zeros_like(rate[0]), noise, time)
    return _Friction(flow.propagator, spread * root(flow.covariance))


def _unforced(equation: LangevinEquation, time: jax.Array) -> _Glide | _Flow:
    """The U step of a time."""
    mass, friction, spread = _coefficients(equation, time)
    if mass.ndim < 2 and friction.ndim < 2:
        z = friction / mass * time
        unit = spread * jnp.sqrt(-jnp.expm1(-2 * z) * mass)
        # Of the noise of the position, `along` is what the noise of the momentum tells, and `across` the rest.
        size, reach = spread * time / jnp.sqrt(mass), time * phi1(z)
        along = size * phi1(z) * jnp.sqrt(jnp.tanh(z / 2))
        return _Glide(jnp.exp(-z), reach / mass, unit, along, size * jnp.sqrt(z * _bend(z)))
    inverse, rate, noise = _as_matrices(mass, friction)
    zero = jnp.zeros_like(rate)
    flow = transition(
        jnp.block([[zero, -inverse], [zero, rate]]),
        jnp.zeros(2 * rate.shape[0], rate.dtype),
        jnp.block([[zero, zero], [zero, noise]]),
        time,
    )
    return _Flow(flow.propagator, spread * root(flow.covariance))


def _bend(z):
    r""":math:`2(z - 2\tanh(z/2))/z^3`, 1/6 at zero, by the continued fraction of tanh where the difference is small."""
    y = z / 2
    small = jnp.where(y < 1, y, 0) ** 2
    fraction = jnp.full_like(small, 19.0)
    for odd in range(17, 1, -2):
        fraction = odd + small / fraction
    large = jnp.where(y < 1, 1, y)
    return jnp.where(y < 1, 1 / (2 * (fraction + small)), (large - jnp.tanh(large)) / (2 * large**3))


def _coefficients(equation, time):
    """Mass and friction in the type of the state, and the square root of the temperature; NaN for what cannot be."""
    mass, friction, temperature = (
        jnp.asarray(x).astype(time.dtype) for x in (equation.mass, equation.friction, equation.temperature)
    )
    if mass.ndim < 2:
        mass = jnp.where(mass > 0, mass, jnp.nan)
    return mass, friction, jnp.sqrt(temperature)


def _as_matrices(mass, friction):
    r""":math:`M^{-1}`, :math:`\Gamma M^{-1}` and :math:`2\Gamma_s`, as matrices."""
    d = (mass.shape or friction.shape)[0]
    if friction.ndim < 2:
        friction = jnp.diag(jnp.broadcast_to(friction, (d,)))
    noise = friction + friction.T
    low, high = jnp.linalg.eigvalsh(noise)[jnp.array([0, -1])]
    slack = jnp.sqrt(jnp.finfo(noise.dtype).eps)
    noise = jnp.where(low >= -slack * jnp.maximum(high, jnp.max(jnp.abs(friction))), noise, jnp.nan)
    if mass.ndim < 2:
        mass = jnp.broadcast_to(mass, (d,))
        return jnp.diag(1 / mass), friction / mass[None], noise
    factor = (jnp.linalg.cholesky(mass), True)
    return cho_solve(factor, jnp.eye(d, dtype=mass.dtype)), cho_solve(factor, friction.T).T, noise


def _mass(equation, step):
    """The mass as what divides by it: a number, a diagonal, or the Cholesky factor of a matrix."""
    mass = _coefficients(equation, step)[0]
    return jnp.linalg.cholesky(mass) if mass.ndim == 2 else mass


def _divide(mass, p):
    return cho_solve((mass, True), p) if mass.ndim == 2 else p / mass


def _rub(friction, p, z):
    if friction.decay.ndim == 2:
        return friction.decay @ p + friction.noise @ z
    return friction.decay * p + friction.noise * z


def _coast(flow, x, p, first, second):
    if isinstance(flow, _Flow):
        both = flow.propagator @ jnp.concatenate([x, p]) + flow.noise @ jnp.concatenate([first, second])
        return jnp.split(both, 2)
    moved = x + flow.reach * p + flow.along * first + flow.across * second
    return moved, flow.decay * p + flow.momentum * first
