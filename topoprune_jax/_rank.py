"""`rank`: the global scale, the local scale and the selection in one call."""

import os
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Float, Int

from . import _checks as checks
from ._checkpoint import check_checkpoint, fingerprint
from ._communities import cells_for, communities_of, compile_communities
from ._components import compile_components, connected_components, count_of
from ._discriminant import AUTO, FEATURES, check_space, in_space, n_classes_of, space_for
from ._embedding import embed
from ._embedding_options import EmbeddingOptions, check_options
from ._features import as_parts, divided_unit_rows, known_shape, traced_unit_rows, unit_rows
from ._fuzzy import compile_fuzzy_set, fuzzy_simplicial_set, shapes_of_fuzzy_set
from ._graph import (
    LEAST_RECALL,
    NEIGHBORS,
    NeighborGraph,
    check_graph,
    exact_patches_for,
    method_for,
    nearest_neighbors,
)
from ._graph_exact import TILE_BYTES
from ._mesh import check_agreed, check_mesh, check_same, known
from ._plan import fitting_tiles, in_discriminant_space, judged_for_noise, problem_of
from ._results import RESULTS
from ._ring import Rows, on_host
from ._score import structural_complexity
from ._select import (
    agreement_weights,
    class_agreement,
    compile_selection,
    kept_count,
    power_for,
    select,
)
from ._spectral import (
    check_manifold,
    compile_eigenmap,
    components_for,
    principal_guess,
    spectral_embedding,
    spectral_start,
)
from ._steps import Run, beside, compiled_ahead, running
from ._types import Array, ArrayInput, Key, Progress

_DEFAULT_SEED = 0
_BETA = -1.0
_BESIDE_UP_TO = 200_000  # samples, whose pieces of an embedding take less than a second
# Enough for the scores: what further rounds still turn are nearly equal eigenvectors.
_ACCURACY = {"rounds": 12, "tolerance": 0.01}
_compiled: set[tuple[Any, ...]] = set()  # what for, and of which shapes


