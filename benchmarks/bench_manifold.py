"""Claim: the manifold stage is many times faster than umap-learn's, at its quality, and steadier.

    python benchmarks/bench_manifold.py --quick      # two small sets, a minute or two; prints only
    python benchmarks/bench_manifold.py --resume --out benchmarks/results/manifold.json

Neighbor graph, fuzzy simplicial set, optimizer and the whole, next to umap-learn (seeded, which
makes it run on one thread, and unseeded on all threads), pynndescent, faiss and scikit-learn with
their default settings. Everybody is called once to compile, then all take turns in one process, in
an order that rotates; wall and CPU seconds of every call are kept. First calls are those of fresh
processes. `$TOPOPRUNE_DATA` is the folder of the shared data. `manifold_table.py` makes the tables.
"""

import argparse
import dataclasses
import gc
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import faiss
import gudhi
import jax
import numba
import numpy as np
import pynndescent
import umap.umap_ as umap
from gudhi.sklearn import RipsPersistence
from PIL import Image
from sklearn.datasets import load_digits, make_swiss_roll
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

import topoprune_jax as tp
from topoprune_jax._provenance import provenance

K = 15  # neighbors without the point itself; umap-learn, pynndescent and faiss count it: K + 1
OURS, SEEDED, PARALLEL = "topoprune_jax", "umap-learn, seeded", "umap-learn, all threads"
APPROXIMATE = "approximate neighbors"
SEARCHES = ("projected", "blocks")  # of ours, beside the exact one
MANY_POINTS = 10_000  # from which these searches are of use
MANY_NEGATIVES = 320  # five times the default: the repulsion that an ensemble of five samples
MANY_FEATURES = 256  # from which pynndescent's defaults miss many neighbors of pixels
MORE_NEIGHBORS, MORE_CANDIDATES = 26, 60  # with which it finds .985 of 50,000 x 512 pixels
MORE = "pynndescent, more candidates, all threads"
UMAP_SMALL = 4096  # fewer points, and umap-learn computes all distances
DIMENSIONS = (2, 8)
QUALITY_SEEDS = 3
QUALITY_POINTS = 5000  # of the fixed subsample for trustworthiness
SHAPE_POINTS = 300  # of the farthest-point subsample for persistence
PACKAGES = ("scikit-learn", "umap-learn", "pynndescent", "numba", "faiss-cpu", "scipy", "pillow")


# --- The sets -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Data:
    what: str
    points: np.ndarray
    labels: np.ndarray | None = None
    shapes: dict[str, np.ndarray] | None = None  # what persistence diagrams are compared to


def shared(name):
    folder = os.environ.get("TOPOPRUNE_DATA")
    if folder is None:
        sys.exit("Set TOPOPRUNE_DATA to the folder of the shared data.")
    return np.load(Path(folder) / name)


