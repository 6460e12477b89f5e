"""Where new points fall on an embedding that is already there."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from . import _checks as checks
from ._distance import norm, product, varying_with
from ._embedding_forces import CLIP
from ._embedding_options import NEGATIVES, EmbeddingOptions, check_options, fit_ab
from ._graph_exact import fitting_scale, merge, no_neighbors, relative_rounding
from ._types import Array, ArrayInput

_BATCH = 128  # new points searched for at a time: always the same shape, so always the same bits
_SPARE = 8  # candidates beyond k, so that most new points can be proven complete
_COLUMNS = 1024  # embedded points compared by differences in one go
_ANCHORS = 256  # points of the embedding that push a new point away
_STEPS = 40
_RATE = 0.5
_BISECTIONS = 40


class ManifoldState(eqx.Module):
    """What `transform` needs to know of an embedding.

    **Attributes:**

    - `points`: (n, d) the features that were embedded, as they went into `knn_graph`.
    - `embedding`: (n, c) where they are.
    - `n_neighbors`: k of the graph.
    - `options`: of the embedding.

    Build one from arrays: `ManifoldState(points, embedding)`.
    """

    points: Float[Array, "n d"]
    embedding: Float[Array, "n c"]
    n_neighbors: int = eqx.field(static=True, default=15)
    options: EmbeddingOptions = eqx.field(default=EmbeddingOptions())

    def __init__(
        self,
        points: ArrayInput,
        embedding: ArrayInput,
        n_neighbors: int = 15,
        options: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 (frozen)
    ):
        self.points = checks.check_points(points, min_points=2)
        self.embedding = checks.check_points(embedding, name="embedding", min_points=2)
        n = self.points.shape[0]
        if self.embedding.shape[0] != n:
            raise ValueError(
                f"`embedding` must have a row for each of the {n} points; "
                f"got shape {self.embedding.shape}. Pass the embedding of these points."
            )
        self.n_neighbors = checks.check_count(n_neighbors, name="n_neighbors", low=2, high=n)
        check_options(options)
        self.options = options


def transform(state: ManifoldState, new_points: ArrayInput) -> Float[Array, "q c"]:
    r"""Coordinates of new points on an embedding that stays as it is.

    A new point x sees its k nearest embedded points with memberships

        mu_j = exp(-d_j / sigma),   d_j = |x - x_j|,   sum_j mu_j = log2(k + 1),

    starts at the mean of their places weighted by mu, and takes 40 steps of the embedding's own
    forces: attraction along its k edges, repulsion from 256 points spread over the embedding, the
    same for every new point. Nothing is random, and no new point feels another, so a point's place
    does not depend on what else is in the batch (umap-learn's does: its issues 566 and 1224).

    Differentiable in `new_points`: distances, memberships (sigma by the implicit function theorem)
    and steps are; which points are nearest is locally constant.

    Source: McInnes, Healy, Melville, "UMAP" (arXiv 1802.03426); the deterministic form is this
    package's own.

    **Arguments:**

    - `state`: a `ManifoldState` of n points.
    - `new_points`: (q, d), in the units and with the scaling of `state.points`.

    **Returns:** (q, c).

    **Raises:** TypeError or ValueError for a wrong type, or new points of another dimension.

    Works under `jit`, `vmap` and `grad`; memory is one tile of 128 x n.

    ```python
    >>> import jax, topoprune_jax as tp
    >>> points = jax.random.normal(jax.random.key(0), (60, 4))
    >>> z = tp.embed(tp.fuzzy_simplicial_set(tp.knn_graph(points)), key=jax.random.key(1))
    >>> tp.transform(tp.ManifoldState(points, z), points[:3] + 0.01).shape
    (3, 2)

    ```
    """
    checks.check_instance(
        state,
        ManifoldState,
        name="state",
        hint="Make one with `ManifoldState(points, embedding)`.",
    )
    new = checks.check_points(new_points, name="new_points")
    d = state.points.shape[1]
    if new.shape[1] != d:
        raise ValueError(
            f"`new_points` must have {d} columns, as the embedded points have; "
            f"got shape {new.shape}."
        )
    return _transform(state, new)


@eqx.filter_jit
def _transform(state: ManifoldState, new: Float[Array, "q d"]) -> Float[Array, "q c"]:
    q = new.shape[0]
    state, new = _within_range(state, new)
    neighbors = _nearest(state, lax.stop_gradient(new))
    anchors = _anchors(state.embedding)
    a, b = fit_ab(state.options.min_dist, state.options.spread)

    def place(x: Float[Array, " d"], j: Int[Array, " k"]) -> Float[Array, " c"]:
        mu = _memberships(norm(x[None, :] - state.points[j]))
        ends = state.embedding[j]
        z = jnp.sum(mu[:, None] * ends, axis=0) / jnp.sum(mu)

        def step(z: Array, t: Array) -> tuple[Array, None]:
            rate = _RATE * (1 - t / _STEPS)
            pull, stiffness = _pull(z, ends, mu, a, b)
            push = NEGATIVES * jnp.sum(mu) * state.options.repulsion * _push(z, anchors, a, b)
            return z + rate * (pull + push) / (1 + rate * stiffness), None

        return lax.scan(step, z, jnp.arange(_STEPS, dtype=z.dtype))[0]

    # In batches of one shape, because the bits of a sum may depend on how many are made at a time.
    rows = jnp.pad(new, ((0, (-q) % _BATCH), (0, 0))).reshape(-1, _BATCH, new.shape[1])
    places = lax.map(
        lambda pair: jax.vmap(place)(*pair),
        (rows, neighbors.reshape(-1, _BATCH, state.n_neighbors)),
    )
    return places.reshape(-1, places.shape[2])[:q]


def _within_range(
    state: ManifoldState, new: Float[Array, "q d"]
) -> tuple[ManifoldState, Float[Array, "q d"]]:
    """Both divided by a power of two, on which no place depends: only ratios of distances count."""
    reach = jnp.max(jnp.abs(lax.stop_gradient(state.points)))
    far = jnp.max(jnp.abs(lax.stop_gradient(new)), axis=1, keepdims=True)
    scale = fitting_scale(reach)
    # Points so far away that all distances round to one come nearer: their squares would overflow.
    farthest = 2.0 ** (jnp.finfo(new.dtype).maxexp * 7 // 16)
    new = new / jnp.maximum(scale, far / farthest)
    return eqx.tree_at(lambda s: s.points, state, state.points / scale), new


def _nearest(state: ManifoldState, new: Float[Array, "q d"]) -> Int[Array, "rows k"]:
    """The k nearest embedded points of each new one, a fixed number of new points at a time.

    As in `knn_graph`, a product finds candidates, and where its rounding could hide a nearer point
    the new one is compared with all by differences.
    """
    points = lax.stop_gradient(state.points)
    n, d = points.shape
    center = jnp.mean(points, axis=0, keepdims=True)
    centered = points - center  # rounds: for products only
    square = jnp.sum(centered * centered, axis=1)
    # Copies of the last row: rows of zeros might be far from all points, and hard to prove.
    rows = jnp.pad(new, ((0, (-new.shape[0]) % _BATCH), (0, 0)), mode="edge")
    k = state.n_neighbors
    n_candidates = min(k + _SPARE, n)
    rounding = relative_rounding(d, points.dtype)
    others = jnp.pad(points, ((0, -n % _COLUMNS), (0, 0)))

    def by_differences(x: Float[Array, "batch d"], wanted: Array) -> Int[Array, "batch k"]:
        def scan_block(b: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            left = b * _COLUMNS
            columns = left + jnp.arange(_COLUMNS, dtype=jnp.int32)
            y = lax.dynamic_slice_in_dim(others, left, _COLUMNS)
            # A new point at a time, so that memory is that of one block of differences.
            distances = lax.map(lambda one: norm(one[None, :] - y), x)
            return merge(best, jnp.where(columns[None, :] < n, distances, jnp.inf), columns)

        start = varying_with(no_neighbors(x.shape[0], k, x.dtype), x)
        # No block at all unless `wanted`; under `vmap` a `cond` would always compute both sides.
        n_blocks = jnp.where(wanted, others.shape[0] // _COLUMNS, 0)
        return lax.fori_loop(0, n_blocks, scan_block, start)[1]

    def batch(x: Float[Array, "batch d"]) -> Int[Array, "batch k"]:
        moved = x - center
        products = product(moved, centered.T)
        score = square[None, :] - 2 * products
        negative, found = lax.top_k(-score, n_candidates)
        found = found.astype(jnp.int32)
        distances, found = lax.sort(
            (norm(x[:, None, :] - points[found]), found), dimension=1, num_keys=2
        )
        length, kth = norm(moved), distances[:, k - 1]
        slack = 4 * rounding * (length + kth) ** 2
        proven = (length * length - negative[:, -1] > kth * kth + slack) | (n_candidates == n)
        slow = by_differences(x, ~jnp.all(proven))
        return jnp.where(proven[:, None], found[:, :k], slow)

    found = lax.map(batch, rows.reshape(-1, _BATCH, d))
    return found.reshape(-1, k)


def _memberships(distances: Float[Array, " k"]) -> Float[Array, " k"]:
    """exp(-d / sigma) of sum log2(k + 1), with the derivative of sigma in the distances."""
    k = distances.shape[0]
    target = jnp.log2(jnp.asarray(k + 1.0, distances.dtype))
    fixed = lax.stop_gradient(distances)
    mean = jnp.mean(fixed)
    unit = jnp.where(mean > 0, mean, 1)

    def halve(_, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        lo, hi = bounds
        mid = jnp.sqrt(lo * hi)
        over = jnp.sum(jnp.exp(-fixed / (unit * mid))) > target
        return jnp.where(over, lo, mid), jnp.where(over, mid, hi)

    bounds = (jnp.asarray(1e-3, fixed.dtype), jnp.asarray(1e3, fixed.dtype))
    lo, hi = lax.fori_loop(0, _BISECTIONS, halve, varying_with(bounds, fixed))
    sigma = unit * jnp.sqrt(lo * hi)
    # A Newton step with a fixed slope changes nothing at the root and has the root's derivative.
    slope = jnp.sum(jnp.exp(-fixed / sigma) * fixed) / (sigma * sigma)
    error = jnp.sum(jnp.exp(-distances / sigma)) - target
    correction = jnp.where(slope > 0, (error - lax.stop_gradient(error)), 0)
    sigma = sigma - correction / jnp.where(slope > 0, slope, 1)
    return jnp.exp(-distances / sigma)


def _anchors(embedding: Float[Array, "n c"]) -> Float[Array, "r c"]:
    """Points of the embedding, drawn once and for all: a fixed sample without replacement."""
    n = embedding.shape[0]
    if n <= _ANCHORS:
        return embedding
    return embedding[jax.random.choice(jax.random.key(0), n, (_ANCHORS,), replace=False)]


def _pull(z: Array, ends: Array, mu: Array, a: float, b: float) -> tuple[Array, Array]:
    difference = ends - z[None, :]
    squared = jnp.sum(difference * difference, axis=1)
    positive = squared > 0
    safe = jnp.where(positive, squared, 1)
    gain = jnp.where(positive, mu * 2 * a * b * safe ** (b - 1) / (1 + a * safe**b), 0)
    force = jnp.clip(gain[:, None] * difference, -CLIP, CLIP)
    return jnp.sum(force, axis=0), jnp.sum(gain)


def _push(z: Array, anchors: Array, a: float, b: float) -> Array:
    difference = z[None, :] - anchors
    squared = jnp.sum(difference * difference, axis=1)
    safe = jnp.maximum(squared, jnp.finfo(z.dtype).tiny)
    gain = 2 * b / ((1e-3 + squared) * (1 + a * safe**b))
    return jnp.mean(jnp.clip(gain[:, None] * difference, -CLIP, CLIP), axis=0)
