"""Pieces beside each other: on one CPU only, in the caller's options, with the same bits."""

import functools
import os
import pathlib
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import (
    _beta,
    _coverage,
    _embedding,
    _embedding_forces,
    _embedding_runs,
    _graph_approximate,
    _graph_boxes,
    _graph_exact,
    _lanes,
    _memory,
    _rank,
    _score,
    _steps,
)
from topoprune_jax._checkpoint import opened
from topoprune_jax._lanes import Lanes
from topoprune_jax._select import agreement_weights
from topoprune_jax._steps import Run, Steps, beside

N_LANES = 3


@pytest.fixture(autouse=True)
def lanes(monkeypatch):
    monkeypatch.setattr(_lanes, "cores", lambda: N_LANES)


@pytest.fixture
def small_calls(monkeypatch):
    monkeypatch.setattr(_graph_exact, "CHUNK_FLOPS", 1.0)
    monkeypatch.setattr(_score, "_PATCHES_PER_CALL", 100)


@pytest.fixture
def threads_of(monkeypatch):
    """Notes the threads in which a function of a module is called."""

    def note(module, name):
        seen, function = [], getattr(module, name)

        def noted(*args):
            seen.append(here())
            return function(*args)

        monkeypatch.setattr(module, name, noted)
        return seen

    return note


def here():
    return threading.current_thread().name


def test_pieces_go_to_the_lanes_in_turn():
    steps = Steps("stage", 7, None, beside=(jnp.zeros(3), None))
    names = [steps.run(here) for _ in range(7)]
    assert len(set(names)) == N_LANES
    assert names == names[:N_LANES] * 2 + names[:1]
    assert threading.main_thread().name not in names


def test_nothing_leaves_the_thread_unless_it_may():
    own = here()
    assert Lanes().hand_over(0, here) == own
    assert Steps("stage", 1, None).run(here) == own
    # Of an array on several devices, one that is traced, and in options of this thread alone.
    devices = np.array(jax.devices()[:2])
    on_two = jax.device_put(
        jnp.zeros(2), jax.NamedSharding(jax.make_mesh((2,), ("x",), devices=devices), jax.P("x"))
    )
    assert Lanes((on_two,)).hand_over(0, here) == own
    seen, known = [], jnp.zeros(1)
    for transform in (jax.vmap, jax.jit):
        transform(lambda x: seen.append(Lanes((known, x)).hand_over(0, here)))(jnp.zeros(2))
    jax.jit(lambda: seen.append(Lanes((known,)).hand_over(0, here)))()
    assert seen == [own] * 3
    with jax.default_matmul_precision("highest"):
        assert Lanes((jnp.zeros(1),)).hand_over(0, here) == own
    assert Lanes((jnp.zeros(1),)).hand_over(0, here) != own


def test_a_lane_has_no_lanes_of_its_own():
    """Waiting for itself, it would never end."""
    inner = Lanes((jnp.zeros(1),)).hand_over(1, lambda: Lanes((jnp.zeros(1),)))
    assert len(inner) == 1
    assert inner.hand_over(0, here) == here()


def test_an_error_comes_out_of_its_lane():
    def piece():
        raise ValueError("of the piece")

    with pytest.raises(ValueError, match="of the piece"):
        Steps("stage", 1, None, beside=(jnp.zeros(1),)).run(piece)


