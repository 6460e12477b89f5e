"""The greedy of weighted coverage: one pick after the other on a CPU, many at a time elsewhere."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from . import _backend as backend
from . import _checks as checks
from ._distance import varying_with
from ._fuzzy import FuzzySimplicialSet, most_reverse_edges, reverse_rows
from ._steps import Steps
from ._sums import sums_by_row
from ._types import Array, Progress

LEADERS = 8  # samples evaluated anew at a time; a step of the loop costs little more than for one
_REVERSE_CHUNK = 16  # reverse edges looked at in one go; most points have fewer
_PICKS_PER_CALL = 4096
_GAIN_BITS = 30  # of the largest gain, in the units of a greedy in rounds


class _Greedy(eqx.Module):
    """State of the lazy greedy. `bound` is at least the gain of each sample, -inf once picked."""

    bound: Float[Array, "blocks rows width"]
    row_best: Float[Array, "blocks rows"]  # maximum of each row of `bound`
    best: Float[Array, " blocks"]  # of each block
    covered: Float[Array, " n"]
    order: Int[Array, " n"]
    count: Int[Array, ""]


def greedy_coverage(
    fuzzy_set: FuzzySimplicialSet,
    weights: Float[Array, " n"],
    codes: Int[Array, " n"],
    *,
    n_picks: int | None = None,
    progress: Progress | None = None,
) -> Int[Array, " n"]:
    """The greedy order of weighted coverage; edges between different codes do not count.

    At least `n_picks` of its places are filled, the first ones; all unless given.

    Lazy (Minoux 1978): gains only fall, so an old gain is a bound. The samples that lead the blocks
    of the largest bounds are evaluated anew, and the largest of all is picked once it is fresh.
    Gains are sums in a fixed order, and rounding is monotone, so that the bounds hold in floating
    point and the picks are those of the plain greedy. An accelerator, which pays for every step,
    finds the same order in rounds.
    """
    n = fuzzy_set.n_points
    if not backend.is_cpu():
        steps = Steps("selection", n if n_picks is None else n_picks, progress, size=n)
        last = n if n_picks is None else n_picks
        return steps.end(steps.run(_in_rounds, fuzzy_set, weights, codes, last))
    edges, state = _start(fuzzy_set, weights, codes)
    traced = checks.is_traced(state.covered)
    per_call = n if traced else _PICKS_PER_CALL

    def some_picks(state: _Greedy, _: int) -> _Greedy:
        return _pick(edges, weights, state, per_call)

    steps = Steps("selection", n if n_picks is None else n_picks, progress, size=per_call)
    return steps.end(steps.carry(some_picks, state).order)


class Edges(eqx.Module):
    indices: Int[Array, "n k"]
    memberships: Float[Array, "n k"]
    offsets: Int[Array, " n+1"]
    reverse_indices: Int[Array, " e"]
    reverse_memberships: Float[Array, " e"]
    reverse_rows: Int[Array, " e"]
    most: Int[Array, ""]  # reverse edges of a point


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
def _start(
    fuzzy_set: FuzzySimplicialSet, weights: Float[Array, " n"], codes: Int[Array, " n"]
) -> tuple[Edges, _Greedy]:
    n = weights.shape[0]
    edges = edges_within(fuzzy_set, codes)
    # A look through one number of every block, one block's rows and one row is short for every n.
    width = max(1, round(n ** (1 / 3)))
    rows = max(1, math.isqrt(-(-n // width)))
    blocks = -(-n // (width * rows))
    # The gain of a first pick; a little more, because these sums are in another order than `_gain`.
    own = jnp.sum(edges.memberships * weights[edges.indices], axis=1)
    reverse = edges.reverse_memberships * weights[edges.reverse_indices]
    reverse = jax.ops.segment_sum(reverse, edges.reverse_rows, n, indices_are_sorted=True)
    bound = (weights + own + reverse) * 1.0001
    bound = jnp.where(jnp.isnan(bound), 0, bound)
    bound = jnp.pad(bound, (0, blocks * rows * width - n), constant_values=-jnp.inf)
    bound = bound.reshape(blocks, rows, width)
    row_best = jnp.max(bound, axis=2)
    start = _Greedy(
        bound=bound,
        row_best=row_best,
        best=jnp.max(row_best, axis=1),
        covered=jnp.zeros_like(weights),
        order=jnp.zeros(n, jnp.int32),
        count=jnp.zeros((), jnp.int32),
    )
    return edges, varying_with(start, bound)


@eqx.filter_jit
def _pick(edges: Edges, weights: Float[Array, " n"], state: _Greedy, n_picks: int) -> _Greedy:
    """Up to `n_picks` more picks."""
    n, (_, n_rows, width) = weights.shape[0], state.bound.shape
    stop = jnp.minimum(state.count + n_picks, n)

    n_leaders = min(LEADERS, state.best.shape[0])

    # Every update is a masked write in place, and no array is read once it is written: a `cond`, or
    # a maximum of what was just written, would copy the whole state each time.
    def evaluate(state: _Greedy) -> _Greedy:
        _, blocks = lax.top_k(state.best, n_leaders)
        blocks = blocks.astype(jnp.int32)
        of_rows = state.row_best[blocks]
        rows = jnp.argmax(of_rows, axis=1).astype(jnp.int32)
        of_places = state.bound[blocks, rows]
        places = jnp.argmax(of_places, axis=1).astype(jnp.int32)
        is_row = jnp.arange(n_rows, dtype=jnp.int32)[None, :] == rows[:, None]
        is_place = jnp.arange(width, dtype=jnp.int32)[None, :] == places[:, None]
        leaders = (blocks * n_rows + rows) * width + places
        gains = jax.vmap(lambda i: _gain(edges, weights, state.covered, i))(
            jnp.minimum(leaders, n - 1)
        )
        # A gain that is NaN (weights or memberships were) must not stop the loop from ending.
        gains = jnp.where(jnp.isnan(gains), 0, gains)
        gains = jnp.where(state.best[blocks] > -jnp.inf, gains, -jnp.inf)

        def with_gains(gains: Array) -> tuple[Array, Array, Array, Array]:
            """The leaders' rows and their maxima; the maxima of their blocks' rows and blocks."""
            new = jnp.where(is_place, gains[:, None], of_places)
            row_best = jnp.max(new, axis=1)
            new_rows = jnp.where(is_row, row_best[:, None], of_rows)
            return new, row_best, new_rows, jnp.max(new_rows, axis=1)

        new, _, new_rows, best = with_gains(gains)
        block = jnp.argmax(state.best.at[blocks].set(best)).astype(jnp.int32)
        # Picked is the leader that is now the first of the largest bounds, if one of them is.
        first_row = jnp.argmax(new_rows, axis=1).astype(jnp.int32)
        first_place = jnp.argmax(new, axis=1).astype(jnp.int32)
        picked = (blocks == block) & (first_row == rows) & (first_place == places)
        leads = jnp.any(picked)
        i = leaders[jnp.argmax(picked)]
        gains = jnp.where(picked, -jnp.inf, gains)
        _, row_best, _, best = with_gains(gains)
        return _Greedy(
            bound=state.bound.at[blocks, rows, places].set(gains),
            row_best=state.row_best.at[blocks, rows].set(row_best),
            best=state.best.at[blocks].set(best),
            covered=_cover(edges, state.covered, i, leads),
            order=state.order.at[jnp.where(leads, state.count, n)].set(i, mode="drop"),
            count=state.count + leads.astype(state.count.dtype),
        )

    return lax.while_loop(lambda s: s.count < stop, evaluate, state)


def _reverse_chunk(edges: Edges, i: Array, c: Array) -> tuple[Array, Array]:
    """The c-th few reverse edges of point i; membership 0 beyond the last."""
    start = edges.offsets[i] + c * _REVERSE_CHUNK
    indices = lax.dynamic_slice_in_dim(edges.reverse_indices, start, _REVERSE_CHUNK)
    mu = lax.dynamic_slice_in_dim(edges.reverse_memberships, start, _REVERSE_CHUNK)
    slots = start + jnp.arange(_REVERSE_CHUNK, dtype=jnp.int32)
    return indices, jnp.where(slots < edges.offsets[i + 1], mu, 0)


def _n_chunks(edges: Edges, i: Array) -> Array:
    return -(-(edges.offsets[i + 1] - edges.offsets[i]) // _REVERSE_CHUNK)


def _gain(edges: Edges, weights: Array, covered: Array, i: Array) -> Array:
    """What picking i adds to F."""

    def added(indices: Array, mu: Array) -> Array:
        return jnp.sum(weights[indices] * jnp.maximum(mu - covered[indices], 0))

    own = weights[i] * jnp.maximum(1 - covered[i], 0) + added(
        edges.indices[i], edges.memberships[i]
    )
    return lax.fori_loop(
        0, _n_chunks(edges, i), lambda c, sum: sum + added(*_reverse_chunk(edges, i, c)), own
    )


def _cover(edges: Edges, covered: Array, i: Array, really: Array) -> Array:
    """Coverage after picking i, if `really`."""
    covered = covered.at[i].max(really.astype(covered.dtype))
    covered = covered.at[edges.indices[i]].max(jnp.where(really, edges.memberships[i], 0))

    def more(c: Array, covered: Array) -> Array:
        indices, mu = _reverse_chunk(edges, i, c)
        return covered.at[indices].max(mu)

    return lax.fori_loop(0, jnp.where(really, _n_chunks(edges, i), 0), more, covered)


class _Rounds(eqx.Module):
    """State of the greedy in rounds. `gain` is that of a pick, -1 before it."""

    covered: Float[Array, " n"]
    gain: Int[Array, " n"]
    ahead: Int[Array, ""]  # picks that no later one can precede


@eqx.filter_jit
def _in_rounds(
    fuzzy_set: FuzzySimplicialSet, weights: Float[Array, " n"], codes: Int[Array, " n"], n_picks
) -> Int[Array, " n"]:
    """The greedy order, found in rounds of independent picks.

    A pick changes the gain of a sample only through a point that both of them could still cover
    better. So a sample whose gain is the largest around all points that it could cover is picked
    before any that could change it, with the gain that it has now; and as gains only fall, the
    greedy order is that of the gains at the picks. Gains are whole numbers of a unit, 2^-30 of
    the largest: their sums do not round, whatever the order in which an accelerator adds.
    """
    n = weights.shape[0]
    edges = edges_within(fuzzy_set, codes)
    own = jnp.arange(n, dtype=jnp.int32)
    # Each edge from both its ends: the listed ones as (n, k), those that are found from their
    # other end as a list sorted by row.
    rows, others, listed = edges.reverse_rows, edges.reverse_indices, edges.indices
    mu, reverse_mu = edges.memberships, edges.reverse_memberships

    def over_edges(of_listed: Array, of_others: Array, reduce, segments) -> Array:
        ends = segments(of_others, rows, n, indices_are_sorted=True)
        return reduce(jnp.stack([reduce(of_listed, axis=1), ends]), axis=0)

    def most(of_listed: Array, of_others: Array) -> Array:
        return over_edges(of_listed, of_others, jnp.max, jax.ops.segment_max)

    first_gain = weights + jnp.sum(mu * weights[listed], axis=1)
    of_others = reverse_mu * weights[others]
    first_gain = first_gain + sums_by_row(of_others, rows, n, most=edges.most, is_sorted=True)
    largest = jnp.max(jnp.where(jnp.isnan(first_gain), 0, first_gain))
    # A power of two, so that nothing is rounded but to whole numbers.
    unit = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - _GAIN_BITS)

    def whole(gain: Array) -> Array:
        gain = jnp.where(gain > 0, gain, 0)
        return jnp.round(gain / unit).astype(jnp.int32)

    def one_round(state: _Rounds) -> _Rounds:
        covered, left = state.covered, state.gain < 0
        gain = whole(weights * (1 - covered)) + over_edges(
            whole(weights[listed] * (mu - covered[listed])),
            whole(weights[others] * (reverse_mu - covered[others])),
            jnp.sum,
            jax.ops.segment_sum,
        )
        gain = jnp.where(left, gain, -1)
        # Around each point: the largest gain of a sample that could cover it better, and its index.
        open_here, open_ends = mu > covered[:, None], reverse_mu > covered[rows]
        best = most(jnp.where(open_here, gain[listed], -1), jnp.where(open_ends, gain[others], -1))
        best = jnp.maximum(best, jnp.where(covered < 1, gain, -1))
        leads_here = open_here & (gain[listed] == best[:, None])
        leads_ends = open_ends & (gain[others] == best[rows])
        leader = -most(jnp.where(leads_here, -listed, -n), jnp.where(leads_ends, -others, -n))
        leader = jnp.where((covered < 1) & (gain == best), jnp.minimum(leader, own), leader)
        beaten = most(
            (mu > covered[listed]) & (leader[listed] != own[:, None]),
            (reverse_mu > covered[others]) & (leader[others] != rows),
        )
        beaten = beaten | ((covered < 1) & (leader != own))
        picked = left & ~beaten
        cover = most(jnp.where(picked[listed], mu, 0), jnp.where(picked[others], reverse_mu, 0))
        covered = jnp.maximum(jnp.maximum(covered, cover), picked.astype(covered.dtype))
        gains = jnp.where(picked, gain, state.gain)
        highest = jnp.max(jnp.where(left & ~picked, gain, -1))
        ahead = jnp.sum(gains > highest, dtype=jnp.int32)
        return _Rounds(covered, gains, ahead)

    start = _Rounds(jnp.zeros_like(weights), jnp.full(n, -1, jnp.int32), jnp.int32(0))
    start = varying_with(start, weights)
    end = lax.while_loop(lambda state: state.ahead < n_picks, one_round, start)
    return jnp.argsort(-end.gain, stable=True).astype(jnp.int32)
