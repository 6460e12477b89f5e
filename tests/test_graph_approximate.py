"""The faster searches against the exact one: what they find, what they say of it, and hard data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_graph import brute_force, clusters, taxi
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import _graph, _graph_approximate, _graph_exact
from topoprune_jax._graph_tree import leaves

METHODS = ("projected", "blocks")
METRICS = ("euclidean", "cosine", "inner_product")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A tree and a projection that small sets are worth: 16 blocks, 16 axes."""
    plan = _graph_approximate._Plan(
        levels=4, split=1, visited=8, candidates=40, groups=960, shared=10, rounds=1
    )
    monkeypatch.setattr(_graph_approximate, "_plan", lambda n, k: plan)
    monkeypatch.setattr(_graph_approximate, "_AXES", 16)
    monkeypatch.setattr(_graph_approximate, "PROJECTED_AXES", 16)


def clustered(rng, n=1600, d=48):
    """Clusters of low dimension in a space of many, and noise."""
    latent = rng.normal(size=(n, 6)) + 2 * rng.normal(size=(20, 6))[rng.integers(0, 20, n)]
    points = np.tanh(latent @ rng.normal(size=(6, d)) / 3) + 0.02 * rng.normal(size=(n, d))
    return points.astype(np.float32)


def gaussian(rng, n=1600, d=20):
    return rng.normal(size=(n, d)).astype(np.float32)


def measured_recall(graph, points, metric, labels=None):
    """Fraction of the neighbors at most as far as the true last one; exact but for rounding."""
    _, true = brute_force(points, graph.n_neighbors, metric, labels)
    last = np.where(np.isinf(true), 0, true).max(axis=1, keepdims=True)
    hits = (np.asarray(graph.distances) <= last + 1e-5 * true[np.isfinite(true)].max()).sum()
    return hits / np.isfinite(true).sum()


def check_graph(graph, points, metric="euclidean"):
    """Distances are those of the points listed, rising, ties by index; nobody twice, nor itself."""
    n, k = points.shape[0], graph.n_neighbors
    indices, distances = np.asarray(graph.indices), np.asarray(graph.distances)
    assert ((indices >= 0) & (indices < n)).all()
    assert (indices != np.arange(n)[:, None]).all()
    assert (np.diff(np.sort(indices, axis=1), axis=1) > 0).all()
    order, true = brute_force(points, n - 1, metric)
    of = np.zeros((n, n))
    np.put_along_axis(of, order, true, axis=1)
    expected = np.take_along_axis(of, indices, axis=1)
    np.testing.assert_allclose(distances, expected, rtol=1e-5, atol=2e-6 * true.max())
    rising, tied = np.diff(distances, axis=1), np.diff(indices, axis=1)
    assert (rising >= 0).all()
    assert (tied[rising == 0] > 0).all()
    assert indices.shape == (n, k)


@pytest.mark.parametrize("n", tiers([40, 700, 5000], [700]))
def test_recall_by_counts(n, monkeypatch):
    """Of neighbors of which some are missing and others stand in their places, against NumPy and
    the search; also where the last block of points reaches back."""
    monkeypatch.setattr(_graph_approximate, "_COUNTED", 256)
    generator = np.random.default_rng(n)
    points = generator.normal(size=(n, 6)).astype(np.float32)
    k = 10
    nearest = np.asarray(tp.knn_graph(points, n_neighbors=15).distances)
    found = np.sort(np.where(generator.uniform(size=(n, k)) < 0.9, nearest[:, :k], nearest[:, -k:]))
    table = _graph_exact.prepare(jnp.asarray(points), None, metric="euclidean", n_rows=n + -n % 256)
    recall, is_told = _graph_approximate._recall_by_counts(table, jnp.asarray(found))
    rows = np.asarray(_graph_approximate._some_rows(table))
    rows = rows[rows < n]
    assert is_told
    true = (found[rows] <= nearest[rows, k - 1, None]).mean()
    assert true < 0.99
    assert true - 1e-6 < float(recall) < true + 1e-3  # rounding is taken for a hit
    options = {"metric": "euclidean", "k": k, "block": 256, "by_class": False}
    searched = _graph_approximate._recall(table, jnp.asarray(found), **options)
    assert float(recall) == pytest.approx(float(searched), abs=1e-3)


