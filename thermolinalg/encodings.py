"""Problems with any drift, written to a device: which process to run, and which second moment to read."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg.device import Device, refuse_dead
from thermolinalg.drifts import as_drift, as_given, as_real
from thermolinalg.dynamics import Overdamped
from thermolinalg.laws import Scalar
from thermolinalg.operators import is_concrete
from thermolinalg.simulators import Law, Simulator
from thermolinalg.solution import Status
from thermolinalg.transition import lyapunov, propagator, stable, transition


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Encoded:
    r"""A process :math:`dx = -Gx\,dt + \mathcal N(0, D\,dt)` and the second moment that answers the question.

    Attributes
    ----------
    drift, diffusion : Array
        G and D, real; a complex cell counts as two.
    stationary : Array
        Stationary covariance, real.
    lag : Array, shape (), or None
        The moment is that of x now with x this much earlier; None for x with itself.
    gain : Array, shape ()
        What the moment is multiplied by.
    clock : Array, shape ()
        Rate of the fastest mode.
    status : Array of int32, shape ()
    simulator : Simulator
    entries : dtype
        Type of the answer.
    white : bool
        Whether the stationary covariance is the identity by construction.
    """

    drift: jax.Array
    diffusion: jax.Array
    stationary: jax.Array
    lag: jax.Array | None
    gain: jax.Array
    clock: jax.Array
    status: jax.Array
    simulator: Simulator
    entries: jnp.dtype = field(metadata={"static": True})
    white: bool = field(default=False, metadata={"static": True})

    @property
    def components(self) -> int:
        """Real degrees of freedom of one unknown."""
        return 2 if jnp.issubdtype(self.entries, jnp.complexfloating) else 1

    @property
    def covariance(self) -> jax.Array:
        """Stationary covariance, in the type of the answer."""
        return as_given(self.components * self.stationary, self.entries)

    def left(self, time: Scalar) -> jax.Array:
        """Propagator of a time, in the type of the answer."""
        return as_given(propagator(self.drift, time), self.entries)

    def after(self, time: Scalar) -> tuple[jax.Array, jax.Array]:
        """Propagator and covariance of a time, in the type of the answer."""
        step = transition(self.drift, jnp.zeros_like(self.drift[0]), self.diffusion, time)
        return as_given(step.propagator, self.entries), as_given(self.components * step.covariance, self.entries)


def stationary(A: Any, Q: ArrayLike, device: Device | None) -> Encoded:
    r"""Encode a Lyapunov equation :math:`AX + XA^* = Q`: drift A, diffusion Q, stationary covariance X.

    Raises
    ------
    ValueError
        If `A` is not square and stable, `Q` is not Hermitian, positive semi-definite and of the shape of `A`, or the
        device has inertia.
    """
    simulator = _simulator(device)
    drift, right = as_drift(A), as_drift(Q, "Q")
    if right.shape != drift.shape:
        raise ValueError(f"Q must have the shape of A, {drift.shape}, got {right.shape}")
    # NumPy's rule: JAX would not let a real drift meet a complex right-hand side where promotion is strict.
    dtype = np.promote_types(drift.dtype, right.dtype)
    encoded = _stationary(drift.astype(dtype), right.astype(dtype), simulator)
    _refuse(encoded, drift, right)
    return encoded


def exponential(A: Any, t: Scalar, shift: Scalar | None, device: Device | None) -> Encoded:
    r"""Encode :math:`e^{At}`: drift :math:`G = aI - A`, diffusion :math:`G + G^*`, which makes the covariance one.

    Raises
    ------
    ValueError
        If `A` is not square, `t` is negative, `shift` is not a number or too small for the diffusion to be positive,
        or the device has inertia.
    """
    simulator = _simulator(device)
    matrix = as_drift(A)
    for name, value in (("t", t), ("shift", shift)):
        if value is not None and np.ndim(value) != 0:
            raise ValueError(f"{name} must be a number, got shape {np.shape(value)}; a matrix need not commute with A")
        if value is not None and np.iscomplexobj(value):
            raise ValueError(f"{name} must be real, got {value}; turn the phase into a factor of A")
        if is_concrete(value) and value is not None and not np.isfinite(np.asarray(value)):
            raise ValueError(f"{name} must be finite, got {value}")
    if is_concrete(t) and np.asarray(t) < 0:
        raise ValueError(f"t must not be negative, got {t}; exponentiate -A instead")
    encoded = _exponential(matrix, t, shift, simulator)
    if is_concrete(encoded.status) and int(encoded.status) & Status.NOT_SEMIDEFINITE:
        needed = float(np.linalg.eigvalsh(np.asarray(matrix + matrix.conj().T) / 2)[-1])
        raise ValueError(
            f"shift = {shift} is too small: the noise has a covariance only if it exceeds {needed:.3g}, the largest "
            "eigenvalue of (A + A^*)/2; leave it out to have it chosen"
        )
    return encoded


def written(encoded: Encoded, device: Device | None, key: jax.Array) -> Encoded:
    """What a device makes of an encoded problem: drift and diffusion as they are realised.

    Raises
    ------
    ValueError
        If that has no stationary law, or nodes of the chip are dead.
    """
    if device is None or device.faithful:
        return encoded
    refuse_dead(device)
    realised = _written(jax.lax.stop_gradient(encoded), device, key)
    if is_concrete(realised.status):
        flags = int(realised.status)
        if flags & (Status.UNSTABLE | Status.NOT_SEMIDEFINITE):
            what = "drift is not stable" if flags & Status.UNSTABLE else "noise is not positive semi-definite"
            raise ValueError(f"what the device makes of the {what}; use more bits, a better chip, or a larger shift")
    return realised


@jax.jit
def _written(encoded: Encoded, device: Device, key: jax.Array) -> Encoded:
    drift, first = device.write(encoded.drift, False, 0, key)
    diffusion, second = device.write(encoded.diffusion, True, 1, key)
    values = jnp.linalg.eigvalsh(diffusion)
    rounding = _rounding(drift.dtype) * jnp.maximum(values[-1], 0)
    flags = encoded.status | first | second | jnp.where(stable(drift), 0, int(Status.UNSTABLE))
    flags |= jnp.where(values[0] >= -rounding, 0, int(Status.NOT_SEMIDEFINITE))
    covariance = lyapunov(drift, diffusion)
    return replace(
        encoded, drift=drift, diffusion=diffusion, stationary=covariance, status=flags.astype(jnp.int32), white=False
    )


def _simulator(device: Device | None) -> Simulator:
    if device is None:
        return Law()
    if not isinstance(device.dynamics, Overdamped):
        raise ValueError(
            f"a drift without symmetry needs an overdamped device, got {type(device.dynamics).__name__} dynamics; pass "
            "the process in positions and momenta as a drift of twice the size instead"
        )
    return device.simulator


@jax.jit
def _stationary(A: jax.Array, Q: jax.Array, simulator: Simulator) -> Encoded:
    components = 2 if jnp.issubdtype(A.dtype, jnp.complexfloating) else 1
    drift, diffusion = as_real(A), as_real((Q + Q.conj().T) / 2) / components
    values = jnp.linalg.eigvalsh(jax.lax.stop_gradient(diffusion))
    flags = jnp.where(stable(jax.lax.stop_gradient(drift)), 0, int(Status.UNSTABLE))
    flags |= jnp.where(values[0] >= -_rounding(A.dtype) * jnp.maximum(values[-1], 0), 0, int(Status.NOT_SEMIDEFINITE))
    clock = jnp.linalg.norm(jax.lax.stop_gradient(drift), 2)
    one = jnp.ones((), drift.dtype)
    status = flags.astype(jnp.int32)
    return Encoded(drift, diffusion, lyapunov(drift, diffusion), None, one, clock, status, simulator, A.dtype)


@jax.jit
def _exponential(A: jax.Array, t: Scalar, shift: Scalar | None, simulator: Simulator) -> Encoded:
    components = 2 if jnp.issubdtype(A.dtype, jnp.complexfloating) else 1
    matrix = as_real(A)
    lag = jnp.asarray(t).astype(matrix.dtype)
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    top = jnp.linalg.eigvalsh(jax.lax.stop_gradient(matrix + matrix.T) / 2)[-1]
    if shift is None:
        pace = jnp.linalg.norm(jax.lax.stop_gradient(matrix))
        chosen = top + jnp.where(pace > 0, shift_margin(lag, pace), 1.0)
    else:
        chosen = jnp.asarray(shift).astype(matrix.dtype)
    drift = chosen * eye - matrix
    positive = chosen > top
    flags = jnp.where(positive & (lag >= 0), 0, int(Status.NOT_SEMIDEFINITE)).astype(jnp.int32)
    clock = jnp.linalg.norm(jax.lax.stop_gradient(drift), 2)
    diffusion = (drift + drift.T) / components
    gain, covariance = jnp.exp(chosen * lag), eye / components
    return Encoded(drift, diffusion, covariance, lag, gain, clock, flags, simulator, A.dtype, white=True)


def shift_margin(lag: jax.Array, pace: jax.Array) -> jax.Array:
    """By how much a shift that is not given exceeds the least, for a lag and a rate of the matrix.

    Samples are independent after a time of one over the margin, and noise grows with its exponential: 1/(2 lag)
    balances the two. Where the lag is zero, or far shorter than the process is fast, the time of the process will do.
    """
    return jnp.where(lag > 0, jnp.minimum(0.5 / jnp.where(lag > 0, lag, 1.0), 10 * pace), pace)


def _rounding(dtype: jnp.dtype) -> float:
    return 1e-8 if jnp.finfo(dtype).eps < 1e-12 else 1e-4


def _refuse(encoded: Encoded, drift: jax.Array, right: jax.Array) -> None:
    """Raise if the drift is not stable, or the right-hand side no covariance."""
    if not is_concrete(encoded.status, drift, right):
        return
    known = np.asarray(right)
    largest, asymmetry = np.max(np.abs(known)), np.max(np.abs(known - known.conj().T))
    if asymmetry > _rounding(right.dtype) * largest:
        raise ValueError(f"Q is not symmetric: entries differ from their transposes by up to {asymmetry:.1e}")
    flags = int(encoded.status)
    if flags & Status.UNSTABLE:
        slowest = float(np.min(np.linalg.eigvals(np.asarray(drift)).real))
        raise ValueError(
            f"A is not stable to working precision: it has an eigenvalue of real part {slowest:.3g}, so the process "
            "has no stationary law; every real part must be positive"
        )
    if flags & Status.NOT_SEMIDEFINITE:
        lowest = float(np.linalg.eigvalsh(known)[0])
        raise ValueError(
            f"Q is not positive semi-definite: it has an eigenvalue {lowest:.3g}, and no noise has that covariance; "
            "split Q into a difference of two that are, and subtract the solutions"
        )
