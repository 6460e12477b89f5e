"""The selection: against a plain greedy, by hand, degenerate sets, and the laws of a greedy."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import _backend, _beta, _coverage, _select
from topoprune_jax._select import agreement_weights


def dense(fuzzy_set):
    i, j, mu = fuzzy_set.edges()
    matrix = np.eye(fuzzy_set.n_points)
    matrix[i, j] = matrix[j, i] = mu
    return matrix


def assert_greedy(matrix, weights, order, unit=0.0):
    """Replays the order: no sample would have gained more than the one that was picked, by more
    than a `unit` of the largest gain."""
    unit = unit * np.sum(weights * matrix, axis=1).max()
    covered, left = np.zeros(len(weights)), np.ones(len(weights), bool)
    for pick in order:
        gain = np.sum(weights * np.maximum(matrix - covered, 0), axis=1)
        assert left[pick]
        assert gain[pick] >= gain[left].max() * (1 - 1e-5) - unit
        left[pick] = False
        covered = np.maximum(covered, matrix[pick])


@pytest.fixture
def fuzzy_set(rng):
    return tp.fuzzy_simplicial_set(tp.knn_graph(rng.normal(size=(300, 5)), n_neighbors=8))


def test_every_pick_has_the_largest_gain(fuzzy_set, rng):
    selection = tp.select(fuzzy_set, rng.normal(size=300), 0.5)
    weights = np.asarray(selection.weights, np.float64)
    assert_greedy(dense(fuzzy_set), weights, np.asarray(selection.order))


@pytest.mark.parametrize("labeled", [False, True])
def test_what_gains_nothing_comes_last_the_heavier_first(fuzzy_set, rng, labeled):
    """From where nobody gains anything, of each class."""
    codes = rng.integers(0, 2, 300) if labeled else np.zeros(300, int)
    scores = np.round(rng.normal(size=300), 1)
    selection = tp.select(fuzzy_set, scores, 0.0, labels=codes if labeled else None)
    matrix, weights = dense(fuzzy_set), np.asarray(selection.weights)
    for code in np.unique(codes):
        own = np.asarray(selection.order)[codes[selection.order] == code]
        covered, rest = np.zeros(300), 0
        while np.any((matrix[own[rest]] > covered) & (codes == code)):
            covered = np.maximum(covered, matrix[own[rest]])
            rest += 1
        assert len(own) / 4 < rest < 3 * len(own) / 4
        tail = own[rest:]
        np.testing.assert_array_equal(tail, tail[np.lexsort((tail, -weights[tail]))])


def test_sorted_samples_are_kept_alike(digits):
    """What is left when nobody gains anything is not taken from the first classes."""
    points, labels = digits
    by_class = np.argsort(labels, kind="stable")
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points[by_class]))
    scores = np.random.default_rng(0).normal(size=len(labels))
    kept = tp.select(fuzzy_set, scores, 0.3).kept
    shares = np.bincount(labels[by_class][kept]) / np.bincount(labels)
    assert np.abs(shares - 0.7).max() < 0.1


def test_hubs_have_more_reverse_edges_than_one_chunk(rng):
    """A star: the hub is listed by every point and covers them all."""
    angle = np.linspace(0, 2 * np.pi, 101)[:-1]
    points = np.concatenate([[[0.0, 0.0]], 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1)])
    graph = tp.NeighborGraph(
        jnp.concatenate([jnp.asarray([[1]]), jnp.zeros((100, 1), jnp.int32)]), jnp.ones((101, 1))
    )
    fuzzy_set = tp.fuzzy_simplicial_set(graph)
    assert int(jnp.diff(fuzzy_set.reverse_offsets).max()) == 99
    selection = tp.select(fuzzy_set, np.zeros(len(points)), 0.5, beta=0.0)
    # The hub first; then nothing is left to gain anywhere, and ties go by index.
    assert selection.order.tolist() == list(range(101))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pages_hold_the_edges(rng, request, dtype):
    if dtype == "float64":
        request.getfixturevalue("x64")
    points = rng.normal(size=(400, 60)).astype(dtype)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[0] = 0  # the nearest of many
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=4))
    assert fuzzy_set.memberships.dtype == dtype
    codes = jnp.asarray(rng.integers(0, 2, 400), jnp.int32)
    edges = _coverage.edges_within(fuzzy_set, codes)
    indices, mu, ends = _coverage._read(_coverage.pages_within(fuzzy_set, codes).rows, dtype)
    np.testing.assert_array_equal(indices[:, :4], edges.indices)
    np.testing.assert_array_equal(mu[:, :4], edges.memberships)
    np.testing.assert_array_equal(ends, jnp.stack([edges.offsets[:-1], edges.offsets[1:]], axis=1))
    counts = np.minimum(np.diff(edges.offsets), _coverage.ON_PAGE)
    assert counts[0] == _coverage.ON_PAGE
    assert np.diff(edges.offsets)[0] > _coverage.ON_PAGE
    for i, count in enumerate(counts):
        listed = slice(int(ends[i, 0]), int(ends[i, 0]) + count)
        np.testing.assert_array_equal(indices[i, 4 : 4 + count], edges.reverse_indices[listed])
        np.testing.assert_array_equal(mu[i, 4 : 4 + count], edges.reverse_memberships[listed])
        assert not np.any(mu[i, 4 + count :])


def test_by_hand():
    """Two groups of 3 and 2: the middle of the larger one first, then one of the other."""
    points = [[0.0], [0.1], [0.2], [5.0], [5.1]]
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=1))
    assert tp.select(fuzzy_set, [0.0] * 5, 0.6, beta=0.0).kept.tolist() == [1, 3]


def test_weights_prefer_simple_samples():
    """Pairs far apart: without weights by index, with weights the pairs of low scores first."""
    points = np.repeat(np.arange(10) * 100.0, 2)[:, None] + np.tile([0.0, 1.0], 10)[:, None]
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=1))
    scores = np.repeat(np.arange(10)[::-1], 2)
    assert tp.select(fuzzy_set, scores, 0.8, beta=0.0).kept.tolist() == [0, 2, 4, 6]
    kept = tp.select(fuzzy_set, scores, 0.8, beta=2.0).kept
    assert (np.asarray(kept) // 2).tolist() == [9, 8, 7, 6]
    weights = tp.select(fuzzy_set, scores, 0.8, beta=2.0).weights
    np.testing.assert_allclose(np.sort(weights)[::-1], np.exp(-2 * np.arange(20) / 20), rtol=1e-6)


def test_order_is_a_permutation_and_kept_sets_are_nested(fuzzy_set, rng):
    scores = rng.normal(size=300)
    for labels in (None, rng.integers(0, 7, size=300)):
        picks = [tp.select(fuzzy_set, scores, r, labels=labels) for r in (0.0, 0.3, 0.5, 0.9, 0.99)]
        for pick, m in zip(picks, (300, 210, 150, 30, 3), strict=True):
            assert pick.kept.shape == (m,)
            both = np.concatenate([pick.kept, pick.removed])
            np.testing.assert_array_equal(np.sort(both), np.arange(300))
            np.testing.assert_array_equal(both, pick.order)
        for larger, smaller in itertools.pairwise(picks):
            assert set(smaller.kept.tolist()) <= set(larger.kept.tolist())


@pytest.mark.parametrize(
    ("n", "ratio", "m"), [(10, 0.0, 10), (10, 0.9, 1), (10, 0.99, 1), (5, 0.5, 3), (1000, 0.7, 300)]
)
def test_kept_count(n, ratio, m):
    assert _select.kept_count(n, ratio) == m


def test_classes_are_covered_on_their_own(rng):
    """The order within a class is a greedy order of that class alone."""
    points = rng.normal(size=(200, 3))
    codes = rng.integers(0, 4, size=200)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=8))
    selection = tp.select(fuzzy_set, rng.normal(size=200), 0.8, labels=codes)
    matrix, weights = dense(fuzzy_set), np.asarray(selection.weights, np.float64)
    place = np.argsort(np.asarray(selection.order))
    for c in range(4):
        members = np.flatnonzero(codes == c)
        within = matrix[np.ix_(members, members)]
        assert_greedy(within, weights[members], np.argsort(place[members]))


@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.95])
def test_quotas_follow_class_sizes(rng, ratio):
    codes = np.repeat(np.arange(6), [400, 200, 100, 60, 30, 10])
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(rng.normal(size=(800, 4)), n_neighbors=5))
    kept = tp.select(fuzzy_set, rng.normal(size=800), ratio, labels=codes).kept
    counts = np.bincount(codes[np.asarray(kept)], minlength=6)
    assert np.abs(counts - (1 - ratio) * np.bincount(codes)).max() <= 1
    assert counts.min() >= 1


def test_string_labels_are_the_same_as_codes(fuzzy_set, rng):
    codes = rng.integers(0, 5, size=300)
    scores = rng.normal(size=300)
    names = np.array(["ant", "bee", "cat", "dog", "eel"])[codes]
    one = tp.select(fuzzy_set, scores, 0.9, labels=codes)
    other = tp.select(fuzzy_set, scores, 0.9, labels=names)
    np.testing.assert_array_equal(one.order, other.order)


def test_strata_rank_scores_within_themselves(fuzzy_set):
    strata = np.repeat([0, 1], 150)
    weights = tp.select(fuzzy_set, np.arange(300), 0.5, strata=strata).weights
    np.testing.assert_allclose(weights[:150], weights[150:])


def test_under_jit_and_vmap(fuzzy_set, rng):
    scores = jnp.asarray(rng.normal(size=(2, 300)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, size=300))
    batch = jax.jit(jax.vmap(lambda s: tp.select(fuzzy_set, s, 0.9, labels=labels)))(scores)
    for i in range(2):
        one = tp.select(fuzzy_set, scores[i], 0.9, labels=labels)
        np.testing.assert_array_equal(batch.order[i], one.order)


def test_one_sample():
    graph = tp.NeighborGraph(jnp.full((1, 1), -1), jnp.full((1, 1), jnp.inf))
    selection = tp.select(tp.fuzzy_simplicial_set(graph), [0.0], 0.9)
    assert selection.kept.tolist() == [0]
    assert selection.removed.shape == (0,)


def test_rejects_bad_arguments(fuzzy_set):
    with pytest.raises(ValueError, match=r"`scores` must have shape \(300,\).*got shape \(3,\)"):
        tp.select(fuzzy_set, np.zeros(3), 0.5)
    with pytest.raises(ValueError, match=r"`scores` must be finite.*first in row 7"):
        tp.select(fuzzy_set, np.where(np.arange(300) == 7, np.nan, 0), 0.5)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\); got 90\. Pass 0.9 to remove 90 %"):
        tp.select(fuzzy_set, np.zeros(300), 90)
    with pytest.raises(ValueError, match="`beta` must be between -50 and 50; got beta=-51"):
        tp.select(fuzzy_set, np.zeros(300), 0.5, beta=-51)
    with pytest.raises(ValueError, match=r"`strata` must have shape \(300,\)"):
        tp.select(fuzzy_set, np.zeros(300), 0.5, strata=np.zeros(5, int))


def test_kmeans_strata_find_separate_groups(rng):
    centers = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    truth = rng.integers(0, 4, size=400)
    points = jnp.asarray(centers[truth] + 0.5 * rng.normal(size=(400, 2)), jnp.float32)
    codes = np.asarray(tp.kmeans_strata(points, 4, key=jax.random.key(0)))
    # Each group has one code and each code one group.
    assert len({(t, c) for t, c in zip(truth.tolist(), codes.tolist(), strict=True)}) == 4
    same = np.asarray(tp.kmeans_strata(jnp.ones((30, 2)), 5, key=jax.random.key(0)))
    assert same.min() >= 0
    assert same.max() < 5


def test_order_ends_and_is_a_permutation_even_with_nan(rng):
    """Weights that are NaN inside `jit`, where no check can see them, must not hang the loop."""
    points = rng.normal(size=(100, 3)).astype(np.float32)
    points[7, 1] = np.nan
    order = jax.jit(
        lambda x: (
            tp.select(
                tp.fuzzy_simplicial_set(tp.knn_graph(x, n_neighbors=5)), jnp.zeros(100), 0.5
            ).order
        )
    )(points)
    np.testing.assert_array_equal(np.sort(order), np.arange(100))
    with pytest.raises(ValueError, match="`beta` must be between -50 and 50; got beta=1e"):
        tp.rank(np.nan_to_num(points), 0.5, beta=1e39)


def test_only_the_ranks_of_scores_count(fuzzy_set):
    scores = np.arange(300)[::-1]
    plain = tp.select(fuzzy_set, scores, 0.5)
    for same in (scores * 1e200, 1e9 + scores, scores - 2**52):
        np.testing.assert_array_equal(tp.select(fuzzy_set, same, 0.5).order, plain.order)


def test_float64_under_strict_promotion(rng, x64):
    points = rng.normal(size=(120, 3))
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=5))
    for dtype in (np.float32, np.float64):
        selection = tp.select(fuzzy_set, rng.normal(size=120).astype(dtype), 0.5)
        np.testing.assert_array_equal(np.sort(selection.order), np.arange(120))
    start = rng.normal(size=(120, 2)).astype(np.float32)
    assert tp.embed(fuzzy_set, start=start, key=jax.random.key(0)).dtype == jnp.float64


@pytest.mark.slow
def test_rank_in_float64_under_strict_promotion(rng, x64):
    assert tp.rank(rng.normal(size=(120, 3)), 0.5).kept.shape == (60,)


def test_many_small_classes_come_first(rng):
    """One place each for 100 classes of two; the large class has the rest."""
    codes = np.concatenate([np.zeros(800, int), 1 + np.repeat(np.arange(100), 2)])
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(rng.normal(size=(1000, 4)), n_neighbors=5))
    kept = np.asarray(tp.select(fuzzy_set, rng.normal(size=1000), 0.8, labels=codes).kept)
    assert np.bincount(codes[kept]).tolist() == [100] + [1] * 100


# How strongly complex samples are avoided.


@pytest.fixture(scope="module")
def digits_manifold(digits):
    points, labels = digits[0][:600], digits[1][:600]
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, labels=labels))
    scores = np.asarray(tp.structural_complexity(points[:, :20], labels=labels, patch_size=8))
    return points, labels, fuzzy_set, scores


def nearest_kept_error(points, labels, kept):
    """scikit-learn's classifier by the nearest kept sample."""
    classifier = KNeighborsClassifier(n_neighbors=1).fit(points[kept], labels[kept])
    return np.mean(classifier.predict(points) != labels)


