"""Features, labels and ids from every kind of file: the same samples, or one sentence."""

import contextlib
import json
import sys
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from topoprune_jax.io import FileError, read_array, read_labels, read_samples

REASON = "the extra `io` reads these files"
pa = pytest.importorskip("pyarrow", reason=REASON)
feather = pytest.importorskip("pyarrow.feather", reason=REASON)
parquet = pytest.importorskip("pyarrow.parquet", reason=REASON)
h5py = pytest.importorskip("h5py", reason=REASON)
tensors = pytest.importorskip("safetensors.numpy", reason=REASON)

N, D = 30, 4
FEATURES = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
LABELS = np.arange(N) % 3
NAMES = np.array(["ant", "bee", "cat"])[LABELS]
IDS = np.array([f"img_{i:03d}.jpg" for i in range(N)])


def fixed(values):
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def fiftyone(rows=slice(None)):
    """Columns as FiftyOne exports them: structs, lists of text, lists of numbers."""
    return pa.table(
        {
            "id": IDS[rows],
            "tags": [["train"]] * len(IDS[rows]),
            "ground_truth": [{"label": name, "confidence": None} for name in NAMES[rows]],
            "embedding": pa.array(FEATURES[rows].tolist(), pa.list_(pa.float32())),
            "width": [640] * len(IDS[rows]),
        }
    )


def hugging_face(rows=slice(None)):
    """Columns as Hugging Face saves them: fixed-size lists, class codes, token ids."""
    return pa.table(
        {
            "text": IDS[rows],
            "label": LABELS[rows],
            "input_ids": pa.array([[1, 2, 3]] * len(IDS[rows]), pa.list_(pa.int32())),
            "embedding": fixed(FEATURES[rows]),
        }
    )


def stream(path, table):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def text(path, rows, delimiter=",", **options):
    path.write_text("\n".join(delimiter.join(map(str, row)) for row in rows) + "\n", **options)


def csv_rows(header=True):
    names = [[*(f"f{i}" for i in range(D)), "label", "path"]] if header else []
    return names + [
        [*row, name, one] for row, name, one in zip(FEATURES.tolist(), NAMES, IDS, strict=True)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    parquet.write_table(fiftyone(), folder / "fiftyone.parquet", row_group_size=11)
    feather.write_feather(fiftyone(), folder / "fiftyone.feather")
    feather.write_feather(fiftyone(), folder / "packed.feather", compression="zstd")
    stream(folder / "stream.arrow", hugging_face())
    view = hugging_face().append_column("kind", pa.array(NAMES).dictionary_encode())
    parquet.write_table(view, folder / "hugging_face.parquet")
    columns = {f"f{i}": FEATURES[:, i] for i in range(D)} | {"label": NAMES, "path": IDS}
    frame = columns | {"__index_level_0__": np.arange(N)}
    parquet.write_table(pa.table(frame), folder / "scalars.parquet")
    text(folder / "table.csv", csv_rows())
    text(folder / "table.tsv", csv_rows(), "\t")
    text(folder / "excel.csv", csv_rows(), ";", encoding="utf-8-sig")
    pandas = [[["", *range(N)][i], *row] for i, row in enumerate(csv_rows())]
    text(folder / "pandas.csv", pandas)
    tensors.save_file({"x": FEATURES, "y": LABELS}, folder / "x.safetensors")
    with h5py.File(folder / "x.h5", "w") as archive:
        archive["group/x"] = FEATURES
        archive["group/y"] = LABELS
        archive["ids"] = [name.encode() for name in IDS]
    np.savez(folder / "x.npz", x=FEATURES, y=LABELS, ids=IDS)
    np.save(folder / "x.npy", FEATURES)
    np.savetxt(folder / "plain.csv", FEATURES, delimiter=",")
    for kind, count in (("npy", 12), ("parquet", 3)):
        (folder / f"{kind}_shards").mkdir()
        for i, rows in enumerate(np.array_split(np.arange(N), count)):
            path = folder / f"{kind}_shards" / f"part-{i}.{kind}"
            if kind == "npy":
                np.save(path, FEATURES[rows])
            else:
                parquet.write_table(fiftyone(rows), path)
    return folder


@pytest.mark.parametrize(
    ("file", "label", "one", "labels"),
    [
        ("fiftyone.parquet", "ground_truth.label", "id", NAMES),
        ("fiftyone.feather", "ground_truth.label", "id", NAMES),
        ("packed.feather", "ground_truth.label", "id", NAMES),
        ("parquet_shards", "ground_truth.label", "id", NAMES),
        ("stream.arrow", "label", "text", LABELS),
        ("hugging_face.parquet", "kind", "text", NAMES),
        ("scalars.parquet", "label", "path", NAMES),
        ("table.csv", "label", "path", NAMES),
        ("table.tsv", "label", "path", NAMES),
        ("excel.csv", "label", "path", NAMES),
        ("pandas.csv", "label", "path", NAMES),
        ("x.h5", "group/y", "ids", LABELS),
        ("x.npz", "y", "ids", LABELS),
    ],
)
def test_every_file_holds_the_same_samples(folder, file, label, one, labels):
    samples = read_samples(folder / file, label_column=label, id_column=one)
    np.testing.assert_array_equal(samples.features.astype(np.float32), FEATURES)
    np.testing.assert_array_equal(samples.labels, labels)
    np.testing.assert_array_equal(samples.ids, IDS, strict=True)
    own = read_samples(folder / "x.npy", labels=f"{folder}/{file}::{label}")
    np.testing.assert_array_equal(own.labels, labels)
    assert own.ids is None


@pytest.mark.parametrize("file", ["plain.csv", "x.npy", "npy_shards", "x.safetensors"])
def test_files_without_text(folder, file):
    samples = read_samples(folder / file, labels=folder / "x.safetensors::y")
    np.testing.assert_array_equal(samples.features.astype(np.float32), FEATURES)
    np.testing.assert_array_equal(samples.labels, LABELS)


def test_one_npy_file_stays_memory_mapped(folder):
    assert isinstance(read_samples(folder / "x.npy").features, np.memmap)


def test_shards_are_held_once(tmp_path):
    shard = np.ones((4000, 64), np.float32)
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", shard)
    tracemalloc.start()
    features = read_samples(tmp_path).features
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert features.nbytes == 4 * shard.nbytes
    assert peak < 1.2 * features.nbytes


def test_half_precision_tensors(tmp_path):
    half = {
        "half": jnp.asarray(FEATURES, jnp.float16),
        "brain": jnp.asarray(FEATURES, jnp.bfloat16),
    }
    pytest.importorskip("safetensors.flax").save_file(half, tmp_path / "x.safetensors")
    for name, expected in half.items():
        features = read_samples(f"{tmp_path}/x.safetensors::{name}").features
        assert features.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(features), np.asarray(expected))


