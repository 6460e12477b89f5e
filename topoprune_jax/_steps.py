"""Long work in pieces: reported to who watches, within reach of Ctrl-C, kept by a checkpoint."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks as checks
from ._checkpoint import Checkpoint, opened
from ._lanes import Lanes, lane_beside
from ._memory import give_back_freed_memory
from ._types import Array, Progress

T = TypeVar("T")

_SHORTEST_NAP = 5e-5  # seconds
_LONGEST_NAP = 0.01
_NAP_SHARE = 0.04  # of the time that was waited: so much longer than needed a wait is at most


def wait(values: T) -> T:
    """`jax.block_until_ready`, out of which Ctrl-C leads at once.

    Python hears a signal between two bytecodes of the main thread, and `block_until_ready` is one
    for as long as the device takes; here the main thread naps and looks again. Neither this nor
    anything else stops what the device has begun, which is why long work goes there in pieces.
    """
    arrays = [
        leaf
        for leaf in jax.tree.leaves(values)
        if isinstance(leaf, jax.Array) and not checks.is_traced(leaf)
    ]
    if threading.current_thread() is threading.main_thread():
        begin = time.perf_counter()
        for array in arrays:
            # Not in JAX's own list of what an array has, but in every one of its arrays.
            while not array.is_ready():  # pyright: ignore[reportAttributeAccessIssue]
                waited = time.perf_counter() - begin
                time.sleep(min(_LONGEST_NAP, max(_SHORTEST_NAP, _NAP_SHARE * waited)))
    jax.block_until_ready(arrays)
    return values


class Run:
    """One run of a long function: who watches it, and the checkpoint that keeps what it finished.

    It is called as a `Progress` is, so that it goes wherever a `Progress` goes.
    """

    def __init__(self, progress: Progress | None = None, checkpoint: Checkpoint | None = None):
        self._progress, self._checkpoint = progress, checkpoint
        self._scope = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Says that `done` of `total` units of `stage` are finished."""
        if self._progress is not None:
            self._progress(stage, done, total)

    @property
    def is_watched(self) -> bool:
        """Whether there is somebody to report to."""
        return self._progress is not None

    @property
    def is_alone(self) -> bool:
        """Whether nobody watches and nothing is kept."""
        return self._progress is None and self._checkpoint is None

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What keeps the pieces of a stage; None outside of `once`."""
        return self._checkpoint if self._scope else None

    def name(self, stage: str) -> str:
        """The checkpoint's name for a stage within the present one."""
        own = stage.replace(" ", "-")
        return f"{self._scope}.{own}" if self._scope else own

    def step(self, stage: str, compute: Callable[[], T]) -> T:
        """A stage of one piece, which is computed anew by every run."""
        self(stage, 0, 1)
        result = wait(compute())
        self(stage, 1, 1)
        return result

    def once(
        self, stage: str, compute: Callable[[], T], build: Callable[..., T] = lambda value: value
    ) -> T:
        """`compute()`, whose arrays a checkpoint keeps; or `build(*arrays)` of those that it has.

        What stages inside of it and their pieces have left is removed at the end, so that a
        checkpoint holds results and the stage at work.
        """
        if self._checkpoint is None:
            return wait(compute())
        outer, self._scope = self._scope, self.name(stage)
        try:
            found = self._checkpoint.load(self._scope)
            if found is not None:
                # A kill may have come between the saving and the removal.
                self._checkpoint.remove_inside(self._scope)
                self(stage, 1, 1)
                return build(*(jnp.asarray(found[str(i)]) for i in range(len(found))))
            result = wait(compute())
            leaves = jax.tree.leaves(result)
            self._checkpoint.save(self._scope, {str(i): leaf for i, leaf in enumerate(leaves)})
            self._checkpoint.remove_inside(self._scope)
            return result
        finally:
            self._scope = outer


