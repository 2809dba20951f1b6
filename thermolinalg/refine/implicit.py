"""How a refined answer moves when its operands do."""

import jax

from thermolinalg.operators import Operator, implicit_solve


@jax.custom_jvp
def follow(operator: Operator, value: jax.Array, residual: jax.Array) -> jax.Array:
    """Return `value`, which moves by the exact inverse of the operator times the residual when that does."""
    return value


@follow.defjvp
def _follow_jvp(primals, tangents):
    operator, value, _ = primals
    return value, implicit_solve(operator, tangents[2], operator.ready().solve)
