"""Ornstein-Uhlenbeck processes with any drift and any diffusion: their laws, paths, densities and bridges."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from thermolinalg import conditioning, paths
from thermolinalg import transition as maps
from thermolinalg.conditioning import ConditionedProcess
from thermolinalg.laws import Scalar
from thermolinalg.operators import as_inexact, is_concrete
from thermolinalg.paths import Modes
from thermolinalg.transition import Gaussian, Transition

_STORED = 2**24
"""Most entries of transitions that are kept for steps that share their length; beyond, each step makes its own."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    r"""A linear process driven by white noise.

    .. math:: dx = -(A x - b)\,dt + \mathcal N(0, D\,dt)

    Parameters
    ----------
    drift : array, shape (d, d)
        `A`: any real square matrix; singular, defective and unstable ones too. Its unit is one over time.
    force : array, shape (d,), optional
        `b`; zero by default.
    diffusion : array, shape (d, d), optional
        `D`, symmetric positive semi-definite, of any rank; 2 I by default.
    modes : Modes, optional
        Common eigenbasis of drift and diffusion. Found at construction where there is one: leave it out.

    Raises
    ------
    ValueError
        If shapes do not match, a value is not finite or complex, or `diffusion` is not symmetric and positive
        semi-definite beyond rounding (1e-8 of its largest eigenvalue; 1e-4 in float32). Values are not looked at under
        ``jit``; there an asymmetric or indefinite diffusion passes, with laws that mean nothing.

    Notes
    -----
    Everything is in the dtype of `drift`. Methods work under ``jit``, ``vmap`` and ``grad``, with the process as an
    argument too. Where `drift` is symmetric and `diffusion` is diagonal in its eigenbasis, as c I is, paths and
    densities are computed mode by mode. This is decided where the values are known, at construction; a process that is
    made inside a transformation gives the same numbers, slower.

    To rounding, every law is exact. What is left of a slow mode after the time t is known to about the rounding error
    times the norm of A t, no better than what rounding A does to it.

    References
    ----------
    C. Van Loan, *Computing integrals involving the matrix exponential*, IEEE Trans. Automat. Control 23 (1978).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> process = OrnsteinUhlenbeck(jnp.array([[1.0, 5.0], [0.0, 2.0]]), diffusion=jnp.eye(2))
    >>> exact = jnp.array([[31.0, -5.0], [-5.0, 3.0]]) / 12
    >>> bool(jnp.allclose(process.stationary().covariance, exact))
    True
    >>> path = process.sample(jax.random.key(0), jnp.arange(100.0), jnp.zeros(2))
    >>> path.shape
    (100, 2)
    >>> bool(process.log_prob(jnp.arange(100.0), path) > process.log_prob(jnp.arange(100.0), 2 * path))
    True
    """

    drift: jax.Array
    force: jax.Array = None  # type: ignore[assignment]
    diffusion: jax.Array = None  # type: ignore[assignment]
    modes: Modes | None = None
    checked: bool = field(default=False, repr=False, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.checked:
            return
        drift, force, diffusion = _as_coefficients(self.drift, self.force, self.diffusion)
        modes = None
        if is_concrete(drift, force, diffusion):
            _check_values(drift, force, diffusion)
            modes = paths.common_modes(drift, diffusion)
        ready = {"drift": drift, "force": force, "diffusion": diffusion, "modes": modes, "checked": True}
        for name, value in ready.items():
            object.__setattr__(self, name, value)

    @property
    def dim(self) -> int:
        """Number of components, d."""
        return self.drift.shape[-1]

    @property
    def stable(self) -> jax.Array:
        """Whether the process forgets its start: every eigenvalue of the drift has a positive real part.

        Decided by the decay of the propagator. A real part below about ten rounding errors of the norm of the drift
        counts as zero.
        """
        return _stable(self.drift)

    def transition(self, t: Scalar) -> Transition:
        """Return the map of the time `t` >= 0.

        Returns
        -------
        Transition
            ``propagator`` E (d, d), ``shift`` c (d,) and ``covariance`` Q (d, d): given x(0), the state x(t) is
            N(E x(0) + c, Q).

        Raises
        ------
        ValueError
            If `t` is negative or not finite; NaN under ``jit``.
        """
        return _transition(*self._coefficients(), _as_time(t, "t", self.drift.dtype))

    def mean(self, t: Scalar, x0: ArrayLike) -> jax.Array:
        """Mean (d,) at the time `t` >= 0 of the process that is at `x0`, shape (d,), at time 0."""
        step = self.transition(t)
        return step.propagator @ self._state(x0, "x0") + step.shift

    def covariance(self, t: Scalar) -> jax.Array:
        """Covariance (d, d) at the time `t` >= 0 of the process that starts at any one point."""
        return self.transition(t).covariance

    def stationary(self) -> Gaussian:
        r"""Return the law in which the process settles: mean :math:`A^{-1}b` and :math:`A\Sigma + \Sigma A^\top = D`.

        Raises
        ------
        ValueError
            If the drift is not stable; NaN under ``jit``.

        Notes
        -----
        The covariance is positive semi-definite by construction. Its relative error is about the rounding error times
        the condition of the equation, that is of the slowest mode.
        """
        law = _stationary(*self._coefficients())
        if is_concrete(law) and np.isnan(law.covariance).any():
            slowest = np.linalg.eigvals(np.asarray(self.drift, np.float64)).real.min()
            raise ValueError(
                f"drift is not stable to working precision: an eigenvalue has the real part {slowest:.3g}, so the "
                "process has no stationary law; shift the drift, or use transition(t) for a finite time"
            )
        return law

    def average(
        self, burn_in: Scalar, duration: Scalar, x0: ArrayLike | None = None, samples: int | None = None
    ) -> Gaussian:
        r"""Return the law of the time average of the process that starts at `x0`.

        .. math:: \bar x = \frac1\tau \int_{t_0}^{t_0 + \tau} x_t\,dt \quad\text{or}\quad
            \bar x = \frac1N \sum_{k < N} x_{t_0 + k \tau / N}

        Parameters
        ----------
        burn_in, duration : float, >= 0
            :math:`t_0` and :math:`\tau`. A duration of zero reads the state at :math:`t_0`.
        x0 : array, shape (d,), optional
            The start at time 0; the origin by default.
        samples : int, >= 1, optional
            N; a continuous average by default.

        Raises
        ------
        ValueError
            If a time is negative, `samples` is less than 1, or `x0` does not match; NaN under ``jit`` for the times.
        """
        dtype = self.drift.dtype
        if samples is not None and is_concrete(samples) and not samples >= 1:
            raise ValueError(f"samples must be at least 1, got {samples}; leave it out for a continuous average")
        start = jnp.zeros(self.dim, dtype) if x0 is None else self._state(x0, "x0")
        times = _as_time(burn_in, "burn_in", dtype), _as_time(duration, "duration", dtype)
        return _average(*self._coefficients(), *times, start, samples)

    def sample(self, key: jax.Array, ts: ArrayLike, x0: ArrayLike) -> jax.Array:
        """Draw a path.

        Parameters
        ----------
        key : PRNG key
        ts : array, shape (T,)
            Strictly increasing times, evenly spaced or not. Only differences matter.
        x0 : array, shape (d,)
            The state at ``ts[0]``.

        Returns
        -------
        Array, shape (T, d)
            The path; its first row is `x0`.

        Raises
        ------
        ValueError
            If `ts` is not strictly increasing or `x0` does not match. Under ``jit`` with traced times a step back gives
            NaN.

        Notes
        -----
        Exact in law at the times asked for, however long the steps. Known times share the transitions of intervals that
        are equal as far as the rounding of the times can tell; traced ones make one transition for each step. Even
        spacing is the fastest: a logarithmic number of matrix products. Pass wide times (NumPy float64) for long paths:
        float32 cannot tell steps of 0.01 apart at 1e5.
        """
        start = self._state(x0, "x0")
        intervals, index = self._grid(ts)
        noise = jax.random.normal(key, (np.shape(ts)[0] - 1, self.dim), start.dtype)
        return paths.draw(self._coefficients(), self.modes, noise, start, intervals, index)

    def log_prob(self, ts: ArrayLike, xs: ArrayLike) -> jax.Array:
        """Log density of a path given its first state.

        Parameters
        ----------
        ts : array, shape (T,)
            Strictly increasing times.
        xs : array, shape (T, d)
            The states at these times.

        Raises
        ------
        ValueError
            If shapes do not match, `ts` is not strictly increasing, or a step has a singular covariance: such a path
            has no density. Under ``jit``: NaN.

        Notes
        -----
        No step waits for another. A covariance counts as singular by its correlation matrix, so that components of very
        different size do not.
        """
        path = as_inexact(xs, "xs").astype(self.drift.dtype)
        intervals, index = self._grid(ts)
        if path.shape != (np.shape(ts)[0], self.dim):
            raise ValueError(f"xs must have shape ({np.shape(ts)[0]}, {self.dim}), got {path.shape}")
        value, rank = paths.log_density(self._coefficients(), self.modes, path, intervals, index)
        if is_concrete(rank) and int(rank) < self.dim:
            raise ValueError(
                f"a step has a covariance of rank {int(rank)} in {self.dim} dimensions, so the path has no density; "
                "use a diffusion that reaches every component, or wider steps or dtype"
            )
        return value

    def condition(
        self,
        times: ArrayLike,
        values: ArrayLike,
        noise: ArrayLike | None = None,
        start: Gaussian | ArrayLike | None = None,
    ) -> ConditionedProcess:
        """Return the process given its state at some times: a bridge, or a smoother where the looks are noisy.

        Parameters
        ----------
        times : array, shape (n,)
            Strictly increasing and >= 0.
        values : array, shape (n, d)
            The state seen at each.
        noise : float or array (d, d), optional
            Variance or covariance of the error of every observation, positive definite; exact by default.
        start : Gaussian or array (d,), optional
            Law of the state at time 0, or the point where it is; the stationary law by default.

        Returns
        -------
        ConditionedProcess
            With ``mean(ts)``, ``covariance(ts)`` and ``sample(key, ts)``.

        Raises
        ------
        ValueError
            If shapes do not match, times are out of order, `noise` is not positive definite, or no start is given and
            there is no stationary law.

        Notes
        -----
        Exact values that the process cannot take (off the support of a singular law) are taken at their word.
        """
        if start is None:
            law = self.stationary()
        elif isinstance(start, Gaussian):
            law = start
        else:
            law = Gaussian(self._state(start, "start"), jnp.zeros_like(self.drift))
        return conditioning.condition(self, self.dim, self.drift.dtype, law, times, values, noise)

    def _coefficients(self) -> paths.Coefficients:
        return self.drift, self.force, self.diffusion

    def _state(self, x: ArrayLike, name: str) -> jax.Array:
        state = as_inexact(x, name)
        if state.shape != (self.dim,) or jnp.iscomplexobj(state):
            raise ValueError(f"{name} must be real of shape ({self.dim},), got {state.dtype} of shape {state.shape}")
        return state.astype(self.drift.dtype)

    def _grid(self, ts: ArrayLike) -> tuple[jax.Array, jax.Array | None]:
        """Intervals and which of them each step is, or one interval for each step and None."""
        dtype = self.drift.dtype
        if np.ndim(ts) != 1 or np.shape(ts)[0] == 0:
            raise ValueError(f"ts must be a vector with at least one time, got shape {np.shape(ts)}")
        if not is_concrete(ts):
            gaps = jnp.diff(as_inexact(ts, "ts")).astype(dtype)
            return jnp.where(gaps > 0, gaps, jnp.nan), None
        given = np.asarray(ts)
        known = given.astype(np.float64)
        if not np.isfinite(known).all() or not (np.diff(known) > 0).all():
            raise ValueError("ts must be finite and strictly increasing; sort the times and merge repeated ones")
        rounding = np.finfo(given.dtype).eps if np.issubdtype(given.dtype, np.floating) else 0.0
        intervals, index = paths.distinct(known, float(rounding))
        if len(intervals) > 1 and (self.modes is not None or len(intervals) * self.dim**2 > _STORED):
            return jnp.asarray(np.diff(known), dtype), None
        return jnp.asarray(intervals, dtype), jnp.asarray(index)


_transition = jax.jit(maps.transition)
_stable = jax.jit(maps.stable)


@jax.jit
def _stationary(drift, force, diffusion):
    covariance = maps.lyapunov(drift, diffusion)
    return Gaussian(jnp.where(jnp.isnan(covariance[0, 0]), jnp.nan, jnp.linalg.solve(drift, force)), covariance)


@jax.jit
def _average(drift, force, diffusion, burn_in, duration, x0, samples):
    d = x0.shape[0]
    total = maps.average(drift, force, diffusion, burn_in, duration, samples)
    return Gaussian(total.propagator[d:, :d] @ x0 + total.shift[d:], total.covariance[d:, d:])


def _as_coefficients(drift: Any, force: Any, diffusion: Any) -> paths.Coefficients:
    A = as_inexact(drift, "drift")
    if A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] == 0:
        raise ValueError(f"drift must be a square matrix, got shape {A.shape}")
    d = A.shape[0]
    b = jnp.zeros(d, A.dtype) if force is None else as_inexact(force, "force")
    D = 2 * jnp.eye(d, dtype=A.dtype) if diffusion is None else as_inexact(diffusion, "diffusion")
    for name, value, shape in (("drift", A, (d, d)), ("force", b, (d,)), ("diffusion", D, (d, d))):
        if value.shape != shape:
            raise ValueError(f"{name} must have shape {shape} to match the drift, got {value.shape}")
        if jnp.iscomplexobj(value):
            raise ValueError(f"{name} is complex; write real and imaginary parts as a real process of twice the size")
    return A, b.astype(A.dtype), D.astype(A.dtype)


def _check_values(drift: jax.Array, force: jax.Array, diffusion: jax.Array) -> None:
    for name, value in (("drift", drift), ("force", force), ("diffusion", diffusion)):
        if not np.isfinite(value).all():
            raise ValueError(
                f"{name} has entries that are not finite; look for NaN, infinity or overflow in its making"
            )
    limit = 1e-8 if drift.dtype == jnp.float64 else 1e-4
    D = np.asarray(diffusion)
    asymmetry, largest = np.abs(D - D.T).max(), np.abs(D).max()
    if asymmetry > limit * largest:
        raise ValueError(
            f"diffusion is not symmetric: entries differ from their transposes by {asymmetry / largest:.1e} of the "
            "largest entry; pass (D + D.T) / 2 if that is what you mean"
        )
    values = np.diagonal(D) if paths.is_diagonal(D) else np.asarray(jnp.linalg.eigvalsh(diffusion))
    if values.min() < -limit * values.max():
        raise ValueError(
            f"diffusion is not positive semi-definite: its smallest eigenvalue is {values.min():.3g}, its largest "
            f"{values.max():.3g}; no noise has such a covariance"
        )


def _as_time(time: Scalar, name: str, dtype: jnp.dtype) -> jax.Array:
    value = as_inexact(time, name)
    if value.shape != ():
        raise ValueError(f"{name} must be a single time, got shape {value.shape}; use jax.vmap for many")
    if is_concrete(value) and not (np.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return value.astype(dtype)