@pytest.mark.parametrize("labeled", tiers([False, True], [True]))
def test_searches_and_scores_are_the_same_to_the_bit(rng, small_calls, monkeypatch, labeled):
    points = rng.normal(size=(1500, 20)).astype(np.float32)
    labels = rng.integers(0, 3, 1500) if labeled else None
    plan = _graph_approximate._Plan(4, 1, 8, 40, 960, 10, 1)
    monkeypatch.setattr(_graph_approximate, "_plan", lambda n, k: plan)

    def everything():
        methods = ("exact",) if labeled else ("exact", "blocks")
        graphs = [tp.knn_graph(points, labels=labels, method=method) for method in methods]
        return graphs, tp.structural_complexity(points, labels=labels, patch_size=12)

    several = everything()
    monkeypatch.setattr(_lanes, "_MOST", 1)
    for one, other in zip(jax.tree.leaves(several), jax.tree.leaves(everything()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("n_classes", tiers([1, 2, 7], [2, 7]))
def test_classes_are_picked_beside_each_other_as_alone(digits, threads_of, monkeypatch, n_classes):
    """One of them holds most of the samples, and pieces end in the middle of others."""
    points, labels = digits[0][:700], np.minimum(digits[1][:700], n_classes - 1)
    monkeypatch.setattr(_coverage, "_PICKS_PER_CALL", 50)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    calls = []
    options = {"labels": labels, "weights": np.linspace(0, 1, 700)}
    options["progress"] = lambda *call: calls.append(call)
    for scores in (points.sum(axis=1), np.zeros(700)):
        alone = tp.select(fuzzy_set, scores, 0.9, **options)
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(_coverage, "_LEAST_TO_SHARE", 1)
            seen = threads_of(_coverage, "_pick")
            beside = tp.select(fuzzy_set, scores, 0.9, **options)
        assert len(set(seen)) == min(n_classes, N_LANES)
        np.testing.assert_array_equal(beside.order, alone.order)
        assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
        assert calls[0][1] == 0
        assert calls[-1][1] == calls[-1][2]
        assert len(calls) > 5


def test_betas_are_tried_beside_each_other(digits, threads_of, monkeypatch):
    points, labels = digits[0][:700], digits[1][:700]
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    find = functools.partial(tp.choose_beta, points, fuzzy_set, points.std(axis=1))
    seen = threads_of(_beta, "_disagreement")
    several = [float(find(strata=labels, tolerance=tolerance)) for tolerance in (0.05, 0.5)]
    assert len(set(seen)) > 1
    assert threading.main_thread().name not in seen
    # With labels, and where many are kept, the thread would wait for what it hands over.
    seen.clear()
    classes = float(find(labels=labels))
    monkeypatch.setattr(_coverage, "PICKS_AT_ONCE", 10)
    monkeypatch.setattr(_beta, "PICKS_AT_ONCE", 10)
    monkeypatch.setattr(_coverage, "_PICKS_PER_CALL", 15)
    assert [float(find(strata=labels, tolerance=t)) for t in (0.05, 0.5)] == several
    assert set(seen) == {threading.main_thread().name}
    assert float(find(labels=labels)) == classes


@pytest.mark.parametrize(
    ("c", "n_negatives"),  # 150 are three groups of shifts
    [
        (3, 150),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((1, 10), (1, 150), (3, 10))),
    ],
)
def test_embeddings_are_the_same_to_the_bit(rng, monkeypatch, n_negatives, c):
    monkeypatch.setattr(_embedding_forces, "_TILE", 32)
    monkeypatch.setattr(_embedding_forces, "_REVERSE_BLOCK", 64)
    points = rng.normal(size=(250, 5)).astype(np.float32)
    points[:40] = points[0]  # listed by many
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=7))
    options = tp.EmbeddingOptions(n_components=c, n_negatives=n_negatives, n_epochs=23)
    seen = set()

    def forces(lane, *args, _forces=_embedding_runs._forces, **more):
        seen.add((int(lane), here()))
        return _forces(lane, *args, **more)

    monkeypatch.setattr(_embedding_runs, "_forces", forces)
    several = []
    for most in (1, 2, 3):
        monkeypatch.setattr(_lanes, "_MOST", most)
        several.append(np.asarray(tp.embed(fuzzy_set, options, key=jax.random.key(0))))
        assert len(seen) == (most if most > 1 else 0)
        seen.clear()
    np.testing.assert_array_equal(several[1], several[0])
    np.testing.assert_array_equal(several[2], several[0])


def test_as_many_lanes_as_an_embedding_has_work_for():
    few, many = tp.EmbeddingOptions(), tp.EmbeddingOptions(n_negatives=5000)
    assert _embedding_runs.lanes_for(1000, few, 4) == 1
    assert _embedding_runs.lanes_for(10_000, few, 4) == 2
    assert _embedding_runs.lanes_for(100_000, few, 4) == 4
    assert _embedding_runs.lanes_for(100_000, many, 4) == 1


