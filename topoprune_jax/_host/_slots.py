"""Filling the fixed slots of a diagram on the host."""

import numpy as np


def fill_slots(
    generators: np.ndarray,
    count: np.ndarray,
    found: list[tuple[np.ndarray, np.ndarray]],
    capacities: tuple[int, ...],
) -> None:
    """Writes the most persistent generators of every dimension, and how many there are.

    **Arguments:**

    - `generators`: `(p, g)`, to be written; `count`: `(q,)`, to be written.
    - `found`: for every dimension the rows `(b, g)` of its bars and their lifetimes `(b,)`, of
      which those of length 0 are left out.
    """
    start = 0
    for column, ((rows, lifetimes), capacity) in enumerate(zip(found, capacities, strict=True)):
        alive = lifetimes > 0
        rows, lifetimes = rows[alive], lifetimes[alive]
        best = np.lexsort((*rows.T[::-1], -lifetimes))[:capacity]
        generators[start : start + len(best)] = rows[best]
        count[column] = len(rows)
        start += capacity
