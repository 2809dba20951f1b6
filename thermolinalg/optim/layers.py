"""Tagged layers: linear maps of an input with one weight that say which rows they have.

Each accepts plain arrays and is then the ordinary operation; tapped weights are described in
:mod:`thermolinalg.optim.taps`.
"""

import string
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from thermolinalg.optim.operations import Contraction, Convolution, Lookup, Scaling, Shift
from thermolinalg.optim.taps import is_tapped, tap


def dense(
    x: ArrayLike, w: Any, b: Any = None, *, in_ndim: int = 1, out_first: bool = False, precision: Any = None
) -> jax.Array:
    r"""Dense layer, tagged.

    .. math:: y = x W + b

    Parameters
    ----------
    x : array (..., *in)
        Input; every leading index is a use of the weight.
    w : array (*in, *out), or (*out, *in) with `out_first`
        Weight, tapped or not.
    b : array (*out,), optional
        Bias. It joins the block of the weight.
    in_ndim : int, at least 1
        Number of axes that are contracted.
    out_first : bool
        Whether the weight has its outputs first, as in equinox and PyTorch.
    precision : optional
        As for ``jax.numpy.einsum``.

    Returns
    -------
    array (..., *out)

    Raises
    ------
    ValueError
        If the shapes do not match.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> dense(jnp.ones((4, 3)), jnp.ones((3, 2)), jnp.ones(2)).shape
    (4, 2)
    """
    x = jnp.asarray(x)
    k, n = in_ndim, w.ndim
    inner = tuple(w.shape[n - k :] if out_first else w.shape[:k])
    if n < k or tuple(x.shape[x.ndim - k :]) != inner or x.ndim < k:
        raise ValueError(f"x must end in the input axes {inner} of the weight, got shape {x.shape}")
    letters = iter(string.ascii_letters)
    uses, summed, kept = ("".join(next(letters) for _ in range(m)) for m in (x.ndim - k, k, n - k))
    return tap(
        Contraction(uses + summed, kept + summed if out_first else summed + kept, uses + kept, precision), x, w, b
    )


def einsum(subscripts: str, x: ArrayLike, w: Any, b: Any = None, *, precision: Any = None) -> jax.Array:
    """Einsum of an input with one weight, tagged.

    Parameters
    ----------
    subscripts : str
        As for ``jax.numpy.einsum``, explicit: ``"btd,dhk->bthk"``. Axes in input, weight and output stack blocks
        (experts); axes in input and weight are contracted; axes in weight and output are kept; axes in input and
        output are uses.
    x : array
        Input.
    w : array
        Weight, tapped or not.
    b : array, optional
        Bias, with the stacked and the kept axes of the weight in the order of the output.
    precision : optional
        As for ``jax.numpy.einsum``.

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If an axis is none of these, or appears twice in one argument.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> einsum("btd,dhk->bthk", jnp.ones((2, 3, 4)), jnp.ones((4, 5, 6))).shape
    (2, 3, 5, 6)
    """
    try:
        sides, y = subscripts.replace(" ", "").split("->")
        first, second = sides.split(",")
    except ValueError:
        raise ValueError(f"subscripts must read 'x,w->y' with one input and one weight, got {subscripts!r}") from None
    if "..." in subscripts:
        raise ValueError(f"subscripts must name every axis, got {subscripts!r}")
    for part in (first, second, y):
        if len(set(part)) < len(part):
            raise ValueError(f"subscripts must not repeat an axis within one argument, got {subscripts!r}")
    for c in {*first, *second, *y}:
        if (c in first) + (c in second) + (c in y) < 2:
            raise ValueError(f"axis {c!r} of {subscripts!r} is in one argument only: sum or broadcast it outside")
    return tap(Contraction(first, second, y, precision), x, w, b)