def test_progress_tells_what_is_finished(rng, small_calls):
    calls = []
    points = rng.normal(size=(1500, 6)).astype(np.float32)
    tp.structural_complexity(points, patch_size=8, progress=lambda *call: calls.append(call))
    done = [call[1] for call in calls]
    total = calls[-1][2]
    assert total == 6
    # All but those that run.
    assert done == [max(0, i - (N_LANES - 1)) for i in range(total)] + [total]


def test_float64_stays_float64(rng, small_calls):
    with jax.enable_x64(True):
        points = rng.normal(size=(600, 6))
        graph = tp.knn_graph(points)
        scores = tp.structural_complexity(points, patch_size=8)
    assert graph.distances.dtype == scores.dtype == np.float64


def test_freed_memory_goes_back_to_the_system():
    """What a process holds falls by what it freed; only where the C library is glibc."""
    if not sys.platform.startswith("linux") or _memory._trim() is None:
        pytest.skip("this C library gives memory back by itself, or never")
    several = [bytearray(100_000) for _ in range(1000)]
    last = bytearray(100_000)  # what lies above the others keeps them from going back by themselves
    del several
    before = resident()
    _memory.give_back_freed_memory()
    assert resident() < before
    assert len(last) == 100_000


def resident():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def lag(call):
    """By how many pieces `progress` falls behind when a few are under way: one less than lanes."""
    calls = []
    call(lambda *one: calls.append(one[1:]))
    done = [one[0] for one in calls]
    assert done == sorted(done)
    assert calls[-1][0] == calls[-1][1] >= 2 * N_LANES
    return done.count(0) - 1


@pytest.mark.parametrize("method", tiers(["exact", "projected", "blocks", "boxes"], ["blocks"]))
def test_every_search_uses_the_lanes(rng, small_calls, monkeypatch, method):
    d = 2 if method == "boxes" else 20
    points = rng.normal(size=(1600, d)).astype(np.float32)
    plan = _graph_approximate._Plan(4, 1, 8, 40, 960, 10, 1)
    monkeypatch.setattr(_graph_approximate, "_plan", lambda n, k: plan)
    monkeypatch.setattr(_graph_approximate, "_AXES", 16)
    monkeypatch.setattr(_graph_boxes, "_MIN_POINTS", 256)
    monkeypatch.setattr(_graph_boxes, "_TILES_PER_CALL", 4)
    chosen = "exact" if method == "boxes" else method
    assert lag(lambda tell: tp.knn_graph(points, method=chosen, progress=tell)) == N_LANES - 1


def test_what_calls_the_host_stays_in_the_thread(rng, small_calls):
    """Several host calls at a time could wait for each other without end."""
    points = rng.normal(size=(1600, 6)).astype(np.float32)
    score = functools.partial(tp.structural_complexity, points, patch_size=8)
    assert lag(lambda tell: score(dims=(0, 1), progress=tell)) == 0
    assert lag(lambda tell: score(dims=(0, 1), reduction="device", progress=tell)) == N_LANES - 1


def test_stages_of_several_pieces_give_memory_back(monkeypatch):
    given = []
    monkeypatch.setattr(_steps, "give_back_freed_memory", lambda: given.append(True))
    for total, expected in ((1, 0), (2, 1)):
        given.clear()
        steps = Steps("stage", total, None)
        for _ in range(total):
            steps.run(here)
        steps.end()
        assert len(given) == expected


# Beside the caller.


def thread_beside(run=None, near=None):
    """In which thread work beside the caller's is done."""
    with beside(Run() if run is None else run, (jnp.zeros(1),) if near is None else near) as side:
        return side(lambda run: here())()


def test_work_beside_is_in_a_thread_of_its_own_without_lanes():
    with beside(Run(), (jnp.zeros(1), None)) as side:
        name = side(lambda run: here())()
        assert name not in {here(), *(Lanes((jnp.zeros(1),)).hand_over(i, here) for i in range(3))}
        assert side(lambda run: len(Lanes((jnp.zeros(1),))))() == 1
        # One after the other, whatever is asked for first.
        begun, went_on = [], threading.Event()
        first = side(lambda run: (went_on.wait(60), begun.append(1)))
        second = side(lambda run: begun.append(2), waits_for_need=True)
        assert begun == []
        went_on.set()
        second()
        first()
        assert begun == [1, 2]


