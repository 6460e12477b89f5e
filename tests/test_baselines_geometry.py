"""Baselines that look at features alone: against brute force, by hand, degenerate sets, laws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topoprune_jax._distance import unit_rows
from topoprune_jax.baselines import _common, _kmeans
from topoprune_jax.baselines._discriminant_margin import discriminant_margin
from topoprune_jax.baselines._greedy import most_picks
from topoprune_jax.baselines._herding import herding
from topoprune_jax.baselines._k_center import k_center_greedy
from topoprune_jax.baselines._kmeans import spherical_kmeans
from topoprune_jax.baselines._moderate import moderate
from topoprune_jax.baselines._prototypes import prototypes
from topoprune_jax.baselines._random import class_balanced_random, random
from topoprune_jax.baselines._semantic_deduplication import semantic_deduplication

LABEL_FREE = [random, herding, k_center_greedy, moderate, prototypes, semantic_deduplication]
EVERY = [*LABEL_FREE, class_balanced_random]
# Those that share the kept places among the classes; `random` and `moderate` do not.
BALANCED = [
    herding,
    k_center_greedy,
    prototypes,
    semantic_deduplication,
    class_balanced_random,
    discriminant_margin,
]


def apply(method, points, ratio, labels=None, **options):
    if method is class_balanced_random and labels is None:
        labels = np.zeros(len(points), int)
    return method(points, ratio, labels=labels, **options)


def assert_complete(pruning, n, m):
    """Every index exactly once, the kept ones first."""
    assert pruning.kept.shape == (m,)
    assert pruning.scores.shape == (n,)
    assert np.isfinite(np.asarray(pruning.scores)).all()
    assert pruning.order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(pruning.order), np.arange(n))
    np.testing.assert_array_equal(np.concatenate([pruning.kept, pruning.removed]), pruning.order)


def unit(points):
    points = np.asarray(points, np.float64)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


# What all of them promise.


SIZES_FROM_LABELS = [herding, k_center_greedy, moderate, prototypes]


@pytest.mark.parametrize("method", EVERY)
def test_same_answer_inside_jit(method, rng):
    points = jnp.asarray(rng.normal(size=(40, 4)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, size=40))
    expected = apply(method, points, 0.5, labels).kept

    @jax.jit
    def closing_over(shift):
        return shift + apply(method, points, 0.5, labels).kept

    np.testing.assert_array_equal(closing_over(0), expected)
    traced = jax.jit(lambda y: apply(method, points, 0.5, y).kept)
    if method in SIZES_FROM_LABELS:
        with pytest.raises(TypeError, match="`labels` cannot be traced by JAX here"):
            traced(labels)
    else:
        np.testing.assert_array_equal(traced(labels), expected)


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("with_labels", [False, True])
def test_order_is_a_permutation_and_kept_sets_are_nested(method, with_labels, rng):
    points = rng.normal(size=(60, 4))
    labels = rng.integers(0, 3, size=60) if with_labels else None
    picks = [apply(method, points, r, labels) for r in (0.5, 0.9)]
    for pick, m in zip(picks, (30, 6), strict=True):
        assert_complete(pick, 60, m)
    for larger, smaller in itertools.pairwise(picks):
        assert set(smaller.kept.tolist()) <= set(larger.kept.tolist())


@pytest.mark.parametrize("method", EVERY)
def test_the_same_key_gives_the_same_bits(method, rng):
    points = rng.normal(size=(60, 4))
    one, other, third = (apply(method, points, 0.5, key=jax.random.key(s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.order, other.order)
    np.testing.assert_array_equal(one.scores, other.scores)
    drawn = method in (random, class_balanced_random, k_center_greedy, prototypes)
    assert drawn != np.array_equal(one.order, third.order)


@pytest.mark.parametrize("method", BALANCED)
def test_quotas_follow_class_sizes(method, rng):
    codes = np.repeat(np.arange(5), [100, 60, 20, 9, 1])
    kept = apply(method, rng.normal(size=(190, 4)), 0.8, codes).kept
    counts = np.bincount(codes[np.asarray(kept)], minlength=5)
    assert np.abs(counts - 0.2 * np.bincount(codes)).max() <= 1
    assert counts.min() >= 1  # the class of one sample keeps it


@pytest.mark.parametrize("method", [herding, prototypes])
def test_names_of_classes_do_not_matter(method, rng):
    points, codes = rng.normal(size=(60, 4)), rng.integers(0, 3, size=60)
    names = np.array(["ant", "bee", "cat"])[codes]
    one, other = apply(method, points, 0.7, codes), apply(method, points, 0.7, names)
    np.testing.assert_array_equal(one.order, other.order)


@pytest.mark.parametrize("method", EVERY)
def test_one_sample(method):
    assert_complete(apply(method, [[3.0, 4.0]], 0.9), 1, 1)
    assert_complete(apply(method, [[0.0, 0.0]], 0.0), 1, 1)


@pytest.mark.parametrize("method", EVERY)
def test_samples_that_are_all_the_same(method):
    assert_complete(apply(method, np.full((60, 4), 0.1), 0.6), 60, 24)


@pytest.mark.parametrize("method", BALANCED)
def test_classes_of_one_sample_or_of_equal_ones(method):
    labels = np.repeat(["a", "b", "c"], [4, 1, 3])
    pruning = apply(
        method, np.array([[1.0, 2.0], [3.0, 5.0]])[(labels == "a").astype(int)], 0.5, labels
    )
    assert_complete(pruning, 8, 4)
    assert sorted(labels[np.asarray(pruning.kept)].tolist())[-2:] == ["b", "c"]


@pytest.mark.parametrize("method", EVERY)
def test_duplicates_and_large_and_small_numbers(method, rng):
    points = np.repeat(rng.normal(size=(20, 4)), 3, axis=0)
    for scale in (1e-30, 1e30):
        assert_complete(apply(method, scale * points, 0.5), 60, 30)


@pytest.mark.parametrize("method", EVERY)
def test_float64_under_strict_promotion(method, rng, x64):
    points, codes = rng.normal(size=(40, 3)), rng.integers(0, 3, size=40)
    pruning = apply(method, points, 0.5, codes)
    assert_complete(pruning, 40, 20)
    assert pruning.scores.dtype == jnp.float64


@pytest.mark.parametrize("method", EVERY)
def test_rejects_bad_arguments(method, rng):
    points = rng.normal(size=(10, 2))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\); got 90\. Pass 0.9 to remove 90 %"):
        apply(method, points, 90)
    with pytest.raises(ValueError, match=r"`features` must be finite.*first in row 4"):
        apply(method, np.where(np.arange(10)[:, None] == 4, np.nan, points), 0.5)
    with pytest.raises(ValueError, match=r"`labels` must have shape \(10,\)"):
        method(points, 0.5, labels=np.zeros(3, int))
    with pytest.raises(TypeError, match="`key` must be a typed PRNG key"):
        apply(method, points, 0.5, key=0)


@pytest.mark.parametrize("method", [herding, k_center_greedy])
def test_a_second_call_with_labels_compiles_nothing(method, key):
    points, labels = np.zeros((30, 2)), np.arange(30) % 3
    method(points, 0.5, labels=labels, key=key)
    compiled = _common._mapped._cache_size()
    method(points + 1, 0.5, labels=labels, key=key)
    assert _common._mapped._cache_size() == compiled


# Random.


def test_random_keeps_every_sample_as_often():
    counts = np.zeros(10)
    for seed in range(200):
        counts[np.asarray(random(np.zeros((10, 1)), 0.7, key=jax.random.key(seed)).kept)] += 1
    # 60 each; the sum of squares over the variance 60 * 0.7 is chi-squared, below 28 in 99.9 %.
    assert counts.sum() == 600
    assert np.sum((counts - 60) ** 2) / 42 < 28


def test_class_balanced_random_is_random_within_each_class(key):
    points, labels = np.zeros((300, 1)), np.repeat([0, 1, 2], [200, 90, 10])
    plain = random(points, 0.9, key=key)
    balanced = class_balanced_random(points, 0.9, labels=labels, key=key)
    np.testing.assert_array_equal(plain.scores, balanced.scores)
    for c, m in ((0, 20), (1, 9), (2, 1)):
        members = np.asarray(plain.order)[labels[np.asarray(plain.order)] == c]
        kept = np.asarray(balanced.kept)
        assert set(kept[labels[kept] == c].tolist()) == set(members[:m].tolist())


def test_class_balanced_random_needs_labels():
    with pytest.raises(TypeError, match="`labels` must name the class of every sample; got None"):
        class_balanced_random(np.zeros((5, 2)), 0.5, labels=None)


# Herding.


def assert_herds(points, picks):
    """Replays the picks: no other sample would have brought the mean closer."""
    points = np.asarray(points, np.float64)
    mean, total, left = points.mean(axis=0), np.zeros(points.shape[1]), np.ones(len(points), bool)
    for t, pick in enumerate(picks, start=1):
        gaps = np.linalg.norm(mean - (points + total) / t, axis=1)
        assert left[pick]
        assert gaps[pick] ** 2 <= gaps[left].min() ** 2 + 1e-5 * np.ptp(points) ** 2
        left[pick] = False
        total += points[pick]


def test_herding_brings_the_mean_closest(digits, rng):
    assert_herds(digits[0], herding(digits[0], 0.9).kept)
    points = rng.normal(size=(60, 4))
    pruning = herding(points, 0.0)
    assert_herds(points, pruning.order)
    np.testing.assert_array_equal(np.asarray(pruning.scores)[pruning.order], np.arange(60))


def test_herding_by_hand():
    """Mean 3: after 3 and 2, 1 takes the mean to 2 and 9 to 4 2/3; then 9 to 3.75 and 0 to 1.5."""
    points = [[0.0], [1.0], [2.0], [3.0], [9.0]]
    assert herding(points, 0.4).kept.tolist() == [3, 2, 1]
    assert herding(points, 0.0).order.tolist() == [3, 2, 1, 4, 0]
    # Samples in pairs around the mean: each pick is undone by its partner.
    order = herding([[-4.0], [1.0], [-1.0], [4.0], [-2.0], [2.0]], 0.0).order
    assert order.tolist() == [1, 2, 4, 5, 0, 3]


def test_herding_is_icarls_on_unit_rows(rng):
    """argmax of <w, x>, w <- w + mu - x, as iCaRL writes it; no pick is repeated here."""
    points = unit(rng.normal(size=(60, 4)))
    mean = points.mean(axis=0)
    w, left, picks = mean.copy(), np.ones(60, bool), []
    for _ in range(30):
        pick = int(np.argmax(np.where(left, points @ w, -np.inf)))
        picks.append(pick)
        left[pick] = False
        w = w + mean - points[pick]
    assert herding(points, 0.5).kept.tolist() == picks


def test_herding_of_each_class(digits):
    points, labels = digits
    pruning = herding(points, 0.95, labels=labels)
    kept = np.asarray(pruning.kept)
    for c in range(10):
        members = np.flatnonzero(labels == c)
        own = kept[labels[kept] == c]
        assert_herds(points[members], np.searchsorted(members, own))
        np.testing.assert_array_equal(np.asarray(pruning.scores)[own], np.arange(len(own)))


# Greedy k-center.


def assert_farthest_first(points, picks, scores):
    """Replays the picks: none was farther from the ones before; scores are the distances."""
    points = np.asarray(points, np.float64)
    nearest, left = np.full(len(points), np.inf), np.ones(len(points), bool)
    reach = np.ptp(points)
    for t, pick in enumerate(picks):
        assert left[pick]
        if t > 0:
            assert nearest[pick] >= nearest[left].max() - 1e-3 * reach
            np.testing.assert_allclose(scores[pick], nearest[pick], atol=2e-3 * reach)
        left[pick] = False
        nearest = np.minimum(nearest, np.linalg.norm(points - points[pick], axis=1))
    np.testing.assert_allclose(scores[left], nearest[left], atol=2e-3 * reach)


def test_k_center_picks_the_farthest(digits, rng):
    for points, ratio in ((digits[0], 0.9), (rng.normal(size=(60, 4)), 0.0)):
        pruning = k_center_greedy(points, ratio)
        assert_farthest_first(points, pruning.kept, np.asarray(pruning.scores))
        in_order = np.asarray(pruning.scores)[pruning.order]
        assert (np.diff(in_order) <= 1e-5 * in_order[0]).all()


def test_k_center_by_hand():
    """From 0: 10 is farthest, then 4 (at 4 from 0), then 7 (at 3), then 1."""
    points = [[0.0], [1.0], [4.0], [7.0], [10.0]]
    answers = {
        0: ([0, 4, 2, 3, 1], [10, 1, 4, 3, 10]),
        4: ([4, 0, 2, 3, 1], [10, 1, 4, 3, 10]),
        2: ([2, 4, 0, 3, 1], [4, 1, 6, 3, 6]),
    }
    seen = set()
    for seed in range(12):
        pruning = k_center_greedy(points, 0.0, key=jax.random.key(seed))
        first = int(pruning.order[0])
        seen.add(first)
        if first in answers:
            order, scores = answers[first]
            assert pruning.order.tolist() == order
            np.testing.assert_allclose(pruning.scores, scores, rtol=1e-6)
    assert len(seen) > 2


def test_k_center_covers_within_twice_the_best_radius():
    """Ten tight groups: ten centers take one of each."""
    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(10), 30)
    points = 100 * np.eye(10)[groups] + rng.normal(size=(300, 10))
    kept = np.asarray(k_center_greedy(points, 29 / 30).kept)
    assert sorted(groups[kept].tolist()) == list(range(10))


def test_k_center_of_each_class(digits):
    points, labels = digits
    pruning = k_center_greedy(points, 0.95, labels=labels)
    kept, scores = np.asarray(pruning.kept), np.asarray(pruning.scores)
    for c in range(10):
        members = np.flatnonzero(labels == c)
        own = np.searchsorted(members, kept[labels[kept] == c])
        centers = points[members[own]].astype(np.float64)
        for t in range(1, len(own)):
            apart = np.linalg.norm(points[members][:, None] - centers[None, :t], axis=2).min(axis=1)
            assert apart[own[t]] >= apart.max() * (1 - 1e-4)
            np.testing.assert_allclose(scores[members[own[t]]], apart[own[t]], rtol=1e-4)


def test_k_center_takes_duplicates_last():
    points = np.repeat([[0.0, 0.3], [5.1, 0.7], [0.2, 9.9]], 4, axis=0)
    pruning = k_center_greedy(points, 0.5)
    assert sorted((np.asarray(pruning.kept)[:3] // 4).tolist()) == [0, 1, 2]
    np.testing.assert_array_equal(np.asarray(pruning.scores)[pruning.order[3:]], 0)


# Moderate.


def moderate_scores(points, labels, variant, class_balanced):
    center = np.mean if variant == "paper" else np.median
    points = np.asarray(points, np.float64)
    distances = np.zeros(len(points))
    for c in np.unique(labels):
        own = labels == c
        distances[own] = np.linalg.norm(points[own] - center(points[own], axis=0), axis=1)
    scores = np.zeros(len(points))
    for c in np.unique(labels) if class_balanced else [None]:
        own = labels == c if c is not None else np.ones(len(points), bool)
        if variant == "paper":
            scores[own] = np.abs(distances[own] - np.median(distances[own]))
        else:
            ranks = np.argsort(np.argsort(distances[own], kind="stable"))
            scores[own] = np.abs(ranks - (own.sum() - 1) / 2)
    return scores


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("class_balanced", [False, True])
def test_moderate_against_numpy(digits, variant, class_balanced):
    points, labels = digits
    pruning = moderate(points, 0.8, labels=labels, variant=variant, class_balanced=class_balanced)
    expected = moderate_scores(points, labels, variant, class_balanced)
    # A rank may move by one where two distances differ by less than rounding.
    atol = 1e-4 if variant == "paper" else 2
    np.testing.assert_allclose(pruning.scores, expected, atol=atol)
    if class_balanced:
        counts = np.bincount(labels[np.asarray(pruning.kept)])
        assert np.abs(counts - 0.2 * np.bincount(labels)).max() <= 1
    else:
        assert np.max(expected[pruning.kept]) <= np.min(expected[pruning.removed]) + atol


def test_moderate_without_labels_is_one_class(rng):
    points = rng.normal(size=(60, 4))
    for variant in ("paper", "code"):
        pruning = moderate(points, 0.5, variant=variant)
        expected = moderate_scores(points, np.zeros(60), variant, False)
        np.testing.assert_allclose(pruning.scores, expected, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
def test_moderate_is_the_window_of_the_authors_code(rng, ratio):
    """`get_prune_idx` of the authors' selection.py, written down anew: a window of ranks."""
    points, labels = rng.normal(size=(200, 3)) ** 3, rng.integers(0, 3, size=200)
    distances = np.zeros(200)
    for c in range(3):
        own = points[labels == c]
        distances[labels == c] = np.linalg.norm(own - np.median(own, axis=0), axis=1)
    low, high = round(200 * ratio / 2), round(200 * (1 - ratio / 2))
    window = np.argsort(distances)[low:high]
    kept = moderate(points, ratio, labels=labels, variant="code").kept
    assert set(kept.tolist()) == set(window.tolist())


