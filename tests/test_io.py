"""Files: every array comes back as it was written, and every bad file gives one sentence."""

import contextlib
import csv
import errno
import json
import os
import pickle
import sys
import zipfile

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from topoprune_jax import RESULTS
from topoprune_jax._rank import Ranking
from topoprune_jax.baselines import Pruning
from topoprune_jax.io import (
    FileError,
    check_folder,
    check_writable,
    match_rankings,
    read_array,
    read_ranking,
    replacing,
    write_ranking,
)

IDS = ["b", "007", "ä, ö", "5", "a"]
SUFFIXES = ["npz", "csv", "parquet", "json"]


@pytest.fixture
def ranking():
    order = jnp.array([3, 0, 4, 1, 2], dtype=jnp.int32)
    return Ranking(
        scores=jnp.array([0.1, 0.3, 1e-7, 2.0, 1.5], dtype=jnp.float32),
        order=order,
        kept=order[:2],
        removed=order[2:],
        embedding=jnp.arange(10, dtype=jnp.float32).reshape(5, 2),
        manifold=jnp.arange(15, dtype=jnp.float32).reshape(5, 3),
        beta=jnp.asarray(-1.0),
        agreement_power=jnp.asarray(4.0),
        recall=jnp.asarray(1.0),
        result=RESULTS.successful,
    )


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "uint64", "bool", "<U3", ">f8"]
)
@pytest.mark.parametrize("shape", [(5, 3), (7,), (0, 3), (3, 0), (), (2, 2, 2)])
def test_npy_round_trip(tmp_path, dtype, shape):
    array = np.ones(shape).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    back = read_array(tmp_path / "x.npy")
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array, strict=True)


