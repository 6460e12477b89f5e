"""Topological optimization: moving points so that their persistence changes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ._checks import (
    check_count,
    check_instance,
    check_key,
    check_nonnegative,
    check_points,
    is_traced,
)
from ._distance import norm
from ._types import Array, ArrayInput, Key

if TYPE_CHECKING:
    import optax  # who calls has loaded it


class TopologicalOptimization(eqx.Module):
    """What came of moving points down a topological loss.

    **Attributes:**

    - `points`: (n, d), where the points went.
    - `displacement`: (n,) how far each is from where it was.
    - `path_length`: (n,) how far each traveled, at least as far.
    - `losses`: (steps,) the loss before each step.
    """

    points: Float[Array, "n d"]
    displacement: Float[Array, " n"]
    path_length: Float[Array, " n"]
    losses: Float[Array, " steps"]


def optimize_topology(
    points: ArrayInput,
    loss: Callable[[Array], Array],
    *,
    steps: int,
    optimizer: "optax.GradientTransformation",
    subset_size: int | None = None,
    n_subsets: int = 1,
    step_scale: ArrayInput | None = None,
    key: Key | None = None,
) -> TopologicalOptimization:
    r"""Moves points down a loss of their persistence, all steps in one compiled scan.

    $$x^{t+1} = x^t + s \odot u^t, \qquad
    u^t = \texttt{optimizer}\Bigl(\nabla_x \frac{1}{B} \sum_{b=1}^{B} \ell(x_{S_b})\Bigr).$$

    A diagram moves only the ends of its generators, so its gradient is sparse and a loop of many
    points changes slowly. Two remedies are built in. With `subset_size` each step takes
    `n_subsets` random subsets $S_b$ anew, whose generators differ: the gradient reaches all points,
    and a step costs a fraction (Solomon, Wagner and Bendich, *DIPOLE*, arXiv 2106.07613). And
    because the displacement per step is bounded by the optimizer's, an adaptive one such as
    `optax.adam` makes the steps of all points of a size.

    With `step_scale` s the steps of each point are multiplied by a number of its own. Density
    awareness is `step_scale=w / w.mean()` with `w = distance_to_measure(points, n_neighbors=k)`:
    where points are dense they keep to their place, where they are sparse they have room.

    Works under `jit`, `vmap` and `grad`, with any loss that does.

    **Arguments:**

    - `points`: `(n, d)`.
    - `loss`: from points `(m, d)` to a scalar, in JAX, such as
      `lambda x: -total_persistence(vietoris_rips(x, dims=(1,)))`. One that is made anew for each
      call is compiled anew for each call.
    - `steps`: number of steps.
    - `optimizer`: any of optax.
    - `subset_size`: m points a subset, out of 1 to n; by default the loss sees all points.
    - `n_subsets`: B, subsets a step.
    - `step_scale`: `(n,)`, not negative; by default 1.
    - `key`: typed PRNG key, required for subsets.

    **Returns:** a `TopologicalOptimization`.

    **Raises:** TypeError or ValueError for bad points, counts, `step_scale` or `key`, a loss that
    is no scalar, and when the loss or a point is no finite number after some step.

    !!! example

        ```python
        >>> import optax
        >>> from topoprune_jax import optimize_topology, total_persistence, vietoris_rips
        >>> def spread(x):
        ...     return total_persistence(vietoris_rips(x, dims=(0,)))
        >>> moved = optimize_topology(
        ...     [[0.0], [1.0]], spread, steps=2, optimizer=optax.sgd(0.125)
        ... )
        >>> moved.points.tolist(), moved.losses.tolist()
        ([[0.25], [0.75]], [1.0, 0.75])

        ```
    """
    import optax

    points = check_points(points)
    n = points.shape[0]
    steps = check_count(steps, name="steps", low=1)
    n_subsets = check_count(n_subsets, name="n_subsets", low=1)
    check_instance(
        optimizer,
        optax.GradientTransformation,
        name="optimizer",
        hint="Pass one of optax, such as `optax.sgd(0.1)`.",
    )
    if not callable(loss):
        raise TypeError(
            f"`loss` must be a function from points to a scalar; got {type(loss).__name__}. "
            "Pass one such as `lambda x: total_persistence(vietoris_rips(x))`."
        )
    if subset_size is not None:
        subset_size = check_count(subset_size, name="subset_size", low=1, high=n)
        if key is None:
            raise ValueError(
                "`key` is required to draw subsets; got None. Pass `key=jax.random.key(0)`."
            )
        check_key(key)
    seen = jax.ShapeDtypeStruct((subset_size or n, points.shape[1]), points.dtype)
    value = eqx.filter_eval_shape(loss, seen)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", np.dtype(object))
    if shape != () or not jnp.issubdtype(dtype, jnp.floating):
        got = type(value).__name__ if shape is None else f"shape {shape} and dtype {dtype}"
        raise ValueError(
            f"`loss` must return one real number, as a JAX array; got {got}. "
            "Sum or average it, and do not turn it into a Python number."
        )
    scale = None
    if step_scale is not None:
        hint = "A point with a scale of 0 stays."
        scale = check_nonnegative(step_scale, n, name="step_scale", hint=hint)
        scale = jnp.asarray(scale, dtype=points.dtype)
    moved = _run(points, loss, optimizer, scale, key, steps, subset_size, n_subsets)
    if not is_traced(moved.losses):
        bad = ~jnp.isfinite(moved.losses)
        if bool(bad.any()) or not bool(jnp.isfinite(moved.points).all()):
            at = int(jnp.argmax(bad)) if bool(bad.any()) else steps
            raise ValueError(
                f"`loss` or the points must stay finite; they did not after {at} of {steps} steps. "
                "Pass an optimizer with smaller steps, or look for a division by 0 in the loss."
            )
    return moved


@eqx.filter_jit
def _run(
    points: Float[Array, "n d"],
    loss: Callable[[Array], Array],
    optimizer: Any,
    step_scale: Float[Array, " n"] | None,
    key: Key | None,
    steps: int,
    subset_size: int | None,
    n_subsets: int,
) -> TopologicalOptimization:
    n = points.shape[0]

    def objective(x: Array, t: Array) -> Array:
        if subset_size is None or key is None:
            return loss(x)
        keys = jax.random.split(jax.random.fold_in(key, t), n_subsets)
        subsets = jax.vmap(lambda k: jax.random.permutation(k, n)[:subset_size])(keys)
        return jnp.mean(jax.vmap(lambda subset: loss(x[subset]))(subsets))

    def step(state: tuple[Array, Array, Any], t: Array) -> tuple[tuple[Array, Array, Any], Array]:
        x, path, memory = state
        value, slope = jax.value_and_grad(objective)(x, t)
        update, memory = optimizer.update(slope, memory, x)
        if step_scale is not None:
            update = update * step_scale[:, None]
        moved = x + update
        return (moved, path + norm(moved - x), memory), value

    start = (points, jnp.zeros_like(points[:, 0]), optimizer.init(points))
    (x, path, _), losses = jax.lax.scan(step, start, jnp.arange(steps))
    return TopologicalOptimization(x, norm(x - points), path, losses)
