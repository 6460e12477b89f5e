"""Selection: greedy coverage of the manifold, weighted by complexity, with quotas by class."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from . import _backend as backend
from . import _checks as checks
from ._coverage import compile_coverage, edges_within, greedy_coverage
from ._fuzzy import FuzzySimplicialSet, check_fuzzy_set
from ._least import order_in_blocks, stable_order
from ._sums import sums_by_row
from ._types import Array, ArrayInput, Progress

DEFAULT_BETA = 1.0
_LEAST_AGREEMENT = 1e-3  # so that a class that lies wholly among others is still covered by plan
_POWERS = tuple(4.0 * 2 ** (i / 4) for i in range(17))  # 4 to 64
_WEIGHED = 0.55  # mean weight that the power leaves, where it is above the least
_OF_CLASS = 50  # samples of a class for every unit of the power, above the least
_UNCLEAR = 1e-3  # of what the least power would weigh them, so that they have an order too


class Selection(eqx.Module):
    """Which samples to keep.

    **Attributes:**

    - `order`: (n,) int32, every sample once, the best to keep first.
    - `kept`: (m,) int32, the first m of `order`, m = `kept_count(n, ratio)`.
    - `removed`: (n - m,) int32, the rest of it.
    - `weights`: (n,) the weight of each sample in the coverage.
    """

    order: Int[Array, " n"]
    kept: Int[Array, " m"]
    removed: Int[Array, " n-m"]
    weights: Float[Array, " n"]


def select(
    fuzzy_set: FuzzySimplicialSet,
    scores: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput | None = None,
    strata: ArrayInput | None = None,
    weights: ArrayInput | None = None,
    beta: float | Array = DEFAULT_BETA,
    progress: Progress | None = None,
) -> Selection:
    r"""Keeps the samples that best cover the manifold, simple or complex regions first.

    Greedy maximization of the weighted facility-location function

        F(S) = sum_j w_j max_{i in S} mu_ij,   mu_jj = 1,   w_j = v_j exp(-beta r_j),

    where v_j are the `weights`, 1 unless given, and r_j in [0, 1) is the rank of score j among its
    class (or its stratum, or all samples) divided by their number. F is monotone and submodular,
    so that the greedy set is within 1 - 1/e of the best (Nemhauser, Wolsey, Fisher 1978). The
    greedy is exact: each pick has the largest gain of all, equal gains go to the lower index (on an
    accelerator gains are whole numbers of a unit, 2^-30 of the largest). The
    order runs on through all samples, so that one order serves every ratio and what is kept at 0.9
    is part of what is kept at 0.8. In the end no sample gains anything, as a rule about half of
    them, and those follow from the largest w to the least; in the order of their indices the rest
    of data that are sorted by class would be of the first classes.

    With labels, the coverage is per class: edges between classes do not count, and the classes'
    own greedy orders are interleaved in proportion to their sizes (pick t of a class of size
    n_c comes at (t + 1/2) / n_c, the first at 0). So no class is lost as long as there are as many
    places as classes, and apart from these first places, which many small classes take from the
    large ones, every class keeps its share of the samples.

    **Arguments:**

    - `fuzzy_set`: mu, of n samples. With labels, one built within classes covers best:
      `fuzzy_simplicial_set(knn_graph(features, labels=labels))`.
    - `scores`: (n,) structural complexity; any finite numbers, only their ranks count.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.
    - `labels`: (n,) classes.
    - `strata`: (n,) groups within which scores are ranked; the classes where labels are given.
    - `weights`: (n,) v, not negative: how much it counts that a sample is covered. With labels,
      powers of `class_agreement` keep out those that only look like other classes.
    - `beta`: 0 is pure coverage; the larger, the more complex samples are avoided. At beta = 1 the
      most complex sample of a class weighs 0.37 of the simplest, at beta = -1 it weighs 2.7 times
      as much. Between -50 and 50.
    - `progress`: called with ("selection", done, total).

    **Returns:** a `Selection`.

    **Raises:** TypeError or ValueError with one sentence for scores, labels or strata of another
    length or not finite, weights below 0, a ratio outside [0, 1), or a beta out of range.

    Works under `jit` and `vmap`, for a ratio that is a Python number. Time is about n log n picks,
    memory O(n k).

    ```python
    >>> import topoprune_jax as tp
    >>> points = [[0.0], [0.1], [0.2], [5.0], [5.1]]
    >>> fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=1))
    >>> tp.select(fuzzy_set, [0.0] * 5, 0.6, beta=0.0).kept.tolist()
    [1, 3]

    ```
    """
    check_fuzzy_set(fuzzy_set)
    n = fuzzy_set.n_points
    values = checks.check_ranks(scores, n, name="scores")
    n_kept = kept_count(n, ratio)
    beta = checks.check_beta(beta)
    zeros = jnp.zeros(n, jnp.int32)
    codes = zeros if labels is None else checks.check_labels(labels, n)
    groups = codes if strata is None else checks.check_labels(strata, n, name="strata")
    own = _weights(fuzzy_set, values, groups, beta)
    if weights is not None:
        hint = "A weight of 0 leaves a sample uncovered."
        given = checks.check_nonnegative(weights, n, name="weights", hint=hint)
        own = own * jnp.asarray(given, own.dtype)
    weights = own
    order = greedy_coverage(fuzzy_set, weights, codes, progress=progress)
    if labels is not None:
        order = interleave(order, codes)
    return Selection(order, order[:n_kept], order[n_kept:], weights)


def compile_selection(fuzzy_set: Any, run: Callable[[str, int, int], None]) -> None:
    """Compiles what `select` takes for a set of these shapes on a CPU."""
    n, dtype = fuzzy_set.n_points, fuzzy_set.memberships.dtype
    values, groups = jax.ShapeDtypeStruct((n,), dtype), jax.ShapeDtypeStruct((n,), np.int32)
    number = jax.ShapeDtypeStruct((), dtype)
    _agreement.lower(fuzzy_set, groups).compile()
    power_for.lower(values, groups).compile()
    agreement_weights.lower(values, number).compile()
    _weights_of_ranks.lower(values, groups, number).compile()
    interleave.lower(groups, groups).compile()
    if backend.is_cpu():
        compile_coverage(fuzzy_set, run)


def _weights(fuzzy_set: FuzzySimplicialSet, values: Array, groups: Array, beta) -> Array:
    return _weights_of_ranks(values, groups, jnp.asarray(beta, fuzzy_set.memberships.dtype))


@jax.jit
def _weights_of_ranks(values: Array, groups: Array, beta: Array) -> Array:
    dtype = beta.dtype
    return jnp.exp(-beta * group_rank(values, groups).astype(dtype))


def kept_by_strata(
    fuzzy_set: FuzzySimplicialSet, scores: ArrayInput, ratio: float, *, strata: ArrayInput, beta
) -> Int[Array, " m"]:
    """What `select` keeps without labels, found without ordering the others."""
    n = fuzzy_set.n_points
    m = kept_count(n, ratio)
    weights = _weights_by_strata(fuzzy_set, scores, strata, beta)
    return greedy_coverage(fuzzy_set, weights, jnp.zeros(n, jnp.int32), n_picks=m)[:m]


def _weights_by_strata(
    fuzzy_set: FuzzySimplicialSet, scores: ArrayInput, strata: ArrayInput, beta
) -> Float[Array, " n"]:
    n = fuzzy_set.n_points
    values = checks.check_ranks(scores, n, name="scores")
    groups = checks.check_labels(strata, n, name="strata")
    return _weights(fuzzy_set, values, groups, beta)


def kept_count(n: int, ratio: float) -> int:
    """How many of n samples stay when a fraction `ratio` is removed.

    m = max(1, round((1 - ratio) n)), halves up and free of rounding in 1 - ratio: a tenth of 45 is
    5, where Python's `round` has 4. One `order` serves every ratio, cut at its m.

    **Arguments:**

    - `n`: the number of samples, at least 1.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.

    **Returns:** m, a Python int.

    **Raises:** TypeError or ValueError for a number out of its range.

    ```python
    >>> import topoprune_jax as tp
    >>> tp.kept_count(45, 0.9)
    5

    ```
    """
    n = checks.check_count(n, name="n", low=1)
    ratio = checks.check_ratio(ratio)
    return max(1, int(np.floor(n - ratio * n + 0.5 + 1e-9)))


@jax.jit
def group_rank(values: Float[Array, " n"], groups: Int[Array, " n"]) -> Float[Array, " n"]:
    """Rank of every value within its group, divided by the group's size; ties by index. Groups are
    numbered below n."""
    n = values.shape[0]
    order = order_in_blocks(groups, values, n - 1)
    turn, size = _turns(groups[order])
    rank = turn.astype(values.dtype) / size.astype(values.dtype)
    return jnp.zeros_like(values).at[order].set(rank)


def _turns(groups: Int[Array, " n"]) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """How many of its group are before each, and the group's size; of sorted groups below n."""
    places = jnp.arange(groups.shape[0], dtype=jnp.int32)
    sizes = jnp.zeros_like(places).at[groups].add(1)
    first = jnp.cumsum(sizes, dtype=jnp.int32) - sizes
    return places - first[groups], sizes[groups]


