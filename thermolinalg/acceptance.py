"""The acceptance ratio of Bennett: the free-energy difference of two states from samples of both."""

import jax
import jax.numpy as jnp


def acceptance_ratio(forward: jax.Array, reverse: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Free-energy difference of two states, from as many samples of the one as of the other.

    Parameters
    ----------
    forward, reverse : Array, shape (n,), n >= 2
        :math:`\beta(U_1 - U_0)` on samples of state 0, and of state 1.

    Returns
    -------
    Array, shape ()
        :math:`\beta(F_1 - F_0)`.
    Array, shape ()
        Its estimated variance.
    Array, shape ()
        The overlap C, 1/2 for equal states and 0 for states that have nothing in common.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> difference, _, overlap = acceptance_ratio(jnp.array([1.0, 1.2]), jnp.array([0.8, 1.0]))
    >>> round(float(difference), 5), round(float(overlap), 2)
    (1.0, 0.48)
    """
    eps = jnp.finfo(forward.dtype).eps

    def sides(x):
        return jax.nn.sigmoid(x - forward), jax.nn.sigmoid(reverse - x)

    def slope(up, down):
        return jnp.mean(up * (1 - up)) + jnp.mean(down * (1 - down))

    # The excess of the left side rises with x; it is not positive below all work values and not negative above them.
    low = jnp.minimum(jnp.min(forward), jnp.min(reverse))
    high = jnp.maximum(jnp.max(forward), jnp.max(reverse))

    def unfinished(carry):
        i, low, high, x, step = carry
        fine = 4 * eps * (1 + jnp.abs(x))
        return (i < 100) & (high - low > fine) & (jnp.abs(step) > fine)

    def improve(carry):
        i, low, high, x, _ = carry
        up, down = sides(x)
        excess = jnp.mean(up) - jnp.mean(down)
        low, high = jnp.where(excess <= 0, x, low), jnp.where(excess >= 0, x, high)
        newton = x - excess / slope(up, down)
        following = jnp.where((newton >= low) & (newton <= high), newton, low + (high - low) / 2)
        return i + 1, low, high, following, following - x

    middle = low + (high - low) / 2
    x = jax.lax.while_loop(unfinished, improve, (jnp.array(0), low, high, middle, jnp.full_like(middle, jnp.inf)))[3]
    up, down = sides(x)
    scatter = (jnp.var(up, ddof=1) + jnp.var(down, ddof=1)) / forward.size
    steep = slope(up, down)
    # No slope: states so far apart that nothing is known.
    variance = jnp.where(steep == 0, jnp.inf, scatter / jnp.where(steep == 0, 1, steep) ** 2)
    return x, variance, (jnp.mean(up) + jnp.mean(down)) / 2
