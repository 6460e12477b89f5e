"""The greedy of weighted coverage: one pick after the other on a CPU, many at a time elsewhere."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int

from . import _backend as backend
from . import _checks as checks
from ._distance import varying_with
from ._fuzzy import FuzzySimplicialSet, most_reverse_edges, reverse_rows
from ._lanes import Lanes
from ._least import stable_order
from ._steps import Steps, wait
from ._sums import sums_by_row
from ._types import Array, Progress

LEADERS = 8  # samples evaluated anew at a time; a step of the loop costs little more than for one
_LEVELS = 4  # of maxima of bounds: with three, looking for leaders takes longer than their gains
_REVERSE_CHUNK = 16  # reverse edges that are summed in one go
_AT_ONCE = 2  # chunks of them that are looked at before any loop; few leaders have more
ON_PAGE = _AT_ONCE * _REVERSE_CHUNK
_PICKS_PER_CALL = 4096
PICKS_AT_ONCE = 1 << 15  # where only so many are asked for; about a second, out of reach of Ctrl-C
_SHARES = 4  # of the classes, picked beside each other
_LEAST_TO_SHARE = 4096  # samples; fewer are picked at once
_ROUNDS_PER_CALL = 256
_GAIN_BITS = 30  # of the largest gain, in the units of a greedy in rounds


class Edges(eqx.Module):
    indices: Int[Array, "n k"]
    memberships: Float[Array, "n k"]
    offsets: Int[Array, " n+1"]
    reverse_indices: Int[Array, " e"]
    reverse_memberships: Float[Array, " e"]
    reverse_rows: Int[Array, " e"]
    most: Int[Array, ""]  # reverse edges of a point


class Pages(eqx.Module):
    """The edges for the greedy of a CPU, which wants those of a few samples at a time.

    Of each sample one row holds the other ends of its edges and of the first of the reverse ones,
    then the memberships of all these, bit by bit, and where its reverse edges begin and end: of a
    large data set every place that is looked up is one more wait for memory.
    """

    rows: Int[Array, "n width"]
    reverse_indices: Int[Array, " e"]
    reverse_memberships: Float[Array, " e"]
    reverse_rows: Int[Array, " e"]


class _Greedy(eqx.Module):
    """State of the lazy greedy. The last of the `levels` bounds the gain of each sample, -inf once
    picked; each level before it holds the maxima of the last axis of the next. `gain` is that of a
    pick, -1 before it."""

    levels: tuple[Float[Array, "..."], ...]
    covered: Float[Array, " n"]
    gain: Float[Array, " n"]
    count: Int[Array, ""]


class _Scratch(eqx.Module):
    """Room for what a step of the greedy reads out of large arrays.

    XLA would have two threads share the reading of a few numbers out of an array of more than
    512 KiB, which takes longer than all that a step does with them. It leaves alone what ends in an
    update in place, such as one of these, and each has a row more, or it would be no update.
    """

    bounds: Float[Array, "rows width"]
    pages: Int[Array, "rows page"]
    gains: Float[Array, " rows"]


def greedy_coverage(
    fuzzy_set: FuzzySimplicialSet,
    weights: Float[Array, " n"],
    codes: Int[Array, " n"],
    *,
    n_picks: int | None = None,
    progress: Progress | None = None,
) -> Int[Array, " n"]:
    """The greedy order of weighted coverage; edges between different codes do not count.

    At least `n_picks` of its places hold it, the first ones; all unless given. What gains nothing
    comes last, the heavier first: about half of the samples, whose nearest neighbor, to which they
    belong wholly, was picked before them.

    Lazy (Minoux 1978): gains only fall, so an old gain is a bound. The samples that lead the blocks
    of the largest bounds are evaluated anew, and the largest of all is picked once it is fresh.
    Gains are sums in a fixed order, and rounding is monotone, so that the bounds hold in floating
    point and the picks are those of the plain greedy: in the order of the gains that they had. So
    classes, between which nothing counts, are picked beside each other. An accelerator, which pays
    for every step, finds the same order in rounds.
    """
    n = fuzzy_set.n_points
    if not backend.is_cpu():
        return greedy_in_rounds(fuzzy_set, weights, codes, n_picks=n_picks, progress=progress)
    pages = pages_within(fuzzy_set, codes)
    asked = n if n_picks is None else n_picks
    state = _start(pages, weights)
    at_once = n_picks is not None and n_picks <= PICKS_AT_ONCE
    if at_once or checks.is_traced(state.covered):
        return _order(_pick(pages, weights, state, np.int32(asked)).gain, weights)
    sizes, states = [asked], (state,)
    if n_picks is None and len(shares := _shares(codes)) > 1:
        sizes = [int(np.count_nonzero(share)) for share in shares]
        states = tuple(_restricted(state, share) for share in shares)
    return _picked(pages, weights, states, sizes, progress)


def compile_coverage(fuzzy_set: Any, run: Callable[[str, int, int], None]) -> None:
    """Compiles what the greedy of a CPU takes for a set of these shapes."""
    n, dtype = fuzzy_set.n_points, fuzzy_set.memberships.dtype
    whole, number = jax.ShapeDtypeStruct((n,), np.int32), jax.ShapeDtypeStruct((), np.int32)
    weights = jax.ShapeDtypeStruct((n,), dtype)
    pages = jax.eval_shape(pages_within, fuzzy_set, whole)
    state = jax.eval_shape(_start, pages, weights)
    programs = [
        (pages_within, (fuzzy_set, whole)),
        (_start, (pages, weights)),
        (_pick, (pages, weights, state, number)),
        (_order, (weights, weights)),
    ]
    for i, (program, shapes) in enumerate(programs):
        run("compilation", i, len(programs))
        program.lower(*shapes).compile()


def _picked(
    pages: Pages,
    weights: Float[Array, " n"],
    states: tuple[_Greedy, ...],
    sizes: list[int],
    progress: Progress | None,
) -> Int[Array, " n"]:
    """The order when each of the states, in which nothing is picked that can be in another, has
    made so many picks."""
    lanes = Lanes([weights, *(state.covered for state in states)])

    def some_picks(states: tuple[_Greedy, ...], done: int) -> tuple[_Greedy, ...]:
        first = done // len(states)
        left = [min(_PICKS_PER_CALL, size - first) for size in sizes]
        return tuple(
            lanes.hand_over(i, _pick, pages, weights, state, np.int32(max(0, left[i])))
            for i, state in enumerate(states)
        )

    total, size = max(sizes) * len(sizes), _PICKS_PER_CALL * len(sizes)
    steps = Steps("selection", total, progress, size=size)
    picked = steps.end(steps.carry(some_picks, states))
    # Every sample is picked in one of the states, and has no gain in the others yet.
    return _order(reduce(jnp.maximum, [state.gain for state in picked]), weights)


@jax.jit
def _order(gain: Array, weights: Float[Array, " n"]) -> Int[Array, " n"]:
    """From the largest gain at its pick to the least, the lower index first among equal ones; then
    what gains nothing or was not picked, from the largest weight to the least: in the order of
    their indices the rest of sorted data would be of their first classes."""
    bits = jnp.finfo(weights.dtype).bits
    unsigned, half = (jnp.uint64 if bits == 64 else jnp.uint32), 1 << (bits - 1)

    def falling(values: Array) -> Array:
        """Below half of all numbers, the larger the value, none of which is negative, the less."""
        is_float = jnp.issubdtype(values.dtype, jnp.floating)
        rising = lax.bitcast_convert_type(values, unsigned) if is_float else values.astype(unsigned)
        return jnp.asarray(half - 1, unsigned) - rising

    rest = falling(jnp.where(weights > 0, weights, 0)) + jnp.asarray(half, unsigned)
    keys = jnp.where(gain > 0, falling(jnp.maximum(gain, 0)), rest)
    return stable_order(keys, 2 * half - 1)


def _shares(codes: Int[Array, " n"]) -> list[np.ndarray]:
    """Which samples are of each share of the classes, as equal as whole classes allow: no pick of
    one changes a gain in another, so that they are picked beside each other. How many there are
    depends on the data alone."""
    sizes = np.bincount(np.asarray(codes))
    n_shares = min(_SHARES, np.count_nonzero(sizes)) if codes.shape[0] >= _LEAST_TO_SHARE else 1
    filled, share_of = np.zeros(n_shares, np.int64), np.zeros(sizes.size, np.int64)
    for code in np.argsort(-sizes, kind="stable"):
        share_of[code] = np.argmin(filled)
        filled[share_of[code]] += sizes[code]
    return [share_of[np.asarray(codes)] == i for i in range(n_shares)]


@jax.jit
def _restricted(state: _Greedy, share: Bool[Array, " n"]) -> _Greedy:
    """The state in which only the samples of a share can be picked."""
    bounds = state.levels[-1]
    wanted = jnp.pad(share, (0, bounds.size - share.shape[0])).reshape(bounds.shape)
    return dataclasses.replace(state, levels=_levels(jnp.where(wanted, bounds, -jnp.inf)))


def _levels(bounds: Float[Array, "..."]) -> tuple[Float[Array, "..."], ...]:
    levels = (bounds,)
    while len(levels) < bounds.ndim:
        levels = (jnp.max(levels[0], axis=-1), *levels)
    return levels


@jax.jit
def edges_within(fuzzy_set: FuzzySimplicialSet, codes: Int[Array, " n"]) -> Edges:
    indices = jnp.maximum(fuzzy_set.indices, 0)
    same = codes[indices] == codes[:, None]
    reverse = jnp.maximum(fuzzy_set.reverse_indices, 0)
    rows = jnp.minimum(reverse_rows(fuzzy_set), fuzzy_set.n_points - 1)
    within = codes[reverse] == codes[rows]
    padding = (0, _REVERSE_CHUNK)
    return Edges(
        indices=indices,
        memberships=jnp.where(same, fuzzy_set.memberships, 0),
        offsets=fuzzy_set.reverse_offsets,
        reverse_indices=jnp.pad(reverse, padding),
        reverse_memberships=jnp.pad(jnp.where(within, fuzzy_set.reverse_memberships, 0), padding),
        reverse_rows=jnp.pad(rows, padding, constant_values=fuzzy_set.n_points - 1),
        most=most_reverse_edges(fuzzy_set),
    )


@jax.jit
def pages_within(fuzzy_set: FuzzySimplicialSet, codes: Int[Array, " n"]) -> Pages:
    edges = edges_within(fuzzy_set, codes)
    begin, end = edges.offsets[:-1, None], edges.offsets[1:, None]
    slots = begin + jnp.arange(ON_PAGE, dtype=jnp.int32)[None, :]
    reverse_mu = jnp.where(slots < end, edges.reverse_memberships[slots], 0)
    mu = jnp.concatenate([edges.memberships, reverse_mu], axis=1)
    bits = lax.bitcast_convert_type(mu, jnp.int32).reshape(mu.shape[0], -1)
    # Point 0 stands for an end where there is none: numbers that are at hand.
    reverse = jnp.where(slots < end, edges.reverse_indices[slots], 0)
    return Pages(
        rows=jnp.concatenate([edges.indices, reverse, bits, begin, end], axis=1),
        reverse_indices=edges.reverse_indices,
        reverse_memberships=edges.reverse_memberships,
        reverse_rows=edges.reverse_rows,
    )


def _read(page: Int[Array, "*rows width"], dtype: Any) -> tuple[Array, Array, Array]:
    """Of pages: the ends of the edges, their memberships, where all reverse ones begin and end."""
    size = jnp.dtype(dtype).itemsize // page.dtype.itemsize
    m = (page.shape[-1] - 2) // (1 + size)
    indices, bits, ends = jnp.split(page, (m, page.shape[-1] - 2), axis=-1)
    bits = bits.reshape(*indices.shape, *(size,) * (size > 1))
    return indices, lax.bitcast_convert_type(bits, dtype), ends


@jax.jit
def _start(pages: Pages, weights: Float[Array, " n"]) -> _Greedy:
    n = weights.shape[0]
    # The gain of a first pick; a little more, because these sums are in another order than a gain.
    indices, mu, _ = _read(pages.rows, weights.dtype)
    k = indices.shape[1] - ON_PAGE
    own = jnp.sum(mu[:, :k] * weights[indices[:, :k]], axis=1)
    reverse = pages.reverse_memberships * weights[pages.reverse_indices]
    reverse = jax.ops.segment_sum(reverse, pages.reverse_rows, n, indices_are_sorted=True)
    bound = (weights + own + reverse) * 1.0001
    bound = jnp.where(jnp.isnan(bound), 0, bound)
    shape = _shape_of_levels(n)
    bound = jnp.pad(bound, (0, math.prod(shape) - n), constant_values=-jnp.inf)
    start = _Greedy(
        levels=_levels(bound.reshape(shape)),
        covered=jnp.zeros_like(weights),
        gain=jnp.full_like(weights, -1),
        count=jnp.zeros((), jnp.int32),
    )
    return varying_with(start, bound)


def _shape_of_levels(n: int) -> tuple[int, ...]:
    """The sides of a cube with room for n bounds, about twice as long in the direction whose
    largest lead: what is looked through for each is short for every n."""
    width = max(1, math.ceil((n / 2) ** (1 / _LEVELS)))
    return (-(-n // width ** (_LEVELS - 1)), *(width,) * (_LEVELS - 1))


@jax.jit
def _pick(
    pages: Pages, weights: Float[Array, " n"], state: _Greedy, n_picks: Int[Array, ""]
) -> _Greedy:
    """Up to `n_picks` more picks, as long as one gains anything."""
    n, shape = weights.shape[0], state.levels[-1].shape
    stop = jnp.minimum(state.count + n_picks, n)
    n_leaders = min(LEADERS, shape[0])

    # Every update is a masked write in place, and no array is read once it is written: a `cond`, or
    # a maximum of what was just written, would copy the whole state each time.
    def evaluate(carry: tuple[_Greedy, _Scratch]) -> tuple[_Greedy, _Scratch]:
        state, scratch = carry
        none = jnp.minimum(state.count, 0)  # which XLA does not know to be 0

        def through(room: Array, values: Array) -> tuple[Array, Array]:
            room = lax.dynamic_update_slice(room, values, (none,) * room.ndim)
            return room, room[:n_leaders]

        largest, blocks = lax.top_k(state.levels[0], n_leaders)
        path: tuple[Array, ...] = (blocks.astype(jnp.int32),)
        leaders, besides = path[0], []  # of each level the maxima before and after the leader's
        bounds = scratch.bounds
        for values in state.levels[1:]:
            row = values[path]
            if values.ndim == len(shape):
                bounds, row = through(bounds, row)
            place = jnp.argmax(row, axis=1).astype(jnp.int32)
            path = (*path, place)
            leaders = leaders * row.shape[1] + place
            places = jnp.arange(row.shape[1], dtype=jnp.int32)[None, :]
            sides = (places < place[:, None], places > place[:, None])
            besides.append([jnp.max(jnp.where(side, row, -jnp.inf), axis=1) for side in sides])
        real = jnp.minimum(leaders, n - 1)
        read, found = through(scratch.pages, pages.rows[real])
        gain = partial(_first_gain, weights, state.covered)
        room, gains = through(scratch.gains, jax.vmap(gain)(real, found))
        gains = jax.vmap(partial(_whole_gain, pages, weights, state.covered))(found, gains)
        # A gain that is NaN (weights or memberships were) must not stop the loop from ending.
        gains = jnp.where(jnp.isnan(gains), 0, gains)
        gains = jnp.where(largest > -jnp.inf, gains, -jnp.inf)
        # Picked is the leader that is now the first of the largest bounds, if one of them is.
        best, is_first = gains, jnp.ones(n_leaders, bool)
        for before, after in reversed(besides):
            is_first = is_first & (best > before) & (best >= after)
            best = jnp.maximum(jnp.maximum(before, after), best)
        block = jnp.argmax(state.levels[0].at[blocks].set(best)).astype(jnp.int32)
        picked = (path[0] == block) & is_first
        leads = jnp.any(picked)
        which = jnp.argmax(picked)
        i = leaders[which]
        best = jnp.where(picked, -jnp.inf, gains)
        levels = (state.levels[-1].at[path].set(best),)
        for values, (before, after) in zip(state.levels[-2::-1], besides[::-1], strict=True):
            best = jnp.maximum(jnp.maximum(before, after), best)
            levels = (values.at[path[: values.ndim]].set(best), *levels)
        state = _Greedy(
            levels=levels,
            covered=_cover(pages, state.covered, i, found[which], leads),
            gain=state.gain.at[jnp.where(leads, i, n)].set(gains[which], mode="drop"),
            count=state.count + leads.astype(state.count.dtype),
        )
        return state, _Scratch(bounds, read, room)

    def is_unfinished(carry: tuple[_Greedy, _Scratch]) -> Array:
        # Where nobody gains anything `_order` knows who follows.
        state, _ = carry
        return (state.count < stop) & (jnp.max(state.levels[0]) > 0)

    rows, dtype = n_leaders + 1, weights.dtype
    scratch = _Scratch(
        bounds=jnp.zeros((rows, shape[-1]), dtype),
        pages=jnp.zeros((rows, pages.rows.shape[1]), jnp.int32),
        gains=jnp.zeros(rows, dtype),
    )
    start = (state, varying_with(scratch, state.covered))
    return lax.while_loop(is_unfinished, evaluate, start)[0]


def _reverse_chunk(pages: Pages, ends: Array, c: int | Array) -> tuple[Array, Array]:
    """A chunk of the reverse edges between two slots; membership 0 beyond the last."""
    start = ends[0] + c * _REVERSE_CHUNK
    indices = lax.dynamic_slice_in_dim(pages.reverse_indices, start, _REVERSE_CHUNK)
    mu = lax.dynamic_slice_in_dim(pages.reverse_memberships, start, _REVERSE_CHUNK)
    is_there = start + jnp.arange(_REVERSE_CHUNK, dtype=jnp.int32) < ends[1]
    return indices, jnp.where(is_there, mu, 0)


def _n_chunks(ends: Array) -> Array:
    return -(-(ends[1] - ends[0]) // _REVERSE_CHUNK)


def _added(weights: Array, covered: Array, indices: Array, mu: Array) -> Array:
    """What the ends of some edges add to F if they are covered so well."""
    return weights[indices] * jnp.maximum(mu - covered[indices], 0)


def _first_gain(weights: Array, covered: Array, i: Array, page: Array) -> Array:
    """What picking i adds to F at itself and at all that stands on its page."""
    indices, mu, _ = _read(page, weights.dtype)
    k = indices.shape[0] - ON_PAGE
    gain = weights[i] * jnp.maximum(1 - covered[i], 0)
    gain = gain + jnp.sum(_added(weights, covered, indices[:k], mu[:k]))
    reverse = _added(weights, covered, indices[k:], mu[k:])
    for c in range(_AT_ONCE):  # one after the other, as those of the loop
        gain = gain + jnp.sum(reverse[c * _REVERSE_CHUNK : (c + 1) * _REVERSE_CHUNK])
    return gain


def _whole_gain(pages: Pages, weights: Array, covered: Array, page: Array, gain: Array) -> Array:
    """`gain`, a first one, and what the other reverse edges add to it."""
    *_, ends = _read(page, weights.dtype)

    def more(c: Array, gain: Array) -> Array:
        return gain + jnp.sum(_added(weights, covered, *_reverse_chunk(pages, ends, c)))

    return lax.fori_loop(_AT_ONCE, _n_chunks(ends), more, gain)


def _cover(pages: Pages, covered: Array, i: Array, page: Array, really: Array) -> Array:
    """Coverage after picking i, if `really`."""
    indices, mu, ends = _read(page, covered.dtype)
    indices = jnp.concatenate([i[None], indices])
    mu = jnp.concatenate([jnp.ones(1, mu.dtype), mu])
    covered = covered.at[indices].max(jnp.where(really, mu, 0))

    def more(c: Array, covered: Array) -> Array:
        indices, mu = _reverse_chunk(pages, ends, c)
        return covered.at[indices].max(mu)

    return lax.fori_loop(_AT_ONCE, jnp.where(really, _n_chunks(ends), 0), more, covered)


class _Rounds(eqx.Module):
    """State of the greedy in rounds. `gain` is that of a pick, -1 before it."""

    covered: Float[Array, " n"]
    gain: Int[Array, " n"]
    ahead: Int[Array, ""]  # picks that no later one can precede


def greedy_in_rounds(
    fuzzy_set: FuzzySimplicialSet,
    weights: Float[Array, " n"],
    codes: Int[Array, " n"],
    *,
    n_picks: int | None = None,
    progress: Progress | None = None,
) -> Int[Array, " n"]:
    """`greedy_coverage` in rounds of independent picks.

    A pick changes the gain of a sample only through a point that both of them could still cover
    better. So a sample whose gain is the largest around all points that it could cover is picked
    before any that could change it, with the gain that it has now; and as gains only fall, the
    greedy order is that of the gains at the picks. Gains are whole numbers of a unit, about 2^-30
    of the largest: their sums do not round, whatever the order in which an accelerator adds.

    About 5 n^(1/4) rounds on features of networks, of O(n k) each; where equal gains make a chain,
    as on a line of points at equal distances, they grow as n.
    """
    n = fuzzy_set.n_points
    last = n if n_picks is None else n_picks
    edges, weights, unit, state = _before_rounds(fuzzy_set, weights, codes)
    traced = checks.is_traced(state.covered)
    report = progress if progress is not None and not traced else lambda *_: None
    report("selection", 0, last)
    ahead = 0
    while ahead < last:
        state = _some_rounds(edges, weights, unit, state, last, n if traced else _ROUNDS_PER_CALL)
        ahead = last if traced else int(wait(state.ahead))
        report("selection", min(ahead, last), last)
    return _order(state.gain, weights)


@jax.jit
def _before_rounds(
    fuzzy_set: FuzzySimplicialSet, weights: Float[Array, " n"], codes: Int[Array, " n"]
) -> tuple[Edges, Array, Array, _Rounds]:
    """Edges, weights up to 1, the unit of gains, and the state at the start."""
    n = weights.shape[0]
    edges = edges_within(fuzzy_set, codes)
    # Powers of two, so that nothing is rounded but to whole numbers. NaN weighs nothing.
    weights = jnp.where(weights > 0, jnp.minimum(weights, jnp.finfo(weights.dtype).max), 0)
    weights = jnp.ldexp(weights, -jnp.frexp(jnp.max(weights))[1])
    gain = weights + jnp.sum(edges.memberships * weights[edges.indices], axis=1)
    of_others = edges.reverse_memberships * weights[edges.reverse_indices]
    gain = gain + sums_by_row(of_others, edges.reverse_rows, n, most=edges.most, is_sorted=True)
    largest = jnp.max(jnp.where(jnp.isnan(gain), 0, gain))
    unit = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - _GAIN_BITS)
    state = _Rounds(jnp.zeros_like(weights), jnp.full(n, -1, jnp.int32), jnp.int32(0))
    return edges, weights, unit, varying_with(state, weights)


@jax.jit
def _some_rounds(
    edges: Edges,
    weights: Float[Array, " n"],
    unit: Float[Array, ""],
    state: _Rounds,
    last: Int[Array, ""],
    n_rounds: Int[Array, ""],
) -> _Rounds:
    """Up to `n_rounds` more, as long as fewer than `last` picks are ahead of all others."""
    n = weights.shape[0]
    own = jnp.arange(n, dtype=jnp.int32)
    # Each edge from both its ends: the listed ones as (n, k), those that are found from their
    # other end as a list sorted by row.
    rows, others, listed = edges.reverse_rows, edges.reverse_indices, edges.indices
    mu, reverse_mu = edges.memberships, edges.reverse_memberships
    at_ends = {"num_segments": n, "indices_are_sorted": True}

    def whole(gain: Array) -> Array:
        return jnp.round(jnp.where(gain > 0, gain, 0) / unit).astype(jnp.int32)

    def most(of_listed: Array, of_others: Array) -> Array:
        ends = jax.ops.segment_max(of_others, rows, **at_ends)
        return jnp.maximum(jnp.max(of_listed, axis=1), ends)

    def one_round(state: _Rounds) -> _Rounds:
        covered, left = state.covered, state.gain < 0
        # What a sample gains at itself, at those that it lists and at those that list it.
        here = whole(weights * (1 - covered))
        there = whole(weights[listed] * (mu - covered[listed]))
        beyond = whole(weights[others] * (reverse_mu - covered[others]))
        gain = here + jnp.sum(there, axis=1, dtype=jnp.int32)
        gain = gain + jax.ops.segment_sum(beyond, rows, **at_ends)
        gain = jnp.where(left, gain, -1)
        # Of each point: the largest gain of a sample that gains anything there, and its index.
        of_listed = whole(weights[:, None] * (mu - covered[:, None])) > 0
        of_others = whole(weights[rows] * (reverse_mu - covered[rows])) > 0
        best = most(jnp.where(of_listed, gain[listed], -1), jnp.where(of_others, gain[others], -1))
        best = jnp.maximum(best, jnp.where(here > 0, gain, -1))
        leads = of_listed & (gain[listed] == best[:, None])
        leads_too = of_others & (gain[others] == best[rows])
        leader = -most(jnp.where(leads, -listed, -n), jnp.where(leads_too, -others, -n))
        leader = jnp.where((here > 0) & (gain == best), jnp.minimum(leader, own), leader)
        beaten = most(
            (there > 0) & (leader[listed] != own[:, None]), (beyond > 0) & (leader[others] != rows)
        )
        beaten = beaten | ((here > 0) & (leader != own))
        # The first of the largest gains of all is never beaten, whatever the rounding says.
        picked = left & (~beaten | (own == jnp.argmax(gain).astype(jnp.int32)))
        cover = most(jnp.where(picked[listed], mu, 0), jnp.where(picked[others], reverse_mu, 0))
        covered = jnp.maximum(jnp.maximum(covered, cover), picked.astype(covered.dtype))
        gains = jnp.where(picked, gain, state.gain)
        highest = jnp.max(jnp.where(left & ~picked, gain, -1))
        return _Rounds(covered, gains, jnp.sum(gains > highest, dtype=jnp.int32))

    def step(carry: tuple[Array, _Rounds]) -> tuple[Array, _Rounds]:
        count, state = carry
        return count + 1, one_round(state)

    def unfinished(carry: tuple[Array, _Rounds]) -> Array:
        count, state = carry
        return (count < n_rounds) & (state.ahead < last)

    start = (varying_with(jnp.zeros((), jnp.int32), weights), state)
    return lax.while_loop(unfinished, step, start)[1]
