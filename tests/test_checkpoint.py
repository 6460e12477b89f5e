"""Killed and resumed: the same bits as without, whatever was half done, damaged or exchanged."""

import errno
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import topoprune_jax as tp
from topoprune_jax import (
    _checkpoint,
    _coverage,
    _embedding,
    _files,
    _graph,
    _graph_boxes,
    _graph_exact,
    _lanes,
    _rank,
    _score,
    _steps,
)
from topoprune_jax._checkpoint import Checkpoint
from topoprune_jax.io import FileError

N, D = 520, 70
OPTIONS = tp.EmbeddingOptions(n_epochs=15)
# Every stage in a few pieces, each of which is kept.
SMALL = [
    (_graph_exact, "CHUNK_FLOPS", 1.0),
    (_graph_boxes, "_MIN_POINTS", 256),
    (_graph_boxes, "_TILES_PER_CALL", 4),
    (_score, "_PATCHES_PER_CALL", 200),
    (_embedding, "_EPOCHS_PER_CALL", 5),
    (_coverage, "_PICKS_PER_CALL", 150),
    (_lanes, "_MOST", 1),
]
ANEW = {"features", "fuzzy set", "class fuzzy set"}
"""Stages that every run computes."""

CHILD = """
import importlib, json, os, signal, sys
import numpy as np
import topoprune_jax as tp
from topoprune_jax._checkpoint import Checkpoint

folder, small, stage, done, name = json.loads(sys.argv[1])
for module, attribute, value in small:
    setattr(importlib.import_module(module), attribute, value)
Checkpoint.seconds = 0.0
replace = os.replace

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def replace_or_die(source, target):
    die() if name and os.path.basename(target).startswith(name) else replace(source, target)

def progress(*call):
    if call[:2] == (stage, done):
        die()

os.replace = replace_or_die
features = np.load(folder + "/features.npy")
options = tp.EmbeddingOptions(n_epochs=15)
tp.rank(features, 0.9, embedding=options, checkpoint=folder + "/kept", progress=progress)
"""


class StopHereError(Exception):
    pass


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(Checkpoint, "seconds", 0.0)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(6, D))
    return (centers[rng.integers(0, 6, N)] + 0.4 * rng.normal(size=(N, D))).astype(np.float32)


@pytest.fixture(scope="module")
def labels():
    return np.arange(N) % 3


