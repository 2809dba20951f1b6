r"""The Gaussian affine map that a linear process makes of its state in a given time.

For :math:`dx = -(Ax - b)\,dt + \mathcal N(0, D\,dt)` with any square `A`, the state moves as

.. math:: x_t = E x_0 + c + \mathcal N(0, Q), \qquad E = e^{-At},\quad c = \int_0^t e^{-As} b\,ds,\quad
    Q = \int_0^t e^{-As} D e^{-A^\top s} ds.

The map of a short time is a Taylor series, and that of a long one the short one composed with itself by doubling. Every
term that doubling adds to a covariance is positive semi-definite, no system is solved, and nothing is diagonalised, so
singular, unstable, defective and stiff drifts are ordinary cases.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from thermolinalg.laws import Scalar

_TERMS = 16
"""With half the norm of the Lyapunov operator below 1/4, the next term is below 1e-18 of the first."""

_LIMIT = 64
"""Most doublings: beyond, the norm of the drift times the time is 4e18, and rounding it moves every phase by turns."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gaussian:
    """A normal law: mean, shape (d,), and covariance, shape (d, d)."""

    mean: jax.Array
    covariance: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transition:
    r"""The map :math:`x \mapsto Ex + c + \mathcal N(0, Q)`.

    Attributes
    ----------
    propagator : Array, shape (d, d)
        :math:`E`.
    shift : Array, shape (d,)
        :math:`c`.
    covariance : Array, shape (d, d)
        :math:`Q`, symmetric, and positive semi-definite to rounding.
    excess : Array, shape (d,)
        Diagonal of :math:`E - I` with all its digits, which those of `E` near 1 have lost.
    """

    propagator: jax.Array
    shift: jax.Array
    covariance: jax.Array
    excess: jax.Array

    def then(self, after: "Transition") -> "Transition":
        """Return the map of first this and then another, independent one.

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> hour = transition(jnp.eye(2), jnp.zeros(2), jnp.eye(2), 1.0)
        >>> two = hour.then(hour)
        >>> bool(jnp.allclose(two.propagator, jnp.exp(-2.0) * jnp.eye(2)))
        True
        """
        first, second = self.propagator, after.propagator
        moved = second @ self.covariance @ second.T
        # Only the diagonal of a propagator is near 1, where squaring would lose what tells a slow mode from a free one.
        around = jnp.sum(_with_diagonal(second, jnp.zeros_like(self.excess)) * first.T, 1)
        excess = after.excess + self.excess + after.excess * self.excess + around
        product = second @ first
        diagonal = jnp.where(excess > -0.5, 1 + excess, jnp.diagonal(product))
        return Transition(
            _with_diagonal(product, diagonal),
            after.shift + second @ self.shift,
            after.covariance + (moved + moved.T) / 2,
            excess,
        )

    def push(self, law: Gaussian) -> Gaussian:
        """Return the law of the state after, for a Gaussian state before."""
        moved = self.propagator @ law.covariance @ self.propagator.T
        return Gaussian(self.propagator @ law.mean + self.shift, self.covariance + (moved + moved.T) / 2)


def transition(drift: jax.Array, force: jax.Array, diffusion: jax.Array, time: Scalar) -> Transition:
    """Return the map of the time `time` >= 0; NaN for a negative one.

    Parameters
    ----------
    drift : Array, shape (d, d)
    force : Array, shape (d,)
    diffusion : Array, shape (d, d)
        Symmetric.
    time : float, >= 0

    Notes
    -----
    Normwise relative error of a few rounding errors times the condition of the map itself, which for what is left of
    a slow mode after the time t is the norm of `drift` times t. Entries of graded (triangular, diagonal) drifts keep
    their own relative accuracy. Forward and reverse derivatives are those of the same recursion.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> wiener = transition(jnp.array([[0.0, -1.0], [0.0, 0.0]]), jnp.zeros(2), jnp.diag(jnp.array([0.0, 1.0])), 2.0)
    >>> bool(jnp.allclose(wiener.covariance, jnp.array([[8 / 3, 2.0], [2.0, 2.0]])))  # [[t^3/3, t^2/2], [t^2/2, t]]
    True
    """
    short, doublings, valid = _scaled(drift, time)
    doubled = repeat(_double, _short(drift, force, diffusion, short), doublings)
    return jax.tree.map(lambda x: jnp.where(valid, x, jnp.nan), doubled)