def unit_rows(x):
    x = np.asarray(x, np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def some(n, size):
    """The same `size` of n indices every time, in no particular order."""
    return np.random.default_rng(0).permutation(n)[:size]


def digits(size=None):
    points, labels = load_digits(return_X_y=True)
    return Data("scikit-learn digits", points.astype(np.float32)[:size], labels[:size])


def cifar_features(size):
    with shared("cifar10_netA.npz") as file:
        pick = some(len(file["train_y"]), size)
        points, labels = unit_rows(file["train_f"][pick]), file["train_y"][pick]
    return Data("$TOPOPRUNE_DATA/cifar10_netA.npz::train_f, unit rows", points, labels)


def cifar_pixels(size, d):
    with shared("cifar10_train_jpeg.npz") as file:
        blob, offsets, labels = file["bytes"], file["offsets"], file["labels"]
    pick = some(len(labels), size)
    pixels = np.empty((size, 32 * 32 * 3), np.float32)
    for row, i in zip(pixels, pick, strict=True):
        with Image.open(io.BytesIO(blob[offsets[i] : offsets[i + 1]].tobytes())) as image:
            row[:] = np.asarray(image, np.float32).ravel() / 255
    points = PCA(d, random_state=0).fit_transform(pixels)
    what = f"$TOPOPRUNE_DATA/cifar10_train_jpeg.npz, pixels, PCA to {d}"
    return Data(what, np.ascontiguousarray(points, np.float32), labels[pick].astype(int))


def banking77():
    with shared("banking77_minilm.npz") as file:
        points, labels = unit_rows(file["x_train"]), file["y_train"].astype(int)
    return Data("$TOPOPRUNE_DATA/banking77_minilm.npz::x_train, unit rows", points, labels)


def swiss_roll(size):
    points, t = make_swiss_roll(size, random_state=0)
    # Arc length of r = t; the sheet that was rolled up.
    length = (t * np.sqrt(1 + t * t) + np.arcsinh(t)) / 2
    sheet = np.stack([length, points[:, 1]], axis=1)
    points = points.astype(np.float32)
    return Data("scikit-learn Swiss roll", points, shapes={"in space": points, "unrolled": sheet})


def torus(size, R=2.0, r=1.0):
    rng = np.random.default_rng(0)
    # Uniform on the surface: the area element is proportional to R + r cos(v).
    u, v = rng.uniform(0, 2 * np.pi, (2, 4 * size))
    accepted = rng.uniform(0, R + r, 4 * size) < R + r * np.cos(v)
    u, v = u[accepted][:size], v[accepted][:size]
    ring = R + r * np.cos(v)
    points = np.stack([ring * np.cos(u), ring * np.sin(u), r * np.sin(v)], axis=1)
    points = points.astype(np.float32)
    return Data(f"torus in R^3, radii {R:g} and {r:g}", points, shapes={"in space": points})


@dataclasses.dataclass(frozen=True)
class Set:
    load: Callable[[], Data]
    embedded: bool = True  # or for the neighbor graph alone
    first_call: bool = False
    dimensions: tuple[int, ...] = DIMENSIONS


SETS = {
    "digits": Set(digits, first_call=True),
    "cifar_features_20k": Set(lambda: cifar_features(20_000), first_call=True),
    "cifar_features_50k": Set(lambda: cifar_features(50_000), dimensions=(2,)),
    "cifar_pixels_5k": Set(lambda: cifar_pixels(5_000, 64)),
    "cifar_pixels_20k": Set(lambda: cifar_pixels(20_000, 64), dimensions=(2,)),
    "banking77": Set(banking77),
    "swiss_roll": Set(lambda: swiss_roll(5_000)),
    "torus": Set(lambda: torus(5_000)),
    "cifar_pixels_50k_d512": Set(lambda: cifar_pixels(50_000, 512), embedded=False),
}
QUICK = {
    "digits": Set(lambda: digits(600), dimensions=(2,)),
    "torus": Set(lambda: torus(600), dimensions=(2,)),
}


# --- The clock ------------------------------------------------------------------------------------


def timed(call):
    gc.collect()
    time.sleep(0.05)  # threads of the one before may still spin
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(call())
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"wall": wall, "cpu": cpu}, result


def side_by_side(contenders, repeats):
    """{name: record of the warm calls}, {name: results by seed}; all take turns."""
    names = list(contenders)
    for name in names:
        jax.block_until_ready(contenders[name](repeats))  # compiles, with a seed of its own
    samples = {name: [] for name in names}
    results = {name: [] for name in names}
    for seed in range(repeats):
        first = seed % len(names)
        for name in names[first:] + names[:first]:
            sample, result = timed(lambda name=name: contenders[name](seed))  # noqa: B023
            samples[name].append(sample)
            results[name].append(result)
    return summary(samples), results