def test_columns_by_pattern_and_one_by_one(folder):
    path = folder / "table.csv"
    np.testing.assert_array_equal(read_samples(f"{path}::f[12]").features, FEATURES[:, 1:3])
    np.testing.assert_array_equal(read_samples(f"{path}::f3").features, FEATURES[:, 3:])
    np.testing.assert_array_equal(read_array(f"{path}::*"), FEATURES)
    np.testing.assert_array_equal(read_array(f"{path}::f1"), FEATURES[:, 1])
    np.testing.assert_array_equal(read_array(path, key="label"), NAMES)
    width = read_samples(folder / "fiftyone.parquet::width").features
    np.testing.assert_array_equal(width, np.full((N, 1), 640))


def test_ids_of_text_keep_their_zeros(tmp_path):
    text(tmp_path / "x.csv", [["id", "a", "b", "label"], ["007", 1, 2, 10], ["010", 3, 4, 9]])
    samples = read_samples(tmp_path / "x.csv", label_column="label", id_column="id")
    assert samples.ids.tolist() == ["007", "010"]
    assert samples.labels.tolist() == [10, 9]
    np.testing.assert_array_equal(samples.features, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),  # two columns of data
        ([[0, 1], [3, 4]], [[0, 1], [3, 4]]),
        ([[0, 1], [3.5, 4]], [[3.5, 4]]),  # the columns that pandas counted
        ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5]]),
        ([["", 0, 1], [0, 3, 4]], [[3, 4]]),  # the index that pandas writes along
        ([["x", "y"], [3, 4]], [[3, 4]]),  # a plane's y is no label
        ([["a", '"b, c"'], [3, '"4"']], [[3, 4]]),
        ([["a", "note"], [3, '"two\nlines"'], [5, "one"]], [[3], [5]]),
    ],
)
def test_what_is_a_header(tmp_path, rows, expected):
    text(tmp_path / "x.csv", rows)
    np.testing.assert_array_equal(read_samples(tmp_path / "x.csv").features, expected)


def test_a_column_of_numbers_may_hold_text_after_the_sample(tmp_path):
    rows = [["a"], *([i] for i in range(5000)), ["abc"]]
    text(tmp_path / "x.csv", rows)
    with pytest.raises(FileError, match="'abc' is not a number in line 5002"):
        read_samples(tmp_path / "x.csv")