def propagator(drift: jax.Array, time: Scalar) -> jax.Array:
    """Return the propagator of the time `time` >= 0 alone, for a third of what the whole map costs; NaN if negative.

    Unlike the map it does not keep what tells a slow mode from a free one: for sizes, not for differences.
    """
    short, doublings, valid = _scaled(drift, time)
    generator, eye = -drift * short, jnp.eye(drift.shape[0], dtype=drift.dtype)
    step = jax.lax.fori_loop(0, _TERMS, lambda j, total: eye + generator @ total / (_TERMS - j), eye)
    return jnp.where(valid, repeat(lambda step: step @ step, step, doublings), jnp.nan)


def power(step: Transition, n: jax.Array) -> Transition:
    """Return `step` composed with itself, `n` times in all; `n` is an integer from 0 to 2^31."""
    d = step.shift.shape[0]
    nothing = Transition(jnp.eye(d, dtype=step.shift.dtype), *(jnp.zeros_like(x) for x in _rest(step)))
    count = jnp.ceil(jnp.log2(n.astype(step.shift.dtype) + 1)).astype(jnp.int32) + 1
    return repeat(_square_and_multiply, (nothing, step, n), count)[0]


def average(
    drift: jax.Array, force: jax.Array, diffusion: jax.Array, burn_in: Scalar, duration: Scalar, samples: Scalar | None
) -> Transition:
    r"""Return the map from the start, followed by zeros, to the pair (end state, average), of size 2d.

    The average is :math:`\frac1\tau \int_{t_0}^{t_0+\tau} x\,dt`, or the mean over `samples` times
    :math:`t_0 + k\tau/N`, :math:`k < N`; the end state is that at :math:`t_0 + \tau`.
    """
    d = force.shape[0]
    tau = jnp.asarray(duration).astype(drift.dtype)
    settle = _beside(transition(drift, force, diffusion, burn_in))
    if samples is None:
        # In units of the duration, which may then be zero: da = x ds.
        joint = jnp.zeros((2 * d, 2 * d), drift.dtype).at[:d, :d].set(drift * tau)
        joint = joint.at[d:, :d].set(-jnp.eye(d, dtype=drift.dtype))
        noise = jnp.zeros_like(joint).at[:d, :d].set(diffusion * tau)
        push = jnp.concatenate([force * tau, jnp.zeros_like(force)])
        return settle.then(transition(joint, push, noise, 1.0))
    n = jnp.asarray(samples)
    weight = (1 / n.astype(drift.dtype)) * jnp.eye(d, dtype=drift.dtype)
    look = Transition(
        jnp.eye(2 * d, dtype=drift.dtype).at[d:, :d].set(weight),
        *(jnp.zeros(shape, drift.dtype) for shape in ((2 * d,), (2 * d, 2 * d), (2 * d,))),
    )
    step = _beside(transition(drift, force, diffusion, tau / n.astype(drift.dtype)))
    return settle.then(power(look.then(step), n.astype(jnp.int32)))


def lyapunov(drift: jax.Array, diffusion: jax.Array) -> jax.Array:
    r"""Return the symmetric solution of :math:`A\Sigma + \Sigma A^\top = D`, or NaN if the drift is not stable.

    Notes
    -----
    The integral of the transition covariance, doubled until the propagator is gone; about
    :math:`\log_2 \kappa + 6` doublings. Positive semi-definite by construction. Derivatives are those of the equation.
    """

    def solve(drift, right):
        step, forgotten = _relaxed(drift, (right + right.T) / 2)
        return jnp.where(forgotten, step.covariance, jnp.nan)

    return jax.lax.custom_linear_solve(
        lambda sigma: drift @ sigma + sigma @ drift.T,
        (diffusion + diffusion.T) / 2,
        lambda _, right: solve(drift, right),
        lambda _, right: solve(drift.T, right),
    )


def stable(drift: jax.Array) -> jax.Array:
    """Whether the propagator of `drift` decays to nothing: all eigenvalues have positive real parts."""
    return _relaxed(drift, jnp.zeros_like(drift))[1]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def repeat(body, state, count):
    """Apply `body` to `state`, `count` times; differentiable in both directions although `count` is traced."""
    return jax.lax.fori_loop(0, count, lambda _, state: body(state), state)


