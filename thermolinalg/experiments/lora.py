"""Low-rank changes of linear layers, the only thing that is trained of a large model."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.optim.layers import dense
from thermolinalg.ranges import check_positive, check_whole


@dataclass(frozen=True)
class LowRank:
    r"""What is added to the output of a linear layer.

    .. math:: y = x W + \frac{\alpha}{r} (x A) B

    Attributes
    ----------
    rank : int, >= 1
        r.
    alpha : float, > 0
    places : tuple of str
        Names of the layers that are changed.

    References
    ----------
    Hu et al., *LoRA: Low-rank adaptation of large language models*, arXiv:2106.09685.

    Examples
    --------
    >>> change = LowRank(places=("query",))
    >>> params = change.init(jax.random.key(0), layers=3, width=8)
    >>> params["query"]["down"].shape, params["query"]["up"].shape
    ((3, 8, 2), (3, 2, 8))
    """

    rank: int = 2
    alpha: float = 32.0
    places: tuple[str, ...] = ("query", "key", "value", "output")

    def __post_init__(self) -> None:
        check_whole("rank", self.rank, 1)
        check_positive(alpha=self.alpha)
        if not self.places:
            raise ValueError("places must name at least one layer, got none")

    def init(self, key: jax.Array, layers: int, width: int, dtype: Any = jnp.float32) -> dict[str, Any]:
        """Return A of variance 1/width and B = 0 for square layers, so that nothing is changed yet."""

        def one(key: jax.Array) -> dict[str, jax.Array]:
            down = jax.random.normal(key, (layers, width, self.rank), dtype) / jnp.asarray(width**0.5, dtype)
            return {"down": down, "up": jnp.zeros((layers, self.rank, width), dtype)}

        keys = jax.random.split(key, len(self.places))
        return {name: one(k) for name, k in zip(self.places, keys, strict=True)}

    def __call__(self, params: Any, name: str, x: jax.Array) -> jax.Array:
        """Return what is added for one layer; zero at other places."""
        if name not in self.places:
            return jnp.zeros((), x.dtype)
        scale = jnp.asarray(self.alpha / self.rank, x.dtype)
        return scale * dense(dense(x, params[name]["down"]), params[name]["up"])
