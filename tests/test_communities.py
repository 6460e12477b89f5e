"""Communities: as many as there are, by an oracle, by hand, where there are none, and by laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import topoprune_jax as tp
from topoprune_jax._communities import _merged, _numbered

KEY = jax.random.key(0)


def dense(fuzzy_set):
    """The matrix of the memberships."""
    n = fuzzy_set.n_points
    i, j, mu = fuzzy_set.edges()
    matrix = np.zeros((n, n))
    matrix[i, j] = matrix[j, i] = mu
    return matrix


def of_points(points, k=15):
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=k))
    return fuzzy_set, tp.spectral_embedding(fuzzy_set, 8, by_component=True)


def blobs(rng, centers, n=100):
    """Rows of the blobs in turn, and which one each is of."""
    labels = np.arange(n * len(centers)) % len(centers)
    points = np.asarray(centers, float)[labels] + 0.5 * rng.normal(size=(len(labels), 4))
    return points.astype(np.float32), labels


def purity(groups, labels):
    own = [np.bincount(labels[groups == group]).max() for group in np.unique(groups)]
    return sum(own) / len(labels)


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


@pytest.fixture(scope="module")
def of_digits(digits):
    return of_points(digits[0] / np.linalg.norm(digits[0], axis=1, keepdims=True))


def test_modularity_by_hand():
    """Two pairs: all of the volume within, of which chance would put half there."""
    two = tp.fuzzy_simplicial_set(tp.knn_graph([[0.0], [1.0], [50.0], [51.0]], n_neighbors=1))
    assert float(tp.modularity(two, ["a", "a", "b", "b"])) == 0.5
    assert float(tp.modularity(two, [0, 0, 0, 0])) == 0
    assert float(tp.modularity(two, [0, 1, 2, 3])) == -0.25
    assert float(tp.modularity(two, [0, 1, 0, 1])) == -0.5


def test_modularity_is_a_sum_over_all_pairs(rng):
    points = rng.normal(size=(60, 3)).astype(np.float32)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=5))
    groups = rng.integers(0, 4, 60)
    matrix = dense(fuzzy_set)
    degree, volume = matrix.sum(axis=1), matrix.sum()
    excess = matrix / volume - np.outer(degree, degree) / volume**2
    expected = excess[groups[:, None] == groups[None, :]].sum()
    assert float(tp.modularity(fuzzy_set, groups)) == pytest.approx(expected, abs=1e-6)


def test_cells_are_merged_as_long_as_the_modularity_rises(rng):
    """Against trying all pairs of cells anew, with the modularity of what comes of each."""
    for n_cells in (2, 5, 9):
        contact = rng.uniform(size=(n_cells, n_cells)) * rng.integers(0, 2, (n_cells, n_cells))
        contact = (contact + contact.T) / 2 + np.diag(rng.uniform(size=n_cells))
        share = contact / contact.sum()

        def quality(into, share=share):
            same = into[:, None] == into[None, :]
            own = share.sum(axis=1)
            return (share - np.outer(own, own))[same].sum()

        into = np.arange(n_cells)
        while True:
            left = np.unique(into)
            pairs = [(i, j) for i in left for j in left if i < j]
            if not pairs:
                break
            best = max(pairs, key=lambda p: quality(np.where(into == p[1], p[0], into)))
            merged = np.where(into == best[1], best[0], into)
            if quality(merged) <= quality(into):
                break
            into = merged
        np.testing.assert_array_equal(_merged(jnp.asarray(contact, jnp.float32)), into)


def test_separate_blobs_are_found(rng):
    """Components whose coordinates lie upon each other, and single points away from all."""
    points, labels = blobs(rng, 30 * np.eye(4))
    fuzzy_set, z = of_points(points, k=5)
    parts = np.asarray(tp.connected_components(fuzzy_set))
    assert len(np.unique(parts)) == 4
    groups = np.asarray(tp.communities(fuzzy_set, z, key=KEY))
    # A community never reaches from one component into another.
    assert len(np.unique(np.stack([groups, parts]), axis=1).T) == len(np.unique(groups))
    assert purity(groups, labels) == 1
    with_far = np.concatenate([points, 500 + 400 * np.arange(8)[:, None] + np.zeros((8, 4))])
    far_set, far_z = of_points(with_far.astype(np.float32), k=5)
    groups = np.asarray(tp.communities(far_set, far_z, key=KEY))
    assert purity(groups[:400], labels) == 1


def test_touching_blobs_are_found(rng):
    points, labels = blobs(rng, 2.2 * np.eye(4))
    fuzzy_set, z = of_points(points)
    assert len(np.unique(tp.connected_components(fuzzy_set))) == 1
    groups = np.asarray(tp.communities(fuzzy_set, z, key=KEY))
    assert 4 <= len(np.unique(groups)) <= 6  # chance may divide one of so few
    assert purity(groups, labels) > 0.95


def test_digits_are_found(digits, of_digits):
    """As many as there are and a few more, better than k-means with as many centers."""
    groups = np.asarray(tp.communities(*of_digits, key=KEY))
    assert 10 <= len(np.unique(groups)) <= 16
    assert purity(groups, digits[1]) > 0.9
    other = tp.kmeans_strata(of_digits[1], len(np.unique(groups)), key=KEY)
    quality = [float(tp.modularity(of_digits[0], codes)) for codes in (groups, other)]
    assert quality[0] > max(0.86, quality[1])


def test_nobody_is_better_off_elsewhere(of_digits):
    """Hardly a sample has a community among its neighbors that step 3 would rather have it in."""
    fuzzy_set = of_digits[0]
    groups = np.asarray(tp.communities(*of_digits, key=KEY))
    degrees = np.asarray(fuzzy_set.degrees, float)
    share = np.bincount(groups, weights=degrees) / degrees.sum()
    mu, indices = np.asarray(fuzzy_set.memberships, float), np.asarray(fuzzy_set.indices)
    mu = mu / mu.sum(axis=1, keepdims=True)
    joined = np.stack([(mu * (groups[indices] == c)).sum(axis=1) for c in range(len(share))])
    gain = np.where(joined > 0, joined - share[:, None], -1)
    assert (gain.argmax(axis=0) != groups).mean() < 0.01


def test_coordinates_need_not_be_spectral(digits, of_digits):
    z = tp.embed(of_digits[0], tp.EmbeddingOptions(n_epochs=50), key=KEY)
    groups = np.asarray(tp.communities(of_digits[0], z, key=KEY))
    assert 9 <= len(np.unique(groups)) <= 16
    assert purity(groups, digits[1]) > 0.85


def test_the_order_of_the_samples_does_not_matter(digits):
    """Up to what the draw of the first cells makes of it."""
    order = np.argsort(digits[1], kind="stable")
    points = digits[0] / np.linalg.norm(digits[0], axis=1, keepdims=True)
    groups = np.asarray(tp.communities(*of_points(points[order]), key=KEY))
    assert purity(groups, digits[1][order]) > 0.9


def test_numbers_follow_the_first_samples():
    codes = jnp.asarray([3, 3, 0, 5, 0, 3], jnp.int32)
    assert _numbered(codes, 7).tolist() == [0, 0, 1, 2, 1, 0]


@pytest.mark.parametrize("n", [2, 3, 39, 40])
def test_few_samples_are_one_or_two(n, rng):
    points = rng.normal(size=(n, 3)).astype(np.float32)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=min(5, n - 1)))
    groups = np.asarray(tp.communities(fuzzy_set, points, key=KEY))
    assert groups.dtype == np.int32
    assert set(groups.tolist()) <= {0, 1}
    assert groups[0] == 0
    assert n >= 40 or not groups.any()


def test_equal_points_and_no_edges():
    """One community where nothing tells samples apart; no NaN where nothing joins them."""
    equal = np.zeros((100, 3), np.float32)
    groups = tp.communities(*of_points(equal), key=KEY)
    assert set(np.asarray(groups).tolist()) <= set(range(5))
    none = tp.NeighborGraph(np.full((60, 2), -1, np.int32), np.full((60, 2), np.inf, np.float32), 1)
    fuzzy_set = tp.fuzzy_simplicial_set(none)
    assert float(tp.modularity(fuzzy_set, np.zeros(60, int))) == 0
    groups = np.asarray(tp.communities(fuzzy_set, np.arange(120.0).reshape(60, 2), key=KEY))
    assert set(groups.tolist()) == set(range(len(np.unique(groups))))


def test_one_cell_is_one_community(of_digits):
    assert not np.asarray(tp.communities(*of_digits, n_cells=1, key=KEY)).any()


def test_a_sample_of_many_points_tells_the_centers(rng, monkeypatch):
    monkeypatch.setattr("topoprune_jax._communities._SAMPLE", 200)
    points, labels = blobs(rng, 2.2 * np.eye(4), n=101)
    fuzzy_set, z = of_points(points)
    groups = np.asarray(tp.communities(fuzzy_set, z, n_cells=15, key=KEY))
    assert 4 <= len(np.unique(groups)) <= 6  # chance may divide one of so few
    assert purity(groups, labels) > 0.95
