"""What every stage of `rank` holds and does, counted from n, d and k alone.

Memory is counted in arrays: those that a stage makes and its programs need at their worst moment,
on top of those that `rank` holds by then. Work is counted in four kinds, each of which a machine
does at a rate of its own (`_speed`). The counts are of the code as it is; tests hold them against
what XLA says of the compiled programs, benchmarks/bench_scale.py against what is measured.
"""

from typing import NamedTuple

from . import _communities, _coverage, _score, _spectral
from . import _graph_approximate as approximate
from . import _graph_boxes as boxes
from . import _graph_exact as exact
from . import _graph_wide as wide
from ._axes import SAMPLE
from ._graph import exact_patches_for, patches_by_blocks
from ._graph_search import pairs_of
from ._least import compared_for
from ._noise import AT_ONCE, QUERIES
from ._speed import Speed

_NUMBER = 4  # bytes of a float32 or an int32
# What the compiler and its programs hold on a CPU.
PROGRAM_BYTES = 4.2e8
# How much of a kind of work a stage does for each thing that it counts: fitted to measurements of
# benchmarks/bench_scale.py on two cores, 10,000 to 200,000 x 128.
_READ = 220.0  # bytes for a feature: float64, its absolute value, the quotients
_SELECTION, _SELECTION_OF_TILES = 0.2, 0.1  # operations for a pair that is looked at
_LEAST = 90.0  # operations for each of the least values of a row of a tile
_COMPARED = 0.19  # operations for a number that a network compares with another
_SORTED = 60.0  # numbers moved for a point and a level of the tree
_PLANTED = 11_000.0  # operations for a point: its place in the tree, and the recall
_BANDWIDTH = 70.0  # operations for an edge, in which two bandwidths are found
# Of the filter: 6 rounds for 10,000 samples of the benchmark, more for more, and so many where it
# starts from cells. An accelerator does not, but its factor is fitted to these rounds.
_ROUNDS, _GROWTH_OF_ROUNDS, _ROUNDS_FROM_CELLS, _DEGREE = 6, 0.14, 5.5, 13
_FILTERED = 3.2  # times that the numbers of an edge are moved when the filter is applied
_FORCE = 1.25  # operations for an edge or a repelling point, in two dimensions
_STEPS_IN_LANES = 78.0  # of an epoch on a CPU: its programs, and what waits for what
_PATCH = 1.2  # operations for a pair of points of a patch
_BOXES = 430.0  # operations for a point and a neighbor that is sought
_OF_CELLS, _JOINED = 0.25, 0.3  # operations for a number of a distance; for two neighbors
_ROUNDS_SEEN = 4  # of the ten in which samples may move
_EVALUATIONS = 0.5  # steps for a sample
_LOOKED_THROUGH = 5.0  # operations for a bound, with what it waits for memory
# Of the coordinates of 20,000 x 768 features, which took .33 s where .35 are planned.
_EIGENVECTORS, _INVERSE = 30.0, 6.0  # operations for d^3
# Of an accelerator, fitted to one H200 (benchmarks/results/scale.json) in the rates of `_speed`,
# whose arrays are too small to bring one to its best.
_HALVES = 3.15  # numbers for a feature in the wide search
_OF_HALVES, _OF_FEW_AXES = 0.043, 0.19  # of the time of a product in float32
_SCORE, _MINIMUM = 1.2, 22.0  # bytes for a pair, and for the least of a group
_CANDIDATE = 0.75  # bytes for a coordinate of a candidate
_ABREAST, _PATCHES_ABREAST = 400.0, 20.0  # rates of operations, in units of that on a few numbers
_READ_THERE = 1200.0  # bytes for a feature, as _READ
_FILTERED_THERE = 2.4  # times as long as the filter's bytes say
_STEPS_OF_EPOCH = 35.0
# Rounds of the greedy, times n^(1/4); 41, 65 and 79 for 5,000, 20,000 and 50,000 of CIFAR-10.
_ROUNDS_OF_PICKS = 5.0
_ROUND, _STEPS_OF_ROUND = 60.0, 15.0  # bytes for an edge, sequential steps


