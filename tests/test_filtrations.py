"""Filtrations beside Vietoris-Rips, against gudhi, brute force, known values and each other."""

import gudhi
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.spatial
from jax.test_util import check_grads
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax.alpha import alpha_complex

INFINITY = float("inf")


def bars(diagram, dim):
    births, deaths, dims, valid = (
        np.asarray(leaf) for leaf in (diagram.births, diagram.deaths, diagram.dims, diagram.valid)
    )
    chosen = (dims == dim) & valid
    return np.array(sorted(zip(births[chosen], deaths[chosen], strict=True))).reshape(-1, 2)


def tree_bars(tree, dim, root=False):
    tree.compute_persistence(homology_coeff_field=2, persistence_dim_max=True)
    found = tree.persistence_intervals_in_dimension(dim)
    found = np.sqrt(found) if root else found
    return np.array(sorted(map(tuple, found.tolist()))).reshape(-1, 2)


def weighted_tree(points, weights, limit=np.inf, max_dimension=3):
    """gudhi's simplex tree with the filtration of the docstring, edge by edge."""
    tree = gudhi.SimplexTree()
    distances = squareform(pdist(points))
    n = len(points)
    for i in range(n):
        if 2 * weights[i] <= limit:
            tree.insert([i], 2 * weights[i])
    for i in range(n):
        for j in range(i):
            value = max(2 * weights[i], 2 * weights[j], distances[i, j] + weights[i] + weights[j])
            if value <= limit:
                tree.insert([i, j], value)
    tree.expansion(max_dimension)
    return tree


# Distances


@pytest.mark.parametrize("limit", [INFINITY, 1.0])
def test_distances_give_what_the_points_give(x64, rng, limit):
    points = rng.normal(size=(18, 3))
    distances = squareform(pdist(points))
    given = tp.rips_from_distances(distances, dims=(0, 1, 2), max_edge_length=limit)
    direct = tp.vietoris_rips(points, dims=(0, 1, 2), max_edge_length=limit)
    for dim in (0, 1, 2):
        np.testing.assert_allclose(bars(given, dim), bars(direct, dim), rtol=1e-12)
    np.testing.assert_array_equal(given.count, direct.count)


def test_distances_that_are_no_metric(x64, rng):
    matrix = np.triu(rng.uniform(size=(15, 15)), 1)
    matrix = matrix + matrix.T
    tree = gudhi.RipsComplex(distance_matrix=matrix).create_simplex_tree(max_dimension=3)
    diagram = tp.rips_from_distances(matrix, dims=(0, 1, 2))
    for dim in (0, 1, 2):
        np.testing.assert_allclose(bars(diagram, dim), tree_bars(tree, dim), rtol=1e-12)


def test_points_at_infinite_distance_are_never_joined():
    apart = np.full((4, 4), np.inf)
    apart[:2, :2] = apart[2:, 2:] = 1 - np.eye(2)
    diagram = tp.rips_from_distances(apart, dims=(0,))
    assert bars(diagram, 0).tolist() == [[0, 1], [0, 1], [0, np.inf], [0, np.inf]]
    ring = np.where(np.abs(np.subtract.outer(np.arange(5), np.arange(5))) % 3 == 1, 1.0, np.inf)
    np.fill_diagonal(ring, 0)
    assert bars(tp.rips_from_distances(ring, dims=(1,)), 1).tolist() == [[1, np.inf]]