def summary(samples):
    record = {}
    for name, several in samples.items():
        clocks = several[0].keys()
        record[name] = {
            "median": {c: statistics.median(s[c] for s in several) for c in clocks},
            "samples": {c: [s[c] for s in several] for c in clocks},
        }
    ours = record[OURS]["median"]
    for entry in record.values():
        entry["ratio_of_medians"] = {c: entry["median"][c] / ours[c] for c in ours}
    return record


# --- What is compared -----------------------------------------------------------------------------


def ours(points, c, seed, *, method="exact", **options):
    graph = tp.knn_graph(points, n_neighbors=K, method=method)
    fuzzy_set = tp.fuzzy_simplicial_set(graph)
    options = tp.EmbeddingOptions(n_components=c, **options)
    return tp.embed(fuzzy_set, options, key=jax.random.key(seed))


def umap_learn(points, c, **options):
    return umap.UMAP(n_neighbors=K + 1, n_components=c, **options).fit_transform(points)


def umap_random_state(seed):
    return np.random.RandomState(seed) if seed is not None else np.random.RandomState()


def with_numba_threads(n, call):
    """As `UMAP.fit` does it."""
    before = numba.get_num_threads()
    numba.set_num_threads(n or before)
    try:
        return call()
    finally:
        numba.set_num_threads(before)


def knn_contenders(points):
    d = points.shape[1]

    def descent(seed):
        return pynndescent.NNDescent(points, n_neighbors=K + 1).neighbor_graph

    def descent_for_more(seed):
        options = {"n_neighbors": MORE_NEIGHBORS, "max_candidates": MORE_CANDIDATES}
        found = pynndescent.NNDescent(points, **options).neighbor_graph
        return [values[:, : K + 1] for values in found]

    def umap_seeded(seed):
        state = np.random.RandomState(seed)
        return umap.nearest_neighbors(points, K + 1, "euclidean", {}, False, state, n_jobs=1)[:2]

    def flat(seed):
        index = faiss.IndexFlatL2(d)
        index.add(points)
        return index.search(points, K + 1)[::-1]

    def hnsw(seed):
        index = faiss.IndexHNSWFlat(d, 32)
        index.add(points)
        return index.search(points, K + 1)[::-1]

    def brute(seed):
        search = NearestNeighbors(n_neighbors=K, algorithm="brute", n_jobs=-1).fit(points)
        return search.kneighbors()[::-1]

    def searched(method):
        return lambda seed: tp.knn_graph(points, n_neighbors=K, method=method)

    many = len(points) >= MANY_POINTS
    return {
        OURS: searched("exact"),
        **{f"{OURS}, {method}": searched(method) for method in SEARCHES if many},
        "pynndescent, all threads": descent,
        **({MORE: descent_for_more} if many and d >= MANY_FEATURES else {}),
        SEEDED: umap_seeded,
        "faiss flat, all threads": flat,
        "faiss HNSW, all threads": hnsw,
        "scikit-learn brute, all threads": brute,
    }


def measure_knn(points, repeats, farthest):
    record, results = side_by_side(knn_contenders(points), repeats)
    for name, several in results.items():
        found = several[-1]
        indices = np.asarray(found.indices if name.startswith(OURS) else found[0])
        record[name]["recall"] = recall(points, indices, farthest)
    return record


def recall(points, indices, farthest):
    """Part of the found neighbors that are no farther than the K-th nearest; ties all count."""
    total = 0
    for i in range(0, len(points), 1000):
        rows = np.arange(i, min(i + 1000, len(points)))
        j = indices[rows]
        difference = points[np.maximum(j, 0)].astype(np.float64) - points[rows, None]
        near = np.linalg.norm(difference, axis=2) <= farthest[rows, None] * (1 + 1e-5)
        total += np.minimum(((j >= 0) & (j != rows[:, None]) & near).sum(axis=1), K).sum()
    return float(total / (K * len(points)))


