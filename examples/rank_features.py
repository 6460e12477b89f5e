"""Ranks a file of features and saves which samples to keep, for training on a fraction of them.

python examples/rank_features.py features.npy --ratio 0.9
python examples/rank_features.py data.npz::train_f --labels data.npz::train_y --out kept.npy
"""

import argparse
import sys

import jax
import numpy as np

import topoprune_jax
from topoprune_jax.cli import StageTimer
from topoprune_jax.io import read_array


def main() -> None:
    parser = argparse.ArgumentParser(description="Rank features and save the indices to keep.")
    parser.add_argument("features", help="a .npy or .npz file; PATH::NAME names one array")
    parser.add_argument("--ratio", type=float, default=0.9, help="fraction to remove (0.9)")
    parser.add_argument("--labels", help="class labels, one a sample, in the same way")
    parser.add_argument("--out", default="kept.npy", help="where to save the indices (kept.npy)")
    arguments = parser.parse_args()

    with StageTimer(bar=sys.stderr.isatty()) as timer:
        with timer.stage("read"):
            features = read_array(arguments.features)
            labels = None if arguments.labels is None else read_array(arguments.labels)
        ranking = topoprune_jax.rank(
            features, arguments.ratio, labels=labels, progress=timer, key=jax.random.key(0)
        )
        np.save(arguments.out, np.asarray(ranking.kept))

    print(timer.table())
    print(f"Kept {len(ranking.kept)} of {len(features)} samples: {arguments.out}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"Error: {error}")
