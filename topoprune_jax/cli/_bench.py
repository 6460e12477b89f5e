"""`topoprune bench`: what ranking costs on this machine."""

import json
import os
import statistics
from typing import Any

import click

from ._console import (
    LARGEST_SEED,
    PROGRAM,
    StageTimer,
    bar_wanted,
    interruptible,
    peak_memory,
    print_json,
    show,
    user_errors,
)

_CLUSTERS = 20


class _Sizes(click.ParamType):
    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Whole numbers from 2, without repetition and rising, since peak memory only rises."""
        if isinstance(value, tuple):
            return value
        try:
            sizes = sorted({int(part) for part in value.split(",")})
        except ValueError:
            self.fail(f"'{value}' is not a list of whole numbers such as 1000,4000.", param, ctx)
        if sizes[0] < 2:
            self.fail(f"a size must be at least 2; got {sizes[0]}.", param, ctx)
        return tuple(sizes)


@click.command("bench")
@click.argument("features", type=click.Path(), required=False)
@click.option(
    "--sizes",
    type=_Sizes(),
    default="1000,4000",
    show_default=True,
    help="Numbers of samples to rank.",
)
@click.option(
    "--dims",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Features of the synthetic samples; without FEATURES only.",
)
@click.option(
    "--ratio", type=float, default=0.9, show_default=True, help="Fraction of the samples to REMOVE."
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Warm runs after the first, whose median is shown.",
)
@click.option("--seed", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(),
    metavar="FILE",
    help="A .json file for every single measurement, with versions and machine.",
)
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="What --out would hold, on stdout.")
def bench_command(
    features: str | None,
    sizes: tuple[int, ...],
    dims: int,
    ratio: float,
    repeats: int,
    seed: int,
    out: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure what ranking costs on this machine.

    Ranks random rows of FEATURES, or synthetic clusters, without labels: once at every size with
    everything compiled for that size, which is the first call, and then again, warm. Shows seconds
    by stage and the peak resident memory of the process up to the end of that size.

    \b
    Examples:
      topoprune bench
      topoprune bench features.npy --sizes 10000,50000 --out bench.json
    """
    from .._checks import check_ratio
    from .._files import check_place, replacing
    from .._provenance import provenance

    with user_errors(), StageTimer(bar=bar_wanted(quiet)) as bar:
        check_ratio(ratio)
        if out is not None:
            check_place(out, (".json",))
        if features is None:
            points = _synthetic(sizes[-1], dims, seed)
        else:
            points = interruptible(lambda: _read(features, sizes))
        runs = []
        for n in sizes:
            runs += interruptible(lambda n=n: _measure(points, n, ratio, repeats, seed, bar))
    words = [PROGRAM, "bench", *([features] if features else ["--dims", str(dims)])]
    words += ["--sizes", ",".join(map(str, sizes)), "--ratio", f"{ratio:g}"]
    words += ["--repeats", str(repeats), "--seed", str(seed)]
    record = provenance(" ".join(words)) | {
        "features": features or f"{_CLUSTERS} Gaussian clusters in {dims} dimensions",
        "n_features": int(points.shape[1]),
        "ratio": ratio,
        # With a cache on disk a first call may find its programs compiled.
        "compilation_cache": _has_cache(),
        "load_average_at_the_end": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "runs": runs,
    }
    if out is not None:
        with user_errors(), replacing(out) as stream:
            stream.write(json.dumps(record, indent=1).encode())
    if as_json:
        print_json(record)
        return
    for n in sizes:
        _show_size(n, [run for run in runs if run["n"] == n], record)
    if out is not None:
        click.echo(f"Every measurement: {out}")


def _read(features: str, sizes: tuple[int, ...]) -> Any:
    from ..io import FileError, read_samples

    points = read_samples(features).features
    if points.ndim == 2 and len(points) < sizes[-1]:
        raise FileError(
            f"cannot take {sizes[-1]:,} samples from '{features}': it has {len(points):,}; pass "
            "smaller --sizes."
        )
    return points


def _synthetic(n: int, d: int, seed: int) -> Any:
    """Clusters of unit width around centers of twice that."""
    import numpy as np

    rng = np.random.default_rng(seed)
    centers = 2 * rng.normal(size=(_CLUSTERS, d))
    return (centers[rng.integers(_CLUSTERS, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


def _measure(
    points: Any, n: int, ratio: float, repeats: int, seed: int, bar: StageTimer
) -> list[dict[str, Any]]:
    """The first call and the warm ones with n random rows."""
    import jax
    import numpy as np

    from .._rank import rank

    rows = np.sort(np.random.default_rng(seed).permutation(len(points))[:n])
    subset = points[rows]
    runs = []
    for repeat in range(repeats + 1):
        bar(f"{n:,} samples", repeat, repeats + 1)
        with StageTimer() as timer:
            # The last stages end when the host has the result, `rank` itself need not wait for it.
            jax.block_until_ready(
                rank(subset, ratio, progress=timer, key=jax.random.key(seed)).order
            )
        runs.append(
            {
                "n": n,
                "first_call": repeat == 0,
                "seconds": timer.seconds,
                "seconds_total": timer.total,
                "peak_memory_bytes_so_far": peak_memory(),
            }
        )
    bar(f"{n:,} samples", repeats + 1, repeats + 1)
    return runs


def _has_cache() -> bool:
    import jax

    return bool(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]


def _show_size(n: int, runs: list[dict[str, Any]], record: dict[str, Any]) -> None:
    first, *warm = runs
    stages = {**first["seconds"], "total": first["seconds_total"]}
    rows = []
    for stage, seconds in stages.items():
        times = [
            run["seconds_total"] if stage == "total" else run["seconds"].get(stage, 0.0)
            for run in warm
        ]
        spread = f"{min(times):.2f} - {max(times):.2f}"
        rows.append((stage, f"{seconds:.2f}", f"{statistics.median(times):.2f}", spread))
    cached = ", programs may be in the cache" if record["compilation_cache"] else ""
    show(
        f"{n:,} samples of {record['n_features']} features on {record['device']}, seconds{cached}",
        ("stage", "first call", f"warm, median of {len(warm)}", "warm, range"),
        rows,
        err=False,
    )
    memory = runs[-1]["peak_memory_bytes_so_far"]
    known = "unknown" if memory is None else f"{memory / 1e9:.2f} GB"
    click.echo(f"Peak resident memory of the process so far: {known}\n")