def measure_fuzzy(points, graph, repeats):
    knn = umap_neighbors(graph)

    def peer(seed, threads):
        state = umap_random_state(seed)
        return with_numba_threads(
            threads,
            lambda: umap.fuzzy_simplicial_set(
                points, K + 1, state, "euclidean", knn_indices=knn[0], knn_dists=knn[1]
            )[0],
        )

    contenders = {
        OURS: lambda seed: tp.fuzzy_simplicial_set(graph),
        SEEDED: lambda seed: peer(seed, 1),
        PARALLEL: lambda seed: peer(None, None),
    }
    record, results = side_by_side(contenders, repeats)
    i, j, mu = results[OURS][-1].edges()
    theirs = results[SEEDED][-1].tocoo()
    upper = theirs.row < theirs.col
    order = np.lexsort((theirs.col[upper], theirs.row[upper]))
    same = np.array_equal(i, theirs.row[upper][order]) and np.array_equal(
        j, theirs.col[upper][order]
    )
    record["agreement"] = {
        "same_edges": same,
        "largest_difference": float(np.abs(mu - theirs.data[upper][order]).max()) if same else None,
    }
    return record, results[SEEDED][-1]


def umap_neighbors(graph):
    """umap-learn's arrays: the point itself comes first."""
    n = graph.n_points
    itself = np.arange(n, dtype=np.int32)[:, None]
    indices = np.concatenate([itself, np.asarray(graph.indices)], axis=1)
    distances = np.concatenate([np.zeros((n, 1), np.float32), np.asarray(graph.distances)], axis=1)
    return indices, distances


def measure_layout(points, graph, umap_graph, c, repeats):
    """The optimizer from the same coordinates."""
    start = principal_start(points, c)
    fuzzy_set = jax.block_until_ready(tp.fuzzy_simplicial_set(graph))
    options = tp.EmbeddingOptions(n_components=c)
    a, b = umap.find_ab_params(1.0, 0.1)

    def peer(seed, threads):
        state = umap_random_state(seed)
        return with_numba_threads(
            threads,
            lambda: umap.simplicial_set_embedding(
                points,
                umap_graph.copy(),  # it drops edges in place
                c,
                initial_alpha=1.0,
                a=a,
                b=b,
                gamma=1.0,
                negative_sample_rate=5,
                n_epochs=None,
                init=start,
                random_state=state,
                metric="euclidean",
                metric_kwds={},
                densmap=False,
                densmap_kwds={},
                output_dens=False,
                parallel=seed is None,
            )[0],
        )

    contenders = {
        OURS: lambda seed: tp.embed(fuzzy_set, options, start=start, key=jax.random.key(seed)),
        SEEDED: lambda seed: peer(seed, 1),
        PARALLEL: lambda seed: peer(None, None),
    }
    return side_by_side(contenders, repeats)


def principal_start(points, c):
    """Principal components; noise where the points have fewer dimensions."""
    start = np.random.default_rng(0).normal(size=(len(points), c))
    found = PCA(min(c, points.shape[1]), random_state=0).fit_transform(points)
    start *= 1e-2 * found.std()
    start[:, : found.shape[1]] += found
    return start.astype(np.float32)


def measure_end_to_end(points, c, repeats):
    contenders = {
        OURS: lambda seed: ours(points, c, seed),
        f"{OURS}, {MANY_NEGATIVES} negatives": lambda seed: ours(
            points, c, seed, n_negatives=MANY_NEGATIVES
        ),
        SEEDED: lambda seed: umap_learn(points, c, random_state=seed, n_jobs=1),
        PARALLEL: lambda seed: umap_learn(points, c),
    }
    if len(points) >= MANY_POINTS:
        contenders[f"{OURS}, blocks"] = lambda seed: ours(points, c, seed, method="blocks")
    if len(points) < UMAP_SMALL:
        # umap-learn calls its metric from Python for every pair then, which its users can avoid.
        avoid = {"force_approximation_algorithm": True}
        contenders |= {
            f"{SEEDED}, {APPROXIMATE}": lambda seed: umap_learn(
                points, c, random_state=seed, n_jobs=1, **avoid
            ),
            f"{PARALLEL}, {APPROXIMATE}": lambda seed: umap_learn(points, c, **avoid),
        }
    return side_by_side(contenders, repeats)


