"""Memberships against umap-learn's on the same neighbors, by hand, and on degenerate graphs."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax._fuzzy import _bisect, _bisect_in_tiles
from topoprune_jax._least import stable_order


def dense(fuzzy_set):
    i, j, mu = fuzzy_set.edges()
    n = fuzzy_set.n_points
    matrix = scipy.sparse.coo_matrix((mu, (i, j)), shape=(n, n)).toarray()
    return matrix + matrix.T


def umap_learn_labeled(graph, labels, target_weight):
    """umap-learn's graph as `UMAP(target_weight=...).fit(X, labels)` makes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import discrete_metric_simplicial_set_intersection

        far = 2.5 / (1 - target_weight) if target_weight < 1 else 1e12
        return discrete_metric_simplicial_set_intersection(
            umap_learn(graph)[0], labels, far_dist=far
        ).toarray()


def umap_learn(graph, local_connectivity=1.0, set_op_mix_ratio=1.0):
    """umap-learn's graph; its arrays have the point itself in column 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import fuzzy_simplicial_set

        n, k = graph.indices.shape
        indices = np.concatenate([np.arange(n)[:, None], graph.indices], axis=1)
        distances = np.concatenate([np.zeros((n, 1), np.float32), graph.distances], axis=1)
        return fuzzy_simplicial_set(
            np.zeros((n, 2), np.float32),
            k + 1,
            np.random.RandomState(0),
            "euclidean",
            knn_indices=indices,
            knn_dists=distances.astype(np.float32),
            local_connectivity=local_connectivity,
            set_op_mix_ratio=set_op_mix_ratio,
        )


@pytest.mark.parametrize(
    ("local_connectivity", "mix"),
    tiers(
        [(1.0, 1.0), (1.5, 1.0), (2.0, 0.5), (0.0, 1.0), (1.0, 0.0)],
        [(1.0, 1.0), (1.5, 1.0), (2.0, 0.5)],
        several=True,
    ),
)
def test_equals_umap_learn_on_digits(digits, local_connectivity, mix):
    graph = tp.knn_graph(digits[0])
    ours = tp.fuzzy_simplicial_set(
        graph, local_connectivity=local_connectivity, set_op_mix_ratio=mix
    )
    theirs, sigma, rho = umap_learn(graph, local_connectivity, mix)
    np.testing.assert_allclose(dense(ours), theirs.toarray(), atol=1e-5)
    assert ((dense(ours) > 0) == (theirs.toarray() > 0)).all()
    np.testing.assert_allclose(ours.rho, rho, rtol=1e-6)
    np.testing.assert_allclose(ours.sigma, sigma, rtol=1e-4)
    np.testing.assert_allclose(ours.degrees, np.asarray(theirs.sum(axis=1)).ravel(), rtol=1e-5)


def test_equals_umap_learn_with_duplicates(rng):
    points = np.repeat(rng.normal(size=(40, 3)), 20, axis=0)
    points[:200] += rng.normal(size=(200, 3))
    for n_neighbors in (10, 30):
        graph = tp.knn_graph(points, n_neighbors=n_neighbors)
        ours, theirs = tp.fuzzy_simplicial_set(graph), umap_learn(graph)[0]
        np.testing.assert_allclose(dense(ours), theirs.toarray(), atol=1e-5)


def test_by_hand():
    """Three points on a line: sigma solves 1 + exp(-1 / sigma) = log2 3 at both ends."""
    graph = tp.knn_graph([[0.0], [1.0], [3.0]], n_neighbors=2)
    fuzzy_set = tp.fuzzy_simplicial_set(graph)
    p = np.log2(3) - 1
    np.testing.assert_allclose(fuzzy_set.rho, [1, 1, 2])
    np.testing.assert_allclose(
        fuzzy_set.sigma, [-2 / np.log(p), -1 / np.log(p), -1 / np.log(p)], rtol=1e-4
    )
    # 0 and 2 see each other at p, so their union is 2 p - p^2; the other edges have a full view.
    expected = [[0, 1, 2 * p - p * p], [1, 0, 1], [2 * p - p * p, 1, 0]]
    np.testing.assert_allclose(dense(fuzzy_set), expected, atol=1e-5)


def test_every_edge_is_found_from_both_ends(digits):
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(digits[0], n_neighbors=7))
    n, matrix = fuzzy_set.n_points, dense(fuzzy_set)
    offsets = np.asarray(fuzzy_set.reverse_offsets)
    seen = np.zeros((n, n))
    for i in range(n):
        seen[i, fuzzy_set.indices[i]] = fuzzy_set.memberships[i]
        part = slice(offsets[i], offsets[i + 1])
        assert (seen[i, fuzzy_set.reverse_indices[part]] == 0).all()
        seen[i, fuzzy_set.reverse_indices[part]] = fuzzy_set.reverse_memberships[part]
    np.testing.assert_array_equal(seen, matrix)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert (np.asarray(fuzzy_set.reverse_indices[offsets[-1] :]) == -1).all()


def assert_symmetric_from_both_ends(fuzzy_set):
    n, matrix = fuzzy_set.n_points, dense(fuzzy_set)
    seen = np.zeros((n, n))
    offsets = np.asarray(fuzzy_set.reverse_offsets)
    for i in range(n):
        part = slice(offsets[i], offsets[i + 1])
        seen[i, fuzzy_set.reverse_indices[part]] = fuzzy_set.reverse_memberships[part]
        used = np.asarray(fuzzy_set.indices[i]) >= 0
        seen[i, fuzzy_set.indices[i][used]] = fuzzy_set.memberships[i][used]
    np.testing.assert_array_equal(seen, matrix)
    np.testing.assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize(
    "target_weight", [pytest.param(w, marks=pytest.mark.slow) for w in (0.0, 0.9, 1.0)] + [0.5]
)
@pytest.mark.parametrize("unlabeled", tiers([0.0, 0.7, 1.0], [0.7]))
def test_labels_equal_umap_learn_on_digits(digits, rng, target_weight, unlabeled):
    points, labels = digits[0][:500], digits[1][:500]
    labels = np.where(rng.random(len(labels)) < unlabeled, -1, labels)
    graph = tp.knn_graph(points)
    ours = tp.fuzzy_simplicial_set(graph, labels=labels, target_weight=target_weight)
    theirs = umap_learn_labeled(graph, labels, target_weight)
    np.testing.assert_allclose(dense(ours), theirs, atol=1e-5)
    np.testing.assert_array_equal(dense(ours) > 0, theirs > 0)
    np.testing.assert_allclose(ours.degrees, theirs.sum(axis=1), rtol=1e-5)
    assert_symmetric_from_both_ends(ours)


@pytest.mark.slow
def test_labels_equal_umap_learn_in_fit(digits):
    """The whole of umap-learn's `fit`, so that the oracle above is what it really does."""
    points, labels = digits[0][:300], np.where(np.arange(300) % 3 == 0, -1, digits[1][:300])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        theirs = UMAP(n_neighbors=16, transform_mode="graph", target_weight=0.7).fit(points, labels)
    ours = tp.fuzzy_simplicial_set(tp.knn_graph(points), labels=labels, target_weight=0.7)
    np.testing.assert_allclose(dense(ours), theirs.graph_.toarray(), atol=1e-5)


