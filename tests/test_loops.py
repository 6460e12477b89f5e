"""Loops found on the device, next to those that gudhi finds on the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gudhi.sklearn import RipsPersistence
from jax import export
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from scipy.spatial.distance import pdist, squareform

import topoprune_jax as tp
from topoprune_jax import RESULTS, _loops

SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


@functools.partial(jax.jit, static_argnames="options")
def both(points, options=()):
    """The diagrams of a batch of clouds by the device and by the host."""
    return tuple(
        jax.vmap(lambda x, where=where: tp.vietoris_rips(x, reduction=where, **dict(options)))(
            points
        )
        for where in ("device", "host")
    )


@jax.jit
def both_of_distances(matrices, longest=np.inf):
    return tuple(
        jax.vmap(
            lambda x, where=where: tp.rips_from_distances(
                x, dims=(1,), reduction=where, max_edge_length=longest
            )
        )(matrices)
        for where in ("device", "host")
    )


def assert_same(left, right):
    """Bitwise equality of two pytrees of arrays, NaN equal to NaN."""
    left, right = jax.tree.leaves(left), jax.tree.leaves(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def circle(n, radius=1.0):
    angle = 2 * np.pi * np.arange(n) / n
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def clouds(n, rng):
    """Clouds of n points in the plane, ordinary and not."""
    line = np.linspace(0, 1, n)[:, None]
    plane = np.stack([np.arange(n) % 4, np.arange(n) // 4], axis=1)
    some = rng.normal(size=(n, 2))
    return np.stack(
        [
            some,
            rng.uniform(size=(n, 2)),
            np.repeat(rng.normal(size=(-(-n // 4), 2)), 4, axis=0)[:n]
            + 0.01 * rng.normal(size=(n, 2)),
            circle(n) + 0.1 * some,
            circle(n),
            np.vstack([circle(n // 2), circle(n - n // 2, 0.5) + 4]),
            plane,
            plane[rng.permutation(n)],
            line * [1, 2],
            rng.permutation(line) * [1, 0],
            np.repeat(some[: -(-n // 2)], 2, axis=0)[:n],
            np.ones((n, 2)),
            rng.integers(0, 3, size=(n, 2)),
        ]
    ).astype(np.float32)


def crowded(n, rng):
    """Dissimilarities with as many loops at once as n points can have: first all edges between two
    halves, which make no triangle, then the others."""
    side = rng.permutation(np.arange(n) % 2)
    matrix = np.triu(rng.uniform(1, 2, size=(n, n)) + (side[:, None] == side[None, :]), 1)
    return (matrix + matrix.T).astype(np.float32)


# By hand


def test_unit_square():
    diagram = tp.vietoris_rips(SQUARE, reduction="device")
    assert diagram.count.tolist() == [4, 1]
    assert diagram.births[4] == 1
    assert diagram.deaths[4] == np.sqrt(np.float32(2))
    assert diagram.generators[4:6].tolist() == [[2, 3, 0, 2], [-1] * 4]
    assert_same(diagram, tp.vietoris_rips(SQUARE))


def test_one_circle_and_two(rng):
    two = np.vstack([circle(12), circle(4, 0.25) + 9])
    one = np.vstack([circle(12), np.tile(circle(12)[:1], (4, 1))])
    points = clouds(16, rng)
    points[:2] = one, two
    device, host = both(points)
    assert_same(device, host)
    for found, sizes in zip((0, 1), ([(12, 1)], [(12, 1), (4, 0.25)]), strict=True):
        lifetimes = np.asarray(device.lifetimes)[found, 16:]
        long = np.flatnonzero(lifetimes > 0.1)  # between two circles there are short ones
        assert len(long) == len(sizes)
        for slot, (n, radius) in zip(long, sizes, strict=True):
            birth = 2 * radius * np.sin(np.pi / n)
            death = 2 * radius * np.sin(np.pi * np.ceil(n / 3) / n)
            np.testing.assert_allclose(device.births[found, 16 + slot], birth, rtol=1e-5)
            np.testing.assert_allclose(device.deaths[found, 16 + slot], death, rtol=1e-5)


# The host as oracle


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in (2, 4, 5, 33)]


@pytest.mark.parametrize("n", [1, 3, 16, *SLOW])
def test_generators_are_those_of_the_host(rng, n):
    device, host = both(clouds(n, rng))
    assert_same(device, host)
    assert (device.result == RESULTS.successful).all()
    assert (device.count[:, 1] > 0).any() == (n > 3)


def test_patches_of_64_points(rng):
    usual = clouds(64, rng)[[0, 3, 6]]
    points = np.zeros((6, 64, 16), np.float32)
    points[:3, :, :2] = usual
    points[3:5] = rng.normal(size=(2, 64, 16))
    points[5] = np.repeat(np.eye(16), 4, axis=0) + 0.05 * rng.normal(size=(64, 16))
    run = both.lower(jnp.asarray(points)).compile()
    assert run.memory_analysis().temp_size_in_bytes < len(points) * (1 << 20)
    device, host = run(points)
    assert_same(device, host)
    assert device.count[3, 1] > 20


def test_any_order_of_the_edges(rng):
    """Dissimilarities that no points have, without ties and with many."""
    upper = np.stack([rng.permutation(28) for _ in range(300)])
    matrices = np.stack([squareform(row + 1.0) for row in (*upper, *(upper[:100] // 6))])
    device, host = both_of_distances(matrices.astype(np.float32))
    assert_same(device, host)
    assert len(np.unique(device.count)) > 3


@pytest.mark.slow
def test_more_loops_than_fit_the_usual_words_and_blocks(rng, monkeypatch):
    n = 16
    matrices = np.stack([crowded(n, rng) for _ in range(4)])
    few = squareform(rng.permutation(n * (n - 1) // 2) + 1.0).astype(np.float32)
    device, host = both_of_distances(np.stack([*matrices, few]))
    assert_same(device, host)
    # All n^2 / 4 edges between the halves, but for those of a tree.
    assert device.count[:4, 0].tolist() == [n * n // 4 - n + 1] * 4
    assert 0 < device.count[4, 0] < 32
    assert (device.result == RESULTS.capacity_exceeded).tolist() == [True] * 4 + [False]


@pytest.mark.slow
def test_only_those_that_need_it_are_done_again_in_a_nested_batch(rng):
    ordinary = squareform(pdist(rng.normal(size=(16, 3)))).astype(np.float32)
    matrices = np.stack([crowded(16, rng), ordinary, ordinary, crowded(16, rng)])
    run = functools.partial(tp.rips_from_distances, dims=(1,), capacity=60, reduction="device")
    nested = jax.jit(jax.vmap(jax.vmap(run)))(matrices.reshape(2, 2, 16, 16))
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), nested)
    assert (flat.result == RESULTS.successful).all()
    expected = [tp.rips_from_distances(matrix, dims=(1,), capacity=60) for matrix in matrices]
    assert_same(flat, jax.tree.map(lambda *leaves: np.stack(leaves), *expected))


def test_a_limit_leaves_loops_essential(rng):
    matrices = np.stack([crowded(16, rng), *map(squareform, map(pdist, clouds(16, rng)[:5]))])
    n_essential = []
    for longest in (0.0, 0.6, 1.5, 2.5):
        device, host = both_of_distances(matrices.astype(np.float32), np.float32(longest))
        assert_same(device, host)
        n_essential.append(int(np.isinf(device.deaths).sum()))
    assert n_essential[0] == 0
    assert n_essential[2] > 10


def test_float64(x64, rng):
    points = SQUARE + 1e-11 * np.array([[0, 0], [9, 0], [3, 2], [0, 5]])
    diagram = tp.vietoris_rips(points, reduction="device", dims=(1,))
    assert diagram.deaths.dtype == jnp.float64
    assert diagram.count == 1
    assert_same(diagram, tp.vietoris_rips(points, dims=(1,)))


@pytest.mark.slow
def test_capacity_and_order_of_dims(rng):
    options = (("dims", (1, 0)), ("capacity", (2, 3)))
    device, host = both(clouds(16, rng), options)
    assert_same(device, host)
    assert (device.result == RESULTS.capacity_exceeded).any()


@pytest.mark.slow
def test_other_filtrations(rng):
    points = clouds(16, rng)[3]
    for function in (
        functools.partial(tp.weighted_rips, weights=np.linspace(0, 1, 16)),
        functools.partial(tp.structural_complexity, patch_size=9, dims=(0, 1)),
        functools.partial(tp.rips_generators, metric="cosine"),
    ):
        assert_same(function(points, reduction="device"), function(points))


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 16, 32, 64])
def test_ten_thousand_patches_against_gudhi(n):
    """2,500 of each size, bitwise, through gudhi's own diagrams of the same distances."""
    rng = np.random.default_rng(n)
    run = jax.jit(jax.vmap(lambda x: tp.rips_from_distances(x, dims=(1,), reduction="device")))
    oracle = RipsPersistence(
        homology_dimensions=1, input_type="full distance matrix", homology_coeff_field=2
    )
    n_bars = 0
    for batch in range(25):
        points = rng.normal(size=(100, n, 1 + batch)) * rng.uniform(
            0.1, 1, size=(100, 1, 1 + batch)
        )
        points[80:] = np.round(points[80:] * 2)
        matrices = np.stack([squareform(pdist(cloud)) for cloud in points]).astype(np.float32)
        diagrams = run(matrices)
        assert (diagrams.result == RESULTS.successful).all()
        births, deaths, valid = (
            np.asarray(leaf) for leaf in (diagrams.births, diagrams.deaths, diagrams.valid)
        )
        for i, bars in enumerate(oracle.fit_transform(list(matrices))):
            expected = bars[bars[:, 1] > bars[:, 0]]
            mine = np.stack([births[i][valid[i]], deaths[i][valid[i]]], axis=1)
            np.testing.assert_array_equal(
                mine[np.lexsort(mine.T)], expected[np.lexsort(expected.T)]
            )
            n_bars += len(mine)
    assert n_bars > 1000


