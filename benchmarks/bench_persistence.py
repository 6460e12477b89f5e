"""Claim: many small persistence diagrams, with generators and gradients, faster than elsewhere.

    pip install -e '.[bench,peers]'
    python benchmarks/bench_persistence.py --quick      # tiny, about a minute; prints only
    python benchmarks/bench_persistence.py --out benchmarks/results/persistence.json

Batches of Vietoris-Rips filtrations next to gudhi (SimplexTree with generators, and RipsPersistence
with values only), ripser.py, giotto-ph and torch_topological: coordinates in, components and loops
out. All see the same float32 points. Diagrams are compared before a clock starts; then all take
turns in one process, in an order that rotates; wall and CPU seconds of every call are kept, and
compiling is timed apart. What would take too long, a peer that is not installed, and one whose
answer is wrong (giotto-ph 0.2.4 names wrong generators with several threads, and torch_topological
builds on it), is named in the results. Loops found on the device stand next to the default, which
finds them on the host. `persistence_table.py` makes the tables.

The peers at their best: RipsPersistence on SciPy's distances over the field Z/2 (which beats its
defaults), RipsPersistence and SimplexTree on one thread and on all cores (they release Python's
lock), giotto-ph and torch_topological with one thread and with all, torch_topological on the
distances of a whole batch. Where a peer has no batches (SimplexTree, ripser.py, giotto-ph, and
inside torch_topological), a Python loop is the only way.
"""

import argparse
import dataclasses
import functools
import gc
import importlib
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import gudhi
import jax
import jax.numpy as jnp
import numpy as np
from gudhi.sklearn import RipsPersistence
from scipy.spatial.distance import pdist, squareform

import topoprune_jax as tp
from topoprune_jax._host._rips import rips_pairs
from topoprune_jax._provenance import provenance

OURS = "topoprune_jax"
ON_HOST = "the default, reduction='host'"
VALUES_ONLY = "gudhi RipsPersistence, values only"
SIMPLEX_TREE = "gudhi SimplexTree, generators"
TORCH = "torch_topological"
CORES = os.cpu_count() or 1
ONE_THREAD, ALL_CORES = "one thread", "all cores"

# Distribution by the module that a peer is imported as.
OPTIONAL = {
    "ripser": "ripser",
    "gph": "giotto-ph",
    "torch": "torch",
    "torch_topological": "torch_topological",
}

SIZES = (16, 32, 64, 128, 256)
BATCHES = (1, 64, 1024)
D = 16
CIRCLE = (64, 64)  # points and batch of the noisy circle
COMPONENT_SIZES = (16, 32, 64)
DEVICE_SIZES, DEVICE_BATCHES = (16, 32, 64), (64, 256)
HOST_BATCHES = {32: 1024, 64: 1024, 128: 256}
MEMORY = {"batch": 64, "n": 32, "d": 2048}

LONGEST_CALL = 45.0  # seconds; a slower call is left out
SHORTEST_SAMPLE = 0.02  # seconds; quicker calls are repeated within one sample
SLOW_ROUND = 20.0  # seconds for everybody's turn, from which there are fewer rounds
SLOW_REPEATS = 3
CHECKED = 8  # clouds of a batch whose diagrams are compared
TOLERANCE = 1e-5


# --- The peers ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Contender:
    call: Callable[[], Any]
    found: Callable[[Any, int], Any]  # what is compared: of a result, for one cloud of the batch
    estimate: float = 0.0  # seconds for the batch


def optional_peers():
    """{module: imported}, and {distribution: version or why there is none}."""
    modules, versions = {}, {}
    for name, distribution in OPTIONAL.items():
        try:
            modules[name] = importlib.import_module(name)
            versions[distribution] = metadata.version(distribution)
        except Exception as error:  # a wheel for another machine raises all kinds
            versions[distribution] = f"left out: {type(error).__name__}: {error}"
    return modules, versions


