"""Strategies for ``hypothesis``: spectra, matrices, drifts and right-hand sides that break solvers.

They draw a kind, a size and a seed, and leave the numbers to NumPy, so that failing examples shrink to small matrices
in the coordinate basis.
"""

from collections.abc import Callable, Mapping

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from thermolinalg.testing.adversarial import ADVERSARIAL, Array, Builders

Ints = st.SearchStrategy[int]
Floats = st.SearchStrategy[float]
Spectra = Mapping[str, Callable[[int, float], Array]]
Drifts = Mapping[str, Callable[[np.random.Generator, Array, float], Array]]

SPECTRA: Spectra = {
    "linear": lambda d, kappa: np.linspace(1 / kappa, 1.0, d),
    "geometric": lambda d, kappa: np.geomspace(1 / kappa, 1.0, d),
    "clustered": lambda d, kappa: np.sort(np.resize([1.0, 1 / kappa, kappa**-0.5], d)),
    "one small": lambda d, kappa: np.append(1 / kappa, np.ones(d - 1)),
    "one large": lambda d, kappa: np.append(np.full(d - 1, 1 / kappa), 1.0),
}
"""From (d >= 2, kappa) to d eigenvalues in ascending order from 1/kappa to 1; extend it with your own."""


def _normal(rng: np.random.Generator, rates: Array, coupling: float) -> Array:
    """Pairs of modes that turn into each other at the rate `coupling`, in a random orthogonal basis."""
    drift = np.diag(rates)
    for i in range(0, len(rates) - 1, 2):
        drift[i : i + 2, i : i + 2] = [[rates[i], coupling], [-coupling, rates[i]]]
    basis = _orthogonal(rng, len(rates))
    return basis @ drift @ basis.T


def _non_normal(rng: np.random.Generator, rates: Array, coupling: float) -> Array:
    """Triangular, strong above the diagonal; then relabelled with random signs."""
    return _relabelled(rng, np.diag(rates) + coupling * np.triu(rng.standard_normal((len(rates), len(rates))), 1))


def _jordan(rng: np.random.Generator, rates: Array, coupling: float) -> Array:
    """One Jordan block at the smallest rate; then relabelled with random signs."""
    return _relabelled(rng, rates[0] * np.eye(len(rates)) + coupling * np.eye(len(rates), k=1))


DRIFTS: Drifts = {"normal": _normal, "non-normal": _non_normal, "jordan": _jordan}
"""From (generator, rates, coupling) to a drift matrix; extend it with your own."""

DIMS = st.integers(1, 8)
KAPPAS = st.floats(0.0, 4.0).map(lambda digits: 10.0**digits)
KAPPAS_WIDE = st.floats(0.0, 8.0).map(lambda digits: 10.0**digits)
COUPLINGS = st.floats(0.0, 10.0)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def spectra(draw: st.DrawFn, dims: Ints = DIMS, kappas: Floats = KAPPAS, kinds: Spectra = SPECTRA) -> Array:
    r"""Draw a positive spectrum in ascending order; its largest eigenvalue is 1.

    Parameters
    ----------
    dims : strategy for int, >= 1
        Number of eigenvalues. A single one is 1, whatever the condition number.
    kappas : strategy for float, >= 1
        Condition number :math:`\lambda_\max/\lambda_\min`: to 1e4 by default, to 1e8 with ``KAPPAS_WIDE``.
    kinds : mapping from names to callables
        Shapes to choose from, as in :data:`SPECTRA`. Scale the result with ``.map(lambda rates: 3.0 * rates)``.

    Examples
    --------
    >>> from hypothesis import given
    >>> check = given(spectra(st.just(5), st.just(100.0)))
    >>> check(lambda rates: np.testing.assert_allclose(rates[[0, -1]], [0.01, 1.0]))()
    """
    d, kappa, kind = draw(dims), draw(kappas), draw(st.sampled_from(list(kinds)))
    return kinds[kind](d, kappa) if d > 1 else np.ones(1)


