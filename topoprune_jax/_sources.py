"""A file of features seen as named arrays or columns, and the choice among them."""

import abc
import fnmatch
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ._files import FileError, listing

TEXT = "text"
MIXED = "mixed"
OTHER = "other"
_NUMBERS = ("f", "i", "u")
# Columns that a table's features would hide among them.
_NO_FEATURES = {
    "label", "labels", "label_id", "class", "class_id", "target", "targets",
    "id", "ids", "sample_id", "index", "idx", "row",
}  # fmt: skip
# How pandas names the index that it writes along.
_PANDAS_INDEX = ("", "__index_level_0__")


@dataclass(frozen=True)
class Field:
    """What is known of an array or column before it is read.

    `shape` has None where only reading tells, and is None as a whole where nothing tells. `kind` is
    NumPy's letter for numbers ("f", "i", "u", "b"), or one of TEXT, MIXED (text and numbers) and
    OTHER.
    """

    shape: tuple[int | None, ...] | None
    kind: str

    def __str__(self) -> str:
        if self.shape is None:
            return "(shape unknown)"
        sizes = ["?" if size is None else str(size) for size in self.shape]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    @property
    def is_matrix(self) -> bool:
        """Whether it is one row of numbers a sample."""
        return self.shape is not None and len(self.shape) == 2 and self.kind in _NUMBERS

    @property
    def is_vector(self) -> bool:
        """Whether it is one value a sample."""
        return self.shape is not None and len(self.shape) == 1


def kind_of(dtype: np.dtype) -> str:
    """The kind of a `Field` with this dtype."""
    if dtype.kind in "fiub":
        return dtype.kind
    return TEXT if dtype.kind in "US" else OTHER


