"""`topoprune report`."""

import shlex
from typing import Any

import click

from ._console import StageTimer, bar_wanted, interruptible, user_errors, warn
from ._options import label_options, ranking_options


@click.command("report")
@click.argument("features", type=click.Path())
@click.option(
    "--ratio",
    type=float,
    help="Fraction of the samples to REMOVE, from 0 up to but not including 1: 0.9 keeps a tenth. "
    "May be left out where --ranking is given.",
)
@click.option(
    "--out",
    type=click.Path(),
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="Where to write the page. Replaces an existing file.",
)
@label_options
@click.option(
    "--ids",
    type=click.Path(),
    metavar="IDS",
    help="Your own names of the samples, one a sample, to show on the page.",
)
@click.option(
    "--id-column",
    metavar="NAME",
    help="Your own names from this array or column of FEATURES instead.",
)
@click.option(
    "--images",
    type=click.Path(),
    metavar="IMAGES",
    help="Pictures of the samples: an array (n, height, width) or (n, height, width, 3).",
)
@click.option(
    "--ranking",
    type=click.Path(),
    metavar="FILE",
    help="A .npz file that `topoprune rank` wrote for these features, to save ranking them again.",
)
@click.option(
    "--stability",
    is_flag=True,
    help="Rank nine more times, with other seeds and with noise, and show how much stays.",
)
@click.option("--title", default="Which samples to keep", help="The heading of the page.")
@ranking_options
@click.option("--quiet", is_flag=True, help="No progress bar.")
def report_command(
    features: str,
    ratio: float | None,
    out: str,
    labels: str | None,
    label_column: str | None,
    ids: str | None,
    id_column: str | None,
    images: str | None,
    ranking: str | None,
    stability: bool,
    title: str,
    seed: int,
    n_neighbors: int,
    neighbors: str,
    manifold: str,
    patch_size: int,
    space: str,
    beta: float | None,
    quiet: bool,
) -> None:
    """Rank the rows of FEATURES and write one HTML page about the choice.

    The page opens in any browser, without a network: the samples as a picture to search, which are
    kept, their scores, the classes, three neighborhoods, the extremes, and how to make it again.
    FEATURES and the options from --seed on are those of `topoprune rank`; with --ranking they must
    be the ones that it was made with.

    \b
    Examples:
      topoprune report features.npy --labels labels.npy --ratio 0.9
      topoprune report photos.parquet --label-column label --id-column path --ratio 0.9
      topoprune report features.npy --ranking ranking.npz --images pictures.npy --out page.html

    Needs the extra `report`: pip install 'topoprune-jax[report]'

    Exit code 0: written. 2: the input cannot be used, and why. 130: interrupted by Ctrl-C.
    """
    from .._checks import check_beta, check_count, check_pictures, check_ratio
    from .._results import RESULTS
    from ..io import read_array, read_samples
    from ..report import check_report_path, require_report_extra

    command = _typed(click.get_current_context())
    with user_errors(), StageTimer(bar=bar_wanted(quiet)) as timer:
        require_report_extra()
        if ratio is None and ranking is None:
            raise click.UsageError("Missing option '--ratio', or a ranking as '--ranking'.")
        if ratio is not None:
            check_ratio(ratio)
        check_count(n_neighbors, name="n_neighbors", low=1)
        check_count(patch_size, name="patch_size", low=2)
        if beta is not None:
            check_beta(beta)
        check_report_path(out)

        def read() -> Any:
            samples = read_samples(
                features, labels=labels, ids=ids, label_column=label_column, id_column=id_column
            )
            n = samples.features.shape[0]
            pictures = None if images is None else check_pictures(read_array(images), n)
            given = None if ranking is None else _read(ranking, features, n, ratio)
            return samples, n, pictures, given

        with timer.stage("read"):
            samples, n, pictures, given = interruptible(read)

        def work() -> Any:
            import jax

            from .._rank import rank
            from ..report import write_report
            from ..stability import ranking_stability

            removed = 1 - len(given.kept) / n if given is not None else ratio
            assert removed is not None  # one of the two was asked for

            def again(x: Any, key: Any, progress: Any = None) -> Any:
                return rank(
                    x,
                    removed,
                    labels=samples.labels,
                    n_neighbors=n_neighbors,
                    neighbors=neighbors,
                    manifold=manifold,
                    patch_size=patch_size,
                    space=space,
                    beta=beta,
                    progress=progress,
                    key=key,
                )

            key = jax.random.key(seed)
            ranked = again(samples.features, key, timer) if given is None else given
            measured = None
            if stability:
                measured = ranking_stability(
                    samples.features, ranked, again, progress=timer, key=key
                )
            shape = " x ".join(f"{size:,}" for size in samples.features.shape)
            names = samples.feature_names
            columns = "" if not names else f" ({' to '.join(dict.fromkeys((names[0], names[-1])))})"
            settings = {
                "features": f"{features}{columns}, {shape} {samples.features.dtype}",
                "labels": label_column or labels or "none",
                "seed": seed,
                "neighbors of a sample": n_neighbors,
                "neighbor search": neighbors,
                "manifold": manifold,
                "space": space,
            }
            if ranking is not None:
                settings["ranking read from"] = ranking
            with timer.stage("page"):
                write_report(
                    out,
                    ranked,
                    labels=samples.labels,
                    ids=samples.ids,
                    images=pictures,
                    stability=measured,
                    settings=settings,
                    command=command,
                    title=title,
                    patch_size=patch_size,
                )
            return ranked

        ranked = interruptible(work)
    warn(RESULTS[ranked.result])
    click.echo(
        f"Kept {len(ranked.kept):,} of {n:,} samples; report written to {out}. "
        "Open it in any browser."
    )


