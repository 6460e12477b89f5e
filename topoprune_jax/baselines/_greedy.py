"""What the greedy baselines share: how many picks they need, and the order that follows."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from .._checks import known_values
from .._select import interleave
from .._types import Array
from ._common import known_codes


def most_picks(n_kept: int, codes: Int[Array, " n"] | None) -> int:
    """How many samples the class with the largest share of the kept ones keeps.

    A greedy pick costs one look at every sample of the class, and picks beyond the kept ones would
    cost most of the time at high ratios.
    """
    if codes is None:
        return n_kept
    values = known_codes(codes)
    with known_values():
        kept = interleave(jnp.argsort(codes, stable=True).astype(jnp.int32), codes)[:n_kept]
    return int(np.bincount(values[np.asarray(kept)]).max())


def picks_first(
    place: Int[Array, " w"], rest: Float[Array, " w"], valid: Bool[Array, " w"]
) -> Int[Array, " w"]:
    """The picked samples by their place, then the others by `rest`, the lowest first, and padding.

    `place` is the width of the array for a sample that was not picked.
    """
    last = jnp.where(valid, place, place.shape[0] + 1)
    return jnp.lexsort((rest, last)).astype(jnp.int32)


def within(points: Float[Array, "w d"], valid: Bool[Array, " w"]) -> Float[Array, "w d"]:
    """The points with a valid one in the place of the padding, which then adds no new value."""
    return jnp.where(valid[:, None], points, points[jnp.argmax(valid)][None, :])
