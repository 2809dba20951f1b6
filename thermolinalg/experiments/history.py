"""What a training run leaves behind: losses of every step, measurements now and then, times, and what went wrong."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Measurement(NamedTuple):
    """The state of a run after some steps.

    Attributes
    ----------
    step : int
        Steps taken.
    train_loss, train_score, test_loss, test_score : float
        Means over a fixed part of the training examples, and of the others.
    wall_seconds : float
        Spent on steps on this machine so far, without compiling and without measurements.
    device_seconds, joules : float
        Modelled time and energy of a device so far: zero where there is none, NaN where it is not known.
    """

    step: int
    train_loss: float
    train_score: float
    test_loss: float
    test_score: float
    wall_seconds: float
    device_seconds: float
    joules: float


@dataclass(frozen=True)
class History:
    """One run of one optimizer.

    Attributes
    ----------
    name : str
        Of the optimizer.
    score_name : str
        What is measured beside the loss.
    losses : numpy array, shape (steps,)
        Loss of every batch, before its step.
    measurements : tuple of Measurement
        The first before any step.
    compile_seconds : float
    rejected : int
        Steps that the optimizer refused because loss or gradient were not finite.
    fallbacks : int
        Blocks that went along the plain gradient because their solver failed or pointed uphill.
    not_finite : int
        Steps whose loss was not finite.
    codes : dict of int
        How often the worst outcome of the solves of a step was which, where it was not fine.
    """

    name: str
    score_name: str
    losses: np.ndarray
    measurements: tuple[Measurement, ...]
    compile_seconds: float
    rejected: int
    fallbacks: int
    not_finite: int
    codes: dict[str, int]

    @property
    def last(self) -> Measurement:
        """The state at the end."""
        return self.measurements[-1]

    def column(self, name: str) -> np.ndarray:
        """Return one quantity of all measurements."""
        return np.array([getattr(m, name) for m in self.measurements], float)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as numbers, lists and dictionaries."""
        return {
            "name": self.name,
            "score": self.score_name,
            "losses": self.losses.tolist(),
            "measurements": [m._asdict() for m in self.measurements],
            "compile_seconds": self.compile_seconds,
            "rejected": self.rejected,
            "fallbacks": self.fallbacks,
            "not_finite": self.not_finite,
            "codes": self.codes,
        }
