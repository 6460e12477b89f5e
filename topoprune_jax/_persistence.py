"""Differentiable Vietoris-Rips persistence of point clouds, for every transformation of JAX.

A diagram is found in two steps. *Generators*, pairs of points whose edge creates or destroys a
class, are integers without a derivative: components come from a minimum spanning tree grown on the
device, loops and voids from gudhi on the host, loops of few points on request from the device.
*Evaluation* gathers those edges and measures them, so that births and deaths are exact distances
between points and differentiable in them.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ._checks import check_instance, check_points, is_traced
from ._diagram import (
    Diagram,
    Generators,
    check_capacity,
    check_dims,
    check_scale,
    diagram_of,
    is_essential,
)
from ._distance import norm, varying_with
from ._flag import check_reduction, flag_generators
from ._types import Array, ArrayInput

_FEW_FEATURES, _SOME_FEATURES = 4, 8  # added in one go to distances
_GATHERED_ENTRIES = 1 << 12
"""Coordinates gathered at a time when edges are measured: thousands keep a processor busy."""


def vietoris_rips(
    points: ArrayInput,
    *,
    dims: Sequence[int] = (0, 1),
    max_edge_length: Any = math.inf,
    capacity: int | Sequence[int] | None = None,
    metric: str = "euclidean",
    reduction: str = "host",
) -> Diagram:
    r"""Persistent homology of the Vietoris-Rips filtration of a point cloud.

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
    forward mode see `diagram_from_generators`.

    Works under `jit`, `vmap`, `grad`, `scan`, `checkpoint` and `shard_map`. Dimension 0 is computed
    on the device. Higher ones make one host call for a whole `vmap`, however nested, or none with
    `reduction="device"`, so that `jax.export` can store the program. Memory is that of n x n
    distances, whatever d; loops on the device take up to 40 times as much, 0.6 MB for 64 points.

    **Arguments:**

    - `points`: `(n, d)`, n >= 1; float32, or float64 where JAX allows it.
    - `dims`: homology dimensions, out of 0, 1 and 2.
    - `max_edge_length`: longer edges do not enter, and classes alive at this scale are essential.
      A scalar, which may be traced.
    - `capacity`: slots per dimension. By default `n` for dimension 0, which always suffices, and
      `2n` for each higher one. A whole number applies to dimensions >= 1; a sequence holds one for
      each of `dims`.
    - `metric`: `"euclidean"`, or `"cosine"` for $1 - \cos(x_u, x_v)$, half the squared distance of
      the points divided by their lengths, which is how it is computed. For other dissimilarities
      see `rips_from_distances`.
    - `reduction`: where loops are found. `"host"` is gudhi; `"device"` is this package's own
      reduction in JAX, for at most 64 points and dimensions 0 and 1, with the same generators.

    **Returns:** a `Diagram`. If there are more bars than slots the most persistent are kept,
    `count` holds the true number and `result` is `RESULTS.capacity_exceeded`. Under a
    transformation a cloud with NaN or infinity gets a diagram of NaN and `RESULTS.not_finite`, and
    its neighbors in a batch are not affected.

    **Raises:** TypeError or ValueError for points that are no finite 2-D array of numbers (or, for
    cosine, have a row of zeros), and for `dims`, `max_edge_length`, `capacity`, `metric` or
    `reduction` out of range.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> from topoprune_jax import vietoris_rips
        >>> square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> diagram = vietoris_rips(square, dims=(1,))
        >>> int(diagram.count[0]), float(diagram.births[0]), round(float(diagram.deaths[0]), 4)
        (1, 1.0, 1.4142)

        ```
    """
    points, options = _check(points, dims, max_edge_length, capacity, metric, reduction)
    return _vietoris_rips(points, **options)


def rips_generators(
    points: ArrayInput,
    *,
    dims: Sequence[int] = (0, 1),
    max_edge_length: Any = math.inf,
    capacity: int | Sequence[int] | None = None,
    metric: str = "euclidean",
    reduction: str = "host",
) -> Generators:
    """The edges that create and destroy each class of the Vietoris-Rips filtration, as integers.

    The first half of `vietoris_rips`, whose arguments and errors it shares. It has no
    derivative.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> from topoprune_jax import rips_generators
        >>> square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> rips_generators(square, dims=(1,)).edges[0].tolist()
        [2, 3, 0, 2]

        ```
    """
    points, options = _check(points, dims, max_edge_length, capacity, metric, reduction)
    return _generators(points, **options)


def diagram_from_generators(points: ArrayInput, generators: Generators) -> Diagram:
    """Measures known generators at `points`, in plain JAX: differentiable in every mode.

    The second half of `vietoris_rips`:
    `diagram_from_generators(points, rips_generators(points))` is the same diagram, through which
    `jax.jvp`, `jax.jacfwd` and `jax.hessian` go as well. At other points it is the diagram that the
    same pairing of edges gives there, which is exact as long as the order of the edges is the same.

    **Arguments:** `points (n, d)`; `generators` of a cloud of `n` points.

    **Returns:** a `Diagram` with the count and result of `generators`.

    **Raises:** TypeError or ValueError for points that are no finite 2-D array of numbers, and for
    generators of another type or of another number of points.

    !!! example

        ```python
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from topoprune_jax import diagram_from_generators, rips_generators
        >>> pair = jnp.array([[0.0], [3.0]])
        >>> generators = rips_generators(pair, dims=(0,))
        >>> jax.jacfwd(lambda x: diagram_from_generators(x, generators).deaths[1])(pair).tolist()
        [[-1.0], [1.0]]

        ```
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
    cosine = generators.metric == "cosine"
    if cosine:
        _check_no_zero_rows(points)
    values = _evaluate(_unit_rows(points) if cosine else points, generators.edges)
    return diagram_of(generators, *_in_metric(values, generators.metric))