def ways(clouds_at_a_time):
    """Threads that a peer can use; one where it only has a cloud to give to each."""
    return {ONE_THREAD: 1} | ({ALL_CORES: CORES} if min(CORES, clouds_at_a_time) > 1 else {})


def spread(one, clouds, workers):
    if workers == 1:
        return [one(cloud) for cloud in clouds]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, clouds))


def distances(cloud):
    return squareform(pdist(cloud))


def simplex_tree(cloud, *, max_dimension=2):
    rips = gudhi.RipsComplex(distance_matrix=distances(cloud))
    tree = rips.create_simplex_tree(max_dimension=max_dimension)
    tree.compute_persistence()
    return tree.flag_persistence_generators()


def rips_persistence(points, workers, *, dims):
    rips = RipsPersistence(
        homology_dimensions=dims,
        input_type="full distance matrix",
        homology_coeff_field=2,
        n_jobs=workers,
    )
    return rips.fit_transform([distances(cloud) for cloud in points])


def measured(cloud, edges):
    """Births and deaths of generators, outside the clock."""
    matrix, edges = distances(cloud), np.asarray(edges, int).reshape(-1, 4)
    return np.stack([matrix[edges[:, 0], edges[:, 1]], matrix[edges[:, 2], edges[:, 3]]], axis=1)


def seconds_of_one(one, cloud):
    one(cloud)
    return timed(lambda: one(cloud))[0]["wall"]


def value_peers(points, modules):
    """{name: contender} for components and loops; those that loop say how long one cloud takes."""
    batch = len(points)
    peers = {}

    def add(name, one, found):
        """A peer that takes a single cloud."""
        single = seconds_of_one(one, points[0])
        for threads, workers in ways(batch).items():
            peers[f"{name}, {threads}"] = Contender(
                lambda workers=workers: spread(one, points, workers),
                found,
                single * batch / workers,
            )

    add(
        SIMPLEX_TREE,
        simplex_tree,
        lambda result, i: measured(points[i], result[i][1][0] if result[i][1] else []),
    )
    single = seconds_of_one(lambda cloud: rips_persistence([cloud], 1, dims=[0, 1]), points[0])
    for threads, workers in ways(batch).items():
        peers[f"{VALUES_ONLY}, {threads}"] = Contender(
            lambda workers=workers: rips_persistence(points, workers, dims=[0, 1]),
            lambda result, i: result[i][1],
            single * batch / workers,
        )
    if ripser := modules.get("ripser"):
        # Calls from several threads take as long as one after the other.
        def by_ripser(cloud):
            return ripser.ripser(distances(cloud), maxdim=1, distance_matrix=True)["dgms"]

        peers["ripser.py, values only, one thread"] = Contender(
            lambda: [by_ripser(cloud) for cloud in points],
            lambda result, i: result[i][1],
            seconds_of_one(by_ripser, points[0]) * batch,
        )
    if gph := modules.get("gph"):

        def by_giotto(cloud, workers):
            return gph.ripser_parallel(
                distances(cloud),
                maxdim=1,
                metric="precomputed",
                return_generators=True,
                n_threads=workers,
            )

        for threads, workers in ways(CORES).items():  # threads within a cloud
            one = functools.partial(by_giotto, workers=workers)
            peers[f"giotto-ph, generators, {threads}"] = Contender(
                lambda one=one: [one(cloud) for cloud in points],
                lambda result, i: measured(points[i], result[i]["gens"][1][0]),
                seconds_of_one(one, points[0]) * batch,
            )
    return peers


def component_peers(points):
    """{name: contender} for dimension 0 alone; what is compared are its finite deaths."""
    peers = {}

    def tree_deaths(result, i):
        ends = np.asarray(result[i][0])[:, 1:]
        return distances(points[i])[ends[:, 0], ends[:, 1]]

    def finite_deaths(result, i):
        deaths = result[i][0][:, 1]
        return deaths[np.isfinite(deaths)]

    one = functools.partial(simplex_tree, max_dimension=1)
    for threads, workers in ways(len(points)).items():
        peers[f"{SIMPLEX_TREE}, {threads}"] = Contender(
            lambda workers=workers: spread(one, points, workers), tree_deaths
        )
        peers[f"{VALUES_ONLY}, {threads}"] = Contender(
            lambda workers=workers: rips_persistence(points, workers, dims=[0]), finite_deaths
        )
    return peers