def class_agreement(fuzzy_set: FuzzySimplicialSet, labels: ArrayInput) -> Float[Array, " n"]:
    r"""How much the manifold around each sample is of the sample's own class.

        a_j = sum over i of the class of j of mu_ij / sum over all i of mu_ij,

    between 0 and 1; 1 for a sample without edges. It is small for samples that lie among another
    class: mislabeled ones, and those that the features cannot tell apart.

    **Arguments:**

    - `fuzzy_set`: mu, of n samples, built without regard to the classes.
    - `labels`: (n,) classes; or other groups, such as strata.

    **Returns:** (n,) shares.

    **Raises:** TypeError or ValueError with one sentence for labels of another length.

    Works under `jit` and `vmap`; O(n k).

    ```python
    >>> import topoprune_jax as tp
    >>> points = [[0.0], [0.1], [0.2], [5.0], [5.1]]
    >>> fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=1))
    >>> tp.class_agreement(fuzzy_set, ["a", "a", "b", "b", "b"]).tolist()
    [1.0, 0.5, 0.0, 1.0, 1.0]

    ```
    """
    check_fuzzy_set(fuzzy_set)
    return _agreement(fuzzy_set, checks.check_labels(labels, fuzzy_set.n_points))


@jax.jit
def _agreement(fuzzy_set: FuzzySimplicialSet, codes: Int[Array, " n"]) -> Float[Array, " n"]:
    n = fuzzy_set.n_points

    def total(groups: Int[Array, " n"]) -> Float[Array, " n"]:
        edges = edges_within(fuzzy_set, groups)
        listed = jnp.sum(edges.memberships, axis=1)
        others = edges.reverse_memberships, edges.reverse_rows, n
        return listed + sums_by_row(*others, most=edges.most, is_sorted=True)

    # Both sums in one order, so that a share of all is 1 to the bit.
    own, every = total(codes), total(jnp.zeros_like(codes))
    return jnp.where(every > 0, own / jnp.where(every > 0, every, 1), 1)


