"""SemDeDup: of samples that are almost the same, one stays."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from .. import _checks as checks
from .._distance import product, unit_rows
from .._types import Array, ArrayInput, Key
from ._common import Pruning, by_class, checked, pruning
from ._kmeans import spherical_kmeans

_CLUSTER_SIZE = 8800  # 440 million samples in 50,000 clusters
_TILE = 512  # samples whose similarities to as many others are looked at in one go
_ORDERS = ("hard", "easy", "random")


def semantic_deduplication(
    features: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput | None = None,
    n_clusters: int | None = None,
    keep: str = "hard",
    key: Key | None = None,
) -> Pruning:
    r"""Removes the samples most similar to another one of their k-means cluster (SemDeDup).

        scores_i = max(0, max over j of the cluster of i, before i, of cos(x_i, x_j)),

    the lowest kept. The order within a cluster decides which one of a group of duplicates stays:
    with `keep="hard"` the sample least similar to the cluster's center comes first, with `"easy"`
    the most similar one, with `"random"` any. The first of a cluster has score 0 and is never a
    duplicate. SemDeDup removes i where scores_i > 1 - epsilon; here `ratio` sets epsilon, as
    1 - the score of the last sample kept, so that exactly the asked number stays.

    **Arguments:**

    - `features`: (n, d); only their directions count. Of a single column only the sign would.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.
    - `labels`: (n,) classes, integers or strings. With labels every class keeps its share, and
      epsilon differs between classes; clusters and duplicates are those of all samples.
    - `n_clusters`: clusters save time, they are no part of the idea: samples of different clusters
      are not compared. From 1 to n; unless given max(1, round(n / 8800)), the mean size of a
      cluster in the paper (440 million samples, 50,000 clusters).
    - `keep`: `"hard"`, `"easy"` or `"random"`.
    - `key`: typed PRNG key of k-means and of the random order, `jax.random.key(0)` unless given.

    **Returns:** a `Pruning`.

    **Raises:** TypeError or ValueError with one sentence for features that are no finite 2-D array,
    labels of another length, a ratio outside [0, 1), or an option out of range.

    Time is that of all pairs within clusters, memory O(n d) whatever the sizes of the clusters.

    Source: Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic
    deduplication", 2023, arXiv 2303.09540.

    **Fidelity:** checked against the authors' code (facebookresearch/SemDeDup): cosine similarity,
    spherical k-means of up to 100 steps, clusters sorted by falling distance to the center
    (`keep_hard`, `which_to_keep: hard` by default), a sample removed for its similarity to ANY
    earlier one of its cluster, removed or not, and negative similarities counted as 0. The paper's
    text instead keeps one of each group of duplicates (issue 8 of that repository quotes it); the
    code is followed. The ratio in the place of epsilon, the shares of the classes, the start of
    k-means (k-means++, faiss draws samples at random) and what becomes of empty clusters (faiss
    splits another one) are this package's own.

    ```python
    >>> from topoprune_jax import baselines
    >>> points = [[1.0, 0.0], [0.0, 1.0], [2.0, 0.02], [0.0, -1.0]]  # 0 and 2 almost agree
    >>> kept = baselines.semantic_deduplication(points, 0.25).kept.tolist()
    >>> (0 in kept) != (2 in kept), 1 in kept, 3 in kept
    (True, True, True)

    ```
    """
    if keep not in _ORDERS:
        raise ValueError(
            f"`keep` must be 'hard', 'easy' or 'random'; got {keep!r}. "
            "Pass 'hard' to keep the duplicate farthest from its cluster's center."
        )
    points, n_kept, codes, key = checked(features, ratio, labels, key)
    n = points.shape[0]
    if n_clusters is None:
        n_clusters = max(1, round(n / _CLUSTER_SIZE))
    n_clusters = checks.check_count(n_clusters, name="n_clusters", low=1, high=n)
    cluster_key, order_key = jax.random.split(key)
    points = unit_rows(points)
    clusters, centers = spherical_kmeans(points, n_clusters, key=cluster_key)
    scores = _similarity_to_earlier(points, clusters, centers, order_key, keep=keep)
    return pruning(scores, by_class(jnp.argsort(scores, stable=True), codes), n_kept)


@partial(jax.jit, static_argnames="keep")
def _similarity_to_earlier(
    points: Float[Array, "n d"],
    clusters: Int[Array, " n"],
    centers: Float[Array, "clusters d"],
    key: Key,
    *,
    keep: str,
) -> Float[Array, " n"]:
    """The largest similarity to an earlier sample of the cluster, 0 at least.

    Samples lie in the order of their cluster, and a tile of them meets the tiles from where the
    cluster of its first sample begins up to itself.
    """
    n, d = points.shape
    if keep == "random":
        turn = jax.random.uniform(key, (n,), points.dtype)
    else:
        similarity = jnp.sum(points * centers[clusters], axis=1)
        turn = similarity if keep == "hard" else -similarity
    sequence = jnp.lexsort((turn, clusters))
    rows = min(n, _TILE)
    tiles = -(-n // rows)
    padding = (0, tiles * rows - n)
    own = jnp.pad(points[sequence], (padding, (0, 0))).reshape(tiles, rows, d)
    cluster = jnp.pad(clusters[sequence], padding, constant_values=-1).reshape(tiles, rows)
    begin = jnp.searchsorted(clusters[sequence], cluster[:, 0], side="left").astype(jnp.int32)
    within_tile = jnp.arange(rows, dtype=jnp.int32)

    def tile(operands: tuple[Array, Array]) -> Float[Array, " rows"]:
        i, first = operands

        def meet(j: Array, most: Float[Array, " rows"]) -> Float[Array, " rows"]:
            cosines = product(own[i], own[j].T)
            same = cluster[i][:, None] == cluster[j][None, :]
            earlier = (j * rows + within_tile)[None, :] < (i * rows + within_tile)[:, None]
            return jnp.maximum(most, jnp.max(jnp.where(same & earlier, cosines, 0), axis=1))

        return lax.fori_loop(first, i + 1, meet, jnp.zeros(rows, points.dtype))

    most = lax.map(tile, (jnp.arange(tiles, dtype=jnp.int32), begin // rows))
    # Rounding must not rank one exact duplicate before another.
    most = jnp.minimum(most.ravel()[:n], 1)
    return jnp.zeros_like(most).at[sequence].set(most)
