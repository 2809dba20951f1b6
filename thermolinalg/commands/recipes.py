"""Optimizers as the command line knows them: by name, with a backend and numbers of their own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import optax

import thermolinalg as tla
from thermolinalg.optim.analog import ThermodynamicInverse, ThermodynamicSolve
from thermolinalg.optim.dual import Dual
from thermolinalg.optim.eigenbases import CorrectedEigenbases, Eigenbases
from thermolinalg.optim.fisher import Columns, exact
from thermolinalg.optim.iterative import CG, NewtonSchulz
from thermolinalg.optim.kfac import kfac
from thermolinalg.optim.kronecker import BlockSolver, Factored
from thermolinalg.optim.lanes import Lane, Primal
from thermolinalg.optim.matrix_free import Iterative
from thermolinalg.optim.ngd import ngd, scale_by_ngd
from thermolinalg.optim.row_solves import RowSolves
from thermolinalg.optim.solvers import Cholesky, CholeskyInverse
from thermolinalg.optim.task import Task
from thermolinalg.optim.thermodynamic import Thermodynamic
from thermolinalg.optim.trust import KLClip
from thermolinalg.ranges import check_fractions, check_not_negative, check_positive


class OptimizerName(StrEnum):
    """Optimizers by name."""

    sgd = "sgd"
    adam = "adam"
    kfac = "kfac"
    ngd = "ngd"
    tngd = "tngd"
    tngd_adam = "tngd-adam"


class LaneName(StrEnum):
    """Ways to the step of natural gradient."""

    dual = "dual"
    primal = "primal"
    cg = "cg"


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

RELAXING = (OptimizerName.tngd, OptimizerName.tngd_adam)
"""Optimizers that are a device which relaxes under the curvature of a batch."""


@dataclass(frozen=True)
class Relaxation:
    """How a device makes a step of thermodynamic natural gradient.

    Attributes
    ----------
    device : Device
    time : float
        Of a step, in time constants.
    carry : bool
        Whether a step begins where the last one ended.
    delay : float
        Time, part of `time`, for which the device goes on with the old system; needs `carry`.
    temperature : float
    """

    device: tla.Device = field(default_factory=tla.Device)
    time: float = 50.0
    carry: bool = False
    delay: float = 0.0
    temperature: float = 0.0

    @property
    def lane(self) -> Thermodynamic:
        """The device as a way to natural gradients."""
        return Thermodynamic(
            self.time,
            carry_state=self.carry,
            delay=self.delay,
            temperature=self.temperature,
            device=self.device,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What was chosen."""
        chosen = {"relaxation": self.time, "carry": self.carry, "delay": self.delay}
        return chosen | {"temperature": self.temperature}


_LANES: dict[LaneName, Lane] = {
    LaneName.dual: Dual(),
    LaneName.primal: Primal(),
    LaneName.cg: Iterative(rtol=1e-2),
}

