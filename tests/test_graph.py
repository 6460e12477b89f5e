"""Exact neighbors against brute force, cases by hand, degenerate sets, and the laws of a metric."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import pairwise_distances

import topoprune_jax as tp
from topoprune_jax import _graph


def brute_force(points, k, metric="euclidean", labels=None):
    """Indices and distances by a full sort in float64, ties by index."""
    distances = pairwise_distances(np.asarray(points, np.float64), metric=metric)
    np.fill_diagonal(distances, np.inf)
    if labels is not None:
        distances[labels[:, None] != labels[None, :]] = np.inf
    indices = np.argsort(distances, axis=1, kind="stable")[:, :k]
    distances = np.take_along_axis(distances, indices, axis=1)
    return np.where(np.isinf(distances), -1, indices), distances


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("n", "d", "k"), [(700, 16, 15), (300, 2, 40), (257, 1, 5), (40, 300, 39)])
def test_equals_brute_force(rng, n, d, k, metric):
    if metric == "cosine" and d == 1:
        pytest.skip("one column has only two directions: all distances tie")
    points = rng.normal(size=(n, d)).astype(np.float32)
    graph = tp.knn_graph(points, n_neighbors=k, metric=metric)
    indices, distances = brute_force(points, k, metric)
    # Two neighbors may change places where their distances differ by rounding only.
    gap = np.minimum(np.diff(distances, prepend=-1), np.diff(distances, append=3 * distances.max()))
    clear = gap > 1e-6
    assert clear.mean() > 0.98
    np.testing.assert_array_equal(np.asarray(graph.indices)[clear], indices[clear])
    np.testing.assert_allclose(graph.distances, distances, rtol=1e-5, atol=1e-6)


def test_equals_brute_force_on_digits(digits):
    points, labels = digits
    graph = tp.knn_graph(points, n_neighbors=15)
    indices, distances = brute_force(points, 15)
    np.testing.assert_allclose(graph.distances, distances, rtol=1e-6)
    # Pixels are whole numbers, so distances tie; ties go to the lower index.
    np.testing.assert_array_equal(graph.indices, indices)
    within = tp.knn_graph(points, n_neighbors=15, labels=labels)
    np.testing.assert_array_equal(within.indices, brute_force(points, 15, labels=labels)[0])


def test_several_blocks_of_columns_give_the_same_graph(rng, monkeypatch):
    points = rng.normal(size=(900, 5)).astype(np.float32)
    whole = tp.knn_graph(points, n_neighbors=12)
    monkeypatch.setattr(_graph, "_COLUMNS", 256)
    monkeypatch.setattr(_graph, "_CHUNK_FLOPS", 1.0)
    parts = tp.knn_graph(points, n_neighbors=12)
    np.testing.assert_array_equal(whole.indices, parts.indices)
    np.testing.assert_array_equal(whole.distances, parts.distances)


def test_labels_restrict_neighbors_and_leave_empty_slots(rng):
    points = rng.normal(size=(600, 4)).astype(np.float32)
    labels = rng.choice([0, 1, 2, 3], size=600, p=[0.6, 0.3, 0.095, 0.005])
    labels[:2] = [7, 3]  # a class of one sample
    graph = tp.knn_graph(points, n_neighbors=10, labels=labels)
    indices, distances = brute_force(points, 10, labels=labels)
    np.testing.assert_array_equal(graph.indices, indices)
    np.testing.assert_allclose(graph.distances, distances, rtol=1e-5, atol=1e-6)
    assert (np.asarray(graph.indices[0]) == -1).all()
    assert np.isinf(graph.distances[0]).all()
    named = tp.knn_graph(points, n_neighbors=10, labels=labels.astype(str))
    np.testing.assert_array_equal(graph.indices, named.indices)


def test_by_hand():
    graph = tp.knn_graph([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]], n_neighbors=2)
    assert graph.indices.tolist() == [[2, 1], [2, 0], [0, 1]]
    np.testing.assert_allclose(graph.distances, [[1, 5], [18**0.5, 5], [1, 18**0.5]], rtol=1e-6)
    cosine = tp.knn_graph([[1, 0], [0, 2], [-3, 0]], n_neighbors=2, metric="cosine")
    assert cosine.indices.tolist() == [[1, 2], [0, 2], [1, 0]]
    np.testing.assert_allclose(cosine.distances, [[1, 2], [1, 1], [1, 2]], rtol=1e-6)


def test_zero_rows_under_cosine():
    graph = tp.knn_graph([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]], n_neighbors=2, metric="cosine")
    assert graph.indices.tolist() == [[2, 1], [0, 2], [0, 1]]
    np.testing.assert_allclose(graph.distances, [[0, 1], [1, 1], [0, 1]], atol=1e-6)


def test_duplicates_are_at_distance_0_and_ordered_by_index(rng):
    points = np.repeat(rng.normal(size=(30, 8)), 6, axis=0).astype(np.float32)
    graph = tp.knn_graph(points, n_neighbors=5)
    assert (np.asarray(graph.distances) == 0).all()
    np.testing.assert_array_equal(
        graph.indices, brute_force(np.repeat(np.arange(30), 6)[:, None], 5)[0]
    )


def test_all_points_equal():
    graph = tp.knn_graph(np.full((50, 3), 7.0), n_neighbors=4)
    assert (np.asarray(graph.distances) == 0).all()
    assert (np.asarray(graph.indices) != np.arange(50)[:, None]).all()


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_extreme_scales(rng, scale):
    points = rng.normal(size=(100, 6)).astype(np.float32)
    graph = tp.knn_graph(points, n_neighbors=7)
    scaled = tp.knn_graph((points * scale).astype(np.float32), n_neighbors=7)
    np.testing.assert_array_equal(graph.indices, scaled.indices)
    np.testing.assert_allclose(np.asarray(scaled.distances) / scale, graph.distances, rtol=1e-5)


def test_far_from_the_origin(rng):
    points = rng.normal(size=(200, 3)).astype(np.float32) + np.float32(1000)
    indices, distances = brute_force(points, 5)
    graph = tp.knn_graph(points, n_neighbors=5)
    np.testing.assert_array_equal(graph.indices, indices)
    np.testing.assert_allclose(graph.distances, distances, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "uint16"])
def test_dtypes(rng, dtype):
    points = rng.integers(0, 100, size=(50, 4))
    graph = tp.knn_graph(points.astype(jnp.dtype(dtype)), n_neighbors=3)
    np.testing.assert_array_equal(graph.indices, brute_force(points, 3)[0])
    assert graph.distances.dtype == jnp.float32


def test_float64_is_kept(rng, x64):
    points = rng.normal(size=(80, 4))
    graph = tp.knn_graph(points, n_neighbors=5)
    assert graph.distances.dtype == jnp.float64
    np.testing.assert_allclose(graph.distances, brute_force(points, 5)[1], rtol=1e-14)


def test_permutation_permutes_the_graph(rng):
    points = rng.normal(size=(300, 6)).astype(np.float32)
    order = rng.permutation(300)
    graph = tp.knn_graph(points, n_neighbors=8)
    permuted = tp.knn_graph(points[order], n_neighbors=8)
    np.testing.assert_array_equal(order[np.asarray(permuted.indices)], graph.indices[order])
    np.testing.assert_array_equal(permuted.distances, graph.distances[order])


def test_under_jit_and_vmap(rng):
    points = jnp.asarray(rng.normal(size=(3, 60, 4)).astype(np.float32))
    labels = jnp.asarray(rng.integers(0, 3, size=60))
    batch = jax.vmap(lambda x: tp.knn_graph(x, n_neighbors=5))(points)
    jitted = jax.jit(lambda x: tp.knn_graph(x, n_neighbors=5, labels=labels))(points[0])
    for i in range(3):
        one = tp.knn_graph(points[i], n_neighbors=5)
        np.testing.assert_array_equal(batch.indices[i], one.indices)
    within = tp.knn_graph(points[0], n_neighbors=5, labels=labels)
    np.testing.assert_array_equal(jitted.indices, within.indices)


def test_memory_has_no_n_by_n_array():
    """No buffer of the compiled search grows with n squared."""
    n = 40_000
    table = jax.eval_shape(
        lambda x: _graph._prepare(x, None, metric="euclidean", n_rows=40_192),
        jax.ShapeDtypeStruct((n, 8), jnp.float32),
    )
    search = _graph._search.lower(table, 0, k=15, n_tiles=157, block=40_064, by_class=False)
    assert search.compile().memory_analysis().temp_size_in_bytes < n * n * 4 / 20


@pytest.mark.parametrize("n_neighbors", [0, -1, 10, 99])
def test_rejects_n_neighbors_out_of_range(rng, n_neighbors):
    with pytest.raises(
        ValueError, match=f"`n_neighbors` must be between 1 and 9; got .*{n_neighbors}"
    ):
        tp.knn_graph(rng.normal(size=(10, 2)), n_neighbors=n_neighbors)


def test_rejects_other_arguments(rng):
    points = rng.normal(size=(20, 2))
    with pytest.raises(ValueError, match="`metric` must be 'euclidean' or 'cosine'; got 'taxi'"):
        tp.knn_graph(points, metric="taxi")
    with pytest.raises(ValueError, match=r"`labels` must have shape \(20,\).*got shape \(19,\)"):
        tp.knn_graph(points, labels=np.zeros(19, int))
    with pytest.raises(ValueError, match="at least 2 rows"):
        tp.knn_graph(points[:1])
