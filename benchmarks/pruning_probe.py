r"""Claim: on frozen features a probe learns more from what `rank` keeps than from random rows.

    python benchmarks/pruning_probe.py $TOPOPRUNE_DATA/banking77_minilm.npz --ratios 0.9 \
        --out benchmarks/results/probe_validation.jsonl

A linear probe and a small network are trained on the kept rows only. An .npz with `x_train`,
`y_train`, `x_test` and `y_test` holds the features. Minutes on two cores. Whether probes rank
methods as training from scratch does is a question of its own: compare with pruning_accuracy.py.
"""

import argparse
from pathlib import Path

import numpy as np
from harness.data import Features, Images, matched, names_in, read, read_logits
from harness.experiment import Experiment, cases
from harness.probe import Probe, ProbeBudget
from harness.records import Records, typed
from pruning_accuracy import checked_ratio, chosen_methods, run_all

NAMES = ("x_train", "y_train", "x_test", "y_test")
PROBES = ["linear-probe", "mlp-probe"]
OTHER_NAMES = ("train_f", "train_y", "test_f", "test_y")


def read_frozen(path):
    """The features as the samples themselves, and as what the methods look at."""
    names = OTHER_NAMES if OTHER_NAMES[0] in names_in(path) else NAMES
    x, y, test_x, test_y = (read(path, name) for name in names)
    x, test_x = x.astype(np.float32), test_x.astype(np.float32)
    name = Path(path).stem
    samples = Images(name, x, y.astype(np.int32), test_x, test_y.astype(np.int32))
    return samples, Features(name, x, read_logits(path))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("features", nargs="+", help=".npz files")
    parser.add_argument("--methods", nargs="+", default=["all"])
    parser.add_argument("--ratios", nargs="+", type=checked_ratio, default=[0.9])
    parser.add_argument("--networks", nargs="+", choices=PROBES, default=PROBES)
    parser.add_argument("--selection-seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--training-seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--evaluate", choices=["validation", "test"], default="validation")
    parser.add_argument("--out", required=True, help="JSONL file of runs, continued if it is there")
    arguments = parser.parse_args()
    methods = chosen_methods(arguments.methods)
    records = Records(arguments.out)
    command = typed("pruning_probe.py")
    for path in arguments.features:
        samples, features = read_frozen(path)
        samples, features = matched(samples, features, arguments.evaluate)
        several = cases(
            methods,
            [features.name],
            arguments.ratios,
            arguments.networks,
            arguments.selection_seeds,
            arguments.training_seeds,
            evaluated_on=arguments.evaluate,
        )
        experiment = Experiment(samples, Probe, lambda *_: ProbeBudget(), records, command)
        run_all(experiment, several, {features.name: features})


if __name__ == "__main__":
    main()
