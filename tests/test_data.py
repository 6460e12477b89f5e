"""tfds data sets: made without tensorflow, read by sample number, and what is missing said."""

import pickle
import struct
import sys

import numpy as np
import pytest

from topoprune_jax.io import FileError
from topoprune_jax.training import KeptSource, extract_features

tfds = pytest.importorskip("tensorflow_datasets", reason="the extra `data` is not installed")
pytest.importorskip("array_record", reason="the extra `data` is not installed")
Image = pytest.importorskip("PIL.Image", reason="the extra `data` is not installed")

from topoprune_jax.data import build, load  # noqa: E402

KEPT = np.array([7, 1, 4])


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(pixels, tmp_path_factory):
    """The data set `arrays`: splits `train` and `test`, labels that are no codes."""
    where = tmp_path_factory.mktemp("data") / "made" / "here"
    labels = np.arange(10) % 3 * 10
    build({"train": (pixels, labels), "test": (pixels[:4], labels[:4])}, "arrays", data_dir=where)
    return where


def test_arrays_come_back_as_they_were(folder, pixels):
    data = load("arrays", data_dir=folder)
    assert len(data) == 10
    assert data.class_names == ("0", "10", "20")
    np.testing.assert_array_equal(data.labels, np.arange(10) % 3)
    np.testing.assert_array_equal(data.images[KEPT], pixels[KEPT])
    np.testing.assert_array_equal(data.images[:], pixels)
    np.testing.assert_array_equal(data.images[-3::-2], pixels[-3::-2])
    np.testing.assert_array_equal(data.images[np.arange(10) == 4], pixels[4:5])
    assert data.images[[]].shape == (0, 0, 0, 3)
    np.testing.assert_array_equal(data.images[-1], pixels[-1])
    assert set(data[2]) == {"image", "id", "label"}
    assert data[2]["id"] == b"2"
    assert [int(sample["label"]) for sample in data.__getitems__([4, 5])] == [1, 2]
    part = load("arrays", split="train[20%:50%]", data_dir=folder)
    np.testing.assert_array_equal(part.images[:], pixels[2:5])
    np.testing.assert_array_equal(
        load("arrays", split="test", data_dir=folder).images[:], pixels[:4]
    )


def test_tfds_reads_what_was_built(folder, pixels):
    source = tfds.data_source("arrays", data_dir=str(folder), split="train")
    np.testing.assert_array_equal(source[3]["image"], pixels[3])
    assert [int(source[i]["label"]) for i in range(4)] == [0, 1, 2, 0]
    kept = KeptSource(source, KEPT)
    assert [int(sample["label"]) for sample in kept.__getitems__([0, 1, 2])] == [1, 1, 1]
    np.testing.assert_array_equal(kept[0]["image"], pixels[7])


def test_what_is_kept_goes_on_to_loaders_and_models(folder, pixels):
    data = load("arrays", data_dir=folder)
    kept = KeptSource(pickle.loads(pickle.dumps(data)), KEPT)
    np.testing.assert_array_equal(kept[0]["image"], pixels[7])
    features = extract_features(
        lambda images: images.reshape(4, -1).astype(np.float32) / 255, data.images, batch_size=4
    )
    np.testing.assert_allclose(features, pixels.reshape(10, -1) / 255, rtol=1e-6)


def save(path, mode, color):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 3), color).save(path)


def test_a_folder_is_a_class_a_subfolder(tmp_path):
    photos = tmp_path / "photos"
    save(photos / "cat" / "b.png", "RGB", (9, 8, 7))
    save(photos / "cat" / "a.png", "L", 5)
    save(photos / "ant" / "c.gif", "P", 0)
    (photos / "ant" / "notes.txt").write_text("passed over")
    (photos / ".hidden").mkdir()
    seen = []
    splits = build(
        photos, "photos", data_dir=tmp_path / "out", progress=lambda *step: seen.append(step)
    )
    data = splits["train"]
    assert data.class_names == ("ant", "cat")
    assert data.labels.tolist() == [0, 1, 1]
    assert data.column("id")[:].tolist() == [b"ant/c.gif", b"cat/a.png", b"cat/b.png"]
    assert data.images[:].shape == (3, 3, 4, 3)
    assert data.images[1:][:, 0, 0].tolist() == [[5, 5, 5], [9, 8, 7]]
    assert seen == [("build", done, 3) for done in (0, 1, 2, 3)]
    gray = build(photos, "gray", data_dir=tmp_path, channels=1)["train"]
    assert gray.images[:].shape == (3, 3, 4, 1)


