"""Selection: greedy coverage of the manifold, weighted by complexity, with quotas by class."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from . import _checks as checks
from ._distance import varying_with
from ._fuzzy import FuzzySimplicialSet, check_fuzzy_set, reverse_rows
from ._steps import Steps
from ._types import Array, ArrayInput, Progress

DEFAULT_BETA = 1.0
_LEADERS = 8  # samples evaluated anew at a time; a step of the loop costs little more than for one
_REVERSE_CHUNK = 16  # reverse edges looked at in one go; most points have fewer
_PICKS_PER_CALL = 4096


class Selection(eqx.Module):
    """Which samples to keep.

    **Attributes:**

    - `order`: (n,) int32, every sample once, the best to keep first.
    - `kept`: (m,) int32, the first m of `order`, m = `kept_count(n, ratio)`.
    - `removed`: (n - m,) int32, the rest of it.
    - `weights`: (n,) the weight of each sample in the coverage.
    """

    order: Int[Array, " n"]
    kept: Int[Array, " m"]
    removed: Int[Array, " n-m"]
    weights: Float[Array, " n"]


def select(
    fuzzy_set: FuzzySimplicialSet,
    scores: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput | None = None,
    strata: ArrayInput | None = None,
    weights: ArrayInput | None = None,
    beta: float | Array = DEFAULT_BETA,
    progress: Progress | None = None,
) -> Selection:
    r"""Keeps the samples that best cover the manifold, simple or complex regions first.

    Greedy maximization of the weighted facility-location function

        F(S) = sum_j w_j max_{i in S} mu_ij,   mu_jj = 1,   w_j = v_j exp(-beta r_j),

    where v_j are the `weights`, 1 unless given, and r_j in [0, 1) is the rank of score j among its
    class (or its stratum, or all samples) divided by their number. F is monotone and submodular,
    so that the greedy set is within 1 - 1/e of the best (Nemhauser, Wolsey, Fisher 1978). The
    greedy is exact: each pick has the largest gain of all, equal gains go to the lower index. The
    order runs on through all samples, so that one order serves every ratio and what is kept at 0.9
    is part of what is kept at 0.8.

    With labels, the coverage is per class: edges between classes do not count, and the classes'
    own greedy orders are interleaved in proportion to their sizes (pick t of a class of size
    n_c comes at (t + 1/2) / n_c, the first at 0). So no class is lost as long as there are as many
    places as classes, and apart from these first places, which many small classes take from the
    large ones, every class keeps its share of the samples.

    **Arguments:**

    - `fuzzy_set`: mu, of n samples. With labels, one built within classes covers best:
      `fuzzy_simplicial_set(knn_graph(features, labels=labels))`.
    - `scores`: (n,) structural complexity; any finite numbers, only their ranks count.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.
    - `labels`: (n,) classes.
    - `strata`: (n,) groups within which scores are ranked; the classes where labels are given.
    - `weights`: (n,) v, not negative: how much it counts that a sample is covered. With labels,
      powers of `class_agreement` keep out those that only look like other classes.
    - `beta`: 0 is pure coverage; the larger, the more complex samples are avoided. At beta = 1 the
      most complex sample of a class weighs 0.37 of the simplest, at beta = -1 it weighs 2.7 times
      as much. Between -50 and 50.
    - `progress`: called with ("selection", done, total).

    **Returns:** a `Selection`.

    **Raises:** TypeError or ValueError with one sentence for scores, labels or strata of another
    length or not finite, weights below 0, a ratio outside [0, 1), or a beta out of range.

    Works under `jit` and `vmap`, for a ratio that is a Python number. Time is about n log n picks,
    memory O(n k).

    ```python
    >>> import topoprune_jax as tp
    >>> points = [[0.0], [0.1], [0.2], [5.0], [5.1]]
    >>> fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=1))
    >>> tp.select(fuzzy_set, [0.0] * 5, 0.6, beta=0.0).kept.tolist()
    [1, 3]

    ```
    """
    check_fuzzy_set(fuzzy_set)
    n = fuzzy_set.n_points
    values = checks.check_ranks(scores, n, name="scores")
    n_kept = kept_count(n, ratio)
    beta = checks.check_beta(beta)
    zeros = jnp.zeros(n, jnp.int32)
    codes = zeros if labels is None else checks.check_labels(labels, n)
    groups = codes if strata is None else checks.check_labels(strata, n, name="strata")
    own = _weights(fuzzy_set, values, groups, beta)
    if weights is not None:
        hint = "A weight of 0 leaves a sample uncovered."
        given = checks.check_nonnegative(weights, n, name="weights", hint=hint)
        own = own * jnp.asarray(given, own.dtype)
    weights = own
    coverage = greedy_coverage(fuzzy_set, weights, codes, progress=progress)
    order = interleave(coverage, codes)
    return Selection(order, order[:n_kept], order[n_kept:], weights)


def _weights(fuzzy_set: FuzzySimplicialSet, values: Array, groups: Array, beta) -> Array:
    dtype = fuzzy_set.memberships.dtype
    return jnp.exp(-jnp.asarray(beta, dtype) * group_rank(values, groups).astype(dtype))


def kept_by_strata(
    fuzzy_set: FuzzySimplicialSet, scores: ArrayInput, ratio: float, *, strata: ArrayInput, beta
) -> Int[Array, " m"]:
    """What `select` keeps without labels, found without ordering the others."""
    n = fuzzy_set.n_points
    values = checks.check_ranks(scores, n, name="scores")
    groups = checks.check_labels(strata, n, name="strata")
    m = kept_count(n, ratio)
    weights = _weights(fuzzy_set, values, groups, beta)
    return greedy_coverage(fuzzy_set, weights, jnp.zeros(n, jnp.int32), n_picks=m)[:m]


def kept_count(n: int, ratio: float) -> int:
    """How many of n samples stay when a fraction `ratio` is removed.

    m = max(1, round((1 - ratio) n)), halves up and free of rounding in 1 - ratio: a tenth of 45 is
    5, where Python's `round` has 4. One `order` serves every ratio, cut at its m.

    **Arguments:**

    - `n`: the number of samples, at least 1.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.

    **Returns:** m, a Python int.

    **Raises:** TypeError or ValueError for a number out of its range.

    ```python
    >>> import topoprune_jax as tp
    >>> tp.kept_count(45, 0.9)
    5

    ```
    """
    n = checks.check_count(n, name="n", low=1)
    ratio = checks.check_ratio(ratio)
    return max(1, int(np.floor(n - ratio * n + 0.5 + 1e-9)))


@jax.jit
def group_rank(values: Float[Array, " n"], groups: Int[Array, " n"]) -> Float[Array, " n"]:
    """Rank of every value within its group, divided by the group's size; ties by index."""
    n = values.shape[0]
    order = jnp.lexsort((values, groups))
    sorted_groups = groups[order]
    first = jnp.searchsorted(sorted_groups, sorted_groups, side="left")
    size = jnp.searchsorted(sorted_groups, sorted_groups, side="right") - first
    rank = (jnp.arange(n, dtype=first.dtype) - first).astype(values.dtype) / size.astype(
        values.dtype
    )
    return jnp.zeros_like(values).at[order].set(rank)


