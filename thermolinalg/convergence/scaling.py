"""Exponents of power laws, fitted to measured runs."""

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Scaling:
    r"""A power law :math:`y = c \prod_j x_j^{e_j}`.

    Attributes
    ----------
    exponents, stderr : dict of float
        :math:`e_j` and its standard error, for each variable.
    prefactor : float
        :math:`c`.
    degrees : float
        Degrees of freedom of the standard errors; infinite if those of the data were given.
    misfit : float
        Root mean square of what the law leaves, in logarithms.
    """

    exponents: dict[str, float]
    stderr: dict[str, float]
    prefactor: float
    degrees: float
    misfit: float

    def agrees(self, false_alarm: float = 1e-3, **expected: float) -> bool:
        """Whether exponents are those that theory expects, each within its standard error times a quantile."""
        from scipy import stats

        limit = stats.t.isf(false_alarm / (2 * len(expected)), self.degrees)
        return all(abs(self.exponents[name] - value) <= limit * self.stderr[name] for name, value in expected.items())


def fit_exponents(values: ArrayLike, *, stderr: ArrayLike | None = None, **variables: ArrayLike) -> Scaling:
    r"""Fit the exponents of a power law in several variables, by least squares in logarithms.

    Parameters
    ----------
    values : array, shape (n,), > 0
        What was measured, such as times or squared errors.
    stderr : array, shape (n,), optional
        Its standard errors, small against the values. By default all relative errors are alike and taken from the
        scatter about the law.
    **variables : array, shape (n,), > 0
        What was varied, by name: ``kappa=``, ``epsilon=``, ``dim=``.

    Raises
    ------
    ValueError
        If shapes differ, a number is not positive, or the variables do not determine the exponents.

    Notes
    -----
    A law that is no power law over the range (a logarithm, a crossover) shows in ``misfit``, not in ``stderr``.

    Examples
    --------
    >>> kappa, epsilon = np.array([10.0, 10.0, 100.0, 100.0]), np.array([0.1, 0.01, 0.1, 0.02])
    >>> law = fit_exponents(3 * kappa**2 / epsilon**2, kappa=kappa, epsilon=epsilon)
    >>> round(law.exponents["kappa"], 6), round(law.exponents["epsilon"], 6), round(law.prefactor, 6)
    (2.0, -2.0, 3.0)
    """
    if not variables:
        raise ValueError("give at least one variable, as in fit_exponents(times, kappa=kappas)")
    measured = {name: np.asarray(x, float) for name, x in {"values": values, **variables}.items()}
    n = len(np.atleast_1d(measured["values"]))
    for name, x in measured.items():
        if x.shape != (n,) or not np.all((x > 0) & np.isfinite(x)):
            raise ValueError(f"{name} must be a vector of {n} positive numbers, got {x}")
    logs = [np.log(measured[name]) for name in variables]
    design, target = np.stack([np.ones(n), *logs], 1), np.log(measured["values"])
    unknowns = design.shape[1]
    if n < unknowns or np.linalg.matrix_rank(design) < unknowns:
        raise ValueError(
            f"{n} points do not determine {unknowns - 1} exponents; vary every variable, and not all of them together"
        )
    scale = np.ones(n) if stderr is None else measured["values"] / np.asarray(stderr, float)
    fit, *_ = np.linalg.lstsq(design * scale[:, None], target * scale, rcond=None)
    left = target - design @ fit
    covariance = np.linalg.inv((design * scale[:, None]).T @ (design * scale[:, None]))
    degrees: float = inf if stderr is not None else n - unknowns
    if stderr is None:
        covariance = covariance * (np.sum(left**2) / max(degrees, 1))
    errors = np.sqrt(np.diagonal(covariance))
    names = list(variables)
    return Scaling(
        dict(zip(names, map(float, fit[1:]), strict=True)),
        dict(zip(names, map(float, errors[1:]), strict=True)),
        float(np.exp(fit[0])),
        degrees,
        float(np.sqrt(np.mean(left**2))),
    )
