r"""Claim: the precision of its products hardly matters to a search that measures what it found.

    python benchmarks/bench_precision.py $TOPOPRUNE_DATA/cifar10_netA.npz::train_f \
        $TOPOPRUNE_DATA/cifar10_netB.npz::train_f \
        $TOPOPRUNE_DATA/banking77_minilm.npz::x_train \
        --out benchmarks/results/precision.json
    python benchmarks/precision_table.py

Rows of unit length, centered as the search does; `--queries` of them, evenly spaced, are looked up
among all. Factors are rounded to the bits that such a unit of an accelerator has (bfloat16 8, tf32
11) and their products summed in float32, on any machine. Recall is the share of the k nearest, by
distances in float64, that are also among the k least values of |y|^2 - 2 x . y, or among the k + 9
that the search would measure. The search of an accelerator takes three products of bfloat16 halves,
because then it can prove of nearly all samples that nothing is missing.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from topoprune_jax._graph_exact import SAMPLE, SPARE, middle
from topoprune_jax._provenance import provenance
from topoprune_jax.io import read_array


def rounded(x, bits):
    """With so many bits of the mantissa, the leading one counted."""
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits - 1)


def product(x, y):
    return jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)


def of_halves(x, y):
    """h h + h l + l h, where x is about h + l and both are bfloat16."""
    (xh, xl), (yh, yl) = ((h := rounded(z, 8), rounded(z - h, 8)) for z in (x, y))
    return product(xh, yh) + (product(xh, yl) + product(xl, yh))


WAYS = {
    "bfloat16": lambda x, y: product(rounded(x, 8), rounded(y, 8)),
    "tf32": lambda x, y: product(rounded(x, 11), rounded(y, 11)),
    "three of bfloat16 halves": of_halves,
    "float32": product,
}


def recalls(features, k, n_queries):
    """By way of multiplying: the recall among the k least, and among those that are measured."""
    x = np.asarray(features, np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    n = len(x)
    queries = np.linspace(0, n - 1, min(n, n_queries)).astype(int)
    square = (x * x).sum(axis=1)
    single = jnp.asarray(x, jnp.float32)
    centered = single - middle(single[:: -(-n // SAMPLE)])[None, :]
    length = jnp.sum(centered * centered, axis=1)
    scores = {
        way: jax.jit(lambda some, way=multiply: length[None, :] - 2 * way(some, centered))
        for way, multiply in WAYS.items()
    }
    found = {way: [0, 0] for way in WAYS}
    for some in np.array_split(queries, -(-len(queries) // 250)):
        exact = square[None, :] - 2 * x[some] @ x.T
        exact[np.arange(len(some)), some] = np.inf
        kth = np.partition(exact, k - 1, axis=1)[:, k - 1 : k]
        is_true = exact <= kth + 1e-12  # all that tie
        for way, score in scores.items():
            values = np.array(score(centered[some]))
            values[np.arange(len(some)), some] = np.inf
            order = np.argpartition(values, k + SPARE, axis=1)[:, : k + SPARE + 1]
            own = np.take_along_axis(values, order, axis=1)
            order = np.take_along_axis(order, np.argsort(own, axis=1), axis=1)
            hits = np.take_along_axis(is_true, order, axis=1)
            found[way][0] += np.minimum(hits[:, :k].sum(axis=1), k).sum()
            found[way][1] += np.minimum(hits.sum(axis=1), k).sum()
    total = k * len(queries)
    return {way: [float(count / total) for count in counts] for way, counts in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("features", nargs="+")
    parser.add_argument("--neighbors", type=int, default=15)
    parser.add_argument("--queries", type=int, default=5000, help="evenly spaced")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    words = [
        f"$TOPOPRUNE_DATA/{Path(word).name}" if word.startswith("/") else word
        for word in sys.argv[1:]
    ]
    record = provenance(" ".join(["python benchmarks/bench_precision.py", *words]))
    record |= {"neighbors": arguments.neighbors, "queries": arguments.queries, "sets": {}}
    for name in arguments.features:
        features = read_array(name)
        stem = Path(name.split("::")[0]).stem
        record["sets"][stem] = {
            "n": len(features),
            "d": features.shape[1],
            "recall": recalls(features, arguments.neighbors, arguments.queries),
        }
        print(stem, record["sets"][stem], flush=True)
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
