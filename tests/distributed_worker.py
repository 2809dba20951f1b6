"""One process of test_distributed.py: runs every case on the devices of all processes and writes the numbers."""

import sys

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_cpu_collectives_implementation", "gloo")


def main(address: str, processes: int, number: int, cases: list[str], path: str) -> None:
    jax.distributed.initialize(address, processes, number, initialization_timeout=60)

    import numpy as np
    from sharded import run, spread  # makes arrays, so only after initialize

    mesh = jax.make_mesh((len(jax.devices()),), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    gather = jax.jit(lambda x: x, out_shardings=everywhere)
    numbers = {"devices": np.array([len(jax.local_devices()), len(jax.devices())])}
    for case in cases:
        out = run(case, spread(mesh))
        numbers[f"{case}: value"], numbers[f"{case}: stderr"] = (np.asarray(gather(x)) for x in (out.value, out.stderr))
        numbers[f"{case}: status"] = np.asarray(out.status)
        numbers[f"{case}: held"] = np.array(sum(shard.data.size for shard in out.value.addressable_shards))
    np.savez(path, **numbers)
    jax.distributed.shutdown()


if __name__ == "__main__":
    address, processes, number, path, *cases = sys.argv[1:]
    main(address, int(processes), int(number), cases, path)
