"""What a long ranking has finished, in a folder, so that a run that was killed can go on.

Plain NumPy files: a part is a few arrays of one process, which `.npz` holds without a further
dependency. orbax is made for the sharded state of training on many hosts; it would bring packages
of its own and writers in the background, for which a digest would have to be kept elsewhere.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from . import __version__
from . import _checks as checks
from ._files import DAMAGED, LEFT_OVER, FileError, check_folder, reason, replacing
from ._types import Array, Key

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_MANIFEST = "topoprune.json"
_FORMAT = 1
_SLAB_BYTES = 1 << 26
_DIGEST = "blake2b:"
_PART = re.compile(r"topoprune\.(?P<name>[a-z-]+(\.[a-z-]+)*(\.\d+-\d+(-\d+)?)?)\.npz")


class Checkpoint:
    """Arrays under names in a folder. A file is whole or counts for nothing.

    Each is written under another name and put in its place when the disk has it, and holds a digest
    of its arrays, its name and the ranking that it belongs to. What is cut off, has a wrong bit or
    belongs elsewhere is found out when it is read, and computed anew.
    """

    seconds = 10.0
    """Least time between two files inside a stage."""

    def __init__(self, folder: Path, identity: str):
        self._folder, self._identity = folder, identity
        self._saved = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last file is old enough for the next one inside a stage."""
        return time.monotonic() - self._saved >= self.seconds

    def save(self, name: str, arrays: Mapping[str, Any]) -> None:
        """**Raises:** `FileError` if the file cannot be written."""
        host = {key: np.asarray(values) for key, values in arrays.items()}
        with replacing(self._file(name)) as stream:
            np.savez(stream, allow_pickle=False, digest=self._digest(name, host), **host)
        self._saved = time.monotonic()

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays, or None where there is no whole file of that name."""
        try:
            # Opened here, because NumPy leaves a damaged file open.
            with open(self._file(name), "rb") as stream, np.load(stream) as file:
                arrays = {key: file[key] for key in file.files}
        except DAMAGED:
            return None
        digest = arrays.pop("digest", None)
        if digest is None or not np.array_equal(digest, self._digest(name, arrays)):
            return None
        return arrays

    def inside(self, scope: str) -> list[str]:
        """Names that begin with the scope and a dot."""
        ours = filter(None, map(_PART.fullmatch, os.listdir(self._folder)))
        return sorted(name for file in ours if (name := file["name"]).startswith(f"{scope}."))

    def remove_inside(self, scope: str) -> None:
        """Removes what is no longer needed when the scope itself is saved."""
        for name in self.inside(scope):
            with contextlib.suppress(OSError):
                self._file(name).unlink()

    def _file(self, name: str) -> Path:
        return self._folder / f"topoprune.{name}.npz"

    def _digest(self, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        hasher = _hasher()
        hasher.update(f"{self._identity} {name}".encode())
        for key in sorted(arrays):
            hasher.update(key.encode())
            _update(hasher, arrays[key])
        return np.frombuffer(hasher.digest(), np.uint8)


def fingerprint(
    points: Array | np.ndarray, others: Mapping[str, Any], key: Key, options: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the bits of a result depend on, as JSON: the data by their digest.

    **Arguments:**

    - `points`: the features; where they are is where the work is done, with NumPy's on any device.
    - `others`: arrays, or pytrees of them, or None.
    - `options`: numbers and texts, and records of them.
    """
    devices = points.devices() if isinstance(points, jax.Array) else jax.local_devices()
    device = min(devices, key=lambda device: device.id)
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if dataclasses.is_dataclass(value):
            fields = [field.name for field in dataclasses.fields(value)]
            flat |= {f"{name}.{field}": getattr(value, field) for field in fields}
        else:
            flat[name] = value
    values = {
        "topoprune_jax": __version__,
        "jax": jax.__version__,
        "backend": device.platform,
        "device": device.device_kind,
        "64-bit mode": checks.float_dtype(np.float64) == np.float64,
        "matmul precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
        "n": points.shape[0],
        "d": points.shape[1],
        "features": digest(points),
        **{name: tree if tree is None else digest(tree) for name, tree in others.items()},
        **flat,
        "key": f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}",
    }
    # As it will be read back, NumPy's numbers as Python's.
    return json.loads(json.dumps(values, default=lambda value: value.item()))


