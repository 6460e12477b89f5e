"""The exact search in few dimensions finds what comparing all points finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import _graph
from topoprune_jax import _graph_boxes as boxes
from topoprune_jax._graph_search import exact_neighbors

N = 1500


def clusters(rng):
    centers = rng.normal(size=(12, 2)) * 5
    return centers[rng.integers(0, 12, N)] + rng.normal(size=(N, 2)) * rng.choice([1e-3, 1], (N, 1))


def outliers(rng):
    points = rng.normal(size=(N, 2))
    points[::100] *= 1e6
    return points


def duplicates(rng):
    points = rng.normal(size=(N, 2))
    points[:200] = points[0]
    return points


SETS = {
    "clusters": clusters,
    "outliers": outliers,
    "duplicates": duplicates,
    "lattice": lambda rng: rng.integers(0, 20, (N, 2)),
    "all equal": lambda rng: np.ones((N, 2)),
    "a line": lambda rng: np.stack([np.arange(N), np.zeros(N)], axis=1),
    "tiny": lambda rng: rng.normal(size=(N, 2)) * 1e-30,
}


def both(points, k, codes=None):
    points = jnp.asarray(points, jnp.float32)
    codes = None if codes is None else jnp.asarray(codes, jnp.int32)
    assert not boxes.is_worthwhile(points, k)  # too few points, so that `exact` is the other search
    found = boxes.box_neighbors(points, k, codes=codes, stage="neighbors", progress=None)
    return found, exact_neighbors(points, k, codes=codes)


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    # Two programs may sum three squares with another rounding.
    np.testing.assert_allclose(found[1], expected[1], rtol=3e-7)


@pytest.mark.parametrize("name", SETS)
def test_the_same_as_comparing_all(rng, name):
    assert_same(*both(SETS[name](rng), 20))


@pytest.mark.parametrize("name", tiers(["clusters", "duplicates", "lattice"], ["duplicates"]))
def test_the_same_within_classes(rng, name):
    # Classes of every size: one point, fewer than k, some blocks, nearly all.
    codes = np.repeat([4, 2, 0, 3, 1], [1, 9, 130, 360, 1000])
    assert_same(*both(SETS[name](rng), 20, rng.permutation(codes)))


@pytest.mark.parametrize("d", tiers([1, 3], [3]))
def test_other_dimensions(rng, d):
    assert_same(*both(rng.normal(size=(N // 3, d)), 5))


def test_knn_graph_uses_it_where_it_pays(rng, monkeypatch):
    used = []

    def spy(*args, **options):
        used.append(options["stage"])
        return boxes.box_neighbors(*args, **options)

    monkeypatch.setattr(_graph, "box_neighbors", spy)
    points = jnp.asarray(rng.normal(size=(boxes._MIN_POINTS, 2)), jnp.float32)
    assert boxes.is_worthwhile(points, 5)
    calls = []
    graph = tp.knn_graph(points, n_neighbors=5, progress=lambda *call: calls.append(call))
    assert used == ["neighbors"]
    assert calls[0] == ("neighbors", 0, calls[-1][2])
    assert calls[-1][1] == calls[-1][2]
    rows = rng.integers(0, len(points), 50)
    distances = np.linalg.norm(np.asarray(points)[rows, None] - np.asarray(points)[None], axis=2)
    distances[np.arange(50), rows] = np.inf
    np.testing.assert_array_equal(graph.indices[rows], np.argsort(distances, axis=1)[:, :5])


def test_not_inside_jit(rng):
    points = jnp.asarray(rng.normal(size=(boxes._MIN_POINTS, 2)), jnp.float32)
    jax.eval_shape(lambda x: _is_plain(x), points)


def _is_plain(points):
    assert not boxes.is_worthwhile(points, 5)
    return points


@pytest.mark.parametrize("labeled", tiers([False, True], [True]))
def test_scores_of_their_parts_are_those_of_the_plain_search(rng, monkeypatch, labeled):
    points = rng.normal(size=(N, 2)).astype(np.float32)
    options = {"patch_size": 6, "labels": rng.integers(0, 3, N) if labeled else None}
    plain = tp.structural_complexity(points, **options)
    monkeypatch.setattr(boxes, "_MIN_POINTS", 100)
    monkeypatch.setattr(boxes, "_TILES_PER_CALL", 5)
    assert boxes.is_worthwhile(jnp.asarray(points), 5)
    found = tp.structural_complexity(points, **options)
    np.testing.assert_array_equal(found, plain)
