r"""Claim: `rank` takes 50,000 real feature vectors in well under a minute on two CPU cores, and a
sixth of what umap-learn and gudhi take for the manifold and the scores. The first held wherever it
was measured, the second on some machines: see the files `rank_50000x128*.json`, each of a machine
and a commit of its own.

    python benchmarks/bench_rank.py $TOPOPRUNE_DATA/cifar10_netA.npz::train_f \
        --labels $TOPOPRUNE_DATA/cifar10_netA.npz::train_y --peer \
        --out benchmarks/results/rank_50000x128.json

The first call of the process compiles, ours and that of the peer, neither of which finds a program
that an earlier process has kept, and is reported apart; the others are warm. Totals are those
of a call that nobody watches, which finds the embedding beside the other stages; the seconds of the
stages, and "in turn" of all of them, are those of another call right after it, which announces one
after the other. Memory is the peak resident memory of the process after the first call, before any
peer was there.

With `--peer` the calls take turns with what one would put together from the usual packages:
umap-learn (its defaults: two dimensions, all threads), and gudhi, on all cores, for the components
of the patch of every sample, its 64 nearest in the embedding: by SimplexTree, and by
RipsPersistence, which is its fastest way and has values only. Sorting by that chooses the samples.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import numpy as np

import topoprune_jax
from topoprune_jax._provenance import provenance
from topoprune_jax.cli import StageTimer, peak_memory
from topoprune_jax.io import read_array

PEER = "umap-learn and gudhi"


def timed_rank(features, labels, ratio, progress=None):
    """Seconds of a call."""
    started = time.perf_counter()
    ranking = topoprune_jax.rank(
        features, ratio, labels=labels, progress=progress, key=jax.random.key(0)
    )
    jax.block_until_ready(ranking)
    return time.perf_counter() - started


def timed_stages(features, labels, ratio):
    """Seconds of the stages, one after the other."""
    with StageTimer() as timer:
        total = timed_rank(features, labels, ratio, timer)
    return timer.seconds | {"in turn": total}


def timed_peer(features, patch_size=64):
    """Seconds of umap-learn, and of gudhi for the total persistence of every sample's patch."""
    import gudhi
    import umap
    from gudhi.sklearn import RipsPersistence
    from scipy.spatial import cKDTree

    rips = RipsPersistence(homology_dimensions=0, input_type="point cloud").fit([])

    def by_simplex_tree(patches):
        several = []
        for patch in patches:
            tree = gudhi.RipsComplex(points=patch).create_simplex_tree(max_dimension=1)
            tree.compute_persistence()
            several.append(tree.persistence_intervals_in_dimension(0))
        return several

    def complexity(diagrams):
        return [(bars[:, 1] - bars[:, 0])[np.isfinite(bars[:, 1])].sum() for bars in diagrams]

    started = time.perf_counter()
    x = np.asarray(features, np.float32)
    z = umap.UMAP().fit_transform(x / np.linalg.norm(x, axis=1, keepdims=True))
    embedded = time.perf_counter()
    rows = cKDTree(z).query(z, patch_size, workers=-1)[1]
    searched = time.perf_counter()
    pieces = np.array_split(rows, 64)
    seconds, scores = {}, []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for name, diagrams in (
            ("gudhi SimplexTree", by_simplex_tree),
            ("gudhi RipsPersistence", rips.transform),
        ):
            began = time.perf_counter()
            done = threads.map(lambda piece, way=diagrams: complexity(way(list(z[piece]))), pieces)
            scores.append(np.concatenate(list(done)))
            np.argsort(scores[-1])
            seconds[name] = time.perf_counter() - began
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4)
    shared = {"umap-learn": embedded - started, "patches": searched - embedded}
    total = sum(shared.values()) + seconds["gudhi SimplexTree"]
    return shared | seconds | {"total": total}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features")
    parser.add_argument("--labels")
    parser.add_argument("--ratio", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", action="store_true", help="umap-learn and gudhi in turn with us")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    # Kept programs are no part of a first call: neither JAX has a folder for them here, nor numba,
    # which else keeps some of umap-learn's beside its sources.
    programs = tempfile.TemporaryDirectory()
    os.environ["NUMBA_CACHE_DIR"] = programs.name
    features = read_array(arguments.features)
    choices = {"without labels": None}
    if arguments.labels:
        choices["with labels"] = read_array(arguments.labels)

    def timed(labels, is_first):
        total = {"total": timed_rank(features, labels, arguments.ratio)}
        return total if is_first else timed_stages(features, labels, arguments.ratio) | total

    calls = {name: partial(timed, labels) for name, labels in choices.items()}
    if arguments.peer:
        calls[PEER] = lambda is_first: timed_peer(features)
    runs = {name: [] for name in calls}
    peak = None
    for i in range(1 + arguments.repeats):  # the kinds take turns, so that drift hits all
        for name, call in calls.items():
            if name == PEER and peak is None:
                peak = peak_memory()
            runs[name].append(call(is_first=i == 0))
            print(name, {stage: round(s, 2) for stage, s in runs[name][-1].items()}, flush=True)
    # The file's name tells which features; where they lie on this machine tells nobody anything.
    words = [w if "/" not in w else f"$TOPOPRUNE_DATA/{Path(w).name}" for w in sys.argv[1:-1]]
    out = arguments.out
    words.append(f"benchmarks/results/{Path(out).name}" if Path(out).is_absolute() else out)
    command = " ".join(["python benchmarks/bench_rank.py", *words])
    packages = ("umap-learn", "pynndescent", "numba", "scipy") if arguments.peer else ()
    record = provenance(command, packages=packages) | {
        "n": len(features),
        "d": features.shape[1],
        "dtype": str(features.dtype),
        "ratio": arguments.ratio,
        "seed": 0,
        "peak_resident_gb": (peak or peak_memory() or 0) / 1e9,
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
