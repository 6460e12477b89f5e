"""The graph of nearest neighbors: what a user asks for, and what a search gives."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from . import _backend as backend
from . import _checks as checks
from ._graph_approximate import BlockSearch, approximate_neighbors, block_search
from ._graph_boxes import BoxSearch, box_neighbors, is_worthwhile
from ._graph_exact import TILE_BYTES
from ._graph_groups import GroupSearch
from ._graph_search import ExactSearch, Metric, exact_neighbors
from ._ring import Rows, gather, ring_neighbors
from ._types import Array, ArrayInput, Progress

_METRICS = ("euclidean", "cosine", "inner_product")
METHODS = ("exact", "projected", "blocks")
NEIGHBORS = ("auto", *METHODS)
"""The names that `neighbors` of `rank` may have."""
_ROUNDING = 1e-3  # of distances from elsewhere: two that close may stand in either order
# Points up to which "auto" compares all with all on a CPU, and up to which it does so where blocks
# have missed too many: there it takes half a minute, beyond it much more.
_EXACT_ON_CPU, _EXACT_AGAIN_ON_CPU = 30_000, 100_000
LEAST_RECALL = 0.95
EXACT_PATCHES_ON_CPU = 25_000  # the first for patches, whose neighbors are many


class NeighborGraph(eqx.Module):
    """The k nearest neighbors of every point, the point itself left out.

    A graph from elsewhere is welcome: `NeighborGraph(indices, distances)`, arrays of any integer
    and real dtype, from which each point itself is left out. It is checked where it is used.

    **Attributes:**

    - `indices`: (n, k) int32, nearest first; -1 in an empty slot.
    - `distances`: (n, k) in the units of the metric, ascending; infinite in an empty slot.
    - `recall`: fraction of the true neighbors that the search found, estimated where it was not
      exact; 1 unless stated.
    """

    indices: Int[Array, "n k"]
    distances: Float[Array, "n k"]
    recall: Float[Array, ""]

    def __init__(self, indices: ArrayInput, distances: ArrayInput, recall: ArrayInput = 1.0):
        self.indices, self.distances = _as_graph(indices, distances)
        self.recall = _as_recall(recall)

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
        indices = indices.astype(np.int32)
    dtype = checks.float_dtype(distances.dtype)
    return jnp.asarray(indices, jnp.int32), jnp.asarray(distances, dtype)


def _as_recall(recall: ArrayInput) -> Array:
    recall = checks.as_array(recall, name="recall")
    if recall.shape != () or not (checks.is_traced(recall) or 0 <= float(recall) <= 1):
        got = f"shape {recall.shape}" if recall.shape else f"{float(recall):g}"
        raise ValueError(
            f"`recall` of a NeighborGraph must be one number between 0 and 1; got {got}. "
            "Leave it out where all neighbors are the true ones."
        )
    return jnp.asarray(recall, checks.float_dtype(recall.dtype))


def check_bounds(lowest: int, highest: int, n: int) -> None:
    """Raises unless the indices of a graph of n points lie between these."""
    if lowest < -1 or highest >= n:
        raise ValueError(
            f"The indices of this NeighborGraph must lie between 0 and {n - 1}, or be -1 in an "
            f"empty slot; got {lowest} to {highest}."
        )


def check_graph(graph: Any) -> None:
    """Raises unless it is a `NeighborGraph` whose entries make sense, as far as they are known."""
    if not isinstance(graph, NeighborGraph):
        raise TypeError(
            f"`graph` must be a NeighborGraph; got {type(graph).__name__}. Make one with "
            "`knn_graph(points)`, or `NeighborGraph(indices, distances)` from your own arrays."
        )
    if checks.is_traced(graph.indices) or checks.is_traced(graph.distances):
        return
    n = graph.n_points
    lowest, highest, own, twice, invalid, unordered = _faults(graph)
    check_bounds(lowest, highest, n)
    if own >= 0:
        raise ValueError(
            f"`graph` lists point {own} as its own neighbor. "
            "Leave the point itself out (with umap-learn's or faiss's arrays: drop column 0)."
        )
    if twice >= 0:
        raise ValueError(
            f"`graph.indices` must name a neighbor once; got one twice in row {twice}. "
            "Put -1 into empty slots, last in their row."
        )
    if invalid >= 0:
        raise ValueError(
            "`graph.distances` must be finite and not negative where there is a neighbor; "
            f"got NaN, infinity or a negative value, first in row {invalid}."
        )
    if unordered >= 0:
        raise ValueError(
            "`graph` must list the nearest neighbors first and empty slots last; got distances "
            f"that descend, first in row {unordered}. Sort every row by distance, and turn "
            "similarities into distances."
        )


def _faults(graph: NeighborGraph) -> tuple[int, ...]:
    """Least and greatest index; then -1 or the first row that lists itself, lists a neighbor twice,
    has a bad distance, or is not in order.

    By NumPy: a program would take longer to compile than this takes for a million points.
    """
    # Slots along the first axis, so that numbers side by side belong to different rows.
    indices = np.ascontiguousarray(np.asarray(graph.indices).T)
    distances = np.ascontiguousarray(np.asarray(graph.distances).T)
    present = indices >= 0
    k, n = indices.shape
    own = indices == np.arange(n, dtype=indices.dtype)[None, :]
    # No two empty slots are alike.
    names = np.where(present, indices, -1 - np.arange(k, dtype=indices.dtype)[:, None])
    twice = np.zeros((1, n), bool)
    for apart in range(1, k):
        twice[0] |= (names[apart:] == names[:-apart]).any(axis=0)
    invalid = present & ~((distances >= 0) & (distances < np.inf))
    known = np.where(present, distances, np.inf)
    unordered = known[1:] < (1 - _ROUNDING) * known[:-1]

    def first(faults: np.ndarray) -> int:
        return int(faults.any(axis=0).argmax()) if faults.any() else -1

    return int(indices.min()), int(indices.max()), *map(first, (own, twice, invalid, unordered))


def knn_graph(
    points: ArrayInput,
    *,
    n_neighbors: int = 15,
    metric: Metric = "euclidean",
    method: str = "exact",
    labels: ArrayInput | None = None,
    progress: Progress | None = None,
) -> NeighborGraph:
    r"""The k-nearest-neighbor graph: exact, or faster and with its recall stated.

    For every point i the `n_neighbors` points j != i of least d(i, j), where d is

    - `"euclidean"`: |x_i - x_j|;
    - `"cosine"`: 1 - cos(x_i, x_j);
    - `"inner_product"`: M - x_i . x_j with M = max_l |x_l|^2, so that the neighbors are those of
      the largest inner product. It is not negative (Cauchy-Schwarz), symmetric, equal to the cosine
      distance on rows of unit length, and orders neighbors as the Euclidean distance of the usual
      lifting does (Bachrach et al., RecSys 2014, doi 10.1145/2645710.2645741);
    - a JAX function `metric(x: (d,), y: (d,)) -> scalar`: its value. It need be neither symmetric
      nor zero on the diagonal; an infinite value is no neighbor.

    Equal distances are ordered by index, and duplicates are at Euclidean distance 0. "Exact" is
    exact: candidates come from a tiled matrix product, |x_j|^2 - 2 x_i . x_j, and a two-stage
    selection (the k least values lie within the k groups of columns whose minima are least); the
    candidates' distances are then computed anew from differences. Where the last candidate is
    not farther than the k-th neighbor by more than the rounding of the product (bounds: Higham &
    Mary, SIAM J. Sci. Comput. 41, 2019, doi 10.1137/18M1226312), as in clusters that are tiny
    against their distance from the center or among more duplicates than candidates, the point is
    compared with all others by differences; this costs about 15 times as much for that point. On an
    accelerator the product is of bfloat16 halves, h h' + h l' + l h', wrong by 2^-15 |x| |y| at
    most, and of all columns only the least of every group is looked at first; the same bound
    decides. With up to 4 features and 8,192 points or more, blocks of points along a space-filling
    curve are looked at instead, nearest bounding boxes first, until no other can hold a neighbor:
    the same result, in a time that grows about as n log n. What
    remains is the rounding of each single distance, and for cosine that of the rows' normalization.
    A function is evaluated on every pair, in vmapped tiles of at most 4 million coordinates.

    That is `method="exact"`. Two others look at fewer numbers; the distances they return are the
    true ones of the points they found, but they may miss a neighbor:

    - `"projected"`, for many features: the scan sees the coordinates along 61 principal axes
      (randomized subspace iteration: Halko, Martinsson, Tropp, SIAM Review 53, 2011, doi
      10.1137/090771806) and the length of what they leave. With P the projection and
      r_x = |x - Px|, the distance lies between (r_x - r_y)^2 and (r_x + r_y)^2 beyond |Px - Py|^2;
      the scan takes

          |Px - Py|^2 + r_x^2 + r_y^2 - 1.2 r_x r_y,

      as if the remainders had a cosine of 0.6. The 4k + 4 least, or 3k + 4 from k = 84, are
      measured in all features. For d <= 64 it is the exact search, and where the remainders are
      lost in rounding it gives the exact graph (Euclidean and cosine).
    - `"blocks"`, for many points: a tree halves the points at the median of their longest
      direction (a principal-axis tree, as in Dasgupta & Freund, STOC 2008, doi
      10.1145/1374376.1374452), down to blocks of about 200 points or 4k. A part of a block is a
      tile of queries, whose points vote for the blocks of nearest centers. The blocks of most
      votes, 40 at n = 50,000 and as n^(1/3) beyond, are scanned by the value above, and then the
      candidates of each point's 10 nearest candidates (Dong, Moses, Li, WWW 2011, doi
      10.1145/1963405.1963487). The 2.5k + 3 least are measured in all features. Time grows
      as n^(4/3), plus n^2/200 distances to centers. Below about 18,000 points it is the exact
      search.

    For `"inner_product"` both see the points lifted by sqrt(M - |y|^2), the queries by 0.

    They say how much they found: `recall` of the graph is the fraction of the true neighbors of
    m = 512 points, one drawn from each of m equal stretches of the data, always the same, which are
    compared with all; a point counts as found if it is no farther than the true k-th neighbor, up
    to rounding, so that ties are no misses. Its standard error is at most sqrt(R (1 - R) / m) for a
    recall R, as if the neighbors of a point were found all or none: .008 at .97. Data of high
    intrinsic dimension, such as independent Gaussian features, are hard for `"blocks"`: look at
    `recall`.

    Memory is O(n (k + d)) and one tile, which is 64 MiB at most (on an accelerator 512 MiB, and
    for 4,096 queries the least of every group). Compiled once for each shape; with
    a function, once for each function object: define it outside of loops.

    `n_neighbors` does not count the point itself; umap-learn's does, so its `n_neighbors=16` is 15
    here.

    **Arguments:**

    - `points`: (n, d) real numbers, finite.
    - `n_neighbors`: k, between 1 and n - 1.
    - `metric`: `"euclidean"`, `"cosine"`, `"inner_product"`, or a function as above, which sees the
      points as float32 (float64 where JAX has that enabled). For cosine a row of zeros is at
      distance 1 from any other row and 0 from another row of zeros, as in umap-learn.
    - `method`: `"exact"`, `"projected"` or `"blocks"`; the last two are deterministic, and only for
      a metric with a name.
    - `labels`: (n,) classes; not with `"blocks"`. Where given, neighbors are sought in the point's
      own class only, and a class of k points or fewer leaves empty slots.
    - `progress`: called with ("neighbors", done, total).

    **Returns:** a `NeighborGraph` with k slots a point.

    **Raises:** TypeError or ValueError with one sentence for points that are no finite 2-D array of
    real numbers, `n_neighbors` outside [1, n - 1], an unknown metric or method, a method that does
    not go with the metric or with labels, inner products beyond the
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
    _check_method(method, metric, labels)
    codes = None if labels is None else checks.check_labels(labels, n)
    graph = nearest_neighbors(
        array, k, metric=metric, method=method, codes=codes, progress=progress
    )
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


