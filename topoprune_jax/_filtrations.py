"""Filtrations beside Vietoris-Rips: given distances, weighted points, graphs.

Generators come as integers without a derivative; births and deaths are then evaluated in plain JAX,
so that every mode of differentiation goes through. See `_flag` for how generators are found.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ._checks import as_array, check_count, check_nonnegative, check_points, is_traced
from ._diagram import (
    Diagram,
    Generators,
    check_capacity,
    check_dims,
    check_scale,
    diagram_of,
    host_generators,
    is_essential,
    outcome,
)
from ._distance import norm
from ._flag import check_reduction, component_rows, flag_generators
from ._graph import NeighborGraph, check_graph, knn_graph
from ._host._lower_star import lower_star_pairs
from ._persistence import distance_matrix, power_of_two
from ._spanning_forest import spanning_forest
from ._types import Array, ArrayInput


def rips_from_distances(
    distances: ArrayInput,
    *,
    dims: Sequence[int] = (0, 1),
    max_edge_length: Any = math.inf,
    capacity: int | Sequence[int] | None = None,
    reduction: str = "host",
) -> Diagram:
    r"""Persistent homology of the Vietoris-Rips filtration of any dissimilarities.

    As `vietoris_rips`, with $b = D_{uv}$ and $d = D_{u'v'}$ in place of Euclidean distances. No
    triangle inequality is needed.

    Differentiable in `distances` in every mode, under every transformation; the cotangent goes to
    the entries (u, v), u < v, of the generators.

    **Arguments:**

    - `distances`: `(n, n)`, symmetric, not negative, 0 on the diagonal; infinity where two points
      are never joined. While JAX traces only the entries above the diagonal are looked at.
    - `dims`, `max_edge_length`, `capacity`, `reduction`: as for `vietoris_rips`.

    **Returns:** a `Diagram`; with NaN or negative entries under a transformation one of NaN and
    `RESULTS.not_finite`.

    **Raises:** TypeError or ValueError for distances that are no such matrix, and for options out
    of range.

    !!! example

        ```python
        >>> import topoprune_jax as tp
        >>> around = [[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]]
        >>> diagram = tp.rips_from_distances(around, dims=(1,))
        >>> float(diagram.births[0]), float(diagram.deaths[0])
        (1.0, 2.0)

        ```
    """
    matrix = _check_distances(distances)
    dims = check_dims(dims)
    return _rips_from_distances(
        matrix,
        check_scale(max_edge_length, matrix.dtype),
        dims=dims,
        capacities=check_capacity(capacity, dims, matrix.shape[0]),
        reduction=check_reduction(reduction, dims, matrix.shape[0]),
    )


def weighted_rips(
    points: ArrayInput,
    weights: ArrayInput,
    *,
    dims: Sequence[int] = (0, 1),
    max_filtration: Any = math.inf,
    capacity: int | Sequence[int] | None = None,
    reduction: str = "host",
) -> Diagram:
    r"""Persistent homology of the weighted Vietoris-Rips filtration.

    A point of weight $w_i$ enters at $2 w_i$ and an edge when both its ends are there and their
    balls of radius $t/2 - w$ meet:

    $$f(i) = 2 w_i, \qquad f(i, j) = \max(2 w_i,\, 2 w_j,\, \lVert x_i - x_j \rVert + w_i + w_j).$$

    With weights that are large where points are few, outliers enter late. Buchet, Chazal, Oudot and
    Sheehy (2016), section 5, in the scale of gudhi's `WeightedRipsComplex`. With the weights of
    `distance_to_measure` it is the DTM filtration (Anai et al. 2020, with p = 1).

    Differentiable in `points` and `weights` in every mode, under every transformation.

    **Arguments:**

    - `points`: `(n, d)`.
    - `weights`: `(n,)`, not negative.
    - `max_filtration`: nothing enters beyond this value.
    - `dims`, `capacity`, `reduction`: as for `vietoris_rips`.

    **Returns:** a `Diagram`. Of two components that meet the one dies that was born later, ties
    by index.

    **Raises:** TypeError or ValueError for arrays of wrong shape or values, and options out of
    range.

    !!! example

        ```python
        >>> import topoprune_jax as tp
        >>> diagram = tp.weighted_rips([[0.0], [3.0]], [0.0, 1.0], dims=(0,))
        >>> diagram.births.tolist(), diagram.deaths.tolist()
        ([0.0, 2.0], [inf, 4.0])

        ```
    """
    points = check_points(points)
    weights = check_nonnegative(
        weights,
        points.shape[0],
        name="weights",
        hint="Add a constant, which shifts the whole diagram by twice as much.",
    )
    weights = jnp.asarray(weights, dtype=points.dtype)
    dims = check_dims(dims)
    return _weighted_rips(
        points,
        weights,
        check_scale(max_filtration, points.dtype, name="max_filtration"),
        dims=dims,
        capacities=check_capacity(capacity, dims, points.shape[0]),
        reduction=check_reduction(reduction, dims, points.shape[0]),
    )


def distance_to_measure(
    points: ArrayInput, *, n_neighbors: int, graph: NeighborGraph | None = None
) -> Float[Array, " n"]:
    r"""Distance of every point to the empirical measure of all: large where points are few.

    $$w_i = \Bigl( \frac{1}{k + 1} \sum_{j \in N_k(i) \cup \{i\}} \lVert x_i - x_j \rVert^2
    \Bigr)^{1/2}, \qquad k = \texttt{n\_neighbors}.$$

    Chazal, Cohen-Steiner and Merigot, *Geometric inference for probability measures* (2011). It is
    1-Lipschitz in each point, and one outlier moves it little: that is what makes the DTM
    filtration, `weighted_rips(points, distance_to_measure(points, n_neighbors=k))`, robust.

    Differentiable in `points` (which points are neighbors has no derivative). Works under `jit` and
    `vmap`. Memory is that of `knn_graph`.

    **Arguments:**

    - `points`: `(n, d)`.
    - `n_neighbors`: k, without the point itself, at most n - 1.
    - `graph`: a neighbor graph of `points` with at least k slots a point that you have already.

    **Returns:** `(n,)`, not negative, in the unit of the points.

    **Raises:** TypeError or ValueError for bad points, and for a graph of other points or of too
    few neighbors.

    !!! example

        ```python
        >>> import topoprune_jax as tp
        >>> tp.distance_to_measure([[0.0], [0.0], [2.0]], n_neighbors=1).tolist()
        [0.0, 0.0, 1.4142135381698608]

        ```
    """
    points = check_points(points, min_points=2)
    n = points.shape[0]
    k = check_count(n_neighbors, name="n_neighbors", low=1, high=n - 1)
    if graph is None:
        graph = knn_graph(jax.lax.stop_gradient(points), n_neighbors=k)
    _check_same_points(graph, n)
    if graph.n_neighbors < k:
        raise ValueError(
            f"`graph` must list at least n_neighbors={k} neighbors a point; it lists "
            f"{graph.n_neighbors}. Make it with `knn_graph(points, n_neighbors={k})`."
        )
    return _distance_to_measure(points, graph.indices[:, :k])


def graph_components(
    points: ArrayInput,
    graph: NeighborGraph,
    *,
    max_edge_length: Any = math.inf,
    capacity: int | None = None,
) -> Diagram:
    r"""Dimension 0 of the Vietoris-Rips filtration along the edges of a graph, for many points.

    The minimum spanning forest of the graph by Boruvka's method (1926), on the device in
    O(n k log n) time and O(n k) memory: 100,000 points with 15 neighbors are no trouble. Wherever
    the graph holds the minimum spanning tree of the points, which a kNN graph of clustered data
    does but for the longest edges, the bars are those of `vietoris_rips`; each connected
    component of the graph has one essential class.

    Differentiable in `points` in every mode: both ends of an edge of the forest are pulled. Works
    under `jit` and `vmap`.

    **Arguments:**

    - `points`: `(n, d)`.
    - `graph`: which edges exist; its distances are not used, edges are measured anew. Empty slots
      are allowed.
    - `max_edge_length`: longer edges do not enter.
    - `capacity`: number of slots, by default n.

    **Returns:** a `Diagram` of dimension 0.

    **Raises:** TypeError or ValueError for bad points, a graph of other points, or options out of
    range.

    !!! example

        ```python
        >>> import topoprune_jax as tp
        >>> points = [[0.0], [1.0], [5.0], [7.0]]
        >>> diagram = tp.graph_components(points, tp.knn_graph(points, n_neighbors=1))
        >>> diagram.deaths.tolist()
        [inf, inf, 2.0, 1.0]

        ```
    """
    points = check_points(points)
    _check_same_points(graph, points.shape[0])
    n = points.shape[0]
    return _graph_components(
        points,
        graph.indices,
        check_scale(max_edge_length, points.dtype),
        capacity=n if capacity is None else check_count(capacity, name="capacity", low=1),
    )


def lower_star(
    values: ArrayInput,
    edges: ArrayInput | NeighborGraph,
    *,
    dims: Sequence[int] = (0,),
    capacity: int | Sequence[int] | None = None,
) -> Diagram:
    r"""Persistent homology of the sublevel sets of a function on the vertices of a graph.

    $$f(u) = \texttt{values}_u, \qquad f(u, v) = \max(f(u), f(v)).$$

    A component is born at a local minimum and dies where it meets one that is lower; a loop of the
    graph is born with its last edge and never dies. For superlevel sets, as of a density, pass
    `-values`. Edelsbrunner and Harer, *Computational Topology* (2010), VI.3; the clusters of Chazal
    et al., *Persistence-based clustering* (2013), are these bars of -density.

    Differentiable in `values` in every mode: birth and death are the values of the two vertices
    that the generators name. gudhi pairs them on the host.

    **Arguments:**

    - `values`: `(n,)`.
    - `edges`: `(m, 2)` pairs of vertices, or a `NeighborGraph`. A pair with a negative index is
      left out.
    - `dims`: homology dimensions, out of 0 and 1.
    - `capacity`: slots per dimension; by default n in dimension 0 and m in dimension 1.

    **Returns:** a `Diagram`, whose generators are rows (birth u, u, death v, v). Bars of length
    0 are left out; ties between values are broken by index.

    **Raises:** TypeError or ValueError for values or edges of wrong shape, and edges to vertices
    that do not exist.

    !!! example

        ```python
        >>> import topoprune_jax as tp
        >>> valley = tp.lower_star([0.0, 3.0, 1.0], [[0, 1], [1, 2]])
        >>> valley.births.tolist(), valley.deaths.tolist()
        ([0.0, 1.0, 0.0], [inf, 3.0, 0.0])

        ```
    """
    values = as_array(values, name="values")
    if values.ndim != 1 or values.shape[0] == 0:
        raise ValueError(
            f"`values` must have one entry for each vertex; got shape {values.shape}. "
            "Pass an array of shape (n,)."
        )
    values = check_points(values[:, None], name="values")[:, 0]
    n = values.shape[0]
    pairs = _check_edges(edges, n)
    dims = check_dims(dims)
    if 2 in dims:
        raise ValueError("`dims` of a graph must be 0 or 1; got 2. Pass a tuple such as (0, 1).")
    if capacity is None:
        capacities = tuple((n, max(1, pairs.shape[0]))[dim] for dim in dims)
    else:
        capacities = check_capacity(capacity, dims, n)
    return _lower_star(values, pairs, dims=dims, capacities=capacities)


# --- Evaluation -----------------------------------------------------------------------------------


def _evaluated(generators: Generators, value: Callable[[Array, Array], Array]) -> Diagram:
    """The diagram of generators (birth u, v, death u, v) at `value(u, v)`."""
    edges = jax.lax.stop_gradient(generators.edges)
    u, v = jnp.maximum(edges[:, 0::2], 0), jnp.maximum(edges[:, 1::2], 0)
    births, deaths = value(u[:, 0], v[:, 0]), value(u[:, 1], v[:, 1])
    exists = edges[:, 0] >= 0
    births, deaths = jnp.where(exists, births, 0), jnp.where(exists, deaths, 0)
    return diagram_of(generators, births, jnp.where(is_essential(edges), jnp.inf, deaths))


@functools.partial(jax.jit, static_argnames=("dims", "capacities", "reduction"))
def _rips_from_distances(matrix, longest, *, dims, capacities, reduction) -> Diagram:
    upper = jnp.triu(matrix, k=1)
    # A distance of infinity never enters, however long edges may be.
    known = jax.lax.stop_gradient(upper)
    infinite = known == jnp.inf
    far = jnp.finfo(matrix.dtype).max
    longest = jnp.minimum(jax.lax.stop_gradient(longest), far / 2)
    fine = jnp.all((known >= 0) & ((known <= far / 2) | infinite))
    known = jnp.where(infinite, far, known)
    generators = flag_generators(
        jnp.where(fine, known + known.T, 0),
        longest,
        fine,
        dims=dims,
        capacities=capacities,
        reduction=reduction,
    )
    return _evaluated(generators, lambda u, v: upper[jnp.minimum(u, v), jnp.maximum(u, v)])


@functools.partial(jax.jit, static_argnames=("dims", "capacities", "reduction"))
def _weighted_rips(points, weights, longest, *, dims, capacities, reduction) -> Diagram:
    x, w = jax.lax.stop_gradient((points, weights))
    scale = power_of_two(x)
    lengths = distance_matrix(x, scale) * scale
    filtration = _weighted(lengths, w[:, None], w[None, :])
    fine = jnp.all(w >= 0) & jnp.isfinite(filtration).all()
    generators = flag_generators(
        jnp.where(fine, filtration, 0),
        jax.lax.stop_gradient(longest),
        fine,
        dims=dims,
        capacities=capacities,
        weighted=True,
        reduction=reduction,
    )

    def value(u, v):
        return _weighted(norm((points[u] - points[v]) / scale) * scale, weights[u], weights[v])

    return _evaluated(generators, value)


def _weighted(length: Array, first: Array, second: Array) -> Array:
    vertices = 2 * jnp.maximum(first, second)
    # Where the vertices decide, the length has no part in the derivative.
    return jnp.maximum(vertices, length + first + second)


@jax.jit
def _distance_to_measure(points: Float[Array, "n d"], indices: Int[Array, "n k"]) -> Array:
    scale = power_of_two(jax.lax.stop_gradient(points))

    def add(total, j):
        length = norm((points - points[jnp.maximum(j, 0)]) / scale)
        return total + jnp.where(j >= 0, length * length, 0), (j >= 0)

    total, listed = jax.lax.scan(add, 0 * points[:, 0], indices.T)
    count = (1 + jnp.sum(listed, axis=0)).astype(total.dtype)
    apart = total > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, total / count, 1)), 0) * scale


@functools.partial(jax.jit, static_argnames=("capacity",))
def _graph_components(points, indices, longest, *, capacity) -> Diagram:
    x = jax.lax.stop_gradient(points)
    scale = power_of_two(x)

    def measure(_, j):
        return None, norm((x - x[jnp.maximum(j, 0)]) / scale)

    lengths = jax.lax.scan(measure, None, indices.T)[1].T
    fine = jnp.isfinite(scale)
    longest = jax.lax.stop_gradient(longest) / scale
    allowed = (indices >= 0) & (lengths <= longest)
    child, parent, dies = spanning_forest(indices, lengths, allowed)
    n = points.shape[0]
    died = norm((x[child] - x[parent]) / scale)
    lifetime = jnp.where(dies, died, jnp.inf)
    vertex = jnp.arange(n, dtype=jnp.int32)
    edges, count = component_rows(vertex, child, parent, ~dies, lifetime, capacity)
    result = outcome(fine & ~jnp.isnan(longest), count > capacity)
    usable = fine & ~jnp.isnan(longest)
    edges, count = jnp.where(usable, edges, -1), jnp.where(usable, count, 0)
    generators = Generators(edges, count[None], result, (0,), (capacity,), n)
    return _evaluated(generators, lambda u, v: norm((points[u] - points[v]) / scale) * scale)


@functools.partial(jax.jit, static_argnames=("dims", "capacities"))
def _lower_star(values, edges, *, dims, capacities) -> Diagram:
    known = jax.lax.stop_gradient(values)
    generators = host_generators(
        lower_star_pairs, 4, known, edges, dims=dims, capacities=capacities
    )
    return _evaluated(generators, lambda u, _: values[u])


# --- Checks ---------------------------------------------------------------------------------------


def _check_distances(distances: ArrayInput) -> Array:
    matrix = as_array(distances, name="distances")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(
            f"`distances` must be a square matrix; got shape {matrix.shape}. For a point cloud use "
            "`vietoris_rips(points)`; for condensed distances `scipy.spatial.distance.squareform`."
        )
    dtype = np.float64 if matrix.dtype == np.float64 and jax.config.read("jax_enable_x64") else None
    dtype = dtype or np.float32
    if not is_traced(matrix):
        values = np.asarray(matrix, dtype=np.float64)
        largest = float(np.finfo(dtype).max) / 2
        if np.isnan(values).any() or (values < 0).any():
            i, j = np.argwhere(~(values >= 0))[0]
            raise ValueError(
                f"`distances` must not be negative or NaN; got {values[i, j]} at ({i}, {j}). "
                "Pass infinity where two points are never joined."
            )
        if (np.isfinite(values) & (values > largest)).any():
            raise ValueError(
                f"`distances` must be infinity or at most {largest:.3g}; got "
                f"{values[np.isfinite(values)].max():.3g}. Rescale them."
            )
        if np.diagonal(values).any():
            i = int(np.flatnonzero(np.diagonal(values))[0])
            raise ValueError(
                f"`distances` must be 0 on the diagonal; got {values[i, i]:g} at ({i}, {i}). "
                "Similarities must be turned into distances first."
            )
        with np.errstate(invalid="ignore"):
            same = (values == values.T) | (np.abs(values - values.T) <= 1e-5 * values)
        if not same.all():
            i, j = np.argwhere(~same)[0]
            raise ValueError(
                f"`distances` must be symmetric; got {values[i, j]:g} at ({i}, {j}) and "
                f"{values[j, i]:g} at ({j}, {i}). Pass for example their mean or maximum."
            )
    return jnp.asarray(matrix, dtype=dtype)


def _check_same_points(graph: Any, n: int) -> None:
    check_graph(graph)
    if graph.n_points != n:
        raise ValueError(
            f"`graph` must be of the {n} points given; it has {graph.n_points}. "
            "Make it with `knn_graph(points)`."
        )


def _check_edges(edges: Any, n: int) -> Int[Array, "m 2"]:
    if isinstance(edges, NeighborGraph):
        _check_same_points(edges, n)
        tails = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[:, None], edges.indices.shape)
        return jnp.stack([tails.ravel(), edges.indices.ravel()], axis=1)
    array = as_array(edges, name="edges")
    if array.ndim == 1 and array.shape[0] == 0:
        array = np.zeros((0, 2), np.int32)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"`edges` must have shape (m, 2), a pair of vertices a row; got shape {array.shape}. "
            "Pass pairs, or a NeighborGraph."
        )
    if not jnp.issubdtype(array.dtype, jnp.integer) and array.size:
        raise TypeError(f"`edges` must be integers; got dtype {array.dtype}. Convert them first.")
    if not is_traced(array) and array.size and (last := int(np.asarray(array).max())) >= n:
        raise ValueError(
            f"`edges` must name vertices 0 to {n - 1}, as many as `values` has; got "
            f"{last}. Pass a value for every vertex."
        )
    return jnp.asarray(array).astype(jnp.int32)
