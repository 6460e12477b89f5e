"""Several embeddings at once: the alignment against SciPy's, the spread by hand, one call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.manifold import trustworthiness

import topoprune_jax as tp
from topoprune_jax import _ensemble


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(0).normal(size=(150, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def ensemble(points):
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    return tp.embed_ensemble(fuzzy_set, n_members=4, key=jax.random.key(0))


def test_alignment_is_scipys(rng):
    one, other = rng.normal(size=(2, 40, 3))
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    turn, _ = orthogonal_procrustes(one, other)
    ours = _ensemble.align(jnp.asarray(one, jnp.float32), jnp.asarray(other, jnp.float32))
    np.testing.assert_allclose(ours, one @ turn, atol=1e-5)


def test_moved_copies_have_no_spread(rng):
    """Turned, mirrored and shifted copies of one embedding are aligned exactly."""
    points = rng.normal(size=(50, 2))
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    copies = np.stack([points, points @ turn + 5, points * [1, -1] - 3]).astype(np.float32)
    aligned = _ensemble._align_all(jnp.asarray(copies))
    np.testing.assert_allclose(aligned.spread, 0, atol=1e-5)
    np.testing.assert_allclose(aligned.members, np.stack([aligned.mean] * 3), atol=1e-5)


def test_members_are_embeddings_that_differ(points, ensemble):
    assert ensemble.members.shape == (4, 150, 2)
    for member in ensemble.members:
        assert trustworthiness(points, np.asarray(member), n_neighbors=10) > 0.75
    assert not np.array_equal(ensemble.members[0], ensemble.members[1])


def test_spread_is_the_distance_to_the_mean(ensemble):
    members = np.asarray(ensemble.members)
    np.testing.assert_allclose(ensemble.mean, members.mean(axis=0), atol=1e-4)
    distance = np.linalg.norm(members - members.mean(axis=0), axis=2)
    np.testing.assert_allclose(ensemble.spread, np.sqrt((distance**2).mean(axis=0)), rtol=1e-3)


def test_rejects_bad_arguments(points):
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    with pytest.raises(ValueError, match="`n_members` must be at least 2"):
        tp.embed_ensemble(fuzzy_set, n_members=1, key=jax.random.key(0))
