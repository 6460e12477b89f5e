"""`topoprune rank`."""

import os
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ._console import (
    StageTimer,
    bar_wanted,
    interruptible,
    peak_memory,
    print_json,
    show,
    user_errors,
    warn,
)
from ._options import label_options, ranking_options


@click.command("rank")
@click.argument("features", type=click.Path())
@click.option(
    "--ratio",
    type=float,
    required=True,
    help="Fraction of the samples to REMOVE, from 0 up to but not including 1: 0.9 keeps a tenth.",
)
@click.option(
    "--out",
    type=click.Path(),
    required=True,
    metavar="FILE",
    help="Where to write the ranking: .npz, .csv, .parquet or .json by the name. Replaces an "
    "existing file.",
)
@label_options
@click.option(
    "--ids",
    type=click.Path(),
    metavar="IDS",
    help="Your own names of the samples, one a sample, for the output.",
)
@click.option(
    "--id-column",
    metavar="NAME",
    help="Your own names from this array or column of FEATURES instead.",
)
@ranking_options
@click.option(
    "--checkpoint",
    type=click.Path(),
    metavar="DIR",
    help="A new folder for what is finished: after Ctrl-C, or if the machine stops, the same "
    "command goes on from there. Another --ratio then takes seconds.",
)
@click.option("--quiet", is_flag=True, help="No progress bar and no table of times.")
@click.option("--json", "as_json", is_flag=True, help="A summary for machines on stdout.")
def rank_command(
    features: str,
    ratio: float,
    out: str,
    labels: str | None,
    label_column: str | None,
    ids: str | None,
    id_column: str | None,
    seed: int,
    n_neighbors: int,
    neighbors: str,
    manifold: str,
    patch_size: int,
    space: str,
    beta: float | None,
    checkpoint: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Rank the rows of FEATURES and write which to keep.

    FEATURES has one row of numbers a sample, such as the activations of a network's last hidden
    layer: .npy, .npz, .parquet, .arrow, .feather, .safetensors, .h5 or .csv, or a folder of shards
    of one of these types. Where a file holds several arrays or columns, PATH::NAME names one. In a
    table without a column of lists the features are all columns of numbers but those for labels and
    ids; PATH::f* takes the columns that match.

    \b
    Examples:
      Remove 90 % of the samples, keep a tenth:
        topoprune rank features.npy --ratio 0.9 --out ranking.npz
      With labels, from arrays in one file, to a table for a spreadsheet:
        topoprune rank data.npz::x --labels data.npz::y --ratio 0.8 --out ranking.csv
      A table with an embedding, a label and a file name in every row:
        topoprune rank photos.parquet --label-column label --id-column path \\
          --ratio 0.9 --out ranking.parquet
      Long work, which may be stopped and started again:
        topoprune rank big.npy --ratio 0.9 --out ranking.npz --checkpoint unfinished
      Use the result in Python:
        small = features[numpy.load("ranking.npz")["kept"]]

    The output has index (row of FEATURES), id if given, score (structural complexity, high =
    complex), rank (0 = best to keep) and kept for every sample; .npz and .parquet also have
    embedding, .npz also order. One ranking serves every ratio: the first m samples of the order are
    what a larger ratio keeps.

    Exit code 0: written. 2: the input cannot be used, and why. 130: interrupted by Ctrl-C.
    """
    from .._checkpoint import check_checkpoint
    from .._checks import check_ratio
    from .._results import RESULTS
    from ..io import check_writable, read_samples, write_ranking

    with user_errors(), StageTimer(bar=bar_wanted(quiet)) as timer:
        check_ratio(ratio)
        check_writable(out)
        if checkpoint is not None:
            check_checkpoint(checkpoint)
        for given in (features, labels, ids):
            _refuse_to_overwrite(out, given)
        with timer.stage("read"):
            samples = interruptible(
                lambda: read_samples(
                    features,
                    labels=labels,
                    ids=ids,
                    label_column=label_column,
                    id_column=id_column,
                )
            )

        def work():
            import jax

            from .._rank import rank

            return rank(
                samples.features,
                ratio,
                labels=samples.labels,
                n_neighbors=n_neighbors,
                neighbors=neighbors,
                manifold=manifold,
                patch_size=patch_size,
                space=space,
                beta=beta,
                checkpoint=checkpoint,
                progress=timer,
                key=jax.random.key(seed),
            )

        ranking = interruptible(work, farewell=_farewell(checkpoint))
        with timer.stage("write"):
            write_ranking(out, ranking, ids=samples.ids)
    warn(RESULTS[ranking.result])
    if not quiet:
        if samples.feature_names:
            # What was chosen among several should be seen, since it may not be what was meant.
            click.echo(f"Features: {', '.join(_shown(samples.feature_names))}\n", err=True)
        show("Where the time went", ("stage", "seconds"), timer.rows(), err=True)
    n_kept, n = len(ranking.kept), len(ranking.order)
    if neighbors in ("projected", "blocks") or float(ranking.recall) < 1:
        click.echo(
            f"The neighbors found are {float(ranking.recall):.1%} of the true ones.", err=True
        )
    if not as_json:
        click.echo(f"Kept {n_kept:,} of {n:,} samples ({n_kept / n:.1%}); ranking written to {out}")
        return
    print_json(
        {
            "version": __version__,
            "features": {
                "file": features,
                "names": _shown(samples.feature_names),
                "shape": list(samples.features.shape),
            },
            "labels": labels if label_column is None else label_column,
            "ids": ids if id_column is None else id_column,
            "ratio": ratio,
            "n_samples": n,
            "n_kept": n_kept,
            "kept_share": n_kept / n,
            "classes": _classes(samples.labels, ranking.kept),
            "settings": {
                "seed": seed,
                "n_neighbors": n_neighbors,
                "neighbors": neighbors,
                "manifold": manifold,
                "patch_size": patch_size,
                "space": space,
                "beta": float(ranking.beta),
                "agreement_power": float(ranking.agreement_power),
            },
            "recall": float(ranking.recall),
            "remark": RESULTS[ranking.result],
            "seconds": timer.seconds,
            "seconds_total": timer.total,
            "peak_memory_bytes": peak_memory(),
            "out": out,
        }
    )


def _farewell(checkpoint: str | None) -> str:
    if checkpoint is None:
        why = "nothing is kept, because no --checkpoint was given"
    else:
        why = f"what is finished is kept in '{checkpoint}', where the same command goes on"
    return f"Interrupted before the work was done; {why}."


def _shown(names: tuple[str, ...]) -> list[str]:
    """The names, of many columns only the first and the last."""
    return list(names) if len(names) <= 8 else [names[0], "...", names[-1]]


def _classes(labels: Any, kept: Any) -> dict[str, dict[str, float]]:
    """How many of every class there are and are kept; empty without labels."""
    if labels is None:
        return {}
    import numpy as np

    values, codes = np.unique(labels, return_inverse=True)
    all_counts = np.bincount(codes, minlength=len(values)).tolist()
    kept_counts = np.bincount(codes[np.asarray(kept)], minlength=len(values)).tolist()
    return {
        str(value): {"n": n, "kept": m, "kept_share": m / n}
        for value, n, m in zip(values.tolist(), all_counts, kept_counts, strict=True)
    }


def _refuse_to_overwrite(out: str, given: str | None) -> None:
    from .._sources import split
    from ..io import FileError

    if given is None:
        return
    source = Path(split(given)[0])
    if source.is_dir() and source.resolve() == Path(out).resolve().parent:
        raise FileError(
            f"cannot write '{out}': its folder is the input, of which it would be one more shard."
        )
    if source.exists() and os.path.exists(out) and source.samefile(out):
        raise FileError(f"cannot write '{out}': it is the input, which would be lost.")