def test_the_cotangent_goes_to_the_generators_above_the_diagonal():
    line = np.abs(np.subtract.outer(np.arange(3.0), np.arange(3.0))).astype(np.float32)
    slope = jax.grad(lambda d: tp.total_persistence(tp.rips_from_distances(d, dims=(0,))))(line)
    np.testing.assert_array_equal(slope, [[0, 1, 0], [0, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    ("matrix", "match"),
    [
        (np.zeros((2, 3)), "must be a square matrix"),
        ([[0.0, -1.0], [-1.0, 0.0]], "must not be negative or NaN"),
        ([[0.0, np.nan], [np.nan, 0.0]], "must not be negative or NaN"),
        ([[1.0, 0.5], [0.5, 1.0]], "must be 0 on the diagonal"),
        ([[0.0, 1.0], [2.0, 0.0]], "must be symmetric"),
    ],
)
def test_matrices_that_are_no_distances_are_refused(matrix, match):
    with pytest.raises(ValueError, match=match):
        tp.rips_from_distances(matrix)


# Weights


@pytest.mark.parametrize("limit", [INFINITY, 1.4])
def test_weighted_rips_is_gudhis(x64, rng, limit):
    for _ in range(3):
        points, weights = rng.normal(size=(14, 2)), rng.uniform(0, 0.8, size=14)
        diagram = tp.weighted_rips(points, weights, dims=(0, 1, 2), max_filtration=limit)
        tree = weighted_tree(points, weights, limit)
        for dim in (0, 1, 2):
            np.testing.assert_allclose(bars(diagram, dim), tree_bars(tree, dim), rtol=1e-12)


def test_a_filtration_beyond_the_range_is_no_diagram(rng):
    diagram = tp.weighted_rips(rng.normal(size=(6, 2)), np.full(6, 3e38))
    assert diagram.result == tp.RESULTS.not_finite
    assert np.isnan(diagram.births).all()


def test_weights_of_nothing_change_nothing(rng):
    points = rng.normal(size=(20, 3)).astype(np.float32)
    weighted, plain = tp.weighted_rips(points, np.zeros(20)), tp.vietoris_rips(points)
    for dim in (0, 1):
        np.testing.assert_allclose(bars(weighted, dim), bars(plain, dim), rtol=1e-6)


def test_distance_to_measure_by_brute_force(x64, rng):
    points = rng.normal(size=(30, 3))
    nearest = np.sort(squareform(pdist(points)), axis=1)[:, :6]  # the point itself is one of them
    expected = np.sqrt((nearest**2).mean(axis=1))
    np.testing.assert_allclose(tp.distance_to_measure(points, n_neighbors=5), expected, rtol=1e-12)
    graph = tp.knn_graph(points, n_neighbors=9)
    given = tp.distance_to_measure(points, n_neighbors=5, graph=graph)
    np.testing.assert_allclose(given, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="must list at least n_neighbors=10"):
        tp.distance_to_measure(points, n_neighbors=10, graph=graph)


def test_outliers_enter_a_dtm_filtration_late(rng):
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.vstack([circle, [[0.0, 0.0]]]).astype(np.float32)  # a point in the hole
    weights = tp.distance_to_measure(points, n_neighbors=5)
    assert np.argmax(weights) == 40
    longest = [
        np.ptp(bars(diagram, 1), axis=1).max()
        for diagram in (tp.vietoris_rips(points), tp.weighted_rips(points, weights))
    ]
    assert longest[1] > 1.2 * longest[0]


# Components of large graphs


def test_components_of_a_graph_are_its_minimum_spanning_forest(x64, rng):
    points = np.vstack([rng.normal(size=(60, 2)), rng.normal(size=(50, 2)) + 40])
    graph = tp.knn_graph(points, n_neighbors=4)
    diagram = tp.graph_components(points, graph)
    i = np.repeat(np.arange(110), 4)
    weights = scipy.sparse.coo_matrix(
        (np.asarray(graph.distances).ravel(), (i, np.asarray(graph.indices).ravel())),
        shape=(110, 110),
    ).tocsr()
    forest = minimum_spanning_tree(weights.maximum(weights.T))
    deaths = np.asarray(diagram.deaths)
    finite = np.sort(deaths[np.isfinite(deaths) & (deaths > 0)])
    np.testing.assert_allclose(finite, np.sort(forest.data), rtol=1e-12)
    n_trees = scipy.sparse.csgraph.connected_components(forest, directed=False)[0]
    assert np.isinf(deaths).sum() == n_trees > 1
    generators = np.asarray(diagram.generators)
    assert sorted(generators[:, 0]) == list(range(110))  # each point stands for one class


def test_a_complete_graph_gives_the_components_of_rips(x64, rng):
    points = rng.normal(size=(25, 3))
    diagram = tp.graph_components(points, tp.knn_graph(points, n_neighbors=24), max_edge_length=1.5)
    rips = tp.vietoris_rips(points, dims=(0,), max_edge_length=1.5)
    np.testing.assert_allclose(bars(diagram, 0), bars(rips, 0), rtol=1e-12)


def test_equal_lengths_make_no_cycle():
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(9)), axis=-1).reshape(-1, 2)
    diagram = tp.graph_components(grid, tp.knn_graph(grid, n_neighbors=8))
    assert bars(diagram, 0).tolist() == [[0, 1]] * 107 + [[0, np.inf]]


def test_duplicates_and_empty_slots():
    points = np.array([[0.0], [0.0], [0.0], [5.0]], np.float32)
    indices = np.array([[1, 2], [0, -1], [0, 1], [-1, -1]])
    graph = tp.NeighborGraph(indices, np.where(indices < 0, np.inf, 0))
    diagram = tp.graph_components(points, graph, capacity=3)
    assert diagram.count.tolist() == [2]
    assert diagram.deaths.tolist() == [np.inf, np.inf, 0]


