"""Exact nearest neighbors by tiles; no n x n array."""

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from . import _checks as checks
from ._distance import norm
from ._types import Array, ArrayInput, Progress

Metric: TypeAlias = str | Callable[[Array, Array], ArrayInput]
"""The name of a distance, or a JAX function (d,), (d,) -> scalar."""

_METRICS = ("euclidean", "cosine", "inner_product")

_ROWS = 256  # queries of a tile
_COLUMNS = 1 << 16  # candidates looked at in one go: a tile is 64 MiB at most
_SPARE = 8  # candidates beyond k, so that most points can be proven complete after one scan
_DOUBTFUL = 32  # queries scanned again in one go
_DOUBTFUL_COLUMNS = 1024  # candidates of theirs looked at in one go
_SAMPLE = 1024  # points whose median is the center
_TILE_NUMBERS = 1 << 22  # rows x columns x d of a tile under a user's metric: 16 MiB an operand
_GATHERED_NUMBERS = 1 << 24  # coordinates of candidates measured in one go: 64 MiB
_CHUNK_FLOPS = 4e10  # work between two looks at the host: about half a second on two cores


class NeighborGraph(eqx.Module):
    """The k nearest neighbors of every point, the point itself left out.

    A graph from elsewhere is welcome: `NeighborGraph(indices, distances)`, arrays of any integer
    and real dtype, from which each point itself is left out.

    **Attributes:**

    - `indices`: (n, k) int32, nearest first; -1 in an empty slot.
    - `distances`: (n, k) in the units of the metric, ascending; infinite in an empty slot.
    """

    indices: Int[Array, "n k"]
    distances: Float[Array, "n k"]

    def __init__(self, indices: ArrayInput, distances: ArrayInput):
        self.indices, self.distances = _as_graph(indices, distances)

    @property
    def n_points(self) -> int:
        """Number of points."""
        return self.indices.shape[0]

    @property
    def n_neighbors(self) -> int:
        """Number of slots of a point."""
        return self.indices.shape[1]


def _as_graph(indices: ArrayInput, distances: ArrayInput) -> tuple[Array, Array]:
    """Both as JAX arrays of the right types. What is there is looked at where NumPy can."""
    indices = checks.as_array(indices, name="indices")
    distances = checks.as_array(distances, name="distances")
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(
            f"`indices` of a NeighborGraph must be integers; got dtype {indices.dtype}. "
            "They come first: `NeighborGraph(indices, distances)`."
        )
    if indices.shape != distances.shape or indices.ndim != 2 or 0 in indices.shape:
        raise ValueError(
            "A NeighborGraph needs indices and distances of one shape (n, k), n and k at least 1; "
            f"got {indices.shape} and {distances.shape}."
        )
    if not isinstance(distances, jax.Array):  # NumPy knows a foreign byte order
        distances = distances.astype(checks.float_dtype(distances.dtype))
    if not isinstance(indices, jax.Array):
        indices = indices.astype(np.int64)
        check_bounds(int(indices.min()), int(indices.max()), indices.shape[0])
        ordered = np.sort(indices, axis=1)
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
        if twice.any():
            raise ValueError(
                f"`indices` of a NeighborGraph must name a neighbor once; got one twice in row "
                f"{int(twice.argmax())}. Put -1 into empty slots."
            )
        indices = indices.astype(np.int32)
    dtype = checks.float_dtype(distances.dtype)
    return jnp.asarray(indices, jnp.int32), jnp.asarray(distances, dtype)


def check_bounds(lowest: int, highest: int, n: int) -> None:
    """Raises unless the indices of a graph of n points lie between these."""
    if lowest < -1 or highest >= n:
        raise ValueError(
            f"The indices of this NeighborGraph must lie between 0 and {n - 1}, or be -1 in an "
            f"empty slot; got {lowest} to {highest}."
        )


