"""The exact search in few dimensions: blocks along a space-filling curve, nearest boxes first.

A tile of queries scans the blocks of points in the order of their boxes' distance from its own,
and stops where no box that is left can hold a neighbor. Nothing is missed, and in the plane a tile
looks at some dozen blocks however many points there are.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Float, Int

from . import _checks as checks
from . import _graph_exact as exact
from ._graph_exact import Table
from ._mesh import SPLIT, WHOLE, here, on_all, on_shares
from ._ring import Rows
from ._steps import Steps
from ._types import Array, Progress

_MAX_FEATURES = 4  # with more, boxes overlap too much
_MIN_POINTS = 8192  # with fewer, the plain scan is as fast and compiles faster
_MAX_NEIGHBORS = 256
_SIZE = 64  # points of a block, and queries of a tile
_VISITED = 32  # blocks scanned in one go
_TILES_PER_CALL = 2048
_CURVE_BITS = 30


class _Blocks(eqx.Module):
    """Points in the order of the curve, class by class; `rows` are theirs in the table."""

    rows: Int[Array, "blocks size"]
    points: Float[Array, "blocks size d"]
    codes: Int[Array, "blocks size"]  # -1 in the padding
    lo: Float[Array, "blocks d"]
    hi: Float[Array, "blocks d"]
    first_code: Int[Array, " blocks"]
    last_code: Int[Array, " blocks"]


def is_worthwhile(points: Float[Array, "n d"] | Rows, k: int) -> bool:
    """Whether this search is faster than comparing all points, and their values are known."""
    n, d = points.shape
    small = d <= _MAX_FEATURES and k <= _MAX_NEIGHBORS
    return small and n >= _MIN_POINTS and not checks.is_traced(points)


class BoxSearch:
    """The search of some tiles after the other, or of some on every device of a mesh, for points
    whose values are known."""

    def __init__(
        self,
        points: Float[Array, "n d"],
        k: int,
        codes: Int[Array, " n"] | None,
        mesh: Mesh | None = None,
    ):
        n_blocks = -(-points.shape[0] // _SIZE)
        self._tiles = min(_TILES_PER_CALL, n_blocks)
        if mesh is not None:
            self._tiles += -self._tiles % mesh.size
        self.calls = -(-n_blocks // self._tiles)
        n_rows = self.calls * self._tiles * _SIZE
        self._k = k
        self._table = exact.prepare(points, codes, metric="euclidean", n_rows=n_rows)
        self._blocks = _curve(self._table)
        self._mesh = mesh
        self._every = None if mesh is None else on_all(mesh, (self._table, self._blocks))

    def part(self, i: int) -> tuple[Int[Array, "rows k"], Float[Array, "rows k"]]:
        """Points, n for a missing one, and distances."""
        if self._mesh is not None:
            own = self._tiles // self._mesh.size
            firsts = i * self._tiles + own * np.arange(self._mesh.size, dtype=np.int32)
            specs = (WHOLE, SPLIT), SPLIT
            options = {"k": self._k, "n_tiles": own}
            return here(
                on_shares(self._mesh, _search_share, *specs, self._every, firsts, **options)
            )
        first = jnp.asarray(i * self._tiles, jnp.int32)
        return _search(self._table, self._blocks, first, k=self._k, n_tiles=self._tiles)

    def place(self, i: int) -> Int[Array, " rows"]:
        """The points that the rows of a part are, n in the padding."""
        rows = self._blocks.rows[i * self._tiles : (i + 1) * self._tiles]
        return self._table.index[rows.ravel()]

    def collect(self, parts) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
        """All parts in the order of the points."""
        return _collect(self._table, self._blocks, parts)


def box_neighbors(
    points: Float[Array, "n d"],
    k: int,
    *,
    codes: Int[Array, " n"] | None,
    mesh: Mesh | None = None,
    stage: str,
    progress: Progress | None,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """As `exact_neighbors` with the Euclidean distance, for points whose values are known."""
    search = BoxSearch(points, k, codes, mesh)
    steps = Steps(stage, search.calls, progress, beside=() if mesh else (points, codes))
    parts = [steps.run(search.part, i) for i in range(search.calls)]
    return steps.end(search.collect(parts))


@jax.jit
def _curve(table: Table) -> _Blocks:
    """Sorts each class along a Z-curve (Morton order) through the ranks of the coordinates."""
    n_rows, d = table.points.shape
    real = table.codes >= 0
    bits = _CURVE_BITS // d
    curve = jnp.zeros(n_rows, jnp.uint32)
    for axis in range(d):
        order = jnp.argsort(jnp.where(real, table.points[:, axis], jnp.inf))
        rank = jnp.zeros(n_rows, jnp.float32)
        rank = rank.at[order].set(jnp.arange(n_rows, dtype=jnp.float32) / n_rows)
        cell = (rank * 2**bits).astype(jnp.uint32)
        for bit in range(bits):
            curve = curve | (((cell >> bit) & 1) << (bit * d + axis))
    group = jnp.where(real, table.codes, jnp.iinfo(jnp.int32).max)
    rows = jnp.arange(n_rows, dtype=jnp.int32)
    rows = lax.sort((group, curve, rows), num_keys=2)[2].reshape(-1, _SIZE)
    points, codes = table.points[rows], table.codes[rows]
    there = (codes >= 0)[:, :, None]
    return _Blocks(
        rows=rows,
        points=points,
        codes=codes,
        lo=jnp.min(jnp.where(there, points, jnp.inf), axis=1),
        hi=jnp.max(jnp.where(there, points, -jnp.inf), axis=1),
        first_code=jnp.min(jnp.where(codes >= 0, codes, jnp.iinfo(jnp.int32).max), axis=1),
        last_code=jnp.max(codes, axis=1),
    )


def _gaps(blocks: _Blocks, t: Int[Array, ""]) -> Float[Array, " blocks"]:
    """Squared distance of every block's box from that of tile t; infinite without a common class.

    Rounded down, so that it never exceeds the squared distance of two of the points.
    """
    apart = jnp.maximum(blocks.lo - blocks.hi[t][None, :], blocks.lo[t][None, :] - blocks.hi)
    gaps = jnp.sum(jnp.maximum(apart, 0) ** 2, axis=1)
    gaps = gaps * (1 - 16 * jnp.finfo(gaps.dtype).eps)
    common = (blocks.first_code <= blocks.last_code[t]) & (blocks.last_code >= blocks.first_code[t])
    return jnp.where(common, gaps, jnp.inf)


@partial(jax.jit, static_argnames=("k", "n_tiles"))
def _search(table: Table, blocks: _Blocks, first: Int[Array, ""], *, k: int, n_tiles: int):
    """Points and distances of the k nearest, for the rows of some tiles."""
    n_candidates = k + exact.SPARE + 1
    visited = min(_VISITED, blocks.rows.shape[0])
    width = visited * _SIZE
    eps = jnp.finfo(table.points.dtype).eps

    def tile(t):
        x, codes = blocks.points[t], blocks.codes[t]

        def is_open(state):
            gaps, values, _ = state
            farthest = jnp.max(jnp.where(codes >= 0, values[-1], -jnp.inf))
            nearest = jnp.min(gaps)
            return (nearest <= farthest) & (nearest < jnp.inf)

        def scan(state):
            gaps, values, found = state
            negative, near = lax.top_k(-gaps, visited)
            y = blocks.points[near].reshape(width, -1)
            score = jnp.zeros((width, _SIZE), x.dtype)
            for axis in range(x.shape[1]):
                score = score + (y[:, axis, None] - x[None, :, axis]) ** 2
            other = jnp.where(jnp.isinf(negative)[:, None], -1, blocks.codes[near]).ravel()
            wanted = (other[:, None] == codes[None, :]) & (other >= 0)[:, None]
            score = jnp.where(wanted, score, jnp.inf)
            new_values, place = exact.least_of(score, n_candidates)
            new = blocks.rows[near].ravel()[place]
            values = jnp.concatenate([values, new_values])
            values, place = exact.least_of(values, n_candidates)
            found = jnp.take_along_axis(jnp.concatenate([found, new]), place, axis=0)
            return gaps.at[near].set(jnp.inf), values, found

        start = (
            _gaps(blocks, t),
            jnp.full((n_candidates, _SIZE), jnp.inf, x.dtype),
            jnp.zeros((n_candidates, _SIZE), jnp.int32),
        )
        _, values, found = lax.while_loop(is_open, scan, start)
        values, found = values.T, found.T
        own = blocks.rows[t]
        _, points, distances = exact.ordered(
            table, own, found, jnp.isinf(values), jnp.zeros((), x.dtype), metric="euclidean"
        )
        kth = distances[:, k - 1]
        # Different squares may have one root: among equal distances the lower index comes first.
        proven = values[:, -1] > kth * kth * (1 + 16 * eps)
        proven = proven | jnp.isinf(values[:, -1]) | (codes < 0)
        return points[:, :k], distances[:, :k], proven, found[:, 0]

    tiles = first + jnp.arange(n_tiles, dtype=jnp.int32)
    points, distances, proven, nearest = exact.flat(lax.map(tile, tiles))
    rows = lax.dynamic_slice_in_dim(blocks.rows, first, n_tiles).ravel()
    zero = jnp.zeros((), table.points.dtype)
    return exact.settle(table, rows, points, distances, proven, nearest, zero, metric="euclidean")


def _search_share(every: tuple[Table, _Blocks], first: Int[Array, " one"], *, k: int, n_tiles: int):
    return _search(*every, first[0], k=k, n_tiles=n_tiles)


@jax.jit
def _collect(table: Table, blocks: _Blocks, parts):
    """Puts the rows back into the order of the points."""
    n, k = table.n_points, parts[0][0].shape[1]
    place = table.index[blocks.rows.ravel()]
    found = jnp.concatenate([part[0] for part in parts])
    distances = jnp.concatenate([part[1] for part in parts])
    indices = jnp.full((n, k), -1, jnp.int32)
    indices = indices.at[place].set(jnp.where(found >= n, -1, found), mode="drop")
    empty = jnp.full((n, k), jnp.inf, distances.dtype)
    distances = empty.at[place].set(distances, mode="drop")
    return indices, exact.in_units(table, distances, metric="euclidean")