@pytest.mark.parametrize("tolerance", tiers([0.0, 0.1, 0.5, 2.0, 100.0], [0.1]))
def test_beta_is_where_a_parabola_has_risen_by_the_tolerance(digits_manifold, tolerance):
    points, labels, fuzzy_set, scores = digits_manifold
    errors = []
    for beta in (0.0, 4.0):
        pick = tp.select(fuzzy_set, scores, 0.9, labels=labels, beta=beta)
        errors.append(nearest_kept_error(points, labels, np.asarray(pick.kept)))
    assert errors[1] > 2 * errors[0]  # so that there is something to choose
    parabola = np.polynomial.Polynomial([errors[0], 0, (errors[1] - errors[0]) / 16])
    level = (parabola - (1 + tolerance) * errors[0]).roots().real.max()
    given = {"labels": labels, "strongest": 4.0, "tolerance": tolerance}
    beta = float(tp.choose_beta(points, fuzzy_set, scores, **given))
    assert beta == pytest.approx(min(4.0, level), rel=1e-5)
    traced = jax.jit(lambda points: tp.choose_beta(points, fuzzy_set, scores, **given))
    assert float(traced(points)) == pytest.approx(beta, rel=1e-6)
    # Neither scale nor place of the features matters.
    moved = points * 1e18 + 3e18
    assert float(tp.choose_beta(moved, fuzzy_set, scores, **given)) == beta


