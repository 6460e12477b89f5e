"""`rank`: the global scale, the local scale and the selection in one call."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from . import _checks as checks
from ._beta import choose_beta
from ._embedding import EmbeddingOptions, check_options, embed
from ._features import traced_unit_rows, unit_rows
from ._fuzzy import fuzzy_simplicial_set
from ._graph import METHODS, NeighborGraph, check_graph, nearest_neighbors
from ._results import RESULTS
from ._score import structural_complexity
from ._select import Selection, class_agreement, select
from ._spectral import principal_components, spectral_start
from ._strata import kmeans_strata
from ._types import Array, ArrayInput, Key, Progress

T = TypeVar("T")

NEIGHBORS = ("auto", *METHODS)
"""The names that `neighbors` may have."""

_DEFAULT_SEED = 0
_N_STRATA = 20
_BETA_WITH_LABELS = -1.0
_LEAST_AGREEMENT = 1e-3  # so that a class that lies wholly among others is still covered by plan
_EXACT_ON_CPU = 100_000  # samples up to which "auto" compares all with all on a CPU


class Ranking(eqx.Module):
    """What `rank` returns.

    **Attributes:**

    - `scores`: (n,) structural complexity; large where the manifold is sparse or ragged.
    - `order`: (n,) int32, every sample once, the best to keep first.
    - `kept`: (m,) int32, the first m of `order`: the samples to train on.
    - `removed`: (n - m,) int32, the rest of `order`: the samples to leave out.
    - `embedding`: (n, c) coordinates of the manifold.
    - `beta`: how strongly complex samples were avoided, as given or as `choose_beta` chose.
    - `recall`: the fraction of the true neighbors that the manifold's graph holds, 1 where the
      search was exact.
    - `result`: `RESULTS.successful`, or what was remarkable about the data; `RESULTS[result]` is a
      sentence.
    """

    scores: Float[Array, " n"]
    order: Int[Array, " n"]
    kept: Int[Array, " m"]
    removed: Int[Array, " n-m"]
    embedding: Float[Array, "n c"]
    beta: Float[Array, ""]
    recall: Float[Array, ""]
    result: RESULTS


def rank(
    features: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput | None = None,
    n_neighbors: int = 15,
    neighbors: str | NeighborGraph = "auto",
    patch_size: int = 64,
    beta: float | Array | None = None,
    agreement_power: float = 4.0,
    normalize: bool = True,
    embedding: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
    key: Key | None = None,
) -> Ranking:
    r"""Which samples to keep when a fraction `ratio` of them is REMOVED.

    1. x_i = features of sample i, scaled to unit length.
    2. mu = `fuzzy_simplicial_set(knn_graph(x))`: the manifold, globally.
    3. z = `embed(mu)`: its low-dimensional embedding.
    4. s_i = `structural_complexity(z)_i`: total persistence of the patch of i and its m - 1 nearest
       points in z, of its own class where labels are given.
    5. w_i = a_i^gamma exp(-beta r_i), r_i = rank of s_i within its class (without labels: within
       one of 20 k-means strata of z), scaled to [0, 1). With labels a_i is `class_agreement(mu)_i`,
       at least .001, gamma = 4 and beta = -1: complex samples are preferred, unless they lie among
       another class. Without labels a_i = 1, and beta is the largest of 2, 1, 1/2, 1/4 and 0 at
       which what is kept stands for the rest nearly as well as at 0 (`choose_beta`): simple
       samples are preferred, as nothing tells which of the complex ones can be trusted.
    6. `order` = greedy maximization of F(S) = sum_j w_j max_{i in S} mu_ij, by `select`; with
       labels mu is built within the classes and every class keeps its share.

    Every step is a public function, for those who want another one in its place.

    **Arguments:**

    - `features`: (n, d) latent features from any pretrained model: NumPy (memory-mapped too) or
      JAX, float16, bfloat16, float32, float64 or integers; or a list of such arrays, the shards of
      the features in their order; or an iterator of batches. What is on disk is read a slab at a
      time and held once, as float32.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1; 0.9 keeps a tenth:
      m = max(1, round((1 - ratio) n)).
    - `labels`: (n,) classes, integers or strings. With labels the selection is better for training
      a classifier, and balanced as the data are.
    - `n_neighbors`: k of the graphs, at least 1; at most n - 1 are used.
    - `neighbors`: how the neighbors of the manifold's graph are found: `"exact"`, `"projected"`
      (many features) or `"blocks"` (many samples), the methods of `knn_graph`; or `"auto"`, which
      is `"blocks"` on a CPU for more than 100,000 samples and `"exact"` otherwise; or a
      `NeighborGraph` of the samples that was made elsewhere, by pynndescent or faiss for example.
      What was found is `recall`. Within classes the search is exact whatever is given here.
    - `patch_size`: m of the patches, at least 2; at most n are used.
    - `beta`: how strongly complex samples are avoided (above 0) or preferred (below). Unless given,
      -1 with labels, and without them chosen from the data, whatever the ratio.
    - `agreement_power`: gamma, with labels; 0 lets samples among other classes count as any other.
    - `normalize`: whether rows are scaled to unit length first. A single column never is, because
      only its sign would be left.
    - `embedding`: options of `embed`.
    - `progress`: called as `progress(stage, done, total)`; interrupting between two calls is safe.
      Not called while JAX traces.
    - `key`: typed PRNG key, `jax.random.key(0)` unless given. The same key gives the same bits on
      the same machine.

    **Returns:** a `Ranking`. `kept` and `removed` hold every index exactly once; what is kept at a
    ratio is part of what is kept at every smaller one.

    **Raises:** TypeError or ValueError with one sentence that says what was got, what is expected
    and what to change, for features that are no finite 2-D array of real numbers, a ratio outside
    [0, 1), labels of another length, or an option out of range.

    Works under `jit` and `vmap`, for many data sets of one size or many keys in one call. Values
    cannot be looked at there: labels must be integers, rows that are not finite are taken for
    zeros, and `result` says so. Rounding differs there, and with it some picks. For one large data
    set the call outside of `jit` is faster: there the choice of beta ends with the first that will
    do, and neighbors in few dimensions are found without comparing all points.

    Source: the method follows TopoPrune (arXiv 2602.02739), whose public text gives no formulas;
    these are this package's own.

    ```python
    >>> import jax, topoprune_jax as tp
    >>> features = jax.random.normal(jax.random.key(1), (200, 16))
    >>> ranking = tp.rank(features, 0.9)
    >>> ranking.kept.shape, ranking.removed.shape
    ((20,), (180,))

    ```
    """
    ratio = checks.check_ratio(ratio)
    if any(checks.is_traced(value) for value in (features, labels, beta, key)):
        progress = None
    if checks.is_traced(features):
        points, identical, finite = traced_unit_rows(features, normalize=normalize)
        result = RESULTS.where(identical, RESULTS.all_identical, RESULTS.successful)
        result = RESULTS.where(finite, result, RESULTS.features_not_finite)
    else:
        points, identical = unit_rows(features, normalize=normalize, progress=progress)
        result = RESULTS.all_identical if identical else RESULTS.successful
    n = points.shape[0]
    codes = None if labels is None else checks.check_labels(labels, n)
    k = checks.check_count(n_neighbors, name="n_neighbors", low=1)
    _check_neighbors(neighbors, n)
    checks.check_count(patch_size, name="patch_size", low=2)
    if beta is not None:
        beta = checks.check_beta(beta)
    agreement_power = checks.check_number(agreement_power, name="agreement_power", low=0)
    check_options(embedding, name="embedding")
    key = checks.check_key(jax.random.key(_DEFAULT_SEED) if key is None else key)
    start_key, embed_key, strata_key = jax.random.split(key, 3)

    # One neighbor at least, so that a single sample has a graph: an empty slot.
    k = max(1, min(k, n - 1))
    if isinstance(neighbors, NeighborGraph):
        graph = neighbors
    else:
        method = _method(neighbors, n)
        graph = nearest_neighbors(points, k, method=method, progress=progress)
    fuzzy_set = _step("fuzzy set", progress, partial(fuzzy_simplicial_set, graph))
    c = int(embedding.n_components)
    start = _step("start", progress, lambda: _start(points, fuzzy_set, c, start_key))
    z = embed(fuzzy_set, embedding, start=start, progress=progress, key=embed_key)
    scores = structural_complexity(z, labels=codes, patch_size=patch_size, progress=progress)
    selection, beta = _select(
        points,
        fuzzy_set,
        z,
        scores,
        ratio,
        codes,
        k=k,
        beta=beta,
        agreement_power=agreement_power,
        progress=progress,
        key=strata_key,
    )
    return Ranking(
        scores=scores,
        order=selection.order,
        kept=selection.kept,
        removed=selection.removed,
        embedding=z,
        beta=beta,
        recall=graph.recall,
        result=result,
    )


def _check_neighbors(neighbors: str | NeighborGraph, n: int) -> None:
    if isinstance(neighbors, NeighborGraph):
        check_graph(neighbors)
        if neighbors.n_points != n:
            raise ValueError(
                f"`neighbors` must be a graph of the {n} samples; got one of {neighbors.n_points} "
                "points. Make it from the same features."
            )
    elif not isinstance(neighbors, str) or neighbors not in NEIGHBORS:
        raise ValueError(
            "`neighbors` must be 'auto', 'exact', 'projected', 'blocks' or a NeighborGraph; got "
            f"{neighbors if isinstance(neighbors, str) else type(neighbors).__name__}."
        )


def _method(neighbors: str, n: int) -> str:
    """The method of `knn_graph` that is meant."""
    if neighbors != "auto":
        return neighbors
    is_long = jax.default_backend() == "cpu" and n > _EXACT_ON_CPU
    return "blocks" if is_long else "exact"


def _step(stage: str, progress: Progress | None, compute: Callable[[], T]) -> T:
    """Runs a stage of one step, and waits for it where somebody watches."""
    if progress is None:
        return compute()
    progress(stage, 0, 1)
    result = jax.block_until_ready(compute())
    progress(stage, 1, 1)
    return result


def _start(points, fuzzy_set, n_components, key) -> Array:
    """Low eigenvectors of the graph, found from the principal components of the features: the
    same whatever the key, up to how far the iteration has converged."""
    pca_key, spectral_key = jax.random.split(key)
    guess = principal_components(points, n_components, key=pca_key)
    return spectral_start(fuzzy_set, n_components, guess=guess, key=spectral_key)


def _select(
    points, fuzzy_set, z, scores, ratio, codes, *, k, beta, agreement_power, progress, key
) -> tuple[Selection, Array]:
    """Label-free on the manifold's own fuzzy set, label-aware on one built within the classes."""
    if codes is None:
        n_strata = min(_N_STRATA, z.shape[0])
        strata = _step("strata", progress, lambda: kmeans_strata(z, n_strata, key=key))
        if beta is None:
            beta = choose_beta(points, fuzzy_set, scores, strata=strata, progress=progress, key=key)
        groups = {"strata": strata}
    else:
        agreement = jnp.maximum(class_agreement(fuzzy_set, codes), _LEAST_AGREEMENT)
        weights = agreement**agreement_power
        graph = nearest_neighbors(
            points, k, codes=codes, stage="class neighbors", progress=progress
        )
        fuzzy_set = _step("class fuzzy set", progress, partial(fuzzy_simplicial_set, graph))
        beta = _BETA_WITH_LABELS if beta is None else beta
        groups = {"labels": codes, "weights": weights}
    selection = select(fuzzy_set, scores, ratio, **groups, beta=beta, progress=progress)
    return selection, jnp.asarray(beta, points.dtype)
