"""Minimum spanning trees and forests, on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ._distance import varying_with
from ._types import Array


def spanning_tree(
    values: Float[Array, "n n"],
) -> tuple[Int[Array, "n-1"], Int[Array, "n-1"], Float[Array, "n-1"]]:
    """Prim's minimum spanning tree (Prim 1957): newer end, older end and value of every edge.

    The tree grows from point 0, and ties go to the lower index.
    """
    n = values.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)

    def grow(tree, _):
        newest, nearest, gap = tree
        row = values[newest]
        # Below every value: what the tree has reached stays as it was then.
        gap = jnp.where(index == newest, -jnp.inf, gap)
        nearest = jnp.where(row < gap, newest, nearest)
        gap = jnp.minimum(row, gap)
        # A minimum and where it is: several times faster than a batched argmin or gather on CPU.
        length = jnp.min(jnp.where(gap == -jnp.inf, jnp.inf, gap))
        newest = jnp.min(jnp.where(gap == length, index, n - 1))
        return (newest, nearest, gap), (newest, length)

    gap = jnp.full(n, jnp.inf, values.dtype)
    tree = (jnp.int32(0), jnp.zeros(n, jnp.int32), gap)
    tree = varying_with(tree, values)
    (_, nearest, _), (child, length) = jax.lax.scan(grow, tree, length=n - 1)
    return child, nearest[child], length


def spanning_forest(
    indices: Int[Array, "n k"], lengths: Float[Array, "n k"], allowed: Bool[Array, "n k"]
) -> tuple[Int[Array, " n"], Int[Array, " n"], Bool[Array, " n"]]:
    """Boruvka's minimum spanning forest (Boruvka 1926) of the edges (i, indices[i, s]).

    In every round each component chooses its shortest edge to another, and what chose each other
    is joined: at most log2(n) rounds. Edges are told apart by their place in the order of (length,
    slot), so that equal lengths make no cycle.

    **Returns:** for every point the ends (u, v) of the edge with which the component that it stands
    for died, and whether it did: exactly the points that stand for a whole connected component did
    not. Every edge of the forest belongs to one point.
    """
    n, k = indices.shape
    tails = jnp.repeat(jnp.arange(n, dtype=jnp.int32), k)
    heads = jnp.where(allowed, indices, 0).ravel().astype(jnp.int32)
    usable = allowed.ravel()
    order = jnp.argsort(jnp.where(usable, lengths.ravel(), jnp.inf), stable=True).astype(jnp.int32)
    rank = jnp.zeros(n * k, jnp.int32).at[order].set(jnp.arange(n * k, dtype=jnp.int32))
    none = jnp.int32(n * k)
    points = jnp.arange(n, dtype=jnp.int32)

    def choose(component: Array) -> Array:
        """The least rank of an edge that leaves each component; `none` where there is none."""
        a, b = component[tails], component[heads]
        leaving = jnp.where(usable & (a != b), rank, none)
        nothing = jnp.full(n, none)
        return nothing.at[a].min(leaving).at[b].min(leaving)

    def join(state):
        component, death, _ = state
        best = choose(component)
        found = best < none
        edge = order[jnp.minimum(best, none - 1)]
        a, b = component[tails[edge]], component[heads[edge]]
        other = jnp.where(found, a + b - points, points)  # of the two ends the one that it is not
        # Two that chose the same edge: the lower index lives on.
        lives = (other == points) | ((other[other] == points) & (points < other))
        parent = jnp.where(lives, points, other)
        death = jnp.where(lives, death, edge)
        parent = jax.lax.while_loop(lambda p: jnp.any(p[p] != p), lambda p: p[p], parent)
        return parent[component], death, jnp.any(found)

    # A component is known by the point that it stands for.
    state = varying_with((points, jnp.full(n, -1, jnp.int32), jnp.bool_(True)), lengths)
    _, death, _ = jax.lax.while_loop(lambda state: state[2], join, state)
    edge = jnp.maximum(death, 0)
    return tails[edge], heads[edge], death >= 0
