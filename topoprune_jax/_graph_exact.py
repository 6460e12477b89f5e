"""The exact search for nearest neighbors: a table of points, tiles of distances, a second scan."""

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from . import _backend as backend
from . import _checks as checks
from ._distance import norm, product, varying_with
from ._least import MOST as MOST_OF_LEAST
from ._least import least, nth_largest, order_pairs
from ._types import Array

ROWS = 256  # queries of a tile
FEW_ROWS = 64  # of one where these can be compared with all points at once, and `ROWS` cannot
LEAST_COLUMNS = 1 << 10  # of a tile, unless there are fewer points: few are looked at in one go
TILE_BYTES = 1 << 23  # of one tile of distances, unless memory is scarce: about what a cache holds
LEAST_TILE_BYTES = 1 << 20
SPARE = 8  # candidates beyond k, so that most points can be proven complete after one scan
_SPARE_OF_FEW_AXES = 24  # as in tight clusters, which an embedding has: distances are short there
_FEW_AXES = 32
DOUBTFUL = 32  # queries scanned again in one go
DOUBTFUL_COLUMNS = 1024  # candidates of theirs looked at in one go
SAMPLE = 1024  # points whose median is the center
_GATHERED_NUMBERS = 1 << 24  # coordinates of candidates measured in one go: 64 MiB
CHUNK_FLOPS = 4e10  # work between two looks at the host: about half a second on two cores


def tile_rows(first: int, count: int, rows: int = ROWS) -> Int[Array, "count rows"]:
    """The rows of the table that are the queries of some tiles in a row, `rows` of each tile."""
    return jnp.arange(first * rows, (first + count) * rows, dtype=jnp.int32).reshape(count, rows)


def block_size(n: int, codes: Array | None, tile_bytes: int = TILE_BYTES) -> int:
    """Columns of a tile: all points, or the largest class, in as few blocks as it can hold."""
    width = n
    if codes is not None:
        width = min(n, 1 << 13) if checks.is_traced(codes) else int(np.bincount(codes).max())
    return block_of(width, n, tile_bytes)


