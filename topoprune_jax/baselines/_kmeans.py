"""k-means for cosine similarity, in tiles: memory O(n + n_clusters d), not O(n n_clusters)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from .._distance import norm, product
from .._types import Array, Key

_N_STEPS = 100  # `niter` of the authors of SemDeDup; most runs settle long before
_TILE_NUMBERS = 1 << 22  # similarities of samples and centers at a time: 16 MiB


@partial(jax.jit, static_argnames=("n_clusters", "n_steps"))
def spherical_kmeans(
    points: Float[Array, "n d"], n_clusters: int, *, n_steps: int = _N_STEPS, key: Key
) -> tuple[Int[Array, " n"], Float[Array, "clusters d"]]:
    """Codes in [0, n_clusters) and unit-length centers of rows of unit length.

    Start as in k-means++ (Arthur, Vassilvitskii 2007) with the chance of a sample in proportion to
    its squared distance, 2 - 2 cos; then Lloyd's iteration with centers scaled back to unit length,
    until no code changes or for `n_steps` steps. The code of a sample is that of its most similar
    center, of several the first. A cluster that loses its last sample keeps its center.
    """
    centers = _start(points, n_clusters, key)
    n, d = points.shape
    rows = max(1, min(n, _TILE_NUMBERS // n_clusters))
    tiles = -(-n // rows)
    fine = (jnp.arange(tiles * rows) < n).reshape(tiles, rows)
    tiled = jnp.pad(points, ((0, tiles * rows - n), (0, 0))).reshape(tiles, rows, d)
    names = jnp.arange(n_clusters, dtype=jnp.int32)

    def assign(centers: Float[Array, "clusters d"]) -> tuple[Array, Array]:
        """The sum of the samples of each cluster, and the codes."""

        def tile(total: Array, operands: tuple[Array, Array]) -> tuple[Array, Array]:
            own, real = operands
            similarity = product(own, centers.T)
            codes = jnp.where(real, jnp.argmax(similarity, axis=1).astype(jnp.int32), -1)
            # A product with zeros and ones: a scatter's sum may differ between two runs on a GPU.
            belongs = (codes[None, :] == names[:, None]).astype(own.dtype)
            total = total + product(belongs, own)
            return total, codes

        total, codes = lax.scan(tile, jnp.zeros_like(centers), (tiled, fine))
        return total, codes.ravel()[:n]

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        t, centers, codes, _ = state
        total, new = assign(centers)
        length = norm(total)[:, None]
        centers = jnp.where(length > 0, total / jnp.where(length > 0, length, 1), centers)
        return t + 1, centers, new, jnp.any(new != codes)

    _, centers, _, _ = lax.while_loop(
        lambda state: (state[0] < n_steps) & state[3],
        step,
        (jnp.zeros((), jnp.int32), centers, jnp.full(n, -1, jnp.int32), jnp.ones((), bool)),
    )
    return assign(centers)[1], centers


def _start(points: Float[Array, "n d"], n_clusters: int, key: Key) -> Float[Array, "clusters d"]:
    n, dtype = points.shape[0], points.dtype
    columns = points.T  # a vector times this is several times faster than rows times a vector
    rounding = 8 * float(jnp.finfo(dtype).eps)

    def choose(nearest: Array, key: Key) -> tuple[Array, Array]:
        # Gumbel's trick draws an index with probability in proportion to `nearest`.
        noise = jax.random.gumbel(key, (n,), dtype)
        i = jnp.argmax(jnp.log(nearest) + noise)
        distance = 1 - product(points[i], columns)
        distance = jnp.where(distance <= rounding, 0, distance)
        return jnp.minimum(nearest, distance), points[i]

    # No cosine distance is larger than 2, so that the first center is any sample.
    return lax.scan(choose, jnp.full(n, 2, dtype), jax.random.split(key, n_clusters))[1]
