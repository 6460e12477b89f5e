"""Rankings as files: written all or nothing, read back whole, and matched sample by sample."""

import codecs
import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._arrow import pyarrow
from ._files import FileError, check_place, reason, replacing
from ._rank import Ranking
from ._sources import Source
from .baselines import Pruning

_SUFFIXES = (".npz", ".csv", ".parquet", ".json")
_COLUMNS = ("index", "score", "rank", "kept")
_MORE = (
    "embedding",
    "manifold",
    "beta",
    "agreement_power",
    "recall",
)  # of a `Ranking`, not of a `Pruning`
_TRUTH = {"1": True, "0": False, "True": True, "False": False, "true": True, "false": False}


@dataclass(frozen=True)
class RankingTable:
    """A ranking as its file tells it, in the order of the ranked features.

    **Attributes:**

    - `file`: where it was read from.
    - `ids`: (n,) text, or None where the ranking was written without ids.
    - `scores`: (n,) structural complexity.
    - `order`: (n,) every sample once, the best to keep first.
    - `n_kept`: m, how many the file keeps: the first m of `order`.
    """

    file: str
    ids: np.ndarray | None
    scores: np.ndarray
    order: np.ndarray
    n_kept: int


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises now, before long work, if `write_ranking` could not write to `path`.

    **Raises:** `FileError` if the name ends in none of `.npz`, `.csv`, `.parquet` and `.json`, the
    folder is missing or does not let files be made, or `path` is itself a folder; ImportError if it
    is a `.parquet` file and pyarrow is missing.

    !!! example

        ```python
        check_writable("ranking.npz")  # fine, says nothing
        check_writable("ranking.txt")  # FileError: ... must end in .npz, .csv, .parquet or .json.
        ```
    """
    check_place(path, _SUFFIXES)
    if Path(path).suffix.lower() == ".parquet":
        pyarrow("writing .parquet")


def write_ranking(
    path: str | os.PathLike[str],
    ranking: Ranking | Pruning,
    *,
    ids: Sequence[Any] | np.ndarray | None = None,
) -> None:
    """Writes a ranking as a `.npz` or `.parquet` file, a `.csv` table or `.json`, all or nothing.

    All hold, for every sample in the order of the features: `index` (its row), `id` if ids are
    given, `score` (structural complexity), `rank` (its place in the order, 0 = best to keep) and
    `kept` (true, or 1 in CSV). `.npz` also holds `order` (n,), best to keep first. Of what `rank`
    returned `.npz` and `.parquet` also hold `embedding` (n, c), `.npz` also `manifold` (n, e) and
    the numbers `beta`, `agreement_power` and `recall`. JSON is a list with one object a sample.

    **Arguments:**

    - `path`: a name that ends in one of the four; an existing file is replaced.
    - `ranking`: what `rank` or one of `baselines` returned.
    - `ids`: (n,) the user's own names of the samples, whole numbers or text, as bytes in UTF-8 too.

    **Raises:** `FileError` if the file cannot be written or the ids are not one a sample; TypeError
    for anything but a ranking.

    !!! example

        ```python
        ranking = topoprune_jax.rank(features, 0.9)
        write_ranking("ranking.npz", ranking)
        small = features[np.load("ranking.npz")["kept"]]
        ```
    """
    check_writable(path)
    if not isinstance(ranking, Ranking | Pruning):
        raise TypeError(
            f"`ranking` must be a Ranking or a Pruning; got {type(ranking).__name__}. "
            "Pass what `rank` or one of `baselines` returned."
        )
    order = np.asarray(ranking.order)
    index = np.arange(len(order), dtype=np.int32)
    places = np.empty_like(index)
    places[order] = index
    kept = np.zeros(len(order), dtype=bool)
    kept[np.asarray(ranking.kept)] = True
    columns = {"index": index}
    if ids is not None:
        names = decoded(np.asarray(ids), f"cannot write '{path}'")
        names = names.astype(str) if names.dtype.kind not in "iu" else names
        if names.shape != index.shape:
            raise FileError(
                f"cannot write '{path}': ids must have shape {index.shape}, one a sample; got "
                f"{names.shape}."
            )
        columns["id"] = names
    columns |= {"score": np.asarray(ranking.scores), "rank": places, "kept": kept}
    more = {name: np.asarray(getattr(ranking, name)) for name in _MORE if hasattr(ranking, name)}
    suffix = Path(path).suffix.lower()
    with replacing(path) as stream:
        if suffix == ".npz":
            np.savez(stream, allow_pickle=False, order=order, **more, **columns)
        elif suffix == ".parquet":
            pa = pyarrow("writing .parquet")
            arrays = {name: pa.array(values) for name, values in columns.items()}
            if "embedding" in more:
                z = more["embedding"]
                lists = pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), z.shape[1])
                arrays["embedding"] = lists
            pa.parquet.write_table(pa.table(arrays), stream)
        elif suffix == ".csv":
            writer = csv.writer(codecs.getwriter("utf-8")(stream), lineterminator="\n")
            writer.writerow(columns)
            # As text NumPy gives the shortest number that reads back as the same one.
            columns |= {"score": columns["score"].astype(str), "kept": kept.astype(np.int8)}
            writer.writerows(zip(*columns.values(), strict=True))
        else:
            scores = columns["score"].astype(str).astype(np.float64)
            rows = zip(*(v.tolist() for v in (columns | {"score": scores}).values()), strict=True)
            objects = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
            stream.write(("[" + ",\n".join(objects) + "]\n").encode())


def decoded(ids: np.ndarray, failure: str) -> np.ndarray:
    """Ids of bytes as text, others as they are."""
    if ids.dtype.kind != "S":
        return ids
    try:
        return np.strings.decode(ids, "utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{failure}: its ids are not text in UTF-8.") from error


def ranking_from_json(file: str) -> RankingTable:
    """The ranking in a `.json` file."""
    try:
        rows = json.loads(Path(file).read_bytes())
    except OSError as error:
        raise FileError(f"cannot read '{file}': {reason(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"cannot read '{file}': it is damaged or incomplete.") from error
    try:
        columns = {name: np.array([row[name] for row in rows]) for name in _COLUMNS}
        has_ids = bool(rows) and "id" in rows[0]
        ids = np.array([str(row["id"]) for row in rows]) if has_ids else None
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise _no_ranking(file, f"every sample needs {', '.join(_COLUMNS)}") from error
    return _table(file, columns, ids)


def ranking_from_source(source: Source) -> RankingTable:
    """The ranking in a `.npz`, `.csv` or `.parquet` file."""
    missing = [name for name in _COLUMNS if name not in source.fields]
    if missing:
        raise _no_ranking(source.file, f"it lacks {', '.join(missing)}")
    names = [*_COLUMNS, *(["id"] if "id" in source.fields else [])]
    _, values = source.read((), names)
    columns = dict(zip(names, values, strict=True))
    ids = columns.pop("id", None)
    if ids is not None:
        ids = decoded(ids, f"cannot read '{source.file}'").astype(str)
    return _table(source.file, columns, ids)


def _table(file: str, columns: dict[str, np.ndarray], ids: np.ndarray | None) -> RankingTable:
    """Checked columns in the order of `index`."""
    n = len(columns["index"])
    if n == 0:
        raise _no_ranking(file, "it has no samples")
    try:
        index, rank = (_whole(columns[name]) for name in ("index", "rank"))
        scores = columns["score"].astype(np.float64)
        kept = np.array([_TRUTH[str(value)] for value in columns["kept"].tolist()])
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise _no_ranking(file, "its columns hold other things than numbers") from error
    shapes = {array.shape for array in (index, rank, scores, kept, *([] if ids is None else [ids]))}
    if shapes != {(n,)}:
        raise _no_ranking(file, "its columns differ in length")
    for name, values in (("index", index), ("rank", rank)):
        if (np.sort(values) != np.arange(n)).any():
            raise _no_ranking(file, f"its {name} does not go from 0 to {n - 1}; rows are missing")
    n_kept = int(kept.sum())
    if (kept != (rank < n_kept)).any() or n_kept == 0:
        raise _no_ranking(file, "what it keeps is not the first of its order")
    by_index = np.argsort(index)
    order = np.argsort(rank[by_index]).astype(np.int32)
    return RankingTable(
        file, None if ids is None else ids[by_index], scores[by_index], order, n_kept
    )


def _whole(values: np.ndarray) -> np.ndarray:
    numbers = values.astype(np.float64)
    whole = numbers.astype(np.int64)
    if (whole != numbers).any():
        raise ValueError("fractions")
    return whole


def _no_ranking(file: str, why: str) -> FileError:
    return FileError(
        f"cannot read '{file}' as a ranking: {why}; it must be a file that `topoprune rank` wrote."
    )


def match_rankings(a: RankingTable, b: RankingTable) -> RankingTable:
    """`b` with its samples numbered as in `a`: by id where both have ids, else by index.

    **Raises:** `FileError` if they do not rank the same samples, or an id stands for several.

    !!! example

        ```python
        a, b = read_ranking("one.csv"), read_ranking("two.npz")
        compare_rankings(a.order, match_rankings(a, b).order)
        ```
    """

    def fail(why: str) -> FileError:
        return FileError(f"cannot compare '{a.file}' and '{b.file}': {why}.")

    n_a, n_b = len(a.order), len(b.order)
    if a.ids is None or b.ids is None:
        if n_a != n_b:
            raise fail(
                f"they rank different samples, {n_a:,} and {n_b:,}, and not both have ids to match"
            )
        return b
    places = []
    for table in (a, b):
        ids = (table.ids if table.ids is not None else np.empty(0)).tolist()
        rows = {name: row for row, name in enumerate(ids)}
        if len(rows) < len(ids):
            twice = next(name for row, name in enumerate(ids) if rows[name] != row)
            raise fail(f"'{table.file}' has the id '{twice}' for more than one sample")
        places.append(rows)
    rows_a, rows_b = places
    if rows_a.keys() != rows_b.keys():
        only_a, only_b = rows_a.keys() - rows_b.keys(), rows_b.keys() - rows_a.keys()
        example = min(only_a or only_b)
        raise fail(
            f"they rank different samples, {len(only_a):,} only in the first and {len(only_b):,} "
            f"only in the second, such as the id '{example}'"
        )
    # Row in a of every row of b.
    new = np.array([rows_a[name] for name in rows_b])
    scores = np.empty_like(b.scores)
    scores[new] = b.scores
    return RankingTable(b.file, a.ids, scores, new[b.order].astype(np.int32), b.n_kept)