def test_nothing_is_beside_a_run_that_is_watched_or_kept(tmp_path, monkeypatch):
    own = here()
    assert thread_beside() != own
    assert thread_beside(Run(lambda *report: None)) == own
    with opened(tmp_path / "kept", {}) as checkpoint:
        assert thread_beside(Run(None, checkpoint)) == own
    assert thread_beside(near=()) == own
    with jax.default_matmul_precision("highest"):
        assert thread_beside() == own
    monkeypatch.setattr(_lanes, "cores", lambda: 1)
    assert thread_beside() == own


@pytest.mark.parametrize("lanes_are_there", [False, True])
def test_work_goes_on_where_no_thread_can_start(monkeypatch, lanes_are_there):
    threads = functools.cache(_lanes._threads.__wrapped__)
    monkeypatch.setattr(_lanes, "_threads", threads)
    if lanes_are_there:
        assert len(Lanes((jnp.zeros(1),))) == N_LANES

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert thread_beside() == here()
    assert len(Lanes((jnp.zeros(1),))) == (N_LANES if lanes_are_there else 1)


def test_without_a_thread_work_is_done_at_once_or_when_it_is_needed():
    calls = []
    with beside(Run()) as side:
        first = side(lambda run: calls.append("at once"))
        second = side(lambda run: calls.append("when needed"), waits_for_need=True)
        assert calls == ["at once"]
        for _ in range(2):
            first()
            second()
        assert calls == ["at once", "when needed"]


def test_an_error_beside_comes_out_where_its_result_is_needed():
    def fail(run):
        raise ValueError("of the work")

    with beside(Run(), (jnp.zeros(1),)) as side:
        result = side(fail)
        with pytest.raises(ValueError, match="of the work"):
            result()


def test_who_leaves_waits_for_no_more_than_a_piece():
    began, goes_on, ended = (threading.Event() for _ in range(3))
    done, never = [], []

    def pieces(run):
        try:
            steps = Steps("stage", 3, run)
            for i in range(3):
                steps.run(lambda i=i: (done.append(i), began.set(), goes_on.wait(60)))
        finally:
            ended.set()

    class LeftError(Exception):
        pass

    def leave():
        with beside(Run(), (jnp.zeros(1),)) as side:
            side(pieces)
            side(lambda run: never.append(0))
            assert began.wait(60)
            raise LeftError

    with pytest.raises(LeftError):
        leave()
    assert not ended.is_set()
    goes_on.set()
    assert ended.wait(60)
    assert done == [0]
    assert never == []


