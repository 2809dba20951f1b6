r"""The rank-b shortcut: precondition the rows that a gradient is made of, and never multiply two large matrices."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from thermolinalg.optim.kronecker import (
    Blocks,
    Factored,
    Gradient,
    Reciprocal,
    State,
    apply_each,
    member_keys,
    over_lead,
    worst,
)
from thermolinalg.optim.solvers import Info


@dataclass(frozen=True)
class RowSolves(Factored):
    r"""Solve for the rows of a gradient rather than for the gradient.

    .. math:: V = \sum_i a_i g_i^\top \quad\Rightarrow\quad
        A^{-1} V G^{-1} = \sum_i (A^{-1} a_i)(G^{-1} g_i)^\top

    Parameters
    ----------
    solver : Solver
        As in :class:`~thermolinalg.optim.Factored`, here for `N` right-hand sides on either side: what a device that
        solves linear systems does best.

    Notes
    -----
    For `N` rows (examples times positions) one application costs :math:`2N(d_A^2 + d_G^2 + d_A d_G)` in place of
    :math:`2 d_A d_G (d_A + d_G)`; a block for which that is no gain is solved as a whole. A gradient that is not the
    sum of these rows (clipped, accumulated, with a penalty added, a weight used twice) is noticed by a random
    projection and solved as a whole, too: the answer is right either way, only the time differs.
    """

    def apply(self, gradient: Gradient, state: State, key: jax.Array) -> tuple[Blocks, dict[str, Info], State]:
        """Solve row by row where that is cheaper and the rows are those of the gradient."""
        rows = gradient.rows()
        values: Blocks = {}
        infos: dict[str, Info] = {}
        states: dict[str, State] = {}
        for i, (path, matrix) in enumerate(gradient.matrices.items()):
            found = self._one(path, matrix, rows.get(path), state[path], jax.random.fold_in(key, i))
            values[path], infos[path], states[path] = found
        return values, infos, states

    def _one(
        self, path: str, matrix: jax.Array, rows: tuple[jax.Array, jax.Array] | None, state: State, key: jax.Array
    ) -> tuple[jax.Array, Info, State]:
        """One block, row by row or as a whole."""

        def whole() -> tuple[jax.Array, Info, State]:
            values, infos, states = apply_each(self.solve_pair, {path: matrix}, {path: state}, key)
            return values[path], infos[path], states[path]

        diagonal = isinstance(state["a"], Reciprocal)
        if rows is None or diagonal or not _cheaper(rows[0].shape[0], *matrix.shape[-2:]):
            return whole()
        a, g = (jnp.moveaxis(side, 0, -2) for side in rows)
        lead = matrix.shape[:-2]

        def split() -> tuple[jax.Array, Info, State]:
            run = over_lead(self._solve_rows, len(lead))
            value, info, new = run((a, g), state, member_keys(key, 0, lead))
            return value, worst([info]), new

        return jax.lax.cond(_is_sum(matrix, a, g, jax.random.fold_in(key, 1)), split, whole)

    def _solve_rows(
        self, parts: tuple[jax.Array, jax.Array], state: State, key: jax.Array
    ) -> tuple[jax.Array, Info, State]:
        first, second = jax.random.split(key)
        left, one, a = self.solve_side(parts[0].T, state["a"], first)
        right, two, g = self.solve_side(parts[1].T, state["g"], second)
        return left @ right.T, worst([one, two]), {"a": a, "g": g}


def _cheaper(count: int, rows: int, columns: int) -> bool:
    return count * (rows**2 + columns**2 + rows * columns) < rows * columns * (rows + columns)


def _is_sum(matrix: jax.Array, a: jax.Array, g: jax.Array, key: jax.Array) -> jax.Array:
    """Whether a matrix is the sum of outer products of rows, seen along one random direction."""
    # Normal numbers: signs could cancel where a difference is of rank one.
    direction = jax.random.normal(key, (matrix.shape[-1],), matrix.dtype)
    gap = matrix @ direction - jnp.einsum("...ni,...n->...i", a, g @ direction)
    size = jnp.sqrt(jnp.sum(a**2, (-2, -1)) * jnp.sum(g**2, (-2, -1)) * matrix.shape[-1])
    # Rounding of a sum in another order is far below the root of the unit roundoff of its terms.
    return jnp.all(jnp.sqrt(jnp.sum(gap**2, -1)) <= jnp.sqrt(jnp.finfo(matrix.dtype).eps) * size)
