"""Image sets, latent features and training dynamics, and what can be done to them."""

import dataclasses
import hashlib
import io
import itertools
import os
import sys
import zipfile
from pathlib import Path

import numpy as np

from topoprune_jax.io import FileError, read_array

VALIDATION = 0.1  # of the training samples
_SPLIT_SEED = 20260
# The networks of the harness that are of the same family as those that made the features.
ARCHITECTURES = {"netA": "vgg-small", "netB": "resnet-small"}


@dataclasses.dataclass(frozen=True)
class Images:
    """Samples and integer labels, to train and to evaluate on: uint8 images (n, h, w, c), or
    features (n, d) where a probe is trained."""

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    @property
    def n_classes(self) -> int:
        return int(max(self.train_y.max(), self.test_y.max())) + 1


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """What a pretrained network says of the training images, in their order; equal to itself only,
    so that what was computed from it can be found again."""

    name: str
    values: np.ndarray
    logits: np.ndarray | None  # (epochs, n, classes), from the training of that network


def data_folder() -> Path:
    """The folder of the shared data, or an end with one sentence."""
    folder = os.environ.get("TOPOPRUNE_DATA")
    if not folder or not Path(folder).is_dir():
        sys.exit(
            "TOPOPRUNE_DATA must name the folder with the data, such as cifar10_train_jpeg.npz; "
            f"got {folder!r}. Set it, or give a path to --images."
        )
    return Path(folder)


def read_images(source: str) -> Images:
    """Images from `cifar10` (JPEG in TOPOPRUNE_DATA), from an .npz, or from `tfds:NAME`."""
    if source == "cifar10":
        folder = data_folder()
        train, test = (_decoded(folder / f"cifar10_{part}_jpeg.npz") for part in ("train", "test"))
        return Images("cifar10", *train, *test)
    if source.startswith("tfds:"):
        return _from_tfds(source.removeprefix("tfds:"))
    parts = [read(source, name) for name in ("train_x", "train_y", "test_x", "test_y")]
    if parts[0].ndim != 4 or parts[0].dtype != np.uint8:
        sys.exit(
            f"train_x of {source} must be uint8 images (n, h, w, c); "
            f"got shape {parts[0].shape} and dtype {parts[0].dtype}."
        )
    return Images(Path(source).stem, *parts)


def _decoded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    bytes_, offsets, labels = (read(path, name) for name in ("bytes", "offsets", "labels"))
    cuts = itertools.pairwise(offsets)
    images = [np.asarray(Image.open(io.BytesIO(bytes_[i:j].tobytes()))) for i, j in cuts]
    return np.stack(images), labels.astype(np.int32)


def _from_tfds(name: str) -> Images:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        sys.exit("`tfds:NAME` needs tensorflow-datasets: pip install 'topoprune-jax[data]'.")
    parts = []
    for split in ("train", "test"):
        try:
            source = tfds.data_source(name, split=split)
        except Exception as error:  # whatever the library and its formats raise
            sys.exit(f"tensorflow-datasets cannot read '{name}' without tensorflow: {error}")
        examples = [source[i] for i in range(len(source))]
        parts.append(np.stack([np.asarray(example["image"]) for example in examples]))
        parts.append(np.asarray([example["label"] for example in examples], np.int32))
    return Images(name, *parts)


def read_features(source: str) -> Features:
    """Features from `netA` or `netB` (of CIFAR-10, in TOPOPRUNE_DATA), or from an .npz or .npy.

    An .npz holds `train_f` (n, d) and may hold `epoch_logits` (epochs, n, classes).
    """
    path = data_folder() / f"cifar10_{source}.npz" if source in ("netA", "netB") else Path(source)
    name = source if source in ("netA", "netB") else path.stem
    if path.suffix == ".npy":
        return Features(name, read(path), None)
    return Features(name, read(path, "train_f").astype(np.float32), read_logits(path))


def read(path: str | Path, name: str | None = None) -> np.ndarray:
    """An array of a file, or an end with one sentence."""
    try:
        return read_array(path, key=name)
    except FileError as error:
        sys.exit(str(error))


