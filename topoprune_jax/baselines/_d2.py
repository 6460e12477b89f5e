"""D2 pruning: difficulty passed along a neighbor graph, then a greedy that thins out the graph."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from .. import _checks as checks
from .._distance import unit_rows
from .._graph import NeighborGraph, nearest_neighbors
from .._types import Array, ArrayInput, Key
from ._ccs import check_difficulty, cut_count, cut_last, hardest_first
from ._common import Pruning, by_class, checked, pruning

_CHUNK = 16  # edges looked at in one go; most points have fewer
_LEAST = 1e-7  # a message is never smaller, as in the authors' code


def d2(
    features: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput | None = None,
    difficulty: ArrayInput | None = None,
    cutoff: float = 0.0,
    n_neighbors: int = 5,
    gamma_forward: float = 1.0,
    gamma_reverse: float = 0.1,
    normalize: bool = True,
    key: Key | None = None,
) -> Pruning:
    r"""D2 pruning: diversity and difficulty, balanced by messages along a graph.

    1. The floor(beta n) hardest samples are cut (beta = `cutoff`).
    2. The others make an undirected graph: i and j are joined where one is among the `n_neighbors`
       nearest of the other, at the Euclidean distance d_ij.
    3. Forward: s_i = x_i + sum_(j ~ i) exp(-gamma_forward d_ij^2) x_j, where x is the difficulty.
    4. Greedy: the sample i of the largest score is picked, and its neighbors that are left lose

           s_j <- s_j - exp(-gamma_reverse d_ij^2) s_i.

    **Arguments:**

    - `features`: (n, d) latent features.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.
    - `labels`: (n,) classes. Where given, neighbors are sought within classes, and every class
      keeps its share of the samples.
    - `difficulty`: (n,) larger = harder, such as `forgetting(...).scores` or `-aum(...).scores`.
      If any is negative, the least is subtracted from all. The scale does not matter. Without it
      x = 1 everywhere: no labels and no training dynamics are used, only density and diversity.
    - `cutoff`: beta, between 0 and `ratio`; needs `difficulty`.
    - `n_neighbors`: k, at least 1; at most n - 1 are used.
    - `gamma_forward`, `gamma_reverse`: not negative. The smaller, the farther messages reach; with
      the reverse one at 0, a pick silences all its neighbors alike.
    - `normalize`: whether rows are scaled to unit length first, which gives the gammas a scale. A
      single column never is, because only its sign would be left.
    - `key`: not used, for there is no randomness.

    **Returns:** a `Pruning`. `scores`: s after the forward pass, the difficulty itself for cut
    samples; larger is picked earlier, as far as no neighbor is. `order` is that of the picks,
    interleaved by class; the cut samples come last, the easiest first. With the same cutoff, what
    is kept at a ratio is part of what is kept at every smaller one.

    **Raises:** TypeError or ValueError with one sentence for features that are no finite 2-D array
    of real numbers, a ratio outside [0, 1), labels or a difficulty of another length, a negative
    gamma, fewer than one neighbor, a cutoff outside [0, ratio], or one without `difficulty`.

    Source: Maharana, Yadav, Bansal, "D2 Pruning: Message Passing for Balancing Diversity and
    Difficulty in Data Pruning", ICLR 2024, arXiv 2310.07931; github.com/adymaharana/d2pruning.

    **Fidelity:** checked against the authors' code: the undirected graph, the forward sum with own
    score ("sum" mode) and messages of at least 1e-7, the reverse update without clamping
    ("weighted" mode), the graph within classes, and AUM shifted by its least. Defaults: k = 5 and
    gamma_reverse = 0.1 are those of their command for CIFAR-10 with 90 % removed, which also cuts
    the hardest 40 % by AUM (`cutoff=0.4`) and takes forgetting counts as the difficulty;
    gamma_forward = 1 is fixed in their code. They tune k, gamma and the cut for every ratio; that
    table was not checked. Deviations: the kernel is a function of d^2, as in the paper's formula
    (not checked against its text) and as their DataComp code has it, where faiss returns d^2;
    their image code uses exp(-gamma d). They do not scale image features to unit length
    (`normalize=False`). Their other graph, with precomputed neighbors (ImageNet), is directed. They
    cut by AUM whatever the difficulty is, and share the budget among classes evenly, which for
    equal classes is the same. The version without difficulty is ours after the paper's
    self-supervised one, whose start was not checked.

    ```python
    >>> from topoprune_jax import baselines
    >>> features = [[0.0], [0.1], [0.2], [9.0]]
    >>> baselines.d2(features, 0.5, n_neighbors=2).kept.tolist()
    [1, 3]

    ```
    """
    points, n_kept, codes, _ = checked(features, ratio, labels, key)
    n = points.shape[0]
    k = checks.check_count(n_neighbors, name="n_neighbors", low=1)
    forward = checks.check_number(gamma_forward, name="gamma_forward", low=0)
    reverse = checks.check_number(gamma_reverse, name="gamma_reverse", low=0)
    if difficulty is None:
        if cutoff != 0:
            raise ValueError(
                f"`cutoff` needs `difficulty`; got cutoff={cutoff} without it. "
                "Pass the difficulty whose largest values are to be cut, or leave `cutoff` out."
            )
        hardness = jnp.ones(n, points.dtype)
    else:
        hardness = check_difficulty(difficulty, n).astype(points.dtype)
    n_cut = cut_count(n, n_kept, checks.check_ratio(ratio), cutoff)
    if normalize and points.shape[1] > 1:
        points = unit_rows(points)

    hardest = hardest_first(hardness)
    rest = jnp.sort(hardest[n_cut:])
    graph = nearest_neighbors(
        points[rest],
        max(1, min(k, n - n_cut - 1)),
        codes=None if codes is None else codes[rest],
    )
    scores, picks = _d2(
        graph,
        hardness[rest],
        jnp.asarray(forward, points.dtype),
        jnp.asarray(reverse, points.dtype),
    )
    order = jnp.concatenate([rest[picks], hardest[:n_cut][::-1]])
    cut = jnp.ones(n, bool).at[rest].set(False)
    return pruning(hardness.at[rest].set(scores), cut_last(by_class(order, codes), cut), n_kept)


class _Edges(eqx.Module):
    """Both directions of every edge, sorted by where they start."""

    offsets: Int[Array, " n+1"]
    sources: Int[Array, " e"]  # n for an empty slot
    targets: Int[Array, " e"]
    squared: Float[Array, " e"]  # infinite for an edge that is there twice, or not at all


class _Greedy(eqx.Module):
    """Scores in blocks, -inf once picked, so that the largest is found among few."""

    scores: Float[Array, "blocks width"]
    best: Float[Array, " blocks"]  # maximum of each row of `scores`
    order: Int[Array, " n"]


@jax.jit
def _d2(
    graph: NeighborGraph,
    hardness: Float[Array, " n"],
    forward: Float[Array, ""],
    reverse: Float[Array, ""],
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Scores after the forward pass, and the order of the picks."""
    n = hardness.shape[0]
    start = hardness - jnp.minimum(jnp.min(hardness), 0)
    scale = jnp.maximum(jnp.max(start), 1e-30)  # all is linear in it
    edges = _undirected(graph)
    messages = jnp.maximum(start / scale, _LEAST)[edges.targets]
    received = jax.ops.segment_sum(
        _kernel(forward, edges.squared) * messages,
        edges.sources,
        n + 1,
        indices_are_sorted=True,
    )[:n]
    scores = start / scale + received
    return scores * scale, _pick_all(edges, reverse, scores)


