"""Energies of samples."""

from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from thermolinalg.figures.axes import finish

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def energy_figure(energies: ArrayLike, degrees: int, title: str) -> "Figure":
    """Draw how often samples have which energy, beside the chi-square law with these degrees of freedom."""
    from matplotlib.figure import Figure
    from scipy.special import chdtri, gammaln

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    found = np.asarray(energies)
    bins = min(max(round(found.size**0.5), 5), 60)
    axes.hist(found, bins=bins, density=True, color="#fdae6b", label=f"measured, {found.size} samples")
    low, high = chdtri(degrees, 0.9995), chdtri(degrees, 0.0005)
    grid = np.linspace(min(low, found.min()), max(high, found.max()), 400)[1:]
    density = np.exp((degrees / 2 - 1) * np.log(grid / 2) - grid / 2 - gammaln(degrees / 2)) / 2
    axes.plot(grid, density, color="#2171b5", lw=1.5, label=f"predicted, chi-square on {degrees} degrees")
    axes.set(
        xlabel=r"Twice the energy of a sample over its temperature, $\beta\,(x - \mu)^* A\,(x - \mu)$", ylabel="Density"
    )
    finish(axes, title)
    return figure
