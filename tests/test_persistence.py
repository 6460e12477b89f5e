import functools

import gudhi
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from tiers import tiers

from topoprune_jax import (
    RESULTS,
    _diagram,
    _flag,
    diagram_from_generators,
    rips_generators,
    total_persistence,
    vietoris_rips,
)
from topoprune_jax import _persistence as persistence
from topoprune_jax._flag import _descending

SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


def bars(diagram, dim):
    """Sorted bars (birth, death) of one dimension."""
    births, deaths, dims, generators = (
        np.asarray(leaf)
        for leaf in (diagram.births, diagram.deaths, diagram.dims, diagram.generators)
    )
    chosen = (dims == dim) & (generators[:, 0] >= 0)
    return sorted(zip(births[chosen].tolist(), deaths[chosen].tolist(), strict=True))


def gudhi_bars(points, dim, max_edge_length=np.inf):
    skeleton = gudhi.RipsComplex(
        distance_matrix=squareform(pdist(points)), max_edge_length=max_edge_length
    )
    tree = skeleton.create_simplex_tree(max_dimension=dim + 1)
    tree.compute_persistence(persistence_dim_max=True, homology_coeff_field=2)
    return sorted(map(tuple, tree.persistence_intervals_in_dimension(dim).tolist()))


def assert_same(left, right):
    """Bitwise equality of two pytrees of arrays, NaN equal to NaN."""
    left, right = jax.tree.leaves(left), jax.tree.leaves(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def loss(points, dims=(0, 1)):
    """Touches births and deaths of every finite bar, each in a way of its own."""
    diagram = vietoris_rips(points, dims=dims)
    return _loss_of(diagram)


def _loss_of(diagram):
    deaths = jnp.where(diagram.is_finite, diagram.deaths, 0)
    weights = jnp.arange(1, len(deaths) + 1, dtype=deaths.dtype)
    return jnp.sum(weights * jnp.sin(diagram.births) + deaths**2 / weights)


_total_slope = jax.jit(jax.grad(lambda points: total_persistence(vietoris_rips(points))))


def diagrams_and_slopes(points):
    return jax.vmap(vietoris_rips)(points), jax.vmap(jax.grad(loss))(points)


_diagrams_and_slopes = jax.jit(diagrams_and_slopes)


# Oracles


@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 2), (4, 2), (7, 3), (16, 2), (20, 6)])
def test_bars_are_those_of_gudhi(x64, rng, n, d):
    for _ in range(4):
        points = rng.normal(size=(n, d))
        diagram = vietoris_rips(points, dims=(0, 1, 2))
        assert diagram.births.dtype == jnp.float64
        for column, dim in enumerate((0, 1, 2)):
            expected = gudhi_bars(points, dim)
            np.testing.assert_allclose(
                np.reshape(bars(diagram, dim), (-1, 2)), np.reshape(expected, (-1, 2)), rtol=1e-12
            )
            assert diagram.count[column] == len(expected)


def test_float64_reaches_the_host_in_full(x64):
    # Float32 could not tell these apart: the longest side makes the loop, a diagonal ends it.
    points = SQUARE + 1e-11 * np.array([[0, 0], [9, 0], [3, 2], [0, 5]])
    diagram = vietoris_rips(points, dims=(1,))
    assert bars(diagram, 1) == [
        (np.max(pdist(points)[[0, 2, 3, 5]]), np.min(pdist(points)[[1, 4]]))
    ]
    tiny = vietoris_rips(points * 2.0**-700, dims=(1,))
    assert_same(tiny.generators, diagram.generators)
    assert_same(tiny.deaths, diagram.deaths * 2.0**-700)


def test_real_images_in_float32(digits):
    points = digits[0][:48]
    diagram = vietoris_rips(points)
    assert diagram.births.dtype == jnp.float32
    for dim in (0, 1):
        np.testing.assert_allclose(bars(diagram, dim), gudhi_bars(points, dim), rtol=1e-6)


