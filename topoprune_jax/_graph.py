"""Exact nearest neighbors by tiles of a matrix product; no n x n array."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from . import _checks as checks
from ._distance import norm, rescale
from ._types import Array, ArrayInput, Progress

_ROWS = 256  # queries of a tile
_COLUMNS = 1 << 16  # candidates looked at in one go: a tile is 64 MiB at most
_SPARE = 8  # candidates beyond k, so that rounding of the matrix product loses no neighbor
_CHUNK_FLOPS = 4e10  # work between two looks at the host: about half a second on two cores


class NeighborGraph(eqx.Module):
    """The k nearest neighbors of every point, the point itself left out.

    A graph from elsewhere is welcome: `NeighborGraph(indices, distances)`.

    **Attributes:**

    - `indices`: (n, k) int32, nearest first; -1 in an empty slot.
    - `distances`: (n, k) in the units of the metric, ascending; infinite in an empty slot.
    """

    indices: Int[Array, "n k"]
    distances: Float[Array, "n k"]

    @property
    def n_points(self) -> int:
        """Number of points."""
        return self.indices.shape[0]

    @property
    def n_neighbors(self) -> int:
        """Number of slots of a point."""
        return self.indices.shape[1]


def knn_graph(
    points: ArrayInput,
    *,
    n_neighbors: int = 15,
    metric: str = "euclidean",
    labels: ArrayInput | None = None,
    progress: Progress | None = None,
) -> NeighborGraph:
    r"""The exact k-nearest-neighbor graph.

    For every point i the `n_neighbors` points j != i of least d(i, j), with
    d(i, j) = |x_i - x_j| (`"euclidean"`) or 1 - cos(x_i, x_j) (`"cosine"`); equal distances are
    ordered by index. Candidates come from a tiled matrix product,
    |x_j|^2 - 2 x_i . x_j, and a two-stage selection (the k least values lie within the k groups of
    columns whose minima are least); the distances of the candidates are then computed anew from
    differences, so that duplicates are at distance 0. Memory is O(n (k + d)) and one tile.

    `n_neighbors` does not count the point itself; umap-learn's does, so its `n_neighbors=16` is 15
    here.

    **Arguments:**

    - `points`: (n, d) real numbers, finite.
    - `n_neighbors`: k, between 1 and n - 1.
    - `metric`: `"euclidean"` or `"cosine"`. For cosine a row of zeros is at distance 1 from any
      other row and 0 from another row of zeros, as in umap-learn.
    - `labels`: (n,) classes. Where given, neighbors are sought in the point's own class only, and a
      class of k points or fewer leaves empty slots.
    - `progress`: called with ("neighbors", done, total).

    **Returns:** a `NeighborGraph` with k slots a point.

    **Raises:** TypeError or ValueError with one sentence for points that are no finite 2-D array of
    real numbers, `n_neighbors` outside [1, n - 1], an unknown metric, or labels of another length.

    Differentiable: no (indices are integers; use `vietoris_rips` for gradients of distances).

    ```python
    >>> import topoprune_jax as tp
    >>> tp.knn_graph([[0.0], [1.0], [3.0]], n_neighbors=1).indices.tolist()
    [[1], [0], [1]]

    ```
    """
    array = checks.check_points(points, min_points=2)
    n = array.shape[0]
    k = checks.check_count(
        n_neighbors,
        name="n_neighbors",
        low=1,
        high=n - 1,
        hint=f"There are {n} points, and a point is not its own neighbor.",
    )
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"`metric` must be 'euclidean' or 'cosine'; got {metric!r}.")
    codes = None if labels is None else checks.check_labels(labels, n)
    return nearest_neighbors(array, k, metric=metric, codes=codes, progress=progress)


def nearest_neighbors(
    points: Float[Array, "n d"],
    k: int,
    *,
    metric: str = "euclidean",
    codes: Int[Array, " n"] | None = None,
    stage: str = "neighbors",
    progress: Progress | None = None,
) -> NeighborGraph:
    """`knn_graph` without its checks, for any k >= 1: missing neighbors are empty slots."""
    n, d = points.shape
    tiles = -(-n // _ROWS)
    if checks.is_traced(points):
        chunk = tiles
    else:
        chunk = max(1, min(tiles, int(_CHUNK_FLOPS / (2.0 * _ROWS * n * (d + 8)))))
    chunks = -(-tiles // chunk)
    block = _block_size(n, codes)
    table = _prepare(points, codes, metric=metric, n_rows=chunks * chunk * _ROWS)
    parts = []
    for i in range(chunks):
        if progress is not None:
            progress(stage, i, chunks)
            jax.block_until_ready(parts[-1:])
        parts.append(
            _search(table, i * chunk, k=k, n_tiles=chunk, block=block, by_class=codes is not None)
        )
    indices, distances = _collect(table, parts, k=k, metric=metric)
    if progress is not None:
        jax.block_until_ready(indices)
        progress(stage, chunks, chunks)
    return NeighborGraph(indices, distances)


def _block_size(n: int, codes: Array | None) -> int:
    """Columns of a tile: all points, or as many as the largest class has."""
    width = n
    if codes is not None:
        width = min(n, 1 << 13) if checks.is_traced(codes) else int(jnp.bincount(codes).max())
    return min(_COLUMNS, -(-width // 128) * 128)


class _Table(eqx.Module):
    """Points in the order of their class, ready for the scan. `rows` counts the padding too."""

    points: Float[Array, "rows e"]
    scale: Float[Array, ""]
    index: Int[Array, " rows"]  # the point of each row, n in the padding
    codes: Int[Array, " rows"]  # its class, -1 in the padding
    first: Int[Array, " rows"]  # the rows of its class are first .. last - 1
    last: Int[Array, " rows"]
    n_points: int = eqx.field(static=True)


@partial(jax.jit, static_argnames=("metric", "n_rows"))
def _prepare(points, codes, *, metric, n_rows):
    n = points.shape[0]
    if metric == "cosine":
        magnitude = jnp.max(jnp.abs(points), axis=1, keepdims=True)
        is_zero = magnitude == 0
        points = points / jnp.where(is_zero, 1, magnitude)
        points = points / jnp.where(is_zero, 1, norm(points)[:, None])
        # One more axis, on which only rows of zeros live: at distance 1 - 0 from all others.
        points = jnp.concatenate([points, is_zero.astype(points.dtype)], axis=1)
        scale = jnp.ones((), points.dtype)
    else:
        points, scale = rescale(points)
    if codes is None:
        codes = jnp.zeros(n, jnp.int32)
        order = jnp.arange(n, dtype=jnp.int32)
    else:
        order = jnp.argsort(codes, stable=True).astype(jnp.int32)
        codes = codes[order]
    padding = (0, n_rows - n)
    return _Table(
        points=jnp.pad(points[order], (padding, (0, 0))),
        scale=scale,
        index=jnp.pad(order, padding, constant_values=n),
        codes=jnp.pad(codes, padding, constant_values=-1),
        first=jnp.pad(jnp.searchsorted(codes, codes, side="left").astype(jnp.int32), padding),
        last=jnp.pad(jnp.searchsorted(codes, codes, side="right").astype(jnp.int32), padding),
        n_points=n,
    )


@partial(jax.jit, static_argnames=("k", "n_tiles", "block", "by_class"))
def _search(table: _Table, first_tile, *, k: int, n_tiles: int, block: int, by_class: bool):
    """Rows (not points) of the k nearest, and their distances, for some tiles of queries."""
    rows = table.points.shape[0]
    n = table.n_points
    n_candidates = min(k + 1 + _SPARE, n)
    n_groups = _group_count(block, n_candidates)
    square = jnp.sum(table.points * table.points, axis=1)
    square = jnp.where(table.codes < 0, jnp.inf, square)
    columns = jnp.concatenate([-2 * table.points, square[:, None]], axis=1)
    columns = jnp.pad(columns, ((0, block), (0, 0))).at[rows:, -1].set(jnp.inf)
    column_codes = jnp.pad(table.codes, (0, block), constant_values=-1)

    def tile(t):
        start = t * _ROWS
        take = partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=_ROWS)
        x, codes = take(table.points), take(table.codes)
        real = codes >= 0
        lo = jnp.min(jnp.where(real, take(table.first), n))
        hi = jnp.max(jnp.where(real, take(table.last), 0))
        query = jnp.concatenate([x, jnp.ones((_ROWS, 1), x.dtype)], axis=1)

        def scan_block(b, best):
            values, found = best
            left = lo + b * block
            part = lax.dynamic_slice_in_dim(columns, left, block)
            score = jnp.matmul(query, part.T, precision=lax.Precision.HIGHEST)
            if by_class:
                other = lax.dynamic_slice_in_dim(column_codes, left, block)
                score = jnp.where(codes[:, None] == other[None, :], score, jnp.inf)
            new_values, new = _smallest(score, n_candidates, n_groups)
            values = jnp.concatenate([values, new_values], axis=1)
            found = jnp.concatenate([found, new + left], axis=1)
            negative, place = lax.top_k(-values, n_candidates)
            return -negative, jnp.take_along_axis(found, place, axis=1)

        start_best = (
            jnp.full((_ROWS, n_candidates), jnp.inf, x.dtype),
            jnp.full((_ROWS, n_candidates), rows - 1, jnp.int32),
        )
        values, found = lax.fori_loop(0, -(-(hi - lo) // block), scan_block, start_best)
        found = jnp.minimum(found, rows - 1)
        distances = norm(x[:, None, :] - table.points[found])
        itself = (start + jnp.arange(_ROWS, dtype=jnp.int32))[:, None] == found
        distances = jnp.where(jnp.isinf(values) | itself, jnp.inf, distances)
        points = jnp.where(jnp.isinf(distances), n, table.index[found])
        distances, points = lax.sort((distances, points), dimension=1, num_keys=2)
        missing = max(0, k - n_candidates)
        return (
            jnp.pad(points[:, :k], ((0, 0), (0, missing)), constant_values=n),
            jnp.pad(distances[:, :k], ((0, 0), (0, missing)), constant_values=jnp.inf),
        )

    found, distances = lax.map(tile, first_tile + jnp.arange(n_tiles, dtype=jnp.int32))
    return found.reshape(-1, k), distances.reshape(-1, k)


def _group_count(width: int, k: int) -> int:
    """Number of groups that makes the two stages of `_smallest` cheapest, a divisor of `width`."""
    size = 1
    while width % (2 * size) == 0 and (2 * size) ** 2 * k <= 2 * width:
        size *= 2
    return width // size


def _smallest(
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
def _collect(table: _Table, parts, *, k: int, metric: str):
    """Puts the rows back into the order of the points."""
    n = table.n_points
    found = jnp.concatenate([part[0] for part in parts])[:n]
    distances = jnp.concatenate([part[1] for part in parts])[:n]
    place = table.index[:n]
    indices = jnp.zeros((n, k), jnp.int32).at[place].set(jnp.where(found >= n, -1, found))
    distances = jnp.zeros((n, k), distances.dtype).at[place].set(distances)
    if metric == "cosine":
        return indices, distances * distances / 2
    return indices, distances * table.scale