def names_in(path: str | Path) -> list[str]:
    """The names of the arrays of an .npz, none for any other file."""
    if not zipfile.is_zipfile(path):
        return []
    with np.load(path) as archive:
        return archive.files


def read_logits(path: str | Path) -> np.ndarray | None:
    """The training dynamics, if the file holds any."""
    return read(path, "epoch_logits") if "epoch_logits" in names_in(path) else None


def matched(images: Images, features: Features, evaluate: str) -> tuple[Images, Features]:
    """Both with the rows to select from, evaluated on `validation` or `test` samples."""
    n = len(images.train_y)
    if len(features.values) != n:
        sys.exit(
            f"The features '{features.name}' must have a row for each of the {n} training images; "
            f"they have {len(features.values)}."
        )
    return validation_split(images, features) if evaluate == "validation" else (images, features)


def validation_split(images: Images, features: Features) -> tuple[Images, Features]:
    """The same without a tenth of the training samples, on which accuracy is measured instead.

    Settings are chosen here, so that the test images are looked at once. Neither selection nor
    training sees the rows held out; the network that made the features may have been trained on
    them, as netA and netB were.
    """
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images.train_y))
    size = round(VALIDATION * len(order))
    held, rest = np.sort(order[:size]), np.sort(order[size:])
    x, y = images.train_x, images.train_y
    logits = None if features.logits is None else features.logits[:, rest]
    return (
        Images(images.name, x[rest], y[rest], x[held], y[held]),
        Features(features.name, features.values[rest], logits),
    )


def noisy(features: Features, sigma: float, seed: int) -> Features:
    """Features with Gaussian noise whose std is sigma times that of each feature."""
    if sigma == 0:
        return features
    values = features.values
    noise = np.random.default_rng([seed, round(1000 * sigma)]).normal(size=values.shape)
    moved = values + sigma * values.std(axis=0, keepdims=True) * noise
    return dataclasses.replace(features, values=moved.astype(np.float32))


def with_label_noise(images: Images, fraction: float, seed: int) -> Images:
    """A fraction of the training labels replaced by another class, each equally likely."""
    generator = np.random.default_rng(seed)
    y = images.train_y.copy()
    wrong = generator.choice(len(y), round(fraction * len(y)), replace=False)
    y[wrong] = (y[wrong] + generator.integers(1, images.n_classes, len(wrong))) % images.n_classes
    return dataclasses.replace(images, train_y=y)


def imbalanced(
    images: Images, features: Features, factor: float, seed: int
) -> tuple[Images, Features]:
    """Class c keeps factor^(-c / (classes - 1)) of its training samples (Cui et al. 2019)."""
    generator = np.random.default_rng(seed)
    rows = []
    for c in range(images.n_classes):
        members = np.flatnonzero(images.train_y == c)
        share = factor ** (-c / (images.n_classes - 1))
        rows.append(generator.choice(members, max(1, round(share * len(members))), replace=False))
    chosen = np.sort(np.concatenate(rows))
    logits = None if features.logits is None else features.logits[:, chosen]
    smaller = dataclasses.replace(
        images, train_x=images.train_x[chosen], train_y=images.train_y[chosen]
    )
    return smaller, Features(features.name, features.values[chosen], logits)


def merged(images: Images, superclasses: list[int]) -> Images:
    """Class c becomes `superclasses[c]`, for selection, training and evaluation."""
    if len(superclasses) != images.n_classes:
        sys.exit(
            f"`--superclasses` must have one number for each of the {images.n_classes} classes; "
            f"got {len(superclasses)}."
        )
    table = np.asarray(superclasses, images.train_y.dtype)
    name = f"{images.name}, classes {' '.join(map(str, superclasses))}"
    return dataclasses.replace(
        images, name=name, train_y=table[images.train_y], test_y=table[images.test_y]
    )


def fingerprint(kept: np.ndarray) -> str:
    """SHA-256 of the sorted indices, so that a kept set can be told from another."""
    return hashlib.sha256(np.sort(np.asarray(kept)).astype("<i8").tobytes()).hexdigest()[:16]