@pytest.fixture(scope="module")
def expected(features):
    """Without a checkpoint, and unwatched."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SMALL:
            patch.setattr(module, name, value)
        return tp.rank(features, 0.9, embedding=OPTIONS)


@pytest.fixture(scope="module")
def stopped(features, expected, tmp_path_factory):
    """A folder whose run stopped in the middle of the complexity."""
    folder = tmp_path_factory.mktemp("stopped") / "kept"
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in [*SMALL, (Checkpoint, "seconds", 0.0)]:
            patch.setattr(module, name, value)
        with pytest.raises(StopHereError):
            resume(features, folder, stop=("complexity", 2))
    return folder


@pytest.fixture
def early(features, tmp_path):
    """One whose run stopped in the middle of the neighbors."""
    with pytest.raises(StopHereError):
        resume(features, tmp_path / "early", stop=("neighbors", 2))
    return tmp_path / "early"


def resume(features, folder, *, stop=None, ratio=0.9, **options):
    """The ranking, and the pieces that were computed for it."""
    calls = []

    def progress(stage, done, total):
        if (stage, done) == stop:
            raise StopHereError
        if done < total:
            calls.append((stage, done))

    ranking = tp.rank(
        features,
        ratio,
        **{"embedding": OPTIONS, "checkpoint": folder, "progress": progress, **options},
    )
    return ranking, calls


@pytest.mark.slow
def test_a_search_that_found_too_little_is_taken_up(features, tmp_path, monkeypatch):
    """By blocks first, then exactly: stopped in either, what is kept is the exact ranking."""
    exact = tp.rank(features, 0.9, embedding=OPTIONS, neighbors="exact")
    monkeypatch.setattr(_graph, "_EXACT_ON_CPU", 100)
    monkeypatch.setattr(_rank, "LEAST_RECALL", 2.0)
    whole, calls = resume(features, tmp_path / "whole")
    several = [call for call in calls if call[0] == "neighbors"]
    assert several
    assert several[: len(several) // 2] == several[len(several) // 2 :]
    for time in (1, 2):
        seen, folder = [], tmp_path / str(time)

        def stop(stage, done, total, seen=seen, time=time):
            seen.append((stage, done))
            if seen.count(("neighbors", 2)) == time:
                raise StopHereError

        with pytest.raises(StopHereError):
            tp.rank(features, 0.9, embedding=OPTIONS, checkpoint=folder, progress=stop)
        ranking, calls = resume(features, folder)
        assert_same(ranking, whole)
        again = [call for call in calls if call[0] == "neighbors"]
        assert 0 < len(again) < len(several) / time
    np.testing.assert_array_equal(whole.order, exact.order)


def kept_files(folder):
    return sorted(file.name for file in folder.iterdir())


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def stopped_before_every_piece(features, folder, **options):
    """The ranking after as many runs as there are pieces: each comes one piece further.

    With the pieces that a run computed, of all runs.
    """
    seen, runs = set(), []
    while True:
        runs.append([])

        def progress(stage, done, total, calls=runs[-1]):
            if done == total:
                return
            if (stage, done) not in seen:
                seen.add((stage, done))
                raise StopHereError
            calls.append((stage, done))

        try:
            return tp.rank(
                features, 0.9, embedding=OPTIONS, checkpoint=folder, progress=progress, **options
            ), runs
        except StopHereError:
            assert len(runs) < 60


def test_stopped_before_every_piece(features, expected, tmp_path):
    ranking, runs = stopped_before_every_piece(features, tmp_path / "kept")
    assert_same(ranking, expected)
    pieces = {piece for run in runs for piece in run}
    for stage, last in {
        "neighbors": 2,
        "manifold": 0,
        "embedding": 10,
        "complexity": 2,
        "communities": 0,
        "selection": 450,
    }.items():
        assert max(done for name, done in pieces if name == stage) == last
    computed = [[piece for piece in run if piece[0] not in ANEW] for run in runs]
    assert max(map(len, computed)) == 1
    assert kept_files(tmp_path / "kept") == ["topoprune.json", "topoprune.ranking.npz"]


def test_stopped_with_pieces_beside_each_other(features, expected, tmp_path, monkeypatch):
    """Those that were under way are computed again, or kept."""
    monkeypatch.setattr(_lanes, "_MOST", 2)
    monkeypatch.setattr(_lanes, "cores", lambda: 2)
    for stage in ("neighbors", "complexity"):
        with pytest.raises(StopHereError):
            resume(features, tmp_path / "kept", stop=(stage, 1))
    ranking, calls = resume(features, tmp_path / "kept")
    assert_same(ranking, expected)
    assert not {"neighbors", "embedding"} & {stage for stage, _ in calls}


@pytest.mark.slow
def test_stopped_before_every_piece_with_labels(features, labels, tmp_path):
    """And with the search whose first piece, the coordinates, is made anew."""
    options = {"labels": labels, "neighbors": "projected"}
    ranking, runs = stopped_before_every_piece(features, tmp_path / "kept", **options)
    assert_same(ranking, tp.rank(features, 0.9, embedding=OPTIONS, **options))
    pieces = {piece for run in runs for piece in run}
    assert {("neighbors", 4), ("class neighbors", 2), ("selection", 450)} <= pieces
    anew = ANEW | {"neighbors"}
    assert max(len([piece for piece in run if piece[0] not in anew]) for run in runs) == 1
    assert max(run.count(("neighbors", 0)) for run in runs) == 1
    for i in range(1, 5):
        assert sum(run.count(("neighbors", i)) for run in runs) == 1


def test_killed_between_two_pieces(features, expected, tmp_path):
    np.save(tmp_path / "features.npy", features)
    run_child(tmp_path, stage="embedding", done=10)
    names = kept_files(tmp_path / "kept")
    assert "topoprune.ranking.neighbors.npz" in names
    assert "topoprune.ranking.embedding.embedding.15-5.npz" in names
    ranking, calls = resume(features, tmp_path / "kept")
    assert_same(ranking, expected)
    assert [done for stage, done in calls if stage == "embedding"] == [10]
    assert not {"neighbors", "manifold"} & {stage for stage, _ in calls}


@pytest.mark.slow
def test_killed_in_the_middle_of_a_write(features, expected, tmp_path):
    np.save(tmp_path / "features.npy", features)
    run_child(tmp_path, name="topoprune.ranking.complexity.complexity")
    left_over = list((tmp_path / "kept").glob(_files.LEFT_OVER))
    assert len(left_over) == 1
    left_over[0].write_bytes(left_over[0].read_bytes()[:100])
    ranking, calls = resume(features, tmp_path / "kept")
    assert_same(ranking, expected)
    assert [done for stage, done in calls if stage == "complexity"] == list(range(3))
    assert not {"neighbors", "embedding"} & {stage for stage, _ in calls}
    assert not list((tmp_path / "kept").glob(_files.LEFT_OVER))


def run_child(folder, *, stage="", done=0, name=""):
    small = [(module.__name__, attribute, value) for module, attribute, value in SMALL]
    words = json.dumps([str(folder), small, stage, done, name])
    child = subprocess.run(
        [sys.executable, "-c", CHILD, words], capture_output=True, text=True, timeout=120
    )
    assert child.returncode == -signal.SIGKILL, child.stderr


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "damage", "anew"),
    [
        ("neighbors", cut, [("neighbors", i) for i in range(3)]),
        ("embedding", flip, [("embedding", i) for i in (0, 5, 10)]),
        ("complexity.complexity.3-1-0", lambda _: b"", [("complexity", 0)]),
    ],
)
def test_damage_is_found_and_mended(features, expected, stopped, tmp_path, name, damage, anew):
    folder = shutil.copytree(stopped, tmp_path / "kept")
    file = folder / f"topoprune.ranking.{name}.npz"
    file.write_bytes(damage(file.read_bytes()))
    ranking, calls = resume(features, folder)
    assert_same(ranking, expected)
    later = ANEW | {"communities", "selection"}
    computed = [call for call in calls if call[0] not in later]
    assert computed == [*anew, ("complexity", 2)]


@pytest.mark.parametrize("damage", [cut, flip, "exchange"])
def test_damaged_pieces_are_computed_anew(features, expected, early, damage):
    first, second = (early / f"topoprune.ranking.neighbors.neighbors.3-1-{i}.npz" for i in (0, 1))
    content = second.read_bytes() if damage == "exchange" else damage(first.read_bytes())
    first.write_bytes(content)
    ranking, calls = resume(features, early)
    assert_same(ranking, expected)
    assert [done for stage, done in calls if stage == "neighbors"] == [0, 2]


def test_a_damaged_manifest_is_written_anew(features, expected, stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "kept")
    (folder / "topoprune.json").write_bytes(b'{"n"')
    ranking, calls = resume(features, folder)
    assert_same(ranking, expected)
    assert ("embedding", 0) not in calls
    with pytest.raises(ValueError, match="holds another ranking: n 520 there and 519 here"):
        resume(features[:-1], folder)


def test_pieces_of_another_size_are_not_mixed(features, expected, stopped, tmp_path, monkeypatch):
    folder = shutil.copytree(stopped, tmp_path / "kept")
    monkeypatch.setattr(_graph_exact, "CHUNK_FLOPS", 1e10)
    monkeypatch.setattr(_score, "_PATCHES_PER_CALL", 300)
    ranking, calls = resume(features, folder)
    np.testing.assert_array_equal(ranking.scores, expected.scores)
    assert [done for stage, done in calls if stage == "complexity"] == [0, 1]


def test_another_ratio_only_reads_the_features(features, expected, stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "kept")
    first, _ = resume(features, folder)
    again, calls = resume(features, folder, ratio=0.5)
    assert {stage for stage, _ in calls} == {"features"}
    assert again.kept.shape == (N // 2,)
    np.testing.assert_array_equal(again.order, expected.order)
    np.testing.assert_array_equal(jnp.concatenate([again.kept, again.removed]), expected.order)
    np.testing.assert_array_equal(again.kept[: len(first.kept)], first.kept)
    assert_same(resume(features.astype(np.float64), folder)[0], expected)  # the same numbers


@pytest.mark.parametrize(
    ("options", "differing"),
    [
        ({"n_neighbors": 14}, "n_neighbors 15 there and 14 here"),
        ({"patch_size": 32, "beta": 0.5}, "patch_size 64 there and 32 here, beta None there and"),
        ({"labels": np.arange(N) % 2}, "other labels"),
        ({"key": jax.random.key(1)}, "another key"),
        ({"normalize": False}, "other features, normalize True there and False here"),
        ({"neighbors": "blocks"}, "neighbors exact there and blocks here"),
        ({"embedding": tp.EmbeddingOptions()}, "embedding.n_epochs 15 there and None here"),
    ],
)
def test_another_ranking_is_refused(features, stopped, options, differing):
    before = kept_files(stopped)
    with pytest.raises(ValueError, match=r"Name another folder, or delete this one\.$") as caught:
        resume(features, stopped, **options)
    assert f"'{stopped}' holds another ranking: {differing}" in str(caught.value)
    assert kept_files(stopped) == before


def test_other_features_versions_and_graphs_are_refused(features, stopped, monkeypatch):
    other = features.copy()
    other[-1, -1] += np.float32(1e-4)
    with pytest.raises(ValueError, match=r"ranking: other features\. Name"):
        resume(other, stopped)
    graph = tp.NeighborGraph(np.arange(N)[:, None] ^ 1, np.ones((N, 1)))
    with pytest.raises(ValueError, match="other graph, neighbors exact there and given here"):
        resume(features, stopped, neighbors=graph)
    monkeypatch.setattr(_checkpoint, "__version__", "9.9")
    with pytest.raises(ValueError, match=r"topoprune_jax 0\..* there and 9\.9 here"):
        resume(features, stopped)


def test_a_folder_of_others_is_left_alone(features, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileError, match=r"it holds other files, such as 'thesis.txt'; name a new"):
        tp.rank(features, 0.9, checkpoint=tmp_path)
    assert kept_files(tmp_path) == ["thesis.txt"]
    # What is put into a checkpoint's folder stays there.
    _files_in = tmp_path / "kept"
    with _checkpoint.opened(_files_in, {"n": 1}) as checkpoint:
        checkpoint.save("ranking.neighbors", {"0": np.zeros(2)})
        (_files_in / "topoprune.ranking.notes.txt").write_text("mine")
        (_files_in / "ranking.npz").write_bytes(b"mine")
        checkpoint.remove_inside("ranking")
    names = ["ranking.npz", "topoprune.json", "topoprune.ranking.notes.txt"]
    assert kept_files(_files_in) == names


def test_what_cannot_be_a_checkpoint_is_one_sentence(features, tmp_path):
    (tmp_path / "file").write_text("")
    for path, error, message in [
        ("", TypeError, "`checkpoint` must be a path; got ''"),
        (tmp_path / "file", FileError, "cannot use '.*file' as checkpoint: not a directory"),
        (tmp_path / "a" / "b", FileError, "cannot write to '.*a': there is no such folder"),
        ("zero\0byte", FileError, "cannot use .* as checkpoint: embedded null byte"),
        ("/proc/self/kept", FileError, "cannot write to '/proc/self'"),
    ]:
        with pytest.raises(error, match=message) as caught:
            tp.rank(features, 0.9, checkpoint=path)
        assert "\n" not in str(caught.value)
    keep = functools.partial(tp.rank, features, 0.9, checkpoint=tmp_path / "kept")
    graph = tp.knn_graph(features, n_neighbors=5)
    for function, argument in [
        (lambda key: keep(key=key).kept, jax.random.key(0)),
        (lambda graph: keep(neighbors=graph).kept, graph),
        (lambda _: keep().kept, 0.0),  # closes over everything
    ]:
        with pytest.raises(TypeError, match="keeps values that are known; got traced ones"):
            jax.eval_shape(function, argument)


def test_one_process_at_a_time(tmp_path):
    with (
        _checkpoint.opened(tmp_path / "kept", {"n": 1}),
        pytest.raises(FileError, match="another run is at work on it; wait for its end"),
        _checkpoint.opened(tmp_path / "kept", {"n": 1}),
    ):
        pass
    with _checkpoint.opened(tmp_path / "kept", {"n": 1}):
        pass


def test_a_full_disk_is_one_sentence_and_spoils_nothing(tmp_path, monkeypatch):
    with _checkpoint.opened(tmp_path / "kept", {"n": 1}) as checkpoint:
        checkpoint.save("ranking.start", {"0": np.arange(3)})

        def full(stream, **_):
            stream.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(np, "savez", full)
        with pytest.raises(FileError, match=r"cannot write '.*': no space left on device\.$"):
            checkpoint.save("ranking.start", {"0": np.arange(4)})
        found = checkpoint.load("ranking.start")
        assert found is not None
        np.testing.assert_array_equal(found["0"], np.arange(3))
    assert kept_files(tmp_path / "kept") == ["topoprune.json", "topoprune.ranking.start.npz"]


def test_files_inside_a_stage_are_some_time_apart(features, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "seconds", 1e6)
    with pytest.raises(StopHereError):
        resume(features, tmp_path / "kept", stop=("complexity", 2))
    # A start of its own for the embedding: these features are of several components.
    names = ("embedding", "manifold", "neighbors", "start")
    stages = [f"topoprune.ranking.{name}.npz" for name in names]
    assert kept_files(tmp_path / "kept") == ["topoprune.json", *stages]
    assert_same(resume(features, tmp_path / "kept")[0], expected)


@pytest.fixture
def interruptible():
    """A process that a shell has started in the background ignores SIGINT, and Python with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_wait_while_the_device_goes_on():
    @jax.jit
    def long(x):
        return jax.lax.fori_loop(0, 100, lambda _, x: 1e-3 * x @ x, x)

    result = long(jnp.ones((1000, 1000)))  # seconds
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        _steps.wait(result)
    assert not result.is_ready()
    timer.join()
    jax.block_until_ready(result)  # so that no other test waits for it


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_does_not_wait_for_what_is_beside(monkeypatch):
    monkeypatch.setattr(_lanes, "_MOST", 2)
    monkeypatch.setattr(_lanes, "cores", lambda: 2)
    goes_on, ended = threading.Event(), threading.Event()

    def work(run):
        os.kill(os.getpid(), signal.SIGINT)  # which the main thread hears
        goes_on.wait(60)
        ended.set()

    def needed():
        with _steps.beside(_steps.Run(), (jnp.zeros(1),)) as side:
            side(work)()

    with pytest.raises(KeyboardInterrupt):
        needed()
    assert not ended.is_set()
    goes_on.set()
    assert ended.wait(60)


def test_a_wait_passes_errors_and_tracers_on():
    assert jax.jit(lambda x: _steps.wait((x, 2))[0] + 1)(1) == 2
    assert _steps.wait({"a": jnp.ones(2), "b": None})["b"] is None
