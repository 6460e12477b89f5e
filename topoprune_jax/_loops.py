r"""Loops of flag filtrations on the device: persistent homology of dimension 1 without a host.

Edges enter in the order of (value, index), each with all triangles that it completes. The *link* of
an edge (u, v) is the set of points w whose edges to u and v came before. Over Z/2:

1. *Empty link.* The edge joins two components, or a loop is born with it. No three such edges form
   a triangle, so that there are at most n^2 / 4 of them (Mantel 1907).
2. *Otherwise* the edge and its triangle with one point of the link, here the *middle* w whose
   longer edge is the shortest, cancel: the edge is homologous to the path u, w, v of earlier edges.
   (An apparent pair, Bauer, *Ripser* (2021), section 3; a discrete gradient, Forman 1998.) Over and
   over, every edge becomes a path of edges with empty link. Its *annotation* is the set of births
   on that path (Busaryev et al., *Annotating simplices with a homology basis*, 2012).
3. *Other points of the link* close the loop u, middle, v, w. Where w has an earlier edge to another
   point of the link, the loop is a sum of one through that point and of two that are already
   filled; so one point is enough of every part of the link that hangs together. As many loops are
   left as there are bars, or little more: for 64 points some 80 of 40,000 triangles.
4. *Reduction.* In the order in which edges enter, the loops that they fill are added up to those of
   later edges. A loop whose annotation is not 0 ends the youngest birth in it.

Steps 1 to 3 treat all edges at once; only step 4 goes one by one, a step for every bar, on bits.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Bool, Float, Int, UInt32

from ._distance import condensed_pairs, varying_with
from ._spanning_forest import spanning_tree
from ._types import Array

MOST_POINTS = 64
"""Beyond it one point more costs too much: the work grows like n^3, and worse on bad clouds."""

_INDEX_BITS = 11
"""Enough for the 64 * 63 / 2 edges."""

_WORD = 32


class _Filtration(NamedTuple):
    """The edges of a complete graph in the order in which they enter."""

    tails: Int[Array, " e"]
    heads: Int[Array, " e"]
    values: Float[Array, " e"]
    place: Int[Array, "n n"]
    """Place of every edge in that order; m on the diagonal."""
    entered: Int[Array, ""]
    """So many enter and matter."""


class _Links(NamedTuple):
    """The links of all edges, as sets of points packed into bits."""

    left: Int[Array, " e"]
    """Edge from the tail to the middle of the link; any edge where the link is empty."""
    right: Int[Array, " e"]
    """Edge from the head to the middle."""
    is_empty: Bool[Array, " e"]
    near: UInt32[Array, "e words"]
    """The points of the link which an earlier edge joins to the middle."""
    far: UInt32[Array, "e words"]
    """The others but for the middle; none of an edge that does not matter."""


def loop_rows(
    values: Float[Array, "n n"], longest: Float[Array, ""], capacity: int
) -> tuple[Int[Array, "c 4"], Int[Array, ""]]:
    """Generators of dimension 1 of the filtration in which edge (i, j) enters at `values[i, j]`.

    **Arguments:**

    - `values`: symmetric, not negative, of at most `MOST_POINTS` points; the diagonal is not looked
      at.
    - `longest`: nothing enters beyond this value; where it is NaN nothing does.
    - `capacity`: c slots.

    **Returns:** rows (birth u, v, death u, v), the most persistent first, ties by the place of
    birth, a death of -1, -1 where the class never dies and -1 in empty slots; and the true number
    of bars of positive length. Both as `_host._rips.rips_pairs` has them.
    """
    n = values.shape[0]
    if n < 4:
        return jnp.full((capacity, 4), -1, jnp.int32), jnp.zeros((), jnp.int32)
    filtration = _filtration(values, longest)
    links = _links(filtration)
    births = _births(filtration, links)

    def rows(given, words: int, usable: Array):
        filtration, links, births = given
        pairs = _pairs(filtration, links, births, words, usable)
        return _most_persistent(filtration, *pairs, capacity)

    # Real clouds have fewer loops than points; the most that any has make numbers ten times longer.
    usual, most = -(-2 * n // _WORD), -(-(n * n // 4 - n + 1) // _WORD)
    fits = jnp.sum(births, dtype=jnp.int32) <= usual * _WORD
    given = filtration, links, births
    found = rows(given, min(usual, most), fits)
    if most <= usual:
        return found
    return _where_needed(lambda given: rows(given, most, jnp.any(given[2])), ~fits, given, found)


def _filtration(values: Float[Array, "n n"], longest: Float[Array, ""]) -> _Filtration:
    n = values.shape[0]
    tails, heads = condensed_pairs(n)
    m = len(tails)
    index = jnp.arange(m, dtype=jnp.int32)
    ordered, order = _sort(values[tails, heads])
    tails, heads = jnp.asarray(tails)[order], jnp.asarray(heads)[order]
    # Scattered, not gathered: what reads it would be fused with a gather, and gather every time.
    place = jnp.full((n, n), m, jnp.int32)
    place = place.at[tails, heads].set(index, unique_indices=True)
    place = place.at[heads, tails].set(index, unique_indices=True)
    # From the edge on that is the last of some point the complex is a cone, without any loop.
    latest = jnp.max(jnp.where(place < m, place, -1), axis=1)
    entered = jnp.sum(ordered <= longest, dtype=jnp.int32)
    entered = jnp.minimum(entered, jnp.min(latest) + 1)
    return _Filtration(tails, heads, ordered, place, entered)


def _sort(values: Float[Array, " e"]) -> tuple[Float[Array, " e"], Int[Array, " e"]]:
    """Values that are not negative, sorted, and which they were; ties by index.

    Two sorts of integers without a payload take less time on CPU than one sort of pairs.
    """
    m = values.shape[0]
    # Floats that are not negative order like their bits; the absolute value makes -0 a 0.
    integer = jnp.dtype(f"uint{8 * values.dtype.itemsize}")
    keys = jax.lax.bitcast_convert_type(jnp.abs(values), integer)
    ordered = jax.lax.sort(keys, is_stable=False)
    n_smaller = jnp.searchsorted(ordered, keys).astype(jnp.uint32)
    index = jnp.arange(m, dtype=jnp.uint32)
    order = jax.lax.sort(n_smaller << _INDEX_BITS | index, is_stable=False)
    order = order & ((1 << _INDEX_BITS) - 1)
    return jax.lax.bitcast_convert_type(ordered, values.dtype), order.astype(jnp.int32)


def _links(filtration: _Filtration) -> _Links:
    tails, heads, _, place, entered = filtration
    n, m = place.shape[0], tails.shape[0]
    edge = jnp.arange(m, dtype=jnp.int32)

    # One matrix updated point by point: 20 times faster on CPU than a reduction of n x n x n.
    def add_point(nearest, point):
        row, number = point
        later = jnp.maximum(row[:, None], row[None, :])  # of the two edges to it
        return jnp.minimum(nearest, later * MOST_POINTS + number), None

    nearest = varying_with(jnp.full((n, n), m * MOST_POINTS, jnp.int32), place)
    points = place, jnp.arange(n, dtype=jnp.int32)
    nearest, _ = jax.lax.scan(add_point, nearest, points, unroll=8)
    nearest = nearest[tails, heads]  # the least place, and whose it is, in one number
    middle, latest = nearest % MOST_POINTS, nearest // MOST_POINTS
    is_empty = latest >= edge
    left, right = (jnp.where(is_empty, 0, place[ends, middle]) for ends in (tails, heads))
    link = _pack(jnp.maximum(place[tails], place[heads]) < edge[:, None])
    near = link & _joined(filtration, middle, edge)
    itself = _below(middle + 1, link) ^ _below(middle, link)
    far = jnp.where((edge < entered)[:, None], link & ~near & ~itself, jnp.uint32(0))
    return _Links(left, right, is_empty, near, far)


def _joined(
    filtration: _Filtration, points: Int[Array, " k"], edges: Int[Array, " k"]
) -> UInt32[Array, "k words"]:
    """The points which an earlier edge than number `edges` joins to each of `points`."""
    return _pack(filtration.place[points] < edges[:, None])


def _births(filtration: _Filtration, links: _Links) -> Bool[Array, " e"]:
    """The edges with which a loop is born that lives."""
    m = filtration.tails.shape[0]
    # Places as lengths make the tree that goes with this order where lengths tie.
    _, _, tree = spanning_tree(filtration.place.astype(jnp.float32))
    joins = jnp.zeros(m, bool).at[tree.astype(jnp.int32)].set(True)
    return links.is_empty & ~joins & (jnp.arange(m, dtype=jnp.int32) < filtration.entered)


def _pairs(
    filtration: _Filtration, links: _Links, births: Bool[Array, " e"], words: int, usable: Array
) -> tuple[Int[Array, " b"], Int[Array, " b"]]:
    """Edges (birth, death) of all loops, m where there is none; nothing of it unless `usable`.

    All fits into `words` of bits if `usable`.
    """
    tails, heads, _, place, _ = filtration
    n, m = place.shape[0], tails.shape[0]
    n_bits = words * _WORD
    # Nearly all clouds have fewer points to look at and loops to reduce, and are done in one block.
    size = 3 * m // 2
    kept = min(size, 3 * n)

    number = jnp.cumsum(births, dtype=jnp.int32)
    born = jnp.full(n_bits, m, jnp.int32)
    slot = jnp.where(births, number - 1, n_bits)
    born = born.at[slot].set(jnp.arange(m, dtype=jnp.int32), mode="drop")
    annotations = _annotations(links, births & usable, number - 1, words)
    listed = jnp.cumsum(jnp.sum(jax.lax.population_count(links.far), axis=1).astype(jnp.int32))
    total = jnp.where(usable, listed[-1], 0)
    died = jnp.full(n_bits, m, jnp.int32)

    def block(state):
        start, sums, died = state
        edges, points, exists, following = _loops(filtration, links, listed, start, size, kept)
        left, right = place[tails[edges], points], place[heads[edges], points]
        loops = annotations[left] ^ annotations[right] ^ annotations[edges]
        loops = jnp.where(exists[:, None], loops, 0)
        loops = _substitute(loops, sums, start > 0, number[-1])
        died, sums = _reduce(loops, edges, sums, died)
        return following, sums, died

    state = varying_with((jnp.zeros((), jnp.int32), _units(n_bits), died), filtration.values)
    _, _, died = jax.lax.while_loop(lambda state: state[0] < total, block, state)
    return jnp.where(usable, born, m), died


def _annotations(
    links: _Links, births: Bool[Array, " e"], number: Int[Array, " e"], words: int
) -> UInt32[Array, "e words"]:
    """Of every edge the births on the path of edges with empty link that it is homologous to."""
    word = jnp.arange(words, dtype=jnp.int32)[None, :]
    bit = jnp.uint32(1) << (number % _WORD).astype(jnp.uint32)
    own = births[:, None] & (number[:, None] // _WORD == word)
    own = jnp.where(own, bit[:, None], jnp.uint32(0))

    def follow(state):
        bits, _ = state
        added = jnp.where(links.is_empty[:, None], own, bits[links.left] ^ bits[links.right])
        return added, jnp.any(added != bits)

    state = own, jnp.any(births)
    return jax.lax.while_loop(lambda state: state[1], follow, state)[0]


def _loops(
    filtration: _Filtration,
    links: _Links,
    listed: Int[Array, " e"],
    start: Int[Array, ""],
    size: int,
    kept: int,
) -> tuple[Int[Array, " k"], Int[Array, " k"], Bool[Array, " k"], Int[Array, ""]]:
    """The next loops to be filled, as edges and points of their links in the order of the edges.

    Of `size` far points of links from number `start` on those are left out which hang together with
    another point of the link; at most `kept` are returned, and where to go on.
    """
    m = listed.shape[0]
    number = start + jnp.arange(size, dtype=jnp.int32)
    edges = jnp.zeros(size, jnp.int32).at[jnp.maximum(listed - start, 0)].add(1, mode="drop")
    edges = jnp.cumsum(edges, dtype=jnp.int32)  # so many edges end before
    inside = edges < m
    edges = jnp.minimum(edges, m - 1)
    far = links.far[edges]
    points = _nth_bit(far, number - jnp.where(edges > 0, listed[edges - 1], 0))
    joined = _joined(filtration, points, edges)
    others = joined & (links.near[edges] | (far & _below(points, far)))
    alone = inside & (_union(others.T) == 0)
    ranks = jnp.arange(1, kept + 2, dtype=jnp.int32)
    chosen = jnp.searchsorted(jnp.cumsum(alone, dtype=jnp.int32), ranks).astype(jnp.int32)
    following, chosen = start + chosen[-1], chosen[:-1]
    exists = chosen < size
    chosen = jnp.minimum(chosen, size - 1)
    return edges[chosen], points[chosen], exists, following


def _reduce(
    loops: UInt32[Array, "k words"],
    edges: Int[Array, " k"],
    sums: UInt32[Array, "b words"],
    died: Int[Array, " b"],
) -> tuple[Int[Array, " b"], UInt32[Array, "b words"]]:
    """Gaussian elimination of loops in their order: deaths, and the `sums` that births stand for.

    The first loop that is not 0 ends the youngest birth in it, which is the sum of the others from
    then on, in every loop.
    """
    k, b = loops.shape[0], sums.shape[0]
    number = jnp.arange(b, dtype=jnp.int32)

    def first_of(columns: Array) -> Array:
        nonzero = _union(columns[:, :k]) != 0
        return jnp.min(jnp.where(nonzero, jnp.arange(k, dtype=jnp.int32), k))

    def fill(state):
        columns, died, first = state
        loop = columns[:, first]
        highest = _WORD - 1 - jax.lax.clz(loop).astype(jnp.int32)
        word = jnp.arange(loop.shape[0], dtype=jnp.int32)
        youngest = jnp.max(jnp.where(loop != 0, word * _WORD + highest, -1))
        bit = jnp.uint32(1) << (youngest % _WORD).astype(jnp.uint32)
        bit = jnp.where(word == youngest // _WORD, bit, jnp.uint32(0))
        holds = _union(columns & bit[:, None]) != 0
        columns = columns ^ jnp.where(holds[None, :], loop[:, None], jnp.uint32(0))
        return columns, jnp.where(number == youngest, edges[first], died), first_of(columns)

    columns = jnp.concatenate([loops, sums]).T  # whole rows are added, a word of many columns
    columns, died, _ = jax.lax.while_loop(
        lambda state: state[2] < k, fill, (columns, died, first_of(columns))
    )
    return died, columns.T[k:]


def _substitute(
    loops: UInt32[Array, "k words"], sums: UInt32[Array, "b words"], wanted: Array, n_births: Array
) -> UInt32[Array, "k words"]:
    """`loops` with every birth replaced by the sum that it stands for; no work unless `wanted`."""

    def add(state):
        number, added = state
        word = jnp.take(loops, number // _WORD, axis=1)
        holds = (word >> (number % _WORD).astype(jnp.uint32)) & 1
        return number + 1, added ^ jnp.where(holds[:, None] != 0, sums[number][None, :], 0)

    stop = jnp.where(wanted, n_births, 0)
    state = varying_with(jnp.zeros((), jnp.int32), loops), jnp.where(wanted, 0, loops)
    return jax.lax.while_loop(lambda state: state[0] < stop, add, state)[1]


def _most_persistent(
    filtration: _Filtration, births: Int[Array, " b"], deaths: Int[Array, " b"], capacity: int
) -> tuple[Int[Array, "c 4"], Int[Array, ""]]:
    """Rows of the pairs to keep, and the number of all of positive length."""
    m = filtration.tails.shape[0]
    index = jnp.arange(births.shape[0], dtype=jnp.int32)
    is_loop, dies = births < m, deaths < m
    birth, death = jnp.minimum(births, m - 1), jnp.minimum(deaths, m - 1)
    lifetime = filtration.values[death] - filtration.values[birth]
    lifetime = jnp.where(is_loop, jnp.where(dies, lifetime, jnp.inf), 0)
    alive = lifetime > 0
    count = jnp.sum(alive, dtype=jnp.int32)
    longer = lifetime[None, :] > lifetime[:, None]
    tied = (lifetime[None, :] == lifetime[:, None]) & (index[None, :] < index[:, None])
    slot = jnp.where(alive, jnp.sum(longer | tied, axis=1, dtype=jnp.int32), capacity)
    columns = [filtration.tails[birth], filtration.heads[birth]]
    columns += [jnp.where(dies, ends[death], -1) for ends in (filtration.tails, filtration.heads)]
    empty = jnp.full((capacity, 4), -1, jnp.int32)
    return empty.at[slot].set(jnp.stack(columns, axis=1), mode="drop"), count


# --- Bits -----------------------------------------------------------------------------------------


def _pack(mask: Bool[Array, "k n"]) -> UInt32[Array, "k words"]:
    """Sets of points, a bit each."""
    k, n = mask.shape
    bits = jnp.pad(mask, ((0, 0), (0, -n % _WORD))).astype(jnp.uint32).reshape(k, -1, _WORD)
    # One half onto the other: on CPU as quick as a sum, and twice as quick inside a loop.
    for half in (16, 8, 4, 2, 1):
        bits = bits[..., :half] | (bits[..., half:] << half)
    return bits[..., 0]


def _union(sets: UInt32[Array, "words k"]) -> UInt32[Array, " k"]:
    if sets.shape[0] > 4:
        return jax.lax.reduce(sets, np.uint32(0), jax.lax.bitwise_or, (0,))
    # Word by word it is several times faster on CPU, though slower to compile.
    return functools.reduce(jnp.bitwise_or, list(sets))


def _nth_bit(sets: UInt32[Array, "k words"], nth: Int[Array, " k"]) -> Int[Array, " k"]:
    """The point that is number `nth`, from 0, of each set."""
    word, point = sets[:, 0], jnp.zeros_like(nth)
    for following in range(1, sets.shape[1]):
        n_before = jax.lax.population_count(word).astype(jnp.int32)
        beyond = nth >= n_before
        word = jnp.where(beyond, sets[:, following], word)
        nth = jnp.where(beyond, nth - n_before, nth)
        point = jnp.where(beyond, following * _WORD, point)
    for half in (16, 8, 4, 2, 1):
        low = word & jnp.uint32((1 << half) - 1)
        n_before = jax.lax.population_count(low).astype(jnp.int32)
        beyond = nth >= n_before
        word = jnp.where(beyond, word >> half, low)
        nth = jnp.where(beyond, nth - n_before, nth)
        point = jnp.where(beyond, point + half, point)
    return point


def _below(points: Int[Array, " k"], like: UInt32[Array, "k words"]) -> UInt32[Array, "k words"]:
    """The points of lower index than each."""
    first = jnp.arange(like.shape[1], dtype=jnp.int32)[None, :] * _WORD
    many = jnp.clip(points[:, None] - first, 0, _WORD)
    some = (jnp.uint32(1) << jnp.minimum(many, _WORD - 1).astype(jnp.uint32)) - 1
    return jnp.where(many == _WORD, jnp.uint32(0xFFFFFFFF), some)


def _units(n_bits: int) -> UInt32[Array, "b words"]:
    """Row i has bit i only."""
    number = np.arange(n_bits)
    units = np.zeros((n_bits, n_bits // _WORD), np.uint32)
    units[number, number // _WORD] = np.uint32(1) << (number % _WORD).astype(np.uint32)
    return jnp.asarray(units)


# --- Batches --------------------------------------------------------------------------------------


def _where_needed(
    function: Callable[[Any], Any], needed: Bool[Array, ""], inputs: Any, otherwise: Any
) -> Any:
    """`function(inputs)` where `needed`, else `otherwise`.

    Under `vmap`, however nested, those items take turns that need it, if any does, while `cond`
    would do both for all, with the memory of all. `function` must not hold traced values.
    """

    def one(item):
        needed, inputs, otherwise = item
        return jax.lax.cond(needed, lambda: function(inputs), lambda: otherwise)

    @custom_vmap
    def batch(needed, inputs, otherwise):
        items = needed, inputs, otherwise
        return jax.lax.cond(jnp.any(needed), lambda: jax.lax.map(one, items), lambda: otherwise)

    @batch.def_vmap
    def _(size, is_batched, *items):
        def merged(leaf, is_batched):
            leaf = leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))
            return leaf.reshape(-1, *leaf.shape[2:])

        found = batch(*jax.tree.map(merged, items, tuple(is_batched)))
        found = jax.tree.map(lambda leaf: leaf.reshape(size, -1, *leaf.shape[1:]), found)
        return found, jax.tree.map(lambda _: True, found)

    found = batch(*jax.tree.map(lambda leaf: leaf[None], (needed, inputs, otherwise)))
    return jax.tree.map(lambda leaf: leaf[0], found)
