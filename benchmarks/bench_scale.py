r"""Claim: every stage but the exact search grows about linearly, and `plan` knows it beforehand.

    python benchmarks/bench_scale.py --resume --out benchmarks/results/scale.json
    python benchmarks/bench_scale.py --resume --large --out benchmarks/results/scale.json
    python benchmarks/scale_table.py

Each size runs in a fresh process, which imports, makes its features, starts the device, and takes
what it holds then as its baseline. Its first call compiles and runs as users call it; its peak, the
most memory that was ever in use less the baseline, is what the plan is held against. Warm calls
follow, which announce their stages: seconds and peak of each, the peak anew for every stage (Linux
lets a process forget its record). The first of them is not counted, as it compiles what announces
the embedding, but for the samples of `--large`. On an accelerator the peak is that of the device's
own count, and what the products of the search achieve is held against what the device does in a
plain product.

`--resume` measures only what the file does not hold yet. `--large` adds 1,000,000 samples.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import topoprune_jax
from topoprune_jax import _graph_approximate as approximate
from topoprune_jax._provenance import provenance
from topoprune_jax._speed import speed_of
from topoprune_jax.cli import StageTimer, peak_memory

KINDS = {
    "exact": {"neighbors": "exact", "classes": 0},
    "blocks": {"neighbors": "blocks", "classes": 0},
    "labels": {"neighbors": "blocks", "classes": 100},
}
CPU_SIZES = [(n, 128) for n in (10_000, 20_000, 50_000, 100_000, 200_000)]
LARGE = (1_000_000, 128)
ACCELERATOR_SIZES = [(n, d) for d in (128, 768) for n in (50_000, 200_000, 1_000_000, 1_280_000)]
N_NEIGHBORS = 15  # of `rank` unless told otherwise
QUADRATIC = 300_000  # samples beyond which the exact search is left out on a CPU
SELDOM = 80_000  # samples from which one warm call of the exact search must do


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", help="such as 10000,20000; those of the claim unless given")
    parser.add_argument("--dims", type=int, default=128, help="features where --sizes is given")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of " + ", ".join(KINDS))
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--repeats", type=int, default=3, help="warm calls of the smaller sizes")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--commit", help="of a copy of the repository whose history is not there or behind"
    )
    parser.add_argument("--out")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a fresh process is asked for
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    if not arguments.out:
        parser.error("the following arguments are required: --out")
    out = Path(arguments.out)
    record = {"runs": []}
    if arguments.resume and out.exists():
        record = json.loads(out.read_text())
    platform = child({"probe": True})["platform"]
    for n, d, kind in cases(arguments, platform):
        asked = {"platform": platform, "n": n, "d": d, "kind": kind}
        if any(asked.items() <= run.items() for run in record["runs"]):
            continue
        is_long = n > QUADRATIC or (n >= SELDOM and KINDS[kind]["neighbors"] == "exact")
        repeats = 1 if is_long else arguments.repeats
        found = child({"n": n, "d": d, **KINDS[kind], "repeats": repeats})
        found["command"] = command(arguments)
        found["commit"] = arguments.commit or found["commit"]
        record["runs"].append(asked | found)
        record["growth"] = growth(record["runs"])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n")
        planned, warm_seconds = found["plan"], found["warm_median_seconds"]["total"]
        print(
            f"{n:>9,} x {d} {kind:7} first {found['first_call_seconds']:.1f} s, warm "
            f"{warm_seconds:.1f} s (plan {planned['seconds']:.1f}), peak "
            f"{found['peak_bytes'] / 1e9:.2f} GB (plan {planned['peak_bytes'] / 1e9:.2f})",
            flush=True,
        )


def cases(arguments, platform):
    """Sizes and kinds, the small ones first."""
    if arguments.sizes:
        sizes = [(int(n), arguments.dims) for n in arguments.sizes.split(",")]
    else:
        sizes = CPU_SIZES if platform == "cpu" else ACCELERATOR_SIZES
        if arguments.large and LARGE not in sizes:
            sizes = [*sizes, LARGE]
    kinds = arguments.kinds.split(",")
    return [
        (n, d, kind)
        for n, d in sizes
        for kind in kinds
        if platform != "cpu" or n <= QUADRATIC or KINDS[kind]["neighbors"] != "exact"
    ]


def command(arguments):
    words = ["python benchmarks/bench_scale.py"]
    words += [f"--sizes {arguments.sizes} --dims {arguments.dims}"] if arguments.sizes else []
    words += [f"--kinds {arguments.kinds}"] if arguments.kinds != ",".join(KINDS) else []
    words += ["--large"] if arguments.large else []
    # Where else a file lies on this machine tells nobody anything.
    out = arguments.out
    out = f"benchmarks/results/{Path(out).name}" if Path(out).is_absolute() else out
    return " ".join([*words, f"--out {out}"])


def child(asked):
    """What a fresh process answers; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(asked)], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def growth(runs):
    """By kind and number of features: the exponents of seconds and bytes in n, by least squares."""
    found = {}
    for run in runs:
        name = f"{run['platform']}, {run['kind']}, d = {run['d']}"
        found.setdefault(name, []).append(run)
    return {
        name: {
            "sizes": sorted(run["n"] for run in several),
            "seconds": exponents(several, "warm_median_seconds"),
            "bytes": exponents(several, "warm_median_bytes"),
        }
        for name, several in found.items()
        if len(several) > 1
    }