def digest(tree: Any) -> str:
    """Of the values, shapes and dtypes of all arrays. Looks at a slab of rows at a time."""
    hasher = _hasher()
    for array in jax.tree.leaves(tree):
        _update(hasher, array)
    return _DIGEST + hasher.hexdigest()


def _hasher() -> Any:
    return hashlib.blake2b(digest_size=16)


def _update(hasher: Any, array: Array | np.ndarray) -> None:
    hasher.update(f"{array.dtype}{array.shape}".encode())
    if not isinstance(array, jax.Array) or next(iter(array.devices())).platform == "cpu":
        array = np.asarray(array)  # no copy
    rows = array.shape[0] if array.ndim else 1
    step = max(1, _SLAB_BYTES * rows // max(1, array.nbytes))
    for first in range(0, rows, step):
        slab = np.ascontiguousarray(array[first : first + step] if array.ndim else array)
        hasher.update(slab.reshape(-1).view(np.uint8))


def check_checkpoint(folder: Any) -> None:
    """Raises, before long work, unless `folder` can hold a checkpoint: it is new, empty, or one.

    **Raises:** TypeError if it is no path; `FileError` if it cannot be written, or holds files of
    another kind.
    """
    path = _path(folder)
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        check_folder(path.parent)
        return
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise FileError(f"cannot use '{path}' as checkpoint: {why}.") from error
    others = sorted(name for name in names if not fnmatch.fnmatch(name, LEFT_OVER))
    if others and _MANIFEST not in names:
        raise FileError(
            f"cannot use '{path}' as checkpoint: it holds other files, such as '{others[0]}'; "
            "name a new or an empty folder."
        )
    check_folder(path)


def _path(folder: Any) -> Path:
    return checks.check_path(
        folder, name="checkpoint", hint="Name a folder; it is made if missing."
    )


@contextlib.contextmanager
def opened(folder: Any, identity: Mapping[str, Any]) -> Iterator[Checkpoint]:
    """The checkpoint in a folder, which is made if it is missing.

    **Arguments:** `identity`: the `fingerprint` of the ranking.
    **Raises:** as `check_checkpoint`; ValueError if another ranking is kept there; `FileError` if
    another process is at work on it.
    """
    path = _path(folder)
    check_checkpoint(path)
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder '{path}': {reason(error)}.") from error
    with _locked(path):
        for left_over in path.glob(LEFT_OVER):
            with contextlib.suppress(OSError):
                left_over.unlink()
        manifest = path / _MANIFEST
        before = _read_manifest(manifest)
        if before is None:
            record = {"format": _FORMAT, "what": "a checkpoint of topoprune_jax.rank", **identity}
            with replacing(manifest) as stream:
                stream.write(json.dumps(record, indent=1).encode())
        else:
            _check_same(path, before, identity)
        yield Checkpoint(path, json.dumps(identity, sort_keys=True))


def _read_manifest(file: Path) -> dict[str, Any] | None:
    """None where it is missing or damaged: then each part's digest says whether it belongs here."""
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _check_same(folder: Path, before: dict[str, Any], identity: Mapping[str, Any]) -> None:
    differing = [
        _difference(name, before.get(name), value)
        for name, value in {"format": _FORMAT, **identity}.items()
        if before.get(name) != value
    ]
    if differing:
        checks.refuse(
            f"`checkpoint` '{folder}' holds another ranking: {', '.join(differing)}. "
            "Name another folder, or delete this one."
        )


def _difference(name: str, there: Any, here: Any) -> str:
    if name == "key" or any(str(value).startswith(_DIGEST) for value in (there, here)):
        return f"other {name}" if name != "key" else "another key"
    return f"{name} {there} there and {here} here"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps a second process out of the folder, where the system can; a killed one lets go."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise FileError(
            f"cannot use '{folder}' as checkpoint: another run is at work on it; wait for its end "
            "or name another folder."
        ) from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(handle)