def test_a_hundred_thousand_points(rng):
    n, k = 100_000, 8
    points = rng.normal(size=(n, 2)).astype(np.float32)
    distances, indices = scipy.spatial.cKDTree(points).query(points, k + 1)
    graph = tp.NeighborGraph(indices[:, 1:], distances[:, 1:])

    @jax.jit
    def length(x):
        return tp.total_persistence(tp.graph_components(x, graph))

    total, slope = jax.value_and_grad(length)(points)
    i = np.repeat(np.arange(n), k)
    weights = scipy.sparse.csr_matrix((distances[:, 1:].ravel(), (i, indices[:, 1:].ravel())))
    forest = minimum_spanning_tree(weights.maximum(weights.T))
    np.testing.assert_allclose(total, forest.sum(), rtol=1e-4)
    degree = np.bincount(np.concatenate(forest.nonzero()), minlength=n)
    assert ((np.abs(np.asarray(slope)).sum(axis=1) > 0) | (degree == 0)).mean() > 0.99


# Sublevel sets


def union_find_bars(values, edges):
    """Elder rule, vertex by vertex in the order of (value, index)."""
    order = sorted(range(len(values)), key=lambda v: (values[v], v))
    place = {v: i for i, v in enumerate(order)}
    parent, found = {}, []

    def root(v):
        while parent[v] != v:
            v = parent[v]
        return v

    for v in order:
        parent[v] = v
        for a, b in edges:
            other = {a: b, b: a}.get(v)
            if other in parent and other != v:
                elder, younger = sorted((root(v), root(other)), key=place.get)
                if elder != younger:
                    parent[younger] = elder
                    if values[v] > values[younger]:
                        found.append((values[younger], values[v]))
    found += [(values[v], np.inf) for v in parent if parent[v] == v]
    return np.array(sorted(found)).reshape(-1, 2)


@pytest.mark.parametrize("ties", [False, True])
def test_sublevel_sets_by_union_find(x64, rng, ties):
    for _ in range(5):
        values = rng.normal(size=15)
        values = np.round(values) if ties else values
        edges = rng.integers(0, 15, size=(18, 2))
        diagram = tp.lower_star(values, edges, dims=(0, 1))
        np.testing.assert_allclose(bars(diagram, 0), union_find_bars(values, edges.tolist()))
        simple = {tuple(sorted(edge)) for edge in edges.tolist() if edge[0] != edge[1]}
        n_components = len(bars(diagram, 0)[np.isinf(bars(diagram, 0)[:, 1])])
        assert diagram.count[1] == len(simple) - 15 + n_components
        assert np.isinf(bars(diagram, 1)[:, 1]).all()


def test_peaks_of_a_density_on_a_neighbor_graph(rng):
    points = np.concatenate([rng.normal(size=(80, 2)) + c for c in ([0, 0], [9, 0], [0, 9])])
    graph = tp.knn_graph(points.astype(np.float32), n_neighbors=12)
    density = -tp.distance_to_measure(points.astype(np.float32), n_neighbors=12, graph=graph)
    diagram = tp.lower_star(-density, graph)
    assert np.isinf(diagram.deaths).sum() == 3


# Alpha


@pytest.mark.parametrize(("n", "d"), [(12, 2), (60, 2), (40, 3)])
def test_alpha_complex_is_gudhis(x64, rng, n, d):
    for _ in range(3):
        points = rng.normal(size=(n, d))
        diagram = alpha_complex(points, dims=tuple(range(d)))
        tree = gudhi.AlphaComplex(points=points).create_simplex_tree()
        for dim in range(d):
            expected = tree_bars(tree, dim, root=True)
            assert diagram.count[dim] == len(expected)
            np.testing.assert_allclose(bars(diagram, dim), expected, rtol=1e-9)


