"""Conjugate gradients: with a sampled inverse as the preconditioner, and plain, the floor for everything here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.laws import Scalar
from thermolinalg.operators import Operator, as_block, as_inexact, as_operator, is_concrete
from thermolinalg.operators.base import Matmat
from thermolinalg.ranges import check_fractions
from thermolinalg.refine.implicit import follow
from thermolinalg.refine.updates import inner
from thermolinalg.solution import Solution, Status

Near = Callable[[jax.Array, jax.Array], jax.Array]
"""From values and preconditioned residuals to the columns that are close enough."""

RESTARTS = 5
"""Restarts from a true residual before a column counts as stuck at the rounding floor."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Search:
    """State of conjugate gradients, column by column."""

    value: jax.Array
    residual: jax.Array
    preconditioned: jax.Array
    direction: jax.Array
    step: jax.Array
    steps: jax.Array
    restarts: jax.Array
    live: jax.Array
    done: jax.Array
    broken: jax.Array


def _search(product: Matmat, precondition: Matmat, force: jax.Array, near: Near, max_steps: Scalar) -> _Search:
    """Run until every column is near by its true residual, stuck, broken, or out of steps."""

    def restarted(search: _Search, close: jax.Array) -> tuple[jax.Array, jax.Array]:
        true = force - product(search.value)
        preconditioned = jnp.where(close[None], precondition(true), search.preconditioned)
        return jnp.where(close[None], true, search.residual), preconditioned

    def body(search: _Search) -> _Search:
        before = inner(search.residual, search.preconditioned).real
        image = product(search.direction)
        stiffness = inner(search.direction, image).real
        fit = search.live & (before > 0) & (stiffness > 0) & jnp.isfinite(before) & jnp.isfinite(stiffness)
        length = jnp.where(fit, before / jnp.where(fit, stiffness, 1.0), 0.0)[None].astype(force.dtype)
        value, residual = search.value + length * search.direction, search.residual - length * image
        preconditioned = jnp.where(fit[None], precondition(residual), search.preconditioned)
        moved = _Search(
            value,
            residual,
            preconditioned,
            search.direction,
            search.step + 1,
            search.steps + fit.astype(jnp.int32),
            search.restarts,
            fit,
            search.done,
            search.broken | (search.live & ~fit & jnp.any(search.residual != 0, axis=0)),
        )
        close = fit & near(value, preconditioned)
        residual, preconditioned = jax.lax.cond(
            jnp.any(close), restarted, lambda search, _: (search.residual, search.preconditioned), moved, close
        )
        done = close & near(value, preconditioned)
        after = inner(residual, preconditioned).real
        turn = jnp.where(fit & ~close, after / jnp.where(fit, before, 1.0), 0.0)[None].astype(force.dtype)
        restarts = search.restarts + close.astype(jnp.int32)
        return _Search(
            value,
            residual,
            preconditioned,
            preconditioned + turn * search.direction,
            moved.step,
            moved.steps,
            restarts,
            fit & ~done & (restarts < RESTARTS),
            search.done | done,
            moved.broken,
        )

    count = jnp.zeros(force.shape[1], jnp.int32)
    live = jnp.any(force != 0, axis=0)
    first = precondition(force)
    begin = _Search(jnp.zeros_like(force), force, first, first, jnp.array(0), count, count, live, ~live, ~live & False)
    return jax.lax.while_loop(lambda s: jnp.any(s.live) & (s.step < max_steps), body, begin)


def conjugate_gradients(
    A: Any, b: ArrayLike, *, reference: ArrayLike, rtol: Scalar = 1e-10, max_steps: int | None = None
) -> Solution:
    r"""Run plain conjugate gradients until they are as close to a known answer: the floor for every refinement.

    .. math:: \|x_k - x_\mathrm{ref}\| \le \mathtt{rtol}\,\|x_\mathrm{ref}\|

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix or lineax operator
        Symmetric, or complex Hermitian, positive definite.
    b, reference : array, shape (d,) or (d, k)
        Right-hand sides, and answers to compare with.
    rtol : float, in (0, 1)
        Relative distance in the 2-norm.
    max_steps : int, optional
        10 d + 100 by default.

    Returns
    -------
    Solution
        ``stderr`` is the root mean square distance to the reference; ``stats["matvecs"]``, shape () or (k,), the
        number of products with A, or -1 where the reference was not reached, with ``Status.NOT_CONVERGED``.

    Raises
    ------
    ValueError
        If shapes do not match, values are not finite, or `rtol` is out of range.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> A, b = jnp.diag(jnp.array([1.0, 2.0, 4.0])), jnp.ones(3)
    >>> floor = conjugate_gradients(A, b, reference=jnp.array([1.0, 0.5, 0.25]), rtol=1e-5)
    >>> int(floor.stats["matvecs"])
    3
    """
    check_fractions(rtol=rtol)
    operator = as_operator(A)
    force, target = as_block(b, operator, "b"), as_block(reference, operator, "reference")
    if force.shape != target.shape:
        raise ValueError(f"reference must have the shape of b, got {jnp.shape(reference)} and {jnp.shape(b)}")
    return _plain(operator, force, target, rtol, _limit(operator, max_steps), jnp.shape(b))


