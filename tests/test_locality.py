"""The order in which ends of edges lie near each other: by hand, and what it must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import _locality as locality
from topoprune_jax import _spectral as spectral


@pytest.fixture
def fuzzy_set(rng):
    """Two components, one of them a point, and hubs that many list."""
    points = np.concatenate([rng.standard_t(2, size=(299, 3)), [[1e6, 0, 0]]])
    graph = tp.knn_graph(points, n_neighbors=6)
    far = graph.distances > 1e5
    graph = tp.NeighborGraph(
        jnp.where(far, -1, graph.indices), jnp.where(far, jnp.inf, graph.distances)
    )
    return tp.fuzzy_simplicial_set(graph)


def test_cells_of_a_path_by_hand(monkeypatch):
    """0 - 1 - 2 | 3 - 4 - 5 with pivots 0 and 3; a point that lists nobody comes first."""
    monkeypatch.setattr(locality, "_CELL", 3)
    chain = jnp.array([[1], [0], [1], [4], [3], [4]])
    assert locality.near_order(chain).tolist() == [0, 1, 2, 3, 4, 5]
    # The same chains with 1 and 4 exchanged.
    mixed = jnp.array([[4], [3], [4], [1], [0], [1]])
    assert locality.near_order(mixed).tolist() == [0, 2, 4, 1, 3, 5]
    lost = jnp.array([[4], [-1], [4], [5], [0], [3]])
    assert locality.near_order(lost).tolist() == [1, 0, 2, 4, 3, 5]


def test_the_nearest_neighbor_that_has_a_cell_decides(monkeypatch):
    monkeypatch.setattr(locality, "_CELL", 2)  # pivots 0, 2, 4
    indices = jnp.array([[1, 3], [4, 0], [1, 3], [5, 2], [1, 3], [3, 0]])
    # 1 is of 4; 3 sees 5, which has none yet, then 2; 5 sees 3, which has none, then 0.
    assert locality.near_order(indices).tolist() == [0, 5, 2, 3, 1, 4]


def test_neighbors_come_near(monkeypatch, rng):
    monkeypatch.setattr(locality, "_CELL", 100)
    indices = tp.knn_graph(rng.uniform(size=(4000, 2)), n_neighbors=5).indices
    order = np.asarray(locality.near_order(indices))
    assert sorted(order.tolist()) == list(range(4000))
    place = np.argsort(order)

    def apart(place):
        return np.mean(np.abs(place[np.asarray(indices)] - place[:, None]))

    assert apart(place) < 0.2 * apart(np.arange(4000))


def test_a_set_in_order_is_that_of_the_points_in_order(rng, fuzzy_set):
    order = rng.permutation(300).astype(np.int32)
    moved = jax.jit(locality.in_order)(fuzzy_set, order)
    i, j, mu = (np.asarray(part) for part in fuzzy_set.edges())
    own_i, own_j, own_mu = moved.edges()
    assert sorted(zip(i, j, mu, strict=True)) == sorted(
        (min(a, b), max(a, b), m)
        for a, b, m in zip(order[own_i], order[own_j], own_mu, strict=True)
    )
    for name in ("rho", "sigma", "degrees"):
        np.testing.assert_allclose(
            getattr(moved, name), np.asarray(getattr(fuzzy_set, name))[order], rtol=1e-5
        )
    ends = np.asarray(moved.reverse_offsets)
    assert ends[0] == 0
    assert ends[-1] == np.asarray(fuzzy_set.reverse_offsets)[-1]
    # What a point lists and what lists it are other edges.
    for point in (0, 17, 299):
        theirs = np.asarray(moved.reverse_indices)[ends[point] : ends[point + 1]]
        old = order[point]
        begin, end = np.asarray(fuzzy_set.reverse_offsets)[old : old + 2]
        np.testing.assert_array_equal(
            order[theirs], np.asarray(fuzzy_set.reverse_indices)[begin:end]
        )
    tail = np.asarray(moved.reverse_indices)[ends[-1] :]
    np.testing.assert_array_equal(tail, -1)


@pytest.mark.parametrize("by_component", tiers([False, True], [True]))
def test_the_eigenmap_is_the_same_in_any_order(monkeypatch, fuzzy_set, by_component):
    options = {"by_component": by_component, "tolerance": 0.0, "rounds": 40}
    expected = np.asarray(tp.spectral_embedding(fuzzy_set, 4, **options))
    sorted_sets = []

    def order_of(indices):
        sorted_sets.append(indices.shape)
        return locality.near_order(indices)

    starts = []

    def start_of(*given):
        starts.append(given[-1])
        return from_cells(*given)

    from_cells = spectral._from_cells
    monkeypatch.setattr(spectral, "_from_cells", start_of)
    monkeypatch.setattr(spectral, "near_order", order_of)
    monkeypatch.setattr(spectral, "_FAR", 1)
    monkeypatch.setattr(spectral, "_OF_CELL", 10)  # so that there are cells to start from
    monkeypatch.setattr(locality, "_CELL", 30)
    jax.clear_caches()
    ours = np.asarray(tp.spectral_embedding(fuzzy_set, 4, **options))
    jax.clear_caches()
    assert sorted_sets
    assert bool(starts) != by_component  # cells know nothing of several components
    np.testing.assert_allclose(ours[:299], expected[:299], atol=2e-3)


@pytest.mark.parametrize("of_cell", [1, 10])
def test_the_iteration_starts_near_its_end(monkeypatch, fuzzy_set, of_cell):
    """With a cell for every point at the dense eigenvectors themselves; with one for ten at vectors
    whose quotients say much of the largest eigenvalues, and beyond none of them."""
    n = fuzzy_set.n_points
    i, j, mu = (np.asarray(part) for part in fuzzy_set.edges())
    w = np.zeros((n, n))
    w[i, j] = w[j, i] = mu
    degrees = w.sum(axis=1)
    root = np.where(degrees > 0, 1 / np.sqrt(np.where(degrees > 0, degrees, 1)), 0)
    adjacency = root[:, None] * w * root[None, :]
    values = np.linalg.eigvalsh(adjacency)[::-1]
    monkeypatch.setattr(spectral, "_OF_CELL", of_cell)
    start = np.asarray(spectral._from_cells(fuzzy_set, fuzzy_set.degrees, 8), np.float64)
    assert start.shape == (n, 8)
    basis, _ = np.linalg.qr(start)
    quotients = np.sort(np.linalg.eigvalsh(basis.T @ adjacency @ basis))[::-1]
    if of_cell == 1:
        np.testing.assert_allclose(quotients, values[:8], atol=1e-5)
        return
    random, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, 8)))
    blind = np.sort(np.linalg.eigvalsh(random.T @ adjacency @ random))[::-1]
    assert (quotients <= values[:8] + 1e-5).all()
    assert (values[:8] - quotients < 0.25 * (values[:8] - blind)).all()