def test_moderate_by_hand():
    points = [[0.0], [1.0], [-1.0], [3.0], [-3.0], [8.0], [-8.0]]  # distances 0 1 1 3 3 8 8
    pruning = moderate(points, 0.7)
    assert pruning.scores.tolist() == [3, 2, 2, 0, 0, 5, 5]
    assert pruning.order.tolist() == [3, 4, 1, 2, 0, 5, 6]
    # An outlier moves the mean to 2.5, and leaves the median at 0.
    points = [[-1.0], [0.0], [1.0], [10.0]]
    assert moderate(points, 0.5, variant="code").kept.tolist() == [0, 2]
    assert moderate(points, 0.5).scores.tolist() == [0.5, 0.5, 1.5, 4.5]


def test_moderate_rejects_bad_options(rng):
    with pytest.raises(ValueError, match="`variant` must be 'paper' or 'code'; got 'mean'"):
        moderate(np.zeros((5, 2)), 0.5, variant="mean")
    with pytest.raises(ValueError, match="`class_balanced` needs the class of every sample"):
        moderate(np.zeros((5, 2)), 0.5, class_balanced=True)


# k-means, prototypes and SemDeDup.


def test_kmeans_ends_at_a_fixed_point(digits, key):
    points = unit_rows(jnp.asarray(digits[0]))
    codes, centers = spherical_kmeans(points, 12, key=key)
    similarity = np.asarray(points, np.float64) @ np.asarray(centers, np.float64).T
    best = similarity.max(axis=1)
    np.testing.assert_allclose(similarity[np.arange(len(best)), codes], best, atol=1e-6)
    for c in range(12):
        mean = np.asarray(points, np.float64)[np.asarray(codes) == c].sum(axis=0)
        np.testing.assert_allclose(centers[c], mean / np.linalg.norm(mean), atol=1e-5)


