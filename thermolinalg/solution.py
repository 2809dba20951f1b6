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
    Status.NOT_CONVERGED: "The Lanczos process stopped at max_steps before it converged; raise max_steps or rtol.",
    Status.LOW_PRECISION: "The condition number times the rounding error of the dtype exceeds 1e-3; use float64.",
    Status.UNSTABLE: "The drift is not stable: an eigenvalue has no positive real part, so the process has no "
    "stationary law; shift it, or solve the normal equations.",
    Status.NOT_SEMIDEFINITE: "The diffusion is not positive semi-definite, so no noise has it; split it into a "
    "difference of two that are.",
    Status.FEW_SAMPLES: "There are too few samples: fewer than unknowns, so that a covariance is close to singular, or "
    "too few for the standard error of a free energy to mean anything; run longer.",
    Status.INFINITE_VARIANCE: "The estimator has infinite variance, so its average does not settle; choose another "
    "reference, more stages, or thermodynamic integration.",
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
    """

    value: jax.Array
    stderr: jax.Array
    status: jax.Array
    stats: dict[str, Any] = field(default_factory=dict)

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
