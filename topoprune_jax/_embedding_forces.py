"""What moves the points of an embedding: the graph in a random order, attraction and repulsion."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from . import _backend as backend
from ._distance import rescale, varying_with
from ._embedding_options import NEGATIVES, EmbeddingOptions, known_epochs
from ._fuzzy import FuzzySimplicialSet, most_reverse_edges, rows_of_slots
from ._sums import mean_row, sums_by_row
from ._types import Array, Key

CLIP = 4.0  # umap-learn's bound on a single force
SHIFTS_AT_ONCE = 32  # whose forces are summed without rounding
_LEARNING_RATE = 0.3
_MOMENTUM = 0.9
# On CPU, loops over arrays that fit the first cache are several times faster than over long ones.
_REVERSE_BLOCK = 1 << 10
_TILE = 1 << 11
_LISTING_PADDING = 1 << 15
_ACCELERATOR_BLOCK = 1 << 22  # of reverse edges: there every block is a few launches
_SEVERAL = 4  # coordinates of a point, from which on they are added together
_MANY = 16  # coordinates, of more the sum of squares is not written out
_START_EXTENT = 10.0  # umap-learn's
_MANTISSA_BITS, _ROOT_OF_HALF = 23, 0x3F3504F3  # of a float32
# log2(1 + x) / x between sqrt(1/2) - 1 and sqrt(2) - 1, to 3.8e-6; 2^x from -1/2 to 1/2, to 3.6e-6.
_LOG2 = (1.4427018, -0.72120847, 0.47979388, -0.36641326, 0.31840712, -0.20685812)
_EXP2 = (1.0000001, 0.69312103, 0.24022107, 0.055922036, 0.009676037)


class Layout(eqx.Module):
    """The graph in a random order of the points, coordinates as (c, n).

    Points are divided into shares of whole tiles, one after the other. Edges that their other end
    lists are sorted by their point; those of share i are offsets[i] .. offsets[i + 1] - 1.
    """

    place: Array  # place[i] is where point i went
    start: Float[Array, "c n"]
    neighbors: Array  # (k, shares * share), in the new order; points without weight fill them up
    weights: Float[Array, "k m"]
    reverse_rows: Array  # (n k + padding,)
    reverse_neighbors: Array
    reverse_weights: Array
    most_reverse: Array  # of a point
    offsets: Array  # (shares + 1,)
    degrees: Float[Array, " n"]


@partial(jax.jit, static_argnames="n_shares")
def layout_of(
    fuzzy_set: FuzzySimplicialSet, degrees: Array, start: Array, key: Key, *, n_shares: int = 1
) -> Layout:
    """Shuffled, so that a shift of the order is a random pairing even where classes are sorted.

    `degrees` are those of the set, which several programs share.
    """
    n = fuzzy_set.n_points
    jitter_key, order_key = jax.random.split(key)
    order = jnp.argsort(jax.random.bits(order_key, (n,))).astype(jnp.int32)
    place = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32))
    start, _ = rescale(start)
    start = start - mean_row(start)[None, :]
    extent = jnp.max(jnp.abs(start))
    start = start / jnp.where(extent > 0, extent, 1) * _START_EXTENT
    # Points that start at one place would never part.
    start = start + 1e-3 * jax.random.normal(jitter_key, start.shape, start.dtype)

    def moved(indices):
        return jnp.where(indices >= 0, place[jnp.maximum(indices, 0)], 0).astype(jnp.int32)

    share = _share(n, n_shares)
    last = ((0, 0), (0, n_shares * share - n))
    # Rows of the reverse edges change their places as the points do, each as a whole.
    old = fuzzy_set.reverse_offsets
    offsets = jnp.pad(jnp.cumsum(jnp.diff(old)[order], dtype=jnp.int32), (1, 0))
    edge = jnp.arange(fuzzy_set.reverse_indices.shape[0], dtype=jnp.int32)
    is_edge = edge < offsets[-1]
    row = jnp.minimum(rows_of_slots(offsets, edge.shape[0]), n - 1)
    source = jnp.where(is_edge, old[order[row]] + edge - offsets[row], -1)

    def listed(values):
        return jnp.pad(values, (0, _LISTING_PADDING))

    return Layout(
        place=place,
        start=start[order].T,
        neighbors=jnp.pad(moved(fuzzy_set.indices)[order].T, last),
        weights=jnp.pad(fuzzy_set.memberships[order].T, last),
        reverse_rows=listed(row),
        reverse_neighbors=listed(moved(fuzzy_set.reverse_indices[source])),
        reverse_weights=listed(jnp.where(is_edge, fuzzy_set.reverse_memberships[source], 0)),
        most_reverse=most_reverse_edges(fuzzy_set),
        offsets=offsets[np.minimum(share * np.arange(n_shares + 1), n)],
        degrees=degrees[order],
    )


def _share(n: int, n_shares: int) -> int:
    """Points of each of so many shares of n points: whole tiles, the last perhaps with less."""
    n_tiles, tile = tiles_of(n)
    return tile * -(-n_tiles // n_shares)


def tiles_of(n: int) -> tuple[int, int]:
    """Into how many tiles of the same size n points are divided, and that size."""
    n_tiles = max(1, -(-n // _TILE))
    return n_tiles, -(-n // n_tiles)


def next_velocity(
    velocity: Float[Array, "c n"],
    attraction: tuple[Float[Array, "c n"], Float[Array, " n"]],
    push: Float[Array, "c n"],
    degrees: Float[Array, " n"],
    t: Int[Array, ""],
    options: EmbeddingOptions,
) -> Float[Array, "c n"]:
    """By how much points move in epoch t."""
    total = known_epochs(options)
    left = np.maximum(1 - np.arange(total + 1) / max(1, total), 0)
    left = jnp.asarray(left, velocity.dtype)[jnp.minimum(t, total)]
    # Quadratic in the rate: a long quiet end averages the noise of the repulsion away.
    rate, momentum = _LEARNING_RATE * left * left, _MOMENTUM * left
    force, stiffness = attraction
    push = _rounded(push * (options.repulsion * NEGATIVES * degrees)[None, :])
    step = rate * (2 * force + push) / (1 + _rounded(rate * stiffness))[None, :]
    return _rounded(momentum * velocity) + step


def _rounded(product: Float[Array, "..."]) -> Float[Array, "..."]:
    """A product as a float of its own.

    A compiler may round a product and the sum that it goes into only once, and does so in one
    program and not in another; not through a choice.
    """
    return jnp.where(product == product, product, 0)


def attraction_on_all(layout: Layout, z: Float[Array, "c n"], a: float, b: float):
    """Force along all edges of every point, and the sum of their stiffness."""
    n, whole = z.shape[1], layout.neighbors.shape[1]
    own = jnp.pad(z, ((0, 0), (0, whole - n)))
    tile = tiles_of(n)[1]
    force, stiffness = _from_listed(z, own, layout.neighbors, layout.weights, tile, a, b)
    between = 0, layout.offsets[-1]
    edges = edges_of(layout)[1:]
    return _from_listing(z, (force[:, :n], stiffness[:n]), edges, between, None, a, b)


def edges_of(layout: Layout) -> tuple[Array, ...]:
    """Those that are found from their other end, all shares' together: offsets of the shares, the
    most of a point, and the edges."""
    listing = layout.reverse_rows, layout.reverse_neighbors, layout.reverse_weights
    return (layout.offsets, layout.most_reverse, *listing)


def attraction_on_share(
    z: Float[Array, "c n"],
    begin: Int[Array, ""],
    own: tuple[Array, Array],
    edges: tuple[Array, ...],
    number: Int[Array, ""],
    tile: int,
    a: float,
    b: float,
) -> tuple[Array, Array]:
    """`attraction_on_all` on the points of one share, which begins there; `own` has its columns of
    the neighbors and their weights."""
    offsets, *of_listing = edges
    points = share_of(z, begin, own[0].shape[1], offsets.shape[0] - 1)
    listed = _from_listed(z, points, *own, tile, a, b)
    between = offsets[number], offsets[number + 1]
    return _from_listing(z, listed, of_listing, between, begin, a, b)


def share_of(
    values: Float[Array, "c n"], begin: Int[Array, ""], share: int, n_shares: int
) -> Float[Array, "c m"]:
    """The columns of the share that begins there, 0 beyond the last point."""
    padded = jnp.pad(values, ((0, 0), (0, n_shares * share - values.shape[1])))
    return lax.dynamic_slice_in_dim(padded, begin, share, axis=1)


def _square(difference: Float[Array, "c m"]) -> Float[Array, " m"]:
    """Squared lengths."""
    if difference.shape[0] > _MANY:
        return jnp.sum(difference * difference, axis=0)
    # A program of a few instructions, where a reduction is a call of a library.
    total, *rest = difference * difference
    for squares in rest:
        total = total + squares
    return total


def _power(squared: Float[Array, " m"], exponent: float) -> Float[Array, " m"]:
    """A positive number to a power between -2 and 2, to 2e-5 of it.

    2^(e log2 x), of whose two functions a force wants a few digits only: x = 2^k m with m between
    sqrt(1/2) and sqrt(2), and polynomials in m - 1 and in what a whole number leaves of the
    exponent, at Chebyshev's points.
    """
    if squared.dtype != jnp.float32:
        return jnp.exp2(exponent * jnp.log2(squared))
    bits = lax.bitcast_convert_type(squared, jnp.int32)
    k = (bits - _ROOT_OF_HALF) >> _MANTISSA_BITS
    m = lax.bitcast_convert_type(bits - (k << _MANTISSA_BITS), squared.dtype) - 1
    log = k.astype(squared.dtype) + m * _polynomial(_LOG2, m)
    power = jnp.clip(exponent * log, -126, 126)
    whole = jnp.round(power)
    bits = lax.bitcast_convert_type(_polynomial(_EXP2, power - whole), jnp.int32)
    return lax.bitcast_convert_type(
        bits + (whole.astype(jnp.int32) << _MANTISSA_BITS), squared.dtype
    )


def _polynomial(coefficients: Sequence[float], x: Float[Array, " m"]) -> Float[Array, " m"]:
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


def _stiffness(
    difference: Float[Array, "c m"], weight: Float[Array, " m"], a: float, b: float
) -> Float[Array, " m"]:
    """Of edges: by how much the attraction along them grows with their length."""
    squared = _square(difference)
    positive = squared > 0
    power = _power(jnp.where(positive, squared, 1), b - 1)
    gain = 2 * a * b * power / (1 + a * power * squared)
    return jnp.where(positive, weight * gain, 0)


def _pull(difference: Float[Array, "c m"], stiffness: Float[Array, " m"]) -> Float[Array, "c m"]:
    return -jnp.clip(stiffness[None, :] * difference, -CLIP, CLIP)


class _Desk(eqx.Module):
    """Where the loops over tiles lay down what they use several times.

    XLA would compute it anew for each use, and have two threads share the reading of a few numbers
    out of an array of more than 512 KiB. It does neither with what ends in an update in place. Each
    array has a row more, or it would be no update.
    """

    differences: Float[Array, "more size"]
    gains: Float[Array, "two size"]

    @classmethod
    def of(cls, values: Float[Array, "c n"], size: int) -> "_Desk":
        empty = jnp.zeros((values.shape[0] + 1, size), values.dtype)
        return varying_with(cls(empty, jnp.zeros_like(empty[:2])), values)

    def lay(
        self,
        differences: Float[Array, "c size"],
        gain: Callable[[Float[Array, "c size"]], Float[Array, " size"]],
    ) -> tuple["_Desk", Float[Array, "c size"], Float[Array, " size"]]:
        """With these differences and their gains, both to read off it."""
        rows = lax.dynamic_update_slice(self.differences, differences, (0, 0))
        differences = rows[: differences.shape[0]]
        gains = lax.dynamic_update_slice(self.gains, gain(differences)[None, :], (0, 0))
        return _Desk(rows, gains), differences, gains[0]


def _from_listed(
    z: Float[Array, "c n"],
    points: Float[Array, "c m"],
    neighbors: Int[Array, "k m"],
    weights: Float[Array, "k m"],
    tile: int,
    a: float,
    b: float,
) -> tuple[Float[Array, "c m"], Float[Array, " m"]]:
    """From the neighbors that some points list, m a whole number of tiles."""
    c, m = points.shape

    def of_tile(first):
        def part(values):
            return lax.dynamic_slice_in_dim(values, first, tile, axis=1)

        own = part(points)

        def column(carry, slot):
            force, total, desk = carry
            j, weight = slot
            desk, apart, stiffness = desk.lay(own - z[:, j], lambda d: _stiffness(d, weight, a, b))
            return (force + _pull(apart, stiffness), total + stiffness, desk), None

        zero = varying_with((jnp.zeros_like(own), jnp.zeros_like(own[0])), z)
        start = (*zero, _Desk.of(z, tile))
        return lax.scan(column, start, (part(neighbors), part(weights)))[0][:2]

    def in_tiles(_):
        force, stiffness = lax.map(of_tile, tile * jnp.arange(m // tile))
        return force.transpose(1, 0, 2).reshape(c, m), stiffness.reshape(m)

    def at_once(_):
        def column(carry, slot):
            force, total = carry
            j, weight = slot
            apart = points - z[:, j]
            stiffness = _stiffness(apart, weight, a, b)
            return (force + _pull(apart, stiffness), total + stiffness), None

        zero = varying_with((jnp.zeros_like(points), jnp.zeros_like(points[0])), z)
        return lax.scan(column, zero, (neighbors, weights))[0]

    return backend.by_platform(z, cpu=in_tiles, default=at_once)


def _from_listing(
    z: Float[Array, "c n"],
    total: tuple[Float[Array, "c m"], Float[Array, " m"]],
    edges: Sequence[Array],
    between: tuple[Any, Any],
    first_point: Int[Array, ""] | None,
    a: float,
    b: float,
):
    """From the neighbors that list a point, some edges at a time, on top of `total`.

    `edges` are the most of a point, and rows, neighbors and weights of all; those that count are
    first .. last - 1, and those of the points first_point .. first_point + m - 1,
    or of all where that is None.
    """
    first, last = between
    most, *listing = edges
    m = total[1].shape[0]

    def in_blocks(total):
        by_rows = z.shape[0] >= _SEVERAL

        def block(i, carry):
            force, stiffness, desk = carry
            begin = first + i * _REVERSE_BLOCK
            rows, others, weights = (
                lax.dynamic_slice_in_dim(values, begin, _REVERSE_BLOCK) for values in listing
            )
            difference = z[:, rows] - z[:, others]
            desk, apart, s = desk.lay(difference, lambda d: _stiffness(d, weights, a, b))
            f = _pull(apart, s)
            if first_point is not None:
                own = begin + jnp.arange(_REVERSE_BLOCK, dtype=jnp.int32) < last
                rows = jnp.where(own, rows - first_point, m)  # m is dropped
            force = force.at[rows].add(f.T) if by_rows else force.at[:, rows].add(f)
            return force, stiffness.at[rows].add(s), desk

        force, stiffness = total
        start = (force.T if by_rows else force), stiffness, _Desk.of(z, _REVERSE_BLOCK)
        n_blocks = -(-(last - first) // _REVERSE_BLOCK)
        force, stiffness, _ = lax.fori_loop(0, n_blocks, block, start)
        return (force.T if by_rows else force), stiffness

    def many_at_once(total):
        size = min(_ACCELERATOR_BLOCK, listing[0].shape[0])

        def block(i, carry):
            force, stiffness = carry
            begin = first + i * size
            # The last block reaches back, over edges that were looked at already.
            start = jnp.minimum(begin, listing[0].shape[0] - size)
            rows, others, weights = (
                lax.dynamic_slice_in_dim(values, start, size) for values in listing
            )
            apart = z[:, rows] - z[:, others]
            s = _stiffness(apart, weights, a, b)
            f = _pull(apart, s)
            slot = start + jnp.arange(size, dtype=jnp.int32)
            rows = rows if first_point is None else rows - first_point
            rows = jnp.where((slot >= begin) & (slot < last), rows, m)  # m is nobody's
            force = force + sums_by_row(f.T, rows, m, most=most).T
            return force, stiffness + sums_by_row(s, rows, m, most=most)

        return lax.fori_loop(0, -(-(last - first) // size), block, total)

    return backend.by_platform(total, cpu=in_blocks, default=many_at_once)


def repulsion(
    z: Float[Array, "c n"], a: float, b: float, key: Key, n_shifts: int
) -> Float[Array, "c n"]:
    """Mean repulsive force on every point from points at shared random shifts of the order.

    The force on i from i + s is, with its sign changed, the force on i + s from i: one evaluation
    serves both ends, and the total momentum stays 0.
    """
    if z.shape[1] < 2:
        return jnp.zeros_like(z)

    def pushed(shifts):
        return backend.by_platform(
            z,
            shifts,
            cpu=jax.custom_batching.sequential_vmap(partial(_push_in_tiles, a=a, b=b)),
            default=partial(_push_at_once, a=a, b=b),
        )

    return mean_push(pushed, z, z, key, n_shifts)


def mean_push(
    pushed: Callable[[Array], Array],
    z: Float[Array, "c n"],
    own: Float[Array, "c m"],
    key: Key,
    n_shifts: int,
) -> Float[Array, "c m"]:
    """The mean of the forces `pushed` at random shifts, a few of them at a time."""
    shifts = random_shifts(key, n_shifts, z.shape[1])
    few = min(n_shifts, SHIFTS_AT_ONCE)
    groups = shifts[: n_shifts // few * few].reshape(-1, few)
    if groups.shape[0] == 1:
        total = pushed(groups[0])
    else:
        nothing = varying_with(jnp.zeros_like(own), z)
        total = lax.scan(lambda sum, some: (sum + pushed(some), None), nothing, groups)[0]
    if n_shifts % few:
        total = total + pushed(shifts[n_shifts // few * few :])
    return total / (2 * n_shifts)


def random_shifts(key: Key, n_shifts: int, n: int) -> Int[Array, " s"]:
    return jax.random.randint(key, (n_shifts,), 1, n)


def _force_unit(n_shifts: int, dtype: Any) -> float:
    """The unit of which single forces are whole multiples, a power of two.

    Each is at most `CLIP`, and 2 n_shifts of them sum to a number of units that the mantissa
    holds. So no sum of them rounds, and its bits do not depend on the order of its terms, of which
    some come from other devices.
    """
    largest = math.log2(CLIP) + math.ceil(math.log2(2 * n_shifts))
    return 2.0 ** (largest - (jnp.finfo(dtype).nmant + 1))


def _strength(
    difference: Float[Array, "c n"], a: float, b: float, unit: float
) -> Float[Array, " n"]:
    """Of the repulsion, in units: the force for each unit of the distance."""
    squared = _square(difference)
    power = _power(jnp.maximum(squared, jnp.finfo(difference.dtype).tiny), b)
    return 2 * b / unit / ((1e-3 + squared) * (1 + a * power))


def _push(
    difference: Float[Array, "c n"], strength: Float[Array, " n"], unit: float
) -> Float[Array, "c n"]:
    """The force in units, rounded to whole ones."""
    return jnp.round(jnp.clip(strength[None, :] * difference, -CLIP / unit, CLIP / unit))


def _push_at_once(z: Float[Array, "c n"], shifts: Array, *, a: float, b: float) -> Array:
    n = z.shape[1]
    unit = _force_unit(shifts.shape[0], z.dtype)
    twice = jnp.concatenate([z, z], axis=1)

    def roll(total, shift):
        apart = z - lax.dynamic_slice_in_dim(twice, shift, n, axis=1)
        f = _push(apart, _strength(apart, a, b, unit), unit)
        back = lax.dynamic_slice_in_dim(jnp.concatenate([f, f], axis=1), n - shift, n, axis=1)
        return total + (f - back), None

    return lax.scan(roll, varying_with(jnp.zeros_like(z), z), shifts)[0] * unit


def _push_in_tiles(z: Float[Array, "c n"], shifts: Array, *, a: float, b: float) -> Array:
    """The same, a tile of points after the other."""
    n_tiles, tile = tiles_of(z.shape[1])
    return push_of_tiles(z, shifts, (tile, n_tiles), (0, n_tiles), a, b)


def push_of_tiles(
    z: Float[Array, "c n"],
    shifts: Array,
    tiles: tuple[int, int],
    own: tuple[Any, Any],
    a: float,
    b: float,
) -> Float[Array, "c n"]:
    """Forces between the points of some tiles, the first and how many, and those at the shifts."""
    n = z.shape[1]
    tile, n_tiles = tiles
    first, count = own
    whole = tile * n_tiles
    unit = _force_unit(shifts.shape[0], z.dtype)
    copies, rest = divmod(n + whole, n)  # places after the last point get nothing but 0
    periodic = jnp.concatenate([z] * copies + [z[:, :rest]], axis=1)
    inside = (jnp.arange(whole) < n).astype(z.dtype)

    def one(i, carry):
        total, desk = carry
        start, shift = tile * (first + i // shifts.shape[0]), shifts[i % shifts.shape[0]]
        here = lax.dynamic_slice_in_dim(periodic, start, tile, axis=1)
        there = lax.dynamic_slice_in_dim(periodic, start + shift, tile, axis=1)
        is_inside = lax.dynamic_slice_in_dim(inside, start, tile)
        desk, apart, strength = desk.lay(
            here - there, lambda d: is_inside * _strength(d, a, b, unit)
        )
        f = _push(apart, strength, unit)
        for first_place, force in ((start, f), (start + shift, -f)):
            before = lax.dynamic_slice_in_dim(total, first_place, tile, axis=1)
            total = lax.dynamic_update_slice_in_dim(total, before + force, first_place, axis=1)
        return total, desk

    nothing = varying_with(jnp.zeros_like(periodic), z)
    start = nothing, _Desk.of(z, tile)
    total, _ = lax.fori_loop(0, count * shifts.shape[0], one, start)
    return (total[:, :n] + total[:, n : 2 * n]) * unit
