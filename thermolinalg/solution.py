"""What every verb returns: a value, its error, a status, and what it took."""

from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any

import jax
import numpy as np


class Status(IntFlag):
    """What went wrong, as flags that also exist under ``jit``; 0 is success."""

    OK = 0
    NOT_POSITIVE_DEFINITE = 1
    NOT_FINITE = 2
    UNRESOLVED = 4
    NOT_CONVERGED = 8
    LOW_PRECISION = 16
    UNSTABLE = 32
    NOT_SEMIDEFINITE = 64
    FEW_SAMPLES = 128
    INFINITE_VARIANCE = 256
    STAGNATED = 512
    SATURATED = 1024
    COARSE = 2048
    IMPRECISE = 4096

    @property
    def advice(self) -> str:
        """One sentence for each flag: what it means and what to do."""
        return " ".join(_ADVICE[flag] for flag in Status if flag in self) or _ADVICE[Status.OK]


_ADVICE = {
    Status.OK: "Success.",
    Status.NOT_POSITIVE_DEFINITE: "The operator is not positive definite to working precision, so the process has no "
    "stationary law; add a shift or use a wider dtype.",
    Status.NOT_FINITE: "The answer is not finite; check the operands for NaN, infinity and overflow.",
    Status.UNRESOLVED: "The smallest eigenvalue is not resolved, so planned times may be too short and the standard "
    "error too small; raise survey_steps of the operator, or give a plan.",
    Status.NOT_CONVERGED: "An iteration (a Lanczos process, a refinement) stopped at max_steps before it converged; "
    "raise max_steps or rtol.",
    Status.LOW_PRECISION: "The condition number times the rounding error of the dtype exceeds 1e-3; use float64.",
    Status.UNSTABLE: "The drift is not stable: an eigenvalue has no positive real part, so the process has no "
    "stationary law; shift it, or solve the normal equations.",
    Status.NOT_SEMIDEFINITE: "The diffusion is not positive semi-definite, so no noise has it; split it into a "
    "difference of two that are.",
    Status.FEW_SAMPLES: "There are too few samples: fewer than unknowns, so that a covariance is close to singular, or "
    "too few for the standard error of a free energy to mean anything; run longer.",
    Status.INFINITE_VARIANCE: "The estimator has infinite variance, so its average does not settle; choose another "
    "reference, more stages, or thermodynamic integration.",
    Status.STAGNATED: "The refinement gains no more: raise burn-in or duration of a step, check that the device holds "
    "A, or raise rtol if it is at the rounding floor.",
    Status.SATURATED: "A converter saturated: something was beyond its full scale; raise full_scale, or leave it out "
    "to have the range chosen.",
    Status.COARSE: "A step of the converter is wider than twice the thermal noise, so rounding errors of samples do "
    "not average out; use more bits, or a lower full_scale.",
    Status.IMPRECISE: "Converters, read-out, mismatch or dead nodes of the device shift the answer by more than a "
    "third of the tolerance, which a longer run may not mend; use more bits, calibration, an ensemble or refinement.",
}


