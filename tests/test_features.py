"""Every form in which features may come gives the same rows."""

import pathlib
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topoprune_jax import _checks, _features
from topoprune_jax._features import as_parts, known_shape, traced_unit_rows, unit_rows


@pytest.fixture
def features(rng):
    return rng.normal(size=(50, 7)) * np.logspace(-3, 3, 50)[:, None]


def rows(features, normalize=True):
    points, identical = unit_rows(features, normalize=normalize, progress=None)
    assert points.dtype == jnp.float32
    assert not identical
    return np.asarray(points)


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    monkeypatch.setattr(_features, "_SLAB_BYTES", 8 * 7 * 9)


def test_rows_are_of_unit_length(features):
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(rows(features), expected, rtol=1e-6)


def test_rows_that_keep_their_length_are_divided_by_a_power_of_two(features):
    found = rows(features, normalize=False)
    scale = 2.0 ** np.floor(np.log2(np.abs(features).max()))
    np.testing.assert_array_equal(found, (features / scale).astype(np.float32))
    assert 1 <= np.abs(found).max() < 2


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    "form",
    [
        lambda x: [x[:20], x[20:21], x[21:]],
        lambda x: (x[:20], jnp.asarray(x[20:])),
        lambda x: iter([x[:20], x[20:21], x[21:]]),
        lambda x: (x[i : i + 12] for i in range(0, 50, 12)),
        lambda x: (x[i : i + 1].tolist() for i in range(50)),
        lambda x: x.tolist(),
    ],
    ids=["list", "tuple", "iterator", "generator", "single rows", "nested lists"],
)
def test_shards_and_batches_are_the_whole(features, form, normalize):
    features = features.astype(np.float32)
    np.testing.assert_array_equal(rows(form(features), normalize), rows(features, normalize))


def test_one_column_is_never_normalized():
    column = np.array([[1.0], [-3.0], [8.0]])
    expected = column / 8
    np.testing.assert_array_equal(rows(column), expected)
    np.testing.assert_array_equal(rows(iter([column[:1], column[1:]])), expected)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_memory_map_is_read_and_left_as_it_was(features, tmp_path, mode):
    np.save(tmp_path / "x.npy", features)
    mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
    if mode == "c":
        mapped[3] = 1  # known to this process only
        features[3] = 1
    np.testing.assert_array_equal(rows(mapped), rows(features))
    np.testing.assert_array_equal(mapped, features)
    np.testing.assert_array_equal(rows([mapped[:10], mapped[10:]]), rows(features))


def test_rows_are_taken_over_and_not_copied(features, monkeypatch):
    made = []

    def aligned(n, d, make=_features._aligned):
        made.append(make(n, d))
        return made[-1]

    monkeypatch.setattr(_features, "_aligned", aligned)
    points, _ = unit_rows(features, normalize=True, progress=None)
    assert points.unsafe_buffer_pointer() == made[0].ctypes.data


