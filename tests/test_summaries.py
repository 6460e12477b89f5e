import gudhi
import gudhi.hera
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads
from tiers import tiers

import topoprune_jax as tp
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


# The other summaries. `hand` has bars (0, 1), (0, 2) and (0, inf) in dimension 0.

HAND = np.array([[0.0], [1.0], [3.0]], np.float32)


def hand():
    return vietoris_rips(HAND, dims=(0,))


def cloud(rng, n=14):
    return jnp.asarray(rng.normal(size=(n, 2)))


def bars_of(diagram, dim):
    chosen = np.asarray(diagram.valid & (diagram.dims == dim))
    return np.asarray(diagram.births)[chosen], np.asarray(diagram.deaths)[chosen]


def test_entropy_by_hand_and_of_equal_bars():
    np.testing.assert_allclose(
        tp.persistent_entropy(hand()), np.log(3) / 3 + 2 / 3 * np.log(1.5), rtol=1e-6
    )
    even = vietoris_rips(np.arange(9.0)[:, None], dims=(0,))
    np.testing.assert_allclose(tp.persistent_entropy(even), np.log(8), rtol=1e-6)
    assert tp.persistent_entropy(vietoris_rips([[0.0]], dims=(0,))) == 0
    assert jnp.isfinite(
        jax.grad(lambda x: tp.persistent_entropy(vietoris_rips(x)))(jnp.zeros((5, 2)))
    ).all()


def test_betti_curve_counts_bars(rng):
    diagram = vietoris_rips(cloud(rng, 30))
    grid = np.linspace(0, 3, 50)
    for dim in (0, 1):
        births, deaths = bars_of(diagram, dim)
        expected = [((births <= t) & (t < deaths)).sum() for t in grid.astype(np.float32)]
        np.testing.assert_array_equal(tp.betti_curve(diagram, grid, dim=dim), expected)
    sharp = tp.betti_curve(hand(), [0.5, 1.5, 9.0], dim=0, smoothing=1e-3)
    np.testing.assert_allclose(sharp, [3, 2, 1], atol=1e-6)


