"""Differentiable Vietoris-Rips persistence of point clouds, for every transformation of JAX.

A diagram is found in two steps. *Generators*, pairs of points whose edge creates or destroys a
class, are integers without a derivative: components come from a minimum spanning tree grown on the
device, loops and voids from gudhi on the host. *Evaluation* gathers those edges and measures them,
so that births and deaths are exact distances between points and differentiable in them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ._checks import as_array, check_count, check_instance, check_points, is_traced
from ._distance import condensed_pairs, norm
from ._host._rips import FAILED, rips_pairs
from ._results import RESULTS
from ._types import Array, ArrayInput

_GATHERED_ENTRIES = 1 << 12
"""Coordinates gathered at a time when edges are measured: thousands keep a processor busy."""


class Generators(eqx.Module):
    """Which edges create and destroy each class: the part of a diagram that has no derivative.

    Made by [`rips_generators`][], measured by [`diagram_from_generators`][]. Shapes are those of
    one point cloud; `jax.vmap` puts batch axes in front.
    """

    edges: Int[Array, "p 4"]
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
    generators: Int[Array, "p 4"]
    """Rows (birth u, v, death u, v) of point indices. A component is born with a point, so u = v
    and its birth is 0; an essential class has a death of -1, -1; an empty slot is all -1."""
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
        return self.generators[..., 2] >= 0

    @property
    def lifetimes(self) -> Float[Array, "*batch p"]:
        """Death minus birth: 0 in empty slots, infinity for essential classes, NaN if poisoned."""
        return jnp.maximum(self.deaths - self.births, 0)

    @property
    def overflow(self) -> Bool[Array, "*batch q"]:
        """Which requested dimensions have more bars than slots, so that the least were dropped."""
        capacities = jnp.asarray(self.capacities, dtype=self.count.dtype)
        return self.count > jnp.broadcast_to(capacities, self.count.shape)


def vietoris_rips(
    points: ArrayInput,
    *,
    dims: Sequence[int] = (0, 1),
    max_edge_length: Any = math.inf,
    capacity: int | Sequence[int] | None = None,
) -> Diagram:
    r"""Persistent homology of the Vietoris-Rips filtration of a euclidean point cloud.

    At scale $t$ the complex holds every set of points whose pairwise distances are at most $t$;
    homology over the field $\mathbb{Z}/2$. A class of dimension $\geq 1$ is born with the edge
    $(u, v)$ and dies with the edge $(u', v')$ that its generators name:
    $$b = \lVert x_u - x_v \rVert, \qquad d = \lVert x_{u'} - x_{v'} \rVert.$$
    Components (dimension 0) are born at 0 and die with the edges of a minimum spanning tree. Bars
    of zero length are left out. Edelsbrunner and Harer, *Computational Topology* (2010), chapters
    III and VII; Bauer, *Ripser* (2021).

    Differentiable in `points` in reverse mode, any number of times: every cotangent goes to the end
    points of the generators only, and zero-length edges and infinite deaths contribute 0. Where
    distances tie, ties are broken by index, which yields one element of the subdifferential. For
    forward mode see [`diagram_from_generators`][].

    Works under `jit`, `vmap`, `grad`, `scan`, `checkpoint` and `shard_map`. Dimension 0 is computed
    on the device. Higher ones make one host call for a whole `vmap`, however nested. Memory is that
    of n x n distances, whatever d.

    **Arguments:**

    - `points`: `(n, d)`, n >= 1; float32, or float64 where JAX allows it.
    - `dims`: homology dimensions, out of 0, 1 and 2.
    - `max_edge_length`: longer edges do not enter, and classes alive at this scale are essential.
      A scalar, which may be traced.
    - `capacity`: slots per dimension. By default `n` for dimension 0, which always suffices, and
      `2n` for each higher one. A whole number applies to dimensions >= 1; a sequence holds one for
      each of `dims`.

    **Returns:** a [`Diagram`][]. If there are more bars than slots the most persistent are kept,
    `count` holds the true number and `result` is `RESULTS.capacity_exceeded`. Under a
    transformation a cloud with NaN or infinity gets a diagram of NaN and `RESULTS.not_finite`, and
    its neighbors in a batch are not affected.

    **Raises:** TypeError or ValueError for points that are no finite 2-D array of numbers, and for
    `dims`, `max_edge_length` or `capacity` out of range.

    !!! example

        >>> import jax.numpy as jnp
        >>> from topoprune_jax import vietoris_rips
        >>> square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> diagram = vietoris_rips(square, dims=(1,))
        >>> int(diagram.count[0]), float(diagram.births[0]), round(float(diagram.deaths[0]), 4)
        (1, 1.0, 1.4142)
    """
    points, options = _check(points, dims, max_edge_length, capacity)
    return _vietoris_rips(points, **options)


def rips_generators(
    points: ArrayInput,
    *,
    dims: Sequence[int] = (0, 1),
    max_edge_length: Any = math.inf,
    capacity: int | Sequence[int] | None = None,
) -> Generators:
    """The edges that create and destroy each class of the Vietoris-Rips filtration, as integers.

    The first half of [`vietoris_rips`][], whose arguments and errors it shares. It has no
    derivative.

    !!! example

        >>> import jax.numpy as jnp
        >>> from topoprune_jax import rips_generators
        >>> square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> rips_generators(square, dims=(1,)).edges[0].tolist()
        [2, 3, 0, 2]
    """
    points, options = _check(points, dims, max_edge_length, capacity)
    return _generators(points, **options)


def diagram_from_generators(points: ArrayInput, generators: Generators) -> Diagram:
    """Measures known generators at `points`, in plain JAX: differentiable in every mode.

    The second half of [`vietoris_rips`][]:
    `diagram_from_generators(points, rips_generators(points))` is the same diagram, through which
    `jax.jvp`, `jax.jacfwd` and `jax.hessian` go as well. At other points it is the diagram that the
    same pairing of edges gives there, which is exact as long as the order of the edges is the same.

    **Arguments:** `points (n, d)`; `generators` of a cloud of `n` points.

    **Returns:** a [`Diagram`][] with the count and result of `generators`.

    **Raises:** TypeError or ValueError for points that are no finite 2-D array of numbers, and for
    generators of another type or of another number of points.

    !!! example

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from topoprune_jax import diagram_from_generators, rips_generators
        >>> pair = jnp.array([[0.0], [3.0]])
        >>> generators = rips_generators(pair, dims=(0,))
        >>> jax.jacfwd(lambda x: diagram_from_generators(x, generators).deaths[1])(pair).tolist()
        [[-1.0], [1.0]]
    """
    points = check_points(points)
    check_instance(
        generators, Generators, name="generators", hint="Make them with `rips_generators(points)`."
    )
    n = points.shape[0]
    if generators.n_points != n:
        raise ValueError(
            f"`generators` must be those of a cloud of {n} points, as many as `points` has; got "
            f"those of {generators.n_points}. Make them with `rips_generators(points)`."
        )
    return _diagram(generators, *_evaluate(points, generators.edges))


@functools.partial(jax.jit, static_argnames=("dims", "capacities"))
def _vietoris_rips(points, *, dims, max_edge_length, capacities) -> Diagram:
    generators, births, deaths = _search(points, dims, max_edge_length, capacities)
    return _diagram(generators, *_attach(points, generators.edges, births, deaths))


@functools.partial(jax.jit, static_argnames=("dims", "capacities"))
def _generators(points, *, dims, max_edge_length, capacities) -> Generators:
    return _search(points, dims, max_edge_length, capacities)[0]


def _search(points, dims, max_edge_length, capacities) -> tuple[Generators, Array, Array]:
    """The generators, and their births and deaths, without derivatives."""
    points = jax.lax.stop_gradient(points)
    n = points.shape[0]
    scale = _power_of_two(points)
    longest = jax.lax.stop_gradient(max_edge_length) / scale
    matrix = _distance_matrix(points, scale)
    status = jnp.zeros((), dtype=jnp.int32)
    parts: dict[int, tuple[Array, Array]] = {}
    if 0 in dims:
        parts[0] = _components(matrix, longest, capacities[dims.index(0)])
    higher = tuple(dim for dim in dims if dim > 0)
    if higher:
        slots = tuple(c for dim, c in zip(dims, capacities, strict=True) if dim > 0)
        edges, counts, status = _host_pairs(matrix[condensed_pairs(n)], longest, n, higher, slots)
        for index, dim in enumerate(higher):
            end = sum(slots[: index + 1])
            parts[dim] = edges[end - slots[index] : end], counts[index]

    edges = jnp.concatenate([parts[dim][0] for dim in dims])
    count = jnp.stack([parts[dim][1] for dim in dims])
    finite = jnp.isfinite(scale) & ~jnp.isnan(longest)
    result = _outcome(finite, status, jnp.any(count > jnp.asarray(capacities, dtype=jnp.int32)))
    usable = ~_is_poisoned(result)
    edges, count = jnp.where(usable, edges, -1), jnp.where(usable, count, 0)
    births, deaths = (
        matrix[jnp.maximum(ends[:, 0], 0), jnp.maximum(ends[:, 1], 0)] * scale
        for ends in (edges[:, :2], edges[:, 2:])
    )
    deaths = jnp.where(_is_essential(edges), jnp.inf, deaths)
    return Generators(edges, count, result, dims, capacities, n), births, deaths


def _outcome(finite, status, overflow) -> RESULTS:
    result = RESULTS.where(overflow, RESULTS.capacity_exceeded, RESULTS.successful)
    result = RESULTS.where(status == FAILED, RESULTS.host_failed, result)
    return RESULTS.where(finite, result, RESULTS.not_finite)


def _power_of_two(points: Float[Array, "n d"]) -> Float[Array, ""]:
    """A unit of length in which no square overflows; NaN where there is NaN or infinity.

    Being a power of two it changes no bit of a difference that is divided by it, while subtracting
    a center would. In this unit the spread of the points is about 2^50 (2^498 in float64): squares
    of the longest edges and of edges 2^100 times shorter are both within range.
    """
    spread = jnp.max(points.max(axis=0) - points.min(axis=0))
    limits = jnp.finfo(points.dtype)
    exponent = jnp.frexp(spread)[1] - (limits.maxexp // 2 - 14)
    exponent = jnp.clip(exponent, limits.minexp + 1, limits.maxexp - 1)
    scale = jnp.ldexp(jnp.ones_like(spread), exponent)
    return jnp.where(jnp.isfinite(spread), scale, jnp.nan)


def _distance_matrix(points: Float[Array, "n d"], scale: Float[Array, ""]) -> Float[Array, "n n"]:
    """Distances in units of `scale`, exactly 0 between duplicates, without n x n x d of memory.

    Features are added one after the other: on CPU this is several times faster than a reduction,
    and its bits do not depend on how large a batch is or how it is divided among devices.
    """

    def squares(feature: Float[Array, "n"]) -> Float[Array, "n n"]:
        difference = (feature[:, None] - feature[None, :]) / scale
        return difference * difference

    def add(total, feature):
        return total + squares(feature), None

    first, rest = points[:, 0], points[:, 1:].T
    return jnp.sqrt(jax.lax.scan(add, squares(first), rest, unroll=8)[0])


def _pairs_from_bits(lengths: Any, longest: Any, *, dtype: Any, **options: Any):
    lengths, longest = (
        np.ascontiguousarray(bits).view(dtype)[..., 0] for bits in (lengths, longest)
    )
    return rips_pairs(lengths, longest, **options)


@functools.cache
def _host_function(**options: Any) -> Callable:
    # JAX compiles anew for a callable that it has not seen, so each is made only once.
    return functools.partial(_pairs_from_bits, **options)


def _host_pairs(lengths, longest, n, dims, capacities) -> tuple[Array, Array, Array]:
    """Generators of dimensions >= 1, their true number, and the host's status.

    Floats travel as their bits: a callback runs in a thread where `jax.enable_x64` may not hold,
    and JAX would round float64 to float32 there.
    """
    shapes = (
        jax.ShapeDtypeStruct((sum(capacities), 4), jnp.int32),
        jax.ShapeDtypeStruct((len(dims),), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    function = _host_function(dtype=np.dtype(lengths.dtype), n=n, dims=dims, capacities=capacities)
    words = lengths.dtype.itemsize // 4
    bits = (
        jax.lax.bitcast_convert_type(values, jnp.uint32).reshape(*values.shape, words)
        for values in (lengths, longest)
    )
    return jax.pure_callback(function, shapes, *bits, vmap_method="broadcast_all")


def _components(
    distances: Float[Array, "n n"], longest: Float[Array, ""], capacity: int
) -> tuple[Int[Array, "c 4"], Int[Array, ""]]:
    """Generators of dimension 0 from Prim's minimum spanning tree (Prim 1957), and their number.

    The tree grows from point 0, and ties go to the lower index. An edge of the tree destroys the
    component of its newer end: of two components that an edge joins, the elder is the one that the
    tree reached first. An edge longer than `longest` never enters, and that component is essential.
    """
    n = distances.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)

    def grow(tree, _):
        newest, reached, nearest, gap = tree
        reached = reached | (index == newest)
        row = distances[newest]
        nearest = jnp.where(row < gap, newest, nearest)
        gap = jnp.minimum(row, gap)
        # A minimum and where it is: several times faster than a batched argmin or gather on CPU.
        length = jnp.min(jnp.where(reached, jnp.inf, gap))
        newest = jnp.min(jnp.where(~reached & (gap == length), index, n - 1))
        parent = jnp.sum(jnp.where(index == newest, nearest, 0), dtype=jnp.int32)
        return (newest, reached, nearest, gap), (newest, parent, length)

    # Made from the data, since under `shard_map` a carry must vary with the shards from the start.
    never = jnp.isnan(longest) & False
    start, nothing = never.astype(jnp.int32), jnp.broadcast_to(never, (n,))
    tree = (start, nothing, nothing.astype(jnp.int32), jnp.where(nothing, longest, jnp.inf))
    _, (child, parent, length) = jax.lax.scan(grow, tree, length=n - 1)
    child, parent = (jnp.concatenate([start[None], ends]) for ends in (child, parent))
    length = jnp.concatenate([jnp.full(1, jnp.inf, length.dtype), length])
    essential = (length > longest) | (index == 0)
    lifetime = jnp.where(essential, jnp.inf, length)
    death = jnp.stack([jnp.minimum(child, parent), jnp.maximum(child, parent)], axis=-1)
    death = jnp.where(essential[:, None], -1, death)
    edges = jnp.concatenate([child[:, None], child[:, None], death], axis=-1)
    count = jnp.sum(lifetime > 0, dtype=jnp.int32)
    order = jnp.argsort(-lifetime, stable=True)
    edges = jnp.where((index < count)[:, None], edges[order], -1)[:capacity]
    return jnp.pad(edges, ((0, capacity - edges.shape[0]), (0, 0)), constant_values=-1), count


def _chunks(values: Array, d: int, fill: float) -> Array:
    """`values` in chunks of slots, so that points gathered for one chunk stay few."""
    size = min(values.shape[0], max(1, _GATHERED_ENTRIES // d))
    padding = [(0, -values.shape[0] % size)] + [(0, 0)] * (values.ndim - 1)
    padded = jnp.pad(values, padding, constant_values=fill)
    return padded.reshape(-1, size, *values.shape[1:])


def _differences(points, scale, ends) -> tuple[Array, Array, Array]:
    """Tails, heads and scaled difference of each edge; those of point 0 and itself where -1."""
    tails, heads = jnp.maximum(ends[:, 0], 0), jnp.maximum(ends[:, 1], 0)
    return tails, heads, (points[tails] - points[heads]) / scale


def _lengths(points, scale, ends) -> Float[Array, "p"]:
    """Exact length of the edge between each pair of indices; 0 where they are -1."""

    def measure(chunk):
        return norm(_differences(points, scale, chunk)[-1]) * scale

    lengths = jax.lax.map(measure, _chunks(ends, points.shape[1], -1))
    return lengths.reshape(-1)[: ends.shape[0]]


def _evaluate(
    points: Float[Array, "n d"], edges: Int[Array, "p 4"]
) -> tuple[Float[Array, "p"], Float[Array, "p"]]:
    """Births and deaths of generators, in plain JAX."""
    scale = jax.lax.stop_gradient(_power_of_two(points))
    births = _lengths(points, scale, edges[:, :2])
    deaths = _lengths(points, scale, edges[:, 2:])
    return births, jnp.where(_is_essential(edges), jnp.inf, deaths)


@jax.custom_jvp
def _known(points, edges, births, deaths) -> tuple[Array, Array]:
    """`births` and `deaths` as they are, with the derivative in `points` that `_evaluate` has."""
    return births, deaths


@_known.defjvp
def _known_tangent(primals, tangents):
    points, edges, births, deaths = primals
    _, tangent = jax.jvp(lambda x: _evaluate(x, edges), (points,), (tangents[0],))
    return (births, deaths), tangent


@jax.custom_vjp
def _attach(points, edges, births, deaths) -> tuple[Array, Array]:
    """The same, keeping nothing for the backward pass but the points and the generators."""
    return births, deaths


def _attach_forward(points, edges, births, deaths):
    # Differentiable itself, for derivatives of derivatives that use these values.
    return _known(points, edges, births, deaths), (points, edges, births, deaths)


def _attach_backward(kept, cotangents):
    points, edges, births, deaths = kept
    scale = jax.lax.stop_gradient(_power_of_two(points))
    ends = jnp.concatenate([edges[:, :2], edges[:, 2:]])

    def pull(pulls, chunk):
        ends, known, cotangent = chunk
        tails, heads, difference = _differences(points, scale, ends)
        # The value that is known, so that not a bit depends on how a sum is compiled, with the
        # derivative of the norm, for derivatives of this derivative.
        length = norm(difference)
        length = known / scale + (length - jax.lax.stop_gradient(length))
        # What does not exist has no length; its cotangent may be infinite and its ends NaN.
        moves = length > 0
        unit = jnp.where(moves[:, None], difference, 0) / jnp.where(moves, length, 1)[:, None]
        force = jnp.where(moves, cotangent, 0)[:, None] * unit
        return pulls.at[tails].add(force).at[heads].add(-force), None

    d = points.shape[1]
    known = jnp.concatenate([births, jnp.where(jnp.isinf(deaths), 0, deaths)])
    columns = (ends, -1), (known, 0), (jnp.concatenate(cotangents), 0)
    chunks = tuple(_chunks(column, d, fill) for column, fill in columns)
    pulls, _ = jax.lax.scan(pull, jnp.zeros_like(points), chunks)
    return pulls, None, *(jnp.zeros_like(cotangent) for cotangent in cotangents)


_attach.defvjp(_attach_forward, _attach_backward)


def _is_essential(edges: Int[Array, "p 4"]) -> Bool[Array, "p"]:
    return (edges[:, 0] >= 0) & (edges[:, 2] < 0)


def _is_poisoned(result: RESULTS) -> Bool[Array, ""]:
    return (result == RESULTS.not_finite) | (result == RESULTS.host_failed)


def _diagram(generators: Generators, births: Array, deaths: Array) -> Diagram:
    poisoned = _is_poisoned(generators.result)
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


def _check(points, dims, max_edge_length, capacity) -> tuple[Array, dict[str, Any]]:
    """Valid points and the keyword arguments of the jitted functions."""
    points = check_points(points)
    dims = check_dims(dims)
    return points, {
        "dims": dims,
        "max_edge_length": _check_max_edge_length(max_edge_length, points.dtype),
        "capacities": _check_capacity(capacity, dims, points.shape[0]),
    }


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


def _check_max_edge_length(value: Any, dtype: Any) -> Array:
    array = as_array(value, name="max_edge_length")
    if array.shape != ():
        raise ValueError(
            f"`max_edge_length` must be a single number; got shape {array.shape}. "
            "Use `jax.vmap` to run over several."
        )
    if not is_traced(array) and not array >= 0:
        raise ValueError(
            f"`max_edge_length` must be at least 0; got {float(array)}. "
            "Pass infinity to let every edge enter."
        )
    return jnp.asarray(array, dtype=dtype)


def _check_capacity(capacity: Any, dims: tuple[int, ...], n: int) -> tuple[int, ...]:
    hint = "Pass None for the default."
    if capacity is None or isinstance(capacity, int | np.integer):
        higher = 2 * n if capacity is None else capacity
        return tuple(
            n if dim == 0 else check_count(higher, name="capacity", low=1, hint=hint)
            for dim in dims
        )
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
