"""The share of noise, against scikit-learn and SciPy, by hand, and where it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree
from sklearn.linear_model import LinearRegression
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import _axes


def share(points):
    return float(tp.noise_share(points, normalize=False))


def oracle(points):
    """What a regression of every feature on all others leaves, and half of what lies between
    nearest samples, in shares of the variance."""
    n, d = points.shape
    left = 0.0
    for j in range(d):
        others = np.delete(points, j, axis=1)
        guess = LinearRegression().fit(others, points[:, j]).predict(others)
        left += np.sum((points[:, j] - guess) ** 2) / (n - d)
    return left / points.var(axis=0).sum(), apart(points)


def apart(points):
    nearest = cKDTree(points).query(points, 2)[0][:, 1]
    return np.median(nearest**2) / (2 * points.var(axis=0).sum())


@pytest.mark.parametrize("kind", tiers(["independent", "plane", "noisy plane"], ["noisy plane"]))
def test_against_scikit_learn_and_scipy(kind):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(400, 2)) @ generator.normal(size=(2, 8))
    points += {"independent": 5.0, "plane": 0.02, "noisy plane": 0.7}[kind] * generator.normal(
        size=points.shape
    )
    assert share(points) == pytest.approx(min(oracle(points)), rel=2e-3, abs=2e-4)


def test_the_regression_tells_where_samples_lie_far_apart():
    """In eight dimensions nearest samples differ by much that is no noise."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(200, 8)) @ generator.normal(size=(8, 12))
    points += 0.6 * generator.normal(size=points.shape)
    left, between = oracle(points)
    assert left < 0.8 * between
    assert share(points) == pytest.approx(left, rel=5e-3)


def test_by_hand():
    """0, 1 and 3: variance 14/9, nearest at squared distances 1, 1 and 4; u is 3/2."""
    assert share(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(9 / 28)


@pytest.mark.parametrize("sigma", tiers([0.25, 0.5, 1.0], [0.5]))
def test_of_a_plane_it_is_what_was_added(sigma):
    generator = np.random.default_rng(1)
    plane = generator.normal(size=(2000, 3)) @ generator.normal(size=(3, 60))
    noise = sigma * plane.std(axis=0) * generator.normal(size=plane.shape)
    wanted = sigma**2 / (1 + sigma**2)
    assert share(plane) < 0.01
    # The nearest of many is nearest by chance too, of noise above all.
    assert (0.65 - 0.2 * sigma) * wanted < share(plane + noise) < 1.1 * wanted


def test_neither_place_nor_scale_nor_order_matter(digits):
    x = digits[0][:300].astype(float)
    once = share(x)
    for moved in (1e12 * x + 3e12, 1e-20 * x, x[::-1]):
        assert share(moved) == pytest.approx(once, rel=1e-3)
    assert float(tp.noise_share(x)) == pytest.approx(
        float(tp.noise_share(x * np.arange(1, 301)[:, None])), rel=1e-4
    )


@pytest.mark.parametrize(
    "points",
    [np.ones((5, 3)), np.repeat(np.eye(4), 2, axis=0), [[1.0, 2.0], [1.0, 2.0]]],
    ids=["all equal", "twice each", "two"],
)
def test_copies_have_no_noise(points):
    assert share(points) == 0


def test_features_that_others_determine_and_few_samples():
    generator = np.random.default_rng(2)
    x = generator.normal(size=(200, 5))
    assert share(np.concatenate([x, x, np.ones((200, 2))], axis=1)) < 1e-3
    few = generator.normal(size=(6, 6))  # the regression would leave nothing
    assert share(few) == pytest.approx(apart(few), rel=1e-4)


def test_many_are_looked_at_evenly(digits, monkeypatch):
    expected = float(tp.noise_share(digits[0][::4]))
    monkeypatch.setattr(_axes, "SAMPLE", 450)
    assert float(tp.noise_share(digits[0])) == pytest.approx(expected, rel=1e-5)


def test_under_jit_and_vmap(digits):
    x = jnp.asarray(digits[0][:256], jnp.float32).reshape(2, 128, -1)
    each = [float(tp.noise_share(part)) for part in x]
    np.testing.assert_allclose(jax.jit(jax.vmap(tp.noise_share))(x), each, rtol=1e-5)
