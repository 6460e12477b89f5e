"""A balanced tree of points, whose leaves are those near each other."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ._types import Array

_POWERS = 2  # rounds of power iteration for the direction of a split


@partial(jax.jit, static_argnames=("depth", "axes"))
def leaves(values: Float[Array, "n s"], *, depth: int, axes: int) -> tuple[Array, Array]:
    """The row at each place of the tree of 2^depth leaves, and whether it is there as a copy.

    Halves the points at the median of a long direction of the first `axes`, then each half, and so
    on. The halves are of one size: copies of some points fill them up, spread over the table.
    """
    n = values.shape[0]
    n_rows = -(-n // 2**depth) << depth
    spare = n_rows - n
    copies = jnp.arange(spare, dtype=jnp.int32) * (n // max(spare, 1))
    order = jnp.concatenate([jnp.arange(n, dtype=jnp.int32), copies])
    # A copy has a number above n, which tells it from the point.
    number = jnp.arange(n_rows, dtype=jnp.int32)
    order, number = order[None, :], number[None, :]
    for _ in range(depth):
        z = values[:, :axes][order]
        z = z - jnp.mean(z, axis=1, keepdims=True)
        key = jnp.sum(z * _long_direction(z)[:, None, :], axis=2)
        _, order, number = lax.sort((key, order, number), dimension=1, num_keys=1)
        order, number = (x.reshape(2 * x.shape[0], -1) for x in (order, number))
    return order.ravel(), number.ravel() >= n


def _long_direction(z: Float[Array, "blocks size s"]) -> Float[Array, "blocks s"]:
    """About the first principal axis of each block: power iteration from its farthest point."""
    far = jnp.argmax(jnp.sum(z * z, axis=2), axis=1)
    direction = jnp.take_along_axis(z, far[:, None, None], axis=1)[:, 0]
    tiny = jnp.finfo(z.dtype).tiny
    for _ in range(_POWERS):
        direction = direction / jnp.maximum(jnp.max(jnp.abs(direction), axis=1), tiny)[:, None]
        along = jnp.sum(z * direction[:, None, :], axis=2)
        along = along / jnp.maximum(jnp.max(jnp.abs(along), axis=1), tiny)[:, None]
        direction = jnp.sum(z * along[:, :, None], axis=1)
    return direction / jnp.maximum(jnp.max(jnp.abs(direction), axis=1), tiny)[:, None]
