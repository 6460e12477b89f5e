"""Reads feature arrays and writes rankings, and says in one sentence what is wrong with a file."""

import codecs
import contextlib
import csv
import os
import stat
import struct
import tempfile
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ._rank import Ranking

_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK"
_SUFFIXES = (".npz", ".csv")

# What NumPy's and zipfile's parsers raise on damaged bytes (found by feeding them such files).
_DAMAGED = (
    ValueError,
    TypeError,
    EOFError,
    OSError,
    MemoryError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    KeyError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class FileError(OSError):
    """A file that cannot be read or written as asked; the message is one sentence for a person."""


def read_array(path: str | os.PathLike[str], *, key: str | None = None) -> np.ndarray:
    """The array in a `.npy` or `.npz` file; a `.npy` file is memory-mapped, not read into memory.

    The format is told by the content, not by the name. Pickled objects are never loaded, because
    loading a pickle can run code.

    **Arguments:**

    - `path`: the file. `PATH::NAME` names one array of a `.npz` file: `"features.npz::train_f"`.
    - `key`: the same name as an argument of its own. It may be left out where the `.npz` file
        holds one array.

    **Returns:** the array with the shape and dtype it has in the file.

    **Raises:** `FileError` for a file that is missing, a folder, empty, damaged, of another type,
    or that holds Python objects; and for a name that the file does not have, or several arrays
    and no name (the message lists the names with their shapes).

    !!! example

        ```python
        np.savez("features.npz", train_f=np.ones((5, 3)), test_f=np.ones((2, 3)))
        read_array("features.npz::train_f").shape  # (5, 3)
        ```
    """
    file, name = _split(os.fspath(path))
    if key is not None and name is not None and key != name:
        raise FileError(f"cannot read '{file}': two arrays are named, '{name}' and '{key}'.")
    name = name if key is None else key
    magic = _first_bytes(file)
    if magic.startswith(_NPY_MAGIC):
        if name is not None:
            raise FileError(
                f"cannot read '{name}' from '{file}': a .npy file holds one array without a name, "
                f"so leave '{name}' out."
            )
        return _read_npy(file)
    if magic.startswith(_ZIP_MAGIC):
        return _read_npz(file, name)
    raise FileError(
        f"cannot read '{file}': it is neither a .npy nor a .npz file; "
        "write one with numpy.save or numpy.savez."
    )


def _split(text: str) -> tuple[str, str | None]:
    """`PATH::NAME` as (PATH, NAME); a file that really has `::` in its name stays whole."""
    if "::" not in text or os.path.exists(text):
        return text, None
    file, _, name = text.rpartition("::")
    if not file or not name:
        raise FileError(f"cannot read '{text}': name the array as PATH::NAME.")
    return file, name


def _first_bytes(file: str) -> bytes:
    try:
        mode = os.stat(file).st_mode
        if stat.S_ISDIR(mode):
            raise FileError(f"cannot read '{file}': it is a folder, not a .npy or .npz file.")
        # Opening a named pipe would wait for a writer that may never come.
        if not stat.S_ISREG(mode):
            raise FileError(f"cannot read '{file}': it is not a regular file.")
        with open(file, "rb") as stream:
            magic = stream.read(len(_NPY_MAGIC))
    except FileError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"cannot read '{file}': there is no such file.") from error
    except OSError as error:
        raise FileError(f"cannot read '{file}': {_reason(error)}.") from error
    if not magic:
        raise FileError(f"cannot read '{file}': the file is empty.")
    return magic


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower().rstrip(".")


def _damage(what: str, error: BaseException) -> FileError:
    if isinstance(error, MemoryError):
        return FileError(f"cannot read {what}: it is damaged or larger than the memory.")
    if "object" in str(error).lower():
        return FileError(
            f"cannot read {what}: it holds Python objects, and loading those could run code; "
            "save an array of numbers."
        )
    return FileError(f"cannot read {what}: it is damaged or incomplete; write it again.")


def _read_npy(file: str) -> np.ndarray:
    try:
        try:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        except ValueError:
            # An array without entries has no bytes to map; anything else fails here again.
            return np.load(file, allow_pickle=False)
    except _DAMAGED as error:
        raise _damage(f"'{file}'", error) from error


