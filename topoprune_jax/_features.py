"""Features as they come: an array, a memory map, shards, batches, or a traced value."""

import mmap
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Bool, Float

from . import _checks as checks
from ._lanes import cores
from ._mesh import SPLIT, from_each, is_scattered, together
from ._ring import Rows, empty_share, extent, rows_of
from ._types import Array, ArrayInput, Progress

_SLAB_BYTES = 1 << 26  # of what is read in one go, in float64, unless memory is scarce
_MOST_THREADS = 8
_ALIGNMENT = 64  # bytes; an array that starts at a multiple JAX takes over instead of copying it


def unit_rows(
    features: ArrayInput,
    *,
    normalize: bool,
    progress: Progress | None,
    tile_bytes: int | None = None,
) -> tuple[Float[Array, "n d"], bool]:
    """Checked features as float32 rows of unit length, and whether several are all the same.

    Read a slab at a time in float64: slabs keep what is on disk out of memory, and float64 keeps
    1e200 and 2**60 what they are, where JAX would make infinity of the one and 0 of the other.
    """
    slab_bytes = _SLAB_BYTES if tile_bytes is None else min(_SLAB_BYTES, tile_bytes)
    parts = as_parts(features)
    if isinstance(parts, Iterator):
        points = _of_batches(parts, normalize, progress, slab_bytes)
    else:
        points = _of_parts(parts, normalize, progress, slab_bytes)
    n, step = points.shape[0], _slab_rows(points.shape[1], slab_bytes)
    if progress is not None:
        progress("features", n, n)
    slabs = (points[start : start + step] for start in range(0, n, step))
    identical = n > 1 and all((slab == points[0]).all() for slab in slabs)
    return jax.device_put(points), identical  # `jnp.asarray` would copy


def as_parts(features: ArrayInput) -> list[np.ndarray] | Iterator[ArrayInput]:
    """The one array or the several shards, on the host, with one number of columns; batches as
    they come."""
    return features if isinstance(features, Iterator) else _parts(features)


def known_shape(parts: list[np.ndarray] | Iterator[ArrayInput]) -> tuple[int, int] | None:
    """(n, d) of what `unit_rows` would return; None for batches, which nobody counted."""
    return None if isinstance(parts, Iterator) else _shape(parts)


def _shape(parts: list[np.ndarray]) -> tuple[int, int]:
    return sum(part.shape[0] for part in parts), parts[0].shape[1]


def divided_unit_rows(
    features: ArrayInput, *, mesh: Mesh, normalize: bool, progress: Progress | None
) -> tuple[Rows, bool]:
    """As `unit_rows`, divided among devices.

    Every process looks at the rows of its own devices only, and tells the others what it found.
    """
    n, d, pieces = _pieces(features, mesh)
    n_own = sum(part.shape[0] for _, _, parts in pieces for part in parts)
    is_unit = normalize and d > 1
    seen, reach, problem = 0, 0.0, None
    placed: list[Array] = []
    try:
        for device, first, parts in pieces:
            rows = empty_share(n, d, mesh)
            for start, slab in _slabs(parts, _SLAB_BYTES, first):
                if progress is not None:
                    progress("features", seen, n_own)
                seen += slab.shape[0]
                if is_unit:
                    rows[start - first : start - first + slab.shape[0]] = _unit(slab)
                else:
                    reach = max(reach, float(np.abs(slab).max()))
            if is_unit:
                placed.append(jax.device_put(rows, device))
    except (TypeError, ValueError) as error:
        problem = error
    together(mesh, problem)
    if not is_unit:
        every = from_each(mesh, np.float64(reach).tobytes()).values()
        scale = _scale(max(float(np.frombuffer(one)[0]) for one in every))
        for device, first, parts in pieces:
            rows = empty_share(n, d, mesh)
            for start, slab in _slabs(parts, _SLAB_BYTES, first):
                rows[start - first : start - first + slab.shape[0]] = slab / scale
            placed.append(jax.device_put(rows, device))
    if progress is not None:
        progress("features", n_own, n_own)
    points = rows_of(placed, n, mesh)
    lo, hi = extent(points)
    return points, n > 1 and bool((lo == hi).all())


