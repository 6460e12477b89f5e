"""Connected components: against SciPy, by hand, and where there are no edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tiers import tiers

import topoprune_jax as tp


def oracle(fuzzy_set):
    i, j, mu = fuzzy_set.edges()
    n = fuzzy_set.n_points
    return connected_components(coo_array((mu, (i, j)), (n, n)), directed=False)[1]


@pytest.mark.parametrize("k", tiers([1, 2, 5], [2]))
def test_are_those_of_scipy(rng, k):
    """Random points: the fewer neighbors, the more components, in chains of any shape."""
    for n in (6, 50, 700):
        points = rng.normal(size=(n, 2))
        fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=k))
        ours = np.asarray(tp.connected_components(fuzzy_set))
        np.testing.assert_array_equal(ours, oracle(fuzzy_set))
        np.testing.assert_array_equal(jax.jit(tp.connected_components)(fuzzy_set), ours)


@pytest.mark.parametrize("order", ["along", "against", "shuffled"])
def test_a_long_chain_is_one(rng, order):
    """The number of rounds is no limit on the length of a path."""
    along = np.arange(3000)
    order = {"along": along, "against": along[::-1], "shuffled": rng.permutation(along)}[order]
    graph = tp.knn_graph(order[:, None], n_neighbors=2)  # the one before and the one behind
    fuzzy_set = tp.fuzzy_simplicial_set(graph)
    assert np.asarray(tp.connected_components(fuzzy_set)).tolist() == [0] * 3000


def test_edges_that_labels_remove_join_nothing():
    graph = tp.knn_graph(np.arange(6.0)[:, None], n_neighbors=2)
    labels = [0, 0, 0, 1, 1, 1]
    fuzzy_set = tp.fuzzy_simplicial_set(graph, labels=labels, target_weight=1.0)
    assert tp.connected_components(fuzzy_set).tolist() == labels


def test_points_without_edges_are_alone():
    empty = tp.NeighborGraph(jnp.full((4, 2), -1), jnp.full((4, 2), jnp.inf))
    assert tp.connected_components(tp.fuzzy_simplicial_set(empty)).tolist() == [0, 1, 2, 3]
