"""Data sets of tensorflow-datasets with random access, read and made without tensorflow.

Needs the extra `data`. `load` reads what lies on disk, in array_record, Parquet or TFRecord files;
`build` makes such a data set of a folder of images or of arrays.
"""

import contextlib
import io
import logging
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ._types import ArrayInput, Progress
from .io import FileError, read_array

ImageSource: TypeAlias = str | os.PathLike[str] | tuple[ArrayInput, ArrayInput | None]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RECORD_HEADER = 12  # length and its checksum; behind the record comes a checksum of 4 bytes


@dataclass(frozen=True)
class ImageData:
    """One split of a tfds data set: samples by number, read when they are asked for.

    Its length is n and its entries are dictionaries, as a grain or torch loader wants them.

    **Attributes:**

    - `name`, `split`: as they were given to `load`.
    - `class_names`: of the labels 0, 1, ...; empty without named classes.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    _records: Any = field(repr=False)
    _features: Any = field(repr=False)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        return self._decode(self._record(index), tuple(self._features))

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several samples, which the files may give faster together."""
        return [self[index] for index in indices]

    def column(self, key: str) -> "Column":
        """One entry of every sample, by number: `data.column("image")[kept]`.

        **Raises:** `FileError` for a name that the samples do not have; it lists those they have.
        """
        if key not in self._features:
            raise FileError(
                f"cannot find '{key}' in the data set '{self.name}', whose samples have "
                f"{', '.join(sorted(self._features))}: name one of those."
            )
        return Column(self, key)

    @property
    def images(self) -> "Column":
        """The entry `image` of every sample: `data.images[kept]` is `(m, h, w, c)`."""
        return self.column("image")

    @property
    def labels(self) -> np.ndarray:
        """The entry `label` of every sample, `(n,)` integers; no image is decoded for it."""
        return self.column("label")[:]

    def _record(self, index: Any) -> Any:
        n = len(self)
        row = int(index)
        if not -n <= row < n:
            raise IndexError(f"sample {row} does not exist: the data set has {n} samples.")
        return self._records[row % n]

    def _decode(self, record: Any, keys: Sequence[str]) -> dict[str, Any]:
        """The entries `keys` of one sample. Images are decoded here, and only where wanted."""
        from tensorflow_datasets import decode

        here = [key for key, feature in self._features.items() if _is_plain_image(feature)]
        skipped = {key: decode.SkipDecoding() for key in here}
        sample = self._features.deserialize_example_np(record, decoders=skipped)
        return {
            key: _pixels(sample[key], self._features[key].shape[-1]) if key in here else sample[key]
            for key in keys
        }


@dataclass(frozen=True)
class Column:
    """One entry of every sample: `column[3]` is one, `column[kept]` and `column[:]` are stacked.

    A model's inputs as `topoprune_jax.training.extract_features` takes them.
    """

    data: ImageData
    key: str

    def __len__(self) -> int:
        return len(self.data)

    @property
    def dtype(self) -> np.dtype:
        """The type of an entry."""
        return np.dtype(self.data._features[self.key].np_dtype)

    def _one(self, index: Any) -> Any:
        return self.data._decode(self.data._record(index), (self.key,))[self.key]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            index = range(*index.indices(len(self)))
        elif np.ndim(index) == 0:
            return self._one(index)
        rows = np.asarray(index)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(
                    f"a mask of the samples must have shape ({len(self)},); got {rows.shape}."
                )
            rows = np.flatnonzero(rows)
        entries = [self._one(row) for row in rows.tolist()]
        shapes = {np.shape(entry) for entry in entries}
        if len(shapes) > 1:
            one, other = sorted(shapes)[:2]
            raise ValueError(
                f"'{self.key}' differs in shape from sample to sample, such as {one} and {other}: "
                "take one sample at a time and bring them to one size."
            )
        if not entries:
            shape = tuple(side or 0 for side in self.data._features[self.key].shape)
            return np.empty((0, *shape), self.dtype)
        return np.stack([np.asarray(entry) for entry in entries])


