r"""Claim: `rank` takes 50,000 real feature vectors in well under a minute on two CPU cores.

    python benchmarks/bench_rank.py $TOPOPRUNE_DATA/cifar10_netA.npz::train_f \
        --labels $TOPOPRUNE_DATA/cifar10_netA.npz::train_y \
        --out benchmarks/results/rank_50000x128.json

The first call of the process compiles and is reported apart; the others are warm. Seconds are those
of the stages as `rank` announces them; memory is the peak resident memory of the process.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import jax

import topoprune_jax
from topoprune_jax._provenance import provenance
from topoprune_jax.cli import StageTimer, peak_memory
from topoprune_jax.io import read_array


def timed_rank(features, labels, ratio):
    with StageTimer() as timer:
        ranking = topoprune_jax.rank(
            features, ratio, labels=labels, progress=timer, key=jax.random.key(0)
        )
        jax.block_until_ready(ranking)
    return timer.seconds | {"total": timer.total}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features")
    parser.add_argument("--labels")
    parser.add_argument("--ratio", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    features = read_array(arguments.features)
    choices = {"without labels": None}
    if arguments.labels:
        choices["with labels"] = read_array(arguments.labels)
    runs = {name: [] for name in choices}
    for _ in range(1 + arguments.repeats):  # the kinds take turns, so that drift hits both
        for name, labels in choices.items():
            runs[name].append(timed_rank(features, labels, arguments.ratio))
            print(name, {stage: round(s, 2) for stage, s in runs[name][-1].items()}, flush=True)
    # The file's name tells which features; where they lie on this machine tells nobody anything.
    words = [w if "/" not in w else f"$TOPOPRUNE_DATA/{Path(w).name}" for w in sys.argv[1:-1]]
    record = provenance(" ".join(["python benchmarks/bench_rank.py", *words, arguments.out])) | {
        "n": len(features),
        "d": features.shape[1],
        "dtype": str(features.dtype),
        "ratio": arguments.ratio,
        "seed": 0,
        "peak_resident_gb": (peak_memory() or 0) / 1e9,
        "first_call_seconds": {name: several[0] for name, several in runs.items()},
        "warm_seconds": {name: several[1:] for name, several in runs.items()},
        "warm_median_seconds": {
            name: {
                stage: statistics.median(run[stage] for run in several[1:]) for stage in several[1]
            }
            for name, several in runs.items()
        },
    }
    Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