def torch_peers(points, modules):
    """{name: contender} for the squared total persistence and its gradient."""
    if "torch_topological" not in modules:
        return {}
    torch, batch = modules["torch"], len(points)
    vietoris_rips = importlib.import_module("torch_topological.nn").VietorisRipsComplex

    def step(clouds, workers):
        clouds = torch.from_numpy(clouds).requires_grad_()
        rips = vietoris_rips(dim=1, n_threads=workers)
        # Distances of the whole batch are quicker than its own, cloud by cloud.
        information = rips(torch.cdist(clouds, clouds), treat_as_distances=True)
        # One sum over all diagrams is less work for it than a loss for each.
        diagrams = torch.cat([part.diagram for cloud in information for part in cloud])
        loss = torch.diff(diagrams).square().sum()
        loss.backward()
        return loss.item(), clouds.grad.numpy()

    return {
        f"{TORCH}, {threads}": Contender(
            lambda workers=workers: step(points, workers),
            lambda result, i: result[1][i],
            seconds_of_one(lambda cloud, w=workers: step(cloud[None], w), points[0]) * batch,
        )
        for threads, workers in ways(CORES).items()
    }


# --- Ours -----------------------------------------------------------------------------------------


def compiled(function, points):
    """A contender and what compiling it took."""
    points = jnp.asarray(points)
    begin = time.perf_counter()
    lowered = jax.jit(function).lower(points)
    traced = time.perf_counter()
    run = lowered.compile()
    end = time.perf_counter()
    return lambda: run(points), {"trace": traced - begin, "compile": end - traced}


def diagrams_of(points, dims, reduction="host"):
    return jax.vmap(lambda x: tp.vietoris_rips(x, dims=dims, reduction=reduction))(points)


def finite_bars(diagrams, i, dim):
    in_dim = np.repeat(diagrams.homology_dims, diagrams.capacities) == dim
    chosen = np.asarray(diagrams.is_finite[i]) & in_dim
    bars = np.stack([np.asarray(diagrams.births[i]), np.asarray(diagrams.deaths[i])], axis=1)
    return bars[chosen].astype(float)


def squared_persistence(points):
    def one(cloud):
        return tp.total_persistence(tp.vietoris_rips(cloud), power=2.0)

    return jnp.sum(jax.vmap(one)(points))


# --- The clock ------------------------------------------------------------------------------------


def timed(call, number=1):
    """Seconds of one of `number` calls, and the last result."""
    gc.collect()
    time.sleep(0.02)  # threads of the one before may still spin
    result = None
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(number):
        result = jax.block_until_ready(call())
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"wall": wall / number, "cpu": cpu / number}, result


def calls_in_a_sample(call, warm):
    if warm["wall"] > SHORTEST_SAMPLE:
        return 1
    return max(1, math.ceil(SHORTEST_SAMPLE / max(timed(call)[0]["wall"], 1e-6)))


def in_turns(calls, repeats, warm):
    """{name: record} of warm calls: all take turns, in an order that rotates."""
    names = list(calls)
    numbers = {name: calls_in_a_sample(calls[name], warm[name]) for name in names}
    if sum(warm[name]["wall"] for name in names) > SLOW_ROUND:
        repeats = min(repeats, SLOW_REPEATS)
    samples = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(timed(calls[name], numbers[name])[0])
    return {
        name: {
            "median": {c: statistics.median(s[c] for s in several) for c in ("wall", "cpu")},
            "samples": {c: [s[c] for s in several] for c in ("wall", "cpu")},
            "calls_in_a_sample": numbers[name],
        }
        for name, several in samples.items()
    }


