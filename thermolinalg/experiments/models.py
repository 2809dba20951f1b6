"""Small models as plain functions of parameters, whose layers are tagged, and where their parameters start."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import lecun_normal

from thermolinalg.optim.layers import conv, dense

Params = Any


def init_dense(key: jax.Array, inputs: int, outputs: int, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    """Return weights of variance 1/inputs, and no bias."""
    return {"w": lecun_normal()(key, (inputs, outputs), dtype), "b": jnp.zeros(outputs, dtype)}


def init_mlp(key: jax.Array, sizes: Sequence[int], dtype: Any = jnp.float32) -> list[dict[str, jax.Array]]:
    """Return parameters of :func:`mlp`.

    Parameters
    ----------
    key : PRNG key
    sizes : sequence of int
        Of inputs, hidden layers and outputs.
    dtype : dtype

    Returns
    -------
    list of dict
        One of ``w`` and ``b`` for each layer.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or one is below 1.

    Examples
    --------
    >>> [layer["w"].shape for layer in init_mlp(jax.random.key(0), (64, 32, 10))]
    [(64, 32), (32, 10)]
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must name inputs and outputs, each at least 1, got {tuple(sizes)}")
    keys = jax.random.split(key, len(sizes) - 1)
    return [init_dense(k, m, n, dtype) for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def mlp(params: Params, inputs: jax.Array, activation: Callable[[jax.Array], jax.Array] = jnp.tanh) -> jax.Array:
    r"""Dense layers with a non-linear function between them.

    .. math:: h_{l+1} = \phi(h_l) W_l + b_l

    Parameters
    ----------
    params : list of dict
        From :func:`init_mlp`.
    inputs : array (n, ...)
        Flattened for the first layer.
    activation : callable

    Returns
    -------
    array (n, outputs)
    """
    x = inputs.reshape(len(inputs), -1)
    for layer in params[:-1]:
        x = activation(dense(x, layer["w"], layer["b"]))
    return dense(x, params[-1]["w"], params[-1]["b"])


def autoencoder_sizes(pixels: int, widths: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of a network that narrows to the last of these widths, and widens again.

    Examples
    --------
    >>> autoencoder_sizes(64, (48, 16))
    (64, 48, 16, 48, 64)
    """
    return (pixels, *widths, *reversed(tuple(widths)[:-1]), pixels)


def init_cnn(
    key: jax.Array, side: int, *, channels: int = 8, hidden: int = 64, classes: int = 10, dtype: Any = jnp.float32
) -> dict[str, dict[str, jax.Array]]:
    """Return parameters of :func:`cnn` for square images of one channel.

    Parameters
    ----------
    key : PRNG key
    side : int, a multiple of 4
        Pixels.
    channels, hidden, classes : int, >= 1
    dtype : dtype

    Raises
    ------
    ValueError
        If `side` is not a multiple of 4.

    Examples
    --------
    >>> init_cnn(jax.random.key(0), 28)["hidden"]["w"].shape
    (392, 64)
    """
    if side < 4 or side % 4:
        raise ValueError(f"side must be a multiple of 4, since the network halves it twice, got {side}")
    first, second, third = jax.random.split(key, 3)
    return {
        "conv": {"w": lecun_normal()(first, (3, 3, 1, channels), dtype), "b": jnp.zeros(channels, dtype)},
        "hidden": init_dense(second, channels * (side // 4) ** 2, hidden, dtype),
        "output": init_dense(third, hidden, classes, dtype),
    }


def cnn(params: Params, inputs: jax.Array) -> jax.Array:
    """One convolution of stride 2, averages over 2 x 2 places, and two dense layers.

    Parameters
    ----------
    params : dict
        From :func:`init_cnn`.
    inputs : array (n, side, side, 1)

    Returns
    -------
    array (n, classes)
    """
    x = jax.nn.relu(conv(inputs, params["conv"]["w"], params["conv"]["b"], stride=2))
    n, side, _, channels = x.shape
    x = jnp.mean(x.reshape(n, side // 2, 2, side // 2, 2, channels), (2, 4))
    x = jax.nn.relu(dense(x.reshape(n, -1), params["hidden"]["w"], params["hidden"]["b"]))
    return dense(x, params["output"]["w"], params["output"]["b"])
