"""Tables that pyarrow reads: Parquet, Arrow and Feather."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._files import DAMAGED, FileError, damage
from ._sources import OTHER, TEXT, Field, Source


def open_parquet(file: str) -> Source:
    """The columns of a Parquet file, read a batch of rows at a time."""
    return _Parquet(file)


def open_arrow(file: str) -> Source:
    """The columns of an Arrow or Feather file or stream, memory-mapped."""
    return _Arrow(file)


def pyarrow(kind: str) -> Any:
    """The module, or an ImportError that says how to get it for files of this kind."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"{kind} needs pyarrow; install it with: pip install 'topoprune-jax[io]'"
        ) from error
    return pyarrow


class _Table(Source):
    """Columns of a schema; fields inside structs are columns too, as `struct.field`."""

    word = "column"
    is_table = True

    def __init__(self, file: str):
        self.file = file
        self._pa = pyarrow(f"reading {Path(file).suffix or 'Arrow tables'}")
        self._damaged = (*DAMAGED, self._pa.ArrowException, IndexError)
        self._columns: dict[str, tuple[tuple[str, ...], Any]] = {}
        try:
            schema, self._n = self._open()
            if len(set(schema.names)) < len(schema.names):
                raise FileError(f"cannot read '{file}': two of its columns have the same name.")
            for entry in schema:
                self._add((entry.name,), entry.type)
            self.fields: Mapping[str, Field] = {
                name: self._field(self._n, kind) for name, (_, kind) in self._columns.items()
            }
        except FileError:
            raise
        except self._damaged as error:
            raise damage(f"'{file}'", error) from error
        if not self.fields:
            raise FileError(f"cannot read '{file}': it holds no columns.")

    def _open(self) -> tuple[Any, int]:
        """The schema and the number of rows."""
        raise NotImplementedError

    def _batches(self, names: Sequence[str]) -> Iterator[Any]:
        """Record batches that hold at least these columns."""
        raise NotImplementedError

    def _add(self, path: tuple[str, ...], kind: Any) -> None:
        if self._pa.types.is_struct(kind):
            for i in range(kind.num_fields):
                self._add((*path, kind.field(i).name), kind.field(i).type)
        else:
            self._columns.setdefault(".".join(path), (path, kind))

    def _field(self, n: int, kind: Any) -> Field:
        types = self._pa.types
        if isinstance(kind, self._pa.FixedShapeTensorType):
            return Field((n, *kind.shape), self._letter(kind.value_type))
        if types.is_fixed_size_list(kind):
            return Field((n, kind.list_size), self._letter(kind.value_type))
        if self._is_list(kind):
            return Field((n, None), self._letter(kind.value_type))
        return Field((n,), self._letter(kind))

    def _is_list(self, kind: Any) -> bool:
        types = self._pa.types
        return (
            types.is_list(kind)
            or types.is_large_list(kind)
            or types.is_fixed_size_list(kind)
            or types.is_list_view(kind)
            or types.is_large_list_view(kind)
        )

    def _letter(self, kind: Any) -> str:
        types = self._pa.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_floating(kind):
            return "f"
        if types.is_unsigned_integer(kind):
            return "u"
        if types.is_integer(kind):
            return "i"
        if types.is_boolean(kind):
            return "b"
        is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        return TEXT if is_text else OTHER

    def read(
        self, features: Sequence[str], vectors: Sequence[str]
    ) -> tuple[np.ndarray | None, list[np.ndarray]]:
        """One column of lists or several of numbers as a matrix, and other columns."""
        names = [*dict.fromkeys([*features, *vectors])]
        n = self._n
        matrix, parts, row = None, {name: [] for name in vectors}, 0
        try:
            for batch in self._batches(names):
                arrays = {name: self._column(batch, name) for name in names}
                if features:
                    block: Any = self._matrix(features, arrays, row)
                    if matrix is None:
                        matrix = np.empty((n, *block.shape[1:]), block.dtype)
                    if block.shape[1:] != matrix.shape[1:]:
                        raise self._ragged(features[0], row, block.shape[-1], matrix.shape[-1])
                    matrix[row : row + len(block)] = block
                for name in vectors:
                    parts[name].append(self._vector(name, arrays[name], row))
                row += batch.num_rows
        except FileError:
            raise
        except self._damaged as error:
            raise damage(f"'{self.file}'", error) from error
        if features and matrix is None:
            width = len(features) if len(features) > 1 else 0
            matrix = np.empty((0, width), np.float32)
        empty = [np.empty(0, np.int64)]
        return matrix, [np.concatenate(parts[name] or empty) for name in vectors]

    def _column(self, batch: Any, name: str) -> Any:
        path, kind = self._columns[name]
        array = batch.column(batch.schema.get_field_index(path[0]))
        if len(path) > 1:
            array = self._pa.compute.struct_field(array, list(path[1:]))
        if self._pa.types.is_dictionary(kind):
            array = array.dictionary_decode()
        return array

    def _matrix(self, features: Sequence[str], arrays: Mapping[str, Any], row: int) -> np.ndarray:
        if len(features) == 1 and not self.fields[features[0]].is_vector:
            return self._lists(features[0], arrays[features[0]], row)
        columns = [self._numbers(name, arrays[name], row) for name in features]
        return np.stack(columns, axis=1, dtype=np.result_type(*columns))

    def _lists(self, name: str, array: Any, row: int) -> np.ndarray:
        """A column of lists of equal length as a matrix."""
        shape = self.fields[name].shape or ()
        if isinstance(array, self._pa.ExtensionArray):
            array = array.storage
        if self.fields[name].kind in (OTHER, TEXT):
            raise FileError(
                f"cannot use column '{name}' of '{self.file}' as features: it holds lists of "
                f"{array.type.value_type}, not of numbers."
            )
        self._check_whole(name, array, row)
        lengths = np.asarray(self._pa.compute.list_value_length(array))
        if len(lengths) and (lengths != lengths[0]).any():
            odd = int(np.argmax(lengths != lengths[0]))
            raise self._ragged(name, row + odd, lengths[odd], lengths[0])
        values = array.flatten()
        width = int(lengths[0]) if len(lengths) else 0
        if values.null_count:
            first = int(np.argmax(np.asarray(values.is_null())))
            raise self._missing(name, row + first // max(1, width))
        matrix = values.to_numpy(zero_copy_only=False).reshape(len(array), width)
        return matrix.reshape(len(array), *shape[1:]) if len(shape) > 2 else matrix

    def _numbers(self, name: str, array: Any, row: int) -> np.ndarray:
        if self.fields[name].kind in (OTHER, TEXT):
            raise FileError(
                f"cannot use column '{name}' of '{self.file}' as features: it holds {array.type}, "
                "not numbers."
            )
        self._check_whole(name, array, row)
        return array.to_numpy(zero_copy_only=False)

    def _vector(self, name: str, array: Any, row: int) -> np.ndarray:
        field = self.fields[name]
        if not field.is_vector:
            raise FileError(
                f"cannot use column '{name}' of '{self.file}': it holds lists, not one value a row."
            )
        self._check_whole(name, array, row)
        if field.kind == OTHER:
            try:
                array = array.cast(self._pa.string())
            except self._damaged as error:
                raise FileError(
                    f"cannot use column '{name}' of '{self.file}': it holds {array.type}, neither "
                    "numbers nor text."
                ) from error
        values = array.to_numpy(zero_copy_only=False)
        return values.astype(str) if field.kind in (OTHER, TEXT) else values

    def _check_whole(self, name: str, array: Any, row: int) -> None:
        if array.null_count:
            raise self._missing(name, row + int(np.argmax(np.asarray(array.is_null()))))

    def _missing(self, name: str, row: int) -> FileError:
        return FileError(
            f"cannot use column '{name}' of '{self.file}': row {row} has no value; fill it in or "
            "drop the row."
        )

    def _ragged(self, name: str, row: int, got: int, expected: int) -> FileError:
        return FileError(
            f"cannot use column '{name}' of '{self.file}' as features: its lists differ in length, "
            f"{got} in row {row} and {expected} before."
        )


class _Parquet(_Table):
    def _open(self) -> tuple[Any, int]:
        with self._pa.parquet.ParquetFile(self.file) as parquet:
            return parquet.schema_arrow, parquet.metadata.num_rows

    def _batches(self, names: Sequence[str]) -> Iterator[Any]:
        with self._pa.parquet.ParquetFile(self.file) as parquet:
            yield from parquet.iter_batches(columns=list(names))


class _Arrow(_Table):
    def _open(self) -> tuple[Any, int]:
        with self._reader(None) as reader:
            schema = reader.schema
        columns = [0] if len(schema) else None
        return schema, sum(batch.num_rows for batch in self._read(columns))

    def _batches(self, names: Sequence[str]) -> Iterator[Any]:
        tops = {self._columns[name][0][0] for name in names}
        with self._reader(None) as reader:
            columns = sorted(reader.schema.get_field_index(top) for top in tops)
        return self._read(columns)

    def _read(self, columns: list[int] | None) -> Iterator[Any]:
        with self._reader(columns) as reader:
            stream = isinstance(reader, self._pa.ipc.RecordBatchStreamReader)
            batches = reader if stream else map(reader.get_batch, range(reader.num_record_batches))
            for batch in batches:
                # Damaged offsets would otherwise be followed out of the file.
                batch.validate(full=True)
                yield batch

    def _reader(self, columns: list[int] | None) -> Any:
        ipc = self._pa.ipc
        options = ipc.IpcReadOptions() if columns is None else None
        options = options or ipc.IpcReadOptions(included_fields=columns)
        source = self._pa.memory_map(self.file)
        if source.read_at(6, 0) == b"ARROW1":
            return ipc.open_file(source, options=options)
        return ipc.open_stream(source, options=options)