# What somebody types: the clock starts before the import.
FIRST_CALL = """
import json, sys, time
import numpy as np
points, c = np.load(sys.argv[1]), int(sys.argv[2])
def now():
    return time.perf_counter(), time.process_time()
begin = now()
{imports}
imported = now()
{call}
end = now()
print(json.dumps({{
    "wall": end[0] - begin[0], "cpu": end[1] - begin[1],
    "import_wall": imported[0] - begin[0], "import_cpu": imported[1] - begin[1],
}}))
"""
FIRST_CALLS = {
    OURS: FIRST_CALL.format(
        imports="import jax, topoprune_jax as tp",
        call=f"""
graph = tp.knn_graph(points, n_neighbors={K})
options = tp.EmbeddingOptions(n_components=c)
jax.block_until_ready(tp.embed(tp.fuzzy_simplicial_set(graph), options, key=jax.random.key(0)))
""",
    ),
    SEEDED: FIRST_CALL.format(
        imports="import umap",
        call=f"""
umap.UMAP(n_neighbors={K + 1}, n_components=c, random_state=0, n_jobs=1).fit_transform(points)
""",
    ),
    PARALLEL: FIRST_CALL.format(
        imports="import umap",
        call=f"umap.UMAP(n_neighbors={K + 1}, n_components=c).fit_transform(points)",
    ),
}


def measure_first_call(points, c, repeats):
    """Without anything compiled before, and with JAX's or numba's cache from a process before."""
    samples = {kind: {name: [] for name in FIRST_CALLS} for kind in ("no cache", "cache")}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "points.npy"
        np.save(file, points)
        for (repeat, name), kind in itertools.product(
            itertools.product(range(repeats), FIRST_CALLS), samples
        ):
            cache = Path(folder) / f"{name}-{repeat}"
            samples[kind][name].append(first_call(name, file, c, cache, use=kind == "cache"))
    return {kind: summary(several) for kind, several in samples.items()}


def first_call(name, file, c, cache, *, use):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "NUMBA_"))}
    if name == OURS:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    else:
        environment["NUMBA_CACHE_DIR"] = str(cache)  # empty at first, unlike the one it comes with
    command = [sys.executable, "-W", "ignore", "-c", FIRST_CALLS[name], str(file), str(c)]

    def run(variables):
        answer = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        return json.loads(answer.stdout.splitlines()[-1])

    if use and not cache.exists():
        run(environment)
    if not use and name == OURS:
        del environment["JAX_COMPILATION_CACHE_DIR"]  # writing it costs time, too
    return run(environment)


# --- Quality --------------------------------------------------------------------------------------


def neighbors(points):
    """Exact: (n, K) distances and indices, without the point itself."""
    tree = "kd_tree" if points.shape[1] <= 8 else "brute"
    return NearestNeighbors(n_neighbors=K, algorithm=tree, n_jobs=-1).fit(points).kneighbors()


def common(a, b):
    """How many of the K neighbors of each point two graphs share."""
    return (a[:, :, None] == b[:, None, :]).any(axis=2).sum(axis=1)


def knn_preservation(original, embedded):
    return float((common(original, embedded) / K).mean())


def knn_accuracy(embedded, labels):
    votes = np.zeros((len(labels), labels.max() + 1), np.int32)
    np.add.at(votes, (np.arange(len(labels))[:, None], labels[embedded]), 1)
    return float((votes.argmax(axis=1) == labels).mean())


def steadiness(graphs):
    """Jaccard index of the neighbor sets, mean over the points, for every pair of seeds."""
    values = []
    for a, b in itertools.combinations(graphs, 2):
        shared = common(a, b)
        values.append(float((shared / (2 * K - shared)).mean()))
    return {"mean": statistics.mean(values), "pairs": values} if values else None


