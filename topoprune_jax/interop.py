"""Work that others have done already: a fitted `umap.UMAP` in place of this package's own manifold.

Nothing is imported for it; umap-learn is there because the fitted object is.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ._fuzzy import FuzzySimplicialSet
from ._graph import NeighborGraph, knn_graph
from ._types import Array

_EXACT_METRICS = ("euclidean", "cosine")
_SAMPLED = 256  # points on which an approximate search is compared with the exact one
_TIED = 0.05  # share of edges that may come from another choice among equal distances


class FittedManifold(eqx.Module):
    """The parts of a fitted UMAP, as the stages of this package take them.

    **Attributes:**

    - `graph`: the neighbors that it found, for `rank(features, ratio, neighbors=graph)`.
    - `fuzzy_set`: its `graph_`, for `select`, `embed`, `communities` and `class_agreement`.
    - `embedding`: (n, c), its `embedding_`, for `structural_complexity` and `communities`.
    """

    graph: NeighborGraph
    fuzzy_set: FuzzySimplicialSet
    embedding: Float[Array, "n c"]


def from_umap(reducer: Any) -> FittedManifold:
    r"""What a fitted `umap.UMAP` knows of the manifold, without computing it again.

    Its k = `n_neighbors` counts the point itself, so the graph has k - 1 slots. `fuzzy_set` holds
    the numbers of `graph_` as they are, those of a supervised fit too. Without labels they are, up
    to rounding, `fuzzy_simplicial_set(graph)` with the `local_connectivity` and `set_op_mix_ratio`
    of the reducer, but for the weakest edges (below 1/500 of the strongest), which it drops.

    Below 4,096 points umap-learn does not keep the neighbors. They are found again, exactly, in the
    features that it does keep. From there on it keeps those of an approximate search: for the
    metrics "euclidean" and "cosine" `graph.recall` is then the share of the true neighbors that it
    found for 256 points; for others it is not known, and 1.

    **Arguments:** `reducer`: a fitted `umap.UMAP`, with any metric.

    **Returns:** a `FittedManifold`.

    **Raises:** TypeError for something else; ValueError for a reducer that is not fitted, was
    fitted with `unique=True` (its graph lacks the duplicates), or whose graph is not one of its
    neighbors: joined of several by `+`, `*` or `-`, or fitted to numeric targets.

    !!! example

        ```python
        reducer = umap.UMAP(n_neighbors=16).fit(features)
        fitted = from_umap(reducer)
        ranking = topoprune_jax.rank(features, 0.9, neighbors=fitted.graph)

        # Or stage by stage, on umap-learn's own embedding:
        scores = topoprune_jax.structural_complexity(fitted.embedding)
        selection = topoprune_jax.select(fitted.fuzzy_set, scores, 0.9)
        ```
    """
    if not all(hasattr(reducer, name) for name in ("n_neighbors", "set_op_mix_ratio", "metric")):
        raise TypeError(
            f"`reducer` must be a fitted `umap.UMAP`; got {type(reducer).__name__}. "
            "Pass what `umap.UMAP().fit(features)` returns."
        )
    if getattr(reducer, "graph_", None) is None or not hasattr(reducer, "embedding_"):
        raise ValueError(
            "`reducer` must be fitted, with a graph and an embedding; got one without. "
            "Call `reducer.fit(features)` first."
        )
    if not hasattr(reducer, "_raw_data"):
        raise ValueError(
            "`reducer` must be fitted to features; got one joined of several, which has no "
            "neighbors. Pass those that were joined, one by one."
        )
    n = reducer.graph_.shape[0]
    embedding = np.asarray(reducer.embedding_)
    if len(embedding) != n:
        raise ValueError(
            f"`reducer` was fitted with unique=True: its graph has {n} points and its embedding "
            f"{len(embedding)}. Fit it with unique=False."
        )
    indices, distances, recall = _neighbors(reducer)
    graph = NeighborGraph(indices, distances, recall)
    return FittedManifold(graph, _fuzzy_set(reducer, indices), jnp.asarray(embedding, jnp.float32))


def _neighbors(reducer: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """Indices and distances `(n, k - 1)` without the point itself, and the recall."""
    points, metric = reducer._raw_data, reducer.metric
    own = metric in _EXACT_METRICS and not reducer._metric_kwds and isinstance(points, np.ndarray)
    n = reducer.graph_.shape[0]
    k = min(int(reducer._n_neighbors), n) - 1
    if hasattr(reducer, "_knn_indices"):
        indices, distances = _without_itself(
            np.asarray(reducer._knn_indices), np.asarray(reducer._knn_dists, np.float32)
        )
        recall = _recall(points, indices, metric) if own else 1.0
        return indices, distances, recall
    if own and np.isinf(reducer._disconnection_distance):
        exact = knn_graph(points, n_neighbors=k, metric=metric)
        return np.asarray(exact.indices), np.asarray(exact.distances), 1.0
    from sklearn.metrics import pairwise_distances  # umap-learn brings it

    sparse = not isinstance(points, np.ndarray)
    measure = metric if sparse else reducer._input_distance_func
    matrix = np.asarray(pairwise_distances(points, metric=measure, **reducer._metric_kwds))
    matrix = np.where(matrix >= reducer._disconnection_distance, np.inf, matrix)
    np.fill_diagonal(matrix, np.inf)
    indices = np.argsort(matrix, axis=1, kind="stable")[:, :k]
    distances = np.take_along_axis(matrix, indices, axis=1).astype(np.float32)
    return np.where(np.isfinite(distances), indices, -1), distances, 1.0


def _without_itself(indices: np.ndarray, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slots without the point itself, which among duplicates need not stand first or at all."""
    itself = indices == np.arange(len(indices))[:, None]
    gone = itself | (indices < 0) | ~np.isfinite(distances)
    order = np.argsort(gone, axis=1, kind="stable")
    indices = np.take_along_axis(np.where(gone, -1, indices), order, axis=1)
    distances = np.take_along_axis(np.where(gone, np.inf, distances), order, axis=1)
    width = max(1, int((~gone).sum(axis=1).max()))
    return indices[:, :width], distances[:, :width]


