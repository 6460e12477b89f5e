"""Pictures: what is drawn where, without a display, from 1 to 50,000 samples."""

import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import topoprune_jax as tp
from topoprune_jax import RESULTS
from topoprune_jax._rank import Ranking
from topoprune_jax.plot import (
    plot_accuracy,
    plot_barcode,
    plot_complexity,
    plot_diagram,
    plot_kept,
    plot_ranking,
    plot_scores,
)


def make_ranking(n, n_components=2, scores=None):
    rng = np.random.default_rng(0)
    order = jnp.asarray(rng.permutation(n), dtype=jnp.int32)
    n_kept = max(1, n // 10)
    return Ranking(
        scores=jnp.asarray(rng.gamma(2.0, size=n) if scores is None else scores, dtype=jnp.float32),
        order=order,
        kept=order[:n_kept],
        removed=order[n_kept:],
        embedding=jnp.asarray(rng.normal(size=(n, n_components)), dtype=jnp.float32),
        manifold=jnp.asarray(rng.normal(size=(n, 3)), dtype=jnp.float32),
        beta=jnp.asarray(-1.0),
        agreement_power=jnp.asarray(4.0),
        recall=jnp.asarray(1.0),
        result=RESULTS.successful,
    )


def png(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=40)
    return stream.getvalue()


def test_every_sample_has_the_color_of_its_place_among_the_scores():
    ranking = make_ranking(200)
    (dots,) = plot_complexity(ranking).collections
    at = {tuple(place): i for i, place in enumerate(np.asarray(ranking.embedding, float).tolist())}
    drawn = [at[tuple(place)] for place in np.asarray(dots.get_offsets()).tolist()]
    assert sorted(drawn) == list(range(200))
    scores = np.asarray(ranking.scores)[drawn]
    np.testing.assert_allclose(dots.get_array(), (np.argsort(np.argsort(scores)) + 0.5) / 200)
    assert dots.get_cmap().name == "viridis"


def test_the_colorbar_reads_scores_at_their_quartiles():
    ax = plot_complexity(make_ranking(5, scores=[1.0, 2.0, 3.0, 4.0, 1e6]))
    bar = ax.figure.axes[1]
    ticks = {text.get_position()[1]: text.get_text() for text in bar.get_yticklabels()}
    assert ticks == {0.0: "1", 0.25: "2", 0.5: "3", 0.75: "4", 1.0: "1e+06"}


def test_equal_scores_share_a_color():
    (dots,) = plot_complexity(make_ranking(4, scores=[7.0, 1.0, 7.0, 1.0])).collections
    assert sorted(dots.get_array()) == [0.25, 0.25, 0.75, 0.75]


def test_kept_lie_on_top_of_removed_and_are_counted():
    ranking = make_ranking(200)
    ax = plot_kept(ranking)
    removed, kept = ax.collections
    np.testing.assert_array_equal(kept.get_offsets(), ranking.embedding[ranking.kept])
    np.testing.assert_array_equal(removed.get_offsets(), ranking.embedding[ranking.removed])
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["removed: 180", "kept: 20"]
    assert ax.get_aspect() == 1.0


def test_kept_and_removed_differ_in_lightness():
    """Readable in any color vision and in print: contrast by WCAG's relative luminance."""
    removed, kept = plot_kept(make_ranking(200)).collections

    def luminance(dots):
        color = dots.get_facecolor()[0, :3]
        linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    assert (luminance(removed) + 0.05) / (luminance(kept) + 0.05) > 4.5


def test_classes_are_named_inside_their_samples():
    ranking = make_ranking(200)
    labels = np.where(np.asarray(ranking.embedding)[:, 0] > 0, "right", "left")
    names = {text.get_text(): text.xy[0] for text in plot_kept(ranking, labels=labels).texts}
    assert names["left"] < 0 < names["right"]


def test_many_classes_are_not_named():
    assert not plot_kept(make_ranking(200), labels=np.arange(200)).texts


@pytest.mark.parametrize("n", [1, 2, 50, 2_000, 50_000])
def test_any_number_of_samples_is_drawn(n):
    figure = plot_ranking(make_ranking(n), labels=np.arange(n) % 3)
    assert png(figure).startswith(b"\x89PNG")
    assert len(figure.axes) == 3  # two pictures and the colorbar


def test_equal_scores_are_drawn():
    assert png(plot_ranking(make_ranking(50, scores=np.zeros(50))))


def test_it_draws_into_given_axes_and_leaves_pyplot_alone():
    ax = Figure().subplots()
    assert plot_complexity(make_ranking(50), ax=ax) is ax
    assert plot_kept(make_ranking(50, n_components=3), ax=ax) is ax
    assert "matplotlib.pyplot" not in sys.modules


def test_one_component_is_refused():
    with pytest.raises(ValueError, match="at least 2 components"):
        plot_kept(make_ranking(50, n_components=1))


def test_labels_of_the_wrong_length_are_refused():
    with pytest.raises(ValueError, match="`labels` must have shape"):
        plot_kept(make_ranking(50), labels=np.zeros(49))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'topoprune-jax\[plot\]'"):
        plot_complexity(make_ranking(50))


SQUARE = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


def offsets(points):
    return np.asarray(points.get_offsets())


def test_the_diagram_of_the_square():
    """Three components die at 1 and one never does; the loop lives from 1 to sqrt 2."""
    ax = plot_diagram(tp.vietoris_rips(SQUARE))
    components, loops = (offsets(points) for points in ax.collections)
    np.testing.assert_allclose(loops, [[1.0, np.sqrt(2)]], rtol=1e-6)
    np.testing.assert_allclose(components[:, 0], 0)
    finite = components[components[:, 1] < np.sqrt(2)]
    np.testing.assert_allclose(finite[:, 1], [1.0, 1.0, 1.0])
    (never,) = components[components[:, 1] > np.sqrt(2)]
    (text,) = ax.texts
    assert (text.get_text(), text.xy[1]) == ("\u221e", never[1])
    assert never[1] < ax.get_ylim()[1]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["H0: 4", "H1: 1"]


def test_dimensions_differ_in_shape_and_color():
    components, loops = plot_diagram(tp.vietoris_rips(SQUARE)).collections
    assert len(components.get_paths()[0].vertices) != len(loops.get_paths()[0].vertices)
    assert (components.get_facecolor() != loops.get_facecolor()).any()


def test_the_barcode_of_the_square():
    ax = plot_barcode(tp.vietoris_rips(SQUARE))
    components, loops = (
        np.array([path.vertices for path in bars.get_paths()]) for bars in ax.collections
    )
    np.testing.assert_allclose(components[:, 0, 0], 0)
    np.testing.assert_allclose(components[:3, 1, 0], 1)
    arrows = [line for line in ax.lines if len(line.get_xdata())]
    assert len(arrows) == 1
    assert arrows[0].get_xdata()[0] == components[3, 1, 0] > np.sqrt(2)
    np.testing.assert_allclose(loops[0, :, 0], [1.0, np.sqrt(2)], rtol=1e-6)
    # Every bar has a height of its own.
    heights = np.concatenate([components[:, 0, 1], loops[:, 0, 1]])
    assert len(set(heights.tolist())) == 5


def test_dropped_bars_are_admitted():
    rng = np.random.default_rng(0)
    diagram = tp.vietoris_rips(rng.normal(size=(40, 2)).astype(np.float32), dims=(1,), capacity=2)
    (text,) = plot_diagram(diagram).get_legend().get_texts()
    assert text.get_text() == f"H1: 2 of {int(diagram.count[0])}"


@pytest.mark.parametrize("plot", [plot_diagram, plot_barcode])
def test_degenerate_diagrams_are_drawn(plot):
    for points in (jnp.zeros((1, 2)), jnp.zeros((5, 2))):
        assert png(plot(tp.vietoris_rips(points)).figure).startswith(b"\x89PNG")
    ax = Figure().subplots()
    assert plot(tp.vietoris_rips(SQUARE), ax=ax) is ax
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("plot", [plot_diagram, plot_barcode])
def test_a_batch_or_nan_is_no_diagram(plot):
    batch = jax.vmap(lambda x: tp.vietoris_rips(x, dims=(0,)))(
        jnp.stack([SQUARE, SQUARE.at[0, 0].set(jnp.nan)])
    )
    with pytest.raises(ValueError, match="must be of one point cloud; got a batch"):
        plot(batch)
    with pytest.raises(ValueError, match=r"got NaN\. The point cloud holds NaN"):
        plot(jax.tree.map(lambda leaf: leaf[1], batch))


def test_the_histogram_counts_every_sample_and_marks_the_cut():
    ranking = make_ranking(200)
    ax = plot_scores(ranking)
    heights = [sum(bar.get_height() for bar in bars) for bars in ax.containers]
    assert heights == [20, 180]
    (line,) = ax.lines
    cut = line.get_xdata()[0]
    assert (np.asarray(ranking.scores) > cut).sum() == 20  # beta = -1 keeps complex ones
    # Stacked, so that together they are the distribution of all.
    kept, removed = (np.array([bar.get_y() for bar in bars]) for bars in ax.containers)
    assert (kept == 0).all()
    assert removed.max() > 0


def test_a_long_tail_has_a_logarithmic_axis():
    scores = np.random.default_rng(0).lognormal(0, 2, 200)
    assert plot_scores(make_ranking(200, scores=scores)).get_xscale() == "log"
    assert plot_scores(make_ranking(200)).get_xscale() == "linear"
    assert png(plot_scores(make_ranking(50, scores=np.zeros(50))).figure)


def test_accuracy_curves_are_means_and_sample_deviations():
    runs = [[0.9, 0.8], [0.7, 0.7]]
    ax = plot_accuracy({"ours": ([0.9, 0.5], runs), "theirs": ([0.5], [0.6])}, full=0.95)
    ours, theirs = ax.containers
    line, _, (bars,) = ours.lines
    np.testing.assert_allclose(line.get_xdata(), [0.5, 0.9])
    np.testing.assert_allclose(line.get_ydata(), [0.7, 0.85])
    spread = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(np.ptp(spread, axis=1) / 2, [0, np.std([0.9, 0.8], ddof=1)])
    assert not theirs.has_yerr
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["all samples", "ours", "theirs"]
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_xticklabels()] == ["50 %", "90 %"]


def test_given_deviations_are_drawn_as_they_are():
    (curve,) = plot_accuracy({"a": ([0.5, 0.9], [0.8, 0.7], [0.1, 0.2])}).containers
    spread = [segment[:, 1] for segment in curve.lines[2][0].get_segments()]
    np.testing.assert_allclose(np.ptp(spread, axis=1) / 2, [0.1, 0.2])


def test_many_methods_are_told_apart():
    ax = plot_accuracy({f"method {k}": ([0.5], [0.5]) for k in range(28)})
    lines = [curve.lines[0] for curve in ax.containers]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 28


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "at least one method"),
        ({"a": ([0.5],)}, "must be"),
        ({"a": ([0.5, 0.9], [0.5])}, r"shapes \(2,\), \(1,\)"),
        ({"a": ([0.5], [0.5], [0.1, 0.2])}, "shapes"),
        ({"a": ([0.5], [np.nan])}, "finite"),
        ({"a": ([90], [0.5])}, r"fractions REMOVED, in \[0, 1\)"),
    ],
)
def test_curves_that_do_not_fit_are_refused(curves, message):
    with pytest.raises(ValueError, match=message):
        plot_accuracy(curves)