def test_labels_by_hand():
    """On the line 0, 1, 3 with p = log2 3 - 1 and q = 2 p - p^2, mu is 1, q, 1 (see above)."""
    graph = tp.knn_graph([[0.0], [1.0], [3.0]], n_neighbors=2)
    p = np.log2(3) - 1
    q = 2 * p - p * p
    far, unknown = np.exp(-5), np.exp(-1)
    between = dense(tp.fuzzy_simplicial_set(graph, labels=[0, 0, 1]))
    # Point 2 knows only far points: its greatest membership, far, becomes 1.
    np.testing.assert_allclose(between[0, 1], 1, rtol=1e-6)
    np.testing.assert_allclose(between[1, 2], 1, rtol=1e-6)
    np.testing.assert_allclose(between[0, 2], q + q * far - q * q * far, rtol=1e-4)
    half = dense(tp.fuzzy_simplicial_set(graph, labels=np.asarray([0, -1, 1])))
    # nu_01 = nu_12 = unknown and nu_02 = q far; every point's greatest is unknown.
    r = q * far / unknown
    np.testing.assert_allclose(
        half, [[0, 1, 2 * r - r * r], [1, 0, 1], [2 * r - r * r, 1, 0]], 1e-4
    )


def test_labels_that_say_nothing_only_reset(digits):
    graph = tp.knn_graph(digits[0][:200], n_neighbors=6)
    plain = dense(tp.fuzzy_simplicial_set(graph))
    view = plain / plain.max(axis=1, keepdims=True)
    for labels in (np.full(200, -1), np.full(200, 3), np.full(200, "cat"), np.full(200, -1.0)):
        fuzzy_set = tp.fuzzy_simplicial_set(graph, labels=labels, target_weight=0.9)
        np.testing.assert_allclose(dense(fuzzy_set), view + view.T - view * view.T, atol=1e-6)