@pytest.mark.parametrize(
    ("least", "most", "tolerance", "share"),
    [
        (100, 105, 0.05, 1),
        (100, 120, 0.05, 0.5),
        (100, 110, 0.0, 0),
        (100, 90, 0.0, 1),  # complex samples stand for less
        (0, 8, 0.5, 0.25),  # one sample counts at least
        (0, 7, 0.0, 0),
        (0, 0, 0.0, 1),
    ],
)
def test_the_parabola_by_hand(least, most, tolerance, share):
    counts = np.float32(least), np.float32(most)
    traced = jax.jit(functools.partial(_beta._bearable_share, tolerance=tolerance))
    assert _beta._bearable_share(*counts, tolerance) == share
    assert traced(*counts) == share


def test_beta_of_known_points_and_traced_scores(digits_manifold):
    points, labels, fuzzy_set, scores = digits_manifold

    def find(scores, tolerance):
        given = {"strata": labels, "tolerance": tolerance, "strongest": 9.0}
        return tp.choose_beta(points, fuzzy_set, scores, **given)

    for tolerance in (0.0, 0.5, 100.0):
        traced = jax.jit(functools.partial(find, tolerance=tolerance))(jnp.asarray(scores))
        assert float(traced) == pytest.approx(float(find(scores, tolerance)), rel=1e-6)