def compare(stage, points, function, found, peers, check, repeats, left_out):
    """One entry: ours and all peers that are quick enough, checked and then timed."""
    batch, n, d = points.shape
    case = case_of(points)
    say(f"{stage}: {case}")
    run, compiling = compiled(function, points)
    contenders, warm, agreement, ours = {}, {}, {}, []
    for name, contender in {OURS: Contender(run, found), **peers}.items():
        if contender.estimate > LONGEST_CALL:
            reason = f"a call would take about {contender.estimate:.0f} s"
            leave_out(left_out, stage, case, name, reason)
            continue
        warm[name], result = timed(contender.call)
        several = [contender.found(result, i) for i in range(min(batch, CHECKED))]
        if name == OURS:
            ours = several
            complain_if_overflowing(result)
            contenders[name] = contender
            continue
        try:
            agreement[name] = check(ours, several)
            contenders[name] = contender
        except DisagreementError as error:
            # On one thread it may be we who are wrong, and nobody must overlook that.
            if not name.endswith(ALL_CORES):
                raise
            leave_out(left_out, stage, case, name, f"its answer is wrong: {error}")
    record = in_turns({name: c.call for name, c in contenders.items()}, repeats, warm)
    for entry in record.values():
        entry["ratio_of_medians"] = {
            clock: entry["median"][clock] / record[OURS]["median"][clock]
            for clock in entry["median"]
        }
    say_medians(record)
    entry = {"n": n, "d": d, "batch": batch, "compile_seconds": compiling}
    return case, entry | {"agreement": agreement, "contenders": record}


def case_of(points):
    batch, n, d = points.shape
    return f"n={n}, batch={batch}" + ("" if d == D else ", circle")


def leave_out(left_out, stage, case, name, reason):
    left_out.append({"stage": stage, "case": case, "contender": name, "reason": reason})
    say(f"  {name}: left out, {reason}")


def complain_if_overflowing(result):
    if isinstance(result, tp.Diagram):
        assert not np.asarray(result.overflow).any(), "Our diagrams have too few slots."


# --- Do they compute the same? --------------------------------------------------------------------


class DisagreementError(Exception):
    """How an answer differs from ours."""


def same_loops(ours, theirs):
    """Diagrams match bar by bar, and so in number but for bars that are as good as none."""
    differences = []
    for mine, other in zip(ours, theirs, strict=True):
        other = np.asarray(other, float).reshape(-1, 2)
        other = other[np.isfinite(other[:, 1])]
        differences.append(float(gudhi.bottleneck_distance(mine, other)))
        faint = max(np.sum(bars[:, 1] - bars[:, 0] < TOLERANCE) for bars in (mine, other))
        if abs(len(mine) - len(other)) > faint:
            raise DisagreementError(f"{len(other)} finite H1 bars in place of {len(mine)}")
    if max(differences) > TOLERANCE:
        raise DisagreementError(f"diagrams of H1 differ by {max(differences):.1e}")
    return {"clouds": len(ours), "largest_difference": max(differences)}


def same_deaths(ours, theirs):
    largest = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        if len(mine) != len(other):
            raise DisagreementError(f"{len(other)} deaths in place of {len(mine)}")
        largest = max(largest, float(np.abs(np.sort(mine) - np.sort(other)).max()))
    if largest > TOLERANCE:
        raise DisagreementError(f"deaths differ by {largest:.1e}")
    return {"clouds": len(ours), "largest_difference": largest}


def same_gradients(ours, theirs):
    """To a thousandth, but for one cloud in eight: torch rounds distances otherwise, and where two
    edges of nearly one length change places, the gradient goes to other points."""
    same = [
        bool(np.abs(mine - other).max() <= 1e-3 * np.abs(other).max())
        for mine, other in zip(ours, theirs, strict=True)
    ]
    if len(same) - sum(same) > len(same) // 8:
        raise DisagreementError(
            f"the gradient is another one for {len(same) - sum(same)} of {len(same)} clouds"
        )
    return {"clouds": len(ours), "same": sum(same)}


