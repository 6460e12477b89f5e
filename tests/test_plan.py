"""The plan against what XLA says of the compiled programs, its laws, and what it refuses."""

import functools
import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import topoprune_jax as tp
from topoprune_jax import _communities as communities
from topoprune_jax import _coverage as coverage
from topoprune_jax import _discriminant, _noise, _plan, _rank, _stages, cli
from topoprune_jax import _embedding_forces as forces
from topoprune_jax import _embedding_runs as runs
from topoprune_jax import _graph_exact as exact
from topoprune_jax._memory import free_host_memory, free_memory
from topoprune_jax._spectral import low_eigenvectors
from topoprune_jax._speed import Speed, speed_of

GIB = 1 << 30
# No test depends on how fast this machine is.
SPEED = Speed(flops=1e11, streamed=1e10, operations=1e9, steps=1e5, compilation=0.5)


@pytest.fixture
def steady(monkeypatch):
    """A known speed and 8 GiB of free memory."""
    monkeypatch.setattr(_plan, "speed_of", lambda device: SPEED)
    monkeypatch.setattr(_plan, "free_memory", lambda device: 8 * GIB)


def problem(n=20_000, d=64, **changes):
    several = {
        "k": 15, "m": 64, "c": 2, "e": 16, "neighbors": "exact", "class_sizes": (),
        "n_epochs": 120, "n_negatives": 64,
    }  # fmt: skip
    return _stages.Problem(n=n, d=d, **(several | changes))


def peak(**changes):
    several = _stages.stages(problem(**changes), tile_bytes=exact.TILE_BYTES, platform="cpu")
    return max(_stages.peaks(several))


N, D, K, C, E = 20_000, 64, 15, 2, 16


def arrays(*shapes):
    """Arrays without values: ("f", n, d) of float32, ("i", n) of int32."""
    dtypes = {"f": jnp.float32, "i": jnp.int32}
    return [jax.ShapeDtypeStruct(shape, dtypes[kind]) for kind, *shape in shapes]


def table(n, d):
    (points,) = arrays(("f", n, d))
    make = functools.partial(exact.prepare, codes=None, metric="euclidean", n_rows=n)
    return jax.eval_shape(make, points)


def fuzzy_set():
    names = ("indices", "memberships", "reverse_offsets", "reverse_indices")
    names += ("reverse_memberships", "rho", "sigma")
    shapes = [
        ("i", N, K),
        ("f", N, K),
        ("i", N + 1),
        ("i", N * K),
        ("f", N * K),
        ("f", N),
        ("f", N),
    ]
    made = object.__new__(tp.FuzzySimplicialSet)
    for name, array in zip(names, arrays(*shapes), strict=True):
        object.__setattr__(made, name, array)
    return made


def _exact_search():
    """The table stays; the scan of one part comes on top."""
    rows, block = exact.tile_of(N, None)
    points, own = table(N, D), arrays(("i", 2, rows))[0]
    options = {"metric": "euclidean", "k": K, "block": block, "by_class": False}
    return [(held(points), exact.search, (points, own), options)]


def _manifold():
    def eigenmap(fuzzy_set):
        return tp.spectral_embedding(fuzzy_set, E, rounds=4, tolerance=0.1)

    return [(0, jax.jit(eigenmap), (fuzzy_set(),), {})]


def _spectral_start():
    (guess,) = arrays(("f", N, C))

    def filtered(fuzzy_set, guess, key):
        options = {"rounds": 4, "degree": 8, "tolerance": 0.1, "degrees": fuzzy_set.degrees}
        return low_eigenvectors(fuzzy_set, C, guess=guess, **options, key=key)

    key = jax.eval_shape(lambda: jax.random.key(0))
    return [(held(guess), jax.jit(filtered), (fuzzy_set(), guess, key), {})]


def _embedding():
    """The layout, which stays for the epochs."""
    start, z, degrees = arrays(("f", N, C), ("f", C, N), ("f", N))
    key = jax.eval_shape(lambda: jax.random.key(0))
    making = forces.layout_of, (fuzzy_set(), degrees, start, key)
    layout = jax.eval_shape(making[0], *making[1])
    options = {"options": tp.EmbeddingOptions(n_components=C, n_epochs=120), "n_epochs": 10}
    running = held((layout, z, z)), runs.run_whole, (layout, (z, z), 0, key), options
    return [(held(start), *making, {}), running]


