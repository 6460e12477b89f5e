"""What pictures show: who is drawn, which regions are looked at, where the cut lies."""

import numpy as np
import pytest

from topoprune_jax import structural_complexity, total_persistence, vietoris_rips
from topoprune_jax._views import (
    choose_regions,
    class_shares,
    extremes,
    is_geometric,
    kept_mask,
    patch_of,
    places,
    score_bins,
    score_cut,
    thin,
)

NONE = np.empty(0, dtype=np.int64)


def mask(n, n_kept, seed=0):
    return kept_mask(np.random.default_rng(seed).permutation(n)[:n_kept], n)


def test_few_samples_are_all_drawn():
    np.testing.assert_array_equal(thin(mask(100, 10), 100, always=NONE), np.arange(100))


def test_every_kept_sample_is_drawn_and_removed_ones_fill_what_is_left():
    kept = mask(1000, 100)
    drawn = thin(kept, 300, always=NONE)
    assert len(drawn) == 300
    assert kept[drawn].sum() == 100
    assert (np.diff(drawn) > 0).all()


def test_removed_samples_have_a_fifth_however_many_are_kept():
    kept = mask(1000, 900)
    drawn = thin(kept, 300, always=NONE)
    assert (kept[drawn].sum(), (~kept[drawn]).sum()) == (240, 60)


def test_thinning_draws_named_samples_and_the_same_ones_again():
    kept = mask(1000, 100)
    always = np.flatnonzero(~kept)[:50]
    drawn = thin(kept, 120, always=always)
    assert np.isin(always, drawn).all()
    np.testing.assert_array_equal(drawn, thin(kept, 120, always=always))


def test_thinning_is_even():
    """Of 100 blocks of removed samples each loses about as much: 5 standard deviations."""
    drawn = thin(np.arange(100_000) < 0, 20_000, always=NONE)
    counts = np.bincount(drawn // 1000, minlength=100)
    assert abs(counts - 200).max() < 5 * np.sqrt(1000 * 0.2 * 0.8)


def test_regions_are_the_extremes_and_the_middle():
    assert choose_regions(np.array([5.0, 1.0, 3.0, 9.0, 2.0])) == {
        "most complex": 3,
        "median": 2,
        "simplest": 1,
    }
    assert choose_regions(np.array([1.0])) == {"most complex": 0}
    assert choose_regions(np.array([1.0, 2.0])) == {"most complex": 1, "median": 0}
    assert choose_regions(np.array([1.0, 1.0])) == {"most complex": 0}


def test_extremes_never_share_a_sample():
    most, least = extremes(np.array([5.0, 1.0, 3.0, 9.0, 2.0]), 10)
    assert (most.tolist(), least.tolist()) == ([3, 0, 2], [1, 4])
    most, least = extremes(np.ones(5), 2)
    assert (most.tolist(), least.tolist()) == ([0, 1], [2, 3])
    most, least = extremes(np.array([5.0]), 10)
    assert (most.tolist(), least.tolist()) == ([0], [])


@pytest.mark.parametrize("labeled", [False, True])
def test_a_patch_is_the_one_that_the_score_measures(labeled):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 2)).astype(np.float32)
    codes = np.arange(60) % 3 if labeled else None
    scores = structural_complexity(points, labels=codes, patch_size=12)
    for sample in (0, 31):
        patch = patch_of(points.astype(np.float64), sample, 12, codes)
        assert patch[0] == sample
        assert len(set(patch.tolist())) == 12
        diagram = vietoris_rips(points[patch], dims=(0,))
        np.testing.assert_allclose(total_persistence(diagram), scores[sample], rtol=1e-5)


def test_a_class_smaller_than_the_patch_is_the_patch():
    patch = patch_of(np.arange(6.0)[:, None], 1, 64, np.array([0, 0, 1, 1, 1, 0]))
    assert patch.tolist() == [1, 0, 5]


def test_class_shares_count():
    sizes, counts = class_shares(np.array([0, 0, 1, 2, 2, 2]), kept_mask(np.array([0, 4, 5]), 6))
    assert (sizes.tolist(), counts.tolist()) == ([2, 1, 3], [1, 0, 2])


def test_equal_scores_share_a_place():
    assert places(np.array([7.0, 1.0, 7.0, 3.0])).tolist() == [0.75, 0.125, 0.75, 0.375]


def test_bins_hold_every_score_and_are_even_in_the_right_sense():
    rng = np.random.default_rng(0)
    for scores, geometric in (
        (rng.uniform(1, 2, 500), False),
        (rng.lognormal(0, 2, 500), True),
        (np.append(rng.lognormal(0, 2, 500), 0.0), False),  # no ratio reaches 0
        (np.full(7, 3.0), False),
        (np.zeros(7), False),
    ):
        edges = score_bins(scores)
        assert (np.diff(edges) > 0).all()
        assert np.histogram(scores, edges)[0].sum() == len(scores)
        assert is_geometric(edges) == geometric
    steps = np.diff(np.log(score_bins(rng.lognormal(0, 2, 500))))
    np.testing.assert_allclose(steps, steps[0])


def test_the_cut_splits_off_as_many_as_are_kept():
    scores = np.random.default_rng(0).permutation(100).astype(float)
    assert (scores > score_cut(scores, 10, -1.0)).sum() == 10
    assert (scores < score_cut(scores, 10, 0.5)).sum() == 10
    assert score_cut(scores, 10, 0.0) is None
    assert score_cut(scores, 10, float("nan")) is None
    assert score_cut(scores, 100, -1.0) is None