LISTS = pa.list_(pa.float32())
BAD_TABLES = {
    "ragged": ({"e": pa.array([[1.0, 2.0], [3.0]], LISTS)}, "differ in length, 1 in row 1 and 2"),
    "a missing list": ({"e": pa.array([[1.0], None], LISTS)}, "'e' of .* row 1 has no value"),
    "a missing number": ({"e": pa.array([[1.0, 2], [3, None]], LISTS)}, "row 1 has no value"),
    "lists of text": ({"e": [["a"], ["b"]]}, "cannot find features in .*, which holds e"),
    "lists of lists": ({"e": [[[1.0]], [[2.0]]]}, "cannot find features"),
    "text": ({"e": ["1", "2"]}, r"cannot find features in .* which holds e \(text\)"),
    "two embeddings": (
        {"a": pa.array([[1.0]], LISTS), "b": pa.array([[1.0]], LISTS)},
        r"cannot choose a column of features .* a \(1, \?\), b \(1, \?\): name one as .*::a",
    ),
    "a label among numbers": ({"a": [1.0], "Label": [1]}, "whether column 'Label' of .* a feature"),
    "a missing scalar": ({"a": [1.0, None]}, "'a' of .* row 1 has no value"),
}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize(("columns", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_table_is_one_sentence(tmp_path, kind, columns, message):
    path = tmp_path / f"x.{kind}"
    table = pa.table(columns)
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        stream(path, table)
    with pytest.raises(FileError, match=message) as caught:
        read_samples(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_column": "none"}, "cannot find 'none' in .*, which holds id"),
        ({"label_column": "tags"}, "'tags' of .* holds lists, not one value a row"),
        ({"label_column": "ground_truth.confidence"}, "row 0 has no value"),
        ({"labels": "table.csv"}, "cannot choose a column of labels .* f3, label .text., path"),
        ({"labels": "two_labels.csv"}, "holds 2 of them for the 30 samples of '.*fiftyone"),
        ({"labels": "names.csv"}, "29 of them .its first line, 'ant', was taken for names. for"),
        ({"ids": "x.npz::x"}, r"as ids: it holds an array of shape \(30, 4\)"),
        ({"ids": "x.npz::y", "id_column": "id"}, "leave one out"),
        ({"labels": "gap.csv"}, "line 2 is blank"),
        ({"labels": "absent.parquet"}, "no such file"),
    ],
)
def test_labels_and_ids_that_do_not_fit(folder, arguments, message):
    text(folder / "two_labels.csv", [["label"], [1], [2]])
    text(folder / "names.csv", [[name] for name in NAMES])
    (folder / "gap.csv").write_text("1\n\n2\n")
    given = {
        key: value if key.endswith("column") else f"{folder}/{value}"
        for key, value in arguments.items()
    }
    with pytest.raises(FileError, match=message) as caught:
        read_samples(folder / "fiftyone.parquet", **given)
    assert "\n" not in str(caught.value)


def test_labels_alone(folder):
    np.testing.assert_array_equal(read_labels(folder / "x.npz::y", n=N), LABELS)
    with pytest.raises(FileError, match="30 of them for the 7 samples of the ranking"):
        read_labels(folder / "x.npz::y", n=7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "it has no rows"),
        ("a,b\n", "cannot find features"),
        ("a,b\n1,2\n3\n", "line 3 has 1 columns, the first line 2"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 columns, the first line 2"),
        ("a,b\n1,2\n3,\n", "a number is missing in line 3"),
        ("a,b\n1,2\n3,n/a\n", "column 'b' of .* holds text beside numbers"),
        ("a,a\n1,2\n", "two columns are named 'a'"),
        ("a,b\nx,y\n", r"which holds a \(text\), b \(text\)"),
        ("cat.jpg,0.5\ndog.jpg,0.7\n", "first line mixes names and numbers"),
        ("a,target\n1,2\n", "whether column 'target'"),
        ("a\n1\n\n2\n", "line 3 is blank"),
        ('a\n"1\n2\n', "no CSV table, unexpected end of data"),
        (b"a,b\n\xff,2\n", "not text in UTF-8"),
        ("a\n" + "1" * 200_000 + "\n", "no CSV table, field larger than field limit"),
    ],
)
def test_bad_csv_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "x.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FileError, match=message) as caught:
        read_samples(path)
    assert "\n" not in str(caught.value)


