"""The command line, `topoprune rank` and `topoprune demo`, and the clock that it shows.

JAX and the computing modules are imported inside the commands, so that `--help` and a mistyped
option are answered at once.
"""

import concurrent.futures
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import click
import rich.box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import __version__

T = TypeVar("T")

_PROGRAM = "topoprune"
_INTERRUPTED = 130  # 128 + SIGINT, what shells report for Ctrl-C
_BAD_INPUT = 2
_POLL_SECONDS = 0.2
_LARGEST_SEED = 2**32 - 1


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
        return _plain(("stage", "seconds"), self.rows())


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


def _plain(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
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


def _show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, err: bool) -> None:
    """A table: drawn by rich on a terminal, plain text where the stream is piped."""
    stream = sys.stderr if err else sys.stdout
    if not stream.isatty():
        click.echo(f"{title}\n{_plain(header, rows)}", err=err)
        return
    table = Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for column, name in enumerate(header):
        table.add_column(name, justify="right" if column else "left")
    for row in rows:
        table.add_row(*row)
    Console(file=stream).print(table)


def _interruptible(work: Callable[[], T]) -> T:
    """`work()` in a thread of its own, so that Ctrl-C is heard at once.

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
                raise click.Abort
    finally:
        signal.signal(signal.SIGINT, before)
    return outcome.result()


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """Turns an error about the user's input into click's one-line error.

    An error that JAX or NumPy raised from inside is a defect of ours, whatever its class: it keeps
    its traceback, so that nobody looks for the fault in their data.
    """
    from .io import FileError

    try:
        yield
    except FileError as error:
        raise click.ClickException(str(error)) from error
    except (ValueError, TypeError) as error:
        if _raised_by(error) != "_checks":
            raise
        raise click.ClickException(str(error)) from error
    except ImportError as error:
        if _raised_by(error) not in ("demo", "plot"):
            raise
        raise click.ClickException(str(error)) from error


def _raised_by(error: Exception) -> str | None:
    """The module of this package whose own line raised `error`; None if it came from elsewhere."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    package, _, module = frame.f_globals["__name__"].partition(".")
    return module if package == __package__ else None


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name=_PROGRAM)
@click.pass_context
def _commands(context: click.Context) -> None:
    """Choose which samples to keep when you train on a fraction of your data.

    Topological data pruning: samples are ranked by how well they cover the manifold of the
    features, weighted by how simple their neighborhood is.

    \b
    topoprune demo                                          see it work, no data needed
    topoprune rank features.npy --ratio 0.9 --out kept.npz  rank your own features
    topoprune rank --help                                   everything about ranking
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@_commands.command("rank")
@click.argument("features")
@click.option(
    "--ratio",
    type=float,
    required=True,
    help="Fraction of the samples to REMOVE, from 0 up to but not including 1: 0.9 keeps a tenth.",
)
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help="Where to write the ranking, .npz or .csv by the name. Replaces an existing file.",
)
@click.option(
    "--labels",
    metavar="LABELS",
    help="Class labels, one a sample, as .npy or .npz. With them every class keeps its share, and "
    "one sample at least.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, _LARGEST_SEED),
    default=0,
    show_default=True,
    help="The same seed gives the same ranking, bit for bit.",
)
@click.option(
    "--n-neighbors",
    type=int,
    default=15,
    show_default=True,
    help="Neighbors of every sample in the graph that stands for the manifold.",
)
@click.option(
    "--neighbors",
    type=click.Choice(["exact", "projected", "blocks"]),
    default="exact",
    show_default=True,
    help="How neighbors are found: all of them, or faster with many features or many samples.",
)
@click.option(
    "--patch-size",
    type=int,
    default=64,
    show_default=True,
    help="Samples in the neighborhood whose persistence is a sample's complexity.",
)
@click.option(
    "--beta",
    type=float,
    default=None,
    show_default="-1 with labels, without them chosen from the data",
    help="How much simple neighborhoods are preferred, or complex ones below 0.",
)
@click.option("--quiet", is_flag=True, help="No progress bar and no table of times.")
def _rank_command(
    features: str,
    ratio: float,
    out: str,
    labels: str | None,
    seed: int,
    n_neighbors: int,
    neighbors: str,
    patch_size: int,
    beta: float | None,
    quiet: bool,
) -> None:
    """Rank the rows of FEATURES and write which to keep.

    FEATURES is a .npy or .npz file with one row of numbers a sample, such as the activations of
    a network's last hidden layer. PATH::NAME names one array of a .npz file.

    \b
    Examples:
      Remove 90 % of the samples, keep a tenth:
        topoprune rank features.npy --ratio 0.9 --out ranking.npz
      With labels, from arrays in one file, to a table for a spreadsheet:
        topoprune rank data.npz::x --labels data.npz::y --ratio 0.8 --out ranking.csv
      Use the result in Python:
        small = features[numpy.load("ranking.npz")["kept"]]

    The output has index (row of FEATURES), score (structural complexity, high = complex), rank
    (0 = best to keep) and kept for every sample; .npz also has order and embedding. One ranking
    serves every ratio: the first m samples of the order are what a larger ratio keeps.

    Exit code 0: written. 2: the input cannot be used, and why. 130: interrupted by Ctrl-C.
    """
    from ._checks import check_ratio
    from ._results import RESULTS
    from .io import check_writable, read_array, write_ranking

    with _user_errors(), StageTimer(bar=_bar_wanted(quiet)) as timer:
        check_ratio(ratio)
        check_writable(out)
        for given in (features, labels):
            _refuse_to_overwrite(out, given)
        with timer.stage("read"):
            points = read_array(features)
            classes = None if labels is None else read_array(labels)

        def work():
            import jax

            from ._rank import rank

            return rank(
                points,
                ratio,
                labels=classes,
                n_neighbors=n_neighbors,
                neighbors=neighbors,
                patch_size=patch_size,
                beta=beta,
                progress=timer,
                key=jax.random.key(seed),
            )

        ranking = _interruptible(work)
        with timer.stage("write"):
            write_ranking(out, ranking)
    _warn(RESULTS[ranking.result])
    if not quiet:
        _show("Where the time went", ("stage", "seconds"), timer.rows(), err=True)
    n_kept, n = len(ranking.kept), len(ranking.order)
    if neighbors != "exact":
        click.echo(
            f"The neighbors found are {float(ranking.recall):.1%} of the true ones.", err=True
        )
    click.echo(f"Kept {n_kept:,} of {n:,} samples ({n_kept / n:.1%}); ranking written to {out}")


@_commands.command("demo")
@click.option(
    "--out",
    default="demo-output",
    show_default=True,
    metavar="DIR",
    help="Folder for the picture, the ranking and the results; made if it is missing.",
)
@click.option(
    "--ratio",
    type=float,
    default=0.9,
    show_default=True,
    help="Fraction of the training samples to REMOVE: 0.9 keeps a tenth.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Repetitions, each with its own split, random choices and training.",
)
def _demo_command(out: str, ratio: float, seeds: int) -> None:
    """Prune scikit-learn's digits and compare on held-out images. No download.

    Ranks two thirds of the 1,797 images, trains the same small network on what each method keeps
    (equally many samples each) and reports accuracy on the last third. Writes a picture of the
    embedding, the ranking and every single result.

    Needs the extra `demo`: pip install 'topoprune-jax[demo]'
    """
    from ._checks import check_ratio

    with _user_errors(), StageTimer(bar=_bar_wanted(quiet=False)) as timer:
        check_ratio(ratio)

        def work():
            from .demo import run_demo

            command = f"{_PROGRAM} demo --out {out} --ratio {ratio:g} --seeds {seeds}"
            return run_demo(out, ratio=ratio, n_seeds=seeds, command=command, progress=timer)

        demo = _interruptible(work)
    from . import demo as methods
    from ._results import RESULTS

    result = demo.comparison
    _warn(RESULTS[demo.ranking.result])
    _show(
        f"Where the time went ({2 * seeds} rankings of {result.n_train:,} samples)",
        ("stage", "seconds"),
        timer.rows(),
        err=False,
    )
    click.echo()
    names = {name: f"{name} ({result.n_kept:,} samples)" for name in methods.METHODS}
    names[methods.FULL] = f"{methods.FULL} ({result.n_train:,})"
    _show(
        f"Accuracy in % on {result.n_test:,} held-out images, mean and sample std over "
        f"{seeds} seeds, {ratio:.0%} removed",
        ("trained on", "mean", "std", "seeds"),
        [
            (names[name], f"{result.mean(name):.1f}", f"{result.std(name):.1f}", f"{seeds}")
            for name in methods.METHODS
        ],
        err=False,
    )
    click.echo()
    rows = []
    for ours, other in (
        (methods.AWARE, methods.BALANCED),
        (methods.FREE, methods.BALANCED),
        (methods.FREE, methods.RANDOM),
    ):
        mean, std, wins = result.difference(ours, other)
        rows.append((f"{ours} - {other}", f"{mean:+.1f}", f"{std:.1f}", f"{wins} of {seeds}"))
    _show(
        "Difference in points on the same split and training seed",
        ("difference", "mean", "std", "seeds above 0"),
        rows,
        err=False,
    )
    click.echo(
        f"\nPicture:  {demo.picture}\nRanking:  {demo.table}\nResults:  {demo.results}\n"
        f"Next: rank your own features with `{_PROGRAM} rank features.npy --ratio 0.9 --out "
        "ranking.npz`."
    )


def _bar_wanted(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


def _refuse_to_overwrite(out: str, given: str | None) -> None:
    from .io import FileError

    if given is None or not os.path.exists(out):
        return
    source = Path(given if os.path.exists(given) else given.rpartition("::")[0])
    if source.exists() and source.samefile(out):
        raise FileError(f"cannot write '{out}': it is the input, which would be lost.")


def _warn(remark: str) -> None:
    if remark:
        click.echo(f"Warning: {remark}", err=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and leaves with its exit code: 0, 2 for bad input, 130 for Ctrl-C.

    **Arguments:**

    - `arguments`: the words after the program's name; left out, those of this process.

    !!! example

        ```python
        main(["rank", "features.npy", "--ratio", "0.9", "--out", "ranking.npz"])
        ```
    """
    try:
        # Not click's own handling of errors: it prints the usage before the one line that helps.
        code = _commands.main(arguments, prog_name=_PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        sys.exit(_BAD_INPUT)
    except click.Abort:
        click.echo("Interrupted before the work was done.", err=True)
        sys.stdout.flush()
        # A compiled program may still run in its thread; an orderly exit would wait for it.
        os._exit(_INTERRUPTED)
    sys.exit(code or 0)
