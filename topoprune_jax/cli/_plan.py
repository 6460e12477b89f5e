"""`topoprune plan`."""

from typing import Any

import click

from .. import __version__
from ._console import interruptible, print_json, show, user_errors
from ._options import label_options, planning_options


@click.command("plan")
@click.argument("what", nargs=-1, required=True, metavar="N D | FEATURES")
@click.option(
    "--ratio",
    type=float,
    help="Fraction of the samples to REMOVE; only says how many are kept, since time and memory do "
    "not depend on it.",
)
@label_options
@click.option(
    "--classes",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Number of classes of equal size, instead of labels.",
)
@planning_options
@click.option("--json", "as_json", is_flag=True, help="The plan for machines on stdout.")
def plan_command(
    what: tuple[str, ...],
    ratio: float | None,
    labels: str | None,
    label_column: str | None,
    classes: int | None,
    n_neighbors: int,
    neighbors: str,
    manifold: str,
    patch_size: int,
    space: str,
    beta: float | None,
    as_json: bool,
) -> None:
    """Tell what a ranking will need before it runs: memory and seconds, stage by stage.

    Say how many samples (N) of how many features (D), or name the file that `topoprune rank` would
    get, of which only the shape is looked at, and the labels. Memory is counted from these numbers;
    seconds come from how fast this machine's device does a second of similar work. Where the memory
    that is free will not do, it says what would.

    \b
    Examples:
      topoprune plan 1000000 128 --neighbors blocks
      topoprune plan 1000000 128 --ratio 0.9 --classes 1000 --json
      topoprune plan features.npy --labels labels.npy

    Exit code 0: planned, whether it fits or not. 2: the input cannot be used, and why.
    """
    from .._checks import check_ratio

    with user_errors():
        if ratio is not None:
            check_ratio(ratio)
        n, d, given = interruptible(lambda: _shape(what, labels, label_column, classes))

        def work():
            from .._plan import plan

            return plan(
                n,
                d,
                classes=given,
                n_neighbors=n_neighbors,
                neighbors=neighbors,
                manifold=manifold,
                patch_size=patch_size,
                space=space,
                beta=beta,
            )

        made = interruptible(work)
    kept = {} if ratio is None else {"ratio": ratio, "n_kept": _n_kept(n, ratio)}
    if as_json:
        print_json(
            {
                "version": __version__,
                "n_samples": n,
                "n_features": d,
                **kept,
                "n_classes": len(given) if isinstance(given, tuple) else given,
                "settings": {
                    "n_neighbors": n_neighbors,
                    "neighbors": neighbors,
                    "manifold": manifold,
                    "patch_size": patch_size,
                    "space": space,
                    "beta": beta,
                },
                "device": made.device,
                "stages": [vars(stage) for stage in made.stages],
                "peak_bytes": made.peak_bytes,
                "peak_stage": made.peak_stage,
                "host_bytes": made.host_bytes,
                "free_bytes": made.free_bytes,
                "fits": made.fits,
                "remedy": made.remedy,
                "seconds": made.seconds,
                "compilation_seconds": made.compilation_seconds,
            }
        )
        return
    show(made.title, made.header, made.rows(), err=False)
    click.echo(f"\n{made.summary}")
    if kept:
        click.echo(f"At a ratio of {ratio:g}, {kept['n_kept']:,} samples are kept.")


def _shape(
    what: tuple[str, ...], labels: str | None, label_column: str | None, classes: int | None
) -> tuple[int, int, int | tuple[int, ...] | None]:
    """Samples, features, and the number or the sizes of the classes."""
    if classes is not None and (labels is not None or label_column is not None):
        raise click.UsageError("--classes stands for labels that are not there yet: leave one out.")
    if len(what) == 2 and all(_is_count(word) for word in what):
        if label_column is not None:
            raise click.UsageError(
                "--label-column names a column of FEATURES; got numbers instead of a file. Pass "
                "--labels or --classes."
            )
        n, d = (int(word) for word in what)
        return n, d, classes if labels is None else _sizes(_read_labels(labels, n))
    if len(what) != 1:
        raise click.UsageError(
            "pass the number of samples and of features, or one file of features; got "
            f"'{' '.join(what)}'."
        )
    from .._checks import as_array, check_matrix_shape
    from ..io import read_samples

    samples = read_samples(what[0], labels=labels, label_column=label_column)
    features = as_array(samples.features, name="features")
    check_matrix_shape(features, name="features", min_points=1)
    n, d = features.shape
    return n, d, classes if samples.labels is None else _sizes(samples.labels)


def _is_count(word: str) -> bool:
    return word.replace("_", "").isdecimal()


def _read_labels(path: str, n: int) -> Any:
    from ..io import read_labels

    return read_labels(path, n=n)


def _sizes(labels: Any) -> tuple[int, ...]:
    import numpy as np

    from .._checks import check_labels

    return tuple(np.bincount(np.asarray(check_labels(labels, len(labels)))).tolist())


def _n_kept(n: int, ratio: float) -> int:
    from .._select import kept_count

    return kept_count(n, ratio)
