"""Strata of the embedding: regions within which complexity is compared when there are no labels."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from . import _checks as checks
from ._distance import rescale, varying_with
from ._sums import sums_by_row
from ._types import Array, ArrayInput, Key

_LLOYD_STEPS = 25


def kmeans_strata(embedding: ArrayInput, n_strata: int, *, key: Key) -> Int[Array, " n"]:
    """k-means clusters: k-means++ start (Arthur, Vassilvitskii 2007), then Lloyd's iteration.

    **Arguments:** `embedding` (n, c); `n_strata` at most n; `key` of the start.
    **Returns:** (n,) codes in [0, n_strata). A cluster that loses its last point stays empty.

    ```python
    >>> import jax, jax.numpy as jnp, topoprune_jax as tp
    >>> groups = jnp.asarray([[0.0], [0.1], [9.0], [9.1]])
    >>> codes = tp.kmeans_strata(groups, 2, key=jax.random.key(0))
    >>> bool(codes[0] == codes[1]), bool(codes[2] == codes[3]), bool(codes[0] == codes[2])
    (True, True, False)

    ```
    """
    points = checks.check_points(embedding, name="embedding")
    c = checks.check_count(n_strata, name="n_strata", low=1, high=points.shape[0])
    checks.check_key(key)
    return _kmeans(points, c, key=key)


@partial(jax.jit, static_argnames="n_strata")
def _kmeans(embedding, n_strata, *, key):
    embedding, _ = rescale(embedding)
    return nearest_center(embedding, kmeans_centers(embedding, n_strata, key=key))


def kmeans_centers(
    points: Float[Array, "n c"], n_centers: int, *, steps: int = _LLOYD_STEPS, key: Key
) -> Float[Array, "m c"]:
    """Where Lloyd's iteration is after so many steps from a k-means++ start."""
    n = points.shape[0]
    dtype = points.dtype

    def choose(nearest, key):
        # Gumbel's trick draws an index with probability in proportion to `nearest`.
        noise = jax.random.gumbel(key, (n,), dtype)
        chance = jnp.where(jnp.isinf(nearest), 1, nearest)  # the first center is any point
        center = points[jnp.argmax(jnp.log(chance) + noise)]
        return jnp.minimum(nearest, _squared_distance(points, center)), center

    far = varying_with(jnp.full(n, jnp.inf, dtype), points)
    _, centers = lax.scan(choose, far, jax.random.split(key, n_centers))

    def lloyd(_, centers):
        codes = nearest_center(points, centers)
        size = jax.ops.segment_sum(jnp.ones(n, dtype), codes, n_centers)
        total = sums_by_row(points, codes, n_centers, most=n)
        return jnp.where(size[:, None] > 0, total / jnp.maximum(size, 1)[:, None], centers)

    return lax.fori_loop(0, steps, lloyd, centers)


def nearest_center(points: Float[Array, "n c"], centers: Float[Array, "m c"]) -> Int[Array, " n"]:
    """The first of the nearest centers."""
    distances = jax.vmap(partial(_squared_distance, points))(centers)
    return jnp.argmin(distances, axis=0).astype(jnp.int32)


def _squared_distance(points: Float[Array, "n c"], center: Float[Array, " c"]):
    difference = points - center[None, :]
    return jnp.sum(difference * difference, axis=1)