def choose_agreement_power(
    agreement: ArrayInput, labels: ArrayInput | None = None
) -> Float[Array, ""]:
    r"""How strongly to avoid samples among other classes, by how well the classes lie apart.

        gamma = max { g in {4, 4 2^(1/4), ..., 64} : g <= n / (50 C), 1/n sum_j a_j^g >= .55 },

    4 if there is none, a_j the `class_agreement` of sample j and C the number of classes: the power
    that leaves about half of the weight. Where the classes lie apart most samples agree wholly, and
    only a high power tells the clear ones from the others; where they overlap, 4 leaves half
    already. Of small classes little is kept, and what is not quite clear is missed there: classes
    of less than 238 samples on average have 4.

    What `rank` takes. On CIFAR-10, with hundreds of samples of a class kept, powers
    above 4 train better networks, the more so where classes are of different sizes; on banking77,
    whose classes keep a dozen each, they cost a linear probe up to two points, and nothing once
    they keep fifty (benchmarks/README.md, "The power of the agreement"). The share was chosen on
    CIFAR-10 at 90 % removed, the fiftieth on banking77.

    **Arguments:**

    - `agreement`: (n,) shares a_j, from 0 to 1.
    - `labels`: (n,) classes; without them classes are taken for large.

    **Returns:** gamma, a scalar.

    **Raises:** TypeError or ValueError with one sentence for shares that are no finite numbers
    in one row or outside [0, 1], or labels of another length.

    Works under `jit` and `vmap`; O(n).

    ```python
    >>> import topoprune_jax as tp
    >>> float(tp.choose_agreement_power([1.0, 1.0, 1.0, 0.5]))
    64.0
    >>> float(tp.choose_agreement_power([1.0, 1.0, 1.0, 0.5], ["a", "b", "a", "b"]))
    4.0

    ```
    """
    hint = "Pass what `class_agreement` returns."
    values = checks.as_array(agreement, name="agreement")
    if values.ndim != 1 or not values.size:
        raise ValueError(
            "`agreement` must have shape (n,), one share a sample; got shape "
            f"{values.shape}. {hint}"
        )
    shares = checks.check_nonnegative(values, values.size, name="agreement", hint=hint)
    shares = jnp.asarray(shares, checks.float_dtype(shares.dtype))
    if not checks.is_traced(shares) and (most := float(jnp.max(shares))) > 1:
        raise ValueError(f"`agreement` must be at most 1; got {most:g}. {hint}")
    codes = None if labels is None else checks.check_labels(labels, values.size)
    return power_for(shares, codes)