def test_landscape_by_hand_and_by_sorting(rng):
    layers = tp.persistence_landscape(hand(), [0.5, 1.0, 1.75, 4.0], dim=0, n_layers=3)
    np.testing.assert_allclose(layers, [[0.5, 1, 0.25, 0], [0.5, 0, 0, 0], [0, 0, 0, 0]])
    diagram, grid = vietoris_rips(cloud(rng, 30)), np.linspace(0, 2, 20)
    births, deaths = bars_of(diagram, 1)
    tents = np.maximum(0, np.minimum(grid[:, None] - births, deaths - grid[:, None]))
    expected = -np.sort(-tents, axis=1)[:, :2].T
    found = tp.persistence_landscape(diagram, grid, dim=1, n_layers=2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    many = tp.persistence_landscape(hand(), grid, dim=0, n_layers=9)
    assert many.shape == (9, 20)


def test_landscapes_are_stable(x64, rng):
    points = cloud(rng, 20)
    moved = points + 0.05 * jnp.asarray(rng.uniform(-1, 1, size=points.shape))
    diagrams, grid = [vietoris_rips(x) for x in (points, moved)], np.linspace(0, 3, 200)
    for dim in (0, 1):
        left, right = (tp.persistence_landscape(d, grid, dim=dim, n_layers=5) for d in diagrams)
        assert np.abs(left - right).max() <= tp.bottleneck_distance(*diagrams, dim=dim) + 1e-12


def test_silhouette_by_hand():
    found = tp.persistence_silhouette(hand(), [0.5, 1.0], dim=0, power=2)
    np.testing.assert_allclose(found, [(1 * 0.5 + 4 * 0.5) / 5, 4 / 5], rtol=1e-6)
    none = tp.persistence_silhouette(vietoris_rips(HAND), [0.5], dim=1)
    assert none.tolist() == [0.0]


def test_image_holds_the_weights(x64):
    image = tp.persistence_image(
        hand(),
        dim=0,
        birth_range=(-1.0, 1.0),
        lifetime_range=(0.0, 4.0),
        resolution=(1, 4),
        bandwidth=0.02,
    )
    # Lifetimes 1 and 2 lie on the border between two pixels, half of each on either side.
    np.testing.assert_allclose(image[0], [0.125, 0.125 + 0.25, 0.25, 0], atol=1e-7)
    whole = tp.persistence_image(
        hand(), dim=0, birth_range=(-9.0, 9.0), lifetime_range=(-9.0, 12.0), bandwidth=0.5
    )
    np.testing.assert_allclose(whole.sum(), (1 + 2) / 12, rtol=1e-6)


def test_sliced_wasserstein_on_every_line(x64, rng):
    left, right = vietoris_rips(cloud(rng)), vietoris_rips(1.3 * cloud(rng, 11))
    a, b = (np.stack(bars_of(d, 1), axis=1) for d in (left, right))
    middle = [np.repeat(x.mean(axis=1, keepdims=True), 2, axis=1) for x in (a, b)]
    expected = []
    for m in range(8):
        angle = -np.pi / 2 + (m + 0.5) * np.pi / 8
        line = np.array([np.cos(angle), np.sin(angle)])
        us, them = np.vstack([a, middle[1]]) @ line, np.vstack([b, middle[0]]) @ line
        expected.append(scipy.stats.wasserstein_distance(us, them) * len(us))
    found = tp.sliced_wasserstein(left, right, dim=1, n_directions=8)
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-10)
    assert tp.sliced_wasserstein(left, left, dim=1) == 0
    np.testing.assert_allclose(tp.sliced_wasserstein(right, left, dim=1, n_directions=8), found)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_distances_between_diagrams_are_gudhis(x64, rng, order):
    left, right = vietoris_rips(cloud(rng, 25)), vietoris_rips(cloud(rng, 18))
    for dim in (0, 1):
        a, b = (np.stack(bars_of(d, dim), axis=1) for d in (left, right))
        exact = tp.wasserstein_distance(left, right, dim=dim, order=order)
        near = gudhi.hera.wasserstein_distance(a, b, order=order, internal_p=np.inf, delta=0.001)
        np.testing.assert_allclose(exact, near, rtol=0.002)
        np.testing.assert_allclose(
            tp.bottleneck_distance(left, right, dim=dim), gudhi.bottleneck_distance(a, b)
        )
    truncated = vietoris_rips(cloud(rng, 25), max_edge_length=0.1)
    assert tp.wasserstein_distance(left, truncated, dim=0) == np.inf
    assert tp.bottleneck_distance(left, truncated, dim=0) == np.inf
    with pytest.raises(ValueError, match="must be the diagram of one point cloud"):
        tp.bottleneck_distance(jax.vmap(vietoris_rips)(jnp.zeros((2, 3, 2))), left, dim=0)
    with pytest.raises(TypeError, match="computed on the host"):
        jax.jit(lambda x: tp.bottleneck_distance(vietoris_rips(x), left, dim=0))(HAND)
    with pytest.raises(ValueError, match=r"which has \(0, 1\); got 2"):
        tp.bottleneck_distance(left, left, dim=2)