def test_counts_do_not_tell_of_tight_clusters(rng):
    """There products round away what lies between neighbors, and the search has to look."""
    points = 1e-4 * rng.normal(size=(600, 6)) + rng.normal(size=(3, 6))[np.arange(600) % 3]
    points = jnp.asarray(points, jnp.float32)
    graph = tp.knn_graph(points, n_neighbors=10)
    table = _graph_exact.prepare(points, None, metric="euclidean", n_rows=600)
    assert not _graph_approximate._recall_by_counts(table, graph.distances)[1]
    found = _graph_approximate._recall_of_blocks(table, graph.distances, metric="euclidean", k=10)
    assert float(found) == 1
    copies = jnp.repeat(points[:40], 15, axis=0)  # of which ten are neighbors at distance 0
    table = _graph_exact.prepare(copies, None, metric="euclidean", n_rows=600)
    recall, is_told = _graph_approximate._recall_by_counts(table, jnp.zeros((600, 10)))
    assert is_told
    assert float(recall) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "metric", [METRICS[0], *(pytest.param(m, marks=pytest.mark.slow) for m in METRICS[1:])]
)
@pytest.mark.parametrize("data", [clustered, pytest.param(gaussian, marks=pytest.mark.slow)])
def test_recall_is_high_and_said(rng, data, metric, method):
    # Independent features are hard, and have their largest products with points that are far.
    least = {"projected": 0.98, "blocks": 0.96} if data is clustered else {}
    if data is gaussian and metric != "inner_product":
        least = {"projected": 0.85, "blocks": 0.6}
    points = data(rng)
    graph = tp.knn_graph(points, n_neighbors=10, metric=metric, method=method)
    check_graph(graph, points, metric)
    recall = measured_recall(graph, points, metric)
    assert recall >= least.get(method, 0.3)
    error = np.sqrt(recall * (1 - recall) / _graph_approximate._SAMPLE)
    assert abs(float(graph.recall) - recall) <= 3 * error + 1e-3
    assert graph.recall.shape == ()


@pytest.mark.slow
def test_looking_around_finds_more(rng, monkeypatch):
    points = gaussian(rng)
    plan = _graph_approximate._plan(0, 0)
    recalls = []
    for rounds in (0, 1, 2):
        monkeypatch.setattr(
            _graph_approximate, "_plan", lambda n, k, r=rounds: plan._replace(visited=4, rounds=r)
        )
        recalls.append(float(tp.knn_graph(points, n_neighbors=10, method="blocks").recall))
    assert recalls[0] + 0.05 < recalls[1] < recalls[2]


@pytest.mark.slow
def test_every_block_visited_is_the_exact_graph(rng, monkeypatch):
    points = gaussian(rng, n=900, d=8)
    plan = _graph_approximate._plan(0, 0)._replace(visited=16)
    monkeypatch.setattr(_graph_approximate, "_plan", lambda n, k: plan)
    graph = tp.knn_graph(points, n_neighbors=10, method="blocks")
    exact = tp.knn_graph(points, n_neighbors=10)
    np.testing.assert_array_equal(graph.indices, exact.indices)
    np.testing.assert_allclose(graph.distances, exact.distances, rtol=1e-6)
    assert float(graph.recall) == float(exact.recall) == 1


def test_projection_is_exact_where_it_loses_nothing(rng):
    few = gaussian(rng, n=500, d=12)
    graph = tp.knn_graph(few, n_neighbors=5, method="projected")
    np.testing.assert_array_equal(graph.indices, tp.knn_graph(few, n_neighbors=5).indices)
    assert float(graph.recall) == 1
    # 12 dimensions of 40, tight clusters: most candidates of the scan are tied within rounding.
    low = clusters(rng, 30, 1e-5, n=600, d=12) @ rng.integers(-2, 3, size=(12, 40)).astype(
        "float32"
    )
    graph = tp.knn_graph(low, n_neighbors=5, method="projected")
    np.testing.assert_allclose(
        graph.distances, brute_force(low, 5, "differences")[1], rtol=1e-5, atol=1e-9
    )


