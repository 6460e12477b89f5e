import gudhi
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform

import topoprune_jax as tp
from topoprune_jax import _backend
from topoprune_jax._callback import call_host
from topoprune_jax._host import _rips, _threads
from topoprune_jax._host._rips import rips_pairs
from topoprune_jax._host._status import FAILED, NOT_FINITE, OK


def pairs_of(points, *, dims=(1,), max_length=np.inf, capacity=None, dtype=np.float64):
    """Lengths, and what `rips_pairs` says about them, for one cloud."""
    n = len(points)
    lengths = pdist(points).astype(dtype)
    capacities = (capacity or 4 * n,) * len(dims)
    outputs = rips_pairs(lengths, np.asarray(max_length), n=n, dims=dims, capacities=capacities)
    return squareform(lengths), *outputs


def barcode(distances, generators):
    """Sorted bars (birth, death) of generators, measured in a matrix of distances."""
    generators = generators[generators[:, 0] >= 0]
    births = distances[generators[:, 0], generators[:, 1]]
    deaths = np.where(generators[:, 2] < 0, np.inf, distances[generators[:, 2], generators[:, 3]])
    return sorted(zip(births.tolist(), deaths.tolist(), strict=True))


def gudhi_barcode(distances, dim, max_length=np.inf):
    """The same from gudhi's SimplexTree, an implementation of its own."""
    tree = gudhi.SimplexTree.create_from_array(distances, max_filtration=max_length)
    tree.expansion(dim + 1)
    tree.compute_persistence(persistence_dim_max=True, homology_coeff_field=2)
    return sorted(map(tuple, tree.persistence_intervals_in_dimension(dim).tolist()))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "d"), [(4, 2), (5, 2), (6, 3), (17, 2), (20, 5)])
def test_generators_give_the_bars_of_gudhis_simplex_tree(rng, n, d, dtype):
    for _ in range(5):
        points = rng.normal(size=(n, d))
        distances, generators, count, status = pairs_of(points, dims=(1, 2), dtype=dtype)
        assert status == OK
        for column, dim in enumerate((1, 2)):
            mine = barcode(distances, np.split(generators, 2)[column])
            assert mine == gudhi_barcode(distances, dim)
            assert count[column] == len(mine)


def test_octahedron_encloses_one_void():
    points = np.vstack([np.eye(3), -np.eye(3)])
    distances, generators, count, _ = pairs_of(points, dims=(2,))
    assert count.tolist() == [1]
    assert barcode(distances, generators) == [(pytest.approx(np.sqrt(2)), 2.0)]


def test_ties_on_an_integer_grid_leave_no_bar_of_zero_length():
    points = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    distances, generators, count, _ = pairs_of(points)
    mine = barcode(distances, generators)
    assert mine == [(1.0, np.sqrt(2))] * 9 == gudhi_barcode(distances, 1)
    assert count.tolist() == [9]


def test_order_is_by_lifetime_then_birth_and_the_least_are_dropped(rng):
    points = rng.normal(size=(40, 2))
    distances, generators, count, _ = pairs_of(points)
    kept = generators[: count[0]]
    lifetimes = np.diff(np.reshape([distances[a, b] for a, b in kept.reshape(-1, 2)], (-1, 2)))
    assert count[0] > 4
    assert (np.diff(lifetimes[:, 0]) <= 0).all()
    assert (generators[count[0] :] == -1).all()
    _, few, true_count, status = pairs_of(points, capacity=3)
    assert status == OK
    assert true_count == count
    np.testing.assert_array_equal(few, generators[:3])


@pytest.mark.parametrize("max_length", [0.0, 1.0, 1.2, 1.5, 3.0])
@pytest.mark.parametrize("dim", [1, 2])
def test_longer_edges_do_not_enter(rng, dim, max_length):
    angles = np.arange(12) * np.pi / 6
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.vstack([points, 0.3 * rng.normal(size=(6, 2)) + 5])
    distances, generators, _, _ = pairs_of(points, dims=(dim,), max_length=max_length)
    expected = gudhi_barcode(distances, dim, max_length)
    assert barcode(distances, generators) == expected
    if dim == 1 and max_length in (1.0, 1.2, 1.5):
        assert expected[-1][1] == np.inf