def _recall(points: np.ndarray, indices: np.ndarray, metric: str) -> float:
    """The share of the true neighbors that was found, on a sample of points."""
    points = np.asarray(points, np.float64)
    n, k = indices.shape
    if metric == "cosine":
        points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-300)
    rows = np.random.default_rng(0).permutation(n)[:_SAMPLED]
    squares = (points**2).sum(axis=1)
    far = squares[None] - 2 * points[rows] @ points.T  # up to the length of the row's own point
    far[np.arange(len(rows)), rows] = np.inf
    reach = np.partition(far, k - 1, axis=1)[:, k - 1]
    found = np.take_along_axis(far, np.maximum(indices[rows], 0), axis=1)
    slack = 1e-9 * squares.max()  # ties are not missed neighbors
    hits = (found <= reach[:, None] + slack) & (indices[rows] >= 0)
    return float(hits.mean())


def _fuzzy_set(reducer: Any, indices: np.ndarray) -> FuzzySimplicialSet:
    """The memberships of `graph_`, laid out along the neighbors and the edges into each point."""
    n = len(indices)
    matrix = reducer.graph_.tocsr()
    matrix.eliminate_zeros()
    rows = np.repeat(np.arange(n), np.diff(matrix.indptr))
    edges = rows * n + matrix.indices
    order = np.argsort(edges)
    edges, values = edges[order], matrix.data[order].astype(np.float32)
    rows, columns = edges // n, edges % n
    indices = _with_ties(indices, rows, columns, edges)

    k = indices.shape[1]
    slots = np.arange(n)[:, None] * n + indices
    places = np.minimum(np.searchsorted(edges, slots), max(len(edges) - 1, 0))
    there = (indices >= 0) & (np.append(edges, -1)[places] == slots)
    memberships = np.where(there, np.append(values, 0)[places], 0).astype(np.float32)
    listed = np.zeros(len(edges), bool)
    listed[places[there]] = True
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows[~listed], minlength=n))])
    padding = n * k - offsets[-1]
    sources, strengths = columns[~listed], values[~listed]
    return FuzzySimplicialSet(
        indices=jnp.asarray(indices, jnp.int32),
        memberships=jnp.asarray(memberships),
        reverse_offsets=jnp.asarray(offsets, jnp.int32),
        reverse_indices=jnp.asarray(np.pad(sources, (0, padding), constant_values=-1), jnp.int32),
        reverse_memberships=jnp.asarray(np.pad(strengths, (0, padding))),
        rho=jnp.asarray(reducer._rhos, jnp.float32),
        sigma=jnp.asarray(reducer._sigmas, jnp.float32),
    )


def _with_ties(
    indices: np.ndarray, rows: np.ndarray, columns: np.ndarray, edges: np.ndarray
) -> np.ndarray:
    """`indices` with slots added for edges of the graph that neither end lists.

    Of neighbors at one distance umap-learn may have listed others than a new search does.
    """
    n = len(indices)
    present = indices >= 0
    ours = (np.arange(n)[:, None] * n + indices)[present]
    mirrored = (indices * n + np.arange(n)[:, None])[present]
    missing = ~np.isin(edges, np.concatenate([ours, mirrored]))
    if missing.sum() > _TIED * len(edges):
        raise ValueError(
            "`reducer` must have a graph of its own neighbors; got one with other edges, as after "
            "a fit to numeric targets. Pass one that was fitted to features, or to classes."
        )
    # Each stands there in both directions, and is listed at the end that has fewer edges.
    degrees = np.bincount(rows, minlength=n)
    a, b = rows[missing], columns[missing]
    chosen = (degrees[a] < degrees[b]) | ((degrees[a] == degrees[b]) & (a < b))
    a, b = a[chosen], b[chosen]
    counts = np.bincount(a, minlength=n)
    extra = np.full((n, int(counts.max(initial=0))), -1)
    extra[a, np.arange(len(a)) - (np.cumsum(counts) - counts)[a]] = b
    return np.concatenate([indices, extra], axis=1)