@functools.partial(jax.jit, static_argnames=("dims", "capacities", "metric", "reduction"))
def _vietoris_rips(points, *, dims, max_edge_length, capacities, metric, reduction) -> Diagram:
    points = _unit_rows(points) if metric == "cosine" else points
    generators, births, deaths = _search(
        points, dims, max_edge_length, capacities, metric, reduction
    )
    values = _attach(points, generators.edges, births, deaths)
    return diagram_of(generators, *_in_metric(values, metric))


@functools.partial(jax.jit, static_argnames=("dims", "capacities", "metric", "reduction"))
def _generators(points, *, dims, max_edge_length, capacities, metric, reduction) -> Generators:
    points = _unit_rows(points) if metric == "cosine" else points
    return _search(points, dims, max_edge_length, capacities, metric, reduction)[0]


def _unit_rows(points: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows of length 1, whose Euclidean distance c stands for the cosine distance c^2 / 2."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(points), axis=1, keepdims=True))
    points = points / largest  # NaN for a row of zeros
    # XLA divides by a broadcast value through its reciprocal, and may contract that product with a
    # difference of rows, which then is not 0 between equal ones; behind the barrier it divides.
    return points / jax.lax.optimization_barrier(
        jnp.broadcast_to(norm(points)[:, None], points.shape)
    )


def _in_metric(values: tuple[Array, Array], metric: str) -> tuple[Array, Array]:
    """Births and deaths in the metric, from Euclidean ones."""
    if metric == "euclidean":
        return values
    births, deaths = values
    endless = jnp.isinf(deaths)
    return births * births / 2, jnp.where(endless, jnp.inf, jnp.where(endless, 0, deaths) ** 2 / 2)


def _search(
    points, dims, max_edge_length, capacities, metric, reduction
) -> tuple[Generators, Array, Array]:
    """The generators, and their births and deaths, without derivatives."""
    points = jax.lax.stop_gradient(points)
    scale = power_of_two(points)
    longest = jax.lax.stop_gradient(max_edge_length)
    longest = (jnp.sqrt(2 * longest) if metric == "cosine" else longest) / scale
    matrix = distance_matrix(points, scale)
    generators = flag_generators(
        matrix,
        longest,
        jnp.isfinite(scale),
        dims=dims,
        capacities=capacities,
        metric=metric,
        reduction=reduction,
    )
    edges = generators.edges
    births, deaths = (
        matrix[jnp.maximum(ends[:, 0], 0), jnp.maximum(ends[:, 1], 0)] * scale
        for ends in (edges[:, :2], edges[:, 2:])
    )
    return generators, births, jnp.where(is_essential(edges), jnp.inf, deaths)


def power_of_two(points: Float[Array, "n d"]) -> Float[Array, ""]:
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


def distance_matrix(points: Float[Array, "n d"], scale: Float[Array, ""]) -> Float[Array, "n n"]:
    """Distances in units of `scale`, exactly 0 between duplicates, without n x n x d of memory.

    Features are added one after the other: on CPU this is several times faster than a reduction,
    and its bits do not depend on how large a batch is or how it is divided among devices. A few at
    a time, because XLA fuses all that is left of an unrolled loop into what follows, which LLVM
    then fails to vectorize.
    """
    n, d = points.shape
    few = min(d, _FEW_FEATURES) if d <= _SOME_FEATURES else _SOME_FEATURES
    # The reciprocal of a power of two is exact, so that no bit differs from those of a division.
    per_unit = 1 / scale
    features = jnp.pad(points, ((0, 0), (0, -d % few))).T.reshape(-1, few, n)

    def add(total, some):
        for feature in some:
            difference = (feature[:, None] - feature[None, :]) * per_unit
            total = total + difference * difference
        return total, None

    start = varying_with(jnp.zeros((n, n), points.dtype), points)
    return jnp.sqrt(jax.lax.scan(add, start, features)[0])


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
    scale = jax.lax.stop_gradient(power_of_two(points))
    births = _lengths(points, scale, edges[:, :2])
    deaths = _lengths(points, scale, edges[:, 2:])
    return births, jnp.where(is_essential(edges), jnp.inf, deaths)


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
    scale = jax.lax.stop_gradient(power_of_two(points))
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


def _check(
    points, dims, max_edge_length, capacity, metric, reduction
) -> tuple[Array, dict[str, Any]]:
    """Valid points and the keyword arguments of the jitted functions."""
    points = check_points(points)
    dims = check_dims(dims)
    if not isinstance(metric, str) or metric not in ("euclidean", "cosine"):
        raise ValueError(
            f"`metric` must be 'euclidean' or 'cosine'; got {metric!r}. "
            "For other dissimilarities use `rips_from_distances`."
        )
    if metric == "cosine":
        _check_no_zero_rows(points)
    return points, {
        "dims": dims,
        "max_edge_length": check_scale(max_edge_length, points.dtype),
        "capacities": check_capacity(capacity, dims, points.shape[0]),
        "metric": metric,
        "reduction": check_reduction(reduction, dims, points.shape[0]),
    }


def _check_no_zero_rows(points: Array) -> None:
    if is_traced(points):
        return
    empty = ~np.asarray(points).any(axis=1)
    if empty.any():
        raise ValueError(
            f"`points` must have no row of zeros for the cosine metric; got one, first row "
            f"{int(empty.argmax())}. Remove those rows."
        )