def _read(file: str, features: str, n: int, ratio: float | None) -> Any:
    """The ranking in a file, at another ratio if one is given: one order serves every ratio."""
    import jax.numpy as jnp
    import numpy as np

    from .._rank import Ranking
    from .._results import RESULTS
    from .._select import kept_count
    from ..io import FileError, read_array, read_ranking

    table = read_ranking(file)
    if len(table.order) != n:
        raise FileError(
            f"cannot use '{file}': it ranks {len(table.order):,} samples, and '{features}' has "
            f"{n:,} rows; name the ranking of these features."
        )
    if not file.lower().endswith(".npz"):
        raise FileError(
            f"cannot use '{file}': only a .npz ranking holds the embedding that a report draws; "
            "rank with --out ranking.npz."
        )

    def coordinates(name: str, least: int) -> np.ndarray:
        values = read_array(file, key=name)
        fits = values.ndim == 2 and len(values) == n and values.shape[1] >= least
        if not fits or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise FileError(
                f"cannot use '{file}': its {name} is no finite array of {n:,} rows and "
                f"{least} or more columns."
            )
        return values.astype(np.float32)

    embedding = coordinates("embedding", 2)
    with np.load(file) as arrays:
        # Older versions took patches from the embedding.
        manifold = coordinates("manifold", 1) if "manifold" in arrays.files else embedding
    m = table.n_kept if ratio is None else kept_count(n, ratio)
    order = jnp.asarray(table.order.astype(np.int32))

    def recorded(name: str) -> Any:
        # NaN where an older version wrote the file, or another program.
        try:
            values = read_array(file, key=name)
            return jnp.asarray(np.float32(values.reshape(())))
        except (FileError, ValueError, TypeError):
            return jnp.asarray(np.float32(np.nan))

    return Ranking(
        scores=jnp.asarray(table.scores.astype(np.float32)),
        order=order,
        kept=order[:m],
        removed=order[m:],
        embedding=jnp.asarray(embedding),
        manifold=jnp.asarray(manifold),
        beta=recorded("beta"),
        agreement_power=recorded("agreement_power"),
        recall=recorded("recall"),
        result=RESULTS.successful,
    )


def _typed(context: click.Context) -> str:
    """The command with the options that differ from their defaults, to be typed again."""
    words = context.command_path.split()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif value is True:
            words.append(parameter.opts[0])
        elif value not in (None, False) and value != parameter.get_default(context):
            words += [parameter.opts[0], str(value)]
    return shlex.join(words)
