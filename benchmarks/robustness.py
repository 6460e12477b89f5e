r"""Claim: what `rank` keeps moves less under noise and new seeds than what other methods keep, and
teaches more where the features are noisy.

    python benchmarks/robustness.py overlap --features netA netB \
        --out benchmarks/results/overlap.jsonl
    python benchmarks/robustness.py deciding --out benchmarks/results/deciding.jsonl
    python benchmarks/robustness.py share --out benchmarks/results/noise_share.jsonl
    python benchmarks/robustness.py communities --out benchmarks/results/communities.jsonl
    python benchmarks/robustness.py transfer | label-noise | imbalance | coarse | homology --out ...

- `overlap`: Jaccard index of the kept set, and Spearman correlation of the orders, with noise on
  the features against none and with one selection seed against another. Nothing is trained.
- `share`: `noise_share` of the features without noise and with it, by which `rank` chooses the
  space.
- `communities`: how many there are of the features, without noise and with it, and how many samples
  are of the largest class of theirs; beside them k-means of the features with as many centers.
- `deciding`: the deciding test: noise x two networks' features x every geometric method, trained.
  Every selection seed has noise of its own, the same for all methods.
- `transfer`: selected by the features of one network, trained on the architecture of the other.
- `label-noise`: 20 % of the training labels wrong, in selection and training.
- `imbalance`: class sizes fall by a factor of 50.
- `coarse`: classes merged into a few, `--superclasses`, so that each is of several kinds; unless
  given, the vehicles and the animals of CIFAR-10.
  With `--noises` the features of these three are noisy besides, as in `deciding`.
- `homology`: Wasserstein distance of H1 diagrams between subsamples of the kept set and of the
  whole, in feature space (mean over subsamples; Chazal et al. 2015).

Every finished line is kept; what is there is not made again.
"""

import argparse
import dataclasses
import functools
import itertools
import sys

import jax
import numpy as np
from harness.data import (
    ARCHITECTURES,
    imbalanced,
    matched,
    merged,
    noisy,
    read_features,
    read_images,
    with_label_noise,
)
from harness.experiment import Experiment, cases
from harness.methods import METHODS
from harness.records import Records, typed
from harness.training import Trainer
from pruning_accuracy import (
    BUDGETS,
    add_common_arguments,
    checked_ratio,
    chosen_methods,
    chosen_networks,
    run_all,
)
from scipy.stats import spearmanr

from topoprune_jax import (
    communities,
    fuzzy_simplicial_set,
    kept_count,
    kmeans_strata,
    knn_graph,
    modularity,
    noise_share,
    spectral_embedding,
    vietoris_rips,
    wasserstein_distance,
)
from topoprune_jax._provenance import provenance

NOISES = [0.05, 0.1, 0.25, 0.5, 1.0]
_DECIDING = [0.25, 0.5, 1.0]
_VEHICLE_OR_ANIMAL = [0, 0, 1, 1, 1, 1, 1, 1, 0, 0]
_SUBSAMPLE, _N_SUBSAMPLES = 256, 10


def looking_methods(names):
    """Those that look at features, of the methods asked for."""
    return [name for name in chosen_methods(names) if METHODS[name].features]


read_images = functools.cache(read_images)


def data(arguments, source):
    return matched(read_images(arguments.images), read_features(source), arguments.evaluate)


def ranks(order):
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def jaccard(first, second):
    return len(np.intersect1d(first, second)) / len(np.union1d(first, second))


