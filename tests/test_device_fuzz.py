"""Any device at all: what it returns is finite, or says that it is not to be trusted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import system

import thermolinalg as tla

A, B, _ = system(d=3, kappa=10.0)
DIM = len(B)
DRIFT = jnp.asarray(np.array([[1.0, 0.5, 0.0], [-0.3, 0.7, 0.2], [0.1, 0.0, 1.4]]))
WHOLE = st.integers(1, 16)


@st.composite
def rough_devices(draw):
    def logs(low, high):
        return 10.0 ** draw(st.floats(low, high))

    def signed(high):
        return draw(st.sampled_from([0.0, 1.0, -1.0])) * logs(-6, high)

    return {
        "bits": [draw(WHOLE) for _ in range(3)],
        "scales": [logs(-4, 4) for _ in range(3)],
        "gains": [signed(0) for _ in range(3)],
        "offsets": [signed(0) for _ in range(3)],
        "mismatch": draw(st.sampled_from([0.0, 1.0])) * logs(-6, 0),
        "beta": logs(-6, 12),
        "density": draw(st.sampled_from([0.0, 1.0])) * logs(-12, 6),
        "bandwidth": logs(-3, 6),
        "burn_in": logs(-2, 4),
        "duration": logs(-2, 8),
        "samples": float(round(logs(0, 5))),
    }


@pytest.fixture(scope="module", params=[True, False], ids=["ranged", "chosen"])
def fuzzed(request):
    """What verbs make of any device, compiled once."""

    def part(p, key):
        full = p["scales"] if request.param else [None] * 3
        rows = zip(p["bits"], full, p["gains"], p["offsets"], strict=True)
        converters = [tla.Converter(bits, scale, gain=gain, offset=offset) for bits, scale, gain, offset in rows]
        return tla.Device(
            beta=p["beta"],
            matrix_dac=converters[0],
            force_dac=converters[1],
            adc=converters[2],
            read_noise=tla.ReadNoise(p["density"], p["bandwidth"]),
            chip=tla.Chip(key, p["mismatch"]),
        )

    @jax.jit
    def run(p, key):
        one = part(p, key)
        sampled = tla.Plan(p["burn_in"], p["duration"], p["samples"].astype(int))
        outs = [
            tla.solve(A, B, key=key, plan=tla.Plan(p["burn_in"], p["duration"]), device=one),
            tla.solve(A, B, key=key, plan=sampled, device=one),
            tla.gaussian(A, B, key=key, samples=2, device=one),
        ]
        return [(out.value, out.stderr, out.status) for out in outs]

    @jax.jit
    def moments(p, key):
        one = part(p, key)
        plan = tla.Plan(p["burn_in"], 1e3 * p["samples"], p["samples"].astype(int))
        outs = [
            tla.inv(A, key=key, plan=plan, device=one),
            tla.lyapunov(DRIFT, jnp.eye(DIM), key=key, plan=plan, device=one),
        ]
        return [(out.value, out.stderr, out.status) for out in outs]

    return run, moments


@given(rough=rough_devices(), seed=st.integers(0, 2**31))
@settings(max_examples=60)
def test_no_device_gives_what_is_not_finite_without_saying_so(fuzzed, rough, seed):
    rough = jax.tree.map(jnp.asarray, rough)
    for run in fuzzed:
        for value, stderr, status in run(rough, jax.random.key(seed)):
            if not int(status):
                assert np.all(np.isfinite(value))
                assert np.all(np.isfinite(stderr))
                assert np.all(np.asarray(stderr) >= 0)
