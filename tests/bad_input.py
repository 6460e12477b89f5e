"""Every public function on input that is wrong or at its limits, one JSON line a case.

Run by test_bad_input.py in a process of its own: without run-time type checks, so that the
package's own sentences show, and so that a crash or a hang is one failed test.
"""

import json
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse

import topoprune_jax as tp
from topoprune_jax import baselines, plot
from topoprune_jax.alpha import alpha_complex
from topoprune_jax.io import write_ranking

GOOD = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
GRAPH = tp.knn_graph(GOOD, n_neighbors=5)
FUZZY = tp.fuzzy_simplicial_set(GRAPH)
KEY = jax.random.key(0)
SCORES = np.arange(40.0)
NINE = jnp.int32(9)
STATE = tp.ManifoldState(GOOD, GOOD)


class Tensor:
    """Refuses to be read by NumPy, as tensors of other libraries do."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


NEEDS_GRADIENT = RuntimeError(
    "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
)
ELSEWHERE = TypeError(
    "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.\nC++ stack trace"
)


class Loader:
    """Gives batches and their number and nothing else, as a DataLoader does."""

    def __len__(self):
        return 2

    def __iter__(self):
        return iter([GOOD[:20], GOOD[20:]])


def spoiled(value):
    points = GOOD.copy()
    points[7, 1] = value
    return points


# What every function that takes points must say of these.
POINTS = {
    "nan": (spoiled(np.nan), "ValueError", "must be finite; got NaN or infinity, first in row 7"),
    "inf": (spoiled(np.inf), "ValueError", "must be finite"),
    "strings": (np.full((40, 3), "a"), "TypeError", "must hold numbers; got dtype <U1"),
    "text": ("features.npy", "TypeError", "must hold numbers"),
    "none": (None, "TypeError", "must hold numbers"),
    "objects": (np.full((40, 3), None), "TypeError", "must hold numbers; got dtype object"),
    "dates": (np.full((40, 3), np.datetime64("2026-01-01")), "TypeError", "must hold numbers"),
    "ragged": ([[1.0, 2.0], [3.0]], "TypeError", "Pass rows of equal length"),
    "complex": (GOOD + 1j, "TypeError", "must hold real numbers; got complex dtype"),
    "masked": (np.ma.masked_less(GOOD, 0), "TypeError", "is a masked array"),
    "sparse": (scipy.sparse.csr_matrix(GOOD), "TypeError", "must be a dense array"),
    "1-D": (GOOD[:, 0], "ValueError", r"must be a 2-D array, one row a sample; got 1-D"),
    "3-D": (np.zeros((4, 3, 2)), "ValueError", "must be a 2-D array.*got 3-D"),
    "0 rows": (np.zeros((0, 3)), "ValueError", r"at least . rows?; got shape \(0, 3\)"),
    "0 columns": (np.zeros((40, 0)), "ValueError", r"at least one column; got shape \(40, 0\)"),
}

TAKES_POINTS = {
    "knn_graph": lambda x: tp.knn_graph(x, n_neighbors=2),
    "vietoris_rips": tp.vietoris_rips,
    "rips_generators": tp.rips_generators,
    "diagram_from_generators": lambda x: tp.diagram_from_generators(x, tp.rips_generators(GOOD)),
    "vietoris_rips cosine": lambda x: tp.vietoris_rips(x, metric="cosine"),
    "weighted_rips": lambda x: tp.weighted_rips(x, np.zeros(40)),
    "distance_to_measure": lambda x: tp.distance_to_measure(x, n_neighbors=2),
    "graph_components": lambda x: tp.graph_components(x, GRAPH),
    "alpha_complex": alpha_complex,
    "optimize_topology": lambda x: tp.optimize_topology(
        x, jnp.sum, steps=1, optimizer=optax.sgd(0.1)
    ),
    "structural_complexity": tp.structural_complexity,
    "rank": lambda x: tp.rank(x, 0.5),
    "embed start": lambda x: tp.embed(FUZZY, start="none" if x is None else x, key=KEY),
    "principal_components": lambda x: tp.principal_components(x, 1, key=KEY),
    "discriminant_coordinates": lambda x: tp.discriminant_coordinates(x, np.arange(40) % 2),
    "discriminant_features": lambda x: tp.discriminant_features(x, np.arange(40) % 2),
    "communities": lambda x: tp.communities(FUZZY, x, key=KEY),
    "kmeans_strata": lambda x: tp.kmeans_strata(x, 2, key=KEY),
    "spectral_start": lambda x: tp.spectral_start(
        FUZZY, 2, guess="none" if x is None else x, key=KEY
    ),
    "ManifoldState": lambda x: tp.ManifoldState(x, GOOD),
    "transform": lambda x: tp.transform(STATE, x),
    "embed_ensemble": lambda x: tp.embed_ensemble(
        FUZZY, n_members=2, start="none" if x is None else x, key=KEY
    ),
}


# Limits that have an answer: finite, deterministic, and of the right shape.
LIMITS = {
    "1 row": GOOD[:1],
    "2 rows": GOOD[:2],
    "3 rows": GOOD[:3],
    "as many rows as neighbors": GOOD[:15],
    "constant": np.full((40, 3), 5.0, np.float32),
    "zeros": np.zeros((40, 3), np.float32),
    "duplicates": np.repeat(GOOD[:2], 20, axis=0),
    "one column": GOOD[:, :1],
    "constant columns": GOOD * np.float32([1, 0, 0]),
    "1e30": GOOD * np.float32(1e30),
    "1e-30": GOOD * np.float32(1e-30),
    "1e200": GOOD.astype(np.float64) * 1e200,
    "1e-200": GOOD.astype(np.float64) * 1e-200,
    "2**60": np.arange(120).reshape(40, 3) * 2**53,
    "booleans": GOOD > 0,
    "float16": GOOD.astype(np.float16),
    "bfloat16": jnp.asarray(GOOD, jnp.bfloat16),
    "int8": (GOOD * 20).astype(np.int8),
    "uint64": (GOOD * 20 + 100).astype(np.uint64),
    "Fortran order": np.asfortranarray(GOOD),
    "negative strides": GOOD[::-1],
    "read-only": np.broadcast_to(GOOD[:1], (40, 3)),
    "list": GOOD.tolist(),
}

MAIN_LIMITS = ("1 row", "3 rows", "duplicates", "1e30", "bfloat16")
"""Those that run every time; the others with `--all`."""

DIAGRAM = tp.vietoris_rips(GOOD[:10])
OTHERS = {
    "ratio 1": (lambda: tp.rank(GOOD, 1.0), "ValueError", r"\[0, 1\); got 1.0. At least one"),
    "ratio 90": (lambda: tp.rank(GOOD, 90), "ValueError", "got 90. Pass 0.9 to remove 90 %"),
    "ratio -0.1": (lambda: tp.rank(GOOD, -0.1), "ValueError", r"must be in \[0, 1\); got -0.1"),
    "ratio nan": (lambda: tp.rank(GOOD, float("nan")), "ValueError", "got nan"),
    "ratio text": (lambda: tp.rank(GOOD, "much"), "TypeError", "`ratio` must be a number"),
    "ratio array": (
        lambda: tp.rank(GOOD, np.ones(3)),
        "TypeError",
        r"`ratio` must be a number; got shape \(3,\)",
    ),
    "ratio traced": (
        lambda: jax.jit(lambda r: tp.rank(GOOD, r).scores)(0.5),
        "TypeError",
        "`ratio` must be static, since shapes .* got a traced value. Name it in `static_argnames`",
    ),
    "ratio huge": (lambda: tp.rank(GOOD, 10**400), "ValueError", r"in \[0, 1\); got inf"),
    "count traced": (
        lambda: jax.vmap(lambda k: tp.knn_graph(GOOD, n_neighbors=k).distances)(jnp.arange(3)),
        "TypeError",
        "`n_neighbors` must be static, since shapes",
    ),
    "count in an array": (lambda: tp.knn_graph(GOOD, n_neighbors=np.asarray(9)), "ok", ""),
    "count in a JAX array": (
        lambda: jax.jit(lambda x: tp.knn_graph(x, n_neighbors=NINE))(GOOD),
        "ok",
        "",
    ),
    "count in a float array": (
        lambda: tp.knn_graph(GOOD, n_neighbors=jnp.float32(9)),
        "TypeError",
        "`n_neighbors` must be a whole number; got 9.0",
    ),
    "count in a boolean array": (
        lambda: tp.knn_graph(GOOD, n_neighbors=np.asarray(True)),
        "TypeError",
        "`n_neighbors` must be a whole number; got array",
    ),
    "counts of options in arrays": (
        lambda: tp.embed(
            FUZZY,
            tp.EmbeddingOptions(n_epochs=jnp.int32(2), n_negatives=np.asarray(3)),
            key=KEY,
        ),
        "ok",
        "",
    ),
    "count huge": (
        lambda: tp.rank(GOOD, 0.5, n_neighbors=10**400),
        "ValueError",
        "`n_neighbors` must be at least 1 and below 2\\*\\*63; got a number of 1329 bits",
    ),
    "space unknown": (
        lambda: tp.rank(GOOD, 0.5, labels=SCORES, space="classes"),
        "ValueError",
        "`space` must be one of 'auto', 'features', .*; got 'classes'",
    ),
    "space number": (
        lambda: tp.plan(9, 2, space=3),
        "ValueError",
        "`space` must be one of 'auto', 'features', .*; got int",
    ),
    "space without labels": (
        lambda: tp.rank(GOOD, 0.5, space="discriminant_features"),
        "ValueError",
        "`space='discriminant_features'` needs `labels`, .* got none. Pass labels",
    ),
    "space of one class": (
        lambda: tp.rank(GOOD, 0.5, labels=[0] * len(GOOD), space="discriminant_coordinates"),
        "ValueError",
        "`labels` must hold two classes or more; got one",
    ),
    "space of traced labels": (
        lambda: jax.jit(
            lambda y: tp.rank(GOOD, 0.5, labels=y, space="discriminant_features").order
        )(np.arange(len(GOOD)) % 2),
        "TypeError",
        "`space='discriminant_features'` needs known values, .* got traced ones",
    ),
    "noise of one sample": (
        lambda: tp.noise_share([[1.0, 2.0]]),
        "ValueError",
        "`features` must have at least 2 rows; got shape \\(1, 2\\)",
    ),
    "noise of nan": (
        lambda: tp.noise_share([[1.0, 2.0], [np.nan, 0.0]]),
        "ValueError",
        "`features` must be finite; got NaN or infinity, first in row 1",
    ),
    "plan space of one class": (
        lambda: tp.plan(9, 2, classes=1, space="discriminant_coordinates"),
        "ValueError",
        "needs two classes or more; got `classes` of 1",
    ),
    "number traced": (
        lambda: jax.jit(lambda g: tp.rank(GOOD, 0.5, labels=SCORES, agreement_power=g).scores)(4.0),
        "TypeError",
        "`agreement_power` must be static",
    ),
    "number huge": (
        lambda: tp.rank(GOOD, 0.5, labels=SCORES, agreement_power=10**400),
        "ValueError",
        "`agreement_power` must be finite in float32 and at least 0; got agreement_power=inf",
    ),
    "beta huge": (
        lambda: tp.rank(GOOD, 0.5, beta=-(10**400)),
        "ValueError",
        "`beta` must be between -50 and 50; got beta=-inf",
    ),
    "beta of integers": (lambda: tp.select(FUZZY, SCORES, 0.5, beta=np.asarray(2)), "ok", ""),
    "ratio numeric text": (
        lambda: tp.rank(GOOD, "0.9"),
        "TypeError",
        "`ratio` must be a number; got '0.9'",
    ),
    "labels ragged": (
        lambda: tp.rank(GOOD, 0.5, labels=[[0, 1], [2]]),
        "TypeError",
        "`labels` must be a list or array of 40 class labels; got list",
    ),
    "complexity dims": (
        lambda: tp.structural_complexity(GOOD, dims=1),
        "TypeError",
        "`dims` must be a sequence of homology dimensions; got int",
    ),
    "complexity dims array": (
        lambda: tp.structural_complexity(GOOD, dims=jnp.asarray([0])),
        "TypeError",
        "`dims` must be a sequence of homology dimensions; got",
    ),
    "complexity power": (
        lambda: tp.structural_complexity(GOOD, power=jnp.asarray([2.0])),
        "TypeError",
        "`power` must be a number; got Array",
    ),
    "complexity step_size": (
        lambda: tp.structural_complexity(GOOD, step_size=1e30, method="displacement"),
        "ValueError",
        "`step_size` must be between 0 and 1; got .* Longer steps overshoot",
    ),
    "generators none": (
        lambda: tp.diagram_from_generators(GOOD, None),
        "TypeError",
        "`generators` must be a Generators; got NoneType",
    ),
    "generators of another cloud": (
        lambda: tp.diagram_from_generators(GOOD, tp.rips_generators(GOOD[:9])),
        "ValueError",
        "those of a cloud of 40 points, .* got those of 9",
    ),
    "embed start 3e38": (
        lambda: tp.embed(
            FUZZY,
            tp.EmbeddingOptions(n_components=3),
            start=np.where(GOOD > 0, 3e38, -3e38),
            key=KEY,
        ),
        "ok",
        "",
    ),
    "graph of floats": (
        lambda: tp.NeighborGraph(GOOD, GOOD),
        "TypeError",
        "`indices` of a NeighborGraph must be integers; got dtype float32",
    ),
    "graph text": (
        lambda: tp.NeighborGraph("indices", GOOD),
        "TypeError",
        "`indices` must hold numbers",
    ),
    "spectral_embedding": (
        lambda: tp.spectral_embedding(GRAPH),
        "TypeError",
        "`fuzzy_set` must be a FuzzySimplicialSet; got NeighborGraph",
    ),
    "connected_components": (
        lambda: tp.connected_components(GRAPH),
        "TypeError",
        "`fuzzy_set` must be a FuzzySimplicialSet; got NeighborGraph",
    ),
    "spectral_embedding n_components": (
        lambda: tp.spectral_embedding(FUZZY, 0),
        "ValueError",
        "`n_components` must be between 1 and 39; got n_components=0",
    ),
    "principal_components n_components": (
        lambda: tp.principal_components(GOOD, 1.5, key=KEY),
        "TypeError",
        "`n_components` must be a whole number; got 1.5",
    ),
    "discriminant_coordinates one class": (
        lambda: tp.discriminant_coordinates(GOOD, np.zeros(40, int)),
        "ValueError",
        "`labels` must hold two classes or more; got one",
    ),
    "discriminant_coordinates labels": (
        lambda: tp.discriminant_coordinates(GOOD, [0, 1]),
        "ValueError",
        r"`labels` must have shape \(40,\)",
    ),
    "discriminant_coordinates n_components": (
        lambda: tp.discriminant_coordinates(GOOD, np.arange(40) % 2, n_components=2),
        "ValueError",
        "`n_components` must be between 1 and 1; got n_components=2",
    ),
    "discriminant_coordinates shrinkage": (
        lambda: tp.discriminant_coordinates(GOOD, np.arange(40) % 2, shrinkage=2),
        "ValueError",
        "`shrinkage` must be .*; got",
    ),
    "discriminant_features weight": (
        lambda: tp.discriminant_features(GOOD, np.arange(40) % 2, weight=-1),
        "ValueError",
        "`weight` must be at least 0; got weight=-1",
    ),
    "communities coordinates": (
        lambda: tp.communities(FUZZY, GOOD[1:], key=KEY),
        "ValueError",
        "`coordinates` must have 40 rows, one for every sample of the fuzzy set; got shape",
    ),
    "communities n_cells": (
        lambda: tp.communities(FUZZY, GOOD, n_cells=0, key=KEY),
        "ValueError",
        "`n_cells` must be between 1 and 4096; got n_cells=0",
    ),
    "communities n_cells many": (
        lambda: tp.communities(FUZZY, GOOD, n_cells=50_000, key=KEY),
        "ValueError",
        "`n_cells` must be between 1 and 4096; got n_cells=50000",
    ),
    "communities fuzzy_set": (
        lambda: tp.communities(GRAPH, GOOD, key=KEY),
        "TypeError",
        "`fuzzy_set` must be a FuzzySimplicialSet; got NeighborGraph",
    ),
    "modularity groups": (
        lambda: tp.modularity(FUZZY, np.arange(39)),
        "ValueError",
        "`groups`",
    ),
    "kmeans_strata n_strata": (
        lambda: tp.kmeans_strata(GOOD, 41, key=KEY),
        "ValueError",
        "`n_strata` must be between 1 and 40; got n_strata=41",
    ),
    "transform state": (
        lambda: tp.transform(GOOD, GOOD),
        "TypeError",
        "`state` must be a ManifoldState; got ndarray",
    ),
    "transform columns": (
        lambda: tp.transform(STATE, GOOD[:, :2]),
        "ValueError",
        r"`new_points` must have 3 columns.* got shape \(40, 2\)",
    ),
    "ManifoldState embedding": (
        lambda: tp.ManifoldState(GOOD, GOOD[:9]),
        "ValueError",
        r"`embedding` must have a row for each of the 40 points; got shape \(9, 3\)",
    ),
    "embed_ensemble fuzzy_set": (
        lambda: tp.embed_ensemble(GOOD, key=KEY),
        "TypeError",
        "`fuzzy_set` must be a FuzzySimplicialSet; got ndarray",
    ),
    "embed_ensemble n_members": (
        lambda: tp.embed_ensemble(FUZZY, n_members=1, key=KEY),
        "ValueError",
        "`n_members` must be at least 2; got n_members=1",
    ),
    "rank labels short": (
        lambda: tp.rank(GOOD, 0.5, labels=np.zeros(39, int)),
        "ValueError",
        r"`labels` must have shape \(40,\), one label a sample; got shape \(39,\)",
    ),
    "rank labels one-hot": (
        lambda: tp.rank(GOOD, 0.5, labels=np.zeros((40, 3))),
        "ValueError",
        r"got shape \(40, 3\)",
    ),
    "rank labels nan": (
        lambda: tp.rank(GOOD, 0.5, labels=np.where(SCORES == 3, np.nan, 0)),
        "ValueError",
        "got NaN or infinity at index 3",
    ),
    "rank labels fractions": (
        lambda: tp.rank(GOOD, 0.5, labels=SCORES / 7),
        "ValueError",
        "must be class labels; got the fraction",
    ),
    "rank labels None": (
        lambda: tp.rank(GOOD, 0.5, labels=np.full(40, None)),
        "TypeError",
        "`labels` must be integers or strings; got an object array",
    ),
    "rank labels of strings and NaN": (
        lambda: tp.rank(GOOD[:3], 0.5, labels=["a", float("nan"), "b"]),
        "TypeError",
        "`labels` must be all strings or all integers; got a list of float and str, .* a label",
    ),
    "rank labels of strings and numbers": (
        lambda: tp.rank(GOOD[:3], 0.5, labels=("1", 1, 2)),
        "TypeError",
        "`labels` must be all strings or all integers; got a list of int and str",
    ),
    "rank labels of bytes and numbers": (
        lambda: tp.rank(GOOD[:3], 0.5, labels=[b"1", 1, 2]),
        "TypeError",
        "got a list of bytes and int",
    ),
    "rank key int": (
        lambda: tp.rank(GOOD, 0.5, key=0),
        "TypeError",
        r"must be a typed PRNG key; got int. Make one with `jax.random.key\(0\)`",
    ),
    "rank key raw": (
        lambda: tp.rank(GOOD, 0.5, key=jax.random.PRNGKey(0)),
        "TypeError",
        "must be a typed PRNG key",
    ),
    "rank keys": (
        lambda: tp.rank(GOOD, 0.5, key=jax.random.split(KEY, 2)),
        "ValueError",
        "must be one key",
    ),
    "rank n_neighbors 0": (
        lambda: tp.rank(GOOD, 0.5, n_neighbors=0),
        "ValueError",
        "`n_neighbors` must be at least 1; got n_neighbors=0",
    ),
    "rank n_neighbors 2.5": (
        lambda: tp.rank(GOOD, 0.5, n_neighbors=2.5),
        "TypeError",
        "`n_neighbors` must be a whole number; got 2.5",
    ),
    "rank patch_size 1": (
        lambda: tp.rank(GOOD, 0.5, patch_size=1),
        "ValueError",
        "`patch_size` must be at least 2; got patch_size=1",
    ),
    "rank neighbors": (
        lambda: tp.rank(GOOD, 0.5, neighbors="approximate"),
        "ValueError",
        "`neighbors` must be 'auto', 'exact', 'projected', 'blocks' or a NeighborGraph; got app",
    ),
    "rank neighbors of others": (
        lambda: tp.rank(GOOD[1:], 0.5, neighbors=GRAPH),
        "ValueError",
        "`neighbors` must be a graph of the 39 samples; got one of 40 points",
    ),
    "rank beta -51": (
        lambda: tp.rank(GOOD, 0.5, beta=-51.0),
        "ValueError",
        "`beta` must be between -50 and 50; got beta=-51",
    ),
    "rank checkpoint": (
        lambda: tp.rank(GOOD, 0.5, checkpoint=3),
        "TypeError",
        "`checkpoint` must be a path; got 3. Name a folder; it is made if missing.",
    ),
    "rank manifold": (
        lambda: tp.rank(GOOD, 0.5, manifold="umap"),
        "ValueError",
        "`manifold` must be 'spectral' or 'embedding'; got umap",
    ),
    "kept_count ratio": (
        lambda: tp.kept_count(9, 1.5),
        "ValueError",
        "got 1.5. Pass 0.015 to remove 1.5 %.",
    ),
    "kept_count n": (
        lambda: tp.kept_count(0, 0.5),
        "ValueError",
        "`n` must be at least 1; got n=0",
    ),
    "plan manifold": (
        lambda: tp.plan(9, 2, manifold=3),
        "ValueError",
        "`manifold` must be 'spectral' or 'embedding'; got int",
    ),
    "spectral_embedding rounds": (
        lambda: tp.spectral_embedding(FUZZY, 2, rounds=0),
        "ValueError",
        "`rounds` must be at least 1; got rounds=0",
    ),
    "spectral_embedding tolerance": (
        lambda: tp.spectral_embedding(FUZZY, 2, tolerance=-1.0),
        "ValueError",
        "`tolerance` must be at least 0; got tolerance=-1",
    ),
    "rank embedding": (
        lambda: tp.rank(GOOD, 0.5, embedding=3),
        "TypeError",
        "`embedding` must be an EmbeddingOptions; got int",
    ),
    "plan n 0": (lambda: tp.plan(0, 2), "ValueError", "`n` must be at least 1; got n=0"),
    "plan d 2.5": (lambda: tp.plan(9, 2.5), "TypeError", "`d` must be a whole number; got 2.5"),
    "plan n_neighbors 0": (
        lambda: tp.plan(9, 2, n_neighbors=0),
        "ValueError",
        "`n_neighbors` must be at least 1",
    ),
    "plan patch_size 1": (
        lambda: tp.plan(9, 2, patch_size=1),
        "ValueError",
        "`patch_size` must be at least 2",
    ),
    "plan neighbors": (
        lambda: tp.plan(9, 2, neighbors="near"),
        "ValueError",
        "`neighbors` must be one of 'auto', .*; got 'near'",
    ),
    "plan neighbors 3": (
        lambda: tp.plan(9, 2, neighbors=3),
        "ValueError",
        "`neighbors` must be one of .*; got int",
    ),
    "plan beta": (
        lambda: tp.plan(9, 2, beta=99),
        "ValueError",
        "`beta` must be between -50 and 50",
    ),
    "plan embedding": (lambda: tp.plan(9, 2, embedding=2), "TypeError", "`embedding` must be"),
    "plan classes": (
        lambda: tp.plan(9, 2, classes=99),
        "ValueError",
        "`classes` must be between 1 and 9",
    ),
    "plan class sizes": (
        lambda: tp.plan(9, 2, classes=[4, 4]),
        "ValueError",
        "the sizes of the classes of 9 samples; got sizes that sum up to 8",
    ),
    "plan classes text": (
        lambda: tp.plan(9, 2, classes="three"),
        "TypeError",
        "`classes` must be a whole number",
    ),
    "plan classes of fractions": (
        lambda: tp.plan(9, 2, classes=np.array([4.5, 4.5])),
        "TypeError",
        "`classes` must be a whole number; got 4.5",
    ),
    "plan device": (
        lambda: tp.plan(9, 2, device="abacus"),
        "ValueError",
        "`device` must be there; got 'abacus', and JAX finds cpu",
    ),
    "plan device 3": (
        lambda: tp.plan(9, 2, device=3),
        "TypeError",
        "`device` must be a JAX device or the name of a platform; got int",
    ),
    "rank of text labels in jit": (
        lambda: jax.jit(lambda c: tp.rank(GOOD, 0.5, labels=c).scores)(jnp.zeros(40)),
        "TypeError",
        "`labels` must be integers while JAX traces; got dtype float32",
    ),
    "rank of shards of two widths": (
        lambda: tp.rank([GOOD, GOOD[:, :2]], 0.5),
        "ValueError",
        r"`features\[1\]` must have \d+ columns, as the first shard has; got 2",
    ),
    "rank of a shard in 1-D": (
        lambda: tp.rank([GOOD, GOOD[0]], 0.5),
        "ValueError",
        r"`features\[1\]` must be a 2-D array, one row a sample; got 1-D",
    ),
    "rank of traced shards": (
        lambda: jax.jit(lambda x: tp.rank([x, GOOD], 0.5).scores)(GOOD),
        "TypeError",
        r"`features\[0\]` must be known, .* got a traced array. Concatenate the shards with `jnp",
    ),
    "rank of traced rows": (
        lambda: jax.vmap(lambda x: tp.rank([x, x], 0.5).scores)(GOOD),
        "TypeError",
        r"`features\[0\]` must be known",
    ),
    "rank of a traced graph with a mesh": (
        lambda: jax.vmap(
            lambda w: (
                tp.rank(
                    GOOD,
                    0.5,
                    neighbors=tp.NeighborGraph(GRAPH.indices, GRAPH.distances * w),
                    mesh=jax.make_mesh((1,), ("x",)),
                ).scores
            )
        )(jnp.ones(2)),
        "TypeError",
        "`mesh` needs known values.* got a traced array",
    ),
    "rank of batches of two widths": (
        lambda: tp.rank(iter([GOOD, GOOD[:, :2]]), 0.5),
        "ValueError",
        r"`batch 1 of features` must have \d+ columns, as the first batch has; got 2",
    ),
    "rank of batches with labels": (
        lambda: tp.rank(iter([(GOOD, np.zeros(40))]), 0.5),
        "TypeError",
        "`batch 0 of features` must be an array of numbers; got tuple",
    ),
    "rank of a tensor with a gradient": (
        lambda: tp.rank(Tensor(NEEDS_GRADIENT), 0.5),
        "TypeError",
        r"got Tensor, which NumPy cannot read as one array. It says: .* requires grad. Use tensor",
    ),
    "rank of a tensor elsewhere": (
        lambda: tp.rank(Tensor(ELSEWHERE), 0.5),
        "TypeError",
        r"It says: can't convert cuda:0 .* Use Tensor.cpu\(\) first.$",
    ),
    "rank of a loader": (
        lambda: tp.rank(Loader(), 0.5),
        "TypeError",
        r"got Loader, which is none of these. Pass `iter\(...\)` over batches of features",
    ),
    "rank of a loader on a mesh": (
        lambda: tp.rank(Loader(), 0.5, mesh=jax.make_mesh((1,), ("x",))),
        "TypeError",
        "`features` must be an array, .* on a mesh of devices; got an iterator or a loader",
    ),
    "rank of a set": (lambda: tp.rank({1.0}, 0.5), "TypeError", "must hold numbers; got dtype obj"),
    "rank of no batches": (
        lambda: tp.rank(iter([]), 0.5),
        "ValueError",
        "`features` must give at least one batch; got an iterator without any",
    ),
    "rank of batches with NaN": (
        lambda: tp.rank(iter([GOOD, np.full((3, GOOD.shape[1]), np.nan)]), 0.5),
        "ValueError",
        "`features` must be finite; got NaN or infinity, first in row 40",
    ),
    "knn_graph n <= k": (
        lambda: tp.knn_graph(GOOD[:15]),
        "ValueError",
        "`n_neighbors` must be between 1 and 14; got n_neighbors=15. There are 15 points",
    ),
    "knn_graph 1 row": (lambda: tp.knn_graph(GOOD[:1]), "ValueError", "at least 2 rows"),
    "knn_graph 1e200": (
        lambda: tp.knn_graph(GOOD.astype(np.float64) * 1e200, n_neighbors=2),
        "ValueError",
        r"must fit in float32; got magnitudes up to .*e\+200",
    ),
    "knn_graph metric": (
        lambda: tp.knn_graph(GOOD, metric="l1"),
        "ValueError",
        "`metric` must be 'euclidean', 'cosine', 'inner_product', or a JAX function.* got 'l1'",
    ),
    "knn_graph method": (
        lambda: tp.knn_graph(GOOD, method="fast"),
        "ValueError",
        "`method` must be 'exact', 'projected' or 'blocks'; got 'fast'",
    ),
    "knn_graph method number": (
        lambda: tp.knn_graph(GOOD, method=2),
        "ValueError",
        "`method` must be 'exact', 'projected' or 'blocks'; got 2",
    ),
    "knn_graph method array": (
        lambda: tp.knn_graph(GOOD, method=np.array(["exact", "blocks"])),
        "ValueError",
        "`method` must be 'exact', 'projected' or 'blocks'; got array",
    ),
    "knn_graph method of a function": (
        lambda: tp.knn_graph(GOOD, method="projected", metric=lambda x, y: jnp.abs(x - y).sum()),
        "ValueError",
        "`method` must be 'exact' where `metric` is a function; got method='projected'",
    ),
    "knn_graph blocks of classes": (
        lambda: tp.knn_graph(GOOD, method="blocks", labels=np.arange(40) % 2),
        "ValueError",
        "`method` must be 'exact' or 'projected' where there are `labels`; got 'blocks'",
    ),
    "graph recall": (
        lambda: tp.NeighborGraph([[1], [0]], [[1.0], [1.0]], 1.5),
        "ValueError",
        "`recall` of a NeighborGraph must be one number between 0 and 1; got 1.5",
    ),
    "graph recalls": (
        lambda: tp.NeighborGraph([[1], [0]], [[1.0], [1.0]], [1.0, 1.0]),
        "ValueError",
        r"`recall` of a NeighborGraph must be one number .*; got shape \(2,\)",
    ),
    "knn_graph metric number": (
        lambda: tp.knn_graph(GOOD, metric=2),
        "ValueError",
        "`metric` must be 'euclidean'.* got 2",
    ),
    "knn_graph metric vector": (
        lambda: tp.knn_graph(GOOD, metric=lambda x, y: x - y),
        "ValueError",
        r"`metric` must return one real number.* got shape \(3,\) and dtype float32",
    ),
    "knn_graph metric tuple": (
        lambda: tp.knn_graph(GOOD, metric=lambda x, y: (x, y)),
        "TypeError",
        "`metric` must return one number for two points; got a tuple",
    ),
    "knn_graph metric NumPy": (
        lambda: tp.knn_graph(GOOD, metric=lambda x, y: np.abs(np.asarray(x)).sum()),
        "TypeError",
        "`metric` must be a function that JAX can trace",
    ),
    "knn_graph metric negative": (
        lambda: tp.knn_graph(GOOD, metric=lambda x, y: jnp.sum(x - y)),
        "ValueError",
        r"`metric` must return a number that is not negative; got -.* for points 0 and",
    ),
    "knn_graph metric nan": (
        lambda: tp.knn_graph(spoiled(50.0), metric=lambda x, y: jnp.sqrt(x[1] * 0 + 49 - x[1])),
        "ValueError",
        "`metric` must return a number that is not negative; got nan for points 7 and 0",
    ),
    "knn_graph inner products 1e30": (
        lambda: tp.knn_graph(GOOD * np.float32(1e30), metric="inner_product"),
        "ValueError",
        "`points` must have inner products within the range of float32",
    ),
    "fuzzy graph": (
        lambda: tp.fuzzy_simplicial_set(GOOD),
        "TypeError",
        r"`graph` must be a NeighborGraph; got ndarray. Make one with `knn_graph\(points\)`",
    ),
    "fuzzy labels short": (
        lambda: tp.fuzzy_simplicial_set(GRAPH, labels=np.zeros(39, int)),
        "ValueError",
        r"`labels` must have shape \(40,\), one label a sample; got shape \(39,\)",
    ),
    "fuzzy labels nan": (
        lambda: tp.fuzzy_simplicial_set(GRAPH, labels=np.where(SCORES == 3, np.nan, 0)),
        "ValueError",
        "got NaN or infinity at index 3",
    ),
    "fuzzy target_weight": (
        lambda: tp.fuzzy_simplicial_set(GRAPH, labels=np.zeros(40, int), target_weight=2),
        "ValueError",
        "`target_weight` must be between 0 and 1; got target_weight=2",
    ),
    "fuzzy connectivity": (
        lambda: tp.fuzzy_simplicial_set(GRAPH, local_connectivity="1"),
        "TypeError",
        "`local_connectivity` must be a number",
    ),
    "embed fuzzy_set": (
        lambda: tp.embed(GRAPH, key=KEY),
        "TypeError",
        "`fuzzy_set` must be a FuzzySimplicialSet; got NeighborGraph",
    ),
    "embed options": (
        lambda: tp.embed(FUZZY, {"n_components": 2}, key=KEY),
        "TypeError",
        "`options` must be an EmbeddingOptions; got dict",
    ),
    "embed key": (lambda: tp.embed(FUZZY, key=1), "TypeError", "must be a typed PRNG key"),
    "rips dims": (lambda: tp.vietoris_rips(GOOD, dims=(3,)), "ValueError", "`dims`"),
    "rips dims text": (lambda: tp.vietoris_rips(GOOD, dims="0"), "TypeError", "`dims`"),
    "rips max_edge_length": (
        lambda: tp.vietoris_rips(GOOD, max_edge_length=-1.0),
        "ValueError",
        "`max_edge_length`",
    ),
    "rips capacity of components": (
        lambda: tp.vietoris_rips(GOOD, dims=(0,), capacity=-5),
        "ValueError",
        "`capacity` must be at least 1; got capacity=-5",
    ),
    "rips capacity": (lambda: tp.vietoris_rips(GOOD, capacity=0), "ValueError", "`capacity`"),
    "persistence power": (
        lambda: tp.total_persistence(DIAGRAM, power=0),
        "ValueError",
        "`power` must be positive",
    ),
    "persistence dims": (
        lambda: tp.total_persistence(DIAGRAM, dims=(2,)),
        "ValueError",
        "`dims` must be homology dimensions of the diagram",
    ),
    "persistence array": (
        lambda: tp.total_persistence(GOOD),
        "TypeError",
        "`diagram` must be a Diagram; got ndarray",
    ),
    "complexity method": (
        lambda: tp.structural_complexity(GOOD, method="best"),
        "ValueError",
        "`method` must be 'total_persistence' or 'displacement'; got 'best'",
    ),
    "complexity dims 5": (
        lambda: tp.structural_complexity(GOOD, dims=(5,)),
        "ValueError",
        "`dims`",
    ),
    "complexity power -2": (
        lambda: tp.structural_complexity(GOOD, power=-2.0),
        "ValueError",
        "`power` must be positive",
    ),
    "complexity exact_up_to": (
        lambda: tp.structural_complexity(GOOD, exact_up_to=-1),
        "ValueError",
        "`exact_up_to` must be at least 0; got exact_up_to=-1",
    ),
    "complexity patch_size": (
        lambda: tp.structural_complexity(GOOD, patch_size=8.0),
        "TypeError",
        "`patch_size` must be a whole number; got 8.0",
    ),
    "distances nan": (
        lambda: tp.rips_from_distances(np.full((4, 4), np.nan)),
        "ValueError",
        r"`distances` must not be negative or NaN; got nan at \(0, 0\)",
    ),
    "distances of points": (
        lambda: tp.rips_from_distances(GOOD),
        "ValueError",
        r"must be a square matrix; got shape \(40, 3\).*vietoris_rips",
    ),
    "distances text": (
        lambda: tp.rips_from_distances("distances.npy"),
        "TypeError",
        "`distances` must hold numbers",
    ),
    "weights shape": (
        lambda: tp.weighted_rips(GOOD, np.ones(3)),
        "ValueError",
        r"`weights` must have shape \(40,\), one entry a sample; got shape \(3,\)",
    ),
    "weights negative": (
        lambda: tp.weighted_rips(GOOD, -np.ones(40)),
        "ValueError",
        "`weights` must not be negative; got -1",
    ),
    "weights nan": (
        lambda: tp.weighted_rips(GOOD, np.full(40, np.nan)),
        "ValueError",
        "`weights` must be finite",
    ),
    "graph_components graph": (
        lambda: tp.graph_components(GOOD, GOOD),
        "TypeError",
        "`graph` must be a NeighborGraph; got ndarray",
    ),
    "graph_components other points": (
        lambda: tp.graph_components(GOOD[:9], GRAPH),
        "ValueError",
        "`graph` must be of the 9 points given; it has 40",
    ),
    "lower_star values": (
        lambda: tp.lower_star(GOOD, GRAPH),
        "ValueError",
        r"`values` must have one entry for each vertex; got shape \(40, 3\)",
    ),
    "lower_star nan": (
        lambda: tp.lower_star(np.full(40, np.nan), GRAPH),
        "ValueError",
        "`values` must be finite",
    ),
    "lower_star edges": (
        lambda: tp.lower_star(np.ones(3), [[0, 3]]),
        "ValueError",
        "`edges` must name vertices 0 to 2, as many as `values` has; got 3",
    ),
    "lower_star fractions": (
        lambda: tp.lower_star(np.ones(3), [[0.5, 1.0]]),
        "TypeError",
        "`edges` must be integers; got dtype float",
    ),
    "alpha columns": (
        lambda: alpha_complex(np.zeros((5, 7))),
        "ValueError",
        "`points` must have 2 or 3 columns for an alpha complex; got 7",
    ),
    "summary diagram": (
        lambda: tp.persistent_entropy(GOOD),
        "TypeError",
        "`diagram` must be a Diagram; got ndarray",
    ),
    "summary grid": (
        lambda: tp.betti_curve(DIAGRAM, "many", dim=0),
        "TypeError",
        "`grid` must hold numbers",
    ),
    "image range": (
        lambda: tp.persistence_image(
            DIAGRAM, dim=0, birth_range=(0.0,), lifetime_range=(0.0, 1.0), bandwidth=0.1
        ),
        "ValueError",
        "`birth_range` must be two numbers; got ",
    ),
    "image range infinite": (
        lambda: tp.persistence_image(
            DIAGRAM, dim=0, birth_range=(0, np.inf), lifetime_range=(0.0, 1.0), bandwidth=0.1
        ),
        "ValueError",
        "`birth_range` must be finite in float32; got birth_range=inf",
    ),
    "image resolution": (
        lambda: tp.persistence_image(
            DIAGRAM,
            dim=0,
            birth_range=(0.0, 1.0),
            lifetime_range=(0.0, 1.0),
            bandwidth=0.1,
            resolution=16,
        ),
        "ValueError",
        "`resolution` must be two numbers; got 16",
    ),
    "summary dims": (
        lambda: tp.total_persistence(DIAGRAM, dims=1),
        "TypeError",
        "`dims` must be a sequence of homology dimensions; got int",
    ),
    "graph_components bounds": (
        lambda: tp.graph_components(
            GOOD, tp.NeighborGraph(jnp.full((40, 1), 99), jnp.ones((40, 1)))
        ),
        "ValueError",
        "must lie between 0 and 39, or be -1 in an empty slot; got 99 to 99",
    ),
    "distance_to_measure itself": (
        lambda: tp.distance_to_measure(
            GOOD, n_neighbors=1, graph=tp.NeighborGraph(np.arange(40)[:, None], np.zeros((40, 1)))
        ),
        "ValueError",
        "`graph` lists point 0 as its own neighbor",
    ),
    "optimize integer loss": (
        lambda: tp.optimize_topology(GOOD, jnp.argmax, steps=1, optimizer=optax.sgd(0.1)),
        "ValueError",
        "`loss` must return one real number",
    ),
    "bottleneck diagram": (
        lambda: tp.bottleneck_distance(DIAGRAM, GOOD, dim=0),
        "TypeError",
        "`second` must be a Diagram; got ndarray",
    ),
    "wasserstein order": (
        lambda: tp.wasserstein_distance(DIAGRAM, DIAGRAM, dim=0, order=0.5),
        "ValueError",
        "`order` must be at least 1; got order=0.5",
    ),
    "optimize loss": (
        lambda: tp.optimize_topology(GOOD, 3.0, steps=1, optimizer=optax.sgd(0.1)),
        "TypeError",
        "`loss` must be a function from points to a scalar; got float",
    ),
    "optimize optimizer": (
        lambda: tp.optimize_topology(GOOD, jnp.sum, steps=1, optimizer="adam"),
        "TypeError",
        "`optimizer` must be a GradientTransformation; got str",
    ),
    "select scores": (
        lambda: tp.select(FUZZY, SCORES[:3], 0.5),
        "ValueError",
        r"`scores` must have shape \(40,\), one entry a sample; got shape \(3,\)",
    ),
    "select scores text": (
        lambda: tp.select(FUZZY, np.full(40, "a"), 0.5),
        "TypeError",
        "`scores` must hold numbers",
    ),
    "select scores nan": (
        lambda: tp.select(FUZZY, np.where(SCORES == 3, np.nan, 0), 0.5),
        "ValueError",
        "`scores` must be finite; got NaN or infinity, first in row 3",
    ),
    "select fuzzy_set": (
        lambda: tp.select(GOOD, SCORES, 0.5),
        "TypeError",
        "`fuzzy_set` must be a FuzzySimplicialSet; got ndarray",
    ),
    "choose_beta groups": (
        lambda: tp.choose_beta(GOOD, FUZZY, SCORES),
        "ValueError",
        "`choose_beta` compares classes or strata; got neither",
    ),
    "choose_beta features": (
        lambda: tp.choose_beta(GOOD[1:], FUZZY, SCORES, labels=SCORES),
        "ValueError",
        "`features` must have a row for each of the 40 samples of the fuzzy set; got 39 rows",
    ),
    "choose_beta strongest": (
        lambda: tp.choose_beta(GOOD, FUZZY, SCORES, labels=SCORES, strongest="high"),
        "TypeError",
        "`strongest` must be a number; got 'high'",
    ),
    "choose_beta several": (
        lambda: tp.choose_beta(GOOD, FUZZY, SCORES, labels=SCORES, strongest=[2.0]),
        "TypeError",
        r"`strongest` must be a number; got \[2.0\]",
    ),
    "choose_beta large beta": (
        lambda: tp.choose_beta(GOOD, FUZZY, SCORES, labels=SCORES, strongest=100.0),
        "ValueError",
        "`strongest` must be between 0 and 50; got strongest=100",
    ),
    "choose_beta large beta of strata": (
        lambda: tp.choose_beta(GOOD, FUZZY, SCORES, strata=SCORES, strongest=100.0),
        "ValueError",
        "`strongest` must be between 0 and 50; got strongest=100",
    ),
    "choose_beta ratio of strata": (
        lambda: tp.choose_beta(GOOD, FUZZY, SCORES, strata=SCORES, ratio=1.5),
        "ValueError",
        r"`ratio` is the fraction .* in \[0, 1\); got 1.5",
    ),
    "choose_beta ratio text of strata": (
        lambda: tp.choose_beta(GOOD, FUZZY, SCORES, strata=SCORES, ratio="0.9"),
        "TypeError",
        "`ratio` must be a number; got '0.9'",
    ),
    "choose_beta labels": (
        lambda: tp.choose_beta(GOOD, FUZZY, SCORES, labels=SCORES[:3]),
        "ValueError",
        r"`labels` must have shape \(40,\)",
    ),
    "select weights": (
        lambda: tp.select(FUZZY, SCORES, 0.5, weights=-SCORES),
        "ValueError",
        "`weights` must not be negative; got -39",
    ),
    "select weights nan": (
        lambda: tp.select(FUZZY, SCORES, 0.5, weights=np.where(SCORES == 3, np.nan, 0)),
        "ValueError",
        "`weights` must be finite; got NaN or infinity, first in row 3",
    ),
    "class_agreement labels": (
        lambda: tp.class_agreement(FUZZY, SCORES[:3]),
        "ValueError",
        r"`labels` must have shape \(40,\)",
    ),
    "choose_agreement_power shape": (
        lambda: tp.choose_agreement_power([[0.5]]),
        "ValueError",
        r"`agreement` must have shape \(n,\), one share a sample; got shape \(1, 1\)",
    ),
    "choose_agreement_power range": (
        lambda: tp.choose_agreement_power([0.5, 1.5]),
        "ValueError",
        "`agreement` must be at most 1; got 1.5",
    ),
    "choose_agreement_power labels": (
        lambda: tp.choose_agreement_power([0.5, 0.5], [1]),
        "ValueError",
        r"`labels` must have shape \(2,\)",
    ),
    "class_agreement fuzzy_set": (
        lambda: tp.class_agreement(GOOD, SCORES),
        "TypeError",
        "`fuzzy_set` must be a FuzzySimplicialSet; got ndarray",
    ),
    "rank agreement_power": (
        lambda: tp.rank(GOOD, 0.5, labels=SCORES, agreement_power=-1.0),
        "ValueError",
        "`agreement_power` must be at least 0; got agreement_power=-1",
    ),
    "write_ranking selection": (
        lambda: write_ranking("ranking.csv", tp.select(FUZZY, SCORES, 0.5)),
        "TypeError",
        "`ranking` must be a Ranking or a Pruning; got Selection. Pass what `rank` or one of",
    ),
    "plot_kept of a baseline": (
        lambda: plot.plot_kept(baselines.random(GOOD, 0.5)),
        "TypeError",
        "`ranking` must be a Ranking; got Pruning. .* A picture needs its embedding",
    ),
    "plot_complexity of a baseline": (
        lambda: plot.plot_complexity(baselines.random(GOOD, 0.5)),
        "TypeError",
        "`ranking` must be a Ranking; got Pruning",
    ),
    "plot_scores of an array": (
        lambda: plot.plot_scores(SCORES),
        "TypeError",
        "`ranking` must be a Ranking; got ndarray. Pass what `rank` returned",
    ),
    "plot_accuracy of a list": (
        lambda: plot.plot_accuracy([SCORES]),
        "TypeError",
        "`curves` must be a Mapping; got list. Pass name: ",
    ),
    "select beta": (
        lambda: tp.select(FUZZY, SCORES, 0.5, beta="2"),
        "TypeError",
        "`beta` must be a number; got '2'",
    ),
}


def run(function):
    """What came of a call: the name of its error and what it said, or ("ok", "")."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = function()
    except Exception as error:
        return type(error).__name__, str(error)
    leaves = [leaf for leaf in jax.tree.leaves(result) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return (
        ("ok", "") if all(bool(jnp.isfinite(leaf).all()) for leaf in leaves) else ("infinite", "")
    )


def limit(points, labels):
    """Ranks twice; a sentence if the answer is not what `rank` promises."""
    one = tp.rank(points, 0.5, labels=labels)
    two = tp.rank(points, 0.5, labels=labels)
    n = len(points)
    if not all((a == b).all() for a, b in zip(one.order, two.order, strict=True)):
        raise AssertionError("two runs differ")
    both = np.concatenate([one.kept, one.removed])
    if sorted(both.tolist()) != list(range(n)) or len(one.kept) != max(1, (n + 1) // 2):
        raise AssertionError(f"kept {one.kept.shape}, removed {one.removed.shape} of {n}")
    return one


def main():
    for function, call in TAKES_POINTS.items():
        for case, (points, error, message) in POINTS.items():
            report(f"{function}: {case}", run(lambda c=call, p=points: c(p)), error, message)
    for case, (call, error, message) in OTHERS.items():
        report(case, run(call), error, message)
    limits = LIMITS if "--all" in sys.argv else {case: LIMITS[case] for case in MAIN_LIMITS}
    for case, points in limits.items():
        # Shapes that nothing else compiles are ranked in one of the two ways.
        if case not in ("2 rows", "one column"):
            report(f"rank: {case}", run(lambda p=points: limit(p, None)), "ok", "")
        if case in ("1 row", "3 rows", "as many rows as neighbors"):
            continue
        labels = np.arange(len(points)) % 3
        report(f"rank with labels: {case}", run(lambda p=points, y=labels: limit(p, y)), "ok", "")


def report(case, got, error, message):
    print(json.dumps({"case": case, "got": got, "expected": [error, message]}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
