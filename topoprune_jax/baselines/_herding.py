"""Herding: the samples whose mean follows the mean of all."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Bool, Float, Int

from .._distance import product, rescale
from .._types import Array, ArrayInput, Key
from ._common import Pruning, checked, in_each_class, pruning
from ._greedy import most_picks, picks_first, within


def herding(
    features: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput | None = None,
    key: Key | None = None,
) -> Pruning:
    r"""Keeps, one after the other, the sample that brings the mean of the kept closest to the mean.

        p_t = argmin over i not yet picked of | mu - (x_i + sum_{s < t} x_{p_s}) / t |,

    with mu the mean of the class of x_i, or of all samples without labels. Equal distances go to
    the lower index. `scores` is the place of a sample in the order of its class, from 0 on; the
    lowest are kept. Samples beyond the kept ones were not picked by the greedy: they follow by how
    close the next pick of each would have brought the mean. So what is kept at 0.9 is part of what
    is kept at 0.8, and only the order of what a call removes depends on its ratio.

    **Arguments:**

    - `features`: (n, d); used as they are. iCaRL scales rows to unit length first.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.
    - `labels`: (n,) classes, integers or strings. With labels each class is herded on its own and
      keeps its share.
    - `key`: not used; the method is deterministic.

    **Returns:** a `Pruning`.

    **Raises:** TypeError or ValueError with one sentence for features that are no finite 2-D array,
    labels of another length, or a ratio outside [0, 1).

    Source: Welling, "Herding dynamical weights to learn", ICML 2009; as exemplars are chosen in
    iCaRL (Rebuffi et al., CVPR 2017, arXiv 1611.07725).

    **Fidelity:** checked against iCaRL's code, which picks argmax <w, x> with w <- w + mu - x on
    rows of unit length: the same pick as the formula above for rows of equal length. It lets a
    sample be picked again (and counts it once, as Welling's herding would); here, as in DeepCore,
    only samples not yet picked compete. DeepCore's `herding` was read too and is NOT followed: it
    takes the argmax where the formula has the argmin, which picks the sample that takes the mean
    farthest away. The text of Welling's paper was not checked.

    ```python
    >>> from topoprune_jax import baselines
    >>> baselines.herding([[0.0], [1.0], [2.0], [3.0], [9.0]], 0.4).kept.tolist()
    [3, 2, 1]

    ```
    """
    points, n_kept, codes, key = checked(features, ratio, labels, key)
    herd = Partial(_herd, n_picks=most_picks(n_kept, codes))
    scores, order = in_each_class(herd, points, codes, key=key)
    return pruning(scores, order, n_kept)


@jax.jit
def _herd(
    points: Float[Array, "w d"], valid: Bool[Array, " w"], key: Key, *, n_picks: int | Array
) -> tuple[Float[Array, " w"], Int[Array, " w"]]:
    del key
    w = points.shape[0]
    points, _ = rescale(within(points, valid))
    dtype = points.dtype
    size = jnp.sum(valid).astype(jnp.int32)
    mean = jnp.sum(jnp.where(valid[:, None], points, 0), axis=0) / size.astype(dtype)
    centered = points - mean[None, :]
    half = jnp.sum(centered * centered, axis=1) / 2
    columns = centered.T  # a vector times this is several times faster than rows times a vector

    def gap(total: Float[Array, " d"]) -> Float[Array, " w"]:
        # (|total + x|^2 - |total|^2) / 2: centered at the mean, the picks should add up to nothing.
        return half + product(total, columns)

    def pick(t: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        total, place = state
        free = valid & (place == w)
        i = jnp.argmin(jnp.where(free, gap(total), jnp.inf))
        return total + centered[i], place.at[i].set(t)

    start = jnp.zeros_like(mean), jnp.full(w, w, jnp.int32)
    n_picks = jnp.minimum(jnp.asarray(n_picks, jnp.int32), size)
    total, place = lax.fori_loop(jnp.zeros((), jnp.int32), n_picks, pick, start)
    order = picks_first(place, gap(total), valid)
    return jnp.zeros(w, dtype).at[order].set(jnp.arange(w).astype(dtype)), order
