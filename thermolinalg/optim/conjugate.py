"""Conjugate gradients on any pytree."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.optim.solvers import Code, Info, report, working
from thermolinalg.ranges import check_fractions

Tree = Any


def cg(
    matvec: Callable[[Tree], Tree],
    rhs: Tree,
    *,
    start: Tree | None = None,
    rtol: float | jax.Array = 1e-5,
    max_steps: int | jax.Array = 1000,
    precondition: Callable[[Tree], Tree] | None = None,
) -> tuple[Tree, Info]:
    r"""Solve :math:`Ax = b` by conjugate gradients, to :math:`|b - Ax| \le \mathtt{rtol}\,|b|` in the 2-norm.

    Parameters
    ----------
    matvec : callable
        Product with a symmetric positive definite operator, from a pytree like `rhs` to another.
    rhs : pytree of arrays
        The right-hand side; one array, or parameters of a model.
    start : pytree like `rhs`, optional
        Where to start; forgotten if its residual is larger than that of zero.
    rtol : float, in (0, 1)
    max_steps : int
        Most steps, each with one product.
    precondition : callable, optional
        Linear, symmetric and positive definite: an approximate inverse.

    Returns
    -------
    x : pytree like `rhs`
        Always finite if `rhs` is: where a direction of no positive curvature or something not finite turns up, that
        step is not made.
    info : Info
        ``NOT_CONVERGED`` if the true residual, which costs one more product, is above twice `rtol`: because steps ran
        out, or because the dtype allows no better, about :math:`\mathtt{eps}\,|A||x|/|b|`.
        ``NOT_POSITIVE_DEFINITE`` or ``NOT_FINITE`` say why a step was not made.

    Raises
    ------
    ValueError
        If `rtol` is out of range.

    Notes
    -----
    Inner products are in at least single precision and leaves need not share a dtype. The right-hand side is scaled to
    a largest entry of about 1 before, so that squares neither overflow nor vanish. Under ``vmap`` all wait for the
    slowest.

    References
    ----------
    Hestenes and Stiefel, *Methods of conjugate gradients for solving linear systems*, J. Res. NBS 49 (1952).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> b = {"weight": jnp.array([2.0, 4.0]), "bias": jnp.array(3.0)}
    >>> x, info = cg(lambda v: {"weight": 2 * v["weight"], "bias": 3 * v["bias"]}, b)
    >>> x["weight"].round(4).tolist(), int(info.code)
    ([1.0, 2.0], 0)
    """
    check_fractions(rtol=rtol)
    # Leaves keep their dtype for the operator; everything else is in one that holds sums.
    wide = jax.tree.map(working, rhs)
    kind = jnp.float64 if any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(wide)) else jnp.float32
    exponent = _exponent(wide)
    b = _shifted(wide, -exponent)

    def multiply(v: Tree) -> Tree:
        return jax.tree.map(working, matvec(_like(v, rhs)))

    def dot(u: Tree, v: Tree) -> jax.Array:
        pairs = zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True)
        return jnp.sum(jnp.stack([jnp.vdot(x.astype(kind), y.astype(kind), precision="highest") for x, y in pairs]))

    def improve(r: Tree) -> Tree:
        return r if precondition is None else jax.tree.map(working, precondition(_like(r, rhs)))

    size = jnp.sqrt(dot(b, b))
    limit = jnp.asarray(rtol).astype(kind) * size
    x, r = jax.tree.map(jnp.zeros_like, b), b
    if start is not None:
        warm = _shifted(jax.tree.map(working, start), -exponent)
        left = _add(b, -jnp.ones((), kind), multiply(warm))
        better = dot(left, left) <= size**2
        x, r = _select(better, warm, x), _select(better, left, r)

    def running(carry: tuple[Any, ...]) -> jax.Array:
        _, r, _, _, step, fault = carry
        return (jnp.sqrt(dot(r, r)) > limit) & (step < max_steps) & (fault == 0)

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        x, r, p, rz, step, _ = carry
        q = multiply(p)
        curvature = dot(p, q)
        sound = (curvature > 0) & (rz > 0)
        alpha = jnp.where(sound, rz / jnp.where(sound, curvature, 1), 0)
        to, left = _add(x, alpha, p), _add(r, -alpha, q)
        z = improve(left)
        new = dot(left, z)
        finite = jnp.isfinite(curvature) & jnp.isfinite(rz) & jnp.isfinite(new) & jnp.isfinite(dot(to, to))
        fine = sound & finite
        fault = jnp.where(finite, int(Code.NOT_POSITIVE_DEFINITE), int(Code.NOT_FINITE))
        turned = _add(z, new / jnp.where(fine, rz, 1), p)
        parts = (_select(fine, *pair) for pair in ((to, x), (left, r), (turned, p)))
        return *parts, jnp.where(fine, new, rz), step + 1, jnp.where(fine, 0, fault).astype(jnp.int32)

    z = improve(r)
    zero = jnp.zeros((), jnp.int32)
    x, _, _, _, steps, fault = jax.lax.while_loop(running, advance, (x, r, z, dot(r, z), zero, zero))
    left = _add(b, -jnp.ones((), kind), multiply(x))
    residual = jnp.sqrt(dot(left, left)) / jnp.where(size > 0, size, 1)
    short = jnp.where(residual <= 2 * jnp.asarray(rtol).astype(kind), int(Code.OK), int(Code.NOT_CONVERGED))
    code = jnp.where(jnp.isfinite(residual), jnp.maximum(fault, short.astype(jnp.int32)), int(Code.NOT_FINITE))
    return _like(_shifted(x, exponent), rhs), report(code, residual, steps)


def _exponent(tree: Tree) -> jax.Array:
    """Exponent of the largest entry of all leaves; 0 for zero and for what is not finite."""
    largest = [jnp.max(jnp.abs(leaf), initial=0.0) for leaf in jax.tree.leaves(tree)]
    exponents = [jnp.where((x > 0) & jnp.isfinite(x), jnp.frexp(x)[1], -(2**15)) for x in largest]
    found = jnp.max(jnp.stack(exponents))
    return jnp.where(found > -(2**15), found, 0)


def _shifted(tree: Tree, exponent: jax.Array) -> Tree:
    return jax.tree.map(lambda leaf: jnp.ldexp(leaf, exponent), tree)


def _like(tree: Tree, other: Tree) -> Tree:
    """The tree in the dtypes of another."""
    return jax.tree.map(lambda x, y: x.astype(jnp.asarray(y).dtype), tree, other)


def _add(x: Tree, scale: jax.Array, y: Tree) -> Tree:
    return jax.tree.map(lambda a, b: a + scale.astype(a.dtype) * b.astype(a.dtype), x, y)


def _select(which: jax.Array, yes: Tree, no: Tree) -> Tree:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), yes, no)