def overlap(arguments, records, how):
    """Kept sets and orders against those of clean features, and against other seeds'."""
    for source, name in itertools.product(arguments.features, looking_methods(arguments.methods)):
        images, features = data(arguments, source)
        n = len(images.train_y)
        m = kept_count(n, arguments.ratio)
        method = METHODS[name]

        def order(noise, seed, method=method, features=features, y=images.train_y):
            return method.order(noisy(features, noise, seed), arguments.ratio, y, seed)

        seeds = arguments.selection_seeds
        base = {"method": name, "features": features.name, "ratio": arguments.ratio, "n": n}
        wanted = [base | {"noise": noise, "seeds": [seeds[0]] * 2} for noise in NOISES]
        pairs = itertools.combinations(seeds, 2)
        wanted += [base | {"noise": 0.0, "seeds": list(pair)} for pair in pairs]
        missing = [settings for settings in wanted if records.find(settings) is None]
        clean = {}
        for settings in missing:
            first, second = settings["seeds"]
            for seed in {first} | ({second} if settings["noise"] == 0 else set()):
                if seed not in clean:
                    clean[seed] = order(0.0, seed)
            left = clean[first]
            right = clean[second] if settings["noise"] == 0 else order(settings["noise"], first)
            outcome = {
                "jaccard": jaccard(left[:m], right[:m]),
                "spearman": float(spearmanr(ranks(left), ranks(right)).statistic),
            }
            records.add(settings, outcome, how)
            print(name, source, settings["noise"], settings["seeds"], outcome, flush=True)


def share(arguments, records, how):
    """How much of the features is taken for noise."""
    for source, seed in itertools.product(arguments.features, arguments.selection_seeds):
        _, features = data(arguments, source)
        for sigma in arguments.noises or [0.0, *NOISES]:
            settings = {"features": features.name, "n": len(features.values)}
            settings |= {"noise": sigma, "selection_seed": seed}
            if records.find(settings) is None:
                found = float(noise_share(noisy(features, sigma, seed).values))
                records.add(settings, {"share": found}, how)
                print(source, sigma, seed, found, flush=True)


def found_communities(arguments, records, how):
    """How many communities there are, and how many samples are of their majority's class."""
    for source, sigma in itertools.product(arguments.features, arguments.noises or [0.0, *NOISES]):
        images, features = data(arguments, source)
        settings = {"features": features.name, "n": len(features.values), "noise": sigma}
        if records.find(settings) is not None:
            continue
        x = noisy(features, sigma, 0).values
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        fuzzy_set = fuzzy_simplicial_set(knn_graph(x, n_neighbors=15))
        options = {"rounds": 12, "tolerance": 0.01, "by_component": True}  # those of `rank`
        z = spectral_embedding(fuzzy_set, 16, **options)
        key = jax.random.split(jax.random.key(0), 3)[2]
        groups = np.asarray(communities(fuzzy_set, z, key=key))
        number = int(groups.max()) + 1
        means = np.asarray(kmeans_strata(x, number, key=key))
        outcome = {
            "communities": number,
            "pure": pure(groups, images.train_y),
            "modularity": float(modularity(fuzzy_set, groups)),
            "k_means_pure": pure(means, images.train_y),
            "k_means_modularity": float(modularity(fuzzy_set, means)),
        }
        records.add(settings, outcome, how)
        print(source, sigma, outcome, flush=True)


def pure(groups, labels):
    """The fraction of the samples that are of the largest class of their group."""
    largest = [np.bincount(labels[groups == group]).max() for group in np.unique(groups)]
    return float(np.sum(largest) / len(labels))


def homology(arguments, records, how):
    """How far the loops of the kept set are from those of the whole."""
    for source, name in itertools.product(arguments.features, chosen_methods(arguments.methods)):
        images, features = data(arguments, source)
        if METHODS[name].dynamics and features.logits is None:
            continue
        n = len(images.train_y)
        settings = {"method": name, "features": features.name, "ratio": arguments.ratio, "n": n}
        if records.find(settings) is not None:
            continue
        order = METHODS[name].order(features, arguments.ratio, images.train_y, 0)
        kept = order[: kept_count(len(order), arguments.ratio)]
        size = min(_SUBSAMPLE, len(kept))
        x = features.values / np.linalg.norm(features.values, axis=1, keepdims=True)
        generator = np.random.default_rng(0)

        def loops(rows, x=x, size=size, generator=generator):
            return vietoris_rips(x[generator.choice(rows, size, replace=False)], dims=(1,))

        everyone = np.arange(len(x))
        several = {"kept": [], "whole": []}
        for _ in range(_N_SUBSAMPLES):
            whole, again, some = loops(everyone), loops(everyone), loops(kept)
            several["kept"].append(wasserstein_distance(whole, some, dim=1))
            # What the drawing of subsamples alone amounts to.
            several["whole"].append(wasserstein_distance(whole, again, dim=1))
        records.add(settings, several, how)
        means = {name: float(np.mean(values)) for name, values in several.items()}
        print(name, source, means, flush=True)