@pytest.mark.parametrize("n", [5, 16])
def test_alpha_complex_of_a_regular_polygon(x64, n):
    angles = 2 * np.pi * np.arange(n) / n
    diagram = alpha_complex(np.stack([np.cos(angles), np.sin(angles)], axis=1), dims=(1,))
    np.testing.assert_allclose(diagram.births[0], np.sin(np.pi / n), rtol=1e-12)
    np.testing.assert_allclose(diagram.deaths[0], 1, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_alpha_complex_scales_with_the_points(rng, scale):
    points = rng.normal(size=(30, 2))
    one = alpha_complex(points.astype(np.float32))
    scaled = alpha_complex((points * scale).astype(np.float32))
    assert one.count.tolist() == scaled.count.tolist()
    for dim in (0, 1):
        np.testing.assert_allclose(bars(scaled, dim) / scale, bars(one, dim), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("points", "components"),
    [
        (np.zeros((1, 2)), 1),
        pytest.param(np.eye(2), 2, marks=pytest.mark.slow),
        pytest.param(np.eye(3)[:2], 2, marks=pytest.mark.slow),
        (np.ones((9, 3)), 1),
        (np.arange(10.0)[:, None] * np.ones(2), 10),
        (np.array([[0, 0], [1, 0], [0, 0], [1, 0], [5, 5]]), 3),
    ],
    ids=["one", "two", "two in space", "all equal", "collinear", "duplicates"],
)
def test_degenerate_alpha_complexes(points, components):
    points = jnp.asarray(points, jnp.float32)
    diagram = alpha_complex(points)
    assert diagram.result == tp.RESULTS.successful
    assert diagram.count.tolist() == [components, 0]
    slope = jax.grad(lambda x: tp.total_persistence(alpha_complex(x)))(points)
    assert np.isfinite(slope).all()


def test_alpha_complexes_only_in_the_plane_and_in_space(rng):
    with pytest.raises(ValueError, match="must have 2 or 3 columns"):
        alpha_complex(rng.normal(size=(5, 4)))
    with pytest.raises(ValueError, match="less than the dimension of the points, 2; got 2"):
        alpha_complex(rng.normal(size=(5, 2)), dims=(2,))


# Derivatives and transformations of all of them

FEW = np.random.default_rng(5).normal(size=(3, 9, 2))
RING = np.stack([np.arange(9), (np.arange(9) + 1) % 9], axis=1)


def _distances(x):
    difference = x[:, None] - x[None, :]
    far = jnp.sum(difference * difference, axis=-1)
    return jnp.where(far > 0, jnp.sqrt(jnp.where(far > 0, far, 1)), 0)


def _graph_of(x):
    return tp.knn_graph(jax.lax.stop_gradient(x), n_neighbors=8)


FILTRATIONS = {
    "distances": lambda x: tp.rips_from_distances(_distances(x)),
    "weights": lambda x: tp.weighted_rips(x, 0.3 + 0.1 * jnp.sin(x[:, 0])),
    "dtm": lambda x: tp.weighted_rips(x, tp.distance_to_measure(x, n_neighbors=3)),
    "graph": lambda x: tp.graph_components(x, _graph_of(x)),
    "lower star": lambda x: tp.lower_star(x[:, 0], RING, dims=(0, 1)),
    "alpha": alpha_complex,
    "alpha in space": lambda x: alpha_complex(jnp.concatenate([x, x[:, :1] ** 2], 1), dims=(1, 2)),
    "rips": tp.vietoris_rips,
    "cosine": lambda x: tp.vietoris_rips(x + 1, metric="cosine"),
}


def value_of(name):
    def value(x):
        diagram = FILTRATIONS[name](x)
        deaths = jnp.where(diagram.is_finite, diagram.deaths, 0)
        place = jnp.arange(1, len(deaths) + 1, dtype=deaths.dtype)
        return jnp.sum(place * jnp.sin(diagram.births) + deaths**2 / place)

    return value


@pytest.mark.parametrize("order", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    # Vietoris-Rips itself has its tests in test_persistence.py.
    tiers(FILTRATIONS, ["weights", "graph", "alpha in space"]),
)
def test_derivatives_are_those_of_finite_differences(x64, name, order):
    modes = ["rev"] if name in ("rips", "cosine") else ["fwd", "rev"]
    function = jax.jit(value_of(name))
    check_grads(function, (FEW[0],), order=order, modes=modes, eps=1e-6, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("weights", "alpha") else pytest.param(name, marks=pytest.mark.slow)
        for name in FILTRATIONS
        if name != "distances"  # whose NaN it is that counts
    ],
)
def test_bad_clouds_leave_their_neighbors_bitwise_as_they_were(name):
    points = jnp.asarray(np.random.default_rng(0).normal(size=(64, 9, 2)), jnp.float32)
    spoiled = points.at[3, 0, 0].set(jnp.nan).at[17, 4, 0].set(jnp.inf).at[40].set(jnp.nan)
    run = jax.jit(jax.vmap(jax.value_and_grad(value_of(name))))
    good = np.setdiff1d(np.arange(64), [3, 17, 40])
    for whole, clean in zip(run(spoiled), run(points), strict=True):
        np.testing.assert_array_equal(np.asarray(whole)[good], np.asarray(clean)[good])
    diagrams = jax.jit(jax.vmap(FILTRATIONS[name]))(spoiled)
    assert (diagrams.result == tp.RESULTS.not_finite).sum() == 3
    assert np.isnan(np.asarray(diagrams.deaths)[[3, 17, 40]]).all()
