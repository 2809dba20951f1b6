r"""Blocks in the eigenbases of their factors: exact damping of a Kronecker product, and EKFAC."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from thermolinalg.optim.factors import Pair
from thermolinalg.optim.kronecker import Blocks, Gradient, Rows, State, apply_each, member_keys, over_lead
from thermolinalg.optim.solvers import Code, Info, report
from thermolinalg.optim.trees import mixed


class Basis(NamedTuple):
    """Eigenvectors of both factors, the curvature of every coordinate in them, and the damping."""

    p: jax.Array | None
    q: jax.Array
    curvature: jax.Array
    damping: jax.Array


@dataclass(frozen=True)
class Eigenbases:
    r"""Damp the Kronecker product itself, in the eigenbases of its factors.

    .. math:: V \mapsto P \left[ \frac{P^\top V Q}{s t^\top + \lambda} \right] Q^\top, \qquad
        A = P \operatorname{diag}(s) P^\top, \quad G = Q \operatorname{diag}(t) Q^\top

    Notes
    -----
    One eigendecomposition of each factor per refresh, about 4 times the price of an inverse, and four products for
    one application. Equal to :math:`(A \otimes G + \lambda I)^{-1}` to rounding.
    """

    def init(self, factors: dict[str, Pair]) -> State:
        """Identity bases, curvature one."""
        return {path: _identity(pair) for path, pair in factors.items()}

    def observe(self, rows: Callable[[], Rows], decay: jax.Array, state: State) -> State:
        """Factors are all this needs to know."""
        del rows, decay
        return state

    def prepare(self, factors: dict[str, Pair], damping: jax.Array, state: State, key: jax.Array) -> State:
        """Diagonalise every factor."""
        return {
            path: over_lead(_diagonalise, len(pair.lead))(pair, state[path], member_keys(key, 0, pair.lead), damping)
            for path, pair in factors.items()
        }

    def apply(self, gradient: Gradient, state: State, key: jax.Array) -> tuple[Blocks, dict[str, Info], State]:
        """Rotate, divide, rotate back."""
        return apply_each(_divide, gradient.matrices, state, key)


@dataclass(frozen=True)
class CorrectedEigenbases(Eigenbases):
    r"""EKFAC: the eigenbases of the factors, with the curvature of every coordinate measured in them.

    .. math:: s t^\top \to \mathbb E\left[ (P^\top V_i Q)^2 \right]

    with :math:`V_i` the gradients of single examples (columns of the Fisher matrix).

    Notes
    -----
    The best diagonal in that basis, in the Frobenius norm. A refresh begins with that of
    :class:`Eigenbases`; from there it moves towards the measured one with the running mean of the factors. Every weight
    must be used once per example (no positions, no sharing); a model with others is refused.

    References
    ----------
    George et al., *Fast approximate natural gradient descent in a Kronecker-factored eigenbasis*, arXiv:1806.03884.
    """

    def observe(self, rows: Callable[[], Rows], decay: jax.Array, state: State) -> State:
        """Measure the second moments in the present bases."""
        found = rows()
        return {path: _measured(basis, found[path], decay) if path in found else basis for path, basis in state.items()}


def _identity(pair: Pair) -> Basis:
    eye = [jnp.broadcast_to(jnp.eye(n, dtype=pair.g.dtype), (*pair.lead, n, n)) for n in (pair.rows, pair.columns)]
    one = jnp.ones((*pair.lead, pair.rows, pair.columns), pair.g.dtype)
    return Basis(None if pair.diagonal else eye[0], eye[1], one, jnp.ones(pair.lead, pair.g.dtype))


def _diagonalise(pair: Pair, old: Basis, key: jax.Array, damping: jax.Array) -> Basis:
    del key
    s, p = (pair.a, None) if pair.diagonal else jnp.linalg.eigh(pair.a)
    t, q = jnp.linalg.eigh(pair.g)
    # Rounding may leave an eigenvalue of a semidefinite factor below zero.
    s, t = jnp.maximum(s, 0), jnp.maximum(t, 0)
    return Basis(p, q, s[:, None] * t[None, :], jnp.asarray(damping, old.damping.dtype))


def _divide(matrix: jax.Array, basis: Basis, key: jax.Array) -> tuple[jax.Array, Info, Basis]:
    del key
    turned = matrix @ basis.q if basis.p is None else basis.p.T @ matrix @ basis.q
    turned = turned / (basis.curvature + basis.damping)
    back = turned @ basis.q.T
    return (back if basis.p is None else basis.p @ back), report(Code.OK, jnp.nan), basis


def _measured(basis: Basis, rows: tuple[jax.Array, jax.Array], decay: jax.Array) -> Basis:
    a, g = rows
    examples = a.shape[0]
    axes = basis.q.ndim - 2
    a, g = jnp.moveaxis(a, 0, axes), jnp.moveaxis(g, (0, 1), (axes, axes + 1))

    def moments(pair: tuple[jax.Array, jax.Array], basis: Basis, unused: jax.Array) -> jax.Array:
        del unused
        a, g = pair
        turned = a if basis.p is None else a @ basis.p
        square = jnp.sum((g @ basis.q) ** 2, 1)
        return (turned**2).T @ square / examples

    new = over_lead(moments, axes)((a, g), basis, jnp.zeros(basis.q.shape[:axes]))
    return basis._replace(curvature=mixed(jnp.asarray(decay), basis.curvature, new))
