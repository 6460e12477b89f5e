"""What the commands share: the clock and its bar, tables, Ctrl-C, and errors in one line."""

import concurrent.futures
import contextlib
import json
import math
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click
import rich.box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

T = TypeVar("T")

PROGRAM = "topoprune"
INTERRUPTED = 130  # 128 + SIGINT, what shells report for Ctrl-C
BAD_INPUT = 2
_POLL_SECONDS = 0.2
LARGEST_SEED = 2**32 - 1
_PACKAGE = __name__.partition(".")[0]
# Modules that say in an ImportError which extra is missing.
_WITH_EXTRAS = ("demo", "plot", "report", "_arrays", "_arrow")


class StageTimer:
    """Collects the seconds of every stage from `progress` calls, and shows a bar while it does.

    Pass it as `progress=` to `rank`. The time between two calls belongs to the stage that the later
    call names, except that a call with `done == 0` only opens its stage; so stages may repeat or
    take turns, and their seconds add up.

    **Arguments:**

    - `bar`: show a progress bar on stderr; leave it off unless stderr is a terminal.

    !!! example

        ```python
        with StageTimer() as timer:
            ranking = topoprune_jax.rank(features, 0.9, progress=timer)
        print(timer.table())
        ```
    """

    def __init__(self, *, bar: bool = False):
        self._seconds: dict[str, float] = {}
        self._start = self._last = time.perf_counter()
        self._end: float | None = None
        self._tasks: dict[str, TaskID] = {}
        self._bar = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            if bar
            else None
        )

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Records that `done` of `total` units of `stage` are finished."""
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        self._seconds[stage] = self._seconds.get(stage, 0.0) + (lap if done > 0 else 0.0)
        if self._bar is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bar.add_task(stage, total=total)
            self._bar.update(self._tasks[stage], completed=done, total=total)

    def __enter__(self) -> "StageTimer":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = time.perf_counter()
        if self._bar is not None:
            self._bar.stop()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the body of a `with` statement as one stage.

        !!! example

            ```python
            with timer.stage("read"):
                features = np.load("features.npy")
            ```
        """
        self(name, 0, 1)
        yield
        self(name, 1, 1)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in the order in which the stages began."""
        return dict(self._seconds)

    @property
    def total(self) -> float:
        """Seconds from the making of the timer to the end of its `with` block, or until now."""
        return (time.perf_counter() if self._end is None else self._end) - self._start

    def rows(self) -> list[tuple[str, str]]:
        """The table's rows as text: every stage, what is left over, the total, peak memory."""
        times = self.seconds
        times["everything else"] = max(0.0, self.total - sum(times.values()))
        times["total"] = self.total
        rows = [(stage, f"{seconds:.2f}") for stage, seconds in times.items()]
        memory = peak_memory()
        return (
            rows if memory is None else [*rows, ("peak resident memory", f"{memory / 1e9:.2f} GB")]
        )

    def table(self) -> str:
        """The stages and their seconds as lines of plain text, ending with peak resident memory."""
        return plain(("stage", "seconds"), self.rows())


def peak_memory() -> int | None:
    """The most memory in bytes that this process has held so far; None where nothing tells.

    !!! example

        ```python
        print(peak_memory())  # 412041216
        ```
    """
    # Linux counts a parent's memory into ru_maxrss of a fresh process, but not into VmHWM.
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left and the others to the right."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, err: bool) -> None:
    """A table: drawn by rich on a terminal, plain text where the stream is piped."""
    stream = sys.stderr if err else sys.stdout
    if not stream.isatty():
        click.echo(f"{title}\n{plain(header, rows)}", err=err)
        return
    # Text, since names of files and classes may hold what rich would read as markup.
    table = Table(title=Text(title), title_justify="left", box=rich.box.SIMPLE_HEAD)
    for column, name in enumerate(header):
        table.add_column(name, justify="right" if column else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(file=stream).print(table)


def interruptible(work: Callable[[], T], *, farewell: str = "") -> T:
    """`work()` in a thread of its own, so that Ctrl-C is heard at once.

    After Ctrl-C the program says `farewell` in place of its usual sentence.

    Python handles a signal between two bytecodes of the main thread, and a compiled program holds
    that up for as long as it runs; here the main thread does nothing but wait. The handler only
    leaves a note: a KeyboardInterrupt that is raised inside a garbage-collection or weak-reference
    callback is swallowed, and the work would go on to its end.
    """
    interrupted = threading.Event()
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()

    def target() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        threading.Thread(target=target, daemon=True).start()
        while not outcome.done():
            concurrent.futures.wait([outcome], timeout=_POLL_SECONDS)
            if interrupted.is_set():
                raise click.Abort(farewell)
    finally:
        signal.signal(signal.SIGINT, before)
    return outcome.result()


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns an error about the user's input into click's one-line error.

    An error that JAX or NumPy raised from inside is a defect of ours, whatever its class: it keeps
    its traceback, so that nobody looks for the fault in their data.
    """
    from ..io import FileError

    try:
        yield
    except FileError as error:
        raise click.ClickException(str(error)) from error
    except (ValueError, TypeError) as error:
        if _raised_by(error) != "_checks":
            raise
        raise click.ClickException(str(error)) from error
    except MemoryError as error:
        if _raised_by(error) != "_plan":
            raise
        raise click.ClickException(str(error)) from error
    except ImportError as error:
        if _raised_by(error) not in _WITH_EXTRAS:
            raise
        raise click.ClickException(str(error)) from error


def _raised_by(error: Exception) -> str | None:
    """The module of this package whose own line raised `error`; None if it came from elsewhere."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    package, _, module = frame.f_globals["__name__"].partition(".")
    return module if package == _PACKAGE else None


def bar_wanted(quiet: bool) -> bool:
    """Whether to draw a progress bar: never into a pipe."""
    return not quiet and sys.stderr.isatty()


def warn(remark: str) -> None:
    """A remark on stderr, if there is one."""
    if remark:
        click.echo(f"Warning: {remark}", err=True)


def print_json(record: dict[str, Any]) -> None:
    """One JSON object on stdout; numbers that are not finite become null."""
    click.echo(json.dumps(_finite(record), indent=1, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
