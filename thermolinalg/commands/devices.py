"""Devices as the command line knows them: by name, with bits and mismatch of their own."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import thermolinalg as tla
from thermolinalg import presets
from thermolinalg.capacitances import maxwell_matrix
from thermolinalg.files import write_array


class PresetName(StrEnum):
    """Devices by name."""

    ideal = "ideal"
    rc = "rc"
    lc8 = "lc8"


_PRESETS: dict[PresetName, Callable[..., tla.Device]] = {
    PresetName.ideal: presets.ideal,
    PresetName.rc: presets.rc,
    PresetName.lc8: presets.lc8,
}


@dataclass(frozen=True)
class Hardware:
    """A preset, and what is to be different; None leaves it as it is.

    Attributes
    ----------
    preset : PresetName
    bits : int, optional
        Of every converter that the preset has; of all three for the ideal device.
    mismatch : float, optional
        Relative standard deviation of a coupling.
    chip_seed : int, optional
        Which chip it is.
    underdamped : bool
        An ideal device with inertia.
    beta : float, optional
        Inverse temperature.
    """

    preset: PresetName = PresetName.ideal
    bits: int | None = None
    mismatch: float | None = None
    chip_seed: int | None = None
    underdamped: bool = False
    beta: float | None = None

    def build(self) -> tla.Device:
        """Return the device.

        Raises
        ------
        ValueError
            If the options contradict one another, or one is out of range.
        """
        if self.underdamped and self.preset is not PresetName.ideal:
            raise ValueError(
                f"--underdamped is an ideal device with inertia, and {self.preset} brings its own dynamics; leave one "
                "of them out"
            )
        if self.chip_seed is not None and self.mismatch is None:
            raise ValueError("--chip-seed tells which of the chips with a mismatch it is; give --mismatch too")
        given = {} if self.beta is None else {"beta": self.beta}
        if self.preset is PresetName.ideal:
            device = presets.ideal(**given)
            if self.bits is not None:
                converter = tla.Converter(self.bits)
                device = replace(device, matrix_dac=converter, force_dac=converter, adc=converter)
            if self.underdamped:
                device = replace(device, dynamics=tla.Underdamped())
        else:
            fine = {} if self.bits is None else {"bits": self.bits}
            device = _PRESETS[self.preset](**given, **fine)
        if self.mismatch is None:
            return device
        return replace(device, chip=tla.Chip(jax.random.key(self.chip_seed or 0), self.mismatch))

    @property
    def facts(self) -> dict[str, Any]:
        """What a report says of the choice, beside what it says of the device."""
        return {"preset": str(self.preset), "chip_seed": None if self.mismatch is None else self.chip_seed or 0}


def facts_of(device: tla.Device) -> dict[str, Any]:
    """What a report says of a device."""
    converters = {"couplings": device.matrix_dac, "forces": device.force_dac, "readings": device.adc}
    return {
        "dynamics": type(device.dynamics).__name__.lower(),
        "beta": device.beta,
        "time_constant_s": device.time_constant,
        "cells": device.cells,
        "bits": {name: None if part is None else part.bits for name, part in converters.items()},
        "mismatch": None if device.chip is None else device.chip.mismatch,
    }


def listed(names: list[PresetName]) -> dict[str, Any]:
    """Presets with their figures, where these are from, and what is assumed."""
    found = {}
    for name in names:
        make = _PRESETS[name]
        source, assumed = (_section(make, part) for part in ("References", "Notes"))
        about = (inspect.getdoc(make) or "").partition("\n")[0].removeprefix("Return the ").rstrip(".")
        found[str(name)] = {"what": about} | facts_of(make()) | {"source": source, "assumed": assumed}
    return {"presets": found}


def write_example(path: Path) -> None:
    """Write a matrix of eight unknowns that every preset can hold: that of a network of capacitors."""
    cells = np.arange(8)
    # Neighbours in a ring are coupled most; the further, the less.
    apart = np.minimum(abs(cells[:, None] - cells[None]), 8 - abs(cells[:, None] - cells[None]))
    capacitances = np.where(apart > 0, 0.5**apart, 0.25 + 0.125 * cells[:, None])
    write_array(path, np.asarray(maxwell_matrix(jnp.asarray(capacitances)), np.float64))


def _section(function: Callable[..., Any], title: str) -> str | None:
    """The text under a heading of a docstring, in one paragraph."""
    lines = (inspect.getdoc(function) or "").splitlines()
    starts = [n for n, line in enumerate(lines) if set(line) == {"-"} and lines[n - 1] == title]
    if not starts:
        return None
    ends = [n - 1 for n, line in enumerate(lines) if set(line) == {"-"} and n > starts[0]]
    text = " ".join(" ".join(lines[starts[0] + 1 : ends[0] if ends else None]).split())
    return text.replace("*", "").replace("`", "").replace(":func:", "")
