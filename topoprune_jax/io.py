"""Reads features, labels and ids, writes rankings; says in one sentence what is wrong with a file.

Readable are `.npy`, `.npz`, `.parquet`, `.arrow`, `.feather`, `.safetensors`, `.h5` and `.csv`
files, and folders of shards of one of these types. The content tells the type, except that a table
of text has to be called `.csv` or `.tsv`. All but NumPy's own files and CSV need the extra `io`.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ._arrays import open_hdf5, open_npy, open_npz, open_safetensors
from ._arrow import open_arrow, open_parquet
from ._csv import open_csv, whole_numbers
from ._files import FileError as FileError
from ._files import check_folder as check_folder
from ._files import first_bytes, listing
from ._files import replacing as replacing
from ._ranking_files import RankingTable as RankingTable
from ._ranking_files import check_writable as check_writable
from ._ranking_files import decoded, ranking_from_json, ranking_from_source
from ._ranking_files import match_rankings as match_rankings
from ._ranking_files import write_ranking as write_ranking
from ._sources import Source, split

_MAGIC: tuple[tuple[bytes, Callable[[str], Source]], ...] = (
    (b"\x93NUMPY", open_npy),
    (b"PK", open_npz),
    (b"PAR1", open_parquet),
    (b"ARROW1", open_arrow),
    (b"\xff\xff\xff\xff", open_arrow),  # a stream, as Hugging Face saves its data sets
    (b"\x89HDF\r\n\x1a\n", open_hdf5),
)
_OLD_FEATHER = b"FEA1"
# Suffixes of one type stand for each other in a folder of shards.
_TYPES = {
    ".npy": ".npy",
    ".npz": ".npz",
    ".parquet": ".parquet",
    ".arrow": ".arrow",
    ".feather": ".arrow",
    ".safetensors": ".safetensors",
    ".h5": ".h5",
    ".hdf5": ".h5",
    ".csv": ".csv",
    ".tsv": ".csv",
}


@dataclass(frozen=True)
class Samples:
    """What `read_samples` found.

    **Attributes:**

    - `features`: (n, d) as the file has them; memory-mapped where they come from one `.npy` file.
    - `labels`: (n,) whole numbers or text, or None where none were asked for.
    - `ids`: (n,) whole numbers or text, or None where none were asked for.
    - `feature_names`: the array or the columns that the features are; empty for a `.npy` file,
        whose array has no name.
    """

    features: np.ndarray
    labels: np.ndarray | None
    ids: np.ndarray | None
    feature_names: tuple[str, ...]


def read_samples(
    features: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    ids: str | os.PathLike[str] | None = None,
    label_column: str | None = None,
    id_column: str | None = None,
) -> Samples:
    """Features with the labels and ids that go with them, from one file or several.

    Which part of a file is meant can be said as `PATH::NAME`. Unless it is said, an array or column
    is taken where only one can be meant: for features the only matrix of numbers, or the only one
    of floating-point numbers; for labels and ids the only vector. In a table without a column of
    lists the features are all its columns of numbers, but those for labels and ids; `PATH::f*`
    takes the columns that match a pattern.

    A CSV table may begin with the names of its columns: a first line of text, or numbers that count
    up from 0 as pandas writes them. Without names columns are called 0, 1, ... The index that
    pandas writes along is no feature, and a column called `label` or `id` among the numbers has to
    be named as what it is.

    A folder is read as shards: its files in the order of their names, 2 before 10, joined along
    the rows. Hidden files, those that begin with `_`, and those of other types are passed over.

    **Arguments:**

    - `features`: the file or folder with one row of numbers a sample.
    - `labels`, `ids`: the file or folder with one value a sample, in the order of the features.
    - `label_column`, `id_column`: instead, an array or column of the features' own file; in a table
        `struct.field` is one too.

    **Returns:** `Samples`. Nothing is checked of the features but that they are an array, since
    `rank` does that.

    **Raises:** `FileError` for a file that is missing, empty, damaged or of another type; for
    several arrays where one should be named (the message lists them); for columns with missing
    values, of text where numbers are needed, or of lists that differ in length; for shards that do
    not go together; and for labels or ids that are more or fewer than the features. ImportError
    where a library is missing that reads the file; the message says how to get it.

    !!! example

        ```python
        samples = read_samples("photos.parquet", label_column="label", id_column="filepath")
        ranking = topoprune_jax.rank(samples.features, 0.9, labels=samples.labels)
        write_ranking("ranking.csv", ranking, ids=samples.ids)
        ```
    """
    for file, column, role in ((labels, label_column, "label"), (ids, id_column, "id")):
        if file is not None and column is not None:
            raise FileError(
                f"cannot take {role}s both from '{file}' and from column '{column}' of "
                f"'{features}': leave one out."
            )
    path, name = split(os.fspath(features))
    sources = _open(path)
    vectors = [column for column in (label_column, id_column) if column is not None]
    chosen = _agreed([source.choose_features(name, vectors) for source in sources], sources)
    for source in sources:
        vectors = [source.find(column) for column in vectors]
    matrix, own = _read(sources, chosen, vectors)
    found = iter(own)
    label_values = next(found) if label_column is not None else None
    id_values = next(found) if id_column is not None else None
    label_hint = id_hint = ""
    if labels is not None:
        label_values, label_hint = _read_vector(labels, "labels")
    elif label_values is not None and not sources[0].is_typed:
        label_values = whole_numbers(label_values)
    if ids is not None:
        id_values, id_hint = _read_vector(ids, "ids")
    for role, values, file, hint in (
        ("labels", label_values, labels, label_hint),
        ("ids", id_values, ids, id_hint),
    ):
        if values is not None:
            n = len(matrix) if matrix.ndim > 0 else 0
            _check_length(role, values, file or features, hint, n, f"'{path}'")
    if id_values is not None:
        id_values = _checked_ids(id_values, ids or f"{path}::{id_column}")
    return Samples(matrix, label_values, id_values, tuple(filter(None, chosen)))


def read_array(path: str | os.PathLike[str], *, key: str | None = None) -> np.ndarray:
    """The array or column in a file; that of a `.npy` file is memory-mapped, not read into memory.

    The content tells the format, not the name. Pickled objects are never loaded, because loading
    a pickle can run code.

    **Arguments:**

    - `path`: the file, or a folder of shards. `PATH::NAME` names one array or column of it:
        `"features.npz::train_f"`; a pattern takes several columns of a table side by side.
    - `key`: the same name as an argument of its own. It may be left out where the file holds only
        one array or column.

    **Returns:** the array with the shape and dtype it has in the file.

    **Raises:** `FileError` for a file that is missing, empty, damaged, of another type, or that
    holds Python objects; and for a name that the file does not have, or several arrays and no name
    (the message lists the names with their shapes). ImportError where a library is missing that
    reads the file.

    !!! example

        ```python
        np.savez("features.npz", train_f=np.ones((5, 3)), test_f=np.ones((2, 3)))
        read_array("features.npz::train_f").shape  # (5, 3)
        ```
    """
    file, name = split(os.fspath(path))
    if key is not None and name is not None and key != name:
        raise FileError(f"cannot read '{file}': two arrays are named, '{name}' and '{key}'.")
    name = name if key is None else key
    sources = _open(file)
    chosen = _agreed([source.choose(name) for source in sources], sources)
    (first, *more) = chosen
    field = sources[0].fields[first]
    if more or first != (name or first) or not field.is_vector:
        return _read(sources, chosen, [])[0]
    _, (values,) = _read(sources, (), chosen)
    if sources[0].is_typed or field.kind != "f":
        return values
    numbers = whole_numbers(values)
    return numbers if numbers.dtype.kind == "i" else _read(sources, chosen, [])[0][:, 0]


def read_labels(path: str | os.PathLike[str], *, n: int) -> np.ndarray:
    """The (n,) labels in a file of their own, as `read_samples` reads them.

    **Raises:** `FileError` as `read_samples` does, and unless there are n of them.

    !!! example

        ```python
        read_labels("labels.csv", n=1000)
        ```
    """
    values, hint = _read_vector(path, "labels")
    _check_length("labels", values, path, hint, n, "the ranking")
    return values


def read_ranking(path: str | os.PathLike[str]) -> RankingTable:
    """A ranking that `write_ranking` or `topoprune rank` wrote.

    **Arguments:**

    - `path`: a `.npz`, `.csv`, `.parquet` or `.json` file. Its rows may be in another order than
        they were written in, as a spreadsheet leaves them.

    **Returns:** the `RankingTable`, in the order of `index`.

    **Raises:** `FileError` if the file cannot be read or holds no whole ranking.

    !!! example

        ```python
        write_ranking("ranking.csv", topoprune_jax.rank(features, 0.9))
        read_ranking("ranking.csv").n_kept  # 10 of 100
        ```
    """
    file = os.fspath(path)
    magic = first_bytes(file, 1)
    if magic == b"[":
        return ranking_from_json(file)
    try:
        return ranking_from_source(_open_file(file))
    except FileError as error:
        if Path(file).suffix.lower() == ".json":
            raise FileError(f"cannot read '{file}': it holds no list of samples.") from error
        raise


def _open(path: str) -> list[Source]:
    """A file, or the shards in a folder."""
    if not os.path.isdir(path):
        return [_open_file(path)]
    shards = [_open_file(str(shard)) for shard in _shards(Path(path))]
    for shard in shards:
        shard.folder = path
    return shards


def _open_file(file: str) -> Source:
    magic = first_bytes(file, 9)
    suffix = Path(file).suffix.lower()
    for start, opened in _MAGIC:
        if magic.startswith(start):
            return opened(file)
    if magic.startswith(_OLD_FEATHER):
        raise FileError(
            f"cannot read '{file}': it is a Feather file of version 1; write it again as .parquet."
        )
    # A safetensors file begins with the length of its header, which is JSON.
    if suffix == ".safetensors" or magic[8:9] == b"{":
        return open_safetensors(file)
    if _TYPES.get(suffix) == ".csv":
        return open_csv(file)
    if suffix in _TYPES:
        raise FileError(
            f"cannot read '{file}': its content is not that of a {suffix} file; it is damaged or "
            "has the wrong name."
        )
    raise FileError(
        f"cannot read '{file}': it is none of {', '.join(_TYPES)}; write one with numpy.save, for "
        "example."
    )


def _shards(folder: Path) -> list[Path]:
    """The files of a folder that are read, all of one type, in the order of their names."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: _natural(path.name))
    except OSError as error:
        raise FileError(f"cannot read '{folder}': {(error.strerror or '').lower()}.") from error
    files = [path for path in entries if path.name[0] not in "._" and path.is_file()]
    shards = [path for path in files if path.suffix.lower() in _TYPES]
    saved = folder / "state.json"
    if saved in files:
        # A saved data set of Hugging Face lists its files; others beside them are its caches.
        shards = _hugging_face_files(saved) or shards
    if not shards:
        inside = [
            f"'{path.name}'" for path in entries if path.is_dir() and path.name[0] not in "._"
        ]
        hint = f", but the folders {listing(inside)}: name one of them" if inside else ""
        raise FileError(f"cannot read '{folder}': it holds no file of {', '.join(_TYPES)}{hint}.")
    by_type = {_TYPES.get(path.suffix.lower(), ""): path.name for path in shards}
    if len(by_type) > 1:
        raise FileError(
            f"cannot read '{folder}' as shards: it holds files of several types, such as "
            f"{listing(list(by_type.values()))}; keep one type in it, or name one file."
        )
    return shards


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts numbers in names by their value."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _hugging_face_files(state: Path) -> list[Path]:
    try:
        listed = json.loads(state.read_bytes())["_data_files"]
        return [state.parent / entry["filename"] for entry in listed]
    except (ValueError, KeyError, TypeError, OSError):
        return []  # another program's file of that name


