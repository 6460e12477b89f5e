"""The low-dimensional embedding of a fuzzy simplicial set: UMAP's model, a full-batch optimizer."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float, Int

from . import _checks as checks
from ._distance import rescale, varying_with
from ._fuzzy import FuzzySimplicialSet, check_fuzzy_set, most_reverse_edges
from ._lanes import Lanes
from ._mesh import AXIS, SPLIT, WHOLE, check_mesh, here, in_shares, on_all, on_shares
from ._spectral import spectral_start
from ._steps import Steps
from ._sums import sums_by_row
from ._types import Array, ArrayInput, Key, Progress

NEGATIVES = 5.0  # umap-learn's negative samples for each edge sample
CLIP = 4.0  # umap-learn's bound on a single force
_LEARNING_RATE = 0.3
_MOMENTUM = 0.9
# On CPU, loops over arrays that fit the first cache are several times faster than over long ones.
_REVERSE_BLOCK = 1 << 10
_TILE = 1 << 11
_LISTING_PADDING = 1 << 15
_ACCELERATOR_BLOCK = 1 << 22  # of reverse edges: there every block is a few launches
_EPOCHS, _MORE_EPOCHS, _FEW_POINTS = 120, 200, 10_000
_EPOCHS_PER_CALL = 10
_START_EXTENT = 10.0  # umap-learn's
_SHIFTS_AT_ONCE = 32  # whose forces are summed without rounding
_TILES_A_LANE = 2  # at least: less work is not worth three programs an epoch
_GROUPS_IN_LANES = 16  # of shifts at most: each has forces of its own


def _option(name: str, default: Any) -> Any:
    """A static field, whose number may come in an array."""
    return eqx.field(static=True, default=default, converter=partial(checks.static, name=name))


class EmbeddingOptions(eqx.Module):
    r"""What `embed` may be told.

    **Attributes:**

    - `n_components`: c, the dimension of the embedding, 1 to 64.
    - `min_dist`: distance up to which points count as together, in units of the embedding.
    - `spread`: scale on which membership decays in the embedding; at least `min_dist`.
    - `n_epochs`: optimizer steps; unless given 120, and 200 in up to 3 dimensions for up to 10,000
      points, where they are cheap and points have little room to pass each other (umap-learn has
      200 and 500). Fewer than 50 leave clusters torn.
    - `repulsion`: strength of the repulsive force, 1 in UMAP's model.
    - `n_negatives`: points that push each point in an epoch, as estimate of what all others do.
      Their choice is what makes two keys differ: more of them cost time and make the embedding
      steadier.
    - `start`: `"spectral"` (low eigenvectors of the graph's Laplacian, from a filtered subspace
      iteration: the same for every key) or `"random"`. An array of coordinates, such as
      `principal_components(points, c, key=key)`, goes to `embed` itself.
    """

    n_components: int = _option("n_components", 2)
    min_dist: float = _option("min_dist", 0.1)
    spread: float = _option("spread", 1.0)
    n_epochs: int | None = _option("n_epochs", None)
    repulsion: float = _option("repulsion", 1.0)
    n_negatives: int = _option("n_negatives", 64)
    start: str = eqx.field(static=True, default="spectral")

    def __check_init__(self):
        checks.check_count(self.n_components, name="n_components", low=1, high=64)
        checks.check_number(self.spread, name="spread", low=1e-3)
        checks.check_number(
            self.min_dist, name="min_dist", low=0, high=self.spread, hint="It is at most `spread`."
        )
        if self.n_epochs is not None:
            checks.check_count(self.n_epochs, name="n_epochs", low=0)
        checks.check_number(self.repulsion, name="repulsion", low=0)
        checks.check_count(self.n_negatives, name="n_negatives", low=2)
        if self.start not in ("spectral", "random"):
            raise ValueError(f"`start` must be 'spectral' or 'random'; got {self.start!r}.")


def n_epochs_of(options: EmbeddingOptions, n: int) -> int:
    """Optimizer steps for n points."""
    if options.n_epochs is not None:
        return int(options.n_epochs)
    return _MORE_EPOCHS if n <= _FEW_POINTS and options.n_components <= 3 else _EPOCHS


def embed(
    fuzzy_set: FuzzySimplicialSet,
    options: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 (frozen)
    *,
    start: ArrayInput | None = None,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    key: Key,
) -> Float[Array, "n c"]:
    r"""Low-dimensional coordinates whose fuzzy simplicial set is close to the given one.

    Minimizes UMAP's cross entropy between the memberships mu_ij and
    nu_ij = 1 / (1 + a |z_i - z_j|^(2b)), a and b fitted to `min_dist` and `spread`:

        C = sum_(i,j) mu_ij log(mu_ij / nu_ij) + (1 - mu_ij) log((1 - mu_ij) / (1 - nu_ij)),

    in the form in which umap-learn minimizes it: along all edges with their memberships, against
    repulsion from 5 sampled points per unit of membership. Every epoch moves all points at once,

        z_i <- z_i + v_i,   v_i <- m_t v_i + alpha_t (2 A_i + R_i) / (1 + alpha_t K_i),

    with A_i the attraction along the edges of i, K_i its stiffness, R_i the repulsion estimated
    from shared random shifts of a random order of the points, m_t falling linearly and alpha_t
    quadratically to 0. Nothing is drawn per edge, so the result depends less on the key than with
    stochastic descent, and the same key gives the same bits on the same machine.

    Source: McInnes, Healy, Melville, "UMAP" (arXiv 1802.03426), section 3.2 and appendix C.

    **Arguments:**

    - `fuzzy_set`: n points.
    - `options`: see `EmbeddingOptions`.
    - `start`: (n, c) coordinates to start from; only their shape matters, not their scale.
    - `mesh`: devices that share the points; the coordinates travel between them in every epoch. On
      CPU the result has the bits of one device, because the sums of repulsive forces do not round.
    - `progress`: called with ("embedding", done, total).
    - `key`: typed PRNG key.

    **Returns:** (n, c) coordinates, each axis centered at 0. A point without edges stays at its
    start. Finite for any fuzzy set.

    **Raises:** TypeError or ValueError for a wrong type, or a `start` of the wrong shape.

    Works under `jit` and `vmap` (over `key`, over `start`, over fuzzy sets of one size).

    ```python
    >>> import jax, topoprune_jax as tp
    >>> graph = tp.knn_graph(jax.random.normal(jax.random.key(0), (50, 8)), n_neighbors=5)
    >>> tp.embed(tp.fuzzy_simplicial_set(graph), key=jax.random.key(1)).shape
    (50, 2)

    ```
    """
    check_fuzzy_set(fuzzy_set)
    check_options(options)
    checks.check_key(key)
    n = fuzzy_set.n_points
    order_key, start_key, epoch_key = jax.random.split(key, 3)
    initial = starting_points(fuzzy_set, options, start, start_key)
    total = n_epochs_of(options, n)
    options = dataclasses.replace(options, n_epochs=total)
    traced = any(checks.is_traced(leaf) for leaf in jax.tree.leaves((fuzzy_set, initial, key)))
    mesh = check_mesh(mesh, traced=traced)
    lanes = Lanes(() if mesh else (fuzzy_set.memberships, initial))
    n_shares = mesh.size if mesh else _lanes_for(n, options, len(lanes))
    layout = _layout(fuzzy_set, initial, order_key, n_shares=n_shares)
    state = varying_with((layout.start, jnp.zeros_like(layout.start)), layout.weights)
    place = layout.place
    per_call = max(1, total if traced else min(total, _EPOCHS_PER_CALL))
    if mesh is not None:
        run = _run_on(mesh, layout)
    else:
        run = partial(_run, layout) if n_shares == 1 else _run_in(lanes, layout)
    del layout  # those that move the points have what they need of it

    def some_epochs(state, done: int):
        return run(state, done, epoch_key, options=options, n_epochs=per_call)

    steps = Steps("embedding", total, progress, size=per_call)
    state = steps.carry(some_epochs, state)
    return steps.end(_finish(place, state[0] if mesh is None else here(state[0])))


def starting_points(
    fuzzy_set: FuzzySimplicialSet, options: EmbeddingOptions, start: ArrayInput | None, key: Key
) -> Float[Array, "n c"]:
    """The given start, checked, or the one that the options ask for."""
    n, c = fuzzy_set.n_points, int(options.n_components)
    if start is not None:
        initial = checks.check_points(start, name="start")
        if initial.shape != (n, c):
            raise ValueError(
                f"`start` must have shape ({n}, {c}), a row for every point; got {initial.shape}."
            )
        return initial.astype(fuzzy_set.memberships.dtype)
    if options.start == "spectral":
        # The graph alone decides: a start that moved with the key would make keys differ more.
        return spectral_start(fuzzy_set, c, key=jax.random.key(0))
    return jax.random.uniform(key, (n, c), fuzzy_set.memberships.dtype)


def check_options(options: Any, *, name: str = "options") -> None:
    """Raises unless `options` are `EmbeddingOptions`."""
    checks.check_instance(
        options, EmbeddingOptions, name=name, hint="Write `EmbeddingOptions(n_components=2)`."
    )


@lru_cache(maxsize=64)
def fit_ab(min_dist: float, spread: float) -> tuple[float, float]:
    r"""a and b for which 1 / (1 + a x^(2b)) is nearest to exp(-max(0, x - min_dist) / spread).

    Least squares at 300 points in [0, 3 spread], as in umap-learn, by Gauss-Newton steps in
    (log a, log b) that are halved until the error falls.
    """
    x = np.linspace(0, 3 * spread, 300)[1:]
    target = np.exp(-np.maximum(0, x - min_dist) / spread)

    def model(u):
        return 1 / (1 + np.exp(u[0] + 2 * np.exp(u[1]) * np.log(x)))

    def error(u):
        return float(np.sum((model(u) - target) ** 2))

    u = np.array([-np.log(spread), 0.0])
    for _ in range(100):
        y = model(u)
        slope = -y * (1 - y)
        jacobian = np.stack([slope, slope * 2 * np.exp(u[1]) * np.log(x)], axis=1)
        step = np.linalg.lstsq(jacobian, target - y, rcond=None)[0]
        while error(u + step) > error(u) and np.abs(step).max() > 1e-12:
            step = step / 2
        u = u + step
        if np.abs(step).max() <= 1e-12:
            break
    return float(np.exp(u[0])), float(np.exp(u[1]))


class _Layout(eqx.Module):
    """The graph in a random order of the points, coordinates as (c, n).

    Points are divided into shares of whole tiles, one after the other. Edges that their other end
    lists are sorted by their point; those of share i are offsets[i] .. offsets[i + 1] - 1.
    """

    place: Array  # place[i] is where point i went
    start: Float[Array, "c n"]
    neighbors: Array  # (k, shares * share), in the new order; points without weight fill them up
    weights: Float[Array, "k m"]
    reverse_rows: Array  # (n k + padding,)
    reverse_neighbors: Array
    reverse_weights: Array
    most_reverse: Array  # of a point
    offsets: Array  # (shares + 1,)
    degrees: Float[Array, " n"]


@partial(jax.jit, static_argnames="n_shares")
def _layout(fuzzy_set: FuzzySimplicialSet, start: Array, key: Key, *, n_shares: int = 1) -> _Layout:
    """Shuffled, so that a shift of the order is a random pairing even where classes are sorted."""
    n = fuzzy_set.n_points
    jitter_key, order_key = jax.random.split(key)
    order = jnp.argsort(jax.random.bits(order_key, (n,))).astype(jnp.int32)
    place = jnp.zeros(n, jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32))
    start, _ = rescale(start)
    start = start - jnp.mean(start, axis=0, keepdims=True)
    extent = jnp.max(jnp.abs(start))
    start = start / jnp.where(extent > 0, extent, 1) * _START_EXTENT
    # Points that start at one place would never part.
    start = start + 1e-3 * jax.random.normal(jitter_key, start.shape, start.dtype)

    def moved(indices):
        return jnp.where(indices >= 0, place[jnp.maximum(indices, 0)], 0).astype(jnp.int32)

    share = _share(n, n_shares)
    last = ((0, 0), (0, n_shares * share - n))
    # Rows of the reverse edges change their places as the points do, each as a whole.
    old = fuzzy_set.reverse_offsets
    offsets = jnp.pad(jnp.cumsum(jnp.diff(old)[order], dtype=jnp.int32), (1, 0))
    edge = jnp.arange(fuzzy_set.reverse_indices.shape[0], dtype=jnp.int32)
    is_edge = edge < offsets[-1]
    row = jnp.minimum(jnp.searchsorted(offsets[1:], edge, side="right"), n - 1).astype(jnp.int32)
    source = jnp.where(is_edge, old[order[row]] + edge - offsets[row], -1)

    def listed(values):
        return jnp.pad(values, (0, _LISTING_PADDING))

    return _Layout(
        place=place,
        start=start[order].T,
        neighbors=jnp.pad(moved(fuzzy_set.indices)[order].T, last),
        weights=jnp.pad(fuzzy_set.memberships[order].T, last),
        reverse_rows=listed(row),
        reverse_neighbors=listed(moved(fuzzy_set.reverse_indices[source])),
        reverse_weights=listed(jnp.where(is_edge, fuzzy_set.reverse_memberships[source], 0)),
        most_reverse=most_reverse_edges(fuzzy_set),
        offsets=offsets[np.minimum(share * np.arange(n_shares + 1), n)],
        degrees=fuzzy_set.degrees[order],
    )


def _share(n: int, n_shares: int) -> int:
    """Points of each of so many shares of n points: whole tiles, the last perhaps with less."""
    n_tiles, tile = _tiles(n)
    return tile * -(-n_tiles // n_shares)


@partial(jax.jit, static_argnames=("options", "n_epochs"))
def _run(layout: _Layout, state, first, key: Key, *, options: EmbeddingOptions, n_epochs: int):
    """Epochs first .. first + n_epochs - 1, as far as `options.n_epochs`."""
    a, b = fit_ab(options.min_dist, options.spread)
    n_shifts = _n_shifts(options)

    def epoch(state, t):
        z, velocity = state
        attraction = _attraction(layout, z, a, b)
        push = _repulsion(z, a, b, jax.random.fold_in(key, t), n_shifts)
        velocity = _velocity(velocity, attraction, push, layout.degrees, t, options)
        return (z + velocity, velocity), None

    return lax.scan(epoch, state, first + jnp.arange(n_epochs, dtype=jnp.int32))[0]


def _velocity(
    velocity: Float[Array, "c n"],
    attraction: tuple[Float[Array, "c n"], Float[Array, " n"]],
    push: Float[Array, "c n"],
    degrees: Float[Array, " n"],
    t: Int[Array, ""],
    options: EmbeddingOptions,
) -> Float[Array, "c n"]:
    """By how much points move in epoch t."""
    total = _known_epochs(options)
    left = np.maximum(1 - np.arange(total + 1) / max(1, total), 0)
    left = jnp.asarray(left, velocity.dtype)[jnp.minimum(t, total)]
    # Quadratic in the rate: a long quiet end averages the noise of the repulsion away.
    rate, momentum = _LEARNING_RATE * left * left, _MOMENTUM * left
    force, stiffness = attraction
    push = _rounded(push * (options.repulsion * NEGATIVES * degrees)[None, :])
    step = rate * (2 * force + push) / (1 + _rounded(rate * stiffness))[None, :]
    return _rounded(momentum * velocity) + step


def _rounded(product: Float[Array, "..."]) -> Float[Array, "..."]:
    """A product as a float of its own.

    A compiler may round a product and the sum that it goes into only once, and does so in one
    program and not in another; not through a choice.
    """
    return jnp.where(product == product, product, 0)


def _tiles(n: int) -> tuple[int, int]:
    """Into how many tiles of the same size n points are divided, and that size."""
    n_tiles = max(1, -(-n // _TILE))
    return n_tiles, -(-n // n_tiles)


def _attraction(layout: _Layout, z: Float[Array, "c n"], a: float, b: float):
    """Force along all edges of every point, and the sum of their stiffness."""
    n, whole = z.shape[1], layout.neighbors.shape[1]
    own = jnp.pad(z, ((0, 0), (0, whole - n)))
    tile = _tiles(n)[1]
    force, stiffness = _from_listed(z, own, layout.neighbors, layout.weights, tile, a, b)
    between = 0, layout.offsets[-1]
    edges = _edges(layout)[1:]
    return _from_listing(z, (force[:, :n], stiffness[:n]), edges, between, None, a, b)


def _pull(difference: Float[Array, "c m"], weight: Float[Array, " m"], a: float, b: float):
    squared = jnp.sum(difference * difference, axis=0)
    positive = squared > 0
    log = jnp.log2(jnp.where(positive, squared, 1))
    power = jnp.exp2((b - 1) * log)
    gain = 2 * a * b * power / (1 + a * power * squared)
    gain = jnp.where(positive, weight * gain, 0)
    return -jnp.clip(gain[None, :] * difference, -CLIP, CLIP), gain


def _from_listed(
    z: Float[Array, "c n"],
    points: Float[Array, "c m"],
    neighbors: Int[Array, "k m"],
    weights: Float[Array, "k m"],
    tile: int,
    a: float,
    b: float,
) -> tuple[Float[Array, "c m"], Float[Array, " m"]]:
    """From the neighbors that some points list, m a whole number of tiles."""
    c, m = points.shape

    def listed(size, first):
        def part(values):
            return lax.dynamic_slice_in_dim(values, first, size, axis=1)

        own = part(points)

        def column(carry, slot):
            force, stiffness = carry
            j, weight = slot
            f, s = _pull(own - z[:, j], weight, a, b)
            return (force + f, stiffness + s), None

        zero = varying_with((jnp.zeros_like(own), jnp.zeros_like(own[0])), z)
        return lax.scan(column, zero, (part(neighbors), part(weights)))[0]

    def in_tiles(_):
        force, stiffness = lax.map(partial(listed, tile), tile * jnp.arange(m // tile))
        return force.transpose(1, 0, 2).reshape(c, m), stiffness.reshape(m)

    def at_once(_):
        return listed(m, 0)

    return lax.platform_dependent(z, cpu=in_tiles, default=at_once)


def _from_listing(
    z: Float[Array, "c n"],
    total: tuple[Float[Array, "c m"], Float[Array, " m"]],
    edges: Sequence[Array],
    between: tuple[Any, Any],
    first_point: Int[Array, ""] | None,
    a: float,
    b: float,
):
    """From the neighbors that list a point, some edges at a time, on top of `total`.

    `edges` are the most of a point, and rows, neighbors and weights of all; those that count are
    first .. last - 1, and those of the points first_point .. first_point + m - 1,
    or of all where that is None.
    """
    first, last = between
    most, *listing = edges
    m = total[1].shape[0]

    def in_blocks(total):
        def block(i, carry):
            force, stiffness = carry
            begin = first + i * _REVERSE_BLOCK
            rows, others, weights = (
                lax.dynamic_slice_in_dim(values, begin, _REVERSE_BLOCK) for values in listing
            )
            f, s = _pull(z[:, rows] - z[:, others], weights, a, b)
            if first_point is not None:
                own = begin + jnp.arange(_REVERSE_BLOCK, dtype=jnp.int32) < last
                rows = jnp.where(own, rows - first_point, m)  # m is dropped
            return force.at[:, rows].add(f), stiffness.at[rows].add(s)

        return lax.fori_loop(0, -(-(last - first) // _REVERSE_BLOCK), block, total)

    def many_at_once(total):
        size = min(_ACCELERATOR_BLOCK, listing[0].shape[0])

        def block(i, carry):
            force, stiffness = carry
            begin = first + i * size
            # The last block reaches back, over edges that were looked at already.
            start = jnp.minimum(begin, listing[0].shape[0] - size)
            rows, others, weights = (
                lax.dynamic_slice_in_dim(values, start, size) for values in listing
            )
            f, s = _pull(z[:, rows] - z[:, others], weights, a, b)
            slot = start + jnp.arange(size, dtype=jnp.int32)
            rows = rows if first_point is None else rows - first_point
            rows = jnp.where((slot >= begin) & (slot < last), rows, m)  # m is nobody's
            force = force + sums_by_row(f.T, rows, m, most=most).T
            return force, stiffness + sums_by_row(s, rows, m, most=most)

        return lax.fori_loop(0, -(-(last - first) // size), block, total)

    return lax.platform_dependent(total, cpu=in_blocks, default=many_at_once)


def _repulsion(
    z: Float[Array, "c n"], a: float, b: float, key: Key, n_shifts: int
) -> Float[Array, "c n"]:
    """Mean repulsive force on every point from points at shared random shifts of the order.

    The force on i from i + s is, with its sign changed, the force on i + s from i: one evaluation
    serves both ends, and the total momentum stays 0.
    """
    if z.shape[1] < 2:
        return jnp.zeros_like(z)

    def pushed(shifts):
        return lax.platform_dependent(
            z,
            shifts,
            cpu=jax.custom_batching.sequential_vmap(partial(_push_in_tiles, a=a, b=b)),
            default=partial(_push_at_once, a=a, b=b),
        )

    return _mean_push(pushed, z, z, key, n_shifts)


def _mean_push(
    pushed: Callable[[Array], Array],
    z: Float[Array, "c n"],
    own: Float[Array, "c m"],
    key: Key,
    n_shifts: int,
) -> Float[Array, "c m"]:
    """The mean of the forces `pushed` at random shifts, a few of them at a time."""
    shifts = _shifts(key, n_shifts, z.shape[1])
    few = min(n_shifts, _SHIFTS_AT_ONCE)
    groups = shifts[: n_shifts // few * few].reshape(-1, few)
    if groups.shape[0] == 1:
        total = pushed(groups[0])
    else:
        nothing = varying_with(jnp.zeros_like(own), z)
        total = lax.scan(lambda sum, some: (sum + pushed(some), None), nothing, groups)[0]
    if n_shifts % few:
        total = total + pushed(shifts[n_shifts // few * few :])
    return total / (2 * n_shifts)


def _known_epochs(options: EmbeddingOptions) -> int:
    """Of options in which `embed` has named them."""
    assert options.n_epochs is not None
    return int(options.n_epochs)


def _n_shifts(options: EmbeddingOptions) -> int:
    """Each pairs a point with two others."""
    return -(-options.n_negatives // 2)


def _shifts(key: Key, n_shifts: int, n: int) -> Int[Array, " s"]:
    return jax.random.randint(key, (n_shifts,), 1, n)


def _force_unit(n_shifts: int, dtype: Any) -> float:
    """The unit of which single forces are whole multiples, a power of two.

    Each is at most `CLIP`, and 2 n_shifts of them sum to a number of units that the mantissa
    holds. So no sum of them rounds, and its bits do not depend on the order of its terms, of which
    some come from other devices.
    """
    largest = math.log2(CLIP) + math.ceil(math.log2(2 * n_shifts))
    return 2.0 ** (largest - (jnp.finfo(dtype).nmant + 1))


def _push(difference: Float[Array, "c n"], a: float, b: float, unit: float) -> Array:
    """The force in units, rounded to whole ones."""
    squared = jnp.sum(difference * difference, axis=0)
    power = jnp.exp2(b * jnp.log2(jnp.maximum(squared, jnp.finfo(difference.dtype).tiny)))
    gain = 2 * b / unit / ((1e-3 + squared) * (1 + a * power))
    return jnp.round(jnp.clip(gain[None, :] * difference, -CLIP / unit, CLIP / unit))


def _push_at_once(z: Float[Array, "c n"], shifts: Array, *, a: float, b: float) -> Array:
    n = z.shape[1]
    unit = _force_unit(shifts.shape[0], z.dtype)
    twice = jnp.concatenate([z, z], axis=1)

    def roll(total, shift):
        f = _push(z - lax.dynamic_slice_in_dim(twice, shift, n, axis=1), a, b, unit)
        back = lax.dynamic_slice_in_dim(jnp.concatenate([f, f], axis=1), n - shift, n, axis=1)
        return total + (f - back), None

    return lax.scan(roll, varying_with(jnp.zeros_like(z), z), shifts)[0] * unit


def _push_in_tiles(z: Float[Array, "c n"], shifts: Array, *, a: float, b: float) -> Array:
    """The same, a tile of points after the other."""
    n_tiles, tile = _tiles(z.shape[1])
    return _push_of_tiles(z, shifts, (tile, n_tiles), (0, n_tiles), a, b)


def _push_of_tiles(
    z: Float[Array, "c n"],
    shifts: Array,
    tiles: tuple[int, int],
    own: tuple[Any, Any],
    a: float,
    b: float,
) -> Float[Array, "c n"]:
    """Forces between the points of some tiles, the first and how many, and those at the shifts."""
    n = z.shape[1]
    tile, n_tiles = tiles
    first, count = own
    whole = tile * n_tiles
    unit = _force_unit(shifts.shape[0], z.dtype)
    copies, rest = divmod(n + whole, n)  # places after the last point get nothing but 0
    periodic = jnp.concatenate([z] * copies + [z[:, :rest]], axis=1)
    inside = (jnp.arange(whole) < n).astype(z.dtype)

    def one(i, total):
        start, shift = tile * (first + i // shifts.shape[0]), shifts[i % shifts.shape[0]]
        here = lax.dynamic_slice_in_dim(periodic, start, tile, axis=1)
        there = lax.dynamic_slice_in_dim(periodic, start + shift, tile, axis=1)
        f = lax.dynamic_slice_in_dim(inside, start, tile)[None, :]
        f = f * _push(here - there, a, b, unit)
        for first_place, force in ((start, f), (start + shift, -f)):
            before = lax.dynamic_slice_in_dim(total, first_place, tile, axis=1)
            total = lax.dynamic_update_slice_in_dim(total, before + force, first_place, axis=1)
        return total

    nothing = varying_with(jnp.zeros_like(periodic), z)
    total = lax.fori_loop(0, count * shifts.shape[0], one, nothing)
    return (total[:, :n] + total[:, n : 2 * n]) * unit


def _lanes_for(n: int, options: EmbeddingOptions, most: int) -> int:
    """How many lanes an epoch has work for, with few enough groups of shifts."""
    n_groups = -(-_n_shifts(options) // _SHIFTS_AT_ONCE)
    return max(1, min(most, _tiles(n)[0] // _TILES_A_LANE)) if n_groups <= _GROUPS_IN_LANES else 1


def _run_in(lanes: Lanes, layout: _Layout) -> Callable[..., Any]:
    """`_run` with the forces of an epoch from several lanes, one for every share of the points.

    The bits are the same, for the reasons of `_run_on`.
    """
    n_tiles, tile = _tiles(layout.degrees.shape[0])
    n_shares = layout.offsets.shape[0] - 1
    share = layout.neighbors.shape[1] // n_shares
    parts = [slice(i * share, (i + 1) * share) for i in range(n_shares)]
    own = [(layout.neighbors[:, part], layout.weights[:, part]) for part in parts]
    edges = _edges(layout)
    degrees = layout.degrees

    def run(state, first: int, key: Key, *, options: EmbeddingOptions, n_epochs: int):
        for t in range(first, min(first + n_epochs, _known_epochs(options))):
            more = {"options": options, "tiles": (tile, n_tiles)}
            given = edges, state[0], key, np.int32(t)
            forces = [
                lanes.hand_over(i, _forces, np.int32(i), mine, *given, **more)
                for i, mine in enumerate(own)
            ]
            state = _moved(state, forces, degrees, np.int32(t), options=options)
        return state

    return run


@partial(jax.jit, static_argnames=("options", "tiles"))
def _forces(
    lane: Int[Array, ""],
    own: tuple[Array, Array],
    edges: tuple[Array, ...],
    z: Float[Array, "c n"],
    key: Key,
    t: Int[Array, ""],
    *,
    options: EmbeddingOptions,
    tiles: tuple[int, int],
) -> tuple[Array, Array, list[Array]]:
    """Of epoch t, by one lane: the attraction on its points with its stiffness, and for every group
    of shifts the push that comes from its tiles."""
    a, b = fit_ab(options.min_dist, options.spread)
    n, (tile, n_tiles), per_lane = z.shape[1], tiles, own[0].shape[1] // tiles[0]
    begin = lane * own[0].shape[1]
    force, stiffness = _attraction_on_share(z, begin, own, edges, lane, tile, a, b)
    first = lane * per_lane
    count = jnp.clip(n_tiles - first, 0, per_lane)
    n_shifts = _n_shifts(options)
    shifts = _shifts(jax.random.fold_in(key, t), n_shifts, n)
    pushes = [
        _push_of_tiles(z, shifts[i : i + _SHIFTS_AT_ONCE], (tile, n_tiles), (first, count), a, b)
        for i in range(0, n_shifts, _SHIFTS_AT_ONCE)
    ]
    return force, stiffness, pushes


@partial(jax.jit, static_argnames="options")
def _moved(
    state: tuple[Array, Array],
    forces: list[tuple[Array, Array, list[Array]]],
    degrees: Float[Array, " n"],
    t: Int[Array, ""],
    *,
    options: EmbeddingOptions,
) -> tuple[Array, Array]:
    """The state after the epoch of which these are the `_forces`."""
    z, velocity = state
    n = z.shape[1]
    force = jnp.concatenate([of_lane[0] for of_lane in forces], axis=1)[:, :n]
    stiffness = jnp.concatenate([of_lane[1] for of_lane in forces])[:n]
    push = jnp.zeros_like(z)
    # Of one group no sum rounds; the groups are summed in their order.
    for group in zip(*(of_lane[2] for of_lane in forces), strict=True):
        push = push + sum(group[1:], start=group[0])
    push = push / (2 * _n_shifts(options))
    velocity = _velocity(velocity, (force, stiffness), push, degrees, t, options)
    return z + velocity, velocity


def _edges(layout: _Layout) -> tuple[Array, ...]:
    """Those that are found from their other end, all shares' together: offsets of the shares, the
    most of a point, and the edges."""
    listing = layout.reverse_rows, layout.reverse_neighbors, layout.reverse_weights
    return (layout.offsets, layout.most_reverse, *listing)


def _attraction_on_share(
    z: Float[Array, "c n"],
    begin: Int[Array, ""],
    own: tuple[Array, Array],
    edges: tuple[Array, ...],
    number: Int[Array, ""],
    tile: int,
    a: float,
    b: float,
) -> tuple[Array, Array]:
    """`_attraction` on the points of one share, which begins there; `own` has its columns of the
    neighbors and their weights."""
    offsets, *of_listing = edges
    points = _share_of(z, begin, own[0].shape[1], offsets.shape[0] - 1)
    listed = _from_listed(z, points, *own, tile, a, b)
    between = offsets[number], offsets[number + 1]
    return _from_listing(z, listed, of_listing, between, begin, a, b)


def _share_of(
    values: Float[Array, "c n"], begin: Int[Array, ""], share: int, n_shares: int
) -> Float[Array, "c m"]:
    """The columns of the share that begins there, 0 beyond the last point."""
    padded = jnp.pad(values, ((0, 0), (0, n_shares * share - values.shape[1])))
    return lax.dynamic_slice_in_dim(padded, begin, share, axis=1)


def _run_on(mesh: Mesh, layout: _Layout) -> Callable[..., Any]:
    """`_run` on several devices, each of which moves some tiles of the points.

    Coordinates are the same on all: what is of size n c lies whole on every device, and so do the
    edges that are found from their other end.
    """
    n, whole = layout.degrees.shape[0], layout.neighbors.shape[1]
    n_tiles, tile = _tiles(n)
    columns = PartitionSpec(None, AXIS)
    own = (
        in_shares(mesh, np.asarray(layout.neighbors), columns),
        in_shares(mesh, np.asarray(layout.weights), columns),
        in_shares(mesh, np.pad(np.asarray(layout.degrees), (0, whole - n))),
    )
    edges = on_all(mesh, _edges(layout))
    specs = ((columns, columns, SPLIT), WHOLE, WHOLE, WHOLE, WHOLE), WHOLE

    def run(state, first: int, key: Key, *, options: EmbeddingOptions, n_epochs: int):
        numbers = jax.random.key_data(key)
        given = (own, edges, state, np.int32(first), numbers)
        more = {"options": options, "n_epochs": n_epochs, "n_tiles": n_tiles, "tile": tile}
        kind = jax.random.key_impl(key)
        return on_shares(mesh, _run_share, *specs, *given, **more, kind=kind)

    return run


def _run_share(
    own: tuple[Array, Array, Array],
    edges: tuple[Array, ...],
    state: tuple[Array, Array],
    first: Int[Array, ""],
    key_data: Array,
    *,
    options: EmbeddingOptions,
    n_epochs: int,
    n_tiles: int,
    tile: int,
    kind: Any,
) -> tuple[Array, Array]:
    """As `_run`, by a device that moves its own points only."""
    neighbors, weights, degrees = own
    n, share = state[0].shape[1], degrees.shape[0]
    device, n_devices = lax.axis_index(AXIS), lax.axis_size(AXIS)
    key = jax.random.wrap_key_data(key_data, impl=kind)
    a, b = fit_ab(options.min_dist, options.spread)
    n_shifts = _n_shifts(options)
    begin = device * share

    def mine(values):
        return _share_of(values, begin, share, n_devices)

    def everybody(values):
        return lax.all_gather(values, AXIS, axis=1, tiled=True)[:, :n]

    def pushed(z, shifts):
        def in_tiles(z, shifts):
            first = device * (share // tile)
            count = jnp.clip(n_tiles - first, 0, share // tile)
            return _push_of_tiles(z, shifts, (tile, n_tiles), (first, count), a, b)

        def at_once(z, shifts):
            count = (begin < n).astype(jnp.int32)
            return _push_of_tiles(z, shifts, (share, n_devices), (device, count), a, b)

        total = lax.platform_dependent(z, shifts, cpu=in_tiles, default=at_once)
        padded = jnp.pad(total, ((0, 0), (0, n_devices * share - n)))
        return lax.psum_scatter(padded, AXIS, scatter_dimension=1, tiled=True)

    def epoch(state, t):
        z, velocity = state
        points = mine(z)
        attraction = _attraction_on_share(z, begin, (neighbors, weights), edges, device, tile, a, b)
        push = jnp.zeros_like(points)
        if n > 1:
            epoch_key = jax.random.fold_in(key, t)
            push = _mean_push(partial(pushed, z), z, points, epoch_key, n_shifts)
        velocity = _velocity(velocity, attraction, push, degrees, t, options)
        return (everybody(points + velocity), velocity), None

    z, velocity = state
    epochs = first + jnp.arange(n_epochs, dtype=jnp.int32)
    z, velocity = lax.scan(epoch, (z, mine(velocity)), epochs)[0]
    return z, everybody(velocity)


@jax.jit
def _finish(place: Int[Array, " n"], z: Float[Array, "c n"]) -> Float[Array, "n c"]:
    points = z.T[place]
    return points - jnp.mean(points, axis=0, keepdims=True)
