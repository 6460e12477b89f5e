"""The graph of nearest neighbors: what a user asks for, and what a search gives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from . import _checks as checks
from ._graph_exact import Metric, exact_neighbors
from ._types import Array, ArrayInput, Progress

_METRICS = ("euclidean", "cosine", "inner_product")


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
    return NeighborGraph(
        *exact_neighbors(points, k, metric=metric, codes=codes, stage=stage, progress=progress)
    )
