"""Distances that are exact, safe to differentiate, and free of overflow."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ._types import Array


def rescale(points: Float[Array, "n d"]) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    r"""Centers the points and divides them by a power of two, so that squares cannot overflow.

    Returns `(points - center) / scale` with entries in [-1, 1], and `scale`. A power of two changes
    no bit of the mantissa: distances of the result, times `scale`, are those of the input.
    """
    lo, hi = points.min(axis=0), points.max(axis=0)
    center = lo / 2 + hi / 2
    reach = jnp.max(jnp.maximum(hi - center, center - lo))
    limits = jnp.finfo(points.dtype)
    exponent = jnp.clip(jnp.frexp(reach)[1], limits.minexp + 1, limits.maxexp - 1)
    scale = jnp.ldexp(jnp.ones_like(reach), exponent)
    return (points - center[None, :]) / scale, scale


def norm(vectors: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Euclidean length over the last axis; its derivative at 0 is 0, and NaN stays NaN."""
    squared = jnp.sum(vectors * vectors, axis=-1)
    is_zero = squared == 0
    return jnp.where(is_zero, jnp.zeros_like(squared), jnp.sqrt(jnp.where(is_zero, 1, squared)))


@jax.jit
def unit_rows(points: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """The rows scaled to unit length; a row of zeros stays one."""
    largest = jnp.max(jnp.abs(points), axis=1, keepdims=True)
    points = points / jnp.where(largest > 0, largest, 1)
    return points / jnp.where(largest > 0, norm(points)[:, None], 1)


def product(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """`a @ b` in the precision of the numbers, which accelerators give up unless asked."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def varying_with(start: Any, data: Array) -> Any:
    """`start`, made of constants, as the first carry of a loop over `data`.

    Under `shard_map` a carry must vary with the shards from the start, as what the loop returns
    does. No value changes.
    """
    never = (data.ravel()[0] != data.ravel()[0]) & False
    return jax.tree.map(lambda leaf: jnp.where(never, leaf, leaf), start)


def condensed_pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (i, j), i < j, of the n(n-1)/2 pairs in row order, as SciPy's `pdist` lists them."""
    i, j = np.triu_indices(n, k=1)
    return i.astype(np.int32), j.astype(np.int32)
