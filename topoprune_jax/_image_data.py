"""Samples of a tfds data set by number, decoded when they are asked for."""

import contextlib
import io
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .io import FileError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name for so many channels."""
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
    tfds = require_tfds("loading a tfds data set")
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


def require_tfds(what: str) -> Any:
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
    return len(shape) == 3 and shape[-1] in MODES


def _pixels(encoded: bytes, channels: int) -> np.ndarray:
    """`(h, w, c)` uint8."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(image.convert(MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)
