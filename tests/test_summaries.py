import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from topoprune_jax import total_persistence, vietoris_rips

LINE = np.array([[0.0], [1.0], [3.0], [7.0]], np.float32)


@pytest.mark.parametrize(
    ("power", "expected"),
    [(1.0, 1 + 2 + 4), (2, 1 + 4 + 16), (0.5, 1 + np.sqrt(2) + 2)],
)
def test_gaps_of_points_on_a_line(power, expected):
    total = total_persistence(vietoris_rips(LINE, dims=(0,)), power=power)
    assert total.shape == ()
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_dims_are_summed_apart_and_together(rng):
    diagram = vietoris_rips(rng.normal(size=(20, 2)), dims=(0, 1, 2))
    parts = [total_persistence(diagram, dims=(dim,)) for dim in (0, 1, 2)]
    whole = total_persistence(diagram)
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-6)
    np.testing.assert_allclose(parts[0] + parts[1], total_persistence(diagram, dims=(0, 1)), 1e-6)
    for dim, part in enumerate(parts):
        chosen = np.asarray((diagram.dims == dim) & diagram.is_finite)
        np.testing.assert_allclose(part, np.asarray(diagram.lifetimes)[chosen].sum(), rtol=1e-6)


def test_essential_classes_count_for_nothing():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    diagram = vietoris_rips(square, max_edge_length=1.0)
    assert diagram.count.tolist() == [4, 1]
    assert total_persistence(diagram) == 3.0
    assert total_persistence(diagram, dims=(1,)) == 0.0


@pytest.mark.parametrize("power", [0.5, 3.0])
def test_derivative_is_exact(x64, rng, power):
    points = rng.normal(size=(9, 2))

    @jax.jit
    def total(x):
        return total_persistence(vietoris_rips(x), power=power)

    check_grads(total, (points,), order=2, modes=["rev"], atol=1e-3, rtol=1e-3, eps=1e-6)


@pytest.mark.parametrize(
    "points",
    [np.zeros((6, 2)), np.repeat(np.eye(3, 2), 2, axis=0)[:6], np.ones((1, 2))],
    ids=["identical", "duplicates", "one point"],
)
def test_derivative_is_finite_where_lifetimes_vanish(points):
    def total(x):
        return total_persistence(vietoris_rips(x), power=0.5)

    points = jnp.asarray(points, jnp.float32)
    value, slope = jax.jit(jax.value_and_grad(total))(points)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    assert np.isfinite(jax.jit(jax.jacrev(jax.grad(total)))(points)).all()


def test_a_batch_gives_one_number_a_cloud_and_nan_stays_where_it_is(rng):
    points = jnp.asarray(rng.normal(size=(3, 10, 2)), jnp.float32).at[1, 2, 0].set(jnp.nan)
    diagrams = jax.vmap(vietoris_rips)(points)
    totals = total_persistence(diagrams)
    assert totals.shape == (3,)
    assert np.isnan(totals).tolist() == [False, True, False]
    np.testing.assert_array_equal(totals, jax.vmap(total_persistence)(diagrams))


def test_a_masked_out_cloud_of_nan_has_no_gradient(rng):
    points = jnp.asarray(rng.normal(size=(2, 10, 2)), jnp.float32)

    def loss(x):
        totals = total_persistence(jax.vmap(vietoris_rips)(x))
        return jnp.sum(jnp.where(jnp.isnan(totals), 0, totals))

    slope = jax.grad(loss)(points.at[1].set(jnp.nan))
    np.testing.assert_array_equal(slope[0], jax.grad(loss)(points)[0])
    assert (slope[1] == 0).all()


def test_wrong_arguments_are_named():
    diagram = vietoris_rips(LINE, dims=(0,))
    for power in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="`power` must be positive and finite"):
            total_persistence(diagram, power=power)
    with pytest.raises(ValueError, match=r"which has \(0,\); got 1"):
        total_persistence(diagram, dims=(0, 1))