@partial(jax.jit, static_argnums=5)
def _plain(operator, force, target, rtol, max_steps, shape):
    search = plain_search(operator, force, target, rtol, max_steps)
    apart = jnp.linalg.norm(search.value - target, axis=0) / operator.dim**0.5
    count = reached(search)
    flags = jnp.where(jnp.all(count >= 0), 0, int(Status.NOT_CONVERGED)).astype(jnp.int32)
    stderr = jnp.broadcast_to(apart[None], force.shape).reshape(shape)
    method = "The solution is that of plain conjugate gradients, without a device."
    return Solution(search.value.reshape(shape), stderr, flags, {"matvecs": count.reshape(shape[1:])}, method)


def plain_search(operator: Operator, force: jax.Array, target: jax.Array, rtol: Scalar, max_steps: Scalar) -> _Search:
    """Plain conjugate gradients until they are near the target."""
    size = jnp.linalg.norm(target, axis=0)
    limit = jnp.asarray(rtol).astype(size.dtype) * size

    def near(value: jax.Array, _: jax.Array) -> jax.Array:
        return jnp.linalg.norm(value - target, axis=0) <= limit

    return _search(operator.matmat, lambda block: block, force, near, max_steps)


def reached(search: _Search) -> jax.Array:
    """Number of steps of each column; -1 for those that did not get near."""
    return jnp.where(search.done, search.steps, -1)


def pcg(
    A: Any,
    b: ArrayLike,
    C: Solution | ArrayLike,
    *,
    rtol: Scalar = 1e-10,
    max_steps: int | None = None,
) -> Solution:
    r"""Solve by conjugate gradients that are preconditioned by a sampled inverse.

    .. math:: CAx = Cb, \qquad \operatorname{cond}(CA) \simeq
        \left(\frac{1 + \sqrt{d/N}}{1 - \sqrt{d/N}}\right)^2

    for N independent samples in C: the condition number of A itself does not matter.

    Parameters
    ----------
    A : array (d, d), operator, SciPy sparse matrix or lineax operator
        Symmetric, or complex Hermitian, positive definite; matrix-free too.
    b : array, shape (d,) or (d, k)
        Right-hand sides.
    C : Solution of :func:`thermolinalg.inv`, or array (d, d)
        The preconditioner, positive definite: more effective samples than unknowns.
    rtol : float, in (0, 1)
        Relative error in the 2-norm, as the preconditioned residual Cr shows it.
    max_steps : int, optional
        10 d + 100 by default.

    Returns
    -------
    Solution
        ``stderr`` from the preconditioned true residual at the end, one number for a column. ``stats``: ``matvecs``,
        products with A for each column; ``plain_cg``, those that :func:`conjugate_gradients` needs to come as close
        (-1: not reached); ``predicted``, :math:`\ln(2/\mathtt{rtol})/\ln\sqrt{N/d}` where the number of effective
        samples is known and larger than d, else NaN.

    Raises
    ------
    ValueError
        If shapes do not match, values are not finite or `C` is not positive definite. Under ``jit`` that sets
        ``Status.NOT_POSITIVE_DEFINITE``.

    Notes
    -----
    The test works since C is close to the inverse: Cr is the error up to a factor between
    :math:`(1 - \sqrt{d/N})^2` and :math:`(1 + \sqrt{d/N})^2` in the norm that C makes round, and up to
    the root of the condition number more in the 2-norm at worst. A column that seems done is tested again with its true
    residual, and restarts from there if that fails; ``Status.STAGNATED`` after five times. Every mode needs its
    effective samples: with a run too short for the slowest modes the iterations exceed those without preconditioner.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> A, b = jnp.diag(jnp.geomspace(1e-2, 1.0, 8)), jnp.ones(8)
    >>> rough = jnp.diag(1.1 / jnp.geomspace(1e-2, 1.0, 8))
    >>> x = pcg(A, b, rough, rtol=1e-5)
    >>> int(x.status), bool(x.stats["matvecs"] < x.stats["plain_cg"])
    (0, True)
    """
    check_fractions(rtol=rtol)
    operator = as_operator(A)
    force = as_block(b, operator, "b")
    effective = C.stats.get("effective_samples") if isinstance(C, Solution) else None
    inverse = as_inexact(C.value if isinstance(C, Solution) else C, "C")
    if inverse.shape != operator.shape:
        raise ValueError(f"C must have shape {operator.shape} to match A, got {inverse.shape}")
    if is_concrete(inverse) and not bool(jnp.all(jnp.isfinite(inverse))):
        raise ValueError("C has entries that are not finite; look for NaN, infinity or overflow in its making")
    inverse = inverse.astype(operator.dtype)
    answer = _pcg(operator, force, inverse, effective, rtol, _limit(operator, max_steps), jnp.shape(b))
    if is_concrete(answer.status) and int(answer.status) & Status.NOT_POSITIVE_DEFINITE:
        raise ValueError(
            "C or A is not positive definite to working precision. Sample C longer, with more effective samples than "
            f"the {operator.dim} unknowns, and check A"
        )
    return answer