def conv(
    x: ArrayLike,
    w: Any,
    b: Any = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    channels_first: bool = False,
) -> jax.Array:
    """Convolution in one to three dimensions, tagged.

    Parameters
    ----------
    x : array (n, *space, channels) or (*space, channels)
        Input; every position of the output is a use of the weight.
    w : array (*window, channels // groups, out)
        Weight, tapped or not.
    b : array (out,), optional
        Bias. It joins the block of the weight. With `channels_first` (out, 1, ..., 1) will do as well.
    stride, dilation : int or one per dimension, at least 1
        Steps of the window, and between its taps.
    padding : "SAME", "VALID" or (low, high) per dimension
        As for ``jax.lax.conv_general_dilated``.
    groups : int, at least 1
        Groups of channels; each is a block of its own.
    channels_first : bool
        Whether axes are (n, channels, *space) and (out, channels // groups, *window), as in equinox and PyTorch.

    Returns
    -------
    array (n, *space, out)

    Raises
    ------
    ValueError
        If the ranks or the channels do not match.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> conv(jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4)), stride=2).shape
    (2, 4, 4, 4)
    """
    x, n = jnp.asarray(x), w.ndim - 2
    if n not in (1, 2, 3) or x.ndim not in (n + 1, n + 2):
        raise ValueError(f"x must have one axis for channels, {n} in space and at most one for examples, got {x.shape}")
    channels = x.shape[-n - 1] if channels_first else x.shape[-1]
    inner, out = (w.shape[1], w.shape[0]) if channels_first else w.shape[-2:]
    if channels != inner * groups or out % groups:
        raise ValueError(f"{channels} channels do not fit a weight of shape {w.shape} in {groups} groups")

    def each(value: int | Sequence[int], name: str) -> tuple[int, ...]:
        found = (value,) * n if isinstance(value, int) else tuple(value)
        if len(found) != n or min(found) < 1:
            raise ValueError(f"{name} must be at least 1 and one per dimension, got {value}")
        return found

    pads: Any = padding if isinstance(padding, str) else tuple((int(low), int(high)) for low, high in padding)
    form = Convolution(each(stride, "stride"), pads, each(dilation, "dilation"), groups, channels_first)
    return tap(form, x, w, b)


def embed(ids: ArrayLike, table: Any) -> jax.Array:
    """Rows of a table, tagged.

    Parameters
    ----------
    ids : array of integers (...)
        Numbers of rows; those out of range are clipped.
    table : array (vocabulary, *features)
        Weight, tapped or not. Its input factor is diagonal: how often each row was picked.

    Returns
    -------
    array (..., *features)

    Raises
    ------
    ValueError
        If `ids` are not integers.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> embed(jnp.array([2, 0]), jnp.arange(6.0).reshape(3, 2)).tolist()
    [[4.0, 5.0], [0.0, 1.0]]
    """
    ids = jnp.asarray(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"ids must be integers, got {ids.dtype}")
    return tap(Lookup(), ids, table)


def bias(x: ArrayLike, b: Any) -> jax.Array:
    """A bias on its own, tagged: x + b.

    Parameters
    ----------
    x : array (..., *features)
        Input.
    b : array (*features,)
        Bias, tapped or not.

    Returns
    -------
    array (..., *features)

    Raises
    ------
    ValueError
        If `x` does not end in the axes of `b`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> bias(jnp.ones((4, 2)), jnp.ones(2)).shape
    (4, 2)
    """
    x = jnp.asarray(x)
    _check_features(x, b)
    return tap(Shift(), x, b)


def scale(x: ArrayLike, s: Any, b: Any = None) -> jax.Array:
    r"""Scale and shift entry by entry, tagged, as after a layer norm.

    .. math:: y = x \circ s + b

    Parameters
    ----------
    x : array (..., *features)
        Input, normalised already.
    s : array (*features,)
        Scale, tapped or not.
    b : array (*features,), optional
        Shift. It joins the block of the scale.

    Returns
    -------
    array (..., *features)

    Raises
    ------
    ValueError
        If `x` does not end in the axes of `s`, or `b` has another shape.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> scale(jnp.ones((4, 2)), jnp.ones(2)).shape
    (4, 2)
    """
    x = jnp.asarray(x)
    _check_features(x, s)
    if is_tapped(s) and b is not None and not is_tapped(b):  # a shift that is no parameter has no share in the block
        return Shift().apply(tap(Scaling(), x, s), b, None)
    return tap(Scaling(), x, s, b)


def _check_features(x: jax.Array, w: Any) -> None:
    """The input of an entrywise operation must end in the axes of its weight."""
    if tuple(x.shape[x.ndim - w.ndim :]) != tuple(w.shape) or x.ndim < w.ndim:
        raise ValueError(f"x must end in the axes {tuple(w.shape)} of the weight, got shape {x.shape}")
