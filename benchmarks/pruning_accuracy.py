r"""Claim: trained from scratch on a tenth of CIFAR-10, what `rank` keeps teaches more than what
random and the field's other methods keep.

    python benchmarks/pruning_accuracy.py --methods all --features netA netB --ratios 0.9 \
        --networks resnet-small vgg-small --selection-seeds 0 1 2 --training-seeds 0 1 \
        --out benchmarks/results/accuracy_validation.jsonl

Every method gets the same steps of the same program; only the kept indices differ. Settings are
chosen on validation images, a tenth of the training images, which neither selection nor training
sees (the networks behind netA and netB did); `--evaluate test` is for the one confirmation. Each
finished run is a line of the JSONL file, and a run that is there is not made again. Two methods, or
seeds, that keep the same set share its training.
`--full a` and `--full b` are the field's protocols with ResNet-18, for GPUs.
"""

import argparse
import sys
import time

from harness.data import matched, read_features, read_images
from harness.experiment import Experiment, cases
from harness.methods import COMPARED, METHODS, PARTS
from harness.networks import NETWORKS
from harness.records import Records, typed
from harness.training import CPU, PROTOCOL_A, Trainer, protocol_b

from topoprune_jax._checks import check_ratio

BUDGETS = {
    None: lambda n_kept, ratio: CPU,
    "a": lambda n_kept, ratio: PROTOCOL_A,
    "b": protocol_b,
}


def chosen_methods(names):
    """The methods named; `all` for every one, `parts` for `rank` with parts left out."""
    groups = {"all": COMPARED, "parts": PARTS}
    names = [method for name in names for method in groups.get(name, [name])]
    if unknown := [name for name in names if name not in METHODS]:
        sys.exit(f"Methods are {', '.join(METHODS)}; got {', '.join(unknown)}.")
    return names


def add_common_arguments(parser):
    parser.add_argument("--images", default="cifar10", help="cifar10, a .npz, or tfds:NAME")
    parser.add_argument("--features", nargs="+", default=["netA"], help="netA, netB, or files")
    parser.add_argument("--methods", nargs="+", default=["all"])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="resnet-small unless given")
    parser.add_argument("--selection-seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--training-seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--evaluate", choices=["validation", "test"], default="validation")
    parser.add_argument(
        "--full", choices=["a", "b"], help="the field's protocols, for GPUs, with resnet-18"
    )
    parser.add_argument("--out", required=True, help="JSONL file of runs, continued if it is there")


def checked_ratio(text):
    """A ratio for argparse."""
    try:
        return check_ratio(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def chosen_networks(arguments):
    return arguments.networks or (["resnet-18"] if arguments.full else ["resnet-small"])


def say(line):
    """One line that is written over, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def run_all(experiment, several, features):
    """Runs the cases that have what they need, and says how far it is."""
    several = [
        case
        for case in several
        if features[case.features].logits is not None or not METHODS[case.method].dynamics
    ]
    for done, case in enumerate(several, 1):
        started = time.perf_counter()
        run = experiment.run(case, features[case.features], say)
        say("")
        outcome = run["outcome"]
        print(
            f"{done}/{len(several)} {case.network} {case.features} {case.ratio:g} {case.method} "
            f"seeds {case.selection_seed} {case.training_seed}: last {100 * outcome['last']:.2f} "
            f"best {100 * outcome['best']:.2f}, selection {outcome['selection_seconds']:.1f} s, "
            f"in all {time.perf_counter() - started:.0f} s",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_common_arguments(parser)
    parser.add_argument("--ratios", nargs="+", type=checked_ratio, default=[0.9])
    arguments = parser.parse_args()
    methods = chosen_methods(arguments.methods)
    images = read_images(arguments.images)
    features = {}
    for source in arguments.features:
        evaluated, own = matched(images, read_features(source), arguments.evaluate)
        features[own.name] = own
    experiment = Experiment(
        evaluated,
        Trainer,
        BUDGETS[arguments.full],
        Records(arguments.out),
        typed("pruning_accuracy.py"),
    )
    several = cases(
        methods,
        features,
        arguments.ratios,
        chosen_networks(arguments),
        arguments.selection_seeds,
        arguments.training_seeds,
        evaluated_on=arguments.evaluate,
    )
    run_all(experiment, several, features)


if __name__ == "__main__":
    main()