def test_projection_finds_the_same_in_tiles_of_any_size(rng):
    points = jnp.asarray(clustered(rng, n=1500, d=80))
    graphs = []
    for tile_bytes in (1 << 23, 1 << 20, 1 << 17):  # all in one block; few queries; many blocks
        graphs.append(
            _graph.nearest_neighbors(points, 7, method="projected", tile_bytes=tile_bytes)
        )
        assert float(graphs[-1].recall) > 0.95
    tiles = {
        _graph_exact.tile_of(len(points), None, tile_bytes)
        for tile_bytes in (1 << 23, 1 << 20, 1 << 17)
    }
    assert len(tiles) == 3
    for graph in graphs[1:]:
        np.testing.assert_array_equal(graph.indices, graphs[0].indices)


def test_a_projection_measures_more_than_it_returns():
    expected = {(50, 15): 50, (9000, 15): 64, (9000, 63): 256, (9000, 100): 304}
    found = {(n, k): _graph_approximate.projected_candidates(n, k) for n, k in expected}
    assert found == expected


@pytest.mark.parametrize("metric", METRICS)
def test_scores_bound_the_distances(rng, metric, monkeypatch):
    """The true value lies between what it is if remainders are parallel (1) and opposite (-1)."""
    table = _graph_approximate.exact.prepare(
        jnp.asarray(clustered(rng, n=300)), None, metric=metric, n_rows=300
    )
    points = np.asarray(table.points, np.float64)
    square = (points**2).sum(axis=1)
    size = square.max() if metric == "inner_product" else square
    true = square[:, None] - 2 * points @ points.T + size
    bounds = []
    for alike in (1.0, -1.0):
        monkeypatch.setattr(_graph_approximate, "_ALIKE", alike)
        _graph_approximate._coordinates.clear_cache()
        found = _graph_approximate._coordinates(table, metric=metric, width=8)
        x = np.asarray(found.queries(jnp.arange(300)), np.float64)
        y = np.asarray(found.values, np.float64)
        assert x.shape == y.shape == (300, 9)
        bounds.append((x**2).sum(axis=1)[:, None] - 2 * x @ y.T + (y**2).sum(axis=1))
    _graph_approximate._coordinates.clear_cache()
    rounding = 1e-5 * true.max()
    assert (bounds[0] <= true + rounding).all()
    assert (bounds[1] >= true - rounding).all()
    assert (bounds[1] - bounds[0]).max() > 100 * rounding


@pytest.mark.parametrize("method", [pytest.param("projected", marks=pytest.mark.slow), "blocks"])
@pytest.mark.parametrize(
    "points",
    [
        np.full((700, 20), 7.0),
        np.repeat(np.random.default_rng(0).normal(size=(7, 20)), 100, axis=0),
        np.arange(700.0)[:, None] ** 1.1,
        np.random.default_rng(0).normal(size=(700, 20)) * (np.arange(20) == 3),
        np.random.default_rng(0).integers(0, 3, size=(700, 20)),
        np.random.default_rng(0).normal(size=(700, 20)) * 1e30,
        np.random.default_rng(0).normal(size=(700, 20)) * 1e-30,
    ],
    ids=["equal", "duplicates", "one column", "constant columns", "ties", "large", "small"],
)
def test_degenerate_points(points, method):
    points = points.astype(np.float32)
    graph = tp.knn_graph(points, n_neighbors=6, method=method)
    indices = np.asarray(graph.indices)
    assert ((indices >= 0) & (indices < 700)).all()
    assert (indices != np.arange(700)[:, None]).all()
    assert (np.diff(np.sort(indices, axis=1), axis=1) > 0).all()
    expected = np.linalg.norm(points.astype(np.float64)[indices] - points[:, None, :], axis=2)
    np.testing.assert_allclose(graph.distances, expected, rtol=1e-5)
    assert float(graph.recall) > 0.7
    if np.ptp(points[:100]) == 0 or points.shape[1] == 1:
        assert float(graph.recall) == 1


