"""Loops and voids of many small Vietoris-Rips filtrations, as integers that name edges.

gudhi's fork of Ripser (MIT) returns where a class is born and dies, but not which edges did it.
The rank transform makes it tell: sort the edges by (length, index) and hand gudhi their *ranks* in
place of their lengths. Rips persistence only depends on the order of the edges, so the births and
deaths that come back are places in the sorted list. Ranks are exact, never NaN and never tied.
"""

import functools
import os
from collections.abc import Callable

import numpy as np
from gudhi import (
    _edge_collapse_ext,  # pyright: ignore[reportAttributeAccessIssue]: an extension without stubs
    _ripser_ext,  # pyright: ignore[reportAttributeAccessIssue]
)
from numpy.typing import ArrayLike

from ._status import FAILED, NOT_FINITE, OK
from ._threads import for_each

_COEFFICIENT_FIELD = 2
"""Z/2: the usual field of the literature, and 2-15 % faster here than gudhi's default, Z/11."""

_SLAB_ENTRIES = 1 << 19
"""Matrix entries worked on at a time, so that a slab of items stays in the processor's cache."""

_ENTRIES_A_THREAD = 1 << 15
"""Matrix entries that are worth a thread: starting it takes as long as some diagrams."""

_REMEMBERED_POINTS = 256
"""Beyond it the indices of a cloud are made anew for every slab: they take 32 bytes a pair."""

_EXACT_IN_FLOAT32 = 1 << 24


def rips_pairs(
    lengths: ArrayLike,
    max_length: ArrayLike,
    *,
    n: int,
    dims: tuple[int, ...],
    capacities: tuple[int, ...],
    n_threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Persistence pairs of positive length in dimensions 1 and 2, for a batch of metrics.

    A class of dimension >= 1 is born with an edge and dies with an edge. Ties between edges are
    broken by index, ties between equally persistent pairs by the rank of birth, then of death.

    **Arguments:**

    - `lengths`: `(*batch, n(n-1)/2)`, finite and >= 0, ordered as SciPy's `pdist` orders pairs.
    - `max_length`: `(*batch,)`; longer edges do not enter.
    - `n`: the number of points.
    - `dims`: homology dimensions, out of 1 and 2.
    - `capacities`: slots for each of `dims`; their sum is `p`.
    - `n_threads`: as many as there are cores and work for, unless given.

    **Returns:** `generators (*batch, p, 4)` int32, rows (birth u, v, death u, v), per dimension the
    most persistent first, a death of -1, -1 where the class never dies and -1 in empty slots; the
    true `count (*batch, q)` int32; `status (*batch,)` int32, one of `OK`, `NOT_FINITE` (that item
    holds NaN or infinity) and `FAILED`. An item that is not `OK` is empty. Never raises: an
    exception inside a JAX callback can abort the process.
    """
    lengths, max_length = np.asarray(lengths), np.asarray(max_length)
    batch = lengths.shape[:-1]
    size = int(np.prod(batch))
    generators = np.full((size, sum(capacities), 4), -1, dtype=np.int32)
    count = np.zeros((size, len(dims)), dtype=np.int32)
    status = np.full(size, FAILED, dtype=np.int32)
    lengths = lengths.reshape(size, lengths.shape[-1])
    max_length = max_length.reshape(size)
    step = max(1, _SLAB_ENTRIES // max(1, n * n))
    if n_threads is None:
        n_threads = min(os.cpu_count() or 1, size * n * n // _ENTRIES_A_THREAD)
    if n_threads > 1:
        step = min(step, -(-size // n_threads))

    def fill(start: int) -> None:
        slab = slice(start, start + step)
        outputs = generators[slab], count[slab], status[slab]
        try:
            _fill(lengths[slab], max_length[slab], n, dims, capacities, outputs)
        except BaseException:
            generators[slab], count[slab], status[slab] = -1, 0, FAILED

    # gudhi and NumPy's sorting release Python's lock.
    for_each(fill, range(0, size, step), n_threads)
    return (
        generators.reshape(*batch, sum(capacities), 4),
        count.reshape(*batch, len(dims)),
        status.reshape(batch),
    )


def _fill(lengths, max_length, n, dims, capacities, outputs) -> None:
    """Computes one slab into `outputs`: its generators, count and status."""
    generators, count, status = outputs
    finite = np.isfinite(lengths).all(axis=1) & ~np.isnan(max_length)
    status[:] = np.where(finite, OK, NOT_FINITE)
    if n < 4:
        return
    lengths = np.where(finite[:, None], lengths, 0)
    order, ordered = _sort(lengths)
    entered = np.sum(ordered <= max_length[:, None], axis=1)
    matrices = _rank_matrices(order, n)
    barcodes = [[np.empty((0, 2))] * (max(dims) + 1)] * len(lengths)
    for item in np.flatnonzero(finite):
        try:
            barcodes[item] = _barcode(matrices[item], int(entered[item]), max(dims))
        except BaseException:
            status[item] = FAILED

    start = 0
    for column, (dim, capacity) in enumerate(zip(dims, capacities, strict=True)):
        pairs = [barcode[dim] if dim < len(barcode) else barcode[0][:0] for barcode in barcodes]
        item, slot, birth, death, count[:, column] = _most_persistent(pairs, ordered, capacity)
        generators[item, start + slot, :2] = _ends(order, item, birth, n)
        generators[item, start + slot, 2:] = _ends(order, item, death, n)
        start += capacity


def _sort(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edge indices sorted by (length, index), and the sorted lengths."""
    if lengths.dtype != np.float32:
        order = np.argsort(lengths, axis=1, kind="stable")
        return order, np.take_along_axis(lengths, order, axis=1)
    # Floats that are not negative order like their bits, so one sort of packed keys does.
    index = np.arange(lengths.shape[1], dtype=np.uint64)
    bits = np.ascontiguousarray(lengths).view(np.uint32).astype(np.uint64)
    keys = np.sort((bits << np.uint64(32)) | index, axis=1)
    ordered = (keys >> np.uint64(32)).astype(np.uint32).view(np.float32)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64), ordered


