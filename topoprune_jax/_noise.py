"""How much of the features is noise, as far as the features alone can tell."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from . import _checks as checks
from ._axes import evenly
from ._distance import product, rescale, unit_rows
from ._ring import Rows
from ._sums import mean_row, over_rows
from ._types import Array, ArrayInput

QUERIES = 512  # samples whose nearest other one is sought
AT_ONCE = 64
_RIDGE = 1e-4  # of the mean variance, so that features which others determine have an inverse


def noise_share(features: ArrayInput, *, normalize: bool = True) -> Float[Array, ""]:
    r"""The share of the features' variance that can be noise, independent in every feature.

    With x_i the features of sample i scaled to unit length and C their covariance, the less of

        u = n / (n - d) sum_j 1 / (C^-1)_jj / tr C,    v = median_i min_j |x_i - x_j|^2 / (2 tr C).

    1 / (C^-1)_jj is what a linear regression of feature j on all others leaves of its variance:
    of noise of its own that is all. And two samples differ by the noise of both at least: half of
    their squared distance is their noise, if they are the same else, and more if they are not.
    Noise whose standard deviation is sigma of each feature's has the share
    sigma^2 / (1 + sigma^2), and u is no less for many samples. v is less, as the nearest of many
    samples is nearest by chance too, the more so the fewer features there are: .2 in the example,
    where half of the variance is noise.

    Features without noise have some of either as well: those that networks make of images and
    sentences .075 to .10, and .14 to .17 with noise of a quarter (sigma; benchmarks/README.md, the
    deciding test). `rank` with labels takes features above an eighth for noisy.

    **Arguments:**

    - `features`: (n, d), finite, two samples at least. Of more than 65,536 every second, or third
      and so on, is looked at.
    - `normalize`: whether rows are scaled to unit length first, as in `rank`. A single column
      never is.

    **Returns:** a number, 0 if all samples are the same. Up to d samples do not tell u, which then
    is left out.

    **Raises:** TypeError or ValueError with one sentence for features that are no finite 2-D array.

    Works under `jit` and `vmap`. Time is O(n d^2 + d^3), memory O(n d + d^2).

    Source: u as in Guttman 1956 and, for noise, Roger and Arnold 1996; v is the delta test of Pi
    and Peterson 1994, with a median.

    ```python
    >>> import jax, topoprune_jax as tp
    >>> points, noise = jax.random.normal(jax.random.key(0), (2, 500, 20))
    >>> line = points[:, :1] + 0.0 * noise
    >>> [f"{tp.noise_share(x, normalize=False):.1f}" for x in (line, line + noise)]
    ['0.0', '0.2']

    ```
    """
    points = checks.check_points(features, name="features", min_points=2)
    if normalize and points.shape[1] > 1:
        points = unit_rows(points)
    return noise_of(rescale(points)[0])


def noise_of(points: Float[Array, "n d"] | Rows) -> Float[Array, ""]:
    """`noise_share` of points as they are."""
    sample = evenly(points)
    return _share(sample, n_queries=min(QUERIES, sample.shape[0]))


@partial(jax.jit, static_argnames="n_queries")
def _share(points: Float[Array, "n d"], *, n_queries: int) -> Float[Array, ""]:
    n, d = points.shape
    points = points - mean_row(points)[None, :]
    square = jnp.sum(points * points, axis=1)
    total = mean_row(square[:, None])[0]
    queries = np.arange(n_queries) * n // n_queries
    tiles = np.resize(queries, (-(-n_queries // AT_ONCE), AT_ONCE))

    def nearest(own):
        apart = square[own][:, None] + square[None, :] - 2 * product(points[own], points.T)
        return jnp.min(apart.at[jnp.arange(AT_ONCE), own].set(jnp.inf), axis=1)

    found = lax.map(nearest, jnp.asarray(tiles)).ravel()[:n_queries]
    share = jnp.maximum(jnp.median(found), 0) / 2
    if n > d:
        covariance = over_rows(points, points) / n
        ridge = _RIDGE * total / d + jnp.finfo(points.dtype).tiny
        inverse = jnp.linalg.inv(covariance + ridge * jnp.eye(d, dtype=points.dtype))
        share = jnp.minimum(share, jnp.sum(1 / jnp.diag(inverse)) * (n / (n - d)))
    return jnp.where(total > 0, share / jnp.where(total > 0, total, 1), 0)