@st.composite
def spd_matrices(draw: st.DrawFn, dims: Ints = DIMS, kappas: Floats = KAPPAS, kinds: Spectra = SPECTRA) -> Array:
    r"""Draw a symmetric positive definite matrix :math:`U \Lambda U^\top`, with :math:`\Lambda` from :func:`spectra`.

    The parameters are those of :func:`spectra`; :math:`U` is the identity or uniformly random. The matrix is symmetric
    to the last bit, and its eigenvalues are right to about d rounding errors of the largest.

    Examples
    --------
    >>> from hypothesis import given
    >>> check = given(spd_matrices(st.just(4), st.just(100.0)))
    >>> check(lambda A: np.testing.assert_allclose(np.linalg.cond(A), 100.0))()
    """
    eigenvalues = draw(spectra(dims, kappas, kinds))
    if not draw(st.booleans()):
        return np.diag(eigenvalues)
    basis = _orthogonal(np.random.default_rng(draw(SEEDS)), len(eigenvalues))
    matrix = (basis * eigenvalues) @ basis.T
    return (matrix + matrix.T) / 2


@st.composite
def adversarial_matrices(
    draw: st.DrawFn, dims: Ints = DIMS, kinds: Builders = ADVERSARIAL, worst: float = 1e12
) -> Array:
    """Draw a symmetric positive definite matrix of a kind that is known to break solvers.

    Parameters
    ----------
    dims : strategy for int, >= 1
        Number of unknowns.
    kinds : mapping from names to callables
        Matrices to choose from, as in :data:`ADVERSARIAL`; yours among them.
    worst : float
        Condition number above which a matrix is not drawn. Beyond 1e13 float64 does not know the smallest eigenvalue.

    Examples
    --------
    >>> from hypothesis import given
    >>> check = given(adversarial_matrices(worst=1e6))
    >>> check(lambda A: np.testing.assert_array_less(np.linalg.cond(A), 1.01e6))()
    """
    kind, d = draw(st.sampled_from(list(kinds))), draw(dims)
    matrix = kinds[kind](d)
    assume(np.linalg.cond(matrix) <= worst)
    return matrix


@st.composite
def stable_drifts(
    draw: st.DrawFn, dims: Ints = DIMS, kappas: Floats = KAPPAS, couplings: Floats = COUPLINGS, kinds: Drifts = DRIFTS
) -> Array:
    r"""Draw a drift matrix, in general not symmetric, whose eigenvalues have real parts in :math:`[1/\kappa, 1]`.

    Parameters
    ----------
    dims, kappas
        As in :func:`spectra`, for the real parts.
    couplings : strategy for float, >= 0
        Size of what is off the diagonal: imaginary parts of a normal drift, departure from normality of the others.
    kinds : mapping from names to callables
        Drifts to choose from, as in :data:`DRIFTS`. Those that are not normal are triangular up to a signed permutation
        and so stable exactly; rounding would move the eigenvalues of a d x d Jordan block by its d-th root.

    Examples
    --------
    >>> from hypothesis import given
    >>> check = given(stable_drifts(kappas=st.just(10.0), kinds={"normal": DRIFTS["normal"]}))
    >>> check(lambda A: np.testing.assert_array_less(0.099, np.linalg.eigvals(A).real))()
    """
    rates, coupling, kind = draw(spectra(dims, kappas)), draw(couplings), draw(st.sampled_from(list(kinds)))
    return kinds[kind](np.random.default_rng(draw(SEEDS)), rates, coupling)


@st.composite
def right_hand_sides(draw: st.DrawFn, matrix: ArrayLike) -> Array:
    """Draw a right-hand side of unit length for a symmetric matrix.

    Parameters
    ----------
    matrix : array, shape (d, d)
        The vector lies along its easiest mode (largest eigenvalue), its hardest, or a random mixture.

    Examples
    --------
    >>> from hypothesis import given
    >>> check = given(right_hand_sides(np.diag([1.0, 2.0])))
    >>> check(lambda b: np.testing.assert_allclose(np.linalg.norm(b), 1.0))()
    """
    modes = np.linalg.eigh(np.asarray(matrix, np.float64))[1]
    mode = draw(st.sampled_from((-1, 0, None)))
    vector = np.random.default_rng(draw(SEEDS)).standard_normal(len(modes)) if mode is None else modes[:, mode]
    return vector / np.linalg.norm(vector)


def _orthogonal(rng: np.random.Generator, d: int) -> Array:
    """Uniformly random orthogonal matrix."""
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)


def _relabelled(rng: np.random.Generator, matrix: Array) -> Array:
    """Permute the coordinates and flip some signs: a change of basis that does not round."""
    signs, order = rng.choice([-1.0, 1.0], len(matrix)), rng.permutation(len(matrix))
    return (signs[:, None] * matrix * signs)[np.ix_(order, order)]
