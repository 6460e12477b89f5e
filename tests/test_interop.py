"""From a fitted UMAP: its memberships as they are, and its neighbors in every case.

What umap-learn compiles takes half a minute, so that here a stand-in with a fitted reducer's
attributes and arbitrary memberships comes first, and the real ones are marked slow.
"""

import types
import warnings

import numpy as np
import pytest

import topoprune_jax as tp
from topoprune_jax.interop import from_umap

FITS = {
    "small": {},
    "cosine": {"metric": "cosine"},
    "manhattan": {"metric": "manhattan"},
    "approximate": {"force_approximation_algorithm": True},
    "mixed": {"local_connectivity": 2.0, "set_op_mix_ratio": 0.3},
}

# Cosine distances are differences of numbers near 1.
TOLERANCE = dict.fromkeys(FITS, 1e-5) | {"cosine": 1e-4}


def fit(points, labels=None, **options):
    """Few epochs, because the embedding is only passed on."""
    umap = pytest.importorskip("umap", reason="umap-learn is not installed")
    with warnings.catch_warnings():
        # umap-learn says that a seed makes it run in one thread, and numba what it compiles.
        warnings.simplefilter("ignore")
        reducer = umap.UMAP(n_neighbors=9, n_epochs=2, init="random", random_state=0, **options)
        return reducer.fit(points, labels)


@pytest.fixture(scope="module")
def points(digits):
    """No two distances are equal, as they often are between pixels, which are whole numbers."""
    noise = np.random.default_rng(0).normal(size=(300, 64), scale=0.3)
    return digits[0][:300] + noise.astype(np.float32)


@pytest.fixture(scope="module")
def fits(points):
    return {name: fit(points, **options) for name, options in FITS.items()}


def dense(fuzzy_set):
    """mu as a matrix, from the edges that each point finds at its own end."""
    n = fuzzy_set.n_points
    mu = np.zeros((n, n), np.float32)
    offsets = np.asarray(fuzzy_set.reverse_offsets)
    for i in range(n):
        own = np.asarray(fuzzy_set.indices[i])
        mu[i, own[own >= 0]] = np.asarray(fuzzy_set.memberships[i])[own >= 0]
        into = slice(offsets[i], offsets[i + 1])
        back = np.asarray(fuzzy_set.reverse_indices[into])
        assert (mu[i, back] == 0).all()
        mu[i, back] = np.asarray(fuzzy_set.reverse_memberships[into])
    return mu


def strong(fuzzy_set):
    """mu without the edges that umap-learn drops, which it would draw less than once."""
    mu = dense(fuzzy_set)
    return np.where(mu < mu.max() / 500, 0, mu)


def stand_in(points, k, *, keep_neighbors=False, metric="euclidean", seed=0, missed=0):
    """What umap-learn leaves of a fit, with k - 1 neighbors a point and random memberships."""
    from scipy import sparse
    from scipy.spatial.distance import cdist

    n = len(points)
    distances = cdist(points, points, metric).astype(np.float32)
    # Equal distances are in another order than that of the indices.
    other = np.random.default_rng(seed).permutation(n)
    indices = other[np.argsort(distances[:, other], axis=1, kind="stable")][:, :k]
    indices[:missed, 3] = np.argmax(distances[:missed], axis=1)
    listed = np.zeros((n, n), bool)
    np.put_along_axis(listed, indices, True, axis=1)
    np.fill_diagonal(listed, False)
    values = np.random.default_rng(1).uniform(0.1, 1, (n, n)).astype(np.float32)
    mu = np.where(listed | listed.T, np.maximum(values, values.T), 0)
    reducer = types.SimpleNamespace(
        n_neighbors=k,
        _n_neighbors=k,
        metric=metric,
        set_op_mix_ratio=1.0,
        graph_=sparse.csr_matrix(mu),
        embedding_=points[:, :2],
        _raw_data=points,
        _metric_kwds={},
        _disconnection_distance=np.inf,
        _input_distance_func=metric,
        _rhos=np.ones(n, np.float32),
        _sigmas=np.ones(n, np.float32),
    )
    if keep_neighbors:
        reducer._knn_indices = indices
        reducer._knn_dists = np.take_along_axis(distances, indices, axis=1)
    return reducer, distances