def class_agreement(fuzzy_set: FuzzySimplicialSet, labels: ArrayInput) -> Float[Array, " n"]:
    r"""How much the manifold around each sample is of the sample's own class.

        a_j = sum over i of the class of j of mu_ij / sum over all i of mu_ij,

    between 0 and 1; 1 for a sample without edges. It is small for samples that lie among another
    class: mislabeled ones, and those that the features cannot tell apart.

    **Arguments:**

    - `fuzzy_set`: mu, of n samples, built without regard to the classes.
    - `labels`: (n,) classes; or other groups, such as strata.

    **Returns:** (n,) shares.

    **Raises:** TypeError or ValueError with one sentence for labels of another length.

    Works under `jit` and `vmap`; O(n k).

    ```python
    >>> import topoprune_jax as tp
    >>> points = [[0.0], [0.1], [0.2], [5.0], [5.1]]
    >>> fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=1))
    >>> tp.class_agreement(fuzzy_set, ["a", "a", "b", "b", "b"]).tolist()
    [1.0, 0.5, 0.0, 1.0, 1.0]

    ```
    """
    check_fuzzy_set(fuzzy_set)
    return _agreement(fuzzy_set, checks.check_labels(labels, fuzzy_set.n_points))


@jax.jit
def _agreement(fuzzy_set: FuzzySimplicialSet, codes: Int[Array, " n"]) -> Float[Array, " n"]:
    n = fuzzy_set.n_points

    def total(groups: Int[Array, " n"]) -> Float[Array, " n"]:
        edges = _edges_within(fuzzy_set, groups)
        listed = jnp.sum(edges.memberships, axis=1)
        others = edges.reverse_memberships, edges.reverse_rows, n
        return listed + jax.ops.segment_sum(*others, indices_are_sorted=True)

    # Both sums in one order, so that a share of all is 1 to the bit.
    own, every = total(codes), total(jnp.zeros_like(codes))
    return jnp.where(every > 0, own / jnp.where(every > 0, every, 1), 1)