def test_components_die_with_the_edges_of_a_minimum_spanning_tree(x64, rng):
    points = rng.normal(size=(50, 3))
    diagram = vietoris_rips(points, dims=(0,))
    tree = minimum_spanning_tree(squareform(pdist(points)))
    np.testing.assert_allclose(np.sort(diagram.deaths[1:]), np.sort(tree.data), rtol=1e-13)
    mine = {tuple(edge) for edge in np.asarray(diagram.generators[1:, 2:]).tolist()}
    assert mine == {tuple(sorted(edge)) for edge in np.transpose(tree.nonzero()).tolist()}


def test_every_point_but_one_is_the_birth_of_a_component_that_dies(rng):
    generators = np.asarray(vietoris_rips(rng.normal(size=(30, 2)), dims=(0,)).generators)
    assert sorted(generators[:, 0].tolist()) == list(range(30))
    np.testing.assert_array_equal(generators[:, 0], generators[:, 1])
    assert generators[0].tolist() == [0, 0, -1, -1]
    assert all(row[0] in row[2:] for row in generators[1:].tolist())


@pytest.mark.parametrize("max_edge_length", [0.0, 0.3, 0.7, 2.5])
def test_truncation_leaves_what_is_alive_essential(x64, rng, max_edge_length):
    angles = np.arange(10) * np.pi / 5
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.vstack([circle, 0.2 * rng.normal(size=(10, 2)) + 4])
    diagram = vietoris_rips(points, max_edge_length=max_edge_length)
    for dim in (0, 1):
        np.testing.assert_allclose(bars(diagram, dim), gudhi_bars(points, dim, max_edge_length))
    essential = np.isinf(np.asarray(diagram.deaths))
    assert essential[: int(essential[:20].sum())].all()
    np.testing.assert_array_equal(essential, diagram.valid & ~diagram.is_finite)


def test_cosine_is_that_of_scipy(x64, rng):
    points = rng.normal(size=(16, 5)) * np.exp(rng.normal(size=(16, 1)) * 20)
    diagram = vietoris_rips(points, metric="cosine", max_edge_length=1.1)
    matrix = squareform(pdist(points, "cosine"))
    tree = gudhi.RipsComplex(distance_matrix=matrix, max_edge_length=1.1).create_simplex_tree(2)
    tree.compute_persistence(homology_coeff_field=2)
    for dim in (0, 1):
        expected = sorted(map(tuple, tree.persistence_intervals_in_dimension(dim).tolist()))
        np.testing.assert_allclose(bars(diagram, dim), expected, rtol=1e-9, atol=1e-12)
    through = diagram_from_generators(
        points, rips_generators(points, metric="cosine", max_edge_length=1.1)
    )
    np.testing.assert_allclose(through.deaths, diagram.deaths, rtol=1e-9)
    with pytest.raises(ValueError, match="no row of zeros for the cosine metric"):
        vietoris_rips(np.eye(4)[:, :3], metric="cosine")
    with pytest.raises(ValueError, match="`metric` must be 'euclidean' or 'cosine'"):
        vietoris_rips(points, metric="manhattan")


# By hand


def test_unit_square():
    diagram = vietoris_rips(SQUARE)
    assert diagram.births.tolist() == [0.0] * 4 + [1.0] + [0.0] * 7
    np.testing.assert_array_equal(
        diagram.deaths, np.array([np.inf, 1, 1, 1, np.sqrt(2)] + [0] * 7, np.float32)
    )
    assert diagram.dims.tolist() == [0] * 4 + [1] * 8
    assert diagram.count.tolist() == [4, 1]
    assert diagram.lifetimes.tolist()[:4] == [np.inf, 1, 1, 1]
    assert diagram.lifetimes.tolist()[5:] == [0.0] * 7
    assert diagram.overflow.tolist() == [False, False]
    assert diagram.result == RESULTS.successful
    assert diagram.generators[5:].tolist() == [[-1] * 4] * 7


@pytest.mark.parametrize("n", [4, 7, 12, 25])
def test_regular_polygon(x64, n):
    angles = 2 * np.pi * np.arange(n) / n
    diagram = vietoris_rips(np.stack([np.cos(angles), np.sin(angles)], axis=1), dims=(1,))
    # Chords that are equal by symmetry differ by rounding, which may leave bars of length 1e-16.
    long = diagram.lifetimes > 1e-12
    assert long.tolist() == [True] + [False] * (2 * n - 1)
    np.testing.assert_allclose(diagram.births[0], 2 * np.sin(np.pi / n), rtol=1e-13)
    np.testing.assert_allclose(
        diagram.deaths[0], 2 * np.sin(np.pi * np.ceil(n / 3) / n), rtol=1e-13
    )