def trained(arguments, records, command, several, change=None):
    """Trains the cases whose data are changed in one way, one network's features at a time."""
    experiment = None
    for source in arguments.features:
        images, features = data(arguments, source)
        if change is not None:
            images, features = change(images, features)
        if experiment is None:  # whatever the features, the images are the same
            experiment = Experiment(images, Trainer, BUDGETS[arguments.full], records, command)
        own = [case for case in several if case.features == features.name]
        for draw in sorted({(case.noise, case.selection_seed) for case in own}):
            given = {features.name: noisy(features, *draw)}
            drawn = [case for case in own if (case.noise, case.selection_seed) == draw]
            run_all(experiment, drawn, given)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    tests = [
        "overlap",
        "deciding",
        "transfer",
        "label-noise",
        "imbalance",
        "coarse",
        "homology",
        "share",
        "communities",
    ]
    parser.add_argument("test", choices=tests)
    add_common_arguments(parser)
    parser.add_argument("--ratio", type=checked_ratio, default=0.9)
    parser.add_argument("--noises", nargs="+", type=float)
    parser.add_argument("--superclasses", nargs="+", type=int, default=_VEHICLE_OR_ANIMAL)
    parser.set_defaults(features=["netA", "netB"])
    arguments = parser.parse_args()
    records = Records(arguments.out)
    command = typed("robustness.py")
    untrained = {"overlap": overlap, "homology": homology, "share": share}
    untrained["communities"] = found_communities
    if arguments.test in untrained:
        untrained[arguments.test](arguments, records, provenance(command))
        return
    methods = chosen_methods(arguments.methods)
    if arguments.test in ("deciding", "label-noise", "coarse"):
        # The logits at hand come from training on clean images and their own labels.
        methods = [name for name in methods if not METHODS[name].dynamics]
    several = cases(
        methods,
        [read_features(source).name for source in arguments.features],
        [arguments.ratio],
        chosen_networks(arguments),
        arguments.selection_seeds,
        arguments.training_seeds,
        evaluated_on=arguments.evaluate,
    )
    noises = arguments.noises or (_DECIDING if arguments.test == "deciding" else [0.0])
    several = [dataclasses.replace(case, noise=sigma) for sigma in noises for case in several]
    if arguments.test == "deciding":
        trained(arguments, records, command, several)
    elif arguments.test == "transfer":
        if set(arguments.features) - set(ARCHITECTURES):
            sys.exit(
                f"`transfer` knows the architectures of {', '.join(ARCHITECTURES)} only; got "
                f"{', '.join(arguments.features)}. Use pruning_accuracy.py with --networks."
            )
        other = dict(zip(ARCHITECTURES, reversed(ARCHITECTURES.values()), strict=True))
        several = [
            dataclasses.replace(case, network=network[case.features])
            for case in several
            for network in (ARCHITECTURES, other)
        ]
        trained(arguments, records, command, list(dict.fromkeys(several)))
    elif arguments.test == "label-noise":
        several = [dataclasses.replace(case, label_noise=0.2) for case in several]
        trained(arguments, records, command, several, lambda x, f: (with_label_noise(x, 0.2, 0), f))
    elif arguments.test == "coarse":
        classes = arguments.superclasses
        trained(arguments, records, command, several, lambda x, f: (merged(x, classes), f))
    else:
        several = [dataclasses.replace(case, imbalance=50.0) for case in several]
        trained(arguments, records, command, several, lambda x, f: imbalanced(x, f, 50.0, 0))


if __name__ == "__main__":
    main()
