"""Loops and voids of many small Vietoris-Rips filtrations, as integers that name edges.

gudhi's fork of Ripser (MIT) returns where a class is born and dies, but not which edges did it.
The rank transform makes it tell: sort the edges by (length, index) and hand gudhi their *ranks* in
place of their lengths. Rips persistence only depends on the order of the edges, so the births and
deaths that come back are places in the sorted list. Ranks are exact, never NaN and never tied.
"""

import functools
import math
import os
import sys
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

_CORES = os.cpu_count() or 1  # asked for once: the answer takes as long as a small diagram

_ENTRIES_A_THREAD = 1 << 15
"""Matrix entries that are worth a thread: starting it takes as long as some diagrams."""

_REMEMBERED_POINTS = 256
"""Beyond it the indices of a cloud are made anew for every slab: they take 32 bytes a pair."""

_REORDERED_POINTS = range(48, 129)
"""Ordering fewer takes as long as it saves; more in a plane take up to a quarter longer for it."""

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
    size = math.prod(batch)
    generators = np.full((size, sum(capacities), 4), -1, dtype=np.int32)
    count = np.zeros((size, len(dims)), dtype=np.int32)
    status = np.full(size, FAILED, dtype=np.int32)
    lengths = lengths.reshape(size, lengths.shape[-1])
    max_length = max_length.reshape(size)
    step = max(1, _SLAB_ENTRIES // max(1, n * n))
    if n_threads is None:
        n_threads = min(_CORES, size * n * n // _ENTRIES_A_THREAD)
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
    """Computes one slab into `outputs`: its generators, count and status.

    Next to gudhi's work on a small cloud every call into NumPy counts: there are few of them.
    """
    generators, count, status = outputs
    if n < 4:
        finite = np.isfinite(lengths).all(axis=1) & ~np.isnan(max_length)
        status[:] = np.where(finite, OK, NOT_FINITE)
        return
    order, ordered = _sort(lengths)
    entered = _entered(ordered, max_length)
    ranks = _rank_matrices(order, _places(n))
    # Beyond the least radius around a point that holds all others the complex is a cone.
    cones = ranks.max(axis=2).min(axis=1)
    barcodes = []
    for item, (limit, cone) in enumerate(zip(entered.tolist(), cones.tolist(), strict=True)):
        barcode = []
        status[item] = NOT_FINITE if limit < 0 else OK
        try:
            if limit >= 0:
                barcode = _barcode(ranks[item], limit, cone, max(dims))
        except BaseException:
            status[item] = FAILED
        barcodes.append(barcode)
    all_enter = bool((entered == ordered.shape[1]).all())
    start = 0
    for column, (dim, capacity) in enumerate(zip(dims, capacities, strict=True)):
        pairs = [barcode[dim] if dim < len(barcode) else _NO_PAIRS for barcode in barcodes]
        rows = generators[:, start : start + capacity]
        _put_most_persistent(pairs, order, ordered, _pairs(n), rows, count[:, column], all_enter)
        start += capacity


_NO_PAIRS = np.empty((0, 2), np.float32)


def _sort(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edge indices sorted by (length, index), and the sorted lengths; NaN and infinity last."""
    if lengths.dtype != np.float32:
        order = np.argsort(lengths, axis=1, kind="stable")
        return order, np.take_along_axis(lengths, order, axis=1)
    # Floats that are not negative order like their bits, so one sort of packed keys does.
    keys = np.empty(lengths.shape, np.uint64)
    words = keys.view(np.uint32).reshape(*lengths.shape, 2)
    words[..., _LOW] = np.arange(lengths.shape[1], dtype=np.uint32)
    words[..., 1 - _LOW] = lengths.view(np.uint32)
    keys.sort(axis=1)
    return words[..., _LOW], words[..., 1 - _LOW].view(np.float32)


_LOW = 0 if sys.byteorder == "little" else 1
"""Which of the two words of a 64-bit integer counts less."""


def _entered(ordered: np.ndarray, max_length: np.ndarray) -> np.ndarray:
    """How many of the sorted lengths of every item enter; -1 where anything is not finite."""
    last = ordered[:, -1]
    entered = np.full(len(ordered), ordered.shape[1])
    for item in np.flatnonzero(~(max_length >= last)):
        entered[item] = np.searchsorted(ordered[item], max_length[item], "right")
    entered[~np.isfinite(last) | np.isnan(max_length)] = -1
    return entered


def _rank_matrices(order: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Symmetric matrices of ranks 1 .. n(n-1)/2, in place of distances."""
    size, m = order.shape
    dtype = np.float32 if m < _EXACT_IN_FLOAT32 else np.float64
    ranks = np.zeros((size, m + 1), dtype=dtype)
    starts = np.arange(0, size * (m + 1), m + 1)[:, None]
    ranks.reshape(-1)[starts + order] = np.arange(1, m + 1, dtype=dtype)
    return ranks.take(places, axis=1)


def _remembered(function: Callable) -> Callable:
    """For few points the indices are remembered: making them takes as long as a diagram."""
    cached = functools.lru_cache(maxsize=32)(function)
    return lambda n: cached(n) if n <= _REMEMBERED_POINTS else function(n)


@_remembered
def _pairs(n: int) -> np.ndarray:
    """(n(n-1)/2, 2) int32 ends u < v of every edge, in `pdist`'s order."""
    return np.stack(np.triu_indices(n, k=1), axis=1).astype(np.int32)


@_remembered
def _places(n: int) -> np.ndarray:
    """Where in the list of edges each entry of the matrix is; after its end for the diagonal."""
    m = n * (n - 1) // 2
    place = np.full((n, n), m, dtype=np.intp)
    u, v = _pairs(n).T
    place[u, v] = place[v, u] = np.arange(m)
    return place


def _barcode(ranks: np.ndarray, entered: int, cone: float, max_dim: int) -> list[np.ndarray]:
    """Births and deaths as ranks, for each dimension up to `max_dim` that can have any.

    **Arguments:** `ranks (n, n)`, of which the first `entered` enter; `cone`, the rank from which
    some point has an edge to all others, so that nothing happens any more.
    """
    n = ranks.shape[0]
    options = {
        "max_dimension": min(max_dim, n - 3),
        # gudhi is faster, by a fifth to a third, where it need not look whether an edge enters.
        "max_edge_length": math.inf if cone <= entered else float(entered),
        "homology_coeff_field": _COEFFICIENT_FIELD,
    }
    if max_dim < 2:
        return _ripser_ext._full(_central_last(ranks), **options)
    # Edge collapse keeps every barcode. It pays from dimension 2 on: 3 to 5 times at 64 points.
    u, v = _pairs(n).T
    enters = ranks[u, v] <= min(float(entered), cone)
    edges = (a[enters] for a in (u, v, ranks[u, v]))
    if ranks.dtype == np.float32:
        (u, v), values = _edge_collapse_ext._collapse_edges(*edges, 1)
    else:
        u, v, values = edges
    return _ripser_ext._sparse(u, v, values, n, **options)


def _central_last(ranks: np.ndarray) -> np.ndarray:
    """The same metric with its points in another order, which is faster by up to a quarter.

    For the third point of a triangle that is no longer than its edge, Ripser tries the last points
    first; those in the middle are the most likely to do. The barcode is that of any order.
    """
    if ranks.shape[0] not in _REORDERED_POINTS:
        return ranks
    order = np.argsort(-ranks.sum(axis=1), kind="stable")
    return ranks[order].take(order, axis=1)


def _put_most_persistent(
    pairs: list[np.ndarray],
    order: np.ndarray,
    ordered: np.ndarray,
    ends: np.ndarray,
    rows: np.ndarray,
    count: np.ndarray,
    all_die: bool,
) -> None:
    """Puts the ends of the edges of the most persistent pairs of every item into its `rows`, and
    how many pairs live for any time into `count`.

    Pairs are ranks, from 1, in the sorted list of edges; where not `all_die`, a rank of death may
    be infinite.
    """
    sizes = np.fromiter(map(len, pairs), np.intp, len(pairs))
    item = np.repeat(np.arange(len(pairs)), sizes)
    places = np.concatenate(pairs) - 1
    endless = None if all_die else np.isinf(places[:, 1])
    if endless is not None:
        places[endless, 1] = 0
    places = places.astype(np.intp)
    lengths = ordered[item[:, None], places]
    lifetime = lengths[:, 1] - lengths[:, 0]
    if endless is not None:
        lifetime[endless] = np.inf
    # Ranks never tie, but lengths do: such a class is alive for no time at all. It comes last.
    alive = lifetime > 0
    count[:] = np.bincount(item[alive], minlength=len(pairs))
    best = np.lexsort((places[:, 1], places[:, 0], -lifetime, item))
    slot = np.arange(len(item)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = (slot < rows.shape[1]) & alive[best]
    item, slot, best = item[kept], slot[kept], best[kept]
    found = ends[order[item[:, None], places[best]]].reshape(-1, 4)
    if endless is not None:
        found[endless[best], 2:] = -1
    rows[item, slot] = found