def test_names_of_classes_do_not_matter(digits):
    graph = tp.knn_graph(digits[0][:200], n_neighbors=6)
    labels = digits[1][:200]
    one = tp.fuzzy_simplicial_set(graph, labels=labels)
    for other in (labels.astype(str), labels + 5, labels.astype(np.float32), -2 - labels):
        renamed = tp.fuzzy_simplicial_set(graph, labels=other)
        np.testing.assert_array_equal(one.memberships, renamed.memberships)


def test_labels_with_empty_slots_and_isolated_points():
    graph = tp.NeighborGraph(
        jnp.asarray([[1, 2], [0, -1], [-1, -1], [-1, -1]]),
        jnp.asarray([[1.0, 2.0], [1.0, jnp.inf], [jnp.inf, jnp.inf], [jnp.inf, jnp.inf]]),
    )
    fuzzy_set = tp.fuzzy_simplicial_set(graph, labels=[0, 0, 1, 1], target_weight=1.0)
    assert [edge.tolist() for edge in fuzzy_set.edges()] == [[0], [1], [1.0]]
    fuzzy_set = tp.fuzzy_simplicial_set(graph, labels=[0, 0, 1, 1], target_weight=0.9)
    assert_symmetric_from_both_ends(fuzzy_set)
    np.testing.assert_allclose(dense(fuzzy_set)[0, 2], 1)  # all that point 2 has
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(fuzzy_set))


def test_labels_under_jit_and_vmap(rng):
    points = jnp.asarray(rng.normal(size=(3, 60, 4)).astype(np.float32))
    labels = jnp.asarray(rng.integers(-1, 3, size=(3, 60)))
    graphs = jax.vmap(lambda x: tp.knn_graph(x, n_neighbors=5))(points)
    batch = jax.jit(jax.vmap(lambda g, y: tp.fuzzy_simplicial_set(g, labels=y)))(graphs, labels)
    one = tp.fuzzy_simplicial_set(tp.knn_graph(points[1], n_neighbors=5), labels=labels[1])
    np.testing.assert_allclose(batch.memberships[1], one.memberships, atol=1e-6)
    np.testing.assert_allclose(batch.reverse_memberships[1], one.reverse_memberships, atol=1e-6)
    with pytest.raises(ValueError, match=r"`labels` must have shape \(60,\).* got shape \(3, 60\)"):
        jax.jit(lambda y: tp.fuzzy_simplicial_set(jax.tree.map(lambda a: a[0], graphs), labels=y))(
            labels
        )


def test_empty_slots_make_no_edges():
    graph = tp.NeighborGraph(
        jnp.asarray([[1, 2], [0, -1], [-1, -1], [-1, -1]]),
        jnp.asarray([[1.0, 2.0], [1.0, jnp.inf], [jnp.inf, jnp.inf], [jnp.inf, jnp.inf]]),
    )
    fuzzy_set = tp.fuzzy_simplicial_set(graph)
    matrix = dense(fuzzy_set)
    assert matrix[0, 1] == 1
    assert 0 < matrix[2, 0] < 1
    assert matrix[3].sum() == 0
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(fuzzy_set))


def test_all_points_equal_are_all_at_membership_1():
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(np.ones((30, 2)), n_neighbors=5))
    assert set(fuzzy_set.edges()[2].tolist()) == {1.0}


@pytest.mark.parametrize("scale", [2.0**90, 2.0**-90])
def test_scale_changes_no_membership(rng, scale):
    points = rng.normal(size=(200, 5)).astype(np.float32)
    one = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    other = tp.fuzzy_simplicial_set(tp.knn_graph(points * np.float32(scale)))
    np.testing.assert_array_equal(one.memberships, other.memberships)


