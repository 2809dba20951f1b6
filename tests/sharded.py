"""Verbs and operands that the tests on several devices and in several processes share."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from problems import system

import thermolinalg as tla
from thermolinalg.operators.sparse import sparse_product

KEY = jax.random.key(5)
PLAN = tla.Plan(5.0, 40.0)
RUNS, SIDE = 8, 16

# A placement puts an array on devices: put(x, *axes), with "devices" for the axis that is spread.
Placement = Callable[..., jax.Array]


def alone(x, *axes):
    """One device holds everything."""
    return jnp.asarray(x)


def spread(mesh: Mesh) -> Placement:
    """What a mesh with the axis "devices" makes of the axes; the array must be the same in every process."""
    return lambda x, *axes: jax.device_put(np.asarray(x), NamedSharding(mesh, PartitionSpec(*axes)))


def stencil(grid_by_columns):
    """Five-point Laplacian plus one, periodic, by shifts of the grid; eigenvalues from 1 to 9."""
    grid = grid_by_columns.reshape(SIDE, SIDE, -1)
    neighbours = sum(jnp.roll(grid, shift, axis) for shift in (1, -1) for axis in (0, 1))
    return (5 * grid - neighbours).reshape(grid_by_columns.shape)


def laplacian():
    """The same as a sparse matrix with open ends; eigenvalues between 1 and 9 too."""
    line = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(SIDE, SIDE), dtype=np.float64)
    eye = scipy.sparse.eye_array(SIDE)
    return (scipy.sparse.kron(line, eye) + scipy.sparse.kron(eye, line) + scipy.sparse.eye_array(SIDE**2)).tocsr()


def block(d):
    return np.random.default_rng(1).standard_normal((d, RUNS))


def dense_by_rows(put):
    return put(system(d=16)[0], "devices"), put(block(16))


def dense_whole(put):
    return put(system(d=16)[0]), put(block(16), None, "devices")


def stencil_by_rows(put):
    return tla.MatrixFree(stencil, SIDE**2, jnp.dtype(np.float64), survey_steps=40), put(block(SIDE**2), "devices")


def sparse_by_rows(put):
    product = jax.tree.map(lambda x: put(x, None, "devices"), sparse_product(laplacian(), np.float64))
    return tla.MatrixFree(product, SIDE**2, jnp.dtype(np.float64), survey_steps=40), put(block(SIDE**2), "devices")


DENSE, FREE = (dense_by_rows, dense_whole), (stencil_by_rows, sparse_by_rows)


def solve(A, b, simulator=tla.Law(), **how):  # noqa: B008
    return tla.solve(A, b, key=KEY, device=tla.Device(simulator=simulator), **({"plan": PLAN} | how))


# One line for each verb: a function of operand and block, and the operands it is tried on.
VERBS = {
    "solve": (solve, DENSE + FREE),
    "solve, planned": (partial(solve, plan=None, rtol=0.2), (dense_by_rows,)),
    "solve, long time": (partial(solve, simulator=tla.Law(long_time=True)), (stencil_by_rows,)),
    "inv": (lambda A, b: tla.inv(A, key=KEY, plan=tla.Plan(60.0, 4e4, 400)), (dense_by_rows,)),
    "logdet": (lambda A, b: tla.logdet(A, key=KEY, samples=400), (dense_by_rows,)),
    "gaussian": (lambda A, b: tla.gaussian(A, b[:, 0], key=KEY, samples=RUNS), (dense_by_rows, stencil_by_rows)),
}
CASES = {f"{name}, {make.__name__}": (verb, make) for name, (verb, makes) in VERBS.items() for make in makes}

# The condition numbers are 30 and 9. Sums in another order move an answer by a few hundred condition numbers times the
# rounding error. Where the last bit decides on one more Lanczos or conjugate-gradient step or not, answers differ by
# what the operator promises, 1e-6; with these operands it does not.
ROUNDING = 300 * 30 * 2.0**-52


def run(case: str, put: Placement) -> tla.Solution:
    """Run one case on the devices that the placement knows of."""
    verb, make = CASES[case]
    return verb(*make(put))


def assert_same(found, expected):
    """Compare two arrays in the largest norm of the expected one."""
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())
