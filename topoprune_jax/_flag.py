"""Persistence of flag filtrations: everything that the order of the edges decides.

A flag complex holds every set of points all of whose edges have entered. Its *generators*, edges
that create and destroy classes, are integers without a derivative: components come from a minimum
spanning tree grown on the device, loops and voids from gudhi on the host, or loops of few points
from the device as well.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ._diagram import Generators, host_rows, is_poisoned, outcome
from ._distance import condensed_pairs, varying_with
from ._host._rips import rips_pairs
from ._loops import MOST_POINTS, loop_rows
from ._spanning_forest import spanning_tree
from ._types import Array

_COUNTED = 64  # values that are ordered by counting


def flag_generators(
    values: Float[Array, "n n"],
    longest: Float[Array, ""],
    finite: Bool[Array, ""],
    *,
    dims: tuple[int, ...],
    capacities: tuple[int, ...],
    weighted: bool = False,
    metric: str = "euclidean",
    reduction: str = "host",
) -> Generators:
    """The generators of the filtration in which edge (i, j) enters at `values[i, j]` = [j, i].

    **Arguments:**

    - `values`: not negative. Points enter at 0, or with `weighted` at the diagonal, which is at
      most any other value of its row.
    - `longest`: nothing enters beyond this value.
    - `finite`: False poisons the diagram.
    - `reduction`: see `check_reduction`.
    """
    n = values.shape[0]
    status = jnp.zeros((), dtype=jnp.int32)
    parts: dict[int, tuple[Array, Array]] = {}
    if 0 in dims:
        components = _elder_components if weighted else _components
        parts[0] = components(values, longest, capacities[dims.index(0)])
    higher = tuple(dim for dim in dims if dim > 0)
    if higher and reduction == "device":
        none = jnp.asarray(-1, values.dtype)
        enters = jnp.where(finite, longest, none)
        parts[1] = loop_rows(values, enters, capacities[dims.index(1)])
    elif higher:
        slots = tuple(c for dim, c in zip(dims, capacities, strict=True) if dim > 0)
        lengths = values[condensed_pairs(n)]
        edges, counts, status = host_rows(
            rips_pairs, 4, lengths, longest, n=n, dims=higher, capacities=slots
        )
        for index, dim in enumerate(higher):
            end = sum(slots[: index + 1])
            parts[dim] = edges[end - slots[index] : end], counts[index]

    edges = jnp.concatenate([parts[dim][0] for dim in dims])
    count = jnp.stack([parts[dim][1] for dim in dims])
    overflow = jnp.any(count > jnp.asarray(capacities, dtype=jnp.int32))
    result = outcome(finite & ~jnp.isnan(longest), overflow, status)
    usable = ~is_poisoned(result)
    edges, count = jnp.where(usable, edges, -1), jnp.where(usable, count, 0)
    return Generators(edges, count, result, dims, capacities, n, metric)


def _components(
    distances: Float[Array, "n n"], longest: Float[Array, ""], capacity: int
) -> tuple[Int[Array, "c 4"], Int[Array, ""]]:
    """Generators of dimension 0 where all points enter at 0, and their number.

    An edge of the tree destroys the component of its newer end: of two components that an edge
    joins, the elder is the one that the tree reached first. An edge longer than `longest` never
    enters, and that component is essential.
    """
    child, parent, length = spanning_tree(distances)
    child, parent = (jnp.pad(ends, (1, 0)) for ends in (child, parent))
    length = jnp.concatenate([jnp.full(1, jnp.inf, length.dtype), length])
    essential = (length > longest) | (jnp.arange(distances.shape[0]) == 0)
    lifetime = jnp.where(essential, jnp.inf, length)
    return component_rows(child, child, parent, essential, lifetime, capacity)


def _elder_components(
    values: Float[Array, "n n"], longest: Float[Array, ""], capacity: int
) -> tuple[Int[Array, "c 4"], Int[Array, ""]]:
    """The same where points enter at the diagonal: of two components the younger dies.

    Elder rule, ties by index; Edelsbrunner and Harer, *Computational Topology* (2010), VII.1.
    """
    n = values.shape[0]
    births = jnp.diagonal(values)
    child, parent, length = spanning_tree(values)
    order = _descending(-length)
    index = jnp.arange(n, dtype=jnp.int32)

    def merge(elder, edge):
        u, v, value = edge
        a, b = elder[u], elder[v]
        a_is_older = (births[a] < births[b]) | ((births[a] == births[b]) & (a < b))
        older, younger = jnp.where(a_is_older, a, b), jnp.where(a_is_older, b, a)
        enters = value <= longest
        elder = jnp.where(enters & (elder == younger), older, elder)
        return elder, jnp.where(enters, younger, n)

    edges = child[order], parent[order], length[order]
    _, younger = jax.lax.scan(merge, varying_with(index, values), edges)
    nobody = jnp.full(n, -1, jnp.int32)
    u, v = (nobody.at[younger].set(ends, mode="drop") for ends in edges[:2])
    essential = u < 0
    lifetime = jnp.where(essential, jnp.inf, values[u, v] - births)
    lifetime = jnp.where(births <= longest, lifetime, 0)
    return component_rows(index, u, v, essential, lifetime, capacity)


def component_rows(
    vertex: Int[Array, "n"],
    u: Int[Array, "n"],
    v: Int[Array, "n"],
    essential: Bool[Array, "n"],
    lifetime: Float[Array, "n"],
    capacity: int,
) -> tuple[Int[Array, "c 4"], Int[Array, ""]]:
    """Rows (vertex, vertex, death u, v), the longest living first, and the number of bars."""
    death = jnp.stack([jnp.minimum(u, v), jnp.maximum(u, v)], axis=-1)
    death = jnp.where(essential[:, None], -1, death)
    edges = jnp.concatenate([vertex[:, None], vertex[:, None], death], axis=-1)
    count = jnp.sum(lifetime > 0, dtype=jnp.int32)
    order = _descending(lifetime)
    index = jnp.arange(vertex.shape[0], dtype=jnp.int32)
    edges = jnp.where((index < count)[:, None], edges[order], -1)[:capacity]
    return jnp.pad(edges, ((0, capacity - edges.shape[0]), (0, 0)), constant_values=-1), count


def _descending(values: Float[Array, "n"]) -> Int[Array, "n"]:
    """The stable order of falling values. Few are counted: XLA's batched sort on CPU is slow."""
    n = values.shape[0]
    if n > _COUNTED:
        return jnp.argsort(-values, stable=True)
    index = jnp.arange(n, dtype=jnp.int32)
    larger = values[None, :] > values[:, None]
    tied = (values[None, :] == values[:, None]) & (index[None, :] < index[:, None])
    place = jnp.sum(larger | tied, axis=1, dtype=jnp.int32)
    at_place = place[None, :] == index[:, None]
    return jnp.sum(jnp.where(at_place, index[None, :], 0), axis=1, dtype=jnp.int32)


def check_reduction(reduction: Any, dims: tuple[int, ...], n: int) -> str:
    """Where generators of dimension >= 1 are found, if it can be done there."""
    if not isinstance(reduction, str) or reduction not in ("host", "device"):
        raise ValueError(
            f"`reduction` must be 'host' or 'device'; got {reduction!r}. "
            "The device finds loops of few points; gudhi on the host finds all."
        )
    if reduction == "device" and 2 in dims:
        raise ValueError(
            f"`reduction='device'` finds dimensions 0 and 1; got dims={dims}. "
            "Pass reduction='host' for voids."
        )
    if reduction == "device" and 1 in dims and n > MOST_POINTS:
        raise ValueError(
            f"`reduction='device'` finds loops of at most {MOST_POINTS} points; got {n} points. "
            "Pass reduction='host', or subsets of the points."
        )
    return reduction