@pytest.mark.parametrize("keep_neighbors", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "cityblock"])
def test_a_graph_is_laid_out_as_it_is(rng, metric, keep_neighbors):
    points = rng.normal(size=(60, 5)).astype(np.float32)
    reducer, distances = stand_in(points, 7, metric=metric, keep_neighbors=keep_neighbors)
    fitted = from_umap(reducer)
    np.testing.assert_array_equal(dense(fitted.fuzzy_set), reducer.graph_.toarray())
    np.testing.assert_array_equal(
        fitted.graph.indices, np.argsort(distances, axis=1, kind="stable")[:, 1:7]
    )
    np.testing.assert_allclose(
        fitted.graph.distances, np.sort(distances, axis=1)[:, 1:7], rtol=1e-5
    )
    np.testing.assert_array_equal(fitted.embedding, points[:, :2])
    assert float(fitted.graph.recall) == 1


def test_other_neighbors_at_one_distance_get_slots_of_their_own():
    grid = np.mgrid[:7, :7].reshape(2, -1).T.astype(np.float32)
    reducer, _ = stand_in(grid, 8, seed=3)
    fitted = from_umap(reducer)
    np.testing.assert_array_equal(dense(fitted.fuzzy_set), reducer.graph_.toarray())
    assert fitted.fuzzy_set.indices.shape[1] > fitted.graph.n_neighbors


def test_a_point_among_its_duplicates_is_left_out_wherever_it_stands(rng):
    points = np.repeat(rng.normal(size=(6, 3)).astype(np.float32), 9, axis=0)
    reducer, _ = stand_in(points, 5, keep_neighbors=True, seed=2)
    itself = reducer._knn_indices == np.arange(54)[:, None]
    assert not itself.any(axis=1).all()
    assert itself[:, 1:].any()
    fitted = from_umap(reducer)
    np.testing.assert_array_equal(dense(fitted.fuzzy_set), reducer.graph_.toarray())
    np.testing.assert_array_equal(
        (np.asarray(fitted.graph.indices) >= 0).sum(axis=1), 5 - itself.sum(axis=1)
    )
    tp.fuzzy_simplicial_set(fitted.graph)  # which looks at every entry


def test_missed_neighbors_lower_the_recall(rng):
    points = rng.normal(size=(60, 5)).astype(np.float32)
    # A sixth of the neighbors of half of the points.
    reducer, _ = stand_in(points, 7, keep_neighbors=True, missed=30)
    assert float(from_umap(reducer).graph.recall) == pytest.approx(11 / 12)


def test_what_is_no_fitted_umap_is_said(rng):
    points = rng.normal(size=(60, 5)).astype(np.float32)
    with pytest.raises(TypeError, match=r"must be a fitted `umap.UMAP`; got ndarray"):
        from_umap(points)
    changes = {
        "must be fitted, with a graph": {"graph_": None},
        "its graph has 60 points and its embedding 70": {"embedding_": np.zeros((70, 2))},
        "one with other edges": {"_raw_data": points[::-1].copy()},
    }
    for message, change in changes.items():
        reducer, _ = stand_in(points, 7)
        vars(reducer).update(change)
        with pytest.raises(ValueError, match=message):
            from_umap(reducer)


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_memberships_are_those_of_the_fit(name, fits):
    reducer = fits[name]
    fitted = from_umap(reducer)
    np.testing.assert_array_equal(dense(fitted.fuzzy_set), reducer.graph_.toarray())
    np.testing.assert_array_equal(fitted.embedding, reducer.embedding_)
    assert fitted.graph.n_neighbors == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_the_neighbors_give_the_memberships_again(name, fits):
    reducer = fits[name]
    graph = from_umap(reducer).graph
    ours = tp.fuzzy_simplicial_set(
        graph,
        local_connectivity=reducer.local_connectivity,
        set_op_mix_ratio=reducer.set_op_mix_ratio,
    )
    np.testing.assert_allclose(strong(ours), reducer.graph_.toarray(), atol=TOLERANCE[name])


