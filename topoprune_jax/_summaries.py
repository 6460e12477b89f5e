"""What a persistence diagram says in a few numbers."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ._checks import check_instance
from ._persistence import Diagram
from ._types import Array


def total_persistence(
    diagram: Diagram, *, power: float = 1.0, dims: Sequence[int] | None = None
) -> Float[Array, "*batch"]:
    r"""The sum of all finite lifetimes, each to a power.

    $$L_p = \sum_{i \,:\, d_i < \infty} (d_i - b_i)^p$$

    Cohen-Steiner, Edelsbrunner, Harer and Mileyko, *Lipschitz functions have $L_p$-stable
    persistence* (2010), section 2. Essential classes and empty slots contribute 0, and so does a
    bar of zero length, in value and in derivative, whatever the power. Differentiable in the births
    and deaths.

    **Arguments:**

    - `diagram`: a [`Diagram`][], of one point cloud or of a batch.
    - `power`: p > 0.
    - `dims`: the homology dimensions to sum over, by default all of the diagram.

    **Returns:** a scalar for each point cloud; NaN if its diagram is NaN.

    **Raises:** TypeError or ValueError for a `diagram` of another type or a `power` that is not a
    positive number, and ValueError for `dims` that the diagram does not have.

    !!! example

        >>> import jax.numpy as jnp
        >>> from topoprune_jax import total_persistence, vietoris_rips
        >>> line = jnp.array([[0.0], [1.0], [3.0]])
        >>> float(total_persistence(vietoris_rips(line, dims=(0,)), power=2.0))
        5.0
    """
    check_instance(diagram, Diagram, name="diagram", hint="Make one with `vietoris_rips(points)`.")
    power = check_power(power)
    lifetimes = diagram.lifetimes
    chosen = jnp.asarray(_slots(diagram, dims))
    # NaN must reach the sum, so what is left out is named, and not what is kept.
    left_out = (lifetimes == 0) | jnp.isinf(lifetimes) | ~jnp.broadcast_to(chosen, lifetimes.shape)
    powers = jnp.where(left_out, 1, lifetimes) ** power
    return jnp.sum(jnp.where(left_out, 0, powers), axis=-1)


def check_power(power: Any) -> float:
    """`power` as a positive float."""
    if isinstance(power, bool) or not isinstance(power, int | float | np.integer | np.floating):
        raise TypeError(f"`power` must be a number; got {power!r}. Pass a number such as 1.0.")
    if not (power > 0 and math.isfinite(power)):
        raise ValueError(f"`power` must be positive and finite; got {power}. Pass one such as 1.0.")
    return float(power)


def _slots(diagram: Diagram, dims: Sequence[int] | None) -> np.ndarray:
    """Which slots belong to one of `dims`: known before any value is."""
    wanted = diagram.homology_dims if dims is None else tuple(dims)
    missing = [dim for dim in wanted if dim not in diagram.homology_dims]
    if missing:
        raise ValueError(
            f"`dims` must be homology dimensions of the diagram, which has "
            f"{diagram.homology_dims}; got {missing[0]}. Compute the diagram with that dimension."
        )
    return np.repeat([dim in wanted for dim in diagram.homology_dims], diagram.capacities)