def test_kmeans_in_tiles_is_the_same(digits, key, monkeypatch):
    points = unit_rows(jnp.asarray(digits[0]))
    codes, centers = spherical_kmeans(points, 7, n_steps=200, key=key)
    monkeypatch.setattr(_kmeans, "_TILE_NUMBERS", 700)
    tiled = spherical_kmeans(points, 7, n_steps=201, key=key)  # another option: traced again
    np.testing.assert_array_equal(tiled[0], codes)
    np.testing.assert_allclose(tiled[1], centers, atol=1e-5)


def test_kmeans_finds_separate_groups_and_survives_too_many_clusters(rng, key):
    truth = rng.integers(0, 5, size=300)
    points = unit_rows(
        jnp.asarray(np.eye(5)[truth] + 0.05 * rng.normal(size=(300, 5)), jnp.float32)
    )
    codes = np.asarray(spherical_kmeans(points, 5, key=key)[0])
    assert len(set(zip(truth.tolist(), codes.tolist(), strict=True))) == 5
    codes, centers = spherical_kmeans(unit_rows(jnp.ones((6, 2))), 6, key=key)
    assert set(codes.tolist()) == {0}
    assert np.isfinite(np.asarray(centers)).all()


def test_rows_of_zeros_stay():
    rows = unit_rows(jnp.asarray([[0.0, 0.0], [3e30, 4e30], [3e-30, 4e-30]], jnp.float32))
    np.testing.assert_allclose(rows, [[0, 0], [0.6, 0.8], [0.6, 0.8]], rtol=1e-6)