def same_generators(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        if not np.array_equal(mine, other):
            raise DisagreementError("other generators")
    return {"clouds": len(ours)}


# --- What is measured -----------------------------------------------------------------------------


def gaussian(n, batch):
    return np.random.default_rng(n).normal(size=(batch, n, D)).astype(np.float32)


def noisy_circle(n, batch):
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, (batch, n))
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return (circle + rng.normal(scale=0.1, size=circle.shape)).astype(np.float32)


def measure_values(points, modules, repeats, left_out):
    return compare(
        "values and generators",
        points,
        lambda x: diagrams_of(x, (0, 1)),
        lambda result, i: finite_bars(result, i, 1),
        value_peers(points, modules),
        same_loops,
        repeats,
        left_out,
    )


def measure_components(points, repeats, left_out):
    return compare(
        "components only",
        points,
        lambda x: diagrams_of(x, (0,)),
        lambda result, i: finite_bars(result, i, 0)[:, 1],
        component_peers(points),
        same_deaths,
        repeats,
        left_out,
    )


def measure_device(points, repeats, left_out):
    """Ours is on the device here; the host path is the peer."""
    on_host, _ = compiled(lambda x: diagrams_of(x, (0, 1)), points)

    def generators(result, i):
        return np.asarray(result.generators[i])

    return compare(
        "loops on the device",
        points,
        lambda x: diagrams_of(x, (0, 1), "device"),
        generators,
        {ON_HOST: Contender(on_host, generators)},
        same_generators,
        repeats,
        left_out,
    )


def measure_gradients(points, modules, repeats, left_out):
    return compare(
        "forward and backward",
        points,
        jax.value_and_grad(squared_persistence),
        lambda result, i: np.asarray(result[1][i]),
        torch_peers(points, modules),
        same_gradients,
        repeats,
        left_out,
    )


def measure_host_threads(n, batch, repeats):
    """Pairs of one batch on the host, by one thread and by two."""
    lengths = np.stack([pdist(cloud) for cloud in gaussian(n, batch)]).astype(np.float32)
    longest = np.full(batch, np.inf, np.float32)

    def pairs(n_threads):
        options = {"n": n, "dims": (1,), "capacities": (2 * n,), "n_threads": n_threads}
        return rips_pairs(lengths, longest, **options)

    calls = {f"{k} thread{'s' * (k > 1)}": functools.partial(pairs, k) for k in (1, 2)}
    warm, results = {}, {}
    for name, call in calls.items():
        warm[name], results[name] = timed(call)
    assert np.array_equal(results["1 thread"][0], results["2 threads"][0]), "Pairs differ."
    record = in_turns(calls, repeats, warm)
    speedup = record["1 thread"]["median"]["wall"] / record["2 threads"]["median"]["wall"]
    say(f"host threads: n={n}, batch={batch}: 1 -> 2 threads x{speedup:.2f}")
    return {"n": n, "batch": batch, "speedup": speedup, "contenders": record}


# Both import the same, so that both start from the same memory.
MEMORY_SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
import topoprune_jax as tp
from topoprune_jax.cli import peak_memory
batch, n, d = map(int, sys.argv[1:])
points = np.random.default_rng(0).normal(size=(batch, n, d)).astype(np.float32)
{setup}
before = peak_memory()
{compile}
compiled = peak_memory()
{call}
after = peak_memory()
print(json.dumps({{"before": before, "compile": compiled - before, "total": after - before}}))
"""
MEMORY_SCRIPTS = {
    OURS: MEMORY_SCRIPT.format(
        setup="""
def loss(points):
    one = lambda cloud: tp.total_persistence(tp.vietoris_rips(cloud), power=2.0)
    return jnp.sum(jax.vmap(one)(points))