class _Branch(Run):
    """What runs beside another: it stops before its next piece once nobody waits for it."""

    def __init__(self):
        super().__init__()
        self._is_left = False

    def leave(self) -> None:
        """Nobody waits any more."""
        self._is_left = True

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._is_left:
            raise _LeftError


class _LeftError(Exception):
    """Nobody sees it."""


class Side:
    """Where work goes that runs beside the caller's, or the caller itself."""

    def __init__(self, run: Run, thread: Executor | None):
        self._run, self._thread, self._branch = run, thread, _Branch()

    def __call__(
        self, compute: Callable[[Run], T], *, waits_for_need: bool = False
    ) -> Callable[[], T]:
        """What waits for `compute(run)` and returns it.

        Without a thread that is computed now, or when it is needed for the first time.
        """
        if self._thread is not None:
            under_way = self._thread.submit(compute, self._branch)
            return lambda: _result_of(under_way)
        if waits_for_need:
            return functools.cache(lambda: compute(self._run))
        result = compute(self._run)
        return lambda: result

    def leave(self) -> None:
        """Nobody waits any more."""
        self._branch.leave()


@contextlib.contextmanager
def beside(run: Run, near: Sequence[Array | None] = ()) -> Iterator[Side]:
    """A side for what nothing else needs for a while.

    It has a thread under the conditions of `Lanes`, where nobody watches and nothing is kept: who
    watches sees one stage after the other.
    """
    with lane_beside(near if run.is_alone else ()) as thread:
        side = Side(run, thread)
        try:
            yield side
        finally:
            side.leave()


@contextlib.contextmanager
def compiled_ahead(
    near: Sequence[Array | None],
) -> Iterator[Callable[[Callable[[Run], None]], Callable[[], None]]]:
    """What takes functions that compile programs, as the compiler and the stages leave cores idle:
    a thread calls them one after the other, under the conditions of `Lanes` near those arrays. For
    each there is something that waits for its end.

    Between two programs they call their argument, where they stop once nobody waits.
    """
    with lane_beside(near) as thread:
        branch = _Branch()

        def ahead(compile_programs: Callable[[Run], None]) -> Callable[[], None]:
            if thread is None:
                return lambda: None
            under_way = thread.submit(compile_programs, branch)
            return lambda: _result_of(under_way)

        try:
            yield ahead
        finally:
            branch.leave()


def _result_of(under_way: Future[T]) -> T:
    """Out of which Ctrl-C leads at once."""
    while not under_way.done():
        futures.wait([under_way], timeout=_LONGEST_NAP)
    return under_way.result()


@contextlib.contextmanager
def running(
    progress: Progress | None, folder: Any, identity: Callable[[], Mapping[str, Any]]
) -> Iterator[Run]:
    """A run with the checkpoint in a folder, or without one where that is None.

    **Arguments:** `identity` makes the `fingerprint`.
    **Raises:** as `opened`.
    """
    if folder is None:
        yield Run(progress)
        return
    if jax.process_count() > 1:
        checks.refuse(
            f"`checkpoint` is kept by one process; got {jax.process_count()} of them. Leave it out."
        )
    with opened(folder, identity()) as checkpoint:
        yield Run(progress, checkpoint)


