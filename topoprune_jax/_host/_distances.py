"""Exact distances between persistence diagrams, for evaluation."""

import gudhi
import numpy as np


def bottleneck(first: np.ndarray, second: np.ndarray) -> float:
    """Bottleneck distance of bars `(a, 2)` and `(b, 2)`, by gudhi (its part under the GPL v3)."""
    return float(gudhi.bottleneck_distance(first.astype(np.float64), second.astype(np.float64)))


def wasserstein(first: np.ndarray, second: np.ndarray, *, order: float) -> float:
    """Wasserstein distance of bars, by optimal assignment (scipy) in the maximum norm."""
    # Late, since it would double the time that importing the package takes.
    from scipy.optimize import linear_sum_assignment

    first, second = first.astype(np.float64), second.astype(np.float64)
    endless = [np.isinf(bars[:, 1]) for bars in (first, second)]
    births = [np.sort(bars[e, 0]) for bars, e in zip((first, second), endless, strict=True)]
    if len(births[0]) != len(births[1]):
        return float("inf")
    # On a line the sorted births are the best partners.
    total = float(np.sum(np.abs(births[0] - births[1]) ** order))
    first, second = first[~endless[0]], second[~endless[1]]
    a, b = len(first), len(second)
    cost = np.zeros((a + b, a + b))
    cost[:a, :b] = np.abs(first[:, None] - second[None]).max(axis=2)
    cost[:a, b:] = ((first[:, 1] - first[:, 0]) / 2)[:, None]
    cost[a:, :b] = ((second[:, 1] - second[:, 0]) / 2)[None]
    cost **= order
    total += float(cost[linear_sum_assignment(cost)].sum())
    return total ** (1 / order)
