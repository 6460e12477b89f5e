"""Points along axes that a few of them tell, wherever the points lie."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from . import _backend as backend
from ._distance import product
from ._ring import Rows, gather, mapped, tilewise
from ._types import Array

SAMPLE = 1 << 16
"""Points that axes are fitted to."""
_TILE = 1 << 8


def even_rows(n: int) -> Int[np.ndarray, " m"]:
    """All of n points, or of many every second, or third, and so on."""
    return np.arange(0, n, max(1, -(-n // SAMPLE)))


def evenly(points: Float[Array, "n d"] | Rows) -> Float[Array, "m d"]:
    """The points of `even_rows`, on this process' own device."""
    rows = even_rows(points.shape[0])
    if isinstance(points, Rows):
        return gather(points, rows)
    return points if len(rows) == points.shape[0] else points[:: rows[1]]


def along(
    rows: Float[Array, "m d"], center: Float[Array, " d"], axes: Float[Array, "d c"]
) -> Float[Array, "m c"]:
    """Coordinates of some rows.

    On a CPU each is a sum in the order of the features, so that its bits depend neither on how many
    points are looked at in one go nor on where they lie.
    """

    def in_order(rows):
        return jnp.sum((rows - center[None, :])[:, None, :] * axes.T[None, :, :], axis=2)

    def at_once(rows):
        return product(rows - center[None, :], axes)

    return backend.by_platform(rows, cpu=in_order, default=at_once)


def along_all(
    points: Float[Array, "n d"] | Rows, center: Float[Array, " d"], axes: Float[Array, "d c"]
) -> Float[Array, "n c"]:
    """Coordinates of all points, on one device."""
    if isinstance(points, Rows):
        return tilewise(points, along, center, axes)
    return _by_tiles(points, center, axes, each=along)


def changed(
    points: Float[Array, "n d"] | Rows, function: Callable[..., Array], *arrays: Array
) -> Float[Array, "n c"] | Rows:
    """`function(rows, *arrays)` of some rows after the other, where the points lie."""
    if isinstance(points, Rows):
        return mapped(points, function, *arrays)
    return _by_tiles(points, *arrays, each=function)


@partial(jax.jit, static_argnames="each")
def _by_tiles(points, *arrays, each) -> Float[Array, "n c"]:
    n = points.shape[0]
    rows = min(n, _TILE)

    def tile(start):
        return each(lax.dynamic_slice_in_dim(points, start, rows), *arrays)

    # The last tile reaches back over the one before it.
    starts = jnp.minimum(jnp.arange(0, n, rows), n - rows)
    found = lax.map(tile, starts)
    before = found[:-1].reshape(-1, found.shape[2])
    return jnp.concatenate([before, found[-1][before.shape[0] - n :]])