def _read_npz(file: str, name: str | None) -> np.ndarray:
    try:
        with zipfile.ZipFile(file) as archive:
            shapes = {
                member.removesuffix(".npy"): _member_shape(archive, member)
                for member in archive.namelist()
                if member.endswith(".npy")
            }
    except _DAMAGED as error:
        raise _damage(f"'{file}'", error) from error
    if not shapes:
        raise FileError(f"cannot read '{file}': it is a zip file without NumPy arrays.")
    listing = ", ".join(f"{member} {shape}" for member, shape in shapes.items())
    if name is None and len(shapes) > 1:
        raise FileError(
            f"cannot choose an array from '{file}', which holds {listing}: "
            f"name one as {file}::{next(iter(shapes))}."
        )
    if name is None:
        name = next(iter(shapes))
    name = name.removesuffix(".npy")
    if name not in shapes:
        raise FileError(f"cannot find '{name}' in '{file}', which holds {listing}.")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays[name]
    except _DAMAGED as error:
        raise _damage(f"'{name}' from '{file}'", error) from error


def _member_shape(archive: zipfile.ZipFile, member: str) -> str:
    """The shape of one array from its header alone, as text."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            return str(np.lib.format.read_array_header_1_0(stream)[0])
        if version == (2, 0):
            return str(np.lib.format.read_array_header_2_0(stream)[0])
    return "(shape unknown)"


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises now, before long work, if `write_ranking` could not write to `path`.

    **Raises:** `FileError` if the name ends in neither `.npz` nor `.csv`, the folder is missing or
    does not let files be made, or `path` is itself a folder.

    !!! example

        ```python
        check_writable("ranking.npz")  # fine, says nothing
        check_writable("ranking.txt")  # FileError: ... must end in .npz or .csv.
        ```
    """
    file = Path(path)
    if file.suffix.lower() not in _SUFFIXES:
        raise FileError(f"cannot write '{file}': the name must end in .npz or .csv.")
    check_folder(file.parent)
    try:
        is_folder = stat.S_ISDIR(file.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:  # a name too long, for one
        raise FileError(f"cannot write '{file}': {_reason(error)}.") from error
    if is_folder:
        raise FileError(f"cannot write '{file}': it is a folder.")


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raises `FileError` unless `folder` exists and a file can be made in it.

    !!! example

        ```python
        check_folder(".")
        ```
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileError(f"cannot write to '{folder}': there is no such folder.")
    if not folder.is_dir():
        raise FileError(f"cannot write to '{folder}': it is not a folder.")
    try:
        # Permission bits do not tell (superuser, read-only mounts, quotas); trying does.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileError(f"cannot write to '{folder}': {_reason(error)}.") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary stream whose content becomes the file `path` at the end, or not at all.

    A reader never sees half a file, and an older file stays until the new one is complete.

    **Raises:** `FileError` if the file cannot be written.

    !!! example

        ```python
        with replacing("results.json") as stream:
            stream.write(b"{}")
        ```
    """
    file = Path(path)
    # In the same folder, since only a rename within one file system is atomic; made by `open`, so
    # that the new file gets the permissions that any other would.
    # Not named after the file, whose name may be as long as names can be.
    temporary = file.with_name(f".topoprune.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        raise FileError(f"cannot write '{file}': {_reason(error)}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_ranking(path: str | os.PathLike[str], ranking: Ranking) -> None:
    """Writes a ranking as a `.npz` file or as a `.csv` table, all or nothing.

    Both hold, for every sample in the order of the features: `index` (its row), `score` (structural
    complexity), `rank` (its place in the order, 0 = best to keep) and `kept` (true, or 1 in the
    table). The `.npz` file also holds `order` (n,), best to keep first, and `embedding` (n, c).

    **Arguments:**

    - `path`: a name that ends in `.npz` or `.csv`; an existing file is replaced.
    - `ranking`: what `rank` returned.

    **Raises:** `FileError` if the file cannot be written.

    !!! example

        ```python
        ranking = topoprune_jax.rank(features, 0.9)
        write_ranking("ranking.npz", ranking)
        small = features[np.load("ranking.npz")["kept"]]
        ```
    """
    check_writable(path)
    order = np.asarray(ranking.order)
    scores = np.asarray(ranking.scores)
    index = np.arange(len(order), dtype=np.int32)
    places = np.empty_like(index)
    places[order] = index
    kept = np.zeros(len(order), dtype=bool)
    kept[np.asarray(ranking.kept)] = True
    with replacing(path) as stream:
        if Path(path).suffix.lower() == ".npz":
            np.savez(
                stream,
                index=index,
                score=scores,
                rank=places,
                kept=kept,
                order=order,
                embedding=np.asarray(ranking.embedding),
            )
        else:
            writer = csv.writer(codecs.getwriter("utf-8")(stream), lineterminator="\n")
            writer.writerow(["index", "score", "rank", "kept"])
            # As text NumPy gives the shortest number that reads back as the same one.
            text = scores.astype(str)
            writer.writerows(zip(index, text, places, kept.astype(np.int8), strict=True))
