"""Communities of the fuzzy simplicial set: the classes that the manifold itself falls into."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int, Num

from . import _checks as checks
from ._components import connected_components
from ._coverage import edges_within
from ._distance import rescale, varying_with
from ._fuzzy import FuzzySimplicialSet, check_fuzzy_set, reverse_rows
from ._strata import kmeans_centers, nearest_center
from ._sums import sums_by_row
from ._types import Array, ArrayInput, Key

N_CELLS = 128
_MOST_CELLS = 4096  # whose pairs are numbered, and looked through for every merger
_OF_CELL = 20  # samples of a cell at least, on average
_SAMPLE = 10_000  # that the centers of the cells are found from
_STEPS = 10  # of Lloyd's iteration
_APART = 64.0  # between components, whose own coordinates are from -1 to 1
_TILE = 1 << 11  # samples whose nearest centers, or best communities, are sought at a time
_ROUNDS = 10  # in which samples change the community
_SETTLED = 1e-3  # of the samples, at most, that change it in the last one


def modularity(fuzzy_set: FuzzySimplicialSet, groups: ArrayInput) -> Float[Array, ""]:
    r"""How much more of the memberships lies within groups than their degrees let expect.

        Q = sum over i, j of the same group of (mu_ij / V - D_i D_j / V^2),

    D_i = sum over j of mu_ij, V = sum over i of D_i: at most 1, 0 for a single group, and for a
    fuzzy set without edges.

    **Arguments:** `fuzzy_set` of n samples; `groups`, (n,) labels of any kind.
    **Raises:** TypeError or ValueError with one sentence for groups of another length.

    Works under `jit` and `vmap`. Source: Newman, Girvan 2004 (arXiv cond-mat/0308217), for weights
    Newman 2004 (arXiv cond-mat/0407503).

    ```python
    >>> import topoprune_jax as tp
    >>> points = [[0.0], [0.1], [5.0], [5.1]]
    >>> fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=1))
    >>> float(tp.modularity(fuzzy_set, [0, 0, 1, 1]))
    0.5

    ```
    """
    check_fuzzy_set(fuzzy_set)
    codes = checks.check_labels(groups, fuzzy_set.n_points, name="groups")
    return _modularity(fuzzy_set, codes, fuzzy_set.degrees)


def communities(
    fuzzy_set: FuzzySimplicialSet,
    coordinates: ArrayInput,
    *,
    n_cells: int = N_CELLS,
    key: Key,
) -> Int[Array, " n"]:
    r"""Groups of samples that are joined within and apart from each other; as many as there are.

    1. Cells: k-means of the coordinates, 128 cells, or n / 20 if those are fewer; of an even part
       of more than 10,000 samples. Connected components lie apart there, if they have an average
       cell's number of samples.
    2. Cells are merged, always the two whose union raises the `modularity` Q most, until none does
       (Clauset, Newman, Moore 2004, arXiv cond-mat/0408187, from cells in the place of single
       samples).
    3. Samples move to the community c that, among those of their neighbors N(i) and their own, has
       the largest

           sum over j of N(i) in c of mu_ij / sum over all j of N(i) of mu_ij
               - sum over j in c of D_j / sum over all j of D_j,

       all at once, up to 10 times, until one in a thousand does.

    What a sample looks like is told by the coordinates, how many communities there are by the fuzzy
    set: 10 and 11 for the features of two networks on CIFAR-10's 10 classes, with 92 and 81 % of
    the samples in one of their majority's class (benchmarks/README.md), 14 for scikit-learn's 10
    digits.

    **Arguments:**

    - `fuzzy_set`: mu, of n samples.
    - `coordinates`: (n, c), those of `spectral_embedding` or of `embed`.
    - `n_cells`: from 1 to 4096; there are as many communities at most.
    - `key`: of the first cells.

    **Returns:** (n,) int32 codes, numbered from 0 in the order of their first samples.

    **Raises:** TypeError or ValueError with one sentence for coordinates of another length or that
    are not finite, or an option out of range.

    Works under `jit` and `vmap`; O(n (k^2 + c n_cells)) time, O(n k) memory.

    ```python
    >>> import jax, jax.numpy as jnp, topoprune_jax as tp
    >>> x = jnp.concatenate([jnp.arange(0.0, 8.0, 0.1), jnp.arange(9.0, 17.0, 0.1)])[:, None]
    >>> fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(x, n_neighbors=5))
    >>> groups = tp.communities(fuzzy_set, x, key=jax.random.key(0))
    >>> bool(groups[0] != groups[-1]), float(tp.modularity(fuzzy_set, groups)) > 0.6
    (True, True)

    ```
    """
    check_fuzzy_set(fuzzy_set)
    n = fuzzy_set.n_points
    points = checks.check_points(coordinates, name="coordinates")
    if points.shape[0] != n:
        raise ValueError(
            f"`coordinates` must have {n} rows, one for every sample of the fuzzy set; got shape "
            f"{points.shape}. Pass what `spectral_embedding` or `embed` made of that set."
        )
    cells = cells_for(n, checks.check_count(n_cells, name="n_cells", low=1, high=_MOST_CELLS))
    checks.check_key(key)
    return communities_of(fuzzy_set, points, connected_components(fuzzy_set), cells, key=key)


def cells_for(n: int, most: int = N_CELLS) -> int:
    """How many cells n samples have."""
    return max(1, min(most, n // _OF_CELL))


def compile_communities(fuzzy_set: Any, c: int) -> None:
    """Compiles what `communities_of` takes for a set of these shapes in so many coordinates."""
    n = fuzzy_set.n_points
    coordinates = jax.ShapeDtypeStruct((n, c), fuzzy_set.memberships.dtype)
    parts, key = jax.ShapeDtypeStruct((n,), np.int32), jax.eval_shape(jax.random.key, 0)
    communities_of.lower(fuzzy_set, coordinates, parts, cells_for(n), key=key).compile()


@partial(jax.jit, static_argnames="n_cells")
def communities_of(
    fuzzy_set: FuzzySimplicialSet,
    coordinates: Float[Array, "n c"],
    parts: Int[Array, " n"],
    n_cells: int,
    *,
    key: Key,
) -> Int[Array, " n"]:
    """`communities` of a set whose components are known."""
    degrees = fuzzy_set.degrees
    cells = _cells(coordinates, parts, n_cells, key)
    codes = _merged(_contact(fuzzy_set, cells, n_cells))[cells]
    return _numbered(_settled(fuzzy_set, codes, degrees, n_cells), n_cells)


@jax.jit
def _modularity(fuzzy_set: FuzzySimplicialSet, codes: Int[Array, " n"], degrees: Any):
    n = fuzzy_set.n_points
    volume = jnp.sum(degrees)
    volume = jnp.where(volume > 0, volume, 1)
    edges = edges_within(fuzzy_set, codes)
    within = jnp.sum(edges.memberships) + jnp.sum(edges.reverse_memberships)
    share = _volumes(codes, degrees, n) / volume
    return within / volume - jnp.sum(share * share)


def _volumes(codes: Int[Array, " n"], degrees: Float[Array, " n"], n_codes: int):
    """The sum of the degrees of every group."""
    return sums_by_row(degrees, codes, n_codes, most=codes.shape[0])


def _cells(
    coordinates: Float[Array, "n c"], parts: Int[Array, " n"], n_cells: int, key: Key
) -> Int[Array, " n"]:
    n = coordinates.shape[0]
    size = jnp.zeros(n, jnp.int32).at[parts].add(1)
    is_large = size >= -(-n // n_cells)
    place = jnp.where(is_large, jnp.cumsum(is_large, dtype=jnp.int32), 0)[parts]
    scaled, _ = rescale(coordinates)
    apart = _APART * place.astype(scaled.dtype)
    points = jnp.concatenate([scaled, apart[:, None]], axis=1)
    some = min(n, _SAMPLE)
    sample = points[np.arange(some) * n // some]
    centers = kmeans_centers(sample, n_cells, steps=_STEPS, key=key)
    return lax.map(lambda rows: nearest_center(rows, centers), _tiles(points)).ravel()[:n]


def _tiles(values: Num[Array, "n *w"]) -> Num[Array, "tiles rows *w"]:
    """As many rows at a time as are looked at in one go, zeros after the last."""
    n = values.shape[0]
    tile = min(_TILE, n)
    padded = jnp.pad(values, ((0, -n % tile), *((0, 0),) * (values.ndim - 1)))
    return padded.reshape(-1, tile, *values.shape[1:])


def _contact(
    fuzzy_set: FuzzySimplicialSet, cells: Int[Array, " n"], n_cells: int
) -> Float[Array, "m m"]:
    """The memberships between every two cells, from both ends."""
    n, k = fuzzy_set.indices.shape
    listed = cells[:, None] * n_cells + cells[jnp.maximum(fuzzy_set.indices, 0)]
    rows = jnp.minimum(reverse_rows(fuzzy_set), n - 1)
    others = cells[rows] * n_cells + cells[jnp.maximum(fuzzy_set.reverse_indices, 0)]
    size, most = n_cells * n_cells, n * k
    total = sums_by_row(fuzzy_set.memberships.ravel(), listed.ravel(), size, most=most)
    total += sums_by_row(fuzzy_set.reverse_memberships, others, size, most=most)
    total = total.reshape(n_cells, n_cells)
    return (total + total.T) / 2  # which rounding alone makes a difference to


def _merged(contact: Float[Array, "m m"]) -> Int[Array, " m"]:
    """What cell every cell is merged into."""
    m = contact.shape[0]
    numbers = jnp.arange(m, dtype=jnp.int32)
    is_same = numbers[:, None] == numbers[None, :]
    volume = jnp.sum(contact)

    def gains(share: Float[Array, "m m"]) -> Float[Array, "m m"]:
        """Half of what the union of two would add to the modularity."""
        own = jnp.sum(share, axis=1)
        return jnp.where(is_same, -1, share - own[:, None] * own[None, :])

    def merge(state):
        share, into, best, _ = state
        one, other = best // m, best % m
        kept, gone = jnp.minimum(one, other), jnp.maximum(one, other)
        share = share.at[kept].add(share[gone])
        share = share.at[:, kept].add(share[:, gone])
        is_gone = numbers == gone
        share = jnp.where(is_gone[:, None] | is_gone[None, :], 0, share)
        return share, jnp.where(into == gone, kept, into), *largest(share)

    def largest(share):
        gain = gains(share).ravel()
        best = jnp.argmax(gain).astype(jnp.int32)
        return best, gain[best]

    share = contact / jnp.where(volume > 0, volume, 1)
    start = share, varying_with(numbers, contact), *largest(share)
    return lax.while_loop(lambda state: state[3] > 0, merge, start)[1]


def _settled(
    fuzzy_set: FuzzySimplicialSet,
    codes: Int[Array, " n"],
    degrees: Float[Array, " n"],
    n_codes: int,
) -> Int[Array, " n"]:
    """After samples have moved to the communities of their neighbors."""
    n = fuzzy_set.n_points
    neighbors, mu = jnp.maximum(fuzzy_set.indices, 0), fuzzy_set.memberships
    listed = jnp.sum(mu, axis=1)
    mu = mu / jnp.where(listed > 0, listed, 1)[:, None]
    edges = _tiles(neighbors), _tiles(mu)
    volume = jnp.sum(degrees)
    volume = jnp.where(volume > 0, volume, 1)

    def best_of(codes, share, rows):
        """Of a tile of samples the best communities. Their own, which stay if others are as good,
        come first; those of samples without edges stay."""
        own, neighbors, mu = rows
        theirs = codes[neighbors]
        asked = jnp.concatenate([own[:, None], theirs], axis=1)
        is_of = asked[:, :, None] == theirs[:, None, :]
        gain = jnp.sum(jnp.where(is_of, mu[:, None, :], 0), axis=2) - share[asked]
        best = jnp.argmax(jnp.where((mu > 0).any(axis=1)[:, None], gain, 0), axis=1)
        return jnp.take_along_axis(asked, best[:, None], axis=1)[:, 0]

    def move(state):
        step, codes, _ = state
        share = _volumes(codes, degrees, n_codes) / volume
        tiles = _tiles(codes), *edges
        found = lax.map(partial(best_of, codes, share), tiles).ravel()[:n]
        return step + 1, found, jnp.sum(found != codes, dtype=jnp.int32)

    def moves(state):
        step, _, moved = state
        return (step < _ROUNDS) & (moved > int(_SETTLED * n))

    start = jnp.int32(0), codes, jnp.int32(n)
    start = varying_with(start, fuzzy_set.memberships)
    return lax.while_loop(moves, move, start)[1]


def _numbered(codes: Int[Array, " n"], n_codes: int) -> Int[Array, " n"]:
    """Numbers from 0 on, without those that nobody has, in the order of the first samples."""
    n = codes.shape[0]
    first = jnp.full(n_codes, n, jnp.int32).at[codes].min(jnp.arange(n, dtype=jnp.int32))
    number = (
        jnp.zeros(n_codes, jnp.int32)
        .at[jnp.argsort(first)]
        .set(jnp.arange(n_codes, dtype=jnp.int32))
    )
    return number[codes]