def load(
    name: str, *, split: str = "train", data_dir: str | os.PathLike[str] | None = None
) -> ImageData:
    """One split of a tfds data set that lies on disk, by name, with random access.

    Reads array_record and Parquet files, and TFRecord files too, which tensorflow-datasets itself
    reads only with tensorflow and only in order. Nothing is downloaded.

    **Arguments:**

    - `name`: of the data set, also as `"name/config:1.0.0"`.
    - `split`: such as `"train"` or `"train[:10%]"`.
    - `data_dir`: the folder that holds the folder `name`; by default where tensorflow-datasets
      keeps its own, `~/tensorflow_datasets`.

    **Returns:** an `ImageData`. The order is that of the files, always the same; row i of
    features made from it is sample i.

    **Raises:** ImportError that names what to install; `FileError` where there is no such data set
    or split (it says which folder was searched and how the files are made), where files are of a
    format without random access, or damaged.

    !!! example

        ```python
        data = load("my_images", data_dir="datasets")
        features = extract_features(model, data.images, method="features")
        ranking = topoprune_jax.rank(features, 0.9, labels=data.labels)
        small = data.images[np.asarray(ranking.kept)]
        ```
    """
    tfds = _tfds("loading a tfds data set")
    from tensorflow_datasets.core import read_only_builder, registered

    folder = None if data_dir is None else os.fspath(data_dir)
    where = folder or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if folder is not None and not os.path.isdir(folder):
        raise FileError(f"cannot load '{name}': there is no folder '{folder}'.")
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=folder)
    except registered.DatasetNotFoundError as error:
        how = "make it with topoprune_jax.data.build"
        base = re.split("[/:]", name)[0]
        with contextlib.suppress(registered.DatasetNotFoundError):
            registered.imported_builder_cls(base)
            how = (
                "tensorflow-datasets knows how to make it: tfds build "
                f"--data_dir={where} --file_format=array_record {name}"
            )
        raise FileError(f"cannot load '{name}': its files are not in '{where}'; {how}.") from error
    except (OSError, ValueError, KeyError) as error:
        raise FileError(
            f"cannot load '{name}': its description in '{where}' is damaged; make it again."
        ) from error
    splits = builder.info.splits
    try:
        instructions = splits[split].file_instructions
    except (ValueError, KeyError) as error:
        raise FileError(
            f"cannot find the split '{split}' in '{name}', which has {', '.join(splits)}."
        ) from error
    features: Any = builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict):
        raise FileError(f"cannot load '{name}': its samples are no dictionaries.")
    label: Any = dict(features.items()).get("label")
    names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    records = _records(builder, name, split, instructions)
    return ImageData(name, split, names, records, features)


def _tfds(what: str) -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"{what} needs tensorflow-datasets; install it with: pip install 'topoprune-jax[data]'"
        ) from error
    return tensorflow_datasets


