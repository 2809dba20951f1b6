r"""Matrices that are known to break solvers, by name: symmetric positive definite, and the same on every call."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

Array = NDArray[np.float64]
Builders = Mapping[str, Callable[[int], Array]]

SHIFT = 1e-3
"""What is added to the diagonal of a graph Laplacian."""

NUGGET = 1e-6
"""What is added to the diagonal of a kernel matrix or a covariance of features, relative to the diagonal."""

PLANETS: Array = np.array(
    [
        [0.330, 4879.0, 5429.0, 3.7, 4.3, 57.9, 88.0, 47.4],
        [4.87, 12104.0, 5243.0, 8.9, 10.4, 108.2, 224.7, 35.0],
        [5.97, 12756.0, 5514.0, 9.8, 11.2, 149.6, 365.2, 29.8],
        [0.642, 6792.0, 3934.0, 3.7, 5.0, 228.0, 687.0, 24.1],
        [1898.0, 142984.0, 1326.0, 23.1, 59.5, 778.5, 4331.0, 13.1],
        [568.0, 120536.0, 687.0, 9.0, 35.5, 1432.0, 10747.0, 9.7],
        [86.8, 51118.0, 1270.0, 8.7, 21.3, 2867.0, 30589.0, 6.8],
        [102.0, 49528.0, 1638.0, 11.0, 23.5, 4515.0, 59800.0, 5.4],
    ]
)
"""Measured data, Mercury to Neptune: mass (1e24 kg), diameter (km), density (kg/m3), gravity (m/s2), escape velocity
(km/s), distance from the Sun (1e6 km), orbital period (days) and velocity (km/s). Laws of nature tie the columns. The
figures are those of NASA's Planetary Fact Sheet."""


def covariance(rows: ArrayLike, nugget: float = NUGGET) -> Array:
    """Return the covariance of standardised features, with a nugget.

    Parameters
    ----------
    rows : array, shape (n, d)
        Measured data, one observation a row; n may be less than d.
    nugget : float, > 0
        Added to the diagonal, which is 1.

    Returns
    -------
    array, shape (d, d)
        Its condition number is at most d / nugget + 1, and about that if features repeat each other.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or a column is constant or not finite.

    Examples
    --------
    >>> bool(np.linalg.cond(covariance(np.log(PLANETS))) > 1e4)
    True
    """
    table = np.asarray(rows, np.float64)
    if table.ndim != 2 or len(table) < 2:
        raise ValueError(f"rows must be a table of at least two rows, got shape {table.shape}")
    centred = table - table.mean(0)
    length = np.linalg.norm(centred, axis=0)
    if not np.all(np.isfinite(length) & (length > 0)):
        raise ValueError(f"rows must be finite and no column constant; see columns {np.flatnonzero(~(length > 0))}")
    unit = centred / length
    return _symmetric(unit.T @ unit) + nugget * np.eye(table.shape[1])


def laplacian(links: ArrayLike, shift: float = SHIFT) -> Array:
    """Return the Laplacian of a graph, with a shift.

    Parameters
    ----------
    links : array, shape (d, d)
        Symmetric weights, not negative; the diagonal does not count.
    shift : float, > 0
        The smallest eigenvalue; it belongs to the constant vector.

    Examples
    --------
    >>> laplacian([[0, 1], [1, 0]], shift=0.5).tolist()
    [[1.5, -1.0], [-1.0, 1.5]]
    """
    weights = np.array(links, np.float64)
    np.fill_diagonal(weights, 0.0)
    return np.diag(weights.sum(0) + shift) - weights


def _hilbert(d: int) -> Array:
    return np.asarray(linalg.hilbert(d))


def _wilkinson(d: int) -> Array:
    return _tridiagonal(np.abs(np.arange(d) - (d - 1) / 2) + 1.25, 1.0)


def _path(d: int) -> Array:
    return laplacian(_tridiagonal(np.zeros(d), 1.0))


def _star(d: int) -> Array:
    links = np.zeros((d, d))
    links[0], links[:, 0] = 1.0, 1.0
    return laplacian(links)


def _random_graph(d: int) -> Array:
    links = np.triu(np.random.default_rng(d).random((d, d)) < 0.5, 1)
    return laplacian(links | links.T)


def _gaussian_kernel(d: int) -> Array:
    x = np.linspace(0.0, 1.0, d)
    return np.exp(-0.5 * ((x[:, None] - x) / 0.3) ** 2) + NUGGET * np.eye(d)


def _planets(d: int) -> Array:
    return covariance(np.resize(np.log(PLANETS).T, (d, len(PLANETS))).T)


def _pascal(d: int) -> Array:
    return np.asarray(linalg.pascal(d), np.float64)


def _lehmer(d: int) -> Array:
    i = np.arange(1.0, d + 1)
    return np.minimum(i[:, None], i) / np.maximum(i[:, None], i)


def _moler(d: int) -> Array:
    i = np.arange(1.0, d + 1)
    return np.minimum(i[:, None], i) - 2 + 2 * np.eye(d)


def _prolate(d: int) -> Array:
    return np.asarray(linalg.toeplitz(0.5 * np.sinc(0.5 * np.arange(d))))


def _tridiagonal(diagonal: Array, beside: float) -> Array:
    d = len(diagonal)
    return np.diag(diagonal) + beside * (np.eye(d, k=1) + np.eye(d, k=-1))


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


ADVERSARIAL: Builders = {
    "hilbert": _hilbert,
    "wilkinson": _wilkinson,
    "path": _path,
    "star": _star,
    "random graph": _random_graph,
    "gaussian kernel": _gaussian_kernel,
    "planets": _planets,
    "pascal": _pascal,
    "lehmer": _lehmer,
    "moler": _moler,
    "prolate": _prolate,
}
r"""From a size to a symmetric positive definite matrix; extend it with your own. Condition numbers of d unknowns:

- ``hilbert``: :math:`1/(i + j + 1)`, :math:`e^{3.5 d}`; at d = 8 it is 1.5e10, from d = 10 beyond float64
- ``wilkinson``: tridiagonal, with pairs of almost equal eigenvalues, about 2 d
- ``path``, ``star``, ``random graph``: Laplacian plus :data:`SHIFT`, at most 4e3, 1e3 d and 1e3 d; all but two of the
  eigenvalues of a star are one number
- ``gaussian kernel``: of points on a line, with :data:`NUGGET`; 1.4e5 at d = 8, then at most 1e6 d
- ``planets``: covariance of the logarithms of :data:`PLANETS`, at most 1e6 d; columns repeat beyond the eighth
- ``pascal``: binomial coefficients, grows as :math:`16^d`; 2e7 at d = 8
- ``lehmer``: :math:`\min(i, j)/\max(i, j)`, at most :math:`4 d^2`
- ``moler``: one small eigenvalue, grows as :math:`4^d`; 1.4e5 at d = 8
- ``prolate``: Toeplitz, eigenvalues close to 0 or 1, grows as :math:`5.8^d`; 6e4 at d = 8
"""