def finite(embedding):
    """umap-learn gives NaN to points without edges: they go to the middle, and are counted."""
    embedding = np.array(embedding, np.float32)
    bad = ~np.isfinite(embedding).all(axis=1)
    embedding[bad] = embedding[~bad].mean(axis=0) if not bad.all() else 0
    return embedding, int(bad.sum())


def quality(data, original, embeddings, *, shapes=None):
    """Measures of the first few seeds, and of all the seeds how much they agree."""
    pick = np.sort(some(len(data.points), QUALITY_POINTS))
    graphs, seeds = [], []
    for seed, embedding in enumerate(embeddings):
        z, not_finite = finite(embedding)
        graphs.append(neighbors(z)[1])
        if seed >= QUALITY_SEEDS:
            continue
        record = {
            "trustworthiness": float(trustworthiness(data.points[pick], z[pick], n_neighbors=K)),
            "knn_preservation": knn_preservation(original, graphs[-1]),
            "not_finite": not_finite,
        }
        if data.labels is not None:
            record["knn_accuracy"] = knn_accuracy(graphs[-1], data.labels)
        if shapes is not None:
            record["h1_bottleneck"] = {
                name: gudhi.bottleneck_distance(h1_diagram(z), diagram)
                for name, diagram in shapes.items()
            }
        seeds.append(record)
    means = {
        key: statistics.mean(s[key] for s in seeds)
        for key in ("trustworthiness", "knn_preservation", "knn_accuracy")
        if key in seeds[0]
    }
    if shapes is not None:
        means["h1_bottleneck"] = {
            name: statistics.mean(s["h1_bottleneck"][name] for s in seeds) for name in shapes
        }
    return {"mean": means, "seeds": seeds, "steadiness": steadiness(graphs)}


def farthest_points(points, size, first=0):
    points = np.asarray(points, np.float64)
    chosen, gap = [first], np.full(len(points), np.inf)
    while len(chosen) < min(size, len(points)):
        gap = np.minimum(gap, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(gap.argmax()))
    return points[chosen]


def h1_diagram(points, first=0):
    """H1 of the Vietoris-Rips filtration of a cover of the shape, at diameter 1."""
    cover = farthest_points(points, SHAPE_POINTS, first)
    diameter = np.linalg.norm(cover[:, None] - cover[None], axis=2).max()
    return RipsPersistence(homology_dimensions=[1]).fit_transform([cover / diameter])[0][0]