def block_of(width: int, n: int, tile_bytes: int) -> int:
    """Columns of the blocks, all alike, into which so many of n points are divided."""
    width = max(width, min(n, LEAST_COLUMNS))
    n_blocks = -(-width * 4 * ROWS // tile_bytes)
    return -(-width // (ROWS * n_blocks)) * ROWS


def tile_of(n: int, codes: Array | None, tile_bytes: int = TILE_BYTES) -> tuple[int, int]:
    """Queries and columns of a tile on one device."""
    block = block_size(n, codes, tile_bytes)
    is_whole = codes is None and backend.is_cpu()
    return few_or_many_rows(n, block, tile_bytes) if is_whole else (ROWS, block)


def few_or_many_rows(n: int, block: int, tile_bytes: int) -> tuple[int, int]:
    """On a CPU `FEW_ROWS` and all columns, if two tiles have room for these, and `ROWS` and a block
    otherwise.

    Products are as fast with fewer queries at a time, and what was found in one block of columns
    need not be merged with what is found in others.
    """
    is_few = block < n and 4 * FEW_ROWS * n <= 2 * tile_bytes
    return (FEW_ROWS, n) if is_few else (ROWS, block)


def spare_for(e: int) -> int:
    """Candidates beyond k of points of so many coordinates.

    What is not proven complete is compared with all others by differences, which takes 200 us of a
    point among 50,000; distances far below those from the center are many where clusters are tight.
    """
    return _SPARE_OF_FEW_AXES if e <= _FEW_AXES else SPARE


class Table(eqx.Module):
    """Points in the order of their class, ready for the scan. `rows` counts the padding too."""

    points: Float[Array, "rows e"]
    scale: Float[Array, ""]
    center: Float[Array, " e"]
    index: Int[Array, " rows"]  # the point of each row, n in the padding
    codes: Int[Array, " rows"]  # its class, -1 in the padding
    first: Int[Array, " rows"]  # the rows of its class are first .. last - 1
    last: Int[Array, " rows"]
    n_points: int = eqx.field(static=True)


@partial(jax.jit, static_argnames=("metric", "n_rows", "check"))
def prepare(points, codes, *, metric, n_rows, check=False):
    n = points.shape[0]
    absent = jnp.zeros(n, bool)
    if check:
        # Nobody looked at the values: a row that is not finite must not spoil the others.
        absent = ~jnp.isfinite(points).all(axis=1)
        points = jnp.where(absent[:, None], 0, points)
    scale = jnp.ones((), points.dtype)
    if metric == "cosine":
        magnitude = jnp.max(jnp.abs(points), axis=1, keepdims=True)
        is_zero = magnitude == 0
        points = points / jnp.where(is_zero, 1, magnitude)
        points = points / jnp.where(is_zero, 1, norm(points)[:, None])
        # One more axis, on which only rows of zeros live: at distance 1 - 0 from all others.
        points = jnp.concatenate([points, is_zero.astype(points.dtype)], axis=1)
    elif metric != "function":
        points, scale = _within_range(points)
    center = jnp.zeros_like(points[0])
    if metric in ("euclidean", "cosine"):
        center = middle(points[:: -(-n // SAMPLE)])
    order = jnp.arange(n, dtype=jnp.int32)
    by_class = codes is not None
    codes = jnp.zeros(n, jnp.int32) if codes is None else codes
    codes = jnp.where(absent, jnp.iinfo(jnp.int32).max, codes)
    if by_class or check:
        order = jnp.argsort(codes, stable=True).astype(jnp.int32)
        codes, absent, points = codes[order], absent[order], points[order]
    padding = (0, n_rows - n)
    return Table(
        points=jnp.pad(points, (padding, (0, 0))),
        scale=scale,
        center=center,
        index=jnp.pad(order, padding, constant_values=n),
        codes=jnp.pad(jnp.where(absent, -1, codes), padding, constant_values=-1),
        first=jnp.pad(jnp.searchsorted(codes, codes, side="left").astype(jnp.int32), padding),
        last=jnp.pad(jnp.searchsorted(codes, codes, side="right").astype(jnp.int32), padding),
        n_points=n,
    )


def middle(sample: Float[Array, "m d"]) -> Float[Array, " d"]:
    """The median, because far outliers must not set the rounding of all other points."""
    return nth_largest(sample, sample.shape[0] // 2 + 1)


def _within_range(points: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    """The points divided by a power of two, and that power: no bit of the mantissa changes."""
    scale = fitting_scale(jnp.max(jnp.abs(points)))
    return points / scale, scale


def fitting_scale(reach: Float[Array, ""]) -> Float[Array, ""]:
    """The power of two by which coordinates up to `reach` are divided.

    The largest lands near the fourth root of the largest number, so that neither the squares of
    large differences overflow nor those of small ones vanish.
    """
    limits = jnp.finfo(reach.dtype)
    exponent = jnp.frexp(reach)[1] - limits.maxexp // 4
    exponent = jnp.clip(exponent, limits.minexp + 1, limits.maxexp - 1)
    return jnp.ldexp(jnp.ones_like(reach), exponent)


class Scanned(eqx.Module):
    """What all tiles of a search look at: it is made once for many calls."""

    columns: Float[Array, "columns numbers"]
    square: Float[Array, " rows"]  # of the distance from the center
    longest: Float[Array, ""]  # of those squares


@partial(jax.jit, static_argnames=("metric", "block"))
def scanned_of(table: Table, *, metric: str, block: int) -> Scanned:
    """The columns of all points, for blocks of that size."""
    everything, square, longest = _centered(table)
    extra = _extra_of(table, metric)(everything, square)
    return Scanned(_padded_columns(table, everything, extra, block), square, longest)


def _centered(table: Table) -> tuple[Array, Array, Array]:
    everything = table.points - table.center[None, :]
    square = jnp.sum(everything * everything, axis=1)
    return everything, square, jnp.max(jnp.where(table.codes < 0, 0, square))


def _extra_of(table: Table, metric: str) -> Callable[[Array, Array], Array]:
    rounding = relative_rounding(table.points.shape[1], table.points.dtype)

    def extra(vectors: Array, square: Array) -> Array:
        # With inner products the score is a lower bound: its rounding grows with both lengths.
        return -4 * rounding * norm(vectors) if metric == "inner_product" else square

    return extra


@partial(jax.jit, static_argnames=("metric", "k", "block", "by_class", "stream"))
def search(
    table: Table,
    queries: Int[Array, "tiles rows"],
    scanned: Scanned | None = None,
    *,
    metric: str,
    k: int,
    block: int,
    by_class: bool,
    stream: bool = False,
):
    """Points and distances of the k nearest of each query, a row of the table.

    The columns that they are compared with are `scanned`, or made here. With `stream` those of a
    block are made when they are looked at, for a few queries of a table that should not be held
    twice.
    """
    e, n = table.points.shape[1], table.n_points
    n_candidates = min(k + 1 + spare_for(e), n)
    inner = metric == "inner_product"
    rounding = relative_rounding(e, table.points.dtype)

    def centered(rows):
        return table.points[rows] - table.center[None, :]

    if scanned is not None:
        square, longest = scanned.square, scanned.longest
        columns = _columns_at(table, scanned.columns, block, by_class)
    else:
        everything, square, longest = _centered(table)
        extra = _extra_of(table, metric)
        if stream:
            block = min(block, table.codes.shape[0])
            columns = _streamed_columns(table, extra, block=block, by_class=by_class)
        else:
            columns = scanned_columns(
                table, everything, extra(everything, square), block=block, by_class=by_class
            )

    def tile(own):
        x, codes = centered(own), table.codes[own]
        tiny = jnp.finfo(x.dtype).tiny  # infinite columns stay infinite for a row of zeros
        ones = jnp.maximum(norm(x), tiny) if inner else jnp.ones(own.shape, x.dtype)
        values, found = scan(
            scanned_query(x, ones, jnp.zeros_like(ones) if inner else square[own]),
            columns,
            codes,
            class_range(table, own),
            n_candidates=n_candidates,
            block=block,
            last=table.codes.shape[0] - 1,
        )
        keys, points, distances = ordered(
            table, own, found, jnp.isinf(values), longest, metric=metric
        )
        kth = keys[:, min(k, n_candidates) - 1]
        if inner:
            reference = jnp.sum(table.points[own] * table.points[found[:, 0]], axis=1)
            proven = values[:, -1] > 2 * (kth - reference)
        else:
            slack = 4 * rounding * (jnp.sqrt(square[own]) + kth) ** 2
            proven = values[:, -1] > kth * kth + slack
        # An infinite last candidate: there are no others.
        proven = proven | jnp.isinf(values[:, -1]) | (codes < 0) | (n_candidates == n)
        missing = max(0, k - n_candidates)
        points = jnp.pad(points[:, :k], ((0, 0), (0, missing)), constant_values=n)
        distances = jnp.pad(distances[:, :k], ((0, 0), (0, missing)), constant_values=jnp.inf)
        return points, distances, proven, found[:, 0]

    points, distances, proven, nearest = flat(lax.map(tile, queries))
    if n_candidates == n:
        return points, distances
    return settle(
        table, queries.ravel(), points, distances, proven, nearest, longest, metric=metric
    )


def flat(tiles):
    """The rows of all tiles, one after the other."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tiles)


Columns: TypeAlias = Callable[[Array], tuple[Array, Array | None, Array]]
"""`columns(left)`: columns left, left + 1, ... of a scan, their classes where classes count, and
the number of the first of them."""


def scanned_columns(
    table: Table,
    coordinates: Float[Array, "rows e"],
    extra: Float[Array, " rows"],
    *,
    block: int,
    by_class: bool,
) -> Columns:
    """Columns whose product with a `scanned_query` is `extra` - 2 x . y and what is added, infinite
    where no point is."""
    return _columns_at(table, _padded_columns(table, coordinates, extra, block), block, by_class)


def _padded_columns(table: Table, coordinates: Array, extra: Array, block: int) -> Array:
    n_rows = table.codes.shape[0]
    spare = block if block < n_rows else block - n_rows  # the last block may begin anywhere
    extra = jnp.pad(jnp.where(table.codes < 0, jnp.inf, extra), (0, spare), constant_values=jnp.inf)
    return _as_columns(jnp.pad(coordinates, ((0, spare), (0, 0))), extra)


def _columns_at(table: Table, columns: Array, block: int, by_class: bool) -> Columns:
    spare = columns.shape[0] - table.codes.shape[0]
    codes = jnp.pad(table.codes, (0, spare), constant_values=-1)

    def at(left):
        part = lax.dynamic_slice_in_dim(columns, left, block)
        return part, lax.dynamic_slice_in_dim(codes, left, block) if by_class else None, left

    return at


def _as_columns(y: Float[Array, "rows e"], extra: Float[Array, " rows"]) -> Array:
    return jnp.concatenate([-2 * y, extra[:, None], jnp.ones_like(extra)[:, None]], axis=1)


def scanned_query(
    x: Float[Array, "rows e"], times: Float[Array, " rows"], added: Float[Array, " rows"]
) -> Float[Array, "rows e+2"]:
    """What is multiplied with the columns: by their `extra` as many `times`, and `added` to all."""
    return jnp.concatenate([x, times[:, None], added[:, None]], axis=1)


def _streamed_columns(
    table: Table, extra: Callable[[Array, Array], Array], *, block: int, by_class: bool
) -> Columns:
    """The same, made of the table when they are asked for."""

    def at(left):
        # The last block reaches back, over columns that were looked at already.
        first = jnp.minimum(left, table.codes.shape[0] - block)
        own = first + jnp.arange(block, dtype=jnp.int32)
        codes = lax.dynamic_slice_in_dim(table.codes, first, block)
        y = lax.dynamic_slice_in_dim(table.points, first, block) - table.center[None, :]
        last = extra(y, jnp.sum(y * y, axis=1))
        last = jnp.where((codes < 0) | (own < left), jnp.inf, last)
        return _as_columns(y, last), codes if by_class else None, first

    return at


def class_range(table: Table, own: Int[Array, " rows"]) -> tuple[Array, Array]:
    """The rows lo .. hi - 1 in which all points of the classes of `own` are."""
    real = table.codes[own] >= 0
    lo = jnp.min(jnp.where(real, table.first[own], table.n_points))
    return lo, jnp.max(jnp.where(real, table.last[own], 0))


def scan(
    query: Float[Array, "rows e"],
    columns: Columns,
    codes: Int[Array, " rows"],
    between: tuple[Array, Array],
    *,
    n_candidates: int,
    block: int,
    last: int,
) -> tuple[Float[Array, "rows c"], Int[Array, "rows c"]]:
    """The columns of least product with each query, block by block: products and columns.

    On a CPU products are rounded down, see `least`. `last` is the last of the columns, which stands
    where there are too few.
    """
    lo, hi = between

    def scores(left):
        part, other, first = columns(left)
        score = product(part, query.T)
        if other is not None:
            score = jnp.where(other[:, None] == codes[None, :], score, jnp.inf)
        return score, first

    def scan_block(b, best):
        values, found = best
        score, first = scores(lo + b * block)
        new_values, new = least_of(score, n_candidates)
        values, place = least_of(jnp.concatenate([values, new_values]), n_candidates)
        found = jnp.concatenate([found, new + first])
        return values, jnp.take_along_axis(found, place, axis=0)

    if last < block:  # a single one, of all columns
        values, found = least_of(scores(0)[0], n_candidates)
    else:
        start = (
            jnp.full((n_candidates, query.shape[0]), jnp.inf, query.dtype),
            jnp.full((n_candidates, query.shape[0]), last, jnp.int32),
        )
        start = varying_with(start, query)
        values, found = lax.fori_loop(0, -(-(hi - lo) // block), scan_block, start)
    return values.T, jnp.where(jnp.isinf(values), last, jnp.minimum(found, last)).T


def least_of(
    score: Float[Array, "width rows"], k: int
) -> tuple[Float[Array, "k rows"], Int[Array, "k rows"]]:
    """The k least of every column and where they are; on a CPU rounded down, see `least`."""
    if backend.is_cpu() and k <= MOST_OF_LEAST:
        return least(score, k)
    values, found = smallest(score.T, k, group_count(score.shape[0], k))
    return values.T, found.T


def relative_rounding(e: int, dtype) -> float:
    """Bound on the relative rounding of an inner product of length e.

    The worst case is e units; with more than 10 sqrt(e), the chance that one product of 10^20
    exceeds the bound is negligible if single roundings are independent (Higham & Mary 2019).
    """
    return float(jnp.finfo(dtype).eps) / 2 * (min(e, 10 * math.sqrt(e)) + 10)


def keys_between(x: Array, y: Array, nearest: Array | None = None) -> Array:
    """What orders the candidates y of x: their distance, or minus their inner product.

    Inner products are taken relative to that of `nearest`: in a tight cluster the differences are
    far smaller than the products, which would round them away.
    """
    return norm(x - y) if nearest is None else -jnp.sum(x * (y - nearest), axis=-1)


def candidate_keys(
    x: Float[Array, "rows e"],
    points: Float[Array, "others e"],
    found: Int[Array, "rows c"],
    *,
    inner: bool,
    most_numbers: int = _GATHERED_NUMBERS,
) -> Float[Array, "rows c"]:
    """`keys_between` each query and the rows `found` of `points`, the first of them `nearest`; of
    so many queries at a time as gather `most_numbers` coordinates."""
    queries = x[:, None, :]
    nearest = points[found[:, :1]] if inner else None
    rows = max(1, most_numbers // (found.shape[1] * points.shape[1]))
    if rows >= found.shape[0]:
        return keys_between(queries, points[found], nearest)
    return lax.map(
        lambda row: keys_between(row[0], points[row[1]], row[2]),
        (queries, found, nearest),
        batch_size=rows,
    )


def ordered(table: Table, own, found, absent, longest, *, metric):
    """The candidates `found` of the rows `own` by (distance, index): keys, points, distances."""
    n, inner = table.n_points, metric == "inner_product"
    x = table.points[own]
    keys = candidate_keys(x, table.points, found, inner=inner)
    keys = jnp.where(absent | (own[:, None] == found), jnp.inf, keys)
    points = jnp.where(jnp.isinf(keys), n, table.index[found])
    keys, points = in_order(keys, points)
    return keys, points, _distances(keys, x[:, None, :], table.points[found[:, :1]], longest, inner)


def in_order(keys: Float[Array, "rows c"], points: Int[Array, "rows c"]) -> tuple[Array, Array]:
    """Every row by (key, point)."""
    if backend.is_cpu() and keys.shape[1] <= MOST_OF_LEAST:
        return order_pairs(keys, points)
    keys, points = lax.sort((keys, points), dimension=1, num_keys=2)
    return keys, points


def _distances(keys: Array, x: Array, nearest: Array, longest: Array, inner: bool) -> Array:
    """The distances that belong to `keys_between`."""
    if not inner:
        return keys
    return jnp.maximum((longest - jnp.sum(x * nearest, axis=2)) + keys, 0)


def settle(
    table: Table,
    rows,
    points,
    distances,
    proven,
    nearest,
    longest,
    *,
    metric,
    few: int = DOUBTFUL,
    most_columns: int = DOUBTFUL_COLUMNS,
):
    """Compares the points that are not `proven` with all others of their class, by differences,
    a few of them with many columns at a time."""
    n, k = table.n_points, points.shape[1]
    n_rows = proven.shape[0]
    inner = metric == "inner_product"
    before = jnp.cumsum(~proven, dtype=jnp.int32)
    count = before[-1]
    doubtful = jnp.full(n_rows + few, n_rows - 1, jnp.int32)
    doubtful = doubtful.at[jnp.where(proven, n_rows + few, before - 1)].set(
        jnp.arange(n_rows, dtype=jnp.int32), mode="drop"
    )
    width = min(most_columns, table.codes.shape[0])

    def step(state):
        done, points, distances = state
        slots = lax.dynamic_slice_in_dim(doubtful, done, few)
        used = done + jnp.arange(few, dtype=jnp.int32) < count
        own = rows[slots]
        x, codes = table.points[own][:, None, :], table.codes[own]
        reference = table.points[nearest[slots]][:, None, :]
        lo = jnp.min(jnp.where(used, table.first[own], n))
        hi = jnp.max(jnp.where(used, table.last[own], 0))

        def scan_block(b, best):
            left = lo + b * width
            # The last block reaches back, over columns that were looked at already.
            first = jnp.minimum(left, table.codes.shape[0] - width)
            y = lax.dynamic_slice_in_dim(table.points, first, width)
            columns = first + jnp.arange(width, dtype=jnp.int32)
            keys = keys_between(x, y[None], reference if inner else None)
            same = lax.dynamic_slice_in_dim(table.codes, first, width)[None, :]
            same = (codes[:, None] == same) & (columns >= left)[None, :]
            keys = jnp.where(same & (own[:, None] != columns[None, :]), keys, jnp.inf)
            return merge(best, keys, columns)

        start = varying_with(no_neighbors(few, k, x.dtype), x)
        keys, found = lax.fori_loop(0, -(-(hi - lo) // width), scan_block, start)
        # Rows of a class are in the order of their index, so ties are too.
        new_points = jnp.where(jnp.isinf(keys), n, table.index[found])
        new_distances = _distances(keys, x, reference, longest, inner)
        target = jnp.where(used, slots, n_rows)
        points = points.at[target].set(new_points, mode="drop")
        distances = distances.at[target].set(new_distances, mode="drop")
        return done + few, points, distances

    start = (varying_with(jnp.zeros((), jnp.int32), distances), points, distances)
    return lax.while_loop(lambda state: state[0] < count, step, start)[1:]


def no_neighbors(rows: int, k: int, dtype) -> tuple[Array, Array]:
    return jnp.full((rows, k), jnp.inf, dtype), jnp.zeros((rows, k), jnp.int32)


def merge(best: tuple[Array, Array], values: Float[Array, "rows width"], columns: Array):
    """The k least of `best` and one more block of columns; ties go to the earlier column."""
    k = best[0].shape[1]
    columns = jnp.broadcast_to(columns[None, :], values.shape)
    negative, place = lax.top_k(-jnp.concatenate([best[0], values], axis=1), k)
    found = jnp.concatenate([best[1], columns], axis=1)
    return -negative, jnp.take_along_axis(found, place, axis=1)


def group_count(width: int, k: int) -> int:
    """Number of groups that makes the two stages of `smallest` cheapest, a divisor of `width`."""
    size = 1
    while width % (2 * size) == 0 and (2 * size) ** 2 * k <= 2 * width:
        size *= 2
    return width // size


def smallest(
    score: Float[Array, "rows width"], k: int, n_groups: int
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
    """The k least values of each row and their columns, exactly.

    Column c belongs to group c mod n_groups. The k least values lie in the k groups whose minima
    are least: were one in another group, those k minima would all be smaller.
    """
    rows, width = score.shape
    size = width // n_groups
    if size == 1 or n_groups <= k:
        negative, found = lax.top_k(-score, min(k, width))
        return -negative, found.astype(jnp.int32)
    minima = jnp.min(score.reshape(rows, size, n_groups), axis=1)
    _, groups = lax.top_k(-minima, k)
    members = groups[:, :, None] + n_groups * jnp.arange(size, dtype=groups.dtype)[None, None, :]
    members = members.reshape(rows, k * size)
    negative, place = lax.top_k(-jnp.take_along_axis(score, members, axis=1), k)
    return -negative, jnp.take_along_axis(members, place, axis=1).astype(jnp.int32)


@partial(jax.jit, static_argnames=("k", "metric"))
def collect(table: Table, parts, order=None, *, k: int, metric: str):
    """Puts the rows back into the order of the points. `order` says which of the table they are,
    those in the padding for nothing, where that is not their own."""
    n = table.n_points
    absent = (table.codes[:n] < 0)[:, None]
    found = jnp.concatenate([part[0] for part in parts])
    distances = jnp.concatenate([part[1] for part in parts])
    if order is None:
        found, distances = found[:n], distances[:n]
    else:
        slots = jnp.arange(order.shape[0], dtype=jnp.int32)
        slot = jnp.zeros(n, jnp.int32).at[order].set(slots, mode="drop")
        found, distances = found[slot], distances[slot]
    found = jnp.where(absent, n, found)
    distances = jnp.where(absent, jnp.inf, distances)
    place = table.index[:n]
    indices = jnp.zeros((n, k), jnp.int32).at[place].set(jnp.where(found >= n, -1, found))
    distances = jnp.zeros((n, k), distances.dtype).at[place].set(distances)
    return indices, in_units(table, distances, metric=metric)


def in_units(table: Table, distances: Array, *, metric: str) -> Array:
    """Distances of the table's rows as the metric has them."""
    if metric == "cosine":
        return distances * distances / 2
    if metric == "inner_product":
        return distances * table.scale * table.scale
    return distances * table.scale
