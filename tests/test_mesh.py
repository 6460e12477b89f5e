"""Several devices and several processes: the bits of one device, and clear errors."""

import itertools
import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_processes
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.spatial.distance import pdist
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import (
    _axes,
    _discriminant,
    _embedding_forces,
    _features,
    _graph,
    _graph_boxes,
    _graph_exact,
    _spectral,
)
from topoprune_jax._mesh import check_mesh
from topoprune_jax._ring import on_host

N = two_processes.N  # not divisible by 8


def line(n_devices):
    return Mesh(np.array(jax.devices()[:n_devices]), ("data",))


# What `make test-all` compiles. The quicker programs of `make test` add up the coordinates of one
# edge in a hundred in another order on several devices.
OPTIMIZED = "use_fusion_emitters=false" not in os.environ["XLA_FLAGS"]


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not OPTIMIZED and a is getattr(one, "scores", None):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module", autouse=True)
def small_tiles():
    """So that every device has something to do; n is of no other test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_embedding_forces, "_TILE", 64)
        yield


@pytest.fixture(scope="module")
def points():
    return two_processes.points()


@pytest.fixture(scope="module")
def free_ranking(points):
    return tp.rank(points, 0.9)


@pytest.fixture(scope="module")
def ranking(points):
    return tp.rank(points, 0.9, labels=two_processes.labels())


@pytest.mark.parametrize("n_devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_a_mesh_ranks_as_one_device(points, free_ranking, n_devices):
    assert_same(tp.rank(points, 0.9, mesh=line(n_devices)), free_ranking)


# With labels on 8: `test_a_mesh_of_several_axes_is_one_line`.
@pytest.mark.slow
@pytest.mark.parametrize("n_devices", [1, 2])
def test_with_labels_too(points, ranking, n_devices):
    labels = two_processes.labels()
    assert_same(tp.rank(points, 0.9, labels=labels, mesh=line(n_devices)), ranking)


@pytest.mark.slow
def test_noisy_features_are_ranked_in_coordinates_on_a_mesh_too(points):
    generator = np.random.default_rng(0)
    noisy = points @ generator.normal(size=(6, 24)) + 3 * generator.normal(size=(len(points), 24))
    labels = two_processes.labels()
    found = tp.rank(noisy, 0.9, labels=labels, mesh=line(8))
    assert found.result == tp.RESULTS.features_noisy
    assert_same(found, tp.rank(noisy, 0.9, labels=labels))


def divided(points, n_devices):
    mesh = check_mesh(line(n_devices))
    return _features.divided_unit_rows(points, mesh=mesh, normalize=False, progress=None)[0]


def cloud(kind):
    """(n, 3) float32 points on which a search can go wrong."""
    generator = np.random.default_rng(1)
    points = generator.normal(size=(N, 3))
    if kind == "grid":  # many duplicates, and ties at every distance
        points = generator.integers(0, 5, size=(N, 3)).astype(float)
    if kind == "clusters":  # tiny against their distance from the center: products round them away
        points = 1e-4 * points + generator.normal(size=(7, 3))[np.arange(N) % 7]
    if kind == "equal":
        points[:] = 1
    return points.astype(np.float32)


@pytest.mark.parametrize("n_devices", [pytest.param(2, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize(
    ("kind", "by_class"),
    tiers(
        itertools.product(["normal", "grid", "clusters", "equal"], [False, True]),
        [("normal", True), ("grid", False), ("clusters", False), ("equal", True)],
        several=True,
    ),
)
def test_the_ring_finds_the_graph_of_one_device(kind, by_class, n_devices):
    points = cloud(kind)
    # One class is smaller than k, so that its points have empty slots.
    codes = jnp.asarray(np.append(np.zeros(4, int), 1 + np.arange(N - 4) % 3)) if by_class else None
    plain, _ = _features.unit_rows(points, normalize=False, progress=None)
    expected = _graph.nearest_neighbors(plain, 10, codes=codes)
    found = _graph.nearest_neighbors(divided(points, n_devices), 10, codes=codes)
    assert_same(found, expected)
    # The points in doubt are looked at again: in clusters and among copies there are many.
    difference = points[:, None] - points[np.asarray(found.indices)]
    np.testing.assert_allclose(
        np.where(found.indices < 0, np.inf, np.linalg.norm(difference, axis=2)),
        found.distances * 2.0 ** np.floor(np.log2(np.abs(points).max())),
        rtol=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(N, 130), (5, 4), (5, 9), (1, 1), (9, 3)])
def test_shares_smaller_than_what_is_sought(n, k):
    points = cloud("normal")[:n]
    plain, _ = _features.unit_rows(points, normalize=False, progress=None)
    expected = _graph.nearest_neighbors(plain, k)
    assert_same(_graph.nearest_neighbors(divided(points, 8), k), expected)


def test_the_search_by_boxes_on_a_mesh(monkeypatch):
    monkeypatch.setattr(_graph_boxes, "_MIN_POINTS", N)
    monkeypatch.setattr(_graph_boxes, "_TILES_PER_CALL", 4)
    plain, _ = _features.unit_rows(cloud("grid"), normalize=False, progress=None)
    expected = _graph.nearest_neighbors(plain, 10)
    calls = []
    search = _graph_boxes._search_share
    monkeypatch.setattr(
        _graph_boxes, "_search_share", lambda *a, **b: calls.append(1) or search(*a, **b)
    )
    assert_same(_graph.nearest_neighbors(divided(cloud("grid"), 2), 10), expected)
    assert calls


@pytest.mark.slow
def test_long_work_goes_in_several_calls(points, monkeypatch):
    """Small chunks change no bit, and are reported one by one."""
    plain, _ = _features.unit_rows(np.tile(points, (2, 1)), normalize=False, progress=None)
    expected = _graph.nearest_neighbors(plain, 10)
    monkeypatch.setattr(_graph_exact, "CHUNK_FLOPS", 1.0)
    calls = []
    found = _graph.nearest_neighbors(
        divided(np.tile(points, (2, 1)), 2), 10, progress=lambda *call: calls.append(call)
    )
    assert_same(found, expected)
    assert calls == [("neighbors", i, 6) for i in range(7)]  # 3 tiles a device, 2 visits


def test_the_guess_of_many_points_is_that_of_one_device(points, monkeypatch):
    monkeypatch.setattr(_axes, "SAMPLE", 128)
    plain, _ = _features.unit_rows(points, normalize=False, progress=None)
    key = jax.random.key(0)
    expected = _spectral.principal_guess(plain, 2, key=key)
    assert_same(_spectral.principal_guess(divided(points, 8), 2, key=key), expected)
    exact = tp.principal_components(plain, 2, key=key)
    for axis in range(2):
        assert abs(np.corrcoef(exact[:, axis], expected[:, axis])[0, 1]) > 0.99


@pytest.mark.parametrize("space", ["discriminant_coordinates", "discriminant_features"])
def test_the_coordinates_of_a_mesh_are_those_of_one_device(points, space, monkeypatch):
    """Of all points, and of an even part of them; and about those of the public function."""
    labels = jnp.asarray(two_processes.labels())
    plain, _ = _features.unit_rows(points, normalize=False, progress=None)
    shares = divided(points, 8)
    public = getattr(tp, space)(plain, labels, normalize=False)
    for most in (1024, 128):
        monkeypatch.setattr(_axes, "SAMPLE", most)
        assert _discriminant.space_for(shares, labels) == _discriminant.space_for(plain, labels)
        expected = _discriminant.in_space(plain, labels, space)
        found = _discriminant.in_space(shares, labels, space)
        assert found.shape == expected.shape
        assert not np.asarray(found.values).reshape(8, -1, found.shape[1])[:, found.share :].any()
        assert_same(on_host(found), expected)
        apart = [pdist(np.asarray(z)) for z in (expected, public)]
        if most > N:
            np.testing.assert_allclose(*apart, rtol=1e-3)
        else:
            assert np.corrcoef(*apart)[0, 1] > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("n_negatives", [2, 200])
def test_embeddings_of_a_mesh(free_ranking, points, n_negatives):
    """Also where the forces of the shifts are summed in several groups."""
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    options = tp.EmbeddingOptions(n_negatives=n_negatives, n_epochs=30, n_components=3)
    expected = tp.embed(fuzzy_set, options, key=jax.random.key(0))
    for n_devices in (1, 2, 8):
        found = tp.embed(fuzzy_set, options, mesh=line(n_devices), key=jax.random.key(0))
        assert_same(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [(0, 1), (0,)])
def test_scores_of_a_mesh_call_the_host_once_a_shard(free_ranking, dims):
    z = free_ranking.embedding
    expected = tp.structural_complexity(z, dims=dims, patch_size=20)
    assert_same(tp.structural_complexity(z, dims=dims, patch_size=20, mesh=line(8)), expected)


@pytest.mark.slow
def test_fewer_points_than_devices(points):
    assert_same(tp.rank(points[:5], 0.5, mesh=line(8)), tp.rank(points[:5], 0.5))


@pytest.mark.slow
def test_a_mesh_of_several_axes_is_one_line(points, ranking):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    labels = two_processes.labels()
    spread = jax.device_put(points, NamedSharding(mesh, PartitionSpec("y")))
    assert_same(tp.rank(spread, 0.9, labels=labels, mesh=mesh), ranking)


def test_shards_are_read_where_they_belong(points):
    whole = divided(points, 8)
    parts = [points[:1], points[1:300], points[300:]]
    assert_same(divided(parts, 8), whole)


def test_what_a_mesh_refuses(points):
    mesh = line(2)
    with pytest.raises(TypeError, match=r"`mesh` must be a jax.sharding.Mesh; got tuple"):
        check_mesh(tuple(jax.devices()))
    with pytest.raises(ValueError, match=r"must be 'auto', 'exact' or a NeighborGraph.*'blocks'"):
        tp.rank(points, 0.9, neighbors="blocks", mesh=mesh)
    with pytest.raises(TypeError, match="`mesh` needs known values"):
        jax.jit(lambda x: tp.rank(x, 0.9, mesh=mesh).kept)(points)
    with pytest.raises(TypeError, match="got an iterator"):
        tp.rank(iter([points]), 0.9, mesh=mesh)
    bad = points.copy()
    bad[400, 1] = np.inf
    with pytest.raises(ValueError, match=r"must be finite; .* first in row 400"):
        tp.rank(bad, 0.9, mesh=mesh)
    with pytest.raises(TypeError, match="known values"):
        jax.jit(lambda x: tp.structural_complexity(x, mesh=mesh))(points)


def together(what, folder, n_processes=2):
    """Runs the processes to their end; what they said."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    script = pathlib.Path(two_processes.__file__)
    path = os.pathsep.join([str(script.parents[1]), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, (port, n_processes, i, what, folder))],
            env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(n_processes)
    ]
    try:
        ends = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return ends


