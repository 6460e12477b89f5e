"""How strongly complex samples can be avoided before what is kept stops standing for the rest."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from . import _checks as checks
from ._coverage import PICKS_AT_ONCE
from ._distance import product, rescale
from ._fuzzy import FuzzySimplicialSet, check_fuzzy_set
from ._least import first_of_least
from ._select import kept_by_strata, kept_count, select
from ._steps import Steps, wait
from ._types import Array, ArrayInput, Progress

STRONGEST = 2.0
TOLERANCE = 0.05
RATIO = 0.9
_SAMPLES = 10_000
_TILE_NUMBERS = 1 << 19  # similarities of samples and kept samples at a time: 2 MiB
_LEAST_ROWS = 128  # samples at a time at least, or the kept ones are read too often


def choose_beta(
    features: ArrayInput,
    fuzzy_set: FuzzySimplicialSet,
    scores: ArrayInput,
    *,
    labels: ArrayInput | None = None,
    strata: ArrayInput | None = None,
    strongest: float = STRONGEST,
    tolerance: float = TOLERANCE,
    ratio: float = RATIO,
    progress: Progress | None = None,
) -> Float[Array, ""]:
    r"""The strongest preference for simple samples that the data allow.

    With S_beta what `select` keeps at `ratio` and g_j the class of sample j (its stratum where
    there are no classes), the disagreement of a kept set is the error of its 1-nearest-neighbor
    classifier on all samples,

        e(beta) = (1/n) #{j : g_i != g_j},    i = argmin over S_beta of |x_i - x_j|,

    and the choice is the beta where a parabola through e(0) and e(B), flat at 0, has risen by the
    tolerance t, B = `strongest` at most:

        beta = B min(1, sqrt(t e(0) / (e(B) - e(0)))).

    e(0) counts for one sample at least: with beta = 0 nothing would tell which of the samples that
    gain nothing in `select` come first.

    Where groups overlap anyway, as the classes of images do in the features of a weak network,
    avoiding complex samples costs little and the choice is large; where the complex samples are the
    only ones that tell small groups apart, as in sets of many classes, it is small, nearly pure
    coverage. It moves with the data and does not jump.

    The ratio is that of the comparison; one beta serves every ratio, so that what is kept at one
    is part of what is kept at every smaller one.

    Source: this package's own. That strong preferences help one kind of task and harm another was
    measured: benchmarks/README.md.

    **Arguments:**

    - `features`: (n, d), as the neighbors were found in; rows of unit length for angles. Where
      there are more than 10,000, the disagreement is that of 10,000 spread evenly over them.
    - `fuzzy_set`, `scores`, `labels`, `strata`: as for `select`. Labels or strata are needed.
    - `strongest`: B, the largest beta that can be chosen, above 0 and at most 50.
    - `tolerance`: t, by how much the disagreement may rise, as a fraction of that of pure coverage.
    - `ratio`: the fraction removed in the comparison.
    - `progress`: called with ("beta", done, total).

    **Returns:** the beta, between 0 and `strongest`.

    **Raises:** TypeError or ValueError with one sentence as `select` does, for a tolerance below 0,
    a `strongest` out of range, and where there are neither labels nor strata.

    Works under `jit` and `vmap`.

    ```python
    >>> import jax, topoprune_jax as tp
    >>> x = jax.random.normal(jax.random.key(0), (300, 8))
    >>> labels = (x[:, 0] > 0).astype(int)
    >>> fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(x, labels=labels))
    >>> round(float(tp.choose_beta(x, fuzzy_set, -x[:, 0] ** 2, labels=labels)), 1)
    1.8

    ```
    """
    points = checks.check_points(features, name="features")
    check_fuzzy_set(fuzzy_set)
    n = points.shape[0]
    if fuzzy_set.n_points != n:
        raise ValueError(
            f"`features` must have a row for each of the {fuzzy_set.n_points} samples of the fuzzy "
            f"set; got {n} rows. Pass the features that it was made from."
        )
    if labels is None and strata is None:
        raise ValueError(
            "`choose_beta` compares classes or strata; got neither. Pass `labels`, or the "
            "`strata` of `kmeans_strata`."
        )
    ratio = checks.check_ratio(ratio)
    tolerance = checks.check_number(tolerance, name="tolerance", low=0)
    strongest = checks.check_number(strongest, name="strongest", low=0, high=checks.LARGEST_BETA)
    if strongest == 0:
        raise ValueError("`strongest` must be above 0; got 0. Pass `beta=0` for pure coverage.")
    groups = strata if labels is None else labels
    codes = checks.check_labels(groups, n, name="labels" if labels is not None else "strata")
    some = _looked_at(n)
    looked_at = jnp.asarray((np.arange(some) * n // some).astype(np.int32))

    # A lane must not wait, so that nothing holds up the end of a process that was interrupted.
    waits = labels is not None or kept_count(n, ratio) > PICKS_AT_ONCE
    beside = () if waits else jax.tree.leaves((points, fuzzy_set, codes))
    steps = Steps("beta", 2, progress, beside=beside)

    def disagreement(beta: float) -> Array:
        if labels is None:
            kept = kept_by_strata(fuzzy_set, scores, ratio, strata=codes, beta=beta)
        else:
            groups = {"labels": labels, "strata": strata}
            kept = select(fuzzy_set, scores, ratio, **groups, beta=beta).kept
        return _disagreement(points, codes, kept, looked_at)

    # They run beside each other, where there are lanes.
    counts = [steps.run(disagreement, beta) for beta in (0.0, strongest)]
    traced = checks.is_traced(counts[0])
    least, most = counts if traced else (np.asarray(wait(count)) for count in counts)
    share = _bearable_share(least, most, tolerance)
    return steps.end(jnp.asarray(np.asarray(strongest, points.dtype) * share, points.dtype))


def _looked_at(n: int) -> int:
    return min(n, _SAMPLES)


def _bearable_share(least: Any, most: Any, tolerance: float) -> Any:
    """Of the way from `least` to `most` on a parabola, flat at its start, what the tolerance lets
    us go. They are whole numbers."""
    xp = jnp if checks.is_traced(least) else np
    allowed, rise = np.asarray(tolerance, least.dtype) * xp.maximum(least, 1), most - least
    share = allowed / xp.maximum(rise, np.ones((), least.dtype))
    return xp.where(rise <= allowed, np.ones((), least.dtype), xp.sqrt(share))


@jax.jit
def _disagreement(
    points: Float[Array, "n d"],
    codes: Int[Array, " n"],
    kept: Int[Array, " m"],
    looked_at: Int[Array, " j"],
) -> Float[Array, ""]:
    """How many of `looked_at` are nearest to a kept sample of another code; ties by place."""
    # With two more rows that no other exceeds, the scale is that of all points, which stay as
    # they are.
    extent = jnp.stack([points.min(axis=0), points.max(axis=0)])
    rows = points[jnp.concatenate([kept, looked_at])]
    scaled, _ = rescale(jnp.concatenate([rows, extent]))
    centers, others = scaled[: kept.shape[0]], scaled[kept.shape[0] : -2]
    half = 0.5 * jnp.sum(centers * centers, axis=1)[:, None]
    last = looked_at.shape[0]
    rows = min(last, max(_LEAST_ROWS, _TILE_NUMBERS // kept.shape[0]))
    places = jnp.arange(-(-last // rows) * rows, dtype=jnp.int32).reshape(-1, rows)

    def differing(places: Int[Array, " rows"]) -> Array:
        some = jnp.minimum(places, last - 1)
        nearest = kept[first_of_least(half - product(centers, others[some].T))]
        differs = codes[nearest] != codes[looked_at[some]]
        return jnp.sum(differs & (places < last), dtype=jnp.int32)

    return jnp.sum(lax.map(differing, places), dtype=jnp.int32).astype(points.dtype)
