"""Pictures of a ranking: the embedding colored by structural complexity, and kept against removed.

Needs the extra `plot`. Nothing here touches pyplot's global state or opens a window: a figure is
built as an object and saved with `figure.savefig("ranking.png")`.
"""

from typing import TYPE_CHECKING

import numpy as np

from ._checks import check_labels
from ._rank import Ranking
from ._types import ArrayInput

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_KEPT = "#0b4f9e"  # dark blue on light gray differs in lightness, so no color vision is needed
_REMOVED = "#c8c8c8"
_QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_MAX_NAMED_CLASSES = 30
_DRAWING_ORDER_SEED = 0


def plot_complexity(
    ranking: Ranking, *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """The embedding, every sample colored by its structural complexity, with a colorbar.

    A color (viridis) stands for a place among the sorted scores, which is what the selection's
    weights depend on too: scores have a long tail, and on a linear scale a few complex samples
    would leave one color to all others. The colorbar's ticks are the scores at its quartiles.

    **Arguments:**

    - `ranking`: what `rank` returned, with n samples; the first two of its c >= 2 embedding
        components are drawn.
    - `ax`: the axes to draw into; left out, a new figure is made (`ax.figure`).

    **Returns:** the axes.

    **Raises:** ImportError without matplotlib; ValueError for an embedding of one component, or
    axes that belong to no figure.

    !!! example

        ```python
        ax = plot_complexity(topoprune_jax.rank(features, 0.9))
        ax.figure.savefig("complexity.png")
        ```
    """
    points = _plane(ranking)
    ax = _new_axes() if ax is None else ax
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("`ax` was removed from its figure; pass axes that belong to one.")
    scores = np.asarray(ranking.scores, dtype=np.float64)
    in_order = np.sort(scores)
    # The mean place of equal scores, so that they share a color.
    places = np.searchsorted(in_order, scores, "left") + np.searchsorted(in_order, scores, "right")
    levels = places / (2.0 * len(scores))
    # In the order of the index the class that comes last would cover the others.
    drawn = np.random.default_rng(_DRAWING_ORDER_SEED).permutation(len(points))
    dots = ax.scatter(
        points[drawn, 0],
        points[drawn, 1],
        c=levels[drawn],
        s=_dot_area(len(points)),
        cmap="viridis",
        vmin=0.0,
        vmax=1.0,
        linewidths=0,
        rasterized=True,
    )
    bar = figure.colorbar(dots, ax=ax, fraction=0.046, pad=0.02)
    bar.set_ticks(_QUARTILES, labels=[f"{score:.3g}" for score in np.quantile(scores, _QUARTILES)])
    bar.set_label("structural complexity (ticks: least, quartiles, most)")
    _finish(ax, f"Structural complexity of {len(points):,} samples")
    return ax


def plot_kept(
    ranking: Ranking,
    *,
    labels: ArrayInput = None,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """The embedding, kept samples dark and on top of the removed ones in light gray.

    **Arguments:**

    - `ranking`: what `rank` returned, with n samples; the first two of its c >= 2 embedding
        components are drawn.
    - `labels`: (n,) class labels; up to 30 classes are named in the middle of their samples.
    - `ax`: the axes to draw into; left out, a new figure is made (`ax.figure`).

    **Returns:** the axes.

    **Raises:** ImportError without matplotlib; ValueError for an embedding of one component or
    labels of the wrong shape.

    !!! example

        ```python
        ax = plot_kept(topoprune_jax.rank(features, 0.9, labels=labels), labels=labels)
        ax.figure.savefig("kept.png")
        ```
    """
    points = _plane(ranking)
    ax = _new_axes() if ax is None else ax
    removed, kept = np.asarray(ranking.removed), np.asarray(ranking.kept)
    area = _dot_area(len(points))
    for chosen, name, color, size in (
        (removed, "removed", _REMOVED, area),
        (kept, "kept", _KEPT, float(np.clip(2.0 * area, 5.0, 30.0))),
    ):
        ax.scatter(
            points[chosen, 0],
            points[chosen, 1],
            c=color,
            s=size,
            label=f"{name}: {len(chosen):,}",
            linewidths=0,
            rasterized=True,
        )
    if labels is not None:
        _name_classes(ax, points, labels)
    legend = ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, frameon=False, handletextpad=0.2
    )
    for handle in legend.legend_handles:
        handle.set_sizes([40.0])  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    _finish(ax, f"Kept {len(kept):,} of {len(points):,} samples")
    return ax


def plot_ranking(ranking: Ranking, *, labels: ArrayInput = None) -> "matplotlib.figure.Figure":
    """Both pictures side by side: structural complexity on the left, kept and removed on the right.

    **Arguments:**

    - `ranking`: what `rank` returned, with n samples and c >= 2 embedding components.
    - `labels`: (n,) class labels, named in the right picture.

    **Returns:** a figure of 12 x 6 inches.

    **Raises:** as `plot_kept`.

    !!! example

        ```python
        plot_ranking(topoprune_jax.rank(features, 0.9)).savefig("ranking.png", dpi=150)
        ```
    """
    figure = _new_figure((12.0, 6.0))
    left, right = figure.subplots(1, 2)
    plot_complexity(ranking, ax=left)
    plot_kept(ranking, labels=labels, ax=right)
    return figure


def _new_figure(size: tuple[float, float]) -> "matplotlib.figure.Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "drawing needs matplotlib; install it with: pip install 'topoprune-jax[plot]'"
        ) from error
    return Figure(figsize=size, layout="constrained")


def _new_axes() -> "matplotlib.axes.Axes":
    return _new_figure((6.5, 6.0)).subplots()


def _plane(ranking: Ranking) -> np.ndarray:
    embedding = np.asarray(ranking.embedding, dtype=np.float64)
    if embedding.shape[1] < 2:
        raise ValueError(
            f"a picture needs an embedding of at least 2 components; got shape {embedding.shape}. "
            "Rank with two or more embedding components."
        )
    return embedding[:, :2]


def _dot_area(n: int) -> float:
    """Area of a dot in square points: the dots together cover about the same at every n."""
    return float(np.clip(24_000 / n, 1.5, 24.0))


def _name_classes(ax: "matplotlib.axes.Axes", points: np.ndarray, labels: ArrayInput) -> None:
    from matplotlib.patheffects import withStroke

    codes = np.asarray(check_labels(labels, len(points)))
    names = np.unique(np.asarray(labels))
    if len(names) > _MAX_NAMED_CLASSES:
        return
    # A white outline and not a box, which would hide the samples behind it.
    outline = withStroke(linewidth=3.0, foreground="white")
    for code, name in enumerate(names):
        x, y = np.median(points[codes == code], axis=0)
        ax.annotate(
            str(name),
            (x, y),
            ha="center",
            va="center",
            fontsize=11,
            fontweight="bold",
            path_effects=[outline],
        )


def _finish(ax: "matplotlib.axes.Axes", title: str) -> None:
    ax.set_title(title)
    # An embedding's axes have no unit and no meaning of their own; only distances do.
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xticks([])
    ax.set_yticks([])