# Transformations


def test_one_bad_cloud_leaves_its_neighbors_bitwise_as_they_were(rng):
    points = jnp.asarray(clouds(16, rng))
    spoiled = points.at[2, 0, 0].set(jnp.nan).at[5, 15, 1].set(-jnp.inf)
    good = np.array([i for i in range(len(points)) if i not in (2, 5)])
    (device, host), (expected, _) = both(spoiled), both(points)
    assert_same(device, host)
    bad = np.asarray(device.result == RESULTS.not_finite)
    assert np.flatnonzero(bad).tolist() == [2, 5]
    pick = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf)[good])
    assert_same(pick(device), pick(expected))


def test_gradients_are_those_of_the_host(rng):
    points = clouds(16, rng)

    def slopes(where):
        def loss(x):
            return tp.total_persistence(tp.vietoris_rips(x, reduction=where), power=2.0)

        return jax.jit(jax.vmap(jax.grad(loss)))(points)

    device = slopes("device")
    assert_same(device, slopes("host"))
    assert np.isfinite(device).all()
    assert (np.asarray(device) != 0).any()


@pytest.mark.parametrize("n_devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_shards_give_the_bits_of_one_device(rng, n_devices):
    points = jnp.asarray(np.concatenate([clouds(16, rng), clouds(16, rng)])[:16])
    mesh = Mesh(np.array(jax.devices()[:n_devices]), ("shard",))
    run = jax.vmap(functools.partial(tp.vietoris_rips, reduction="device"))
    sharded = jax.shard_map(run, mesh=mesh, in_specs=P("shard"), out_specs=P("shard"))
    assert_same(jax.jit(sharded)(points), jax.jit(run)(points))


@pytest.mark.slow
def test_an_exported_program_needs_neither_host_nor_package(rng):
    pytest.importorskip("flatbuffers", reason="jax.export stores programs with flatbuffers")
    points = jnp.asarray(clouds(16, rng))

    def persistence(cloud):
        diagram = tp.vietoris_rips(cloud, reduction="device")
        return tp.total_persistence(diagram, power=2.0), (diagram.deaths, diagram.generators)

    step = jax.jit(jax.vmap(jax.value_and_grad(persistence, has_aux=True)))
    stored = export.export(step)(points).serialize()
    reloaded = export.deserialize(stored)
    assert_same(reloaded.call(points), step(points))
    assert not any("callback" in name for name in str(reloaded.mlir_module()).split())


def test_there_is_no_host_call():
    def program(where):
        run = functools.partial(tp.vietoris_rips, dims=(0, 1), reduction=where)
        return str(jax.make_jaxpr(run)(SQUARE))

    assert "callback" not in program("device")
    assert "pure_callback" in program("host")


# What a user may get wrong


@pytest.mark.parametrize(
    ("n", "options", "match"),
    [
        (65, {}, "`reduction='device'` finds loops of at most 64 points; got 65 points"),
        (4, {"dims": (0, 2)}, r"finds dimensions 0 and 1; got dims=\(0, 2\)"),
        (4, {"reduction": "gpu"}, "`reduction` must be 'host' or 'device'; got 'gpu'"),
    ],
)
def test_what_the_device_cannot_do_is_named(n, options, match):
    options = {"reduction": "device"} | options
    for function in (tp.vietoris_rips, tp.rips_generators):
        with pytest.raises(ValueError, match=match):
            function(np.zeros((n, 2)), **options)
    with pytest.raises(ValueError, match=match):
        tp.rips_from_distances(np.zeros((n, n)), **options)
    with pytest.raises(ValueError, match=match):
        tp.structural_complexity(np.zeros((n, 2)), patch_size=65, **({"dims": (1,)} | options))


def test_components_of_many_points_need_no_reduction(rng):
    points = rng.normal(size=(70, 2)).astype(np.float32)
    device = tp.vietoris_rips(points, dims=(0,), reduction="device")
    assert_same(device, tp.vietoris_rips(points, dims=(0,)))


# The parts


def test_bits():
    mask = np.random.default_rng(0).random((40, 50)) < 0.3
    sets = _loops._pack(jnp.asarray(mask))
    assert sets.shape == (40, 2)
    np.testing.assert_array_equal(jnp.sum(jax.lax.population_count(sets), axis=1), mask.sum(axis=1))
    rows, members = np.nonzero(mask)
    nth = np.arange(len(rows)) - np.searchsorted(rows, rows)
    points = _loops._nth_bit(sets[rows], jnp.asarray(nth, jnp.int32))
    np.testing.assert_array_equal(points, members)
    below = _loops._below(jnp.arange(40, dtype=jnp.int32), sets)
    expected = _loops._pack(jnp.asarray(np.tri(40, 50, k=-1, dtype=bool)))
    np.testing.assert_array_equal(below, expected)