@pytest.mark.skipif(not pathlib.Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps")
def test_what_was_read_of_a_file_is_let_go(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(_features, "_SLAB_BYTES", 1 << 20)
    file = tmp_path / "large.npy"
    np.save(file, rng.normal(size=(100_000, 16)).astype(np.float32))  # 6.4 MB
    mapped = np.load(file, mmap_mode="r")
    float(mapped.sum())
    assert resident(file) > 6000
    unit_rows(mapped, normalize=True, progress=None)
    assert resident(file) < 1000


def resident(file):
    """Kilobytes of the file that this process holds."""
    lines = pathlib.Path("/proc/self/smaps").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.endswith(str(file)))
    return next(int(line.split()[1]) for line in lines[first:] if line.startswith("Rss:"))


def test_batches_are_held_once_as_float32(rng, monkeypatch):
    monkeypatch.setattr(_features, "_SLAB_BYTES", 1 << 16)
    n, d = 40_000, 50
    seed = rng.normal(size=(1000, d))
    rows(seed)  # so that nothing is imported or compiled below
    tracemalloc.start()
    found = rows(seed + i for i in range(n // 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (n, d)
    # The rows twice, while the batches are put together, and little else; float64 is as much.
    assert peak < 2.3 * 4 * n * d


def test_what_is_no_array_is_read_once(features):
    class Frame:
        reads = 0

        def __array__(self, dtype=None, copy=None):
            self.reads += 1
            return features

    frame = Frame()
    parts = as_parts(frame)
    assert known_shape(parts) == features.shape
    np.testing.assert_array_equal(rows(parts), rows(features))
    assert frame.reads == 1


def test_progress_counts_rows(features):
    seen = []
    unit_rows(
        [features[:20], features[20:]],
        normalize=True,
        progress=lambda *call: seen.append(call),
    )
    assert seen[0] == ("features", 0, 50)
    assert seen[-1] == ("features", 50, 50)
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})
    seen.clear()
    unit_rows(
        (features[i : i + 10] for i in range(0, 50, 10)),
        normalize=True,
        progress=lambda *call: seen.append(call),
    )
    assert [call[1] for call in seen] == [0, 10, 20, 30, 40, 50]
    assert all(done < total for _, done, total in seen[:-1])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("d", [1, 7])
def test_traced_rows_are_the_same(features, normalize, d):
    part = features[:, :d].astype(np.float32)
    part[4] = 0
    points, identical, finite = jax.jit(
        lambda x: traced_unit_rows(x, normalize=normalize),
    )(part)
    np.testing.assert_allclose(points, rows(part, normalize), rtol=3e-7)
    assert not identical
    assert finite
    part[5, 0] = np.nan
    again, _, finite = traced_unit_rows(jnp.asarray(part), normalize=normalize)
    assert not finite
    assert (again[5] == 0).all()
    assert jnp.isfinite(again).all()


def test_identical_rows_are_noticed():
    same = np.ones((20, 3)) * np.arange(1, 21)[:, None]
    assert unit_rows(same, normalize=True, progress=None)[1]
    assert not unit_rows(same, normalize=False, progress=None)[1]
    assert not unit_rows(same[:1], normalize=True, progress=None)[1]
    assert traced_unit_rows(jnp.ones((5, 2)), normalize=True)[1]


@pytest.mark.parametrize("count", [1, 3])
def test_slabs_beside_each_other_are_the_whole(rng, monkeypatch, count):
    features = rng.normal(size=(1000, 4))
    expected = np.asarray(unit_rows(features, normalize=True, progress=None)[0])
    monkeypatch.setattr(_features, "cores", lambda: count)
    several = {"normalize": True, "progress": None, "tile_bytes": count * 8 * 4 * 90}
    np.testing.assert_array_equal(unit_rows(features, **several)[0], expected)
    features[[950, 400, 130]] = np.nan
    with pytest.raises(ValueError, match="row 130"):
        unit_rows(features, **several)


@pytest.mark.parametrize("most", [0, 1 << 26])
def test_what_is_not_finite_is_found_by_numpy_and_by_a_program(monkeypatch, most):
    """The program is for what is large or on an accelerator."""
    programs, look = [], _checks._all_finite
    monkeypatch.setattr(_checks, "_FEW_BYTES_HERE", most)
    monkeypatch.setattr(_checks, "_all_finite", lambda x: programs.append(x.shape) or look(x))
    values = np.ones((20, 3), np.float32)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int32):
        _checks.check_finite(jnp.asarray(values, dtype), name="x")
    values[7, 1] = np.inf
    for dtype in (jnp.float32, jnp.bfloat16):
        with pytest.raises(ValueError, match=r"`x` must be finite; got .* first in row 7"):
            _checks.check_finite(jnp.asarray(values, dtype), name="x")
    assert len(programs) == (0 if most else 4)
