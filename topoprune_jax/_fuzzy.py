"""The fuzzy simplicial set of a neighbor graph (UMAP's model), under static shapes."""

import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int

from . import _backend as backend
from . import _checks as checks
from ._distance import varying_with
from ._graph import NeighborGraph, check_graph
from ._least import stable_order
from ._sums import sums_by_row
from ._types import Array, ArrayInput

_BISECTIONS = 64
_TOLERANCE = 1e-5  # of the sum of memberships, as in umap-learn
_LEAST_SCALE = 1e-3  # sigma is at least this part of the mean distance, as in umap-learn
_UNKNOWN_DISTANCE = 1.0  # of an unlabeled point to any other, as in umap-learn
_UNLABELED = -1
_TILE = 1 << 10  # points whose bandwidths are sought at a time on a CPU


class FuzzySimplicialSet(eqx.Module):
    """A symmetric fuzzy relation between points: memberships mu_ij = mu_ji in (0, 1].

    Every edge is found from both its ends in O(n k) memory: the edges of point i are those of its
    own `n_neighbors` slots and, for the points j that list i while i does not list j, those in
    `reverse_indices[reverse_offsets[i] : reverse_offsets[i + 1]]`.

    **Attributes:**

    - `indices`: (n, k) int32, the neighbors each point lists; -1 in an empty slot.
    - `memberships`: (n, k) their memberships; 0 in an empty slot.
    - `reverse_offsets`: (n + 1,) int32.
    - `reverse_indices`: (n k,) int32; -1 beyond the last edge.
    - `reverse_memberships`: (n k,); 0 beyond the last edge.
    - `rho`: (n,) distance to the `local_connectivity`-th neighbor.
    - `sigma`: (n,) bandwidth.
    """

    indices: Int[Array, "n k"]
    memberships: Float[Array, "n k"]
    reverse_offsets: Int[Array, " n+1"]
    reverse_indices: Int[Array, " n*k"]
    reverse_memberships: Float[Array, " n*k"]
    rho: Float[Array, " n"]
    sigma: Float[Array, " n"]

    @property
    def n_points(self) -> int:
        """Number of points."""
        return self.indices.shape[0]

    @property
    def degrees(self) -> Float[Array, " n"]:
        """Sum of the memberships of each point's edges."""
        return _degrees(self)

    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every edge once, as NumPy arrays (i, j, membership) with i < j, sorted. Not traceable."""
        n, k = self.indices.shape
        i = np.repeat(np.arange(n, dtype=np.int32), k)
        j = np.asarray(self.indices).ravel()
        mu = np.asarray(self.memberships).ravel()
        lo, hi = np.minimum(i, j)[mu > 0], np.maximum(i, j)[mu > 0]
        _, first = np.unique(lo.astype(np.int64) * n + hi, return_index=True)
        return lo[first], hi[first], mu[mu > 0][first]


def fuzzy_simplicial_set(
    graph: NeighborGraph,
    *,
    local_connectivity: float = 1.0,
    set_op_mix_ratio: float = 1.0,
    labels: ArrayInput | None = None,
    target_weight: float = 0.5,
) -> FuzzySimplicialSet:
    r"""The fuzzy simplicial set of a neighbor graph, and of class labels where given.

    Each point i sees its neighbor j with membership

        p_ij = exp(-max(0, d_ij - rho_i) / sigma_i),

    where rho_i is the distance to its nearest neighbor that is no duplicate (interpolated between
    neighbors for a fractional `local_connectivity`), and sigma_i solves
    sum_j p_ij = log2(k + 1). The two views of an edge are joined by

        mu_ij = a (p_ij + p_ji - p_ij p_ji) + (1 - a) p_ij p_ji,    a = `set_op_mix_ratio`.

    With `labels`, of which some or all may be -1 for "unlabeled", it is then intersected with the
    fuzzy set of the labels,

        nu_ij = mu_ij exp(-delta_ij),    delta_ij = 0 within a class, 1 where i or j is unlabeled,
                                         and 5 / (2 (1 - w)) between classes, w = `target_weight`,

    and, because every point should have a neighbor at membership 1, rescaled and joined anew:

        r_ij = nu_ij / max_l nu_il,    mu'_ij = r_ij + r_ji - r_ij r_ji.

    Source: McInnes, Healy, Melville, "UMAP" (arXiv 1802.03426), algorithms 2 and 3; for labels
    umap-learn's `UMAP.fit(X, y)` with its `target_metric="categorical"`
    (`discrete_metric_simplicial_set_intersection` and `reset_local_connectivity`). The values are
    those of umap-learn on the same neighbors, whose `n_neighbors` is k + 1 because it counts the
    point itself.

    **Arguments:**

    - `graph`: k slots a point; empty slots are allowed.
    - `local_connectivity`: number of neighbors at membership 1, in [0, k].
    - `set_op_mix_ratio`: 1 is the fuzzy union, 0 the fuzzy intersection.
    - `labels`: (n,) classes, -1 where unknown: integers, whole floats, or strings (which are all
      known). One class only, or no known label at all, leaves the rescaling alone.
    - `target_weight`: w in [0, 1], how strictly classes are told apart: exp(-2.5) at 0 (which is
      umap-learn's scale: not "no labels"), exp(-5) at 0.5, no edge between classes at 1. Not used
      without `labels`.

    **Returns:** a `FuzzySimplicialSet`. A point without neighbors has no edge, and an edge that the
    labels remove stays in its slots at membership 0. `rho` and `sigma` are those of the graph.

    **Raises:** TypeError or ValueError for a `graph` that is no `NeighborGraph`, whose indices lie
    outside [-1, n - 1] or whose distances are NaN or negative, for parameters out of range, and for
    labels of another length or that name no classes.

    Works under `jit` and `vmap`, there with integer labels.

    ```python
    >>> import topoprune_jax as tp
    >>> graph = tp.knn_graph([[0.0], [1.0], [3.0]], n_neighbors=1)
    >>> tp.fuzzy_simplicial_set(graph).edges()[2].tolist()
    [1.0, 1.0]
    >>> graph = tp.knn_graph([[0.0], [1.0], [3.0], [4.0]], n_neighbors=2)
    >>> i, j, mu = tp.fuzzy_simplicial_set(graph, labels=[0, 0, 1, -1], target_weight=1.0).edges()
    >>> list(zip(i.tolist(), j.tolist()))
    [(0, 1), (1, 3), (2, 3)]

    ```
    """
    check_graph(graph)
    k = graph.n_neighbors
    connectivity = checks.check_number(local_connectivity, name="local_connectivity", low=0, high=k)
    mix = checks.check_number(set_op_mix_ratio, name="set_op_mix_ratio", low=0, high=1)
    weight = checks.check_number(target_weight, name="target_weight", low=0, high=1)
    codes = None if labels is None else _label_codes(labels, graph.n_points)
    dtype = graph.distances.dtype
    mix, between = jnp.asarray(mix, dtype), jnp.asarray(_between_classes(weight), dtype)
    return _build(graph, connectivity=connectivity, mix=mix, codes=codes, between=between)


def check_fuzzy_set(fuzzy_set: Any) -> None:
    """Raises unless it is a `FuzzySimplicialSet`."""
    checks.check_instance(
        fuzzy_set,
        FuzzySimplicialSet,
        name="fuzzy_set",
        hint="Make one with `fuzzy_simplicial_set(graph)`.",
    )


def _label_codes(labels: ArrayInput, n: int) -> Int[Array, " n"]:
    """Codes of the classes, -1 where unlabeled."""
    codes = checks.check_labels(labels, n)
    # `check_labels` numbers the labels in their order, -1 among them.
    if checks.is_traced(labels):
        return jnp.where(labels.astype(jnp.int32) == _UNLABELED, _UNLABELED, codes)
    values = np.asarray(labels)
    if values.dtype.kind in "OUS":
        return codes
    return jnp.where(jnp.asarray(values == _UNLABELED), _UNLABELED, codes)


def compile_fuzzy_set(graph: Any) -> Any:
    """Compiles what `fuzzy_simplicial_set` and its degrees take for a graph of these shapes, and
    says what shapes come of it."""
    _build.lower(graph, **_plainly(graph)).compile()
    fuzzy_set = shapes_of_fuzzy_set(graph)
    _degrees.lower(fuzzy_set).compile()
    return fuzzy_set


def shapes_of_fuzzy_set(graph: Any) -> Any:
    """What shapes come of a graph of these."""
    given = _plainly(graph)
    fixed = {name: given.pop(name) for name in ("connectivity", "codes")}
    return jax.eval_shape(partial(_build, **fixed), graph, **given)


def _plainly(graph: Any) -> dict[str, Any]:
    """Without labels and with the options as they are by default."""
    number = jax.ShapeDtypeStruct((), graph.distances.dtype)
    return {"connectivity": 1.0, "codes": None, "mix": number, "between": number}


@partial(jax.jit, static_argnames="connectivity")
def _build(
    graph: NeighborGraph,
    connectivity: float,
    mix: Float[Array, ""],
    codes: Int[Array, " n"] | None,
    between: Float[Array, ""],
) -> FuzzySimplicialSet:
    present = graph.indices >= 0
    distances = jnp.where(present, graph.distances, 0)
    rho, sigma = _bandwidths(distances, present, connectivity)
    excess = jnp.maximum(distances - rho[:, None], 0)
    own = jnp.exp(-excess / jnp.where(sigma > 0, sigma, 1)[:, None])
    own = jnp.where(present, jnp.where((excess == 0) | (sigma == 0)[:, None], 1, own), 0)
    other, mutual = _other_view(graph.indices, own)
    product = own * other
    memberships = mix * (own + other - product) + (1 - mix) * product
    if codes is not None:
        memberships = memberships * _label_memberships(graph.indices, codes, between)
        memberships = _reset_local_connectivity(graph.indices, memberships)
    offsets, sources = _reverse_edges(graph.indices, present & ~mutual)
    reverse = jnp.where(sources >= 0, memberships.ravel()[sources], 0)
    k = graph.n_neighbors
    return FuzzySimplicialSet(
        indices=graph.indices,
        memberships=memberships,
        reverse_offsets=offsets,
        reverse_indices=jnp.where(sources >= 0, sources // k, -1).astype(jnp.int32),
        reverse_memberships=reverse,
        rho=rho,
        sigma=sigma,
    )


def _between_classes(target_weight: float) -> float:
    """exp(-delta_ij) between two classes."""
    return math.exp(-2.5 / (1 - target_weight)) if target_weight < 1 else 0.0


def _label_memberships(
    indices: Int[Array, "n k"], codes: Int[Array, " n"], between: Float[Array, ""]
) -> Float[Array, "n k"]:
    """exp(-delta_ij) for every slot (i, j)."""
    own, other = codes[:, None], codes[indices]
    unknown = (own == _UNLABELED) | (other == _UNLABELED)
    known = jnp.where(own == other, 1.0, between)
    return jnp.where(unknown, math.exp(-_UNKNOWN_DISTANCE), known)


def _reset_local_connectivity(
    indices: Int[Array, "n k"], memberships: Float[Array, "n k"]
) -> Float[Array, "n k"]:
    """Divides by the greatest membership at each end of an edge and joins the two views."""
    n = indices.shape[0]
    # An edge counts at both its ends, whichever of them lists it; empty slots have membership 0.
    there = jax.ops.segment_max(memberships.ravel(), jnp.maximum(indices, 0).ravel(), n)
    greatest = jnp.maximum(jnp.max(memberships, axis=1), there)
    greatest = jnp.where(greatest > 0, greatest, 1)
    # XLA divides by a broadcast value through its reciprocal, which rounds differently from the
    # division at the other end of the edge; behind the barrier both are the same.
    here = lax.optimization_barrier(jnp.broadcast_to(greatest[:, None], indices.shape))
    own, other = memberships / here, memberships / greatest[indices]
    return jnp.minimum(own + other - own * other, 1)


def _bandwidths(
    distances: Float[Array, "n k"], present: Array, connectivity: float
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """rho and sigma of every point, by bisection in units of the mean distance."""
    n_present = jnp.sum(present, axis=1)
    # umap-learn's means count the point itself, at distance 0.
    mean = jnp.sum(distances, axis=1) / (n_present + 1).astype(distances.dtype)
    total = jnp.sum(n_present + 1).astype(distances.dtype)
    all_mean = jnp.sum(distances / total)
    rho = _rho(distances, connectivity)
    unit = jnp.where(mean > 0, mean, 1)
    excess = jnp.maximum(distances - rho[:, None], 0) / unit[:, None]
    target = jnp.log2(n_present + 1).astype(distances.dtype)
    # Neighbors along the first axis, so that a sum over them is one over rows of numbers.
    given = excess.T, present.T, target
    sigma = unit * backend.by_platform(*given, cpu=_bisect_in_tiles, default=_bisect)
    return rho, jnp.maximum(sigma, _LEAST_SCALE * jnp.where(rho > 0, mean, all_mean))


def _bisect(
    excess: Float[Array, "k m"], present: Bool[Array, "k m"], target: Float[Array, " m"]
) -> Float[Array, " m"]:
    """The bandwidths at which the views of some points sum to their targets."""

    def halve(state):
        step, lo, hi, mid, done = state
        views = jnp.where(present, jnp.where(excess > 0, jnp.exp(-excess / mid[None, :]), 1), 0)
        error = jnp.sum(views, axis=0) - target
        done = done | (jnp.abs(error) < _TOLERANCE)
        new_hi = jnp.where(error > 0, mid, hi)
        new_lo = jnp.where(error > 0, lo, mid)
        new_mid = jnp.where(jnp.isinf(new_hi), 2 * mid, (new_lo + new_hi) / 2)
        return step + 1, new_lo, new_hi, jnp.where(done, mid, new_mid), done

    def unfinished(state):
        step, *_, done = state
        return (step < _BISECTIONS) & ~done.all()

    ones = jnp.ones_like(target)
    start = (jnp.int32(0), jnp.zeros_like(ones), jnp.inf * ones, ones, jnp.zeros(ones.shape, bool))
    return lax.while_loop(unfinished, halve, varying_with(start, excess))[3]


def _bisect_in_tiles(excess: Array, present: Array, target: Array) -> Float[Array, " n"]:
    """The same, as many points at a time as the first caches hold."""
    n = target.shape[0]
    tile = min(_TILE, n)
    spare = -n % tile

    def tiles(values: Array) -> Array:
        padded = jnp.pad(values, ((0, 0),) * (values.ndim - 1) + ((0, spare),))
        return jnp.moveaxis(padded.reshape(*values.shape[:-1], -1, tile), -2, 0)

    given = tiles(excess), tiles(present), tiles(target)
    return lax.map(lambda one: _bisect(*one), given).ravel()[:n]


def _rho(distances: Float[Array, "n k"], connectivity: float) -> Float[Array, " n"]:
    """Distance to the `connectivity`-th neighbor that is no duplicate, interpolated."""
    k = distances.shape[1]
    count = jnp.sum(distances > 0, axis=1)
    index = int(connectivity)
    positive = -lax.top_k(jnp.where(distances > 0, -distances, -jnp.inf), min(index + 1, k))[0]
    part = connectivity - index
    below = positive[:, index - 1] if index > 0 else jnp.zeros_like(positive[:, 0])
    above = positive[:, index] if index < k else below
    rho = below + part * (above - below) if part > _TOLERANCE else below
    farthest = jnp.max(distances, axis=1)
    # The point counts itself as a neighbor only for `local_connectivity`, as in umap-learn.
    enough = count >= math.ceil(connectivity)
    rho = jnp.where(enough & jnp.isfinite(rho), rho, farthest)
    return jnp.where(count > 0, rho, 0)


def _other_view(indices: Int[Array, "n k"], own: Float[Array, "n k"]) -> tuple[Array, Array]:
    """p_ji for every slot (i, j), and whether j lists i at all."""
    points = jnp.arange(indices.shape[0], dtype=indices.dtype)
    slots = jnp.arange(indices.shape[1], dtype=jnp.int32)

    def column(_, j):
        listed = (indices[j] == points[:, None]) & (j >= 0)[:, None]
        # Where j lists i, and then one number: half the memory of looking through all of j's.
        slot = jnp.max(jnp.where(listed, slots[None, :], -1), axis=1)
        mutual = slot >= 0
        return None, (jnp.where(mutual, own[j, jnp.maximum(slot, 0)], 0), mutual)

    _, (other, mutual) = lax.scan(column, None, indices.T)
    return other.T, mutual.T


def _reverse_edges(indices: Int[Array, "n k"], one_way: Array) -> tuple[Array, Array]:
    """The slots (i, j) of one-way edges, sorted by j: offsets of each j, and the slots' numbers."""
    n = indices.shape[0]
    targets = jnp.where(one_way, indices, n).ravel()
    slots = stable_order(targets, n)
    counts = jnp.zeros(n, jnp.int32).at[targets].add(1, mode="drop")
    offsets = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts, dtype=jnp.int32)])
    n_edges = offsets[-1]
    places = jnp.arange(slots.shape[0], dtype=jnp.int32)
    return offsets, jnp.where(places < n_edges, slots, -1)


