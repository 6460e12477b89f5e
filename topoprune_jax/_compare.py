"""How two rankings of the same samples differ: what both keep, and how alike their orders are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import _checks as checks
from ._select import kept_count
from ._types import ArrayInput

RATIOS = (0.3, 0.5, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Overlap:
    """What two rankings A and B keep of n samples, and how much of it is the same.

    **Attributes:**

    - `n`: number of samples, or of samples of one class.
    - `n_kept_a`, `n_kept_b`: |A| and |B|, how many each keeps.
    - `n_shared`: |A ∩ B|.
    """

    n: int
    n_kept_a: int
    n_kept_b: int
    n_shared: int

    @property
    def share(self) -> float:
        """|A ∩ B| / min(|A|, |B|); NaN where one keeps nothing."""
        return _ratio(self.n_shared, min(self.n_kept_a, self.n_kept_b))

    @property
    def jaccard(self) -> float:
        """|A ∩ B| / |A ∪ B|; NaN where both keep nothing."""
        return _ratio(self.n_shared, self.n_kept_a + self.n_kept_b - self.n_shared)

    @property
    def share_by_chance(self) -> float:
        """What `share` is on average for two random choices of these sizes: max(|A|, |B|) / n."""
        return _ratio(max(self.n_kept_a, self.n_kept_b), self.n)


@dataclass(frozen=True)
class ClassComparison:
    """Two rankings within one class.

    **Attributes:**

    - `label`: the class.
    - `n`: number of its samples.
    - `overlaps`: of its samples, what both keep, in the order of `RankingComparison.overlaps`.
    - `order_correlation`: Spearman correlation of the two orders within the class.
    """

    label: str
    n: int
    overlaps: tuple[Overlap, ...]
    order_correlation: float


@dataclass(frozen=True)
class RankingComparison:
    """What `compare_rankings` returns.

    **Attributes:**

    - `n`: number of samples.
    - `ratios`: the fractions removed that were asked for.
    - `overlaps`: one for every ratio, then one for every pair of `n_kept`.
    - `order_correlation`: Spearman correlation of the two orders, between -1 and 1; NaN for a
      single sample.
    - `score_correlation`: that of the scores, ties sharing their mean rank; NaN unless both scores
      were given and neither is constant.
    - `classes`: the same class by class, sorted by label; empty without labels.
    """

    n: int
    ratios: tuple[float, ...]
    overlaps: tuple[Overlap, ...]
    order_correlation: float
    score_correlation: float
    classes: tuple[ClassComparison, ...]


def compare_rankings(
    order_a: ArrayInput,
    order_b: ArrayInput,
    *,
    scores_a: ArrayInput | None = None,
    scores_b: ArrayInput | None = None,
    labels: ArrayInput | None = None,
    ratios: ArrayInput = RATIOS,
    n_kept: ArrayInput = (),
) -> RankingComparison:
    r"""How much two rankings of the same n samples agree.

    At a ratio both keep the first m = `kept_count(n, ratio)` of their order, the sets A and
    B. They share |A ∩ B| / m of what they keep, against m / n by chance, and their Jaccard index is
    |A ∩ B| / |A ∪ B|. With p_i and q_i the places of sample i in the two orders, the correlation
    is Spearman's,

        rho = sum_i (p_i - p̄)(q_i - q̄) / sqrt(sum_i (p_i - p̄)^2 sum_i (q_i - q̄)^2).

    Within a class, p and q are the places among its samples.

    **Arguments:**

    - `order_a`, `order_b`: (n,) every sample once, the best to keep first, as `Ranking.order`.
    - `scores_a`, `scores_b`: (n,) a score of every sample, as `Ranking.scores`; give both or none.
    - `labels`: (n,) classes, integers or strings, to compare within each as well.
    - `ratios`: fractions removed, each in [0, 1).
    - `n_kept`: further pairs of sizes (|A|, |B|), for rankings that keep differently many.

    **Returns:** a `RankingComparison`, computed on the host in float64.

    **Raises:** TypeError or ValueError with one sentence for orders that are not the same samples
    once each, scores or labels of another length, a ratio outside [0, 1) or a size outside [1, n].

    ```python
    >>> import topoprune_jax as tp
    >>> both = tp.compare_rankings([0, 1, 2, 3], [1, 0, 3, 2], ratios=(0.5, 0.75))
    >>> [overlap.share for overlap in both.overlaps], round(both.order_correlation, 3)
    ([1.0, 0.0], 0.6)

    ```
    """
    first = checks.check_order(order_a, name="order_a")
    n = len(first)
    second = checks.check_order(order_b, name="order_b", n=n)
    if (scores_a is None) != (scores_b is None):
        missing = "scores_a" if scores_a is None else "scores_b"
        checks.refuse(f"`{missing}` must be given too; got the scores of one ranking only.")
    listed = checks.check_list(ratios, name="ratios", hint="Pass one number as [0.9].")
    fractions = tuple(checks.check_ratio(ratio) for ratio in listed)
    sizes = [(m, m) for m in (kept_count(n, ratio) for ratio in fractions)]
    of, hint = "pairs of counts", "Pass one pair as [(10, 20)]."
    for pair in checks.check_list(n_kept, name="n_kept", of=of, hint=hint):
        both = checks.check_list(pair, name="n_kept", of=of, hint=hint)
        if len(both) != 2:
            checks.refuse(f"`n_kept` must be a list of {of}; got {pair!r} in it. {hint}")
        note = "It is how many of the samples are kept."
        m_a, m_b = (checks.check_count(m, name="n_kept", low=1, high=n, hint=note) for m in both)
        sizes.append((m_a, m_b))
    places_a, places_b = np.argsort(first), np.argsort(second)
    score_correlation = float("nan")
    if scores_a is not None and scores_b is not None:
        score_correlation = _spearman(
            np.asarray(checks.check_ranks(scores_a, n, name="scores_a")),
            np.asarray(checks.check_ranks(scores_b, n, name="scores_b")),
        )
    return RankingComparison(
        n=n,
        ratios=fractions,
        overlaps=_overlaps(places_a, places_b, sizes),
        order_correlation=_spearman(places_a, places_b),
        score_correlation=score_correlation,
        classes=_classes(labels, places_a, places_b, sizes),
    )


def _classes(
    labels: ArrayInput | None,
    places_a: np.ndarray,
    places_b: np.ndarray,
    sizes: Sequence[tuple[int, int]],
) -> tuple[ClassComparison, ...]:
    if labels is None:
        return ()
    codes = np.asarray(checks.check_labels(labels, len(places_a)))
    values = np.asarray(labels)
    comparisons = []
    for code in range(codes.max() + 1):
        members = np.flatnonzero(codes == code)
        a, b = places_a[members], places_b[members]
        comparisons.append(
            ClassComparison(
                str(values[members[0]]), len(members), _overlaps(a, b, sizes), _spearman(a, b)
            )
        )
    return tuple(comparisons)


def _overlaps(
    places_a: np.ndarray, places_b: np.ndarray, sizes: Sequence[tuple[int, int]]
) -> tuple[Overlap, ...]:
    """Of these samples, those before place m_a in one order and before m_b in the other."""
    overlaps = []
    for m_a, m_b in sizes:
        kept_a, kept_b = places_a < m_a, places_b < m_b
        counts = (int(kept.sum()) for kept in (kept_a, kept_b, kept_a & kept_b))
        overlaps.append(Overlap(len(places_a), *counts))
    return tuple(overlaps)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of the ranks, ties sharing their mean; NaN where one is constant."""
    p, q = _mean_ranks(a), _mean_ranks(b)
    p, q = p - p.mean(), q - q.mean()
    scale = np.sqrt((p @ p) * (q @ q))
    return _ratio(float(p @ q), float(scale))


def _mean_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
