"""Linear discriminant coordinates, against scikit-learn and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tiers import tiers

import topoprune_jax as tp


@pytest.fixture(scope="module")
def classes():
    """Four classes of as many samples each, which differ in three of twelve features."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 150)
    x = rng.normal(size=(600, 12)) @ rng.normal(size=(12, 12))
    x[:, :3] += 4 * rng.normal(size=(4, 3))[y]
    return x, y


def test_against_scikit_learn(classes):
    x, y = classes
    theirs = LinearDiscriminantAnalysis(solver="svd").fit(x, y).transform(x)
    ours = tp.discriminant_coordinates(x, y, shrinkage=0.0, normalize=False)
    assert ours.shape == theirs.shape == (600, 3)
    np.testing.assert_allclose(pdist(np.asarray(ours)), pdist(theirs), rtol=1e-3)


def test_within_classes_the_covariance_is_the_identity(classes):
    x, y = classes
    z = np.asarray(tp.discriminant_coordinates(x, y, shrinkage=0.0), np.float64)
    residual = z - np.stack([z[y == c].mean(axis=0) for c in range(4)])[y]
    np.testing.assert_allclose(residual.T @ residual / 600, np.eye(3), atol=1e-3)


def test_by_hand():
    """Classes apart by 2 along the first axis; spread 1 along it and 10 along the second."""
    x = np.array([[0, 10], [2, -10], [0, -10], [2, 10]], float)
    x = np.concatenate([x, x + np.array([4, 0])])
    z = np.asarray(
        tp.discriminant_coordinates(x, np.arange(8) // 4, shrinkage=0.0, normalize=False)
    )
    np.testing.assert_allclose(np.sort(np.abs(z[:, 0])), [1, 1, 1, 1, 3, 3, 3, 3], rtol=1e-5)


def test_neither_place_nor_scale_nor_names_matter(classes):
    x, y = classes
    plain = {"normalize": False, "shrinkage": 1e-3}
    once = pdist(np.asarray(tp.discriminant_coordinates(x, y, **plain)))
    for moved, names in [
        (x * 1e12 + 3e12, y),
        (x * 1e-20, 10 - 3 * y),
        (x, np.array(list("dbca"))[y]),
    ]:
        again = pdist(np.asarray(tp.discriminant_coordinates(moved, names, **plain)))
        np.testing.assert_allclose(again, once, rtol=2e-2)


@pytest.mark.parametrize(
    "change",
    tiers([tp.discriminant_coordinates, tp.discriminant_features], [tp.discriminant_features]),
)
def test_noise_that_hides_classes_from_neighbors_hides_them_less_here(change):
    x, y = load_digits(return_X_y=True)
    x = x + 12 * np.random.default_rng(0).normal(size=x.shape)

    def share(points):
        graph = tp.knn_graph(points, n_neighbors=15)
        return float(np.mean(np.asarray(tp.class_agreement(tp.fuzzy_simplicial_set(graph), y))))

    assert share(change(x, y)) > share(x) + 0.1


def test_the_coordinate_that_tells_most_is_first(classes):
    x, y = classes
    z = np.asarray(tp.discriminant_coordinates(x, y))
    apart = [np.var([column[y == c].mean() for c in range(4)]) for column in z.T]
    assert apart == sorted(apart, reverse=True)
    first = np.asarray(tp.discriminant_coordinates(x, y, n_components=1))
    np.testing.assert_allclose(np.abs(first[:, 0]), np.abs(z[:, 0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param(np.ones((6, 4)), [0, 0, 0, 1, 1, 1], id="all equal"),
        pytest.param(np.eye(6), np.arange(6), id="a class each"),
        pytest.param(np.eye(3)[[0, 0, 1, 1, 2, 2]], [0, 0, 1, 1, 2, 2], id="classes are points"),
        pytest.param(np.arange(6.0)[:, None], [0, 0, 1, 1, 2, 2], id="one feature"),
        pytest.param(
            np.random.default_rng(0).normal(size=(8, 40)), np.arange(8) % 2, id="few samples"
        ),
    ],
)
@pytest.mark.parametrize("shrinkage", [0.0, 1e-3, 1.0])
def test_degenerate_features(x, y, shrinkage):
    z = tp.discriminant_coordinates(x, y, shrinkage=shrinkage)
    assert z.shape == (len(x), min(x.shape[1], len(set(y)) - 1))
    assert np.isfinite(np.asarray(z)).all()


def test_traced_labels(classes):
    x, y = classes
    known = np.asarray(tp.discriminant_coordinates(x, y))
    traced = jax.jit(lambda x, y: tp.discriminant_coordinates(x, y, n_components=3))
    found = np.asarray(traced(jnp.asarray(x, jnp.float32), jnp.asarray(7 * y - 3)))
    np.testing.assert_allclose(np.abs(found), np.abs(known), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="`n_components` must be given while JAX traces `labels`"):
        jax.jit(tp.discriminant_coordinates)(jnp.asarray(x, jnp.float32), jnp.asarray(y))


def test_features_and_coordinates_weigh_alike(classes):
    x, y = classes
    both = np.asarray(tp.discriminant_features(x, y, shrinkage=0.0), np.float64)
    assert both.shape == (600, 15)
    means = np.stack([both[y == c].mean(axis=0) for c in range(4)])
    squares = np.mean((both - means[y]) ** 2, axis=0)
    assert squares[:12].sum() == pytest.approx(1, rel=1e-3)
    assert squares[12:].sum() == pytest.approx(1, rel=1e-3)


def test_the_parts_of_discriminant_features(classes):
    x, y = classes
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    both = np.asarray(tp.discriminant_features(x, y, weight=2.0))
    ratio = pdist(both[:, :12]) / pdist(unit)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    z = np.asarray(tp.discriminant_coordinates(x, y))
    np.testing.assert_allclose(both[:, 12:], 2 / np.sqrt(3) * z, rtol=1e-4, atol=1e-4)
    alone = np.asarray(tp.discriminant_features(x, y, weight=0.0))
    assert not alone[:, 12:].any()


def test_features_without_spread_within_classes_stay():
    x = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    both = np.asarray(tp.discriminant_features(x, [0, 0, 1, 1, 2, 2]))
    assert np.isfinite(both).all()
    assert len(np.unique(both.round(4), axis=0)) == 3
