"""Work on the host that several threads share."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


def for_each(work: Callable[[int], None], places: Sequence[int], n_threads: int) -> None:
    """Calls `work`, which must not raise, for every place; on threads if it pays."""
    if n_threads < 2 or len(places) < 2:
        for place in places:
            work(place)
        return
    try:
        pool = ThreadPoolExecutor(n_threads)
    except RuntimeError:  # no more threads
        return for_each(work, places, 1)
    with pool:
        left = list(places)
        try:
            while left:
                pool.submit(work, left[-1])
                left.pop()
        except RuntimeError:  # the interpreter is shutting down
            for_each(work, left, 1)
