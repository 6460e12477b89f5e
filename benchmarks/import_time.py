"""Claim: importing topoprune_jax costs little more than importing what it stands on.

    python benchmarks/import_time.py --out benchmarks/results/import_time.json

Fresh interpreters, taking turns; the ratio is that of the medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from topoprune_jax._provenance import provenance

STATEMENTS = ("import jax, gudhi, equinox", "import topoprune_jax")


def seconds(statement):
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    for statement in STATEMENTS:  # bytecode and file caches
        seconds(statement)
    samples = {statement: [] for statement in STATEMENTS}
    for _ in range(arguments.repeats):
        for statement in STATEMENTS:
            samples[statement].append(seconds(statement))
    bare, ours = (statistics.median(samples[statement]) for statement in STATEMENTS)
    command = f"python benchmarks/import_time.py --out {arguments.out}"
    record = provenance(command) | {
        "seconds": samples,
        "median_seconds": {STATEMENTS[0]: bare, STATEMENTS[1]: ours},
        "ratio": ours / bare,
    }
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.out).write_text(json.dumps(record, indent=1) + "\n")
    print(f"{STATEMENTS[0]}: {bare:.3f} s; {STATEMENTS[1]}: {ours:.3f} s; ratio {ours / bare:.2f}")


if __name__ == "__main__":
    main()
