"""One chip: how its couplings differ from what was written to them, for as long as it lives."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from thermolinalg.laws import Scalar
from thermolinalg.ranges import check_not_negative


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chip:
    r"""A chip with components of finite accuracy.

    .. math:: \tilde A_{ij} = (1 + \mathtt{mismatch}\cdot\delta_{ij})\,A_{ij}

    Parameters
    ----------
    key : PRNG key
        Which chip it is: fixes the deviations :math:`\delta_{ij}`, standard normal, of all its cells. Component (i, j)
        is component (j, i).
    mismatch : float, >= 0
        Relative standard deviation of a coupling.
    dead : tuple of int
        Nodes that take part in nothing: uncoupled, without a force, and read as zero.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> chip = Chip(jax.random.key(0), mismatch=0.01)
    >>> found = chip.couple(jnp.eye(2), symmetric=True)
    >>> bool(jnp.allclose(found, jnp.eye(2), atol=0.05)), bool(found[0, 0] != 1)
    (True, True)
    """

    key: jax.Array
    mismatch: Scalar = 0.0
    dead: tuple[int, ...] = field(default=(), metadata={"static": True})

    def __post_init__(self) -> None:
        check_not_negative(mismatch=self.mismatch)
        if any(isinstance(node, bool) or not isinstance(node, int | np.integer) or node < 0 for node in self.dead):
            raise ValueError(f"dead must be a tuple of numbers of nodes, got {self.dead}")

    def alive(self, dim: int) -> jax.Array:
        """Which of so many nodes work.

        Raises
        ------
        ValueError
            If a dead node is not one of them, or none is left.
        """
        if self.dead and max(self.dead) >= dim:
            raise ValueError(f"node {max(self.dead)} cannot be dead: there are {dim} nodes, counted from 0")
        mask = np.ones(dim, bool)
        mask[list(self.dead)] = False
        if not mask.any():
            raise ValueError("all nodes are dead; nothing can be computed")
        return jnp.asarray(mask)

    def silence(self, block: jax.Array) -> jax.Array:
        """The block (d, k) with zeros where nodes are dead."""
        return jnp.where(self.alive(len(block))[:, None], block, 0) if self.dead else block

    def couple(self, block: jax.Array, *, symmetric: bool, array: int = 0) -> jax.Array:
        """What becomes of a block of couplings.

        Parameters
        ----------
        block : array, shape (d, ...)
            The first axis runs over nodes; if `symmetric`, the second one too.
        symmetric : bool
            Whether entries (i, j) and (j, i) are one component.
        array : int
            Which of several arrays on the chip.
        """
        real = jnp.finfo(block.dtype).dtype
        # Single precision is enough for what is not known anyway, and drawn in half the time.
        deviation = jax.random.normal(jax.random.fold_in(self.key, array), block.shape, jnp.float32).astype(real)
        if symmetric:
            deviation = jnp.tril(deviation) + jnp.tril(deviation, -1).T
        factor = 1 + jnp.asarray(self.mismatch).astype(real) * deviation
        found = block * factor.astype(block.dtype)
        if not self.dead:
            return found
        alive = self.alive(block.shape[0])
        if block.ndim == 1:
            return found
        if not symmetric:
            return self.silence(found)
        coupled = (alive[:, None] & alive[None]) | jnp.eye(block.shape[0], dtype=bool)
        return jnp.where(coupled, found, 0)
