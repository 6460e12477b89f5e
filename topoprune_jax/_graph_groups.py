"""The search within groups of which some are large: those by blocks, the others exactly."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ._graph_approximate import BlockSearch, block_search
from ._graph_search import ExactSearch
from ._types import Array


class GroupSearch:
    """The Euclidean search within every group, one group of more than `large` points after the
    other, and the rest at last. Parts are of different sizes."""

    def __init__(
        self,
        points: Float[Array, "n d"],
        k: int,
        codes: Int[Array, " n"],
        large: int,
        most_rows: int | None = None,
    ):
        self._n = points.shape[0]
        known = np.asarray(codes)
        rest = np.ones(self._n, bool)
        self._searches: list[tuple[BlockSearch | ExactSearch, Array]] = []
        for group in np.flatnonzero(np.bincount(known) > large):
            rows = np.flatnonzero(known == group)
            found = block_search(points[rows], k, most_rows)
            if found is not None:
                rest[rows] = False
                self._add(found, rows)
        if rest.any():
            rows = np.flatnonzero(rest)
            own = points[rows], k, "euclidean", codes[rows]
            self._add(ExactSearch(*own, most_rows=most_rows), rows)
        self._of_call = [
            (search, i, rows) for search, rows in self._searches for i in range(search.calls)
        ]
        self.calls = len(self._of_call)

    def _add(self, search: BlockSearch | ExactSearch, rows: np.ndarray) -> None:
        # What a search calls missing, the number of its points, is missing here too.
        self._searches.append((search, jnp.asarray(np.append(rows, self._n), jnp.int32)))

    def part(self, i: int) -> tuple[Int[Array, "rows k"], Float[Array, "rows k"]]:
        """Points, n for a missing one, and distances."""
        search, own, rows = self._of_call[i]
        found, distances = search.part(own)[:2]
        return rows[found], distances

    def place(self, i: int) -> Int[Array, " rows"]:
        """The points that the rows of a part are, n in the padding."""
        search, own, rows = self._of_call[i]
        return rows[search.place(own)]