def _pieces(
    features: ArrayInput, mesh: Mesh
) -> tuple[int, int, list[tuple[Any, int, list[np.ndarray]]]]:
    """n, d, and for each device of this process its first point and the arrays that hold its
    points one after the other."""
    if isinstance(features, Iterator) or _is_loader(features):
        raise TypeError(
            "`features` must be an array, or a list of arrays, on a mesh of devices; got an "
            "iterator or a loader, which nobody can read in parts. Write its batches to a file and "
            "map that."
        )
    devices = [
        (i, device)
        for i, device in enumerate(mesh.devices.flat)
        if device.process_index == jax.process_index()
    ]
    if is_scattered(features):
        values = checks.as_array(features, name="features")
        checks.check_matrix_shape(values, name="features", min_points=1)
        n, d = values.shape
        share = -(-n // mesh.size)
        padding = ((0, mesh.size * share - n), (0, 0))
        spread = jax.jit(lambda x: jnp.pad(x, padding), out_shardings=NamedSharding(mesh, SPLIT))
        shards = {shard.device: shard.data for shard in spread(values).addressable_shards}
        return (
            n,
            d,
            [
                (device, i * share, [np.asarray(shards[device])[: max(0, n - i * share)]])
                for i, device in devices
            ],
        )
    parts = _parts(features)
    n, d = _shape(parts)
    share = -(-n // mesh.size)
    return (
        n,
        d,
        [(device, i * share, _between(parts, i * share, (i + 1) * share)) for i, device in devices],
    )


def _between(parts: list[np.ndarray], first: int, last: int) -> list[np.ndarray]:
    """The rows first .. last - 1 of the parts put together."""
    found = []
    for part in parts:
        if first < part.shape[0] and last > 0:
            found.append(part[max(0, first) : last])
        first, last = first - part.shape[0], last - part.shape[0]
    return found


def traced_unit_rows(
    features: Float[Array, "n d"], *, normalize: bool
) -> tuple[Float[Array, "n d"], Bool[Array, ""], Bool[Array, ""]]:
    """The same while JAX traces, and whether all are finite; rows that are not become zeros."""
    values = checks.as_array(features, name="features")
    checks.check_matrix_shape(values, name="features", min_points=1)
    points = values.astype(jnp.float32)
    fine = jnp.isfinite(points).all(axis=1)
    points = jnp.where(fine[:, None], points, 0)
    size = jnp.abs(points)
    if normalize and points.shape[1] > 1:
        largest = jnp.max(size, axis=1, keepdims=True)
        points = points / jnp.where(largest > 0, largest, 1)
        length = jnp.sqrt(jnp.sum(points * points, axis=1, keepdims=True))
        points = points / jnp.where(largest > 0, length, 1)
    else:
        # 2^e with reach = m 2^e and 1/2 <= m < 1: twice the largest power of two in it.
        reach = jnp.max(size)
        exponent = jnp.frexp(reach)[1] - 1
        points = jnp.where(reach > 0, jnp.ldexp(points, -exponent), points)
    identical = (points == points[:1]).all() & (points.shape[0] > 1)
    return points, identical, fine.all()


def _slab_rows(d: int, slab_bytes: int) -> int:
    return max(1, slab_bytes // (8 * d))


def _parts(features: ArrayInput) -> list[np.ndarray]:
    is_sharded = isinstance(features, list | tuple) and any(
        getattr(shard, "ndim", 0) == 2 or checks.is_traced(shard) for shard in features
    )
    if not is_sharded:
        if _is_loader(features):
            raise TypeError(
                "`features` must be an array, a list of arrays or an iterator of batches; got "
                f"{type(features).__name__}, which is none of these. Pass `iter(...)` over batches "
                "of features."
            )
        return [_matrix(features, "features")]
    parts = [_matrix(shard, f"features[{i}]") for i, shard in enumerate(features)]
    for i, part in enumerate(parts):
        _check_width(part, parts[0].shape[1], f"features[{i}]", "shard")
    return parts


def _is_loader(features: ArrayInput) -> bool:
    """Whether it only gives batches, as a DataLoader does, and is no array, sequence or set."""
    others = ("__array__", "__getitem__", "__contains__", "shape")
    return isinstance(features, Iterable) and not any(hasattr(features, name) for name in others)


def _matrix(values: ArrayInput, name: str) -> np.ndarray:
    if checks.is_traced(values):
        raise TypeError(
            f"`{name}` must be known, since shards and batches are read one by one; got a traced "
            "array. Concatenate the shards with `jnp.concatenate` and pass that."
        )
    values = checks.as_array(values, name=name)
    checks.check_matrix_shape(values, name=name, min_points=1)
    return np.asarray(values) if isinstance(values, jax.Array) else values


def _check_width(part: np.ndarray, d: int, name: str, word: str) -> None:
    if part.shape[1] != d:
        raise ValueError(
            f"`{name}` must have {d} columns, as the first {word} has; got {part.shape[1]}. "
            "Pass the features of one model."
        )


def _slabs(
    parts: Iterable[np.ndarray], slab_bytes: int, first: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """First row and values of each slab, in float64 and finite."""
    for start, part in _ranges(parts, slab_bytes, first):
        yield start, _slab(start, part)
        _let_go(part)


def _ranges(
    parts: Iterable[np.ndarray], slab_bytes: int, first: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """First row of each slab, and its values as they are."""
    for part in parts:
        step = _slab_rows(part.shape[1], slab_bytes)
        for start in range(0, part.shape[0], step):
            yield first + start, part[start : start + step]
        first += part.shape[0]


def _slab(first: int, values: np.ndarray) -> np.ndarray:
    slab = np.asarray(values, dtype=np.float64)
    checks.check_finite(slab, name="features", first_row=first)
    return slab


def _let_go(part: np.ndarray) -> None:
    """Drops the pages of a memory map that were read; the file still has them."""
    pages = getattr(part, "_mmap", None)
    shared = getattr(part, "mode", None) in ("r", "r+")
    if shared and isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def _of_parts(
    parts: list[np.ndarray], normalize: bool, progress: Progress | None, slab_bytes: int
) -> np.ndarray:
    n, d = _shape(parts)
    points = _aligned(n, d)
    if normalize and d > 1:
        _fill_with_units(points, parts, progress, slab_bytes)
        return points
    reach = 0.0
    for start, slab in _slabs(parts, slab_bytes):
        if progress is not None:
            progress("features", start, n)
        reach = max(reach, float(np.abs(slab).max()))
    scale = _scale(reach)
    for start, slab in _slabs(parts, slab_bytes):
        points[start : start + slab.shape[0]] = slab / scale
    return points


def _fill_with_units(
    points: np.ndarray, parts: list[np.ndarray], progress: Progress | None, slab_bytes: int
) -> None:
    """Slabs beside each other, together as large as one. What is wrong with the first is told."""
    count = min(_MOST_THREADS, cores())

    def fill(start: int, values: np.ndarray) -> None:
        points[start : start + values.shape[0]] = _unit(_slab(start, values))

    under_way: deque[tuple[Future[None], np.ndarray]] = deque()

    def finish() -> None:
        future, values = under_way.popleft()
        future.result()
        _let_go(values)

    with ThreadPoolExecutor(count, thread_name_prefix="topoprune-features") as threads:
        for start, values in _ranges(parts, slab_bytes // count):
            if len(under_way) == count:
                finish()
            if progress is not None:
                progress("features", start, points.shape[0])
            under_way.append((threads.submit(fill, start, values), values))
        while under_way:
            finish()


def _of_batches(
    batches: Iterator[ArrayInput], normalize: bool, progress: Progress | None, slab_bytes: int
) -> np.ndarray:
    """As `_of_parts`, without knowing how many there are."""
    held: deque[np.ndarray] = deque()
    n = d = 0
    for i, batch in enumerate(batches):
        name = f"batch {i} of features"
        part = _matrix(batch, name)
        rows, d = part.shape[0], d or part.shape[1]
        _check_width(part, d, name, "batch")
        if progress is not None:
            progress("features", n, n + rows)
        if normalize and d > 1:
            # Row by row, so that each batch can go; another scale needs all of them.
            unit = np.empty(part.shape, np.float32)
            for start, slab in _slabs([part], slab_bytes, n):
                unit[start - n : start - n + slab.shape[0]] = _unit(slab)
            part = unit
        held.append(part)
        n += rows
    if n == 0:
        raise ValueError(
            "`features` must give at least one batch; got an iterator without any, or one that "
            "was used up before. Pass a fresh one."
        )
    if not (normalize and d > 1):
        return _of_parts(list(held), normalize, None, slab_bytes)
    points = _aligned(n, d)
    first = 0
    while held:
        part = held.popleft()  # and lets go of it
        points[first : first + part.shape[0]] = part
        first += part.shape[0]
    return points


def _unit(slab: np.ndarray) -> np.ndarray:
    """Rows of unit length; a row of zeros stays."""
    largest = np.abs(slab).max(axis=1, keepdims=True)
    slab = slab / np.where(largest > 0, largest, 1)
    return slab / np.maximum(np.linalg.norm(slab, axis=1, keepdims=True), 1e-300)


def _scale(reach: float) -> float:
    """A power of two, which changes nothing that a rank depends on and fits any range."""
    return 2.0 ** np.floor(np.log2(reach)) if reach > 0 else 1.0


def _aligned(n: int, d: int) -> np.ndarray:
    size = n * d * np.dtype(np.float32).itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % _ALIGNMENT
    return raw[first : first + size].view(np.float32).reshape(n, d)
