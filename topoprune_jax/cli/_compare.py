"""`topoprune compare`."""

import math
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ._console import interruptible, print_json, show, user_errors

if TYPE_CHECKING:
    from .._compare import Overlap


@click.command("compare")
@click.argument("first", type=click.Path(), metavar="A")
@click.argument("second", type=click.Path(), metavar="B")
@click.option(
    "--labels",
    type=click.Path(),
    metavar="LABELS",
    help="Class labels, one a sample in the order of the features that A ranks, to compare class "
    "by class as well.",
)
@click.option("--json", "as_json", is_flag=True, help="Everything for machines on stdout.")
def compare_command(first: str, second: str, labels: str | None, as_json: bool) -> None:
    """Tell how two rankings of the same samples differ.

    A and B are files that `topoprune rank` wrote. Samples are matched by id where both files have
    ids, else by index. For several ratios and as the files themselves keep: what share of the kept
    samples both keep (of the smaller choice, where they differ in size), what share that is by
    chance, and the Jaccard index, shared samples over samples that either keeps. Then the Spearman
    rank correlation of the two orders and of the scores, 1 = the same, 0 = unrelated.

    \b
    Examples:
      topoprune compare seed0.npz seed1.npz
      topoprune compare old.csv new.parquet --labels labels.npy --json
    """
    from .._compare import compare_rankings
    from ..io import match_rankings, read_labels, read_ranking

    def work():
        a, given = read_ranking(first), read_ranking(second)
        b = match_rankings(a, given)
        matched_by = "index" if a.ids is None or given.ids is None else "id"
        return matched_by, compare_rankings(
            a.order,
            b.order,
            scores_a=a.scores,
            scores_b=b.scores,
            labels=None if labels is None else read_labels(labels, n=len(a.order)),
            n_kept=[(a.n_kept, b.n_kept)],
        )

    with user_errors():
        matched_by, comparison = interruptible(work)
    names = [*(f"{ratio:.0%}" for ratio in comparison.ratios), "as in the files"]
    if as_json:
        print_json(
            {
                "version": __version__,
                "a": first,
                "b": second,
                "n_samples": comparison.n,
                "matched_by": matched_by,
                "order_correlation": comparison.order_correlation,
                "score_correlation": comparison.score_correlation,
                "overlaps": _records(comparison.overlaps, comparison.ratios),
                "classes": {
                    one.label: {
                        "n_samples": one.n,
                        "order_correlation": one.order_correlation,
                        "overlaps": _records(one.overlaps, comparison.ratios),
                    }
                    for one in comparison.classes
                },
            }
        )
        return
    show(
        f"What {first} (A) and {second} (B) keep of {comparison.n:,} samples",
        ("removed", "A keeps", "B keeps", "both", "shared", "by chance", "Jaccard"),
        [
            (name, *_counts(overlap), _percent(overlap.share_by_chance), f"{overlap.jaccard:.3f}")
            for name, overlap in zip(names, comparison.overlaps, strict=True)
        ],
        err=False,
    )
    click.echo(
        f"\nRank correlation of the orders: {_number(comparison.order_correlation)}, "
        f"of the scores: {_number(comparison.score_correlation)}"
    )
    if comparison.classes:
        click.echo()
        show(
            "Class by class, as in the files",
            ("class", "samples", "A keeps", "B keeps", "both", "shared", "order correlation"),
            [
                (
                    one.label,
                    f"{one.n:,}",
                    *_counts(one.overlaps[-1]),
                    _number(one.order_correlation),
                )
                for one in comparison.classes
            ],
            err=False,
        )


def _counts(overlap: "Overlap") -> tuple[str, str, str, str]:
    counts = (overlap.n_kept_a, overlap.n_kept_b, overlap.n_shared)
    a, b, both = (f"{count:,}" for count in counts)
    return a, b, both, _percent(overlap.share)


def _records(overlaps: "tuple[Overlap, ...]", ratios: tuple[float, ...]) -> list[dict[str, Any]]:
    """The overlaps for JSON; the last one is that of the files, which has no ratio of its own."""
    return [
        {
            "ratio": ratio,
            "n_kept_a": overlap.n_kept_a,
            "n_kept_b": overlap.n_kept_b,
            "n_shared": overlap.n_shared,
            "share": overlap.share,
            "share_by_chance": overlap.share_by_chance,
            "jaccard": overlap.jaccard,
        }
        for ratio, overlap in zip((*ratios, None), overlaps, strict=True)
    ]


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