def test_beta_is_measured_on_an_even_sample_of_many(monkeypatch, digits_manifold):
    points, labels, fuzzy_set, scores = digits_manifold
    find = functools.partial(tp.choose_beta, points, fuzzy_set, scores, labels=labels)
    seen, counts = [], []
    count = _beta._disagreement

    def counted(points, codes, kept, looked_at):
        seen.append(np.asarray(looked_at))
        counts.append(count(points, codes, kept, looked_at))
        return counts[-1]

    monkeypatch.setattr(_beta, "_disagreement", counted)
    find()
    monkeypatch.setattr(_beta, "_SAMPLES", 400)
    beta, (least, most) = float(find()), map(float, counts[2:])
    assert beta == pytest.approx(2 * np.sqrt(0.05 * least / (most - least)), rel=1e-5)
    assert [looked_at.size for looked_at in seen] == [600, 600, 400, 400]
    np.testing.assert_array_equal(seen[0], np.arange(600))
    assert seen[2][0] == 0
    assert set(np.diff(seen[2])) == {1, 2}
    assert seen[2][-1] >= 598


@pytest.mark.parametrize("numbers", [1, 1000, 1 << 20])
def test_disagreement_is_that_of_the_nearest_neighbor_classifier(digits, monkeypatch, numbers):
    """Whatever the tiles, of which the last may be padded."""
    points, labels = digits[0][:700], digits[1][:700].astype(np.int32)
    kept, looked_at = np.arange(3, 700, 9).astype(np.int32), np.arange(0, 699, 2).astype(np.int32)
    monkeypatch.setattr(_beta, "_TILE_NUMBERS", numbers)
    monkeypatch.setattr(_beta, "_LEAST_ROWS", 4)
    given = map(jnp.asarray, (points, labels, kept, looked_at))
    count = _beta._disagreement.__wrapped__(*given)
    classifier = KNeighborsClassifier(n_neighbors=1).fit(points[kept], labels[kept])
    differs = classifier.predict(points[looked_at]) != labels[looked_at]
    assert float(count) == differs.sum() > 10


