"""What a correction proposed by the device does to the answer."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from thermolinalg.operators.base import Matmat


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Iterate:
    """Where a refinement stands; blocks of shape (d, k), a column for each right-hand side.

    Attributes
    ----------
    force : Array
        The right-hand sides.
    value : Array
        The answer so far.
    residual : Array
        Force less A times the value, as far as the update knows it.
    exact : Array of bool, shape (k,)
        Whether the residual was computed from the value itself, or updated along with it, where rounding errors add up.
    direction, image : Array
        Room for what an update remembers: a vector and its product with A; zero at first.
    """

    force: jax.Array
    value: jax.Array
    residual: jax.Array
    exact: jax.Array
    direction: jax.Array
    image: jax.Array

    @classmethod
    def start(cls, force: jax.Array) -> "Iterate":
        """The origin, whose residual is the force."""
        nothing = jnp.zeros_like(force)
        return cls(force, nothing, force, jnp.ones(force.shape[1], bool), nothing, nothing)


Update = Callable[[Iterate, jax.Array, Matmat], Iterate]
"""From an iterate, a correction and the product with A to the next iterate."""


def richardson(iterate: Iterate, correction: jax.Array, product: Matmat) -> Iterate:
    """Add the correction as it is: plain iterative refinement, one product.

    Converges only if every correction is better than none; see :func:`thermolinalg.refine.contraction`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> now = richardson(Iterate.start(jnp.ones((2, 1))), jnp.full((2, 1), 0.5), lambda block: 2 * block)
    >>> float(abs(now.residual).max())
    0.0
    """
    value = iterate.value + correction
    residual = iterate.force - product(value)
    return replace(iterate, value=value, residual=residual, exact=jnp.ones_like(iterate.exact))


def flexible_cg(iterate: Iterate, correction: jax.Array, product: Matmat) -> Iterate:
    r"""Go the best way along the correction, made A-orthogonal to the direction before; one product.

    .. math:: p = c - \frac{q_0^* c}{q_0^* p_0}\,p_0, \qquad q = Ap, \qquad x \leftarrow x + \frac{p^* r}{p^* q}\,p,
        \qquad r \leftarrow r - \frac{p^* r}{p^* q}\,q

    The error in the A-norm never grows, whatever the correction is.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> now = flexible_cg(Iterate.start(jnp.ones((2, 1))), jnp.full((2, 1), -9.0), lambda block: 2 * block)
    >>> now.value.ravel().tolist()
    [0.5, 0.5]
    """
    # Lengths leave the range of float32 when squared; directions have none to speak of.
    scale = jnp.max(jnp.abs(correction), axis=0)
    correction = correction / jnp.where(scale > 0, scale, 1.0)[None].astype(correction.dtype)
    old = inner(iterate.image, iterate.direction).real
    overlap = inner(iterate.image, correction) / jnp.where(old > 0, old, 1.0).astype(correction.dtype)
    direction = correction - jnp.where(old > 0, overlap, 0.0)[None] * iterate.direction
    image = product(direction)
    stiffness = inner(direction, image).real
    step = inner(direction, iterate.residual) / jnp.where(stiffness > 0, stiffness, 1.0).astype(correction.dtype)
    step = jnp.where(stiffness > 0, step, 0.0)[None]
    return replace(
        iterate,
        value=iterate.value + step * direction,
        residual=iterate.residual - step * image,
        exact=jnp.zeros_like(iterate.exact),
        direction=direction,
        image=image,
    )


def inner(left: jax.Array, right: jax.Array) -> jax.Array:
    """Inner product of each pair of columns."""
    return jnp.sum(left.conj() * right, axis=0)