def test_two_points_pull_each_other():
    slope = _total_slope(jnp.array([[0.0, 0], [3, 4]]))
    np.testing.assert_allclose(slope, [[-0.6, -0.8], [0.6, 0.8]], rtol=1e-6)


# Degenerate clouds


@pytest.mark.parametrize(
    ("points", "components"),
    [
        (np.zeros((1, 2)), 1),
        (np.eye(2), 2),
        (np.eye(3), 3),
        (np.ones((12, 2)), 1),
        (np.repeat(SQUARE, 3, axis=0), 4),
        (np.arange(12.0)[:, None] * np.ones(2), 12),
        (np.full((12, 2), 1e30), 1),
    ],
    ids=["one", "two", "three", "all equal", "duplicates", "collinear", "all equal and far"],
)
def test_degenerate_clouds(points, components):
    points = jnp.asarray(points, jnp.float32)
    diagram, slope = _diagram_and_slope(points)
    assert diagram.result == RESULTS.successful
    assert diagram.count[0] == components
    assert np.isinf(diagram.deaths).sum() == 1
    assert np.isfinite(diagram.births).all()
    assert np.isfinite(slope).all()


@jax.jit
def _diagram_and_slope(points):
    def total(x):
        diagram = vietoris_rips(x, dims=(0, 1, 2))
        return total_persistence(diagram), diagram

    slope, diagram = jax.grad(total, has_aux=True)(points)
    return diagram, slope


def test_duplicates_change_only_the_number_of_points(rng):
    points = rng.normal(size=(12, 2)).astype(np.float32)
    once, twice = vietoris_rips(points), vietoris_rips(np.repeat(points, 2, axis=0))
    for dim in (0, 1):
        assert bars(once, dim) == bars(twice, dim)


def test_integer_grid_has_one_loop_a_cell():
    grid = np.stack(np.meshgrid(np.arange(5), np.arange(4)), axis=-1).reshape(-1, 2)
    diagram = vietoris_rips(grid)
    assert bars(diagram, 0) == [(0.0, 1.0)] * 19 + [(0.0, np.inf)]
    assert bars(diagram, 1) == [(1.0, float(np.float32(np.sqrt(2))))] * 12


@pytest.mark.parametrize("exponent", [-110, -40, 3, 60, 120])
def test_power_of_two_scaling_changes_no_bit_of_the_mantissa(rng, exponent):
    points = jnp.asarray(rng.normal(size=(24, 3)), jnp.float32)
    scale = np.float32(2.0**exponent)
    diagram, scaled = vietoris_rips(points), vietoris_rips(points * scale)
    np.testing.assert_array_equal(scaled.generators, diagram.generators)
    np.testing.assert_array_equal(scaled.births, np.asarray(diagram.births) * scale)
    np.testing.assert_array_equal(scaled.deaths, np.asarray(diagram.deaths) * scale)
    np.testing.assert_array_equal(_total_slope(points * scale), _total_slope(points))


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_squares_neither_overflow_nor_vanish(rng, scale):
    points = rng.normal(size=(16, 2))
    diagram = vietoris_rips((points * scale).astype(np.float32))
    expected = vietoris_rips(points.astype(np.float32))
    assert diagram.count.tolist() == expected.count.tolist()
    np.testing.assert_allclose(diagram.deaths[1:16] / scale, expected.deaths[1:16], rtol=1e-5)


def test_an_outlier_does_not_flatten_the_rest(rng):
    points = rng.normal(size=(16, 2)).astype(np.float32)
    far = np.vstack([points, np.full((1, 2), 1e18, np.float32)])
    assert bars(vietoris_rips(far), 1) == bars(vietoris_rips(points), 1)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_one_bad_cloud_leaves_its_neighbors_bitwise_as_they_were(rng, bad):
    points = jnp.asarray(rng.normal(size=(16, 14, 2)), jnp.float32)
    spoiled = points.at[jnp.array([2, 5]), jnp.array([0, 13]), 1].set(bad)
    good = np.array([index for index in range(16) if index not in (2, 5)])
    pick = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf)[good])
    diagram, _ = outcome = _diagrams_and_slopes(spoiled)
    assert_same(pick(outcome), pick(_diagrams_and_slopes(points)))
    assert (diagram.result == RESULTS.not_finite).tolist() == [i in (2, 5) for i in range(16)]
    for index in (2, 5):
        assert np.isnan(diagram.births[index]).all()
        assert np.isnan(diagram.deaths[index]).all()
        assert (diagram.generators[index] == -1).all()
        assert diagram.count[index].tolist() == [0, 0]


