"""An order of a graph's points in which the ends of an edge lie near each other in memory."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Int

from ._distance import varying_with
from ._fuzzy import FuzzySimplicialSet, rows_of_slots
from ._types import Array

_CELL = 800  # points, about: a few thousand numbers each still fit the cache of a core
_STEPS = 64  # a point that is farther from every pivot may lie anywhere


def near_order(indices: Int[Array, "n k"]) -> Int[Array, " n"]:
    """The points by the cell that they lie in."""
    cells = cells_of(indices, max(1, indices.shape[0] // _CELL))
    return jnp.argsort(cells, stable=True).astype(jnp.int32)


def cells_of(indices: Int[Array, "n k"], n_cells: int) -> Int[Array, " n"]:
    """The cell of a Voronoi diagram of the graph that each point lies in, -1 for those out of reach
    of all.

    Evenly spaced points are pivots. In every step the points without a cell take that of the
    nearest neighbor they list that has one, so that a few steps over the edges are all it takes.
    """
    n, k = indices.shape
    pivots = jnp.arange(n_cells, dtype=jnp.int32) * (n // n_cells)
    start = jnp.full(n, -1, jnp.int32).at[pivots].set(jnp.arange(n_cells, dtype=jnp.int32))

    def grow(state):
        step, cells, _ = state
        found = cells
        for column in reversed(range(k)):
            theirs = jnp.where(indices[:, column] >= 0, cells[indices[:, column]], -1)
            found = jnp.where(theirs >= 0, theirs, found)
        found = jnp.where(cells >= 0, cells, found)
        return step + 1, found, jnp.any(found != cells)

    state = varying_with((jnp.zeros((), jnp.int32), start, jnp.bool_(True)), indices)
    return lax.while_loop(lambda state: (state[0] < _STEPS) & state[2], grow, state)[1]


def in_order(fuzzy_set: FuzzySimplicialSet, order: Int[Array, " n"]) -> FuzzySimplicialSet:
    """The set of the points in another order, a permutation of them."""
    n = fuzzy_set.n_points
    place = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32))

    def moved(indices):
        return jnp.where(indices >= 0, place[indices], -1)

    begin = fuzzy_set.reverse_offsets[:-1][order]
    counts = jnp.diff(fuzzy_set.reverse_offsets)[order]
    offsets = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts, dtype=jnp.int32)])
    # Of every slot: its row, and where the row's edges were.
    slots = jnp.arange(fuzzy_set.reverse_indices.shape[0], dtype=jnp.int32)
    rows = jnp.minimum(rows_of_slots(offsets, slots.shape[0]), n - 1)
    source = jnp.where(slots < offsets[-1], slots + (begin - offsets[:-1])[rows], slots)
    return FuzzySimplicialSet(
        indices=moved(fuzzy_set.indices[order]),
        memberships=fuzzy_set.memberships[order],
        reverse_offsets=offsets,
        reverse_indices=moved(fuzzy_set.reverse_indices[source]),
        reverse_memberships=fuzzy_set.reverse_memberships[source],
        rho=fuzzy_set.rho[order],
        sigma=fuzzy_set.sigma[order],
    )