def test_prototypes_against_numpy(digits, key):
    points = unit(digits[0])
    _, centers = spherical_kmeans(jnp.asarray(points, jnp.float32), 10, key=key)
    expected = 1 - (points @ np.asarray(centers, np.float64).T).max(axis=1)
    hard = prototypes(digits[0], 0.8, n_clusters=10, key=key)
    np.testing.assert_allclose(hard.scores, expected, atol=1e-6)
    assert expected[hard.kept].min() >= expected[hard.removed].max() - 1e-6
    easy = prototypes(digits[0], 0.8, n_clusters=10, keep="easy", key=key)
    np.testing.assert_array_equal(easy.scores, hard.scores)
    assert expected[easy.kept].max() <= expected[easy.removed].min() + 1e-6


def test_prototypes_by_hand():
    """One cluster around (1, 0): directions at 0, 45 and -45 degrees."""
    points = [[2.0, 0.0], [1.0, 1.0], [1.0, -1.0]]
    pruning = prototypes(points, 0.5, n_clusters=1)
    np.testing.assert_allclose(pruning.scores, [0, 1 - 0.5**0.5, 1 - 0.5**0.5], atol=1e-6)
    assert prototypes(points, 0.7, n_clusters=1, keep="easy").kept.tolist() == [0]
    # A row of zeros has no direction: cosine 0 to any center.
    assert float(prototypes([[1.0, 0.0], [0.0, 0.0]], 0.5, n_clusters=1).scores[1]) == 1