def test_beta_needs_groups_and_the_features_of_the_fuzzy_set(digits_manifold):
    points, labels, fuzzy_set, scores = digits_manifold
    with pytest.raises(ValueError, match="`choose_beta` compares classes or strata; got neither"):
        tp.choose_beta(points, fuzzy_set, scores)
    with pytest.raises(ValueError, match="a row for each of the 600 samples of the fuzzy set"):
        tp.choose_beta(points[1:], fuzzy_set, scores, labels=labels)
    with pytest.raises(ValueError, match="`strongest` must be above 0; got 0"):
        tp.choose_beta(points, fuzzy_set, scores, labels=labels, strongest=0.0)
    with pytest.raises(ValueError, match="`tolerance` must be at least 0"):
        tp.choose_beta(points, fuzzy_set, scores, labels=labels, tolerance=-1.0)


# How far a sample is among its own class.


def test_class_agreement_against_the_dense_relation(fuzzy_set, rng):
    labels = rng.integers(0, 3, size=300)
    mu = dense(fuzzy_set) - np.eye(300)
    expected = (mu * (labels[:, None] == labels[None, :])).sum(axis=1) / mu.sum(axis=1)
    np.testing.assert_allclose(tp.class_agreement(fuzzy_set, labels), expected, atol=1e-6)
    np.testing.assert_array_equal(tp.class_agreement(fuzzy_set, np.zeros(300)), 1)
    np.testing.assert_array_equal(tp.class_agreement(fuzzy_set, np.arange(300)), 0)


@pytest.mark.parametrize("exponent", [0.02, 0.1, 0.3, 1.0, 5.0])
def test_power_leaves_about_half_of_the_weight(rng, exponent):
    """The largest of the powers that leaves .55, by a search in float64."""
    agreement = rng.uniform(size=2000) ** exponent
    power = float(tp.choose_agreement_power(agreement))
    powers = [4 * 2 ** (i / 4) for i in range(17)]
    fitting = [p for p in powers if np.mean(agreement**p) >= 0.55]
    assert power == pytest.approx(max(fitting, default=4), rel=1e-6)