# What suits small problems and batches of some dozens. In Adam the decay of the mean has the place of a momentum.
_USUAL: dict[OptimizerName, dict[str, float]] = {
    OptimizerName.sgd: {"learning_rate": 0.1, "momentum": 0.9},
    OptimizerName.adam: {"learning_rate": 1e-3, "momentum": 0.9},
    OptimizerName.kfac: {"learning_rate": 0.1, "momentum": 0.9, "damping": 0.03},
    OptimizerName.ngd: {"learning_rate": 0.3, "momentum": 0.9, "damping": 1.0},
    OptimizerName.tngd: {"learning_rate": 0.3, "momentum": 0.9, "damping": 1.0},
    OptimizerName.tngd_adam: {"learning_rate": 1e-2, "momentum": 0.9, "damping": 1.0},
}


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
        Of what is drawn.
    lane : LaneName, optional
        Of natural gradient; by default sizes decide.
    relaxation : Relaxation
        Of thermodynamic natural gradient.
    fisher : callable
        Columns of the curvature of natural gradient.
    """

    optimizer: OptimizerName
    backend: BackendName
    reading: Reading
    learning_rate: float | None = None
    momentum: float | None = None
    damping: float | None = None
    seed: int = 0
    lane: LaneName | None = None
    relaxation: Relaxation = field(default_factory=Relaxation)
    fisher: Columns = exact

    def __post_init__(self) -> None:
        check_positive(learning_rate=self.learning_rate, damping=self.damping)
        check_not_negative(momentum=self.momentum)
        if self.damping is not None and "damping" not in _USUAL[self.optimizer]:
            raise ValueError(f"--damping is added to a curvature, and {self.optimizer} has none; leave it out")

    @property
    def name(self) -> str:
        """What to call it."""
        return f"kfac, {self.backend}" if self.optimizer is OptimizerName.kfac else str(self.optimizer)

    @property
    def on_device(self) -> bool:
        """Whether a device is modelled."""
        return self.optimizer in RELAXING or (self.optimizer is OptimizerName.kfac and self.backend in ON_DEVICE)

    @property
    def facts(self) -> dict[str, Any]:
        """What was chosen, and what stands where nothing was."""
        given = {"learning_rate": self.learning_rate, "momentum": self.momentum, "damping": self.damping}
        found: dict[str, Any] = _USUAL[self.optimizer] | {n: v for n, v in given.items() if v is not None}
        if self.optimizer is OptimizerName.kfac:
            found |= {"backend": str(self.backend)}
        if self.optimizer in (OptimizerName.ngd, *RELAXING):
            found |= {"columns": "exact" if self.fisher is exact else "drawn"}
        if self.optimizer is OptimizerName.ngd:
            found |= {"lane": "by sizes" if self.lane is None else str(self.lane)}
        return found | (self.relaxation.facts if self.optimizer in RELAXING else {})

    def build(self, task: Task) -> optax.GradientTransformation:
        """Return the optimizer of a task."""
        return _BUILDERS[self.optimizer](self, task)


def _kfac(recipe: Recipe, task: Task) -> optax.GradientTransformation:
    found = recipe.facts
    return kfac(
        *(task, found["learning_rate"]),
        damping=found["damping"],
        momentum=found["momentum"],
        blocks=_BACKENDS[recipe.backend](recipe.reading),
        # A bound on the divergence of a step is what keeps small damping stable on batches of some dozens.
        limit=KLClip(1e-3),
        seed=recipe.seed,
    )


def _natural(recipe: Recipe, task: Task, lane: Lane | None) -> optax.GradientTransformation:
    found = recipe.facts
    numbers = {name: found[name] for name in ("damping", "momentum")}
    return ngd(task, found["learning_rate"], **numbers, lane=lane, fisher=recipe.fisher, seed=recipe.seed)


def _natural_adam(recipe: Recipe, task: Task) -> optax.GradientTransformation:
    """Adam that is told natural gradients for gradients."""
    found = recipe.facts
    lane, fisher = recipe.relaxation.lane, recipe.fisher
    direction = scale_by_ngd(task, damping=found["damping"], lane=lane, fisher=fisher, seed=recipe.seed)
    return optax.chain(direction, optax.adam(found["learning_rate"], found["momentum"]))


_BUILDERS: dict[OptimizerName, Callable[[Recipe, Task], optax.GradientTransformation]] = {
    OptimizerName.sgd: lambda recipe, task: optax.sgd(recipe.facts["learning_rate"], recipe.facts["momentum"]),
    OptimizerName.adam: lambda recipe, task: optax.adam(recipe.facts["learning_rate"], recipe.facts["momentum"]),
    OptimizerName.kfac: _kfac,
    OptimizerName.ngd: lambda recipe, task: _natural(recipe, task, _LANES[recipe.lane] if recipe.lane else None),
    OptimizerName.tngd: lambda recipe, task: _natural(recipe, task, recipe.relaxation.lane),
    OptimizerName.tngd_adam: _natural_adam,
}
