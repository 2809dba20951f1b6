"""Chips and what is written to them: mismatch, dead nodes, cells, damping, and what is refused."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import system

import thermolinalg as tla
from thermolinalg.testing import assert_within_stderr

KEY = jax.random.key(21)
PLAN = tla.Plan(200.0, 1000.0)
A, B, X = system(d=6, kappa=10.0)
CHIPS = 2000


@pytest.fixture(scope="module")
def couplings():
    """What many chips make of one matrix."""
    keys = jax.random.split(KEY, CHIPS)
    return np.asarray(jax.vmap(lambda key: tla.Chip(key, 0.05).couple(A, symmetric=True))(keys))


def test_couplings_deviate_by_the_mismatch_one_by_one_and_stay_symmetric(couplings):
    np.testing.assert_array_equal(couplings, np.swapaxes(couplings, 1, 2))
    relative = (couplings / np.asarray(A) - 1) / 0.05
    assert_within_stderr(relative.mean(0), CHIPS**-0.5, 0.0)
    assert_within_stderr((relative**2).mean(0), (2 / CHIPS) ** 0.5, 1.0, false_alarm=1e-4)
    i, j = np.tril_indices(6)
    correlation = np.corrcoef(relative[:, i, j].T) - np.eye(len(i))
    assert np.max(np.abs(correlation)) < 6 * CHIPS**-0.5
    with pytest.raises(AssertionError):
        assert_within_stderr((1.2 * relative**2).mean(0), (2 / CHIPS) ** 0.5, 1.0, false_alarm=1e-4)


def test_a_chip_is_the_same_for_as_long_as_it_lives():
    chip = tla.Chip(KEY, 0.1)
    one, two = (chip.couple(A, symmetric=True) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    # The same components deviate, whatever is written to them; those of another array, and of another chip, do not.
    np.testing.assert_allclose(chip.couple(3 * A, symmetric=True), 3 * one, rtol=1e-15)
    assert np.all(chip.couple(A, symmetric=True, array=1) != one)
    assert np.all(tla.Chip(jax.random.key(1), 0.1).couple(A, symmetric=True) != one)


def test_hermitian_couplings_stay_so():
    found = tla.Chip(KEY, 0.1).couple(system(d=6, dtype=np.complex128)[0], symmetric=True)
    np.testing.assert_array_equal(found, found.conj().T)
    assert found.dtype == np.complex128
    assert tla.Chip(KEY, jnp.asarray(0.1)).couple(A.astype(np.float32), symmetric=True).dtype == np.float32


def operators():
    rng = np.random.default_rng(3)
    yield "dense", tla.Dense(A)
    yield "diagonal", tla.Diagonal(jnp.asarray(rng.uniform(1, 2, 6)))
    yield "low rank", tla.LowRank(jnp.asarray(rng.standard_normal((6, 2))), 0.5)
    yield "kronecker", tla.Kronecker((tla.Dense(A[:2, :2]), tla.Diagonal(jnp.array([1.0, 2.0, 3.0]))))


KINDS = dict(operators())


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_chip_is_the_ideal_device_to_the_bit(kind):
    ideal = tla.solve(KINDS[kind], B, key=KEY, plan=PLAN)
    device = tla.Device(chip=tla.Chip(KEY, 0.0))
    found = tla.solve(KINDS[kind], B, key=KEY, plan=PLAN, device=device)
    written = device.program(KINDS[kind])
    for one, other in zip(
        jax.tree.leaves(written.machine.operator),
        jax.tree.leaves(tla.Device().program(KINDS[kind]).machine.operator),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(found.value, ideal.value, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.stderr, ideal.stderr, rtol=1e-12)
    assert int(found.status) == 0
    assert np.all(np.asarray(found.stats["systematic"]) < 1e-13)
    assert "systematic" not in ideal.stats


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_operator_is_written_block_by_block(kind):
    device = tla.Device(matrix_dac=tla.Converter(6), chip=tla.Chip(KEY, 0.01))
    program = device.program(KINDS[kind])
    asked, found = (op.matmat(jnp.eye(6)) for op in (program.operator, program.machine.operator))
    np.testing.assert_array_equal(asked, KINDS[kind].matmat(jnp.eye(6)))
    np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-15)
    gap = np.linalg.norm(found - asked) / np.linalg.norm(asked)
    assert 1e-4 < gap < 0.1
    blocks = {
        "dense": lambda op: [(op.matrix, True)],
        "diagonal": lambda op: [(op.values, False)],
        "low rank": lambda op: [(op.columns, False)],
        "kronecker": lambda op: [(op.factors[0].matrix, True), (op.factors[1].values, False)],
    }[kind]
    before, after = blocks(KINDS[kind]), blocks(program.machine.operator)
    for array, ((given, symmetric), (realised, _)) in enumerate(zip(before, after, strict=True)):
        converted = tla.Converter(6).convert(given, symmetric=symmetric).value
        # Compiled products may be fused.
        np.testing.assert_allclose(
            realised, device.chip.couple(converted, symmetric=symmetric, array=array), rtol=1e-15
        )


def test_what_has_no_couplings_is_refused_and_read_out_all_the_same():
    free = tla.MatrixFree(jax.tree_util.Partial(jnp.matmul, A), 6, A.dtype)
    for part in ({"chip": tla.Chip(KEY, 0.1)}, {"matrix_dac": tla.Converter(8)}):
        with pytest.raises(ValueError, match="MatrixFree operator has no couplings"):
            tla.Device(**part).program(free)
    found = tla.solve(free, B, key=KEY, plan=PLAN, device=tla.Device(adc=tla.Converter(10), force_dac=tla.Converter(8)))
    assert np.all(np.abs(found.value - X) < 6 * found.stderr)
    assert not int(found.status)


NEAR = jnp.asarray(np.full((3, 3), 0.9) + 0.01 * np.eye(3))
"""Close to singular: couplings of three bits cannot tell it from singular."""


def test_what_the_device_makes_of_a_matrix_must_be_positive_definite():
    device = tla.Device(matrix_dac=tla.Converter(3))
    with pytest.raises(ValueError, match="what the device makes of A is not positive definite"):
        device.program(NEAR)
    with pytest.raises(ValueError, match=r"^A is not positive definite"):
        tla.Device().program(-NEAR)
    found = jax.jit(lambda A: tla.solve(A, jnp.ones(3), key=KEY, plan=PLAN, device=device))(NEAR)
    assert int(found.status) & tla.Status.NOT_POSITIVE_DEFINITE
    assert not int(tla.solve(NEAR, jnp.ones(3), key=KEY, plan=PLAN).status)


def test_damping_after_quantisation_saves_it():
    device = tla.Device(matrix_dac=tla.Converter(3))
    program = device.program(NEAR, damping=0.1)
    quantised = tla.Converter(3).convert(NEAR, symmetric=True).value
    np.testing.assert_allclose(program.machine.operator.matmat(jnp.eye(3)), quantised + 0.1 * np.eye(3), rtol=1e-15)
    np.testing.assert_allclose(program.operator.matmat(jnp.eye(3)), NEAR + 0.1 * np.eye(3), rtol=1e-15)
    assert not int(program.status)
    found = tla.solve(program, jnp.ones(3), key=KEY, plan=PLAN)
    exact = np.linalg.solve(NEAR + 0.1 * np.eye(3), np.ones(3))
    # To second order in what the couplings are off, at a tenth of them.
    assert np.all(np.abs(found.value - exact) < 6 * np.asarray(found.stderr))
    with pytest.raises(ValueError, match="damping"):
        device.program(NEAR, damping=-1.0)
    # Damping before does not help: it is rounded away.
    with pytest.raises(ValueError, match="positive definite"):
        device.program(NEAR + 0.05 * jnp.eye(3))


@pytest.mark.parametrize("kind", ["dense", "diagonal", "low rank"])
def test_damping_adds_to_the_diagonal_of_what_can_take_it(kind):
    program = tla.Device().program(KINDS[kind], damping=0.25)
    exact = KINDS[kind].matmat(jnp.eye(6)) + 0.25 * jnp.eye(6)
    np.testing.assert_allclose(program.machine.operator.matmat(jnp.eye(6)), exact, rtol=1e-14, atol=1e-15)
    found = tla.solve(program, B, key=KEY, plan=PLAN)
    assert_within_stderr(found.value, found.stderr, np.linalg.solve(exact, B))


def test_damping_of_what_it_would_change_in_kind_is_refused():
    with pytest.raises(ValueError, match="Kronecker"):
        tla.Device().program(KINDS["kronecker"], damping=0.1)


@pytest.mark.parametrize("kind", ["dense", "diagonal", "low rank"])
def test_dead_nodes_take_part_in_nothing(kind):
    device = tla.Device(chip=tla.Chip(KEY, 0.0, dead=(1, 4)))
    program = device.program(KINDS[kind])
    found = np.asarray(program.machine.operator.matmat(jnp.eye(6)))
    dead, alive = [1, 4], [0, 2, 3, 5]
    assert np.all(found[np.ix_(dead, alive)] == 0)
    exact = np.asarray(KINDS[kind].matmat(jnp.eye(6)))
    np.testing.assert_allclose(found[np.ix_(alive, alive)], exact[np.ix_(alive, alive)], rtol=1e-15)
    out = tla.solve(program, B, key=KEY, plan=PLAN)
    assert np.all(np.asarray(out.value)[dead] == 0)
    assert int(out.status) == tla.Status.IMPRECISE
    rest = np.linalg.solve(exact[np.ix_(alive, alive)], np.asarray(B)[alive])
    noise = np.asarray(tla.solve(KINDS[kind], B, key=KEY, plan=PLAN).stderr)[alive]
    assert np.all(np.abs(np.asarray(out.value)[alive] - rest) < 10 * noise)
    # The error says what is lost: no less than the answer of dead nodes.
    full = np.linalg.solve(exact, B)
    assert np.all(np.abs(np.asarray(out.value) - full) < 6 * np.asarray(out.stderr))
    assert np.all(np.asarray(out.stderr)[dead] >= 0.99 * np.abs(full[dead]))


def test_dead_nodes_that_are_none_are_refused():
    for dead, message in (((6,), "node 6"), (tuple(range(6)), "all nodes"), ((-1,), "dead"), ((0.5,), "dead")):
        with pytest.raises(ValueError, match=message):
            tla.Device(chip=tla.Chip(KEY, dead=dead)).program(A)
    with pytest.raises(ValueError, match="Kronecker"):
        tla.Device(chip=tla.Chip(KEY, dead=(0,))).program(KINDS["kronecker"])
    with pytest.raises(ValueError, match="dead nodes"):
        tla.lyapunov(
            A, jnp.eye(6), key=KEY, plan=tla.Plan(10.0, 1e4, 100), device=tla.Device(chip=tla.Chip(KEY, dead=(0,)))
        )
    with pytest.raises(ValueError, match="mismatch"):
        tla.Chip(KEY, -0.1)


def test_a_matrix_larger_than_the_device_is_refused():
    assert tla.Device(cells=6).program(A).operator.dim == 6
    with pytest.raises(ValueError, match="6 unknowns and the device 5 cells"):
        tla.Device(cells=5).program(A)
    with pytest.raises(ValueError, match="cells"):
        tla.Device(cells=0)


def test_stochastic_rounding_of_couplings_needs_a_key():
    device = tla.Device(matrix_dac=tla.Converter(8, stochastic=True))
    with pytest.raises(ValueError, match="key"):
        device.program(A)
    one, other = (device.program(A, key=jax.random.key(seed)).machine.operator.matrix for seed in (0, 1))
    assert np.any(one != other)
    # A verb brings its own key.
    assert np.all(np.isfinite(tla.solve(A, B, key=KEY, plan=PLAN, device=device).value))


def test_couplings_beyond_the_full_scale_are_reported():
    device = tla.Device(matrix_dac=tla.Converter(12, full_scale=0.9 * float(jnp.max(A))))
    assert int(device.program(A).status) & tla.Status.SATURATED
    assert int(tla.solve(A, B, key=KEY, plan=PLAN, device=device).status) & tla.Status.SATURATED
    wide = tla.Device(matrix_dac=tla.Converter(12, full_scale=1.1 * float(jnp.max(A))))
    assert not int(wide.program(A).status)


def test_forces_beyond_the_full_scale_are_reported():
    device = tla.Device(force_dac=tla.Converter(12, full_scale=0.9 * float(jnp.max(jnp.abs(B)))))
    out = tla.solve(A, B, key=KEY, plan=PLAN, device=device)
    assert int(out.status) == tla.Status.SATURATED
    assert np.all(np.abs(out.value - X) < 6 * np.asarray(out.stderr))


@pytest.fixture(scope="module")
def shifts():
    """Mean square of what chips and converters shift the answer by, over many chips, for traced imperfections."""
    keys = jax.random.split(KEY, 300)

    def shift(key, bits, mismatch):
        device = tla.Device(matrix_dac=tla.Converter(bits), chip=tla.Chip(key, mismatch))
        written = device.program(A, key=key).machine.operator.matmat(jnp.eye(6))
        return jnp.sum((jnp.linalg.solve(written, B) - X) ** 2)

    return jax.jit(jax.vmap(shift, (0, None, None))), keys


def test_the_error_grows_with_the_mismatch_in_proportion(shifts):
    run, keys = shifts
    found = np.array([np.asarray(run(keys, jnp.asarray(40), jnp.asarray(size))) for size in (1e-4, 2e-4, 4e-4)])
    for smaller, larger in pairwise(found):
        ratio = larger / smaller
        # Chip by chip: the same deviations, twice as large.
        np.testing.assert_allclose(ratio, 4, rtol=0.05)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(found[1] / found[0], 2, rtol=0.05)


def test_the_error_falls_by_four_with_each_bit_on_average():
    rng = np.random.default_rng(5)
    matrices = jnp.stack([system(d=6, kappa=10.0, seed=int(seed))[0] for seed in rng.integers(1 << 30, size=100)])

    def shift(matrix, bits):
        written = tla.Device(matrix_dac=tla.Converter(bits)).program(matrix).machine.operator.matmat(jnp.eye(6))
        return jnp.sum((jnp.linalg.solve(written, B) - jnp.linalg.solve(matrix, B)) ** 2)

    run = jax.jit(jax.vmap(jax.vmap(shift, (0, None)), (None, 0)))
    square = np.log2(np.asarray(run(matrices, jnp.arange(9, 17))))
    fall = np.diff(square, axis=0)
    mean, stderr = fall.mean(1), fall.std(1) / np.sqrt(fall.shape[1])
    assert_within_stderr(mean, stderr, -2.0, degrees=99)
    assert np.all(mean < -1)
    with pytest.raises(AssertionError):
        assert_within_stderr(mean, stderr, -1.0, degrees=99)
