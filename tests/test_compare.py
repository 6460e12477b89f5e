"""Two rankings: overlaps against sets, correlations against scipy, and cases by hand."""

import math

import jax
import numpy as np
import pytest
from scipy.stats import spearmanr

from topoprune_jax import compare_rankings


def test_by_hand():
    """Of 0..3, A keeps {0, 1} and B {1, 2}: one of two is shared, of three in all."""
    both = compare_rankings([0, 1, 2, 3], [1, 2, 3, 0], ratios=(0.5,), n_kept=[(1, 3)])
    half, own = both.overlaps
    assert (half.n_kept_a, half.n_kept_b, half.n_shared) == (2, 2, 1)
    assert (half.share, half.jaccard, half.share_by_chance) == (1 / 2, 1 / 3, 2 / 4)
    assert (own.n_kept_a, own.n_kept_b, own.n_shared) == (1, 3, 0)
    assert (own.share, own.jaccard, own.share_by_chance) == (0, 0, 3 / 4)
    # Places 0 1 2 3 and 3 0 1 2: 1 - 6 sum d^2 / (n (n^2 - 1)) with d = 3 1 1 1.
    assert both.order_correlation == pytest.approx(1 - 6 * 12 / (4 * 15))
    assert math.isnan(both.score_correlation)
    assert both.classes == ()


def test_against_scipy_and_sets(rng):
    n = 200
    order_a, order_b = rng.permutation(n), rng.permutation(n)
    scores = rng.integers(0, 20, size=(2, n)) / 4  # many ties
    labels = rng.choice(["cat", "dog", "owl"], size=n)
    both = compare_rankings(order_a, order_b, scores_a=scores[0], scores_b=scores[1], labels=labels)
    places = np.argsort(order_a), np.argsort(order_b)
    assert both.order_correlation == pytest.approx(spearmanr(*places).statistic, abs=1e-12)
    assert both.score_correlation == pytest.approx(spearmanr(*scores).statistic, abs=1e-12)
    for ratio, overlap in zip(both.ratios, both.overlaps, strict=True):
        a, b = (set(order[: round((1 - ratio) * n)].tolist()) for order in (order_a, order_b))
        assert overlap.n_kept_a == len(a)
        assert overlap.share == len(a & b) / len(a)
        assert overlap.jaccard == len(a & b) / len(a | b)
    assert [one.label for one in both.classes] == ["cat", "dog", "owl"]
    for one in both.classes:
        members = np.flatnonzero(labels == one.label)
        within = spearmanr(places[0][members], places[1][members]).statistic
        assert one.order_correlation == pytest.approx(within, abs=1e-12)
    for i, overlap in enumerate(both.overlaps):
        parts = [one.overlaps[i] for one in both.classes]
        for name in ("n", "n_kept_a", "n_kept_b", "n_shared"):
            assert sum(getattr(part, name) for part in parts) == getattr(overlap, name)


def test_laws(rng):
    n = 50
    a, b, renamed = rng.permutation(n), rng.permutation(n), rng.permutation(n)
    same = compare_rankings(a, a, scores_a=b, scores_b=b)
    assert all(overlap.share == overlap.jaccard == 1 for overlap in same.overlaps)
    assert same.order_correlation == pytest.approx(1)
    assert same.score_correlation == pytest.approx(1)
    assert compare_rankings(a, a[::-1]).order_correlation == pytest.approx(-1)
    one, other = compare_rankings(a, b), compare_rankings(b, a)
    assert one.overlaps == other.overlaps
    assert one.order_correlation == other.order_correlation
    assert compare_rankings(renamed[a], renamed[b]).overlaps == one.overlaps


def test_arrays_are_lists_too():
    given = {"ratios": [0.25, 0.5], "n_kept": [(1, 2), (3, 4)]}
    plain = compare_rankings([0, 1, 2, 3], [1, 0, 3, 2], **given)
    arrays = {name: np.asarray(values) for name, values in given.items()}
    assert compare_rankings([0, 1, 2, 3], [1, 0, 3, 2], **arrays).overlaps == plain.overlaps


def test_degenerate():
    one = compare_rankings([0], [0], scores_a=[1.0], scores_b=[2.0], labels=["a"])
    assert all(overlap.share == 1 for overlap in one.overlaps)
    assert math.isnan(one.order_correlation)
    constant = compare_rankings([0, 1], [1, 0], scores_a=[1, 1], scores_b=[1, 2], labels=[3, 5])
    assert math.isnan(constant.score_correlation)
    assert math.isnan(constant.classes[0].order_correlation)
    assert math.isnan(constant.classes[1].overlaps[-1].jaccard) is False
    assert math.isnan(constant.classes[1].overlaps[-1].share)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order_a": [0, 1, 1], "order_b": [0, 1, 2]}, "`order_a` must hold every number"),
        ({"order_a": [0, 1, 2], "order_b": [0, 1]}, "the same 3 samples; got 2"),
        ({"order_a": [], "order_b": []}, "at least one; got shape"),
        ({"order_a": [0.0, 1.0], "order_b": [0, 1]}, "whole numbers"),
        ({"order_a": [[0, 1]], "order_b": [0, 1]}, "`order_a` must list"),
        ({"order_a": [0], "order_b": [0], "scores_a": [1.0]}, "`scores_b` must be given too"),
        (
            {"order_a": [0], "order_b": [0], "scores_a": [1.0], "scores_b": [1, 2]},
            "`scores_b` must have",
        ),
        ({"order_a": [0], "order_b": [0], "labels": [1, 2]}, "`labels` must have shape"),
        ({"order_a": [0], "order_b": [0], "ratios": [90]}, "Pass 0.9 to remove 90 %"),
        ({"order_a": [0], "order_b": [0], "ratios": 0.9}, r"`ratios` .* list of numbers; got 0.9"),
        ({"order_a": [0], "order_b": [0], "n_kept": [(1, 2)]}, "`n_kept` must be between 1 and 1"),
        ({"order_a": [0], "order_b": [0], "n_kept": (1, 2)}, "`n_kept` .* pairs of counts; got 1"),
        ({"order_a": [0], "order_b": [0], "n_kept": [(1, 1, 1)]}, r"got \(1, 1, 1\) in it"),
        ({"order_a": ["a"], "order_b": [0]}, "`order_a` must hold numbers"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        compare_rankings(**arguments)
    assert str(caught.value).endswith(".")


def test_traced_orders_are_refused():
    with pytest.raises(TypeError, match="traced"):
        jax.jit(lambda order: compare_rankings(order, order).n)(np.arange(3))