def test_too_small_a_capacity_keeps_the_most_persistent_and_the_true_count(rng):
    points = rng.normal(size=(40, 2)).astype(np.float32)
    full, small = vietoris_rips(points), vietoris_rips(points, capacity=(5, 3))
    assert full.result == RESULTS.successful
    assert small.result == RESULTS.capacity_exceeded
    assert small.overflow.tolist() == [True, True]
    assert_same(small.count, full.count)
    assert_same(small.generators, jnp.concatenate([full.generators[:5], full.generators[40:43]]))
    only_loops = vietoris_rips(points, capacity=3)
    assert only_loops.capacities == (40, 3)
    assert only_loops.overflow.tolist() == [False, True]


def test_a_large_capacity_is_padded(rng):
    points = rng.normal(size=(6, 2)).astype(np.float32)
    diagram = vietoris_rips(points, dims=(1, 0), capacity=(2, 9))
    assert diagram.dims.tolist() == [1, 1] + [0] * 9
    assert bars(diagram, 0) == bars(vietoris_rips(points), 0)
    assert diagram.homology_dims == (1, 0)


def test_a_failure_of_gudhi_poisons_one_cloud(rng, monkeypatch):
    from topoprune_jax._host import _rips

    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(_rips, "_barcode", fail)
    diagram = vietoris_rips(rng.normal(size=(8, 2)))
    assert diagram.result == RESULTS.host_failed
    assert np.isnan(diagram.deaths).all()
    assert np.isnan(total_persistence(diagram))


# Laws


def test_order_of_the_points_does_not_matter(rng):
    points = rng.normal(size=(30, 3)).astype(np.float32)
    order = rng.permutation(30)
    diagram, permuted = vietoris_rips(points), vietoris_rips(points[order])
    for dim in (0, 1):
        assert bars(diagram, dim) == bars(permuted, dim)


def test_rigid_motions_change_nothing(x64, rng):
    points = rng.normal(size=(25, 3))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    diagram, moved = vietoris_rips(points), vietoris_rips(points @ rotation + 10)
    for dim in (0, 1):
        np.testing.assert_allclose(bars(diagram, dim), bars(moved, dim), rtol=0, atol=2e-14)


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 0.3])
def test_diagrams_are_stable(x64, rng, epsilon):
    for _ in range(5):
        points = rng.normal(size=(20, 2))
        angles = rng.uniform(0, 2 * np.pi, size=20)
        moved = points + epsilon * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        left, right = vietoris_rips(points), vietoris_rips(moved)
        for dim in (0, 1):
            distance = gudhi.bottleneck_distance(
                np.array(bars(left, dim)), np.array(bars(right, dim))
            )
            assert distance <= 2 * epsilon + 1e-12


# Derivatives


@pytest.mark.parametrize("dims", tiers([(0,), (0, 1, 2)], [(0, 1, 2)]))
def test_reverse_mode_twice_against_finite_differences(x64, rng, dims):
    points = rng.normal(size=(9, 3))
    function = jax.jit(functools.partial(loss, dims=dims))
    check_grads(function, (points,), order=2, modes=["rev"], eps=1e-6, atol=1e-4, rtol=1e-4)


def test_every_mode_through_the_generators(x64, rng):
    points = jnp.asarray(rng.normal(size=(7, 3)))
    generators = rips_generators(points, capacity=3)

    @jax.jit
    def evaluated(x):
        return _loss_of(diagram_from_generators(x, generators))

    def direct(x):
        return _loss_of(vietoris_rips(x, capacity=3))

    check_grads(evaluated, (points,), order=1, modes=["fwd", "rev"], eps=1e-6)
    slope, hessian = jax.jit(lambda x: (jax.grad(evaluated)(x), jax.hessian(evaluated)(x)))(points)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(evaluated))(points), slope, atol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.grad(direct))(points), slope, atol=1e-12)
    for derivative in (jax.jacrev, jax.jacfwd):
        second = jax.jit(derivative(jax.grad(direct)))(points)
        np.testing.assert_allclose(second, hessian, atol=1e-12)