def test_bad_items_say_so_and_leave_their_neighbors_alone(rng):
    lengths = np.stack([pdist(rng.normal(size=(12, 2))) for _ in range(5)]).astype(np.float32)
    limits = np.full(5, np.inf, np.float32)
    options = {"n": 12, "dims": (1,), "capacities": (8,)}
    good, good_count, _ = rips_pairs(lengths, limits, **options)
    lengths[1, 3], lengths[2, 0], limits[3] = np.nan, np.inf, np.nan
    generators, count, status = rips_pairs(lengths, limits, **options)
    assert status.tolist() == [OK, NOT_FINITE, NOT_FINITE, NOT_FINITE, OK]
    np.testing.assert_array_equal(generators[[0, 4]], good[[0, 4]])
    np.testing.assert_array_equal(count[[0, 4]], good_count[[0, 4]])
    assert (generators[1:4] == -1).all()
    assert (count[1:4] == 0).all()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt])
def test_an_exception_becomes_a_status(rng, monkeypatch, error):
    lengths = np.stack([pdist(rng.normal(size=(10, 2))) for _ in range(3)])
    original, calls = _rips._barcode, []

    def fail_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise error
        return original(*args)

    monkeypatch.setattr(_rips, "_barcode", fail_second)
    _, count, status = rips_pairs(lengths, np.full(3, np.inf), n=10, dims=(1,), capacities=(9,))
    assert status.tolist() == [OK, FAILED, OK]
    assert count[1] == 0