def _agreed(chosen: Sequence[tuple[str, ...]], sources: Sequence[Source]) -> tuple[str, ...]:
    """What was chosen in every shard, if it is the same."""
    for names, source in zip(chosen, sources, strict=True):
        if names != chosen[0]:
            raise FileError(
                f"cannot join '{source.file}' to '{sources[0].file}': its features are "
                f"{listing(list(names))}, there {listing(list(chosen[0]))}."
            )
    return chosen[0]


def _read(
    sources: Sequence[Source], features: Sequence[str], vectors: Sequence[str]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The features and other fields of all shards, each shard held only until it is copied."""
    if len(sources) == 1:
        matrix, values = sources[0].read(features, vectors)
        return np.empty(0) if matrix is None else matrix, values
    rows = [_rows(source, features) for source in sources]
    matrix, row = None, 0
    parts: list[list[np.ndarray]] = [[] for _ in vectors]
    blocks: list[np.ndarray] = []
    for source in sources:
        block, values = source.read(features, vectors)
        for done, part in zip(parts, values, strict=True):
            if done:
                _check_joins(part, done[0], source, sources[0])
            done.append(part)
        if block is None:
            continue
        if blocks:
            _check_joins(block, blocks[0], source, sources[0])
        if None in rows:
            blocks.append(block)
            continue
        if matrix is None:
            matrix = np.empty((sum(filter(None, rows)), *block.shape[1:]), block.dtype)
            blocks.append(matrix)
        if block.dtype != matrix.dtype:
            matrix = blocks[0] = matrix.astype(np.promote_types(matrix.dtype, block.dtype))
        matrix[row : row + len(block)] = block
        row += len(block)
    if matrix is None:
        matrix = np.concatenate(blocks) if blocks else np.empty(0)
    return matrix, [np.concatenate(done) for done in parts]


def _rows(source: Source, features: Sequence[str]) -> int | None:
    """How many rows a shard has, where that is known before it is read."""
    shape = source.fields[features[0]].shape if features else None
    return shape[0] if shape else None


def _check_joins(part: np.ndarray, first: np.ndarray, source: Source, other: Source) -> None:
    def fail(what: str) -> FileError:
        return FileError(f"cannot join '{source.file}' to '{other.file}': {what}.")

    if part.ndim == 0 or part.ndim != first.ndim:
        raise fail(f"its array has shape {part.shape}, the other {first.shape}")
    if part.shape[1:] != first.shape[1:]:
        raise fail(f"its rows have shape {part.shape[1:]}, the others {first.shape[1:]}")
    text = [array.dtype.kind in "US" for array in (part, first)]
    try:
        np.promote_types(part.dtype, first.dtype)
        joins = text[0] == text[1]
    except TypeError:
        joins = False
    if not joins:
        raise fail(f"it holds {part.dtype}, the other {first.dtype}")


def _read_vector(path: str | os.PathLike[str], role: str) -> tuple[np.ndarray, str]:
    """Labels or ids from a file of their own, and what may be wrong with their number."""
    file, name = split(os.fspath(path))
    sources = _open(file)
    chosen = _agreed([(source.choose_vector(name, role),) for source in sources], sources)
    _, (values,) = _read(sources, (), chosen)
    header = sources[0].header
    hint = "" if header is None else f" (its first line, '{header[:40]}', was taken for names)"
    if role == "labels" and not sources[0].is_typed:
        values = whole_numbers(values)
    return values, hint


def _check_length(
    role: str,
    values: np.ndarray,
    file: str | os.PathLike[str],
    hint: str,
    n: int,
    whole: str,
) -> None:
    if values.ndim != 1:
        raise FileError(
            f"cannot use '{file}' as {role}: it holds an array of shape {values.shape}, not one "
            "value a sample."
        )
    if len(values) != n:
        hint = hint if len(values) == n - 1 else ""
        raise FileError(
            f"cannot use '{file}' as {role}: it holds {len(values)} of them{hint} for the "
            f"{n} samples of {whole}."
        )


def _checked_ids(values: np.ndarray, what: object) -> np.ndarray:
    values = decoded(values, f"cannot use '{what}'")
    if values.dtype.kind not in "iuU":
        raise FileError(
            f"cannot use '{what}' as ids: they must be whole numbers or text; got {values.dtype}."
        )
    return values