class SolutionError(RuntimeError):
    """Raised by :meth:`Solution.unwrap` for an answer that is not to be trusted."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Solution:
    """An answer with its error.

    Attributes
    ----------
    value : Array
        The answer, in the dtype of the input.
    stderr : Array, like ``value`` but real
        Root mean square error of each entry over many runs: thermal noise and what is left of the start. Over many keys
        (value - truth) / stderr has unit mean square.
    status : Array of int32, shape ()
        Flags of :class:`Status`.
    stats : dict
        What it took, and what a next run can continue from.
    method : str
        One sentence: how the answer was obtained.
    """

    value: jax.Array
    stderr: jax.Array
    status: jax.Array
    stats: dict[str, Any] = field(default_factory=dict)
    method: str = field(default="", metadata={"static": True})

    def unwrap(self) -> jax.Array:
        """Return the value if the status is clean; outside of ``jit`` only.

        Raises
        ------
        SolutionError
            With advice, if any flag is set.
        """
        flags = Status(int(np.bitwise_or.reduce(np.asarray(self.status), axis=None)))
        if flags:
            raise SolutionError(flags.advice)
        return self.value

    def explain(self, detail: int = 1) -> str:
        """Say how the answer was obtained and how sure it is; outside of ``jit`` only.

        Parameters
        ----------
        detail : int, 1 to 3
            1: method, time, error and status. 2: also the plan, its promise, the spectrum and what the status means.
            3: also what is assumed, what is not guaranteed, and every entry of ``stats``.

        Raises
        ------
        ValueError
            For another level, or under a transformation, where there are no numbers to tell.

        Notes
        -----
        A batch is summarised by the range of each number.

        Examples
        --------
        >>> import jax, jax.numpy as jnp
        >>> from thermolinalg.primitives import solve
        >>> x = solve(2 * jnp.eye(2), jnp.ones(2), key=jax.random.key(0), rtol=0.1)
        >>> print(x.explain().splitlines()[0])
        The solution is the time average of an overdamped process, drawn from its law.
        """
        if isinstance(detail, bool) or detail not in (1, 2, 3):
            raise ValueError(f"detail must be 1, 2 or 3, got {detail!r}")
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self)):
            raise ValueError("an explanation needs numbers, which there are none of inside jit, vmap or grad")
        flags = Status(int(np.bitwise_or.reduce(np.asarray(self.status), axis=None)))
        lines = [self.method or "How the answer was obtained is not recorded."]
        if "time_constants" in self.stats:
            lines.append(f"The run took {_number(self.stats['time_constants'])} time constants of the device.")
        elif "device_time" in self.stats:
            lines.append(f"The runs took {_number(self.stats['device_time'])} natural units of device time.")
        lines.append(self._error())
        names = ", ".join(flag.name or "" for flag in Status if flag and flag in flags)
        lines.append(f"Status: {names}." if flags else "Status: success.")
        if detail >= 2:
            lines += _plan(self.stats.get("plan"))
            if hasattr(self.stats.get("spectrum"), "explain"):
                lines.append(_told(self.stats["spectrum"], detail))
            if flags:
                lines.append(flags.advice)
        if detail == 3:
            lines += _CAVEATS
            told = {"plan", "spectrum"}
            lines += [
                _entry(name, value) for name, value in self.stats.items() if value is not None and name not in told
            ]
        return "\n".join(lines)

    def _error(self) -> str:
        value, stderr = (np.linalg.norm(np.asarray(x).ravel()) for x in (self.value, self.stderr))
        if not (np.isfinite(value) and np.isfinite(stderr)):
            return "Value or standard error is not finite."
        share = f", {_rounded(100 * stderr / value)} % of the answer" if value > 0 else ""
        return f"The expected error (root mean square over runs, 2-norm of all entries) is {_rounded(stderr)}{share}."


_CAVEATS = [
    "Assumed: the device has the couplings and the temperature of its program, and runs start where the plan says.",
    "Not guaranteed: the expected error is a mean over many runs, not a bound on this one; certificates test this one.",
    "A promise of a plan holds for runs of that plan on that operator, and as far as its spectrum is known.",
]

_MEANINGS = {
    "time_constants": "duration of the whole run in time constants of the device",
    "device_time": "duration of all runs in natural units of time",
    "noise": "variance of one component of the residual of a long average, for certify",
    "effective_samples": "independent samples that would be as good, for the average entry",
    "correlation": "largest correlation of the squares of two successive samples",
    "amplification": "factor between what is read and the answer, which multiplies the noise too",
    "kappa": "condition number",
    "kappa_stderr": "standard error of the condition number",
    "normal_equations": "whether the normal equations were run",
    "reference": "stiffness of the uncoupled start of the path",
    "positions": "where on the path samples were taken",
    "samples": "number of samples",
    "nodes": "number of positions with samples",
    "spacing": "time between two independent samples",
    "thermal": "part of the standard error that is thermal noise",
    "bias": "systematic error that could be predicted, part of the standard error",
    "survey": "part of the standard error that is the survey of the spectrum",
    "mean": "mean of the samples",
    "systematic": "part of the standard error that converters, read-out and chip make",
    "state": "end state, from which a run continues",
    "overlap": "how far samples repeat each other, for certify_inv",
    "steps": "runs of the device, or steps of an iteration",
    "matvecs": "digital products with A",
    "products": "digital products of two matrices",
    "plain_cg": "products that plain conjugate gradients need to come as close, without a device; -1: not reached",
    "direct_time": "natural units of device time in which averaging alone would come as close",
    "contraction": "factor by which a step shrank the residual, geometric mean",
    "predicted_contraction": "what plain refinement was predicted to do, root mean square",
    "residuals": "relative residuals that the runs were given",
    "history": "relative increments of the iteration",
    "initial": "spectral radius that the iteration started from",
    "predicted": "what theory says of the start, or of the number of steps",
    "weight": "time that the ends of the run count for",
    "gain": "mean square error of the plain average over that of this one",
}


def _rounded(value: Any) -> str:
    return f"{float(value):.3g}"


def _number(value: Any) -> str:
    """A number, or the range of several; what is not numeric by its type."""
    try:
        array = np.asarray(value)
        if array.dtype == np.bool_:
            return "yes" if array.all() else "no" if not array.any() else "in part"
        if np.iscomplexobj(array):
            return f"magnitudes {_number(np.abs(array))}"
        low, high = float(np.min(array)), float(np.max(array))
        return _rounded(low) if low == high or array.size == 1 else f"{_rounded(low)} to {_rounded(high)}"
    except (TypeError, ValueError):
        return f"of type {type(value).__name__}"


def _told(value: Any, detail: int) -> str:
    """What an object says of itself; a strange one is no reason to fail."""
    try:
        return str(value.explain(detail))
    except Exception:  # somebody else's object may raise anything
        return f"of type {type(value).__name__}"


def _plan(plan: Any) -> list[str]:
    """The times of a plan and what they promise, as far as it has them."""
    burn_in, duration, samples, rtol, confidence = (
        getattr(plan, name, None) for name in ("burn_in", "duration", "samples", "rtol", "confidence")
    )
    lines = []
    if burn_in is not None and duration is not None:
        what = "averaged" if samples is None else f"read at {_number(samples)} samples"
        lines.append(
            f"Plan: burn-in for {_number(burn_in)}, then {what} over {_number(duration)} natural units of time."
        )
    if getattr(plan, "replicas", 1) > 1:
        lines.append(f"{plan.replicas} such runs, side by side, were averaged.")
    if rtol is not None and confidence is not None:
        lines.append(
            f"Promise: a relative error of at most {_number(rtol)} in a fraction {_number(confidence)} of runs."
        )
    elif lines:
        lines.append("The plan was given by hand and promises nothing.")
    return lines


def _entry(name: str, value: Any) -> str:
    """One line about an entry of stats."""
    if callable(getattr(value, "explain", None)):
        found = _told(value, 1)
    else:
        leaves = [leaf for leaf in jax.tree.leaves(value) if np.size(leaf)]
        found = _number(leaves[0]) if len(leaves) == 1 else f"{len(leaves)} arrays" if leaves else "nothing"
    meaning = _MEANINGS.get(str(name))
    return f"stats[{name!r}]: {found}" + (f" ({meaning})." if meaning else ".")