def test_prototypes_take_the_number_of_classes(digits, key):
    points, labels = digits
    one = prototypes(points, 0.9, labels=labels, key=key)
    other = prototypes(points, 0.9, labels=labels, n_clusters=10, key=key)
    np.testing.assert_array_equal(one.order, other.order)
    plain = prototypes(points, 0.9, key=key)
    np.testing.assert_array_equal(
        plain.scores, prototypes(points, 0.9, n_clusters=21, key=key).scores
    )


def earlier_similarity(points, clusters, turn):
    """The loop of SemDeDup: within a cluster, in the order of `turn`, the most similar before."""
    scores = np.zeros(len(points))
    for c in np.unique(clusters):
        members = np.flatnonzero(clusters == c)
        members = members[np.argsort(turn[members], kind="stable")]
        similarity = np.triu(points[members] @ points[members].T, k=1)
        scores[members] = similarity.max(axis=0)
    return scores


@pytest.mark.parametrize("keep", ["hard", "easy"])
@pytest.mark.parametrize("n_clusters", [1, 6])
def test_semantic_deduplication_against_numpy(digits, key, keep, n_clusters):
    points = unit(digits[0])
    cluster_key, _ = jax.random.split(key)
    clusters, centers = spherical_kmeans(
        jnp.asarray(points, jnp.float32), n_clusters, key=cluster_key
    )
    similarity = np.sum(points * np.asarray(centers, np.float64)[clusters], axis=1)
    turn = similarity if keep == "hard" else -similarity
    expected = earlier_similarity(points, np.asarray(clusters), turn)
    pruning = semantic_deduplication(digits[0], 0.6, n_clusters=n_clusters, keep=keep, key=key)
    # Two samples as far from the center as rounding can tell may change places.
    assert np.mean(np.abs(np.asarray(pruning.scores) - expected) > 1e-5) < 0.01
    # Epsilon of the authors' rule, in the place of which stands the ratio.
    epsilon = 1 - np.asarray(pruning.scores)[pruning.kept[-1]]
    assert set(np.flatnonzero(np.asarray(pruning.scores) > 1 - epsilon)) <= set(
        pruning.removed.tolist()
    )