@pytest.mark.slow
def test_two_processes_rank_as_one(tmp_path, ranking, free_ranking):
    ends = together("rank", tmp_path)
    for number in range(2):
        assert (tmp_path / f"{number}.npz").exists(), ends
        with np.load(tmp_path / f"{number}.npz") as arrays:
            assert_same(list(arrays.values()), jax.tree.leaves((ranking, free_ranking)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("bad row", r"ValueError: `features` must be finite; .* first in row 699"),
        ("other rows", "ValueError: every process must pass the same features; .* process 1"),
        ("other labels", "ValueError: every process must pass the same labels"),
    ],
)
def test_every_process_hears_what_is_wrong(what, sentence, tmp_path):
    ends = together(what, tmp_path)
    for number in range(2):
        assert re.match(sentence, (tmp_path / f"{number}.txt").read_text()), ends


@pytest.mark.slow
def test_the_death_of_a_process_is_an_error_in_the_other(tmp_path):
    ends = together("death", tmp_path)
    assert not (tmp_path / "1.txt").exists()
    said = (tmp_path / "0.txt").read_text()
    assert re.match("RuntimeError: process 0 lost the processes it shares", said), (said, ends)
    assert float(said.splitlines()[1]) < 60  # seconds after its last sign of life


@pytest.mark.slow
def test_a_checkpoint_of_a_mesh(points, ranking, tmp_path):
    labels = two_processes.labels()
    for _ in range(2):
        again = tp.rank(points, 0.9, labels=labels, mesh=line(2), checkpoint=tmp_path)
        assert_same(again, ranking)
    with pytest.raises(ValueError, match="n_devices"):
        tp.rank(points, 0.9, labels=labels, mesh=line(8), checkpoint=tmp_path)
