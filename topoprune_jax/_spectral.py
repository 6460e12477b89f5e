"""Linear views of the data: principal components, and low eigenvectors of the graph's Laplacian."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from . import _backend as backend
from . import _checks as checks
from ._axes import along_all, evenly
from ._components import connected_components, count_of
from ._distance import product, rescale, varying_with
from ._fuzzy import FuzzySimplicialSet, check_fuzzy_set, most_reverse_edges, reverse_rows
from ._locality import cells_of, in_order, near_order
from ._ring import Rows
from ._subspace import Parts, Whole
from ._sums import mean_row, over_rows, sums_by_row
from ._types import Array, ArrayInput, Key

_DEGREE = 12  # of the filter for `spectral_embedding`
MANIFOLDS = ("spectral", "embedding")
"""The names that `manifold` of `rank` may have."""
_COMPONENTS = 16
_SPARE = 3  # columns of the iteration beyond those that are sought, at least
_FIRST_CUT = 0.6  # eigenvalues of the adjacency below this are damped in the first round
_CUT_RANGE = (-0.5, 0.99)
_EDGES = 1 << 16  # that only one end lists, looked at in one go
_BLOCKS_AT_ONCE = 64  # of them on an accelerator
_LANES = 8  # numbers of a vector register: rows of so many are several times faster on a CPU
_COLUMNS_AT_ONCE = 16  # of the listed neighbors
_FAR = 1 << 16  # points whose vectors fit no cache of a core: edges are put into an order first
_OF_CELL, _MOST_CELLS = 200, 2048  # points, about, and cells of so many points
_APART = 8.0  # standard deviations of a component between the places of two, about


def principal_components(points: ArrayInput, n_components: int, *, key: Key) -> Float[Array, "n c"]:
    """Coordinates along the leading principal axes, by subspace iteration in O(n d c).

    **Arguments:** `points` (n, d); `n_components` c; `key` of the random start.
    **Returns:** (n, c), columns centered at 0 in order of falling variance, each up to its sign;
    columns beyond the dimension of the points are 0.

    Source: Halko, Martinsson, Tropp 2011, algorithm 4.4.

    ```python
    >>> import jax, jax.numpy as jnp, topoprune_jax as tp
    >>> line = jnp.stack([jnp.arange(5.0), jnp.zeros(5)], axis=1)
    >>> axis = tp.principal_components(line, 1, key=jax.random.key(0))
    >>> sorted(round(abs(float(x)), 3) for x in axis[:, 0])
    [0.0, 1.0, 1.0, 2.0, 2.0]

    ```
    """
    array = checks.check_points(points)
    c = checks.check_count(n_components, name="n_components", low=1)
    checks.check_key(key)
    return _principal_components(array, c, key=key)


def principal_guess(
    points: Float[Array, "n d"] | Rows, n_components: int, *, key: Key
) -> Float[Array, "n c"]:
    """`principal_components`, where points are many along the axes of an even sample of them.

    On a CPU with bits that depend on nothing but the points, see `along`.
    """
    sample = evenly(points)
    if sample.shape[0] == points.shape[0]:
        return principal_components(sample, n_components, key=key)
    center, axes = _principal_axes(sample, n_components, key=key)
    return along_all(points, center, axes)


@partial(jax.jit, static_argnames="n_components")
def _principal_axes(sample, n_components, *, key) -> tuple[Float[Array, " d"], Float[Array, "d c"]]:
    center = mean_row(sample)
    centered = sample - center[None, :]
    components = _principal_components(sample, n_components, key=key)
    length = jnp.sum(components * components, axis=0)
    # The components are the sample along the axes: A = X^T (X a) / |X a|^2 is a again, up to what
    # the iteration has left of other axes.
    axes = over_rows(centered, components)
    return center, axes / jnp.where(length > 0, length, 1)[None, :]


@partial(jax.jit, static_argnames="n_components")
def _principal_components(points, n_components, *, key):
    d = points.shape[1]
    width = min(d, n_components + 6)
    points, scale = rescale(points)
    centered = points - mean_row(points)[None, :]

    def power(_, axes):
        return jnp.linalg.qr(over_rows(centered, product(centered, axes)))[0]

    axes = jnp.linalg.qr(jax.random.normal(key, (d, width), points.dtype))[0]
    axes = lax.fori_loop(0, 8, power, varying_with(axes, points))
    scores = product(centered, axes)
    values, vectors = jnp.linalg.eigh(over_rows(scores, scores))
    order = jnp.argsort(-values)[:n_components]
    result = product(scores, vectors[:, order]) * scale
    return jnp.pad(result, ((0, 0), (0, n_components - result.shape[1])))


def spectral_start(
    fuzzy_set: FuzzySimplicialSet,
    n_components: int,
    *,
    guess: ArrayInput | None = None,
    rounds: int = 12,
    degree: int = 12,
    tolerance: float = 0.1,
    key: Key,
) -> Float[Array, "n c"]:
    r"""Approximate low eigenvectors of the normalized Laplacian I - D^(-1/2) W D^(-1/2).

    Chebyshev-filtered subspace iteration (Zhou, Saad 2007): a few rounds of a polynomial that damps
    the upper spectrum, each followed by an orthonormalization, with the trivial eigenvector
    projected out, and a Rayleigh-Ritz step at the end. Enough for a start, no eigensolver. The
    rounds end when no eigenvalue lambda of the Laplacian that is sought moves by more than
    `tolerance` of itself: soon for clusters, late for a long thin manifold, which a start that is
    not converged would leave folded.

    **Arguments:**

    - `fuzzy_set`: n points; W is its matrix of memberships and D the diagonal of its degrees.
    - `n_components`: c.
    - `guess`: (n, any) vectors that replace as many random ones of the first subspace.
    - `rounds`, `degree`: of the filter, `rounds` at most.
    - `tolerance`: at least 0; with 0 all rounds are made.
    - `key`: of the random vectors.

    **Returns:** (n, c), columns of unit length ordered by eigenvalue; finite for any graph.

    ```python
    >>> import jax, topoprune_jax as tp
    >>> graph = tp.knn_graph(jax.random.normal(jax.random.key(0), (50, 8)), n_neighbors=5)
    >>> tp.spectral_start(tp.fuzzy_simplicial_set(graph), 2, key=jax.random.key(1)).shape
    (50, 2)

    ```
    """
    check_fuzzy_set(fuzzy_set)
    c = checks.check_count(n_components, name="n_components", low=1)
    rounds = checks.check_count(rounds, name="rounds", low=1)
    degree = checks.check_count(degree, name="degree", low=1)
    tolerance = checks.check_number(tolerance, name="tolerance", low=0)
    checks.check_key(key)
    if guess is not None:
        n = fuzzy_set.n_points
        guess = checks.check_points(guess, name="guess").astype(fuzzy_set.memberships.dtype)
        if guess.shape[0] != n:
            raise ValueError(
                f"`guess` must have {n} rows, one for every point; got shape {guess.shape}. "
                "Leave it out to start from random vectors."
            )
    return low_eigenvectors(
        fuzzy_set,
        c,
        guess=guess,
        rounds=rounds,
        degree=degree,
        tolerance=tolerance,
        by_rows=_has_rows(fuzzy_set),
        degrees=fuzzy_set.degrees,
        key=key,
    )[0]


def _has_rows(fuzzy_set: FuzzySimplicialSet) -> bool:
    """Whether the edges that only one end lists are multiplied as a sparse matrix of rows, which a
    CPU does fast; under `vmap` there is no such product."""
    return backend.is_cpu() and not checks.is_traced(fuzzy_set.memberships)


@eqx.filter_jit
def low_eigenvectors(
    fuzzy_set: FuzzySimplicialSet,
    n_components: int,
    *,
    guess: Float[Array, "n c"] | None = None,
    rounds: int,
    degree: int,
    tolerance: float,
    components: Int[Array, " n"] | None = None,
    n_parts: int = 1,
    by_rows: bool = False,
    degrees: Float[Array, " n"],
    key: Key,
) -> tuple[Float[Array, "n c"], Float[Array, "*parts c"]]:
    """`spectral_start`, and the eigenvalues of the normalized adjacency, falling.

    With `components`, of which there are `n_parts` at most, each has eigenvectors of its own.
    `by_rows` is of `_has_rows`; `degrees` are those of the set, which several programs share.
    """
    options = {
        "rounds": rounds,
        "degree": degree,
        "tolerance": tolerance,
        "n_parts": n_parts,
        "by_rows": by_rows,
        "key": key,
    }
    if by_rows and fuzzy_set.n_points >= _FAR:
        order = near_order(fuzzy_set.indices)
        if guess is None and components is None:
            guess = _from_cells(fuzzy_set, degrees, n_components + _SPARE)
            # What starts near its end moves little at first, too.
            options["tolerance"] = tolerance / 2
        vectors, values = _low_eigenvectors(
            in_order(fuzzy_set, order),
            n_components,
            guess=None if guess is None else guess[order],
            components=None if components is None else components[order],
            degrees=degrees[order],
            **options,
        )
        return jnp.zeros_like(vectors).at[order].set(vectors, unique_indices=True), values
    return _low_eigenvectors(
        fuzzy_set,
        n_components,
        guess=guess,
        components=components,
        degrees=degrees,
        **options,
    )


def _from_cells(
    fuzzy_set: FuzzySimplicialSet, degrees: Float[Array, " n"], n_vectors: int
) -> Float[Array, "n v"]:
    """Low eigenvectors of a graph of cells, the same on all points of a cell but for their degrees.

    What varies slowly along many points takes the iteration longest to find, and is what cells
    know. Source: multilevel eigenvectors, Barnard and Simon 1994.
    """
    n = fuzzy_set.n_points
    n_cells = max(1, min(n // _OF_CELL, _MOST_CELLS))
    cells = cells_of(fuzzy_set.indices, n_cells)
    is_within = cells >= 0
    own = jnp.where(is_within, cells, n_cells)  # beyond the last: dropped
    back = jnp.minimum(reverse_rows(fuzzy_set), n - 1)
    theirs = jnp.where(fuzzy_set.reverse_indices >= 0, own[fuzzy_set.reverse_indices], n_cells)

    def add(total, column):
        j, mu = column
        other = jnp.where(j >= 0, own[j], n_cells)
        return total.at[own, other].add(mu, mode="drop"), None

    nothing = jnp.zeros((n_cells, n_cells), degrees.dtype)
    between = nothing.at[own[back], theirs].add(fuzzy_set.reverse_memberships, mode="drop")
    between, _ = lax.scan(add, between, (fuzzy_set.indices.T, fuzzy_set.memberships.T))
    volume = jnp.sum(between, axis=1)
    inverse = jnp.where(volume > 0, 1 / jnp.sqrt(jnp.where(volume > 0, volume, 1)), 0)
    between = (between + between.T) / 2  # which rounding alone makes a difference to
    vectors = jnp.linalg.eigh(inverse[:, None] * between * inverse[None, :])[1][:, ::-1]
    vectors = inverse[:, None] * vectors[:, :n_vectors]
    return jnp.where(is_within[:, None], vectors[cells], 0) * jnp.sqrt(degrees)[:, None]


def _low_eigenvectors(
    fuzzy_set: FuzzySimplicialSet,
    n_components: int,
    *,
    guess: Float[Array, "n guesses"] | None,
    rounds: int,
    degree: int,
    tolerance: float,
    components: Int[Array, " n"] | None,
    n_parts: int,
    by_rows: bool,
    degrees: Float[Array, " n"],
    key: Key,
) -> tuple[Float[Array, "n c"], Float[Array, "*parts c"]]:
    n = fuzzy_set.n_points
    dtype = fuzzy_set.memberships.dtype
    # Whole vectors of a CPU: spare columns cost nothing there, and let the others converge sooner.
    lanes = _LANES if backend.is_cpu() else 1
    width = min(n - 1, -(-(n_components + _SPARE) // lanes) * lanes)
    if width == 0:
        return jnp.zeros((n, n_components), dtype), jnp.zeros(n_components, dtype)
    spare = block = jax.random.normal(key, (n, width), dtype)
    if guess is not None:
        take = min(width, guess.shape[1])
        guess = guess - mean_row(guess)[None, :]
        size = jnp.sqrt(jnp.mean(mean_row(guess * guess))) + jnp.finfo(dtype).tiny
        block = block.at[:, :take].set(guess[:, :take] / size + 1e-3 * block[:, :take])
    root = jnp.sqrt(degrees)
    if components is None:
        volume = over_rows(root[:, None], root[:, None])[0, 0]
        inner = Whole(root / (jnp.sqrt(volume) + jnp.finfo(dtype).tiny))
        parts = ()
    else:
        volume = sums_by_row(degrees, components, n_parts, most=n)
        sizes = jax.ops.segment_sum(jnp.ones_like(components), components, n_parts)
        length = jnp.sqrt(volume) + jnp.finfo(dtype).tiny
        inner = Parts(root / length[components], components, sizes, spare)
        parts = (n_parts,)
    # The iteration is one of z = D^(-1/2) x, as D^(-1) W z takes one pass over the edges and scales
    # no vector but the result. Points without edges have W z = 0 whatever their degree.
    inverse = 1 / jnp.where(degrees > 0, degrees, 1)
    back_root, to_root = jnp.sqrt(inverse)[:, None], 1 / jnp.sqrt(inverse)[:, None]
    spare_columns = -width % lanes
    own = jnp.where(fuzzy_set.indices >= 0, fuzzy_set.indices, 0)
    theirs = jnp.maximum(fuzzy_set.reverse_indices, 0)
    # Some edges at a time: their products need not exist as a whole.
    spare = -theirs.shape[0] % min(_EDGES, theirs.shape[0])
    most = most_reverse_edges(fuzzy_set)
    back = reverse_rows(fuzzy_set), theirs, fuzzy_set.reverse_memberships
    back = tuple(
        jnp.pad(edges, (0, spare), constant_values=fill).reshape(-1, min(_EDGES, edges.shape[0]))
        for edges, fill in zip(back, (n, 0, 0), strict=True)
    )

    @jax.jit  # for one trace of several uses
    def walked(z):
        """D^(-1) W z."""

        def add(total, column):
            j, mu = column
            return total + mu[:, None] * z[j], None

        def add_back(total, edges):
            i, j, mu = edges
            return total.at[i].add(mu[:, None] * z[j], indices_are_sorted=True, mode="drop"), None

        def in_blocks(z):
            if by_rows:
                from jax.experimental.sparse import BCSR  # loads much of SciPy

                listing = fuzzy_set.reverse_memberships, theirs, fuzzy_set.reverse_offsets
                return BCSR(listing, shape=(n, n)) @ z
            return lax.scan(add_back, jnp.zeros_like(z), back)[0]

        def many_at_once(z):
            limits = {"most": most, "top": jnp.max(jnp.abs(z), axis=0), "is_sorted": True}

            def add_many(out, edges):
                i, j, mu = (values.ravel() for values in edges)
                return out + sums_by_row(mu[:, None] * z[j], i, n, **limits), None

            together = min(_BLOCKS_AT_ONCE, back[0].shape[0])
            whole = back[0].shape[0] // together * together
            first = tuple(edges[:whole].reshape(-1, together, edges.shape[1]) for edges in back)
            out = lax.scan(add_many, jnp.zeros_like(z), first)[0]
            rest = tuple(edges[whole:] for edges in back)
            return add_many(out, rest)[0] if rest[0].shape[0] else out

        listed = own.T, fuzzy_set.memberships.T
        out = backend.by_platform(z, cpu=in_blocks, default=many_at_once)
        out, _ = lax.scan(add, out, listed, unroll=_COLUMNS_AT_ONCE)
        return inverse[:, None] * out

    def widened(x):
        """With columns of 0 up to whole vectors of numbers."""
        return jnp.pad(x, ((0, 0), (0, spare_columns)))

    def filtered(x, cut):
        # Maps the adjacency's spectrum in [-1, cut] into [-1, 1], and grows beyond it.
        middle, half = (cut - 1) / 2, (cut + 1) / 2

        def term(before, now, times):
            return times / half * (walked(now) - middle * now) - before

        def two_terms(i, pair):
            before, now = pair
            # The first one is not doubled. Two at a time, as none of them is moved then.
            before = term(before, now, jnp.where(i > 0, 2, 1).astype(dtype))
            return before, term(now, before, jnp.asarray(2, dtype))

        z = widened(x * back_root)
        before, last = lax.fori_loop(0, degree // 2, two_terms, (jnp.zeros_like(z), z))
        if degree % 2:
            last = term(before, last, jnp.asarray(2 if degree > 1 else 1, dtype))
        return last[:, :width] * to_root

    def quadratic_form(basis, once):
        # A loop of one turn, unknown to the compiler, holds a matrix of its own: else every edge
        # looks into the columns that the factorization left, far apart in memory.
        moved = lax.fori_loop(0, once, lambda _, z: walked(z), widened(basis * back_root))
        return inner.gram(widened(basis), to_root * moved)[..., :width, :width]

    # Two components of a graph have an eigenvalue of 0, which only rounding moves.
    rounding = 8 * jnp.finfo(dtype).eps if tolerance > 0 else -1.0

    def one_round(state):
        i, basis, _, cut, before, _ = state
        basis = inner.orthonormal(filtered(basis, inner.spread(cut)))
        form = quadratic_form(basis, jnp.where(i < rounds, 1, 0))
        values = jnp.linalg.eigvalsh(form)
        wanted = values[..., -min(n_components, width) :]
        # 1 - value is what matters: how slowly a wave along the manifold dies out.
        moved = jnp.abs(wanted - before) > tolerance * (1 - wanted) + rounding
        # The next round damps all below the least of the values that are sought.
        cut = jnp.clip(values[..., 0], *_CUT_RANGE)
        return i + 1, basis, form, cut, wanted, moved.any()

    unknown = jnp.full((*parts, min(n_components, width)), -jnp.inf, dtype)
    cut = jnp.full(parts, _FIRST_CUT, dtype)
    form = jnp.zeros((*parts, width, width), dtype)
    start = inner.orthonormal(block), form, cut, unknown, jnp.ones((), bool)
    start = varying_with((jnp.zeros((), jnp.int32), *start), degrees)
    _, basis, form, *_ = lax.while_loop(
        lambda state: (state[0] < rounds) & state[-1], one_round, start
    )
    values, vectors = jnp.linalg.eigh(form)
    order = jnp.argsort(-values, axis=-1)[..., :n_components]
    start = inner.rotate(basis, jnp.take_along_axis(vectors, order[..., None, :], axis=-1))
    values = jnp.take_along_axis(values, order, axis=-1)
    missing = n_components - start.shape[1]
    whole = [(0, 0)] * (values.ndim - 1)
    return jnp.pad(start, ((0, 0), (0, missing))), jnp.pad(values, (*whole, (0, missing)))


def check_manifold(manifold: str) -> None:
    """Raises unless it names where `rank` takes patches."""
    if not isinstance(manifold, str) or manifold not in MANIFOLDS:
        raise ValueError(
            "`manifold` must be 'spectral' or 'embedding'; got "
            f"{manifold if isinstance(manifold, str) else type(manifold).__name__}."
        )


def components_for(n: int) -> int:
    """Of the spectral embedding of n samples in which `rank` measures them."""
    return max(1, min(_COMPONENTS, n - 1))


def spectral_embedding(
    fuzzy_set: FuzzySimplicialSet,
    n_components: int = 2,
    *,
    diffusion_time: float = 0.0,
    by_component: bool = False,
    rounds: int = 60,
    tolerance: float = 1e-3,
) -> Float[Array, "n c"]:
    r"""The Laplacian eigenmap of a fuzzy simplicial set: an embedding without randomness.

    With W the memberships, D the diagonal of their row sums and D^(-1/2) W D^(-1/2) v_l =
    lambda_l v_l, where 1 = lambda_0 >= lambda_1 >= ..., component l of point i is

        z_il = lambda_l^t sqrt(vol / D_ii) v_il,    t = `diffusion_time`, vol = sum of D,

    which for t = 0 is the Laplacian eigenmap (Belkin, Niyogi 2003) and for t > 0 the diffusion map
    (Coifman, Lafon 2006). The trivial component l = 0 is left out. Signs are such that the entry of
    largest magnitude of each v_l is positive, so the same fuzzy set gives the same bits, those
    under `jit` and `vmap` another rounding of them.

    It keeps global shape and little local detail; `embed` starts from a rough one, adding the rest.
    `rank` takes its patches from one of 16 components, so that its scores depend on no key and
    little on noise.

    Where the graph falls into several connected components, each of them beyond the first costs one
    of the leading coordinates, which only tells them apart; what is left lies in some of them, and
    the others are single points. `by_component` gives each all c coordinates instead, in which its
    own variance, weighted by D, is 1, and puts it at a place of its own.

    **Arguments:**

    - `fuzzy_set`: n points.
    - `n_components`: c, 1 to 64 and at most n - 1.
    - `diffusion_time`: t, at least 0.
    - `by_component`: whether each connected component is embedded by itself. Under `jit` and `vmap`
      it takes memory for n matrices of (c + 3)^2 numbers, as nobody knows how many there are.
    - `rounds`, `tolerance`: of the filtered subspace iteration, as for `spectral_start`. All 60
      rounds are needed by long thin manifolds only.

    **Returns:** (n, c); a point without edges is at 0, or at its own place. Found by filtered
    subspace iteration, which leaves eigenvectors of nearly equal eigenvalues mixed among
    themselves. From 65,536 points on, a CPU starts it from the eigenvectors of cells of points.

    **Raises:** TypeError or ValueError for a wrong type or a number out of range.

    Works under `jit` and `vmap`.

    ```python
    >>> import topoprune_jax as tp
    >>> graph = tp.knn_graph([[0.0], [1.0], [2.0], [3.0]], n_neighbors=2)
    >>> z = tp.spectral_embedding(tp.fuzzy_simplicial_set(graph), 1)[:, 0]
    >>> bool(((z[1:] > z[:-1]) == (z[1] > z[0])).all())  # in order along the line
    True

    ```
    """
    check_fuzzy_set(fuzzy_set)
    n = fuzzy_set.n_points
    c = checks.check_count(
        n_components,
        name="n_components",
        low=1,
        high=max(1, min(64, n - 1)),
        hint=f"There are {n} points.",
    )
    time = checks.check_number(diffusion_time, name="diffusion_time", low=0)
    rounds = checks.check_count(rounds, name="rounds", low=1)
    tolerance = checks.check_number(tolerance, name="tolerance", low=0)
    by_rows = _has_rows(fuzzy_set)
    options = fuzzy_set.degrees, c, time, rounds, tolerance
    eigenmap = partial(_eigenmap, fuzzy_set, *options, by_rows=by_rows)
    if not by_component:
        return eigenmap()
    components = connected_components(fuzzy_set)
    if checks.is_traced(components):
        return lax.cond(
            jnp.max(components) > 0,
            partial(_eigenmap_of_parts, fuzzy_set, *options, components, n),
            eigenmap,
        )
    several = count_of(components)
    if several == 1:
        return eigenmap()
    # A power of 2, so that few programs are compiled.
    n_parts = 1 << (several - 1).bit_length()
    return _eigenmap_of_parts(fuzzy_set, *options, components, n_parts, by_rows=by_rows)


@eqx.filter_jit
def _eigenmap_of_parts(
    fuzzy_set: FuzzySimplicialSet,
    degrees: Float[Array, " n"],
    c: int,
    time: float,
    rounds: int,
    tolerance: float,
    components: Int[Array, " n"],
    n_parts: int,
    by_rows: bool = False,
) -> Float[Array, "n c"]:
    key = jax.random.key(0)
    vectors, values = low_eigenvectors(
        fuzzy_set,
        c,
        rounds=rounds,
        degree=_DEGREE,
        tolerance=tolerance,
        components=components,
        n_parts=n_parts,
        by_rows=by_rows,
        degrees=degrees,
        key=key,
    )
    several = partial(sums_by_row, rows=components, n_rows=n_parts)
    volume = several(degrees, most=degrees.shape[0])[components]
    scale = jnp.where(degrees > 0, jnp.sqrt(volume / jnp.where(degrees > 0, degrees, 1)), 0)
    most = partial(jax.ops.segment_max, segment_ids=components, num_segments=n_parts)
    sign = jnp.where(most(vectors) < most(-vectors), -1.0, 1.0)
    powers = jnp.clip(values, 0, 1) ** time if time > 0 else jnp.ones_like(values)
    local = vectors * scale[:, None] * (sign * powers)[components]
    # At random, as the graph does not say how components lie to each other; with room for all.
    place_key = jax.random.fold_in(key, 1)

    @jax.vmap
    def draw(part):
        return jax.random.normal(jax.random.fold_in(place_key, part), (c,), local.dtype)

    room = (jnp.max(components) + 1).astype(local.dtype) ** (1 / c)
    return local + _APART * room * draw(jnp.arange(n_parts))[components]


def compile_eigenmap(fuzzy_set: Any, c: int, *, rounds: int, tolerance: float) -> None:
    """Compiles what `spectral_embedding` of one component takes for a set of these shapes."""
    degrees = jax.ShapeDtypeStruct((fuzzy_set.n_points,), fuzzy_set.memberships.dtype)
    options = 0.0, rounds, tolerance
    _eigenmap.lower(fuzzy_set, degrees, c, *options, by_rows=backend.is_cpu()).compile()


@partial(jax.jit, static_argnames=("c", "time", "rounds", "tolerance", "by_rows"))
def _eigenmap(
    fuzzy_set: FuzzySimplicialSet,
    degrees: Float[Array, " n"],
    c: int,
    time: float,
    rounds: int,
    tolerance: float,
    by_rows: bool = False,
) -> Float[Array, "n c"]:
    # The key only chooses where the iteration starts from.
    key = jax.random.key(0)
    options = {"rounds": rounds, "degree": _DEGREE, "tolerance": tolerance}
    options |= {"by_rows": by_rows, "degrees": degrees}
    vectors, values = low_eigenvectors(fuzzy_set, c, **options, key=key)
    root = jnp.sqrt(jnp.where(degrees > 0, degrees, 1))
    scale = jnp.sqrt(jnp.sum(degrees)) * jnp.where(degrees > 0, 1 / root, 0)
    peak = jnp.argmax(jnp.abs(vectors), axis=0)
    sign = jnp.where(jnp.take_along_axis(vectors, peak[None, :], axis=0) < 0, -1, 1)
    powers = jnp.clip(values, 0, 1) ** time if time > 0 else jnp.ones_like(values)
    return vectors * sign * scale[:, None] * powers[None, :]
