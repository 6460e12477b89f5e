"""The structural complexity: against gudhi patch by patch, by hand, degenerate patches, laws."""

import gudhi
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import pairwise_distances
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import _graph
from topoprune_jax._graph_approximate import BlockSearch
from topoprune_jax._graph_groups import GroupSearch


def oracle(points, patch_size, labels=None, dims=(0,), power=1.0):
    """Total persistence of every patch by gudhi's SimplexTree on brute-force neighbors."""
    points = np.asarray(points, np.float64)
    distances = pairwise_distances(points)
    if labels is not None:
        distances[labels[:, None] != labels[None, :]] = np.inf
    scores = []
    for row in distances:
        patch = np.argsort(row, kind="stable")[:patch_size]
        patch = patch[np.isfinite(row[patch])]
        tree = gudhi.RipsComplex(points=points[patch]).create_simplex_tree(max(dims) + 1)
        tree.compute_persistence(homology_coeff_field=2, persistence_dim_max=True)
        bars = np.concatenate([tree.persistence_intervals_in_dimension(dim) for dim in dims])
        bars = bars[np.isfinite(bars).all(axis=1)]
        scores.append(np.sum((bars[:, 1] - bars[:, 0]) ** power))
    return np.asarray(scores)


@pytest.mark.parametrize(
    ("dims", "power", "by_class"),
    [((0,), 1.0, False), ((0,), 1.0, True), ((0,), 0.5, False), ((0, 1), 2.0, False)],
)
def test_equals_gudhi_on_every_patch(rng, dims, power, by_class):
    points = rng.normal(size=(150, 2)).astype(np.float32)
    labels = rng.integers(0, 3, size=150) if by_class else None
    ours = tp.structural_complexity(points, labels=labels, patch_size=16, dims=dims, power=power)
    np.testing.assert_allclose(ours, oracle(points, 16, labels, dims, power), rtol=1e-4)


def test_by_hand():
    """On the line 0, 1, 3, 7 a patch of 3 spans 3, 3, 3 and 6."""
    scores = tp.structural_complexity([[0.0], [1.0], [3.0], [7.0]], patch_size=3)
    assert scores.tolist() == [3, 3, 3, 6]


def test_small_classes_have_small_patches():
    points = np.array([[0.0], [1.0], [2.0], [10.0], [50.0]])
    scores = tp.structural_complexity(points, labels=["a", "a", "a", "b", "c"], patch_size=4)
    assert scores.tolist() == [2, 2, 2, 0, 0]


@pytest.mark.parametrize("dims", tiers([(0,), (0, 1)], [(0, 1)]))
def test_displacement_of_a_small_class_is_that_of_its_points_alone(rng, dims):
    few = rng.normal(size=(6, 2)).astype(np.float32)
    points = np.concatenate([few, 50 + rng.normal(size=(40, 2)).astype(np.float32)])
    given = {"patch_size": 16, "method": "displacement", "dims": dims}
    within = tp.structural_complexity(points, labels=[0] * 6 + [1] * 40, **given)
    np.testing.assert_allclose(within[:6], tp.structural_complexity(few, **given), rtol=1e-5)


@pytest.mark.parametrize("method", ["total_persistence", "displacement"])
def test_equal_points_have_complexity_0(method):
    scores = tp.structural_complexity(np.ones((20, 2)), patch_size=8, method=method)
    assert scores.tolist() == [0] * 20


def test_one_point():
    assert tp.structural_complexity([[3.0, 4.0]]).tolist() == [0]


@pytest.mark.slow
def test_displacement_ranks_like_total_persistence(digits):
    z = tp.embed(tp.fuzzy_simplicial_set(tp.knn_graph(digits[0])), key=jax.random.key(0))
    cheap = tp.structural_complexity(z)
    moved = tp.structural_complexity(z, method="displacement")
    assert spearmanr(cheap, moved).statistic > 0.8


def test_displacement_by_hand():
    """Two points at distance 1: each step moves both by step_size * 2 * distance, together."""
    scores = tp.structural_complexity(
        [[0.0], [1.0]], patch_size=2, method="displacement", n_steps=2, step_size=0.05
    )
    # After a step of 0.05 the distance is 1 - 4 * 0.05 = 0.8, so it is 0.64 after two.
    np.testing.assert_allclose(scores, [1 - 0.64, 1 - 0.64], rtol=1e-6)


def test_laws(rng):
    points = rng.normal(size=(120, 2)).astype(np.float32)
    scores = tp.structural_complexity(points, patch_size=12)
    order = rng.permutation(120)
    np.testing.assert_allclose(
        tp.structural_complexity(points[order], patch_size=12), scores[order], rtol=1e-5
    )
    scaled = tp.structural_complexity(points * np.float32(4), patch_size=12)
    np.testing.assert_allclose(scaled, 4 * scores, rtol=1e-5)
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    turned = tp.structural_complexity(points @ turn + np.float32(3), patch_size=12)
    np.testing.assert_allclose(turned, scores, rtol=1e-4)


def test_under_jit_and_vmap(rng):
    points = jnp.asarray(rng.normal(size=(2, 40, 2)), jnp.float32)
    batch = jax.jit(jax.vmap(lambda z: tp.structural_complexity(z, patch_size=8)))(points)
    one = tp.structural_complexity(points[1], patch_size=8)
    np.testing.assert_allclose(batch[1], one, rtol=1e-5)


