"""Points divided among devices, and the exact search for their neighbors in a ring.

Every device keeps its share of the queries, and the shares of the points travel from device to
device. Candidates are measured while their coordinates are there, so that no device ever holds
more than its own share and a visitor. The distances are computed by the formula of the search on
one device, and exactness is proven or restored point by point, so that neither the number of
devices nor the order of the visits changes a bit of the graph.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float, Int

from . import _graph_exact as exact
from ._graph_exact import DOUBTFUL, DOUBTFUL_COLUMNS, ROWS, Table
from ._mesh import (
    AXIS,
    SPLIT,
    WHOLE,
    here,
    host,
    in_shares,
    on_shares,
)
from ._types import Array, ArrayInput, Progress

_DOUBTFUL_COST = 16  # of such a comparison, in comparisons by a product


class Rows(eqx.Module):
    """Points of which every device holds an equal share, in the order of their index.

    With q = `share`, device i holds the points i q .. i q + q - 1, as far as there are so many,
    and below them rows of zeros up to a multiple of the rows of a tile.
    """

    values: Float[Array, "rows d"]
    n_points: int = eqx.field(static=True)
    mesh: Mesh = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of points and of features."""
        return self.n_points, self.values.shape[1]

    @property
    def dtype(self) -> Any:
        """Of the coordinates."""
        return self.values.dtype

    @property
    def share(self) -> int:
        """Points of a device."""
        return -(-self.n_points // self.mesh.size)

    @property
    def per_device(self) -> int:
        """Rows of a device, padding included."""
        return self.values.shape[0] // self.mesh.size


def empty_share(n: int, d: int, mesh: Mesh) -> np.ndarray:
    """Room for what one device holds of n points, all 0."""
    share = -(-n // mesh.size)
    return np.zeros((share + -share % ROWS, d), np.float32)


def rows_of(placed: list[Array], n: int, mesh: Mesh) -> Rows:
    """The `Rows` whose shares lie on the devices of this process, in their order in the mesh."""
    rows, d = placed[0].shape
    sharding = NamedSharding(mesh, SPLIT)
    shape = (rows * mesh.size, d)
    return Rows(jax.make_array_from_single_device_arrays(shape, sharding, placed), n, mesh)


def extent(points: Rows) -> tuple[Array, Array]:
    """Least and greatest coordinate along every axis."""
    options = {"n": points.n_points, "share": points.share}
    specs = (SPLIT,), WHOLE
    return here(on_shares(points.mesh, _extent, *specs, points.values, **options))


def _extent(values: Array, *, n: int, share: int) -> tuple[Array, Array]:
    real = _position(values.shape[0], n, share)[:, None] < n
    lo = jnp.min(jnp.where(real, values, jnp.inf), axis=0)
    hi = jnp.max(jnp.where(real, values, -jnp.inf), axis=0)
    return lax.pmin(lo, AXIS), lax.pmax(hi, AXIS)


def _position(n_rows: int, n: int, share: int) -> Int[Array, " rows"]:
    """The point of each row of this device, n in the padding."""
    row = jnp.arange(n_rows, dtype=jnp.int32)
    point = lax.axis_index(AXIS) * share + row
    return jnp.where(row < share, jnp.minimum(point, n), n)


def _positions(points: Rows) -> np.ndarray:
    """The same of all devices, (devices, rows of a device)."""
    row = np.arange(points.per_device)
    point = np.arange(points.mesh.size)[:, None] * points.share + row
    return np.where((row < points.share) & (point < points.n_points), point, points.n_points)


def _next(tree: Any, n_devices: int) -> Any:
    """What the device before this one in the ring holds."""
    ring = [(i, (i + 1) % n_devices) for i in range(n_devices)]
    return jax.tree.map(lambda array: lax.ppermute(array, AXIS, ring), tree)


def gather(points: Rows, wanted: ArrayInput) -> Float[Array, "m d"]:
    """Some points, all of them on this process' own device."""
    wanted = np.asarray(wanted, np.int32)
    m = len(wanted)
    filled = np.pad(wanted, (0, -m % points.mesh.size))
    return jnp.asarray(host(_taken(points, filled))[:m])


def on_host(points: Rows) -> Float[np.ndarray, "n d"]:
    """All points, in this process' memory."""
    shares = host(points.values).reshape(points.mesh.size, points.per_device, -1)
    return shares[:, : points.share].reshape(-1, shares.shape[2])[: points.n_points]


def permuted(points: Rows, order: ArrayInput) -> Rows:
    """The points in another order, divided among the devices as before."""
    order = np.append(np.asarray(order, np.int32), -1)
    wanted = order[np.minimum(_positions(points), points.n_points)]
    return Rows(_taken(points, wanted.ravel()), points.n_points, points.mesh)


def _taken(points: Rows, wanted: np.ndarray) -> Array:
    """The rows of some points, 0 where -1 is wanted, divided among the devices."""
    specs = (SPLIT, SPLIT), SPLIT
    options = {"share": points.share, "n_devices": points.mesh.size}
    rows = in_shares(points.mesh, wanted.astype(np.int32))
    return on_shares(points.mesh, _take, *specs, points.values, rows, **options)


def _take(values: Array, wanted: Int[Array, " m"], *, share: int, n_devices: int) -> Array:
    def visit(shift: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        block, taken = state
        row = wanted - (lax.axis_index(AXIS) - shift) % n_devices * share
        there = (wanted >= 0) & (row >= 0) & (row < share)
        found = block[jnp.clip(row, 0, share - 1)]
        return _next(block, n_devices), jnp.where(there[:, None], found, taken)

    taken = jnp.zeros((wanted.shape[0], values.shape[1]), values.dtype)
    return lax.fori_loop(0, n_devices, visit, (values, taken))[1]


def tilewise(points: Rows, function: Callable[..., Array], *arrays: Array) -> Float[Array, "n c"]:
    """`function(rows, *arrays)` of some rows after the other, put together on one device."""
    specs = (SPLIT, *(WHOLE for _ in arrays)), SPLIT
    result = on_shares(points.mesh, _tilewise, *specs, points.values, *arrays, each=function)
    result = host(result).reshape(points.mesh.size, points.per_device, -1)
    result = result[:, : points.share].reshape(-1, result.shape[2])
    return jnp.asarray(result[: points.n_points])


def mapped(points: Rows, function: Callable[..., Array], *arrays: Array) -> Rows:
    """`function(rows, *arrays)` of some rows after the other, where these lie."""
    specs = (SPLIT, *(WHOLE for _ in arrays)), SPLIT
    options = {"each": function, "n": points.n_points, "share": points.share}
    values = on_shares(points.mesh, _mapped, *specs, points.values, *arrays, **options)
    return Rows(values, points.n_points, points.mesh)


def _mapped(values: Array, *arrays: Array, each: Callable[..., Array], n: int, share: int) -> Array:
    real = _position(values.shape[0], n, share)[:, None] < n
    return jnp.where(real, _tilewise(values, *arrays, each=each), 0)


def _tilewise(values: Array, *arrays: Array, each: Callable[..., Array]) -> Array:
    tiles = values.reshape(-1, ROWS, values.shape[1])
    return exact.flat(lax.map(lambda rows: each(rows, *arrays), tiles))


class _Share(eqx.Module):
    """A device's points, ready for the scan; what is `values` of a visitor is divided by `scale`.

    Positions count the points in the order of their class.
    """

    values: Float[Array, "rows d"]
    codes: Int[Array, " rows"]  # -1 in the padding
    first: Int[Array, " rows"]  # the positions of its class are first .. last - 1
    last: Int[Array, " rows"]


class _Found(eqx.Module):
    """Candidates: value of the scan, position (n if there is none) and distance."""

    values: Float[Array, "rows c"]
    positions: Int[Array, "rows c"]
    keys: Float[Array, "rows c"]


def ring_neighbors(
    points: Rows,
    k: int,
    *,
    codes: Int[Array, " n"] | None,
    stage: str,
    progress: Progress | None,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """As `exact_neighbors` with the Euclidean distance, for points divided among devices."""
    n, d = points.shape
    mesh, share = points.mesh, points.share
    sample = gather(points, np.arange(0, n, -(-n // exact.SAMPLE)))
    lo, hi = extent(points)
    scale = exact.fitting_scale(jnp.maximum(jnp.max(hi), -jnp.min(lo)))
    center = exact.middle(sample / scale)
    order = np.arange(n)
    block = exact.block_size(share, None)
    if codes is not None:
        order = np.argsort(np.asarray(codes), kind="stable")
        points = permuted(points, order)
        block = min(block, exact.block_size(n, codes))
    own = _share_of(points, None if codes is None else np.asarray(codes)[order])
    n_candidates = min(k + 1 + exact.spare_for(d), n)

    tiles = points.per_device // ROWS
    flops = 2.0 * ROWS * share * (d + 8)
    chunks = -(-tiles // max(1, min(tiles, int(exact.CHUNK_FLOPS / flops))))
    chunk = -(-tiles // chunks)
    # The last chunk overlaps the one before it, so that all have one shape.
    starts = [min(i * chunk, tiles - chunk) for i in range(chunks)]
    options = {"n": n, "share": share, "n_devices": mesh.size}
    search = {"n_candidates": n_candidates, "block": block, "by_class": codes is not None}
    empty = on_shares(
        mesh, _nothing, (), SPLIT, rows=chunk * ROWS, width=n_candidates, n=n, dtype=points.dtype
    )
    found = [empty] * chunks
    visitor = on_shares(mesh, _as_visitor, (SPLIT, WHOLE), SPLIT, own, scale)
    specs = (SPLIT, SPLIT, WHOLE, WHOLE, SPLIT, WHOLE, WHOLE), SPLIT
    for visit in range(mesh.size):
        for i, start in enumerate(starts):
            if progress is not None:
                progress(stage, visit * chunks + i, mesh.size * chunks)
            state = (found[i], np.int32(start), np.int32(visit))
            found[i] = on_shares(
                mesh, _visit, *specs, own, visitor, scale, center, *state, **options, **search
            )
        visitor = on_shares(mesh, _next, (SPLIT,), SPLIT, visitor, n_devices=mesh.size)
    specs = (SPLIT, SPLIT, WHOLE, WHOLE, WHOLE), SPLIT
    positions, distances, proven = [], [], []
    for i, start in enumerate(starts):
        given = (own, found[i], scale, center, np.int32(start))
        parts = on_shares(mesh, _proven, *specs, *given, k=k, n=n, n_candidates=n_candidates)
        skipped = (i * chunk - start) * ROWS
        for whole, part in zip((positions, distances, proven), parts, strict=True):
            part = host(part)
            whole.append(part.reshape(mesh.size, chunk * ROWS, *part.shape[1:])[:, skipped:])
    positions, distances, proven = (
        np.concatenate(parts, axis=1) for parts in (positions, distances, proven)
    )
    if not proven.all():
        _settle(own, visitor, scale, positions, distances, proven, mesh, options)
    if progress is not None:
        progress(stage, mesh.size * chunks, mesh.size * chunks)
    return _in_order(positions, distances, order, share, float(scale))


def _share_of(points: Rows, codes: np.ndarray | None) -> _Share:
    """Points in the order of their class, with these classes."""
    n, mesh = points.n_points, points.mesh
    position = _positions(points).ravel()
    real = position < n
    codes = np.zeros(n, np.int32) if codes is None else codes
    first, last = (np.searchsorted(codes, codes, side=side) for side in ("left", "right"))

    def placed(values: np.ndarray, absent: int) -> Array:
        values = np.append(values, absent)[position]
        return in_shares(mesh, np.where(real, values, absent).astype(np.int32))

    return _Share(points.values, placed(codes, -1), placed(first, 0), placed(last, 0))


def _as_visitor(own: _Share, scale: Array) -> _Share:
    return eqx.tree_at(lambda share: share.values, own, own.values / scale)


def _nothing(*, rows: int, width: int, n: int, dtype: Any) -> _Found:
    infinite = jnp.full((rows, width), jnp.inf, dtype)
    return _Found(infinite, jnp.full((rows, width), n, jnp.int32), infinite)


def _visited(visit: Array, n: int, share: int, n_devices: int) -> tuple[Array, Array]:
    """Position of the first point of the device whose share is here, and how many there are."""
    first = (lax.axis_index(AXIS) - visit) % n_devices * share
    return first, jnp.clip(n - first, 0, share)


def _visit(
    own: _Share,
    visitor: _Share,
    scale: Float[Array, ""],
    center: Float[Array, " d"],
    found: _Found,
    start: Int[Array, ""],
    visit: Int[Array, ""],
    *,
    n: int,
    share: int,
    n_devices: int,
    n_candidates: int,
    block: int,
    by_class: bool,
) -> _Found:
    """The candidates of some tiles of queries after the visit of one more share."""
    begin, there = _visited(visit, n, share, n_devices)
    centered = visitor.values - center[None, :]
    table = Table(
        points=visitor.values,
        scale=scale,
        center=center,
        index=visitor.codes,
        codes=visitor.codes,
        first=visitor.first,
        last=visitor.last,
        n_points=n,
    )
    square = jnp.sum(centered * centered, axis=1)
    columns = exact.scanned_columns(table, centered, square, block=block, by_class=by_class)
    positions = _position(own.codes.shape[0], n, share)

    def tile(part: tuple[Array, _Found]) -> _Found:
        t, before = part
        rows = (start + t) * ROWS + jnp.arange(ROWS, dtype=jnp.int32)
        x, codes = own.values[rows] / scale, own.codes[rows]
        moved = x - center[None, :]
        lo, hi = _class_range(own, rows, codes >= 0, n)
        values, found = exact.scan(
            exact.scanned_query(moved, jnp.ones(ROWS, x.dtype), jnp.sum(moved * moved, axis=1)),
            columns,
            codes,
            (jnp.clip(lo - begin, 0, there), jnp.clip(hi - begin, 0, there)),
            n_candidates=n_candidates,
            block=block,
            last=visitor.codes.shape[0] - 1,
        )
        keys = exact.candidate_keys(x, visitor.values, found, inner=False)
        itself = positions[rows][:, None] == begin + found
        absent = jnp.isinf(values)
        both = _Found(
            jnp.concatenate([before.values, values], axis=1),
            jnp.concatenate([before.positions, jnp.where(absent, n, begin + found)], axis=1),
            jnp.concatenate([before.keys, jnp.where(absent | itself, jnp.inf, keys)], axis=1),
        )
        place = exact.least_of(both.values.T, n_candidates)[1].T
        return jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, place, axis=1), both)

    tiles = jax.tree.map(lambda leaf: leaf.reshape(-1, ROWS, leaf.shape[1]), found)
    numbers = jnp.arange(tiles.values.shape[0], dtype=jnp.int32)
    return exact.flat(lax.map(tile, (numbers, tiles)))


def _class_range(own: _Share, rows: Array, real: Array, n: int) -> tuple[Array, Array]:
    lo = jnp.min(jnp.where(real, own.first[rows], n))
    return lo, jnp.max(jnp.where(real, own.last[rows], 0))


def _proven(
    own: _Share,
    found: _Found,
    scale: Float[Array, ""],
    center: Float[Array, " d"],
    start: Int[Array, ""],
    *,
    k: int,
    n: int,
    n_candidates: int,
) -> tuple[Array, Array, Array]:
    """The k nearest candidates, and whether no other point can be nearer, as in `search`."""
    rows = start * ROWS + jnp.arange(found.keys.shape[0], dtype=jnp.int32)
    positions = jnp.where(jnp.isinf(found.keys), n, found.positions)
    keys, positions = exact.in_order(found.keys, positions)
    x = own.values[rows] / scale - center[None, :]
    square = jnp.sum(x * x, axis=1)
    kth = keys[:, min(k, n_candidates) - 1]
    rounding = exact.relative_rounding(x.shape[1], x.dtype)
    slack = 4 * rounding * (jnp.sqrt(square) + kth) ** 2
    farthest = found.values[:, -1]
    proven = (farthest > kth * kth + slack) | jnp.isinf(farthest)
    proven = proven | (own.codes[rows] < 0) | (n_candidates == n)
    missing = ((0, 0), (0, max(0, k - n_candidates)))
    positions = jnp.pad(positions[:, :k], missing, constant_values=n)
    return positions, jnp.pad(keys[:, :k], missing, constant_values=jnp.inf), proven


def _settle(
    own: _Share,
    visitor: _Share,
    scale: Array,
    positions: np.ndarray,
    distances: np.ndarray,
    proven: np.ndarray,
    mesh: Mesh,
    options: dict[str, int],
) -> None:
    """Compares the points that are not `proven` with all others of their class, by differences.

    Once more round the ring. Changes `positions` and `distances`, (devices, rows, k).
    """
    n_devices, _, k = positions.shape
    share, d = options["share"], visitor.values.shape[1]
    doubtful = [np.flatnonzero(~rows) for rows in proven]
    most = max(len(rows) for rows in doubtful)
    flops = 2.0 * _DOUBTFUL_COST * DOUBTFUL * share * (d + 8)
    per_call = max(1, min(-(-most // DOUBTFUL), int(exact.CHUNK_FLOPS / flops)))
    size = DOUBTFUL << (per_call - 1).bit_length()  # few sizes, few programs
    calls = -(-most // size)
    slots = np.full((n_devices, calls * size), -1, np.int32)
    for one, rows in zip(slots, doubtful, strict=True):
        one[: len(rows)] = rows
    pieces = [in_shares(mesh, slots[:, i * size : (i + 1) * size].ravel()) for i in range(calls)]
    empty = on_shares(
        mesh, _nothing, (), SPLIT, rows=size, width=k, n=options["n"], dtype=visitor.values.dtype
    )
    found = [empty] * calls
    specs = (SPLIT, SPLIT, WHOLE, SPLIT, SPLIT, WHOLE), SPLIT
    for visit in range(n_devices):
        for i, piece in enumerate(pieces):
            given = (own, visitor, scale, found[i], piece, np.int32(visit))
            found[i] = on_shares(mesh, _compare, *specs, *given, **options)
        visitor = on_shares(mesh, _next, (SPLIT,), SPLIT, visitor, n_devices=n_devices)
    for i, part in enumerate(found):
        new = [host(leaf).reshape(n_devices, size, k) for leaf in (part.positions, part.keys)]
        for device in range(n_devices):
            rows = doubtful[device][i * size : (i + 1) * size]
            positions[device, rows] = new[0][device, : len(rows)]
            distances[device, rows] = new[1][device, : len(rows)]


def _compare(
    own: _Share,
    visitor: _Share,
    scale: Float[Array, ""],
    found: _Found,
    slots: Int[Array, " slots"],
    visit: Int[Array, ""],
    *,
    n: int,
    share: int,
    n_devices: int,
) -> _Found:
    """The nearest of some rows after all of one more share were looked at."""
    k = found.keys.shape[1]
    begin, there = _visited(visit, n, share, n_devices)
    n_rows = visitor.codes.shape[0]
    width = min(DOUBTFUL_COLUMNS, n_rows)
    positions = _position(own.codes.shape[0], n, share)

    def group(part: tuple[Array, _Found]) -> _Found:
        slots, before = part
        used, rows = slots >= 0, jnp.maximum(slots, 0)
        x, codes = own.values[rows] / scale, own.codes[rows]
        lo, hi = _class_range(own, rows, used, n)
        lo, hi = jnp.clip(lo - begin, 0, there), jnp.clip(hi - begin, 0, there)

        def scan_block(b: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            left = lo + b * width
            # The last block reaches back, over columns that were looked at already.
            first = jnp.minimum(left, n_rows - width)
            y = lax.dynamic_slice_in_dim(visitor.values, first, width)
            columns = first + jnp.arange(width, dtype=jnp.int32)
            keys = exact.keys_between(x[:, None, :], y[None])
            same = lax.dynamic_slice_in_dim(visitor.codes, first, width)[None, :]
            same = (codes[:, None] == same) & (columns >= left)[None, :]
            same = same & (positions[rows][:, None] != begin + columns[None, :])
            return exact.merge(best, jnp.where(same, keys, jnp.inf), columns)

        start = exact.no_neighbors(DOUBTFUL, k, x.dtype)
        keys, columns = lax.fori_loop(0, -(-(hi - lo) // width), scan_block, start)
        new = jnp.where(jnp.isinf(keys), n, begin + columns)
        keys = jnp.concatenate([before.keys, keys], axis=1)
        new = jnp.concatenate([before.positions, new], axis=1)
        # Points of a class are in the order of their index, so ties by position are too.
        keys, new = (leaf[:, :k] for leaf in exact.in_order(keys, new))
        return _Found(before.values, new, keys)

    groups = jax.tree.map(lambda leaf: leaf.reshape(-1, DOUBTFUL, *leaf.shape[1:]), (slots, found))
    return exact.flat(lax.map(group, groups))


def _in_order(
    positions: np.ndarray, distances: np.ndarray, order: np.ndarray, share: int, scale: float
) -> tuple[Array, Array]:
    """Puts the rows back into the order of the points, (devices, rows, k) to (n, k)."""
    n, k = len(order), positions.shape[2]
    found = positions[:, :share].reshape(-1, k)[:n]
    index = np.append(order, -1)[found]
    indices = np.empty((n, k), np.int32)
    indices[order] = index
    lengths = np.empty((n, k), distances.dtype)
    lengths[order] = distances[:, :share].reshape(-1, k)[:n] * lengths.dtype.type(scale)
    return jnp.asarray(indices), jnp.asarray(lengths)
