"""Faster searches that may miss a neighbor: a scan of few coordinates, and a scan of near blocks.

Both pick candidates from tiles of products and compute the distances of these anew from
differences, as the exact search does, and both say what fraction of the true neighbors they found.
"""

import math
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int

from . import _backend as backend
from . import _checks as checks
from . import _graph_exact as exact
from ._distance import norm, product, varying_with
from ._graph_exact import ROWS, Table
from ._graph_search import calls_for, exact_neighbors
from ._graph_tree import leaves
from ._least import MOST as MOST_OF_LEAST
from ._least import least
from ._steps import Steps
from ._sums import mean_row, over_rows
from ._types import Array, Progress

_AXES = 64  # principal axes that are scanned
PROJECTED_AXES = 61  # that `projected` scans: with three more columns 64, fast in a CPU's products
_SPLIT_AXES = 32  # those that the tree and the choice of blocks look at
_ALIKE = 0.6  # guessed cosine of what two near points have beyond these axes
_PCA_SAMPLE = 8192  # points that the axes are fitted to
_POWERS = 3  # rounds of subspace iteration
_PRODUCT_COLUMNS = 64  # in which a product on a CPU is fast
_VOTES = 8  # blocks that each point of a tile votes for
_MANY_BLOCKS = 256  # of more, finding the nearest anew for every vote takes longer
_PROJECTED_ROWS = 1 << 14  # points projected in one go
_GROUPS = 24  # groups of columns for each candidate that is kept
_RECALL_BLOCK = 1 << 14  # columns looked at in one go for the recall
_SAMPLE = 512  # points whose neighbors are sought exactly, for the recall
_COUNTED = 1 << 11  # points whose distances to all of these are looked at in one go
_TOLD = 1e-3  # of a squared distance, which rounding may move


