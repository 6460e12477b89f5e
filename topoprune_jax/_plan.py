"""`plan`: the memory and the time of a ranking, before anything runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _checks as checks
from ._discriminant import ALONE, AUTO, FEATURES, are_enough, check_space, coordinates_of
from ._embedding_options import EmbeddingOptions, check_options, n_epochs_of
from ._graph import NEIGHBORS, NeighborGraph, method_for
from ._graph_exact import LEAST_TILE_BYTES, TILE_BYTES
from ._lanes import lanes_on
from ._memory import free_host_memory, free_memory
from ._spectral import check_manifold, components_for
from ._speed import speed_of
from ._stages import Problem, Stage, host_bytes, peaks, seconds_of, stages
from ._types import Array

_GIVEN = "given"
_MARGIN = 1.25  # by which a plan may be too high; only what is hopeless is refused
_FEWER_FEATURES = 64
_FEWER_NEIGHBORS = 8
# Of all programs of a ranking, in units of the four that measure the speed.
_COMPILATIONS, _COMPILATIONS_ON_ACCELERATORS = 30.0, 6.0


@dataclass(frozen=True)
class StagePlan:
    """What one stage of `rank` will need.

    **Attributes:**

    - `name`: as `progress` gets it.
    - `bytes`: in use at its worst moment, everything that `rank` holds by then included.
    - `seconds`: that it takes once it is compiled.
    """

    name: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What `plan` returns.

    **Attributes:**

    - `n`, `d`: samples and features.
    - `device`: what will compute.
    - `stages`: in their order, a `StagePlan` each.
    - `compilation_seconds`: that the first call in a process takes on top.
    - `host_bytes`: memory of the machine that is needed besides that of an accelerator; 0 on a CPU.
    - `free_bytes`: memory that the device has free; None where nothing tells.
    - `remedy`: what would need less, where it does not fit; else empty.
    """

    n: int
    d: int
    device: str
    stages: tuple[StagePlan, ...]
    compilation_seconds: float
    host_bytes: int
    free_bytes: int | None
    remedy: str

    @property
    def peak_bytes(self) -> int:
        """Memory of the device in use at the worst moment, beyond the features that are given."""
        return max(stage.bytes for stage in self.stages)

    @property
    def peak_stage(self) -> str:
        """The stage in which that is."""
        return max(self.stages, key=lambda stage: stage.bytes).name

    @property
    def seconds(self) -> float:
        """Of all stages, without compilation."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def fits(self) -> bool | None:
        """Whether the peak is within what is free; None where nothing tells."""
        return None if self.free_bytes is None else self.peak_bytes <= self.free_bytes

    @property
    def title(self) -> str:
        """One line over the table."""
        return f"{self.n:,} samples of {self.d:,} features on {self.device}"

    @property
    def header(self) -> tuple[str, str, str]:
        """Names of the columns of `rows`."""
        return "stage", "memory, GB", "seconds"

    def rows(self) -> list[tuple[str, str, str]]:
        """The table as text: every stage, then the peak and the sum."""
        lines = [(s.name, s.bytes, s.seconds) for s in self.stages]
        lines.append(("peak and total", self.peak_bytes, self.seconds))
        return [(name, f"{size / 1e9:.2f}", f"{time:.1f}") for name, size, time in lines]

    @property
    def summary(self) -> str:
        """Whether it fits, how long it takes, and what to change."""
        lines = [f"Peak memory: {_gigabytes(self.peak_bytes)}, in the stage '{self.peak_stage}'"]
        if self.free_bytes is None:
            lines[0] += "; how much is free is not known here."
        else:
            lines[0] += f"; {_gigabytes(self.free_bytes)} are free."
        if self.host_bytes:
            lines.append(f"Memory of the machine besides: {_gigabytes(self.host_bytes)}.")
        if self.remedy:
            lines.append(f"That does not fit. {self.remedy}")
        lines.append(
            f"About {_duration(self.seconds)}, and {_duration(self.compilation_seconds)} more for "
            "compilation in the first call of a process."
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        rows = [self.header, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([self.title, *lines, "", self.summary])


def plan(
    n: int,
    d: int,
    *,
    classes: int | Sequence[int] | np.ndarray | Array | None = None,
    n_neighbors: int = 15,
    neighbors: str = "auto",
    manifold: str = "spectral",
    patch_size: int = 64,
    beta: float | None = None,
    space: str = AUTO,
    embedding: EmbeddingOptions = EmbeddingOptions(),  # noqa: B008 (frozen)
    device: Any = None,
) -> Plan:
    """The memory and the seconds of `rank` for n samples of d features, before anything runs.

    Bytes are counted: of every stage the arrays that are alive at its worst moment, on top of those
    that earlier stages left. Each count is a small multiple of n k, n m or n d, plus one tile;
    nothing is n x n. On a CPU a fixed amount is added for the compiler and its programs. What the
    caller holds already, the features themselves, is not counted. Stages are planned one after the
    other, as they come where `progress` watches; where nobody does, those after the manifold have
    the embedding's memory besides, for up to 200,000 samples, and all of them end sooner.

    Seconds are the counted work of every stage, namely arithmetic of matrix products, bytes from
    and to memory, operations within the cache and steps that wait for one another, divided by the
    rates at which the device does each of them, which takes about a second to measure, once a
    process. How much of each kind a stage does was fitted to measurements on a CPU and on one
    H200; on other accelerators take the seconds for an order of magnitude.

    **Arguments:**

    - `n`, `d`: samples and features.
    - `classes`: with labels, the number of classes of equal size, or the size of each,
      `np.bincount(labels)`; a size of 0 is no class.
    - `n_neighbors`, `neighbors`, `manifold`, `patch_size`, `beta`, `space`, `embedding`: as for
      `rank`; `"given"` stands for a `NeighborGraph` from elsewhere, and `space="auto"`, with
      `classes`, for features that turn out to have little noise. Noisy ones take less.
    - `device`: a JAX device, or the name of a platform such as `"cpu"`; that on which `rank` would
      run unless given.

    **Returns:** a `Plan`, which prints as a table. `rank` makes the same count before it starts,
    takes smaller tiles where memory is scarce, and raises MemoryError where the count exceeds what
    is free by more than 25 %.

    **Raises:** TypeError or ValueError with one sentence for numbers out of range, class sizes that
    are not those of n samples, or a device that is not there.

    ```python
    >>> import topoprune_jax as tp
    >>> small, large = tp.plan(10_000, 64), tp.plan(100_000, 64)
    >>> small.peak_bytes < large.peak_bytes, small.seconds < large.seconds
    (True, True)

    ```
    """
    problem = _problem(n, d, classes, n_neighbors, neighbors, manifold, patch_size, beta, embedding)
    check_space(space)
    if space == AUTO:
        problem = judged_for_noise(problem)
    elif space != FEATURES:
        if len(problem.class_sizes) < 2:
            checks.refuse(
                f"`space={space!r}` needs two classes or more; got `classes` of "
                f"{len(problem.class_sizes)}. Pass their number or sizes, or leave `space` out."
            )
        problem = in_discriminant_space(problem, space, len(problem.class_sizes))
    device = _device(device)
    problem = _with_method(problem, device)
    free = free_memory(device)
    tile_bytes = _tile_bytes(problem, device, free)
    several = _stages_on(device, problem, tile_bytes)
    speed = speed_of(device)
    made = tuple(
        StagePlan(stage.name, round(size), seconds_of(stage, speed))
        for stage, size in zip(several, peaks(several), strict=True)
    )
    peak = max(stage.bytes for stage in made)
    return Plan(
        n=problem.n,
        d=problem.n_features,
        device=device.device_kind,
        stages=made,
        compilation_seconds=speed.compilation
        * (_COMPILATIONS if device.platform == "cpu" else _COMPILATIONS_ON_ACCELERATORS),
        host_bytes=round(host_bytes(problem, device.platform)),
        free_bytes=free,
        remedy="" if free is None or peak <= free else _remedy(problem, device, free),
    )


def fitting_tiles(problem: Problem, *, held: int = 0) -> int:
    """Bytes of a tile with which `rank` fits into what is free, or MemoryError.

    `held` bytes of what is counted are there already. Takes some microseconds: nothing is measured
    but the memory that is free.
    """
    device = _device(None)
    problem = _with_method(problem, device)
    free = _and_held(free_memory(device), held)
    tile_bytes = _tile_bytes(problem, device, free)
    several = _stages_on(device, problem, tile_bytes)
    sizes = peaks(several)
    _check_free(problem, max(sizes), several[sizes.index(max(sizes))].name, free, device)
    on_host = host_bytes(problem, device.platform)
    if on_host:
        free = _and_held(free_host_memory(), held)
        _check_free(problem, on_host, several[0].name, free, jax.devices("cpu")[0])
    return tile_bytes


def _stages_on(device: Any, problem: Problem, tile_bytes: int) -> list[Stage]:
    platform = device.platform
    return stages(problem, tile_bytes=tile_bytes, platform=platform, lanes=lanes_on(platform))


def _and_held(free: int | None, held: int) -> int | None:
    return None if free is None else free + held


def _with_method(problem: Problem, device: Any) -> Problem:
    """The problem with the method that "auto" means, or begins with."""
    method = method_for(problem.neighbors, problem.n, device.platform)
    return problem._replace(neighbors="blocks" if method == "auto" else method)


def _check_free(problem: Problem, needed: float, stage: str, free: int | None, device: Any) -> None:
    if free is not None and needed > _MARGIN * free:
        raise MemoryError(
            f"`rank` needs about {_gigabytes(needed)} for {problem.n:,} samples of "
            f"{problem.n_features:,} features, most in its stage '{stage}'; got "
            f"{_gigabytes(free)} that are free on {device.device_kind}. "
            f"{_remedy(problem, device, free)}"
        )


def _problem(
    n, d, classes, n_neighbors, neighbors, manifold, patch_size, beta, embedding
) -> Problem:
    n = checks.check_count(n, name="n", low=1)
    d = checks.check_count(d, name="d", low=1)
    k = checks.check_count(n_neighbors, name="n_neighbors", low=1)
    m = checks.check_count(patch_size, name="patch_size", low=2)
    if not isinstance(neighbors, str) or neighbors not in (*NEIGHBORS, _GIVEN):
        got = repr(neighbors) if isinstance(neighbors, str) else type(neighbors).__name__
        checks.refuse(
            f"`neighbors` must be one of {', '.join(map(repr, NEIGHBORS))}, or 'given' for a "
            f"NeighborGraph that is there already; got {got}."
        )
    check_manifold(manifold)
    if beta is not None:
        checks.check_beta(beta)
    check_options(embedding, name="embedding")
    sizes = _class_sizes(classes, n)
    return problem_of(n, d, sizes, k, neighbors, manifold, m, embedding)


def problem_of(
    n, d, class_sizes, k, neighbors, manifold, m, embedding: EmbeddingOptions
) -> Problem:
    """A `Problem` of arguments that are checked."""
    if isinstance(neighbors, NeighborGraph):
        k, neighbors = neighbors.n_neighbors, _GIVEN
    return Problem(
        n=n,
        d=d,
        k=max(1, min(k, n - 1)),
        m=min(m, n),
        c=int(embedding.n_components),
        e=components_for(n) if manifold == "spectral" else 0,
        neighbors=neighbors,
        class_sizes=class_sizes,
        n_epochs=n_epochs_of(embedding, n),
        n_negatives=int(embedding.n_negatives),
    )


def in_discriminant_space(problem: Problem, space: str, n_classes: int) -> Problem:
    """The problem with its samples in coordinates of so many classes, or with these beside the
    features."""
    c = coordinates_of(problem.d, n_classes)
    return problem._replace(d=c if space == ALONE else problem.d + c, raw=problem.d)


def judged_for_noise(problem: Problem) -> Problem:
    """The problem as "auto" has it, with the features, of which more is held."""
    looks = bool(problem.class_sizes) and are_enough(problem.n, problem.d)
    return problem._replace(judged=looks)


def _class_sizes(classes: Any, n: int) -> tuple[int, ...]:
    if classes is None:
        return ()
    if isinstance(classes, np.ndarray | jax.Array) and not checks.is_traced(classes):
        classes = np.asarray(classes).tolist()
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        sizes = [checks.check_count(size, name="classes", low=0) for size in classes]
        if sum(sizes) != n:
            checks.refuse(
                f"`classes` must be the sizes of the classes of {n:,} samples; got sizes that sum "
                f"up to {sum(sizes):,}. Pass the number of classes where the sizes are not known."
            )
        return tuple(size for size in sizes if size > 0)
    count = checks.check_count(classes, name="classes", low=1, high=n)
    return tuple(n // count + (i < n % count) for i in range(count))


def _device(device: Any) -> Any:
    """The device itself; what JAX takes by default for None."""
    if device is None:
        with checks.known_values():  # inside `jit` too
            return next(iter(jnp.zeros(()).devices()))
    if isinstance(device, str):
        try:
            return jax.devices(device)[0]
        except RuntimeError:
            known = sorted({one.platform for one in jax.devices()} | {"cpu"})
            checks.refuse(
                f"`device` must be there; got {device!r}, and JAX finds {' and '.join(known)}."
            )
    if not isinstance(device, jax.Device):
        raise TypeError(
            f"`device` must be a JAX device or the name of a platform; got "
            f"{type(device).__name__}. Pass one of `jax.devices()`."
        )
    return device


def _peak(problem: Problem, device: Any, tile_bytes: int = LEAST_TILE_BYTES) -> float:
    return max(peaks(_stages_on(device, problem, tile_bytes)))


def _tile_bytes(problem: Problem, device: Any, free: int | None) -> int:
    """The largest tile that fits, out of a few: each has programs of its own."""
    size = TILE_BYTES
    while free is not None and size > LEAST_TILE_BYTES and _peak(problem, device, size) > free:
        size //= 4
    return max(size, LEAST_TILE_BYTES)


def _remedy(problem: Problem, device: Any, free: int) -> str:
    """What would fit into `free` bytes."""
    changes = dict(_changes(problem))
    fitting = [words for words, other in changes.items() if _peak(other, device) <= free]
    if fitting:
        return f"It would fit with {_listed(fitting, 'or')}."
    together = problem
    for _, other in changes.items():
        differing = {f: v for f, v in other._asdict().items() if v != getattr(problem, f)}
        together = together._replace(**differing)
    if len(changes) > 1 and _peak(together, device) <= free:
        return f"It would fit with {_listed(list(changes), 'and')} together."
    lowest, highest = 1, problem.n  # fits, does not
    while highest - lowest > max(1, lowest // 100):
        middle = (lowest + highest) // 2
        if _peak(_with_samples(problem, middle), device) <= free:
            lowest = middle
        else:
            highest = middle
    if lowest == 1:
        return "Free some memory, or take a machine or an accelerator that has more."
    return (
        f"About {_rounded_down(lowest):,} samples would fit: rank a random part of them, or take "
        "a machine or an accelerator with more memory."
    )


def _changes(problem: Problem) -> Iterator[tuple[str, Problem]]:
    if problem.neighbors in ("exact", "projected"):
        yield "neighbors='blocks'", problem._replace(neighbors="blocks")
    if problem.judged:
        yield "space='features'", problem._replace(judged=False)
    if problem.k > _FEWER_NEIGHBORS:
        yield f"n_neighbors={_FEWER_NEIGHBORS}", problem._replace(k=_FEWER_NEIGHBORS)
    if problem.n_features > _FEWER_FEATURES:
        fewer = {"d": min(problem.d, _FEWER_FEATURES), "raw": problem.raw and _FEWER_FEATURES}
        yield (
            f"{_FEWER_FEATURES} principal components instead of {problem.n_features:,} features",
            problem._replace(**fewer),
        )


def _with_samples(problem: Problem, n: int) -> Problem:
    """The same problem with fewer samples."""
    sizes = tuple(max(1, size * n // problem.n) for size in problem.class_sizes)
    k, m = max(1, min(problem.k, n - 1)), min(problem.m, n)
    return problem._replace(n=n, k=k, m=m, class_sizes=sizes)


def _listed(words: list[str], joint: str) -> str:
    *first, last = words
    return f"{', '.join(first)} {joint} {last}" if first else last


def _rounded_down(count: int) -> int:
    """Two digits, the others 0."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return count // unit * unit


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