def test_both_paths_give_the_same_diagram(rng):
    points = jnp.asarray(rng.normal(size=(5, 12, 30)), jnp.float32).at[3, 0, 0].set(jnp.nan)
    direct = jax.vmap(vietoris_rips)(points)
    composed = jax.vmap(lambda x: diagram_from_generators(x, rips_generators(x)))(points)
    assert_same(composed.generators, direct.generators)
    assert_same(composed.result, direct.result)
    np.testing.assert_allclose(composed.births, direct.births, rtol=1e-6)
    np.testing.assert_allclose(composed.deaths, direct.deaths, rtol=1e-6)


def test_an_infinite_cotangent_of_an_infinite_death_moves_nothing():
    slope = jax.grad(lambda x: jnp.sum(vietoris_rips(x, dims=(0,)).deaths ** 2))(
        jnp.array([[0.0], [1.0]])
    )
    np.testing.assert_allclose(slope, [[-2.0], [2.0]])


def test_backward_pass_needs_little_memory():
    points = jnp.zeros((8, 32, 2048), jnp.float32)
    step = jax.jit(jax.vmap(jax.value_and_grad(lambda x: total_persistence(vietoris_rips(x)))))
    memory = step.lower(points).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 3 * points.nbytes


# Transformations


def test_edge_length_may_be_traced_and_batched():
    limits = jnp.array([0.5, 1.0, 2.0])
    diagram = jax.vmap(lambda t: vietoris_rips(SQUARE, max_edge_length=t))(limits)
    assert diagram.count.tolist() == [[4, 0], [4, 1], [4, 1]]
    assert np.isinf(diagram.deaths).sum(axis=1).tolist() == [4, 2, 1]


def test_an_optimizer_step_inside_jit_opens_the_loop(rng):
    points = jnp.asarray(rng.normal(size=(12, 2)), jnp.float32)
    optimizer = optax.sgd(0.02, momentum=0.9)

    def objective(x):
        return -total_persistence(vietoris_rips(x, dims=(1,))) + 0.1 * jnp.sum(x**2)

    @jax.jit
    def run(x):
        def step(state, _):
            x, memory = state
            value, slope = jax.value_and_grad(objective)(x)
            updates, memory = optimizer.update(slope, memory, x)
            return (optax.apply_updates(x, updates), memory), value

        return jax.lax.scan(step, (x, optimizer.init(x)), length=60)

    _, values = run(points)
    assert values[-1] < values[0] - 0.5


