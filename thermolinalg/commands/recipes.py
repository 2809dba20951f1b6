"""Optimizers as the command line knows them: by name, with a backend and numbers of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import optax

import thermolinalg as tla
from thermolinalg.optim.analog import ThermodynamicInverse, ThermodynamicSolve
from thermolinalg.optim.eigenbases import CorrectedEigenbases, Eigenbases
from thermolinalg.optim.iterative import CG, NewtonSchulz
from thermolinalg.optim.kfac import kfac
from thermolinalg.optim.kronecker import BlockSolver, Factored
from thermolinalg.optim.row_solves import RowSolves
from thermolinalg.optim.solvers import Cholesky, CholeskyInverse
from thermolinalg.optim.task import Task
from thermolinalg.optim.trust import KLClip
from thermolinalg.ranges import check_fractions, check_not_negative, check_positive


class OptimizerName(StrEnum):
    """Optimizers by name."""

    sgd = "sgd"
    adam = "adam"
    kfac = "kfac"
    ngd = "ngd"
    tngd = "tngd"


class BackendName(StrEnum):
    """What inverts the blocks of K-FAC."""

    cholesky = "cholesky"
    eigh = "eigh"
    ekfac = "ekfac"
    cg = "cg"
    newton_schulz = "newton-schulz"
    thermodynamic = "thermodynamic"
    thermodynamic_solve = "thermodynamic-solve"
    rank_b = "rank-b"


@dataclass(frozen=True)
class Reading:
    """How a device reads an answer.

    Attributes
    ----------
    device : Device
    noise : float, optional
        Relative error that every run is planned for from the spectrum of its matrix.
    time : float
        Without `noise`: length of every run in time constants.
    """

    device: tla.Device
    noise: float | None
    time: float

    def __post_init__(self) -> None:
        check_fractions(noise=self.noise)
        check_positive(time=self.time)

    @property
    def inverse(self) -> ThermodynamicInverse:
        """The device as a reader of inverses."""
        return ThermodynamicInverse(*self._times, device=self.device)

    @property
    def solve(self) -> ThermodynamicSolve:
        """The device as a solver."""
        return ThermodynamicSolve(*self._times, device=self.device)

    @property
    def _times(self) -> tuple[tla.Plan | None, float | None]:
        # The slowest mode of a damped block takes some hundred time constants: a tenth of a run to forget its start.
        return (None, self.noise) if self.noise is not None else (tla.Plan(0.1 * self.time, 0.9 * self.time), None)


_BACKENDS: dict[BackendName, Callable[[Reading], BlockSolver]] = {
    BackendName.cholesky: lambda reading: Factored(CholeskyInverse()),
    BackendName.eigh: lambda reading: Eigenbases(),
    BackendName.ekfac: lambda reading: CorrectedEigenbases(),
    BackendName.cg: lambda reading: Factored(CG()),
    BackendName.newton_schulz: lambda reading: Factored(NewtonSchulz()),
    BackendName.thermodynamic: lambda reading: Factored(reading.inverse),
    BackendName.thermodynamic_solve: lambda reading: Factored(reading.solve),
    BackendName.rank_b: lambda reading: RowSolves(Cholesky()),
}

ON_DEVICE = (BackendName.thermodynamic, BackendName.thermodynamic_solve)
"""Backends that run on a device."""

_RATES = {OptimizerName.sgd: 0.1, OptimizerName.adam: 1e-3, OptimizerName.kfac: 0.1}


@dataclass(frozen=True)
class Recipe:
    """One optimizer with its numbers; None takes those that suit small problems.

    Attributes
    ----------
    optimizer : OptimizerName
    backend : BackendName
        Of K-FAC.
    reading : Reading
        Of backends on a device.
    learning_rate, momentum, damping : float, optional
    seed : int
        Of what K-FAC draws.
    """

    optimizer: OptimizerName
    backend: BackendName
    reading: Reading
    learning_rate: float | None = None
    momentum: float | None = None
    damping: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in _RATES:
            raise ValueError(f"{self.optimizer} is not yet there; take one of {', '.join(_RATES)}")
        check_positive(learning_rate=self.learning_rate, damping=self.damping)
        check_not_negative(momentum=self.momentum)

    @property
    def name(self) -> str:
        """What to call it."""
        return f"kfac, {self.backend}" if self.optimizer is OptimizerName.kfac else str(self.optimizer)

    @property
    def facts(self) -> dict[str, Any]:
        """What was chosen, and what stands where nothing was."""
        rate = _RATES[self.optimizer] if self.learning_rate is None else self.learning_rate
        # In Adam the decay of the mean gradient has the place of a momentum.
        found: dict[str, Any] = {"learning_rate": rate, "momentum": 0.9 if self.momentum is None else self.momentum}
        if self.optimizer is OptimizerName.kfac:
            found |= {"backend": str(self.backend), "damping": 0.03 if self.damping is None else self.damping}
        return found

    def build(self, task: Task) -> optax.GradientTransformation:
        """Return the optimizer of a task."""
        found = self.facts
        rate, momentum = found["learning_rate"], found["momentum"]
        if self.optimizer is OptimizerName.sgd:
            return optax.sgd(rate, momentum)
        if self.optimizer is OptimizerName.adam:
            return optax.adam(rate, momentum)
        blocks = _BACKENDS[self.backend](self.reading)
        # A bound on the divergence of a step is what keeps small damping stable on batches of some dozens.
        limit = KLClip(1e-3)
        return kfac(
            task, rate, damping=found["damping"], momentum=momentum, blocks=blocks, limit=limit, seed=self.seed
        )
