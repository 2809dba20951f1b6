"""Systems that several test files share, and an independent route to the law of a run."""

import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm


def system(d=12, kappa=30.0, seed=0, largest=1.0, dtype=np.float64):
    """A random SPD matrix with a geometric spectrum, a right-hand side and the solution, in NumPy."""
    rng = np.random.default_rng(seed)
    complex_ = np.issubdtype(dtype, np.complexfloating)
    gauss = rng.standard_normal((d, d)) + (1j * rng.standard_normal((d, d)) if complex_ else 0)
    basis, _ = np.linalg.qr(gauss)
    A = (basis * (largest * np.geomspace(1 / kappa, 1, d))) @ basis.conj().T
    A = ((A + A.conj().T) / 2).astype(dtype)
    b = (rng.standard_normal(d) + (1j * rng.standard_normal(d) if complex_ else 0)).astype(dtype)
    return jnp.asarray(A), jnp.asarray(b), np.linalg.solve(A.astype(np.result_type(A, np.float64)), b)


def exact_run(drift, force, diffusion, burn_in, duration):
    """Mean and covariance of (average, end state) of dx = -(drift x - force) dt + N(0, diffusion dt) from rest at zero.

    By Van Loan's block exponential of the process augmented with the integral of x; nothing is diagonalised, and
    nothing is shared with the library.
    """
    n = len(drift)
    eye, zero = np.eye(n), np.zeros((n, n))

    def moments(generator, push, noise, time):
        size = len(generator)
        block = np.zeros((2 * size + 1, 2 * size + 1))
        block[:size, :size] = generator
        block[:size, size : 2 * size] = noise
        block[size : 2 * size, size : 2 * size] = -generator.T
        flow = expm(block * time)
        propagator = flow[:size, :size]
        covariance = flow[:size, size : 2 * size] @ propagator.T
        affine = np.zeros((size + 1, size + 1))
        affine[:size, :size], affine[:size, size] = generator, push
        return propagator, expm(affine * time)[:size, size], (covariance + covariance.T) / 2

    _, mean, spread = moments(-drift, force, diffusion, burn_in)
    joint = np.block([[zero, eye], [zero, -drift]])
    push = np.concatenate([np.zeros(n), force])
    noise = np.block([[zero, zero], [zero, diffusion]])
    propagator, gained, fresh = moments(joint, push, noise, duration)
    scale = np.concatenate([np.full(n, 1 / duration), np.ones(n)])
    mean = (propagator[:, n:] @ mean + gained) * scale
    covariance = (propagator[:, n:] @ spread @ propagator[:, n:].T + fresh) * np.outer(scale, scale)
    return mean, covariance
