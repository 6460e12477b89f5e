"""A tfds data set of a folder of images or of arrays, made without tensorflow."""

import contextlib
import io
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ._image_data import MODES, ImageData, load, require_tfds
from ._types import ArrayInput, Progress
from .io import FileError, read_array

ImageSource: TypeAlias = str | os.PathLike[str] | tuple[ArrayInput, ArrayInput | None]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


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
    tfds = require_tfds("building a tfds data set")
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
    if channels is not None and channels not in MODES:
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
            image.convert(MODES[channels]).save(stream, format="PNG")
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
    if images.ndim != 4 or images.shape[-1] not in MODES or 0 in images.shape:
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
