"""Tables of text: CSV with or without a header, separated by commas, semicolons or tabs."""

import contextlib
import csv
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ._files import FileError, reason
from ._sources import MIXED, OTHER, TEXT, Field, Source

_BLOCK = 2048
_DELIMITERS = ",;\t"
_WHOLE = re.compile(r"[+-]?\d+")

Row = tuple[int, list[str]]


def open_csv(file: str) -> Source:
    """The columns of a text table; the first 2,048 rows tell which hold numbers."""
    return _Csv(file)


def whole_numbers(values: np.ndarray) -> np.ndarray:
    """Text as int64 where every entry is a whole number, else as it is."""
    if all(_WHOLE.fullmatch(value) for value in values.tolist()):
        with contextlib.suppress(OverflowError):
            return values.astype(np.int64)
    return values


class _Csv(Source):
    word = "column"
    is_table = True
    is_typed = False

    def __init__(self, file: str):
        self.file = file
        with self._rows() as rows:
            sample = list(itertools.islice(rows, _BLOCK + 1))
        if not sample:
            raise FileError(f"cannot read '{file}': it has no rows.")
        self._has_header = self._is_header([cells for _, cells in sample[:2]])
        first = sample[0][1]
        names = [cell.strip() for cell in first] if self._has_header else []
        self._names = names or [str(i) for i in range(len(first))]
        self.header = self._delimiter.join(names) if self._has_header else None
        named = [name for name in self._names if name]
        if len(set(named)) < len(named):
            twice = next(name for name in named if named.count(name) > 1)
            raise FileError(f"cannot read '{file}': two columns are named '{twice}'.")
        columns = zip(*(self._checked(row)[1] for row in sample[self._has_header :]), strict=True)
        kinds = [_kind(cells) for cells in columns] or [OTHER] * len(self._names)
        fields: dict[str, Field] = {}
        for name, kind in zip(self._names, kinds, strict=True):
            fields.setdefault(name, Field((None,), kind))
        self.fields: Mapping[str, Field] = fields

    def _is_header(self, rows: list[list[str]]) -> bool:
        """Whether the first row names the columns: text, or the numbers that pandas counts up."""
        first = [cell.strip() for cell in rows[0]]
        numbers = [cell for cell in first if _is_number(cell)]
        counted = any(numbers == [str(i + k) for i in range(len(numbers))] for k in (0, 1))
        if len(numbers) < len(first):
            if numbers and not counted:
                raise FileError(
                    f"cannot read '{self.file}': its first line mixes names and numbers; put a line"
                    " with the names of the columns above it."
                )
            return True
        second = rows[1] if len(rows) > 1 else []
        fractions = any(not _WHOLE.fullmatch(cell.strip()) for cell in second)
        return counted and (len(first) > 2 or (len(first) == 2 and fractions))

    @contextlib.contextmanager
    def _rows(self) -> Iterator[Iterator[Row]]:
        """Line numbers and cells of every row, the header too; blank lines only at the end."""
        try:
            # utf-8-sig: Excel begins its CSV with a byte-order mark.
            with open(self.file, encoding="utf-8-sig", newline="") as stream:
                self._delimiter = _delimiter(stream.readline())
                stream.seek(0)
                reader = csv.reader(stream, delimiter=self._delimiter, strict=True)
                yield self._without_blank(reader)
        except UnicodeDecodeError as error:
            raise FileError(f"cannot read '{self.file}': it is not text in UTF-8.") from error
        except csv.Error as error:
            raise FileError(f"cannot read '{self.file}': it is no CSV table, {error}.") from error
        except FileError:
            raise
        except OSError as error:
            raise FileError(f"cannot read '{self.file}': {reason(error)}.") from error

    def _without_blank(self, reader: Any) -> Iterator[Row]:
        blank = None
        for cells in reader:
            if not cells:
                blank = blank or reader.line_num
            elif blank is not None:
                raise FileError(f"cannot read '{self.file}': line {blank} is blank.")
            else:
                yield reader.line_num, cells

    def _checked(self, row: Row) -> Row:
        if len(row[1]) != len(self._names):
            raise FileError(
                f"cannot read '{self.file}': line {row[0]} has {len(row[1])} columns, the first "
                f"line {len(self._names)}."
            )
        return row

    def read(
        self, features: Sequence[str], vectors: Sequence[str]
    ) -> tuple[np.ndarray | None, list[np.ndarray]]:
        """Columns of numbers as a float64 matrix, and other columns as text."""
        places = [self._names.index(name) for name in features]
        others = [self._names.index(name) for name in vectors]
        blocks: list[np.ndarray] = []
        texts: list[list[str]] = [[] for _ in others]
        with self._rows() as rows:
            body = itertools.islice(rows, int(self._has_header), None)
            while block := [self._checked(row) for row in itertools.islice(body, _BLOCK)]:
                if places:
                    blocks.append(self._numbers(block, places))
                for place, text in zip(others, texts, strict=True):
                    text.extend(self._text(block, place))
        matrix = np.concatenate(blocks) if blocks else np.empty((0, len(places)))
        strings = [np.array(text, dtype=str) for text in texts]
        return (matrix if places else None), strings

    def _numbers(self, block: list[Row], places: list[int]) -> np.ndarray:
        cells = itertools.chain.from_iterable([row[i] for i in places] for _, row in block)
        try:
            values = np.fromiter(map(float, cells), np.float64, len(block) * len(places))
        except ValueError as error:
            line, place, cell = next(
                (line, i, row[i]) for line, row in block for i in places if not _is_number(row[i])
            )
            got = f"'{cell}' is not a number" if cell.strip() else "a number is missing"
            raise FileError(
                f"cannot use column '{self._names[place]}' of '{self.file}' as features: {got} in "
                f"line {line}."
            ) from error
        return values.reshape(len(block), len(places))

    def _text(self, block: list[Row], place: int) -> list[str]:
        for line, row in block:
            if not row[place].strip():
                raise FileError(
                    f"cannot use column '{self._names[place]}' of '{self.file}': line {line} has "
                    "no value; fill it in or drop the row."
                )
        return [row[place].strip() for _, row in block]


def _delimiter(line: str) -> str:
    """The separator that cuts the first line into most cells."""
    counts = [len(next(csv.reader([line], delimiter=mark), [])) for mark in _DELIMITERS]
    return _DELIMITERS[counts.index(max(counts))]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _kind(cells: Sequence[str]) -> str:
    """What a column holds; entries that are missing say nothing."""
    numbers = {_is_number(cell) for cell in cells if cell.strip()}
    if len(numbers) == 2:
        return MIXED
    return OTHER if not numbers else "f" if numbers.pop() else TEXT
