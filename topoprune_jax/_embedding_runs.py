"""The epochs of an embedding: in one program, from several lanes of a CPU, on several devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Int

from . import _backend as backend
from ._embedding_forces import (
    SHIFTS_AT_ONCE,
    Layout,
    attraction_on_all,
    attraction_on_share,
    edges_of,
    mean_push,
    next_velocity,
    push_of_tiles,
    random_shifts,
    repulsion,
    share_of,
    tiles_of,
)
from ._embedding_options import EmbeddingOptions, fit_ab, known_epochs, shift_count
from ._lanes import Lanes
from ._mesh import AXIS, SPLIT, WHOLE, in_shares, on_all, on_shares
from ._types import Array, Key

_TILES_A_LANE = 2  # at least: less work is not worth three programs an epoch
_GROUPS_IN_LANES = 16  # of shifts at most: each has forces of its own


@partial(jax.jit, static_argnames=("options", "n_epochs"))
def run_whole(layout: Layout, state, first, key: Key, *, options: EmbeddingOptions, n_epochs: int):
    """Epochs first .. first + n_epochs - 1, as far as `options.n_epochs`."""
    a, b = fit_ab(options.min_dist, options.spread)
    n_shifts = shift_count(options)

    def epoch(state, t):
        z, velocity = state
        attraction = attraction_on_all(layout, z, a, b)
        push = repulsion(z, a, b, jax.random.fold_in(key, t), n_shifts)
        velocity = next_velocity(velocity, attraction, push, layout.degrees, t, options)
        return (z + velocity, velocity), None

    return lax.scan(epoch, state, first + jnp.arange(n_epochs, dtype=jnp.int32))[0]


def lanes_for(n: int, options: EmbeddingOptions, most: int) -> int:
    """How many lanes an epoch has work for, with few enough groups of shifts."""
    n_groups = -(-shift_count(options) // SHIFTS_AT_ONCE)
    return max(1, min(most, tiles_of(n)[0] // _TILES_A_LANE)) if n_groups <= _GROUPS_IN_LANES else 1


def run_in_lanes(lanes: Lanes, layout: Layout) -> Callable[..., Any]:
    """`run_whole` with the forces of an epoch from several lanes, one for every share of points.

    The bits are the same, for the reasons of `run_on_mesh`.
    """
    n_tiles, tile = tiles_of(layout.degrees.shape[0])
    n_shares = layout.offsets.shape[0] - 1
    share = layout.neighbors.shape[1] // n_shares
    edges_at = partial(_edges_at, layout.neighbors, layout.weights, size=share)
    own = [edges_at(np.int32(i * share)) for i in range(n_shares)]
    edges = edges_of(layout)
    degrees = layout.degrees

    def run(state, first: int, key: Key, *, options: EmbeddingOptions, n_epochs: int):
        for t in range(first, min(first + n_epochs, known_epochs(options))):
            more = {"options": options, "tiles": (tile, n_tiles)}
            given = edges, state[0], key, np.int32(t)
            forces = [
                lanes.hand_over(i, _forces, np.int32(i), mine, *given, **more)
                for i, mine in enumerate(own)
            ]
            state = _moved(state, forces, degrees, np.int32(t), options=options)
        return state

    return run


@partial(jax.jit, static_argnames="size")
def _edges_at(
    neighbors: Int[Array, "rows edges"],
    weights: Float[Array, "rows edges"],
    first: Int[Array, ""],
    *,
    size: int,
) -> tuple[Array, Array]:
    """Of the shares of all points those of one."""
    part = partial(lax.dynamic_slice_in_dim, start_index=first, slice_size=size, axis=1)
    return part(neighbors), part(weights)


@partial(jax.jit, static_argnames=("options", "tiles"))
def _forces(
    lane: Int[Array, ""],
    own: tuple[Array, Array],
    edges: tuple[Array, ...],
    z: Float[Array, "c n"],
    key: Key,
    t: Int[Array, ""],
    *,
    options: EmbeddingOptions,
    tiles: tuple[int, int],
) -> tuple[Array, Array, list[Array]]:
    """Of epoch t, by one lane: the attraction on its points with its stiffness, and for every group
    of shifts the push that comes from its tiles."""
    a, b = fit_ab(options.min_dist, options.spread)
    n, (tile, n_tiles), per_lane = z.shape[1], tiles, own[0].shape[1] // tiles[0]
    begin = lane * own[0].shape[1]
    force, stiffness = attraction_on_share(z, begin, own, edges, lane, tile, a, b)
    first = lane * per_lane
    count = jnp.clip(n_tiles - first, 0, per_lane)
    n_shifts = shift_count(options)
    shifts = random_shifts(jax.random.fold_in(key, t), n_shifts, n)
    pushes = [
        push_of_tiles(z, shifts[i : i + SHIFTS_AT_ONCE], (tile, n_tiles), (first, count), a, b)
        for i in range(0, n_shifts, SHIFTS_AT_ONCE)
    ]
    return force, stiffness, pushes


@partial(jax.jit, static_argnames="options")
def _moved(
    state: tuple[Array, Array],
    forces: list[tuple[Array, Array, list[Array]]],
    degrees: Float[Array, " n"],
    t: Int[Array, ""],
    *,
    options: EmbeddingOptions,
) -> tuple[Array, Array]:
    """The state after the epoch of which these are the `_forces`."""
    z, velocity = state
    n = z.shape[1]
    force = jnp.concatenate([of_lane[0] for of_lane in forces], axis=1)[:, :n]
    stiffness = jnp.concatenate([of_lane[1] for of_lane in forces])[:n]
    push = jnp.zeros_like(z)
    # Of one group no sum rounds; the groups are summed in their order.
    for group in zip(*(of_lane[2] for of_lane in forces), strict=True):
        push = push + sum(group[1:], start=group[0])
    push = push / (2 * shift_count(options))
    velocity = next_velocity(velocity, (force, stiffness), push, degrees, t, options)
    return z + velocity, velocity


def run_on_mesh(mesh: Mesh, layout: Layout) -> Callable[..., Any]:
    """`run_whole` on several devices, each of which moves some tiles of the points.

    Coordinates are the same on all: what is of size n c lies whole on every device, and so do the
    edges that are found from their other end.
    """
    n, whole = layout.degrees.shape[0], layout.neighbors.shape[1]
    n_tiles, tile = tiles_of(n)
    columns = PartitionSpec(None, AXIS)
    own = (
        in_shares(mesh, np.asarray(layout.neighbors), columns),
        in_shares(mesh, np.asarray(layout.weights), columns),
        in_shares(mesh, np.pad(np.asarray(layout.degrees), (0, whole - n))),
    )
    edges = on_all(mesh, edges_of(layout))
    specs = ((columns, columns, SPLIT), WHOLE, WHOLE, WHOLE, WHOLE), WHOLE

    def run(state, first: int, key: Key, *, options: EmbeddingOptions, n_epochs: int):
        numbers = jax.random.key_data(key)
        given = (own, edges, state, np.int32(first), numbers)
        more = {"options": options, "n_epochs": n_epochs, "n_tiles": n_tiles, "tile": tile}
        kind = jax.random.key_impl(key)
        return on_shares(mesh, _run_share, *specs, *given, **more, kind=kind)

    return run


def _run_share(
    own: tuple[Array, Array, Array],
    edges: tuple[Array, ...],
    state: tuple[Array, Array],
    first: Int[Array, ""],
    key_data: Array,
    *,
    options: EmbeddingOptions,
    n_epochs: int,
    n_tiles: int,
    tile: int,
    kind: Any,
) -> tuple[Array, Array]:
    """As `run_whole`, by a device that moves its own points only."""
    neighbors, weights, degrees = own
    n, share = state[0].shape[1], degrees.shape[0]
    device, n_devices = lax.axis_index(AXIS), lax.axis_size(AXIS)
    key = jax.random.wrap_key_data(key_data, impl=kind)
    a, b = fit_ab(options.min_dist, options.spread)
    n_shifts = shift_count(options)
    begin = device * share

    def mine(values):
        return share_of(values, begin, share, n_devices)

    def everybody(values):
        return lax.all_gather(values, AXIS, axis=1, tiled=True)[:, :n]

    def pushed(z, shifts):
        def in_tiles(z, shifts):
            first = device * (share // tile)
            count = jnp.clip(n_tiles - first, 0, share // tile)
            return push_of_tiles(z, shifts, (tile, n_tiles), (first, count), a, b)

        def at_once(z, shifts):
            count = (begin < n).astype(jnp.int32)
            return push_of_tiles(z, shifts, (share, n_devices), (device, count), a, b)

        total = backend.by_platform(z, shifts, cpu=in_tiles, default=at_once)
        padded = jnp.pad(total, ((0, 0), (0, n_devices * share - n)))
        return lax.psum_scatter(padded, AXIS, scatter_dimension=1, tiled=True)

    def epoch(state, t):
        z, velocity = state
        points = mine(z)
        attraction = attraction_on_share(z, begin, (neighbors, weights), edges, device, tile, a, b)
        push = jnp.zeros_like(points)
        if n > 1:
            epoch_key = jax.random.fold_in(key, t)
            push = mean_push(partial(pushed, z), z, points, epoch_key, n_shifts)
        velocity = next_velocity(velocity, attraction, push, degrees, t, options)
        return (everybody(points + velocity), velocity), None

    z, velocity = state
    epochs = first + jnp.arange(n_epochs, dtype=jnp.int32)
    z, velocity = lax.scan(epoch, (z, mine(velocity)), epochs)[0]
    return z, everybody(velocity)
