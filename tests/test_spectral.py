"""The Laplacian eigenmap and the principal components: against dense eigensolvers, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax._spectral import low_eigenvectors


def normalized_adjacency(fuzzy_set):
    i, j, mu = fuzzy_set.edges()
    n = fuzzy_set.n_points
    matrix = np.zeros((n, n))
    matrix[i, j] = matrix[j, i] = mu
    degrees = matrix.sum(axis=1)
    return matrix / np.sqrt(degrees[:, None] * degrees[None, :]), degrees


@pytest.mark.parametrize("time", [0.0, 3.0])
def test_is_the_dense_eigenmap(rng, time):
    points = rng.normal(size=(250, 3)) * [4, 2, 1]  # eigenvalues well apart
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    matrix, degrees = normalized_adjacency(fuzzy_set)
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1][1:4], vectors[:, ::-1][:, 1:4]
    expected = vectors * values**time * np.sqrt(degrees.sum() / degrees)[:, None]
    ours = np.asarray(tp.spectral_embedding(fuzzy_set, 3, diffusion_time=time))
    for column in range(3):
        sign = np.sign(np.sum(ours[:, column] * expected[:, column]))
        np.testing.assert_allclose(ours[:, column], sign * expected[:, column], atol=5e-3)


@pytest.mark.parametrize("degree", tiers([1, 2, 3, 8], [3]))
def test_a_filter_of_any_degree_finds_the_low_eigenvectors(rng, degree):
    points = rng.normal(size=(120, 2)) * [6, 1]
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=8))
    options = {"rounds": 400 // degree, "degree": degree, "tolerance": 0.0}
    ours = tp.spectral_start(fuzzy_set, 2, **options, key=jax.random.key(0))
    expected = np.linalg.eigh(normalized_adjacency(fuzzy_set)[0])[1][:, -3:-1]
    overlap = np.linalg.svd(np.asarray(ours).T @ expected, compute_uv=False)
    np.testing.assert_allclose(overlap, 1, atol=1e-3)


@pytest.mark.parametrize("n", tiers([2, 4, 7], [7]))
def test_every_eigenvector_of_a_small_graph(n):
    """As many vectors as there are: where rounding completes the basis, it must not pick v_0."""
    k = min(2, n - 1)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(np.arange(n)[:, None] ** 1.1, n_neighbors=k))
    matrix, degrees = normalized_adjacency(fuzzy_set)
    for c in sorted({1, n - 1}):
        z = np.asarray(tp.spectral_embedding(fuzzy_set, c))
        vectors = z * np.sqrt(degrees / degrees.sum())[:, None]
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(c), atol=1e-4)
        np.testing.assert_allclose(np.sqrt(degrees) @ vectors, 0, atol=1e-4)
        quotients = (vectors * (matrix @ vectors)).sum(axis=0)
        np.testing.assert_allclose(
            quotients, np.linalg.eigvalsh(matrix)[::-1][1 : c + 1], atol=1e-3
        )


def test_one_point_has_no_eigenvector():
    lone = tp.NeighborGraph(jnp.full((1, 1), -1), jnp.full((1, 1), jnp.inf))
    fuzzy_set = tp.fuzzy_simplicial_set(lone)
    assert tp.spectral_embedding(fuzzy_set, 1).tolist() == [[0.0]]
    assert tp.spectral_start(fuzzy_set, 2, key=jax.random.key(0)).tolist() == [[0.0, 0.0]]


def test_tells_components_apart(rng):
    points = np.concatenate([rng.normal(size=(30, 2)), 100 + rng.normal(size=(30, 2))])
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=5))
    z = np.asarray(tp.spectral_embedding(fuzzy_set, 1))[:, 0]
    assert np.ptp(z[:30]) < 1e-3
    assert np.ptp(z[30:]) < 1e-3
    assert abs(z[0] - z[-1]) > 1


def separate(rng, sizes):
    """A fuzzy set whose components are anisotropic clouds of these sizes, in a random order."""
    clouds = [rng.normal(size=(size, 5)) * [4, 2, 1, 1, 1] for size in sizes]
    points = np.concatenate([cloud + 1000 * i for i, cloud in enumerate(clouds)])
    return tp.fuzzy_simplicial_set(tp.knn_graph(rng.permutation(points), n_neighbors=8))


@pytest.mark.parametrize("time", tiers([0.0, 2.0], [0.0]))
def test_every_component_has_its_own_dense_eigenmap(rng, time):
    fuzzy_set = separate(rng, [150, 100, 30, 14])
    matrix, degrees = normalized_adjacency(fuzzy_set)
    parts = np.asarray(tp.connected_components(fuzzy_set))
    options = {"diffusion_time": time, "by_component": True}
    z = np.asarray(tp.spectral_embedding(fuzzy_set, 10, **options))
    middles = np.stack([z[parts == part].mean(axis=0) for part in range(4)])
    apart = np.linalg.norm(middles[:, None] - middles[None], axis=2) + np.diag(np.full(4, np.inf))
    assert apart.min() > 10  # a component's own coordinates have a variance of 1
    for part in range(4):
        rows = parts == part
        own, weights = matrix[np.ix_(rows, rows)], degrees[rows] / degrees[rows].sum()
        place = weights @ z[rows]
        vectors = (z[rows] - place) * np.sqrt(weights)[:, None]
        values = np.linalg.eigvalsh(own)[::-1][1:11]
        powers = np.diag(np.maximum(values, 0) ** (2 * time))
        np.testing.assert_allclose(vectors.T @ vectors, powers, atol=5e-3)
        quotients = (vectors * (own @ vectors)).sum(axis=0)
        np.testing.assert_allclose(quotients, powers @ values, atol=5e-3)
    jitted = jax.jit(lambda f: tp.spectral_embedding(f, 10, **options))(fuzzy_set)
    np.testing.assert_allclose(jitted, z, atol=1e-2)


def test_one_component_by_itself_is_the_whole(rng):
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(rng.normal(size=(80, 4))))
    one, other = (tp.spectral_embedding(fuzzy_set, 4, by_component=flag) for flag in (False, True))
    np.testing.assert_array_equal(one, other)


def test_components_of_few_points_have_as_many_coordinates_as_they_can():
    """Pairs, a triple and lone points, one of them without edges."""
    points = np.asarray([0, 1, 100, 101, 102.5, 200, 201], np.float32)[:, None]
    graph = tp.knn_graph(points, n_neighbors=1)
    lone = np.append(np.asarray(graph.indices), -1)[:, None]
    graph = tp.NeighborGraph(lone, np.append(np.asarray(graph.distances), np.inf)[:, None])
    fuzzy_set = tp.fuzzy_simplicial_set(graph)
    parts = np.asarray(tp.connected_components(fuzzy_set))
    assert parts.tolist() == [0, 0, 1, 1, 1, 2, 2, 3]
    z = np.asarray(tp.spectral_embedding(fuzzy_set, 3, by_component=True))
    assert np.isfinite(z).all()
    degrees = np.asarray(fuzzy_set.degrees)
    for part, rank in enumerate([1, 2, 1, 0]):
        rows = parts == part
        centered = z[rows] - np.average(z[rows], axis=0, weights=np.maximum(degrees[rows], 1e-9))
        lengths = np.sqrt((degrees[rows, None] * centered**2).sum(axis=0))
        expected = np.where(np.arange(3) < rank, np.sqrt(degrees[rows].sum()), 0)
        np.testing.assert_allclose(lengths, expected, atol=1e-4)


def test_same_bits_every_time_and_under_jit(rng):
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(rng.normal(size=(80, 4))))
    one, two = (tp.spectral_embedding(fuzzy_set, 4) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    jitted = jax.jit(lambda f: tp.spectral_embedding(f, 4))(fuzzy_set)
    np.testing.assert_allclose(jitted, one, atol=1e-3)


def test_degenerate_graphs_are_finite():
    empty = tp.NeighborGraph(jnp.full((20, 3), -1), jnp.full((20, 3), jnp.inf))
    equal = tp.knn_graph(np.ones((20, 2)), n_neighbors=3)
    for graph in (empty, equal):
        for by_component in (False, True):
            fuzzy_set = tp.fuzzy_simplicial_set(graph)
            z = tp.spectral_embedding(fuzzy_set, 2, by_component=by_component)
            assert bool(jnp.isfinite(z).all())


def test_rejects_bad_arguments(rng):
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(rng.normal(size=(20, 2)), n_neighbors=3))
    with pytest.raises(ValueError, match=r"`n_components` must be between 1 and 19; got .*=20"):
        tp.spectral_embedding(fuzzy_set, 20)
    with pytest.raises(ValueError, match="`diffusion_time` must be at least 0"):
        tp.spectral_embedding(fuzzy_set, 2, diffusion_time=-1.0)


@pytest.mark.parametrize("c", tiers([2, 5, 13], [5]))
def test_a_product_of_rows_is_the_sum_over_edges(rng, c):
    """With a hub that nearly all list, and more columns than it fills registers with."""
    points = np.concatenate([rng.normal(size=(200, 3)), np.zeros((1, 3))]).astype(np.float32)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=6))
    options = {"rounds": 5, "degree": 8, "tolerance": 0.0, "key": jax.random.key(0)}
    options["degrees"] = fuzzy_set.degrees
    rows, edges = (
        low_eigenvectors(fuzzy_set, c, **options, by_rows=by_rows) for by_rows in (True, False)
    )
    np.testing.assert_allclose(rows[1], edges[1], atol=1e-5)
    laplacian = np.eye(201) - normalized_adjacency(fuzzy_set)[0]
    for vectors, values in (rows, edges):
        vectors = np.asarray(vectors, float)
        rayleigh = np.sum(vectors * (laplacian @ vectors), axis=0)
        np.testing.assert_allclose(1 - np.asarray(values), rayleigh, atol=1e-4)