def test_permutation_permutes_the_set(rng):
    points = rng.normal(size=(300, 6)).astype(np.float32)
    order = rng.permutation(300)
    matrix = dense(tp.fuzzy_simplicial_set(tp.knn_graph(points)))
    permuted = dense(tp.fuzzy_simplicial_set(tp.knn_graph(points[order])))
    np.testing.assert_allclose(permuted, matrix[np.ix_(order, order)], atol=1e-6)


def test_under_jit_and_vmap(rng):
    points = jnp.asarray(rng.normal(size=(3, 60, 4)).astype(np.float32))
    graphs = jax.vmap(lambda x: tp.knn_graph(x, n_neighbors=5))(points)
    batch = jax.jit(jax.vmap(tp.fuzzy_simplicial_set))(graphs)
    one = tp.fuzzy_simplicial_set(tp.knn_graph(points[1], n_neighbors=5))
    np.testing.assert_allclose(batch.memberships[1], one.memberships, atol=1e-6)
    np.testing.assert_array_equal(batch.reverse_indices[1], one.reverse_indices)


def test_rejects_bad_graphs(rng):
    good = tp.knn_graph(rng.normal(size=(20, 2)), n_neighbors=3)
    with pytest.raises(ValueError, match=r"between 0 and 19.*got 0 to 20"):
        tp.fuzzy_simplicial_set(tp.NeighborGraph(good.indices.at[0, 0].set(20), good.distances))
    with pytest.raises(ValueError, match="lists point 4 as its own neighbor"):
        tp.fuzzy_simplicial_set(tp.NeighborGraph(good.indices.at[4, 0].set(4), good.distances))
    with pytest.raises(ValueError, match="finite and not negative"):
        tp.fuzzy_simplicial_set(
            tp.NeighborGraph(good.indices, good.distances.at[0, 0].set(jnp.nan))
        )
    with pytest.raises(ValueError, match=r"`target_weight` must be between 0 and 1; got .*=1.5"):
        tp.fuzzy_simplicial_set(good, labels=np.zeros(20, int), target_weight=1.5)
    with pytest.raises(ValueError, match=r"`labels` must have shape \(20,\)"):
        tp.fuzzy_simplicial_set(good, labels=np.zeros(19, int))
    with pytest.raises(ValueError, match=r"`local_connectivity` must be between 0 and 3; got .*=4"):
        tp.fuzzy_simplicial_set(good, local_connectivity=4.0)
    with pytest.raises(ValueError, match=r"`set_op_mix_ratio` must be between 0 and 1; got .*=2"):
        tp.fuzzy_simplicial_set(good, set_op_mix_ratio=2)


@pytest.mark.parametrize(
    ("size", "highest"),
    [
        (1, 0),
        (2, 5),
        (3000, 40),
        # With 17 bits for the position, 21 bits of value take two digits.
        (70_000, 1 << 20),
        # So do 16 and 17, but there are more values than they differ in, and they are counted.
        (70_000, 65_535),
        (70_000, 69_999),
        (70_657, 69_999),  # the last of the tiles is not full
        pytest.param(5_000_000, 1 << 22, marks=pytest.mark.slow),  # nor has room for 2048
    ],
)
def test_reverse_edges_are_in_stable_order(size, highest):
    values = np.random.default_rng(0).integers(0, highest + 1, size).astype(np.int32)
    order = stable_order(jnp.asarray(values), highest)
    np.testing.assert_array_equal(order, np.argsort(values, kind="stable"))


def test_bandwidths_are_those_of_every_point_alone(rng):
    """Whatever is sought beside them: in tiles as a CPU does, the last of them not full, and at
    once as an accelerator does."""
    distances = np.sort(rng.gamma(2.0, size=(9, 2500)).astype(np.float32), axis=0)
    present = np.ones(distances.shape, bool)
    present[4:, ::3] = False
    excess = np.where(present, distances - distances[:1], 0)
    target = np.log2(present.sum(axis=0) + 1).astype(np.float32)
    at_once = _bisect(*map(jnp.asarray, (excess, present, target)))
    in_tiles = _bisect_in_tiles(*map(jnp.asarray, (excess, present, target)))
    np.testing.assert_allclose(in_tiles, at_once, rtol=1e-5)
    views = np.where(present, np.exp(-excess / np.asarray(in_tiles, np.float64)), 0)
    np.testing.assert_allclose(views.sum(axis=0), target, atol=2e-5)
