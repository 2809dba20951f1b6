"""Eight virtual devices give the numbers of one, and share the work."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from problems import system
from sharded import (
    CASES,
    KEY,
    PLAN,
    RUNS,
    SIDE,
    alone,
    assert_same,
    block,
    dense_by_rows,
    run,
    spread,
    stencil,
    stencil_by_rows,
)

import thermolinalg as tla
from thermolinalg.testing import assert_unit_variance


@pytest.fixture(scope="module")
def mesh():
    assert len(jax.devices()) >= 8, "the tests need XLA_FLAGS=--xla_force_host_platform_device_count=8"
    return jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,), devices=jax.devices()[:8])


def named(mesh, *axes):
    return NamedSharding(mesh, PartitionSpec(*axes))


@pytest.mark.parametrize("case", CASES)
def test_eight_devices_give_the_numbers_of_one(case, mesh):
    one, many = run(case, alone), run(case, spread(mesh))
    assert len(many.value.sharding.device_set) == 8
    assert_same(many.value, one.value)
    assert_same(many.stderr, one.stderr)
    assert int(many.status) == int(one.status) == 0


def test_other_noise_is_told_from_rounding(mesh):
    other = tla.solve(*dense_by_rows(spread(mesh)), key=jax.random.key(6), plan=PLAN).value
    with pytest.raises(AssertionError):
        assert_same(other, run("solve, dense_by_rows", alone).value)


@pytest.mark.parametrize(
    ("case", "axes"),
    [("solve, dense_whole", (None, "devices")), ("solve, stencil_by_rows", ("devices",))],
)
def test_answers_stay_where_the_right_hand_sides_are(case, axes, mesh):
    out = run(case, spread(mesh))
    for x in (out.value, out.stderr, out.stats["state"].position):
        assert x.sharding.is_equivalent_to(named(mesh, *axes), x.ndim)
        assert {shard.data.size for shard in x.addressable_shards} == {x.size // 8}


def test_an_ensemble_of_devices_is_split_over_devices(mesh):
    """One program, factored once; every run has its own key and lives on the device that holds the key."""
    A, b, exact = system(d=16)
    program = tla.Device().program(A)
    keys = jax.random.split(KEY, 512)

    def replica(key, program, b):
        out = tla.solve(program, b, key=key, plan=PLAN)
        return out.value, out.stderr

    ensemble = jax.vmap(replica, (0, None, None))
    whole, runs = named(mesh), named(mesh, "devices")
    split = jax.jit(ensemble, in_shardings=(runs, whole, whole)).lower(keys, program, b).compile()
    operands = jax.device_put(keys, runs), *jax.device_put((program, b), whole)
    value, stderr = split(*operands)
    assert_same(value, jax.jit(ensemble)(keys, program, b)[0])
    assert value.sharding.is_equivalent_to(runs, 2)
    assert collectives(split) == set()  # replicas do not talk to each other
    # In a rotated basis entries are correlated; one of them in all runs is a sample.
    assert_unit_variance((np.asarray(value) - exact)[:, :1] / np.asarray(stderr)[:, :1])
    # The mistake to make by hand: the same key on every device, so that 512 runs are 64.
    copied = jax.jit(ensemble)(jnp.tile(keys[:64], 8), program, b)[0]
    assert np.unique(np.asarray(value)[:, 0]).size == 512 > np.unique(np.asarray(copied)[:, 0]).size
    with pytest.raises(AssertionError):
        assert_same(value, copied)


def test_one_program_serves_many_sharded_right_hand_sides(mesh):
    A, _, _ = system(d=16)
    put = spread(mesh)
    program, reference = tla.Device().program(put(A, "devices")), tla.Device().program(A)
    for scale in (1.0, 2.0):
        b = scale * block(16)
        one = tla.solve(reference, b, key=KEY, plan=PLAN)
        assert_same(tla.solve(program, put(b, None, "devices"), key=KEY, plan=PLAN).value, one.value)


def test_jit_with_shardings_in_and_out(mesh):
    A, _, _ = system(d=16)
    columns = named(mesh, None, "devices")

    def value(A, b):
        return tla.solve(A, b, key=KEY, plan=PLAN).value

    split = jax.jit(value, in_shardings=(named(mesh, "devices"), columns), out_shardings=columns)(A, block(16))
    assert_same(split, value(A, block(16)))
    assert split.sharding.is_equivalent_to(columns, 2)


def test_derivatives_are_those_of_one_device(mesh):
    A, b, _ = system(d=16)
    put = spread(mesh)

    def loss(A, b):
        return jnp.sum(tla.solve(A, b, key=KEY, plan=PLAN).value ** 2)

    one, many = (jax.grad(loss, argnums=(0, 1))(*pair) for pair in ((A, b), (put(A, "devices"), put(b, "devices"))))
    for found, expected in zip(many, one, strict=True):
        assert_same(found, expected)


def collectives(compiled):
    names = "all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
    return set(re.findall(rf"\b({names})(?:-start)?\(", compiled.as_text()))


def compiled_stencil(mesh, verb):
    """Compile, and do not run, a verb with the stencil and a block of 32 columns spread by rows."""
    sharding = named(mesh, "devices")
    vectors = jax.ShapeDtypeStruct((SIDE**2, 32), np.float64, sharding=sharding)
    return jax.jit(verb).lower(vectors).compile()


def test_vectors_of_a_stencil_are_not_gathered(mesh):
    program = tla.Device().program(stencil_by_rows(alone)[0])
    split = compiled_stencil(mesh, lambda b: tla.solve(program, b, key=KEY, plan=PLAN))
    # Neighbours exchange borders, and scalar products are summed.
    assert collectives(split) == {"all-reduce", "collective-permute"}
    whole = f"f64[{SIDE**2},32]"
    assert whole not in split.as_text()
    # The test can see a gather.
    gathered = compiled_stencil(mesh, lambda b: stencil(jax.lax.with_sharding_constraint(b, named(mesh))))
    assert "all-gather" in collectives(gathered)
    assert whole in gathered.as_text()


def test_a_device_holds_its_share_of_memory(mesh):
    A, _, _ = system(d=16)
    program = tla.Device().program(A)
    one_device = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])

    def bytes_used(mesh):
        vectors = jax.ShapeDtypeStruct((16, 4096), np.float64, sharding=named(mesh, None, "devices"))
        used = jax.jit(lambda b: tla.solve(program, b, key=KEY, plan=PLAN)).lower(vectors).compile().memory_analysis()
        return np.array([used.argument_size_in_bytes, used.temp_size_in_bytes, used.output_size_in_bytes])

    # An eighth each, and what little every device keeps: the factors, the plan, buffers of 1 kB.
    assert np.all(bytes_used(mesh) <= bytes_used(one_device) / 8 + 2**16)


def test_explicit_axes_are_refused_by_name():
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:8])
    A, b, _ = system(d=16)
    with pytest.raises(ValueError, match="A is spread over explicit axes"):
        tla.solve(spread(mesh)(A, "devices"), b, key=KEY, plan=PLAN)
    with pytest.raises(ValueError, match=r"b is spread over explicit axes.*AxisType\.Auto"):
        tla.solve(A, spread(mesh)(np.tile(b[:, None], (1, RUNS)), None, "devices"), key=KEY, plan=PLAN)
