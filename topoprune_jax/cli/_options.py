"""Options of a ranking, the same in every command that ranks."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ._console import LARGEST_SEED

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--seed",
        type=click.IntRange(0, LARGEST_SEED),
        default=0,
        show_default=True,
        help="Of the embedding. The same seed gives the same ranking, bit for bit.",
    ),
    click.option(
        "--n-neighbors",
        type=int,
        default=15,
        show_default=True,
        help="Neighbors of every sample in the graph that stands for the manifold.",
    ),
    click.option(
        "--neighbors",
        type=click.Choice(["auto", "exact", "projected", "blocks"]),
        default="auto",
        show_default=True,
        help="How neighbors are found: all of them, or faster with many features (projected) or "
        "many samples (blocks).",
    ),
    click.option(
        "--manifold",
        type=click.Choice(["spectral", "embedding"]),
        default="spectral",
        show_default=True,
        help="Where neighborhoods are taken: in a spectral embedding, which is the same for every "
        "seed, or in UMAP's.",
    ),
    click.option(
        "--patch-size",
        type=int,
        default=64,
        show_default=True,
        help="Samples in the neighborhood whose persistence is a sample's complexity.",
    ),
    click.option(
        "--space",
        type=click.Choice(
            ["auto", "features", "discriminant_features", "discriminant_coordinates"]
        ),
        default="auto",
        show_default=True,
        help="Where samples are compared, with labels: in the features, or in discriminant "
        "coordinates of the classes, beside the features or alone. auto takes the coordinates "
        "where features are noisy.",
    ),
    click.option(
        "--beta",
        type=float,
        default=None,
        show_default="-1 with labels, without them chosen from the data",
        help="How much simple neighborhoods are preferred, or complex ones below 0.",
    ),
)

_LABELS = (
    click.option(
        "--labels",
        type=click.Path(),
        metavar="LABELS",
        help="Class labels, one a sample, in a file of any type that FEATURES may have. With "
        "labels every class keeps its share, and one sample at least.",
    ),
    click.option(
        "--label-column",
        metavar="NAME",
        help="Class labels from this array or column of FEATURES instead.",
    ),
)


def label_options(command: Command) -> Command:
    """Gives a command `labels` and `label_column`."""
    return _with(command, _LABELS)


def ranking_options(command: Command) -> Command:
    """Gives a command `seed`, `n_neighbors`, `neighbors`, `manifold`, `patch_size`, `space` and
    `beta`."""
    return _with(command, _OPTIONS)


def planning_options(command: Command) -> Command:
    """The same without `seed`, on which neither time nor memory depends."""
    return _with(command, _OPTIONS[1:])


def _with(command: Command, options: Sequence[Callable[..., Any]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
