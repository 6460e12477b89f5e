"""Pictures of rankings, of persistence diagrams and of what pruning costs, as matplotlib axes.

Needs the extra `plot`. Nothing here touches pyplot's global state or opens a window: a figure is
built as an object and saved with `figure.savefig("ranking.png")`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._checks import check_instance, check_labels
from ._diagram import Diagram
from ._rank import Ranking
from ._results import RESULTS
from ._types import ArrayInput
from ._views import is_geometric, kept_mask, places, score_bins, score_cut

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_KEPT = "#0b4f9e"  # dark blue on light gray differs in lightness, so no color vision is needed
_REMOVED = "#c8c8c8"
_QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_MAX_NAMED_CLASSES = 30
_DRAWING_ORDER_SEED = 0
_CUT = "#b34700"
# Okabe and Ito's colors without yellow, which white would swallow; shapes tell them apart in print.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = ("o", "D", "s", "^", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")


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

    **Raises:** ImportError without matplotlib; TypeError for anything but what `rank` returned;
    ValueError for an embedding of one component, or axes that belong to no figure.

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
    levels = places(scores)
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

    **Raises:** ImportError without matplotlib; TypeError for anything but what `rank` returned;
    ValueError for an embedding of one component or labels of the wrong shape.

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


def plot_scores(
    ranking: Ranking, *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """How many samples have which structural complexity, kept and removed stacked, with the cut.

    The dashed line is where a choice by score alone would stop. The kept samples lie on both sides
    of it, because they must also cover the others. It is left out where the score alone would
    decide nothing, at beta = 0, and where beta is NaN. The axis is logarithmic where scores have a
    long tail, the largest above 20 times the median.

    **Arguments:**

    - `ranking`: what `rank` returned.
    - `ax`: the axes to draw into; left out, a new figure is made (`ax.figure`).

    **Returns:** the axes.

    **Raises:** ImportError without matplotlib; TypeError for anything but what `rank` returned.

    !!! example

        ```python
        ax = plot_scores(topoprune_jax.rank(features, 0.9))
        ax.figure.savefig("scores.png")
        ```
    """
    check_instance(ranking, Ranking, name="ranking", hint="Pass what `rank` returned.")
    ax = _new_axes((6.5, 4.0)) if ax is None else ax
    scores = np.asarray(ranking.scores, dtype=np.float64)
    n_kept = ranking.kept.shape[0]
    kept = kept_mask(np.asarray(ranking.kept), len(scores))
    edges = score_bins(scores)
    parts = [scores[kept], scores[~kept]]
    names = [
        f"{name}: {len(part):,}" for name, part in zip(("kept", "removed"), parts, strict=True)
    ]
    ax.hist(parts, bins=edges.tolist(), stacked=True, color=[_KEPT, _REMOVED], label=names)
    if is_geometric(edges):
        ax.set_xscale("log")
    cut = score_cut(scores, n_kept, float(ranking.beta))
    if cut is not None:
        side = "above" if float(ranking.beta) < 0 else "below"
        ax.axvline(cut, color=_CUT, linestyle="--", label=f"score alone would keep {side}")
    ax.set_xlabel("structural complexity (units of the manifold)")
    ax.set_ylabel("samples")
    ax.set_title(f"Structural complexity of {len(scores):,} samples")
    _lighten(ax)
    ax.legend(frameon=False)
    return ax


def plot_diagram(
    diagram: Diagram, *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """A persistence diagram: every class as a point (birth, death), a color and shape a dimension.

    The farther above the diagonal, the longer a class lives. Classes that never die lie on the
    line at the top that is marked infinity.

    **Arguments:**

    - `diagram`: of one point cloud, from `vietoris_rips` for example.
    - `ax`: the axes to draw into; left out, a new figure is made (`ax.figure`).

    **Returns:** the axes.

    **Raises:** ImportError without matplotlib; ValueError for a batch of diagrams or one of NaN.

    !!! example

        ```python
        ax = plot_diagram(topoprune_jax.vietoris_rips(points))
        ax.figure.savefig("diagram.png")
        ```
    """
    bars = _bars(diagram)
    ax = _new_axes((5.5, 5.5)) if ax is None else ax
    low, high = _reach(bars)
    margin = 0.05 * (high - low)
    never = high + 1.5 * margin
    ax.plot([low - margin, high + margin], [low - margin, high + margin], color="0.6", lw=1)
    if any(np.isinf(deaths).any() for _, deaths, _ in bars.values()):
        ax.axhline(never, color="0.6", lw=1, linestyle=":")
        ax.annotate(
            "\u221e",
            (1, never),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 1),
            textcoords="offset points",
            ha="right",
            va="bottom",
        )
    for dim, (births, deaths, name) in bars.items():
        ax.scatter(
            births,
            np.where(np.isinf(deaths), never, deaths),
            color=_COLORS[dim],
            marker=_MARKERS[dim],
            s=34,
            alpha=0.75,
            linewidths=0,
            label=name,
            zorder=3,
        )
    ax.set_xlim(low - margin, high + margin)
    ax.set_ylim(low - margin, high + 2.5 * margin)
    ax.set_xlabel("birth (filtration value)")
    ax.set_ylabel("death (filtration value)")
    ax.set_title("Persistence diagram")
    _lighten(ax)
    ax.legend(frameon=False, loc="lower right")
    return ax


def plot_barcode(
    diagram: Diagram, *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """A barcode: every class as a bar from its birth to its death, dimension by dimension.

    Within a dimension bars are sorted by birth and then by length, the first at the bottom. Classes
    that never die run to the right edge and end in an arrow.

    **Arguments:**

    - `diagram`: of one point cloud, from `vietoris_rips` for example.
    - `ax`: the axes to draw into; left out, a new figure is made (`ax.figure`).

    **Returns:** the axes.

    **Raises:** as `plot_diagram`.

    !!! example

        ```python
        ax = plot_barcode(topoprune_jax.vietoris_rips(points))
        ax.figure.savefig("barcode.png")
        ```
    """
    bars = _bars(diagram)
    ax = _new_axes((6.5, 4.5)) if ax is None else ax
    low, high = _reach(bars)
    end = high + 0.08 * (high - low)
    height = 0
    for dim, (births, deaths, name) in bars.items():
        order = np.lexsort((deaths, births))
        births, deaths = births[order], deaths[order]
        heights = height + np.arange(len(births))
        ends = np.where(np.isinf(deaths), end, deaths)
        width = float(np.clip(160 / max(1, sum(len(b) for b, _, _ in bars.values())), 0.8, 5.0))
        ax.hlines(heights, births, ends, color=_COLORS[dim], lw=width, label=name)
        never = heights[np.isinf(deaths)]
        ax.plot(np.full(len(never), end), never, ">", color=_COLORS[dim], ms=6)
        height += len(births) + 1
    ax.set_xlim(low, end + 0.02 * (end - low))
    ax.set_yticks([])
    ax.set_xlabel("filtration value")
    ax.set_title("Barcode")
    _lighten(ax)
    ax.legend(frameon=False, loc="lower right")
    return ax


def plot_accuracy(
    curves: Mapping[str, Sequence[ArrayInput]],
    *,
    full: float | None = None,
    unit: str = "accuracy",
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Accuracy against the fraction removed, one line a method, with error bars.

    **Arguments:**

    - `curves`: of every method its name and either (ratios, runs) or (ratios, means, stds). Ratios
        are the r fractions REMOVED; runs is (r, q), of which the mean and the sample standard
        deviation over the q repetitions are drawn, or (r,) for a single one, without bars.
    - `full`: the accuracy of training on all samples, drawn as a level line.
    - `unit`: what the vertical axis measures, such as "accuracy in %".
    - `ax`: the axes to draw into; left out, a new figure is made (`ax.figure`).

    **Returns:** the axes.

    **Raises:** ImportError without matplotlib; ValueError for curves whose shapes do not agree,
    ratios outside [0, 1) or values that are not finite.

    !!! example

        ```python
        runs = {"random": ([0.5, 0.9], [[0.91, 0.92], [0.80, 0.84]])}
        ax = plot_accuracy(runs, full=0.95)
        ax.figure.savefig("accuracy.png")
        ```
    """
    check_instance(curves, Mapping, name="curves", hint="Pass name: (ratios, runs).")
    if not curves:
        raise ValueError(
            "`curves` must hold at least one method; got none. Pass name: (ratios, runs)."
        )
    measured = {name: _curve(name, curve) for name, curve in curves.items()}
    ax = _new_axes((7.0, 4.8)) if ax is None else ax
    if full is not None:
        ax.axhline(full, color="0.45", lw=1.2, linestyle=":", label="all samples")
    for k, (name, (ratios, means, stds)) in enumerate(measured.items()):
        ax.errorbar(
            ratios,
            means,
            yerr=stds,
            label=name,
            color=_COLORS[k % len(_COLORS)],
            marker=_MARKERS[k % len(_MARKERS)],
            linestyle=_LINES[k // len(_COLORS) % len(_LINES)],
            markersize=6,
            lw=1.8,
            elinewidth=1.2,
            capsize=3,
        )
    ticks = np.unique(np.concatenate([ratios for ratios, _, _ in measured.values()]))
    if len(ticks) <= 8:
        ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    ax.set_xlabel("samples removed")
    ax.set_ylabel(unit)
    _lighten(ax)
    ax.legend(frameon=False)
    return ax


def _curve(
    name: str, curve: Sequence[ArrayInput]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Ratios ascending, with means and standard deviations, None for a single run."""
    hint = f"`curves[{name!r}]` must be (ratios, runs) or (ratios, means, stds)"
    if isinstance(curve, str) or len(curve) not in (2, 3):
        raise ValueError(f"{hint}; got {curve!r}.")
    ratios, values, *stds = (np.asarray(part, dtype=np.float64) for part in curve)
    shapes = ", ".join(str(part.shape) for part in (ratios, values, *stds))
    fits = ratios.ndim == 1 and len(ratios) > 0 and values.shape[:1] == ratios.shape
    fits &= values.shape == ratios.shape == stds[0].shape if stds else values.ndim in (1, 2)
    if not fits or 0 in values.shape:
        raise ValueError(f"{hint} with one row a ratio; got shapes {shapes}.")
    if not all(np.isfinite(part).all() for part in (ratios, values, *stds)):
        raise ValueError(f"{hint} of finite numbers; got NaN or infinity. Leave those runs out.")
    if not ((ratios >= 0) & (ratios < 1)).all():
        raise ValueError(f"{hint} with ratios, the fractions REMOVED, in [0, 1); got {ratios}.")
    spread = stds[0] if stds else None
    if values.ndim == 2:
        spread = values.std(axis=1, ddof=1) if values.shape[1] > 1 else None
        values = values.mean(axis=1)
    order = np.argsort(ratios, kind="stable")
    return ratios[order], values[order], None if spread is None else spread[order]


def _bars(diagram: Diagram) -> dict[int, tuple[np.ndarray, np.ndarray, str]]:
    """Births, deaths and the name in the legend by dimension; empty slots are left out."""
    check_instance(diagram, Diagram, name="diagram", hint="Pass what `vietoris_rips` returned.")
    if diagram.births.ndim != 1:
        raise ValueError(
            f"`diagram` must be of one point cloud; got a batch of shape {diagram.births.shape}. "
            "Take one with `jax.tree.map(lambda leaf: leaf[0], diagram)`."
        )
    births, deaths = (np.asarray(v, np.float64) for v in (diagram.births, diagram.deaths))
    if np.isnan(births).any():
        raise ValueError(f"`diagram` must have values; got NaN. {RESULTS[diagram.result]}")
    valid, dims = np.asarray(diagram.valid), np.asarray(diagram.dims)
    bars = {}
    for place, dim in enumerate(diagram.homology_dims):
        mine = valid & (dims == dim)
        shown, total = int(mine.sum()), int(diagram.count[place])
        of = f" of {total:,}" if total > shown else ""
        bars[dim] = (births[mine], deaths[mine], f"H{dim}: {shown:,}{of}")
    return bars


def _reach(bars: Mapping[int, tuple[np.ndarray, np.ndarray, str]]) -> tuple[float, float]:
    """The least and the largest finite value; never the same, so that axes have a length."""
    values = np.concatenate(
        [np.concatenate([births, deaths]) for births, deaths, _ in bars.values()]
    )
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return 0.0, 1.0
    low, high = min(0.0, float(values.min())), float(values.max())
    return low, high if high > low else low + 1.0


def _lighten(ax: "matplotlib.axes.Axes") -> None:
    ax.spines[["top", "right"]].set_visible(False)


def _new_figure(size: tuple[float, float]) -> "matplotlib.figure.Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "drawing needs matplotlib; install it with: pip install 'topoprune-jax[plot]'"
        ) from error
    return Figure(figsize=size, layout="constrained")


def _new_axes(size: tuple[float, float] = (6.5, 6.0)) -> "matplotlib.axes.Axes":
    return _new_figure(size).subplots()


def _plane(ranking: Ranking) -> np.ndarray:
    hint = "Pass what `rank` returned. A picture needs its embedding."
    check_instance(ranking, Ranking, name="ranking", hint=hint)
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