@pytest.mark.parametrize("kind", tiers(["free", "labeled", "embedding"], ["free"]))
def test_rank_is_the_same_whether_watched_or_not(digits, threads_of, kind):
    points, labels = digits[0][:500], digits[1][:500] if kind == "labeled" else None
    options = {"labels": labels, "embedding": tp.EmbeddingOptions(n_epochs=30)}
    options["manifold"] = "embedding" if kind == "embedding" else "spectral"
    seen = threads_of(_embedding, "_finish")
    watched = tp.rank(points, 0.9, progress=lambda *report: None, **options)
    alone = tp.rank(points, 0.9, **options)
    for one, other in zip(jax.tree.leaves(watched), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(one, other)
    own, other = seen
    assert own == here()
    assert (other == here()) == (kind == "embedding")


@pytest.mark.slow
def test_nothing_is_beside_the_stages_of_very_many_samples(digits, threads_of, monkeypatch):
    monkeypatch.setattr(_rank, "_BESIDE_UP_TO", 299)
    seen = threads_of(_embedding, "_finish")
    for n in (299, 300):
        tp.rank(digits[0][:n], 0.9, embedding=tp.EmbeddingOptions(n_epochs=1))
    assert [name == here() for name in seen] == [False, True]


AHEAD = ("_build", "_degrees", "_eigenmap", "_components", "communities_of")
FOR_SELECTION = ("_agreement", "power_for", "agreement_weights", "_weights_of_ranks")
FOR_SELECTION += ("pages_within", "_start", "_pick", "_order", "interleave")


def test_what_is_compiled_ahead_is_not_compiled_again(caplog, rng):
    """Those of the manifold and of the selection, for arrays of the shapes that were told."""
    n, k, e = 331, 7, 16
    accuracy = _rank._ACCURACY

    def compiled(n, names, made):
        messages = [m for m in made if m.startswith("Finished XLA compilation")]
        return [name for name in names if any(f"jit({name})" in m for m in messages)]

    def stages(n):
        points = rng.normal(size=(n, 5)).astype(np.float32)
        graph = tp.knn_graph(points, n_neighbors=k)
        caplog.clear()
        with jax.log_compiles(True):
            fuzzy_set = tp.fuzzy_simplicial_set(graph)
            z = tp.spectral_embedding(fuzzy_set, e, by_component=True, **accuracy)
            tp.communities(fuzzy_set, z, key=jax.random.key(0))
            manifold = list(caplog.messages)
            caplog.clear()
            groups = np.arange(n, dtype=np.int32) % 4
            agreement = tp.class_agreement(fuzzy_set, groups)
            weights = agreement_weights(agreement, tp.choose_agreement_power(agreement, groups))
            tp.select(fuzzy_set, points[:, 0], 0.5, labels=groups, weights=weights, beta=-1.0)
        return compiled(n, AHEAD, manifold), compiled(n, FOR_SELECTION, caplog.messages)

    assert stages(n + 1) == (list(AHEAD), list(FOR_SELECTION))
    shapes = n, k, jnp.dtype(jnp.float32)
    _rank._compile_manifold(*shapes, e, True, Run())
    _rank._compile_selection(*shapes, Run())
    assert stages(n) == ([], [])


def test_nothing_more_is_compiled_once_nobody_waits(monkeypatch):
    """And what was not finished is compiled when it is asked for again."""
    made = []
    ahead = ("eigenmap", "components", "communities", "selection")
    for name in (f"compile_{one}" for one in ahead):
        monkeypatch.setattr(_rank, name, lambda *_, name=name, **__: made.append(name))
    branch = _steps._Branch()
    branch.leave()
    shapes = 329, 3, jnp.dtype(jnp.float32)
    with pytest.raises(_steps._LeftError):
        _rank._compile_manifold(*shapes, 16, True, branch)
    assert made == []
    for _ in range(2):
        _rank._compile_manifold(*shapes, 16, True, Run())
        _rank._compile_selection(*shapes, Run())
    assert sorted(made) == [f"compile_{one}" for one in sorted(ahead)]


def test_rank_compiles_ahead_in_a_thread(monkeypatch, rng):
    """Once for arrays of one shape, and it waits for that; not where JAX traces."""
    seen = []

    def note(name, *shapes, run):
        seen.append((name, *shapes, threading.current_thread() is threading.main_thread()))

    for name in ("manifold", "selection"):
        put = functools.partial(note, name)
        put = lambda *args, put=put: put(*args[:-1], run=args[-1])  # noqa: E731
        monkeypatch.setattr(_rank, f"_compile_{name}", put)
    points = rng.normal(size=(60, 4)).astype(np.float32)
    quick = {"embedding": tp.EmbeddingOptions(n_epochs=0), "n_neighbors": 5, "beta": 0.0}
    tp.rank(points, 0.5, **quick)
    shapes = 60, 5, jnp.float32
    assert seen == [("manifold", *shapes, 16, True, False), ("selection", *shapes, False)]
    jax.eval_shape(lambda x: tp.rank(x, 0.5, **quick).order, points)
    tp.rank(points, 0.5, **quick, mesh=jax.make_mesh((1,), ("x",)))
    assert len(seen) == 2
    tp.rank(points, 0.5, **quick, labels=np.arange(60) % 2)
    assert seen[2:] == [("manifold", *shapes, 16, False, False), ("selection", *shapes, False)]
    # A graph from elsewhere leaves the manifold and the selection to be compiled.
    graph = tp.knn_graph(points, n_neighbors=3)
    tp.rank(points, 0.5, **quick, neighbors=graph)
    assert [told[:3] for told in seen[-2:]] == [("manifold", 60, 3), ("selection", 60, 3)]


def test_what_goes_wrong_ahead_is_told(monkeypatch, rng):
    def fail(*_):
        raise RuntimeError("no room for the programs")

    monkeypatch.setattr(_rank, "_compile_manifold", fail)
    with pytest.raises(RuntimeError, match="no room for the programs"):
        tp.rank(rng.normal(size=(60, 4)), 0.5, n_neighbors=5)