class Ranking(eqx.Module):
    """What `rank` returns.

    **Attributes:**

    - `scores`: (n,) structural complexity; large where the manifold is sparse or ragged.
    - `order`: (n,) int32, every sample once, the best to keep first.
    - `kept`: (m,) int32, the first m of `order`: the samples to train on.
    - `removed`: (n - m,) int32, the rest of `order`: the samples to leave out.
    - `embedding`: (n, c) coordinates by UMAP's model, two of them unless asked otherwise: a map to
      look at.
    - `manifold`: (n, c') coordinates in which patches were taken and measured.
    - `beta`: how strongly complex samples were avoided, as given; -1 unless given.
    - `agreement_power`: how strongly samples among other classes, or communities, were, as given or
      as `choose_agreement_power` chose.
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
    manifold: Float[Array, "n e"]
    beta: Float[Array, ""]
    agreement_power: Float[Array, ""]
    recall: Float[Array, ""]
    result: RESULTS


def rank(
    features: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput | None = None,
    n_neighbors: int = 15,
    neighbors: str | NeighborGraph = "auto",
    manifold: str = "spectral",
    patch_size: int = 64,
    beta: float | Array | None = None,
    agreement_power: float | None = None,
    space: str = AUTO,
    normalize: bool = True,
    embedding: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 (frozen)
    checkpoint: str | os.PathLike[str] | None = None,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
    key: Key | None = None,
) -> Ranking:
    r"""Which samples to keep when a fraction `ratio` of them is REMOVED.

    1. x_i = features of sample i, scaled to unit length; with labels, if they are noisy
       (`noise_share` above an eighth), their `discriminant_coordinates` from here on.
    2. mu = `fuzzy_simplicial_set(knn_graph(x))`: the manifold, globally.
    3. z = `spectral_embedding(mu, 16, by_component=True)`: coordinates of the manifold, without
       randomness.
    4. s_i = `structural_complexity(z)_i`: total persistence of the patch of i and its m - 1 nearest
       points in z, of its own connected component of mu, and of its own class where labels are
       given.
    5. w_i = a_i^gamma exp(-beta r_i), r_i = rank of s_i within its class, scaled to [0, 1); without
       labels the classes are the `communities` of mu and z, from here on. a_i is
       `class_agreement(mu)_i`, at least .001, gamma from 4 to 64, the larger the better large
       classes lie apart (`choose_agreement_power`), and beta = -1: complex samples are preferred,
       unless they lie among another class.
    6. `order` = greedy maximization of F(S) = sum_j w_j max_{i in S} mu_ij, by `select`, where
       every class keeps its share. With labels mu is built within the classes for it; communities
       have most of their neighbors themselves.

    Every step is a public function, for those who want another one in its place.

    With `checkpoint` what is finished goes into a folder: every stage when it ends, and pieces of
    the long ones about every 10 seconds. A run that was killed at any moment goes on from there
    when it is called again with the same arguments, and ends with the same bits as one that was
    not, on the same machine. A file that is cut off or has a wrong bit is found out by its digest
    and computed anew. The folder holds O(n (k + m)) numbers at most, and O(n) in the end; then
    another `ratio`, on which nothing that is kept depends, costs no more than reading the features.

    Ctrl-C raises KeyboardInterrupt within a second or so, in the middle of a stage too; only while
    XLA compiles it has to wait. What the device has begun goes on in the background to the end of
    the piece, or of the stage where `progress` reports that as one piece.

    **Arguments:**

    - `features`: (n, d) latent features from any pretrained model: NumPy (memory-mapped too) or
      JAX, float16, bfloat16, float32, float64 or integers; or a list of such arrays, the shards of
      the features in their order; or an iterator of batches. What is on disk is read a slab at a
      time and held once, as float32.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1; 0.9 keeps a tenth:
      m = max(1, round((1 - ratio) n)), halves up (`kept_count`).
    - `labels`: (n,) classes, integers or strings. With labels the selection is better for training
      a classifier, and balanced as the data are.
    - `n_neighbors`: k of the graphs, at least 1; at most n - 1 are used.
    - `neighbors`: how the neighbors of the manifold's graph are found: `"exact"`, `"projected"`
      (many features) or `"blocks"` (many samples), the methods of `knn_graph`; or `"auto"`, which
      is `"blocks"` on a single CPU for more than 30,000 samples, and `"exact"` otherwise and where
      blocks have found less than 95 % of the neighbors of up to 100,000; or a `NeighborGraph` of
      the samples that was made elsewhere, by pynndescent or faiss for example.
      What was found is `recall`. Within classes the search is exact whatever is given here. Patches
      are exact up to 50,000 samples (of a class), where blocks are tried up to 25,000; see
      `exact_up_to` of `structural_complexity`.
    - `manifold`: where patches are taken: `"spectral"`, the first 16 coordinates of
      `spectral_embedding`, for which nothing is drawn, so that all but the field `embedding` is the
      same for every key; or `"embedding"`, the coordinates of `embed`, as in TopoPrune.
    - `patch_size`: m of the patches, at least 2; at most n are used.
    - `beta`: how strongly complex samples are avoided (above 0) or preferred (below); -1 unless
      given.
    - `agreement_power`: gamma; 0 lets samples among other classes count as any other.
      Unless given, what `choose_agreement_power` finds in the data, 4 to 64. Above 4
      w_i = max(a_i^gamma, a_i^4 / 1000) exp(-beta r_i), so that unclear samples have an order too.
    - `space`: where samples are compared, with labels: `"features"`; in `discriminant_features`,
      which are the features with the discriminant coordinates of the classes beside them; in
      `discriminant_coordinates` alone, which are few and soon searched, but tell nothing of what
      is different within a class; or `"auto"`, which is these where `noise_share` of the features
      is above an eighth and there are ten samples a feature, as `RESULTS.features_noisy` in
      `result` says then, and `"features"` elsewhere, without labels, with a graph from elsewhere
      and while JAX traces. On noisy features the coordinates are better, on others they may be
      worse, as where labels are wrong (benchmarks/README.md). Of more than 65,536 samples they are
      those of an even part. Not while JAX traces: there rank what these functions return, with
      `normalize=False`.
    - `normalize`: whether rows are scaled to unit length first. A single column never is, because
      only its sign would be left.
    - `embedding`: options of `embed`. Unless patches are taken there, it is made for looking at
      only; `EmbeddingOptions(n_epochs=0)` saves its time.
    - `checkpoint`: the path of a folder of this ranking's own, made if it is missing.
    - `mesh`: devices that share the work, of one process or of several that all make this call.
      Each holds its share of the features. These are an array that is the same in every process,
      which reads its own rows only; or a JAX array of which each process holds some rows, and whose
      mesh is used unless one is given. Every process gets the whole ranking, on CPU with the bits
      of a single device with `neighbors="exact"`, which `"auto"` is there; but beyond 50,000
      samples (of a class, with labels) a single CPU seeks the patches by blocks, a mesh exactly.
    - `progress`: called as `progress(stage, done, total)`; interrupting between two calls is safe.
      On a CPU a call without it, and without `checkpoint`, finds the embedding and the communities
      of up to 200,000 samples beside the other stages, in less time and with the embedding's memory
      besides; the bits are the same.
      Not called while JAX traces.
    - `key`: typed PRNG key of the embedding, `jax.random.key(0)` unless given. The same key gives
      the same bits on the same machine.

    **Returns:** a `Ranking`. `kept` and `removed` hold every index exactly once; what is kept at a
    ratio is part of what is kept at every smaller one.

    **Raises:** TypeError or ValueError with one sentence that says what was got, what is expected
    and what to change, for features that are no finite 2-D array of real numbers, a ratio outside
    [0, 1), labels of another length, or an option out of range; ValueError if `checkpoint` holds
    another ranking (data, options, key, versions or device differ; the sentence says which), and
    `io.FileError` if it cannot be written, holds other files, or another process is at work on it.
    With a mesh of several processes the same in all of them, ValueError if their arguments differ,
    and RuntimeError in the others if one dies.
    MemoryError, before anything is read, for more than can fit into the memory that is free: what
    is needed, what is there and what would fit. `plan` says so beforehand, and how long it takes.

    Works under `jit` and `vmap`, for many data sets of one size or many keys in one call. Values
    cannot be looked at there: labels must be integers, rows that are not finite are taken for
    zeros, and `result` says so. Rounding differs there, and with it some picks. For one large data
    set the call outside of `jit` is faster: there neighbors in few dimensions are found without
    comparing all points.

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
    traced = checks.is_tracing() or _any_traced(features, labels, neighbors, beta, key)
    if traced:
        progress = None
    if checkpoint is not None:
        if traced:
            raise TypeError(
                "`checkpoint` keeps values that are known; got traced ones. Leave it out inside "
                "`jit` and `vmap`."
            )
        check_checkpoint(checkpoint)
    mesh = check_mesh(mesh, features, traced=traced)
    k = checks.check_count(n_neighbors, name="n_neighbors", low=1)
    _check_name(neighbors)
    check_manifold(manifold)
    m = checks.check_count(patch_size, name="patch_size", low=2)
    if beta is not None:
        beta = checks.check_beta(beta)
    if agreement_power is not None:
        hint = "None lets the data choose."
        name = "agreement_power"
        agreement_power = checks.check_number(agreement_power, name=name, low=0, hint=hint)
    check_options(embedding, name="embedding")
    check_space(space)
    # A graph from elsewhere is of the features.
    if space == AUTO and (labels is None or traced or isinstance(neighbors, NeighborGraph)):
        space = FEATURES
    if space not in (AUTO, FEATURES):
        _check_discriminant(space, labels, traced)
    key = checks.check_key(jax.random.key(_DEFAULT_SEED) if key is None else key)

    def tiles(n: int, d: int, held: int) -> int:
        classes = () if labels is None else (n,)
        problem = problem_of(n, d, classes, k, neighbors, manifold, m, embedding)
        if space == AUTO:
            problem = judged_for_noise(problem)
        elif space != FEATURES:
            n_classes = n_classes_of(checks.check_labels(labels, n))
            problem = in_discriminant_space(problem, space, n_classes)
        return fitting_tiles(problem, held=held)

    if mesh is not None:
        labels = known(labels)
        sizes = (
            ratio,
            n_neighbors,
            neighbors,
            manifold,
            patch_size,
            beta,
            agreement_power,
            space,
            normalize,
        )
        given = {"features": features, "labels": labels, "options": (*sizes, embedding)}
        _check_shared(mesh, neighbors, given | {"key": key})
        points, identical = divided_unit_rows(
            features, mesh=mesh, normalize=normalize, progress=progress
        )
        result = RESULTS.all_identical if identical else RESULTS.successful
        neighbors = "exact" if isinstance(neighbors, str) else neighbors
        tile_bytes = TILE_BYTES
    elif checks.is_traced(features):
        points, identical, finite = traced_unit_rows(features, normalize=normalize)
        result = RESULTS.where(identical, RESULTS.all_identical, RESULTS.successful)
        result = RESULTS.where(finite, result, RESULTS.features_not_finite)
        tile_bytes = TILE_BYTES
    else:
        parts = as_parts(features)
        shape = known_shape(parts)
        tile_bytes = None if shape is None else tiles(*shape, held=0)
        points, identical = unit_rows(
            parts, normalize=normalize, progress=progress, tile_bytes=tile_bytes
        )
        del parts  # what was converted for it is of no more use
        result = RESULTS.all_identical if identical else RESULTS.successful
        if tile_bytes is None:
            tile_bytes = tiles(*points.shape, held=points.nbytes)
    n = points.shape[0]
    codes = None if labels is None else checks.check_labels(labels, n)
    if space != FEATURES:
        assert codes is not None  # seen above
        if space == AUTO:
            space = space_for(points, codes)
            if space != FEATURES:
                result = RESULTS.features_noisy
        if space != FEATURES:
            points = in_space(points, codes, space)
    if isinstance(neighbors, NeighborGraph):
        _check_size(neighbors, n)
    else:
        neighbors = method_for(neighbors, n)
        # How much was found is not known while JAX traces.
        neighbors = "exact" if neighbors == "auto" and traced else neighbors
    # One neighbor at least, so that a single sample has a graph: an empty slot.
    k = max(1, min(k, n - 1))
    options = {
        "n_neighbors": k,
        "manifold": manifold,
        "patch_size": m,
        "beta": beta,
        "agreement_power": agreement_power,
        "embedding": embedding,
    }

    def identity():
        graph = neighbors if isinstance(neighbors, NeighborGraph) else None
        method = neighbors if graph is None else "given"
        more: dict[str, Any] = {"space": space, "normalize": bool(normalize)}
        more["neighbors"] = method
        if mesh is not None:  # pieces are cut by the number of devices
            more["n_devices"] = mesh.size
        data = on_host(points) if isinstance(points, Rows) else points
        return fingerprint(data, {"labels": codes, "graph": graph}, key, options | more)

    near = () if isinstance(points, Rows) else (points,)
    with running(progress, checkpoint, identity) as run, compiled_ahead(near) as ahead:
        work = {"mesh": mesh, "tile_bytes": tile_bytes, "run": run, "ahead": ahead, "key": key}
        stages = partial(_stages, points, codes, neighbors, **options, **work)
        made = run.once("ranking", stages, lambda *arrays: arrays)
    scores, order, z, coordinates, beta, power, recall = made
    if mesh is not None:
        check_agreed(mesh, order)
    n_kept = kept_count(n, ratio)
    return Ranking(
        scores=scores,
        order=order,
        kept=order[:n_kept],
        removed=order[n_kept:],
        embedding=z,
        manifold=coordinates,
        beta=beta,
        agreement_power=power,
        recall=recall,
        result=result,
    )


