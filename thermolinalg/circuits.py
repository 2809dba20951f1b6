"""Cells of resistors, inductors and capacitors, and the equations of the library that they obey."""

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.capacitances import as_real_symmetric
from thermolinalg.capacitances import couplings_of as couplings_of
from thermolinalg.capacitances import maxwell_matrix as maxwell_matrix
from thermolinalg.dynamics import Overdamped, Underdamped
from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.ranges import check_positive

BOLTZMANN = 1.380649e-23
"""Boltzmann constant, J/K, exact in the SI."""


class _Cell:
    """What cells with a capacitor and a resistor to ground have in common."""

    resistance: Scalar
    capacitance: Scalar
    temperature: Scalar
    full_scale: Scalar

    def __post_init__(self) -> None:
        check_positive(**{part.name: getattr(self, part.name) for part in fields(self)})  # type: ignore[arg-type]

    @property
    def beta(self) -> Scalar:
        r"""Inverse temperature :math:`CV^2/(kT)` of the equation in units of the cell, without a dimension."""
        return self.capacitance * self.full_scale**2 / (BOLTZMANN * self.temperature)

    @property
    def thermal_voltage(self) -> Scalar:
        r"""Root mean square voltage of an uncoupled cell, :math:`\sqrt{kT/C}`, in volts."""
        return (BOLTZMANN * self.temperature / self.capacitance) ** 0.5

    @property
    def current_noise(self) -> Scalar:
        r""":math:`\kappa_0 = kT/R` in A² s: the noise current of a cell is :math:`\sqrt{2\kappa_0}\,dW/dt`.

        Its one-sided power spectral density, the one that data sheets give, is :math:`4\kappa_0` in A²/Hz.
        """
        return BOLTZMANN * self.temperature / self.resistance


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RC(_Cell):
    r"""Cells of a capacitor to ground each, coupled by resistors.

    With conductances :math:`G = A/R`, injected currents I and current noise of the same strength in every cell,

    .. math:: C\,dv = -(G v - I)\,dt + \sqrt{2kT/R}\,dW
        \quad\Longleftrightarrow\quad dx = -(Ax - b)\,dt + \sqrt{2/\beta}\,dW,

    with time in units of RC, :math:`x = v/V`, :math:`b = IR/V` and :math:`\beta = CV^2/(kT)`. The stationary covariance
    of the voltages is :math:`(kT/C)\,A^{-1}`.

    Parameters
    ----------
    resistance : float, > 0
        R in ohm: the inverse of the conductance that stands for a coupling of 1.
    capacitance : float, > 0
        C in farad, of every cell.
    temperature : float, > 0
        T in kelvin, of the noise. Injected noise of the strength :math:`\kappa_0` has :math:`T = \kappa_0 R/k`.
    full_scale : float, > 0
        V in volts: the voltage that stands for 1.

    Raises
    ------
    ValueError
        If a value is not positive and finite; under ``jit`` values are not looked at.

    Notes
    -----
    ``Device(beta=cell.beta, dynamics=cell.dynamics, time_constant=cell.time_constant)`` is the device, for couplings
    whose largest eigenvalue is 1. Divide A and b by it otherwise: the solution stays, and beta is that of the scaled
    equation.

    The noise must be injected, independent of the couplings. A network of resistors that has no noise but its own, all
    at one temperature, has current noise with the covariance 2kTG and settles at :math:`\mathcal N(0, (kT/C) I)`, from
    which no inverse can be read. Couplings must therefore be quiet beside the injected noise: active, or far colder.
    Leaks, parasitic capacitances, saturation and the bandwidth of the noise are not in the model.

    References
    ----------
    The defaults, 1 kOhm and 1 nF, are those of the timing model in the appendix of *Thermodynamic natural gradient
    descent*, arXiv:2405.13817.

    Examples
    --------
    >>> cell = RC()
    >>> print(f"{cell.time_constant * 1e6:.3g} us, {cell.thermal_voltage * 1e6:.3g} uV, beta = {cell.beta:.3g}")
    1 us, 2.04 uV, beta = 2.41e+11
    >>> loud = RC.realising(time_constant=1e-6, beta=1e4, capacitance=1e-9)
    >>> print(f"{loud.temperature:.3g} K of injected noise, {loud.thermal_voltage * 1e3:.3g} mV")
    7.24e+09 K of injected noise, 10 mV
    """

    resistance: Scalar = 1e3
    capacitance: Scalar = 1e-9
    temperature: Scalar = 300.0
    full_scale: Scalar = 1.0

    @classmethod
    def realising(cls, time_constant: Scalar, beta: Scalar, *, capacitance: Scalar, full_scale: Scalar = 1.0) -> "RC":
        """Return the cells that have this time constant, in seconds, and this inverse temperature."""
        check_positive(time_constant=time_constant, beta=beta, capacitance=capacitance, full_scale=full_scale)
        return cls(time_constant / capacitance, capacitance, _temperature(beta, capacitance, full_scale), full_scale)

    @property
    def dynamics(self) -> Overdamped:
        """How the modes move."""
        return Overdamped()

    @property
    def time_constant(self) -> Scalar:
        """Seconds in one unit of time, RC: that of a mode whose coupling has the eigenvalue 1."""
        return self.resistance * self.capacitance

    @property
    def current(self) -> Scalar:
        """Amperes that stand for a force of 1, V/R."""
        return self.full_scale / self.resistance


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LC(_Cell):
    r"""Cells of a resistor and a capacitor to ground each, coupled by inductors: oscillators.

    With inverse inductances :math:`A/L`, node fluxes :math:`\phi` (:math:`d\phi = v\,dt`), injected currents I and
    current noise in every cell,

    .. math:: C\,dv = -\Bigl(\frac{A\phi}{L} - I + \frac vR\Bigr)dt + \sqrt{2kT/R}\,dW
        \quad\Longleftrightarrow\quad dx = p\,dt,\ dp = -(Ax - b + \gamma p)\,dt + \sqrt{2\gamma/\beta}\,dW,

    with time in units of :math:`\sqrt{LC}`, :math:`x = \phi/(V\sqrt{LC})`, :math:`p = v/V`, :math:`b = IZ/V`,
    :math:`Z = \sqrt{L/C}`, mass 1, friction :math:`\gamma = Z/R` and :math:`\beta = CV^2/(kT)`.

    Parameters
    ----------
    resistance, inductance, capacitance : float, > 0
        R in ohm, L in henry (its inverse stands for a coupling of 1) and C in farad.
    temperature : float, > 0
        T in kelvin, of the noise. Injected noise of the strength :math:`\kappa_0` has :math:`T = \kappa_0 R/k`.
    full_scale : float, > 0
        V in volts: the voltage that stands for a momentum of 1.

    Raises
    ------
    ValueError
        If a value is not positive and finite; under ``jit`` values are not looked at.

    Notes
    -----
    As with :class:`RC`, beta, friction and time constant make a device for couplings whose largest eigenvalue is 1.
    Here the noise of the resistors is that of the equation, so that one temperature for everything is enough.

    :meth:`capacitive` is the other way to couple such cells, that of the unit of eight cells in the reference. The
    matrix then is in the place of the mass, and the solver verbs do not describe it.

    References
    ----------
    Melanson et al., *Thermodynamic computing system for AI applications*, arXiv:2312.04836.

    Examples
    --------
    >>> cell = LC(resistance=2e3, inductance=1e-3, capacitance=1e-9)
    >>> print(f"{cell.frequency / 1e3:.4g} kHz, quality factor {cell.quality:.3g}, {cell.time_constant * 1e6:.3g} us")
    159.2 kHz, quality factor 2, 1 us
    >>> cell.dynamics
    Underdamped(mass=1.0, friction=0.5)
    """

    resistance: Scalar
    inductance: Scalar
    capacitance: Scalar
    temperature: Scalar = 300.0
    full_scale: Scalar = 1.0

    @classmethod
    def realising(
        cls,
        time_constant: Scalar,
        friction: Scalar,
        beta: Scalar,
        *,
        capacitance: Scalar,
        full_scale: Scalar = 1.0,
    ) -> "LC":
        """Return the cells that have this time constant, in seconds, friction (at mass 1) and inverse temperature."""
        check_positive(time_constant=time_constant, friction=friction, beta=beta, capacitance=capacitance)
        check_positive(full_scale=full_scale)
        impedance = time_constant / capacitance
        temperature = _temperature(beta, capacitance, full_scale)
        return cls(impedance / friction, impedance * time_constant, capacitance, temperature, full_scale)

    @property
    def dynamics(self) -> Underdamped:
        """How the modes move: mass 1 and the friction Z/R."""
        return Underdamped(1.0, self.impedance / self.resistance)

    @property
    def time_constant(self) -> Scalar:
        r"""Seconds in one unit of time, :math:`\sqrt{LC}`: one over the angular frequency of a coupling of 1."""
        return (self.inductance * self.capacitance) ** 0.5

    @property
    def frequency(self) -> Scalar:
        r"""Natural frequency of a coupling of 1, :math:`1/(2\pi\sqrt{LC})`, in hertz."""
        return 1 / (2 * np.pi * self.time_constant)

    @property
    def impedance(self) -> Scalar:
        r"""Characteristic impedance :math:`Z = \sqrt{L/C}`, in ohm."""
        return (self.inductance / self.capacitance) ** 0.5

    @property
    def quality(self) -> Scalar:
        r"""Quality factor :math:`R/Z = R\sqrt{C/L}` of a coupling of 1; 1/2 is critical damping."""
        return self.resistance / self.impedance

    @property
    def flux(self) -> Scalar:
        r"""Webers that stand for a position of 1, :math:`V\sqrt{LC}`."""
        return self.full_scale * self.time_constant

    @property
    def current(self) -> Scalar:
        """Amperes that stand for a force of 1, V/Z; and for a current of 1 in :meth:`capacitive`."""
        return self.full_scale / self.impedance

    def inductive(self, A: ArrayLike) -> tuple[jax.Array, jax.Array]:
        r"""Return drift and diffusion of positions and momenta (x, p) of these cells, coupled by inductors.

        .. math:: \begin{pmatrix} 0 & -I \\ A & \gamma I \end{pmatrix}, \qquad
            \begin{pmatrix} 0 & 0 \\ 0 & 2\gamma/\beta\, I \end{pmatrix}

        Parameters
        ----------
        A : array, shape (d, d)
            Inverse inductances in units of 1/L; symmetric positive definite.

        Returns
        -------
        tuple of Array, shape (2d, 2d)
            For :class:`thermolinalg.OrnsteinUhlenbeck`, with time in units of :math:`\sqrt{LC}`. The stationary
            covariances are :math:`A^{-1}/\beta` of x and :math:`I/\beta` of p.
        """
        stiffness = as_real_symmetric("A", A)
        return self._phase_space(stiffness, jnp.eye(stiffness.shape[0], dtype=stiffness.dtype))

    def capacitive(self, M: ArrayLike) -> tuple[jax.Array, jax.Array]:
        r"""Return drift and diffusion of currents and voltages (j, u) of these cells, coupled by capacitors.

        With a Maxwell capacitance matrix CM, and an inductor L to ground in every cell,

        .. math:: L\,di = v\,dt, \qquad CM\,dv = -(v/R + i)\,dt + \sqrt{2\kappa_0}\,dW,

        which is, with :math:`j = iZ/V`, :math:`u = v/V` and time in units of :math:`\sqrt{LC}`,

        .. math:: \begin{pmatrix} 0 & -I \\ M^{-1} & \gamma M^{-1} \end{pmatrix}, \qquad
            \begin{pmatrix} 0 & 0 \\ 0 & 2\gamma/\beta\, M^{-2} \end{pmatrix}.

        Parameters
        ----------
        M : array, shape (d, d)
            Maxwell capacitance matrix in units of C; symmetric positive definite. See :func:`maxwell_matrix`.

        Returns
        -------
        tuple of Array, shape (2d, 2d)
            For :class:`thermolinalg.OrnsteinUhlenbeck`. The stationary covariances are :math:`I/\beta` of j and
            :math:`M^{-1}/\beta` of u, which in volts is :math:`\kappa_0 R\,(CM)^{-1}`.

        Notes
        -----
        With the flux :math:`\phi = Li` as position and the charge :math:`CMv` as momentum, this is a particle with the
        *mass matrix* M, stiffness I, friction I/R and thermal noise on the charge. It differs from :meth:`inductive` in
        three ways. The inverse is the covariance of the voltages, a velocity, on which noise and friction act directly;
        not that of the position. A mode of M with the eigenvalue m has the frequency :math:`m^{-1/2}` and the damping
        :math:`\gamma/m`; a mode of A has :math:`\lambda^{1/2}` and :math:`\gamma` whatever :math:`\lambda` is. And
        steady currents move no voltage, for the inductors take them: such cells sample and invert, but solve no linear
        system by their mean.

        Measured error statistics and component values of the unit are not part of this model.
        """
        mass = as_real_symmetric("M", M)
        unit = jnp.eye(mass.shape[0], dtype=mass.dtype)
        inverse = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(mass), True), unit)
        if is_concrete(inverse) and not bool(jnp.all(jnp.isfinite(inverse))):
            raise ValueError("M is not positive definite, so the voltages have no law; connect every cell to ground")
        return self._phase_space(inverse, inverse)

    def _phase_space(self, stiffness: jax.Array, kick: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Drift and diffusion where the second half is pulled by `stiffness`, and slowed and kicked through `kick`."""
        zero, unit = jnp.zeros_like(stiffness), jnp.eye(stiffness.shape[0], dtype=stiffness.dtype)
        gamma = jnp.asarray(self.impedance / self.resistance).astype(stiffness.dtype)
        noise = (2 * gamma / jnp.asarray(self.beta).astype(stiffness.dtype)) * (kick @ kick.T)
        return jnp.block([[zero, -unit], [stiffness, gamma * kick]]), jnp.block([[zero, zero], [zero, noise]])


def _temperature(beta: Scalar, capacitance: Scalar, full_scale: Scalar) -> Scalar:
    """Kelvin at which cells have this beta."""
    return capacitance * full_scale**2 / (BOLTZMANN * beta)
