"""The drivers of the exact search: what is looked at in one call, by which scan, and in parts."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Float, Int

from . import _backend as backend
from . import _checks as checks
from . import _graph_exact as exact
from . import _graph_wide as wide
from ._distance import varying_with
from ._graph_exact import (
    ROWS,
    TILE_BYTES,
    Table,
    block_size,
    class_range,
    collect,
    flat,
    merge,
    no_neighbors,
    prepare,
    search,
    tile_rows,
)
from ._mesh import SPLIT, WHOLE, here, on_all, on_shares
from ._steps import Steps, wait
from ._types import Array, ArrayInput, Progress

Metric: TypeAlias = str | Callable[[Array, Array], ArrayInput]
"""The name of a distance, or a JAX function (d,), (d,) -> scalar."""

_TILE_NUMBERS = 1 << 22  # rows x columns x d of a tile under a user's metric: 16 MiB an operand
_SMALL_CHUNK_FLOPS = 4e9  # work that is worth a call of its own, for a few calls beside each other
_FEW = 4


def exact_neighbors(
    points: Float[Array, "n d"],
    k: int,
    *,
    metric: Metric = "euclidean",
    codes: Int[Array, " n"] | None = None,
    stage: str = "neighbors",
    progress: Progress | None = None,
    tile_bytes: int = TILE_BYTES,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """Indices and distances, for any k >= 1: missing neighbors are empty slots.

    `tile_bytes` changes no result.
    """
    search_tiles = ExactSearch(points, k, metric, codes, tile_bytes=tile_bytes)
    beside = (points, codes) if isinstance(metric, str) else ()
    steps = Steps(stage, search_tiles.calls, progress, beside=beside)
    parts = [steps.run(search_tiles.part, i) for i in range(search_tiles.calls)]
    return steps.end(search_tiles.collect(parts))


def calls_for(flops: float, rows: int, most_rows: int | None = None) -> int:
    """Into how many calls a search of so much work is divided, of `most_rows` rows each at most."""
    if backend.is_cpu():
        calls = max(flops / exact.CHUNK_FLOPS, min(_FEW, flops / _SMALL_CHUNK_FLOPS), 1)
    else:
        calls = max(flops / wide.CHUNK_FLOPS, 1)
    return math.ceil(calls if most_rows is None else max(calls, rows / most_rows))


def pairs_of(n: int, class_sizes: Sequence[int] = ()) -> float:
    """That are looked at: tiles of queries against the classes they are of, or all."""
    if not class_sizes:
        return float(n) * n
    return float(sum(size * min(n, size + ROWS) for size in class_sizes))


class ExactSearch:
    """The search of some tiles after the other, or of some on every device of a mesh."""

    def __init__(
        self,
        points: Float[Array, "n d"],
        k: int,
        metric: Metric,
        codes: Int[Array, " n"] | None,
        mesh: Mesh | None = None,
        *,
        tile_bytes: int = TILE_BYTES,
        most_rows: int | None = None,
    ):
        n, d = points.shape
        # Under `vmap` a wide tile would be there as often as there are problems.
        is_wide = mesh is None and not checks.is_traced(points) and not backend.is_cpu()
        is_wide = is_wide and metric in ("euclidean", "cosine") and wide.is_meant_for(n, k)
        is_wide = is_wide and points.dtype == jnp.float32
        e = d + (metric == "cosine")
        by_place = is_wide and codes is None and wide.has_few_axes(e)
        block = block_size(n, codes, tile_bytes)
        self._rows = wide.ROWS if is_wide else ROWS
        if mesh is None and not is_wide and isinstance(metric, str):
            self._rows, block = exact.tile_of(n, codes, tile_bytes)
        tiles = -(-n // self._rows)
        if by_place:
            tiles, self._rows = wide.leaves_of(n)
        calls = 1
        if not checks.is_traced(points):
            sizes = () if codes is None or checks.is_traced(codes) else np.bincount(codes).tolist()
            calls = calls_for(2.0 * pairs_of(n, sizes) * (d + 8), n, most_rows)
        self._tiles = -(-tiles // calls)
        if mesh is not None:
            self._tiles += -self._tiles % mesh.size
        self.calls = -(-tiles // self._tiles)
        self._k, self._metric = k, metric
        self._name = metric if isinstance(metric, str) else "function"
        n_rows = self.calls * self._tiles * self._rows
        check = checks.is_traced(points)
        self._table = prepare(points, codes, metric=self._name, n_rows=n_rows, check=check)
        self._order, self._scanned = None, None
        if by_place:
            order = wide.near_each_other(self._table)
            spare = (0, self.calls * self._tiles - tiles), (0, 0)
            self._order = jnp.pad(order, spare, constant_values=n)
        if is_wide:
            options = {"block": wide.block_size(n, tile_bytes), "by_class": codes is not None}
            self._search = partial(wide.search, **options)
        elif isinstance(metric, str):
            block, by_class = n_rows if block == n else block, codes is not None
            self._search = partial(search, metric=metric, block=block, by_class=by_class)
            if mesh is None and self.calls > 1:
                self._scanned = exact.scanned_of(self._table, metric=metric, block=block)
            if mesh is not None:
                every = on_all(mesh, self._table)
                specs = (WHOLE, SPLIT), SPLIT
                options = self._search.keywords
                self._search = lambda _, rows, k: here(
                    on_shares(mesh, search, *specs, every, rows, k=k, **options)
                )
        else:
            self._search = partial(_search_function, metric=metric)

    def _queries(self, i: int) -> Int[Array, "tiles rows"]:
        first = i * self._tiles
        if self._order is None:
            return tile_rows(first, self._tiles, self._rows)
        return self._order[first : first + self._tiles]

    def part(self, i: int):
        """Points, n for a missing one, and distances; with a function also where it was wrong."""
        given = () if self._scanned is None else (self._scanned,)
        found = self._search(self._table, self._queries(i), *given, k=self._k)
        if not isinstance(self._metric, str):
            _check_values(self._metric, self._table, wait(found[2]), i * self._tiles)
        return found

    def place(self, i: int) -> Int[Array, " rows"]:
        """The points that the rows of a part are, n in the padding."""
        return self._table.index[self._queries(i).ravel()]

    def collect(self, parts) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
        """All parts in the order of the points."""
        order = self._order if self._order is None else self._order.ravel()
        return collect(self._table, parts, order, k=self._k, metric=self._name)


@eqx.filter_jit
def _search_function(table: Table, queries: Int[Array, "tiles rows"], *, metric: Callable, k: int):
    """As `search`, every pair by the function; and the rows where a value was NaN or negative."""
    n, d = table.n_points, table.points.shape[1]
    size = ROWS
    while size > 1 and size * size * d > _TILE_NUMBERS:
        size //= 2
    width = max(1, min(ROWS, n, _TILE_NUMBERS // (size * d)))
    others = jnp.pad(table.points, ((0, width), (0, 0)))
    other_codes = jnp.pad(table.codes, (0, width), constant_values=-1)
    values_of = jax.vmap(jax.vmap(metric, in_axes=(None, 0)), in_axes=(0, None))

    def tile(own):
        x, codes = table.points[own], table.codes[own]
        real = codes >= 0
        lo, hi = class_range(table, own)

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
            return merge(best, values, rows), bad

        start = varying_with((no_neighbors(size, k, x.dtype), jnp.zeros(size, bool)), x)
        (distances, found), bad = lax.fori_loop(0, -(-(hi - lo) // width), scan_block, start)
        return jnp.where(jnp.isinf(distances), n, table.index[found]), distances, bad

    return flat(lax.map(tile, queries.reshape(-1, size)))


def _check_values(metric: Callable, table: Table, bad: Array, first_tile: int) -> None:
    if checks.is_traced(bad) or not bool(bad.any()):
        return
    n, row = table.n_points, first_tile * ROWS + int(bad.argmax())
    values = lax.map(partial(metric, table.points[row]), table.points[:n])
    asked = (table.codes[:n] == table.codes[row]).at[row].set(False)
    other = int((asked & ~(values >= 0)).argmax())
    raise ValueError(
        f"`metric` must return a number that is not negative; got {float(values[other]):g} for "
        f"points {int(table.index[row])} and {int(table.index[other])}. "
        "Guard its square roots, logarithms and divisions, or clip it at 0."
    )
