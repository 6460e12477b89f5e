"""A balanced tree of points, whose leaves are those near each other."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from ._distance import varying_with
from ._least import order_in_blocks
from ._types import Array

_POWERS = 2  # rounds of power iteration for the direction of a split


@partial(jax.jit, static_argnames=("depth", "axes"))
def leaves(values: Float[Array, "n s"], *, depth: int, axes: int) -> tuple[Array, Array]:
    """The row at each place of the tree of 2^depth leaves, and whether it is there as a copy.

    Halves the points at the median of a long direction of the first `axes`, then each half, and so
    on. The halves are of one size: copies of some points fill them up, spread over the table.

    The levels are rounds of one loop, over all leaves to be: a program of every level's own shapes
    takes seconds to compile.
    """
    n = values.shape[0]
    n_rows = -(-n // 2**depth) << depth
    spare = n_rows - n
    copies = jnp.arange(spare, dtype=jnp.int32) * (n // max(spare, 1))
    # A copy has a number above n, which tells it from the point.
    point = jnp.concatenate([jnp.arange(n, dtype=jnp.int32), copies])
    few, size = values[:, :axes], n_rows >> depth

    def halve(level: Int[Array, ""], number: Int[Array, "leaves size"]) -> Array:
        def largest(x: Int[Array, "leaves size"] | Float[Array, "leaves size"]) -> Array:
            return _combined(jnp.max(x, axis=1), jnp.maximum, depth, depth - level)

        def total(z: Float[Array, "leaves size s"]) -> Float[Array, "leaves s"]:
            return _combined(jnp.sum(z, axis=1), jnp.add, depth, depth - level)

        def along(direction: Float[Array, "leaves s"]) -> Float[Array, "leaves size"]:
            reach = jnp.max(jnp.abs(direction), axis=1, keepdims=True)
            return jnp.sum(z * (direction / jnp.maximum(reach, tiny))[:, None, :], axis=2)

        z = few[point[number]]
        tiny = jnp.finfo(z.dtype).tiny
        count = (jnp.int32(size) << (depth - level)).astype(z.dtype)
        z = z - (total(z) / count)[:, None, :]
        # About the first principal axis of each block: power iteration from its farthest point.
        square = jnp.sum(z * z, axis=2)
        farthest = square >= largest(square)[:, None]
        far = -largest(jnp.where(farthest, -place, -n_rows))
        direction = z.reshape(n_rows, -1)[jnp.minimum(far, n_rows - 1)]

        def power(_, direction):
            shadow = along(direction)
            shadow = shadow / jnp.maximum(largest(jnp.abs(shadow)), tiny)[:, None]
            return total(z * shadow[:, :, None])

        direction = lax.fori_loop(0, _POWERS, power, direction)
        block = jnp.broadcast_to(leaf[:, None] >> (depth - level), place.shape).ravel()
        order = order_in_blocks(block, along(direction).ravel(), 2**depth - 1)
        return number.ravel()[order].reshape(place.shape)

    leaf = jnp.arange(2**depth, dtype=jnp.int32)
    place = jnp.arange(n_rows, dtype=jnp.int32).reshape(-1, size)
    number = lax.fori_loop(0, depth, halve, varying_with(place, values)).ravel()
    return point[number], number >= n


def _combined(
    x: Array, combine: Callable[[Array, Array], Array], depth: int, steps: Int[Array, ""]
) -> Array:
    """What each of the 2^depth leaves and the others of its block, 2^steps in a row, combine to:
    the same bits at all of them."""
    leaf = jnp.arange(2**depth, dtype=jnp.int32)
    return lax.fori_loop(0, steps, lambda i, x: combine(x, x[leaf ^ (jnp.int32(1) << i)]), x)
