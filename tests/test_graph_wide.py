"""The search of an accelerator, run here: against the search of a CPU, ties, classes, degenerate
points; and its sums that do not round."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import _backend, _graph_search, _graph_wide, _sums


@pytest.fixture
def accelerated(monkeypatch):
    """As if an accelerator computed, with tiles that a few thousand points fill."""
    monkeypatch.setattr(_backend, "is_cpu", lambda platform=None: False)
    monkeypatch.setattr(_graph_wide, "LEAST_POINTS", 500)
    monkeypatch.setattr(_graph_wide, "ROWS", 256)
    monkeypatch.setattr(_graph_wide, "CANDIDATES", 96)
    monkeypatch.setattr(_graph_wide, "_WIDER", 1)


POINTS = {
    "features": lambda rng: rng.normal(size=(1700, 40)),
    "far away": lambda rng: 1e3 + rng.normal(size=(1700, 8)),
    "large": lambda rng: 1e18 * rng.normal(size=(1700, 8)),
    "grid": lambda rng: rng.integers(0, 4, size=(1700, 5)),
    "duplicates": lambda rng: rng.normal(size=(1700, 6))[rng.integers(0, 60, 1700)],
    "equal": lambda rng: np.ones((1700, 5)),
    "tight clusters": lambda rng: (
        rng.normal(size=(20, 6))[rng.integers(0, 20, 1700)] + 1e-5 * rng.normal(size=(1700, 6))
    ),
}


@pytest.mark.parametrize("metric", tiers(["euclidean", "cosine"], ["euclidean"]))
@pytest.mark.parametrize("kind", tiers(POINTS, ["features", "far away", "duplicates", "equal"]))
def test_finds_what_a_cpu_finds(kind, metric, rng, request):
    points = jnp.asarray(POINTS[kind](rng), jnp.float32)
    expected = tp.knn_graph(points, n_neighbors=10, metric=metric)
    request.getfixturevalue("accelerated")
    found = tp.knn_graph(points, n_neighbors=10, metric=metric)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)


@pytest.mark.parametrize(
    "sizes", tiers([(1000, 600, 100), (1690, 8, 2), (5,) * 340], [(1690, 8, 2)])
)
def test_within_classes(sizes, rng, request):
    points = jnp.asarray(rng.normal(size=(1700, 12)), jnp.float32)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    expected = tp.knn_graph(points, n_neighbors=10, labels=labels)
    request.getfixturevalue("accelerated")
    found = tp.knn_graph(points, n_neighbors=10, labels=labels)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)


@pytest.mark.parametrize("tile_bytes", tiers([1 << 26, 1 << 18], [1 << 18]))
def test_is_used_and_no_tile_changes_it(accelerated, tile_bytes, rng):
    points = jnp.asarray(rng.normal(size=(1700, 12)), jnp.float32)
    search = _graph_search.ExactSearch(points, 10, "euclidean", None, tile_bytes=tile_bytes)
    assert search._search.func is _graph_wide.search
    indices, _ = search.collect([search.part(i) for i in range(search.calls)])
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(indices, np.argsort(squared, axis=1)[:, 1:11])


def unproven(monkeypatch, points, codes=None):
    """How many of the points a second scan would have to settle."""
    seen = []

    def spy(table, rows, points, distances, proven, *rest, **options):
        seen.append(int((~proven).sum()))
        return points, distances

    monkeypatch.setattr(_graph_wide, "settle", spy)
    search = _graph_search.ExactSearch(points, 10, "euclidean", codes)
    assert search.calls == 1
    options = search._search.keywords
    _graph_wide.search.__wrapped__(search._table, search._queries(0), k=10, **options)
    return seen[0]


def test_ordinary_points_are_proven_by_the_scan(accelerated, monkeypatch, rng):
    points = jnp.asarray(rng.normal(size=(1690, 80)), jnp.float32)
    assert unproven(monkeypatch, points) < 17


@pytest.mark.parametrize("by_class", [False, True])
def test_so_are_clusters_far_smaller_than_their_distance(accelerated, monkeypatch, rng, by_class):
    # Distances within a cluster are as 1 to 10,000 to the center of all points.
    cluster = rng.integers(0, 8, 1690)
    centers = 1e4 * rng.normal(size=(8, 6))
    points = jnp.asarray(centers[cluster] + rng.normal(size=(1690, 6)), jnp.float32)
    codes = jnp.asarray(cluster, jnp.int32) if by_class else None
    assert unproven(monkeypatch, points, codes) < (1 if by_class else 200)


def test_tiles_in_few_dimensions_hold_every_point_once(accelerated, rng):
    points = jnp.asarray(rng.normal(size=(1690, 3)), jnp.float32)
    search = _graph_search.ExactSearch(points, 10, "euclidean", None)
    place = np.concatenate([search.place(i) for i in range(search.calls)])
    assert sorted(place[place < 1690]) == list(range(1690))
    tiles = np.asarray(search._order)
    spread = [np.asarray(points)[tile[tile < 1690]].std(axis=0).mean() for tile in tiles]
    assert np.mean(spread) < 0.75 * np.asarray(points).std(axis=0).mean()


def test_halves_keep_sixteen_bits(rng):
    values = jnp.asarray(np.exp(rng.normal(size=(100, 7), scale=9)), jnp.float32)
    high, low = (np.asarray(half, np.float64) for half in _graph_wide.halves(values))
    assert (np.abs(high + low - values) <= 2.0**-17 * values).all()


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e15])
@pytest.mark.parametrize("columns", [(), (3,)])
def test_sums_are_those_of_float64_whatever_the_order(rng, columns, scale):
    values = (rng.normal(size=(5000, *columns)) ** 3 * scale).astype(np.float32)
    rows = rng.integers(0, 41, 5000)  # the last is beyond the rows
    expected = np.zeros((41, *columns))
    np.add.at(expected, rows, values.astype(np.float64))
    top, most = jnp.max(jnp.abs(values), axis=0), int(np.bincount(rows).max())
    order = rng.permutation(5000)
    first, second = (
        _sums._in_any_order(jnp.asarray(values[o]), jnp.asarray(rows[o]), 40, most, top, False)
        for o in (np.arange(5000), order)
    )
    np.testing.assert_array_equal(first, second)
    largest = np.abs(values).max()
    np.testing.assert_allclose(first, expected[:40], rtol=3e-7, atol=1e-7 * largest)


def test_sums_of_nothing_are_zero():
    rows = jnp.zeros(4, jnp.int32)
    found = _sums._in_any_order(jnp.zeros(4), rows, 2, 4, jnp.zeros(()), True)
    assert found.tolist() == [0, 0]