def _stages(
    points,
    codes,
    neighbors,
    *,
    n_neighbors,
    manifold,
    patch_size,
    beta,
    agreement_power,
    embedding,
    tile_bytes,
    mesh,
    run,
    ahead,
    key,
) -> tuple[Array, ...]:
    """Scores, order, embedding, manifold, beta, power of the agreement and recall: all that does
    not depend on the ratio."""
    start_key, embed_key, cells_key = jax.random.split(key, 3)
    e = components_for(points.shape[0]) if manifold == "spectral" else 0
    is_given = isinstance(neighbors, NeighborGraph)
    k = neighbors.indices.shape[1] if is_given else n_neighbors
    shapes = points.shape[0], k, points.dtype
    has_communities = codes is None
    wait_for_manifold = ahead(partial(_compile_manifold, *shapes, e, has_communities))
    wait_for_selection = ahead(partial(_compile_selection, *shapes))
    if is_given:
        graph = neighbors
    else:
        search = partial(_graph_of, points, n_neighbors, neighbors, tile_bytes, run)
        graph = run.once("neighbors", search, NeighborGraph)
    wait_for_manifold()
    fuzzy_set = run.step("fuzzy set", partial(fuzzy_simplicial_set, graph))
    coordinates, parts, patch_groups = None, None, codes
    if manifold == "spectral":
        *_, cells_key = jax.random.split(jax.random.key(_DEFAULT_SEED), 3)  # whatever the key
        eigenmap = partial(spectral_embedding, fuzzy_set, e, by_component=True, **_ACCURACY)
        coordinates = run.once("manifold", lambda: run.step("manifold", eigenmap))
        parts = connected_components(fuzzy_set)
        patch_groups = _groups_of_patches(parts, codes)
    start, c = None, int(embedding.n_components)
    if embedding.start == "spectral":
        begin = partial(_start, points, fuzzy_set, c, start_key)
        if coordinates is not None and c <= coordinates.shape[1]:
            start = _cheaper_start(coordinates, c, fuzzy_set, parts, begin, run)
        else:
            start = run.once("start", lambda: run.step("start", begin))

    def find_embedding(run: Run) -> Array:
        options = {"start": start, "mesh": mesh, "progress": run, "key": embed_key}
        return run.once("embedding", partial(embed, fuzzy_set, embedding, **options))

    def find_communities(run: Run) -> Array:
        z = found_embedding() if coordinates is None else coordinates
        own_parts = connected_components(fuzzy_set) if parts is None else parts
        n_cells = cells_for(z.shape[0])
        divide = partial(communities_of, fuzzy_set, z, own_parts, n_cells, key=cells_key)
        return run.once("communities", lambda: run.step("communities", divide))

    # Where patches lie in the spectral manifold the embedding is of no other use.
    is_apart = coordinates is not None and mesh is None and points.shape[0] <= _BESIDE_UP_TO
    near = jax.tree.leaves((points, fuzzy_set, start, coordinates)) if is_apart else ()
    with beside(run, near) as side:
        found_communities = side(find_communities, waits_for_need=True) if has_communities else None
        found_embedding = side(find_embedding)
        where = found_embedding() if coordinates is None else coordinates
        exact_up_to = exact_patches_for("given" if is_given else neighbors)
        options = {"patch_size": patch_size, "exact_up_to": exact_up_to, "mesh": mesh}
        score = partial(structural_complexity, where, labels=patch_groups, **options)
        scores = run.once("complexity", partial(score, progress=run))
        wait_for_selection()
        order, beta, power = _order(
            points,
            fuzzy_set,
            scores,
            codes,
            found_communities,
            k=n_neighbors,
            beta=beta,
            agreement_power=agreement_power,
            tile_bytes=tile_bytes,
            run=run,
        )
        z = found_embedding()
    return scores, order, z, where, beta, power, graph.recall