def test_an_exception_outside_of_gudhi_fails_its_slab_only(rng, monkeypatch):
    lengths = np.stack([pdist(rng.normal(size=(10, 2))) for _ in range(3)])
    original, calls = _rips._sort, []

    def fail_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError
        return original(*args)

    monkeypatch.setattr(_rips, "_sort", fail_second)
    monkeypatch.setattr(_rips, "_SLAB_ENTRIES", 100)
    _, _, status = rips_pairs(lengths, np.full(3, np.inf), n=10, dims=(1,), capacities=(9,))
    assert status.tolist() == [OK, FAILED, OK]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_points_for_a_loop(n):
    lengths = np.ones((2, n * (n - 1) // 2), np.float32)
    generators, count, status = rips_pairs(
        lengths, np.full(2, np.inf, np.float32), n=n, dims=(1, 2), capacities=(2, 3)
    )
    assert generators.shape == (2, 5, 4)
    assert (generators == -1).all()
    assert (count == 0).all()
    assert status.tolist() == [OK, OK]


@pytest.mark.parametrize("batch", [(), (0,), (3,), (2, 3)])
def test_batch_shapes_and_slabs_change_nothing(rng, monkeypatch, batch):
    lengths = np.array([pdist(rng.normal(size=(9, 2))) for _ in range(int(np.prod(batch)))])
    lengths = lengths.reshape(*batch, 36).astype(np.float32)
    limits = np.full(batch, np.inf, np.float32)
    options = {"n": 9, "dims": (1,), "capacities": (6,)}
    whole = rips_pairs(lengths, limits, **options)
    assert [a.shape for a in whole] == [(*batch, 6, 4), (*batch, 1), batch]
    assert all(a.dtype == np.int32 for a in whole)
    monkeypatch.setattr(_rips, "_SLAB_ENTRIES", 1)
    for a, b in zip(whole, rips_pairs(lengths, limits, **options), strict=True):
        np.testing.assert_array_equal(a, b)


def test_ranks_that_float32_cannot_count_go_in_float64(rng, monkeypatch):
    points = rng.normal(size=(16, 3))
    expected = pairs_of(points, dims=(1, 2))[1]
    monkeypatch.setattr(_rips, "_EXACT_IN_FLOAT32", 1)
    np.testing.assert_array_equal(pairs_of(points, dims=(1, 2))[1], expected)


@pytest.mark.parametrize("max_length", [1.0, 2.5, np.inf])
def test_the_order_in_which_gudhi_sees_the_points_changes_nothing(rng, monkeypatch, max_length):
    points = rng.normal(size=(50, 3))
    assert len(points) in _rips._REORDERED_POINTS
    reordered = pairs_of(points, max_length=max_length)
    monkeypatch.setattr(_rips, "_REORDERED_POINTS", ())
    for mine, plain in zip(reordered, pairs_of(points, max_length=max_length), strict=True):
        np.testing.assert_array_equal(mine, plain)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_threads_change_nothing(rng, monkeypatch, n_threads):
    lengths = np.stack([pdist(cloud) for cloud in rng.normal(size=(23, 12, 2))])
    lengths[4, 0] = np.nan
    options = {"n": 12, "dims": (1, 2), "capacities": (20, 5)}
    expected = rips_pairs(lengths, np.full(23, np.inf), **options)
    monkeypatch.setattr(_rips, "_ENTRIES_A_THREAD", 1)
    monkeypatch.setattr(_rips.os, "cpu_count", lambda: n_threads)
    for one, other in zip(
        rips_pairs(lengths, np.full(23, np.inf), **options), expected, strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_work_goes_on_where_no_thread_can_start(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    done = []
    for name in ("__init__", "submit"):
        monkeypatch.setattr(_threads.ThreadPoolExecutor, name, refuse)
        _threads.for_each(done.append, range(5), 4)
        monkeypatch.undo()
    assert sorted(done) == sorted([*range(5)] * 2)


@pytest.mark.parametrize("one_cpu", [True, False])
def test_everything_travels_as_one_array_each_way(monkeypatch, one_cpu):
    monkeypatch.setattr(_backend, "is_one_cpu", lambda: one_cpu)

    def received(words, counts, number):
        assert words.dtype == np.float32
        assert counts.dtype == np.int32
        assert number.shape == (3,)
        return (
            counts[..., ::-1],
            counts.sum(axis=(-2, -1)),
            (words + number[:, None]).view(np.int32),
        )

    def run(words, counts, number):
        shapes = (2, 2), (), (4,)
        flipped, total, sums = call_host(received, shapes, words, counts, number)
        return flipped, total, jax.lax.bitcast_convert_type(sums, jnp.float32)

    words = jnp.arange(12, dtype=jnp.float32).reshape(3, 4) / 7
    counts = jnp.arange(12, dtype=jnp.int32).reshape(3, 2, 2) - 5
    several = words, counts, jnp.arange(3, dtype=jnp.float32)
    flipped, total, sums = jax.jit(jax.vmap(run))(*several)
    np.testing.assert_array_equal(flipped, counts[..., ::-1])
    np.testing.assert_array_equal(total, [-14, 2, 18])
    np.testing.assert_array_equal(sums, words + jnp.arange(3, dtype=jnp.float32)[:, None])
    (called,) = [
        e for e in jax.make_jaxpr(run)(*(a[0] for a in several)).eqns if "callback" in str(e)
    ]
    assert (len(called.invars), len(called.outvars)) == (1, 1)
    assert called.primitive.name == ("buffer_callback" if one_cpu else "pure_callback")


def test_one_cpu_is_told_from_several_devices(monkeypatch):
    assert not _backend.is_one_cpu()  # tests have eight
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert _backend.is_one_cpu()
    monkeypatch.setattr(_backend, "backends", lambda: {"cpu": None, "cuda": None})
    assert not _backend.is_one_cpu()


def test_a_diagram_is_the_same_however_the_host_is_called(monkeypatch, rng, x64):
    clouds = rng.normal(size=(3, 14, 3))
    clouds[1, 5] = np.nan
    found = []
    for one_cpu in (True, False):
        monkeypatch.setattr(_backend, "is_one_cpu", lambda one_cpu=one_cpu: one_cpu)
        jax.clear_caches()
        run = jax.vmap(lambda x: tp.vietoris_rips(x, dims=(1, 2), max_edge_length=2.5))
        found.append([run(clouds.astype(dtype)) for dtype in (np.float32, np.float64)])
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert (np.asarray(found[0][1].count)[[0, 2]] > 0).any()
    assert np.isnan(found[0][1].births[1]).all()