def _check_method(method: str, metric: Metric, labels: ArrayInput | None) -> None:
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(
            f"`method` must be 'exact', 'projected' or 'blocks'; got {method!r}. "
            "Only 'exact' misses no neighbor."
        )
    if method != "exact" and callable(metric):
        raise ValueError(
            f"`method` must be 'exact' where `metric` is a function; got method={method!r}. "
            "Only distances with coordinates can be projected or split."
        )
    if method == "blocks" and labels is not None:
        raise ValueError(
            "`method` must be 'exact' or 'projected' where there are `labels`; got 'blocks'. "
            "The search within each class is already that much smaller."
        )


def _check_range(graph: NeighborGraph) -> None:
    if not checks.is_traced(graph.distances) and bool(
        (jnp.isinf(graph.distances) & (graph.indices >= 0)).any()
    ):
        raise ValueError(
            f"`points` must have inner products within the range of {graph.distances.dtype}; "
            "got larger ones. Divide the points by a common scale."
        )


def method_for(neighbors: str, n: int, platform: str | None = None) -> str:
    """The method of `knn_graph` that one of `NEIGHBORS` means for n points; "auto" where that is
    "blocks" unless it finds too little."""
    if neighbors != "auto":
        return neighbors
    if n <= _EXACT_ON_CPU or not backend.is_cpu(platform):
        return "exact"
    return "auto" if n <= _EXACT_AGAIN_ON_CPU else "blocks"