class Steps:
    """The pieces of a stage, one after the other, or a few at a time.

    While nobody watches, a piece more is under way than runs when the next one is handed over, so
    that the device has no time without work; more would only be out of reach of Ctrl-C. How the
    work is cut into pieces must depend on shapes alone, so that a later run computes the same ones.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        progress: Progress | None,
        *,
        size: int = 1,
        beside: Sequence[Array | None] = (),
    ):
        """`total` units of work, `size` of them in each piece but perhaps the last.

        With `beside`, all the arrays that they look at, the pieces that `run` gets may run beside
        each other. They must not call the host.
        """
        self._stage, self._total, self._size = stage, total, size
        self._lanes = Lanes(beside)
        self._run = progress if isinstance(progress, Run) else Run(progress)
        self._store = self._run.checkpoint
        self._name = f"{self._run.name(stage)}.{total}-{size}"
        self._done, self._count = 0, 0
        self._under_way: list[Any] = []
        self._unsaved: dict[int, Any] = {}
        self._found = {} if self._store is None else _parts(self._store, self._name)

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The next piece, `function(*args, **options)`, unless an earlier run has computed it.

        An array or a tuple of arrays is kept. What else a piece makes, such as a tree for the
        others to work on, is made anew.
        """
        index, self._count = self._count, self._count + 1
        if index in self._found:
            result = self._found.pop(index)
        else:
            self._pause()
            result = self._lanes.hand_over(index, function, *args, **options)
            self._under_way.append(result)
            if self._store is not None and _is_simple(result):
                self._unsaved[index] = result
        self._done = min(self._total, self._done + self._size)
        return result

    def carry(self, step: Callable[[T, int], T], state: T) -> T:
        """`state = step(state, done)` until all units are done, from where an earlier run was."""
        if self._store is not None:
            state = self._recalled(self._store, state)
        while self._done < self._total:
            self._pause(state)
            state = step(state, self._done)
            self._under_way.append(state)
            self._done = min(self._total, self._done + self._size)
        return state

    def end(self, result: Any = None) -> Any:
        """The end of the stage, where `result` was made of the pieces: `result`."""
        if self._run.is_watched:
            wait((self._under_way, result))
        self._under_way.clear()
        if self._total > self._size and not checks.is_tracing():
            give_back_freed_memory()
        self._save_parts()
        self._run(self._stage, self._total, self._total)
        return result

    def _pause(self, state: Any = None) -> None:
        """Between two pieces: waits, saves and reports."""
        ahead = len(self._lanes) - self._run.is_watched
        while len(self._under_way) > ahead:
            wait(self._under_way.pop(0))
        if state is None:
            self._save_parts()
        elif self._store is not None and self._done > 0 and self._store.is_due:
            leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(wait(state)))}
            self._store.save(self._name, {"done": np.asarray(self._done), **leaves})
        finished = max(0, self._done - self._size * len(self._under_way))
        self._run(self._stage, finished, self._total)

    def _save_parts(self) -> None:
        if self._store is None or not self._unsaved or not self._store.is_due:
            return
        arrays = {}
        for index, part in wait(self._unsaved).items():
            several = isinstance(part, tuple)
            leaves = enumerate(part) if several else [("", part)]
            arrays |= {f"{index}.{i}": leaf for i, leaf in leaves}
        self._store.save(f"{self._name}-{min(self._unsaved)}", arrays)
        self._unsaved.clear()

    def _recalled(self, store: Checkpoint, state: T) -> T:
        """The state that an earlier run came to, or the one at the start."""
        found = store.load(self._name)
        leaves, form = jax.tree.flatten(state)
        if found is None or len(found) != len(leaves) + 1:
            return state
        self._done = int(found["done"])
        return jax.tree.unflatten(
            form, [_placed_as(leaf, found[str(i)]) for i, leaf in enumerate(leaves)]
        )


def _is_simple(result: Any) -> bool:
    parts = result if isinstance(result, tuple) else (result,)
    return all(isinstance(part, jax.Array) for part in parts)


def _parts(store: Checkpoint, name: str) -> dict[int, Any]:
    """The pieces of a stage that are kept, by their place in it."""
    found: dict[int, dict[str, Array]] = {}
    for file in store.inside(name.rpartition(".")[0]):
        if not file.startswith(f"{name}-"):
            continue
        for key, values in (store.load(file) or {}).items():
            index, _, place = key.partition(".")
            found.setdefault(int(index), {})[place] = jnp.asarray(values)
    return {
        index: part[""] if "" in part else tuple(part[str(i)] for i in range(len(part)))
        for index, part in found.items()
    }


def _placed_as(like: Array, values: np.ndarray) -> Array:
    """On the devices on which `like` is, where they are several."""
    if len(like.sharding.device_set) > 1:
        return jax.device_put(values, like.sharding)
    return jnp.asarray(values)