@pytest.mark.parametrize("method", [pytest.param("projected", marks=pytest.mark.slow), "blocks"])
def test_few_points(rng, method, monkeypatch):
    monkeypatch.undo()
    for n, k in [(2, 1), (16, 15), (17, 15), (70, 68)]:
        points = rng.normal(size=(n, 80)).astype(np.float32)
        graph = tp.knn_graph(points, n_neighbors=k, method=method)
        np.testing.assert_array_equal(graph.indices, tp.knn_graph(points, n_neighbors=k).indices)
        assert float(graph.recall) == 1


def test_plan_grows_with_the_points(monkeypatch):
    monkeypatch.undo()
    assert _graph_approximate._plan(5_000, 15) is None
    for n in (20_000, 50_000, 200_000, 1_000_000, 10_000_000):
        plan = _graph_approximate._plan(n, 15)
        size = n / 2**plan.levels
        assert 100 < size < 400
        assert 3 * plan.visited <= 2**plan.levels
    assert _graph_approximate._plan(1_000_000, 500).candidates < 1_000_000 / 2**8


@pytest.mark.parametrize("method", [pytest.param("projected", marks=pytest.mark.slow), "blocks"])
def test_deterministic_and_the_same_in_parts_and_under_jit(rng, method, monkeypatch):
    points = clustered(rng)
    seen = []
    graph = tp.knn_graph(points, method=method, progress=lambda *step: seen.append(step))
    again = tp.knn_graph(points, method=method)
    assert seen[0][:2] == ("neighbors", 0)
    assert seen[-1][1] == seen[-1][2] == len(seen) - 1
    monkeypatch.setattr(_graph_approximate.exact, "CHUNK_FLOPS", 3e7)
    parts = tp.knn_graph(points, method=method, progress=lambda *step: seen.append(step))
    assert seen[-1][2] > seen[0][2]
    for other in (again, parts):
        np.testing.assert_array_equal(other.indices, graph.indices)
        np.testing.assert_array_equal(other.distances, graph.distances)
        assert float(other.recall) == float(graph.recall)
    jitted = jax.jit(lambda x: tp.knn_graph(x, method=method))(points)
    assert (np.asarray(jitted.indices) == np.asarray(graph.indices)).mean() > 0.999
    np.testing.assert_allclose(jitted.distances, graph.distances, rtol=1e-5)
    assert abs(float(jitted.recall) - float(graph.recall)) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_under_jit_and_vmap_a_bad_row_spoils_no_other(rng, method):
    points = np.stack([clustered(rng, n=800), gaussian(rng, n=800, d=48)])
    bad = points.copy()
    bad[:, 7, 1], bad[:, 30] = np.nan, np.inf
    graphs = jax.jit(jax.vmap(lambda x: tp.knn_graph(x, n_neighbors=5, method=method)))(bad)
    fine = np.setdiff1d(np.arange(800), [7, 30])
    for i, recall in enumerate(graphs.recall):
        indices, distances = np.asarray(graphs.indices[i]), np.asarray(graphs.distances[i])
        assert (indices[[7, 30]] == -1).all()
        assert np.isinf(distances[[7, 30]]).all()
        assert not np.isin(indices, [7, 30]).any()
        expected = np.linalg.norm(points[i][indices[fine]] - points[i][fine][:, None], axis=2)
        np.testing.assert_allclose(distances[fine], expected, rtol=1e-5)
        assert recall > (0.95, 0.4)[i]


@pytest.mark.slow
def test_projection_within_classes(rng):
    points = clustered(rng)
    labels = rng.choice(4, size=1600, p=[0.6, 0.3, 0.097, 0.003])
    labels[0] = 7
    graph = tp.knn_graph(points, n_neighbors=10, method="projected", labels=labels)
    indices, distances = brute_force(points, 10, labels=labels)
    np.testing.assert_array_equal(graph.indices == -1, indices == -1)
    assert (np.isinf(graph.distances) == np.isinf(distances)).all()
    found = np.asarray(graph.indices)
    assert ((labels[found] == labels[:, None]) | (found < 0)).all()
    recall = measured_recall(graph, points, "euclidean", labels)
    assert recall > 0.98
    assert abs(float(graph.recall) - recall) < 0.02