def exact_patches_for(method: str) -> int:
    """Points of a group up to which patches are exact on a CPU, by how neighbors are sought."""
    return EXACT_PATCHES_ON_CPU * (1 if method in ("auto", "blocks") else 2)


def patches_by_blocks(
    n: int, platform: str | None = None, *, exact_up_to: int = EXACT_PATCHES_ON_CPU
) -> bool:
    """Whether patches of n points in more than a few dimensions are sought by blocks."""
    return n > exact_up_to and backend.is_cpu(platform)


def _largest(codes: Int[Array, " n"]) -> int:
    """The size of the largest class; 0 while JAX traces."""
    return 0 if checks.is_traced(codes) else int(np.bincount(np.asarray(codes)).max())


def nearest_neighbors(
    points: Float[Array, "n d"] | Rows,
    k: int,
    *,
    metric: Metric = "euclidean",
    method: str = "exact",
    codes: Int[Array, " n"] | None = None,
    stage: str = "neighbors",
    progress: Progress | None = None,
    tile_bytes: int = TILE_BYTES,
) -> NeighborGraph:
    """`knn_graph` without its checks, for any k >= 1: missing neighbors are empty slots.

    Of `Rows` the Euclidean graph, found exactly by all devices together.
    """
    if isinstance(points, Rows):
        options = {"codes": codes, "stage": stage, "progress": progress}
        if is_worthwhile(points, k):
            every = gather(points, np.arange(points.n_points))
            return NeighborGraph(*box_neighbors(every, k, mesh=points.mesh, **options))
        return NeighborGraph(*ring_neighbors(points, k, **options))
    if method == "exact" or not isinstance(metric, str):
        if metric == "euclidean" and is_worthwhile(points, k):
            return NeighborGraph(
                *box_neighbors(points, k, codes=codes, stage=stage, progress=progress)
            )
        return NeighborGraph(
            *exact_neighbors(
                points,
                k,
                metric=metric,
                codes=codes,
                stage=stage,
                progress=progress,
                tile_bytes=tile_bytes,
            )
        )
    return NeighborGraph(
        *approximate_neighbors(
            points,
            k,
            method=method,
            metric=metric,
            codes=codes,
            stage=stage,
            progress=progress,
            tile_bytes=tile_bytes,
        )
    )


def neighbor_search(
    points: Float[Array, "n d"],
    k: int,
    *,
    codes: Int[Array, " n"] | None,
    mesh: Mesh | None = None,
    most_rows: int | None = None,
    exact_up_to: int = EXACT_PATCHES_ON_CPU,
) -> BoxSearch | BlockSearch | ExactSearch | GroupSearch:
    """The Euclidean search of `nearest_neighbors` one part at a time, for those who need no graph:
    `part(i)[0]` are the neighbors of the points `place(i)`, for i < `calls`; n is none.

    By blocks among more than `exact_up_to` points of a group on one CPU. A part of the exact search
    and of that by blocks has about `most_rows` points at most.
    """
    if is_worthwhile(points, k):
        return BoxSearch(points, k, codes, mesh)
    by_blocks = partial(patches_by_blocks, exact_up_to=exact_up_to)
    if mesh is None and codes is None and by_blocks(points.shape[0]):
        search = block_search(points, k, most_rows)
        if search is not None:
            return search
    if mesh is None and codes is not None and by_blocks(_largest(codes)):
        return GroupSearch(points, k, codes, exact_up_to, most_rows)
    return ExactSearch(points, k, "euclidean", codes, mesh, most_rows=most_rows)