@repeat.defjvp
def _repeat_jvp(body, primals, tangents):
    state, count = primals

    def step(state, i):
        # Masked, not branched: a branch could not be transposed under vmap. Zeros keep what is thrown away finite.
        live = i < count
        masked = jax.tree.map(lambda x: jnp.where(live, x, jnp.zeros_like(x)), state)
        return jax.tree.map(lambda new, old: jnp.where(live, new, old), body(masked), state), None

    def counted(state):
        return jax.lax.scan(step, state, jnp.arange(_LIMIT, dtype=count.dtype))[0]

    return jax.jvp(counted, (state,), (tangents[0],))


def _double(step):
    return step.then(step)


def _square_and_multiply(carry):
    result, base, n = carry
    odd = n % 2 == 1
    result = jax.tree.map(lambda new, old: jnp.where(odd, new, old), result.then(base), result)
    return result, base.then(base), n // 2


def _scaled(drift, time):
    """A time so short that the series serves, how often to double it, and whether the given time is a valid one."""
    t = jnp.asarray(time).astype(drift.dtype)
    needed = jnp.ceil(jnp.log2(jnp.maximum(norm_bound(drift) * t, 1e-30) * 4))
    valid = (t >= 0) & (needed <= _LIMIT)
    doublings = jnp.where(valid, jnp.maximum(needed, 0), 0)
    return t * jnp.exp2(-doublings), doublings.astype(jnp.int32), valid


def norm_bound(drift: jax.Array) -> jax.Array:
    """Bound on the spectral norm of any power: the smaller of the largest column and row sums."""
    size = jnp.abs(drift)
    return jnp.minimum(jnp.max(jnp.sum(size, 0)), jnp.max(jnp.sum(size, 1)))


def _short(drift, force, diffusion, time):
    """The map of a time so short that the norm of the drift times it is at most 1/4, by Taylor series."""
    generator = -drift * time

    def term(j, carry):
        total, change, push, spread = carry
        total = tuple(old + new for old, new in zip(total, (change, push, spread), strict=True))
        grown = generator @ spread
        return total, *(x / (j + 1) for x in (generator @ change, generator @ push, grown + grown.T))

    first = (generator, force * time, diffusion * time)
    nothing = tuple(jnp.zeros_like(x) for x in first)
    (change, shift, covariance), *_ = jax.lax.fori_loop(1, _TERMS, term, (nothing, *first))
    excess = jnp.diagonal(change)
    return Transition(_with_diagonal(change, 1 + excess), shift, covariance, excess)


def _relaxed(drift, diffusion):
    """The map of a time after which the start is forgotten, and whether there is such a time."""
    eps = jnp.finfo(drift.dtype).eps
    norm = norm_bound(drift)
    step = _short(drift, jnp.zeros_like(drift[0]), diffusion, 0.25 / jnp.where(norm > 0, norm, 1))

    def left(step):
        return jnp.sum(step.propagator**2)

    def more(carry):
        step, doublings = carry
        # Each doubling doubles the rounding error of the rate; as many as there are digits leave none of it.
        return (left(step) > eps / 4) & (doublings < jnp.finfo(drift.dtype).nmant)

    step, _ = jax.lax.while_loop(more, lambda carry: (_double(carry[0]), carry[1] + 1), (step, 0))
    return step, left(step) <= eps / 4


def _beside(step):
    """The map of (x, average) that moves x and leaves the average alone."""
    d = step.shift.shape[0]
    zero = jnp.zeros_like(step.shift)
    return Transition(
        jnp.eye(2 * d, dtype=zero.dtype).at[:d, :d].set(step.propagator),
        jnp.concatenate([step.shift, zero]),
        jnp.zeros((2 * d, 2 * d), zero.dtype).at[:d, :d].set(step.covariance),
        jnp.concatenate([step.excess, zero]),
    )


def _rest(step):
    return step.shift, step.covariance, step.excess


def _with_diagonal(matrix, diagonal):
    return jnp.where(jnp.eye(matrix.shape[0], dtype=bool), diagonal[:, None], matrix)