@jax.jit
def _degrees(fuzzy_set: FuzzySimplicialSet) -> Float[Array, " n"]:
    listed = jnp.sum(fuzzy_set.memberships, axis=1)
    return listed + _reverse_sum(fuzzy_set, fuzzy_set.reverse_memberships)


def _reverse_sum(fuzzy_set: FuzzySimplicialSet, values: Float[Array, " e"]) -> Float[Array, " n"]:
    """Sum of `values`, one a reverse edge, over the reverse edges of each point."""
    rows = reverse_rows(fuzzy_set)
    n = fuzzy_set.n_points
    return sums_by_row(values, rows, n + 1, most=most_reverse_edges(fuzzy_set), is_sorted=True)[:n]


def most_reverse_edges(fuzzy_set: FuzzySimplicialSet) -> Int[Array, ""]:
    """The most that a point has."""
    return jnp.max(jnp.diff(fuzzy_set.reverse_offsets))


def reverse_rows(fuzzy_set: FuzzySimplicialSet) -> Int[Array, " e"]:
    """The point that each reverse edge belongs to; n beyond the last edge."""
    return rows_of_slots(fuzzy_set.reverse_offsets, fuzzy_set.reverse_indices.shape[0])


def rows_of_slots(offsets: Int[Array, " begins"], size: int) -> Int[Array, " slots"]:
    """The row that each of so many slots belongs to, of rows that begin at `offsets`; n beyond the
    last of them."""
    # One more row from each offset on; rows without a slot at the end begin beyond all of them.
    begun = jnp.zeros(size, jnp.int32).at[offsets[1:]].add(1, mode="drop")
    return jnp.cumsum(begun, dtype=jnp.int32)
