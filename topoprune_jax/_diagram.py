"""Persistence diagrams of fixed size, and the generators that make them differentiable."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ._callback import call_host
from ._checks import as_array, check_count, is_traced
from ._host._status import FAILED, NOT_FINITE
from ._results import RESULTS
from ._types import Array


class Generators(eqx.Module):
    """Which edges create and destroy each class: the part of a diagram that has no derivative.

    Made by `rips_generators`, measured by `diagram_from_generators`. Shapes are those of
    one point cloud; `jax.vmap` puts batch axes in front.
    """

    edges: Int[Array, "p g"]
    """Rows (birth u, v, death u, v) of point indices; see `Diagram.generators`."""
    count: Int[Array, "q"]
    """The true number of bars of each requested homology dimension."""
    result: RESULTS
    """How the computation ended."""
    homology_dims: tuple[int, ...] = eqx.field(static=True)
    """The requested homology dimensions, in the order of the slots."""
    capacities: tuple[int, ...] = eqx.field(static=True)
    """The number of slots of each requested dimension; their sum is `p`."""
    n_points: int = eqx.field(static=True)
    """The number of points of the cloud."""
    metric: str = eqx.field(static=True, default="euclidean")
    """The metric that measures the edges."""


class Diagram(eqx.Module):
    """A persistence diagram of fixed size, with the edges that made it.

    Slots of each requested homology dimension lie together, in the order of `homology_dims`,
    essential classes first and then the most persistent. An empty slot has births and deaths of 0
    and generators of -1. A cloud whose diagram cannot be computed has births and deaths of NaN, and
    `result` says why. Shapes are those of one point cloud; `jax.vmap` puts batch axes in front, and
    every property understands them.
    """

    births: Float[Array, "p"]
    """Filtration value at which each class appears."""
    deaths: Float[Array, "p"]
    """Filtration value at which it disappears; infinity if it is essential, i.e. never does."""
    generators: Int[Array, "p g"]
    """The simplex that creates each class and, in the second half of the row, the one that destroys
    it, as point indices. For filtrations of edges rows (birth u, v, death u, v), where a component
    is born with a point, so that u = v; an essential class has a death of -1; an empty slot is all
    -1."""
    dims: Int[Array, "p"]
    """Homology dimension of each slot, empty or not."""
    count: Int[Array, "q"]
    """The true number of bars of positive length of each requested dimension, kept or not."""
    result: RESULTS
    """How the computation ended."""
    homology_dims: tuple[int, ...] = eqx.field(static=True)
    """The requested homology dimensions, in the order of the slots."""
    capacities: tuple[int, ...] = eqx.field(static=True)
    """The number of slots of each requested dimension; their sum is `p`."""

    @property
    def valid(self) -> Bool[Array, "*batch p"]:
        """Which slots hold a bar."""
        return self.generators[..., 0] >= 0

    @property
    def is_finite(self) -> Bool[Array, "*batch p"]:
        """Which slots hold a bar with a finite death."""
        return self.generators[..., self.generators.shape[-1] // 2] >= 0

    @property
    def lifetimes(self) -> Float[Array, "*batch p"]:
        """Death minus birth: 0 in empty slots, infinity for essential classes, NaN if poisoned."""
        return jnp.maximum(self.deaths - self.births, 0)

    @property
    def overflow(self) -> Bool[Array, "*batch q"]:
        """Which requested dimensions have more bars than slots, so that the least were dropped."""
        capacities = jnp.asarray(self.capacities, dtype=self.count.dtype)
        return self.count > jnp.broadcast_to(capacities, self.count.shape)


def host_rows(
    function: Callable,
    width: int,
    *arrays: Array,
    dims: tuple[int, ...],
    capacities: tuple[int, ...],
    **options: Hashable,
) -> tuple[Array, Array, Array]:
    """Generators `(p, width)`, true number and status from a function of `_host`."""
    shapes = (sum(capacities), width), (len(dims),), ()
    rows, count, status = call_host(
        function, shapes, *arrays, dims=dims, capacities=capacities, **options
    )
    return rows, count, status


def host_generators(
    function: Callable,
    width: int,
    *arrays: Array,
    dims: tuple[int, ...],
    capacities: tuple[int, ...],
) -> Generators:
    """The generators that a function of `_host` finds all by itself."""
    rows, count, status = host_rows(function, width, *arrays, dims=dims, capacities=capacities)
    overflow = jnp.any(count > jnp.asarray(capacities, dtype=jnp.int32))
    result = outcome(status != NOT_FINITE, overflow, status)
    return Generators(rows, count, result, dims, capacities, arrays[0].shape[0])


def outcome(finite: Array, overflow: Array, status: Array | int = 0) -> RESULTS:
    """Bad input first, then a failure of the host, then too few slots."""
    result = RESULTS.where(overflow, RESULTS.capacity_exceeded, RESULTS.successful)
    result = RESULTS.where(jnp.asarray(status) == FAILED, RESULTS.host_failed, result)
    return RESULTS.where(finite, result, RESULTS.not_finite)


def is_essential(generators: Int[Array, "p g"]) -> Bool[Array, "p"]:
    """Which slots hold a class that never dies."""
    return (generators[:, 0] >= 0) & (generators[:, generators.shape[1] // 2] < 0)


def is_poisoned(result: RESULTS) -> Bool[Array, ""]:
    """Whether there is no diagram."""
    return (result == RESULTS.not_finite) | (result == RESULTS.host_failed)


def diagram_of(generators: Generators, births: Array, deaths: Array) -> Diagram:
    """A diagram of generators and their values; NaN where there is none."""
    poisoned = is_poisoned(generators.result)
    dims, capacities = generators.homology_dims, generators.capacities
    return Diagram(
        births=jnp.where(poisoned, jnp.nan, births),
        deaths=jnp.where(poisoned, jnp.nan, deaths),
        generators=generators.edges,
        dims=jnp.asarray(np.repeat(np.asarray(dims, dtype=np.int32), capacities)),
        count=generators.count,
        result=generators.result,
        homology_dims=dims,
        capacities=capacities,
    )


def check_dims(dims: Any) -> tuple[int, ...]:
    """`dims` as a tuple of different homology dimensions."""
    hint = "Pass a tuple such as (0, 1)."
    if isinstance(dims, str | bytes) or not isinstance(dims, Sequence):
        raise TypeError(
            f"`dims` must be a sequence of homology dimensions; got {type(dims).__name__}. {hint}"
        )
    checked = tuple(check_count(dim, name="dims", low=0, high=2, hint=hint) for dim in dims)
    if not checked or len(set(checked)) < len(checked):
        raise ValueError(f"`dims` must name each dimension once; got {tuple(dims)}. {hint}")
    return checked


def check_scale(value: Any, dtype: Any, *, name: str = "max_edge_length") -> Array | np.ndarray:
    array = as_array(value, name=name)
    if array.shape != ():
        raise ValueError(
            f"`{name}` must be a single number; got shape {array.shape}. "
            "Use `jax.vmap` to run over several."
        )
    if not is_traced(array) and not np.asarray(array) >= 0:
        raise ValueError(
            f"`{name}` must be at least 0; got {float(array)}. "
            "Pass infinity to let everything enter."
        )
    # What is known goes into a compiled function as it is; `jnp.asarray` would be a program more.
    return jnp.asarray(array, dtype=dtype) if is_traced(array) else np.asarray(array, dtype=dtype)


def check_capacity(capacity: Any, dims: tuple[int, ...], n: int) -> tuple[int, ...]:
    hint = "Pass None for the default."
    if capacity is None or isinstance(capacity, int | np.integer):
        higher = 2 * n
        if capacity is not None:
            higher = check_count(capacity, name="capacity", low=1, hint=hint)
        return tuple(n if dim == 0 else higher for dim in dims)
    if isinstance(capacity, str | bytes) or not isinstance(capacity, Sequence):
        raise TypeError(
            f"`capacity` must be a whole number or one for each of `dims`; got {capacity!r}. {hint}"
        )
    if len(capacity) != len(dims):
        raise ValueError(
            f"`capacity` must have one entry for each of `dims`; got {len(capacity)} entries for "
            f"dims={dims}. {hint}"
        )
    return tuple(check_count(slots, name="capacity", low=1, hint=hint) for slots in capacity)