def test_transparency_is_kept_and_labels_may_be_missing(tmp_path):
    save(tmp_path / "loose" / "a.png", "RGBA", (1, 2, 3, 4))
    save(tmp_path / "loose" / "b.png", "L", 7)
    data = build(tmp_path / "loose", "loose", data_dir=tmp_path / "out")["train"]
    assert data.images[:][:, 0, 0].tolist() == [[1, 2, 3, 4], [7, 7, 7, 255]]
    assert data.class_names == ()
    with pytest.raises(FileError, match=r"cannot find 'label' .* whose samples have id, image"):
        _ = data.labels


def test_images_of_several_sizes_are_taken_one_by_one(tmp_path):
    save(tmp_path / "sizes" / "a.png", "L", 1)
    Image.new("L", (8, 8)).save(tmp_path / "sizes" / "b.png")
    data = build(tmp_path / "sizes", "sizes", data_dir=tmp_path / "out")["train"]
    assert [data.images[i].shape for i in range(2)] == [(3, 4, 1), (8, 8, 1)]
    with pytest.raises(ValueError, match=r"such as \(3, 4, 1\) and \(8, 8, 1\)"):
        data.images[:]


def test_an_npz_file_is_a_source(tmp_path, pixels):
    np.savez(tmp_path / "a.npz", images=pixels[..., 0], labels=np.array(["x", "y"] * 5))
    np.savez(tmp_path / "b.npz", images=pixels[..., 0], other=np.zeros(3))
    one = build(tmp_path / "a.npz", "one", data_dir=tmp_path)["train"]
    assert one.class_names == ("x", "y")
    np.testing.assert_array_equal(one.images[:][..., 0], pixels[..., 0])
    assert build(tmp_path / "b.npz", "two", data_dir=tmp_path)["train"].class_names == ()


def as_tfrecord(folder, records):
    """The split `test` of `arrays` as the TFRecord file that tensorflow would write."""
    import json
    import shutil

    there = folder / "arrays" / "1.0.0"
    here = folder / "records" / "1.0.0"
    shutil.copytree(there, here)
    for file in here.glob("arrays-*"):
        file.unlink()
    info = json.loads((there / "dataset_info.json").read_text())
    info |= {"name": "records", "fileFormat": "tfrecord"}
    info["splits"] = [split for split in info["splits"] if split["name"] == "test"]
    info["splits"][0]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    (here / "dataset_info.json").write_text(json.dumps(info))
    raw = b"".join(struct.pack("<QI", len(r), 0) + r + bytes(4) for r in records)
    file = here / "records-test.tfrecord-00000-of-00001"
    file.write_bytes(raw)
    return file


def test_tfrecord_files_are_read_without_tensorflow(folder, pixels):
    records = load("arrays", split="test", data_dir=folder)._records
    file = as_tfrecord(folder, [bytes(records[i]) for i in range(4)])
    data = load("records", split="test", data_dir=folder)
    assert "tensorflow" not in sys.modules
    np.testing.assert_array_equal(data.images[:], pixels[:4])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(data)).images[2], pixels[2])
    np.testing.assert_array_equal(
        load("records", split="test[1:3]", data_dir=folder).images[:], pixels[1:3]
    )
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    with pytest.raises(FileError, match="it is damaged or incomplete"):
        load("records", split="test", data_dir=folder)
    length = struct.unpack_from("<Q", whole)[0] + 16
    file.write_bytes(whole[length:])
    with pytest.raises(FileError, match="it holds 3 samples, and 4 were written"):
        load("records", split="test", data_dir=folder)
    file.unlink()
    with pytest.raises(FileError, match="is missing; make the data set again"):
        load("records", split="test", data_dir=folder)