class Problem(NamedTuple):
    """What a ranking is asked for, as far as memory and time depend on it."""

    n: int
    d: int
    k: int
    m: int  # points of a patch
    c: int  # components of the embedding
    e: int  # components of the spectral manifold; 0 where patches lie in the embedding
    neighbors: str  # "exact", "projected", "blocks" or "given"
    class_sizes: tuple[int, ...]  # empty without labels
    n_epochs: int
    n_negatives: int
    raw: int = 0  # features that there were, where d are made of them; 0 where they are those
    judged: bool = False  # whether their noise is estimated

    @property
    def n_features(self) -> int:
        """What the caller calls d."""
        return self.raw or self.d


class Work(NamedTuple):
    """How much of each kind of work there is."""

    flops: float = 0.0  # of matrix products
    streamed: float = 0.0  # bytes from and to memory
    operations: float = 0.0  # on numbers in the cache, in units of one `exp2(log2(x))`
    steps: float = 0.0  # of a sequential loop over a few numbers


class Stage(NamedTuple):
    """A stage of `rank`, by the name that `progress` gets."""

    name: str
    work_bytes: float  # at its worst moment, on top of what was held when it began
    kept_bytes: float  # of what it leaves behind
    work: Work


def seconds_of(stage: Stage, speed: Speed) -> float:
    """What a device of that speed takes for a stage."""
    rates = (speed.flops, speed.streamed, speed.operations, speed.steps)
    return sum(amount / rate for amount, rate in zip(stage.work, rates, strict=True))


def stages(problem: Problem, *, tile_bytes: int, platform: str, lanes: int = 1) -> list[Stage]:
    """The stages in their order, where `lanes` pieces of a search run beside each other."""
    p = problem
    several = [_of_features(p, tile_bytes)]
    if p.neighbors != "given":
        several.append(_of_neighbors(p, tile_bytes, platform, lanes))
    several.append(_of_fuzzy_set(p, "fuzzy set"))
    if p.e:
        several.append(_of_manifold(p))
    if p.c > p.e:
        several.append(_of_start(p))
    several += [_of_embedding(p), _of_complexity(p, platform, lanes)]
    if p.class_sizes:
        several.append(_of_class_neighbors(p, tile_bytes, platform, lanes))
        several.append(_of_fuzzy_set(p, "class fuzzy set"))
    else:
        several.append(_of_communities(p))
    several.append(_of_selection(p, platform, lanes))
    if platform != "cpu":
        # What reads the features is the host's; the device holds the result.
        if not (p.raw or p.judged):
            several[0] = several[0]._replace(work_bytes=several[0].kept_bytes)
        return [_abreast(stage, p) for stage in several]
    # The compiler and its programs are there from the first stage on.
    several[0] = several[0]._replace(
        work_bytes=several[0].work_bytes + PROGRAM_BYTES,
        kept_bytes=several[0].kept_bytes + PROGRAM_BYTES,
    )
    return several


def _abreast(stage: Stage, p: Problem) -> Stage:
    """The same on an accelerator, whose rate of operations was measured on a few numbers."""
    work = stage.work
    share = _PATCHES_ABREAST if stage.name == "complexity" else _ABREAST
    work = work._replace(operations=work.operations / share)
    if stage.name == "features":
        work = Work(streamed=_READ_THERE * p.n * p.n_features, flops=work.flops)
    if stage.name in ("manifold", "start"):
        work = work._replace(streamed=_FILTERED_THERE * work.streamed)
    if stage.name == "embedding":
        work = work._replace(steps=_STEPS_OF_EPOCH * p.n_epochs)
    return stage._replace(work=work)


def host_bytes(problem: Problem, platform: str) -> float:
    """What the machine must hold besides the memory of an accelerator."""
    return (
        0.0
        if platform == "cpu"
        else _of_features(problem, exact.LEAST_TILE_BYTES).work_bytes + PROGRAM_BYTES
    )


def peaks(several: list[Stage]) -> list[float]:
    """Bytes at the worst moment of every stage."""
    held, result = 0.0, []
    for stage in several:
        result.append(held + stage.work_bytes)
        held += stage.kept_bytes
    return result


def _stage(name: str, work: float, kept: float, amounts: Work) -> Stage:
    """Counts of numbers as bytes; what a stage leaves behind was there while it ran."""
    return Stage(name, _NUMBER * max(work, kept), _NUMBER * kept, amounts)