def knn_graph(
    points: ArrayInput,
    *,
    n_neighbors: int = 15,
    metric: Metric = "euclidean",
    labels: ArrayInput | None = None,
    progress: Progress | None = None,
) -> NeighborGraph:
    r"""The exact k-nearest-neighbor graph.

    For every point i the `n_neighbors` points j != i of least d(i, j), where d is

    - `"euclidean"`: |x_i - x_j|;
    - `"cosine"`: 1 - cos(x_i, x_j);
    - `"inner_product"`: M - x_i . x_j with M = max_l |x_l|^2, so that the neighbors are those of
      the largest inner product. It is not negative (Cauchy-Schwarz), symmetric, equal to the cosine
      distance on rows of unit length, and half the squared Euclidean distance of the usual lifting
      of inner products (Bachrach et al., RecSys 2014, doi 10.1145/2645710.2645741);
    - a JAX function `metric(x: (d,), y: (d,)) -> scalar`: its value. It need be neither symmetric
      nor zero on the diagonal; an infinite value is no neighbor.

    Equal distances are ordered by index, and duplicates are at Euclidean distance 0. "Exact" is
    exact: candidates come from a tiled matrix product, |x_j|^2 - 2 x_i . x_j, and a two-stage
    selection (the k least values lie within the k groups of columns whose minima are least); the
    candidates' distances are then computed anew from differences. Where the last candidate is
    not farther than the k-th neighbor by more than the rounding of the product (bounds: Higham &
    Mary, SIAM J. Sci. Comput. 41, 2019, doi 10.1137/18M1226312), as in clusters that are tiny
    against their distance from the center or among more duplicates than candidates, the point is
    compared with all others by differences; this costs about 15 times as much for that point. What
    remains is the rounding of each single distance, and for cosine that of the rows' normalization.
    A function is evaluated on every pair, in vmapped tiles of at most 4 million coordinates.

    Memory is O(n (k + d)) and one tile, which is 64 MiB at most. Compiled once for each shape; with
    a function, once for each function object: define it outside of loops.

    `n_neighbors` does not count the point itself; umap-learn's does, so its `n_neighbors=16` is 15
    here.

    **Arguments:**

    - `points`: (n, d) real numbers, finite.
    - `n_neighbors`: k, between 1 and n - 1.
    - `metric`: `"euclidean"`, `"cosine"`, `"inner_product"`, or a function as above, which sees the
      points as float32 (float64 where JAX has that enabled). For cosine a row of zeros is at
      distance 1 from any other row and 0 from another row of zeros, as in umap-learn.
    - `labels`: (n,) classes. Where given, neighbors are sought in the point's own class only, and a
      class of k points or fewer leaves empty slots.
    - `progress`: called with ("neighbors", done, total).

    **Returns:** a `NeighborGraph` with k slots a point.

    **Raises:** TypeError or ValueError with one sentence for points that are no finite 2-D array of
    real numbers, `n_neighbors` outside [1, n - 1], an unknown metric, inner products beyond the
    range of the dtype, labels of another length, or a function that does not return one real
    number, or returns NaN or a negative value for two points it was asked about. Under `jit` values
    cannot be looked at: there a point that is not finite has empty slots only and is nobody's
    neighbor, NaN from a function counts as infinite, and a negative value stays.

    Differentiable: no (indices are integers; use `vietoris_rips` for gradients of distances).

    ```python
    >>> import jax.numpy as jnp
    >>> import topoprune_jax as tp
    >>> tp.knn_graph([[0.0], [1.0], [3.0]], n_neighbors=1).indices.tolist()
    [[1], [0], [1]]
    >>> def taxi(x, y):
    ...     return jnp.sum(jnp.abs(x - y))
    >>> tp.knn_graph([[0.0, 0.0], [1.0, 1.0], [0.0, 3.0]], metric=taxi, n_neighbors=1).distances
    Array([[2.],
           [2.],
           [3.]], dtype=float32)

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
    _check_metric(metric, array)
    codes = None if labels is None else checks.check_labels(labels, n)
    graph = nearest_neighbors(array, k, metric=metric, codes=codes, progress=progress)
    if metric == "inner_product":
        _check_range(graph)
    return graph


def _check_metric(metric: Metric, points: Float[Array, "n d"]) -> None:
    if not callable(metric):
        if metric not in _METRICS:
            raise ValueError(
                "`metric` must be 'euclidean', 'cosine', 'inner_product', or a JAX function of two "
                f"points; got {metric!r}."
            )
        return
    point = jax.ShapeDtypeStruct(points.shape[1:], points.dtype)
    try:
        value = jax.eval_shape(lambda x, y: metric(x, y), point, point)
    except jax.errors.JAXTypeError as error:
        raise TypeError(
            "`metric` must be a function that JAX can trace; it turned a point into a NumPy array "
            "or a Python value. Write it with `jax.numpy`."
        ) from error
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise TypeError(
            f"`metric` must return one number for two points; got a {type(value).__name__}. "
            "Return a scalar, such as `jnp.sum(jnp.abs(x - y))`."
        )
    if value.shape != () or jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise ValueError(
            f"`metric` must return one real number for two points of shape {point.shape}; "
            f"got shape {value.shape} and dtype {value.dtype}. "
            "Reduce over the features, as `jnp.sum(jnp.abs(x - y))` does."
        )


def _check_range(graph: NeighborGraph) -> None:
    if not checks.is_traced(graph.distances) and bool(
        (jnp.isinf(graph.distances) & (graph.indices >= 0)).any()
    ):
        raise ValueError(
            f"`points` must have inner products within the range of {graph.distances.dtype}; "
            "got larger ones. Divide the points by a common scale."
        )


def nearest_neighbors(
    points: Float[Array, "n d"],
    k: int,
    *,
    metric: Metric = "euclidean",
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
    by_class = codes is not None
    name = metric if isinstance(metric, str) else "function"
    table = _prepare(
        points,
        codes,
        metric=name,
        n_rows=chunks * chunk * _ROWS,
        check=checks.is_traced(points),
    )
    if isinstance(metric, str):
        search = partial(
            _search, metric=metric, block=_block_size(n, codes), n_tiles=chunk, by_class=by_class
        )
    else:
        search = partial(_search_function, metric=metric, n_tiles=chunk)
    parts = []
    for i in range(chunks):
        if progress is not None:
            progress(stage, i, chunks)
            jax.block_until_ready(parts[-1:])
        parts.append(search(table, jnp.asarray(i * chunk, jnp.int32), k=k))
        if not isinstance(metric, str):
            _check_values(metric, table, parts[-1][2], i * chunk)
    indices, distances = _collect(table, parts, k=k, metric=name)
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
    center: Float[Array, " e"]
    index: Int[Array, " rows"]  # the point of each row, n in the padding
    codes: Int[Array, " rows"]  # its class, -1 in the padding
    first: Int[Array, " rows"]  # the rows of its class are first .. last - 1
    last: Int[Array, " rows"]
    n_points: int = eqx.field(static=True)


@partial(jax.jit, static_argnames=("metric", "n_rows", "check"))
def _prepare(points, codes, *, metric, n_rows, check=False):
    n = points.shape[0]
    absent = jnp.zeros(n, bool)
    if check:
        # Nobody looked at the values: a row that is not finite must not spoil the others.
        absent = ~jnp.isfinite(points).all(axis=1)
        points = jnp.where(absent[:, None], 0, points)
    scale = jnp.ones((), points.dtype)
    if metric == "cosine":
        magnitude = jnp.max(jnp.abs(points), axis=1, keepdims=True)
        is_zero = magnitude == 0
        points = points / jnp.where(is_zero, 1, magnitude)
        points = points / jnp.where(is_zero, 1, norm(points)[:, None])
        # One more axis, on which only rows of zeros live: at distance 1 - 0 from all others.
        points = jnp.concatenate([points, is_zero.astype(points.dtype)], axis=1)
    elif metric != "function":
        points, scale = _within_range(points)
    center = jnp.zeros_like(points[0])
    if metric in ("euclidean", "cosine"):
        # The median, because far outliers must not set the rounding of all other points.
        # By `top_k`, which XLA compiles faster than a sort.
        sample = points[:: -(-n // _SAMPLE)].T
        center = lax.top_k(sample, sample.shape[1] // 2 + 1)[0][:, -1]
    order = jnp.arange(n, dtype=jnp.int32)
    by_class = codes is not None
    codes = jnp.zeros(n, jnp.int32) if codes is None else codes
    codes = jnp.where(absent, jnp.iinfo(jnp.int32).max, codes)
    if by_class or check:
        order = jnp.argsort(codes, stable=True).astype(jnp.int32)
        codes = codes[order]
    padding = (0, n_rows - n)
    return _Table(
        points=jnp.pad(points[order], (padding, (0, 0))),
        scale=scale,
        center=center,
        index=jnp.pad(order, padding, constant_values=n),
        codes=jnp.pad(jnp.where(absent[order], -1, codes), padding, constant_values=-1),
        first=jnp.pad(jnp.searchsorted(codes, codes, side="left").astype(jnp.int32), padding),
        last=jnp.pad(jnp.searchsorted(codes, codes, side="right").astype(jnp.int32), padding),
        n_points=n,
    )


def _within_range(points: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    """The points divided by a power of two, and that power: no bit of the mantissa changes.

    The largest entry lands near the fourth root of the largest number, so that neither the squares
    of large differences overflow nor those of small ones vanish.
    """
    limits = jnp.finfo(points.dtype)
    reach = jnp.max(jnp.abs(points))
    exponent = jnp.frexp(reach)[1] - limits.maxexp // 4
    exponent = jnp.clip(exponent, limits.minexp + 1, limits.maxexp - 1)
    scale = jnp.ldexp(jnp.ones_like(reach), exponent)
    return points / scale, scale


@partial(jax.jit, static_argnames=("metric", "k", "n_tiles", "block", "by_class"))
def _search(
    table: _Table, first_tile, *, metric: str, k: int, n_tiles: int, block: int, by_class: bool
):
    """Points and distances of the k nearest, for some tiles of queries."""
    rows, e = table.points.shape
    n = table.n_points
    n_candidates = min(k + 1 + _SPARE, n)
    n_groups = _group_count(block, n_candidates)
    inner = metric == "inner_product"
    centered = table.points - table.center[None, :]
    square = jnp.sum(centered * centered, axis=1)
    longest = jnp.max(jnp.where(table.codes < 0, 0, square))
    rounding = _rounding(e, table.points.dtype)
    # With inner products the score is a lower bound: its rounding grows with both lengths.
    extra = -4 * rounding * norm(centered) if inner else square
    extra = jnp.where(table.codes < 0, jnp.inf, extra)
    columns = jnp.concatenate([-2 * centered, extra[:, None]], axis=1)
    columns = jnp.pad(columns, ((0, block), (0, 0))).at[rows:, -1].set(jnp.inf)
    column_codes = jnp.pad(table.codes, (0, block), constant_values=-1)

    def tile(t):
        start = t * _ROWS
        take = partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=_ROWS)
        x, codes = take(centered), take(table.codes)
        real = codes >= 0
        lo = jnp.min(jnp.where(real, take(table.first), n))
        hi = jnp.max(jnp.where(real, take(table.last), 0))
        tiny = jnp.finfo(x.dtype).tiny  # infinite columns stay infinite for a row of zeros
        ones = jnp.maximum(norm(x), tiny)[:, None] if inner else jnp.ones((_ROWS, 1), x.dtype)
        query = jnp.concatenate([x, ones], axis=1)

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
        found = jnp.where(jnp.isinf(values), rows - 1, jnp.minimum(found, rows - 1))
        own = start + jnp.arange(_ROWS, dtype=jnp.int32)
        keys, points, distances = _ordered(
            table, own, found, jnp.isinf(values), longest, metric=metric
        )
        kth = keys[:, min(k, n_candidates) - 1]
        if inner:
            reference = jnp.sum(take(table.points) * table.points[found[:, 0]], axis=1)
            proven = values[:, -1] > 2 * (kth - reference)
        else:
            length = jnp.sqrt(take(square))
            slack = 4 * rounding * (length + kth) ** 2
            proven = values[:, -1] + take(square) > kth * kth + slack
        # An infinite last candidate: there are no others.
        proven = proven | jnp.isinf(values[:, -1]) | ~real | (n_candidates == n)
        missing = max(0, k - n_candidates)
        points = jnp.pad(points[:, :k], ((0, 0), (0, missing)), constant_values=n)
        distances = jnp.pad(distances[:, :k], ((0, 0), (0, missing)), constant_values=jnp.inf)
        return points, distances, proven, found[:, 0]

    tiles = lax.map(tile, first_tile + jnp.arange(n_tiles, dtype=jnp.int32))
    points, distances, proven, nearest = jax.tree.map(
        lambda leaf: leaf.reshape(n_tiles * _ROWS, *leaf.shape[2:]), tiles
    )
    if n_candidates == n:
        return points, distances
    return _settle(
        table, first_tile * _ROWS, points, distances, proven, nearest, longest, metric=metric
    )


def _rounding(e: int, dtype) -> float:
    """Bound on the relative rounding of an inner product of length e.

    The worst case is e units; with more than 10 sqrt(e), the chance that one product of 10^20
    exceeds the bound is negligible if single roundings are independent (Higham & Mary 2019).
    """
    return float(jnp.finfo(dtype).eps) / 2 * (min(e, 10 * math.sqrt(e)) + 10)


def _keys(x: Array, y: Array, nearest: Array, inner: bool) -> Array:
    """What orders the candidates y of x: their distance, or minus their inner product.

    Inner products are taken relative to that of `nearest`: in a tight cluster the differences are
    far smaller than the products, which would round them away.
    """
    return -jnp.sum(x * (y - nearest), axis=-1) if inner else norm(x - y)


def _ordered(table: _Table, own, found, absent, longest, *, metric):
    """The candidates `found` of the rows `own` by (distance, index): keys, points, distances."""
    n, inner = table.n_points, metric == "inner_product"
    x, nearest = table.points[own][:, None, :], table.points[found[:, :1]]
    rows = max(1, _GATHERED_NUMBERS // (found.shape[1] * table.points.shape[1]))
    if rows >= found.shape[0]:
        keys = _keys(x, table.points[found], nearest, inner)
    else:
        keys = lax.map(
            lambda row: _keys(row[0], table.points[row[1]], row[2], inner),
            (x, found, nearest),
            batch_size=rows,
        )
    keys = jnp.where(absent | (own[:, None] == found), jnp.inf, keys)
    points = jnp.where(jnp.isinf(keys), n, table.index[found])
    keys, points = lax.sort((keys, points), dimension=1, num_keys=2)
    return keys, points, _distances(keys, x, nearest, longest, inner)


def _distances(keys: Array, x: Array, nearest: Array, longest: Array, inner: bool) -> Array:
    """The distances that belong to `_keys`."""
    if not inner:
        return keys
    return jnp.maximum((longest - jnp.sum(x * nearest, axis=2)) + keys, 0)


def _settle(table: _Table, first_row, points, distances, proven, nearest, longest, *, metric):
    """Compares the points that are not `proven` with all others of their class, by differences."""
    n, k = table.n_points, points.shape[1]
    n_rows = proven.shape[0]
    inner = metric == "inner_product"
    before = jnp.cumsum(~proven, dtype=jnp.int32)
    count = before[-1]
    doubtful = jnp.full(n_rows + _DOUBTFUL, n_rows - 1, jnp.int32)
    doubtful = doubtful.at[jnp.where(proven, n_rows + _DOUBTFUL, before - 1)].set(
        jnp.arange(n_rows, dtype=jnp.int32), mode="drop"
    )
    others = jnp.pad(table.points, ((0, _DOUBTFUL_COLUMNS), (0, 0)))
    other_codes = jnp.pad(table.codes, (0, _DOUBTFUL_COLUMNS), constant_values=-1)

    def step(state):
        done, points, distances = state
        slots = lax.dynamic_slice_in_dim(doubtful, done, _DOUBTFUL)
        used = done + jnp.arange(_DOUBTFUL, dtype=jnp.int32) < count
        own = first_row + slots
        x, codes = table.points[own][:, None, :], table.codes[own]
        reference = table.points[nearest[slots]][:, None, :]
        lo = jnp.min(jnp.where(used, table.first[own], n))
        hi = jnp.max(jnp.where(used, table.last[own], 0))

        def scan_block(b, best):
            left = lo + b * _DOUBTFUL_COLUMNS
            y = lax.dynamic_slice_in_dim(others, left, _DOUBTFUL_COLUMNS)
            rows = left + jnp.arange(_DOUBTFUL_COLUMNS, dtype=jnp.int32)
            keys = _keys(x, y[None], reference, inner)
            same = lax.dynamic_slice_in_dim(other_codes, left, _DOUBTFUL_COLUMNS)[None, :]
            same = codes[:, None] == same
            keys = jnp.where(same & (own[:, None] != rows[None, :]), keys, jnp.inf)
            return _merge(best, keys, rows)

        keys, found = lax.fori_loop(
            0, -(-(hi - lo) // _DOUBTFUL_COLUMNS), scan_block, _no_neighbors(_DOUBTFUL, k, x.dtype)
        )
        # Rows of a class are in the order of their index, so ties are too.
        new_points = jnp.where(jnp.isinf(keys), n, table.index[found])
        new_distances = _distances(keys, x, reference, longest, inner)
        target = jnp.where(used, slots, n_rows)
        points = points.at[target].set(new_points, mode="drop")
        distances = distances.at[target].set(new_distances, mode="drop")
        return done + _DOUBTFUL, points, distances

    start = (jnp.zeros((), jnp.int32), points, distances)
    return lax.while_loop(lambda state: state[0] < count, step, start)[1:]


def _no_neighbors(rows: int, k: int, dtype) -> tuple[Array, Array]:
    return jnp.full((rows, k), jnp.inf, dtype), jnp.zeros((rows, k), jnp.int32)


def _merge(best: tuple[Array, Array], values: Float[Array, "rows width"], columns: Array):
    """The k least of `best` and one more block of columns; ties go to the earlier column."""
    k = best[0].shape[1]
    columns = jnp.broadcast_to(columns[None, :], values.shape)
    negative, place = lax.top_k(-jnp.concatenate([best[0], values], axis=1), k)
    found = jnp.concatenate([best[1], columns], axis=1)
    return -negative, jnp.take_along_axis(found, place, axis=1)


@eqx.filter_jit
def _search_function(table: _Table, first_tile, *, metric: Callable, k: int, n_tiles: int):
    """As `_search`, every pair by the function; and the rows where a value was NaN or negative."""
    n, d = table.n_points, table.points.shape[1]
    size = _ROWS
    while size > 1 and size * size * d > _TILE_NUMBERS:
        size //= 2
    width = max(1, min(_ROWS, n, _TILE_NUMBERS // (size * d)))
    others = jnp.pad(table.points, ((0, width), (0, 0)))
    other_codes = jnp.pad(table.codes, (0, width), constant_values=-1)
    values_of = jax.vmap(jax.vmap(metric, in_axes=(None, 0)), in_axes=(0, None))

    def tile(t):
        own = first_tile * _ROWS + t * size + jnp.arange(size, dtype=jnp.int32)
        x, codes = table.points[own], table.codes[own]
        real = codes >= 0
        lo = jnp.min(jnp.where(real, table.first[own], n))
        hi = jnp.max(jnp.where(real, table.last[own], 0))

        def scan_block(b, state):
            best, bad = state
            left = lo + b * width
            rows = left + jnp.arange(width, dtype=jnp.int32)
            y = lax.dynamic_slice_in_dim(others, left, width)
            values = values_of(x, y).astype(x.dtype)
            same = codes[:, None] == lax.dynamic_slice_in_dim(other_codes, left, width)[None, :]
            asked = same & real[:, None] & (own[:, None] != rows[None, :])
            bad = bad | jnp.any(asked & ~(values >= 0), axis=1)
            values = jnp.where(asked & ~jnp.isnan(values), values, jnp.inf)
            return _merge(best, values, rows), bad

        (distances, found), bad = lax.fori_loop(
            0,
            -(-(hi - lo) // width),
            scan_block,
            (_no_neighbors(size, k, x.dtype), jnp.zeros(size, bool)),
        )
        return jnp.where(jnp.isinf(distances), n, table.index[found]), distances, bad

    points, distances, bad = lax.map(tile, jnp.arange(n_tiles * _ROWS // size, dtype=jnp.int32))
    return points.reshape(-1, k), distances.reshape(-1, k), bad.ravel()


def _check_values(metric: Callable, table: _Table, bad: Array, first_tile: int) -> None:
    if checks.is_traced(bad) or not bool(bad.any()):
        return
    n, row = table.n_points, first_tile * _ROWS + int(bad.argmax())
    values = lax.map(partial(metric, table.points[row]), table.points[:n])
    asked = (table.codes[:n] == table.codes[row]).at[row].set(False)
    other = int((asked & ~(values >= 0)).argmax())
    raise ValueError(
        f"`metric` must return a number that is not negative; got {float(values[other]):g} for "
        f"points {int(table.index[row])} and {int(table.index[other])}. "
        "Guard its square roots, logarithms and divisions, or clip it at 0."
    )


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
    absent = (table.codes[:n] < 0)[:, None]
    found = jnp.where(absent, n, jnp.concatenate([part[0] for part in parts])[:n])
    distances = jnp.concatenate([part[1] for part in parts])[:n]
    distances = jnp.where(absent, jnp.inf, distances)
    place = table.index[:n]
    indices = jnp.zeros((n, k), jnp.int32).at[place].set(jnp.where(found >= n, -1, found))
    distances = jnp.zeros((n, k), distances.dtype).at[place].set(distances)
    if metric == "cosine":
        return indices, distances * distances / 2
    if metric == "inner_product":
        return indices, distances * table.scale * table.scale
    return indices, distances * table.scale