def test_semantic_deduplication_by_hand():
    """Three pairs, of which one sample each is farther from the center, and one alone."""
    degrees = np.radians([0.0, 1.0, 40.0, 42.0, -50.0, -53.0])
    points = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    hard = semantic_deduplication(points, 0.5, n_clusters=1)
    # The center lies at about -3 degrees: the farthest come first, -53, -50, 42, 40, 1, 0.
    expected = np.cos(np.radians([1.0, 39.0, 2.0, 90.0, 3.0, 90.0]))
    expected[[3, 5]] = 0
    np.testing.assert_allclose(hard.scores, expected, atol=1e-6)
    assert sorted(hard.kept.tolist()) == [1, 3, 5]
    easy = semantic_deduplication(points, 0.5, n_clusters=1, keep="easy")
    assert sorted(easy.kept.tolist()) == [0, 2, 4]


def test_semantic_deduplication_leaves_one_of_each(rng, key):
    """Every sample three times: two thirds go, and one of each stays, whatever the order."""
    points = np.tile(rng.normal(size=(400, 8)), (3, 1))
    for keep in ("hard", "random"):
        kept = semantic_deduplication(points, 2 / 3, n_clusters=5, keep=keep, key=key).kept
        assert len(set((np.asarray(kept) % 400).tolist())) == 400