@pytest.mark.slow
def test_either_of_two_neighbors_at_one_distance_may_be_listed():
    grid = np.mgrid[:17, :17].reshape(2, -1).T.astype(np.float32)
    for metric in ("euclidean", "manhattan"):
        reducer = fit(grid, metric=metric)
        fitted = from_umap(reducer)
        np.testing.assert_array_equal(dense(fitted.fuzzy_set), reducer.graph_.toarray())


@pytest.mark.slow
def test_recall_of_an_approximate_search_is_measured(fits, points):
    reducer = fits["approximate"]
    assert float(from_umap(fits["small"]).graph.recall) == 1
    exact = np.asarray(tp.knn_graph(points, n_neighbors=8).distances)[:, -1]
    found = np.asarray(from_umap(reducer).graph.distances)
    true = (found <= exact[:, None] * (1 + 1e-5)).mean()
    # 256 of 300 points are looked at.
    assert abs(float(from_umap(reducer).graph.recall) - true) < 0.01


@pytest.mark.slow
def test_duplicates_need_not_list_themselves(points):
    twice = np.concatenate([points[:40]] * 2 + [np.repeat(points[:1], 20, axis=0)])
    for options in ({}, {"force_approximation_algorithm": True}):
        reducer = fit(twice, **options)
        fitted = from_umap(reducer)
        np.testing.assert_array_equal(dense(fitted.fuzzy_set), reducer.graph_.toarray())
        tp.fuzzy_simplicial_set(fitted.graph)  # checks the graph


@pytest.mark.slow
def test_supervised_memberships_are_kept(points, digits):
    labels = digits[1][:300]
    reducer = fit(points, labels)
    fitted = from_umap(reducer)
    np.testing.assert_array_equal(dense(fitted.fuzzy_set), reducer.graph_.toarray())
    plain = tp.fuzzy_simplicial_set(fitted.graph)
    assert dense(fitted.fuzzy_set)[labels[:, None] != labels].sum() < 0.5 * (
        dense(plain)[labels[:, None] != labels].sum()
    )
    np.testing.assert_allclose(
        strong(tp.fuzzy_simplicial_set(fitted.graph, labels=labels)),
        reducer.graph_.toarray(),
        atol=1e-5,
    )


@pytest.mark.slow
def test_the_stages_go_on_from_there(fits, points):
    fitted = from_umap(fits["small"])
    scores = tp.structural_complexity(fitted.embedding, patch_size=16)
    selection = tp.select(fitted.fuzzy_set, scores, 0.9)
    assert len(set(np.asarray(selection.kept).tolist())) == 30
    own = tp.fuzzy_simplicial_set(fitted.graph)
    np.testing.assert_allclose(fitted.fuzzy_set.degrees, own.degrees, rtol=1e-4, atol=0.1)


@pytest.mark.slow
def test_rank_takes_the_neighbors(fits, points):
    ranking = tp.rank(points, 0.9, neighbors=from_umap(fits["approximate"]).graph)
    assert 0.9 < float(ranking.recall) <= 1
    assert ranking.kept.shape == (30,)


@pytest.mark.slow
def test_fits_without_neighbors_of_their_own_are_said(fits, points):
    umap = pytest.importorskip("umap", reason="umap-learn is not installed")
    with pytest.raises(ValueError, match=r"must be fitted.*Call `reducer.fit\(features\)` first"):
        from_umap(umap.UMAP())
    with pytest.raises(ValueError, match=r"unique=True: its graph has 20 points .* 25"):
        from_umap(fit(np.concatenate([points[:20], points[:5]]), unique=True))
    with pytest.raises(ValueError, match="as after a fit to numeric targets"):
        from_umap(fit(points, points[:, 20] + points[:, 30], target_metric="l2"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        joined = fits["small"] + fits["cosine"]
    with pytest.raises(ValueError, match="joined of several"):
        from_umap(joined)