def test_npy_is_memory_mapped_and_cannot_be_written_to(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((5, 3)))
    back = read_array(tmp_path / "x.npy")
    assert isinstance(back, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        back[0, 0] = 2.0


def test_fortran_order_is_kept_as_values(tmp_path):
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.save(tmp_path / "x.npy", array)
    np.testing.assert_array_equal(read_array(tmp_path / "x.npy"), array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_members(tmp_path, save):
    save(tmp_path / "x.npz", train_f=np.ones((5, 3)), test_f=np.zeros((2, 3)))
    assert read_array(f"{tmp_path}/x.npz::train_f").shape == (5, 3)
    assert read_array(f"{tmp_path}/x.npz::test_f.npy").shape == (2, 3)
    assert read_array(tmp_path / "x.npz", key="test_f").shape == (2, 3)


def test_npz_with_one_array_needs_no_name(tmp_path):
    np.savez(tmp_path / "x.npz", np.arange(4))
    np.testing.assert_array_equal(read_array(tmp_path / "x.npz"), np.arange(4))


def test_the_content_tells_the_format_and_a_name_may_hold_colons(tmp_path):
    with open(tmp_path / "a::b", "wb") as stream:
        np.save(stream, np.arange(4))
    np.testing.assert_array_equal(read_array(tmp_path / "a::b"), np.arange(4))


def _bad_files(folder):
    np.save(folder / "good.npy", np.ones((50, 3)))
    np.savez(folder / "two.npz", x=np.ones((50, 3)), y=np.arange(50))
    good, two = (folder / "good.npy").read_bytes(), (folder / "two.npz").read_bytes()
    (folder / "empty.npy").touch()
    (folder / "short.npy").write_bytes(good[:-100])
    (folder / "header.npy").write_bytes(good[:40])
    (folder / "short.npz").write_bytes(two[: len(two) // 2])
    (folder / "flipped.npz").write_bytes(two[:300] + b"\xff" * 8 + two[308:])
    (folder / "text.npy").write_text("1.0, 2.0\n")
    (folder / "pickle.npy").write_bytes(pickle.dumps([1, 2]))
    (folder / "huge.npy").write_bytes(good.replace(b"(50, 3), ", b"(1e9999, "))
    np.save(folder / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.savez(folder / "objects.npz", x=np.array([{}, 1], dtype=object))
    np.savez(folder / "none.npz")
    (folder / "folder.npy").mkdir()
    with zipfile.ZipFile(folder / "weights.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.npy", "there is no such file"),
        ("absent.npz::x", "there is no such file"),
        ("empty.npy", "the file is empty"),
        ("folder.npy", "it holds no file of .npy, .npz"),
        ("good.npy/x.npy", "not a directory"),
        ("a" * 300, "name too long"),
        ("short.npy", "damaged or incomplete"),
        ("header.npy", "damaged or incomplete"),
        ("huge.npy", "damaged or"),
        ("short.npz", "damaged or incomplete"),
        ("flipped.npz::x", "damaged or incomplete"),
        ("text.npy", "its content is not that of a .npy file"),
        ("pickle.npy", "its content is not that of a .npy file"),
        ("objects.npy", "holds Python objects"),
        ("objects.npz", "holds Python objects"),
        ("none.npz", "zip file without NumPy arrays"),
        ("weights.pt", "zip file without NumPy arrays"),
        ("two.npz", r"holds x \(50, 3\), y \(50,\): name one as .*two.npz::x"),
        ("two.npz::z", r"cannot find 'z' .* holds x \(50, 3\), y \(50,\)"),
        ("two.npz::", "PATH::NAME"),
        ("good.npy::x", "one array without a name"),
    ],
)
def test_bad_file_is_one_sentence(tmp_path, name, message):
    _bad_files(tmp_path)
    with pytest.raises(FileError, match=message) as caught:
        read_array(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)


def test_two_names_that_differ(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(2), b=np.ones(2))
    with pytest.raises(FileError, match="two arrays are named"):
        read_array(f"{tmp_path}/x.npz::a", key="b")


def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(FileError, match="not a regular file"):
        read_array(tmp_path / "pipe.npy")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_damaged_bytes_never_raise_anything_else(tmp_path, rng, kind):
    """Bytes replaced anywhere or the end cut off: an array or a `FileError`, nothing else."""
    path = tmp_path / f"x.{kind}"
    array = rng.normal(size=(20, 3))
    (np.save if kind == "npy" else np.savez_compressed)(path, array)
    whole = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), size=rng.integers(1, 9)):
            damaged[position] = rng.integers(256)
        path.write_bytes(
            damaged[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else damaged
        )
        with contextlib.suppress(FileError):
            assert isinstance(read_array(path), np.ndarray)


def test_csv_by_hand(tmp_path, ranking):
    write_ranking(tmp_path / "out.csv", ranking)
    with open(tmp_path / "out.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["index", "score", "rank", "kept"]
    assert [row[0] for row in rows[1:]] == ["0", "1", "2", "3", "4"]
    assert [row[2] for row in rows[1:]] == ["1", "3", "4", "0", "2"]
    assert [row[3] for row in rows[1:]] == ["1", "0", "0", "1", "0"]
    back = np.array([row[1] for row in rows[1:]], dtype=np.float32)
    np.testing.assert_array_equal(back, np.asarray(ranking.scores))


def test_npz_by_hand(tmp_path, ranking):
    write_ranking(tmp_path / "out.npz", ranking)
    with np.load(tmp_path / "out.npz") as out:
        names = {"index", "score", "rank", "kept", "order", "embedding", "manifold"}
        numbers = {"beta": -1.0, "agreement_power": 4.0, "recall": 1.0}
        assert set(out) == names | set(numbers)
        assert {name: float(out[name]) for name in numbers} == numbers
        np.testing.assert_array_equal(out["index"], np.arange(5))
        np.testing.assert_array_equal(out["rank"], [1, 3, 4, 0, 2])
        np.testing.assert_array_equal(out["kept"], [True, False, False, True, False])
        np.testing.assert_array_equal(out["order"], np.asarray(ranking.order))
        np.testing.assert_array_equal(out["score"], np.asarray(ranking.scores))
        np.testing.assert_array_equal(out["embedding"], np.asarray(ranking.embedding))
        np.testing.assert_array_equal(out["manifold"], np.asarray(ranking.manifold))


def test_json_by_hand(tmp_path, ranking):
    write_ranking(tmp_path / "out.json", ranking, ids=IDS)
    rows = json.loads((tmp_path / "out.json").read_text())
    assert rows[2] == {"index": 2, "id": "ä, ö", "score": 1e-7, "rank": 4, "kept": False}
    assert [row["rank"] for row in rows] == [1, 3, 4, 0, 2]


def test_parquet_by_hand(tmp_path, ranking):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `io` writes it")
    write_ranking(tmp_path / "out.parquet", ranking, ids=np.arange(5) + 2**40)
    table = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert list(table) == ["index", "id", "score", "rank", "kept", "embedding"]
    assert table["id"][3] == 3 + 2**40
    assert table["kept"] == [True, False, False, True, False]
    assert table["embedding"][1] == [2.0, 3.0]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("ids", [None, IDS, np.arange(5) * 3])
@pytest.mark.parametrize("of_baseline", [False, True])
def test_a_ranking_reads_back(tmp_path, ranking, suffix, ids, of_baseline):
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="the extra `io` writes it")
    path = tmp_path / f"out.{suffix}"
    if of_baseline:
        ranking = Pruning(ranking.scores, ranking.order, ranking.kept, ranking.removed)
    write_ranking(path, ranking, ids=ids)
    back = read_ranking(path)
    assert back.ids is None if ids is None else back.ids.tolist() == [str(one) for one in ids]
    np.testing.assert_array_equal(back.order, np.asarray(ranking.order))
    np.testing.assert_array_equal(back.scores.astype(np.float32), np.asarray(ranking.scores))
    assert back.n_kept == 2


def test_ids_of_bytes_are_text(tmp_path, ranking):
    path = tmp_path / "out.csv"
    write_ranking(path, ranking, ids=[one.encode() for one in IDS])
    assert read_ranking(path).ids.tolist() == IDS
    with pytest.raises(FileError, match=r"cannot write '.*\.csv': its ids are not text in UTF-8"):
        write_ranking(path, ranking, ids=[one.encode("latin-1") for one in IDS])


def test_a_sorted_table_is_the_same_ranking(tmp_path, ranking):
    """A spreadsheet sorted by rank, saved with semicolons."""
    write_ranking(tmp_path / "out.csv", ranking, ids=IDS)
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    rows.sort(key=lambda row: int(row[3]))
    with open(tmp_path / "sorted.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=";").writerows([header, *rows])
    back, once = read_ranking(tmp_path / "sorted.csv"), read_ranking(tmp_path / "out.csv")
    assert back.ids.tolist() == once.ids.tolist() == IDS
    np.testing.assert_array_equal(back.order, once.order)
    np.testing.assert_array_equal(back.scores, once.scores)


ROWS = [
    {"index": 0, "id": "a", "score": 0.5, "rank": 1, "kept": False},
    {"index": 1, "id": "b", "score": 0.7, "rank": 0, "kept": True},
]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "it has no samples"),
        ([1, 2], "every sample needs index, score, rank, kept"),
        ([{"index": 0}], "every sample needs"),
        ([ROWS[0] | {"rank": 0}, ROWS[1]], "its rank does not go from 0 to 1"),
        ([ROWS[0]], "rows are missing"),
        ([ROWS[0] | {"kept": True}, ROWS[1] | {"kept": False}], "not the first of its order"),
        ([ROWS[0], ROWS[1] | {"kept": False}], "not the first of its order"),
        ([ROWS[0] | {"score": "high"}, ROWS[1]], "other things than numbers"),
        ([ROWS[0] | {"rank": 0.5}, ROWS[1]], "other things than numbers"),
        ([ROWS[0] | {"rank": [1]}, ROWS[1] | {"rank": [0]}], "differ in length"),
        ([ROWS[0] | {"rank": [1]}, ROWS[1]], "every sample needs"),
        ([ROWS[0] | {"kept": "maybe"}, ROWS[1]], "other things than numbers"),
    ],
)
def test_a_file_that_is_no_ranking(tmp_path, rows, message):
    path = tmp_path / "out.json"
    path.write_text(json.dumps(ROWS))
    assert read_ranking(path).order.tolist() == [1, 0]
    path.write_text(json.dumps(rows))
    with pytest.raises(FileError, match=message) as caught:
        read_ranking(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", '[{"index": 0', "damaged or incomplete"),
        ("x.json", "{}", "it holds no list of samples"),
        ("x.csv", "index,score,rank\n0,1,0\n", "it lacks kept"),
        ("x.csv", "index,score,rank,kept\n0,1,0,\n", "line 2 has no value"),
        ("absent.csv", None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_a_ranking(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(FileError, match=message):
        read_ranking(tmp_path / name)


def test_rankings_are_matched_by_id(tmp_path, ranking):
    shuffle = np.array([4, 2, 0, 1, 3])  # row i of b is row shuffle[i] of a
    order = jnp.argsort(jnp.asarray(shuffle))[ranking.order]
    moved = eqx.tree_at(
        lambda one: (one.scores, one.order, one.kept, one.removed),
        ranking,
        (ranking.scores[shuffle], order, order[:2], order[2:]),
    )
    write_ranking(tmp_path / "a.csv", ranking, ids=IDS)
    write_ranking(tmp_path / "b.npz", moved, ids=np.array(IDS)[shuffle])
    a, b = read_ranking(tmp_path / "a.csv"), read_ranking(tmp_path / "b.npz")
    matched = match_rankings(a, b)
    assert b.order.tolist() != a.order.tolist() == matched.order.tolist()
    np.testing.assert_allclose(matched.scores, a.scores, rtol=1e-6)
    assert matched.ids.tolist() == IDS


def test_rankings_of_different_samples(tmp_path, ranking):
    def table(name, ids):
        write_ranking(tmp_path / name, ranking, ids=ids)
        return read_ranking(tmp_path / name)

    a, plain = table("a.csv", IDS), table("plain.csv", None)
    assert match_rankings(a, plain) is plain
    with pytest.raises(FileError, match=r"1 only in the first and 1 only in the second, .* 'b'"):
        match_rankings(a, table("b.csv", ["x", *IDS[1:]]))
    with pytest.raises(FileError, match=r"c\.csv' has the id 'b' for more than one sample"):
        match_rankings(a, table("c.csv", ["b", "b", *IDS[2:]]))
    (tmp_path / "two.json").write_text(json.dumps(ROWS))
    with pytest.raises(FileError, match="different samples, 5 and 2, and not both have ids"):
        match_rankings(plain, read_ranking(tmp_path / "two.json"))


def test_ids_must_be_one_a_sample(tmp_path, ranking):
    with pytest.raises(FileError, match=r"ids must have shape \(5,\).* got \(2,\)"):
        write_ranking(tmp_path / "x.csv", ranking, ids=["a", "b"])


def test_parquet_output_without_pyarrow_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"writing .parquet needs pyarrow.*\[io\]"):
        check_writable(tmp_path / "x.parquet")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")

    def fail():
        with replacing(path) as stream:
            stream.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_full_disk_is_one_sentence(tmp_path):
    with (
        pytest.raises(FileError, match=r"cannot write '.*out.csv': no space left on device\.$"),
        replacing(tmp_path / "out.csv"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not os.listdir(tmp_path)


def test_new_files_have_the_usual_permissions(tmp_path, ranking):
    write_ranking(tmp_path / "out.npz", ranking)
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.txt", r"must end in \.npz, \.csv, \.parquet or \.json"),
        ("out", r"must end in \.npz, \.csv, \.parquet or \.json"),
        ("absent/out.npz", "there is no such folder"),
        ("file/out.npz", "it is not a folder"),
        ("folder.npz", "it is a folder"),
        ("/proc/out.npz", "cannot write to '/proc'"),
    ],
)
def test_unwritable_output_is_one_sentence(tmp_path, ranking, name, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    for check in (check_writable, lambda path: write_ranking(path, ranking)):
        with pytest.raises(FileError, match=message) as caught:
            check(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_name_too_long_is_said_before_the_work(tmp_path):
    name = "x" * 250 + ".npz"  # 254 characters: the system's own limit decides
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    check_writable(tmp_path / name[-longest:])
    with pytest.raises(FileError, match=r"cannot write .*: file name too long"):
        check_writable(tmp_path / ("y" * longest + name))


def test_checking_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "out.NPZ")
    check_folder(tmp_path)
    assert not os.listdir(tmp_path)
