r"""How a device that holds the Jacobian is loaded and read, what that makes of the numbers, and what it costs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thermolinalg.converters import Converter
from thermolinalg.cost import cost
from thermolinalg.device import READ, Device, refuse_dead
from thermolinalg.laws import Scalar
from thermolinalg.ledger import Ledger, Parts
from thermolinalg.optim.dual import known_coordinates, remainder, row_matrix
from thermolinalg.optim.inverse_factor import product
from thermolinalg.optim.lanes import Problem
from thermolinalg.optim.relaxation import RowSystem
from thermolinalg.optim.runs import code_of
from thermolinalg.optim.trees import like, widened
from thermolinalg.plan import Plan
from thermolinalg.power import conversion_joules
from thermolinalg.ranges import check_not_negative, check_whole

Tree = Any
_TOGETHER = 16


@dataclass(frozen=True)
class Loaded:
    """A system as a device holds it, the gradient that drives it, and a code."""

    system: RowSystem
    gradient: Tree
    code: jax.Array


def load(problem: Problem, device: Device | None, key: jax.Array) -> Loaded:
    """Measure the rows of a problem, and write them.

    An ideal device gets M by its products only. Converters of couplings, and chips, need it as a matrix of r times N
    entries, which costs r backward passes. What they round is M, so that the curvature stays positive semi-definite.
    """
    space, dtype = problem.rows(), problem.dtype
    shape = space.coordinates.shape
    code = jnp.zeros((), jnp.int32)

    def down(v: Tree) -> jax.Array:
        return space.down(like(v, problem.params)).astype(dtype).T.reshape(-1)

    def up(u: jax.Array) -> Tree:
        return widened(space.up(u.reshape(shape[::-1]).T), dtype)

    c = known_coordinates(space, dtype)
    rows = c.T.reshape(-1)
    force = None if device is None else device.force_dac
    if device is None or device.faithful:
        gram = row_matrix(problem, space).astype(dtype)
    else:
        refuse_dead(device)
        matrix, unravel = _matrix(up, len(rows), problem.params, dtype)
        matrix, flags = device.write(matrix, False, 0, key)
        code = jnp.maximum(code, code_of(flags))
        down, up = lambda v: product(matrix, ravel_pytree(v)[0]), lambda u: unravel(product(matrix.T, u))
        gram = product(matrix, matrix.T)
    if force is None and (device is None or device.faithful):
        e, below = remainder(problem, space, c, gram)
        return Loaded(RowSystem(down, up, gram, rows, e, below.T.reshape(-1)), problem.target(), code)
    gradient = problem.target()
    if device is not None and force is not None:
        flat, back = ravel_pytree(gradient)
        pushed, flags = device.load(flat[:, None], key)
        gradient, code = back(pushed[:, 0]), jnp.maximum(code, code_of(flags))
    e = jax.tree.map(jnp.subtract, gradient, up(rows))
    return Loaded(RowSystem(down, up, gram, rows, e), gradient, code)


def resumed(running: jax.Array, carried: Tree, multiple: Scalar, gradient: Tree) -> Tree:
    """Where a device goes on from: what it carries, or, before it has run, a multiple of the gradient."""

    def one(old: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.where(running, old, jnp.asarray(multiple, old.dtype) * g.astype(old.dtype))

    return jax.tree.map(one, carried, gradient)


def read(x: Tree, device: Device | None, key: jax.Array) -> tuple[Tree, jax.Array, jax.Array]:
    """The state as it gets out, the root mean square length of what that adds, and a code."""
    none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    if device is None or device.readout.ideal:
        return x, *none
    flat, back = ravel_pytree(x)
    seen = device.readout.states(flat[:, None], jax.random.fold_in(key, READ))
    error = jnp.linalg.norm(seen.error).astype(jnp.float32)
    return back(seen.value[:, 0].astype(flat.dtype)), error, code_of(seen.flags)


def relaxation_cost(time: float, device: Device | None = None, *, rows: int, parameters: int) -> Ledger:
    r"""Price one step of a device that holds the Jacobian.

    .. math:: T = \frac{b}{B}\bigl[N + r(r + 2N) + N\bigr] + t\,t_c

    for b bits per number, B bits per second, and arrays of :math:`r \times N`, :math:`r \times r` and
    :math:`N \times r`.

    Parameters
    ----------
    time : float, >= 0
        t, all the time of the device, in its time constants.
    device : Device, optional
        Its link, time constant, power and converters.
    rows : int, >= 1
        r, examples times columns.
    parameters : int, >= 1
        N, one cell each.

    Returns
    -------
    Ledger
        The work of the host, gradient and Jacobian, comes on top.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    *Thermodynamic natural gradient descent*, arXiv:2405.13817, appendix C.

    Examples
    --------
    >>> ledger = relaxation_cost(50.0, rows=640, parameters=100_000)
    >>> f"{ledger.program * 1e3:.0f} ms, {ledger.load * 1e6:.0f} us, {ledger.analog * 1e6:.0f} us"
    '41 ms, 32 us, 50 us'
    """
    check_not_negative(time=time)
    check_whole("rows", rows, 1)
    check_whole("parameters", parameters, 1)
    device = Device() if device is None else device
    run = cost(Plan(time, 0.0), device, dim=parameters, writes=0)
    written = float(rows * (rows + 2 * parameters))
    dac: Converter | None = device.matrix_dac
    seconds = 0.0 if dac is None else written / parameters / float(dac.rate)
    joules = 0.0 if dac is None else written * conversion_joules(dac)
    bits = written * device.link.bits
    return Ledger(
        run.seconds + Parts(program=bits / device.link.rate, convert=seconds),
        run.joules + Parts(program=bits * device.link.joules, convert=joules),
        run.idle_power,
        run.assumed,
    )


def _matrix(
    up: Callable[[jax.Array], Tree], rows: int, params: Tree, dtype: Any
) -> tuple[jax.Array, Callable[[jax.Array], Tree]]:
    """M as a matrix (r, N), and the way back from vectors of N numbers."""
    unravel = ravel_pytree(widened(params, dtype))[1]
    units = jnp.eye(rows, dtype=dtype)
    return jax.lax.map(lambda unit: ravel_pytree(up(unit))[0], units, batch_size=_TOGETHER), unravel