def _compile_manifold(n: int, k: int, dtype: Any, e: int, has_communities: bool, run: Run) -> None:
    """Compiles what is run between the neighbors and the patches: once, as the search leaves cores
    idle while its own programs are compiled."""
    if ("manifold", n, k, dtype, e, has_communities) in _compiled:
        return
    stage, graph = "compilation", _shapes_of_graph(n, k, dtype)
    fuzzy_set = compile_fuzzy_set(graph)
    if e:
        run(stage, 1, 4)
        compile_eigenmap(fuzzy_set, e, **_ACCURACY)
        run(stage, 2, 4)
        compile_components(fuzzy_set)
        run(stage, 3, 4)
        if has_communities:
            compile_communities(fuzzy_set, e)
    _compiled.add(("manifold", n, k, dtype, e, has_communities))


def _compile_selection(n: int, k: int, dtype: Any, run: Run) -> None:
    """Compiles what is run after the patches."""
    if ("selection", n, k, dtype) in _compiled:
        return
    compile_selection(shapes_of_fuzzy_set(_shapes_of_graph(n, k, dtype)), run)
    _compiled.add(("selection", n, k, dtype))


def _shapes_of_graph(n: int, k: int, dtype: Any) -> NeighborGraph:
    def graph() -> NeighborGraph:
        return NeighborGraph(jnp.zeros((n, k), jnp.int32), jnp.zeros((n, k), dtype))

    return jax.eval_shape(graph)


