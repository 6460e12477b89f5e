"""One of several processes that rank together; run by test_mesh.py, not by pytest.

Takes a port, the number of processes, its own number, what to do, and a folder; leaves what it
found there.
"""

import os
import pathlib
import sys
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import topoprune_jax as tp

N, D = 700, 6


def points():
    generator = np.random.default_rng(3)
    centers = generator.normal(size=(5, D))
    return (centers[np.arange(N) % 5] + 0.4 * generator.normal(size=(N, D))).astype(np.float32)


def labels():
    return np.arange(N) % 5


def main(port, n_processes, number, what, folder):
    address = f"localhost:{port}"
    jax.distributed.initialize(address, num_processes=n_processes, process_id=number)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    out = pathlib.Path(folder) / f"{number}"
    if what == "rank":
        ranking = tp.rank(points(), 0.9, labels=labels(), mesh=mesh)
        share = N // n_processes
        own = points()[number * share : (number + 1) * share]
        spread = NamedSharding(mesh, PartitionSpec("data"))
        sharded = jax.make_array_from_process_local_data(spread, own)
        free = tp.rank(sharded, 0.9)
        leaves = jax.tree.leaves((ranking, free))
        np.savez(out, *[np.asarray(leaf) for leaf in leaves])
        return
    error, last = None, time.perf_counter()
    try:
        if what == "bad row":
            bad = points()
            bad[N - 1, 2] = np.nan
            spread = NamedSharding(mesh, PartitionSpec("data"))
            own = bad[number * N // 2 : (number + 1) * N // 2]
            tp.rank(jax.make_array_from_process_local_data(spread, own), 0.9)
        if what == "other rows":
            tp.rank(points()[: N // (number + 1)], 0.9, mesh=mesh)
        if what == "other labels":
            tp.rank(points(), 0.9, labels=labels() + np.arange(N) % (number + 1), mesh=mesh)
        if what == "death":

            def watch(stage, done, total):
                nonlocal last
                last = time.perf_counter()
                if number == 1 and stage == "embedding":
                    os._exit(1)

            tp.rank(points(), 0.9, mesh=mesh, progress=watch)
    except (ValueError, RuntimeError) as caught:
        error = caught
    waited = time.perf_counter() - last
    out.with_suffix(".txt").write_text(f"{type(error).__name__}: {error}\n{waited}")
    sys.stdout.flush()
    os._exit(0)  # without waiting for the others, of which one may be dead


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]), *sys.argv[4:])
