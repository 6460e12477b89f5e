"""What a picture of a ranking shows: which samples are drawn, which regions are looked at closely.

Pure functions on the host, so that figures (`plot`) and pages (`report`) agree.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

_THINNING_SEED = 0
_LEAST_SHARE_OF_REMOVED = 5  # removed samples get at least one dot in so many
_LONG_TAIL = 20.0


def thin(
    kept: Bool[np.ndarray, " n"], max_points: int, *, always: Int[np.ndarray, " a"]
) -> Int[np.ndarray, " s"]:
    """Indices of at most about `max_points` samples to draw, ascending.

    Every kept sample is drawn and removed ones fill what is left, but for a fifth of `max_points`
    that always is theirs: where more than the other four fifths are kept, the kept ones are thinned
    too. Who is left out is drawn by a fixed seed, evenly, so that dense regions stay dense. The
    samples `always` are drawn in any case.
    """
    n = len(kept)
    if n <= max_points:
        return np.arange(n)
    inside, outside = np.flatnonzero(kept), np.flatnonzero(~kept)
    for_removed = min(
        len(outside), max(max_points - len(inside), max_points // _LEAST_SHARE_OF_REMOVED)
    )
    for_kept = min(len(inside), max_points - for_removed)
    rng = np.random.default_rng(_THINNING_SEED)
    return np.unique(
        np.concatenate(
            [
                rng.choice(inside, for_kept, replace=False),
                rng.choice(outside, for_removed, replace=False),
                always,
            ]
        )
    )


def choose_regions(scores: Float[np.ndarray, " n"]) -> dict[str, int]:
    """The most complex, the median and the simplest sample, fewer where they are the same.

    Ties go by index.
    """
    ascending = np.argsort(scores, kind="stable")
    chosen = {
        "most complex": scores.argmax(),
        "median": ascending[(len(scores) - 1) // 2],
        "simplest": ascending[0],
    }
    regions: dict[str, int] = {}
    for name, sample in chosen.items():
        if int(sample) not in regions.values():
            regions[name] = int(sample)
    return regions


def extremes(
    scores: Float[np.ndarray, " n"], count: int
) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " e"]]:
    """The `count` most complex samples, the most complex first, and the least complex likewise.

    No sample is in both: of few samples each list gets a half, the first the odd one. Ties go by
    index.
    """
    n = len(scores)
    most = np.argsort(-scores, kind="stable")[: min(count, (n + 1) // 2)]
    ascending = np.argsort(scores, kind="stable")
    least = ascending[~np.isin(ascending, most)][: min(count, n // 2)]
    return most, least


def patch_of(
    manifold: Float[np.ndarray, "n c"],
    sample: int,
    patch_size: int,
    codes: Int[np.ndarray, " n"] | None,
) -> Int[np.ndarray, " m"]:
    """`sample` and its `patch_size` - 1 nearest points, of its own class where `codes` are given.

    The patch whose persistence `structural_complexity` measures; ties go by index. Of a connected
    component of fewer samples `rank` measures these alone, which are the first ones here.
    """
    among = np.arange(len(manifold)) if codes is None else np.flatnonzero(codes == codes[sample])
    among = among[among != sample]
    squared = ((manifold[among] - manifold[sample]) ** 2).sum(axis=1)
    nearest = among[np.argsort(squared, kind="stable")[: patch_size - 1]]
    return np.concatenate([[sample], nearest])


def class_shares(
    codes: Int[np.ndarray, " n"], kept: Bool[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " classes"], Int[np.ndarray, " classes"]]:
    """Of every class the number of samples and the number kept, by code."""
    n_classes = int(codes.max()) + 1
    return np.bincount(codes, minlength=n_classes), np.bincount(codes[kept], minlength=n_classes)


def places(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The mean place of every score among the sorted ones, in (0, 1).

    Equal scores share theirs, and so a color.
    """
    ascending = np.sort(scores)
    left = np.searchsorted(ascending, scores, "left")
    return (left + np.searchsorted(ascending, scores, "right")) / (2.0 * len(scores))


def score_bins(scores: Float[np.ndarray, " n"], n_bins: int = 48) -> Float[np.ndarray, " edges"]:
    """Edges of a histogram: even steps, or even ratios where scores have a long tail.

    A long tail is a largest score above 20 times the median, with all scores above 0.
    """
    least, middle, most = (float(np.quantile(scores, q)) for q in (0.0, 0.5, 1.0))
    if least == most:
        # Three bins, so that a bar stands in the middle and not across the picture.
        reach = 0.5 * abs(least) if least else 0.5
        return least + reach * np.array([-3.0, -1.0, 1.0, 3.0])
    if least > 0 and most > _LONG_TAIL * middle:
        return np.geomspace(least, most, n_bins + 1)
    return np.linspace(least, most, n_bins + 1)


def is_geometric(edges: Float[np.ndarray, " edges"]) -> bool:
    """Whether `score_bins` made even ratios, which want a logarithmic axis."""
    return edges[0] > 0 and edges[-1] - edges[-2] > 1.5 * (edges[1] - edges[0])


def score_cut(scores: Float[np.ndarray, " n"], n_kept: int, beta: float) -> float | None:
    """The score at which a choice of `n_kept` samples by score alone would stop.

    Above it the samples would be kept where beta < 0 prefers complex ones, below it where beta > 0
    avoids them. None where beta is 0 or unknown, or nothing is removed: the score alone would then
    decide nothing.
    """
    n = len(scores)
    if not beta or np.isnan(beta) or n_kept >= n:
        return None
    ascending = np.sort(scores)
    below = n - n_kept if beta < 0 else n_kept
    return float((ascending[below - 1] + ascending[below]) / 2)


def kept_mask(kept: Int[np.ndarray, " m"], n: int) -> Bool[np.ndarray, " n"]:
    """Which of n samples are among the indices `kept`."""
    mask = np.zeros(n, dtype=bool)
    mask[kept] = True
    return mask