def exponents(runs, what):
    """Slopes of log(value) against log(n); of stages that every run has."""
    stages = [stage for stage in runs[0][what] if all(stage in run[what] for run in runs)]
    return {stage: exponent(runs, what, stage) for stage in stages}


def exponent(runs, what, stage):
    """The slope; that of a search by blocks where there are any: it is exact for few samples."""
    if stage == "neighbors" and sum(map(is_by_blocks, runs)) > 1:
        runs = [run for run in runs if is_by_blocks(run)]
    values = [max(run[what][stage], 1e-9) for run in runs]
    return float(np.polyfit(np.log([run["n"] for run in runs]), np.log(values), 1)[0])


def is_by_blocks(run):
    asked = KINDS[run["kind"]]["neighbors"] == "blocks"
    return asked and approximate._plan(run["n"], N_NEIGHBORS) is not None


def measure(n=0, d=0, neighbors="", classes=0, repeats=1, probe=False):
    """In a fresh process: the first call, the warm ones, the plan, and the ceilings."""
    if probe:
        return {"platform": jax.default_backend()}
    features = manifold(n, d)
    labels = np.random.default_rng(1).integers(0, classes, n) if classes else None
    device = next(iter(jax.block_until_ready(jnp.zeros(()) + 1).devices()))

    def call(progress=None):
        return jax.block_until_ready(
            topoprune_jax.rank(features, 0.9, labels=labels, neighbors=neighbors, progress=progress)
        )

    memory = Memory(device)
    began = time.perf_counter()
    ranking = call()
    first_call = time.perf_counter() - began
    first_peak = memory.peak() - memory.baseline
    recall = float(ranking.recall)
    del ranking
    # Who watches gets programs of its own, for pieces of the embedding, in the first such call.
    laps = [warm(call, memory) for _ in range(repeats + (n <= QUADRATIC))]
    seconds, sizes = [list(several) for several in zip(*laps[n <= QUADRATIC :], strict=True)]
    plan = topoprune_jax.plan(
        n,
        d,
        neighbors=neighbors,
        classes=np.bincount(labels).tolist() if classes else None,
    )
    return provenance("") | {
        "first_call_seconds": first_call,
        # Of JAX's own, kept in a folder: whether programs may have been compiled before.
        "compilation_cache": bool(jax.config.jax_compilation_cache_dir),
        "warm_seconds": seconds,
        "warm_median_seconds": medians(seconds),
        "baseline_bytes": memory.baseline,
        "peak_bytes": max(first_peak, *(max(lap.values()) for lap in sizes)),
        "first_call_peak_bytes": first_peak,
        "warm_bytes": sizes,
        "warm_median_bytes": medians(sizes),
        "recall": recall,
        "plan": {
            "stages": {s.name: {"bytes": s.bytes, "seconds": s.seconds} for s in plan.stages},
            "peak_bytes": plan.peak_bytes,
            "seconds": plan.seconds,
            "compilation_seconds": plan.compilation_seconds,
            "host_bytes": plan.host_bytes,
        },
        "speed": speed_of(device)._asdict(),
        "ceilings": ceilings(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def manifold(n, d):
    """Features that lie near a surface of few dimensions, as those of networks do."""
    rng = np.random.default_rng(0)
    n_clusters, e = 50, 12
    centers = 2 * rng.normal(size=(n_clusters, e)).astype(np.float32)
    first, second = (
        rng.normal(size=shape).astype(np.float32) / np.sqrt(shape[0])
        for shape in ((e, 64), (64, d))
    )
    features = np.empty((n, d), np.float32)
    step = 1 << 16  # not to hold more than the features

    def fill(i):
        own, m = np.random.default_rng((1, i)), min(step, n - i)
        latent = centers[own.integers(0, n_clusters, m)]
        latent = latent + own.standard_normal((m, e), np.float32)
        noise = np.float32(0.05) * own.standard_normal((m, d), np.float32)
        features[i : i + m] = np.tanh(latent @ first) @ second + noise

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        list(threads.map(fill, range(0, n, step)))
    return features


class Memory:
    """The most memory in use: of the process on a CPU, of the device elsewhere."""

    def __init__(self, device):
        self.device = device
        self.forget()
        self.baseline = self.peak()

    def peak(self):
        stats = None if self.device.platform == "cpu" else self.device.memory_stats()
        return stats["peak_bytes_in_use"] if stats else peak_memory()

    def forget(self):
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")


def warm(call, memory):
    """Seconds and peak of every stage of one call. An accelerator keeps one record for all."""
    peaks = {}
    with StageTimer() as timer:

        def progress(stage, done, total):
            timer(stage, done, total)
            peaks[stage] = max(peaks.get(stage, 0), memory.peak() - memory.baseline)
            memory.forget()
            if done == total:
                print(f"{timer.total:10.1f} s, {stage}", file=sys.stderr, flush=True)

        call(progress)
    return timer.seconds | {"total": timer.total}, peaks


def medians(several):
    return {name: statistics.median(one[name] for one in several) for name in several[0]}


def ceilings():
    """The best that the device does: products of large matrices, and a pass over memory."""
    on_cpu = jax.default_backend() == "cpu"
    size = 2048 if on_cpu else 8192
    x = jnp.ones((size, size), jnp.float32)
    long = jnp.ones((1 << 25 if on_cpu else 1 << 29), jnp.float32)
    found = {}
    for name, dtype, precision in (
        ("float32", jnp.float32, "highest"),
        ("float32, default precision", jnp.float32, "default"),
        ("bfloat16", jnp.bfloat16, "default"),
    ):
        if on_cpu and dtype == jnp.bfloat16:
            continue
        y = x.astype(dtype)
        product = jax.jit(lambda y, p=precision: jnp.matmul(y, y, precision=p))
        found[f"{name}, FLOP/s"] = 2.0 * size**3 / shortest(product, y)
    found["bytes/s"] = 2.0 * long.nbytes / shortest(jax.jit(lambda z: 0.5 * z + 1), long)
    return found


def shortest(function, x):
    times = []
    for _ in range(6):
        began = time.perf_counter()
        jax.block_until_ready(function(x))
        times.append(time.perf_counter() - began)
    return min(times[1:])


if __name__ == "__main__":
    main()