def _any_traced(features, labels, neighbors, beta, key) -> bool:
    """Whether JAX traces any of these, shards and the arrays of a graph among them."""
    shards = features if isinstance(features, list | tuple) else [features]
    graph = jax.tree.leaves(neighbors) if isinstance(neighbors, NeighborGraph) else []
    return any(checks.is_traced(value) for value in (*shards, *graph, labels, beta, key))


def _check_discriminant(space: str, labels: Any, traced: bool) -> None:
    """Raises unless there are classes to discriminate."""
    if labels is None:
        checks.refuse(
            f"`space={space!r}` needs `labels`, whose classes its coordinates tell apart; got "
            "none. Pass labels, or leave `space` out."
        )
    if traced:
        raise TypeError(
            f"`space={space!r}` needs known values, since it has a coordinate for every class but "
            f"one; got traced ones. Pass `{space}(features, labels, n_components=...)` for "
            "features, with normalize=False."
        )


def _check_name(neighbors: str | NeighborGraph) -> None:
    if isinstance(neighbors, NeighborGraph):
        return
    if not isinstance(neighbors, str) or neighbors not in NEIGHBORS:
        raise ValueError(
            "`neighbors` must be 'auto', 'exact', 'projected', 'blocks' or a NeighborGraph; got "
            f"{neighbors if isinstance(neighbors, str) else type(neighbors).__name__}."
        )