def _kernel(gamma: Float[Array, ""], squared: Float[Array, " e"]) -> Float[Array, " e"]:
    """The weight of a message; 0 at an infinite distance, even where gamma is 0."""
    present = squared < jnp.inf
    return jnp.where(present, jnp.exp(-gamma * jnp.where(present, squared, 0)), 0)


def _undirected(graph: NeighborGraph) -> _Edges:
    n, k = graph.indices.shape
    own = jnp.repeat(jnp.arange(n, dtype=jnp.int32), k)
    other = graph.indices.ravel()
    present = other >= 0
    sources = jnp.concatenate([jnp.where(present, own, n), jnp.where(present, other, n)])
    targets = jnp.concatenate([jnp.where(present, other, 0), jnp.where(present, own, 0)])
    squared = jnp.square(jnp.tile(graph.distances.ravel(), 2))
    order = jnp.lexsort((targets, sources))
    sources, targets, squared = sources[order], targets[order], squared[order]
    twice = (sources[1:] == sources[:-1]) & (targets[1:] == targets[:-1])
    there = jnp.append(jnp.ones(1, bool), ~twice) & (sources < n)
    return _Edges(
        offsets=jnp.searchsorted(sources, jnp.arange(n + 1, dtype=jnp.int32)).astype(jnp.int32),
        sources=sources,
        targets=targets,
        squared=jnp.where(there, squared, jnp.inf),
    )


def _pick_all(
    edges: _Edges, gamma: Float[Array, ""], scores: Float[Array, " n"]
) -> Int[Array, " n"]:
    n = scores.shape[0]
    width = max(1, int(np.ceil(np.sqrt(n))))
    n_blocks = -(-n // width)
    blocks = jnp.pad(scores, (0, n_blocks * width - n), constant_values=-jnp.inf)
    blocks = blocks.reshape(n_blocks, width)
    targets = jnp.pad(edges.targets, (0, _CHUNK))
    weights = jnp.pad(_kernel(gamma, edges.squared), (0, _CHUNK))

    def pick(step: Array, state: _Greedy) -> _Greedy:
        block = jnp.argmax(state.best).astype(jnp.int32)
        place = jnp.argmax(state.scores[block]).astype(jnp.int32)
        i = block * width + place
        score = state.scores[block, place]
        left = state.scores.at[block, place].set(-jnp.inf)

        def tell(c: Array, told: tuple[Array, Array]) -> tuple[Array, Array]:
            left, best = told
            start = edges.offsets[i] + c * _CHUNK
            slots = start + jnp.arange(_CHUNK, dtype=jnp.int32)
            neighbors = lax.dynamic_slice_in_dim(targets, start, _CHUNK)
            weight = lax.dynamic_slice_in_dim(weights, start, _CHUNK)
            weight = jnp.where(slots < edges.offsets[i + 1], weight, 0)
            rows, columns = neighbors // width, neighbors % width
            left = left.at[rows, columns].add(-weight * score)
            return left, best.at[rows].set(jnp.max(left[rows], axis=1))

        best = state.best.at[block].set(jnp.max(left[block]))
        n_chunks = -(-(edges.offsets[i + 1] - edges.offsets[i]) // _CHUNK)
        left, best = lax.fori_loop(0, n_chunks, tell, (left, best))
        return _Greedy(left, best, state.order.at[step].set(i))

    start = _Greedy(blocks, jnp.max(blocks, axis=1), jnp.zeros(n, jnp.int32))
    return lax.fori_loop(0, n, pick, start).order