@jax.jit
def interleave(coverage: Int[Array, " n"], codes: Int[Array, " n"]) -> Int[Array, " n"]:
    """Merges the orders of the classes in proportion to their sizes."""
    n = coverage.shape[0]
    by_class = jnp.argsort(codes[coverage], stable=True)
    sorted_codes = codes[coverage][by_class]
    first = jnp.searchsorted(sorted_codes, sorted_codes, side="left")
    size = jnp.searchsorted(sorted_codes, sorted_codes, side="right") - first
    turn = jnp.arange(n, dtype=first.dtype) - first
    # (2 t + 1) / (2 size) compared in floating point: n < 2^24 is exact enough to order turns.
    when = jnp.where(turn == 0, 0, (turn.astype(jnp.float32) + 0.5) / size.astype(jnp.float32))
    return coverage[by_class][jnp.lexsort((by_class, when))]


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
    point and the picks are those of the plain greedy.
    """
    n = fuzzy_set.n_points
    edges, state = _start(fuzzy_set, weights, codes)
    traced = checks.is_traced(state.covered)
    per_call = n if traced else _PICKS_PER_CALL

    def some_picks(state: _Greedy, _: int) -> _Greedy:
        return _pick(edges, weights, state, per_call)

    steps = Steps("selection", n if n_picks is None else n_picks, progress, size=per_call)
    return steps.end(steps.carry(some_picks, state).order)


class _Edges(eqx.Module):
    indices: Int[Array, "n k"]
    memberships: Float[Array, "n k"]
    offsets: Int[Array, " n+1"]
    reverse_indices: Int[Array, " e"]
    reverse_memberships: Float[Array, " e"]
    reverse_rows: Int[Array, " e"]


def _edges_within(fuzzy_set: FuzzySimplicialSet, codes: Int[Array, " n"]) -> _Edges:
    indices = jnp.maximum(fuzzy_set.indices, 0)
    same = codes[indices] == codes[:, None]
    reverse = jnp.maximum(fuzzy_set.reverse_indices, 0)
    rows = jnp.minimum(reverse_rows(fuzzy_set), fuzzy_set.n_points - 1)
    within = codes[reverse] == codes[rows]
    padding = (0, _REVERSE_CHUNK)
    return _Edges(
        indices=indices,
        memberships=jnp.where(same, fuzzy_set.memberships, 0),
        offsets=fuzzy_set.reverse_offsets,
        reverse_indices=jnp.pad(reverse, padding),
        reverse_memberships=jnp.pad(jnp.where(within, fuzzy_set.reverse_memberships, 0), padding),
        reverse_rows=jnp.pad(rows, padding, constant_values=fuzzy_set.n_points - 1),
    )


@jax.jit
def _start(
    fuzzy_set: FuzzySimplicialSet, weights: Float[Array, " n"], codes: Int[Array, " n"]
) -> tuple[_Edges, _Greedy]:
    n = weights.shape[0]
    edges = _edges_within(fuzzy_set, codes)
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
def _pick(edges: _Edges, weights: Float[Array, " n"], state: _Greedy, n_picks: int) -> _Greedy:
    """Up to `n_picks` more picks."""
    n, (_, n_rows, width) = weights.shape[0], state.bound.shape
    stop = jnp.minimum(state.count + n_picks, n)

    n_leaders = min(_LEADERS, state.best.shape[0])

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


def _reverse_chunk(edges: _Edges, i: Array, c: Array) -> tuple[Array, Array]:
    """The c-th few reverse edges of point i; membership 0 beyond the last."""
    start = edges.offsets[i] + c * _REVERSE_CHUNK
    indices = lax.dynamic_slice_in_dim(edges.reverse_indices, start, _REVERSE_CHUNK)
    mu = lax.dynamic_slice_in_dim(edges.reverse_memberships, start, _REVERSE_CHUNK)
    slots = start + jnp.arange(_REVERSE_CHUNK, dtype=jnp.int32)
    return indices, jnp.where(slots < edges.offsets[i + 1], mu, 0)


def _n_chunks(edges: _Edges, i: Array) -> Array:
    return -(-(edges.offsets[i + 1] - edges.offsets[i]) // _REVERSE_CHUNK)


def _gain(edges: _Edges, weights: Array, covered: Array, i: Array) -> Array:
    """What picking i adds to F."""

    def added(indices: Array, mu: Array) -> Array:
        return jnp.sum(weights[indices] * jnp.maximum(mu - covered[indices], 0))

    own = weights[i] * jnp.maximum(1 - covered[i], 0) + added(
        edges.indices[i], edges.memberships[i]
    )
    return lax.fori_loop(
        0, _n_chunks(edges, i), lambda c, sum: sum + added(*_reverse_chunk(edges, i, c)), own
    )


def _cover(edges: _Edges, covered: Array, i: Array, really: Array) -> Array:
    """Coverage after picking i, if `really`."""
    covered = covered.at[i].max(really.astype(covered.dtype))
    covered = covered.at[edges.indices[i]].max(jnp.where(really, edges.memberships[i], 0))

    def more(c: Array, covered: Array) -> Array:
        indices, mu = _reverse_chunk(edges, i, c)
        return covered.at[indices].max(mu)

    return lax.fori_loop(0, jnp.where(really, _n_chunks(edges, i), 0), more, covered)
