"""Exact neighbors against brute force, cases by hand, degenerate sets, and the laws of a metric."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import pairwise_distances
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import _graph, _graph_exact, _graph_search


def brute_force(points, k, metric="euclidean", labels=None):
    """Indices and distances by a full sort in float64, ties by index."""
    points = np.asarray(points, np.float64)
    if metric == "inner_product":
        products = points @ points.T
        distances = products.diagonal().max() - products
    elif metric == "differences":
        distances = np.stack([np.sqrt(((points - x) ** 2).sum(axis=1)) for x in points])
    else:
        distances = pairwise_distances(points, metric=metric)
    np.fill_diagonal(distances, np.inf)
    if labels is not None:
        distances[labels[:, None] != labels[None, :]] = np.inf
    indices = np.argsort(distances, axis=1, kind="stable")[:, :k]
    distances = np.take_along_axis(distances, indices, axis=1)
    return np.where(np.isinf(distances), -1, indices), distances


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
@pytest.mark.parametrize(
    ("n", "d", "k"),
    tiers(
        [(700, 16, 15), (300, 2, 40), (257, 1, 5), (40, 300, 39)],
        [(700, 16, 15), (40, 300, 39)],
        several=True,
    ),
)
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


@pytest.mark.parametrize(
    "shape", tiers([(256, 256), (256, 512), (64, 1100)], [(256, 256), (64, 1100)])
)
def test_several_blocks_of_columns_give_the_same_graph(rng, monkeypatch, shape):
    """The last shape is that of few queries and all columns."""
    points = rng.normal(size=(1100, 5)).astype(np.float32)
    whole = tp.knn_graph(points, n_neighbors=12)
    monkeypatch.setattr(_graph_exact, "CHUNK_FLOPS", 1.0)
    rows, columns = shape
    monkeypatch.setattr(_graph_exact, "FEW_ROWS", 64 if rows == 64 else 10**6)
    tile_bytes = 4 * rows * columns
    assert _graph_exact.tile_of(1100, None, tile_bytes) == shape
    parts = _graph.nearest_neighbors(jnp.asarray(points), 12, tile_bytes=tile_bytes)
    np.testing.assert_array_equal(whole.indices, parts.indices)
    np.testing.assert_array_equal(whole.distances, parts.distances)


@pytest.mark.parametrize(
    ("n", "shape"), [(8192, (256, 8192)), (8193, (64, 8193)), (65_536, (64, 65_536))]
)
def test_few_queries_are_compared_with_all_points_where_these_fit(n, shape):
    assert _graph_exact.tile_of(n, None) == shape
    codes = jnp.zeros(n, jnp.int32)
    assert _graph_exact.tile_of(n, codes) == (256, _graph_exact.block_size(n, codes))
    assert _graph_exact.tile_of(65_537, None)[0] == 256


def test_more_is_proven_at_once_where_tight_clusters_have_few_axes(rng, monkeypatch):
    """Far from the center distances within a cluster are small beside the rounding of products."""
    centers = 3 * rng.normal(size=(4, 8))[np.arange(2000) % 4]
    points = jnp.asarray(centers + 0.02 * rng.normal(size=(2000, 8)), jnp.float32)
    monkeypatch.setattr(
        _graph_exact, "settle", lambda table, rows, found, distances, proven, *_, **__: (~proven,)
    )

    def doubtful():
        _graph_exact.search.clear_cache()
        search = _graph_search.ExactSearch(points, 15, "euclidean", None)
        return sum(int(search.part(i)[0].sum()) for i in range(search.calls))

    few = doubtful()
    monkeypatch.setattr(_graph_exact, "_SPARE_OF_FEW_AXES", _graph_exact.SPARE)
    many = doubtful()
    monkeypatch.undo()
    _graph_exact.search.clear_cache()
    assert 3 * few < many


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


@pytest.mark.parametrize("metric", _graph._METRICS)
def test_more_duplicates_than_candidates_tie_by_index(rng, metric):
    points = rng.normal(size=(400, 8)).astype(np.float32)
    points[100:350:5] = 4  # 50 copies, each other's nearest under any of the metrics
    copies = np.arange(100, 350, 5)
    graph = tp.knn_graph(points, n_neighbors=15, metric=metric)
    np.testing.assert_allclose(graph.distances[copies], 0, atol=1e-6)
    if metric == "euclidean":
        assert (np.asarray(graph.distances[copies]) == 0).all()
    for i in copies:
        assert graph.indices[i].tolist() == [j for j in copies.tolist() if j != i][:15]


def clusters(rng, n_clusters, spread, n=3000, d=64):
    """Tight clusters on the unit sphere."""
    centers = rng.normal(size=(n_clusters, d))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    return (centers[np.arange(n) % n_clusters] + spread * rng.normal(size=(n, d))).astype("float32")


@pytest.mark.parametrize(
    ("n_clusters", "spread", "n"),
    [
        pytest.param(30, 1e-4, 3000, marks=pytest.mark.slow),
        (30, 1e-5, 600),
        (3, 1e-4, 600),
        (3, 1e-6, 600),
    ],
)
def test_rounding_loses_no_neighbor_in_tight_clusters(rng, n_clusters, spread, n):
    """The matrix product alone finds 57 % of the neighbors in the first case, 2 % in the last."""
    points = clusters(rng, n_clusters, spread, n)
    # Neighbors in other clusters would be tied within the rounding of float32.
    k = min(15, n // n_clusters - 1)
    graph = tp.knn_graph(points, n_neighbors=k)
    indices, distances = brute_force(points, k, "differences")
    np.testing.assert_allclose(graph.distances, distances, rtol=1e-6)
    np.testing.assert_array_equal(np.sort(graph.indices), np.sort(indices))
    labels = rng.integers(0, 2, size=n)
    within = tp.knn_graph(points, n_neighbors=4, labels=labels)
    expected = brute_force(points, 4, "differences", labels=labels)
    np.testing.assert_allclose(within.distances, expected[1], rtol=1e-6)


def test_one_far_outlier_costs_no_precision(rng):
    points = rng.normal(size=(500, 8)).astype(np.float32)
    points[17] = 1e7
    indices, distances = brute_force(points, 10, "differences")
    graph = tp.knn_graph(points, n_neighbors=10)
    np.testing.assert_array_equal(np.delete(graph.indices, 17, 0), np.delete(indices, 17, 0))
    np.testing.assert_allclose(graph.distances, distances, rtol=1e-6)


def test_ordinary_points_are_proven_by_the_first_scan(rng, monkeypatch):
    """The second scan is for hard data; it must not run on data like any other."""
    seen = []
    settle = _graph_exact.settle

    def spy(table, rows, points, distances, proven, nearest, longest, *, metric):
        jax.debug.callback(lambda proven: seen.append(int((~proven).sum())), proven)
        return settle(table, rows, points, distances, proven, nearest, longest, metric=metric)

    monkeypatch.setattr(_graph_exact, "settle", spy)
    # A shape of its own, so that the search is traced anew, with the spy.
    tp.knn_graph(rng.normal(size=(1501, 37)).astype(np.float32)).indices.block_until_ready()
    tp.knn_graph(clusters(rng, 3, 1e-5, n=301, d=37)).indices.block_until_ready()
    jax.effects_barrier()
    assert seen[0] == 0
    assert seen[-1] == 301
    _graph_exact.search.clear_cache()


def test_inner_product_by_hand():
    graph = tp.knn_graph([[1, 0], [0, 2], [-3, 0]], n_neighbors=2, metric="inner_product")
    assert graph.indices.tolist() == [[1, 2], [0, 2], [1, 0]]
    np.testing.assert_array_equal(graph.distances, [[9, 12], [9, 9], [9, 12]])
    assert (
        tp.knn_graph(np.zeros((4, 2)), n_neighbors=1, metric="inner_product").distances.max() == 0
    )


def test_inner_product_of_unit_rows_is_cosine(digits):
    points = digits[0] / np.linalg.norm(digits[0], axis=1, keepdims=True)
    inner = tp.knn_graph(points, metric="inner_product")
    cosine = tp.knn_graph(points, metric="cosine")
    np.testing.assert_allclose(inner.distances, cosine.distances, atol=1e-6)
    assert bool(jnp.isfinite(tp.fuzzy_simplicial_set(inner).memberships).all())


def test_inner_product_finds_the_neighbors_of_tight_clusters(rng):
    points = clusters(rng, 3, 1e-4, n=600)
    indices, _ = brute_force(points, 15, "inner_product")
    graph = tp.knn_graph(points, metric="inner_product")
    assert (np.sort(graph.indices) == np.sort(indices)).mean() > 0.999
    products = points.astype(np.float64) @ points.T.astype(np.float64)
    np.testing.assert_allclose(
        np.take_along_axis(products, np.asarray(graph.indices), axis=1),
        np.take_along_axis(products, indices, axis=1),
        atol=1e-9,
    )


def taxi(x, y):
    return jnp.sum(jnp.abs(x - y))


def test_function_equals_brute_force(digits, rng):
    points, labels = digits[0][:500], digits[1][:500]
    graph = tp.knn_graph(points, metric=taxi)
    indices, distances = brute_force(points, 15, "cityblock")
    np.testing.assert_array_equal(graph.indices, indices)
    np.testing.assert_array_equal(graph.distances, distances)
    within = tp.knn_graph(points, metric=taxi, n_neighbors=60, labels=labels)
    np.testing.assert_array_equal(
        within.indices, brute_force(points, 60, "cityblock", labels=labels)[0]
    )
    jitted = jax.jit(lambda x: tp.knn_graph(x, metric=taxi))(points)
    np.testing.assert_array_equal(jitted.indices, indices)
    batch = jax.vmap(lambda x: tp.knn_graph(x, metric=taxi, n_neighbors=3))(
        points[:80].reshape(2, 40, 64)
    )
    np.testing.assert_array_equal(batch.indices[1], brute_force(points[40:80], 3, "cityblock")[0])
    wide = rng.normal(size=(20, 70_000)).astype(np.float32)  # a tile of few points
    np.testing.assert_array_equal(
        tp.knn_graph(wide, metric=taxi, n_neighbors=5).indices,
        brute_force(wide, 5, "cityblock")[0],
    )


def test_function_is_compiled_once(rng):
    traces = []

    def counted(x, y):
        traces.append(1)
        return jnp.max(jnp.abs(x - y))

    points = rng.normal(size=(60, 3)).astype(np.float32)
    tp.knn_graph(points, metric=counted)
    first = len(traces)
    for _ in range(3):
        tp.knn_graph(points, metric=counted)
    assert len(traces) - first <= 3  # the check of its shape, once a call


def test_function_may_be_whole_infinite_or_nan_for_a_point_and_itself():
    points = [[0.0, 1.0], [0.0, 2.0], [5.0, 2.0]]
    hamming = tp.knn_graph(points, metric=lambda x, y: jnp.sum(x != y), n_neighbors=2)
    assert hamming.indices.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert hamming.distances.tolist() == [[1, 2], [1, 1], [1, 2]]
    same = tp.knn_graph(
        points,
        metric=lambda x, y: jnp.where(x[0] == y[0], jnp.where(x[1] == y[1], jnp.nan, 1), jnp.inf),
        n_neighbors=2,
    )
    assert same.indices.tolist() == [[1, -1], [0, -1], [-1, -1]]


def test_rejects_functions_that_are_no_metric(rng):
    points = rng.normal(size=(40, 2)).astype(np.float32)
    points[[3, 9]] = 7
    with pytest.raises(ValueError, match=r"one real number for .* \(2,\); got shape \(2,\)"):
        tp.knn_graph(points, metric=lambda x, y: x - y)
    with pytest.raises(TypeError, match="must return one number for two points; got a tuple"):
        tp.knn_graph(points, metric=lambda x, y: (x, y))
    with pytest.raises(TypeError, match="must be a function that JAX can trace"):
        tp.knn_graph(points, metric=lambda x, y: np.linalg.norm(np.asarray(x) - np.asarray(y)))
    with pytest.raises(ValueError, match="not negative; got -1 for points 3 and 9"):
        tp.knn_graph(points, metric=lambda x, y: jnp.where((x == y).all(), -1, taxi(x, y)))
    with pytest.raises(ValueError, match="not negative; got nan for points 3 and 9"):
        tp.knn_graph(points, metric=lambda x, y: jnp.log(taxi(x, y)) * 0 / taxi(x, y))


@pytest.mark.parametrize("metric", ["cosine", taxi])
def test_under_jit_a_bad_row_spoils_no_other(rng, metric):
    points = rng.normal(size=(60, 3)).astype(np.float32)
    labels = jnp.asarray(rng.integers(0, 3, size=60))
    labels = {"cosine": None}.get(metric, labels)
    bad = points.copy()
    bad[7, 1], bad[30] = np.nan, np.inf
    fine = np.setdiff1d(np.arange(60), [7, 30])
    graph = jax.jit(lambda x, y: tp.knn_graph(x, n_neighbors=4, metric=metric, labels=y))(
        bad, labels
    )
    assert (np.asarray(graph.indices[np.asarray([7, 30])]) == -1).all()
    assert np.isinf(graph.distances[np.asarray([7, 30])]).all()
    classes = None if labels is None else labels[fine]
    rest = tp.knn_graph(points[fine], n_neighbors=4, metric=metric, labels=classes)
    np.testing.assert_array_equal(graph.indices[fine], fine[np.asarray(rest.indices)])
    np.testing.assert_allclose(graph.distances[fine], rest.distances, rtol=1e-6)


def test_many_wide_candidates_are_measured_in_parts(rng):
    points = rng.normal(size=(300, 700)).astype(np.float32)
    whole = tp.knn_graph(points, n_neighbors=90)
    indices, distances = brute_force(points, 90)
    assert (np.asarray(whole.indices) == indices).mean() > 0.999  # float32 may turn a tie
    np.testing.assert_allclose(whole.distances, distances, rtol=1e-6)
    table = jax.eval_shape(
        lambda x: _graph_exact.prepare(x, None, metric="euclidean", n_rows=4096),
        jax.ShapeDtypeStruct((4096, 2048), jnp.float32),
    )
    search = _graph_exact.search.lower(
        table,
        _graph_exact.tile_rows(0, 16),
        metric="euclidean",
        k=1000,
        block=4096,
        by_class=False,
    )
    # The points three times over and 64 MiB, not 2 GiB of candidates.
    assert search.compile().memory_analysis().temp_size_in_bytes < 4 * 4096 * 2048 * 4 + (1 << 28)


def test_graphs_from_elsewhere(rng):
    points = rng.normal(size=(50, 3)).astype(np.float32)
    ours = tp.knn_graph(points, n_neighbors=4)
    indices, distances = np.asarray(ours.indices), np.asarray(ours.distances)
    for other in (
        tp.NeighborGraph(indices.astype(np.int64), distances.astype(np.float64)),
        tp.NeighborGraph(indices.astype(np.uint32), distances.astype(">f4")),
        tp.NeighborGraph(indices.tolist(), distances.tolist()),
        tp.NeighborGraph(indices.astype(">i8"), jnp.asarray(distances)),
    ):
        assert other.indices.dtype == jnp.int32
        np.testing.assert_array_equal(other.indices, indices)
        np.testing.assert_array_equal(other.distances, distances)
        assert (other.n_points, other.n_neighbors) == (50, 4)
    assert tp.NeighborGraph([[1], [0]], [[2], [2]]).distances.dtype == jnp.float32
    half = tp.NeighborGraph(indices, distances.astype(np.float16))
    np.testing.assert_allclose(
        tp.fuzzy_simplicial_set(half).memberships,
        tp.fuzzy_simplicial_set(ours).memberships,
        atol=0.02,
    )
    with pytest.raises(TypeError, match=r"`indices` .* must be integers; got dtype float32"):
        tp.NeighborGraph(distances, indices)
    with pytest.raises(ValueError, match=r"one shape \(n, k\).* got \(50, 4\) and \(50, 3\)"):
        tp.NeighborGraph(indices, distances[:, 1:])
    with pytest.raises(ValueError, match=r"one shape \(n, k\).* got \(50, 0\)"):
        tp.NeighborGraph(indices[:, :0], distances[:, :0])
    with pytest.raises(ValueError, match=r"between 0 and 49.* got 0 to 4294967296"):
        tp.NeighborGraph(np.where(indices == indices[0, 0], np.int64(2**32), indices), distances)
    twice = np.where(np.arange(50)[:, None] == 3, 5, indices)
    for repeated in (twice, jnp.asarray(twice)):
        with pytest.raises(ValueError, match="name a neighbor once; got one twice in row 3"):
            tp.fuzzy_simplicial_set(tp.NeighborGraph(repeated, distances))


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_graphs_from_elsewhere_list_the_nearest_first(array):
    """The points 0, 1 and 3: with the farther neighbor first, the first slot is the wrong one."""
    points = [[0.0], [1.0], [3.0]]
    indices, distances = array([[1, 2], [0, 2], [1, 0]]), array([[1.0, 3], [1, 2], [2, 3]])
    graph = tp.NeighborGraph(indices, distances)
    assert tp.distance_to_measure(points, n_neighbors=1, graph=graph)[2] == pytest.approx(2**0.5)
    swapped = tp.NeighborGraph(indices[:, ::-1], distances[:, ::-1])
    with pytest.raises(ValueError, match=r"the nearest neighbors first.* descend, first in row 0"):
        tp.distance_to_measure(points, n_neighbors=1, graph=swapped)
    gap = tp.NeighborGraph(array([[1, 2], [-1, 2], [1, 0]]), distances)
    with pytest.raises(ValueError, match=r"empty slots last.* first in row 1"):
        tp.fuzzy_simplicial_set(gap)
    rounded = tp.NeighborGraph(indices, array([[1.0, 3], [2.0001, 2], [2, 3]]))
    tp.fuzzy_simplicial_set(rounded)


@pytest.mark.parametrize(
    ("metric", "method"),
    tiers(
        [
            ("euclidean", "exact"),
            ("cosine", "exact"),
            ("inner_product", "projected"),
            (taxi, "exact"),
        ],
        [("cosine", "exact"), ("inner_product", "projected")],
        several=True,
    ),
)
def test_own_graphs_ascend(rng, metric, method):
    points = rng.normal(size=(400, 70)).astype(np.float32)
    points[200:] = points[:200] * rng.choice([1, 1 + 1e-6], size=(200, 1)).astype(np.float32)
    graph = tp.knn_graph(points, n_neighbors=12, metric=metric, method=method)
    assert (np.diff(graph.distances, axis=1) >= 0).all()


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
        lambda x: _graph_exact.prepare(x, None, metric="euclidean", n_rows=40_192),
        jax.ShapeDtypeStruct((n, 8), jnp.float32),
    )
    search = _graph_exact.search.lower(
        table,
        _graph_exact.tile_rows(0, 157),
        metric="euclidean",
        k=15,
        block=40_064,
        by_class=False,
    )
    assert search.compile().memory_analysis().temp_size_in_bytes < n * n * 4 / 20


@pytest.mark.parametrize("n_neighbors", [0, -1, 10, 99])
def test_rejects_n_neighbors_out_of_range(rng, n_neighbors):
    with pytest.raises(
        ValueError, match=f"`n_neighbors` must be between 1 and 9; got .*{n_neighbors}"
    ):
        tp.knn_graph(rng.normal(size=(10, 2)), n_neighbors=n_neighbors)


def test_rejects_other_arguments(rng):
    points = rng.normal(size=(20, 2))
    with pytest.raises(ValueError, match=r"`metric` must be 'euclidean', .* got 'taxi'"):
        tp.knn_graph(points, metric="taxi")
    with pytest.raises(ValueError, match=r"`labels` must have shape \(20,\).*got shape \(19,\)"):
        tp.knn_graph(points, labels=np.zeros(19, int))
    with pytest.raises(ValueError, match="at least 2 rows"):
        tp.knn_graph(points[:1])


@pytest.mark.slow
def test_traced_labels_far_apart_are_no_padding(rng):
    """The difference of two of them does not fit in their type."""
    points = rng.normal(size=(12, 2)).astype(np.float32)
    labels = np.array([-(2**31), 2**31 - 1, 0], np.int32)[np.arange(12) % 3]
    expected = tp.knn_graph(points, n_neighbors=3, labels=labels)
    several = jax.vmap(lambda y: tp.knn_graph(points, n_neighbors=3, labels=y))(labels[None])
    np.testing.assert_array_equal(several.indices[0], expected.indices)


def test_a_search_within_classes_is_cut_by_what_it_looks_at(rng, monkeypatch):
    """Parts of a few pairs each, as many as for all pairs of points, took most of the time."""
    monkeypatch.setattr(_graph_exact, "CHUNK_FLOPS", 2e7)
    monkeypatch.setattr(_graph_search, "_FEW", 1)
    points = jnp.asarray(rng.normal(size=(5000, 2)), jnp.float32)
    codes = jnp.arange(5000, dtype=jnp.int32) % 50  # 100 points each, beside them a tile at most
    whole = _graph_search.ExactSearch(points, 3, "euclidean", None)
    within = _graph_search.ExactSearch(points, 3, "euclidean", codes)
    assert whole.calls == 20  # 5000^2 pairs would take 25, of a tile each
    assert within.calls == math.ceil(2 * 5000 * (100 + 256) * 10 / 2e7)


@pytest.mark.parametrize(
    "metric", tiers(["euclidean", "cosine", "inner_product"], ["inner_product"])
)
def test_columns_that_several_calls_share_change_nothing(rng, monkeypatch, metric):
    points = jnp.asarray(rng.normal(size=(1500, 5)), jnp.float32)
    codes = jnp.asarray(rng.integers(0, 3, 1500), jnp.int32)
    monkeypatch.setattr(_graph_exact, "CHUNK_FLOPS", 1e6)
    for given in (None, codes):
        search = _graph_search.ExactSearch(points, 7, metric, given)
        assert search.calls > 2
        found = []
        for scanned in (search._scanned, None):
            assert scanned is not None or found
            search._scanned = scanned
            found.append(search.collect([search.part(i) for i in range(search.calls)]))
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_array_equal(ours, theirs)