def _rank_matrices(order: np.ndarray, n: int) -> np.ndarray:
    """Symmetric matrices of ranks 1 .. n(n-1)/2, in place of distances."""
    size, m = order.shape
    dtype = np.float32 if m < _EXACT_IN_FLOAT32 else np.float64
    ranks = np.zeros((size, m + 1), dtype=dtype)
    np.put_along_axis(ranks, order, np.arange(1, m + 1, dtype=dtype)[None, :], axis=1)
    return np.take(ranks, _places(n), axis=1)


def _remembered(function: Callable) -> Callable:
    """For few points the indices are remembered: making them takes as long as a diagram."""
    cached = functools.lru_cache(maxsize=32)(function)
    return lambda n: cached(n) if n <= _REMEMBERED_POINTS else function(n)


@_remembered
def _pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The ends of every edge, in `pdist`'s order."""
    return np.triu_indices(n, k=1)


@_remembered
def _places(n: int) -> np.ndarray:
    """Where in the list of edges each entry of the matrix is; after its end for the diagonal."""
    m = n * (n - 1) // 2
    place = np.full((n, n), m, dtype=np.intp)
    place[_pairs(n)] = np.arange(m)
    place.T[_pairs(n)] = np.arange(m)
    return place


def _barcode(ranks: np.ndarray, entered: int, max_dim: int) -> list[np.ndarray]:
    """Births and deaths as ranks, for each dimension up to `max_dim` that can have any."""
    # Beyond the least radius around a point that holds all others the complex is a cone.
    threshold = min(float(entered), float(ranks.max(axis=1).min()))
    n = ranks.shape[0]
    options = {
        "max_dimension": min(max_dim, n - 3),
        "max_edge_length": threshold,
        "homology_coeff_field": _COEFFICIENT_FIELD,
    }
    if max_dim < 2:
        return _ripser_ext._full(ranks, **options)
    # Edge collapse keeps every barcode. It pays from dimension 2 on: 3 to 5 times at 64 points.
    u, v = _pairs(n)
    enters = ranks[u, v] <= threshold
    edges = (a[enters] for a in (u.astype(np.int32), v.astype(np.int32), ranks[u, v]))
    if ranks.dtype == np.float32:
        (u, v), values = _edge_collapse_ext._collapse_edges(*edges, 1)
    else:
        u, v, values = edges
    return _ripser_ext._sparse(u, v, values, n, **options)


def _most_persistent(
    pairs: list[np.ndarray], ordered: np.ndarray, capacity: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pairs to keep, as flat arrays (item, slot, birth place, death place), and true counts.

    Places count from 0 in the sorted list of edges; a class that never dies has place -1.
    """
    size = len(pairs)
    item = np.repeat(np.arange(size), [len(pair) for pair in pairs])
    ranks = np.concatenate(pairs)
    endless = np.isinf(ranks[:, 1])
    birth = ranks[:, 0].astype(np.int64) - 1
    death = np.where(endless, 0, ranks[:, 1]).astype(np.int64) - 1
    lifetime = np.where(endless, np.inf, ordered[item, death]) - ordered[item, birth]
    # Ranks never tie, but lengths do: such a class is alive for no time at all.
    alive = lifetime > 0
    item, birth, death, lifetime = (a[alive] for a in (item, birth, death, lifetime))
    count = np.bincount(item, minlength=size)
    best = np.lexsort((death, birth, -lifetime, item))
    item, birth, death = (a[best] for a in (item, birth, death))
    slot = np.arange(len(item)) - (np.cumsum(count) - count)[item]
    kept = slot < capacity
    return item[kept], slot[kept], birth[kept], death[kept], count


def _ends(order: np.ndarray, item: np.ndarray, place: np.ndarray, n: int) -> np.ndarray:
    """End points (u, v), u < v, of the edges at places of the sorted lists; -1 for place -1."""
    u, v = _pairs(n)
    edge = order[item, place]
    return np.where((place < 0)[:, None], -1, np.stack([u[edge], v[edge]], axis=1))
