"""What every file shares: its errors, its first bytes, and writing it all or nothing."""

import contextlib
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

_LONGEST_LIST = 12
LEFT_OVER = ".topoprune.*.tmp"
"""What `replacing` leaves in a folder if the process is killed."""

# What NumPy's and zipfile's parsers raise on damaged bytes (found by feeding them such files).
DAMAGED = (
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


def reason(error: OSError) -> str:
    """What the system says, to follow a colon."""
    return (error.strerror or str(error)).lower().rstrip(".")


def damage(what: str, error: BaseException) -> FileError:
    """The `FileError` for what a parser raised while it read `what`."""
    if isinstance(error, MemoryError):
        return FileError(f"cannot read {what}: it is damaged or larger than the memory.")
    return FileError(f"cannot read {what}: it is damaged or incomplete; write it again.")


def listing(names: list[str]) -> str:
    """Names for a sentence, the first dozen where there are many."""
    shown = ", ".join(names[:_LONGEST_LIST])
    more = len(names) - _LONGEST_LIST
    return f"{shown} and {more} more" if more > 0 else shown


def first_bytes(file: str, count: int) -> bytes:
    """The first bytes of a regular file that is not empty; anything else is a `FileError`."""
    try:
        mode = os.stat(file).st_mode
        # Opening a named pipe would wait for a writer that may never come.
        if not stat.S_ISREG(mode):
            kind = "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file"
            raise FileError(f"cannot read '{file}': {kind}.")
        with open(file, "rb") as stream:
            magic = stream.read(count)
    except FileError:
        raise
    except FileNotFoundError as error:
        raise FileError(f"cannot read '{file}': there is no such file.") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise FileError(f"cannot read '{file}': {why}.") from error
    if not magic:
        raise FileError(f"cannot read '{file}': the file is empty.")
    return magic


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
        raise FileError(f"cannot write to '{folder}': {reason(error)}.") from error


def check_place(path: str | os.PathLike[str], suffixes: tuple[str, ...]) -> None:
    """Raises `FileError` unless a file of one of these types could be written at `path`."""
    file = Path(path)
    if file.suffix.lower() not in suffixes:
        *others, last = suffixes
        allowed = f"{', '.join(others)} or {last}" if others else last
        raise FileError(f"cannot write '{file}': the name must end in {allowed}.")
    check_folder(file.parent)
    try:
        is_folder = stat.S_ISDIR(file.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:  # a name too long, for one
        raise FileError(f"cannot write '{file}': {reason(error)}.") from error
    if is_folder:
        raise FileError(f"cannot write '{file}': it is a folder.")


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
        raise FileError(f"cannot write '{file}': {reason(error)}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
