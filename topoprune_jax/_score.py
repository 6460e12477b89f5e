"""The structural complexity of a sample: persistence of its patch of the manifold."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from . import _backend as backend
from . import _checks as checks
from ._diagram import check_dims
from ._distance import norm, rescale, varying_with
from ._flag import check_reduction
from ._graph import EXACT_PATCHES_ON_CPU, neighbor_search
from ._mesh import SPLIT, WHOLE, check_mesh, here, on_shares
from ._persistence import distance_matrix, power_of_two, vietoris_rips
from ._spanning_forest import spanning_tree
from ._steps import Steps
from ._summaries import check_power, total_persistence
from ._types import Array, ArrayInput, Progress

BATCH = 256  # patches of one host call, fewer where their distances would take more than 16 MiB
ACCELERATOR_BATCH = 1 << 12  # of patches at a time where nothing calls the host; up to 256 MiB
LARGEST_BATCHED = 1 << 14  # numbers of a patch's distances, beyond which fewer are batched
_PATCHES_PER_CALL = 16384
_SHARED_CALL_BYTES = 1 << 16


def structural_complexity(
    embedding: ArrayInput,
    *,
    labels: ArrayInput | None = None,
    patch_size: int = 64,
    dims: Sequence[int] = (0,),
    power: float = 1.0,
    method: str = "total_persistence",
    n_steps: int = 5,
    step_size: float = 0.05,
    reduction: str = "host",
    exact_up_to: int = EXACT_PATCHES_ON_CPU,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
) -> Float[Array, " n"]:
    r"""How complex the manifold is around each sample: persistent homology of its patch.

    The patch P_i of sample i is i and its m - 1 nearest points of the embedding, of its own class
    where labels are given. Its score is the total persistence

        s_i = sum over finite bars (b, d) of the Vietoris-Rips diagram of P_i of (d - b)^power,

    which in dimension 0 and at power 1 is the length of the patch's minimum spanning tree. With
    `method="displacement"` the patch is instead optimized topologically,

        Z <- Z - step_size grad_Z sum (d - b)^2,    `n_steps` times from Z = P_i,

    with the gradient of `vietoris_rips`, and the score is how far its points travel,
    s_i = sum_j |Z_j - P_ij|. Both are large where the data are sparse or ragged and small where
    they are dense and even; they rank samples nearly alike, and total persistence is cheaper.

    Source: total persistence, Cohen-Steiner et al. 2010; persistence of a point's neighborhood as
    a measure of how unusual it is, arXiv 2103.14743; persistence-guided displacement in pruning,
    arXiv 2602.02739. The formula is this package's own.

    **Arguments:**

    - `embedding`: (n, c), from `embed` or elsewhere.
    - `labels`: (n,) classes.
    - `patch_size`: m, at least 2. A class or data set of fewer points has smaller patches.
    - `dims`: homology dimensions that count. Dimension 0 runs on the device, higher ones in gudhi
      behind one host call for every 256 patches, or where `reduction` says.
    - `power`: exponent of the lifetimes, for total persistence.
    - `method`: `"total_persistence"` or `"displacement"`.
    - `n_steps`, `step_size`: of the optimization, for displacement; `step_size` is at most 1.
    - `reduction`: `"host"` or `"device"`, see `vietoris_rips`.
    - `exact_up_to`: points of a class (or data set) beyond which a single CPU seeks patches in more
      than 4 dimensions by blocks, see `knn_graph`: they may lack a few of the nearest.
    - `mesh`: devices that share the patches; the embedding lies on all of them.
    - `progress`: called with ("complexity", done, total).

    **Returns:** (n,) scores, not negative, in units of the embedding (to the given power).

    **Raises:** TypeError or ValueError with one sentence for an embedding that is no finite 2-D
    array, labels of another length, or an option out of range.

    Works under `jit` and `vmap`. For a score with gradients apply `vietoris_rips` and
    `total_persistence` to patches of your own.

    ```python
    >>> import topoprune_jax as tp
    >>> [float(s) for s in tp.structural_complexity([[0.0], [1.0], [3.0]], patch_size=2)]
    [1.0, 1.0, 2.0]

    ```
    """
    points = checks.check_points(embedding, name="embedding")
    n = points.shape[0]
    size = checks.check_count(patch_size, name="patch_size", low=2)
    if method not in ("total_persistence", "displacement"):
        raise ValueError(f"`method` must be 'total_persistence' or 'displacement'; got {method!r}.")
    n_steps = checks.check_count(n_steps, name="n_steps", low=1)
    step_size = checks.check_number(
        step_size, name="step_size", low=0, high=1, hint="Longer steps overshoot and diverge."
    )
    dims = check_dims(dims)
    reduction = check_reduction(reduction, dims, min(size, n))
    power = check_power(power)
    codes = None if labels is None else checks.check_labels(labels, n)
    exact_up_to = checks.check_count(exact_up_to, name="exact_up_to", low=0)
    mesh = check_mesh(mesh, traced=checks.is_traced(points))
    measure = _Measure(dims, power, method, n_steps, step_size, reduction)
    is_free = mesh is None and _calls_no_host(measure)
    if mesh is None:
        batch = ACCELERATOR_BATCH if is_free and not backend.is_cpu() else BATCH
        score = partial(_score_patches, measure=measure, batch=batch)
    else:
        score = partial(_score_on, mesh, measure=measure)
    if n < 2:
        itself = jnp.arange(n, dtype=jnp.int32)
        return score(points, itself, itself[:, None])
    # Scored as they are found: n patches of m points need not exist at a time.
    options = {"codes": codes, "mesh": mesh, "exact_up_to": exact_up_to}
    search = neighbor_search(points, min(size, n) - 1, most_rows=_PATCHES_PER_CALL, **options)

    def places(i: int) -> list[Array]:
        place = search.place(i)
        return [place[rows] for rows in _calls(place.shape[0])]

    def some_scores(i: int) -> Array:
        neighbors = search.part(i)[0]
        calls = zip(places(i), _calls(neighbors.shape[0]), strict=True)
        return jnp.concatenate([score(points, place, neighbors[rows]) for place, rows in calls])

    steps = Steps("complexity", search.calls, progress, beside=(points, codes) if is_free else ())
    parts = [steps.run(some_scores, i) for i in range(search.calls)]
    # Points of rows that overlap come twice, with one score.
    every = [place for i in range(search.calls) for place in places(i)]
    return steps.end(_at_their_places(points, every, parts))


@jax.jit
def _at_their_places(
    points: Float[Array, "n c"], places: list[Array], parts: list[Array]
) -> Float[Array, " n"]:
    scores = varying_with(jnp.zeros(points.shape[0], points.dtype), points)
    return scores.at[jnp.concatenate(places)].set(jnp.concatenate(parts), mode="drop")


def _calls(n_rows: int) -> list[slice]:
    """Rows that are scored at a time, all as many: the last ones overlap those before."""
    n_calls = -(-n_rows // _PATCHES_PER_CALL)
    per_call = -(-n_rows // n_calls)
    starts = (min(i * per_call, n_rows - per_call) for i in range(n_calls))
    return [slice(start, start + per_call) for start in starts]


class _Measure(NamedTuple):
    """What is measured of a patch."""

    dims: tuple[int, ...]
    power: float
    method: str
    n_steps: int
    step_size: float
    reduction: str


def _calls_no_host(measure: _Measure) -> bool:
    return measure.dims == (0,) or measure.reduction == "device"


@partial(jax.jit, static_argnames=("measure", "batch"))
def _score_patches(
    points: Float[Array, "n c"],
    place: Int[Array, " rows"],
    neighbors: Int[Array, "rows k"],
    *,
    measure: _Measure,
    batch: int,
) -> Float[Array, " rows"]:
    """The scores of the points `place`; of anything in the padding, where that is n."""
    return _scores(points, place, neighbors, measure=measure, batch=batch)


def _score_on(
    mesh: Mesh,
    points: Float[Array, "n c"],
    place: Int[Array, " rows"],
    neighbors: Int[Array, "rows k"],
    *,
    measure: _Measure,
) -> Float[Array, " rows"]:
    """The same, the patches divided among devices."""
    n, rows = points.shape[0], place.shape[0]
    spare = -place.shape[0] % mesh.size
    place = jnp.pad(place, (0, spare), constant_values=n)
    neighbors = jnp.pad(neighbors, ((0, spare), (0, 0)), constant_values=n)
    m = neighbors.shape[1] + 1
    # Larger arguments of host calls on several CPU devices at a time can block each other.
    batch = BATCH if _calls_no_host(measure) else max(1, _SHARED_CALL_BYTES // (2 * m * m))
    specs = (WHOLE, SPLIT, SPLIT), SPLIT
    given = points, place, neighbors
    found = on_shares(mesh, _scores, *specs, *given, measure=measure, batch=batch)
    return here(found)[:rows]


def _scores(
    points: Float[Array, "n c"],
    place: Int[Array, " rows"],
    neighbors: Int[Array, "rows k"],
    *,
    measure: _Measure,
    batch: int,
) -> Float[Array, " rows"]:
    """The scores of the patches of the points `place`, `batch` of them at a time at most."""
    dims, power, method, n_steps, step_size, reduction = measure
    n = points.shape[0]
    # A missing neighbor is the point again, at distance 0, which adds no bar of positive length.
    itself = jnp.minimum(place, n - 1)[:, None]
    neighbors = jnp.where(neighbors >= n, itself, neighbors)
    patches = jnp.concatenate([itself, neighbors], axis=1)

    def tree(patch: Float[Array, "m c"]) -> Any:
        # Of dimension 0 no order of the bars is asked, only their lengths.
        scale = power_of_two(patch)
        lengths = spanning_tree(distance_matrix(patch, scale))[2] * scale
        is_bar = lengths != 0
        powers = jnp.where(is_bar, jnp.where(is_bar, lengths, 1) ** power, 0)
        # One after the other, so that the bits do not depend on how many patches are in a batch.
        return lax.scan(lambda total, one: (total + one, None), 0 * scale, powers)[0]

    def persistence(patch: Float[Array, "m c"], exponent: float) -> Any:
        diagram = vietoris_rips(patch, dims=dims, reduction=reduction)
        return total_persistence(diagram, power=exponent)

    def displacement(patch: Float[Array, "m c"], itself: Bool[Array, " m"]) -> Any:
        # The flow is linear in the scale of the patch, whose squares might overflow.
        patch, scale = rescale(patch)
        # Copies stay with the point: what pulls at them pulls at it, and they travel nowhere.
        pull = jax.grad(lambda z: persistence(jnp.where(itself[:, None], z[:1], z), 2.0))
        moved = lax.fori_loop(0, n_steps, lambda _, z: z - step_size * pull(z), patch)
        return jnp.sum(norm(moved - patch)) * scale

    def score(indices: Int[Array, " m"]) -> Any:
        patch = points[indices]
        if method == "total_persistence":
            return tree(patch) if dims == (0,) else persistence(patch, power)
        return displacement(patch, indices == indices[0])

    rows, m = patches.shape
    batch = max(1, min(batch, rows, batch * LARGEST_BATCHED // m**2))
    # `map` would compile a remainder on its own.
    padded = jnp.pad(patches, ((0, -rows % batch), (0, 0)))
    return lax.map(score, padded, batch_size=batch)[:rows]
