"""What there is to know about the curvature and the gradient noise of a task before choosing a damping."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thermolinalg.laws import Scalar
from thermolinalg.operators import MatrixFree
from thermolinalg.operators.lanczos import tridiagonalise
from thermolinalg.optim.loss_base import wide
from thermolinalg.optim.task import Task, as_batch
from thermolinalg.ranges import check_positive, check_whole
from thermolinalg.spectrum import Spectrum

Product = Callable[[Any], Any]
"""A symmetric map between pytrees."""


class Estimate(NamedTuple):
    """A number that was estimated, and its standard error."""

    value: jax.Array
    stderr: jax.Array


def trace(product: Product, like: Any, *, key: jax.Array, probes: int = 32) -> Estimate:
    r"""Estimate the trace of a symmetric map from random probes.

    .. math:: \mathrm{tr}\,A \approx \frac1m \sum_{j=1}^m \epsilon_j^\top A \epsilon_j, \qquad \epsilon_{ji} = \pm 1

    Parameters
    ----------
    product : callable
        From a pytree to another of the same structure, such as ``ggn_operator(task, params, batch)``.
    like : pytree
        Parameters: only structure, shapes and dtypes count.
    key : PRNG key
    probes : int, >= 2
        m, the number of products.

    Returns
    -------
    Estimate
        The standard error is taken from the scatter of the probes; it has m - 1 degrees of freedom.

    Notes
    -----
    Unbiased. The variance of one probe is twice the sum of the squared entries off the diagonal.

    References
    ----------
    Hutchinson, *A stochastic estimator of the trace of the influence matrix*, Commun. Stat. 18 (1989).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> found = trace(lambda v: 3 * v, jnp.zeros(4), key=jax.random.key(0), probes=2)
    >>> found.value.item(), found.stderr.item()
    (12.0, 0.0)
    """
    check_whole("probes", probes, 2)
    flat, unravel = ravel_pytree(like)

    def one(key: jax.Array) -> jax.Array:
        probe = jax.random.rademacher(key, flat.shape, flat.dtype)
        return jnp.vdot(probe, _flat(product, unravel)(probe), precision=jax.lax.Precision.HIGHEST)

    return _average(jax.lax.map(one, jax.random.split(key, probes)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpectralDensity:
    r"""Where the eigenvalues of a symmetric map lie, estimated by Lanczos quadrature.

    .. math:: \mathrm{tr}\,f(A) = \sum_i f(\lambda_i) \approx \frac1m \sum_{j=1}^m \sum_k w_{kj} f(\theta_{kj})

    Attributes
    ----------
    nodes, weights : Array, shape (steps, probes)
        Each column is the quadrature of one probe; its weights add up to the number of unknowns.

    Notes
    -----
    The standard errors cover the scatter of the probes. The quadrature itself is exact for polynomials of degree 2
    steps - 1: more than enough for smooth functions, a staircase for :meth:`count`.
    """

    nodes: jax.Array
    weights: jax.Array

    def sum(self, function: Callable[[jax.Array], jax.Array]) -> Estimate:
        """Return the sum of a function over all eigenvalues, the trace of that function of the map."""
        return _average(jnp.sum(self.weights * function(self.nodes), 0))

    def count(self, threshold: Scalar) -> Estimate:
        """Return the number of eigenvalues above a threshold."""
        return self.sum(lambda x: (x > threshold).astype(x.dtype))

    def effective_dimension(self, damping: Scalar) -> Estimate:
        r"""Return :math:`\mathrm{tr}\,F(F + \lambda)^{-1}`: how many directions curvature decides and not damping.

        Raises
        ------
        ValueError
            If `damping` is not positive.
        """
        check_positive(damping=damping)
        return self.sum(lambda x: jnp.maximum(x, 0) / (jnp.maximum(x, 0) + jnp.asarray(damping, x.dtype)))


def spectral_density(
    product: Product, like: Any, *, key: jax.Array, probes: int = 8, steps: int = 64
) -> SpectralDensity:
    """Estimate the density of eigenvalues of a symmetric map by stochastic Lanczos quadrature.

    Parameters
    ----------
    product, like, key
        As for :func:`trace`.
    probes : int, >= 2
        Random start vectors, run side by side.
    steps : int, >= 1
        Lanczos steps of each, one product each; never more than there are unknowns.

    Returns
    -------
    SpectralDensity

    References
    ----------
    Ubaru, Chen and Saad, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*, SIAM J. Matrix Anal. Appl. 38
    (2017).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> density = spectral_density(lambda v: 3 * v, jnp.zeros(4), key=jax.random.key(0), probes=2)
    >>> round(density.effective_dimension(1.0).value.item(), 5)
    3.0
    """
    check_whole("probes", probes, 2)
    check_whole("steps", steps, 1)
    flat, unravel = ravel_pytree(like)
    block = jax.random.rademacher(key, (flat.size, probes), flat.dtype)
    matmat = jax.vmap(_flat(product, unravel), in_axes=1, out_axes=1)
    process = tridiagonalise(matmat, block, jnp.zeros(probes, flat.dtype), 0.0, min(steps, flat.size))
    return SpectralDensity(*process.quadrature())


def extremes(product: Product, like: Any, *, steps: int = 128) -> Spectrum:
    """Return the smallest and largest eigenvalue of a positive definite map, with bounds.

    Parameters
    ----------
    product, like
        As for :func:`trace`. Add the damping to the map to learn the condition number of a damped solve.
    steps : int, >= 2
        Lanczos steps. A map of no more unknowns than that is diagonalised.

    Returns
    -------
    Spectrum

    Notes
    -----
    The bounds hold with probability 0.99 over start vectors, which are the same in every call. A singular map has no
    positive lower bound: ``resolved`` is False.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> scales = jnp.array([1.0, 2.0, 5.0])
    >>> round(extremes(lambda v: scales * v, jnp.zeros(3)).kappa.item(), 4)
    5.0
    """
    check_whole("steps", steps, 2)
    flat, unravel = ravel_pytree(like)
    matmat = jax.vmap(_flat(product, unravel), in_axes=1, out_axes=1)
    return Spectrum.of(MatrixFree(matmat, flat.size, flat.dtype, survey_steps=steps))


class SignalToNoise(NamedTuple):
    r"""Gradient signal against the noise of one example.

    ``signal`` estimates :math:`\|G\|^2`, the squared norm of the expected gradient, and ``noise`` the trace of the
    covariance of one example's gradient, both without bias (so the signal may come out negative). ``ratio`` is signal
    over noise and ``stderr`` its standard error, by the jackknife. One over the ratio is the batch size at which noise
    and signal are alike.
    """

    signal: jax.Array
    noise: jax.Array
    ratio: jax.Array
    stderr: jax.Array


class GradientNoise(NamedTuple):
    """Signal to noise of each leaf, by its path, and of all parameters together."""

    leaves: dict[str, SignalToNoise]
    total: SignalToNoise


def gradient_noise(task: Task, params: Any, batch: tuple[Any, Any], *, together: int = 16) -> GradientNoise:
    r"""Estimate signal and noise of the gradient from the gradients of single examples.

    .. math:: \|G\|^2 \approx \frac{n^2\|\bar g\|^2 - \sum_i \|g_i\|^2}{n(n-1)}, \qquad
        \mathrm{tr}\,\Sigma \approx \frac{\sum_i \|g_i\|^2 - n\|\bar g\|^2}{n - 1}

    Parameters
    ----------
    task, params, batch
        Every leaf of the batch has the n >= 3 examples along its first axis.
    together : int, >= 1
        Gradients held in memory at a time.

    Returns
    -------
    GradientNoise

    Raises
    ------
    ValueError
        If there are fewer than three examples, or a leaf of the batch has another number.

    Notes
    -----
    Models that couple examples (batch normalisation) have no gradient of one example.

    References
    ----------
    McCandlish et al., *An empirical model of large-batch training*, arXiv:1812.06162.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from thermolinalg.optim.losses import SquaredError
    >>> from thermolinalg.optim.task import task
    >>> w, x = jnp.zeros((1, 1)), jnp.ones((3, 1))
    >>> line = task(lambda w, x: x @ w, SquaredError(), w, x)
    >>> found = gradient_noise(line, w, (x, jnp.array([[1.0], [2.0], [3.0]]))).total
    >>> round(found.signal.item(), 3), round(found.noise.item(), 3)
    (3.667, 1.0)
    """
    check_whole("together", together, 1)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(as_batch(batch))}
    if len(lengths) != 1 or (length := lengths.pop()) == () or length[0] < 3:
        raise ValueError("batch must have the same number of examples, at least 3, along the first axis of each leaf")
    n = length[0]
    mean = jax.grad(task.value)(params, batch)

    def one(example: Any) -> tuple[Any, Any]:
        alone = jax.tree.map(lambda leaf: leaf[None], example)
        g = jax.grad(task.value)(params, alone)
        return jax.tree.map(_inner, g, g), jax.tree.map(_inner, g, mean)

    squares, overlaps = jax.lax.map(one, (batch[0], batch[1]), batch_size=min(together, n))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    pairs = list(zip(jax.tree.leaves(squares), jax.tree.leaves(overlaps), strict=True))
    leaves = {path: _signal_to_noise(*pair) for path, pair in zip(paths, pairs, strict=True)}
    return GradientNoise(leaves, _signal_to_noise(sum(a for a, _ in pairs), sum(b for _, b in pairs)))


def suggested_damping(density: SpectralDensity, noise: SignalToNoise, examples: int) -> jax.Array:
    r"""Return the damping that is best on average for the noise of a batch, as a starting point.

    .. math:: \lambda = \frac{1}{n}\,\frac{\mathrm{tr}\,\Sigma}{\mathrm{tr}\,F}\,\frac{\mathrm{tr}\,F^2}{\|G\|^2}

    Parameters
    ----------
    density : SpectralDensity
        Of the curvature F.
    noise : SignalToNoise
        Of the gradient, such as ``gradient_noise(task, params, batch).total``.
    examples : int, >= 1
        n, the size of the batches to be used.

    Returns
    -------
    Array, shape ()
        Infinite where no signal is seen above the noise.

    Notes
    -----
    Derived for a quadratic loss with gradient :math:`Fx + \varepsilon`, noise :math:`\varepsilon \sim N(0, \sigma^2
    F/n)` as the Fisher information makes it, and a distance to the optimum :math:`x \sim N(0, \tau^2 I)`. The mean of x
    given the gradient g is then :math:`(F + \lambda)^{-1} g` with :math:`\lambda = \sigma^2/(n\tau^2)`; traces give
    :math:`\sigma^2 = \mathrm{tr}\,\Sigma/\mathrm{tr}\,F` and :math:`\tau^2 = \|G\|^2/\mathrm{tr}\,F^2`. It says nothing
    of curvature that changes along a step.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> density = SpectralDensity(jnp.full((1, 2), 2.0), jnp.full((1, 2), 3.0))
    >>> noise = SignalToNoise(*(jnp.array(x) for x in (12.0, 6.0, 0.5, 0.1)))
    >>> round(suggested_damping(density, noise, 10).item(), 4)
    0.1
    """
    check_whole("examples", examples, 1)
    first, second = density.sum(lambda x: x).value, density.sum(lambda x: x**2).value
    signal = jnp.where(noise.signal > 0, noise.signal, jnp.nan)
    found = (noise.noise / signal).astype(first.dtype) * second / (first * examples)
    return jnp.where(noise.signal > 0, found, jnp.inf)


def _signal_to_noise(squares: jax.Array, overlaps: jax.Array) -> SignalToNoise:
    """From |g_i|^2 and g_i . mean, shape (n,); leaving one out needs no more than these."""
    n = len(squares)

    def unbiased(n: int, whole: jax.Array, parts: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (whole - parts) / (n * (n - 1)), (parts - whole / n) / (n - 1)

    whole, parts = n * jnp.sum(overlaps), jnp.sum(squares)
    signal, noise = unbiased(n, whole, parts)
    others, rest = unbiased(n - 1, whole - 2 * n * overlaps + squares, parts - squares)
    ratios = others / rest
    spread = jnp.sum((ratios - jnp.mean(ratios)) ** 2) * (n - 1) / n
    return SignalToNoise(signal, noise, signal / noise, jnp.sqrt(spread))


def _flat(product: Product, unravel: Callable[[jax.Array], Any]) -> Callable[[jax.Array], jax.Array]:
    """A map between vectors."""
    return lambda v: ravel_pytree(product(unravel(v)))[0]


def _inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """Inner product of two leaves, in at least float32."""
    kind = wide(a.dtype)
    return jnp.vdot(a.astype(kind), b.astype(kind), precision=jax.lax.Precision.HIGHEST)


def _average(found: jax.Array) -> Estimate:
    """Mean over probes and its standard error."""
    return Estimate(jnp.mean(found), jnp.std(found, ddof=1) / len(found) ** 0.5)
