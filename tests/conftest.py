"""Strict settings for every test: float64, no silent promotion, warnings are errors, reproducible examples."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# Idle threads of the BLAS keep spinning; beside the threads of XLA they slow small factorisations down a hundredfold.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Small problems, thousands of them: compiling takes longer than running.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci")


@pytest.fixture(autouse=True, scope="module")
def _free_compiled_code():
    """Drop what a file has compiled: each executable holds memory maps, and a process may have only so many."""
    yield
    jax.clear_caches()


@pytest.fixture
def small(tmp_path):
    """A file with a matrix of three unknowns."""
    from shell import SMALL

    np.save(tmp_path / "A.npy", SMALL)
    return tmp_path / "A.npy"
