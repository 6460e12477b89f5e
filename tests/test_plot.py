"""Pictures: what is drawn where, without a display, from 1 to 50,000 samples."""

import io
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from topoprune_jax import RESULTS
from topoprune_jax._rank import Ranking
from topoprune_jax.plot import plot_complexity, plot_kept, plot_ranking


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
        beta=jnp.asarray(-1.0),
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