@jax.jit
def power_for(agreement: Float[Array, " n"], codes: Int[Array, " n"] | None) -> Float[Array, ""]:
    """`choose_agreement_power` of shares and class codes that need no check."""
    powers = jnp.asarray(_POWERS, agreement.dtype)
    fits = lax.map(lambda g: jnp.mean(agreement**g), powers) >= _WEIGHED
    if codes is not None:
        most = agreement.shape[0] / (_OF_CLASS * (1 + jnp.max(codes).astype(agreement.dtype)))
        fits &= powers <= most
    return powers[jnp.maximum(jnp.sum(fits) - 1, 0)]


@jax.jit
def agreement_weights(agreement: Float[Array, " n"], power: Float[Array, ""]) -> Float[Array, " n"]:
    """a^gamma, or where gamma is above 4 max(a^gamma, a^4 / 1000)."""
    agreement = jnp.maximum(agreement, _LEAST_AGREEMENT)
    # A product, whose digits differ from those of a power that is not known while JAX traces.
    least = agreement ** int(_POWERS[0])
    high = jnp.maximum(agreement**power, _UNCLEAR * least)
    return jnp.where(
        power < _POWERS[0], agreement**power, jnp.where(power > _POWERS[0], high, least)
    )


@jax.jit
def interleave(coverage: Int[Array, " n"], codes: Int[Array, " n"]) -> Int[Array, " n"]:
    """Merges the orders of the classes, numbered below n, in proportion to their sizes."""
    n = coverage.shape[0]
    covered_codes = codes[coverage]
    by_class = stable_order(covered_codes, n - 1)
    turn, size = _turns(covered_codes[by_class])
    # (2 t + 1) / (2 size) compared in floating point: n < 2^24 is exact enough to order turns.
    when = jnp.where(turn == 0, 0, (turn.astype(jnp.float32) + 0.5) / size.astype(jnp.float32))
    # The bits of numbers from 0 to 1 are in their order.
    bits = lax.bitcast_convert_type(when, jnp.uint32)
    bits = jnp.zeros_like(bits).at[by_class].set(bits)
    return coverage[stable_order(bits, int(np.float32(1).view(np.uint32)))]
