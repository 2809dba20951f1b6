"""How much the samples behind a covariance repeat each other, in the few sums that its tests need."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from thermolinalg.covariances import overlap
from thermolinalg.simulators import Machine, Schedule


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Overlap:
    r"""Sums over the variances :math:`F_{ij}` of the entries of a whitened covariance; 1/N for N independent samples.

    Attributes
    ----------
    diagonal, total : Array, shape ()
        :math:`\sum_i F_{ii}` and :math:`\sum_{ij} F_{ij}`.
    diagonal_squares, squares : Array, shape ()
        The same of :math:`F_{ij}^2`.
    triples : Array, shape ()
        :math:`\sum_{ijk} F_{ii} F_{ij} F_{ik}`.
    crowding : Array, shape ()
        Covariance of the squares of two entries that share an index, over that of independent samples with the same F:
        1 for those, 5/2 for a continuous average of modes that forget exponentially.
    """

    diagonal: jax.Array
    total: jax.Array
    diagonal_squares: jax.Array
    squares: jax.Array
    triples: jax.Array
    crowding: jax.Array

    @classmethod
    def independent(cls, samples: jax.Array, d: int) -> "Overlap":
        """Return the overlap of that many independent samples of d unknowns."""
        one = 1 / samples
        sums = d * one, d**2 * one, d * one**2, d**2 * one**2, d**3 * one**3
        return cls(*sums, jnp.ones_like(one))

    @classmethod
    def of(cls, machine: Machine, rates: jax.Array, schedule: Schedule) -> "Overlap":
        """Return the overlap of the samples of one run, for modes with these eigenvalues."""
        memory = machine.dynamics.memory(rates)
        gram = overlap(memory, memory, schedule.duration, schedule.samples)
        # How far the samples are from independent says how far the fourth moments are.
        apart = 0.0
        if schedule.samples is not None:
            apart = 1 / (jnp.asarray(schedule.samples).astype(gram.dtype) * jnp.diagonal(gram))
        gram = gram / schedule.replicas
        own = jnp.diagonal(gram)
        crowding = 2.5 - 1.5 * jnp.mean(jnp.minimum(jnp.broadcast_to(apart, own.shape), 1.0))
        sums = jnp.sum(own), jnp.sum(gram), jnp.sum(own**2), jnp.sum(gram**2), jnp.sum(own * jnp.sum(gram, 1) ** 2)
        return cls(*sums, crowding)

    def explain(self, detail: int = 1) -> str:
        """One sentence."""
        del detail
        return f"fourth moments are {float(jnp.max(self.crowding)):.2f} times those of independent samples"
