"""The least of many numbers, and their order, on a CPU: minima and sorts of packed integers.

XLA's `top_k` and its sorts of several arrays go there from row to row, comparing one pair at a
time. What is here works on all columns of a tile at once, with a few plain instructions for a whole
register of them, and sorts one array of integers, which is several times faster.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int, Integer

from . import _backend as backend
from ._distance import varying_with
from ._types import Array

_FAN = 4  # members of a group
MOST = 256  # of more the leading bits would say too little
_TILE_BITS = 11  # of the positions in a tile of 2048 integers, where the integers leave so many
_LEAST_TILE_BITS = 6


def least(
    score: Float[Array, "width rows"], k: int
) -> tuple[Float[Array, "k rows"], Int[Array, "k rows"]]:
    """The k least of every column, rounded down, in order; and where they are.

    Numbers are compared by their leading bits: the last log2(4 k) make room for the place. So
    nothing that is left out is less than the last value returned, and of those that are equal up to
    this rounding any may be left out. Infinity is a number, NaN is not; `width` is at least k.

    Groups of four are represented by their least, groups of groups by theirs. The k least lie in
    the k groups whose representatives are least: were one in another group, those k would all be
    smaller.
    """
    bits = (_FAN * k - 1).bit_length()
    levels = [score]
    keys = _sortable(score)
    while keys.shape[0] > _FAN * k:
        spare = -keys.shape[0] % _FAN
        keys = jnp.pad(keys, ((0, spare), (0, 0)), constant_values=jnp.iinfo(keys.dtype).max)
        size = keys.shape[0] // _FAN
        first, second, third, fourth = (keys[j * size : (j + 1) * size] for j in range(_FAN))
        keys = jnp.minimum(jnp.minimum(first, second), jnp.minimum(third, fourth))
        levels.append(keys)
    values, places = _least_keys(keys, k, bits)
    for lower, upper in zip(levels[-2::-1], levels[:0:-1], strict=True):
        offsets = upper.shape[0] * jnp.arange(_FAN, dtype=places.dtype)
        members = (places[None] + offsets[:, None, None]).reshape(_FAN * k, -1)
        there = jnp.minimum(members, lower.shape[0] - 1)
        keys = jnp.take_along_axis(lower, there, axis=0)
        keys = _sortable(keys) if lower is score else keys
        keys = jnp.where(members < lower.shape[0], keys, jnp.iinfo(keys.dtype).max)
        values, slots = _least_keys(keys, k, bits)
        places = jnp.take_along_axis(there, slots, axis=0)
    return _numbers(values, score.dtype), places


def compared_for(k: int, width: int) -> float:
    """How many numbers networks compare where `least` finds the k least of a column."""
    levels = 1
    while width > _FAN * k:
        width, levels = -(-width // _FAN), levels + 1
    stages = _FAN * len(_sorting_network(k)) + (_FAN - 1) * len(_merging_network(k))
    return float(levels * k * stages)


def first_of_least(values: Float[Array, "width rows"]) -> Int[Array, " rows"]:
    """Where the least of every column is, the first of equal ones.

    `argmin` does as well; on a CPU it compares one pair after the other.
    """
    last = values.shape[0] - 1
    is_least = values == jnp.min(values, axis=0)[None]
    place = jnp.arange(values.shape[0], dtype=jnp.int32)[:, None]
    return jnp.min(jnp.where(is_least, place, last), axis=0)


def nth_largest(values: Float[Array, "m columns"], n: int) -> Float[Array, " columns"]:
    """The n-th largest of every column, n = 1 for the largest: its bits one after the other, by
    counting how many are at least as large."""
    keys = _sortable(values)
    bits, unsigned = (64, jnp.uint64) if keys.dtype == jnp.int64 else (32, jnp.uint32)
    one, sign = jnp.ones((), unsigned), jnp.asarray(1 << (bits - 1), unsigned)
    keys = lax.bitcast_convert_type(keys, unsigned) ^ sign

    def settle(i: Array, known: Array) -> Array:
        more = known | (one << (bits - 1 - i).astype(unsigned))
        count = jnp.sum(keys >= more[None, :], axis=0, dtype=jnp.int32)
        return jnp.where(count >= n, more, known)

    found = lax.fori_loop(0, bits, settle, varying_with(jnp.zeros_like(keys[0]), values))
    return _numbers(lax.bitcast_convert_type(found ^ sign, _sortable(values).dtype), values.dtype)


def _least_keys(keys: Int[Array, "width rows"], k: int, bits: int) -> tuple[Array, Array]:
    """The k least, rounded down to a multiple of 2^bits, and where they are."""
    width, dtype = keys.shape[0], keys.dtype
    mask = jnp.asarray((1 << bits) - 1, dtype)
    packed = (keys & ~mask) | jnp.arange(width, dtype=dtype)[:, None]
    packed = jnp.pad(packed, ((0, -width % k), (0, 0)), constant_values=jnp.iinfo(dtype).max)
    blocks = _compared(packed, _sorting_network(k)).reshape(-1, k, keys.shape[1])

    def merge(found, block):
        # Of two rising lists the least of each pair with one of them turned round rise, then fall.
        return _compared(jnp.minimum(found, block[::-1]), _merging_network(k)), None

    found = lax.scan(merge, blocks[0], blocks[1:])[0]
    # Where all are taken: the last one again.
    return found & ~mask, jnp.minimum(found & mask, width - 1).astype(jnp.int32)


def _compared(
    values: Int[Array, "rows columns"], partners: Int[np.ndarray, "stages size"]
) -> Int[Array, "rows columns"]:
    """Blocks of `size` rows after a network of comparisons: in each stage a row and its partner put
    the lesser of their numbers first. One small loop serves every network; stages as programs of
    their own are a quarter faster and take three times as long to compile."""
    stages, size = partners.shape
    rows = np.arange(len(values), dtype=np.int32)
    partners = (partners[:, None, :] + rows[None, ::size, None]).reshape(stages, len(rows))
    is_first = partners > rows

    def compare(values, stage):
        partner, first = stage
        other = values.at[partner].get(mode="promise_in_bounds", unique_indices=True)
        least, most = jnp.minimum(values, other), jnp.maximum(values, other)
        return jnp.where(first[:, None], least, most), None

    return lax.scan(compare, values, (jnp.asarray(partners), jnp.asarray(is_first)))[0]


@functools.cache
def _sorting_network(size: int) -> Int[np.ndarray, "stages size"]:
    """Who is compared with whom to sort so many: Batcher's bitonic network (1968), turned so that
    the lesser always comes first, without what only infinite numbers at the end would do."""
    place, flips = np.arange(size, dtype=np.int32), []
    for bit in range((size - 1).bit_length()):  # sorted blocks of 2^bit become twice as long
        flips += [(2 << bit) - 1, *(1 << lower for lower in reversed(range(bit)))]
    partners = place ^ np.asarray(flips, np.int32)[:, None]
    return np.where(partners < size, partners, place)


@functools.cache
def _merging_network(size: int) -> Int[np.ndarray, "stages size"]:
    """The same for so many that rise and then fall, as if smaller ones were before them."""
    bits = (size - 1).bit_length()
    place = np.arange((1 << bits) - size, 1 << bits, dtype=np.int32)
    partners = place ^ np.asarray([1 << bit for bit in reversed(range(bits))], np.int32)[:, None]
    return np.where(partners >= place[0], partners, place) - place[0]


def _sortable(values: Float[Array, "..."]) -> Int[Array, "..."]:
    """Integers in the order of the numbers."""
    dtype = jnp.int64 if values.dtype == jnp.float64 else jnp.int32
    keys = lax.bitcast_convert_type(values, dtype)
    return jnp.where(keys < 0, keys ^ jnp.iinfo(dtype).max, keys)


def _numbers(keys: Int[Array, "..."], dtype) -> Float[Array, "..."]:
    bits = jnp.where(keys < 0, keys ^ jnp.iinfo(keys.dtype).max, keys)
    return lax.bitcast_convert_type(bits, dtype)


def order_pairs(
    keys: Float[Array, "rows width"], ties: Int[Array, "rows width"]
) -> tuple[Float[Array, "rows width"], Int[Array, "rows width"]]:
    """Every row by (key, tie). NaN counts as infinite."""
    rows, width = keys.shape
    keys = jnp.where(jnp.isnan(keys), jnp.inf, keys)
    place = jnp.arange(width, dtype=jnp.int32)[None, :]

    def beat(j, rank):
        key, tie = (lax.dynamic_slice_in_dim(a, j, 1, axis=1) for a in (keys, ties))
        later = (tie < ties) | ((tie == ties) & (j < place))
        return rank + ((key < keys) | ((key == keys) & later)).astype(jnp.int32)

    start = varying_with(jnp.zeros(keys.shape, jnp.int32), keys)
    rank = lax.fori_loop(0, width, beat, start)
    row = jnp.arange(rows, dtype=jnp.int32)[:, None]
    keys, ties = (
        jnp.zeros_like(a).at[row, rank].set(a, unique_indices=True, mode="promise_in_bounds")
        for a in (keys, ties)
    )
    return keys, ties


def stable_order(values: Integer[Array, " m"], highest: int) -> Int[Array, " m"]:
    """The stable argsort of integers in [0, highest].

    A digit of them and the position fit into 32 bits; as many digits as it takes are sorted, the
    lowest first. Where it takes several and there are more values than they differ in, a CPU
    sorts tiles whose positions leave room for all digits, and counts.
    """
    m = values.shape[0]
    position_bits = max(m - 1, 1).bit_length()
    value_bits = max(highest.bit_length(), 1)
    by_digits = functools.partial(_order_by_digits, highest=highest)
    if position_bits + value_bits <= 32 or value_bits > 32 - _LEAST_TILE_BITS or highest >= m:
        return by_digits(values)
    by_counting = functools.partial(_order_by_counting, highest=highest)
    return backend.by_platform(values, cpu=by_counting, default=by_digits)


def _order_by_digits(values: Integer[Array, " m"], highest: int) -> Int[Array, " m"]:
    """The same, by sorts of all values."""
    m = values.shape[0]
    position_bits = max(m - 1, 1).bit_length()
    digit_bits = 32 - position_bits
    position_mask = jnp.uint32((1 << position_bits) - 1)
    positions = jnp.arange(m, dtype=jnp.uint32)
    order = None
    for shift in range(0, max(highest.bit_length(), 1), digit_bits):
        ordered = values if order is None else values[order]
        digits = (ordered >> jnp.asarray(shift, values.dtype)).astype(jnp.uint32)
        packed = lax.sort((digits << jnp.uint32(position_bits)) | positions)
        moved = (packed & position_mask).astype(jnp.int32)
        order = moved if order is None else order[moved]
    assert order is not None  # `range` is never empty
    return order


def _order_by_counting(values: Integer[Array, " m"], highest: int) -> Int[Array, " m"]:
    """The same: tile after tile, each value comes where those before it end."""
    m, bits = values.shape[0], min(_TILE_BITS, 32 - max(highest.bit_length(), 1))
    size = 1 << bits
    values = jnp.pad(values.astype(jnp.uint32), (0, -m % size), constant_values=highest)
    tiles = values.reshape(-1, size)
    positions = jnp.arange(size, dtype=jnp.uint32)
    packed = lax.sort((tiles << bits) | positions[None, :], dimension=1)
    counts = jnp.zeros(highest + 1, jnp.int32).at[values.astype(jnp.int32)].add(1)
    nowhere = jnp.int32(highest + 1)

    def place(carry, some):
        begin, order, first = carry
        own = (some >> bits).astype(jnp.int32)
        differs = own[1:] != own[:-1]
        is_first = jnp.pad(differs, (1, 0), constant_values=True)
        is_last = jnp.pad(differs, (0, 1), constant_values=True)
        turn = positions.astype(jnp.int32)
        begin = begin.at[jnp.where(is_first, own, nowhere)].add(-turn, mode="drop")
        places = begin[own] + turn
        begin = begin.at[jnp.where(is_last, own, nowhere)].set(places + 1, mode="drop")
        moved = first + (some & jnp.uint32(size - 1)).astype(jnp.int32)
        order = order.at[places].set(moved, mode="drop", unique_indices=True)
        return (begin, order, first + size), None

    begin = jnp.cumsum(counts, dtype=jnp.int32) - counts
    start = varying_with((begin, jnp.zeros(m, jnp.int32), jnp.int32(0)), values)
    return lax.scan(place, start, packed)[0][1]


def order_in_blocks(
    blocks: Int[Array, " m"], values: Float[Array, " m"], highest: int
) -> Int[Array, " m"]:
    """The order by (block, value, place), for blocks numbered up to `highest`."""
    keys = _sortable(jnp.where(values == 0, 0, values))  # -0 is 0
    unsigned = jnp.uint64 if keys.dtype == jnp.int64 else jnp.uint32
    bits = jnp.iinfo(unsigned).bits
    keys = lax.bitcast_convert_type(keys, unsigned) ^ jnp.asarray(1 << (bits - 1), unsigned)
    order = stable_order(keys, (1 << bits) - 1)
    return order[stable_order(blocks[order], highest)]