def _records(builder: Any, name: str, split: str, instructions: Sequence[Any]) -> Any:
    """The serialized samples by number."""
    import tensorflow_datasets as tfds

    formats = {each.value for each in builder.info.available_file_formats()}
    for instruction in instructions:
        if not os.path.exists(instruction.filename):
            raise FileError(
                f"cannot load '{name}': the file '{instruction.filename}' is missing; "
                "make the data set again."
            )
    if formats & {"array_record", "parquet"}:
        package = "array_record" if "array_record" in formats else "pyarrow"
        try:
            return builder.as_data_source(
                split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
        except ImportError as error:
            raise ImportError(
                f"'{name}' is in files that need {package}; install it with: pip install {package}"
            ) from error
    if "tfrecord" in formats:
        return _TfRecords(instructions)
    raise FileError(
        f"cannot load '{name}': it is in {' and '.join(sorted(formats))} files, which cannot be "
        "read by sample number; make it again with file_format='array_record'."
    )


class _TfRecords:
    """Serialized samples in TFRecord files, found by walking from length to length once."""

    def __init__(self, instructions: Sequence[Any]):
        self._names = [instruction.filename for instruction in instructions]
        self._files = self._opened()
        places = []
        for number, instruction in enumerate(instructions):
            found = _record_places(self._files[number], instruction.filename)
            if len(found) != instruction.examples_in_shard:
                raise FileError(
                    f"cannot read '{instruction.filename}': it holds {len(found)} samples, and "
                    f"{instruction.examples_in_shard} were written; make the data set again."
                )
            kept = found[instruction.skip : instruction.skip + instruction.take]
            places += [(number, start, length) for start, length in kept]
        self._places = np.array(places, np.int64).reshape(-1, 3)

    def _opened(self) -> list[np.ndarray]:
        # An empty file cannot be mapped, and holds no record.
        return [
            np.memmap(name, np.uint8, mode="r") if os.path.getsize(name) else np.empty(0, np.uint8)
            for name in self._names
        ]

    def __getstate__(self) -> dict[str, Any]:
        # The worker processes of a loader get the names of the files, not what is in them.
        return {"_names": self._names, "_places": self._places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._files = self._opened()

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> bytes:
        number, start, length = self._places[row]
        return self._files[number][start : start + length].tobytes()


def _record_places(raw: np.ndarray, file: str) -> list[tuple[int, int]]:
    """Where each record begins, and its length."""
    places, position = [], 0
    while position < len(raw):
        if position + _RECORD_HEADER <= len(raw):
            (length,) = struct.unpack_from("<Q", raw, position)  # pyright: ignore[reportArgumentType]
            start = position + _RECORD_HEADER
            position = start + length + 4
        else:
            position, start, length = len(raw) + 1, 0, 0
        if position > len(raw):
            raise FileError(
                f"cannot read '{file}': it is damaged or incomplete; make the data set again."
            )
        places.append((start, length))
    return places


def _is_plain_image(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    if not isinstance(feature, tfds.features.Image) or feature.np_dtype != np.uint8:
        return False
    shape: Any = feature.shape
    return len(shape) == 3 and shape[-1] in _MODES


def _pixels(encoded: bytes, channels: int) -> np.ndarray:
    """`(h, w, c)` uint8."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image.convert(_MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def build(
    sources: ImageSource | Mapping[str, ImageSource],
    name: str,
    *,
    data_dir: str | os.PathLike[str],
    channels: int | None = None,
    progress: Progress | None = None,
) -> dict[str, ImageData]:
    """Makes a tfds data set, in array_record files, of image folders or arrays; no tensorflow.

    A source is

    - a folder with one subfolder per class, whose name is the class and which holds PNG, JPEG, BMP,
      GIF, WebP or TIFF images (other files are passed over); or with images and no subfolders,
      then without labels;
    - a `.npz` file with `images`, `(n, h, w)` or `(n, h, w, c)` uint8, and, if there are labels,
      `labels`, `(n,)` integers or strings;
    - a pair of such arrays, `(images, labels)` or `(images, None)`.

    Samples keep their order: that of the arrays, or classes and file names sorted as text. Every
    image is stored as PNG, which loses nothing. A sample has `image`, `id` (the path within the
    folder, or the row number) and, with labels, `label`.

    **Arguments:**

    - `sources`: one source, which becomes the split `train`, or `{"train": ..., "test": ...}`.
      All have labels or none has; classes are those of all splits together, in sorted order.
    - `name`: of the data set: lower-case letters, digits and underscores.
    - `data_dir`: the folder to make it in, created if it is missing.
    - `channels`: 1 (gray), 3 (RGB) or 4 (RGBA), to which all images are converted. By default the
      fewest that lose nothing.
    - `progress`: called as `progress("build", done, total)`, in samples.

    **Returns:** the splits, each as `load` gives it.

    **Raises:** ImportError that names what to install; `FileError` for a source that is missing,
    empty or damaged, or a data set that is already there; ValueError or TypeError for a bad `name`
    or `channels`, or for arrays of another shape or type.

    !!! example

        ```python
        splits = build({"train": "photos/train", "test": "photos/test"}, "photos", data_dir="data")
        splits["train"].images[[0, 1]]
        tfds.data_source("photos", data_dir="data", split="train")  # the same, for others
        ```
    """
    tfds = _tfds("building a tfds data set")
    try:
        import array_record  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "building a tfds data set needs array_record and pillow; "
            "install them with: pip install 'topoprune-jax[data]'"
        ) from error
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "`name` must be lower-case letters, digits and underscores, a letter first; got "
            f"{name!r}. Pass one such as 'my_images'."
        )
    if channels is not None and channels not in _MODES:
        raise ValueError(f"`channels` must be 1, 3, 4 or None; got {channels!r}.")
    given = sources if isinstance(sources, Mapping) else {"train": sources}
    for split in given:
        if not isinstance(split, str) or not _NAME.fullmatch(split):
            raise ValueError(f"`sources` must name splits such as 'train'; got {split!r}.")
    if not given:
        raise ValueError("`sources` must hold at least one split; got none.")
    folder = Path(data_dir)
    if (folder / name).exists():
        raise FileError(
            f"cannot build '{name}': '{folder / name}' is already there; "
            "delete it or pass another name."
        )
    samples = {split: _samples(source) for split, source in given.items()}
    labeled = {each.labels is not None for each in samples.values()}
    if len(labeled) > 1:
        raise ValueError("`sources` must all have labels, or none; got some of each.")
    classes = None
    if labeled == {True}:
        every = [each.labels for each in samples.values() if each.labels is not None]
        classes = np.unique(np.concatenate(every))
    channels = channels or max(each.channels() for each in samples.values())
    _prepare(tfds, name, folder, samples, classes, channels, progress)
    return {split: load(name, split=split, data_dir=folder) for split in samples}


@dataclass(frozen=True)
class _Samples:
    """Images of one split, not decoded yet: file names or arrays."""

    images: Sequence[Any]
    labels: np.ndarray | None
    ids: Sequence[str]

    def channels(self) -> int:
        """The fewest channels that lose nothing of any image."""
        if isinstance(self.images, np.ndarray):
            return self.images.shape[-1]
        return max(_channels_of(file) for file in self.images)

    def png(self, row: int, channels: int) -> bytes:
        """One image as PNG."""
        from PIL import Image

        source = self.images[row]
        stream = io.BytesIO()
        if isinstance(source, np.ndarray):
            pixels = source[..., 0] if source.shape[-1] == 1 else source
            image = Image.fromarray(np.ascontiguousarray(pixels))
        else:
            image = _opened(source)
        try:
            image.convert(_MODES[channels]).save(stream, format="PNG")
        except (OSError, ValueError, SyntaxError) as error:
            raise FileError(f"cannot read '{source}': the image is damaged.") from error
        finally:
            image.close()
        return stream.getvalue()


def _opened(file: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileError(f"cannot read '{file}': it is no image that Pillow can read.") from error


def _channels_of(file: Path) -> int:
    with _opened(file) as image:
        mode = image.mode
        if mode in ("1", "L"):
            return 1
        if mode.startswith(("I", "F")):
            raise FileError(
                f"cannot build from '{file}': its pixels have more than 8 bits (mode {mode}); "
                "convert it to 8 bits."
            )
        return 4 if image.has_transparency_data else 3


def _samples(source: ImageSource) -> _Samples:
    if isinstance(source, tuple):
        if len(source) != 2:
            raise ValueError(
                f"A source of arrays must be a pair (images, labels); got {len(source)} entries. "
                "Pass (images, None) without labels."
            )
        return _array_samples(*source, names=("images", "labels"))
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            "A source must be a folder, a .npz file or a pair of arrays; got "
            f"{type(source).__name__}."
        )
    path = Path(source)
    if path.is_dir():
        return _folder_samples(path)
    images = read_array(path, key="images")
    try:
        labels = read_array(path, key="labels")
    except FileError as error:
        if "cannot find 'labels'" not in str(error):
            raise
        labels = None
    return _array_samples(images, labels, names=(f"{path}::images", f"{path}::labels"))


def _array_samples(images: Any, labels: Any, *, names: tuple[str, str]) -> _Samples:
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in _MODES or 0 in images.shape:
        raise ValueError(
            f"`{names[0]}` must have shape (n, h, w) or (n, h, w, c) with 1, 3 or 4 channels; got "
            f"{images.shape}. Put the channels last."
        )
    if images.dtype != np.uint8:
        raise TypeError(
            f"`{names[0]}` must be uint8, 0 to 255; got {images.dtype}. "
            "Convert it, such as by `(255 * images).round().astype('uint8')`."
        )
    n = len(images)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (n,) or labels.dtype.kind not in "iubUS":
            raise ValueError(
                f"`{names[1]}` must be {n} integers or strings, one an image; got shape "
                f"{labels.shape} of {labels.dtype}."
            )
    return _Samples(images, labels, [str(row) for row in range(n)])


def _folder_samples(folder: Path) -> _Samples:
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    classes = [path for path in visible if path.is_dir()]
    loose = _images_in(folder)
    if loose and classes:
        raise FileError(
            f"cannot build from '{folder}': it holds images, such as '{loose[0].name}', beside "
            "its subfolders; move each into the folder of its class."
        )
    if not classes:
        if not loose:
            raise FileError(f"cannot build from '{folder}': it holds no images.")
        return _Samples(loose, None, [file.name for file in loose])
    files, labels = [], []
    for path in classes:
        found = _images_in(path)
        if not found:
            raise FileError(
                f"cannot build from '{folder}': the subfolder '{path.name}' holds no images; if "
                "subfolders are splits, pass {'train': FOLDER, ...}."
            )
        files += found
        labels += [path.name] * len(found)
    return _Samples(files, np.array(labels), [str(f.relative_to(folder)) for f in files])


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _prepare(
    tfds: Any,
    name: str,
    folder: Path,
    samples: Mapping[str, _Samples],
    classes: np.ndarray | None,
    channels: int,
    progress: Progress | None,
) -> None:
    """Writes the files."""
    total = sum(len(each.images) for each in samples.values())
    failures: list[BaseException] = []
    features: dict[str, Any] = {
        "image": tfds.features.Image(shape=(None, None, channels), encoding_format="png"),
        "id": tfds.features.Text(),
    }
    if classes is not None:
        features["label"] = tfds.features.ClassLabel(names=[str(label) for label in classes])

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues,reportCallIssue]
        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # as of a class made in a notebook: no file of checksums lies beside it

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,  # row i stays row i
            )

        def _split_generators(self, dl_manager: Any) -> Any:
            done = 0
            generators = {}
            for split, each in samples.items():
                generators[split] = self._generate_examples(each, done)
                done += len(each.images)
            return generators

        def _generate_examples(self, each: _Samples, done: int) -> Iterator[tuple[int, Any]]:
            codes = None
            if classes is not None and each.labels is not None:
                codes = np.searchsorted(classes, each.labels)
            for row in range(len(each.images)):
                if progress is not None:
                    progress("build", done + row, total)
                try:
                    sample = {"image": each.png(row, channels), "id": each.ids[row]}
                except FileError as error:
                    failures.append(error)
                    raise
                yield row, sample if codes is None else sample | {"label": int(codes[row])}

    Builder.name = name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _quiet():
            builder = Builder(data_dir=os.fspath(folder), file_format="array_record")
            builder.download_and_prepare()
    except Exception as error:
        with contextlib.suppress(OSError):
            (folder / name).rmdir()  # empty, for what was begun is gone by now
        if failures:  # in its own words, without those of tensorflow-datasets
            raise failures[0] from None
        if isinstance(error, OSError):
            reason = (error.strerror or str(error)).lower().rstrip(".")
            raise FileError(f"cannot build '{name}' in '{folder}': {reason}.") from error
        raise
    if progress is not None:
        progress("build", total, total)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and notices of tensorflow-datasets; `progress` takes their place."""
    from tensorflow_datasets.core.utils import tqdm_utils

    shown = tqdm_utils._active
    logger = logging.getLogger("absl")
    level = logger.level
    tqdm_utils.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm_utils._active = shown
        logger.setLevel(level)