def test_rejects_bad_clusters():
    points = np.eye(4)
    for method in (prototypes, semantic_deduplication):
        with pytest.raises(ValueError, match="`n_clusters` must be between 1 and 4; got n_clus"):
            method(points, 0.5, n_clusters=5)
        with pytest.raises(TypeError, match="`n_clusters` must be a whole number"):
            method(points, 0.5, n_clusters=2.0)
        with pytest.raises(ValueError, match=r"`keep` must be 'hard'.*got 'medium'"):
            method(points, 0.5, keep="medium")


# Random among the clearest.


def margins(points, labels, shrinkage, normalize):
    """From the definition: scatter within classes, its inverse, and no eigenvectors."""
    x, classes = unit(points) if normalize else points, np.unique(labels)
    means = np.stack([x[labels == c].mean(axis=0) for c in classes])
    codes = np.searchsorted(classes, labels)
    residual = x - means[codes]
    scatter = residual.T @ residual / len(x)
    d = x.shape[1]
    scatter = (1 - shrinkage) * scatter + shrinkage * np.trace(scatter) / d * np.eye(d)
    difference = x[:, None] - means[None]
    # The parts of the distances across the span of the means are the same for all of them.
    squared = np.einsum("icd,de,ice->ic", difference, np.linalg.inv(scatter), difference)
    own = squared[np.arange(len(x)), codes]
    squared[np.arange(len(x)), codes] = np.inf
    return own - squared.min(axis=1)


@pytest.mark.parametrize(("shrinkage", "normalize"), [(1e-3, True), (0.3, False)])
def test_discriminant_margin_against_numpy(digits, shrinkage, normalize):
    points, labels = digits
    options = {"shrinkage": shrinkage, "normalize": normalize}
    pruning = discriminant_margin(points, 0.8, labels=labels, share=0.5, **options)
    expected = margins(points, labels, **options)
    np.testing.assert_allclose(pruning.scores, expected, rtol=1e-3, atol=0.02)
    kept = np.asarray(pruning.kept)
    for c in np.unique(labels):
        own = labels == c
        middle = np.median(np.asarray(pruning.scores)[own])
        assert (np.asarray(pruning.scores)[kept[labels[kept] == c]] <= middle).all()


def test_discriminant_margin_by_hand():
    points = np.array([[0.0], [1.0], [5.0], [10.0], [9.0], [5.0]])  # means 2 and 8
    labels = np.array([0, 0, 0, 1, 1, 1])
    pruning = discriminant_margin(points, 0.0, labels=labels, share=0.0)
    # Of x in the first class (x - 2)^2 - (x - 8)^2 = 12 (x - 5), by the scatter within classes.
    within = (4 + 1 + 9) * 2 / 6
    expected = 12 * np.array([-5, -4, 0, -5, -4, 0]) / within
    np.testing.assert_allclose(pruning.scores, expected, atol=1e-4)
    assert pruning.order.tolist() == [0, 3, 1, 4, 2, 5]


def test_discriminant_margin_draws_from_the_clearest_and_goes_on_in_order(rng):
    points = rng.normal(size=(200, 4)) + np.repeat(np.eye(2, 4), 100, axis=0)
    labels = np.repeat([0, 1], 100)
    drawn = set()
    for seed in range(4):
        pruning = discriminant_margin(
            points, 0.9, labels=labels, share=0.3, key=jax.random.key(seed)
        )
        scores, order = np.asarray(pruning.scores), np.asarray(pruning.order)
        for c in (0, 1):
            own = order[labels[order] == c]
            clear = np.sort(scores[own])[:30]
            np.testing.assert_array_equal(np.sort(scores[own[:30]]), clear)
            assert (np.diff(scores[own[:30]]) < 0).any()
            assert (np.diff(scores[own[30:]]) >= 0).all()
        drawn.add(tuple(pruning.kept.tolist()))
    assert len(drawn) == 4