def _bad_folders(folder):
    def shards(name, **arrays):
        (folder / name).mkdir()
        for part, array in arrays.items():
            np.save(folder / name / f"{part}.npy", array)

    shards("width", a=FEATURES, b=FEATURES[:, :3])
    shards("text", a=FEATURES, b=FEATURES.astype(str))
    shards("flat", a=FEATURES, b=FEATURES[:, 0])
    shards("mixed", a=FEATURES)
    (folder / "mixed" / "b.csv").write_text("1\n")
    shards("broken", a=FEATURES)
    (folder / "broken" / "b.npy").write_bytes(b"")
    (folder / "none").mkdir()
    (folder / "none" / "README.md").touch()
    (folder / "splits" / "train").mkdir(parents=True)
    (folder / "columns").mkdir()
    parquet.write_table(pa.table({"a": [1.0], "b": [1.0]}), folder / "columns" / "0.parquet")
    parquet.write_table(pa.table({"a": [1.0], "c": [1.0]}), folder / "columns" / "1.parquet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("width", r"b.npy' to '.*a.npy': its rows have shape \(3,\), the others \(4,\)"),
        ("text", r"b.npy' to '.*a.npy': it holds <U\d+, the other float32"),
        ("flat", r"b.npy' to '.*a.npy': its array has shape \(30,\)"),
        ("mixed", "holds files of several types, such as a.npy, b.csv"),
        ("broken", "b.npy': the file is empty"),
        ("none", "it holds no file of .npy"),
        ("splits", "but the folders 'train': name one of them"),
        ("columns", "1.parquet' to '.*0.parquet': its features are a, c, there a, b"),
    ],
)
def test_shards_that_do_not_go_together(tmp_path, name, message):
    _bad_folders(tmp_path)
    with pytest.raises(FileError, match=message) as caught:
        read_samples(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_shards_go_by_number_and_pass_over_other_files(tmp_path):
    for i in (10, 9, 1):
        np.save(tmp_path / f"part{i}.npy", np.full((1, 2), i, np.float64 if i == 9 else np.float32))
    np.save(tmp_path / ".hidden.npy", FEATURES)
    np.save(tmp_path / "_part0.npy", FEATURES)
    (tmp_path / "info.json").write_text("{}")
    features = read_samples(tmp_path).features
    assert features.dtype == np.float64
    assert features[:, 0].tolist() == [1, 9, 10]


def test_a_saved_data_set_lists_its_files(tmp_path):
    stream(tmp_path / "data-00000-of-00001.arrow", hugging_face())
    stream(tmp_path / "cache-1234.arrow", hugging_face())
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": files}))
    assert read_samples(tmp_path).features.shape == (N, D)
    (tmp_path / "state.json").write_text("[]")
    assert read_samples(tmp_path).features.shape == (2 * N, D)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fiftyone.parquet", "damaged or incomplete"),
        ("fiftyone.feather", "damaged or incomplete"),
        ("x.safetensors", "damaged or incomplete"),
        ("x.h5", "damaged or incomplete"),
    ],
)
def test_a_truncated_file_is_one_sentence(folder, tmp_path, name, message):
    whole = (folder / name).read_bytes()
    for size in (9, len(whole) // 2, len(whole) - 20):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(FileError, match=message):
            read_samples(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileError, match="the file is empty"):
        read_samples(tmp_path / name)


def test_an_old_feather_file(tmp_path):
    (tmp_path / "x.feather").write_bytes(b"FEA1" + bytes(20))
    with pytest.raises(FileError, match="version 1; write it again"):
        read_samples(tmp_path / "x.feather")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("fiftyone.parquet", "ground_truth.label"),
        ("fiftyone.feather", "ground_truth.label"),
        ("stream.arrow", "label"),
        ("x.safetensors", "y"),
        ("x.h5", "group/y"),
        ("table.csv", "label"),
    ],
)
def test_damaged_bytes_never_raise_anything_else(folder, tmp_path, rng, name, label):
    """Bytes replaced anywhere or the end cut off: samples or a `FileError`, nothing else."""
    whole, path = (folder / name).read_bytes(), tmp_path / name
    for _ in range(60):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), size=rng.integers(1, 9)):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(1, 2 * len(whole))])
        with contextlib.suppress(FileError):
            assert isinstance(read_samples(path, label_column=label).features, np.ndarray)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("fiftyone.parquet", "pyarrow"),
        ("stream.arrow", "pyarrow"),
        ("x.h5", "h5py"),
        ("x.safetensors", "safetensors"),
    ],
)
def test_a_missing_library_is_named(folder, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    suffix = name[name.index(".") :]
    sentence = rf"reading {suffix} needs {library}; .* pip install 'topoprune-jax\[io\]'"
    with pytest.raises(ImportError, match=sentence):
        read_samples(folder / name)