def test_power_by_hand():
    """Half of the samples agree wholly: .5 + .5 a^g >= .55 where a^g >= .1."""
    assert float(tp.choose_agreement_power([1.0, 1.0, 0.0])) == 64
    assert float(tp.choose_agreement_power([0.0, 0.5])) == 4
    # .8^8 = .168 and .8^9.51 = .120 are above, .8^11.3 = .080 is below.
    assert float(tp.choose_agreement_power([1.0, 0.8])) == pytest.approx(8 * 2**0.25)


@pytest.mark.parametrize(("n", "power"), [(237, 4), (238, 4 * 2**0.25), (1000, 4 * 2**2.25)])
def test_power_is_a_fiftieth_of_the_mean_class(n, power):
    """At most: 238 / 50 = 4.76 admits 4.757, the second of the powers, and 237 / 50 does not."""
    labels = np.repeat(["a", "b"], [n // 2, 2 * n - n // 2])  # sizes that differ have one mean
    found = float(tp.choose_agreement_power(np.ones(2 * n), labels))
    assert found == pytest.approx(power, rel=1e-6)
    codes = jnp.asarray(np.unique(labels, return_inverse=True)[1] * 7 - 3)
    assert float(jax.jit(tp.choose_agreement_power)(jnp.ones(2 * n), codes)) == found
    assert float(tp.choose_agreement_power(np.ones(2 * n))) == 64


def test_weights_are_powers_of_the_agreement(rng):
    agreement = jnp.asarray([*np.ones(150), *rng.uniform(0.001, 1, size=100)], jnp.float32)
    for power in (0.0, 1.0, 4.0):
        weights = agreement_weights(agreement, jnp.float32(power))
        np.testing.assert_allclose(weights, agreement**power, rtol=1e-6)
    power = tp.choose_agreement_power(agreement)
    assert float(power) > 4
    weights = np.asarray(agreement_weights(agreement, power))
    expected = np.maximum(agreement**power, agreement**4 / 1000)
    assert (expected > agreement**power).any()  # those unclear have an order too
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    assert float(agreement_weights(jnp.zeros(1), power)[0]) > 0


def test_a_point_without_edges_agrees_with_itself():
    graph = tp.NeighborGraph(np.asarray([[1], [0], [-1]]), np.asarray([[1.0], [1.0], [np.inf]]))
    fuzzy_set = tp.fuzzy_simplicial_set(graph)
    assert tp.class_agreement(fuzzy_set, [0, 1, 0]).tolist() == [0, 0, 1]


def test_weights_decide_what_is_covered(fuzzy_set, rng):
    weights = rng.uniform(size=300)
    selection = tp.select(fuzzy_set, np.zeros(300), 0.5, weights=weights, beta=0.0)
    np.testing.assert_allclose(selection.weights, weights, rtol=1e-6)
    assert_greedy(dense(fuzzy_set), weights, np.asarray(selection.order))
    nothing = tp.select(fuzzy_set, np.zeros(300), 0.5, weights=np.zeros(300))
    np.testing.assert_array_equal(np.sort(nothing.order), np.arange(300))


def test_below_zero_beta_prefers_complex_samples(fuzzy_set, rng):
    scores = rng.normal(size=300)
    weights = np.asarray(tp.select(fuzzy_set, scores, 0.5, beta=-1.0).weights)
    ranks = np.argsort(np.argsort(scores)) / 300
    np.testing.assert_allclose(weights, np.exp(ranks), rtol=1e-5)
    complex_, simple = (
        scores[np.asarray(tp.select(fuzzy_set, scores, 0.9, beta=beta).kept)].mean()
        for beta in (-3.0, 3.0)
    )
    assert complex_ > simple


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_kept_by_strata_is_what_select_keeps(digits, monkeypatch, beta):
    points = jnp.asarray(digits[0][:600])
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    scores, strata = points.sum(axis=1), digits[1][:600]
    # Several calls, of which only the first are made.
    monkeypatch.setattr(_coverage, "_PICKS_PER_CALL", 50)
    kept = _select.kept_by_strata(fuzzy_set, scores, 0.9, strata=strata, beta=beta)
    expected = tp.select(fuzzy_set, scores, 0.9, strata=strata, beta=beta).kept
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("n_classes", tiers([1, 4], [4]))
@pytest.mark.parametrize("beta", tiers([-1.0, 0.0, 2.0], [-1.0, 2.0]))
def test_rounds_give_the_greedy_order(digits, monkeypatch, beta, n_classes):
    """That of an accelerator: every pick has the largest gain, and what is kept is the same."""
    points = jnp.asarray(digits[0][:500])
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    labels = None if n_classes == 1 else digits[1][:500] % n_classes
    one_by_one = tp.select(fuzzy_set, points.sum(axis=1), 0.8, labels=labels, beta=beta)
    monkeypatch.setattr(_backend, "is_cpu", lambda platform=None: False)
    in_rounds = tp.select(fuzzy_set, points.sum(axis=1), 0.8, labels=labels, beta=beta)
    assert set(in_rounds.kept.tolist()) == set(one_by_one.kept.tolist())
    codes = np.zeros(500, np.int32) if labels is None else labels
    order = _coverage.greedy_coverage(fuzzy_set, in_rounds.weights, jnp.asarray(codes))
    within = dense(fuzzy_set) * (codes[:, None] == codes[None])
    weights = np.asarray(in_rounds.weights, np.float64)
    assert_greedy(within, weights, np.asarray(order), unit=2.0**-26)


def test_rounds_by_hand_with_hubs_ties_and_nan(monkeypatch, rng):
    monkeypatch.setattr(_backend, "is_cpu", lambda platform=None: False)
    test_by_hand()
    test_one_sample()
    test_hubs_have_more_reverse_edges_than_one_chunk(rng)
    test_order_ends_and_is_a_permutation_even_with_nan(rng)


def test_rounds_end_with_the_picks_that_are_asked_for(digits, monkeypatch):
    points = jnp.asarray(digits[0][:600])
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    zeros = jnp.zeros(600, jnp.int32)
    calls = []
    monkeypatch.setattr(_coverage, "_ROUNDS_PER_CALL", 3)
    every = _coverage.greedy_in_rounds(
        fuzzy_set, jnp.ones(600), zeros, progress=lambda *call: calls.append(call)
    )
    assert calls[0] == ("selection", 0, 600)
    assert calls[-1] == ("selection", 600, 600)
    assert len(calls) > 4
    some = _coverage.greedy_in_rounds(fuzzy_set, jnp.ones(600), zeros, n_picks=60)
    np.testing.assert_array_equal(some[:60], every[:60])
    assert sorted(some.tolist()) == list(range(600))


WEIGHTS = {
    "huge": [1e38] * 200,
    "tiny": [1e-37] * 200,
    "infinite": [np.inf] * 200,
    "negative": [-1.0] * 200,
    "none": [0.0] * 200,
    "some": [0.0] * 150 + [1e30] * 30 + [1e-30] * 20,
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_rounds_end_whatever_the_weights(weights, rng):
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(rng.normal(size=(200, 3)), n_neighbors=5))
    codes = jnp.zeros(200, jnp.int32)
    order = jax.jit(_coverage.greedy_in_rounds)(fuzzy_set, jnp.asarray(weights), codes)
    assert sorted(order.tolist()) == list(range(200))
    if weights == WEIGHTS["none"]:
        assert order.tolist() == list(range(200))


@pytest.mark.slow
def test_rounds_end_where_the_ends_of_edges_disagree(rng):
    """Memberships that another program rounded otherwise at one end."""
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(rng.normal(size=(200, 3)), n_neighbors=5))
    shaken = fuzzy_set.memberships * (1 + 1e-6 * rng.normal(size=(200, 5)).astype(np.float32))
    fuzzy_set = eqx.tree_at(lambda s: s.memberships, fuzzy_set, shaken)
    order = _coverage.greedy_in_rounds(fuzzy_set, jnp.ones(200), jnp.zeros(200, jnp.int32))
    assert sorted(order.tolist()) == list(range(200))


@pytest.mark.slow
def test_rounds_in_float64_and_vmapped(rng, x64, monkeypatch):
    monkeypatch.setattr(_backend, "is_cpu", lambda platform=None: False)
    points = jnp.asarray(rng.normal(size=(3, 120, 5)))

    def kept(x):
        fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(x))
        assert fuzzy_set.memberships.dtype == jnp.float64
        return tp.select(fuzzy_set, x[:, 0], 0.5).kept

    several = jax.vmap(kept)(points)
    assert several.shape == (3, 60)
    for one, x in zip(several, points, strict=True):
        assert set(one.tolist()) == set(kept(x).tolist())
