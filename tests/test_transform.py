"""New points on an old embedding: quality against umap-learn, independence, derivatives, limits."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier

import topoprune_jax as tp
from topoprune_jax._transform import _nearest


@pytest.fixture(scope="module")
def halves(digits):
    order = np.random.default_rng(0).permutation(len(digits[0]))
    return order[:1200], order[1200:]


@pytest.fixture(scope="module")
def state(digits, halves):
    points = digits[0][halves[0]]
    z = tp.embed(tp.fuzzy_simplicial_set(tp.knn_graph(points)), key=jax.random.key(0))
    return tp.ManifoldState(points, z)


def accuracy(labels, halves, z_old, z_new):
    """Of 5 nearest neighbors among the old points."""
    old, new = halves
    return KNeighborsClassifier(5).fit(z_old, labels[old]).score(z_new, labels[new])


def test_new_points_fall_among_their_kind(digits, halves, state):
    places = np.asarray(tp.transform(state, digits[0][halves[1]]))
    assert accuracy(digits[1], halves, np.asarray(state.embedding), places) > 0.95


@pytest.mark.slow
def test_new_points_fall_where_umap_learns_do(digits, halves, state):
    """kNN accuracy of unseen digits is that of umap-learn's transform, to a point and a half."""
    points, labels = digits
    old, new = halves
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import umap

        theirs = umap.UMAP(n_neighbors=16, random_state=0).fit(points[old])
        reference = accuracy(labels, halves, theirs.embedding_, theirs.transform(points[new]))
    places = np.asarray(tp.transform(state, points[new]))
    ours = accuracy(labels, halves, np.asarray(state.embedding), places)
    assert ours > reference - 0.015


def test_a_place_does_not_depend_on_the_batch(digits, halves, state):
    new = digits[0][halves[1]][:200]
    whole = np.asarray(tp.transform(state, new))
    np.testing.assert_array_equal(whole[::-1], tp.transform(state, new[::-1]))
    for i in (0, 7, 150):
        np.testing.assert_array_equal(whole[i : i + 1], tp.transform(state, new[i : i + 1]))


def test_embedded_points_come_back_near_their_place(digits, halves, state):
    again = np.asarray(tp.transform(state, digits[0][halves[0]]))
    moved = np.linalg.norm(again - np.asarray(state.embedding), axis=1)
    assert np.median(moved) < 0.05 * np.ptp(state.embedding, axis=0).max()


@pytest.mark.parametrize("kind", ["plain", "far clusters", "copies", "outlier"])
def test_neighbors_are_the_true_ones_whatever_the_rounding(rng, kind):
    """Against differences in float64."""
    points = rng.normal(size=(400, 6))
    if kind == "far clusters":
        points = points * 1e-5 + 10 * rng.integers(0, 2, size=(400, 1))
    elif kind == "copies":
        points = np.repeat(points[:10], 40, axis=0)
    elif kind == "outlier":
        points[7] = 1e7
    points = points.astype(np.float32)
    new = points[rng.choice(400, 150)] + np.float32(1e-6) * rng.normal(size=(150, 6))
    new = new.astype(np.float32)
    state = tp.ManifoldState(points, points[:, :2])
    found = np.asarray(_nearest(state, jnp.asarray(new)))[:150]
    distances = cdist(new.astype(np.float64), points.astype(np.float64))
    least = np.sort(distances, axis=1)[:, :15]
    np.testing.assert_allclose(
        np.sort(np.take_along_axis(distances, found, axis=1), axis=1), least, rtol=1e-4, atol=1e-9
    )
    assert all(len(set(row)) == 15 for row in found.tolist())


def test_derivatives(rng, x64):
    points, z = rng.normal(size=(60, 5)), rng.normal(size=(60, 2))
    state = tp.ManifoldState(points, z, n_neighbors=6)
    new = jnp.asarray(rng.normal(size=(3, 5)))
    check_grads(lambda x: tp.transform(state, x), (new,), order=1, modes=["fwd", "rev"], eps=1e-6)


def test_memberships_solve_their_equation(rng):
    from topoprune_jax import _transform

    distances = jnp.asarray(np.sort(rng.uniform(0.1, 5, size=15)), jnp.float32)
    mu = np.asarray(_transform._memberships(distances))
    np.testing.assert_allclose(mu.sum(), np.log2(16), rtol=1e-4)
    assert (np.diff(mu) <= 0).all()


def test_degenerate_points_are_finite(rng):
    same = tp.ManifoldState(np.ones((20, 3)), rng.normal(size=(20, 2)), n_neighbors=5)
    for new in (np.ones((2, 3)), np.full((2, 3), 1e6)):
        assert bool(jnp.isfinite(tp.transform(same, new)).all())


@pytest.mark.parametrize("scale", [2.0**70, 2.0**-80])
def test_scale_changes_no_place(rng, scale):
    points, z, new = (
        rng.normal(size=shape).astype(np.float32) for shape in ((300, 6), (300, 2), (20, 6))
    )
    plain = tp.transform(tp.ManifoldState(points, z), new)
    scaled = tp.ManifoldState(points * np.float32(scale), z)
    np.testing.assert_array_equal(tp.transform(scaled, new * np.float32(scale)), plain)


def test_far_points_are_finite_and_move_no_other(rng):
    state = tp.ManifoldState(rng.normal(size=(50, 3)), rng.normal(size=(50, 2)))
    new = rng.normal(size=(4, 3)).astype(np.float32)
    far = new * np.float32([[1e20], [1e37], [1], [1]])
    places, slopes = jax.jit(jax.value_and_grad(lambda x: jnp.sum(tp.transform(state, x))))(far)
    assert bool(jnp.isfinite(places) & jnp.isfinite(slopes).all())
    np.testing.assert_array_equal(tp.transform(state, far)[2:], tp.transform(state, new)[2:])


def test_under_jit_and_vmap(rng, state, digits):
    new = jnp.asarray(digits[0][:6])
    plain = tp.transform(state, new)
    np.testing.assert_allclose(jax.jit(tp.transform)(state, new), plain, atol=1e-4)
    batch = jax.vmap(lambda x: tp.transform(state, x[None])[0])(new)
    np.testing.assert_allclose(batch, plain, atol=1e-3)


def test_rejects_bad_arguments(state, rng):
    with pytest.raises(ValueError, match="`new_points` must have 64 columns"):
        tp.transform(state, np.zeros((3, 5)))
    with pytest.raises(ValueError, match="must have a row for each of the 10 points"):
        tp.ManifoldState(rng.normal(size=(10, 3)), rng.normal(size=(9, 2)))
    with pytest.raises(ValueError, match="`n_neighbors` must be between 2 and 10"):
        tp.ManifoldState(rng.normal(size=(10, 3)), rng.normal(size=(10, 2)))
