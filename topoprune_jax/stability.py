"""How far a ranking depends on chance: on the seed and on noise in the features."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from . import _checks as checks
from ._compare import compare_rankings
from ._rank import Ranking
from ._types import ArrayInput, Key, Progress


class RankingStability(eqx.Module):
    """What `ranking_stability` found: one row for every kind of change, r rows and q repetitions.

    **Attributes:**

    - `noise`: r levels of noise, 0 for the row that changed only the seed.
    - `overlap`: (r, q) |A and B| / |A or B| of the kept sets A, given, and B, found again: 1 where
      they are the same, 0 where they share no sample.
    - `correlation`: (r, q) Spearman's rank correlation of the scores; NaN where all are equal.
    - `chance`: the overlap that two choices at random of as many samples would have, about
      m / (2n - m).
    """

    noise: tuple[float, ...]
    overlap: tuple[tuple[float, ...], ...]
    correlation: tuple[tuple[float, ...], ...]
    chance: float


def ranking_stability(
    features: ArrayInput,
    ranking: Ranking,
    rank_again: Callable[[Any, Key], Ranking],
    *,
    n_repetitions: int = 3,
    noise: ArrayInput = (0.1, 0.25),
    progress: Progress | None = None,
    key: Key,
) -> RankingStability:
    r"""Ranks again with other seeds and with noise, and says how much of the choice stays.

    It calls `rank_again` `n_repetitions` times for other seeds and as often for every level of
    noise, so it takes that many times as long as one ranking. With noise the seed stays `key`, so
    that the two causes are told apart. Noise of level s adds to the features x_i of sample i

        e_i = s |x_i| g_i / sqrt(d),    g_i standard normal in d dimensions,

    which is about s times as long as x_i is.

    **Arguments:**

    - `features`: (n, d), those that were ranked.
    - `ranking`: what came of them.
    - `rank_again`: called as `rank_again(features, key)`; the same call as made `ranking`, with the
      same ratio, labels and options.
    - `n_repetitions`: q, at least 1.
    - `noise`: levels above 0; empty for none.
    - `progress`: called with ("stability", done, total) between two rankings.
    - `key`: the key that made `ranking`; other seeds and the noise are derived from it.

    **Returns:** a `RankingStability`.

    **Raises:** TypeError or ValueError with one sentence for features that are no finite 2-D array
    of numbers or not those of the ranking, or an option out of range.

    !!! example

        ```python
        def rank_again(x, key):
            return topoprune_jax.rank(x, 0.9, labels=labels, key=key)

        key = jax.random.key(0)
        ranking = rank_again(features, key)
        stability = ranking_stability(features, ranking, rank_again, key=key)
        print(numpy.mean(stability.overlap[0]))  # of the kept sets under other seeds
        ```
    """
    checks.check_instance(ranking, Ranking, name="ranking", hint="Pass what `rank` returned.")
    values = checks.as_array(features, name="features")
    checks.check_matrix_shape(values, name="features", min_points=1)
    checks.check_finite(values, name="features")
    n, n_ranked = values.shape[0], ranking.order.shape[0]
    if n != n_ranked:
        raise ValueError(
            f"`features` must be those of the ranking, {n_ranked} rows; got {n}. "
            "Pass the features that were ranked."
        )
    q = checks.check_count(n_repetitions, name="n_repetitions", low=1)
    hint = "Pass the length of the noise as a fraction of the features' length, such as 0.1."
    levels = tuple(
        checks.check_number(level, name="noise", low=1e-6, high=10, hint=hint)
        for level in checks.check_list(noise, name="noise", hint="Pass one number as [0.1].")
    )
    key = checks.check_key(key)

    total = q * (1 + len(levels))
    overlaps: list[tuple[float, ...]] = []
    correlations: list[tuple[float, ...]] = []
    done = 0
    for row, level in enumerate((0.0, *levels)):
        pairs = []
        for repetition in range(q):
            if progress is not None:
                progress("stability", done, total)
            change = jax.random.fold_in(key, 1 + row * q + repetition)
            if level:
                again = rank_again(_noisy(values, level, change), key)
            else:
                again = rank_again(values, change)
            pairs.append(_agreement(ranking, again))
            done += 1
        overlaps.append(tuple(overlap for overlap, _ in pairs))
        correlations.append(tuple(correlation for _, correlation in pairs))
    if progress is not None:
        progress("stability", total, total)
    m = ranking.kept.shape[0]
    return RankingStability((0.0, *levels), tuple(overlaps), tuple(correlations), m / (2 * n - m))


def _noisy(values: Any, level: float, key: Key) -> np.ndarray:
    """Features with noise, in float64: 1e200 is a number like any other."""
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    exact = np.asarray(values, dtype=np.float64)
    largest = np.abs(exact).max(axis=1, keepdims=True)
    unit = exact / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(unit, axis=1, keepdims=True) / np.sqrt(exact.shape[1])
    unit += level * length * np.random.default_rng(seed).standard_normal(exact.shape)
    return unit * np.where(largest > 0, largest, 1)


def _agreement(ranking: Ranking, other: Ranking) -> tuple[float, float]:
    """Jaccard index of what both keep, and rank correlation of their scores."""
    both = compare_rankings(
        ranking.order,
        other.order,
        scores_a=ranking.scores,
        scores_b=other.scores,
        ratios=(),
        n_kept=[(len(ranking.kept), len(other.kept))],
    )
    return both.overlaps[0].jaccard, both.score_correlation