def _of_features(p: Problem, slab_bytes: int) -> Stage:
    """Rows as float32, which JAX takes over, from slabs in float64; for their noise, or in
    discriminant coordinates, also how far those of an even sample are from a mean, and a few
    d x d."""
    d = p.n_features
    rows, made = p.n * d, p.n * p.d
    slab = min(2 * rows, slab_bytes // _NUMBER)
    work = Work(streamed=_READ * rows)
    if not (p.raw or p.judged):
        return _stage("features", rows + 3.0 * slab, made, work)
    m, square = min(p.n, SAMPLE), float(d) ** 2
    flops = 2.0 * m * square + (_EIGENVECTORS if p.raw else _INVERSE) * d * square
    flops += 2.0 * d * (p.n * p.d if p.raw else m * QUERIES)
    # How far each is from a mean, and the sample itself.
    copies = 1.0 + (m < p.n)
    beside = rows + copies * m * d + (made if p.raw else AT_ONCE * m) + 3.0 * square
    return _stage("features", max(rows + 3.0 * slab, beside), made, work._replace(flops=flops))


def _of_neighbors(p: Problem, tile_bytes: int, platform: str, lanes: int) -> Stage:
    kept = 2.0 * p.n * p.k
    tree = approximate._plan(p.n, p.k) if p.neighbors == "blocks" else None
    if tree is not None:
        work = _blocks_work(p, tree)
        work = work._replace(operations=work.operations + _PLANTED * p.n)
        return _stage("neighbors", _blocks_numbers(p, tree), kept, work)
    if p.neighbors == "projected" and p.d > approximate._AXES:
        numbers = _projected_numbers(p, tile_bytes, platform, lanes)
        return _stage("neighbors", numbers, kept, _projected_work(p, platform))
    return _stage(
        "neighbors",
        _search_numbers(p.n, p.d, p.k, (), tile_bytes, platform, lanes),
        kept,
        _search_work(p.n, p.d, p.k, (), platform),
    )


def _of_class_neighbors(p: Problem, tile_bytes: int, platform: str, lanes: int) -> Stage:
    return _stage(
        "class neighbors",
        _search_numbers(p.n, p.d, p.k, p.class_sizes, tile_bytes, platform, lanes) + 2.0 * p.n,
        2.0 * p.n * p.k + 2.0 * p.n,
        _search_work(p.n, p.d, p.k, p.class_sizes, platform),
    )


def _search_numbers(
    n: int,
    d: int,
    k: int,
    class_sizes: tuple[int, ...],
    tile_bytes: int,
    platform: str,
    lanes: int,
) -> float:
    """The exact search: a table, its columns with room for a block more, and the parts found."""
    if _is_wide(n, k, platform):
        scan = _wide_numbers(n, d, k, tile_bytes)
    else:
        scan = _scan_numbers(n, d, class_sizes, tile_bytes, platform, lanes)
    return max(scan + 2.0 * n * k, n * (d + 4.0) + n * (7.0 * k + 1))


def _scan_numbers(
    n: int,
    d: int,
    class_sizes: tuple[int, ...],
    tile_bytes: int,
    platform: str,
    lanes: int,
) -> float:
    """The table, and the columns that all calls look at."""
    rows, block = _tile_of(n, class_sizes, tile_bytes, platform)
    table, making, tile = n * (d + 4.0), n * (d + 2.0), float(rows * block)
    columns = (n + block * (block < n)) * (d + 2.0)
    return table + max(table, columns + max(making, lanes * tile))


def _tile_of(
    n: int, class_sizes: tuple[int, ...], tile_bytes: int, platform: str
) -> tuple[int, int]:
    block = exact.block_of(max(class_sizes, default=n), n, tile_bytes)
    is_whole = platform == "cpu" and not class_sizes
    return exact.few_or_many_rows(n, block, tile_bytes) if is_whole else (exact.ROWS, block)


def _is_wide(n: int, k: int, platform: str) -> bool:
    return platform != "cpu" and wide.is_meant_for(n, k)


def _wide_numbers(n: int, d: int, k: int, tile_bytes: int) -> float:
    """The table; its columns as they are or halves of them, side by side and on the way there; a
    tile of scores, the least of their groups, and the candidates."""
    tile = wide.block_size(n, tile_bytes) + n / wide.group_size(k)
    candidates = 3.0 * max(wide.CANDIDATES, wide.group_size(k) * wide.n_groups(k))
    columns = 1.0 if wide.has_few_axes(d) else _HALVES
    return n * (d + 4.0) + columns * n * d + wide.ROWS * (tile + candidates)


def _search_work(n: int, d: int, k: int, class_sizes: tuple[int, ...], platform: str) -> Work:
    pairs = pairs_of(n, class_sizes)
    if _is_wide(n, k, platform):
        share = _OF_FEW_AXES if wide.has_few_axes(d) else _OF_HALVES
        size = wide.group_size(k)
        measured = float(n) * d * wide.CANDIDATES
        return Work(
            flops=share * 2.0 * pairs * d,
            streamed=(_SCORE + _MINIMUM / size) * pairs + _CANDIDATE * measured,
        )
    block = _tile_of(n, class_sizes, exact.TILE_BYTES, platform)[1]
    n_blocks = -(-n // block)
    if class_sizes:  # of a tile, which has some of the classes beside its own
        n_blocks = sum(size * max(1.0, (size + exact.ROWS) / block) for size in class_sizes) / n
        pairs = n * n_blocks * block
    compared = compared_for(k + 1 + exact.spare_for(d), min(block, n)) * n_blocks
    return Work(
        flops=2.0 * pairs * (d + 1),
        streamed=8.0 * n * d * 10 + _NUMBER * n * (k + exact.spare_for(d)) * d,
        operations=_SELECTION_OF_TILES * pairs + _COMPARED * compared * n,
    )


def _projected_numbers(p: Problem, tile_bytes: int, platform: str, lanes: int) -> float:
    """As the exact search with fewer columns; the table and the coordinates of its rows stay."""
    rows, block = _tile_of(p.n, (), tile_bytes, platform)
    scanned = approximate.PROJECTED_AXES + 3.0
    table, coordinates = p.n * (p.d + 4.0), p.n * (scanned + 1)
    columns = (p.n + block * (block < p.n)) * scanned
    scan = lanes * (columns + max(p.n * scanned, rows * block)) + 2.0 * p.n * p.k
    return table + coordinates + max(p.n * (p.d + 4.0), scan, p.n * (7.0 * p.k + 1))


def _projected_work(p: Problem, platform: str) -> Work:
    pairs, axes = float(p.n) ** 2, approximate.PROJECTED_AXES
    block = _tile_of(p.n, (), exact.TILE_BYTES, platform)[1]
    n_blocks = -(-p.n // block)
    found = approximate.projected_candidates(p.n, p.k)
    compared = compared_for(found, min(block, p.n)) * n_blocks
    return Work(
        flops=2.0 * pairs * (axes + 3) + 4.0 * p.n * p.d * axes,
        streamed=_NUMBER * p.n * float(found) * p.d,
        operations=_SELECTION_OF_TILES * pairs + _COMPARED * compared * p.n,
    )


def _blocks_numbers(p: Problem, tree: approximate._Plan) -> float:
    """The most of four moments: when the tree is sorted, when the table is put into its order, when
    candidates are looked at, and when what was found is put into the order of the points."""
    scanned = min(p.d, approximate._AXES + 1)
    depth = tree.levels + tree.split
    padded = (-(-p.n // 2**depth) << depth) / p.n
    table, coordinates, found = p.d + 4.0, scanned + 2.0, float(tree.candidates)
    planted = padded * (table + coordinates + 1)
    sorting = table + coordinates + 2.0 * min(scanned, approximate._SPLIT_AXES) + 6
    ordering = planted + max(table, coordinates, approximate._SPLIT_AXES) + 3
    looking = planted + padded * 3 * found
    gathering = planted + padded * found + 7 * p.k + 12
    return p.n * max(sorting, ordering, looking, gathering)


def _blocks_work(p: Problem, tree: approximate._Plan) -> Work:
    pairs = float(p.n) * tree.visited * -(-p.n // 2**tree.levels)
    scanned = min(p.d, approximate._AXES + 1)
    seen = tree.candidates + tree.shared * p.k
    depth = tree.levels + tree.split
    return Work(
        flops=2.0 * pairs * scanned
        + 4.0 * p.n * p.d * min(p.d, approximate._AXES)
        + 2.0 * approximate._SAMPLE * p.n * p.d,
        streamed=_NUMBER * p.n * (seen * scanned + tree.candidates * p.d + depth * _SORTED),
        operations=_SELECTION * pairs + _LEAST * tree.candidates * p.n,
    )


def _of_fuzzy_set(p: Problem, name: str) -> Stage:
    """Memberships of both ends of every edge; a sort of the edges that only one end lists."""
    edges = float(p.n) * p.k
    work = Work(streamed=40.0 * edges, operations=edges * (2.0 * p.k + _BANDWIDTH))
    kept = 3 * edges + 3.0 * p.n
    return _stage(name, kept + 3.75 * edges + 8.25 * p.n, kept, work)


def _of_manifold(p: Problem) -> Stage:
    return _stage("manifold", _filter_numbers(p, p.e), float(p.n) * p.e, _filter_work(p, p.e))


def _of_start(p: Problem) -> Stage:
    """Where the manifold has none: principal axes of the centered points; then the filter, a few
    columns wide."""
    filtered = _filter_work(p, p.c)
    work = filtered._replace(
        flops=4.0 * 9 * p.n * p.d * (p.c + 6),
        streamed=filtered.streamed + _NUMBER * 18.0 * p.n * p.d,
    )
    numbers = max(p.n * (p.d + 2.0 * p.c + 6), _filter_numbers(p, p.c))
    return _stage("start", numbers, float(p.n) * p.c, work)


def _filter_numbers(p: Problem, c: int) -> float:
    """Both ends of every edge in order, and a few blocks of columns."""
    return p.n * p.k * 7.0 + p.n * (9.0 * c + 12)


def _filter_work(p: Problem, c: int) -> Work:
    moved = _FILTERED * 2 * p.n * p.k * (c + 3.0)
    rounds = _ROUNDS * max(1.0, p.n / 10_000) ** _GROWTH_OF_ROUNDS
    if p.n >= _spectral._FAR:
        rounds = _ROUNDS_FROM_CELLS
    return Work(streamed=_NUMBER * rounds * (_DEGREE + 1) * moved)


def _of_embedding(p: Problem) -> Stage:
    """The graph once more in an order of its own, whose making takes more than the epochs."""
    edges = float(p.n) * p.k
    pulls = p.n * (2.0 * p.k + p.n_negatives) * p.c / 2
    work = Work(operations=_FORCE * p.n_epochs * pulls, steps=_STEPS_IN_LANES * p.n_epochs)
    layout = 5 * edges + p.n * (p.c + 2.0)
    numbers = layout + max(3.3 * edges, p.n * (10.0 * p.c + 4))
    return _stage("embedding", numbers, float(p.n) * p.c, work)


def _of_complexity(p: Problem, platform: str, lanes: int) -> Stage:
    """Patches are scored as they are found, a part after the other."""
    n, m = p.n, p.m
    c = p.e or p.c
    is_by_boxes = c <= boxes._MAX_FEATURES and n >= boxes._MIN_POINTS and m <= boxes._MAX_NEIGHBORS
    work = Work(operations=_PATCH * n * m * m)
    batch = _score.BATCH if platform == "cpu" else _score.ACCELERATOR_BATCH
    scoring = lanes * 3.0 * min(batch * m * m, batch * _score.LARGEST_BATCHED)
    if is_by_boxes:
        part = min(n, boxes._TILES_PER_CALL * boxes._SIZE)
        numbers = n * (3 * c + 13.0) + lanes * 4.0 * part * m
        found = Work(operations=_BOXES * n * m + 2 * (n / boxes._SIZE) ** 2)
    else:
        found, numbers = _found_patches(p, c, platform, lanes)
    work = work._replace(
        flops=found.flops,
        streamed=found.streamed,
        operations=work.operations + found.operations,
    )
    return _stage("complexity", numbers + scoring, float(n), work)


def _found_patches(p: Problem, c: int, platform: str, lanes: int) -> tuple[Work, float]:
    """Work and numbers of the search for patches: large groups by blocks, the others exactly."""
    n, m = p.n, p.m
    sizes = p.class_sizes or (n,)
    limit = {"exact_up_to": exact_patches_for(p.neighbors)}
    by_blocks = [size for size in sizes if patches_by_blocks(size, platform, **limit)]
    trees = {size: approximate.plan_of_patches(size, c, m - 1) for size in set(by_blocks)}
    rest = [size for size in sizes if trees.get(size) is None]
    found, held, part, most = Work(), 0.0, 0.0, float(_score._PATCHES_PER_CALL)
    for size in sizes:
        tree = trees.get(size)
        if tree is not None:
            work = _blocks_work(p._replace(n=size, d=c, k=m), tree)
            found = Work(*(a + b for a, b in zip(found, work, strict=True)))
            held += size * (4.0 * c + 12)
            flops = 2.0 * tree.visited * (size >> tree.levels) * c
            rows = min(size, most, exact.CHUNK_FLOPS / flops)
            part = max(part, rows * (tree.candidates + 3.0 * m))
    if rest:
        own, several = sum(rest), tuple(rest) if p.class_sizes else ()
        work = _search_work(own, c, m, several, platform)
        found = Work(*(a + b for a, b in zip(found, work, strict=True)))
        if _is_wide(own, m, platform):
            held += _wide_numbers(own, c, m, exact.TILE_BYTES)
        else:
            held += _scan_numbers(own, c, several, exact.TILE_BYTES, platform, lanes)
        part = max(part, 4.0 * m * min(own, most, exact.CHUNK_FLOPS / (2.0 * own * (c + 8))))
    return found, held + lanes * part


def _of_communities(p: Problem) -> Stage:
    """The nearest of all centers of cells, from a sample and then for all; the memberships between
    cells; and a few rounds in which the neighbors of every sample are compared with each other."""
    c, cells = p.e or p.c, _communities.cells_for(p.n)
    some, edges = min(p.n, _communities._SAMPLE), float(p.n) * p.k
    looked_at = some * cells * (_communities._STEPS + 2.0) + p.n * cells
    work = Work(
        streamed=_NUMBER * 12 * edges,
        operations=_OF_CELLS * looked_at * (c + 1) + _ROUNDS_SEEN * _JOINED * edges * p.k,
        steps=3.0 * cells,
    )
    of_cells = p.n * (3.0 * c + 2) + (some + min(p.n, _communities._TILE)) * cells
    of_cells += 2.0 * some * (c + 1)
    return _stage("communities", max(of_cells, 4.0 * edges + 8 * p.n), float(p.n), work)


def _of_selection(p: Problem, platform: str, lanes: int) -> Stage:
    """Classes are picked beside each other."""
    groups = len(p.class_sizes) or lanes  # of communities there are some
    beside = min(lanes, groups) if p.n >= _coverage._LEAST_TO_SHARE else 1
    work = _greedy_work(p, p.n / max(1, beside), _EVALUATIONS, platform)
    return _stage("selection", _greedy_numbers(p, platform), 3.0 * p.n, work)


def _greedy_numbers(p: Problem, platform: str) -> float:
    """The edges from both ends once more, on a CPU as pages, and the sums that bound the gains."""
    if platform != "cpu":
        return 7.0 * p.n * p.k + 8.0 * p.n
    page = 2.0 * (p.k + _coverage.ON_PAGE) + 2
    return p.n * (page + 6.0 * p.k + 4)


def _greedy_work(p: Problem, picks: float, evaluations: float, platform: str) -> Work:
    """Every evaluation is a step that looks through a few rows of a cube of n bounds in four
    dimensions; a round of an accelerator looks at all edges."""
    if platform != "cpu":
        rounds = _ROUNDS_OF_PICKS * p.n**0.25
        return Work(streamed=_ROUND * rounds * p.n * p.k, steps=_STEPS_OF_ROUND * rounds)
    steps = evaluations * picks
    return Work(
        streamed=40.0 * p.n * p.k,
        operations=_LOOKED_THROUGH * steps * _coverage.LEADERS * p.n**0.25,
        steps=steps,
    )
