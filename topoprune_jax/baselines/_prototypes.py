"""Self-supervised prototypes: how far a sample is from the nearest of the k-means centers."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from .. import _checks as checks
from .._distance import unit_rows
from .._types import Array, ArrayInput, Key
from ._common import Pruning, by_class, checked, known_codes, pruning
from ._kmeans import spherical_kmeans


def prototypes(
    features: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput | None = None,
    n_clusters: int | None = None,
    keep: str = "hard",
    key: Key | None = None,
) -> Pruning:
    r"""Keeps the samples least (or most) like the k-means center nearest to them.

        scores_i = 1 - max_j cos(x_i, c_j),    c_1 .. c_k the centers of spherical k-means.

    With `keep="hard"` the highest scores are kept, with `keep="easy"` the lowest. Easy samples tend
    to serve better where few samples are kept.

    **Arguments:**

    - `features`: (n, d); only their directions count. Of a single column only the sign would.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.
    - `labels`: (n,) classes, integers or strings. With labels every class keeps its share; the
      clusters are those of all samples all the same.
    - `n_clusters`: k, from 1 to n. Unless given: the number of classes; without labels
      max(1, round(sqrt(n) / 2)).
    - `keep`: `"hard"` or `"easy"`.
    - `key`: typed PRNG key of the start of k-means, `jax.random.key(0)` unless given.

    **Returns:** a `Pruning`.

    **Raises:** TypeError or ValueError with one sentence for features that are no finite 2-D array,
    labels of another length, a ratio outside [0, 1), or an option out of range.

    Source: Sorscher et al., "Beyond neural scaling laws: beating power law scaling via data
    pruning", NeurIPS 2022, arXiv 2206.14486.

    **Fidelity:** that the score is the cosine distance, and that the authors keep the high ones, is
    from the README of their released scores (rgeirhos/dataset-pruning-metrics); code of theirs was
    not found. The paper's text was not read. Second-hand: that k matters little within an order of
    magnitude of the number of classes (documentation of another re-implementation), and k = the
    number of classes (notes on the moderate coreset's experiments with this method). Not checked:
    whether the authors scale features to unit length and k-means centers too, as is done here;
    when easy samples are better; and how the paper balances classes, in the place of which stand
    the shares of `labels`. The number of clusters without labels is this package's own.

    ```python
    >>> from topoprune_jax import baselines
    >>> points = [[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [1.0, 0.5]]
    >>> baselines.prototypes(points, 0.75, n_clusters=1).kept.tolist()
    [3]

    ```
    """
    if keep not in ("hard", "easy"):
        raise ValueError(
            f"`keep` must be 'hard' or 'easy'; got {keep!r}. "
            "Pass 'hard' for the samples far from their prototype, 'easy' for the near ones."
        )
    points, n_kept, codes, key = checked(features, ratio, labels, key)
    n = points.shape[0]
    if n_clusters is None:
        n_clusters = (
            max(1, round(n**0.5 / 2)) if codes is None else int(known_codes(codes).max()) + 1
        )
    n_clusters = checks.check_count(n_clusters, name="n_clusters", low=1, high=n)
    points = unit_rows(points)
    clusters, centers = spherical_kmeans(points, n_clusters, key=key)
    scores = _distance_to_center(points, clusters, centers)
    order = jnp.argsort(-scores if keep == "hard" else scores, stable=True)
    return pruning(scores, by_class(order, codes), n_kept)


@jax.jit
def _distance_to_center(
    points: Float[Array, "n d"], clusters: Int[Array, " n"], centers: Float[Array, "clusters d"]
) -> Float[Array, " n"]:
    """1 - cos, as half a squared distance, which keeps its digits where cos is almost 1."""
    difference = points - centers[clusters]
    is_zero = ~jnp.any(points != 0, axis=1)
    return jnp.where(is_zero, 1, jnp.sum(difference * difference, axis=1) / 2)
