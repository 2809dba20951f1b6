"""What the commands have in common before they run: precision, files, and a clock that shows what is going on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import numpy as np
from rich.console import Console

import thermolinalg as tla
from thermolinalg.files import read_matrix, read_vectors
from thermolinalg.operators import DENSE_LIMIT, Operator
from thermolinalg.plan import check_plan

REFERENCE_LIMIT = 4096
"""Largest number of unknowns for which LAPACK is asked for the exact answer."""


class Precision(StrEnum):
    """Floating point type of the simulation."""

    float64 = "float64"
    float32 = "float32"

    def cast(self, array: Any) -> Any:
        """Return numbers in this precision, complex if they are."""
        kind = np.dtype(self.value)
        # What overflows here is refused by the check for finite entries that every operand passes.
        with np.errstate(over="ignore"):
            return array.astype(np.result_type(kind, np.complex64) if array.dtype.kind == "c" else kind)


@dataclass(frozen=True)
class Operand:
    """A matrix that was read from a file.

    Attributes
    ----------
    name : str
        Of the file.
    matrix : numpy array or SciPy sparse array
        In the precision of the simulation.
    """

    name: str
    matrix: Any

    @property
    def dense(self) -> np.ndarray:
        """The matrix for a verb whose answer is a matrix; what is sparse because it is large is refused."""
        if isinstance(self.matrix, np.ndarray):
            return self.matrix
        if self.matrix.shape[0] > DENSE_LIMIT:
            raise ValueError(
                f"{self.name}: the answer would be a dense matrix of {self.matrix.shape[0]} unknowns, and a sparse "
                f"matrix is made dense up to {DENSE_LIMIT} only; store it densely, as .npy, if that is what you mean"
            )
        return self.matrix.toarray()

    @property
    def double(self) -> Any:
        """The matrix in double precision, stored as it was."""
        return Precision.float64.cast(self.matrix)

    @property
    def exact(self) -> np.ndarray:
        """The matrix for LAPACK: dense, in double precision."""
        return self.double if isinstance(self.double, np.ndarray) else self.double.toarray()

    @property
    def facts(self) -> dict[str, Any]:
        """Name, size and type."""
        stored = np.count_nonzero(self.matrix) if isinstance(self.matrix, np.ndarray) else self.matrix.count_nonzero()
        unknowns, dtype = self.matrix.shape[0], self.matrix.dtype.name
        return {"matrix": self.name, "unknowns": unknowns, "nonzeros": stored, "dtype": dtype}


@dataclass(frozen=True)
class Session:
    """What the commands have in common: precision, whether a figure is wanted, and a clock.

    Attributes
    ----------
    dtype : Precision
    drawn : bool
        Whether a figure will be asked for, so that one which cannot be drawn is refused before anything runs.
    live : bool
        Whether to show on a terminal what is going on.
    seed : int
        For converters that round at random.
    seconds : dict
        Time that each phase took.
    """

    dtype: Precision
    drawn: bool
    live: bool
    seed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        """Say what is going on, and keep the time that it took."""
        console = Console(stderr=True)
        begin = perf_counter()
        with console.status(text) if self.live and console.is_terminal else nullcontext():
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - begin

    def read(self, path: Path) -> Operand:
        """Read a matrix."""
        jax.config.update("jax_enable_x64", True)
        return Operand(path.name, self.dtype.cast(read_matrix(path)))

    def read_force(self, path: Path | None, dim: int) -> np.ndarray:
        """Read right-hand sides; all ones where there is no file."""
        return self.dtype.cast(np.ones(dim) if path is None else read_vectors(path))

    def program(self, operand: Operand, operator: Operator, device: tla.Device) -> tla.Program:
        """Write the couplings to a device."""
        with self.phase("program", f"Finding the spectrum of {operand.name}"):
            return jax.block_until_ready(device.program(operator, key=jax.random.key(self.seed)))

    def plan(self, plan: Callable[[], tla.Plan]) -> tla.Plan:
        """Plan a run."""
        with self.phase("plan", "Planning"):
            return check_plan(plan())

    def check_drawable(self, dim: int) -> None:
        """Raise a ``ValueError`` if a figure is wanted that needs an answer nobody will give."""
        if self.drawn and dim > REFERENCE_LIMIT:
            raise ValueError(f"--plot needs the answer of LAPACK, which is asked up to {REFERENCE_LIMIT} unknowns")