def test_one_host_call_serves_a_nested_batch(rng, monkeypatch):
    calls = []

    def counted(lengths, longest, **options):
        calls.append(np.asarray(lengths).shape)
        return original(lengths, longest, **options)

    original = _flag.rips_pairs
    monkeypatch.setattr(_flag, "rips_pairs", counted)
    points = jnp.asarray(rng.normal(size=(3, 5, 13, 2)), jnp.float32)
    run = jax.jit(jax.vmap(jax.vmap(lambda x: vietoris_rips(x, dims=(0, 1, 2), capacity=7))))
    jax.block_until_ready(run(points))
    assert calls == [(3, 5, 13 * 12 // 2)]
    jax.block_until_ready(run(points + 1))
    assert len(calls) == 2


def test_components_need_no_host():
    program = jax.make_jaxpr(lambda x: vietoris_rips(x, dims=(0,)))(SQUARE)
    assert "pure_callback" not in str(program)
    assert "pure_callback" in str(jax.make_jaxpr(vietoris_rips)(SQUARE))


def test_a_second_call_does_not_compile_again(rng):
    points = jnp.asarray(rng.normal(size=(11, 2)), jnp.float32)
    vietoris_rips(points)
    compiled = persistence._vietoris_rips._cache_size()
    vietoris_rips(points + 1)
    vietoris_rips(points, max_edge_length=2.0)
    assert persistence._vietoris_rips._cache_size() == compiled


@pytest.mark.parametrize("n_devices", tiers([1, 2, 8], [8]))
def test_shards_give_the_bits_of_one_device(rng, n_devices):
    points = jnp.asarray(rng.normal(size=(16, 14, 2)), jnp.float32)
    mesh = Mesh(np.array(jax.devices()[:n_devices]), ("shard",))
    sharded = jax.shard_map(
        diagrams_and_slopes, mesh=mesh, in_specs=P("shard"), out_specs=P("shard")
    )
    assert_same(jax.jit(sharded)(points), _diagrams_and_slopes(points))


# What a user may get wrong


@pytest.mark.parametrize(
    ("points", "options", "error", "match"),
    [
        ([[0.0, np.nan], [1, 1]], {}, ValueError, "`points` must be finite"),
        ([1.0, 2.0], {}, ValueError, "`points` must be a 2-D array"),
        (np.zeros((0, 2)), {}, ValueError, "at least 1 row"),
        (["a"], {}, TypeError, "`points` must hold numbers"),
        (SQUARE, {"dims": ()}, ValueError, "name each dimension once"),
        (SQUARE, {"dims": (1, 1)}, ValueError, "name each dimension once"),
        (SQUARE, {"dims": (3,)}, ValueError, "`dims` must be between 0 and 2; got dims=3"),
        (SQUARE, {"max_edge_length": -1.0}, ValueError, "must be at least 0; got -1.0"),
        (SQUARE, {"max_edge_length": np.nan}, ValueError, "must be at least 0; got nan"),
        (SQUARE, {"max_edge_length": np.ones(2)}, ValueError, "must be a single number"),
        (SQUARE, {"capacity": 0}, ValueError, "`capacity` must be at least 1"),
        (SQUARE, {"capacity": (1, 2, 3)}, ValueError, r"got 3 entries for dims=\(0, 1\)"),
    ],
)
def test_wrong_arguments_are_named(points, options, error, match):
    for function in (vietoris_rips, rips_generators):
        with pytest.raises(error, match=match):
            function(points, **options)


def test_generators_of_another_cloud_are_refused():
    generators = rips_generators(jnp.asarray(SQUARE))
    with pytest.raises(ValueError, match=r"cloud of 3 points, .* got those of 4"):
        diagram_from_generators(jnp.asarray(SQUARE)[:3], generators)


def test_wrong_types_are_named():
    # Straight at the checks, since the type checker of the tests stands before the public ones.
    with pytest.raises(
        TypeError, match="`dims` must be a sequence of homology dimensions; got int"
    ):
        _diagram.check_dims(1)
    with pytest.raises(TypeError, match=r"`dims` must be a whole number; got 0.5"):
        _diagram.check_dims((0.5,))
    with pytest.raises(TypeError, match="`capacity` must be a whole number or one for each"):
        _diagram.check_capacity(2.5, (0, 1), 4)
    with pytest.raises(TypeError, match=r"`capacity` must be a whole number; got 2.5"):
        _diagram.check_capacity((1, 2.5), (0, 1), 4)


def test_forward_mode_is_refused_by_the_reverse_path_only():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (jnp.asarray(SQUARE),), (jnp.asarray(SQUARE),))


@pytest.mark.parametrize("n", [1, 64, 65, 200])  # counted up to 64, sorted beyond
def test_descending_order_is_stable(n, rng):
    values = rng.integers(0, 5, n).astype(np.float32)
    values[rng.random(n) < 0.2] = np.inf
    expected = np.argsort(-values, kind="stable")
    np.testing.assert_array_equal(_descending(jnp.asarray(values)), expected)


@pytest.mark.parametrize("d", tiers([1, 3, 4, 7, 8, 9, 16, 19], [1, 4, 8, 19]))
def test_features_added_a_few_at_a_time_are_all_added(rng, d):
    points = rng.normal(size=(20, d)).astype(np.float32)
    found = np.asarray(persistence.distance_matrix(jnp.asarray(points), jnp.float32(0.5)))
    np.testing.assert_allclose(found, 2 * squareform(pdist(points)), rtol=1e-5, atol=1e-6)
    assert (np.diagonal(found) == 0).all()
    np.testing.assert_array_equal(found, found.T)