def approximate_neighbors(
    points: Float[Array, "n d"],
    k: int,
    *,
    method: str,
    metric: str,
    codes: Int[Array, " n"] | None,
    stage: str,
    progress: Progress | None,
    tile_bytes: int = exact.TILE_BYTES,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"], Float[Array, ""]]:
    """Indices, distances and recall."""
    n, d = points.shape
    plan = _plan(n, k)
    if d <= _AXES if method == "projected" else plan is None:
        found = exact_neighbors(
            points,
            k,
            metric=metric,
            codes=codes,
            stage=stage,
            progress=progress,
            tile_bytes=tile_bytes,
        )
        return *found, jnp.ones((), points.dtype)
    if method == "projected":
        return _projected_neighbors(points, k, metric, codes, stage, progress, tile_bytes)
    return _block_neighbors(points, k, metric, plan, stage, progress)


class _Coordinates(eqx.Module):
    """What is scanned instead of the points: |y|^2 - 2 x . y for a query x and a value y.

    A query is its value but for two columns, so that the coordinates are held once.
    """

    values: Float[Array, "rows c"]
    lift: Float[Array, " rows"]  # how far the value lies beyond the query, 0 but for products
    direction: Float[Array, " p"]  # along this
    rest: Float[Array, " rows"]  # length of what the axes leave of the query
    is_complete: Bool[Array, ""]  # nothing is lost but rounding

    def queries(self, own: Int[Array, " size"]) -> Float[Array, "size c"]:
        p = self.direction.shape[0]
        along = self.values[own, :p] - self.lift[own][:, None] * self.direction[None, :]
        if p == self.values.shape[1]:
            return along
        return jnp.concatenate([along, _ALIKE * self.rest[own][:, None]], axis=1)

    @jax.jit
    def rows(self, order: Int[Array, " size"]) -> "_Coordinates":
        """Those of some rows."""
        return _Coordinates(
            self.values[order], self.lift[order], self.direction, self.rest[order], self.is_complete
        )


@partial(jax.jit, static_argnames=("metric", "width"))
def _coordinates(table: Table, *, metric: str, width: int) -> _Coordinates:
    """Coordinates along the leading axes and, where there are more, the length of what remains.

    For the orthogonal projection P and Q = 1 - P, x . y = Px . Py + Qx . Qy. The last product lies
    between plus and minus |Qx| |Qy|: `_ALIKE` times that is put in its place.

    For inner products a value y has one more coordinate, sqrt(M - |y|^2), where a query has 0: the
    nearest is then the one of the largest product.
    """
    inner = metric == "inner_product"
    n_rows = table.codes.shape[0]

    def centered(points, codes):
        return jnp.where(codes[:, None] < 0, 0, points - table.center[None, :])

    def lifted(points, codes, lift):
        x = centered(points, codes)
        return jnp.concatenate([x, lift[:, None]], axis=1) if inner else x

    lift = jnp.zeros(n_rows, table.points.dtype)
    middle = jnp.zeros_like(lifted(table.points[:1], table.codes[:1], lift[:1])[0])
    if inner:
        square = jnp.sum(centered(table.points, table.codes) ** 2, axis=1)
        lift = jnp.sqrt(jnp.max(square) - square)
        middle = mean_row(lifted(table.points, table.codes, lift))
    e = middle.shape[0]
    step = -(-table.n_points // _PCA_SAMPLE)
    few = slice(0, table.n_points, step)
    sample = lifted(table.points[few], table.codes[few], lift[few]) - middle[None, :]
    axes = _principal_axes(sample, min(e, width))
    direction = axes[-1]

    def project(first, size):
        part = partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=size)
        above = part(lift)
        x = lifted(part(table.points), part(table.codes), above) - middle[None, :]
        along, rest = _projected(x, axes)
        asked = rest
        if inner:
            query = x.at[:, -1].add(-above)
            query_along = along - above[:, None] * direction[None, :]
            asked = norm(query - product(query_along, axes.T))
        if e > width:
            along = jnp.concatenate([along, rest[:, None]], axis=1)
        return along, asked, jnp.max(rest), jnp.max(norm(x))

    # Some rows at a time: the centered points and what is left of them need not exist as a whole.
    size = min(_PROJECTED_ROWS, n_rows)

    def step_over(i, state):
        values, rests, most, longest = state
        first = jnp.minimum(i * size, n_rows - size)
        along, asked, rest, length = project(first, size)
        values = lax.dynamic_update_slice_in_dim(values, along, first, axis=0)
        rests = lax.dynamic_update_slice_in_dim(rests, asked, first, axis=0)
        return values, rests, jnp.maximum(most, rest), jnp.maximum(longest, length)

    zero = jnp.zeros((), table.points.dtype)
    columns = axes.shape[1] + (e > width)
    start = jnp.zeros((n_rows, columns), zero.dtype), jnp.zeros_like(lift), zero, zero
    start = varying_with(start, table.points)
    values, rest, most, longest = lax.fori_loop(0, -(-n_rows // size), step_over, start)
    complete = most <= exact.relative_rounding(e, zero.dtype) * longest
    if e <= width:
        complete = jnp.ones((), bool)
    return _Coordinates(values, lift, direction, rest, complete)


@jax.jit
def _own_coordinates(table: Table) -> _Coordinates:
    """The points' own, where all of so few are looked at: a rotation would say nothing new."""
    values = jnp.where(table.codes[:, None] < 0, 0, table.points - table.center[None, :])
    nothing = jnp.zeros_like(values[:, 0])
    return _Coordinates(values, nothing, jnp.zeros_like(values[0]), nothing, jnp.ones((), bool))


def _principal_axes(sample: Float[Array, "m e"], p: int) -> Float[Array, "e p"]:
    """By subspace iteration, in the order of falling variance."""
    e, limits = sample.shape[1], jnp.finfo(sample.dtype)
    sample = sample / jnp.maximum(jnp.max(jnp.abs(sample)), limits.tiny)

    def power(_, axes):
        # Orthogonal up to rounding, which is enough between two rounds and cheaper than `qr`.
        weights, vectors = jnp.linalg.eigh(over_rows(axes, axes))
        least = jnp.maximum(limits.eps * weights[-1], limits.tiny)
        axes = product(axes, vectors / jnp.sqrt(jnp.maximum(weights, least))[None, :])
        return over_rows(sample, product(sample, axes))

    start = np.random.default_rng(0).standard_normal((e, min(e, p + 8)))
    axes = jnp.asarray(start.astype(sample.dtype))
    axes = jnp.linalg.qr(lax.fori_loop(0, _POWERS, power, axes))[0]
    scores = product(sample, axes)
    vectors = jnp.linalg.eigh(over_rows(scores, scores))[1]
    return product(axes, vectors[:, ::-1][:, :p])


def _projected(x: Float[Array, "rows e"], axes: Float[Array, "e p"]) -> tuple[Array, Array]:
    """Coordinates along the axes, and the length of what they leave."""
    along = product(x, axes)
    return along, norm(x - product(along, axes.T))


def projected_candidates(n: int, k: int) -> int:
    """How many are measured in all features. On 50,000 x 512 pixels a third more than 3k + 4 find
    .989 instead of .978 of 15 neighbors, for two hundredths of the time."""
    return min(n, max(3 * k + 4, min(4 * k + 4, MOST_OF_LEAST)))


def _projected_neighbors(points, k, metric, codes, stage, progress, tile_bytes):
    n, d = points.shape
    traced = checks.is_traced(points)
    rows, block = exact.tile_of(n, codes, tile_bytes)
    tiles = -(-n // rows)
    flops = 2.0 * rows * n * (PROJECTED_AXES + 8) + 64.0 * rows * k * d
    chunk = tiles if traced else -(-tiles // calls_for(tiles * flops, n))
    chunks = -(-tiles // chunk)
    n_rows = chunks * chunk * rows
    block = n_rows if block == n else block
    steps = Steps(stage, chunks + 2, progress, beside=(points, codes))
    table = exact.prepare(points, codes, metric=metric, n_rows=n_rows, check=traced)
    coordinates = steps.run(_coordinates, table, metric=metric, width=PROJECTED_AXES)
    by_class = codes is not None
    parts = [
        steps.run(
            _search_coordinates,
            table,
            coordinates,
            exact.tile_rows(i * chunk, chunk, rows),
            metric=metric,
            k=k,
            n_candidates=projected_candidates(n, k),
            block=block,
            by_class=by_class,
        )
        for i in range(chunks)
    ]
    found = exact.collect(table, parts, k=k, metric=metric)
    recall = steps.run(_recall, table, found[1], metric=metric, k=k, block=block, by_class=by_class)
    steps.end()
    return *found, recall


@partial(jax.jit, static_argnames=("metric", "k", "n_candidates", "block", "by_class"))
def _search_coordinates(
    table: Table, coordinates: _Coordinates, queries, *, metric, k, n_candidates, block, by_class
):
    """Points and distances of the k nearest among the nearest `n_candidates` by coordinates."""
    n, values = table.n_points, coordinates.values
    square = jnp.sum(values * values, axis=1)
    columns = exact.scanned_columns(table, values, square, block=block, by_class=by_class)
    longest = _longest(table)
    rounding = exact.relative_rounding(table.points.shape[1], values.dtype)

    def tile(own):
        x = coordinates.queries(own)
        score, found = exact.scan(
            exact.scanned_query(x, jnp.ones_like(square[own]), square[own]),
            columns,
            table.codes[own],
            exact.class_range(table, own),
            n_candidates=n_candidates,
            block=block,
            last=table.codes.shape[0] - 1,
        )
        _, points, distances = exact.ordered(
            table, own, found, jnp.isinf(score), longest, metric=metric
        )
        kth = distances[:, k - 1]
        slack = 4 * rounding * (jnp.sqrt(square[own]) + kth) ** 2
        proven = score[:, -1] > kth * kth + slack
        proven = proven | jnp.isinf(score[:, -1]) | (table.codes[own] < 0)
        return points[:, :k], distances[:, :k], proven, found[:, 0]

    points, distances, proven, nearest = exact.flat(lax.map(tile, queries))
    if n_candidates == n:
        return points, distances
    if metric == "inner_product":
        return points, distances
    # Where nothing was lost, only rounding can hide a neighbor, as in the exact search.
    proven = proven | ~coordinates.is_complete
    return exact.settle(
        table, queries.ravel(), points, distances, proven, nearest, longest, metric=metric
    )


def _longest(table: Table, *, is_centered: bool = False) -> Float[Array, ""]:
    """Greatest squared length, the constant of the inner-product distance; or from the center."""
    points = table.points - table.center[None, :] if is_centered else table.points
    square = jnp.sum(points * points, axis=1)
    return jnp.max(jnp.where(table.codes < 0, 0, square))


@partial(jax.jit, static_argnames=("metric", "k", "block", "by_class"))
def _recall(table: Table, distances, *, metric, k, block, by_class) -> Float[Array, ""]:
    """Fraction of the true neighbors of some points that are at most as far as the true k-th."""
    rows = _some_rows(table)
    m = rows.shape[0]
    tiles = -(-m // ROWS)
    queries = jnp.pad(rows, (0, tiles * ROWS - m), mode="edge").reshape(tiles, ROWS)
    _, true = exact.search(
        table, queries, metric=metric, k=k, block=block, by_class=by_class, stream=True
    )
    true = exact.in_units(table, true[:m], metric=metric)
    own = distances[jnp.minimum(table.index[rows], table.n_points - 1)]
    present = ~jnp.isinf(true) & (table.codes[rows] >= 0)[:, None]
    farthest = jnp.max(jnp.where(present, true, 0), axis=1)
    # Two programs round one distance differently; inner products round as the largest of them.
    size = farthest
    if metric == "inner_product":
        size = size + exact.in_units(table, _longest(table), metric=metric)
    farthest = farthest + exact.relative_rounding(table.points.shape[1], size.dtype) * size
    hits = jnp.sum(~jnp.isinf(own) & (own <= farthest[:, None]), axis=1)
    wanted = jnp.sum(present, axis=1)
    hits = jnp.sum(jnp.minimum(hits, wanted))
    return jnp.where(jnp.sum(wanted) == 0, 1, hits / jnp.maximum(jnp.sum(wanted), 1))


def _some_rows(table: Table) -> Int[Array, " m"]:
    """One row from each of so many equal stretches of the table."""
    n = table.codes.shape[0]
    m = min(_SAMPLE, table.n_points)
    shift = np.random.default_rng(1).uniform(size=m)
    return jnp.asarray(np.minimum((np.arange(m) + shift) * (n / m), n - 1).astype(np.int32))


@jax.jit
def _recall_by_counts(
    table: Table, distances: Float[Array, "n k"]
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """`_recall` of Euclidean neighbors that all were found somewhere, and whether it can be told
    so: a neighbor is a true one if fewer than k points are nearer, by distances from products.
    Compiled in a third of the time, but products say nothing of tight clusters."""
    n, k = table.codes.shape[0], distances.shape[1]
    block = min(_COUNTED, n)
    rows = _some_rows(table)
    is_query = table.codes[rows] >= 0
    x = table.points[rows] - table.center[None, :]
    square = jnp.sum(x * x, axis=1)
    own = distances[jnp.minimum(table.index[rows], table.n_points - 1)] / table.scale
    far = jnp.sqrt(_longest(table, is_centered=True))
    rounding = exact.relative_rounding(table.points.shape[1], own.dtype)
    slack = rounding * (jnp.sqrt(square) + far) ** 2
    limits = (own * own - slack[:, None]).T

    def add(counts, left):
        # The last block reaches back, over points that were counted already.
        first = jnp.minimum(left, n - block)
        place = first + jnp.arange(block, dtype=jnp.int32)
        y = lax.dynamic_slice_in_dim(table.points, first, block) - table.center[None, :]
        there = (lax.dynamic_slice_in_dim(table.codes, first, block) >= 0) & (place >= left)
        length = jnp.where(there, jnp.sum(y * y, axis=1), jnp.inf)
        apart = length[:, None] + square[None, :] - 2 * product(y, x.T)
        apart = jnp.where(place[:, None] == rows[None, :], jnp.inf, apart)
        nearer = lax.map(
            lambda limit: jnp.sum(apart < limit[None, :], axis=0, dtype=jnp.int32), limits
        )
        return counts + nearer, None

    starts = jnp.arange(0, n, block, dtype=jnp.int32)
    counts, _ = lax.scan(add, jnp.zeros(limits.shape, jnp.int32), starts)
    kth = own[:, k - 1]
    is_told = (slack <= _TOLD * kth * kth) | (kth == 0)
    hits = jnp.sum((counts < k) & is_query[None, :])
    wanted = jnp.sum(is_query) * k
    every = jnp.where(is_query, is_told & ~jnp.isinf(kth), True)
    recall = jnp.where(wanted == 0, 1, hits / jnp.maximum(wanted, 1)).astype(own.dtype)
    return recall, every.all() & (k < table.n_points)


class _Plan(NamedTuple):
    """Shape of the tree and of the scan. 2^levels blocks, each of 2^split tiles of queries."""

    levels: int
    split: int
    visited: int  # blocks that a tile scans
    candidates: int  # kept of each point, and measured in the end
    groups: int  # of columns at least, of which each gives one candidate at most
    shared: int  # nearest candidates whose own candidates are looked at
    rounds: int  # of looking at them


def _plan(n: int, k: int) -> _Plan | None:
    """None where the exact search is as cheap.

    Blocks of about 200 points, more for large k. In a space of D dimensions the neighbors of a tile
    lie in a number of blocks that depends on D, not on n, once the tree is deep enough to have cut
    every direction; until then it grows. So does the number that is visited, as n^(1/3).
    """
    size = max(200, 4 * k)
    levels = max(0, round(math.log2(n / size)))
    visited = 8 * max(3, round(5 * (n / 50_000) ** (1 / 3)))
    if 3 * visited > 2**levels:
        return None
    split = 1 if n < 100_000 else 2
    candidates = 5 * k // 2 + 3
    return _Plan(levels, split, visited, candidates, _GROUPS * candidates, min(k, 10), 1)


class _Tree(eqx.Module):
    """A table in the order of a tree's leaves, so that blocks and tiles are slices of it."""

    table: Table
    coordinates: _Coordinates
    square: Float[Array, "blocks size"]  # squared length of the values, infinite for a copy
    centers: Float[Array, "blocks s"]
    longest: Float[Array, ""]


@jax.jit
def _permuted(table: Table, order: Int[Array, " rows"], is_copy: Bool[Array, " rows"]) -> Table:
    codes = jnp.where(is_copy, -1, table.codes[order])
    rows = jnp.arange(order.shape[0], dtype=jnp.int32)
    return Table(
        points=table.points[order],
        scale=table.scale,
        center=table.center,
        index=jnp.where(codes < 0, table.n_points, table.index[order]),
        codes=codes,
        first=jnp.zeros_like(rows),
        last=jnp.full_like(rows, order.shape[0]),
        n_points=table.n_points,
    )


@partial(jax.jit, static_argnames="plan")
def _blocks(table: Table, coordinates: _Coordinates, *, plan: _Plan) -> tuple[Array, Array, Array]:
    """`square`, `centers` and `longest` of the tree."""
    values, n_blocks = coordinates.values, 2**plan.levels
    s = min(values.shape[1], _SPLIT_AXES)
    square = jnp.where(table.codes < 0, jnp.inf, jnp.sum(values * values, axis=1))
    centers = jnp.mean(values[:, :s].reshape(n_blocks, -1, s), axis=1)
    return square.reshape(n_blocks, -1), centers, _longest(table)


def _plant(points: Float[Array, "n d"], *, metric: str, plan: _Plan) -> _Tree:
    """Program by program, so that what one needs beside its result is free before the next."""
    traced = checks.is_traced(points)
    table = exact.prepare(points, None, metric=metric, n_rows=points.shape[0], check=traced)
    if metric != "inner_product" and table.points.shape[1] <= _SPLIT_AXES:
        coordinates = _own_coordinates(table)
    else:
        coordinates = _coordinates(table, metric=metric, width=_AXES)
    depth = plan.levels + plan.split
    order, is_copy = leaves(coordinates.values, depth=depth, axes=_SPLIT_AXES)
    coordinates = coordinates.rows(order)
    table = _permuted(table, order, is_copy)
    return _Tree(table, coordinates, *_blocks(table, coordinates, plan=plan))


def _chunks(
    points: Float[Array, "n d"], tiles: int, flops: float, most_rows: int | None = None
) -> int:
    """Into how many calls the tiles are divided: a power of 2, and one while JAX traces."""
    if checks.is_traced(points):
        return 1
    calls = calls_for(flops, points.shape[0], most_rows)
    return min(tiles, 1 << (calls - 1).bit_length())


class BlockSearch:
    """The Euclidean search by blocks, some tiles after the other: no candidate is looked around,
    so that nothing is held but the tree. For few dimensions, where it misses hardly a neighbor."""

    def __init__(
        self, points: Float[Array, "n d"], k: int, plan: _Plan, most_rows: int | None = None
    ):
        n = points.shape[0]
        tiles = 2 ** (plan.levels + plan.split)
        self._plan, self._k = plan, k
        self._tree = _plant(points, metric="euclidean", plan=plan)
        wide = -(-n // 2**plan.levels) * plan.visited
        flops = 2.0 * n * wide * self._tree.coordinates.values.shape[1]
        self.calls = _chunks(points, tiles, flops, most_rows)
        self._tiles = tiles // self.calls

    def part(self, i: int) -> tuple[Int[Array, "rows k"], Float[Array, "rows k"]]:
        """Points, n for a missing one, and distances."""
        first = jnp.asarray(i * self._tiles, jnp.int32)
        options = {"plan": self._plan, "n_tiles": self._tiles}
        near = _scan_blocks(self._tree, first, **options)
        return _measure(self._tree, near, first, metric="euclidean", k=self._k, **options)

    def place(self, i: int) -> Int[Array, " rows"]:
        """The points that the rows of a part are, n for a copy."""
        size = self._tree.table.codes.shape[0] // self.calls
        return self._tree.table.index[i * size : (i + 1) * size]


def block_search(
    points: Float[Array, "n d"], k: int, most_rows: int | None = None
) -> BlockSearch | None:
    """None where the exact search is as cheap."""
    plan = plan_of_patches(points.shape[0], points.shape[1], k)
    return None if plan is None else BlockSearch(points, k, plan, most_rows)


def plan_of_patches(n: int, d: int, k: int) -> _Plan | None:
    """As `_plan`, with fewer candidates: they are not looked around, only measured, and complete
    coordinates have told their order."""
    plan = _plan(n, k)
    return plan._replace(candidates=k + 1 + exact.SPARE) if plan and d <= _AXES else plan


def _block_neighbors(points, k, metric, plan, stage, progress):
    n, d = points.shape
    tiles = 2 ** (plan.levels + plan.split)
    width = -(-n // 2**plan.levels) * plan.visited
    flops = 2.0 * n * (width * (min(d, _AXES) + 8) + 32 * k * d)
    chunks = _chunks(points, tiles, flops)
    starts = [jnp.asarray(i * (tiles // chunks), jnp.int32) for i in range(chunks)]
    steps = Steps(stage, 2 + chunks * (2 + plan.rounds), progress, beside=(points,))
    tree = steps.run(_plant, points, metric=metric, plan=plan)
    options = {"plan": plan, "n_tiles": tiles // chunks}
    parts = [steps.run(_scan_blocks, tree, start, **options) for start in starts]
    for _ in range(plan.rounds):
        near = jnp.concatenate(parts)
        parts = [steps.run(_look_around, tree, near, start, k=k, **options) for start in starts]
    parts = [
        steps.run(_measure, tree, part, start, metric=metric, k=k, **options)
        for part, start in zip(parts, starts, strict=True)
    ]
    found = _gather(tree, parts, metric=metric)
    recall = steps.run(_recall_of_blocks, tree.table, found[1], metric=metric, k=k)
    steps.end()
    return *found, recall


def _recall_of_blocks(table: Table, distances, *, metric: str, k: int) -> Float[Array, ""]:
    if metric == "euclidean" and not checks.is_traced(distances):
        recall, is_told = _recall_by_counts(table, distances)
        if is_told:
            return recall
    return _recall(table, distances, metric=metric, k=k, block=_RECALL_BLOCK, by_class=False)


def _tile_rows(tree: _Tree, plan: _Plan, tile) -> Int[Array, " size"]:
    size = tree.table.codes.shape[0] >> (plan.levels + plan.split)
    return tile * size + jnp.arange(size, dtype=jnp.int32)


@partial(jax.jit, static_argnames=("plan", "n_tiles"))
def _scan_blocks(tree: _Tree, first, *, plan, n_tiles) -> Int[Array, "rows candidates"]:
    """The nearest rows, by scanned coordinates, within the blocks that a row's tile visits."""
    blocks, size = tree.square.shape
    values = tree.coordinates.values.reshape(blocks, size, -1)
    s = tree.centers.shape[1]
    votes = min(_VOTES, blocks)
    square = jnp.sum(tree.centers * tree.centers, axis=1)

    def tile(t):
        own = _tile_rows(tree, plan, t)
        x = tree.coordinates.queries(own)
        wide = jnp.pad(x, ((0, _spare_queries(x.shape[0])), (0, 0)))
        to_centers = square[:, None] - 2 * product(tree.centers, wide[:, :s].T)[:, : x.shape[0]]
        count = jnp.sum(to_centers <= _smallest(to_centers, votes), axis=1, dtype=x.dtype)
        # Blocks with equal votes by their mean distance, which counts for less than one vote.
        mean = jnp.mean(to_centers, axis=1)
        spread = jnp.maximum(jnp.max(mean) - jnp.min(mean), jnp.finfo(x.dtype).tiny)
        rank = count - (mean - jnp.min(mean)) / spread
        rank = rank.at[t >> plan.split].set(jnp.inf)
        visited = jnp.sort(lax.top_k(rank, plan.visited)[1])
        columns = values[visited].reshape(plan.visited * size, -1)
        score = product(columns, -2 * wide.T) + jnp.sum(wide * wide, axis=1)[None, :]
        score = score + tree.square[visited].reshape(-1, 1)
        score, place = _few_of(score[:, : x.shape[0]], plan)
        found = visited[place // size] * size + place % size
        return jnp.where(jnp.isinf(score), own[:, None], found)

    return exact.flat(lax.map(tile, first + jnp.arange(n_tiles, dtype=jnp.int32)))


def _spare_queries(rows: int) -> int:
    """Queries of zeros that make the products of a tile faster on a CPU, by a quarter with 49: its
    kernels take 64 columns at a time."""
    return -rows % _PRODUCT_COLUMNS if backend.is_cpu() else 0


def _smallest(values: Float[Array, "width rows"], k: int) -> Float[Array, "1 rows"]:
    """The k-th smallest different number of every column; infinity where there are fewer. Among
    many on a CPU the k-th smallest, or one that differs from it by rounding."""
    if backend.is_cpu() and values.shape[0] > _MANY_BLOCKS:
        return jnp.max(jnp.take_along_axis(values, least(values, k)[1], axis=0), 0, keepdims=True)

    def next_one(_, found: Float[Array, "1 rows"]) -> Array:
        return jnp.min(jnp.where(values > found, values, jnp.inf), axis=0, keepdims=True)

    nothing = varying_with(jnp.full_like(values[:1], -jnp.inf), values)
    return lax.fori_loop(0, k, next_one, nothing)


def _few_of(score: Float[Array, "width rows"], plan: _Plan) -> tuple[Array, Array]:
    """The `candidates` least of every column, or nearly; (rows, candidates)."""
    if backend.is_cpu() and plan.candidates <= MOST_OF_LEAST:
        values, found = least(score, plan.candidates)
        return values.T, found.T
    return _least_of_groups(score.T, plan.candidates, plan.groups)


def _least_of_groups(
    score: Float[Array, "rows width"], k: int, groups: int
) -> tuple[Float[Array, "rows k"], Int[Array, "rows k"]]:
    """The least value of each of the k groups of columns whose least values are least, of `groups`
    groups where there are as many columns.

    Nearly the k least values: where two share a group, one is lost; of the first j that is about
    j^2 / 2G with G groups. `smallest`, which loses none, takes another `top_k`.
    """
    rows, width = score.shape
    size = 1
    while width % (2 * size) == 0 and width // (2 * size) >= groups:
        size *= 2
    n_groups = width // size
    least, own = lax.top_k(-jnp.min(score.reshape(rows, size, n_groups), axis=1), k)
    members = own[:, :, None] + n_groups * jnp.arange(size, dtype=own.dtype)[None, None, :]
    values = jnp.take_along_axis(score, members.reshape(rows, -1), axis=1)
    place = jnp.argmin(values.reshape(rows, k, size), axis=2).astype(own.dtype)
    return -least, own + n_groups * place


@partial(jax.jit, static_argnames=("k", "plan", "n_tiles"))
def _look_around(tree: _Tree, near, first, *, k, plan, n_tiles) -> Int[Array, "rows candidates"]:
    """The nearest of each row's candidates and of those of the nearest of them.

    An empty slot names the row itself.
    """

    def tile(t):
        own = _tile_rows(tree, plan, t)
        # As a rule a row's own first candidate is the row itself.
        theirs = near[near[own, 1 : plan.shared + 1], 1 : k + 1].reshape(own.shape[0], -1)
        found = jnp.sort(jnp.concatenate([near[own], theirs], axis=1), axis=1)
        x = tree.coordinates.queries(own)[:, None, :]
        score = jnp.sum((tree.coordinates.values[found] - x) ** 2, axis=2)
        again = jnp.pad(found[:, 1:] == found[:, :-1], ((0, 0), (1, 0)))
        score = jnp.where(again | (tree.table.codes[found] < 0), jnp.inf, score)
        score, place = (leaf.T for leaf in exact.least_of(score.T, plan.candidates))
        found = jnp.take_along_axis(found, place, axis=1)
        return jnp.where(jnp.isinf(score), own[:, None], found)

    return exact.flat(lax.map(tile, first + jnp.arange(n_tiles, dtype=jnp.int32)))


@partial(jax.jit, static_argnames=("metric", "k", "plan", "n_tiles"))
def _measure(tree: _Tree, near, first, *, metric, k, plan, n_tiles):
    """Points and true distances of the k nearest of each row's candidates."""

    def tile(part):
        t, found = part
        own = _tile_rows(tree, plan, t)
        _, points, distances = exact.ordered(
            tree.table, own, found, own[:, None] == found, tree.longest, metric=metric
        )
        return points[:, :k], distances[:, :k]

    tiles = first + jnp.arange(n_tiles, dtype=jnp.int32)
    return exact.flat(lax.map(tile, (tiles, near.reshape(n_tiles, -1, plan.candidates))))


@partial(jax.jit, static_argnames="metric")
def _gather(tree: _Tree, parts, *, metric: str):
    """Puts the rows back into the order of the points; a copy's row is dropped."""
    n, k = tree.table.n_points, parts[0][0].shape[1]
    found = jnp.concatenate([part[0] for part in parts])
    distances = jnp.concatenate([part[1] for part in parts])
    place = tree.table.index
    indices = jnp.full((n, k), -1, jnp.int32)
    indices = indices.at[place].set(jnp.where(found >= n, -1, found), mode="drop")
    empty = jnp.full((n, k), jnp.inf, distances.dtype)
    distances = empty.at[place].set(distances, mode="drop")
    return indices, exact.in_units(tree.table, distances, metric=metric)