def test_many_calls_give_what_one_gives(rng, monkeypatch):
    from topoprune_jax import _lanes, _score

    points = rng.normal(size=(700, 2)).astype(np.float32)
    whole = tp.structural_complexity(points, patch_size=8)
    calls = []
    monkeypatch.setattr(_lanes, "_MOST", 1)
    monkeypatch.setattr(_score, "_PATCHES_PER_CALL", 300)
    parts = tp.structural_complexity(
        points, patch_size=8, progress=lambda *call: calls.append(call)
    )
    np.testing.assert_array_equal(whole, parts)
    assert calls == [("complexity", done, 3) for done in range(4)]


@pytest.mark.slow
def test_patches_by_blocks_are_nearly_the_true_ones(rng):
    """Of many points in more than 4 dimensions, each of which is scored once."""
    places = rng.uniform(size=(20_001, 3))
    points = np.concatenate([places, np.sin(6 * places)], axis=1).astype(np.float32)
    exact = np.asarray(tp.structural_complexity(points, patch_size=16))
    asked = {"exact_up_to": 20_000}
    search = _graph.neighbor_search(jnp.asarray(points), 15, codes=None, **asked)
    assert isinstance(search, BlockSearch)
    found = np.asarray(tp.structural_complexity(points, patch_size=16, **asked))
    assert np.isclose(found, exact, rtol=1e-5).mean() > 0.9
    np.testing.assert_array_less(0, found)
    assert found.min() == pytest.approx(exact.min(), rel=0.2)
    correlation, _ = spearmanr(found, exact)
    assert correlation > 0.99


@pytest.mark.slow
def test_large_groups_are_sought_by_blocks_and_small_ones_exactly(rng):
    sizes = [9_000, 21_000, 40, 1]
    codes = rng.permutation(np.repeat(np.arange(4), sizes))
    places = rng.uniform(size=(len(codes), 3))
    points = np.concatenate([places, np.sin(6 * places)], axis=1).astype(np.float32)
    exact = np.asarray(tp.structural_complexity(points, labels=codes, patch_size=8))
    asked = {"exact_up_to": 20_000}
    search = _graph.neighbor_search(jnp.asarray(points), 7, codes=jnp.asarray(codes), **asked)
    assert isinstance(search, GroupSearch)
    found = np.asarray(tp.structural_complexity(points, labels=codes, patch_size=8, **asked))
    np.testing.assert_array_equal(found[codes != 1], exact[codes != 1])
    close = np.isclose(found, exact, rtol=1e-5)[codes == 1]
    assert close.mean() > 0.9
    correlation, _ = spearmanr(found[codes == 1], exact[codes == 1])
    assert correlation > 0.99


def test_rejects_bad_options(rng):
    points = rng.normal(size=(20, 2))
    with pytest.raises(ValueError, match=r"`patch_size` must be at least 2; got .*=1"):
        tp.structural_complexity(points, patch_size=1)
    with pytest.raises(ValueError, match=r"`method` must be .*; got 'entropy'"):
        tp.structural_complexity(points, method="entropy")
    with pytest.raises(ValueError, match="`n_steps` must be at least 1"):
        tp.structural_complexity(points, n_steps=0, method="displacement")
    with pytest.raises(ValueError, match=r"`step_size` must be between 0 and 1; got .*=1e\+30"):
        tp.structural_complexity(points, step_size=1e30, method="displacement")
    with pytest.raises(ValueError, match="`power` must be positive and finite; got 0"):
        tp.structural_complexity(points, power=0.0)
    with pytest.raises(ValueError, match="`dims` must name each dimension once"):
        tp.structural_complexity(points, dims=(0, 0))


def test_under_jit_a_bad_row_spoils_no_other(rng):
    points = rng.normal(size=(50, 2)).astype(np.float32)
    bad = points.copy()
    bad[9, 0] = np.nan
    scores = jax.jit(lambda z: tp.structural_complexity(z, patch_size=8))(bad)
    fine = np.delete(np.arange(50), 9)
    assert bool(jnp.isnan(scores[9]))
    expected = tp.structural_complexity(points[fine], patch_size=8)
    np.testing.assert_allclose(scores[fine], expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["total_persistence", "displacement"])
@pytest.mark.parametrize("scale", [2.0**90, 2.0**-90])
def test_extreme_scales(rng, method, scale):
    points = rng.normal(size=(60, 2)).astype(np.float32)
    plain = tp.structural_complexity(points, patch_size=8, method=method)
    scaled = tp.structural_complexity(points * np.float32(scale), patch_size=8, method=method)
    np.testing.assert_allclose(np.asarray(scaled) / scale, plain, rtol=1e-4)


def test_traced_labels_are_checked(rng):
    points = rng.normal(size=(60, 2)).astype(np.float32)
    with pytest.raises(ValueError, match=r"`labels` must have shape \(60,\)"):
        jax.jit(lambda y: tp.structural_complexity(points, labels=y))(jnp.zeros(59, jnp.int32))
    labels = jnp.asarray(rng.integers(-1, 3, size=60))
    jitted = jax.jit(lambda y: tp.structural_complexity(points, labels=y, patch_size=8))(labels)
    eager = tp.structural_complexity(points, labels=labels, patch_size=8)
    np.testing.assert_allclose(jitted, eager, rtol=1e-5)