def describe_shapes(shapes):
    """The diagrams themselves: longest bars, and how far another cover of the same shape lies."""
    return {
        name: {
            "longest_bars": sorted((float(e - b) for b, e in h1_diagram(shape)), reverse=True)[:5],
            "another_cover": gudhi.bottleneck_distance(
                h1_diagram(shape), h1_diagram(shape, len(shape) // 2)
            ),
        }
        for name, shape in shapes.items()
    }


# --- A set from beginning to end ------------------------------------------------------------------


def measure(chosen, repeats, first_repeats):
    data = chosen.load()
    points = data.points
    say(f"{data.what}: {points.shape[0]} x {points.shape[1]}")
    record = {
        "what": data.what,
        "n": points.shape[0],
        "d": points.shape[1],
        "n_classes": None if data.labels is None else len(np.unique(data.labels)),
        "n_neighbors": K,
        "repeats": repeats,
        "load_average": os.getloadavg(),
        "threads": {"numba": numba.get_num_threads(), "faiss": faiss.omp_get_max_threads()},
    }
    distances, original = neighbors(points)
    record["knn"] = measure_knn(points, repeats, distances[:, -1])
    say_medians("neighbor graph", record["knn"])
    if not chosen.embedded:
        return record

    graph = jax.block_until_ready(tp.knn_graph(points, n_neighbors=K))
    record["fuzzy"], umap_graph = measure_fuzzy(points, graph, repeats)
    say_medians("fuzzy set", record["fuzzy"])
    shapes = None
    if data.shapes is not None:
        record["shapes"] = describe_shapes(data.shapes)
        shapes = {name: h1_diagram(shape) for name, shape in data.shapes.items()}

    stages = {
        "optimizer": lambda c: measure_layout(points, graph, umap_graph, c, repeats),
        "end to end": lambda c: measure_end_to_end(points, c, repeats),
    }
    for stage, run in stages.items():
        record[stage] = {}
        for c in chosen.dimensions:
            entry, results = run(c)
            for name, embeddings in results.items():
                entry[name]["quality"] = quality(data, original, embeddings, shapes=shapes)
            record[stage][str(c)] = entry
            say_medians(f"{stage}, {c}-d", entry)
    if chosen.first_call:
        record["first call"] = measure_first_call(points, 2, first_repeats)
        for kind, entry in record["first call"].items():
            say_medians(f"first call, {kind}", entry)
    return record


def say(text):
    print(text, flush=True)


def say_medians(stage, record):
    say(f"  {stage}")
    for name, entry in record.items():
        if "median" not in entry:
            say(f"    {name}: {entry}")
            continue
        line = "{wall:8.3f} s wall {cpu:8.3f} s CPU".format(**entry["median"])
        line += "  x{wall:.2f} wall x{cpu:.2f} CPU".format(**entry["ratio_of_medians"])
        if "recall" in entry:
            line += f"  recall {entry['recall']:.4f}"
        if "quality" in entry:
            means = entry["quality"]["mean"]
            line += "  " + " ".join(f"{k} {v:.4f}" for k, v in means.items() if k[0] != "h")
            for shape, distance in means.get("h1_bottleneck", {}).items():
                line += f" h1 {shape} {distance:.4f}"
            if entry["quality"]["steadiness"]:
                line += f" steadiness {entry['quality']['steadiness']['mean']:.4f}"
        say(f"    {name:44}{line}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--repeats", type=int, default=5, help="warm calls, and seeds")
    parser.add_argument("--first-repeats", type=int, default=3)
    parser.add_argument("--out", help="sets already in this file stay, unless measured anew")
    parser.add_argument("--resume", action="store_true", help="skip what is in the file already")
    parser.add_argument("--quick", action="store_true", help="two small sets, two repeats")
    arguments = parser.parse_args()
    if not arguments.quick and arguments.repeats < QUALITY_SEEDS:
        parser.error(f"--repeats must be at least {QUALITY_SEEDS}, the seeds of the quality.")
    warnings.filterwarnings("ignore", module="umap|sklearn")
    out = arguments.out and Path(arguments.out)
    record = {"sets": {}}
    if out and out.exists():
        record = json.loads(out.read_text())
    words = [Path(w).name if w.startswith("/") else w for w in sys.argv[1:]]
    command = " ".join(["python benchmarks/bench_manifold.py", *words])
    sets = QUICK if arguments.quick else {name: SETS[name] for name in arguments.sets}
    repeats, first_repeats = (
        (2, 1) if arguments.quick else (arguments.repeats, arguments.first_repeats)
    )
    for name, chosen in sets.items():
        if arguments.resume and name in record["sets"]:
            say(f"{name}: done already")
            continue
        begin = time.perf_counter()
        made = provenance(command, packages=PACKAGES)  # before: the checkout may change meanwhile
        measured = measure(chosen, repeats, first_repeats)
        minutes = (time.perf_counter() - begin) / 60
        say(f"{name}: {minutes:.1f} minutes")
        record["sets"][name] = made | {"quick": arguments.quick, "minutes": minutes} | measured
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            part = out.with_suffix(".part")
            part.write_text(json.dumps(record, indent=1) + "\n")
            part.replace(out)


if __name__ == "__main__":
    main()