class Source(abc.ABC):
    """One file whose arrays or columns can be looked at before any is read.

    `is_table` is true where the fields are columns with one row a sample; `is_typed` is false where
    everything is text, as in CSV; `header` is the line that was taken for names of columns, and
    `folder` that of a shard.
    """

    file: str
    word: str
    fields: Mapping[str, Field]
    is_table = False
    is_typed = True
    header: str | None = None
    folder: str | None = None

    @property
    def address(self) -> str:
        """What the user named: the file, or the folder of which it is a shard."""
        return self.file if self.folder is None else self.folder

    @abc.abstractmethod
    def read(
        self, features: Sequence[str], vectors: Sequence[str]
    ) -> tuple[np.ndarray | None, list[np.ndarray]]:
        """The features, one field or several columns side by side, and other fields one by one."""

    def listing(self) -> str:
        """The names with their shapes, for a sentence."""
        entries = []
        for name, field in self.fields.items():
            if not (self.is_table and field.is_vector):
                entries.append(f"{name} {field}")
            else:
                entries.append(f"{name} (text)" if field.kind == TEXT else name)
        return listing(entries)

    def find(self, name: str) -> str:
        """`name` itself if the file has it."""
        if name in self.fields:
            return name
        raise FileError(f"cannot find '{name}' in '{self.file}', which holds {self.listing()}.")

    def choose(self, name: str | None) -> tuple[str, ...]:
        """The field called `name`, the columns that match it as a pattern, or the only field."""
        if name is not None:
            return self._named(name, ())
        if len(self.fields) == 1:
            return tuple(self.fields)
        raise self._cannot_choose("", list(self.fields))

    def choose_features(self, name: str | None, taken: Sequence[str]) -> tuple[str, ...]:
        """The field or the columns that are the features, `taken` columns apart."""
        if name is not None:
            return self._named(name, taken)
        free = {key: field for key, field in self.fields.items() if key not in taken}
        if len(free) == 1 and not self.is_table:
            return tuple(free)
        matrices = [key for key, field in free.items() if field.is_matrix]
        if len(matrices) > 1:
            # Token ids and masks are matrices of whole numbers.
            matrices = [key for key in matrices if free[key].kind == "f"] or matrices
        if len(matrices) == 1:
            return (matrices[0],)
        if matrices or not self.is_table:
            raise self._cannot_choose(" of features", matrices or list(free))
        return self._columns_of_numbers(free)

    def choose_vector(self, name: str | None, role: str) -> str:
        """The field with one value a sample that holds the labels or ids."""
        if name is not None:
            return self.find(name)
        if len(self.fields) == 1:
            return next(iter(self.fields))
        vectors = [key for key, field in self.fields.items() if field.is_vector]
        if len(vectors) == 1:
            return vectors[0]
        raise self._cannot_choose(f" of {role}", vectors or list(self.fields))

    def _named(self, name: str, taken: Sequence[str]) -> tuple[str, ...]:
        if name in self.fields or not self.is_table or not set(name) & set("*?["):
            return (self.find(name),)
        matching = {
            key: field
            for key, field in self.fields.items()
            if fnmatch.fnmatchcase(key, name)
            and key not in taken
            and key not in _PANDAS_INDEX
            and field.is_vector
        }
        return self._numeric(matching, f"no column of numbers matches '{name}' in '{self.file}'")

    def _columns_of_numbers(self, free: Mapping[str, Field]) -> tuple[str, ...]:
        free = {
            key: field
            for key, field in free.items()
            if field.is_vector and key not in _PANDAS_INDEX
        }
        chosen = self._numeric(free, f"cannot find features in '{self.file}'")
        # Points of a plane have a y that is no label.
        no_features = _NO_FEATURES | (set() if "x" in chosen else {"y"})
        for key in chosen:
            if key.lower() in no_features:
                raise FileError(
                    f"cannot tell whether column '{key}' of '{self.file}' is a feature: name it as "
                    f"the label or id column, or name the features by a pattern, as "
                    f"{self.address}::f* or {self.address}::* for all."
                )
        return chosen

    def _numeric(self, fields: Mapping[str, Field], none: str) -> tuple[str, ...]:
        for key, field in fields.items():
            if field.kind == MIXED:
                raise FileError(
                    f"cannot use column '{key}' of '{self.file}' as a feature: it holds text beside"
                    f" numbers; mend it, or name the features as {self.address}::PATTERN."
                )
        chosen = tuple(key for key, field in fields.items() if field.kind in (*_NUMBERS, "b"))
        if not chosen:
            raise FileError(f"{none}, which holds {self.listing()}.")
        return chosen

    def _cannot_choose(self, role: str, candidates: list[str]) -> FileError:
        # Only features can be several columns.
        some = self.is_table and role in ("", " of features")
        several = f", or several as {self.address}::PATTERN" if some else ""
        example = candidates[0] if candidates else "NAME"
        article = "an" if self.word[0] in "aeiou" else "a"
        return FileError(
            f"cannot choose {article} {self.word}{role} from '{self.file}', which holds "
            f"{self.listing()}: name one as {self.address}::{example}{several}."
        )


class ArraySource(Source):
    """A file of arrays that are read one at a time."""

    def __init__(
        self,
        file: str,
        word: str,
        fields: Mapping[str, Field],
        load: Callable[[str], np.ndarray],
    ):
        self.file, self.word, self.fields, self._load = file, word, dict(fields), load

    def read(
        self, features: Sequence[str], vectors: Sequence[str]
    ) -> tuple[np.ndarray | None, list[np.ndarray]]:
        """The array called `features[0]`, if any, and those called `vectors`."""
        matrix = self._load(features[0]) if features else None
        return matrix, [self._load(name) for name in vectors]


def split(text: str) -> tuple[str, str | None]:
    """`PATH::NAME` as (PATH, NAME); a file that really has `::` in its name stays whole."""
    if "::" not in text or os.path.exists(text):
        return text, None
    file, _, name = text.rpartition("::")
    if not file or not name:
        raise FileError(f"cannot read '{text}': name the array as PATH::NAME.")
    return file, name
