"""Blocks dealt out to the devices of a mesh: each inverts its own, and all know all inverses afterwards."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from thermolinalg.optim.factors import Pair
from thermolinalg.optim.kronecker import Blocks, BlockSolver, Gradient, Rows, State
from thermolinalg.optim.solvers import Info


@dataclass(frozen=True)
class Distributed:
    """Refresh blocks on the devices of a mesh, each block on one device.

    Blocks go to devices by the cubes of their sizes, largest first, always to the least loaded device. What a refresh
    finds is summed over the axis, so that every device holds all of it; applying is left to the compiler.

    Parameters
    ----------
    blocks : BlockSolver
    mesh : Mesh
    axis : str
        Axis of the mesh.

    Raises
    ------
    ValueError
        If the mesh has no such axis.

    Notes
    -----
    The answer does not depend on the number of devices, bit for bit, as long as the solver's does not. The time of a
    refresh falls to that of the most loaded device: with one dominating block nothing is gained.
    """

    blocks: BlockSolver
    mesh: Mesh
    axis: str

    def __post_init__(self) -> None:
        if self.axis not in self.mesh.shape:
            raise ValueError(f"axis must be one of the mesh's {tuple(self.mesh.shape)}, got {self.axis!r}")

    def init(self, factors: dict[str, Pair]) -> State:
        """Shape the state."""
        return self.blocks.init(factors)

    def observe(self, rows: Callable[[], Rows], decay: jax.Array, state: State) -> State:
        """See the rows of the curvature of one batch."""
        return self.blocks.observe(rows, decay, state)

    def prepare(self, factors: dict[str, Pair], damping: jax.Array, state: State, key: jax.Array) -> State:
        """Refresh every block on the device it was dealt to."""
        owner = deal({path: _work(pair) for path, pair in factors.items()}, self.mesh.shape[self.axis])
        keys = dict(zip(factors, jax.random.split(key, len(factors)), strict=True))

        def share(factors: dict[str, Pair], damping: jax.Array, state: State, keys: dict[str, jax.Array]) -> State:
            here = jax.lax.axis_index(self.axis)
            found = {}
            for path, pair in factors.items():
                own, mine = state[path], (here == owner[path])
                # Only the owner takes the costly branch; zeros of all others leave its result alone in the sum.
                one = jax.lax.cond(
                    mine,
                    lambda path=path, pair=pair, own=own: self._one(path, pair, damping, own, keys[path]),
                    lambda own=own: jax.tree.map(jnp.zeros_like, own),
                )
                found[path] = jax.tree.map(lambda leaf: _sum(leaf, self.axis), one)
            return found

        return _over_mesh(share, self.mesh)(factors, damping, state, keys)

    def apply(self, gradient: Gradient, state: State, key: jax.Array) -> tuple[Blocks, dict[str, Info], State]:
        """Precondition a gradient."""
        return self.blocks.apply(gradient, state, key)

    def _one(self, path: str, pair: Pair, damping: jax.Array, own: State, key: jax.Array) -> State:
        new = self.blocks.prepare({path: pair}, damping, {path: own}, key)[path]
        return jax.tree.map(lambda a, b: a.astype(b.dtype), new, own)


def deal(work: dict[str, float], devices: int) -> dict[str, int]:
    """Assign every block to a device: largest first, to the least loaded.

    Parameters
    ----------
    work : dict of float, >= 0
        By block.
    devices : int, >= 1

    Returns
    -------
    dict of int
        Device of every block.

    Notes
    -----
    The most loaded device has at most 4/3 of the best possible load (Graham's bound).

    References
    ----------
    Graham, *Bounds on multiprocessing timing anomalies*, SIAM J. Appl. Math. 17, 1969.

    Examples
    --------
    >>> deal({"a": 3.0, "b": 2.0, "c": 2.0}, 2)
    {'a': 0, 'b': 1, 'c': 1}
    """
    load, owner = [0.0] * devices, {}
    for path in sorted(work, key=lambda name: -work[name]):
        owner[path] = min(range(devices), key=lambda device: load[device])
        load[owner[path]] += work[path]
    return {path: owner[path] for path in work}


def _work(pair: Pair) -> float:
    members = 1
    for size in pair.lead:
        members *= size
    return members * ((0 if pair.diagonal else pair.rows**3) + pair.columns**3)


def _sum(leaf: jax.Array, axis: str) -> jax.Array:
    if leaf.dtype == bool:
        return jax.lax.psum(leaf.astype(jnp.int32), axis) > 0
    return jax.lax.psum(leaf, axis)


def _over_mesh(function: Callable[..., State], mesh: Mesh) -> Callable[..., State]:
    """Run on every device with everything replicated; what the devices make in turn is not to be checked for that."""
    everywhere = PartitionSpec()
    if hasattr(jax, "shard_map"):
        return jax.shard_map(function, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)
    from jax.experimental.shard_map import shard_map  # where it was up to JAX 0.6.0

    return shard_map(function, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_rep=False)