GRID = np.linspace(0.1, 2, 7)
RANGES = {"birth_range": (0.0, 2.0), "lifetime_range": (0.0, 2.0)}
SUMMARIES = {
    "total persistence": total_persistence,
    "entropy": tp.persistent_entropy,
    "betti": lambda d: tp.betti_curve(d, GRID, dim=1, smoothing=0.1),
    "betti 0": lambda d: tp.betti_curve(d, GRID, dim=0, smoothing=0.1),
    "landscape": lambda d: tp.persistence_landscape(d, GRID, dim=0),
    "silhouette": lambda d: tp.persistence_silhouette(d, GRID, dim=0, power=2),
    "image": lambda d: tp.persistence_image(d, dim=1, **RANGES, resolution=(3, 4), bandwidth=0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SUMMARIES)
def test_summaries_have_second_derivatives(x64, rng, name):
    check_grads(
        jax.jit(number_of(name)),
        (cloud(rng, 12),),
        order=2,
        modes=["rev"],
        eps=1e-6,
        atol=1e-3,
    )


def number_of(name):
    def number(x):
        values = SUMMARIES[name](vietoris_rips(x))
        return jnp.sum(values * jnp.cos(jnp.arange(values.size).reshape(values.shape)))

    return number


MOSTLY = tiers(SUMMARIES, ["image"])


@pytest.mark.parametrize("name", MOSTLY)
def test_summaries_under_every_transformation(x64, rng, name):
    points = jnp.asarray(rng.normal(size=(3, 12, 2)))
    check_grads(jax.jit(number_of(name)), (points[0],), order=1, modes=["rev"], eps=1e-6)
    expected = [SUMMARIES[name](vietoris_rips(x)) for x in points]
    batch = jax.jit(jax.vmap(vietoris_rips))(points)
    np.testing.assert_allclose(SUMMARIES[name](batch), expected, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(SUMMARIES[name])(batch), expected, atol=1e-12)
    scanned = jax.lax.scan(lambda c, x: (c, SUMMARIES[name](vietoris_rips(x))), None, points)[1]
    np.testing.assert_allclose(scanned, expected, atol=1e-12)


@pytest.mark.parametrize("name", MOSTLY)
def test_summaries_of_a_bad_cloud_are_nan_and_of_no_bars_finite(rng, name):
    points = jnp.asarray(rng.normal(size=(3, 8, 2)), jnp.float32).at[1, 0, 0].set(jnp.nan)
    values = np.asarray(SUMMARIES[name](jax.jit(jax.vmap(vietoris_rips))(points)))
    finite = np.isfinite(values.reshape(3, -1)).all(axis=1)
    assert finite.tolist() == [True, False, True]
    assert np.isnan(values[1]).all()
    one = np.asarray(SUMMARIES[name](vietoris_rips([[0.0, 1.0]])))
    assert np.isfinite(one).all()


def test_sliced_wasserstein_has_derivatives_and_batches(x64, rng):
    points = jnp.asarray(rng.normal(size=(2, 3, 9, 2)))

    def distance(x, y):
        return tp.sliced_wasserstein(vietoris_rips(x), vietoris_rips(y), dim=1, n_directions=5)

    check_grads(jax.jit(distance), (points[0, 0], points[1, 0]), order=1, modes=["rev"], eps=1e-6)
    batch = [jax.vmap(vietoris_rips)(x) for x in points]
    together = tp.sliced_wasserstein(*batch, dim=1, n_directions=5)
    np.testing.assert_allclose(together, [distance(*pair) for pair in zip(*points, strict=True)])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda d: tp.betti_curve(d, [[1.0]], dim=0), "`grid` must be a list of scales"),
        (lambda d: tp.betti_curve(d, [np.nan], dim=0), "`grid` must be finite"),
        (lambda d: tp.betti_curve(d, [1.0], dim=2), r"which has \(0,\); got 2"),
        (lambda d: tp.betti_curve(d, [1.0], dim=0, smoothing=0.0), "`smoothing` must be at least"),
        (lambda d: tp.persistence_landscape(d, [1.0], dim=0, n_layers=0), "`n_layers` must be at"),
        (
            lambda d: tp.persistence_image(
                d, dim=0, birth_range=(1.0, 0.0), lifetime_range=(0.0, 1.0), bandwidth=0.1
            ),
            "`birth_range` must be a lower and a higher end",
        ),
    ],
)
def test_wrong_arguments_of_summaries_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call(hand())
