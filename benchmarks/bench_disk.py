r"""Claim: from a file, two cores rank a million samples in less than an hour and 3 GB.

    python benchmarks/bench_disk.py --out benchmarks/results/disk.json
    python benchmarks/disk_table.py

Features as those of `bench_scale.py` are written to a .npy file, and `topoprune rank` ranks it as
from a shell, in a process of its own: compiling, reading and writing included. Its peak is all that
the process held at a time, Python and the compiler too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_scale import manifold

from topoprune_jax._provenance import provenance


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=128)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    record = provenance(" ".join(["python benchmarks/bench_disk.py", *words]))
    record["load_average"] = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        features = Path(folder) / "features.npy"
        np.save(features, manifold(arguments.samples, arguments.dims))
        began = time.perf_counter()
        command = [sys.executable, "-m", "topoprune_jax", "rank", str(features)]
        command += ["--ratio", "0.9", "--out", str(Path(folder) / "ranking.npz"), "--json"]
        # Compiling counts: nothing is taken from what earlier commands have compiled.
        environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        answer = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        ).stdout
        record["wall_seconds"] = time.perf_counter() - began
        record["file_bytes"] = features.stat().st_size
    found = json.loads(answer)
    wanted = ("n_samples", "n_kept", "ratio", "settings", "recall", "remark", "seconds")
    record |= {name: found[name] for name in (*wanted, "peak_memory_bytes")}
    record["dims"] = arguments.dims
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