@partial(jax.jit, static_argnums=6)
def _pcg(operator, force, inverse, effective, rtol, max_steps, shape):
    fixed, push, C = jax.lax.stop_gradient((operator, force, (inverse + inverse.conj().T) / 2))

    def estimate(preconditioned: jax.Array) -> jax.Array:
        return jnp.linalg.norm(preconditioned, axis=0)

    real = jnp.finfo(operator.dtype).dtype
    tolerance = jnp.asarray(rtol).astype(real)

    def near(value: jax.Array, preconditioned: jax.Array) -> jax.Array:
        return estimate(preconditioned) <= tolerance * jnp.linalg.norm(value, axis=0)

    search = _search(fixed.matmat, lambda block: C @ block, push, near, max_steps)
    residual = force - operator.matmat(search.value)
    error = estimate(C @ jax.lax.stop_gradient(residual)) / operator.dim**0.5
    value = follow(operator, search.value, residual)
    floor = reached(plain_search(fixed, push, search.value, tolerance, 10 * operator.dim + 100))
    stuck = ~search.live & ~search.broken & ~search.done
    # A singular C hides the errors that lie in its null space, so that descent alone is no proof.
    pivots = jnp.diagonal(jnp.linalg.cholesky(C, symmetrize_input=False)).real ** 2
    definite = jnp.all(pivots > 4 * operator.dim**0.5 * jnp.finfo(real).eps * jnp.diagonal(C).real)
    flags = jnp.where(definite & ~jnp.any(search.broken), 0, int(Status.NOT_POSITIVE_DEFINITE))
    flags |= jnp.where(jnp.any(stuck), int(Status.STAGNATED), 0)
    flags |= jnp.where(jnp.any(search.live), int(Status.NOT_CONVERGED), 0)
    flags |= jnp.where(jnp.all(jnp.isfinite(search.value)), 0, int(Status.NOT_FINITE))
    ratio = jnp.nan if effective is None else jnp.asarray(effective).astype(real) / operator.dim
    predicted = jnp.where(ratio > 1, jnp.log(2 / tolerance) / (jnp.log(jnp.maximum(ratio, 1.0)) / 2), jnp.nan)
    columns = shape[1:]
    # One product for the residual of the answer that is given back.
    matvecs = search.steps + search.restarts + 1
    stats = {"matvecs": matvecs.reshape(columns), "plain_cg": floor.reshape(columns), "predicted": predicted}
    stderr = jnp.broadcast_to(error[None], force.shape).reshape(shape)
    method = "The solution is that of conjugate gradients with a sampled inverse as the preconditioner."
    return Solution(value.reshape(shape), stderr, flags.astype(jnp.int32), stats, method)


def _limit(operator: Operator, max_steps: int | None) -> int:
    if max_steps is None:
        return 10 * operator.dim + 100
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    return max_steps