def test_discriminant_margin_under_jit(rng):
    points, labels = rng.normal(size=(60, 4)), rng.integers(0, 3, size=60)
    traced = jax.jit(lambda x: discriminant_margin(x, 0.5, labels=labels).kept)
    known = discriminant_margin(points, 0.5, labels=labels).kept
    np.testing.assert_array_equal(np.sort(traced(jnp.asarray(points))), np.sort(known))
    with pytest.raises(TypeError, match="`labels` cannot be traced by JAX here"):
        jax.jit(lambda y: discriminant_margin(points, 0.5, labels=y).kept)(jnp.asarray(labels))


def test_discriminant_margin_of_samples_that_are_all_the_same():
    labels = np.arange(60) % 3
    assert_complete(discriminant_margin(np.full((60, 4), 0.1), 0.6, labels=labels), 60, 24)


def test_discriminant_margin_rejects_bad_input(rng):
    points = rng.normal(size=(6, 2))
    labels = [0, 0, 0, 1, 1, 1]
    with pytest.raises(TypeError, match="`labels` must name the class of every sample; got None"):
        discriminant_margin(points, 0.5, labels=None)
    with pytest.raises(ValueError, match="`labels` must hold two classes or more; got one"):
        discriminant_margin(points, 0.5, labels=[0] * 6)
    with pytest.raises(ValueError, match="`share` must be between 0 and 1; got share=2"):
        discriminant_margin(points, 0.5, labels=labels, share=2)
    with pytest.raises(ValueError, match="`shrinkage` must be between 0 and 1"):
        discriminant_margin(points, 0.5, labels=labels, shrinkage=-1)


# Laws.


@pytest.mark.parametrize(
    ("method", "options", "with_labels"),
    [
        (herding, {}, True),
        (moderate, {}, True),
        (moderate, {"variant": "code"}, True),
        (prototypes, {"n_clusters": 1}, False),
        (semantic_deduplication, {"n_clusters": 1}, True),
        (discriminant_margin, {"share": 0.0}, True),
    ],
)
def test_permuting_the_samples_permutes_the_result(method, options, with_labels, rng):
    """Where nothing is drawn; an odd number of samples, so that no two ranks tie."""
    points = rng.normal(size=(61, 4))
    labels = rng.permutation(np.repeat([0, 1, 2], [31, 19, 11])) if with_labels else None
    new = rng.permutation(61)
    one = method(points, 0.7, labels=labels, **options)
    other = method(points[new], 0.7, labels=labels[new] if with_labels else None, **options)
    np.testing.assert_allclose(other.scores, np.asarray(one.scores)[new], atol=1e-5)
    kept = set(new[np.asarray(other.kept)].tolist())
    ties = 2 if options else 0  # ranks on both sides of the middle, the ends of every cluster
    assert len(kept ^ set(one.kept.tolist())) <= ties


@pytest.mark.parametrize("method", [herding, k_center_greedy, moderate])
def test_rigid_motion_changes_nothing(method, rng):
    points = rng.normal(size=(60, 4))
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    one = method(points, 0.6)
    other = method(4 * points @ rotation + np.array([1.0, -2.0, 0.5, 3.0]), 0.6)
    np.testing.assert_array_equal(other.kept, one.kept)
    factor = 1 if method is herding else 4
    np.testing.assert_allclose(other.scores, factor * np.asarray(one.scores), atol=1e-4)


def test_greedy_methods_pick_no_more_than_they_must(rng):
    codes = jnp.asarray(np.repeat([0, 1, 2], [80, 15, 5]))
    assert most_picks(7, None) == 7
    assert most_picks(10, codes) == 8
    assert most_picks(100, codes) == 80
    many = jnp.asarray(np.concatenate([np.zeros(50, int), 1 + np.arange(50)]), jnp.int32)
    assert most_picks(50, many) == 1