def _greedy():
    listing = coverage.pages_within, (fuzzy_set(), *arrays(("i", N)))
    pages = jax.eval_shape(listing[0], *listing[1])
    return [(0, *listing, {}), (held(pages), coverage._start, (pages, *arrays(("f", N))), {})]


def _communities():
    coordinates, parts = arrays(("f", N, E), ("i", N))
    key = jax.eval_shape(lambda: jax.random.key(0))
    given = fuzzy_set(), coordinates, parts, communities.cells_for(N)
    return [(0, communities.communities_of, given, {"key": key})]


def held(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


# What stays meanwhile, the program, its arguments and options, of all that a stage runs.
PROGRAMS = {
    "neighbors": _exact_search,
    "manifold": _manifold,
    "start": _spectral_start,
    "embedding": _embedding,
    "communities": _communities,
    "selection": _greedy,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_bytes_are_those_of_the_compiled_programs(name):
    """XLA says what a program needs beside its arguments, and how large its results are."""
    needed = 0
    for kept, program, arguments, options in PROGRAMS[name]():
        memory = program.lower(*arguments, **options).compile().memory_analysis()
        size = memory.temp_size_in_bytes + memory.output_size_in_bytes
        needed = max(needed, kept + size)
    asked = problem(n=N, d=D, k=K, c=C, e=0 if name == "start" else E)
    platform = "cpu" if name in ("neighbors", "communities", "selection") else "gpu"
    several = _stages.stages(asked, tile_bytes=exact.TILE_BYTES, platform=platform)
    (stage,) = (stage for stage in several if stage.name == name)
    assert stage.work_bytes == pytest.approx(needed, rel=0.25)


@pytest.mark.parametrize("space", ["discriminant_features", "discriminant_coordinates"])
def test_bytes_of_discriminant_coordinates(space):
    """What XLA says of all of it as one program, and the features."""
    d = 512
    (points,) = arrays(("f", N, d))
    make = functools.partial(_discriminant.in_space, space=space)
    codes = jnp.arange(N) % 10
    memory = jax.jit(lambda x: make(x, codes)).lower(points).compile().memory_analysis()
    needed = held(points) + memory.temp_size_in_bytes + memory.output_size_in_bytes
    asked = _plan.in_discriminant_space(problem(n=N, d=d, class_sizes=(N // 10,) * 10), space, 10)
    assert (asked.d, asked.n_features) == (9 if "coordinates" in space else d + 9, d)
    plain = _stages.stages(problem(n=N, d=d), tile_bytes=1 << 20, platform="gpu")
    several = _stages.stages(asked, tile_bytes=1 << 20, platform="gpu")
    assert several[0].work_bytes == pytest.approx(needed, rel=0.25)
    assert several[0].work.flops > plain[0].work.flops
    assert (several[1].work.flops < plain[1].work.flops) == ("coordinates" in space)


LARGER = {
    "n": {"n": 40_000},
    "d": {"d": 512},  # whose products are not of float32 numbers on an accelerator
    "k": {"k": 40},
    "m": {"m": 128},
    "c": {"c": 4},
    "e": {"e": 32},
    "labels": {"class_sizes": (2_000,) * 10},
}


@pytest.mark.parametrize("change", LARGER.values(), ids=LARGER)
def test_more_of_anything_takes_no_less(change):
    """Of memory in every stage, and of work."""
    small, large = (
        _stages.stages(problem(**given), tile_bytes=1 << 26, platform="gpu")
        for given in ({}, change)
    )
    sizes, others = dict(zip((s.name for s in small), _stages.peaks(small), strict=True)), {}
    for stage, size in zip(large, _stages.peaks(large), strict=True):
        others[stage.name] = size
    common = sizes.keys() & others.keys()
    if "class_sizes" in change:
        common -= {"complexity"}  # patches are sought within the classes
    assert len(common) >= 6
    assert all(others[name] >= sizes[name] for name in common)
    assert sum(others.values()) > sum(sizes.values())
    work, more = ({s.name: s.work for s in several} for several in (small, large))
    assert all(a >= b for name in common for a, b in zip(more[name], work[name], strict=True))


def test_patches_of_large_classes_are_planned_by_blocks():
    """Those of two classes as those of two data sets; the exact search takes more products."""
    two, one = problem(n=120_000, class_sizes=(60_000,) * 2), problem(n=60_000)
    together, alone = (_stages._found_patches(p, 16, "cpu", 1)[0] for p in (two, one))
    np.testing.assert_allclose(together, 2 * np.asarray(alone))
    exact = _stages._found_patches(two, 16, "gpu", 1)[0]
    every = _stages._search_work(120_000, 16, 64, (60_000,) * 2, "gpu")
    assert exact == every
    assert every.streamed > 2 * together.streamed


def test_memory_grows_linearly_and_exact_search_quadratically():
    ns = (200_000, 400_000, 800_000)
    for neighbors in ("exact", "blocks"):
        sizes = [peak(n=n, neighbors=neighbors) - _stages.PROGRAM_BYTES for n in ns]
        assert sizes[1] / sizes[0] == pytest.approx(2, rel=0.1)
        assert sizes[2] / sizes[1] == pytest.approx(2, rel=0.05)
    seconds = [
        _stages.seconds_of(
            next(
                stage
                for stage in _stages.stages(problem(n=n), tile_bytes=1 << 26, platform="cpu")
                if stage.name == "neighbors"
            ),
            SPEED,
        )
        for n in ns
    ]
    assert seconds[1] / seconds[0] == pytest.approx(4, rel=0.05)


class TestFreeMemory:
    """Of the system's own files, written by hand."""

    @staticmethod
    def system(folder, *, available=8 * GIB, listing="", files=()):
        (folder / "proc/self").mkdir(parents=True)
        (folder / "proc/meminfo").write_text(
            f"MemTotal:       99 kB\nMemAvailable:   {available // 1024} kB\nHugePages_Total: 0\n"
        )
        (folder / "proc/self/cgroup").write_text(listing)
        for name, content in dict(files).items():
            path = folder / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return free_host_memory(proc=folder / "proc", cgroups=folder / "groups")

    def test_of_the_machine(self, tmp_path):
        assert self.system(tmp_path) == 8 * GIB

    def test_the_second_version_of_groups_counts_every_ancestor(self, tmp_path):
        files = {
            "memory.max": "max",
            "memory.current": 5,
            "a/memory.max": 3 * GIB,
            "a/memory.current": 2 * GIB,
            "a/memory.stat": f"anon 7\nactive_file {GIB // 4}\ninactive_file {GIB // 4}",
            "a/b/memory.max": 6 * GIB,
            "a/b/memory.current": GIB,
        }
        assert self.system(tmp_path, listing="0::/a/b\n", files=files) == 1.5 * GIB

    def test_the_first_version_of_groups(self, tmp_path):
        files = {
            "memory/memory.limit_in_bytes": 9223372036854771712,
            "memory/memory.usage_in_bytes": 5,
            "memory/job/memory.limit_in_bytes": 4 * GIB,
            "memory/job/memory.usage_in_bytes": GIB,
            "memory/job/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB}",
        }
        listing = "5:cpu,cpuacct:/x\n4:memory:/job/gone\n0::/\n"
        assert self.system(tmp_path, listing=listing, files=files) == 4 * GIB

    def test_what_is_overdrawn_is_nothing(self, tmp_path):
        files = {"memory.max": GIB, "memory.current": 2 * GIB}
        assert self.system(tmp_path, listing="0::/\n", files=files) == 0

    def test_elsewhere_nothing_is_known(self, tmp_path):
        assert free_host_memory(proc=tmp_path, cgroups=tmp_path) is None

    def test_of_a_device(self):
        def device(stats):
            return types.SimpleNamespace(platform="gpu", memory_stats=lambda: stats)

        assert free_memory(device({"bytes_limit": 9, "bytes_in_use": 4})) == 5
        assert free_memory(device({"bytes_in_use": 4})) is None
        assert free_memory(device(None)) is None
        here = free_memory(jax.devices("cpu")[0])
        assert here is None or here > 1 << 20


def test_a_plan_adds_up_and_prints(steady):
    plan = tp.plan(50_000, 128, device="cpu")
    names = [stage.name for stage in plan.stages]
    assert names == [
        "features", "neighbors", "fuzzy set", "manifold", "embedding", "complexity",
        "communities", "selection",
    ]  # fmt: skip
    assert plan.peak_bytes == max(stage.bytes for stage in plan.stages)
    assert plan.seconds == pytest.approx(sum(stage.seconds for stage in plan.stages))
    assert all(stage.seconds > 0 for stage in plan.stages)
    assert (plan.fits, plan.remedy, plan.host_bytes, plan.free_bytes) == (True, "", 0, 8 * GIB)
    text = str(plan)
    assert text.startswith("50,000 samples of 128 features on cpu\nstage ")
    assert all(re.search(rf"^{name} .*\d\.\d\d .*\d\.\d$", text, re.M) for name in names)
    assert f"in the stage '{plan.peak_stage}'; 8.6 GB are free." in text
    with pytest.raises(AttributeError):
        plan.n = 3


def test_classes_by_number_or_by_size(steady):
    by_number, by_size = tp.plan(10, 3, classes=3), tp.plan(10, 3, classes=[4, 3, 3])
    assert by_number == by_size
    labels = np.array([1, 1, 1, 1, 2, 2, 2, 4, 4, 4])
    assert tp.plan(10, 3, classes=np.bincount(labels)) == by_size
    assert tp.plan(10, 3, classes=jnp.bincount(labels)) == by_size
    assert "class neighbors" in [stage.name for stage in by_number.stages]
    assert "communities" not in [stage.name for stage in by_number.stages]
    given = tp.plan(10, 3, neighbors="given")
    assert "neighbors" not in [stage.name for stage in given.stages]


def test_the_space_is_planned(steady):
    """Nine coordinates are searched sooner than the features, these with them later."""
    spaces = ("discriminant_coordinates", "features", "discriminant_features")
    plans = [tp.plan(50_000, 128, classes=10, space=space) for space in spaces]
    assert [plan.d for plan in plans] == [128] * 3
    searches = [plan.stages[1].seconds for plan in plans]
    assert searches[0] < searches[1] < searches[2]
    reading = [plan.stages[0].seconds for plan in plans]
    assert reading[1] < reading[0] < reading[2]


def test_that_noise_is_looked_for_is_planned(steady):
    """With labels, in the time and the memory of an even sample."""
    asked = {"n": 50_000, "d": 512}
    assert tp.plan(**asked) == tp.plan(**asked, space="features")
    plain, looking = (tp.plan(**asked, classes=10, space=space) for space in ("features", "auto"))
    assert plain.stages[0].seconds < looking.stages[0].seconds
    assert plain.stages[0].bytes <= looking.stages[0].bytes
    assert plain.stages[1:] == looking.stages[1:]


@pytest.mark.slow
def test_nobody_looks_for_noise_in_more_features_than_samples_tell_of(steady):
    """What would be d x d does not make `rank` refuse them."""
    assert tp.plan(40, 60_000, classes=2) == tp.plan(40, 60_000, classes=2, space="features")
    wide = np.random.default_rng(0).normal(size=(20, 60_000)).astype(np.float32)
    quick = {"embedding": tp.EmbeddingOptions(n_epochs=0), "n_neighbors": 3}
    assert len(tp.rank(wide, 0.5, labels=np.arange(20) % 2, **quick).kept) == 10


def test_bytes_of_the_noise():
    """What XLA says of its program, and the features."""
    d = 512
    (points,) = arrays(("f", N, d))
    program = functools.partial(_noise._share, n_queries=_noise.QUERIES)
    memory = jax.jit(program).lower(points).compile().memory_analysis()
    needed = held(points) + memory.temp_size_in_bytes + memory.output_size_in_bytes
    asked = problem(n=N, d=d, class_sizes=(N // 10,) * 10)._replace(judged=True)
    stage = _stages.stages(asked, tile_bytes=1 << 20, platform="gpu")[0]
    assert stage.work_bytes == pytest.approx(needed, rel=0.25)


def test_rank_refuses_at_once_what_cannot_fit(monkeypatch):
    free = 100 * (1 << 20)
    monkeypatch.setattr(_plan, "free_memory", lambda device: free)
    features = np.broadcast_to(np.float32(1), (1_000_000, 128))  # holds one number
    seen = []
    with pytest.raises(MemoryError) as refusal:
        tp.rank(features, 0.9, progress=lambda *state: seen.append(state))
    assert seen == []
    text = str(refusal.value)
    assert re.match(r"`rank` needs about \d+\.\d GB for 1,000,000 samples of 128 features", text)
    assert "got 105 MB that are free on cpu" in text
    assert re.search(r"Free some memory|samples would fit", text)


@pytest.mark.parametrize(
    ("given", "share", "expected"),
    [
        ({"n": 3_000_000, "d": 600}, 0.8, "fit with neighbors='blocks' or 64 principal"),
        (
            {"n": 70_000, "d": 12_000, "neighbors": "blocks", "judged": True},
            0.9,
            "fit with space='features' or 64 principal",
        ),
        ({"n": 400_000, "d": 4096}, 0.5, "64 principal components instead of 4,096 features"),
        ({"n": 3_000_000, "d": 300, "k": 100}, 0.25, "n_neighbors=8 .* together"),
        ({"n": 3_000_000}, 0.3, "samples would fit: rank a random part"),
        ({"n": 3_000_000}, 0.00001, "Free some memory"),
    ],
)
def test_the_remedy_fits(given, share, expected):
    asked = problem(**given)
    device = types.SimpleNamespace(platform="gpu")
    free = round(share * _plan._peak(asked, device))
    text = _plan._remedy(asked, device, free)
    assert re.search(expected, text)
    if "would fit: " in text:
        n = int(re.search(r"([\d,]+) samples", text)[1].replace(",", ""))
        fewer, more = (_plan._with_samples(asked, round(f * n)) for f in (1, 1.2))
        assert _plan._peak(fewer, device) <= free < _plan._peak(more, device)


def test_scarce_memory_makes_smaller_tiles():
    device = types.SimpleNamespace(platform="cpu")
    asked = problem(n=120_000, d=512)
    most, least = (_plan._peak(asked, device, t) for t in (exact.TILE_BYTES, 1 << 20))
    assert least < most
    assert _plan._tile_bytes(asked, device, None) == exact.TILE_BYTES
    assert _plan._tile_bytes(asked, device, round(most)) == exact.TILE_BYTES
    assert _plan._tile_bytes(asked, device, round(most) - 1) < exact.TILE_BYTES
    assert _plan._tile_bytes(asked, device, 0) == exact.LEAST_TILE_BYTES


def ranked(features, labels, monkeypatch, tile_bytes):
    """The ranking with tiles of a size, and the stages that it announced."""
    monkeypatch.setattr(_rank, "fitting_tiles", lambda problem, held: tile_bytes)
    seen = {}
    ranking = tp.rank(
        features, 0.9, labels=labels, n_neighbors=5, patch_size=8,
        embedding=tp.EmbeddingOptions(n_epochs=3),
        progress=lambda stage, done, total: seen.setdefault(stage),
    )  # fmt: skip
    return ranking, list(seen)


@pytest.mark.slow
def test_three_sizes_of_tiles_keep_the_same_and_stages_are_announced(steady, monkeypatch, rng):
    features = rng.normal(size=(1100, 6)).astype(np.float32)
    labels = np.arange(1100) % 2
    whole, seen = ranked(features, labels, monkeypatch, exact.TILE_BYTES)
    assert seen == [stage.name for stage in tp.plan(1100, 6, classes=2).stages]
    for tile_bytes in (1 << 20, 1 << 18):
        other, _ = ranked(features, labels, monkeypatch, tile_bytes)
        np.testing.assert_array_equal(other.order, whole.order)
        np.testing.assert_array_equal(other.embedding, whole.embedding)
    _, seen = ranked(features, None, monkeypatch, exact.TILE_BYTES)
    assert seen == [stage.name for stage in tp.plan(1100, 6).stages]


def test_speed_is_measured_once():
    device = jax.devices("cpu")[0]
    speed = speed_of(device)
    assert all(rate > 0 for rate in speed)
    assert speed_of(device) is speed
    stage = _stages.Stage("any", 0, 0, _stages.Work(2e11, 3e10, 4e9, 5e5))
    assert _stages.seconds_of(stage, SPEED) == pytest.approx(2 + 3 + 4 + 5)


class TestCommand:
    """`topoprune plan`."""

    @staticmethod
    def run(capsys, *words):
        with pytest.raises(SystemExit) as leaving:
            cli.main(["plan", *map(str, words)])
        out, err = capsys.readouterr()
        return leaving.value.code, out, err

    def test_numbers(self, steady, capsys):
        code, out, err = self.run(capsys, 1_000_000, 128, "--neighbors", "blocks", "--ratio", 0.9)
        assert (code, err) == (0, "")
        plan = tp.plan(1_000_000, 128, neighbors="blocks")
        assert out.startswith("1,000,000 samples of 128 features on cpu\nstage ")
        assert plan.summary in out
        assert all(stage.name in out for stage in plan.stages)
        assert out.endswith("At a ratio of 0.9, 100,000 samples are kept.\n")

    def test_what_does_not_fit_says_what_would(self, steady, capsys):
        code, out, _ = self.run(capsys, 20_000_000, 128)
        assert code == 0
        assert "That does not fit. About" in out

    def test_json_of_a_file_with_labels(self, steady, capsys, tmp_path):
        labels = np.repeat(["a", "b"], [7, 5])
        np.savez(tmp_path / "data.npz", x=np.ones((12, 3), np.float16), y=labels)
        data = tmp_path / "data.npz"
        words = (f"{data}::x", "--labels", f"{data}::y", "--beta", 1, "--json")
        code, out, err = self.run(capsys, *words)
        assert (code, err) == (0, "")
        told, plan = json.loads(out), tp.plan(12, 3, classes=[7, 5], beta=1.0)
        assert (told["n_samples"], told["n_features"], told["n_classes"]) == (12, 3, 2)
        assert told["stages"] == [vars(stage) for stage in plan.stages]
        assert told["peak_bytes"] == plan.peak_bytes
        assert told["seconds"] == plan.seconds
        assert (told["fits"], told["free_bytes"], told["remedy"]) == (True, 8 * GIB, "")
        assert "n_kept" not in told
        by_column = self.run(capsys, f"{data}::x", "--label-column", "y", "--beta", 1, "--json")
        assert json.loads(by_column[1]) == told

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "Missing argument"),
            (["10"], "cannot read '10': there is no such file"),
            (["10", "x"], "pass the number of samples and of features, or one file .* '10 x'"),
            (["10", "3", "4"], "pass the number of samples and of features"),
            (["0", "3"], "`n` must be at least 1"),
            (["10", "3", "--ratio", "90"], "Pass 0.9 to remove 90 %"),
            (["10", "3", "--classes", "11"], "`classes` must be between 1 and 10"),
            (["10", "3", "--classes", "2", "--labels", "y.npy"], "leave one out"),
            (["10", "3", "--label-column", "y"], "instead of a file"),
            (["10", "3", "--labels", "absent.npy"], "absent.npy.*no such file"),
            (["10", "3", "--neighbors", "near"], "neighbors"),
            (["10", "3", "--n-neighbors", "0"], "n_neighbors"),
        ],
    )
    def test_bad_input_is_one_line_and_exit_code_2(self, steady, capsys, words, message):
        code, out, err = self.run(capsys, *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert re.match("Error: .", err)
        assert re.search(message, err)

    def test_rank_that_cannot_fit_is_one_line(self, monkeypatch, capsys, tmp_path):
        monkeypatch.setattr(_plan, "free_memory", lambda device: 1 << 20)
        np.save(tmp_path / "x.npy", np.ones((50, 3), np.float32))
        with pytest.raises(SystemExit) as leaving:
            cli.main(["rank", f"{tmp_path}/x.npy", "--ratio", "0.5", "--out", f"{tmp_path}/o.npz"])
        out, err = capsys.readouterr()
        assert (leaving.value.code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("Error: `rank` needs about")
        assert not (tmp_path / "o.npz").exists()