def test_what_cannot_be_loaded_is_said(folder, tmp_path):
    with pytest.raises(FileError, match=r"not in '.*'; make it with topoprune_jax.data.build\."):
        load("nowhere_to_be_found", data_dir=folder)
    with pytest.raises(
        FileError, match=r"tfds build --data_dir=.* --file_format=array_record mnist"
    ):
        load("mnist", data_dir=folder)
    with pytest.raises(FileError, match="split 'val' in 'arrays', which has train, test"):
        load("arrays", split="val", data_dir=folder)
    with pytest.raises(FileError, match="there is no folder"):
        load("arrays", data_dir=tmp_path / "missing")
    data = load("arrays", data_dir=folder)
    with pytest.raises(IndexError, match="sample 10 does not exist: the data set has 10"):
        data[10]
    with pytest.raises(IndexError, match=r"mask of the samples must have shape \(10,\)"):
        data.images[np.ones(3, bool)]


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"needs tensorflow-datasets; .*'topoprune-jax\[data\]'"):
        load("mnist")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "array_record", None)
    with pytest.raises(ImportError, match="needs array_record and pillow"):
        build(tmp_path, "name", data_dir=tmp_path)


GRAY = np.zeros((3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "`name` must be lower-case", {"name": "My Images"}),
        (ValueError, "`channels` must be 1, 3, 4 or None; got 2", {"channels": 2}),
        (ValueError, "at least one split", {"sources": {}}),
        (
            ValueError,
            "splits such as 'train'; got 'Train 1'",
            {"sources": {"Train 1": (GRAY, None)}},
        ),
        (
            TypeError,
            r"`images` must be uint8, 0 to 255; got float",
            {"sources": (GRAY / 255, None)},
        ),
        (ValueError, r"3 integers or strings, one an image", {"sources": (GRAY, [0, 1])}),
        (ValueError, r"got \(3, 4, 4, 7\)", {"sources": (np.zeros((3, 4, 4, 7)), None)}),
        (ValueError, "pair .images, labels.; got 3", {"sources": (GRAY, None, None)}),
        (TypeError, "a folder, a .npz file or a pair of arrays; got int", {"sources": 3}),
        (FileError, "there is no such file", {"sources": "missing"}),
        (
            ValueError,
            "all have labels, or none",
            {"sources": {"train": (GRAY, [0, 1, 2]), "test": (GRAY, None)}},
        ),
    ],
)
def test_what_cannot_be_built_is_said(error, message, arguments, tmp_path):
    given = {"sources": (GRAY, None), "name": "name"} | arguments
    with pytest.raises(error, match=message):
        build(given.pop("sources"), given.pop("name"), data_dir=tmp_path, **given)
    assert not (tmp_path / "name").exists()


def test_folders_that_are_no_data_set_are_said(tmp_path, folder):
    save(tmp_path / "deep" / "train" / "cat" / "a.png", "L", 0)
    with pytest.raises(FileError, match="'train' holds no images; if subfolders are splits"):
        build(tmp_path / "deep", "name", data_dir=tmp_path)
    save(tmp_path / "mixed" / "cat" / "a.png", "L", 0)
    save(tmp_path / "mixed" / "b.png", "L", 0)
    with pytest.raises(FileError, match=r"it holds images, such as 'b.png', beside"):
        build(tmp_path / "mixed", "name", data_dir=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="it holds no images"):
        build(tmp_path / "empty", "name", data_dir=tmp_path)
    save(tmp_path / "wide" / "a.png", "I;16", 0)
    with pytest.raises(FileError, match="more than 8 bits"):
        build(tmp_path / "wide", "name", data_dir=tmp_path)
    with pytest.raises(FileError, match="is already there; delete it or pass another name"):
        build((GRAY, None), "arrays", data_dir=folder)


def test_a_damaged_image_is_named_and_leaves_nothing_behind(tmp_path):
    save(tmp_path / "bad" / "a.png", "L", 0)
    whole = (tmp_path / "bad" / "a.png").read_bytes()
    (tmp_path / "bad" / "b.png").write_bytes(whole[:45])
    with pytest.raises(FileError, match=r"cannot read '.*b.png': the image is damaged"):
        build(tmp_path / "bad", "name", data_dir=tmp_path)
    assert not (tmp_path / "name").exists()
    (tmp_path / "bad" / "b.png").write_bytes(b"no image")
    with pytest.raises(FileError, match=r"cannot read '.*b.png': it is no image"):
        build(tmp_path / "bad", "name", data_dir=tmp_path)
