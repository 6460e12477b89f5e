"""The low-dimensional embedding of a fuzzy simplicial set: UMAP's model, a full-batch optimizer."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Float, Int

from . import _checks as checks
from ._distance import varying_with
from ._embedding_forces import layout_of
from ._embedding_options import EmbeddingOptions, check_options, n_epochs_of
from ._embedding_runs import lanes_for, run_in_lanes, run_on_mesh, run_whole
from ._fuzzy import FuzzySimplicialSet, check_fuzzy_set
from ._lanes import Lanes
from ._mesh import check_mesh, here
from ._spectral import spectral_start
from ._steps import Steps
from ._sums import mean_row
from ._types import Array, ArrayInput, Key, Progress

_EPOCHS_PER_CALL = 10


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
    n_shares = mesh.size if mesh else lanes_for(n, options, len(lanes))
    layout = layout_of(fuzzy_set, fuzzy_set.degrees, initial, order_key, n_shares=n_shares)
    state = _at_rest(layout.start, layout.weights)
    place = layout.place
    per_call = max(1, total if traced else min(total, _EPOCHS_PER_CALL))
    if mesh is not None:
        run = run_on_mesh(mesh, layout)
    else:
        run = partial(run_whole, layout) if n_shares == 1 else run_in_lanes(lanes, layout)
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


@jax.jit
def _at_rest(start: Float[Array, "c n"], weights: Array) -> tuple[Array, Array]:
    """Positions and velocities."""
    return varying_with((start, jnp.zeros_like(start)), weights)


@jax.jit
def _finish(place: Int[Array, " n"], z: Float[Array, "c n"]) -> Float[Array, "n c"]:
    points = z.T[place]
    return points - mean_row(points)[None, :]