points = jax.block_until_ready(jnp.asarray(points))
""",
        compile="run = jax.jit(jax.value_and_grad(loss)).lower(points).compile()",
        call="jax.block_until_ready(run(points))",
    ),
    TORCH: MEMORY_SCRIPT.format(
        setup="""
import torch
from torch_topological.nn import VietorisRipsComplex
points = torch.from_numpy(points).requires_grad_()
""",
        compile="",
        call="""
distances = torch.cdist(points, points)
information = VietorisRipsComplex(dim=1)(distances, treat_as_distances=True)
diagrams = torch.cat([part.diagram for cloud in information for part in cloud])
torch.diff(diagrams).square().sum().backward()
""",
    ),
}


def measure_memory(modules, repeats, *, batch, n, d):
    """How far the peak resident memory of a fresh process grows; compiling included."""
    record = {"batch": batch, "n": n, "d": d, "contenders": {}}
    for name, script in MEMORY_SCRIPTS.items():
        if name == TORCH and TORCH not in modules:
            continue
        command = [sys.executable, "-W", "ignore", "-c", script, *map(str, (batch, n, d))]
        runs = []
        for _ in range(repeats):
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(answer.stdout.splitlines()[-1]))
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        record["contenders"][name] = {"median_bytes": medians, "sample_bytes": runs}
        total, compiling = medians["total"] / 1e6, medians["compile"] / 1e6
        say(f"memory: {name}: grows by {total:.0f} MB, {compiling:.0f} MB of it to compile")
    return record


# --- The bars -------------------------------------------------------------------------------------


def fastest(entry, start):
    walls = {
        name: record["median"]["wall"]
        for name, record in entry["contenders"].items()
        if name.startswith(start)
    }
    return min(walls, key=walls.__getitem__) if walls else None


def judged(record):
    """The bars of the library's plan: each measured case against the peer's fastest way."""
    bars = []

    def judge(stage, start, bar, applies):
        for case, entry in record.get(stage, {}).items():
            if not applies(entry):
                continue
            peer = fastest(entry, start)
            row = {"measure": stage, "case": case, "against": peer or start, "must_reach": bar}
            if peer is None:
                bars.append(row | {"times_faster": None, "met": None})
                continue
            walls = {name: c["median"]["wall"] for name, c in entry["contenders"].items()}
            single = walls.get(f"{start}, {ONE_THREAD}")
            bars.append(
                row
                | {
                    "times_faster": walls[peer] / walls[OURS],
                    "times_faster_than_one_thread": single and single / walls[OURS],
                    "met": walls[peer] / walls[OURS] >= bar,
                }
            )

    judge("values and generators", VALUES_ONLY, 1 / 1.2, lambda e: e["n"] >= 64)
    for n, bar in ((64, 8), (128, 30)):
        judge("values and generators", SIMPLEX_TREE, bar, lambda e, n=n: e["n"] == n)
    for n, bar in ((32, 4), (64, 2), (128, 1.5)):
        judge(
            "forward and backward",
            TORCH,
            bar,
            lambda e, n=n: e["n"] == n and e["batch"] >= 64,
        )
    judge("components only", "gudhi", 5, lambda e: e["n"] == 32)
    if memory := record.get("memory"):
        megabytes = memory["contenders"][OURS]["median_bytes"]["total"] / 1e6
        case = "batch={batch}, n={n}, d={d}".format(**memory)
        row = {"measure": "memory of forward and backward", "case": case, "at_most_megabytes": 200}
        bars.append(row | {"megabytes": megabytes, "met": megabytes <= 200})
    return bars


# --- From beginning to end ------------------------------------------------------------------------


def say(text):
    print(text, flush=True)


def say_medians(record):
    for name, entry in record.items():
        line = "{wall:10.6f} s wall {cpu:10.6f} s CPU".format(**entry["median"])
        line += "  x{wall:.2f} wall x{cpu:.2f} CPU".format(**entry["ratio_of_medians"])
        say(f"  {name:48}{line}")


def say_bars(bars):
    say("bars")
    for bar in bars:
        met = {True: "met", False: "NOT MET", None: "not measured"}[bar["met"]]
        if "megabytes" in bar:
            value = f"{bar['megabytes']:.0f} MB, at most {bar['at_most_megabytes']}"
        elif bar["times_faster"] is None:
            value = f"against {bar['against']}"
        else:
            value = f"x{bar['times_faster']:.2f}, must {bar['must_reach']:.2f}, {bar['against']}"
        say(f"  {bar['measure']}, {bar['case']}: {value}: {met}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny batches, two rounds")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; fewer where they are slow")
    parser.add_argument("--out")
    parser.add_argument("--resume", action="store_true", help="measure only what --out lacks")
    arguments = parser.parse_args()
    modules, versions = optional_peers()
    for name, version in versions.items():
        say(f"{name}: {version}")
    words = [Path(w).name if w.startswith("/") else w for w in sys.argv[1:]]
    installed = [name for name, version in versions.items() if not version.startswith("left out")]
    packages = ("scikit-learn", "scipy", "joblib", *installed)
    record: dict[str, Any] = provenance(
        " ".join(["python benchmarks/bench_persistence.py", *words]), packages=packages
    )
    record |= {
        "quick": arguments.quick,
        "peers": versions,
        "threads": CORES,
        "load_average": os.getloadavg(),
        "left_out": (left_out := []),
    }
    repeats = 2 if arguments.quick else arguments.repeats
    sizes, batches = ((16, 32), (1, 4)) if arguments.quick else (SIZES, BATCHES)
    grid = [gaussian(n, batch) for n, batch in itertools.product(sizes, batches)]
    circles = noisy_circle(*((32, 4) if arguments.quick else CIRCLE))
    small = [points for points in grid if points.shape[1] in COMPONENT_SIZES]
    device = ((16,), (4,)) if arguments.quick else (DEVICE_SIZES, DEVICE_BATCHES)
    patches = [gaussian(n, batch) for n, batch in itertools.product(*device)]
    out = arguments.out and Path(arguments.out)
    known = {}
    if arguments.resume and out and out.exists():
        known = json.loads(out.read_text())
        left_out += known["left_out"]
    begin = time.perf_counter() - 60 * known.get("minutes", 0)

    def keep():
        record["bars"] = judged(record)
        record["minutes"] = (time.perf_counter() - begin) / 60
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            part = out.with_suffix(".part")
            part.write_text(json.dumps(record, indent=1) + "\n")
            part.replace(out)

    stages = {
        "values and generators": (
            [*grid, circles],
            lambda points: measure_values(points, modules, repeats, left_out),
        ),
        "components only": (small, lambda points: measure_components(points, repeats, left_out)),
        "loops on the device": (
            patches,
            lambda points: measure_device(points, repeats, left_out),
        ),
        "forward and backward": (
            grid,
            lambda points: measure_gradients(points, modules, repeats, left_out),
        ),
    }
    for stage in stages:
        # What an earlier run measured stays with the commit that it measured.
        before = {"commit": known.get("commit")}
        record[stage] = {case: before | entry for case, entry in known.get(stage, {}).items()}
    for stage, (clouds, measure) in stages.items():
        for points in clouds:
            if case_of(points) not in record[stage]:
                case, entry = measure(points)
                record[stage][case] = {"commit": record["commit"]} | entry
                keep()
    threads = {16: 8} if arguments.quick else HOST_BATCHES
    record["host threads"] = known.get("host threads") or [
        measure_host_threads(n, batch, repeats) for n, batch in threads.items()
    ]
    keep()
    memory = {"batch": 4, "n": 16, "d": 64} if arguments.quick else MEMORY
    runs = 1 if arguments.quick else 3
    record["memory"] = known.get("memory") or measure_memory(modules, runs, **memory)
    keep()
    say_bars(record["bars"])


if __name__ == "__main__":
    main()
