"""Several embeddings of one fuzzy set at once, aligned, with what they agree on."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from . import _checks as checks
from ._distance import product
from ._embedding import embed, starting_points
from ._embedding_options import EmbeddingOptions, check_options
from ._fuzzy import FuzzySimplicialSet, check_fuzzy_set
from ._sums import mean_row, over_rows
from ._types import Array, ArrayInput, Key

_ALIGNMENT_ROUNDS = 4


class EmbeddingEnsemble(eqx.Module):
    """Embeddings of one fuzzy set under several keys.

    **Attributes:**

    - `members`: (e, n, c), each turned and mirrored onto their mean.
    - `mean`: (n, c).
    - `spread`: (n,) root mean square distance of a point's e places from their mean, in units of
      the embedding: large where the embedding is a matter of chance.
    """

    members: Float[Array, "e n c"]
    mean: Float[Array, "n c"]
    spread: Float[Array, " n"]


def embed_ensemble(
    fuzzy_set: FuzzySimplicialSet,
    options: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 (frozen)
    *,
    n_members: int = 5,
    start: ArrayInput | None = None,
    key: Key,
) -> EmbeddingEnsemble:
    r"""`embed` under several keys in one compiled call, aligned by generalized Procrustes analysis.

    Member l is moved by the orthogonal Q_l and the shift that minimize the distance to the mean,

        min over Q_l, Q_l^T Q_l = I:  sum_i |z_li Q_l - mean_i|^2,

    in turns with the mean (Gower 1975); Q_l = U V^T for the singular value decomposition
    U S V^T of z_l^T mean. `spread` tells which points have a place and which only a neighborhood.
    The mean is what the members are aligned to, not a better embedding: where clusters turn against
    each other from key to key, it blurs them.

    **Arguments:**

    - `fuzzy_set`, `options`, `start`: as for `embed`. A start that all members share, such as
      `spectral_embedding` or `principal_components`, keeps their clusters in the same places; the
      default start of `embed` is computed once and shared.
    - `n_members`: e, at least 2.
    - `key`: split into one for each member.

    **Returns:** an `EmbeddingEnsemble`; memory is e times that of one embedding.

    **Raises:** as `embed`, and ValueError for `n_members` below 2.

    ```python
    >>> import jax, topoprune_jax as tp
    >>> graph = tp.knn_graph(jax.random.normal(jax.random.key(0), (50, 8)), n_neighbors=5)
    >>> fuzzy_set = tp.fuzzy_simplicial_set(graph)
    >>> ensemble = tp.embed_ensemble(fuzzy_set, n_members=3, key=jax.random.key(1))
    >>> ensemble.members.shape, ensemble.spread.shape
    ((3, 50, 2), (50,))

    ```
    """
    check_fuzzy_set(fuzzy_set)
    e = checks.check_count(n_members, name="n_members", low=2)
    checks.check_key(key)
    check_options(options)
    start_key, members_key = jax.random.split(key)
    shared = starting_points(fuzzy_set, options, start, start_key)
    members = jax.vmap(lambda k: embed(fuzzy_set, options, start=shared, key=k))(
        jax.random.split(members_key, e)
    )
    return _align_all(members)


def align(points: Float[Array, "n c"], target: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """`points` shifted, turned and mirrored onto `target` (orthogonal Procrustes)."""
    center = mean_row(target)[None, :]
    points = points - mean_row(points)[None, :]
    u, _, vt = jnp.linalg.svd(over_rows(points, target - center), full_matrices=False)
    return product(points, product(u, vt)) + center


@jax.jit
def _align_all(members: Float[Array, "e n c"]) -> EmbeddingEnsemble:
    def once(_, state: tuple[Array, Array]) -> tuple[Array, Array]:
        moved, mean = state
        moved = jax.vmap(partial(align, target=mean))(moved)
        return moved, jnp.mean(moved, axis=0)

    moved, mean = lax.fori_loop(0, _ALIGNMENT_ROUNDS, once, (members, members[0]))
    difference = moved - mean[None]
    spread = jnp.sqrt(jnp.mean(jnp.sum(difference * difference, axis=2), axis=0))
    return EmbeddingEnsemble(moved, mean, spread)