def _check_size(graph: NeighborGraph, n: int) -> None:
    check_graph(graph)
    if graph.n_points != n:
        raise ValueError(
            f"`neighbors` must be a graph of the {n} samples; got one of {graph.n_points} "
            "points. Make it from the same features."
        )


def _check_shared(mesh: Mesh, neighbors: str | NeighborGraph, arguments: dict[str, Any]) -> None:
    """Raises unless a ranking of these can be divided among devices."""
    if isinstance(neighbors, str) and neighbors in ("projected", "blocks"):
        raise ValueError(
            "`neighbors` must be 'auto', 'exact' or a NeighborGraph on a mesh of devices; got "
            f"{neighbors!r}, a search that is not divided among them. 'exact' is."
        )
    check_same(mesh, **arguments)


def _graph_of(points, k, method, tile_bytes, run: Run) -> NeighborGraph:
    """By a method of `knn_graph`; with "auto" by blocks, and exactly where these find too little,
    as among independent features."""
    search = partial(nearest_neighbors, points, k, progress=run, tile_bytes=tile_bytes)
    if method != "auto":
        return search(method=method)
    by_blocks = partial(search, method="blocks")
    graph = run.once("blocks", by_blocks, NeighborGraph)
    return graph if float(graph.recall) >= LEAST_RECALL else search(method="exact")


def _start(points, fuzzy_set, n_components, key) -> Array:
    """Low eigenvectors of the graph, found from the principal components of the features: the
    same whatever the key, up to how far the iteration has converged."""
    pca_key, spectral_key = jax.random.split(key)
    guess = principal_guess(points, n_components, key=pca_key)
    return spectral_start(fuzzy_set, n_components, guess=guess, key=spectral_key)


def _cheaper_start(coordinates, c: int, fuzzy_set, parts, begin, run: Run) -> Array:
    """Of one component its first c coordinates; of several, which lie anywhere, `begin()`."""

    def own():
        return _by_degree(coordinates, fuzzy_set.degrees, c)

    if checks.is_traced(parts):
        return lax.cond(jnp.max(parts) > 0, begin, own)
    return own() if count_of(parts) == 1 else run.once("start", lambda: run.step("start", begin))


@partial(jax.jit, static_argnames="c")
def _by_degree(coordinates: Float[Array, "n e"], degrees, c: int) -> Float[Array, "n c"]:
    return coordinates[:, :c] * jnp.sqrt(degrees)[:, None]


def _groups_of_patches(parts, codes) -> Array | None:
    """Within which patches lie: components of the manifold, and classes within them."""
    if not checks.is_traced(parts) and count_of(parts) == 1:
        return codes
    if codes is None:
        return parts
    by_group = jnp.lexsort((codes, parts))
    differs = (jnp.diff(parts[by_group]) != 0) | (jnp.diff(codes[by_group]) != 0)
    number = jnp.pad(jnp.cumsum(differs, dtype=jnp.int32), (1, 0))
    return jnp.zeros_like(parts).at[by_group].set(number)


def _order(
    points,
    fuzzy_set,
    scores,
    codes,
    found_communities,
    *,
    k,
    beta,
    agreement_power,
    tile_bytes,
    run: Run,
) -> tuple[Array, Array, Array]:
    """Covers the manifold's own fuzzy set, with labels one that is built within the classes."""
    is_given = codes is not None
    codes = codes if is_given else found_communities()
    agreement = class_agreement(fuzzy_set, codes)
    power = power_for(agreement, codes) if agreement_power is None else agreement_power
    power = jnp.asarray(power, agreement.dtype)
    weights = agreement_weights(agreement, power)
    if is_given:
        name = "class neighbors"
        search = partial(nearest_neighbors, points, k, codes=codes, tile_bytes=tile_bytes)
        graph = run.once(name, partial(search, stage=name, progress=run), NeighborGraph)
        fuzzy_set = run.step("class fuzzy set", partial(fuzzy_simplicial_set, graph))
    beta = _BETA if beta is None else beta
    # The ratio plays no part in the order.
    groups = {"labels": codes, "weights": weights, "beta": beta}
    cover = partial(select, fuzzy_set, scores, 0.0, **groups, progress=run)
    order = run.once("selection", lambda: cover().order)
    return order, jnp.asarray(beta, points.dtype), jnp.asarray(power, points.dtype)
