"""The exact search's first scan on an accelerator: wide tiles, and products that fit it."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from . import _graph_exact as exact
from ._distance import product, varying_with
from ._graph_exact import (
    SPARE,
    Table,
    candidate_keys,
    class_range,
    flat,
    group_count,
    settle,
    smallest,
)
from ._graph_tree import leaves
from ._types import Array

ROWS = 4096  # queries of a tile: below, the start of a program costs more than what it does
_WIDER = 64  # times the bytes of a CPU's tile
CHUNK_FLOPS = 4e13  # work between two looks at the host
LEAST_POINTS = 1 << 14  # for fewer the tiles of a CPU will do
CANDIDATES = 1536  # of a query, about
_LARGEST_GROUP, _LEAST_GROUP = 64, 8
_GATHERED_NUMBERS = 1 << 28  # coordinates of candidates measured in one go: 1 GiB if they are kept
_AGAIN, _MORE = 256, 8  # queries that are looked at again in one go, and times as many groups
_DOUBTFUL, _DOUBTFUL_COLUMNS = 64, 8192  # of `settle`
_FEW_AXES = 64  # up to which a product of float32 numbers takes less than writing its result
_OF_CLASS, _OF_TILE = 8, 64  # points whose mean is a center


def is_meant_for(n: int, k: int) -> bool:
    """Whether n points are enough for this scan."""
    return n >= max(LEAST_POINTS, 2 * group_size(k) * n_groups(k))


def group_size(k: int) -> int:
    """Columns of a group, a power of two: with the groups of a query about 1,536 candidates."""
    size = _LARGEST_GROUP
    while size > _LEAST_GROUP and size * n_groups(k) > CANDIDATES:
        size //= 2
    return size


def n_groups(k: int) -> int:
    """Groups of a query whose points are measured."""
    return k + 1 + SPARE


def block_size(n: int, tile_bytes: int) -> int:
    """Columns of a tile, whole groups; `tile_bytes` are those of a CPU's tile."""
    return max(128, min(_WIDER * tile_bytes // (4 * ROWS), n + 127) // 128 * 128)


def relative_rounding(e: int) -> float:
    """Bound on the relative rounding of the product of two points of length e.

    Of halved numbers: a float32 is h + l + r, h and l bfloat16, |l| at most 2^-8 of it and |r|
    2^-17. The product leaves out l l', at most 2^-16 |x| |y|, and what has r, as much once more.
    Few float32 numbers are multiplied as they are; some matrix units put them together of thirds,
    which leaves out less than 2^-22. The sums round as in `_graph_exact`, but by a whole unit,
    because matrix units may cut off instead of rounding.
    """
    sums = 2 * exact.relative_rounding(e, jnp.float32)
    return sums + (2.0**-22 if has_few_axes(e) else 2.0**-15)


def has_few_axes(e: int) -> bool:
    """Whether a product of float32 numbers takes less than writing its result."""
    return e <= _FEW_AXES


def leaves_of(n: int) -> tuple[int, int]:
    """Into how many tiles of how many rows `near_each_other` divides n points."""
    depth = max(0, math.ceil(math.log2(n / ROWS)))
    return 2**depth, -(-n // 2**depth)


@jax.jit
def near_each_other(table: Table) -> Int[Array, "tiles rows"]:
    """All points in tiles of those near each other, n where a tile has one less."""
    n, e = table.n_points, table.points.shape[1]
    tiles, rows = leaves_of(n)
    depth = tiles.bit_length() - 1
    order, is_copy = leaves(table.points[:n], depth=depth, axes=e)
    return jnp.where(is_copy, n, order).reshape(tiles, rows)


def halves(values: Float[Array, "n e"]) -> tuple[Array, Array]:
    """h and l in bfloat16, whose sum is each value up to 2^-17 of it."""
    # Behind the barrier, because XLA may take the difference of a number and itself, rounded to
    # fewer bits, for zero.
    high = lax.optimization_barrier(values.astype(jnp.bfloat16))
    return high, (values - high.astype(values.dtype)).astype(jnp.bfloat16)


def class_centers(table: Table) -> Float[Array, "rows e"]:
    """For every row the mean of a few points of its class, with the same bits for all of it."""
    size = table.last - table.first
    rows = [table.first + size * (2 * i + 1) // (2 * _OF_CLASS) for i in range(_OF_CLASS)]
    return sum((table.points[row] for row in rows[1:]), start=table.points[rows[0]]) / _OF_CLASS


def tile_center(x: Float[Array, "rows e"], codes: Int[Array, " rows"]) -> Float[Array, "1 e"]:
    """The mean of a few points of a tile."""
    some = slice(0, None, -(-x.shape[0] // _OF_TILE))
    real = (codes[some] >= 0)[:, None]
    total = jnp.sum(jnp.where(real, x[some], 0), axis=0, keepdims=True)
    return total / jnp.maximum(jnp.sum(real, dtype=x.dtype), 1)


@partial(jax.jit, static_argnames=("k", "block", "by_class"))
def search(table: Table, queries: Int[Array, "tiles rows"], *, k: int, block: int, by_class: bool):
    r"""As `_graph_exact.search`: points and Euclidean distances of the k nearest of each query.

    Scores |y|^2 - 2 x . y of a tile come from one product, of float32 numbers in few dimensions
    and otherwise of bfloat16 numbers,

        x . y = (h, h, l) . (h', l', h') + O(2^-15 |x| |y|),

    and of every group of neighboring columns only the least is kept. The points of the groups of
    the least scores are measured by differences. As long as no other group can hold a neighbor,
    these are the nearest; of the queries for which rounding leaves that open, those of eight times
    as many groups are measured, and what is still open is settled as ever.

    What rounds is as large as points are far from the origin. That is the center of their class,
    in few dimensions that of the tile's queries, and otherwise that of all points.
    """
    e, n = table.points.shape[1], table.n_points
    size, count = group_size(k), n_groups(k)
    last = table.codes.shape[0] - 1
    rounding = relative_rounding(e)
    few_axes = has_few_axes(e)
    by_tile = few_axes and not by_class
    placed = table.points
    if not by_tile:
        # Subtracted once: what was rounded far from the origin would stay so.
        placed = placed - (class_centers(table) if by_class else table.center[None, :])
    absent = jnp.where(table.codes < 0, jnp.inf, 0).astype(placed.dtype)
    extra = absent if by_tile else absent + jnp.sum(placed * placed, axis=1)
    extra = jnp.pad(extra, (0, block), constant_values=jnp.inf)
    codes_of_columns = jnp.pad(table.codes, (0, block), constant_values=-1)
    columns = placed
    if not few_axes:
        high, low = halves(-2 * placed)
        columns = jnp.concatenate([high, low, high], axis=1)
    columns = jnp.pad(columns, ((0, block), (0, 0)))
    most_blocks = -(-n // block)
    offsets = jnp.arange(size, dtype=jnp.int32)
    keys_of = partial(candidate_keys, inner=False, most_numbers=_GATHERED_NUMBERS)

    def tile(own):
        codes, x = table.codes[own], placed[own]
        center = tile_center(x, codes) if by_tile else jnp.zeros_like(x[:1])
        x = x - center
        square = jnp.sum(x * x, axis=1)
        lo, hi = class_range(table, own) if by_class else (0, n)
        query = -2 * x
        if not few_axes:
            high, low = halves(x)  # of the columns it is -2
            query = jnp.concatenate([high, high, low], axis=1)

        def scores(part, more):
            if not few_axes:
                return jnp.matmul(query, part.T, preferred_element_type=x.dtype) + more[None, :]
            if by_tile:
                part = part - center
                more = more + jnp.sum(part * part, axis=1)
            return product(query, part.T) + more[None, :]

        def scan_block(b, minima):
            part, more = (
                lax.dynamic_slice_in_dim(values, lo + b * block, block)
                for values in (columns, extra)
            )
            score = scores(part, more)
            if by_class:
                other = lax.dynamic_slice_in_dim(codes_of_columns, lo + b * block, block)
                score = jnp.where(codes[:, None] == other[None, :], score, jnp.inf)
            of_groups = jnp.min(score.reshape(own.shape[0], -1, size), axis=2)
            return lax.dynamic_update_slice_in_dim(minima, of_groups, b * (block // size), axis=1)

        width = most_blocks * (block // size)
        minima = varying_with(jnp.full((own.shape[0], width), jnp.inf, x.dtype), x)
        n_blocks = -(-(hi - lo) // block)
        minima = lax.fori_loop(0, n_blocks, scan_block, minima)

        def nearest_of(slots, n_groups):
            """Of some queries, from the points of so many groups."""
            few, minima_of_few = own[slots], minima[slots]
            values, groups = smallest(minima_of_few, n_groups, group_count(width, n_groups))
            # In their order, so that of equal distances the lower index comes first.
            groups = jnp.sort(groups, axis=1)
            found = lo + size * groups[:, :, None] + offsets[None, None, :]
            found = found.reshape(few.shape[0], -1)
            there = jnp.minimum(found, last)
            of_query, of_candidate = table.codes[few][:, None], table.codes[there]
            same = of_query == of_candidate if by_class else of_candidate >= 0
            same = same & (found <= last) & (found != few[:, None])
            keys = jnp.where(same, keys_of(table.points[few], table.points, there), jnp.inf)
            negative, place = lax.top_k(-keys, k)
            distances = -negative
            there = jnp.take_along_axis(there, place, axis=1)
            points = jnp.where(jnp.isinf(distances), n, table.index[there])
            kth, length = distances[:, -1], square[slots]
            slack = 4 * rounding * (jnp.sqrt(length) + kth) ** 2
            proven = values[:, -1] + length > kth * kth + slack
            proven = proven | jnp.isinf(values[:, -1]) | (of_query[:, 0] < 0)
            return points, distances, proven, there[:, 0]

        every = jnp.arange(own.shape[0], dtype=jnp.int32)
        found = nearest_of(every, count)
        # Clusters that are tight against their distance from the center leave many in question,
        # which a second look at more groups answers for less than `settle` does.
        doubtful = jnp.argsort(found[2], stable=True).astype(jnp.int32)
        n_doubtful = jnp.sum(~found[2], dtype=jnp.int32)
        few = min(_AGAIN, own.shape[0])
        more = min(_MORE * count, width)

        def look_again(state):
            done, found = state
            slots = lax.dynamic_slice_in_dim(doubtful, jnp.minimum(done, own.shape[0] - few), few)
            new = nearest_of(slots, more)
            return done + few, jax.tree.map(lambda a, b: a.at[slots].set(b), found, new)

        start = (varying_with(jnp.zeros((), jnp.int32), x), found)
        return lax.while_loop(lambda state: state[0] < n_doubtful, look_again, start)[1]

    points, distances, proven, nearest = flat(lax.map(tile, queries))
    rows, longest = queries.ravel(), jnp.zeros((), placed.dtype)
    found = points, distances, proven, nearest
    width = {"few": _DOUBTFUL, "most_columns": _DOUBTFUL_COLUMNS}
    return settle(table, rows, *found, longest, metric="euclidean", **width)