@pytest.mark.parametrize("method", tiers(METHODS, ["blocks"]))
def test_float64_is_kept(rng, x64, method):
    points = clustered(rng, n=600).astype(np.float64)
    graph = tp.knn_graph(points, n_neighbors=5, method=method)
    assert graph.distances.dtype == graph.recall.dtype == jnp.float64
    expected = np.linalg.norm(points[graph.indices] - points[:, None, :], axis=2)
    np.testing.assert_allclose(graph.distances, expected, rtol=1e-13)


def test_graphs_from_elsewhere_have_a_recall(rng):
    assert float(tp.NeighborGraph([[1], [0]], [[2], [2]]).recall) == 1
    graph = tp.NeighborGraph([[1], [0]], [[2], [2]], recall=0.9)
    assert graph.recall.dtype == jnp.float32
    assert round(float(graph.recall), 6) == 0.9
    assert tp.fuzzy_simplicial_set(graph).memberships.shape == (2, 1)
    for recall in (-0.1, 1.1, np.nan, np.ones(2)):
        with pytest.raises(ValueError, match=r"`recall` .* one number between 0 and 1; got"):
            tp.NeighborGraph([[1], [0]], [[2], [2]], recall)


def test_rejects_what_it_cannot_do(rng):
    points = gaussian(rng, n=50)
    with pytest.raises(ValueError, match=r"`method` must be 'exact', .*; got 'fast'"):
        tp.knn_graph(points, method="fast")
    for method in METHODS:
        with pytest.raises(ValueError, match="`method` must be 'exact' where `metric` is a func"):
            tp.knn_graph(points, method=method, metric=taxi)
    with pytest.raises(ValueError, match=r"where there are `labels`; got 'blocks'"):
        tp.knn_graph(points, method="blocks", labels=np.arange(50) % 2)


def test_a_tree_halves_at_the_median_of_a_long_direction(rng):
    """Level by level in NumPy; 150 points in 8 leaves of 19 need two copies, of points 0 and 75."""
    points = (rng.normal(size=(150, 6)) * [5, 3, 1, 1, 1, 1]).astype(np.float32)
    rows, is_copy = map(np.asarray, leaves(jnp.asarray(points), depth=3, axes=4))
    assert sorted(rows[is_copy]) == [0, 75]
    assert sorted(rows[~is_copy]) == list(range(150))
    blocks = [np.concatenate([np.arange(150), [0, 75]])]
    for _ in range(3):
        halves = []
        for block in blocks:
            z = points[block, :4].astype(np.float64)
            z -= z.mean(axis=0)
            direction = z[np.argmax((z**2).sum(axis=1))]
            for _ in range(2):
                direction = z.T @ (z @ direction)
                direction /= np.abs(direction).max()
            half = len(block) // 2
            order = np.argsort(z @ direction, kind="stable")
            halves += [block[order[:half]], block[order[half:]]]
        blocks = halves
    for block, leaf in zip(blocks, rows.reshape(8, 19), strict=True):
        assert sorted(block) == sorted(leaf)


def test_votes_go_to_the_blocks_nearest_to_a_point(rng):
    """Among many blocks as among few: those at most as far as the k-th nearest, ties included."""
    for rows in (40, 700):
        values = rng.normal(size=(rows, 5)).astype(np.float32)
        values[: rows // 2, 0] = 0.25  # more of one number than there are votes
        limit = np.asarray(_graph_approximate._smallest(jnp.asarray(values), 8))
        nearest = np.sort(values, axis=0)[7]
        np.testing.assert_allclose(limit[0, 1:], nearest[1:], rtol=1e-5)
        assert ((values[:, 1:] <= limit[:, 1:]).sum(axis=0) == 8).all()
        assert (values[:, 0] <= limit[0, 0]).sum() >= 8
