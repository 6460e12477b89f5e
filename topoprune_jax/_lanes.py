"""Independent programs beside each other on one CPU."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

from . import _checks as checks
from ._types import Array

T = TypeVar("T")

_MOST = 4
_NAME = "topoprune-lane"


class Lanes:
    """Hands pieces of work to the device, from a few threads in turn.

    XLA runs the programs that one thread hands to a CPU one after the other, and much of what it
    does there keeps one core busy: `top_k`, sorts, and loops over a few numbers. The programs of
    two threads run beside each other. A thread is not where the work is done, and what it returns
    need not be ready.
    """

    def __init__(self, near: Sequence[Array | None] = ()):
        """Lanes to the device of the arrays `near`, which are all that the work looks at; none but
        the caller's own without any, on an accelerator, on several devices, while JAX traces, and
        from within a lane."""
        arrays = [array for array in near if array is not None]
        apart = arrays and not _is_in_lane() and _are_on_one_cpu(arrays)
        self._threads = _threads(lanes_on("cpu")) if apart else ()
        if not _are_alike(self._threads):
            self._threads = ()

    def __len__(self) -> int:
        return max(1, len(self._threads))

    def hand_over(self, turn: int, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """`function(*args, **options)`, in the lane whose turn it is."""
        if not self._threads:
            return function(*args, **options)
        return self._threads[turn % len(self)].submit(function, *args, **options).result()


@contextlib.contextmanager
def lane_beside(near: Sequence[Array | None] = ()) -> Iterator[ThreadPoolExecutor | None]:
    """A thread for work beside that of the caller, under the conditions of `Lanes`; None where they
    do not hold. There are no lanes from within it.

    What is under way at the end goes on, and the end of the process waits for it.
    """
    if not Lanes(near)._threads:
        yield None
        return
    thread = ThreadPoolExecutor(1, thread_name_prefix=f"{_NAME}-beside")
    try:
        yield thread if _are_alike((thread,)) else None
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


def lanes_on(platform: str) -> int:
    """How many pieces may run beside each other on one device."""
    return max(1, min(_MOST, cores())) if platform == "cpu" and jax.process_count() == 1 else 1


def _are_on_one_cpu(arrays: Sequence[Array]) -> bool:
    if checks.is_tracing() or any(map(checks.is_traced, arrays)):
        return False
    devices = {device for array in arrays for device in array.devices()}
    return len(devices) == 1 and devices.pop().platform == "cpu"


def cores() -> int:
    """Those that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


@functools.cache
def _threads(count: int) -> tuple[ThreadPoolExecutor, ...]:
    names = [f"{_NAME}-{i}" for i in range(count if count > 1 else 0)]
    return tuple(ThreadPoolExecutor(1, thread_name_prefix=name) for name in names)


def _is_in_lane() -> bool:
    return threading.current_thread().name.startswith(_NAME)


def _are_alike(threads: Sequence[ThreadPoolExecutor]) -> bool:
    """Whether they can start, and have the options of this one: JAX's may be set for a thread
    alone."""
    try:
        return all(thread.submit(_options).result() == _options() for thread in threads)
    except RuntimeError:  # the system has no more threads
        return False


def _options() -> Any:
    return dict(jax.config.values), jax.sharding.get_abstract_mesh()
