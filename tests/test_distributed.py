"""Two processes with four virtual devices each give the numbers of one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sharded import alone, assert_same, run

TESTS = Path(__file__).parent
PROCESSES, DEVICES, PATIENCE = 2, 4, 150
# What differs between processes is placement; the other cases run on the eight devices of one.
CASES = ["solve, dense_by_rows", "solve, dense_whole", "solve, stencil_by_rows"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def launch(folder):
    """Run the workers and return what each wrote; fail with all they printed if one fails or takes too long."""
    address, environment = f"localhost:{free_port()}", dict(os.environ)
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
    environment["JAX_PLATFORMS"] = "cpu"
    paths, logs = ([folder / f"{i}.{kind}" for i in range(PROCESSES)] for kind in ("npz", "log"))
    workers = []
    try:
        for i in range(PROCESSES):
            command = [sys.executable, TESTS / "distributed_worker.py", address, PROCESSES, i, paths[i], *CASES]
            with logs[i].open("w") as log:
                workers.append(
                    subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, env=environment)
                )
        codes = [worker.wait(PATIENCE) for worker in workers]
    except subprocess.TimeoutExpired:
        codes = ["too long"]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if any(codes):
        printed = "\n".join(f"--- worker {i}\n{log.read_text()[-4000:]}" for i, log in enumerate(logs))
        pytest.fail(f"workers ended with {codes}\n{printed}")
    return [dict(np.load(path)) for path in paths]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("workers"))


def test_every_process_sees_all_devices(written):
    for numbers in written:
        np.testing.assert_array_equal(numbers["devices"], [DEVICES, PROCESSES * DEVICES])


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_numbers_of_one(case, written):
    one = run(case, alone)
    for numbers in written:
        assert_same(numbers[f"{case}: value"], one.value)
        assert_same(numbers[f"{case}: stderr"], one.stderr)
        assert numbers[f"{case}: status"] == int(one.status) == 0


@pytest.mark.parametrize("case", ["solve, dense_whole", "solve, stencil_by_rows"])
def test_each_process_holds_half_of_the_answer(case, written):
    for numbers in written:
        assert PROCESSES * numbers[f"{case}: held"] == numbers[f"{case}: value"].size
